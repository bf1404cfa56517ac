/*
 * hnsw_partition.c
 *	  The build when the graph does not fit into maintenance_work_mem.  README:
 *	  Build.
 *
 * Every row is in its ROW page already.  Pivots are rows of a sample; each row
 * belongs to its two nearest pivots.  One partition after the other is made a
 * graph in memory, whose edges are merged with those that its rows have from
 * their other partition.  Then every row is searched for in the whole graph, for
 * neighbours that were in neither, again one partition after the other.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type_d.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/sampling.h"
#include "utils/tuplesort.h"

#include "hnsw/hnsw_build.h"
#include "hnsw/hnsw_prune.h"
#include "hnsw/hnsw_repair.h"

/* Memory of the sample that pivots come from, as a share of maintenance_work_mem and at most. */
#define SAMPLE_SHARE 8
#define SAMPLE_MIN_BYTES (8 * 1024 * 1024)
#define SAMPLE_MAX_BYTES (16 * 1024 * 1024)
#define SAMPLE_MIN_ROWS 256

/* Partitions of a row. */
#define OVERLAP 2

/* Share of the graph's capacity that a partition may fill in the sample. */
#define FILL 0.8

/* The sort of rows by partition. */
#define SORT_KILOBYTES 1024

#define CONNECT_NODES 64
#define MERGE_NODES 512
#define REFINE_NODES 64

/*
 * What rows are sorted by: the partition, then whether it is that of the nearest
 * pivot (0) or another (1), then the row.
 */
#define MEMBER(pivot, nth, row) ((int64) (pivot) << 33 | (int64) ((nth) > 0) << 32 | (row))
#define MEMBER_PARTITION(member) ((member) >> 33)
#define MEMBER_IS_NEAREST(member) (((member) >> 32 & 1) == 0)
#define MEMBER_ROW(member) ((AnnRowId) (member))

/* Pivots that a row belongs to, nearest first; -1 where there are fewer. */
typedef struct Membership
{
	float		length[OVERLAP];
	int			pivot[OVERLAP];
} Membership;

/* A row of the sample. */
typedef struct SampleRow
{
	const float *dense;
	const char *stored;
	Membership	member;
} SampleRow;

typedef struct Pivots
{
	int			n;
	int			capacity;
	SampleRow **rows;
} Pivots;

/* The leader's work on partitions. */
typedef struct Partitioner
{
	AnnBuild   *build;
	Tuplesortstate *sort;
	bool		has_next;		/* `next` was read from the sort, not used yet */
	int64		next;
	AnnRowId   *sample;			/* reservoir */
	uint32		nsample;
	uint32		sample_capacity;
	uint64		rows;			/* that it is a sample of */
} Partitioner;

/* ---- rows ---- */

/* Room for a row read back from the index. */
typedef struct RowReader
{
	char	   *image;			/* the row */
	char	   *stored;
	float	   *dense;			/* of the index space, or NULL */
	Size		stored_size;
} RowReader;

static void
initReader(RowReader *reader, const AnnBuild *build)
{
	const AnnHnswLayout *layout = &build->meta.layout;

	reader->image = palloc(layout->row_size);
	reader->stored = palloc(layout->vector_size);
	reader->dense = layout->element <= ANN_ELEMENT_HALF ? palloc(mul_size(sizeof(float), layout->dim)) : NULL;
}

static void
freeReader(RowReader *reader)
{
	pfree(reader->image);
	pfree(reader->stored);
	if (reader->dense != NULL)
		pfree(reader->dense);
}

static inline AnnHnswRowHeader *
rowOf(const RowReader *reader)
{
	return (AnnHnswRowHeader *) reader->image;
}

/* False if the row became a TID of an equal one. */
static bool
readRow(AnnBuild *build, AnnRowId row, RowReader *reader)
{
	reader->stored_size = AnnBuildReadRow(build, row, reader->image, reader->stored);
	if (reader->stored_size == 0)
		return false;
	if (reader->dense != NULL)
		AnnHnswDecode(&build->space, reader->stored, reader->dense);
	return true;
}

/*
 * Fills ids with the live rows of a block; 0 if it is no ROW page.  ids has room
 * for a page's.
 */
static int
rowsOfBlock(AnnBuild *build, BlockNumber block, AnnRowId *ids)
{
	const AnnHnswLayout *layout = &build->meta.layout;
	Buffer		buffer = ReadBuffer(build->index, block);
	Page		page = BufferGetPage(buffer);
	int			n = 0;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	if (AnnPageIsOurs(page, ANN_HNSW_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_HNSW_ROW)
		for (int i = 0; i < layout->rows_per_page; i++)
			if (AnnHnswRowOnPage(layout, page, i)->state == ANN_HNSW_LIVE)
				ids[n++] = block * layout->rows_per_page + i;
	UnlockReleaseBuffer(buffer);
	return n;
}

/* ---- pivots ---- */

static void
initMembership(Membership *member)
{
	for (int i = 0; i < OVERLAP; i++)
		member->pivot[i] = -1;
}

/* Counts a pivot among the nearest of a row, if it is one. */
static inline void
considerPivot(Membership *member, int pivot, float length)
{
	int			at = OVERLAP - 1;

	if (member->pivot[at] >= 0 && length >= member->length[at])
		return;
	for (; at > 0 && (member->pivot[at - 1] < 0 || length < member->length[at - 1]); at--)
	{
		member->length[at] = member->length[at - 1];
		member->pivot[at] = member->pivot[at - 1];
	}
	member->length[at] = length;
	member->pivot[at] = pivot;
}

static bool
isMember(const Membership *member, int pivot)
{
	for (int i = 0; i < OVERLAP; i++)
		if (member->pivot[i] == pivot)
			return true;
	return false;
}

static void
addPivot(AnnBuild *build, Pivots *pivots, SampleRow *row, SampleRow *sample, int n)
{
	if (pivots->n == pivots->capacity)
	{
		pivots->capacity *= 2;
		pivots->rows = repalloc(pivots->rows, mul_size(sizeof(SampleRow *), pivots->capacity));
	}
	pivots->rows[pivots->n] = row;
	for (int i = 0; i < n; i++)
		considerPivot(&sample[i].member, pivots->n,
					  AnnHnswPairLength(&build->space, row->dense, row->stored, sample[i].dense, sample[i].stored));
	pivots->n++;
}

/* Rows of random pages, in the current memory context. */
static SampleRow *
sampleRows(AnnBuild *build, int *n)
{
	const AnnHnswLayout *layout = &build->meta.layout;
	Size		row_bytes = sizeof(SampleRow) + layout->vector_size + (layout->element <= ANN_ELEMENT_HALF ? sizeof(float) * layout->dim : 0);
	Size		bytes = Max(Min((Size) maintenance_work_mem * 1024 / SAMPLE_SHARE, SAMPLE_MAX_BYTES), SAMPLE_MIN_BYTES);
	int			capacity = (int) Max(bytes / row_bytes, SAMPLE_MIN_ROWS);
	SampleRow  *sample = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(sizeof(SampleRow), capacity));
	AnnRowId   *ids = palloc(sizeof(AnnRowId) * layout->rows_per_page);
	BlockNumber nblocks = RelationGetNumberOfBlocks(build->index);
	BlockSamplerData sampler;
	RowReader	reader;

	*n = 0;
	initReader(&reader, build);
	BlockSampler_Init(&sampler, nblocks, capacity, pg_prng_uint32(&pg_global_prng_state));
	while (BlockSampler_HasMore(&sampler) && *n < capacity)
	{
		/* One row of a page where there are enough pages. */
		int			rows = rowsOfBlock(build, BlockSampler_Next(&sampler), ids);
		int			limit = nblocks > capacity ? 1 : rows;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < rows && i < limit && *n < capacity; i++)
		{
			SampleRow  *row = &sample[*n];

			if (!readRow(build, ids[i], &reader))
				continue;
			row->stored = memcpy(palloc(reader.stored_size), reader.stored, reader.stored_size);
			row->dense = reader.dense == NULL ? NULL :
				memcpy(palloc(sizeof(float) * layout->dim), reader.dense, sizeof(float) * layout->dim);
			initMembership(&row->member);
			(*n)++;
		}
	}
	freeReader(&reader);
	pfree(ids);
	return sample;
}

/*
 * Chooses pivots so that no partition has more than `share` of the sample: a
 * random row of the fullest partition becomes a pivot until that is so.
 */
static void
choosePivots(AnnBuild *build, SampleRow *sample, int n, double share, Pivots *pivots)
{
	int		   *load;
	int			limit = (int) Max(share * n, 8);

	pivots->n = 0;
	pivots->capacity = 64;
	pivots->rows = palloc(sizeof(SampleRow *) * pivots->capacity);
	load = palloc(sizeof(int) * (n + 1));
	while (pivots->n < n)
	{
		int			fullest = -1;
		int			nth;

		CHECK_FOR_INTERRUPTS();
		memset(load, 0, sizeof(int) * (n + 1));
		for (int i = 0; i < n && pivots->n > 0; i++)
			for (int j = 0; j < OVERLAP; j++)
				if (sample[i].member.pivot[j] >= 0)
					load[sample[i].member.pivot[j]]++;
		for (int i = 0; i < pivots->n; i++)
			if (fullest < 0 || load[i] > load[fullest])
				fullest = i;
		if (pivots->n >= OVERLAP && load[fullest] <= limit)
			break;
		nth = (int) pg_prng_uint64_range(&pg_global_prng_state, 0, pivots->n == 0 ? n - 1 : load[fullest] - 1);
		for (int i = 0; i < n; i++)
			if ((pivots->n == 0 || isMember(&sample[i].member, fullest)) && nth-- == 0)
			{
				addPivot(build, pivots, &sample[i], sample, n);
				break;
			}
	}
	pfree(load);
}

/*
 * Sorts all rows by partition and row id.
 */
static void
assignRows(Partitioner *p, const Pivots *pivots)
{
	AnnBuild   *build = p->build;
	const AnnHnswLayout *layout = &build->meta.layout;
	BlockNumber nblocks = RelationGetNumberOfBlocks(build->index);
	AnnRowId   *ids = palloc(sizeof(AnnRowId) * layout->rows_per_page);
	RowReader	reader;

	initReader(&reader, build);
	p->sort = tuplesort_begin_datum(INT8OID, Int8LessOperator, InvalidOid, false, SORT_KILOBYTES, NULL,
									TUPLESORT_RANDOMACCESS);
	for (BlockNumber block = 0; block < nblocks; block++)
	{
		int			n = rowsOfBlock(build, block, ids);

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
		{
			Membership	member;

			readRow(build, ids[i], &reader);
			initMembership(&member);
			for (int j = 0; j < pivots->n; j++)
				considerPivot(&member, j,
							  AnnHnswPairLength(&build->space, reader.dense, reader.stored,
														 pivots->rows[j]->dense, pivots->rows[j]->stored));
			for (int j = 0; j < OVERLAP; j++)
				if (member.pivot[j] >= 0)
					tuplesort_putdatum(p->sort, Int64GetDatum(MEMBER(member.pivot[j], j, ids[i])), false);

			p->rows++;
			if (p->nsample < p->sample_capacity)
				p->sample[p->nsample++] = ids[i];
			else
			{
				uint64		at = pg_prng_uint64_range(&pg_global_prng_state, 0, p->rows - 1);

				if (at < p->nsample)
					p->sample[at] = ids[i];
			}
		}
	}
	tuplesort_performsort(p->sort);
	freeReader(&reader);
	pfree(ids);
}

/* ---- partitions ---- */

/* Looks at the next member of a partition, p->next; false if there is none. */
static bool
nextMember(Partitioner *p)
{
	Datum		value;
	bool		isnull;

	if (!p->has_next && AnnTuplesortGetDatum(p->sort, &value, &isnull))
	{
		p->next = DatumGetInt64(value);
		p->has_next = true;
	}
	return p->has_next;
}

/*
 * Puts the rows of the next partition, or as many as there is memory for, into
 * the empty graph.  False if there are none left.
 */
static bool
loadPartition(Partitioner *p)
{
	AnnBuild   *build = p->build;
	int64		partition = -1;

	AnnGraphReset(build->graph);
	while (nextMember(p) && (partition < 0 || MEMBER_PARTITION(p->next) == partition))
	{
		CHECK_FOR_INTERRUPTS();
		if (AnnGraphAllot(build->graph, MEMBER_ROW(p->next)) == ANN_GRAPH_NO_NODE)
		{
			if (partition < 0)
				ereport(ERROR,
						(errcode(ERRCODE_OUT_OF_MEMORY),
						 errmsg("out of memory"),
						 errhint("maintenance_work_mem is too small for this index.")));
			break;
		}
		partition = MEMBER_PARTITION(p->next);
		p->has_next = false;
	}
	return partition >= 0;
}

/* Makes a row a TID of an equal row in the graph, if there is one. */
static bool
mergeIntoEqual(AnnBuild *build, AnnRowId id, const RowReader *reader)
{
	const AnnHnswRowHeader *row = rowOf(reader);
	AnnHnswPoint point = {
		.hash = row->hash,
		.stored = reader->stored,
		.stored_size = reader->stored_size,
		.attributes = AnnHnswRowAttributes(&build->meta.layout, row)
	};
	AnnHnswRowHeader *header;
	Buffer		buffer;

	/* One that others were merged into already stays. */
	if (row->node != ANN_HNSW_NO_NODE ||
		!AnnBuildAddToEqual(build, &point, row->tids, row->ntids))
		return false;
	if (AnnHnswVectorIsExternal(&build->meta.layout))
	{
		ItemPointerData item;

		memcpy(&item, AnnHnswRowVector(rowOf(reader)), sizeof(item));
		AnnHnswDeleteVector(build->index, ANN_WRITE_BUILD, item);
	}
	buffer = AnnHnswLockRow(build->index, NULL, &build->meta.layout, id, BUFFER_LOCK_EXCLUSIVE, &header);
	memset(header, 0, build->meta.layout.row_size);
	header->state = ANN_HNSW_FREE;
	header->node = ANN_HNSW_NO_NODE;
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
	pg_atomic_fetch_add_u32(&build->shared->merged, 1);
	return true;
}

/* Connects the nodes of the graph: each participant takes some until none are left. */
static void
connectNodes(AnnBuild *build, RowReader *reader)
{
	uint32		count = AnnGraphCount(build->graph);
	MemoryContext old = MemoryContextSwitchTo(build->tuple_context);
	uint32		start;
	uint32		end;

	while (AnnBuildTakeNodes(build, count, CONNECT_NODES, &start, &end))
		for (AnnGraphNode node = start; node < end; node++)
		{
			AnnRowId	id = AnnGraphRow(build->graph, node);
			const AnnHnswRowHeader *row = rowOf(reader);
			bool		connect = readRow(build, id, reader);

			if (connect)
				AnnGraphPrepare(build->graph, reader->dense, reader->stored, reader->stored_size);
			if (connect && !build->shared->filled)
			{
				LWLock	   *lock = AnnGraphValueLock(build->graph, row->hash);

				LWLockAcquire(lock, LW_EXCLUSIVE);
				connect = !mergeIntoEqual(build, id, reader) &&
					AnnGraphFill(build->graph, node, row->hash, &row->tids[0]);
				LWLockRelease(lock);
			}
			if (connect)
				AnnGraphConnect(build->graph, node);
			else
				AnnGraphDrop(build->graph, node);
			MemoryContextReset(build->tuple_context);
		}
	MemoryContextSwitchTo(old);
}

/* ---- merging edges ---- */

/* An edge of a row: in its old slots, or in those of this partition's graph. */
typedef struct Edge
{
	float		length;
	AnnRowId	row;
	char	   *slot;
	const AnnCodeProbe *probe;	/* with codes */
	const float *dense;			/* without */
	const char *stored;
} Edge;

static int
compareEdges(const void *a, const void *b)
{
	const Edge *x = (const Edge *) a;
	const Edge *y = (const Edge *) b;

	if (x->length != y->length)
		return x->length < y->length ? -1 : 1;
	return x->row < y->row ? -1 : x->row > y->row ? 1 : 0;
}

/* Gets an edge's end ready for comparisons. */
static void
loadEdge(AnnBuild *build, Edge *edge)
{
	const AnnHnswLayout *layout = &build->meta.layout;

	if (AnnHnswHasCodes(layout))
	{
		AnnHnswSlot *slot = (AnnHnswSlot *) edge->slot;
		const uint8 *code = AnnHnswSlotCode(layout, slot);
		AnnCodeProbe *probe = palloc(AnnCodeProbeSize(&build->space.code));
		AnnHalf		halves[3] = {slot->add, slot->mul, 0};
		AnnCodeFactors factors;

		AnnFactorsFromHalf(&build->space.code, halves, &factors);
		AnnCodeProbeInit(probe, &build->space.code, code, AnnCodeNorm(&build->space.code, code, &factors));
		edge->probe = probe;
	}
	else
	{
		char	   *stored = palloc(layout->vector_size);

		AnnBuildReadRow(build, edge->row, NULL, stored);
		edge->stored = stored;
		if (layout->element <= ANN_ELEMENT_HALF)
		{
			float	   *dense = palloc(mul_size(sizeof(float), layout->dim));

			AnnHnswDecode(&build->space, stored, dense);
			edge->dense = dense;
		}
	}
}

static float
edgeDistance2(const AnnBuild *build, const Edge *a, const Edge *b)
{
	float		length;

	if (a->probe != NULL)
		return AnnCodeProbeDistance2(&build->space.code, a->probe, b->probe);
	length = AnnHnswPairLength(&build->space, a->dense, a->stored, b->dense, b->stored);
	return length * length;
}

static int
collectEdges(const AnnHnswLayout *layout, AnnHnswRowHeader *row, Edge *edges, int n)
{
	for (int i = 0; i < row->nedges; i++)
	{
		Edge	   *edge = &edges[n++];

		memset(edge, 0, sizeof(*edge));
		edge->row = AnnHnswEdge(layout, row, i);
		edge->slot = AnnHnswRowSlots(layout, row) + (Size) i * layout->slot_size;
		edge->length = AnnHnswEdgeLength(layout, row, i);
	}
	return n;
}

/*
 * Writes into `to` the edges of `old` and `new`, two images of a row: what the
 * relative neighbourhood rule keeps, then the nearest of the rest.
 */
static void
mergeEdges(void *arg, AnnHnswRowHeader *old, AnnHnswRowHeader *new, AnnHnswRowHeader *to)
{
	AnnBuild   *build = (AnnBuild *) arg;
	const AnnHnswLayout *layout = &build->meta.layout;
	Edge	   *edges = palloc(sizeof(Edge) * 2 * layout->slots);
	Edge	  **kept = palloc(sizeof(Edge *) * 2 * layout->slots);
	Edge	  **rest = palloc(sizeof(Edge *) * 2 * layout->slots);
	float		alpha = AnnGraphAlpha(build->graph);
	int			n = collectEdges(layout, new, edges, collectEdges(layout, old, edges, 0));
	int			nkept = 0;
	int			nrest = 0;
	int			nrule;

	qsort(edges, n, sizeof(Edge), compareEdges);
	for (int i = 0; i < n && nkept < layout->slots; i++)
	{
		bool		occluded = false;
		bool		twice = false;

		/* The two estimates of a length may differ: equal rows need not be side by side. */
		for (int j = 0; j < nkept && !twice; j++)
			twice = kept[j]->row == edges[i].row;
		for (int j = 0; j < nrest && !twice; j++)
			twice = rest[j]->row == edges[i].row;
		if (twice)
			continue;
		loadEdge(build, &edges[i]);
		for (int j = 0; j < nkept && !occluded; j++)
			occluded = AnnHnswOccludes(alpha, edgeDistance2(build, kept[j], &edges[i]), edges[i].length);
		if (occluded)
			rest[nrest++] = &edges[i];
		else
			kept[nkept++] = &edges[i];
	}
	nrule = nkept;
	for (int i = 0; i < nrest && nkept < layout->slots; i++)
		kept[nkept++] = rest[i];
	to->nedges = (uint8) nkept;
	for (int i = 0; i < nkept; i++)
	{
		memcpy(AnnHnswRowSlots(layout, to) + (Size) i * layout->slot_size, kept[i]->slot, layout->slot_size);
		AnnHnswSetOccluded(layout, to, i, i >= nrule);
	}
}

/* Writes the graph's edges into the rows. */
static void
writeNodes(AnnBuild *build, RowReader *reader)
{
	const AnnHnswLayout *layout = &build->meta.layout;
	uint32		count = AnnGraphCount(build->graph);
	Size		slots_size = (Size) layout->slots * layout->slot_size;
	MemoryContext old = MemoryContextSwitchTo(build->tuple_context);
	uint32		start;
	uint32		end;

	while (AnnBuildTakeNodes(build, count, MERGE_NODES, &start, &end))
		for (AnnGraphNode node = start; node < end; node++)
		{
			AnnRowId	id = AnnGraphRow(build->graph, node);
			AnnHnswRowHeader *now = rowOf(reader);
			AnnHnswRowHeader *merged;
			AnnHnswRowHeader *header;
			Buffer		buffer;

			if (id == ANN_HNSW_NO_ROW)
				continue;
			AnnBuildReadRow(build, id, reader->image, reader->stored);
			merged = palloc0(layout->row_size);
			AnnGraphWriteSlots(build->graph, node, merged);
			if (now->nedges > 0)
			{
				AnnHnswRowHeader *new = merged;

				merged = palloc0(layout->row_size);
				mergeEdges(build, now, new, merged);
			}
			buffer = AnnHnswLockRow(build->index, NULL, layout, id, BUFFER_LOCK_EXCLUSIVE, &header);
			header->nedges = merged->nedges;
			memcpy(AnnHnswRowSlots(layout, header), AnnHnswRowSlots(layout, merged), slots_size);
			MarkBufferDirty(buffer);
			UnlockReleaseBuffer(buffer);
			MemoryContextReset(build->tuple_context);
		}
	MemoryContextSwitchTo(old);
}

/* Links what cannot be reached from a sample of the partition. */
static void
linkPartition(AnnBuild *build)
{
	uint32		n = 64;
	AnnGraphNode *nodes = AnnBuildSampleNodes(build->graph, &n);

	AnnGraphLinkUnreachable(build->graph, nodes, n);
	pfree(nodes);
}

/*
 * Merging may have cut rows off that their partition's graph could reach: VACUUM's
 * repair, with nothing deleted, links them.
 */
static void
linkRows(AnnBuild *build)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(build->index);
	AnnHnswRowSet none;
	AnnHnswRepair repair = {0};

	AnnBuildReport(build, ANN_BUILD_LINK);
	AnnHnswRowSetInit(&none, (uint64) nblocks * build->meta.layout.rows_per_page);
	build->space.alpha = AnnGraphAlpha(build->graph);
	repair.index = build->index;
	repair.mode = ANN_WRITE_BUILD;
	repair.space = &build->space;
	repair.deleting = &none;
	AnnHnswRepairGraph(&repair, nblocks);
	AnnHnswRowSetFree(&none);
}

/*
 * Puts the next rows, in the order of the partitions of their nearest pivots, into
 * the empty graph, as many as there is memory for: as names only.  False if there
 * are none left.
 */
static bool
loadRows(Partitioner *p)
{
	bool		some = false;

	AnnGraphReset(p->build->graph);
	while (nextMember(p))
	{
		CHECK_FOR_INTERRUPTS();
		if (MEMBER_IS_NEAREST(p->next))
		{
			if (AnnGraphAllot(p->build->graph, MEMBER_ROW(p->next)) == ANN_GRAPH_NO_NODE)
				break;
			some = true;
		}
		p->has_next = false;
	}
	return some;
}

/*
 * Gives the rows that the graph names the neighbours that were in neither of their
 * partitions, as a search of the whole index finds them: each participant takes
 * some until none are left.
 */
static void
refineRows(AnnBuild *build, AnnHnswCache *cache)
{
	uint32		count = AnnGraphCount(build->graph);
	MemoryContext old = MemoryContextSwitchTo(build->tuple_context);
	uint32		start;
	uint32		end;

	while (AnnBuildTakeNodes(build, count, REFINE_NODES, &start, &end))
		for (AnnGraphNode node = start; node < end; node++)
		{
			CHECK_FOR_INTERRUPTS();
			AnnHnswRefineRow(build->index, cache, &build->space, AnnGraphRow(build->graph, node), build->meta.layout.slots,
							 mergeEdges, build);
			MemoryContextReset(build->tuple_context);
		}
	MemoryContextSwitchTo(old);
}

/*
 * Refines all rows, those of one partition after the other: the pages that their
 * searches read are few at a time then.
 */
static void
refineIndex(Partitioner *p)
{
	AnnBuild   *build = p->build;
	AnnBuildShared *shared = build->shared;
	AnnHnswCache *cache = AnnHnswCacheGet(build->index);

	AnnBuildReport(build, ANN_BUILD_REFINE);
	AnnHnswCacheRefresh(build->index, cache);
	build->space.alpha = AnnGraphAlpha(build->graph);
	if (build->leader)
		tuplesort_rescan(p->sort);
	do
	{
		AnnBuildWait(build);
		if (build->leader)
		{
			shared->more = loadRows(p);
			AnnBuildRestart(build);
		}
		AnnBuildWait(build);
		AnnGraphForget(build->graph);
		refineRows(build, cache);
	} while (shared->more);
}

/* When all rows have the edges of their partitions: entries, meta page, rows to calibrate with. */
static void
writeSample(Partitioner *p, RowReader *reader)
{
	AnnBuildShared *shared = p->build->shared;
	uint32		nlive = 0;

	/* Rows that became TIDs of equal ones are not rows any more. */
	for (uint32 i = 0; i < p->nsample; i++)
		if (readRow(p->build, p->sample[i], reader))
			p->sample[nlive++] = p->sample[i];
	p->nsample = nlive;
	shared->ncalibrate = Min(nlive, ANN_HNSW_CALIBRATION_ROWS);

	/* Shuffled, so that each part of it is a fair sample. */
	for (uint32 i = p->nsample; i > 1; i--)
	{
		uint32		j = (uint32) pg_prng_uint64_range(&pg_global_prng_state, 0, i - 1);
		AnnRowId	row = p->sample[i - 1];

		p->sample[i - 1] = p->sample[j];
		p->sample[j] = row;
	}
	memcpy(shared->calibrate, p->sample + p->nsample - shared->ncalibrate, sizeof(AnnRowId) * shared->ncalibrate);
	AnnBuildFinish(p->build, p->sample, Min(p->nsample, p->build->meta.entry_capacity));
	pfree(p->sample);
}

/*
 * Builds the index from its rows: those of the graph, if they are all in it, or
 * one partition after the other.  Called by every participant, after the scan.
 */
void
AnnBuildPartitions(AnnBuild *build)
{
	AnnBuildShared *shared = build->shared;
	Partitioner partitioner = {.build = build};
	RowReader	reader;

	initReader(&reader, build);
	if (build->leader)
	{
		shared->filled = !AnnGraphIsFull(build->graph);
		partitioner.sample_capacity = build->meta.entry_capacity + ANN_HNSW_CALIBRATION_ROWS;
		partitioner.sample = palloc(mul_size(sizeof(AnnRowId), partitioner.sample_capacity));
		if (shared->filled)
		{
			uint32		n = partitioner.sample_capacity;
			AnnGraphNode *nodes = AnnBuildSampleNodes(build->graph, &n);

			for (uint32 i = 0; i < n; i++)
				partitioner.sample[i] = AnnGraphRow(build->graph, nodes[i]);
			partitioner.nsample = n;
			shared->more = n > 0;
		}
		else
		{
			MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "hnsw build pivots", ALLOCSET_DEFAULT_SIZES);
			MemoryContext old = MemoryContextSwitchTo(context);
			SampleRow  *sample;
			Pivots		pivots;
			int			n;

			AnnBuildReport(build, ANN_BUILD_PARTITION);
			sample = sampleRows(build, &n);
			choosePivots(build, sample, n, FILL * AnnGraphCapacity(build->graph) / Max(shared->rows, 1), &pivots);
			MemoryContextSwitchTo(old);
			assignRows(&partitioner, &pivots);
			MemoryContextDelete(context);
			shared->more = loadPartition(&partitioner);
		}
		AnnBuildRestart(build);
	}
	AnnBuildWait(build);

	while (shared->more)
	{
		AnnBuildReport(build, ANN_BUILD_CONNECT);
		if (!shared->filled)
			AnnGraphForget(build->graph);
		connectNodes(build, &reader);
		AnnBuildWait(build);
		if (build->leader)
		{
			linkPartition(build);
			AnnBuildRestart(build);
		}
		AnnBuildWait(build);
		AnnBuildReport(build, ANN_BUILD_WRITE);
		writeNodes(build, &reader);
		AnnBuildWait(build);
		if (build->leader)
		{
			shared->more = !shared->filled && loadPartition(&partitioner);
			AnnBuildRestart(build);
		}
		AnnBuildWait(build);
	}

	if (build->leader)
		writeSample(&partitioner, &reader);
	AnnBuildWait(build);
	if (!shared->filled)
		refineIndex(&partitioner);
	if (build->leader && partitioner.sort != NULL)
		tuplesort_end(partitioner.sort);
	AnnBuildWait(build);
	if (build->leader)
		linkRows(build);
	freeReader(&reader);
}
