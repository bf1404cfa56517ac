/*
 * page.h
 *	  What the access methods share below their own formats: page identity,
 *	  checked access, and the one write path.
 *
 * Every page of an ann index is a standard page whose special area is an
 * AnnPageOpaqueData.  Raw areas lie below pd_lower, since generic WAL zeroes
 * the hole between pd_lower and pd_upper.
 */
#ifndef ANN_PAGE_H
#define ANN_PAGE_H

#include "postgres.h"

#include "access/generic_xlog.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "utils/rel.h"

#include "compat.h"

/* Registry of page ids: 0xFF83 is bloom's, 0xFF84 and 0xFF90 are pgvector's. */
#define ANN_HNSW_PAGE_ID	0xFFA1
#define ANN_IVFFLAT_PAGE_ID	0xFFA2

/*
 * Special area                 OFFSET SIZE  FIELD
 *                                 0     4   next: block of the next page of a chain, or InvalidBlockNumber
 *                                 4     2   kind: what the page holds, numbered by the access method
 *                                 6     2   page_id: ANN_HNSW_PAGE_ID or ANN_IVFFLAT_PAGE_ID
 */
typedef struct AnnPageOpaqueData
{
	BlockNumber next;
	uint16		kind;
	uint16		page_id;
} AnnPageOpaqueData;

StaticAssertDecl(sizeof(AnnPageOpaqueData) == 8, "on-disk format");

#define ANN_PAGE_HEADER MAXALIGN(SizeOfPageHeaderData)
#define ANN_PAGE_USABLE (BLCKSZ - ANN_PAGE_HEADER - MAXALIGN(sizeof(AnnPageOpaqueData)))

/* Whether two heap TIDs are the same; damage may have made one of them that a page holds invalid. */
static inline bool
AnnSameTid(const ItemPointerData *a, const ItemPointerData *b)
{
	return memcmp(a, b, sizeof(ItemPointerData)) == 0;
}

/* How a change reaches the disk. */
typedef enum AnnWriteMode
{
	ANN_WRITE_WAL,				/* one generic WAL record per edit */
	ANN_WRITE_BUILD				/* none: the build logs the finished relation */
} AnnWriteMode;

/*
 * One atomic change of up to four pages.  The caller holds every buffer
 * exclusively and still holds it afterwards; several buffers are locked in
 * block order.  Between Add and Commit only the pages that Add returned are
 * written to, and nothing that can raise an error happens after the first
 * write.
 */
#define ANN_EDIT_MAX_PAGES 4

typedef struct AnnPageEdit
{
	GenericXLogState *xlog;		/* NULL when nothing is logged */
	int			nbuffers;
	Buffer		buffers[ANN_EDIT_MAX_PAGES];
} AnnPageEdit;

/*
 * A version of an access method's format.  Every meta page, block 0, begins with the
 * magic number (4 bytes) and the version (2).
 */
typedef struct AnnFormat
{
	const char *name;			/* of the access method */
	uint16		page_id;
	uint16		meta_kind;
	uint16		version;
	uint32		magic;
} AnnFormat;

extern uint16 AnnPageFormatVersion(Relation index, const AnnFormat *format);

extern AnnPageEdit AnnPageEditBegin(Relation index, AnnWriteMode mode);
extern Page AnnPageEditAdd(AnnPageEdit *edit, Buffer buffer, bool whole);
extern void AnnPageEditCommit(AnnPageEdit *edit);

/* Bytes of a page to be replaced: `target` points into the page. */
typedef struct AnnPagePatch
{
	void	   *target;
	const void *data;
	uint16		length;
} AnnPagePatch;

#define ANN_PATCH_MAX 260

/* What becomes of one page. */
typedef struct AnnPageChange
{
	Buffer		buffer;
	int			npatches;
	const AnnPagePatch *patches;
} AnnPageChange;

extern void AnnPageApplyAll(Relation index, AnnWriteMode mode, const AnnPageChange *changes, int nchanges);
extern void AnnPageApply(Relation index, AnnWriteMode mode, Buffer buffer, const AnnPagePatch *patches, int npatches);

extern Buffer AnnExtendFork(Relation index, ForkNumber fork);
extern void AnnPageInit(Page page, uint16 page_id, uint16 kind);
extern void AnnPageSetRawSize(Page page, Size size);
extern Buffer AnnReadBlock(Relation relation, BlockNumber block, BufferAccessStrategy strategy);
extern Page AnnPageGet(Relation index, Buffer buffer, uint16 page_id, uint16 kind);
extern _Noreturn void AnnPageCorrupted(Relation index, BlockNumber block, const char *what);

/* Special areas are of one size: the page header need not be asked, which may be far from the caches. */
static inline AnnPageOpaqueData *
AnnPageOpaque(Page page)
{
	return (AnnPageOpaqueData *) ((char *) page + BLCKSZ - MAXALIGN(sizeof(AnnPageOpaqueData)));
}

/* Start of the raw area of a page. */
static inline char *
AnnPageRaw(Page page)
{
	return (char *) page + ANN_PAGE_HEADER;
}

/* True if the page is initialised, and as one of this access method's pages. */
static inline bool
AnnPageIsOurs(Page page, uint16 page_id)
{
	return !PageIsNew(page) &&
		((PageHeader) page)->pd_special == BLCKSZ - MAXALIGN(sizeof(AnnPageOpaqueData)) &&
		AnnPageOpaque(page)->page_id == page_id;
}

#endif							/* ANN_PAGE_H */
