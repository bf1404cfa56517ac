/*
 * dense_cast_template.h
 *	  Conversion of a dense type from and to itself, arrays and JSON; see
 *	  dense.h.
 */

/* A value from dim finite numbers; raises an error for those that do not fit. */
static DENSE_VECTOR *
dense_from_floats(const float *src, int dim)
{
	DENSE_VECTOR *result;

	AnnCheckDim(dim, ANN_MAX_DIM, DENSE_NAME);
	result = DenseNew(dim);
	for (int i = 0; i < dim; i++)
	{
		if (unlikely(!DenseFits(src[i])))
		{
			char		text[ANN_NUMBER_WIDTH];

			float_to_shortest_decimal_buf(src[i], text);
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("\"%s\" is out of range for type %s", text, DENSE_NAME),
					 errdetail("The value is element %d.", i + 1)));
		}
	}
	DenseStore(src, result->x, dim);
	return result;
}

/* type(type, integer, boolean): checks the number of dimensions. */
DENSE_FUNCTION(coerce)
{
	AnnCheckTypmod(PG_GETARG_INT32(1), AnnDatumDim16(PG_GETARG_DATUM(0)), NULL);
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

/* From an array of integer, real, double precision or numeric. */
DENSE_FUNCTION(from_array)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);
	int			dim = AnnArrayLength(array);
	float	   *x;

	AnnCheckDim(dim, ANN_MAX_DIM, DENSE_NAME);
	AnnCheckTypmod(PG_GETARG_INT32(1), dim, NULL);
	x = palloc(sizeof(float) * dim);
	AnnArrayToFloats(array, x, DENSE_NAME);
	PG_RETURN_POINTER(dense_from_floats(x, dim));
}

DENSE_FUNCTION(from_jsonb)
{
	int			dim;
	float	   *x = AnnJsonbToFloats(PG_GETARG_DATUM(0), ANN_MAX_DIM, DENSE_NAME, &dim);

	AnnCheckTypmod(PG_GETARG_INT32(1), dim, NULL);
	PG_RETURN_POINTER(dense_from_floats(x, dim));
}

/* From a sparse vector of at most ANN_MAX_DIM dimensions. */
DENSE_FUNCTION(from_sparsevec)
{
	AnnSparseVector *s = DatumGetAnnSparseVectorP(PG_GETARG_DATUM(0));
	float	   *x;

	AnnCheckDim(s->dim, ANN_MAX_DIM, DENSE_NAME);
	AnnCheckTypmod(PG_GETARG_INT32(1), s->dim, NULL);
	x = palloc0(sizeof(float) * s->dim);
	for (int i = 0; i < s->nnz; i++)
		x[s->indices[i]] = AnnSparseValues(s)[i];
	PG_RETURN_POINTER(dense_from_floats(x, s->dim));
}

/* The elements as float4, palloc'd. */
static float *
dense_to_floats(const DENSE_VECTOR *v)
{
	float	   *x = palloc(sizeof(float) * v->dim);

	for (int i = 0; i < v->dim; i++)
		x[i] = DenseToFloat(v->x[i]);
	return x;
}

static Datum
to_array(FunctionCallInfo fcinfo, Oid element_type)
{
	DENSE_VECTOR *v = DENSE_GETARG(0);

	PG_RETURN_ARRAYTYPE_P(AnnFloatsToArray(dense_to_floats(v), v->dim, element_type));
}

DENSE_FUNCTION(to_float4)
{
	return to_array(fcinfo, FLOAT4OID);
}

DENSE_FUNCTION(to_float8)
{
	return to_array(fcinfo, FLOAT8OID);
}

DENSE_FUNCTION(to_int4)
{
	return to_array(fcinfo, INT4OID);
}

DENSE_FUNCTION(to_numeric)
{
	return to_array(fcinfo, NUMERICOID);
}

/* The row_to_json family looks for a cast to json. */
DENSE_FUNCTION(to_json)
{
	PG_RETURN_TEXT_P(cstring_to_text(dense_text(DENSE_GETARG(0))));
}

DENSE_FUNCTION(to_jsonb)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(dense_text(DENSE_GETARG(0))));
}
