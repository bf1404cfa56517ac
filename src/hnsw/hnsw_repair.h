/*
 * hnsw_repair.h
 *	  Sets of rows, and the repair of the graph around rows that are to be freed.
 */
#ifndef ANN_HNSW_REPAIR_H
#define ANN_HNSW_REPAIR_H

#include "hnsw/hnsw_search.h"

/*
 * A set of row ids below nrows: one bit each.  Ids above are never in it.
 */
typedef struct AnnHnswRowSet
{
	uint64		nrows;
	uint64	   *words;
} AnnHnswRowSet;

static inline bool
AnnHnswRowSetHas(const AnnHnswRowSet *set, AnnRowId row)
{
	return row < set->nrows && (set->words[row / 64] >> row % 64 & 1) != 0;
}

static inline void
AnnHnswRowSetAdd(AnnHnswRowSet *set, AnnRowId row)
{
	if (row < set->nrows)
		set->words[row / 64] |= UINT64CONST(1) << row % 64;
}

extern void AnnHnswRowSetInit(AnnHnswRowSet *set, uint64 nrows);
extern void AnnHnswRowSetClear(AnnHnswRowSet *set);
extern void AnnHnswRowSetFree(AnnHnswRowSet *set);
extern bool AnnHnswRowSetNext(const AnnHnswRowSet *set, AnnRowId *row);

typedef struct AnnHnswRepair
{
	Relation	index;
	BufferAccessStrategy strategy;
	const AnnHnswSpace *space;
	const AnnHnswRowSet *deleting;
	AnnHnswRowSet *linked;		/* result: rows that an edge of a live row names */
	struct RepairWork *work;	/* scratch of hnsw_repair.c */
} AnnHnswRepair;

extern void AnnHnswRepairGraph(AnnHnswRepair *repair, BlockNumber nblocks);

#endif							/* ANN_HNSW_REPAIR_H */
