/*
 * check.h
 *	  What a check of an index by its access method reports, and to whom.
 */
#ifndef ANN_CHECK_H
#define ANN_CHECK_H

#include "postgres.h"

#include "storage/itemptr.h"
#include "utils/rel.h"

/* What an index can say of a heap TID: under which value it has it. */
typedef enum AnnCheckPlace
{
	ANN_CHECK_ROW,				/* under a vector of this hash */
	ANN_CHECK_ZERO,				/* among the vectors without a place */
	ANN_CHECK_NULL				/* among the NULLs */
} AnnCheckPlace;

typedef struct AnnCheckValue
{
	AnnCheckPlace place;
	uint32		hash;			/* of a row's value */
} AnnCheckValue;

/*
 * The caller of a check.  defect's item is negative when the whole block is
 * meant, and block invalid when the whole index is.  tid is NULL unless the heap
 * is to be compared.
 */
typedef struct AnnCheck
{
	Relation	index;
	void		(*defect) (struct AnnCheck *check, BlockNumber block, int item, const char *format,...)
				pg_attribute_printf(4, 5);
	void		(*tid) (struct AnnCheck *check, const ItemPointerData *tid, AnnCheckValue value);
} AnnCheck;

/* The caller of a description: one line each. */
typedef struct AnnInfo
{
	Relation	index;
	void		(*line) (struct AnnInfo *info, const char *name, const char *format,...)
				pg_attribute_printf(3, 4);
} AnnInfo;

#endif							/* ANN_CHECK_H */
