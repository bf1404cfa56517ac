/*
 * tables.h
 *	  The kernel tables that a build for this architecture holds, and what
 *	  their sources share.  Private to src/distance.
 */
#ifndef ANN_TABLES_H
#define ANN_TABLES_H

#include <string.h>

#include "distance/distance.h"

#define FORCE_INLINE static inline __attribute__((always_inline))

extern const AnnKernels ann_kernels_scalar;

#if defined(__x86_64__)
extern const AnnKernels ann_kernels_sse2;
extern const AnnKernels ann_kernels_avx2;
extern const AnnKernels ann_kernels_avx512;
#elif defined(__aarch64__)
extern const AnnKernels ann_kernels_neon;
#endif

/* How the elements of an argument are stored. */
typedef enum Elem
{
	ELEM_F32,
	ELEM_F16,
	ELEM_U8,
	ELEM_SQ8					/* lo + step * the byte */
} Elem;

/* What a sum is of. */
typedef enum Op
{
	OP_L2SQ,
	OP_IP,
	OP_L1
} Op;

static inline size_t
ElemSize(Elem elem)
{
	return elem == ELEM_F32 ? sizeof(float) : elem == ELEM_F16 ? sizeof(AnnHalf) : sizeof(uint8_t);
}

/* u7_f32: what stands for zero, and the largest distance from it. */
#define U7_ZERO 64
#define U7_MAX 63

static inline float
U7Step(float max)
{
	return max / U7_MAX;
}

/* Nothing else than zero where 1 / max would overflow. */
static inline float
U7Inverse(float max)
{
	return max > 0x1p-120f ? U7_MAX / max : 0;
}

/* The 8 bytes at p, or the fewer that are left, followed by zeros. */
FORCE_INLINE uint64_t
LoadBits(const uint8_t *p, size_t left)
{
	uint64_t	bits = 0;

	if (left >= sizeof(bits))
		memcpy(&bits, p, sizeof(bits));
	else
		memcpy(&bits, p, left);
	return bits;
}

/* hamming and jaccard (see AnnKernels) in words of 64 bits. */
FORCE_INLINE uint64_t
HammingWords(const uint8_t *a, const uint8_t *b, size_t n)
{
	uint64_t	ones = 0;

	for (size_t i = 0; i < n; i += sizeof(uint64_t))
		ones += __builtin_popcountll(LoadBits(a + i, n - i) ^ LoadBits(b + i, n - i));
	return ones;
}

FORCE_INLINE void
JaccardWords(const uint8_t *a, const uint8_t *b, size_t n, uint64_t *both, uint64_t *either)
{
	*both = 0;
	*either = 0;
	for (size_t i = 0; i < n; i += sizeof(uint64_t))
	{
		uint64_t	x = LoadBits(a + i, n - i);
		uint64_t	y = LoadBits(b + i, n - i);

		*both += __builtin_popcountll(x & y);
		*either += __builtin_popcountll(x | y);
	}
}

/* Factor that makes the Hadamard transform of n = 2^k values orthonormal. */
static inline float
FhtScale(size_t n)
{
	float		scale = 1.0f;

	for (; n >= 4; n /= 4)
		scale *= 0.5f;
	return n == 2 ? scale * 0x1.6a09e6p-1f : scale;
}

#endif							/* ANN_TABLES_H */
