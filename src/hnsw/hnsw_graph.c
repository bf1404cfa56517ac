/*
 * hnsw_graph.c
 *	  The graph while it is being built: memory, search, edges.  README: Build.
 */
#include "postgres.h"

#include <math.h>
#include <sys/mman.h>

#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/dsm_impl.h"
#include "utils/memutils.h"

#include "distance/half.h"
#include "hnsw/hnsw_graph.h"
#include "hnsw/hnsw_prune.h"

/* Entries that start a search. */
#define START_ENTRIES 8

/* Best nodes of the beam whose links are asked for ahead. */
#define PREFETCH_LINKS 6

/* Nodes expanded at once. */
#define EXPAND_AT_ONCE 3

/* Rows to a bucket of the table of values. */
#define BUCKET_ROWS 2

#define MIN_BLOCK_BYTES (32 * 1024)
#define MAX_BLOCK_BYTES (32 * 1024 * 1024)
#define MIN_CHUNK_NODES 16

/* The usual size of huge pages. */
#define HUGE_PAGE (2 * 1024 * 1024)

/* Nodes between two samples of what each alpha would keep. */
#define ALPHA_SAMPLE_EVERY 64
#define ALPHA_MIN_NODES 256
#define ALPHA_CANDIDATES 192
#define ALPHA_MEMORY 64			/* samples that the running mean remembers */
#define ALPHA_AT_FIRST 1.2f

/* Points are copied in steps of this many bytes. */
#define GATHER_STEP 32

/* In a point of form CODE. */
#define CODE_OFFSET (2 * sizeof(AnnHalf))

#define MAX_INT8_ELEMENT 0x1p50f

#define OCCLUDED ((AnnHalf) 0x8000)
#define EXPANDED ((AnnGraphNode) 0x80000000)

static const float alphas[ANN_GRAPH_ALPHAS] = {1.0f, 1.1f, 1.2f, 1.3f, 1.44f, 1.6f, 1.8f, 2.0f};

/* A node ready to be compared with others. */
typedef struct Probe
{
	const char *data;			/* code, AnnGraphInt8, or vector */
	float		norm;			/* CODE only */
} Probe;

/* A participant's view of the graph, and what it works with. */
struct AnnGraph
{
	AnnGraphShared *shared;
	AnnGraphShape shape;		/* a copy */
	const AnnHnswSpace *space;
	MemoryContext context;
	bool		parallel;
	int			chunk_shift;
	AnnGraphNode *buckets;
	AnnGraphNode *entries;
	char	   *entry_points;
	char	  **chunks;			/* by number, where attached */
	char	  **blocks;
	dsm_segment *segments[ANN_GRAPH_MAX_SEGMENTS];
	pg_prng_state random;

	/* The row that is being added */
	AnnQueryCode *query;
	char	   *point;			/* as it will stand in the graph */
	const float *dense;
	const char *stored;
	Size		stored_size;

	/* Space for payloads */
	uint32		payload_block;
	Size		payload_used;

	/* Search */
	float	   *beam_d2;		/* the beam, ascending */
	AnnGraphNode *beam;
	int			nbeam;
	AnnGraphNear *dropped;		/* expanded, then pushed out of the beam */
	int			ndropped;
	uint64	   *seen;			/* a bit for each node that there is room for */
	AnnGraphNode *touched;		/* nodes whose bit is set */
	int			ntouched;
	int			touched_capacity;
	float	   *estimates;
	int		   *near;			/* numbers of those that are near enough */
	char	   *gathered;
	Size		gather_stride;

	/* Choice of edges: candidates ready to be compared with each other */
	AnnGraphNear *candidates;
	int			ncandidates;
	int			max_candidates;
	Probe	   *probes;
	Probe		own_probe;
	float	   *versine;		/* CODE: 1 - cos by number of bits that differ */
	float		norm_scale;		/* of norms as halves */
	float		length_scale;	/* of lengths as halves */
	int		   *chosen;
	bool	   *occluded;
	float	   *pairs;
	uint32		connected;
};

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

/* Bytes of an entry's copy of its point. */
static Size
entryPointSize(const AnnGraphShape *shape)
{
	return shape->form == ANN_GRAPH_CODE ? shape->compared_size : 0;
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

static char *
blockAddress(AnnGraph *graph, uint32 block)
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

static pg_noinline char *
attachChunk(AnnGraph *graph, uint32 chunk)
{
	graph->chunks[chunk] = blockAddress(graph, graph->shared->chunk_block[chunk]);
	return graph->chunks[chunk];
}

static inline char *
chunkOf(AnnGraph *graph, AnnGraphNode node)
{
	uint32		chunk = node >> graph->chunk_shift;

	return likely(graph->chunks[chunk] != NULL) ? graph->chunks[chunk] : attachChunk(graph, chunk);
}

static inline char *
pointOf(AnnGraph *graph, AnnGraphNode node)
{
	uint32		mask = (1U << graph->chunk_shift) - 1;

	return chunkOf(graph, node) + (Size) (node & mask) * graph->shape.point_size;
}

static inline AnnGraphNode *
linksOf(AnnGraph *graph, AnnGraphNode node)
{
	uint32		mask = (1U << graph->chunk_shift) - 1;

	return (AnnGraphNode *) (chunkOf(graph, node) + ((Size) (mask + 1) * graph->shape.point_size +
													 (Size) (node & mask) * graph->shape.links_size));
}

static inline AnnHalf *
lengthsOf(const AnnGraph *graph, AnnGraphNode *links)
{
	return (AnnHalf *) (links + graph->shape.slots);
}

static inline AnnGraphLinksTail *
tailOf(const AnnGraph *graph, AnnGraphNode *links)
{
	return (AnnGraphLinksTail *) ((char *) links +
								  TYPEALIGN(sizeof(uint32), (sizeof(AnnGraphNode) + sizeof(AnnHalf)) * (Size) graph->shape.slots));
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
	memcpy(blockAddress(graph, payload->block) + payload->offset, data, size);
	graph->payload_used += MAXALIGN(size);
	return true;
}

static inline AnnGraphForm
formOf(const AnnGraph *graph)
{
	return graph->shape.form;
}

static inline bool
isSparse(const AnnGraph *graph)
{
	return graph->shape.layout.element == ANN_ELEMENT_SPARSE;
}

/* The vector of a node without codes: as AnnHnswPairLength wants it. */
static const char *
vectorOf(AnnGraph *graph, AnnGraphNode node)
{
	const char *point = pointOf(graph, node);

	if (isSparse(graph))
	{
		const AnnGraphPayload *payload = (const AnnGraphPayload *) point;

		return blockAddress(graph, payload->block) + payload->offset;
	}
	return point;
}

/* Of two residuals as bytes. */
static inline float
int8Distance2(const AnnGraph *graph, const char *a, const char *b)
{
	const AnnGraphInt8 *x = (const AnnGraphInt8 *) a;
	const AnnGraphInt8 *y = (const AnnGraphInt8 *) b;
	float		ip = (float) ann_kernels.ip_i8(x->x, y->x, graph->shape.layout.dim);

	return x->norm * x->norm + y->norm * y->norm - 2 * x->scale * y->scale * ip;
}

/* Squared length between two vectors without codes. */
static float
vectorDistance2(const AnnGraph *graph, const char *a, const char *b)
{
	float		length;

	if (graph->shape.layout.element <= ANN_ELEMENT_HALF)
		length = AnnHnswPairLength(graph->space, (const float *) a, NULL, (const float *) b, NULL);
	else
		length = AnnHnswPairLength(graph->space, NULL, a, NULL, b);
	return length * length;
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

static void
clearSeen(AnnGraph *graph)
{
	for (int i = 0; i < graph->ntouched; i++)
		graph->seen[graph->touched[i] / 64] = 0;
	graph->ntouched = 0;
}

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

/* ---- search ---- */

/*
 * Marks a node as seen; appends it to graph->touched if it was not before.  There
 * is room.
 */
static inline void
markSeen(AnnGraph *graph, AnnGraphNode node)
{
	uint64	   *word = &graph->seen[node / 64];
	uint64		bit = UINT64CONST(1) << (node % 64);

	graph->touched[graph->ntouched] = node;
	graph->ntouched += (*word & bit) == 0;
	*word |= bit;
}

static void
makeRoomForTouched(AnnGraph *graph, int more)
{
	while (graph->ntouched + more > graph->touched_capacity)
	{
		graph->touched_capacity *= 2;
		graph->touched = repalloc_huge(graph->touched, mul_size(sizeof(AnnGraphNode), graph->touched_capacity));
	}
}

/* Estimates from codes that lie `stride` bytes apart, each behind its factors. */
static void
estimate(const AnnGraph *graph, const char *points, Size stride, int n, float *d2)
{
	AnnCodeArray array = {0};

	array.codes = points + CODE_OFFSET;
	array.code_stride = stride;
	array.factors = points;
	array.factor_stride = stride;
	array.form = ANN_FACTORS_HALF2;
	array.count = n;
	AnnEstimateBatch(graph->query, &array, d2, NULL);
}

/* Distances of the prepared row from nodes. */
static void
distancesTo(AnnGraph *graph, const AnnGraphNode *nodes, int n, float *d2)
{
	switch (formOf(graph))
	{
		case ANN_GRAPH_CODE:
			{
				Size		stride = graph->gather_stride;
				char	   *to = graph->gathered;

				/* What is copied beyond a point is another one, or links. */
				for (int i = 0; i < n; i++, to += stride)
				{
					const char *from = pointOf(graph, nodes[i]);

					for (Size at = 0; at < stride; at += GATHER_STEP)
						memcpy(to + at, from + at, GATHER_STEP);
				}
				estimate(graph, graph->gathered, stride, n, d2);
				break;
			}
		case ANN_GRAPH_INT8:
			for (int i = 0; i < n; i++)
				d2[i] = int8Distance2(graph, graph->point, pointOf(graph, nodes[i]));
			break;
		case ANN_GRAPH_VECTOR:
			for (int i = 0; i < n; i++)
				d2[i] = vectorDistance2(graph, isSparse(graph) ? graph->stored : graph->point,
										vectorOf(graph, nodes[i]));
			break;
	}
}

static inline bool
beamTakes(const AnnGraph *graph, float d2)
{
	return graph->nbeam < graph->shape.ef || d2 < graph->beam_d2[graph->nbeam - 1];
}

/* Puts a node into the beam; returns its place. */
static inline int
addToBeam(AnnGraph *graph, AnnGraphNode node, float d2)
{
	AnnGraphNode *beam = graph->beam;
	float	   *beam_d2 = graph->beam_d2;
	int			n = graph->nbeam;
	int			at = 0;

	if (n == graph->shape.ef)
	{
		n--;
		if ((beam[n] & EXPANDED) && graph->ndropped < graph->shape.ef)
		{
			graph->dropped[graph->ndropped].d2 = beam_d2[n];
			graph->dropped[graph->ndropped++].node = beam[n] & ~EXPANDED;
		}
	}
	/* A vector loop is done sooner than a search whose steps wait for each other. */
	for (int i = 0; i < n; i++)
		at += beam_d2[i] <= d2;
	memmove(beam_d2 + at + 1, beam_d2 + at, sizeof(float) * (n - at));
	memmove(beam + at + 1, beam + at, sizeof(AnnGraphNode) * (n - at));
	beam_d2[at] = d2;
	beam[at] = node;
	graph->nbeam = n + 1;
	return at;
}

/* Offers nodes to the beam; returns the first place that changed, or `next` if that is before. */
static int
offerToBeam(AnnGraph *graph, const AnnGraphNode *nodes, const float *d2, int n, int next)
{
	bool		full = graph->nbeam >= graph->shape.ef;
	float		limit = full ? graph->beam_d2[graph->nbeam - 1] : 0;
	int		   *near = graph->near;
	int			nnear = 0;

	/* Most are too far.  Which ones cannot be predicted: so without branches. */
	for (int i = 0; i < n; i++)
	{
		near[nnear] = i;
		nnear += !full | (d2[i] < limit);
	}
	for (int i = 0; i < nnear; i++)
		if (beamTakes(graph, d2[near[i]]))
		{
			int			at = addToBeam(graph, nodes[near[i]], d2[near[i]]);

			next = Min(next, at);
		}
	return next;
}

static void
startSearch(AnnGraph *graph)
{
	AnnGraphShared *shared = graph->shared;
	int			n = (int) *(volatile uint32 *) &shared->nentries;
	AnnGraphNear best[START_ENTRIES];
	int			nbest = 0;
	int			first;

	pg_read_barrier();
	if (formOf(graph) == ANN_GRAPH_CODE)
		estimate(graph, graph->entry_points, entryPointSize(&graph->shape), n, graph->estimates);
	else
		distancesTo(graph, graph->entries, n, graph->estimates);
	for (int i = 0; i < n; i++)
	{
		int			at;

		if (nbest == START_ENTRIES && graph->estimates[i] >= best[nbest - 1].d2)
			continue;
		at = nbest < START_ENTRIES ? nbest++ : nbest - 1;
		for (; at > 0 && best[at - 1].d2 > graph->estimates[i]; at--)
			best[at] = best[at - 1];
		best[at].d2 = graph->estimates[i];
		best[at].node = graph->entries[i];
	}

	/* An entry may have been replaced while it was read: ask its node. */
	first = graph->ntouched;
	makeRoomForTouched(graph, nbest + 1);
	for (int i = 0; i < nbest; i++)
		markSeen(graph, best[i].node);
	n = graph->ntouched - first;
	distancesTo(graph, graph->touched + first, n, graph->estimates);
	offerToBeam(graph, graph->touched + first, graph->estimates, n, 0);
}

static int
compareNear(const void *a, const void *b)
{
	const AnnGraphNear *x = (const AnnGraphNear *) a;
	const AnnGraphNear *y = (const AnnGraphNear *) b;

	return x->d2 < y->d2 ? -1 : x->d2 > y->d2 ? 1 : 0;
}

static inline void
prefetchPoint(AnnGraph *graph, AnnGraphNode node)
{
	const char *point = pointOf(graph, node);
	Size		size = Min(graph->shape.compared_size, 1024);

	for (Size i = 0; i < size; i += 64)
		__builtin_prefetch(point + i);
	__builtin_prefetch(point + size - 1);
}

static inline void
prefetchLinks(AnnGraph *graph, AnnGraphNode node)
{
	const char *links = (const char *) linksOf(graph, node);
	Size		size = sizeof(AnnGraphNode) * (Size) graph->shape.slots;

	for (Size i = 0; i < size; i += 64)
		__builtin_prefetch(links + i);
	__builtin_prefetch(links + size - 1);
}

/*
 * Best-first search for the prepared row.  Fills graph->candidates, ascending,
 * with what was expanded: the beam and what was dropped on the way.
 */
static void
searchNearest(AnnGraph *graph, AnnGraphNode self)
{
	int			next = 0;
	int			n = 0;

	clearSeen(graph);
	markSeen(graph, self);
	graph->nbeam = 0;
	graph->ndropped = 0;
	startSearch(graph);
	for (;;)
	{
		int			first = graph->ntouched;
		int			nfresh;
		int			expanded = 0;

		/* Several at once, so that memory has something to do while it is waited for. */
		makeRoomForTouched(graph, EXPAND_AT_ONCE * graph->shape.slots + 1);
		for (int i = next; i < graph->nbeam && expanded < EXPAND_AT_ONCE; i++)
		{
			AnnGraphNode *links;

			if (graph->beam[i] & EXPANDED)
				continue;
			links = linksOf(graph, graph->beam[i]);
			graph->beam[i] |= EXPANDED;
			expanded++;
			for (int j = 0; j < graph->shape.slots; j++)
			{
				AnnGraphNode node = *(volatile AnnGraphNode *) &links[j];

				if (node == ANN_GRAPH_NO_NODE)
					break;
				markSeen(graph, node);
			}
		}
		if (expanded == 0)
			break;
		pg_read_barrier();
		nfresh = graph->ntouched - first;
		for (int i = 0; i < nfresh; i++)
			prefetchPoint(graph, graph->touched[first + i]);
		distancesTo(graph, graph->touched + first, nfresh, graph->estimates);
		next = offerToBeam(graph, graph->touched + first, graph->estimates, nfresh, next);
		while (next < graph->nbeam && (graph->beam[next] & EXPANDED))
			next++;
		for (int i = next; i < graph->nbeam && i < next + PREFETCH_LINKS; i++)
			if (!(graph->beam[i] & EXPANDED))
				prefetchLinks(graph, graph->beam[i]);
	}

	for (int i = 0; i < graph->nbeam; i++)
	{
		graph->candidates[n].d2 = graph->beam_d2[i];
		graph->candidates[n++].node = graph->beam[i] & ~EXPANDED;
	}
	qsort(graph->dropped, graph->ndropped, sizeof(AnnGraphNear), compareNear);
	for (int i = 0; i < graph->ndropped; i++)
		graph->candidates[n++] = graph->dropped[i];
	graph->ncandidates = n;
}

/* ---- choice of edges ---- */

static inline void
loadProbe(AnnGraph *graph, Probe *probe, const char *point)
{
	probe->data = point;
	probe->norm = 0;
	if (formOf(graph) == ANN_GRAPH_CODE)
	{
		AnnHalf		norm;

		memcpy(&norm, point, sizeof(norm));
		probe->norm = AnnHalfToFloat(norm) * graph->norm_scale;
		probe->data += CODE_OFFSET;
	}
}

static inline void
loadNodeProbe(AnnGraph *graph, Probe *probe, AnnGraphNode node)
{
	loadProbe(graph, probe, formOf(graph) == ANN_GRAPH_VECTOR ? vectorOf(graph, node) : pointOf(graph, node));
}

/* Squared distance of two nodes. */
static inline float
probeDistance2(const AnnGraph *graph, const Probe *a, const Probe *b)
{
	switch (formOf(graph))
	{
		case ANN_GRAPH_CODE:
			{
				/* As AnnCodeDistance2, with the cosine of the angle (README of quantize) from a table. */
				uint64		differ = ann_kernels.hamming((const uint8_t *) a->data, (const uint8_t *) b->data,
														 graph->shape.code.nbits / 8);
				float		difference = a->norm - b->norm;

				return difference * difference + 2 * a->norm * b->norm * graph->versine[differ];
			}
		case ANN_GRAPH_INT8:
			return int8Distance2(graph, a->data, b->data);
		default:
			return vectorDistance2(graph, a->data, b->data);
	}
}

/*
 * The relative neighbourhood rule over the candidates, ascending: one is
 * occluded if a kept one is nearer to it than its length allows.  Fills
 * graph->chosen, ascending, with what is kept and, while there are slots, the
 * nearest occluded ones; graph->occluded tells which.
 */
static int
chooseEdges(AnnGraph *graph)
{
	int			n = graph->ncandidates;
	float		alpha = graph->shared->alpha;
	int			slots = graph->shape.slots;
	int			nkept = 0;
	int			kept[256];
	int			nchosen = 0;

	for (int i = 0; i < n; i++)
		loadNodeProbe(graph, &graph->probes[i], graph->candidates[i].node);
	for (int i = 0; i < n; i++)
	{
		graph->occluded[i] = nkept >= slots;
		for (int j = 0; j < nkept && !graph->occluded[i]; j++)
			graph->occluded[i] = AnnHnswOccludes2(alpha, probeDistance2(graph, &graph->probes[kept[j]], &graph->probes[i]),
												 graph->candidates[i].d2);
		if (!graph->occluded[i])
			kept[nkept++] = i;
	}
	slots -= nkept;
	for (int i = 0; i < n; i++)
		if (!graph->occluded[i] || slots-- > 0)
			graph->chosen[nchosen++] = i;
	return nchosen;
}

/*
 * Samples how many candidates each alpha would keep, and moves alpha towards the
 * one that fills the wanted share of the slots.
 */
static void
tuneAlpha(AnnGraph *graph)
{
	int			n = Min(graph->ncandidates, ALPHA_CANDIDATES);
	AnnGraphShared *shared = graph->shared;
	float		wanted = ANN_HNSW_ALPHA_KEEPS * graph->shape.slots;
	float		rate;
	int			a;

	for (int i = 1; i < n; i++)
		for (int j = 0; j < i; j++)
			graph->pairs[i * n + j] = probeDistance2(graph, &graph->probes[i], &graph->probes[j]);

	LWLockAcquire(&shared->alpha_lock, LW_EXCLUSIVE);
	rate = 1.0f / Min(shared->alpha_samples + 1, ALPHA_MEMORY);
	shared->alpha_samples++;
	for (a = 0; a < ANN_GRAPH_ALPHAS; a++)
	{
		int			nkept = 0;

		for (int i = 0; i < n; i++)
		{
			bool		occluded = false;

			for (int j = 0; j < i && !occluded; j++)
				occluded = !graph->occluded[j] &&
					AnnHnswOccludes2(alphas[a], graph->pairs[i * n + j], graph->candidates[i].d2);
			graph->occluded[i] = occluded;
			nkept += !occluded;
		}
		shared->kept[a] += (nkept - shared->kept[a]) * rate;
	}
	for (a = 0; a < ANN_GRAPH_ALPHAS - 1 && shared->kept[a] < wanted; a++)
		;
	if (a == 0 || shared->kept[a] < wanted)
		shared->alpha = alphas[a];
	else
		shared->alpha = alphas[a - 1] + (alphas[a] - alphas[a - 1]) *
			(wanted - shared->kept[a - 1]) / Max(shared->kept[a] - shared->kept[a - 1], 1e-6f);
	LWLockRelease(&shared->alpha_lock);
}

/* ---- edges ---- */

static inline AnnHalf
packLength(const AnnGraph *graph, float d2, bool occluded)
{
	AnnHalf		half = AnnFloatToHalf(sqrtf(Max(d2, 0.0f)) / graph->length_scale);

	/* A length out of range is the longest. */
	if (half >= 0x7C00)
		half = 0x7BFF;
	return half | (occluded ? OCCLUDED : 0);
}

static inline float
lengthOf(const AnnGraph *graph, AnnHalf half)
{
	return AnnHalfToFloat(half & ~OCCLUDED) * graph->length_scale;
}

static inline int
countLinks(const AnnGraph *graph, const AnnGraphNode *links)
{
	int			n = graph->shape.slots;

	while (n > 0 && links[n - 1] == ANN_GRAPH_NO_NODE)
		n--;
	return n;
}

static void
removeLink(AnnGraph *graph, AnnGraphNode *links, int count, int at)
{
	AnnHalf    *lengths = lengthsOf(graph, links);

	memmove(links + at, links + at + 1, sizeof(AnnGraphNode) * (count - at - 1));
	memmove(lengths + at, lengths + at + 1, sizeof(AnnHalf) * (count - at - 1));
	links[count - 1] = ANN_GRAPH_NO_NODE;
	lengths[count - 1] = 0;
}

static void
insertLink(AnnGraph *graph, AnnGraphNode *links, int count, int at, AnnGraphNode node, AnnHalf length)
{
	AnnHalf    *lengths = lengthsOf(graph, links);

	memmove(links + at + 1, links + at, sizeof(AnnGraphNode) * (count - at));
	memmove(lengths + at + 1, lengths + at, sizeof(AnnHalf) * (count - at));
	links[at] = node;
	lengths[at] = length;
}

/*
 * Adds an edge from `from` to the prepared row, which is graph->own_probe.  The
 * rule of hnsw_prune.c, with the occlusions of older edges remembered:
 * of the edges and the new one the furthest occluded is dropped when there is no
 * slot; if none is, the furthest.
 */
static void
addBackLink(AnnGraph *graph, AnnGraphNode from, AnnGraphNode node, float d2)
{
	float		alpha = graph->shared->alpha;
	AnnGraphNode *links = linksOf(graph, from);
	AnnHalf    *lengths = lengthsOf(graph, links);
	AnnHalf		length = packLength(graph, d2, false);
	LWLock	   *lock = &graph->shared->node_locks[from % ANN_GRAPH_NODE_LOCKS];
	Probe		probe;
	int			count;
	int			at;
	int			victim;
	bool		occluded = false;

	if (graph->parallel)
		LWLockAcquire(lock, LW_EXCLUSIVE);
	count = countLinks(graph, links);
	for (at = count; at > 0 && (lengths[at - 1] & ~OCCLUDED) > length; at--)
		;

	for (int i = 0; i < at && !occluded; i++)
		if (!(lengths[i] & OCCLUDED))
		{
			loadNodeProbe(graph, &probe, links[i]);
			occluded = AnnHnswOccludes2(alpha, probeDistance2(graph, &graph->own_probe, &probe), d2);
		}
	if (!occluded)
		for (int i = at; i < count; i++)
			if (!(lengths[i] & OCCLUDED))
			{
				float		l = lengthOf(graph, lengths[i]);

				loadNodeProbe(graph, &probe, links[i]);
				if (AnnHnswOccludes(alpha, probeDistance2(graph, &graph->own_probe, &probe), l))
					lengths[i] |= OCCLUDED;
			}

	if (count == graph->shape.slots)
	{
		for (victim = count - 1; victim >= 0 && !(lengths[victim] & OCCLUDED); victim--)
			;
		/* Of equal ones any may go. */
		if (occluded && victim >= 0 && lengths[victim] == (length | OCCLUDED) && pg_prng_bool(&graph->random))
		{
			int			equals = 0;

			for (int i = 0; i < count; i++)
				if (lengths[i] == (length | OCCLUDED) && pg_prng_uint64_range(&graph->random, 0, equals++) == 0)
					victim = i;
			at = victim;
		}
		if ((occluded && victim < at) || (victim < 0 && at == count))
			victim = count;		/* the new one itself */
		else if (victim < 0)
			victim = count - 1;
		if (victim < count)
		{
			removeLink(graph, links, count, victim);
			count--;
			if (victim < at)
				at--;
		}
	}
	if (count < graph->shape.slots)
		insertLink(graph, links, count, at, node, length | (occluded ? OCCLUDED : 0));
	if (graph->parallel)
		LWLockRelease(lock);
}

/* Makes the prepared row, which is `node`, one of the entries if the sample wants it. */
static void
offerEntry(AnnGraph *graph, AnnGraphNode node)
{
	AnnGraphShared *shared = graph->shared;
	uint32		at;

	if (node >= shared->max_entries &&
		pg_prng_uint64_range(&graph->random, 0, node) >= shared->max_entries)
		return;
	LWLockAcquire(&shared->entry_lock, LW_EXCLUSIVE);
	at = shared->nentries < shared->max_entries ? shared->nentries :
		(uint32) pg_prng_uint64_range(&graph->random, 0, shared->max_entries - 1);
	memcpy(graph->entry_points + at * entryPointSize(&graph->shape), graph->point, entryPointSize(&graph->shape));
	graph->entries[at] = node;
	pg_write_barrier();
	if (at == shared->nentries)
		shared->nentries++;
	LWLockRelease(&shared->entry_lock);
}

/*
 * Finds the neighbours of the prepared row, which is `node`, and makes the edges
 * in both directions.
 */
void
AnnGraphConnect(AnnGraph *graph, AnnGraphNode node)
{
	AnnGraphNode *links = linksOf(graph, node);
	AnnHalf    *lengths = lengthsOf(graph, links);
	int			nchosen;

	searchNearest(graph, node);
	nchosen = chooseEdges(graph);
	for (int i = 0; i < nchosen; i++)
	{
		int			c = graph->chosen[i];

		links[i] = graph->candidates[c].node;
		lengths[i] = packLength(graph, graph->candidates[c].d2, graph->occluded[c]);
	}
	if (node >= ALPHA_MIN_NODES && graph->connected++ % ALPHA_SAMPLE_EVERY == 0)
		tuneAlpha(graph);
	pg_write_barrier();

	loadProbe(graph, &graph->own_probe, isSparse(graph) ? graph->stored : graph->point);
	for (int i = 0; i < nchosen; i++)
		addBackLink(graph, graph->candidates[graph->chosen[i]].node, node, graph->candidates[graph->chosen[i]].d2);
	offerEntry(graph, node);
}

/* ---- when every row is in ---- */

static inline bool
getBit(const uint8 *bits, AnnGraphNode node)
{
	return (bits[node / 8] >> (node % 8)) & 1;
}

static inline void
setBit(uint8 *bits, AnnGraphNode node)
{
	bits[node / 8] |= (uint8) (1 << (node % 8));
}

/*
 * Marks what can be reached from marked nodes.  Sweeps in place of a queue, which
 * could take as much memory as the graph; each goes on where the last one left
 * new marks.
 */
static void
spread(AnnGraph *graph, uint8 *reached, uint8 *expanded, uint32 n)
{
	bool		again;

	do
	{
		again = false;
		for (AnnGraphNode node = 0; node < n; node++)
		{
			AnnGraphNode *links;

			if (node % 8 == 0 && reached[node / 8] == expanded[node / 8])
			{
				node += 7;
				continue;
			}
			if (!getBit(reached, node) || getBit(expanded, node))
				continue;
			setBit(expanded, node);
			links = linksOf(graph, node);
			for (int i = 0; i < graph->shape.slots && links[i] != ANN_GRAPH_NO_NODE; i++)
				if (!getBit(reached, links[i]))
				{
					setBit(reached, links[i]);
					again = again || links[i] < node;
				}
		}
		CHECK_FOR_INTERRUPTS();
	} while (again);
}

/*
 * Gives `node` an edge from one of its neighbours: one with a free slot, or in
 * place of the furthest edge, occluded if possible, whose target keeps other
 * edges to it.  True if it has one now.
 */
static bool
linkFromNeighbour(AnnGraph *graph, AnnGraphNode node, const uint8 *reached, uint8 *indegree)
{
	AnnGraphNode *links = linksOf(graph, node);
	AnnHalf    *lengths = lengthsOf(graph, links);
	int			n = countLinks(graph, links);

	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < n; i++)
		{
			AnnGraphNode *from = linksOf(graph, links[i]);
			AnnHalf    *from_lengths = lengthsOf(graph, from);
			AnnHalf		length = lengths[i] & ~OCCLUDED;
			int			count = countLinks(graph, from);
			int			at;

			if (!getBit(reached, links[i]))
				continue;
			/* Linked itself since the last look, it may have the edge all along. */
			for (at = 0; at < count; at++)
				if (from[at] == node)
					return true;
			if (count == graph->shape.slots)
			{
				int			victim = count - 1;

				while (victim >= 0 && (indegree[from[victim]] < 3 || (pass == 0 && !(from_lengths[victim] & OCCLUDED))))
					victim--;
				if (victim < 0)
					continue;
				indegree[from[victim]]--;
				removeLink(graph, from, count--, victim);
			}
			for (at = count; at > 0 && (from_lengths[at - 1] & ~OCCLUDED) > length; at--)
				;
			insertLink(graph, from, count, at, node, length);
			indegree[node]++;
			return true;
		}
	return false;
}

/*
 * Links nodes that cannot be reached from the entries.  Returns how many there
 * were.  Nobody else works on the graph.  Needs a byte and a quarter for each
 * node.
 */
uint32
AnnGraphLinkUnreachable(AnnGraph *graph, const AnnGraphNode *entries, uint32 nentries)
{
	uint32		n = AnnGraphCount(graph);
	Size		bytes = n / 8 + 1;
	uint8	   *reached = MemoryContextAllocExtended(CurrentMemoryContext, bytes, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	uint8	   *expanded = MemoryContextAllocExtended(CurrentMemoryContext, bytes, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	uint8	   *indegree = MemoryContextAllocExtended(CurrentMemoryContext, (Size) n + 1, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	uint32		unreachable = 0;
	bool		first = true;

	for (AnnGraphNode node = 0; node < n; node++)
	{
		AnnGraphNode *links = linksOf(graph, node);

		for (int i = 0; i < graph->shape.slots && links[i] != ANN_GRAPH_NO_NODE; i++)
			if (indegree[links[i]] < 255)
				indegree[links[i]]++;
	}

	/* A link may cut off what was reached through the one it replaces: look again. */
	for (int round = 0; round < 3; round++)
	{
		bool		linked = false;

		memset(reached, 0, bytes);
		memset(expanded, 0, bytes);
		for (uint32 i = 0; i < nentries; i++)
			setBit(reached, entries[i]);
		spread(graph, reached, expanded, n);
		for (AnnGraphNode node = 0; node < n; node++)
		{
			if (getBit(reached, node))
				continue;
			unreachable += first;
			if (linkFromNeighbour(graph, node, reached, indegree))
			{
				setBit(reached, node);
				linked = true;
			}
		}
		first = false;
		if (!linked)
			break;
	}
	pfree(reached);
	pfree(expanded);
	pfree(indegree);
	return unreachable;
}

/* ---- into the index ---- */

/*
 * Writes a node's edges into its row of the index.
 */
void
AnnGraphWriteSlots(AnnGraph *graph, AnnGraphNode node, AnnHnswRowHeader *row)
{
	const AnnGraphShape *shape = &graph->shape;
	const AnnHnswLayout *layout = &shape->layout;
	AnnGraphNode *links = linksOf(graph, node);
	AnnHalf    *lengths = lengthsOf(graph, links);
	int			n = countLinks(graph, links);
	float		length[256];
	AnnHalf		halves[256];

	for (int i = 0; i < n; i++)
	{
		prefetchPoint(graph, links[i]);
		__builtin_prefetch(tailOf(graph, linksOf(graph, links[i])));
		length[i] = copysignf(lengthOf(graph, lengths[i]), lengths[i] & OCCLUDED ? -1 : 1);
	}
	ann_kernels.f32_to_f16(length, halves, n);

	row->nedges = (uint8) n;
	for (int i = 0; i < n; i++)
	{
		const char *point = pointOf(graph, links[i]);
		AnnGraphNode *to = linksOf(graph, links[i]);

		if (AnnHnswHasCodes(layout))
		{
			AnnHnswSlot *slot = AnnHnswCodedSlot(layout, row, i);

			AnnHnswSlotSetRow(slot, tailOf(graph, to)->row);
			slot->length = halves[i];
			memcpy(&slot->add, point + shape->index_factors, sizeof(AnnHalf));
			memcpy(&slot->mul, point + shape->index_factors + sizeof(AnnHalf), sizeof(AnnHalf));
			if (layout->hint_size > 0)
				memcpy(slot + 1, (char *) to + shape->links_hint, sizeof(uint16));
			memcpy(AnnHnswSlotCode(layout, slot), point + shape->index_code, layout->code_size);
		}
		else
		{
			AnnHnswPlainSlot *slot = AnnHnswGetPlainSlot(layout, row, i);

			slot->row = tailOf(graph, to)->row;
			slot->length = length[i];
		}
	}
}
