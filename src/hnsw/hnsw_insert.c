/*
 * hnsw_insert.c
 *	  Insertion of one row: README, section Insert.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "hnsw/hnsw_options.h"
#include "hnsw/hnsw_prune.h"
#include "hnsw/hnsw_search.h"

/* The count of rows in the meta page advances in steps of this many. */
#define ROWS_STEP 64

/* A visited row that may become a neighbour. */
typedef struct Candidate
{
	AnnRowId	row;
	uint16		version;
	ItemPointerData hint;
	float		score;
	float		length;			/* from the new row */
	float	   *dense;			/* vector and halfvec */
	char	   *stored;			/* others */
	Size		stored_size;
	AnnHnswEdgeCode *code;		/* with codes */
} Candidate;

typedef struct InsertState
{
	Relation	index;
	AnnWriteMode mode;
	const AnnHnswSpace *space;
	const AnnHnswPoint *point;
	int			capacity;
	int			ncandidates;
	Candidate  *candidates;		/* heap, worst score first */
	AnnRowId	self;			/* the row when it is in the index already, or ANN_HNSW_NO_ROW */
	const AnnHnswMetaPageData *meta;	/* where rows are to be chained */
	uint32		chain;
	AnnRowId	equal;			/* a row that holds the same value, or ANN_HNSW_NO_ROW */
} InsertState;

static void
siftDown(Candidate *heap, int n, int i)
{
	Candidate	item = heap[i];

	for (;;)
	{
		int			child = 2 * i + 1;

		if (child >= n)
			break;
		if (child + 1 < n && heap[child + 1].score > heap[child].score)
			child++;
		if (heap[child].score <= item.score)
			break;
		heap[i] = heap[child];
		i = child;
	}
	heap[i] = item;
}

/* Keeps a copy of each visited row that is among the best so far. */
static void
collect(void *arg, AnnRowId row, const AnnHnswRowHeader *header, const char *stored, float score,
		const AnnHnswEdgeCode *code)
{
	InsertState *state = (InsertState *) arg;
	const AnnHnswSpace *space = state->space;
	Candidate  *candidate;

	if (row == state->self)
		return;
	if (header->hash == state->point->hash && AnnHnswStoredSize(space, stored) == state->point->stored_size &&
		memcmp(stored, state->point->stored, state->point->stored_size) == 0 &&
		(space->layout.attribute_size == 0 ||
		 memcmp(AnnHnswRowAttributes(&space->layout, header), state->point->attributes, space->layout.attribute_size) == 0))
		state->equal = row;

	if (state->ncandidates < state->capacity)
	{
		candidate = &state->candidates[state->ncandidates++];
		memset(candidate, 0, sizeof(*candidate));
		if (state->point->dense != NULL)
			candidate->dense = palloc(sizeof(float) * space->layout.dim);
		if (code != NULL)
			candidate->code = palloc(offsetof(AnnHnswEdgeCode, code) + space->layout.code_size);
	}
	else if (score < state->candidates[0].score)
		candidate = &state->candidates[0];
	else
		return;
	candidate->row = row;
	candidate->version = header->version;
	candidate->score = score;
	if (header->ntids > 0)
		candidate->hint = header->tids[0];
	else
		ItemPointerSetInvalid(&candidate->hint);
	if (code != NULL)
		memcpy(candidate->code, code, offsetof(AnnHnswEdgeCode, code) + space->layout.code_size);
	if (candidate->dense != NULL)
		AnnHnswDecode(space, stored, candidate->dense);
	else
	{
		Size		size = AnnHnswStoredSize(space, stored);

		if (candidate->stored == NULL)
			candidate->stored = palloc(size);
		else if (candidate->stored_size < size)
			candidate->stored = repalloc(candidate->stored, size);
		candidate->stored_size = size;
		memcpy(candidate->stored, stored, size);
	}
	if (state->ncandidates < state->capacity)
		return;
	if (candidate != &state->candidates[0])
	{
		for (int i = state->ncandidates / 2 - 1; i >= 0; i--)
			siftDown(state->candidates, state->ncandidates, i);
	}
	else
		siftDown(state->candidates, state->ncandidates, 0);
}

static int
compareLength(const void *a, const void *b)
{
	float		x = ((const Candidate *) a)->length;
	float		y = ((const Candidate *) b)->length;

	return (x > y) - (x < y);
}

/*
 * Moves the neighbours of the new row to the front of the candidates, in order
 * of preference, and returns their number: those that the relative neighbourhood
 * rule keeps, nearest first, then the nearest of the others.
 */
static int
chooseEdges(InsertState *state)
{
	const AnnHnswSpace *space = state->space;
	Candidate  *c = state->candidates;
	int			n = state->ncandidates;
	int			slots = space->layout.slots;
	Candidate  *kept = palloc(sizeof(Candidate) * Max(n, 1));
	Candidate  *others = palloc(sizeof(Candidate) * Max(n, 1));
	int			nkept = 0;
	int			nothers = 0;

	for (int i = 0; i < n; i++)
		c[i].length = AnnHnswPairLength(space, state->point->dense, state->point->stored, c[i].dense, c[i].stored);
	qsort(c, n, sizeof(Candidate), compareLength);
	for (int i = 0; i < n && nkept < slots; i++)
	{
		bool		occluded = false;

		for (int j = 0; j < nkept && !occluded; j++)
		{
			float		d = AnnHnswPairLength(space, kept[j].dense, kept[j].stored, c[i].dense, c[i].stored);

			occluded = AnnHnswOccludes(space->alpha, d * d, c[i].length);
		}
		if (occluded)
			others[nothers++] = c[i];
		else
			kept[nkept++] = c[i];
	}
	for (int i = 0; i < nothers && nkept < slots; i++)
		kept[nkept++] = others[i];
	memcpy(c, kept, sizeof(Candidate) * nkept);
	pfree(kept);
	pfree(others);
	return nkept;
}

/*
 * Writes an edge into a slot of a row, the first free one or one in use.  The
 * row's page is locked exclusively.
 */
static void
putEdge(InsertState *state, Buffer buffer, AnnHnswRowHeader *row, int slot, AnnRowId to, float length,
		const ItemPointerData *hint, const AnnHalf *halves, const uint8 *code)
{
	const AnnHnswLayout *layout = &state->space->layout;
	uint8		nedges = Max(row->nedges, slot + 1);
	AnnPagePatch patches[2];

	patches[0].target = AnnHnswRowSlots(layout, row) + (Size) slot * layout->slot_size;
	patches[0].data = palloc(layout->slot_size);
	patches[0].length = layout->slot_size;
	AnnHnswFormSlot(layout, unconstify(void *, patches[0].data), to, length, hint, halves, code);
	patches[1].target = &row->nedges;
	patches[1].data = &nedges;
	patches[1].length = sizeof(nedges);
	AnnPageApply(state->index, state->mode, buffer, patches, nedges > row->nedges ? 2 : 1);
}

/*
 * Adds the edge from -> (to, length) to a row of an index with codes.  Takes the
 * row's exclusive lock.
 */
static void
linkCoded(InsertState *state, const Candidate *from, AnnRowId to, ItemPointer hint,
		  const AnnHalf *halves, const uint8 *code)
{
	const AnnHnswSpace *space = state->space;
	const AnnHnswLayout *layout = &space->layout;
	AnnHnswRowHeader *header;
	int			slot;
	Buffer		buffer = AnnHnswLockRow(state->index, NULL, layout, from->row, BUFFER_LOCK_EXCLUSIVE, &header);

	if (header->state != ANN_HNSW_LIVE || header->version != from->version)
	{
		UnlockReleaseBuffer(buffer);
		return;
	}
	/* VACUUM may have linked the new row already (README, VACUUM step 4). */
	for (int i = 0; i < header->nedges; i++)
	{
		if (AnnHnswEdge(layout, header, i) == to)
		{
			UnlockReleaseBuffer(buffer);
			return;
		}
	}
	if (header->nedges < layout->slots)
		slot = header->nedges;
	else
		slot = AnnHnswPruneCoded(space, header, from->length, halves, code);
	if (slot >= 0)
	{
		putEdge(state, buffer, header, slot, to, from->length, hint, halves, code);
	}
	UnlockReleaseBuffer(buffer);
}

/* Reads the vectors of a row's neighbours: dense or stored, NULL where a row is gone. */
static void
readNeighbours(InsertState *state, const AnnRowId *rows, int n, Candidate *result)
{
	const AnnHnswSpace *space = state->space;
	char	   *scratch = palloc(space->layout.vector_size);

	for (int i = 0; i < n; i++)
	{
		AnnHnswRowHeader *header;
		Buffer		buffer = AnnHnswLockRow(state->index, NULL, &space->layout, rows[i], BUFFER_LOCK_SHARE, &header);
		const char *stored = header->state == ANN_HNSW_FREE ? NULL :
			AnnHnswStoredVector(state->index, &space->layout, header, scratch);

		result[i].dense = NULL;
		result[i].stored = NULL;
		if (stored != NULL && state->point->dense != NULL)
		{
			result[i].dense = palloc(sizeof(float) * space->layout.dim);
			AnnHnswDecode(space, stored, result[i].dense);
		}
		else if (stored != NULL)
		{
			Size		size = AnnHnswStoredSize(space, stored);

			result[i].stored = memcpy(palloc(size), stored, size);
		}
		UnlockReleaseBuffer(buffer);
	}
	pfree(scratch);
}

/* Neighbours of a row, and the new row as number n behind them. */
typedef struct PlainEdges
{
	InsertState *state;
	Candidate  *neighbours;
	int			n;
} PlainEdges;

static float
plainBetween2(const void *arg, int i, int j)
{
	const PlainEdges *edges = (const PlainEdges *) arg;
	const AnnHnswPoint *point = edges->state->point;
	Candidate	last = {.dense = point->dense,.stored = point->stored};
	const Candidate *a = i == edges->n ? &last : &edges->neighbours[i];
	const Candidate *b = j == edges->n ? &last : &edges->neighbours[j];
	float		d;

	/* The edge to a row that is gone is the first to go. */
	if ((a->dense == NULL && a->stored == NULL) || (b->dense == NULL && b->stored == NULL))
		return 0;
	d = AnnHnswPairLength(edges->state->space, a->dense, a->stored, b->dense, b->stored);
	return d * d;
}

/*
 * The same for an index without codes: a full row is pruned by exact lengths,
 * for which its neighbours are read while its lock is released.  Gives up if the
 * row has changed meanwhile: somebody else's edge is as good.
 */
static void
linkPlain(InsertState *state, const Candidate *from, AnnRowId to)
{
	const AnnHnswSpace *space = state->space;
	const AnnHnswLayout *layout = &space->layout;
	AnnHnswRowHeader *header;
	AnnRowId	rows[256];
	float		lengths[256];
	int			n;
	int			slot;
	Buffer		buffer = AnnHnswLockRow(state->index, NULL, layout, from->row, BUFFER_LOCK_EXCLUSIVE, &header);

	if (header->state != ANN_HNSW_LIVE || header->version != from->version)
	{
		UnlockReleaseBuffer(buffer);
		return;
	}
	n = header->nedges;
	for (int i = 0; i < n; i++)
	{
		AnnHnswPlainSlot *s = AnnHnswGetPlainSlot(layout, header, i);

		rows[i] = s->row;
		lengths[i] = s->length;
		if (s->row == to)
		{
			UnlockReleaseBuffer(buffer);
			return;
		}
	}
	slot = n;
	if (n == layout->slots)
	{
		Candidate  *neighbours = palloc(sizeof(Candidate) * n);
		PlainEdges	edges = {state, neighbours, n};

		UnlockReleaseBuffer(buffer);
		readNeighbours(state, rows, n, neighbours);
		lengths[n] = from->length;
		slot = AnnHnswPrune(space->alpha, n + 1, lengths, plainBetween2, &edges);
		if (slot == n)
			return;
		buffer = AnnHnswLockRow(state->index, NULL, layout, from->row, BUFFER_LOCK_EXCLUSIVE, &header);
		if (header->state != ANN_HNSW_LIVE || header->version != from->version || header->nedges != n)
			slot = -1;
		for (int i = 0; i < n && slot >= 0; i++)
			if (AnnHnswGetPlainSlot(layout, header, i)->row != rows[i])
				slot = -1;
	}
	if (slot >= 0)
		putEdge(state, buffer, header, slot, to, from->length, NULL, NULL, NULL);
	UnlockReleaseBuffer(buffer);
}

/* Writes the new row with its edges and returns its id. */
static AnnRowId
writeRow(InsertState *state, int nedges, ItemPointer tid)
{
	const AnnHnswSpace *space = state->space;
	const AnnHnswLayout *layout = &space->layout;
	AnnHnswRowHeader *row = palloc0(layout->row_size);
	AnnHnswRowHeader *place;
	LocationIndex lower;
	PageHeader	page;
	AnnRowId	id;
	Buffer		buffer;

	row->state = ANN_HNSW_LIVE;
	row->nedges = (uint8) nedges;
	row->ntids = 1;
	row->tids[0] = *tid;
	row->node = ANN_HNSW_NO_NODE;
	row->hash = state->point->hash;
	for (int i = 0; i < nedges; i++)
	{
		Candidate  *c = &state->candidates[i];

		AnnHnswSetSlot(space, row, i, c->row, c->length, &c->hint,
					   c->code != NULL ? c->code->factors : NULL, c->code != NULL ? c->code->code : NULL);
	}
	if (AnnHnswVectorIsExternal(layout))
	{
		ItemPointerData item = AnnHnswWriteVector(state->index, state->mode, state->point->stored,
												  state->point->stored_size);

		memcpy(AnnHnswRowVector(row), &item, sizeof(item));
	}
	else
		memcpy(AnnHnswRowVector(row), state->point->stored, state->point->stored_size);
	if (layout->attribute_size > 0)
		memcpy(AnnHnswRowAttributes(layout, row), state->point->attributes, layout->attribute_size);

	buffer = AnnHnswAllocRow(state->index, state->mode, layout, &id);
	page = (PageHeader) BufferGetPage(buffer);
	lower = Max(page->pd_lower, AnnHnswRowPageLower(layout, AnnHnswRowSlot(layout, id)));
	place = AnnHnswRowOnPage(layout, (Page) page, AnnHnswRowSlot(layout, id));
	row->version = place->version;
	if (state->meta->nchains == 0)
	{
		AnnPagePatch patches[2] = {
			{place, row, layout->row_size},
			{&page->pd_lower, &lower, sizeof(lower)}
		};

		AnnPageApply(state->index, state->mode, buffer, patches, lower > page->pd_lower ? 2 : 1);
	}
	else
	{
		AnnHnswChain *chain;
		Buffer		chainbuf = AnnHnswLockChain(state->index, state->meta, state->chain, BUFFER_LOCK_EXCLUSIVE, &chain);
		AnnPageEdit edit = AnnPageEditBegin(state->index, state->mode);

		page = (PageHeader) AnnPageEditAdd(&edit, buffer, false);
		*AnnHnswRowLink(layout, row) = chain->first;
		memcpy(AnnHnswRowOnPage(layout, (Page) page, AnnHnswRowSlot(layout, id)), row, layout->row_size);
		page->pd_lower = lower;
		chain = (AnnHnswChain *) AnnPageRaw(AnnPageEditAdd(&edit, chainbuf, false)) +
			state->chain % ANN_HNSW_CHAINS_PER_PAGE;
		chain->first = id;
		chain->rows++;
		AnnPageEditCommit(&edit);
		UnlockReleaseBuffer(chainbuf);
	}
	UnlockReleaseBuffer(buffer);
	return id;
}

/*
 * Keeps the entry table a fair sample (Vitter's algorithm R), and the meta
 * page's count of rows.
 */
static void
maybeEnter(InsertState *state, const AnnHnswCache *cache, AnnRowId row, float *scratch)
{
	const AnnHnswLayout *layout = &state->space->layout;
	const AnnHnswMetaPageData *meta = &cache->meta;
	uint32		entry = meta->nentries;
	AnnHnswEntry *data;

	if (pg_prng_uint64_range(&pg_global_prng_state, 0, ROWS_STEP - 1) == 0)
		AnnHnswCountRows(state->index, state->mode, ROWS_STEP);
	if (meta->nentries >= AnnHnswEntryCapacity(layout, 0))
	{
		uint32		capacity = AnnHnswEntryCapacity(layout, meta->rows);

		if (pg_prng_double(&pg_global_prng_state) * Max(meta->rows, meta->nentries) >= capacity)
			return;
		/* The table grows with the index, at the rate at which it is replaced. */
		if (meta->nentries >= capacity)
			entry = (uint32) pg_prng_uint64_range(&pg_global_prng_state, 0, meta->nentries - 1);
	}
	data = palloc(AnnHnswEntrySize(layout));
	AnnHnswFormEntry(state->space, row, state->point->dense, state->point->stored, data, scratch);
	AnnHnswPutEntry(state->index, state->mode, entry, data);
}

/*
 * Fills state->candidates with the best rows that a search for the point finds.
 */
static void
findCandidates(InsertState *state, AnnHnswCache *cache, AnnHnswQuery *query)
{
	AnnHnswSearch *search;

	state->capacity = AnnHnswConstructionBeam(&state->space->layout, cache->meta.ef_construction);
	state->candidates = palloc(sizeof(Candidate) * state->capacity);
	state->equal = ANN_HNSW_NO_ROW;

	search = AnnHnswSearchAcquire();
	search->index = state->index;
	search->cache = cache;
	search->space = state->space;
	search->query = query;
	search->ef = state->capacity;
	search->keep_dropped = false;
	search->keep_results = false;
	search->hook = collect;
	search->hook_arg = state;
	AnnHnswSearchBegin(search);
	AnnHnswSearchBeam(search);
	AnnHnswSearchRelease(search);
}

/*
 * Back-links to the row at the nearest of its first nedges candidates.  scratch
 * (float[dim]) is needed with codes.
 */
static void
linkBack(InsertState *state, int nedges, AnnRowId row, ItemPointer hint, float *scratch)
{
	uint8	   *code = NULL;
	AnnHalf		halves[3];

	if (AnnHnswHasCodes(&state->space->layout))
	{
		AnnCodeFactors factors;

		code = palloc(state->space->layout.code_size);
		AnnHnswEncode(state->space, state->point->dense, code, &factors, scratch);
		AnnFactorsToHalf(&state->space->code, &factors, halves);
	}
	qsort(state->candidates, nedges, sizeof(Candidate), compareLength);
	for (int i = 0; i < Min(nedges, ANN_HNSW_BACKLINKS); i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (code != NULL)
			linkCoded(state, &state->candidates[i], row, hint, halves, code);
		else
			linkPlain(state, &state->candidates[i], row);
	}
}

/*
 * Gives the row one edge from the nearest candidate that has a free slot, or an
 * edge to spare: the furthest whose target is in `twice`, which it leaves.  (What an
 * insert does would cut off other rows.)
 */
static void
linkOnce(InsertState *state, int nedges, AnnRowId row, ItemPointer hint, float *scratch, AnnHnswRowSet *twice)
{
	const AnnHnswLayout *layout = &state->space->layout;
	uint8	   *code = NULL;
	AnnHalf		halves[3];
	bool		done = false;

	if (AnnHnswHasCodes(layout))
	{
		AnnCodeFactors factors;

		code = palloc(layout->code_size);
		AnnHnswEncode(state->space, state->point->dense, code, &factors, scratch);
		AnnFactorsToHalf(&state->space->code, &factors, halves);
	}
	qsort(state->candidates, nedges, sizeof(Candidate), compareLength);
	for (int i = 0; i < nedges && !done; i++)
	{
		Candidate  *from = &state->candidates[i];
		AnnHnswRowHeader *header;
		Buffer		buffer = AnnHnswLockRow(state->index, NULL, layout, from->row, BUFFER_LOCK_EXCLUSIVE, &header);
		int			slot = -1;

		if (header->state == ANN_HNSW_LIVE && header->version == from->version)
		{
			float		furthest = -1;

			if (header->nedges < layout->slots)
				slot = header->nedges;
			for (int j = 0; j < header->nedges && !done; j++)
			{
				float		length = AnnHnswEdgeLength(layout, header, j);
				AnnRowId	to = AnnHnswEdge(layout, header, j);

				if (to == row)
					done = true;
				else if (slot < header->nedges && length > furthest && AnnHnswRowSetHas(twice, to))
				{
					furthest = length;
					slot = j;
				}
			}
		}
		if (slot >= 0 && !done)
		{
			if (slot < header->nedges)
				AnnHnswRowSetRemove(twice, AnnHnswEdge(layout, header, slot));
			putEdge(state, buffer, header, slot, row, from->length, hint, halves, code);
			done = true;
		}
		UnlockReleaseBuffer(buffer);
	}
}

/*
 * Makes a row reachable: an edge to it from a row that a search for it finds, and
 * edges from it as far as it has room.  Rows in `twice` are named by more than one
 * edge: one of these may make way.  For VACUUM: nobody else frees rows.
 */
void
AnnHnswRelinkRow(Relation index, AnnWriteMode mode, AnnHnswCache *cache, const AnnHnswSpace *space,
				 AnnRowId row, AnnHnswRowSet *twice)
{
	const AnnHnswLayout *layout = &space->layout;
	InsertState state = {0};
	AnnHnswPoint point = {0};
	AnnHnswRowHeader *header;
	ItemPointerData hint;
	AnnPageEdit edit;
	char	   *stored = palloc(layout->vector_size);
	const char *found;
	float	   *scratch = NULL;
	int			nedges;
	Buffer		buffer = AnnHnswLockRow(index, NULL, layout, row, BUFFER_LOCK_SHARE, &header);

	found = header->state != ANN_HNSW_LIVE ? NULL : AnnHnswStoredVector(index, layout, header, stored);
	if (found == NULL)
	{
		UnlockReleaseBuffer(buffer);
		return;
	}
	point.stored_size = AnnHnswStoredSize(space, found);
	memmove(stored, found, point.stored_size);
	point.stored = stored;
	if (header->ntids > 0)
		hint = header->tids[0];
	else
		ItemPointerSetInvalid(&hint);
	UnlockReleaseBuffer(buffer);

	if (layout->element == ANN_ELEMENT_FLOAT4 || layout->element == ANN_ELEMENT_HALF)
	{
		point.dense = palloc(sizeof(float) * layout->dim);
		AnnHnswDecode(space, stored, point.dense);
		scratch = palloc(sizeof(float) * layout->dim);
	}
	state.index = index;
	state.mode = mode;
	state.space = space;
	state.point = &point;
	state.self = row;
	findCandidates(&state, cache, AnnHnswQueryFromStored(space, stored));
	nedges = chooseEdges(&state);
	linkOnce(&state, nedges, row, &hint, scratch, twice);

	buffer = AnnHnswLockRow(index, NULL, layout, row, BUFFER_LOCK_EXCLUSIVE, &header);
	edit = AnnPageEditBegin(index, mode);
	header = AnnHnswRowOnPage(layout, AnnPageEditAdd(&edit, buffer, false), AnnHnswRowSlot(layout, row));
	for (int i = 0; i < nedges && header->nedges < layout->slots; i++)
	{
		Candidate  *c = &state.candidates[i];
		bool		present = false;

		for (int j = 0; j < header->nedges && !present; j++)
			present = AnnHnswEdge(layout, header, j) == c->row;
		if (!present)
		{
			AnnHnswSetSlot(space, header, header->nedges, c->row, c->length, &c->hint,
						   c->code != NULL ? c->code->factors : NULL, c->code != NULL ? c->code->code : NULL);
			header->nedges++;
		}
	}
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
}

static void
insertPoint(Relation index, AnnWriteMode mode, AnnHnswCache *cache, const AnnHnswSpace *space,
			AnnAttributes *attributes, AnnHnswPoint *point, AnnHnswQuery *query, ItemPointer tid)
{
	InsertState state = {0};
	AnnRowId	row;
	int			nedges;
	float	   *scratch = NULL;

	state.index = index;
	state.mode = mode;
	state.space = space;
	state.point = point;
	state.self = ANN_HNSW_NO_ROW;
	state.meta = &cache->meta;
	if (cache->meta.nchains > 0)
		state.chain = AnnHnswChainOf(&cache->meta, attributes, point->attributes);
	findCandidates(&state, cache, query);

	if (state.equal != ANN_HNSW_NO_ROW &&
		AnnHnswAddTid(index, mode, &space->layout, state.equal, point, tid))
		return;

	nedges = chooseEdges(&state);
	row = writeRow(&state, nedges, tid);
	if (AnnHnswHasCodes(&space->layout))
		scratch = palloc(sizeof(float) * space->layout.dim);
	linkBack(&state, nedges, row, tid, scratch);
	maybeEnter(&state, cache, row, scratch);
}

/*
 * Adds one tuple's columns to the index.  In ANN_WRITE_BUILD mode nothing is logged and
 * no lock against VACUUM is taken: the relation is the caller's own.
 */
void
AnnHnswInsertValue(Relation index, AnnWriteMode mode, const Datum *values, const bool *isnull, ItemPointer tid)
{
	MemoryContext context;
	MemoryContext old;
	AnnHnswCache *cache;
	AnnHnswSpace space;
	AnnHnswPoint point;
	Datum		value;

	if (isnull[0])
	{
		AnnHnswAddToTidList(index, mode, false, tid);
		return;
	}
	context = AllocSetContextCreate(CurrentMemoryContext, "ann hnsw insert", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	cache = AnnHnswCacheGet(index);
	AnnHnswCacheRefresh(index, cache);
	AnnHnswSpaceInit(&space, &cache->meta, cache->center);
	value = PointerGetDatum(PG_DETOAST_DATUM(values[0]));
	AnnHnswFormPoint(&space, value, &point);
	if (point.unplaced)
		AnnHnswAddToTidList(index, mode, true, tid);
	else
	{
		AnnHnswQuery *query = AnnHnswQueryCreate(&space, value);
		AnnAttributes *attributes = AnnAttributesCreate(index);

		AnnHnswFormAttributes(attributes, values, isnull, &point);
		/* VACUUM waits for inserts in flight between its steps 1 and 3 (README). */
		if (mode == ANN_WRITE_WAL)
			LockPage(index, ANN_HNSW_META_BLOCK, ShareLock);
		insertPoint(index, mode, cache, &space, attributes, &point, query, tid);
		if (mode == ANN_WRITE_WAL)
			UnlockPage(index, ANN_HNSW_META_BLOCK, ShareLock);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

bool
ann_hnsw_insert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap,
				IndexUniqueCheck check_unique, bool index_unchanged, IndexInfo *info)
{
	AnnHnswInsertValue(index, ANN_WRITE_WAL, values, isnull, tid);
	return false;
}
