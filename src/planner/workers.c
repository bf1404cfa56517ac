/*
 * workers.c
 *	  Parallel workers for tables whose vectors lie in a TOAST table.
 *
 * The planner derives the number of workers from the pages of the table
 * proper.  A table of 100,000 vectors of 1,536 dimensions has 800 MB, but only
 * 5 of them are pages of the table: too few for even one worker.  So the pages
 * of the TOAST table are counted as well.  That only makes parallel plans
 * possible; whether one is chosen is still a matter of its cost, in which
 * distances count for what they are (support.c).
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "nodes/pathnodes.h"
#include "optimizer/cost.h"
#include "optimizer/paths.h"
#include "optimizer/plancat.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "planner/planner.h"

static get_relation_info_hook_type next_get_relation_info_hook = NULL;

/* Whether the table has a column of vectors that may be toasted. */
static bool
HasToastableVector(TupleDesc desc)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && att->atttypid >= FirstNormalObjectId &&
			att->attlen == -1 && att->attstorage != TYPSTORAGE_PLAIN &&
			AnnKindOfType(getBaseType(att->atttypid)) != ANN_KIND_NONE)
			return true;
	}
	return false;
}

/* The planner's own rule: a worker at the threshold, another with each threefold of it. */
static int
WorkersForPages(double pages)
{
	double		threshold = Max(min_parallel_table_scan_size, 1);
	int			workers = 0;

	for (; pages >= threshold; threshold *= 3)
		workers++;
	return workers;
}

static void
CountToastPages(PlannerInfo *root, Oid relid, bool inhparent, RelOptInfo *rel)
{
	Relation	relation;
	Oid			toastrelid;

	if (next_get_relation_info_hook)
		next_get_relation_info_hook(root, relid, inhparent, rel);

	/* a number set for the table stays */
	if (inhparent || rel->rel_parallel_workers != -1 || max_parallel_workers_per_gather == 0)
		return;

	relation = table_open(relid, NoLock);
	toastrelid = relation->rd_rel->reltoastrelid;
	if (OidIsValid(toastrelid) && HasToastableVector(RelationGetDescr(relation)))
	{
		Relation	toastrel = table_open(toastrelid, AccessShareLock);
		int			workers = WorkersForPages((double) rel->pages + RelationGetNumberOfBlocks(toastrel));

		table_close(toastrel, AccessShareLock);
		if (workers > WorkersForPages(rel->pages))
			rel->rel_parallel_workers = workers;
	}
	table_close(relation, NoLock);
}

/* Installs the hook. Called once, when the library is loaded. */
void
AnnWorkersInit(void)
{
	next_get_relation_info_hook = get_relation_info_hook;
	get_relation_info_hook = CountToastPages;
}
