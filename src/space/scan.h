/*
 * scan.h
 *	  What the index scans of all access methods share, and what the custom scan
 *	  AnnScan asks of them beyond the index AM interface.
 *
 * The first member of each access method's scan state (IndexScanDesc.opaque) is
 * an AnnIndexScan.  An access method brings AnnScanMethods and calls AnnScanBegin
 * in its ambeginscan; amrescan, amgettuple and amendscan are the functions below.
 * The README of this folder tells the order in which rows come.
 */
#ifndef ANN_SCAN_H
#define ANN_SCAN_H

#include "postgres.h"

#include "access/relscan.h"
#include "access/skey.h"
#include "executor/tuptable.h"
#include "utils/tuplesort.h"

#include "space/attributes.h"
#include "space/space.h"
#include "space/tidset.h"

typedef enum AnnScanStop
{
	ANN_STOP_NONE,				/* the scan has not ended */
	ANN_STOP_DONE,				/* every row was returned, every member if there are members */
	ANN_STOP_ITERATIVE,			/* iterative_scan = off, max_scan_tuples, max_probes */
	ANN_STOP_WORK				/* max_work was reached: what was found and not returned is dropped */
} AnnScanStop;

/* The rows of an index by their distance from the query, in the order in which they come. */
#define ANN_PART_NUMBERS 1
#define ANN_PART_NANS 2
#define ANN_PART_NULLS 4
#define ANN_PART_ALL (ANN_PART_NUMBERS | ANN_PART_NANS | ANN_PART_NULLS)

/*
 * Whether a row with these included attributes passes the filter.  `attributes`
 * is the row's attribute area (space/attributes.h); called under the share lock
 * of its page: no errors but of data corruption, no catalog access, no waiting.
 */
typedef AnnTestResult (*AnnAttributeFilter) (void *arg, const char *attributes);

/* What an access method does in a scan.  Called in the memory context of the scan, which rescans reset. */
typedef struct AnnScanMethods
{
	const char *am;				/* name of the access method, for messages */
	Size		state_size;
	void		(*start) (IndexScanDesc scan);	/* at the first tuple; a state of zeroes behind the AnnIndexScan */
	bool		(*next) (IndexScanDesc scan);	/* finds the next row: TIDs, interval; false at the end */
	void		(*end) (IndexScanDesc scan);	/* gives back what is not in that memory context */
} AnnScanMethods;

/* A row that is sorted. */
typedef struct AnnSortItem
{
	double		lo;
	double		hi;
	ItemPointerData tid;
	bool		late;
} AnnSortItem;

/* How many members a search must have found from so much work on: so many, and so many for each unit of work. */
typedef struct AnnScanTrial
{
	double		work;			/* as max_work; 0: there is no such rule */
	double		members;
	double		rate;
} AnnScanTrial;

typedef struct AnnIndexScan
{
	/* Set by AnnScan between index_rescan and the first tuple; amrescan clears them */
	int			parts;			/* ANN_PART_*: the rows to return; amrescan sets all */
	bool		any_order;		/* rows that are late may come at once; iterative_scan = off does not count */
	bool		absent;			/* the query is a row of the table: what would be found if it were not (hnsw: the row
								 * is not gone through; others may return it) */
	bool		uncounted;		/* the scan is none of the query's: statistics leave it out */
	const AnnTidSet *members;	/* heap TIDs that count, exact or by lossy page; NULL: all */
	AnnAttributeFilter filter;	/* NULL: none; rows without a distance come untested */
	void	   *filter_arg;
	double		share;			/* of the rows, which the filter is expected to let pass; 0: unknown */
	const uint32 *keys;			/* AnnAttributesKey of every row that passes is one of these; NULL: not known */
	int			nkeys;
	double		limit;			/* rows the caller is going to take; 0: unknown */
	double		max_work;		/* rows visited (hnsw), entries looked at (ivfflat) after which the scan ends; 0: no bound */
	AnnScanTrial trial;			/* it ends as well if this fails */

	/* Of the tuple that was returned last (also for rows that pass no recheck) */
	AnnInterval interval;		/* of the operator's result; lo == hi: the value that the SQL function computes */
	bool		is_null;		/* the distance is NULL */

	/* Counts since amrescan, for EXPLAIN */
	uint64		nvisited;		/* rows visited (hnsw), entries looked at (ivfflat) */
	uint64		nscored;		/* vectors scored */
	uint64		nmatched;		/* members found */
	uint64		nlate;			/* rows kept back for the end */
	int			nprobed;		/* ivfflat: lists read */
	AnnScanStop stop;

	/* For the access methods: the rest */
	const AnnScanMethods *methods;
	MemoryContext context;		/* of what one rescan allocates */
	bool		started;
	AnnIterativeScan iterative;

	/* Heap TIDs of the row that is being returned */
	ItemPointerData *tids;
	int			ntids;
	int			tids_capacity;
	int			next_tid;
	bool		recheck;

	double		last_lo;		/* of the last row returned in order */
	double		floor;			/* upper bound of the last row that went out without a recheck */
	double		max_hi;			/* of all rows returned */

	/* Rows that are sorted before they are returned: a few in an array, more by tuplesort */
	bool		sorting;
	AnnSortItem *items;
	int			nitems;
	int			items_capacity;
	int			next_item;
	Tuplesortstate *sort;
	TupleTableSlot *sort_slot;
	TupleTableSlot *sort_input; /* while they are put */
} AnnIndexScan;

/* For AnnScan */
extern AnnIndexScan *AnnIndexScanOf(IndexScanDesc scan);

/* For the access methods */
extern IndexScanDesc AnnScanBegin(Relation index, int nkeys, int norderbys, const AnnScanMethods *methods);
extern void ann_index_rescan(IndexScanDesc scan, ScanKey keys, int nkeys, ScanKey orderbys, int norderbys);
extern bool ann_index_gettuple(IndexScanDesc scan, ScanDirection direction);
extern void ann_index_endscan(IndexScanDesc scan);

extern AnnIterativeScan AnnScanIterative(const AnnIndexScan *base, AnnIterativeScan setting);
/* Whether the scan's caller has a better way by now: after so much work, with so many members found. */
static inline bool
AnnScanWorkIsDone(const AnnIndexScan *base, double work, double members)
{
	return (base->max_work > 0 && work >= base->max_work) ||
		(base->trial.work > 0 && work >= base->trial.work && members < Max(base->trial.members, base->trial.rate * work));
}

extern void AnnScanAddTid(AnnIndexScan *base, const ItemPointerData *tid);
extern void AnnScanKeepMembers(AnnIndexScan *base);
extern void AnnScanReturn(AnnIndexScan *base, const AnnInterval *interval, double next_lo);
extern void AnnScanReturnUnplaced(AnnIndexScan *base, bool is_null);

extern void AnnScanSortBegin(AnnIndexScan *base);
extern void AnnScanSortPut(AnnIndexScan *base, const AnnInterval *interval, const ItemPointerData *tid);
extern void AnnScanSortPerform(AnnIndexScan *base);
extern bool AnnScanSortNext(AnnIndexScan *base);

static inline void
AnnScanClearTids(AnnIndexScan *base)
{
	base->ntids = 0;
	base->next_tid = 0;
}

/* Whether every row counts. */
static inline bool
AnnScanIsPlain(const AnnIndexScan *base)
{
	return base->members == NULL && base->filter == NULL;
}

static inline bool
AnnScanIsMember(const AnnIndexScan *base, const ItemPointerData *tid)
{
	return base->members == NULL || AnnTidSetContains(base->members, tid);
}

/* Whether strict order has a row wait for the end: a farther one may be out. */
static inline bool
AnnScanIsLate(const AnnIndexScan *base, double lo)
{
	return base->iterative == ANN_ITERATIVE_STRICT && lo < Max(base->last_lo, base->floor);
}

/*
 * Adds a score to a heap of the best `capacity`, with the worst on top.
 */
static inline void
AnnKeepBest(float *heap, int *n, int capacity, float score)
{
	int			i = 0;

	if (*n < capacity)
	{
		for (i = (*n)++; i > 0 && heap[(i - 1) / 2] < score; i = (i - 1) / 2)
			heap[i] = heap[(i - 1) / 2];
		heap[i] = score;
		return;
	}
	if (!(score < heap[0]))
		return;
	for (;;)
	{
		int			child = 2 * i + 1;

		if (child >= *n)
			break;
		if (child + 1 < *n && heap[child + 1] > heap[child])
			child++;
		if (heap[child] <= score)
			break;
		heap[i] = heap[child];
		i = child;
	}
	heap[i] = score;
}

#endif							/* ANN_SCAN_H */
