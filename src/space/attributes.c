/*
 * attributes.c
 *	  Included columns of an index: layout, forming and reading of attribute areas.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/tupmacs.h"
#include "catalog/pg_type_d.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "compat.h"
#include "space/attributes.h"

static inline AnnAttributeState
stateOf(const char *area, int column)
{
	return (AnnAttributeState) ((uint8) area[column / 4] >> column % 4 * 2 & 3);
}

static inline void
setState(char *area, int column, AnnAttributeState state)
{
	area[column / 4] |= (char) (state << column % 4 * 2);
}

static inline Size
statesSize(int columns)
{
	return (columns + 3) / 4;
}

/* Bytes of the area that a column takes. */
static Size
columnSize(Form_pg_attribute column)
{
	int32		largest;

	if (column->attlen > ANN_ATTRIBUTE_MAX_FIXED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of type %s cannot be included", NameStr(column->attname),
						format_type_be(column->atttypid)),
				 errdetail("Its values have %d bytes, more than %d.", column->attlen, ANN_ATTRIBUTE_MAX_FIXED)));
	if (column->attlen > 0)
		return column->attlen;
	if (column->attlen != -1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of type %s cannot be included", NameStr(column->attname),
						format_type_be(column->atttypid))));
	/* ALTER TABLE may lengthen others without a new index. */
	largest = column->atttypid == BPCHAROID || column->atttypid == BITOID ?
		type_maximum_size(column->atttypid, column->atttypmod) : -1;
	if (largest > VARHDRSZ && largest - VARHDRSZ < ANN_ATTRIBUTE_MAX_VARIABLE)
		return 1 + largest - VARHDRSZ;
	return 1 + ANN_ATTRIBUTE_MAX_VARIABLE;
}

/* Lays the area out; columns may be NULL.  Returns its size. */
static Size
layOut(Relation index, AnnAttribute *columns)
{
	TupleDesc	desc = RelationGetDescr(index);
	int			keys = IndexRelationGetNumberOfKeyAttributes(index);
	int			count = desc->natts - keys;
	Size		offset = statesSize(count);

	for (int i = 0; i < count; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, keys + i);
		Size		size = columnSize(column);

		if (columns != NULL)
		{
			columns[i].typlen = column->attlen;
			columns[i].byval = column->attbyval;
			columns[i].offset = (uint16) offset;
			columns[i].size = (uint16) size;
		}
		offset += size;
	}
	if (offset > ANN_ATTRIBUTES_MAX_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("included columns of index \"%s\" take %zu bytes, more than %d",
						RelationGetRelationName(index), offset, ANN_ATTRIBUTES_MAX_SIZE)));
	return offset;
}

/*
 * The layout of the included columns of an index, palloc'd; count and size are 0 if
 * there are none.  Raises ERRCODE_FEATURE_NOT_SUPPORTED for columns whose type has no
 * place in an area, and ERRCODE_PROGRAM_LIMIT_EXCEEDED if it would be too large.
 */
AnnAttributes *
AnnAttributesCreate(Relation index)
{
	TupleDesc	desc = RelationGetDescr(index);
	int			keys = IndexRelationGetNumberOfKeyAttributes(index);
	int			count = desc->natts - keys;
	AnnAttributes *attributes = palloc0(offsetof(AnnAttributes, columns) + sizeof(AnnAttribute) * count);

	attributes->keys = keys;
	attributes->count = count;
	attributes->size = layOut(index, attributes->columns);
	if (count > 0)
	{
		Form_pg_attribute column = TupleDescAttr(desc, keys);
		TypeCacheEntry *type = lookup_type_cache(column->atttypid, TYPECACHE_HASH_OPFAMILY | TYPECACHE_HASH_PROC_FINFO);

		if (OidIsValid(type->hash_proc_finfo.fn_oid))
			fmgr_info_copy(&attributes->hash, &type->hash_proc_finfo, CurrentMemoryContext);
		attributes->hash_family = type->hash_opf;
		/* Included columns have no collation in the index.  The default one is deterministic. */
		attributes->collation = get_typcollation(column->atttypid);
	}
	return attributes;
}

/*
 * Bytes of the area of an index; 0 without included columns.  Errors as above.
 */
Size
AnnAttributesSize(Relation index)
{
	if (RelationGetDescr(index)->natts == IndexRelationGetNumberOfKeyAttributes(index))
		return 0;
	return layOut(index, NULL);
}

/*
 * Forms the area, palloc'd, of a tuple's index columns (the key included); NULL if there
 * are no included ones.  Values may be TOASTed; one that is too long for its place is not
 * read.
 */
char *
AnnAttributesForm(const AnnAttributes *attributes, const Datum *values, const bool *isnull)
{
	char	   *area;

	if (attributes->count == 0)
		return NULL;
	area = palloc0(attributes->size);
	for (int i = 0; i < attributes->count; i++)
	{
		const AnnAttribute *attribute = &attributes->columns[i];
		Datum		value = values[attributes->keys + i];
		char	   *to = area + attribute->offset;

		if (isnull[attributes->keys + i])
			setState(area, i, ANN_ATTRIBUTE_NULL);
		else if (attribute->byval)
		{
			Datum		stored = 0;

			store_att_byval(&stored, value, attribute->typlen);
			memcpy(to, &stored, attribute->typlen);
		}
		else if (attribute->typlen > 0)
			memcpy(to, DatumGetPointer(value), attribute->typlen);
		else if (toast_raw_datum_size(value) - VARHDRSZ > (Size) attribute->size - 1)
			setState(area, i, ANN_ATTRIBUTE_UNKNOWN);
		else
		{
			struct varlena *packed = PG_DETOAST_DATUM_PACKED(value);

			to[0] = (char) VARSIZE_ANY_EXHDR(packed);
			memcpy(to + 1, VARDATA_ANY(packed), VARSIZE_ANY_EXHDR(packed));
			if ((Pointer) packed != DatumGetPointer(value))
				pfree(packed);
		}
	}
	return area;
}

/*
 * Reads a column (0: the first included one).  *value is set if it is known and not
 * NULL, and may point into the buffer.  Allocates nothing.
 */
AnnAttributeState
AnnAttributeGet(const AnnAttributes *attributes, const char *area, int column, AnnAttributeBuffer *buffer,
				Datum *value)
{
	const AnnAttribute *attribute = &attributes->columns[column];
	const char *from = area + attribute->offset;
	AnnAttributeState state = stateOf(area, column);

	if (state != ANN_ATTRIBUTE_VALUE)
		return state == ANN_ATTRIBUTE_NULL ? state : ANN_ATTRIBUTE_UNKNOWN;
	if (attribute->typlen > 0)
	{
		memcpy(buffer->data, from, attribute->typlen);
		*value = fetch_att(buffer->data, attribute->byval, attribute->typlen);
	}
	else
	{
		Size		length = (uint8) from[0];

		/* A damaged length must not lead out of the area. */
		if (length > (Size) attribute->size - 1)
			return ANN_ATTRIBUTE_UNKNOWN;
		SET_VARSIZE(buffer->data, VARHDRSZ + length);
		memcpy(VARDATA(buffer->data), from + 1, length);
		*value = PointerGetDatum(buffer->data);
	}
	return ANN_ATTRIBUTE_VALUE;
}

/*
 * What is wrong with an area, or NULL.
 */
const char *
AnnAttributesDefect(const AnnAttributes *attributes, const char *area)
{
	for (int i = 0; i < attributes->count; i++)
	{
		const AnnAttribute *attribute = &attributes->columns[i];
		const char *from = area + attribute->offset;
		AnnAttributeState state = stateOf(area, i);
		Size		used = attribute->size;

		if (state > ANN_ATTRIBUTE_UNKNOWN)
			return "an included column is in no known state";
		if (state != ANN_ATTRIBUTE_VALUE)
			used = 0;
		else if (attribute->typlen < 0)
		{
			used = 1 + (uint8) from[0];
			if (used > attribute->size)
				return "an included value is longer than its place";
		}
		for (Size j = used; j < attribute->size; j++)
			if (from[j] != 0)
				return "there are bytes behind an included value";
	}
	return NULL;
}

/*
 * The key by which rows with equal first columns find each other: the hash of the
 * value by the type's own hash function, which must exist.  Of values that only a
 * nondeterministic collation takes for equal it differs.
 */
uint32
AnnAttributesKey(AnnAttributes *attributes, const char *area)
{
	AnnAttributeBuffer buffer;
	Datum		value;

	switch (AnnAttributeGet(attributes, area, 0, &buffer, &value))
	{
		case ANN_ATTRIBUTE_NULL:
			return ANN_ATTRIBUTE_KEY_NULL;
		case ANN_ATTRIBUTE_UNKNOWN:
			return ANN_ATTRIBUTE_KEY_UNKNOWN;
		default:
			return DatumGetUInt32(FunctionCall1Coll(&attributes->hash, attributes->collation, value));
	}
}

/*
 * Combines the hash of a vector with that of the area beside it.
 */
uint32
AnnAttributesHash(const AnnAttributes *attributes, uint32 hash, const char *area)
{
	if (attributes->count == 0)
		return hash;
	return hash_combine(hash, hash_bytes((const unsigned char *) area, (int) attributes->size));
}

/*
 * Tells ann_index_info which columns are included, with their bytes.
 */
void
AnnAttributesDescribe(AnnInfo *info, const AnnAttributes *attributes)
{
	TupleDesc	desc = RelationGetDescr(info->index);
	StringInfoData names;

	if (attributes->count == 0)
		return;
	initStringInfo(&names);
	for (int i = 0; i < attributes->count; i++)
		appendStringInfo(&names, "%s%s (%u)", i > 0 ? ", " : "",
						 NameStr(TupleDescAttr(desc, attributes->keys + i)->attname), attributes->columns[i].size);
	info->line(info, "included columns", "%s", names.data);
	info->line(info, "bytes of included columns", "%zu", attributes->size);
	pfree(names.data);
}
