/*
 * ivfflat_pending.c
 *	  What a scan has at hand: entries by the bounds of their codes, rows by their
 *	  distances, and a sort for what exceeds work_mem.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_operator_d.h"
#include "catalog/pg_type_d.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/tuplesort.h"

#include "ivfflat/ivfflat_scan.h"

/* Entries of the rest that become pending at first, how many are sampled for that, and how many do later. */
#define FIRST_NEAR 128
#define NEAR_SAMPLE 256
#define MOST_NEAR 65536

/* Arrays of more bytes than this are not kept for the backend's next scan. */
#define POOL_KEEP_BYTES ((Size) 32 * 1024 * 1024)

typedef struct ArraysOwner
{
	MemoryContextCallback callback;
	AnnIvfArrays *arrays;
} ArraysOwner;

/* ---- arrays ---- */

static AnnIvfArrays *pool = NULL;

static void
releaseCallback(void *arg)
{
	ArraysOwner *owner = (ArraysOwner *) arg;

	if (owner->arrays != NULL)
		owner->arrays->owner = NULL;
}

static AnnIvfArrays *
createArrays(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "ann ivfflat scan arrays", ALLOCSET_DEFAULT_SIZES);
	AnnIvfArrays *arrays = MemoryContextAllocZero(context, sizeof(AnnIvfArrays));

	arrays->context = context;
	AnnIvfForgetEntries(arrays);
	return arrays;
}

/*
 * The backend's arrays (a fresh allocation of this size costs page faults), or
 * new ones while another scan has those.  Ends with CurrentMemoryContext.
 */
AnnIvfArrays *
AnnIvfAcquireArrays(void)
{
	ArraysOwner *owner;

	if (pool == NULL)
		pool = createArrays(TopMemoryContext);
	if (pool->owner != NULL)
		return createArrays(CurrentMemoryContext);
	owner = palloc(sizeof(ArraysOwner));
	owner->arrays = pool;
	owner->callback.func = releaseCallback;
	owner->callback.arg = owner;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &owner->callback);
	pool->owner = owner;
	pool->nresults = pool->nlate = pool->nseen = 0;
	AnnIvfForgetEntries(pool);
	return pool;
}

/* What the rows at hand take, of the arrays that may be larger from an earlier scan. */
static Size
arraysUsed(const AnnIvfArrays *arrays)
{
	return sizeof(AnnIvfPending) * (Size) arrays->npending + sizeof(float) * (Size) arrays->nrest +
		sizeof(AnnIvfFound) * ((Size) arrays->nresults + (Size) arrays->nlate);
}

static Size
arraysMemory(const AnnIvfArrays *arrays)
{
	return sizeof(AnnIvfPending) * (Size) arrays->pending_capacity + sizeof(float) * (Size) arrays->rest_capacity +
		sizeof(AnnIvfRun) * (Size) arrays->runs_capacity +
		sizeof(AnnIvfFound) * ((Size) arrays->results_capacity + (Size) arrays->late_capacity);
}

void
AnnIvfReleaseArrays(AnnIvfArrays *arrays)
{
	if (arrays->owner == NULL)
	{
		MemoryContextDelete(arrays->context);
		return;
	}
	arrays->owner->arrays = NULL;
	arrays->owner = NULL;
	if (arraysMemory(arrays) > POOL_KEEP_BYTES)
	{
		MemoryContextDelete(arrays->context);
		pool = NULL;
	}
}

/* Makes room for `more` elements; *array may be NULL at first. */
void
AnnIvfGrowArray(AnnIvfArrays *arrays, void **array, int used, int more, int *capacity, Size element)
{
	int			wanted = Max(*capacity, 256);

	while (wanted - used < more)
	{
		if (wanted > INT_MAX / 2)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("ivfflat scan has seen too many rows")));
		wanted *= 2;
	}
	if (wanted == *capacity)
		return;
	if (*array == NULL)
		*array = MemoryContextAllocHuge(arrays->context, mul_size(element, wanted));
	else
		*array = repalloc_huge(*array, mul_size(element, wanted));
	*capacity = wanted;
}

static void
siftPending(AnnIvfPending *heap, int n, int i)
{
	AnnIvfPending item = heap[i];

	for (;;)
	{
		int			child = 2 * i + 1;

		if (child >= n)
			break;
		if (child + 1 < n && heap[child + 1].lower < heap[child].lower)
			child++;
		if (heap[child].lower >= item.lower)
			break;
		heap[i] = heap[child];
		i = child;
	}
	heap[i] = item;
}

/* Forgets all entries whose vectors have not been read. */
void
AnnIvfForgetEntries(AnnIvfArrays *arrays)
{
	arrays->npending = arrays->nrest = arrays->nleft = arrays->nruns = 0;
	arrays->rest_least = INFINITY;
	AnnIvfMixPending(arrays);
}

/* Other entries have come: there is no order among the pending ones, and those that come next are few. */
void
AnnIvfMixPending(AnnIvfArrays *arrays)
{
	arrays->ordered = false;
	arrays->near_wanted = FIRST_NEAR;
}

/*
 * Takes up the entries of a page, whose bounds have been written behind the rest of the others:
 * infinity for what is not to be here.
 */
void
AnnIvfAddRest(AnnIvfArrays *arrays, BlockNumber block, uint32 chain, int count)
{
	const float *lowers = arrays->rest + arrays->nrest;
	float		least = arrays->rest_least;
	int			n = 0;
	AnnIvfRun  *run;

	for (int i = 0; i < count; i++)
	{
		n += lowers[i] < INFINITY;
		least = lowers[i] < least ? lowers[i] : least;
	}
	if (n == 0)
		return;
	AnnIvfGrowArray(arrays, (void **) &arrays->runs, arrays->nruns, 1, &arrays->runs_capacity, sizeof(AnnIvfRun));
	run = &arrays->runs[arrays->nruns++];
	run->block = block;
	run->chain = chain;
	run->first = arrays->nrest;
	arrays->nrest += count;
	arrays->nleft += n;
	arrays->rest_least = least;
}

/* The bound that about near_wanted of the rest do not exceed: of a sample, the one of that rank. */
static float
nearBound(const AnnIvfArrays *arrays)
{
	float		smallest[NEAR_SAMPLE];
	int			rank;
	int			nsmallest = 0;

	if (arrays->nleft <= 2 * arrays->near_wanted)
		return INFINITY;
	rank = 1 + (int) ((int64) NEAR_SAMPLE * arrays->near_wanted / arrays->nrest);
	for (int i = 0; i < NEAR_SAMPLE; i++)
	{
		float		lower = arrays->rest[(int64) i * arrays->nrest / NEAR_SAMPLE];
		int			at = Min(nsmallest, rank - 1);

		if (nsmallest == rank && lower >= smallest[rank - 1])
			continue;
		for (; at > 0 && smallest[at - 1] > lower; at--)
			smallest[at] = smallest[at - 1];
		smallest[at] = lower;
		nsmallest = Min(nsmallest + 1, rank);
	}
	return smallest[rank - 1];
}

/* One of the rest, as a pending entry. */
static AnnIvfPending
ofRest(const AnnIvfArrays *arrays, const AnnIvfRun *run, int i)
{
	AnnIvfPending pending;

	pending.lower = arrays->rest[i];
	pending.block = run->block;
	pending.heap_block = run->chain;
	pending.heap_offset = InvalidOffsetNumber;
	pending.slot = (uint16) (i - run->first);
	return pending;
}

/* Where the bounds of a page end. */
static int
endOfRun(const AnnIvfArrays *arrays, int run)
{
	return run + 1 < arrays->nruns ? arrays->runs[run + 1].first : arrays->nrest;
}

/*
 * Makes those of the rest pending whose bounds are the smallest, about near_wanted: most entries are
 * never looked at again, so no order is made among these.
 */
static void
takeNear(AnnIvfArrays *arrays)
{
	float		bound = Max(nearBound(arrays), arrays->rest_least);

	for (int r = 0; r < arrays->nruns; r++)
	{
		int			end = endOfRun(arrays, r);

		for (int i = arrays->runs[r].first; i < end; i++)
		{
			if (arrays->rest[i] > bound || arrays->rest[i] == INFINITY)
				continue;
			AnnIvfGrowArray(arrays, (void **) &arrays->pending, arrays->npending, 1, &arrays->pending_capacity,
							sizeof(AnnIvfPending));
			arrays->pending[arrays->npending++] = ofRest(arrays, &arrays->runs[r], i);
			arrays->rest[i] = INFINITY;
			arrays->nleft--;
		}
	}
	arrays->rest_least = bound;
	if (arrays->nleft == 0)
	{
		arrays->nrest = arrays->nruns = 0;
		arrays->rest_least = INFINITY;
	}
	arrays->ordered = false;
	arrays->near_wanted = Min(2 * arrays->near_wanted, MOST_NEAR);
}

/* The pending entry of the smallest bound, none of the rest having a smaller one; NULL if there is none at all. */
static const AnnIvfPending *
nearestPending(AnnIvfArrays *arrays)
{
	for (;;)
	{
		if (!arrays->ordered)
		{
			for (int i = arrays->npending / 2 - 1; i >= 0; i--)
				siftPending(arrays->pending, arrays->npending, i);
			arrays->ordered = true;
		}
		if (arrays->nleft == 0 || (arrays->npending > 0 && arrays->pending[0].lower <= arrays->rest_least))
			break;
		takeNear(arrays);
	}
	return arrays->npending > 0 ? &arrays->pending[0] : NULL;
}

/* Takes away what nearestPending gives; there is one. */
AnnIvfPending
AnnIvfPopPending(AnnIvfArrays *arrays)
{
	AnnIvfPending top = *nearestPending(arrays);

	arrays->pending[0] = arrays->pending[--arrays->npending];
	if (arrays->npending > 0)
		siftPending(arrays->pending, arrays->npending, 0);
	return top;
}

void
AnnIvfPushFound(AnnIvfArrays *arrays, const AnnIvfFound *result)
{
	int			i = arrays->nresults;
	AnnIvfFound *heap;

	AnnIvfGrowArray(arrays, (void **) &arrays->results, arrays->nresults, 1, &arrays->results_capacity, sizeof(AnnIvfFound));
	heap = arrays->results;
	arrays->nresults++;
	while (i > 0 && heap[(i - 1) / 2].interval.lo > result->interval.lo)
	{
		heap[i] = heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	heap[i] = *result;
}

AnnIvfFound
AnnIvfPopFound(AnnIvfArrays *arrays)
{
	AnnIvfFound *heap = arrays->results;
	AnnIvfFound	top = heap[0];
	AnnIvfFound	item = heap[--arrays->nresults];
	int			n = arrays->nresults;
	int			i = 0;

	while (n > 0)
	{
		int			child = 2 * i + 1;

		if (child >= n)
			break;
		if (child + 1 < n && heap[child + 1].interval.lo < heap[child].interval.lo)
			child++;
		if (heap[child].interval.lo >= item.interval.lo)
			break;
		heap[i] = heap[child];
		i = child;
	}
	if (n > 0)
		heap[i] = item;
	return top;
}

/* ---- more pending entries than work_mem holds ---- */

bool
AnnIvfScanIsFull(const AnnIvfScan *state)
{
	return arraysUsed(state->arrays) > (Size) work_mem * 1024;
}

static void
putSpilled(Tuplesortstate *sort, TupleTableSlot *slot, const AnnIvfPending *pending)
{
	CHECK_FOR_INTERRUPTS();
	ExecClearTuple(slot);
	slot->tts_values[0] = Float8GetDatum(pending->lower);
	slot->tts_values[1] = Int64GetDatum((int64) pending->heap_block << 16 | pending->heap_offset);
	slot->tts_values[2] = Int64GetDatum((int64) pending->block << 16 | pending->slot);
	memset(slot->tts_isnull, false, sizeof(bool) * 3);
	ExecStoreVirtualTuple(slot);
	tuplesort_puttupleslot(sort, slot);
}

/* Moves all entries to a sort by their bounds. */
void
AnnIvfSpillPending(AnnIvfScan *state)
{
	AnnIvfArrays *arrays = state->arrays;
	TupleDesc	desc;
	TupleTableSlot *slot;

	if (state->spill == NULL)
	{
		AttrNumber	column = 1;
		Oid			less = Float8LessOperator;
		Oid			collation = InvalidOid;
		bool		nulls_first = false;

		desc = CreateTemplateTupleDesc(3);
		TupleDescInitEntry(desc, 1, "lower", FLOAT8OID, -1, 0);
		TupleDescInitEntry(desc, 2, "tid", INT8OID, -1, 0);
		TupleDescInitEntry(desc, 3, "place", INT8OID, -1, 0);
		state->spill = tuplesort_begin_heap(desc, 1, &column, &less, &collation, &nulls_first, work_mem, NULL,
											TUPLESORT_NONE);
		state->spill_slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	}
	slot = MakeSingleTupleTableSlot(state->spill_slot->tts_tupleDescriptor, &TTSOpsVirtual);
	for (int i = 0; i < arrays->npending; i++)
		putSpilled(state->spill, slot, &arrays->pending[i]);
	for (int r = 0; r < arrays->nruns; r++)
	{
		int			end = endOfRun(arrays, r);

		for (int i = arrays->runs[r].first; i < end; i++)
		{
			AnnIvfPending pending = ofRest(arrays, &arrays->runs[r], i);

			if (pending.lower < INFINITY)
				putSpilled(state->spill, slot, &pending);
		}
	}
	ExecDropSingleTupleTableSlot(slot);
	AnnIvfForgetEntries(arrays);
}

/* Fetches the next of the entries that were moved away. */
void
AnnIvfNextSpilled(AnnIvfScan *state)
{
	AnnIvfPending *pending = &state->spilled;
	bool		isnull;
	int64		packed;

	state->has_spilled = tuplesort_gettupleslot(state->spill, true, false, state->spill_slot, NULL);
	if (!state->has_spilled)
		return;
	pending->lower = (float) DatumGetFloat8(slot_getattr(state->spill_slot, 1, &isnull));
	packed = DatumGetInt64(slot_getattr(state->spill_slot, 2, &isnull));
	pending->heap_block = (BlockNumber) (packed >> 16);
	pending->heap_offset = (uint16) (packed & 0xFFFF);
	packed = DatumGetInt64(slot_getattr(state->spill_slot, 3, &isnull));
	pending->block = (BlockNumber) (packed >> 16);
	pending->slot = (uint16) (packed & 0xFFFF);
}

void
AnnIvfEndSpill(AnnIvfScan *state)
{
	if (state->spill == NULL)
		return;
	tuplesort_end(state->spill);
	ExecDropSingleTupleTableSlot(state->spill_slot);
	state->spill = NULL;
	state->spill_slot = NULL;
	state->has_spilled = false;
}

/* The pending entry of the smallest bound, which stays; NULL if there is none. */
const AnnIvfPending *
AnnIvfPeekPending(AnnIvfScan *state)
{
	if (state->spill != NULL)
		return state->has_spilled ? &state->spilled : NULL;
	return nearestPending(state->arrays);
}

/* Takes away what AnnIvfPeekPending gives. */
AnnIvfPending
AnnIvfTakePending(AnnIvfScan *state)
{
	AnnIvfPending result;

	if (state->spill == NULL)
		return AnnIvfPopPending(state->arrays);
	result = state->spilled;
	AnnIvfNextSpilled(state);
	return result;
}
