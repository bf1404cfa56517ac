/*
 * hnsw_build.c
 *	  CREATE INDEX: sample, graph in memory, rows and edges to pages, by one
 *	  backend or several.  README: Build.
 */
#include "postgres.h"

#include <math.h>

#include "access/parallel.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xloginsert.h"
#include "catalog/index.h"
#include "commands/progress.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "pgstat.h"
#include "storage/barrier.h"
#include "storage/bufmgr.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/sampling.h"
#include "utils/snapmgr.h"

#include "hnsw/hnsw_graph.h"
#include "hnsw/hnsw_options.h"

#define KEY_SHARED			UINT64CONST(0xA400000000000001)
#define KEY_SCAN			UINT64CONST(0xA400000000000002)
#define KEY_CENTER			UINT64CONST(0xA400000000000003)
#define KEY_GRAPH			UINT64CONST(0xA400000000000004)
#define KEY_QUERY_TEXT		UINT64CONST(0xA400000000000005)

/* The sample that centre and scales come from. */
#define SAMPLE_BLOCKS 512
#define SAMPLE_ROWS 2048

#define MAX_BUILD_PARTICIPANTS 64

#define ALPHA_WITHOUT_ROWS 1.2f

/* Nodes that a participant takes at a time to write their edges. */
#define WRITE_NODES 2048

/* Phases of the build barrier. */
typedef enum BuildPhase
{
	PHASE_SCAN,
	PHASE_FINISH,
	PHASE_WRITE,
	PHASE_DONE
} BuildPhase;

/* What pg_stat_progress_create_index shows. */
typedef enum ProgressPhase
{
	PROGRESS_SAMPLE = PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE + 1,
	PROGRESS_GRAPH,
	PROGRESS_LINK,
	PROGRESS_WRITE,
	PROGRESS_LOG
} ProgressPhase;

/* What the participants of a build share. */
typedef struct BuildShared
{
	Oid			heap;
	Oid			index;
	bool		concurrent;
	AnnHnswMetaPageData meta;

	Barrier		barrier;
	pg_atomic_uint64 done;		/* rows of the table that were handled */
	pg_atomic_uint32 next_write;

	slock_t		mutex;			/* what follows */
	double		heap_tuples;
	double		index_tuples;
	double		rows;			/* rows of the index */
	bool		broken_hot_chain;
	int			nparticipants;
	BlockNumber open_page[MAX_BUILD_PARTICIPANTS];	/* ROW pages with room */
} BuildShared;

/* A participant. */
typedef struct BuildState
{
	Relation	heap;
	Relation	index;
	IndexInfo  *info;
	BuildShared *shared;
	AnnHnswMetaPageData meta;	/* a copy: layout and code */
	AnnHnswSpace space;
	AnnGraph   *graph;
	bool		parallel;
	bool		leader;
	MemoryContext tuple_context;

	Buffer		row_buffer;		/* pinned ROW page with room, or invalid */
	BlockNumber row_block;
	int			row_slot;		/* next free one there */
	ItemPointerData *tids[2];	/* heap TIDs of NULLs, of vectors without a place */
	int			ntids[2];
	double		index_tuples;
	double		rows;
} BuildState;

PGDLLEXPORT void AnnHnswParallelBuildMain(dsm_segment *seg, shm_toc *toc);

/* ambuildphasename */
char *
AnnHnswBuildPhaseName(int64 phase)
{
	switch (phase)
	{
		case PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE:
			return "initializing";
		case PROGRESS_SAMPLE:
			return "sampling table";
		case PROGRESS_GRAPH:
			return "building graph";
		case PROGRESS_LINK:
			return "linking unreachable rows";
		case PROGRESS_WRITE:
			return "writing edges";
		case PROGRESS_LOG:
			return "logging pages";
		default:
			return NULL;
	}
}

static void
reportPhase(ProgressPhase phase)
{
	pgstat_progress_update_param(PROGRESS_CREATEIDX_SUBPHASE, phase);
}

/* ---- sample ---- */

typedef struct Sample
{
	AnnHnswSpace space;
	double	   *sum;			/* double[dim], vector and halfvec only */
	double		norm2;			/* sum of squared norms */
	int			rows;			/* that were looked at */
	int			block_rows;		/* in this block */
	int			block_limit;
	double		placed;			/* rows with a value, whether looked at or not */
	double		lengths;		/* sum over pairs */
	int			pairs;
	char	   *stored;			/* the row before */
	float	   *dense;
	MemoryContext context;		/* of that row */
	MemoryContext tuple_context;
} Sample;

static void
sampleCallback(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	Sample	   *sample = (Sample *) arg;
	MemoryContext old;
	AnnHnswPoint point;
	int			dim = (int) sample->space.layout.dim;

	if (isnull[0])
		return;
	sample->placed++;
	if (sample->block_rows++ >= sample->block_limit)
		return;

	old = MemoryContextSwitchTo(sample->tuple_context);
	AnnHnswFormPoint(&sample->space, values[0], &point);
	if (!point.unplaced)
	{
		sample->rows++;
		if (sample->sum != NULL)
		{
			for (int i = 0; i < dim; i++)
				sample->sum[i] += point.dense[i];
			sample->norm2 += ann_kernels.ip_f32(point.dense, point.dense, dim);
		}
		if (sample->stored != NULL)
		{
			float		length = AnnHnswPairLength(&sample->space, sample->dense, sample->stored,
												   point.dense, point.stored);

			if (length > 0 && isfinite(length))
			{
				sample->lengths += length;
				sample->pairs++;
			}
		}
		MemoryContextReset(sample->context);
		MemoryContextSwitchTo(sample->context);
		sample->stored = memcpy(palloc(point.stored_size), point.stored, point.stored_size);
		sample->dense = point.dense == NULL ? NULL :
			memcpy(palloc(sizeof(float) * dim), point.dense, sizeof(float) * dim);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(sample->tuple_context);
}

/*
 * Looks at rows of random blocks: estimates how many rows the index will have, and
 * sets the scales of codes and lengths and the centre (palloc'd; NULL without
 * codes, or if there is nothing to look at).
 */
static double
sampleTable(Relation heap, Relation index, IndexInfo *info, AnnHnswMetaPageData *meta,
			int *length_exp, float **center)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(heap);
	BlockNumber nsample;
	BlockSamplerData sampler;
	Sample		sample = {0};
	int			dim = (int) meta->layout.dim;

	*center = NULL;
	*length_exp = 0;
	if (nblocks == 0)
		return 0;

	AnnHnswSpaceInit(&sample.space, meta, NULL);
	sample.context = AllocSetContextCreate(CurrentMemoryContext, "hnsw build sample", ALLOCSET_DEFAULT_SIZES);
	sample.tuple_context = AllocSetContextCreate(CurrentMemoryContext, "hnsw build sample row", ALLOCSET_DEFAULT_SIZES);
	if (meta->layout.element <= ANN_ELEMENT_HALF)
		sample.sum = palloc0(sizeof(double) * dim);
	nsample = BlockSampler_Init(&sampler, nblocks, SAMPLE_BLOCKS, pg_prng_uint32(&pg_global_prng_state));
	sample.block_limit = (SAMPLE_ROWS + nsample - 1) / nsample;
	while (BlockSampler_HasMore(&sampler))
	{
		CHECK_FOR_INTERRUPTS();
		sample.block_rows = 0;
		table_index_build_range_scan(heap, index, info, false, true, false, BlockSampler_Next(&sampler), 1,
									 sampleCallback, &sample, NULL);
	}

	if (sample.pairs > 0)
		frexp(sample.lengths / sample.pairs, length_exp);
	if (AnnHnswHasCodes(&meta->layout) && sample.rows > 0)
	{
		double		norm2 = 0;

		*center = palloc(sizeof(float) * dim);
		for (int i = 0; i < dim; i++)
		{
			(*center)[i] = (float) (sample.sum[i] / sample.rows);
			norm2 += (double) (*center)[i] * (*center)[i];
			if (!isfinite((*center)[i]))
				norm2 = INFINITY;
		}
		if (isfinite(norm2) && isfinite(sample.norm2))
			AnnCodeParamsSetScale(&meta->code, (float) sqrt(Max(sample.norm2 / sample.rows - norm2, 0)));
		else
		{
			pfree(*center);
			*center = NULL;
		}
	}
	MemoryContextDelete(sample.context);
	MemoryContextDelete(sample.tuple_context);
	return sample.placed / nsample * nblocks;
}

/* ---- heap TIDs without a row ---- */

/*
 * Writes the gathered TIDs into a new TIDLIST page at the head of its list.
 */
static void
flushTids(BuildState *state, bool zero)
{
	Buffer		metabuf;
	Buffer		buffer;
	AnnHnswMetaPageData *meta;
	AnnHnswTidList *list;
	AnnPageEdit edit;
	Page		page;

	if (state->ntids[zero] == 0)
		return;
	metabuf = ReadBuffer(state->index, ANN_HNSW_META_BLOCK);
	LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
	buffer = AnnExtendRelation(state->index);
	edit = AnnPageEditBegin(state->index, ANN_WRITE_BUILD);
	meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));
	page = AnnPageEditAdd(&edit, buffer, true);
	AnnPageInit(page, ANN_HNSW_PAGE_ID, ANN_HNSW_TIDLIST);
	AnnPageSetRawSize(page, ANN_PAGE_USABLE);
	list = (AnnHnswTidList *) AnnPageRaw(page);
	list->ntids = state->ntids[zero];
	list->zero = zero;
	memcpy(list->tids, state->tids[zero], sizeof(ItemPointerData) * list->ntids);
	AnnPageOpaque(page)->next = zero ? meta->zero_tids : meta->null_tids;
	if (zero)
		meta->zero_tids = BufferGetBlockNumber(buffer);
	else
		meta->null_tids = BufferGetBlockNumber(buffer);
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
	UnlockReleaseBuffer(metabuf);
	state->ntids[zero] = 0;
}

static void
addTidWithoutRow(BuildState *state, bool zero, ItemPointer tid)
{
	if (state->tids[zero] == NULL)
		state->tids[zero] = MemoryContextAlloc(GetMemoryChunkContext(state),
											   sizeof(ItemPointerData) * ANN_HNSW_TIDLIST_CAPACITY);
	state->tids[zero][state->ntids[zero]++] = *tid;
	if (state->ntids[zero] == ANN_HNSW_TIDLIST_CAPACITY)
		flushTids(state, zero);
}

/* ---- rows ---- */

/*
 * Writes a row without edges into this participant's ROW page.
 */
static AnnRowId
writeRow(BuildState *state, const AnnHnswPoint *point, ItemPointer tid)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	AnnHnswRowHeader *row;
	ItemPointerData item;
	AnnRowId	id;

	if (AnnHnswVectorIsExternal(layout))
		item = AnnHnswWriteVector(state->index, ANN_WRITE_BUILD, point->stored, point->stored_size);
	if (!BufferIsValid(state->row_buffer))
	{
		state->row_buffer = AnnExtendRelation(state->index);
		state->row_block = BufferGetBlockNumber(state->row_buffer);
		state->row_slot = 0;
		if (state->row_block >= ANN_HNSW_NO_ROW / layout->rows_per_page)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("index \"%s\" cannot have more rows", RelationGetRelationName(state->index))));
		AnnHnswInitRowPage(BufferGetPage(state->row_buffer), layout);
	}
	else
		LockBuffer(state->row_buffer, BUFFER_LOCK_EXCLUSIVE);

	id = state->row_block * layout->rows_per_page + state->row_slot;
	row = AnnHnswRowOnPage(layout, BufferGetPage(state->row_buffer), state->row_slot);
	row->state = ANN_HNSW_LIVE;
	row->ntids = 1;
	row->tids[0] = *tid;
	row->node = ANN_HNSW_NO_NODE;
	row->hash = point->hash;
	if (AnnHnswVectorIsExternal(layout))
		memcpy(AnnHnswRowVector(row), &item, sizeof(item));
	else
		memcpy(AnnHnswRowVector(row), point->stored, point->stored_size);
	MarkBufferDirty(state->row_buffer);
	LockBuffer(state->row_buffer, BUFFER_LOCK_UNLOCK);
	if (++state->row_slot == layout->rows_per_page)
	{
		ReleaseBuffer(state->row_buffer);
		state->row_buffer = InvalidBuffer;
	}
	return id;
}

/* Whether the row's vector is the point's: AnnHnswAddTid does not look at external ones. */
static bool
externalVectorEquals(BuildState *state, AnnRowId row, const AnnHnswPoint *point)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	AnnHnswRowHeader *header;
	Buffer		buffer = AnnHnswLockRow(state->index, NULL, layout, row, BUFFER_LOCK_SHARE, &header);
	ItemPointerData item;
	char	   *vector;

	memcpy(&item, AnnHnswRowVector(header), sizeof(item));
	UnlockReleaseBuffer(buffer);
	vector = palloc(layout->vector_size);
	return AnnHnswReadVector(state->index, item, vector, layout->vector_size) == point->stored_size &&
		memcmp(vector, point->stored, point->stored_size) == 0;
}

/* Adds the TID to the row of an equal vector, if there is one. */
static bool
addToEqualRow(BuildState *state, const AnnHnswPoint *point, ItemPointer tid)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	AnnGraphNode node = ANN_GRAPH_NO_NODE;

	while ((node = AnnGraphFindEqual(state->graph, point->hash, node)) != ANN_GRAPH_NO_NODE)
	{
		AnnRowId	row = AnnGraphRow(state->graph, node);

		if (AnnHnswVectorIsExternal(layout) && !externalVectorEquals(state, row, point))
			continue;
		if (AnnHnswAddTid(state->index, ANN_WRITE_BUILD, layout, row, point->hash, point->stored,
						  point->stored_size, tid))
			return true;
	}
	return false;
}

static void
addValue(BuildState *state, Datum value, ItemPointer tid)
{
	AnnHnswPoint point;
	AnnGraphNode node = ANN_GRAPH_NO_NODE;
	LWLock	   *lock;

	AnnHnswFormPoint(&state->space, value, &point);
	if (point.unplaced)
	{
		addTidWithoutRow(state, true, tid);
		return;
	}
	AnnGraphPrepare(state->graph, point.dense, point.stored, point.stored_size);

	lock = AnnGraphValueLock(state->graph, point.hash);
	if (state->parallel)
		LWLockAcquire(lock, LW_EXCLUSIVE);
	if (!addToEqualRow(state, &point, tid))
	{
		node = AnnGraphAdd(state->graph, point.hash, writeRow(state, &point, tid), tid);
		state->rows++;
	}
	if (state->parallel)
		LWLockRelease(lock);
	if (node != ANN_GRAPH_NO_NODE)
		AnnGraphConnect(state->graph, node);
}

static void
buildCallback(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	BuildState *state = (BuildState *) arg;
	MemoryContext old = MemoryContextSwitchTo(state->tuple_context);
	uint64		done;

	if (isnull[0])
		addTidWithoutRow(state, false, tid);
	else
		addValue(state, values[0], tid);
	state->index_tuples++;
	MemoryContextSwitchTo(old);
	MemoryContextReset(state->tuple_context);

	done = pg_atomic_add_fetch_u64(&state->shared->done, 1);
	if (state->leader)
		pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, done);
}

/* ---- phases ---- */

/* Reads this participant's share of the table into pages and graph. */
static void
scanTable(BuildState *state, TableScanDesc scan)
{
	BuildShared *shared = state->shared;
	double		tuples = table_index_build_scan(state->heap, state->index, state->info, true, state->leader,
												buildCallback, state, scan);

	flushTids(state, false);
	flushTids(state, true);
	SpinLockAcquire(&shared->mutex);
	shared->heap_tuples += tuples;
	shared->index_tuples += state->index_tuples;
	shared->rows += state->rows;
	if (state->info->ii_BrokenHotChain)
		shared->broken_hot_chain = true;
	shared->open_page[shared->nparticipants++] = BufferIsValid(state->row_buffer) ? state->row_block : InvalidBlockNumber;
	SpinLockRelease(&shared->mutex);
	if (BufferIsValid(state->row_buffer))
		ReleaseBuffer(state->row_buffer);
	state->row_buffer = InvalidBuffer;
}

/* A sample of n of the graph's nodes, evenly spread over the order of their insertion. */
static AnnGraphNode *
sampleNodes(const AnnGraph *graph, uint32 *n)
{
	uint32		count = AnnGraphCount(graph);
	AnnGraphNode *nodes;

	*n = Min(*n, count);
	nodes = palloc(sizeof(AnnGraphNode) * Max(*n, 1));
	for (uint32 i = 0; i < *n; i++)
	{
		uint64		low = (uint64) count * i / *n;
		uint64		high = (uint64) count * (i + 1) / *n;

		nodes[i] = (AnnGraphNode) pg_prng_uint64_range(&pg_global_prng_state, low, high - 1);
	}
	return nodes;
}

/* Writes the entry table and what the meta page says about the whole. */
static void
writeEntries(BuildState *state, const AnnGraphNode *nodes, uint32 n)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	Size		size = AnnHnswEntrySize(layout);
	int			per_page = AnnHnswEntriesPerPage(layout);
	AnnHnswEntry *entry = palloc(size);

	for (uint32 i = 0; i < n; i += per_page)
	{
		Buffer		buffer = ReadBuffer(state->index, AnnHnswEntryBlock(&state->meta, layout, i));
		AnnPageEdit edit;
		Page		page;
		char	   *image = palloc0(ANN_PAGE_USABLE);

		for (uint32 j = 0; j < per_page && i + j < n; j++)
		{
			AnnGraphNode node = nodes[i + j];

			if (AnnHnswHasCodes(layout))
				AnnGraphFormEntry(state->graph, node, entry);
			else
			{
				AnnHnswRowHeader *header;
				AnnRowId	row = AnnGraphRow(state->graph, node);
				Buffer		rowbuf = AnnHnswLockRow(state->index, NULL, layout, row, BUFFER_LOCK_SHARE, &header);

				AnnHnswFormEntry(&state->space, row, NULL, AnnHnswRowVector(header), entry, NULL);
				UnlockReleaseBuffer(rowbuf);
			}
			memcpy(image + j * size, entry, size);
		}
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		AnnPageGet(state->index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ENTRY);
		edit = AnnPageEditBegin(state->index, ANN_WRITE_BUILD);
		page = AnnPageEditAdd(&edit, buffer, false);
		memcpy(AnnPageRaw(page), image, ANN_PAGE_USABLE);
		AnnPageEditCommit(&edit);
		UnlockReleaseBuffer(buffer);
		pfree(image);
	}
	pfree(entry);
}

/*
 * Ends the meta page: entries, alpha, rows, and the ROW pages that are not full.
 */
static void
finishMeta(BuildState *state, uint32 nentries)
{
	BuildShared *shared = state->shared;
	BlockNumber row_page = InvalidBlockNumber;
	AnnHnswMetaPageData *meta;
	AnnPageEdit edit;
	Buffer		metabuf;

	for (int i = 0; i < shared->nparticipants; i++)
	{
		if (!BlockNumberIsValid(shared->open_page[i]))
			continue;
		if (!BlockNumberIsValid(row_page))
		{
			row_page = shared->open_page[i];
			continue;
		}
		AnnHnswListRowPage(state->index, ANN_WRITE_BUILD, &state->meta.layout, shared->open_page[i]);
	}

	metabuf = ReadBuffer(state->index, ANN_HNSW_META_BLOCK);
	LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
	edit = AnnPageEditBegin(state->index, ANN_WRITE_BUILD);
	meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));
	meta->nentries = nentries;
	meta->entry_version++;
	meta->alpha = AnnGraphAlpha(state->graph);
	meta->rows = shared->rows;
	meta->row_page = row_page;
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(metabuf);
}

/* What one backend does between scan and write: entries, links of unreachable rows, meta page. */
static void
finishGraph(BuildState *state)
{
	uint32		nentries = state->meta.entry_capacity;
	AnnGraphNode *entries = sampleNodes(state->graph, &nentries);

	if (AnnGraphIsFull(state->graph))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("graph does not fit into maintenance_work_mem")));
	reportPhase(PROGRESS_LINK);
	AnnGraphLinkUnreachable(state->graph, entries, nentries);
	writeEntries(state, entries, nentries);
	finishMeta(state, nentries);
	pfree(entries);
}

/* Writes edges into rows: each participant takes nodes until none are left. */
static void
writeEdges(BuildState *state)
{
	const AnnHnswLayout *layout = &state->meta.layout;
	uint32		count = AnnGraphCount(state->graph);
	BlockNumber block = InvalidBlockNumber;
	Buffer		buffer = InvalidBuffer;

	for (;;)
	{
		uint32		start = pg_atomic_fetch_add_u32(&state->shared->next_write, WRITE_NODES);
		uint32		end = (uint32) Min((uint64) start + WRITE_NODES, count);

		if (start >= count)
			break;
		CHECK_FOR_INTERRUPTS();
		for (AnnGraphNode node = start; node < end; node++)
		{
			AnnRowId	row = AnnGraphRow(state->graph, node);

			if (block != AnnHnswRowBlock(layout, row))
			{
				if (BufferIsValid(buffer))
					ReleaseBuffer(buffer);
				block = AnnHnswRowBlock(layout, row);
				buffer = ReadBuffer(state->index, block);
			}
			LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
			AnnGraphWriteSlots(state->graph, node,
							   AnnHnswRowOnPage(layout, BufferGetPage(buffer), AnnHnswRowSlot(layout, row)));
			MarkBufferDirty(buffer);
			LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
		}
		if (state->leader)
			pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, end);
	}
	if (BufferIsValid(buffer))
		ReleaseBuffer(buffer);
}

/*
 * A participant's way through the phases.  One that comes late joins the phase
 * that the others are in.
 */
static void
takePart(BuildState *state, TableScanDesc scan)
{
	BuildShared *shared = state->shared;

	switch ((BuildPhase) BarrierAttach(&shared->barrier))
	{
		case PHASE_SCAN:
			if (state->leader)
				reportPhase(PROGRESS_GRAPH);
			scanTable(state, scan);
			BarrierArriveAndWait(&shared->barrier, PG_WAIT_EXTENSION);
			/* FALLTHROUGH */
		case PHASE_FINISH:
			if (state->leader)
				finishGraph(state);
			BarrierArriveAndWait(&shared->barrier, PG_WAIT_EXTENSION);
			/* FALLTHROUGH */
		case PHASE_WRITE:
			if (state->leader)
				reportPhase(PROGRESS_WRITE);
			writeEdges(state);
			BarrierArriveAndWait(&shared->barrier, PG_WAIT_EXTENSION);
			/* FALLTHROUGH */
		case PHASE_DONE:
			BarrierDetach(&shared->barrier);
	}
}

static BuildState *
createState(Relation heap, Relation index, IndexInfo *info, BuildShared *shared, AnnGraphShared *graph,
			const float *center, bool leader)
{
	BuildState *state = palloc0(sizeof(BuildState));

	state->heap = heap;
	state->index = index;
	state->info = info;
	state->shared = shared;
	state->meta = shared->meta;
	state->leader = leader;
	state->parallel = graph->parallel;
	state->row_buffer = InvalidBuffer;
	state->tuple_context = AllocSetContextCreate(CurrentMemoryContext, "hnsw build row", ALLOCSET_DEFAULT_SIZES);
	AnnHnswSpaceInit(&state->space, &state->meta, center);
	state->graph = AnnGraphAttach(graph, &state->space);
	return state;
}

static void
initShared(BuildShared *shared, Relation heap, Relation index, const IndexInfo *info,
		   const AnnHnswMetaPageData *meta)
{
	memset(shared, 0, sizeof(*shared));
	shared->heap = RelationGetRelid(heap);
	shared->index = RelationGetRelid(index);
	shared->concurrent = info->ii_Concurrent;
	shared->meta = *meta;
	BarrierInit(&shared->barrier, 0);
	pg_atomic_init_u64(&shared->done, 0);
	pg_atomic_init_u32(&shared->next_write, 0);
	SpinLockInit(&shared->mutex);
}

/* ---- serial ---- */

typedef struct BuildPlan
{
	Relation	heap;
	Relation	index;
	IndexInfo  *info;
	AnnHnswMetaPageData meta;
	AnnGraphShape shape;
	float	   *center;
	double		rows;			/* expected */
	Size		budget;			/* for nodes */
} BuildPlan;

static void
buildSerially(const BuildPlan *plan, BuildShared *shared)
{
	AnnGraphShared *graph = MemoryContextAllocHuge(CurrentMemoryContext,
												   AnnGraphSharedSize(&plan->shape, plan->rows, plan->budget));
	BuildState *state;

	initShared(shared, plan->heap, plan->index, plan->info, &plan->meta);
	AnnGraphSharedInit(graph, &plan->shape, plan->rows, plan->budget, false);
	state = createState(plan->heap, plan->index, plan->info, shared, graph, plan->center, true);
	takePart(state, NULL);
}

/* ---- parallel ---- */

void
AnnHnswParallelBuildMain(dsm_segment *seg, shm_toc *toc)
{
	BuildShared *shared = shm_toc_lookup(toc, KEY_SHARED, false);
	AnnGraphShared *graph = shm_toc_lookup(toc, KEY_GRAPH, false);
	float	   *center = shm_toc_lookup(toc, KEY_CENTER, true);
	LOCKMODE	heap_lock = shared->concurrent ? ShareUpdateExclusiveLock : ShareLock;
	LOCKMODE	index_lock = shared->concurrent ? RowExclusiveLock : AccessExclusiveLock;
	BuildState *state;
	Relation	heap;
	Relation	index;
	IndexInfo  *info;

	debug_query_string = shm_toc_lookup(toc, KEY_QUERY_TEXT, true);
	pgstat_report_activity(STATE_RUNNING, debug_query_string);

	heap = table_open(shared->heap, heap_lock);
	index = index_open(shared->index, index_lock);
	info = BuildIndexInfo(index);
	info->ii_Concurrent = shared->concurrent;
	state = createState(heap, index, info, shared, graph, center, false);
	takePart(state, table_beginscan_parallel(heap, shm_toc_lookup(toc, KEY_SCAN, false)));
	AnnGraphDetach(state->graph);
	index_close(index, index_lock);
	table_close(heap, heap_lock);
}

/*
 * Builds with parallel workers; false, with nothing done, if there are none to be
 * had or no shared memory.
 */
static bool
buildInParallel(const BuildPlan *plan, int nworkers, BuildShared *result)
{
	ParallelContext *context;
	Snapshot	snapshot;
	BuildShared *shared;
	AnnGraphShared *graph;
	BuildState *state;
	ParallelTableScanDesc scan;
	Size		graph_size = AnnGraphSharedSize(&plan->shape, plan->rows, plan->budget);
	Size		center_size = plan->center == NULL ? 0 : sizeof(float) * plan->meta.layout.dim;
	Size		scan_size;
	float	   *center = NULL;
	bool		launched;

	EnterParallelMode();
	context = CreateParallelContext("ann", "AnnHnswParallelBuildMain", Min(nworkers, MAX_BUILD_PARTICIPANTS - 1));
	snapshot = plan->info->ii_Concurrent ? RegisterSnapshot(GetTransactionSnapshot()) : SnapshotAny;
	scan_size = table_parallelscan_estimate(plan->heap, snapshot);

	shm_toc_estimate_chunk(&context->estimator, sizeof(BuildShared));
	shm_toc_estimate_chunk(&context->estimator, scan_size);
	shm_toc_estimate_chunk(&context->estimator, graph_size);
	shm_toc_estimate_chunk(&context->estimator, center_size);
	shm_toc_estimate_keys(&context->estimator, 5);
	if (debug_query_string)
		shm_toc_estimate_chunk(&context->estimator, strlen(debug_query_string) + 1);
	InitializeParallelDSM(context);
	if (context->seg == NULL)
	{
		launched = false;
		goto done;
	}

	shared = shm_toc_allocate(context->toc, sizeof(BuildShared));
	initShared(shared, plan->heap, plan->index, plan->info, &plan->meta);
	shm_toc_insert(context->toc, KEY_SHARED, shared);
	scan = shm_toc_allocate(context->toc, scan_size);
	table_parallelscan_initialize(plan->heap, scan, snapshot);
	shm_toc_insert(context->toc, KEY_SCAN, scan);
	if (plan->center != NULL)
	{
		center = shm_toc_allocate(context->toc, center_size);
		memcpy(center, plan->center, center_size);
		shm_toc_insert(context->toc, KEY_CENTER, center);
	}
	graph = shm_toc_allocate(context->toc, graph_size);
	AnnGraphSharedInit(graph, &plan->shape, plan->rows, plan->budget, true);
	shm_toc_insert(context->toc, KEY_GRAPH, graph);
	if (debug_query_string)
	{
		char	   *text = shm_toc_allocate(context->toc, strlen(debug_query_string) + 1);

		strcpy(text, debug_query_string);
		shm_toc_insert(context->toc, KEY_QUERY_TEXT, text);
	}

	state = createState(plan->heap, plan->index, plan->info, shared, graph, plan->center, true);
	launched = AnnGraphReserve(state->graph, plan->rows * 1.05 + 1000);
	if (launched)
	{
		LaunchParallelWorkers(context);
		launched = context->nworkers_launched > 0;
	}
	if (launched)
	{
		takePart(state, table_beginscan_parallel(plan->heap, scan));
		WaitForParallelWorkersToFinish(context);
		*result = *shared;
	}
	AnnGraphDetach(state->graph);

done:
	if (IsMVCCSnapshot(snapshot))
		UnregisterSnapshot(snapshot);
	DestroyParallelContext(context);
	ExitParallelMode();
	return launched;
}

/* ---- the access method's callbacks ---- */

static void
initMeta(Relation index, AnnHnswMetaPageData *meta)
{
	const AnnHnswOptions *options = (const AnnHnswOptions *) index->rd_options;

	memset(meta, 0, sizeof(*meta));
	meta->m = (uint16) AnnHnswOptionM(options);
	meta->ef_construction = (uint16) AnnHnswOptionEfConstruction(options);
	meta->alpha = ALPHA_WITHOUT_ROWS;
	AnnHnswLayoutInit(&meta->layout, &meta->code, index);
}

/*
 * ambuild: builds the index of what the table holds.
 */
IndexBuildResult *
ann_hnsw_build(Relation heap, Relation index, IndexInfo *info)
{
	IndexBuildResult *result = palloc0(sizeof(IndexBuildResult));
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "hnsw build", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	BuildPlan	plan = {.heap = heap, .index = index, .info = info};
	BuildShared shared;
	Size		memory = (Size) maintenance_work_mem * 1024;
	Size		fixed;
	int			length_exp;
	int			nworkers;

	if (RelationGetNumberOfBlocks(index) != 0)
		elog(ERROR, "index \"%s\" already contains data", RelationGetRelationName(index));

	reportPhase(PROGRESS_SAMPLE);
	initMeta(index, &plan.meta);
	plan.rows = sampleTable(heap, index, info, &plan.meta, &length_exp, &plan.center);
	pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_TOTAL, (int64) plan.rows);
	plan.meta.entry_capacity = AnnHnswEntryCapacity(&plan.meta.layout, plan.rows);
	plan.meta.rows = plan.rows;
	AnnHnswCreateMeta(index, MAIN_FORKNUM, &plan.meta);
	if (plan.center != NULL)
	{
		Buffer		buffer;
		BlockNumber center = AnnHnswWriteCenter(index, ANN_WRITE_BUILD, plan.center, (int) plan.meta.layout.dim);

		buffer = ReadBuffer(index, ANN_HNSW_META_BLOCK);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		AnnHnswMetaOnPage(BufferGetPage(buffer))->center = center;
		MarkBufferDirty(buffer);
		UnlockReleaseBuffer(buffer);
		plan.meta.center = center;
	}

	AnnGraphShapeInit(&plan.shape, &plan.meta);
	plan.shape.length_exp = length_exp;
	fixed = AnnGraphSharedSize(&plan.shape, plan.rows, memory);
	plan.budget = memory > fixed ? memory - fixed : 0;

	nworkers = plan.rows > 0 ? AnnBuildWorkers(heap, index, info) : 0;
	if (nworkers == 0 || !buildInParallel(&plan, nworkers, &shared))
		buildSerially(&plan, &shared);

	if (RelationNeedsWAL(index))
	{
		reportPhase(PROGRESS_LOG);
		log_newpage_range(index, MAIN_FORKNUM, 0, RelationGetNumberOfBlocks(index), true);
	}
	if (shared.broken_hot_chain)
		info->ii_BrokenHotChain = true;
	result->heap_tuples = shared.heap_tuples;
	result->index_tuples = shared.index_tuples;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

/*
 * ambuildempty: the init fork of an unlogged index.
 */
void
ann_hnsw_buildempty(Relation index)
{
	AnnHnswMetaPageData meta;

	initMeta(index, &meta);
	meta.entry_capacity = AnnHnswEntryCapacity(&meta.layout, 0);
	AnnHnswCreateMeta(index, INIT_FORKNUM, &meta);
}
