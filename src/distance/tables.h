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
