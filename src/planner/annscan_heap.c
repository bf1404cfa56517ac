/*
 * annscan_heap.c
 *	  Reads rows of the table: backends remember where its pages are, and the rows that a
 *	  scan will return are asked for from memory together.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "storage/buf_internals.h"

#include "page/cache.h"
#include "page/hints.h"
#include "planner/annscan_state.h"

/* What a backend remembers of a table. */
typedef struct HeapCache
{
	AnnIndexCache base;
	AnnBufferHints hints;
} HeapCache;

static AnnIndexCaches caches = {.name = "ann table pages", .size = sizeof(HeapCache)};

/* Where this backend last saw the table's pages; valid until the next call. */
static AnnBufferHints *
hintsOf(Relation table)
{
	HeapCache  *cache = (HeapCache *) AnnIndexCacheFind(&caches, table);

	if (!cache->base.loaded)
	{
		AnnIndexCacheReset(&caches, &cache->base, table);
		cache->hints.context = cache->base.context;
		AnnBufferHintsResize(&cache->hints, RelationGetNumberOfBlocks(table));
		cache->base.loaded = true;
	}
	return &cache->hints;
}

static bool
isHeap(Relation table)
{
	return table->rd_tableam == GetHeapamTableAmRoutine();
}

/*
 * Pins the page of a row in the scan's heap fetch, which then need not look for it in the shared
 * table of buffers.
 */
static void
pinPage(AnnScanState *state, BlockNumber block)
{
	IndexFetchHeapData *fetch = (IndexFetchHeapData *) state->scan->xs_heapfetch;
	Relation	table = state->css.ss.ss_currentRelation;
	AnnBufferHints *hints;
	Buffer		buffer;

	if (BufferIsValid(fetch->xs_cbuf) && BufferGetBlockNumber(fetch->xs_cbuf) == block)
		return;
	hints = hintsOf(table);
	/* The table may have grown since this backend first read it. */
	if (block >= hints->size)
		AnnBufferHintsResize(hints, block + 1);
	buffer = AnnReadBuffer(table, hints, block);
	if (BufferIsValid(fetch->xs_cbuf))
		ReleaseBuffer(fetch->xs_cbuf);
	fetch->xs_cbuf = buffer;
	/* The fetch does this for a page that is new to it. */
	heap_page_prune_opt(table, buffer);
}

/*
 * Reads the visible version of a row, by the TID that indexes have of it, into the heap slot
 * alone; false if there is none.
 */
bool
AnnScanFetchHeap(AnnScanState *state, const ItemPointerData *tid)
{
	ItemPointerSetInvalid(&state->current);
	ResetExprContext(state->heap_context);
	if (isHeap(state->css.ss.ss_currentRelation))
		pinPage(state, ItemPointerGetBlockNumber(tid));
	state->scan->xs_heaptid = *tid;
	state->scan->xs_heap_continue = false;	/* index_rescan may not have been called */
	return index_fetch_heap(state->scan, state->heap_slot);
}

/*
 * Asks for what fetching these rows will read, where this backend has seen their pages: the buffer's
 * descriptor, the page's header, the line pointer, the tuple's first lines.  Each would be a miss of
 * its own, and most wait for the one before.  Harmless if a buffer holds another page by now:
 * what is read without a pin leads to nothing but a prefetch.
 */
void
AnnScanPrefetch(AnnScanState *state, const AnnScanRow *rows, int n)
{
	Relation	table = state->css.ss.ss_currentRelation;
	const AnnBufferHints *hints;
	Page		pages[ANN_SCAN_AHEAD];
	ItemId		items[ANN_SCAN_AHEAD];
	int			known = 0;

	Assert(n <= ANN_SCAN_AHEAD);
	if (!isHeap(table))
		return;
	hints = hintsOf(table);
	for (int i = 0; i < n; i++)
	{
		BlockNumber block = ItemPointerGetBlockNumber(&rows[i].tid);
		const AnnBufferHint *hint = AnnBufferHintFor(hints, block);

		if (hint->block != block || hint->buffer <= 0 ||
			ItemPointerGetOffsetNumber(&rows[i].tid) > MaxHeapTuplesPerPage)
			continue;
		pages[known] = BufferGetPage(hint->buffer);
		items[known] = PageGetItemId(pages[known], ItemPointerGetOffsetNumber(&rows[i].tid));
		__builtin_prefetch(pages[known]);
		__builtin_prefetch(items[known]);
		__builtin_prefetch(GetBufferDescriptor(hint->buffer - 1), 1);
		known++;
	}
	for (int i = 0; i < known; i++)
	{
		const char *tuple = (const char *) pages[i] + ItemIdGetOffset(items[i]);

		__builtin_prefetch(tuple);
		__builtin_prefetch(tuple + PG_CACHE_LINE_SIZE / 2);
	}
}
