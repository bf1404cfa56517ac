/*
 * sparsevec.h
 *	  What the sparsevec_*.c files share, and distances for the access methods.
 */
#ifndef ANN_SPARSEVEC_H
#define ANN_SPARSEVEC_H

#include "types/shared.h"

extern int	AnnDatumDim32(Datum sparse);
extern float AnnSparseL2Squared(const AnnSparseVector *a, const AnnSparseVector *b);
extern float AnnSparseInnerProduct(const AnnSparseVector *a, const AnnSparseVector *b);
extern float AnnSparseL1(const AnnSparseVector *a, const AnnSparseVector *b);
extern double AnnSparseCosineDistance(const AnnSparseVector *a, const AnnSparseVector *b);

#endif							/* ANN_SPARSEVEC_H */
