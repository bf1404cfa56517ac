/*
 * annscan_match.c
 *	  Which orderings of a query an index of ours gives.
 */
#include "postgres.h"

#include <math.h>

#include "access/amapi.h"
#include "access/genam.h"
#include "access/stratnum.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "planner/annscan.h"
#include "space/scan.h"

/* Whether the index's access method is one of ours. */
static bool
isOurs(const IndexOptInfo *index)
{
	IndexAmRoutine *routine;
	bool		ours;

	if (!index->amcanorderbyop || !index->amhasgettuple || index->amhasgetbitmap)
		return false;
	routine = GetIndexAmRoutineByAmId(index->relam, false);
	ours = routine->amgettuple == ann_index_gettuple;
	pfree(routine);
	return ours;
}

/*
 * Whether `column` is the indexed column and `query` is the same for every row,
 * so that `column opno query` is a distance that the index orders by.
 */
static bool
matchOperands(const IndexOptInfo *index, Node *column, Node *query, Oid opno, Oid sort_family)
{
	return OidIsValid(opno) &&
		match_index_to_operand(column, 0, unconstify(IndexOptInfo *, index)) &&
		get_op_opfamily_sortfamily(opno, index->opfamily[0]) == sort_family &&
		!contain_var_clause(query) && !contain_volatile_functions(query) && !contain_subplans(query);
}

/* The operator by which an index orders, if the function computes what it does; else InvalidOid. */
static Oid
operatorOfFunction(const IndexOptInfo *index, Oid function)
{
	Oid			opno = get_opfamily_member(index->opfamily[0], index->opcintype[0], index->opcintype[0], 1);

	return OidIsValid(opno) && get_opcode(opno) == function ? opno : InvalidOid;
}

/*
 * Whether the expression is a distance that the index orders by: its operator, or the
 * function of that, between the indexed column and something that does not
 * depend on the row.
 */
static bool
matchDistance(IndexOptInfo *index, Oid sort_family, Expr *expr, AnnOrder *order)
{
	List	   *args;
	Oid			opno;
	Node	   *left;
	Node	   *right;

	if (IsA(expr, OpExpr))
	{
		opno = ((OpExpr *) expr)->opno;
		args = ((OpExpr *) expr)->args;
	}
	else if (IsA(expr, FuncExpr))
	{
		opno = operatorOfFunction(index, ((FuncExpr *) expr)->funcid);
		args = ((FuncExpr *) expr)->args;
	}
	else
		return false;
	if (list_length(args) != 2)
		return false;
	left = linitial(args);
	right = lsecond(args);
	if (matchOperands(index, left, right, opno, sort_family))
		order->query = (Expr *) right;
	else if (OidIsValid(opno) && matchOperands(index, right, left, get_commutator(opno), sort_family))
	{
		order->query = (Expr *) left;
		opno = get_commutator(opno);
	}
	else
		return false;
	order->opno = opno;
	order->index = index;
	order->distance = expr;
	return true;
}

/* The value of a float8 constant; false if it is none, or not a finite number. */
static bool
finiteConstant(Node *node, double *value)
{
	if (!IsA(node, Const) || ((Const *) node)->constisnull || ((Const *) node)->consttype != FLOAT8OID)
		return false;
	*value = DatumGetFloat8(((Const *) node)->constvalue);
	return isfinite(*value);
}

/*
 * Whether the expression grows with a distance that the index orders by, or
 * falls as that grows: c + d, d + c, d - c, c - d, -d, c * d, d * c, d / c, and these
 * within each other.  Sets order->query, opno, index, distance and falling.
 */
bool
AnnMatchMonotone(IndexOptInfo *index, Oid sort_family, Expr *expr, AnnOrder *order)
{
	OpExpr	   *op = (OpExpr *) expr;
	Expr	   *inner;
	double		constant;
	bool		falls;

	check_stack_depth();
	order->falling = false;
	if (matchDistance(index, sort_family, expr, order))
		return true;
	if (!IsA(expr, OpExpr))
		return false;
	if (list_length(op->args) == 1)
	{
		if (get_opcode(op->opno) != F_FLOAT8UM)
			return false;
		inner = linitial(op->args);
		falls = true;
	}
	else
	{
		bool		first = finiteConstant(linitial(op->args), &constant);

		if (!first && !finiteConstant(lsecond(op->args), &constant))
			return false;
		inner = first ? lsecond(op->args) : linitial(op->args);
		switch (get_opcode(op->opno))
		{
			case F_FLOAT8PL:
				falls = false;
				break;
			case F_FLOAT8MI:
				falls = first;
				break;
			case F_FLOAT8MUL:
				if (constant == 0)
					return false;
				falls = constant < 0;
				break;
			case F_FLOAT8DIV:
				if (first || constant == 0)
					return false;
				falls = constant < 0;
				break;
			default:
				return false;
		}
	}
	if (!AnnMatchMonotone(index, sort_family, inner, order))
		return false;
	order->falling ^= falls;
	return true;
}

/* Whether AnnScan can search the index for this query. */
bool
AnnCanSearch(const IndexOptInfo *index)
{
	return isOurs(index) && (index->indpred == NIL || index->predOK);
}

/*
 * Whether the index gives the first of the query's orderings.  If so `*order` is
 * set, but for conditions; it points into the query's tree.
 */
bool
AnnMatchOrder(PlannerInfo *root, RelOptInfo *rel, IndexOptInfo *index, AnnOrder *order)
{
	PathKey    *pathkey = linitial(root->query_pathkeys);
	EquivalenceMember *member;
	AnnMemberIterator iterator;

	if (pathkey->pk_eclass->ec_has_volatile)
		return false;
	AnnMembersBegin(&iterator, pathkey->pk_eclass, rel->relids);
	while ((member = AnnMembersNext(&iterator)) != NULL)
	{
		memset(order, 0, sizeof(*order));
		if (bms_equal(member->em_relids, rel->relids) &&
			AnnMatchMonotone(index, pathkey->pk_opfamily, member->em_expr, order) &&
			AnnPathKeyIsAscending(pathkey) != order->falling)
		{
			order->pathkey = pathkey;
			return true;
		}
	}
	return false;
}

/*
 * In which order the parts of the index are searched (scan.h): NaN is the greatest
 * number of all, and NULL comes where the query says.  A list of sets of parts.
 * Beyond a range there are no NULLs, and NaNs only if a falling expression is compared.
 */
List *
AnnOrderParts(const AnnOrder *order)
{
	bool		nulls_first = order->pathkey != NULL && order->pathkey->pk_nulls_first;
	bool		nulls = true;
	bool		nans = true;
	List	   *parts = NIL;
	ListCell   *lc;

	if (order->ranges == NIL && !order->falling && !nulls_first)
		return list_make1_int(ANN_PART_ALL);
	foreach(lc, order->ranges)
	{
		nulls = false;
		nans = nans && ((AnnRange *) lfirst(lc))->falling;
	}
	if (nulls && nulls_first)
		parts = lappend_int(parts, ANN_PART_NULLS);
	if (nans && order->falling)
		parts = lappend_int(parts, ANN_PART_NANS);
	parts = lappend_int(parts, ANN_PART_NUMBERS);
	if (nans && !order->falling)
		parts = lappend_int(parts, ANN_PART_NANS);
	if (nulls && !nulls_first)
		parts = lappend_int(parts, ANN_PART_NULLS);
	return parts;
}

/* The distance in the form the access method's cost estimate expects: indexed column on the left. */
Expr *
AnnOrderOperation(const AnnOrder *order)
{
	OpExpr	   *op;
	List	   *args;

	if (IsA(order->distance, OpExpr) && lsecond(((OpExpr *) order->distance)->args) == order->query)
		return order->distance;
	args = IsA(order->distance, OpExpr) ? ((OpExpr *) order->distance)->args : ((FuncExpr *) order->distance)->args;
	op = makeNode(OpExpr);
	op->opno = order->opno;
	op->opfuncid = get_opcode(order->opno);
	op->opresulttype = exprType((Node *) order->distance);
	op->inputcollid = exprInputCollation((Node *) order->distance);
	op->location = -1;
	op->args = lsecond(args) == order->query ? args : list_make2(lsecond(args), linitial(args));
	return (Expr *) op;
}
