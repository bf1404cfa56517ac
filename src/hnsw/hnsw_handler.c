/*
 * hnsw_handler.c
 *	  The access method's table of callbacks, its cost estimate and the check of
 *	  operator classes.
 */
#include "postgres.h"

#include <math.h>

#include "commands/vacuum.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "utils/float.h"
#include "utils/selfuncs.h"
#include "utils/spccache.h"

#include "hnsw/hnsw_options.h"
#include "space/options.h"
#include "space/scan.h"

/* CPU of visiting one row and of returning one, in units of cpu_tuple_cost (about 0.1 us). */
#define VISIT_CPU 15.0

/*
 * Type support functions of operator classes: each says which element type the
 * class indexes.
 */
PG_FUNCTION_INFO_V1(ann_hnsw_halfvec_support);
Datum
ann_hnsw_halfvec_support(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(ANN_ELEMENT_HALF);
}

PG_FUNCTION_INFO_V1(ann_hnsw_sparsevec_support);
Datum
ann_hnsw_sparsevec_support(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(ANN_ELEMENT_SPARSE);
}

PG_FUNCTION_INFO_V1(ann_hnsw_bit_support);
Datum
ann_hnsw_bit_support(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(ANN_ELEMENT_BIT);
}

/*
 * Start-up is the beam; after it each further row costs two visits and grows
 * with what the scan has to go through, so that an ordering of the whole table
 * loses to a sort.
 */
static void
costEstimate(PlannerInfo *root, IndexPath *path, double loop_count, Cost *startup, Cost *total,
			 Selectivity *selectivity, double *correlation, double *pages)
{
	IndexOptInfo *index = path->indexinfo;
	double		rows = Max(index->tuples, 1);
	double		random_page;
	double		ef;
	double		visits;
	double		page_cost;

	*selectivity = 1;
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
	get_tablespace_page_costs(index->reltablespace, &random_page, NULL);
	ef = ANN_HNSW_DEFAULT_EF_SEARCH;
	if (!index->hypothetical)
	{
		Relation	relation = index_open(index->indexoid, NoLock);

		ef = AnnHnswEffectiveEf(relation, &AnnHnswCacheGet(relation)->meta);
		index_close(relation, NoLock);
	}
	visits = Min(rows, ef * 1.2 + 10);
	/* Pages come from the cache as far as the index fits into it. */
	page_cost = random_page * index_pages_fetched(visits, index->pages, index->pages, root) / visits;
	page_cost *= Min(1.0, Max(0.01, (double) index->pages / Max(effective_cache_size, 1)));
	*startup = visits * (VISIT_CPU * cpu_tuple_cost + page_cost);
	*total = *startup + rows * (2 * (VISIT_CPU * cpu_tuple_cost + page_cost) + cpu_tuple_cost);
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
