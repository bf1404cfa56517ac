/*
 * annscan_cost.c
 *	  What an AnnScan costs, and what it decides by those costs while it runs.
 */
#include "postgres.h"

#include <math.h>

#include "optimizer/cost.h"
#include "optimizer/optimizer.h"

#include "compat.h"
#include "planner/annscan.h"
#include "planner/annscan_include.h"

/* What AnnScan's own handling of a row costs more than a plain index scan's, in cpu_operator_costs. */
#define ROW_OPS 40.0

/*
 * How much farther than its range a search goes, and the most rows in a range that a search
 * looks for at once.
 */
#define RANGE_EXCESS 1.3
#define RANGE_MOST_WANTED 1000.0

/* Rows visited for a row that passes a test of included columns, beside one whose edges tell: they do not. */
#define UNHINTED_WORK 1.6

/* Preparing such a test; what a search costs at the most of one that tests nothing. */
#define INCLUDE_OPS 500.0
#define PLAIN_SHARE 0.95

/* The visible version of a row on a page of the table that nothing has been read of, and all rows of a bitmap on one. */
#define FETCH_OPS 150.0
#define BITMAP_PAGE_OPS 250.0

/* A row that is ranked, beside its page and its distance; a member of a bitmap. */
#define RANK_OPS 20.0
#define MEMBER_OPS 16.0

/*
 * Where ranking would be cheaper than a search is expected to be, a search is
 * given this share of its cost all the same: if the filter goes with the query
 * it ends much sooner, and nobody can know.  Not if that is less than so many beams.
 */
#define TRY_SHARE 0.3
#define LEAST_TRY 3.0

/*
 * A search that has taken so many times what was expected of it is not going to end soon; nor
 * may it take more than this share of what ranking costs.
 */
#define PATIENCE 2.5
#define MOST_SHARE 0.5

/* What counts of a bitmap scan that could have been planned, where the table has to be ranked instead. */
#define OTHER_SHARE 0.8

/*
 * Price of a ranking that is made after such an attempt, relative to its own: what an
 * attempt costs in vain is less than what it gains when it is not.
 */
#define TRIED_RANK 0.9

/*
 * How often the filter is expected to refuse what is near the query, so that the ranking is made after all;
 * and where the ranking is so many times what a bitmap scan could do, and the loss that great.
 */
#define FAR_FILTERS 0.01
#define FEARED_FILTERS 0.05
#define FEARED_LOSS 6.0

/*
 * A filter surprises if the rows that it takes to find those wanted exceed what is
 * expected by so many standard deviations (of a negative binomial distribution), and
 * some rows more.
 */
#define SURPRISE_DEVIATIONS 4
#define SURPRISE_ROWS 16

/* Cost of reading a page of the table somewhere, with so much to do there. */
static Cost
pageCost(PlannerInfo *root, const RelOptInfo *rel, const AnnOrder *order, double ops)
{
	return ops * cpu_operator_cost + AnnRandomPageCost(root, rel->reltablespace, order->index->pages);
}

/* Pages that so many rows lie on which lie anywhere in the table. */
static double
pagesOfRows(const RelOptInfo *rel, double rows)
{
	double		pages = Max(rel->pages, 1);

	return pages * (1 - exp(-rows / pages));
}

/* Cost of ranking one of so many members that lie anywhere in the table. */
static Cost
rankCost(PlannerInfo *root, const RelOptInfo *rel, const AnnOrder *order, double members, Cost distance)
{
	/* Members are read in the table's order, each page once. */
	return pagesOfRows(rel, members) / members * pageCost(root, rel, order, FETCH_OPS) + distance + cpu_tuple_cost +
		rel->baserestrictcost.per_tuple + RANK_OPS * cpu_operator_cost;
}

/* Cost of ranking the rows of the table that pass: what a sequential scan and a sort do. */
static Cost
rankTableCost(const RelOptInfo *rel, double passing, Cost distance)
{
	return rel->pages * seq_page_cost +
		rel->tuples * (cpu_tuple_cost + rel->baserestrictcost.per_tuple) + rel->baserestrictcost.startup +
		passing * (distance + RANK_OPS * cpu_operator_cost);
}

/*
 * The work that a search may take before the ranking, of this cost, is made instead; 0 if it is
 * made at once.  more is what the caller does for a unit of it.
 */
static double
maxWork(const AnnScanCosts *costs, Cost expected, Cost rank, Cost more)
{
	Cost		budget = Max(TRY_SHARE * rank, expected < MOST_SHARE * rank ? Min(MOST_SHARE * rank, PATIENCE * expected) : 0);

	if (budget <= LEAST_TRY * AnnCostOfSearch(&costs->search, 0, 1))
		return 0;
	return (budget - costs->search.start) / (costs->search.work * (1 + costs->search.spread / 2) + more);
}

/*
 * After how many rows a filter of which so many are expected to be seen for those wanted
 * must be one that refuses the rows near the query.  Those far from it are found by a search of
 * nearly everything only.
 */
static double
surprisingRows(double seen, double wanted)
{
	return seen * (1 + SURPRISE_DEVIATIONS / sqrt(Max(wanted, 1))) + SURPRISE_ROWS;
}

/*
 * The cost of a search for so many rows among the share of the index's that passes, or that of testing the
 * conditions on included columns before rows are visited, if that is less: of all rows, or of those that a
 * condition on the first column leaves.
 */
static Cost
orCards(PlannerInfo *root, const AnnOrder *order, const AnnSearchCost *search, double rows, double share, Cost cost)
{
	double		tested = search->rows;
	double		visited = Min(search->rows * share, search->card_visits * Max(rows, 1));
	ListCell   *lc;

	if (search->card_work <= 0 || order->included == NIL)
		return cost;
	foreach(lc, order->included)
		if (AnnIncludeIsKeyed(root, order->index, list_make1(lfirst(lc))))
			tested = Min(tested, search->rows * clause_selectivity(root, lfirst(lc), 0, JOIN_INNER, NULL));
	return Min(cost, search->start + search->work * (search->card_work * tested + visited));
}

/*
 * Sets rows and costs of the path and, in the plan, what is decided by at run
 * time.  `search` is the plain index path, `members` NULL or the path of the
 * bitmap that restricts the search; other is NULL or the bitmap scan that is a way to do
 * without it; distance_read says that somebody reads true distances.
 *
 * The price of a search that ranking may replace is that of the cheaper one.  False if
 * the members are going to be ranked at once, which a bitmap scan and a sort do as well.
 */
bool
AnnCostAnnScan(PlannerInfo *root, RelOptInfo *rel, const AnnOrder *order, const IndexPath *search,
			   const BitmapHeapPath *members, const BitmapHeapPath *other, bool distance_read,
			   AnnScanPlan *plan, Path *path)
{
	AnnScanCosts *costs = &plan->costs;
	double		tuples = Max(rel->tuples, 1);
	double		wanted;
	QualCost	distance;
	Cost		row;
	Cost		fetch;

	cost_qual_eval_node(&distance, (Node *) order->distance, root);
	AnnDescribeSearch(root, order->index, &costs->search);
	AnnCopyDisabledNodes(path, &search->path);
	path->rows = search->path.rows;
	wanted = plan->limit > 0 ? Min(plan->limit, path->rows) : path->rows;

	/*
	 * Of a row that is returned, what the index has not paid for.  Every path is charged a distance later; an
	 * index that leaves nothing to recheck has it.
	 */
	fetch = pageCost(root, rel, order, ANN_PAGE_OPS);
	row = cpu_tuple_cost + ROW_OPS * cpu_operator_cost -
		(distance_read && costs->search.rechecks > 0 ? 0 : distance.per_tuple);

	if (members == NULL && order->included == NIL)
	{
		double		seen = wanted * tuples / Max(path->rows, 1);
		double		in_range = AnnRangeShare(root, order) * costs->search.rows;

		plan->search_limit = plan->limit;
		path->startup_cost = AnnCostOfRows(&costs->search, 0);
		if (order->ranges != NIL)
		{
			/* A range ends the scan. */
			seen = Min(seen, in_range * RANGE_EXCESS);
			in_range = Min(in_range, RANGE_MOST_WANTED);
			plan->search_limit = plan->limit > 0 ? Min(plan->limit * tuples / Max(path->rows, 1), in_range) : in_range;
			path->total_cost = AnnCostOfRows(&costs->search, seen) +
				seen * (fetch + cpu_tuple_cost + rel->baserestrictcost.per_tuple);
			path->total_cost = path->startup_cost +
				(path->total_cost - path->startup_cost) * path->rows / Max(wanted, 1) + path->rows * Max(row, 0);
		}
		else if (plan->limit > 0 && rel->baserestrictinfo == NIL)
		{
			/* The scan knows how many rows it has to find. */
			Cost		expected = AnnCostOfSearch(&costs->search, wanted, 1) + wanted * fetch;

			path->total_cost = path->startup_cost + path->rows * ((expected - path->startup_cost) / wanted + row);
		}
		else if (plan->limit > 0)
		{
			Cost		filter = pageCost(root, rel, order, FETCH_OPS) + cpu_tuple_cost + rel->baserestrictcost.per_tuple;
			Cost		expected = AnnCostOfRows(&costs->search, seen) + seen * filter;
			Cost		rank = rankTableCost(rel, path->rows, distance.per_tuple);

			/* Rows without a distance that come first are returned before it is known how far the search has to go. */
			if (list_length(AnnOrderParts(order)) == 1)
			{
				Cost		instead = rank;

				/* What a search in vain is measured by is what could have been planned; but the table is ranked then. */
				if (other != NULL)
					instead = Min(instead, OTHER_SHARE * (AnnCostBitmapScan(root, rel, order, other)->path.total_cost +
														  path->rows * distance.per_tuple));
				costs->table_work = Max(maxWork(costs, expected, instead, (filter + costs->search.row) / costs->search.per_row), 1);
				costs->table_rows = Min(surprisingRows(seen, plan->limit), rank / filter);
				plan->search_limit = seen;
				expected = Min(expected + (rank > FEARED_LOSS * instead ? FEARED_FILTERS : FAR_FILTERS) * rank, TRIED_RANK * rank);
			}
			path->startup_cost = expected;
			path->total_cost = path->startup_cost + path->rows * Max(row, 0);
		}
		else
			path->total_cost = Max(search->path.total_cost + path->rows * (row - cpu_tuple_cost), path->startup_cost);
	}
	else if (members == NULL)
	{
		Selectivity share = clauselist_selectivity(root, order->included, 0, JOIN_INNER, NULL);
		double		count = Max(share * costs->search.rows, 1);
		double		taken = wanted * Max(count / Max(path->rows, 1), 1);
		Cost		expected = AnnCostOfSearch(&costs->search, costs->search.rows, 1);
		Cost		plain;

		plan->search_limit = plan->limit * Max(count / Max(path->rows, 1), 1);
		costs->passing = share;
		if (plan->limit > 0)
			expected = Min(expected, AnnCostOfSearch(&costs->search, UNHINTED_WORK * taken, share));
		expected = orCards(root, order, &costs->search, plan->limit > 0 ? taken : count, share, expected) + cpu_operator_cost * INCLUDE_OPS;
		row = Max(fetch + row, cpu_tuple_cost);
		/* A scan that tests what comes out goes through the same rows, and returns more of them. */
		plain = search->path.startup_cost +
			(search->path.total_cost - search->path.startup_cost) * wanted / Max(path->rows, 1);
		path->startup_cost = Max(Min(expected, PLAIN_SHARE * plain - wanted * row), cpu_operator_cost * INCLUDE_OPS);
		path->total_cost = path->startup_cost + path->rows * row;
	}
	else
	{
		Cost		bitmap;
		Cost		rank;
		Cost		expected;
		Selectivity share;
		double		count;
		double		taken;
		double		refused;
		bool		at_once;

		cost_bitmap_tree_node(members->bitmapqual, &bitmap, &share);
		count = Max(share * tuples, 1);
		costs->passing = clauselist_selectivity(root, order->included, 0, JOIN_INNER, NULL);
		/* Members and what else passes in the index, for each row that passes all. */
		refused = Max(count * costs->passing / Max(path->rows, 1), 1);
		taken = wanted * refused;
		plan->search_limit = plan->limit * refused;
		/* The other conditions come before the distance. */
		costs->rank = rankCost(root, rel, order, count, distance.per_tuple * Min(path->rows / count, 1));
		rank = count * costs->rank;
		expected = orCards(root, order, &costs->search, taken, share * costs->passing,
						   AnnCostOfSearch(&costs->search, taken, share * costs->passing)) + taken * fetch;
		at_once = AnnMaxWork(plan, count) <= 0;
		path->startup_cost = bitmap + count * MEMBER_OPS * cpu_operator_cost +
			(at_once ? rank : Min(TRIED_RANK * rank, expected + FAR_FILTERS * rank));
		path->total_cost = path->startup_cost + path->rows * Max(row, 0);
		return !at_once;
	}
	return true;
}

/*
 * A bitmap scan of the table that is going to be sorted by distance, for where AnnScan would
 * do the same: its pages are priced as AnnScan's are, so that the two compare.
 */
BitmapHeapPath *
AnnCostBitmapScan(PlannerInfo *root, RelOptInfo *rel, const AnnOrder *order, const BitmapHeapPath *members)
{
	BitmapHeapPath *path = makeNode(BitmapHeapPath);
	Cost		bitmap;
	Selectivity share;
	double		count;

	*path = *members;
	path->path.parent = rel;
	cost_bitmap_tree_node(members->bitmapqual, &bitmap, &share);
	count = Max(share * Max(rel->tuples, 1), 1);
	path->path.startup_cost = bitmap;
	path->path.total_cost = Min(members->path.total_cost, bitmap +
								pagesOfRows(rel, count) * pageCost(root, rel, order, BITMAP_PAGE_OPS) +
								count * (cpu_tuple_cost + rel->baserestrictcost.per_tuple));
	return path;
}

/*
 * A plain scan of another index that is going to be sorted by distance; `index` is its own of the
 * relation.  Each row is a page that is touched, but none that has to be read if it is in the cache.
 */
IndexPath *
AnnCostPlainScan(PlannerInfo *root, RelOptInfo *rel, const AnnOrder *order, const IndexPath *scan, IndexOptInfo *index)
{
	IndexPath  *path = makeNode(IndexPath);
	double		count = Max(scan->indexselectivity * Max(rel->tuples, 1), 1);

	*path = *scan;
	path->path.parent = rel;
	path->indexinfo = index;
	path->path.total_cost = Min(scan->path.total_cost, scan->indextotalcost +
								count * (pageCost(root, rel, order, FETCH_OPS) + cpu_tuple_cost +
										 rel->baserestrictcost.per_tuple));
	path->path.startup_cost = Min(scan->path.startup_cost, path->path.total_cost);
	return path;
}

/* Units of work after which a search for some of so many members is to be given up; 0: they are better ranked at once. */
double
AnnMaxWork(const AnnScanPlan *plan, double members)
{
	const AnnScanCosts *costs = &plan->costs;
	Cost		rank = members * costs->rank;

	if (plan->search_limit <= 0 || members * costs->passing <= plan->search_limit)
		return 0;
	return maxWork(costs, AnnCostOfSearch(&costs->search, plan->search_limit, members * costs->passing / Max(costs->search.rows, 1)), rank, 0);
}
