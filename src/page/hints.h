/*
 * hints.h
 *	  Remembered buffer numbers: a read of a page that this backend has read before
 *	  finds its buffer without the shared table.
 */
#ifndef ANN_HINTS_H
#define ANN_HINTS_H

#include "postgres.h"

#include "storage/bufmgr.h"
#include "utils/rel.h"

typedef struct AnnBufferHint
{
	BlockNumber block;
	Buffer		buffer;
} AnnBufferHint;

typedef struct AnnBufferHints
{
	MemoryContext context;
	uint32		size;			/* power of two */
	AnnBufferHint *hints;
} AnnBufferHints;

/* What is remembered where a block's hint would be; it may be another block's. */
static inline const AnnBufferHint *
AnnBufferHintFor(const AnnBufferHints *hints, BlockNumber block)
{
	return &hints->hints[block & (hints->size - 1)];
}

extern void AnnBufferHintsResize(AnnBufferHints *hints, BlockNumber blocks);
extern Buffer AnnReadBuffer(Relation relation, AnnBufferHints *hints, BlockNumber block);

#endif							/* ANN_HINTS_H */
