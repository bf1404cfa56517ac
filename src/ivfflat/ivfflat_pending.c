/*
 * ivfflat_pending.c
 *	  What a scan has at hand: entries by the bounds of their codes, rows by their
 *	  distances, and a sort for what exceeds work_mem.
 */
#include "postgres.h"

#include "catalog/pg_operator_d.h"
#include "catalog/pg_type_d.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/tuplesort.h"

#include "ivfflat/ivfflat_scan.h"

/* Pending entries whose order is found at first, and how many are sampled for that; powers of two. */
#define FIRST_NEAR 128
#define NEAR_SAMPLE 256

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
	pool->npending = pool->nnear = pool->nresults = pool->nlate = pool->nseen = 0;
	return pool;
}

/* What the rows at hand take, of the arrays that may be larger from an earlier scan. */
static Size
arraysUsed(const AnnIvfArrays *arrays)
{
	return sizeof(AnnIvfPending) * (Size) arrays->npending +
		sizeof(AnnIvfFound) * ((Size) arrays->nresults + (Size) arrays->nlate);
}

static Size
arraysMemory(const AnnIvfArrays *arrays)
{
	return sizeof(AnnIvfPending) * (Size) arrays->pending_capacity +
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

/* Forgets which pending entries are the near ones: others have come. */
void
AnnIvfMixPending(AnnIvfArrays *arrays)
{
	arrays->nnear = 0;
	arrays->near_wanted = FIRST_NEAR;
}

/*
 * Makes a heap of the pending entries of the smallest bounds, about near_wanted of them: most
 * entries are never looked at again, so no order is made among these.
 */
static void
selectNear(AnnIvfArrays *arrays)
{
	AnnIvfPending *pending = arrays->pending;
	int			n = arrays->npending;
	int			nnear = n;

	if (n > 2 * arrays->near_wanted)
	{
		/* A bound below which that many are expected: of a sample, the one of that rank. */
		float		smallest[NEAR_SAMPLE];
		int			rank = 1 + (int) ((int64) NEAR_SAMPLE * arrays->near_wanted / n);
		int			nsmallest = 0;
		float		threshold;

		for (int i = 0; i < NEAR_SAMPLE; i++)
		{
			float		lower = pending[(int64) i * n / NEAR_SAMPLE].lower;
			int			at = Min(nsmallest, rank - 1);

			if (nsmallest == rank && lower >= smallest[rank - 1])
				continue;
			for (; at > 0 && smallest[at - 1] > lower; at--)
				smallest[at] = smallest[at - 1];
			smallest[at] = lower;
			nsmallest = Min(nsmallest + 1, rank);
		}
		threshold = smallest[rank - 1];
		nnear = 0;
		for (int i = 0; i < n; i++)
		{
			if (pending[i].lower <= threshold)
			{
				AnnIvfPending swap = pending[i];

				pending[i] = pending[nnear];
				pending[nnear++] = swap;
			}
		}
	}
	for (int i = nnear / 2 - 1; i >= 0; i--)
		siftPending(pending, nnear, i);
	arrays->nnear = nnear;
	arrays->near_wanted = (int) Min((int64) 2 * arrays->near_wanted, INT_MAX / 4);
}

/* The pending entry of the smallest bound, which stays; there is one. */
static const AnnIvfPending *
nearestPending(AnnIvfArrays *arrays)
{
	if (arrays->nnear == 0)
		selectNear(arrays);
	return &arrays->pending[0];
}

/* Takes away what nearestPending gives. */
AnnIvfPending
AnnIvfPopPending(AnnIvfArrays *arrays)
{
	AnnIvfPending top = *nearestPending(arrays);

	arrays->pending[0] = arrays->pending[--arrays->nnear];
	arrays->pending[arrays->nnear] = arrays->pending[--arrays->npending];
	if (arrays->nnear > 0)
		siftPending(arrays->pending, arrays->nnear, 0);
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

/* Moves all pending entries to a sort by their bounds. */
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
	{
		const AnnIvfPending *pending = &arrays->pending[i];

		CHECK_FOR_INTERRUPTS();
		ExecClearTuple(slot);
		slot->tts_values[0] = Float8GetDatum(pending->lower);
		slot->tts_values[1] = Int64GetDatum((int64) pending->heap_block << 16 | pending->heap_offset);
		slot->tts_values[2] = Int64GetDatum((int64) pending->block << 16 | pending->slot);
		memset(slot->tts_isnull, false, sizeof(bool) * 3);
		ExecStoreVirtualTuple(slot);
		tuplesort_puttupleslot(state->spill, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
	arrays->npending = 0;
	AnnIvfMixPending(arrays);
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
	return state->arrays->npending > 0 ? nearestPending(state->arrays) : NULL;
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
