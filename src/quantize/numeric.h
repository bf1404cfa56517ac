/*
 * numeric.h
 *	  Small arithmetic that the files of src/quantize share.
 */
#ifndef ANN_NUMERIC_H
#define ANN_NUMERIC_H

#include <float.h>
#include <math.h>
#include <string.h>

#include "quantize/quantize.h"

/* Unit roundoff of float. */
#define FLOAT_UNIT 0x1p-24

/*
 * Residuals, queries and stored vectors beyond these are not coded: squares
 * must not overflow, nor sums of a few of them.
 */
#define MAX_NORM 0x1p60f
#define MAX_ELEMENT 0x1p120f

/*
 * Largest absolute value of n floats; infinity if one of them is infinite, NaN
 * if one is NaN.  Bit patterns of non-negative floats are in order, with NaN
 * last.
 */
static inline float
MaxAbs(const float *x, int n)
{
	int32_t		max = 0;
	float		result;

	for (int i = 0; i < n; i++)
	{
		int32_t		bits;

		memcpy(&bits, x + i, sizeof(bits));
		bits &= 0x7fffffff;
		max = bits > max ? bits : max;
	}
	memcpy(&result, &max, sizeof(result));
	return result;
}

/* Exponent of max (finite, not zero): dividing by 2 to it brings max to about 1. */
static inline int
ScaleExponent(float max)
{
	int			exponent;

	frexpf(max, &exponent);
	return exponent < -100 ? -100 : exponent;
}

/* 2 to the exponent, which is that of a normal float; ldexpf is a call. */
static inline float
PowerOfTwo(int exponent)
{
	uint32_t	bits = (uint32_t) (exponent + 127) << 23;
	float		result;

	memcpy(&result, &bits, sizeof(result));
	return result;
}

/* Sums run in this many independent lanes. */
#define LANES 16

/* Sum of (scale * x[i])^2. */
static inline float
SumSquares(const float *x, int n, float scale)
{
	float		sum_f32x16[LANES] = {0};
	float		sum = 0;
	int			i = 0;

	for (; i + LANES <= n; i += LANES)
		for (int lane = 0; lane < LANES; lane++)
			sum_f32x16[lane] += (x[i + lane] * scale) * (x[i + lane] * scale);
	for (int lane = 0; i < n; i++, lane++)
		sum_f32x16[lane] += (x[i] * scale) * (x[i] * scale);
	for (int lane = 0; lane < LANES; lane++)
		sum += sum_f32x16[lane];
	return sum;
}

/* The same in double, unscaled. */
static inline double
SumSquaresDouble(const float *x, int n)
{
	double		sum_f64x16[LANES] = {0};
	double		sum = 0;
	int			i = 0;

	for (; i + LANES <= n; i += LANES)
		for (int lane = 0; lane < LANES; lane++)
			sum_f64x16[lane] += (double) x[i + lane] * x[i + lane];
	for (int lane = 0; i < n; i++, lane++)
		sum_f64x16[lane] += (double) x[i] * x[i];
	for (int lane = 0; lane < LANES; lane++)
		sum += sum_f64x16[lane];
	return sum;
}

/* Smallest float >= x, or one near it; x >= 0, infinity stays. */
static inline float
RoundUp(double x)
{
	double		wider = x * (1 + 0x1p-22) + 0x1p-149;

	return wider < FLT_MAX ? (float) wider : INFINITY;
}

/* n u / (1 - n u), the relative error of n float operations (N. Higham, Accuracy and Stability, 3.1) */
static inline double
Gamma(double n)
{
	return n * FLOAT_UNIT / (1 - n * FLOAT_UNIT);
}

#endif							/* ANN_NUMERIC_H */
