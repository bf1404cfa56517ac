/*
 * hnsw_vacuum.c
 *	  Bulk deletion: README, section VACUUM, whose steps the functions name.
 */
#include "postgres.h"

#include <math.h>

#include "commands/progress.h"
#include "commands/vacuum.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/freespace.h"
#include "storage/indexfsm.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "hnsw/hnsw_options.h"
#include "hnsw/hnsw_repair.h"

/* The meta page's count of rows is corrected when it is off by more than this share. */
#define ROWS_TOLERANCE 0.01

typedef struct VacuumState
{
	Relation	index;
	IndexVacuumInfo *info;
	IndexBulkDeleteResult *stats;
	IndexBulkDeleteCallback callback;
	void	   *callback_state;
	AnnHnswMetaPageData meta;
	AnnHnswSpace space;
	AnnHnswRowSet deleting;		/* rows to be freed */
	AnnHnswRowSet marked;		/* rows whose chain is to be inspected */
	uint64		ndeleting;
	double		live;
	uint64		nrows;			/* rows that are not free */
	AnnHnswItemCount items;

	/* Sample of the live rows, from which dead entries are replaced */
	AnnRowId   *sample;
	uint32		nsample;
	uint32		sample_capacity;
} VacuumState;

static Buffer
readPage(VacuumState *state, BlockNumber block)
{
	return ReadBufferExtended(state->index, MAIN_FORKNUM, block, RBM_NORMAL, state->info->strategy);
}

/* ---- step 1: dead TIDs ---- */

/*
 * Asks the callback about n heap TIDs; dead[i] says what it answered.  Returns
 * the number of dead ones.
 */
static int
findDead(VacuumState *state, const ItemPointerData *tids, int n, bool *dead)
{
	int			ndead = 0;

	for (int i = 0; i < n; i++)
	{
		ItemPointerData tid = tids[i];

		dead[i] = state->callback(&tid, state->callback_state);
		ndead += dead[i];
	}
	state->stats->tuples_removed += ndead;
	state->stats->num_index_tuples += n - ndead;
	return ndead;
}

/*
 * Removes the TIDs that were found dead, and returns how many are left.  What
 * was appended since they were looked at stays.
 */
static int
dropDead(ItemPointerData *tids, int n, const bool *dead, int nlooked)
{
	int			kept = 0;

	for (int i = 0; i < n; i++)
		if (i >= nlooked || !dead[i])
			tids[kept++] = tids[i];
	return kept;
}

/* Keeps a uniform sample of the live rows (Vitter's algorithm R). */
static void
sampleRow(VacuumState *state, AnnRowId row)
{
	state->live++;
	if (state->nsample < state->sample_capacity)
		state->sample[state->nsample++] = row;
	else
	{
		uint64		i = pg_prng_uint64_range(&pg_global_prng_state, 0, (uint64) state->live - 1);

		if (i < state->sample_capacity)
			state->sample[i] = row;
	}
}

/*
 * ROW page, share-locked on entry; released.  True if it has free rows and is
 * in no list.
 */
static bool
vacuumRowPage(VacuumState *state, Buffer buffer)
{
	const AnnHnswLayout *layout = &state->space.layout;
	BlockNumber block = BufferGetBlockNumber(buffer);
	Page		page = BufferGetPage(buffer);
	bool		dead[ANN_PAGE_USABLE / sizeof(AnnHnswRowHeader)][ANN_HNSW_INLINE_TIDS];
	uint8		looked[ANN_PAGE_USABLE / sizeof(AnnHnswRowHeader)];
	bool		dirty = false;
	int			nfree = 0;
	bool		listed = BlockNumberIsValid(AnnPageOpaque(page)->next);

	for (int i = 0; i < layout->rows_per_page; i++)
	{
		AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, page, i);

		looked[i] = 0;
		if (row->state > ANN_HNSW_DELETING)
			AnnPageCorrupted(state->index, block, "a row is in no known state");
		if (row->state == ANN_HNSW_FREE)
			nfree++;
		else
			state->nrows++;
		if (row->state != ANN_HNSW_LIVE)
			continue;
		if (row->ntids > ANN_HNSW_INLINE_TIDS || row->nedges > layout->slots)
			AnnPageCorrupted(state->index, block, "a row has more edges or TIDs than it can hold");
		looked[i] = row->ntids;
		if (findDead(state, row->tids, row->ntids, dead[i]) > 0 ||
			(row->ntids == 0 && row->node == ANN_HNSW_NO_NODE))
			dirty = true;
	}
	if (dirty)
	{
		AnnPageEdit edit;

		LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
		page = AnnPageEditAdd(&edit, buffer, false);
		for (int i = 0; i < layout->rows_per_page; i++)
		{
			AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, page, i);

			if (row->state != ANN_HNSW_LIVE)
				continue;
			row->ntids = (uint8) dropDead(row->tids, row->ntids, dead[i], looked[i]);
			if (row->ntids == 0 && row->node == ANN_HNSW_NO_NODE)
				row->state = ANN_HNSW_DELETING;
		}
		AnnPageEditCommit(&edit);
		page = BufferGetPage(buffer);
	}
	for (int i = 0; i < layout->rows_per_page; i++)
	{
		AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, page, i);
		AnnRowId	id = block * layout->rows_per_page + i;

		if (row->state == ANN_HNSW_LIVE)
		{
			sampleRow(state, id);
			if (row->ntids == 0)
				AnnHnswRowSetAdd(&state->marked, id);
		}
		else if (row->state == ANN_HNSW_DELETING)
		{
			AnnHnswRowSetAdd(&state->deleting, id);
			state->ndeleting++;
		}
	}
	UnlockReleaseBuffer(buffer);
	if (nfree == layout->rows_per_page)
		state->stats->pages_free++;
	return nfree > 0 && !listed;
}

/* NODE page, share-locked on entry; released. */
static void
vacuumNodePage(VacuumState *state, Buffer buffer)
{
	BlockNumber block = BufferGetBlockNumber(buffer);
	Page		page = BufferGetPage(buffer);
	bool		dead[ANN_HNSW_NODES_PER_PAGE][ANN_HNSW_NODE_TIDS];
	uint16		looked[ANN_HNSW_NODES_PER_PAGE];
	bool		dirty = false;

	if (((AnnHnswNodePage *) AnnPageRaw(page))->nfree == ANN_HNSW_NODES_PER_PAGE)
		state->stats->pages_free++;
	for (int i = 0; i < ANN_HNSW_NODES_PER_PAGE; i++)
	{
		AnnHnswNode *node = AnnHnswNodeOnPage(page, i);

		looked[i] = 0;
		if (node->owner == ANN_HNSW_NO_ROW)
			continue;
		if (node->ntids > ANN_HNSW_NODE_TIDS)
			AnnPageCorrupted(state->index, block, "a TID node has more TIDs than it can hold");
		looked[i] = node->ntids;
		if (findDead(state, node->tids, node->ntids, dead[i]) > 0)
			dirty = true;
	}
	if (dirty)
	{
		AnnPageEdit edit;

		LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
		page = AnnPageEditAdd(&edit, buffer, false);
		for (int i = 0; i < ANN_HNSW_NODES_PER_PAGE; i++)
		{
			AnnHnswNode *node = AnnHnswNodeOnPage(page, i);

			if (node->owner != ANN_HNSW_NO_ROW)
				node->ntids = (uint16) dropDead(node->tids, node->ntids, dead[i], looked[i]);
		}
		AnnPageEditCommit(&edit);
		page = BufferGetPage(buffer);
	}
	for (int i = 0; i < ANN_HNSW_NODES_PER_PAGE; i++)
	{
		AnnHnswNode *node = AnnHnswNodeOnPage(page, i);

		if (node->owner != ANN_HNSW_NO_ROW && node->ntids == 0)
			AnnHnswRowSetAdd(&state->marked, node->owner);
	}
	UnlockReleaseBuffer(buffer);
}

/* TIDLIST page, share-locked on entry; released. */
static void
vacuumTidList(VacuumState *state, Buffer buffer)
{
	BlockNumber block = BufferGetBlockNumber(buffer);
	AnnHnswTidList *list = (AnnHnswTidList *) AnnPageRaw(BufferGetPage(buffer));
	bool		dead[ANN_HNSW_TIDLIST_CAPACITY];
	uint32		looked = list->ntids;
	bool		zero = list->zero;
	bool		listed = list->room != 0;

	if (looked > ANN_HNSW_TIDLIST_CAPACITY)
		AnnPageCorrupted(state->index, block, "a TID list has more TIDs than it can hold");
	if (findDead(state, list->tids, (int) looked, dead) > 0)
	{
		AnnPageEdit edit;

		LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
		list = (AnnHnswTidList *) AnnPageRaw(AnnPageEditAdd(&edit, buffer, false));
		looked = list->ntids = (uint32) dropDead(list->tids, (int) list->ntids, dead, (int) looked);
		AnnPageEditCommit(&edit);
	}
	UnlockReleaseBuffer(buffer);
	if (!listed && looked <= ANN_HNSW_TIDLIST_CAPACITY / 2)
		AnnHnswListTidPage(state->index, zero, block);
}

/* Counts the items of a VECTOR page, and tells the free-space map what it has room for; share-locked on entry, released. */
static void
recordVectorPage(VacuumState *state, Buffer buffer)
{
	Page		page = BufferGetPage(buffer);

	if (PageGetMaxOffsetNumber(page) == 0)
		state->stats->pages_free++;
	AnnHnswRecordVectorPage(state->index, BufferGetBlockNumber(buffer), page);
	AnnHnswCountItems(page, &state->items);
	UnlockReleaseBuffer(buffer);
}

/*
 * Step 1 for all blocks below nblocks, which were all locked once by whoever
 * extended the relation: a page that is still all zeroes was given up.
 */
static void
removeTids(VacuumState *state, BlockNumber nblocks)
{
	for (BlockNumber block = ANN_HNSW_META_BLOCK + 1; block < nblocks; block++)
	{
		Buffer		buffer;
		Page		page;
		bool		unlisted = false;

		AnnVacuumDelayPoint();
		buffer = readPage(state, block);
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		page = BufferGetPage(buffer);
		if (PageIsNew(page))
		{
			UnlockReleaseBuffer(buffer);
			unlisted = true;
		}
		else if (!AnnPageIsOurs(page, ANN_HNSW_PAGE_ID))
			AnnPageCorrupted(state->index, block, "it is not a page of an hnsw index");
		else
		{
			switch (AnnPageOpaque(page)->kind)
			{
				case ANN_HNSW_ROW:
					unlisted = vacuumRowPage(state, buffer) && block != state->meta.row_page;
					break;
				case ANN_HNSW_NODE:
					vacuumNodePage(state, buffer);
					break;
				case ANN_HNSW_TIDLIST:
					vacuumTidList(state, buffer);
					break;
				case ANN_HNSW_VECTOR:
					recordVectorPage(state, buffer);
					break;
				case ANN_HNSW_CENTER:
				case ANN_HNSW_ENTRY:
				case ANN_HNSW_CHAIN:
				case ANN_HNSW_PIECE:
					UnlockReleaseBuffer(buffer);
					break;
				default:
					AnnPageCorrupted(state->index, block, "it is of no known kind");
			}
		}
		if (unlisted)
			AnnHnswListRowPage(state->index, ANN_WRITE_WAL, &state->space.layout, block);
		if (state->info->report_progress)
			pgstat_progress_update_param(PROGRESS_SCAN_BLOCKS_DONE, block + 1);
	}
}

/*
 * Step 1, its second half: rows that have lost TIDs of their chain, or all
 * inline ones.  Takes empty nodes out of the chain, and marks the row if nothing
 * is left.
 */
static void
inspectChains(VacuumState *state)
{
	const AnnHnswLayout *layout = &state->space.layout;

	for (AnnRowId row = 0; AnnHnswRowSetNext(&state->marked, &row); row++)
	{
		AnnHnswRowHeader *header;
		AnnPageEdit edit;
		Buffer		buffer;

		AnnVacuumDelayPoint();
		AnnHnswDropEmptyNodes(state->index, layout, row);
		buffer = AnnHnswLockRow(state->index, NULL, layout, row, BUFFER_LOCK_EXCLUSIVE, &header);
		if (header->state == ANN_HNSW_LIVE && header->ntids == 0 && header->node == ANN_HNSW_NO_NODE)
		{
			edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
			header = AnnHnswRowOnPage(layout, AnnPageEditAdd(&edit, buffer, false), AnnHnswRowSlot(layout, row));
			header->state = ANN_HNSW_DELETING;
			AnnPageEditCommit(&edit);
			AnnHnswRowSetAdd(&state->deleting, row);
			state->ndeleting++;
			state->live--;
		}
		UnlockReleaseBuffer(buffer);
	}
}

/* ---- step 3: entries ---- */

/* Forms an entry for a live row; false if it is not live. */
static bool
formEntry(VacuumState *state, AnnRowId row, AnnHnswEntry *entry)
{
	const AnnHnswLayout *layout = &state->space.layout;
	AnnHnswRowHeader *header;
	Buffer		buffer = AnnHnswLockRow(state->index, NULL, layout, row, BUFFER_LOCK_SHARE, &header);
	char	   *scratch = palloc(layout->vector_size);
	const char *stored = header->state != ANN_HNSW_LIVE ? NULL :
		AnnHnswStoredVector(state->index, layout, header, scratch);
	float	   *dense = NULL;

	if (stored != NULL)
	{
		if (AnnHnswHasCodes(layout))
		{
			dense = palloc(sizeof(float) * layout->dim * 2);
			AnnHnswDecode(&state->space, stored, dense);
		}
		AnnHnswFormEntry(&state->space, row, dense, stored, entry, dense == NULL ? NULL : dense + layout->dim);
	}
	UnlockReleaseBuffer(buffer);
	pfree(scratch);
	if (dense != NULL)
		pfree(dense);
	return stored != NULL;
}

/*
 * Replaces entries of deleting rows by rows of the sample, or removes them
 * when every live row is an entry.  Inserts replace entries meanwhile: then a live
 * entry makes way for another one, which is harmless.
 */
static void
replaceEntries(VacuumState *state)
{
	AnnHnswCache *cache = AnnHnswCacheGet(state->index);
	AnnHnswEntry *entry = palloc(AnnHnswEntrySize(&state->space.layout));
	AnnHnswRowSet entered;
	uint32		next = 0;
	uint32		count;
	AnnRowId   *rows;

	AnnHnswCacheRefresh(state->index, cache);
	count = cache->meta.nentries;
	rows = palloc(sizeof(AnnRowId) * Max(count, 1));
	AnnHnswRowSetInit(&entered, state->deleting.nrows);
	for (uint32 i = 0; i < count; i++)
	{
		rows[i] = ((AnnHnswEntry *) (cache->entries + i * cache->entry_size))->row;
		if (!AnnHnswRowSetHas(&state->deleting, rows[i]))
			AnnHnswRowSetAdd(&entered, rows[i]);
	}
	/* A random order makes any prefix of the sample a sample. */
	for (uint32 i = 1; i < state->nsample; i++)
	{
		uint32		j = (uint32) pg_prng_uint64_range(&pg_global_prng_state, 0, i);
		AnnRowId	swap = state->sample[i];

		state->sample[i] = state->sample[j];
		state->sample[j] = swap;
	}
	/* Downwards, since removal moves the last entry to the place of the removed one. */
	for (uint32 i = count; i-- > 0;)
	{
		bool		found = false;

		if (!AnnHnswRowSetHas(&state->deleting, rows[i]))
			continue;
		AnnVacuumDelayPoint();
		while (!found && next < state->nsample)
		{
			AnnRowId	row = state->sample[next++];

			if (!AnnHnswRowSetHas(&state->deleting, row) && !AnnHnswRowSetHas(&entered, row) &&
				formEntry(state, row, entry))
			{
				AnnHnswPutEntry(state->index, ANN_WRITE_WAL, i, entry, true);
				AnnHnswRowSetAdd(&entered, row);
				found = true;
			}
		}
		if (!found)
			AnnHnswRemoveEntry(state->index, i, rows[i]);
	}
	AnnHnswRowSetFree(&entered);
	pfree(rows);
	pfree(entry);
}

/* ---- step 5: freeing ---- */

/*
 * Frees the deleting rows of a page, and deletes their vector items.
 */
static void
freeRowsOfPage(VacuumState *state, BlockNumber block)
{
	const AnnHnswLayout *layout = &state->space.layout;
	Buffer		buffer = readPage(state, block);
	ItemPointerData items[ANN_PAGE_USABLE / sizeof(AnnHnswRowHeader)];
	int			nitems = 0;
	int			nfree = 0;
	bool		list;
	AnnPageEdit edit;
	Page		page;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	page = AnnPageGet(state->index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ROW);
	list = !BlockNumberIsValid(AnnPageOpaque(page)->next);
	edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
	page = AnnPageEditAdd(&edit, buffer, false);
	for (int i = 0; i < layout->rows_per_page; i++)
	{
		AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, page, i);

		if (row->state == ANN_HNSW_DELETING &&
			AnnHnswRowSetHas(&state->deleting, block * layout->rows_per_page + i))
		{
			row->state = ANN_HNSW_FREE;
			row->version++;
			if (AnnHnswVectorIsExternal(layout))
				memcpy(&items[nitems++], AnnHnswRowVector(row), sizeof(ItemPointerData));
		}
		if (row->state == ANN_HNSW_FREE)
			nfree++;
	}
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
	if (nfree == layout->rows_per_page)
		state->stats->pages_free++;
	if (list)
		AnnHnswListRowPage(state->index, ANN_WRITE_WAL, layout, block);
	for (int i = 0; i < nitems; i++)
		AnnHnswDeleteVector(state->index, ANN_WRITE_WAL, items[i]);
}

/*
 * Takes the edges of a page's deleting rows away.  No row is freed before all are
 * without edges, so that none is ever known by a code of the vector before.
 */
static void
dropEdgesOfPage(VacuumState *state, BlockNumber block)
{
	const AnnHnswLayout *layout = &state->space.layout;
	Buffer		buffer = readPage(state, block);
	AnnPageEdit edit;
	Page		page;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	AnnPageGet(state->index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ROW);
	edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
	page = AnnPageEditAdd(&edit, buffer, false);
	for (int i = 0; i < layout->rows_per_page; i++)
	{
		AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, page, i);

		if (row->state == ANN_HNSW_DELETING)
			row->nedges = 0;
	}
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
}

static void
freeRows(VacuumState *state)
{
	const AnnHnswLayout *layout = &state->space.layout;

	AnnHnswUnchainRows(state->index, &state->meta, &state->deleting);
	for (int pass = 0; pass < 2; pass++)
	{
		for (AnnRowId row = 0; AnnHnswRowSetNext(&state->deleting, &row);)
		{
			BlockNumber block = AnnHnswRowBlock(layout, row);

			AnnVacuumDelayPoint();
			if (pass == 0)
				dropEdgesOfPage(state, block);
			else
				freeRowsOfPage(state, block);
			row = (block + 1) * layout->rows_per_page;
		}
	}
}

/* ---- the callbacks ---- */

static BlockNumber
numberOfBlocks(Relation index)
{
	BlockNumber nblocks;
	bool		local = RELATION_IS_LOCAL(index);

	/* Under this lock every page below was locked by its extender already (removeTids). */
	if (!local)
		LockRelationForExtension(index, ExclusiveLock);
	nblocks = RelationGetNumberOfBlocks(index);
	if (!local)
		UnlockRelationForExtension(index, ExclusiveLock);
	return nblocks;
}

IndexBulkDeleteResult *
ann_hnsw_bulkdelete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats,
					IndexBulkDeleteCallback callback, void *callback_state)
{
	Relation	index = info->index;
	VacuumState state = {0};
	AnnHnswCache *cache;
	BlockNumber nblocks;
	uint64		nrows;
	MemoryContext context;
	MemoryContext old;

	if (stats == NULL)
		stats = palloc0(sizeof(IndexBulkDeleteResult));
	stats->estimated_count = false;
	stats->num_index_tuples = 0;
	stats->pages_free = 0;

	context = AllocSetContextCreate(CurrentMemoryContext, "ann hnsw vacuum", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	/* No new centre while codes are written. */
	for (;;)
	{
		LockPage(index, ANN_HNSW_CENTER_LOCK, ShareLock);
		cache = AnnHnswCacheGet(index);
		AnnHnswCacheRefresh(index, cache);
		if (!cache->meta.recoding)
			break;
		UnlockPage(index, ANN_HNSW_CENTER_LOCK, ShareLock);
		AnnHnswRecenter(index, true);
	}
	state.index = index;
	state.info = info;
	state.stats = stats;
	state.callback = callback;
	state.callback_state = callback_state;
	state.meta = cache->meta;
	if (cache->center != NULL)
	{
		Size		size = sizeof(float) * cache->meta.layout.dim;

		AnnHnswSpaceInit(&state.space, &cache->meta, memcpy(palloc(size), cache->center, size));
	}
	else
		AnnHnswSpaceInit(&state.space, &cache->meta, NULL);
	state.sample_capacity = state.meta.nentries;
	state.sample = palloc(mul_size(sizeof(AnnRowId), Max(state.sample_capacity, 1)));

	nblocks = numberOfBlocks(index);
	nrows = (uint64) nblocks * state.space.layout.rows_per_page;
	AnnHnswRowSetInit(&state.deleting, nrows);
	AnnHnswRowSetInit(&state.marked, nrows);
	if (info->report_progress)
		pgstat_progress_update_param(PROGRESS_SCAN_BLOCKS_TOTAL, nblocks);

	removeTids(&state, nblocks);
	inspectChains(&state);
	AnnHnswRowSetFree(&state.marked);
	if (state.ndeleting > 0)
	{
		AnnHnswRepair repair = {0};

		/*
		 * Step 2.  Inserts that have seen a row before it was marked hold the
		 * lock until their edges are written (README, VACUUM).
		 */
		LockPage(index, ANN_HNSW_META_BLOCK, ExclusiveLock);
		UnlockPage(index, ANN_HNSW_META_BLOCK, ExclusiveLock);
		replaceEntries(&state);
		repair.index = index;
		repair.mode = ANN_WRITE_WAL;
		repair.strategy = info->strategy;
		repair.space = &state.space;
		repair.deleting = &state.deleting;
		AnnHnswRepairGraph(&repair, numberOfBlocks(index));
		freeRows(&state);
	}
	/* Inserts that are under way make a difference too. */
	if (state.items.vectors > state.nrows || state.items.items > state.items.expected)
		AnnHnswDeleteOrphans(index, info->strategy, &state.space.layout, nblocks);
	if (fabs(state.meta.rows - state.live) > ROWS_TOLERANCE * state.live)
		AnnHnswCountRows(index, ANN_WRITE_WAL, state.live - state.meta.rows, 0);
	stats->num_pages = RelationGetNumberOfBlocks(index);

	UnlockPage(index, ANN_HNSW_CENTER_LOCK, ShareLock);
	AnnHnswRowSetFree(&state.deleting);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return stats;
}

IndexBulkDeleteResult *
ann_hnsw_vacuumcleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats)
{
	Relation	index = info->index;

	if (info->analyze_only)
		return stats;
	if (stats == NULL)
	{
		/* Nothing was deleted: every heap tuple that the index covers is in it. */
		stats = palloc0(sizeof(IndexBulkDeleteResult));
		stats->num_index_tuples = Max(info->num_heap_tuples, 0);
		stats->estimated_count = info->estimated_count || RelationGetIndexPredicate(index) != NIL;
	}
	stats->num_pages = RelationGetNumberOfBlocks(index);
	if (AnnHnswVectorIsExternal(&AnnHnswCacheGet(index)->meta.layout))
		IndexFreeSpaceMapVacuum(index);
	AnnHnswCalibrateAgain(index);
	return stats;
}
