/*
 * transpose.h
 *	  The order in which the x86-64 sets without AVX-512 want a code's query.
 *	  Private to src/distance.
 */
#ifndef ANN_TRANSPOSE_H
#define ANN_TRANSPOSE_H

#include <simde/x86/sse2.h>

#include "distance/tables.h"

/* Byte 8 * j + i of the result is byte 8 * i + j of x: three perfect shuffles.  Overwrites x. */
FORCE_INLINE void
TransposeBytes(simde__m128i x_i8x16[4], int8_t *out)
{
	for (int round = 0; round < 3; round++)
	{
		simde__m128i a_i8x16 = simde_mm_unpacklo_epi8(x_i8x16[0], x_i8x16[2]);
		simde__m128i b_i8x16 = simde_mm_unpackhi_epi8(x_i8x16[0], x_i8x16[2]);
		simde__m128i c_i8x16 = simde_mm_unpacklo_epi8(x_i8x16[1], x_i8x16[3]);
		simde__m128i d_i8x16 = simde_mm_unpackhi_epi8(x_i8x16[1], x_i8x16[3]);

		x_i8x16[0] = a_i8x16;
		x_i8x16[1] = b_i8x16;
		x_i8x16[2] = c_i8x16;
		x_i8x16[3] = d_i8x16;
	}
	for (int i = 0; i < 4; i++)
		simde_mm_storeu_si128((simde__m128i *) (out + 16 * i), x_i8x16[i]);
}

#endif							/* ANN_TRANSPOSE_H */
