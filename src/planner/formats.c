/*
 * formats.c
 *	  Keeps indexes that this library cannot read out of plans.
 *
 * An index that another version of the library has made, in another format, must be made
 * anew.  Until then it is used for nothing, but its table's queries go on without it.
 */
#include "postgres.h"

#include "optimizer/plancat.h"

#include "planner/planner.h"
#include "space/cost.h"

static get_relation_info_hook_type next_get_relation_info_hook = NULL;

static void
dropUnreadable(PlannerInfo *root, Oid relid, bool inhparent, RelOptInfo *rel)
{
	ListCell   *lc;

	if (next_get_relation_info_hook)
		next_get_relation_info_hook(root, relid, inhparent, rel);
	foreach(lc, rel->indexlist)
		if (!AnnIndexIsReadable(lfirst(lc)))
			rel->indexlist = foreach_delete_current(rel->indexlist, lc);
}

/* Installs the hook. Called once, when the library is loaded. */
void
AnnFormatsInit(void)
{
	next_get_relation_info_hook = get_relation_info_hook;
	get_relation_info_hook = dropUnreadable;
}
