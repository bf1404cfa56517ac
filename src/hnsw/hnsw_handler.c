/*
 * hnsw_handler.c
 *	  The access method's table of callbacks, its cost estimate and the check of
 *	  operator classes.
 */
#include "postgres.h"

#include <math.h>

#include "commands/vacuum.h"
#include "miscadmin.h"

#include "hnsw/hnsw_options.h"
#include "hnsw/hnsw_search.h"
#include "space/cost.h"
#include "space/options.h"
#include "space/scan.h"

/* Of the neighbours that a visited row names, the share that the search has not seen before. */
#define UNSEEN_SHARE 0.45

/* Before the beam: the query and the tables of the search. */
#define START_OPS 1500.0

/* A visit, beside what is read: the beam, the set of rows seen. */
#define VISIT_OPS 15.0

/* Each cache line of a row that is visited: they are asked for together. Without codes, a neighbour beside its vector. */
#define VISIT_LINE_OPS 1.2
#define NEIGHBOUR_OPS 12.0

/* What a visit costs more where a search has seen many rows. */
#define SPREAD 2.5

/* A row that the sweep scores and sorts, beside the sort's comparisons, and a row returned. */
#define SWEEP_OPS 20.0
#define ROW_OPS 40.0

/* A look at a row's card, in visits, and the visits for a row that is wanted after that. */
#define CARD_WORK 0.015
#define CARD_VISITS 4.0

/* A search for members visits more rows: the inverse of their share to this power. */
#define FILTER_DETOUR 0.8

/* A search that goes on behind the rows it was told of finds so many times as many hardly worse. */
#define GOES_ON 1.25

/* It is told of so many times the rows that are wanted at first, and those that a filter makes it need. */
#define TOLD_FIRST 1.25
#define TOLD 1.3

/* Memory that a scan takes for a row it has seen. */
#define SEEN_BYTES 24.0

/* An index that somebody only thinks of is of 768 dimensions. */
static const AnnHnswLayout hypothetical = {
	.dim = 768, .slots = 32, .vector_size = 1540, .vector_inline = 1, .code_size = 64, .row_size = 3940,
	.rows_per_page = 2, .refine = ANN_REFINE_HALF
};

/*
 * A unit of work is the visit of a row: its page is read, its vector scored,
 * its neighbours estimated by their codes or, without codes, each from its own
 * row.
 */
static void
describeScan(PlannerInfo *root, const IndexOptInfo *index, AnnSearchCost *cost)
{
	double		rows = Max(index->tuples, 1);
	Cost		page_cost = AnnRandomPageCost(root, index->reltablespace, index->pages);
	Cost		memory = work_mem * 1024.0;
	AnnHnswLayout layout;
	double		entries = 0;
	bool		cards = true;
	double		ef = ANN_HNSW_DEFAULT_EF_SEARCH;
	double		visit_ops;
	double		visit_pages = 1;
	double		seen;
	double		score_ops;

	if (index->hypothetical)
		layout = hypothetical;
	else
	{
		Relation	relation = index_open(index->indexoid, NoLock);
		const AnnHnswMetaPageData *meta = &AnnHnswCacheGet(relation)->meta;

		layout = meta->layout;
		entries = meta->nentries;
		cards = meta->nchains > 0;
		ef = AnnHnswEffectiveEf(relation, meta);
		index_close(relation, NoLock);
	}
	memory *= AnnHnswScanMemMultiplier();
	seen = layout.slots * UNSEEN_SHARE;

	score_ops = ANN_LINE_OPS * layout.vector_size / ANN_LINE_BYTES;
	if (layout.code_size > 0)
		visit_ops = ANN_PAGE_OPS + VISIT_LINE_OPS * layout.row_size / ANN_LINE_BYTES + VISIT_OPS;
	else
	{
		visit_ops = ANN_PAGE_OPS + VISIT_OPS + seen * (NEIGHBOUR_OPS + VISIT_LINE_OPS * layout.vector_size / ANN_LINE_BYTES);
		visit_pages += seen;
	}
	if (!layout.vector_inline)
		visit_pages += layout.code_size > 0 ? 1 : seen;

	cost->rows = rows;
	cost->start = cpu_operator_cost *
		(START_OPS + entries * (ANN_CODE_OPS + ANN_CODE_LINE_OPS * layout.code_size / ANN_LINE_BYTES));
	cost->work = visit_ops * cpu_operator_cost + visit_pages * page_cost;
	cost->spread = SPREAD;
	cost->first = Min(ef, rows);
	cost->per_row = cost->per_wanted = AnnHnswVisitsPerRow((int) ef);
	cost->goes_on = GOES_ON;
	cost->told_first = TOLD_FIRST;
	cost->told = TOLD;
	cost->test = 0;
	cost->least_per_wanted = 0;
	cost->wanted_growth = 1;
	cost->first_detour = cost->row_detour = FILTER_DETOUR;
	/* Every row seen is remembered; it is in the frontier, or among the results. */
	cost->sweep_at = rows / ANN_HNSW_SWEEP_SHARE;
	if (rows * SEEN_BYTES > memory)
		cost->sweep_at = Min(cost->sweep_at, memory / (seen * SEEN_BYTES));
	cost->sweep = index->pages * seq_page_cost +
		rows * cpu_operator_cost * (SWEEP_OPS + score_ops + 2 * log2(rows));
	cost->row = ROW_OPS * cpu_operator_cost;
	cost->card_work = cards ? CARD_WORK : 0;
	cost->card_visits = layout.code_size > 0 ? CARD_VISITS : rows;
	cost->rechecks = AnnFormRechecks(layout.refine);
}

static void
costEstimate(PlannerInfo *root, IndexPath *path, double loop_count, Cost *startup, Cost *total,
			 Selectivity *selectivity, double *correlation, double *pages)
{
	AnnEstimateIndexScan(root, path, describeScan, startup, total, selectivity, correlation, pages);
}

/* Registers the costs with the planner's part; runs once per backend. */
void
AnnHnswCostInit(void)
{
	AnnRegisterSearchCost(costEstimate, describeScan, AnnHnswIsReadable);
}

static bool
validate(Oid opclass)
{
	return AnnValidateOpclass(opclass, "hnsw", ANN_HNSW_DISTANCE_PROC, ANN_HNSW_TYPE_PROC);
}

PG_FUNCTION_INFO_V1(ann_hnsw_handler);
Datum
ann_hnsw_handler(PG_FUNCTION_ARGS)
{
	IndexAmRoutine *routine = makeNode(IndexAmRoutine);
	IndexAmRoutine callbacks = {
		.type = T_IndexAmRoutine,
		.amstrategies = 0,
		.amsupport = ANN_HNSW_NPROCS,
		.amcanorderbyop = true,
		.amoptionalkey = true,
		.amcaninclude = true,
		.amparallelvacuumoptions = VACUUM_OPTION_PARALLEL_BULKDEL,
		.amkeytype = InvalidOid,
		.ambuild = ann_hnsw_build,
		.ambuildempty = ann_hnsw_buildempty,
		.aminsert = ann_hnsw_insert,
		.ambulkdelete = ann_hnsw_bulkdelete,
		.amvacuumcleanup = ann_hnsw_vacuumcleanup,
		.amcostestimate = costEstimate,
		.amoptions = ann_hnsw_options,
		.ambuildphasename = AnnHnswBuildPhaseName,
		.amvalidate = validate,
		.ambeginscan = ann_hnsw_beginscan,
		.amrescan = ann_index_rescan,
		.amgettuple = ann_index_gettuple,
		.amendscan = ann_index_endscan,
		ANN_AM_ROUTINE_EXTRA
	};

	*routine = callbacks;
	PG_RETURN_POINTER(routine);
}
