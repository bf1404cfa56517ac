/*
 * agg.h
 *	  State of avg and sum: a double precision array of the number of rows and
 *	  then the sum of each element; just {0} before the first row.
 */
#ifndef ANN_AGG_H
#define ANN_AGG_H

#include "postgres.h"

#include "utils/array.h"

extern ArrayType *AnnAggStateArg(FunctionCallInfo fcinfo, int n);
extern ArrayType *AnnNewAggState(int dim);

static inline int
AnnAggStateDim(ArrayType *state)
{
	return ARR_DIMS(state)[0] - 1;
}

static inline double
AnnAggStateRows(ArrayType *state)
{
	return ((double *) ARR_DATA_PTR(state))[0];
}

static inline double *
AnnAggStateSums(ArrayType *state)
{
	return (double *) ARR_DATA_PTR(state) + 1;
}

#endif							/* ANN_AGG_H */
