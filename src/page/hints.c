/*
 * hints.c
 *	  Remembered buffer numbers.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/buf_internals.h"
#include "utils/memutils.h"

#include "compat.h"
#include "page/hints.h"
#include "page/page.h"

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
	AnnBufferHint *grown;

	while (wanted < blocks && wanted < MAX_HINTS && wanted < (uint32) NBuffers * 2)
		wanted *= 2;
	if (wanted <= hints->size)
		return;
	/* First, as it may fail, and the cache stays. */
	grown = MemoryContextAlloc(hints->context, mul_size(sizeof(AnnBufferHint), wanted));
	for (uint32 i = 0; i < wanted; i++)
	{
		grown[i].block = InvalidBlockNumber;
		grown[i].buffer = InvalidBuffer;
	}
	if (hints->hints != NULL)
		pfree(hints->hints);
	hints->hints = grown;
	hints->size = wanted;
}

/*
 * ReadRecentBuffer does not raise the usage_count of a shared buffer as ReadBuffer does, so that
 * hot pages would look cold to whoever needs a buffer.  The buffer is pinned.
 */
static inline void
raiseUsageCount(Buffer buffer)
{
	BufferDesc *descriptor;
	uint32		state;

	if (BufferIsLocal(buffer))
		return;
	descriptor = GetBufferDescriptor(buffer - 1);
	state = pg_atomic_read_u32(&descriptor->state);
	/* If it changes at this very moment someone else uses the page. */
	if (BUF_STATE_GET_USAGECOUNT(state) < BM_MAX_USAGE_COUNT && !(state & BM_LOCKED))
		(void) pg_atomic_compare_exchange_u32(&descriptor->state, &state, state + BUF_USAGECOUNT_ONE);
}

/*
 * AnnReadBlock through the remembered buffer numbers.
 */
Buffer
AnnReadBuffer(Relation relation, AnnBufferHints *hints, BlockNumber block)
{
	AnnBufferHint *hint = &hints->hints[block & (hints->size - 1)];

	if (hint->block == block &&
		ReadRecentBuffer(AnnRelationLocator(relation), MAIN_FORKNUM, block, hint->buffer))
	{
		raiseUsageCount(hint->buffer);
		/* ReadRecentBuffer leaves this to its caller. */
		pgstat_count_buffer_read(relation);
		pgstat_count_buffer_hit(relation);
		return hint->buffer;
	}
	hint->buffer = AnnReadBlock(relation, block, NULL);
	hint->block = block;
	return hint->buffer;
}
