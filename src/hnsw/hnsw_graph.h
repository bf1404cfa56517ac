/*
 * hnsw_graph.h
 *	  The graph while it is being built: in memory, without the index.
 *
 * README: Build.  One backend or several insert at the same time; what they share
 * lies in blocks of equal size that come from palloc or from dynamic shared
 * memory and hold no pointers.
 */
#ifndef ANN_HNSW_GRAPH_H
#define ANN_HNSW_GRAPH_H

#include "port/atomics.h"
#include "storage/dsm.h"
#include "storage/lwlock.h"

#include "hnsw/hnsw.h"

typedef uint32 AnnGraphNode;

#define ANN_GRAPH_NO_NODE ((AnnGraphNode) 0xFFFFFFFF)
#define ANN_GRAPH_MAX_NODES ((AnnGraphNode) 0x7FFFFFFF)

#define ANN_GRAPH_NODE_LOCKS 1024
#define ANN_GRAPH_VALUE_LOCKS 128
#define ANN_GRAPH_MAX_CHUNKS 1024
#define ANN_GRAPH_MAX_SEGMENTS 64
#define ANN_GRAPH_ALPHAS 8

/* What nodes are compared by. */
typedef enum AnnGraphForm
{
	ANN_GRAPH_CODE,				/* codes of one bit */
	ANN_GRAPH_INT8,				/* a byte for each coordinate, where a code would need several bits */
	ANN_GRAPH_VECTOR			/* indexes without codes: the vector */
} AnnGraphForm;

/*
 * Sizes of the graph's records and of what they are made of; a function of the
 * index, the same in every participant.
 *
 * A node consists of two records:
 *	   point  what other nodes' searches read.  CODE: factors as halves {add, mul}, code.
 *			  INT8: AnnGraphInt8.  Both: then, where the index needs others, factors and
 *			  code for its slots.  VECTOR: float[dim] of the index space; the stored form
 *			  of bit; AnnGraphPayload for sparsevec
 *	   links  uint32 neighbour[slots], AnnHalf length[slots] ascending, its sign bit set if the
 *			  edge is occluded, then AnnGraphLinksTail, then perhaps a heap TID
 */
typedef struct AnnGraphShape
{
	AnnHnswLayout layout;
	AnnGraphForm form;
	AnnCodeParams code;			/* CODE: metric L2 */
	bool		own_factors;	/* the index's factors differ from the build's */
	bool		own_code;		/* the index's code is no prefix of the build's */
	Size		compared_size;	/* leading bytes of a point that comparisons read */
	Size		index_factors;	/* in a point: factors for the index's slots */
	Size		index_code;		/* in a point: code for the index's slots */
	Size		point_size;
	Size		links_hint;		/* in links: hash of the node's first heap TID; 0 if slots have no hint */
	Size		links_size;
	Size		node_size;
	int			slots;			/* edges of a node */
	Size		payload_size;	/* expected, sparsevec only */
	int			length_exp;		/* lengths are kept times 2^-length_exp */
	int			ef;				/* width of the beam */
	int			expanded;		/* its best nodes, which are expanded */
} AnnGraphShape;

typedef struct AnnGraphLinksTail
{
	AnnRowId	row;			/* where the index has it */
	AnnGraphNode next_value;	/* chain of the table of values */
} AnnGraphLinksTail;

/* A residual as bytes: coordinate i is scale * x[i]. */
typedef struct AnnGraphInt8
{
	float		norm;
	float		scale;
	int8		x[FLEXIBLE_ARRAY_MEMBER];
} AnnGraphInt8;

/* Where a payload of variable size lies. */
typedef struct AnnGraphPayload
{
	uint32		block;
	uint32		offset;
	uint32		size;
} AnnGraphPayload;

typedef struct AnnGraphSegment
{
	dsm_handle	handle;
	uint32		first_block;
	uint32		nblocks;
} AnnGraphSegment;

/* What the participants of a build share; in memory of the caller. */
typedef struct AnnGraphShared
{
	AnnGraphShape shape;
	bool		parallel;
	Size		block_size;
	int			chunk_shift;	/* a chunk is a block of 2^chunk_shift nodes */
	uint32		max_blocks;
	uint32		nbuckets;		/* of the table of values */
	uint32		max_entries;

	LWLock		memory_lock;	/* blocks, segments */
	uint32		nblocks;
	uint32		nchunks;
	uint32		chunk_block[ANN_GRAPH_MAX_CHUNKS];
	uint32		nsegments;
	AnnGraphSegment segments[ANN_GRAPH_MAX_SEGMENTS];

	pg_atomic_uint32 nnodes;
	pg_atomic_uint32 full;		/* 1: memory has run out */

	LWLock		entry_lock;		/* entries */
	uint32		nentries;
	uint64		seen;			/* nodes that the entries are a sample of */

	/* Alpha: mean number of edges that the rule keeps, for each choice (README) */
	LWLock		alpha_lock;
	volatile float alpha;
	uint32		alpha_samples;
	float		kept[ANN_GRAPH_ALPHAS];

	LWLock		node_locks[ANN_GRAPH_NODE_LOCKS];
	LWLock		value_locks[ANN_GRAPH_VALUE_LOCKS];
	int			tranche;

	/* AnnGraphNode bucket[nbuckets], AnnGraphNode entry[max_entries], then their points */
} AnnGraphShared;

/* A node's distance from what is being inserted. */
typedef struct AnnGraphNear
{
	float		d2;				/* squared length, estimated with codes */
	AnnGraphNode node;
} AnnGraphNear;

typedef struct AnnGraph AnnGraph;

extern void AnnGraphShapeInit(AnnGraphShape *shape, const AnnHnswMetaPageData *meta);
extern Size AnnGraphSharedSize(const AnnGraphShape *shape, double rows, Size budget);
extern Size AnnGraphWantedBytes(const AnnGraphShape *shape, double rows);
extern void AnnGraphSharedInit(AnnGraphShared *shared, const AnnGraphShape *shape, double rows, Size budget,
							   bool parallel);
extern AnnGraph *AnnGraphAttach(AnnGraphShared *shared, const AnnHnswSpace *space);
extern bool AnnGraphReserve(AnnGraph *graph, double rows);
extern void AnnGraphDetach(AnnGraph *graph);

extern LWLock *AnnGraphValueLock(AnnGraph *graph, uint32 hash);
extern AnnGraphNode AnnGraphFindEqual(AnnGraph *graph, uint32 hash, AnnGraphNode after);
extern void AnnGraphPrepare(AnnGraph *graph, const float *dense, const char *stored, Size stored_size);
extern bool AnnGraphIsFull(AnnGraph *graph);
extern AnnGraphNode AnnGraphAllot(AnnGraph *graph, AnnRowId row);
extern bool AnnGraphFill(AnnGraph *graph, AnnGraphNode node, uint32 hash, const ItemPointerData *tid);
extern void AnnGraphDrop(AnnGraph *graph, AnnGraphNode node);
extern void AnnGraphReset(AnnGraph *graph);
extern void AnnGraphForget(AnnGraph *graph);
extern void AnnGraphConnect(AnnGraph *graph, AnnGraphNode node);

extern double AnnGraphCapacity(const AnnGraph *graph);
extern uint32 AnnGraphCount(const AnnGraph *graph);
extern float AnnGraphAlpha(const AnnGraph *graph);
extern AnnRowId AnnGraphRow(AnnGraph *graph, AnnGraphNode node);
extern uint32 AnnGraphLinkUnreachable(AnnGraph *graph, const AnnGraphNode *entries, uint32 nentries);
extern void AnnGraphWriteSlots(AnnGraph *graph, AnnGraphNode node, AnnHnswRowHeader *row);

#endif							/* ANN_HNSW_GRAPH_H */
