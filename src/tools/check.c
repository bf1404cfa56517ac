/*
 * check.c
 *	  SQL functions ann_index_check and ann_index_info: they choose the access
 *	  method's own part, and compare the index with the heap.
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xlog.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type_d.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplesort.h"

#include "hnsw/hnsw.h"
#include "ivfflat/ivfflat.h"
#include "tools/tools.h"

static const AnnToolMethods methods[] = {
	{ann_hnsw_build, AnnHnswCheckIndex, AnnHnswCheckValue, AnnHnswDescribeIndex, "hnsw.ef_search", "ef_search", true},
	{ann_ivfflat_build, AnnIvfCheckIndex, AnnIvfCheckValue, AnnIvfDescribeIndex, "ivfflat.probes", "probes", false},
};

typedef struct CheckCall
{
	AnnCheck	check;			/* first: what the access method gets */
	const AnnToolMethods *methods;
	ReturnSetInfo *result;
	Tuplesortstate *sorts[2];	/* heap TIDs by the index and by the heap */
	TupleTableSlot *slot;
	uint64		heap_tuples;
} CheckCall;

typedef struct InfoCall
{
	AnnInfo		info;
	ReturnSetInfo *result;
} InfoCall;

/*
 * Opens an index of one of our access methods and its table.  Its owner alone may
 * have it read as a whole.
 */
Relation
AnnToolOpenIndex(Oid relid, LOCKMODE lockmode, Relation *heap, const AnnToolMethods **found)
{
	Oid			heapid = IndexGetRelation(relid, true);
	Relation	index;

	if (!OidIsValid(heapid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("relation with OID %u is not an index", relid)));
	/* The table first, as everybody else does. */
	*heap = table_open(heapid, lockmode);
	index = index_open(relid, lockmode);
	*found = NULL;
	for (int i = 0; i < lengthof(methods); i++)
		if (index->rd_indam->ambuild == methods[i].build)
			*found = &methods[i];
	if (*found == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a vector index that can be checked", RelationGetRelationName(index))));
	if (!RELKIND_HAS_STORAGE(index->rd_rel->relkind))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a partitioned index", RelationGetRelationName(index)),
				 errhint("Name the index of a partition.")));
	if (!AnnIsOwner(relid))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_INDEX, RelationGetRelationName(index));
	if (RELATION_IS_OTHER_TEMP(index))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot access temporary indexes of other sessions")));
	if (!index->rd_index->indisvalid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"%s\" is not valid", RelationGetRelationName(index))));
	return index;
}

/* ---- ann_index_check ---- */

static void reportDefect(AnnCheck *check, BlockNumber block, int item, const char *format,...)
			pg_attribute_printf(4, 5);
static void reportLine(AnnInfo *info, const char *name, const char *format,...)
			pg_attribute_printf(3, 4);

static void
reportDefect(AnnCheck *check, BlockNumber block, int item, const char *format,...)
{
	CheckCall  *call = (CheckCall *) check;
	Datum		values[3];
	bool		nulls[3] = {!BlockNumberIsValid(block), item < 0, false};
	StringInfoData text;
	int			needed;

	initStringInfo(&text);
	for (;;)
	{
		va_list		args;

		va_start(args, format);
		needed = appendStringInfoVA(&text, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&text, needed);
	}
	values[0] = Int64GetDatum(block);
	values[1] = Int32GetDatum(item);
	values[2] = CStringGetTextDatum(text.data);
	tuplestore_putvalues(call->result->setResult, call->result->setDesc, values, nulls);
	pfree(DatumGetPointer(values[2]));
	pfree(text.data);
}

static void
putTid(CheckCall *call, int which, const ItemPointerData *tid, AnnCheckValue value)
{
	ExecClearTuple(call->slot);
	call->slot->tts_values[0] = Int64GetDatum((int64) ItemPointerGetBlockNumberNoCheck(tid) << 16 |
											  ItemPointerGetOffsetNumberNoCheck(tid));
	call->slot->tts_values[1] = Int64GetDatum((int64) value.place << 32 | value.hash);
	call->slot->tts_isnull[0] = call->slot->tts_isnull[1] = false;
	ExecStoreVirtualTuple(call->slot);
	tuplesort_puttupleslot(call->sorts[which], call->slot);
}

static void
tidOfIndex(AnnCheck *check, const ItemPointerData *tid, AnnCheckValue value)
{
	putTid((CheckCall *) check, 0, tid, value);
}

static void
tidOfHeap(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *state)
{
	CheckCall  *call = (CheckCall *) state;

	putTid(call, 1, tid, call->methods->value(index, values, isnull));
	call->heap_tuples++;
}

static bool
nextTid(Tuplesortstate *sort, TupleTableSlot *slot, int64 *tid, int64 *value)
{
	bool		isnull;

	if (!tuplesort_gettupleslot(sort, true, false, slot, NULL))
		return false;
	*tid = DatumGetInt64(slot_getattr(slot, 1, &isnull));
	*value = DatumGetInt64(slot_getattr(slot, 2, &isnull));
	return true;
}

/*
 * Reads the table with the snapshot that was taken before the index was read, and
 * compares: each visible tuple that the index covers is in it once, under its
 * own value.
 */
static void
compareWithHeap(CheckCall *call, Relation heap, Snapshot snapshot)
{
	Relation	index = call->check.index;
	IndexInfo  *info = BuildIndexInfo(index);
	TupleDesc	desc = call->slot->tts_tupleDescriptor;
	TupleTableSlot *slots[2];
	int64		tid[2];
	int64		value[2];
	bool		more;
	Oid			user;
	int			context;
	int			guc_level;

	/* Expressions of the index are the owner's code: they run as in CREATE INDEX. */
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(heap->rd_rel->relowner, context | SECURITY_RESTRICTED_OPERATION);
	guc_level = NewGUCNestLevel();
	AnnRestrictSearchPath();

	/* As the first scan of CREATE INDEX CONCURRENTLY: what the snapshot sees, by root TIDs. */
	info->ii_Concurrent = true;
	info->ii_Unique = false;
	info->ii_ExclusionOps = NULL;
	info->ii_ExclusionProcs = NULL;
	info->ii_ExclusionStrats = NULL;
	table_index_build_scan(heap, index, info, true, false, tidOfHeap, call,
						   table_beginscan_strat(heap, snapshot, 0, NULL, true, true));
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(user, context);

	for (int i = 0; i < 2; i++)
	{
		tuplesort_performsort(call->sorts[i]);
		slots[i] = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	}
	more = nextTid(call->sorts[0], slots[0], &tid[0], &value[0]);
	while (nextTid(call->sorts[1], slots[1], &tid[1], &value[1]))
	{
		unsigned	block = (unsigned) (tid[1] >> 16);
		int			offset = (int) (tid[1] & 0xFFFF);
		int			found = 0;

		CHECK_FOR_INTERRUPTS();
		while (more && tid[0] < tid[1])
			more = nextTid(call->sorts[0], slots[0], &tid[0], &value[0]);
		while (more && tid[0] == tid[1])
		{
			found++;
			if (value[0] != value[1])
				call->check.defect(&call->check, InvalidBlockNumber, -1,
								   "heap tuple (%u,%d) is in the index under another value", block, offset);
			more = nextTid(call->sorts[0], slots[0], &tid[0], &value[0]);
		}
		if (found == 0)
			call->check.defect(&call->check, InvalidBlockNumber, -1,
							   "heap tuple (%u,%d) is not in the index", block, offset);
		else if (found > 1)
			call->check.defect(&call->check, InvalidBlockNumber, -1,
							   "heap tuple (%u,%d) is in the index %d times", block, offset, found);
	}
	for (int i = 0; i < 2; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
}

static TupleDesc
tidDesc(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(2);

	TupleDescInitEntry(desc, 1, "tid", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 2, "value", INT8OID, -1, 0);
	return desc;
}

/*
 * ann_index_check(index regclass, heapallindexed boolean): one row per defect.
 *
 * The share lock keeps writers and VACUUM out, and waits for those that are at
 * it, so that nothing that changes meanwhile looks like a defect.  A standby cannot
 * take it: there replay should be paused.
 */
PG_FUNCTION_INFO_V1(ann_index_check);
Datum
ann_index_check(PG_FUNCTION_ARGS)
{
	bool		with_heap = PG_GETARG_BOOL(1);
	LOCKMODE	lockmode = RecoveryInProgress() ? AccessShareLock : ShareLock;
	CheckCall	call = {0};
	Relation	heap;
	Relation	index = AnnToolOpenIndex(PG_GETARG_OID(0), lockmode, &heap, &call.methods);
	Snapshot	snapshot = NULL;

	InitMaterializedSRF(fcinfo, 0);
	call.result = (ReturnSetInfo *) fcinfo->resultinfo;
	call.check.index = index;
	call.check.defect = reportDefect;
	if (with_heap)
	{
		TupleDesc	desc = tidDesc();
		AttrNumber	column = 1;
		Oid			operator = Int8LessOperator;
		Oid			collation = InvalidOid;
		bool		nulls_first = false;

		snapshot = RegisterSnapshot(GetTransactionSnapshot());
		/* A transaction's old snapshot may see tuples that a new index does not cover. */
		if (IsolationUsesXactSnapshot() && index->rd_index->indcheckxmin &&
			!TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data), snapshot->xmin))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("index \"%s\" cannot be verified using transaction snapshot",
							RelationGetRelationName(index))));
		call.check.tid = tidOfIndex;
		call.slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
		for (int i = 0; i < 2; i++)
			call.sorts[i] = tuplesort_begin_heap(desc, 1, &column, &operator, &collation, &nulls_first,
												 Max(maintenance_work_mem / 2, 64), NULL, TUPLESORT_NONE);
	}

	call.methods->check(&call.check);
	if (with_heap)
	{
		compareWithHeap(&call, heap, snapshot);
		for (int i = 0; i < 2; i++)
			tuplesort_end(call.sorts[i]);
		ExecDropSingleTupleTableSlot(call.slot);
		UnregisterSnapshot(snapshot);
	}
	index_close(index, lockmode);
	table_close(heap, lockmode);
	return (Datum) 0;
}

/* ---- ann_index_info ---- */

static void
reportLine(AnnInfo *info, const char *name, const char *format,...)
{
	InfoCall   *call = (InfoCall *) info;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	char		text[256];
	va_list		args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	values[0] = CStringGetTextDatum(name);
	values[1] = CStringGetTextDatum(text);
	tuplestore_putvalues(call->result->setResult, call->result->setDesc, values, nulls);
	pfree(DatumGetPointer(values[0]));
	pfree(DatumGetPointer(values[1]));
}

/*
 * ann_index_info(index regclass): what the index is, name by name.
 */
PG_FUNCTION_INFO_V1(ann_index_info);
Datum
ann_index_info(PG_FUNCTION_ARGS)
{
	InfoCall	call = {0};
	Relation	heap;
	const AnnToolMethods *am;
	Relation	index = AnnToolOpenIndex(PG_GETARG_OID(0), AccessShareLock, &heap, &am);

	InitMaterializedSRF(fcinfo, 0);
	call.result = (ReturnSetInfo *) fcinfo->resultinfo;
	call.info.index = index;
	call.info.line = reportLine;
	am->describe(&call.info);
	index_close(index, AccessShareLock);
	table_close(heap, AccessShareLock);
	return (Datum) 0;
}
