/*
 * attributes.h
 *	  Included columns of an index: the attribute area beside each of its vectors.
 *
 * The area has one size within an index, 0 without included columns:
 *		OFFSET SIZE  FIELD
 *		   0    s    states: two bits a column, the first column's lowest; s = (columns + 3) / 4
 *		   s    -    values in the order of the columns, without padding
 * A value of fixed length stands as it is; one of variable length is a byte for its
 * length and then its data without header, zeroes behind.  All bytes of a NULL and of
 * a value too long are zero.  So equal areas are equal values, as far as is known.
 */
#ifndef ANN_ATTRIBUTES_H
#define ANN_ATTRIBUTES_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "fmgr.h"
#include "utils/rel.h"

#include "page/check.h"

/* Bytes of the longest value that is kept. */
#define ANN_ATTRIBUTE_MAX_FIXED 64
#define ANN_ATTRIBUTE_MAX_VARIABLE 31

/* Bytes of the largest area. */
#define ANN_ATTRIBUTES_MAX_SIZE 1024

typedef enum AnnAttributeState
{
	ANN_ATTRIBUTE_VALUE = 0,
	ANN_ATTRIBUTE_NULL = 1,
	ANN_ATTRIBUTE_UNKNOWN = 2	/* too long: the heap knows */
} AnnAttributeState;

/* What a test of included columns says of a row; in the order in which AND takes the least, OR the largest. */
typedef enum AnnTestResult
{
	ANN_TEST_FAILS = 0,
	ANN_TEST_UNKNOWN,			/* the row counts until it is known better */
	ANN_TEST_PASSES
} AnnTestResult;

/* Keys of a first column that is NULL, or not known. */
#define ANN_ATTRIBUTE_KEY_NULL 1
#define ANN_ATTRIBUTE_KEY_UNKNOWN 2

/* Where the area keeps a column. */
typedef struct AnnAttribute
{
	int16		typlen;
	bool		byval;
	uint16		offset;
	uint16		size;			/* bytes in the area */
} AnnAttribute;

/* The area's layout, a function of the index's columns. */
typedef struct AnnAttributes
{
	int			keys;			/* columns of the index before the included ones */
	int			count;
	Size		size;
	FmgrInfo	hash;			/* of the first included column; fn_oid is invalid without */
	Oid			hash_family;
	Oid			collation;		/* for that function; equal bytes have equal hashes under it */
	AnnAttribute columns[FLEXIBLE_ARRAY_MEMBER];
} AnnAttributes;

/* Room for a value that is not passed by value: what AnnAttributeGet copies into. */
typedef union AnnAttributeBuffer
{
	char		data[VARHDRSZ + ANN_ATTRIBUTE_MAX_FIXED];
	int64		force_align_i64;
	double		force_align_d;
} AnnAttributeBuffer;

extern AnnAttributes *AnnAttributesCreate(Relation index);
extern Size AnnAttributesSize(Relation index);
extern char *AnnAttributesForm(const AnnAttributes *attributes, const Datum *values, const bool *isnull);
extern AnnAttributeState AnnAttributeGet(const AnnAttributes *attributes, const char *area, int column,
										 AnnAttributeBuffer *buffer, Datum *value);
extern const char *AnnAttributesDefect(const AnnAttributes *attributes, const char *area);
extern uint32 AnnAttributesKey(AnnAttributes *attributes, const char *area);
extern uint32 AnnAttributesHash(const AnnAttributes *attributes, uint32 hash, const char *area);

extern void AnnAttributesDescribe(AnnInfo *info, const AnnAttributes *attributes);

#endif							/* ANN_ATTRIBUTES_H */
