/*
 * hnsw_search.c
 *	  Best-first search of the graph.  README: Scan.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/buf_internals.h"
#include "utils/memutils.h"

#include "hnsw/hnsw_search.h"

/* Entries that start a search. */
#define START_ENTRIES 8

/* Pooled arrays above this size are given back at the end of a search. */
#define POOL_KEEP_BYTES (4 * 1024 * 1024)

/* Flags of a slot of the rows seen; the generation has the 30 bits below. */
#define VISITED_BIT (UINT64CONST(1) << 63)
#define QUEUED_BIT (UINT64CONST(1) << 62)
#define SEEN_FLAGS (VISITED_BIT | QUEUED_BIT)

/* Rows that do not count are queued as if their squared distance were larger by this share. */
#define PENALTY 0.15

/*
 * The beam of a filtered search reaches beyond the rows that are wanted by so many
 * standard deviations of the estimates (README, Filtered).
 */
#define BEAM_ERRORS 2.5

/* The same where cards name all members, so that no way has to be found to them. */
#define CARD_ERRORS 2.0

/*
 * Of the rows that cards have named so many times ef, and no fewer than so many, are ordered first: those
 * no farther than a sample's row of this rank.
 */
#define ORDERED_TIMES_EF 4
#define LEAST_ORDERED 128
#define ORDERED_RANK 16

/* Cards whose codes are copied, to be estimated together. */
#define CARDS_TOGETHER 64

/* Estimates that are known to be good for nothing before there are so many. */
#define MIN_ERRORS 8

static AnnHnswSearch *pool = NULL;

/* ---- life of a search ---- */

/* Ties the pooled search to the memory context of whoever uses it. */
struct SearchOwner
{
	MemoryContextCallback callback;
	AnnHnswSearch *search;		/* NULL once it was released */
};

typedef struct SearchOwner SearchOwner;

static void
releaseCallback(void *arg)
{
	SearchOwner *owner = (SearchOwner *) arg;

	if (owner->search != NULL)
		AnnHnswSearchRelease(owner->search);
}

static AnnHnswSearch *
createSearch(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "ann hnsw search", ALLOCSET_DEFAULT_SIZES);
	AnnHnswSearch *search = MemoryContextAllocZero(context, sizeof(AnnHnswSearch));

	search->context = context;
	return search;
}

/*
 * A search whose arrays are the backend's, kept from one scan to the next (a
 * fresh allocation of this size costs page faults), or its own while another scan
 * has those.  Ends with AnnHnswSearchRelease or with CurrentMemoryContext.
 */
AnnHnswSearch *
AnnHnswSearchAcquire(void)
{
	SearchOwner *owner;

	if (pool == NULL)
		pool = createSearch(TopMemoryContext);
	if (pool->owner != NULL)
		return createSearch(CurrentMemoryContext);
	owner = palloc(sizeof(SearchOwner));
	owner->search = pool;
	owner->callback.func = releaseCallback;
	owner->callback.arg = owner;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &owner->callback);
	pool->owner = owner;
	return pool;
}

/* Bytes that the search has allocated, earlier scans' included. */
static Size
allocatedMemory(const AnnHnswSearch *search)
{
	return sizeof(AnnHnswBeamEntry) * (Size) search->beam_capacity +
		sizeof(AnnHnswCandidate) * (Size) search->frontier_capacity +
		sizeof(AnnHnswResult) * (Size) search->results_capacity +
		sizeof(float) * ((Size) search->best_capacity + (Size) search->nearest_capacity) +
		sizeof(uint64) * (Size) search->seen_capacity + (Size) search->codes_capacity;
}

/*
 * Ends a search; the caller forgets it.
 */
void
AnnHnswSearchRelease(AnnHnswSearch *search)
{
	search->skip = 0;
	search->filter = NULL;
	if (search->owner == NULL)
	{
		MemoryContextDelete(search->context);
		return;
	}
	search->owner->search = NULL;
	search->owner = NULL;
	if (allocatedMemory(search) > POOL_KEEP_BYTES)
	{
		MemoryContextDelete(search->context);
		pool = NULL;
	}
}

/*
 * Bytes that this search uses.
 */
Size
AnnHnswSearchMemory(const AnnHnswSearch *search)
{
	return sizeof(AnnHnswBeamEntry) * (Size) search->nbeam +
		sizeof(AnnHnswCandidate) * (Size) search->nfrontier +
		sizeof(AnnHnswResult) * (Size) search->nresults +
		2 * sizeof(uint64) * (Size) search->nseen;
}

/* Makes room for one more element; *array may be NULL at first. */
static void
growArray(AnnHnswSearch *search, void **array, int *capacity, Size element, int least)
{
	int			wanted;

	if (*capacity >= INT_MAX / 2)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("hnsw scan has seen too many rows")));
	wanted = Max(*capacity * 2, least);
	if (*array == NULL)
		*array = MemoryContextAllocHuge(search->context, mul_size(element, wanted));
	else
		*array = repalloc_huge(*array, mul_size(element, wanted));
	*capacity = wanted;
}

/*
 * Where the scores' scale begins: the penalty is one on squared Euclidean distances.
 * Of inner products these are |q|^2 + |x|^2 + 2 score, with an |x|^2 that is
 * usual in the index.
 */
static double
zeroScore(const AnnHnswSearch *search)
{
	const AnnHnswLayout *layout = &search->space->layout;
	const AnnQuery *query = search->query->base;
	const AnnHnswCache *cache = search->cache;
	double		q_norm2;
	double		x_norm2;
	int			sample = Min((int) cache->meta.nentries, 64);

	if (layout->metric != ANN_METRIC_IP)
		return 0;
	if (query->refine == NULL)
		return AnnSpacePairScore(&search->space->base, query->value, query->value);
	q_norm2 = query->refine->norm * query->refine->norm;
	if (!AnnHnswHasCodes(layout) || sample == 0)
		return -q_norm2;
	x_norm2 = 0;
	for (int i = 0; i < sample; i++)
	{
		const AnnHnswEntry *entry = (const AnnHnswEntry *) (cache->entries + i * cache->entry_size);
		AnnHalf		halves[3] = {entry->add, entry->mul, 0};
		AnnCodeFactors factors;
		float		norm;

		AnnFactorsFromHalf(&search->space->code, halves, &factors);
		norm = AnnCodeNorm(&search->space->code, (const uint8 *) entry->payload, &factors);
		/* |r|^2 + |c|^2 + 2 <r, c> */
		x_norm2 += (double) norm * norm + search->space->center_norm2 - 2 * factors.add;
	}
	return -(q_norm2 + Max(x_norm2, 0) / sample) / 2;
}

/* Makes room for n scores; what there was is lost. */
static void
provideScores(AnnHnswSearch *search, float **scores, int *capacity, int n)
{
	if (*capacity >= n)
		return;
	if (*scores != NULL)
		pfree(*scores);
	*scores = NULL;
	*capacity = 0;
	growArray(search, (void **) scores, capacity, sizeof(float), Max(n, 128));
}

static void
prepareFilter(AnnHnswSearch *search)
{
	provideScores(search, &search->best, &search->best_capacity, search->ef);
	provideScores(search, &search->nearest, &search->nearest_capacity, search->wanted);
	search->nbest = search->nnearest = 0;
	search->nerrors = search->errors = search->errors2 = 0;
	search->zero = zeroScore(search);
	search->penalty = search->space->layout.metric == ANN_METRIC_L1 ? sqrt(1 + PENALTY) - 1 : PENALTY;
}

/*
 * Starts a search for search->query with a beam of search->ef: nothing seen.
 */
void
AnnHnswSearchBegin(AnnHnswSearch *search)
{
	if (search->beam_capacity < search->ef)
	{
		if (search->beam != NULL)
			pfree(search->beam);
		search->beam = NULL;
		search->beam_capacity = 0;
		growArray(search, (void **) &search->beam, &search->beam_capacity, sizeof(AnnHnswBeamEntry),
				  Max(search->ef, 128));
	}
	search->nbeam = 0;
	search->next = 0;
	search->deepest = 0;
	search->reach = 0;
	search->nfrontier = 0;
	search->nunordered = 0;
	search->frontier_is_heap = false;
	search->nresults = 0;
	search->nseen = 0;
	search->nvisited = 0;
	search->nscored = 0;
	search->nmatched = 0;
	search->nunplaced = 0;
	search->by_cards = false;
	search->tids = NULL;
	search->tids_capacity = 0;
	if (search->filter != NULL)
		prepareFilter(search);
	if (search->seen == NULL)
	{
		search->seen_capacity = 4096;
		search->seen = MemoryContextAllocZero(search->context, sizeof(uint64) * search->seen_capacity);
		search->generation = 0;
	}
	if (++search->generation >= (1U << 30) - 1)
	{
		memset(search->seen, 0, sizeof(uint64) * search->seen_capacity);
		search->generation = 1;
	}
	search->vector = NULL;
	search->ncodes = 0;
	search->visiting = 0;
}

/* ---- rows seen ---- */

static inline uint64
seenKey(const AnnHnswSearch *search, AnnRowId row)
{
	return (uint64) search->generation << 32 | row;
}

static uint64 *
seenSlot(AnnHnswSearch *search, AnnRowId row)
{
	uint32		mask = search->seen_capacity - 1;
	uint64		key = seenKey(search, row);
	uint32		i = (row * 0x9E3779B1U) >> (32 - pg_ceil_log2_32(search->seen_capacity));

	for (;; i = (i + 1) & mask)
	{
		uint64		slot = search->seen[i] & ~SEEN_FLAGS;

		if (slot == key || (slot >> 32) != search->generation)
			return &search->seen[i];
	}
}

static void
growSeen(AnnHnswSearch *search)
{
	uint32		old_capacity = search->seen_capacity;
	uint64	   *old = search->seen;

	if (old_capacity >= (1U << 30))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("hnsw scan has seen too many rows")));
	search->seen = MemoryContextAllocExtended(search->context, mul_size(sizeof(uint64), (Size) old_capacity * 2),
											  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	search->seen_capacity = old_capacity * 2;
	for (uint32 i = 0; i < old_capacity; i++)
		if (((old[i] & ~SEEN_FLAGS) >> 32) == search->generation)
			*seenSlot(search, (AnnRowId) old[i]) = old[i];
	pfree(old);
}

/* True if the row was not seen before; it is now. */
static inline bool
markSeen(AnnHnswSearch *search, AnnRowId row)
{
	uint64	   *slot = seenSlot(search, row);

	if ((*slot & ~SEEN_FLAGS) == seenKey(search, row))
		return false;
	*slot = seenKey(search, row);
	if (++search->nseen * 2 > search->seen_capacity)
		growSeen(search);
	return true;
}

/* True if the row was not visited before; it is now. */
static bool
markVisited(AnnHnswSearch *search, AnnRowId row)
{
	uint64	   *slot;

	markSeen(search, row);
	slot = seenSlot(search, row);
	if (*slot & VISITED_BIT)
		return false;
	*slot |= VISITED_BIT;
	return true;
}

/* ---- heaps ---- */

static inline bool
candidateLess(const AnnHnswCandidate *a, const AnnHnswCandidate *b)
{
	return a->score < b->score;
}

static inline bool
resultLess(const AnnHnswResult *a, const AnnHnswResult *b)
{
	return a->lo < b->lo;
}

#define DEFINE_HEAP(name, type, less) \
static void \
name##Down(type *heap, int n, int i) \
{ \
	type item = heap[i]; \
\
	for (;;) \
	{ \
		int child = 2 * i + 1; \
\
		if (child >= n) \
			break; \
		if (child + 1 < n && less(&heap[child + 1], &heap[child])) \
			child++; \
		if (!less(&heap[child], &item)) \
			break; \
		heap[i] = heap[child]; \
		i = child; \
	} \
	heap[i] = item; \
} \
\
static void \
name##Up(type *heap, int i) \
{ \
	type item = heap[i]; \
\
	while (i > 0 && less(&item, &heap[(i - 1) / 2])) \
	{ \
		heap[i] = heap[(i - 1) / 2]; \
		i = (i - 1) / 2; \
	} \
	heap[i] = item; \
}

DEFINE_HEAP(candidate, AnnHnswCandidate, candidateLess)
DEFINE_HEAP(result, AnnHnswResult, resultLess)

static void
addFrontier(AnnHnswSearch *search, AnnRowId row, float score)
{
	if (search->nfrontier >= search->frontier_capacity)
		growArray(search, (void **) &search->frontier, &search->frontier_capacity, sizeof(AnnHnswCandidate), 4096);
	search->frontier[search->nfrontier].row = row;
	search->frontier[search->nfrontier].score = score;
	if (search->frontier_is_heap)
		candidateUp(search->frontier, search->nfrontier);
	search->nfrontier++;
}

static void
addResult(AnnHnswSearch *search, const AnnHnswResult *result)
{
	if (search->nresults >= search->results_capacity)
		growArray(search, (void **) &search->results, &search->results_capacity, sizeof(AnnHnswResult), 256);
	search->results[search->nresults] = *result;
	resultUp(search->results, search->nresults++);
}

/*
 * Takes the result with the least lower bound.
 */
bool
AnnHnswPopResult(AnnHnswSearch *search, AnnHnswResult *result)
{
	if (search->nresults == 0)
		return false;
	*result = search->results[0];
	search->results[0] = search->results[--search->nresults];
	if (search->nresults > 0)
		resultDown(search->results, search->nresults, 0);
	return true;
}

/* ---- the beam ---- */

static inline bool
beamTakes(const AnnHnswSearch *search, float score)
{
	return search->nbeam < search->ef || score < search->beam[search->nbeam - 1].score;
}

static Size
edgeCodeSize(const AnnHnswSearch *search)
{
	return offsetof(AnnHnswEdgeCode, code) + TYPEALIGN(2, search->space->layout.code_size);
}

/* Keeps a copy of an edge's code; returns its number. */
static uint32
keepCode(AnnHnswSearch *search, const void *factors, const void *code)
{
	Size		size = edgeCodeSize(search);
	AnnHnswEdgeCode *copy;

	while ((search->ncodes + 1) * size > search->codes_capacity)
		growArray(search, (void **) &search->codes, &search->codes_capacity, 1, 64 * 1024);
	copy = (AnnHnswEdgeCode *) (search->codes + search->ncodes * size);
	memcpy(copy->factors, factors, sizeof(copy->factors));
	memcpy(copy->code, code, search->space->layout.code_size);
	return search->ncodes++;
}

/* factors and code are those of the edge; NULL without codes. */
static void
addToBeam(AnnHnswSearch *search, AnnRowId row, float score, const void *factors, const void *code)
{
	AnnHnswBeamEntry *beam = search->beam;
	int			low = 0;

	if (search->nbeam == search->ef)
	{
		AnnHnswBeamEntry *last = &beam[search->nbeam - 1];

		if (!last->visited && search->keep_dropped)
			addFrontier(search, last->row, last->score);
		search->nbeam--;
	}
	/* Without branches: they could not be predicted. */
	for (int n = search->nbeam; n > 0;)
	{
		int			half = (n + 1) / 2;

		low += (int) (beam[low + half - 1].score <= score) * half;
		n -= half;
	}
	memmove(beam + low + 1, beam + low, sizeof(AnnHnswBeamEntry) * (search->nbeam - low));
	/* If the row is visited, where its page is will be asked for. */
	__builtin_prefetch(AnnBufferHintFor(&search->cache->hints, AnnHnswRowBlock(&search->space->layout, row)));
	beam[low].row = row;
	beam[low].score = score;
	beam[low].visited = false;
	beam[low].code = search->hook != NULL && code != NULL ? keepCode(search, factors, code) : 0;
	search->nbeam++;
	if (low < search->next)
		search->next = low;
}

/*
 * Rows were seen with these estimates, at the edges of `array`: each goes to the beam, or to what the
 * beam dropped.
 */
static void
offerEdges(AnnHnswSearch *search, const AnnRowId *rows, const float *estimates, const AnnCodeArray *array)
{
	int			n = array->count;
	bool		full = search->nbeam >= search->ef;
	float		limit;
	uint8		near[256];
	int			nnear = 0;

	if (search->frontier_is_heap)
	{
		for (int i = 0; i < n; i++)
			if (markSeen(search, rows[i]))
				addFrontier(search, rows[i], estimates[i]);
		return;
	}

	/* Most are too far for the beam.  Which ones cannot be predicted: so without branches. */
	limit = full ? search->beam[search->nbeam - 1].score : 0;
	for (int i = 0; i < n; i++)
	{
		near[nnear] = (uint8) i;
		nnear += !full | (estimates[i] < limit);
	}
	if (search->keep_dropped)
	{
		AnnHnswCandidate *frontier;
		int			nfrontier = search->nfrontier;

		while (nfrontier + n > search->frontier_capacity)
			growArray(search, (void **) &search->frontier, &search->frontier_capacity, sizeof(AnnHnswCandidate), 4096);
		frontier = search->frontier;
		/* Duplicates are told apart later, if the search goes on at all. */
		for (int i = 0; i < n; i++)
		{
			frontier[nfrontier].row = rows[i];
			frontier[nfrontier].score = estimates[i];
			nfrontier += full & !(estimates[i] < limit);
		}
		search->nfrontier = nfrontier;
	}
	for (int k = 0; k < nnear; k++)
	{
		int			i = near[k];

		if (!beamTakes(search, estimates[i]))
		{
			if (search->keep_dropped)
				addFrontier(search, rows[i], estimates[i]);
		}
		else if (markSeen(search, rows[i]))
			addToBeam(search, rows[i], estimates[i], (const char *) array->factors + i * array->factor_stride,
					  (const char *) array->codes + i * array->code_stride);
	}
}

/* ---- rows that count ---- */

/* Standard deviation of the estimates of those rows that were visited. */
static double
deviation(const AnnHnswSearch *search)
{
	double		mean = search->errors / search->nerrors;

	return sqrt(Max(search->errors2 / search->nerrors - mean * mean, 0));
}

/*
 * With a filter: whether the beam has no place for a row of this estimate.  It is behind
 * the best ef members, and too far behind those that are wanted for the errors of
 * the estimates to explain it.
 */
static bool
beamIsFull(const AnnHnswSearch *search, float estimate)
{
	if (search->nbest < search->ef || estimate <= search->best[0])
		return false;
	return search->nerrors < MIN_ERRORS || estimate > search->nearest[0] + BEAM_ERRORS * deviation(search);
}

/*
 * How many of a live row's heap TIDs count.  The row is a copy, or share-locked: its
 * NODE pages come after it in the lock order.
 */
static int
countMembers(AnnHnswSearch *search, AnnRowId row, const AnnHnswRowHeader *header)
{
	const AnnIndexScan *filter = search->filter;
	const AnnHnswLayout *layout = &search->space->layout;
	int			count = 0;

	if (header->state != ANN_HNSW_LIVE)
		return 0;
	if (filter->filter != NULL && !filter->filter(filter->filter_arg, AnnHnswRowAttributes(layout, header)))
		return 0;
	for (int i = 0; i < header->ntids; i++)
		count += AnnScanIsMember(filter, &header->tids[i]);
	if (header->node != ANN_HNSW_NO_NODE)
	{
		int			ntids = 0;

		if (search->tids == NULL)
			search->tids = palloc(sizeof(ItemPointerData) * (search->tids_capacity = 16));
		AnnHnswReadNodes(search->index, layout, row, header->node, &search->tids, &ntids, &search->tids_capacity);
		for (int i = 0; i < ntids; i++)
			count += AnnScanIsMember(filter, &search->tids[i]);
	}
	return count;
}

/* With a filter: a row was seen for the first time, with this estimate or score. */
static void
offerSeen(AnnHnswSearch *search, AnnRowId row, float score, bool counts)
{
	if (!counts)
		score += (float) (search->penalty * Max(score - search->zero, 0));
	if (search->keep_dropped || !beamIsFull(search, score))
		addFrontier(search, row, score);
}

/* A row that counts was found. */
static void
foundMember(AnnHnswSearch *search, float score, int ntids)
{
	search->nmatched += ntids;
	AnnKeepBest(search->best, &search->nbest, search->ef, score);
	AnnKeepBest(search->nearest, &search->nnearest, search->wanted, score);
}

/* A row was visited that counts, by an estimate. */
static void
noteError(AnnHnswSearch *search, float score)
{
	double		error = score - search->estimate;

	search->nerrors++;
	search->errors += error;
	search->errors2 += error * error;
}

/*
 * With a filter: whether every member was found, so that there is nothing left to search for.
 */
bool
AnnHnswSearchHasAll(const AnnHnswSearch *search)
{
	const AnnTidSet *members = search->filter != NULL ? search->filter->members : NULL;

	return members != NULL && members->nlossy == 0 && search->nmatched >= members->nexact;
}

/* ---- visiting ---- */

/*
 * Most of the time of a visit goes by until the row has come from memory.  So the
 * search chooses TAKE_AT_ONCE rows before it visits the first of them: finding out where
 * their pages are (misses of the TLB, which stop the CPU's work ahead) then
 * takes the time of one.  The bytes are asked for in slices, between which others
 * are worked on, as a CPU has few buffers for lines that are on their way.
 */
#define TAKE_AT_ONCE 3
#define LINE_BYTES 64
#define MIN_SLICE 16
#define CARDS_AT_ONCE 6
#define PLAIN_SLICE 8

/*
 * Asks for where a row begins, if this backend remembers that; else *ahead, of zeroes, stays
 * as it is.  Harmless if the buffer holds something else by now.  (Always inline, here and below: to gcc a function
 * of nothing but prefetches has no effect, and it drops the call.)
 */
static pg_attribute_always_inline void
prefetchStart(AnnHnswSearch *search, AnnRowId row, AnnHnswAhead *ahead)
{
	const AnnHnswLayout *layout = &search->space->layout;
	BlockNumber block = AnnHnswRowBlock(layout, row);
	const AnnBufferHint *hint = AnnBufferHintFor(&search->cache->hints, block);

	if (hint->block == block && hint->buffer > 0)
	{
		Page		page = BufferGetPage(hint->buffer);

		ahead->at = (const char *) AnnHnswRowOnPage(layout, page, AnnHnswRowSlot(layout, row));
		ahead->end = ahead->at + layout->row_size;
		__builtin_prefetch(AnnPageOpaque(page));
		__builtin_prefetch(ahead->at);
		__builtin_prefetch(GetBufferDescriptor(hint->buffer - 1), 1);
	}
}

/* Asks for the next lines of a row. */
static pg_attribute_always_inline void
prefetchSlice(AnnHnswAhead *ahead, int lines)
{
	const char *end = Min(ahead->end, ahead->at + lines * LINE_BYTES);

	for (; ahead->at < end; ahead->at += LINE_BYTES)
		__builtin_prefetch(ahead->at);
}

/*
 * The stored vector of a row: in the row, or read into scratch (at least
 * layout->vector_size bytes).  NULL if the row was freed meanwhile.
 */
const char *
AnnHnswStoredVector(Relation index, const AnnHnswLayout *layout, AnnHnswRowHeader *header, char *scratch)
{
	ItemPointerData item;
	Size		size;
	bool		bad;

	if (!AnnHnswVectorIsExternal(layout))
		return AnnHnswRowVector(header);
	memcpy(&item, AnnHnswRowVector(header), sizeof(item));
	size = AnnHnswReadVector(index, item, scratch, layout->vector_size);
	if (size == 0)
		return NULL;
	if (layout->element == ANN_ELEMENT_SPARSE)
	{
		const AnnSparseVector *sparse = (const AnnSparseVector *) scratch;

		bad = size < offsetof(AnnSparseVector, indices) || VARSIZE(sparse) != size ||
			sparse->nnz < 0 || sparse->nnz > ANN_SPARSE_MAX_NNZ || AnnSparseVectorSize(sparse->nnz) != size ||
			sparse->dim != (int32) layout->dim;
	}
	else
		bad = size != layout->vector_size;
	if (bad)
		AnnPageCorrupted(index, ItemPointerGetBlockNumber(&item), "a vector item is not a vector of this index");
	return scratch;
}

static char *
vectorScratch(AnnHnswSearch *search)
{
	if (search->vector == NULL && AnnHnswVectorIsExternal(&search->space->layout))
		search->vector = palloc(search->space->layout.vector_size);
	return search->vector;
}

/* Takes a live row's vector, score and TIDs into account; its page is share-locked. */
static void
scoreRow(AnnHnswSearch *search, AnnRowId row, AnnHnswRowHeader *header, const char *stored, float score)
{
	AnnHnswResult result;
	AnnInterval interval;

	search->nscored++;
	if (header->state != ANN_HNSW_LIVE)
		return;
	/* The sweep finds the place of a distance that is no number. */
	if (isnan(score))
	{
		search->nunplaced++;
		return;
	}
	if (search->hook != NULL)
		search->hook(search->hook_arg, row, header, stored, score,
					 search->ncodes > 0 ? (const AnnHnswEdgeCode *) (search->codes + search->visiting * edgeCodeSize(search)) : NULL);
	if (!search->keep_results || (header->ntids == 0 && header->node == ANN_HNSW_NO_NODE))
		return;
	interval = AnnHnswInterval(search->query, stored, score);
	result.lo = interval.lo;
	result.hi = interval.hi;
	result.score = score;
	result.row = row;
	result.node = header->node;
	result.ntids = header->ntids;
	memcpy(result.tids, header->tids, sizeof(result.tids));
	addResult(search, &result);
}

/* With a filter: the edges of a row that is visited.  A stale hint does no harm: visits look again. */
static void
offerFiltered(AnnHnswSearch *search, const char *slots, const AnnRowId *rows, const float *estimates, int n)
{
	const AnnHnswLayout *layout = &search->space->layout;
	const AnnTidSet *members = layout->hint_size > 0 ? search->filter->members : NULL;

	for (int i = 0; i < n; i++)
	{
		const AnnHnswSlot *slot = (const AnnHnswSlot *) (slots + (Size) i * layout->slot_size);

		if (markSeen(search, rows[i]))
			offerSeen(search, rows[i], estimates[i],
					  members == NULL || AnnTidSetMayHave(members, AnnHnswSlotHint(slot)));
	}
}

/*
 * Visits a row of an index with codes: scores it, estimates its neighbours.
 * External vectors are read under the row page's share lock, VECTOR pages coming
 * after it in the lock order.
 */
static void
visitCoded(AnnHnswSearch *search, AnnRowId row, AnnHnswAhead *ahead)
{
	const AnnHnswLayout *layout = &search->space->layout;
	AnnHnswRowHeader *header;
	float		estimates[256];
	AnnRowId	neighbours[256];
	AnnCodeArray array;
	const char *stored;
	char	   *slots;
	int			nedges;
	int			ntids = 0;
	Buffer		buffer;
	char	   *scratch = vectorScratch(search);
	int			slice = Max(MIN_SLICE, layout->row_size / (4 * LINE_BYTES));

	prefetchSlice(ahead, slice);
	buffer = AnnHnswLockRow(search->index, search->cache, layout, row, BUFFER_LOCK_SHARE, &header);
	if (header->state == ANN_HNSW_FREE)
	{
		UnlockReleaseBuffer(buffer);
		return;
	}
	nedges = header->nedges;
	slots = AnnHnswRowSlots(layout, header);
	for (int i = 0; i < nedges; i++)
		neighbours[i] = AnnHnswSlotRow((AnnHnswSlot *) (slots + (Size) i * layout->slot_size));
	array.codes = slots + sizeof(AnnHnswSlot) + layout->hint_size;
	array.code_stride = layout->slot_size;
	array.factors = slots + offsetof(AnnHnswSlot, add);
	array.factor_stride = layout->slot_size;
	array.form = ANN_FACTORS_HALF2;
	array.count = nedges;
	AnnEstimateBatch(search->query->code, &array, estimates, NULL);
	prefetchSlice(ahead, slice);
	if (search->filter != NULL)
		offerFiltered(search, slots, neighbours, estimates, nedges);
	else
		offerEdges(search, neighbours, estimates, &array);
	prefetchSlice(ahead, slice);
	if (search->filter != NULL && (ntids = countMembers(search, row, header)) == 0)
	{
		UnlockReleaseBuffer(buffer);
		prefetchSlice(ahead, ANN_PAGE_USABLE / LINE_BYTES);
		return;
	}
	stored = AnnHnswStoredVector(search->index, layout, header, scratch);
	if (stored != NULL)
	{
		float		score = AnnHnswScore(search->query, stored);

		if (search->filter != NULL && !isnan(score))
		{
			noteError(search, score);
			foundMember(search, score, ntids);
		}
		scoreRow(search, row, header, stored, score);
	}
	UnlockReleaseBuffer(buffer);
	prefetchSlice(ahead, ANN_PAGE_USABLE / LINE_BYTES);
}

/* Scores one row of an index without codes and offers it. */
static void
scorePlain(AnnHnswSearch *search, AnnRowId row)
{
	const AnnHnswLayout *layout = &search->space->layout;
	AnnHnswRowHeader *header;
	char	   *scratch = vectorScratch(search);
	Buffer		buffer = AnnHnswLockRow(search->index, search->cache, layout, row, BUFFER_LOCK_SHARE, &header);
	const char *stored;
	float		score;
	int			ntids = 0;

	if (header->state == ANN_HNSW_FREE ||
		(stored = AnnHnswStoredVector(search->index, layout, header, scratch)) == NULL)
	{
		UnlockReleaseBuffer(buffer);
		return;
	}
	score = AnnHnswScore(search->query, stored);
	if (search->filter == NULL || (ntids = countMembers(search, row, header)) > 0)
		scoreRow(search, row, header, stored, score);
	UnlockReleaseBuffer(buffer);

	if (isnan(score))
	{
		score = INFINITY;
		ntids = 0;
	}
	if (search->filter != NULL)
	{
		if (ntids > 0)
			foundMember(search, score, ntids);
		offerSeen(search, row, score, ntids > 0);
	}
	else if (search->frontier_is_heap)
		addFrontier(search, row, score);
	else if (beamTakes(search, score))
		addToBeam(search, row, score, NULL, NULL);
	else if (search->keep_dropped)
		addFrontier(search, row, score);
}

/* Visits a row of an index without codes: scores its neighbours. */
static void
visitPlain(AnnHnswSearch *search, AnnRowId row)
{
	const AnnHnswLayout *layout = &search->space->layout;
	AnnHnswRowHeader *header;
	AnnRowId	neighbours[256];
	int			n = 0;
	int			nfresh = 0;
	Buffer		buffer = AnnHnswLockRow(search->index, search->cache, layout, row, BUFFER_LOCK_SHARE, &header);

	if (header->state != ANN_HNSW_FREE)
	{
		n = header->nedges;
		for (int i = 0; i < n; i++)
			neighbours[i] = AnnHnswGetPlainSlot(layout, header, i)->row;
	}
	UnlockReleaseBuffer(buffer);
	for (int i = 0; i < n; i++)
		if (markSeen(search, neighbours[i]))
			neighbours[nfresh++] = neighbours[i];
	for (int i = 0; i < nfresh; i++)
	{
		if (i + 1 < nfresh)
		{
			AnnHnswAhead ahead = {0};

			prefetchStart(search, neighbours[i + 1], &ahead);
			prefetchSlice(&ahead, PLAIN_SLICE);
		}
		scorePlain(search, neighbours[i]);
	}
}

static void
visit(AnnHnswSearch *search, AnnRowId row, AnnHnswAhead *ahead)
{
	CHECK_FOR_INTERRUPTS();
	search->nvisited++;
	if (AnnHnswHasCodes(&search->space->layout))
		visitCoded(search, row, ahead);
	else
		visitPlain(search, row);
}

/* Offers the best entries of the entry table. */
static void
enterGraph(AnnHnswSearch *search)
{
	const AnnHnswLayout *layout = &search->space->layout;
	AnnHnswCache *cache = search->cache;
	AnnHnswCandidate best[START_ENTRIES];	/* with the entry's number for a row */
	int			nbest = 0;
	int			count = (int) cache->meta.nentries;
	float	   *scores;

	/* No row has number 0: that is the meta page. */
	if (search->skip != 0)
		markSeen(search, search->skip);
	if (count == 0)
		return;
	if (!AnnHnswHasCodes(layout) && !layout->vector_inline)
	{
		for (int i = 0; i < count; i++)
		{
			AnnRowId	row = ((AnnHnswEntry *) (cache->entries + i * cache->entry_size))->row;

			if (markSeen(search, row))
				scorePlain(search, row);
		}
		return;
	}

	scores = palloc(sizeof(float) * count);
	if (AnnHnswHasCodes(layout))
	{
		AnnCodeArray array;

		array.codes = cache->entries + offsetof(AnnHnswEntry, payload);
		array.code_stride = cache->entry_size;
		array.factors = cache->entries + offsetof(AnnHnswEntry, add);
		array.factor_stride = cache->entry_size;
		array.form = ANN_FACTORS_HALF2;
		array.count = count;
		AnnEstimateBatch(search->query->code, &array, scores, NULL);
	}
	else
	{
		for (int i = 0; i < count; i++)
			scores[i] = AnnHnswScore(search->query,
									 ((AnnHnswEntry *) (cache->entries + i * cache->entry_size))->payload);
	}
	for (int i = 0; i < count; i++)
	{
		int			j;

		if (nbest == START_ENTRIES && !(scores[i] < best[nbest - 1].score))
			continue;
		if (nbest < START_ENTRIES)
			nbest++;
		for (j = nbest - 1; j > 0 && scores[i] < best[j - 1].score; j--)
			best[j] = best[j - 1];
		best[j].score = scores[i];
		best[j].row = i;
	}
	pfree(scores);
	for (int i = 0; i < nbest; i++)
	{
		AnnHnswEntry *entry = (AnnHnswEntry *) (cache->entries + best[i].row * cache->entry_size);

		if (!markSeen(search, entry->row))
			continue;
		if (!AnnHnswHasCodes(layout))
			scorePlain(search, entry->row);
		else if (search->filter != NULL)
			offerSeen(search, entry->row, best[i].score, true);
		else if (beamTakes(search, best[i].score))
			addToBeam(search, entry->row, best[i].score, &entry->add, entry->payload);
	}
}

/* Makes a heap of the frontier from nunordered on. */
static void
makeHeap(AnnHnswSearch *search)
{
	AnnHnswCandidate *heap = search->frontier + search->nunordered;
	int			n = search->nfrontier - search->nunordered;

	search->frontier_is_heap = true;
	for (int i = n / 2 - 1; i >= 0; i--)
		candidateDown(heap, n, i);
}

/*
 * All of the frontier is unordered: makes a heap of its best rows, some times as many as a search is likely to
 * visit, and leaves the others.  A heap of all would take longer than to look at them.  A search that goes on gets
 * twice as many each time, so that it looks at the others only so often.
 */
static void
orderBest(AnnHnswSearch *search)
{
	AnnHnswCandidate *frontier = search->frontier;
	int			n = search->nfrontier;
	int			nwanted = search->norder;
	float		best[ORDERED_RANK];
	int			nbest = 0;
	float		bound;
	int			nbehind = 0;

	search->nunordered = 0;
	if (n >= 2 * nwanted)
	{
		for (int i = 0; i < n; i += nwanted / ORDERED_RANK)
			AnnKeepBest(best, &nbest, ORDERED_RANK, frontier[i].score);
		bound = best[0];
		/* Without branches: which are behind cannot be predicted. */
		for (int i = 0; i < n; i++)
		{
			AnnHnswCandidate one = frontier[i];

			frontier[i] = frontier[nbehind];
			frontier[nbehind] = one;
			nbehind += one.score > bound;
		}
		search->nunordered = nbehind;
		search->norder *= 2;
	}
	makeHeap(search);
}

/* Takes the best candidate that was not visited, and marks it so; false if there is none. */
static bool
popFrontier(AnnHnswSearch *search, AnnHnswCandidate *candidate)
{
	while (search->nfrontier > 0)
	{
		AnnHnswCandidate *heap = search->frontier + search->nunordered;

		*candidate = heap[0];
		heap[0] = search->frontier[--search->nfrontier];
		if (search->nfrontier > search->nunordered)
			candidateDown(heap, search->nfrontier - search->nunordered, 0);
		else if (search->nfrontier > 0)
			orderBest(search);
		if (markVisited(search, candidate->row))
			return true;
	}
	return false;
}

/*
 * Phase 1 with a filter: visits rows until the beam is full, every member was found, or
 * `enough` says so.
 */
static void
filteredBeam(AnnHnswSearch *search)
{
	for (;;)
	{
		AnnHnswCandidate taken[TAKE_AT_ONCE];
		AnnHnswAhead ahead[TAKE_AT_ONCE + 1] = {0};
		int			ntaken = 0;

		while (ntaken < TAKE_AT_ONCE && search->nfrontier > 0 && !beamIsFull(search, search->frontier[0].score) &&
			   popFrontier(search, &taken[ntaken]))
			ntaken++;
		if (ntaken == 0)
			break;
		for (int i = 0; i < ntaken; i++)
			prefetchStart(search, taken[i].row, &ahead[i]);
		prefetchSlice(&ahead[0], ANN_PAGE_USABLE / LINE_BYTES);
		for (int i = 0; i < ntaken; i++)
		{
			search->estimate = taken[i].score;
			visit(search, taken[i].row, &ahead[i + 1]);
		}
		if (AnnHnswSearchHasAll(search) || search->enough(search, search->enough_arg))
			break;
	}
}

/*
 * Asks for the rows that will be visited next unless the one that is about to be visited leads to better
 * ones.  Returns the first of them, of which *ahead says the rest; 0 if there is none.
 */
static pg_attribute_always_inline AnnRowId
prefetchBest(AnnHnswSearch *search, AnnHnswAhead *ahead)
{
	AnnRowId	best = 0;
	int			n = 0;

	for (int i = search->next; i < search->nbeam && n < TAKE_AT_ONCE; i++)
	{
		AnnHnswAhead other;

		if (search->beam[i].visited)
			continue;
		prefetchStart(search, search->beam[i].row, n == 0 ? ahead : &other);
		if (n++ == 0)
			best = search->beam[i].row;
	}
	return best;
}

/*
 * Phase 1: from the entries, visits rows until all of the best ef seen are
 * visited, TAKE_AT_ONCE at a time.
 */
void
AnnHnswSearchBeam(AnnHnswSearch *search)
{
	AnnRowId	expected = 0;	/* has been asked for already */

	/* With a filter there is one queue for the beam and what lies beyond it. */
	search->frontier_is_heap = search->filter != NULL;
	enterGraph(search);
	if (search->filter != NULL)
	{
		filteredBeam(search);
		return;
	}
	for (;;)
	{
		AnnHnswBeamEntry taken[TAKE_AT_ONCE];
		AnnHnswAhead ahead[TAKE_AT_ONCE + 1] = {0};
		int			reach[TAKE_AT_ONCE];
		int			ntaken = 0;

		for (; search->next < search->nbeam && ntaken < TAKE_AT_ONCE; search->next++)
		{
			AnnHnswBeamEntry *entry = &search->beam[search->next];

			if (entry->visited)
				continue;
			entry->visited = true;
			search->deepest = Max(search->deepest, search->next + 1);
			reach[ntaken] = search->deepest;
			taken[ntaken++] = *entry;
		}
		if (ntaken == 0)
			break;
		for (int i = 0; i < ntaken; i++)
			if (taken[i].row != expected)
				prefetchStart(search, taken[i].row, &ahead[i]);
		prefetchSlice(&ahead[0], ANN_PAGE_USABLE / LINE_BYTES);
		for (int i = 0; i < ntaken; i++)
		{
			search->reach = reach[i];
			if (search->ncodes > 0)
				search->visiting = taken[i].code;
			if (search->keep_dropped)
				markVisited(search, taken[i].row);
			/* What is the best of the rest now will most likely be visited next. */
			if (i == ntaken - 1)
				expected = prefetchBest(search, &ahead[ntaken]);
			visit(search, taken[i].row, &ahead[i + 1]);
		}
	}
}

/* Leaves each row that was not visited in the frontier once. */
static void
dropDuplicates(AnnHnswSearch *search)
{
	int			kept = 0;

	for (int i = 0; i < search->nfrontier; i++)
	{
		uint64	   *slot;

		markSeen(search, search->frontier[i].row);
		slot = seenSlot(search, search->frontier[i].row);
		if ((*slot & SEEN_FLAGS) != 0)
			continue;
		*slot |= QUEUED_BIT;
		search->frontier[kept++] = search->frontier[i];
	}
	search->nfrontier = kept;
}

/* ---- by cards ---- */

/* A card's row, factors and code. */
static Size
cardCopySize(const AnnHnswLayout *layout)
{
	return TYPEALIGN(4, offsetof(AnnHnswCard, code) + layout->code_size);
}

/*
 * Starts a search with a filter among the rows whose cards are going to be offered, but for those
 * that are to be skipped.  What has been counted stays.  Of rows that take more than so many bytes
 * (AnnHnswSearchMemory) the rest is left out: the search is of no use then.
 */
void
AnnHnswSearchBeginCards(AnnHnswSearch *search, const AnnRowId *skip, uint64 nskip, Size memory)
{
	uint64		nvisited = search->nvisited;
	uint64		nscored = search->nscored;

	AnnHnswSearchBegin(search);
	search->nvisited = nvisited;
	search->nscored = nscored;
	search->by_cards = true;
	search->max_frontier = memory / sizeof(AnnHnswCandidate) + 1;
	search->cards = palloc(CARDS_TOGETHER * cardCopySize(&search->space->layout));
	search->ncards = 0;
	for (uint64 i = 0; i < nskip; i++)
		markVisited(search, skip[i]);
}

/*
 * The rows whose cards were copied come to the frontier.  Without codes there is no estimate: all are
 * going to be visited.
 */
static void
offerCards(AnnHnswSearch *search)
{
	const AnnHnswLayout *layout = &search->space->layout;
	Size		size = cardCopySize(layout);
	int			n = search->ncards;
	float		estimates[CARDS_TOGETHER];
	AnnHnswCandidate *frontier;

	if (AnnHnswHasCodes(layout))
	{
		const AnnHnswCard *first = (const AnnHnswCard *) search->cards;
		AnnCodeArray array;

		array.codes = first->code;
		array.factors = &first->add;
		array.code_stride = array.factor_stride = size;
		array.form = ANN_FACTORS_HALF2;
		array.count = n;
		AnnEstimateBatch(search->query->code, &array, estimates, NULL);
	}
	else
		for (int i = 0; i < n; i++)
			estimates[i] = -INFINITY;
	while (search->nfrontier + n > search->frontier_capacity)
		growArray(search, (void **) &search->frontier, &search->frontier_capacity, sizeof(AnnHnswCandidate), 4096);
	frontier = search->frontier + search->nfrontier;
	for (int i = 0; i < n; i++)
	{
		frontier[i].row = ((const AnnHnswCard *) (search->cards + i * size))->row;
		frontier[i].score = estimates[i];
	}
	search->nfrontier += n;
	search->ncards = 0;
}

/*
 * Offers the cards of a piece that pass the filter (AnnHnswPieceVisit).
 */
void
AnnHnswSearchOfferPiece(void *arg, const AnnHnswPiece *piece)
{
	AnnHnswSearch *search = (AnnHnswSearch *) arg;
	const AnnHnswLayout *layout = &search->space->layout;
	const AnnIndexScan *filter = search->filter;
	Size		size = cardCopySize(layout);
	const AnnHnswCard *card = AnnHnswPieceCard(layout, piece, 0);

	if (search->nfrontier >= search->max_frontier)
		return;
	for (uint32 i = 0; i < piece->count; i++)
	{
		if (filter->filter(filter->filter_arg, AnnHnswCardAttributes(layout, card)))
		{
			memcpy(search->cards + search->ncards * size, card, size);
			if (++search->ncards == CARDS_TOGETHER)
				offerCards(search);
		}
		card = (const AnnHnswCard *) ((const char *) card + AnnHnswCardSize(layout));
	}
}

/*
 * All cards have been offered.
 */
void
AnnHnswSearchOrderCards(AnnHnswSearch *search)
{
	offerCards(search);
	search->norder = Max(ORDERED_TIMES_EF * search->ef, LEAST_ORDERED);
	orderBest(search);
}

/*
 * Whether no row that is still to be visited is likely to be nearer than the best result, after ef
 * of them were.
 */
bool
AnnHnswSearchIsSettled(const AnnHnswSearch *search)
{
	if (search->nresults == 0)
		return false;
	return search->nfrontier == 0 ||
		(search->nerrors >= Max(search->ef, MIN_ERRORS) &&
		 search->frontier[search->nunordered].score > search->results[0].score + CARD_ERRORS * deviation(search));
}

static void
visitCard(AnnHnswSearch *search, AnnRowId row)
{
	const AnnHnswLayout *layout = &search->space->layout;
	AnnHnswRowHeader *header;
	char	   *scratch = vectorScratch(search);
	Buffer		buffer = AnnHnswLockRow(search->index, search->cache, layout, row, BUFFER_LOCK_SHARE, &header);
	int			ntids = countMembers(search, row, header);
	const char *stored;

	search->nvisited++;
	if (ntids > 0 && (stored = AnnHnswStoredVector(search->index, layout, header, scratch)) != NULL)
	{
		float		score = AnnHnswScore(search->query, stored);

		if (AnnHnswHasCodes(layout) && !isnan(score))
			noteError(search, score);
		search->nmatched += ntids;
		scoreRow(search, row, header, stored, score);
	}
	UnlockReleaseBuffer(buffer);
}

/* Visits the best rows that are in the frontier; false if there are none. */
static bool
visitCards(AnnHnswSearch *search)
{
	const AnnHnswLayout *layout = &search->space->layout;
	AnnHnswCandidate taken[CARDS_AT_ONCE];
	int			ntaken = 0;

	CHECK_FOR_INTERRUPTS();
	while (ntaken < CARDS_AT_ONCE && popFrontier(search, &taken[ntaken]))
	{
		AnnHnswAhead ahead = {0};

		prefetchStart(search, taken[ntaken++].row, &ahead);
		ahead.end = Min(ahead.end, ahead.at + sizeof(AnnHnswRowHeader) + layout->vector_space + AnnHnswAttributeSpace(layout));
		prefetchSlice(&ahead, ANN_PAGE_USABLE / LINE_BYTES);
	}
	for (int i = 0; i < ntaken; i++)
	{
		search->estimate = taken[i].score;
		visitCard(search, taken[i].row);
	}
	return ntaken > 0;
}

/*
 * Phase 2: visits the best row that was seen and not visited.  False when there
 * is none.
 */
bool
AnnHnswSearchMore(AnnHnswSearch *search)
{
	AnnHnswAhead none = {NULL, NULL};
	AnnHnswCandidate candidate;

	if (search->by_cards)
		return visitCards(search);
	if (!search->frontier_is_heap)
	{
		dropDuplicates(search);
		makeHeap(search);
	}
	if (popFrontier(search, &candidate))
	{
		search->estimate = candidate.score;
		visit(search, candidate.row, &none);
		return true;
	}
	return false;
}
