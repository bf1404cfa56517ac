/*
 * hnsw_center.c
 *	  The centre of the codes of an index that was built from few rows, or none:
 *	  README, section Insert.
 */
#include "postgres.h"

#include <math.h>

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "hnsw/hnsw_prune.h"
#include "hnsw/hnsw_search.h"

/* An index gets a new centre when it has so many rows, and so many times those of the last one. */
#define FIRST_ROWS 1024
#define GROWTH 16

/* More rows are not coded anew within an insert. */
#define MAX_ROWS 32768

typedef struct Recoding
{
	Relation	index;
	AnnHnswMetaPageData meta;
	AnnHnswSpace space;
	BlockNumber nblocks;
	AnnHnswRowSet present;
	Size		item_size;		/* two factors as halves, then the code */
	char	   *items;			/* by row id */
	float	   *dense;
	float	   *scratch;
	char	   *vector;
	char	   *probes;
} Recoding;

/*
 * Whether the index has grown out of the rows that its centre was computed from.
 */
bool
AnnHnswCenterIsOld(const AnnHnswMetaPageData *meta)
{
	return AnnHnswHasCodes(&meta->layout) &&
		(meta->recoding ||
		 (meta->rows >= FIRST_ROWS && meta->rows >= (double) GROWTH * meta->center_rows && meta->rows <= MAX_ROWS));
}

/* Calls visit for each row that is not free, with its page share-locked. */
static void
visitRows(Recoding *r, void (*visit) (Recoding *r, AnnRowId row, void *arg), void *arg)
{
	const AnnHnswLayout *layout = &r->meta.layout;

	for (BlockNumber block = ANN_HNSW_META_BLOCK + 1; block < r->nblocks; block++)
	{
		Buffer		buffer = ReadBuffer(r->index, block);
		Page		page = BufferGetPage(buffer);

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		if (AnnPageIsOurs(page, ANN_HNSW_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_HNSW_ROW)
			for (int i = 0; i < layout->rows_per_page; i++)
			{
				AnnHnswRowHeader *header = AnnHnswRowOnPage(layout, page, i);
				const char *stored = header->state == ANN_HNSW_FREE ? NULL :
					AnnHnswStoredVector(r->index, layout, header, r->vector);

				if (stored == NULL)
					continue;
				AnnHnswDecode(&r->space, stored, r->dense);
				visit(r, block * layout->rows_per_page + i, arg);
			}
		UnlockReleaseBuffer(buffer);
	}
}

typedef struct Sum
{
	double	   *x;
	double		norm2;
	uint32		rows;
} Sum;

static void
addToSum(Recoding *r, AnnRowId row, void *arg)
{
	Sum		   *sum = (Sum *) arg;

	for (uint32 i = 0; i < r->meta.layout.dim; i++)
		sum->x[i] += r->dense[i];
	sum->norm2 += ann_kernels.ip_f32(r->dense, r->dense, r->meta.layout.dim);
	sum->rows++;
}

static void
encodeRow(Recoding *r, AnnRowId row, void *arg)
{
	char	   *item = r->items + row * r->item_size;
	AnnCodeFactors factors;
	AnnHalf		halves[3];

	AnnHnswEncode(&r->space, r->dense, (uint8 *) item + 2 * sizeof(AnnHalf), &factors, r->scratch);
	AnnFactorsToHalf(&r->space.code, &factors, halves);
	memcpy(item, halves, 2 * sizeof(AnnHalf));
	AnnHnswRowSetAdd(&r->present, row);
}

/* Puts the new codes into the slots of a page. */
static void
recodeRowPage(Recoding *r, Buffer buffer)
{
	const AnnHnswLayout *layout = &r->meta.layout;
	AnnPageEdit edit = AnnPageEditBegin(r->index, ANN_WRITE_WAL);
	Page		page = AnnPageEditAdd(&edit, buffer, false);

	for (int i = 0; i < layout->rows_per_page; i++)
	{
		AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, page, i);

		if (row->state == ANN_HNSW_FREE || row->nedges > layout->slots)
			continue;
		for (int j = 0; j < row->nedges; j++)
		{
			AnnHnswSlot *slot = AnnHnswCodedSlot(layout, row, j);
			const char *item = r->items + AnnHnswSlotRow(slot) * r->item_size;

			if (!AnnHnswRowSetHas(&r->present, AnnHnswSlotRow(slot)))
				continue;
			memcpy(&slot->add, item, sizeof(AnnHalf));
			memcpy(&slot->mul, item + sizeof(AnnHalf), sizeof(AnnHalf));
			memcpy(AnnHnswSlotCode(layout, slot), item + 2 * sizeof(AnnHalf), layout->code_size);
		}
		AnnHnswMarkOccluded(&r->space, row, r->probes);
	}
	AnnPageEditCommit(&edit);
}

static void
recodeEntryPage(Recoding *r, Buffer buffer)
{
	const AnnHnswLayout *layout = &r->meta.layout;
	Size		size = AnnHnswEntrySize(layout);
	AnnPageEdit edit = AnnPageEditBegin(r->index, ANN_WRITE_WAL);
	Page		page = AnnPageEditAdd(&edit, buffer, false);

	for (int i = 0; i < AnnHnswEntriesPerPage(layout); i++)
	{
		AnnHnswEntry *entry = (AnnHnswEntry *) (AnnPageRaw(page) + i * size);
		const char *item = r->items + entry->row * r->item_size;

		if (!AnnHnswRowSetHas(&r->present, entry->row))
			continue;
		memcpy(&entry->add, item, sizeof(AnnHalf));
		memcpy(&entry->mul, item + sizeof(AnnHalf), sizeof(AnnHalf));
		memcpy(entry->payload, item + 2 * sizeof(AnnHalf), layout->code_size);
	}
	AnnPageEditCommit(&edit);
}

static void
recodePiecePage(Recoding *r, Buffer buffer)
{
	const AnnHnswLayout *layout = &r->meta.layout;
	AnnPageEdit edit = AnnPageEditBegin(r->index, ANN_WRITE_WAL);
	Page		page = AnnPageEditAdd(&edit, buffer, false);

	for (int i = 0; i < AnnHnswPiecesPerPage(layout); i++)
	{
		AnnHnswPiece *piece = AnnHnswPieceOnPage(layout, page, i);

		for (int j = 0; j < (int) Min(piece->count, AnnHnswPieceCards(layout)); j++)
		{
			AnnHnswCard *card = AnnHnswPieceCard(layout, piece, j);
			const char *item = r->items + card->row * r->item_size;

			if (!AnnHnswRowSetHas(&r->present, card->row))
				continue;
			memcpy(&card->add, item, sizeof(AnnHalf));
			memcpy(&card->mul, item + sizeof(AnnHalf), sizeof(AnnHalf));
			memcpy(card->code, item + 2 * sizeof(AnnHalf), layout->code_size);
		}
	}
	AnnPageEditCommit(&edit);
}

static void
recodePages(Recoding *r)
{
	for (BlockNumber block = ANN_HNSW_META_BLOCK + 1; block < r->nblocks; block++)
	{
		Buffer		buffer = ReadBuffer(r->index, block);
		Page		page = BufferGetPage(buffer);

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		if (AnnPageIsOurs(page, ANN_HNSW_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_HNSW_ROW)
			recodeRowPage(r, buffer);
		else if (AnnPageIsOurs(page, ANN_HNSW_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_HNSW_ENTRY)
			recodeEntryPage(r, buffer);
		else if (AnnPageIsOurs(page, ANN_HNSW_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_HNSW_PIECE)
			recodePiecePage(r, buffer);
		UnlockReleaseBuffer(buffer);
	}
}

/* Writes what has changed in r->meta; every backend reads the centre again. */
static void
writeMeta(Recoding *r, bool recoding)
{
	Buffer		buffer = ReadBuffer(r->index, ANN_HNSW_META_BLOCK);
	AnnHnswMetaPageData *meta;
	AnnPageEdit edit;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	AnnPageGet(r->index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_META);
	edit = AnnPageEditBegin(r->index, ANN_WRITE_WAL);
	meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, buffer, false));
	meta->center = r->meta.center;
	meta->center_rows = r->meta.center_rows;
	meta->code = r->meta.code;
	meta->recoding = recoding;
	meta->build_id = pg_prng_uint64(&pg_global_prng_state);
	meta->entry_version++;
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
}

/* Computes the centre and codes all rows anew.  No insert and no VACUUM is under way. */
static void
recode(Recoding *r)
{
	const AnnHnswLayout *layout = &r->meta.layout;
	int			dim = (int) layout->dim;
	float	   *center = palloc(sizeof(float) * dim);
	Sum			sum = {0};
	double		norm2 = 0;

	r->nblocks = RelationGetNumberOfBlocks(r->index);
	r->dense = palloc(sizeof(float) * dim);
	r->scratch = palloc(sizeof(float) * dim);
	r->vector = palloc(layout->vector_size);
	r->probes = palloc(mul_size(AnnCodeProbeSize(&r->meta.code), layout->slots));
	AnnHnswSpaceInit(&r->space, &r->meta, NULL);

	sum.x = palloc0(sizeof(double) * dim);
	visitRows(r, addToSum, &sum);
	for (int i = 0; i < dim; i++)
	{
		center[i] = (float) (sum.x[i] / Max(sum.rows, 1));
		norm2 += (double) center[i] * center[i];
	}
	if (!isfinite(norm2) || !isfinite(sum.norm2))
	{
		memset(center, 0, sizeof(float) * dim);
		norm2 = 0;
	}
	else
		AnnCodeParamsSetScale(&r->meta.code, (float) sqrt(Max(sum.norm2 / Max(sum.rows, 1) - norm2, 0)));
	/* From here on centre and codes do not fit together, until all are new. */
	writeMeta(r, true);
	r->meta.center = AnnHnswWriteCenter(r->index, ANN_WRITE_WAL, center, dim, r->meta.center);
	r->meta.center_rows = (uint32) Min(Max(r->meta.rows, 1), PG_UINT32_MAX);
	writeMeta(r, true);

	AnnHnswSpaceInit(&r->space, &r->meta, center);
	AnnHnswRowSetInit(&r->present, (uint64) r->nblocks * layout->rows_per_page);
	r->item_size = 2 * sizeof(AnnHalf) + TYPEALIGN(2, layout->code_size);
	r->items = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(r->item_size, add_size(r->present.nrows, 1)));
	visitRows(r, encodeRow, NULL);
	recodePages(r);
	writeMeta(r, false);
}

/*
 * Gives the index a new centre if it needs one.  While VACUUM is at work it waits
 * only where codes are left half done.  The caller holds no lock of the index
 * but that on the relation.
 */
void
AnnHnswRecenter(Relation index, bool half_done)
{
	Recoding	r = {0};
	MemoryContext context;
	MemoryContext old;

	if (half_done)
		LockPage(index, ANN_HNSW_CENTER_LOCK, ExclusiveLock);
	else if (!ConditionalLockPage(index, ANN_HNSW_CENTER_LOCK, ExclusiveLock))
		return;
	LockPage(index, ANN_HNSW_META_BLOCK, ExclusiveLock);
	r.index = index;
	AnnHnswReadMeta(index, &r.meta);
	if (AnnHnswCenterIsOld(&r.meta))
	{
		context = AllocSetContextCreate(CurrentMemoryContext, "ann hnsw recode", ALLOCSET_DEFAULT_SIZES);
		old = MemoryContextSwitchTo(context);
		recode(&r);
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
	}
	UnlockPage(index, ANN_HNSW_META_BLOCK, ExclusiveLock);
	UnlockPage(index, ANN_HNSW_CENTER_LOCK, ExclusiveLock);
}
