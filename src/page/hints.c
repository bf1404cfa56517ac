/*
 * hints.c
 *	  Remembered buffer numbers.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/buf_internals.h"
#include "utils/memutils.h"

#include "compat.h"
#include "page/hints.h"

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
 * ReadRecentBuffer does not raise a buffer's usage_count, so that hot pages would look
 * cold to whoever needs a buffer.  True if the count is as high as ReadBuffer makes it;
 * the buffer is not pinned and may be another page's.
 */
static inline bool
isHot(Buffer buffer)
{
	return BufferIsLocal(buffer) ||
		BUF_STATE_GET_USAGECOUNT(pg_atomic_read_u32(&GetBufferDescriptor(buffer - 1)->state)) >= BM_MAX_USAGE_COUNT;
}

/*
 * ReadBuffer through the remembered buffer numbers.
 */
Buffer
AnnReadBuffer(Relation index, AnnBufferHints *hints, BlockNumber block)
{
	AnnBufferHint *hint = &hints->hints[block & (hints->size - 1)];

	if (hint->block == block && isHot(hint->buffer) &&
		ReadRecentBuffer(AnnRelationLocator(index), MAIN_FORKNUM, block, hint->buffer))
		return hint->buffer;
	hint->buffer = ReadBuffer(index, block);
	hint->block = block;
	return hint->buffer;
}
