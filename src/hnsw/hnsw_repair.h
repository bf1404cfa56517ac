/*
 * hnsw_repair.h
 *	  Repair of the graph around rows that are to be freed.
 */
#ifndef ANN_HNSW_REPAIR_H
#define ANN_HNSW_REPAIR_H

#include "hnsw/hnsw_search.h"

typedef struct AnnHnswRepair
{
	Relation	index;
	AnnWriteMode mode;
	BufferAccessStrategy strategy;
	const AnnHnswSpace *space;
	const AnnHnswRowSet *deleting;
	AnnHnswRowSet live;
	AnnHnswRowSet linked;		/* rows that an edge of a live row names */
	AnnHnswRowSet twice;		/* rows that two name */
	AnnHnswRowSet kept;			/* rows that a keeper of a live row names */
	struct RepairWork *work;	/* scratch of hnsw_repair.c */
} AnnHnswRepair;

extern void AnnHnswSpread(Relation index, BufferAccessStrategy strategy, const AnnHnswLayout *layout,
						  const AnnHnswRowSet *present, AnnHnswRowSet *reached, AnnHnswRowSet *expanded);
extern void AnnHnswKeepRows(AnnHnswRepair *repair, MemoryContext scratch);
extern void AnnHnswRepairGraph(AnnHnswRepair *repair, BlockNumber nblocks);

#endif							/* ANN_HNSW_REPAIR_H */
