/*
 * hnsw_prune.c
 *	  Which edge a row gives up for a new one.
 *
 * The relative neighbourhood rule is kept up over all edges of a row: each says
 * whether a nearer one occludes it.  So only the new edge has to be compared with
 * the others, and of them only with those that are not occluded.  A full row drops
 * the furthest occluded edge; replacing the longest, or only those that the new
 * one occludes, ruins the graph (DESIGN, fact 15).  Keepers stay (README).
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "hnsw/hnsw_prune.h"

/*
 * Fills *placement, but for `keeper`, which is given, for a new edge of this length; the
 * row is as it is on its page.
 */
void
AnnHnswPlaceEdge(const AnnHnswSpace *space, AnnHnswRowHeader *row, float length,
				 AnnHnswDistance2 distance2, const void *arg, AnnHnswPlacement *placement)
{
	const AnnHnswLayout *layout = &space->layout;
	int			n = row->nedges;
	float		lengths[256];
	bool		occluded[256];
	bool		keeper[256];
	int			furthest = -1;
	int			victim = -1;

	AnnHnswEdgeLengths(layout, row, lengths, occluded);
	placement->slot = n;
	placement->occluded = false;
	placement->nnewly = 0;
	for (int i = 0; i < n && !placement->occluded; i++)
		if (!occluded[i] && lengths[i] <= length)
			placement->occluded = AnnHnswOccludes(space->alpha, distance2(arg, i), length);
	for (int i = 0; i < n && !placement->occluded; i++)
		if (!occluded[i] && lengths[i] > length && AnnHnswOccludes(space->alpha, distance2(arg, i), lengths[i]))
		{
			occluded[i] = true;
			placement->newly[placement->nnewly++] = (uint8) i;
		}
	if (n < layout->slots)
		return;

	for (int i = 0; i < n; i++)
	{
		keeper[i] = AnnHnswIsKeeper(layout, row, i);
		if (keeper[i])
			continue;
		if (furthest < 0 || lengths[i] > lengths[furthest])
			furthest = i;
		if (occluded[i] && (victim < 0 || lengths[i] > lengths[victim]))
			victim = i;
	}
	if (victim < 0 && (!placement->occluded || placement->keeper))
		victim = furthest;
	/* Of equal ones any may go. */
	if (victim >= 0 && placement->occluded && lengths[victim] == length && pg_prng_bool(&pg_global_prng_state))
	{
		int			equals = 0;

		for (int i = 0; i < n; i++)
			if (occluded[i] && !keeper[i] && lengths[i] == length &&
				pg_prng_uint64_range(&pg_global_prng_state, 0, equals++) == 0)
				victim = i;
	}
	else if (victim < 0 ||
			 (!placement->keeper && (placement->occluded || !occluded[victim]) && lengths[victim] <= length))
		victim = -1;
	placement->slot = victim;
}

/*
 * Writes an edge into a row, where `placement` says.  The row's page is locked
 * exclusively.
 */
void
AnnHnswPutEdge(Relation index, AnnWriteMode mode, const AnnHnswLayout *layout, Buffer buffer,
			   AnnHnswRowHeader *row, const AnnHnswPlacement *placement, const AnnHnswNewEdge *new)
{
	char	   *slots = AnnHnswRowSlots(layout, row);
	char	   *slot = palloc(layout->slot_size);
	uint8		nedges = Max(row->nedges, placement->slot + 1);
	AnnPagePatch patches[ANN_PATCH_MAX];
	uint32		bits[256];
	int			n = 0;

	AnnHnswFormSlot(layout, slot, new->to, placement->occluded ? -new->length : new->length, new->hint, new->halves,
					new->code);
	if (placement->keeper)
		AnnHnswMarkKeeper(layout, slot);
	patches[n++] = (AnnPagePatch) {slots + (Size) placement->slot * layout->slot_size, slot, layout->slot_size};
	if (nedges > row->nedges)
		patches[n++] = (AnnPagePatch) {&row->nedges, &nedges, sizeof(nedges)};
	for (int i = 0; i < placement->nnewly; i++)
	{
		int			edge = placement->newly[i];

		if (edge == placement->slot)
			continue;
		bits[i] = AnnHnswLengthBits(layout, row, edge) |
			(AnnHnswHasCodes(layout) ? ANN_HNSW_OCCLUDED : (uint32) 0x80000000);
		patches[n++] = AnnHnswPatchLength(layout, row, edge, &bits[i]);
	}
	AnnPageApply(index, mode, buffer, patches, n);
	pfree(slot);
}

/* The number of the edge to that row, or -1. */
int
AnnHnswFindEdge(const AnnHnswLayout *layout, AnnHnswRowHeader *row, AnnRowId to)
{
	for (int i = 0; i < row->nedges; i++)
		if (AnnHnswEdge(layout, row, i) == to)
			return i;
	return -1;
}

/*
 * The slot in which a row can take one more edge without regard to the rule: a free one, or
 * that of the furthest edge that is no keeper; -1 if there is none.
 */
int
AnnHnswSpareEdge(const AnnHnswLayout *layout, AnnHnswRowHeader *row)
{
	int			spare = -1;

	if (row->nedges < layout->slots)
		return row->nedges;
	for (int i = 0; i < row->nedges; i++)
		if (!AnnHnswIsKeeper(layout, row, i) &&
			(spare < 0 || AnnHnswEdgeLength(layout, row, i) > AnnHnswEdgeLength(layout, row, spare)))
			spare = i;
	return spare;
}

/* The probe of a code with its factors as halves. */
void
AnnHnswProbeInit(const AnnHnswSpace *space, AnnCodeProbe *probe, const AnnHalf *factors, const uint8 *code)
{
	AnnHalf		halves[3] = {factors[0], factors[1], 0};
	AnnCodeFactors f;

	AnnFactorsFromHalf(&space->code, halves, &f);
	AnnCodeProbeInit(probe, &space->code, code, AnnCodeNorm(&space->code, code, &f));
}

static void
probeEdge(const AnnHnswSpace *space, AnnHnswRowHeader *row, int i, AnnCodeProbe *probe)
{
	AnnHnswSlot *slot = AnnHnswCodedSlot(&space->layout, row, i);
	AnnHalf		factors[2] = {slot->add, slot->mul};

	AnnHnswProbeInit(space, probe, factors, AnnHnswSlotCode(&space->layout, slot));
}

typedef struct CodedEdges
{
	const AnnHnswSpace *space;
	AnnHnswRowHeader *row;
	const AnnCodeProbe *to;
	AnnCodeProbe *scratch;
} CodedEdges;

static float
codedDistance2(const void *arg, int i)
{
	const CodedEdges *edges = (const CodedEdges *) arg;

	probeEdge(edges->space, edges->row, i, edges->scratch);
	return AnnCodeProbeDistance2(&edges->space->code, edges->scratch, edges->to);
}

/*
 * The same where rows have codes: `probe` is that of the new edge's end.
 */
void
AnnHnswPlaceCodedEdge(const AnnHnswSpace *space, AnnHnswRowHeader *row, float length,
					  const AnnCodeProbe *probe, AnnHnswPlacement *placement)
{
	CodedEdges	edges = {space, row, probe, palloc(AnnCodeProbeSize(&space->code))};

	AnnHnswPlaceEdge(space, row, length, codedDistance2, &edges, placement);
	pfree(edges.scratch);
}

/*
 * Applies the rule to all edges of a row with codes and marks those that are
 * occluded.  The row is on a page that an edit has registered; probes has room for
 * the probe of each slot.
 */
void
AnnHnswMarkOccluded(const AnnHnswSpace *space, AnnHnswRowHeader *row, char *probes)
{
	const AnnHnswLayout *layout = &space->layout;
	Size		size = AnnCodeProbeSize(&space->code);
	int			n = row->nedges;
	float		lengths[256];
	bool		occluded[256];
	int			order[256];
	int			kept[256];
	int			nkept = 0;

	AnnHnswEdgeLengths(layout, row, lengths, occluded);
	for (int i = 0; i < n; i++)
	{
		int			j = i;

		probeEdge(space, row, i, (AnnCodeProbe *) (probes + i * size));
		for (; j > 0 && lengths[order[j - 1]] > lengths[i]; j--)
			order[j] = order[j - 1];
		order[j] = i;
	}
	for (int i = 0; i < n; i++)
	{
		int			edge = order[i];
		bool		is = false;

		for (int j = 0; j < nkept && !is; j++)
			is = AnnHnswOccludes(space->alpha,
								 AnnCodeProbeDistance2(&space->code, (AnnCodeProbe *) (probes + edge * size),
													   (AnnCodeProbe *) (probes + kept[j] * size)),
								 lengths[edge]);
		if (!is)
			kept[nkept++] = edge;
		AnnHnswSetOccluded(layout, row, edge, is);
	}
}
