/*
 * space.c
 *	  Values of every element type under every metric: points, queries, scores.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/lsyscache.h"
#include "utils/varbit.h"

#include "space/space.h"
#include "types/detoast.h"
#include "types/sparsevec.h"
#include "types/types.h"

const char *const ann_metric_names[ANN_METRICS] = {"L2", "inner product", "cosine", "L1", "Hamming", "Jaccard"};
const char *const ann_element_names[ANN_ELEMENTS] = {"vector", "halfvec", "sparsevec", "bit"};
const char *const ann_refine_names[ANN_REFINES] = {"full", "half", "sq8"};

PGDLLEXPORT Datum ann_vector_l2_squared_distance(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum ann_halfvec_l2_squared_distance(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum ann_sparsevec_l2_squared_distance(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum ann_vector_negative_inner_product(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum ann_halfvec_negative_inner_product(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum ann_sparsevec_negative_inner_product(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum ann_vector_cosine_distance(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum ann_halfvec_cosine_distance(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum ann_sparsevec_cosine_distance(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum ann_vector_l1_distance(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum ann_halfvec_l1_distance(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum ann_sparsevec_l1_distance(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum ann_bit_hamming_distance(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum ann_bit_jaccard_distance(PG_FUNCTION_ARGS);

/* The distance functions that operator classes may name, and what they measure. */
static const struct
{
	PGFunction	function;
	AnnMetric	metric;
}			distance_functions[] =
{
	{ann_vector_l2_squared_distance, ANN_METRIC_L2},
	{ann_halfvec_l2_squared_distance, ANN_METRIC_L2},
	{ann_sparsevec_l2_squared_distance, ANN_METRIC_L2},
	{ann_vector_negative_inner_product, ANN_METRIC_IP},
	{ann_halfvec_negative_inner_product, ANN_METRIC_IP},
	{ann_sparsevec_negative_inner_product, ANN_METRIC_IP},
	{ann_vector_cosine_distance, ANN_METRIC_COSINE},
	{ann_halfvec_cosine_distance, ANN_METRIC_COSINE},
	{ann_sparsevec_cosine_distance, ANN_METRIC_COSINE},
	{ann_vector_l1_distance, ANN_METRIC_L1},
	{ann_halfvec_l1_distance, ANN_METRIC_L1},
	{ann_sparsevec_l1_distance, ANN_METRIC_L1},
	{ann_bit_hamming_distance, ANN_METRIC_HAMMING},
	{ann_bit_jaccard_distance, ANN_METRIC_JACCARD},
};

/*
 * The operator class's metric, told from its distance function.
 */
AnnMetric
AnnIndexMetric(Relation index, int distance_proc)
{
	PGFunction	function = index_getprocinfo(index, 1, distance_proc)->fn_addr;

	for (int i = 0; i < lengthof(distance_functions); i++)
		if (distance_functions[i].function == function)
			return distance_functions[i].metric;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("operator class of index \"%s\" names a distance function that is not one of ann's",
					RelationGetRelationName(index))));
}

/*
 * The operator class's element type: what its type support function says, or
 * vector when it has none.
 */
AnnElement
AnnIndexElement(Relation index, int type_proc)
{
	if (!OidIsValid(index_getprocid(index, 1, type_proc)))
		return ANN_ELEMENT_FLOAT4;
	return (AnnElement) DatumGetInt32(FunctionCall1(index_getprocinfo(index, 1, type_proc),
													PointerGetDatum(NULL)));
}

/*
 * The dimensions that the indexed column is declared with, itself or by its domain.  Raises
 * ERRCODE_INVALID_TABLE_DEFINITION if it is not.
 */
int32
AnnIndexDimensions(Relation index)
{
	Form_pg_attribute column = TupleDescAttr(RelationGetDescr(index), 0);
	int32		typmod = column->atttypmod;

	getBaseTypeAndTypmod(column->atttypid, &typmod);
	if (typmod < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("column does not have dimensions"),
				 errhint("Declare the column as vector(n), or index an expression such as (embedding::vector(n)).")));
	return typmod;
}

/*
 * `coded`: the index has codes, so whatever is not stored in full is stored
 * rotated.  `rotated`: the index space is.
 */
void
AnnSpaceInit(AnnSpace *space, AnnElement element, AnnMetric metric, int dim,
			 AnnRefineForm form, bool coded, bool rotated)
{
	memset(space, 0, sizeof(*space));
	space->refine.dim = dim;
	space->refine.metric = metric;
	space->refine.form = form;
	space->refine.element = element;
	space->refine.rotated = coded && form != ANN_REFINE_FULL;
	space->rotated = rotated;
	if (AnnElementIsDense(element))
		space->stored_size = AnnRefineSize(&space->refine);
	else if (element == ANN_ELEMENT_BIT)
		space->stored_size = ((Size) dim + 7) / 8;
	else
		space->stored_size = AnnSparseVectorSize(ANN_SPARSE_MAX_NNZ);
}

/*
 * The elements of a detoasted SQL value (all of it, for sparsevec) and their
 * size.  Raises ERRCODE_DATA_EXCEPTION if its dimensions are not the index's.
 */
const void *
AnnSpaceElements(const AnnSpace *space, struct varlena *value, Size *size)
{
	int			dim;
	const void *elements;

	switch ((AnnElement) space->refine.element)
	{
		case ANN_ELEMENT_FLOAT4:
			dim = ((AnnVector *) value)->dim;
			elements = ((AnnVector *) value)->x;
			*size = sizeof(float) * (Size) dim;
			break;
		case ANN_ELEMENT_HALF:
			dim = ((AnnHalfVector *) value)->dim;
			elements = ((AnnHalfVector *) value)->x;
			*size = sizeof(AnnHalf) * (Size) dim;
			break;
		case ANN_ELEMENT_SPARSE:
			dim = ((AnnSparseVector *) value)->dim;
			elements = value;
			*size = VARSIZE(value);
			break;
		default:
			dim = VARBITLEN(value);
			elements = VARBITS(value);
			*size = VARBITBYTES(value);
			break;
	}
	if (dim != space->refine.dim)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("expected %d dimensions, not %d", space->refine.dim, dim)));
	return elements;
}

/* The zero sparse vector has no direction. */
static bool
isZero(const AnnSpace *space, const void *elements)
{
	return space->refine.element == ANN_ELEMENT_SPARSE && space->refine.metric == ANN_METRIC_COSINE &&
		((const AnnSparseVector *) elements)->nnz == 0;
}

/* From what AnnRefineEncode or AnnRefineDecode gives to the index space. */
static void
intoSpace(const AnnSpace *space, float *dense)
{
	if (space->refine.form == ANN_REFINE_FULL && space->refine.metric == ANN_METRIC_COSINE)
		AnnNormalize(dense, dense, space->refine.dim);
	if (space->rotated && !space->refine.rotated)
		AnnRotate(dense, dense, space->refine.dim);
}

/*
 * Fills *point but for its hash.
 */
static void
placeElements(const AnnSpace *space, const void *elements, Size size, AnnPoint *point)
{
	memset(point, 0, sizeof(*point));
	if (AnnSpaceIsDense(space))
	{
		point->stored_size = space->stored_size;
		point->stored = palloc(point->stored_size);
		point->dense = palloc(mul_size(sizeof(float), space->refine.dim));
		if (AnnRefineEncode(&space->refine, elements, point->stored, point->dense) == ANN_REFINE_ZERO)
			point->unplaced = true;
		else
			intoSpace(space, point->dense);
	}
	else
	{
		point->stored_size = size;
		point->stored = palloc(size);
		memcpy(point->stored, elements, size);
		point->unplaced = isZero(space, elements);
	}
}

/*
 * Fills *point from an SQL value that is not NULL; palloc's in
 * CurrentMemoryContext.  Raises ERRCODE_DATA_EXCEPTION if the dimensions are
 * not the index's.
 */
void
AnnSpaceFormPoint(const AnnSpace *space, Datum value, AnnPoint *point)
{
	Size		size;
	const void *elements = AnnSpaceElements(space, AnnDetoast((struct varlena *) DatumGetPointer(value)), &size);

	placeElements(space, elements, size, point);
	point->hash = hash_bytes((const unsigned char *) elements, (int) size);
}

/*
 * The same for those who do not need the hash, which is zero.
 */
void
AnnSpacePlacePoint(const AnnSpace *space, Datum value, AnnPoint *point)
{
	Size		size;
	const void *elements = AnnSpaceElements(space, AnnDetoast((struct varlena *) DatumGetPointer(value)), &size);

	placeElements(space, elements, size, point);
}

/*
 * Makes a query of elements of the column's type; palloc's in CurrentMemoryContext.
 * `space` and (sparsevec and bit) the elements must outlive it.
 */
AnnQuery *
AnnSpaceQueryOf(const AnnSpace *space, const void *elements)
{
	AnnQuery   *query = palloc0(sizeof(AnnQuery));

	query->space = space;
	if (AnnSpaceIsDense(space))
	{
		query->refine = palloc(AnnRefineQuerySize(&space->refine));
		query->unplaced = AnnRefineQueryInit(query->refine, &space->refine, elements) == ANN_REFINE_ZERO;
	}
	else
	{
		query->value = elements;
		query->unplaced = isZero(space, elements);
	}
	return query;
}

/*
 * The same of an SQL value that is not NULL.  Raises ERRCODE_DATA_EXCEPTION if the
 * dimensions are not the index's.
 */
AnnQuery *
AnnSpaceQuery(const AnnSpace *space, Datum value)
{
	Size		size;

	return AnnSpaceQueryOf(space, AnnSpaceElements(space, PG_DETOAST_DATUM(value), &size));
}

/*
 * The query (vector and halfvec only) in the index space; dense is float[dim].
 */
void
AnnSpaceQueryDense(const AnnQuery *query, float *dense)
{
	const AnnSpace *space = query->space;

	if (AnnRefineIsExact(&space->refine) && space->refine.element == ANN_ELEMENT_HALF)
		ann_kernels.f16_to_f32((const AnnHalf *) query->refine->x, dense, space->refine.dim);
	else
		memcpy(dense, query->refine->x, sizeof(float) * space->refine.dim);
	intoSpace(space, dense);
}

static double
sparseScore(const AnnSparseVector *a, const AnnSparseVector *b, AnnMetric metric)
{
	switch (metric)
	{
		case ANN_METRIC_IP:
			return -(double) AnnSparseInnerProduct(a, b);
		case ANN_METRIC_COSINE:
			return AnnSparseCosineDistance(a, b);
		case ANN_METRIC_L1:
			return AnnSparseL1(a, b);
		default:
			return AnnSparseL2Squared(a, b);
	}
}

/* The SQL function's result for sparse vectors (squared L2) and bit strings. */
static double
exactScore(const AnnSpace *space, const char *a, const char *b)
{
	Size		bytes = ((Size) space->refine.dim + 7) / 8;
	uint64_t	both,
				either;

	switch ((AnnMetric) space->refine.metric)
	{
		case ANN_METRIC_HAMMING:
			return (double) ann_kernels.hamming((const uint8_t *) a, (const uint8_t *) b, bytes);
		case ANN_METRIC_JACCARD:
			ann_kernels.jaccard((const uint8_t *) a, (const uint8_t *) b, bytes, &both, &either);
			return either == 0 || both == 0 ? 1.0 : 1.0 - (double) both / (double) either;
		default:
			return sparseScore((const AnnSparseVector *) a, (const AnnSparseVector *) b, space->refine.metric);
	}
}

/*
 * The score of two stored sparse vectors or bit strings.
 */
float
AnnSpacePairScore(const AnnSpace *space, const char *a, const char *b)
{
	return (float) exactScore(space, a, b);
}

/*
 * The score of a stored vector.
 */
float
AnnSpaceScore(const AnnQuery *query, const char *stored)
{
	if (query->refine != NULL)
		return AnnRefineScore(query->refine, stored);
	return (float) exactScore(query->space, query->value, stored);
}

/*
 * Bounds of the SQL operator's result for a stored vector of this score.
 */
AnnInterval
AnnSpaceInterval(const AnnQuery *query, const char *stored, float score)
{
	AnnInterval interval;

	if (query->refine != NULL)
		return AnnRefineInterval(query->refine, stored, score);
	interval.lo = exactScore(query->space, query->value, stored);
	if (query->space->refine.metric == ANN_METRIC_L2)
		interval.lo = sqrt(interval.lo);
	interval.hi = interval.lo;
	return interval;
}

/*
 * Bytes of a stored vector.
 */
Size
AnnSpaceStoredSize(const AnnSpace *space, const char *stored)
{
	if (space->refine.element == ANN_ELEMENT_SPARSE)
		return VARSIZE(stored);
	return space->stored_size;
}

/*
 * Reads a stored vector (vector and halfvec only) back into the index space.
 */
void
AnnSpaceDecode(const AnnSpace *space, const char *stored, float *dense)
{
	AnnRefineDecode(&space->refine, stored, dense);
	intoSpace(space, dense);
}
