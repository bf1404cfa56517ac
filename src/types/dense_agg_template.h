/*
 * dense_agg_template.h
 *	  avg and sum of a dense type; see dense.h.
 */

/*
 * State (AnnAggState) and value are added element by element.  In an aggregate
 * the state is changed in place; elsewhere it belongs to the caller, and is
 * copied.
 */
DENSE_FUNCTION(accum)
{
	ArrayType  *state = AnnAggStateArg(fcinfo, 0);
	const DENSE_VECTOR *v = DENSE_GETARG(1);
	double	   *sums;
	float		buffer[DENSE_CHUNK];

	if (AnnAggStateRows(state) == 0)
		state = AnnNewAggState(v->dim);
	else
	{
		AnnCheckTypmod(AnnAggStateDim(state), v->dim, NULL);
		if (!AggCheckCallContext(fcinfo, NULL))
			state = DatumGetArrayTypePCopy(PointerGetDatum(state));
	}

	sums = AnnAggStateSums(state);
	sums[-1] += 1;
	for (Size i = 0; i < v->dim; i += DENSE_CHUNK)
	{
		Size		n = Min(DENSE_CHUNK, v->dim - i);
		const float *x = DenseLoad(v->x + i, buffer, n);

		for (Size j = 0; j < n; j++)
			sums[i + j] += x[j];
	}
	PG_RETURN_ARRAYTYPE_P(state);
}

/* The sums over divisor as a value. */
static DENSE_VECTOR *
dense_from_state(ArrayType *state, double divisor)
{
	int			dim = AnnAggStateDim(state);
	const double *sums = AnnAggStateSums(state);
	float	   *x;

	AnnCheckDim(dim, ANN_MAX_DIM, DENSE_NAME);
	x = palloc(sizeof(float) * dim);
	for (int i = 0; i < dim; i++)
	{
		x[i] = (float) (sums[i] / divisor);
		if (unlikely(!DenseFits(x[i])))
			float_overflow_error();
	}
	return dense_from_floats(x, dim);
}

/* Final functions: NULL for no rows. */
DENSE_FUNCTION(avg)
{
	ArrayType  *state = AnnAggStateArg(fcinfo, 0);

	if (AnnAggStateRows(state) == 0)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(dense_from_state(state, AnnAggStateRows(state)));
}

DENSE_FUNCTION(sum)
{
	ArrayType  *state = AnnAggStateArg(fcinfo, 0);

	if (AnnAggStateRows(state) == 0)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(dense_from_state(state, 1));
}
