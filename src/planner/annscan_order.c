/*
 * annscan_order.c
 *	  Brings the rows of an index scan into the order of their true distances.
 *
 * An index gives each row an interval that holds its distance, in the order of
 * the lower ends.  A row is certain to be next once its interval ends before all
 * others begin: those in the queue and that of the row the index returned last,
 * behind which the coming ones begin.  Where intervals overlap, the distance is
 * computed from the heap.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "utils/float.h"
#include "utils/memutils.h"

#include "compat.h"
#include "planner/annscan_state.h"

typedef struct QueueEntry
{
	pairingheap_node node;
	AnnScanRow	row;
} QueueEntry;

/* Order of distances: NaN behind numbers, NULL behind all. */
static int
compareDistances(double a, bool a_null, double b, bool b_null)
{
	if (a_null || b_null)
		return (int) a_null - (int) b_null;
	return float8_cmp_internal(a, b);
}

static int
compareEntries(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const AnnScanRow *p = &pairingheap_const_container(QueueEntry, node, a)->row;
	const AnnScanRow *q = &pairingheap_const_container(QueueEntry, node, b)->row;
	int			cmp = compareDistances(p->lo, p->is_null, q->lo, q->is_null);

	if (cmp == 0 && !p->is_null && !q->is_null)
		cmp = float8_cmp_internal(p->hi, q->hi);
	return -cmp;				/* the heap has the greatest on top */
}

void
AnnScanOrderInit(AnnScanState *state)
{
	state->queue_memory = AllocSetContextCreate(CurrentMemoryContext, "AnnScan queue", ALLOCSET_SMALL_SIZES);
	state->queue = pairingheap_allocate(compareEntries, NULL);
	state->ahead = palloc(sizeof(AnnScanRow) * ANN_SCAN_AHEAD);
}

void
AnnScanOrderReset(AnnScanState *state)
{
	pairingheap_reset(state->queue);
	MemoryContextReset(state->queue_memory);
	state->bound = -get_float8_infinity();
	state->bound_null = false;
}

void
AnnScanOrderPut(AnnScanState *state, const AnnScanRow *row)
{
	QueueEntry *entry = MemoryContextAlloc(state->queue_memory, sizeof(QueueEntry));

	entry->row = *row;
	pairingheap_add(state->queue, &entry->node);
}

/* Rows of the index, at least one, that are going to be read in any case. */
static int
rowsNeeded(const AnnScanState *state)
{
	double		needed = 1;

	if (state->gather > 0)
		needed = (double) state->gather - (double) state->gathered;
	else if (state->ranges == NULL)
		needed = state->plan.limit - (double) state->nread;
	return (int) Max(1, Min(needed, ANN_SCAN_AHEAD));
}

/* Reads the next rows of the index. */
static void
readAhead(AnnScanState *state)
{
	IndexScanDesc scan = state->scan;
	int			needed = rowsNeeded(state);

	state->next_ahead = 0;
	for (state->nahead = 0; state->nahead < needed; state->nahead++)
	{
		AnnScanRow *row = &state->ahead[state->nahead];
		ItemPointer tid = index_getnext_tid(scan, ForwardScanDirection);

		if (tid == NULL)
		{
			state->index_ended = true;
			break;
		}
		row->tid = *tid;
		row->is_null = state->base->is_null;
		row->lo = state->base->interval.lo;
		row->hi = state->base->interval.hi;
		row->sure = !scan->xs_recheckorderby;
		row->passed = false;
	}
	state->nread += state->nahead;
	if (state->nahead > 1)
		AnnScanPrefetch(state, state->ahead, state->nahead);
}

/* The next row of the index, in the index's order; false at the end. */
bool
AnnScanReadIndex(AnnScanState *state, AnnScanRow *row)
{
	if (state->index_done)
		return false;
	if (state->next_ahead == state->nahead && !state->index_ended)
		readAhead(state);
	if (state->next_ahead == state->nahead)
	{
		state->index_done = true;
		return false;
	}
	*row = state->ahead[state->next_ahead++];
	state->bound = row->lo;
	state->bound_null = row->is_null;
	return true;
}

/* Whether a row that is not in the queue comes before everything that is, or is still to come. */
static bool
isNext(const AnnScanState *state, const AnnScanRow *row, const AnnScanRow *other)
{
	double		hi = row->is_null ? 0 : row->hi;

	if (other != NULL && compareDistances(hi, row->is_null, other->lo, other->is_null) > 0)
		return false;
	return row->sure || state->index_done ||
		compareDistances(hi, row->is_null, state->bound, state->bound_null) <= 0;
}

/*
 * The next row in order that is visible and passes the filter, which then is in
 * the scan tuple; false when the index has no more.
 */
bool
AnnScanOrderNext(AnnScanState *state, AnnScanRow *row)
{
	for (;;)
	{
		if (!pairingheap_is_empty(state->queue))
		{
			QueueEntry *first = pairingheap_container(QueueEntry, node, pairingheap_remove_first(state->queue));
			QueueEntry *second = NULL;

			if (!pairingheap_is_empty(state->queue))
				second = pairingheap_container(QueueEntry, node, pairingheap_first(state->queue));
			if (isNext(state, &first->row, second ? &second->row : NULL))
			{
				*row = first->row;
				pfree(first);
				if (row->passed ? AnnScanFetch(state, &row->tid) : AnnScanPasses(state, row))
					return true;
				continue;
			}
			if (second != NULL && first->row.lo < first->row.hi &&
				compareDistances(first->row.hi, false, second->row.lo, second->row.is_null) > 0)
			{
				if (first->row.passed ? !AnnScanFetch(state, &first->row.tid) : !AnnScanPasses(state, &first->row))
				{
					pfree(first);
					continue;
				}
				first->row.passed = true;
				AnnScanComputeDistance(state, &first->row);
				pairingheap_add(state->queue, &first->node);
				continue;
			}
			pairingheap_add(state->queue, &first->node);
		}
		if (!AnnScanReadIndex(state, row))
		{
			if (pairingheap_is_empty(state->queue))
				return false;
		}
		else if (row->sure && pairingheap_is_empty(state->queue))
		{
			if (AnnScanPasses(state, row))
				return true;
		}
		else
			AnnScanOrderPut(state, row);
		CHECK_FOR_INTERRUPTS();
	}
}
