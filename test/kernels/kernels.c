/*
 * kernels.c
 *	  Compares every kernel table that this CPU can run with exact or
 *	  double-precision references (see README).
 *
 * One test is one kernel of one table on one kind of values, at all lengths
 * and placements.  Prints each failed test and the counts; exits with 1 if any
 * failed.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../checks.h"
#include "../random.h"
#include "distance/distance.h"

#define lengthof(array) (sizeof(array) / sizeof((array)[0]))

/* The unit roundoff of float4. */
#define UNIT 0x1p-24

static const AnnKernels *set;	/* the table under test */
static void
BeginKernel(const char *kernel, const char *values)
{
	Begin("%s %s, %s", set ? set->name : "all", kernel, values);
}

/*
 * Memory whose neighbours may not be touched: an inaccessible page lies before
 * and after.  Data start at the front page, one byte behind it (unaligned for
 * every type), or end at the back page.
 */
typedef enum Place
{
	PLACE_FRONT,
	PLACE_ODD,
	PLACE_BACK,
	PLACES
} Place;

#define AREA_BYTES (1 << 20)

typedef struct Area
{
	char	   *start;
} Area;

static Area
MakeArea(void)
{
	size_t		page = (size_t) sysconf(_SC_PAGESIZE);
	char	   *p = mmap(NULL, AREA_BYTES + 2 * page, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p, page, PROT_NONE) != 0 ||
		mprotect(p + page + AREA_BYTES, page, PROT_NONE) != 0)
	{
		perror("mmap");
		exit(1);
	}
	return (Area) {p + page};
}

static void *
PlaceIn(Area area, Place place, const void *data, size_t size)
{
	char	   *p = area.start;

	if (size + 1 > AREA_BYTES)
		abort();
	if (place == PLACE_ODD)
		p++;
	else if (place == PLACE_BACK)
		p += AREA_BYTES - size;
	if (data)
		memcpy(p, data, size);
	return p;
}

static Area area_a;
static Area area_b;
static Area area_c;

/* Uniform in [0, 1). */
static double
Random(void)
{
	return (double) (Random64() >> 11) * 0x1p-53;
}

#define MAX_N 16384

static const size_t long_lengths[] = {384, 768, 1000, 1024, 1536, 3072, 16000};

/* The lengths to test: 0 to 300, then some of those that models have. */
static size_t
Length(size_t i)
{
	return i <= 300 ? i : long_lengths[i - 301];
}

#define LENGTHS (301 + lengthof(long_lengths))

/* ---- references ---- */

static double
HalfValue(AnnHalf h)
{
	int			exponent = h >> 10 & 31;
	int			fraction = h & 1023;
	double		magnitude = exponent == 31 ? (fraction ? NAN : INFINITY) :
		exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);

	return h & 0x8000 ? -magnitude : magnitude;
}

static AnnHalf
HalfNearest(double v)
{
	AnnHalf		sign = signbit(v) ? 0x8000 : 0;
	double		magnitude = fabs(v);
	int			exponent;

	if (isnan(v))
		return sign | 0x7e00;
	if (magnitude >= 65520)
		return sign | 0x7c00;
	exponent = magnitude < 0x1p-14 ? -14 : ilogb(magnitude);
	magnitude = rint(ldexp(magnitude, 10 - exponent));	/* ties to even */

	/* 1024 is the leading bit, which the exponent field counts */
	return sign | (AnnHalf) (magnitude + (exponent + 14) * 1024);
}

static bool
SameHalf(AnnHalf a, AnnHalf b)
{
	return a == b || (isnan(HalfValue(a)) && isnan(HalfValue(b)));
}

/* A sum, the sum of its terms' magnitudes, and the error of the terms themselves. */
typedef struct Sum
{
	double		value;
	double		magnitude;
	double		slack;
} Sum;

static void
AddTerm(Sum *sum, double term)
{
	sum->value += term;
	sum->magnitude += fabs(term);
}

/* The bound that src/distance/README states. */
static double
Bound(Sum sum, size_t n)
{
	return ((double) (n / 8) + 16) * UNIT * sum.magnitude + sum.slack + (double) n * 0x1p-149;
}

/* Sums that overflow float, or would on the way, are outside the bound. */
static void
CheckSum(float got, Sum want, size_t n, Place place)
{
	if (isnan(want.value))
		Check(isnan(got), "n = %zu, place %d: %g, not NaN", n, place, got);
	else if (isinf(want.value))
		Check(got == (float) want.value, "n = %zu, place %d: %g, not %g", n, place, got, want.value);
	else if (want.magnitude < 0x1p127)
		Check(fabs(got - want.value) <= Bound(want, n), "n = %zu, place %d: %.9g, not %.9g +- %g",
			  n, place, got, want.value, Bound(want, n));
}

/* ---- values ---- */

typedef enum Values
{
	UNIFORM,
	ZEROS,
	LARGE,
	SUBNORMAL,
	MIXED,
	NEAR_EQUAL,
	CANCELLING,
	NONFINITE,
	VALUES
} Values;

static const char *const values_names[VALUES] = {
	"uniform", "zeros", "large", "subnormal", "mixed magnitudes", "nearly equal", "cancelling", "not finite"
};

static double
RandomSign(void)
{
	return Random64() & 1 ? 1 : -1;
}

static double
Draw(Values values, double large, double tiny, double spread)
{
	switch (values)
	{
		case ZEROS:
			return RandomSign() * 0.0;
		case LARGE:
			return RandomSign() * large;
		case SUBNORMAL:
			return RandomSign() * tiny * Random();
		case MIXED:
			return RandomSign() * exp2((2 * Random() - 1) * spread);
		case NONFINITE:
			return Random64() % 64 ? Random() : Random64() % 2 ? RandomSign() * INFINITY : NAN;
		default:
			return 2 * Random() - 1;
	}
}

static void
DrawFloats(Values values, float *a, float *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
	{
		a[i] = (float) Draw(values, 1e16, 1e-38, 30);
		b[i] = (float) Draw(values, 1e16, 1e-38, 30);
		if (values == NEAR_EQUAL)
			b[i] = nextafterf(a[i], b[i]);
		else if (values == CANCELLING && i % 2 == 1)
		{
			a[i] = -a[i - 1];
			b[i] = b[i - 1];
		}
	}
}

static void
DrawHalves(Values values, AnnHalf *a, AnnHalf *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
	{
		a[i] = HalfNearest(Draw(values, 65504, 0x1p-14, 14));
		b[i] = HalfNearest(Draw(values, 65504, 0x1p-14, 14));
		if (values == NEAR_EQUAL)
			b[i] = a[i] ^ 1;
		else if (values == CANCELLING && i % 2 == 1)
		{
			a[i] = a[i - 1] ^ 0x8000;
			b[i] = b[i - 1];
		}
	}
}

/* ---- tests ---- */

typedef enum Op
{
	L2SQ,
	IP,
	L1
} Op;

static Sum
ReferenceSum(Op op, const double *a, const double *b, size_t n)
{
	Sum			sum = {0};

	for (size_t i = 0; i < n; i++)
	{
		double		d = a[i] - b[i];

		AddTerm(&sum, op == L2SQ ? d * d : op == IP ? a[i] * b[i] : fabs(d));
	}
	return sum;
}

/* The kernels of two vectors: which fields of the table they are, as data. */
typedef enum Kinds
{
	F32_F32,
	F16_F16,
	F32_F16
} Kinds;

static float
CallPair(Kinds kinds, Op op, const void *a, const void *b, size_t n)
{
	switch (kinds)
	{
		case F32_F32:
			return (op == L2SQ ? set->l2sq_f32 : op == IP ? set->ip_f32 : set->l1_f32) (a, b, n);
		case F16_F16:
			return (op == L2SQ ? set->l2sq_f16 : op == IP ? set->ip_f16 : set->l1_f16) (a, b, n);
		case F32_F16:
			return (op == L2SQ ? set->l2sq_f32_f16 : set->ip_f32_f16) (a, b, n);
	}
	abort();
}

static float a_f32[MAX_N];
static float b_f32[MAX_N];
static AnnHalf a_f16[MAX_N];
static AnnHalf b_f16[MAX_N];
static double a_f64[MAX_N];
static double b_f64[MAX_N];

/* Fills the arrays with n values; leaves what they mean in a_f64 and b_f64. */
static void
DrawPair(Kinds kinds, Values values, size_t n)
{
	DrawFloats(values, a_f32, b_f32, n);
	DrawHalves(values, a_f16, b_f16, n);
	for (size_t i = 0; i < n; i++)
	{
		if (kinds == F32_F16 && values == NEAR_EQUAL)
			a_f32[i] = nextafterf((float) HalfValue(b_f16[i]), 0);
		a_f64[i] = kinds == F16_F16 ? HalfValue(a_f16[i]) : a_f32[i];
		b_f64[i] = kinds == F32_F32 ? b_f32[i] : HalfValue(b_f16[i]);
	}
}

static void
TestPairs(Kinds kinds, const char *const *names)
{
	size_t		a_size = kinds == F16_F16 ? sizeof(AnnHalf) : sizeof(float);
	size_t		b_size = kinds == F32_F32 ? sizeof(float) : sizeof(AnnHalf);
	const void *a = kinds == F16_F16 ? (void *) a_f16 : (void *) a_f32;
	const void *b = kinds == F32_F32 ? (void *) b_f32 : (void *) b_f16;

	for (Op op = L2SQ; op <= (kinds == F32_F16 ? IP : L1); op++)
		for (Values values = 0; values < VALUES; values++)
		{
			BeginKernel(names[op], values_names[values]);
			for (size_t i = 0; i < LENGTHS; i++)
			{
				size_t		n = Length(i);
				Sum			want;

				DrawPair(kinds, values, n);
				want = ReferenceSum(op, a_f64, b_f64, n);
				for (Place place = 0; place < PLACES; place++)
					CheckSum(CallPair(kinds, op, PlaceIn(area_a, place, a, n * a_size),
									  PlaceIn(area_b, place, b, n * b_size), n),
							 want, n, place);
			}
			End();
		}
}

static void
TestCosine(Kinds kinds, const char *name)
{
	size_t		size = kinds == F16_F16 ? sizeof(AnnHalf) : sizeof(float);

	for (Values values = 0; values < VALUES; values++)
	{
		BeginKernel(name, values_names[values]);
		for (size_t i = 0; i < LENGTHS; i++)
		{
			size_t		n = Length(i);

			DrawPair(kinds, values, n);
			for (Place place = 0; place < PLACES; place++)
			{
				const void *a = PlaceIn(area_a, place, kinds == F16_F16 ? (void *) a_f16 : (void *) a_f32, n * size);
				const void *b = PlaceIn(area_b, place, kinds == F16_F16 ? (void *) b_f16 : (void *) b_f32, n * size);
				AnnCosineSums got = kinds == F16_F16 ? set->cosine_f16(a, b, n) : set->cosine_f32(a, b, n);

				CheckSum(got.ab, ReferenceSum(IP, a_f64, b_f64, n), n, place);
				CheckSum(got.aa, ReferenceSum(IP, a_f64, a_f64, n), n, place);
				CheckSum(got.bb, ReferenceSum(IP, b_f64, b_f64, n), n, place);
			}
		}
		End();
	}
}

static void
TestSq8(void)
{
	static uint8_t u[MAX_N];

	for (Values values = 0; values < NONFINITE; values++)
	{
		BeginKernel("l2sq_f32_sq8, ip_f32_u8", values_names[values]);
		for (size_t i = 0; i < LENGTHS; i++)
		{
			size_t		n = Length(i);
			float		lo = (float) Draw(values, 1e16, 1e-38, 10);
			float		step = (float) fabs(Draw(values, 1e14, 1e-40, 10));
			Sum			l2sq = {0};
			Sum			ip = {0};

			DrawFloats(values, a_f32, b_f32, n);
			for (size_t j = 0; j < n; j++)
			{
				double		x,
							d,
							error;

				u[j] = values == LARGE ? 255 : (uint8_t) Random64();
				x = (double) lo + (double) step * u[j];
				if (values == NEAR_EQUAL)
					a_f32[j] = (float) x;
				d = a_f32[j] - x;
				error = 2 * UNIT * (fabs(lo) + (double) step * u[j]) + 0x1p-148;
				AddTerm(&l2sq, d * d);
				l2sq.slack += (2 * fabs(d) + error) * error * 1.001;
				AddTerm(&ip, (double) a_f32[j] * u[j]);
			}
			for (Place place = 0; place < PLACES; place++)
			{
				const float *q = PlaceIn(area_a, place, a_f32, n * sizeof(float));
				const uint8_t *placed = PlaceIn(area_b, place, u, n);

				CheckSum(set->l2sq_f32_sq8(q, placed, lo, step, n), l2sq, n, place);
				CheckSum(set->ip_f32_u8(q, placed, n), ip, n, place);
			}
		}
		End();
	}
}

static void
TestBytes(void)
{
	static uint8_t a[MAX_N];
	static uint8_t b[MAX_N];

	for (int extreme = 0; extreme < 2; extreme++)
	{
		BeginKernel("ip_i8, hamming, jaccard", extreme ? "extremes" : "uniform");
		for (size_t i = 0; i < LENGTHS; i++)
		{
			size_t		n = Length(i);
			int64_t		ip = 0;
			uint64_t	hamming = 0;
			uint64_t	both = 0;
			uint64_t	either = 0;

			for (size_t j = 0; j < n; j++)
			{
				a[j] = extreme ? (i % 2 ? 0x80 : 0xff) : (uint8_t) Random64();
				b[j] = extreme ? (i % 4 < 2 ? 0x80 : 0x7f) : (uint8_t) Random64();
				ip += (int64_t) (int8_t) a[j] * (int8_t) b[j];
				for (int bit = 0; bit < 8; bit++)
				{
					int			x = a[j] >> bit & 1;
					int			y = b[j] >> bit & 1;

					hamming += x != y;
					both += x && y;
					either += x || y;
				}
			}
			for (Place place = 0; place < PLACES; place++)
			{
				const void *pa = PlaceIn(area_a, place, a, n);
				const void *pb = PlaceIn(area_b, place, b, n);
				uint64_t	got_both = 1;
				uint64_t	got_either = 1;

				Check(set->ip_i8(pa, pb, n) == ip, "ip_i8, n = %zu, place %d: %d, not %lld",
					  n, place, set->ip_i8(pa, pb, n), (long long) ip);
				Check(set->hamming(pa, pb, n) == hamming, "hamming, n = %zu, place %d", n, place);
				set->jaccard(pa, pb, n, &got_both, &got_either);
				Check(got_both == both && got_either == either, "jaccard, n = %zu, place %d", n, place);
			}
		}
		End();
	}
}

/* Every half, every tie between two halves and its neighbours, and random floats. */
static void
TestConversions(void)
{
	size_t		n;

	BeginKernel("f16_to_f32", "every half");
	for (uint32_t first = 0; first < 65536; first += 4096)
	{
		const AnnHalf *src;
		float	   *dst;

		for (uint32_t i = 0; i < 4096; i++)
			a_f16[i] = (AnnHalf) (first + i);
		src = PlaceIn(area_a, PLACE_ODD, a_f16, 4096 * sizeof(AnnHalf));
		dst = PlaceIn(area_b, PLACE_ODD, NULL, 4096 * sizeof(float));
		set->f16_to_f32(src, dst, 4096);
		memcpy(a_f32, dst, 4096 * sizeof(float));
		for (uint32_t i = 0; i < 4096; i++)
		{
			double		want = HalfValue(a_f16[i]);

			Check(isnan(want) ? isnan(a_f32[i]) : a_f32[i] == want && !signbit(a_f32[i]) == !signbit(want),
				  "half %04x: %.9g, not %.9g", a_f16[i], a_f32[i], want);
		}
	}
	End();

	for (int kind = 0; kind < 2; kind++)
	{
		BeginKernel("f32_to_f16", kind ? "random bits" : "every half, tie and neighbour");
		for (uint32_t round = 0; round < 64; round++)
		{
			n = 0;
			for (uint32_t i = 0; i < 1024; i++)
			{
				AnnHalf		h = (AnnHalf) (round * 1024 + i);
				float		f = (float) HalfValue(h);
				float		next = (h & 0x7fff) == 0x7bff ? copysignf(65536, f) : (float) HalfValue(h + 1);

				if (kind)
				{
					uint32_t	bits = (uint32_t) Random64();

					memcpy(&f, &bits, sizeof(f));
					a_f32[n++] = f;
					continue;
				}
				a_f32[n++] = f;
				a_f32[n++] = nextafterf(f, INFINITY);
				a_f32[n++] = nextafterf(f, -INFINITY);
				f = (f + next) / 2;
				a_f32[n++] = f;
				a_f32[n++] = nextafterf(f, INFINITY);
				a_f32[n++] = nextafterf(f, -INFINITY);
			}
			set->f32_to_f16(PlaceIn(area_a, PLACE_ODD, a_f32, n * sizeof(float)),
							PlaceIn(area_b, PLACE_ODD, NULL, n * sizeof(AnnHalf)), n);
			memcpy(a_f16, area_b.start + 1, n * sizeof(AnnHalf));
			for (size_t i = 0; i < n; i++)
				Check(SameHalf(a_f16[i], HalfNearest(a_f32[i])), "%a: half %04x, not %04x",
					  a_f32[i], a_f16[i], HalfNearest(a_f32[i]));
		}
		End();
	}

	BeginKernel("f16_to_f32, f32_to_f16", "every length");
	for (size_t i = 0; i < LENGTHS; i++)
	{
		n = Length(i);
		DrawFloats(UNIFORM, a_f32, b_f32, n);
		DrawHalves(UNIFORM, a_f16, b_f16, n);
		for (Place place = 0; place < PLACES; place++)
		{
			AnnHalf    *halves = PlaceIn(area_b, place, NULL, n * sizeof(AnnHalf));
			float	   *floats = PlaceIn(area_c, place, NULL, n * sizeof(float));

			set->f32_to_f16(PlaceIn(area_a, place, a_f32, n * sizeof(float)), halves, n);
			memcpy(b_f16, halves, n * sizeof(AnnHalf));
			set->f16_to_f32(PlaceIn(area_a, place, a_f16, n * sizeof(AnnHalf)), floats, n);
			memcpy(b_f32, floats, n * sizeof(float));
			for (size_t j = 0; j < n; j++)
			{
				Check(SameHalf(b_f16[j], HalfNearest(a_f32[j])), "f32_to_f16, n = %zu, place %d, element %zu", n, place, j);
				Check(b_f32[j] == HalfValue(a_f16[j]), "f16_to_f32, n = %zu, place %d, element %zu", n, place, j);
			}
		}
	}
	End();
}

/* Scores within the rounding of their few float operations, and the largest lower end. */
static void
TestPanels(void)
{
	static const char *const kinds[] = {"uniform", "largest bytes", "smallest bytes"};
	static const size_t counts[] = {0, 1, 2, 3, 4, 5, 11, 12, 13, 49};
	static uint8_t u[AREA_BYTES];
	static int8_t bytes[AREA_BYTES];
	static float scores[AREA_BYTES / sizeof(float)];
	int32_t		offset[3 * ANN_PANEL];
	float		factors[3][3 * ANN_PANEL];

	for (size_t kind = 0; kind < lengthof(kinds); kind++)
	{
		BeginKernel("panel_scores", kinds[kind]);
		for (size_t dim = 0; dim <= 16000; dim += dim < 72 ? 4 : dim < 1024 ? 316 : 14976)
			for (size_t k = 0; k < lengthof(counts); k++)
			{
				size_t		n = counts[k];
				size_t		npanels = dim > 1024 ? 1 : 1 + k % 3;
				size_t		width = npanels * ANN_PANEL;
				float		scale[49];
				float		spread[49];

				for (size_t i = 0; i < n * dim; i++)
					u[i] = kind ? 127 : Random64() % 128;
				for (size_t i = 0; i < width * dim; i++)
					bytes[i] = kind == 1 ? 127 : kind == 2 ? -127 : (int) (Random64() % 255) - 127;
				for (size_t i = 0; i < n; i++)
				{
					scale[i] = (float) Random();
					spread[i] = (float) Random();
				}
				for (size_t c = 0; c < width; c++)
				{
					offset[c] = (int32_t) (Random64() % 1000000) - 500000;
					factors[0][c] = (float) Random();
					factors[1][c] = c + 5 >= width ? -INFINITY : (float) (1000 * RandomSign() * Random());
					factors[2][c] = (float) Random() * 100;
				}
				for (Place place = 0; place < PLACES; place++)
				{
					AnnPanels	panels = {
						npanels, dim, PlaceIn(area_b, place, bytes, width * dim),
						offset, factors[0], factors[1], factors[2]
					};
					float	   *upper = PlaceIn(area_c, place, NULL, n * width * sizeof(float));
					float		best[49];

					set->panel_scores(&panels, PlaceIn(area_a, place, u, n * dim), scale, spread, n, upper, best);
					memcpy(scores, upper, n * width * sizeof(float));
					for (size_t i = 0; i < n; i++)
					{
						double		largest = -INFINITY;
						double		slack = 0;

						for (size_t c = 0; c < width; c++)
						{
							int64_t		product = offset[c];
							double		want;
							double		error = (double) factors[2][c] * spread[i];
							double		tolerance;

							for (size_t j = 0; j < dim; j++)
								product += u[i * dim + j] * bytes[(c / ANN_PANEL * dim + j / 4 * 4) * ANN_PANEL +
																  c % ANN_PANEL * 4 + j % 4];
							want = (double) product * factors[0][c] * scale[i] + factors[1][c];
							if (isinf(want))
							{
								Check(scores[i * width + c] == want, "dim = %zu, n = %zu: not -infinity", dim, n);
								continue;
							}
							tolerance = 8 * UNIT * (fabs((double) product * factors[0][c] * scale[i]) +
													fabs(factors[1][c]) + error);
							Check(fabs(scores[i * width + c] - (want + error)) <= tolerance,
								  "dim = %zu, n = %zu, place %d: %.9g, not %.9g",
								  dim, n, place, scores[i * width + c], want + error);
							largest = fmax(largest, want - error);
							slack = fmax(slack, tolerance);
						}
						Check(fabs(best[i] - largest) <= slack, "dim = %zu, n = %zu, place %d: best %.9g, not %.9g",
							  dim, n, place, best[i], largest);
					}
				}
			}
		End();
	}

	for (Values values = 0; values < NONFINITE; values++)
	{
		BeginKernel("signs_f32", values_names[values]);
		for (size_t i = 0; i < LENGTHS; i++)
		{
			size_t		n = Length(i);
			Sum			sum = {0};

			DrawFloats(values, a_f32, b_f32, n);
			for (size_t j = 0; j < n; j++)
				AddTerm(&sum, fabs((double) a_f32[j]));
			for (Place place = 0; place < PLACES; place++)
			{
				size_t		nbits = (n + 63) / 64 * 64;
				uint8_t    *to = PlaceIn(area_c, place, NULL, nbits / 8);
				float		got = set->signs_f32(PlaceIn(area_a, place, a_f32, n * sizeof(float)), n, to);

				if (sum.value < 1e38)
					Check(fabs(got - sum.value) <= (n + 16) * UNIT * sum.value,
						  "n = %zu, place %d: sum %.9g, not %.9g", n, place, got, sum.value);
				for (size_t j = 0; j < nbits; j++)
					Check((to[j / 8] >> (j % 8) & 1) == (j < n && !signbit(a_f32[j])),
						  "n = %zu, place %d: bit %zu", n, place, j);
			}
		}
		End();
	}

	for (Values values = 0; values < VALUES; values++)
	{
		BeginKernel("negate_f32", values_names[values]);
		for (size_t i = 0; i < LENGTHS; i++)
		{
			size_t		n = Length(i);
			uint64_t	words[MAX_N / 64];

			DrawFloats(values, a_f32, b_f32, n);
			for (size_t w = 0; w < lengthof(words); w++)
				words[w] = Random64();
			for (Place place = 0; place < PLACES; place++)
			{
				float	   *to = PlaceIn(area_c, place, NULL, n * sizeof(float));
				uint32_t	want;
				uint32_t	got;

				set->negate_f32(PlaceIn(area_a, place, a_f32, n * sizeof(float)), to,
								PlaceIn(area_b, place, words, (n + 63) / 64 * sizeof(uint64_t)), n);
				for (size_t j = 0; j < n; j++)
				{
					memcpy(&want, a_f32 + j, sizeof(want));
					want ^= (uint32_t) (words[j / 64] >> (j % 64) & 1) << 31;
					memcpy(&got, (char *) to + j * sizeof(float), sizeof(got));
					Check(got == want, "n = %zu, place %d, element %zu: %08x, not %08x", n, place, j, got, want);
				}
			}
		}
		End();
	}

	for (Values values = 0; values < NONFINITE; values++)
	{
		BeginKernel("u7_f32", values_names[values]);
		for (size_t i = 0; i < LENGTHS; i++)
		{
			size_t		n = Length(i);
			Sum			norm2 = {0};
			double		max = 0;

			DrawFloats(values, a_f32, b_f32, n);
			for (size_t j = 0; j < n; j++)
			{
				double		r = (double) a_f32[j] - b_f32[j];

				max = fmax(max, fabs(r));
				AddTerm(&norm2, r * r);
			}
			for (Place place = 0; place < PLACES; place++)
			{
				uint8_t    *to = PlaceIn(area_c, place, NULL, n);
				float		step = -1;
				float		norm = -1;

				set->u7_f32(PlaceIn(area_a, place, a_f32, n * sizeof(float)),
							PlaceIn(area_b, place, b_f32, n * sizeof(float)), n, to, &step, &norm);
				Check(fabs(step - max / 63) <= max * 0x1p-20 + 0x1p-149, "n = %zu, place %d: step %g, not %g", n, place, step, max / 63);
				if (norm2.value == 0 || norm2.value > 1e-30)
					Check(fabs(norm - sqrt(norm2.value)) <= 1e-4 * norm, "n = %zu, place %d: norm %g, not %g",
						  n, place, norm, sqrt(norm2.value));
				for (size_t j = 0; j < n; j++)
					Check(to[j] >= 1 && to[j] <= 127 &&
						  (max < 0x1p-119 || fabs((to[j] - 64) * (double) step - ((double) a_f32[j] - b_f32[j])) <= 0.501 * step),
						  "n = %zu, place %d: %g is %d times %g", n, place, a_f32[j] - b_f32[j], to[j] - 64, step);
			}
		}
		End();
	}

	for (Values values = 0; values < VALUES; values++)
	{
		BeginKernel("places_ge_f32", values_names[values]);
		for (size_t i = 0; i < LENGTHS; i++)
		{
			size_t		n = Length(i);
			static uint32_t got[MAX_N];

			DrawFloats(values, a_f32, b_f32, n + 1);
			for (Place place = 0; place < PLACES; place++)
			{
				float		least = place == PLACE_ODD ? 0 : a_f32[n / 2];
				uint32_t   *to = PlaceIn(area_b, PLACE_FRONT, NULL, n * sizeof(uint32_t));
				size_t		count = set->places_ge_f32(PlaceIn(area_a, place, a_f32, n * sizeof(float)), n, least, to);
				size_t		at = 0;

				memcpy(got, to, n * sizeof(uint32_t));
				for (size_t j = 0; j < n; j++)
					if (a_f32[j] >= least)
					{
						Check(at < count && got[at] == j, "n = %zu, place %d: %zu missing", n, place, j);
						at++;
					}
				Check(at == count, "n = %zu, place %d: %zu places, not %zu", n, place, count, at);
			}
		}
		End();
	}
}

static int32_t
ReferenceCode(const uint8_t *code, int planes, size_t nbits, const int8_t *q)
{
	int32_t		sum = 0;

	for (int plane = 0; plane < planes; plane++)
		for (size_t i = 0; i < nbits; i++)
			if (code[plane * (nbits / 8) + i / 8] >> (i % 8) & 1)
				sum += (1 << plane) * q[i];
	return sum;
}

static void
TestCodes(void)
{
	static const char *const kinds[] = {"uniform", "all ones, q = -128", "all ones, q = 127"};
	static const int planes_tested[] = {1, 2, 3, 4, 8};
	static const int counts[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 32, 35};
	static int8_t q[MAX_N];
	static uint8_t codes[AREA_BYTES];
	int32_t		got[40];

	for (size_t kind = 0; kind < lengthof(kinds); kind++)
	{
		BeginKernel("code_ip, code_ip_batch", kinds[kind]);
		for (size_t nbits = 0; nbits <= 16000; nbits += nbits < 1152 ? 64 : nbits < 4096 ? 448 : 5952)
			for (size_t p = 0; p < lengthof(planes_tested); p++)
			{
				int			planes = planes_tested[p];
				size_t		size = planes * nbits / 8;
				size_t		stride = size + Random64() % 50;

				for (size_t i = 0; i < nbits; i++)
					q[i] = kind == 0 ? (int8_t) Random64() : kind == 1 ? -128 : 127;
				for (size_t c = 0; c < lengthof(counts); c++)
				{
					int			count = counts[c];
					size_t		total = count == 0 ? 0 : (count - 1) * stride + size;
					Place		place = Random64() % PLACES;
					const int8_t *placed_q;
					const uint8_t *placed;

					if (total >= AREA_BYTES)
						continue;
					for (size_t i = 0; i < total; i++)
						codes[i] = kind == 0 ? (uint8_t) Random64() : 0xff;
					placed_q = PlaceIn(area_a, place, q, nbits);
					placed = PlaceIn(area_b, place, codes, total);
					memset(got, 0x55, sizeof(got));
					set->code_ip_batch(placed, stride, count, planes, nbits, placed_q, got);
					for (int i = 0; i < count; i++)
						Check(got[i] == ReferenceCode(placed + i * stride, planes, nbits, q),
							  "%zu bits, %d planes, stride %zu, code %d of %d: %d, not %d", nbits, planes,
							  stride, i, count, got[i], ReferenceCode(placed + i * stride, planes, nbits, q));
					Check(got[count] == 0x55555555, "wrote past the %d results", count);
					if (count == 1)
					{
						placed = PlaceIn(area_b, PLACE_BACK, codes, size);
						Check(set->code_ip(placed, planes, nbits, placed_q) == got[0],
							  "code_ip differs, %zu bits, %d planes", nbits, planes);
					}
				}
			}
		End();
	}
}

static void
TestFht(void)
{
	for (Values values = UNIFORM; values <= MIXED; values++)
	{
		BeginKernel("fht_f32", values_names[values]);
		for (int k = 0; k <= 14; k++)
		{
			size_t		n = (size_t) 1 << k;
			double		magnitude = 0;

			DrawFloats(values, a_f32, b_f32, n);
			for (size_t i = 0; i < n; i++)
			{
				a_f64[i] = a_f32[i];
				magnitude += fabs(a_f64[i]) / sqrt((double) n);
			}
			for (size_t half = 1; half < n; half *= 2)
				for (size_t i = 0; i < n; i++)
					if (!(i & half))
					{
						double		a = a_f64[i];

						a_f64[i] = a + a_f64[i + half];
						a_f64[i + half] = a - a_f64[i + half];
					}
			for (Place place = 0; place < PLACES; place++)
			{
				float	   *x = PlaceIn(area_a, place, a_f32, n * sizeof(float));

				set->fht_f32(x, n);
				memcpy(b_f32, x, n * sizeof(float));
				for (size_t i = 0; i < n; i++)
				{
					double		want = a_f64[i] / sqrt((double) n);

					Check(fabs(b_f32[i] - want) <= (k + 2) * UNIT * magnitude + n * 0x1p-149,
						  "n = %zu, place %d, element %zu: %.9g, not %.9g", n, place, i, b_f32[i], want);
				}
			}
		}
		End();
	}
}

static void
TestSet(const AnnKernels *table)
{
	static const char *const f32[] = {"l2sq_f32", "ip_f32", "l1_f32"};
	static const char *const f16[] = {"l2sq_f16", "ip_f16", "l1_f16"};
	static const char *const f32_f16[] = {"l2sq_f32_f16", "ip_f32_f16"};

	set = table;
	TestPairs(F32_F32, f32);
	TestPairs(F16_F16, f16);
	TestPairs(F32_F16, f32_f16);
	TestCosine(F32_F32, "cosine_f32");
	TestCosine(F16_F16, "cosine_f16");
	TestSq8();
	TestBytes();
	TestConversions();
	TestCodes();
	TestPanels();
	TestFht();
	printf("%s tested\n", table->name);
}

static void
TestDispatch(void)
{
	const AnnKernels *const *tables;
	int			count = AnnDistanceTables(&tables);

	set = NULL;
	BeginKernel("tables", "dispatch");
	Check(count >= 1 && strcmp(tables[0]->name, "scalar") == 0, "the first table is not the scalar one");
	AnnDistanceInit();
	Check(memcmp(&ann_kernels, tables[count - 1], sizeof(ann_kernels)) == 0, "the best table was not chosen");
	AnnDistanceInit();
	Check(AnnDistanceTables(&tables) == count, "the number of tables changed");
	for (int i = 0; i < count; i++)
		for (size_t field = 0; field < sizeof(AnnKernels) / sizeof(void *); field++)
			Check(((void *const *) tables[i])[field] != NULL, "%s has an empty field %zu", tables[i]->name, field);
	End();
}

#ifdef EMULATED_NEON
extern const AnnKernels ann_kernels_neon;
#endif

int
main(void)
{
	const AnnKernels *const *tables;
	int			count = AnnDistanceTables(&tables);

	area_a = MakeArea();
	area_b = MakeArea();
	area_c = MakeArea();

	TestDispatch();
	for (int i = 0; i < count; i++)
		TestSet(tables[i]);
#ifdef EMULATED_NEON
	TestSet(&ann_kernels_neon);
#endif

	return Finish();
}
