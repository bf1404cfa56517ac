/*
 * hnsw_scan.c
 *	  Index scans: README, section Scan.
 */
#include "postgres.h"

#include <math.h>

#include "access/relscan.h"
#include "access/tupdesc.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type_d.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/float.h"
#include "utils/memutils.h"
#include "utils/tuplesort.h"

#include "hnsw/hnsw_options.h"
#include "hnsw/hnsw_search.h"

#define MIN_VISITS_PER_ROW 2
#define MAX_VISITS_PER_ROW 8

/* The graph is given up for a sweep when this share of the rows has been visited. */
#define SWEEP_SHARE 8

typedef enum ScanPhase
{
	SCAN_START,
	SCAN_GRAPH,					/* phases 1 and 2 */
	SCAN_SWEEP,					/* phase 3, sorted */
	SCAN_ZERO,					/* rows whose distance is NaN */
	SCAN_NULL,					/* NULL vectors */
	SCAN_DONE
} ScanPhase;

/* Why a scan has every row in no order: its distances are all NULL, or all NaN. */
typedef enum ScanOrder
{
	ORDER_DISTANCE,
	ORDER_NAN,
	ORDER_NULL
} ScanOrder;

typedef struct HnswScan
{
	MemoryContext context;		/* of what one rescan allocates */
	ScanPhase	phase;
	ScanOrder	order;
	AnnIterativeScan iterative;
	AnnHnswSpace space;
	AnnHnswMetaPageData meta;
	AnnHnswQuery *query;
	AnnHnswSearch *search;

	/* Heap TIDs of the row that is being returned */
	ItemPointerData *tids;
	int			ntids;
	int			tids_capacity;
	int			next_tid;
	double		lo;				/* its bound, what xs_orderbyvals gets */
	bool		null;
	bool		recheck;

	double		last_lo;		/* of the last row returned in order */
	double		floor;			/* upper bound of the last row that went out without a recheck */
	bool		exhausted;		/* the scan visits no more rows and ends with the results it has */
	double		max_hi;			/* of all rows returned */
	uint64		nreturned;
	AnnRowId   *returned;
	Size		returned_capacity;

	Tuplesortstate *sort;
	TupleTableSlot *slot;
	BlockNumber list_page;
	BlockNumber list_pages;		/* pages of the chain so far */
} HnswScan;

static void
endSearch(HnswScan *state)
{
	if (state->search != NULL)
		AnnHnswSearchRelease(state->search);
	state->search = NULL;
	if (state->sort != NULL)
		tuplesort_end(state->sort);
	state->sort = NULL;
	if (state->slot != NULL)
		ExecDropSingleTupleTableSlot(state->slot);
	state->slot = NULL;
}

IndexScanDesc
ann_hnsw_beginscan(Relation index, int nkeys, int norderbys)
{
	IndexScanDesc scan = RelationGetIndexScan(index, nkeys, norderbys);
	HnswScan  *state = palloc0(sizeof(HnswScan));

	state->context = AllocSetContextCreate(CurrentMemoryContext, "ann hnsw scan", ALLOCSET_DEFAULT_SIZES);
	scan->opaque = state;
	if (norderbys > 0)
	{
		scan->xs_orderbyvals = palloc0(mul_size(sizeof(Datum), norderbys));
		scan->xs_orderbynulls = palloc(mul_size(sizeof(bool), norderbys));
		memset(scan->xs_orderbynulls, true, sizeof(bool) * norderbys);
	}
	return scan;
}

void
ann_hnsw_rescan(IndexScanDesc scan, ScanKey keys, int nkeys, ScanKey orderbys, int norderbys)
{
	HnswScan  *state = (HnswScan *) scan->opaque;

	endSearch(state);
	MemoryContextReset(state->context);
	if (keys != NULL && scan->numberOfKeys > 0)
		memmove(scan->keyData, keys, sizeof(ScanKeyData) * scan->numberOfKeys);
	if (orderbys != NULL && scan->numberOfOrderBys > 0)
		memmove(scan->orderByData, orderbys, sizeof(ScanKeyData) * scan->numberOfOrderBys);
	state->phase = SCAN_START;
	state->tids = NULL;
	state->ntids = 0;
	state->next_tid = 0;
	state->tids_capacity = 0;
	state->returned = NULL;
	state->returned_capacity = 0;
	state->nreturned = 0;
	state->exhausted = false;
	state->last_lo = -get_float8_infinity();
	state->floor = -get_float8_infinity();
	state->max_hi = -get_float8_infinity();
}

void
ann_hnsw_endscan(IndexScanDesc scan)
{
	HnswScan  *state = (HnswScan *) scan->opaque;

	endSearch(state);
	MemoryContextDelete(state->context);
	pfree(state);
	scan->opaque = NULL;
}

static void
startScan(IndexScanDesc scan)
{
	HnswScan  *state = (HnswScan *) scan->opaque;
	Relation	index = scan->indexRelation;
	AnnHnswCache *cache;
	AnnHnswSearch *search;
	float	   *center = NULL;

	if (scan->numberOfOrderBys == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot scan hnsw index \"%s\" without an order", RelationGetRelationName(index))));
	/* Rows are reused without an interlock: an older snapshot cannot see what replaced them. */
	if (!IsMVCCSnapshot(scan->xs_snapshot))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("hnsw indexes can only be scanned with an MVCC snapshot")));
	AnnCountIndexScan(scan);

	cache = AnnHnswCacheGet(index);
	AnnHnswCacheRefresh(index, cache);
	state->meta = cache->meta;
	if (cache->center != NULL)
	{
		center = palloc(sizeof(float) * cache->meta.layout.dim);
		memcpy(center, cache->center, sizeof(float) * cache->meta.layout.dim);
	}
	AnnHnswSpaceInit(&state->space, &state->meta, center);
	state->iterative = AnnHnswIterativeScan();
	state->exhausted = state->iterative == ANN_ITERATIVE_OFF;

	if (scan->orderByData[0].sk_flags & SK_ISNULL)
	{
		state->order = ORDER_NULL;
		state->phase = SCAN_SWEEP;
		return;
	}
	state->query = AnnHnswQueryCreate(&state->space, scan->orderByData[0].sk_argument);
	if (state->query->unplaced)
	{
		state->order = ORDER_NAN;
		state->phase = SCAN_SWEEP;
		return;
	}
	state->order = ORDER_DISTANCE;
	state->phase = SCAN_GRAPH;
	search = state->search = AnnHnswSearchAcquire();
	search->index = index;
	search->cache = cache;
	search->space = &state->space;
	search->query = state->query;
	search->ef = AnnHnswEffectiveEf(index, &state->meta);
	search->keep_dropped = state->iterative != ANN_ITERATIVE_OFF;
	search->keep_results = true;
	search->hook = NULL;
	AnnHnswSearchBegin(search);
	AnnHnswSearchBeam(search);
}

static void
addTid(HnswScan *state, const ItemPointerData *tid)
{
	if (state->ntids >= state->tids_capacity)
	{
		if (state->tids == NULL)
			state->tids = palloc(sizeof(ItemPointerData) * (state->tids_capacity = 16));
		else
			state->tids = repalloc_huge(state->tids, mul_size(sizeof(ItemPointerData), state->tids_capacity *= 2));
	}
	state->tids[state->ntids++] = *tid;
}

static void
startTids(HnswScan *state)
{
	state->ntids = 0;
	state->next_tid = 0;
}

static void
readTids(Relation index, HnswScan *state, const ItemPointerData *tids, int ntids, uint32 node, AnnRowId row)
{
	startTids(state);
	for (int i = 0; i < ntids; i++)
		addTid(state, &tids[i]);
	if (node != ANN_HNSW_NO_NODE)
	{
		if (state->tids == NULL)
			state->tids = palloc(sizeof(ItemPointerData) * (state->tids_capacity = 16));
		AnnHnswReadNodes(index, &state->space.layout, row, node, &state->tids, &state->ntids, &state->tids_capacity);
	}
}

static void
rememberReturned(HnswScan *state, AnnRowId row)
{
	if (state->nreturned >= state->returned_capacity)
	{
		Size		wanted = Max(state->returned_capacity * 2, 64);

		if (state->returned == NULL)
			state->returned = palloc(mul_size(sizeof(AnnRowId), wanted));
		else
			state->returned = repalloc_huge(state->returned, mul_size(sizeof(AnnRowId), wanted));
		state->returned_capacity = wanted;
	}
	state->returned[state->nreturned++] = row;
}

/*
 * Visits that the scan makes for each row it returns.  The farther part of what
 * was visited may still be overtaken by rows that are not known yet, and a row
 * returned too early makes them late.  ef is about what ten rows need.
 */
static int
visitsPerRow(int ef)
{
	return Max(MIN_VISITS_PER_ROW, Min(MAX_VISITS_PER_ROW, ef / 10));
}

/*
 * The next row of phases 1 and 2.  False when the graph has no more, or the
 * rest is better swept.
 */
static bool
nextFromGraph(Relation index, HnswScan *state)
{
	AnnHnswSearch *search = state->search;
	AnnHnswResult result;
	Size		memory = (Size) ((double) work_mem * 1024 * AnnHnswScanMemMultiplier());
	int			max_tuples = AnnHnswMaxScanTuples();
	bool		limited = max_tuples > 0 && max_tuples < state->meta.rows;
	int			ratio = visitsPerRow(search->ef);

	for (;;)
	{
		if (max_tuples > 0 && search->nvisited >= max_tuples)
			state->exhausted = true;
		if ((state->exhausted || state->nreturned * ratio < search->nvisited) && AnnHnswPopResult(search, &result))
		{
			if (state->iterative == ANN_ITERATIVE_STRICT && result.lo < Max(state->last_lo, state->floor))
				continue;		/* late: the sweep returns it */
			break;
		}
		if (state->exhausted)
			return false;
		if ((!limited && search->nvisited * SWEEP_SHARE >= state->meta.rows) ||
			AnnHnswSearchMemory(search) > memory || !AnnHnswSearchMore(search))
		{
			/* A sweep would go through more rows than a limit allows. */
			if (!limited)
				return false;
			state->exhausted = true;
		}
	}

	rememberReturned(state, result.row);
	readTids(index, state, result.tids, result.ntids, result.node, result.row);
	state->lo = result.lo;
	state->null = false;
	/* The order is certain where the intervals of neighbours do not overlap. */
	state->recheck = result.lo < result.hi &&
		(state->max_hi > result.lo || (search->nresults > 0 && search->results[0].lo < result.hi));
	state->last_lo = result.lo;
	/* Without a recheck the row goes out at once: what comes later must not be able to be nearer. */
	if (!state->recheck)
		state->floor = Max(state->floor, result.hi);
	state->max_hi = Max(state->max_hi, result.hi);
	return true;
}

static TupleDesc
sweepDesc(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(3);

	TupleDescInitEntry(desc, 1, "lo", FLOAT8OID, -1, 0);
	TupleDescInitEntry(desc, 2, "hi", FLOAT8OID, -1, 0);
	TupleDescInitEntry(desc, 3, "tid", INT8OID, -1, 0);
	return desc;
}

static int64
tidToInt64(const ItemPointerData *tid)
{
	return (int64) ItemPointerGetBlockNumberNoCheck(tid) << 16 | ItemPointerGetOffsetNumberNoCheck(tid);
}

/*
 * Phase 3: reads every ROW page, scores the rows that were not returned, and
 * sorts them.
 */
static void
startSweep(Relation index, HnswScan *state)
{
	const AnnHnswLayout *layout = &state->space.layout;
	BlockNumber nblocks = RelationGetNumberOfBlocks(index);
	TupleDesc	desc = sweepDesc();
	AttrNumber	column = 1;
	Oid			operator = Float8LessOperator;
	Oid			collation = InvalidOid;
	bool		nulls_first = false;
	Size		nrows = mul_size(nblocks, layout->rows_per_page);
	uint8	   *returned = NULL;
	TupleTableSlot *input;
	BufferAccessStrategy strategy;
	Page		page = palloc(BLCKSZ);
	char	   *scratch = AnnHnswVectorIsExternal(layout) ? palloc(layout->vector_size) : NULL;

	if (state->nreturned > 0)
	{
		returned = MemoryContextAllocExtended(CurrentMemoryContext, nrows / 8 + 1, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
		for (uint64 i = 0; i < state->nreturned; i++)
			if (state->returned[i] < nrows)
				returned[state->returned[i] / 8] |= 1 << state->returned[i] % 8;
	}
	if (state->search != NULL)
		AnnHnswSearchRelease(state->search);
	state->search = NULL;

	state->sort = tuplesort_begin_heap(desc, 1, &column, &operator, &collation, &nulls_first,
									   work_mem, NULL, TUPLESORT_NONE);
	state->slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	input = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);

	strategy = GetAccessStrategy(BAS_BULKREAD);
	for (BlockNumber block = ANN_HNSW_META_BLOCK + 1; block < nblocks; block++)
	{
		Buffer		buffer = ReadBufferExtended(index, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
		bool		has_rows;

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		memcpy(page, BufferGetPage(buffer), BLCKSZ);
		UnlockReleaseBuffer(buffer);
		if (!PageIsNew(page) && !AnnPageIsOurs(page, ANN_HNSW_PAGE_ID))
			AnnPageCorrupted(index, block, "it is not a page of the expected kind");
		has_rows = !PageIsNew(page) && AnnPageOpaque(page)->kind == ANN_HNSW_ROW;
		for (int i = 0; has_rows && i < layout->rows_per_page; i++)
		{
			AnnRowId	id = block * layout->rows_per_page + i;
			AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, page, i);
			const char *stored;
			AnnInterval interval = {0};

			if (row->state != ANN_HNSW_LIVE || (returned != NULL && (returned[id / 8] & 1 << id % 8)))
				continue;
			if (row->ntids > ANN_HNSW_INLINE_TIDS)
				AnnPageCorrupted(index, block, "a row has more TIDs than it can hold");
			if (state->order == ORDER_DISTANCE)
			{
				stored = AnnHnswStoredVector(index, layout, row, scratch);
				if (stored == NULL)
					continue;
				interval = AnnHnswInterval(state->query, stored, AnnHnswScore(state->query, stored));
			}
			else
				interval.lo = interval.hi = get_float8_nan();
			readTids(index, state, row->tids, row->ntids, row->node, id);
			for (int j = 0; j < state->ntids; j++)
			{
				ExecClearTuple(input);
				input->tts_values[0] = Float8GetDatum(interval.lo);
				input->tts_values[1] = Float8GetDatum(interval.hi);
				input->tts_values[2] = Int64GetDatum(tidToInt64(&state->tids[j]));
				memset(input->tts_isnull, false, sizeof(bool) * 3);
				ExecStoreVirtualTuple(input);
				tuplesort_puttupleslot(state->sort, input);
			}
		}
	}
	FreeAccessStrategy(strategy);
	startTids(state);
	ExecDropSingleTupleTableSlot(input);
	tuplesort_performsort(state->sort);
	if (returned != NULL)
		pfree(returned);
	pfree(page);
}

static bool
nextFromSweep(HnswScan *state)
{
	int64		packed;
	double		hi;
	ItemPointerData tid;
	bool		isnull;

	if (!tuplesort_gettupleslot(state->sort, true, false, state->slot, NULL))
		return false;
	state->lo = DatumGetFloat8(slot_getattr(state->slot, 1, &isnull));
	hi = DatumGetFloat8(slot_getattr(state->slot, 2, &isnull));
	packed = DatumGetInt64(slot_getattr(state->slot, 3, &isnull));
	ItemPointerSet(&tid, (BlockNumber) (packed >> 16), (OffsetNumber) (packed & 0xFFFF));
	startTids(state);
	addTid(state, &tid);
	state->null = state->order == ORDER_NULL;
	state->recheck = state->lo < hi;
	return true;
}

/*
 * Copies the next page of a TID list.  Entries may be removed under the scan,
 * but stay on their page, and a page is copied as a whole.
 */
static bool
nextFromList(Relation index, HnswScan *state)
{
	while (BlockNumberIsValid(state->list_page))
	{
		Buffer		buffer = ReadBuffer(index, state->list_page);
		Page		page;
		AnnHnswTidList *list;

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		page = AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_TIDLIST);
		list = (AnnHnswTidList *) AnnPageRaw(page);
		if (list->ntids > ANN_HNSW_TIDLIST_CAPACITY)
			AnnPageCorrupted(index, state->list_page, "a TID list is longer than its page");
		startTids(state);
		for (uint32 i = 0; i < list->ntids; i++)
			addTid(state, &list->tids[i]);
		state->list_page = AnnPageOpaque(page)->next;
		UnlockReleaseBuffer(buffer);
		if (++state->list_pages > RelationGetNumberOfBlocks(index))
			AnnPageCorrupted(index, state->list_page, "a chain of TID lists has a cycle");
		if (state->ntids > 0)
		{
			state->lo = get_float8_nan();
			state->null = state->phase == SCAN_NULL || state->order == ORDER_NULL;
			state->recheck = false;
			return true;
		}
	}
	return false;
}

/* Finds the next row to return and fills state->tids; false at the end. */
static bool
nextRow(IndexScanDesc scan, HnswScan *state)
{
	Relation	index = scan->indexRelation;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		switch (state->phase)
		{
			case SCAN_START:
				startScan(scan);
				break;
			case SCAN_GRAPH:
				if (nextFromGraph(index, state))
					return true;
				state->phase = state->exhausted ? SCAN_DONE : SCAN_SWEEP;
				break;
			case SCAN_SWEEP:
				if (state->sort == NULL)
					startSweep(index, state);
				if (nextFromSweep(state))
					return true;
				state->phase = SCAN_ZERO;
				state->list_page = state->meta.zero_tids;
				state->list_pages = 0;
				break;
			case SCAN_ZERO:
				if (nextFromList(index, state))
					return true;
				state->phase = SCAN_NULL;
				state->list_page = state->meta.null_tids;
				state->list_pages = 0;
				break;
			case SCAN_NULL:
				if (nextFromList(index, state))
					return true;
				state->phase = SCAN_DONE;
				break;
			case SCAN_DONE:
				return false;
		}
	}
}

bool
ann_hnsw_gettuple(IndexScanDesc scan, ScanDirection direction)
{
	HnswScan  *state = (HnswScan *) scan->opaque;

	Assert(ScanDirectionIsForward(direction));
	if (state->next_tid >= state->ntids)
	{
		MemoryContext old = MemoryContextSwitchTo(state->context);
		bool		found;

		if (state->search != NULL)
			state->search->cache = AnnHnswCacheGet(scan->indexRelation);
		found = nextRow(scan, state);
		MemoryContextSwitchTo(old);
		if (!found)
			return false;
	}
	scan->xs_heaptid = state->tids[state->next_tid++];
	scan->xs_recheck = false;
	scan->xs_recheckorderby = state->recheck;
	scan->xs_orderbynulls[0] = state->null;
	scan->xs_orderbyvals[0] = Float8GetDatum(state->lo);
	/* The index knows nothing of a second ordering: -infinity is a bound for any. */
	for (int i = 1; i < scan->numberOfOrderBys; i++)
	{
		scan->xs_orderbynulls[i] = false;
		scan->xs_orderbyvals[i] = Float8GetDatum(-get_float8_infinity());
		scan->xs_recheckorderby = true;
	}
	return true;
}
