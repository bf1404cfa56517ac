/*
 * annscan_cost.c
 *	  What an AnnScan costs, and what it decides by those costs while it runs.
 */
#include "postgres.h"

#include <math.h>

#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "utils/float.h"
#include "utils/spccache.h"

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

/* The visible version of a row on a page of the table that nothing has been read of; what a bitmap's page costs more. */
#define FETCH_OPS 50.0
#define BITMAP_PAGE_OPS 50.0

/*
 * What the first costs more, as a share, where so many pages are touched that the CPU's caches have room for none; and of how
 * many it is half of that.  A distance of so many operations reads its vector from pages of its own.
 */
#define COLD_SHARE 2.5
#define COLD_PAGES 600.0
#define APART_OPS 100.0

/* A page of a sequential scan, and a row on it beside cpu_tuple_cost. */
#define SEQUENTIAL_PAGE_OPS 200.0
#define SEQUENTIAL_ROW_OPS 5.0

/* A row that is sorted by its distance, for the nearest ones; a row that is ranked, beside its page and its distance; a member of a bitmap. */
#define SORT_OPS 20.0
#define RANK_OPS 20.0
#define MEMBER_OPS 16.0

/*
 * A search of members that has taken so many times what was expected of it is not going to end soon. It is
 * made if it is expected to cost this share of the ranking at the most, and given up if it has met
 * a small share of the members by the time that it should have met so many.
 */
#define PATIENCE 2.0
#define MOST_SHARE 0.8
#define EXPECTED_MEMBERS 12.0
#define MISSED_SHARE 0.25

/*
 * Where ranking the members would be cheaper than a search for them is expected to be, that is tried all the same: if the
 * filter goes with the query it ends much sooner, and nobody can know.  By so many units of work, and by this share
 * of those before the first row, so many members must have been met, and so many times what chance has.
 */
#define TRIAL_WORK 16.0
#define TRIAL_SHARE 0.25
#define TRIAL_MEMBERS 2
#define TRIAL_GAIN 4.0

/* The share of members where the filter goes with the query. */
#define NEAR_SHARE 0.5

/* How often the filter is expected to refuse what is near the query, so that the ranking is made after all. */
#define FAR_FILTERS 0.01

/*
 * How often the filter is expected to let pass what is near the query.  So much is risked for that: it may save
 * nearly all of the cost.
 */
#define NEAR_FILTERS 0.4

/*
 * A search of all rows whose filter the index does not know is judged by the rows that pass among those
 * it finds first.  So many of them, or as many as cost this share of what would be done instead, are looked at
 * before; what is expected of the filter counts as much as some rows that have passed, or so many rows if that is less.
 */
#define FIRST_LOOK 8
#define FIRST_LOOK_SHARE 0.05
#define PRIOR_PASSED 2.0
#define PRIOR_ROWS 20.0

/* A search for more than this share of the rows that pass is no use. */
#define MOST_WANTED 0.7

/* It is lost if all of it is expected to take so many times what would be done instead, and what is left this share. */
#define LOST 1.3
#define NEARLY_DONE 0.1

/* If what is left of it is expected to take this share, some more rows are looked at first, if there are to be any. */
#define DEAR 0.1

/* A search that goes through this share of the index finds what it is not told of as well. */
#define COVERING_SHARE 0.5

/* How likely a filter is taken to refuse what is near the query before any row has been looked at. */
#define FAR_DOUBT 0.1

/* The filter refuses what is near if that many rows should have passed, and fewer than this share of them has. */
#define SURPRISE_ROWS 5
#define SURPRISE_SHARE 0.2

/*
 * An index is told of all rows that are expected to be needed if that costs no more, relative to being told of the
 * wanted ones only: a filter that goes with the query needs no others.
 */
#define MOST_DEARER 1.6

/* A search is begun again, for more rows, if it is expected to take this share of what would be done instead. */
#define WORTH 0.75

/* Cost of reading a page of the table somewhere, with so much to do there; an index of so many pages is in the cache as well. */
static Cost
pageCost(PlannerInfo *root, const RelOptInfo *rel, double index_pages, double ops)
{
	return ops * cpu_operator_cost + AnnRandomPageCost(root, rel->reltablespace, index_pages);
}

/* Cost of reading a row that lies somewhere in the table, and of testing it by the filter. */
static Cost
lookAtRowCost(PlannerInfo *root, const RelOptInfo *rel, double index_pages)
{
	return pageCost(root, rel, index_pages, FETCH_OPS) + cpu_tuple_cost + rel->baserestrictcost.per_tuple;
}

/* Pages that so many rows lie on which lie anywhere in the table. */
static double
pagesOfRows(const RelOptInfo *rel, double rows)
{
	double		pages = Max(rel->pages, 1);

	return pages * (1 - exp(-rows / pages));
}

/* What each of so many rows that lie anywhere in the table costs with its distance, relative to one of few. */
static double
coldness(const RelOptInfo *rel, double rows, Cost distance)
{
	double		pages = distance >= APART_OPS * cpu_operator_cost ? rows : pagesOfRows(rel, rows);
	double		square = pages * pages;

	return 1 + COLD_SHARE * square / (square + COLD_PAGES * COLD_PAGES);
}

/* Cost of ranking one of so many members that lie anywhere in the table. */
static Cost
rankCost(PlannerInfo *root, const RelOptInfo *rel, const AnnOrder *order, double members, Cost distance)
{
	/* Members are read in the table's order, each page once. */
	return coldness(rel, members, distance) *
		(pagesOfRows(rel, members) / members * pageCost(root, rel, order->index->pages, FETCH_OPS) + distance + cpu_tuple_cost +
		 rel->baserestrictcost.per_tuple + RANK_OPS * cpu_operator_cost);
}

/* Cost of reading all rows of the table and testing them by the filter. */
static Cost
tableCost(PlannerInfo *root, const RelOptInfo *rel, double index_pages)
{
	double		page_cost;

	get_tablespace_page_costs(rel->reltablespace, NULL, &page_cost);
	return rel->pages * (SEQUENTIAL_PAGE_OPS * cpu_operator_cost + page_cost * AnnUncachedShare(root, index_pages)) +
		rel->tuples * (SEQUENTIAL_ROW_OPS * cpu_operator_cost + cpu_tuple_cost + rel->baserestrictcost.per_tuple) +
		rel->baserestrictcost.startup;
}

/* Units of work that cost so much. */
static double
workFor(const AnnSearchCost *search, Cost budget)
{
	return AnnWorkForCost(search, Max(budget - search->start, 0));
}

/* Rows that the index finds for the cost of the first one. */
static double
firstRows(const AnnSearchCost *search)
{
	return search->first / Max(search->per_wanted, 1);
}

/* Cost of a search of all rows that is told to find so many and tests by the filter those that are looked at. */
static Cost
lookCost(const AnnScanCosts *costs, double told, double looked_at)
{
	return AnnCostOfSearch(&costs->search, told, 1) + (looked_at - told) * costs->search.row + looked_at * costs->look;
}

/* How many rows a search is told to find that is expected to need so many. */
static double
widened(const AnnScanCosts *costs, double needed)
{
	return needed * costs->search.told;
}

/* What each further row costs in a search that goes on. */
static Cost
moreCost(const AnnScanCosts *costs)
{
	return costs->search.per_row * costs->search.work + costs->search.row + costs->look;
}

/* How many rows a search that is expected to need so many is told to find at first. */
static double
firstTold(const AnnScanCosts *costs, double wanted, double needed)
{
	double		few = Max(wanted * costs->search.told_first, firstRows(&costs->search));
	double		all = widened(costs, needed);

	return needed <= few || lookCost(costs, all, needed) <= MOST_DEARER * lookCost(costs, few, few) ? all : few;
}

/* How many rows a search that was told to find so many finds as they should be. */
static double
foundWell(const AnnScanCosts *costs, double told)
{
	return Max(told, firstRows(&costs->search));
}

/* Whether so many rows are too many for a search that was told to find others. */
static bool
isTooMany(const AnnScanCosts *costs, double told, double needed)
{
	return needed > costs->search.goes_on * foundWell(costs, told) &&
		AnnWorkOfSearch(&costs->search, told) < COVERING_SHARE * costs->search.rows;
}

/*
 * Cost of a search of all rows that is expected to need so many; *first is set to that of its beginning, by
 * which it is known what the filter has to do with the query.
 */
static Cost
filteredSearchCost(const AnnScanCosts *costs, double wanted, double needed, Cost *first)
{
	double		told = firstTold(costs, wanted, needed);
	double		found_well = foundWell(costs, told);

	*first = lookCost(costs, told, Min(needed, found_well));
	if (!isTooMany(costs, told, needed))
		return *first + Max(needed - found_well, 0) * moreCost(costs);
	return *first + lookCost(costs, widened(costs, needed), needed);
}

/*
 * Cost of the cheapest way without order that the relation has by now to those of its rows that pass, and of
 * sorting them by the distance.
 */
static Cost
sortCost(const RelOptInfo *rel, Cost distance)
{
	Cost		least = get_float8_infinity();
	ListCell   *lc;

	foreach(lc, rel->pathlist)
	{
		const Path *path = lfirst(lc);

		if (path->pathkeys == NIL && bms_equal(PATH_REQ_OUTER(path), rel->lateral_relids))
			least = Min(least, path->total_cost + path->rows * (distance + SORT_OPS * cpu_operator_cost));
	}
	return least;
}

/*
 * Prices a search of all rows whose filter the index does not know, for so many rows of a plan
 * with a limit.  What is done if it is lost costs `instead`, by itself or as what else there
 * is.  False if it is no better.
 */
static bool
costFilteredSearch(AnnScanCosts *costs, double wanted, Cost instead, Cost *price)
{
	Cost		first;
	Cost		all = filteredSearchCost(costs, wanted, wanted / costs->share, &first);
	Cost		try = lookCost(costs, FIRST_LOOK, FIRST_LOOK);

	/* Where too few rows pass the search ends only when it has seen all. */
	if (wanted >= MOST_WANTED * costs->share * costs->search.rows)
	{
		costs->first_look = FIRST_LOOK;
		*price = try + instead;
		return false;
	}
	costs->first_look = FIRST_LOOK + floor(FIRST_LOOK_SHARE * instead / moreCost(costs));
	try = Min(first, try + FIRST_LOOK_SHARE * instead);
	*price = NEAR_FILTERS * first + (1 - NEAR_FILTERS) * Min(all + FAR_FILTERS * instead, try + instead);
	return *price < instead;
}

/*
 * How a search for so many of some members is made, whose ranking costs `rank`: the most it may take, in units of
 * work, 0 if it is better left; whether it is a trial; its price, with that of the ranking. Late members are
 * not near ones, which would have been found before.
 */
static double
memberSearch(const AnnScanPlan *plan, double wanted, double members, bool *trial, Cost *price)
{
	const AnnScanCosts *costs = &plan->costs;
	const AnnSearchCost *search = &costs->search;
	double		count = members * costs->passing;
	Cost		rank = members * costs->rank;
	Cost		expected = AnnCostOfSearch(search, wanted, count / Max(search->rows, 1)) + wanted * costs->fetch;
	Cost		near = AnnCostOfSearch(search, wanted, NEAR_SHARE) + wanted * costs->fetch;
	Cost		try = search->start + search->work * Max(TRIAL_WORK, TRIAL_SHARE * search->first);

	if (costs->cards > 0)
		expected = Min(expected, costs->cards + wanted * costs->fetch);
	*trial = expected >= MOST_SHARE * rank;
	*price = rank;
	if (!*trial)
	{
		*price = expected + FAR_FILTERS * rank;
		return workFor(search, Min(rank, PATIENCE * expected));
	}
	if (plan->late_members || count <= wanted || NEAR_FILTERS * near + (1 - NEAR_FILTERS) * (try + rank) >= rank)
		return 0;
	*price = Min(NEAR_FILTERS * near + (1 - NEAR_FILTERS) * (try + rank), expected + FAR_FILTERS * rank);
	return workFor(search, Max(MOST_SHARE * rank, near));
}

/*
 * The cost of finding so many rows among the share of the index's that passes by testing the
 * conditions on included columns before rows are visited: of all rows, or of those that a
 * condition on the first column leaves; 0: there is no such way.
 */
static Cost
cardCost(PlannerInfo *root, const AnnOrder *order, const AnnSearchCost *search, double rows, double share)
{
	double		tested = search->rows;
	double		visited = Min(search->rows * share, search->card_visits * Max(rows, 1));
	ListCell   *lc;

	if (search->card_work <= 0 || order->included == NIL)
		return 0;
	foreach(lc, order->included)
		if (AnnIncludeIsKeyed(root, order->index, list_make1(lfirst(lc))))
			tested = Min(tested, search->rows * clause_selectivity(root, lfirst(lc), 0, JOIN_INNER, NULL));
	return search->start + search->work * (search->card_work * tested + visited);
}

/*
 * Sets rows and costs of the path and, in the plan, what is decided by at run
 * time.  `search` is the plain index path, `members` NULL or the path of the
 * bitmap that restricts the search, at once or, with plan->late_members, when a search of all rows is
 * lost; distance_read says that somebody reads true distances.
 *
 * The price of a search that ranking may replace is that of the cheaper one.  False if
 * the members are going to be ranked at once, which a bitmap scan and a sort do as well, or the search for late
 * members is no use.
 */
bool
AnnCostAnnScan(PlannerInfo *root, RelOptInfo *rel, const AnnOrder *order, const IndexPath *search,
			   const BitmapHeapPath *members, bool distance_read, AnnScanPlan *plan, Path *path)
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
	fetch = pageCost(root, rel, order->index->pages, ANN_PAGE_OPS);
	row = cpu_tuple_cost + ROW_OPS * cpu_operator_cost -
		(distance_read && costs->search.rechecks > 0 ? 0 : distance.per_tuple);

	costs->look = lookAtRowCost(root, rel, order->index->pages);
	costs->share = Min(Max(path->rows, 1) / tuples, 1);

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
			Cost		first;
			Cost		expected = filteredSearchCost(costs, wanted, seen, &first);

			/* Rows without a distance that come first are returned before it is known how far the search has to go. */
			if (list_length(AnnOrderParts(order)) == 1)
			{
				costs->other = tableCost(root, rel, order->index->pages) +
					path->rows * (distance.per_tuple + RANK_OPS * cpu_operator_cost);
				costFilteredSearch(costs, wanted, costs->other, &expected);
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
		costs->cards = cardCost(root, order, &costs->search, plan->limit > 0 ? taken : count, share);
		if (costs->cards > 0)
			expected = Min(expected, costs->cards);
		expected += cpu_operator_cost * INCLUDE_OPS;
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
		Selectivity share;
		double		count;
		double		taken;
		double		refused;
		bool		trial;
		bool		useful;
		Cost		price;

		cost_bitmap_tree_node(members->bitmapqual, &bitmap, &share);
		count = Max(share * tuples, 1);
		costs->passing = clauselist_selectivity(root, order->included, 0, JOIN_INNER, NULL);
		/* Members and what else passes in the index, for each row that passes all. */
		refused = Max(count * costs->passing / Max(path->rows, 1), 1);
		taken = wanted * refused;
		plan->search_limit = plan->limit * refused;
		/* The other conditions come before the distance. */
		costs->rank = rankCost(root, rel, order, count, distance.per_tuple * Min(path->rows / count, 1));
		costs->cards = cardCost(root, order, &costs->search, taken, share * costs->passing);
		costs->fetch = fetch;
		useful = memberSearch(plan, taken, count, &trial, &price) > 0 && plan->search_limit > 0;
		if (!useful)
			price = count * costs->rank;
		price += bitmap + count * MEMBER_OPS * cpu_operator_cost;
		if (plan->late_members)
		{
			costs->other = price;
			useful = costFilteredSearch(costs, wanted, Min(price, sortCost(rel, distance.per_tuple)), &price);
		}
		path->startup_cost = price;
		path->total_cost = path->startup_cost + path->rows * Max(row, 0);
		return useful;
	}
	return true;
}

/*
 * A bitmap scan of the table that is going to be sorted by distance, for where AnnScan would
 * do the same: its pages are priced as AnnScan's are, so that the two compare.
 */
BitmapHeapPath *
AnnCostBitmapScan(PlannerInfo *root, RelOptInfo *rel, double index_pages, Cost distance, const BitmapHeapPath *members)
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
								pagesOfRows(rel, count) * BITMAP_PAGE_OPS * cpu_operator_cost +
								coldness(rel, count, distance) *
								(pagesOfRows(rel, count) * pageCost(root, rel, index_pages, FETCH_OPS) +
								 count * (cpu_tuple_cost + rel->baserestrictcost.per_tuple)) +
								(coldness(rel, count, distance) - 1) * path->path.rows * distance);
	return path;
}

/* Likewise a sequential scan. */
Path *
AnnCostSeqScan(PlannerInfo *root, RelOptInfo *rel, double index_pages, const Path *scan)
{
	Path	   *path = makeNode(Path);

	*path = *scan;
	path->total_cost = Min(scan->total_cost, tableCost(root, rel, index_pages));
	path->startup_cost = Min(scan->startup_cost, path->total_cost);
	return path;
}

/*
 * A plain scan of another index that is going to be sorted by distance; `index` is its own of the
 * relation.  Each row is a page that is touched, but none that has to be read if it is in the cache.
 */
IndexPath *
AnnCostPlainScan(PlannerInfo *root, RelOptInfo *rel, double index_pages, Cost distance, const IndexPath *scan,
				 IndexOptInfo *index)
{
	IndexPath  *path = makeNode(IndexPath);
	double		count = Max(scan->indexselectivity * Max(rel->tuples, 1), 1);

	*path = *scan;
	path->path.parent = rel;
	path->indexinfo = index;
	path->path.total_cost = Min(scan->path.total_cost, scan->indextotalcost +
								coldness(rel, count, distance) * count * lookAtRowCost(root, rel, index_pages) +
								(coldness(rel, count, distance) - 1) * path->path.rows * distance);
	path->path.startup_cost = Min(scan->path.startup_cost, path->path.total_cost);
	return path;
}

/*
 * Units of work after which a search for some of so many members is to be given up; 0: they are better ranked at
 * once.  *limits says that it is to be given up from so much work on unless it has found so many.
 */
double
AnnMaxWork(const AnnScanPlan *plan, double members, AnnScanTrial *limits)
{
	const AnnScanCosts *costs = &plan->costs;
	bool		is_trial = false;
	Cost		price;
	double		chance = Max(members * costs->passing, 1) / Max(costs->search.rows, 1);
	double		work = plan->search_limit > 0 ? memberSearch(plan, plan->search_limit, members, &is_trial, &price) : 0;

	if (is_trial)
	{
		limits->work = Max(TRIAL_WORK, TRIAL_SHARE * costs->search.first);
		limits->members = TRIAL_MEMBERS;
		limits->rate = TRIAL_GAIN * chance;
	}
	else
	{
		limits->work = EXPECTED_MEMBERS / chance;
		limits->members = 0;
		limits->rate = MISSED_SHARE * chance;
	}
	return work;
}

/* How many rows a search of all rows is told to find at first, because of a filter that the index does not know. */
double
AnnFirstTold(const AnnScanPlan *plan)
{
	return firstTold(&plan->costs, plan->limit, plan->limit / plan->costs.share);
}

/* Units of work after which such a search is to be given up, when others before have cost so much; 0: never. */
double
AnnMaxWorkOfAll(const AnnScanPlan *plan, Cost spent)
{
	const AnnScanCosts *costs = &plan->costs;

	return costs->other > 0 ? Max(workFor(&costs->search, LOST * costs->other - spent), 1) : 0;
}

/* Whether so few of the rows that it has looked at have passed that the filter must refuse what is near the query. */
bool
AnnFilterSurprises(const AnnScanPlan *plan, double looked_at, double passed)
{
	double		expected = looked_at * plan->costs.share;

	return expected >= SURPRISE_ROWS && passed < SURPRISE_SHARE * expected;
}

/*
 * The share of the rows that pass, by those that have.  What is expected counts as some that have passed; if more pass
 * than expected the filter goes with the query, and it counts as no more than so many rows.
 */
static double
shareThatPasses(const AnnScanCosts *costs, double looked_at, double passed)
{
	double		most = PRIOR_PASSED / costs->share;
	double		less = Min(most, PRIOR_ROWS);

	return Max((passed + most * costs->share) / (looked_at + most), (passed + less * costs->share) / (looked_at + less));
}

/*
 * How likely the filter has nothing to do with the query, or goes with it, by the rows that have passed: by the
 * probability of so few, if it refuses none in particular, over that where the share among them is the true one.
 */
static double
trust(const AnnScanCosts *costs, double looked_at, double passed)
{
	double		expected = looked_at * costs->share;
	double		ratio = 1;

	if (passed < expected)
		ratio = exp(passed - expected + (passed > 0 ? passed * log(expected / passed) : 0));
	return ratio * (1 - FAR_DOUBT) / (ratio * (1 - FAR_DOUBT) + FAR_DOUBT);
}

/*
 * What is to become of a search that was told to find so many rows, by those it has looked at.  Where it is to be
 * made again, *told is set to how many it is told then, and what has been spent is added to *spent.
 */
AnnSearchVerdict
AnnJudgeSearch(const AnnScanPlan *plan, double looked_at, double passed, double *told, Cost *spent)
{
	const AnnScanCosts *costs = &plan->costs;
	double		found_well = foundWell(costs, *told);
	double		needed;
	Cost		so_far;
	Cost		rest;
	bool		widen;

	if (looked_at < FIRST_LOOK)
		return ANN_SEARCH_GOES_ON;
	if (costs->other > 0 && AnnFilterSurprises(plan, looked_at, passed))
		return ANN_SEARCH_IS_LOST;
	needed = looked_at + Max(plan->limit - passed, 0) / shareThatPasses(costs, looked_at, passed);
	widen = isTooMany(costs, *told, needed);
	if (looked_at < (widen ? Min(found_well, costs->first_look) : costs->first_look))
		return ANN_SEARCH_GOES_ON;
	so_far = lookCost(costs, *told, Min(looked_at, found_well)) + Max(looked_at - found_well, 0) * moreCost(costs);
	if (widen)
		rest = lookCost(costs, widened(costs, needed), needed);
	else
		rest = (needed - looked_at) * (costs->search.row + costs->look) +
			Max(needed - Max(looked_at, found_well), 0) * costs->search.per_row * costs->search.work;
	/* Before much is spent some rows more may tell that the filter goes with the query. */
	if (costs->other > 0 && rest > DEAR * costs->other && widen && costs->first_look >= 2 * found_well)
		needed = costs->first_look / costs->search.told;
	else if (costs->other > 0 && rest > NEARLY_DONE * costs->other &&
			 (*spent + so_far + rest > LOST * costs->other ||
			  rest > (widen ? WORTH : 1) * trust(costs, looked_at, passed) * costs->other))
		return ANN_SEARCH_IS_LOST;
	if (!widen || looked_at < found_well)
		return ANN_SEARCH_GOES_ON;
	*told = widened(costs, needed);
	*spent += so_far;
	return ANN_SEARCH_AGAIN;
}
