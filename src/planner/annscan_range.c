/*
 * annscan_range.c
 *	  Conditions like v <-> q < r: which there are, how many rows they keep, and how
 *	  a scan ends by them.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_type_d.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "compat.h"
#include "planner/annscan_state.h"

/* How many rows the planner has the index find, to see how distances grow. */
#define SAMPLE_ROWS 100

/*
 * A search in a range ends when it has gone on so far since the last row that was in it: lists,
 * visited rows, or a share of what came before.
 */
#define PATIENCE_LISTS 4
#define PATIENCE_ROWS 32
#define PATIENCE_SHARE 0.2

/*
 * Whether the clause compares a distance that the index orders by, or an
 * expression that rises or falls with it, with something that is the same for
 * all rows, such that it holds up to some distance.  If so *order has the
 * distance, and order->falling says that the expression falls.
 */
static bool
matchClause(IndexOptInfo *index, Node *clause, AnnOrder *order)
{
	OpExpr	   *op = (OpExpr *) clause;
	Oid			family = lookup_type_cache(FLOAT8OID, TYPECACHE_BTREE_OPFAMILY)->btree_opf;
	int			strategy;

	if (!IsA(clause, OpExpr) || list_length(op->args) != 2)
		return false;
	strategy = get_op_opfamily_strategy(op->opno, family);
	for (int side = 0; side < 2; side++)
	{
		Node	   *value = list_nth(op->args, side);
		Node	   *bound = list_nth(op->args, 1 - side);
		bool		less = side == 0 ?
			strategy == BTLessStrategyNumber || strategy == BTLessEqualStrategyNumber :
			strategy == BTGreaterStrategyNumber || strategy == BTGreaterEqualStrategyNumber;
		bool		greater = side == 0 ?
			strategy == BTGreaterStrategyNumber || strategy == BTGreaterEqualStrategyNumber :
			strategy == BTLessStrategyNumber || strategy == BTLessEqualStrategyNumber;

		if ((less || greater) && exprType(value) == FLOAT8OID && exprType(bound) == FLOAT8OID &&
			!contain_var_clause(bound) && !contain_volatile_functions(bound) && !contain_subplans(bound) &&
			AnnMatchMonotone(index, family, (Expr *) value, order))
			return order->falling ? greater : less;
	}
	return false;
}

/* Whether one of the table's conditions is a range of distances from which the index can start a search. */
bool
AnnMatchRange(RelOptInfo *rel, IndexOptInfo *index, AnnOrder *order)
{
	ListCell   *lc;

	foreach(lc, rel->baserestrictinfo)
	{
		memset(order, 0, sizeof(*order));
		if (matchClause(index, (Node *) lfirst_node(RestrictInfo, lc)->clause, order))
		{
			order->falling = false;
			return true;
		}
	}
	return false;
}

/* Sets order->ranges: all conditions that are ranges of its distance. */
void
AnnFindRanges(RelOptInfo *rel, AnnOrder *order)
{
	ListCell   *lc;

	order->ranges = NIL;
	foreach(lc, rel->baserestrictinfo)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		AnnOrder	other = {0};
		AnnRange   *range;

		if (!matchClause(order->index, (Node *) rinfo->clause, &other) || !equal(other.distance, order->distance))
			continue;
		range = palloc(sizeof(AnnRange));
		range->rinfo = rinfo;
		range->falling = other.falling;
		order->ranges = lappend(order->ranges, range);
	}
}

/* ---- how many rows there are within a range ---- */

typedef struct Substitution
{
	Expr	   *distance;
	Const	   *value;
} Substitution;

static Node *
substitute(Node *node, void *arg)
{
	Substitution *substitution = arg;

	if (node == NULL)
		return NULL;
	if (equal(node, substitution->distance))
		return (Node *) substitution->value;
	return expression_tree_mutator(node, substitute, arg);
}

/* Whether all ranges hold for this distance; *known says whether that can be told. */
static bool
holdsAt(PlannerInfo *root, const AnnOrder *order, double distance, bool *known)
{
	Substitution substitution;
	ListCell   *lc;

	substitution.distance = order->distance;
	substitution.value = makeConst(FLOAT8OID, -1, InvalidOid, sizeof(float8), Float8GetDatum(distance), false,
								   FLOAT8PASSBYVAL);
	*known = true;
	foreach(lc, order->ranges)
	{
		Node	   *clause = (Node *) ((AnnRange *) lfirst(lc))->rinfo->clause;

		clause = estimate_expression_value(root, substitute(clause, &substitution));
		if (!IsA(clause, Const))
		{
			*known = false;
			return false;
		}
		if (((Const *) clause)->constisnull || !DatumGetBool(((Const *) clause)->constvalue))
			return false;
	}
	return true;
}

/*
 * The distances of the rows nearest to the query, by the index, ascending; how
 * many there are is returned.
 */
static int
nearestDistances(PlannerInfo *root, RelOptInfo *rel, const AnnOrder *order, const Const *query, double *distances)
{
	Relation	heap = table_open(planner_rt_fetch(rel->relid, root)->relid, NoLock);
	Relation	index = index_open(order->index->indexoid, NoLock);
	IndexScanDesc scan = AnnBeginIndexScan(heap, index, GetActiveSnapshot(), 1);
	AnnIndexScan *base = AnnIndexScanOf(scan);
	ScanKeyData key;
	int			n = 0;

	AnnScanKeyInit(&key, index, order->opno, query->constvalue, query->constisnull);
	index_rescan(scan, NULL, 0, &key, 1);
	base->parts = ANN_PART_NUMBERS;
	base->uncounted = true;
	base->limit = SAMPLE_ROWS;
	while (n < SAMPLE_ROWS && index_getnext_tid(scan, ForwardScanDirection) != NULL)
		if (n == 0 || base->interval.lo >= distances[n - 1])
			distances[n++] = base->interval.lo;
	index_endscan(scan);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return n;
}

/*
 * An estimate of the rows within the ranges; negative if it cannot be told.  They are
 * counted among the nearest; beyond those the number of rows within a distance
 * is taken to grow as it did among them: by a power of a positive distance,
 * exponentially otherwise.
 */
static double
rowsInRange(PlannerInfo *root, RelOptInfo *rel, const AnnOrder *order)
{
	Node	   *query = estimate_expression_value(root, (Node *) order->query);
	double		distances[SAMPLE_ROWS];
	double		rows = Max(order->index->tuples, 1);
	double		growth;
	bool		known;
	int			low = 0;
	int			n;
	ListCell   *lc;

	if (!IsA(query, Const) || order->index->hypothetical || !ActiveSnapshotSet())
		return -1;
	/* Behind a security barrier an estimate would tell of rows that the user must not see. */
	foreach(lc, order->ranges)
		if (((AnnRange *) lfirst(lc))->rinfo->security_level > 0)
			return -1;
	(void) holdsAt(root, order, 0, &known);
	if (!known)
		return -1;
	n = nearestDistances(root, rel, order, (Const *) query, distances);
	for (int high = n; low < high;)
	{
		int			middle = (low + high) / 2;

		if (holdsAt(root, order, distances[middle], &known))
			low = middle + 1;
		else
			high = middle;
	}
	if (low < SAMPLE_ROWS)
		return low;
	growth = distances[n / 2] > 0 ? log(distances[n - 1] / distances[n / 2]) : distances[n - 1] - distances[n / 2];
	growth /= log((double) n / (n / 2 + 1));
	for (double count = n; count < rows; count *= 1.25)
	{
		double		far = log(count / n) * growth;

		far = distances[n / 2] > 0 ? distances[n - 1] * exp(far) : distances[n - 1] + far;
		if (!holdsAt(root, order, far, &known))
			return count;
	}
	return rows;
}

/* Puts the estimate into the paths that there are. */
static void
scaleRows(List *paths, double factor)
{
	ListCell   *lc;

	foreach(lc, paths)
	{
		Path	   *path = lfirst(lc);

		if (path->param_info == NULL)
			path->rows = clamp_row_est(path->rows * factor);
	}
}

/* The parents of a partition have the sum of their children's rows from before its own were corrected. */
static void
correctParents(PlannerInfo *root, const RelOptInfo *rel, double change)
{
	Index		relid = rel->relid;

	while (root->append_rel_array != NULL && root->append_rel_array[relid] != NULL)
	{
		RelOptInfo *parent;

		relid = root->append_rel_array[relid]->parent_relid;
		parent = find_base_rel(root, relid);
		parent->rows = clamp_row_est(parent->rows + change);
	}
}

/*
 * The server takes a comparison with a distance to keep a third of the rows.  This
 * asks the index, and corrects the estimates of the table, of its parents and of its paths.
 */
void
AnnEstimateRange(PlannerInfo *root, RelOptInfo *rel, const AnnOrder *order)
{
	double		rows = rowsInRange(root, rel, order);
	double		share = Min(Max(rows, 0) / Max(order->index->tuples, 1), 1);
	double		factor = share / Max(AnnRangeShare(root, order), 1e-10);
	double		before;
	ListCell   *lc;

	if (rows < 0)
		return;
	foreach(lc, order->ranges)
		((AnnRange *) lfirst(lc))->rinfo->norm_selec = lc == list_head(order->ranges) ? share : 1;
	before = rel->rows;
	rel->rows = clamp_row_est(rel->rows * factor);
	correctParents(root, rel, rel->rows - before);
	scaleRows(rel->pathlist, factor);
	scaleRows(rel->partial_pathlist, factor);
}

/* The share of the index's rows that lie within the ranges; 1 without. */
double
AnnRangeShare(PlannerInfo *root, const AnnOrder *order)
{
	double		share = 1;
	ListCell   *lc;

	foreach(lc, order->ranges)
		share *= clause_selectivity(root, (Node *) ((AnnRange *) lfirst(lc))->rinfo, 0, JOIN_INNER, NULL);
	return share;
}

/* ---- while a scan runs ---- */

void
AnnScanRangeInit(AnnScanState *state, List *ranges)
{
	TupleTableSlot *slot;

	if (ranges == NIL)
		return;
	state->ranges = ExecInitQual(ranges, &state->css.ss.ps);
	slot = state->range_slot = ExecInitExtraTupleSlot(state->css.ss.ps.state,
													   state->css.ss.ss_ScanTupleSlot->tts_tupleDescriptor,
													   &TTSOpsVirtual);
	memset(slot->tts_isnull, true, sizeof(bool) * slot->tts_tupleDescriptor->natts);
	slot->tts_isnull[state->distance_column] = false;
	ExecStoreVirtualTuple(slot);
}

/* Whether rows at this distance are in the range. */
static bool
isInRange(AnnScanState *state, double distance)
{
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;
	TupleTableSlot *before = econtext->ecxt_scantuple;
	bool		holds;

	state->range_slot->tts_values[state->distance_column] = Float8GetDatum(distance);
	econtext->ecxt_scantuple = state->range_slot;
	holds = ExecQual(state->ranges, econtext);
	econtext->ecxt_scantuple = before;
	return holds;
}

/* Whether no distance in the row's interval is in the range. */
static bool
isBeyond(AnnScanState *state, const AnnScanRow *row)
{
	return row->is_null || !isInRange(state, row->lo);
}

/* Whether the current row is in the range; its distance is computed only if its interval does not tell. */
bool
AnnScanInRange(AnnScanState *state, AnnScanRow *row)
{
	if (state->ranges == NULL)
		return true;
	if (isBeyond(state, row))
		return false;
	if (row->lo < row->hi && (isinf(row->hi) || !isInRange(state, row->hi)))
	{
		AnnScanComputeDistance(state, row);
		return !isBeyond(state, row);
	}
	return true;
}

/*
 * The next row of the index that may be in the range; false at the end, which is where the
 * search has found none for some time.  A row that is beyond does not end it at once: the
 * nearest rows are not found in order.
 */
static bool
readRange(AnnScanState *state, AnnScanRow *row)
{
	while (AnnScanReadIndex(state, row))
	{
		bool		by_lists = state->base->nprobed > 0;
		double		progress = by_lists ? state->base->nprobed : state->base->nvisited;
		double		patience = Max(by_lists ? PATIENCE_LISTS : PATIENCE_ROWS, PATIENCE_SHARE * state->range_progress);

		CHECK_FOR_INTERRUPTS();
		if (!isBeyond(state, row))
		{
			state->range_progress = progress;
			return true;
		}
		if (progress > state->range_progress + patience)
		{
			state->index_done = state->beyond = true;
			return false;
		}
	}
	return false;
}

/*
 * The next row in the range that is visible and passes the filter, which then is in
 * the scan tuple; false when there is no more.  In order, if there is one: then the rows are
 * collected first, as many as the query takes.
 */
bool
AnnScanNextInRange(AnnScanState *state, AnnScanRow *row)
{
	double		limit = state->nemitted == 0 ? state->plan.limit : 0;

	if (!state->plan.ordered)
	{
		while (readRange(state, row))
			if (AnnScanPasses(state, row))
				return true;
		return false;
	}
	for (;;)
	{
		if (!state->range_ranked)
		{
			AnnScanRankBegin(state, 0);
			while ((limit <= 0 || state->ranked < limit) && readRange(state, row))
				if (AnnScanPasses(state, row))
					AnnScanRankPut(state, row);
			if (state->base->stop == ANN_STOP_WORK)
				return false;
			AnnScanRankPerform(state);
			state->range_ranked = true;
		}
		if (AnnScanRankedNext(state, row))
			return true;
		if (state->index_done)
			return false;
		state->range_ranked = false;
		limit = 0;
	}
}
