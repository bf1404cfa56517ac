/*
 * shared.h
 *	  What vector, halfvec and sparsevec have in common.
 */
#ifndef ANN_SHARED_H
#define ANN_SHARED_H

#include "types/types.h"

#include <math.h>

#include "lib/stringinfo.h"
#include "nodes/nodes.h"
#include "utils/array.h"

#include "distance/cosine.h"

extern int32 AnnTypmodIn(ArrayType *modifiers, const char *type, int max_dim);
extern void AnnCheckDim(int dim, int max_dim, const char *type);
extern bool AnnCheckTypmod(int32 typmod, int dim, Node *escontext);
extern bool AnnCheckElement(float value, int position, const char *type, Node *escontext);
extern int	AnnDatumDim16(Datum vector);
extern void AnnCheckMessage(StringInfo buf, Size header, const char *type);

extern int	AnnArrayLength(ArrayType *array);
extern void AnnArrayToFloats(ArrayType *array, float *dst, const char *type);
extern float *AnnJsonbToFloats(Datum jsonb, int max_dim, const char *type, int *dim);
extern ArrayType *AnnNewArray(int length, Oid element_type, Size element_size);
extern ArrayType *AnnFloatsToArray(const float *src, int length, Oid element_type);

/* Returns from an input function with a syntax error and this detail, soft where escontext allows. */
#define AnnSyntaxError(escontext, type, literal, ...) \
	AnnEreturn(escontext, (Datum) 0, \
			   (errcode(ERRCODE_INVALID_TEXT_REPRESENTATION), \
				errmsg("invalid input syntax for type %s: \"%s\"", type, literal), \
				errdetail(__VA_ARGS__)))

/* Raises an error with this detail in a receive function. */
#define AnnInvalidBinary(type, ...) \
	ereport(ERROR, \
			(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION), \
			 errmsg("invalid binary representation of type %s", type), \
			 errdetail(__VA_ARGS__)))

/* Room for one number as the server prints it, with a separator. */
#define ANN_NUMBER_WIDTH 16

/* The angle between two unit vectors over pi, from their inner product. */
static inline double
AnnSphericalDistance(double cosine)
{
	if (cosine > 1)
		cosine = 1;
	else if (cosine < -1)
		cosine = -1;
	return acos(cosine) / M_PI;
}

/* In double precision; several sums, since one would wait for each addition. */
static inline double
AnnSumOfSquares(const float *x, Size n)
{
	double		sums[4] = {0};
	Size		i = 0;

	for (; i + 4 <= n; i += 4)
	{
		for (int j = 0; j < 4; j++)
			sums[j] += (double) x[i + j] * (double) x[i + j];
	}
	for (; i < n; i++)
		sums[0] += (double) x[i] * (double) x[i];
	return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* Bytes of the message that have not been read. */
static inline Size
AnnMessageRest(StringInfo buf)
{
	return (Size) (buf->len - buf->cursor);
}

#endif							/* ANN_SHARED_H */
