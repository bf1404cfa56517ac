/*
 * tables.h
 *	  The kernel tables that a build for this architecture holds, and what
 *	  their sources share.  Private to src/distance.
 */
#ifndef ANN_TABLES_H
#define ANN_TABLES_H

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
