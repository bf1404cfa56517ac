/*
 * hnsw_page.c
 *	  Meta page, entry table, rows, TID nodes, TID lists, vector items, and what a
 *	  backend remembers of them.  README: Pages, Lock order, Finding space.
 */
#include "postgres.h"

#include "access/xloginsert.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/freespace.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "hnsw/hnsw.h"

/*
 * Entries of an index with codes.  Data of many clusters that no edges join needs
 * them: 62k x 384 package descriptions, recall@10 at ef 60: .947 with 512 entries,
 * .981 with 2,048, for 6 us of a query.
 */
#define ROWS_PER_ENTRY 32
#define MIN_ENTRIES 512
#define MAX_ENTRIES 1024

/* Without codes an entry holds its whole vector, so there are fewer. */
#define PLAIN_ENTRY_BYTES (256 * 1024)
#define MIN_PLAIN_ENTRIES 16
#define MAX_PLAIN_ENTRIES 128

/* Tries for the lock of a listed page with free rows before the index is extended. */
#define LISTED_PAGE_TRIES 10

static AnnIndexCaches caches = {.name = "ann hnsw index caches", .size = sizeof(AnnHnswCache)};

static const AnnFormat format = {
	.name = "hnsw", .page_id = ANN_HNSW_PAGE_ID, .meta_kind = ANN_HNSW_META, .magic = ANN_HNSW_MAGIC, .version = ANN_HNSW_VERSION
};

/* ---- meta page ---- */

AnnHnswMetaPageData *
AnnHnswMetaOnPage(Page page)
{
	return (AnnHnswMetaPageData *) AnnPageRaw(page);
}

/*
 * Raises ERRCODE_INDEX_CORRUPTED unless *meta is of this version and sane
 * enough for the arithmetic that rests on it.
 */
static void
checkMeta(Relation index, const AnnHnswMetaPageData *meta)
{
	const AnnHnswLayout *layout = &meta->layout;

	if (meta->magic != ANN_HNSW_MAGIC)
		AnnPageCorrupted(index, ANN_HNSW_META_BLOCK, "it is not an hnsw meta page");
	if (meta->version != ANN_HNSW_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("index \"%s\" has version %u of the hnsw format, this library reads version %u",
						RelationGetRelationName(index), meta->version, ANN_HNSW_VERSION),
				 errhint("Please REINDEX it.")));
	if (layout->dim < 1 || layout->rows_per_page < 1 || layout->row_size < sizeof(AnnHnswRowHeader) ||
		(Size) layout->rows_per_page * layout->row_size > ANN_PAGE_USABLE ||
		sizeof(AnnHnswRowHeader) + layout->vector_space + AnnHnswAttributeSpace(layout) +
		(Size) layout->slots * layout->slot_size > layout->row_size ||
		layout->attribute_size != AnnAttributesSize(index) ||
		layout->slots < 1 || layout->slots > 255 ||
		(meta->nchains > 0) != BlockNumberIsValid(meta->chain_page) ||
		meta->nchains > ANN_HNSW_MAX_CHAIN_PAGES * ANN_HNSW_CHAINS_PER_PAGE ||
		(meta->nchains > 0 && layout->attribute_size == 0) ||
		meta->recoding > AnnHnswHasCodes(layout) ||
		meta->nentries > meta->entry_capacity ||
		meta->entry_capacity > ANN_HNSW_MAX_ENTRY_PAGES * (Size) AnnHnswEntriesPerPage(layout) ||
		(AnnHnswHasCodes(layout) &&
		 (!AnnCodeParamsValid(&meta->code) || meta->code.dim != (int32_t) layout->dim ||
		  AnnCodeBytes(&meta->code) != layout->code_size)))
		AnnPageCorrupted(index, ANN_HNSW_META_BLOCK, "its sizes do not fit together");
}

/*
 * Reads and checks the meta page.
 */
void
AnnHnswReadMeta(Relation index, AnnHnswMetaPageData *meta)
{
	Buffer		buffer = ReadBuffer(index, ANN_HNSW_META_BLOCK);

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	memcpy(meta, AnnHnswMetaOnPage(AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_META)), sizeof(*meta));
	UnlockReleaseBuffer(buffer);
	checkMeta(index, meta);
}

/*
 * Writes the meta page, the empty entry table and the empty chains of a new index,
 * unlogged but for the init fork.  *meta comes with everything that options and column
 * decide; the rest is filled in.
 */
void
AnnHnswCreateMeta(Relation index, ForkNumber fork, AnnHnswMetaPageData *meta)
{
	int			entry_pages;
	int			chain_pages = (int) AnnHnswChainPages(index, meta->rows);

	meta->magic = ANN_HNSW_MAGIC;
	meta->version = ANN_HNSW_VERSION;
	meta->build_id = pg_prng_uint64(&pg_global_prng_state);
	meta->center = InvalidBlockNumber;
	meta->nentries = 0;
	meta->entry_version = 1;
	meta->keeps = ANN_HNSW_ALPHA_KEEPS;
	meta->null_tids = InvalidBlockNumber;
	meta->zero_tids = InvalidBlockNumber;
	meta->row_page = InvalidBlockNumber;
	meta->free_row_pages = InvalidBlockNumber;
	meta->node_pages = InvalidBlockNumber;
	meta->piece_pages = InvalidBlockNumber;
	meta->free_pieces = ANN_HNSW_NO_PIECE;
	entry_pages = (meta->entry_capacity + AnnHnswEntriesPerPage(&meta->layout) - 1) /
		AnnHnswEntriesPerPage(&meta->layout);
	for (int i = 0; i < ANN_HNSW_MAX_ENTRY_PAGES; i++)
		meta->entry_pages[i] = i < entry_pages ? ANN_HNSW_META_BLOCK + 1 + i : InvalidBlockNumber;

	meta->nchains = chain_pages * ANN_HNSW_CHAINS_PER_PAGE;
	meta->chain_page = chain_pages > 0 ? ANN_HNSW_META_BLOCK + 1 + entry_pages : InvalidBlockNumber;

	for (int i = 0; i <= entry_pages + chain_pages; i++)
	{
		Buffer		buffer = AnnExtendFork(index, fork);
		Page		page = BufferGetPage(buffer);

		START_CRIT_SECTION();
		AnnPageInit(page, ANN_HNSW_PAGE_ID,
					i == 0 ? ANN_HNSW_META : i <= entry_pages ? ANN_HNSW_ENTRY : ANN_HNSW_CHAIN);
		if (i == 0)
		{
			memcpy(AnnHnswMetaOnPage(page), meta, sizeof(*meta));
			AnnPageSetRawSize(page, sizeof(*meta));
		}
		else if (i <= entry_pages)
			AnnPageSetRawSize(page, ANN_PAGE_USABLE);
		else
		{
			AnnHnswChain *chains = (AnnHnswChain *) AnnPageRaw(page);

			memset(chains, 0xFF, ANN_HNSW_CHAINS_PER_PAGE * sizeof(AnnHnswChain));
			for (int j = 0; j < ANN_HNSW_CHAINS_PER_PAGE; j++)
				chains[j].rows = 0;
			AnnPageSetRawSize(page, ANN_HNSW_CHAINS_PER_PAGE * sizeof(AnnHnswChain));
		}
		MarkBufferDirty(buffer);
		if (fork == INIT_FORKNUM)
			log_newpage_buffer(buffer, true);
		END_CRIT_SECTION();
		UnlockReleaseBuffer(buffer);
	}
}

/* ---- centre ---- */

/*
 * Reads the centre into a palloc'd float[dim]; NULL if it is zero.
 */
float *
AnnHnswReadCenter(Relation index, const AnnHnswMetaPageData *meta)
{
	Size		left = sizeof(float) * meta->layout.dim;
	char	   *center;
	char	   *to;
	BlockNumber block = meta->center;

	if (!BlockNumberIsValid(block))
		return NULL;
	to = center = palloc(left);
	while (left > 0)
	{
		Buffer		buffer;
		Page		page;
		Size		n = Min(left, ANN_PAGE_USABLE);

		if (!BlockNumberIsValid(block))
			AnnPageCorrupted(index, meta->center, "the chain of the centre is too short");
		buffer = AnnReadBlock(index, block, NULL);
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		page = AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_CENTER);
		memcpy(to, AnnPageRaw(page), n);
		block = AnnPageOpaque(page)->next;
		UnlockReleaseBuffer(buffer);
		to += n;
		left -= n;
	}
	return (float *) center;
}

/*
 * Writes the centre into the pages of the chain that starts at `first`, or into
 * new ones if that is invalid, and returns the first one's block.
 */
BlockNumber
AnnHnswWriteCenter(Relation index, AnnWriteMode mode, const float *center, int dim, BlockNumber first)
{
	Size		size = sizeof(float) * (Size) dim;
	Size		pages = (size + ANN_PAGE_USABLE - 1) / ANN_PAGE_USABLE;
	BlockNumber next = InvalidBlockNumber;
	BlockNumber block = first;

	for (Size from = 0; BlockNumberIsValid(block) && from < size; from += ANN_PAGE_USABLE)
	{
		Buffer		buffer = AnnReadBlock(index, block, NULL);
		AnnPageEdit edit;

		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		block = AnnPageOpaque(AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_CENTER))->next;
		edit = AnnPageEditBegin(index, mode);
		memcpy(AnnPageRaw(AnnPageEditAdd(&edit, buffer, false)), (const char *) center + from,
			   Min(size - from, ANN_PAGE_USABLE));
		AnnPageEditCommit(&edit);
		UnlockReleaseBuffer(buffer);
	}
	if (BlockNumberIsValid(first))
		return first;

	/* From the last page to the first, so that each knows the next one. */
	for (Size i = pages; i-- > 0;)
	{
		Size		from = i * ANN_PAGE_USABLE;
		Buffer		buffer = AnnExtendRelation(index);
		AnnPageEdit edit = AnnPageEditBegin(index, mode);
		Page		page = AnnPageEditAdd(&edit, buffer, true);

		AnnPageInit(page, ANN_HNSW_PAGE_ID, ANN_HNSW_CENTER);
		AnnPageOpaque(page)->next = next;
		memcpy(AnnPageRaw(page), (const char *) center + from, Min(size - from, ANN_PAGE_USABLE));
		AnnPageSetRawSize(page, Min(size - from, ANN_PAGE_USABLE));
		AnnPageEditCommit(&edit);
		next = BufferGetBlockNumber(buffer);
		UnlockReleaseBuffer(buffer);
	}
	return next;
}

/* ---- entry table ---- */

Size
AnnHnswEntrySize(const AnnHnswLayout *layout)
{
	Size		payload = 0;

	if (AnnHnswHasCodes(layout))
		payload = layout->code_size;
	else if (layout->vector_inline)
		payload = layout->vector_size;
	return TYPEALIGN(4, offsetof(AnnHnswEntry, payload) + payload);
}

int
AnnHnswEntriesPerPage(const AnnHnswLayout *layout)
{
	return (int) (ANN_PAGE_USABLE / AnnHnswEntrySize(layout));
}

/*
 * Entries to keep for an index of about `rows` rows (0 if that is not known).
 */
uint32
AnnHnswEntryCapacity(const AnnHnswLayout *layout, double rows)
{
	if (!AnnHnswHasCodes(layout))
	{
		if (!layout->vector_inline)
			return MIN_PLAIN_ENTRIES;
		return Min(MAX_PLAIN_ENTRIES,
				   Max(MIN_PLAIN_ENTRIES, PLAIN_ENTRY_BYTES / AnnHnswEntrySize(layout)));
	}
	return Min((uint32) Min(MAX_ENTRIES, Max(MIN_ENTRIES, rows / ROWS_PER_ENTRY)),
			   (uint32) (ANN_HNSW_MAX_ENTRY_PAGES * AnnHnswEntriesPerPage(layout)));
}

BlockNumber
AnnHnswEntryBlock(const AnnHnswMetaPageData *meta, const AnnHnswLayout *layout, uint32 entry)
{
	return meta->entry_pages[entry / AnnHnswEntriesPerPage(layout)];
}

/*
 * Fills *entry (AnnHnswEntrySize bytes) for a row.  dense and scratch (float[dim])
 * are needed with codes, stored without.
 */
void
AnnHnswFormEntry(const AnnHnswSpace *space, AnnRowId row, const float *dense, const char *stored,
				 AnnHnswEntry *entry, float *scratch)
{
	memset(entry, 0, AnnHnswEntrySize(&space->layout));
	entry->row = row;
	if (AnnHnswHasCodes(&space->layout))
	{
		AnnCodeFactors factors;
		AnnHalf		halves[3];

		AnnHnswEncode(space, dense, (uint8 *) entry->payload, &factors, scratch);
		AnnFactorsToHalf(&space->code, &factors, halves);
		entry->add = halves[0];
		entry->mul = halves[1];
	}
	else if (space->layout.vector_inline)
		memcpy(entry->payload, stored, space->layout.vector_size);
}

/*
 * Stores entry number `entry` (at most nentries, which grows by one then, and
 * so does the table when it is full, up to what an index of this many rows keeps).
 * `any`: entry 0, too, which only VACUUM replaces (README, Keepers).
 * Takes the meta page's lock: the caller holds no buffer lock but possibly a
 * row page's.
 */
void
AnnHnswPutEntry(Relation index, AnnWriteMode mode, uint32 entry, const AnnHnswEntry *data, bool any)
{
	Buffer		metabuf = ReadBuffer(index, ANN_HNSW_META_BLOCK);
	Buffer		buffer;
	AnnHnswMetaPageData *meta;
	AnnPageEdit edit;
	Size		size;
	int			per_page;
	bool		extend;
	Page		page;

	LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
	meta = AnnHnswMetaOnPage(AnnPageGet(index, metabuf, ANN_HNSW_PAGE_ID, ANN_HNSW_META));
	size = AnnHnswEntrySize(&meta->layout);
	per_page = AnnHnswEntriesPerPage(&meta->layout);
	if (entry > meta->nentries || (entry == 0 && !any))
		entry = meta->nentries;
	if (entry >= Max(meta->entry_capacity, AnnHnswEntryCapacity(&meta->layout, meta->rows)))
	{
		UnlockReleaseBuffer(metabuf);
		return;
	}
	extend = !BlockNumberIsValid(AnnHnswEntryBlock(meta, &meta->layout, entry));
	if (extend)
		buffer = AnnExtendRelation(index);
	else
	{
		buffer = AnnReadBlock(index, AnnHnswEntryBlock(meta, &meta->layout, entry), NULL);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ENTRY);
	}

	edit = AnnPageEditBegin(index, mode);
	meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));
	page = AnnPageEditAdd(&edit, buffer, extend);
	if (extend)
	{
		AnnPageInit(page, ANN_HNSW_PAGE_ID, ANN_HNSW_ENTRY);
		AnnPageSetRawSize(page, ANN_PAGE_USABLE);
		meta->entry_pages[entry / per_page] = BufferGetBlockNumber(buffer);
	}
	memcpy(AnnPageRaw(page) + (entry % per_page) * size, data, size);
	if (entry == meta->nentries)
		meta->nentries++;
	if (meta->nentries > meta->entry_capacity)
		meta->entry_capacity = meta->nentries;
	meta->entry_version++;
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
	UnlockReleaseBuffer(metabuf);
}

/*
 * Removes entry number `entry` if it is that of this row; the last entry takes its
 * place.
 */
void
AnnHnswRemoveEntry(Relation index, uint32 entry, AnnRowId row)
{
	Buffer		metabuf = ReadBuffer(index, ANN_HNSW_META_BLOCK);
	AnnHnswMetaPageData *meta;

	LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
	meta = AnnHnswMetaOnPage(AnnPageGet(index, metabuf, ANN_HNSW_PAGE_ID, ANN_HNSW_META));
	if (entry < meta->nentries)
	{
		uint32		last = meta->nentries - 1;
		Size		size = AnnHnswEntrySize(&meta->layout);
		int			per_page = AnnHnswEntriesPerPage(&meta->layout);
		Buffer		buffer = AnnReadBlock(index, AnnHnswEntryBlock(meta, &meta->layout, entry), NULL);
		Buffer		lastbuf = AnnReadBlock(index, AnnHnswEntryBlock(meta, &meta->layout, last), NULL);
		char	   *data = palloc(size);

		LockBuffer(lastbuf, BUFFER_LOCK_SHARE);
		memcpy(data, AnnPageRaw(AnnPageGet(index, lastbuf, ANN_HNSW_PAGE_ID, ANN_HNSW_ENTRY)) +
			   (last % per_page) * size, size);
		UnlockReleaseBuffer(lastbuf);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		if (((AnnHnswEntry *) (AnnPageRaw(AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ENTRY)) +
							   (entry % per_page) * size))->row == row)
		{
			AnnPageEdit edit = AnnPageEditBegin(index, ANN_WRITE_WAL);

			meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));
			memcpy(AnnPageRaw(AnnPageEditAdd(&edit, buffer, false)) + (entry % per_page) * size, data, size);
			meta->nentries--;
			meta->entry_version++;
			AnnPageEditCommit(&edit);
		}
		UnlockReleaseBuffer(buffer);
		pfree(data);
	}
	UnlockReleaseBuffer(metabuf);
}

/*
 * Adds to the meta page's count of rows, and to alpha within its bounds.
 */
void
AnnHnswCountRows(Relation index, AnnWriteMode mode, double rows, float alpha_step)
{
	Buffer		buffer = ReadBuffer(index, ANN_HNSW_META_BLOCK);
	AnnHnswMetaPageData *meta;
	AnnPageEdit edit;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_META);
	edit = AnnPageEditBegin(index, mode);
	meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, buffer, false));
	meta->rows += rows;
	meta->alpha = Min(Max(meta->alpha + alpha_step, ANN_HNSW_MIN_ALPHA), ANN_HNSW_MAX_ALPHA);
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
}

/* ---- per-backend cache ---- */

/*
 * Whether the index is of the format that this library reads; warns if not.
 */
bool
AnnHnswIsReadable(Relation index)
{
	return AnnIndexCacheReadable(&caches, index, &format);
}

/* Reads what does not change in the life of a build. */
static void
loadCache(Relation index, AnnHnswCache *cache)
{
	MemoryContext old;
	AnnHnswMetaPageData meta;

	cache->base.loaded = false;	/* unless all of what follows succeeds */
	AnnHnswReadMeta(index, &meta);
	AnnIndexCacheReset(&caches, &cache->base, index);
	cache->hints.context = cache->base.context;
	cache->meta = meta;
	cache->meta.entry_version = 0;	/* the entries are still to be read */
	cache->meta.nentries = 0;
	old = MemoryContextSwitchTo(cache->base.context);
	cache->center = AnnHnswReadCenter(index, &cache->meta);
	cache->entry_size = AnnHnswEntrySize(&cache->meta.layout);
	cache->entries_allocated = Max(cache->meta.entry_capacity, 1);
	cache->entries = palloc(mul_size(cache->entry_size, cache->entries_allocated));
	MemoryContextSwitchTo(old);
	AnnBufferHintsResize(&cache->hints, RelationGetNumberOfBlocks(index));
	cache->base.loaded = true;
}

/*
 * The backend's cache of this index, valid until the end of the current call.
 * Its meta and entries may be out of date; see AnnHnswCacheRefresh.
 */
AnnHnswCache *
AnnHnswCacheGet(Relation index)
{
	AnnHnswCache *cache = (AnnHnswCache *) AnnIndexCacheFind(&caches, index);

	if (!cache->base.loaded)
		loadCache(index, cache);
	return cache;
}

/*
 * Brings meta and entries up to date: reads the meta page, and the entry pages
 * if they have changed.
 */
void
AnnHnswCacheRefresh(Relation index, AnnHnswCache *cache)
{
	int			per_page = AnnHnswEntriesPerPage(&cache->meta.layout);
	AnnHnswMetaPageData meta;

	AnnHnswReadMeta(index, &meta);
	/* TRUNCATE in the transaction that made the table builds anew in the same file. */
	if (meta.build_id != cache->meta.build_id)
	{
		loadCache(index, cache);
		per_page = AnnHnswEntriesPerPage(&cache->meta.layout);
	}
	if (meta.entry_version != cache->meta.entry_version)
	{
		AnnBufferHintsResize(&cache->hints, RelationGetNumberOfBlocks(index));
		cache->meta.entry_version = 0;	/* unless all of what follows succeeds */
		if (meta.nentries > cache->entries_allocated)
		{
			cache->entries = repalloc(cache->entries, mul_size(cache->entry_size, meta.nentries));
			cache->entries_allocated = meta.nentries;
		}
		for (uint32 i = 0; i < meta.nentries; i += per_page)
		{
			Buffer		buffer = AnnReadBlock(index, AnnHnswEntryBlock(&meta, &meta.layout, i), NULL);

			LockBuffer(buffer, BUFFER_LOCK_SHARE);
			memcpy(cache->entries + i * cache->entry_size,
				   AnnPageRaw(AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ENTRY)),
				   Min(per_page, meta.nentries - i) * cache->entry_size);
			UnlockReleaseBuffer(buffer);
		}
	}
	cache->meta = meta;
}

/* ---- rows ---- */

/*
 * Reads and locks the page of a row and points *header to the row.  The caller
 * looks at its state: a free row is not an error.
 */
Buffer
AnnHnswLockRow(Relation index, AnnHnswCache *cache, const AnnHnswLayout *layout,
			   AnnRowId row, int lockmode, AnnHnswRowHeader **header)
{
	BlockNumber block = AnnHnswRowBlock(layout, row);
	Buffer		buffer;
	Page		page;

	if (unlikely(block == ANN_HNSW_META_BLOCK || row == ANN_HNSW_NO_ROW))
		AnnPageCorrupted(index, block, "an edge or an entry names a row that cannot be");
	buffer = cache != NULL ? AnnReadBuffer(index, &cache->hints, block) : AnnReadBlock(index, block, NULL);
	LockBuffer(buffer, lockmode);
	page = AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ROW);
	*header = AnnHnswRowOnPage(layout, page, AnnHnswRowSlot(layout, row));
	if (unlikely((*header)->nedges > layout->slots || (*header)->ntids > ANN_HNSW_INLINE_TIDS))
		AnnPageCorrupted(index, block, "a row has more edges or TIDs than it can hold");
	return buffer;
}

/*
 * A ROW page without rows.  Its raw area ends behind the last row that was ever
 * used, so that images of it leave the rest out, which is all zeroes: free rows.
 */
void
AnnHnswInitRowPage(Page page)
{
	AnnPageInit(page, ANN_HNSW_PAGE_ID, ANN_HNSW_ROW);
	AnnPageSetRawSize(page, 0);
}

/*
 * Finds a free row and returns its page's buffer, exclusively locked; the
 * caller fills the row and logs the change.
 */
Buffer
AnnHnswAllocRow(Relation index, AnnWriteMode mode, const AnnHnswLayout *layout, AnnRowId *row)
{
	for (int tries = 0;; tries++)
	{
		AnnHnswMetaPageData meta;
		AnnHnswMetaPageData *newmeta;
		Buffer		metabuf;
		Buffer		buffer;
		Page		page;
		AnnPageEdit edit;

		CHECK_FOR_INTERRUPTS();
		AnnHnswReadMeta(index, &meta);
		if (BlockNumberIsValid(meta.row_page))
		{
			buffer = AnnReadBlock(index, meta.row_page, NULL);
			LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
			page = AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ROW);
			for (int i = 0; i < layout->rows_per_page; i++)
			{
				if (AnnHnswRowOnPage(layout, page, i)->state == ANN_HNSW_FREE)
				{
					*row = meta.row_page * layout->rows_per_page + i;
					return buffer;
				}
			}
			UnlockReleaseBuffer(buffer);
		}

		metabuf = ReadBuffer(index, ANN_HNSW_META_BLOCK);
		LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
		if (AnnHnswMetaOnPage(BufferGetPage(metabuf))->row_page != meta.row_page)
		{
			UnlockReleaseBuffer(metabuf);
			continue;
		}
		/*
		 * Row pages come before the meta page in the lock order, so the listed
		 * page's lock may only be tried here; a new page is known to nobody.
		 */
		meta.free_row_pages = AnnHnswMetaOnPage(BufferGetPage(metabuf))->free_row_pages;
		if (BlockNumberIsValid(meta.free_row_pages))
		{
			buffer = AnnReadBlock(index, meta.free_row_pages, NULL);
			if (!ConditionalLockBuffer(buffer))
			{
				ReleaseBuffer(buffer);
				if (tries < LISTED_PAGE_TRIES)
				{
					UnlockReleaseBuffer(metabuf);
					continue;
				}
				buffer = InvalidBuffer;
			}
			else
				AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ROW);
		}
		else
			buffer = InvalidBuffer;

		if (BufferIsValid(buffer))
		{
			edit = AnnPageEditBegin(index, mode);
			newmeta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));
			page = AnnPageEditAdd(&edit, buffer, false);
			newmeta->free_row_pages = AnnPageOpaque(page)->next == meta.free_row_pages ?
				InvalidBlockNumber : AnnPageOpaque(page)->next;
			AnnPageOpaque(page)->next = InvalidBlockNumber;
		}
		else
		{
			buffer = AnnExtendRelation(index);
			if (BufferGetBlockNumber(buffer) >= ANN_HNSW_NO_ROW / layout->rows_per_page)
				ereport(ERROR,
						(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						 errmsg("index \"%s\" cannot have more than %u rows",
								RelationGetRelationName(index), ANN_HNSW_NO_ROW)));
			edit = AnnPageEditBegin(index, mode);
			newmeta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));
			page = AnnPageEditAdd(&edit, buffer, true);
			AnnHnswInitRowPage(page);
		}
		newmeta->row_page = BufferGetBlockNumber(buffer);
		AnnPageEditCommit(&edit);
		UnlockReleaseBuffer(buffer);
		UnlockReleaseBuffer(metabuf);
	}
}

/*
 * Puts a page into the list of ROW pages with free rows, unless it is there, or
 * is the page that inserts fill, or has none.  A page that is all zeroes becomes a
 * ROW page; the caller knows that nobody is about to use it.
 */
void
AnnHnswListRowPage(Relation index, AnnWriteMode mode, const AnnHnswLayout *layout, BlockNumber block)
{
	Buffer		buffer = AnnReadBlock(index, block, NULL);
	Buffer		metabuf;
	Page		page;
	bool		is_new;
	bool		has_free = false;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	page = BufferGetPage(buffer);
	is_new = PageIsNew(page);
	if (!is_new)
	{
		AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ROW);
		for (int i = 0; i < layout->rows_per_page && !has_free; i++)
			has_free = AnnHnswRowOnPage(layout, page, i)->state == ANN_HNSW_FREE;
		if (!has_free || BlockNumberIsValid(AnnPageOpaque(page)->next))
		{
			UnlockReleaseBuffer(buffer);
			return;
		}
	}
	metabuf = ReadBuffer(index, ANN_HNSW_META_BLOCK);
	LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
	if (AnnHnswMetaOnPage(AnnPageGet(index, metabuf, ANN_HNSW_PAGE_ID, ANN_HNSW_META))->row_page != block)
	{
		AnnPageEdit edit = AnnPageEditBegin(index, mode);
		AnnHnswMetaPageData *meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));

		page = AnnPageEditAdd(&edit, buffer, is_new);
		if (is_new)
			AnnHnswInitRowPage(page);
		AnnPageOpaque(page)->next = BlockNumberIsValid(meta->free_row_pages) ? meta->free_row_pages : block;
		meta->free_row_pages = block;
		AnnPageEditCommit(&edit);
	}
	UnlockReleaseBuffer(metabuf);
	UnlockReleaseBuffer(buffer);
}

/*
 * Writes a slot, layout->slot_size bytes, of an edge that is no keeper.  The sign of
 * length says whether the edge is occluded.  hint, the neighbour's first heap TID, halves, the
 * factors {add, mul}, and code are used with codes only.
 */
void
AnnHnswFormSlot(const AnnHnswLayout *layout, char *slot, AnnRowId neighbour, float length,
				const ItemPointerData *hint, const AnnHalf *halves, const uint8 *code)
{
	if (AnnHnswHasCodes(layout))
	{
		AnnHnswSlot *coded = (AnnHnswSlot *) slot;

		AnnHnswSlotSetRow(coded, neighbour);
		ann_kernels.f32_to_f16(&length, &coded->length, 1);
		coded->length &= ~ANN_HNSW_KEEPER;
		coded->add = halves[0];
		coded->mul = halves[1];
		AnnHnswSlotSetHint(layout, coded, hint);
		memcpy(AnnHnswSlotCode(layout, coded), code, layout->code_size);
	}
	else
	{
		AnnHnswPlainSlot *plain = (AnnHnswPlainSlot *) slot;

		uint32		bits;

		memcpy(&bits, &length, sizeof(bits));
		bits &= ~(uint32) ANN_HNSW_KEEPER;
		plain->row = neighbour;
		memcpy(&plain->length, &bits, sizeof(bits));
	}
}

/*
 * Writes slot i of a row in memory, or on a page that an edit has registered.
 */
void
AnnHnswSetSlot(const AnnHnswSpace *space, AnnHnswRowHeader *row, int i, AnnRowId neighbour,
			   float length, const ItemPointerData *hint, const AnnHalf *halves, const uint8 *code)
{
	const AnnHnswLayout *layout = &space->layout;

	AnnHnswFormSlot(layout, AnnHnswRowSlots(layout, row) + (Size) i * layout->slot_size,
					neighbour, length, hint, halves, code);
}

/* ---- TID nodes ---- */

static Buffer
lockNode(Relation index, uint32 node, AnnRowId owner, int lockmode, AnnHnswNode **result)
{
	BlockNumber block = node / ANN_HNSW_NODES_PER_PAGE;
	Buffer		buffer = AnnReadBlock(index, block, NULL);

	LockBuffer(buffer, lockmode);
	*result = AnnHnswNodeOnPage(AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_NODE), node);
	if ((*result)->owner == owner && (*result)->ntids > ANN_HNSW_NODE_TIDS)
		AnnPageCorrupted(index, block, "a TID node has more TIDs than it can hold");
	return buffer;
}

/*
 * Puts tid into a new node in front of the row's chain.  `rowbuf` is the row's
 * page, exclusively locked; so is it afterwards.  False, with nothing done, if the
 * index is so large that a new node would have no number.
 */
static bool
addNode(Relation index, AnnWriteMode mode, Buffer rowbuf, const AnnHnswLayout *layout, AnnRowId row, ItemPointer tid)
{
	Buffer		metabuf = ReadBuffer(index, ANN_HNSW_META_BLOCK);
	Buffer		buffer;
	AnnHnswMetaPageData *meta;
	AnnHnswNodePage *head;
	AnnHnswRowHeader *header;
	AnnHnswNode *node;
	AnnPageEdit edit;
	Page		page;
	int			i;
	bool		extended = false;

	LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
	meta = AnnHnswMetaOnPage(AnnPageGet(index, metabuf, ANN_HNSW_PAGE_ID, ANN_HNSW_META));
	if (BlockNumberIsValid(meta->node_pages))
	{
		buffer = AnnReadBlock(index, meta->node_pages, NULL);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		page = AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_NODE);
		for (i = 0; i < ANN_HNSW_NODES_PER_PAGE; i++)
			if (AnnHnswNodeOnPage(page, i)->owner == ANN_HNSW_NO_ROW)
				break;
		if (i == ANN_HNSW_NODES_PER_PAGE || ((AnnHnswNodePage *) AnnPageRaw(page))->nfree == 0)
			AnnPageCorrupted(index, meta->node_pages, "a full page of TID nodes is listed as having room");
	}
	else
	{
		if (RelationGetNumberOfBlocks(index) >= ANN_HNSW_NO_NODE / ANN_HNSW_NODES_PER_PAGE - MaxBackends)
		{
			UnlockReleaseBuffer(metabuf);
			return false;
		}
		buffer = AnnExtendRelation(index);
		extended = true;
		i = 0;
	}

	edit = AnnPageEditBegin(index, mode);
	header = AnnHnswRowOnPage(layout, AnnPageEditAdd(&edit, rowbuf, false), AnnHnswRowSlot(layout, row));
	meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));
	page = AnnPageEditAdd(&edit, buffer, extended);
	head = (AnnHnswNodePage *) AnnPageRaw(page);
	if (extended)
	{
		AnnPageInit(page, ANN_HNSW_PAGE_ID, ANN_HNSW_NODE);
		AnnPageSetRawSize(page, sizeof(AnnHnswNodePage) + ANN_HNSW_NODES_PER_PAGE * sizeof(AnnHnswNode));
		head->nfree = ANN_HNSW_NODES_PER_PAGE;
		head->listed = 1;
		for (int j = 0; j < ANN_HNSW_NODES_PER_PAGE; j++)
			AnnHnswNodeOnPage(page, j)->owner = ANN_HNSW_NO_ROW;
		meta->node_pages = BufferGetBlockNumber(buffer);
	}
	node = AnnHnswNodeOnPage(page, i);
	node->owner = row;
	node->next = header->node;
	node->ntids = 1;
	node->tids[0] = *tid;
	header->node = BufferGetBlockNumber(buffer) * ANN_HNSW_NODES_PER_PAGE + i;
	if (--head->nfree == 0)
	{
		meta->node_pages = AnnPageOpaque(page)->next;
		AnnPageOpaque(page)->next = InvalidBlockNumber;
		head->listed = 0;
	}
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
	UnlockReleaseBuffer(metabuf);
	return true;
}

/*
 * Adds a heap TID to a row that holds an equal vector with equal included columns.
 * False, with nothing done, if the row is not live any more or holds others by now.
 */
bool
AnnHnswAddTid(Relation index, AnnWriteMode mode, const AnnHnswLayout *layout, AnnRowId row,
			  const AnnHnswPoint *point, ItemPointer tid)
{
	AnnHnswRowHeader *header;
	Buffer		buffer = AnnHnswLockRow(index, NULL, layout, row, BUFFER_LOCK_EXCLUSIVE, &header);
	bool		done = false;

	if (header->state != ANN_HNSW_LIVE || header->hash != point->hash ||
		(layout->vector_inline && memcmp(AnnHnswRowVector(header), point->stored, point->stored_size) != 0) ||
		(layout->attribute_size > 0 &&
		 memcmp(AnnHnswRowAttributes(layout, header), point->attributes, layout->attribute_size) != 0))
	{
		UnlockReleaseBuffer(buffer);
		return false;
	}
	if (header->ntids < ANN_HNSW_INLINE_TIDS)
	{
		uint8		ntids = header->ntids + 1;
		AnnPagePatch patches[2] = {
			{&header->tids[header->ntids], tid, sizeof(ItemPointerData)},
			{&header->ntids, &ntids, sizeof(ntids)}
		};

		AnnPageApply(index, mode, buffer, patches, lengthof(patches));
		done = true;
	}
	else if (header->node != ANN_HNSW_NO_NODE)
	{
		AnnHnswNode *node;
		Buffer		nodebuf = lockNode(index, header->node, row, BUFFER_LOCK_EXCLUSIVE, &node);

		if (node->owner != row)
			AnnPageCorrupted(index, BufferGetBlockNumber(nodebuf), "a TID node does not belong to the row that names it");
		if (node->ntids < ANN_HNSW_NODE_TIDS)
		{
			uint16		ntids = node->ntids + 1;
			AnnPagePatch patches[2] = {
				{&node->tids[node->ntids], tid, sizeof(ItemPointerData)},
				{&node->ntids, &ntids, sizeof(ntids)}
			};

			AnnPageApply(index, mode, nodebuf, patches, lengthof(patches));
			done = true;
		}
		UnlockReleaseBuffer(nodebuf);
	}
	if (!done)
		done = addNode(index, mode, buffer, layout, row, tid);
	UnlockReleaseBuffer(buffer);
	return done;
}

/* A chain cannot have more nodes than there are: raises an error for one that has a cycle. */
static void
checkChainLength(Relation index, uint32 node, uint64 length)
{
	if (length % 4096 == 0 && length >= (uint64) RelationGetNumberOfBlocks(index) * ANN_HNSW_NODES_PER_PAGE)
		AnnPageCorrupted(index, node / ANN_HNSW_NODES_PER_PAGE, "a chain of TID nodes has a cycle");
}

static int
compareTids(const void *a, const void *b)
{
	return ItemPointerCompare((ItemPointer) a, (ItemPointer) b);
}

/*
 * Appends the TIDs of a row's chain of nodes, in ascending order and each once,
 * to a palloc'd array, which grows by repalloc.
 *
 * VACUUM takes empty nodes out of chains meanwhile.  Where the reader comes to a
 * node that has another owner by now it starts again from the row; where an emptied
 * node has come back as the first one of the same row, it reads TIDs twice,
 * which the sort removes.  Either way TIDs that a snapshot can see stay on their
 * nodes, and the nodes in the chain.  If the row was freed meanwhile, the result
 * may hold TIDs of its successor, whose tuples no snapshot of a scan that saw
 * the row alive can see.
 */
void
AnnHnswReadNodes(Relation index, const AnnHnswLayout *layout, AnnRowId owner, uint32 node,
				 ItemPointerData **tids, int *ntids, int *capacity)
{
	int			start = *ntids;
	int			kept = start;
	uint64		length = 0;

	while (node != ANN_HNSW_NO_NODE)
	{
		AnnHnswNode *n;
		Buffer		buffer = lockNode(index, node, owner, BUFFER_LOCK_SHARE, &n);

		if (n->owner == owner)
		{
			if (*ntids + n->ntids > *capacity)
			{
				*capacity = Max(*capacity * 2, *ntids + ANN_HNSW_NODE_TIDS);
				*tids = repalloc_huge(*tids, mul_size(sizeof(ItemPointerData), *capacity));
			}
			memcpy(*tids + *ntids, n->tids, sizeof(ItemPointerData) * n->ntids);
			*ntids += n->ntids;
			node = n->next;
			UnlockReleaseBuffer(buffer);
		}
		else
		{
			AnnHnswRowHeader *header;

			UnlockReleaseBuffer(buffer);
			*ntids = start;
			buffer = AnnHnswLockRow(index, NULL, layout, owner, BUFFER_LOCK_SHARE, &header);
			node = header->state == ANN_HNSW_LIVE ? header->node : ANN_HNSW_NO_NODE;
			UnlockReleaseBuffer(buffer);
		}
		CHECK_FOR_INTERRUPTS();
		checkChainLength(index, node, ++length);
	}
	qsort(*tids + start, *ntids - start, sizeof(ItemPointerData), compareTids);
	for (int i = start; i < *ntids; i++)
		if (kept == start || ItemPointerCompare(&(*tids)[kept - 1], &(*tids)[i]) != 0)
			(*tids)[kept++] = (*tids)[i];
	*ntids = kept;
}

/*
 * Takes `node` out of a row's chain, where it follows `prev` (ANN_HNSW_NO_NODE: it
 * is the first), and frees it.  False, with nothing done, if it has TIDs or is
 * somewhere else by now.  VACUUM alone locks two NODE pages at a time.
 */
static bool
unlinkNode(Relation index, const AnnHnswLayout *layout, AnnRowId row, uint32 prev, uint32 node)
{
	AnnHnswRowHeader *header;
	Buffer		rowbuf = AnnHnswLockRow(index, NULL, layout, row, BUFFER_LOCK_EXCLUSIVE, &header);
	Buffer		metabuf = ReadBuffer(index, ANN_HNSW_META_BLOCK);
	Buffer		prevbuf = InvalidBuffer;
	Buffer		buffer;
	AnnHnswNode *n;
	AnnHnswNode *p = NULL;
	bool		done = false;

	LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
	AnnPageGet(index, metabuf, ANN_HNSW_PAGE_ID, ANN_HNSW_META);
	buffer = lockNode(index, node, row, BUFFER_LOCK_EXCLUSIVE, &n);
	if (prev != ANN_HNSW_NO_NODE)
	{
		if (prev / ANN_HNSW_NODES_PER_PAGE == node / ANN_HNSW_NODES_PER_PAGE)
			p = AnnHnswNodeOnPage(BufferGetPage(buffer), prev);
		else
			prevbuf = lockNode(index, prev, row, BUFFER_LOCK_EXCLUSIVE, &p);
	}
	if (n->owner == row && n->ntids == 0 &&
		(p == NULL ? header->node == node : p->owner == row && p->next == node))
	{
		AnnPageEdit edit = AnnPageEditBegin(index, ANN_WRITE_WAL);
		Page		page = AnnPageEditAdd(&edit, buffer, false);
		AnnHnswNodePage *head = (AnnHnswNodePage *) AnnPageRaw(page);

		n = AnnHnswNodeOnPage(page, node);
		if (prev == ANN_HNSW_NO_NODE)
			AnnHnswRowOnPage(layout, AnnPageEditAdd(&edit, rowbuf, false), AnnHnswRowSlot(layout, row))->node = n->next;
		else if (BufferIsValid(prevbuf))
			AnnHnswNodeOnPage(AnnPageEditAdd(&edit, prevbuf, false), prev)->next = n->next;
		else
			AnnHnswNodeOnPage(page, prev)->next = n->next;
		n->owner = ANN_HNSW_NO_ROW;
		n->next = ANN_HNSW_NO_NODE;
		head->nfree++;
		if (!head->listed)
		{
			AnnHnswMetaPageData *meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));

			AnnPageOpaque(page)->next = meta->node_pages;
			meta->node_pages = BufferGetBlockNumber(buffer);
			head->listed = 1;
		}
		AnnPageEditCommit(&edit);
		done = true;
	}
	if (BufferIsValid(prevbuf))
		UnlockReleaseBuffer(prevbuf);
	UnlockReleaseBuffer(buffer);
	UnlockReleaseBuffer(metabuf);
	UnlockReleaseBuffer(rowbuf);
	return done;
}

/*
 * Frees the nodes of a live row's chain that have no TIDs.  For VACUUM, which
 * alone takes nodes out of chains; inserts put new ones in front meanwhile.
 */
void
AnnHnswDropEmptyNodes(Relation index, const AnnHnswLayout *layout, AnnRowId row)
{
	AnnHnswRowHeader *header;
	Buffer		buffer = AnnHnswLockRow(index, NULL, layout, row, BUFFER_LOCK_SHARE, &header);
	uint32		node = header->state == ANN_HNSW_LIVE ? header->node : ANN_HNSW_NO_NODE;
	uint32		prev = ANN_HNSW_NO_NODE;
	uint64		length = 0;

	UnlockReleaseBuffer(buffer);
	while (node != ANN_HNSW_NO_NODE)
	{
		AnnHnswNode *n;
		uint32		next;
		bool		empty;

		CHECK_FOR_INTERRUPTS();
		buffer = lockNode(index, node, row, BUFFER_LOCK_SHARE, &n);
		if (n->owner != row)
			AnnPageCorrupted(index, BufferGetBlockNumber(buffer), "a TID node does not belong to the row that names it");
		next = n->next;
		empty = n->ntids == 0;
		UnlockReleaseBuffer(buffer);
		if (!empty || !unlinkNode(index, layout, row, prev, node))
			prev = node;
		node = next;
		checkChainLength(index, node, ++length);
	}
}

/* ---- TID lists ---- */

static AnnHnswTidList *
tidListOnPage(Page page)
{
	return (AnnHnswTidList *) AnnPageRaw(page);
}

static Buffer
lockTidList(Relation index, BlockNumber block)
{
	Buffer		buffer = AnnReadBlock(index, block, NULL);

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_TIDLIST);
	return buffer;
}

/*
 * Adds a heap TID to the list of NULL vectors, or of vectors without a place
 * in the graph (`zero`): on its first page, or one that VACUUM has made room in,
 * or a new first page.
 */
void
AnnHnswAddToTidList(Relation index, AnnWriteMode mode, bool zero, ItemPointer tid)
{
	Buffer		metabuf = ReadBuffer(index, ANN_HNSW_META_BLOCK);
	Buffer		headbuf = InvalidBuffer;
	Buffer		buffer = InvalidBuffer;	/* another page than the first */
	AnnHnswMetaPageData *meta;
	AnnHnswTidList *list;
	AnnPageEdit edit;
	Page		page;
	BlockNumber head;
	BlockNumber room = 0;

	LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
	meta = AnnHnswMetaOnPage(AnnPageGet(index, metabuf, ANN_HNSW_PAGE_ID, ANN_HNSW_META));
	head = zero ? meta->zero_tids : meta->null_tids;
	if (BlockNumberIsValid(head))
	{
		headbuf = lockTidList(index, head);
		list = tidListOnPage(BufferGetPage(headbuf));
		room = list->room;
		if (list->ntids < ANN_HNSW_TIDLIST_CAPACITY)
		{
			edit = AnnPageEditBegin(index, mode);
			list = tidListOnPage(AnnPageEditAdd(&edit, headbuf, false));
			list->tids[list->ntids++] = *tid;
			AnnPageEditCommit(&edit);
			UnlockReleaseBuffer(headbuf);
			UnlockReleaseBuffer(metabuf);
			return;
		}
	}
	if (room != 0 && room != head)
	{
		buffer = lockTidList(index, room);
		if (tidListOnPage(BufferGetPage(buffer))->ntids >= ANN_HNSW_TIDLIST_CAPACITY)
			AnnPageCorrupted(index, room, "a full page of TIDs is listed as having room");
		edit = AnnPageEditBegin(index, mode);
		list = tidListOnPage(AnnPageEditAdd(&edit, buffer, false));
		list->tids[list->ntids++] = *tid;
		if (list->ntids == ANN_HNSW_TIDLIST_CAPACITY)
		{
			tidListOnPage(AnnPageEditAdd(&edit, headbuf, false))->room = list->room == room ? 0 : list->room;
			list->room = 0;
		}
	}
	else
	{
		buffer = AnnExtendRelation(index);
		edit = AnnPageEditBegin(index, mode);
		meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));
		page = AnnPageEditAdd(&edit, buffer, true);
		AnnPageInit(page, ANN_HNSW_PAGE_ID, ANN_HNSW_TIDLIST);
		AnnPageSetRawSize(page, ANN_PAGE_USABLE);
		AnnPageOpaque(page)->next = head;
		list = tidListOnPage(page);
		list->zero = zero;
		list->tids[list->ntids++] = *tid;
		if (zero)
			meta->zero_tids = BufferGetBlockNumber(buffer);
		else
			meta->null_tids = BufferGetBlockNumber(buffer);
	}
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
	if (BufferIsValid(headbuf))
		UnlockReleaseBuffer(headbuf);
	UnlockReleaseBuffer(metabuf);
}

/*
 * Links a TIDLIST page that has room, unless it is linked or the first one of its
 * chain.
 */
void
AnnHnswListTidPage(Relation index, bool zero, BlockNumber block)
{
	Buffer		metabuf = ReadBuffer(index, ANN_HNSW_META_BLOCK);
	AnnHnswMetaPageData *meta;
	BlockNumber head;

	LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
	meta = AnnHnswMetaOnPage(AnnPageGet(index, metabuf, ANN_HNSW_PAGE_ID, ANN_HNSW_META));
	head = zero ? meta->zero_tids : meta->null_tids;
	if (BlockNumberIsValid(head) && head != block)
	{
		Buffer		headbuf = lockTidList(index, head);
		Buffer		buffer = lockTidList(index, block);

		if (tidListOnPage(BufferGetPage(buffer))->room == 0)
		{
			AnnPageEdit edit = AnnPageEditBegin(index, ANN_WRITE_WAL);
			AnnHnswTidList *first = tidListOnPage(AnnPageEditAdd(&edit, headbuf, false));
			AnnHnswTidList *list = tidListOnPage(AnnPageEditAdd(&edit, buffer, false));

			list->room = first->room != 0 ? first->room : block;
			first->room = block;
			AnnPageEditCommit(&edit);
		}
		UnlockReleaseBuffer(buffer);
		UnlockReleaseBuffer(headbuf);
	}
	UnlockReleaseBuffer(metabuf);
}

/* ---- vector items ---- */

/*
 * A VECTOR page with room for an item of `need` bytes, exclusively locked;
 * *is_new if it is still all zeroes.
 */
static Buffer
vectorPage(Relation index, AnnWriteMode mode, Size need, bool *is_new)
{
	BlockNumber block;
	Buffer		buffer;

	*is_new = false;
	if (mode == ANN_WRITE_BUILD)
		block = RelationGetTargetBlock(index);
	else
	{
		block = RelationGetTargetBlock(index);
		if (!BlockNumberIsValid(block))
			block = GetPageWithFreeSpace(index, need);
	}
	while (BlockNumberIsValid(block))
	{
		Page		page;
		Size		room;

		/* The free-space map is a hint: it may name a page of any kind, or one that a crash has taken. */
		if (block >= RelationGetNumberOfBlocks(index))
		{
			block = mode == ANN_WRITE_BUILD ? InvalidBlockNumber : RecordAndGetPageWithFreeSpace(index, block, 0, need);
			continue;
		}
		buffer = AnnReadBlock(index, block, NULL);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		page = BufferGetPage(buffer);
		if (AnnPageIsOurs(page, ANN_HNSW_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_HNSW_VECTOR)
		{
			room = PageGetFreeSpace(page);
			if (room >= need)
				return buffer;
		}
		else
			room = 0;
		UnlockReleaseBuffer(buffer);
		if (mode == ANN_WRITE_BUILD)
			break;
		block = RecordAndGetPageWithFreeSpace(index, block, room, need);
	}
	*is_new = true;
	return AnnExtendRelation(index);
}

/*
 * Stores a vector in items of VECTOR pages and returns the first one's place.
 */
ItemPointerData
AnnHnswWriteVector(Relation index, AnnWriteMode mode, const char *data, Size size)
{
	ItemPointerData next;
	Size		left = size;

	ItemPointerSetInvalid(&next);
	/* From the last piece to the first, so that each knows the next one. */
	while (left > 0)
	{
		Size		piece = left % ANN_HNSW_VECTOR_ITEM_MAX == 0 ? ANN_HNSW_VECTOR_ITEM_MAX : left % ANN_HNSW_VECTOR_ITEM_MAX;
		Size		need = MAXALIGN(offsetof(AnnHnswVectorItem, data) + piece);
		AnnHnswVectorItem *item = palloc0(need);
		bool		is_new;
		Buffer		buffer = vectorPage(index, mode, need, &is_new);
		AnnPageEdit edit = AnnPageEditBegin(index, mode);
		Page		page = AnnPageEditAdd(&edit, buffer, is_new);
		OffsetNumber offset;

		if (is_new)
			AnnPageInit(page, ANN_HNSW_PAGE_ID, ANN_HNSW_VECTOR);
		left -= piece;
		item->next = next;
		item->first = left == 0;
		item->total = (uint32) (size - left);
		memcpy(item->data, data + left, piece);
		offset = PageAddItem(page, (Item) item, offsetof(AnnHnswVectorItem, data) + piece, InvalidOffsetNumber, false, false);
		if (offset == InvalidOffsetNumber)
			elog(ERROR, "failed to add a vector item to index \"%s\"", RelationGetRelationName(index));
		ItemPointerSet(&next, BufferGetBlockNumber(buffer), offset);
		AnnPageEditCommit(&edit);
		RelationSetTargetBlock(index, BufferGetBlockNumber(buffer));
		UnlockReleaseBuffer(buffer);
		pfree(item);
	}
	return next;
}

/*
 * Reads a vector from its items into data and returns its size.  0 if its row
 * was freed meanwhile and the items are gone or belong to something else; such
 * a row is not there any more.
 */
Size
AnnHnswReadVector(Relation index, ItemPointerData item, char *data, Size capacity)
{
	Size		done = 0;
	Size		expected = 0;

	while (ItemPointerIsValid(&item))
	{
		BlockNumber block = ItemPointerGetBlockNumber(&item);
		OffsetNumber offset = ItemPointerGetOffsetNumber(&item);
		Buffer		buffer;
		Page		page;
		AnnHnswVectorItem *piece;
		Size		length;
		ItemId		id;

		if (block == ANN_HNSW_META_BLOCK || block == InvalidBlockNumber)
			AnnPageCorrupted(index, block, "a row names a vector item that cannot be");
		buffer = AnnReadBlock(index, block, NULL);
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		page = AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_VECTOR);
		if (offset > PageGetMaxOffsetNumber(page) ||
			!ItemIdIsUsed(id = PageGetItemId(page, offset)))
		{
			UnlockReleaseBuffer(buffer);
			return 0;
		}
		if (ItemIdGetOffset(id) + ItemIdGetLength(id) > ((PageHeader) page)->pd_special ||
			ItemIdGetLength(id) <= offsetof(AnnHnswVectorItem, data))
			AnnPageCorrupted(index, block, "a vector item has a bad size");
		piece = (AnnHnswVectorItem *) PageGetItem(page, id);
		length = ItemIdGetLength(id) - offsetof(AnnHnswVectorItem, data);
		if (piece->total > capacity - done || (done > 0 && piece->total != expected) ||
			length > piece->total || piece->first != (done == 0))
		{
			UnlockReleaseBuffer(buffer);
			return 0;
		}
		memcpy(data + done, piece->data, length);
		done += length;
		expected = piece->total - length;
		item = piece->next;
		UnlockReleaseBuffer(buffer);
	}
	return expected == 0 ? done : 0;
}

/*
 * Tells the free-space map what a VECTOR page has room for.  An empty one holds
 * an item of the largest size, which the map's rounding would not let it have.
 */
void
AnnHnswRecordVectorPage(Relation index, BlockNumber block, Page page)
{
	bool		empty = true;

	for (OffsetNumber offset = FirstOffsetNumber; offset <= PageGetMaxOffsetNumber(page) && empty; offset++)
		empty = !ItemIdIsUsed(PageGetItemId(page, offset));
	RecordPageWithFreeSpace(index, block, empty ? BLCKSZ - 1 : PageGetFreeSpace(page));
}

/*
 * Deletes an item of a VECTOR page, whose buffer is exclusively locked and stays so.
 * The places of other items stay as they are.
 */
void
AnnHnswDeleteItem(Relation index, AnnWriteMode mode, Buffer buffer, OffsetNumber offset)
{
	AnnPageEdit edit = AnnPageEditBegin(index, mode);
	Page		page = AnnPageEditAdd(&edit, buffer, false);

	PageIndexTupleDeleteNoCompact(page, offset);
	PageSetHasFreeLinePointers(page);
	/* Unused line pointers at the end would take room from an item of the largest size. */
	while (PageGetMaxOffsetNumber(page) > 0 &&
		   !ItemIdIsUsed(PageGetItemId(page, PageGetMaxOffsetNumber(page))))
		((PageHeader) page)->pd_lower -= sizeof(ItemIdData);
	AnnPageEditCommit(&edit);
	AnnHnswRecordVectorPage(index, BufferGetBlockNumber(buffer), BufferGetPage(buffer));
}

/*
 * Deletes the items of a vector whose row was freed.
 */
void
AnnHnswDeleteVector(Relation index, AnnWriteMode mode, ItemPointerData item)
{
	bool		first = true;

	while (ItemPointerIsValid(&item))
	{
		BlockNumber block = ItemPointerGetBlockNumber(&item);
		OffsetNumber offset = ItemPointerGetOffsetNumber(&item);
		Buffer		buffer = AnnReadBlock(index, block, NULL);
		AnnHnswVectorItem *piece;
		ItemId		id;
		Page		page;

		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		page = AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_VECTOR);
		if (offset > PageGetMaxOffsetNumber(page) ||
			!ItemIdIsUsed(id = PageGetItemId(page, offset)))
			AnnPageCorrupted(index, block, "a vector item is missing");
		if (ItemIdGetOffset(id) + ItemIdGetLength(id) > ((PageHeader) page)->pd_special ||
			ItemIdGetLength(id) <= offsetof(AnnHnswVectorItem, data))
			AnnPageCorrupted(index, block, "a vector item has a bad size");
		piece = (AnnHnswVectorItem *) PageGetItem(page, id);
		if (piece->first != first)
			AnnPageCorrupted(index, block, "a vector item does not continue the one before");
		item = piece->next;
		first = false;
		AnnHnswDeleteItem(index, mode, buffer, offset);
		UnlockReleaseBuffer(buffer);
	}
}
