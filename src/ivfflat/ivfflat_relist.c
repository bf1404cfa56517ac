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

/* All lists are made anew when the index has so many times the heap TIDs that it had when that was done last. */
#define RELIST_GROWTH 2.0
#define RELIST_SHRINKAGE 0.25
#define RELIST_MIN_TUPLES 1000

/* Lists are looked at when this share of the heap TIDs has come or gone since the last time. */
#define LOOK_SHARE 0.1

/* How far a list may change: its entries against the mean and its own at first; their spread. */
#define LARGE_MEANS 1.35
#define LARGE_GROWTH 1.3
#define SMALL_MEANS 0.125
#define SMALL_SHRINKAGE 0.5
#define SPREAD_GROWTH 1.12

/* A list that is made anew takes so many of the nearest lists with it, itself included. */
#define GROUP_LISTS 10

/* Beyond this share of the rows all lists are made anew. */
#define WHOLE_SHARE 0.6

/* Walks that copy what inserts have added, until it is little. */
#define CATCH_UP_WALKS 4
#define CATCH_UP_ENTRIES 64

#define RELIST_SEED 2203

/*
 * The pages of a list in the order of its chain, which only grows at its end meanwhile: the block of
 * each, and a bit for each entry that was copied.
 */
typedef struct CopiedList
{
	BlockNumber *blocks;
	uint8	   *entries;
	int			npages;
	int			capacity;
} CopiedList;

typedef struct Relist
{
	Relation	index;
	BufferAccessStrategy strategy;
	AnnIvfMetaPageData from;
	AnnIvfMetaPageData to;
	AnnIvfListHead *heads;		/* of `from` */
	bool	   *redo;			/* which lists of `from` are made anew */
	uint32	   *kept;			/* of `to`: the lists of `from` that its first ones are */
	uint32		nkept;
	AnnIvfMetaPageData group;	/* the lists that are made, as if they were all */
	AnnIvfCentroids centroids;	/* theirs */
	double	   *rows;			/* of each of them */
	double	   *spreads;
	float	   *queries;		/* where all lists are made anew: rows for the calibration */
	int			nqueries;
	AnnSpace	space;
	char	   *page;			/* copy of a list page */
	char	   *vector;
	float	   *dense;
	CopiedList *copied;			/* for each list of `from` */
	Size		copied_bytes;	/* of a page's bits */
	uint64		ncopied;
	MemoryContext entry_context;
} Relist;

typedef void (*EntryCallback) (Relist *state, uint32 list, int entry, const ItemPointerData *tid, void *arg);

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

static int
compareChains(const void *a, const void *b)
{
	uint32		x = *(const uint32 *) a;
	uint32		y = *(const uint32 *) b;

	return (x > y) - (x < y);
}

/*
 * The chains of the lists in use, sorted, AnnIvfTotalLists(meta) of them: lists beside them may
 * have some of them in common.  palloc'd.
 */
uint32 *
AnnIvfChainsInUse(Relation index, const AnnIvfMetaPageData *meta)
{
	AnnIvfListHead *heads = AnnIvfReadHeads(index, meta);
	uint32	   *chains = palloc(mul_size(sizeof(uint32), AnnIvfTotalLists(meta)));

	for (uint32 i = 0; i < AnnIvfTotalLists(meta); i++)
		chains[i] = heads[i].chain;
	qsort(chains, AnnIvfTotalLists(meta), sizeof(uint32), compareChains);
	pfree(heads);
	return chains;
}

bool
AnnIvfChainIsAmong(const uint32 *chains, uint32 count, uint32 chain)
{
	return bsearch(&chain, chains, count, sizeof(uint32), compareChains) != NULL;
}

/*
 * Frees the pages of a list that nobody reads, unless its chain is in use, from the first to the
 * last: {HEADS, page, META} each.
 */
static void
freeList(Relation index, const AnnIvfMetaPageData *lists, uint32 list, const uint32 *in_use, uint32 nin_use)
{
	AnnIvfShape shape = AnnIvfShapeOf(lists, list);
	BlockNumber heads_block = lists->heads + list / ANN_IVF_HEADS_PER_PAGE;

	for (;;)
	{
		Buffer		heads_buffer = AnnReadBlock(index, heads_block, NULL);
		Buffer		buffer;
		Buffer		meta_buffer;
		Page		page;
		AnnPageEdit edit;
		BlockNumber block;
		uint32		chain;
		AnnIvfListHead *head;

		AnnVacuumDelayPoint();
		LockBuffer(heads_buffer, BUFFER_LOCK_EXCLUSIVE);
		page = AnnPageGet(index, heads_buffer, ANN_IVFFLAT_PAGE_ID, ANN_IVF_HEADS);
		head = (AnnIvfListHead *) AnnPageRaw(page) + list % ANN_IVF_HEADS_PER_PAGE;
		block = head->first;
		chain = head->chain;
		if (!BlockNumberIsValid(block) || AnnIvfChainIsAmong(in_use, nin_use, chain))
		{
			UnlockReleaseBuffer(heads_buffer);
			return;
		}
		if (block == heads_block)
			AnnPageCorrupted(index, block, "it leads to itself");
		buffer = AnnReadBlock(index, block, NULL);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		if (!AnnIvfIsListPage(BufferGetPage(buffer), &shape, chain))
			AnnPageCorrupted(index, block, "it is not a page of the list that leads to it");
		meta_buffer = ReadBuffer(index, ANN_IVF_META_BLOCK);
		LockBuffer(meta_buffer, BUFFER_LOCK_EXCLUSIVE);

		edit = AnnPageEditBegin(index, ANN_WRITE_WAL);
		head = (AnnIvfListHead *) AnnPageRaw(AnnPageEditAdd(&edit, heads_buffer, false)) + list % ANN_IVF_HEADS_PER_PAGE;
		page = AnnPageEditAdd(&edit, buffer, false);
		head->first = head->insert = AnnPageOpaque(page)->next;
		AnnIvfFreePage(&edit, page, block, meta_buffer);
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
	BlockNumber count = AnnIvfBlobPages(size);

	for (BlockNumber block = first; BlockNumberIsValid(first) && block < first + count; block++)
	{
		Buffer		buffer = AnnReadBlock(index, block, NULL);
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
			AnnIvfFreePage(&edit, AnnPageEditAdd(&edit, buffer, false), block, meta_buffer);
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
	lists.lists = other.lists;
	lists.heads = other.heads;
	AnnIvfCentroidParams(&lists.centroid_code, &lists.layout);
	other.state = ANN_IVF_OTHER_FREEING;
	setOther(index, &other);
	if (BlockNumberIsValid(other.heads))
	{
		Buffer		buffer = AnnReadBlock(index, other.heads, NULL);
		uint32	   *in_use = AnnIvfChainsInUse(index, meta);
		bool		intact;

		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		intact = AnnPageIsOurs(BufferGetPage(buffer), ANN_IVFFLAT_PAGE_ID) &&
			AnnPageOpaque(BufferGetPage(buffer))->kind == ANN_IVF_HEADS;
		UnlockReleaseBuffer(buffer);
		/* HEADS pages go last, the first of them first: lists are free when it is. */
		for (uint32 list = 0; intact && list < AnnIvfTotalLists(&lists); list++)
			freeList(index, &lists, list, in_use, AnnIvfTotalLists(meta));
		pfree(in_use);
	}
	freeRange(index, ANN_IVF_BLOB, other.centroids, AnnIvfCentroidsSize(&lists));
	freeRange(index, ANN_IVF_BLOB, other.centroid_codes, AnnIvfCentroidCodesSize(&lists));
	freeRange(index, ANN_IVF_HEADS, other.heads, mul_size(sizeof(AnnIvfListHead), AnnIvfTotalLists(&lists)));
	memset(&other, 0, sizeof(other));
	setOther(index, &other);
	return true;
}

/* ---- walks over the lists in use ---- */

/* The bits of the page of a list that is its `at`th. */
static uint8 *
copiedEntries(Relist *state, CopiedList *list, int at, BlockNumber block)
{
	uint8	   *entries;

	if (at < list->npages)
	{
		if (list->blocks[at] != block)
			AnnPageCorrupted(state->index, block, "its list has changed other than at its end");
		return list->entries + (Size) at * state->copied_bytes;
	}
	if (list->npages == list->capacity)
	{
		int			capacity = Max(4, list->capacity + list->capacity / 2);

		if (list->capacity == 0)
		{
			list->blocks = palloc(mul_size(sizeof(BlockNumber), capacity));
			list->entries = palloc(mul_size(state->copied_bytes, capacity));
		}
		else
		{
			list->blocks = repalloc_huge(list->blocks, mul_size(sizeof(BlockNumber), capacity));
			list->entries = repalloc_huge(list->entries, mul_size(state->copied_bytes, capacity));
		}
		list->capacity = capacity;
	}
	list->blocks[list->npages] = block;
	entries = list->entries + (Size) list->npages++ * state->copied_bytes;
	memset(entries, 0, state->copied_bytes);
	return entries;
}

/*
 * Copies each page of a list in turn to state->page and calls back for its entries: when copying,
 * for those that were not copied before.  Only VACUUM takes pages out of lists, and that is us.
 */
static void
walkList(Relist *state, uint32 list, bool copying, EntryCallback callback, void *arg)
{
	AnnIvfShape shape = AnnIvfShapeOf(&state->from, list);
	BlockNumber block = state->heads[list].first;
	int			npages = 0;

	while (BlockNumberIsValid(block))
	{
		Buffer		buffer = AnnReadBlock(state->index, block, state->strategy);
		uint8	   *copied;

		AnnVacuumDelayPoint();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		memcpy(state->page, BufferGetPage(buffer), BLCKSZ);
		UnlockReleaseBuffer(buffer);
		if (!AnnIvfIsListPage((Page) state->page, &shape, state->heads[list].chain))
			AnnPageCorrupted(state->index, block, "it is not a page of the list that leads to it");
		AnnIvfCheckListPage(state->index, block, (Page) state->page, &state->from.layout, &shape);
		copied = copying ? copiedEntries(state, &state->copied[list], npages, block) : NULL;
		npages++;
		for (int i = 0; i < AnnIvfListPageOf((Page) state->page)->count; i++)
		{
			const ItemPointerData *tid = AnnIvfTidOf((Page) state->page, &shape, i);

			if (!ItemPointerIsValid(tid) || (copying && (copied[i / 8] & 1 << i % 8)))
				continue;
			CHECK_FOR_INTERRUPTS();
			callback(state, list, i, tid, arg);
			if (copying)
				copied[i / 8] |= (uint8) (1 << i % 8);
		}
		block = AnnPageOpaque((Page) state->page)->next;
	}
}

/* Walks all the lists that are to be made anew. */
static void
walkLists(Relist *state, bool copying, EntryCallback callback, void *arg)
{
	for (uint32 list = 0; list < state->from.lists; list++)
		if (state->redo[list])
			walkList(state, list, copying, callback, arg);
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
		Buffer		buffer = AnnReadBlock(state->index, header->blocks[first + part], state->strategy);
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
	AnnIvfDecode(&state->space, stored, state->dense);
	return state->dense;
}

/* Counts the entries of a list and adds up their spreads. */
static AnnIvfListCensus
countList(Relist *state, uint32 list)
{
	AnnIvfShape shape = AnnIvfShapeOf(&state->from, list);
	BlockNumber block = state->heads[list].first;
	BlockNumber npages = 0;
	AnnIvfListCensus census = {0};

	while (BlockNumberIsValid(block))
	{
		Buffer		buffer = AnnReadBlock(state->index, block, state->strategy);
		Page		page = BufferGetPage(buffer);

		AnnVacuumDelayPoint();
		if (npages++ > RelationGetNumberOfBlocks(state->index))
			AnnPageCorrupted(state->index, block, "its list goes round in a circle");
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		if (!AnnIvfIsListPage(page, &shape, state->heads[list].chain))
			AnnPageCorrupted(state->index, block, "it is not a page of the list that leads to it");
		AnnIvfCheckListPage(state->index, block, page, &state->from.layout, &shape);
		AnnIvfCountListPage(&state->from, &shape, page, &census);
		block = AnnPageOpaque(page)->next;
		UnlockReleaseBuffer(buffer);
	}
	return census;
}

typedef struct SampleWalk
{
	AnnIvfSample sample;
	pg_prng_state prng;
	uint64		seen;
} SampleWalk;

static void
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
		return;
	}
	place = pg_prng_uint64_range(&walk->prng, 0, walk->seen - 1);
	if (place < (uint64) sample->capacity)
		AnnIvfSampleTake(sample, decode(state, readVector(state, entry)), (int) place);
}

/* Adds a copy of the entry to the list of those that are made that is its own. */
static void
copyEntry(Relist *state, uint32 list, int entry, const ItemPointerData *tid, void *arg)
{
	MemoryContext old = MemoryContextSwitchTo(state->entry_context);
	AnnIvfFormer former = {&state->group, &state->space, &state->centroids};
	AnnIvfShape shape = AnnIvfShapeOf(&state->from, list);
	const char *stored = readVector(state, entry);
	AnnIvfValue value;
	ItemPointerData copy = *tid;

	AnnIvfFormPlaced(&former, decode(state, stored), stored, &value);
	value.attributes = AnnIvfAttributesOf((Page) state->page, &shape, entry);
	if (shape.key_size > 0)
		value.key = AnnIvfKeysOf((Page) state->page, &shape)[entry];
	state->rows[value.list]++;
	if (AnnIvfHasCodes(&state->from.layout))
		state->spreads[value.list] += AnnIvfEntrySpread(&state->from.layout, &value.top_factors);
	state->ncopied++;
	value.list += state->nkept;
	AnnIvfInsertEntry(state->index, &state->to, &copy, &value);
	MemoryContextSwitchTo(old);
	MemoryContextReset(state->entry_context);
}

/* ---- which lists ---- */

/*
 * What has become of a list since it was made, in an index whose lists have so many entries in
 * the mean.
 */
AnnIvfVerdict
AnnIvfJudgeList(const AnnIvfListHead *head, const AnnIvfListCensus *census, double mean)
{
	if (census->entries > LARGE_MEANS * mean && census->entries > LARGE_GROWTH * head->rows)
		return ANN_IVF_LARGE;
	if (census->entries < SMALL_MEANS * mean && census->entries < SMALL_SHRINKAGE * head->rows)
		return ANN_IVF_SMALL;
	if (head->spread > 0 && census->entries >= SMALL_MEANS * mean &&
		census->spread > SPREAD_GROWTH * head->spread * census->entries)
		return ANN_IVF_DRIFTED;
	return ANN_IVF_GOOD;
}

/* Adds the lists nearest to a list, itself among them, to those that are made anew. */
static void
addGroup(Relist *state, const float *centroids, uint32 list)
{
	int			dim = (int) state->from.layout.dim;
	const float *vector = centroids + (Size) list * dim;
	bool		ip = state->from.layout.metric == ANN_METRIC_IP;
	float		own = ip ? sqrtf(ann_kernels.ip_f32(vector, vector, dim)) : 0;
	AnnIvfListScore nearest[GROUP_LISTS];
	int			n = 0;

	for (uint32 i = 0; i < state->from.lists; i++)
	{
		const float *other = centroids + (Size) i * dim;
		float		score;
		int			at = n;

		if (ip)
		{
			float		norm = sqrtf(ann_kernels.ip_f32(other, other, dim)) * own;

			score = norm > 0 ? -ann_kernels.ip_f32(vector, other, dim) / norm : 0;
		}
		else
			score = ann_kernels.l2sq_f32(vector, other, dim);
		if (i == list)
			score = -INFINITY;
		while (at > 0 && score < nearest[at - 1].score)
			at--;
		if (at == GROUP_LISTS)
			continue;
		n = Min(n + 1, GROUP_LISTS);
		memmove(&nearest[at + 1], &nearest[at], sizeof(AnnIvfListScore) * (n - at - 1));
		nearest[at].score = score;
		nearest[at].list = i;
	}
	for (int i = 0; i < n; i++)
		state->redo[nearest[i].list] = true;
}

/*
 * Decides which lists are made anew: sets state->redo.  Returns how many new ones take their
 * place, 0 if all are as they should be; *rows gets the number of vectors in them.
 */
static int
chooseLists(Relist *state, const float *centroids, double *tuples, double *rows)
{
	uint32		nlists = state->from.lists;
	AnnIvfListCensus *census = palloc(mul_size(sizeof(AnnIvfListCensus), nlists));
	double		vectors = 0;
	uint32		nredone = 0;
	int			wanted;
	int			made;
	bool		whole;

	*tuples = *rows = 0;
	for (uint32 list = 0; list < AnnIvfTotalLists(&state->from); list++)
	{
		AnnIvfListCensus counted = countList(state, list);

		*tuples += counted.entries;
		if (list < nlists)
		{
			vectors += counted.entries;
			census[list] = counted;
		}
	}
	state->redo = palloc0(mul_size(sizeof(bool), nlists));
	if (*tuples < RELIST_MIN_TUPLES)
		return 0;
	whole = *tuples >= RELIST_GROWTH * state->from.rows || *tuples <= RELIST_SHRINKAGE * state->from.rows;
	if (!whole && centroids != NULL)
	{
		for (uint32 list = 0; list < nlists; list++)
		{
			CHECK_FOR_INTERRUPTS();
			if (AnnIvfJudgeList(&state->heads[list], &census[list], vectors / nlists) != ANN_IVF_GOOD)
				addGroup(state, centroids, list);
		}
		for (uint32 list = 0; list < nlists; list++)
		{
			nredone += state->redo[list];
			*rows += state->redo[list] ? census[list].entries : 0;
		}
		whole = *rows > WHOLE_SHARE * vectors;
	}
	pfree(census);
	wanted = AnnIvfChooseLists(state->index, &state->from.layout, vectors);
	made = *rows > 0 ? Max(1, (int) rint(wanted * *rows / vectors)) : 0;
	/* The lists that are kept may be more than their rows would get. */
	if (whole || (made > 0 && nlists - nredone + made > ANN_IVF_MAX_LISTS))
	{
		memset(state->redo, true, sizeof(bool) * nlists);
		*rows = vectors;
		return vectors > 0 ? wanted : 0;
	}
	return made;
}

/* ---- new lists ---- */

/*
 * Notes how many heap TIDs the index had when its lists were looked at, and how many VACUUM has
 * removed since.
 */
static void
noteLook(Relation index, double looked, BlockNumber looked_blocks, double removed)
{
	Buffer		buffer = ReadBuffer(index, ANN_IVF_META_BLOCK);
	AnnIvfMetaPageData *meta;
	AnnPageEdit edit;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	edit = AnnPageEditBegin(index, ANN_WRITE_WAL);
	meta = AnnIvfMetaOnPage(AnnPageEditAdd(&edit, buffer, false));
	meta->looked = looked;
	meta->looked_blocks = looked_blocks;
	meta->removed = removed;
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
}

/*
 * The new list table: first the lists that are kept, then those that are made.  Returns the
 * centroids of all, with their mean and codes, given those of the group.
 */
static char *
mergeCentroids(Relist *state, const float *made)
{
	AnnIvfMetaPageData *to = &state->to;
	Size		row_size = sizeof(float) * (Size) to->layout.dim;
	AnnIvfCentroids table;
	char	   *result;

	state->kept = palloc(mul_size(sizeof(uint32), state->from.lists));
	for (uint32 list = 0; list < state->from.lists; list++)
		if (!state->redo[list])
			state->kept[state->nkept++] = list;
	to->lists = state->nkept + state->group.lists;
	to->probes = (uint32) ceil((double) to->probes * to->lists / state->from.lists);
	result = MemoryContextAllocHuge(CurrentMemoryContext,
									add_size(AnnIvfCentroidsSize(to), AnnIvfCentroidCodesSize(to)));
	for (uint32 i = 0; i < state->nkept; i++)
		AnnIvfReadBlob(state->index, NULL, state->from.centroids, state->kept[i] * row_size, row_size, result + i * row_size);
	memcpy(result + state->nkept * row_size, made, state->group.lists * row_size);
	AnnIvfOpenCentroids(&table, to, result);
	if (to->centroid_code.dim > 0)
		AnnIvfEncodeCentroids(&table, &to->centroid_code, (float *) (result + AnnIvfCentroidsSize(to)),
							  result + AnnIvfCentroidsSize(to) + row_size);
	return result;
}

/* The list of `from` that a list of `to` is, or -1. */
static int64
keptList(const Relist *state, uint32 list)
{
	if (list < state->nkept)
		return state->kept[list];
	/* Those of zero vectors and NULLs always stay. */
	return list < state->to.lists ? -1 : (int64) state->from.lists + (list - state->to.lists);
}

/*
 * Writes centroids, heads and the first pages of lists that are made, and notes them in the meta
 * page, so that they are freed should this end early.  Others may extend the index
 * meanwhile: they are kept out while consecutive pages are written.
 */
static void
createLists(Relist *state, const char *centroids)
{
	AnnIvfMetaPageData *to = &state->to;
	uint32		total = AnnIvfTotalLists(to);
	AnnIvfListHead *heads = palloc0(mul_size(sizeof(AnnIvfListHead), total));
	Buffer		meta_buffer;
	AnnIvfMetaPageData *meta;
	AnnPageEdit edit;

	for (uint32 list = 0; list < total; list++)
	{
		int64		kept = keptList(state, list);

		if (kept >= 0)
			heads[list] = state->heads[kept];
		else
		{
			heads[list].first = heads[list].insert = InvalidBlockNumber;
			heads[list].chain = to->next_chain++;
		}
	}
	to->centroid_codes = InvalidBlockNumber;
	LockPage(state->index, ANN_IVF_META_BLOCK, ExclusiveLock);
	to->centroids = AnnIvfWriteBlob(state->index, ANN_WRITE_WAL, centroids, AnnIvfCentroidsSize(to));
	if (to->centroid_code.dim > 0)
		to->centroid_codes = AnnIvfWriteBlob(state->index, ANN_WRITE_WAL, centroids + AnnIvfCentroidsSize(to),
											 AnnIvfCentroidCodesSize(to));
	to->heads = AnnIvfWriteHeads(state->index, ANN_WRITE_WAL, heads, total);
	UnlockPage(state->index, ANN_IVF_META_BLOCK, ExclusiveLock);

	meta_buffer = ReadBuffer(state->index, ANN_IVF_META_BLOCK);
	LockBuffer(meta_buffer, BUFFER_LOCK_EXCLUSIVE);
	edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
	meta = AnnIvfMetaOnPage(AnnPageEditAdd(&edit, meta_buffer, false));
	memset(&meta->other, 0, sizeof(meta->other));
	meta->other.state = ANN_IVF_OTHER_BUILDING;
	meta->other.lists = to->lists;
	meta->other.heads = to->heads;
	meta->other.centroids = to->centroids;
	meta->other.centroid_codes = to->centroid_codes;
	meta->next_chain = to->next_chain;
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(meta_buffer);

	/* The first page of each list: {HEADS, page, META or FREE}. */
	for (uint32 list = 0; list < total; list++)
	{
		AnnIvfShape shape = AnnIvfShapeOf(to, list);
		Buffer		heads_buffer;
		AnnIvfListHead *head;
		Page		page;
		Buffer		extra;
		Buffer		buffer;

		if (BlockNumberIsValid(heads[list].first))
			continue;
		heads_buffer = ReadBuffer(state->index, to->heads + list / ANN_IVF_HEADS_PER_PAGE);
		LockBuffer(heads_buffer, BUFFER_LOCK_EXCLUSIVE);
		edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
		head = (AnnIvfListHead *) AnnPageRaw(AnnPageEditAdd(&edit, heads_buffer, false)) + list % ANN_IVF_HEADS_PER_PAGE;
		buffer = AnnIvfAllocPage(state->index, &edit, &page, &extra);
		AnnIvfInitListPage(page, &shape, heads[list].chain, InvalidBlockNumber);
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
 * Completes the heads of the new table: what the lists that were made begin with, and where inserts
 * go on in those that are kept.  A record for each page.  The caller keeps inserts out.
 */
static void
completeHeads(Relist *state)
{
	uint32		total = AnnIvfTotalLists(&state->to);
	AnnIvfListHead *old = AnnIvfReadHeads(state->index, &state->from);

	for (uint32 first = 0; first < total; first += ANN_IVF_HEADS_PER_PAGE)
	{
		Buffer		buffer = ReadBuffer(state->index, state->to.heads + first / ANN_IVF_HEADS_PER_PAGE);
		AnnIvfListHead *heads;
		AnnPageEdit edit;

		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
		heads = (AnnIvfListHead *) AnnPageRaw(AnnPageEditAdd(&edit, buffer, false));
		for (uint32 list = first; list < Min(first + ANN_IVF_HEADS_PER_PAGE, total); list++)
		{
			int64		kept = keptList(state, list);

			if (kept >= 0)
				heads[list - first].insert = old[kept].insert;
			else
			{
				double		rows = state->rows[list - state->nkept];

				heads[list - first].rows = (float) rows;
				heads[list - first].spread = (float) (state->spreads[list - state->nkept] / Max(rows, 1));
			}
		}
		AnnPageEditCommit(&edit);
		UnlockReleaseBuffer(buffer);
	}
	pfree(old);
}

/*
 * Makes the new list table the one in use.  One WAL record.  The caller keeps inserts out.
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
	meta->reach = to->reach;
	meta->reach_slope = to->reach_slope;
	meta->centroids = to->centroids;
	meta->centroid_codes = to->centroid_codes;
	meta->heads = to->heads;
	meta->rows = to->rows;
	meta->spread = to->spread;
	meta->looked = to->looked;
	meta->looked_blocks = to->looked_blocks;
	meta->removed = 0;
	meta->other.state = ANN_IVF_OTHER_RETIRED;
	meta->other.lists = from->lists;
	meta->other.heads = from->heads;
	meta->other.centroids = from->centroids;
	meta->other.centroid_codes = from->centroid_codes;
	meta->other.xid = U64FromFullTransactionId(ReadNextFullTransactionId());
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
}

/* Centroids of the lists in use, float[lists][dim], palloc'd; NULL where there are none. */
static float *
readCentroids(const Relist *state)
{
	Size		size = AnnIvfCentroidsSize(&state->from);
	float	   *centroids;

	if (!BlockNumberIsValid(state->from.centroids))
		return NULL;
	centroids = MemoryContextAllocHuge(CurrentMemoryContext, size);
	AnnIvfReadBlob(state->index, NULL, state->from.centroids, 0, size, (char *) centroids);
	return centroids;
}

/*
 * Clusters the rows of the lists that are made anew, and prepares state->to and state->group.
 * Returns the centroids of all lists with their codes, NULL if there is nothing to make them from.
 */
static char *
train(Relist *state, int lists, double tuples, double rows)
{
	SampleWalk	walk = {0};
	bool		whole = true;
	char	   *made;
	char	   *all;

	for (uint32 list = 0; list < state->from.lists; list++)
		whole = whole && state->redo[list];
	AnnIvfSampleInit(&walk.sample, &state->from.layout, rows, lists);
	pg_prng_seed(&walk.prng, RELIST_SEED);
	walkLists(state, false, sampleEntry, &walk);
	state->group = state->from;
	made = AnnIvfTrain(&walk.sample, &state->group, lists, rows);
	if (whole)
		state->queries = AnnIvfSampleQueries(&walk.sample, &state->nqueries);
	pfree(walk.sample.points);
	if (made == NULL)
		return NULL;
	if (whole)
	{
		state->to = state->group;
		/* Until they are calibrated. */
		state->to.probes = (uint32) ceil((double) state->from.probes * state->to.lists / state->from.lists);
		state->to.rows = tuples;
		all = made;
	}
	else
	{
		/* Entries of lists that are kept are coded with the parameters there are. */
		state->group.code = state->from.code;
		state->to = state->from;
		all = mergeCentroids(state, (const float *) made);
	}
	state->to.generation++;
	state->to.looked = tuples;
	AnnIvfOpenCentroids(&state->centroids, &state->group, made);
	return all;
}

/*
 * Part of amvacuumcleanup: frees lists that were replaced, and makes new ones in place of those
 * that have changed too much, in an index of about so many heap TIDs, of a table of so many blocks,
 * from which this VACUUM has removed some.
 */
void
AnnIvfRelist(IndexVacuumInfo *info, double tuples, BlockNumber heap_blocks, double removed)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ann ivfflat new lists", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Relist	   *state = palloc0(sizeof(Relist));
	double		counted;
	double		rows;
	int			lists;
	float	   *old_centroids;
	char	   *centroids = NULL;

	state->index = info->index;
	state->strategy = info->strategy;
	AnnIvfReadMeta(info->index, &state->from);
	/* Only VACUUM changes what is noted here, and that is us. */
	if (removed > 0)
		noteLook(info->index, state->from.looked, state->from.looked_blocks, state->from.removed + removed);
	removed += state->from.removed;
	if (!freeOther(info->index, &state->from) || tuples < RELIST_MIN_TUPLES ||
		Max(tuples - state->from.looked, 0) + removed < LOOK_SHARE * Max(tuples, state->from.looked))
		goto done;
	AnnIvfReadMeta(info->index, &state->from);
	AnnIvfSpaceInit(&state->space, &state->from.layout);
	state->heads = AnnIvfReadHeads(info->index, &state->from);
	state->page = palloc(BLCKSZ);
	state->vector = palloc(Max((Size) state->from.layout.vector_slot,
							   mul_size(ANN_PAGE_USABLE, state->from.layout.pages_per_vector)));
	state->dense = palloc(mul_size(sizeof(float), state->from.layout.dim));
	state->copied = palloc0(mul_size(sizeof(CopiedList), state->from.lists));
	state->copied_bytes = ((Size) AnnIvfShapeOf(&state->from, 0).entries + 7) / 8;
	state->entry_context = AllocSetContextCreate(context, "ann ivfflat new entry", ALLOCSET_DEFAULT_SIZES);

	/* maintenance_work_mem is for one thing at a time. */
	old_centroids = readCentroids(state);
	lists = chooseLists(state, old_centroids, &counted, &rows);
	if (old_centroids != NULL)
		pfree(old_centroids);
	if (lists > 0)
		centroids = train(state, lists, counted, rows);
	if (centroids == NULL)
	{
		/* What VACUUM knows may be an estimate, of the whole table where the index is partial. */
		noteLook(info->index, Max(tuples, counted), heap_blocks, 0);
		goto done;
	}
	state->to.looked = Max(tuples, counted);
	state->to.looked_blocks = heap_blocks;
	state->rows = palloc0(mul_size(sizeof(double), state->group.lists));
	state->spreads = palloc0(mul_size(sizeof(double), state->group.lists));
	createLists(state, centroids);
	if (centroids != (const char *) state->centroids.vectors)
		pfree(centroids);

	/* Beside inserts, which go to the lists in use; then what they have added meanwhile. */
	for (int i = 0; i < CATCH_UP_WALKS && (i == 0 || state->ncopied > CATCH_UP_ENTRIES); i++)
	{
		state->ncopied = 0;
		walkLists(state, true, copyEntry, NULL);
	}
	LockPage(info->index, ANN_IVF_META_BLOCK, ExclusiveLock);
	walkLists(state, true, copyEntry, NULL);
	completeHeads(state);
	exchangeLists(state);
	UnlockPage(info->index, ANN_IVF_META_BLOCK, ExclusiveLock);
	if (state->queries != NULL)
		AnnIvfCalibrate(info->index, state->queries, state->nqueries, ANN_WRITE_WAL);
	ereport(DEBUG1,
			(errmsg("index \"%s\" has %u lists in place of %u, %u of them kept", RelationGetRelationName(info->index),
					state->to.lists, state->from.lists, state->nkept)));

done:
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
