/*
 * hnsw_insert.c
 *	  Insertion of one row: README, section Insert.
 */
#include "postgres.h"

#include <math.h>

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "hnsw/hnsw_options.h"
#include "hnsw/hnsw_prune.h"
#include "hnsw/hnsw_search.h"

/* The count of rows in the meta page advances in steps of this many, and so does alpha. */
#define ROWS_STEP 64

/*
 * Step of alpha for the share of the slots by which one row misses the target: the most, and that in an
 * index of one row.  It is less the more rows there are, so that alpha is what as many rows as the index
 * has would make it, not what the last few have.
 */
#define MAX_ALPHA_GAIN 0.05
#define ALPHA_GAIN (2.0 * ROWS_STEP)

/* Vectors of candidates are kept, to be compared exactly, while all may take no more than this. */
#define MAX_CANDIDATE_BYTES ((Size) 16 * 1024 * 1024)

/*
 * Bytes that an insert should not log more of, images of pages aside; what a record of an edge
 * takes beside its slot; the share of neighbours that take an edge back; and the share of a row's
 * slots that it uses in any case.
 */
#define MAX_LOGGED 8000
#define RECORD_BYTES 52
#define BACK_SHARE 0.7
#define LEAST_EDGES 0.3

/* A visited row that may become a neighbour. */
typedef struct Candidate
{
	AnnRowId	row;
	uint16		version;
	ItemPointerData hint;
	float		score;
	float		length;			/* from the new row */
	bool		occluded;		/* by a nearer candidate that is a neighbour */
	AnnHnswEdgeCode *code;		/* with codes */
	AnnCodeProbe *probe;		/* of that, where vectors are not kept */
	float	   *dense;			/* vector and halfvec */
	char	   *stored;			/* others */
	Size		stored_size;
} Candidate;

typedef struct InsertState
{
	Relation	index;
	AnnWriteMode mode;
	const AnnHnswSpace *space;
	const AnnHnswPoint *point;
	int			beam;
	int			capacity;
	bool		keeps_vectors;	/* of vector and halfvec candidates */
	int			ncandidates;
	int			nkept;			/* candidates that the rule keeps, up to the slots */
	Candidate  *candidates;		/* heap, worst score first */
	AnnRowId	self;			/* the row when it is in the index already, or ANN_HNSW_NO_ROW */
	bool		as_new;			/* it is searched for as if it were not */
	const AnnHnswMetaPageData *meta;	/* where rows are to be chained */
	uint32		chain;
	AnnRowId	equal;			/* a row that holds the same value, or ANN_HNSW_NO_ROW */
	float	   *scratch;		/* float[dim], vector and halfvec */
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
	if (AnnHnswRowHolds(space, header, stored, state->point) &&
		(space->layout.attribute_size == 0 ||
		 memcmp(AnnHnswRowAttributes(&space->layout, header), state->point->attributes, space->layout.attribute_size) == 0))
		state->equal = row;

	if (state->ncandidates < state->capacity)
	{
		candidate = &state->candidates[state->ncandidates++];
		memset(candidate, 0, sizeof(*candidate));
		if (code != NULL)
			candidate->code = palloc(offsetof(AnnHnswEdgeCode, code) + space->layout.code_size);
		if (state->keeps_vectors)
			candidate->dense = palloc(sizeof(float) * space->layout.dim);
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
	{
		memcpy(candidate->code, code, offsetof(AnnHnswEdgeCode, code) + space->layout.code_size);
		if (candidate->dense != NULL)
			AnnHnswDecode(space, stored, candidate->dense);
		else
		{
			AnnHnswDecode(space, stored, state->scratch);
			candidate->length = AnnHnswPairLength(space, state->point->dense, NULL, state->scratch, NULL);
		}
	}
	else if (candidate->dense != NULL)
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

/* Squared distance of two candidates: that of their codes where their vectors are not kept. */
static float
between2(const AnnHnswSpace *space, const Candidate *a, const Candidate *b)
{
	float		d;

	if (a->probe != NULL)
		return AnnCodeProbeDistance2(&space->code, a->probe, b->probe);
	d = AnnHnswPairLength(space, a->dense, a->stored, b->dense, b->stored);
	return d * d;
}

/*
 * Moves the neighbours of the new row to the front of the candidates, in order
 * of preference, and returns their number, `limit` at most: those that the relative
 * neighbourhood rule keeps, nearest first, then the nearest of the others.
 */
static int
chooseEdges(InsertState *state, int limit)
{
	const AnnHnswSpace *space = state->space;
	Candidate  *c = state->candidates;
	int			n = state->ncandidates;
	int			slots = space->layout.slots;
	Candidate  *kept = palloc(sizeof(Candidate) * Max(n, 1));
	Candidate  *others = palloc(sizeof(Candidate) * Max(n, 1));
	Size		probe_size = 0;
	char	   *probes = NULL;
	int			nkept = 0;
	int			nothers = 0;

	if (!state->keeps_vectors && AnnHnswHasCodes(&space->layout))
	{
		probe_size = AnnCodeProbeSize(&space->code);
		probes = palloc(mul_size(probe_size, Max(n, 1)));
	}
	for (int i = 0; i < n; i++)
	{
		if (probes == NULL)
			c[i].length = AnnHnswPairLength(space, state->point->dense, state->point->stored, c[i].dense, c[i].stored);
		else
		{
			c[i].probe = (AnnCodeProbe *) (probes + i * probe_size);
			AnnHnswProbeInit(space, c[i].probe, c[i].code->factors, c[i].code->code);
		}
	}
	qsort(c, n, sizeof(Candidate), compareLength);
	for (int i = 0; i < n && nkept < slots; i++)
	{
		c[i].occluded = false;
		for (int j = 0; j < nkept && !c[i].occluded; j++)
			c[i].occluded = AnnHnswOccludes(space->alpha, between2(space, &kept[j], &c[i]), c[i].length);
		if (c[i].occluded)
			others[nothers++] = c[i];
		else
			kept[nkept++] = c[i];
	}
	state->nkept = nkept;
	nkept = Min(nkept, limit);
	for (int i = 0; i < nothers && nkept < limit; i++)
		kept[nkept++] = others[i];
	memcpy(c, kept, sizeof(Candidate) * nkept);
	pfree(kept);
	pfree(others);
	return nkept;
}

/* Makes an edge of a row a keeper.  The row's page is locked exclusively. */
static void
makeKeeper(InsertState *state, Buffer buffer, AnnHnswRowHeader *row, int edge)
{
	uint32		bits = AnnHnswLengthBits(&state->space->layout, row, edge) | ANN_HNSW_KEEPER;
	AnnPagePatch patch = AnnHnswPatchLength(&state->space->layout, row, edge, &bits);

	AnnPageApply(state->index, state->mode, buffer, &patch, 1);
}

/*
 * Adds an edge to a row of an index with codes.  Takes the row's exclusive lock.  True if
 * it is there, and is a keeper if it was to be.
 */
static bool
linkCoded(InsertState *state, AnnHnswCache *cache, const Candidate *from, const AnnHnswNewEdge *new,
		  const AnnCodeProbe *probe)
{
	const AnnHnswSpace *space = state->space;
	const AnnHnswLayout *layout = &space->layout;
	AnnHnswRowHeader *header;
	AnnHnswPlacement placement = {.keeper = new->keeper, .slot = -1};
	Buffer		buffer = AnnHnswLockRow(state->index, cache, layout, from->row, BUFFER_LOCK_EXCLUSIVE, &header);
	bool		done = false;

	if (header->state == ANN_HNSW_LIVE && header->version == from->version)
	{
		int			edge = AnnHnswFindEdge(layout, header, new->to);

		/* VACUUM may have linked the new row already (README, VACUUM step 4). */
		if (edge >= 0)
		{
			if (new->keeper)
				makeKeeper(state, buffer, header, edge);
			done = true;
		}
		else
		{
			AnnHnswPlaceCodedEdge(space, header, new->length, probe, &placement);
			done = placement.slot >= 0;
			if (done)
				AnnHnswPutEdge(state->index, state->mode, layout, buffer, header, &placement, new);
		}
	}
	UnlockReleaseBuffer(buffer);
	return done;
}

typedef struct PlainEdges
{
	InsertState *state;
	AnnHnswCache *cache;
	AnnHnswRowHeader *row;
	char	   *vector;			/* scratch for external vectors */
} PlainEdges;

/* Reads the neighbour.  Infinity if it is gone. */
static float
plainDistance2(const void *arg, int i)
{
	const PlainEdges *edges = (const PlainEdges *) arg;
	InsertState *state = edges->state;
	const AnnHnswSpace *space = state->space;
	AnnHnswRowHeader *header;
	Buffer		buffer = AnnHnswLockRow(state->index, edges->cache, &space->layout,
										AnnHnswGetPlainSlot(&space->layout, edges->row, i)->row, BUFFER_LOCK_SHARE, &header);
	const char *stored = header->state == ANN_HNSW_FREE ? NULL :
		AnnHnswStoredVector(state->index, &space->layout, header, edges->vector);
	float		length = INFINITY;

	if (stored != NULL)
	{
		if (state->point->dense != NULL)
			AnnHnswDecode(space, stored, state->scratch);
		length = AnnHnswPairLength(space, state->point->dense, state->point->stored, state->scratch, stored);
	}
	UnlockReleaseBuffer(buffer);
	return length * length;
}

/*
 * The same for an index without codes: the place of the edge is found on a copy
 * of the row, for which its neighbours are read without its lock.  Gives up if the
 * row has changed meanwhile: somebody else's edge is as good.
 */
static bool
linkPlain(InsertState *state, AnnHnswCache *cache, const Candidate *from, const AnnHnswNewEdge *new)
{
	const AnnHnswLayout *layout = &state->space->layout;
	AnnHnswRowHeader *header;
	AnnHnswPlacement placement = {.keeper = new->keeper, .slot = -1};
	AnnHnswRowHeader *copy = palloc(layout->row_size);
	PlainEdges	edges = {state, cache, copy, palloc(layout->vector_size)};
	Buffer		buffer = AnnHnswLockRow(state->index, cache, layout, from->row, BUFFER_LOCK_SHARE, &header);
	int			edge;
	bool		done = false;

	memcpy(copy, header, layout->row_size);
	UnlockReleaseBuffer(buffer);
	if (copy->state == ANN_HNSW_LIVE && copy->version == from->version)
	{
		edge = AnnHnswFindEdge(layout, copy, new->to);
		if (edge >= 0)
			done = !new->keeper || AnnHnswIsKeeper(layout, copy, edge);
		else
			AnnHnswPlaceEdge(state->space, copy, new->length, plainDistance2, &edges, &placement);
	}
	if (placement.slot >= 0)
	{
		buffer = AnnHnswLockRow(state->index, cache, layout, from->row, BUFFER_LOCK_EXCLUSIVE, &header);
		if (header->state == ANN_HNSW_LIVE && header->version == from->version &&
			header->nedges == copy->nedges &&
			memcmp(AnnHnswRowSlots(layout, header), AnnHnswRowSlots(layout, copy),
				   (Size) copy->nedges * layout->slot_size) == 0)
		{
			AnnHnswPutEdge(state->index, state->mode, layout, buffer, header, &placement, new);
			done = true;
		}
		UnlockReleaseBuffer(buffer);
	}
	pfree(edges.vector);
	pfree(copy);
	return done;
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
	AnnPagePatch patches[2];
	int			npatches = 0;
	uint16		used;
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

		AnnHnswSetSlot(space, row, i, c->row, c->occluded ? -c->length : c->length, &c->hint,
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
	/* Slots that are not in use stay what they are. */
	used = (uint16) (AnnHnswRowSlots(layout, row) + (Size) nedges * layout->slot_size - (char *) row);
	patches[npatches++] = (AnnPagePatch) {place, row, used};
	if (lower > page->pd_lower)
		patches[npatches++] = (AnnPagePatch) {&page->pd_lower, &lower, sizeof(lower)};
	if (state->meta->nchains == 0)
		AnnPageApply(state->index, state->mode, buffer, patches, npatches);
	else
	{
		AnnHnswCard *card = palloc(AnnHnswCardSize(layout));
		AnnHnswRoom room;

		AnnHnswFormCard(space, id, state->point->dense, state->point->attributes, card, state->scratch);
		AnnHnswLockRoom(state->index, state->mode, state->meta, state->chain, card, &room);
		AnnPageApplyAll(state->index, state->mode, (AnnPageChange[]) {
			{buffer, npatches, patches}, {room.chainbuf, 1, &room.chain_patch}, {room.piecebuf, 2, room.piece_patches}
		}, 3);
		UnlockReleaseBuffer(room.piecebuf);
		UnlockReleaseBuffer(room.chainbuf);
	}
	UnlockReleaseBuffer(buffer);
	return id;
}

/*
 * Keeps the entry table a fair sample (Vitter's algorithm R), and the meta
 * page's count of rows.
 */
static void
maybeEnter(InsertState *state, const AnnHnswCache *cache, AnnRowId row)
{
	const AnnHnswLayout *layout = &state->space->layout;
	const AnnHnswMetaPageData *meta = &cache->meta;
	uint32		entry = meta->nentries;
	AnnHnswEntry *data;

	if (pg_prng_uint64_range(&pg_global_prng_state, 0, ROWS_STEP - 1) == 0)
		AnnHnswCountRows(state->index, state->mode, ROWS_STEP, state->ncandidates < state->beam ? 0 :
						 (float) Min(MAX_ALPHA_GAIN, ALPHA_GAIN / Max(meta->rows, 1)) *
						 (meta->keeps - (float) state->nkept / layout->slots));
	if (meta->nentries >= AnnHnswEntryCapacity(layout, 0))
	{
		uint32		capacity = AnnHnswEntryCapacity(layout, meta->rows);

		if (pg_prng_double(&pg_global_prng_state) * Max(meta->rows, meta->nentries) >= capacity)
			return;
		/* The table grows with the index, at the rate at which it is replaced. */
		if (meta->nentries >= capacity)
			entry = (uint32) pg_prng_uint64_range(&pg_global_prng_state, 1, meta->nentries - 1);
	}
	data = palloc(AnnHnswEntrySize(layout));
	AnnHnswFormEntry(state->space, row, state->point->dense, state->point->stored, data, state->scratch);
	AnnHnswPutEntry(state->index, state->mode, entry, data, false);
}

/*
 * Fills state->candidates with the rows that a search for the point finds, with this
 * beam.
 */
static void
findCandidates(InsertState *state, AnnHnswCache *cache, AnnHnswQuery *query, int beam)
{
	AnnHnswSearch *search;

	state->beam = beam;
	/* With codes all that is visited on the way, as in the build: some of the far ones make good edges. */
	state->capacity = AnnHnswHasCodes(&state->space->layout) ? 2 * beam : beam;
	state->candidates = palloc(sizeof(Candidate) * state->capacity);
	state->keeps_vectors = state->point->dense != NULL &&
		(!AnnHnswHasCodes(&state->space->layout) ||
		 mul_size(sizeof(float) * state->space->layout.dim, state->capacity) <= MAX_CANDIDATE_BYTES);
	state->equal = ANN_HNSW_NO_ROW;

	search = AnnHnswSearchAcquire();
	search->index = state->index;
	search->cache = cache;
	search->space = state->space;
	search->query = query;
	search->ef = beam;
	search->keep_dropped = false;
	search->keep_results = false;
	search->hook = collect;
	search->hook_arg = state;
	if (state->as_new)
		search->skip = state->self;
	AnnHnswSearchBegin(search);
	AnnHnswSearchBeam(search);
	AnnHnswSearchRelease(search);
}

/*
 * What the slots of other rows hold of the row; allocates its code.
 */
static void
formNewEdge(InsertState *state, AnnRowId row, const ItemPointerData *hint, AnnHnswNewEdge *new)
{
	memset(new, 0, sizeof(*new));
	new->to = row;
	new->hint = hint;
	if (AnnHnswHasCodes(&state->space->layout))
	{
		uint8	   *code = palloc(state->space->layout.code_size);
		AnnHalf    *halves = palloc(3 * sizeof(AnnHalf));
		AnnCodeFactors factors;

		AnnHnswEncode(state->space, state->point->dense, code, &factors, state->scratch);
		AnnFactorsToHalf(&state->space->code, &factors, halves);
		new->code = code;
		new->halves = halves;
	}
}

/*
 * Gives the row a keeper from one of the entries in `reached` (NULL: from any), whatever the
 * distance: where no row that is near has one to give.  False if no entry has.
 */
static bool
keepFromEntries(InsertState *state, AnnHnswCache *cache, const AnnHnswRowSet *reached, AnnHnswNewEdge *new)
{
	const AnnHnswSpace *space = state->space;
	const AnnHnswLayout *layout = &space->layout;
	char	   *vector = palloc(layout->vector_size);
	bool		done = false;

	AnnHnswCacheRefresh(state->index, cache);
	for (uint32 i = 0; i < cache->meta.nentries && !done; i++)
	{
		AnnRowId	from = ((AnnHnswEntry *) (cache->entries + i * cache->entry_size))->row;
		AnnHnswRowHeader *header;
		const char *stored;
		Buffer		buffer;
		int			edge;

		CHECK_FOR_INTERRUPTS();
		if (from == new->to || (reached != NULL && !AnnHnswRowSetHas(reached, from)))
			continue;
		buffer = AnnHnswLockRow(state->index, NULL, layout, from, BUFFER_LOCK_EXCLUSIVE, &header);
		edge = header->state == ANN_HNSW_LIVE ? AnnHnswFindEdge(layout, header, new->to) : -1;
		stored = header->state != ANN_HNSW_LIVE || edge >= 0 ? NULL :
			AnnHnswStoredVector(state->index, layout, header, vector);
		if (edge >= 0)
		{
			makeKeeper(state, buffer, header, edge);
			done = true;
		}
		else if (stored != NULL)
		{
			AnnHnswPlacement placement = {.keeper = true, .slot = AnnHnswSpareEdge(layout, header)};

			if (state->point->dense != NULL)
				AnnHnswDecode(space, stored, state->scratch);
			new->length = AnnHnswPairLength(space, state->point->dense, state->point->stored, state->scratch, stored);
			done = placement.slot >= 0;
			if (done)
				AnnHnswPutEdge(state->index, state->mode, layout, buffer, header, &placement, new);
		}
		UnlockReleaseBuffer(buffer);
	}
	pfree(vector);
	return done;
}

/*
 * Edges to the row from each of its neighbours, the first nedges candidates, but from no
 * more than `most`.  The first that can is its keeper (README, Keepers) if `keep` says so; false
 * if none is.
 */
static bool
linkBack(InsertState *state, AnnHnswCache *cache, int nedges, AnnHnswNewEdge *new, bool keep, int most)
{
	AnnCodeProbe *probe = NULL;
	bool		kept = !keep;

	if (new->code != NULL)
	{
		probe = palloc(AnnCodeProbeSize(&state->space->code));
		AnnHnswProbeInit(state->space, probe, new->halves, new->code);
	}
	for (int i = 0; i < nedges; i++)
	{
		bool		done;

		CHECK_FOR_INTERRUPTS();
		new->length = state->candidates[i].length;
		new->keeper = !kept;
		if (probe != NULL)
			done = linkCoded(state, cache, &state->candidates[i], new, probe);
		else
			done = linkPlain(state, cache, &state->candidates[i], new);
		kept = kept || done;
		if (done && --most <= 0)
			break;
	}
	return kept;
}

/*
 * Gives the row a keeper from the nearest candidate in `reached` that has a free slot, or an
 * edge to spare: the furthest whose target is in `twice`, which it leaves.  (What an
 * insert does would cut off other rows.)
 */
static void
linkOnce(InsertState *state, AnnHnswCache *cache, int nedges, AnnRowId row, ItemPointer hint,
		 const AnnHnswRowSet *reached, AnnHnswRowSet *twice)
{
	const AnnHnswLayout *layout = &state->space->layout;
	AnnHnswNewEdge new;
	bool		done = false;

	formNewEdge(state, row, hint, &new);
	new.keeper = true;
	qsort(state->candidates, nedges, sizeof(Candidate), compareLength);
	for (int i = 0; i < nedges && !done; i++)
	{
		Candidate  *from = &state->candidates[i];
		AnnHnswRowHeader *header;
		Buffer		buffer;
		int			slot = -1;

		if (!AnnHnswRowSetHas(reached, from->row))
			continue;
		buffer = AnnHnswLockRow(state->index, NULL, layout, from->row, BUFFER_LOCK_EXCLUSIVE, &header);
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
				{
					makeKeeper(state, buffer, header, j);
					done = true;
				}
				else if (slot < header->nedges && length > furthest && AnnHnswRowSetHas(twice, to) &&
						 !AnnHnswIsKeeper(layout, header, j))
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
			new.length = from->length;
			AnnHnswPutEdge(state->index, state->mode, layout, buffer, header,
						   &(AnnHnswPlacement) {.keeper = true, .slot = slot}, &new);
			done = true;
		}
		UnlockReleaseBuffer(buffer);
	}
	if (!done)
		keepFromEntries(state, cache, reached, &new);
}

/*
 * Sets `state` up for a row of the index, and finds its candidates, `as_new` as if the row
 * were not there yet.  Returns false if the row does not live.
 */
static bool
searchForRow(InsertState *state, AnnHnswPoint *point, Relation index, AnnWriteMode mode, AnnHnswCache *cache,
			 const AnnHnswSpace *space, AnnRowId row, bool as_new, int beam, ItemPointer hint)
{
	const AnnHnswLayout *layout = &space->layout;
	AnnHnswRowHeader *header;
	char	   *stored = palloc(layout->vector_size);
	const char *found;
	Buffer		buffer = AnnHnswLockRow(index, cache, layout, row, BUFFER_LOCK_SHARE, &header);

	memset(state, 0, sizeof(*state));
	state->as_new = as_new;
	memset(point, 0, sizeof(*point));
	found = header->state != ANN_HNSW_LIVE ? NULL : AnnHnswStoredVector(index, layout, header, stored);
	if (found == NULL)
	{
		UnlockReleaseBuffer(buffer);
		return false;
	}
	point->stored_size = AnnHnswStoredSize(space, found);
	memmove(stored, found, point->stored_size);
	point->stored = stored;
	if (header->ntids > 0)
		*hint = header->tids[0];
	else
		ItemPointerSetInvalid(hint);
	if (layout->attribute_size > 0)
		point->attributes = memcpy(palloc(layout->attribute_size), AnnHnswRowAttributes(layout, header),
								   layout->attribute_size);
	UnlockReleaseBuffer(buffer);

	if (layout->element == ANN_ELEMENT_FLOAT4 || layout->element == ANN_ELEMENT_HALF)
	{
		point->dense = palloc(sizeof(float) * layout->dim);
		AnnHnswDecode(space, stored, point->dense);
		state->scratch = palloc(sizeof(float) * layout->dim);
	}
	state->index = index;
	state->mode = mode;
	state->space = space;
	state->point = point;
	state->self = row;
	findCandidates(state, cache, AnnHnswQueryFromStored(space, stored), beam);
	return true;
}

/*
 * Makes a row reachable: a keeper from a row in `reached` that a search for it finds, and
 * edges from it as far as it has room.  Rows in `twice` are named by more than one
 * edge: one of these may make way.  For VACUUM: nobody else frees rows.
 */
void
AnnHnswRelinkRow(Relation index, AnnWriteMode mode, AnnHnswCache *cache, const AnnHnswSpace *space,
				 AnnRowId row, const AnnHnswRowSet *reached, AnnHnswRowSet *twice)
{
	const AnnHnswLayout *layout = &space->layout;
	InsertState state;
	AnnHnswPoint point;
	AnnHnswRowHeader *header;
	ItemPointerData hint;
	AnnPageEdit edit;
	int			nedges;
	Buffer		buffer;

	if (!searchForRow(&state, &point, index, mode, cache, space, row, false,
					  AnnHnswConstructionBeam(layout, cache->meta.ef_construction), &hint))
		return;
	nedges = chooseEdges(&state, space->layout.slots);
	linkOnce(&state, cache, nedges, row, &hint, reached, twice);

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
			AnnHnswSetSlot(space, header, header->nedges, c->row, c->occluded ? -c->length : c->length, &c->hint,
						   c->code != NULL ? c->code->factors : NULL, c->code != NULL ? c->code->code : NULL);
			header->nedges++;
		}
	}
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
}

/*
 * Adds the share of its slots that the rule would fill for each of these rows, were it inserted now, to *sum;
 * returns the number of rows.  Those for which the index is too small to tell are left out.
 */
int
AnnHnswSumKeptShares(Relation index, AnnHnswCache *cache, const AnnHnswSpace *space, const AnnRowId *rows, int nrows,
					 double *sum)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ann hnsw kept share", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int			n = 0;

	for (int i = 0; i < nrows; i++)
	{
		InsertState state;
		AnnHnswPoint point;
		ItemPointerData hint;

		CHECK_FOR_INTERRUPTS();
		if (searchForRow(&state, &point, index, ANN_WRITE_BUILD, cache, space, rows[i], true,
						 AnnHnswConstructionBeam(&space->layout, cache->meta.ef_construction), &hint) &&
			state.ncandidates >= state.beam)
		{
			chooseEdges(&state, space->layout.slots);
			*sum += (double) state.nkept / space->layout.slots;
			n++;
		}
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return n;
}

/*
 * Searches a finished graph for a row of it, with this beam, and makes edges to what it
 * finds, in both directions; `merge` puts them together with the row's own.  For the
 * build: nobody frees rows.  (An edge that another participant gives the row meanwhile
 * may be lost.)
 */
void
AnnHnswRefineRow(Relation index, AnnHnswCache *cache, const AnnHnswSpace *space, AnnRowId row, int beam,
				 AnnHnswMergeEdges merge, void *arg)
{
	const AnnHnswLayout *layout = &space->layout;
	InsertState state;
	AnnHnswPoint point;
	AnnHnswRowHeader *old = palloc(layout->row_size);
	AnnHnswRowHeader *found = palloc0(layout->row_size);
	AnnHnswRowHeader *merged = palloc0(layout->row_size);
	AnnHnswRowHeader *header;
	ItemPointerData hint;
	AnnHnswNewEdge new;
	int			nedges;
	Buffer		buffer;

	if (!searchForRow(&state, &point, index, ANN_WRITE_BUILD, cache, space, row, false, beam, &hint))
		return;
	nedges = chooseEdges(&state, space->layout.slots);
	for (int i = 0; i < nedges; i++)
	{
		Candidate  *c = &state.candidates[i];

		AnnHnswSetSlot(space, found, i, c->row, c->occluded ? -c->length : c->length, &c->hint,
					   c->code != NULL ? c->code->factors : NULL, c->code != NULL ? c->code->code : NULL);
	}
	found->nedges = (uint8) nedges;

	/* Merging may read rows, so not under the lock. */
	buffer = AnnHnswLockRow(index, cache, layout, row, BUFFER_LOCK_SHARE, &header);
	memcpy(old, header, layout->row_size);
	UnlockReleaseBuffer(buffer);
	merge(arg, old, found, merged);
	buffer = AnnHnswLockRow(index, cache, layout, row, BUFFER_LOCK_EXCLUSIVE, &header);
	header->nedges = merged->nedges;
	memcpy(AnnHnswRowSlots(layout, header), AnnHnswRowSlots(layout, merged), (Size) layout->slots * layout->slot_size);
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
	formNewEdge(&state, row, &hint, &new);
	linkBack(&state, cache, nedges, &new, false, nedges);
}

/*
 * How many edges a new row begins with, to its neighbours and back: as many as it can have,
 * if an insert logs no more than MAX_LOGGED then.
 */
static void
planEdges(const AnnHnswLayout *layout, int *out, int *back)
{
	double		room = MAX_LOGGED - (double) layout->row_size + (double) layout->slots * layout->slot_size - 3 * RECORD_BYTES;
	double		backward = layout->slot_size + RECORD_BYTES;
	int			least = (int) (LEAST_EDGES * layout->slots);

	*out = Min(layout->slots, Max(least, (int) (room / (layout->slot_size + BACK_SHARE * backward))));
	*back = *out == layout->slots ? layout->slots :
		Min(layout->slots, Max(least, (int) ((room - *out * layout->slot_size) / backward)));
}

static void
insertPoint(Relation index, AnnHnswCache *cache, const AnnHnswSpace *space,
			AnnAttributes *attributes, AnnHnswPoint *point, AnnHnswQuery *query, ItemPointer tid)
{
	InsertState state = {0};
	AnnHnswNewEdge new;
	AnnRowId	row;
	int			out;
	int			back;
	int			nedges;
	bool		kept;

	state.index = index;
	state.mode = ANN_WRITE_WAL;
	state.space = space;
	state.point = point;
	state.self = ANN_HNSW_NO_ROW;
	state.meta = &cache->meta;
	if (cache->meta.nchains > 0)
		state.chain = AnnHnswChainOf(&cache->meta, attributes, point->attributes);
	if (point->dense != NULL)
		state.scratch = palloc(sizeof(float) * space->layout.dim);
	findCandidates(&state, cache, query,
				   AnnHnswConstructionBeam(&space->layout, cache->meta.ef_construction));

	if (state.equal != ANN_HNSW_NO_ROW &&
		AnnHnswAddTid(index, ANN_WRITE_WAL, &space->layout, state.equal, point, tid))
		return;

	planEdges(&space->layout, &out, &back);
	nedges = chooseEdges(&state, out);
	row = writeRow(&state, nedges, tid);
	formNewEdge(&state, row, tid, &new);
	kept = linkBack(&state, cache, nedges, &new, true, back);
	maybeEnter(&state, cache, row);
	if (!kept)
		keepFromEntries(&state, cache, NULL, &new);
}

/*
 * Takes the lock that VACUUM and a change of the centre wait for, and brings the
 * cache up to date.
 */
static AnnHnswCache *
beginInsert(Relation index)
{
	for (;;)
	{
		AnnHnswCache *cache = AnnHnswCacheGet(index);

		/* VACUUM waits for inserts in flight between its steps 1 and 3 (README). */
		LockPage(index, ANN_HNSW_META_BLOCK, ShareLock);
		AnnHnswCacheRefresh(index, cache);
		if (!cache->meta.recoding)
			return cache;
		UnlockPage(index, ANN_HNSW_META_BLOCK, ShareLock);
		AnnHnswRecenter(index, true);
	}
}

/*
 * aminsert.
 */
bool
ann_hnsw_insert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap,
				IndexUniqueCheck check_unique, bool index_unchanged, IndexInfo *info)
{
	MemoryContext context;
	MemoryContext old;
	AnnHnswCache *cache;
	AnnHnswSpace space;
	AnnHnswPoint point;
	AnnAttributes *attributes;
	char	   *area;
	Datum		value;

	if (isnull[0])
	{
		AnnHnswAddToTidList(index, ANN_WRITE_WAL, false, tid);
		return false;
	}
	context = AllocSetContextCreate(CurrentMemoryContext, "ann hnsw insert", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	/* TOAST and catalogs are read before the page lock: their own locks may not be taken under it. */
	value = PointerGetDatum(PG_DETOAST_DATUM(values[0]));
	attributes = AnnAttributesCreate(index);
	area = AnnAttributesForm(attributes, values, isnull);
	cache = beginInsert(index);
	AnnHnswSpaceInit(&space, &cache->meta, cache->center);
	AnnHnswFormPoint(&space, value, &point);
	if (point.unplaced)
		AnnHnswAddToTidList(index, ANN_WRITE_WAL, true, tid);
	else
	{
		AnnHnswQuery *query = AnnHnswQueryCreate(&space, value);

		AnnHnswSetAttributes(attributes, area, &point);
		insertPoint(index, cache, &space, attributes, &point, query, tid);
	}
	UnlockPage(index, ANN_HNSW_META_BLOCK, ShareLock);
	if (AnnHnswCenterIsOld(&cache->meta))
		AnnHnswRecenter(index, false);
	else if (AnnHnswWantsCalibration(&cache->meta))
		AnnHnswCalibrateFirst(index);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return false;
}
