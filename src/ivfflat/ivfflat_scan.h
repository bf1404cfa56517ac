/*
 * ivfflat_scan.h
 *	  The state of an index scan, and its parts: README, section Scan.
 */
#ifndef ANN_IVFFLAT_SCAN_H
#define ANN_IVFFLAT_SCAN_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "utils/tuplesort.h"

#include "ivfflat/ivfflat.h"
#include "space/scan.h"

/* Neighbours for which the number of lists to be read was found by the build. */
#define ANN_IVF_CALIBRATED_ROWS 10

/* Entries that are looked at for a row that is wanted, at least, before lists are left out. */
#define ANN_IVF_LEAST_PER_WANTED 10.0

/* Lists that are known before they are read, so that memory can be asked for; in batches. */
#define ANN_IVF_BATCH 4
#define ANN_IVF_AHEAD (2 * ANN_IVF_BATCH)

/* Pending entries whose vectors are asked for together. */
#define ANN_IVF_VECTORS_AHEAD 16

typedef enum AnnIvfScanPhase
{
	ANN_IVF_SCAN_LISTS,	/* lists in order of their centroids, rows by distance */
	ANN_IVF_SCAN_REST,		/* everything left, sorted */
	ANN_IVF_SCAN_PLAIN,	/* rows without a distance, page by page */
	ANN_IVF_SCAN_DONE
} AnnIvfScanPhase;

/*
 * An entry whose vector has not been read: as far as its code tells.  One of the rest is known by
 * its place alone: heap_offset is invalid, the block the CODES page's, and heap_block its chain.
 */
typedef struct AnnIvfPending
{
	float		lower;			/* bound of its score */
	BlockNumber block;			/* VECTORS page; CODES page where a vector takes several */
	BlockNumber heap_block;
	uint16		heap_offset;
	uint16		slot;			/* on that page; entry on the CODES page */
} AnnIvfPending;

/* Entries of a CODES page that are among the rest. */
typedef struct AnnIvfRun
{
	BlockNumber block;
	uint32		chain;
	int			first;			/* place of the bound of entry 0 */
} AnnIvfRun;

/* A row whose distance is known. */
typedef struct AnnIvfFound
{
	AnnInterval interval;
	ItemPointerData tid;
} AnnIvfFound;

/* The arrays of a scan: the backend's, kept from scan to scan, or a scan's own. */
typedef struct AnnIvfArrays
{
	MemoryContext context;
	struct ArraysOwner *owner;	/* who has the backend's arrays */
	AnnIvfPending *pending;		/* once they are ordered a heap by lower */
	bool		ordered;
	int			npending;
	int			pending_capacity;
	float	   *rest;			/* bounds of entries by the uppermost planes of their codes; infinity: not here */
	int			nrest;
	int			rest_capacity;
	int			nleft;			/* of them, those that are here */
	float		rest_least;		/* none of those has a smaller bound */
	int			near_wanted;	/* of those, to become pending when they are next asked for */
	AnnIvfRun  *runs;			/* their pages, in the same order */
	int			nruns;
	int			runs_capacity;
	AnnIvfFound *results;		/* heap by lo */
	int			nresults;
	int			results_capacity;
	AnnIvfFound *late;			/* kept back for the end of the scan */
	int			nlate;
	int			late_capacity;
	BlockNumber *seen;			/* pages of the list at hand */
	int			nseen;
	int			seen_capacity;
} AnnIvfArrays;

/*
 * How far lists are to be read, other than by their number: for a filter, and for
 * more rows than that number is meant for (README, Filtered).
 */
typedef struct AnnIvfReach
{
	bool		learning;		/* among the first lists */
	float		nearest[ANN_IVF_CALIBRATED_ROWS];	/* best estimates of the first lists' entries: a heap */
	int			nnearest;
	float	   *wanted;			/* best estimates of those that count: a heap */
	int			wanted_count;
	int			nwanted;
	double		radius2;		/* sum of squared distances of entries from their centroids */
	double		nradius;
	uint64		ncompared;		/* entries of the first lists */
	float	   *centroids;		/* scores of their centroids */
	uint64	   *lengths;		/* entries */
	int			nlists;
	double		share;			/* largest share of entries that count, of a list */
	double		scale;			/* of depths: what makes of them multiples of a standard deviation; 0: not known */
	double		tolerated;		/* share of its rows for which a list is not read */
	bool		calibrated;		/* the setting goes as far as what the index's reach was found with */
} AnnIvfReach;

typedef struct AnnIvfCalibration AnnIvfCalibration;
typedef struct AnnIvfBatch AnnIvfBatch;

typedef struct AnnIvfScan
{
	AnnIndexScan base;
	AnnIvfScanPhase phase;
	AnnIvfMetaPageData meta;
	AnnIvfCache *cache;			/* valid during a call */
	AnnQuery   *query;
	float	   *dense;			/* query in the index space */
	float	   *centroid;		/* scratch, float[dim] */
	float	   *residual;		/* likewise */
	AnnQueryCode *code;			/* NULL without codes */
	bool		coded;			/* that of the list at hand is made */
	AnnIvfBatch *batch;			/* scratch for the entries of a page */
	bool		has_keys;		/* every row that counts has one of these; of the first included columns */
	AnnIvfKey  *keys;
	int			nkeys;
	float	   *best;			/* best estimates, with their errors, of entries that count for sure: a heap */
	int			nbest;
	int			best_wanted;
	bool		is_sure;		/* the vector at hand is of a row that counts for sure */
	char	   *vector;			/* scratch for a vector of several pages */
	char	   *page;			/* copy of a CODES page */
	AnnIvfCentroids centroids;	/* vectors to be read from the index */
	AnnIvfRanking ranking;
	int			probes;
	int			max_probes;
	uint64		nscanned;		/* entries that count, of the lists that were read */
	uint64		nreturned;
	double		wanted_hi;		/* upper bound of the last of the rows that the caller wants */
	AnnIvfListScore ahead[ANN_IVF_AHEAD];	/* the next ones, taken from the ranking and not read yet */
	int			nahead;
	AnnIvfReach *reach;			/* while it is being found out how far to read */
	AnnIvfCalibration *calibration;	/* instead of a query's scan */
	AnnIvfArrays *arrays;

	/* Pending entries that exceed work_mem, in order once all lists of a batch are read */
	Tuplesortstate *spill;
	TupleTableSlot *spill_slot;
	AnnIvfPending spilled;		/* the first of them */
	bool		has_spilled;

	/* ANN_IVF_SCAN_PLAIN */
	bool		all_null;		/* the query is NULL */
	uint32		plain_list;
	BlockNumber plain_page;
	BlockNumber plain_prev;
	int			plain_restarts;	/* in the list at hand */
} AnnIvfScan;

/* ---- ivfflat_pending.c: the arrays of entries and rows at hand ---- */

extern AnnIvfArrays *AnnIvfAcquireArrays(void);
extern void AnnIvfReleaseArrays(AnnIvfArrays *arrays);
extern void AnnIvfGrowArray(AnnIvfArrays *arrays, void **array, int used, int more, int *capacity, Size element);
extern void AnnIvfForgetEntries(AnnIvfArrays *arrays);
extern void AnnIvfMixPending(AnnIvfArrays *arrays);
extern void AnnIvfAddRest(AnnIvfArrays *arrays, BlockNumber block, uint32 chain, int count);
extern AnnIvfPending AnnIvfPopPending(AnnIvfArrays *arrays);
extern void AnnIvfPushFound(AnnIvfArrays *arrays, const AnnIvfFound *result);
extern AnnIvfFound AnnIvfPopFound(AnnIvfArrays *arrays);
extern bool AnnIvfScanIsFull(const AnnIvfScan *state);
extern void AnnIvfSpillPending(AnnIvfScan *state);
extern void AnnIvfNextSpilled(AnnIvfScan *state);
extern void AnnIvfEndSpill(AnnIvfScan *state);
extern const AnnIvfPending *AnnIvfPeekPending(AnnIvfScan *state);
extern AnnIvfPending AnnIvfTakePending(AnnIvfScan *state);

/* ---- ivfflat_lists.c: reading vectors and lists ---- */

extern AnnIvfBatch *AnnIvfBatchCreate(const AnnIvfLayout *layout);
extern void AnnIvfSetKeys(AnnIvfScan *state);
extern void AnnIvfReadVector(AnnIvfScan *state, Relation index, const AnnIvfPending *pending);
extern void AnnIvfPrefetchVectors(const AnnIvfScan *state);
extern bool AnnIvfWasSeen(const AnnIvfArrays *arrays, BlockNumber block);
extern _Noreturn void AnnIvfListIsLost(const AnnIvfScan *state, Relation index, BlockNumber block);
extern void AnnIvfUseCache(AnnIvfScan *state, AnnIvfCache *cache);
extern AnnIvfListHead AnnIvfHeadForScan(const AnnIvfScan *state, Relation index, uint32 list);
extern bool AnnIvfScanHasAll(const AnnIvfScan *state);
extern bool AnnIvfScanWorkIsDone(const AnnIvfScan *state);
extern bool AnnIvfPeekList(AnnIvfScan *state);
extern void AnnIvfReadNextList(AnnIvfScan *state, Relation index);
extern void AnnIvfFinishReading(AnnIvfScan *state);
extern bool AnnIvfReadLists(AnnIvfScan *state, Relation index, int n);

/* ---- ivfflat_reach.c: how far a filtered scan reads ---- */

extern void AnnIvfLearnRadius(AnnIvfScan *state, Page page, const AnnIvfShape *shape);
extern void AnnIvfLearnReach(AnnIvfScan *state, float estimate, bool is_sure);
extern float AnnIvfReachLimit(const AnnIvfScan *state);
extern float AnnIvfAngle(const AnnIvfScan *state, const AnnIvfListScore *list, float score);
extern bool AnnIvfReadFirstLists(AnnIvfScan *state, Relation index);

/* ---- ivfflat_calibrate.c ---- */

extern void AnnIvfNoteNeighbour(AnnIvfScan *state, const char *stored, const ItemPointerData *tid);
extern float AnnIvfCalibrationLimit(const AnnIvfScan *state);
extern void AnnIvfLearnEstimate(AnnIvfScan *state, const ItemPointerData *tid, float estimate);

/* ---- ivfflat_scan.c ---- */

extern void AnnIvfStartLists(AnnIvfScan *state);

#endif							/* ANN_IVFFLAT_SCAN_H */
