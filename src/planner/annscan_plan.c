/*
 * annscan_plan.c
 *	  From an AnnScan path to its plan.
 */
#include "postgres.h"

#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/restrictinfo.h"

#include "compat.h"
#include "planner/annscan.h"
#include "planner/annscan_include.h"

/* The numbers of a plan, copied bit by bit: as nodes they would be text, which every execution had to read. */
typedef struct PlanNumbers
{
	double		limit;
	double		search_limit;
	AnnScanCosts costs;
} PlanNumbers;

#define PLAN_INTS ((int) (sizeof(PlanNumbers) / sizeof(int32)))

StaticAssertDecl(sizeof(PlanNumbers) % sizeof(double) == 0, "PlanNumbers has no padding");

/* The plan's own data as a list that the server can copy and print. */
static List *
planToList(const AnnScanPlan *plan)
{
	PlanNumbers numbers = {plan->limit, plan->search_limit, plan->costs};
	int32		ints[PLAN_INTS];
	List	   *list = NIL;

	memcpy(ints, &numbers, sizeof(ints));
	for (int i = 0; i < PLAN_INTS; i++)
		list = lappend_int(list, ints[i]);
	return list_make5(list_make2_oid(plan->index, plan->opno), list_make3_int(plan->key_hidden, plan->ordered, plan->late_members), list, plan->include,
					  plan->parts);
}

AnnScanPlan
AnnScanPlanFromList(List *list)
{
	List	   *packed = lthird(list);
	int32		ints[PLAN_INTS];
	PlanNumbers numbers;

	for (int i = 0; i < PLAN_INTS; i++)
		ints[i] = list_nth_int(packed, i);
	memcpy(&numbers, ints, sizeof(numbers));
	return (AnnScanPlan)
	{
		.index = linitial_oid(linitial(list)),
		.opno = lsecond_oid(linitial(list)),
		.key_hidden = linitial_int(lsecond(list)) != 0,
		.ordered = lsecond_int(lsecond(list)) != 0,
		.late_members = lthird_int(lsecond(list)) != 0,
		.limit = numbers.limit,
		.search_limit = numbers.search_limit,
		.costs = numbers.costs,
		.include = lfourth(list),
		.parts = llast(list),
	};
}

/* What the path hands to AnnPlanAnnScan. */
List *
AnnScanPathPrivate(PlannerInfo *root, const AnnOrder *order, AnnScanPlan *plan)
{
	List	   *included = get_actual_clauses(order->included);
	List	   *operands = NIL;
	List	   *ranges = NIL;
	ListCell   *lc;

	foreach(lc, order->ranges)
		ranges = lappend(ranges, ((AnnRange *) lfirst(lc))->rinfo->clause);
	plan->parts = AnnOrderParts(order);
	plan->include = included == NIL ? NIL : AnnIncludePlan(root, order->index, included, &operands);
	return lappend(list_make5(order->distance, order->query, planToList(plan), included, operands), ranges);
}

/* Adds the relation's columns in an expression to a list; those of others, by LATERAL, come as parameters. */
static List *
addVars(List *vars, const RelOptInfo *rel, Node *node)
{
	List	   *found = pull_var_clause(node, PVC_RECURSE_AGGREGATES | PVC_RECURSE_WINDOWFUNCS |
										PVC_RECURSE_PLACEHOLDERS);
	ListCell   *lc;

	foreach(lc, found)
		if (lfirst_node(Var, lc)->varno == (int) rel->relid)
			vars = list_append_unique(vars, lfirst(lc));
	return vars;
}

/*
 * PlanCustomPath.  The scan tuple has every column that is read above or by the
 * filter, and the distance behind them.  `tlist` is empty here: the caller sets
 * the target list later (README).
 */
Plan *
AnnPlanAnnScan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path, List *tlist, List *clauses, List *custom_plans)
{
	CustomScan *scan = makeNode(CustomScan);
	Expr	   *distance = linitial(path->custom_private);
	Expr	   *query = lsecond(path->custom_private);
	List	   *ranges = llast(path->custom_private);
	List	   *vars = addVars(NIL, rel, (Node *) rel->reltarget->exprs);
	ListCell   *lc;

	clauses = extract_actual_clauses(clauses, false);
	vars = addVars(vars, rel, (Node *) clauses);
	scan->custom_exprs = list_make5(query, NIL, lfourth(path->custom_private), list_nth(path->custom_private, 4),
									ranges);
	if (custom_plans != NIL)
	{
		/* Of the bitmap heap scan only the bitmap and what is left to check is used. */
		Plan	   *plan = linitial(custom_plans);
		BitmapHeapScan *members;

		if (IsA(plan, Result))	/* a gate, which stands above us too */
			plan = outerPlan(plan);
		members = castNode(BitmapHeapScan, plan);
		scan->custom_plans = list_make1(outerPlan(members));
		lfirst(list_nth_cell(scan->custom_exprs, ANN_EXPR_RECHECK)) = members->bitmapqualorig;
		vars = addVars(vars, rel, (Node *) members->bitmapqualorig);
		clauses = members->scan.plan.qual;
	}
	clauses = list_difference(clauses, ranges);
	foreach(lc, vars)
		scan->custom_scan_tlist = lappend(scan->custom_scan_tlist,
										  makeTargetEntry(lfirst(lc), foreach_current_index(lc) + 1, NULL, false));
	scan->custom_scan_tlist = lappend(scan->custom_scan_tlist,
									  makeTargetEntry(distance, list_length(vars) + 1, NULL, false));
	scan->scan.plan.targetlist = tlist;
	scan->scan.plan.qual = clauses;
	scan->scan.scanrelid = rel->relid;
	scan->flags = path->flags;
	scan->custom_private = lthird(path->custom_private);
	scan->methods = &ann_scan_methods;
	return &scan->scan.plan;
}
