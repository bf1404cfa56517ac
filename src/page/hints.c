/*
 * hints.c
 *	  Remembered buffer numbers.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "compat.h"
#include "page/hints.h"

/* One read in this many goes through ReadBuffer, so that hot pages stay hot. */
#define PLAIN_READ_EVERY 8

#define MIN_HINTS 1024
#define MAX_HINTS (1U << 20)

/*
 * Makes room for the hints of a relation of so many blocks, in hints->context; forgets
 * what was remembered if the table has to grow.
 */
void
AnnBufferHintsResize(AnnBufferHints *hints, BlockNumber blocks)
{
	uint32		wanted = MIN_HINTS;

	while (wanted < blocks && wanted < MAX_HINTS && wanted < (uint32) NBuffers * 2)
		wanted *= 2;
	if (wanted <= hints->size)
		return;
	if (hints->hints != NULL)
		pfree(hints->hints);
	hints->size = 0;
	hints->hints = MemoryContextAlloc(hints->context, mul_size(sizeof(AnnBufferHint), wanted));
	for (uint32 i = 0; i < wanted; i++)
	{
		hints->hints[i].block = InvalidBlockNumber;
		hints->hints[i].buffer = InvalidBuffer;
	}
	hints->size = wanted;
}

/*
 * ReadBuffer through the remembered buffer numbers.
 */
Buffer
AnnReadBuffer(Relation index, AnnBufferHints *hints, BlockNumber block)
{
	AnnBufferHint *hint = &hints->hints[block & (hints->size - 1)];

	/* ReadRecentBuffer does not raise usage_count: without a plain read now and then hot pages look cold. */
	if (hint->block == block && ++hints->reads % PLAIN_READ_EVERY != 0 &&
		ReadRecentBuffer(AnnRelationLocator(index), MAIN_FORKNUM, block, hint->buffer))
		return hint->buffer;
	hint->buffer = ReadBuffer(index, block);
	hint->block = block;
	return hint->buffer;
}
