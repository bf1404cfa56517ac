/*
 * hnsw.h
 *	  On-disk format and internal interface of the hnsw access method.
 *
 * src/hnsw/README tells the design: read it first.
 */
#ifndef ANN_HNSW_H
#define ANN_HNSW_H

#include "postgres.h"

#include <math.h>

#include "access/amapi.h"
#include "access/genam.h"
#include "nodes/execnodes.h"
#include "storage/itemptr.h"

#include "page/check.h"
#include "page/cache.h"
#include "page/hints.h"
#include "page/page.h"
#include "quantize/quantize.h"
#include "space/attributes.h"
#include "space/space.h"
#include "space/tidset.h"
#include "types/types.h"

#define ANN_HNSW_MAGIC 0x57534E48	/* "HNSW" */
#define ANN_HNSW_VERSION 8

#define ANN_HNSW_DEFAULT_M 16
#define ANN_HNSW_MIN_M 2
#define ANN_HNSW_MAX_M 100
#define ANN_HNSW_DEFAULT_EF_CONSTRUCTION 64
#define ANN_HNSW_MIN_EF_CONSTRUCTION 4
#define ANN_HNSW_MAX_EF_CONSTRUCTION 1000
#define ANN_HNSW_DEFAULT_EF_SEARCH 40
#define ANN_HNSW_MAX_EF_SEARCH 100000

#define ANN_BIT_MAX_INDEX_DIM 64000

#define ANN_HNSW_META_BLOCK 0

/* Number for LockPage, not a page: held by VACUUM, and exclusively to change the centre. */
#define ANN_HNSW_CENTER_LOCK 1

/* Likewise: held by who calibrates; nobody waits for it. */
#define ANN_HNSW_CALIBRATION_LOCK 2

#define ANN_HNSW_MAX_ENTRY_PAGES 128

/* The build chooses alpha so that the relative neighbourhood rule fills this share of the slots. */
#define ANN_HNSW_ALPHA_KEEPS 0.6f
#define ANN_HNSW_MIN_ALPHA 1.0f
#define ANN_HNSW_MAX_ALPHA 2.0f

/* Support functions of an operator class */
#define ANN_HNSW_DISTANCE_PROC 1	/* the distance function behind the operator, or its squared form */
#define ANN_HNSW_TYPE_PROC 2	/* hnsw_*_support; absent for vector */
#define ANN_HNSW_NPROCS 2

typedef enum AnnHnswPageKind
{
	ANN_HNSW_META = 1,
	ANN_HNSW_CENTER,
	ANN_HNSW_ENTRY,
	ANN_HNSW_ROW,
	ANN_HNSW_NODE,
	ANN_HNSW_TIDLIST,
	ANN_HNSW_VECTOR,
	ANN_HNSW_CHAIN,
	ANN_HNSW_PIECE
} AnnHnswPageKind;

typedef uint32 AnnRowId;

#define ANN_HNSW_NO_ROW ((AnnRowId) 0xFFFFFFFF)
#define ANN_HNSW_NO_NODE ((uint32) 0xFFFFFFFF)
#define ANN_HNSW_NO_PIECE ((uint32) 0xFFFFFFFF)

/*
 * Sizes of an index's rows; a function of dimensions and options, computed once
 * when the index is created and stored in its meta page.
 */
typedef struct AnnHnswLayout
{
	uint32		dim;
	uint8		element;		/* AnnElement */
	uint8		metric;			/* AnnMetric */
	uint8		quantizer;		/* AnnQuantizer, never AUTO */
	uint8		refine;			/* AnnRefineForm */
	uint16		slots;			/* R: edges a row can hold */
	uint16		hint_size;		/* 0 or 2 */
	uint32		vector_size;	/* bytes of a vector in re-rank form (largest, for sparsevec) */
	uint16		vector_inline;	/* 1: in the row; 0: the row holds an item pointer */
	uint16		vector_space;	/* bytes the row gives to it */
	uint16		slot_size;
	uint16		code_size;		/* bytes of a code in a slot; 0 without codes */
	uint16		row_size;
	uint16		rows_per_page;
	uint16		attribute_size; /* bytes of the attribute area; 0 without included columns */
} AnnHnswLayout;

StaticAssertDecl(sizeof(AnnHnswLayout) == 32, "on-disk format");

/*
 * Meta page.  Everything down to `alpha` is fixed for the life of the index, but for
 * the scale of the factors and `recoding`, which change with the centre.
 */
typedef struct AnnHnswMetaPageData
{
	uint32		magic;
	uint16		version;
	uint16		m;
	uint16		ef_construction;
	uint16		recoding;		/* 1: some codes are of the centre before this one */
	AnnHnswLayout layout;
	AnnCodeParams code;			/* all zero without codes */
	BlockNumber chain_page;		/* first CHAIN page, or invalid */
	uint32		nchains;		/* 0: no included column, or one that cannot be hashed */
	float		alpha;			/* of the relative neighbourhood rule, on squared distance */
	BlockNumber center;			/* first CENTER page, or invalid: the centre is zero */
	uint32		nentries;
	uint32		entry_capacity; /* entries that the present ENTRY pages are meant for */
	uint32		entry_version;	/* advances with every change of the entry table */
	uint32		ef_search;		/* calibrated; 0: not yet */
	uint64		build_id;		/* random: tells one build, or centre, from the next in the same file */
	double		rows;			/* rows at the build plus inserts since, an estimate */
	BlockNumber null_tids;		/* first TIDLIST page of NULL vectors, or invalid */
	BlockNumber zero_tids;		/* first TIDLIST page of vectors without a place (cosine), or invalid */
	BlockNumber row_page;		/* the ROW page that inserts fill, or invalid */
	BlockNumber free_row_pages; /* list of ROW pages with free rows, or invalid */
	BlockNumber node_pages;		/* list of NODE pages with free nodes, or invalid */
	uint32		center_rows;	/* rows that the index had when the centre was computed */
	uint32		calibrated_rows;	/* and when it was calibrated by a full sample; 0: it was not */
	BlockNumber piece_pages;	/* PIECE pages, linked, or invalid */
	uint32		free_pieces;	/* list of pieces in no chain, or ANN_HNSW_NO_PIECE */
	float		keeps;			/* share of the slots that the rule is to fill for inserts: alpha follows it */
	BlockNumber entry_pages[ANN_HNSW_MAX_ENTRY_PAGES];	/* ENTRY pages in order; the rest is invalid */
} AnnHnswMetaPageData;

/* Header of a row: layout and meaning in README, section Row layout. */
typedef struct AnnHnswRowHeader
{
	uint8		state;			/* AnnHnswRowState */
	uint8		nedges;
	uint16		version;
	uint8		ntids;
	uint8		flags;
	ItemPointerData tids[3];
	uint32		node;
	uint32		hash;
} AnnHnswRowHeader;

StaticAssertDecl(sizeof(AnnHnswRowHeader) == 32, "on-disk format");

typedef enum AnnHnswRowState
{
	ANN_HNSW_FREE = 0,
	ANN_HNSW_LIVE = 1,
	ANN_HNSW_DELETING = 2
} AnnHnswRowState;

#define ANN_HNSW_INLINE_TIDS 3
#define ANN_HNSW_NODE_TIDS 10

/* Raw area of a NODE page: this header, then nodes. */
typedef struct AnnHnswNodePage
{
	uint16		nfree;
	uint16		listed;			/* 1: in the list that starts at node_pages */
	uint32		reserved;
} AnnHnswNodePage;

/* A TID node. */
typedef struct AnnHnswNode
{
	AnnRowId	owner;			/* ANN_HNSW_NO_ROW: the node is free */
	uint32		next;			/* next node of the same row, or ANN_HNSW_NO_NODE */
	uint16		ntids;
	ItemPointerData tids[ANN_HNSW_NODE_TIDS];
	uint16		reserved;
} AnnHnswNode;

StaticAssertDecl(sizeof(AnnHnswNode) == 72, "on-disk format");

#define ANN_HNSW_NODES_PER_PAGE \
	((int) ((ANN_PAGE_USABLE - sizeof(AnnHnswNodePage)) / sizeof(AnnHnswNode)))

static inline AnnHnswNode *
AnnHnswNodeOnPage(Page page, uint32 node)
{
	return (AnnHnswNode *) (AnnPageRaw(page) + sizeof(AnnHnswNodePage)) + node % ANN_HNSW_NODES_PER_PAGE;
}

/*
 * TIDLIST page: an array of heap TIDs behind this header.  `room` links pages
 * that VACUUM has made room in: in the first page of a chain it names the first such
 * page, in these the next one, or itself in the last; 0: none, or not linked.
 */
typedef struct AnnHnswTidList
{
	uint32		ntids;
	uint16		zero;			/* 1: of zero vectors, 0: of NULLs */
	uint16		reserved;
	BlockNumber room;
	ItemPointerData tids[FLEXIBLE_ARRAY_MEMBER];
} AnnHnswTidList;

#define ANN_HNSW_TIDLIST_CAPACITY \
	((int) ((ANN_PAGE_USABLE - offsetof(AnnHnswTidList, tids)) / sizeof(ItemPointerData)))

/*
 * An item of a VECTOR page: a piece of a vector.  `next` is invalid in the
 * last one.
 */
typedef struct AnnHnswVectorItem
{
	ItemPointerData next;
	uint16		first;			/* 1: the piece that a row names */
	uint32		total;			/* bytes of the whole vector from this piece on */
	char		data[FLEXIBLE_ARRAY_MEMBER];
} AnnHnswVectorItem;

/* Bytes of a VECTOR page that an item of its own may take. */
#define ANN_HNSW_VECTOR_ITEM_MAX \
	(MAXALIGN_DOWN(ANN_PAGE_USABLE - sizeof(ItemIdData)) - offsetof(AnnHnswVectorItem, data))

/*
 * An entry of the entry table: ENTRY pages are arrays of them.  Behind the
 * fixed part stands the code (with codes), or the vector in its re-rank form
 * where that is inline (without).
 */
typedef struct AnnHnswEntry
{
	AnnRowId	row;
	uint16		add;
	uint16		mul;
	char		payload[FLEXIBLE_ARRAY_MEMBER];
} AnnHnswEntry;

/*
 * A chain: the live rows whose first included column has a hash of this number,
 * modulo their number.  CHAIN pages are an array of chains.
 */
typedef struct AnnHnswChain
{
	uint32		first;			/* piece, or ANN_HNSW_NO_PIECE */
	uint32		rows;			/* it has no more than these */
} AnnHnswChain;

StaticAssertDecl(sizeof(AnnHnswChain) == 8, "on-disk format");

#define ANN_HNSW_CHAINS_PER_PAGE ((int) (ANN_PAGE_USABLE / sizeof(AnnHnswChain)))
#define ANN_HNSW_MAX_CHAIN_PAGES 64

/*
 * A row's card: what is to be known of it before it is visited.  Behind the fixed part
 * stand its code, if there are codes, and its attribute area.
 */
typedef struct AnnHnswCard
{
	AnnRowId	row;
	AnnHalf		add;
	AnnHalf		mul;
	uint8		code[FLEXIBLE_ARRAY_MEMBER];
} AnnHnswCard;

/* A piece of a chain, with the cards of some of its rows.  PIECE pages are arrays of pieces. */
typedef struct AnnHnswPiece
{
	uint32		chain;			/* ANN_HNSW_NO_PIECE: it is free */
	uint32		next;			/* the next piece of the chain, or of the free ones */
	uint32		count;			/* of cards, the first ones */
} AnnHnswPiece;

StaticAssertDecl(sizeof(AnnHnswPiece) == 12, "on-disk format");

#define ANN_HNSW_PIECE_CARDS 8

/*
 * The head of a slot with codes.  In both kinds of slot the sign of the length is
 * set if a nearer edge of the row occludes this one (hnsw_prune.c), and its lowest
 * bit if the edge is a keeper (README, Keepers).
 */
typedef struct AnnHnswSlot
{
	uint16		row_low;		/* neighbour's row id, in two halves: slots are 2-byte aligned */
	uint16		row_high;
	AnnHalf		length;
	AnnHalf		add;
	AnnHalf		mul;
} AnnHnswSlot;

StaticAssertDecl(sizeof(AnnHnswSlot) == 10, "on-disk format");

/* A slot without codes. */
typedef struct AnnHnswPlainSlot
{
	AnnRowId	row;
	float		length;
} AnnHnswPlainSlot;

StaticAssertDecl(sizeof(AnnHnswPlainSlot) == 8, "on-disk format");

/* ---- arithmetic on row ids and rows ---- */

static inline BlockNumber
AnnHnswRowBlock(const AnnHnswLayout *layout, AnnRowId row)
{
	return row / layout->rows_per_page;
}

static inline int
AnnHnswRowSlot(const AnnHnswLayout *layout, AnnRowId row)
{
	return row % layout->rows_per_page;
}

static inline AnnHnswRowHeader *
AnnHnswRowOnPage(const AnnHnswLayout *layout, Page page, int slot)
{
	return (AnnHnswRowHeader *) (AnnPageRaw(page) + (Size) slot * layout->row_size);
}

/* What pd_lower is when a row of this number is the last one of its page that is in use. */
static inline LocationIndex
AnnHnswRowPageLower(const AnnHnswLayout *layout, int slot)
{
	return (LocationIndex) (ANN_PAGE_HEADER + (Size) (slot + 1) * layout->row_size);
}

static inline char *
AnnHnswRowVector(AnnHnswRowHeader *row)
{
	return (char *) row + sizeof(AnnHnswRowHeader);
}

/* The attribute area of a row. */
static inline char *
AnnHnswRowAttributes(const AnnHnswLayout *layout, const AnnHnswRowHeader *row)
{
	return (char *) unconstify(AnnHnswRowHeader *, row) + sizeof(AnnHnswRowHeader) + layout->vector_space;
}

/* Bytes that a row gives to its attribute area. */
static inline Size
AnnHnswAttributeSpace(const AnnHnswLayout *layout)
{
	return TYPEALIGN(4, layout->attribute_size);
}

static inline char *
AnnHnswRowSlots(const AnnHnswLayout *layout, AnnHnswRowHeader *row)
{
	return AnnHnswRowAttributes(layout, row) + AnnHnswAttributeSpace(layout);
}

static inline bool
AnnHnswHasCodes(const AnnHnswLayout *layout)
{
	return layout->quantizer == ANN_QUANTIZER_RABITQ;
}

/*
 * Width of the beam that finds a new row's neighbours.  With codes half as
 * wide again as the option says: estimates are cheap, and the better graph saves
 * a fifth of every later search (README, Insert).
 */
static inline int
AnnHnswConstructionBeam(const AnnHnswLayout *layout, int ef_construction)
{
	return AnnHnswHasCodes(layout) ? ef_construction + ef_construction / 2 : ef_construction;
}

static inline AnnHnswSlot *
AnnHnswCodedSlot(const AnnHnswLayout *layout, AnnHnswRowHeader *row, int i)
{
	return (AnnHnswSlot *) (AnnHnswRowSlots(layout, row) + (Size) i * layout->slot_size);
}

/* The hint of a slot: AnnTidHash of the neighbour's first heap TID when the edge was made. */
static inline uint16
AnnHnswSlotHint(const AnnHnswSlot *slot)
{
	return *(const uint16 *) (slot + 1);
}

static inline void
AnnHnswSlotSetHint(const AnnHnswLayout *layout, AnnHnswSlot *slot, const ItemPointerData *tid)
{
	if (layout->hint_size > 0)
		*(uint16 *) (slot + 1) = AnnTidHash(tid);
}

static inline uint8 *
AnnHnswSlotCode(const AnnHnswLayout *layout, AnnHnswSlot *slot)
{
	return (uint8 *) slot + sizeof(AnnHnswSlot) + layout->hint_size;
}

static inline AnnRowId
AnnHnswSlotRow(const AnnHnswSlot *slot)
{
	return (AnnRowId) slot->row_low | (AnnRowId) slot->row_high << 16;
}

static inline void
AnnHnswSlotSetRow(AnnHnswSlot *slot, AnnRowId row)
{
	slot->row_low = (uint16) (row & 0xFFFF);
	slot->row_high = (uint16) (row >> 16);
}

static inline AnnHnswPlainSlot *
AnnHnswGetPlainSlot(const AnnHnswLayout *layout, AnnHnswRowHeader *row, int i)
{
	return (AnnHnswPlainSlot *) (AnnHnswRowSlots(layout, row) + (Size) i * layout->slot_size);
}

/* The neighbour that slot i of a row names, whatever the kind of slot. */
static inline AnnRowId
AnnHnswEdge(const AnnHnswLayout *layout, AnnHnswRowHeader *row, int i)
{
	if (AnnHnswHasCodes(layout))
		return AnnHnswSlotRow(AnnHnswCodedSlot(layout, row, i));
	return AnnHnswGetPlainSlot(layout, row, i)->row;
}

/* ---- arithmetic on cards and pieces ---- */

static inline Size
AnnHnswCardSize(const AnnHnswLayout *layout)
{
	return TYPEALIGN(4, offsetof(AnnHnswCard, code) + layout->code_size + layout->attribute_size);
}

/* Cards that a piece has room for. */
static inline int
AnnHnswPieceCards(const AnnHnswLayout *layout)
{
	return Min(ANN_HNSW_PIECE_CARDS, (int) ((ANN_PAGE_USABLE - sizeof(AnnHnswPiece)) / AnnHnswCardSize(layout)));
}

static inline Size
AnnHnswPieceSize(const AnnHnswLayout *layout)
{
	return sizeof(AnnHnswPiece) + AnnHnswPieceCards(layout) * AnnHnswCardSize(layout);
}

static inline int
AnnHnswPiecesPerPage(const AnnHnswLayout *layout)
{
	return (int) (ANN_PAGE_USABLE / AnnHnswPieceSize(layout));
}

static inline BlockNumber
AnnHnswPieceBlock(const AnnHnswLayout *layout, uint32 piece)
{
	return piece / AnnHnswPiecesPerPage(layout);
}

static inline AnnHnswPiece *
AnnHnswPieceOnPage(const AnnHnswLayout *layout, Page page, uint32 piece)
{
	return (AnnHnswPiece *) (AnnPageRaw(page) + piece % AnnHnswPiecesPerPage(layout) * AnnHnswPieceSize(layout));
}

static inline AnnHnswCard *
AnnHnswPieceCard(const AnnHnswLayout *layout, const AnnHnswPiece *piece, int i)
{
	return (AnnHnswCard *) ((char *) unconstify(AnnHnswPiece *, piece) + sizeof(AnnHnswPiece) + i * AnnHnswCardSize(layout));
}

static inline char *
AnnHnswCardAttributes(const AnnHnswLayout *layout, const AnnHnswCard *card)
{
	return (char *) unconstify(AnnHnswCard *, card)->code + layout->code_size;
}

/* Whether rows keep their vector in items of VECTOR pages. */
static inline bool
AnnHnswVectorIsExternal(const AnnHnswLayout *layout)
{
	return !layout->vector_inline;
}

#define ANN_HNSW_OCCLUDED ((AnnHalf) 0x8000)	/* in a half */
#define ANN_HNSW_KEEPER 1		/* in a half, or in the bits of a float */

/* The bits of an edge's length, marks and all: those of a half, or of a float. */
static inline uint32
AnnHnswLengthBits(const AnnHnswLayout *layout, AnnHnswRowHeader *row, int i)
{
	uint32		bits;

	if (AnnHnswHasCodes(layout))
		return AnnHnswCodedSlot(layout, row, i)->length;
	memcpy(&bits, &AnnHnswGetPlainSlot(layout, row, i)->length, sizeof(bits));
	return bits;
}

/* The patch that changes them; *bits is what it points to. */
static inline AnnPagePatch
AnnHnswPatchLength(const AnnHnswLayout *layout, AnnHnswRowHeader *row, int i, uint32 *bits)
{
	AnnHalf		half = (AnnHalf) *bits;

	if (!AnnHnswHasCodes(layout))
		return (AnnPagePatch) {&AnnHnswGetPlainSlot(layout, row, i)->length, bits, sizeof(*bits)};
	memcpy(bits, &half, sizeof(half));
	return (AnnPagePatch) {&AnnHnswCodedSlot(layout, row, i)->length, bits, sizeof(half)};
}

/* Whether the edge may not make way for another one: README, Keepers. */
static inline bool
AnnHnswIsKeeper(const AnnHnswLayout *layout, AnnHnswRowHeader *row, int i)
{
	return (AnnHnswLengthBits(layout, row, i) & ANN_HNSW_KEEPER) != 0;
}

/* Makes the edge of a slot in memory a keeper. */
static inline void
AnnHnswMarkKeeper(const AnnHnswLayout *layout, char *slot)
{
	uint32		bits;

	if (AnnHnswHasCodes(layout))
		((AnnHnswSlot *) slot)->length |= ANN_HNSW_KEEPER;
	else
	{
		memcpy(&bits, &((AnnHnswPlainSlot *) slot)->length, sizeof(bits));
		bits |= ANN_HNSW_KEEPER;
		memcpy(&((AnnHnswPlainSlot *) slot)->length, &bits, sizeof(bits));
	}
}

/* The length, with its sign, of an edge without code: with a keeper's mark infinity would be no number. */
static inline float
AnnHnswPlainLength(const AnnHnswLayout *layout, AnnHnswRowHeader *row, int i)
{
	uint32		bits = AnnHnswLengthBits(layout, row, i) & ~(uint32) ANN_HNSW_KEEPER;
	float		length;

	memcpy(&length, &bits, sizeof(length));
	return length;
}

/* The length of that edge. */
static inline float
AnnHnswEdgeLength(const AnnHnswLayout *layout, AnnHnswRowHeader *row, int i)
{
	AnnHalf		half;
	float		length;

	if (!AnnHnswHasCodes(layout))
		return fabsf(AnnHnswPlainLength(layout, row, i));
	half = AnnHnswCodedSlot(layout, row, i)->length & ~(ANN_HNSW_OCCLUDED | ANN_HNSW_KEEPER);
	ann_kernels.f16_to_f32(&half, &length, 1);
	return length;
}

/* Says in slot i whether it is occluded. */
static inline void
AnnHnswSetOccluded(const AnnHnswLayout *layout, AnnHnswRowHeader *row, int i, bool occluded)
{
	if (AnnHnswHasCodes(layout))
	{
		AnnHalf    *length = &AnnHnswCodedSlot(layout, row, i)->length;

		*length = (AnnHalf) ((*length & ~ANN_HNSW_OCCLUDED) | (occluded ? ANN_HNSW_OCCLUDED : 0));
	}
	else
	{
		float	   *length = &AnnHnswGetPlainSlot(layout, row, i)->length;

		*length = copysignf(*length, occluded ? -1 : 1);
	}
}

/* The lengths of all edges of a row, and which are occluded. */
static inline void
AnnHnswEdgeLengths(const AnnHnswLayout *layout, AnnHnswRowHeader *row, float *lengths, bool *occluded)
{
	if (AnnHnswHasCodes(layout))
	{
		AnnHalf		halves[256];

		for (int i = 0; i < row->nedges; i++)
			halves[i] = AnnHnswCodedSlot(layout, row, i)->length & ~ANN_HNSW_KEEPER;
		ann_kernels.f16_to_f32(halves, lengths, row->nedges);
	}
	else
		for (int i = 0; i < row->nedges; i++)
			lengths[i] = AnnHnswPlainLength(layout, row, i);
	for (int i = 0; i < row->nedges; i++)
	{
		occluded[i] = signbit(lengths[i]);
		lengths[i] = fabsf(lengths[i]);
	}
}

/* ---- sets of rows (hnsw_repair.c) ---- */

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

static inline void
AnnHnswRowSetRemove(AnnHnswRowSet *set, AnnRowId row)
{
	if (row < set->nrows)
		set->words[row / 64] &= ~(UINT64CONST(1) << row % 64);
}

extern void AnnHnswRowSetInit(AnnHnswRowSet *set, uint64 nrows);
extern void AnnHnswRowSetClear(AnnHnswRowSet *set);
extern void AnnHnswRowSetFree(AnnHnswRowSet *set);
extern bool AnnHnswRowSetNext(const AnnHnswRowSet *set, AnnRowId *row);

/* ---- hnsw_space.c: what the index makes of an SQL value ---- */

/*
 * How vectors of one index are formed, scored and compared.  A plain struct
 * without pointers to index pages; `center` is float[dim] in memory of the
 * owner (rotated; NULL for a zero centre).
 */
typedef struct AnnHnswSpace
{
	AnnHnswLayout layout;
	AnnCodeParams code;
	AnnSpace	base;
	const float *center;
	float		center_norm2;	/* |c|^2 */
	float		alpha;
} AnnHnswSpace;

typedef AnnPoint AnnHnswPoint;

/* A query, ready to be compared with rows and with codes. */
typedef struct AnnHnswQuery
{
	const AnnHnswSpace *space;
	bool		unplaced;		/* every distance from it is NaN */
	AnnQuery   *base;
	AnnQueryCode *code;			/* with codes */
} AnnHnswQuery;

extern void AnnHnswLayoutInit(AnnHnswLayout *layout, AnnCodeParams *code, Relation index);
extern void AnnHnswSpaceInit(AnnHnswSpace *space, const AnnHnswMetaPageData *meta, const float *center);
extern void AnnHnswFormPoint(const AnnHnswSpace *space, Datum value, AnnHnswPoint *point);
extern void AnnHnswSetAttributes(const AnnAttributes *attributes, char *area, AnnHnswPoint *point);
extern AnnHnswQuery *AnnHnswQueryCreate(const AnnHnswSpace *space, Datum value);
extern AnnHnswQuery *AnnHnswQueryFromStored(const AnnHnswSpace *space, const char *stored);
extern float AnnHnswScore(const AnnHnswQuery *query, const char *stored);
extern AnnInterval AnnHnswInterval(const AnnHnswQuery *query, const char *stored, float score);
extern bool AnnHnswRowHolds(const AnnHnswSpace *space, const AnnHnswRowHeader *header, const char *stored,
							const AnnPoint *point);
extern Size AnnHnswStoredSize(const AnnHnswSpace *space, const char *stored);
extern void AnnHnswDecode(const AnnHnswSpace *space, const char *stored, float *dense);
extern float AnnHnswPairLength(const AnnHnswSpace *space, const float *dense_a, const char *stored_a,
							   const float *dense_b, const char *stored_b);
extern void AnnHnswEncode(const AnnHnswSpace *space, const float *dense, uint8 *code,
						  AnnCodeFactors *factors, float *scratch);

/* ---- hnsw_page.c: meta page, rows, TIDs, the per-backend cache ---- */

/*
 * What a backend remembers of an index between calls: its meta page and entry
 * table as of the last AnnHnswCacheRefresh, and in which buffer it last saw a
 * block.  Hints, but for what AnnHnswCacheRefresh has just read.  Get it anew
 * in every access method call and keep no pointer into it beyond that.
 */
typedef struct AnnHnswCache
{
	AnnIndexCache base;
	AnnHnswMetaPageData meta;
	float	   *center;			/* float[dim], or NULL */
	Size		entry_size;
	char	   *entries;		/* meta.nentries items of entry_size */
	uint32		entries_allocated;
	AnnBufferHints hints;
} AnnHnswCache;

extern bool AnnHnswIsReadable(Relation index);
extern AnnHnswCache *AnnHnswCacheGet(Relation index);
extern void AnnHnswCacheRefresh(Relation index, AnnHnswCache *cache);

extern void AnnHnswReadMeta(Relation index, AnnHnswMetaPageData *meta);
extern AnnHnswMetaPageData *AnnHnswMetaOnPage(Page page);
extern void AnnHnswCreateMeta(Relation index, ForkNumber fork, AnnHnswMetaPageData *meta);
extern float *AnnHnswReadCenter(Relation index, const AnnHnswMetaPageData *meta);
extern BlockNumber AnnHnswWriteCenter(Relation index, AnnWriteMode mode, const float *center, int dim,
									  BlockNumber first);

extern Size AnnHnswEntrySize(const AnnHnswLayout *layout);
extern int	AnnHnswEntriesPerPage(const AnnHnswLayout *layout);
extern uint32 AnnHnswEntryCapacity(const AnnHnswLayout *layout, double rows);
extern BlockNumber AnnHnswEntryBlock(const AnnHnswMetaPageData *meta, const AnnHnswLayout *layout, uint32 entry);
extern void AnnHnswFormEntry(const AnnHnswSpace *space, AnnRowId row, const float *dense, const char *stored,
							 AnnHnswEntry *entry, float *scratch);
extern void AnnHnswPutEntry(Relation index, AnnWriteMode mode, uint32 entry, const AnnHnswEntry *data, bool any);

extern void AnnHnswRemoveEntry(Relation index, uint32 entry, AnnRowId row);
extern void AnnHnswCountRows(Relation index, AnnWriteMode mode, double rows, float alpha_step);

extern Buffer AnnHnswLockRow(Relation index, AnnHnswCache *cache, const AnnHnswLayout *layout,
							 AnnRowId row, int lockmode, AnnHnswRowHeader **header);
extern void AnnHnswInitRowPage(Page page);
extern Buffer AnnHnswAllocRow(Relation index, AnnWriteMode mode, const AnnHnswLayout *layout, AnnRowId *row);
extern void AnnHnswListRowPage(Relation index, AnnWriteMode mode, const AnnHnswLayout *layout, BlockNumber block);
extern void AnnHnswFormSlot(const AnnHnswLayout *layout, char *slot, AnnRowId neighbour, float length,
							const ItemPointerData *hint, const AnnHalf *halves, const uint8 *code);
extern void AnnHnswSetSlot(const AnnHnswSpace *space, AnnHnswRowHeader *row, int i, AnnRowId neighbour,
						   float length, const ItemPointerData *hint, const AnnHalf *halves,
						   const uint8 *code);

extern bool AnnHnswAddTid(Relation index, AnnWriteMode mode, const AnnHnswLayout *layout, AnnRowId row,
						  const AnnHnswPoint *point, ItemPointer tid);
extern void AnnHnswReadNodes(Relation index, const AnnHnswLayout *layout, AnnRowId owner, uint32 node,
							 ItemPointerData **tids, int *ntids, int *capacity);
extern void AnnHnswDropEmptyNodes(Relation index, const AnnHnswLayout *layout, AnnRowId row);
extern void AnnHnswAddToTidList(Relation index, AnnWriteMode mode, bool zero, ItemPointer tid);
extern void AnnHnswListTidPage(Relation index, bool zero, BlockNumber block);

extern ItemPointerData AnnHnswWriteVector(Relation index, AnnWriteMode mode, const char *data, Size size);
extern Size AnnHnswReadVector(Relation index, ItemPointerData item, char *data, Size capacity);
extern void AnnHnswRecordVectorPage(Relation index, BlockNumber block, Page page);
extern void AnnHnswDeleteItem(Relation index, AnnWriteMode mode, Buffer buffer, OffsetNumber offset);
extern void AnnHnswDeleteVector(Relation index, AnnWriteMode mode, ItemPointerData item);

/* ---- hnsw_chain.c: rows of equal first included columns ---- */

/* Where a new card goes, and what that changes on the two pages, which are locked exclusively. */
typedef struct AnnHnswRoom
{
	Buffer		chainbuf;
	Buffer		piecebuf;
	uint32		rows;			/* of the chain */
	uint32		count;			/* of the piece's cards */
	AnnPagePatch chain_patch;
	AnnPagePatch piece_patches[2];
} AnnHnswRoom;

/* Called for a piece of a chain, under the share lock of its page. */
typedef void (*AnnHnswPieceVisit) (void *arg, const AnnHnswPiece *piece);

extern uint32 AnnHnswChainPages(Relation index, double rows);
extern uint32 AnnHnswChainOf(const AnnHnswMetaPageData *meta, AnnAttributes *attributes, const char *area);
extern AnnHnswChain AnnHnswReadChain(Relation index, const AnnHnswMetaPageData *meta, uint32 chain);
extern void AnnHnswInitPiecePage(const AnnHnswLayout *layout, Page page, BlockNumber block, BlockNumber next);
extern void AnnHnswFormCard(const AnnHnswSpace *space, AnnRowId row, const float *dense, const char *area,
							AnnHnswCard *card, float *scratch);
extern void AnnHnswLockRoom(Relation index, AnnWriteMode mode, const AnnHnswMetaPageData *meta, uint32 chain,
							const AnnHnswCard *card, AnnHnswRoom *room);
extern void AnnHnswChainRows(Relation index, AnnAttributes *attributes);
extern void AnnHnswUnchainRows(Relation index, const AnnHnswMetaPageData *meta, const AnnHnswRowSet *rows);
extern void AnnHnswWalkChain(Relation index, AnnHnswCache *cache, uint32 chain, AnnHnswPieceVisit visit, void *arg);
extern void AnnHnswWalkPieces(Relation index, AnnHnswCache *cache, AnnHnswPieceVisit visit, void *arg);

/* ---- hnsw_build.c ---- */

extern IndexBuildResult *ann_hnsw_build(Relation heap, Relation index, IndexInfo *info);
extern void ann_hnsw_buildempty(Relation index);
extern char *AnnHnswBuildPhaseName(int64 phase);

/* ---- hnsw_insert.c ---- */

/* Writes into `to` the edges of two images of a row. */
typedef void (*AnnHnswMergeEdges) (void *arg, AnnHnswRowHeader *old, AnnHnswRowHeader *found, AnnHnswRowHeader *to);

extern void AnnHnswRefineRow(Relation index, AnnHnswCache *cache, const AnnHnswSpace *space, AnnRowId row, int beam,
							 AnnHnswMergeEdges merge, void *arg);
extern int	AnnHnswSumKeptShares(Relation index, AnnHnswCache *cache, const AnnHnswSpace *space, const AnnRowId *rows,
							  int nrows, double *sum);
extern void AnnHnswRelinkRow(Relation index, AnnWriteMode mode, AnnHnswCache *cache, const AnnHnswSpace *space, AnnRowId row,
							 const AnnHnswRowSet *reached, AnnHnswRowSet *twice);
extern bool ann_hnsw_insert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap,
							IndexUniqueCheck check_unique, bool index_unchanged, IndexInfo *info);

/* ---- hnsw_center.c: the centre of an index that has grown ---- */

extern bool AnnHnswCenterIsOld(const AnnHnswMetaPageData *meta);
extern void AnnHnswRecenter(Relation index, bool half_done);

/* ---- hnsw_calibrate.c: the ef of scans ---- */

#define ANN_HNSW_CALIBRATION_ROWS 300

extern void AnnHnswCalibrateAgain(Relation index);
extern bool AnnHnswWantsCalibration(const AnnHnswMetaPageData *meta);
extern void AnnHnswCalibrateFirst(Relation index);

/* ---- hnsw_orphans.c: vector items without a row ---- */

typedef struct AnnHnswItemCount
{
	uint64		items;
	uint64		vectors;		/* items that a row may name */
	uint64		expected;		/* items that these vectors consist of */
} AnnHnswItemCount;

extern void AnnHnswCountItems(Page page, AnnHnswItemCount *count);
extern void AnnHnswDeleteOrphans(Relation index, BufferAccessStrategy strategy, const AnnHnswLayout *layout,
								 BlockNumber nblocks);

/* ---- hnsw_scan.c ---- */

extern IndexScanDesc ann_hnsw_beginscan(Relation index, int nkeys, int norderbys);

/* ---- hnsw_check.c ---- */

extern void AnnHnswCheckIndex(AnnCheck *check);
extern AnnCheckValue AnnHnswCheckValue(Relation index, const Datum *values, const bool *isnull);
extern void AnnHnswDescribeIndex(AnnInfo *info);

/* ---- hnsw_vacuum.c ---- */

extern IndexBulkDeleteResult *ann_hnsw_bulkdelete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats,
												  IndexBulkDeleteCallback callback, void *callback_state);
extern IndexBulkDeleteResult *ann_hnsw_vacuumcleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats);

#endif							/* ANN_HNSW_H */
