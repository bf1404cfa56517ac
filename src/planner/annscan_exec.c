/*
 * annscan_exec.c
 *	  Runs an AnnScan: README, section AnnScan.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "catalog/pg_type_d.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/float.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "planner/annscan_state.h"

/* A search whose rows meet further conditions is told of so many times the rows that they are expected to take. */
#define REFUSED_MARGIN 1.3

/*
 * A search of all rows is told of so many times what its price counts: recall is that of the rows it takes
 * for those that pass, and these are farther than the wanted ones that ef is calibrated for.
 */
#define TOLD_MARGIN 1.25

static Node *createState(CustomScan *scan);
static void beginScan(CustomScanState *css, EState *estate, int eflags);
static TupleTableSlot *execScan(CustomScanState *css);
static void endScan(CustomScanState *css);
static void rescan(CustomScanState *css);

const CustomScanMethods ann_scan_methods = {
	.CustomName = "AnnScan",
	.CreateCustomScanState = createState,
};

static const CustomExecMethods exec_methods = {
	.CustomName = "AnnScan",
	.BeginCustomScan = beginScan,
	.ExecCustomScan = execScan,
	.EndCustomScan = endScan,
	.ReScanCustomScan = rescan,
	.ExplainCustomScan = AnnExplainAnnScan,
};

static Node *
createState(CustomScan *scan)
{
	AnnScanState *state = palloc0(sizeof(AnnScanState));

	NodeSetTag(state, T_CustomScanState);
	state->css.methods = &exec_methods;
	state->plan = AnnScanPlanFromList(scan->custom_private);
	return (Node *) state;
}

static bool
readsColumn(Node *node, void *column)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
		return ((Var *) node)->varno == INDEX_VAR && ((Var *) node)->varattno == *(AttrNumber *) column;
	return expression_tree_walker(node, readsColumn, column);
}

/* Whether the value of a distance column is more than a sort key that nobody looks at. */
static bool
resultReads(const AnnScanPlan *plan, List *targetlist, AttrNumber column)
{
	ListCell   *lc;

	foreach(lc, targetlist)
	{
		TargetEntry *entry = lfirst(lc);

		if (plan->key_hidden && entry->resjunk)
			continue;
		if (readsColumn((Node *) entry->expr, &column))
			return true;
	}
	return false;
}

/* An expression over the scan tuple as one over the rows of the heap. */
static Node *
overHeap(Node *node, void *scan_tlist)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && ((Var *) node)->varno == INDEX_VAR)
		return copyObject((Node *) list_nth_node(TargetEntry, (List *) scan_tlist, ((Var *) node)->varattno - 1)->expr);
	return expression_tree_mutator(node, overHeap, scan_tlist);
}

/*
 * Sets up the expressions over rows of the heap.  The node's own scan tuple is a
 * virtual one; expressions must not take it for theirs.
 */
static void
initHeapExpressions(AnnScanState *state, const CustomScan *scan)
{
	ScanState  *ss = &state->css.ss;
	PlanState  *ps = &ss->ps;
	TargetEntry *distance = llast(scan->custom_scan_tlist);
	bool		scanopsset = ps->scanopsset;

	state->heap_slot = table_slot_create(ss->ss_currentRelation, &ps->state->es_tupleTable);
	state->heap_context = CreateExprContext(ps->state);
	state->heap_context->ecxt_scantuple = state->heap_slot;
	state->distance_column = distance->resno - 1;
	ps->scanopsset = false;
	state->distance = ExecInitExpr(distance->expr, ps);
	state->columns = ExecBuildProjectionInfo(list_copy_head(scan->custom_scan_tlist, state->distance_column),
											 state->heap_context, ss->ss_ScanTupleSlot, ps,
											 RelationGetDescr(ss->ss_currentRelation));
	if (state->plan.costs.other > 0 && !state->plan.late_members)
		state->heap_filter = ExecInitQual((List *) overHeap((Node *) scan->scan.plan.qual, scan->custom_scan_tlist), ps);
	ps->scanopsset = scanopsset;
}

static void
beginScan(CustomScanState *css, EState *estate, int eflags)
{
	AnnScanState *state = (AnnScanState *) css;
	CustomScan *scan = castNode(CustomScan, css->ss.ps.plan);
	AttrNumber	column;
	ListCell   *lc;

	foreach(lc, scan->custom_plans)
		css->custom_ps = lappend(css->custom_ps, ExecInitNode(lfirst(lc), estate, eflags));
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	initHeapExpressions(state, scan);
	column = state->distance_column + 1;
	state->filter_reads_distance = readsColumn((Node *) scan->scan.plan.qual, &column);
	state->result_reads_distance = resultReads(&state->plan, scan->scan.plan.targetlist, column);
	state->query = ExecInitExpr(list_nth(scan->custom_exprs, ANN_EXPR_QUERY), &css->ss.ps);
	AnnScanRangeInit(state, list_nth(scan->custom_exprs, ANN_EXPR_RANGES));
	if (scan->custom_plans != NIL)
	{
		List	   *recheck = list_nth(scan->custom_exprs, ANN_EXPR_RECHECK);

		state->recheck = ExecInitQual(recheck, &css->ss.ps);
		if (readsColumn((Node *) recheck, &column))
			state->filter_reads_distance = true;
	}
	state->index = index_open(state->plan.index, exec_rt_fetch(scan->scan.scanrelid, estate)->rellockmode);
	state->scan = AnnBeginIndexScan(css->ss.ss_currentRelation, state->index, estate->es_snapshot, 1);
	state->base = AnnIndexScanOf(state->scan);
	if (state->base == NULL)
		elog(ERROR, "index \"%s\" is none that AnnScan can search", RelationGetRelationName(state->index));
	if (state->plan.include != NIL)
	{
		state->include = AnnIncludeInit(state->index, state->plan.include);
		state->include_operands = ExecInitExprList(list_nth(scan->custom_exprs, ANN_EXPR_OPERANDS), &css->ss.ps);
	}
	state->query_memory = AllocSetContextCreate(CurrentMemoryContext, "AnnScan query", ALLOCSET_SMALL_SIZES);
	AnnScanOrderInit(state);
	AnnScanOrderReset(state);
	AnnScanMembersInit(state);
}

/* Makes the scan tuple of the row in heap_slot. */
static void
projectColumns(AnnScanState *state)
{
	TupleTableSlot *slot = ExecProject(state->columns);

	slot->tts_tid = state->heap_slot->tts_tid;
	slot->tts_tableOid = state->heap_slot->tts_tableOid;
}

/*
 * Reads the visible version of a row, by the TID that indexes have of it, into the scan tuple;
 * false if there is none.
 */
bool
AnnScanFetch(AnnScanState *state, const ItemPointerData *tid)
{
	if (ItemPointerIsValid(&state->current) &&
		ItemPointerEquals(&state->current, unconstify(ItemPointerData *, tid)))
		return true;
	ExecClearTuple(state->css.ss.ss_ScanTupleSlot);
	if (!AnnScanFetchHeap(state, tid))
		return false;
	projectColumns(state);
	state->current = *tid;
	return true;
}

/*
 * The same by the TID of the version itself, which need not be one that an index has.
 */
bool
AnnScanFetchVersion(AnnScanState *state, const ItemPointerData *tid)
{
	ScanState  *ss = &state->css.ss;

	ItemPointerSetInvalid(&state->current);
	ExecClearTuple(ss->ss_ScanTupleSlot);
	ResetExprContext(state->heap_context);
	if (!table_tuple_fetch_row_version(ss->ss_currentRelation, unconstify(ItemPointerData *, tid),
									   ss->ps.state->es_snapshot, state->heap_slot))
		return false;
	projectColumns(state);
	state->current = *tid;
	return true;
}

/*
 * The next row of a scan of the table that passes the filter: it is in the heap
 * slot, and not yet the scan tuple.  False at the end.
 */
bool
AnnScanNextOfTable(AnnScanState *state, TableScanDesc scan, AnnScanRow *row)
{
	ItemPointerSetInvalid(&state->current);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (!table_scan_getnextslot(scan, ForwardScanDirection, state->heap_slot))
			return false;
		ResetExprContext(state->heap_context);
		if (ExecQual(state->heap_filter, state->heap_context))
			break;
		InstrCountFiltered1(&state->css.ss.ps, 1);
	}
	row->tid = state->heap_slot->tts_tid;
	row->lo = -get_float8_infinity();
	row->hi = get_float8_infinity();
	row->is_null = false;
	return true;
}

/* Gives a row, which is the current one, the distance that the SQL function computes. */
void
AnnScanComputeDistance(AnnScanState *state, AnnScanRow *row)
{
	bool		isnull;
	Datum		value = ExecEvalExprSwitchContext(state->distance, state->heap_context, &isnull);

	state->counts.computed++;
	row->is_null = isnull;
	row->lo = row->hi = isnull ? 0 : DatumGetFloat8(value);
}

/* Puts the distance of the current row into the scan tuple; the true one if it is read. */
static void
setDistance(AnnScanState *state, AnnScanRow *row, bool is_read)
{
	TupleTableSlot *slot = state->css.ss.ss_ScanTupleSlot;

	if (is_read && !row->is_null && row->lo < row->hi)
		AnnScanComputeDistance(state, row);
	slot->tts_values[state->distance_column] = Float8GetDatum(row->lo);
	slot->tts_isnull[state->distance_column] = row->is_null;
}

/* Whether the current row passes the filter; recheck says that the bitmap's conditions may not hold. */
static bool
matches(AnnScanState *state, AnnScanRow *row, bool recheck)
{
	ScanState  *ss = &state->css.ss;
	ExprContext *econtext = ss->ps.ps_ExprContext;

	ResetExprContext(econtext);
	if (!AnnScanInRange(state, row))
		return false;
	econtext->ecxt_scantuple = ss->ss_ScanTupleSlot;
	setDistance(state, row, state->filter_reads_distance);
	if (recheck && state->recheck != NULL && !ExecQual(state->recheck, econtext))
	{
		state->counts.unmatched++;
		return false;
	}
	if (!ExecQual(ss->ps.qual, econtext))
	{
		InstrCountFiltered1(&ss->ps, 1);
		return false;
	}
	return true;
}

/*
 * Whether the row is visible and passes the filter.  If so it is the scan tuple.
 * The quals come in the order the planner gave them, which security may demand.
 */
bool
AnnScanPasses(AnnScanState *state, AnnScanRow *row)
{
	return AnnScanFetch(state, &row->tid) &&
		matches(state, row, state->members == NULL || AnnTidSetNeedsRecheck(state->members, &row->tid));
}

/* Whether every visible row passes that the set of members has as one of its own. */
bool
AnnScanPassesAll(const AnnScanState *state)
{
	return state->css.ss.ps.qual == NULL && state->ranges == NULL;
}

/*
 * How many rows the index is told that will be taken; 0: nobody knows.  It widens
 * its search to find them in one go, so an estimate of what a filter leaves is not
 * trusted far: the search goes on by itself if it has to.
 */
static double
searchLimit(const AnnScanState *state)
{
	const AnnScanPlan *plan = &state->plan;
	double		limit = Min(plan->search_limit * (plan->search_limit > plan->limit ? REFUSED_MARGIN : 1), plan->limit * ANN_MAX_WIDENING);

	if (state->members == NULL && state->include == NULL)
	{
		if (state->ranges != NULL)
			return plan->search_limit;
		return state->css.ss.ps.qual == NULL && state->recheck == NULL ? plan->limit : state->told;
	}
	if (state->members != NULL)
		limit = Min(limit, AnnTidSetCount(state->members));
	return limit;
}

/* The key of an ordered scan. */
void
AnnScanKeyInit(ScanKey key, Relation index, Oid opno, Datum value, bool isnull)
{
	int			strategy;
	Oid			left;
	Oid			right;

	get_op_opfamily_properties(opno, index->rd_opfamily[0], true, &strategy, &left, &right);
	ScanKeyEntryInitialize(key, SK_ORDER_BY | (isnull ? SK_ISNULL : 0), 1, strategy, right, InvalidOid,
						   get_opcode(opno), value);
}

/* Begins to search the part of the index whose turn it is. */
static void
searchPart(AnnScanState *state)
{
	AnnScanCountSearch(state);
	index_rescan(state->scan, NULL, 0, &state->key, 1);
	state->index_done = state->index_ended = false;
	state->nahead = state->next_ahead = 0;
	state->nread = 0;
	state->searched = true;
	state->stopped = NULL;
	state->range_progress = 0;
	state->range_ranked = false;
	state->base->parts = list_nth_int(state->plan.parts, state->part);
	state->base->any_order = state->ranges != NULL;
	state->base->limit = searchLimit(state);
	state->base->members = state->members;
	if (state->include != NULL)
	{
		state->base->filter = AnnIncludePasses;
		state->base->filter_arg = state->include;
		state->base->share = state->plan.costs.passing;
		state->base->keys = AnnIncludeKeys(state->include, &state->base->nkeys);
	}
	if (state->members != NULL)
		state->base->max_work = AnnMaxWork(&state->plan, AnnTidSetCount(state->members), &state->base->trial);
	else
		state->base->max_work = AnnMaxWorkOfAll(&state->plan, state->spent);
	/* Rows without a distance need no sorting. */
	state->gather = 0;
	state->gathered = 0;
	state->looked_at = 0;
	if ((state->members != NULL || state->include != NULL || state->base->max_work > 0) && (state->base->parts & ANN_PART_NUMBERS))
		state->gather = (uint64) Max(state->plan.limit, 0);
	AnnScanOrderReset(state);
}

/* Ranks what passes. */
static void
rank(AnnScanState *state, const char *why)
{
	AnnScanRankMembers(state);
	state->stopped = why;
	state->phase = ANN_SCAN_RANKED;
}

/* Restricts the scan to the members; if they are few they are ranked, and the result is true. */
static bool
rankFewMembers(AnnScanState *state)
{
	AnnScanTrial trial;

	AnnScanMembersMake(state);
	if (AnnMaxWork(&state->plan, AnnTidSetCount(state->members), &trial) > 0)
		return false;
	rank(state, "members ranked at once");
	return true;
}

/* Begins to search the index for the query's value, or ranks the members if they are few. */
static void
startScan(AnnScanState *state)
{
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;
	Datum		value;
	bool		isnull;

	if (state->css.custom_ps != NIL && !state->plan.late_members && rankFewMembers(state))
		return;

	MemoryContextReset(state->query_memory);
	value = ExecEvalExprSwitchContext(state->query, econtext, &isnull);
	if (!isnull)
	{
		MemoryContext old = MemoryContextSwitchTo(state->query_memory);

		value = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
		MemoryContextSwitchTo(old);
	}
	AnnScanKeyInit(&state->key, state->index, state->plan.opno, value, isnull);
	if (state->include != NULL)
		AnnIncludeSet(state->include, state->include_operands, econtext);
	state->part = 0;
	state->beyond = false;
	/*
	 * A filter that the index does not know may let the first rows pass: told of as many as it is
	 * expected to refuse, the search would find them all before it returns one.
	 */
	state->told = state->plan.limit > 0 ? TOLD_MARGIN * AnnFirstTold(&state->plan) : 0;
	state->spent = 0;
	state->judged_at = 0;
	searchPart(state);
	state->phase = ANN_SCAN_SEARCH;
}

/* Adds what the index search did to the counts. */
void
AnnScanCountSearch(AnnScanState *state)
{
	if (!state->searched)
		return;
	state->searched = false;
	state->counts.visited += state->base->nvisited;
	state->counts.scored += state->base->nscored;
	state->counts.late += state->base->nlate;
	state->counts.probed += state->base->nprobed;
}

/*
 * Collects as many rows that pass as the query takes before the first is
 * returned, so that rows found late still come in order.  False if the search
 * gave up before, and the members had better be ranked.
 */
static bool
gather(AnnScanState *state)
{
	AnnScanRow	row;

	while (state->gathered < state->gather && AnnScanReadIndex(state, &row))
	{
		CHECK_FOR_INTERRUPTS();
		state->looked_at++;
		if (AnnScanPasses(state, &row))
		{
			row.passed = true;
			AnnScanOrderPut(state, &row);
			state->gathered++;
		}
		else if (state->members == NULL && state->include == NULL && state->looked_at > state->judged_at)
		{
			AnnSearchVerdict verdict = AnnJudgeSearch(&state->plan, state->looked_at, state->gathered, &state->told,
													  &state->spent);

			if (verdict == ANN_SEARCH_AGAIN)
			{
				state->judged_at = state->looked_at;
				searchPart(state);
			}
			else if (verdict == ANN_SEARCH_IS_LOST)
			{
				state->index_done = true;
				state->base->stop = ANN_STOP_WORK;
			}
		}
	}
	if (state->index_done && state->base->stop == ANN_STOP_WORK)
		return false;
	/* From here on rows are returned, which a ranking of the table would not know by their TIDs. */
	if (state->members == NULL)
		state->base->max_work = 0;
	return true;
}

/* Finds another way than the search, which has taken too long. */
static void
giveUp(AnnScanState *state)
{
	if (state->members != NULL)
		rank(state, "search cost more than ranking members");
	else if (!state->plan.late_members)
		rank(state, "search cost more than reading the table");
	else if (AnnFilterSurprises(&state->plan, state->looked_at, state->gathered))
	{
		/* What a search finds far from the query would be poor. */
		AnnScanMembersMake(state);
		rank(state, "filter refuses what is near");
	}
	else if (!rankFewMembers(state))
	{
		state->part = 0;
		searchPart(state);
	}
}

/* The next row of the result; it is the scan tuple.  False at the end. */
static bool
nextRow(AnnScanState *state, AnnScanRow *row)
{
	for (;;)
	{
		switch (state->phase)
		{
			case ANN_SCAN_START:
				startScan(state);
				break;
			case ANN_SCAN_SEARCH:
				if (state->ranges != NULL ? AnnScanNextInRange(state, row) :
					gather(state) && AnnScanOrderNext(state, row))
					return true;
				if (state->base->stop == ANN_STOP_WORK)
				{
					AnnScanOrderReset(state);
					giveUp(state);
					break;
				}
				if (state->base->stop == ANN_STOP_ITERATIVE)
					state->stopped = "settings limit the search";
				else
					state->stopped = state->beyond ? "the range ended" : "no more rows";
				if (++state->part < list_length(state->plan.parts))
				{
					searchPart(state);
					break;
				}
				state->phase = ANN_SCAN_END;
				break;
			case ANN_SCAN_RANKED:
				if (AnnScanRankedNext(state, row))
					return true;
				state->phase = ANN_SCAN_END;
				break;
			case ANN_SCAN_END:
				return false;
		}
	}
}

/*
 * EvalPlanQual: whether the version of the row that is to be rechecked, where
 * there is one, passes.  If so it is the scan tuple.
 */
static bool
recheckRow(AnnScanState *state, EPQState *epq, AnnScanRow *row)
{
	Index		rti = ((Scan *) state->css.ss.ps.plan)->scanrelid;
	TupleTableSlot *version = epq->relsubs_slot[rti - 1];

	if (epq->relsubs_done[rti - 1])
		return false;
	epq->relsubs_done[rti - 1] = true;
	ItemPointerSetInvalid(&state->current);
	ResetExprContext(state->heap_context);
	if (version == NULL)
	{
		if (!EvalPlanQualFetchRowMark(epq, rti, state->heap_slot))
			return false;
	}
	else if (TupIsNull(version))
		return false;
	else
		ExecCopySlot(state->heap_slot, version);
	projectColumns(state);
	row->is_null = false;
	row->lo = -get_float8_infinity();
	row->hi = get_float8_infinity();
	return matches(state, row, true);
}

static TupleTableSlot *
execScan(CustomScanState *css)
{
	AnnScanState *state = (AnnScanState *) css;
	ProjectionInfo *projection = css->ss.ps.ps_ProjInfo;
	ExprContext *econtext = css->ss.ps.ps_ExprContext;
	EPQState   *epq = css->ss.ps.state->es_epq_active;
	Index		rti = ((Scan *) css->ss.ps.plan)->scanrelid;
	AnnScanRow	row;
	bool		found;

	CHECK_FOR_INTERRUPTS();
	ResetExprContext(econtext);
	if (epq != NULL && (epq->relsubs_done[rti - 1] || epq->relsubs_slot[rti - 1] != NULL ||
						epq->relsubs_rowmark[rti - 1] != NULL))
		found = recheckRow(state, epq, &row);
	else
		found = nextRow(state, &row);
	if (!found)
	{
		ExecClearTuple(css->ss.ss_ScanTupleSlot);
		ItemPointerSetInvalid(&state->current);
		return projection ? ExecClearTuple(projection->pi_state.resultslot) : css->ss.ss_ScanTupleSlot;
	}
	if (state->members != NULL || state->ranges != NULL || state->phase == ANN_SCAN_RANKED)
		AnnScanRememberEmitted(state, &row);
	setDistance(state, &row, state->result_reads_distance);
	econtext->ecxt_scantuple = css->ss.ss_ScanTupleSlot;
	return projection ? ExecProject(projection) : css->ss.ss_ScanTupleSlot;
}

static void
rescan(CustomScanState *css)
{
	AnnScanState *state = (AnnScanState *) css;
	bool		keep_members = true;
	ListCell   *lc;

	foreach(lc, css->custom_ps)
	{
		PlanState  *child = lfirst(lc);

		if (css->ss.ps.chgParam != NULL)
			UpdateChangedParamSet(child, css->ss.ps.chgParam);
		if (child->chgParam != NULL)
			keep_members = false;
	}
	AnnScanCountSearch(state);
	AnnScanOrderReset(state);
	AnnScanMembersReset(state, keep_members);
	ItemPointerSetInvalid(&state->current);
	state->phase = ANN_SCAN_START;
	state->stopped = NULL;
	ExecScanReScan(&css->ss);
}

static void
endScan(CustomScanState *css)
{
	AnnScanState *state = (AnnScanState *) css;
	ListCell   *lc;

	if (state->scan != NULL)
	{
		AnnScanMembersReset(state, false);
		index_endscan(state->scan);
		index_close(state->index, NoLock);
	}
	foreach(lc, css->custom_ps)
		ExecEndNode(lfirst(lc));
}
