/*
 * kernels.c
 *	  Micro-benchmark of the distance kernels.
 *
 *	  kernels [kernel [set]]		only kernels, sets whose name contains the word
 *
 * A kernel compares one query with vectors that lie one after the other, all
 * over a working set that fits the L1 cache, the L2 cache, the L3 cache (often),
 * or none.  The best of several runs counts, in CPU time and the fixed price of
 * a call included.  At the end: how near to the speed of merely reading the memory
 * 768-d squared L2 gets, and whether any kernel of the dispatched set is slower
 * than the portable baseline's.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "distance/distance.h"

#define lengthof(array) (sizeof(array) / sizeof((array)[0]))

typedef struct Level
{
	const char *name;
	size_t		bytes;
} Level;

static const Level levels[] = {
	{"L1", 24 << 10}, {"L2", 512 << 10}, {"L3", 8 << 20}, {"memory", 192 << 20}
};

#define LEVELS lengthof(levels)
#define LEVEL_BEYOND_L2 2		/* the first that does not fit L2 */

static const size_t dims[] = {128, 384, 768, 1536, 3072};

#define MAX_DIM 3072
#define BATCH 32
/* What lies beside a code in a row of an index: a TID and a length. */
#define CODE_EXTRA 12

/* One measurement: which vectors to compare the query with. */
typedef struct Run
{
	const AnnKernels *set;
	size_t		dim;
	const char *data;
	size_t		size;			/* bytes of a vector */
	size_t		count;			/* vectors */
} Run;

static char *data;
static char query[MAX_DIM * sizeof(float)];
static volatile double sink;

/*
 * The loops work on a copy of *run that the compiler keeps in registers: what
 * they load themselves delays short vectors that stream from memory.
 */
#define EACH(call) \
	for (size_t i = 0; i < run.count; i++) \
	{ \
		const void *x = run.data + i * run.size; \
		sum += call; \
	}

#define RUNNER(kernel, call) \
	static void \
	Run_##kernel(const Run *arg) \
	{ \
		const Run	run = *arg; \
		const void *q = query; \
		double		sum = 0; \
		EACH(call) \
		sink = sum; \
	}

RUNNER(l2sq_f32, run.set->l2sq_f32(q, x, run.dim))
RUNNER(ip_f32, run.set->ip_f32(q, x, run.dim))
RUNNER(l1_f32, run.set->l1_f32(q, x, run.dim))
RUNNER(cosine_f32, run.set->cosine_f32(q, x, run.dim).ab)
RUNNER(l2sq_f16, run.set->l2sq_f16(q, x, run.dim))
RUNNER(ip_f16, run.set->ip_f16(q, x, run.dim))
RUNNER(l1_f16, run.set->l1_f16(q, x, run.dim))
RUNNER(cosine_f16, run.set->cosine_f16(q, x, run.dim).ab)
RUNNER(l2sq_f32_f16, run.set->l2sq_f32_f16(q, x, run.dim))
RUNNER(ip_f32_f16, run.set->ip_f32_f16(q, x, run.dim))
RUNNER(l2sq_f32_sq8, run.set->l2sq_f32_sq8(q, x, -1.0f, 0.01f, run.dim))
RUNNER(ip_f32_u8, run.set->ip_f32_u8(q, x, run.dim))
RUNNER(ip_i8, run.set->ip_i8(q, x, run.dim))
RUNNER(hamming, run.set->hamming(q, x, run.dim / 8))
RUNNER(code_ip, run.set->code_ip(x, 1, run.dim, q))

static void
Run_jaccard(const Run *arg)
{
	const Run	run = *arg;
	const void *q = query;
	uint64_t	both;
	uint64_t	either;
	uint64_t	sum = 0;

	for (size_t i = 0; i < run.count; i++)
	{
		run.set->jaccard(q, (const uint8_t *) run.data + i * run.size, run.dim / 8, &both, &either);
		sum += both + either;
	}
	sink = (double) sum;
}

static void
RunCodes(const Run *arg, int planes)
{
	const Run	run = *arg;
	int32_t		sums[BATCH];
	double		sum = 0;

	for (size_t i = 0; i + BATCH <= run.count; i += BATCH)
	{
		run.set->code_ip_batch((const uint8_t *) run.data + i * run.size, run.size, BATCH,
								planes, run.dim, (const int8_t *) query, sums);
		sum += sums[0];
	}
	sink = sum;
}

static void
Run_code_ip_batch(const Run *run)
{
	RunCodes(run, 1);
}

static void
Run_code_ip_batch_2(const Run *run)
{
	RunCodes(run, 2);
}

static void
Run_f16_to_f32(const Run *arg)
{
	const Run	run = *arg;
	static float result[MAX_DIM];

	for (size_t i = 0; i < run.count; i++)
		run.set->f16_to_f32((const void *) (run.data + i * run.size), result, run.dim);
	sink = result[0];
}

static void
Run_f32_to_f16(const Run *arg)
{
	const Run	run = *arg;
	static AnnHalf result[MAX_DIM];

	for (size_t i = 0; i < run.count; i++)
		run.set->f32_to_f16((const void *) (run.data + i * run.size), result, run.dim);
	sink = result[0];
}

/* Of the largest power of two that fits the dimension, in place. */
static void
Run_fht_f32(const Run *arg)
{
	const Run	run = *arg;
	static float x[MAX_DIM];
	size_t		n = 1;

	while (2 * n <= run.dim)
		n *= 2;
	for (size_t i = 0; i < run.count; i++)
		run.set->fht_f32(x, n);
	sink = x[0];
}

/* How a kernel's vectors are stored. */
typedef enum Storage
{
	FLOATS,
	HALVES,
	BYTES,
	BITS,
	CODES,
	CODES_2
} Storage;

typedef struct Kernel
{
	const char *name;
	void		(*run) (const Run *run);
	Storage		storage;
	bool		batch;			/* works on BATCH vectors a call */
} Kernel;

static const Kernel kernels[] = {
	{"l2sq_f32", Run_l2sq_f32, FLOATS},
	{"ip_f32", Run_ip_f32, FLOATS},
	{"l1_f32", Run_l1_f32, FLOATS},
	{"cosine_f32", Run_cosine_f32, FLOATS},
	{"l2sq_f16", Run_l2sq_f16, HALVES},
	{"ip_f16", Run_ip_f16, HALVES},
	{"l1_f16", Run_l1_f16, HALVES},
	{"cosine_f16", Run_cosine_f16, HALVES},
	{"l2sq_f32_f16", Run_l2sq_f32_f16, HALVES},
	{"ip_f32_f16", Run_ip_f32_f16, HALVES},
	{"l2sq_f32_sq8", Run_l2sq_f32_sq8, BYTES},
	{"ip_f32_u8", Run_ip_f32_u8, BYTES},
	{"ip_i8", Run_ip_i8, BYTES},
	{"f16_to_f32", Run_f16_to_f32, HALVES},
	{"f32_to_f16", Run_f32_to_f16, FLOATS},
	{"hamming", Run_hamming, BITS},
	{"jaccard", Run_jaccard, BITS},
	{"code_ip", Run_code_ip, CODES},
	{"code_ip_batch", Run_code_ip_batch, CODES, true},
	{"code_ip_batch/2", Run_code_ip_batch_2, CODES_2, true},
	{"fht_f32", Run_fht_f32, FLOATS},
};

static size_t
VectorBytes(Storage storage, size_t dim)
{
	switch (storage)
	{
		case FLOATS:
			return dim * sizeof(float);
		case HALVES:
			return dim * sizeof(AnnHalf);
		case BYTES:
			return dim;
		case BITS:
			return dim / 8;
		case CODES:
			return dim / 8 + CODE_EXTRA;
		case CODES_2:
			return 2 * dim / 8 + CODE_EXTRA;
	}
	return 0;
}

static void
FillData(Storage storage)
{
	size_t		bytes = levels[LEVELS - 1].bytes;
	uint64_t	state = 88172645463325252;

	for (size_t i = 0; i < bytes / sizeof(float); i++)
	{
		float		x;
		uint32_t	bits;

		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		x = (float) (state >> 40) * 0x1p-23f - 1;
		bits = storage == HALVES ? (uint32_t) state & 0xbbffbbff : (uint32_t) state;
		memcpy(data + i * sizeof(float), storage == FLOATS ? (void *) &x : (void *) &bits, sizeof(float));
	}
}

/* The query has the type of the vectors, unless the kernel is a mixed one. */
static void
FillQuery(const char *kernel)
{
	float		q[MAX_DIM];

	if (strstr(kernel, "f32_") == NULL)
	{
		memcpy(query, data, sizeof(query));
		return;
	}
	for (size_t i = 0; i < MAX_DIM; i++)
		q[i] = (float) sin((double) i);
	memcpy(query, q, sizeof(query));
}

static double
Now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double) t.tv_sec * 1e9 + (double) t.tv_nsec;
}

/* Nanoseconds for one run: the best of two to five, each of at least 0.5 ms. */
static double
Measure(void (*function) (const Run *run), const Run *run)
{
	double		best = INFINITY;
	double		total = 0;
	int			repeat = 1;

	for (int round = 0; round < 2 || (round < 5 && total < 5e7);)
	{
		double		start = Now();
		double		elapsed;

		for (int i = 0; i < repeat; i++)
			function(run);
		elapsed = Now() - start;
		if (elapsed < 5e5 && repeat < 1 << 24)
		{
			repeat *= elapsed < 5e4 ? 8 : 2;
			continue;
		}
		best = fmin(best, elapsed / repeat);
		total += elapsed;
		round++;
	}
	return best;
}

/*
 * Reading and nothing else: four independent ORs of the widest vectors, which
 * the compiler splits where the CPU has narrower ones.
 */
typedef uint64_t Wide __attribute__((vector_size(64), aligned(64), may_alias));

#define READ_LOOP(name, attribute) \
	static attribute void \
	name(const Run *run) \
	{ \
		const Wide *p = (const void *) run->data; \
		const Wide *end = p + run->count * run->size / sizeof(Wide); \
		Wide		a = {0}; \
		Wide		b = {0}; \
		Wide		c = {0}; \
		Wide		d = {0}; \
		for (; p + 4 <= end; p += 4) \
		{ \
			a |= p[0]; \
			b |= p[1]; \
			c |= p[2]; \
			d |= p[3]; \
		} \
		a |= b | c | d; \
		sink = (double) (a[0] | a[1] | a[2] | a[3] | a[4] | a[5] | a[6] | a[7]); \
	}

READ_LOOP(ReadPlain,)
#if defined(__x86_64__)
READ_LOOP(ReadAvx2, __attribute__((target("avx2"))))
READ_LOOP(ReadAvx512, __attribute__((target("avx512f"))))
#endif

static void
MeasureReading(double *gb_per_s)
{
	for (size_t level = 0; level < LEVELS; level++)
	{
		Run			run = {.data = data, .size = 64, .count = levels[level].bytes / 64};
		double		best = Measure(ReadPlain, &run);

#if defined(__x86_64__)
		if (__builtin_cpu_supports("avx2"))
			best = fmin(best, Measure(ReadAvx2, &run));
		if (__builtin_cpu_supports("avx512f"))
			best = fmin(best, Measure(ReadAvx512, &run));
#endif
		gb_per_s[level] = (double) levels[level].bytes / best;
	}
}

/* What is left of the results for the verdicts. */
static double l2sq_768[LEVELS];
static int	slower;

/* Whether the last set is slower than the baseline, when asked again too. */
static bool
IsSlower(const Kernel *kernel, const Run *run, const AnnKernels *best, const AnnKernels *baseline)
{
	Run			best_run = *run;
	Run			baseline_run = *run;
	double		best_ns = INFINITY;
	double		baseline_ns = INFINITY;

	best_run.set = best;
	baseline_run.set = baseline;
	for (int round = 0; round < 5; round++)
	{
		best_ns = fmin(best_ns, Measure(kernel->run, &best_run));
		baseline_ns = fmin(baseline_ns, Measure(kernel->run, &baseline_run));
		if (best_ns <= 1.05 * baseline_ns)
			return false;
	}
	return true;
}

/* Measures one kernel and dimension for all sets, and prints a line for each. */
static void
BenchKernel(const Kernel *kernel, size_t dim, const AnnKernels *const *sets, int nsets, const char *only)
{
	size_t		size = VectorBytes(kernel->storage, dim);
	double		ns[4][LEVELS];
	int			baseline = nsets > 1 ? 1 : 0;
	int			nlevels = kernel->run == Run_fht_f32 ? 1 : LEVELS;

	for (int s = 0; s < nsets; s++)
	{
		bool		is_slower = false;

		if (only && !strstr(sets[s]->name, only))
			continue;
		printf("%-15s %5zu  %-7s", kernel->name, dim, sets[s]->name);
		for (int level = 0; level < nlevels; level++)
		{
			size_t		count = levels[level].bytes / size;
			Run			run = {sets[s], dim, data, size, kernel->batch ? count / BATCH * BATCH : count};

			if (run.count == 0)
				run.count = kernel->batch ? BATCH : 1;
			ns[s][level] = Measure(kernel->run, &run) / (double) run.count;
			printf(" %9.1f %6.1f", ns[s][level], (double) size / ns[s][level]);
			if (kernel->run == Run_l2sq_f32 && dim == 768 && s == nsets - 1)
				l2sq_768[level] = (double) size / ns[s][level];
			if (!only && s == nsets - 1 && ns[s][level] > 1.05 * ns[baseline][level])
				is_slower |= IsSlower(kernel, &run, sets[s], sets[baseline]);
		}
		if (!only && s == nsets - 1)
			printf("  %s", is_slower ? "SLOWER than the baseline" : "ok");
		slower += is_slower;
		printf("\n");
		fflush(stdout);
	}
}

int
main(int argc, char **argv)
{
	const char *only_kernel = argc > 1 ? argv[1] : NULL;
	const char *only_set = argc > 2 ? argv[2] : NULL;
	const AnnKernels *const *sets;
	int			nsets = AnnDistanceTables(&sets);
	Storage		filled = FLOATS;
	double		reading[LEVELS];

	data = mmap(NULL, levels[LEVELS - 1].bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (data == MAP_FAILED)
	{
		perror("mmap");
		return 1;
	}
	madvise(data, levels[LEVELS - 1].bytes, MADV_HUGEPAGE);
	FillData(filled);
	MeasureReading(reading);

	printf("ns per vector and GB/s, one core; working set of");
	for (size_t level = 0; level < LEVELS; level++)
		printf(" %zu kB (%s)%s", levels[level].bytes >> 10, levels[level].name, level + 1 < LEVELS ? "," : "\n");
	printf("%-15s %5s  %-7s", "kernel", "dim", "set");
	for (size_t level = 0; level < LEVELS; level++)
		printf(" %9s %6s", levels[level].name, "GB/s");
	printf("\n%-30s", "reading only");
	for (size_t level = 0; level < LEVELS; level++)
		printf(" %9s %6.1f", "", reading[level]);
	printf("\n");

	for (size_t k = 0; k < lengthof(kernels); k++)
	{
		if (only_kernel && !strstr(kernels[k].name, only_kernel))
			continue;
		if (kernels[k].storage != filled)
			FillData(filled = kernels[k].storage);
		FillQuery(kernels[k].name);
		for (size_t d = 0; d < lengthof(dims); d++)
			BenchKernel(&kernels[k], dims[d], sets, nsets, only_set);
	}

	if (l2sq_768[0] > 0)
		for (size_t level = LEVEL_BEYOND_L2; level < LEVELS; level++)
			printf("768-d l2sq_f32 out of %s: %.1f GB/s, reading only %.1f GB/s, ratio %.2f: %s\n",
				   levels[level].name, l2sq_768[level], reading[level], reading[level] / l2sq_768[level],
				   reading[level] <= 1.5 * l2sq_768[level] ? "within 1.5" : "NOT within 1.5");
	if (!only_set)
		printf("kernel and dimension pairs where \"%s\" is more than 5 %% slower than the baseline \"%s\": %d\n",
			   sets[nsets - 1]->name, sets[nsets > 1 ? 1 : 0]->name, slower);
	return 0;
}
