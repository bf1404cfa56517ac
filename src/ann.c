/*
 * ann.c
 *	  Module magic and load-time initialisation.
 */
#include "postgres.h"

#include "fmgr.h"

#include "compat.h"
#include "distance/distance.h"
#include "hnsw/hnsw_options.h"
#include "ivfflat/ivfflat_options.h"
#include "planner/planner.h"

ANN_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

/*
 * Runs once per backend, when the library is loaded: picks the distance
 * kernels for this CPU, registers options and settings, joins the planner.
 */
void
_PG_init(void)
{
	AnnDistanceInit();
	AnnHnswInit();
	AnnHnswCostInit();
	AnnIvfflatInit();
	AnnIvfCostInit();
	AnnWorkersInit();
	AnnFormatsInit();
	AnnScanInit();
}
