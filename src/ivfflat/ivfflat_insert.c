/*
 * ivfflat_insert.c
 *	  Adding an entry to its list.  README: Insert.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "ivfflat/ivfflat.h"

/* So many pages of a list are passed before they are compared with those of the index. */
#define FEW_PAGES 16

typedef struct InsertState
{
	Relation	index;
	const AnnIvfMetaPageData *meta;
	AnnIvfShape shape;
	uint32		chain;
	ItemPointer tid;
	const AnnIvfValue *value;
} InsertState;

/* The first entry of a list page that is free, or -1. */
static int
freeEntry(Page page, const AnnIvfShape *shape)
{
	const AnnIvfListPage *header = AnnIvfListPageOf(page);

	if (header->live < header->count)
	{
		for (int i = 0; i < header->count; i++)
			if (!ItemPointerIsValid(AnnIvfTidOf(page, shape, i)))
				return i;
	}
	return header->count < shape->entries ? header->count : -1;
}

/* Makes an entry of a registered page live. */
static void
putEntry(const InsertState *state, Page page, int entry)
{
	AnnIvfListPage *header = AnnIvfListPageOf(page);

	AnnIvfSetEntry(state->meta, &state->shape, page, entry, state->tid, state->value);
	if (entry == header->count)
		header->count++;
	header->live++;
}

/*
 * Copies part `part` of the vector with its header to a VECTORS page; all of it where
 * it fits a slot.
 */
static void
putVector(const InsertState *state, Page page, int slot, int part)
{
	const AnnIvfLayout *layout = &state->meta->layout;
	char	   *to = AnnPageRaw(page);
	Size		skip;

	if (layout->vectors_per_page > 0)
		to += (Size) slot * layout->vector_slot;
	if (part == 0)
	{
		memset(to, 0, ANN_IVF_VECTOR_HEADER);
		memcpy(to, state->tid, sizeof(ItemPointerData));
		to += ANN_IVF_VECTOR_HEADER;
		skip = 0;
	}
	else
		skip = (Size) part * ANN_PAGE_USABLE - ANN_IVF_VECTOR_HEADER;
	memcpy(to, state->value->stored + skip,
		   Min(layout->vector_size - skip,
			   layout->vectors_per_page > 0 ? layout->vector_size : AnnPageRaw(page) + ANN_PAGE_USABLE - to));
}

/*
 * Gives the CODES page in `buffer`, held exclusively, one more VECTORS page.  One WAL
 * record; a page added and not used is used by the next insert.
 */
static void
addVectorPage(const InsertState *state, Buffer buffer)
{
	AnnPageEdit edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
	AnnIvfListPage *header = AnnIvfListPageOf(AnnPageEditAdd(&edit, buffer, false));
	Page		page;
	Buffer		extra;
	Buffer		vectors = AnnIvfAllocPage(state->index, &edit, &page, &extra);

	AnnPageInit(page, ANN_IVFFLAT_PAGE_ID, ANN_IVF_VECTORS);
	memset(AnnPageRaw(page), 0, ANN_PAGE_USABLE);
	AnnPageSetRawSize(page, ANN_PAGE_USABLE);
	header->blocks[header->nblocks++] = BufferGetBlockNumber(vectors);
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(vectors);
	if (BufferIsValid(extra))
		UnlockReleaseBuffer(extra);
}

/*
 * Writes entry and vector to a list page held exclusively, which has room for it.
 */
static void
writeEntry(const InsertState *state, Buffer buffer, int entry)
{
	const AnnIvfLayout *layout = &state->meta->layout;
	Buffer		vectors = InvalidBuffer;
	AnnPageEdit edit;
	Page		page;

	if (state->shape.has_vectors)
	{
		int			first = AnnIvfVectorBlockIndex(layout, entry);

		while (AnnIvfListPageOf(BufferGetPage(buffer))->nblocks < first + layout->pages_per_vector)
			addVectorPage(state, buffer);
		for (int part = 0; part < layout->pages_per_vector; part++)
		{
			BlockNumber block = AnnIvfListPageOf(BufferGetPage(buffer))->blocks[first + part];

			if (block == BufferGetBlockNumber(buffer))
				AnnPageCorrupted(state->index, block, "it owns itself");
			vectors = AnnReadBlock(state->index, block, NULL);
			LockBuffer(vectors, BUFFER_LOCK_EXCLUSIVE);
			AnnPageGet(state->index, vectors, ANN_IVFFLAT_PAGE_ID, ANN_IVF_VECTORS);
			/* The last part goes into the entry's record. */
			if (part + 1 == layout->pages_per_vector)
				break;
			edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
			putVector(state, AnnPageEditAdd(&edit, vectors, false), 0, part);
			AnnPageEditCommit(&edit);
			UnlockReleaseBuffer(vectors);
		}
	}
	edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
	page = AnnPageEditAdd(&edit, buffer, false);
	putEntry(state, page, entry);
	if (BufferIsValid(vectors))
		putVector(state, AnnPageEditAdd(&edit, vectors, false), AnnIvfVectorSlot(layout, entry),
				  layout->pages_per_vector - 1);
	AnnPageEditCommit(&edit);
	if (BufferIsValid(vectors))
		UnlockReleaseBuffer(vectors);
}

/*
 * Appends a page to the list behind its last one, which the caller holds exclusively.
 * Returns the new page's buffer, held exclusively, and releases the old one.
 */
static Buffer
appendPage(const InsertState *state, Buffer last)
{
	AnnPageEdit edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
	Page		last_page = AnnPageEditAdd(&edit, last, false);
	Page		page;
	Buffer		extra;
	Buffer		buffer = AnnIvfAllocPage(state->index, &edit, &page, &extra);

	AnnIvfInitListPage(page, &state->shape, state->chain, BufferGetBlockNumber(last));
	AnnPageOpaque(last_page)->next = BufferGetBlockNumber(buffer);
	AnnPageEditCommit(&edit);
	if (BufferIsValid(extra))
		UnlockReleaseBuffer(extra);
	UnlockReleaseBuffer(last);
	return buffer;
}

/*
 * Goes along the list from where inserts last found room, to a page that has some.
 */
static void
insertIntoList(InsertState *state)
{
	uint32		list = state->value->list;
	AnnIvfListHead head = AnnIvfReadHead(state->index, state->meta, list);
	BlockNumber block = head.insert;
	BlockNumber npages = 0;
	BlockNumber most = FEW_PAGES;
	int			restarts = 0;
	Buffer		buffer;
	int			entry;

	state->chain = head.chain;
	for (;;)
	{
		Page		page;

		CHECK_FOR_INTERRUPTS();
		if (++npages > most && npages > (most = RelationGetNumberOfBlocks(state->index)))
			AnnPageCorrupted(state->index, block, "its list goes round in a circle");
		buffer = AnnReadBlock(state->index, block, NULL);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		page = BufferGetPage(buffer);
		if (!AnnIvfIsListPage(page, &state->shape, head.chain))
		{
			/* VACUUM took the page away; the first one always stays. */
			if (block == head.first)
				AnnPageCorrupted(state->index, block, "it is not the first page of its list");
			if (++restarts > ANN_IVF_MAX_RESTARTS)
				AnnPageCorrupted(state->index, block, "it is not a page of the list that leads to it");
			UnlockReleaseBuffer(buffer);
			block = head.first;
			npages = 0;
			continue;
		}
		AnnIvfCheckListPage(state->index, block, page, &state->meta->layout, &state->shape);
		entry = freeEntry(page, &state->shape);
		if (entry >= 0)
			break;
		if (!BlockNumberIsValid(AnnPageOpaque(page)->next))
		{
			buffer = appendPage(state, buffer);
			entry = 0;
			break;
		}
		block = AnnPageOpaque(page)->next;
		UnlockReleaseBuffer(buffer);
	}
	writeEntry(state, buffer, entry);
	block = BufferGetBlockNumber(buffer);
	UnlockReleaseBuffer(buffer);
	if (block != head.insert)
		AnnIvfSetInsertPage(state->index, state->meta, list, block);
}

/*
 * Adds an entry to the lists that *meta describes.
 */
void
AnnIvfInsertEntry(Relation index, const AnnIvfMetaPageData *meta, ItemPointer tid, const AnnIvfValue *value)
{
	InsertState state;

	state.index = index;
	state.meta = meta;
	state.shape = AnnIvfShapeOf(meta, value->list);
	state.tid = tid;
	state.value = value;
	insertIntoList(&state);
}

bool
ann_ivfflat_insert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap,
				   IndexUniqueCheck check_unique, bool index_unchanged, IndexInfo *info)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ann ivfflat insert", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	AnnAttributes *attributes = AnnAttributesCreate(index);
	AnnIvfMetaPageData now;

	/* Made before the lock, under which TOASTed values must not be read (README, Lock order). */
	for (;;)
	{
		AnnIvfCache *cache = AnnIvfCacheGet(index);
		AnnIvfFormer former = {&cache->meta, &cache->space, &cache->centroids};
		uint16		generation = cache->meta.generation;
		AnnIvfValue value;

		/* (The hash function of an included column may use this index, by which the cache becomes that of newer lists.) */
		AnnIvfFormValue(&former, attributes, values, isnull, &value);
		/* The lists stay those in use until the entry is in one (README, New lists). */
		LockPage(index, ANN_IVF_META_BLOCK, ShareLock);
		AnnIvfReadMeta(index, &now);
		if (now.generation == generation)
		{
			AnnIvfInsertEntry(index, &now, tid, &value);
			UnlockPage(index, ANN_IVF_META_BLOCK, ShareLock);
			break;
		}
		UnlockPage(index, ANN_IVF_META_BLOCK, ShareLock);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return false;
}
