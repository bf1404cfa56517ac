/*
 * ivfflat_scan.c
 *	  Index scans: README, section Scan.
 */
#include "postgres.h"

#include <math.h>

#include "access/relscan.h"
#include "miscadmin.h"
#include "utils/float.h"

#include "ivfflat/ivfflat_options.h"
#include "ivfflat/ivfflat_scan.h"

/* Rows that a caller is taken to want who does not tell, and at most: entries near them are looked at first. */
#define WANTED_UNTOLD 20
#define MAX_WANTED 100000

/* ---- start and end of a scan ---- */

static void
endScan(IndexScanDesc scan)
{
	AnnIvfScan *state = (AnnIvfScan *) scan->opaque;

	if (state->arrays != NULL)
		AnnIvfReleaseArrays(state->arrays);
	state->arrays = NULL;
	AnnIvfEndSpill(state);
}

/* Rows without a distance from here on: NULL vectors and the like, or all rows. */
static void
startPlain(AnnIvfScan *state, uint32 list)
{
	state->phase = ANN_IVF_SCAN_PLAIN;
	state->plain_list = list;
	state->plain_page = state->plain_prev = InvalidBlockNumber;
}

/* Begins with the lists that are nearest to state->dense. */
void
AnnIvfStartLists(AnnIvfScan *state)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	int			dim = (int) layout->dim;

	state->centroid = palloc(mul_size(sizeof(float), dim));
	state->page = palloc(BLCKSZ);
	state->batch = AnnIvfBatchCreate(layout);
	AnnIvfSetKeys(state);
	if (layout->vectors_per_page == 0)
		state->vector = palloc(mul_size(ANN_PAGE_USABLE, layout->pages_per_vector));
	if (AnnIvfHasCodes(layout))
	{
		state->residual = palloc(mul_size(sizeof(float), dim));
		state->code = palloc(AnnQueryCodeSize(&state->meta.code));
		state->best_wanted = (int) Min(state->base.limit > 0 ? ceil(state->base.limit) : WANTED_UNTOLD, MAX_WANTED);
		state->best = palloc(mul_size(sizeof(float), state->best_wanted));
	}
	state->arrays = AnnIvfAcquireArrays();
	AnnIvfRank(&state->ranking, &state->cache->centroids, state->dense);
	/* From here on the cache may become that of newer lists. */
	state->centroids = state->cache->centroids;
	state->centroids.codes = NULL;
	state->centroids.bytes = NULL;
	state->ranking.centroids = &state->centroids;
	state->phase = ANN_IVF_SCAN_LISTS;
}

static void
startScan(IndexScanDesc scan)
{
	AnnIvfScan *state = (AnnIvfScan *) scan->opaque;
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
	AnnIvfStartLists(state);
}

/* ---- rows ---- */

/* A bound of a score in the operator's own scale. */
static double
operatorBound(const AnnIvfScan *state, float lower)
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
nearestResult(AnnIvfScan *state, Relation index, AnnIvfFound *result)
{
	AnnIvfArrays *arrays = state->arrays;
	const AnnIvfPending *next;

	while ((next = AnnIvfPeekPending(state)) != NULL &&
		   (arrays->nresults == 0 || operatorBound(state, next->lower) <= arrays->results[0].interval.hi))
	{
		AnnIvfPending pending;

		/* Those on top of a heap are about the next ones. */
		if (state->base.nscored % (ANN_IVF_VECTORS_AHEAD / 2) == 0)
			AnnIvfPrefetchVectors(state);
		pending = AnnIvfTakePending(state);
		CHECK_FOR_INTERRUPTS();
		AnnIvfReadVector(state, index, &pending);
	}
	if (arrays->nresults == 0)
		return false;
	*result = AnnIvfPopFound(arrays);
	return true;
}

/*
 * Whether the next row is one of those that the first lists were for: the rows that the
 * caller wants, and what may be nearer than one of them.
 */
static bool
isWanted(const AnnIvfScan *state)
{
	const AnnIndexScan *base = &state->base;

	return state->nreturned < base->limit ||
		(base->limit > 0 && state->arrays->nresults > 0 && state->arrays->results[0].interval.lo < state->wanted_hi);
}

/*
 * The next row of ANN_IVF_SCAN_LISTS; false when the lists have no more, or the rest is
 * better sorted.
 */
static bool
nextFromLists(AnnIvfScan *state, Relation index)
{
	AnnIvfArrays *arrays = state->arrays;
	AnnIvfFound	result;

	if (state->base.nprobed == 0 && !AnnIvfReadFirstLists(state, index) && state->base.nprobed > 0)
		return false;
	for (;;)
	{
		/*
		 * Half of the rows read are returned: the farther half may still be
		 * overtaken by rows of lists that are not read yet.  Where there is too much for
		 * memory, or not all lists of a batch are read for that, the rest is sorted.
		 */
		if (state->base.nprobed < Min(state->probes, state->max_probes) && !AnnIvfScanHasAll(state))
			return false;
		if (state->base.iterative != ANN_ITERATIVE_OFF && state->nreturned * 2 >= state->nscanned && !isWanted(state))
		{
			if (AnnIvfScanIsFull(state) || state->spill != NULL)
				return false;
			if (AnnIvfReadLists(state, index, state->probes))
				continue;
		}
		if (!nearestResult(state, index, &result))
		{
			AnnIvfEndSpill(state);
			if (state->base.iterative == ANN_ITERATIVE_OFF || !AnnIvfReadLists(state, index, state->probes))
				return false;
			continue;
		}
		if (AnnScanIsLate(&state->base, result.interval.lo))
		{
			state->base.nlate++;
			AnnIvfGrowArray(arrays, (void **) &arrays->late, arrays->nlate, 1, &arrays->late_capacity, sizeof(AnnIvfFound));
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
sortResults(AnnIvfScan *state)
{
	AnnIvfArrays *arrays = state->arrays;

	for (int i = 0; i < arrays->nresults; i++)
		AnnScanSortPut(&state->base, &arrays->results[i].interval, &arrays->results[i].tid);
	arrays->nresults = 0;
}

/*
 * Scores and sorts everything that was not returned: what is at hand, within the limit of
 * lists the lists not read yet, and behind it all what comes late.
 */
static void
startRest(AnnIvfScan *state, Relation index)
{
	AnnIvfArrays *arrays = state->arrays;

	AnnScanSortBegin(&state->base);
	for (int i = 0; i < arrays->nlate; i++)
		AnnScanSortPut(&state->base, &arrays->late[i].interval, &arrays->late[i].tid);
	arrays->nlate = 0;
	do
	{
		while (AnnIvfPeekPending(state) != NULL)
		{
			AnnIvfPending pending = AnnIvfTakePending(state);

			CHECK_FOR_INTERRUPTS();
			AnnIvfReadVector(state, index, &pending);
			sortResults(state);
		}
		AnnIvfEndSpill(state);
		sortResults(state);
	} while (AnnIvfReadLists(state, index, 1));
	AnnIvfReleaseArrays(arrays);
	state->arrays = NULL;
	AnnScanSortPerform(&state->base);
}

/*
 * The heap TIDs of the next page of ANN_IVF_SCAN_PLAIN; false at the end.  Walks a list as
 * readList does.
 */
static bool
nextPlain(AnnIvfScan *state, Relation index)
{
	if (state->arrays == NULL)
		state->arrays = AnnIvfAcquireArrays();
	for (; state->plain_list < AnnIvfTotalLists(&state->meta); state->plain_list++)
	{
		bool		is_null = state->all_null || state->plain_list == AnnIvfNullList(&state->meta);
		AnnIvfShape	shape = AnnIvfShapeOf(&state->meta, state->plain_list);
		AnnIvfListHead head = AnnIvfHeadForScan(state, index, state->plain_list);
		BlockNumber first = head.first;
		AnnIvfArrays *arrays = state->arrays;

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
					AnnIvfListIsLost(state, index, block);
				state->plain_page = first;
				state->plain_prev = InvalidBlockNumber;
				continue;
			}
			AnnIvfCheckListPage(index, block, page, &state->meta.layout, &shape);
			AnnScanClearTids(&state->base);
			if (state->plain_restarts == 0 || !AnnIvfWasSeen(arrays, block))
			{
				AnnIvfGrowArray(arrays, (void **) &arrays->seen, arrays->nseen, 1, &arrays->seen_capacity, sizeof(BlockNumber));
				arrays->seen[arrays->nseen++] = block;
				for (int i = 0; i < AnnIvfListPageOf(page)->count; i++)
				{
					const ItemPointerData *tid = AnnIvfTidOf(page, &shape, i);

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
nextRow(IndexScanDesc scan, AnnIvfScan *state)
{
	Relation	index = scan->indexRelation;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		switch (state->phase)
		{
			case ANN_IVF_SCAN_LISTS:
				if (nextFromLists(state, index))
					return true;
				if (AnnIvfScanWorkIsDone(state) && !AnnIvfScanHasAll(state))
				{
					state->base.stop = ANN_STOP_WORK;
					state->phase = ANN_IVF_SCAN_DONE;
					break;
				}
				startRest(state, index);
				state->phase = ANN_IVF_SCAN_REST;
				break;
			case ANN_IVF_SCAN_REST:
				if (AnnScanSortNext(&state->base))
					return true;
				if (AnnIvfScanHasAll(state))
				{
					state->base.stop = ANN_STOP_DONE;
					state->phase = ANN_IVF_SCAN_DONE;
				}
				else if (state->base.iterative == ANN_ITERATIVE_OFF || state->base.nprobed < (int) state->meta.lists)
				{
					state->base.stop = ANN_STOP_ITERATIVE;	/* max_probes was reached, or the first lists read */
					state->phase = ANN_IVF_SCAN_DONE;
				}
				else
					startPlain(state, AnnIvfZeroList(&state->meta));
				break;
			case ANN_IVF_SCAN_PLAIN:
				if (nextPlain(state, index))
					return true;
				state->base.stop = ANN_STOP_DONE;
				state->phase = ANN_IVF_SCAN_DONE;
				break;
			case ANN_IVF_SCAN_DONE:
				return false;
		}
	}
}

static bool
next(IndexScanDesc scan)
{
	AnnIvfScan *state = (AnnIvfScan *) scan->opaque;
	bool		sorted = state->phase == ANN_IVF_SCAN_REST;
	bool		found;

	AnnIvfUseCache(state, AnnIvfCacheRecall(scan->indexRelation));
	state->centroids.index = scan->indexRelation;
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
	.state_size = sizeof(AnnIvfScan),
	.start = startScan,
	.next = next,
	.end = endScan
};

IndexScanDesc
ann_ivfflat_beginscan(Relation index, int nkeys, int norderbys)
{
	return AnnScanBegin(index, nkeys, norderbys, &methods);
}
