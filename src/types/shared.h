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
extern float *AnnJsonbToFloats(Datum jsonb, const char *type, int *length);
extern ArrayType *AnnFloatsToArray(const float *src, int length, Oid element_type);

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

/* Bytes of the message that have not been read. */
static inline Size
AnnMessageRest(StringInfo buf)
{
	return (Size) (buf->len - buf->cursor);
}

#endif							/* ANN_SHARED_H */
