/*
 * cosine.h
 *	  Cosine distance from its sums: the one formula for the SQL functions and
 *	  for what an index computes in their stead.
 */
#ifndef ANN_COSINE_H
#define ANN_COSINE_H

#include <math.h>

#include "distance/distance.h"

/*
 * NaN if a norm is zero.  Rounding must not carry the similarity out of [-1, 1].
 */
static inline double
AnnCosineDistance(AnnCosineSums sums)
{
	double		similarity = (double) sums.ab / sqrt((double) sums.aa * (double) sums.bb);

	if (similarity > 1)
		similarity = 1;
	else if (similarity < -1)
		similarity = -1;
	return 1 - similarity;
}

#endif							/* ANN_COSINE_H */
