/*
 * opclass.c
 *	  The type support functions of operator classes, and the check of these.
 */
#include "postgres.h"

#include "access/amvalidate.h"
#include "access/htup_details.h"
#include "catalog/pg_amop.h"
#include "catalog/pg_amproc.h"
#include "catalog/pg_opclass.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "space/options.h"

/* Type support functions: which element type a class indexes; vector's have none. */
PG_FUNCTION_INFO_V1(ann_halfvec_element);
Datum
ann_halfvec_element(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(ANN_ELEMENT_HALF);
}

PG_FUNCTION_INFO_V1(ann_sparsevec_element);
Datum
ann_sparsevec_element(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(ANN_ELEMENT_SPARSE);
}

PG_FUNCTION_INFO_V1(ann_bit_element);
Datum
ann_bit_element(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(ANN_ELEMENT_BIT);
}

/*
 * amvalidate: an operator class has ordering operators that return float8,
 * distance and type support functions of the right signatures, and nothing
 * else.
 */
bool
AnnValidateOpclass(Oid opclass, const char *am, int distance_proc, int type_proc)
{
	HeapTuple	tuple = SearchSysCache1(CLAOID, ObjectIdGetDatum(opclass));
	Form_pg_opclass form;
	char	   *name;
	Oid			family;
	Oid			input;
	CatCList   *procs;
	CatCList   *operators;
	bool		has_distance = false;
	bool		valid = true;
	int			nordering = 0;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator class %u", opclass);
	form = (Form_pg_opclass) GETSTRUCT(tuple);
	family = form->opcfamily;
	input = form->opcintype;
	name = pstrdup(NameStr(form->opcname));

	procs = SearchSysCacheList1(AMPROCNUM, ObjectIdGetDatum(family));
	for (int i = 0; i < procs->n_members; i++)
	{
		Form_pg_amproc proc = (Form_pg_amproc) GETSTRUCT(&procs->members[i]->tuple);
		bool		ok;

		if (proc->amprocnum == distance_proc)
		{
			ok = check_amproc_signature(proc->amproc, FLOAT8OID, true, 2, 2, input, input);
			has_distance = true;
		}
		else if (proc->amprocnum == type_proc)
			ok = check_amproc_signature(proc->amproc, INTERNALOID, true, 1, 1, INTERNALOID);
		else
		{
			ereport(INFO,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("operator class \"%s\" of access method %s contains function %s with invalid support number %d",
							name, am, format_procedure(proc->amproc), proc->amprocnum)));
			valid = false;
			continue;
		}
		if (!ok)
		{
			ereport(INFO,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("operator class \"%s\" of access method %s contains function %s with wrong signature for support number %d",
							name, am, format_procedure(proc->amproc), proc->amprocnum)));
			valid = false;
		}
	}
	if (!has_distance)
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator class \"%s\" of access method %s is missing support function %d",
						name, am, distance_proc)));
		valid = false;
	}

	operators = SearchSysCacheList1(AMOPSTRATEGY, ObjectIdGetDatum(family));
	for (int i = 0; i < operators->n_members; i++)
	{
		Form_pg_amop op = (Form_pg_amop) GETSTRUCT(&operators->members[i]->tuple);

		if (op->amopstrategy != 1 || op->amoppurpose != AMOP_ORDER ||
			!check_amop_signature(op->amopopr, FLOAT8OID, input, input) ||
			get_op_rettype(op->amopopr) != FLOAT8OID)
		{
			ereport(INFO,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("operator class \"%s\" of access method %s contains invalid operator %s",
							name, am, format_operator(op->amopopr))));
			valid = false;
		}
		else
			nordering++;
	}
	if (nordering == 0)
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("operator class \"%s\" of access method %s has no ordering operator", name, am)));
		valid = false;
	}
	ReleaseCatCacheList(operators);
	ReleaseCatCacheList(procs);
	ReleaseSysCache(tuple);
	return valid;
}
