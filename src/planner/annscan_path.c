/*
 * annscan_path.c
 *	  Offers AnnScan to the planner: the hook behind every table's paths.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "utils/guc.h"

#include "compat.h"
#include "planner/annscan.h"
#include "planner/annscan_include.h"
#include "planner/planner.h"

static bool enable_annscan = true;
static bool enable_late_bitmap = true;
static set_rel_pathlist_hook_type next_set_rel_pathlist_hook = NULL;

static const CustomPathMethods path_methods = {
	.CustomName = "AnnScan",
	.PlanCustomPath = AnnPlanAnnScan,
};

/* Whether this relation is all that the query level reads. */
static bool
isOnlyRelation(PlannerInfo *root, RelOptInfo *rel)
{
	return bms_equal(root->all_baserels, rel->top_parent_relids ? rel->top_parent_relids : rel->relids);
}

/*
 * Whether a distance that is nothing but the sort key is read by nobody: no
 * MergeAppend, incremental sort or merge join compares it, no Unique, group or
 * LIMIT WITH TIES looks for equal ones.
 */
static bool
keyIsHidden(PlannerInfo *root, RelOptInfo *rel)
{
	const Query *parse = root->parse;

	return rel->reloptkind == RELOPT_BASEREL && isOnlyRelation(root, rel) &&
		list_length(root->query_pathkeys) == 1 &&
		parse->distinctClause == NIL && parse->groupClause == NIL && parse->groupingSets == NIL &&
		!parse->hasAggs && !parse->hasWindowFuncs && !parse->hasTargetSRFs && parse->setOperations == NULL &&
		parse->limitOption != LIMIT_OPTION_WITH_TIES;
}

static bool
isRange(const AnnOrder *order, const RestrictInfo *rinfo)
{
	ListCell   *lc;

	foreach(lc, order->ranges)
		if (((AnnRange *) lfirst(lc))->rinfo == rinfo)
			return true;
	return false;
}

static bool
containsExpr(Node *node, void *wanted)
{
	if (node == NULL)
		return false;
	return equal(node, wanted) || expression_tree_walker(node, containsExpr, wanted);
}

/*
 * Whether the query's result, or a clause of the relation, has the distance's value in it.  Of a range
 * it is asked only where the index does not tell.
 */
static bool
distanceIsRead(PlannerInfo *root, RelOptInfo *rel, const AnnOrder *order, bool key_hidden)
{
	ListCell   *lc;

	if (!key_hidden)
		return true;
	foreach(lc, root->processed_tlist)
	{
		TargetEntry *entry = lfirst(lc);

		if (!entry->resjunk && containsExpr((Node *) entry->expr, order->distance))
			return true;
	}
	foreach(lc, rel->baserestrictinfo)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);

		if (!isRange(order, rinfo) && containsExpr((Node *) rinfo->clause, order->distance))
			return true;
	}
	return false;
}

/*
 * A copy of the relation that has the server make either bitmaps of the indexes, or plain scans of
 * them, for the relation's own clauses and nothing else: in the relation itself the one that seems cheaper
 * displaces the other.
 */
static RelOptInfo *
copyForPaths(const RelOptInfo *rel, bool bitmaps)
{
	RelOptInfo *copy = makeNode(RelOptInfo);
	ListCell   *lc;

	*copy = *rel;
	copy->pathlist = NIL;
	copy->partial_pathlist = NIL;
	copy->joininfo = NIL;
	copy->has_eclass_joins = false;
	copy->indexlist = NIL;
	foreach(lc, rel->indexlist)
	{
		IndexOptInfo *index = lfirst(lc);
		IndexOptInfo *restricted;

		if (bitmaps ? !index->amhasgetbitmap : !index->amhasgettuple)
			continue;
		restricted = makeNode(IndexOptInfo);
		*restricted = *index;
		restricted->rel = copy;
		restricted->amcanparallel = false;
		if (bitmaps)
			restricted->amhasgettuple = false;
		else
		{
			restricted->amhasgetbitmap = false;
			restricted->amcanorderbyop = false;
		}
		copy->indexlist = lappend(copy->indexlist, restricted);
	}
	return copy;
}

/* The cheapest bitmap scan for the relation's own clauses, or NULL. */
static BitmapHeapPath *
membersPath(PlannerInfo *root, RelOptInfo *rel)
{
	RelOptInfo *copy;
	BitmapHeapPath *best = NULL;
	ListCell   *lc;

	if (!enable_bitmapscan || rel->baserestrictinfo == NIL)
		return NULL;
	copy = copyForPaths(rel, true);
	create_index_paths(root, copy);
	foreach(lc, copy->pathlist)
	{
		Path	   *path = lfirst(lc);

		if (IsA(path, BitmapHeapPath) && bms_equal(PATH_REQ_OUTER(path), rel->lateral_relids) &&
			(best == NULL || path->total_cost < best->path.total_cost))
			best = (BitmapHeapPath *) path;
	}
	return best;
}

static Cost
costOf(PlannerInfo *root, const Expr *expr)
{
	QualCost	cost;

	cost_qual_eval_node(&cost, unconstify(Node *, (const Node *) expr), root);
	return cost.per_tuple;
}

/* Offers a sequential scan, to be sorted, at AnnScan's prices. */
static void
addSeqScan(PlannerInfo *root, RelOptInfo *rel, double index_pages)
{
	ListCell   *lc;

	foreach(lc, rel->pathlist)
	{
		const Path *path = lfirst(lc);

		if (path->pathtype == T_SeqScan && bms_equal(PATH_REQ_OUTER(path), rel->lateral_relids))
		{
			if (enable_seqscan)
				add_path(rel, AnnCostSeqScan(root, rel, index_pages, path));
			return;
		}
	}
}

/*
 * Offers the scans of single indexes that give the rows which a ranking would rank, to be sorted,
 * at AnnScan's prices: the server takes each of their rows for a page read from disk.
 */
static void
addIndexScans(PlannerInfo *root, RelOptInfo *rel, double index_pages, Cost distance)
{
	RelOptInfo *copy;
	ListCell   *lc;

	if (!enable_indexscan || rel->baserestrictinfo == NIL)
		return;
	copy = copyForPaths(rel, false);
	create_index_paths(root, copy);
	foreach(lc, copy->pathlist)
	{
		IndexPath  *path = lfirst(lc);
		ListCell   *index;

		if (!IsA(path, IndexPath) || path->path.pathtype != T_IndexScan || path->indexclauses == NIL ||
			!bms_equal(PATH_REQ_OUTER(&path->path), rel->lateral_relids))
			continue;
		foreach(index, rel->indexlist)
			if (((IndexOptInfo *) lfirst(index))->indexoid == path->indexinfo->indexoid)
				add_path(rel, (Path *) AnnCostPlainScan(root, rel, index_pages, distance, path, lfirst(index)));
	}
}

/*
 * Offers a search of all rows or, with members, of those: at once, or late, if a search of all rows
 * finds too few that pass.
 */
static void
addAnnScan(PlannerInfo *root, RelOptInfo *rel, const AnnOrder *order, const IndexPath *search,
		   BitmapHeapPath *members, bool late)
{
	CustomPath *path = makeNode(CustomPath);
	AnnScanPlan plan = {0};
	bool		distance_read;

	path->path.pathtype = T_CustomScan;
	path->path.parent = rel;
	path->path.pathtarget = rel->reltarget;
	path->path.param_info = get_baserel_parampathinfo(root, rel, rel->lateral_relids);
	path->path.parallel_safe = rel->consider_parallel;
	path->path.pathkeys = order->pathkey ? list_make1(order->pathkey) : NIL;
	path->flags = CUSTOMPATH_SUPPORT_PROJECTION;
	if (members != NULL)
		path->custom_paths = list_make1(members);
	path->methods = &path_methods;

	plan.index = order->index->indexoid;
	plan.opno = order->opno;
	plan.ordered = order->pathkey != NULL;
	plan.key_hidden = order->pathkey != NULL && keyIsHidden(root, rel);
	distance_read = distanceIsRead(root, rel, order, plan.key_hidden);
	/* An incremental sort takes the rows that are as far as the last one, too. */
	if (root->limit_tuples > 0 && isOnlyRelation(root, rel) &&
		list_length(root->query_pathkeys) == list_length(path->path.pathkeys))
		plan.limit = root->limit_tuples;
	plan.late_members = late;
	/* Rows without a distance that come first are returned before it is known how far the search has to go. */
	if (late && (plan.limit <= 0 || order->ranges != NIL || list_length(AnnOrderParts(order)) > 1))
		return;
	if (!AnnCostAnnScan(root, rel, order, search, members, distance_read, &plan, &path->path))
	{
		if (late)
			return;
		add_path(rel, (Path *) AnnCostBitmapScan(root, rel, order->index->pages,
												 costOf(root, order->distance), members));
	}
	path->custom_private = AnnScanPathPrivate(root, order, &plan);
	add_path(rel, &path->path);
}

/* Adds the conditions that every row of a bitmap fulfils to a list. */
static List *
addBitmapConditions(List *found, const Path *path)
{
	ListCell   *lc;

	if (IsA(path, BitmapAndPath))
		foreach(lc, ((const BitmapAndPath *) path)->bitmapquals)
			found = addBitmapConditions(found, lfirst(lc));
	else if (IsA(path, IndexPath))
		foreach(lc, ((const IndexPath *) path)->indexclauses)
			found = lappend(found, lfirst_node(IndexClause, lc)->rinfo);
	return found;
}

/* The same ordering for a search among a bitmap's rows: what the bitmap sees to, the index need not test. */
static AnnOrder *
orderAmongMembers(const AnnOrder *order, const BitmapHeapPath *members)
{
	AnnOrder   *result = palloc(sizeof(AnnOrder));

	*result = *order;
	result->included = list_difference_ptr(order->included, addBitmapConditions(NIL, members->bitmapqual));
	return result;
}

/* The query's first sort key, if it is a distance of the relation's rows; else NULL. */
static Expr *
sortedByDistance(PlannerInfo *root, const RelOptInfo *rel)
{
	ListCell   *lc;

	if (root->query_pathkeys == NIL)
		return NULL;
	foreach(lc, linitial_node(PathKey, root->query_pathkeys)->pk_eclass->ec_members)
	{
		EquivalenceMember *member = lfirst(lc);
		Node	   *expr = (Node *) member->em_expr;

		if (!bms_equal(member->em_relids, rel->relids))
			continue;
		if (IsA(expr, OpExpr))
			set_opfuncid((OpExpr *) expr);
		if (AnnIsDistance(IsA(expr, OpExpr) ? ((OpExpr *) expr)->opfuncid :
						  IsA(expr, FuncExpr) ? ((FuncExpr *) expr)->funcid : InvalidOid))
			return member->em_expr;
	}
	return NULL;
}

static void
setRelPathlist(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	List	   *orders = NIL;
	bool		range_estimated = false;
	BitmapHeapPath *members;
	ListCell   *lc;

	if (next_set_rel_pathlist_hook)
		next_set_rel_pathlist_hook(root, rel, rti, rte);

	/* A relation that no row can come from keeps its one path, which says so. */
	if (!enable_annscan || !enable_indexscan || rel->indexlist == NIL || IS_DUMMY_REL(rel) ||
		rte->rtekind != RTE_RELATION || rte->inh || rte->tablesample != NULL ||
		(rte->relkind != RELKIND_RELATION && rte->relkind != RELKIND_MATVIEW))
		return;
	if (root->parse->commandType != CMD_SELECT)
		return;
	foreach(lc, rel->indexlist)
	{
		AnnOrder   *order = palloc(sizeof(AnnOrder));

		if (!AnnCanSearch(lfirst(lc)))
			continue;
		if ((root->query_pathkeys == NIL || !AnnMatchOrder(root, rel, lfirst(lc), order)) &&
			!AnnMatchRange(rel, lfirst(lc), order))
			continue;
		order->included = AnnIncludeMatch(root, rel, order->index, rel->baserestrictinfo);
		AnnFindRanges(rel, order);
		if (order->ranges != NIL && !range_estimated)
		{
			AnnEstimateRange(root, rel, order);
			range_estimated = true;
		}
		orders = lappend(orders, order);
	}
	if (orders == NIL)
	{
		Expr	   *distance = sortedByDistance(root, rel);

		if (distance == NULL)
			return;
		members = membersPath(root, rel);
		if (members != NULL)
			add_path(rel, (Path *) AnnCostBitmapScan(root, rel, 0, costOf(root, distance), members));
		addIndexScans(root, rel, 0, costOf(root, distance));
		return;
	}

	members = membersPath(root, rel);
	if (((AnnOrder *) linitial(orders))->pathkey != NULL)
	{
		const AnnOrder *order = linitial(orders);

		addSeqScan(root, rel, order->index->pages);
		addIndexScans(root, rel, order->index->pages, costOf(root, order->distance));
	}
	foreach(lc, orders)
	{
		AnnOrder   *order = lfirst(lc);
		IndexPath  *search = create_index_path(root, order->index, NIL, list_make1(AnnOrderOperation(order)),
											   list_make1_int(0), order->pathkey ? list_make1(order->pathkey) : NIL,
											   ForwardScanDirection, false, rel->lateral_relids, 1.0, false);

		addAnnScan(root, rel, order, search, NULL, false);
		if (members != NULL)
			addAnnScan(root, rel, orderAmongMembers(order, members), search, members, false);
		if (members != NULL && enable_late_bitmap && order->included == NIL)
			addAnnScan(root, rel, order, search, members, true);
	}
}

/* Defines the setting, joins the planner. Called once, when the library is loaded. */
void
AnnScanInit(void)
{
	DefineCustomBoolVariable("ann.enable_annscan",
							 "Enables the planner's use of AnnScan plans.", NULL,
							 &enable_annscan, true, PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomBoolVariable("ann.enable_late_bitmap",
							 "Enables AnnScan plans that make a bitmap if a search of all rows finds too few.", NULL,
							 &enable_late_bitmap, true, PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	MarkGUCPrefixReserved("ann");
	RegisterCustomScanMethods(&ann_scan_methods);
	next_set_rel_pathlist_hook = set_rel_pathlist_hook;
	set_rel_pathlist_hook = setRelPathlist;
}
