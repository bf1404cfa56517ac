/*
 * hnsw_repair.c
 *	  Repair of the graph around rows that VACUUM is about to free: README, VACUUM
 *	  step 4.
 */
#include "postgres.h"

#include <math.h>

#include "commands/vacuum.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "hnsw/hnsw_prune.h"
#include "hnsw/hnsw_repair.h"

/* Candidates of one row that are kept by their estimated length. */
#define POOL_SIZE 64

/* Candidates that are read for their exact length (DESIGN, fact 16). */
#define MAX_FINALISTS 16

/* Live neighbours whose edges are looked at when those of the dead ones do not suffice. */
#define EXTRA_SOURCES 4

#define MAX_SLOTS 255

/* A row two edges away. */
typedef struct PoolEntry
{
	AnnRowId	row;
	float		length2;		/* estimate */
	int			code;			/* place of its code in work->pool_codes */
	float		norm;			/* |residual|, with codes */
	bool		chosen;
	bool		kept;			/* by the rule, beside the live edges */
} PoolEntry;

/* A row that was read: it becomes a neighbour if there is room. */
typedef struct Finalist
{
	AnnRowId	row;
	ItemPointerData hint;
	float		length;
	float	   *dense;
	char	   *stored;
	bool		occluded;
} Finalist;

/* What a row of the page that is being repaired gets. */
typedef struct NewEdge
{
	int			slot;			/* of the row on its page */
	AnnRowId	row;
	float		length;
	ItemPointerData hint;
	uint8	   *code;
	AnnHalf		halves[3];
} NewEdge;

/* An edge that a row is to get from the end of a new one of its own. */
typedef struct BackEdge
{
	AnnRowId	from;
	AnnHnswNewEdge edge;
} BackEdge;

typedef struct RepairWork
{
	MemoryContext context;		/* of one page's repair */
	Size		probe_size;
	PGAlignedBlock page;		/* copy of the page that is being repaired */
	bool	   *dirty;			/* rows of the page that have edges to deleting rows */
	NewEdge    *edges;
	int			nedges;
	BackEdge   *backs;			/* with codes */
	int			nbacks;
	PoolEntry	pool[POOL_SIZE + 1];
	int			npool;
	uint8	   *pool_codes;
	char	   *probes;			/* of the live neighbours and chosen finalists */
	float	   *lengths;		/* of those */
	AnnHnswRowHeader *copy;		/* of a row that is to get an edge back */
	float	   *estimates;
	float	   *scratch;
	AnnQueryCode *query;
	float	   *dense;			/* of the row */
	float		dense_norm2;
	char	   *stored;
	char	   *vector;			/* scratch for external vectors */
} RepairWork;

/* ---- sets of rows ---- */

void
AnnHnswRowSetInit(AnnHnswRowSet *set, uint64 nrows)
{
	set->nrows = Min(nrows, ANN_HNSW_NO_ROW);
	set->words = MemoryContextAllocExtended(CurrentMemoryContext, mul_size(sizeof(uint64), set->nrows / 64 + 1),
											MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

void
AnnHnswRowSetClear(AnnHnswRowSet *set)
{
	memset(set->words, 0, sizeof(uint64) * (set->nrows / 64 + 1));
}

void
AnnHnswRowSetFree(AnnHnswRowSet *set)
{
	pfree(set->words);
}

/*
 * Advances *row to the first member that is not below it; false if there is
 * none.
 */
bool
AnnHnswRowSetNext(const AnnHnswRowSet *set, AnnRowId *row)
{
	for (uint64 i = *row; i < set->nrows;)
	{
		uint64		word = set->words[i / 64] >> i % 64;

		if (word != 0)
		{
			*row = (AnnRowId) (i + pg_rightmost_one_pos64(word));
			return *row < set->nrows;
		}
		i = (i / 64 + 1) * 64;
	}
	return false;
}

/* ---- candidates ---- */

static Buffer
lockRow(AnnHnswRepair *repair, AnnRowId row, int lockmode, AnnHnswRowHeader **header)
{
	const AnnHnswLayout *layout = &repair->space->layout;
	BlockNumber block = AnnHnswRowBlock(layout, row);
	Buffer		buffer = AnnReadBlock(repair->index, block, repair->strategy);
	Page		page;

	LockBuffer(buffer, lockmode);
	page = AnnPageGet(repair->index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ROW);
	*header = AnnHnswRowOnPage(layout, page, AnnHnswRowSlot(layout, row));
	if (unlikely((*header)->nedges > layout->slots || (*header)->ntids > ANN_HNSW_INLINE_TIDS))
		AnnPageCorrupted(repair->index, block, "a row has more edges or TIDs than it can hold");
	return buffer;
}

/* Keeps the nearest candidates, each once. */
static void
offer(AnnHnswRepair *repair, AnnRowId row, float length2, const uint8 *code, float norm)
{
	RepairWork *work = repair->work;
	PoolEntry  *pool = work->pool;
	PoolEntry	entry;
	int			i;

	if (work->npool == POOL_SIZE && !(length2 < pool[POOL_SIZE - 1].length2))
		return;
	for (i = 0; i < work->npool; i++)
	{
		if (pool[i].row == row)
		{
			if (!(length2 < pool[i].length2))
				return;
			break;
		}
	}
	if (i < work->npool)
		entry = pool[i];
	else
	{
		entry.row = row;
		entry.chosen = false;
		entry.kept = false;
		if (work->npool == POOL_SIZE)
			entry.code = pool[i = POOL_SIZE - 1].code;
		else
			entry.code = work->npool++;
	}
	entry.length2 = length2;
	entry.norm = norm;
	if (code != NULL)
		memcpy(work->pool_codes + (Size) entry.code * repair->space->layout.code_size, code,
			   repair->space->layout.code_size);
	for (; i > 0 && pool[i - 1].length2 > length2; i--)
		pool[i] = pool[i - 1];
	pool[i] = entry;
}

/*
 * Squared Euclidean distance of an estimate: the estimate itself for L2, and
 * what makes it one for the other metrics.
 */
static float
estimatedLength2(AnnHnswRepair *repair, float estimate, float norm, const AnnCodeFactors *factors)
{
	switch ((AnnMetric) repair->space->layout.metric)
	{
		case ANN_METRIC_L2:
			return estimate;
		case ANN_METRIC_COSINE:
			return 2 * estimate;
		default:
			/* |x|^2 = |r|^2 + 2 <r, c> + |c|^2, and the factor `add` is -<r, c> */
			return repair->work->dense_norm2 + 2 * estimate + norm * norm - 2 * factors->add +
				repair->space->center_norm2;
	}
}

/*
 * Offers the neighbours of `source`, a neighbour of `row` at this distance.
 */
static void
offerNeighbours(AnnHnswRepair *repair, AnnHnswRowHeader *row, AnnRowId self, AnnRowId source, float distance)
{
	const AnnHnswLayout *layout = &repair->space->layout;
	RepairWork *work = repair->work;
	AnnHnswRowHeader *header;
	Buffer		buffer = lockRow(repair, source, BUFFER_LOCK_SHARE, &header);
	int			n = header->state == ANN_HNSW_FREE ? 0 : header->nedges;
	AnnCodeArray array;

	if (AnnHnswHasCodes(layout) && n > 0)
	{
		char	   *slots = AnnHnswRowSlots(layout, header);

		array.codes = slots + sizeof(AnnHnswSlot) + layout->hint_size;
		array.code_stride = layout->slot_size;
		array.factors = slots + offsetof(AnnHnswSlot, add);
		array.factor_stride = layout->slot_size;
		array.form = ANN_FACTORS_HALF2;
		array.count = n;
		AnnEstimateBatch(work->query, &array, work->estimates, NULL);
	}
	for (int i = 0; i < n; i++)
	{
		AnnRowId	candidate = AnnHnswEdge(layout, header, i);

		if (candidate == self || AnnHnswRowSetHas(repair->deleting, candidate) ||
			AnnHnswFindEdge(layout, row, candidate) >= 0)
			continue;
		if (AnnHnswHasCodes(layout))
		{
			AnnHnswSlot *slot = AnnHnswCodedSlot(layout, header, i);
			AnnHalf		halves[3] = {slot->add, slot->mul, 0};
			const uint8 *code = AnnHnswSlotCode(layout, slot);
			AnnCodeFactors factors;
			float		norm;

			AnnFactorsFromHalf(&repair->space->code, halves, &factors);
			norm = AnnCodeNorm(&repair->space->code, code, &factors);
			offer(repair, candidate, estimatedLength2(repair, work->estimates[i], norm, &factors), code, norm);
		}
		else
		{
			float		length = AnnHnswEdgeLength(layout, header, i);

			/* Two edges are about at right angles. */
			offer(repair, candidate, distance * distance + length * length, NULL, 0);
		}
	}
	UnlockReleaseBuffer(buffer);
}

/* Reads the vector of the row that is repaired and makes it a query. */
static bool
loadRow(AnnHnswRepair *repair, AnnHnswRowHeader *row)
{
	const AnnHnswSpace *space = repair->space;
	RepairWork *work = repair->work;
	int			dim = (int) space->layout.dim;
	const char *stored = AnnHnswStoredVector(repair->index, &space->layout, row, work->vector);
	float		q_dot_c = 0;

	if (stored == NULL)
		return false;
	if (work->dense == NULL)
	{
		memcpy(work->stored, stored, AnnHnswStoredSize(space, stored));
		return true;
	}
	AnnHnswDecode(space, stored, work->dense);
	if (!AnnHnswHasCodes(&space->layout))
		return true;
	memcpy(work->scratch, work->dense, sizeof(float) * dim);
	if (space->center != NULL)
	{
		q_dot_c = ann_kernels.ip_f32(work->dense, space->center, dim);
		for (int i = 0; i < dim; i++)
			work->scratch[i] -= space->center[i];
	}
	work->dense_norm2 = ann_kernels.ip_f32(work->dense, work->dense, dim);
	AnnQueryCodeInit(work->query, &space->code, work->scratch, q_dot_c);
	return true;
}

/* Makes the codes of the live edges, in slots 0..n-1 of work->probes, ready; returns n. */
static int
probeLiveEdges(AnnHnswRepair *repair, AnnHnswRowHeader *row)
{
	const AnnHnswSpace *space = repair->space;
	const AnnHnswLayout *layout = &space->layout;
	RepairWork *work = repair->work;
	int			n = 0;

	for (int i = 0; i < row->nedges; i++)
	{
		AnnHnswSlot *slot = AnnHnswCodedSlot(layout, row, i);
		AnnHalf		halves[3] = {slot->add, slot->mul, 0};
		const uint8 *code = AnnHnswSlotCode(layout, slot);
		AnnCodeFactors factors;

		if (AnnHnswRowSetHas(repair->deleting, AnnHnswSlotRow(slot)))
			continue;
		AnnFactorsFromHalf(&space->code, halves, &factors);
		AnnCodeProbeInit((AnnCodeProbe *) (work->probes + n * work->probe_size), &space->code, code,
						 AnnCodeNorm(&space->code, code, &factors));
		work->lengths[n] = AnnHnswEdgeLength(layout, row, i);
		n++;
	}
	return n;
}

/* Whether one of the first n probed edges makes an edge of this length superfluous. */
static bool
isOccluded(AnnHnswRepair *repair, const AnnCodeProbe *probe, float length, int n)
{
	RepairWork *work = repair->work;

	for (int i = 0; i < n; i++)
		if (work->lengths[i] < length &&
			AnnHnswOccludes(repair->space->alpha,
							AnnCodeProbeDistance2(&repair->space->code, probe,
												  (AnnCodeProbe *) (work->probes + i * work->probe_size)),
							length))
			return true;
	return false;
}

/*
 * Chooses at most `limit` of the pool to be read: with codes those that the
 * relative neighbourhood rule keeps beside the live edges, then the nearest.
 */
static void
chooseFinalists(AnnHnswRepair *repair, AnnHnswRowHeader *row, int limit)
{
	const AnnHnswSpace *space = repair->space;
	RepairWork *work = repair->work;
	int			chosen = 0;

	if (AnnHnswHasCodes(&space->layout))
	{
		int			n = probeLiveEdges(repair, row);

		for (int i = 0; i < work->npool && chosen < limit; i++)
		{
			PoolEntry  *entry = &work->pool[i];
			AnnCodeProbe *probe = (AnnCodeProbe *) (work->probes + n * work->probe_size);
			float		length = sqrtf(Max(entry->length2, 0));

			AnnCodeProbeInit(probe, &space->code, work->pool_codes + (Size) entry->code * space->layout.code_size,
							 entry->norm);
			if (isOccluded(repair, probe, length, n))
				continue;
			work->lengths[n++] = length;
			entry->chosen = true;
			entry->kept = true;
			chosen++;
		}
	}
	for (int i = 0; i < work->npool && chosen < limit; i++)
	{
		if (!work->pool[i].chosen)
		{
			work->pool[i].chosen = true;
			chosen++;
		}
	}
}

/* Reads a candidate; false if it is not live. */
static bool
readFinalist(AnnHnswRepair *repair, AnnRowId row, Finalist *finalist)
{
	const AnnHnswSpace *space = repair->space;
	RepairWork *work = repair->work;
	AnnHnswRowHeader *header;
	Buffer		buffer = lockRow(repair, row, BUFFER_LOCK_SHARE, &header);
	const char *stored = header->state != ANN_HNSW_LIVE ? NULL :
		AnnHnswStoredVector(repair->index, &space->layout, header, work->vector);

	if (stored != NULL)
	{
		memset(finalist, 0, sizeof(*finalist));
		finalist->row = row;
		if (header->ntids > 0)
			finalist->hint = header->tids[0];
		else
			ItemPointerSetInvalid(&finalist->hint);
		if (work->dense != NULL)
		{
			finalist->dense = palloc(sizeof(float) * space->layout.dim);
			AnnHnswDecode(space, stored, finalist->dense);
		}
		else
		{
			Size		size = AnnHnswStoredSize(space, stored);

			finalist->stored = memcpy(palloc(size), stored, size);
		}
	}
	UnlockReleaseBuffer(buffer);
	if (stored == NULL)
		return false;
	finalist->length = AnnHnswPairLength(space, work->dense, work->stored, finalist->dense, finalist->stored);
	return true;
}

static int
compareLength(const void *a, const void *b)
{
	float		x = ((const Finalist *) a)->length;
	float		y = ((const Finalist *) b)->length;

	return (x > y) - (x < y);
}

/* What the slots of other rows hold of the row that is repaired, but for the length. */
static void
formBack(AnnHnswRepair *repair, AnnHnswRowHeader *row, AnnHnswNewEdge *back)
{
	const AnnHnswSpace *space = repair->space;
	uint8	   *code = palloc(space->layout.code_size);
	AnnHalf    *halves = palloc(3 * sizeof(AnnHalf));
	ItemPointer hint = palloc(sizeof(ItemPointerData));
	AnnCodeFactors factors;

	if (row->ntids > 0)
		*hint = row->tids[0];
	else
		ItemPointerSetInvalid(hint);
	AnnHnswEncode(space, repair->work->dense, code, &factors, repair->work->scratch);
	AnnFactorsToHalf(&space->code, &factors, halves);
	back->code = code;
	back->halves = halves;
	back->hint = hint;
}

/*
 * Finds edges for the free places of a row, which stands in the copy of its
 * page.
 */
static void
findEdges(AnnHnswRepair *repair, AnnHnswRowHeader *row, AnnRowId self)
{
	const AnnHnswSpace *space = repair->space;
	const AnnHnswLayout *layout = &space->layout;
	RepairWork *work = repair->work;
	Finalist	finalists[MAX_FINALISTS];
	int			nfinalists = 0;
	int			wanted = layout->slots;
	int			extra = EXTRA_SOURCES;
	bool		coded = AnnHnswHasCodes(layout);
	AnnHnswNewEdge back = {.to = self};

	if (!loadRow(repair, row))
		return;
	work->npool = 0;
	for (int i = 0; i < row->nedges; i++)
	{
		AnnRowId	neighbour = AnnHnswEdge(layout, row, i);

		if (AnnHnswRowSetHas(repair->deleting, neighbour))
			offerNeighbours(repair, row, self, neighbour, AnnHnswEdgeLength(layout, row, i));
		else
			wanted--;
	}
	wanted = Min(wanted, MAX_FINALISTS);
	for (int i = 0; i < row->nedges && work->npool < wanted && extra > 0; i++)
	{
		AnnRowId	neighbour = AnnHnswEdge(layout, row, i);

		if (!AnnHnswRowSetHas(repair->deleting, neighbour))
		{
			offerNeighbours(repair, row, self, neighbour, AnnHnswEdgeLength(layout, row, i));
			extra--;
		}
	}
	chooseFinalists(repair, row, MAX_FINALISTS);
	for (int i = 0; i < work->npool; i++)
		if (work->pool[i].chosen && readFinalist(repair, work->pool[i].row, &finalists[nfinalists]))
			finalists[nfinalists++].occluded = coded && !work->pool[i].kept;

	qsort(finalists, nfinalists, sizeof(Finalist), compareLength);
	for (int i = 0; i < nfinalists; i++)
	{
		for (int j = 0; j < i && !finalists[i].occluded; j++)
		{
			float		d;

			if (finalists[j].occluded)
				continue;
			d = AnnHnswPairLength(space, finalists[j].dense, finalists[j].stored,
								  finalists[i].dense, finalists[i].stored);
			finalists[i].occluded = AnnHnswOccludes(space->alpha, d * d, finalists[i].length);
		}
	}
	for (int pass = 0; pass < 2; pass++)
	{
		for (int i = 0; i < nfinalists && wanted > 0; i++)
		{
			NewEdge    *edge = &work->edges[work->nedges];

			if (finalists[i].occluded != (pass == 1))
				continue;
			edge->slot = AnnHnswRowSlot(layout, self);
			edge->row = finalists[i].row;
			edge->length = finalists[i].occluded ? -finalists[i].length : finalists[i].length;
			edge->hint = finalists[i].hint;
			edge->code = NULL;
			if (coded)
			{
				AnnCodeFactors factors;

				edge->code = palloc(layout->code_size);
				AnnHnswEncode(space, finalists[i].dense, edge->code, &factors, work->scratch);
				AnnFactorsToHalf(&space->code, &factors, edge->halves);
			}
			if (coded && !finalists[i].occluded)
			{
				if (back.code == NULL)
					formBack(repair, row, &back);
				back.length = finalists[i].length;
				work->backs[work->nbacks++] = (BackEdge) {finalists[i].row, back};
			}
			work->nedges++;
			wanted--;
		}
	}
}

/* ---- pages ---- */

/* Removes the edges to deleting rows. */
static void
dropEdges(AnnHnswRepair *repair, AnnHnswRowHeader *row)
{
	const AnnHnswLayout *layout = &repair->space->layout;
	char	   *slots = AnnHnswRowSlots(layout, row);
	int			kept = 0;

	for (int i = 0; i < row->nedges; i++)
	{
		if (AnnHnswRowSetHas(repair->deleting, AnnHnswEdge(layout, row, i)))
			continue;
		if (kept < i)
			memcpy(slots + (Size) kept * layout->slot_size, slots + (Size) i * layout->slot_size, layout->slot_size);
		kept++;
	}
	row->nedges = (uint8) kept;
}

static void
addLink(AnnHnswRepair *repair, AnnRowId row)
{
	if (AnnHnswRowSetHas(&repair->linked, row))
		AnnHnswRowSetAdd(&repair->twice, row);
	else
		AnnHnswRowSetAdd(&repair->linked, row);
}

/*
 * Adds an edge to a row, as an insert would.  Its edges to deleting rows, if it has not been repaired
 * yet, are free places.
 */
static void
linkBack(AnnHnswRepair *repair, const BackEdge *back)
{
	const AnnHnswSpace *space = repair->space;
	const AnnHnswLayout *layout = &space->layout;
	RepairWork *work = repair->work;
	AnnHnswPlacement placement = {.keeper = false, .slot = -1};
	AnnCodeProbe *probe = (AnnCodeProbe *) work->probes;
	uint8		places[MAX_SLOTS + 1];	/* of the copy's edges in the row, and then a free one */
	AnnHnswRowHeader *row;
	Buffer		buffer;

	AnnVacuumDelayPoint();
	buffer = lockRow(repair, back->from, BUFFER_LOCK_EXCLUSIVE, &row);
	if (row->state == ANN_HNSW_LIVE && AnnHnswFindEdge(layout, row, back->edge.to) < 0)
	{
		int			n = 0;
		int			spare = row->nedges;

		for (int i = 0; i < row->nedges; i++)
		{
			if (AnnHnswRowSetHas(repair->deleting, AnnHnswEdge(layout, row, i)))
				spare = i;
			else
				places[n++] = (uint8) i;
		}
		places[n] = (uint8) spare;
		memcpy(work->copy, row, layout->row_size);
		dropEdges(repair, work->copy);
		AnnHnswProbeInit(space, probe, back->edge.halves, back->edge.code);
		AnnHnswPlaceCodedEdge(space, work->copy, back->edge.length, probe, &placement);
		if (placement.slot >= 0)
		{
			placement.slot = places[placement.slot];
			for (int i = 0; i < placement.nnewly; i++)
				placement.newly[i] = places[placement.newly[i]];
			AnnHnswPutEdge(repair->index, repair->mode, layout, buffer, row, &placement, &back->edge);
			/* Of pages that are still to be repaired it is noted then. */
			if (AnnHnswRowBlock(layout, back->from) <= AnnHnswRowBlock(layout, back->edge.to))
				addLink(repair, back->edge.to);
		}
	}
	UnlockReleaseBuffer(buffer);
}

/* Writes what was found for the rows of a page. */
static void
writePage(AnnHnswRepair *repair, BlockNumber block)
{
	const AnnHnswLayout *layout = &repair->space->layout;
	RepairWork *work = repair->work;
	Buffer		buffer = ReadBufferExtended(repair->index, MAIN_FORKNUM, block, RBM_NORMAL, repair->strategy);
	AnnPageEdit edit;
	Page		page;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	edit = AnnPageEditBegin(repair->index, repair->mode);
	page = AnnPageEditAdd(&edit, buffer, false);
	for (int i = 0; i < layout->rows_per_page; i++)
		if (work->dirty[i])
			dropEdges(repair, AnnHnswRowOnPage(layout, page, i));
	for (int i = 0; i < work->nedges; i++)
	{
		NewEdge    *edge = &work->edges[i];
		AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, page, edge->slot);

		/* Inserts may have linked rows meanwhile, this one among them. */
		if (row->nedges >= layout->slots || AnnHnswFindEdge(layout, row, edge->row) >= 0)
			continue;
		AnnHnswSetSlot(repair->space, row, row->nedges, edge->row, edge->length, &edge->hint, edge->halves,
					   edge->code);
		row->nedges++;
		addLink(repair, edge->row);
	}
	/* What occluded an edge may be gone. */
	for (int i = 0; i < layout->rows_per_page; i++)
		if (work->dirty[i] && AnnHnswHasCodes(layout))
			AnnHnswMarkOccluded(repair->space, AnnHnswRowOnPage(layout, page, i), work->probes);
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
}

/* Repairs the rows of a block if it is a ROW page, and notes what it has. */
static void
repairPage(AnnHnswRepair *repair, BlockNumber block)
{
	const AnnHnswLayout *layout = &repair->space->layout;
	RepairWork *work = repair->work;
	Buffer		buffer = ReadBufferExtended(repair->index, MAIN_FORKNUM, block, RBM_NORMAL, repair->strategy);
	Page		page = (Page) work->page.data;
	bool		is_row;
	bool		dirty = false;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	is_row = AnnPageIsOurs(BufferGetPage(buffer), ANN_HNSW_PAGE_ID) &&
		AnnPageOpaque(BufferGetPage(buffer))->kind == ANN_HNSW_ROW;
	if (is_row)
		memcpy(page, BufferGetPage(buffer), BLCKSZ);
	UnlockReleaseBuffer(buffer);

	for (int i = 0; i < layout->rows_per_page; i++)
	{
		AnnHnswRowHeader *row = is_row ? AnnHnswRowOnPage(layout, page, i) : NULL;

		work->dirty[i] = false;
		if (row == NULL || row->state != ANN_HNSW_LIVE)
			continue;
		AnnHnswRowSetAdd(&repair->live, block * layout->rows_per_page + i);
		if (row->nedges > layout->slots)
			AnnPageCorrupted(repair->index, block, "a row has more edges than it can hold");
		for (int j = 0; j < row->nedges; j++)
		{
			AnnRowId	neighbour = AnnHnswEdge(layout, row, j);

			if (AnnHnswRowSetHas(repair->deleting, neighbour))
				dirty = work->dirty[i] = true;
			else
			{
				addLink(repair, neighbour);
				if (AnnHnswIsKeeper(layout, row, j))
					AnnHnswRowSetAdd(&repair->kept, neighbour);
			}
		}
	}
	if (!dirty)
		return;
	work->nedges = 0;
	work->nbacks = 0;
	for (int i = 0; i < layout->rows_per_page; i++)
	{
		AnnVacuumDelayPoint();
		if (work->dirty[i])
			findEdges(repair, AnnHnswRowOnPage(layout, page, i), block * layout->rows_per_page + i);
	}
	writePage(repair, block);
	for (int i = 0; i < work->nbacks; i++)
		linkBack(repair, &work->backs[i]);
}

static void
initWork(AnnHnswRepair *repair)
{
	const AnnHnswSpace *space = repair->space;
	const AnnHnswLayout *layout = &space->layout;
	RepairWork *work = palloc0(sizeof(RepairWork));

	work->context = AllocSetContextCreate(CurrentMemoryContext, "ann hnsw repair", ALLOCSET_DEFAULT_SIZES);
	work->dirty = palloc(sizeof(bool) * layout->rows_per_page);
	work->edges = palloc(sizeof(NewEdge) * layout->rows_per_page * MAX_FINALISTS);
	work->backs = palloc(sizeof(BackEdge) * layout->rows_per_page * MAX_FINALISTS);
	work->copy = palloc(layout->row_size);
	work->vector = palloc(layout->vector_size);
	work->stored = palloc(layout->vector_size);
	if (layout->element == ANN_ELEMENT_FLOAT4 || layout->element == ANN_ELEMENT_HALF)
	{
		work->dense = palloc(sizeof(float) * layout->dim);
		work->scratch = palloc(sizeof(float) * layout->dim);
	}
	if (AnnHnswHasCodes(layout))
	{
		work->probe_size = AnnCodeProbeSize(&space->code);
		work->probes = palloc(mul_size(work->probe_size, layout->slots + MAX_FINALISTS + 1));
		work->lengths = palloc(sizeof(float) * (layout->slots + MAX_FINALISTS + 1));
		work->pool_codes = palloc(mul_size(layout->code_size, POOL_SIZE));
		work->estimates = palloc(sizeof(float) * MAX_SLOTS);
		work->query = palloc(AnnQueryCodeSize(&space->code));
	}
	repair->work = work;
}

/*
 * Adds to `reached` all rows of `present` that can be reached along edges from
 * those in it; `expanded`, empty at first, is scratch.  Goes over the rows in the
 * order of their pages, as often as there is something new.
 */
void
AnnHnswSpread(Relation index, BufferAccessStrategy strategy, const AnnHnswLayout *layout,
			  const AnnHnswRowSet *present, AnnHnswRowSet *reached, AnnHnswRowSet *expanded)
{
	PGAlignedBlock copy;
	bool		more = true;

	while (more)
	{
		more = false;
		for (AnnRowId row = 0; AnnHnswRowSetNext(reached, &row); row++)
		{
			BlockNumber block = AnnHnswRowBlock(layout, row);
			Buffer		buffer;
			bool		again = true;

			if (AnnHnswRowSetHas(expanded, row))
				continue;
			AnnVacuumDelayPoint();
			buffer = AnnReadBlock(index, block, strategy);
			LockBuffer(buffer, BUFFER_LOCK_SHARE);
			memcpy(copy.data, AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_ROW), BLCKSZ);
			UnlockReleaseBuffer(buffer);
			/* All rows of the page, while it is here: what they name may be on it too. */
			while (again)
			{
				again = false;
				for (int i = 0; i < layout->rows_per_page; i++)
				{
					AnnRowId	id = block * layout->rows_per_page + i;
					AnnHnswRowHeader *header = AnnHnswRowOnPage(layout, (Page) copy.data, i);

					if (!AnnHnswRowSetHas(reached, id) || AnnHnswRowSetHas(expanded, id))
						continue;
					AnnHnswRowSetAdd(expanded, id);
					for (int j = 0; j < Min(header->nedges, layout->slots); j++)
					{
						AnnRowId	neighbour = AnnHnswEdge(layout, header, j);

						if (AnnHnswRowSetHas(present, neighbour))
							AnnHnswRowSetAdd(reached, neighbour);
					}
					again = more = true;
				}
			}
		}
	}
}

/*
 * Removes the edges of live rows that point at deleting ones, in all blocks below
 * nblocks, and fills their places with neighbours of neighbours; live edges stay.
 * Then links rows that cannot be reached.  Allocates in CurrentMemoryContext.
 */
void
AnnHnswRepairGraph(AnnHnswRepair *repair, BlockNumber nblocks)
{
	uint64		nrows = (uint64) nblocks * repair->space->layout.rows_per_page;
	MemoryContext old;

	initWork(repair);
	AnnHnswRowSetInit(&repair->live, nrows);
	AnnHnswRowSetInit(&repair->linked, nrows);
	AnnHnswRowSetInit(&repair->twice, nrows);
	AnnHnswRowSetInit(&repair->kept, nrows);
	old = MemoryContextSwitchTo(repair->work->context);
	for (BlockNumber block = ANN_HNSW_META_BLOCK + 1; block < nblocks; block++)
	{
		AnnVacuumDelayPoint();
		repairPage(repair, block);
		MemoryContextReset(repair->work->context);
	}
	MemoryContextSwitchTo(old);
	AnnHnswKeepRows(repair, repair->work->context);
	AnnHnswRowSetFree(&repair->live);
	AnnHnswRowSetFree(&repair->linked);
	AnnHnswRowSetFree(&repair->twice);
	AnnHnswRowSetFree(&repair->kept);
	MemoryContextDelete(repair->work->context);
}
