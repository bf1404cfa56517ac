/*
 * ivfflat_check.c
 *	  The access method's part of ann_index_check and ann_index_info.
 *
 * The check runs while nobody writes: every page is owned once, lists are linked both
 * ways, counts are right, and every entry has the vector that was written for it.
 */
#include "postgres.h"

#include <math.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"

#include "ivfflat/ivfflat_options.h"

typedef struct CheckState
{
	AnnCheck   *check;
	Relation	index;
	AnnIvfMetaPageData meta;	/* of the lists at hand */
	AnnSpace	space;
	AnnAttributes *attributes;
	bool		comparable;		/* stored vectors are the SQL values' bytes */
	bool		in_use;			/* these lists are */
	uint32	   *chains;			/* of the lists in use, sorted */
	uint32		nchains;
	BlockNumber nblocks;
	uint8	   *owned;			/* bit for each block */
	char	   *page;
	char	   *vector;
	char	   *vectors;		/* copy of a VECTORS page */
	BlockNumber vectors_block;	/* which one, or invalid */
} CheckState;

#define DEFECT(state, ...) (state)->check->defect((state)->check, __VA_ARGS__)

/* Copies a page that `owner` names; false, with a defect told, if it is not of this kind or was owned before. */
static bool
takePage(CheckState *state, BlockNumber block, AnnIvfPageKind kind, BlockNumber owner, char *copy)
{
	Buffer		buffer;
	bool		good;

	CHECK_FOR_INTERRUPTS();
	if (block >= state->nblocks)
	{
		DEFECT(state, owner, -1, "it names block %u, which does not exist", block);
		return false;
	}
	if (state->owned[block / 8] & 1 << block % 8)
	{
		DEFECT(state, block, -1, "it is named more than once, by block %u too", owner);
		return false;
	}
	state->owned[block / 8] |= 1 << block % 8;
	buffer = ReadBufferExtended(state->index, MAIN_FORKNUM, block, RBM_NORMAL, NULL);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	memcpy(copy, BufferGetPage(buffer), BLCKSZ);
	UnlockReleaseBuffer(buffer);
	good = AnnPageIsOurs((Page) copy, ANN_IVFFLAT_PAGE_ID) && AnnPageOpaque((Page) copy)->kind == kind;
	if (!good)
		DEFECT(state, block, -1, "it is not of the kind (%d) that block %u takes it for", (int) kind, owner);
	return good;
}

static void
checkBlob(CheckState *state, BlockNumber first, Size size, bool floats)
{
	for (Size at = 0; BlockNumberIsValid(first) && at < size; at += ANN_PAGE_USABLE)
	{
		BlockNumber block = first + (BlockNumber) (at / ANN_PAGE_USABLE);
		Size		n = Min(size - at, ANN_PAGE_USABLE);

		if (!takePage(state, block, ANN_IVF_BLOB, ANN_IVF_META_BLOCK, state->page))
			continue;
		if (((PageHeader) state->page)->pd_lower < ANN_PAGE_HEADER + n)
			DEFECT(state, block, -1, "it is shorter than what it holds a part of");
		for (Size i = 0; floats && i + sizeof(float) <= n; i += sizeof(float))
		{
			float		x;

			memcpy(&x, AnnPageRaw((Page) state->page) + i, sizeof(x));
			if (!isfinite(x))
			{
				DEFECT(state, block, (int) (i / sizeof(float)), "a coordinate of a centroid is not finite");
				break;
			}
		}
	}
}

/* The VECTORS page of an entry in state->vectors; false if it is not one. */
static bool
openVectors(CheckState *state, BlockNumber block)
{
	Buffer		buffer;

	if (state->vectors_block == block)
		return true;
	if (block >= state->nblocks)
		return false;
	buffer = ReadBufferExtended(state->index, MAIN_FORKNUM, block, RBM_NORMAL, NULL);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	memcpy(state->vectors, BufferGetPage(buffer), BLCKSZ);
	UnlockReleaseBuffer(buffer);
	state->vectors_block = block;
	return AnnPageIsOurs((Page) state->vectors, ANN_IVFFLAT_PAGE_ID) &&
		AnnPageOpaque((Page) state->vectors)->kind == ANN_IVF_VECTORS;
}

/* An entry's vector: written for this entry, and as the heap has it. */
static void
checkEntry(CheckState *state, const AnnIvfShape *shape, uint32 list, BlockNumber block, int entry,
		   const ItemPointerData *heap_tid)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	const AnnIvfListPage *header = AnnIvfListPageOf((Page) state->page);
	AnnCheckValue value = {ANN_CHECK_ROW, 0};
	ItemPointerData tid;
	const char *defect;

	if (list < state->meta.lists)
	{
		int			first = AnnIvfVectorBlockIndex(layout, entry);

		if (first + layout->pages_per_vector > header->nblocks)
		{
			DEFECT(state, block, entry, "it has no vector");
			return;
		}
		for (int part = 0; part < layout->pages_per_vector; part++)
		{
			if (!openVectors(state, header->blocks[first + part]))
				return;			/* told by the page that names it */
			if (layout->vectors_per_page > 0)
				memcpy(state->vector, AnnPageRaw((Page) state->vectors) +
					   (Size) AnnIvfVectorSlot(layout, entry) * layout->vector_slot, layout->vector_slot);
			else
				memcpy(state->vector + (Size) part * ANN_PAGE_USABLE, AnnPageRaw((Page) state->vectors), ANN_PAGE_USABLE);
		}
		memcpy(&tid, state->vector, sizeof(tid));
		if (!AnnSameTid(&tid, heap_tid))
			DEFECT(state, block, entry, "its vector was written for another heap tuple");
		if (AnnIvfHasCodes(layout))
		{
			AnnCodeColumns columns = AnnIvfColumnsOf((Page) state->page, shape);
			AnnHalf		halves[2][3] = {{columns.add[entry], columns.mul[entry], columns.error[entry]}};
			AnnCodeFactors factors[2];

			memcpy(halves[1], halves[0], sizeof(halves[0]));
			if (shape->low_size > 0)
				memcpy(&halves[1][1], columns.fine + 2 * entry, 2 * sizeof(AnnHalf));
			for (int i = 0; i < 2; i++)
				AnnFactorsFromHalf(&state->meta.code, halves[i], &factors[i]);
			if (isnan(factors[0].add) || isnan(factors[0].mul) || isnan(factors[0].error) || factors[0].error < 0 ||
				isnan(factors[1].mul) || isnan(factors[1].error) || factors[1].error < 0)
				DEFECT(state, block, entry, "the factors of its code are not numbers");
		}
		if (state->comparable)
			value.hash = hash_bytes((const unsigned char *) state->vector + ANN_IVF_VECTOR_HEADER,
									(int) layout->vector_size);
		defect = AnnAttributesDefect(state->attributes, AnnIvfAttributesOf((Page) state->page, shape, entry));
		if (defect != NULL)
			DEFECT(state, block, entry, "%s", defect);
		else if (shape->key_size > 0 && AnnIvfKeysOf((Page) state->page, shape)[entry] !=
				 AnnIvfKeyOf(layout, state->attributes, AnnIvfAttributesOf((Page) state->page, shape, entry)))
			DEFECT(state, block, entry, "its key is not that of its first included column");
		value.hash = AnnAttributesHash(state->attributes, value.hash, AnnIvfAttributesOf((Page) state->page, shape, entry));
	}
	else
		value.place = list == AnnIvfNullList(&state->meta) ? ANN_CHECK_NULL : ANN_CHECK_ZERO;
	if (state->check->tid != NULL)
		state->check->tid(state->check, heap_tid, value);
}

static void
checkListPage(CheckState *state, const AnnIvfShape *shape, uint32 list, uint32 chain, BlockNumber block,
			  BlockNumber prev)
{
	const AnnIvfListPage *header = AnnIvfListPageOf((Page) state->page);
	int			live = 0;

	if (header->chain != chain)
		DEFECT(state, block, -1, "it is a page of chain %u, and in chain %u", header->chain, chain);
	if (header->prev != prev)
		DEFECT(state, block, -1, "the page before it is not the one it names");
	if (header->count > shape->entries || header->nblocks > (shape->has_vectors ? state->meta.layout.blocks : 0))
	{
		DEFECT(state, block, -1, "it has more entries or pages than it can hold");
		return;
	}
	for (int i = 0; i < header->count; i++)
	{
		const ItemPointerData *heap_tid = AnnIvfTidOf((Page) state->page, shape, i);

		if (!ItemPointerIsValid(heap_tid))
			continue;
		live++;
		if (state->in_use)
			checkEntry(state, shape, list, block, i, heap_tid);
	}
	if (live != header->live)
		DEFECT(state, block, -1, "it has %d entries and counts %d", live, header->live);
	for (int i = 0; i < header->nblocks; i++)
		takePage(state, header->blocks[i], ANN_IVF_VECTORS, block, state->vectors);
	state->vectors_block = InvalidBlockNumber;
}

static void
checkList(CheckState *state, uint32 list, AnnIvfListHead head)
{
	AnnIvfShape shape = AnnIvfShapeOf(&state->meta, list);
	BlockNumber heads = state->meta.heads + list / ANN_IVF_HEADS_PER_PAGE;
	BlockNumber prev = InvalidBlockNumber;
	bool		insert_found = false;

	if (head.chain >= state->meta.next_chain)
		DEFECT(state, heads, (int) list, "the list has a chain that is still to come");
	if (!BlockNumberIsValid(head.first))
	{
		if (state->in_use)
			DEFECT(state, heads, (int) list, "the list has no page");
		return;
	}
	for (BlockNumber block = head.first; BlockNumberIsValid(block);)
	{
		if (!takePage(state, block, shape.kind, BlockNumberIsValid(prev) ? prev : heads, state->page))
			return;
		insert_found = insert_found || block == head.insert;
		/* The page's chain is followed by what it says now: checkEntry leaves state->page alone. */
		checkListPage(state, &shape, list, head.chain, block, prev);
		prev = block;
		block = AnnPageOpaque((Page) state->page)->next;
	}
	if (state->in_use && !insert_found)
		DEFECT(state, heads, (int) list, "inserts are sent to block %u, which is not in the list", head.insert);
}

/* Lists in use, or beside them. */
static void
checkLists(CheckState *state)
{
	const AnnIvfMetaPageData *meta = &state->meta;
	char	   *heads = palloc(BLCKSZ);

	checkBlob(state, meta->centroids, AnnIvfCentroidsSize(meta), true);
	checkBlob(state, meta->centroid_codes, AnnIvfCentroidCodesSize(meta), false);
	for (uint32 i = 0; i < AnnIvfTotalLists(meta); i += ANN_IVF_HEADS_PER_PAGE)
	{
		if (!takePage(state, meta->heads + i / ANN_IVF_HEADS_PER_PAGE, ANN_IVF_HEADS, ANN_IVF_META_BLOCK, heads))
			continue;
		for (uint32 j = 0; j < ANN_IVF_HEADS_PER_PAGE && i + j < AnnIvfTotalLists(meta); j++)
		{
			AnnIvfListHead head = ((AnnIvfListHead *) AnnPageRaw((Page) heads))[j];

			/* Lists beside those in use may have some in common with them. */
			if (state->in_use || !AnnIvfChainIsAmong(state->chains, state->nchains, head.chain))
				checkList(state, i + j, head);
		}
	}
	pfree(heads);
}

static void
checkFreePages(CheckState *state)
{
	BlockNumber prev = ANN_IVF_META_BLOCK;

	for (BlockNumber block = state->meta.free_pages; BlockNumberIsValid(block);)
	{
		const AnnIvfListPage *header = AnnIvfListPageOf((Page) state->page);

		if (!takePage(state, block, ANN_IVF_FREE, prev, state->page))
			return;
		if (header->nblocks > state->meta.layout.blocks)
			DEFECT(state, block, -1, "it owns more pages than it can name");
		else
			for (int i = 0; i < header->nblocks; i++)
				takePage(state, header->blocks[i], ANN_IVF_VECTORS, block, state->vectors);
		prev = block;
		block = AnnPageOpaque((Page) state->page)->next;
	}
}

/* Pages that nobody names. An empty one is what a crash leaves of an extension. */
static void
checkUnowned(CheckState *state)
{
	for (BlockNumber block = ANN_IVF_META_BLOCK + 1; block < state->nblocks; block++)
	{
		Buffer		buffer;
		Page		page;

		if (state->owned[block / 8] & 1 << block % 8)
			continue;
		CHECK_FOR_INTERRUPTS();
		buffer = ReadBufferExtended(state->index, MAIN_FORKNUM, block, RBM_NORMAL, NULL);
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		page = BufferGetPage(buffer);
		if (!PageIsNew(page))
		{
			if (!AnnPageIsOurs(page, ANN_IVFFLAT_PAGE_ID))
				DEFECT(state, block, -1, "it is not a page of an ivfflat index");
			/* Blobs and heads may be left of new lists that were given up before they were noted. */
			else if (AnnPageOpaque(page)->kind != ANN_IVF_BLOB && AnnPageOpaque(page)->kind != ANN_IVF_HEADS)
				DEFECT(state, block, -1, "it is in no list and not free");
		}
		UnlockReleaseBuffer(buffer);
	}
}

/*
 * Tells every defect of the index.  The caller keeps writers out.
 */
void
AnnIvfCheckIndex(AnnCheck *check)
{
	CheckState	state = {0};
	AnnIvfMetaPageData meta;

	state.check = check;
	state.index = check->index;
	AnnIvfReadMeta(check->index, &meta);
	state.meta = meta;
	state.attributes = AnnAttributesCreate(check->index);
	AnnIvfSpaceInit(&state.space, &meta.layout);
	state.comparable = !AnnSpaceIsDense(&state.space) || AnnRefineIsExact(&state.space.refine);
	state.nblocks = RelationGetNumberOfBlocks(check->index);
	state.owned = MemoryContextAllocExtended(CurrentMemoryContext, (Size) state.nblocks / 8 + 1,
											 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	state.page = palloc(BLCKSZ);
	state.vectors = palloc(BLCKSZ);
	state.vectors_block = InvalidBlockNumber;
	state.vector = palloc(mul_size(BLCKSZ, meta.layout.pages_per_vector));
	state.owned[0] |= 1 << ANN_IVF_META_BLOCK;

	state.in_use = true;
	checkLists(&state);
	if (meta.other.state == ANN_IVF_OTHER_BUILDING || meta.other.state == ANN_IVF_OTHER_RETIRED)
	{
		state.in_use = false;
		state.chains = AnnIvfChainsInUse(check->index, &meta);
		state.nchains = AnnIvfTotalLists(&meta);
		state.meta.lists = meta.other.lists;
		state.meta.heads = meta.other.heads;
		state.meta.centroids = meta.other.centroids;
		state.meta.centroid_codes = meta.other.centroid_codes;
		AnnIvfCentroidParams(&state.meta.centroid_code, &meta.layout);
		checkLists(&state);
		state.meta = meta;
	}
	checkFreePages(&state);
	/* While lists are being freed their rest is nobody's: the next VACUUM goes on. */
	if (meta.other.state != ANN_IVF_OTHER_FREEING)
		checkUnowned(&state);
	pfree(state.owned);
	pfree(state.page);
	pfree(state.vectors);
	pfree(state.vector);
}

/*
 * Under which value the index has a heap tuple with these columns.
 */
AnnCheckValue
AnnIvfCheckValue(Relation index, const Datum *values, const bool *isnull)
{
	AnnCheckValue result = {ANN_CHECK_NULL, 0};
	const AnnSpace *space = &AnnIvfCacheGet(index)->space;
	MemoryContext context;
	MemoryContext old;
	AnnPoint	point;

	if (isnull[0])
		return result;
	context = AllocSetContextCreate(CurrentMemoryContext, "ann ivfflat check", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	AnnSpaceFormPoint(space, values[0], &point);
	result.place = point.unplaced ? ANN_CHECK_ZERO : ANN_CHECK_ROW;
	if (!point.unplaced && (!AnnSpaceIsDense(space) || AnnRefineIsExact(&space->refine)))
		result.hash = hash_bytes((const unsigned char *) point.stored, (int) point.stored_size);
	if (!point.unplaced)
	{
		const AnnAttributes *attributes = AnnAttributesCreate(index);

		result.hash = AnnAttributesHash(attributes, result.hash, AnnAttributesForm(attributes, values, isnull));
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

/* ---- ann_index_info ---- */

static const char *const kind_names[] = {"unused", "META", "BLOB", "HEADS", "CODES", "VECTORS", "TIDS", "FREE"};

typedef struct ChainPlace
{
	uint32		chain;
	uint32		list;
} ChainPlace;

typedef struct Census
{
	uint64		pages[lengthof(kind_names)];
	ChainPlace *places;			/* of the lists in use, by chain */
	AnnIvfListCensus *lists;
	uint64		free_entries;
} Census;

static int
comparePlaces(const void *a, const void *b)
{
	uint32		x = ((const ChainPlace *) a)->chain;
	uint32		y = ((const ChainPlace *) b)->chain;

	return (x > y) - (x < y);
}

static void
countPage(const AnnIvfMetaPageData *meta, Page page, Census *census)
{
	const AnnIvfListPage *header = AnnIvfListPageOf(page);
	uint16		kind = AnnPageOpaque(page)->kind;
	ChainPlace	key = {0};
	const ChainPlace *place;
	AnnIvfShape shape;

	census->pages[kind < lengthof(kind_names) ? kind : 0]++;
	if (kind != ANN_IVF_CODES && kind != ANN_IVF_TIDS)
		return;
	key.chain = header->chain;
	place = bsearch(&key, census->places, AnnIvfTotalLists(meta), sizeof(ChainPlace), comparePlaces);
	if (place == NULL)
		return;
	shape = AnnIvfShapeOf(meta, place->list);
	if (shape.kind != kind || header->count > shape.entries)
		return;
	census->free_entries += header->count - header->live;
	AnnIvfCountListPage(meta, &shape, page, &census->lists[place->list]);
}

/*
 * Tells what the index consists of.
 */
void
AnnIvfDescribeIndex(AnnInfo *info)
{
	Relation	index = info->index;
	AnnIvfMetaPageData meta;
	const AnnIvfLayout *layout = &meta.layout;
	BlockNumber nblocks = RelationGetNumberOfBlocks(index);
	int			option = AnnIvfOptionProbes((const AnnIvfOptions *) index->rd_options);
	Census		census = {{0}};
	AnnIvfListHead *heads;
	double		vectors = 0;
	double		longest = 0;
	double		spread = 0;
	double		made_spread = 0;
	uint32		empty = 0;
	uint32		verdicts[ANN_IVF_DRIFTED + 1] = {0};

	AnnIvfReadMeta(index, &meta);
	if (layout->metric >= ANN_METRICS || layout->element >= ANN_ELEMENTS ||
		layout->refine >= ANN_REFINES)
		AnnPageCorrupted(index, ANN_IVF_META_BLOCK, "it names an unknown type or metric");
	heads = AnnIvfReadHeads(index, &meta);
	census.lists = palloc0(mul_size(sizeof(AnnIvfListCensus), AnnIvfTotalLists(&meta)));
	census.places = palloc(mul_size(sizeof(ChainPlace), AnnIvfTotalLists(&meta)));
	for (uint32 i = 0; i < AnnIvfTotalLists(&meta); i++)
	{
		census.places[i].chain = heads[i].chain;
		census.places[i].list = i;
	}
	qsort(census.places, AnnIvfTotalLists(&meta), sizeof(ChainPlace), comparePlaces);
	for (BlockNumber block = 0; block < nblocks; block++)
	{
		Buffer		buffer = ReadBufferExtended(index, MAIN_FORKNUM, block, RBM_NORMAL, NULL);

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		if (AnnPageIsOurs(BufferGetPage(buffer), ANN_IVFFLAT_PAGE_ID))
			countPage(&meta, BufferGetPage(buffer), &census);
		else
			census.pages[0]++;
		UnlockReleaseBuffer(buffer);
	}
	for (uint32 i = 0; i < meta.lists; i++)
	{
		vectors += census.lists[i].entries;
		longest = Max(longest, census.lists[i].entries);
		empty += census.lists[i].entries == 0;
		if (heads[i].spread > 0)
		{
			spread += census.lists[i].spread;
			made_spread += heads[i].spread * census.lists[i].entries;
		}
	}
	for (uint32 i = 0; i < meta.lists; i++)
		verdicts[AnnIvfJudgeList(&heads[i], &census.lists[i], vectors / meta.lists)]++;

	info->line(info, "access method", "ivfflat");
	info->line(info, "type", "%s(%u)", ann_element_names[layout->element], layout->dim);
	info->line(info, "metric", "%s", ann_metric_names[layout->metric]);
	if (AnnIvfHasCodes(layout))
		info->line(info, "quantizer", "rabitq, %d bit%s for each of %d of %u coordinates", meta.code.planes,
				   meta.code.planes == 1 ? "" : "s", meta.code.kept, layout->dim);
	else
		info->line(info, "quantizer", "none");
	info->line(info, "refine_type", "%s", ann_refine_names[layout->refine]);
	AnnAttributesDescribe(info, AnnAttributesCreate(index));
	info->line(info, "lists", "%u", meta.lists);
	if (!BlockNumberIsValid(meta.centroids))
		info->line(info, "centroids", "zero (index was created empty)");
	if (meta.probes > 0)
		info->line(info, "probes, calibrated", "%u", meta.probes);
	if (meta.reach > 0)
		info->line(info, "reach for filters, calibrated", "%.3f, %.3f", meta.reach, meta.reach_slope);
	if (option > 0)
		info->line(info, "probes, index option", "%d", option);
	info->line(info, "probes in effect", "%d", AnnIvfProbes(index, &meta));
	info->line(info, "rows", "%.0f", vectors);
	info->line(info, "rows when all lists were made", "%.0f", meta.rows);
	info->line(info, "NULL vectors", "%.0f", census.lists[AnnIvfNullList(&meta)].entries);
	info->line(info, "zero vectors", "%.0f", census.lists[AnnIvfZeroList(&meta)].entries);
	info->line(info, "free entries", UINT64_FORMAT, census.free_entries);
	info->line(info, "rows of the longest list, in means", "%.1f",
			   vectors == 0 ? 0.0 : longest * meta.lists / vectors);
	info->line(info, "empty lists", "%u", empty);
	info->line(info, "lists that have outgrown the mean", "%u", verdicts[ANN_IVF_LARGE]);
	info->line(info, "lists that are nearly empty", "%u", verdicts[ANN_IVF_SMALL]);
	if (made_spread > 0)
	{
		info->line(info, "lists that have drifted from their centroids", "%u", verdicts[ANN_IVF_DRIFTED]);
		info->line(info, "distance from centroids now, to that when they were made", "%.3f", sqrt(spread / made_spread));
	}
	info->line(info, "bytes of an entry", "%u", layout->entry_size);
	info->line(info, "bytes of a vector", "%u", layout->vector_size);
	info->line(info, "bytes of index per row", "%.0f", vectors == 0 ? 0.0 : (double) nblocks * BLCKSZ / vectors);
	info->line(info, "pages", "%u", nblocks);
	for (int kind = ANN_IVF_META; kind < lengthof(kind_names); kind++)
	{
		if (census.pages[kind] > 0)
		{
			char		name[64];

			snprintf(name, sizeof(name), "pages: %s", kind_names[kind]);
			info->line(info, name, UINT64_FORMAT, census.pages[kind]);
		}
	}
	if (census.pages[0] > 0)
		info->line(info, "pages: unused", UINT64_FORMAT, census.pages[0]);
	if (meta.other.state != ANN_IVF_OTHER_NONE)
		info->line(info, "other lists", "%u, %s", meta.other.lists,
				   meta.other.state == ANN_IVF_OTHER_BUILDING ? "in the making or given up" : "replaced, to be freed by VACUUM");
	pfree(census.lists);
	pfree(census.places);
	pfree(heads);
}
