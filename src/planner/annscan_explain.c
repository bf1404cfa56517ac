/*
 * annscan_explain.c
 *	  What EXPLAIN shows of an AnnScan.
 */
#include "postgres.h"

#include "commands/explain.h"
#include "nodes/makefuncs.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

#include "compat.h"
#include "planner/annscan_state.h"

static char *
deparse(CustomScanState *css, Node *node, List *ancestors, ExplainState *es)
{
	List	   *context = set_deparse_context_plan(es->deparse_cxt, css->ss.ps.plan, ancestors);

	return deparse_expression(node, context, list_length(es->rtable) > 1 || es->verbose, false);
}

static void
showConditions(CustomScanState *css, const char *label, AnnScanExprs which, List *ancestors, ExplainState *es)
{
	CustomScan *scan = castNode(CustomScan, css->ss.ps.plan);
	List	   *conditions = list_nth(scan->custom_exprs, which);

	ExplainPropertyText(label, deparse(css, (Node *) make_ands_explicit(conditions), ancestors, es), es);
}

/* Hypothetical indexes have no name of their own. */
static const char *
indexName(Oid index)
{
	const char *name = explain_get_index_name_hook ? explain_get_index_name_hook(index) : NULL;

	return name ? name : get_rel_name(index);
}

/* A count, as the server prints those of its own nodes: the mean of the loops. */
static void
showCount(const char *label, double count, double loops, bool always, ExplainState *es)
{
	if (always || count > 0 || es->format != EXPLAIN_FORMAT_TEXT)
		ExplainPropertyFloat(label, NULL, loops > 0 ? count / loops : 0, 0, es);
}

void
AnnExplainAnnScan(CustomScanState *css, List *ancestors, ExplainState *es)
{
	AnnScanState *state = (AnnScanState *) css;
	CustomScan *scan = castNode(CustomScan, css->ss.ps.plan);
	TargetEntry *distance = llast(scan->custom_scan_tlist);
	const AnnScanCounts *counts = &state->counts;
	double		loops;

	ExplainPropertyText("Index", indexName(state->plan.index), es);
	ExplainPropertyText("Order By", deparse(css, (Node *) distance->expr, ancestors, es), es);
	if (state->plan.include != NIL)
		showConditions(css, "Index Filter", ANN_EXPR_INCLUDED, ancestors, es);
	if (list_nth(scan->custom_exprs, ANN_EXPR_RANGES) != NIL)
		showConditions(css, "Range", ANN_EXPR_RANGES, ancestors, es);
	if (scan->custom_plans != NIL)
		showConditions(css, "Recheck Cond", ANN_EXPR_RECHECK, ancestors, es);
	if (state->plan.late_members)
		ExplainPropertyText("Bitmap", "if the search of all rows finds too few", es);
	if (!es->analyze || css->ss.ps.instrument == NULL)
		return;

	loops = css->ss.ps.instrument->nloops;
	AnnScanCountSearch(state);
	if (scan->custom_plans != NIL)
	{
		showCount("Rows Removed by Index Recheck", counts->unmatched, loops, false, es);
		showCount("Members", counts->members, loops, true, es);
		showCount("Lossy Pages", counts->lossy_pages, loops, false, es);
		showCount("Members Ranked", counts->ranked, loops, false, es);
	}
	else
		showCount("Rows Ranked", counts->ranked, loops, false, es);
	showCount("Rows Visited", counts->visited, loops, true, es);
	showCount("Lists Probed", counts->probed, loops, false, es);
	showCount("Distances", counts->scored, loops, true, es);
	showCount("Distances From Heap", counts->computed, loops, true, es);
	showCount("Late Rows", counts->late, loops, false, es);
	if (loops > 0)
		ExplainPropertyText("Stopped", state->stopped ? state->stopped : "enough rows", es);
}
