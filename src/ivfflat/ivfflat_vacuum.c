/*
 * ivfflat_vacuum.c
 *	  VACUUM: frees the entries of dead heap TIDs and the pages that are left empty.
 *	  README: VACUUM.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/index.h"
#include "commands/vacuum.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "ivfflat/ivfflat.h"

typedef struct VacuumState
{
	IndexVacuumInfo *info;
	Relation	index;
	AnnIvfMetaPageData meta;
	IndexBulkDeleteResult *stats;
	IndexBulkDeleteCallback callback;
	void	   *callback_state;
	int		   *dead;			/* entries of a page */
	BlockNumber nblocks;		/* of the index at the start */
	uint64		nowned;			/* pages found in use since then */
} VacuumState;

static Buffer
readPage(const VacuumState *state, BlockNumber block, int mode)
{
	Buffer		buffer = AnnReadBlock(state->index, block, state->info->strategy);

	LockBuffer(buffer, mode);
	return buffer;
}

/*
 * Frees dead entries of a list page, pinned and held for sharing; the lock may be exchanged
 * for an exclusive one, which only VACUUM's own changes need to fear.
 */
static void
vacuumPage(VacuumState *state, Buffer buffer, const AnnIvfShape *shape)
{
	Page		page = BufferGetPage(buffer);
	AnnIvfListPage *header = AnnIvfListPageOf(page);
	AnnPageEdit edit;
	int			ndead = 0;

	for (int i = 0; i < header->count; i++)
	{
		ItemPointerData tid = *AnnIvfTidOf(page, shape, i);

		if (!ItemPointerIsValid(&tid))
			continue;
		if (state->callback(&tid, state->callback_state))
			state->dead[ndead++] = i;
		else
			state->stats->num_index_tuples++;
	}
	if (ndead == 0)
		return;

	/* Only VACUUM frees entries, so these stay as they are; inserts may fill others. */
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
	page = AnnPageEditAdd(&edit, buffer, false);
	header = AnnIvfListPageOf(page);
	for (int i = 0; i < ndead; i++)
		AnnIvfClearEntry(shape, page, state->dead[i]);
	header->live -= ndead;
	AnnPageEditCommit(&edit);
	state->stats->tuples_removed += ndead;
}

/*
 * Takes a page without live entries out of its list and puts it, with the VECTORS pages it
 * owns, among the FREE ones: one WAL record.  False if it is not empty any more.
 *
 * Lock order: previous page, the page, next page, META page.
 */
static bool
unlinkPage(VacuumState *state, const AnnIvfShape *shape, uint32 chain, BlockNumber prev, BlockNumber block)
{
	Buffer		prev_buffer;
	Buffer		buffer;
	Buffer		next_buffer = InvalidBuffer;
	Buffer		meta_buffer;
	Page		page;
	BlockNumber next;
	AnnPageEdit edit;
	AnnIvfMetaPageData *meta;

	/* A lock that is waited for must not be our own. */
	if (prev == block)
		AnnPageCorrupted(state->index, block, "its list goes round in a circle");
	prev_buffer = readPage(state, prev, BUFFER_LOCK_EXCLUSIVE);
	buffer = readPage(state, block, BUFFER_LOCK_EXCLUSIVE);
	page = BufferGetPage(buffer);
	next = AnnPageOpaque(page)->next;
	if (AnnIvfListPageOf(page)->live > 0)
	{
		UnlockReleaseBuffer(buffer);
		UnlockReleaseBuffer(prev_buffer);
		return false;
	}
	if (!AnnIvfIsListPage(BufferGetPage(prev_buffer), shape, chain) ||
		AnnPageOpaque(BufferGetPage(prev_buffer))->next != block || AnnIvfListPageOf(page)->prev != prev)
		AnnPageCorrupted(state->index, block, "its list is not linked to it");
	if (BlockNumberIsValid(next))
	{
		if (next == block || next == prev)
			AnnPageCorrupted(state->index, block, "its list goes round in a circle");
		next_buffer = readPage(state, next, BUFFER_LOCK_EXCLUSIVE);
		if (!AnnIvfIsListPage(BufferGetPage(next_buffer), shape, chain))
			AnnPageCorrupted(state->index, next, "it is not a page of the list that leads to it");
	}
	meta_buffer = readPage(state, ANN_IVF_META_BLOCK, BUFFER_LOCK_EXCLUSIVE);

	edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
	AnnPageOpaque(AnnPageEditAdd(&edit, prev_buffer, false))->next = next;
	page = AnnPageEditAdd(&edit, buffer, false);
	if (BufferIsValid(next_buffer))
		AnnIvfListPageOf(AnnPageEditAdd(&edit, next_buffer, false))->prev = prev;
	meta = AnnIvfMetaOnPage(AnnPageEditAdd(&edit, meta_buffer, false));
	AnnPageOpaque(page)->kind = ANN_IVF_FREE;
	AnnPageOpaque(page)->next = meta->free_pages;
	meta->free_pages = block;
	state->stats->pages_newly_deleted++;
	state->stats->pages_newly_deleted += AnnIvfListPageOf(page)->nblocks;
	AnnPageEditCommit(&edit);

	UnlockReleaseBuffer(meta_buffer);
	if (BufferIsValid(next_buffer))
		UnlockReleaseBuffer(next_buffer);
	UnlockReleaseBuffer(buffer);
	UnlockReleaseBuffer(prev_buffer);
	return true;
}

static void
vacuumList(VacuumState *state, uint32 list)
{
	AnnIvfShape shape = AnnIvfShapeOf(&state->meta, list);
	AnnIvfListHead head = AnnIvfReadHead(state->index, &state->meta, list);
	double		removed_before = state->stats->tuples_removed;
	BlockNumber prev = InvalidBlockNumber;
	BlockNumber block = head.first;
	BlockNumber room = InvalidBlockNumber;	/* first page with room */
	BlockNumber npages = 0;

	while (BlockNumberIsValid(block))
	{
		Buffer		buffer;
		Page		page;
		bool		empty;
		BlockNumber next;

		AnnVacuumDelayPoint();
		if (npages++ > RelationGetNumberOfBlocks(state->index))
			AnnPageCorrupted(state->index, block, "its list goes round in a circle");
		buffer = readPage(state, block, BUFFER_LOCK_SHARE);
		page = BufferGetPage(buffer);
		if (!AnnIvfIsListPage(page, &shape, head.chain))
			AnnPageCorrupted(state->index, block, "it is not a page of the list that leads to it");
		AnnIvfCheckListPage(state->index, block, page, &state->meta.layout, &shape);
		state->nowned += 1 + AnnIvfListPageOf(page)->nblocks;
		vacuumPage(state, buffer, &shape);
		empty = AnnIvfListPageOf(page)->live == 0 && BlockNumberIsValid(prev);
		if (!BlockNumberIsValid(room) && AnnIvfListPageOf(page)->live < shape.entries && !empty)
			room = block;
		next = AnnPageOpaque(page)->next;
		UnlockReleaseBuffer(buffer);

		if (empty)
		{
			/* Inserts that begin now look elsewhere; one that is on its way finds a FREE page. */
			if (head.insert == block)
				AnnIvfSetInsertPage(state->index, &state->meta, list, head.insert = prev);
			if (!unlinkPage(state, &shape, head.chain, prev, block))
				empty = false;
		}
		if (!empty)
			prev = block;
		if (empty || !BlockNumberIsValid(next))
		{
			/* Inserts may have appended since the page was looked at. */
			buffer = readPage(state, prev, BUFFER_LOCK_SHARE);
			next = AnnPageOpaque(BufferGetPage(buffer))->next;
			UnlockReleaseBuffer(buffer);
		}
		block = next;
	}
	if (state->stats->tuples_removed > removed_before && BlockNumberIsValid(room))
		AnnIvfSetInsertPage(state->index, &state->meta, list, room);
}

/* ---- pages that a crash has left to nobody ---- */

/*
 * Adds the FREE pages, and those they own, to the pages in use; false if inserts have taken some
 * meanwhile, so that there is no telling.
 */
static bool
countFreePages(VacuumState *state)
{
	BlockNumber npages = 0;

	for (BlockNumber block = state->meta.free_pages; BlockNumberIsValid(block);)
	{
		Buffer		buffer;
		Page		page;
		bool		is_free;

		AnnVacuumDelayPoint();
		if (block >= state->nblocks || npages++ > state->nblocks)
			return false;
		buffer = readPage(state, block, BUFFER_LOCK_SHARE);
		page = BufferGetPage(buffer);
		is_free = AnnPageIsOurs(page, ANN_IVFFLAT_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_IVF_FREE;
		if (is_free)
		{
			state->nowned += 1 + AnnIvfListPageOf(page)->nblocks;
			block = AnnPageOpaque(page)->next;
		}
		UnlockReleaseBuffer(buffer);
		if (!is_free)
			return false;
	}
	return true;
}

static bool
isInRange(BlockNumber block, BlockNumber first, Size size)
{
	return BlockNumberIsValid(first) && block >= first && block - first < AnnIvfBlobPages(size);
}

/* Whether a page, locked, is nobody's, as long as inserts are kept out. */
static bool
isLost(const VacuumState *state, BlockNumber block, Page page)
{
	const AnnIvfMetaPageData *meta = &state->meta;

	if (PageIsNew(page))
		return true;
	/* Left of new lists that were given up before they were noted. */
	return AnnPageIsOurs(page, ANN_IVFFLAT_PAGE_ID) &&
		(AnnPageOpaque(page)->kind == ANN_IVF_BLOB || AnnPageOpaque(page)->kind == ANN_IVF_HEADS) &&
		!isInRange(block, meta->centroids, AnnIvfCentroidsSize(meta)) &&
		!isInRange(block, meta->centroid_codes, AnnIvfCentroidCodesSize(meta)) &&
		!isInRange(block, meta->heads, mul_size(sizeof(AnnIvfListHead), AnnIvfTotalLists(meta)));
}

/*
 * Puts the pages that are nobody's among the FREE ones: {page, META} each.  The heavyweight lock
 * keeps out inserts, whose new pages look like that until they are linked.
 */
static void
collectLostPages(VacuumState *state)
{
	for (BlockNumber block = ANN_IVF_META_BLOCK + 1; block < state->nblocks; block++)
	{
		Buffer		buffer;
		Buffer		meta_buffer;
		AnnPageEdit edit;
		bool		lost;

		AnnVacuumDelayPoint();
		buffer = readPage(state, block, BUFFER_LOCK_SHARE);
		lost = isLost(state, block, BufferGetPage(buffer));
		LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
		if (lost)
		{
			LockPage(state->index, ANN_IVF_META_BLOCK, ExclusiveLock);
			LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
			if (isLost(state, block, BufferGetPage(buffer)))
			{
				meta_buffer = readPage(state, ANN_IVF_META_BLOCK, BUFFER_LOCK_EXCLUSIVE);
				edit = AnnPageEditBegin(state->index, ANN_WRITE_WAL);
				AnnIvfFreePage(&edit, AnnPageEditAdd(&edit, buffer, true), block, meta_buffer);
				AnnPageEditCommit(&edit);
				UnlockReleaseBuffer(meta_buffer);
				state->stats->pages_newly_deleted++;
			}
			LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
			UnlockPage(state->index, ANN_IVF_META_BLOCK, ExclusiveLock);
		}
		ReleaseBuffer(buffer);
	}
}

/*
 * ambulkdelete: asks the callback about every heap TID.
 */
IndexBulkDeleteResult *
ann_ivfflat_bulkdelete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats, IndexBulkDeleteCallback callback,
					   void *callback_state)
{
	VacuumState state = {0};
	bool		all_counted;

	if (stats == NULL)
		stats = palloc0(sizeof(IndexBulkDeleteResult));
	state.info = info;
	state.index = info->index;
	state.stats = stats;
	state.callback = callback;
	state.callback_state = callback_state;
	state.dead = palloc(sizeof(int) * BLCKSZ);
	state.nblocks = RelationGetNumberOfBlocks(info->index);
	AnnIvfReadMeta(info->index, &state.meta);
	stats->num_index_tuples = 0;
	stats->estimated_count = false;
	/* What inserts take of the FREE pages from here on is counted among them. */
	all_counted = state.meta.other.state == ANN_IVF_OTHER_NONE && countFreePages(&state);
	for (uint32 list = 0; list < AnnIvfTotalLists(&state.meta); list++)
		vacuumList(&state, list);
	state.nowned += 1 + AnnIvfBlobPages(mul_size(sizeof(AnnIvfListHead), AnnIvfTotalLists(&state.meta)));
	if (BlockNumberIsValid(state.meta.centroids))
		state.nowned += AnnIvfBlobPages(AnnIvfCentroidsSize(&state.meta));
	if (BlockNumberIsValid(state.meta.centroid_codes))
		state.nowned += AnnIvfBlobPages(AnnIvfCentroidCodesSize(&state.meta));
	if (all_counted && state.nowned < state.nblocks)
		collectLostPages(&state);
	pfree(state.dead);
	return stats;
}

/*
 * Rows of the table, and its blocks.  VACUUM's own number is the one of old if it has looked at next
 * to no page, even if the table has grown: pages that a cancelled VACUUM has been through are passed
 * over.  It is then kept for more blocks than it was of, so what the index counted counts, too.
 */
static double
estimateTuples(const IndexVacuumInfo *info, BlockNumber *heap_blocks)
{
	Relation	heap = table_open(IndexGetRelation(RelationGetRelid(info->index), false), AccessShareLock);
	double		tuples = info->num_heap_tuples;
	AnnIvfMetaPageData meta;

	*heap_blocks = RelationGetNumberOfBlocks(heap);
	if (heap->rd_rel->reltuples > 0 && heap->rd_rel->relpages > 0)
		tuples = Max(tuples, (double) heap->rd_rel->reltuples / heap->rd_rel->relpages * *heap_blocks);
	table_close(heap, AccessShareLock);
	AnnIvfReadMeta(info->index, &meta);
	if (meta.looked_blocks > 0)
		tuples = Max(tuples, meta.looked / meta.looked_blocks * *heap_blocks);
	return Max(tuples, 0);
}

/*
 * amvacuumcleanup: estimates what is there, if ambulkdelete has not counted it; makes new
 * lists where they are due.
 */
IndexBulkDeleteResult *
ann_ivfflat_vacuumcleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats)
{
	BlockNumber heap_blocks;
	double		tuples;

	if (info->analyze_only)
		return stats;
	tuples = estimateTuples(info, &heap_blocks);
	if (stats == NULL)
	{
		/* Nothing was dead, so nothing is read. */
		stats = palloc0(sizeof(IndexBulkDeleteResult));
		stats->num_index_tuples = tuples;
		stats->estimated_count = true;
	}
	AnnIvfRelist(info, stats->num_index_tuples, heap_blocks, stats->tuples_removed);
	stats->num_pages = RelationGetNumberOfBlocks(info->index);
	return stats;
}
