/*
 * halfvec.c
 *	  The type halfvec: elements are IEEE 754 binary16.
 */
#include "postgres.h"

#include "types/dense.h"

#include "distance/half.h"

#define DENSE_NAME "halfvec"
#define DENSE_SYMBOL(name) ann_halfvec_##name
#define DENSE_VECTOR AnnHalfVector
#define DENSE_ELEMENT AnnHalf
#define DENSE_KERNEL(op) ann_kernels.op##_f16
#define DENSE_GETARG(n) DatumGetAnnHalfVectorP(PG_GETARG_DATUM(n))
#define DENSE_GETDISTARG(n) AnnGetHalfVectorArg(fcinfo, n)
#define DenseNew AnnNewHalfVector
#define DenseToFloat AnnHalfToFloat
#define DenseFromFloat AnnFloatToHalf

/* 65520 and more round to infinity. */
static inline bool
DenseFits(float x)
{
	return fabsf(x) < 65520.0f;
}

static inline const float *
DenseLoad(const AnnHalf *x, float *buffer, Size n)
{
	ann_kernels.f16_to_f32(x, buffer, n);
	return buffer;
}

static inline void
DenseStore(const float *src, AnnHalf *dst, Size n)
{
	ann_kernels.f32_to_f16(src, dst, n);
}

/* Sign and magnitude, so that -0 equals 0; there is no NaN. */
static inline int
DenseCompare(AnnHalf a, AnnHalf b)
{
	int			order_a = (a & 0x8000) ? -(a & 0x7fff) : a;
	int			order_b = (b & 0x8000) ? -(b & 0x7fff) : b;

	return (order_a > order_b) - (order_a < order_b);
}

static inline void
DenseSwapBytes(AnnHalf *x)
{
	*x = pg_hton16(*x);
}

#include "types/dense_io_template.h"
#include "types/dense_ops_template.h"
#include "types/dense_cast_template.h"
#include "types/dense_agg_template.h"

PG_FUNCTION_INFO_V1(ann_halfvec_from_vector);
Datum
ann_halfvec_from_vector(PG_FUNCTION_ARGS)
{
	AnnVector  *v = DatumGetAnnVectorP(PG_GETARG_DATUM(0));

	AnnCheckTypmod(PG_GETARG_INT32(1), v->dim, NULL);
	PG_RETURN_POINTER(dense_from_floats(v->x, v->dim));
}
