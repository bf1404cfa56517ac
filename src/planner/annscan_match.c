/*
 * annscan_match.c
 *	  Which orderings of a query an index of ours gives.
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/genam.h"
#include "access/stratnum.h"
#include "nodes/makefuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
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

static bool
matchDistance(IndexOptInfo *index, PathKey *pathkey, Expr *expr, AnnOrder *order)
{
	OpExpr	   *op = (OpExpr *) expr;
	Node	   *left;
	Node	   *right;

	if (!IsA(expr, OpExpr) || list_length(op->args) != 2)
		return false;
	left = linitial(op->args);
	right = lsecond(op->args);
	if (matchOperands(index, left, right, op->opno, pathkey->pk_opfamily))
	{
		order->query = (Expr *) right;
		order->opno = op->opno;
	}
	else if (matchOperands(index, right, left, get_commutator(op->opno), pathkey->pk_opfamily))
	{
		order->query = (Expr *) left;
		order->opno = get_commutator(op->opno);
	}
	else
		return false;
	order->index = index;
	order->pathkey = pathkey;
	order->distance = expr;
	return true;
}

/*
 * Whether the index gives the first of the query's orderings.  If so `*order` is
 * set; it points into the query's tree.
 */
bool
AnnMatchOrder(PlannerInfo *root, RelOptInfo *rel, IndexOptInfo *index, AnnOrder *order)
{
	PathKey    *pathkey = linitial(root->query_pathkeys);
	EquivalenceMember *member;
	AnnMemberIterator iterator;

	if (!AnnPathKeyIsAscending(pathkey) || pathkey->pk_nulls_first || pathkey->pk_eclass->ec_has_volatile)
		return false;
	if (!isOurs(index) || (index->indpred != NIL && !index->predOK))
		return false;
	AnnMembersBegin(&iterator, pathkey->pk_eclass, rel->relids);
	while ((member = AnnMembersNext(&iterator)) != NULL)
		if (bms_equal(member->em_relids, rel->relids) &&
			matchDistance(index, pathkey, member->em_expr, order))
			return true;
	return false;
}

/* The distance in the form the access method's cost estimate expects: indexed column on the left. */
Expr *
AnnOrderOperation(const AnnOrder *order)
{
	OpExpr	   *op = (OpExpr *) order->distance;
	OpExpr	   *turned;

	if (lsecond(op->args) == order->query)
		return (Expr *) op;
	turned = makeNode(OpExpr);
	*turned = *op;
	turned->opno = order->opno;
	turned->opfuncid = get_opcode(order->opno);
	turned->args = list_make2(lsecond(op->args), linitial(op->args));
	return (Expr *) turned;
}
