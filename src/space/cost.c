/*
 * cost.c
 *	  What a scan of an index costs.
 */
#include "postgres.h"

#include <math.h>

#include "nodes/bitmapset.h"
#include "utils/float.h"
#include "utils/spccache.h"

#include "compat.h"
#include "space/cost.h"

/* Units of work by which a search has spread half as far as it makes a difference. */
#define SPREAD_WORK 300.0

/* Share of returned rows whose interval overlaps the next one's, by the form of the stored vectors. */
#define RECHECKS_HALF 0.15
#define RECHECKS_SQ8 1.0

/* A search of all rows fails for the filter that refuses those near the query; this is how often it is expected to. */
#define FAR_FILTERS 0.05

/* The access methods, by their callbacks. */
static struct
{
	amcostestimate_function estimate;
	AnnSearchCostFunction describe;
	AnnReadableFunction readable;
}			registered[2];

void
AnnRegisterSearchCost(amcostestimate_function estimate, AnnSearchCostFunction describe, AnnReadableFunction readable)
{
	int			i = 0;

	while (registered[i].estimate != NULL)
		if (++i == lengthof(registered))
			elog(ERROR, "too many access methods");
	registered[i].estimate = estimate;
	registered[i].describe = describe;
	registered[i].readable = readable;
}

/* The number of the index's access method among those registered; -1 if it is none of ours. */
static int
methodOf(const IndexOptInfo *index)
{
	for (int i = 0; i < lengthof(registered); i++)
		if (registered[i].estimate != NULL && (void (*) (void)) registered[i].estimate == (void (*) (void)) index->amcostestimate)
			return i;
	return -1;
}

/* Fills in *cost for an index of one of our access methods. */
void
AnnDescribeSearch(PlannerInfo *root, const IndexOptInfo *index, AnnSearchCost *cost)
{
	int			method = methodOf(index);

	if (method < 0)
		elog(ERROR, "index %u is none of ours", index->indexoid);
	registered[method].describe(root, index, cost);
}

/* False for an index of one of our access methods, of a format that this library does not read; warns then. */
bool
AnnIndexIsReadable(const IndexOptInfo *index)
{
	int			method = methodOf(index);
	Relation	relation;
	bool		readable;

	if (method < 0 || index->hypothetical)
		return true;
	relation = index_open(index->indexoid, NoLock);
	readable = registered[method].readable(relation);
	index_close(relation, NoLock);
	return readable;
}

/* Share of the pages of the query's tables, and more_pages, that the cache has no room for. */
double
AnnUncachedShare(PlannerInfo *root, double more_pages)
{
	double		pages = Max(root->total_table_pages, 0) + more_pages;

	return pages > effective_cache_size ? 1 - effective_cache_size / pages : 0;
}

/*
 * Cost of reading one page somewhere, beside the CPU's: what is larger than the
 * cache has to be read, in the proportion that the tables of the query and
 * more_pages exceed it.
 */
Cost
AnnRandomPageCost(PlannerInfo *root, Oid tablespace, double more_pages)
{
	double		random_page;

	get_tablespace_page_costs(tablespace, &random_page, NULL);
	return random_page * AnnUncachedShare(root, more_pages);
}

double
AnnFormRechecks(AnnRefineForm form)
{
	switch (form)
	{
		case ANN_REFINE_FULL:
			return 0;
		case ANN_REFINE_HALF:
			return RECHECKS_HALF;
		case ANN_REFINE_SQ8:
			return RECHECKS_SQ8;
	}
	return 0;
}

/*
 * How many rows the query is going to take from an index of the relation with
 * so many rows: those of its LIMIT, and those that its other clauses refuse
 * before.  0 if that is not known.
 */
static double
rowsWanted(PlannerInfo *root, const RelOptInfo *rel, double index_rows)
{
	double		share;

	/* The limit of a join says nothing about one of its tables. */
	if (root->limit_tuples <= 0 || bms_membership(root->all_baserels) != BMS_SINGLETON)
		return 0;
	share = rel->tuples > 0 ? rel->rows / rel->tuples : 1;
	share = Min(1, Max(share, 1 / Max(index_rows, 1)));
	return Min(index_rows, root->limit_tuples / share);
}

/* The more a search goes through, the less of what it uses is in the CPU's caches. */
static Cost
costOfWork(const AnnSearchCost *cost, double work)
{
	return cost->work * work * (1 + cost->spread * work / (work + SPREAD_WORK));
}

/* Units of work that cost so much: the inverse of costOfWork, a quadratic equation. */
double
AnnWorkForCost(const AnnSearchCost *cost, Cost budget)
{
	double		work = budget / cost->work;
	double		difference = work - SPREAD_WORK;

	return (difference + sqrt(difference * difference + 4 * (1 + cost->spread) * work * SPREAD_WORK)) / (2 * (1 + cost->spread));
}

static Cost
costOfScan(const AnnSearchCost *cost, double rows, double work)
{
	Cost		result = cost->start + rows * cost->row;

	if (work > cost->sweep_at)
	{
		work = Max(Min(cost->first, work), cost->sweep_at);
		result += cost->sweep;
	}
	return result + costOfWork(cost, work);
}

/*
 * Cost of a scan that returns so many rows, without knowing how many there
 * will be.  Rises with them, and with each member of *cost.
 */
Cost
AnnCostOfRows(const AnnSearchCost *cost, double rows)
{
	return costOfScan(cost, rows, Max(cost->first, rows * cost->per_row));
}

/* Units of work of a scan that is told to find so many rows, without a filter. */
double
AnnWorkOfSearch(const AnnSearchCost *cost, double rows)
{
	return Max(cost->first * pow(Max(rows * cost->per_wanted / cost->first, 1), cost->wanted_growth),
			   rows * cost->least_per_wanted);
}

/*
 * Cost of a scan that is told to find so many rows that pass a filter, which it knows of itself, if
 * this share of all rows does; 1: there is no filter.
 */
Cost
AnnCostOfSearch(const AnnSearchCost *cost, double rows, double share)
{
	double		inverse = 1 / Max(Min(share, 1), 1 / Max(cost->rows, 1));
	double		work;

	if (share >= 1)
		return costOfScan(cost, rows, AnnWorkOfSearch(cost, rows));
	work = Max(cost->first * pow(inverse, cost->first_detour), rows * cost->per_wanted * pow(inverse, cost->row_detour));
	return costOfScan(cost, rows, work) + cost->test * Min(work, cost->sweep_at);
}

/*
 * Body of amcostestimate.
 *
 * The planner takes the cost of k rows to lie on the line from startup to total.
 * If we know how many rows are wanted, the line meets the cost of so many.  Else
 * it has the slope of a scan that goes on forever: then an ordering of the
 * whole table loses to a sort, and so it should.
 */
void
AnnEstimateIndexScan(PlannerInfo *root, IndexPath *path, AnnSearchCostFunction describe,
					 Cost *startup, Cost *total, Selectivity *selectivity, double *correlation, double *pages)
{
	IndexOptInfo *index = path->indexinfo;
	AnnSearchCost cost = {0};
	QualCost	distance;
	double		wanted;
	Cost		slope;

	*correlation = 0;
	*pages = index->pages;
	/* Without an order there is nothing to search for. */
	if (path->indexorderbys == NIL)
	{
		*startup = *total = get_float8_infinity();
		*selectivity = 0;
		*pages = 0;
		AnnDisablePath(&path->path);
		return;
	}
	*selectivity = 1;
	describe(root, index, &cost);
	cost_qual_eval(&distance, path->indexorderbys, root);
	cost.row += cost.rechecks * (distance.per_tuple + cpu_tuple_cost) + cpu_operator_cost;

	*startup = AnnCostOfRows(&cost, 0);
	wanted = rowsWanted(root, index->rel, cost.rows);
	if (wanted > 0)
	{
		/* It is not told how many are wanted, and finds those behind the first ones less well: that is no saving. */
		Cost		expected = Max(AnnCostOfRows(&cost, wanted), AnnCostOfSearch(&cost, wanted, 1));

		if (index->rel->baserestrictinfo != NIL)
			expected += FAR_FILTERS * (AnnCostOfRows(&cost, cost.rows) - expected);
		slope = (expected - *startup) / wanted;
	}
	else
		slope = cost.row + cost.per_row * cost.work * (1 + cost.spread);
	*total = *startup + cost.rows * slope;
}
