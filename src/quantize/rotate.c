/*
 * rotate.c
 *	  The fixed orthogonal matrix P of every dimension (README, Rotation).
 *
 * What P is belongs to the on-disk format: neither the seed, nor the number of
 * rounds, nor the order of the steps may ever change.
 */
#include "quantize/numeric.h"

#define ROUNDS 3
#define SIGN_SEED UINT64_C(0x616e6e2d726f7431)	/* "ann-rot1" */
#define WORD 64					/* signs of one number of the generator */
#define SIGN_WORDS 256			/* per step, for up to 16384 dimensions */
#define SQRT_HALF 0x1.6a09e6p-1f	/* sqrt(1/2) rounded to float */

/* From this size on a transform may overflow on the way. */
#define LARGE 0x1p100f
#define LARGE_SCALE 0x1p-40f

/* Output number `counter` of splitmix64 (Steele, Lea, Flood, 2014) from SIGN_SEED. */
static inline uint64_t
SignWord(uint32_t counter)
{
	uint64_t	z = SIGN_SEED + (counter + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* Largest power of two <= dim. */
static inline int
BlockSize(int dim)
{
	int			n = 1;

	while (n <= dim / 2)
		n *= 2;
	return n;
}

/* The signs of step `step` of the rotation, two steps to a round. */
static void
NegateSome(const float *in, float *out, int dim, int step)
{
	uint64_t	words[SIGN_WORDS];

	for (int i = 0; i < dim; i += WORD)
		words[i / WORD] = SignWord(step * SIGN_WORDS + i / WORD);
	ann_kernels.negate_f32(in, out, words, dim);
}

/*
 * Rotates the plane of coordinates i and i + ceil(dim / 2) by 45 degrees, for
 * every i that has such a partner.  Symmetric, so its own inverse.  (a + b) * c
 * cannot be contracted to a fused multiply-add: same result everywhere.
 */
static void
MixHalves(float *x, int dim)
{
	int			pairs = dim / 2;
	float	   *restrict low = x;
	float	   *restrict high = x + (dim - pairs);

	for (int i = 0; i < pairs; i++)
	{
		float		a = low[i];
		float		b = high[i];

		low[i] = (a + b) * SQRT_HALF;
		high[i] = (a - b) * SQRT_HALF;
	}
}

static void
Rotate(const float *in, float *out, int dim)
{
	int			n = BlockSize(dim);

	for (int round = 0; round < ROUNDS; round++)
	{
		NegateSome(round == 0 ? in : out, out, dim, 2 * round);
		ann_kernels.fht_f32(out, n);
		if (n < dim)
		{
			NegateSome(out, out, dim, 2 * round + 1);
			ann_kernels.fht_f32(out + (dim - n), n);
			MixHalves(out, dim);
		}
	}
}

static void
RotateInverse(const float *in, float *out, int dim)
{
	int			n = BlockSize(dim);

	if (in != out)
		memcpy(out, in, sizeof(float) * (size_t) dim);
	for (int round = ROUNDS - 1; round >= 0; round--)
	{
		if (n < dim)
		{
			MixHalves(out, dim);
			ann_kernels.fht_f32(out + (dim - n), n);
			NegateSome(out, out, dim, 2 * round + 1);
		}
		ann_kernels.fht_f32(out, n);
		NegateSome(out, out, dim, 2 * round);
	}
}

static void
RotateAnyScale(void (*rotate) (const float *, float *, int), const float *in, float *out, int dim)
{
	/* The sum is finite for usual vectors, and none is LARGE then. */
	if (ann_kernels.ip_f32(in, in, dim) <= FLT_MAX || MaxAbs(in, dim) < LARGE)
	{
		rotate(in, out, dim);
		return;
	}

	/* Sums of a transform may be 128 times what comes out of it. */
	for (int i = 0; i < dim; i++)
		out[i] = in[i] * LARGE_SCALE;
	rotate(out, out, dim);
	for (int i = 0; i < dim; i++)
		out[i] *= 1 / LARGE_SCALE;
}

void
AnnRotate(const float *in, float *out, int dim)
{
	RotateAnyScale(Rotate, in, out, dim);
}

void
AnnRotateInverse(const float *in, float *out, int dim)
{
	RotateAnyScale(RotateInverse, in, out, dim);
}

/*
 * Every step of a round is orthogonal, and rounds each coordinate a few times:
 * k additions and at most 3 roundings for the scale in a transform of 2^k
 * coordinates, 3 roundings in MixHalves (README, Rotation).
 */
double
AnnRotationError(int dim)
{
	int			n = BlockSize(dim);
	int			roundings = 3;

	for (int i = n; i > 1; i /= 2)
		roundings++;
	if (n < dim)
		roundings = 2 * roundings + 3;
	return ROUNDS * roundings * 0x1p-24 * (1 + 0x1p-10);
}

double
AnnNormalize(const float *in, float *out, int dim)
{
	double		norm = sqrt(SumSquaresDouble(in, dim));

	for (int i = 0; i < dim; i++)
		out[i] = norm > 0 ? (float) (in[i] / norm) : 0;
	return norm;
}
