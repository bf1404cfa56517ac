/*
 * hnsw_graph_finish.c
 *	  When every row is in the graph in memory: links of rows that cannot be
 *	  reached, edges into the index.  README: Build.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/memutils.h"

#include "hnsw/hnsw_graph_private.h"

/* ---- reach ---- */

static inline bool
getBit(const uint8 *bits, AnnGraphNode node)
{
	return (bits[node / 8] >> (node % 8)) & 1;
}

static inline void
setBit(uint8 *bits, AnnGraphNode node)
{
	bits[node / 8] |= (uint8) (1 << (node % 8));
}

/*
 * Marks what can be reached from marked nodes; the edges that reach it become keepers.
 * Sweeps in place of a queue, which could take as much memory as the graph; each goes
 * on where the last one left new marks.
 */
static void
spread(AnnGraph *graph, uint8 *reached, uint8 *expanded, uint32 n)
{
	bool		again;

	do
	{
		again = false;
		for (AnnGraphNode node = 0; node < n; node++)
		{
			AnnGraphNode *links;
			AnnHalf    *lengths;

			if (node % 8 == 0 && reached[node / 8] == expanded[node / 8])
			{
				node += 7;
				continue;
			}
			if (!getBit(reached, node) || getBit(expanded, node))
				continue;
			setBit(expanded, node);
			links = linksOf(graph, node);
			lengths = lengthsOf(graph, links);
			for (int i = 0; i < graph->shape.slots && links[i] != ANN_GRAPH_NO_NODE; i++)
				if (!getBit(reached, links[i]))
				{
					setBit(reached, links[i]);
					lengths[i] |= ANN_HNSW_KEEPER;
					again = again || links[i] < node;
				}
		}
		CHECK_FOR_INTERRUPTS();
	} while (again);
}

/*
 * Gives `node` a keeper from one of its neighbours: one with a free slot, or in
 * place of the furthest edge that is no keeper, occluded if possible, whose target keeps other
 * edges to it if there is such a one.  True if it has one now.
 */
static bool
linkFromNeighbour(AnnGraph *graph, AnnGraphNode node, const uint8 *reached, uint8 *indegree)
{
	AnnGraphNode *links = linksOf(graph, node);
	AnnHalf    *lengths = lengthsOf(graph, links);
	int			n = countLinks(graph, links);

	for (int pass = 0; pass < 3; pass++)
		for (int i = 0; i < n; i++)
		{
			AnnGraphNode *from = linksOf(graph, links[i]);
			AnnHalf    *from_lengths = lengthsOf(graph, from);
			AnnHalf		length = lengths[i] & ~(OCCLUDED | ANN_HNSW_KEEPER);
			int			count = countLinks(graph, from);

			if (!getBit(reached, links[i]))
				continue;
			/* Linked itself since the last look, it may have the edge all along. */
			for (int at = 0; at < count; at++)
				if (from[at] == node)
				{
					from_lengths[at] |= ANN_HNSW_KEEPER;
					return true;
				}
			if (count == graph->shape.slots)
			{
				int			victim = count - 1;

				while (victim >= 0 && ((from_lengths[victim] & ANN_HNSW_KEEPER) || (pass < 2 && indegree[from[victim]] < 3) ||
									   (pass == 0 && !(from_lengths[victim] & OCCLUDED))))
					victim--;
				if (victim < 0)
					continue;
				indegree[from[victim]]--;
				removeLink(graph, from, count--, victim);
			}
			insertLink(graph, from, count, placeOfLink(from_lengths, count, length), node, length | ANN_HNSW_KEEPER);
			indegree[node]++;
			return true;
		}
	return false;
}

/*
 * Gives `node` a keeper from this one, if it is reached and has a free slot, or an edge that is
 * no keeper.  True if it has.
 */
static bool
linkFrom(AnnGraph *graph, AnnGraphNode from, AnnGraphNode node, const uint8 *reached)
{
	AnnGraphNode *links = linksOf(graph, from);
	AnnHalf    *lengths = lengthsOf(graph, links);
	AnnHalf		length;
	int			count = countLinks(graph, links);

	if (!getBit(reached, from))
		return false;
	if (count == graph->shape.slots)
	{
		int			victim = count - 1;

		while (victim >= 0 && (lengths[victim] & ANN_HNSW_KEEPER))
			victim--;
		if (victim < 0)
			return false;
		removeLink(graph, links, count--, victim);
	}
	length = AnnGraphLength(graph, from, node);
	insertLink(graph, links, count, placeOfLink(lengths, count, length), node, length | ANN_HNSW_KEEPER);
	return true;
}

static bool
linkFromEntries(AnnGraph *graph, AnnGraphNode node, const AnnGraphNode *entries, uint32 nentries, const uint8 *reached)
{
	for (uint32 i = 0; i < nentries; i++)
		if (linkFrom(graph, entries[i], node, reached))
			return true;
	return false;
}

/*
 * The same for all nodes that are left, from wherever there is room: slots are more than nodes, so
 * that there always is a reached one with an edge to spare.
 */
static void
linkRest(AnnGraph *graph, const AnnGraphNode *entries, uint32 nentries, uint8 *reached,
		 uint8 *indegree, uint32 n)
{
	AnnGraphNode spare = 0;
	AnnGraphNode stack[256];

	for (AnnGraphNode node = 0; node < n; node++)
	{
		int			top = 0;

		if (getBit(reached, node) || AnnGraphRow(graph, node) == ANN_HNSW_NO_ROW)
			continue;
		CHECK_FOR_INTERRUPTS();
		if (!linkFromNeighbour(graph, node, reached, indegree) && !linkFromEntries(graph, node, entries, nentries, reached))
			for (uint32 i = 0; i < n && !linkFrom(graph, spare, node, reached); i++)
				spare = (spare + 1) % n;
		setBit(reached, node);

		/* What it leads to; where the stack is too small that is left to the loop. */
		stack[top++] = node;
		while (top > 0)
		{
			AnnGraphNode *links = linksOf(graph, stack[--top]);
			AnnHalf    *lengths = lengthsOf(graph, links);

			for (int i = 0; i < graph->shape.slots && links[i] != ANN_GRAPH_NO_NODE && top < lengthof(stack); i++)
				if (!getBit(reached, links[i]))
				{
					setBit(reached, links[i]);
					lengths[i] |= ANN_HNSW_KEEPER;
					stack[top++] = links[i];
				}
		}
	}
}

/*
 * Makes keepers (README) of edges until each node but the first entry has one, and links
 * nodes that cannot be reached from there.  Returns how many no entry reaches.  Nobody else
 * works on the graph.  Needs a byte and a quarter for each node.
 */
uint32
AnnGraphLinkUnreachable(AnnGraph *graph, const AnnGraphNode *entries, uint32 nentries)
{
	uint32		n = AnnGraphCount(graph);
	Size		bytes = n / 8 + 1;
	uint8	   *reached = MemoryContextAllocExtended(CurrentMemoryContext, bytes, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	uint8	   *expanded = MemoryContextAllocExtended(CurrentMemoryContext, bytes, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	uint8	   *indegree = MemoryContextAllocExtended(CurrentMemoryContext, (Size) n + 1, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	uint32		unreachable = 0;

	for (AnnGraphNode node = 0; node < n; node++)
	{
		AnnGraphNode *links = linksOf(graph, node);

		for (int i = 0; i < graph->shape.slots && links[i] != ANN_GRAPH_NO_NODE; i++)
			if (indegree[links[i]] < 255)
				indegree[links[i]]++;
	}

	/* Parts that nothing joins are joined at their entries. */
	for (uint32 i = 0; i < nentries; i++)
	{
		/* A partition's row may have become a TID of an equal one. */
		if (getBit(reached, entries[i]) || AnnGraphRow(graph, entries[i]) == ANN_HNSW_NO_ROW)
			continue;
		if (i > 0 && !linkFromNeighbour(graph, entries[i], reached, indegree))
			linkFromEntries(graph, entries[i], entries, nentries, reached);
		setBit(reached, entries[i]);
		spread(graph, reached, expanded, n);
	}
	/* Those that no neighbour can link may be reached from one that was linked after them. */
	for (int round = 0; round < 3; round++)
	{
		bool		linked = false;

		for (AnnGraphNode node = 0; node < n; node++)
		{
			if (getBit(reached, node))
				continue;
			unreachable += round == 0;
			if (linkFromNeighbour(graph, node, reached, indegree))
			{
				setBit(reached, node);
				linked = true;
			}
		}
		if (!linked)
			break;
		spread(graph, reached, expanded, n);
	}
	linkRest(graph, entries, nentries, reached, indegree, n);
	pfree(reached);
	pfree(expanded);
	pfree(indegree);
	return unreachable;
}

/* ---- into the index ---- */

/*
 * Writes a node's edges into its row of the index.
 */
void
AnnGraphWriteSlots(AnnGraph *graph, AnnGraphNode node, AnnHnswRowHeader *row)
{
	const AnnGraphShape *shape = &graph->shape;
	const AnnHnswLayout *layout = &shape->layout;
	AnnGraphNode *links = linksOf(graph, node);
	AnnHalf    *lengths = lengthsOf(graph, links);
	int			n = countLinks(graph, links);
	float		length[256];
	AnnHalf		halves[256];

	for (int i = 0; i < n; i++)
	{
		prefetchPoint(graph, links[i]);
		__builtin_prefetch(tailOf(graph, linksOf(graph, links[i])));
		length[i] = copysignf(lengthOf(graph, lengths[i] & ~ANN_HNSW_KEEPER), lengths[i] & OCCLUDED ? -1 : 1);
	}
	ann_kernels.f32_to_f16(length, halves, n);
	for (int i = 0; i < n; i++)
		halves[i] = (AnnHalf) ((halves[i] & ~ANN_HNSW_KEEPER) | (lengths[i] & ANN_HNSW_KEEPER));

	row->nedges = (uint8) n;
	for (int i = 0; i < n; i++)
	{
		const char *point = pointOf(graph, links[i]);
		AnnGraphNode *to = linksOf(graph, links[i]);

		if (AnnHnswHasCodes(layout))
		{
			AnnHnswSlot *slot = AnnHnswCodedSlot(layout, row, i);

			AnnHnswSlotSetRow(slot, tailOf(graph, to)->row);
			slot->length = halves[i];
			memcpy(&slot->add, point + shape->index_factors, sizeof(AnnHalf));
			memcpy(&slot->mul, point + shape->index_factors + sizeof(AnnHalf), sizeof(AnnHalf));
			if (layout->hint_size > 0)
				memcpy(slot + 1, (char *) to + shape->links_hint, sizeof(uint16));
			memcpy(AnnHnswSlotCode(layout, slot), point + shape->index_code, layout->code_size);
		}
		else
		{
			AnnHnswPlainSlot *slot = AnnHnswGetPlainSlot(layout, row, i);

			AnnHnswFormSlot(layout, (char *) slot, tailOf(graph, to)->row, length[i], NULL, NULL, NULL);
			if (lengths[i] & ANN_HNSW_KEEPER)
				AnnHnswMarkKeeper(layout, (char *) slot);
		}
	}
}
