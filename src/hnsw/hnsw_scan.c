/*
 * hnsw_scan.c
 *	  Index scans: README, section Scan.
 */
#include "postgres.h"

#include <math.h>

#include "access/relscan.h"
#include "lib/qunique.h"
#include "miscadmin.h"
#include "utils/float.h"
#include "utils/memutils.h"

#include "hnsw/hnsw_options.h"
#include "hnsw/hnsw_search.h"

/*
 * A search finds each of the rows that are wanted, and no fewer than so many, in so many visits,
 * divided by the share of the rows that pass its filter.
 */
#define VISITS_PER_MEMBER 5.0
#define MIN_WANTED 10

/* What it takes to look at a row's card, in visits; and a row whose card tells no more than that it passes. */
#define CARD_WORK 0.015
#define CARD_VISIT 0.5

/* A scan may use so much memory, whatever work_mem says: backends keep that much from scan to scan. */
#define MIN_MEMORY ((Size) 1024 * 1024)

/* What a sweep takes for a row, in visits. */
#define SWEEP_WORK 0.4

typedef enum ScanPhase
{
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
	AnnIndexScan base;
	ScanPhase	phase;
	ScanOrder	order;
	AnnHnswSpace space;
	AnnHnswMetaPageData meta;
	AnnHnswQuery *query;
	AnnHnswSearch *search;
	bool		exhausted;		/* the scan visits no more rows and ends with the results it has */
	bool		cut;			/* the beam of a filtered scan was given up for cards or a sweep */
	bool		complete;		/* every row with a distance was returned: there is no sweep */
	double		wanted_hi;		/* upper bound of the last of the rows that the caller wants */
	uint64		nreturned;
	uint32	   *chains;			/* that hold every row which passes the filter; NULL: not known */
	int			nchains;
	double		chain_rows;
	AnnRowId   *returned;
	Size		returned_capacity;
	BlockNumber list_page;
	BlockNumber list_pages;		/* pages of the chain so far */
} HnswScan;

static void
endScan(IndexScanDesc scan)
{
	HnswScan   *state = (HnswScan *) scan->opaque;

	if (state->search != NULL)
		AnnHnswSearchRelease(state->search);
	state->search = NULL;
}

/* Bytes that the scan may use. */
static Size
memoryLimit(void)
{
	return Max((Size) ((double) work_mem * 1024 * AnnHnswScanMemMultiplier()), MIN_MEMORY);
}

/* Whether the search takes more memory than that. */
static bool
isTooLarge(const HnswScan *state)
{
	return AnnHnswSearchMemory(state->search) > memoryLimit();
}

/* Whether there are cards by which the filter can be tested. */
static bool
hasCards(const HnswScan *state)
{
	return state->base.filter != NULL && state->meta.nchains > 0;
}

/* The share of the rows that is expected to pass the filter; 0: not known. */
static double
passingShare(const HnswScan *state)
{
	return state->chains != NULL ? state->chain_rows / Max(state->meta.rows, 1) : state->base.share;
}

/* What going through the cards takes, in visits. */
static double
cardsWork(const HnswScan *state)
{
	double		rows = state->chains != NULL ? state->chain_rows : state->meta.rows;
	double		work = CARD_WORK * rows;

	if (!AnnHnswHasCodes(&state->meta.layout))
		work += CARD_VISIT * passingShare(state) * state->meta.rows;
	return work;
}

/* Whether the rest of the index is better swept, or its cards gone through, than searched. */
static bool
sweepPays(const HnswScan *state)
{
	const AnnHnswSearch *search = state->search;

	if (search->by_cards)
		return false;
	return search->nvisited * ANN_HNSW_SWEEP_SHARE >= state->meta.rows || isTooLarge(state) ||
		(hasCards(state) && search->nvisited >= cardsWork(state));
}

/* Whether max_scan_tuples ends the scan before it comes to a sweep. */
static bool
isLimited(const HnswScan *state)
{
	int			max_tuples = AnnHnswMaxScanTuples();

	return max_tuples > 0 && max_tuples < state->meta.rows;
}

/* Whether the scan's caller has a cheaper way by now, for so much more work. */
static bool
workIsDone(const HnswScan *state, double more)
{
	const AnnHnswSearch *search = state->search;
	/* Without codes a visit scores all neighbours that were not seen. */
	uint64		work = state->space.layout.code_size > 0 ? Max(search->nvisited, search->nscored) : search->nvisited;

	return AnnScanWorkIsDone(&state->base, work + more, search->nmatched);
}

/* What ends the beam of a filtered scan. */
static bool
beamIsEnough(const AnnHnswSearch *search, void *arg)
{
	HnswScan   *state = (HnswScan *) arg;

	if (isLimited(state))
		return search->nvisited >= AnnHnswMaxScanTuples() || workIsDone(state, 0);
	state->cut = sweepPays(state);
	return state->cut || workIsDone(state, 0);
}

/* What the search has counted becomes the scan's. */
static void
takeCounts(HnswScan *state)
{
	state->base.nvisited = state->search->nvisited;
	state->base.nscored = state->search->nscored;
	state->base.nmatched = state->search->nmatched;
}

static int
compareChains(const void *a, const void *b)
{
	uint32		x = *(const uint32 *) a;
	uint32		y = *(const uint32 *) b;

	return (x > y) - (x < y);
}

/* Finds the chains of a filter that says which first included columns pass. */
static void
findChains(Relation index, HnswScan *state)
{
	const AnnIndexScan *base = &state->base;

	if (base->keys == NULL || state->meta.nchains == 0)
		return;
	state->chains = palloc(sizeof(uint32) * Max(base->nkeys, 1));
	for (int i = 0; i < base->nkeys; i++)
		state->chains[i] = base->keys[i] % state->meta.nchains;
	qsort(state->chains, base->nkeys, sizeof(uint32), compareChains);
	state->nchains = base->nkeys == 0 ? 0 : (int) qunique(state->chains, base->nkeys, sizeof(uint32), compareChains);
	for (int i = 0; i < state->nchains; i++)
		state->chain_rows += AnnHnswReadChain(index, &state->meta, state->chains[i]).rows;
}

/* Whether going through cards is cheaper than a search. */
static bool
cardsPay(const HnswScan *state)
{
	double		wanted = Max(state->base.limit, MIN_WANTED);
	double		share = passingShare(state);

	if (!hasCards(state) || (share <= 0 && state->chains == NULL))
		return false;
	if (state->base.members != NULL)
		share *= AnnTidSetCount(state->base.members) / Max(state->meta.rows, 1);
	return share * cardsWork(state) <= VISITS_PER_MEMBER * wanted;
}

/*
 * Has the search go through cards: those of the filter's chains, or all.  What was
 * found and not returned is found again.
 */
static void
useCards(Relation index, HnswScan *state)
{
	AnnHnswSearch *search = state->search;
	AnnIndexScan *base = &state->base;

	AnnHnswSearchBeginCards(search, state->returned, state->nreturned, memoryLimit());
	if (state->chains == NULL)
		AnnHnswWalkPieces(index, search->cache, AnnHnswSearchOfferPiece, search);
	else
		for (int i = 0; i < state->nchains; i++)
			AnnHnswWalkChain(index, search->cache, state->chains[i], AnnHnswSearchOfferPiece, search);
	AnnHnswSearchOrderCards(search);
	/* Else a sweep is made. */
	state->cut = isTooLarge(state);
	state->exhausted = false;
	base->nlate = 0;
}

typedef struct FindRow
{
	const AnnHnswSpace *space;
	AnnPoint	point;
	AnnRowId	row;			/* 0: not found */
} FindRow;

static void
findRow(void *arg, AnnRowId row, const AnnHnswRowHeader *header, const char *stored, float score,
		const AnnHnswEdgeCode *code)
{
	FindRow    *find = (FindRow *) arg;

	if (AnnHnswRowHolds(find->space, header, stored, &find->point))
		find->row = row;
}

/* Has the search go around the row that holds the query's value, if it finds one. */
static void
skipQuery(IndexScanDesc scan, AnnHnswSearch *search)
{
	FindRow		find = {.space = search->space};

	AnnSpaceFormPoint(&search->space->base, scan->orderByData[0].sk_argument, &find.point);
	search->keep_dropped = search->keep_results = false;
	search->hook = findRow;
	search->hook_arg = &find;
	AnnHnswSearchBegin(search);
	AnnHnswSearchBeam(search);
	search->hook = NULL;
	search->skip = find.row;
}

static void
startScan(IndexScanDesc scan)
{
	HnswScan   *state = (HnswScan *) scan->opaque;
	Relation	index = scan->indexRelation;
	AnnHnswCache *cache;
	AnnHnswSearch *search;
	float	   *center = NULL;

	cache = AnnHnswCacheGet(index);
	AnnHnswCacheRefresh(index, cache);
	state->meta = cache->meta;
	if (cache->center != NULL)
	{
		center = palloc(sizeof(float) * cache->meta.layout.dim);
		memcpy(center, cache->center, sizeof(float) * cache->meta.layout.dim);
	}
	AnnHnswSpaceInit(&state->space, &state->meta, center);
	state->base.iterative = AnnScanIterative(&state->base, AnnHnswIterativeScan());
	state->exhausted = state->base.iterative == ANN_ITERATIVE_OFF;

	findChains(index, state);
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
	if (!(state->base.parts & ANN_PART_NUMBERS))
	{
		state->phase = SCAN_SWEEP;
		return;
	}
	state->phase = SCAN_GRAPH;
	search = state->search = AnnHnswSearchAcquire();
	search->index = index;
	search->cache = cache;
	search->space = &state->space;
	search->query = state->query;
	search->ef = AnnHnswEffectiveEf(index, &state->meta);
	/* A scan that does not go on has to find all in its beam. */
	if (state->exhausted)
		search->ef = (int) Min(Max(search->ef, state->base.limit), ANN_HNSW_MAX_EF_SEARCH);
	if (state->base.absent)
		skipQuery(scan, search);
	search->keep_dropped = state->base.iterative != ANN_ITERATIVE_OFF;
	search->keep_results = true;
	search->hook = NULL;
	search->filter = AnnScanIsPlain(&state->base) ? NULL : &state->base;
	search->wanted = Min(MIN_WANTED, search->ef);
	if (state->base.limit > 0)
		search->wanted = (int) Min(search->wanted, ceil(state->base.limit));
	search->enough = beamIsEnough;
	search->enough_arg = state;
	AnnHnswSearchBegin(search);
	if (!cardsPay(state))
		AnnHnswSearchBeam(search);
	if ((state->cut && hasCards(state)) || cardsPay(state))
		useCards(index, state);
}

/* The members among the heap TIDs of a row become those to be returned; false if there are none. */
static bool
readTids(Relation index, HnswScan *state, const ItemPointerData *tids, int ntids, uint32 node, AnnRowId row)
{
	AnnIndexScan *base = &state->base;

	AnnScanClearTids(base);
	for (int i = 0; i < ntids; i++)
		AnnScanAddTid(base, &tids[i]);
	if (node != ANN_HNSW_NO_NODE)
	{
		if (base->tids == NULL)
			base->tids = palloc(sizeof(ItemPointerData) * (base->tids_capacity = 16));
		AnnHnswReadNodes(index, &state->space.layout, row, node, &base->tids, &base->ntids, &base->tids_capacity);
	}
	AnnScanKeepMembers(base);
	return base->ntids > 0;
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
 * Whether the best result goes out now, for all that the search has seen: rows, or members
 * where there is a filter.
 */
static bool
isReady(const HnswScan *state)
{
	const AnnIndexScan *base = &state->base;
	const AnnHnswSearch *search = state->search;
	uint64		visits = search->filter != NULL ? search->nmatched : search->nvisited;
	int			ratio = AnnHnswVisitsPerRow(search->ef);

	if (state->exhausted || AnnHnswSearchHasAll(search))
		return true;
	if (search->by_cards)
		return AnnHnswSearchIsSettled(search);
	/* Late rows count: without them a few would have the rest go out as soon as they are found. */
	if ((Max(state->nreturned, base->limit - 1) + base->nlate) * ratio < visits)
		return true;
	/* What may be nearer than one of the rows that the caller wants is wanted too. */
	return base->limit > 0 && state->nreturned >= base->limit && search->nresults > 0 &&
		search->results[0].lo < state->wanted_hi;
}

/*
 * The next row of phases 1 and 2.  False when the graph has no more, the rest is better
 * swept, or max_work is reached.
 */
static bool
nextFromGraph(Relation index, HnswScan *state)
{
	AnnIndexScan *base = &state->base;
	AnnHnswSearch *search = state->search;
	AnnHnswResult result;
	AnnInterval interval;
	bool		limited = isLimited(state);

	for (;;)
	{
		if (workIsDone(state, !limited && (state->cut || sweepPays(state)) ? state->meta.rows * SWEEP_WORK : 0) &&
			!AnnHnswSearchHasAll(search))
		{
			base->stop = ANN_STOP_WORK;
			return false;
		}
		if (state->cut)
			return false;
		if (limited && search->nvisited >= AnnHnswMaxScanTuples())
			state->exhausted = true;
		if (isReady(state) && AnnHnswPopResult(search, &result))
		{
			if (AnnScanIsLate(base, result.lo))
			{
				base->nlate++;	/* the sweep returns it */
				continue;
			}
			if (readTids(index, state, result.tids, result.ntids, result.node, result.row))
				break;
			continue;
		}
		if (state->exhausted)
		{
			base->stop = ANN_STOP_ITERATIVE;
			return false;
		}
		if (AnnHnswSearchHasAll(search))
		{
			if (base->nlate == 0)
				base->stop = ANN_STOP_DONE;
			return false;
		}
		if (!limited && sweepPays(state))
		{
			if (!hasCards(state))
				return false;
			useCards(index, state);
		}
		else if (!AnnHnswSearchMore(search))
		{
			/* By cards: those that were left name rows that were returned before, so nothing is nearer than the results. */
			if (search->by_cards && search->nresults > 0)
				continue;
			state->complete = search->by_cards && base->nlate == 0 && search->nunplaced == 0;
			/* A sweep would go through more rows than a limit allows. */
			if (!limited)
				return false;
			state->exhausted = true;
		}
	}

	rememberReturned(state, result.row);
	if (state->nreturned <= base->limit)
		state->wanted_hi = result.hi;
	interval.lo = result.lo;
	interval.hi = result.hi;
	AnnScanReturn(&state->base, &interval, search->nresults > 0 ? search->results[0].lo : get_float8_infinity());
	return true;
}

/* A sweep through the rows of an index, or of some of its chains. */
typedef struct Sweep
{
	Relation	index;
	HnswScan   *state;
	uint64		nrows;
	uint8	   *returned;		/* a bit for each row that was returned already; NULL: none was */
	char	   *scratch;		/* for external vectors */
	AnnRowId   *rows;			/* that cards have named */
	int			nnamed;
	int			capacity;
} Sweep;

/* Puts a live row, a copy of which this is, into the sort. */
static void
sweepRow(void *arg, AnnRowId id, AnnHnswRowHeader *row)
{
	Sweep	   *sweep = (Sweep *) arg;
	HnswScan   *state = sweep->state;
	AnnIndexScan *base = &state->base;
	const AnnHnswLayout *layout = &state->space.layout;
	AnnInterval interval = {0};

	if (sweep->returned != NULL && id < sweep->nrows && (sweep->returned[id / 8] & 1 << id % 8))
		return;
	if (row->ntids > ANN_HNSW_INLINE_TIDS)
		AnnPageCorrupted(sweep->index, AnnHnswRowBlock(layout, id), "a row has more TIDs than it can hold");
	if (base->filter != NULL && !base->filter(base->filter_arg, AnnHnswRowAttributes(layout, row)))
		return;
	if (!readTids(sweep->index, state, row->tids, row->ntids, row->node, id))
		return;
	base->nscored++;
	if (state->order == ORDER_DISTANCE)
	{
		const char *stored = AnnHnswStoredVector(sweep->index, layout, row, sweep->scratch);

		if (stored == NULL)
			return;
		interval = AnnHnswInterval(state->query, stored, AnnHnswScore(state->query, stored));
	}
	else
		interval.lo = interval.hi = get_float8_nan();
	for (int j = 0; j < base->ntids; j++)
		AnnScanSortPut(base, &interval, &base->tids[j]);
}

static void
sweepPages(Sweep *sweep, BlockNumber nblocks)
{
	const AnnHnswLayout *layout = &sweep->state->space.layout;
	BufferAccessStrategy strategy = GetAccessStrategy(BAS_BULKREAD);
	Page		page = palloc(BLCKSZ);

	for (BlockNumber block = ANN_HNSW_META_BLOCK + 1; block < nblocks; block++)
	{
		Buffer		buffer = ReadBufferExtended(sweep->index, MAIN_FORKNUM, block, RBM_NORMAL, strategy);

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		memcpy(page, BufferGetPage(buffer), BLCKSZ);
		UnlockReleaseBuffer(buffer);
		if (!PageIsNew(page) && !AnnPageIsOurs(page, ANN_HNSW_PAGE_ID))
			AnnPageCorrupted(sweep->index, block, "it is not a page of the expected kind");
		if (PageIsNew(page) || AnnPageOpaque(page)->kind != ANN_HNSW_ROW)
			continue;
		for (int i = 0; i < layout->rows_per_page; i++)
		{
			AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, page, i);

			if (row->state == ANN_HNSW_LIVE)
				sweepRow(sweep, block * layout->rows_per_page + i, row);
		}
	}
	FreeAccessStrategy(strategy);
	pfree(page);
}

/* Takes the rows of a piece's cards down (AnnHnswPieceVisit). */
static void
nameRows(void *arg, const AnnHnswPiece *piece)
{
	Sweep	   *sweep = (Sweep *) arg;
	const AnnHnswLayout *layout = &sweep->state->space.layout;

	if (sweep->nnamed + ANN_HNSW_PIECE_CARDS > sweep->capacity)
	{
		sweep->capacity = Max(sweep->capacity * 2, 256);
		sweep->rows = sweep->rows == NULL ? palloc(sizeof(AnnRowId) * sweep->capacity) :
			repalloc_huge(sweep->rows, mul_size(sizeof(AnnRowId), sweep->capacity));
	}
	for (uint32 i = 0; i < piece->count; i++)
		sweep->rows[sweep->nnamed++] = AnnHnswPieceCard(layout, piece, (int) i)->row;
}

/* Sweeps the rows of the filter's chains alone. */
static void
sweepChains(Sweep *sweep)
{
	HnswScan   *state = sweep->state;
	const AnnHnswLayout *layout = &state->space.layout;
	AnnHnswCache *cache = AnnHnswCacheGet(sweep->index);
	AnnHnswRowHeader *copy = palloc(layout->row_size);

	for (int i = 0; i < state->nchains; i++)
		AnnHnswWalkChain(sweep->index, cache, state->chains[i], nameRows, sweep);
	for (int i = 0; i < sweep->nnamed; i++)
	{
		AnnHnswRowHeader *row;
		Buffer		buffer = AnnHnswLockRow(sweep->index, cache, layout, sweep->rows[i], BUFFER_LOCK_SHARE, &row);

		CHECK_FOR_INTERRUPTS();
		memcpy(copy, row, sizeof(AnnHnswRowHeader) + layout->vector_space + AnnHnswAttributeSpace(layout));
		UnlockReleaseBuffer(buffer);
		if (copy->state == ANN_HNSW_LIVE)
			sweepRow(sweep, sweep->rows[i], copy);
	}
	state->base.nvisited += sweep->nnamed;
	pfree(copy);
}

/*
 * Phase 3: reads every ROW page, or the chains that have every row that passes the
 * filter, scores the rows that were not returned, and sorts them.
 */
static void
startSweep(Relation index, HnswScan *state)
{
	const AnnHnswLayout *layout = &state->space.layout;
	BlockNumber nblocks = RelationGetNumberOfBlocks(index);
	Sweep		sweep = {.index = index, .state = state, .nrows = mul_size(nblocks, layout->rows_per_page)};

	if (AnnHnswVectorIsExternal(layout))
		sweep.scratch = palloc(layout->vector_size);
	if (state->nreturned > 0)
	{
		sweep.returned = MemoryContextAllocExtended(CurrentMemoryContext, sweep.nrows / 8 + 1,
													MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
		for (uint64 i = 0; i < state->nreturned; i++)
			if (state->returned[i] < sweep.nrows)
				sweep.returned[state->returned[i] / 8] |= 1 << state->returned[i] % 8;
	}
	if (state->search != NULL)
	{
		takeCounts(state);
		AnnHnswSearchRelease(state->search);
	}
	state->search = NULL;

	AnnScanSortBegin(&state->base);
	/* Rows of chains lie apart: a page costs as much as several in a row. */
	if (state->chains != NULL && state->chain_rows <= nblocks)
		sweepChains(&sweep);
	else
		sweepPages(&sweep, nblocks);
	AnnScanClearTids(&state->base);
	AnnScanSortPerform(&state->base);
	if (sweep.returned != NULL)
		pfree(sweep.returned);
}

static bool
nextFromSweep(HnswScan *state)
{
	if (!AnnScanSortNext(&state->base))
		return false;
	state->base.is_null = state->order == ORDER_NULL;
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
		Buffer		buffer = AnnReadBlock(index, state->list_page, NULL);
		Page		page;
		AnnHnswTidList *list;

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		page = AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_TIDLIST);
		list = (AnnHnswTidList *) AnnPageRaw(page);
		if (list->ntids > ANN_HNSW_TIDLIST_CAPACITY)
			AnnPageCorrupted(index, state->list_page, "a TID list is longer than its page");
		AnnScanClearTids(&state->base);
		for (uint32 i = 0; i < list->ntids; i++)
			AnnScanAddTid(&state->base, &list->tids[i]);
		AnnScanKeepMembers(&state->base);
		state->list_page = AnnPageOpaque(page)->next;
		UnlockReleaseBuffer(buffer);
		if (++state->list_pages > RelationGetNumberOfBlocks(index))
			AnnPageCorrupted(index, state->list_page, "a chain of TID lists has a cycle");
		if (state->base.ntids > 0)
		{
			AnnScanReturnUnplaced(&state->base, state->phase == SCAN_NULL || state->order == ORDER_NULL);
			return true;
		}
	}
	return false;
}

/* Whether the rows of this phase are among those to be returned. */
static bool
isWanted(const HnswScan *state)
{
	int			part = ANN_PART_NUMBERS;

	if (state->phase == SCAN_NULL || state->order == ORDER_NULL)
		part = ANN_PART_NULLS;
	else if (state->phase == SCAN_ZERO || state->order == ORDER_NAN)
		part = ANN_PART_NANS;
	return (state->base.parts & part) != 0;
}

/* Finds the next row to return; false at the end. */
static bool
nextRow(IndexScanDesc scan, HnswScan *state)
{
	Relation	index = scan->indexRelation;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		switch (state->phase)
		{
			case SCAN_GRAPH:
				if (nextFromGraph(index, state))
					return true;
				state->phase = state->base.stop != ANN_STOP_NONE ? SCAN_DONE : SCAN_SWEEP;
				break;
			case SCAN_SWEEP:
				if (isWanted(state) && !state->complete)
				{
					if (!state->base.sorting)
						startSweep(index, state);
					if (nextFromSweep(state))
						return true;
				}
				state->phase = SCAN_ZERO;
				state->list_page = state->meta.zero_tids;
				state->list_pages = 0;
				break;
			case SCAN_ZERO:
				if (isWanted(state) && nextFromList(index, state))
					return true;
				state->phase = SCAN_NULL;
				state->list_page = state->meta.null_tids;
				state->list_pages = 0;
				break;
			case SCAN_NULL:
				if (isWanted(state) && nextFromList(index, state))
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
	HnswScan   *state = (HnswScan *) scan->opaque;
	bool		found;

	if (state->search != NULL)
		state->search->cache = AnnHnswCacheGet(scan->indexRelation);
	found = nextRow(scan, state);
	if (state->search != NULL)
		takeCounts(state);
	return found;
}

static const AnnScanMethods methods = {
	.am = "hnsw",
	.state_size = sizeof(HnswScan),
	.start = startScan,
	.next = next,
	.end = endScan
};

IndexScanDesc
ann_hnsw_beginscan(Relation index, int nkeys, int norderbys)
{
	return AnnScanBegin(index, nkeys, norderbys, &methods);
}
