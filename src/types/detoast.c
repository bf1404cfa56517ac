/*
 * detoast.c
 *	  Values that lie in a TOAST table, fetched by guessing where.
 *
 * The server opens the TOAST table and its index and starts an index scan for
 * every value.  Most values need none of that: they were stored in the order
 * in which they are read, or at least their OIDs rise with their position.
 * So this file remembers, per TOAST table, where it found values, guesses the
 * block of the next one, and reads the chunks straight from the heap.  A guess
 * is only ever a guess: src/types/README.detoast tells why a wrong or
 * outdated one costs time and nothing else.
 */
#include "postgres.h"

#include <math.h>

#include "access/detoast.h"
#include "access/genam.h"
#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/toast_internals.h"
#include "catalog/pg_class.h"
#include "storage/bufmgr.h"
#include "storage/proc.h"
#include "storage/smgr.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "types/detoast.h"

/* TOAST tables remembered per backend, and places remembered in each. */
#define TOAST_MAPS 8
#define TOAST_ANCHORS 64

/* Pages read in search of a value's first chunk before the index is asked. */
#define MAX_PROBES 3

/* A value whose OID follows the last one's by at most this is looked for right behind it. */
#define NEAR_OIDS 16

/* Credit that a hit earns up to, that a miss costs, and calls sat out when it is gone. */
#define MAX_CREDIT 16
#define MISS_COST 4
#define REST_CALLS 64

/* Larger values are not kept with the call site: no vector type is that large. */
#define MAX_KEPT_SIZE (256 * 1024)

/* A place in a TOAST table where a value's last chunk was seen. */
typedef struct Anchor
{
	Oid			valueid;		/* InvalidOid: none */
	BlockNumber block;
} Anchor;

typedef struct ToastMap
{
	Oid			toastrelid;
	Oid			filenode;		/* a rewritten table starts anew */
	uint64		used;			/* for replacement: value of map_clock */
	int			credit;			/* below zero: guesses do not pay here */
	int			rest;			/* calls left to sit out */
	Anchor		last;			/* the value fetched last */
	OffsetNumber last_offset;	/* of its last chunk */
	Buffer		last_buffer;	/* that held it then */
	Anchor		anchors[TOAST_ANCHORS]; /* one per equal part of the table */
} ToastMap;

/* A value being fetched. */
typedef struct Fetch
{
	Relation	toastrel;
	ToastMap   *map;
	Oid			valueid;
	int32		size;			/* bytes of all chunks together */
	int32		nchunks;
	int32		done;			/* chunks copied so far */
	char	   *dest;			/* room for size bytes */
	BlockNumber block;			/* of the chunk copied last */
	OffsetNumber offset;
	Buffer		buffer;
} Fetch;

/* What a page holds, as far as a search needs to know. */
typedef struct PageContent
{
	Oid			lowest;			/* value OIDs; lowest > highest: no chunks */
	Oid			highest;
} PageContent;

/* One argument of one call site. */
typedef struct KeptArg
{
	struct varatt_external pointer; /* what the buffer holds, if lxid is valid */
	LocalTransactionId lxid;
	Size		allocated;
	struct varlena *buffer;
} KeptArg;

typedef struct CallSite
{
	KeptArg		args[ANN_CACHED_ARGS];
} CallSite;

/* What heap_fetch_toast_slice() uses: any chunk whose insertion was not undone. */
static SnapshotData toast_snapshot = {.snapshot_type = SNAPSHOT_TOAST};

static ToastMap toast_maps[TOAST_MAPS];
static uint64 map_clock = 0;

/*
 * The map of a TOAST table, the least recently used one made anew if there
 * is none.
 */
static ToastMap *
GetToastMap(Relation toastrel)
{
	Oid			relid = RelationGetRelid(toastrel);
	Oid			filenode = toastrel->rd_rel->relfilenode;
	ToastMap   *map = NULL;

	for (int i = 0; i < TOAST_MAPS; i++)
	{
		if (toast_maps[i].toastrelid == relid)
		{
			map = &toast_maps[i];
			break;
		}
		if (map == NULL || toast_maps[i].used < map->used)
			map = &toast_maps[i];
	}

	if (map->toastrelid != relid || map->filenode != filenode)
	{
		memset(map, 0, sizeof(*map));
		map->toastrelid = relid;
		map->filenode = filenode;
		map->credit = MAX_CREDIT;
	}
	map->used = ++map_clock;
	return map;
}

/*
 * Whether the block surely exists.  The size that the storage manager
 * remembers is a lower bound while the relation is locked: every truncation
 * takes an exclusive lock and sends an invalidation that forgets it.
 */
static bool
BlockExists(Relation rel, BlockNumber block)
{
	BlockNumber known = RelationGetSmgr(rel)->smgr_cached_nblocks[MAIN_FORKNUM];

	if (known != InvalidBlockNumber && block < known)
		return true;
	return block < RelationGetNumberOfBlocks(rel);
}

/*
 * Pins and share-locks a block that exists, through the remembered buffer
 * where that still holds it.
 */
static Buffer
ReadToastBlock(Fetch *f, BlockNumber block)
{
	ToastMap   *map = f->map;
	Buffer		buffer;

	if (BufferIsValid(map->last_buffer) && map->last.block == block &&
		ReadRecentBuffer(AnnRelationLocator(f->toastrel), MAIN_FORKNUM, block, map->last_buffer))
		buffer = map->last_buffer;
	else
		buffer = ReadBuffer(f->toastrel, block);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	return buffer;
}

static int32
ChunkSize(const Fetch *f, int32 chunk)
{
	if (chunk < f->nchunks - 1)
		return TOAST_MAX_CHUNK_SIZE;
	return f->size - (f->nchunks - 1) * TOAST_MAX_CHUNK_SIZE;
}

/*
 * Takes a row (chunk_id oid, chunk_seq int4, chunk_data bytea) of a TOAST
 * table apart.  False if it is not one.
 */
static bool
ParseChunk(HeapTupleHeader htup, Size len, Oid *valueid, int32 *seq, struct varlena **chunk)
{
	char	   *data = (char *) htup + htup->t_hoff;
	Size		fixed = sizeof(Oid) + sizeof(int32);

	if (HeapTupleHeaderGetNatts(htup) != 3 || (htup->t_infomask & HEAP_HASNULL) != 0 ||
		len < htup->t_hoff + fixed + VARHDRSZ)
		return false;
	memcpy(valueid, data, sizeof(Oid));
	memcpy(seq, data + sizeof(Oid), sizeof(int32));
	*chunk = (struct varlena *) (data + fixed);
	return VARATT_IS_4B_U(*chunk) && VARSIZE(*chunk) <= len - htup->t_hoff - fixed;
}

/* Copies the chunk that is due next. False if it is another, or of the wrong size. */
static bool
CopyChunk(Fetch *f, int32 seq, struct varlena *chunk)
{
	int32		size = ChunkSize(f, seq);

	if (seq != f->done || seq >= f->nchunks || VARSIZE(chunk) - VARHDRSZ != size)
		return false;
	memcpy(f->dest + (Size) seq * TOAST_MAX_CHUNK_SIZE, VARDATA(chunk), size);
	f->done++;
	return true;
}

/*
 * Copies the wanted chunks that follow each other from offset on out of a
 * share-locked page, as far as they are visible.  Returns which values it met.
 */
static PageContent
CopyChunks(Fetch *f, Buffer buffer, BlockNumber block, OffsetNumber offset)
{
	Page		page = BufferGetPage(buffer);
	OffsetNumber maxoff = PageGetMaxOffsetNumber(page);
	PageContent content = {.lowest = OID_MAX, .highest = InvalidOid};

	for (; offset <= maxoff && f->done < f->nchunks; offset = OffsetNumberNext(offset))
	{
		ItemId		item = PageGetItemId(page, offset);
		HeapTupleData tuple;
		struct varlena *chunk;
		Oid			valueid;
		int32		seq;

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		if (!ParseChunk(tuple.t_data, tuple.t_len, &valueid, &seq, &chunk))
			continue;
		content.lowest = Min(content.lowest, valueid);
		content.highest = Max(content.highest, valueid);
		if (valueid != f->valueid)
			continue;

		tuple.t_tableOid = RelationGetRelid(f->toastrel);
		ItemPointerSet(&tuple.t_self, block, offset);
		if (HeapTupleSatisfiesVisibility(&tuple, &toast_snapshot, buffer) && CopyChunk(f, seq, chunk))
		{
			f->block = block;
			f->offset = offset;
			f->buffer = buffer;
		}
	}
	return content;
}

/* Reads one block, if it exists, for chunks of the value. */
static PageContent
ProbeBlock(Fetch *f, BlockNumber block, OffsetNumber offset)
{
	PageContent content = {.lowest = OID_MAX, .highest = InvalidOid};
	Buffer		buffer;

	if (!BlockExists(f->toastrel, block))
		return content;
	buffer = ReadToastBlock(f, block);
	content = CopyChunks(f, buffer, block, offset);
	UnlockReleaseBuffer(buffer);
	return content;
}

/*
 * Looks for the first chunk where a value stored after the last one would
 * lie: behind it on its page, or else on the next page.
 */
static void
ProbeBehindLast(Fetch *f)
{
	ToastMap   *map = f->map;
	PageContent content;

	content = ProbeBlock(f, map->last.block, map->last_offset + 1);
	if (f->done == 0 && content.lowest > content.highest)
		ProbeBlock(f, map->last.block + 1, FirstOffsetNumber);
}

/* The block where a straight line between two places puts a value between them. */
static BlockNumber
Interpolate(const Anchor *low, const Anchor *high, Oid valueid)
{
	double		share = (double) (valueid - low->valueid) / (double) (high->valueid - low->valueid);

	return low->block + (int64) floor(share * ((double) high->block - (double) low->block));
}

/* The nearest remembered places at or before, and at or behind, the value; InvalidOid where there is none. */
static void
FindAnchors(const ToastMap *map, Oid valueid, Anchor *low, Anchor *high)
{
	*low = (Anchor) {InvalidOid, 0};
	*high = (Anchor) {InvalidOid, 0};
	for (int i = 0; i < TOAST_ANCHORS; i++)
	{
		const Anchor *a = &map->anchors[i];

		if (a->valueid == InvalidOid)
			continue;
		if (a->valueid <= valueid && a->valueid > low->valueid)
			*low = *a;
		if (a->valueid >= valueid && (high->valueid == InvalidOid || a->valueid < high->valueid))
			*high = *a;
	}
}

/*
 * Looks for the first chunk between the nearest places known to lie before
 * and behind it.  Each page read that does not have it is a nearer place.
 */
static void
ProbeByInterpolation(Fetch *f)
{
	Anchor		low,
				high;

	FindAnchors(f->map, f->valueid, &low, &high);

	for (int probe = 0; probe < MAX_PROBES; probe++)
	{
		BlockNumber block;
		PageContent content;

		if (high.valueid == f->valueid)
			block = high.block;
		else if (low.valueid != InvalidOid && high.valueid != InvalidOid)
		{
			block = Interpolate(&low, &high, f->valueid);
			/* what was read in this search needs no second look */
			if (probe > 0 && block == low.block)
				block++;
			else if (probe > 0 && block == high.block)
				block--;
		}
		else if (low.valueid != InvalidOid)
			block = low.block + (f->valueid - low.valueid + 1) / 2;
		else if (high.valueid != InvalidOid)
			block = high.block - Min(high.block, (high.valueid - f->valueid + 1) / 2);
		else
			return;

		content = ProbeBlock(f, block, FirstOffsetNumber);
		if (f->done > 0 || content.lowest > content.highest)
			return;
		if (content.highest < f->valueid)
			low = (Anchor) {content.highest, block};
		else if (content.lowest > f->valueid)
			high = (Anchor) {content.lowest, block};
		else if (content.lowest == f->valueid && block > 0)
			high = (Anchor) {f->valueid, block - 1};
		else
			return;
	}
}

/*
 * Fetches the value by guessing.  False if a chunk was not where it was
 * expected; f->done then says nothing.
 */
static bool
FetchByGuess(Fetch *f)
{
	ToastMap   *map = f->map;

	if (f->valueid > map->last.valueid && f->valueid - map->last.valueid <= NEAR_OIDS)
		ProbeBehindLast(f);
	if (f->done == 0)
		ProbeByInterpolation(f);
	if (f->done == 0)
		return false;

	while (f->done < f->nchunks)
	{
		int32		before = f->done;

		ProbeBlock(f, f->block + 1, FirstOffsetNumber);
		if (f->done == before)
			return false;
	}
	return true;
}

/*
 * Fetches the value as the server does, noting where the chunks lie.  False
 * if anything about them is not as it should be.
 */
static bool
FetchByIndex(Fetch *f)
{
	Relation   *indexes;
	int			nindexes;
	int			valid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		ok = true;

	f->done = 0;
	valid = toast_open_indexes(f->toastrel, AccessShareLock, &indexes, &nindexes);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(f->valueid));
	scan = systable_beginscan_ordered(f->toastrel, indexes[valid], &toast_snapshot, 1, &key);
	while (ok && (tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		struct varlena *chunk;
		Oid			valueid;
		int32		seq;

		ok = ParseChunk(tuple->t_data, tuple->t_len, &valueid, &seq, &chunk) && CopyChunk(f, seq, chunk);
		f->block = ItemPointerGetBlockNumber(&tuple->t_self);
		f->offset = ItemPointerGetOffsetNumber(&tuple->t_self);
		f->buffer = InvalidBuffer;
	}
	systable_endscan_ordered(scan);
	toast_close_indexes(indexes, nindexes, AccessShareLock);
	return ok && f->done == f->nchunks;
}

/* Remembers where the value just fetched ended. */
static void
RememberPlace(Fetch *f)
{
	ToastMap   *map = f->map;
	BlockNumber nblocks = RelationGetSmgr(f->toastrel)->smgr_cached_nblocks[MAIN_FORKNUM];

	map->last.valueid = f->valueid;
	map->last.block = f->block;
	map->last_offset = f->offset;
	map->last_buffer = f->buffer;
	if (nblocks == InvalidBlockNumber || nblocks <= f->block)
		nblocks = f->block + 1;
	map->anchors[(uint64) f->block * TOAST_ANCHORS / nblocks] = map->last;
}

/*
 * Fetches an uncompressed value of size bytes from its TOAST table to dest.
 * False if that takes the server's own code: for another access method, or
 * to raise the error that is due.
 */
static bool
FetchValue(const struct varatt_external *pointer, int32 size, char *dest)
{
	Relation	toastrel = table_open(pointer->va_toastrelid, AccessShareLock);
	bool		ok = false;

	if (toastrel->rd_tableam == GetHeapamTableAmRoutine() && !RELATION_IS_OTHER_TEMP(toastrel))
	{
		ToastMap   *map = GetToastMap(toastrel);
		Fetch		f = {
			.toastrel = toastrel,
			.map = map,
			.valueid = pointer->va_valueid,
			.size = size,
			.nchunks = (size - 1) / TOAST_MAX_CHUNK_SIZE + 1,
			.dest = dest
		};

		if (map->rest > 0)
			map->rest--;
		else if (map->last.valueid != InvalidOid)
		{
			ok = FetchByGuess(&f);
			if (ok)
				map->credit = Min(map->credit + 1, MAX_CREDIT);
			else if ((map->credit -= MISS_COST) < 0)
			{
				map->rest = REST_CALLS;
				map->credit = MISS_COST;
			}
		}
		if (!ok)
			ok = FetchByIndex(&f);
		if (ok)
			RememberPlace(&f);
	}
	table_close(toastrel, AccessShareLock);
	return ok;
}

/* Whether FetchValue may be tried. */
static bool
IsFetchable(const struct varatt_external *pointer)
{
	return !VARATT_EXTERNAL_IS_COMPRESSED(*pointer) &&
		VARATT_EXTERNAL_GET_EXTSIZE(*pointer) > 0 &&
		HaveRegisteredOrActiveSnapshot() &&
		!HistoricSnapshotActive() &&
		!AnnOldSnapshotThresholdActive();
}

/*
 * The value as a plain one with a 4-byte header: itself if it is one, else a
 * palloc'd copy.
 */
struct varlena *
AnnDetoast(struct varlena *attr)
{
	if (VARATT_IS_EXTERNAL_ONDISK(attr))
	{
		struct varatt_external pointer;

		VARATT_EXTERNAL_GET_POINTER(pointer, attr);
		if (IsFetchable(&pointer))
		{
			int32		size = VARATT_EXTERNAL_GET_EXTSIZE(pointer);
			struct varlena *result = palloc(size + VARHDRSZ);

			SET_VARSIZE(result, size + VARHDRSZ);
			if (FetchValue(&pointer, size, VARDATA(result)))
				return result;
			pfree(result);
		}
	}
	return pg_detoast_datum(attr);
}

/* Makes room for size bytes; what the buffer held is lost. */
static void
ReserveBuffer(KeptArg *arg, MemoryContext context, Size size)
{
	arg->lxid = InvalidLocalTransactionId;
	if (arg->allocated < size)
	{
		if (arg->buffer)
			pfree(arg->buffer);
		arg->buffer = NULL;
		arg->allocated = 0;
		arg->buffer = MemoryContextAlloc(context, size);
		arg->allocated = size;
	}
}

/*
 * AnnDetoastArg for what is not a plain value already.  The copy is kept with
 * the call site, so a query vector that lies in a TOAST table is fetched once
 * and not once a row, and no row costs an allocation.
 */
struct varlena *
AnnDetoastArgSlow(FunctionCallInfo fcinfo, int argno)
{
	struct varlena *attr = (struct varlena *) DatumGetPointer(fcinfo->args[argno].value);
	FmgrInfo   *flinfo = fcinfo->flinfo;
	struct varatt_external pointer;
	KeptArg    *arg;
	Size		size;

	if (flinfo == NULL || argno >= ANN_CACHED_ARGS)
		return AnnDetoast(attr);
	if (flinfo->fn_extra == NULL)
		flinfo->fn_extra = MemoryContextAllocZero(flinfo->fn_mcxt, sizeof(CallSite));
	arg = &((CallSite *) flinfo->fn_extra)->args[argno];

	if (VARATT_IS_SHORT(attr) && !VARATT_IS_EXTERNAL(attr))
	{
		size = VARSIZE_SHORT(attr) - VARHDRSZ_SHORT + VARHDRSZ;
		ReserveBuffer(arg, flinfo->fn_mcxt, size);
		SET_VARSIZE(arg->buffer, size);
		memcpy(VARDATA(arg->buffer), VARDATA_SHORT(attr), size - VARHDRSZ);
		return arg->buffer;
	}
	if (!VARATT_IS_EXTERNAL_ONDISK(attr))
		return AnnDetoast(attr);

	VARATT_EXTERNAL_GET_POINTER(pointer, attr);
	if (arg->lxid == AnnMyLxid() && memcmp(&arg->pointer, &pointer, sizeof(pointer)) == 0)
		return arg->buffer;

	size = (Size) VARATT_EXTERNAL_GET_EXTSIZE(pointer) + VARHDRSZ;
	if (size > MAX_KEPT_SIZE || !IsFetchable(&pointer))
		return AnnDetoast(attr);
	ReserveBuffer(arg, flinfo->fn_mcxt, size);
	SET_VARSIZE(arg->buffer, size);
	if (!FetchValue(&pointer, size - VARHDRSZ, VARDATA(arg->buffer)))
		return pg_detoast_datum(attr);
	arg->pointer = pointer;
	arg->lxid = AnnMyLxid();
	return arg->buffer;
}
