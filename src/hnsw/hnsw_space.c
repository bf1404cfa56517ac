/*
 * hnsw_space.c
 *	  What the index makes of an SQL value: row layout, stored forms, scores,
 *	  lengths and codes.
 *
 * Everything that depends on the element type or the metric is here; the rest
 * of the access method sees points, queries, scores and lengths.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/index.h"
#include "common/hashfn.h"
#include "utils/varbit.h"

#include "hnsw/hnsw.h"
#include "hnsw/hnsw_options.h"
#include "types/sparsevec.h"

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

/* Below this many dimensions a code saves nothing against the vector. */
#define MIN_CODED_DIM 32

/* Up to this many dimensions a code of one bit per coordinate needs more than twice the visits. */
#define LOW_DIM 128
#define MIN_LOW_DIM_PLANES 2

/* Edges that a row keeps at the least before its codes are shortened further. */
#define MIN_AUTO_SLOTS(slots) ((slots) - (slots) / 8)

/* Vectors up to this size are usually inline in the heap: a recheck costs little. */
#define INLINE_HEAP_BYTES 1900

static int
elementSize(AnnElement element)
{
	return element == ANN_ELEMENT_HALF ? sizeof(AnnHalf) : sizeof(float);
}

static bool
isDense(const AnnHnswLayout *layout)
{
	return layout->element == ANN_ELEMENT_FLOAT4 || layout->element == ANN_ELEMENT_HALF;
}

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
AnnHnswIndexMetric(Relation index)
{
	PGFunction	function = index_getprocinfo(index, 1, ANN_HNSW_DISTANCE_PROC)->fn_addr;

	for (int i = 0; i < lengthof(distance_functions); i++)
		if (distance_functions[i].function == function)
			return distance_functions[i].metric;
	ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator class of index \"%s\" names a distance function that hnsw does not know",
						RelationGetRelationName(index))));
}

/*
 * The operator class's element type: what its type support function says, or
 * vector when it has none.
 */
AnnElement
AnnHnswIndexElement(Relation index)
{
	if (!OidIsValid(index_getprocid(index, 1, ANN_HNSW_TYPE_PROC)))
		return ANN_ELEMENT_FLOAT4;
	return (AnnElement) DatumGetInt32(FunctionCall1(index_getprocinfo(index, 1, ANN_HNSW_TYPE_PROC),
													PointerGetDatum(NULL)));
}

static AnnRefineSpec
refineSpec(const AnnHnswLayout *layout, AnnRefineForm form)
{
	AnnRefineSpec spec = {0};

	spec.dim = (int32_t) layout->dim;
	spec.metric = layout->metric;
	spec.form = form;
	spec.element = layout->element;
	spec.rotated = AnnHnswHasCodes(layout) && form != ANN_REFINE_FULL;
	return spec;
}

/* Completes the derived sizes; false if a row does not fit a page. */
static bool
completeLayout(AnnHnswLayout *layout)
{
	Size		slot;
	Size		row;

	if (AnnHnswHasCodes(layout))
		slot = TYPEALIGN(2, sizeof(AnnHnswSlot) + layout->hint_size + layout->code_size);
	else
		slot = sizeof(AnnHnswPlainSlot);
	row = TYPEALIGN(4, sizeof(AnnHnswRowHeader) + layout->vector_space + slot * layout->slots);
	if (row > ANN_PAGE_USABLE)
		return false;
	layout->slot_size = (uint16) slot;
	layout->row_size = (uint16) row;
	layout->rows_per_page = (uint16) (ANN_PAGE_USABLE / row);
	return true;
}

static void
setVector(AnnHnswLayout *layout, AnnRefineForm form, bool inl)
{
	layout->refine = form;
	if (isDense(layout))
	{
		AnnRefineSpec spec = refineSpec(layout, form);

		layout->vector_size = (uint32) AnnRefineSize(&spec);
	}
	else if (layout->element == ANN_ELEMENT_BIT)
		layout->vector_size = (layout->dim + 7) / 8;
	else
		layout->vector_size = (uint32) AnnSparseVectorSize(ANN_SPARSE_MAX_NNZ);
	layout->vector_inline = inl;
	layout->vector_space = (uint16) (inl ? TYPEALIGN(4, layout->vector_size) : TYPEALIGN(4, sizeof(ItemPointerData)));
}

/*
 * Tries to fit `slots` edges with codes into rows of `budget` bytes; codes are
 * shortened to at most a third off, then further only when `squeeze`.
 */
static bool
fitCoded(AnnHnswLayout *layout, AnnCodeParams *code, Size budget, int slots, int hint, bool squeeze)
{
	Size		fixed = sizeof(AnnHnswRowHeader) + layout->vector_space;
	Size		room;
	AnnCodeParams whole;

	if (budget <= fixed)
		return false;
	room = (budget - fixed) / slots;
	if (room <= sizeof(AnnHnswSlot) + hint)
		return false;
	room -= sizeof(AnnHnswSlot) + hint;
	AnnCodeParamsChoose(&whole, layout->metric, (int) layout->dim, ANN_CODE_SEARCH, 0);
	AnnCodeParamsChoose(code, layout->metric, (int) layout->dim, ANN_CODE_SEARCH, room);
	if (AnnCodeBytes(code) > room && squeeze && room >= 8)
		AnnCodeParamsSet(code, layout->metric, (int) layout->dim, 1, Min((int) layout->dim, (int) room / 8 * 64));
	if (AnnCodeBytes(code) > room)
		return false;
	/* A single bit of few coordinates tells too little: rather fewer edges, or a smaller vector. */
	if (!squeeze && layout->dim <= LOW_DIM && code->planes < Min(whole.planes, MIN_LOW_DIM_PLANES))
		return false;
	layout->slots = (uint16) slots;
	layout->hint_size = (uint16) hint;
	layout->code_size = (uint16) AnnCodeBytes(code);
	return completeLayout(layout);
}

/*
 * Chooses the row layout for a new index from its column, operator class and
 * options.  Raises an error if no layout exists.
 *
 * With codes, `auto` packs rows so that the index is no larger than one of full
 * vectors beside lists of neighbours, 4 dim + 330 bytes a row; up to twice as
 * large where that is less than a fifth of a page.  Edges come before bits: codes are shortened before a row
 * gives up edges (README, Row layout).
 */
void
AnnHnswLayoutInit(AnnHnswLayout *layout, AnnCodeParams *code, Relation index)
{
	const AnnHnswOptions *options = (const AnnHnswOptions *) index->rd_options;
	int			m = AnnHnswOptionM(options);
	int			quantizer = AnnHnswOptionQuantizer(options);
	int			refine = AnnHnswOptionRefine(options);
	int			slots = 2 * m;
	int32		typmod = TupleDescAttr(index->rd_att, 0)->atttypmod;
	bool		codable;

	memset(layout, 0, sizeof(*layout));
	memset(code, 0, sizeof(*code));
	layout->element = AnnHnswIndexElement(index);
	layout->metric = AnnHnswIndexMetric(index);

	if (typmod < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("column does not have dimensions"),
				 errhint("Declare the column as vector(n), or index an expression such as (embedding::vector(n)).")));
	if (layout->element == ANN_ELEMENT_BIT && typmod > ANN_BIT_MAX_INDEX_DIM)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("column cannot have more than %d dimensions for an hnsw index", ANN_BIT_MAX_INDEX_DIM)));
	layout->dim = (uint32) typmod;

	codable = isDense(layout) && layout->metric <= ANN_METRIC_COSINE;
	if (!codable && quantizer == ANN_QUANTIZER_RABITQ)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("quantizer \"rabitq\" needs a vector or halfvec column and L2, inner product or cosine distance")));
	if (!isDense(layout) && refine != ANN_REFINE_AUTO && refine != ANN_REFINE_FULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("refine_type must be \"full\" for sparsevec and bit columns")));
	if (quantizer == ANN_QUANTIZER_AUTO)
		quantizer = codable && layout->dim >= MIN_CODED_DIM ? ANN_QUANTIZER_RABITQ : ANN_QUANTIZER_NONE;
	layout->quantizer = (uint8) quantizer;

	if (quantizer == ANN_QUANTIZER_NONE)
	{
		AnnRefineForm form = refine == ANN_REFINE_AUTO ? ANN_REFINE_FULL : (AnnRefineForm) refine;

		layout->slots = (uint16) slots;
		setVector(layout, form, layout->element != ANN_ELEMENT_SPARSE);
		if (layout->vector_size > ANN_PAGE_USABLE || !completeLayout(layout))
		{
			setVector(layout, form, false);
			if (!completeLayout(layout))
				elog(ERROR, "row of %d edges does not fit a page", slots);
		}
		return;
	}

	{
		AnnRefineForm forms[3];
		int			nforms = 0;
		Size		full = 4 * (Size) layout->dim + 330;
		Size		target = Max(full, Min(2 * full, ANN_PAGE_USABLE / 5));
		int			first = Max(1, (int) (ANN_PAGE_USABLE / target));

		if (refine != ANN_REFINE_AUTO)
			forms[nforms++] = (AnnRefineForm) refine;
		else if (layout->element == ANN_ELEMENT_HALF)
			forms[nforms++] = ANN_REFINE_FULL;
		else
		{
			forms[nforms++] = ANN_REFINE_HALF;
			if (layout->dim * elementSize(layout->element) <= INLINE_HEAP_BYTES)
				forms[nforms++] = ANN_REFINE_SQ8;
		}

		/* Rows of a whole fraction of a page, the most to a page first. */
		for (int rows = first; rows >= 1; rows--)
		{
			Size		budget = TYPEALIGN_DOWN(4, ANN_PAGE_USABLE / rows);

			for (int i = 0; i < nforms; i++)
			{
				setVector(layout, forms[i], true);
				for (int n = slots; n >= MIN_AUTO_SLOTS(slots); n--)
					if (fitCoded(layout, code, budget, n, sizeof(ItemPointerData), false) ||
						fitCoded(layout, code, budget, n, 0, false))
						return;
			}
		}
		setVector(layout, forms[0], true);
		if (fitCoded(layout, code, ANN_PAGE_USABLE, slots, 0, true) && code->kept * 3 >= (int) layout->dim)
			return;
		setVector(layout, forms[0], false);
		if (!fitCoded(layout, code, ANN_PAGE_USABLE, slots, sizeof(ItemPointerData), true))
			elog(ERROR, "row of %d edges does not fit a page", slots);
	}
}

/*
 * `center` is float[dim] (rotated) and must outlive the space; NULL is zero.
 */
void
AnnHnswSpaceInit(AnnHnswSpace *space, const AnnHnswMetaPageData *meta, const float *center)
{
	space->layout = meta->layout;
	space->code = meta->code;
	space->refine = refineSpec(&meta->layout, meta->layout.refine);
	space->alpha = meta->alpha;
	space->center = center;
	space->center_norm2 = center == NULL ? 0 : ann_kernels.ip_f32(center, center, meta->layout.dim);
}

/*
 * The SQL value's elements, after a check of its dimensions.  `value` is
 * detoasted.
 */
static const void *
elementsOf(const AnnHnswLayout *layout, struct varlena *value, Size *size)
{
	int			dim;
	const void *elements;

	switch ((AnnElement) layout->element)
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
	if (dim != (int) layout->dim)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("expected %u dimensions, not %d", layout->dim, dim)));
	return elements;
}

/* The zero sparse vector has no direction. */
static bool
sparseIsZero(const AnnHnswLayout *layout, const void *value)
{
	return layout->metric == ANN_METRIC_COSINE && ((const AnnSparseVector *) value)->nnz == 0;
}

/* From what AnnRefineEncode or AnnRefineDecode gives to the index space. */
static void
intoSpace(const AnnHnswSpace *space, float *dense)
{
	if (space->refine.form != ANN_REFINE_FULL)
		return;
	if (space->refine.metric == ANN_METRIC_COSINE)
		AnnNormalize(dense, dense, space->refine.dim);
	if (AnnHnswHasCodes(&space->layout))
		AnnRotate(dense, dense, space->refine.dim);
}

/*
 * Fills *point from an SQL value that is not NULL; palloc's in
 * CurrentMemoryContext.  Raises ERRCODE_DATA_EXCEPTION if the dimensions are
 * not the index's.
 */
void
AnnHnswFormPoint(const AnnHnswSpace *space, Datum value, AnnHnswPoint *point)
{
	const AnnHnswLayout *layout = &space->layout;
	Size		size;
	const void *elements = elementsOf(layout, PG_DETOAST_DATUM(value), &size);

	memset(point, 0, sizeof(*point));
	point->hash = hash_bytes((const unsigned char *) elements, (int) size);
	if (isDense(layout))
	{
		point->stored_size = layout->vector_size;
		point->stored = palloc(point->stored_size);
		point->dense = palloc(sizeof(float) * layout->dim);
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
		point->unplaced = layout->element == ANN_ELEMENT_SPARSE && sparseIsZero(layout, elements);
	}
}

static AnnHnswQuery *
queryFromElements(const AnnHnswSpace *space, const void *elements)
{
	const AnnHnswLayout *layout = &space->layout;
	AnnHnswQuery *query = palloc0(sizeof(AnnHnswQuery));

	query->space = space;
	if (!isDense(layout))
	{
		query->value = elements;
		query->unplaced = layout->element == ANN_ELEMENT_SPARSE && sparseIsZero(layout, elements);
		return query;
	}
	query->refine = palloc(AnnRefineQuerySize(&space->refine));
	query->unplaced = AnnRefineQueryInit(query->refine, &space->refine, elements) == ANN_REFINE_ZERO;
	if (AnnHnswHasCodes(layout))
	{
		int			dim = (int) layout->dim;
		float	   *r = palloc(sizeof(float) * dim);
		float		q_dot_c = 0;

		if (AnnRefineIsExact(&space->refine) && layout->element == ANN_ELEMENT_HALF)
			ann_kernels.f16_to_f32((const AnnHalf *) query->refine->x, r, dim);
		else
			memcpy(r, query->refine->x, sizeof(float) * dim);
		intoSpace(space, r);
		if (space->center != NULL)
		{
			q_dot_c = ann_kernels.ip_f32(r, space->center, dim);
			for (int i = 0; i < dim; i++)
				r[i] -= space->center[i];
		}
		query->code = palloc(AnnQueryCodeSize(&space->code));
		AnnQueryCodeInit(query->code, &space->code, r, q_dot_c);
		pfree(r);
	}
	return query;
}

/*
 * Makes a query of an SQL value that is not NULL; palloc's in
 * CurrentMemoryContext.  `space` must outlive it.
 */
AnnHnswQuery *
AnnHnswQueryCreate(const AnnHnswSpace *space, Datum value)
{
	Size		size;

	return queryFromElements(space, elementsOf(&space->layout, PG_DETOAST_DATUM(value), &size));
}

/*
 * The same from a vector as a row stores it, which must outlive the query too.
 */
AnnHnswQuery *
AnnHnswQueryFromStored(const AnnHnswSpace *space, const char *stored)
{
	const AnnHnswLayout *layout = &space->layout;
	float	   *x;
	AnnHalf    *halves;

	if (!isDense(layout))
		return queryFromElements(space, stored);
	x = palloc(sizeof(float) * layout->dim);
	AnnRefineDecode(&space->refine, stored, x);
	if (space->refine.rotated)
		AnnRotateInverse(x, x, (int) layout->dim);
	if (layout->element == ANN_ELEMENT_FLOAT4)
		return queryFromElements(space, x);
	halves = palloc(sizeof(AnnHalf) * layout->dim);
	ann_kernels.f32_to_f16(x, halves, layout->dim);
	return queryFromElements(space, halves);
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

static float
sparseOrBitScore(const AnnHnswSpace *space, const char *a, const char *b)
{
	uint64_t	both,
				either;
	const AnnHnswLayout *layout = &space->layout;

	switch ((AnnMetric) layout->metric)
	{
		case ANN_METRIC_HAMMING:
			return (float) ann_kernels.hamming((const uint8_t *) a, (const uint8_t *) b, (layout->dim + 7) / 8);
		case ANN_METRIC_JACCARD:
			ann_kernels.jaccard((const uint8_t *) a, (const uint8_t *) b, (layout->dim + 7) / 8, &both, &either);
			return either == 0 || both == 0 ? 1.0f : (float) (1.0 - (double) both / (double) either);
		default:
			return (float) sparseScore((const AnnSparseVector *) a, (const AnnSparseVector *) b, layout->metric);
	}
}

/*
 * The score of a stored vector.
 */
float
AnnHnswScore(const AnnHnswQuery *query, const char *stored)
{
	if (query->refine != NULL)
		return AnnRefineScore(query->refine, stored);
	return sparseOrBitScore(query->space, query->value, stored);
}

/*
 * Bounds of the SQL operator's result for a stored vector of this score.
 */
AnnInterval
AnnHnswInterval(const AnnHnswQuery *query, const char *stored, float score)
{
	AnnInterval interval;
	const AnnHnswLayout *layout = &query->space->layout;
	uint64_t	both,
				either;

	if (query->refine != NULL)
		return AnnRefineInterval(query->refine, stored, score);
	switch ((AnnMetric) layout->metric)
	{
		case ANN_METRIC_HAMMING:
			interval.lo = score;
			break;
		case ANN_METRIC_JACCARD:
			ann_kernels.jaccard((const uint8_t *) query->value, (const uint8_t *) stored, (layout->dim + 7) / 8,
								&both, &either);
			interval.lo = either == 0 || both == 0 ? 1.0 : 1.0 - (double) both / (double) either;
			break;
		default:
			interval.lo = sparseScore((const AnnSparseVector *) query->value,
									  (const AnnSparseVector *) stored, layout->metric);
			if (layout->metric == ANN_METRIC_L2)
				interval.lo = sqrt(interval.lo);
			break;
	}
	interval.hi = interval.lo;
	return interval;
}

/*
 * Bytes of a stored vector.
 */
Size
AnnHnswStoredSize(const AnnHnswSpace *space, const char *stored)
{
	if (space->layout.element == ANN_ELEMENT_SPARSE)
		return VARSIZE(stored);
	return space->layout.vector_size;
}

/*
 * Reads a stored vector (vector and halfvec only) back into the index space.
 */
void
AnnHnswDecode(const AnnHnswSpace *space, const char *stored, float *dense)
{
	AnnRefineDecode(&space->refine, stored, dense);
	intoSpace(space, dense);
}

/*
 * The distance that prunes compare: Euclidean in the index space for L2, inner
 * product and cosine, the metric itself otherwise.  dense_* are used where
 * they exist, stored_* otherwise.
 */
float
AnnHnswPairLength(const AnnHnswSpace *space, const float *dense_a, const char *stored_a,
				  const float *dense_b, const char *stored_b)
{
	float		score;

	if (dense_a != NULL)
	{
		if (space->layout.metric == ANN_METRIC_L1)
			return ann_kernels.l1_f32(dense_a, dense_b, space->layout.dim);
		return sqrtf(ann_kernels.l2sq_f32(dense_a, dense_b, space->layout.dim));
	}
	if (space->layout.element != ANN_ELEMENT_SPARSE)
		return sparseOrBitScore(space, stored_a, stored_b);
	switch ((AnnMetric) space->layout.metric)
	{
		case ANN_METRIC_COSINE:
			/* |a/|a| - b/|b||^2 = 2 (1 - cos) */
			score = sparseOrBitScore(space, stored_a, stored_b);
			return sqrtf(Max(0.0f, 2.0f * score));
		case ANN_METRIC_L1:
			return sparseOrBitScore(space, stored_a, stored_b);
		default:
			return sqrtf(AnnSparseL2Squared((const AnnSparseVector *) stored_a,
											(const AnnSparseVector *) stored_b));
	}
}

/*
 * Encodes a vector of the index space (rotated); scratch is float[dim].
 */
void
AnnHnswEncode(const AnnHnswSpace *space, const float *dense, uint8 *code,
			  AnnCodeFactors *factors, float *scratch)
{
	int			dim = (int) space->layout.dim;
	float		r_dot_c = 0;

	if (space->center == NULL)
		memcpy(scratch, dense, sizeof(float) * dim);
	else
	{
		for (int i = 0; i < dim; i++)
			scratch[i] = dense[i] - space->center[i];
		if (space->layout.metric == ANN_METRIC_IP)
			r_dot_c = ann_kernels.ip_f32(scratch, space->center, dim);
	}
	AnnEncode(&space->code, scratch, r_dot_c, code, factors);
}
