/*
 * hnsw_orphans.c
 *	  Vector items that no row names, since a crash or an error came between the
 *	  item and its row, or between a row's end and its item's: README, VACUUM step 6.
 */
#include "postgres.h"

#include "commands/vacuum.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "hnsw/hnsw.h"

/* Items of a VECTOR page: a bit for each offset. */
typedef struct PageItems
{
	uint32		nwords;
	uint64		words[FLEXIBLE_ARRAY_MEMBER];
} PageItems;

typedef struct Orphans
{
	Relation	index;
	BufferAccessStrategy strategy;
	const AnnHnswLayout *layout;
	BlockNumber nblocks;
	PageItems **pages;			/* by block; NULL for those of other kinds */
} Orphans;

static Buffer
readPage(Orphans *orphans, BlockNumber block, int lockmode)
{
	Buffer		buffer = AnnReadBlock(orphans->index, block, orphans->strategy);

	AnnVacuumDelayPoint();
	LockBuffer(buffer, lockmode);
	return buffer;
}

static bool
pageIs(Buffer buffer, AnnHnswPageKind kind)
{
	Page		page = BufferGetPage(buffer);

	return AnnPageIsOurs(page, ANN_HNSW_PAGE_ID) && AnnPageOpaque(page)->kind == kind;
}

/* Notes the items that there are. */
static void
noteItems(Orphans *orphans, BlockNumber block)
{
	Buffer		buffer = readPage(orphans, block, BUFFER_LOCK_SHARE);

	if (pageIs(buffer, ANN_HNSW_VECTOR))
	{
		Page		page = BufferGetPage(buffer);
		OffsetNumber max = PageGetMaxOffsetNumber(page);
		uint32		nwords = max / 64 + 1;
		PageItems  *items = palloc0(offsetof(PageItems, words) + sizeof(uint64) * nwords);

		items->nwords = nwords;
		for (OffsetNumber offset = FirstOffsetNumber; offset <= max; offset++)
			if (ItemIdIsUsed(PageGetItemId(page, offset)))
				items->words[offset / 64] |= UINT64CONST(1) << offset % 64;
		orphans->pages[block] = items;
	}
	UnlockReleaseBuffer(buffer);
}

/* Crosses out the items of a vector. */
static void
crossOut(Orphans *orphans, ItemPointerData item)
{
	while (ItemPointerIsValid(&item))
	{
		BlockNumber block = ItemPointerGetBlockNumber(&item);
		OffsetNumber offset = ItemPointerGetOffsetNumber(&item);
		Buffer		buffer;
		Page		page;
		ItemId		id;

		if (block < orphans->nblocks && orphans->pages[block] != NULL && offset / 64 < orphans->pages[block]->nwords)
			orphans->pages[block]->words[offset / 64] &= ~(UINT64CONST(1) << offset % 64);
		if (orphans->layout->vector_size <= ANN_HNSW_VECTOR_ITEM_MAX)
			return;
		buffer = readPage(orphans, block, BUFFER_LOCK_SHARE);
		page = AnnPageGet(orphans->index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_VECTOR);
		if (offset > PageGetMaxOffsetNumber(page) || !ItemIdIsUsed(id = PageGetItemId(page, offset)) ||
			ItemIdGetOffset(id) + ItemIdGetLength(id) > ((PageHeader) page)->pd_special ||
			ItemIdGetLength(id) <= offsetof(AnnHnswVectorItem, data))
			AnnPageCorrupted(orphans->index, block, "a vector item is missing");
		item = ((AnnHnswVectorItem *) PageGetItem(page, id))->next;
		UnlockReleaseBuffer(buffer);
	}
}

/* Crosses out the items that the rows of a page name. */
static void
crossOutRows(Orphans *orphans, BlockNumber block)
{
	const AnnHnswLayout *layout = orphans->layout;
	Buffer		buffer = readPage(orphans, block, BUFFER_LOCK_SHARE);
	ItemPointerData items[ANN_PAGE_USABLE / sizeof(AnnHnswRowHeader)];
	int			n = 0;

	if (pageIs(buffer, ANN_HNSW_ROW))
		for (int i = 0; i < layout->rows_per_page; i++)
		{
			AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, BufferGetPage(buffer), i);

			if (row->state != ANN_HNSW_FREE)
				memcpy(&items[n++], AnnHnswRowVector(row), sizeof(ItemPointerData));
		}
	UnlockReleaseBuffer(buffer);
	for (int i = 0; i < n; i++)
		crossOut(orphans, items[i]);
}

static void
deleteItems(Orphans *orphans, BlockNumber block)
{
	PageItems  *items = orphans->pages[block];
	Buffer		buffer = InvalidBuffer;

	for (OffsetNumber offset = FirstOffsetNumber; offset / 64 < items->nwords; offset++)
	{
		if ((items->words[offset / 64] >> offset % 64 & 1) == 0)
			continue;
		if (!BufferIsValid(buffer))
			buffer = readPage(orphans, block, BUFFER_LOCK_EXCLUSIVE);
		AnnHnswDeleteItem(orphans->index, ANN_WRITE_WAL, buffer, offset);
	}
	if (BufferIsValid(buffer))
		UnlockReleaseBuffer(buffer);
}

/*
 * Adds what a VECTOR page holds to the count.
 */
void
AnnHnswCountItems(Page page, AnnHnswItemCount *count)
{
	for (OffsetNumber offset = FirstOffsetNumber; offset <= PageGetMaxOffsetNumber(page); offset++)
	{
		ItemId		id = PageGetItemId(page, offset);
		AnnHnswVectorItem *item;

		if (!ItemIdIsUsed(id) || ItemIdGetOffset(id) + sizeof(AnnHnswVectorItem) > ((PageHeader) page)->pd_special)
			continue;
		item = (AnnHnswVectorItem *) PageGetItem(page, id);
		count->items++;
		if (item->first)
		{
			count->vectors++;
			count->expected += (item->total + ANN_HNSW_VECTOR_ITEM_MAX - 1) / ANN_HNSW_VECTOR_ITEM_MAX;
		}
	}
}

/*
 * Deletes the items that belong to no row, of the blocks below nblocks.  Whoever
 * was about to write a row for an item that is seen here holds the lock that is
 * waited for; nobody but VACUUM, which the caller is, deletes items.  Allocates in
 * CurrentMemoryContext.
 */
void
AnnHnswDeleteOrphans(Relation index, BufferAccessStrategy strategy, const AnnHnswLayout *layout, BlockNumber nblocks)
{
	Orphans		orphans = {index, strategy, layout, nblocks, NULL};

	orphans.pages = MemoryContextAllocExtended(CurrentMemoryContext, mul_size(sizeof(PageItems *), nblocks),
											   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (BlockNumber block = ANN_HNSW_META_BLOCK + 1; block < nblocks; block++)
		noteItems(&orphans, block);
	LockPage(index, ANN_HNSW_META_BLOCK, ExclusiveLock);
	UnlockPage(index, ANN_HNSW_META_BLOCK, ExclusiveLock);
	for (BlockNumber block = ANN_HNSW_META_BLOCK + 1; block < RelationGetNumberOfBlocks(index); block++)
		crossOutRows(&orphans, block);
	for (BlockNumber block = ANN_HNSW_META_BLOCK + 1; block < nblocks; block++)
		if (orphans.pages[block] != NULL)
			deleteItems(&orphans, block);
}
