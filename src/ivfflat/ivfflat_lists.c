/*
 * ivfflat_lists.c
 *	  Reading vectors and lists for a scan: README, section Scan.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"

#include "ivfflat/ivfflat_scan.h"

/* If one entry in so many of a page counts, the codes of all are estimated: that is done in batches. */
#define BATCH_SHARE 4

/* ---- vectors ---- */

/* Bounds of the distance of a stored vector, and the result that comes of it. */
static void
scoreVector(AnnIvfScan *state, const char *stored, const ItemPointerData *tid)
{
	AnnIvfFound	result;
	float		score;

	if (state->calibration != NULL)
	{
		AnnIvfNoteNeighbour(state, stored, tid);
		return;
	}
	score = AnnSpaceScore(state->query, stored);
	if (state->reach != NULL && state->is_sure)
		AnnKeepBest(state->reach->wanted, &state->reach->nwanted, state->reach->wanted_count, score);
	result.interval = AnnSpaceInterval(state->query, stored, score);
	result.tid = *tid;
	state->base.nscored++;
	AnnIvfPushFound(state->arrays, &result);
}

/*
 * Reads and scores the vector of an entry whose CODES page names these VECTORS pages.
 * A vector that was written for another heap TID is nobody's that this scan could
 * see: VACUUM has freed the entry since.
 */
static void
readLongVector(AnnIvfScan *state, Relation index, const BlockNumber *blocks, const ItemPointerData *tid)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	ItemPointerData stored_tid;

	for (int part = 0; part < layout->pages_per_vector; part++)
	{
		Buffer		buffer = AnnReadBuffer(index, &state->cache->hints, blocks[part]);
		Page		page = BufferGetPage(buffer);
		bool		found;

		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		found = AnnPageIsOurs(page, ANN_IVFFLAT_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_IVF_VECTORS;
		if (found)
			memcpy(state->vector + (Size) part * ANN_PAGE_USABLE, AnnPageRaw(page), ANN_PAGE_USABLE);
		UnlockReleaseBuffer(buffer);
		if (!found)
			return;
	}
	memcpy(&stored_tid, state->vector, sizeof(stored_tid));
	if (AnnSameTid(&stored_tid, tid))
		scoreVector(state, state->vector + ANN_IVF_VECTOR_HEADER, tid);
}

void
AnnIvfReadVector(AnnIvfScan *state, Relation index, const AnnIvfPending *pending)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	Buffer		buffer = AnnReadBuffer(index, &state->cache->hints, pending->block);
	Page		page = BufferGetPage(buffer);
	ItemPointerData tid;

	ItemPointerSet(&tid, pending->heap_block, pending->heap_offset);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	if (layout->vectors_per_page > 0)
	{
		if (AnnPageIsOurs(page, ANN_IVFFLAT_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_IVF_VECTORS)
		{
			const char *vector = AnnPageRaw(page) + (Size) pending->slot * layout->vector_slot;
			ItemPointerData stored_tid;

			memcpy(&stored_tid, vector, sizeof(stored_tid));
			if (AnnSameTid(&stored_tid, &tid))
				scoreVector(state, vector + ANN_IVF_VECTOR_HEADER, &tid);
		}
		UnlockReleaseBuffer(buffer);
	}
	else
	{
		/* The entry, and so its pages, may have become another's: that is told by the TID. */
		AnnIvfShape	shape = AnnIvfShapeOf(&state->meta, 0);
		int			first = AnnIvfVectorBlockIndex(layout, pending->slot);
		BlockNumber blocks[8];
		bool		found = false;

		if (layout->pages_per_vector > lengthof(blocks))
			elog(ERROR, "a vector of ivfflat index \"%s\" takes %u pages", RelationGetRelationName(index),
				 layout->pages_per_vector);
		if (AnnPageIsOurs(page, ANN_IVFFLAT_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_IVF_CODES &&
			AnnIvfListPageOf(page)->nblocks >= first + layout->pages_per_vector &&
			AnnSameTid(&AnnIvfEntryOf(page, &shape, pending->slot)->tid, &tid))
		{
			memcpy(blocks, AnnIvfListPageOf(page)->blocks + first, sizeof(BlockNumber) * layout->pages_per_vector);
			found = true;
		}
		UnlockReleaseBuffer(buffer);
		if (found)
			readLongVector(state, index, blocks, &tid);
	}
}

/* ---- pages ---- */

/* Whether an entry is in use, and one of those that count. */
static inline AnnTestResult
testEntry(const AnnIvfScan *state, const AnnIvfEntry *entry)
{
	const AnnIndexScan *base = &state->base;

	if (!ItemPointerIsValid(&entry->tid) || !AnnScanIsMember(base, &entry->tid))
		return ANN_TEST_FAILS;
	return base->filter == NULL ? ANN_TEST_PASSES :
		base->filter(base->filter_arg, AnnIvfEntryAttributes(&state->meta.layout, entry));
}

/* Estimates of the entries of a page that count, at least; marks which do. */
static int
estimateCounting(AnnIvfScan *state, Page page, const AnnIvfShape *shape, AnnCodeArray *array, uint8 *counts,
				 float *estimates, float *errors)
{
	int			n = array->count;
	int			ncounting = 0;

	for (int i = 0; i < n; i++)
	{
		counts[i] = (uint8) testEntry(state, AnnIvfEntryOf(page, shape, i));
		ncounting += counts[i] != ANN_TEST_FAILS;
	}
	if (ncounting * BATCH_SHARE >= n || (state->reach != NULL && state->reach->learning))
	{
		AnnEstimateBatch(state->code, array, estimates, errors);
		return ncounting;
	}
	for (int i = 0; i < n; i++)
	{
		AnnCodeArray one = *array;

		if (!counts[i])
		{
			estimates[i] = errors[i] = 0;
			continue;
		}
		one.codes = (const char *) array->codes + i * array->code_stride;
		one.factors = (const char *) array->factors + i * array->factor_stride;
		one.count = 1;
		AnnEstimateBatch(state->code, &one, estimates + i, errors + i);
	}
	return ncounting;
}

/* Adds the entries of a CODES page, held for sharing, with the bounds their codes give. */
static void
addCoded(AnnIvfScan *state, BlockNumber block, Page page, const AnnIvfShape *shape)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	const AnnIvfListPage *header = AnnIvfListPageOf(page);
	const AnnIvfEntry *first = AnnIvfEntryOf(page, shape, 0);
	AnnIvfArrays *arrays = state->arrays;
	float	   *estimates = state->lowers;
	float	   *errors = state->lowers + layout->entries;
	bool		slotted = layout->vectors_per_page > 0;
	int			at = 0;			/* VECTORS page of an entry, among those of the page, */
	int			slot = 0;		/* and its slot on that */
	int			last = -1;
	int			needed = 0;
	AnnIvfPending *pending;
	AnnCodeArray array;
	bool		plain = AnnScanIsPlain(&state->base);
	int			ncounting = header->live;

	if (header->live == 0)
		return;
	array.codes = first->code;
	array.code_stride = shape->entry_size;
	array.factors = first->factors;
	array.factor_stride = shape->entry_size;
	array.form = ANN_FACTORS_HALF3;
	array.count = header->count;
	if (plain)
		AnnEstimateBatch(state->code, &array, estimates, errors);
	else
		ncounting = estimateCounting(state, page, shape, &array, state->counts, estimates, errors);
	if (state->reach != NULL)
		AnnIvfLearnReach(state, page, shape, estimates);
	if (state->calibration != NULL)
		AnnIvfLearnEstimates(state, page, shape, estimates);
	state->nscanned += ncounting;
	if (ncounting == 0)
		return;

	AnnIvfGrowArray(arrays, (void **) &arrays->pending, arrays->npending, header->count, &arrays->pending_capacity,
			  sizeof(AnnIvfPending));
	for (int i = 0; i < header->count; i++)
	{
		float		lower = estimates[i] - ANN_IVF_EPS * errors[i];

		/* inf - inf, where squares overflow: nothing is known, and a NaN has no place in the order */
		estimates[i] = lower < INFINITY ? lower : -INFINITY;
	}
	pending = arrays->pending + arrays->npending;
	for (int i = 0; i < header->count; i++, slot++)
	{
		const ItemPointerData *tid = &AnnIvfEntryOf(page, shape, i)->tid;

		if (slot == layout->vectors_per_page && slot > 0)
		{
			slot = 0;
			at++;
		}
		if (plain ? !ItemPointerIsValid(tid) : !state->counts[i])
			continue;
		last = i;
		pending->lower = estimates[i];
		pending->heap_block = ItemPointerGetBlockNumberNoCheck(tid);
		pending->heap_offset = ItemPointerGetOffsetNumberNoCheck(tid);
		pending->block = slotted ? header->blocks[at] : block;
		pending->slot = (uint16) (slotted ? slot : i);
		pending++;
	}
	if (last >= 0)
		needed = AnnIvfVectorBlockIndex(layout, last) + layout->pages_per_vector;
	if (needed > header->nblocks)
		AnnPageCorrupted(state->centroids.index, block, "it has entries without vectors");
	arrays->npending = (int) (pending - arrays->pending);
}

/* Scores the vectors of the CODES page of which state->page is a copy. */
static void
addPlain(AnnIvfScan *state, Relation index, BlockNumber block, const AnnIvfShape *shape)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	Page		page = (Page) state->page;
	const AnnIvfListPage *header = AnnIvfListPageOf(page);
	Buffer		buffer = InvalidBuffer;
	int			current = -1;
	bool		usable = false;

	for (int i = 0; i < header->count; i++)
	{
		const ItemPointerData *tid = &AnnIvfEntryOf(page, shape, i)->tid;
		int			at = AnnIvfVectorBlockIndex(layout, i);
		AnnTestResult test;

		test = testEntry(state, AnnIvfEntryOf(page, shape, i));
		if (test == ANN_TEST_FAILS)
			continue;
		state->is_sure = test == ANN_TEST_PASSES;
		state->nscanned++;
		if (at + layout->pages_per_vector > header->nblocks)
			AnnPageCorrupted(index, block, "it has entries without vectors");
		if (layout->vectors_per_page == 0)
		{
			readLongVector(state, index, header->blocks + at, tid);
			continue;
		}
		if (at != current)
		{
			if (BufferIsValid(buffer))
				UnlockReleaseBuffer(buffer);
			CHECK_FOR_INTERRUPTS();
			buffer = AnnReadBuffer(index, &state->cache->hints, header->blocks[at]);
			LockBuffer(buffer, BUFFER_LOCK_SHARE);
			usable = AnnPageIsOurs(BufferGetPage(buffer), ANN_IVFFLAT_PAGE_ID) &&
				AnnPageOpaque(BufferGetPage(buffer))->kind == ANN_IVF_VECTORS;
			current = at;
		}
		if (usable)
		{
			const char *vector = AnnPageRaw(BufferGetPage(buffer)) +
				(Size) AnnIvfVectorSlot(layout, i) * layout->vector_slot;
			ItemPointerData stored_tid;

			memcpy(&stored_tid, vector, sizeof(stored_tid));
			if (AnnSameTid(&stored_tid, tid))
				scoreVector(state, vector + ANN_IVF_VECTOR_HEADER, tid);
		}
	}
	if (BufferIsValid(buffer))
		UnlockReleaseBuffer(buffer);
}

/* ---- lists ---- */

bool
AnnIvfWasSeen(const AnnIvfArrays *arrays, BlockNumber block)
{
	for (int i = 0; i < arrays->nseen; i++)
		if (arrays->seen[i] == block)
			return true;
	return false;
}

/* Raises the error for a block that is not where its list should be. */
_Noreturn void
AnnIvfListIsLost(const AnnIvfScan *state, Relation index, BlockNumber block)
{
	AnnIvfCheckInUse(index, state->meta.heads);
	AnnPageCorrupted(index, block, "it is not a page of the list that leads to it");
}

/* The head of a list: first page and chain never change, so the cache has them while its lists are the scan's. */
AnnIvfListHead
AnnIvfHeadForScan(const AnnIvfScan *state, Relation index, uint32 list)
{
	const AnnIvfMetaPageData *cached = &state->cache->meta;

	if (cached->generation == state->meta.generation && cached->build_id == state->meta.build_id)
		return state->cache->heads[list];
	return AnnIvfReadHead(index, &state->meta, list);
}

/*
 * Reads all pages of a list.  VACUUM may take an empty page out of it under us, and
 * an insert may use it elsewhere: a page that is not the list's, or whose
 * predecessor is not the one we came from, sends us back to the list's start, past
 * what we have read (README, Scan).
 */
static void
readList(AnnIvfScan *state, Relation index, uint32 list)
{
	AnnIvfShape	shape = AnnIvfShapeOf(&state->meta, list);
	AnnIvfArrays *arrays = state->arrays;
	AnnIvfListHead head = AnnIvfHeadForScan(state, index, list);
	BlockNumber first = head.first;
	BlockNumber block = first;
	BlockNumber prev = InvalidBlockNumber;
	int			restarts = 0;

	arrays->nseen = 0;
	if (state->code != NULL)
	{
		const float *centroid = AnnIvfCentroid(&state->centroids, list, state->centroid);
		int			dim = (int) state->meta.layout.dim;
		float		q_dot_c = 0;

		for (int i = 0; i < dim; i++)
			state->residual[i] = state->dense[i] - centroid[i];
		if (state->meta.layout.metric == ANN_METRIC_IP)
			q_dot_c = ann_kernels.ip_f32(state->dense, centroid, dim);
		AnnQueryCodeInit(state->code, &state->meta.code, state->residual, q_dot_c);
	}
	while (BlockNumberIsValid(block))
	{
		Buffer		buffer = AnnReadBuffer(index, &state->cache->hints, block);
		Page		page = BufferGetPage(buffer);
		bool		copied = false;
		BlockNumber next;

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		if (!AnnIvfIsListPage(page, &shape, head.chain) || AnnIvfListPageOf(page)->prev != prev)
		{
			UnlockReleaseBuffer(buffer);
			if (block == first || ++restarts > ANN_IVF_MAX_RESTARTS)
				AnnIvfListIsLost(state, index, block);
			block = first;
			prev = InvalidBlockNumber;
			continue;
		}
		AnnIvfCheckListPage(index, block, page, &state->meta.layout, &shape);
		next = AnnPageOpaque(page)->next;
		if (restarts == 0 || !AnnIvfWasSeen(arrays, block))
		{
			AnnIvfGrowArray(arrays, (void **) &arrays->seen, arrays->nseen, 1, &arrays->seen_capacity, sizeof(BlockNumber));
			arrays->seen[arrays->nseen++] = block;
			state->base.nvisited += AnnIvfListPageOf(page)->live;
			if (state->code != NULL)
				addCoded(state, block, page, &shape);
			else
			{
				memcpy(state->page, page, BLCKSZ);
				copied = true;
			}
		}
		UnlockReleaseBuffer(buffer);
		if (copied)
			addPlain(state, index, block, &shape);
		else if (AnnIvfScanIsFull(state))
			AnnIvfSpillPending(state);
		prev = block;
		block = next;
	}
}

/* Whether all that the scan could return was found. */
bool
AnnIvfScanHasAll(const AnnIvfScan *state)
{
	const AnnTidSet *members = state->base.members;

	return members != NULL && members->nlossy == 0 && state->nscanned >= members->nexact;
}

/* Whether the scan's caller has a cheaper way by now. */
bool
AnnIvfScanWorkIsDone(const AnnIvfScan *state)
{
	return AnnScanWorkIsDone(&state->base, state->base.nvisited, state->nscanned);
}

/* The list to be read next, without taking it; false if there is none. */
bool
AnnIvfPeekList(AnnIvfScan *state)
{
	if (AnnIvfScanHasAll(state) || AnnIvfScanWorkIsDone(state))
		return false;
	if (!state->has_next_list && state->base.nprobed < state->max_probes)
		state->has_next_list = AnnIvfRankNext(&state->ranking, &state->next_list);
	return state->has_next_list;
}

void
AnnIvfReadNextList(AnnIvfScan *state, Relation index)
{
	state->has_next_list = false;
	state->base.nprobed++;
	readList(state, index, state->next_list.list);
}

/* Makes ready what was read. */
void
AnnIvfFinishReading(AnnIvfScan *state)
{
	AnnIvfMixPending(state->arrays);
	if (state->spill != NULL)
	{
		AnnIvfSpillPending(state);
		tuplesort_performsort(state->spill);
		AnnIvfNextSpilled(state);
	}
}

/*
 * Reads up to n more lists, the nearest first; false if there are none.  Within work_mem: of
 * scored vectors it leaves off where they exceed that, of entries it sorts what does.
 */
bool
AnnIvfReadLists(AnnIvfScan *state, Relation index, int n)
{
	bool		any = false;

	while (n-- > 0 && !(any && AnnIvfScanIsFull(state)) && AnnIvfPeekList(state))
	{
		AnnIvfReadNextList(state, index);
		any = true;
	}
	if (any)
		AnnIvfFinishReading(state);
	return any;
}
