/*
 * quantize.c
 *	  Speed of the quantizer, and the error of its estimates.
 *
 * quantize			ns of CPU time per operation, at several dimensions
 * quantize FILE	also the error on real vectors: a .npy file of float4 rows,
 *					the first 10,000 against the next 100 as queries
 */
#define _POSIX_C_SOURCE 199309L

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../random.h"
#include "quantize/quantize.h"

#define lengthof(array) (sizeof(array) / sizeof((array)[0]))

#define VECTORS 512				/* 16 rows of SLOTS edges */
#define SLOTS 32

static void *
Allocate(size_t size)
{
	void	   *p = calloc(1, size);

	if (p == NULL)
		abort();
	return p;
}

static double
Nanoseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/* Sum of four uniforms, centred: near enough to normal. */
static float
RandomFloat(void)
{
	float		sum = 0;

	for (int i = 0; i < 4; i++)
		sum += (float) (Random64() >> 40) * 0x1p-24f - 0.5f;
	return sum;
}

/* Slots as in an index row: {add, mul} as halves, then the code. */
static size_t
SlotSize(const AnnCodeParams *p)
{
	return 2 * sizeof(AnnHalf) + AnnCodeBytes(p);
}

static AnnCodeArray
Slots(const AnnCodeParams *p, const char *slots, int count)
{
	return (AnnCodeArray)
	{
		slots + 2 * sizeof(AnnHalf), SlotSize(p), slots, SlotSize(p), ANN_FACTORS_HALF2, count
	};
}

static double sink;				/* keeps results alive */

/* Runs the statement for about 20 ms of CPU time and gives the ns of one run; `turn` counts them. */
#define TIME(statement) __extension__ ({ \
	double		time_best = INFINITY; \
	for (int time_round = 0; time_round < 5; time_round++) \
	{ \
		double		time_start = Nanoseconds(); \
		double		time_now; \
		long		turn = 0; \
		do \
		{ \
			for (int time_i = 0; time_i < 256; time_i++, turn++) \
				statement; \
			time_now = Nanoseconds(); \
		} while (time_now - time_start < 4e6); \
		time_best = fmin(time_best, (time_now - time_start) / turn); \
	} \
	time_best; })

static void
Speed(int dim, int planes, int kept)
{
	AnnCodeParams p;
	float	   *x = Allocate(sizeof(float) * (size_t) dim * VECTORS);
	float	   *y = Allocate(sizeof(float) * (size_t) dim);
	float		estimates[SLOTS];
	AnnQueryCode *query;
	char	   *slots;
	char	   *probes;
	size_t		probe_size;
	double		encode;
	double		init;
	double		batch;
	double		pair;

	AnnCodeParamsSet(&p, ANN_METRIC_L2, dim, planes, kept);
	query = Allocate(AnnQueryCodeSize(&p));
	slots = Allocate(SlotSize(&p) * VECTORS);
	probe_size = AnnCodeProbeSize(&p);
	probes = Allocate(probe_size * VECTORS);
	for (size_t i = 0; i < (size_t) dim * VECTORS; i++)
		x[i] = RandomFloat();
	for (int i = 0; i < VECTORS; i++)
	{
		char	   *slot = slots + SlotSize(&p) * i;
		AnnCodeFactors factors;
		AnnHalf		half[3];

		AnnEncode(&p, x + (size_t) dim * i, 0, (uint8_t *) slot + 4, &factors);
		AnnFactorsToHalf(&p, &factors, half);
		memcpy(slot, half, 4);
		AnnCodeProbeInit((AnnCodeProbe *) (probes + probe_size * i), &p, (uint8_t *) slot + 4, factors.add);
	}

	encode = TIME(
		{
			AnnCodeFactors factors;
			uint8_t		code[ANN_CODE_MAX_PLANES * 2048];

			AnnEncode(&p, x + (size_t) dim * (turn % VECTORS), 0, code, &factors);
			sink += factors.mul;
		});
	init = TIME(AnnQueryCodeInit(query, &p, x + (size_t) dim * (turn % VECTORS), 0));
	batch = TIME(
		{
			AnnCodeArray array = Slots(&p, slots + SlotSize(&p) * SLOTS * (turn % (VECTORS / SLOTS)), SLOTS);

			AnnEstimateBatch(query, &array, estimates, NULL);
			sink += estimates[0];
		}) / SLOTS;
	pair = TIME(sink += AnnCodeProbeDistance2(&p, (AnnCodeProbe *) probes,
											  (AnnCodeProbe *) (probes + probe_size * (turn % VECTORS))));
	printf("%5d dims %5d kept %d bit %5zu bytes: encode %7.0f ns, query code %6.0f ns, estimate %5.1f ns a code, code-code %5.1f ns\n",
		   dim, kept, planes, AnnCodeBytes(&p), encode, init, batch, pair);
	free(x);
	free(y);
	free(query);
	free(slots);
	free(probes);
}

static void
RefineSpeed(int dim)
{
	float	   *x = Allocate(sizeof(float) * (size_t) dim);
	float	   *scratch = Allocate(sizeof(float) * (size_t) dim);
	static const char *const names[] = {"full", "half", "sq8"};

	for (int i = 0; i < dim; i++)
		x[i] = RandomFloat();
	printf("%5d dims: rotate %.0f ns", dim, TIME(AnnRotate(x, scratch, dim)));
	for (int form = ANN_REFINE_FULL; form <= ANN_REFINE_SQ8; form++)
	{
		AnnRefineSpec spec = {dim, ANN_METRIC_L2, form, ANN_ELEMENT_FLOAT4, form != ANN_REFINE_FULL};
		char	   *stored = Allocate(AnnRefineSize(&spec));
		AnnRefineQuery *query = Allocate(AnnRefineQuerySize(&spec));
		double		encode = TIME(AnnRefineEncode(&spec, x, stored, scratch));
		double		score;

		AnnRefineQueryInit(query, &spec, x);
		score = TIME(sink += AnnRefineScore(query, stored));
		printf("; %s: store %.0f, score %.0f, interval %.0f", names[form], encode, score,
			   TIME(sink += AnnRefineInterval(query, stored, 1).lo));
		free(stored);
		free(query);
	}
	printf("\n");
	free(x);
	free(scratch);
}

/* The rows of a two-dimensional .npy file of little-endian float4. */
static float *
ReadNpy(const char *path, int *rows, int *dim)
{
	FILE	   *f = fopen(path, "rb");
	unsigned char head[10];
	char		header[65536];
	unsigned	length;
	const char *shape;
	float	   *data;

	if (f == NULL || fread(head, 1, 10, f) != 10 || memcmp(head, "\x93NUMPY\1", 7) != 0)
		goto bad;
	length = head[8] + 256u * head[9];
	if (fread(header, 1, length, f) != length)
		goto bad;
	header[length] = 0;
	shape = strstr(header, "'shape': (");
	if (strstr(header, "'<f4'") == NULL || shape == NULL || sscanf(shape, "'shape': (%d, %d", rows, dim) != 2)
		goto bad;
	data = Allocate(sizeof(float) * (size_t) *rows * (size_t) *dim);
	if (fread(data, sizeof(float) * (size_t) *dim, (size_t) *rows, f) != (size_t) *rows)
		goto bad;
	fclose(f);
	return data;

bad:
	fprintf(stderr, "%s: not a .npy file of float4 rows\n", path);
	exit(1);
}

/*
 * Error of estimated squared distances in units of the mean one, from the last
 * `queries` rows to the others, centred on the mean.
 */
static void
Error(const float *data, int rows, int queries, int dim, int planes, int kept)
{
	AnnCodeParams p;
	int			base = rows - queries;
	double	   *mean = Allocate(sizeof(double) * (size_t) dim);
	float	   *r = Allocate(sizeof(float) * (size_t) rows * (size_t) dim);
	uint8_t    *codes;
	AnnCodeFactors *factors = Allocate(sizeof(AnnCodeFactors) * (size_t) base);
	AnnCodeProbe *probes[2];
	AnnQueryCode *query;
	float	   *estimates = Allocate(sizeof(float) * (size_t) base);
	float	   *errors = Allocate(sizeof(float) * (size_t) base);
	double		total = 0;
	double		pair_total = 0;
	double		square = 0;
	double		bias = 0;
	double		stated = 0;
	long		inside[2] = {0, 0};
	double		pair_square = 0;
	double		count = (double) base * queries;

	AnnCodeParamsSet(&p, ANN_METRIC_L2, dim, planes, kept);
	codes = Allocate(AnnCodeBytes(&p) * (size_t) base);
	query = Allocate(AnnQueryCodeSize(&p));
	for (int i = 0; i < 2; i++)
		probes[i] = Allocate(AnnCodeProbeSize(&p));
	for (int i = 0; i < base; i++)
		for (int j = 0; j < dim; j++)
			mean[j] += data[(size_t) i * dim + j] / (double) base;
	for (int i = 0; i < rows; i++)
	{
		float	   *ri = r + (size_t) i * dim;

		for (int j = 0; j < dim; j++)
			ri[j] = data[(size_t) i * dim + j] - (float) mean[j];
		AnnRotate(ri, ri, dim);
		if (i < base)
			AnnEncode(&p, ri, 0, codes + AnnCodeBytes(&p) * i, &factors[i]);
	}
	for (int i = base; i < rows; i++)
	{
		AnnCodeArray array = {codes, AnnCodeBytes(&p), factors, sizeof(AnnCodeFactors), ANN_FACTORS_FLOAT3, base};

		AnnQueryCodeInit(query, &p, r + (size_t) i * dim, 0);
		AnnEstimateBatch(query, &array, estimates, errors);
		for (int j = 0; j < base; j++)
		{
			double		true2 = ann_kernels.l2sq_f32(data + (size_t) i * dim, data + (size_t) j * dim, dim);
			double		error = estimates[j] - true2;
			int			other = (int) (((long) j * 7919 + i) % base);
			double		pair2 = ann_kernels.l2sq_f32(data + (size_t) other * dim, data + (size_t) j * dim, dim);

			total += true2;
			square += error * error;
			bias += error;
			stated += errors[j];
			inside[0] += fabs(error) <= errors[j];
			inside[1] += error <= 3 * errors[j];
			AnnCodeProbeInit(probes[0], &p, codes + AnnCodeBytes(&p) * j, factors[j].add);
			AnnCodeProbeInit(probes[1], &p, codes + AnnCodeBytes(&p) * other, factors[other].add);
			error = AnnCodeProbeDistance2(&p, probes[0], probes[1]) - pair2;
			pair_total += pair2;
			pair_square += error * error;
		}
	}
	printf("%5d dims %5d kept %d bit: rmse %.2f %% of the mean squared distance, bias %+.3f %%, stated %.2f %%, "
		   "inside 1 sigma %.2f %%, above the lower bound %.4f %%; code-code rmse %.2f %%\n",
		   dim, kept, planes, 100 * sqrt(square * count) / total, 100 * bias / total, 100 * stated / total,
		   100 * inside[0] / count, 100 * inside[1] / count, 100 * sqrt(pair_square * count) / pair_total);
	free(mean);
	free(r);
	free(codes);
	free(factors);
	for (int i = 0; i < 2; i++)
		free(probes[i]);
	free(query);
	free(estimates);
	free(errors);
}

int
main(int argc, char **argv)
{
	static const int dims[] = {128, 256, 384, 768, 1024, 1536, 3072};

	AnnDistanceInit();
	printf("kernels: %s\n", ann_kernels.name);
	for (size_t i = 0; i < lengthof(dims); i++)
		for (int planes = 1; planes <= ANN_CODE_MAX_PLANES; planes++)
			if (dims[i] <= 768 || planes == 1)
				Speed(dims[i], planes, dims[i]);
	Speed(768, 1, 512);
	Speed(1536, 1, 1024);
	for (size_t i = 0; i < lengthof(dims); i++)
		RefineSpeed(dims[i]);

	for (int i = 1; i < argc; i++)
	{
		int			rows;
		int			dim;
		float	   *data = ReadNpy(argv[i], &rows, &dim);
		int			used = rows < 10100 ? rows : 10100;

		printf("%s: %d rows, of which %d are used\n", argv[i], rows, used);
		for (int planes = 1; planes <= ANN_CODE_MAX_PLANES; planes++)
		{
			Error(data, used, 100, dim, planes, dim);
			Error(data, used, 100, dim, planes, dim - dim / 3);
		}
		free(data);
	}
	return sink == 12345;
}
