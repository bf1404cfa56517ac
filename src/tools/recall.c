/*
 * recall.c
 *	  SQL functions ann_recall and ann_tune: how many of the nearest rows an index
 *	  finds, and how wide it has to search for it.
 *
 * The truth comes from the table: one pass computes the distances of all rows from
 * all queries, with the function behind the operator, and keeps the k least
 * of each query.  A row that the index returns counts if it is no farther than the last of
 * these, so equal distances count whichever row comes.
 *
 * Rows of the table that serve as queries are searched for as if they were not in the
 * index.  A graph leads from a row to its neighbours by its own edges, which a query
 * from outside does not have: with the row in place recall would look better than it is.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "commands/tablecmds.h"
#include "common/pg_prng.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "space/scan.h"
#include "tools/tools.h"

#define MAX_K 10000
#define MAX_QUERIES 10000

/* The support function of both access methods that tells the metric. */
#define DISTANCE_PROC 1

/* Cosine distance of vectors that differ in length alone: rounding. */
#define COSINE_ROUNDING 1e-6

/* ann_tune ends when the least setting is known to one part in so many. */
#define TUNE_PARTS 16

typedef struct RecallQuery
{
	struct varlena *value;
	double	   *nearest;		/* distances of the nearest rows: a heap with the farthest on top */
	int			nnearest;
} RecallQuery;

typedef struct Recall
{
	Relation	heap;
	Relation	index;
	const AnnToolMethods *methods;
	Snapshot	snapshot;
	IndexInfo  *info;
	EState	   *estate;
	ExprState  *predicate;
	TupleTableSlot *slot;
	Oid			type;			/* of the indexed values */
	Oid			operator_proc;
	FmgrInfo	distance;
	Oid			collation;
	bool		cosine;
	int			k;
	bool		sampled;		/* the queries are rows */
	RecallQuery	   *queries;
	int			nqueries;
	MemoryContext search_context;	/* reset after each search */
	Oid			user;
	int			security;
	int			guc_level;
} Recall;

/* What the searches found. */
typedef struct Measured
{
	double		recall;			/* mean over the queries */
	double		worst;
	double		ms;				/* of a search, the median */
	double		visited;		/* rows or entries, by all of them */
	double		widest;			/* rows visited or lists read, by the one that took most: a wider search takes no more if
								 * that is less than the setting */
	int			nqueries;		/* that have a neighbour */
} Measured;

/*
 * Opens the index and the table, and becomes the owner, as whose code expressions of the index run.
 * `element` is the type of the caller's queries, or invalid.
 */
static void
begin(Recall *r, Oid relid, int k, Oid element)
{
	Oid			operator;

	if (k < 1 || k > MAX_K)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("k must be between 1 and %d", MAX_K)));
	memset(r, 0, sizeof(*r));
	r->k = k;
	r->index = AnnToolOpenIndex(relid, AccessShareLock, &r->heap, &r->methods);
	r->type = r->index->rd_opcintype[0];
	if (OidIsValid(element) && getBaseType(element) != r->type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("queries are of type %s, but index \"%s\" is on %s", format_type_be(element),
						RelationGetRelationName(r->index), format_type_be(r->type))));
	operator = get_opfamily_member(r->index->rd_opfamily[0], r->type, r->type, 1);
	if (!OidIsValid(operator))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("operator class of index \"%s\" has no distance operator", RelationGetRelationName(r->index))));
	r->operator_proc = get_opcode(operator);
	fmgr_info(r->operator_proc, &r->distance);
	r->collation = r->index->rd_indcollation[0];
	r->cosine = AnnIndexMetric(r->index, DISTANCE_PROC) == ANN_METRIC_COSINE;

	GetUserIdAndSecContext(&r->user, &r->security);
	SetUserIdAndSecContext(r->heap->rd_rel->relowner, r->security | SECURITY_RESTRICTED_OPERATION);
	r->guc_level = NewGUCNestLevel();
	AnnRestrictSearchPath();

	r->snapshot = RegisterSnapshot(GetActiveSnapshot());
	r->info = BuildIndexInfo(r->index);
	r->estate = CreateExecutorState();
	r->predicate = ExecPrepareQual(r->info->ii_Predicate, r->estate);
	r->slot = table_slot_create(r->heap, NULL);
	r->search_context = AllocSetContextCreate(CurrentMemoryContext, "ann recall search", ALLOCSET_DEFAULT_SIZES);
}

static void
end(Recall *r)
{
	ExecDropSingleTupleTableSlot(r->slot);
	FreeExecutorState(r->estate);
	UnregisterSnapshot(r->snapshot);
	AtEOXact_GUC(false, r->guc_level);
	SetUserIdAndSecContext(r->user, r->security);
	index_close(r->index, NoLock);
	table_close(r->heap, NoLock);
}

/* The indexed value of the tuple in the slot, in the memory of one tuple; false if it is NULL. */
static bool
indexedValue(Recall *r, Datum *value)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];

	GetPerTupleExprContext(r->estate)->ecxt_scantuple = r->slot;
	FormIndexDatum(r->info, r->slot, r->estate, values, isnull);
	*value = values[0];
	return !isnull[0];
}

/* Calls `visit` for each row that is in the index and has a vector; its memory is that of one tuple. */
static void
scanTable(Recall *r, void (*visit) (Recall *r, Datum value, void *arg), void *arg)
{
	/* From the first block on, so that the sample is the same next time. */
	TableScanDesc scan = table_beginscan_strat(r->heap, r->snapshot, 0, NULL, true, false);

	while (table_scan_getnextslot(scan, ForwardScanDirection, r->slot))
	{
		ExprContext *context = GetPerTupleExprContext(r->estate);
		Datum		value;

		CHECK_FOR_INTERRUPTS();
		ResetExprContext(context);
		context->ecxt_scantuple = r->slot;
		if (r->predicate == NULL || ExecQual(r->predicate, context))
		{
			MemoryContext old = MemoryContextSwitchTo(context->ecxt_per_tuple_memory);

			if (indexedValue(r, &value))
				visit(r, value, arg);
			MemoryContextSwitchTo(old);
		}
	}
	table_endscan(scan);
}

/* ---- Queries ---- */

typedef struct Sample
{
	MemoryContext context;
	Datum	   *values;			/* as the table has them: TOASTed ones stay where they are */
	int			n;
	int			wanted;
	uint64		seen;
	pg_prng_state random;
} Sample;

/* Each row of the table has the same chance (reservoir sampling). */
static void
sampleRow(Recall *r, Datum value, void *arg)
{
	Sample	   *sample = (Sample *) arg;
	uint64		at = sample->seen++;
	MemoryContext old;

	if (at >= sample->wanted)
		at = pg_prng_uint64_range(&sample->random, 0, at);
	if (at >= sample->wanted)
		return;
	old = MemoryContextSwitchTo(sample->context);
	if (at < sample->n)
		pfree(DatumGetPointer(sample->values[at]));
	else
		sample->n++;
	sample->values[at] = datumCopy(value, false, -1);
	MemoryContextSwitchTo(old);
}

static void
allocateQueries(Recall *r, int n)
{
	r->nqueries = n;
	r->queries = palloc0(mul_size(sizeof(RecallQuery), Max(n, 1)));
	for (int i = 0; i < n; i++)
		r->queries[i].nearest = palloc(mul_size(sizeof(double), r->k));
}

/* Rows of the table become the queries: the same ones as long as the table does not change. */
static void
sampleQueries(Recall *r, int wanted)
{
	Sample		sample = {.context = CurrentMemoryContext, .wanted = wanted};

	if (wanted < 1 || wanted > MAX_QUERIES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("sample must be between 1 and %d", MAX_QUERIES)));
	pg_prng_seed(&sample.random, 0);
	sample.values = palloc(sizeof(Datum) * wanted);
	scanTable(r, sampleRow, &sample);
	allocateQueries(r, sample.n);
	for (int i = 0; i < sample.n; i++)
		r->queries[i].value = PG_DETOAST_DATUM(sample.values[i]);
	r->sampled = true;
}

/* The elements of the array become the queries. */
static void
givenQueries(Recall *r, ArrayType *array)
{
	int16		length;
	bool		by_value;
	char		align;
	Datum	   *values;
	bool	   *isnull;
	int			n;

	get_typlenbyvalalign(ARR_ELEMTYPE(array), &length, &by_value, &align);
	deconstruct_array(array, ARR_ELEMTYPE(array), length, by_value, align, &values, &isnull, &n);
	if (n < 1 || n > MAX_QUERIES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there must be between 1 and %d queries", MAX_QUERIES)));
	allocateQueries(r, n);
	for (int i = 0; i < n; i++)
	{
		if (isnull[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("queries must not contain nulls")));
		r->queries[i].value = PG_DETOAST_DATUM(values[i]);
	}
}

/* ---- Truth ---- */

/* The operator's distance; NaN counts as the farthest. */
static double
distanceOf(Recall *r, struct varlena *value, const RecallQuery *query)
{
	double		distance = DatumGetFloat8(FunctionCall2Coll(&r->distance, r->collation, PointerGetDatum(value),
															PointerGetDatum(query->value)));

	return isnan(distance) ? INFINITY : distance;
}

/* Whether a row is the query itself, or its like: such are not looked for. */
static bool
isQuery(const Recall *r, const struct varlena *value, const RecallQuery *query, double distance)
{
	if (!r->sampled)
		return false;
	if (r->cosine && distance < COSINE_ROUNDING)
		return true;
	return VARSIZE(value) == VARSIZE(query->value) && memcmp(value, query->value, VARSIZE(value)) == 0;
}

static void
keepNearest(RecallQuery *query, int k, double distance)
{
	double	   *heap = query->nearest;
	int			i;

	if (query->nnearest < k)
	{
		for (i = query->nnearest++; i > 0 && heap[(i - 1) / 2] < distance; i = (i - 1) / 2)
			heap[i] = heap[(i - 1) / 2];
		heap[i] = distance;
		return;
	}
	if (!(distance < heap[0]))
		return;
	for (i = 0;;)
	{
		int			child = 2 * i + 1;

		if (child >= k)
			break;
		if (child + 1 < k && heap[child + 1] > heap[child])
			child++;
		if (heap[child] <= distance)
			break;
		heap[i] = heap[child];
		i = child;
	}
	heap[i] = distance;
}

/* Compares a row with the first *arg queries. */
static void
compareRow(Recall *r, Datum value, void *arg)
{
	struct varlena *row = PG_DETOAST_DATUM(value);

	for (int i = 0; i < *(int *) arg; i++)
	{
		RecallQuery	   *query = &r->queries[i];
		double		distance = distanceOf(r, row, query);

		if ((query->nnearest < r->k || distance < query->nearest[0]) && !isQuery(r, row, query, distance))
			keepNearest(query, r->k, distance);
	}
}

/* Finds the nearest rows of the first n queries, by all rows. */
static void
findNearest(Recall *r, int n)
{
	for (int i = 0; i < n; i++)
		r->queries[i].nnearest = 0;
	scanTable(r, compareRow, &n);
}

/* ---- Searches ---- */

static int
compareDoubles(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

/*
 * One search of the index, as a plain index scan makes it below LIMIT k (AnnScan, which is told of
 * the limit, finds as many or more); if `absent`, as it would be if the query were not in the index.  Returns how many of the rows that it finds are among the nearest.
 */
static int
search(Recall *r, IndexScanDesc scan, const RecallQuery *query, bool absent)
{
	RecallQuery		found = {.nearest = palloc(sizeof(double) * r->k)};
	ScanKeyData key;
	AnnIndexScan *base = AnnIndexScanOf(scan);
	int			hits = 0;

	ScanKeyEntryInitialize(&key, SK_ORDER_BY, 1, 1, r->type, r->collation, r->operator_proc,
						   PointerGetDatum(query->value));
	index_rescan(scan, NULL, 0, &key, 1);
	base->uncounted = true;
	base->absent = absent;
	while (index_getnext_slot(scan, ForwardScanDirection, r->slot))
	{
		struct varlena *row;
		double		distance;
		Datum		value;
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		ResetExprContext(GetPerTupleExprContext(r->estate));
		if (scan->xs_orderbynulls[0] || !indexedValue(r, &value))
			break;
		old = MemoryContextSwitchTo(GetPerTupleMemoryContext(r->estate));
		row = PG_DETOAST_DATUM(value);
		distance = distanceOf(r, row, query);
		if (!isQuery(r, row, query, distance))
			keepNearest(&found, r->k, distance);
		MemoryContextSwitchTo(old);
		/* Ends where the executor would: with k rows that nothing to come is nearer than. */
		if (found.nnearest == r->k &&
			found.nearest[0] <= (scan->xs_recheckorderby ? DatumGetFloat8(scan->xs_orderbyvals[0]) : distance))
			break;
	}
	for (int i = 0; i < found.nnearest; i++)
		hits += found.nearest[i] <= query->nearest[0];
	return Min(hits, query->nnearest);
}

/* Searches for all queries that have a neighbour. */
static void
measure(Recall *r, Measured *measured)
{
	IndexScanDesc scan = AnnBeginIndexScan(r->heap, r->index, r->snapshot, 1);
	const AnnIndexScan *base = AnnIndexScanOf(scan);
	double	   *ms = palloc(sizeof(double) * Max(r->nqueries, 1));
	double		sum = 0;

	memset(measured, 0, sizeof(*measured));
	measured->worst = 1;
	for (int i = 0; i < r->nqueries; i++)
	{
		const RecallQuery *query = &r->queries[i];
		MemoryContext old;
		instr_time	start;
		instr_time	duration;
		double		share;
		int			found;

		CHECK_FOR_INTERRUPTS();
		if (query->nnearest == 0)
			continue;
		old = MemoryContextSwitchTo(r->search_context);
		INSTR_TIME_SET_CURRENT(start);
		found = search(r, scan, query, false);
		INSTR_TIME_SET_CURRENT(duration);
		INSTR_TIME_SUBTRACT(duration, start);
		ms[measured->nqueries++] = INSTR_TIME_GET_MILLISEC(duration);
		/* To find the row that it is to go around takes a search of its own, which is nobody's time. */
		if (r->sampled && r->methods->is_graph)
			found = search(r, scan, query, true);
		share = (double) found / query->nnearest;
		measured->visited += base->nvisited;
		measured->widest = Max(measured->widest, r->methods->is_graph ? base->nvisited : base->nprobed);
		measured->worst = Min(measured->worst, share);
		sum += share;
		MemoryContextSwitchTo(old);
		MemoryContextReset(r->search_context);
	}
	ExecClearTuple(r->slot);
	index_endscan(scan);
	if (measured->nqueries > 0)
	{
		qsort(ms, measured->nqueries, sizeof(double), compareDoubles);
		measured->recall = sum / measured->nqueries;
		measured->ms = ms[measured->nqueries / 2];
	}
	pfree(ms);
}

/* ---- ann_recall ---- */

static Datum
resultRow(FunctionCallInfo fcinfo, Datum *values, bool *isnull)
{
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull));
}

/* Measures, and ends. */
static Datum
recallOf(FunctionCallInfo fcinfo, Recall *r)
{
	Measured	measured;
	instr_time	start;
	instr_time	duration;
	Datum		values[5];
	bool		isnull[5] = {false};

	INSTR_TIME_SET_CURRENT(start);
	findNearest(r, Min(r->nqueries, 1));
	INSTR_TIME_SET_CURRENT(duration);
	INSTR_TIME_SUBTRACT(duration, start);
	findNearest(r, r->nqueries);
	measure(r, &measured);
	end(r);
	values[0] = Float8GetDatum(measured.recall);
	values[1] = Float8GetDatum(measured.worst);
	values[2] = Int32GetDatum(measured.nqueries);
	values[3] = Float8GetDatum(measured.ms);
	values[4] = Float8GetDatum(INSTR_TIME_GET_MILLISEC(duration));
	isnull[0] = isnull[1] = isnull[3] = measured.nqueries == 0;
	return resultRow(fcinfo, values, isnull);
}

/*
 * ann_recall(index regclass, k integer, sample integer): recall@k for `sample` rows of the
 * table, with the settings as they are.
 */
PG_FUNCTION_INFO_V1(ann_recall);
Datum
ann_recall(PG_FUNCTION_ARGS)
{
	Recall		r;

	begin(&r, PG_GETARG_OID(0), PG_GETARG_INT32(1), InvalidOid);
	sampleQueries(&r, PG_GETARG_INT32(2));
	return recallOf(fcinfo, &r);
}

/*
 * ann_recall(index regclass, queries anyarray, k integer): the same for queries of the
 * caller's.
 */
PG_FUNCTION_INFO_V1(ann_recall_of);
Datum
ann_recall_of(PG_FUNCTION_ARGS)
{
	ArrayType  *queries = PG_GETARG_ARRAYTYPE_P(1);
	Recall		r;

	begin(&r, PG_GETARG_OID(0), PG_GETARG_INT32(2), ARR_ELEMTYPE(queries));
	givenQueries(&r, queries);
	return recallOf(fcinfo, &r);
}

/* ---- ann_tune ---- */

/* Measures with the setting at this value. */
static void
measureWith(Recall *r, int value, Measured *measured)
{
	int			level = NewGUCNestLevel();

	(void) set_config_option(r->methods->setting, psprintf("%d", value), PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	measure(r, measured);
	AtEOXact_GUC(true, level);
}

/*
 * Finds the least value of the setting that reaches the target, makes it the index's
 * default, and ends.
 */
static Datum
tune(FunctionCallInfo fcinfo, Recall *r, double target)
{
	int			limit = AnnGucMaximum(r->methods->setting);
	int			low = 0;		/* is too little */
	int			high = r->methods->is_graph ? Min(r->k, limit) : 1;
	double		visited = -1;
	const char *index_name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(r->index)),
														RelationGetRelationName(r->index));
	const char *option = r->methods->option;
	Measured	best;
	Datum		values[5];
	bool		isnull[5] = {false};

	findNearest(r, r->nqueries);
	for (;;)
	{
		measureWith(r, high, &best);
		if (best.nqueries == 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("index \"%s\" has too few rows to be tuned", RelationGetRelationName(r->index))));
		if (best.recall >= target)
			break;
		if (high == limit || (best.visited == visited && best.widest < high))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("index \"%s\" does not reach a recall of %g", RelationGetRelationName(r->index), target),
					 errdetail("With %s = %d recall is %.4f.", r->methods->setting, high, best.recall)));
		visited = best.visited;
		low = high;
		high = high > limit / 2 ? limit : high * 2;
	}
	while (high - low > 1 + high / TUNE_PARTS)
	{
		int			middle = low + (high - low) / 2;
		Measured	measured;

		if (r->methods->is_graph && middle < r->k)
			break;
		measureWith(r, middle, &measured);
		if (measured.recall >= target)
		{
			high = middle;
			best = measured;
		}
		else
			low = middle;
	}
	end(r);

	SPI_connect();
	if (SPI_execute(psprintf("ALTER INDEX %s SET (%s = %d)", index_name, option, high), false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not alter index %s", index_name);
	SPI_finish();
	values[0] = CStringGetTextDatum(option);
	values[1] = Int32GetDatum(high);
	values[2] = Float8GetDatum(best.recall);
	values[3] = Float8GetDatum(best.worst);
	values[4] = Float8GetDatum(best.ms);
	return resultRow(fcinfo, values, isnull);
}

/* As begin, and refuses at once what ALTER INDEX would refuse in the end. */
static void
beginTune(Recall *r, Oid relid, double target, int k, Oid element)
{
	if (!(target > 0 && target <= 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("target recall must be greater than 0 and at most 1")));
	PreventCommandIfReadOnly("ann_tune()");
	begin(r, relid, k, element);
	CheckTableNotInUse(r->index, "ALTER INDEX");
}

/*
 * ann_tune(index regclass, target_recall double precision, k integer, sample integer): sets
 * the index's ef_search or probes to the least that reaches the recall for rows of the table.
 */
PG_FUNCTION_INFO_V1(ann_tune);
Datum
ann_tune(PG_FUNCTION_ARGS)
{
	Recall		r;

	beginTune(&r, PG_GETARG_OID(0), PG_GETARG_FLOAT8(1), PG_GETARG_INT32(2), InvalidOid);
	sampleQueries(&r, PG_GETARG_INT32(3));
	return tune(fcinfo, &r, PG_GETARG_FLOAT8(1));
}

/*
 * ann_tune(index regclass, queries anyarray, target_recall double precision, k integer): the same
 * for queries of the caller's.
 */
PG_FUNCTION_INFO_V1(ann_tune_for);
Datum
ann_tune_for(PG_FUNCTION_ARGS)
{
	ArrayType  *queries = PG_GETARG_ARRAYTYPE_P(1);
	Recall		r;

	beginTune(&r, PG_GETARG_OID(0), PG_GETARG_FLOAT8(2), PG_GETARG_INT32(3), ARR_ELEMTYPE(queries));
	givenQueries(&r, queries);
	return tune(fcinfo, &r, PG_GETARG_FLOAT8(2));
}
