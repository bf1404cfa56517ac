/*
 * scan.c
 *	  The part of an index scan that does not depend on the access method: its
 *	  life, the order of what it returns, and rows that are sorted.  README: Scans.
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/genam.h"
#include "access/tupdesc.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/float.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "space/scan.h"

/* Up to so many rows are sorted in an array: a tuplesort costs more than that to set up. */
#define ARRAY_ITEMS 4096

/* ---- life of a scan ---- */

/*
 * The shared part of a scan's state, or NULL if the scan is not one of an index
 * of ours.
 */
AnnIndexScan *
AnnIndexScanOf(IndexScanDesc scan)
{
	if (scan->indexRelation->rd_indam->amgettuple != ann_index_gettuple)
		return NULL;
	return (AnnIndexScan *) scan->opaque;
}

/*
 * ambeginscan for an access method of these methods.
 */
IndexScanDesc
AnnScanBegin(Relation index, int nkeys, int norderbys, const AnnScanMethods *methods)
{
	IndexScanDesc scan = RelationGetIndexScan(index, nkeys, norderbys);
	AnnIndexScan *base = palloc0(methods->state_size);

	base->methods = methods;
	base->context = AllocSetContextCreate(CurrentMemoryContext, "ann index scan", ALLOCSET_DEFAULT_SIZES);
	scan->opaque = base;
	if (norderbys > 0)
	{
		scan->xs_orderbyvals = palloc0(mul_size(sizeof(Datum), norderbys));
		scan->xs_orderbynulls = palloc(mul_size(sizeof(bool), norderbys));
		memset(scan->xs_orderbynulls, true, sizeof(bool) * norderbys);
	}
	return scan;
}

static void
endSearch(IndexScanDesc scan)
{
	AnnIndexScan *base = (AnnIndexScan *) scan->opaque;

	base->methods->end(scan);
	if (base->sort != NULL)
		tuplesort_end(base->sort);
	base->sort = NULL;
	if (base->sort_slot != NULL)
		ExecDropSingleTupleTableSlot(base->sort_slot);
	base->sort_slot = NULL;
	if (base->sort_input != NULL)
		ExecDropSingleTupleTableSlot(base->sort_input);
	base->sort_input = NULL;
}

/*
 * amrescan.
 */
void
ann_index_rescan(IndexScanDesc scan, ScanKey keys, int nkeys, ScanKey orderbys, int norderbys)
{
	AnnIndexScan *base = (AnnIndexScan *) scan->opaque;
	const AnnScanMethods *methods = base->methods;
	MemoryContext context = base->context;

	endSearch(scan);
	MemoryContextReset(context);
	if (keys != NULL && scan->numberOfKeys > 0)
		memmove(scan->keyData, keys, sizeof(ScanKeyData) * scan->numberOfKeys);
	if (orderbys != NULL && scan->numberOfOrderBys > 0)
		memmove(scan->orderByData, orderbys, sizeof(ScanKeyData) * scan->numberOfOrderBys);
	memset(base, 0, methods->state_size);
	base->methods = methods;
	base->context = context;
	base->parts = ANN_PART_ALL;
	base->last_lo = base->floor = base->max_hi = -get_float8_infinity();
}

/*
 * amendscan.
 */
void
ann_index_endscan(IndexScanDesc scan)
{
	AnnIndexScan *base = (AnnIndexScan *) scan->opaque;

	endSearch(scan);
	MemoryContextDelete(base->context);
	pfree(base);
	scan->opaque = NULL;
}

static void
startScan(IndexScanDesc scan)
{
	AnnIndexScan *base = (AnnIndexScan *) scan->opaque;

	if (scan->numberOfOrderBys == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot scan %s index \"%s\" without an order",
						base->methods->am, RelationGetRelationName(scan->indexRelation))));
	/* Places in the index are reused without an interlock: an older snapshot cannot see what replaced them. */
	if (!IsMVCCSnapshot(scan->xs_snapshot))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s indexes can only be scanned with an MVCC snapshot", base->methods->am)));
	if (!base->uncounted)
		AnnCountIndexScan(scan);
	base->started = true;
	base->methods->start(scan);
}

/*
 * amgettuple.
 */
bool
ann_index_gettuple(IndexScanDesc scan, ScanDirection direction)
{
	AnnIndexScan *base = (AnnIndexScan *) scan->opaque;

	Assert(ScanDirectionIsForward(direction));
	if (base->next_tid >= base->ntids)
	{
		MemoryContext old = MemoryContextSwitchTo(base->context);
		bool		found;

		if (!base->started)
			startScan(scan);
		found = base->methods->next(scan);
		MemoryContextSwitchTo(old);
		if (!found)
		{
			AnnScanClearTids(base);
			return false;
		}
	}
	scan->xs_heaptid = base->tids[base->next_tid++];
	scan->xs_recheck = false;
	scan->xs_recheckorderby = base->recheck;
	scan->xs_orderbynulls[0] = base->is_null;
	scan->xs_orderbyvals[0] = Float8GetDatum(base->interval.lo);
	/* The index knows nothing of a second ordering: -infinity is a bound for any. */
	for (int i = 1; i < scan->numberOfOrderBys; i++)
	{
		scan->xs_orderbynulls[i] = false;
		scan->xs_orderbyvals[i] = Float8GetDatum(-get_float8_infinity());
		scan->xs_recheckorderby = true;
	}
	return true;
}

/*
 * How a scan goes on when its first rows have been returned.  One that returns a set of rows, in no
 * order, is not complete before it has: a setting that would cut it short counts for ordered scans alone.
 */
AnnIterativeScan
AnnScanIterative(const AnnIndexScan *base, AnnIterativeScan setting)
{
	return base->any_order ? ANN_ITERATIVE_RELAXED : setting;
}

/* ---- the row that is returned ---- */

/*
 * Adds a heap TID to the row that is about to be returned.
 */
void
AnnScanAddTid(AnnIndexScan *base, const ItemPointerData *tid)
{
	if (base->ntids >= base->tids_capacity)
	{
		int			capacity = Max(base->tids_capacity * 2, 16);

		if (base->tids == NULL)
			base->tids = palloc(sizeof(ItemPointerData) * capacity);
		else
			base->tids = repalloc_huge(base->tids, mul_size(sizeof(ItemPointerData), capacity));
		base->tids_capacity = capacity;
	}
	base->tids[base->ntids++] = *tid;
}

/*
 * Takes away those that are not members.
 */
void
AnnScanKeepMembers(AnnIndexScan *base)
{
	int			kept = 0;

	if (base->members == NULL)
		return;
	for (int i = 0; i < base->ntids; i++)
		if (AnnTidSetContains(base->members, &base->tids[i]))
			base->tids[kept++] = base->tids[i];
	base->ntids = kept;
}

/*
 * The row goes out in order: it is not late.  next_lo is the least bound of the
 * rows found and not returned yet, infinity if there are none.  The order is certain
 * where the intervals of neighbours do not overlap.
 */
void
AnnScanReturn(AnnIndexScan *base, const AnnInterval *interval, double next_lo)
{
	base->interval = *interval;
	base->is_null = false;
	base->recheck = interval->lo < interval->hi && (base->max_hi > interval->lo || next_lo < interval->hi);
	base->last_lo = interval->lo;
	/* Without a recheck the row goes out at once: what comes later must not be able to be nearer. */
	if (!base->recheck)
		base->floor = Max(base->floor, interval->hi);
	base->max_hi = Max(base->max_hi, interval->hi);
}

/*
 * The row goes out without a place in the order: its distance is NULL, or NaN.
 */
void
AnnScanReturnUnplaced(AnnIndexScan *base, bool is_null)
{
	base->interval.lo = base->interval.hi = get_float8_nan();
	base->is_null = is_null;
	base->recheck = false;
}

/* ---- rows that are sorted ---- */

static TupleDesc
sortDesc(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(4);

	TupleDescInitEntry(desc, 1, "late", INT4OID, -1, 0);
	TupleDescInitEntry(desc, 2, "lo", FLOAT8OID, -1, 0);
	TupleDescInitEntry(desc, 3, "hi", FLOAT8OID, -1, 0);
	TupleDescInitEntry(desc, 4, "tid", INT8OID, -1, 0);
	return desc;
}

static void
putItem(AnnIndexScan *base, const AnnSortItem *item)
{
	TupleTableSlot *slot = base->sort_input;

	ExecClearTuple(slot);
	slot->tts_values[0] = Int32GetDatum(item->late);
	slot->tts_values[1] = Float8GetDatum(item->lo);
	slot->tts_values[2] = Float8GetDatum(item->hi);
	slot->tts_values[3] = Int64GetDatum((int64) ItemPointerGetBlockNumberNoCheck(&item->tid) << 16 |
										ItemPointerGetOffsetNumberNoCheck(&item->tid));
	memset(slot->tts_isnull, false, sizeof(bool) * 4);
	ExecStoreVirtualTuple(slot);
	tuplesort_puttupleslot(base->sort, slot);
}

/* Leaves the array for a tuplesort. */
static void
beginTuplesort(AnnIndexScan *base)
{
	TupleDesc	desc = sortDesc();
	AttrNumber	columns[] = {1, 2};
	Oid			operators[] = {Int4LessOperator, Float8LessOperator};
	Oid			collations[] = {InvalidOid, InvalidOid};
	bool		nulls_first[] = {false, false};

	base->sort = tuplesort_begin_heap(desc, 2, columns, operators, collations, nulls_first,
									  work_mem, NULL, TUPLESORT_NONE);
	base->sort_slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	base->sort_input = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	for (int i = 0; i < base->nitems; i++)
		putItem(base, &base->items[i]);
	base->nitems = 0;
}

/*
 * Starts a sort, within work_mem, of rows to be returned: by their lower bounds, and
 * those that are late behind all others.
 */
void
AnnScanSortBegin(AnnIndexScan *base)
{
	base->sorting = true;
}

/*
 * A row to be sorted.
 */
void
AnnScanSortPut(AnnIndexScan *base, const AnnInterval *interval, const ItemPointerData *tid)
{
	AnnSortItem item = {interval->lo, interval->hi, *tid, AnnScanIsLate(base, interval->lo)};

	if (base->sort == NULL && base->nitems == ARRAY_ITEMS)
		beginTuplesort(base);
	if (base->sort != NULL)
	{
		putItem(base, &item);
		return;
	}
	if (base->nitems == base->items_capacity)
	{
		int			capacity = Max(2 * base->items_capacity, 64);

		base->items = base->items == NULL ?
			MemoryContextAlloc(base->context, mul_size(sizeof(AnnSortItem), capacity)) :
			repalloc(base->items, mul_size(sizeof(AnnSortItem), capacity));
		base->items_capacity = capacity;
	}
	base->items[base->nitems++] = item;
}

static int
compareItems(const void *a, const void *b)
{
	const AnnSortItem *p = (const AnnSortItem *) a;
	const AnnSortItem *q = (const AnnSortItem *) b;

	if (p->late != q->late)
		return p->late ? 1 : -1;
	return float8_cmp_internal(p->lo, q->lo);
}

/*
 * Ends the putting of rows.
 */
void
AnnScanSortPerform(AnnIndexScan *base)
{
	if (base->sort == NULL)
	{
		if (base->nitems > 0)
			qsort(base->items, base->nitems, sizeof(AnnSortItem), compareItems);
		return;
	}
	ExecDropSingleTupleTableSlot(base->sort_input);
	base->sort_input = NULL;
	tuplesort_performsort(base->sort);
}

/*
 * Has the next sorted row returned; false if there is none.
 */
bool
AnnScanSortNext(AnnIndexScan *base)
{
	AnnSortItem item;
	bool		isnull;

	if (base->sort == NULL)
	{
		if (base->next_item >= base->nitems)
			return false;
		item = base->items[base->next_item++];
	}
	else
	{
		int64		packed;

		if (!tuplesort_gettupleslot(base->sort, true, false, base->sort_slot, NULL))
			return false;
		item.lo = DatumGetFloat8(slot_getattr(base->sort_slot, 2, &isnull));
		item.hi = DatumGetFloat8(slot_getattr(base->sort_slot, 3, &isnull));
		packed = DatumGetInt64(slot_getattr(base->sort_slot, 4, &isnull));
		ItemPointerSet(&item.tid, (BlockNumber) (packed >> 16), (OffsetNumber) (packed & 0xFFFF));
	}
	base->interval.lo = item.lo;
	base->interval.hi = item.hi;
	AnnScanClearTids(base);
	AnnScanAddTid(base, &item.tid);
	base->is_null = false;
	base->recheck = base->interval.lo < base->interval.hi;
	return true;
}
