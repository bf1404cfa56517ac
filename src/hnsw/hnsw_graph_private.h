/*
 * hnsw_graph_private.h
 *	  What the files of the graph in memory share.  README: Build.
 */
#ifndef ANN_HNSW_GRAPH_PRIVATE_H
#define ANN_HNSW_GRAPH_PRIVATE_H

#include "common/pg_prng.h"

#include "distance/half.h"
#include "hnsw/hnsw_graph.h"

/* Entries that start a search. */
#define START_ENTRIES 8

/* Nodes expanded at once. */
#define EXPAND_AT_ONCE 3

/* Candidates that a sample of alpha compares. */
#define ALPHA_CANDIDATES 192

/* Points are copied in steps of this many bytes. */
#define GATHER_STEP 32

/* In a point of form CODE. */
#define CODE_OFFSET (2 * sizeof(AnnHalf))

#define OCCLUDED ((AnnHalf) 0x8000)

/* A node ready to be compared with others. */
typedef struct Probe
{
	const char *data;			/* code, AnnGraphInt8, or vector */
	float		norm;			/* CODE only */
} Probe;

/* A participant's view of the graph, and what it works with. */
struct AnnGraph
{
	AnnGraphShared *shared;
	AnnGraphShape shape;		/* a copy */
	const AnnHnswSpace *space;
	MemoryContext context;
	bool		parallel;
	int			chunk_shift;
	AnnGraphNode *buckets;
	AnnGraphNode *entries;
	char	   *entry_points;
	char	  **chunks;			/* by number, where attached */
	char	  **blocks;
	dsm_segment *segments[ANN_GRAPH_MAX_SEGMENTS];
	pg_prng_state random;

	/* The row that is being added */
	AnnQueryCode *query;
	char	   *point;			/* as it will stand in the graph */
	const float *dense;
	const char *stored;
	Size		stored_size;

	/* Space for payloads */
	uint32		payload_block;
	Size		payload_used;

	/* Search */
	float	   *beam_d2;		/* the beam, ascending */
	AnnGraphNode *beam;
	int			nbeam;
	AnnGraphNear *dropped;		/* expanded, then pushed out of the beam */
	int			ndropped;
	uint64	   *seen;			/* a bit for each node that there is room for */
	AnnGraphNode *touched;		/* nodes whose bit is set */
	int			ntouched;
	int			touched_capacity;
	float	   *estimates;
	int		   *near;			/* numbers of those that are near enough */
	char	   *gathered;
	Size		gather_stride;

	/* Choice of edges: candidates ready to be compared with each other */
	AnnGraphNear *candidates;
	int			ncandidates;
	int			max_candidates;
	Probe	   *probes;
	Probe		own_probe;
	float	   *versine;		/* CODE: 1 - cos by number of bits that differ */
	float		norm_scale;		/* of norms as halves */
	float		length_scale;	/* of lengths as halves */
	int		   *chosen;
	bool	   *occluded;
	float	   *pairs;
	uint32		connected;
};

extern AnnHalf AnnGraphLength(AnnGraph *graph, AnnGraphNode a, AnnGraphNode b);
extern char *AnnGraphBlockAddress(AnnGraph *graph, uint32 block);
extern char *AnnGraphAttachChunk(AnnGraph *graph, uint32 chunk);

static inline char *
chunkOf(AnnGraph *graph, AnnGraphNode node)
{
	uint32		chunk = node >> graph->chunk_shift;

	return likely(graph->chunks[chunk] != NULL) ? graph->chunks[chunk] : AnnGraphAttachChunk(graph, chunk);
}

static inline char *
pointOf(AnnGraph *graph, AnnGraphNode node)
{
	uint32		mask = (1U << graph->chunk_shift) - 1;

	return chunkOf(graph, node) + (Size) (node & mask) * graph->shape.point_size;
}

static inline AnnGraphNode *
linksOf(AnnGraph *graph, AnnGraphNode node)
{
	uint32		mask = (1U << graph->chunk_shift) - 1;

	return (AnnGraphNode *) (chunkOf(graph, node) + ((Size) (mask + 1) * graph->shape.point_size +
													 (Size) (node & mask) * graph->shape.links_size));
}

static inline AnnHalf *
lengthsOf(const AnnGraph *graph, AnnGraphNode *links)
{
	return (AnnHalf *) (links + graph->shape.slots);
}

static inline AnnGraphLinksTail *
tailOf(const AnnGraph *graph, AnnGraphNode *links)
{
	return (AnnGraphLinksTail *) ((char *) links +
								  TYPEALIGN(sizeof(uint32), (sizeof(AnnGraphNode) + sizeof(AnnHalf)) * (Size) graph->shape.slots));
}

static inline AnnGraphForm
formOf(const AnnGraph *graph)
{
	return graph->shape.form;
}

static inline bool
isSparse(const AnnGraph *graph)
{
	return graph->shape.layout.element == ANN_ELEMENT_SPARSE;
}

/* The vector of a node without codes: as AnnHnswPairLength wants it. */
static inline const char *
vectorOf(AnnGraph *graph, AnnGraphNode node)
{
	const char *point = pointOf(graph, node);

	if (isSparse(graph))
	{
		const AnnGraphPayload *payload = (const AnnGraphPayload *) point;

		return AnnGraphBlockAddress(graph, payload->block) + payload->offset;
	}
	return point;
}

/* Bytes of an entry's copy of its point. */
static inline Size
entryPointSize(const AnnGraphShape *shape)
{
	return shape->form == ANN_GRAPH_CODE ? shape->compared_size : 0;
}

static inline void
clearSeen(AnnGraph *graph)
{
	for (int i = 0; i < graph->ntouched; i++)
		graph->seen[graph->touched[i] / 64] = 0;
	graph->ntouched = 0;
}

static inline float
lengthOf(const AnnGraph *graph, AnnHalf half)
{
	return AnnHalfToFloat(half & ~OCCLUDED) * graph->length_scale;
}

static inline int
countLinks(const AnnGraph *graph, const AnnGraphNode *links)
{
	int			n = graph->shape.slots;

	while (n > 0 && links[n - 1] == ANN_GRAPH_NO_NODE)
		n--;
	return n;
}

static inline void
removeLink(AnnGraph *graph, AnnGraphNode *links, int count, int at)
{
	AnnHalf    *lengths = lengthsOf(graph, links);

	memmove(links + at, links + at + 1, sizeof(AnnGraphNode) * (count - at - 1));
	memmove(lengths + at, lengths + at + 1, sizeof(AnnHalf) * (count - at - 1));
	links[count - 1] = ANN_GRAPH_NO_NODE;
	lengths[count - 1] = 0;
}

/* The place of an edge of this length, without marks, among a node's `count` edges, nearest first. */
static inline int
placeOfLink(const AnnHalf *lengths, int count, AnnHalf length)
{
	while (count > 0 && (lengths[count - 1] & ~OCCLUDED) > length)
		count--;
	return count;
}

static inline void
insertLink(AnnGraph *graph, AnnGraphNode *links, int count, int at, AnnGraphNode node, AnnHalf length)
{
	AnnHalf    *lengths = lengthsOf(graph, links);

	memmove(links + at + 1, links + at, sizeof(AnnGraphNode) * (count - at));
	memmove(lengths + at + 1, lengths + at, sizeof(AnnHalf) * (count - at));
	links[at] = node;
	lengths[at] = length;
}

static inline void
prefetchPoint(AnnGraph *graph, AnnGraphNode node)
{
	const char *point = pointOf(graph, node);
	Size		size = Min(graph->shape.compared_size, 1024);

	for (Size i = 0; i < size; i += 64)
		__builtin_prefetch(point + i);
	__builtin_prefetch(point + size - 1);
}

#endif							/* ANN_HNSW_GRAPH_PRIVATE_H */
