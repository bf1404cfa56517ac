/*
 * vector.c
 *	  The type vector: elements are float4.
 */
#include "postgres.h"

#include "types/dense.h"

#define DENSE_NAME "vector"
#define DENSE_SYMBOL(name) ann_vector_##name
#define DENSE_VECTOR AnnVector
#define DENSE_ELEMENT float
#define DENSE_KERNEL(op) ann_kernels.op##_f32
#define DENSE_GETARG(n) DatumGetAnnVectorP(PG_GETARG_DATUM(n))
#define DENSE_GETDISTARG(n) AnnGetVectorArg(fcinfo, n)
#define DenseNew AnnNewVector

static inline float
DenseToFloat(float x)
{
	return x;
}

static inline float
DenseFromFloat(float x)
{
	return x;
}

static inline bool
DenseFits(float x)
{
	return fabsf(x) <= FLT_MAX;
}

static inline const float *
DenseLoad(const float *x, float *buffer, Size n)
{
	return x;
}

static inline void
DenseStore(const float *src, float *dst, Size n)
{
	memcpy(dst, src, sizeof(float) * n);
}

static inline int
DenseCompare(float a, float b)
{
	return (a > b) - (a < b);
}

static inline void
DenseSwapBytes(float *x)
{
	uint32		bits;

	memcpy(&bits, x, sizeof(bits));
	bits = pg_hton32(bits);
	memcpy(x, &bits, sizeof(bits));
}

#include "types/dense_io_template.h"
#include "types/dense_ops_template.h"
#include "types/dense_cast_template.h"
#include "types/dense_agg_template.h"

PG_FUNCTION_INFO_V1(ann_vector_from_halfvec);
Datum
ann_vector_from_halfvec(PG_FUNCTION_ARGS)
{
	AnnHalfVector *h = DatumGetAnnHalfVectorP(PG_GETARG_DATUM(0));
	AnnVector  *result;

	AnnCheckTypmod(PG_GETARG_INT32(1), h->dim, NULL);
	result = AnnNewVector(h->dim);
	ann_kernels.f16_to_f32(h->x, result->x, h->dim);
	PG_RETURN_POINTER(result);
}
