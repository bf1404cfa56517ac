/*
 * hnsw_check.c
 *	  ann_index_check and ann_index_info for hnsw.
 *
 * The caller's lock keeps writers and VACUUM away from a check (on a standby
 * replay goes on, which can look like a defect), so every finding is certain. No
 * byte of a page is trusted: what is used as a place or a length is compared with
 * its bounds first.
 */
#include "postgres.h"

#include <math.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "hnsw/hnsw_options.h"
#include "hnsw/hnsw_repair.h"

/* A defect is reported when more than this share of the rows cannot be reached. */
#define UNREACHABLE_TOLERANCE 0.01

/* Offsets of a VECTOR page. */
#define MAX_ITEMS 512

typedef struct CheckState
{
	AnnCheck   *check;
	Relation	index;
	AnnHnswMetaPageData meta;
	AnnHnswSpace space;
	AnnAttributes *attributes;
	BlockNumber nblocks;
	uint8	   *kind;			/* of each block: AnnHnswPageKind, 0 if it is none or empty */
	uint8	   *owned;			/* blocks that a chain or list has */
	AnnHnswRowSet live;
	AnnHnswRowSet present;		/* live or being deleted */
	AnnHnswRowSet reached;
	AnnHnswRowSet expanded;
	AnnHnswRowSet nodes;		/* TID nodes that a row has, by node id */
	uint64	  **items;			/* vector items that a row has, by block; NULL for none */
	uint32	   *areas;			/* of each row: a hash of its attribute area; NULL without chains */
	uint32	   *chains;			/* and which chain it belongs to */
	uint64		nlive;
	char	   *vector;
	float	   *dense;
} CheckState;

#define DEFECT(state, ...) (state)->check->defect((state)->check, __VA_ARGS__)

static void
initState(CheckState *state, Relation index)
{
	const AnnHnswLayout *layout;
	uint64		nrows;

	state->index = index;
	AnnHnswReadMeta(index, &state->meta);
	state->attributes = AnnAttributesCreate(index);
	layout = &state->meta.layout;
	AnnHnswSpaceInit(&state->space, &state->meta, NULL);
	state->nblocks = RelationGetNumberOfBlocks(index);
	nrows = (uint64) state->nblocks * layout->rows_per_page;
	state->kind = MemoryContextAllocExtended(CurrentMemoryContext, (Size) state->nblocks,
											 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	state->owned = MemoryContextAllocExtended(CurrentMemoryContext, (Size) state->nblocks,
											  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	AnnHnswRowSetInit(&state->live, nrows);
	AnnHnswRowSetInit(&state->present, nrows);
	AnnHnswRowSetInit(&state->reached, nrows);
	AnnHnswRowSetInit(&state->expanded, nrows);
	AnnHnswRowSetInit(&state->nodes, (uint64) state->nblocks * ANN_HNSW_NODES_PER_PAGE);
	if (AnnHnswVectorIsExternal(layout))
		state->items = MemoryContextAllocExtended(CurrentMemoryContext, mul_size(sizeof(uint64 *), state->nblocks),
												  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	if (state->meta.nchains > 0)
	{
		state->areas = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(sizeof(uint32), nrows));
		state->chains = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(sizeof(uint32), nrows));
	}
	state->vector = palloc(layout->vector_size);
	if (layout->element == ANN_ELEMENT_FLOAT4 || layout->element == ANN_ELEMENT_HALF)
		state->dense = palloc(sizeof(float) * layout->dim);
}

/* Copies a page, so that no lock is held while it is looked at. */
static Page
copyPage(CheckState *state, BlockNumber block, PGAlignedBlock *copy)
{
	Buffer		buffer = ReadBufferExtended(state->index, MAIN_FORKNUM, block, RBM_NORMAL, NULL);

	CHECK_FOR_INTERRUPTS();
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	memcpy(copy->data, BufferGetPage(buffer), BLCKSZ);
	UnlockReleaseBuffer(buffer);
	return (Page) copy->data;
}

static bool
hasKind(const CheckState *state, BlockNumber block, AnnHnswPageKind kind)
{
	return block < state->nblocks && state->kind[block] == kind;
}

/* A block becomes part of a chain; false, with the defect reported, if it cannot be. */
static bool
own(CheckState *state, BlockNumber block, AnnHnswPageKind kind, const char *what)
{
	if (!hasKind(state, block, kind))
	{
		DEFECT(state, block < state->nblocks ? block : InvalidBlockNumber, -1,
			   "the %s names block %u, which is no page of that kind", what, block);
		return false;
	}
	if (state->owned[block])
	{
		DEFECT(state, block, -1, "the %s comes to a page that is in use already", what);
		return false;
	}
	state->owned[block] = 1;
	return true;
}

/* ---- pages by themselves ---- */

/* What pd_lower must say on a page of this kind; 0 if anything may do. */
static Size
expectedRawSize(const CheckState *state, AnnHnswPageKind kind)
{
	switch (kind)
	{
		case ANN_HNSW_NODE:
			return sizeof(AnnHnswNodePage) + ANN_HNSW_NODES_PER_PAGE * sizeof(AnnHnswNode);
		case ANN_HNSW_CHAIN:
			return ANN_HNSW_CHAINS_PER_PAGE * sizeof(AnnHnswChain);
		case ANN_HNSW_PIECE:
			return AnnHnswPiecesPerPage(&state->meta.layout) * AnnHnswPieceSize(&state->meta.layout);
		case ANN_HNSW_META:
			return sizeof(AnnHnswMetaPageData);
		case ANN_HNSW_ENTRY:
		case ANN_HNSW_TIDLIST:
			return ANN_PAGE_USABLE;
		default:
			return 0;
	}
}

static void
checkTid(CheckState *state, BlockNumber block, int item, const ItemPointerData *tid, AnnCheckPlace place, uint32 hash)
{
	AnnCheckValue value = {place, place == ANN_CHECK_ROW ? hash : 0};

	if (!ItemPointerIsValid(tid))
		DEFECT(state, block, item, "a heap TID is not valid");
	else if (state->check->tid != NULL)
		state->check->tid(state->check, tid, value);
}

/* Edges of one row, as far as its own page tells. */
static void
checkEdges(CheckState *state, BlockNumber block, int slot, AnnHnswRowHeader *row)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	AnnRowId	self = block * layout->rows_per_page + slot;

	for (int i = 0; i < row->nedges; i++)
	{
		AnnRowId	neighbour = AnnHnswEdge(layout, row, i);

		if (neighbour == self)
			DEFECT(state, block, slot, "edge %d leads to its own row", i);
		for (int j = 0; j < i; j++)
		{
			if (AnnHnswEdge(layout, row, j) == neighbour)
			{
				DEFECT(state, block, slot, "edges %d and %d lead to the same row", j, i);
				break;
			}
		}
		if (!(AnnHnswEdgeLength(layout, row, i) >= 0))
			DEFECT(state, block, slot, "the length of edge %d is not a distance", i);
	}
}

static void
checkVector(CheckState *state, BlockNumber block, int slot, AnnHnswRowHeader *row)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	const char *stored = AnnHnswRowVector(row);

	if (AnnHnswVectorIsExternal(layout))
	{
		ItemPointerData item;
		BlockNumber at;

		memcpy(&item, stored, sizeof(item));
		at = ItemPointerGetBlockNumberNoCheck(&item);
		if (!ItemPointerIsValid(&item) || at >= state->nblocks ||
			ItemPointerGetOffsetNumberNoCheck(&item) >= MAX_ITEMS)
		{
			DEFECT(state, block, slot, "the place of its vector is not valid");
			return;
		}
		if (state->items[at] == NULL)
			state->items[at] = palloc0(MAX_ITEMS / 8);
		if (state->items[at][ItemPointerGetOffsetNumber(&item) / 64] >> ItemPointerGetOffsetNumber(&item) % 64 & 1)
			DEFECT(state, block, slot, "its vector belongs to another row too");
		state->items[at][ItemPointerGetOffsetNumber(&item) / 64] |=
			UINT64CONST(1) << ItemPointerGetOffsetNumber(&item) % 64;
		stored = AnnHnswStoredVector(state->index, layout, row, state->vector);
		if (stored == NULL)
		{
			DEFECT(state, block, slot, "its vector is missing");
			return;
		}
	}
	if (state->dense != NULL)
	{
		AnnHnswDecode(&state->space, stored, state->dense);
		for (uint32 i = 0; i < layout->dim; i++)
		{
			if (!isfinite(state->dense[i]))
			{
				DEFECT(state, block, slot, "its vector is not finite");
				return;
			}
		}
	}
}

static void
checkRowPage(CheckState *state, BlockNumber block, Page page)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	int			used = (((PageHeader) page)->pd_lower - (int) ANN_PAGE_HEADER) / layout->row_size;

	for (int i = 0; i < layout->rows_per_page; i++)
	{
		AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, page, i);
		AnnRowId	id = block * layout->rows_per_page + i;
		const char *defect;

		if (row->state == ANN_HNSW_FREE)
			continue;
		if (i >= used)
			DEFECT(state, block, i, "it lies behind the rows that its page is said to have");
		if (row->state != ANN_HNSW_LIVE && row->state != ANN_HNSW_DELETING)
		{
			DEFECT(state, block, i, "state %u is none", row->state);
			continue;
		}
		if (row->nedges > layout->slots || row->ntids > ANN_HNSW_INLINE_TIDS)
		{
			DEFECT(state, block, i, "it has %u edges and %u heap TIDs, more than it can hold", row->nedges, row->ntids);
			continue;
		}
		defect = AnnAttributesDefect(state->attributes, AnnHnswRowAttributes(layout, row));
		if (defect != NULL)
			DEFECT(state, block, i, "%s", defect);
		if (state->areas != NULL)
		{
			state->areas[id] = hash_bytes((unsigned char *) AnnHnswRowAttributes(layout, row), layout->attribute_size);
			state->chains[id] = AnnHnswChainOf(&state->meta, state->attributes, AnnHnswRowAttributes(layout, row));
		}
		if (row->state == ANN_HNSW_DELETING)
		{
			AnnHnswRowSetAdd(&state->present, id);
			if (row->ntids > 0 || row->node != ANN_HNSW_NO_NODE)
				DEFECT(state, block, i, "it is being deleted, but has heap TIDs");
			continue;
		}
		AnnHnswRowSetAdd(&state->live, id);
		AnnHnswRowSetAdd(&state->present, id);
		state->nlive++;
		if (row->ntids == 0 && row->node == ANN_HNSW_NO_NODE)
			DEFECT(state, block, i, "it has no heap TID");
		for (int j = 0; j < row->ntids; j++)
			checkTid(state, block, i, &row->tids[j], ANN_CHECK_ROW, row->hash);
		checkEdges(state, block, i, row);
		checkVector(state, block, i, row);
	}
}

static void
checkNodePage(CheckState *state, BlockNumber block, Page page)
{
	AnnHnswNodePage *head = (AnnHnswNodePage *) AnnPageRaw(page);
	int			nfree = 0;

	for (int i = 0; i < ANN_HNSW_NODES_PER_PAGE; i++)
	{
		AnnHnswNode *node = AnnHnswNodeOnPage(page, i);

		if (node->owner == ANN_HNSW_NO_ROW)
			nfree++;
		else if (node->ntids > ANN_HNSW_NODE_TIDS)
			DEFECT(state, block, i, "a TID node has %u TIDs, more than it can hold", node->ntids);
	}
	if (nfree != head->nfree)
		DEFECT(state, block, -1, "a page of TID nodes counts %u free ones, but has %d", head->nfree, nfree);
	if ((head->nfree > 0) != (head->listed != 0))
		DEFECT(state, block, -1, "a page of TID nodes with %u free ones is %s", head->nfree,
			   head->listed ? "listed" : "not listed");
}

static void
checkVectorPage(CheckState *state, BlockNumber block, Page page)
{
	OffsetNumber max = PageGetMaxOffsetNumber(page);

	for (OffsetNumber offset = FirstOffsetNumber; offset <= max; offset++)
	{
		ItemId		id = PageGetItemId(page, offset);

		if (!ItemIdIsUsed(id))
			continue;
		if (ItemIdGetOffset(id) < ((PageHeader) page)->pd_upper ||
			ItemIdGetOffset(id) + ItemIdGetLength(id) > ((PageHeader) page)->pd_special ||
			ItemIdGetLength(id) <= offsetof(AnnHnswVectorItem, data))
			DEFECT(state, block, offset, "a vector item has a bad place or size");
	}
}

/* First pass: every page by itself. */
static void
checkPages(CheckState *state)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	PGAlignedBlock copy;

	for (BlockNumber block = 0; block < state->nblocks; block++)
	{
		Page		page = copyPage(state, block, &copy);
		AnnHnswPageKind kind;
		Size		size;

		/* An extension that was never used: VACUUM takes it. */
		if (PageIsNew(page))
			continue;
		if (!AnnPageIsOurs(page, ANN_HNSW_PAGE_ID))
		{
			DEFECT(state, block, -1, "it is not a page of an hnsw index");
			continue;
		}
		kind = (AnnHnswPageKind) AnnPageOpaque(page)->kind;
		if (kind < ANN_HNSW_META || kind > ANN_HNSW_PIECE || (kind == ANN_HNSW_META) != (block == ANN_HNSW_META_BLOCK))
		{
			DEFECT(state, block, -1, "a page of kind %d does not belong here", (int) kind);
			continue;
		}
		size = expectedRawSize(state, kind);
		if ((size > 0 && ((PageHeader) page)->pd_lower != ANN_PAGE_HEADER + size) ||
			(kind == ANN_HNSW_ROW && ((PageHeader) page)->pd_lower % layout->row_size != ANN_PAGE_HEADER % layout->row_size) ||
			((PageHeader) page)->pd_lower < ANN_PAGE_HEADER * (kind != ANN_HNSW_VECTOR) ||
			((PageHeader) page)->pd_lower > ((PageHeader) page)->pd_upper ||
			((PageHeader) page)->pd_upper > ((PageHeader) page)->pd_special)
		{
			DEFECT(state, block, -1, "the bounds in the header of a page of kind %d are wrong", (int) kind);
			continue;
		}
		state->kind[block] = kind;
		if (kind == ANN_HNSW_ROW)
			checkRowPage(state, block, page);
		else if (kind == ANN_HNSW_NODE)
			checkNodePage(state, block, page);
		else if (kind == ANN_HNSW_VECTOR)
			checkVectorPage(state, block, page);
	}
}

/* ---- chains and lists ---- */

static void
checkTidChain(CheckState *state, BlockNumber block, bool zero)
{
	const char *what = zero ? "list of zero vectors" : "list of NULLs";
	PGAlignedBlock copy;

	while (BlockNumberIsValid(block) && own(state, block, ANN_HNSW_TIDLIST, what))
	{
		Page		page = copyPage(state, block, &copy);
		AnnHnswTidList *list = (AnnHnswTidList *) AnnPageRaw(page);

		if (list->ntids > ANN_HNSW_TIDLIST_CAPACITY)
		{
			DEFECT(state, block, -1, "it has %u TIDs, more than it can hold", list->ntids);
			return;
		}
		if (list->zero != zero)
			DEFECT(state, block, -1, "a page is in the %s, but belongs to the other one", what);
		for (uint32 i = 0; i < list->ntids; i++)
			checkTid(state, block, (int) i, &list->tids[i], zero ? ANN_CHECK_ZERO : ANN_CHECK_NULL, 0);
		block = AnnPageOpaque(page)->next;
	}
}

/* The pages of a TID list that have room: `head` names the first. */
static void
checkRoomList(CheckState *state, BlockNumber head)
{
	PGAlignedBlock copy;
	AnnHnswTidList *list = (AnnHnswTidList *) AnnPageRaw((Page) copy.data);
	BlockNumber block = head;
	BlockNumber next;
	uint64		length = 0;

	if (!hasKind(state, head, ANN_HNSW_TIDLIST))
		return;
	copyPage(state, head, &copy);
	for (next = list->room; next != 0 && next != block; next = list->room)
	{
		block = next;
		if (!hasKind(state, block, ANN_HNSW_TIDLIST) || block == head || ++length > state->nblocks)
		{
			DEFECT(state, head, -1, "the list of its pages with room is broken at block %u", block);
			return;
		}
		copyPage(state, block, &copy);
		if (list->ntids >= ANN_HNSW_TIDLIST_CAPACITY)
			DEFECT(state, block, -1, "a full page of TIDs is listed as having room");
	}
}

static void
checkRowList(CheckState *state)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	BlockNumber block = state->meta.free_row_pages;
	PGAlignedBlock copy;

	if (BlockNumberIsValid(state->meta.row_page) && !hasKind(state, state->meta.row_page, ANN_HNSW_ROW))
		DEFECT(state, ANN_HNSW_META_BLOCK, -1, "the page that inserts fill, block %u, is no page of rows",
			   state->meta.row_page);
	while (BlockNumberIsValid(block) && own(state, block, ANN_HNSW_ROW, "list of pages with free rows"))
	{
		Page		page = copyPage(state, block, &copy);
		BlockNumber next = AnnPageOpaque(page)->next;
		bool		has_free = false;

		for (int i = 0; i < layout->rows_per_page && !has_free; i++)
			has_free = AnnHnswRowOnPage(layout, page, i)->state == ANN_HNSW_FREE;
		if (!has_free)
			DEFECT(state, block, -1, "it is listed as having free rows, but has none");
		if (block == state->meta.row_page)
			DEFECT(state, block, -1, "the page that inserts fill is listed as having free rows");
		if (!BlockNumberIsValid(next))
			DEFECT(state, block, -1, "the list of pages with free rows has no end");
		block = next == block ? InvalidBlockNumber : next;
	}
	for (block = 0; block < state->nblocks; block++)
	{
		if (state->kind[block] == ANN_HNSW_ROW && !state->owned[block] &&
			BlockNumberIsValid(AnnPageOpaque(copyPage(state, block, &copy))->next))
			DEFECT(state, block, -1, "it seems to be in the list of pages with free rows, but is not");
	}
}

static void
checkNodeList(CheckState *state)
{
	BlockNumber block = state->meta.node_pages;
	PGAlignedBlock copy;

	while (BlockNumberIsValid(block) && own(state, block, ANN_HNSW_NODE, "list of pages with free TID nodes"))
	{
		Page		page = copyPage(state, block, &copy);

		if (((AnnHnswNodePage *) AnnPageRaw(page))->nfree == 0)
			DEFECT(state, block, -1, "it is listed as having free TID nodes, but has none");
		block = AnnPageOpaque(page)->next;
	}
	for (block = 0; block < state->nblocks; block++)
	{
		if (state->kind[block] == ANN_HNSW_NODE && !state->owned[block] &&
			((AnnHnswNodePage *) AnnPageRaw(copyPage(state, block, &copy)))->listed)
			DEFECT(state, block, -1, "it says that it is in the list of pages with free TID nodes, but is not");
	}
}

/* Entry table: places, and rows that live; they start the search for what can be reached. */
static void
checkEntries(CheckState *state)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	const AnnHnswMetaPageData *meta = &state->meta;
	int			per_page = AnnHnswEntriesPerPage(layout);
	Size		size = AnnHnswEntrySize(layout);
	PGAlignedBlock copy;

	if (meta->nentries == 0 && state->nlive > 0)
		DEFECT(state, ANN_HNSW_META_BLOCK, -1, "no row is an entry");
	for (uint32 i = 0; i < ANN_HNSW_MAX_ENTRY_PAGES; i++)
	{
		BlockNumber block = meta->entry_pages[i];
		Page		page;

		if (!BlockNumberIsValid(block))
		{
			if (i * per_page < meta->nentries)
				DEFECT(state, ANN_HNSW_META_BLOCK, -1, "the entry table of %u entries ends after %u pages",
					   meta->nentries, i);
			return;
		}
		if (!own(state, block, ANN_HNSW_ENTRY, "entry table"))
			return;
		page = copyPage(state, block, &copy);
		for (int j = 0; j < per_page && i * per_page + j < meta->nentries; j++)
		{
			AnnRowId	row = ((AnnHnswEntry *) (AnnPageRaw(page) + j * size))->row;

			if (AnnHnswRowSetHas(&state->present, row))
				AnnHnswRowSetAdd(&state->reached, row);
			else
				DEFECT(state, block, j, "an entry names row %u, which does not live", row);
		}
	}
}

static void
checkCenter(CheckState *state)
{
	BlockNumber block = state->meta.center;
	Size		left = sizeof(float) * state->meta.layout.dim;
	PGAlignedBlock copy;

	while (BlockNumberIsValid(block) && own(state, block, ANN_HNSW_CENTER, "chain of the centre"))
	{
		Page		page = copyPage(state, block, &copy);
		Size		n = Min(left, ANN_PAGE_USABLE);

		for (Size i = 0; i < n / sizeof(float); i++)
		{
			if (!isfinite(((float *) AnnPageRaw(page))[i]))
			{
				DEFECT(state, block, (int) i, "the centre is not finite");
				break;
			}
		}
		left -= n;
		block = AnnPageOpaque(page)->next;
	}
	if (BlockNumberIsValid(state->meta.center) && left > 0)
		DEFECT(state, state->meta.center, -1, "the chain of the centre is too short");
}

/* ---- rows among each other ---- */

static void
checkChain(CheckState *state, BlockNumber block, int slot, AnnHnswRowHeader *row)
{
	AnnRowId	self = block * state->meta.layout.rows_per_page + slot;
	uint32		id = row->node;
	PGAlignedBlock copy;

	while (id != ANN_HNSW_NO_NODE)
	{
		AnnHnswNode *node;
		BlockNumber at = id / ANN_HNSW_NODES_PER_PAGE;

		if (!hasKind(state, at, ANN_HNSW_NODE))
		{
			DEFECT(state, block, slot, "its chain of TIDs names node %u, which is none", id);
			return;
		}
		node = AnnHnswNodeOnPage(copyPage(state, at, &copy), id);
		if (node->owner != self)
		{
			DEFECT(state, block, slot, "its chain of TIDs comes to node %u, which belongs to another row", id);
			return;
		}
		if (AnnHnswRowSetHas(&state->nodes, id))
		{
			DEFECT(state, block, slot, "its chain of TIDs has a cycle at node %u", id);
			return;
		}
		AnnHnswRowSetAdd(&state->nodes, id);
		for (int i = 0; i < Min(node->ntids, ANN_HNSW_NODE_TIDS); i++)
			checkTid(state, at, (int) (id % ANN_HNSW_NODES_PER_PAGE), &node->tids[i], ANN_CHECK_ROW, row->hash);
		id = node->next;
	}
}

/* Second pass over the rows: where edges and chains lead. */
static void
checkLinks(CheckState *state)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	PGAlignedBlock copy;

	for (BlockNumber block = 0; block < state->nblocks; block++)
	{
		Page		page;

		if (state->kind[block] == ANN_HNSW_ROW)
		{
			page = copyPage(state, block, &copy);
			for (int i = 0; i < layout->rows_per_page; i++)
			{
				AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, page, i);

				if (!AnnHnswRowSetHas(&state->live, block * layout->rows_per_page + i))
					continue;
				for (int j = 0; j < Min(row->nedges, layout->slots); j++)
				{
					AnnRowId	neighbour = AnnHnswEdge(layout, row, j);

					if (!AnnHnswRowSetHas(&state->present, neighbour))
						DEFECT(state, block, i, "edge %d leads to row %u, which does not live", j, neighbour);
				}
				checkChain(state, block, i, row);
			}
		}
	}
	for (BlockNumber block = 0; block < state->nblocks; block++)
	{
		if (state->kind[block] == ANN_HNSW_NODE)
		{
			Page		page = copyPage(state, block, &copy);

			for (int i = 0; i < ANN_HNSW_NODES_PER_PAGE; i++)
			{
				AnnRowId	owner = AnnHnswNodeOnPage(page, i)->owner;

				if (owner != ANN_HNSW_NO_ROW &&
					!AnnHnswRowSetHas(&state->nodes, block * ANN_HNSW_NODES_PER_PAGE + i))
					DEFECT(state, block, i, "a TID node says that it belongs to row %u, whose chain does not have it",
						   owner);
			}
		}
		else if (state->kind[block] == ANN_HNSW_TIDLIST && !state->owned[block])
			DEFECT(state, block, -1, "a page of TIDs is in no list");
	}
}

/* The cards of a piece of this chain; those of live rows are counted and noted. */
static uint32
checkCards(CheckState *state, BlockNumber block, int slot, const AnnHnswPiece *piece, uint32 chain, AnnHnswRowSet *seen)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	uint32		rows = 0;

	for (uint32 i = 0; i < piece->count; i++)
	{
		const AnnHnswCard *card = AnnHnswPieceCard(layout, piece, (int) i);

		if (!AnnHnswRowSetHas(&state->present, card->row))
			DEFECT(state, block, slot, "it has a card of row %u, which does not live", card->row);
		else if (state->chains[card->row] != chain)
			DEFECT(state, block, slot, "it has a card of row %u, which belongs to another chain", card->row);
		else if (AnnHnswRowSetHas(seen, card->row))
			DEFECT(state, block, slot, "it has a second card of row %u", card->row);
		else if (state->areas[card->row] != hash_bytes((unsigned char *) AnnHnswCardAttributes(layout, card), layout->attribute_size))
			DEFECT(state, block, slot, "its card of row %u has other included values than the row", card->row);
		else
		{
			AnnHnswRowSetAdd(seen, card->row);
			rows += AnnHnswRowSetHas(&state->live, card->row);
		}
	}
	return rows;
}

/* The piece of this number, of which *copy gets the page; NULL, with the defect reported, if it cannot be or was seen. */
static const AnnHnswPiece *
checkPiece(CheckState *state, uint32 id, AnnHnswRowSet *pieces, PGAlignedBlock *copy, const char *what, uint32 of)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	BlockNumber block = AnnHnswPieceBlock(layout, id);
	const AnnHnswPiece *piece;

	if (!hasKind(state, block, ANN_HNSW_PIECE))
	{
		DEFECT(state, ANN_HNSW_META_BLOCK, -1, "%s %u comes to piece %u, which is none", what, of, id);
		return NULL;
	}
	if (AnnHnswRowSetHas(pieces, id))
	{
		DEFECT(state, block, (int) (id % AnnHnswPiecesPerPage(layout)), "%s %u comes to a piece that is in use already", what, of);
		return NULL;
	}
	AnnHnswRowSetAdd(pieces, id);
	piece = AnnHnswPieceOnPage(layout, copyPage(state, block, copy), id);
	if (piece->count > (uint32) AnnHnswPieceCards(layout))
	{
		DEFECT(state, block, (int) (id % AnnHnswPiecesPerPage(layout)), "the piece has %u cards, more than it can hold", piece->count);
		return NULL;
	}
	return piece;
}

/*
 * Every live row has a card in the chain of its first included column, and no other; one that is being
 * deleted may have none.  Every piece is in a chain, or is a free one.
 */
static void
checkChains(CheckState *state)
{
	const AnnHnswMetaPageData *meta = &state->meta;
	const AnnHnswLayout *layout = &meta->layout;
	int			per_page = AnnHnswPiecesPerPage(layout);
	AnnHnswRowSet seen;
	AnnHnswRowSet pieces;
	PGAlignedBlock copy;
	PGAlignedBlock piece_copy;
	const AnnHnswPiece *piece;

	if (meta->nchains == 0)
		return;
	AnnHnswRowSetInit(&seen, state->present.nrows);
	AnnHnswRowSetInit(&pieces, (uint64) state->nblocks * per_page);
	for (uint32 i = 0; i < meta->nchains; i++)
	{
		BlockNumber block = meta->chain_page + i / ANN_HNSW_CHAINS_PER_PAGE;
		int			item = (int) (i % ANN_HNSW_CHAINS_PER_PAGE);
		const AnnHnswChain *chain = (AnnHnswChain *) AnnPageRaw((Page) copy.data) + item;
		uint32		rows = 0;

		if (item == 0)
		{
			if (!own(state, block, ANN_HNSW_CHAIN, "array of chains"))
				break;
			copyPage(state, block, &copy);
		}
		for (uint32 id = chain->first; id != ANN_HNSW_NO_PIECE; id = piece->next)
		{
			piece = checkPiece(state, id, &pieces, &piece_copy, "chain", i);
			if (piece == NULL)
				break;
			if (piece->chain != i)
			{
				DEFECT(state, AnnHnswPieceBlock(layout, id), (int) (id % per_page),
					   "chain %u comes to a piece that belongs to another one", i);
				break;
			}
			rows += checkCards(state, AnnHnswPieceBlock(layout, id), (int) (id % per_page), piece, i, &seen);
		}
		if (rows > chain->rows)
			DEFECT(state, block, item, "the chain has %u rows, but counts %u", rows, chain->rows);
	}
	for (AnnRowId row = 0; AnnHnswRowSetNext(&state->live, &row); row++)
		if (!AnnHnswRowSetHas(&seen, row))
			DEFECT(state, AnnHnswRowBlock(layout, row), AnnHnswRowSlot(layout, row), "it has no card in its chain");
	for (uint32 id = meta->free_pieces; id != ANN_HNSW_NO_PIECE; id = piece->next)
	{
		piece = checkPiece(state, id, &pieces, &piece_copy, "the list of free pieces from", meta->free_pieces);
		if (piece == NULL)
			break;
		if (piece->chain != ANN_HNSW_NO_PIECE)
			DEFECT(state, AnnHnswPieceBlock(layout, id), (int) (id % per_page), "it is listed as a free piece, but is none");
	}
	for (BlockNumber block = meta->piece_pages; BlockNumberIsValid(block) && own(state, block, ANN_HNSW_PIECE, "list of PIECE pages");
		 block = AnnPageOpaque((Page) copy.data)->next)
		copyPage(state, block, &copy);
	for (BlockNumber block = 0; block < state->nblocks; block++)
	{
		if (state->kind[block] != ANN_HNSW_PIECE)
			continue;
		if (!state->owned[block])
			DEFECT(state, block, -1, "it is not in the list of PIECE pages");
		for (int i = 0; i < per_page; i++)
			if (!AnnHnswRowSetHas(&pieces, block * per_page + i))
				DEFECT(state, block, i, "a piece is in no chain and not free");
	}
	AnnHnswRowSetFree(&pieces);
	AnnHnswRowSetFree(&seen);
}

/* Live rows that no walk along edges from the entries comes to. */
static uint64
countUnreachable(CheckState *state)
{
	uint64		reached = 0;

	AnnHnswSpread(state->index, NULL, &state->meta.layout, &state->present, &state->reached, &state->expanded);
	for (AnnRowId row = 0; AnnHnswRowSetNext(&state->reached, &row); row++)
		reached += AnnHnswRowSetHas(&state->live, row);
	return state->nlive - reached;
}

/*
 * Reports every defect of an hnsw index to check->defect, and its heap TIDs to
 * check->tid.  A meta page that cannot be read raises the error itself.
 */
void
AnnHnswCheckIndex(AnnCheck *check)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ann hnsw check", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CheckState	state = {0};
	uint64		unreachable;

	state.check = check;
	initState(&state, check->index);
	checkPages(&state);
	checkCenter(&state);
	checkEntries(&state);
	checkTidChain(&state, state.meta.null_tids, false);
	checkTidChain(&state, state.meta.zero_tids, true);
	checkRoomList(&state, state.meta.null_tids);
	checkRoomList(&state, state.meta.zero_tids);
	checkRowList(&state);
	checkNodeList(&state);
	checkLinks(&state);
	checkChains(&state);
	unreachable = countUnreachable(&state);
	if (unreachable > UNREACHABLE_TOLERANCE * state.nlive)
		DEFECT(&state, InvalidBlockNumber, -1, UINT64_FORMAT " of " UINT64_FORMAT " rows cannot be reached from the entries",
			   unreachable, state.nlive);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * Where the index keeps a tuple with these columns.
 */
AnnCheckValue
AnnHnswCheckValue(Relation index, const Datum *values, const bool *isnull)
{
	AnnCheckValue result = {ANN_CHECK_NULL, 0};
	AnnHnswCache *cache = AnnHnswCacheGet(index);
	MemoryContext context;
	MemoryContext old;
	AnnHnswSpace space;
	AnnHnswPoint point;

	if (isnull[0])
		return result;
	context = AllocSetContextCreate(CurrentMemoryContext, "ann hnsw check", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	AnnHnswSpaceInit(&space, &cache->meta, cache->center);
	AnnHnswFormPoint(&space, values[0], &point);
	result.place = point.unplaced ? ANN_CHECK_ZERO : ANN_CHECK_ROW;
	if (!point.unplaced)
	{
		const AnnAttributes *attributes = AnnAttributesCreate(index);

		result.hash = AnnAttributesHash(attributes, point.hash, AnnAttributesForm(attributes, values, isnull));
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

/* ---- ann_index_info ---- */

static const char *const kind_names[] = {"", "meta", "centre", "entries", "rows", "TID nodes", "TID lists", "vectors", "chains", "cards"};

/* What a look at every page counts. */
typedef struct Census
{
	uint64		pages[ANN_HNSW_PIECE + 1];
	uint64		rows[ANN_HNSW_DELETING + 1];
	uint64		edges;
	uint64		keepers;		/* of these */
	uint64		pieces;			/* that are in a chain */
	uint64		cards;
	uint64		tids;
	uint64		listed[2];		/* heap TIDs of NULLs, of zero vectors */
	AnnHnswItemCount items;
} Census;

static void
countPage(const AnnHnswLayout *layout, Page page, Census *census)
{
	AnnHnswPageKind kind = (AnnHnswPageKind) AnnPageOpaque(page)->kind;

	if (kind > ANN_HNSW_PIECE)
		return;
	census->pages[kind]++;
	if (kind == ANN_HNSW_ROW)
	{
		for (int i = 0; i < layout->rows_per_page; i++)
		{
			AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, page, i);

			if (row->state > ANN_HNSW_DELETING)
				continue;
			census->rows[row->state]++;
			if (row->state == ANN_HNSW_LIVE)
			{
				census->edges += row->nedges;
				for (int j = 0; j < Min(row->nedges, layout->slots); j++)
					census->keepers += AnnHnswIsKeeper(layout, row, j);
				census->tids += row->ntids;
			}
		}
	}
	else if (kind == ANN_HNSW_NODE)
	{
		for (int i = 0; i < ANN_HNSW_NODES_PER_PAGE; i++)
		{
			AnnHnswNode *node = AnnHnswNodeOnPage(page, i);

			if (node->owner != ANN_HNSW_NO_ROW)
				census->tids += node->ntids;
		}
	}
	else if (kind == ANN_HNSW_TIDLIST)
	{
		AnnHnswTidList *list = (AnnHnswTidList *) AnnPageRaw(page);

		census->tids += list->ntids;
		census->listed[list->zero != 0] += list->ntids;
	}
	else if (kind == ANN_HNSW_VECTOR)
		AnnHnswCountItems(page, &census->items);
	else if (kind == ANN_HNSW_PIECE)
	{
		for (int i = 0; i < AnnHnswPiecesPerPage(layout); i++)
		{
			AnnHnswPiece *piece = AnnHnswPieceOnPage(layout, page, i);

			census->pieces += piece->chain != ANN_HNSW_NO_PIECE;
			census->cards += piece->chain != ANN_HNSW_NO_PIECE ? piece->count : 0;
		}
	}
}

/* Live rows that no walk along edges from the entries comes to; inserts meanwhile may make a difference. */
static uint64
rowsOutOfReach(Relation index, const AnnHnswMetaPageData *meta, BlockNumber nblocks)
{
	const AnnHnswLayout *layout = &meta->layout;
	AnnHnswCache *cache = AnnHnswCacheGet(index);
	uint64		nrows = (uint64) nblocks * layout->rows_per_page;
	uint64		count = 0;
	AnnHnswRowSet present;
	AnnHnswRowSet live;
	AnnHnswRowSet reached;
	AnnHnswRowSet expanded;

	AnnHnswRowSetInit(&present, nrows);
	AnnHnswRowSetInit(&live, nrows);
	AnnHnswRowSetInit(&reached, nrows);
	AnnHnswRowSetInit(&expanded, nrows);
	for (BlockNumber block = ANN_HNSW_META_BLOCK + 1; block < nblocks; block++)
	{
		Buffer		buffer = ReadBufferExtended(index, MAIN_FORKNUM, block, RBM_NORMAL, NULL);
		Page		page = BufferGetPage(buffer);

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		if (AnnPageIsOurs(page, ANN_HNSW_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_HNSW_ROW)
			for (int i = 0; i < layout->rows_per_page; i++)
			{
				uint8		state = AnnHnswRowOnPage(layout, page, i)->state;

				if (state != ANN_HNSW_FREE)
					AnnHnswRowSetAdd(&present, block * layout->rows_per_page + i);
				if (state == ANN_HNSW_LIVE)
					AnnHnswRowSetAdd(&live, block * layout->rows_per_page + i);
			}
		UnlockReleaseBuffer(buffer);
	}
	AnnHnswCacheRefresh(index, cache);
	for (uint32 i = 0; i < cache->meta.nentries; i++)
	{
		AnnRowId	row = ((AnnHnswEntry *) (cache->entries + i * cache->entry_size))->row;

		if (AnnHnswRowSetHas(&present, row))
			AnnHnswRowSetAdd(&reached, row);
	}
	AnnHnswSpread(index, NULL, layout, &present, &reached, &expanded);
	for (AnnRowId row = 0; AnnHnswRowSetNext(&live, &row); row++)
		count += !AnnHnswRowSetHas(&reached, row);
	AnnHnswRowSetFree(&present);
	AnnHnswRowSetFree(&live);
	AnnHnswRowSetFree(&reached);
	AnnHnswRowSetFree(&expanded);
	return count;
}

/*
 * Describes an hnsw index; reads all of it.
 */
void
AnnHnswDescribeIndex(AnnInfo *info)
{
	Relation	index = info->index;
	AnnHnswMetaPageData meta;
	const AnnHnswLayout *layout = &meta.layout;
	BlockNumber nblocks = RelationGetNumberOfBlocks(index);
	int			option = AnnHnswOptionEfSearch((const AnnHnswOptions *) index->rd_options);
	Census		census = {0};

	AnnHnswReadMeta(index, &meta);
	if (layout->metric >= ANN_METRICS || layout->element >= ANN_ELEMENTS ||
		layout->refine >= ANN_REFINES)
		AnnPageCorrupted(index, ANN_HNSW_META_BLOCK, "it names an unknown type or metric");
	for (BlockNumber block = 0; block < nblocks; block++)
	{
		Buffer		buffer = ReadBufferExtended(index, MAIN_FORKNUM, block, RBM_NORMAL, NULL);

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		if (AnnPageIsOurs(BufferGetPage(buffer), ANN_HNSW_PAGE_ID))
			countPage(layout, BufferGetPage(buffer), &census);
		else
			census.pages[0]++;
		UnlockReleaseBuffer(buffer);
	}

	info->line(info, "access method", "hnsw");
	info->line(info, "type", "%s(%u)", ann_element_names[layout->element], layout->dim);
	info->line(info, "metric", "%s", ann_metric_names[layout->metric]);
	info->line(info, "m", "%u", meta.m);
	info->line(info, "ef_construction", "%u", meta.ef_construction);
	if (AnnHnswHasCodes(layout))
	{
		info->line(info, "quantizer", "rabitq, %d bit%s for each of %d of %u coordinates", meta.code.planes,
				   meta.code.planes == 1 ? "" : "s", meta.code.kept, layout->dim);
		info->line(info, "centre of codes", "%s",
				   BlockNumberIsValid(meta.center) ? "mean" : "zero (index has few rows)");
	}
	else
		info->line(info, "quantizer", "none");
	info->line(info, "refine_type", "%s%s", ann_refine_names[layout->refine],
			   AnnHnswVectorIsExternal(layout) ? ", on pages of its own" : "");
	if (meta.ef_search > 0)
		info->line(info, "ef_search, calibrated", "%u", meta.ef_search);
	if (option > 0)
		info->line(info, "ef_search, index option", "%d", option);
	info->line(info, "ef_search in effect", "%d", AnnHnswEffectiveEf(index, &meta));
	AnnAttributesDescribe(info, AnnAttributesCreate(index));
	info->line(info, "rows", UINT64_FORMAT, census.rows[ANN_HNSW_LIVE]);
	info->line(info, "dead rows", UINT64_FORMAT, census.rows[ANN_HNSW_DELETING]);
	info->line(info, "free rows", UINT64_FORMAT, census.rows[ANN_HNSW_FREE]);
	if (AnnHnswVectorIsExternal(layout))
	{
		uint64		rows = census.rows[ANN_HNSW_LIVE] + census.rows[ANN_HNSW_DELETING];

		/* A vector without a row, or later pieces of one. */
		info->line(info, "vector items without a row", UINT64_FORMAT,
				   census.items.vectors - Min(census.items.vectors, rows) +
				   census.items.items - Min(census.items.items, census.items.expected));
	}
	info->line(info, "heap tuples", UINT64_FORMAT, census.tids);
	info->line(info, "NULL vectors", UINT64_FORMAT, census.listed[0]);
	info->line(info, "zero vectors", UINT64_FORMAT, census.listed[1]);
	info->line(info, "entries", "%u of %u", meta.nentries, meta.entry_capacity);
	info->line(info, "rows out of reach", UINT64_FORMAT, rowsOutOfReach(index, &meta, nblocks));
	info->line(info, "edges per row", "%.1f of %u",
			   census.rows[ANN_HNSW_LIVE] == 0 ? 0.0 : (double) census.edges / census.rows[ANN_HNSW_LIVE],
			   layout->slots);
	info->line(info, "edges kept for reach", "%.1f %%",
			   census.edges == 0 ? 0.0 : 100.0 * census.keepers / census.edges);
	info->line(info, "alpha", "%.3g", meta.alpha);
	if (meta.nchains > 0)
		info->line(info, "cards in chains", UINT64_FORMAT " in " UINT64_FORMAT " pieces of %d", census.cards, census.pieces,
				   AnnHnswPieceCards(layout));
	info->line(info, "bytes of a row", "%u", layout->row_size);
	info->line(info, "rows per page", "%u", layout->rows_per_page);
	info->line(info, "bytes of index per row", "%.0f",
			   census.rows[ANN_HNSW_LIVE] == 0 ? 0.0 : (double) nblocks * BLCKSZ / census.rows[ANN_HNSW_LIVE]);
	info->line(info, "pages", "%u", nblocks);
	for (int kind = ANN_HNSW_META; kind <= ANN_HNSW_PIECE; kind++)
	{
		if (census.pages[kind] > 0)
		{
			char		name[64];

			snprintf(name, sizeof(name), "pages: %s", kind_names[kind]);
			info->line(info, name, UINT64_FORMAT, census.pages[kind]);
		}
	}
	if (census.pages[0] > 0)
		info->line(info, "pages: unused", UINT64_FORMAT, census.pages[0]);
}
