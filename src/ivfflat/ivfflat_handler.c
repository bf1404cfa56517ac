/*
 * ivfflat_handler.c
 *	  The access method's table of callbacks and its cost estimate.
 */
#include "postgres.h"

#include <math.h>

#include "access/amvalidate.h"
#include "catalog/pg_type.h"
#include "commands/vacuum.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "utils/float.h"
#include "utils/selfuncs.h"
#include "utils/spccache.h"

#include "ivfflat/ivfflat_options.h"
#include "space/options.h"
#include "space/scan.h"

/*
 * CPU in units of cpu_tuple_cost (about 0.1 us): scoring a centroid's or an
 * entry's code, and reading and scoring a vector.
 */
#define CODE_CPU 0.08
#define VECTOR_CPU 8.0

/* Vectors that are read for each row returned, beside the first scan's. */
#define VECTORS_PER_ROW 2.0
#define FIRST_VECTORS 60.0

/*
 * Type support functions of operator classes: each says which element type the
 * class indexes.
 */
PG_FUNCTION_INFO_V1(ann_ivfflat_halfvec_support);
Datum
ann_ivfflat_halfvec_support(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(ANN_ELEMENT_HALF);
}

PG_FUNCTION_INFO_V1(ann_ivfflat_bit_support);
Datum
ann_ivfflat_bit_support(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(ANN_ELEMENT_BIT);
}

/*
 * Start-up is the centroids and the first lists; after it each row costs a vector
 * or two and its share of the lists still to be read, so that an ordering of the
 * whole table loses to a sort.
 */
static void
costEstimate(PlannerInfo *root, IndexPath *path, double loop_count, Cost *startup, Cost *total,
			 Selectivity *selectivity, double *correlation, double *pages)
{
	IndexOptInfo *index = path->indexinfo;
	double		rows = Max(index->tuples, 1);
	double		random_page;
	double		lists = Max(1, sqrt(rows));
	double		probes = 1 + lists / 32;
	double		entries = 100;
	double		scanned;
	double		vectors;
	double		page_cost;
	double		code_cpu = CODE_CPU;

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
	if (!index->hypothetical)
	{
		Relation	relation = index_open(index->indexoid, NoLock);
		const AnnIvfMetaPageData *meta = &AnnIvfCacheGet(relation)->meta;

		lists = meta->lists;
		probes = AnnIvfProbes(relation, meta);
		entries = meta->layout.entries;
		if (!AnnIvfHasCodes(&meta->layout))
			code_cpu = VECTOR_CPU / 4;
		index_close(relation, NoLock);
	}
	get_tablespace_page_costs(index->reltablespace, &random_page, NULL);
	scanned = rows * probes / lists;
	vectors = Min(scanned, FIRST_VECTORS);
	/* Pages come from the cache as far as the index fits into it. */
	page_cost = random_page * Min(1.0, Max(0.01, (double) index->pages / Max(effective_cache_size, 1)));
	*startup = lists * CODE_CPU * cpu_tuple_cost + probes * (2 * VECTOR_CPU * cpu_tuple_cost + page_cost) +
		scanned * code_cpu * cpu_tuple_cost + ceil(scanned / entries) * page_cost +
		vectors * (VECTOR_CPU * cpu_tuple_cost + page_cost);
	*total = *startup + rows * (VECTORS_PER_ROW * (VECTOR_CPU * cpu_tuple_cost + page_cost) + cpu_tuple_cost);
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
