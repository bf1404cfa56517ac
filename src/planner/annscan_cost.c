/*
 * annscan_cost.c
 *	  What an AnnScan costs, and what it decides by those costs while it runs.
 */
#include "postgres.h"

#include <math.h>

#include "commands/defrem.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "utils/spccache.h"

#include "compat.h"
#include "planner/annscan.h"
#include "planner/annscan_include.h"

/* What AnnScan's own handling of a row costs more than a plain index scan's, in cpu_operator_costs. */
#define ROW_OPS 40.0

/* Cost of a unit of work, in cpu_tuple_costs: an hnsw row visited, an ivfflat entry scored. */
#define HNSW_WORK 15.0
#define IVFFLAT_WORK 1.0

/*
 * How much farther than its range a search goes, and the most rows in a range that a search
 * looks for at once.
 */
#define RANGE_EXCESS 1.3
#define RANGE_MOST_WANTED 1000.0

/* Rows visited for a row that passes a test of included columns, beside one whose edges tell: they do not. */
#define UNHINTED_WORK 1.6

/*
 * A row of a chain of equal first included columns (hnsw), in units of work; preparing the
 * search; what a search costs at the most of one that tests nothing.
 */
#define CHAIN_WORK 0.5
#define INCLUDE_OPS 500.0
#define PLAIN_SHARE 0.95

/* The least that a search does. */
#define LEAST_WORK 10.0

static double
searchWork(const AnnScanCosts *costs, double wanted, double members)
{
	double		share = Max(members, 1) / Max(costs->rows, 1);

	return Min(costs->beam + wanted / Min(share, 1), costs->rows);
}

/*
 * Sets rows and costs of the path and, in the plan, what is decided by at run
 * time.  `search` is the plain index path, `members` NULL or the path of the
 * bitmap that restricts the search; distance_read says that somebody reads true
 * distances.
 */
void
AnnCostAnnScan(PlannerInfo *root, RelOptInfo *rel, const AnnOrder *order, const IndexPath *search,
			   const BitmapHeapPath *members, bool distance_read, AnnScanPlan *plan, Path *path)
{
	AnnScanCosts *costs = &plan->costs;
	bool		is_hnsw = strcmp(get_am_name(order->index->relam), "hnsw") == 0;
	QualCost	distance;
	double		saved;

	cost_qual_eval_node(&distance, (Node *) order->distance, root);
	saved = distance_read ? 0 : distance.per_tuple;
	saved -= ROW_OPS * cpu_operator_cost;

	path->rows = search->path.rows;
	costs->rows = Max(order->index->tuples, 1);
	costs->work = cpu_tuple_cost * (is_hnsw ? HNSW_WORK : IVFFLAT_WORK);
	costs->beam = Max(search->path.startup_cost / costs->work, LEAST_WORK);
	costs->rank = cpu_tuple_cost + distance.per_tuple;
	plan->search_limit = plan->limit * Max(rel->tuples, 1) / Max(path->rows, 1);
	AnnCopyDisabledNodes(path, &search->path);

	if (members == NULL && order->included != NIL)
	{
		Selectivity share = clauselist_selectivity(root, order->included, 0, JOIN_INNER, NULL);
		double		count = Max(share * costs->rows, 1);
		double		wanted = plan->limit > 0 ? Min(plan->limit, path->rows) : path->rows;
		double		work = costs->rows;
		Cost		row;
		Cost		plain;

		plan->search_limit = plan->limit * Max(count / Max(path->rows, 1), 1);
		if (plan->limit > 0)
			work = Min(work, searchWork(costs, UNHINTED_WORK * wanted * count / Max(path->rows, 1), count));
		if (is_hnsw && AnnIncludeIsKeyed(root, order->index, order->included))
			work = Min(work, CHAIN_WORK * count);
		row = Max(search->path.total_cost / Max(costs->rows, 1) - saved, cpu_tuple_cost);
		/* A scan that tests what comes out goes through the same rows, and returns more of them. */
		plain = search->path.startup_cost +
			(search->path.total_cost - search->path.startup_cost) * wanted / Max(path->rows, 1);
		path->startup_cost = Min(work * costs->work + cpu_operator_cost * INCLUDE_OPS, PLAIN_SHARE * plain - wanted * row);
		path->startup_cost = Max(path->startup_cost, cpu_operator_cost * INCLUDE_OPS);
		path->total_cost = path->startup_cost + path->rows * row;
	}
	else if (members == NULL)
	{
		double		share = AnnRangeShare(root, order);

		path->startup_cost = search->path.startup_cost;
		/* A range ends the scan. */
		path->total_cost = path->startup_cost +
			(search->path.total_cost - path->startup_cost) * Min(share * RANGE_EXCESS, 1);
		path->total_cost = Max(path->total_cost - path->rows * saved, path->startup_cost);
		if (order->ranges != NIL)
		{
			double		within = Min(share * costs->rows, RANGE_MOST_WANTED);

			plan->search_limit = plan->limit > 0 ? Min(plan->search_limit, within) : within;
		}
	}
	else
	{
		double		random_page;
		double		count;
		double		wanted;
		Cost		bitmap;
		Selectivity selectivity;
		Cost		rank;
		Cost		by_search;

		cost_bitmap_tree_node(members->bitmapqual, &bitmap, &selectivity);
		count = Max(selectivity * rel->tuples, 1);
		wanted = plan->limit > 0 ? Min(plan->limit, path->rows) : path->rows;
		plan->search_limit = plan->limit * Max(count / Max(path->rows, 1), 1);
		rank = members->path.total_cost - bitmap + count * distance.per_tuple;
		costs->rank = Max(rank / count, costs->rank);
		get_tablespace_page_costs(order->index->reltablespace, &random_page, NULL);
		by_search = searchWork(costs, wanted * count / Max(path->rows, 1), count) * costs->work +
			wanted * random_page;
		path->startup_cost = bitmap + count * cpu_operator_cost + Min(rank, by_search);
		if (plan->limit <= 0)
			path->startup_cost = bitmap + count * cpu_operator_cost + rank;
		path->total_cost = path->startup_cost + path->rows * Max(cpu_tuple_cost - saved, 0);
	}
}

/* Whether ranking so many members costs no more than searching for those that are wanted. */
bool
AnnRankAtOnce(const AnnScanPlan *plan, double members)
{
	const AnnScanCosts *costs = &plan->costs;
	double		wanted = plan->search_limit > 0 ? plan->search_limit : members;

	return members * costs->rank <= searchWork(costs, Min(wanted, members), members) * costs->work;
}

/* Units of work after which ranking so many members would have been no dearer. */
double
AnnMaxWork(const AnnScanPlan *plan, double members)
{
	return Max(members * plan->costs.rank / plan->costs.work, 1);
}
