/*
 * hnsw_prune.h
 *	  The relative neighbourhood rule, and where it puts a new edge.
 */
#ifndef ANN_HNSW_PRUNE_H
#define ANN_HNSW_PRUNE_H

#include "hnsw/hnsw.h"

/*
 * Whether an edge of this squared length is not needed beside a nearer neighbour
 * whose squared distance from the edge's end is between2 (Subramanya et al. 2019,
 * algorithm 2, with alpha on squared distance).  Of ends that cannot be told apart
 * one is enough, however near: equal vectors would take all slots.
 */
static inline bool
AnnHnswOccludes2(float alpha, float between2, float length2)
{
	return between2 <= 0 || alpha * between2 < length2;
}

/* The same by the edge's length. */
static inline bool
AnnHnswOccludes(float alpha, float between2, float length)
{
	return AnnHnswOccludes2(alpha, between2, length * length);
}

/* What becomes of a row that gets a new edge. */
typedef struct AnnHnswPlacement
{
	bool		keeper;			/* given: the new edge is to be one */
	int			slot;			/* of the new edge; -1: it is the one to drop, or all others are keepers */
	bool		occluded;		/* the new edge */
	int			nnewly;
	uint8		newly[256];		/* older edges that it occludes */
} AnnHnswPlacement;

/* A new edge of a row. */
typedef struct AnnHnswNewEdge
{
	AnnRowId	to;
	float		length;
	const ItemPointerData *hint;
	const AnnHalf *halves;		/* with codes */
	const uint8 *code;
	bool		keeper;
} AnnHnswNewEdge;

/* Squared distance of the end of edge i from that of the new one. */
typedef float (*AnnHnswDistance2) (const void *arg, int i);

extern void AnnHnswPlaceEdge(const AnnHnswSpace *space, AnnHnswRowHeader *row, float length,
							 AnnHnswDistance2 distance2, const void *arg, AnnHnswPlacement *placement);
extern void AnnHnswPlaceCodedEdge(const AnnHnswSpace *space, AnnHnswRowHeader *row, float length,
								  const AnnCodeProbe *probe, AnnHnswPlacement *placement);
extern void AnnHnswPutEdge(Relation index, AnnWriteMode mode, const AnnHnswLayout *layout, Buffer buffer,
						   AnnHnswRowHeader *row, const AnnHnswPlacement *placement, const AnnHnswNewEdge *new);
extern int	AnnHnswFindEdge(const AnnHnswLayout *layout, AnnHnswRowHeader *row, AnnRowId to);
extern int	AnnHnswSpareEdge(const AnnHnswLayout *layout, AnnHnswRowHeader *row);
extern void AnnHnswProbeInit(const AnnHnswSpace *space, AnnCodeProbe *probe, const AnnHalf *factors, const uint8 *code);
extern void AnnHnswMarkOccluded(const AnnHnswSpace *space, AnnHnswRowHeader *row, char *probes);

#endif							/* ANN_HNSW_PRUNE_H */
