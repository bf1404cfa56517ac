/*
 * annscan_filter.c
 *	  The members of a filtered AnnScan: the bitmap of other indexes as a set of
 *	  heap TIDs, and their ranking by distances from the heap.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type_d.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/tidbitmap.h"
#include "utils/float.h"
#include "utils/memutils.h"

#include "compat.h"
#include "planner/annscan_state.h"

/* A bound up to which a ranking looks at what it has before it sorts a row. */
#define BEST_BOUND 1024

/* Columns of the ranking: whether the row is late and its part, its distance, its TID. */
static TupleDesc
rankingDesc(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(3);

	TupleDescInitEntry(desc, 1, "part", INT4OID, -1, 0);
	TupleDescInitEntry(desc, 2, "distance", FLOAT8OID, -1, 0);
	TupleDescInitEntry(desc, 3, "tid", INT8OID, -1, 0);
	return desc;
}

void
AnnScanMembersInit(AnnScanState *state)
{
	state->member_memory = AllocSetContextCreate(CurrentMemoryContext, "AnnScan members", ALLOCSET_DEFAULT_SIZES);
	state->emitted_memory = AllocSetContextCreate(CurrentMemoryContext, "AnnScan emitted", ALLOCSET_SMALL_SIZES);
}

/* Restricts the scan to the members. Runs the bitmap's plan, unless its result still holds. */
void
AnnScanMembersMake(AnnScanState *state)
{
	TIDBitmap  *bitmap;

	state->members = state->made;
	if (state->members != NULL)
		return;
	bitmap = (TIDBitmap *) MultiExecProcNode(linitial(state->css.custom_ps));
	if (bitmap == NULL || !IsA(bitmap, TIDBitmap))
		elog(ERROR, "unrecognized result from subplan");
	state->members = state->made = AnnTidSetFromBitmap(bitmap, state->member_memory);
	tbm_free(bitmap);
	state->counts.members += AnnTidSetCount(state->members);
	state->counts.lossy_pages += state->members->nlossy;
}

static void
endRanking(AnnScanState *state)
{
	if (state->ranking == NULL)
		return;
	ExecClearTuple(state->ranking_slot);
	tuplesort_end(state->ranking);
	state->ranking = NULL;
}

/* Makes ready for a rescan; keep says that the set of members does not change. */
void
AnnScanMembersReset(AnnScanState *state, bool keep)
{
	endRanking(state);
	MemoryContextReset(state->emitted_memory);
	state->emitted = NULL;
	state->nemitted = 0;
	state->emitted_capacity = 0;
	state->members = NULL;
	if (!keep)
	{
		MemoryContextReset(state->member_memory);
		state->made = NULL;
	}
}

/* Notes a row that is returned, so that a ranking leaves it out. */
void
AnnScanRememberEmitted(AnnScanState *state, const AnnScanRow *row)
{
	if (state->nemitted >= state->emitted_capacity)
	{
		Size		wanted = Max(state->emitted_capacity * 2, 64);

		if (state->emitted == NULL)
			state->emitted = MemoryContextAlloc(state->emitted_memory, mul_size(sizeof(ItemPointerData), wanted));
		else
			state->emitted = repalloc_huge(state->emitted, mul_size(sizeof(ItemPointerData), wanted));
		state->emitted_capacity = wanted;
	}
	state->emitted[state->nemitted++] = row->tid;
	state->last = *row;
}

static int
compareTids(const void *a, const void *b)
{
	return ItemPointerCompare((ItemPointer) unconstify(void *, a), (ItemPointer) unconstify(void *, b));
}

static bool
wasEmitted(const AnnScanState *state, const ItemPointerData *tid)
{
	return state->nemitted > 0 &&
		bsearch(tid, state->emitted, state->nemitted, sizeof(ItemPointerData), compareTids) != NULL;
}

/* Which of the plan's parts a row belongs to. */
static int
partOf(const AnnScanState *state, const AnnScanRow *row)
{
	int			part = row->is_null ? ANN_PART_NULLS : isnan(row->lo) ? ANN_PART_NANS : ANN_PART_NUMBERS;
	ListCell   *lc;

	foreach(lc, state->plan.parts)
		if (lfirst_int(lc) & part)
			return foreach_current_index(lc);
	return list_length(state->plan.parts);
}

/* Whether a row that comes behind this one has been returned. */
static bool
isLate(const AnnScanState *state, const AnnScanRow *row)
{
	int			part = partOf(state, row);
	int			last;

	if (state->nemitted == 0)
		return false;
	last = partOf(state, &state->last);
	if (part != last || row->is_null)
		return part < last;
	return state->last.is_null || float8_lt(row->lo, state->last.lo);
}

/* Begins a ranking of rows by their true distances; a bound, unless it is 0, says how many are kept. */
void
AnnScanRankBegin(AnnScanState *state, uint64 bound)
{
	MemoryContext old = MemoryContextSwitchTo(state->css.ss.ps.state->es_query_cxt);
	AttrNumber	columns[] = {1, 2, 3};
	Oid			operators[] = {Int4LessOperator, Float8LessOperator, Int8LessOperator};
	Oid			collations[] = {InvalidOid, InvalidOid, InvalidOid};
	bool		nulls_first[] = {false, false, false};

	/* A sort by distance first compares numbers, and reads no columns: where nothing comes before it, that is left out. */
	int			first = state->nemitted == 0 && list_length(state->plan.parts) == 1 ? 1 : 0;

	endRanking(state);
	if (state->ranking_slot == NULL)
	{
		TupleDesc	desc = rankingDesc();

		state->ranking_input = ExecInitExtraTupleSlot(state->css.ss.ps.state, desc, &TTSOpsVirtual);
		state->ranking_slot = ExecInitExtraTupleSlot(state->css.ss.ps.state, desc, &TTSOpsMinimalTuple);
	}
	state->ranked = 0;
	state->ranking_read = 0;
	state->ranking_bound = bound;
	state->ranking_nbest = 0;
	if (state->ranking_best != NULL)
		pfree(state->ranking_best);
	state->ranking_best = first == 1 && bound > 0 && bound <= BEST_BOUND ? palloc(sizeof(float) * bound) : NULL;
	state->ranking = tuplesort_begin_heap(state->ranking_slot->tts_tupleDescriptor, lengthof(columns) - first,
										  columns + first, operators + first, collations, nulls_first,
										  work_mem, NULL, bound > 0 ? TUPLESORT_ALLOWBOUNDED : TUPLESORT_NONE);
	if (bound > 0)
		tuplesort_set_bound(state->ranking, (int64) bound);
	MemoryContextSwitchTo(old);
}

/* Adds the current row, which has passed. */
void
AnnScanRankPut(AnnScanState *state, AnnScanRow *row)
{
	TupleTableSlot *input = state->ranking_input;

	if (!row->is_null && row->lo < row->hi)
		AnnScanComputeDistance(state, row);
	state->ranked++;
	if (state->ranking_best != NULL && !row->is_null && !isnan(row->lo))
	{
		float		distance = (float) row->lo;

		/* Rounding keeps the order, or makes distances equal. */
		if (state->ranking_nbest == (int) state->ranking_bound && distance > state->ranking_best[0])
			return;
		AnnKeepBest(state->ranking_best, &state->ranking_nbest, (int) state->ranking_bound, distance);
	}
	ExecClearTuple(input);
	input->tts_values[0] = Int32GetDatum(partOf(state, row) + (isLate(state, row) ? list_length(state->plan.parts) + 1 : 0));
	input->tts_values[1] = Float8GetDatum(row->lo);
	input->tts_values[2] = Int64GetDatum((int64) ItemPointerGetBlockNumberNoCheck(&row->tid) << 16 |
										 ItemPointerGetOffsetNumberNoCheck(&row->tid));
	input->tts_isnull[0] = input->tts_isnull[2] = false;
	input->tts_isnull[1] = row->is_null;
	ExecStoreVirtualTuple(input);
	tuplesort_puttupleslot(state->ranking, input);
}

/* Ends the adding. */
void
AnnScanRankPerform(AnnScanState *state)
{
	ExecClearTuple(state->ranking_input);
	tuplesort_performsort(state->ranking);
}

/* plain says that nothing is left to test of the member. */
static void
rankMember(AnnScanState *state, const ItemPointerData *tid, bool plain)
{
	AnnScanRow	row = {.tid = *tid, .lo = -get_float8_infinity(), .hi = get_float8_infinity()};

	CHECK_FOR_INTERRUPTS();
	if (wasEmitted(state, tid))
		return;
	if (plain ? AnnScanFetchHeap(state, tid) : AnnScanPasses(state, &row))
		AnnScanRankPut(state, &row);
}

static void
rankMembers(AnnScanState *state)
{
	AnnTidSetPage *page = palloc(sizeof(AnnTidSetPage));
	AnnTidSetIterator iterator;
	bool		plain = AnnScanPassesAll(state);

	AnnTidSetBegin(&iterator, state->members);
	while (AnnTidSetNext(&iterator, page))
	{
		ItemPointerData tid;
		int			n = page->lossy ? MaxHeapTuplesPerPage : page->noffsets;

		for (int i = 0; i < n; i++)
		{
			ItemPointerSet(&tid, page->block, page->lossy ? i + 1 : page->offsets[i]);
			rankMember(state, &tid, plain && !AnnTidSetNeedsRecheck(state->members, &tid));
		}
	}
	pfree(page);
}

static void
rankTable(AnnScanState *state)
{
	ScanState  *ss = &state->css.ss;
	TableScanDesc scan = table_beginscan(ss->ss_currentRelation, ss->ps.state->es_snapshot, 0, NULL);
	AnnScanRow	row = {0};

	/* What has been returned is known by its version, too: it came from a ranking. */
	while (AnnScanNextOfTable(state, scan, &row))
		if (!wasEmitted(state, &row.tid))
			AnnScanRankPut(state, &row);
	/* The slot may hold a page of the scan. */
	ExecClearTuple(state->heap_slot);
	table_endscan(scan);
}

/*
 * Ranks the members, or without them all rows of the table, that pass the filter and
 * were not returned by their true distances.  Where the query's limit is known only
 * that many are kept.
 */
void
AnnScanRankMembers(AnnScanState *state)
{
	if (state->nemitted > 0)
		qsort(state->emitted, state->nemitted, sizeof(ItemPointerData), compareTids);
	state->table_ranked = state->members == NULL;
	AnnScanRankBegin(state, state->nemitted < state->plan.limit ? (uint64) state->plan.limit - state->nemitted : 0);
	if (state->members != NULL)
		rankMembers(state);
	else
		rankTable(state);
	state->counts.ranked += state->ranked;
	AnnScanRankPerform(state);
}

/* The next of the ranking; false at the end. */
bool
AnnScanRankedNext(AnnScanState *state, AnnScanRow *row)
{
	TupleTableSlot *slot = state->ranking_slot;
	int64		packed;

	/* The estimate of the limit was too low: what was not kept comes now. */
	if (state->ranking_bound > 0 && state->ranking_read >= state->ranking_bound)
	{
		if (state->ranked <= state->ranking_bound)
			return false;
		AnnScanRankMembers(state);
	}
	slot = state->ranking_slot;
	if (!tuplesort_gettupleslot(state->ranking, true, false, slot, NULL))
		return false;
	state->ranking_read++;
	slot_getallattrs(slot);
	row->is_null = slot->tts_isnull[1];
	row->lo = row->hi = row->is_null ? 0 : DatumGetFloat8(slot->tts_values[1]);
	row->sure = row->passed = true;
	packed = DatumGetInt64(slot->tts_values[2]);
	ItemPointerSet(&row->tid, (BlockNumber) (packed >> 16), (OffsetNumber) (packed & 0xFFFF));
	if (!(state->table_ranked ? AnnScanFetchVersion(state, &row->tid) : AnnScanFetch(state, &row->tid)))
		elog(ERROR, "a ranked row is not visible any more");
	return true;
}
