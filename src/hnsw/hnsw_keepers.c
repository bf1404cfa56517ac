/*
 * hnsw_keepers.c
 *	  VACUUM's part in keeping every row in reach: README, Keepers.
 */
#include "postgres.h"

#include "commands/vacuum.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "hnsw/hnsw_prune.h"
#include "hnsw/hnsw_repair.h"

/* Rows to be followed that are remembered; sweeps find what is forgotten. */
#define STACK_SIZE 16384

typedef struct Keeping
{
	AnnHnswRepair *repair;
	AnnHnswRowSet reached;
	AnnHnswRowSet followed;		/* of these the keepers were followed */
	AnnHnswRowSet looked[2];	/* and these have no other edge to a row that is not reached; [0]: and has no keeper */
	AnnRowId   *stack;
	int			nstack;
} Keeping;

/* An edge that is to become a keeper. */
typedef struct Wanted
{
	int			slot;			/* of the row on its page */
	int			edge;
	AnnRowId	to;
} Wanted;

/* Advances *row to the first row in `reached` and not in `done`; false if there is none. */
static bool
nextToDo(const AnnHnswRowSet *reached, const AnnHnswRowSet *done, AnnRowId *row)
{
	for (uint64 i = *row; i < reached->nrows;)
	{
		uint64		word = (reached->words[i / 64] & ~done->words[i / 64]) >> i % 64;

		if (word != 0)
		{
			*row = (AnnRowId) (i + pg_rightmost_one_pos64(word));
			return *row < reached->nrows;
		}
		i = (i / 64 + 1) * 64;
	}
	return false;
}

static bool
isNew(const Keeping *keeping, AnnRowId row)
{
	return AnnHnswRowSetHas(&keeping->repair->live, row) && !AnnHnswRowSetHas(&keeping->reached, row);
}

static void
push(Keeping *keeping, AnnRowId row)
{
	AnnHnswRowSetAdd(&keeping->reached, row);
	if (keeping->nstack < STACK_SIZE)
		keeping->stack[keeping->nstack++] = row;
}

static Buffer
lockPage(const Keeping *keeping, BlockNumber block, int lockmode)
{
	Buffer		buffer = AnnReadBlock(keeping->repair->index, block, keeping->repair->strategy);

	LockBuffer(buffer, lockmode);
	AnnPageGet(keeping->repair->index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ROW);
	return buffer;
}

/* Follows keepers from the rows on the stack as far as they lead. */
static void
follow(Keeping *keeping)
{
	const AnnHnswLayout *layout = &keeping->repair->space->layout;

	while (keeping->nstack > 0)
	{
		AnnRowId	row = keeping->stack[--keeping->nstack];
		AnnHnswRowHeader *header;
		Buffer		buffer;

		AnnHnswRowSetAdd(&keeping->followed, row);
		AnnVacuumDelayPoint();
		buffer = lockPage(keeping, AnnHnswRowBlock(layout, row), BUFFER_LOCK_SHARE);
		header = AnnHnswRowOnPage(layout, BufferGetPage(buffer), AnnHnswRowSlot(layout, row));
		for (int i = 0; i < Min(header->nedges, layout->slots); i++)
			if (AnnHnswIsKeeper(layout, header, i) && isNew(keeping, AnnHnswEdge(layout, header, i)))
				push(keeping, AnnHnswEdge(layout, header, i));
		UnlockReleaseBuffer(buffer);
	}
}

/* Makes edges of a page keepers.  One that an insert has replaced meanwhile reaches nothing. */
static void
markEdges(Keeping *keeping, BlockNumber block, const Wanted *wanted, int n)
{
	AnnHnswRepair *repair = keeping->repair;
	const AnnHnswLayout *layout = &repair->space->layout;
	AnnPagePatch patches[ANN_PATCH_MAX];
	uint32		bits[ANN_PATCH_MAX];
	Buffer		buffer = lockPage(keeping, block, BUFFER_LOCK_EXCLUSIVE);

	for (int i = 0; i < n;)
	{
		int			count = 0;

		for (; i < n && count < ANN_PATCH_MAX; i++)
		{
			AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, BufferGetPage(buffer), wanted[i].slot);

			if (wanted[i].edge < row->nedges && AnnHnswEdge(layout, row, wanted[i].edge) == wanted[i].to)
			{
				bits[count] = AnnHnswLengthBits(layout, row, wanted[i].edge) | ANN_HNSW_KEEPER;
				patches[count] = AnnHnswPatchLength(layout, row, wanted[i].edge, &bits[count]);
				count++;
				push(keeping, wanted[i].to);
			}
			else
				AnnHnswRowSetRemove(&keeping->reached, wanted[i].to);
		}
		if (count > 0)
			AnnPageApply(repair->index, repair->mode, buffer, patches, count);
	}
	UnlockReleaseBuffer(buffer);
}

/*
 * Finds, from rows that are reached, edges to rows that are not (unless `any`: only those that have no keeper),
 * and makes them keepers.  True if there were any.
 */
static bool
look(Keeping *keeping, bool any)
{
	AnnHnswRowSet *looked = &keeping->looked[any];
	const AnnHnswLayout *layout = &keeping->repair->space->layout;
	Wanted	   *wanted = palloc(sizeof(Wanted) * layout->rows_per_page * layout->slots);
	bool		found = false;

	for (AnnRowId row = 0; nextToDo(&keeping->reached, looked, &row); row++)
	{
		BlockNumber block = AnnHnswRowBlock(layout, row);
		Buffer		buffer;
		int			n = 0;

		AnnVacuumDelayPoint();
		buffer = lockPage(keeping, block, BUFFER_LOCK_SHARE);
		for (int i = 0; i < layout->rows_per_page; i++)
		{
			AnnRowId	id = block * layout->rows_per_page + i;
			AnnHnswRowHeader *header = AnnHnswRowOnPage(layout, BufferGetPage(buffer), i);

			if (!AnnHnswRowSetHas(&keeping->reached, id) || AnnHnswRowSetHas(looked, id))
				continue;
			AnnHnswRowSetAdd(looked, id);
			for (int j = 0; j < Min(header->nedges, layout->slots); j++)
			{
				AnnRowId	to = AnnHnswEdge(layout, header, j);

				if (!isNew(keeping, to) || (!any && AnnHnswRowSetHas(&keeping->repair->kept, to)))
					continue;
				AnnHnswRowSetAdd(&keeping->reached, to);
				wanted[n++] = (Wanted) {i, j, to};
			}
		}
		UnlockReleaseBuffer(buffer);
		if (n > 0)
		{
			markEdges(keeping, block, wanted, n);
			follow(keeping);
			found = true;
		}
	}
	pfree(wanted);
	return found;
}

/*
 * Everything that edges lead to from the rows that are reached.  A row that has a keeper, but from one that is not
 * reached, follows in general when that one has got its own: so no row gets more keepers than it needs.
 */
static void
spread(Keeping *keeping)
{
	do
	{
		for (AnnRowId row = 0; nextToDo(&keeping->reached, &keeping->followed, &row); row++)
		{
			push(keeping, row);
			follow(keeping);
		}
	} while (look(keeping, false) ||
			 (nextToDo(&keeping->repair->live, &keeping->reached, &(AnnRowId) {0}) && look(keeping, true)));
}

/*
 * Sees to it that every live row has a keeper in reach of the first entry.  Old keepers stay
 * what they are; of other edges some become keepers; and rows that no edge reaches get one.
 * repair->live is filled; repair->linked is used up.
 */
void
AnnHnswKeepRows(AnnHnswRepair *repair, MemoryContext scratch)
{
	AnnHnswCache *cache = AnnHnswCacheGet(repair->index);
	Keeping		keeping = {.repair = repair, .followed = repair->linked};
	AnnRowId   *entries;
	uint32		nentries;
	MemoryContext old;

	AnnHnswRowSetInit(&keeping.reached, repair->live.nrows);
	for (int i = 0; i < 2; i++)
		AnnHnswRowSetInit(&keeping.looked[i], repair->live.nrows);
	AnnHnswRowSetClear(&keeping.followed);
	keeping.stack = palloc(sizeof(AnnRowId) * STACK_SIZE);
	AnnHnswCacheRefresh(repair->index, cache);
	nentries = cache->meta.nentries;
	entries = palloc(sizeof(AnnRowId) * Max(nentries, 1));
	for (uint32 i = 0; i < nentries; i++)
		entries[i] = ((AnnHnswEntry *) (cache->entries + i * cache->entry_size))->row;

	/* Parts of the graph that nothing joins are joined at their entries; then rows that no entry reaches. */
	old = MemoryContextSwitchTo(scratch);
	for (uint32 i = 0; i < nentries; i++)
	{
		if (!isNew(&keeping, entries[i]))
			continue;
		if (i > 0)
			AnnHnswRelinkRow(repair->index, repair->mode, AnnHnswCacheGet(repair->index), repair->space, entries[i],
							 &keeping.reached, &repair->twice);
		push(&keeping, entries[i]);
		follow(&keeping);
		spread(&keeping);
		MemoryContextReset(scratch);
	}
	for (AnnRowId row = 0; AnnHnswRowSetNext(&repair->live, &row); row++)
	{
		if (AnnHnswRowSetHas(&keeping.reached, row))
			continue;
		AnnVacuumDelayPoint();
		AnnHnswRelinkRow(repair->index, repair->mode, AnnHnswCacheGet(repair->index), repair->space, row,
						 &keeping.reached, &repair->twice);
		push(&keeping, row);
		follow(&keeping);
		MemoryContextReset(scratch);
	}
	MemoryContextSwitchTo(old);
	AnnHnswRowSetFree(&keeping.reached);
	for (int i = 0; i < 2; i++)
		AnnHnswRowSetFree(&keeping.looked[i]);
	pfree(keeping.stack);
	pfree(entries);
}
