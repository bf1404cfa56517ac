/*
 * hnsw_build.h
 *	  What the files of the build share.  README: Build.
 */
#ifndef ANN_HNSW_BUILD_H
#define ANN_HNSW_BUILD_H

#include "nodes/execnodes.h"
#include "storage/barrier.h"
#include "storage/spin.h"

#include "hnsw/hnsw.h"
#include "hnsw/hnsw_graph.h"

#define ANN_BUILD_MAX_PARTICIPANTS 64

/* What pg_stat_progress_create_index shows. */
typedef enum AnnBuildProgress
{
	ANN_BUILD_SAMPLE = 2,		/* 1 is the server's own */
	ANN_BUILD_GRAPH,
	ANN_BUILD_PARTITION,
	ANN_BUILD_CONNECT,
	ANN_BUILD_REFINE,
	ANN_BUILD_LINK,
	ANN_BUILD_WRITE,
	ANN_BUILD_CALIBRATE,
	ANN_BUILD_LOG
} AnnBuildProgress;

/* Pages that the index was extended by and that nobody has used. */
typedef struct AnnBuildRun
{
	BlockNumber next;
	uint32		n;
} AnnBuildRun;

#define ANN_BUILD_CALIBRATION_LAST_EF 8192

/* What a calibration counts: for each ef, how many rows it is the least to find. */
typedef struct AnnBuildCalibration
{
	pg_atomic_uint32 found[ANN_BUILD_CALIBRATION_LAST_EF + 1];
} AnnBuildCalibration;

/* What the participants of a build share. */
typedef struct AnnBuildShared
{
	Oid			heap;
	Oid			index;
	bool		concurrent;
	bool		deferred;		/* rows are connected after the scan only */
	AnnHnswMetaPageData meta;

	Barrier		barrier;
	pg_atomic_uint64 done;		/* rows of the table, then nodes, that were handled */
	pg_atomic_uint32 next;		/* next node, row to search for or page that a participant takes */
	pg_atomic_uint32 merged;	/* rows that became TIDs of equal ones after they were written */
	bool		more;			/* another partition is in the graph */
	bool		filled;			/* its nodes have their points already */
	bool		logged;			/* by page images, at the end */
	BlockNumber npages;
	uint32		ncalibrate;
	AnnRowId	calibrate[ANN_HNSW_CALIBRATION_ROWS];	/* rows to search for */
	AnnBuildCalibration calibration;

	slock_t		mutex;			/* what follows */
	double		heap_tuples;
	double		index_tuples;
	double		rows;			/* rows of the index */
	bool		broken_hot_chain;
	int			nparticipants;
	BlockNumber open_page[ANN_BUILD_MAX_PARTICIPANTS];	/* ROW pages with room */
	AnnBuildRun unused[ANN_BUILD_MAX_PARTICIPANTS];
	double		kept_sum;		/* of shares of slots, see hnsw_calibrate.c */
	uint32		kept_rows;
} AnnBuildShared;

/* A participant. */
typedef struct AnnBuild
{
	Relation	heap;
	Relation	index;
	IndexInfo  *info;
	AnnBuildShared *shared;
	AnnHnswMetaPageData meta;	/* a copy: layout and code */
	AnnHnswSpace space;
	AnnAttributes *attributes;	/* included columns */
	AnnGraph   *graph;
	bool		parallel;
	bool		leader;
	MemoryContext tuple_context;	/* reset after each row */

	Buffer		row_buffer;		/* pinned ROW page with room, or invalid */
	BlockNumber row_block;
	int			row_slot;		/* next free one there */
	AnnBuildRun run;			/* its next pages */
	uint32		row_pages;		/* that it has taken */
	ItemPointerData *tids[2];	/* heap TIDs of NULLs, of vectors without a place */
	int			ntids[2];
	double		index_tuples;
	double		rows;
} AnnBuild;

/* hnsw_build.c */
extern void AnnBuildReport(const AnnBuild *build, AnnBuildProgress phase);
extern void AnnBuildWait(AnnBuild *build);
extern void AnnBuildRestart(AnnBuild *build);
extern bool AnnBuildTake(AnnBuild *build, uint32 count, uint32 batch, uint32 *start, uint32 *end);
extern bool AnnBuildTakeNodes(AnnBuild *build, uint32 count, uint32 batch, uint32 *start, uint32 *end);
extern bool AnnBuildAddToEqual(AnnBuild *build, const AnnHnswPoint *point, const ItemPointerData *tids, int ntids);
extern AnnGraphNode *AnnBuildSampleNodes(const AnnGraph *graph, uint32 *n);
extern void AnnBuildFinish(AnnBuild *build, AnnRowId *entries, uint32 nentries);
extern Size AnnBuildReadRow(AnnBuild *build, AnnRowId row, char *image, char *stored);

/* hnsw_calibrate.c */
extern void AnnHnswCalibrateBuild(AnnBuild *build, const AnnRowId *rows, int nrows);

/* hnsw_partition.c */
extern void AnnBuildPartitions(AnnBuild *build);

#endif							/* ANN_HNSW_BUILD_H */
