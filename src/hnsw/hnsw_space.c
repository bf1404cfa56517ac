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

#include "hnsw/hnsw.h"
#include "hnsw/hnsw_options.h"
#include "types/sparsevec.h"

/* Below this many dimensions a code saves nothing against the vector. */
#define MIN_CODED_DIM 32

/* Up to this many dimensions a code of one bit per coordinate needs more than twice the visits. */
#define LOW_DIM 128
#define MIN_LOW_DIM_PLANES 2

/* Edges that a row keeps at the least before its codes are shortened further. */
#define MIN_AUTO_SLOTS(slots) ((slots) - (slots) / 8)

/* A hint is worth an edge or two, but not a larger row, or a smaller form of the vector. */
#define HINT_SIZE ((int) sizeof(uint16))

/* Vectors up to this size are usually inline in the heap: a recheck costs little. */
#define INLINE_HEAP_BYTES 1900

static int
elementSize(AnnElement element)
{
	return element == ANN_ELEMENT_HALF ? sizeof(AnnHalf) : sizeof(float);
}

static AnnSpace
spaceOf(const AnnHnswLayout *layout, AnnRefineForm form)
{
	AnnSpace	space;

	AnnSpaceInit(&space, layout->element, layout->metric, (int) layout->dim, form,
				 AnnHnswHasCodes(layout), AnnHnswHasCodes(layout));
	return space;
}

/* Bytes of a row before its slots. */
static Size
fixedSize(const AnnHnswLayout *layout)
{
	return sizeof(AnnHnswRowHeader) + layout->vector_space + AnnHnswAttributeSpace(layout);
}

static void
raiseTooLarge(Relation index, int slots)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("a row of index \"%s\" with %d edges does not fit a page", RelationGetRelationName(index), slots),
			 errhint("Choose a smaller m, or include fewer columns.")));
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
	row = TYPEALIGN(4, fixedSize(layout) + slot * layout->slots);
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
	layout->vector_size = (uint32) spaceOf(layout, form).stored_size;
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
	Size		fixed = fixedSize(layout);
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
	int32		dimensions = AnnIndexDimensions(index);
	bool		codable;

	memset(layout, 0, sizeof(*layout));
	memset(code, 0, sizeof(*code));
	layout->element = AnnIndexElement(index, ANN_HNSW_TYPE_PROC);
	layout->metric = AnnIndexMetric(index, ANN_HNSW_DISTANCE_PROC);

	if (layout->element == ANN_ELEMENT_BIT && dimensions > ANN_BIT_MAX_INDEX_DIM)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("column cannot have more than %d dimensions for an hnsw index", ANN_BIT_MAX_INDEX_DIM)));
	layout->dim = (uint32) dimensions;
	layout->attribute_size = (uint16) AnnAttributesSize(index);

	codable = AnnElementIsDense(layout->element) && layout->metric <= ANN_METRIC_COSINE;
	if (!codable && quantizer == ANN_QUANTIZER_RABITQ)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("quantizer \"rabitq\" needs a vector or halfvec column and L2, inner product or cosine distance")));
	if (!AnnElementIsDense(layout->element) && refine != ANN_REFINE_AUTO && refine != ANN_REFINE_FULL)
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
				raiseTooLarge(index, slots);
		}
		return;
	}

	{
		AnnRefineForm forms[3];
		int			nforms = 0;
		Size		full = 4 * (Size) layout->dim + 330 + layout->attribute_size;
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
					if (fitCoded(layout, code, budget, n, HINT_SIZE, false))
						return;
				for (int n = slots; n >= MIN_AUTO_SLOTS(slots); n--)
					if (fitCoded(layout, code, budget, n, 0, false))
						return;
			}
		}
		setVector(layout, forms[0], true);
		if (fitCoded(layout, code, ANN_PAGE_USABLE, slots, 0, true) && code->kept * 3 >= (int) layout->dim)
			return;
		setVector(layout, forms[0], false);
		if (!fitCoded(layout, code, ANN_PAGE_USABLE, slots, HINT_SIZE, true))
			raiseTooLarge(index, slots);
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
	space->base = spaceOf(&meta->layout, meta->layout.refine);
	space->alpha = meta->alpha;
	space->center = center;
	space->center_norm2 = center == NULL ? 0 : ann_kernels.ip_f32(center, center, meta->layout.dim);
}

/*
 * Fills *point from an SQL value that is not NULL; palloc's in
 * CurrentMemoryContext.  Raises ERRCODE_DATA_EXCEPTION if the dimensions are
 * not the index's.
 */
void
AnnHnswFormPoint(const AnnHnswSpace *space, Datum value, AnnHnswPoint *point)
{
	AnnSpaceFormPoint(&space->base, value, point);
}

/*
 * Adds the attribute area of a tuple's columns (AnnAttributesForm) to a point, which keeps it;
 * it is part of its hash.
 */
void
AnnHnswSetAttributes(const AnnAttributes *attributes, char *area, AnnHnswPoint *point)
{
	point->attributes = area;
	point->hash = AnnAttributesHash(attributes, point->hash, area);
}

static AnnHnswQuery *
queryFromElements(const AnnHnswSpace *space, const void *elements)
{
	const AnnHnswLayout *layout = &space->layout;
	AnnHnswQuery *query = palloc0(sizeof(AnnHnswQuery));

	query->space = space;
	query->base = AnnSpaceQueryOf(&space->base, elements);
	query->unplaced = query->base->unplaced;
	if (AnnHnswHasCodes(layout))
	{
		int			dim = (int) layout->dim;
		float	   *r = palloc(sizeof(float) * dim);
		float		q_dot_c = 0;

		AnnSpaceQueryDense(query->base, r);
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

	return queryFromElements(space, AnnSpaceElements(&space->base, PG_DETOAST_DATUM(value), &size));
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

	if (!AnnElementIsDense(layout->element))
		return queryFromElements(space, stored);
	x = palloc(sizeof(float) * layout->dim);
	AnnRefineDecode(&space->base.refine, stored, x);
	if (space->base.refine.rotated)
		AnnRotateInverse(x, x, (int) layout->dim);
	if (layout->element == ANN_ELEMENT_FLOAT4)
		return queryFromElements(space, x);
	halves = palloc(sizeof(AnnHalf) * layout->dim);
	ann_kernels.f32_to_f16(x, halves, layout->dim);
	return queryFromElements(space, halves);
}

/*
 * The score of a stored vector.
 */
float
AnnHnswScore(const AnnHnswQuery *query, const char *stored)
{
	return AnnSpaceScore(query->base, stored);
}

/*
 * Bounds of the SQL operator's result for a stored vector of this score.
 */
AnnInterval
AnnHnswInterval(const AnnHnswQuery *query, const char *stored, float score)
{
	return AnnSpaceInterval(query->base, stored, score);
}

/*
 * Bytes of a stored vector.
 */
Size
AnnHnswStoredSize(const AnnHnswSpace *space, const char *stored)
{
	return AnnSpaceStoredSize(&space->base, stored);
}

/*
 * Whether a row, whose vector is `stored`, holds the point's value, with whatever attributes.
 */
bool
AnnHnswRowHolds(const AnnHnswSpace *space, const AnnHnswRowHeader *header, const char *stored, const AnnPoint *point)
{
	return header->hash == point->hash && AnnHnswStoredSize(space, stored) == point->stored_size &&
		memcmp(stored, point->stored, point->stored_size) == 0;
}

/*
 * Reads a stored vector (vector and halfvec only) back into the index space.
 */
void
AnnHnswDecode(const AnnHnswSpace *space, const char *stored, float *dense)
{
	AnnSpaceDecode(&space->base, stored, dense);
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
		return AnnSpacePairScore(&space->base, stored_a, stored_b);
	switch ((AnnMetric) space->layout.metric)
	{
		case ANN_METRIC_COSINE:
			/* |a/|a| - b/|b||^2 = 2 (1 - cos) */
			score = AnnSpacePairScore(&space->base, stored_a, stored_b);
			return sqrtf(Max(0.0f, 2.0f * score));
		case ANN_METRIC_L1:
			return AnnSpacePairScore(&space->base, stored_a, stored_b);
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
