/*
 * agg.c
 *	  State of avg and sum; the transition functions are in
 *	  dense_agg_template.h.
 */
#include "postgres.h"

#include "types/agg.h"

#include "catalog/pg_type.h"
#include "types/shared.h"

PG_FUNCTION_INFO_V1(ann_agg_combine);

/* The state in argument n; raises an error for any other array. */
ArrayType *
AnnAggStateArg(FunctionCallInfo fcinfo, int n)
{
	ArrayType  *state = PG_GETARG_ARRAYTYPE_P(n);

	if (ARR_NDIM(state) != 1 || ARR_DIMS(state)[0] < 1 ||
		ARR_DIMS(state)[0] > ANN_MAX_DIM + 1 ||
		ARR_HASNULL(state) || ARR_ELEMTYPE(state) != FLOAT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid aggregate state"),
				 errdetail("The number of rows is followed by the sum of each element.")));
	return state;
}

/* A state of no rows with dim zero sums. */
ArrayType *
AnnNewAggState(int dim)
{
	return AnnNewArray(dim + 1, FLOAT8OID, sizeof(double));
}

/* Combines two states, of vector or of halfvec. */
Datum
ann_agg_combine(PG_FUNCTION_ARGS)
{
	ArrayType  *a = AnnAggStateArg(fcinfo, 0);
	ArrayType  *b = AnnAggStateArg(fcinfo, 1);
	const double *add;
	double	   *sums;
	int			dim;

	if (AnnAggStateRows(a) == 0)
		PG_RETURN_ARRAYTYPE_P(b);
	if (AnnAggStateRows(b) == 0)
		PG_RETURN_ARRAYTYPE_P(a);

	dim = AnnAggStateDim(a);
	if (dim != AnnAggStateDim(b))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("expected %d dimensions, not %d", dim, AnnAggStateDim(b))));
	if (!AggCheckCallContext(fcinfo, NULL))
		a = DatumGetArrayTypePCopy(PointerGetDatum(a));
	sums = AnnAggStateSums(a);
	add = AnnAggStateSums(b);
	for (int i = -1; i < dim; i++)
		sums[i] += add[i];
	PG_RETURN_ARRAYTYPE_P(a);
}
