/*
 * hnsw_prune.h
 *	  The relative neighbourhood rule, by exact lengths and from codes.
 */
#ifndef ANN_HNSW_PRUNE_H
#define ANN_HNSW_PRUNE_H

#include "hnsw/hnsw.h"

/*
 * Whether an edge of this length is not needed beside a nearer neighbour whose
 * squared distance from the edge's end is between2 (Subramanya et al. 2019,
 * algorithm 2, with alpha on squared distance).
 */
static inline bool
AnnHnswOccludes(float alpha, float between2, float length)
{
	return alpha * between2 < length * length;
}

/* Squared distance of the ends of edges i and j. */
typedef float (*AnnHnswBetween2) (const void *arg, int i, int j);

extern int	AnnHnswPrune(float alpha, int n, const float *lengths, AnnHnswBetween2 between2, const void *arg);
extern int	AnnHnswPruneCoded(const AnnHnswSpace *space, AnnHnswRowHeader *row, float length,
							  const AnnHalf *halves, const uint8 *code);

#endif							/* ANN_HNSW_PRUNE_H */
