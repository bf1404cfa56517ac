/*
 * hnsw_graph.c
 *	  The graph while it is being built: sizes, memory, nodes, equal values.
 *	  README: Build.
 */
#include "postgres.h"

#include <math.h>
#include <sys/mman.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/dsm_impl.h"
#include "utils/memutils.h"

#include "hnsw/hnsw_graph_private.h"

/* Rows to a bucket of the table of values. */
#define BUCKET_ROWS 2

#define MIN_BLOCK_BYTES (32 * 1024)
#define MAX_BLOCK_BYTES (32 * 1024 * 1024)
#define MIN_CHUNK_NODES 16

/* The usual size of huge pages. */
#define HUGE_PAGE (2 * 1024 * 1024)

#define ALPHA_AT_FIRST 1.2f

#define MAX_INT8_ELEMENT 0x1p50f

/* ---- sizes ---- */

/*
 * meta comes with layout, code and ef_construction; the scale of lengths is set
 * by the caller.
 */
void
AnnGraphShapeInit(AnnGraphShape *shape, const AnnHnswMetaPageData *meta)
{
	const AnnHnswLayout *layout = &meta->layout;
	Size		lengths = sizeof(AnnGraphNode) * (Size) layout->slots;

	memset(shape, 0, sizeof(*shape));
	shape->layout = *layout;
	shape->slots = layout->slots;
	shape->ef = AnnHnswConstructionBeam(layout, Max(meta->ef_construction, 4));
	shape->expanded = AnnHnswHasCodes(layout) ? shape->ef - shape->ef / 4 : shape->ef;
	shape->form = ANN_GRAPH_VECTOR;
	if (AnnHnswHasCodes(layout))
	{
		const AnnCodeParams *own = &meta->code;

		AnnCodeParamsChoose(&shape->code, ANN_METRIC_L2, (int) layout->dim, ANN_CODE_BUILD, 0);
		shape->code.half_exp = own->half_exp;
		if (shape->code.planes == 1)
		{
			shape->form = ANN_GRAPH_CODE;
			shape->own_code = own->planes != 1 || own->kept > shape->code.kept ||
				(own->kept < shape->code.kept && own->kept % 64 != 0);
			shape->own_factors = shape->own_code || own->kept != shape->code.kept || own->metric == ANN_METRIC_IP;
			shape->compared_size = CODE_OFFSET + AnnCodeBytes(&shape->code);
			shape->index_code = CODE_OFFSET;
		}
		else
		{
			shape->form = ANN_GRAPH_INT8;
			shape->own_code = true;
			shape->own_factors = true;
			shape->compared_size = TYPEALIGN(sizeof(uint32), offsetof(AnnGraphInt8, x) + layout->dim);
		}
		shape->point_size = shape->compared_size;
		if (shape->own_factors)
		{
			shape->index_factors = shape->point_size;
			shape->point_size += 2 * sizeof(AnnHalf);
		}
		if (shape->own_code)
		{
			shape->index_code = shape->point_size;
			shape->point_size += layout->code_size;
		}
	}
	else if (layout->element == ANN_ELEMENT_SPARSE)
		shape->point_size = sizeof(AnnGraphPayload);
	else if (layout->element == ANN_ELEMENT_BIT)
		shape->point_size = layout->vector_size;
	else
		shape->point_size = mul_size(sizeof(float), layout->dim);
	shape->point_size = TYPEALIGN(sizeof(uint32), shape->point_size);
	if (shape->form == ANN_GRAPH_VECTOR)
		shape->compared_size = shape->point_size;

	shape->links_size = TYPEALIGN(sizeof(uint32), lengths + sizeof(AnnHalf) * (Size) layout->slots) +
		sizeof(AnnGraphLinksTail);
	if (layout->hint_size > 0)
	{
		shape->links_hint = shape->links_size;
		shape->links_size = TYPEALIGN(sizeof(uint32), shape->links_size + sizeof(uint16));
	}
	shape->node_size = shape->point_size + shape->links_size;
}

static uint32
bucketsFor(double rows)
{
	return (uint32) Min(Max(rows / BUCKET_ROWS, 64), (double) ANN_GRAPH_MAX_NODES);
}

/* How many entries there are to choose from. */
static uint32
entriesOf(const AnnGraphShape *shape)
{
	switch (shape->form)
	{
		case ANN_GRAPH_CODE:
			return 256;
		case ANN_GRAPH_INT8:
			return 128;
		default:
			return 24;
	}
}

/*
 * Bytes of the shared state without the nodes, for a graph of about this many
 * rows; at most a quarter of the budget goes to the table of values.
 */
Size
AnnGraphSharedSize(const AnnGraphShape *shape, double rows, Size budget)
{
	Size		size = MAXALIGN(sizeof(AnnGraphShared));

	size = add_size(size, mul_size(sizeof(AnnGraphNode), bucketsFor(Min(rows, (double) (budget / shape->node_size)))));
	size = add_size(size, mul_size(sizeof(AnnGraphNode) + entryPointSize(shape), entriesOf(shape)));
	return size;
}

/* Bytes of this many nodes. */
Size
AnnGraphWantedBytes(const AnnGraphShape *shape, double rows)
{
	return mul_size(shape->node_size + shape->payload_size, (Size) Max(rows, 1));
}

/*
 * Sets up the shared state, AnnGraphSharedSize bytes, for nodes of at most
 * `budget` bytes.
 */
void
AnnGraphSharedInit(AnnGraphShared *shared, const AnnGraphShape *shape, double rows, Size budget, bool parallel)
{
	static int	tranche = 0;
	Size		block = MIN_BLOCK_BYTES;

	memset(shared, 0, sizeof(*shared));
	shared->shape = *shape;
	shared->parallel = parallel;
	shared->nbuckets = bucketsFor(Min(rows, (double) (budget / shape->node_size)));
	shared->max_entries = entriesOf(shape);

	/* Blocks of about a 64th of the budget, of a power of two of nodes. */
	while (block < MAX_BLOCK_BYTES && block < budget / 64)
		block *= 2;
	while (budget / block > ANN_GRAPH_MAX_CHUNKS / 2)
		block *= 2;
	if (shape->layout.element == ANN_ELEMENT_SPARSE)
		block = Max(block, 2 * AnnSparseVectorSize(ANN_SPARSE_MAX_NNZ));
	shared->chunk_shift = Max(pg_leftmost_one_pos64(Max(block / shape->node_size, 1)),
							  pg_leftmost_one_pos32(MIN_CHUNK_NODES));
	shared->block_size = shape->node_size << shared->chunk_shift;
	if (shape->layout.element == ANN_ELEMENT_SPARSE)
		shared->block_size = Max(shared->block_size, block);
	shared->max_blocks = (uint32) Min(Max(budget / shared->block_size, 1), ANN_GRAPH_MAX_CHUNKS);

	/* Tranche numbers are never given back, and there are 65,536 of them. */
	if (tranche == 0)
		tranche = LWLockNewTrancheId();
	shared->tranche = tranche;
	LWLockInitialize(&shared->memory_lock, shared->tranche);
	LWLockInitialize(&shared->entry_lock, shared->tranche);
	LWLockInitialize(&shared->alpha_lock, shared->tranche);
	for (int i = 0; i < ANN_GRAPH_NODE_LOCKS; i++)
		LWLockInitialize(&shared->node_locks[i], shared->tranche);
	for (int i = 0; i < ANN_GRAPH_VALUE_LOCKS; i++)
		LWLockInitialize(&shared->value_locks[i], shared->tranche);
	pg_atomic_init_u32(&shared->nnodes, 0);
	pg_atomic_init_u32(&shared->full, 0);
	shared->alpha = ALPHA_AT_FIRST;
	memset((char *) shared + MAXALIGN(sizeof(AnnGraphShared)), 0xFF, mul_size(sizeof(AnnGraphNode), shared->nbuckets));
}

/*
 * A participant's view.  Allocates in CurrentMemoryContext; `space` must outlive
 * it.
 */
AnnGraph *
AnnGraphAttach(AnnGraphShared *shared, const AnnHnswSpace *space)
{
	AnnGraph   *graph = palloc0(sizeof(AnnGraph));
	const AnnGraphShape *shape = &shared->shape;

	graph->shared = shared;
	graph->shape = *shape;
	graph->space = space;
	graph->context = CurrentMemoryContext;
	graph->parallel = shared->parallel;
	graph->chunk_shift = shared->chunk_shift;
	graph->buckets = (AnnGraphNode *) ((char *) shared + MAXALIGN(sizeof(AnnGraphShared)));
	graph->entries = graph->buckets + shared->nbuckets;
	graph->entry_points = (char *) (graph->entries + shared->max_entries);
	graph->chunks = palloc0(sizeof(char *) * ANN_GRAPH_MAX_CHUNKS);
	graph->blocks = palloc0(sizeof(char *) * ANN_GRAPH_MAX_CHUNKS);
	graph->payload_block = PG_UINT32_MAX;
	LWLockRegisterTranche(shared->tranche, "AnnHnswBuild");
	pg_prng_seed(&graph->random, (uint64) MyProcPid);

	graph->point = palloc0(shape->point_size);
	graph->beam_d2 = palloc(sizeof(float) * (shape->ef + 1));
	graph->beam = palloc(sizeof(AnnGraphNode) * (shape->ef + 1));
	graph->dropped = palloc(sizeof(AnnGraphNear) * shape->ef);
	graph->seen = MemoryContextAllocExtended(graph->context,
											 ((Size) shared->max_blocks << graph->chunk_shift) / 8 + sizeof(uint64),
											 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	graph->touched_capacity = Max(4 * shape->ef, 64) * shape->slots;
	graph->touched = palloc(mul_size(sizeof(AnnGraphNode), graph->touched_capacity));
	graph->max_candidates = 2 * shape->ef;
	graph->candidates = palloc(sizeof(AnnGraphNear) * graph->max_candidates);
	graph->estimates = palloc(sizeof(float) * Max(EXPAND_AT_ONCE * shape->slots, shared->max_entries));
	graph->near = palloc(sizeof(int) * Max(EXPAND_AT_ONCE * shape->slots, START_ENTRIES));
	graph->length_scale = ldexpf(1, shape->length_exp);
	graph->probes = palloc(sizeof(Probe) * graph->max_candidates);
	if (shape->form == ANN_GRAPH_CODE)
	{
		graph->query = palloc(AnnQueryCodeSize(&shape->code));
		graph->gather_stride = TYPEALIGN(GATHER_STEP, shape->compared_size);
		graph->gathered = palloc(mul_size(graph->gather_stride, EXPAND_AT_ONCE * shape->slots + START_ENTRIES));
		graph->norm_scale = ldexpf(1, shape->code.half_exp);
		graph->versine = palloc(sizeof(float) * (shape->code.kept + 1));
		for (int i = 0; i <= shape->code.kept; i++)
			graph->versine[i] = (float) (1 - cos(M_PI * i / shape->code.kept));
	}
	graph->chosen = palloc(sizeof(int) * graph->max_candidates);
	graph->occluded = palloc(sizeof(bool) * graph->max_candidates);
	graph->pairs = palloc(sizeof(float) * ALPHA_CANDIDATES * ALPHA_CANDIDATES);
	if (shared->parallel && dsm_find_mapping(shared->nsegments > 0 ? shared->segments[0].handle : 0) != NULL)
		graph->segments[0] = dsm_find_mapping(shared->segments[0].handle);
	return graph;
}

/* ---- memory ---- */

/* A segment of nblocks blocks; NULL if it cannot be had. */
static dsm_segment *
createSegment(Size size)
{
	void	   *impl_private = NULL;
	void	   *address = NULL;
	Size		mapped = 0;
	dsm_handle	handle = pg_prng_uint32(&pg_global_prng_state) & ~(dsm_handle) 1;

	/* dsm_create raises an error when there is no memory: ask without, first. */
	if (!dsm_impl_op(DSM_OP_CREATE, handle, size, &impl_private, &address, &mapped, DEBUG1))
		return NULL;
	dsm_impl_op(DSM_OP_DESTROY, handle, 0, &impl_private, &address, &mapped, DEBUG1);
	return dsm_create(size, DSM_CREATE_NULL_IF_MAXSEGMENTS);
}

/* Adds a segment of this many blocks; false if it cannot be had. */
static bool
addSegment(AnnGraph *graph, uint32 nblocks)
{
	AnnGraphShared *shared = graph->shared;
	AnnGraphSegment *segment;
	dsm_segment *dsm;

	if (shared->nsegments >= ANN_GRAPH_MAX_SEGMENTS)
		return false;
	dsm = createSegment(mul_size(shared->block_size, nblocks));
	if (dsm == NULL)
		return false;
	segment = &shared->segments[shared->nsegments];
	segment->handle = dsm_segment_handle(dsm);
	segment->nblocks = nblocks;
	segment->first_block = shared->nsegments == 0 ? 0 : segment[-1].first_block + segment[-1].nblocks;
	graph->segments[shared->nsegments++] = dsm;
	return true;
}

/*
 * Sets memory aside for about this many rows, in parallel builds; false if there
 * is none.
 */
bool
AnnGraphReserve(AnnGraph *graph, double rows)
{
	AnnGraphShared *shared = graph->shared;
	double		blocks = ceil((double) AnnGraphWantedBytes(&graph->shape, rows) / shared->block_size);

	return addSegment(graph, (uint32) Min(Max(blocks, 1), shared->max_blocks));
}

void
AnnGraphDetach(AnnGraph *graph)
{
	for (int i = 0; i < ANN_GRAPH_MAX_SEGMENTS; i++)
		if (graph->segments[i] != NULL)
		{
			dsm_detach(graph->segments[i]);
			graph->segments[i] = NULL;
		}
}

/* Nodes are read in no order: with small pages most of the time goes to finding these. */
static void
adviseHugePages(char *memory, Size size)
{
#ifdef MADV_HUGEPAGE
	char	   *start = (char *) TYPEALIGN(HUGE_PAGE, memory);
	char	   *end = (char *) TYPEALIGN_DOWN(HUGE_PAGE, memory + size);

	if (start < end)
		(void) madvise(start, end - start, MADV_HUGEPAGE);
#endif
}

/* Makes a new block; false if the budget or the machine's memory is used up.  memory_lock is held. */
static bool
addBlock(AnnGraph *graph, uint32 *block)
{
	AnnGraphShared *shared = graph->shared;

	if (shared->nblocks >= shared->max_blocks)
		return false;
	if (!shared->parallel)
	{
		char	  **memory = &graph->blocks[shared->nblocks];

		if (*memory == NULL)
			*memory = MemoryContextAllocExtended(graph->context, shared->block_size,
												 MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
		if (*memory == NULL)
			return false;
		adviseHugePages(*memory, shared->block_size);
	}
	else
	{
		AnnGraphSegment *last = shared->nsegments > 0 ? &shared->segments[shared->nsegments - 1] : NULL;

		if (last == NULL || shared->nblocks >= last->first_block + last->nblocks)
		{
			uint32		more = Max(shared->nblocks / 8, 1);

			if (!addSegment(graph, Min(more, shared->max_blocks - shared->nblocks)))
				return false;
		}
	}
	*block = shared->nblocks++;
	return true;
}

char *
AnnGraphBlockAddress(AnnGraph *graph, uint32 block)
{
	if (graph->blocks[block] == NULL)
	{
		AnnGraphShared *shared = graph->shared;
		uint32		i = 0;

		while (block >= shared->segments[i].first_block + shared->segments[i].nblocks)
			i++;
		if (graph->segments[i] == NULL)
		{
			graph->segments[i] = dsm_find_mapping(shared->segments[i].handle);
			if (graph->segments[i] == NULL)
				graph->segments[i] = dsm_attach(shared->segments[i].handle);
			if (graph->segments[i] == NULL)
				elog(ERROR, "could not map dynamic shared memory segment");
		}
		graph->blocks[block] = (char *) dsm_segment_address(graph->segments[i]) +
			(Size) (block - shared->segments[i].first_block) * shared->block_size;
	}
	return graph->blocks[block];
}

char *
AnnGraphAttachChunk(AnnGraph *graph, uint32 chunk)
{
	graph->chunks[chunk] = AnnGraphBlockAddress(graph, graph->shared->chunk_block[chunk]);
	return graph->chunks[chunk];
}

/* Makes sure that the chunk exists. */
static bool
ensureChunk(AnnGraph *graph, uint32 chunk)
{
	AnnGraphShared *shared = graph->shared;
	bool		ok = chunk < ANN_GRAPH_MAX_CHUNKS;

	LWLockAcquire(&shared->memory_lock, LW_EXCLUSIVE);
	while (ok && shared->nchunks <= chunk)
	{
		ok = addBlock(graph, &shared->chunk_block[shared->nchunks]);
		if (ok)
			shared->nchunks++;
	}
	LWLockRelease(&shared->memory_lock);
	if (!ok)
		pg_atomic_write_u32(&shared->full, 1);
	return ok;
}

/* Copies a payload into the graph's memory. */
static bool
storePayload(AnnGraph *graph, const char *data, Size size, AnnGraphPayload *payload)
{
	if (graph->payload_block == PG_UINT32_MAX || graph->payload_used + size > graph->shared->block_size)
	{
		bool		ok;

		LWLockAcquire(&graph->shared->memory_lock, LW_EXCLUSIVE);
		ok = addBlock(graph, &graph->payload_block);
		LWLockRelease(&graph->shared->memory_lock);
		if (!ok)
		{
			graph->payload_block = PG_UINT32_MAX;
			pg_atomic_write_u32(&graph->shared->full, 1);
			return false;
		}
		graph->payload_used = 0;
	}
	payload->block = graph->payload_block;
	payload->offset = (uint32) graph->payload_used;
	payload->size = (uint32) size;
	memcpy(AnnGraphBlockAddress(graph, payload->block) + payload->offset, data, size);
	graph->payload_used += MAXALIGN(size);
	return true;
}

/* ---- the row that is being added ---- */

static void
setHalves(char *to, const AnnCodeParams *params, const AnnCodeFactors *factors)
{
	AnnHalf		halves[3];

	AnnFactorsToHalf(params, factors, halves);
	memcpy(to, halves, 2 * sizeof(AnnHalf));
}

/*
 * Rounds a residual to bytes.  One that is too long for its square becomes zero,
 * as with codes: its place in the graph is then that of the centre.
 */
static void
setInt8(AnnGraphInt8 *to, const float *r, int dim)
{
	float		max = 0;
	float		factor;

	for (int i = 0; i < dim; i++)
		max = Max(max, fabsf(r[i]));
	if (!(max > 0 && max < MAX_INT8_ELEMENT))
	{
		memset(to, 0, offsetof(AnnGraphInt8, x) + dim);
		return;
	}
	to->norm = sqrtf(ann_kernels.ip_f32(r, r, dim));
	to->scale = max / 127;
	factor = 127 / max;
	for (int i = 0; i < dim; i++)
		to->x[i] = (int8) rintf(r[i] * factor);
}

/*
 * Gets ready to add this row: the other functions work on it.  dense (vector and
 * halfvec) is of the index space; dense and stored must outlive the next calls.
 */
void
AnnGraphPrepare(AnnGraph *graph, const float *dense, const char *stored, Size stored_size)
{
	const AnnGraphShape *shape = &graph->shape;
	int			dim = (int) shape->layout.dim;

	graph->dense = dense;
	graph->stored = stored;
	graph->stored_size = stored_size;
	if (formOf(graph) != ANN_GRAPH_VECTOR)
	{
		AnnCodeFactors factors;
		float	   *r = palloc(sizeof(float) * (Size) dim);

		if (shape->own_factors)
		{
			uint8	   *code = shape->own_code ? (uint8 *) graph->point + shape->index_code :
				palloc(AnnCodeBytes(&graph->space->code));

			AnnHnswEncode(graph->space, dense, code, &factors, r);
			setHalves(graph->point + shape->index_factors, &graph->space->code, &factors);
		}
		if (graph->space->center == NULL)
			memcpy(r, dense, sizeof(float) * (Size) dim);
		else
			for (int i = 0; i < dim; i++)
				r[i] = dense[i] - graph->space->center[i];
		if (formOf(graph) == ANN_GRAPH_INT8)
			setInt8((AnnGraphInt8 *) graph->point, r, dim);
		else
		{
			AnnEncode(&shape->code, r, 0, (uint8 *) graph->point + CODE_OFFSET, &factors);
			setHalves(graph->point, &shape->code, &factors);
			AnnQueryCodeInit(graph->query, &shape->code, r, 0);
		}
		pfree(r);
	}
	else if (shape->layout.element == ANN_ELEMENT_BIT)
		memcpy(graph->point, stored, stored_size);
	else if (!isSparse(graph))
		memcpy(graph->point, dense, sizeof(float) * (Size) dim);
}

/* ---- equal values ---- */

static inline uint32
bucketNumber(const AnnGraph *graph, uint32 hash)
{
	return (uint32) ((uint64) hash_bytes_uint32(hash) * graph->shared->nbuckets >> 32);
}

static inline AnnGraphNode *
bucketOf(AnnGraph *graph, uint32 hash)
{
	return &graph->buckets[bucketNumber(graph, hash)];
}

/*
 * The lock of the bucket of a value: while it is held nobody else adds an equal
 * row.
 */
LWLock *
AnnGraphValueLock(AnnGraph *graph, uint32 hash)
{
	return &graph->shared->value_locks[bucketNumber(graph, hash) % ANN_GRAPH_VALUE_LOCKS];
}

static bool
looksEqual(AnnGraph *graph, AnnGraphNode node)
{
	if (!isSparse(graph))
		return memcmp(pointOf(graph, node), graph->point, graph->shape.point_size) == 0;
	return ((AnnGraphPayload *) pointOf(graph, node))->size == graph->stored_size &&
		memcmp(vectorOf(graph, node), graph->stored, graph->stored_size) == 0;
}

/*
 * The next node (the first one after NO_NODE) that looks equal to the prepared
 * row: same code, or same vector; the index has the last word.  NO_NODE if there
 * is none.  The caller holds the value's lock in a parallel build.
 */
AnnGraphNode
AnnGraphFindEqual(AnnGraph *graph, uint32 hash, AnnGraphNode after)
{
	AnnGraphNode node = after == ANN_GRAPH_NO_NODE ? *bucketOf(graph, hash) :
		tailOf(graph, linksOf(graph, after))->next_value;

	while (node != ANN_GRAPH_NO_NODE && !looksEqual(graph, node))
		node = tailOf(graph, linksOf(graph, node))->next_value;
	return node;
}

/* ---- nodes ---- */

uint32
AnnGraphCount(const AnnGraph *graph)
{
	uint64		room = (uint64) graph->shared->nchunks << graph->chunk_shift;

	return (uint32) Min((uint64) pg_atomic_read_u32(&graph->shared->nnodes), room);
}

/* Nodes that memory allows, payloads of average size included. */
double
AnnGraphCapacity(const AnnGraph *graph)
{
	return (double) graph->shared->max_blocks * graph->shared->block_size / AnnGraphWantedBytes(&graph->shape, 1);
}

AnnRowId
AnnGraphRow(AnnGraph *graph, AnnGraphNode node)
{
	return tailOf(graph, linksOf(graph, node))->row;
}

float
AnnGraphAlpha(const AnnGraph *graph)
{
	return graph->shared->alpha;
}

/* Whether memory has run out: then the graph lacks rows. */
bool
AnnGraphIsFull(AnnGraph *graph)
{
	return pg_atomic_read_u32(&graph->shared->full) != 0;
}

/*
 * Makes a node for a row of the index, without anything in it yet.  NO_NODE if
 * memory has run out: then the graph is full for good.
 */
AnnGraphNode
AnnGraphAllot(AnnGraph *graph, AnnRowId row)
{
	AnnGraphShared *shared = graph->shared;
	AnnGraphNode node;
	AnnGraphNode *links;

	if (AnnGraphIsFull(graph))
		return ANN_GRAPH_NO_NODE;
	node = pg_atomic_fetch_add_u32(&shared->nnodes, 1);
	if (node >= ANN_GRAPH_MAX_NODES ||
		((node >> graph->chunk_shift) >= *(volatile uint32 *) &shared->nchunks &&
		 !ensureChunk(graph, node >> graph->chunk_shift)))
	{
		pg_atomic_write_u32(&shared->full, 1);
		return ANN_GRAPH_NO_NODE;
	}
	pg_read_barrier();
	links = linksOf(graph, node);
	memset(links, 0xFF, sizeof(AnnGraphNode) * graph->shape.slots);
	memset(lengthsOf(graph, links), 0, sizeof(AnnHalf) * graph->shape.slots);
	tailOf(graph, links)->row = row;
	return node;
}

/*
 * Fills a node with the prepared row, still without edges, and puts it into the
 * table of values.  False if memory has run out.  The caller holds the value's
 * lock in a parallel build.
 */
bool
AnnGraphFill(AnnGraph *graph, AnnGraphNode node, uint32 hash, const ItemPointerData *tid)
{
	AnnGraphNode *links = linksOf(graph, node);
	AnnGraphNode *bucket = bucketOf(graph, hash);

	if (isSparse(graph))
	{
		AnnGraphPayload payload;

		if (!storePayload(graph, graph->stored, graph->stored_size, &payload))
			return false;
		memcpy(pointOf(graph, node), &payload, sizeof(payload));
	}
	else
		memcpy(pointOf(graph, node), graph->point, graph->shape.point_size);
	if (graph->shape.links_hint > 0)
		*(uint16 *) ((char *) links + graph->shape.links_hint) = AnnTidHash(tid);
	tailOf(graph, links)->next_value = *bucket;
	pg_write_barrier();
	*bucket = node;
	return true;
}

/* Takes a node out of the graph that nothing links to. */
void
AnnGraphDrop(AnnGraph *graph, AnnGraphNode node)
{
	tailOf(graph, linksOf(graph, node))->row = ANN_HNSW_NO_ROW;
}

/*
 * Empties the graph; its memory stays.  Alpha is kept.  Nobody else works on it,
 * and everybody else calls AnnGraphForget before going on.
 */
void
AnnGraphReset(AnnGraph *graph)
{
	AnnGraphShared *shared = graph->shared;

	shared->nblocks = 0;
	shared->nchunks = 0;
	shared->nentries = 0;
	pg_atomic_write_u32(&shared->nnodes, 0);
	pg_atomic_write_u32(&shared->full, 0);
	memset(graph->buckets, 0xFF, sizeof(AnnGraphNode) * shared->nbuckets);
	AnnGraphForget(graph);
}

/* Drops what this participant remembers of the graph's nodes. */
void
AnnGraphForget(AnnGraph *graph)
{
	clearSeen(graph);
	memset(graph->chunks, 0, sizeof(char *) * ANN_GRAPH_MAX_CHUNKS);
	graph->payload_block = PG_UINT32_MAX;
}
