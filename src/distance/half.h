/*
 * half.h
 *	  IEEE 754 binary16 to float4 and back, in plain C.
 */
#ifndef ANN_HALF_H
#define ANN_HALF_H

#include <string.h>

#include "distance/distance.h"

static inline uint32_t
AnnFloatBits(float f)
{
	uint32_t	bits;

	memcpy(&bits, &f, sizeof(bits));
	return bits;
}

static inline float
AnnFloatFromBits(uint32_t bits)
{
	float		f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

/* Exact for every half, subnormals and infinities included; NaN stays NaN. */
static inline float
AnnHalfToFloat(AnnHalf h)
{
	uint32_t	sign = (uint32_t) (h & 0x8000) << 16;
	uint32_t	magnitude = (uint32_t) (h & 0x7fff) << 13;

	if (magnitude >= (uint32_t) 0x7c00 << 13)
		return AnnFloatFromBits(sign | 0x7f800000 | magnitude);

	/* Read as a float, the exponent is 2^112 too small, for subnormals too. */
	return AnnFloatFromBits(sign | AnnFloatBits(AnnFloatFromBits(magnitude) * 0x1p112f));
}

/*
 * Rounds to nearest, ties to even.  From 65520 on the result is infinity; NaN
 * becomes a quiet NaN with the leading bits of its payload.
 */
static inline AnnHalf
AnnFloatToHalf(float f)
{
	uint32_t	bits = AnnFloatBits(f);
	AnnHalf		sign = (AnnHalf) (bits >> 16 & 0x8000);

	bits &= 0x7fffffff;
	if (bits > 0x7f800000)
		return sign | 0x7e00 | (AnnHalf) (bits >> 13 & 0x3ff);
	if (bits >= AnnFloatBits(0x1p16f))
		return sign | 0x7c00;

	/* Below the smallest normal half: 0.5f has the ulp of a subnormal half. */
	if (bits < AnnFloatBits(0x1p-14f))
		return sign | (AnnHalf) (AnnFloatBits(AnnFloatFromBits(bits) + 0.5f) - AnnFloatBits(0.5f));

	/* A carry out of the mantissa goes to the exponent, up to infinity. */
	bits += 0xfff + (bits >> 13 & 1);
	return sign | (AnnHalf) ((bits >> 13) - ((127 - 15) << 10));
}

#endif							/* ANN_HALF_H */
