/*
 * sparsevec_cast.c
 *	  Conversion to sparsevec; those from it are with their target types.
 */
#include "postgres.h"

#include "types/sparsevec.h"

/* A value of the non-zero ones among dim finite numbers; checks dim against the limits and typmod. */
static Datum
sparse_from_floats(const float *src, int dim, int32 typmod)
{
	AnnSparseVector *result;
	int			nnz = 0;
	int			n = 0;

	AnnCheckDim(dim, ANN_SPARSE_MAX_DIM, "sparsevec");
	AnnCheckTypmod(typmod, dim, NULL);
	for (int i = 0; i < dim; i++)
		nnz += (src[i] != 0);
	if (nnz > ANN_SPARSE_MAX_NNZ)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("sparsevec cannot have more than %d non-zero elements", ANN_SPARSE_MAX_NNZ)));

	result = AnnNewSparseVector(dim, nnz);
	for (int i = 0; i < dim; i++)
	{
		if (src[i] != 0)
		{
			result->indices[n] = i;
			AnnSparseValues(result)[n] = src[i];
			n++;
		}
	}
	PG_RETURN_POINTER(result);
}

/* sparsevec(sparsevec, integer, boolean): checks the number of dimensions. */
PG_FUNCTION_INFO_V1(ann_sparsevec_coerce);
Datum
ann_sparsevec_coerce(PG_FUNCTION_ARGS)
{
	AnnCheckTypmod(PG_GETARG_INT32(1), AnnDatumDim32(PG_GETARG_DATUM(0)), NULL);
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

PG_FUNCTION_INFO_V1(ann_sparsevec_from_vector);
Datum
ann_sparsevec_from_vector(PG_FUNCTION_ARGS)
{
	AnnVector  *v = DatumGetAnnVectorP(PG_GETARG_DATUM(0));

	return sparse_from_floats(v->x, v->dim, PG_GETARG_INT32(1));
}

PG_FUNCTION_INFO_V1(ann_sparsevec_from_halfvec);
Datum
ann_sparsevec_from_halfvec(PG_FUNCTION_ARGS)
{
	AnnHalfVector *h = DatumGetAnnHalfVectorP(PG_GETARG_DATUM(0));
	float	   *x = palloc(sizeof(float) * h->dim);

	ann_kernels.f16_to_f32(h->x, x, h->dim);
	return sparse_from_floats(x, h->dim, PG_GETARG_INT32(1));
}

/* From an array of integer, real, double precision or numeric. */
PG_FUNCTION_INFO_V1(ann_sparsevec_from_array);
Datum
ann_sparsevec_from_array(PG_FUNCTION_ARGS)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);
	int			dim = AnnArrayLength(array);
	float	   *x = palloc(mul_size(sizeof(float), Max(dim, 1)));

	AnnArrayToFloats(array, x, "sparsevec");
	return sparse_from_floats(x, dim, PG_GETARG_INT32(1));
}

PG_FUNCTION_INFO_V1(ann_sparsevec_from_jsonb);
Datum
ann_sparsevec_from_jsonb(PG_FUNCTION_ARGS)
{
	int			dim;
	float	   *x = AnnJsonbToFloats(PG_GETARG_DATUM(0), ANN_SPARSE_MAX_DIM, "sparsevec", &dim);

	return sparse_from_floats(x, dim, PG_GETARG_INT32(1));
}
