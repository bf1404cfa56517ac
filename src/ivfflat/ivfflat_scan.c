/*
 * ivfflat_scan.c
 *	  Index scans: README, section Scan.
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "access/relscan.h"
#include "access/tupdesc.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type_d.h"
#include "common/hashfn.h"
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

/* Neighbours for which the number of lists to be read was found by the build. */
#define CALIBRATED_ROWS 10

/* Entries of a page whose radius is looked at. */
#define RADIUS_ENTRIES 2

/* Rows that are waited for by their estimates, at the most. */
#define MAX_WANTED 100000

/* If one entry in so many of a page counts, the codes of all are estimated: that is done in batches. */
#define BATCH_SHARE 4

/*
 * How far lists are to be read, other than by their number: for a filter, and for
 * more rows than that number is meant for (README, Filtered).
 */
typedef struct Reach
{
	bool		learning;		/* among the first lists */
	float		nearest[CALIBRATED_ROWS];	/* best estimates of the first lists' entries: a heap */
	int			nnearest;
	float	   *wanted;			/* best estimates of those that count: a heap */
	int			wanted_count;
	int			nwanted;
	double		radius2;		/* sum of squared distances of entries from their centroids */
	double		nradius;
	uint64		ncompared;		/* entries of the first lists */
	float	   *centroids;		/* scores of their centroids */
	uint64	   *lengths;		/* entries */
	int			nlists;
	double		share;			/* largest share of entries that count, of a list */
	double		scale;			/* of depths: what makes of them multiples of a standard deviation; 0: not known */
	double		tolerated;		/* share of its rows for which a list is not read */
	bool		calibrated;		/* the setting goes as far as what the index's reach was found with */
} Reach;

/*
 * Calibration.  Rows that count: all, one in SPARSE by a hash of the heap TID, and those that are
 * not in the nearest lists, as by a filter that keeps a query's own place out.
 */
#define NPOPULATIONS 3
#define POPULATION_ALL 0
#define POPULATION_SPARSE 1
#define POPULATION_FAR 2
#define SPARSE 8

/* One neighbour of a query, and what finds it: how many lists, which reach. */
typedef struct Neighbour
{
	float		score;
	int			rank;
	float		reach;
} Neighbour;

typedef struct Population
{
	float		estimates[CALIBRATED_ROWS];	/* a heap, as a filtered scan has it */
	int			nestimates;
	Neighbour	nearest[CALIBRATED_ROWS];	/* ascending */
	int			nnearest;
	float		reach;			/* the largest angle so far at which a list was read */
} Population;

typedef struct Calibration
{
	Population	populations[NPOPULATIONS];
	int			rank;			/* of the list at hand, from 1 */
	int			nfar;			/* lists that the far rows are not in */
	float		self;			/* squared distance within which a row is the query itself */
	bool		self_seen;
	float	   *dense;			/* scratch, float[dim] */
} Calibration;

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
	bool	   *counts;			/* with a filter: which entries of the page count */
	char	   *vector;			/* scratch for a vector of several pages */
	char	   *page;			/* copy of a CODES page */
	AnnIvfCentroids centroids;	/* vectors to be read from the index */
	AnnIvfRanking ranking;
	int			probes;
	int			max_probes;
	uint64		nscanned;		/* entries that count, of the lists that were read */
	uint64		nreturned;
	double		wanted_hi;		/* upper bound of the last of the rows that the caller wants */
	AnnIvfListScore next_list;	/* taken from the ranking and not read yet */
	bool		has_next_list;
	Reach	   *reach;			/* while it is being found out how far to read */
	Calibration *calibration;	/* instead of a query's scan */
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

/* Begins with the lists that are nearest to state->dense. */
static void
startLists(IvfScan *state)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	int			dim = (int) layout->dim;

	state->centroid = palloc(mul_size(sizeof(float), dim));
	state->page = palloc(BLCKSZ);
	if (layout->vectors_per_page == 0)
		state->vector = palloc(mul_size(ANN_PAGE_USABLE, layout->pages_per_vector));
	if (AnnIvfHasCodes(layout))
	{
		state->residual = palloc(mul_size(sizeof(float), dim));
		state->code = palloc(AnnQueryCodeSize(&state->meta.code));
		state->lowers = palloc(mul_size(sizeof(float) * 2, layout->entries));
		state->counts = palloc(mul_size(sizeof(bool), layout->entries));
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
	startLists(state);
}

/* ---- vectors ---- */

/* Whether a row of the list at hand counts among a population of the calibration. */
static inline bool
isOfPopulation(const Calibration *calibration, int population, BlockNumber heap_block, uint16 heap_offset)
{
	if (population == POPULATION_SPARSE)
		return hash_combine(murmurhash32(heap_block), murmurhash32(heap_offset)) % SPARSE == 0;
	return population == POPULATION_ALL || calibration->rank > calibration->nfar;
}

/* Notes a row among the neighbours of the query that is looked for. */
static void
noteNeighbour(IvfScan *state, const char *stored, const ItemPointerData *tid)
{
	Calibration *calibration = state->calibration;
	int			dim = (int) state->meta.layout.dim;
	float		score;

	AnnIvfDecode(&state->cache->space, stored, calibration->dense);
	score = ann_kernels.l2sq_f32(state->dense, calibration->dense, dim);
	if (!calibration->self_seen && score <= calibration->self)
	{
		calibration->self_seen = true;
		return;
	}
	if (state->meta.layout.metric == ANN_METRIC_IP)
		score = -ann_kernels.ip_f32(state->dense, calibration->dense, dim);
	for (int p = 0; p < NPOPULATIONS; p++)
	{
		Population *population = &calibration->populations[p];
		Neighbour  *nearest = population->nearest;
		int			at;

		if (!isOfPopulation(calibration, p, ItemPointerGetBlockNumberNoCheck(tid),
							ItemPointerGetOffsetNumberNoCheck(tid)))
			continue;
		if (population->nnearest == CALIBRATED_ROWS && !(score < nearest[CALIBRATED_ROWS - 1].score))
			continue;
		at = population->nnearest < CALIBRATED_ROWS ? population->nnearest++ : CALIBRATED_ROWS - 1;
		for (; at > 0 && nearest[at - 1].score > score; at--)
			nearest[at] = nearest[at - 1];
		nearest[at].score = score;
		nearest[at].rank = calibration->rank;
		nearest[at].reach = population->reach;
	}
}

/* Bounds of the distance of a stored vector, and the result that comes of it. */
static void
scoreVector(IvfScan *state, const char *stored, const ItemPointerData *tid)
{
	Found		result;
	float		score;

	if (state->calibration != NULL)
	{
		noteNeighbour(state, stored, tid);
		return;
	}
	score = AnnSpaceScore(state->query, stored);
	if (state->reach != NULL)
		AnnKeepBest(state->reach->wanted, &state->reach->nwanted, state->reach->wanted_count, score);
	result.interval = AnnSpaceInterval(state->query, stored, score);
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

/* Whether an entry is in use, and one of those that count. */
static inline bool
entryCounts(const IvfScan *state, const AnnIvfEntry *entry)
{
	const AnnIndexScan *base = &state->base;

	return ItemPointerIsValid(&entry->tid) && AnnScanIsMember(base, &entry->tid) &&
		(base->filter == NULL ||
		 base->filter(base->filter_arg, AnnIvfEntryAttributes(&state->meta.layout, entry)));
}

/* What a page says of how far to read. */
static void
learnReach(IvfScan *state, Page page, const AnnIvfShape *shape, const float *estimates)
{
	Reach	   *reach = state->reach;
	const AnnIvfListPage *header = AnnIvfListPageOf(page);
	bool		plain = AnnScanIsPlain(&state->base);
	int			nradius = 0;

	for (int i = 0; i < header->count; i++)
	{
		const AnnIvfEntry *entry = AnnIvfEntryOf(page, shape, i);

		if (!ItemPointerIsValid(&entry->tid))
			continue;
		if (plain || state->counts[i])
			AnnKeepBest(reach->wanted, &reach->nwanted, reach->wanted_count, estimates[i]);
		if (!reach->learning)
			continue;
		AnnKeepBest(reach->nearest, &reach->nnearest, CALIBRATED_ROWS, estimates[i]);
		if (nradius++ < RADIUS_ENTRIES)
		{
			float		radius;

			ann_kernels.f16_to_f32(&entry->factors[0], &radius, 1);
			reach->radius2 += (double) radius * radius;
			reach->nradius++;
		}
	}
}

/* What a scan that looked for each population would know of its nearest rows. */
static void
learnEstimates(IvfScan *state, Page page, const AnnIvfShape *shape, const float *estimates)
{
	Calibration *calibration = state->calibration;

	for (int i = 0; i < AnnIvfListPageOf(page)->count; i++)
	{
		const ItemPointerData *tid = &AnnIvfEntryOf(page, shape, i)->tid;

		if (!ItemPointerIsValid(tid))
			continue;
		for (int p = 0; p < NPOPULATIONS; p++)
		{
			Population *population = &calibration->populations[p];

			if (isOfPopulation(calibration, p, ItemPointerGetBlockNumberNoCheck(tid),
							   ItemPointerGetOffsetNumberNoCheck(tid)))
				AnnKeepBest(population->estimates, &population->nestimates, CALIBRATED_ROWS, estimates[i]);
		}
	}
}

/* Estimates of the entries of a page that count, at least; marks which do. */
static int
estimateCounting(IvfScan *state, Page page, const AnnIvfShape *shape, AnnCodeArray *array, bool *counts,
				 float *estimates, float *errors)
{
	int			n = array->count;
	int			ncounting = 0;

	for (int i = 0; i < n; i++)
	{
		counts[i] = entryCounts(state, AnnIvfEntryOf(page, shape, i));
		ncounting += counts[i];
	}
	if (ncounting * BATCH_SHARE >= n || (state->reach != NULL && state->reach->learning))
	{
		AnnEstimateBatch(state->code, array, estimates, errors);
		return ncounting;
	}
	for (int i = 0; i < n; i++)
	{
		AnnCodeArray one = *array;

		if (!counts[i])
		{
			estimates[i] = errors[i] = 0;
			continue;
		}
		one.codes = (const char *) array->codes + i * array->code_stride;
		one.factors = (const char *) array->factors + i * array->factor_stride;
		one.count = 1;
		AnnEstimateBatch(state->code, &one, estimates + i, errors + i);
	}
	return ncounting;
}

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
	bool		plain = AnnScanIsPlain(&state->base);
	int			ncounting = header->live;

	if (header->live == 0)
		return;
	array.codes = first->code;
	array.code_stride = shape->entry_size;
	array.factors = first->factors;
	array.factor_stride = shape->entry_size;
	array.form = ANN_FACTORS_HALF3;
	array.count = header->count;
	if (plain)
		AnnEstimateBatch(state->code, &array, estimates, errors);
	else
		ncounting = estimateCounting(state, page, shape, &array, state->counts, estimates, errors);
	if (state->reach != NULL)
		learnReach(state, page, shape, estimates);
	if (state->calibration != NULL)
		learnEstimates(state, page, shape, estimates);
	state->nscanned += ncounting;
	if (ncounting == 0)
		return;

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
		if (plain ? !ItemPointerIsValid(tid) : !state->counts[i])
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

		if (!entryCounts(state, AnnIvfEntryOf(page, shape, i)))
			continue;
		state->nscanned++;
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
			state->base.nvisited += AnnIvfListPageOf(page)->live;
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

/* Whether all that the scan could return was found. */
static bool
hasAll(const IvfScan *state)
{
	const AnnTidSet *members = state->base.members;

	return members != NULL && members->nlossy == 0 && state->nscanned >= members->nexact;
}

/* Whether the scan's caller has a cheaper way by now. */
static bool
workIsDone(const IvfScan *state)
{
	return state->base.max_work > 0 && state->base.nvisited >= state->base.max_work;
}

/* The list to be read next, without taking it; false if there is none. */
static bool
peekList(IvfScan *state)
{
	if (hasAll(state) || workIsDone(state))
		return false;
	if (!state->has_next_list && state->base.nprobed < state->max_probes)
		state->has_next_list = AnnIvfRankNext(&state->ranking, &state->next_list);
	return state->has_next_list;
}

static void
readNextList(IvfScan *state, Relation index)
{
	state->has_next_list = false;
	state->base.nprobed++;
	readList(state, index, state->next_list.list);
}


/* Makes ready what was read. */
static void
finishReading(IvfScan *state)
{
	mixPending(state->arrays);
	if (state->spill != NULL)
	{
		spillPending(state);
		tuplesort_performsort(state->spill);
		nextSpilled(state);
	}
}

/*
 * Reads up to n more lists, the nearest first; false if there are none.  Within work_mem: of
 * scored vectors it leaves off where they exceed that, of entries it sorts what does.
 */
static bool
readLists(IvfScan *state, Relation index, int n)
{
	bool		any = false;

	while (n-- > 0 && !(any && isFull(state)) && peekList(state))
	{
		readNextList(state, index);
		any = true;
	}
	if (any)
		finishReading(state);
	return any;
}

/*
 * How deep rows of this score must lie in a list of this centroid, on the side of the query:
 * the cosine of the angle between the query and such a row, seen from the
 * centroid, but for a factor that is the same for all lists.
 */
static double
depth(const IvfScan *state, float centroid, float score)
{
	const Reach *reach = state->reach;
	double		radius2 = reach->nradius > 0 ? reach->radius2 / reach->nradius : 0;

	if (state->meta.layout.metric == ANN_METRIC_IP)
		return (double) centroid - score;
	if (state->meta.layout.metric == ANN_METRIC_COSINE)
		score *= 2;
	return (centroid + radius2 - score) / sqrt(Max(centroid, FLT_MIN));
}

/*
 * The same for a list of its own radius, as a cosine.  Not for inner product.
 */
static float
angle(const IvfScan *state, const AnnIvfListScore *list, float score)
{
	AnnIvfListHead head = readHead(state, state->centroids.index, list->list);
	double		radius2 = head.spread > 0 ? head.spread : state->meta.spread;
	double		centroid2 = list->score;

	if (state->meta.layout.metric == ANN_METRIC_COSINE)
		score *= 2;
	return (float) ((centroid2 + radius2 - score) / (2 * sqrt(Max(centroid2 * radius2, FLT_MIN))));
}

/* Share of a list's rows that lie so deep: cosines are about normally distributed. */
static double
shareAt(double scale, double depth)
{
	return erfc(scale * depth / sqrt(2.0)) / 2;
}

/*
 * What the first lists say: the scale with which as many rows are expected among the nearest
 * as there are, and the share of a list at which the setting ends, in the same terms.
 */
static void
finishLearning(IvfScan *state)
{
	Reach	   *reach = state->reach;
	double		low = 0;
	double		high = 1;
	float		nearest = reach->nearest[0];

	reach->learning = false;
	if (state->code == NULL || reach->nnearest < CALIBRATED_ROWS || reach->nlists == 0)
		return;
	for (int step = 0; step < 60; step++)
	{
		double		scale = step < 20 ? high : (low + high) / 2;
		double		expected = 0;

		for (int i = 0; i < reach->nlists; i++)
			expected += (double) reach->lengths[i] * shareAt(scale, depth(state, reach->centroids[i], nearest));
		if (expected > CALIBRATED_ROWS)
		{
			low = scale;
			if (step < 20)
				high *= 2;
		}
		else
		{
			high = scale;
			step = Max(step, 19);
		}
	}
	reach->scale = high;
	/* Of more rows that are wanted more may be missed. */
	reach->tolerated = shareAt(high, depth(state, reach->centroids[reach->nlists - 1], nearest)) *
		Max(1, sqrt((double) reach->wanted_count / CALIBRATED_ROWS));
}

/* Whether the next list is further than the first lists were, for the rows that are wanted. */
static bool
isOutOfReach(const IvfScan *state)
{
	const Reach *reach = state->reach;

	if (reach->nwanted < reach->wanted_count)
		return false;
	if (reach->calibrated && reach->share > 0)
	{
		double		share = reach->share * CALIBRATED_ROWS / Max(reach->wanted_count, CALIBRATED_ROWS);

		if (angle(state, &state->next_list, reach->wanted[0]) <= state->meta.reach + state->meta.reach_slope * log(share))
			return false;
	}
	/* Without codes nothing is known of rows that do not count: as many as the first lists had will do. */
	if (reach->scale <= 0)
		return state->nscanned >= reach->ncompared;
	/* What ten rows of a query tell may be far off. */
	if (state->nscanned < reach->ncompared / 2)
		return false;
	return reach->share * shareAt(reach->scale, depth(state, state->next_list.score, reach->wanted[0])) <
		reach->tolerated;
}

/* Reads the next list, with a look at how many of its entries count. */
static void
readReachedList(IvfScan *state, Relation index)
{
	Reach	   *reach = state->reach;
	uint64		looked_at = state->base.nvisited;
	uint64		counted = state->nscanned;
	float		centroid = state->next_list.score;

	readNextList(state, index);
	looked_at = state->base.nvisited - looked_at;
	counted = state->nscanned - counted;
	if (looked_at > 0)
		reach->share = Max(reach->share, (double) counted / looked_at);
	if (reach->learning)
	{
		reach->centroids[reach->nlists] = centroid;
		reach->lengths[reach->nlists++] = looked_at;
	}
}

/*
 * Reads the first lists: as many as the setting says and, for a filter or many rows,
 * those within the same reach.  False if that is too much: sorting all is better, or
 * the caller has a better way.
 */
static bool
readFirstLists(IvfScan *state, Relation index)
{
	AnnIndexScan *base = &state->base;
	Reach	   *reach;
	bool		fits = true;

	if (base->iterative == ANN_ITERATIVE_OFF || (AnnScanIsPlain(base) && base->limit <= CALIBRATED_ROWS))
		return readLists(state, index, state->probes);
	reach = state->reach = palloc0(sizeof(Reach));
	reach->learning = true;
	reach->wanted_count = (int) Min(base->limit > 0 ? ceil(base->limit) : CALIBRATED_ROWS, MAX_WANTED);
	reach->wanted = palloc(sizeof(float) * reach->wanted_count);
	reach->calibrated = state->meta.reach > 0 && state->probes >= (int) state->meta.probes;
	reach->centroids = palloc(mul_size(sizeof(float), state->probes));
	reach->lengths = palloc(mul_size(sizeof(uint64), state->probes));
	for (int i = 0; i < state->probes && fits && peekList(state); i++)
	{
		readReachedList(state, index);
		fits = !isFull(state);
	}
	reach->ncompared = base->nvisited;
	finishLearning(state);
	while (fits && peekList(state) && !isOutOfReach(state))
	{
		readReachedList(state, index);
		fits = !isFull(state);
	}
	if (workIsDone(state) && !hasAll(state))
		fits = false;
	state->reach = NULL;
	finishReading(state);
	return fits;
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
 * Whether the next row is one of those that the first lists were for: the rows that the
 * caller wants, and what may be nearer than one of them.
 */
static bool
isWanted(const IvfScan *state)
{
	const AnnIndexScan *base = &state->base;

	return state->nreturned < base->limit ||
		(base->limit > 0 && state->arrays->nresults > 0 && state->arrays->results[0].interval.lo < state->wanted_hi);
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

	if (state->base.nprobed == 0 && !readFirstLists(state, index) && state->base.nprobed > 0)
		return false;
	for (;;)
	{
		/*
		 * Half of the rows read are returned: the farther half may still be
		 * overtaken by rows of lists that are not read yet.  Where there is too much for
		 * memory, or not all lists of a batch are read for that, the rest is sorted.
		 */
		if (state->base.nprobed < Min(state->probes, state->max_probes) && !hasAll(state))
			return false;
		if (state->base.iterative != ANN_ITERATIVE_OFF && state->nreturned * 2 >= state->nscanned && !isWanted(state))
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
	if (state->nreturned++ < state->base.limit)
		state->wanted_hi = result.interval.hi;
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
				if (workIsDone(state) && !hasAll(state))
				{
					state->base.stop = ANN_STOP_WORK;
					state->phase = SCAN_DONE;
					break;
				}
				startRest(state, index);
				state->phase = SCAN_REST;
				break;
			case SCAN_REST:
				if (AnnScanSortNext(&state->base))
					return true;
				if (hasAll(state))
				{
					state->base.stop = ANN_STOP_DONE;
					state->phase = SCAN_DONE;
				}
				else if (state->base.iterative == ANN_ITERATIVE_OFF || state->base.nprobed < (int) state->meta.lists)
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
	if (!AnnScanIsPlain(&state->base))
		state->base.nmatched = state->nscanned;
	/* On a standby what was read may have been freed meanwhile (README, New lists, 5). */
	if (!sorted && scan->xs_snapshot->takenDuringRecovery)
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

/* ---- calibration ---- */

/* Recall that is aimed at, with a margin for neighbours in lists that are not read. */
#define TARGET (0.95 + 0.01)

/* The same where a filter keeps rows as they come, and one that keeps what is near out. */
#define REACH_TARGET (0.96 + 0.01)
#define FAR_TARGET 0.95

/* Share of the lists that are read for a query, and at least; share of those that far rows are not in. */
#define READ_SHARE 0.25
#define READ_LEAST 32
#define FAR_SHARE 0.02

/* What a scan ends at must not fall faster with the share of rows that count. */
#define MAX_SLOPE 0.04
#define CLUSTERED_SLOPE 0.08

/* Squared length, in shares of the query's, of the rounding of a stored vector. */
#define ROUNDING2 1e-4f

static int
compareFloats(const void *a, const void *b)
{
	float		x = *(const float *) a;
	float		y = *(const float *) b;

	return (x > y) - (x < y);
}

/* The one of n values (sorted here) that this share of them does not exceed. */
static float
quantile(float *values, int n, double share)
{
	qsort(values, n, sizeof(float), compareFloats);
	return values[Min(n - 1, (int) (n * share))];
}

/* Whether an entry may be a neighbour, for one of the populations. */
static bool
mayBeNeighbour(const Calibration *calibration, const Pending *pending)
{
	for (int p = 0; p < NPOPULATIONS; p++)
	{
		const Population *population = &calibration->populations[p];

		if (isOfPopulation(calibration, p, pending->heap_block, pending->heap_offset) &&
			(population->nnearest < CALIBRATED_ROWS || pending->lower <= population->nearest[CALIBRATED_ROWS - 1].score))
			return true;
	}
	return false;
}

/* Reads the lists near state->dense, and notes its neighbours in them. */
static void
findNeighbours(IvfScan *state, Relation index)
{
	Calibration *calibration = state->calibration;
	Arrays	   *arrays = state->arrays;
	float		cosine = state->meta.layout.metric == ANN_METRIC_COSINE ? 0.5f : 1;

	while (peekList(state))
	{
		calibration->rank++;
		for (int p = 0; p < NPOPULATIONS && state->meta.layout.metric != ANN_METRIC_IP; p++)
		{
			Population *population = &calibration->populations[p];

			if (population->nestimates == CALIBRATED_ROWS)
				population->reach = Max(population->reach, angle(state, &state->next_list, population->estimates[0]));
			else if (state->code == NULL && population->nnearest == CALIBRATED_ROWS)
				population->reach = Max(population->reach,
										angle(state, &state->next_list,
											  population->nearest[CALIBRATED_ROWS - 1].score * cosine));
		}
		readNextList(state, index);
		mixPending(arrays);
		while (arrays->npending > 0)
		{
			Pending		pending = popPending(arrays);

			if (cosine < 1)
				pending.lower *= 2;
			if (mayBeNeighbour(calibration, &pending))
				readVector(state, index, &pending);
		}
	}
}

/*
 * Finds the probes of an index, and how far a filtered scan is to read, by looking for rows
 * of it (vectors of the index space), and writes them into the meta page.
 */
void
AnnIvfCalibrate(Relation index, const float *queries, int count, AnnWriteMode mode)
{
	IndexScanDesc scan = ann_ivfflat_beginscan(index, 0, 1);
	IvfScan    *state = (IvfScan *) scan->opaque;
	float	   *ranks = palloc(sizeof(float) * CALIBRATED_ROWS * Max(count, 1));
	float	   *reaches[NPOPULATIONS];
	int			nranks = 0;
	int			nreaches[NPOPULATIONS] = {0};
	AnnIvfMetaPageData *meta;
	Buffer		buffer;
	AnnPageEdit edit;
	uint32		probes = 0;
	float		reach = 0;
	float		slope = 0;

	for (int p = 0; p < NPOPULATIONS; p++)
		reaches[p] = palloc(sizeof(float) * CALIBRATED_ROWS * Max(count, 1));
	for (int n = 0; n < count; n++)
	{
		MemoryContext old;
		int			dim;

		CHECK_FOR_INTERRUPTS();
		ann_index_rescan(scan, NULL, 0, NULL, 0);
		old = MemoryContextSwitchTo(state->base.context);
		state->cache = AnnIvfCacheGet(index);
		state->meta = state->cache->meta;
		dim = (int) state->meta.layout.dim;
		state->max_probes = (int) Min(Max(ceil(state->meta.lists * READ_SHARE), READ_LEAST), state->meta.lists);
		state->dense = unconstify(float *, queries + (Size) n * dim);
		state->calibration = palloc0(sizeof(Calibration));
		state->calibration->dense = palloc(mul_size(sizeof(float), dim));
		state->calibration->self = ROUNDING2 * ann_kernels.ip_f32(state->dense, state->dense, dim);
		state->calibration->nfar = (int) ceil(state->meta.lists * FAR_SHARE);
		for (int p = 0; p < NPOPULATIONS; p++)
			state->calibration->populations[p].reach = -1;
		startLists(state);
		state->centroids.index = index;
		findNeighbours(state, index);
		for (int p = 0; p < NPOPULATIONS; p++)
		{
			const Population *population = &state->calibration->populations[p];

			for (int i = 0; i < population->nnearest; i++)
			{
				if (p == POPULATION_ALL)
					ranks[nranks++] = (float) population->nearest[i].rank;
				reaches[p][nreaches[p]++] = population->nearest[i].reach;
			}
		}
		MemoryContextSwitchTo(old);
	}
	if (nranks > 0)
		probes = (uint32) quantile(ranks, nranks, TARGET);
	if (nranks > 0 && state->meta.layout.metric != ANN_METRIC_IP)
	{
		float		all = quantile(reaches[POPULATION_ALL], nranks, REACH_TARGET);

		reach = all;
		if (nreaches[POPULATION_FAR] > 0)
			reach = Max(reach, quantile(reaches[POPULATION_FAR], nreaches[POPULATION_FAR], FAR_TARGET));
		if (nreaches[POPULATION_SPARSE] > 0)
			slope = (all - quantile(reaches[POPULATION_SPARSE], nreaches[POPULATION_SPARSE], REACH_TARGET)) / logf(SPARSE);
		/* Among tight clusters the first lists have them all, and tell nothing of the others. */
		slope = slope > CLUSTERED_SLOPE ? 0 : Min(Max(slope, 0), MAX_SLOPE);
	}
	ann_index_endscan(scan);

	if (probes > 0)
	{
		buffer = ReadBuffer(index, ANN_IVF_META_BLOCK);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		edit = AnnPageEditBegin(index, mode);
		meta = AnnIvfMetaOnPage(AnnPageEditAdd(&edit, buffer, false));
		meta->probes = probes;
		meta->reach = reach;
		meta->reach_slope = slope;
		AnnPageEditCommit(&edit);
		UnlockReleaseBuffer(buffer);
	}
}
