/*
 * ivfflat_build.c
 *	  CREATE INDEX: sample, clustering, assignment by one backend or several, sort by
 *	  list, pages.  README: Build.
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
#include "storage/condition_variable.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/sampling.h"
#include "utils/snapmgr.h"

#include "ivfflat/ivfflat_options.h"
#include "ivfflat/ivfflat_runs.h"

#define KEY_SHARED			UINT64CONST(0xA500000000000001)
#define KEY_SCAN			UINT64CONST(0xA500000000000002)
#define KEY_RUNS			UINT64CONST(0xA500000000000003)
#define KEY_CENTROIDS		UINT64CONST(0xA500000000000004)
#define KEY_QUERY_TEXT		UINT64CONST(0xA500000000000005)

/* Blocks that are counted to tell how many rows the table has. */
#define COUNT_BLOCKS 300

#define BUILD_SEED 1147

/* What pg_stat_progress_create_index shows. */
typedef enum ProgressPhase
{
	PROGRESS_SAMPLE = PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE + 1,
	PROGRESS_CLUSTER,
	PROGRESS_ASSIGN,
	PROGRESS_WRITE,
	PROGRESS_CALIBRATE,
	PROGRESS_LOG
} ProgressPhase;

/* What the participants of a build share. */
typedef struct BuildShared
{
	Oid			heap;
	Oid			index;
	bool		concurrent;
	int			sort_memory;	/* kB of each participant's rows */
	AnnIvfMetaPageData meta;
	pg_atomic_uint64 done;		/* rows of the table that were handled */
	ConditionVariable finished;

	slock_t		mutex;			/* what follows */
	int			nfinished;
	double		heap_tuples;
	double		index_tuples;
	bool		broken_hot_chain;
} BuildShared;

/* A row whose list is not known yet; its parts lie in the tuple context. */
typedef struct WaitingRow
{
	ItemPointerData tid;
	float	   *dense;
	const char *stored;
	const char *attributes;
	AnnIvfKey	key;
} WaitingRow;

/* A participant. */
typedef struct BuildState
{
	Relation	heap;
	Relation	index;
	IndexInfo  *info;
	BuildShared *shared;
	AnnSpace	space;
	AnnIvfCentroids centroids;
	AnnAttributes *attributes;	/* included columns */
	bool		leader;
	double		index_tuples;
	AnnIvfRuns *runs;
	bool		has_assigner;	/* no: a single list */
	AnnIvfAssigner assigner;
	WaitingRow	waiting[ANN_NEAREST_MAX_ROWS];
	int			nwaiting;
	MemoryContext tuple_context;	/* of the rows that wait */
} BuildState;

typedef struct BuildPlan
{
	Relation	heap;
	Relation	index;
	IndexInfo  *info;
	AnnIvfMetaPageData meta;
	char	   *centroids;		/* vectors, mean and codes, assigners' table; NULL: the single one that is zero */
	Size		centroids_size;
	float	   *queries;		/* of the sample, for the calibration */
	int			nqueries;
} BuildPlan;

/* A sample that is being read from the table. */
typedef struct Sampling
{
	AnnIvfSample *sample;
	uint64		seen;			/* rows so far */
	double		counted;		/* rows with a value, of the blocks counted */
	pg_prng_state prng;
	MemoryContext tuple_context;
} Sampling;

/* A row on its way into its list; of those of the lists without vectors there is the TID. */
typedef struct SortedEntry
{
	ItemPointerData tid;
	AnnIvfKey	key;
	AnnCodeFactors factors;
	AnnCodeFactors top_factors;
	char		data[FLEXIBLE_ARRAY_MEMBER];	/* code, attributes, vector */
} SortedEntry;

PGDLLEXPORT void AnnIvfParallelBuildMain(dsm_segment *seg, shm_toc *toc);

/* ambuildphasename */
char *
AnnIvfBuildPhaseName(int64 phase)
{
	switch (phase)
	{
		case PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE:
			return "initializing";
		case PROGRESS_SAMPLE:
			return "sampling table";
		case PROGRESS_CLUSTER:
			return "clustering";
		case PROGRESS_ASSIGN:
			return "assigning rows to lists";
		case PROGRESS_WRITE:
			return "writing lists";
		case PROGRESS_CALIBRATE:
			return "calibrating";
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

static void
countCallback(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	if (!isnull[0] && alive)
		((Sampling *) arg)->counted++;
}

/* Takes a value into the sample at this place, unless it has no place in the index space. */
static bool
takeValue(Sampling *sampling, Datum value, int place)
{
	MemoryContext old = MemoryContextSwitchTo(sampling->tuple_context);
	AnnIvfSample *sample = sampling->sample;
	AnnPoint	point;
	bool		taken;

	AnnSpacePlacePoint(&sample->space, value, &point);
	taken = !point.unplaced && AnnIvfSampleTake(sample, AnnIvfDense(&sample->space, &point), place);
	MemoryContextSwitchTo(old);
	MemoryContextReset(sampling->tuple_context);
	return taken;
}

/* Algorithm R (Vitter 1985) over the rows of the blocks that are read. */
static void
sampleCallback(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	Sampling   *sampling = (Sampling *) arg;
	AnnIvfSample *sample = sampling->sample;

	if (isnull[0] || !alive)
		return;
	sampling->seen++;
	if (sample->count < sample->capacity)
	{
		if (takeValue(sampling, values[0], sample->count))
			sample->count++;
	}
	else
	{
		uint64		place = pg_prng_uint64_range(&sampling->prng, 0, sampling->seen - 1);

		if (place < (uint64) sample->capacity)
			takeValue(sampling, values[0], (int) place);
	}
}

/* Reads nblocks random blocks of the table. */
static void
readBlocks(Relation heap, Relation index, IndexInfo *info, BlockNumber nblocks, Sampling *sampling,
		   IndexBuildCallback callback)
{
	BlockSamplerData sampler;

	BlockSampler_Init(&sampler, RelationGetNumberOfBlocks(heap), nblocks, BUILD_SEED);
	while (BlockSampler_HasMore(&sampler))
	{
		CHECK_FOR_INTERRUPTS();
		/* A concurrent build reads with an MVCC snapshot, of which nothing else can be asked. */
		table_index_build_range_scan(heap, index, info, false, !info->ii_Concurrent, false,
									 BlockSampler_Next(&sampler), 1, callback, sampling, NULL);
	}
}

/* Rows of the table with a value, estimated from random blocks. */
static double
estimateRows(Relation heap, Relation index, IndexInfo *info)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(heap);
	BlockNumber ncounted = Min(nblocks, COUNT_BLOCKS);
	Sampling	sampling = {0};

	if (nblocks == 0)
		return 0;
	readBlocks(heap, index, info, ncounted, &sampling, countCallback);
	return sampling.counted / ncounted * nblocks;
}

/* Fills a sample of a table of so many rows. */
static void
readSample(AnnIvfSample *sample, Relation heap, Relation index, IndexInfo *info, double rows)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(heap);
	double		density = rows / Max(nblocks, 1);
	Sampling	sampling = {0};
	double		nsample;

	if (nblocks == 0)
		return;
	sampling.sample = sample;
	pg_prng_seed(&sampling.prng, BUILD_SEED);
	sampling.tuple_context = AllocSetContextCreate(CurrentMemoryContext, "ivfflat build sample row", ALLOCSET_DEFAULT_SIZES);
	/* Twice the blocks that would do, so that rows that lie together are not all taken. */
	nsample = density > 0 ? Max(ceil(2 * sample->capacity / density), COUNT_BLOCKS) : nblocks;
	readBlocks(heap, index, info, (BlockNumber) Min(nsample, nblocks), &sampling, sampleCallback);
	MemoryContextDelete(sampling.tuple_context);
}

/*
 * Trains the lists of a new index on a sample of the table; fills in what the meta page
 * says of them, and the rows to be looked for in the end.  Returns centroids with mean and codes (AnnIvfTrain).
 */
static char *
train(BuildPlan *plan)
{
	Relation	heap = plan->heap;
	Relation	index = plan->index;
	IndexInfo  *info = plan->info;
	AnnIvfMetaPageData *meta = &plan->meta;
	MemoryContext result = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ivfflat training", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	AnnIvfSample sample;
	int			option = AnnIvfOptionLists((const AnnIvfOptions *) index->rd_options);
	double		rows;
	int			lists;
	char	   *centroids;

	reportPhase(PROGRESS_SAMPLE);
	rows = estimateRows(heap, index, info);
	lists = AnnIvfChooseLists(index, &meta->layout, rows);
	pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_TOTAL, (int64) rows);
	AnnIvfSampleInit(&sample, &meta->layout, rows, lists);
	readSample(&sample, heap, index, info, rows);
	reportPhase(PROGRESS_CLUSTER);
	MemoryContextSwitchTo(result);
	centroids = AnnIvfTrain(&sample, meta, lists, rows);
	plan->queries = AnnIvfSampleQueries(&sample, &plan->nqueries);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	if (lists < option && (int) meta->lists == lists)
		ereport(NOTICE,
				(errmsg_plural("ivfflat index \"%s\" has %u list in place of %d",
							   "ivfflat index \"%s\" has %u lists in place of %d",
							   meta->lists, RelationGetRelationName(index), meta->lists, option),
				 errdetail("More cannot be made within \"maintenance_work_mem\" (%d kB).", maintenance_work_mem)));
	else if ((int) meta->lists < option)
		ereport(NOTICE,
				(errmsg_plural("ivfflat index \"%s\" has %u list in place of %d",
							   "ivfflat index \"%s\" has %u lists in place of %d",
							   meta->lists, RelationGetRelationName(index), meta->lists, option),
				 errdetail("The table does not have more different rows to make lists of."),
				 errhint("VACUUM makes new lists when the table has grown.")));
	return centroids;
}

/* ---- assignment ---- */

/* Where the assigners' table is behind the centroids and their codes. */
static Size
assignTableOffset(const AnnIvfMetaPageData *meta)
{
	return MAXALIGN(add_size(AnnIvfCentroidsSize(meta), AnnIvfCentroidCodesSize(meta)));
}

/* Hands a row over to its list. */
static void
emit(BuildState *state, const ItemPointerData *tid, const AnnIvfValue *value)
{
	const AnnIvfLayout *layout = &state->shared->meta.layout;
	SortedEntry *entry = AnnIvfRunsAdd(state->runs, value->list);
	char	   *to = entry->data;

	entry->tid = *tid;
	state->index_tuples++;
	if (value->stored == NULL)
		return;
	entry->key = value->key;
	entry->factors = value->factors;
	entry->top_factors = value->top_factors;
	if (value->code != NULL)
	{
		memcpy(to, value->code, layout->code_size);
		to += layout->code_size;
	}
	if (value->attributes != NULL)
		memcpy(to, value->attributes, layout->attribute_size);
	memcpy(to + layout->attribute_size, value->stored, layout->vector_size);
}

/* Finds the lists of the rows that wait, codes them and hands them over. */
static void
flushRows(BuildState *state)
{
	AnnIvfFormer former = {&state->shared->meta, &state->space, &state->centroids};
	MemoryContext old = MemoryContextSwitchTo(state->tuple_context);
	int			lists[ANN_NEAREST_MAX_ROWS] = {0};

	if (state->has_assigner && state->nwaiting > 0)
		AnnIvfAssignerFind(&state->assigner, state->nwaiting, lists);
	for (int i = 0; i < state->nwaiting; i++)
	{
		WaitingRow *row = &state->waiting[i];
		AnnIvfValue value;

		AnnIvfFormInList(&former, (uint32) lists[i], row->dense, row->stored, &value);
		value.attributes = row->attributes;
		value.key = row->key;
		emit(state, &row->tid, &value);
	}
	state->nwaiting = 0;
	MemoryContextSwitchTo(old);
	MemoryContextReset(state->tuple_context);
}

static void
assignCallback(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	BuildState *state = (BuildState *) arg;
	MemoryContext old = MemoryContextSwitchTo(state->tuple_context);
	AnnIvfValue value = {0};
	AnnPoint	point;
	uint64		done;

	if (!isnull[0])
		AnnSpacePlacePoint(&state->space, values[0], &point);
	if (isnull[0] || point.unplaced)
	{
		value.list = isnull[0] ? AnnIvfNullList(&state->shared->meta) : AnnIvfZeroList(&state->shared->meta);
		emit(state, tid, &value);
	}
	else
	{
		WaitingRow *row = &state->waiting[state->nwaiting];

		row->tid = *tid;
		row->dense = AnnIvfDense(&state->space, &point);
		row->stored = point.stored;
		row->attributes = AnnAttributesForm(state->attributes, values, isnull);
		row->key = AnnIvfKeyOf(&state->shared->meta.layout, state->attributes, row->attributes);
		if (state->has_assigner)
			AnnIvfAssignerSet(&state->assigner, state->nwaiting, row->dense);
		state->nwaiting++;
	}
	MemoryContextSwitchTo(old);
	if (state->nwaiting == ANN_NEAREST_MAX_ROWS)
		flushRows(state);

	done = pg_atomic_add_fetch_u64(&state->shared->done, 1);
	if (state->leader)
		pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, (int64) done);
}

/*
 * A participant's part of the assignment: its share of the table into its runs.
 */
static void
assignRows(BuildState *state, TableScanDesc scan, AnnIvfSharedRuns *runs, int participant, const char *centroids)
{
	BuildShared *shared = state->shared;
	const AnnIvfLayout *layout = &shared->meta.layout;
	Size		row_size = offsetof(SortedEntry, data) + layout->code_size + layout->attribute_size + layout->vector_size;
	double		tuples;

	AnnIvfSpaceInit(&state->space, layout);
	AnnIvfOpenCentroids(&state->centroids, &shared->meta, centroids);
	state->has_assigner = centroids != NULL && shared->meta.lists > 1;
	if (state->has_assigner)
		AnnIvfAssignerInit(&state->assigner, &state->centroids, centroids + assignTableOffset(&shared->meta));
	state->tuple_context = AllocSetContextCreate(CurrentMemoryContext, "ivfflat build rows", ALLOCSET_DEFAULT_SIZES);
	state->runs = AnnIvfRunsBegin(shared->meta.lists, row_size, sizeof(ItemPointerData),
								  (Size) shared->sort_memory * 1024, runs, participant);
	tuples = table_index_build_scan(state->heap, state->index, state->info, true, state->leader,
									assignCallback, state, scan);
	flushRows(state);
	AnnIvfRunsEnd(state->runs, !state->leader);
	MemoryContextDelete(state->tuple_context);

	SpinLockAcquire(&shared->mutex);
	shared->nfinished++;
	shared->heap_tuples += tuples;
	shared->index_tuples += state->index_tuples;
	if (state->info->ii_BrokenHotChain)
		shared->broken_hot_chain = true;
	SpinLockRelease(&shared->mutex);
	ConditionVariableSignal(&shared->finished);
}

/* ---- pages ---- */

/* A list that is being written. */
typedef struct Writer
{
	Relation	index;
	const AnnIvfMetaPageData *meta;
	AnnIvfShape shape;
	int64		list;
	BlockNumber block;			/* page that `codes` will go to */
	char	   *codes;			/* image of a CODES or TIDS page */
	char	   *vectors;		/* image of a VECTORS page */
	int			nvectors;		/* on it */
	AnnIvfListHead *heads;
	double		rows;			/* of the list at hand */
	double		spread;			/* the sum of theirs */
	BlockNumber last;			/* page of the chain before */
} Writer;

/* Writes an image to a new page. */
static BlockNumber
writeNewPage(Relation index, const char *image)
{
	Buffer		buffer = AnnExtendRelation(index);
	BlockNumber block = BufferGetBlockNumber(buffer);

	memcpy(BufferGetPage(buffer), image, BLCKSZ);
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
	return block;
}

static void
initVectors(Writer *writer)
{
	AnnPageInit((Page) writer->vectors, ANN_IVFFLAT_PAGE_ID, ANN_IVF_VECTORS);
	memset(AnnPageRaw((Page) writer->vectors), 0, ANN_PAGE_USABLE);
	AnnPageSetRawSize((Page) writer->vectors, ANN_PAGE_USABLE);
	writer->nvectors = 0;
}

static void
flushVectors(Writer *writer)
{
	AnnIvfListPage *header = AnnIvfListPageOf((Page) writer->codes);

	header->blocks[header->nblocks++] = writeNewPage(writer->index, writer->vectors);
	initVectors(writer);
}

/* Begins a page of the current list. */
static void
beginListPage(Writer *writer, BlockNumber block, BlockNumber prev)
{
	writer->block = block;
	AnnIvfInitListPage((Page) writer->codes, &writer->shape, (uint32) writer->list, prev);
}

/* Writes the current list page; `next` follows it in the list. */
static void
flushListPage(Writer *writer, BlockNumber next)
{
	Buffer		buffer;

	if (writer->nvectors > 0)
		flushVectors(writer);
	AnnPageOpaque((Page) writer->codes)->next = next;
	buffer = ReadBuffer(writer->index, writer->block);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	memcpy(BufferGetPage(buffer), writer->codes, BLCKSZ);
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
}

/* Ends the current list, and begins the next one, up to `list`. */
static void
advanceList(Writer *writer, int64 list)
{
	while (writer->list < list)
	{
		if (writer->list >= 0)
		{
			flushListPage(writer, InvalidBlockNumber);
			writer->heads[writer->list].insert = writer->block;
			writer->heads[writer->list].rows = (float) writer->rows;
			writer->heads[writer->list].spread = (float) (writer->spread / Max(writer->rows, 1));
			writer->rows = writer->spread = 0;
		}
		if (++writer->list >= AnnIvfTotalLists(writer->meta))
			return;
		writer->shape = AnnIvfShapeOf(writer->meta, (uint32) writer->list);
		/* Its first page waits for it: those of all lists come first. */
		beginListPage(writer, writer->heads[writer->list].first, InvalidBlockNumber);
	}
}

static void
writeVector(Writer *writer, const char *vector, const ItemPointerData *tid)
{
	const AnnIvfLayout *layout = &writer->meta->layout;
	Size		at = 0;

	if (layout->vectors_per_page > 0)
	{
		char	   *to = AnnPageRaw((Page) writer->vectors) + (Size) writer->nvectors * layout->vector_slot;

		memcpy(to, tid, sizeof(ItemPointerData));
		memcpy(to + ANN_IVF_VECTOR_HEADER, vector, layout->vector_size);
		if (++writer->nvectors == layout->vectors_per_page)
			flushVectors(writer);
		return;
	}
	for (int part = 0; part < layout->pages_per_vector; part++)
	{
		char	   *to = AnnPageRaw((Page) writer->vectors);
		Size		room = ANN_PAGE_USABLE;
		Size		n;

		if (part == 0)
		{
			memcpy(to, tid, sizeof(ItemPointerData));
			to += ANN_IVF_VECTOR_HEADER;
			room -= ANN_IVF_VECTOR_HEADER;
		}
		n = Min(room, layout->vector_size - at);
		memcpy(to, vector + at, n);
		at += n;
		flushVectors(writer);
	}
}

static void
writeEntry(Writer *writer, const SortedEntry *sorted)
{
	const AnnIvfLayout *layout = &writer->meta->layout;
	AnnIvfListPage *header = AnnIvfListPageOf((Page) writer->codes);
	AnnIvfValue value = {0};
	Size		code_size = 0;

	if (header->count == writer->shape.entries)
	{
		/* Reserve the page that follows before this one can name it. */
		BlockNumber prev = writer->block;
		BlockNumber next;

		if (writer->nvectors > 0)
			flushVectors(writer);
		next = writeNewPage(writer->index, writer->codes);
		flushListPage(writer, next);
		beginListPage(writer, next, prev);
		header = AnnIvfListPageOf((Page) writer->codes);
	}
	value.list = (uint32) writer->list;
	if (writer->shape.has_vectors && AnnIvfHasCodes(layout))
	{
		value.factors = sorted->factors;
		value.top_factors = sorted->top_factors;
		code_size = layout->code_size;
		value.code = (uint8 *) sorted->data;
	}
	value.attributes = sorted->data + code_size;
	value.key = sorted->key;
	AnnIvfSetEntry(writer->meta, &writer->shape, (Page) writer->codes, header->count, &sorted->tid, &value);
	header->count++;
	header->live++;
	writer->rows++;
	if (code_size > 0)
		writer->spread += AnnIvfEntrySpread(layout, &sorted->top_factors);
	if (writer->shape.has_vectors)
		writeVector(writer, sorted->data + code_size + layout->attribute_size, &sorted->tid);
}

/*
 * Writes the finished index: meta page, centroids, list heads, the first page of
 * every list, then the lists in order.
 */
static void
writeIndex(Relation index, AnnIvfMetaPageData *meta, AnnIvfMerge *rows, char *centroids)
{
	uint32		total = AnnIvfTotalLists(meta);
	AnnIvfListHead *heads = palloc0(mul_size(sizeof(AnnIvfListHead), total));
	char	   *image = palloc0(BLCKSZ);
	Writer		writer = {0};
	int64		done = 0;
	Buffer		buffer;

	meta->magic = ANN_IVF_MAGIC;
	meta->version = ANN_IVF_VERSION;
	meta->build_id = pg_prng_uint64(&pg_global_prng_state);
	meta->free_pages = InvalidBlockNumber;
	meta->other.state = ANN_IVF_OTHER_NONE;
	meta->looked = meta->rows;
	meta->next_chain = total;
	AnnPageInit((Page) image, ANN_IVFFLAT_PAGE_ID, ANN_IVF_META);
	if (writeNewPage(index, image) != ANN_IVF_META_BLOCK)
		elog(ERROR, "index \"%s\" is not empty", RelationGetRelationName(index));
	meta->centroids = meta->centroid_codes = InvalidBlockNumber;
	if (centroids != NULL)
	{
		meta->centroids = AnnIvfWriteBlob(index, ANN_WRITE_BUILD, centroids, AnnIvfCentroidsSize(meta));
		if (meta->centroid_code.dim > 0)
			meta->centroid_codes = AnnIvfWriteBlob(index, ANN_WRITE_BUILD, centroids + AnnIvfCentroidsSize(meta), AnnIvfCentroidCodesSize(meta));
	}
	meta->heads = AnnIvfWriteHeads(index, ANN_WRITE_BUILD, heads, total);
	for (uint32 i = 0; i < total; i++)
	{
		AnnIvfShape shape = AnnIvfShapeOf(meta, i);

		CHECK_FOR_INTERRUPTS();
		AnnIvfInitListPage((Page) image, &shape, i, InvalidBlockNumber);
		heads[i].first = writeNewPage(index, image);
		heads[i].chain = i;
	}

	writer.index = index;
	writer.meta = meta;
	writer.heads = heads;
	writer.list = -1;
	writer.codes = palloc0(BLCKSZ);
	writer.vectors = palloc0(BLCKSZ);
	initVectors(&writer);
	for (uint32 list = 0; list < total; list++)
	{
		const SortedEntry *entry;

		advanceList(&writer, list);
		while ((entry = AnnIvfMergeNext(rows, list)) != NULL)
		{
			CHECK_FOR_INTERRUPTS();
			writeEntry(&writer, entry);
			pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, ++done);
		}
	}
	advanceList(&writer, total);

	for (uint32 i = 0; i < total; i += ANN_IVF_HEADS_PER_PAGE)
	{
		buffer = ReadBuffer(index, meta->heads + i / ANN_IVF_HEADS_PER_PAGE);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		memcpy(AnnPageRaw(BufferGetPage(buffer)), heads + i,
			   sizeof(AnnIvfListHead) * Min(ANN_IVF_HEADS_PER_PAGE, total - i));
		MarkBufferDirty(buffer);
		UnlockReleaseBuffer(buffer);
	}
	buffer = ReadBuffer(index, ANN_IVF_META_BLOCK);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	memcpy(AnnIvfMetaOnPage(BufferGetPage(buffer)), meta, sizeof(*meta));
	AnnPageSetRawSize(BufferGetPage(buffer), sizeof(*meta));
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
}

/* ---- the whole ---- */

/* What the centroids, and their copy for parallel workers, leave of maintenance_work_mem, in kB. */
static int
sortMemory(const BuildPlan *plan, bool parallel)
{
	Size		centroids = plan->centroids_size / 1024 * (parallel ? 2 : 1);

	return Max(64, maintenance_work_mem - (int) Min(centroids, (Size) maintenance_work_mem));
}

static void
initShared(BuildShared *shared, const BuildPlan *plan, int nparticipants)
{
	memset(shared, 0, sizeof(*shared));
	shared->heap = RelationGetRelid(plan->heap);
	shared->index = RelationGetRelid(plan->index);
	shared->concurrent = plan->info->ii_Concurrent;
	shared->sort_memory = Max(64, sortMemory(plan, nparticipants > 1) / nparticipants);
	shared->meta = plan->meta;
	pg_atomic_init_u64(&shared->done, 0);
	ConditionVariableInit(&shared->finished);
	SpinLockInit(&shared->mutex);
}

static BuildState
initState(Relation heap, Relation index, IndexInfo *info, BuildShared *shared, bool leader)
{
	BuildState	state = {0};

	state.heap = heap;
	state.index = index;
	state.info = info;
	state.attributes = AnnAttributesCreate(index);
	state.shared = shared;
	state.leader = leader;
	return state;
}

/* Writes what the participants have assigned. */
static void
writeRuns(BuildPlan *plan, const BuildShared *shared, AnnIvfRuns *runs, int nparticipants)
{
	AnnIvfMerge *rows = AnnIvfMergeBegin(runs, nparticipants);

	reportPhase(PROGRESS_WRITE);
	plan->meta.rows = shared->index_tuples;
	plan->meta.looked_blocks = RelationGetNumberOfBlocks(plan->heap);
	writeIndex(plan->index, &plan->meta, rows, plan->centroids);
	AnnIvfMergeEnd(rows);
	AnnIvfRunsFree(runs);
}

static void
buildSerially(BuildPlan *plan, BuildShared *shared)
{
	BuildState	state = initState(plan->heap, plan->index, plan->info, shared, true);

	initShared(shared, plan, 1);
	assignRows(&state, NULL, NULL, 0, plan->centroids);
	writeRuns(plan, shared, state.runs, 1);
}

void
AnnIvfParallelBuildMain(dsm_segment *seg, shm_toc *toc)
{
	BuildShared *shared = shm_toc_lookup(toc, KEY_SHARED, false);
	AnnIvfSharedRuns *runs = shm_toc_lookup(toc, KEY_RUNS, false);
	LOCKMODE	heap_lock = shared->concurrent ? ShareUpdateExclusiveLock : ShareLock;
	LOCKMODE	index_lock = shared->concurrent ? RowExclusiveLock : AccessExclusiveLock;
	BuildState	state;
	Relation	heap;
	Relation	index;
	IndexInfo  *info;

	debug_query_string = shm_toc_lookup(toc, KEY_QUERY_TEXT, true);
	pgstat_report_activity(STATE_RUNNING, debug_query_string);

	heap = table_open(shared->heap, heap_lock);
	index = index_open(shared->index, index_lock);
	info = BuildIndexInfo(index);
	info->ii_Concurrent = shared->concurrent;
	SharedFileSetAttach(&runs->fileset, seg);
	state = initState(heap, index, info, shared, false);
	assignRows(&state, table_beginscan_parallel(heap, shm_toc_lookup(toc, KEY_SCAN, false)), runs,
			   ParallelWorkerNumber + 1, shm_toc_lookup(toc, KEY_CENTROIDS, true));
	AnnIvfRunsFree(state.runs);
	index_close(index, index_lock);
	table_close(heap, heap_lock);
}

/* Waits until all participants have assigned their share. */
static void
waitForParticipants(ParallelContext *context, BuildShared *shared, int nparticipants)
{
	WaitForParallelWorkersToAttach(context);
	for (;;)
	{
		int			nfinished;

		SpinLockAcquire(&shared->mutex);
		nfinished = shared->nfinished;
		SpinLockRelease(&shared->mutex);
		if (nfinished == nparticipants)
			break;
		ConditionVariableSleep(&shared->finished, WAIT_EVENT_PARALLEL_CREATE_INDEX_SCAN);
	}
	ConditionVariableCancelSleep();
}

/*
 * Builds with parallel workers; false, with nothing done, if there are none to be
 * had or no shared memory.
 */
static bool
buildInParallel(BuildPlan *plan, int nworkers, BuildShared *result)
{
	ParallelContext *context;
	Snapshot	snapshot;
	BuildShared *shared;
	AnnIvfSharedRuns *runs;
	ParallelTableScanDesc scan;
	BuildState	state;
	Size		scan_size;
	Size		runs_size;
	char	   *centroids = NULL;
	bool		launched = false;

	EnterParallelMode();
	context = CreateParallelContext("ann", "AnnIvfParallelBuildMain", nworkers);
	snapshot = plan->info->ii_Concurrent ? RegisterSnapshot(GetTransactionSnapshot()) : SnapshotAny;
	scan_size = table_parallelscan_estimate(plan->heap, snapshot);
	runs_size = offsetof(AnnIvfSharedRuns, nruns) + sizeof(int) * (nworkers + 1);
	shm_toc_estimate_chunk(&context->estimator, sizeof(BuildShared));
	shm_toc_estimate_chunk(&context->estimator, scan_size);
	shm_toc_estimate_chunk(&context->estimator, runs_size);
	shm_toc_estimate_chunk(&context->estimator, plan->centroids_size);
	shm_toc_estimate_keys(&context->estimator, 5);
	if (debug_query_string)
		shm_toc_estimate_chunk(&context->estimator, strlen(debug_query_string) + 1);
	InitializeParallelDSM(context);
	if (context->seg == NULL)
		goto done;

	shared = shm_toc_allocate(context->toc, sizeof(BuildShared));
	initShared(shared, plan, nworkers + 1);
	shm_toc_insert(context->toc, KEY_SHARED, shared);
	scan = shm_toc_allocate(context->toc, scan_size);
	table_parallelscan_initialize(plan->heap, scan, snapshot);
	shm_toc_insert(context->toc, KEY_SCAN, scan);
	runs = shm_toc_allocate(context->toc, runs_size);
	memset(runs, 0, runs_size);
	SharedFileSetInit(&runs->fileset, context->seg);
	shm_toc_insert(context->toc, KEY_RUNS, runs);
	if (plan->centroids != NULL)
	{
		centroids = shm_toc_allocate(context->toc, plan->centroids_size);
		memcpy(centroids, plan->centroids, plan->centroids_size);
		shm_toc_insert(context->toc, KEY_CENTROIDS, centroids);
	}
	if (debug_query_string)
	{
		char	   *text = shm_toc_allocate(context->toc, strlen(debug_query_string) + 1);

		strcpy(text, debug_query_string);
		shm_toc_insert(context->toc, KEY_QUERY_TEXT, text);
	}
	LaunchParallelWorkers(context);
	launched = context->nworkers_launched > 0;
	if (launched)
	{
		int			nparticipants = context->nworkers_launched + 1;

		state = initState(plan->heap, plan->index, plan->info, shared, true);
		assignRows(&state, table_beginscan_parallel(plan->heap, scan), runs, 0, centroids);
		waitForParticipants(context, shared, nparticipants);
		writeRuns(plan, shared, state.runs, nworkers + 1);
		WaitForParallelWorkersToFinish(context);
		*result = *shared;
	}

done:
	if (IsMVCCSnapshot(snapshot))
		UnregisterSnapshot(snapshot);
	DestroyParallelContext(context);
	ExitParallelMode();
	return launched;
}

static void
initMeta(Relation index, AnnIvfMetaPageData *meta)
{
	memset(meta, 0, sizeof(*meta));
	AnnIvfLayoutInit(&meta->layout, &meta->code, index);
}

/*
 * ambuild: builds the index of what the table holds.
 */
IndexBuildResult *
ann_ivfflat_build(Relation heap, Relation index, IndexInfo *info)
{
	IndexBuildResult *result = palloc0(sizeof(IndexBuildResult));
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ivfflat build", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	BuildPlan	plan = {.heap = heap, .index = index, .info = info};
	BuildShared shared;
	int			nworkers;

	if (RelationGetNumberOfBlocks(index) != 0)
		elog(ERROR, "index \"%s\" already contains data", RelationGetRelationName(index));
	initMeta(index, &plan.meta);
	plan.centroids = train(&plan);
	if (plan.centroids != NULL)
	{
		AnnIvfCentroids centroids;

		plan.centroids_size = add_size(assignTableOffset(&plan.meta), AnnIvfAssignTableSize(&plan.meta));
		plan.centroids = repalloc_huge(plan.centroids, plan.centroids_size);
		AnnIvfOpenCentroids(&centroids, &plan.meta, plan.centroids);
		AnnIvfAssignTableFill(plan.centroids + assignTableOffset(&plan.meta), &centroids);
	}

	reportPhase(PROGRESS_ASSIGN);
	nworkers = plan.centroids != NULL ? AnnBuildWorkers(heap, index, info) : 0;
	if (nworkers == 0 || !buildInParallel(&plan, nworkers, &shared))
		buildSerially(&plan, &shared);

	reportPhase(PROGRESS_CALIBRATE);
	AnnIvfCalibrate(index, plan.queries, plan.nqueries, ANN_WRITE_BUILD);
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
ann_ivfflat_buildempty(Relation index)
{
	AnnIvfMetaPageData meta;

	initMeta(index, &meta);
	AnnIvfCreateEmpty(index, INIT_FORKNUM, &meta);
}
