/*
 * cost.h
 *	  What a scan of an index costs, for amcostestimate and for AnnScan.
 *
 * An access method describes its scans by an AnnSearchCost; everything that is to
 * be known of a query is dealt with here.  src/planner/README has the model, and
 * the measurements behind its constants.
 */
#ifndef ANN_COST_H
#define ANN_COST_H

#include "postgres.h"

#include "access/amapi.h"
#include "nodes/pathnodes.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"

#include "quantize/quantize.h"

/* CPU costs are counted in units of cpu_operator_cost.  All are of memory that no cache near the CPU holds. */
#define ANN_PAGE_OPS 60.0		/* find, lock and first touch of a page somewhere in the index */
#define ANN_LINE_OPS 2.5		/* each cache line read from it */
#define ANN_CODE_OPS 3.0		/* an entry or an edge whose code is estimated, in a sequence of them */
#define ANN_CODE_LINE_OPS 5.0	/* each cache line of it */
#define ANN_LINE_BYTES 64.0

/*
 * How a scan of an index works.  A unit of work is what the scan has to do over
 * and over, relative to the rows that it returns: an hnsw row visited, an
 * ivfflat entry looked at.
 */
typedef struct AnnSearchCost
{
	double		rows;			/* in the index */
	Cost		start;			/* before anything is searched: the query's forms, entries, centroids */
	Cost		work;			/* a unit of work */
	Cost		test;			/* what it costs more with a filter */
	double		spread;			/* what a unit costs more, as a share, once a search has spread far */
	double		first;			/* units of work before the first row is returned */
	double		per_row;		/* units of work for a row returned: `first` suffices for first / per_row rows */
	double		per_wanted;		/* the same where the scan is told how many are wanted (AnnIndexScan.limit) */
	double		goes_on;		/* times as many rows as it was told of it finds hardly worse */
	double		least_per_wanted;	/* units of work for a row that it is told of, at least */
	double		told_first;		/* it is told of so many times the wanted rows, as long as no filter is known to refuse many, */
	double		told;			/* then of so many times those that are expected to be needed */
	double		wanted_growth;	/* without a filter so much work grows with the rows to this power */
	double		first_detour;	/* with a filter `first` grows with 1 / its share of the rows to this power, */
	double		row_detour;		/* and per_wanted to this */
	double		sweep_at;		/* units of work after which the scan goes through the whole index instead */
	Cost		sweep;			/* that */
	Cost		row;			/* a row returned, beside work: its vector, its place in the order */
	double		card_work;		/* units of work to test a filter of included columns before a row is visited; 0: it cannot be */
	double		card_visits;	/* and rows visited then for one that is wanted */
	double		rechecks;		/* share of the returned rows whose distance the executor computes again */
} AnnSearchCost;

/* Fills in *cost for an index of the access method. */
typedef void (*AnnSearchCostFunction) (PlannerInfo *root, const IndexOptInfo *index, AnnSearchCost *cost);

/* Whether the index is of the format that the access method reads; warns if not. */
typedef bool (*AnnReadableFunction) (Relation index);

extern void AnnRegisterSearchCost(amcostestimate_function estimate, AnnSearchCostFunction describe,
								  AnnReadableFunction readable);
extern bool AnnIndexIsReadable(const IndexOptInfo *index);
extern void AnnDescribeSearch(PlannerInfo *root, const IndexOptInfo *index, AnnSearchCost *cost);

extern double AnnUncachedShare(PlannerInfo *root, double more_pages);
extern Cost AnnRandomPageCost(PlannerInfo *root, Oid tablespace, double more_pages);
extern double AnnFormRechecks(AnnRefineForm form);
extern Cost AnnCostOfRows(const AnnSearchCost *cost, double rows);
extern double AnnWorkForCost(const AnnSearchCost *cost, Cost budget);
extern double AnnWorkOfSearch(const AnnSearchCost *cost, double rows);
extern Cost AnnCostOfSearch(const AnnSearchCost *cost, double rows, double share);
extern void AnnEstimateIndexScan(PlannerInfo *root, IndexPath *path, AnnSearchCostFunction describe,
								 Cost *startup, Cost *total, Selectivity *selectivity, double *correlation,
								 double *pages);

#endif							/* ANN_COST_H */
