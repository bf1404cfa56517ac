/*
 * annscan.h
 *	  AnnScan, the custom scan that searches an index of ours: what its files
 *	  offer to each other.  README, section AnnScan.
 */
#ifndef ANN_ANNSCAN_H
#define ANN_ANNSCAN_H

#include "postgres.h"

#include "nodes/execnodes.h"
#include "nodes/extensible.h"
#include "nodes/pathnodes.h"

#include "space/cost.h"
#include "space/scan.h"

/* How many rows for one that is wanted the index is told to look for, at most. */
#define ANN_MAX_WIDENING 10

/* A condition that holds up to some distance and for no greater one. */
typedef struct AnnRange
{
	RestrictInfo *rinfo;
	bool		falling;		/* it holds for NaN, too */
} AnnRange;

/* An ordering of the query that an index gives, or a range of distances. */
typedef struct AnnOrder
{
	IndexOptInfo *index;
	PathKey    *pathkey;		/* NULL: no order is asked for */
	bool		falling;		/* the sort key falls as the distance grows */
	Expr	   *distance;		/* the distance as the query has it */
	Expr	   *query;			/* its operand that is not the indexed column */
	Oid			opno;			/* the distance's operator, with the column on the left */
	List	   *ranges;			/* AnnRanges of this distance */
	List	   *included;		/* RestrictInfos that the index can test on its included columns */
} AnnOrder;

/* The prices by which a scan decides, while it runs, whether to go on searching or to rank what passes the filter. */
typedef struct AnnScanCosts
{
	AnnSearchCost search;
	Cost		rank;			/* of ranking one member */
	double		passing;		/* share of the members that pass the index's test of included columns */
	Cost		cards;			/* of finding members that pass by testing included columns before rows are visited; 0: no such way */
	Cost		fetch;			/* of the row of a member that is found */

	/* Of a search of all rows whose filter the index does not know */
	Cost		look;			/* a row of the table that is read for its filter */
	double		share;			/* of the rows that are expected to pass */
	double		first_look;		/* rows after which that is judged by those that have passed */
	Cost		other;			/* what is done if the search is given up; 0: it never is */
} AnnScanCosts;

/* What becomes of a search of all rows whose filter the index does not know. */
typedef enum AnnSearchVerdict
{
	ANN_SEARCH_GOES_ON,
	ANN_SEARCH_AGAIN,			/* it is made again, for more rows */
	ANN_SEARCH_IS_LOST
} AnnSearchVerdict;

/* The expressions of a plan: custom_exprs. */
typedef enum AnnScanExprs
{
	ANN_EXPR_QUERY,
	ANN_EXPR_RECHECK,			/* conditions of the bitmap: a list, NIL without */
	ANN_EXPR_INCLUDED,			/* conditions that the index tests: a list, for EXPLAIN */
	ANN_EXPR_OPERANDS,			/* what they compare columns with: a list */
	ANN_EXPR_RANGES				/* conditions that end the search: a list */
} AnnScanExprs;

/* What a plan says beyond its expressions; a list of nodes in custom_private. */
typedef struct AnnScanPlan
{
	Oid			index;
	Oid			opno;
	bool		ordered;		/* rows are wanted in the order of their distances */
	bool		late_members;	/* the bitmap is made if a search of all rows is given up */
	bool		key_hidden;		/* nobody reads a distance that is a resjunk column */
	List	   *parts;			/* sets of the index's parts (scan.h), in the order in which they are searched */
	double		limit;			/* rows that the query is expected to take; 0: unknown */
	double		search_limit;	/* rows of the index, or members, that this takes; 0: unknown */
	AnnScanCosts costs;
	List	   *include;		/* AnnIncludePlan's test; NIL without */
} AnnScanPlan;

/* annscan_match.c */
extern bool AnnCanSearch(const IndexOptInfo *index);
extern bool AnnMatchMonotone(IndexOptInfo *index, Oid sort_family, Expr *expr, AnnOrder *order);
extern bool AnnMatchOrder(PlannerInfo *root, RelOptInfo *rel, IndexOptInfo *index, AnnOrder *order);
extern List *AnnOrderParts(const AnnOrder *order);
extern Expr *AnnOrderOperation(const AnnOrder *order);

/* annscan_range.c */
extern bool AnnMatchRange(RelOptInfo *rel, IndexOptInfo *index, AnnOrder *order);
extern void AnnFindRanges(RelOptInfo *rel, AnnOrder *order);
extern double AnnRangeShare(PlannerInfo *root, const AnnOrder *order);
extern void AnnEstimateRange(PlannerInfo *root, RelOptInfo *rel, const AnnOrder *order);

/* annscan_cost.c */
extern bool AnnCostAnnScan(PlannerInfo *root, RelOptInfo *rel, const AnnOrder *order, const IndexPath *search,
						   const BitmapHeapPath *members, bool distance_read, AnnScanPlan *plan, Path *path);
extern BitmapHeapPath *AnnCostBitmapScan(PlannerInfo *root, RelOptInfo *rel, double index_pages, Cost distance,
										 const BitmapHeapPath *members);
extern Path *AnnCostSeqScan(PlannerInfo *root, RelOptInfo *rel, double index_pages, const Path *scan);
extern IndexPath *AnnCostPlainScan(PlannerInfo *root, RelOptInfo *rel, double index_pages, Cost distance,
								   const IndexPath *scan, IndexOptInfo *index);
extern double AnnMaxWork(const AnnScanPlan *plan, double members, AnnScanTrial *limits);
extern double AnnFirstTold(const AnnScanPlan *plan);
extern double AnnMaxWorkOfAll(const AnnScanPlan *plan, Cost spent);
extern bool AnnFilterSurprises(const AnnScanPlan *plan, double looked_at, double passed);
extern AnnSearchVerdict AnnJudgeSearch(const AnnScanPlan *plan, double looked_at, double passed, double *told, Cost *spent);

/* annscan_plan.c */
extern AnnScanPlan AnnScanPlanFromList(List *list);
extern Plan *AnnPlanAnnScan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path, List *tlist, List *clauses,
							List *custom_plans);
extern List *AnnScanPathPrivate(PlannerInfo *root, const AnnOrder *order, AnnScanPlan *plan);

/* annscan_exec.c */
extern const CustomScanMethods ann_scan_methods;

#endif							/* ANN_ANNSCAN_H */
