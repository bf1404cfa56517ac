/*
 * annscan_include.c
 *	  Conditions on included columns: which clauses an index can test while it is
 *	  searched, and the test.
 *
 * A row is tested before anybody knows whether its tuple is visible, as by any
 * index.  So a clause must be one that security barriers let go first, its
 * functions the server's own or leakproof, and nothing in it may depend on
 * anything but the column and values that are fixed for the scan.  A test
 * runs under the lock of an index page: types whose comparison looks up catalogs
 * are left out.
 *
 * Answers are "passes", "does not", and "unknown" (ANN_ATTRIBUTE_UNKNOWN); conditions are
 * joined by AND and OR alone.  AnnScan tests every clause again on the tuple.
 */
#include "postgres.h"

#include "access/hash.h"
#include "access/stratnum.h"
#include "catalog/pg_language_d.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "lib/qunique.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/restrictinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "compat.h"
#include "planner/annscan_include.h"
#include "space/attributes.h"

/* Lists of so many values are searched one by one. */
#define LINEAR_VALUES 6

typedef enum ConditionKind
{
	CONDITION_AND,
	CONDITION_OR,
	CONDITION_COMPARE,			/* column op value */
	CONDITION_ANY,				/* column op ANY (values) */
	CONDITION_ALL,				/* column op ALL (values) */
	CONDITION_NULL,
	CONDITION_NOT_NULL,
	CONDITION_TRUE,				/* a boolean column is */
	CONDITION_FALSE,
	CONDITION_NOT_TRUE,			/* false or NULL */
	CONDITION_NOT_FALSE
} ConditionKind;

/* A condition as it is planned; one that compares has a function and an operand. */
typedef struct Condition
{
	ConditionKind kind;
	int			column;			/* 0: the first included one */
	Oid			function;
	Oid			collation;
	Oid			order;			/* comparison function of the values of ANY, for a search; or invalid */
	Oid			hash;			/* of values that the first column is to equal; or invalid */
	int			operand;
	List	   *parts;			/* of AND and OR */
} Condition;

/* The same when it is run. */
typedef struct TestNode
{
	ConditionKind kind;
	int			column;
	Oid			collation;
	FmgrInfo	function;
	FmgrInfo	order;			/* fn_oid is invalid if there is none */
	FmgrInfo	hash;
	int			operand;
	bool		is_null;		/* the operand is NULL: nothing passes */
	bool		has_null;		/* one of ANY's or ALL's values is */
	Datum		value;
	Datum	   *values;
	int			nvalues;
	struct TestNode *parts;
	int			nparts;
} TestNode;

struct AnnIncludeTest
{
	AnnAttributes *attributes;
	TestNode	root;
	uint32	   *keys;
	int			nkeys;
	char	   *last;			/* the area that was tested last */
	AnnTestResult last_result;
	bool		has_last;
	MemoryContext context;		/* of operands, reset by AnnIncludeSet */
};

/* ---- planning ---- */

typedef struct MatchContext
{
	PlannerInfo *root;
	IndexOptInfo *index;
	bool		complete;		/* conditions are wanted, not just whether there are */
	List	  **operands;
} MatchContext;

/* The number of the included column that an expression is, or -1; its type unless type is NULL. */
static int
includedColumn(const MatchContext *context, Node *node, Oid *type)
{
	const IndexOptInfo *index = context->index;
	Var		   *var;

	while (node != NULL && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	if (node == NULL || !IsA(node, Var))
		return -1;
	var = (Var *) node;
	if (var->varno != (int) index->rel->relid || var->varlevelsup != 0 || var->varattno <= 0)
		return -1;
	if (type != NULL)
		*type = var->vartype;
	for (int i = index->nkeycolumns; i < index->ncolumns; i++)
		if (index->indexkeys[i] == var->varattno)
			return i - index->nkeycolumns;
	return -1;
}

/* Whether an expression has one value for a scan of the index's table. */
static bool
isFixed(const MatchContext *context, Node *node)
{
	return !bms_is_member(context->index->rel->relid, pull_varnos(context->root, node)) &&
		!contain_volatile_functions(node) && !contain_subplans(node);
}

/* A function that may see rows which its caller may not, and needs no catalogs. */
static bool
isSafeFunction(Oid function)
{
	HeapTuple	tuple;
	Form_pg_proc proc;
	bool		safe;

	if (!OidIsValid(function))
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return false;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	safe = proc->proisstrict && proc->provolatile == PROVOLATILE_IMMUTABLE &&
		(proc->prolang == INTERNALlanguageId || (proc->proleakproof && proc->prolang == ClanguageId));
	ReleaseSysCache(tuple);
	return safe;
}

/* A type whose comparison needs no catalogs: that of enums asks for the order of their values. */
static bool
isPlainType(Oid type, bool equality)
{
	if (type == ANYENUMOID)
		return equality;
	return get_typtype(type) == TYPTYPE_BASE && !OidIsValid(get_element_type(type));
}

/*
 * The function that hashes what the first included column is compared with as
 * AnnAttributesKey hashes the column; invalid if there is none.
 */
static Oid
keyFunction(Oid column, Oid operator, Oid right, Oid collation)
{
	TypeCacheEntry *type = lookup_type_cache(column, TYPECACHE_HASH_OPFAMILY);
	Oid			function;

	if (!OidIsValid(type->hash_opf) ||
		get_op_opfamily_strategy(operator, type->hash_opf) != HTEqualStrategyNumber ||
		(OidIsValid(collation) && !get_collation_isdeterministic(collation)))
		return InvalidOid;
	function = get_opfamily_proc(type->hash_opf, right, right, HASHSTANDARD_PROC);
	return isSafeFunction(function) ? function : InvalidOid;
}

/*
 * Fills function and collation for `column op value`; false if the operator is not one of
 * the default ordering of the column's type, or `<>`.
 */
static bool
matchOperator(Oid column, Oid operator, Oid collation, Condition *condition, bool *equality)
{
	Oid			left;
	Oid			right;
	TypeCacheEntry *type;
	Oid			negator = get_negator(operator);
	int			strategy;

	op_input_types(operator, &left, &right);
	if (!OidIsValid(left) || !OidIsValid(right))
		return false;
	type = lookup_type_cache(column, TYPECACHE_BTREE_OPFAMILY);
	if (!OidIsValid(type->btree_opf))
		return false;
	strategy = get_op_opfamily_strategy(operator, type->btree_opf);
	*equality = strategy == BTEqualStrategyNumber;
	if (strategy == 0 &&
		(!OidIsValid(negator) || get_op_opfamily_strategy(negator, type->btree_opf) != BTEqualStrategyNumber))
		return false;
	condition->function = get_opcode(operator);
	condition->collation = collation;
	if (!isSafeFunction(condition->function) ||
		!isPlainType(left, *equality || strategy == 0) || !isPlainType(right, *equality || strategy == 0))
		return false;
	condition->order = InvalidOid;
	condition->hash = InvalidOid;
	if (*equality && condition->column == 0)
		condition->hash = keyFunction(column, operator, right, collation);
	if (*equality && left == right)
	{
		Oid			order = get_opfamily_proc(type->btree_opf, left, left, 1);

		if (isSafeFunction(order) && type->typtype != TYPTYPE_ENUM)
			condition->order = order;
	}
	return true;
}

static Condition *
makeCondition(ConditionKind kind, int column)
{
	Condition  *condition = palloc0(sizeof(Condition));

	condition->kind = kind;
	condition->column = column;
	condition->operand = -1;
	return condition;
}

static void
setOperand(const MatchContext *context, Condition *condition, Node *operand)
{
	if (!context->complete)
		return;
	condition->operand = list_length(*context->operands);
	*context->operands = lappend(*context->operands, operand);
}

static Condition *
matchCompare(const MatchContext *context, OpExpr *clause)
{
	Condition	condition = {CONDITION_COMPARE};
	Condition  *result;
	Oid			operator = clause->opno;
	Node	   *value;
	Oid			column;
	bool		equality;

	if (list_length(clause->args) != 2)
		return NULL;
	condition.column = includedColumn(context, linitial(clause->args), &column);
	value = lsecond(clause->args);
	if (condition.column < 0)
	{
		condition.column = includedColumn(context, lsecond(clause->args), &column);
		value = linitial(clause->args);
		operator = get_commutator(operator);
	}
	if (condition.column < 0 || !OidIsValid(operator) || !isFixed(context, value) ||
		!matchOperator(column, operator, clause->inputcollid, &condition, &equality))
		return NULL;
	result = makeCondition(CONDITION_COMPARE, condition.column);
	*result = condition;
	setOperand(context, result, value);
	return result;
}

static Condition *
matchArray(const MatchContext *context, ScalarArrayOpExpr *clause)
{
	Condition	condition = {clause->useOr ? CONDITION_ANY : CONDITION_ALL};
	Condition  *result;
	Oid			column;
	bool		equality;

	condition.column = includedColumn(context, linitial(clause->args), &column);
	if (condition.column < 0 || !isFixed(context, lsecond(clause->args)) ||
		!matchOperator(column, clause->opno, clause->inputcollid, &condition, &equality))
		return NULL;
	if (!clause->useOr)
		condition.order = condition.hash = InvalidOid;
	result = makeCondition(condition.kind, condition.column);
	*result = condition;
	setOperand(context, result, lsecond(clause->args));
	return result;
}

/* A boolean column by itself, tested as `kind`. */
static Condition *
matchBoolean(const MatchContext *context, Node *node, ConditionKind kind)
{
	int			column = includedColumn(context, node, NULL);

	if (column < 0 || exprType(node) != BOOLOID)
		return NULL;
	return makeCondition(kind, column);
}

static Condition *matchClause(const MatchContext *context, Node *clause);

static Condition *
matchParts(const MatchContext *context, BoolExpr *clause)
{
	Condition  *result = makeCondition(clause->boolop == AND_EXPR ? CONDITION_AND : CONDITION_OR, -1);
	ListCell   *cell;

	foreach(cell, clause->args)
	{
		Condition  *part = matchClause(context, lfirst(cell));

		if (part == NULL)
			return NULL;
		result->parts = lappend(result->parts, part);
	}
	return result;
}

/* The condition that a clause is, or NULL. */
static Condition *
matchClause(const MatchContext *context, Node *clause)
{
	int			column;

	check_stack_depth();
	switch (nodeTag(clause))
	{
		case T_OpExpr:
			return matchCompare(context, (OpExpr *) clause);
		case T_ScalarArrayOpExpr:
			return matchArray(context, (ScalarArrayOpExpr *) clause);
		case T_NullTest:
			column = includedColumn(context, (Node *) ((NullTest *) clause)->arg, NULL);
			if (column < 0 || ((NullTest *) clause)->argisrow)
				return NULL;
			return makeCondition(((NullTest *) clause)->nulltesttype == IS_NULL ? CONDITION_NULL : CONDITION_NOT_NULL, column);
		case T_BooleanTest:
			switch (((BooleanTest *) clause)->booltesttype)
			{
				case IS_TRUE:
					return matchBoolean(context, (Node *) ((BooleanTest *) clause)->arg, CONDITION_TRUE);
				case IS_FALSE:
					return matchBoolean(context, (Node *) ((BooleanTest *) clause)->arg, CONDITION_FALSE);
				case IS_NOT_TRUE:
					return matchBoolean(context, (Node *) ((BooleanTest *) clause)->arg, CONDITION_NOT_TRUE);
				case IS_NOT_FALSE:
					return matchBoolean(context, (Node *) ((BooleanTest *) clause)->arg, CONDITION_NOT_FALSE);
				default:
					return NULL;
			}
		case T_BoolExpr:
			if (((BoolExpr *) clause)->boolop == NOT_EXPR)
				return matchBoolean(context, linitial(((BoolExpr *) clause)->args), CONDITION_FALSE);
			return matchParts(context, (BoolExpr *) clause);
		case T_Var:
			return matchBoolean(context, clause, CONDITION_TRUE);
		default:
			return NULL;
	}
}

/*
 * Those of the RestrictInfos that the index can test on its included columns.
 */
List *
AnnIncludeMatch(PlannerInfo *root, RelOptInfo *rel, IndexOptInfo *index, List *restrictions)
{
	MatchContext context = {root, index, false, NULL};
	List	   *result = NIL;
	ListCell   *cell;

	if (index->ncolumns == index->nkeycolumns)
		return NIL;
	foreach(cell, restrictions)
	{
		RestrictInfo *restriction = lfirst_node(RestrictInfo, cell);

		if (!restriction->pseudoconstant && restriction_is_securely_promotable(restriction, rel) &&
			matchClause(&context, (Node *) restriction->clause) != NULL)
			result = lappend(result, restriction);
	}
	return result;
}

/*
 * Whether one of the restrictions, which AnnIncludeMatch has chosen, says which values
 * the first included column has: then an index may know where such rows are.
 */
bool
AnnIncludeIsKeyed(PlannerInfo *root, IndexOptInfo *index, List *restrictions)
{
	MatchContext context = {root, index, false, NULL};
	ListCell   *cell;

	foreach(cell, restrictions)
	{
		Condition  *condition = matchClause(&context, (Node *) lfirst_node(RestrictInfo, cell)->clause);

		if (condition != NULL && (OidIsValid(condition->hash) || (condition->kind == CONDITION_NULL && condition->column == 0)))
			return true;
	}
	return false;
}

/* A condition as nodes that can be copied and written: a list of its numbers, then its parts. */
static List *
conditionToList(const Condition *condition)
{
	List	   *list;
	ListCell   *cell;

	list = list_make1(list_make5_int((int) condition->kind, condition->column, condition->operand,
									 (int) condition->function, (int) condition->collation));
	linitial(list) = lappend_int(lappend_int(linitial(list), (int) condition->order), (int) condition->hash);
	foreach(cell, condition->parts)
		list = lappend(list, conditionToList(lfirst(cell)));
	return list;
}

/*
 * The test of clauses that AnnIncludeMatch has chosen (bare ones, as a plan has them), in a form
 * that can be part of a plan, to which AnnIncludeInit is given later.  What columns are compared
 * with is appended to *operands: expressions that the plan has to have in its
 * custom_exprs.
 */
List *
AnnIncludePlan(PlannerInfo *root, IndexOptInfo *index, List *clauses, List **operands)
{
	MatchContext context = {root, index, true, operands};
	Condition  *all = makeCondition(CONDITION_AND, -1);
	ListCell   *cell;

	foreach(cell, clauses)
	{
		Condition  *condition = matchClause(&context, lfirst(cell));

		if (condition == NULL)
			elog(ERROR, "clause cannot be tested by an index");
		all->parts = lappend(all->parts, condition);
	}
	return conditionToList(all);
}

/* ---- running ---- */

static void
initNode(TestNode *node, const AnnAttributes *attributes, List *list)
{
	List	   *numbers = linitial(list);
	Oid			order = (Oid) list_nth_int(numbers, 5);
	Oid			hash = (Oid) list_nth_int(numbers, 6);

	node->kind = (ConditionKind) linitial_int(numbers);
	node->column = lsecond_int(numbers);
	node->operand = lthird_int(numbers);
	node->collation = (Oid) list_nth_int(numbers, 4);
	if (node->column >= attributes->count)
		elog(ERROR, "index has no included column %d", node->column);
	if (OidIsValid((Oid) lfourth_int(numbers)))
		fmgr_info((Oid) lfourth_int(numbers), &node->function);
	if (OidIsValid(order))
		fmgr_info(order, &node->order);
	if (OidIsValid(hash))
		fmgr_info(hash, &node->hash);
	/* Remembered by the backend from now on: the test itself must not look it up. */
	if (OidIsValid(node->collation))
		(void) pg_newlocale_from_collation(node->collation);
	node->nparts = list_length(list) - 1;
	node->parts = palloc0(sizeof(TestNode) * Max(node->nparts, 1));
	for (int i = 0; i < node->nparts; i++)
		initNode(&node->parts[i], attributes, list_nth(list, i + 1));
}

/*
 * Prepares a test in CurrentMemoryContext; it passes nothing before AnnIncludeSet.
 */
AnnIncludeTest *
AnnIncludeInit(Relation index, List *plan)
{
	AnnIncludeTest *test = palloc0(sizeof(AnnIncludeTest));

	test->attributes = AnnAttributesCreate(index);
	test->last = palloc(test->attributes->size);
	initNode(&test->root, test->attributes, plan);
	test->context = AllocSetContextCreate(CurrentMemoryContext, "ann included columns", ALLOCSET_SMALL_SIZES);
	return test;
}

static int
compareValues(const void *a, const void *b, void *arg)
{
	TestNode   *node = (TestNode *) arg;

	return DatumGetInt32(FunctionCall2Coll(&node->order, node->collation, *(const Datum *) a, *(const Datum *) b));
}

/* Takes the array apart; sorts its values if they are to be searched. */
static void
setValues(TestNode *node)
{
	ArrayType  *array = DatumGetArrayTypeP(node->value);
	bool	   *nulls;
	int16		length;
	bool		byval;
	char		align;
	int			n = 0;

	get_typlenbyvalalign(ARR_ELEMTYPE(array), &length, &byval, &align);
	deconstruct_array(array, ARR_ELEMTYPE(array), length, byval, align, &node->values, &nulls, &node->nvalues);
	node->has_null = false;
	for (int i = 0; i < node->nvalues; i++)
	{
		if (nulls[i])
			node->has_null = true;
		else
			node->values[n++] = length == -1 ? PointerGetDatum(PG_DETOAST_DATUM(node->values[i])) : node->values[i];
	}
	node->nvalues = n;
	if (OidIsValid(node->order.fn_oid) && n > LINEAR_VALUES)
		qsort_arg(node->values, n, sizeof(Datum), compareValues, node);
}

static void
setNode(TestNode *node, List *operands, ExprContext *econtext)
{
	if (node->operand >= 0)
	{
		ExprState  *state = list_nth(operands, node->operand);

		node->value = ExecEvalExpr(state, econtext, &node->is_null);
		if (!node->is_null)
		{
			int16		length;
			bool		byval;

			get_typlenbyval(exprType((Node *) state->expr), &length, &byval);
			if (length == -1)
				node->value = PointerGetDatum(PG_DETOAST_DATUM_COPY(node->value));
			else
				node->value = datumCopy(node->value, byval, length);
			if (node->kind == CONDITION_ANY || node->kind == CONDITION_ALL)
				setValues(node);
		}
	}
	for (int i = 0; i < node->nparts; i++)
		setNode(&node->parts[i], operands, econtext);
}

static int
compareKeys(const void *a, const void *b)
{
	uint32		x = *(const uint32 *) a;
	uint32		y = *(const uint32 *) b;

	return (x > y) - (x < y);
}

/* Finds the keys that a condition allows; leaves them NULL if that can be any. */
static void
findKeys(AnnIncludeTest *test, TestNode *node)
{
	int			n = 0;

	if (node->kind == CONDITION_NULL && node->column == 0)
	{
		test->keys = palloc(sizeof(uint32));
		test->keys[n++] = ANN_ATTRIBUTE_KEY_NULL;
	}
	else if (OidIsValid(node->hash.fn_oid) && OidIsValid(test->attributes->hash.fn_oid))
	{
		int			nvalues = node->is_null ? 0 : node->kind == CONDITION_ANY ? node->nvalues : 1;

		test->keys = palloc(sizeof(uint32) * (nvalues + 1));
		for (int i = 0; i < nvalues; i++)
			test->keys[n++] = DatumGetUInt32(FunctionCall1Coll(&node->hash, test->attributes->collation,
															   node->kind == CONDITION_ANY ? node->values[i] : node->value));
		if (test->attributes->columns[0].typlen < 0)
			test->keys[n++] = ANN_ATTRIBUTE_KEY_UNKNOWN;
	}
	else
		return;
	qsort(test->keys, n, sizeof(uint32), compareKeys);
	test->nkeys = n == 0 ? 0 : (int) qunique(test->keys, n, sizeof(uint32), compareKeys);
}

/*
 * Evaluates what columns are compared with: at the start of each scan, before the
 * index is given the test.  `operands` are the states of AnnIncludePlan's expressions.
 */
void
AnnIncludeSet(AnnIncludeTest *test, List *operands, ExprContext *econtext)
{
	MemoryContext old;

	MemoryContextReset(test->context);
	test->has_last = false;
	old = MemoryContextSwitchTo(test->context);
	setNode(&test->root, operands, econtext);
	test->keys = NULL;
	for (int i = 0; i < test->root.nparts && test->keys == NULL; i++)
		findKeys(test, &test->root.parts[i]);
	MemoryContextSwitchTo(old);
}

/*
 * The keys (AnnAttributesKey) of which every row that passes has one, ascending; NULL if they are
 * not known.  Valid until the next AnnIncludeSet.
 */
const uint32 *
AnnIncludeKeys(const AnnIncludeTest *test, int *nkeys)
{
	*nkeys = test->nkeys;
	return test->keys;
}

static inline bool
compare(TestNode *node, Datum column, Datum value)
{
	return DatumGetBool(FunctionCall2Coll(&node->function, node->collation, column, value));
}

static bool
passesAny(TestNode *node, Datum column)
{
	if (OidIsValid(node->order.fn_oid) && node->nvalues > LINEAR_VALUES)
		return bsearch_arg(&column, node->values, node->nvalues, sizeof(Datum), compareValues, node) != NULL;
	for (int i = 0; i < node->nvalues; i++)
		if (compare(node, column, node->values[i]))
			return true;
	return false;
}

static bool
passesAll(TestNode *node, Datum column)
{
	if (node->has_null)
		return false;
	for (int i = 0; i < node->nvalues; i++)
		if (!compare(node, column, node->values[i]))
			return false;
	return true;
}

static inline AnnTestResult
resultOf(bool passes)
{
	return passes ? ANN_TEST_PASSES : ANN_TEST_FAILS;
}

static AnnTestResult
passes(TestNode *node, const AnnAttributes *attributes, const char *area)
{
	AnnAttributeBuffer buffer;
	AnnAttributeState state;
	Datum		value;

	if (node->kind == CONDITION_AND || node->kind == CONDITION_OR)
	{
		AnnTestResult decided = node->kind == CONDITION_OR ? ANN_TEST_PASSES : ANN_TEST_FAILS;
		AnnTestResult result = node->kind == CONDITION_OR ? ANN_TEST_FAILS : ANN_TEST_PASSES;

		for (int i = 0; i < node->nparts && result != decided; i++)
		{
			AnnTestResult part = passes(&node->parts[i], attributes, area);

			result = node->kind == CONDITION_OR ? Max(result, part) : Min(result, part);
		}
		return result;
	}
	state = AnnAttributeGet(attributes, area, node->column, &buffer, &value);
	switch (node->kind)
	{
		case CONDITION_NULL:
			return resultOf(state == ANN_ATTRIBUTE_NULL);
		case CONDITION_NOT_NULL:
			return resultOf(state != ANN_ATTRIBUTE_NULL);
		case CONDITION_NOT_TRUE:
			return resultOf(state != ANN_ATTRIBUTE_VALUE || !DatumGetBool(value));
		case CONDITION_NOT_FALSE:
			return resultOf(state != ANN_ATTRIBUTE_VALUE || DatumGetBool(value));
		default:
			break;
	}
	if (node->is_null)
		return ANN_TEST_FAILS;
	/* Nothing is compared with no values. */
	if (node->kind == CONDITION_ALL && node->nvalues == 0 && !node->has_null)
		return ANN_TEST_PASSES;
	if (state != ANN_ATTRIBUTE_VALUE)
		return state == ANN_ATTRIBUTE_UNKNOWN ? ANN_TEST_UNKNOWN : ANN_TEST_FAILS;
	switch (node->kind)
	{
		case CONDITION_COMPARE:
			return resultOf(compare(node, value, node->value));
		case CONDITION_ANY:
			return resultOf(passesAny(node, value));
		case CONDITION_ALL:
			return resultOf(passesAll(node, value));
		case CONDITION_TRUE:
			return resultOf(DatumGetBool(value));
		default:
			return resultOf(!DatumGetBool(value));
	}
}

/* Whether two areas are the same; most are too small for a call. */
static inline bool
equalAreas(const char *a, const char *b, Size size)
{
	uint32		x;
	uint32		y;

	if (size < sizeof(uint32))
		return memcmp(a, b, size) == 0;
	for (Size i = 0; i < size; i += sizeof(uint32))
	{
		Size		at = Min(i, size - sizeof(uint32));

		memcpy(&x, a + at, sizeof(uint32));
		memcpy(&y, b + at, sizeof(uint32));
		if (x != y)
			return false;
	}
	return true;
}

/*
 * Whether a row with this attribute area may fulfil the conditions (AnnAttributeFilter).
 */
AnnTestResult
AnnIncludePasses(void *test, const char *attributes)
{
	AnnIncludeTest *t = (AnnIncludeTest *) test;
	Size		size = t->attributes->size;

	/* Rows of a chain are likely to have equal areas. */
	if (!t->has_last || !equalAreas(attributes, t->last, size))
	{
		t->last_result = passes(&t->root, t->attributes, attributes);
		memcpy(t->last, attributes, size);
		t->has_last = true;
	}
	return t->last_result;
}
