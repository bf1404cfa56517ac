/*
 * annscan_state.h
 *	  State of a running AnnScan.  README, section AnnScan.
 */
#ifndef ANN_ANNSCAN_STATE_H
#define ANN_ANNSCAN_STATE_H

#include "postgres.h"

#include "access/genam.h"
#include "access/skey.h"
#include "access/tableam.h"
#include "commands/explain.h"
#include "lib/pairingheap.h"
#include "utils/tuplesort.h"

#include "planner/annscan.h"
#include "planner/annscan_include.h"
#include "space/scan.h"

/* Where rows come from. */
typedef enum AnnScanPhase
{
	ANN_SCAN_START,
	ANN_SCAN_SEARCH,			/* the index; ranked members if it gives up */
	ANN_SCAN_RANKED,			/* members ranked from the heap */
	ANN_SCAN_END
} AnnScanPhase;

/* A row on its way, or the one that is being looked at. */
typedef struct AnnScanRow
{
	ItemPointerData tid;
	bool		is_null;		/* its distance is NULL: behind all others */
	bool		sure;			/* the index says that no row overlaps its interval */
	bool		passed;			/* visible and not filtered out */
	double		lo;
	double		hi;				/* lo == hi: the distance */
} AnnScanRow;

/* Rows that are read from the index at once, at most. */
#define ANN_SCAN_AHEAD 32

/* Sums over all rescans, for EXPLAIN. */
typedef struct AnnScanCounts
{
	double		members;
	double		lossy_pages;
	double		visited;
	double		scored;
	double		late;
	double		probed;
	double		computed;		/* distances from the heap to settle the order, or because they are read */
	double		ranked;			/* members ranked */
	double		unmatched;		/* members that fail the recheck of the bitmap's conditions */
} AnnScanCounts;

typedef struct AnnScanState
{
	CustomScanState css;
	AnnScanPlan plan;

	/* Expressions; all but query and recheck are over the heap's rows */
	ExprState  *query;
	ExprState  *distance;
	ExprState  *recheck;		/* conditions of the bitmap, over the scan tuple */
	AnnIncludeTest *include;	/* of included columns, for the index; NULL: none */
	List	   *include_operands;
	ExprState  *ranges;			/* over the distance alone; NULL: none */
	TupleTableSlot *range_slot;
	ProjectionInfo *columns;	/* makes the scan tuple, but for the distance */
	ExprState  *heap_filter;	/* the filter; only where the table may be ranked */
	ExprContext *heap_context;
	TupleTableSlot *heap_slot;
	int			distance_column;	/* index in the scan tuple */
	bool		filter_reads_distance;
	bool		result_reads_distance;

	/* The index scan */
	Relation	index;
	IndexScanDesc scan;
	AnnIndexScan *base;			/* its part that we share with the access method */
	ScanKeyData key;
	MemoryContext query_memory; /* of the query's value */
	int			part;			/* place in plan.parts of what is being searched */
	AnnScanRow *ahead;			/* rows that the index has returned before they were needed */
	int			nahead;
	int			next_ahead;
	uint64		nread;			/* rows that the index has returned in this search */
	bool		index_ended;	/* it has returned all */
	bool		index_done;		/* and they were taken */
	bool		beyond;			/* the last search ended since it found no more rows in the range */
	double		range_progress; /* of the search, when it found the last row in the range */
	bool		range_ranked;	/* rows in the range are being returned, by the ranking */
	bool		searched;		/* the index was, and the counts of that are not in `counts` yet */

	/* The row in heap_slot and in the scan tuple; invalid TID: none */
	ItemPointerData current;

	/* Rows that the index has returned and whose order is not settled (annscan_order.c) */
	pairingheap *queue;
	MemoryContext queue_memory;
	double		bound;			/* of the rows that the index has not returned yet */
	bool		bound_null;

	/* Members (annscan_filter.c) */
	AnnTidSet  *members;		/* those that are searched or ranked; NULL: all rows */
	AnnTidSet  *made;			/* the bitmap; NULL: not made yet, or none */
	MemoryContext member_memory;
	uint64		gathered;		/* rows that passed before the first was returned */
	uint64		gather;			/* how many are to be: 0 for none */
	uint64		looked_at;		/* rows of the index, for that */
	uint64		judged_at;		/* looked_at when the search was last begun again */
	double		told;			/* rows that a search of all was told to find */
	Cost		spent;			/* on searches that were begun again */
	ItemPointerData *emitted;	/* in member_memory's child */
	uint64		nemitted;
	uint64		emitted_capacity;
	AnnScanRow	last;			/* of them */
	MemoryContext emitted_memory;
	Tuplesortstate *ranking;
	TupleTableSlot *ranking_input;
	TupleTableSlot *ranking_slot;
	bool		table_ranked;	/* the ranking has TIDs of versions */
	uint64		ranked;			/* rows in the ranking */
	uint64		ranking_bound;	/* how many of them it keeps; 0: all */
	uint64		ranking_read;
	float	   *ranking_best;	/* heap of the nearest of them, the farthest on top; NULL: not kept */
	int			ranking_nbest;

	AnnScanPhase phase;
	const char *stopped;		/* for EXPLAIN: why the last scan ended; NULL: it did not */
	AnnScanCounts counts;
} AnnScanState;

/* annscan_exec.c */
extern bool AnnScanFetch(AnnScanState *state, const ItemPointerData *tid);
extern bool AnnScanFetchVersion(AnnScanState *state, const ItemPointerData *tid);
extern bool AnnScanNextOfTable(AnnScanState *state, TableScanDesc scan, AnnScanRow *row);
extern bool AnnScanPasses(AnnScanState *state, AnnScanRow *row);
extern bool AnnScanPassesAll(const AnnScanState *state);
extern void AnnScanComputeDistance(AnnScanState *state, AnnScanRow *row);
extern void AnnScanCountSearch(AnnScanState *state);
extern void AnnScanKeyInit(ScanKey key, Relation index, Oid opno, Datum value, bool isnull);

/* annscan_heap.c */
extern bool AnnScanFetchHeap(AnnScanState *state, const ItemPointerData *tid);
extern void AnnScanPrefetch(AnnScanState *state, const AnnScanRow *rows, int n);

/* annscan_range.c */
extern void AnnScanRangeInit(AnnScanState *state, List *ranges);
extern bool AnnScanInRange(AnnScanState *state, AnnScanRow *row);
extern bool AnnScanNextInRange(AnnScanState *state, AnnScanRow *row);

/* annscan_order.c */
extern void AnnScanOrderInit(AnnScanState *state);
extern void AnnScanOrderReset(AnnScanState *state);
extern void AnnScanOrderPut(AnnScanState *state, const AnnScanRow *row);
extern bool AnnScanOrderNext(AnnScanState *state, AnnScanRow *row);
extern bool AnnScanReadIndex(AnnScanState *state, AnnScanRow *row);

/* annscan_filter.c */
extern void AnnScanMembersInit(AnnScanState *state);
extern void AnnScanMembersMake(AnnScanState *state);
extern void AnnScanMembersReset(AnnScanState *state, bool keep);
extern void AnnScanRankBegin(AnnScanState *state, uint64 bound);
extern void AnnScanRankPut(AnnScanState *state, AnnScanRow *row);
extern void AnnScanRankPerform(AnnScanState *state);
extern void AnnScanRankMembers(AnnScanState *state);
extern bool AnnScanRankedNext(AnnScanState *state, AnnScanRow *row);
extern void AnnScanRememberEmitted(AnnScanState *state, const AnnScanRow *row);

/* annscan_explain.c */
extern void AnnExplainAnnScan(CustomScanState *css, List *ancestors, ExplainState *es);

#endif							/* ANN_ANNSCAN_STATE_H */
