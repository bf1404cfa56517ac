/*
 * page.c
 *	  Page initialisation, checked access, and the write path.
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xloginsert.h"
#include "miscadmin.h"

#include "page/page.h"

/*
 * Starts an atomic change.  Allocates in CurrentMemoryContext when it logs.
 */
AnnPageEdit
AnnPageEditBegin(Relation index, AnnWriteMode mode)
{
	AnnPageEdit edit = {0};

	if (mode == ANN_WRITE_WAL)
		edit.xlog = GenericXLogStart(index);
	return edit;
}

/*
 * Adds an exclusively locked buffer to the change and returns the page to
 * write to.  `whole` says that the page is initialised from nothing, so that
 * its image is logged in place of a difference.
 */
Page
AnnPageEditAdd(AnnPageEdit *edit, Buffer buffer, bool whole)
{
	Assert(edit->nbuffers < ANN_EDIT_MAX_PAGES);
	edit->buffers[edit->nbuffers++] = buffer;
	if (edit->xlog != NULL)
		return GenericXLogRegisterBuffer(edit->xlog, buffer, whole ? GENERIC_XLOG_FULL_IMAGE : 0);
	return BufferGetPage(buffer);
}

/*
 * Makes the change visible to other backends and durable with the next WAL
 * flush.  The buffers stay locked and pinned.
 */
void
AnnPageEditCommit(AnnPageEdit *edit)
{
	if (edit->xlog != NULL)
		GenericXLogFinish(edit->xlog);
	else
	{
		for (int i = 0; i < edit->nbuffers; i++)
			MarkBufferDirty(edit->buffers[i]);
	}
}

/*
 * Changes a few bytes of pages (ANN_EDIT_MAX_PAGES at most), which the caller holds exclusively and
 * still holds afterwards: what an edit of them does, without the edit's copies
 * and comparisons of whole pages.  Patches do not overlap; of one page there are ANN_PATCH_MAX at most.
 *
 * The record is one of generic WAL: for each block a list of {offset, length,
 * bytes}, which generic_redo applies (access/transam/generic_xlog.c, the same in
 * all versions since 9.6).
 */
void
AnnPageApplyAll(Relation index, AnnWriteMode mode, const AnnPageChange *changes, int nchanges)
{
	char		delta[ANN_EDIT_MAX_PAGES][BLCKSZ + ANN_PATCH_MAX * 2 * sizeof(OffsetNumber)];
	bool		log = mode == ANN_WRITE_WAL && RelationNeedsWAL(index);

	Assert(nchanges <= ANN_EDIT_MAX_PAGES);
	START_CRIT_SECTION();
	for (int i = 0; i < nchanges; i++)
	{
		Assert(changes[i].npatches <= ANN_PATCH_MAX);
		for (int j = 0; j < changes[i].npatches; j++)
			memcpy(changes[i].patches[j].target, changes[i].patches[j].data, changes[i].patches[j].length);
		MarkBufferDirty(changes[i].buffer);
	}
	if (log)
	{
		XLogRecPtr	lsn;

		XLogBeginInsert();
		for (int i = 0; i < nchanges; i++)
		{
			Page		page = BufferGetPage(changes[i].buffer);
			Size		size = 0;

			for (int j = 0; j < changes[i].npatches; j++)
			{
				const AnnPagePatch *patch = &changes[i].patches[j];
				OffsetNumber head[2] = {(OffsetNumber) ((char *) patch->target - (char *) page), patch->length};

				memcpy(delta[i] + size, head, sizeof(head));
				memcpy(delta[i] + size + sizeof(head), patch->data, patch->length);
				size += sizeof(head) + patch->length;
			}
			XLogRegisterBuffer((uint8) i, changes[i].buffer, REGBUF_STANDARD);
			XLogRegisterBufData((uint8) i, delta[i], (int) size);
		}
		lsn = XLogInsert(RM_GENERIC_ID, 0);
		for (int i = 0; i < nchanges; i++)
			PageSetLSN(BufferGetPage(changes[i].buffer), lsn);
	}
	END_CRIT_SECTION();
}

/* The same for one page. */
void
AnnPageApply(Relation index, AnnWriteMode mode, Buffer buffer, const AnnPagePatch *patches, int npatches)
{
	AnnPageApplyAll(index, mode, &(AnnPageChange) {buffer, npatches, patches}, 1);
}

/*
 * Extends the main fork, or the init fork of an index that is being created, by one
 * page; returns its buffer, exclusively locked.
 */
Buffer
AnnExtendFork(Relation index, ForkNumber fork)
{
	Buffer		buffer;

	if (fork == MAIN_FORKNUM)
		return AnnExtendRelation(index);
	/* Nobody else sees this fork. */
	buffer = ReadBufferExtended(index, fork, P_NEW, RBM_NORMAL, NULL);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	return buffer;
}

/*
 * Initialises an all-zero or recycled page as an empty one of this kind.
 */
void
AnnPageInit(Page page, uint16 page_id, uint16 kind)
{
	AnnPageOpaqueData *opaque;

	PageInit(page, BLCKSZ, sizeof(AnnPageOpaqueData));
	opaque = AnnPageOpaque(page);
	opaque->next = InvalidBlockNumber;
	opaque->kind = kind;
	opaque->page_id = page_id;
}

/*
 * Declares the first `size` bytes behind the page header to be in use, so
 * that generic WAL keeps them.
 */
void
AnnPageSetRawSize(Page page, Size size)
{
	Assert(size <= ANN_PAGE_USABLE);
	((PageHeader) page)->pd_lower = (LocationIndex) (ANN_PAGE_HEADER + size);
}

/*
 * Returns the page of a pinned and locked buffer after checking that it is a
 * page of this access method and kind, by its special area alone.  Raises
 * ERRCODE_INDEX_CORRUPTED naming index and block otherwise.
 */
Page
AnnPageGet(Relation index, Buffer buffer, uint16 page_id, uint16 kind)
{
	Page		page = BufferGetPage(buffer);

	if (unlikely(AnnPageOpaque(page)->page_id != page_id || AnnPageOpaque(page)->kind != kind))
		AnnPageCorrupted(index, BufferGetBlockNumber(buffer), "it is not a page of the expected kind");
	return page;
}

/*
 * The version of the format that an index is of.  That of *format if its first page is no
 * such meta page at all: whoever uses it raises the error.
 */
uint16
AnnPageFormatVersion(Relation index, const AnnFormat *format)
{
	Buffer		buffer = ReadBuffer(index, 0);
	Page		page = BufferGetPage(buffer);
	uint16		version = format->version;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	if (AnnPageIsOurs(page, format->page_id) && AnnPageOpaque(page)->kind == format->meta_kind &&
		memcmp(AnnPageRaw(page), &format->magic, sizeof(format->magic)) == 0)
		memcpy(&version, AnnPageRaw(page) + sizeof(format->magic), sizeof(version));
	UnlockReleaseBuffer(buffer);
	return version;
}

/* Raises the error for a block that is named, and behind the end of the relation. */
static _Noreturn void
noSuchBlock(Relation relation, BlockNumber block)
{
	if (relation->rd_rel->relkind == RELKIND_INDEX)
		AnnPageCorrupted(relation, block, "there is no such block, but another one leads to it");
	ereport(ERROR,
			(errcode(ERRCODE_INDEX_CORRUPTED),
			 errmsg("table \"%s\" has no block %u, which an index names", RelationGetRelationName(relation), block),
			 errhint("Please REINDEX it.")));
}

/*
 * ReadBuffer for a block that a page of an index names: if there is no such block the error says that
 * the index is corrupted.  Only where the read fails is the end of the relation asked for.
 */
Buffer
AnnReadBlock(Relation relation, BlockNumber block, BufferAccessStrategy strategy)
{
	MemoryContext context = CurrentMemoryContext;
	Buffer		buffer = InvalidBuffer;

	/* It would be taken for P_NEW. */
	if (!BlockNumberIsValid(block))
		noSuchBlock(relation, block);
	PG_TRY();
	{
		buffer = ReadBufferExtended(relation, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
	}
	PG_CATCH();
	{
		if (block < RelationGetNumberOfBlocks(relation))
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		noSuchBlock(relation, block);
	}
	PG_END_TRY();
	return buffer;
}

/*
 * Raises the error for a page whose content cannot be right.
 */
void
AnnPageCorrupted(Relation index, BlockNumber block, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INDEX_CORRUPTED),
			 errmsg("index \"%s\" is corrupted at block %u: %s",
					RelationGetRelationName(index), block, what),
			 errhint("Please REINDEX it.")));
}
