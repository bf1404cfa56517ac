/*
 * ivfflat_lists.c
 *	  Reading vectors and lists for a scan: README, section Scan.
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "miscadmin.h"
#include "storage/buf_internals.h"

#include "ivfflat/ivfflat_scan.h"

/* If fewer than one entry in so many of a page may count, the codes of these are copied to be bounded, so many at a time. */
#define FEW_SHARE 3
#define COPIES 32

/* Of more keys than this comparing with them one after the other takes longer than it saves. */
#define MAX_KEYS 32

/* Entries whose whole codes are looked at first as long as too few are known to leave any out; twice the rows wanted if that is more. */
#define FIRST_ENTRIES 24

#define LINE_BYTES 64

/* Scratch for the entries of a page. */
struct AnnIvfBatch
{
	int32	   *ips;			/* AnnBoundColumns */
	uint16	   *places;			/* entries whose whole codes are looked at */
	float	   *estimates;		/* theirs */
	float	   *errors;
	uint8	   *planes;			/* of the codes of a few entries */
	uint8	   *tests;			/* AnnTestResult of each; with codes only if there is a filter */
};

AnnIvfBatch *
AnnIvfBatchCreate(const AnnIvfLayout *layout)
{
	AnnIvfBatch *batch = palloc(sizeof(AnnIvfBatch));

	batch->ips = palloc(mul_size(sizeof(int32), layout->entries));
	batch->places = palloc(mul_size(sizeof(uint16), layout->entries));
	batch->estimates = palloc(mul_size(sizeof(float), layout->entries));
	batch->errors = palloc(mul_size(sizeof(float), layout->entries));
	batch->planes = palloc(mul_size(layout->plane_size, COPIES));
	batch->tests = palloc(mul_size(sizeof(uint8), layout->entries));
	return batch;
}

/* Takes over which keys the rows that count have. */
void
AnnIvfSetKeys(AnnIvfScan *state)
{
	const AnnIndexScan *base = &state->base;

	state->has_keys = base->keys != NULL && base->filter != NULL && base->nkeys <= MAX_KEYS &&
		state->meta.layout.key_size > 0;
	if (!state->has_keys)
		return;
	state->keys = palloc(mul_size(sizeof(AnnIvfKey), Max(base->nkeys, 1)));
	state->nkeys = base->nkeys;
	for (int i = 0; i < base->nkeys; i++)
		state->keys[i] = (AnnIvfKey) base->keys[i];
}

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

/* Fills in what a CODES page, held for sharing, says of an entry but for its bound. */
static void
setPending(const AnnIvfScan *state, AnnIvfPending *pending, BlockNumber block, Page page, const AnnIvfShape *shape,
		   int entry)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	const AnnIvfListPage *header = AnnIvfListPageOf(page);
	const ItemPointerData *tid = AnnIvfTidOf(page, shape, entry);
	int			at = AnnIvfVectorBlockIndex(layout, entry);

	if (at + layout->pages_per_vector > header->nblocks)
		AnnPageCorrupted(state->centroids.index, block, "it has entries without vectors");
	pending->heap_block = ItemPointerGetBlockNumberNoCheck(tid);
	pending->heap_offset = ItemPointerGetOffsetNumberNoCheck(tid);
	pending->block = layout->vectors_per_page > 0 ? header->blocks[at] : block;
	pending->slot = (uint16) (layout->vectors_per_page > 0 ? AnnIvfVectorSlot(layout, entry) : entry);
}

/*
 * Finds the heap TID and the vector of an entry of which only the place is known.  False if
 * the page has another use by now, or the entry none: VACUUM has freed it.
 */
static bool
findEntry(AnnIvfScan *state, Relation index, AnnIvfPending *pending)
{
	AnnIvfShape shape = AnnIvfShapeOf(&state->meta, 0);
	Buffer		buffer = AnnReadBuffer(index, &state->cache->hints, pending->block);
	Page		page = BufferGetPage(buffer);
	bool		found;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	found = AnnIvfIsListPage(page, &shape, pending->heap_block) && pending->slot < AnnIvfListPageOf(page)->count &&
		ItemPointerIsValid(AnnIvfTidOf(page, &shape, pending->slot));
	if (found)
		setPending(state, pending, pending->block, page, &shape, pending->slot);
	UnlockReleaseBuffer(buffer);
	return found;
}

/* Reads and scores the vector of a pending entry, if it is still there. */
void
AnnIvfReadVector(AnnIvfScan *state, Relation index, const AnnIvfPending *entry)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	AnnIvfPending found = *entry;
	const AnnIvfPending *pending = &found;
	Buffer		buffer;
	Page		page;
	ItemPointerData tid;

	if (found.heap_offset == InvalidOffsetNumber && !findEntry(state, index, &found))
		return;
	buffer = AnnReadBuffer(index, &state->cache->hints, pending->block);
	page = BufferGetPage(buffer);
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
		AnnIvfShape shape = AnnIvfShapeOf(&state->meta, 0);
		int			first = AnnIvfVectorBlockIndex(layout, pending->slot);
		BlockNumber blocks[8];
		bool		found = false;

		if (layout->pages_per_vector > lengthof(blocks))
			elog(ERROR, "a vector of ivfflat index \"%s\" takes %u pages", RelationGetRelationName(index),
				 layout->pages_per_vector);
		if (AnnPageIsOurs(page, ANN_IVFFLAT_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_IVF_CODES &&
			AnnIvfListPageOf(page)->nblocks >= first + layout->pages_per_vector &&
			AnnSameTid(AnnIvfTidOf(page, &shape, pending->slot), &tid))
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
testEntry(const AnnIvfScan *state, Page page, const AnnIvfShape *shape, int entry)
{
	const AnnIndexScan *base = &state->base;
	const ItemPointerData *tid = AnnIvfTidOf(page, shape, entry);

	if (!ItemPointerIsValid(tid) || !AnnScanIsMember(base, tid))
		return ANN_TEST_FAILS;
	return base->filter == NULL ? ANN_TEST_PASSES :
		base->filter(base->filter_arg, AnnIvfAttributesOf(page, shape, entry));
}

/*
 * Marks the entries of a page whose keys are among those of the rows that count; false if there are none.
 */
static bool
markKeys(const AnnIvfScan *state, Page page, const AnnIvfShape *shape, uint16 *marks)
{
	const AnnIvfKey *keys = AnnIvfKeysOf(page, shape);
	int			count = AnnIvfListPageOf(page)->count;
	uint16		any = 0;

	for (int i = 0; i < count; i++)
		marks[i] = 0;
	for (int j = 0; j < state->nkeys; j++)
	{
		AnnIvfKey	key = state->keys[j];

		for (int i = 0; i < count; i++)
		{
			marks[i] |= keys[i] == key;
			any |= marks[i];
		}
	}
	return any != 0;
}

/* What is asked of an entry that is likely to count. */
static pg_attribute_always_inline void
prefetchEntry(Page page, const AnnIvfShape *shape, int entry)
{
	const char *top = AnnPageRaw(page) + shape->top + entry * (Size) shape->plane_size;

	__builtin_prefetch(AnnIvfTidOf(page, shape, entry));
	__builtin_prefetch(AnnIvfAttributesOf(page, shape, entry));
	for (int at = 0; at < shape->plane_size; at += LINE_BYTES)
		__builtin_prefetch(top + at);
}

/* Tests the entries of a page, held for sharing: fills batch->tests and returns how many may count. */
static int
testEntries(const AnnIvfScan *state, Page page, const AnnIvfShape *shape)
{
	int			count = AnnIvfListPageOf(page)->count;
	uint8	   *tests = state->batch->tests;
	uint16	   *marks = state->batch->places;
	bool		marked = state->has_keys;
	int			n = 0;

	memset(tests, ANN_TEST_FAILS, count);
	if (marked && !markKeys(state, page, shape, marks))
		return 0;
	for (int i = 0; marked && i < count; i++)
		if (marks[i])
			prefetchEntry(page, shape, i);
	for (int i = 0; i < count; i++)
	{
		if (marked && !marks[i])
			continue;
		tests[i] = (uint8) testEntry(state, page, shape, i);
		n += tests[i] != ANN_TEST_FAILS;
	}
	return n;
}

/* The largest bound of entries whose whole codes are looked at, now that their page is at hand. */
static float
nearLimit(const AnnIvfScan *state)
{
	float		limit = state->nbest < state->best_wanted ? INFINITY : state->best[0];

	if (state->calibration != NULL)
		limit = AnnIvfCalibrationLimit(state);
	else if (state->reach != NULL)
		limit = Max(limit, AnnIvfReachLimit(state));
	return Min(limit, FLT_MAX);
}

/* The bound that so many entries of a page do not exceed, and no more if they differ. */
static float
boundOfFirst(const AnnIvfScan *state, const float *lowers, int count, int wanted)
{
	float	   *smallest = state->batch->estimates;
	int			n = 0;

	if (count <= wanted)
		return FLT_MAX;
	for (int i = 0; i < count; i++)
		AnnKeepBest(smallest, &n, wanted, lowers[i]);
	return Min(smallest[0], FLT_MAX);
}

/*
 * Looks at the whole codes of entries of a page whose bounds are not above the limit.  Those that may still
 * be near become pending, and their bounds infinite; the others stay with a better bound.
 */
static void
takeEntries(AnnIvfScan *state, BlockNumber block, Page page, const AnnIvfShape *shape, const AnnCodeColumns *columns,
			float *lowers, float limit)
{
	AnnIvfBatch *batch = state->batch;
	AnnIvfArrays *arrays = state->arrays;
	bool		plain = AnnScanIsPlain(&state->base);
	int			n = 0;

	for (int i = 0; i < columns->count; i++)
	{
		batch->places[n] = (uint16) i;
		n += lowers[i] <= limit;
	}
	if (n == 0)
		return;
	for (int i = 0; i < n; i++)
		__builtin_prefetch(AnnIvfTidOf(page, shape, batch->places[i]));
	AnnEstimateColumns(state->code, columns, batch->ips, batch->places, n, batch->estimates, batch->errors);
	AnnIvfGrowArray(arrays, (void **) &arrays->pending, arrays->npending, n, &arrays->pending_capacity,
					sizeof(AnnIvfPending));
	for (int i = 0; i < n; i++)
	{
		int			entry = batch->places[i];
		float		estimate = batch->estimates[i];
		float		error = batch->errors[i];
		float		lower = estimate - ANN_IVF_EPS * error;
		AnnTestResult test = plain ? ANN_TEST_PASSES : batch->tests[entry];
		AnnIvfPending *pending;

		lowers[entry] = INFINITY;
		if (!ItemPointerIsValid(AnnIvfTidOf(page, shape, entry)))
			continue;
		if (state->calibration != NULL)
			AnnIvfLearnEstimate(state, AnnIvfTidOf(page, shape, entry), estimate);
		if (state->reach != NULL)
			AnnIvfLearnReach(state, estimate, test == ANN_TEST_PASSES);
		if (test == ANN_TEST_FAILS)
			continue;
		if (test == ANN_TEST_PASSES)
			AnnKeepBest(state->best, &state->nbest, state->best_wanted, estimate + error);
		if (state->calibration == NULL && lower > nearLimit(state) && lower < INFINITY)
		{
			lowers[entry] = lower;
			continue;
		}
		pending = &arrays->pending[arrays->npending++];
		setPending(state, pending, block, page, shape, entry);
		/* inf - inf, where squares overflow: nothing is known, and a NaN has no place in the order */
		pending->lower = lower < INFINITY ? lower : -INFINITY;
	}
}

/* Bounds of those entries of a page that may count, infinity for the others: AnnBoundColumns of copies side by side. */
static void
boundFew(AnnIvfScan *state, const AnnCodeColumns *columns, const AnnIvfShape *shape, float *lowers)
{
	AnnIvfBatch *batch = state->batch;
	Size		plane_size = shape->plane_size;
	AnnHalf		factors[3][COPIES];
	float		bounds[COPIES];
	int32		ips[COPIES];
	AnnCodeColumns copies = {
		.add = factors[0], .mul = factors[1], .error = factors[2], .top = batch->planes
	};

	for (int i = 0, start = 0; i < columns->count; i++)
	{
		if (batch->tests[i] != ANN_TEST_FAILS)
		{
			int			n = copies.count++;

			factors[0][n] = columns->add[i];
			factors[1][n] = columns->mul[i];
			factors[2][n] = columns->error[i];
			memcpy(batch->planes + n * plane_size, columns->top + i * plane_size, plane_size);
		}
		if (copies.count < COPIES && i + 1 < columns->count)
			continue;
		AnnBoundColumns(state->code, &copies, ANN_IVF_EPS, bounds, ips);
		for (int n = 0; start <= i; start++)
		{
			lowers[start] = INFINITY;
			if (batch->tests[start] == ANN_TEST_FAILS)
				continue;
			lowers[start] = bounds[n];
			batch->ips[start] = ips[n++];
		}
		copies.count = 0;
	}
}

/* Makes the code of the query for a list. */
static void
codeQuery(AnnIvfScan *state, uint32 list)
{
	const float *centroid = AnnIvfCentroid(&state->centroids, list, state->centroid);
	int			dim = (int) state->meta.layout.dim;
	float		q_dot_c = 0;

	for (int i = 0; i < dim; i++)
		state->residual[i] = state->dense[i] - centroid[i];
	if (state->meta.layout.metric == ANN_METRIC_IP)
		q_dot_c = ann_kernels.ip_f32(state->dense, centroid, dim);
	AnnQueryCodeInit(state->code, &state->meta.code, state->residual, q_dot_c);
	state->coded = true;
}

/*
 * Adds the entries of a CODES page, held for sharing, with the bounds their codes give: near ones
 * become pending by their whole codes, the others join the rest by the uppermost planes alone.
 */
static void
addCoded(AnnIvfScan *state, uint32 list, BlockNumber block, Page page, const AnnIvfShape *shape)
{
	const AnnIvfListPage *header = AnnIvfListPageOf(page);
	AnnCodeColumns columns = AnnIvfColumnsOf(page, shape);
	AnnIvfArrays *arrays = state->arrays;
	AnnIvfBatch *batch = state->batch;
	bool		plain = AnnScanIsPlain(&state->base);
	bool		learning = state->reach != NULL && state->reach->learning;
	int			ncounting = header->live;
	float	   *lowers;

	if (header->live == 0)
		return;
	if (!plain)
		ncounting = testEntries(state, page, shape);
	state->nscanned += ncounting;
	if (learning)
		AnnIvfLearnRadius(state, page, shape);
	else if (ncounting == 0)
		return;
	if (!state->coded)
		codeQuery(state, list);

	AnnIvfGrowArray(arrays, (void **) &arrays->rest, arrays->nrest, header->count, &arrays->rest_capacity,
					sizeof(float));
	lowers = arrays->rest + arrays->nrest;
	if (plain || learning)
		AnnBoundColumns(state->code, &columns, ANN_IVF_EPS, lowers, batch->ips);
	else if (ncounting * FEW_SHARE < header->count)
		boundFew(state, &columns, shape, lowers);
	else
	{
		AnnBoundColumns(state->code, &columns, ANN_IVF_EPS, lowers, batch->ips);
		for (int i = 0; i < header->count; i++)
			if (batch->tests[i] == ANN_TEST_FAILS)
				lowers[i] = INFINITY;
	}
	/* As long as any entry might be near, the most promising ones tell which are not. */
	if (nearLimit(state) >= FLT_MAX)
		takeEntries(state, block, page, shape, &columns, lowers,
					boundOfFirst(state, lowers, header->count, Min(Max(FIRST_ENTRIES, 2 * state->best_wanted), header->count)));
	takeEntries(state, block, page, shape, &columns, lowers, nearLimit(state));
	for (int i = 0; !plain && learning && i < header->count; i++)
		if (batch->tests[i] == ANN_TEST_FAILS)
			lowers[i] = INFINITY;
	AnnIvfAddRest(arrays, block, header->chain, header->count);
}

/* Scores the vectors of the CODES page of which state->page is a copy, and whose entries have been tested. */
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
		const ItemPointerData *tid = AnnIvfTidOf(page, shape, i);
		int			at = AnnIvfVectorBlockIndex(layout, i);
		AnnTestResult test = (AnnTestResult) state->batch->tests[i];

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

/* Whether the cache has the lists that are the scan's. */
static inline bool
isCached(const AnnIvfScan *state)
{
	const AnnIvfMetaPageData *cached = &state->cache->meta;

	return cached->generation == state->meta.generation && cached->build_id == state->meta.build_id;
}

/*
 * Takes up the backend's cache for the call at hand: it may be that of newer lists.
 */
void
AnnIvfUseCache(AnnIvfScan *state, AnnIvfCache *cache)
{
	state->cache = cache;
	state->centroids.hints = &cache->hints;
	state->centroids.vectors = isCached(state) ? cache->centroids.vectors : NULL;
}

/* The head of a list: first page and chain never change. */
AnnIvfListHead
AnnIvfHeadForScan(const AnnIvfScan *state, Relation index, uint32 list)
{
	if (isCached(state))
		return state->cache->heads[list];
	return AnnIvfReadHead(index, &state->meta, list);
}

/*
 * Asking for memory.  Much of the time of a scan goes by until pages have come, and until the CPU knows
 * where they are: misses of the TLB, which stop its work ahead, but not each other.  So a
 * scan knows a few lists before it reads them, and asks in batches: for what the lists are known
 * by, then for where their pages are, then for the pages' ends.  The lines between
 * are asked for page by page.
 *
 * (Always inline: to gcc a function of nothing but prefetches has no effect, and it drops the call.)
 */

/* Heads, pages as they were last read, and centroids of lists. */
static pg_attribute_always_inline void
prefetchLists(const AnnIvfScan *state, const AnnIvfListScore *lists, int n)
{
	const AnnIvfCentroids *centroids = &state->centroids;

	for (int i = 0; i < n; i++)
	{
		__builtin_prefetch(&state->cache->heads[lists[i].list]);
		__builtin_prefetch(&state->cache->trails[lists[i].list]);
		if (centroids->vectors != NULL)
		{
			const char *at = (const char *) (centroids->vectors + (Size) lists[i].list * centroids->dim);
			const char *end = at + sizeof(float) * centroids->dim;

			for (; at < end; at += LINE_BYTES)
				__builtin_prefetch(at);
		}
	}
}

/* Where this backend last saw the pages of lists. */
static pg_attribute_always_inline void
prefetchHints(const AnnIvfScan *state, const AnnIvfListScore *lists, int n)
{
	for (int i = 0; i < n; i++)
	{
		const AnnIvfTrail *trail = &state->cache->trails[lists[i].list];

		for (int j = 0; j < (int) lengthof(trail->blocks) && BlockNumberIsValid(trail->blocks[j]); j++)
			__builtin_prefetch(AnnBufferHintFor(&state->cache->hints, trail->blocks[j]));
	}
}

/* Beginning, end and descriptor of a page: harmless if something else is there by now. */
static pg_attribute_always_inline void
prefetchEnds(const AnnIvfScan *state, BlockNumber block)
{
	const AnnBufferHint *hint = AnnBufferHintFor(&state->cache->hints, block);

	if (hint->block == block && hint->buffer > 0)
	{
		Page		page = BufferGetPage(hint->buffer);

		__builtin_prefetch(page);
		__builtin_prefetch(AnnPageOpaque(page));
		__builtin_prefetch(GetBufferDescriptor(hint->buffer - 1), 1);
	}
}

static pg_attribute_always_inline void
prefetchPages(const AnnIvfScan *state, const AnnIvfListScore *lists, int n)
{
	for (int i = 0; i < n; i++)
	{
		const AnnIvfTrail *trail = &state->cache->trails[lists[i].list];

		for (int j = 0; j < (int) lengthof(trail->blocks) && BlockNumberIsValid(trail->blocks[j]); j++)
			prefetchEnds(state, trail->blocks[j]);
	}
}

/* What a scan asks of most entries of a page. */
static pg_attribute_always_inline void
prefetchEntries(const AnnIvfScan *state, const AnnIvfShape *shape, BlockNumber block)
{
	const AnnBufferHint *hint = AnnBufferHintFor(&state->cache->hints, block);

	if (hint->block == block && hint->buffer > 0)
	{
		const char *raw = AnnPageRaw(BufferGetPage(hint->buffer));
		bool		keys_alone = state->has_keys && !(state->reach != NULL && state->reach->learning);
		const char *end = raw + (keys_alone ? shape->keys + shape->key_size * shape->entries : shape->tids);

		for (const char *at = raw + (state->has_keys ? shape->keys : shape->factors); at < end; at += LINE_BYTES)
			__builtin_prefetch(at);
	}
}

/* Takes lists from the ranking: the next one, and of the first lists some more. */
static void
lookAhead(AnnIvfScan *state)
{
	while (state->nahead < ANN_IVF_AHEAD &&
		   state->base.nprobed + state->nahead < (state->nahead == 0 ? state->max_probes : state->probes) &&
		   AnnIvfRankNext(&state->ranking, &state->ahead[state->nahead]))
		state->nahead++;
}

/* One of the lists ahead is about to be read: goes on with asking for the others. */
static void
prefetchAhead(AnnIvfScan *state)
{
	AnnIvfListScore *ahead = state->ahead;
	int			n = state->nahead;

	if (!isCached(state))
	{
		lookAhead(state);
		return;
	}
	if (n <= ANN_IVF_BATCH)
	{
		lookAhead(state);
		prefetchLists(state, ahead + n, state->nahead - n);
		if (n == 0)
		{
			prefetchHints(state, ahead, state->nahead);
			prefetchPages(state, ahead, Min(state->nahead, ANN_IVF_BATCH));
		}
	}
	else if (n == ANN_IVF_AHEAD - 1)
		prefetchHints(state, ahead + ANN_IVF_BATCH - 1, ANN_IVF_BATCH);
	else if (n == ANN_IVF_AHEAD - 2)
		prefetchPages(state, ahead + ANN_IVF_BATCH - 2, ANN_IVF_BATCH);
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
	AnnIvfShape shape = AnnIvfShapeOf(&state->meta, list);
	AnnIvfArrays *arrays = state->arrays;
	AnnIvfListHead head = AnnIvfHeadForScan(state, index, list);
	BlockNumber first = head.first;
	BlockNumber block = first;
	BlockNumber prev = InvalidBlockNumber;
	int			restarts = 0;
	int			npages = 0;

	arrays->nseen = 0;
	state->coded = false;
	/* Where there may be no entry to look at that is left until there is one, if it takes no other page's lock. */
	if (state->code != NULL && (!state->has_keys || state->centroids.vectors == NULL))
		codeQuery(state, list);
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
		if (BlockNumberIsValid(next))
		{
			prefetchEnds(state, next);
			prefetchEntries(state, &shape, next);
		}
		if (isCached(state) && npages < (int) lengthof(state->cache->trails->blocks))
			state->cache->trails[list].blocks[npages++] = block;
		if (restarts == 0 || !AnnIvfWasSeen(arrays, block))
		{
			AnnIvfGrowArray(arrays, (void **) &arrays->seen, arrays->nseen, 1, &arrays->seen_capacity, sizeof(BlockNumber));
			arrays->seen[arrays->nseen++] = block;
			state->base.nvisited += AnnIvfListPageOf(page)->live;
			if (state->code != NULL)
				addCoded(state, list, block, page, &shape);
			else if (testEntries(state, page, &shape) > 0)
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

/* Whether there is a list to be read next: state->ahead[0]. */
bool
AnnIvfPeekList(AnnIvfScan *state)
{
	if (AnnIvfScanHasAll(state) || AnnIvfScanWorkIsDone(state))
		return false;
	if (state->nahead == 0)
		prefetchAhead(state);
	return state->nahead > 0;
}

/* Reads the list that AnnIvfPeekList found. */
void
AnnIvfReadNextList(AnnIvfScan *state, Relation index)
{
	uint32		list = state->ahead[0].list;

	state->nahead--;
	memmove(state->ahead, state->ahead + 1, sizeof(AnnIvfListScore) * state->nahead);
	state->base.nprobed++;
	prefetchAhead(state);
	if (state->nahead > 0 && isCached(state))
	{
		AnnIvfShape shape = AnnIvfShapeOf(&state->meta, list);

		prefetchEntries(state, &shape, state->cache->trails[state->ahead[0].list].blocks[0]);
	}
	readList(state, index, list);
}

/*
 * Asks for the vectors of pending entries that are likely to be read next.
 */
void
AnnIvfPrefetchVectors(const AnnIvfScan *state)
{
	const AnnIvfLayout *layout = &state->meta.layout;
	const AnnBufferHints *hints = &state->cache->hints;
	const AnnIvfPending *pending = state->arrays->pending;
	int			n = Min(state->arrays->npending, ANN_IVF_VECTORS_AHEAD);

	if (state->spill != NULL || layout->vectors_per_page == 0)
		return;
	for (int i = 0; i < n; i++)
		__builtin_prefetch(AnnBufferHintFor(hints, pending[i].block));
	for (int i = 0; i < n; i++)
	{
		const AnnBufferHint *hint = AnnBufferHintFor(hints, pending[i].block);

		if (pending[i].heap_offset != InvalidOffsetNumber && hint->block == pending[i].block && hint->buffer > 0)
		{
			Page		page = BufferGetPage(hint->buffer);
			const char *vector = AnnPageRaw(page) + (Size) pending[i].slot * layout->vector_slot;

			__builtin_prefetch(page);
			__builtin_prefetch(AnnPageOpaque(page));
			__builtin_prefetch(GetBufferDescriptor(hint->buffer - 1), 1);
			for (int at = 0; at < layout->vector_slot; at += LINE_BYTES)
				__builtin_prefetch(vector + at);
		}
	}
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
