/*
 * ivfflat_relist.c
 *	  VACUUM makes new lists for an index that has outgrown its own.  README: New lists.
 */
#include "postgres.h"

#include <math.h>

#include "access/transam.h"
#include "commands/vacuum.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/memutils.h"

#include "ivfflat/ivfflat_options.h"

/* New lists are due when the index has this many times the heap TIDs that it had when its own were made. */
#define RELIST_GROWTH 2.0
#define RELIST_MIN_TUPLES 1000

#define RELIST_SEED 2203

/* Which entries of a page were copied. */
typedef struct CopiedPage
{
	BlockNumber block;
	Bitmapset  *entries;
} CopiedPage;

typedef struct Relist
{
	Relation	index;
	BufferAccessStrategy strategy;
	AnnIvfMetaPageData from;
	AnnIvfMetaPageData to;
	AnnSpace	space;
	AnnIvfCentroids centroids;	/* of the new lists */
	char	   *page;			/* copy of a list page */
	char	   *vector;
	float	   *dense;
	CopiedPage *copied;			/* in the order in which pages are walked */
	int			ncopied;
	int			copied_capacity;
	int			nfirst;			/* of the first walk */
	int			next;			/* where the second walk is in them */
	MemoryContext entry_context;
} Relist;

typedef bool (*EntryCallback) (Relist *state, uint32 list, int entry, const ItemPointerData *tid, void *arg);

/* ---- free pages of other lists ---- */

/* Changes the meta page's note of other lists. */
static void
setOther(Relation index, const AnnIvfOther *other)
{
	Buffer		buffer = ReadBuffer(index, ANN_IVF_META_BLOCK);
	AnnPageEdit edit;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	edit = AnnPageEditBegin(index, ANN_WRITE_WAL);
	AnnIvfMetaOnPage(AnnPageEditAdd(&edit, buffer, false))->other = *other;
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
}

/* Puts a registered page of any kind among the FREE ones; one that owns VECTORS pages keeps them. */
static void
freePage(AnnPageEdit *edit, Page page, BlockNumber block, Buffer meta_buffer)
{
	AnnIvfMetaPageData *meta = AnnIvfMetaOnPage(AnnPageEditAdd(edit, meta_buffer, false));

	if (AnnPageOpaque(page)->kind == ANN_IVF_CODES || AnnPageOpaque(page)->kind == ANN_IVF_TIDS)
		AnnPageOpaque(page)->kind = ANN_IVF_FREE;
	else
	{
		AnnPageInit(page, ANN_IVFFLAT_PAGE_ID, ANN_IVF_FREE);
		memset(AnnPageRaw(page), 0, ANN_PAGE_USABLE);
		AnnPageSetRawSize(page, ANN_PAGE_USABLE);
	}
	AnnPageOpaque(page)->next = meta->free_pages;
	meta->free_pages = block;
}

/* Frees the pages of a list that nobody reads, from its first to its last: {HEADS, page, META} each. */
static void
freeList(Relation index, const AnnIvfMetaPageData *lists, uint32 list)
{
	AnnIvfShape shape = AnnIvfShapeOf(lists, list);
	BlockNumber heads_block = lists->heads + list / ANN_IVF_HEADS_PER_PAGE;

	for (;;)
	{
		Buffer		heads_buffer = ReadBuffer(index, heads_block);
		Buffer		buffer;
		Buffer		meta_buffer;
		Page		page;
		AnnPageEdit edit;
		BlockNumber block;
		AnnIvfListHead *head;

		AnnVacuumDelayPoint();
		LockBuffer(heads_buffer, BUFFER_LOCK_EXCLUSIVE);
		page = AnnPageGet(index, heads_buffer, ANN_IVFFLAT_PAGE_ID, ANN_IVF_HEADS);
		block = ((AnnIvfListHead *) AnnPageRaw(page))[list % ANN_IVF_HEADS_PER_PAGE].first;
		if (!BlockNumberIsValid(block))
		{
			UnlockReleaseBuffer(heads_buffer);
			return;
		}
		if (block == heads_block)
			AnnPageCorrupted(index, block, "it leads to itself");
		buffer = ReadBuffer(index, block);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		if (!AnnIvfIsListPage(BufferGetPage(buffer), &shape, list))
			AnnPageCorrupted(index, block, "it is not a page of the list that leads to it");
		meta_buffer = ReadBuffer(index, ANN_IVF_META_BLOCK);
		LockBuffer(meta_buffer, BUFFER_LOCK_EXCLUSIVE);

		edit = AnnPageEditBegin(index, ANN_WRITE_WAL);
		head = (AnnIvfListHead *) AnnPageRaw(AnnPageEditAdd(&edit, heads_buffer, false)) + list % ANN_IVF_HEADS_PER_PAGE;
		page = AnnPageEditAdd(&edit, buffer, false);
		head->first = head->insert = AnnPageOpaque(page)->next;
		freePage(&edit, page, block, meta_buffer);
		AnnPageEditCommit(&edit);
		UnlockReleaseBuffer(meta_buffer);
		UnlockReleaseBuffer(buffer);
		UnlockReleaseBuffer(heads_buffer);
	}
}

/*
 * Frees consecutive pages of a kind, but for those that are free already and perhaps in
 * other use: nothing writes pages of these kinds while lists are freed.
 */
static void
freeRange(Relation index, AnnIvfPageKind kind, BlockNumber first, Size size)
{
	BlockNumber count = (BlockNumber) ((size + ANN_PAGE_USABLE - 1) / ANN_PAGE_USABLE);

	for (BlockNumber block = first; BlockNumberIsValid(first) && block < first + count; block++)
	{
		Buffer		buffer = ReadBuffer(index, block);
		Buffer		meta_buffer;
		AnnPageEdit edit;
		Page		page;

		AnnVacuumDelayPoint();
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		page = BufferGetPage(buffer);
		if (AnnPageIsOurs(page, ANN_IVFFLAT_PAGE_ID) && AnnPageOpaque(page)->kind == kind)
		{
			meta_buffer = ReadBuffer(index, ANN_IVF_META_BLOCK);
			LockBuffer(meta_buffer, BUFFER_LOCK_EXCLUSIVE);
			edit = AnnPageEditBegin(index, ANN_WRITE_WAL);
			freePage(&edit, AnnPageEditAdd(&edit, buffer, false), block, meta_buffer);
			AnnPageEditCommit(&edit);
			UnlockReleaseBuffer(meta_buffer);
		}
		UnlockReleaseBuffer(buffer);
	}
}

/*
 * Frees the other lists, if nobody can be reading them.  False if somebody can.
 */
static bool
freeOther(Relation index, const AnnIvfMetaPageData *meta)
{
	AnnIvfMetaPageData lists = *meta;
	AnnIvfOther other = meta->other;

	if (other.state == ANN_IVF_OTHER_NONE)
		return true;
	if (other.state == ANN_IVF_OTHER_RETIRED &&
		!GlobalVisCheckRemovableFullXid(NULL, FullTransactionIdFromU64(other.xid)))
		return false;
	lists.generation = other.generation;
	lists.lists = other.lists;
	lists.heads = other.heads;
	AnnIvfCentroidParams(&lists.centroid_code, &lists.layout);
	other.state = ANN_IVF_OTHER_FREEING;
	setOther(index, &other);
	if (BlockNumberIsValid(other.heads))
	{
		Buffer		buffer = ReadBuffer(index, other.heads);
		bool		intact;

		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		intact = AnnPageIsOurs(BufferGetPage(buffer), ANN_IVFFLAT_PAGE_ID) &&
			AnnPageOpaque(BufferGetPage(buffer))->kind == ANN_IVF_HEADS;
		UnlockReleaseBuffer(buffer);
		/* HEADS pages go last, the first of them first: lists are free when it is. */
		for (uint32 list = 0; intact && list < AnnIvfTotalLists(&lists); list++)
			freeList(index, &lists, list);
	}
	freeRange(index, ANN_IVF_BLOB, other.centroids, AnnIvfCentroidsSize(&lists));
	freeRange(index, ANN_IVF_BLOB, other.centroid_codes, AnnIvfCentroidCodesSize(&lists));
	freeRange(index, ANN_IVF_HEADS, other.heads, mul_size(sizeof(AnnIvfListHead), AnnIvfTotalLists(&lists)));
	memset(&other, 0, sizeof(other));
	setOther(index, &other);
	return true;
}

/* ---- walks over the lists in use ---- */

/*
 * Copies each page of a list in turn to state->page and calls back for its entries.
 * Only VACUUM takes pages out of lists, and that is us.
 */
static void
walkList(Relist *state, uint32 list, EntryCallback callback, void *arg)
{
	AnnIvfShape shape = AnnIvfShapeOf(&state->from, list);
	BlockNumber block = AnnIvfReadHead(state->index, &state->from, list).first;

	while (BlockNumberIsValid(block))
	{
		Buffer		buffer = ReadBufferExtended(state->index, MAIN_FORKNUM, block, RBM_NORMAL, state->strategy);
		CopiedPage *copied = NULL;

		AnnVacuumDelayPoint();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		memcpy(state->page, BufferGetPage(buffer), BLCKSZ);
		UnlockReleaseBuffer(buffer);
		if (!AnnIvfIsListPage((Page) state->page, &shape, list))
			AnnPageCorrupted(state->index, block, "it is not a page of the list that leads to it");
		AnnIvfCheckListPage(state->index, block, (Page) state->page, &state->from.layout, &shape);
		/* The second walk meets the pages of the first in the same order, and new ones between. */
		if (state->next < state->nfirst && state->copied[state->next].block == block)
			copied = &state->copied[state->next++];
		for (int i = 0; i < AnnIvfListPageOf((Page) state->page)->count; i++)
		{
			const ItemPointerData *tid = &AnnIvfEntryOf((Page) state->page, &shape, i)->tid;

			if (!ItemPointerIsValid(tid) || (copied != NULL && bms_is_member(i, copied->entries)))
				continue;
			CHECK_FOR_INTERRUPTS();
			if (callback(state, list, i, tid, arg))
			{
				if (copied == NULL)
				{
					if (state->ncopied == state->copied_capacity)
					{
						state->copied_capacity *= 2;
						state->copied = repalloc_huge(state->copied, mul_size(sizeof(CopiedPage), state->copied_capacity));
					}
					copied = &state->copied[state->ncopied++];
					copied->block = block;
					copied->entries = NULL;
				}
				copied->entries = bms_add_member(copied->entries, i);
			}
		}
		block = AnnPageOpaque((Page) state->page)->next;
	}
}

/* Reads the vector of an entry of state->page into state->vector. */
static const char *
readVector(Relist *state, int entry)
{
	const AnnIvfLayout *layout = &state->from.layout;
	const AnnIvfListPage *header = AnnIvfListPageOf((Page) state->page);
	int			first = AnnIvfVectorBlockIndex(layout, entry);

	if (first + layout->pages_per_vector > header->nblocks)
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("index \"%s\" has entries without vectors", RelationGetRelationName(state->index)),
				 errhint("Please REINDEX it.")));
	for (int part = 0; part < layout->pages_per_vector; part++)
	{
		Buffer		buffer = ReadBufferExtended(state->index, MAIN_FORKNUM, header->blocks[first + part], RBM_NORMAL,
												state->strategy);
		const char *raw;

		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		raw = AnnPageRaw(AnnPageGet(state->index, buffer, ANN_IVFFLAT_PAGE_ID, ANN_IVF_VECTORS));
		if (layout->vectors_per_page > 0)
			memcpy(state->vector, raw + (Size) AnnIvfVectorSlot(layout, entry) * layout->vector_slot, layout->vector_slot);
		else
			memcpy(state->vector + (Size) part * ANN_PAGE_USABLE, raw, ANN_PAGE_USABLE);
		UnlockReleaseBuffer(buffer);
	}
	return state->vector + ANN_IVF_VECTOR_HEADER;
}

/* The vector as float[dim] of the index space, in state->dense. */
static float *
decode(Relist *state, const char *stored)
{
	if (AnnSpaceIsDense(&state->space))
		AnnSpaceDecode(&state->space, stored, state->dense);
	else
	{
		AnnPoint	point = {0};
		float	   *dense;

		point.stored = unconstify(char *, stored);
		dense = AnnIvfDense(&state->space, &point);
		memcpy(state->dense, dense, sizeof(float) * state->space.refine.dim);
		pfree(dense);
	}
	return state->dense;
}

/* Counts the entries of a list without a callback for each. */
static double
countList(Relist *state, uint32 list)
{
	AnnIvfShape shape = AnnIvfShapeOf(&state->from, list);
	BlockNumber block = AnnIvfReadHead(state->index, &state->from, list).first;
	BlockNumber npages = 0;
	double		count = 0;

	while (BlockNumberIsValid(block))
	{
		Buffer		buffer = ReadBufferExtended(state->index, MAIN_FORKNUM, block, RBM_NORMAL, state->strategy);
		Page		page = BufferGetPage(buffer);

		AnnVacuumDelayPoint();
		if (npages++ > RelationGetNumberOfBlocks(state->index))
			AnnPageCorrupted(state->index, block, "its list goes round in a circle");
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		if (!AnnIvfIsListPage(page, &shape, list))
			AnnPageCorrupted(state->index, block, "it is not a page of the list that leads to it");
		count += AnnIvfListPageOf(page)->live;
		block = AnnPageOpaque(page)->next;
		UnlockReleaseBuffer(buffer);
	}
	return count;
}

typedef struct SampleWalk
{
	AnnIvfSample sample;
	pg_prng_state prng;
	uint64		seen;
} SampleWalk;

static bool
sampleEntry(Relist *state, uint32 list, int entry, const ItemPointerData *tid, void *arg)
{
	SampleWalk *walk = (SampleWalk *) arg;
	AnnIvfSample *sample = &walk->sample;
	uint64		place;

	walk->seen++;
	if (sample->count < sample->capacity)
	{
		if (AnnIvfSampleTake(sample, decode(state, readVector(state, entry)), sample->count))
			sample->count++;
		return false;
	}
	place = pg_prng_uint64_range(&walk->prng, 0, walk->seen - 1);
	if (place < (uint64) sample->capacity)
		AnnIvfSampleTake(sample, decode(state, readVector(state, entry)), (int) place);
	return false;
}

/* Adds a copy of the entry to the new lists. */
static bool
copyEntry(Relist *state, uint32 list, int entry, const ItemPointerData *tid, void *arg)
{
	MemoryContext old = MemoryContextSwitchTo(state->entry_context);
	AnnIvfFormer former = {&state->to, &state->space, &state->centroids};
	AnnIvfShape shape = AnnIvfShapeOf(&state->from, list);
	AnnIvfValue value = {0};
	ItemPointerData copy = *tid;

	if (list < state->from.lists)
	{
		const char *stored = readVector(state, entry);

		AnnIvfFormPlaced(&former, decode(state, stored), stored, &value);
		value.attributes = AnnIvfEntryAttributes(&state->from.layout,
												 AnnIvfEntryOf((Page) state->page, &shape, entry));
	}
	else
		value.list = list - state->from.lists + state->to.lists;
	AnnIvfInsertEntry(state->index, &state->to, &copy, &value);
	MemoryContextSwitchTo(old);
	MemoryContextReset(state->entry_context);
	return true;
}

static void
walkAll(Relist *state, EntryCallback callback, void *arg, uint32 nlists)
{
	state->next = 0;
	state->nfirst = state->ncopied;
	for (uint32 list = 0; list < nlists; list++)
		walkList(state, list, callback, arg);
}

/* ---- new lists ---- */

/*
 * Writes centroids, empty lists and their heads, and notes them in the meta page, so that
 * they are freed should this end early.  Others may extend the index meanwhile: they are
 * kept out while consecutive pages are written.
 */
static void
createLists(Relist *state, const char *centroids)
{
	AnnIvfMetaPageData *to = &state->to;
	AnnIvfListHead *heads = palloc(mul_size(sizeof(AnnIvfListHead), AnnIvfTotalLists(to)));
	AnnIvfOther other = {0};

	to->centroids = to->centroid_codes = InvalidBlockNumber;
	LockPage(state->index, ANN_IVF_META_BLOCK, ExclusiveLock);
	if (centroids != NULL)
	{
		to->centroids = AnnIvfWriteBlob(state->index, ANN_WRITE_WAL, centroids, AnnIvfCentroidsSize(to));
		if (to->centroid_code.dim > 0)
			to->centroid_codes = AnnIvfWriteBlob(state->index, ANN_WRITE_WAL, centroids + AnnIvfCentroidsSize(to),
												 AnnIvfCentroidCodesSize(to));
	}
	for (uint32 i = 0; i < AnnIvfTotalLists(to); i++)
		heads[i].first = heads[i].insert = InvalidBlockNumber;
	to->heads = AnnIvfWriteHeads(state->index, ANN_WRITE_WAL, heads, AnnIvfTotalLists(to));
	UnlockPage(state->index, ANN_IVF_META_BLOCK, ExclusiveLock);

	other.state = ANN_IVF_OTHER_BUILDING;
	other.generation = to->generation;
	other.lists = to->lists;
	other.heads = to->heads;
	other.centroids = to->centroids;
	other.centroid_codes = to->centroid_codes;
	setOther(state->index, &other);

	/* The first page of each list: {HEADS, page, META or FREE}. */
	for (uint32 list = 0; list < AnnIvfTotalLists(to); list++)
	{
		AnnIvfShape shape = AnnIvfShapeOf(to, list);
		Buffer		heads_buffer = ReadBuffer(state->index, to->heads + list / ANN_IVF_HEADS_PER_PAGE);
		AnnPageEdit edit;
		AnnIvfListHead *head;
		Page		page;
		Buffer		extra;
		Buffer		buffer;

		LockBuffer(heads_buffer, BUFFER_LOCK_EXCLUSIVE);
		edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
		head = (AnnIvfListHead *) AnnPageRaw(AnnPageEditAdd(&edit, heads_buffer, false)) + list % ANN_IVF_HEADS_PER_PAGE;
		buffer = AnnIvfAllocPage(state->index, &edit, &page, &extra);
		AnnIvfInitListPage(page, &shape, list, InvalidBlockNumber);
		head->first = head->insert = BufferGetBlockNumber(buffer);
		AnnPageEditCommit(&edit);
		if (BufferIsValid(extra))
			UnlockReleaseBuffer(extra);
		UnlockReleaseBuffer(buffer);
		UnlockReleaseBuffer(heads_buffer);
		AnnVacuumDelayPoint();
	}
	pfree(heads);
}

/*
 * Makes the new lists those in use.  One WAL record.  The caller keeps inserts out.
 */
static void
exchangeLists(Relist *state)
{
	Buffer		buffer = ReadBuffer(state->index, ANN_IVF_META_BLOCK);
	const AnnIvfMetaPageData *from = &state->from;
	const AnnIvfMetaPageData *to = &state->to;
	AnnIvfMetaPageData *meta;
	AnnPageEdit edit;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
	meta = AnnIvfMetaOnPage(AnnPageEditAdd(&edit, buffer, false));
	meta->generation = to->generation;
	meta->code = to->code;
	meta->centroid_code = to->centroid_code;
	meta->lists = to->lists;
	meta->probes = to->probes;
	meta->centroids = to->centroids;
	meta->centroid_codes = to->centroid_codes;
	meta->heads = to->heads;
	meta->rows = to->rows;
	meta->spread = to->spread;
	meta->other.state = ANN_IVF_OTHER_RETIRED;
	meta->other.generation = from->generation;
	meta->other.lists = from->lists;
	meta->other.heads = from->heads;
	meta->other.centroids = from->centroids;
	meta->other.centroid_codes = from->centroid_codes;
	meta->other.xid = U64FromFullTransactionId(ReadNextFullTransactionId());
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
}

static bool
outgrown(const AnnIvfMetaPageData *meta, double tuples)
{
	return tuples >= RELIST_MIN_TUPLES && tuples >= RELIST_GROWTH * meta->rows;
}

/*
 * Part of amvacuumcleanup: frees lists that were replaced, and makes new ones when the
 * index, of about so many heap TIDs, has outgrown its own.
 */
void
AnnIvfRelist(IndexVacuumInfo *info, double tuples)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ann ivfflat new lists", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Relist	   *state = palloc0(sizeof(Relist));
	SampleWalk	walk = {0};
	double		vectors = 0;
	int			lists;
	char	   *centroids;

	state->index = info->index;
	state->strategy = info->strategy;
	AnnIvfReadMeta(info->index, &state->from);
	if (!freeOther(info->index, &state->from) || !outgrown(&state->from, tuples))
		goto done;
	AnnIvfReadMeta(info->index, &state->from);
	state->to = state->from;
	AnnIvfSpaceInit(&state->space, &state->from.layout);
	state->page = palloc(BLCKSZ);
	state->vector = palloc(Max((Size) state->from.layout.vector_slot,
							   mul_size(ANN_PAGE_USABLE, state->from.layout.pages_per_vector)));
	state->dense = palloc(mul_size(sizeof(float), state->from.layout.dim));
	state->copied_capacity = 1024;
	state->copied = palloc(sizeof(CopiedPage) * state->copied_capacity);
	state->entry_context = AllocSetContextCreate(context, "ann ivfflat new entry", ALLOCSET_DEFAULT_SIZES);

	/* What VACUUM knows may be an estimate, of the whole table where the index is partial. */
	tuples = 0;
	for (uint32 list = 0; list < AnnIvfTotalLists(&state->from); list++)
	{
		double		count = countList(state, list);

		tuples += count;
		if (list < state->from.lists)
			vectors += count;
	}
	if (!outgrown(&state->from, tuples))
		goto done;
	lists = AnnIvfChooseLists(info->index, &state->from.layout, vectors);
	AnnIvfSampleInit(&walk.sample, &state->from.layout, vectors, lists);
	pg_prng_seed(&walk.prng, RELIST_SEED);
	walkAll(state, sampleEntry, &walk, state->from.lists);
	state->to.generation++;
	centroids = AnnIvfTrain(&walk.sample, &state->to, lists, vectors);
	pfree(walk.sample.points);
	if (centroids == NULL)
		goto done;
	state->to.rows = tuples;
	AnnIvfOpenCentroids(&state->centroids, &state->to, centroids);
	createLists(state, centroids);

	/* Beside inserts, which go to the lists in use; then what they have added meanwhile. */
	walkAll(state, copyEntry, NULL, AnnIvfTotalLists(&state->from));
	LockPage(info->index, ANN_IVF_META_BLOCK, ExclusiveLock);
	walkAll(state, copyEntry, NULL, AnnIvfTotalLists(&state->from));
	exchangeLists(state);
	UnlockPage(info->index, ANN_IVF_META_BLOCK, ExclusiveLock);
	ereport(DEBUG1,
			(errmsg("index \"%s\" has %u lists in place of %u", RelationGetRelationName(info->index),
					state->to.lists, state->from.lists)));

done:
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
