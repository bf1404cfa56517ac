/*
 * space.h
 *	  What an index makes of an SQL value, for every access method: the forms in
 *	  which it stores, scores and codes vectors of any element type and metric.
 *
 * Everything that depends on the element type or the metric is here and in
 * quantize/; the access methods see points, queries, scores and intervals.
 */
#ifndef ANN_SPACE_H
#define ANN_SPACE_H

#include "postgres.h"

#include "utils/rel.h"

#include "quantize/quantize.h"

/* Value of the refine_type option that leaves the choice to the index. */
#define ANN_REFINE_AUTO 3

typedef enum AnnQuantizer
{
	ANN_QUANTIZER_NONE = 0,
	ANN_QUANTIZER_RABITQ,
	ANN_QUANTIZER_AUTO			/* option value only */
} AnnQuantizer;

typedef enum AnnIterativeScan
{
	ANN_ITERATIVE_OFF = 0,
	ANN_ITERATIVE_RELAXED,
	ANN_ITERATIVE_STRICT
} AnnIterativeScan;

/*
 * How vectors of one index are formed and compared.  The *index space* is where
 * vectors are coded and clustered: normalised for cosine, rotated if `rotated`.
 */
typedef struct AnnSpace
{
	AnnRefineSpec refine;		/* dim, metric and element hold for every type */
	Size		stored_size;	/* of a vector as stored; the largest, for sparsevec */
	bool		rotated;
} AnnSpace;

/* An SQL value in the forms that an index needs of it. */
typedef struct AnnPoint
{
	uint32		hash;			/* of the SQL value's bytes */
	bool		unplaced;		/* zero vector under cosine: it has no place in the index space */
	Size		stored_size;
	char	   *stored;			/* re-rank form; the elements themselves for sparsevec and bit */
	float	   *dense;			/* vector and halfvec: float[dim] in the index space; else NULL */
	char	   *attributes;		/* attribute area (attributes.h), or NULL */
} AnnPoint;

/* A query: the same, ready to be compared with stored vectors. */
typedef struct AnnQuery
{
	const AnnSpace *space;
	bool		unplaced;		/* every distance from it is NaN */
	const char *value;			/* sparsevec and bit: the SQL value's elements */
	AnnRefineQuery *refine;		/* vector and halfvec */
} AnnQuery;

static inline bool
AnnElementIsDense(int element)
{
	return element == ANN_ELEMENT_FLOAT4 || element == ANN_ELEMENT_HALF;
}

static inline bool
AnnSpaceIsDense(const AnnSpace *space)
{
	return AnnElementIsDense(space->refine.element);
}

/* Names of an AnnMetric, an AnnElement, an AnnRefineForm; how many there are. */
#define ANN_METRICS 6
#define ANN_ELEMENTS 4
#define ANN_REFINES 3
extern const char *const ann_metric_names[ANN_METRICS];
extern const char *const ann_element_names[ANN_ELEMENTS];
extern const char *const ann_refine_names[ANN_REFINES];

extern AnnMetric AnnIndexMetric(Relation index, int distance_proc);
extern int32 AnnIndexDimensions(Relation index);
extern AnnElement AnnIndexElement(Relation index, int type_proc);

extern void AnnSpaceInit(AnnSpace *space, AnnElement element, AnnMetric metric, int dim,
						 AnnRefineForm form, bool coded, bool rotated);
extern const void *AnnSpaceElements(const AnnSpace *space, struct varlena *value, Size *size);
extern void AnnSpaceFormPoint(const AnnSpace *space, Datum value, AnnPoint *point);
extern void AnnSpacePlacePoint(const AnnSpace *space, Datum value, AnnPoint *point);
extern AnnQuery *AnnSpaceQuery(const AnnSpace *space, Datum value);
extern AnnQuery *AnnSpaceQueryOf(const AnnSpace *space, const void *elements);
extern void AnnSpaceQueryDense(const AnnQuery *query, float *dense);
extern float AnnSpaceScore(const AnnQuery *query, const char *stored);
extern AnnInterval AnnSpaceInterval(const AnnQuery *query, const char *stored, float score);
extern float AnnSpacePairScore(const AnnSpace *space, const char *a, const char *b);
extern Size AnnSpaceStoredSize(const AnnSpace *space, const char *stored);
extern void AnnSpaceDecode(const AnnSpace *space, const char *stored, float *dense);

#endif							/* ANN_SPACE_H */
