/*
 * hnsw_build.c
 *	  CREATE INDEX: sample, graph in memory, rows and edges to pages, by one
 *	  backend or several.  README: Build.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
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

#include "hnsw/hnsw_build.h"
#include "hnsw/hnsw_options.h"

#define KEY_SHARED			UINT64CONST(0xA400000000000001)
#define KEY_SCAN			UINT64CONST(0xA400000000000002)
#define KEY_CENTER			UINT64CONST(0xA400000000000003)
#define KEY_GRAPH			UINT64CONST(0xA400000000000004)
#define KEY_QUERY_TEXT		UINT64CONST(0xA400000000000005)

/* The sample that centre and scales come from. */
#define SAMPLE_BLOCKS 512
#define SAMPLE_ROWS 2048

#define ALPHA_WITHOUT_ROWS 1.3f

/* A participant extends the index by this share of the ROW pages it has, and at most by so many. */
#define EXTEND_SHARE 16
#define EXTEND_PAGES 32

/* Nodes that a participant takes at a time to write their edges; pages, to log them. */
#define WRITE_NODES 2048
#define LOG_PAGES 256

PGDLLEXPORT void AnnHnswParallelBuildMain(dsm_segment *seg, shm_toc *toc);

/* ambuildphasename */
char *
AnnHnswBuildPhaseName(int64 phase)
{
	switch (phase)
	{
		case PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE:
			return "initializing";
		case ANN_BUILD_SAMPLE:
			return "sampling table";
		case ANN_BUILD_GRAPH:
			return "building graph";
		case ANN_BUILD_PARTITION:
			return "partitioning rows";
		case ANN_BUILD_CONNECT:
			return "building graph of a partition";
		case ANN_BUILD_REFINE:
			return "searching for missing neighbours";
		case ANN_BUILD_LINK:
			return "linking unreachable rows";
		case ANN_BUILD_WRITE:
			return "writing edges";
		case ANN_BUILD_CALIBRATE:
			return "calibrating ef_search";
		case ANN_BUILD_LOG:
			return "logging pages";
		default:
			return NULL;
	}
}

static void
reportPhase(AnnBuildProgress phase)
{
	pgstat_progress_update_param(PROGRESS_CREATEIDX_SUBPHASE, phase);
}

/* Shows the phase, if this is the leader. */
void
AnnBuildReport(const AnnBuild *build, AnnBuildProgress phase)
{
	if (build->leader)
		reportPhase(phase);
}

/* Waits for all participants. */
void
AnnBuildWait(AnnBuild *build)
{
	BarrierArriveAndWait(&build->shared->barrier, PG_WAIT_EXTENSION);
}

/* Before participants take nodes, or whatever it is, from the first on.  Nobody is taking any. */
void
AnnBuildRestart(AnnBuild *build)
{
	pg_atomic_write_u32(&build->shared->next, 0);
}

/*
 * Takes the next ones, *start to *end - 1 of count, of those that nobody has
 * taken yet; false if there are none.
 */
bool
AnnBuildTake(AnnBuild *build, uint32 count, uint32 batch, uint32 *start, uint32 *end)
{
	CHECK_FOR_INTERRUPTS();
	/* Participants that find nothing must not make the counter wrap. */
	if (pg_atomic_read_u32(&build->shared->next) >= count)
		return false;
	*start = pg_atomic_fetch_add_u32(&build->shared->next, batch);
	if (*start >= count)
		return false;
	*end = (uint32) Min((uint64) *start + batch, count);
	return true;
}

/* The same for nodes, which are the progress that is reported. */
bool
AnnBuildTakeNodes(AnnBuild *build, uint32 count, uint32 batch, uint32 *start, uint32 *end)
{
	if (!AnnBuildTake(build, count, batch, start, end))
		return false;
	if (build->leader)
		pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, *end);
	return true;
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
	double		stored_bytes;
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
		sample->stored_bytes += MAXALIGN(point.stored_size);
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
			int *length_exp, Size *stored_size, float **center)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(heap);
	BlockNumber nsample;
	BlockSamplerData sampler;
	Sample		sample = {0};
	int			dim = (int) meta->layout.dim;

	*center = NULL;
	*length_exp = 0;
	*stored_size = 0;
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
		table_index_build_range_scan(heap, index, info, false, !info->ii_Concurrent, false, BlockSampler_Next(&sampler), 1,
									 sampleCallback, &sample, NULL);
	}

	if (sample.rows > 0)
		*stored_size = (Size) (sample.stored_bytes / sample.rows);
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
flushTids(AnnBuild *build, bool zero)
{
	Buffer		metabuf;
	Buffer		buffer;
	AnnHnswMetaPageData *meta;
	AnnHnswTidList *list;
	AnnPageEdit edit;
	Page		page;

	if (build->ntids[zero] == 0)
		return;
	metabuf = ReadBuffer(build->index, ANN_HNSW_META_BLOCK);
	LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
	buffer = AnnExtendRelation(build->index);
	edit = AnnPageEditBegin(build->index, ANN_WRITE_BUILD);
	meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));
	page = AnnPageEditAdd(&edit, buffer, true);
	AnnPageInit(page, ANN_HNSW_PAGE_ID, ANN_HNSW_TIDLIST);
	AnnPageSetRawSize(page, ANN_PAGE_USABLE);
	list = (AnnHnswTidList *) AnnPageRaw(page);
	list->ntids = build->ntids[zero];
	list->zero = zero;
	memcpy(list->tids, build->tids[zero], sizeof(ItemPointerData) * list->ntids);
	AnnPageOpaque(page)->next = zero ? meta->zero_tids : meta->null_tids;
	if (zero)
		meta->zero_tids = BufferGetBlockNumber(buffer);
	else
		meta->null_tids = BufferGetBlockNumber(buffer);
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
	UnlockReleaseBuffer(metabuf);
	build->ntids[zero] = 0;
}

static void
addTidWithoutRow(AnnBuild *build, bool zero, ItemPointer tid)
{
	if (build->tids[zero] == NULL)
		build->tids[zero] = MemoryContextAlloc(GetMemoryChunkContext(build),
											   sizeof(ItemPointerData) * ANN_HNSW_TIDLIST_CAPACITY);
	build->tids[zero][build->ntids[zero]++] = *tid;
	if (build->ntids[zero] == ANN_HNSW_TIDLIST_CAPACITY)
		flushTids(build, zero);
}

/* ---- rows ---- */

/* A new page for this participant's rows: its buffer, exclusively locked, all zeroes. */
static Buffer
newRowPage(AnnBuild *build)
{
	if (build->run.n == 0)
	{
		build->run.n = Min(build->row_pages / EXTEND_SHARE + 1, EXTEND_PAGES);
		if (build->run.n == 1)
		{
			build->run.n = 0;
			build->row_pages++;
			return AnnExtendRelation(build->index);
		}
		build->run.next = AnnExtendRelationBy(build->index, &build->run.n);
	}
	build->row_pages++;
	build->run.n--;
	return ReadBufferExtended(build->index, MAIN_FORKNUM, build->run.next++, RBM_ZERO_AND_LOCK, NULL);
}

/*
 * Writes a row without edges into this participant's ROW page.
 */
static AnnRowId
writeRow(AnnBuild *build, const AnnHnswPoint *point, ItemPointer tid)
{
	const AnnHnswLayout *layout = &build->meta.layout;
	AnnHnswRowHeader *row;
	ItemPointerData item;
	AnnRowId	id;

	if (AnnHnswVectorIsExternal(layout))
		item = AnnHnswWriteVector(build->index, ANN_WRITE_BUILD, point->stored, point->stored_size);
	if (!BufferIsValid(build->row_buffer))
	{
		build->row_buffer = newRowPage(build);
		build->row_block = BufferGetBlockNumber(build->row_buffer);
		build->row_slot = 0;
		if (build->row_block >= ANN_HNSW_NO_ROW / layout->rows_per_page)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("index \"%s\" cannot have more rows", RelationGetRelationName(build->index))));
		AnnHnswInitRowPage(BufferGetPage(build->row_buffer));
	}
	else
		LockBuffer(build->row_buffer, BUFFER_LOCK_EXCLUSIVE);

	id = build->row_block * layout->rows_per_page + build->row_slot;
	((PageHeader) BufferGetPage(build->row_buffer))->pd_lower = AnnHnswRowPageLower(layout, build->row_slot);
	row = AnnHnswRowOnPage(layout, BufferGetPage(build->row_buffer), build->row_slot);
	row->state = ANN_HNSW_LIVE;
	row->ntids = 1;
	row->tids[0] = *tid;
	row->node = ANN_HNSW_NO_NODE;
	row->hash = point->hash;
	if (AnnHnswVectorIsExternal(layout))
		memcpy(AnnHnswRowVector(row), &item, sizeof(item));
	else
		memcpy(AnnHnswRowVector(row), point->stored, point->stored_size);
	if (layout->attribute_size > 0)
		memcpy(AnnHnswRowAttributes(layout, row), point->attributes, layout->attribute_size);
	MarkBufferDirty(build->row_buffer);
	LockBuffer(build->row_buffer, BUFFER_LOCK_UNLOCK);
	if (++build->row_slot == layout->rows_per_page)
	{
		ReleaseBuffer(build->row_buffer);
		build->row_buffer = InvalidBuffer;
	}
	return id;
}

/* Whether the row's vector is this one: AnnHnswAddTid does not look at external ones. */
static bool
externalVectorEquals(AnnBuild *build, AnnRowId row, const char *stored, Size stored_size)
{
	const AnnHnswLayout *layout = &build->meta.layout;
	AnnHnswRowHeader *header;
	Buffer		buffer = AnnHnswLockRow(build->index, NULL, layout, row, BUFFER_LOCK_SHARE, &header);
	ItemPointerData item;
	char	   *vector;
	bool		equal;

	memcpy(&item, AnnHnswRowVector(header), sizeof(item));
	UnlockReleaseBuffer(buffer);
	vector = palloc(layout->vector_size);
	equal = AnnHnswReadVector(build->index, item, vector, layout->vector_size) == stored_size &&
		memcmp(vector, stored, stored_size) == 0;
	pfree(vector);
	return equal;
}

/*
 * Adds the TIDs to the row of a point equal to the prepared one, if the graph knows
 * one.  The caller holds the value's lock.
 */
bool
AnnBuildAddToEqual(AnnBuild *build, const AnnHnswPoint *point, const ItemPointerData *tids, int ntids)
{
	const AnnHnswLayout *layout = &build->meta.layout;
	AnnGraphNode node = ANN_GRAPH_NO_NODE;

	while ((node = AnnGraphFindEqual(build->graph, point->hash, node)) != ANN_GRAPH_NO_NODE)
	{
		AnnRowId	row = AnnGraphRow(build->graph, node);
		int			i = 0;

		if (AnnHnswVectorIsExternal(layout) && !externalVectorEquals(build, row, point->stored, point->stored_size))
			continue;
		while (i < ntids)
		{
			ItemPointerData tid = tids[i];

			if (!AnnHnswAddTid(build->index, ANN_WRITE_BUILD, layout, row, point, &tid))
				break;
			i++;
		}
		if (i == ntids)
			return true;
		Assert(i == 0);
	}
	return false;
}

/*
 * Reads a row's vector into stored (layout.vector_size bytes), and all of the row
 * into image (layout.row_size bytes) unless that is NULL.  Returns the vector's
 * size, or 0 if the row is not there any more.
 */
Size
AnnBuildReadRow(AnnBuild *build, AnnRowId row, char *image, char *stored)
{
	const AnnHnswLayout *layout = &build->meta.layout;
	AnnHnswRowHeader *header;
	Buffer		buffer = AnnHnswLockRow(build->index, NULL, layout, row, BUFFER_LOCK_SHARE, &header);
	ItemPointerData item;
	Size		size;

	if (image != NULL)
		memcpy(image, header, layout->row_size);
	if (header->state != ANN_HNSW_LIVE)
	{
		UnlockReleaseBuffer(buffer);
		return 0;
	}
	if (!AnnHnswVectorIsExternal(layout))
	{
		memcpy(stored, AnnHnswRowVector(header), layout->vector_size);
		UnlockReleaseBuffer(buffer);
		return layout->vector_size;
	}
	memcpy(&item, AnnHnswRowVector(header), sizeof(item));
	UnlockReleaseBuffer(buffer);
	size = AnnHnswReadVector(build->index, item, stored, layout->vector_size);
	if (size == 0)
		AnnPageCorrupted(build->index, AnnHnswRowBlock(layout, row), "a row has no vector");
	return size;
}

static void
addValue(AnnBuild *build, const Datum *values, const bool *isnull, ItemPointer tid)
{
	AnnHnswPoint point;
	AnnGraphNode node = ANN_GRAPH_NO_NODE;
	LWLock	   *lock;

	AnnHnswFormPoint(&build->space, values[0], &point);
	if (point.unplaced)
	{
		addTidWithoutRow(build, true, tid);
		return;
	}
	AnnHnswSetAttributes(build->attributes, AnnAttributesForm(build->attributes, values, isnull), &point);
	AnnGraphPrepare(build->graph, point.dense, point.stored, point.stored_size);

	lock = AnnGraphValueLock(build->graph, point.hash);
	if (build->parallel)
		LWLockAcquire(lock, LW_EXCLUSIVE);
	if (!AnnBuildAddToEqual(build, &point, tid, 1))
	{
		node = AnnGraphAllot(build->graph, writeRow(build, &point, tid));
		if (node != ANN_GRAPH_NO_NODE && !AnnGraphFill(build->graph, node, point.hash, tid))
			node = ANN_GRAPH_NO_NODE;
		build->rows++;
	}
	if (build->parallel)
		LWLockRelease(lock);
	if (node != ANN_GRAPH_NO_NODE && !build->shared->deferred)
		AnnGraphConnect(build->graph, node);
}

static void
buildCallback(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	AnnBuild *build = (AnnBuild *) arg;
	MemoryContext old = MemoryContextSwitchTo(build->tuple_context);
	uint64		done;

	if (isnull[0])
		addTidWithoutRow(build, false, tid);
	else
		addValue(build, values, isnull, tid);
	build->index_tuples++;
	MemoryContextSwitchTo(old);
	MemoryContextReset(build->tuple_context);

	done = pg_atomic_add_fetch_u64(&build->shared->done, 1);
	if (build->leader)
		pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, done);
}

/* ---- phases ---- */

/* Reads this participant's share of the table into pages and graph. */
static void
scanTable(AnnBuild *build, TableScanDesc scan)
{
	AnnBuildShared *shared = build->shared;
	double		tuples = table_index_build_scan(build->heap, build->index, build->info, true, build->leader,
												buildCallback, build, scan);

	flushTids(build, false);
	flushTids(build, true);
	SpinLockAcquire(&shared->mutex);
	shared->heap_tuples += tuples;
	shared->index_tuples += build->index_tuples;
	shared->rows += build->rows;
	if (build->info->ii_BrokenHotChain)
		shared->broken_hot_chain = true;
	shared->unused[shared->nparticipants] = build->run;
	shared->open_page[shared->nparticipants++] = BufferIsValid(build->row_buffer) ? build->row_block : InvalidBlockNumber;
	SpinLockRelease(&shared->mutex);
	if (BufferIsValid(build->row_buffer))
		ReleaseBuffer(build->row_buffer);
	build->row_buffer = InvalidBuffer;
}

/* A sample of *n of the graph's nodes, evenly spread over the order of their insertion. */
AnnGraphNode *
AnnBuildSampleNodes(const AnnGraph *graph, uint32 *n)
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

/*
 * Writes the entry table: these rows.
 */
static void
writeEntries(AnnBuild *build, const AnnRowId *rows, uint32 n)
{
	const AnnHnswLayout *layout = &build->meta.layout;
	Size		size = AnnHnswEntrySize(layout);
	int			per_page = AnnHnswEntriesPerPage(layout);
	char	   *image = palloc(ANN_PAGE_USABLE);
	char	   *stored = palloc(layout->vector_size);
	Size		dense_size = layout->element == ANN_ELEMENT_SPARSE ? 0 : sizeof(float) * (Size) layout->dim;
	float	   *dense = palloc(dense_size);
	float	   *scratch = palloc(dense_size);

	for (uint32 i = 0; i < n; i += per_page)
	{
		AnnPageEdit edit;
		Buffer		buffer;

		memset(image, 0, ANN_PAGE_USABLE);
		for (uint32 j = 0; j < per_page && i + j < n; j++)
		{
			AnnHnswEntry *entry = (AnnHnswEntry *) (image + j * size);

			AnnBuildReadRow(build, rows[i + j], NULL, stored);
			if (AnnHnswHasCodes(layout))
				AnnHnswDecode(&build->space, stored, dense);
			AnnHnswFormEntry(&build->space, rows[i + j], dense, stored, entry, scratch);
		}
		buffer = ReadBuffer(build->index, AnnHnswEntryBlock(&build->meta, layout, i));
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		AnnPageGet(build->index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ENTRY);
		edit = AnnPageEditBegin(build->index, ANN_WRITE_BUILD);
		memcpy(AnnPageRaw(AnnPageEditAdd(&edit, buffer, false)), image, ANN_PAGE_USABLE);
		AnnPageEditCommit(&edit);
		UnlockReleaseBuffer(buffer);
	}
	pfree(image);
	pfree(stored);
	pfree(dense);
	pfree(scratch);
}

/* Lists every ROW page with a free row but this one. */
static void
listFreePages(AnnBuild *build, BlockNumber except)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(build->index);

	for (BlockNumber block = 0; block < nblocks; block++)
	{
		Buffer		buffer = ReadBuffer(build->index, block);
		bool		is_row;

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		is_row = AnnPageIsOurs(BufferGetPage(buffer), ANN_HNSW_PAGE_ID) &&
			AnnPageOpaque(BufferGetPage(buffer))->kind == ANN_HNSW_ROW;
		UnlockReleaseBuffer(buffer);
		if (is_row && block != except)
			AnnHnswListRowPage(build->index, ANN_WRITE_BUILD, &build->meta.layout, block);
	}
}

/*
 * Ends the meta page: entries, alpha, rows, and the ROW pages with room.
 */
static void
finishMeta(AnnBuild *build, uint32 nentries)
{
	AnnBuildShared *shared = build->shared;
	uint32		merged = pg_atomic_read_u32(&shared->merged);
	BlockNumber row_page = InvalidBlockNumber;
	AnnHnswMetaPageData *meta;
	AnnPageEdit edit;
	Buffer		metabuf;

	for (int i = 0; i < shared->nparticipants; i++)
		for (uint32 j = shared->unused[i].n; j > 0; j--)
			AnnHnswListRowPage(build->index, ANN_WRITE_BUILD, &build->meta.layout, shared->unused[i].next + j - 1);
	for (int i = 0; i < shared->nparticipants; i++)
		if (BlockNumberIsValid(shared->open_page[i]))
		{
			if (!BlockNumberIsValid(row_page))
				row_page = shared->open_page[i];
			else
				AnnHnswListRowPage(build->index, ANN_WRITE_BUILD, &build->meta.layout, shared->open_page[i]);
		}
	if (merged > 0)
		listFreePages(build, row_page);

	metabuf = ReadBuffer(build->index, ANN_HNSW_META_BLOCK);
	LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
	edit = AnnPageEditBegin(build->index, ANN_WRITE_BUILD);
	meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));
	meta->nentries = nentries;
	meta->entry_version++;
	meta->alpha = AnnGraphAlpha(build->graph);
	meta->rows = shared->rows - merged;
	meta->center_rows = (uint32) Min(meta->rows, PG_UINT32_MAX);
	meta->row_page = row_page;
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(metabuf);
}

/* Whether a row was not merged into an equal one. */
static bool
isLive(AnnBuild *build, AnnRowId row)
{
	AnnHnswRowHeader *header;
	Buffer		buffer = AnnHnswLockRow(build->index, NULL, &build->meta.layout, row, BUFFER_LOCK_SHARE, &header);
	bool		live = header->state == ANN_HNSW_LIVE;

	UnlockReleaseBuffer(buffer);
	return live;
}

/*
 * When all rows have their edges, or are about to get them: the entry table, which
 * leaves out rows that were merged since they were chosen, and the meta page.
 */
void
AnnBuildFinish(AnnBuild *build, AnnRowId *entries, uint32 nentries)
{
	uint32		n = 0;

	for (uint32 i = 0; i < nentries; i++)
		if (isLive(build, entries[i]))
			entries[n++] = entries[i];
	writeEntries(build, entries, n);
	finishMeta(build, n);
}

/* The whole graph is in memory: entries, links of unreachable rows, meta page. */
static void
finishGraph(AnnBuild *build)
{
	uint32		n = build->meta.entry_capacity;
	AnnGraphNode *nodes = AnnBuildSampleNodes(build->graph, &n);
	AnnRowId   *rows = palloc(sizeof(AnnRowId) * Max(n, 1));

	AnnBuildReport(build, ANN_BUILD_LINK);
	AnnGraphLinkUnreachable(build->graph, nodes, n);
	for (uint32 i = 0; i < n; i++)
		rows[i] = AnnGraphRow(build->graph, nodes[i]);
	AnnBuildFinish(build, rows, n);
	pfree(nodes);
	pfree(rows);
}

/* Writes edges into rows: each participant takes nodes until none are left. */
static void
writeEdges(AnnBuild *build)
{
	const AnnHnswLayout *layout = &build->meta.layout;
	uint32		count = AnnGraphCount(build->graph);
	BlockNumber block = InvalidBlockNumber;
	Buffer		buffer = InvalidBuffer;
	uint32		start;
	uint32		end;

	while (AnnBuildTakeNodes(build, count, WRITE_NODES, &start, &end))
		for (AnnGraphNode node = start; node < end; node++)
		{
			AnnRowId	row = AnnGraphRow(build->graph, node);

			if (block != AnnHnswRowBlock(layout, row))
			{
				if (BufferIsValid(buffer))
					ReleaseBuffer(buffer);
				block = AnnHnswRowBlock(layout, row);
				buffer = ReadBuffer(build->index, block);
			}
			LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
			AnnGraphWriteSlots(build->graph, node,
							   AnnHnswRowOnPage(layout, BufferGetPage(buffer), AnnHnswRowSlot(layout, row)));
			MarkBufferDirty(buffer);
			LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
		}
	if (BufferIsValid(buffer))
		ReleaseBuffer(buffer);
}

/* Chooses the rows to calibrate with from a graph that holds them all. */
static void
sampleCalibration(AnnBuild *build)
{
	AnnBuildShared *shared = build->shared;
	AnnGraphNode *nodes;

	shared->ncalibrate = ANN_HNSW_CALIBRATION_ROWS;
	nodes = AnnBuildSampleNodes(build->graph, &shared->ncalibrate);
	for (uint32 i = 0; i < shared->ncalibrate; i++)
		shared->calibrate[i] = AnnGraphRow(build->graph, nodes[i]);
	pfree(nodes);
}

/* The end of a build: ef, chains, and the log. */
static void
finishIndex(AnnBuild *build)
{
	AnnBuildShared *shared = build->shared;
	uint32		start;
	uint32		end;

	AnnBuildReport(build, ANN_BUILD_CALIBRATE);
	AnnHnswCalibrateBuild(build, shared->calibrate, (int) shared->ncalibrate);
	AnnBuildWait(build);
	if (build->leader)
	{
		AnnHnswChainRows(build->index, build->attributes);
		shared->npages = RelationGetNumberOfBlocks(build->index);
		AnnBuildRestart(build);
	}
	AnnBuildWait(build);
	if (shared->logged)
	{
		AnnBuildReport(build, ANN_BUILD_LOG);
		while (AnnBuildTake(build, shared->npages, LOG_PAGES, &start, &end))
			log_newpage_range(build->index, MAIN_FORKNUM, start, end, true);
	}
}

/*
 * A participant's way through the build.  A worker that comes when the scan is
 * over is of no use.
 */
static void
takePart(AnnBuild *build, TableScanDesc scan)
{
	AnnBuildShared *shared = build->shared;

	if (BarrierAttach(&shared->barrier) == 0)
	{
		AnnBuildReport(build, ANN_BUILD_GRAPH);
		scanTable(build, scan);
		AnnBuildWait(build);
		if (shared->deferred || AnnGraphIsFull(build->graph))
			AnnBuildPartitions(build);
		else
		{
			if (build->leader)
				finishGraph(build);
			AnnBuildWait(build);
			AnnBuildReport(build, ANN_BUILD_WRITE);
			writeEdges(build);
			if (build->leader)
				sampleCalibration(build);
		}
		AnnBuildWait(build);
		finishIndex(build);
	}
	else if (scan != NULL)
		table_endscan(scan);
	BarrierDetach(&shared->barrier);
}

/* What a build is to do. */
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

static AnnBuild *
createBuild(Relation heap, Relation index, IndexInfo *info, AnnBuildShared *shared, AnnGraphShared *graph,
			const float *center, bool leader)
{
	AnnBuild *build = palloc0(sizeof(AnnBuild));

	build->heap = heap;
	build->index = index;
	build->info = info;
	build->shared = shared;
	build->meta = shared->meta;
	build->leader = leader;
	build->parallel = graph->parallel;
	build->row_buffer = InvalidBuffer;
	build->tuple_context = AllocSetContextCreate(CurrentMemoryContext, "hnsw build row", ALLOCSET_DEFAULT_SIZES);
	AnnHnswSpaceInit(&build->space, &build->meta, center);
	build->attributes = AnnAttributesCreate(index);
	build->graph = AnnGraphAttach(graph, &build->space);
	return build;
}

static void
initShared(AnnBuildShared *shared, const BuildPlan *plan)
{
	memset(shared, 0, sizeof(*shared));
	shared->heap = RelationGetRelid(plan->heap);
	shared->index = RelationGetRelid(plan->index);
	shared->concurrent = plan->info->ii_Concurrent;
	shared->logged = RelationNeedsWAL(plan->index);
	shared->deferred = (double) AnnGraphWantedBytes(&plan->shape, plan->rows) > plan->budget;
	shared->meta = plan->meta;
	BarrierInit(&shared->barrier, 0);
	pg_atomic_init_u64(&shared->done, 0);
	pg_atomic_init_u32(&shared->next, 0);
	pg_atomic_init_u32(&shared->merged, 0);
	SpinLockInit(&shared->mutex);
}

/* ---- serial ---- */

static void
buildSerially(const BuildPlan *plan, AnnBuildShared *shared)
{
	AnnGraphShared *graph = MemoryContextAllocHuge(CurrentMemoryContext,
												   AnnGraphSharedSize(&plan->shape, plan->rows, plan->budget));
	AnnBuild *build;

	initShared(shared, plan);
	AnnGraphSharedInit(graph, &plan->shape, plan->rows, plan->budget, false);
	build = createBuild(plan->heap, plan->index, plan->info, shared, graph, plan->center, true);
	takePart(build, NULL);
}

/* ---- parallel ---- */

void
AnnHnswParallelBuildMain(dsm_segment *seg, shm_toc *toc)
{
	AnnBuildShared *shared = shm_toc_lookup(toc, KEY_SHARED, false);
	AnnGraphShared *graph = shm_toc_lookup(toc, KEY_GRAPH, false);
	float	   *center = shm_toc_lookup(toc, KEY_CENTER, true);
	LOCKMODE	heap_lock = shared->concurrent ? ShareUpdateExclusiveLock : ShareLock;
	LOCKMODE	index_lock = shared->concurrent ? RowExclusiveLock : AccessExclusiveLock;
	AnnBuild *build;
	Relation	heap;
	Relation	index;
	IndexInfo  *info;

	debug_query_string = shm_toc_lookup(toc, KEY_QUERY_TEXT, true);
	pgstat_report_activity(STATE_RUNNING, debug_query_string);

	heap = table_open(shared->heap, heap_lock);
	index = index_open(shared->index, index_lock);
	info = BuildIndexInfo(index);
	info->ii_Concurrent = shared->concurrent;
	build = createBuild(heap, index, info, shared, graph, center, false);
	takePart(build, table_beginscan_parallel(heap, shm_toc_lookup(toc, KEY_SCAN, false)));
	AnnGraphDetach(build->graph);
	index_close(index, index_lock);
	table_close(heap, heap_lock);
}

/*
 * Builds with parallel workers; false, with nothing done, if there are none to be
 * had or no shared memory.
 */
static bool
buildInParallel(const BuildPlan *plan, int nworkers, AnnBuildShared *result)
{
	ParallelContext *context;
	Snapshot	snapshot;
	AnnBuildShared *shared;
	AnnGraphShared *graph;
	AnnBuild *build;
	ParallelTableScanDesc scan;
	Size		graph_size = AnnGraphSharedSize(&plan->shape, plan->rows, plan->budget);
	Size		center_size = plan->center == NULL ? 0 : sizeof(float) * plan->meta.layout.dim;
	Size		scan_size;
	float	   *center = NULL;
	bool		launched;

	EnterParallelMode();
	context = CreateParallelContext("ann", "AnnHnswParallelBuildMain", Min(nworkers, ANN_BUILD_MAX_PARTICIPANTS - 1));
	snapshot = plan->info->ii_Concurrent ? RegisterSnapshot(GetTransactionSnapshot()) : SnapshotAny;
	scan_size = table_parallelscan_estimate(plan->heap, snapshot);

	shm_toc_estimate_chunk(&context->estimator, sizeof(AnnBuildShared));
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

	shared = shm_toc_allocate(context->toc, sizeof(AnnBuildShared));
	initShared(shared, plan);
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

	build = createBuild(plan->heap, plan->index, plan->info, shared, graph, plan->center, true);
	launched = AnnGraphReserve(build->graph, plan->rows * 1.05 + 1000);
	if (launched)
	{
		LaunchParallelWorkers(context);
		launched = context->nworkers_launched > 0;
	}
	if (launched)
	{
		takePart(build, table_beginscan_parallel(plan->heap, scan));
		WaitForParallelWorkersToFinish(context);
		*result = *shared;
	}
	AnnGraphDetach(build->graph);

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
 * Bytes of nodes for all rows that the table has room for, when it has grown to twice its size too.
 * What is allotted follows from the budget, so that is to be no more.
 */
static Size
mostMemory(const BuildPlan *plan)
{
	double		rows = (2.0 * RelationGetNumberOfBlocks(plan->heap) + 64) * MaxHeapTuplesPerPage;
	Size		node = plan->shape.node_size;

	if (plan->meta.layout.element == ANN_ELEMENT_SPARSE)
		node += AnnSparseVectorSize(ANN_SPARSE_MAX_NNZ);
	rows = Max(rows, 2 * plan->rows);
	return (Size) (rows * node);
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
	AnnBuildShared shared;
	Size		memory = (Size) maintenance_work_mem * 1024;
	Size		fixed;
	int			length_exp;
	Size		stored_size;
	int			nworkers;

	if (RelationGetNumberOfBlocks(index) != 0)
		elog(ERROR, "index \"%s\" already contains data", RelationGetRelationName(index));

	reportPhase(ANN_BUILD_SAMPLE);
	initMeta(index, &plan.meta);
	plan.rows = sampleTable(heap, index, info, &plan.meta, &length_exp, &stored_size, &plan.center);
	pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_TOTAL, (int64) plan.rows);
	plan.meta.entry_capacity = AnnHnswEntryCapacity(&plan.meta.layout, plan.rows);
	plan.meta.rows = plan.rows;
	AnnHnswCreateMeta(index, MAIN_FORKNUM, &plan.meta);
	if (plan.center != NULL)
	{
		Buffer		buffer;
		BlockNumber center = AnnHnswWriteCenter(index, ANN_WRITE_BUILD, plan.center, (int) plan.meta.layout.dim,
												InvalidBlockNumber);

		buffer = ReadBuffer(index, ANN_HNSW_META_BLOCK);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		AnnHnswMetaOnPage(BufferGetPage(buffer))->center = center;
		MarkBufferDirty(buffer);
		UnlockReleaseBuffer(buffer);
		plan.meta.center = center;
	}

	AnnGraphShapeInit(&plan.shape, &plan.meta);
	plan.shape.length_exp = length_exp;
	plan.shape.payload_size = plan.meta.layout.element == ANN_ELEMENT_SPARSE ? stored_size : 0;
	fixed = AnnGraphSharedSize(&plan.shape, plan.rows, memory);
	plan.budget = Min(memory > fixed ? memory - fixed : 0, mostMemory(&plan));

	elog(DEBUG1, "hnsw build expects %.0f rows of %zu bytes in memory", plan.rows, AnnGraphWantedBytes(&plan.shape, 1));

	nworkers = plan.rows > 0 ? AnnBuildWorkers(heap, index, info) : 0;
	if (nworkers == 0 || !buildInParallel(&plan, nworkers, &shared))
		buildSerially(&plan, &shared);

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
