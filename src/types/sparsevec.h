/*
 * sparsevec.h
 *	  What the sparsevec_*.c files share.
 */
#ifndef ANN_SPARSEVEC_H
#define ANN_SPARSEVEC_H

#include "types/shared.h"

extern int	AnnDatumDim32(Datum sparse);
extern int	AnnSparseLowerBound(const AnnSparseVector *v, int from, int32 index);

#endif							/* ANN_SPARSEVEC_H */
