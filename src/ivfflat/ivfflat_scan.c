/*
 * ivfflat_scan.c
 *	  Index scans: README, section Scan.
 */
#include "postgres.h"

#include <math.h>

#include "access/relscan.h"
#include "access/tupdesc.h"
#include "access/xlog.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type_d.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/float.h"
#include "utils/memutils.h"
#include "utils/tuplesort.h"

#include "ivfflat/ivfflat_options.h"
#include "space/scan.h"

/* Pending entries whose order is found at first, and how many are sampled for that; powers of two. */
#define FIRST_NEAR 128
#define NEAR_SAMPLE 256

/* Arrays of more bytes than this are not kept for the backend's next scan. */
#define POOL_KEEP_BYTES ((Size) 32 * 1024 * 1024)

typedef enum ScanPhase
{
	SCAN_LISTS,					/* lists in order of their centroids, rows by distance */
	SCAN_REST,					/* everything left, sorted */
	SCAN_PLAIN,					/* rows without a distance, page by page */
	SCAN_DONE
} ScanPhase;

/* An entry whose vector has not been read: as far as its code tells. */
typedef struct Pending
{
	float		lower;			/* bound of its score */
	BlockNumber block;			/* VECTORS page; CODES page where a vector takes several */
	BlockNumber heap_block;
	uint16		heap_offset;
	uint16		slot;			/* on that page; entry on the CODES page */
} Pending;

/* A row whose distance is known. */
typedef struct Found
{
	AnnInterval interval;
	ItemPointerData tid;
} Found;

/* The arrays of a scan: the backend's, kept from scan to scan, or a scan's own. */
typedef struct Arrays
{
	MemoryContext context;
	struct ArraysOwner *owner;	/* who has the backend's arrays */
	Pending    *pending;		/* a heap by lower, and behind it the others, none of them less than its last */
	int			nnear;			/* in the heap */
	int			near_wanted;	/* when it is next filled */
	int			npending;
	int			pending_capacity;
	Found	   *results;		/* heap by lo */
	int			nresults;
	int			results_capacity;
	Found	   *late;			/* kept back for the end of the scan */
	int			nlate;
	int			late_capacity;
	BlockNumber *seen;			/* pages of the list at hand */
	int			nseen;
	int			seen_capacity;
} Arrays;

typedef struct ArraysOwner
{
	MemoryContextCallback callback;
	Arrays	   *arrays;
} ArraysOwner;

typedef struct IvfScan
{
	AnnIndexScan base;
	ScanPhase	phase;
	AnnIvfMetaPageData meta;
	AnnIvfCache *cache;			/* valid during a call */
	AnnQuery   *query;
	float	   *dense;			/* query in the index space */
	float	   *centroid;		/* scratch, float[dim] */
	float	   *residual;		/* likewise */
	AnnQueryCode *code;
	float	   *lowers;			/* one for each entry of a page, and as many errors */
	char	   *vector;			/* scratch for a vector of several pages */
	char	   *page;			/* copy of a CODES page */
	AnnIvfCentroids centroids;	/* vectors to be read from the index */
	AnnIvfRanking ranking;
	int			probes;
	int			max_probes;
	uint64		nscanned;		/* entries of the lists that were read */
	uint64		nreturned;
	Arrays	   *arrays;

	/* Pending entries that exceed work_mem, in order once all lists of a batch are read */
	Tuplesortstate *spill;
	TupleTableSlot *spill_slot;
	Pending		spilled;		/* the first of them */
	bool		has_spilled;

	/* SCAN_PLAIN */
	bool		all_null;		/* the query is NULL */
	uint32		plain_list;
	BlockNumber plain_page;
	BlockNumber plain_prev;
	int			plain_restarts;	/* in the list at hand */
} IvfScan;

/* ---- arrays ---- */

static Arrays *pool = NULL;

static void
releaseCallback(void *arg)
{
	ArraysOwner *owner = (ArraysOwner *) arg;

	if (owner->arrays != NULL)
		owner->arrays->owner = NULL;
}

static Arrays *
createArrays(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "ann ivfflat scan arrays", ALLOCSET_DEFAULT_SIZES);
	Arrays	   *arrays = MemoryContextAllocZero(context, sizeof(Arrays));

	arrays->context = context;
	return arrays;
}

/*
 * The backend's arrays (a fresh allocation of this size costs page faults), or
 * new ones while another scan has those.  Ends with CurrentMemoryContext.
 */
static Arrays *
acquireArrays(void)
{
	ArraysOwner *owner;

	if (pool == NULL)
		pool = createArrays(TopMemoryContext);
	if (pool->owner != NULL)
		return createArrays(CurrentMemoryContext);
	owner = palloc(sizeof(ArraysOwner));
	owner->arrays = pool;
	owner->callback.func = releaseCallback;
	owner->callback.arg = owner;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &owner->callback);
	pool->owner = owner;
	pool->npending = pool->nnear = pool->nresults = pool->nlate = pool->nseen = 0;
	return pool;
}

/* What the rows at hand take, of the arrays that may be larger from an earlier scan. */
static Size
arraysUsed(const Arrays *arrays)
{
	return sizeof(Pending) * (Size) arrays->npending + sizeof(Found) * ((Size) arrays->nresults + (Size) arrays->nlate);
}

static Size
arraysMemory(const Arrays *arrays)
{
	return sizeof(Pending) * (Size) arrays->pending_capacity +
		sizeof(Found) * ((Size) arrays->results_capacity + (Size) arrays->late_capacity);
}

static void
releaseArrays(Arrays *arrays)
{
	if (arrays->owner == NULL)
	{
		MemoryContextDelete(arrays->context);
		return;
	}
	arrays->owner->arrays = NULL;
	arrays->owner = NULL;
	if (arraysMemory(arrays) > POOL_KEEP_BYTES)
	{
		MemoryContextDelete(arrays->context);
		pool = NULL;
	}
}

/* Makes room for `more` elements; *array may be NULL at first. */
static void
growArray(Arrays *arrays, void **array, int used, int more, int *capacity, Size element)
{
	int			wanted = Max(*capacity, 256);

	while (wanted - used < more)
	{
		if (wanted > INT_MAX / 2)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("ivfflat scan has seen too many rows")));
		wanted *= 2;
	}
	if (wanted == *capacity)
		return;
	if (*array == NULL)
		*array = MemoryContextAllocHuge(arrays->context, mul_size(element, wanted));
	else
		*array = repalloc_huge(*array, mul_size(element, wanted));
	*capacity = wanted;
}

static void
siftPending(Pending *heap, int n, int i)
{
	Pending		item = heap[i];

	for (;;)
	{
		int			child = 2 * i + 1;

		if (child >= n)
			break;
		if (child + 1 < n && heap[child + 1].lower < heap[child].lower)
			child++;
		if (heap[child].lower >= item.lower)
			break;
		heap[i] = heap[child];
		i = child;
	}
	heap[i] = item;
}

/* Forgets which pending entries are the near ones: others have come. */
static void
mixPending(Arrays *arrays)
{
	arrays->nnear = 0;
	arrays->near_wanted = FIRST_NEAR;
}

/*
 * Makes a heap of the pending entries of the smallest bounds, about near_wanted of them: most
 * entries are never looked at again, so no order is made among these.
 */
static void
selectNear(Arrays *arrays)
{
	Pending    *pending = arrays->pending;
	int			n = arrays->npending;
	int			nnear = n;

	if (n > 2 * arrays->near_wanted)
	{
		/* A bound below which that many are expected: of a sample, the one of that rank. */
		float		smallest[NEAR_SAMPLE];
		int			rank = 1 + (int) ((int64) NEAR_SAMPLE * arrays->near_wanted / n);
		int			nsmallest = 0;
		float		threshold;

		for (int i = 0; i < NEAR_SAMPLE; i++)
		{
			float		lower = pending[(int64) i * n / NEAR_SAMPLE].lower;
			int			at = Min(nsmallest, rank - 1);

			if (nsmallest == rank && lower >= smallest[rank - 1])
				continue;
			for (; at > 0 && smallest[at - 1] > lower; at--)
				smallest[at] = smallest[at - 1];
			smallest[at] = lower;
			nsmallest = Min(nsmallest + 1, rank);
		}
		threshold = smallest[rank - 1];
		nnear = 0;
		for (int i = 0; i < n; i++)
		{
			if (pending[i].lower <= threshold)
			{
				Pending		swap = pending[i];

				pending[i] = pending[nnear];
				pending[nnear++] = swap;
			}
		}
	}
	for (int i = nnear / 2 - 1; i >= 0; i--)
		siftPending(pending, nnear, i);
	arrays->nnear = nnear;
	arrays->near_wanted = (int) Min((int64) 2 * arrays->near_wanted, INT_MAX / 4);
}

/* The pending entry of the smallest bound, which stays; there is one. */
static const Pending *
nearestPending(Arrays *arrays)
{
	if (arrays->nnear == 0)
		selectNear(arrays);
	return &arrays->pending[0];
}

/* Takes away what nearestPending gives. */
static Pending
popPending(Arrays *arrays)
{
	Pending		top = *nearestPending(arrays);

	arrays->pending[0] = arrays->pending[--arrays->nnear];
	arrays->pending[arrays->nnear] = arrays->pending[--arrays->npending];
	if (arrays->nnear > 0)
		siftPending(arrays->pending, arrays->nnear, 0);
	return top;
}

static void
pushResult(Arrays *arrays, const Found *result)
{
	int			i = arrays->nresults;
	Found	   *heap;

	growArray(arrays, (void **) &arrays->results, arrays->nresults, 1, &arrays->results_capacity, sizeof(Found));
	heap = arrays->results;
	arrays->nresults++;
	while (i > 0 && heap[(i - 1) / 2].interval.lo > result->interval.lo)
	{
		heap[i] = heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	heap[i] = *result;
}

static Found
popResult(Arrays *arrays)
{
	Found	   *heap = arrays->results;
	Found		top = heap[0];
	Found		item = heap[--arrays->nresults];
	int			n = arrays->nresults;
	int			i = 0;

	while (n > 0)
	{
		int			child = 2 * i + 1;

		if (child >= n)
			break;
		if (child + 1 < n && heap[child + 1].interval.lo < heap[child].interval.lo)
			child++;
		if (heap[child].interval.lo >= item.interval.lo)
			break;
		heap[i] = heap[child];
		i = child;
	}
	if (n > 0)
		heap[i] = item;
	return top;
}

/* ---- more pending entries than work_mem holds ---- */

static bool
isFull(const IvfScan *state)
{
	return arraysUsed(state->arrays) > (Size) work_mem * 1024;
}

/* Moves all pending entries to a sort by their bounds. */
static void
spillPending(IvfScan *state)
{
	Arrays	   *arrays = state->arrays;
	TupleDesc	desc;
	TupleTableSlot *slot;

	if (state->spill == NULL)
	{
		AttrNumber	column = 1;
		Oid			less = Float8LessOperator;
		Oid			collation = InvalidOid;
		bool		nulls_first = false;

		desc = CreateTemplateTupleDesc(3);
		TupleDescInitEntry(desc, 1, "lower", FLOAT8OID, -1, 0);
		TupleDescInitEntry(desc, 2, "tid", INT8OID, -1, 0);
		TupleDescInitEntry(desc, 3, "place", INT8OID, -1, 0);
		state->spill = tuplesort_begin_heap(desc, 1, &column, &less, &collation, &nulls_first, work_mem, NULL,
											TUPLESORT_NONE);
		state->spill_slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	}
	slot = MakeSingleTupleTableSlot(state->spill_slot->tts_tupleDescriptor, &TTSOpsVirtual);
	for (int i = 0; i < arrays->npending; i++)
	{
		const Pending *pending = &arrays->pending[i];

		CHECK_FOR_INTERRUPTS();
		ExecClearTuple(slot);
		slot->tts_values[0] = Float8GetDatum(pending->lower);
		slot->tts_values[1] = Int64GetDatum((int64) pending->heap_block << 16 | pending->heap_offset);
		slot->tts_values[2] = Int64GetDatum((int64) pending->block << 16 | pending->slot);
		memset(slot->tts_isnull, false, sizeof(bool) * 3);
		ExecStoreVirtualTuple(slot);
		tuplesort_puttupleslot(state->spill, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
	arrays->npending = 0;
	mixPending(arrays);
}

/* Fetches the next of the entries that were moved away. */
static void
nextSpilled(IvfScan *state)
{
	Pending    *pending = &state->spilled;
	bool		isnull;
	int64		packed;

	state->has_spilled = tuplesort_gettupleslot(state->spill, true, false, state->spill_slot, NULL);
	if (!state->has_spilled)
		return;
	pending->lower = (float) DatumGetFloat8(slot_getattr(state->spill_slot, 1, &isnull));
	packed = DatumGetInt64(slot_getattr(state->spill_slot, 2, &isnull));
	pending->heap_block = (BlockNumber) (packed >> 16);
	pending->heap_offset = (uint16) (packed & 0xFFFF);
	packed = DatumGetInt64(slot_getattr(state->spill_slot, 3, &isnull));
	pending->block = (BlockNumber) (packed >> 16);
	pending->slot = (uint16) (packed & 0xFFFF);
}

static void
endSpill(IvfScan *state)
{
	if (state->spill == NULL)
		return;
	tuplesort_end(state->spill);
	ExecDropSingleTupleTableSlot(state->spill_slot);
	state->spill = NULL;
	state->spill_slot = NULL;
	state->has_spilled = false;
}

/* The pending entry of the smallest bound, which stays; NULL if there is none. */
static const Pending *
peekPending(IvfScan *state)
{
	if (state->spill != NULL)
		return state->has_spilled ? &state->spilled : NULL;
	return state->arrays->npending > 0 ? nearestPending(state->arrays) : NULL;
}

/* Takes away what peekPending gives. */
static Pending
takePending(IvfScan *state)
{
	Pending		result;

	if (state->spill == NULL)
		return popPending(state->arrays);
	result = state->spilled;
	nextSpilled(state);
	return result;
}

/* ---- start and end of a scan ---- */

static void
endScan(IndexScanDesc scan)
{
	IvfScan    *state = (IvfScan *) scan->opaque;

	if (state->arrays != NULL)
		releaseArrays(state->arrays);
	state->arrays = NULL;
	endSpill(state);
}

/* Rows without a distance from here on: NULL vectors and the like, or all rows. */
static void
startPlain(IvfScan *state, uint32 list)
{
	state->phase = SCAN_PLAIN;
	state->plain_list = list;
	state->plain_page = state->plain_prev = InvalidBlockNumber;
}

static void
startScan(IndexScanDesc scan)
{
	IvfScan    *state = (IvfScan *) scan->opaque;
	Relation	index = scan->indexRelation;
	const AnnIvfLayout *layout = &state->meta.layout;
	int			dim;

	state->cache = AnnIvfCacheGet(index);
	state->meta = state->cache->meta;
	dim = (int) layout->dim;
	state->base.iterative = AnnScanIterative(&state->base, AnnIvfIterativeScan());
	state->max_probes = Min(AnnIvfMaxProbes(), (int) state->meta.lists);
	state->probes = Min(AnnIvfProbes(index, &state->meta), state->max_probes);
	if (state->base.iterative == ANN_ITERATIVE_OFF)
		state->max_probes = state->probes;

	if (scan->orderByData[0].sk_flags & SK_ISNULL)
	{
		state->all_null = true;
		startPlain(state, 0);
		return;
	}
	{
		AnnSpace   *space = palloc(sizeof(AnnSpace));

		*space = state->cache->space;
		state->query = AnnSpaceQuery(space, scan->orderByData[0].sk_argument);
		if (state->query->unplaced)
		{
			startPlain(state, 0);
			return;
		}
		if (!(state->base.parts & ANN_PART_NUMBERS))
		{
			startPlain(state, AnnIvfZeroList(&state->meta));
			return;
		}
		state->dense = palloc(mul_size(sizeof(float), dim));
		if (state->query->refine != NULL)
			AnnSpaceQueryDense(state->query, state->dense);
		else
		{
			AnnPoint	point = {0};

			point.stored = unconstify(char *, state->query->value);
			memcpy(state->dense, AnnIvfDense(space, &point), sizeof(float) * dim);
		}
	}
	state->centroid = palloc(mul_size(sizeof(float), dim));
	state->page = palloc(BLCKSZ);
	if (layout->vectors_per_page == 0)
		state->vector = palloc(mul_size(ANN_PAGE_USABLE, layout->pages_per_vector));
	if (AnnIvfHasCodes(layout))
	{
		state->residual = palloc(mul_size(sizeof(float), dim));
		state->code = palloc(AnnQueryCodeSize(&state->meta.code));
		state->lowers = palloc(mul_size(sizeof(float) * 2, layout->entries));
	}
	state->arrays = acquireArrays();
	AnnIvfRank(&state->ranking, &state->cache->centroids, state->dense);
	/* From here on the cache may become that of newer lists. */
	state->centroids = state->cache->centroids;
	state->centroids.codes = NULL;
	state->centroids.vectors = NULL;
	state->ranking.centroids = &state->centroids;
	state->phase = SCAN_LISTS;
}

/* ---- vectors ---- */

/* Bounds of the distance of a stored vector, and the result that comes of it. */
static void
scoreVector(IvfScan *state, const char *stored, const ItemPointerData *tid)
{
	Found		result;

	result.interval = AnnSpaceInterval(state->query, stored, AnnSpaceScore(state->query, stored));
	result.tid = *tid;
	state->base.nscored++;
	pushResult(state->arrays, &result);
}

/*
 * Reads and scores the vector of an entry whose CODES page names these VECTORS pages.
 * A vector that was written for another heap TID is nobody's that this scan could
 * see: VACUUM has freed the entry since.
 */
static void
readLongVector(IvfScan *state, Relation index, const BlockNumber *blocks, const ItemPointerData *tid)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	ItemPointerData stored_tid;

	for (int part = 0; part < layout->pages_per_vector; part++)
	{
		Buffer		buffer = AnnReadBuffer(index, &state->cache->hints, blocks[part]);
		Page		page = BufferGetPage(buffer);
		bool		found;

		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		found = AnnPageIsOurs(page, ANN_IVFFLAT_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_IVF_VECTORS;
		if (found)
			memcpy(state->vector + (Size) part * ANN_PAGE_USABLE, AnnPageRaw(page), ANN_PAGE_USABLE);
		UnlockReleaseBuffer(buffer);
		if (!found)
			return;
	}
	memcpy(&stored_tid, state->vector, sizeof(stored_tid));
	if (ItemPointerEquals(&stored_tid, unconstify(ItemPointerData *, tid)))
		scoreVector(state, state->vector + ANN_IVF_VECTOR_HEADER, tid);
}

static void
readVector(IvfScan *state, Relation index, const Pending *pending)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	Buffer		buffer = AnnReadBuffer(index, &state->cache->hints, pending->block);
	Page		page = BufferGetPage(buffer);
	ItemPointerData tid;

	ItemPointerSet(&tid, pending->heap_block, pending->heap_offset);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	if (layout->vectors_per_page > 0)
	{
		if (AnnPageIsOurs(page, ANN_IVFFLAT_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_IVF_VECTORS)
		{
			const char *vector = AnnPageRaw(page) + (Size) pending->slot * layout->vector_slot;
			ItemPointerData stored_tid;

			memcpy(&stored_tid, vector, sizeof(stored_tid));
			if (ItemPointerEquals(&stored_tid, &tid))
				scoreVector(state, vector + ANN_IVF_VECTOR_HEADER, &tid);
		}
		UnlockReleaseBuffer(buffer);
	}
	else
	{
		/* The entry, and so its pages, may have become another's: that is told by the TID. */
		AnnIvfShape shape = AnnIvfShapeOf(&state->meta, 0);
		int			first = AnnIvfVectorBlockIndex(layout, pending->slot);
		BlockNumber blocks[8];
		bool		found = false;

		if (layout->pages_per_vector > lengthof(blocks))
			elog(ERROR, "a vector of ivfflat index \"%s\" takes %u pages", RelationGetRelationName(index),
				 layout->pages_per_vector);
		if (AnnPageIsOurs(page, ANN_IVFFLAT_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_IVF_CODES &&
			AnnIvfListPageOf(page)->nblocks >= first + layout->pages_per_vector &&
			ItemPointerEquals(&AnnIvfEntryOf(page, &shape, pending->slot)->tid, &tid))
		{
			memcpy(blocks, AnnIvfListPageOf(page)->blocks + first, sizeof(BlockNumber) * layout->pages_per_vector);
			found = true;
		}
		UnlockReleaseBuffer(buffer);
		if (found)
			readLongVector(state, index, blocks, &tid);
	}
}

/* ---- lists ---- */

/* Adds the entries of a CODES page, held for sharing, with the bounds their codes give. */
static void
addCoded(IvfScan *state, BlockNumber block, Page page, const AnnIvfShape *shape)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	const AnnIvfListPage *header = AnnIvfListPageOf(page);
	const AnnIvfEntry *first = AnnIvfEntryOf(page, shape, 0);
	Arrays	   *arrays = state->arrays;
	float	   *estimates = state->lowers;
	float	   *errors = state->lowers + layout->entries;
	bool		slotted = layout->vectors_per_page > 0;
	int			at = 0;			/* VECTORS page of an entry, among those of the page, */
	int			slot = 0;		/* and its slot on that */
	int			last = -1;
	int			needed = 0;
	Pending    *pending;
	AnnCodeArray array;

	if (header->live == 0)
		return;
	array.codes = first->code;
	array.code_stride = shape->entry_size;
	array.factors = first->factors;
	array.factor_stride = shape->entry_size;
	array.form = ANN_FACTORS_HALF3;
	array.count = header->count;
	AnnEstimateBatch(state->code, &array, estimates, errors);

	growArray(arrays, (void **) &arrays->pending, arrays->npending, header->count, &arrays->pending_capacity,
			  sizeof(Pending));
	for (int i = 0; i < header->count; i++)
	{
		float		lower = estimates[i] - ANN_IVF_EPS * errors[i];

		/* inf - inf, where squares overflow: nothing is known, and a NaN has no place in the order */
		estimates[i] = lower < INFINITY ? lower : -INFINITY;
	}
	pending = arrays->pending + arrays->npending;
	for (int i = 0; i < header->count; i++, slot++)
	{
		const ItemPointerData *tid = &AnnIvfEntryOf(page, shape, i)->tid;

		if (slot == layout->vectors_per_page && slot > 0)
		{
			slot = 0;
			at++;
		}
		if (!ItemPointerIsValid(tid) || !AnnScanIsMember(&state->base, tid))
			continue;
		last = i;
		pending->lower = estimates[i];
		pending->heap_block = ItemPointerGetBlockNumberNoCheck(tid);
		pending->heap_offset = ItemPointerGetOffsetNumberNoCheck(tid);
		pending->block = slotted ? header->blocks[at] : block;
		pending->slot = (uint16) (slotted ? slot : i);
		pending++;
	}
	if (last >= 0)
		needed = AnnIvfVectorBlockIndex(layout, last) + layout->pages_per_vector;
	if (needed > header->nblocks)
		AnnPageCorrupted(state->centroids.index, block, "it has entries without vectors");
	arrays->npending = (int) (pending - arrays->pending);
}

/* Scores the vectors of the CODES page of which state->page is a copy. */
static void
addPlain(IvfScan *state, Relation index, BlockNumber block, const AnnIvfShape *shape)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	Page		page = (Page) state->page;
	const AnnIvfListPage *header = AnnIvfListPageOf(page);
	Buffer		buffer = InvalidBuffer;
	int			current = -1;
	bool		usable = false;

	for (int i = 0; i < header->count; i++)
	{
		const ItemPointerData *tid = &AnnIvfEntryOf(page, shape, i)->tid;
		int			at = AnnIvfVectorBlockIndex(layout, i);

		if (!ItemPointerIsValid(tid) || !AnnScanIsMember(&state->base, tid))
			continue;
		if (at + layout->pages_per_vector > header->nblocks)
			AnnPageCorrupted(index, block, "it has entries without vectors");
		if (layout->vectors_per_page == 0)
		{
			readLongVector(state, index, header->blocks + at, tid);
			continue;
		}
		if (at != current)
		{
			if (BufferIsValid(buffer))
				UnlockReleaseBuffer(buffer);
			CHECK_FOR_INTERRUPTS();
			buffer = AnnReadBuffer(index, &state->cache->hints, header->blocks[at]);
			LockBuffer(buffer, BUFFER_LOCK_SHARE);
			usable = AnnPageIsOurs(BufferGetPage(buffer), ANN_IVFFLAT_PAGE_ID) &&
				AnnPageOpaque(BufferGetPage(buffer))->kind == ANN_IVF_VECTORS;
			current = at;
		}
		if (usable)
		{
			const char *vector = AnnPageRaw(BufferGetPage(buffer)) +
				(Size) AnnIvfVectorSlot(layout, i) * layout->vector_slot;
			ItemPointerData stored_tid;

			memcpy(&stored_tid, vector, sizeof(stored_tid));
			if (ItemPointerEquals(&stored_tid, unconstify(ItemPointerData *, tid)))
				scoreVector(state, vector + ANN_IVF_VECTOR_HEADER, tid);
		}
	}
	if (BufferIsValid(buffer))
		UnlockReleaseBuffer(buffer);
}

static bool
wasSeen(const Arrays *arrays, BlockNumber block)
{
	for (int i = 0; i < arrays->nseen; i++)
		if (arrays->seen[i] == block)
			return true;
	return false;
}

/* Raises the error for a block that is not where its list should be. */
static _Noreturn void
listIsLost(const IvfScan *state, Relation index, BlockNumber block)
{
	AnnIvfCheckInUse(index, state->meta.heads);
	AnnPageCorrupted(index, block, "it is not a page of the list that leads to it");
}

/* The head of a list: first page and chain never change, so the cache has them while its lists are the scan's. */
static AnnIvfListHead
readHead(const IvfScan *state, Relation index, uint32 list)
{
	const AnnIvfMetaPageData *cached = &state->cache->meta;

	if (cached->generation == state->meta.generation && cached->build_id == state->meta.build_id)
		return state->cache->heads[list];
	return AnnIvfReadHead(index, &state->meta, list);
}

/*
 * Reads all pages of a list.  VACUUM may take an empty page out of it under us, and
 * an insert may use it elsewhere: a page that is not the list's, or whose
 * predecessor is not the one we came from, sends us back to the list's start, past
 * what we have read (README, Scan).
 */
static void
readList(IvfScan *state, Relation index, uint32 list)
{
	AnnIvfShape shape = AnnIvfShapeOf(&state->meta, list);
	Arrays	   *arrays = state->arrays;
	AnnIvfListHead head = readHead(state, index, list);
	BlockNumber first = head.first;
	BlockNumber block = first;
	BlockNumber prev = InvalidBlockNumber;
	int			restarts = 0;

	arrays->nseen = 0;
	if (state->code != NULL)
	{
		const float *centroid = AnnIvfCentroid(&state->centroids, list, state->centroid);
		int			dim = (int) state->meta.layout.dim;
		float		q_dot_c = 0;

		for (int i = 0; i < dim; i++)
			state->residual[i] = state->dense[i] - centroid[i];
		if (state->meta.layout.metric == ANN_METRIC_IP)
			q_dot_c = ann_kernels.ip_f32(state->dense, centroid, dim);
		AnnQueryCodeInit(state->code, &state->meta.code, state->residual, q_dot_c);
	}
	while (BlockNumberIsValid(block))
	{
		Buffer		buffer = AnnReadBuffer(index, &state->cache->hints, block);
		Page		page = BufferGetPage(buffer);
		bool		copied = false;
		BlockNumber next;

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		if (!AnnIvfIsListPage(page, &shape, head.chain) || AnnIvfListPageOf(page)->prev != prev)
		{
			UnlockReleaseBuffer(buffer);
			if (block == first || ++restarts > ANN_IVF_MAX_RESTARTS)
				listIsLost(state, index, block);
			block = first;
			prev = InvalidBlockNumber;
			continue;
		}
		AnnIvfCheckListPage(index, block, page, &state->meta.layout, &shape);
		next = AnnPageOpaque(page)->next;
		if (restarts == 0 || !wasSeen(arrays, block))
		{
			growArray(arrays, (void **) &arrays->seen, arrays->nseen, 1, &arrays->seen_capacity, sizeof(BlockNumber));
			arrays->seen[arrays->nseen++] = block;
			state->nscanned += AnnIvfListPageOf(page)->live;
			if (state->code != NULL)
				addCoded(state, block, page, &shape);
			else
			{
				memcpy(state->page, page, BLCKSZ);
				copied = true;
			}
		}
		UnlockReleaseBuffer(buffer);
		if (copied)
			addPlain(state, index, block, &shape);
		else if (isFull(state))
			spillPending(state);
		prev = block;
		block = next;
	}
}

/*
 * Reads up to n more lists, the nearest first; false if there are none.  Within work_mem: of
 * scored vectors it leaves off where they exceed that, of entries it sorts what does.
 */
static bool
readLists(IvfScan *state, Relation index, int n)
{
	AnnIvfListScore next;
	bool		any = false;

	while (n-- > 0 && state->base.nprobed < state->max_probes && !(any && isFull(state)) &&
		   AnnIvfRankNext(&state->ranking, &next))
	{
		readList(state, index, next.list);
		state->base.nprobed++;
		any = true;
	}
	if (any)
		mixPending(state->arrays);
	if (state->spill != NULL)
	{
		spillPending(state);
		tuplesort_performsort(state->spill);
		nextSpilled(state);
	}
	return any;
}

/* ---- rows ---- */

/* A bound of a score in the operator's own scale. */
static double
operatorBound(const IvfScan *state, float lower)
{
	if (state->meta.layout.metric == ANN_METRIC_L2)
		return lower > 0 ? sqrt(lower) : 0;
	return lower;
}

/*
 * The nearest of the rows that the lists read so far hold; false if there are
 * no more.  Entries are scored only while their bound says that they might come before
 * it, or within its interval.
 */
static bool
nearestResult(IvfScan *state, Relation index, Found *result)
{
	Arrays	   *arrays = state->arrays;
	const Pending *next;

	while ((next = peekPending(state)) != NULL &&
		   (arrays->nresults == 0 || operatorBound(state, next->lower) <= arrays->results[0].interval.hi))
	{
		Pending		pending = takePending(state);

		CHECK_FOR_INTERRUPTS();
		readVector(state, index, &pending);
	}
	if (arrays->nresults == 0)
		return false;
	*result = popResult(arrays);
	return true;
}

/*
 * The next row of SCAN_LISTS; false when the lists have no more, or the rest is
 * better sorted.
 */
static bool
nextFromLists(IvfScan *state, Relation index)
{
	Arrays	   *arrays = state->arrays;
	Found		result;

	if (state->base.nprobed == 0)
		readLists(state, index, state->probes);
	for (;;)
	{
		/*
		 * Half of the rows read are returned: the farther half may still be
		 * overtaken by rows of lists that are not read yet.  Where there is too much for
		 * memory, or not all lists of a batch are read for that, the rest is sorted.
		 */
		if (state->base.nprobed < Min(state->probes, state->max_probes))
			return false;
		if (state->base.iterative != ANN_ITERATIVE_OFF && state->nreturned * 2 >= state->nscanned)
		{
			if (isFull(state) || state->spill != NULL)
				return false;
			if (readLists(state, index, state->probes))
				continue;
		}
		if (!nearestResult(state, index, &result))
		{
			endSpill(state);
			if (state->base.iterative == ANN_ITERATIVE_OFF || !readLists(state, index, state->probes))
				return false;
			continue;
		}
		if (AnnScanIsLate(&state->base, result.interval.lo))
		{
			state->base.nlate++;
			growArray(arrays, (void **) &arrays->late, arrays->nlate, 1, &arrays->late_capacity, sizeof(Found));
			arrays->late[arrays->nlate++] = result;
			state->nreturned++;
			continue;
		}
		break;
	}
	AnnScanClearTids(&state->base);
	AnnScanAddTid(&state->base, &result.tid);
	AnnScanReturn(&state->base, &result.interval,
				  arrays->nresults > 0 ? arrays->results[0].interval.lo : get_float8_infinity());
	state->nreturned++;
	return true;
}

static void
sortResults(IvfScan *state)
{
	Arrays	   *arrays = state->arrays;

	for (int i = 0; i < arrays->nresults; i++)
		AnnScanSortPut(&state->base, &arrays->results[i].interval, &arrays->results[i].tid);
	arrays->nresults = 0;
}

/*
 * Scores and sorts everything that was not returned: what is at hand, within the limit of
 * lists the lists not read yet, and behind it all what comes late.
 */
static void
startRest(IvfScan *state, Relation index)
{
	Arrays	   *arrays = state->arrays;

	AnnScanSortBegin(&state->base);
	for (int i = 0; i < arrays->nlate; i++)
		AnnScanSortPut(&state->base, &arrays->late[i].interval, &arrays->late[i].tid);
	arrays->nlate = 0;
	do
	{
		while (state->spill != NULL && state->has_spilled)
		{
			Pending		pending = takePending(state);

			CHECK_FOR_INTERRUPTS();
			readVector(state, index, &pending);
			sortResults(state);
		}
		endSpill(state);
		for (int i = 0; i < arrays->npending; i++)
		{
			CHECK_FOR_INTERRUPTS();
			readVector(state, index, &arrays->pending[i]);
			sortResults(state);
		}
		arrays->npending = 0;
		mixPending(arrays);
		sortResults(state);
	} while (readLists(state, index, 1));
	releaseArrays(arrays);
	state->arrays = NULL;
	AnnScanSortPerform(&state->base);
}

/*
 * The heap TIDs of the next page of SCAN_PLAIN; false at the end.  Walks a list as
 * readList does.
 */
static bool
nextPlain(IvfScan *state, Relation index)
{
	if (state->arrays == NULL)
		state->arrays = acquireArrays();
	for (; state->plain_list < AnnIvfTotalLists(&state->meta); state->plain_list++)
	{
		bool		is_null = state->all_null || state->plain_list == AnnIvfNullList(&state->meta);
		AnnIvfShape shape = AnnIvfShapeOf(&state->meta, state->plain_list);
		AnnIvfListHead head = readHead(state, index, state->plain_list);
		BlockNumber first = head.first;
		Arrays	   *arrays = state->arrays;

		if (!(state->base.parts & (is_null ? ANN_PART_NULLS : ANN_PART_NANS)))
			continue;
		if (!BlockNumberIsValid(state->plain_page) && !BlockNumberIsValid(state->plain_prev))
		{
			state->plain_page = first;
			state->plain_restarts = 0;
			arrays->nseen = 0;
		}
		while (BlockNumberIsValid(state->plain_page))
		{
			BlockNumber block = state->plain_page;
			Buffer		buffer = AnnReadBuffer(index, &state->cache->hints, block);
			Page		page = BufferGetPage(buffer);

			CHECK_FOR_INTERRUPTS();
			LockBuffer(buffer, BUFFER_LOCK_SHARE);
			if (!AnnIvfIsListPage(page, &shape, head.chain) || AnnIvfListPageOf(page)->prev != state->plain_prev)
			{
				UnlockReleaseBuffer(buffer);
				if (block == first || ++state->plain_restarts > ANN_IVF_MAX_RESTARTS)
					listIsLost(state, index, block);
				state->plain_page = first;
				state->plain_prev = InvalidBlockNumber;
				continue;
			}
			AnnIvfCheckListPage(index, block, page, &state->meta.layout, &shape);
			AnnScanClearTids(&state->base);
			if (state->plain_restarts == 0 || !wasSeen(arrays, block))
			{
				growArray(arrays, (void **) &arrays->seen, arrays->nseen, 1, &arrays->seen_capacity, sizeof(BlockNumber));
				arrays->seen[arrays->nseen++] = block;
				for (int i = 0; i < AnnIvfListPageOf(page)->count; i++)
				{
					const ItemPointerData *tid = &AnnIvfEntryOf(page, &shape, i)->tid;

					if (ItemPointerIsValid(tid) && AnnScanIsMember(&state->base, tid))
						AnnScanAddTid(&state->base, tid);
				}
			}
			state->plain_prev = block;
			state->plain_page = AnnPageOpaque(page)->next;
			UnlockReleaseBuffer(buffer);
			if (state->base.ntids > 0)
			{
				AnnScanReturnUnplaced(&state->base, is_null);
				return true;
			}
		}
		state->plain_page = state->plain_prev = InvalidBlockNumber;
	}
	return false;
}

/* Finds the next row to return; false at the end. */
static bool
nextRow(IndexScanDesc scan, IvfScan *state)
{
	Relation	index = scan->indexRelation;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		switch (state->phase)
		{
			case SCAN_LISTS:
				if (nextFromLists(state, index))
					return true;
				startRest(state, index);
				state->phase = SCAN_REST;
				break;
			case SCAN_REST:
				if (AnnScanSortNext(&state->base))
					return true;
				if (state->base.iterative == ANN_ITERATIVE_OFF || state->base.nprobed < (int) state->meta.lists)
				{
					state->base.stop = ANN_STOP_ITERATIVE;	/* max_probes was reached, or the first lists read */
					state->phase = SCAN_DONE;
				}
				else
					startPlain(state, AnnIvfZeroList(&state->meta));
				break;
			case SCAN_PLAIN:
				if (nextPlain(state, index))
					return true;
				state->base.stop = ANN_STOP_DONE;
				state->phase = SCAN_DONE;
				break;
			case SCAN_DONE:
				return false;
		}
	}
}

static bool
next(IndexScanDesc scan)
{
	IvfScan    *state = (IvfScan *) scan->opaque;
	bool		sorted = state->phase == SCAN_REST;
	bool		found;

	state->cache = AnnIvfCacheRecall(scan->indexRelation);
	state->centroids.index = scan->indexRelation;
	state->centroids.hints = &state->cache->hints;
	found = nextRow(scan, state);
	/* On a standby what was read may have been freed meanwhile (README, New lists, 5). */
	if (!sorted && RecoveryInProgress())
		AnnIvfCheckInUse(scan->indexRelation, state->meta.heads);
	return found;
}

static const AnnScanMethods methods = {
	.am = "ivfflat",
	.state_size = sizeof(IvfScan),
	.start = startScan,
	.next = next,
	.end = endScan
};

IndexScanDesc
ann_ivfflat_beginscan(Relation index, int nkeys, int norderbys)
{
	return AnnScanBegin(index, nkeys, norderbys, &methods);
}
