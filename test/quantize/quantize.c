/*
 * quantize.c
 *	  Checks the quantizer against definitions evaluated in double precision (see
 *	  README), with every kernel table that this CPU can run.
 *
 * Prints each failed test and the counts; exits with 1 if any failed.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../checks.h"
#include "../random.h"
#include "distance/cosine.h"
#include "distance/half.h"
#include "quantize/quantize.h"

#define lengthof(array) (sizeof(array) / sizeof((array)[0]))

#define MAX_DIM 16000

static const AnnKernels *const *tables;
static int	table_count;

static void *
Allocate(size_t size)
{
	void	   *p = malloc(size > 0 ? size : 1);

	if (p == NULL)
		abort();
	memset(p, 0xa5, size);
	return p;
}

/* Random numbers */

/* Uniform in (0, 1). */
static double
Random(void)
{
	return ((double) (Random64() >> 12) + 0.5) * 0x1p-52;
}

static int
RandomInt(int n)
{
	return (int) (Random64() % (uint64_t) n);
}

static double
RandomNormal(void)
{
	return sqrt(-2 * log(Random())) * cos(6.283185307179586 * Random());
}

typedef enum Shape
{
	SHAPE_NORMAL,
	SHAPE_UNIFORM,				/* in [0, 1): off centre */
	SHAPE_SPARSE,				/* a few coordinates */
	SHAPE_HEAVY,				/* magnitudes over many powers of ten */
	SHAPE_CONSTANT,
	SHAPE_ZERO,
	SHAPES
} Shape;

static void
RandomVector(Shape shape, double scale, float *x, int dim)
{
	double		constant = scale * RandomNormal();

	for (int i = 0; i < dim; i++)
		switch (shape)
		{
			case SHAPE_NORMAL:
				x[i] = (float) (scale * RandomNormal());
				break;
			case SHAPE_UNIFORM:
				x[i] = (float) (scale * Random());
				break;
			case SHAPE_SPARSE:
				x[i] = RandomInt(8) == 0 ? (float) (scale * RandomNormal()) : 0;
				break;
			case SHAPE_HEAVY:
				x[i] = (float) (scale * RandomNormal() * exp(RandomNormal() * 4));
				break;
			case SHAPE_CONSTANT:
				x[i] = (float) constant;
				break;
			default:
				x[i] = 0;
				break;
		}
	if (shape == SHAPE_SPARSE)
		x[RandomInt(dim)] = (float) scale;
	for (int i = 0; i < dim; i++)
		if (fabsf(x[i]) > FLT_MAX)
			x[i] = FLT_MAX;
}

static double
Dot(const float *a, const float *b, int dim)
{
	double		sum = 0;

	for (int i = 0; i < dim; i++)
		sum += (double) a[i] * b[i];
	return sum;
}

static double
Norm(const float *a, int dim)
{
	return sqrt(Dot(a, a, dim));
}

/*
 * Rotation: the definition of the README, in double and without the fast
 * transform's order of operations.
 */
static uint64_t
SplitMix64(uint64_t *state)
{
	uint64_t	z = (*state += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static void
DefinedSigns(double *x, int dim, int step)
{
	uint64_t	state = 0x616e6e2d726f7431;

	for (int i = 0; i < step * 256; i++)
		SplitMix64(&state);
	for (int i = 0; i < dim; i += 64)
	{
		uint64_t	word = SplitMix64(&state);

		for (int j = i; j < dim && j < i + 64; j++)
			if (word >> (j - i) & 1)
				x[j] = -x[j];
	}
}

static void
DefinedHadamard(double *x, int n)
{
	for (int half = n / 2; half > 0; half /= 2)
		for (int i = 0; i < n; i++)
			if ((i & half) == 0)
			{
				double		a = x[i];
				double		b = x[i + half];

				x[i] = (a + b) * sqrt(0.5);
				x[i + half] = (a - b) * sqrt(0.5);
			}
}

static void
DefinedRotation(double *x, int dim)
{
	int			n = 1;

	while (2 * n <= dim)
		n *= 2;
	for (int round = 0; round < 3; round++)
	{
		DefinedSigns(x, dim, 2 * round);
		DefinedHadamard(x, n);
		if (n == dim)
			continue;
		DefinedSigns(x, dim, 2 * round + 1);
		DefinedHadamard(x + (dim - n), n);
		for (int i = 0; i < dim / 2; i++)
		{
			double		a = x[i];
			double		b = x[i + (dim + 1) / 2];

			x[i] = (a + b) * sqrt(0.5);
			x[i + (dim + 1) / 2] = (a - b) * sqrt(0.5);
		}
	}
}

static void
CheckRotation(const float *x, int dim, double absolute)
{
	float	   *y = Allocate(sizeof(float) * dim);
	float	   *z = Allocate(sizeof(float) * dim);
	double	   *defined = Allocate(sizeof(double) * dim);
	double		norm = Norm(x, dim);
	double		off = 0;
	double		back = 0;

	AnnRotate(x, y, dim);
	for (int i = 0; i < dim; i++)
		defined[i] = x[i];
	DefinedRotation(defined, dim);
	for (int i = 0; i < dim; i++)
		off += (y[i] - defined[i]) * (y[i] - defined[i]);
	Check(sqrt(off) <= AnnRotationError(dim) * norm + absolute,
		  "dim %d: off by %g of %g", dim, sqrt(off), norm);

	memcpy(z, x, sizeof(float) * dim);
	AnnRotate(z, z, dim);
	Check(memcmp(y, z, sizeof(float) * dim) == 0, "dim %d: in place differs", dim);

	AnnRotateInverse(y, z, dim);
	for (int i = 0; i < dim; i++)
		back += ((double) z[i] - x[i]) * ((double) z[i] - x[i]);
	Check(sqrt(back) <= 2 * AnnRotationError(dim) * norm * (1 + 1e-5) + 2 * absolute,
		  "dim %d: inverse is off by %g of %g", dim, sqrt(back), norm);
	free(y);
	free(z);
	free(defined);
}

/* That the rows of P are orthonormal, from P itself. */
static void
CheckOrthogonal(int dim)
{
	float	   *p = Allocate(sizeof(float) * dim * dim);

	memset(p, 0, sizeof(float) * dim * dim);
	for (int i = 0; i < dim; i++)
	{
		p[(size_t) i * dim + i] = 1;
		AnnRotate(p + (size_t) i * dim, p + (size_t) i * dim, dim);
	}
	for (int i = 0; i < dim; i++)
		for (int j = 0; j <= i; j++)
		{
			double		dot = Dot(p + (size_t) i * dim, p + (size_t) j * dim, dim);

			Check(fabs(dot - (i == j)) <= 2.01 * AnnRotationError(dim),
				  "dim %d: rows %d and %d have product %g", dim, i, j, dot);
		}
	free(p);
}

static void
TestRotation(void)
{
	static const int dims[] = {384, 511, 512, 768, 1000, 1023, 1024, 1025, 1536, 2047, 3072, 8193, 16000};
	static const double scales[] = {1, 1e30, 2e34, 1e37, 1e-30, 1e-42};
	float	   *x = Allocate(sizeof(float) * MAX_DIM);

	Begin("%s: rotation is orthogonal, dims 1..300", ann_kernels.name);
	for (int dim = 1; dim <= 300; dim += dim < 72 ? 1 : 19)
		CheckOrthogonal(dim);
	End();

	Begin("%s: rotation is the one defined, dims 1..300 and large ones", ann_kernels.name);
	for (int dim = 1; dim <= 300; dim++)
		for (Shape shape = 0; shape < SHAPES; shape++)
		{
			RandomVector(shape, 1, x, dim);
			CheckRotation(x, dim, 1e-40);
		}
	for (size_t i = 0; i < lengthof(dims); i++)
		for (Shape shape = 0; shape < SHAPE_ZERO; shape++)
		{
			RandomVector(shape, 1, x, dims[i]);
			CheckRotation(x, dims[i], 1e-40);
		}
	End();

	for (size_t i = 0; i < lengthof(scales); i++)
	{
		Begin("%s: rotation at scale %g", ann_kernels.name, scales[i]);
		for (int dim = 1; dim <= 300; dim++)
		{
			RandomVector(SHAPE_UNIFORM, scales[i], x, dim);
			CheckRotation(x, dim, 0x1p-136 * sqrt(dim));
		}
		End();
	}
	free(x);
}

/*
 * How evenly P spreads: the mean fourth power of its elements, and what the
 * first two thirds of the coordinates get of a unit vector, against a random
 * orthogonal matrix.
 */
static void
TestSpread(void)
{
	static const int dims[] = {100, 128, 192, 200, 255, 256, 384, 511, 768, 1000, 1023, 1536, 2047};

	for (size_t d = 0; d < lengthof(dims); d++)
	{
		int			dim = dims[d];
		int			kept = dim - dim / 3;
		float	   *x = Allocate(sizeof(float) * dim);
		double		fourth = 0;
		double		share = 0;

		Begin("rotation spreads unit vectors, dim %d", dim);
		for (int i = 0; i < dim; i++)
		{
			double		energy = 0;

			memset(x, 0, sizeof(float) * dim);
			x[i] = 1;
			AnnRotate(x, x, dim);
			for (int j = 0; j < dim; j++)
			{
				double		square = (double) x[j] * x[j];

				fourth += square * square;
				energy += j < kept ? square : 0;
			}
			share += (energy * dim / kept - 1) * (energy * dim / kept - 1) / dim;
		}
		Check(fabs(fourth - 3) < 0.2, "mean fourth power %g, not 3", fourth);
		Check(sqrt(share) < 1.25 * sqrt(2.0 * (dim - kept) / kept / dim),
			  "share of the first %d coordinates is off by %g", kept, sqrt(share));
		End();
		free(x);
	}
}

static void
TestNormalize(void)
{
	float		x[300];
	float		y[300];

	Begin("normalise");
	for (int i = 0; i < 1000; i++)
	{
		int			dim = 1 + RandomInt(300);
		double		norm;
		double		want;

		RandomVector(RandomInt(SHAPE_ZERO), exp(RandomNormal() * 25), x, dim);
		want = Norm(x, dim);
		norm = AnnNormalize(x, y, dim);
		Check(fabs(norm - want) <= 1e-13 * want, "norm %g differs from %g", norm, want);
		if (norm > 0)
			Check(fabs(Norm(y, dim) - 1) <= 0x1p-23 * 2, "norm %g after normalising %g", Norm(y, dim), norm);
	}
	memset(x, 0, sizeof(x));
	Check(AnnNormalize(x, y, 300) == 0 && y[0] == 0 && y[299] == 0, "zero vector");
	End();
}

/* Codes */

static void
TestParams(void)
{
	AnnCodeParams p;

	Begin("code parameters");
	for (int dim = 1; dim <= MAX_DIM; dim += 1 + dim / 50)
		for (int max_bytes = 0; max_bytes < 300; max_bytes++)
			for (AnnCodeUse use = ANN_CODE_SEARCH; use <= ANN_CODE_BUILD; use++)
			{
				int			planes = dim <= 128 ? 3 : dim < 384 ? 2 : 1;

				AnnCodeParamsChoose(&p, ANN_METRIC_L2, dim, use, max_bytes);
				Check(AnnCodeParamsValid(&p), "dim %d, max_bytes %d: not valid", dim, max_bytes);
				if (max_bytes == 0)
					Check(p.planes == planes + (use == ANN_CODE_BUILD && planes > 1) && p.kept == dim,
						  "dim %d: %d planes, %d kept", dim, p.planes, p.kept);
				else
					Check(AnnCodeBytes(&p) <= (size_t) max_bytes ||
						  (p.planes == 1 && p.kept == dim - dim / 3),
						  "dim %d, max_bytes %d: %d bits, %d kept", dim, max_bytes, p.planes, p.kept);
				Check(p.kept >= dim - dim / 3 && p.nbits >= p.kept && p.nbits < p.kept + 64 &&
					  p.nbits % 64 == 0, "dim %d: %d kept, %d bits", dim, p.kept, p.nbits);
			}

	AnnCodeParamsSet(&p, ANN_METRIC_COSINE, 768, 1, 512);
	Check(AnnCodeParamsValid(&p) && AnnCodeBytes(&p) == 64, "768 dimensions, 512 kept");
	p.kept = 769;
	Check(!AnnCodeParamsValid(&p), "more kept than there are");
	AnnCodeParamsSet(&p, ANN_METRIC_L2, 768, 5, 512);
	Check(!AnnCodeParamsValid(&p), "five planes");
	AnnCodeParamsSet(&p, ANN_METRIC_L1, 768, 1, 512);
	Check(!AnnCodeParamsValid(&p), "a code for L1");
	End();
}

/* The code point: u - (2^planes - 1) / 2, or 0 for coordinates that are not kept. */
static void
CodePoint(const AnnCodeParams *p, const uint8_t *code, float *v)
{
	for (int i = 0; i < p->dim; i++)
	{
		int			u = 0;

		v[i] = 0;
		if (i >= p->kept)
			continue;
		for (int plane = 0; plane < p->planes; plane++)
			u |= (code[plane * (p->nbits / 8) + i / 8] >> (i % 8) & 1) << plane;
		v[i] = u - ((1 << p->planes) - 1) / 2.0f;
	}
}

/* Largest cosine of a code point to the kept coordinates of r: all scales where a level changes. */
static double
BestCosine(const AnnCodeParams *p, const float *r)
{
	int			top = (1 << (p->planes - 1)) - 1;
	double		best = 0;

	for (int i = 0; i < p->kept; i++)
		for (int level = 1; level <= top || level == 1; level++)
		{
			double		scale = fabs(r[i]) > 0 ? level / fabs(r[i]) * (1 + 1e-9) : 1;
			double		vr = 0;
			double		vv = 0;

			for (int j = 0; j < p->kept; j++)
			{
				double		v = fmin(floor(fabs(r[j]) * scale), top) + 0.5;

				vr += v * fabs(r[j]);
				vv += v * v;
			}
			best = fmax(best, vr / sqrt(vv));
		}
	return best / Norm(r, p->dim);
}

static void
TestEncode(void)
{
	static const int dims[] = {1, 2, 3, 31, 63, 64, 65, 100, 128, 130, 200};

	for (int planes = 1; planes <= ANN_CODE_MAX_PLANES; planes++)
		for (Shape shape = 0; shape < SHAPE_ZERO; shape++)
		{
			double		worst = 0;

			Begin("codes of %d planes, shape %d", planes, shape);
			for (size_t d = 0; d < lengthof(dims) * 4; d++)
			{
				int			dim = dims[d / 4];
				AnnCodeParams p;
				AnnCodeFactors factors;
				float	   *r = Allocate(sizeof(float) * dim);
				float	   *v = Allocate(sizeof(float) * dim);
				uint8_t    *code;
				double		norm;
				double		vr;
				double		cosine;
				double		best;
				double		error;

				AnnCodeParamsSet(&p, ANN_METRIC_L2, dim, planes, d % 2 ? dim : dim - dim / 3);
				code = Allocate(AnnCodeBytes(&p));
				RandomVector(shape, 3, r, dim);
				AnnRotate(r, r, dim);
				norm = Norm(r, dim);
				if (Norm(r, p.kept) < norm / 500)
					goto next;
				Check(AnnEncode(&p, r, 0, code, &factors) == ANN_CODE_OK, "dim %d: status", dim);
				CodePoint(&p, code, v);
				vr = Dot(v, r, dim);
				cosine = vr / Norm(v, dim) / norm;

				for (int i = p.kept; i < p.nbits; i++)
					for (int plane = 0; plane < planes; plane++)
						Check((code[plane * (p.nbits / 8) + i / 8] >> (i % 8) & 1) == 0,
							  "dim %d: bit %d beyond the end is set", dim, i);
				for (int i = 0; i < p.kept; i++)
					Check(r[i] == 0 || (v[i] < 0) == (r[i] < 0), "dim %d: sign of coordinate %d", dim, i);
				Check(fabs(factors.add - norm) <= 1e-5 * norm, "dim %d: add %g, not %g", dim, factors.add, norm);
				Check(fabs(factors.mul * vr / norm / norm / sqrt(p.kept) - 1) <= 1e-5,
					  "dim %d: mul %g, not %g", dim, factors.mul, norm * norm * sqrt(p.kept) / vr);

				error = norm * sqrt(fmax(1 / cosine / cosine - 1, 0) / (dim > 1 ? dim - 1 : 1));
				Check(factors.error >= error * (1 - 1e-6) && factors.error <= error * 1.001 + 0.003 * norm / sqrt(dim),
					  "dim %d: error %g, not %g", dim, factors.error, error);

				best = BestCosine(&p, r);
				Check(cosine <= best * (1 + 1e-5), "dim %d: cosine %g better than the best, %g", dim, cosine, best);
				if (shape == SHAPE_NORMAL && p.kept >= 64)
					worst = fmax(worst, (1 / cosine / cosine - 1) / (1 / best / best - 1));
		next:
				free(r);
				free(v);
				free(code);
			}
			Check(worst <= 1.03, "error variance is %g times the best", worst);
			End();
		}
}

typedef struct Entry
{
	AnnCodeFactors factors;
	AnnHalf		half[3];
	uint8_t		code[ANN_CODE_MAX_PLANES * (MAX_DIM + 63) / 8];
} Entry;

static AnnCodeArray
ArrayOf(const Entry *entry, AnnFactorForm form)
{
	return (AnnCodeArray)
	{
		entry->code, sizeof(Entry),
			form == ANN_FACTORS_FLOAT3 ? (const void *) &entry->factors : (const void *) entry->half,
			sizeof(Entry), form, 1
	};
}

/* The score in AnnEstimateBatch's scale. */
static double
TrueScore(AnnMetric metric, const float *r, const float *rq, const float *c, int dim)
{
	double		sum = 0;

	for (int i = 0; i < dim; i++)
	{
		double		d = (double) r[i] - rq[i];

		sum += metric == ANN_METRIC_IP ? -((double) r[i] + c[i]) * ((double) rq[i] + c[i]) : d * d;
	}
	return metric == ANN_METRIC_COSINE ? sum / 2 : sum;
}

/*
 * Estimates against their definition, with the float query: they may differ by
 * what the int8 query loses at most (Cauchy-Schwarz), the float factors by
 * rounding, the half ones by what the README says.
 */
static void
TestEstimates(void)
{
	static const int dims[] = {1, 5, 64, 100, 128, 200, 384, 768, 1000};
	Entry	   *entry = Allocate(sizeof(Entry));

	for (AnnMetric metric = ANN_METRIC_L2; metric <= ANN_METRIC_COSINE; metric++)
		for (int planes = 1; planes <= ANN_CODE_MAX_PLANES; planes++)
		{
			Begin("%s: estimates by definition, metric %d, %d planes", ann_kernels.name, metric, planes);
			for (size_t i = 0; i < lengthof(dims) * 20; i++)
			{
				int			dim = dims[i / 20];
				AnnCodeParams p;
				float	   *r = Allocate(sizeof(float) * dim * 4);
				float	   *rq = r + dim;
				float	   *c = r + 2 * dim;
				float	   *v = r + 3 * dim;
				AnnQueryCode *query;
				double		scale = exp(RandomNormal() * 3);
				double		factor = metric == ANN_METRIC_L2 ? 2 : 1;
				double		r_dot_c;
				double		q_dot_c;
				double		max = 0;
				double		definition;
				double		magnitude;
				double		lost;

				RandomVector(RandomInt(SHAPE_HEAVY), scale, r, dim);
				RandomVector(RandomInt(SHAPE_HEAVY), scale, rq, dim);
				RandomVector(SHAPE_NORMAL, scale, c, dim);
				r_dot_c = Dot(r, c, dim);
				q_dot_c = Dot(rq, c, dim) + Dot(c, c, dim);
				AnnCodeParamsSet(&p, metric, dim, planes, i % 2 ? dim : dim - dim / 3);
				AnnCodeParamsSetScale(&p, (float) Norm(r, dim));
				query = Allocate(AnnQueryCodeSize(&p));
				Check(AnnQueryCodeInit(query, &p, rq, (float) q_dot_c), "dim %d: query not valid", dim);
				AnnEncode(&p, r, (float) r_dot_c, entry->code, &entry->factors);
				AnnFactorsToHalf(&p, &entry->factors, entry->half);
				CodePoint(&p, entry->code, v);

				for (int j = 0; j < p.kept; j++)
					max = fmax(max, fabs(rq[j]));
				lost = max / 127 / 2 * sqrt(p.kept) * Norm(v, dim) * entry->factors.mul / sqrt(p.kept) * factor;
				definition = factor * Dot(v, rq, dim) * entry->factors.mul / sqrt(p.kept);
				if (metric == ANN_METRIC_IP)
				{
					magnitude = fabs(r_dot_c) + fabs(q_dot_c) + fabs(definition) + lost;
					definition = -r_dot_c - q_dot_c - definition;
				}
				else
				{
					double		squares = factor / 2 * (Dot(r, r, dim) + Dot(rq, rq, dim));

					magnitude = squares + fabs(definition) + lost;
					definition = squares - definition;
				}

				for (AnnFactorForm form = ANN_FACTORS_HALF2; form <= ANN_FACTORS_FLOAT3; form++)
				{
					AnnCodeArray array = ArrayOf(entry, form);
					double		rounding = form == ANN_FACTORS_FLOAT3 ? 1e-5 : 0x1p-10 + 1e-5;
					float		estimate;
					float		error = 0;

					AnnEstimateBatch(query, &array, &estimate, form == ANN_FACTORS_HALF2 ? NULL : &error);
					Check(fabs(estimate - definition) <= lost * 1.001 + rounding * magnitude,
						  "dim %d form %d: estimate %g, definition %g, may lose %g", dim, form, estimate, definition, lost);
					if (form == ANN_FACTORS_FLOAT3)
						Check(error >= factor * Norm(rq, dim) * entry->factors.error * (1 - 1e-5) &&
							  error <= 1.05 * factor * Norm(rq, dim) * entry->factors.error + lost * 16 + 1e-3 * magnitude,
							  "dim %d: error %g", dim, error);
				}
				free(r);
				free(query);
			}
			End();
		}
	free(entry);
}

/* Many slots at once must give what each gives alone, at any count and stride. */
static void
TestBatch(void)
{
	enum
	{
		DIM = 200, COUNT = 150
	};
	AnnCodeParams p;
	AnnQueryCode *query;
	size_t		slot_size;
	char	   *slots;
	float		x[DIM];
	float		estimates[COUNT + 1];
	float		errors[COUNT + 1];

	for (int planes = 1; planes <= ANN_CODE_MAX_PLANES; planes++)
	{
		Begin("%s: batches, %d planes", ann_kernels.name, planes);
		AnnCodeParamsSet(&p, ANN_METRIC_L2, DIM, planes, DIM);
		query = Allocate(AnnQueryCodeSize(&p));
		slot_size = AnnCodeBytes(&p) + 6 + 7;
		slots = Allocate(slot_size * COUNT);
		RandomVector(SHAPE_NORMAL, 1, x, DIM);
		AnnQueryCodeInit(query, &p, x, 0);
		for (int i = 0; i < COUNT; i++)
		{
			AnnCodeFactors factors;
			AnnHalf		half[3];

			RandomVector(SHAPE_NORMAL, 1, x, DIM);
			AnnEncode(&p, x, 0, (uint8_t *) slots + slot_size * i + 6, &factors);
			AnnFactorsToHalf(&p, &factors, half);
			memcpy(slots + slot_size * i, half, 6);
		}
		for (int count = 0; count <= COUNT; count++)
		{
			AnnCodeArray array = {slots + 6, slot_size, slots, slot_size, ANN_FACTORS_HALF3, count};

			estimates[count] = -7;
			errors[count] = -7;
			AnnEstimateBatch(query, &array, estimates, errors);
			Check(estimates[count] == -7 && errors[count] == -7, "count %d: wrote beyond the end", count);
			for (int i = 0; i < count; i++)
			{
				AnnCodeArray one = {slots + slot_size * i + 6, 0, slots + slot_size * i, 0, ANN_FACTORS_HALF3, 1};
				float		estimate;
				float		error;

				AnnEstimateBatch(query, &one, &estimate, &error);
				Check(estimate == estimates[i] && error == errors[i], "count %d: slot %d differs", count, i);
			}
		}
		free(query);
		free(slots);
		End();
	}
}

/*
 * Codes in columns: the uppermost planes bound what a code of one plane bounds, no more than a
 * little less, and estimates by whole codes are those of AnnEstimateBatch.
 */
static void
TestColumns(AnnMetric metric, int dim)
{
	enum
	{
		COUNT = 150
	};
	const float eps = 3.5f;

	for (int planes = 1; planes <= ANN_CODE_MAX_PLANES; planes++)
	{
		AnnCodeParams p;
		AnnCodeParams one_plane;
		AnnQueryCode *query;
		AnnQueryCode *one_query;
		size_t		plane_size;
		size_t		low_size;
		float	   *x = Allocate(sizeof(float) * dim);
		AnnHalf		add[COUNT];
		AnnHalf		mul[COUNT];
		AnnHalf		error[COUNT];
		AnnHalf		fine[2 * COUNT];
		AnnHalf		whole[COUNT][3];
		uint8_t    *top;
		uint8_t    *low;
		uint8_t    *codes;
		uint8_t    *code;
		AnnCodeColumns columns;

		Begin("%s: columns, metric %d, dim %d, %d planes", ann_kernels.name, metric, dim, planes);
		AnnCodeParamsSet(&p, metric, dim, planes, dim);
		AnnCodeParamsSetScale(&p, (float) sqrt(dim));
		one_plane = p;
		one_plane.planes = 1;
		plane_size = (size_t) p.nbits / 8;
		low_size = AnnCodeBytes(&p) - plane_size;
		top = Allocate(plane_size * COUNT);
		low = Allocate(low_size * COUNT + 1);
		codes = Allocate(AnnCodeBytes(&p) * COUNT);
		code = Allocate(plane_size);
		query = Allocate(AnnQueryCodeSize(&p));
		one_query = Allocate(AnnQueryCodeSize(&one_plane));
		for (int i = 0; i < COUNT; i++)
		{
			uint8_t    *all = codes + AnnCodeBytes(&p) * i;
			AnnCodeFactors factors;
			AnnHalf		half[3];

			RandomVector(RandomInt(SHAPE_HEAVY), i == 0 ? 0 : 1, x, dim);
			if (i == 1)
				x[0] = NAN;
			AnnEncode(&p, x, 0.5f, all, &factors);
			AnnFactorsToHalf(&p, &factors, whole[i]);
			memcpy(low + low_size * i, all, low_size);
			memcpy(top + plane_size * i, all + low_size, plane_size);
			memcpy(fine + 2 * i, &whole[i][1], 2 * sizeof(AnnHalf));
			AnnEncode(&one_plane, x, 0.5f, code, &factors);
			AnnFactorsToHalf(&one_plane, &factors, half);
			Check(memcmp(code, top + plane_size * i, plane_size) == 0, "code %d: its uppermost plane is not its signs", i);
			add[i] = half[0];
			mul[i] = half[1];
			error[i] = half[2];
		}
		columns = (AnnCodeColumns) {.add = add, .mul = mul, .error = error, .top = top, .fine = fine, .low = low};
		for (int round = 0; round < 2; round++)
		{
			bool		valid = round == 0;

			RandomVector(SHAPE_NORMAL, 1, x, dim);
			if (!valid)
				x[dim - 1] = INFINITY;
			Check(AnnQueryCodeInit(query, &p, x, 0.25f) == valid, "query");
			AnnQueryCodeInit(one_query, &one_plane, x, 0.25f);
			for (int count = 0; count <= COUNT; count += count < 70 ? 1 : 27)
			{
				float		lowers[COUNT + 1];
				int32_t		ips[COUNT + 1];
				uint16_t	places[COUNT];
				float		estimates[COUNT + 1];
				float		errors[COUNT + 1];
				int			n = 0;

				columns.count = count;
				lowers[count] = -7;
				ips[count] = -7;
				AnnBoundColumns(query, &columns, eps, lowers, ips);
				Check(lowers[count] == -7 && ips[count] == -7, "count %d: wrote beyond the end", count);
				for (int i = 0; i < count; i++)
				{
					AnnHalf		half[3] = {add[i], mul[i], error[i]};
					AnnCodeArray one = {top + plane_size * i, 0, half, 0, ANN_FACTORS_HALF3, 1};
					float		estimate;
					float		its_error;
					float		lower;
					float		slack;

					AnnEstimateBatch(one_query, &one, &estimate, &its_error);
					lower = estimate - eps * its_error;
					slack = 1e-5f * (fabsf(estimate) + its_error + (float) dim);
					Check(!isnan(lowers[i]) && lowers[i] < INFINITY, "count %d: bound %d is %g", count, i, lowers[i]);
					if (isinf(lower))
						Check(lowers[i] == lower, "count %d: bound %d is %g, not %g", count, i, lowers[i], lower);
					else
						Check(lowers[i] <= lower + slack && lowers[i] >= lower - 0.05f * eps * its_error - slack,
							  "count %d: bound %d is %g, not %g", count, i, lowers[i], lower);
					if (RandomInt(3) > 0)
						places[n++] = (uint16_t) i;
				}
				estimates[n] = errors[n] = -7;
				AnnEstimateColumns(query, &columns, ips, places, n, estimates, errors);
				Check(estimates[n] == -7 && errors[n] == -7, "%d places: wrote beyond the end", n);
				for (int i = 0; i < n; i++)
				{
					AnnCodeArray one = {codes + AnnCodeBytes(&p) * places[i], 0, whole[places[i]], 0, ANN_FACTORS_HALF3, 1};
					float		estimate;
					float		its_error;

					AnnEstimateBatch(query, &one, &estimate, &its_error);
					Check(estimate == estimates[i] && its_error == errors[i], "place %d of %d: %g +- %g, not %g +- %g", i, n,
						  estimates[i], errors[i], estimate, its_error);
				}
			}
		}
		free(x);
		free(top);
		free(low);
		free(codes);
		free(code);
		free(query);
		free(one_query);
		End();
	}
}

/*
 * Over independent pairs of vectors, whose true distances are known, the
 * deviation in units of the stated error must have mean 0 (within 5 sigma of a
 * mean), mean square near 1, and hardly ever exceed 3.
 */
static void
TestUnbiased(AnnMetric metric, int dim, int planes, int kept, Shape shape, double similar)
{
	enum
	{
		PAIRS = 4000
	};
	AnnCodeParams p;
	AnnQueryCode *query;
	Entry	   *entry = Allocate(sizeof(Entry));
	AnnCodeArray array = ArrayOf(entry, ANN_FACTORS_HALF3);
	float	   *x = Allocate(sizeof(float) * dim * 3);
	float	   *q = x + dim;
	float	   *c = x + 2 * dim;
	double		mean = 0;
	double		square = 0;
	int			outside = 0;
	int			above = 0;

	Begin("unbiased: metric %d, dim %d, %d planes, %d kept, shape %d, similarity %g",
		  metric, dim, planes, kept, shape, similar);
	AnnCodeParamsSet(&p, metric, dim, planes, kept);
	query = Allocate(AnnQueryCodeSize(&p));
	RandomVector(SHAPE_UNIFORM, metric == ANN_METRIC_IP, c, dim);
	AnnRotate(c, c, dim);
	for (int pair = 0; pair < PAIRS; pair++)
	{
		float		estimate;
		float		error;
		double		deviation;

		RandomVector(shape, 1, x, dim);
		RandomVector(shape, 1, q, dim);
		for (int i = 0; i < dim; i++)
			q[i] = (float) (similar * x[i] + (1 - similar) * q[i]);
		AnnRotate(x, x, dim);
		AnnRotate(q, q, dim);
		AnnEncode(&p, x, (float) Dot(x, c, dim), entry->code, &entry->factors);
		AnnFactorsToHalf(&p, &entry->factors, entry->half);
		AnnQueryCodeInit(query, &p, q, (float) (Dot(q, c, dim) + Dot(c, c, dim)));
		AnnEstimateBatch(query, &array, &estimate, &error);
		deviation = (estimate - TrueScore(metric, x, q, c, dim)) / error;
		mean += deviation / PAIRS;
		square += deviation * deviation / PAIRS;
		outside += fabs(deviation) > 3;
		above += deviation > ANN_CODE_EPS;
	}
	Check(fabs(mean) <= 5 * sqrt(square / PAIRS), "mean deviation %g sigma", mean);
	Check(square <= 1.1 && square >= 0.5 * (1 - similar), "mean square deviation %g", square);
	Check(outside <= PAIRS / 100, "%d of %d outside 3 sigma", outside, PAIRS);
	Check(above <= PAIRS / 200, "%d of %d below the lower bound", above, PAIRS);
	End();
	free(query);
	free(entry);
	free(x);
}

static void
TestStatistics(void)
{
	static const int dims[] = {32, 64, 128, 200, 384, 768};

	for (size_t d = 0; d < lengthof(dims); d++)
		for (int planes = 1; planes <= ANN_CODE_MAX_PLANES; planes++)
		{
			int			dim = dims[d];
			AnnMetric	metric = (AnnMetric) ((d + planes) % 3);

			TestUnbiased(metric, dim, planes, dim, SHAPE_NORMAL, 0);
			TestUnbiased(metric, dim, planes, dim, SHAPE_NORMAL, 0.5);
			TestUnbiased(metric, dim, planes, dim - dim / 3, SHAPE_NORMAL, 0.3);
			if (dim >= 64)
				TestUnbiased(metric, dim, planes, dim, SHAPE_SPARSE, 0.3);
		}
}

/* In clusters of 768 dimensions one bit must tell near from far. */
static void
TestRanking(void)
{
	enum
	{
		DIM = 768, ROWS = 2000, CLUSTERS = 20, QUERIES = 20, K = 10, CANDIDATES = 100
	};
	AnnCodeParams p;
	AnnQueryCode *query;
	float	   *x = Allocate(sizeof(float) * DIM * (ROWS + QUERIES));
	float	   *centres = Allocate(sizeof(float) * DIM * CLUSTERS);
	uint8_t    *codes;
	AnnCodeFactors *factors = Allocate(sizeof(AnnCodeFactors) * ROWS);
	float		estimates[ROWS];
	double		found = 0;

	Begin("one bit ranks clusters, dim %d", DIM);
	AnnCodeParamsChoose(&p, ANN_METRIC_L2, DIM, ANN_CODE_SEARCH, 0);
	query = Allocate(AnnQueryCodeSize(&p));
	codes = Allocate(AnnCodeBytes(&p) * ROWS);
	RandomVector(SHAPE_NORMAL, 1, centres, DIM * CLUSTERS);
	for (int i = 0; i < ROWS + QUERIES; i++)
	{
		float	   *xi = x + (size_t) i * DIM;

		RandomVector(SHAPE_NORMAL, 0.4, xi, DIM);
		for (int j = 0; j < DIM; j++)
			xi[j] = xi[j] * (1 + j % 7) / 4 + centres[(size_t) (i % CLUSTERS) * DIM + j];
		AnnRotate(xi, xi, DIM);
		if (i < ROWS)
			AnnEncode(&p, xi, 0, codes + AnnCodeBytes(&p) * i, &factors[i]);
	}
	for (int i = ROWS; i < ROWS + QUERIES; i++)
	{
		AnnCodeArray array = {codes, AnnCodeBytes(&p), factors, sizeof(AnnCodeFactors), ANN_FACTORS_FLOAT3, ROWS};
		double		distances[ROWS];

		AnnQueryCodeInit(query, &p, x + (size_t) i * DIM, 0);
		AnnEstimateBatch(query, &array, estimates, NULL);
		for (int j = 0; j < ROWS; j++)
			distances[j] = TrueScore(ANN_METRIC_L2, x + (size_t) j * DIM, x + (size_t) i * DIM, NULL, DIM);
		for (int j = 0; j < ROWS; j++)
		{
			int			nearer = 0;
			int			nearer_by_code = 0;

			for (int l = 0; l < ROWS; l++)
			{
				nearer += distances[l] < distances[j];
				nearer_by_code += estimates[l] < estimates[j];
			}
			found += nearer < K && nearer_by_code < CANDIDATES;
		}
	}
	Check(found >= 0.95 * K * QUERIES, "%g of %d nearest rows among the first %d by code", found, K * QUERIES, CANDIDATES);
	End();
	free(x);
	free(centres);
	free(codes);
	free(factors);
	free(query);
}

/* Whatever goes in: no NaN comes out, and a lower bound is one. */
static void
TestCodeGuards(void)
{
	static const double scales[] = {1, 1e-45, 1e-38, 1e-30, 1e-20, 1e-7, 1e7, 1e17, 1e18, 1e20, 1e30, 3e38};
	Entry	   *entry = Allocate(sizeof(Entry));

	for (AnnMetric metric = ANN_METRIC_L2; metric <= ANN_METRIC_IP; metric++)
		for (int planes = 1; planes <= ANN_CODE_MAX_PLANES; planes++)
		{
			Begin("code guards, metric %d, %d planes", metric, planes);
			for (int i = 0; i < 20000; i++)
			{
				int			dim = 1 + RandomInt(100);
				AnnCodeParams p;
				float		r[100];
				float		rq[100];
				static const float zero[100];
				AnnQueryCode *query;
				AnnCodeStatus status;
				bool		valid;
				double		score;

				RandomVector(RandomInt(SHAPES), scales[RandomInt(lengthof(scales))], r, dim);
				RandomVector(RandomInt(SHAPES), scales[RandomInt(lengthof(scales))], rq, dim);
				if (RandomInt(50) == 0)
					r[RandomInt(dim)] = RandomInt(2) ? NAN : -INFINITY;
				if (RandomInt(50) == 0)
					rq[RandomInt(dim)] = RandomInt(2) ? NAN : INFINITY;
				AnnCodeParamsSet(&p, metric, dim, planes, RandomInt(2) ? dim : dim - dim / 3);
				if (RandomInt(2))
					AnnCodeParamsSetScale(&p, (float) scales[RandomInt(lengthof(scales))]);
				query = Allocate(AnnQueryCodeSize(&p));
				status = AnnEncode(&p, r, 0, entry->code, &entry->factors);
				AnnFactorsToHalf(&p, &entry->factors, entry->half);
				valid = AnnQueryCodeInit(query, &p, rq, 0);
				score = TrueScore(metric, r, rq, zero, dim);

				Check(isfinite(entry->factors.add) && isfinite(entry->factors.mul) && entry->factors.error >= 0,
					  "factors %g %g %g", entry->factors.add, entry->factors.mul, entry->factors.error);
				Check(status != ANN_CODE_ZERO || Norm(r, dim) == 0, "status is zero, norm is %g", Norm(r, dim));
				Check((status == ANN_CODE_INVALID) == isinf(entry->factors.error), "status %d, error %g", status, entry->factors.error);
				Check(status != ANN_CODE_INVALID || !(Norm(r, dim) < 1e18), "norm %g is invalid", Norm(r, dim));
				Check(valid || !(Norm(rq, dim) < 1e18), "norm %g of a query is invalid", Norm(rq, dim));

				for (AnnFactorForm form = ANN_FACTORS_HALF3; form <= ANN_FACTORS_FLOAT3; form++)
				{
					AnnCodeArray array = ArrayOf(entry, form);
					float		estimate;
					float		error;

					AnnEstimateBatch(query, &array, &estimate, &error);
					Check(!isnan(estimate) && error >= 0, "form %d: estimate %g, error %g", form, estimate, error);
					if (isnan(score))
						Check(isinf(error), "form %d: score is NaN, error %g", form, error);
					else
						/* No probability: this is the largest deviation there can be, in units of the error. */
						Check(estimate - (sqrt(dim) + 3) * (double) error <= score ||
							  estimate - (sqrt(dim) + 3) * (double) error <= score + 1e-44,
							  "form %d, dim %d: lower bound %g - %g, score %g, norms %g %g", form, dim, estimate, error, score,
							  Norm(r, dim), Norm(rq, dim));
				}
				free(query);
			}
			End();
		}
	free(entry);
}

/* Cosines from codes, against pairs whose cosine is known. */
static void
TestAngles(void)
{
	enum
	{
		DIM = 256, PAIRS = 400
	};
	static const double cosines[] = {-0.95, -0.5, 0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.98, 0.995};

	for (int planes = 1; planes <= ANN_CODE_MAX_PLANES; planes++)
	{
		AnnCodeParams p;
		AnnCodeProbe *probes[2];
		uint8_t    *codes[2];

		AnnCodeParamsSet(&p, ANN_METRIC_IP, DIM, planes, DIM);
		for (int i = 0; i < 2; i++)
		{
			probes[i] = Allocate(AnnCodeProbeSize(&p));
			codes[i] = Allocate(AnnCodeBytes(&p));
		}
		for (size_t k = 0; k < lengthof(cosines); k++)
		{
			double		cosine = cosines[k];
			double		mean = 0;
			double		square = 0;

			Begin("angles from codes: %d planes, cosine %g", planes, cosine);
			for (int pair = 0; pair < PAIRS; pair++)
			{
				float		x[2][DIM];
				AnnCodeFactors factors[2];
				double		dot;
				double		deviation;

				/* Two random directions, the second turned to have just this cosine. */
				RandomVector(SHAPE_NORMAL, 1, x[0], DIM);
				RandomVector(SHAPE_NORMAL, 1, x[1], DIM);
				AnnNormalize(x[0], x[0], DIM);
				dot = Dot(x[0], x[1], DIM);
				for (int i = 0; i < DIM; i++)
					x[1][i] -= (float) (dot * x[0][i]);
				AnnNormalize(x[1], x[1], DIM);
				for (int i = 0; i < DIM; i++)
					x[1][i] = (float) (2 * (cosine * x[0][i] + sqrt(1 - cosine * cosine) * x[1][i]));

				for (int i = 0; i < 2; i++)
				{
					float		norm = 1 + i;

					AnnRotate(x[i], x[i], DIM);
					AnnEncode(&p, x[i], 0, codes[i], &factors[i]);
					AnnCodeProbeInit(probes[i], &p, codes[i], norm);
					Check(fabs(AnnCodeNorm(&p, codes[i], &factors[i]) / norm - 1) < 0.15,
						  "norm %g from mul, not %g", AnnCodeNorm(&p, codes[i], &factors[i]), norm);
				}
				deviation = AnnCodeProbeCosine(&p, probes[0], probes[1]) - cosine;
				mean += deviation / PAIRS;
				square += deviation * deviation / PAIRS;
				Check(fabs(AnnCodeProbeDistance2(&p, probes[0], probes[1]) - (5 - 4 * (cosine + deviation))) < 1e-4,
					  "distance %g, cosine %g", AnnCodeProbeDistance2(&p, probes[0], probes[1]), cosine + deviation);
				Check(fabs(AnnCodeProbeCosine(&p, probes[0], probes[0]) - 1) < 1e-5 &&
					  AnnCodeProbeDistance2(&p, probes[0], probes[0]) < 1e-5, "a code and itself");
			}
			Check(fabs(mean) <= 5 * sqrt(square / PAIRS) + 0.003, "mean deviation %g, rms %g", mean, sqrt(square));

			/* The angle varies like a share of DIM coin tosses; more bits must do better. */
			Check(sqrt(square) <= 1.1 * 3.1416 / 2 / sqrt(DIM) * sqrt(1 - cosine * cosine) / (planes == 1 ? 1 : planes) + 0.003,
				  "rms deviation %g", sqrt(square));
			End();
		}
		for (int i = 0; i < 2; i++)
		{
			free(probes[i]);
			free(codes[i]);
		}
	}
}

/* Refine forms */

/* Halves in `halves` as a column of halfvec would have them, and x what they stand for. */
static void
MakeHalfColumn(float *x, AnnHalf *halves, int dim)
{
	for (int i = 0; i < dim; i++)
	{
		halves[i] = AnnFloatToHalf(x[i]);
		if ((halves[i] & 0x7fff) == 0x7c00)
			halves[i]--;
		x[i] = AnnHalfToFloat(halves[i]);
	}
}

/* The operator's value, from its definition. */
static long double
TrueDistance(AnnMetric metric, const float *q, const float *x, int dim)
{
	long double ab = 0;
	long double aa = 0;
	long double bb = 0;
	long double l2 = 0;
	long double l1 = 0;

	for (int i = 0; i < dim; i++)
	{
		long double a = q[i];
		long double b = x[i];

		ab += a * b;
		aa += a * a;
		bb += b * b;
		l2 += (a - b) * (a - b);
		l1 += fabsl(a - b);
	}
	switch (metric)
	{
		case ANN_METRIC_L2:
			return sqrtl(l2);
		case ANN_METRIC_IP:
			return -ab;
		case ANN_METRIC_COSINE:
			return 1 - ab / sqrtl(aa) / sqrtl(bb);
		default:
			return l1;
	}
}

/* What the SQL function gives with one table of kernels. */
static double
SqlDistance(AnnMetric metric, const AnnKernels *k, bool half, const void *q, const void *x, int dim)
{
	switch (metric)
	{
		case ANN_METRIC_L2:
			return sqrt((double) (half ? k->l2sq_f16(q, x, dim) : k->l2sq_f32(q, x, dim)));
		case ANN_METRIC_IP:
			return -(double) (half ? k->ip_f16(q, x, dim) : k->ip_f32(q, x, dim));
		case ANN_METRIC_COSINE:
			return AnnCosineDistance(half ? k->cosine_f16(q, x, dim) : k->cosine_f32(q, x, dim));
		default:
			return half ? k->l1_f16(q, x, dim) : k->l1_f32(q, x, dim);
	}
}

typedef enum Relation
{
	RELATION_NONE,
	RELATION_EQUAL,
	RELATION_NEAR,				/* differing in the last bits */
	RELATION_OPPOSITE,
	RELATION_ORTHOGONAL,
	RELATIONS
} Relation;

static void
MakeRelated(Relation relation, float *q, const float *x, int dim)
{
	for (int i = 0; i < dim; i++)
		switch (relation)
		{
			case RELATION_EQUAL:
				q[i] = x[i];
				break;
			case RELATION_NEAR:
				q[i] = x[i] * (float) (1 + RandomNormal() * 3e-7);
				break;
			case RELATION_OPPOSITE:
				q[i] = -x[i];
				break;
			case RELATION_ORTHOGONAL:
				q[i] = dim % 2 && i == dim - 1 ? 0 : i % 2 ? -x[i - 1] : i + 1 < dim ? x[i + 1] : 0;
				break;
			default:
				break;
		}
}

#define INTERVAL_DIM 1600

static void
CheckInterval(const AnnRefineSpec *spec, Shape shape, Relation relation, double scale, double q_scale, long *vacuous)
{
	static float x[INTERVAL_DIM];
	static float q[INTERVAL_DIM];
	static AnnHalf x_half[INTERVAL_DIM];
	static AnnHalf q_half[INTERVAL_DIM];
	static float scratch[INTERVAL_DIM];
	bool		half = spec->element == ANN_ELEMENT_HALF;
	int			dim = spec->dim;
	char	   *stored = Allocate(AnnRefineSize(spec) + 1) + 1;
	AnnRefineQuery *query = Allocate(AnnRefineQuerySize(spec));
	AnnRefineStatus status;
	AnnInterval interval;
	double		truth;

	RandomVector(shape, scale, x, dim);
	RandomVector(RandomInt(SHAPES), q_scale, q, dim);
	MakeRelated(relation, q, x, dim);
	if (half)
	{
		MakeHalfColumn(x, x_half, dim);
		MakeHalfColumn(q, q_half, dim);
	}

	/* Writer, reader and SQL function may each run on another CPU. */
	ann_kernels = *tables[RandomInt(table_count)];
	status = AnnRefineEncode(spec, half ? (const void *) x_half : x, stored, scratch);
	ann_kernels = *tables[RandomInt(table_count)];
	AnnRefineQueryInit(query, spec, half ? (const void *) q_half : q);
	interval = AnnRefineInterval(query, stored, AnnRefineScore(query, stored));

	truth = (double) TrueDistance(spec->metric, q, x, dim);
	if (AnnRefineIsExact(spec))
	{
		double		sql = SqlDistance(spec->metric, &ann_kernels, half,
									  half ? (const void *) q_half : q, half ? (const void *) x_half : x, dim);

		Check((interval.lo == sql && interval.hi == sql) || (isnan(sql) && isnan(interval.lo) && isnan(interval.hi)),
			  "exact, but %g..%g is not %g", interval.lo, interval.hi, sql);
	}
	else
	{
		/* Only what its own double rounding may do. */
		double		slack = 1e-15 * (spec->metric == ANN_METRIC_COSINE ? 1 : fabs(truth));

		Check(!isnan(interval.lo) && interval.lo <= interval.hi, "%g..%g", interval.lo, interval.hi);
		Check(isnan(truth) || (interval.lo <= truth + slack && interval.hi >= truth - slack),
			  "dim %d metric %d form %d element %d rotated %d shape %d relation %d scale %g: %.17g is not in %.17g..%.17g",
			  dim, spec->metric, spec->form, spec->element, spec->rotated, shape, relation, scale,
			  truth, interval.lo, interval.hi);
		for (int table = 0; table < table_count; table++)
		{
			double		sql = SqlDistance(spec->metric, tables[table], half,
										  half ? (const void *) q_half : q, half ? (const void *) x_half : x, dim);

			Check(isnan(sql) ? isinf(interval.hi) || spec->metric == ANN_METRIC_COSINE :
				  interval.lo <= sql && interval.hi >= sql,
				  "dim %d metric %d form %d element %d rotated %d shape %d relation %d scale %g: %s gives %.17g, not in %.17g..%.17g",
				  dim, spec->metric, spec->form, spec->element, spec->rotated, shape, relation, scale,
				  tables[table]->name, sql, interval.lo, interval.hi);
		}
		Check(status != ANN_REFINE_ZERO || (spec->metric == ANN_METRIC_COSINE && Norm(x, dim) == 0), "status zero");
		*vacuous += isinf(interval.lo);
	}
	free(stored - 1);
	free(query);
}

static void
TestIntervals(void)
{
	static const double scales[] = {1, 1, 1, 1e-3, 1e3, 1e-10, 1e10, 1e-18, 1e18, 1e-30, 1e30};

	for (AnnMetric metric = ANN_METRIC_L2; metric <= ANN_METRIC_L1; metric++)
		for (AnnElement element = ANN_ELEMENT_FLOAT4; element <= ANN_ELEMENT_HALF; element++)
			for (AnnRefineForm form = ANN_REFINE_FULL; form <= ANN_REFINE_SQ8; form++)
				for (int rotated = 0; rotated <= 1; rotated++)
				{
					AnnRefineSpec spec = {0, metric, form, element, rotated};
					long		vacuous = 0;

					if (metric == ANN_METRIC_L1 && rotated)
						continue;
					Begin("intervals: metric %d, element %d, form %d, rotated %d", metric, element, form, rotated);
					for (int i = 0; i < 6000; i++)
					{
						spec.dim = i % 100 == 0 ? 300 + RandomInt(INTERVAL_DIM - 300 + 1) : 1 + RandomInt(i % 10 == 0 ? 300 : 40);
						CheckInterval(&spec, RandomInt(SHAPES), RandomInt(RELATIONS), scales[RandomInt(lengthof(scales))],
									  scales[RandomInt(lengthof(scales))], &vacuous);
					}
					End();

					Begin("intervals say something: metric %d, element %d, form %d, rotated %d", metric, element, form, rotated);
					vacuous = 0;
					for (int i = 0; i < 300; i++)
					{
						spec.dim = 1 + RandomInt(300);
						CheckInterval(&spec, RandomInt(SHAPE_HEAVY), RELATION_NONE, 10, 1, &vacuous);
					}
					Check(metric == ANN_METRIC_COSINE ? vacuous < 300 / 2 : vacuous == 0, "%ld of 300 say nothing", vacuous);
					End();
				}
	AnnDistanceInit();
}

/* On plain data the interval is about as wide as the rounding error of the form demands. */
static void
TestWidths(void)
{
	enum
	{
		DIM = 384
	};
	static const double widest[][3] = {
		/* full (rotated), half, sq8, relative to the distance; IP and cosine: to |q||x| */
		{3e-5, 7e-4, 2e-2},
		{5e-5, 7e-4, 2e-2},
		{6e-5, 1e-3, 3e-2},
		{0, 1e-3, 4e-2},
	};
	float		x[DIM];
	float		q[DIM];
	float		scratch[DIM];

	for (AnnMetric metric = ANN_METRIC_L2; metric <= ANN_METRIC_L1; metric++)
		for (AnnRefineForm form = ANN_REFINE_FULL; form <= ANN_REFINE_SQ8; form++)
		{
			AnnRefineSpec spec = {DIM, metric, form, ANN_ELEMENT_FLOAT4, metric != ANN_METRIC_L1};
			char	   *stored = Allocate(AnnRefineSize(&spec));
			AnnRefineQuery *query = Allocate(AnnRefineQuerySize(&spec));

			Begin("interval widths: metric %d, form %d", metric, form);
			for (int i = 0; i < 200; i++)
			{
				AnnInterval interval;
				double		scale;

				RandomVector(SHAPE_NORMAL, 5, x, DIM);
				RandomVector(SHAPE_NORMAL, 5, q, DIM);
				Check(AnnRefineEncode(&spec, x, stored, scratch) == ANN_REFINE_OK, "status");
				AnnRefineQueryInit(query, &spec, q);
				interval = AnnRefineInterval(query, stored, AnnRefineScore(query, stored));
				scale = metric == ANN_METRIC_IP ? Norm(x, DIM) * Norm(q, DIM) :
					metric == ANN_METRIC_COSINE ? 1 : (double) TrueDistance(metric, q, x, DIM);
				Check(interval.hi - interval.lo <= widest[metric][form] * scale,
					  "%g..%g is %g wide", interval.lo, interval.hi, (interval.hi - interval.lo) / scale);
			}
			End();
			free(stored);
			free(query);
		}
}

static void
TestRefineForms(void)
{
	enum
	{
		DIM = 100
	};
	float		x[DIM];
	float		decoded[DIM];
	float		scratch[DIM];
	char		stored[sizeof(float) * (DIM + 3)];
	float		radius;

	for (AnnRefineForm form = ANN_REFINE_HALF; form <= ANN_REFINE_SQ8; form++)
	{
		AnnRefineSpec spec = {DIM, ANN_METRIC_L2, form, ANN_ELEMENT_FLOAT4, 0};

		Begin("stored radius is the rounding error, form %d", form);
		for (int i = 0; i < 1000; i++)
		{
			double		error = 0;

			RandomVector(RandomInt(SHAPE_CONSTANT), 3, x, DIM);
			AnnRefineEncode(&spec, x, stored, scratch);
			AnnRefineDecode(&spec, stored, decoded);
			memcpy(&radius, stored, sizeof(radius));
			for (int j = 0; j < DIM; j++)
				error += ((double) x[j] - decoded[j]) * ((double) x[j] - decoded[j]);
			error = sqrt(error);
			Check(radius >= error && radius <= error * 1.00001 + 2e-6 * Norm(x, DIM), "radius %g, error %g of %g", radius, error, Norm(x, DIM));
			Check(memcmp(x, scratch, sizeof(x)) == 0, "scratch is not the vector");
		}
		End();

		Begin("constant and zero vectors are stored exactly, form %d", form);
		for (int i = 0; i < 100; i++)
		{
			RandomVector(i == 0 ? SHAPE_ZERO : SHAPE_CONSTANT, 1, x, DIM);
			if (form == ANN_REFINE_HALF)
				for (int j = 0; j < DIM; j++)
					x[j] = AnnHalfToFloat(AnnFloatToHalf(x[j]));
			Check(AnnRefineEncode(&spec, x, stored, scratch) == ANN_REFINE_OK, "status");
			AnnRefineDecode(&spec, stored, decoded);
			memcpy(&radius, stored, sizeof(radius));
			Check(memcmp(x, decoded, sizeof(x)) == 0, "%g became %g", x[0], decoded[0]);
			Check(radius <= 1e-6 * Norm(x, DIM) + 1e-40, "radius %g", radius);
		}
		End();
	}

	Begin("specs and sizes");
	Check(AnnRefineSize(&(AnnRefineSpec) {100, ANN_METRIC_L2, ANN_REFINE_FULL, ANN_ELEMENT_FLOAT4, 0}) == 400, "full");
	Check(AnnRefineSize(&(AnnRefineSpec) {100, ANN_METRIC_L2, ANN_REFINE_FULL, ANN_ELEMENT_HALF, 0}) == 200, "full halfvec");
	Check(AnnRefineSize(&(AnnRefineSpec) {100, ANN_METRIC_L2, ANN_REFINE_FULL, ANN_ELEMENT_HALF, 1}) == 404, "full halfvec, rotated");
	Check(AnnRefineSize(&(AnnRefineSpec) {100, ANN_METRIC_L2, ANN_REFINE_HALF, ANN_ELEMENT_FLOAT4, 1}) == 204, "half");
	Check(AnnRefineSize(&(AnnRefineSpec) {101, ANN_METRIC_L2, ANN_REFINE_SQ8, ANN_ELEMENT_FLOAT4, 1}) == 113, "sq8");
	End();
}

/* The largest dimension through everything. */
static void
TestLargest(void)
{
	float	   *x = Allocate(sizeof(float) * MAX_DIM);
	float	   *q = Allocate(sizeof(float) * MAX_DIM);
	float	   *v = Allocate(sizeof(float) * MAX_DIM);
	float	   *scratch = Allocate(sizeof(float) * MAX_DIM);
	Entry	   *entry = Allocate(sizeof(Entry));

	Begin("largest dimension");
	RandomVector(SHAPE_UNIFORM, 1, x, MAX_DIM);
	RandomVector(SHAPE_UNIFORM, 1, q, MAX_DIM);
	for (int planes = 1; planes <= ANN_CODE_MAX_PLANES; planes++)
	{
		AnnCodeParams p;
		AnnQueryCode *query;
		AnnCodeArray array = ArrayOf(entry, ANN_FACTORS_FLOAT3);
		float		estimate;
		double		definition;

		/* Not rotated, so all of one sign: the largest sums of integers there are. */
		AnnCodeParamsSet(&p, ANN_METRIC_L2, MAX_DIM, planes, MAX_DIM);
		query = Allocate(AnnQueryCodeSize(&p));
		AnnEncode(&p, x, 0, entry->code, &entry->factors);
		AnnQueryCodeInit(query, &p, q, 0);
		AnnEstimateBatch(query, &array, &estimate, NULL);
		CodePoint(&p, entry->code, v);
		definition = Dot(x, x, MAX_DIM) + Dot(q, q, MAX_DIM) -
			2 * Dot(v, q, MAX_DIM) * entry->factors.mul / sqrt(MAX_DIM);
		Check(fabs(estimate - definition) <= 1e-3 * Dot(x, x, MAX_DIM),
			  "%d planes: %g, not %g", planes, estimate, definition);
		free(query);
	}
	for (AnnRefineForm form = ANN_REFINE_FULL; form <= ANN_REFINE_SQ8; form++)
	{
		AnnRefineSpec spec = {MAX_DIM, ANN_METRIC_L2, form, ANN_ELEMENT_FLOAT4, 1};
		char	   *stored = Allocate(AnnRefineSize(&spec));
		AnnRefineQuery *query = Allocate(AnnRefineQuerySize(&spec));
		AnnInterval interval;
		double		truth = (double) TrueDistance(ANN_METRIC_L2, q, x, MAX_DIM);

		AnnRefineEncode(&spec, x, stored, scratch);
		AnnRefineQueryInit(query, &spec, q);
		interval = AnnRefineInterval(query, stored, AnnRefineScore(query, stored));
		Check(interval.lo <= truth && truth <= interval.hi && interval.hi - interval.lo < 0.03 * truth,
			  "form %d: %g..%g, not %g", form, interval.lo, interval.hi, truth);
		free(stored);
		free(query);
	}
	End();
	free(x);
	free(q);
	free(v);
	free(scratch);
	free(entry);
}

/* Nearest of many */

static double
NearestScore(AnnNearestOrder order, const float *x, const float *vector, int dim)
{
	double		score = 0;

	if (order == ANN_NEAREST_DIRECTION)
		return -Dot(x, vector, dim) / Norm(vector, dim);
	if (order == ANN_NEAREST_PRODUCT)
		return -Dot(x, vector, dim);
	for (int j = 0; j < dim; j++)
		score += ((double) x[j] - vector[j]) * ((double) x[j] - vector[j]);
	return score;
}

static void
CheckNearest(int dim, int count, int nrows, AnnNearestOrder order, Shape shape, double scale, double row_scale,
			 long *missed, long *rows_seen)
{
	float	   *table = Allocate(sizeof(float) * count * dim);
	float	   *x = Allocate(sizeof(float) * nrows * dim);
	float	   *mean = Allocate(sizeof(float) * dim);
	void	   *memory = Allocate(AnnNearestSize(dim, count));
	void	   *scratch = Allocate(AnnNearestScratchSize(count, nrows));
	AnnNearestRows rows = {Allocate(AnnNearestRowBytes(dim) * nrows), Allocate(sizeof(float) * nrows), Allocate(sizeof(float) * nrows)};
	const float *vectors[ANN_NEAREST_MAX_ROWS];
	int			found[ANN_NEAREST_MAX_ROWS];
	AnnNearest	nearest;

	for (int c = 0; c < count; c++)
		RandomVector(shape, scale, table + c * dim, dim);
	memset(mean, 0, sizeof(float) * dim);
	if (scale <= 1)
		RandomVector(SHAPE_UNIFORM, 0.1, mean, dim);
	for (int i = 0; i < nrows; i++)
	{
		RandomVector(shape, row_scale, x + i * dim, dim);
		if (order == ANN_NEAREST_DIRECTION)
			AnnNormalize(x + i * dim, x + i * dim, dim);
		vectors[i] = x + i * dim;
		AnnNearestSetRow(&rows, i, x + i * dim, mean, dim);
	}
	AnnNearestFill(memory, table, count, dim, mean, order);
	AnnNearestOpen(&nearest, memory, table, count, dim, order);
	AnnNearestFind(&nearest, &rows, vectors, nrows, scratch, found);
	if (count > 2)
	{
		/* Of a part of the table, the nearest is one of it, and the same where that is among them. */
		uint32_t   *places = Allocate(sizeof(uint32_t) * count);
		void	   *part_memory = Allocate(AnnNearestSize(dim, count));
		int			part_found[ANN_NEAREST_MAX_ROWS];
		AnnNearest	part;
		int			npart = 0;

		for (int c = count - 1; c >= 0; c--)
			if (c % 3 != 1)
				places[npart++] = c;
		AnnNearestPart(&part, part_memory, &nearest, places, npart);
		AnnNearestFind(&part, &rows, vectors, nrows, scratch, part_found);
		for (int i = 0; i < nrows; i++)
		{
			Check(part_found[i] >= 0 && part_found[i] < count && part_found[i] % 3 != 1,
				  "%d dimensions, scale %g: vector %d is not of the part", dim, scale, part_found[i]);
			if (dim < 16 && scale <= 1 && found[i] % 3 != 1)
				Check(NearestScore(order, x + i * dim, table + part_found[i] * dim, dim) <=
					  NearestScore(order, x + i * dim, table + found[i] * dim, dim) + 1e-5,
					  "%d dimensions: vector %d of a part, %d of all", dim, part_found[i], found[i]);
		}
		for (int i = 0; i < nrows && scale <= 1; i++)
		{
			AnnNearestRows row = AnnNearestRowsFrom(&rows, i, dim);
			int			nsome = AnnNearestSome(&nearest, &row, count, count, scratch, places);
			bool		has_found = false;

			for (int c = 0; c < nsome; c++)
				has_found = has_found || places[c] == (uint32_t) found[i];
			Check(nsome == count && has_found, "%d dimensions: %d of %d vectors near a row", dim, nsome, count);
			nsome = AnnNearestSome(&nearest, &row, count / 2, count / 2, scratch, places);
			Check(nsome >= 1 && nsome <= count / 2, "%d dimensions: %d vectors near a row, asked for %d", dim, nsome, count / 2);
		}
		free(places);
		free(part_memory);
	}
	for (int i = 0; i < nrows; i++)
	{
		double		least = INFINITY;
		double		of_found = INFINITY;

		Check(found[i] >= 0 && found[i] < count, "%d dimensions, scale %g: vector %d of %d", dim, scale, found[i], count);
		for (int c = 0; c < count; c++)
		{
			double		score = NearestScore(order, x + i * dim, table + c * dim, dim);

			least = fmin(least, score);
			if (c == found[i])
				of_found = score;
		}
		*missed += !(of_found <= least + 1e-5 * fabs(least));
		(*rows_seen)++;
	}
	free(table);
	free(x);
	free(mean);
	free(memory);
	free(scratch);
	free(rows.bytes);
	free(rows.scale);
	free(rows.spread);
}

static void
TestNearest(void)
{
	static const int dims[] = {1, 3, 8, 15, 17, 64, 131};
	static const int counts[] = {1, 2, 31, 32, 33, 70};
	static const int nrows[] = {1, 5, 13, 48};
	static const Shape shapes[] = {SHAPE_NORMAL, SHAPE_UNIFORM, SHAPE_HEAVY};
	long		certain_missed = 0;
	long		missed = 0;
	long		certain = 0;
	long		seen = 0;
	long		ignored = 0;

	Begin("%s: nearest of many", ann_kernels.name);
	for (size_t d = 0; d < lengthof(dims); d++)
		for (size_t c = 0; c < lengthof(counts); c++)
			for (size_t r = 0; r < lengthof(nrows); r++)
				for (size_t s = 0; s < lengthof(shapes); s++)
					for (int order = ANN_NEAREST_DISTANCE; order <= ANN_NEAREST_PRODUCT; order++)
						CheckNearest(dims[d], counts[c], nrows[r], (AnnNearestOrder) order, shapes[s], 1, 1,
									 dims[d] < 16 ? &certain_missed : &missed, dims[d] < 16 ? &certain : &seen);
	Check(certain_missed == 0, "%ld of %ld nearest vectors missed below 16 dimensions", certain_missed, certain);
	Check(missed <= seen / 500, "%ld of %ld nearest vectors missed", missed, seen);
	End();

	Begin("%s: nearest of many, overflow", ann_kernels.name);
	/* Squares overflow: of the vectors, of the rows, of both.  The result is one of the table. */
	for (size_t c = 0; c < lengthof(counts); c++)
	{
		CheckNearest(500, counts[c], 48, ANN_NEAREST_DISTANCE, SHAPE_NORMAL, 1e18, 0, &ignored, &ignored);
		CheckNearest(500, counts[c], 48, ANN_NEAREST_DISTANCE, SHAPE_NORMAL, 1e18, 1e17, &ignored, &ignored);
		CheckNearest(500, counts[c], 48, ANN_NEAREST_DISTANCE, SHAPE_NORMAL, 1e18, 1e30, &ignored, &ignored);
	}
	End();
}

int
main(void)
{
	AnnDistanceInit();
	table_count = AnnDistanceTables(&tables);

	for (int table = 0; table < table_count; table++)
	{
		ann_kernels = *tables[table];
		TestRotation();
		TestEstimates();
		TestBatch();
		for (AnnMetric metric = ANN_METRIC_L2; metric <= ANN_METRIC_COSINE; metric++)
		{
			TestColumns(metric, 40);
			TestColumns(metric, 200);
		}
		TestNearest();
	}
	AnnDistanceInit();
	TestSpread();
	TestNormalize();
	TestParams();
	TestEncode();
	TestStatistics();
	TestRanking();
	TestCodeGuards();
	TestAngles();
	TestRefineForms();
	TestIntervals();
	TestWidths();
	TestLargest();

	return Finish();
}
