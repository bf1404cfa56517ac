/*
 * hnsw_prune.c
 *	  Which edge a full row gives up for a new one.
 *
 * The whole rule is applied to all edges and the new one, and the furthest
 * occluded edge goes; replacing the longest edge, or only those that the new one
 * occludes, ruins the graph (DESIGN, fact 15).
 */
#include "postgres.h"

#include "hnsw/hnsw_prune.h"

/*
 * n edges with their lengths; between2 is asked for the pairs that the rule
 * compares.  Returns the edge to drop: the furthest that a kept nearer one
 * occludes, or the furthest of all.
 */
int
AnnHnswPrune(float alpha, int n, const float *lengths, AnnHnswBetween2 between2, const void *arg)
{
	int			order[256];
	int			kept[256];
	int			nkept = 0;
	int			victim;

	Assert(n >= 1 && n <= lengthof(order));
	order[0] = 0;
	for (int i = 1; i < n; i++)
	{
		int			j = i;

		for (; j > 0 && lengths[order[j - 1]] > lengths[i]; j--)
			order[j] = order[j - 1];
		order[j] = i;
	}
	victim = order[n - 1];
	for (int i = 0; i < n; i++)
	{
		int			edge = order[i];
		bool		occluded = false;

		for (int j = 0; j < nkept && !occluded; j++)
			occluded = AnnHnswOccludes(alpha, between2(arg, edge, kept[j]), lengths[edge]);
		if (occluded)
			victim = edge;		/* a later one is further */
		else
			kept[nkept++] = edge;
	}
	return victim;
}

typedef struct CodedEdges
{
	const AnnCodeParams *code;
	Size		probe_size;
	char	   *probes;
} CodedEdges;

static float
codedBetween2(const void *arg, int i, int j)
{
	const CodedEdges *edges = (const CodedEdges *) arg;

	return AnnCodeProbeDistance2(edges->code, (AnnCodeProbe *) (edges->probes + i * edges->probe_size),
								 (AnnCodeProbe *) (edges->probes + j * edges->probe_size));
}

/*
 * The slot of a full row that an edge of this length to a row of this code takes,
 * or -1 if the new edge is the one to drop.  The distance between two ends is
 * that of their codes.  The row's page is locked.
 */
int
AnnHnswPruneCoded(const AnnHnswSpace *space, AnnHnswRowHeader *row, float length,
				  const AnnHalf *halves, const uint8 *code)
{
	const AnnHnswLayout *layout = &space->layout;
	int			n = row->nedges + 1;
	float		lengths[256];
	int			victim;
	CodedEdges	edges;

	edges.code = &space->code;
	edges.probe_size = AnnCodeProbeSize(&space->code);
	edges.probes = palloc(mul_size(edges.probe_size, n));
	for (int i = 0; i < n; i++)
	{
		AnnHnswSlot *slot = i < n - 1 ? AnnHnswCodedSlot(layout, row, i) : NULL;
		AnnHalf		h[3] = {0};
		AnnCodeFactors f;
		const uint8 *c;

		if (slot == NULL)
		{
			lengths[i] = length;
			memcpy(h, halves, 2 * sizeof(AnnHalf));
			c = code;
		}
		else
		{
			ann_kernels.f16_to_f32(&slot->length, &lengths[i], 1);
			h[0] = slot->add;
			h[1] = slot->mul;
			c = AnnHnswSlotCode(layout, slot);
		}
		AnnFactorsFromHalf(&space->code, h, &f);
		AnnCodeProbeInit((AnnCodeProbe *) (edges.probes + i * edges.probe_size), &space->code, c,
						 AnnCodeNorm(&space->code, c, &f));
	}
	victim = AnnHnswPrune(space->alpha, n, lengths, codedBetween2, &edges);
	pfree(edges.probes);
	return victim == n - 1 ? -1 : victim;
}
