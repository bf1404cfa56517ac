/*
 * hnsw_chain.c
 *	  Chains of rows whose first included columns are equal: README, section Chains.
 */
#include "postgres.h"

#include <math.h>

#include "commands/vacuum.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/buf_internals.h"

#include "compat.h"
#include "hnsw/hnsw.h"

/* Rows for each chain that a new index makes. */
#define ROWS_PER_CHAIN 4

/* CHAIN pages of an index whose rows are not known yet. */
#define EMPTY_CHAIN_PAGES 10

/* Walks of a chain that VACUUM's work may spoil, before it is called damage. */
#define MAX_RESTARTS 10000

/*
 * CHAIN pages of a new index of about so many rows (0: not known); 0 if it has no
 * included column or one that cannot be hashed.
 */
uint32
AnnHnswChainPages(Relation index, double rows)
{
	AnnAttributes *attributes = AnnAttributesCreate(index);
	bool		hashed = OidIsValid(attributes->hash.fn_oid);

	pfree(attributes);
	if (!hashed)
		return 0;
	if (rows <= 0)
		return EMPTY_CHAIN_PAGES;
	return (uint32) Min(ceil(rows / ROWS_PER_CHAIN / ANN_HNSW_CHAINS_PER_PAGE), ANN_HNSW_MAX_CHAIN_PAGES);
}

/*
 * The chain of a row with these attributes; the index has chains.
 */
uint32
AnnHnswChainOf(const AnnHnswMetaPageData *meta, AnnAttributes *attributes, const char *area)
{
	return AnnAttributesKey(attributes, area) % meta->nchains;
}

/*
 * Locks the page of a chain and points *result to it.  In the lock order it is with the
 * NODE pages.
 */
Buffer
AnnHnswLockChain(Relation index, const AnnHnswMetaPageData *meta, uint32 chain, int lockmode, AnnHnswChain **result)
{
	Buffer		buffer = ReadBuffer(index, meta->chain_page + chain / ANN_HNSW_CHAINS_PER_PAGE);

	LockBuffer(buffer, lockmode);
	*result = (AnnHnswChain *) AnnPageRaw(AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_CHAIN)) +
		chain % ANN_HNSW_CHAINS_PER_PAGE;
	return buffer;
}

AnnHnswChain
AnnHnswReadChain(Relation index, const AnnHnswMetaPageData *meta, uint32 chain)
{
	AnnHnswChain *at;
	Buffer		buffer = AnnHnswLockChain(index, meta, chain, BUFFER_LOCK_SHARE, &at);
	AnnHnswChain result = *at;

	UnlockReleaseBuffer(buffer);
	return result;
}

/* A chain cannot have more rows than there are: raises an error for one that has a cycle. */
static void
checkLength(Relation index, const AnnHnswLayout *layout, AnnRowId row, uint64 length)
{
	CHECK_FOR_INTERRUPTS();
	if (length % 4096 == 0 && length > (uint64) RelationGetNumberOfBlocks(index) * layout->rows_per_page)
		AnnPageCorrupted(index, AnnHnswRowBlock(layout, row), "a chain of rows has a cycle");
}

/*
 * Puts a row in front of a chain.  Both are in memory, or on pages that an edit has registered.
 */
void
AnnHnswPushRow(AnnHnswChain *chain, AnnHnswLink *link, AnnRowId row)
{
	link->next = chain->first;
	link->ahead = chain->ahead[ANN_HNSW_CHAIN_AHEAD - 1];
	for (int i = ANN_HNSW_CHAIN_AHEAD - 1; i > 0; i--)
		chain->ahead[i] = chain->ahead[i - 1];
	chain->ahead[0] = chain->first;
	chain->first = row;
	chain->rows++;
}

/*
 * Makes the chains of an index that was just built, in the order of its pages.
 * Nothing is logged.
 */
void
AnnHnswChainRows(Relation index, AnnAttributes *attributes)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(index);
	AnnHnswMetaPageData meta;
	AnnHnswChain *chains;

	AnnHnswReadMeta(index, &meta);
	if (meta.nchains == 0)
		return;
	chains = palloc(mul_size(sizeof(AnnHnswChain), meta.nchains));
	memset(chains, 0xFF, sizeof(AnnHnswChain) * meta.nchains);
	for (uint32 i = 0; i < meta.nchains; i++)
		chains[i].rows = 0;
	/* From the last row to the first: a walk goes forward. */
	for (BlockNumber block = nblocks; block-- > 0;)
	{
		Buffer		buffer = ReadBuffer(index, block);
		Page		page = BufferGetPage(buffer);

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		if (AnnPageIsOurs(page, ANN_HNSW_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_HNSW_ROW)
		{
			for (int i = meta.layout.rows_per_page - 1; i >= 0; i--)
			{
				AnnHnswRowHeader *row = AnnHnswRowOnPage(&meta.layout, page, i);

				if (row->state == ANN_HNSW_LIVE)
					AnnHnswPushRow(&chains[AnnHnswChainOf(&meta, attributes, AnnHnswRowAttributes(&meta.layout, row))],
								   AnnHnswRowLink(&meta.layout, row), block * meta.layout.rows_per_page + i);
			}
			MarkBufferDirty(buffer);
		}
		UnlockReleaseBuffer(buffer);
	}
	for (uint32 i = 0; i < meta.nchains; i += ANN_HNSW_CHAINS_PER_PAGE)
	{
		AnnHnswChain *at;
		Buffer		buffer = AnnHnswLockChain(index, &meta, i, BUFFER_LOCK_EXCLUSIVE, &at);

		memcpy(at, chains + i, sizeof(AnnHnswChain) * ANN_HNSW_CHAINS_PER_PAGE);
		MarkBufferDirty(buffer);
		UnlockReleaseBuffer(buffer);
	}
	pfree(chains);
}

/* The row behind this one in its chain. */
static AnnRowId
readLink(Relation index, const AnnHnswLayout *layout, AnnRowId row)
{
	AnnHnswRowHeader *header;
	Buffer		buffer = AnnHnswLockRow(index, NULL, layout, row, BUFFER_LOCK_SHARE, &header);
	AnnRowId	link = AnnHnswRowLink(layout, header)->next;

	UnlockReleaseBuffer(buffer);
	return link;
}

/*
 * Takes `row`, which `next` follows, out of its chain, where it was behind `prev` when it was
 * read (ANN_HNSW_NO_ROW: the first one).  Inserts put rows in front meanwhile, so the first one
 * need not be that any more.
 */
static void
unlinkRow(Relation index, const AnnHnswMetaPageData *meta, uint32 chain, AnnRowId prev, AnnRowId row, AnnRowId next)
{
	const AnnHnswLayout *layout = &meta->layout;
	AnnPagePatch patch = {.data = &next,.length = sizeof(next)};
	AnnHnswRowHeader *header;
	Buffer		buffer;

	if (prev == ANN_HNSW_NO_ROW)
	{
		AnnHnswChain *at;
		uint64		length = 0;

		buffer = AnnHnswLockChain(index, meta, chain, BUFFER_LOCK_EXCLUSIVE, &at);
		if (at->first == row)
		{
			patch.target = &at->first;
			AnnPageApply(index, ANN_WRITE_WAL, buffer, &patch, 1);
			UnlockReleaseBuffer(buffer);
			return;
		}
		prev = at->first;
		UnlockReleaseBuffer(buffer);
		for (;;)
		{
			AnnRowId	link = readLink(index, layout, prev);

			if (link == row)
				break;
			if (link == ANN_HNSW_NO_ROW)
				AnnPageCorrupted(index, AnnHnswRowBlock(layout, row), "a row is not in its chain any more");
			checkLength(index, layout, link, ++length);
			prev = link;
		}
	}
	buffer = AnnHnswLockRow(index, NULL, layout, prev, BUFFER_LOCK_EXCLUSIVE, &header);
	patch.target = &AnnHnswRowLink(layout, header)->next;
	AnnPageApply(index, ANN_WRITE_WAL, buffer, &patch, 1);
	UnlockReleaseBuffer(buffer);
}

/* Takes the rows of the set out of one chain. */
static void
cleanChain(Relation index, const AnnHnswMetaPageData *meta, uint32 chain, const AnnHnswRowSet *rows)
{
	const AnnHnswLayout *layout = &meta->layout;
	AnnRowId	row = AnnHnswReadChain(index, meta, chain).first;
	AnnRowId	prev = ANN_HNSW_NO_ROW;
	uint64		length = 0;
	uint32		removed = 0;

	while (row != ANN_HNSW_NO_ROW)
	{
		AnnRowId	next;

		AnnVacuumDelayPoint();
		checkLength(index, layout, row, ++length);
		next = readLink(index, layout, row);
		if (AnnHnswRowSetHas(rows, row))
		{
			unlinkRow(index, meta, chain, prev, row, next);
			removed++;
			/* Rows that inserts have put in front meanwhile are none of ours. */
		}
		else
			prev = row;
		row = next;
	}
	/* The count goes down after its rows have gone: a crash leaves it too high, not too low. */
	if (removed > 0)
	{
		AnnHnswChain *at;
		Buffer		buffer = AnnHnswLockChain(index, meta, chain, BUFFER_LOCK_EXCLUSIVE, &at);
		uint32		left = at->rows - Min(at->rows, removed);
		AnnPagePatch patch = {&at->rows, &left, sizeof(left)};

		AnnPageApply(index, ANN_WRITE_WAL, buffer, &patch, 1);
		UnlockReleaseBuffer(buffer);
	}
}

/*
 * Takes rows that are being deleted out of their chains, before they are freed.
 * For VACUUM, which alone does that.
 */
void
AnnHnswUnchainRows(Relation index, const AnnHnswMetaPageData *meta, const AnnHnswRowSet *rows)
{
	const AnnHnswLayout *layout = &meta->layout;
	AnnAttributes *attributes;
	AnnHnswRowSet chains;
	AnnRowId	chain = 0;

	if (meta->nchains == 0)
		return;
	attributes = AnnAttributesCreate(index);
	AnnHnswRowSetInit(&chains, meta->nchains);
	for (AnnRowId row = 0; AnnHnswRowSetNext(rows, &row); row++)
	{
		char		area[ANN_ATTRIBUTES_MAX_SIZE];
		AnnHnswRowHeader *header;
		Buffer		buffer = AnnHnswLockRow(index, NULL, layout, row, BUFFER_LOCK_SHARE, &header);

		memcpy(area, AnnHnswRowAttributes(layout, header), layout->attribute_size);
		UnlockReleaseBuffer(buffer);
		AnnVacuumDelayPoint();
		AnnHnswRowSetAdd(&chains, AnnHnswChainOf(meta, attributes, area));
	}
	for (; AnnHnswRowSetNext(&chains, &chain); chain++)
		cleanChain(index, meta, chain, rows);
	AnnHnswRowSetFree(&chains);
	pfree(attributes);
}

/* The rows that a walk has seen: a table with at least half of its places empty, ANN_HNSW_NO_ROW. */
typedef struct SeenRows
{
	AnnRowId   *places;
	uint64		capacity;		/* a power of two */
	uint64		count;
} SeenRows;

static void
initSeen(SeenRows *seen, uint64 capacity)
{
	seen->places = palloc_extended(mul_size(sizeof(AnnRowId), capacity), MCXT_ALLOC_HUGE);
	memset(seen->places, 0xFF, sizeof(AnnRowId) * capacity);
	seen->capacity = capacity;
	seen->count = 0;
}

/* True if the row was not seen before; it is now. */
static bool
addSeen(SeenRows *seen, AnnRowId row)
{
	uint64		i = murmurhash32(row) & (seen->capacity - 1);

	for (; seen->places[i] != ANN_HNSW_NO_ROW; i = (i + 1) & (seen->capacity - 1))
		if (seen->places[i] == row)
			return false;
	seen->places[i] = row;
	if (++seen->count * 2 > seen->capacity)
	{
		SeenRows	old = *seen;

		initSeen(seen, old.capacity * 2);
		for (i = 0; i < old.capacity; i++)
			if (old.places[i] != ANN_HNSW_NO_ROW)
				addSeen(seen, old.places[i]);
		pfree(old.places);
	}
	return true;
}

/*
 * Asks the CPU for the first bytes of a row and for what is touched on the way to it, if
 * this backend remembers where it is.  Harmless if the buffer holds something else by
 * now, or the row cannot be.  (Always inline: gcc drops calls of functions that do nothing else.)
 */
static pg_attribute_always_inline void
prefetchRow(const AnnHnswCache *cache, AnnRowId row, Size bytes)
{
	const AnnHnswLayout *layout = &cache->meta.layout;
	BlockNumber block = AnnHnswRowBlock(layout, row);
	const AnnBufferHint *hint = AnnBufferHintFor(&cache->hints, block);

	if (hint->block == block && hint->buffer > 0)
	{
		Page		page = BufferGetPage(hint->buffer);
		const char *start = (const char *) AnnHnswRowOnPage(layout, page, AnnHnswRowSlot(layout, row));

		__builtin_prefetch(AnnPageOpaque(page));
		__builtin_prefetch(GetBufferDescriptor(hint->buffer - 1), 1);
		for (Size i = 0; i < bytes; i += 64)
			__builtin_prefetch(start + i);
	}
}

/*
 * Calls back for the live rows of a chain, each once.  A row may have been freed and used
 * again since its id was read: if it is not of the chain any more the walk begins again,
 * and if it is, it stands at the chain's front now and all that was behind it follows, rows
 * that the walk has seen among it.  Rows that a snapshot can see stay where they are.
 */
void
AnnHnswWalkChain(Relation index, AnnHnswCache *cache, AnnAttributes *attributes, uint32 chain,
				 AnnHnswChainVisit visit, void *arg)
{
	const AnnHnswLayout *layout = &cache->meta.layout;
	const AnnHnswMetaPageData *meta = &cache->meta;
	Size		size = sizeof(AnnHnswRowHeader) + layout->vector_space + AnnHnswAttributeSpace(layout);
	AnnHnswRowHeader *copy = palloc(size);
	AnnHnswChain head = AnnHnswReadChain(index, meta, chain);
	SeenRows	seen;
	int			restarts = 0;
	uint64		length = 0;		/* rows in succession that were seen before */
	AnnRowId	row = head.first;

	initSeen(&seen, pg_nextpower2_64(2 * Min(Max(head.rows, 16), 65536)));
	for (int i = 0; i < ANN_HNSW_CHAIN_AHEAD; i++)
		prefetchRow(cache, head.ahead[i], size);
	while (row != ANN_HNSW_NO_ROW)
	{
		AnnHnswRowHeader *header;
		Buffer		buffer = AnnHnswLockRow(index, cache, layout, row, BUFFER_LOCK_SHARE, &header);

		prefetchRow(cache, AnnHnswRowLink(layout, header)->ahead, size);
		memcpy(copy, header, size);
		UnlockReleaseBuffer(buffer);
		CHECK_FOR_INTERRUPTS();
		if (copy->state == ANN_HNSW_FREE ||
			AnnHnswChainOf(meta, attributes, AnnHnswRowAttributes(layout, copy)) != chain)
		{
			if (++restarts > MAX_RESTARTS)
				AnnPageCorrupted(index, AnnHnswRowBlock(layout, row), "it holds a row that is not of the chain that leads to it");
			length = 0;
			row = AnnHnswReadChain(index, meta, chain).first;
			continue;
		}
		if (!addSeen(&seen, row))
			checkLength(index, layout, row, ++length);
		else
		{
			length = 0;
			if (copy->state == ANN_HNSW_LIVE)
				visit(arg, row, copy);
		}
		row = AnnHnswRowLink(layout, copy)->next;
	}
	pfree(seen.places);
	pfree(copy);
}
