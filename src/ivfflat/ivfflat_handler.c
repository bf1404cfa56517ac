/*
 * ivfflat_handler.c
 *	  The access method's table of callbacks and its cost estimate.
 */
#include "postgres.h"

#include <math.h>

#include "commands/vacuum.h"

#include "ivfflat/ivfflat_options.h"
#include "ivfflat/ivfflat_scan.h"
#include "space/cost.h"
#include "space/options.h"
#include "space/scan.h"

/* Before the lists: the query and the arrays of the scan. */
#define START_OPS 2000.0

/* A list: its head, the query's code relative to its centroid; and for each dimension of that. */
#define LIST_OPS 100.0
#define LIST_DIM_OPS 0.1

/* What an entry costs of a code among few: a list has many of them one behind the other. */
#define SEQUENCE_SHARE 0.25

/* Lists near a query are longer than others, since queries are where rows are. */
#define NEAR_LENGTH 1.3

/* Vectors read for each row returned. */
#define VECTORS_PER_ROW 1.8

/* A vector that is read, beside its page: the heaps. */
#define VECTOR_OPS 20.0

/* Without codes: a vector of a list that is read from its first page to its last, and each cache line of it. */
#define PLAIN_OPS 10.0
#define PLAIN_LINE_OPS 0.8

/* The lists read hold this many times the rows that may be returned before more are read. */
#define ENTRIES_PER_ROW 2.0

/* Rows that `probes` lists are expected to find as they should. */
#define FIRST_ROWS 10.0

/* A search that goes on behind the rows it was told of finds so many times as many hardly worse. */
#define GOES_ON 1.6

/* It is told of so many times the rows that are wanted at first, and those that a filter makes it need. */
#define TOLD_FIRST 1.0
#define TOLD 1.3

/* An entry that is looked up among the members. */
#define TEST_OPS 6.0

/* A search for members reads more lists at first: the inverse of their share to this power. */
#define FILTER_DETOUR 1.3

/* An index that somebody only thinks of is of 768 dimensions. */
static const AnnIvfLayout hypothetical = {
	.dim = 768, .vector_size = 1540, .code_size = 96, .entry_size = 108, .entries = 74,
	.vectors_per_page = 5, .pages_per_vector = 1, .refine = ANN_REFINE_HALF
};

/* A unit of work is an entry looked at: its code estimated or, without codes, its vector scored. */
static void
describeScan(PlannerInfo *root, const IndexOptInfo *index, AnnSearchCost *cost)
{
	double		rows = Max(index->tuples, 1);
	Cost		page_cost = AnnRandomPageCost(root, index->reltablespace, index->pages);
	AnnIvfLayout layout = hypothetical;
	double		lists = Max(1, 2 * sqrt(rows));
	double		probes = 1 + lists / 32;
	double		length;
	Cost		vector_cost;
	Cost		list_cost;
	Cost		centroid_cost;

	if (!index->hypothetical)
	{
		Relation	relation = index_open(index->indexoid, NoLock);
		const AnnIvfMetaPageData *meta = &AnnIvfCacheGet(relation)->meta;

		layout = meta->layout;
		lists = meta->lists;
		probes = AnnIvfProbes(relation, meta);
		index_close(relation, NoLock);
	}
	length = Max(1, rows / lists);
	vector_cost = cpu_operator_cost * (ANN_LINE_OPS * layout.vector_size / ANN_LINE_BYTES + VECTOR_OPS);

	/* The nearest lists are read one after the other: a page of each, beside those that are full of entries. */
	list_cost = cpu_operator_cost * (LIST_OPS + LIST_DIM_OPS * layout.dim + ANN_PAGE_OPS) + page_cost;
	if (AnnIvfHasCodes(&layout))
	{
		cost->work = (cpu_operator_cost * ANN_PAGE_OPS + page_cost) / layout.entries +
			cpu_operator_cost * SEQUENCE_SHARE * (ANN_CODE_OPS + ANN_CODE_LINE_OPS * layout.entry_size / ANN_LINE_BYTES);
		cost->row = VECTORS_PER_ROW *
			(vector_cost + layout.pages_per_vector * (ANN_PAGE_OPS * cpu_operator_cost + page_cost));
	}
	else
	{
		double		pages = layout.vectors_per_page > 0 ? 1.0 / layout.vectors_per_page : layout.pages_per_vector;

		cost->work = cpu_operator_cost * (PLAIN_OPS + PLAIN_LINE_OPS * layout.vector_size / ANN_LINE_BYTES) +
			pages * (ANN_PAGE_OPS * cpu_operator_cost + page_cost);
		cost->row = VECTOR_OPS * cpu_operator_cost;
	}
	cost->work += list_cost / length;

	/* Every centroid is estimated by its code, of two bits a dimension, and some are read. */
	centroid_cost = cpu_operator_cost * SEQUENCE_SHARE * (ANN_CODE_OPS + ANN_CODE_LINE_OPS * layout.dim / 4 / ANN_LINE_BYTES);
	cost->start = START_OPS * cpu_operator_cost + lists * centroid_cost +
		probes * (vector_cost + ANN_PAGE_OPS * cpu_operator_cost);
	cost->rows = rows;
	cost->first = Min(rows, probes * length * (probes < lists ? NEAR_LENGTH : 1));
	cost->per_row = ENTRIES_PER_ROW;
	/* The first lists are meant for so many rows; for more of them more lists are read. */
	cost->per_wanted = Max(ENTRIES_PER_ROW, cost->first / FIRST_ROWS);
	cost->goes_on = GOES_ON;
	cost->told_first = TOLD_FIRST;
	cost->told = TOLD;
	cost->test = TEST_OPS * cpu_operator_cost;
	cost->least_per_wanted = ANN_IVF_LEAST_PER_WANTED;
	cost->wanted_growth = 0.5;
	cost->first_detour = FILTER_DETOUR;
	cost->row_detour = 1;
	cost->sweep_at = rows;
	cost->sweep = 0;
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
AnnIvfCostInit(void)
{
	AnnRegisterSearchCost(costEstimate, describeScan, AnnIvfIsReadable);
}

static bool
validate(Oid opclass)
{
	return AnnValidateOpclass(opclass, "ivfflat", ANN_IVF_DISTANCE_PROC, ANN_IVF_TYPE_PROC);
}

PG_FUNCTION_INFO_V1(ann_ivfflat_handler);
Datum
ann_ivfflat_handler(PG_FUNCTION_ARGS)
{
	IndexAmRoutine *routine = makeNode(IndexAmRoutine);
	IndexAmRoutine callbacks = {
		.type = T_IndexAmRoutine,
		.amstrategies = 0,
		.amsupport = ANN_IVF_NPROCS,
		.amcanorderbyop = true,
		.amoptionalkey = true,
		.amcaninclude = true,
		.amparallelvacuumoptions = VACUUM_OPTION_PARALLEL_BULKDEL,
		.amkeytype = InvalidOid,
		.ambuild = ann_ivfflat_build,
		.ambuildempty = ann_ivfflat_buildempty,
		.aminsert = ann_ivfflat_insert,
		.ambulkdelete = ann_ivfflat_bulkdelete,
		.amvacuumcleanup = ann_ivfflat_vacuumcleanup,
		.amcostestimate = costEstimate,
		.amoptions = ann_ivfflat_options,
		.ambuildphasename = AnnIvfBuildPhaseName,
		.amvalidate = validate,
		.ambeginscan = ann_ivfflat_beginscan,
		.amrescan = ann_index_rescan,
		.amgettuple = ann_index_gettuple,
		.amendscan = ann_index_endscan,
		ANN_AM_ROUTINE_EXTRA
	};

	*routine = callbacks;
	PG_RETURN_POINTER(routine);
}
