/*
 * tidset.h
 *	  A set of heap TIDs made from a TIDBitmap, with a test of membership.
 *
 * Heap pages are entries of an open-addressing table, each with a bit for every
 * offset up to the largest in the set: 16 bytes where no page has more than 64
 * tuples, so a test touches one cache line.  Pages that the bitmap knows as a
 * whole only (lossy) are in a second table, 256 to an entry.
 */
#ifndef ANN_TIDSET_H
#define ANN_TIDSET_H

#include "postgres.h"

#include "access/htup_details.h"
#include "nodes/tidbitmap.h"
#include "storage/itemptr.h"

#define ANN_TIDSET_WORD_BITS 64
#define ANN_TIDSET_HASHES 65536
#define ANN_TIDSET_CHUNK_PAGES 256	/* pages of an entry for lossy pages */

/* A page, or a chunk of lossy pages.  Zero bits: the place is free. */
typedef struct AnnTidSetEntry
{
	uint32		key;			/* block, or block / ANN_TIDSET_CHUNK_PAGES */
	bool		used;
	bool		recheck;		/* a page: members may not match after all */
	uint64		bits[FLEXIBLE_ARRAY_MEMBER];
} AnnTidSetEntry;

typedef struct AnnTidTable
{
	char	   *entries;
	Size		entry_size;
	int			shift;			/* 32 - log2 of the places */
	uint32		nentries;
	uint32	   *order;			/* places of the entries, by key */
} AnnTidTable;

typedef struct AnnTidSet
{
	AnnTidTable pages;
	AnnTidTable chunks;
	int			max_offset;		/* of an exact member */
	double		nexact;			/* members on pages that are not lossy */
	double		nlossy;			/* lossy pages */
	bool		recheck;		/* some member may not match */
	uint64	   *hashes;			/* a bit for each hash that a member has; NULL if there are lossy pages */
} AnnTidSet;

/* Members of one heap page, in the order of their offsets. */
typedef struct AnnTidSetPage
{
	BlockNumber block;
	bool		lossy;			/* every tuple of the page may be a member; no offsets */
	bool		recheck;
	int			noffsets;
	OffsetNumber offsets[MaxHeapTuplesPerPage];
} AnnTidSetPage;

typedef struct AnnTidSetIterator
{
	const AnnTidSet *set;
	uint32		next_page;
	uint32		next_chunk;
	int			next_bit;		/* of that chunk */
} AnnTidSetIterator;

extern AnnTidSet *AnnTidSetFromBitmap(TIDBitmap *bitmap, MemoryContext context);
extern double AnnTidSetCount(const AnnTidSet *set);
extern bool AnnTidSetNeedsRecheck(const AnnTidSet *set, const ItemPointerData *tid);
extern void AnnTidSetBegin(AnnTidSetIterator *iterator, const AnnTidSet *set);
extern bool AnnTidSetNext(AnnTidSetIterator *iterator, AnnTidSetPage *page);

static inline AnnTidSetEntry *
AnnTidTableAt(const AnnTidTable *table, uint32 place)
{
	return (AnnTidSetEntry *) (table->entries + place * table->entry_size);
}

static inline uint32
AnnTidTablePlace(const AnnTidTable *table, uint32 key)
{
	return (key * 0x9E3779B1U) >> table->shift;
}

/* The entry of a key, or the free one where it would go. */
static inline AnnTidSetEntry *
AnnTidTableFind(const AnnTidTable *table, uint32 key)
{
	uint32		mask = UINT32_MAX >> table->shift;
	uint32		place = AnnTidTablePlace(table, key);

	for (;;)
	{
		AnnTidSetEntry *entry = AnnTidTableAt(table, place);

		if (!entry->used || entry->key == key)
			return entry;
		place = (place + 1) & mask;
	}
}

/*
 * Whether a TID is in the set.  The TID need not be valid.
 */
static inline bool
AnnTidSetContains(const AnnTidSet *set, const ItemPointerData *tid)
{
	BlockNumber block = ItemPointerGetBlockNumberNoCheck(tid);
	int			offset = ItemPointerGetOffsetNumberNoCheck(tid);

	if (offset > 0 && offset <= set->max_offset)
	{
		const AnnTidSetEntry *entry = AnnTidTableFind(&set->pages, block);
		int			bit = offset - 1;

		if (entry->used && (entry->bits[bit / ANN_TIDSET_WORD_BITS] >> bit % ANN_TIDSET_WORD_BITS & 1) != 0)
			return true;
	}
	if (set->nlossy > 0 && offset > 0)
	{
		const AnnTidSetEntry *entry = AnnTidTableFind(&set->chunks, block / ANN_TIDSET_CHUNK_PAGES);
		int			bit = block % ANN_TIDSET_CHUNK_PAGES;

		return entry->used && (entry->bits[bit / ANN_TIDSET_WORD_BITS] >> bit % ANN_TIDSET_WORD_BITS & 1) != 0;
	}
	return false;
}

/*
 * A hash of a TID for places that have no room for six bytes.  Part of the on-disk
 * format of hnsw.
 */
static inline uint16
AnnTidHash(const ItemPointerData *tid)
{
	return (uint16) ((ItemPointerGetBlockNumberNoCheck(tid) * 0x9E3779B1U +
					  ItemPointerGetOffsetNumberNoCheck(tid) * 0x85EBCA6BU) >> 16);
}

/*
 * False if no member has this hash.
 */
static inline bool
AnnTidSetMayHave(const AnnTidSet *set, uint16 hash)
{
	return set->hashes == NULL ||
		(set->hashes[hash / ANN_TIDSET_WORD_BITS] >> hash % ANN_TIDSET_WORD_BITS & 1) != 0;
}

#endif							/* ANN_TIDSET_H */
