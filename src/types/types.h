/*
 * types.h
 *	  In-memory and on-disk layout of vector, halfvec and sparsevec.
 *
 * The layouts, the text formats and the binary (send/receive) formats are
 * those of pgvector 0.8, so that data moves between the two unchanged.
 */
#ifndef ANN_TYPES_H
#define ANN_TYPES_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/varbit.h"

#include "compat.h"
#include "distance/distance.h"
#include "types/detoast.h"

#define ANN_MAX_DIM 16000		/* vector and halfvec */
#define ANN_SPARSE_MAX_DIM 1000000000
#define ANN_SPARSE_MAX_NNZ 16000

/*
 * vector and halfvec           OFFSET SIZE  FIELD
 *                                 0     4   varlena header (4-byte form)
 *                                 4     2   dim
 *                                 6     2   unused, zero
 *                                 8     -   dim elements: float4 or half
 */
typedef struct AnnVector
{
	int32		vl_len_;
	int16		dim;
	int16		unused;
	float		x[FLEXIBLE_ARRAY_MEMBER];
} AnnVector;

typedef struct AnnHalfVector
{
	int32		vl_len_;
	int16		dim;
	int16		unused;
	AnnHalf		x[FLEXIBLE_ARRAY_MEMBER];
} AnnHalfVector;

/*
 * sparsevec                    OFFSET SIZE  FIELD
 *                                 0     4   varlena header (4-byte form)
 *                                 4     4   dim
 *                                 8     4   nnz
 *                                12     4   unused, zero
 *                                16  4*nnz  indices, 0-based, strictly increasing
 *                          16+4*nnz  4*nnz  values, float4, none zero
 */
typedef struct AnnSparseVector
{
	int32		vl_len_;
	int32		dim;
	int32		nnz;
	int32		unused;
	int32		indices[FLEXIBLE_ARRAY_MEMBER];
} AnnSparseVector;

StaticAssertDecl(offsetof(AnnVector, x) == 8, "on-disk format");
StaticAssertDecl(offsetof(AnnHalfVector, x) == 8, "on-disk format");
StaticAssertDecl(offsetof(AnnSparseVector, indices) == 16, "on-disk format");

static inline Size
AnnVectorSize(int dim)
{
	return offsetof(AnnVector, x) + sizeof(float) * (Size) dim;
}

static inline Size
AnnHalfVectorSize(int dim)
{
	return offsetof(AnnHalfVector, x) + sizeof(AnnHalf) * (Size) dim;
}

static inline Size
AnnSparseVectorSize(int nnz)
{
	return offsetof(AnnSparseVector, indices) + (sizeof(int32) + sizeof(float)) * (Size) nnz;
}

static inline float *
AnnSparseValues(const AnnSparseVector *v)
{
	return (float *) (v->indices + v->nnz);
}

/*
 * Fresh values in CurrentMemoryContext, header set, contents not.  The caller
 * has checked dim (nnz) against the type's limits.
 */
static inline AnnVector *
AnnNewVector(int dim)
{
	AnnVector  *v = palloc(AnnVectorSize(dim));

	SET_VARSIZE(v, AnnVectorSize(dim));
	v->dim = dim;
	v->unused = 0;
	return v;
}

static inline AnnHalfVector *
AnnNewHalfVector(int dim)
{
	AnnHalfVector *v = palloc(AnnHalfVectorSize(dim));

	SET_VARSIZE(v, AnnHalfVectorSize(dim));
	v->dim = dim;
	v->unused = 0;
	return v;
}

static inline AnnSparseVector *
AnnNewSparseVector(int dim, int nnz)
{
	AnnSparseVector *v = palloc(AnnSparseVectorSize(nnz));

	SET_VARSIZE(v, AnnSparseVectorSize(nnz));
	v->dim = dim;
	v->nnz = nnz;
	v->unused = 0;
	return v;
}

#define DatumGetAnnVectorP(d) ((AnnVector *) AnnDetoast((struct varlena *) DatumGetPointer(d)))
#define DatumGetAnnHalfVectorP(d) ((AnnHalfVector *) AnnDetoast((struct varlena *) DatumGetPointer(d)))
#define DatumGetAnnSparseVectorP(d) ((AnnSparseVector *) AnnDetoast((struct varlena *) DatumGetPointer(d)))

/*
 * How every distance function gets its arguments.  The result is read-only
 * and belongs to the row or to the call site: neither changed nor freed, nor
 * used after the function has returned.
 */
static inline const AnnVector *
AnnGetVectorArg(FunctionCallInfo fcinfo, int n)
{
	return (const AnnVector *) AnnDetoastArg(fcinfo, n);
}

static inline const AnnHalfVector *
AnnGetHalfVectorArg(FunctionCallInfo fcinfo, int n)
{
	return (const AnnHalfVector *) AnnDetoastArg(fcinfo, n);
}

static inline const AnnSparseVector *
AnnGetSparseVectorArg(FunctionCallInfo fcinfo, int n)
{
	return (const AnnSparseVector *) AnnDetoastArg(fcinfo, n);
}

static inline const VarBit *
AnnGetBitArg(FunctionCallInfo fcinfo, int n)
{
	return (const VarBit *) AnnDetoastArg(fcinfo, n);
}

#endif							/* ANN_TYPES_H */
