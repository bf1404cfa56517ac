/*
 * ivfflat.h
 *	  On-disk format and internal interface of the ivfflat access method.
 *
 * src/ivfflat/README tells the design: read it first.
 */
#ifndef ANN_IVFFLAT_H
#define ANN_IVFFLAT_H

#include "postgres.h"

#include <math.h>

#include "access/amapi.h"
#include "access/genam.h"
#include "nodes/execnodes.h"
#include "storage/itemptr.h"

#include "page/cache.h"
#include "page/check.h"
#include "page/hints.h"
#include "page/page.h"
#include "quantize/quantize.h"
#include "space/attributes.h"
#include "space/space.h"
#include "types/types.h"

#define ANN_IVF_MAGIC 0x46465649	/* "IVFF" */
#define ANN_IVF_VERSION 6

#define ANN_IVF_MAX_LISTS 32768
#define ANN_IVF_MAX_BIT_DIM 64000

#define ANN_IVF_META_BLOCK 0

/* Standard errors below its estimate at which a row is taken to lie at the nearest (README, Scan). */
#define ANN_IVF_EPS 3.5f

/* Walks of a list that VACUUM's work may spoil, before it is called damage. */
#define ANN_IVF_MAX_RESTARTS 10000

/* Support functions of an operator class */
#define ANN_IVF_DISTANCE_PROC 1	/* the distance function behind the operator, or its squared form */
#define ANN_IVF_TYPE_PROC 2		/* ivfflat_*_support; absent for vector */
#define ANN_IVF_NPROCS 2

typedef enum AnnIvfPageKind
{
	ANN_IVF_META = 1,
	ANN_IVF_BLOB,				/* a stretch of consecutive pages read as one byte string */
	ANN_IVF_HEADS,				/* list heads */
	ANN_IVF_CODES,				/* entries of a list */
	ANN_IVF_VECTORS,			/* their vectors */
	ANN_IVF_TIDS,				/* entries of a list without vectors */
	ANN_IVF_FREE				/* a CODES or TIDS page that VACUUM took out of its list */
} AnnIvfPageKind;

/*
 * Sizes of an index's pages; a function of dimensions and options, computed once
 * when the index is created and stored in its meta page.
 */
typedef struct AnnIvfLayout
{
	uint32		dim;
	uint8		element;		/* AnnElement */
	uint8		metric;			/* AnnMetric */
	uint8		quantizer;		/* AnnQuantizer, never AUTO */
	uint8		refine;			/* AnnRefineForm */
	uint32		vector_size;	/* bytes of a vector in re-rank form */
	uint16		code_size;		/* bytes of a code in an entry; 0 without codes */
	uint16		entry_size;		/* bytes of an entry, all columns together */
	uint16		entries;		/* on a CODES page */
	uint16		blocks;			/* VECTORS pages that a CODES page has room to name */
	uint16		vectors_per_page;	/* 0 if a vector takes several pages */
	uint16		pages_per_vector;
	uint16		vector_slot;	/* bytes of a vector on a VECTORS page; 0 if it takes several */
	uint16		attribute_size; /* bytes of the attribute area in an entry; 0 without included columns */
	uint16		plane_size;		/* bytes of one plane of a code */
	uint16		key_size;		/* sizeof(AnnIvfKey); 0: entries have none */
} AnnIvfLayout;

/*
 * What tells entries whose first included column is one of some values from most others: the lower half of
 * AnnAttributesKey.
 */
typedef uint16 AnnIvfKey;

StaticAssertDecl(sizeof(AnnIvfLayout) == 32, "on-disk format");

/* What there is beside the lists in use: lists in the making, or lists that were replaced. */
typedef enum AnnIvfOtherState
{
	ANN_IVF_OTHER_NONE = 0,
	ANN_IVF_OTHER_BUILDING,		/* not in use yet, or given up */
	ANN_IVF_OTHER_RETIRED,		/* scans may still read them */
	ANN_IVF_OTHER_FREEING		/* nobody reads them; some pages are free already */
} AnnIvfOtherState;

typedef struct AnnIvfOther
{
	uint16		state;			/* AnnIvfOtherState */
	uint16		generation;
	uint32		lists;
	BlockNumber heads;
	BlockNumber centroids;
	BlockNumber centroid_codes;
	uint32		reserved;
	uint64		xid;			/* retired: nobody whose snapshot is older may be left */
} AnnIvfOther;

StaticAssertDecl(sizeof(AnnIvfOther) == 32, "on-disk format");

/*
 * Meta page.  The layout is fixed; what follows changes when VACUUM makes new lists, with
 * a new generation of the list table (README, New lists).
 */
typedef struct AnnIvfMetaPageData
{
	uint32		magic;
	uint16		version;
	uint16		generation;
	AnnIvfLayout layout;
	AnnCodeParams code;			/* of entries; all zero without codes */
	AnnCodeParams centroid_code;	/* of centroids; all zero without codes */
	uint32		lists;			/* lists of vectors; two more follow them (README, Pages) */
	uint32		probes;			/* calibrated; 0: not calibrated */
	BlockNumber centroids;		/* blob float4[lists][dim], or invalid: a single list, centre zero */
	BlockNumber centroid_codes; /* blob: float4[dim] mean, then an AnnIvfCentroidCode for each list */
	BlockNumber heads;			/* first HEADS page */
	BlockNumber free_pages;		/* first FREE page, or invalid */
	double		rows;			/* heap TIDs when all lists were made */
	double		spread;			/* mean squared distance of a vector from its centroid at that time */
	AnnIvfOther other;
	uint64		build_id;		/* random: another build in the same file is told by it */
	double		looked;			/* heap TIDs when VACUUM last looked for lists to be made anew */
	double		removed;		/* of those and others since then */
	uint32		next_chain;		/* no list has had this number, or a larger one */
	BlockNumber looked_blocks;	/* blocks of the table at the time of `looked`; 0: not known */
	float		reach;			/* calibrated, for filters (README, Filtered); 0: not known */
	float		reach_slope;	/* what it grows by with the logarithm of the share of rows that count */
} AnnIvfMetaPageData;

StaticAssertDecl(sizeof(AnnIvfMetaPageData) == 200, "on-disk format");

/*
 * A list is known by its place in the list table, which changes when others are made anew;
 * its pages name the chain that they are, which does not.
 */
typedef struct AnnIvfListHead
{
	BlockNumber first;			/* first page; it never leaves the list */
	BlockNumber insert;			/* where inserts begin to look for room: a hint */
	uint32		chain;
	float		rows;			/* entries when it was made */
	float		spread;			/* mean of AnnIvfEntrySpread then; 0: not known */
} AnnIvfListHead;

StaticAssertDecl(sizeof(AnnIvfListHead) == 20, "on-disk format");

#define ANN_IVF_HEADS_PER_PAGE (ANN_PAGE_USABLE / sizeof(AnnIvfListHead))

/*
 * CODES or TIDS page          OFFSET SIZE  FIELD
 *                                0     4   chain: the list it belongs to (AnnIvfListHead)
 *                                4     4   prev: the page before it in its list, or invalid
 *                                8     2   count: entries ever used, the first ones
 *                               10     2   live: those of them that hold a TID
 *                               12     2   nblocks: VECTORS pages it owns
 *                               14     2   zero
 *                               16  4 *b   blocks[layout.blocks] (CODES)
 * then the entries, column by column, each with room for n = layout.entries of them:
 *                               k *n   keys (AnnIvfKey), k = layout.key_size
 *                          2 *n x 3   add, mul, error: factors of the uppermost planes, halves
 *                               p *n   uppermost planes of the codes, from a multiple of 16 of the page
 *                               6 *n   heap TIDs; an invalid one marks a free entry
 *                               4 *n   mul, error: of the whole codes, halves
 *                               l *n   the other planes of the codes
 *                               a *n   attribute areas, from a multiple of 4: included columns
 *                                      (space/attributes.h), a being a multiple of 4
 * p = layout.plane_size, l = layout.code_size - p.  The factors and planes that come first are all
 * that most entries are asked for (README, Scan).  Codes of one plane have no factors but those, and no
 * other planes; where there are no codes heap TIDs come first.  A FREE page keeps blocks; the
 * special area's next then chains FREE pages.
 */
typedef struct AnnIvfListPage
{
	uint32		chain;
	BlockNumber prev;
	uint16		count;
	uint16		live;
	uint16		nblocks;
	uint16		reserved;
	BlockNumber blocks[FLEXIBLE_ARRAY_MEMBER];
} AnnIvfListPage;

StaticAssertDecl(offsetof(AnnIvfListPage, blocks) == 16, "on-disk format");

/*
 * What tells a list's drift: its entries' squared distances from the centroid, or what goes with
 * them, by the factors of the uppermost planes.
 */
static inline double
AnnIvfEntrySpread(const AnnIvfLayout *layout, const AnnCodeFactors *factors)
{
	double		distance = layout->metric == ANN_METRIC_IP ? factors->error : factors->add;

	return isfinite(distance) ? distance * distance : 0;
}

/*
 * Vector, in a slot of a VECTORS page or from the start of several:
 *                                0     6   heap TID of the entry it was written for
 *                                6     2   zero
 *                                8     v   vector in re-rank form
 */
#define ANN_IVF_VECTOR_HEADER 8

/* An item of the centroid code blob; the code follows. */
typedef struct AnnIvfCentroidCode
{
	AnnCodeFactors factors;
	float		inv_norm;		/* 1 / |centroid|, 0 for a zero one */
	uint8		code[FLEXIBLE_ARRAY_MEMBER];
} AnnIvfCentroidCode;

StaticAssertDecl(offsetof(AnnIvfCentroidCode, code) == 16, "on-disk format");

/* What pages of one kind of list look like. */
typedef struct AnnIvfShape
{
	AnnIvfPageKind kind;
	int			entries;		/* on a page */
	bool		has_vectors;
	bool		has_codes;
	uint16		keys;			/* columns: offsets in the raw area */
	uint16		factors;
	uint16		top;
	uint16		tids;
	uint16		fine;
	uint16		low;
	uint16		attributes;
	uint16		plane_size;		/* bytes for an entry */
	uint16		low_size;
	uint16		attribute_size;
	uint16		key_size;
} AnnIvfShape;

static inline bool
AnnIvfHasCodes(const AnnIvfLayout *layout)
{
	return layout->quantizer == ANN_QUANTIZER_RABITQ;
}

/* The list of vectors without a place in the index space, and that of NULLs. */
static inline uint32
AnnIvfZeroList(const AnnIvfMetaPageData *meta)
{
	return meta->lists;
}

static inline uint32
AnnIvfNullList(const AnnIvfMetaPageData *meta)
{
	return meta->lists + 1;
}

static inline uint32
AnnIvfTotalLists(const AnnIvfMetaPageData *meta)
{
	return meta->lists + 2;
}

static inline AnnIvfListPage *
AnnIvfListPageOf(Page page)
{
	return (AnnIvfListPage *) AnnPageRaw(page);
}

static inline ItemPointerData *
AnnIvfTidOf(Page page, const AnnIvfShape *shape, int i)
{
	return (ItemPointerData *) (AnnPageRaw(page) + shape->tids) + i;
}

/* The keys of a CODES page's entries. */
static inline AnnIvfKey *
AnnIvfKeysOf(Page page, const AnnIvfShape *shape)
{
	return (AnnIvfKey *) (AnnPageRaw(page) + shape->keys);
}

/* The attribute area of an entry of a CODES page. */
static inline char *
AnnIvfAttributesOf(Page page, const AnnIvfShape *shape, int i)
{
	return AnnPageRaw(page) + shape->attributes + (Size) i * shape->attribute_size;
}

/* The codes of a CODES page, entries not in use included. */
static inline AnnCodeColumns
AnnIvfColumnsOf(Page page, const AnnIvfShape *shape)
{
	const char *raw = AnnPageRaw(page);
	AnnCodeColumns columns;

	columns.count = AnnIvfListPageOf(page)->count;
	columns.add = (const AnnHalf *) (raw + shape->factors);
	columns.mul = columns.add + shape->entries;
	columns.error = columns.mul + shape->entries;
	columns.top = (const uint8 *) raw + shape->top;
	columns.fine = (const AnnHalf *) (raw + shape->fine);
	columns.low = (const uint8 *) raw + shape->low;
	return columns;
}

/* ---- ivfflat_page.c: pages, list heads, blobs, free pages ---- */

/* What a list holds now. */
typedef struct AnnIvfListCensus
{
	double		entries;
	double		spread;			/* the sum of theirs */
} AnnIvfListCensus;

extern void AnnIvfLayoutInit(AnnIvfLayout *layout, AnnCodeParams *code, Relation index);
extern void AnnIvfSpaceInit(AnnSpace *space, const AnnIvfLayout *layout);
extern AnnIvfShape AnnIvfShapeOf(const AnnIvfMetaPageData *meta, uint32 list);

extern void AnnIvfReadMeta(Relation index, AnnIvfMetaPageData *meta);
extern AnnIvfMetaPageData *AnnIvfMetaOnPage(Page page);
extern void AnnIvfCheckInUse(Relation index, BlockNumber start);
extern void AnnIvfCreateEmpty(Relation index, ForkNumber fork, AnnIvfMetaPageData *meta);

extern BlockNumber AnnIvfWriteBlob(Relation index, AnnWriteMode mode, const char *data, Size size);
extern void AnnIvfReadBlob(Relation index, AnnBufferHints *hints, BlockNumber first, Size offset, Size size, char *data);
extern BlockNumber AnnIvfWriteHeads(Relation index, AnnWriteMode mode, const AnnIvfListHead *heads, uint32 count);

extern void AnnIvfInitListPage(Page page, const AnnIvfShape *shape, uint32 chain, BlockNumber prev);
extern bool AnnIvfIsListPage(Page page, const AnnIvfShape *shape, uint32 chain);
extern void AnnIvfCheckListPage(Relation index, BlockNumber block, Page page, const AnnIvfLayout *layout,
								const AnnIvfShape *shape);
extern AnnIvfListHead AnnIvfReadHead(Relation index, const AnnIvfMetaPageData *meta, uint32 list);
extern AnnIvfListHead *AnnIvfReadHeads(Relation index, const AnnIvfMetaPageData *meta);
extern void AnnIvfCountListPage(const AnnIvfMetaPageData *meta, const AnnIvfShape *shape, Page page,
								AnnIvfListCensus *census);
extern void AnnIvfSetInsertPage(Relation index, const AnnIvfMetaPageData *meta, uint32 list, BlockNumber block);
extern Buffer AnnIvfAllocPage(Relation index, AnnPageEdit *edit, Page *page, Buffer *extra);
extern void AnnIvfFreePage(AnnPageEdit *edit, Page page, BlockNumber block, Buffer meta_buffer);

/* Pages of a blob of so many bytes. */
static inline BlockNumber
AnnIvfBlobPages(Size size)
{
	return (BlockNumber) ((size + ANN_PAGE_USABLE - 1) / ANN_PAGE_USABLE);
}

/* The VECTORS page and slot of an entry, given its CODES page. */
static inline int
AnnIvfVectorBlockIndex(const AnnIvfLayout *layout, int entry)
{
	return layout->vectors_per_page > 0 ? entry / layout->vectors_per_page : entry * layout->pages_per_vector;
}

static inline int
AnnIvfVectorSlot(const AnnIvfLayout *layout, int entry)
{
	return layout->vectors_per_page > 0 ? entry % layout->vectors_per_page : 0;
}

/* ---- ivfflat_centroid.c: the centroid table in memory, and what is near a vector ---- */

typedef struct AnnIvfCentroids
{
	int			count;
	int			dim;
	bool		ip;				/* inner product decides, not the Euclidean distance */
	AnnCodeParams code;			/* dim 0: no codes */
	const float *mean;			/* float[dim], what codes are relative to */
	const char *codes;			/* AnnIvfCentroidCode at code_stride */
	Size		code_stride;
	const float *vectors;		/* float[count][dim], or NULL: they are read from the index */
	const AnnNearest *bytes;	/* of the vectors relative to the mean; or NULL */
	Relation	index;
	AnnBufferHints *hints;		/* or NULL */
	BlockNumber block;			/* their blob; invalid: one centroid, zero */
} AnnIvfCentroids;

typedef struct AnnIvfListScore
{
	float		score;			/* exact, or a lower bound */
	uint32		list;
} AnnIvfListScore;

/* Lists in order of their distance from a vector, found as far as asked for. */
typedef struct AnnIvfRanking
{
	const AnnIvfCentroids *centroids;
	const float *dense;
	float	   *keys;			/* of the lists, the larger the nearer; -infinity where one was taken */
	float		base;			/* a list's lower bound is base - factor * key */
	float		factor;
	int			nleft;			/* not taken */
	int			near_wanted;	/* of those, when some are next taken */
	int			nnear;
	int			nscored;
	AnnIvfListScore *near;		/* a heap of lower bounds, those taken: none of the others is less */
	AnnIvfListScore *scored;	/* heap of exact scores */
	uint32	   *places;			/* scratch */
	float	   *scratch;
} AnnIvfRanking;

extern Size AnnIvfCentroidCodeStride(const AnnCodeParams *code);
extern void AnnIvfCentroidParams(AnnCodeParams *code, const AnnIvfLayout *layout);
extern void AnnIvfEncodeCentroids(AnnIvfCentroids *centroids, const AnnCodeParams *code, float *mean, char *codes);
extern void AnnIvfCodeInBytes(AnnIvfCentroids *centroids, AnnNearest *bytes);
extern const float *AnnIvfCentroid(const AnnIvfCentroids *centroids, uint32 list, float *scratch);
extern void AnnIvfRank(AnnIvfRanking *ranking, const AnnIvfCentroids *centroids, const float *dense);
extern bool AnnIvfRankNext(AnnIvfRanking *ranking, AnnIvfListScore *next);
extern uint32 AnnIvfNearest(const AnnIvfCentroids *centroids, const float *dense, char *scratch);
extern Size AnnIvfNearestScratch(const AnnIvfCentroids *centroids);

/* Finds the lists of up to ANN_NEAREST_MAX_ROWS vectors together. */
typedef struct AnnIvfAssigner
{
	AnnNearest	nearest;
	const float *mean;
	AnnNearestRows rows;
	const float *vectors[ANN_NEAREST_MAX_ROWS];
	float	   *directions;		/* inner product only: of the vectors */
	void	   *scratch;
} AnnIvfAssigner;

extern Size AnnIvfAssignTableSize(const AnnIvfMetaPageData *meta);
extern void AnnIvfAssignTableFill(void *memory, const AnnIvfCentroids *centroids);
extern void AnnIvfAssignerInit(AnnIvfAssigner *assigner, const AnnIvfCentroids *centroids, const void *memory);
extern void AnnIvfAssignerSet(AnnIvfAssigner *assigner, int i, const float *dense);
extern void AnnIvfAssignerFind(AnnIvfAssigner *assigner, int count, int *lists);

/* ---- ivfflat_cache.c: what a backend remembers of an index ---- */

/* The first pages of a list as they were last read: hints. */
typedef struct AnnIvfTrail
{
	BlockNumber blocks[12];
} AnnIvfTrail;

typedef struct AnnIvfCache
{
	AnnIndexCache base;
	AnnIvfMetaPageData meta;	/* as of AnnIvfCacheGet */
	AnnSpace	space;
	AnnIvfCentroids centroids;
	AnnNearest	centroid_bytes;
	AnnIvfListHead *heads;		/* as of the list table's making: insert and what follows may be old */
	AnnIvfTrail *trails;		/* one for each list */
	AnnBufferHints hints;
} AnnIvfCache;

extern bool AnnIvfIsReadable(Relation index);
extern AnnIvfCache *AnnIvfCacheGet(Relation index);
extern AnnIvfCache *AnnIvfCacheRecall(Relation index);

/* ---- ivfflat_value.c: an SQL value as an entry ---- */

typedef struct AnnIvfValue
{
	uint32		list;
	const char *stored;			/* NULL for lists without vectors */
	AnnCodeFactors factors;
	AnnCodeFactors top_factors; /* of the code's uppermost plane */
	uint8	   *code;			/* NULL without codes */
	const char *attributes;		/* attribute area; NULL without included columns */
	AnnIvfKey	key;			/* theirs; 0 where entries have none */
} AnnIvfValue;

typedef struct AnnIvfFormer
{
	const AnnIvfMetaPageData *meta;
	const AnnSpace *space;
	const AnnIvfCentroids *centroids;
} AnnIvfFormer;

extern float *AnnIvfDense(const AnnSpace *space, const AnnPoint *point);
extern void AnnIvfDecode(const AnnSpace *space, const char *stored, float *dense);
extern void AnnIvfFormInList(const AnnIvfFormer *former, uint32 list, float *dense, const char *stored,
							 AnnIvfValue *result);
extern void AnnIvfFormPlaced(const AnnIvfFormer *former, float *dense, const char *stored, AnnIvfValue *result);
extern AnnIvfKey AnnIvfKeyOf(const AnnIvfLayout *layout, AnnAttributes *attributes, const char *area);
extern void AnnIvfFormValue(const AnnIvfFormer *former, AnnAttributes *attributes, const Datum *values,
							const bool *isnull, AnnIvfValue *result);
extern void AnnIvfSetEntry(const AnnIvfMetaPageData *meta, const AnnIvfShape *shape, Page page, int entry,
						   const ItemPointerData *tid, const AnnIvfValue *value);
extern void AnnIvfClearEntry(const AnnIvfShape *shape, Page page, int entry);
extern void AnnIvfTopFactors(const AnnIvfMetaPageData *meta, const AnnIvfShape *shape, Page page, int entry,
							 AnnCodeFactors *factors);

/* ---- ivfflat_kmeans.c ---- */

extern Size AnnIvfKmeansPointSize(int dim);
extern Size AnnIvfKmeansClusterSize(int dim);
extern int	AnnIvfKmeans(const float *points, int npoints, int dim, int k, bool spherical, float *centroids,
						 int *assignment);

/* ---- ivfflat_train.c: centroids from a sample ---- */

/* Vectors of the index space; under inner product normalised, with the norms beside them. */
typedef struct AnnIvfSample
{
	AnnSpace	space;
	int			dim;
	float	   *points;
	float	   *norms;			/* inner product only */
	int			count;
	int			capacity;
} AnnIvfSample;

extern int	AnnIvfChooseLists(Relation index, const AnnIvfLayout *layout, double rows);
extern void AnnIvfSampleInit(AnnIvfSample *sample, const AnnIvfLayout *layout, double rows, int lists);
extern float *AnnIvfSampleQueries(const AnnIvfSample *sample, int *count);
extern bool AnnIvfSampleTake(AnnIvfSample *sample, const float *dense, int place);
extern char *AnnIvfTrain(const AnnIvfSample *sample, AnnIvfMetaPageData *meta, int lists, double rows);
extern Size AnnIvfCentroidsSize(const AnnIvfMetaPageData *meta);
extern Size AnnIvfCentroidCodesSize(const AnnIvfMetaPageData *meta);
extern void AnnIvfOpenCentroids(AnnIvfCentroids *centroids, const AnnIvfMetaPageData *meta, const char *data);

/* ---- ivfflat_build.c ---- */

extern IndexBuildResult *ann_ivfflat_build(Relation heap, Relation index, IndexInfo *info);
extern void ann_ivfflat_buildempty(Relation index);
extern char *AnnIvfBuildPhaseName(int64 phase);

/* ---- ivfflat_insert.c ---- */

extern bool ann_ivfflat_insert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap,
							   IndexUniqueCheck check_unique, bool index_unchanged, IndexInfo *info);

extern void AnnIvfInsertEntry(Relation index, const AnnIvfMetaPageData *meta, ItemPointer tid, const AnnIvfValue *value);

/* ---- ivfflat_scan.c ---- */

extern IndexScanDesc ann_ivfflat_beginscan(Relation index, int nkeys, int norderbys);

/* ---- ivfflat_calibrate.c ---- */

extern void AnnIvfCalibrate(Relation index, const float *queries, int count, AnnWriteMode mode);

/* ---- ivfflat_vacuum.c ---- */

extern IndexBulkDeleteResult *ann_ivfflat_bulkdelete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats,
													 IndexBulkDeleteCallback callback, void *callback_state);
extern IndexBulkDeleteResult *ann_ivfflat_vacuumcleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats);

/* ---- ivfflat_relist.c ---- */

typedef enum AnnIvfVerdict
{
	ANN_IVF_GOOD,
	ANN_IVF_LARGE,
	ANN_IVF_SMALL,
	ANN_IVF_DRIFTED
} AnnIvfVerdict;

extern void AnnIvfRelist(IndexVacuumInfo *info, double tuples, BlockNumber heap_blocks, double removed);
extern AnnIvfVerdict AnnIvfJudgeList(const AnnIvfListHead *head, const AnnIvfListCensus *census, double mean);
extern uint32 *AnnIvfChainsInUse(Relation index, const AnnIvfMetaPageData *meta);
extern bool AnnIvfChainIsAmong(const uint32 *chains, uint32 count, uint32 chain);

/* ---- ivfflat_check.c ---- */

extern void AnnIvfCheckIndex(AnnCheck *check);
extern AnnCheckValue AnnIvfCheckValue(Relation index, const Datum *values, const bool *isnull);
extern void AnnIvfDescribeIndex(AnnInfo *info);

#endif							/* ANN_IVFFLAT_H */
