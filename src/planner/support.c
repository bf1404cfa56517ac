/*
 * support.c
 *	  What a distance costs: the planner support function of every distance
 *	  function.
 *
 * A distance is priced by the bytes it reads and by whether they have to be
 * fetched from a TOAST table; an ordinary function's fixed cost of one
 * operator knows neither.  src/planner/README has the measurements behind the
 * constants.
 */
#include "postgres.h"

#include <math.h>

#include "access/detoast.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/supportnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/varbit.h"

#include "compat.h"
#include "planner/planner.h"
#include "types/types.h"

/* In units of cpu_operator_cost: the call, each cache line, a fetch from TOAST and each of its chunks. */
#define CALL_OPS 4.0
#define LINE_BYTES 64.0
#define FETCH_OPS 100.0
#define CHUNK_OPS 16.0

/* A sparse merge goes element by element. */
#define SPARSE_FACTOR 4.0

/* The smallest toast_tuple_target there can be: smaller values stay in the row. */
#define SMALLEST_TOASTED 128

/* Assumed where neither type modifier nor statistics tell. */
#define DEFAULT_DIM 768
#define DEFAULT_NNZ 64

/* An argument of a distance function. */
typedef struct ArgEstimate
{
	double		bytes;			/* 0: unknown */
	double		toasted;		/* share of its values that lie in a TOAST table */
} ArgEstimate;

PG_FUNCTION_INFO_V1(ann_distance_support);

/* Whether a function, if there is one, is a distance of ours. */
bool
AnnIsDistance(Oid function)
{
	Oid			support = OidIsValid(function) ? get_func_support(function) : InvalidOid;
	FmgrInfo	info;

	if (!OidIsValid(support))
		return false;
	fmgr_info(support, &info);
	return info.fn_addr == ann_distance_support;
}

/* Which kind of vector a type is, by its name: the types may live in any schema. */
AnnKind
AnnKindOfType(Oid type)
{
	HeapTuple	tuple;
	AnnKind		kind = ANN_KIND_NONE;

	if (type == BITOID || type == VARBITOID)
		return ANN_KIND_BIT;
	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	if (HeapTupleIsValid(tuple))
	{
		const char *name = NameStr(((Form_pg_type) GETSTRUCT(tuple))->typname);

		if (strcmp(name, "vector") == 0)
			kind = ANN_KIND_VECTOR;
		else if (strcmp(name, "halfvec") == 0)
			kind = ANN_KIND_HALFVEC;
		else if (strcmp(name, "sparsevec") == 0)
			kind = ANN_KIND_SPARSEVEC;
		ReleaseSysCache(tuple);
	}
	return kind;
}

/* Bytes of a value with this many dimensions; of a sparse one, with this many elements. */
static double
BytesOfDim(AnnKind kind, int dim)
{
	switch (kind)
	{
		case ANN_KIND_NONE:
			break;
		case ANN_KIND_VECTOR:
			return AnnVectorSize(dim);
		case ANN_KIND_HALFVEC:
			return AnnHalfVectorSize(dim);
		case ANN_KIND_SPARSEVEC:
			return AnnSparseVectorSize(dim);
		case ANN_KIND_BIT:
			return VARBITTOTALLEN((double) dim);
	}
	return 0;
}

/* Whether values of a table's column are moved to its TOAST table when rows are large. */
static bool
IsToastable(Oid relid, AttrNumber attnum)
{
	HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(attnum));
	bool		toastable = false;

	if (HeapTupleIsValid(tuple))
	{
		char		storage = ((Form_pg_attribute) GETSTRUCT(tuple))->attstorage;

		toastable = storage == TYPSTORAGE_EXTERNAL || storage == TYPSTORAGE_EXTENDED;
		ReleaseSysCache(tuple);
	}
	return toastable;
}

/*
 * A column whose values have so many bytes by its type modifier (0: it has
 * none).  The statistics know the width of what is in the row, so both
 * together tell how many values are no more than a TOAST pointer there.
 */
static ArgEstimate
EstimateColumn(PlannerInfo *root, const Var *var, double bytes)
{
	ArgEstimate est = {bytes, 0};
	bool		toastable = true;
	double		width = 0;

	if (root != NULL && var->varlevelsup == 0 && var->varattno > 0)
	{
		RangeTblEntry *rte = planner_rt_fetch(var->varno, root);

		if (rte->rtekind == RTE_RELATION)
		{
			toastable = IsToastable(rte->relid, var->varattno);
			width = get_attavgwidth(rte->relid, var->varattno);
		}
	}

	if (bytes > 0 && bytes <= SMALLEST_TOASTED)
		toastable = false;

	if (toastable && width > 0 && bytes > 0)
	{
		/* in the row the header may be a short one */
		double		in_row = bytes - VARHDRSZ + VARHDRSZ_SHORT;

		est.toasted = Min(1, Max(0, (in_row - width) / (in_row - TOAST_POINTER_SIZE)));
	}
	else if (toastable && width > 0 && width <= TOAST_POINTER_SIZE)
		est.toasted = 1;
	else if (toastable && width <= 0 && bytes > TOAST_TUPLE_TARGET - SizeofHeapTupleHeader)
		est.toasted = 1;
	else if (bytes == 0)
		est.bytes = width;
	return est;
}

static ArgEstimate
EstimateArg(PlannerInfo *root, Node *arg, AnnKind kind)
{
	ArgEstimate est = {0, 0};
	int32		typmod = exprTypmod(arg);

	while (IsA(arg, RelabelType))
		arg = (Node *) ((RelabelType *) arg)->arg;
	/* A domain knows the dimensions of its values. */
	if (typmod < 0)
		getBaseTypeAndTypmod(exprType(arg), &typmod);
	if (typmod > 0 && kind != ANN_KIND_SPARSEVEC)
		est.bytes = BytesOfDim(kind, typmod);

	if (IsA(arg, Const) && !((Const *) arg)->constisnull)
		est.bytes = toast_raw_datum_size(((Const *) arg)->constvalue);
	else if (IsA(arg, Var))
		est = EstimateColumn(root, (Var *) arg, est.bytes);
	return est;
}

/*
 * Both arguments have the same dimensions, so whichever is known tells the
 * size.  At most one of them changes with every row: the other is fetched
 * once (AnnDetoastArg keeps it).
 */
static Cost
DistanceCost(PlannerInfo *root, List *args)
{
	AnnKind		kind = AnnKindOfType(exprType(linitial(args)));
	double		bytes = 0;
	double		toasted = 0;
	double		ops;
	ListCell   *lc;

	foreach(lc, args)
	{
		ArgEstimate est = EstimateArg(root, lfirst(lc), kind);

		bytes = Max(bytes, est.bytes);
		toasted = Max(toasted, est.toasted);
	}
	if (bytes == 0)
		bytes = BytesOfDim(kind, kind == ANN_KIND_SPARSEVEC ? DEFAULT_NNZ : DEFAULT_DIM);

	ops = CALL_OPS + bytes / LINE_BYTES * (kind == ANN_KIND_SPARSEVEC ? SPARSE_FACTOR : 1);
	ops += toasted * (FETCH_OPS + CHUNK_OPS * ceil(bytes / TOAST_MAX_CHUNK_SIZE));
	return ops * cpu_operator_cost;
}

/* Answers a cost request for any function of two vectors of one kind. */
Datum
ann_distance_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);

	if (IsA(request, SupportRequestCost))
	{
		SupportRequestCost *req = (SupportRequestCost *) request;
		List	   *args = NIL;

		if (req->node != NULL && IsA(req->node, OpExpr))
			args = ((OpExpr *) req->node)->args;
		else if (req->node != NULL && IsA(req->node, FuncExpr))
			args = ((FuncExpr *) req->node)->args;

		if (args != NIL)
		{
			req->startup = 0;
			req->per_tuple = DistanceCost(req->root, args);
			PG_RETURN_POINTER(req);
		}
	}
	PG_RETURN_POINTER(NULL);
}
