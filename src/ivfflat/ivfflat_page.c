/*
 * ivfflat_page.c
 *	  Page layout, meta page, list heads, blobs, free pages.  README: Pages, Lock
 *	  order, Finding space.
 */
#include "postgres.h"

#include "access/xloginsert.h"
#include "common/pg_prng.h"
#include "miscadmin.h"

#include "ivfflat/ivfflat.h"
#include "ivfflat/ivfflat_options.h"

/* Below this many dimensions a code saves nothing against the vector. */
#define MIN_CODED_DIM 32

/* ---- layout ---- */

static Size
vectorBlocks(const AnnIvfLayout *layout, Size entries)
{
	if (layout->vectors_per_page > 0)
		return (entries + layout->vectors_per_page - 1) / layout->vectors_per_page;
	return entries * layout->pages_per_vector;
}

/* Places the columns of a list page with room for so many entries; returns where they end. */
static Size
placeColumns(const AnnIvfLayout *layout, bool has_vectors, Size entries, AnnIvfShape *shape)
{
	Size		at = offsetof(AnnIvfListPage, blocks);

	memset(shape, 0, sizeof(*shape));
	shape->kind = has_vectors ? ANN_IVF_CODES : ANN_IVF_TIDS;
	shape->entries = (int) entries;
	shape->has_vectors = has_vectors;
	shape->has_codes = has_vectors && AnnIvfHasCodes(layout);
	if (has_vectors)
		at += sizeof(BlockNumber) * vectorBlocks(layout, entries);
	if (has_vectors && layout->key_size > 0)
	{
		shape->keys = (uint16) at;
		shape->key_size = layout->key_size;
		at += shape->key_size * entries;
	}
	if (shape->has_codes)
	{
		shape->plane_size = layout->plane_size;
		shape->low_size = layout->code_size - layout->plane_size;
		shape->factors = (uint16) at;
		at += 3 * sizeof(AnnHalf) * entries;
		at = TYPEALIGN(16, ANN_PAGE_HEADER + at) - ANN_PAGE_HEADER;
		shape->top = (uint16) at;
		at += shape->plane_size * entries;
	}
	shape->tids = (uint16) at;
	at += sizeof(ItemPointerData) * entries;
	if (shape->low_size > 0)
	{
		shape->fine = (uint16) at;
		at += 2 * sizeof(AnnHalf) * entries;
		shape->low = (uint16) at;
		at += shape->low_size * entries;
	}
	if (has_vectors && layout->attribute_size > 0)
	{
		at = TYPEALIGN(4, at);
		shape->attributes = (uint16) at;
		shape->attribute_size = (uint16) TYPEALIGN(4, layout->attribute_size);
		at += shape->attribute_size * entries;
	}
	return at;
}

/* Bytes of an entry of a CODES page, in all columns together. */
static Size
entrySize(const AnnIvfLayout *layout)
{
	Size		size = sizeof(ItemPointerData) + TYPEALIGN(4, layout->attribute_size) + layout->key_size;

	if (layout->quantizer == ANN_QUANTIZER_RABITQ)
		size += layout->code_size + (layout->code_size > layout->plane_size ? 5 : 3) * sizeof(AnnHalf);
	return size;
}

/*
 * Chooses the page layout for a new index from its column, operator class and
 * options.  Raises an error if there is none.
 */
void
AnnIvfLayoutInit(AnnIvfLayout *layout, AnnCodeParams *code, Relation index)
{
	const AnnIvfOptions *options = (const AnnIvfOptions *) index->rd_options;
	int			quantizer = AnnIvfOptionQuantizer(options);
	int			refine = AnnIvfOptionRefine(options);
	int32		dimensions = AnnIndexDimensions(index);
	AnnSpace	space;
	bool		dense;
	Size		slot;
	Size		entries;
	AnnIvfShape shape;

	memset(layout, 0, sizeof(*layout));
	memset(code, 0, sizeof(*code));
	layout->element = AnnIndexElement(index, ANN_IVF_TYPE_PROC);
	layout->metric = AnnIndexMetric(index, ANN_IVF_DISTANCE_PROC);
	dense = AnnElementIsDense(layout->element);
	if (dense ? layout->metric > ANN_METRIC_COSINE :
		layout->element != ANN_ELEMENT_BIT || layout->metric != ANN_METRIC_HAMMING)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ivfflat does not support the distance of this operator class"),
				 errhint("Use an hnsw index.")));
	if (layout->element == ANN_ELEMENT_BIT && dimensions > ANN_IVF_MAX_BIT_DIM)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("column cannot have more than %d dimensions for an ivfflat index", ANN_IVF_MAX_BIT_DIM)));
	layout->dim = (uint32) dimensions;

	if (!dense && quantizer == ANN_QUANTIZER_RABITQ)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("quantizer \"rabitq\" needs a vector or halfvec column")));
	if (!dense && refine != ANN_REFINE_AUTO && refine != ANN_REFINE_FULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("refine_type must be \"full\" for bit columns")));
	if (quantizer == ANN_QUANTIZER_AUTO)
		quantizer = dense && layout->dim >= MIN_CODED_DIM ? ANN_QUANTIZER_RABITQ : ANN_QUANTIZER_NONE;
	/* Halves are settled from the index but for near ties; sq8 has the heap asked for most rows. */
	if (refine == ANN_REFINE_AUTO)
		refine = layout->element == ANN_ELEMENT_FLOAT4 && quantizer != ANN_QUANTIZER_NONE ?
			ANN_REFINE_HALF : ANN_REFINE_FULL;
	layout->quantizer = (uint8) quantizer;
	layout->refine = (uint8) refine;

	layout->attribute_size = (uint16) AnnAttributesSize(index);
	if (layout->attribute_size > 0 && OidIsValid(AnnAttributesCreate(index)->hash.fn_oid))
		layout->key_size = sizeof(AnnIvfKey);
	if (quantizer == ANN_QUANTIZER_RABITQ)
	{
		AnnCodeParamsChoose(code, layout->metric, (int) layout->dim, ANN_CODE_SEARCH, 0);
		layout->code_size = (uint16) AnnCodeBytes(code);
		layout->plane_size = (uint16) (code->nbits / 8);
	}
	layout->entry_size = (uint16) entrySize(layout);
	AnnIvfSpaceInit(&space, layout);
	layout->vector_size = (uint32) space.stored_size;
	slot = TYPEALIGN(4, ANN_IVF_VECTOR_HEADER + space.stored_size);
	if (slot <= ANN_PAGE_USABLE)
	{
		layout->vector_slot = (uint16) slot;
		layout->vectors_per_page = (uint16) (ANN_PAGE_USABLE / slot);
		layout->pages_per_vector = 1;
	}
	else
		layout->pages_per_vector = (uint16) ((slot + ANN_PAGE_USABLE - 1) / ANN_PAGE_USABLE);

	entries = ANN_PAGE_USABLE / layout->entry_size;
	while (entries > 0 && placeColumns(layout, true, entries, &shape) > ANN_PAGE_USABLE)
		entries--;
	if (entries == 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("an entry of %u bytes does not fit a page", layout->entry_size)));
	layout->entries = (uint16) entries;
	/* VECTORS pages belong to one CODES page: rather fewer entries than a page of vectors for the last few. */
	for (Size fewer = entries - 1; fewer >= Max(entries / 2, 1); fewer--)
		if ((1 + vectorBlocks(layout, fewer)) * layout->entries < (1 + vectorBlocks(layout, layout->entries)) * fewer)
			layout->entries = (uint16) fewer;
	layout->blocks = (uint16) vectorBlocks(layout, layout->entries);
}

/*
 * The index space: rotated wherever centroids have codes.
 */
void
AnnIvfSpaceInit(AnnSpace *space, const AnnIvfLayout *layout)
{
	AnnSpaceInit(space, layout->element, layout->metric, (int) layout->dim, layout->refine,
				 AnnIvfHasCodes(layout), layout->dim >= MIN_CODED_DIM && layout->dim <= ANN_MAX_DIM);
}

AnnIvfShape
AnnIvfShapeOf(const AnnIvfMetaPageData *meta, uint32 list)
{
	AnnIvfShape shape;
	bool		has_vectors = list < meta->lists;

	placeColumns(&meta->layout, has_vectors,
				 has_vectors ? meta->layout.entries :
				 (ANN_PAGE_USABLE - offsetof(AnnIvfListPage, blocks)) / sizeof(ItemPointerData), &shape);
	return shape;
}

/* ---- meta page ---- */

AnnIvfMetaPageData *
AnnIvfMetaOnPage(Page page)
{
	return (AnnIvfMetaPageData *) AnnPageRaw(page);
}

/* Raises ERRCODE_INDEX_CORRUPTED unless *meta is of this version and its arithmetic is sound. */
static void
checkMeta(Relation index, const AnnIvfMetaPageData *meta)
{
	const AnnIvfLayout *layout = &meta->layout;
	AnnIvfShape shape;

	if (meta->magic != ANN_IVF_MAGIC)
		AnnPageCorrupted(index, ANN_IVF_META_BLOCK, "it is not an ivfflat meta page");
	if (meta->version != ANN_IVF_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("index \"%s\" has version %u of the ivfflat format, this library reads version %u",
						RelationGetRelationName(index), meta->version, ANN_IVF_VERSION),
				 errhint("Please REINDEX it.")));
	if (layout->metric > ANN_METRIC_JACCARD || layout->refine > ANN_REFINE_SQ8 ||
		(!AnnElementIsDense(layout->element) && layout->element != ANN_ELEMENT_BIT))
		AnnPageCorrupted(index, ANN_IVF_META_BLOCK, "it names an unknown type or metric");
	if (layout->dim < 1 || layout->entries < 1 || layout->pages_per_vector < 1 ||
		layout->attribute_size > ANN_PAGE_USABLE || layout->code_size > ANN_PAGE_USABLE ||
		layout->plane_size > layout->code_size || layout->entries > ANN_PAGE_USABLE ||
		(layout->key_size != 0 && (layout->key_size != sizeof(AnnIvfKey) || layout->attribute_size == 0)) ||
		entrySize(layout) != layout->entry_size || placeColumns(layout, true, layout->entries, &shape) > ANN_PAGE_USABLE ||
		vectorBlocks(layout, layout->entries) != layout->blocks ||
		(Size) layout->vectors_per_page * layout->vector_slot > ANN_PAGE_USABLE ||
		(layout->vectors_per_page > 0 && layout->vector_slot < ANN_IVF_VECTOR_HEADER + layout->vector_size) ||
		(layout->vectors_per_page == 0 &&
		 (Size) layout->pages_per_vector * ANN_PAGE_USABLE < ANN_IVF_VECTOR_HEADER + (Size) layout->vector_size) ||
		meta->lists < 1 || meta->lists > ANN_IVF_MAX_LISTS ||
		meta->heads == ANN_IVF_META_BLOCK || meta->centroids == ANN_IVF_META_BLOCK ||
		meta->centroid_codes == ANN_IVF_META_BLOCK || meta->free_pages == ANN_IVF_META_BLOCK ||
		(AnnIvfHasCodes(layout) &&
		 (!AnnCodeParamsValid(&meta->code) || meta->code.dim != (int32_t) layout->dim ||
		  AnnCodeBytes(&meta->code) != layout->code_size || meta->code.nbits / 8 != layout->plane_size)) ||
		(meta->centroid_code.dim != 0 &&
		 (!AnnCodeParamsValid(&meta->centroid_code) || meta->centroid_code.dim != (int32_t) layout->dim)))
		AnnPageCorrupted(index, ANN_IVF_META_BLOCK, "its sizes do not fit together");
}

/*
 * Reads and checks the meta page.
 */
void
AnnIvfReadMeta(Relation index, AnnIvfMetaPageData *meta)
{
	Buffer		buffer = ReadBuffer(index, ANN_IVF_META_BLOCK);
	AnnSpace	space;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	memcpy(meta, AnnIvfMetaOnPage(AnnPageGet(index, buffer, ANN_IVFFLAT_PAGE_ID, ANN_IVF_META)), sizeof(*meta));
	UnlockReleaseBuffer(buffer);
	checkMeta(index, meta);
	AnnIvfSpaceInit(&space, &meta->layout);
	if (space.stored_size != meta->layout.vector_size || meta->layout.attribute_size != AnnAttributesSize(index))
		AnnPageCorrupted(index, ANN_IVF_META_BLOCK, "its sizes do not fit together");
}

/*
 * Raises ERRCODE_T_R_SERIALIZATION_FAILURE if `start`, first block of the heads or the
 * centroids of lists, is that of lists that VACUUM has begun to free.  Lists that were
 * replaced stay as they are until no snapshot of the primary is older than that; a standby's
 * scan may be.  Takes the meta page's lock.
 */
void
AnnIvfCheckInUse(Relation index, BlockNumber start)
{
	Buffer		buffer = ReadBuffer(index, ANN_IVF_META_BLOCK);
	const AnnIvfMetaPageData *meta;
	bool		in_use;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	meta = AnnIvfMetaOnPage(AnnPageGet(index, buffer, ANN_IVFFLAT_PAGE_ID, ANN_IVF_META));
	in_use = start == meta->heads || start == meta->centroids || start == meta->centroid_codes ||
		((meta->other.state == ANN_IVF_OTHER_BUILDING || meta->other.state == ANN_IVF_OTHER_RETIRED) &&
		 (start == meta->other.heads || start == meta->other.centroids || start == meta->other.centroid_codes));
	UnlockReleaseBuffer(buffer);
	if (!in_use)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("lists of ivfflat index \"%s\" were removed while they were scanned", RelationGetRelationName(index)),
				 errdetail("VACUUM has replaced them, and no snapshot on the primary was old enough to need them."),
				 errhint("Run the query again, or set hot_standby_feedback.")));
}

/* AnnPageGet of one of the pages that begin at `start`, which VACUUM may have freed (AnnIvfCheckInUse). */
static Page
getPageOf(Relation index, Buffer buffer, AnnIvfPageKind kind, BlockNumber start)
{
	Page		page = BufferGetPage(buffer);

	if (unlikely(!AnnPageIsOurs(page, ANN_IVFFLAT_PAGE_ID) || AnnPageOpaque(page)->kind != kind))
		AnnIvfCheckInUse(index, start);
	return AnnPageGet(index, buffer, ANN_IVFFLAT_PAGE_ID, kind);
}

/*
 * Writes a complete index of no rows: one list around zero and the two lists
 * without vectors.  Unlogged but for the init fork.  *meta comes with what options and
 * column decide; the rest is filled in.
 */
void
AnnIvfCreateEmpty(Relation index, ForkNumber fork, AnnIvfMetaPageData *meta)
{
	meta->magic = ANN_IVF_MAGIC;
	meta->version = ANN_IVF_VERSION;
	meta->build_id = pg_prng_uint64(&pg_global_prng_state);
	meta->lists = 1;
	meta->probes = 0;
	memset(&meta->centroid_code, 0, sizeof(meta->centroid_code));
	meta->centroids = InvalidBlockNumber;
	meta->centroid_codes = InvalidBlockNumber;
	meta->heads = ANN_IVF_META_BLOCK + 1;
	meta->free_pages = InvalidBlockNumber;
	memset(&meta->other, 0, sizeof(meta->other));
	meta->looked = meta->removed = 0;
	meta->next_chain = AnnIvfTotalLists(meta);

	for (BlockNumber block = ANN_IVF_META_BLOCK; block < meta->heads + 1 + AnnIvfTotalLists(meta); block++)
	{
		Buffer		buffer = AnnExtendFork(index, fork);
		Page		page = BufferGetPage(buffer);

		START_CRIT_SECTION();
		if (block == ANN_IVF_META_BLOCK)
		{
			AnnPageInit(page, ANN_IVFFLAT_PAGE_ID, ANN_IVF_META);
			memcpy(AnnIvfMetaOnPage(page), meta, sizeof(*meta));
			AnnPageSetRawSize(page, sizeof(*meta));
		}
		else if (block == meta->heads)
		{
			AnnIvfListHead *heads = (AnnIvfListHead *) AnnPageRaw(page);

			AnnPageInit(page, ANN_IVFFLAT_PAGE_ID, ANN_IVF_HEADS);
			memset(heads, 0, sizeof(AnnIvfListHead) * AnnIvfTotalLists(meta));
			for (uint32 i = 0; i < AnnIvfTotalLists(meta); i++)
			{
				heads[i].first = heads[i].insert = meta->heads + 1 + i;
				heads[i].chain = i;
			}
			AnnPageSetRawSize(page, sizeof(AnnIvfListHead) * AnnIvfTotalLists(meta));
		}
		else
		{
			uint32		list = block - meta->heads - 1;
			AnnIvfShape shape = AnnIvfShapeOf(meta, list);

			AnnIvfInitListPage(page, &shape, list, InvalidBlockNumber);
		}
		MarkBufferDirty(buffer);
		if (fork == INIT_FORKNUM)
			log_newpage_buffer(buffer, true);
		END_CRIT_SECTION();
		UnlockReleaseBuffer(buffer);
	}
}

/* ---- blobs ---- */

/*
 * Writes a byte string into new consecutive pages and returns the first one's block.  The
 * caller sees to it that nobody else extends the index.
 */
static BlockNumber
writePages(Relation index, AnnWriteMode mode, AnnIvfPageKind kind, const char *data, Size size)
{
	BlockNumber first = InvalidBlockNumber;
	BlockNumber expected = InvalidBlockNumber;

	for (Size at = 0; at < size; at += ANN_PAGE_USABLE)
	{
		Buffer		buffer = AnnExtendRelation(index);
		AnnPageEdit edit;
		Page		page;
		Size		n = Min(size - at, ANN_PAGE_USABLE);

		if (at == 0)
			first = expected = BufferGetBlockNumber(buffer);
		if (BufferGetBlockNumber(buffer) != expected++)
			elog(ERROR, "pages of index \"%s\" are not consecutive", RelationGetRelationName(index));
		edit = AnnPageEditBegin(index, mode);
		page = AnnPageEditAdd(&edit, buffer, true);
		AnnPageInit(page, ANN_IVFFLAT_PAGE_ID, kind);
		memcpy(AnnPageRaw(page), data + at, n);
		AnnPageSetRawSize(page, n);
		AnnPageEditCommit(&edit);
		UnlockReleaseBuffer(buffer);
		CHECK_FOR_INTERRUPTS();
	}
	return first;
}

BlockNumber
AnnIvfWriteBlob(Relation index, AnnWriteMode mode, const char *data, Size size)
{
	return writePages(index, mode, ANN_IVF_BLOB, data, size);
}

/*
 * Reads `size` bytes from `offset` on of what begins at block `first`.  hints may be NULL.
 */
void
AnnIvfReadBlob(Relation index, AnnBufferHints *hints, BlockNumber first, Size offset, Size size, char *data)
{
	while (size > 0)
	{
		Size		in_page = offset % ANN_PAGE_USABLE;
		Size		n = Min(size, ANN_PAGE_USABLE - in_page);
		BlockNumber block = first + (BlockNumber) (offset / ANN_PAGE_USABLE);
		Buffer		buffer = hints != NULL ? AnnReadBuffer(index, hints, block) : AnnReadBlock(index, block, NULL);
		Page		page;

		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		page = getPageOf(index, buffer, ANN_IVF_BLOB, first);
		if (((PageHeader) page)->pd_lower < ANN_PAGE_HEADER + in_page + n)
			AnnPageCorrupted(index, block, "it is shorter than expected");
		memcpy(data, AnnPageRaw(page) + in_page, n);
		UnlockReleaseBuffer(buffer);
		data += n;
		offset += n;
		size -= n;
	}
}

BlockNumber
AnnIvfWriteHeads(Relation index, AnnWriteMode mode, const AnnIvfListHead *heads, uint32 count)
{
	StaticAssertStmt(ANN_PAGE_USABLE % sizeof(AnnIvfListHead) == 0, "heads do not cross pages");
	return writePages(index, mode, ANN_IVF_HEADS, (const char *) heads, mul_size(sizeof(AnnIvfListHead), count));
}

/* ---- list pages ---- */

/*
 * Initialises a page as one of a list, without entries.
 */
void
AnnIvfInitListPage(Page page, const AnnIvfShape *shape, uint32 chain, BlockNumber prev)
{
	AnnIvfListPage *header;

	AnnPageInit(page, ANN_IVFFLAT_PAGE_ID, shape->kind);
	header = AnnIvfListPageOf(page);
	memset(header, 0, ANN_PAGE_USABLE);
	header->chain = chain;
	header->prev = prev;
	AnnPageSetRawSize(page, ANN_PAGE_USABLE);
}

/*
 * Whether the page belongs to the list now: a block that a scan or an insert
 * comes to by a link may have been reused.
 */
bool
AnnIvfIsListPage(Page page, const AnnIvfShape *shape, uint32 chain)
{
	return AnnPageIsOurs(page, ANN_IVFFLAT_PAGE_ID) && AnnPageOpaque(page)->kind == shape->kind &&
		AnnIvfListPageOf(page)->chain == chain;
}

/*
 * Raises ERRCODE_INDEX_CORRUPTED unless the counts of a list page are within
 * what it can hold.
 */
void
AnnIvfCheckListPage(Relation index, BlockNumber block, Page page, const AnnIvfLayout *layout,
					const AnnIvfShape *shape)
{
	const AnnIvfListPage *header = AnnIvfListPageOf(page);

	if (unlikely(header->count > shape->entries || header->live > header->count ||
				 header->nblocks > (shape->has_vectors ? layout->blocks : 0)))
		AnnPageCorrupted(index, block, "it has more entries than it can hold");
}

/*
 * Adds the live entries of a list page, whose counts have been checked, to a census of its list.
 */
void
AnnIvfCountListPage(const AnnIvfMetaPageData *meta, const AnnIvfShape *shape, Page page, AnnIvfListCensus *census)
{
	const AnnIvfListPage *header = AnnIvfListPageOf(page);

	census->entries += header->live;
	for (int i = 0; shape->has_vectors && AnnIvfHasCodes(&meta->layout) && i < header->count; i++)
	{
		AnnCodeFactors factors;

		if (!ItemPointerIsValid(AnnIvfTidOf(page, shape, i)))
			continue;
		AnnIvfTopFactors(meta, shape, page, i, &factors);
		census->spread += AnnIvfEntrySpread(&meta->layout, &factors);
	}
}

static Buffer
lockHead(Relation index, const AnnIvfMetaPageData *meta, uint32 list, int mode)
{
	Buffer		buffer = AnnReadBlock(index, meta->heads + list / ANN_IVF_HEADS_PER_PAGE, NULL);

	LockBuffer(buffer, mode);
	getPageOf(index, buffer, ANN_IVF_HEADS, meta->heads);
	return buffer;
}

AnnIvfListHead
AnnIvfReadHead(Relation index, const AnnIvfMetaPageData *meta, uint32 list)
{
	Buffer		buffer = lockHead(index, meta, list, BUFFER_LOCK_SHARE);
	AnnIvfListHead head = ((AnnIvfListHead *) AnnPageRaw(BufferGetPage(buffer)))[list % ANN_IVF_HEADS_PER_PAGE];

	UnlockReleaseBuffer(buffer);
	return head;
}

/*
 * All heads of a list table, palloc'd.
 */
AnnIvfListHead *
AnnIvfReadHeads(Relation index, const AnnIvfMetaPageData *meta)
{
	uint32		total = AnnIvfTotalLists(meta);
	AnnIvfListHead *heads = palloc(mul_size(sizeof(AnnIvfListHead), total));

	for (uint32 first = 0; first < total; first += ANN_IVF_HEADS_PER_PAGE)
	{
		Buffer		buffer = lockHead(index, meta, first, BUFFER_LOCK_SHARE);

		memcpy(heads + first, AnnPageRaw(BufferGetPage(buffer)),
			   sizeof(AnnIvfListHead) * Min(ANN_IVF_HEADS_PER_PAGE, total - first));
		UnlockReleaseBuffer(buffer);
	}
	return heads;
}

/*
 * Tells inserts where to begin to look for room.
 */
void
AnnIvfSetInsertPage(Relation index, const AnnIvfMetaPageData *meta, uint32 list, BlockNumber block)
{
	Buffer		buffer = lockHead(index, meta, list, BUFFER_LOCK_EXCLUSIVE);
	AnnPageEdit edit;
	Page		page;

	if (((AnnIvfListHead *) AnnPageRaw(BufferGetPage(buffer)))[list % ANN_IVF_HEADS_PER_PAGE].insert != block)
	{
		edit = AnnPageEditBegin(index, ANN_WRITE_WAL);
		page = AnnPageEditAdd(&edit, buffer, false);
		((AnnIvfListHead *) AnnPageRaw(page))[list % ANN_IVF_HEADS_PER_PAGE].insert = block;
		AnnPageEditCommit(&edit);
	}
	UnlockReleaseBuffer(buffer);
}

/* ---- free pages ---- */

/* Whether the edit holds the block: a damaged link to it would have us wait for ourselves. */
static bool
editHolds(const AnnPageEdit *edit, BlockNumber block)
{
	for (int i = 0; i < edit->nbuffers; i++)
		if (BufferGetBlockNumber(edit->buffers[i]) == block)
			return true;
	return false;
}

/*
 * Adds a page to the edit that nobody uses: a recycled one, taken from the list of
 * FREE pages by the same edit, or a new one.  *page is to be initialised by the caller.
 * Returns its buffer, locked; *extra is another locked buffer that the edit touches, or
 * InvalidBuffer: to be released after the commit.  Takes up two of the
 * edit's pages.
 *
 * Lock order: META page, FREE page, page (README).
 */
Buffer
AnnIvfAllocPage(Relation index, AnnPageEdit *edit, Page *page, Buffer *extra)
{
	Buffer		meta_buffer = ReadBuffer(index, ANN_IVF_META_BLOCK);
	Buffer		free_buffer;
	Buffer		buffer;
	Page		free_page;
	AnnIvfListPage *header;
	BlockNumber free_block;

	*extra = InvalidBuffer;
	LockBuffer(meta_buffer, BUFFER_LOCK_SHARE);
	free_block = AnnIvfMetaOnPage(BufferGetPage(meta_buffer))->free_pages;
	LockBuffer(meta_buffer, BUFFER_LOCK_UNLOCK);
	if (BlockNumberIsValid(free_block))
	{
		LockBuffer(meta_buffer, BUFFER_LOCK_EXCLUSIVE);
		free_block = AnnIvfMetaOnPage(BufferGetPage(meta_buffer))->free_pages;
		if (!BlockNumberIsValid(free_block))
			LockBuffer(meta_buffer, BUFFER_LOCK_UNLOCK);
	}
	if (!BlockNumberIsValid(free_block))
	{
		ReleaseBuffer(meta_buffer);
		buffer = AnnExtendRelation(index);
		*page = AnnPageEditAdd(edit, buffer, true);
		return buffer;
	}

	if (free_block == ANN_IVF_META_BLOCK || editHolds(edit, free_block))
		AnnPageCorrupted(index, free_block, "it is in use, but among the free pages");
	free_buffer = AnnReadBlock(index, free_block, NULL);
	LockBuffer(free_buffer, BUFFER_LOCK_EXCLUSIVE);
	free_page = AnnPageGet(index, free_buffer, ANN_IVFFLAT_PAGE_ID, ANN_IVF_FREE);
	header = AnnIvfListPageOf(free_page);
	if (header->nblocks > (ANN_PAGE_USABLE - offsetof(AnnIvfListPage, blocks)) / sizeof(BlockNumber))
		AnnPageCorrupted(index, free_block, "it owns more pages than it can name");
	if (header->nblocks > 0)
	{
		/* One of its VECTORS pages; the FREE page's lock keeps others from it. */
		BlockNumber block = header->blocks[header->nblocks - 1];

		if (block == ANN_IVF_META_BLOCK || block == free_block || editHolds(edit, block))
			AnnPageCorrupted(index, free_block, "it owns a page that is in other use");
		buffer = AnnReadBlock(index, block, NULL);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		AnnPageGet(index, buffer, ANN_IVFFLAT_PAGE_ID, ANN_IVF_VECTORS);
		AnnIvfListPageOf(AnnPageEditAdd(edit, free_buffer, false))->nblocks--;
		*page = AnnPageEditAdd(edit, buffer, true);
		UnlockReleaseBuffer(meta_buffer);
		*extra = free_buffer;
	}
	else
	{
		AnnIvfMetaOnPage(AnnPageEditAdd(edit, meta_buffer, false))->free_pages = AnnPageOpaque(free_page)->next;
		*page = AnnPageEditAdd(edit, free_buffer, true);
		buffer = free_buffer;
		*extra = meta_buffer;
	}
	return buffer;
}

/*
 * Puts a registered page that nobody uses among the FREE ones, by the same edit; one that owns
 * VECTORS pages keeps them.
 */
void
AnnIvfFreePage(AnnPageEdit *edit, Page page, BlockNumber block, Buffer meta_buffer)
{
	AnnIvfMetaPageData *meta = AnnIvfMetaOnPage(AnnPageEditAdd(edit, meta_buffer, false));

	if (!PageIsNew(page) && (AnnPageOpaque(page)->kind == ANN_IVF_CODES || AnnPageOpaque(page)->kind == ANN_IVF_TIDS))
		AnnPageOpaque(page)->kind = ANN_IVF_FREE;
	else
	{
		AnnPageInit(page, ANN_IVFFLAT_PAGE_ID, ANN_IVF_FREE);
		memset(AnnPageRaw(page), 0, ANN_PAGE_USABLE);
		AnnPageSetRawSize(page, ANN_PAGE_USABLE);
	}
	AnnPageOpaque(page)->next = meta->free_pages;
	meta->free_pages = block;
}
