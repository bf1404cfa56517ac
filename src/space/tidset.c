/*
 * tidset.c
 *	  Making, counting and going through a set of heap TIDs.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

#include "compat.h"
#include "space/tidset.h"

/* What the first walk of the bitmap counts, so that the second fills tables that are as large as they need to be. */
typedef struct Counts
{
	uint32		pages;
	uint32		chunks;
	uint32		last_chunk;
	int			max_offset;
} Counts;

static void
createTable(AnnTidTable *table, uint32 nentries, int nwords, MemoryContext context)
{
	uint64		places = pg_nextpower2_64(Max((uint64) nentries * 2, 2));

	if (places > (UINT64CONST(1) << 31))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("bitmap has too many pages")));
	table->entry_size = offsetof(AnnTidSetEntry, bits) + sizeof(uint64) * nwords;
	table->shift = 32 - pg_leftmost_one_pos64(places);
	table->nentries = 0;
	table->entries = MemoryContextAllocExtended(context, mul_size(table->entry_size, places),
												MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	table->order = MemoryContextAllocHuge(context, mul_size(sizeof(uint32), Max(nentries, 1)));
}

/* The entry of a key that is not less than any before it. */
static AnnTidSetEntry *
addEntry(AnnTidTable *table, uint32 key)
{
	AnnTidSetEntry *entry = AnnTidTableFind(table, key);

	if (!entry->used)
	{
		entry->used = true;
		entry->key = key;
		table->order[table->nentries++] = (uint32) (((char *) entry - table->entries) / table->entry_size);
	}
	return entry;
}

static void
setBit(AnnTidSetEntry *entry, int bit)
{
	entry->bits[bit / ANN_TIDSET_WORD_BITS] |= UINT64CONST(1) << bit % ANN_TIDSET_WORD_BITS;
}

static void
countPage(Counts *counts, const AnnBitmapPage *page)
{
	if (page->noffsets < 0)
	{
		uint32		chunk = page->block / ANN_TIDSET_CHUNK_PAGES;

		if (counts->chunks == 0 || chunk != counts->last_chunk)
			counts->chunks++;
		counts->last_chunk = chunk;
		return;
	}
	counts->pages++;
	for (int i = 0; i < page->noffsets; i++)
		counts->max_offset = Max(counts->max_offset, page->offsets[i]);
}

static void
addPage(AnnTidSet *set, const AnnBitmapPage *page)
{
	AnnTidSetEntry *entry;

	set->recheck |= page->recheck;
	if (page->noffsets < 0)
	{
		entry = addEntry(&set->chunks, page->block / ANN_TIDSET_CHUNK_PAGES);
		setBit(entry, page->block % ANN_TIDSET_CHUNK_PAGES);
		set->nlossy++;
		return;
	}
	entry = addEntry(&set->pages, page->block);
	entry->recheck = page->recheck;
	for (int i = 0; i < page->noffsets; i++)
	{
		setBit(entry, page->offsets[i] - 1);
		if (set->hashes != NULL)
		{
			ItemPointerData tid;
			uint16		hash;

			ItemPointerSet(&tid, page->block, page->offsets[i]);
			hash = AnnTidHash(&tid);
			set->hashes[hash / ANN_TIDSET_WORD_BITS] |= UINT64CONST(1) << hash % ANN_TIDSET_WORD_BITS;
		}
	}
	set->nexact += page->noffsets;
}

/*
 * Copies a bitmap (one of this process alone) into a set, allocated in `context`.  It takes
 * about as much memory as the bitmap, which can be freed afterwards.
 */
AnnTidSet *
AnnTidSetFromBitmap(TIDBitmap *bitmap, MemoryContext context)
{
	AnnTidSet  *set = MemoryContextAllocZero(context, sizeof(AnnTidSet));
	Counts		counts = {0};
	AnnBitmapWalk walk;
	AnnBitmapPage page;

	AnnBitmapWalkBegin(&walk, bitmap);
	while (AnnBitmapWalkNext(&walk, &page))
		countPage(&counts, &page);
	AnnBitmapWalkEnd(&walk);

	set->max_offset = counts.max_offset;
	createTable(&set->pages, counts.pages,
				Max(1, (counts.max_offset + ANN_TIDSET_WORD_BITS - 1) / ANN_TIDSET_WORD_BITS), context);
	createTable(&set->chunks, counts.chunks, ANN_TIDSET_CHUNK_PAGES / ANN_TIDSET_WORD_BITS, context);
	if (counts.chunks == 0)
		set->hashes = MemoryContextAllocZero(context, ANN_TIDSET_HASHES / 8);

	AnnBitmapWalkBegin(&walk, bitmap);
	while (AnnBitmapWalkNext(&walk, &page))
	{
		CHECK_FOR_INTERRUPTS();
		addPage(set, &page);
	}
	AnnBitmapWalkEnd(&walk);
	return set;
}

/*
 * Number of members; a lossy page is taken to hold as many as an exact page does.
 */
double
AnnTidSetCount(const AnnTidSet *set)
{
	double		of_a_page = set->pages.nentries > 0 ? set->nexact / set->pages.nentries : 1;

	return set->nexact + set->nlossy * of_a_page;
}

/*
 * Whether a member may not match: its page is lossy, or the index that named it
 * was not sure.
 */
bool
AnnTidSetNeedsRecheck(const AnnTidSet *set, const ItemPointerData *tid)
{
	const AnnTidSetEntry *entry;

	if (!set->recheck)
		return false;
	entry = AnnTidTableFind(&set->pages, ItemPointerGetBlockNumberNoCheck(tid));
	return !entry->used || entry->recheck;
}

/*
 * Starts a walk of the set in heap order.
 */
void
AnnTidSetBegin(AnnTidSetIterator *iterator, const AnnTidSet *set)
{
	memset(iterator, 0, sizeof(*iterator));
	iterator->set = set;
}

/* The next lossy page, without taking it; false at the end. */
static bool
peekLossy(AnnTidSetIterator *iterator, BlockNumber *block)
{
	const AnnTidTable *chunks = &iterator->set->chunks;

	while (iterator->next_chunk < chunks->nentries)
	{
		const AnnTidSetEntry *entry = AnnTidTableAt(chunks, chunks->order[iterator->next_chunk]);

		while (iterator->next_bit < ANN_TIDSET_CHUNK_PAGES)
		{
			int			bit = iterator->next_bit;

			if ((entry->bits[bit / ANN_TIDSET_WORD_BITS] >> bit % ANN_TIDSET_WORD_BITS & 1) != 0)
			{
				*block = entry->key * ANN_TIDSET_CHUNK_PAGES + bit;
				return true;
			}
			iterator->next_bit++;
		}
		iterator->next_chunk++;
		iterator->next_bit = 0;
	}
	return false;
}

/*
 * The next page that has members; false at the end.
 */
bool
AnnTidSetNext(AnnTidSetIterator *iterator, AnnTidSetPage *page)
{
	const AnnTidSet *set = iterator->set;
	const AnnTidSetEntry *entry = NULL;
	BlockNumber lossy;
	bool		has_lossy = peekLossy(iterator, &lossy);

	if (iterator->next_page < set->pages.nentries)
		entry = AnnTidTableAt(&set->pages, set->pages.order[iterator->next_page]);
	page->noffsets = 0;
	if (has_lossy && (entry == NULL || lossy < entry->key))
	{
		iterator->next_bit++;
		page->block = lossy;
		page->lossy = true;
		page->recheck = true;
		return true;
	}
	if (entry == NULL)
		return false;
	iterator->next_page++;
	page->block = entry->key;
	page->lossy = false;
	page->recheck = entry->recheck;
	for (int bit = 0; bit < set->max_offset; bit++)
		if ((entry->bits[bit / ANN_TIDSET_WORD_BITS] >> bit % ANN_TIDSET_WORD_BITS & 1) != 0)
			page->offsets[page->noffsets++] = (OffsetNumber) (bit + 1);
	return true;
}
