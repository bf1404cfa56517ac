/*
 * hnsw_chain.c
 *	  Chains of cards of the rows whose first included columns are equal: README, section Chains.
 */
#include "postgres.h"

#include <math.h>

#include "commands/vacuum.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"

#include "compat.h"
#include "hnsw/hnsw.h"
#include "hnsw/hnsw_search.h"

/* Rows for each chain that a new index makes. */
#define ROWS_PER_CHAIN 4

/* CHAIN pages of an index whose rows are not known yet. */
#define EMPTY_CHAIN_PAGES 4

#define LINE_BYTES 64

/* Walks of a chain that VACUUM's work may spoil, before it is called damage. */
#define MAX_RESTARTS 10000

/*
 * CHAIN pages of a new index of about so many rows (0: not known); 0 if it has no
 * included column or one that cannot be hashed.
 */
uint32
AnnHnswChainPages(Relation index, double rows)
{
	AnnAttributes *attributes = AnnAttributesCreate(index);
	bool		hashed = OidIsValid(attributes->hash.fn_oid);

	pfree(attributes);
	if (!hashed)
		return 0;
	if (rows <= 0)
		return EMPTY_CHAIN_PAGES;
	return (uint32) Min(ceil(rows / ROWS_PER_CHAIN / ANN_HNSW_CHAINS_PER_PAGE), ANN_HNSW_MAX_CHAIN_PAGES);
}

/*
 * The chain of a row with these attributes; the index has chains.
 */
uint32
AnnHnswChainOf(const AnnHnswMetaPageData *meta, AnnAttributes *attributes, const char *area)
{
	return AnnAttributesKey(attributes, area) % meta->nchains;
}

/* Locks the page of a chain and points *result to it. */
static Buffer
lockChain(Relation index, const AnnHnswMetaPageData *meta, uint32 chain, int lockmode, AnnHnswChain **result)
{
	Buffer		buffer = AnnReadBlock(index, meta->chain_page + chain / ANN_HNSW_CHAINS_PER_PAGE, NULL);

	LockBuffer(buffer, lockmode);
	*result = (AnnHnswChain *) AnnPageRaw(AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_CHAIN)) +
		chain % ANN_HNSW_CHAINS_PER_PAGE;
	return buffer;
}

AnnHnswChain
AnnHnswReadChain(Relation index, const AnnHnswMetaPageData *meta, uint32 chain)
{
	AnnHnswChain *at;
	Buffer		buffer = lockChain(index, meta, chain, BUFFER_LOCK_SHARE, &at);
	AnnHnswChain result = *at;

	UnlockReleaseBuffer(buffer);
	return result;
}

/* Locks the page of a piece and points *result to it.  cache may be NULL. */
static Buffer
lockPiece(Relation index, AnnHnswCache *cache, const AnnHnswLayout *layout, uint32 piece, int lockmode,
		  AnnHnswPiece **result)
{
	BlockNumber block = AnnHnswPieceBlock(layout, piece);
	Buffer		buffer;

	if (unlikely(block == ANN_HNSW_META_BLOCK || piece == ANN_HNSW_NO_PIECE))
		AnnPageCorrupted(index, ANN_HNSW_META_BLOCK, "a chain names a piece that cannot be");
	buffer = cache != NULL ? AnnReadBuffer(index, &cache->hints, block) : AnnReadBlock(index, block, NULL);
	LockBuffer(buffer, lockmode);
	*result = AnnHnswPieceOnPage(layout, AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_PIECE), piece);
	if (unlikely((*result)->count > (uint32) AnnHnswPieceCards(layout)))
		AnnPageCorrupted(index, block, "a piece of a chain has more cards than it can hold");
	return buffer;
}

/* ---- new pieces and cards ---- */

/* A PIECE page whose pieces are free, each linked to the next one of the page; the last to none. */
void
AnnHnswInitPiecePage(const AnnHnswLayout *layout, Page page, BlockNumber block, BlockNumber next)
{
	int			per_page = AnnHnswPiecesPerPage(layout);

	AnnPageInit(page, ANN_HNSW_PAGE_ID, ANN_HNSW_PIECE);
	AnnPageOpaque(page)->next = next;
	AnnPageSetRawSize(page, per_page * AnnHnswPieceSize(layout));
	memset(AnnPageRaw(page), 0, per_page * AnnHnswPieceSize(layout));
	for (int i = 0; i < per_page; i++)
	{
		AnnHnswPiece *piece = AnnHnswPieceOnPage(layout, page, i);

		piece->chain = ANN_HNSW_NO_PIECE;
		piece->next = i < per_page - 1 ? block * per_page + i + 1 : ANN_HNSW_NO_PIECE;
	}
}

/*
 * Fills *card (AnnHnswCardSize bytes) for a row.  dense and scratch (float[dim]) are needed with codes.
 */
void
AnnHnswFormCard(const AnnHnswSpace *space, AnnRowId row, const float *dense, const char *area,
				AnnHnswCard *card, float *scratch)
{
	const AnnHnswLayout *layout = &space->layout;

	memset(card, 0, AnnHnswCardSize(layout));
	card->row = row;
	if (AnnHnswHasCodes(layout))
	{
		AnnCodeFactors factors;
		AnnHalf		halves[3];

		AnnHnswEncode(space, dense, card->code, &factors, scratch);
		AnnFactorsToHalf(&space->code, &factors, halves);
		card->add = halves[0];
		card->mul = halves[1];
	}
	memcpy(AnnHnswCardAttributes(layout, card), area, layout->attribute_size);
}

static void
tooManyRows(Relation index)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("index \"%s\" has too many rows for included columns", RelationGetRelationName(index))));
}

/*
 * Puts an empty piece in front of a chain, in one record, unless somebody else has done it since `full`
 * stood there.  Takes the meta page's lock and those
 * behind it: the caller holds no buffer lock but possibly a row page's.
 */
static void
addPiece(Relation index, AnnWriteMode mode, const AnnHnswMetaPageData *cached, uint32 chain, uint32 full)
{
	const AnnHnswLayout *layout = &cached->layout;
	Buffer		metabuf = ReadBuffer(index, ANN_HNSW_META_BLOCK);
	AnnHnswMetaPageData *meta;
	AnnHnswPiece *piece;
	AnnHnswChain *head;
	AnnPageEdit edit;
	Buffer		chainbuf;
	Buffer		buffer;
	uint32		id;
	bool		extend;
	Page		page;

	LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
	meta = AnnHnswMetaOnPage(AnnPageGet(index, metabuf, ANN_HNSW_PAGE_ID, ANN_HNSW_META));
	id = meta->free_pieces;
	chainbuf = lockChain(index, cached, chain, BUFFER_LOCK_EXCLUSIVE, &head);
	if (head->first != full)
	{
		UnlockReleaseBuffer(chainbuf);
		UnlockReleaseBuffer(metabuf);
		return;
	}
	extend = id == ANN_HNSW_NO_PIECE;
	if (extend)
	{
		buffer = AnnExtendRelation(index);
		if (BufferGetBlockNumber(buffer) >= ANN_HNSW_NO_PIECE / AnnHnswPiecesPerPage(layout))
			tooManyRows(index);
		id = BufferGetBlockNumber(buffer) * AnnHnswPiecesPerPage(layout);
	}
	else
	{
		buffer = lockPiece(index, NULL, layout, id, BUFFER_LOCK_EXCLUSIVE, &piece);
		if (piece->chain != ANN_HNSW_NO_PIECE)
			AnnPageCorrupted(index, BufferGetBlockNumber(buffer), "a piece in the list of free ones is not free");
	}
	edit = AnnPageEditBegin(index, mode);
	meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));
	head = (AnnHnswChain *) AnnPageRaw(AnnPageEditAdd(&edit, chainbuf, false)) + chain % ANN_HNSW_CHAINS_PER_PAGE;
	page = AnnPageEditAdd(&edit, buffer, extend);
	if (extend)
	{
		AnnHnswInitPiecePage(layout, page, BufferGetBlockNumber(buffer), meta->piece_pages);
		meta->piece_pages = BufferGetBlockNumber(buffer);
	}
	piece = AnnHnswPieceOnPage(layout, page, id);
	meta->free_pieces = piece->next;
	piece->chain = chain;
	piece->count = 0;
	piece->next = head->first;
	head->first = id;
	AnnPageEditCommit(&edit);
	UnlockReleaseBuffer(buffer);
	UnlockReleaseBuffer(chainbuf);
	UnlockReleaseBuffer(metabuf);
}

/*
 * Finds room for a card in the first piece of a chain, which gets a new one if need be.  *card
 * is looked at when the patches of `room` are applied.  The caller holds no buffer lock but
 * possibly a row page's, and gets those of the two buffers.
 */
void
AnnHnswLockRoom(Relation index, AnnWriteMode mode, const AnnHnswMetaPageData *meta, uint32 chain,
				const AnnHnswCard *card, AnnHnswRoom *room)
{
	const AnnHnswLayout *layout = &meta->layout;

	for (;;)
	{
		AnnHnswChain *head;
		AnnHnswPiece *first;
		uint32		id;

		room->chainbuf = lockChain(index, meta, chain, BUFFER_LOCK_EXCLUSIVE, &head);
		id = head->first;
		if (id != ANN_HNSW_NO_PIECE)
		{
			room->piecebuf = lockPiece(index, NULL, layout, id, BUFFER_LOCK_EXCLUSIVE, &first);
			if (first->chain != chain)
				AnnPageCorrupted(index, BufferGetBlockNumber(room->piecebuf),
								 "a piece is not of the chain that begins with it");
			if (first->count < (uint32) AnnHnswPieceCards(layout))
			{
				room->rows = head->rows + 1;
				room->count = first->count + 1;
				room->chain_patch = (AnnPagePatch) {&head->rows, &room->rows, sizeof(room->rows)};
				room->piece_patches[0] = (AnnPagePatch) {&first->count, &room->count, sizeof(room->count)};
				room->piece_patches[1] = (AnnPagePatch) {AnnHnswPieceCard(layout, first, (int) first->count), card,
				(uint16) AnnHnswCardSize(layout)};
				return;
			}
			UnlockReleaseBuffer(room->piecebuf);
		}
		UnlockReleaseBuffer(room->chainbuf);
		addPiece(index, mode, meta, chain, id);
	}
}

/* ---- the chains of a new index ---- */

typedef struct ChainBuild
{
	Relation	index;
	AnnHnswMetaPageData meta;
	AnnHnswSpace space;
	AnnAttributes *attributes;
	BlockNumber nblocks;		/* before there are pieces */
	AnnHnswChain *chains;
	uint32	   *filled;			/* of each chain: cards that it has got */
	char	   *vector;
	float	   *dense;
	float	   *scratch;
	AnnHnswCard *card;
} ChainBuild;

/* A row goes into its chain: of n pieces the last is the first one, and has room. */
static void
chainRow(ChainBuild *build, AnnRowId id, AnnHnswRowHeader *row)
{
	const AnnHnswLayout *layout = &build->meta.layout;
	const char *area = AnnHnswRowAttributes(layout, row);
	uint32		chain = AnnHnswChainOf(&build->meta, build->attributes, area);
	uint32		cards = (uint32) AnnHnswPieceCards(layout);
	uint32		pieces = (build->chains[chain].rows + cards - 1) / cards;
	uint32		at = build->chains[chain].first - (pieces - 1) + build->filled[chain]++ / cards;
	AnnHnswPiece *piece;
	Buffer		buffer;

	if (AnnHnswHasCodes(layout))
		AnnHnswDecode(&build->space, AnnHnswStoredVector(build->index, layout, row, build->vector), build->dense);
	AnnHnswFormCard(&build->space, id, build->dense, area, build->card, build->scratch);
	buffer = lockPiece(build->index, NULL, layout, at, BUFFER_LOCK_EXCLUSIVE, &piece);
	piece->chain = chain;
	piece->next = at > build->chains[chain].first - (pieces - 1) ? at - 1 : ANN_HNSW_NO_PIECE;
	memcpy(AnnHnswPieceCard(layout, piece, (int) piece->count++), build->card, AnnHnswCardSize(layout));
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
}

/* Counts the rows of each chain or, if `put`, makes their cards. */
static void
passOverRows(ChainBuild *build, bool put)
{
	const AnnHnswLayout *layout = &build->meta.layout;

	for (BlockNumber block = ANN_HNSW_META_BLOCK + 1; block < build->nblocks; block++)
	{
		Buffer		buffer = ReadBuffer(build->index, block);
		Page		page = BufferGetPage(buffer);

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		if (AnnPageIsOurs(page, ANN_HNSW_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_HNSW_ROW)
			for (int i = 0; i < layout->rows_per_page; i++)
			{
				AnnHnswRowHeader *row = AnnHnswRowOnPage(layout, page, i);

				if (row->state != ANN_HNSW_LIVE)
					continue;
				if (put)
					chainRow(build, block * layout->rows_per_page + i, row);
				else
					build->chains[AnnHnswChainOf(&build->meta, build->attributes, AnnHnswRowAttributes(layout, row))].rows++;
			}
		UnlockReleaseBuffer(buffer);
	}
}

/* Extends the index by pages for so many pieces; the pieces behind the last of them are free ones. */
static void
addPiecePages(ChainBuild *build, uint64 pieces)
{
	const AnnHnswLayout *layout = &build->meta.layout;
	int			per_page = AnnHnswPiecesPerPage(layout);
	BlockNumber last = InvalidBlockNumber;
	Buffer		buffer;

	for (uint64 done = 0; done < pieces; done += per_page)
	{
		CHECK_FOR_INTERRUPTS();
		buffer = AnnExtendRelation(build->index);
		AnnHnswInitPiecePage(layout, BufferGetPage(buffer), BufferGetBlockNumber(buffer), last);
		last = BufferGetBlockNumber(buffer);
		MarkBufferDirty(buffer);
		UnlockReleaseBuffer(buffer);
	}
	buffer = ReadBuffer(build->index, ANN_HNSW_META_BLOCK);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	AnnHnswMetaOnPage(BufferGetPage(buffer))->piece_pages = last;
	if (pieces % per_page != 0)
		AnnHnswMetaOnPage(BufferGetPage(buffer))->free_pieces = last * per_page + (uint32) (pieces % per_page);
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
}

/*
 * Makes the chains of an index that was just built, the pieces of each side by side.
 * Nothing is logged.
 */
void
AnnHnswChainRows(Relation index, AnnAttributes *attributes)
{
	ChainBuild	build = {.index = index, .attributes = attributes, .nblocks = RelationGetNumberOfBlocks(index)};
	const AnnHnswLayout *layout = &build.meta.layout;
	uint64		pieces = 0;
	uint64		first;

	AnnHnswReadMeta(index, &build.meta);
	if (build.meta.nchains == 0)
		return;
	AnnHnswSpaceInit(&build.space, &build.meta, AnnHnswReadCenter(index, &build.meta));
	build.vector = palloc(layout->vector_size);
	build.dense = palloc(sizeof(float) * layout->dim);
	build.scratch = palloc(sizeof(float) * layout->dim);
	build.card = palloc(AnnHnswCardSize(layout));
	build.chains = palloc0(mul_size(sizeof(AnnHnswChain), build.meta.nchains));
	build.filled = palloc0(mul_size(sizeof(uint32), build.meta.nchains));

	passOverRows(&build, false);
	first = (uint64) build.nblocks * AnnHnswPiecesPerPage(layout);
	for (uint32 i = 0; i < build.meta.nchains; i++)
	{
		pieces += (build.chains[i].rows + AnnHnswPieceCards(layout) - 1) / AnnHnswPieceCards(layout);
		build.chains[i].first = build.chains[i].rows > 0 ? (uint32) (first + pieces - 1) : ANN_HNSW_NO_PIECE;
	}
	if (first + pieces >= ANN_HNSW_NO_PIECE)
		tooManyRows(index);
	addPiecePages(&build, pieces);
	passOverRows(&build, true);
	for (uint32 i = 0; i < build.meta.nchains; i += ANN_HNSW_CHAINS_PER_PAGE)
	{
		AnnHnswChain *at;
		Buffer		buffer = lockChain(index, &build.meta, i, BUFFER_LOCK_EXCLUSIVE, &at);

		memcpy(at, build.chains + i, sizeof(AnnHnswChain) * ANN_HNSW_CHAINS_PER_PAGE);
		MarkBufferDirty(buffer);
		UnlockReleaseBuffer(buffer);
	}
}

/* ---- walks ---- */

/* The pieces that a walk has seen: a table with at least half of its places empty, ANN_HNSW_NO_PIECE. */
typedef struct SeenPieces
{
	uint32	   *places;
	uint64		capacity;		/* a power of two */
	uint64		count;
} SeenPieces;

static void
initSeen(SeenPieces *seen, uint64 capacity)
{
	seen->places = palloc_extended(mul_size(sizeof(uint32), capacity), MCXT_ALLOC_HUGE);
	memset(seen->places, 0xFF, sizeof(uint32) * capacity);
	seen->capacity = capacity;
	seen->count = 0;
}

/* True if the piece was not seen before; it is now. */
static bool
addSeen(SeenPieces *seen, uint32 piece)
{
	uint64		i = murmurhash32(piece) & (seen->capacity - 1);

	for (; seen->places[i] != ANN_HNSW_NO_PIECE; i = (i + 1) & (seen->capacity - 1))
		if (seen->places[i] == piece)
			return false;
	seen->places[i] = piece;
	if (++seen->count * 2 > seen->capacity)
	{
		SeenPieces	old = *seen;

		initSeen(seen, old.capacity * 2);
		for (i = 0; i < old.capacity; i++)
			if (old.places[i] != ANN_HNSW_NO_PIECE)
				addSeen(seen, old.places[i]);
		pfree(old.places);
	}
	return true;
}

/* A chain cannot have more pieces than there are: raises an error for one that has a cycle. */
static void
checkLength(Relation index, const AnnHnswLayout *layout, uint32 piece, uint64 length)
{
	CHECK_FOR_INTERRUPTS();
	if (length % 4096 == 0 && length > (uint64) RelationGetNumberOfBlocks(index) * AnnHnswPiecesPerPage(layout))
		AnnPageCorrupted(index, AnnHnswPieceBlock(layout, piece), "a chain of pieces has a cycle");
}

/*
 * Calls back for the pieces of a chain, each once.  A piece may have been freed and used
 * again since its id was read: if it is not of the chain any more the walk begins again,
 * and if it is, it stands at the chain's front now and all that was behind it follows, pieces
 * that the walk has seen among it.  Cards of rows that a snapshot can see stay in their pieces.
 */
void
AnnHnswWalkChain(Relation index, AnnHnswCache *cache, uint32 chain, AnnHnswPieceVisit visit, void *arg)
{
	const AnnHnswLayout *layout = &cache->meta.layout;
	AnnHnswChain head = AnnHnswReadChain(index, &cache->meta, chain);
	SeenPieces	seen;
	Size		size = AnnHnswPieceSize(layout);
	uint32		per_page = (uint32) AnnHnswPiecesPerPage(layout);
	uint32		most = (uint32) AnnHnswPieceCards(layout);
	int			restarts = 0;
	uint64		length = 0;		/* pieces in succession that were seen before */
	uint32		id = head.first;

	initSeen(&seen, pg_nextpower2_64(2 * Min(Max(head.rows / AnnHnswPieceCards(layout), 8), 65536)));
	while (id != ANN_HNSW_NO_PIECE)
	{
		AnnHnswPiece *piece;
		Buffer		buffer = lockPiece(index, cache, layout, id, BUFFER_LOCK_SHARE, &piece);
		BlockNumber block = AnnHnswPieceBlock(layout, id);
		uint32		first = block * per_page;
		char	   *start = AnnPageRaw(BufferGetPage(buffer));
		bool		strange = false;

		/* Those of a build lie side by side. */
		do
		{
			AnnHnswPiece *next = piece;

			if (piece->next - first < per_page)
				next = (AnnHnswPiece *) (start + (piece->next - first) * size);
			for (Size i = 0; i < size; i += LINE_BYTES)
				__builtin_prefetch((char *) next + i);
			if ((strange = piece->chain != chain || piece->count > most))
				break;
			if (!addSeen(&seen, id))
				length++;
			else
			{
				length = 0;
				visit(arg, piece);
			}
			id = piece->next;
			piece = next;
		} while (length == 0 && id - first < per_page);
		UnlockReleaseBuffer(buffer);
		checkLength(index, layout, id, length);
		if (strange)
		{
			if (++restarts > MAX_RESTARTS)
				AnnPageCorrupted(index, block, "it has a piece that is not of the chain that leads to it");
			length = 0;
			id = AnnHnswReadChain(index, &cache->meta, chain).first;
		}
	}
	pfree(seen.places);
}

/* Calls back for every piece of the index that is in a chain. */
void
AnnHnswWalkPieces(Relation index, AnnHnswCache *cache, AnnHnswPieceVisit visit, void *arg)
{
	const AnnHnswLayout *layout = &cache->meta.layout;
	BlockNumber block = cache->meta.piece_pages;
	BlockNumber pages = 0;

	while (BlockNumberIsValid(block))
	{
		AnnHnswPiece *piece;
		int			per_page = AnnHnswPiecesPerPage(layout);
		Buffer		buffer = lockPiece(index, cache, layout, block * per_page, BUFFER_LOCK_SHARE, &piece);
		Page		page = BufferGetPage(buffer);

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < per_page; i++)
		{
			piece = AnnHnswPieceOnPage(layout, page, i);
			if (piece->chain != ANN_HNSW_NO_PIECE && piece->count <= (uint32) AnnHnswPieceCards(layout))
				visit(arg, piece);
		}
		if (++pages % 1024 == 0 && pages > RelationGetNumberOfBlocks(index))
			AnnPageCorrupted(index, block, "the list of PIECE pages has a cycle");
		block = AnnPageOpaque(page)->next;
		UnlockReleaseBuffer(buffer);
	}
}

/* ---- VACUUM ---- */

/* The piece behind this one. */
static uint32
readLink(Relation index, const AnnHnswLayout *layout, uint32 id)
{
	AnnHnswPiece *piece;
	Buffer		buffer = lockPiece(index, NULL, layout, id, BUFFER_LOCK_SHARE, &piece);
	uint32		next = piece->next;

	UnlockReleaseBuffer(buffer);
	return next;
}

/*
 * Takes a piece out of its chain and makes it a free one, if it is empty still; it was behind `prev`
 * when it was read (ANN_HNSW_NO_PIECE: the first one).  Inserts put pieces in front meanwhile, so
 * the first one need not be that any more.  False if it is not empty.
 */
static bool
freePiece(Relation index, const AnnHnswMetaPageData *cached, uint32 chain, uint32 prev, uint32 id)
{
	const AnnHnswLayout *layout = &cached->layout;
	Buffer		metabuf = ReadBuffer(index, ANN_HNSW_META_BLOCK);
	Buffer		prevbuf = InvalidBuffer;
	AnnHnswChain *head;
	AnnHnswPiece *piece;
	Buffer		chainbuf;
	Buffer		buffer;
	bool		empty;

	/* Nobody else holds two PIECE pages, and who adds to a chain holds its page. */
	LockBuffer(metabuf, BUFFER_LOCK_EXCLUSIVE);
	AnnPageGet(index, metabuf, ANN_HNSW_PAGE_ID, ANN_HNSW_META);
	chainbuf = lockChain(index, cached, chain, BUFFER_LOCK_EXCLUSIVE, &head);
	if (prev == ANN_HNSW_NO_PIECE && head->first != id)
	{
		uint64		length = 0;

		prev = head->first;
		for (;;)
		{
			uint32		next = readLink(index, layout, prev);

			if (next == id)
				break;
			if (next == ANN_HNSW_NO_PIECE)
				AnnPageCorrupted(index, AnnHnswPieceBlock(layout, id), "a piece is not in its chain any more");
			checkLength(index, layout, next, ++length);
			prev = next;
		}
	}
	buffer = lockPiece(index, NULL, layout, id, BUFFER_LOCK_EXCLUSIVE, &piece);
	if (prev != ANN_HNSW_NO_PIECE && AnnHnswPieceBlock(layout, prev) != AnnHnswPieceBlock(layout, id))
	{
		AnnHnswPiece *before;

		prevbuf = lockPiece(index, NULL, layout, prev, BUFFER_LOCK_EXCLUSIVE, &before);
	}
	empty = piece->count == 0;
	if (empty)
	{
		AnnPageEdit edit = AnnPageEditBegin(index, ANN_WRITE_WAL);
		AnnHnswMetaPageData *meta = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, metabuf, false));
		Page		page = AnnPageEditAdd(&edit, buffer, false);

		piece = AnnHnswPieceOnPage(layout, page, id);
		if (prev != ANN_HNSW_NO_PIECE)
			AnnHnswPieceOnPage(layout, BufferIsValid(prevbuf) ? AnnPageEditAdd(&edit, prevbuf, false) : page, prev)->next = piece->next;
		else
			((AnnHnswChain *) AnnPageRaw(AnnPageEditAdd(&edit, chainbuf, false)) + chain % ANN_HNSW_CHAINS_PER_PAGE)->first = piece->next;
		piece->chain = ANN_HNSW_NO_PIECE;
		piece->next = meta->free_pieces;
		meta->free_pieces = id;
		AnnPageEditCommit(&edit);
	}
	if (BufferIsValid(prevbuf))
		UnlockReleaseBuffer(prevbuf);
	UnlockReleaseBuffer(buffer);
	UnlockReleaseBuffer(chainbuf);
	UnlockReleaseBuffer(metabuf);
	return empty;
}

/* Takes the cards of rows of the set out of a piece; says how many these were, how many are left, and what follows. */
static uint32
cleanPiece(Relation index, const AnnHnswLayout *layout, uint32 id, const AnnHnswRowSet *rows, uint32 *left, uint32 *next)
{
	AnnHnswPiece *piece;
	Buffer		buffer = lockPiece(index, NULL, layout, id, BUFFER_LOCK_EXCLUSIVE, &piece);
	uint32		dead = 0;

	for (uint32 i = 0; i < piece->count; i++)
		dead += AnnHnswRowSetHas(rows, AnnHnswPieceCard(layout, piece, (int) i)->row);
	if (dead > 0)
	{
		AnnPageEdit edit = AnnPageEditBegin(index, ANN_WRITE_WAL);
		uint32		kept = 0;

		piece = AnnHnswPieceOnPage(layout, AnnPageEditAdd(&edit, buffer, false), id);
		for (uint32 i = 0; i < piece->count; i++)
		{
			AnnHnswCard *card = AnnHnswPieceCard(layout, piece, (int) i);

			if (AnnHnswRowSetHas(rows, card->row))
				continue;
			if (kept < i)
				memcpy(AnnHnswPieceCard(layout, piece, (int) kept), card, AnnHnswCardSize(layout));
			kept++;
		}
		piece->count = kept;
		AnnPageEditCommit(&edit);
		piece = AnnHnswPieceOnPage(layout, BufferGetPage(buffer), id);
	}
	*left = piece->count;
	*next = piece->next;
	UnlockReleaseBuffer(buffer);
	return dead;
}

/* Takes the rows of the set out of one chain. */
static void
cleanChain(Relation index, const AnnHnswMetaPageData *meta, uint32 chain, const AnnHnswRowSet *rows)
{
	const AnnHnswLayout *layout = &meta->layout;
	uint32		id = AnnHnswReadChain(index, meta, chain).first;
	uint32		prev = ANN_HNSW_NO_PIECE;
	uint64		length = 0;
	uint32		removed = 0;

	while (id != ANN_HNSW_NO_PIECE)
	{
		uint32		next;
		uint32		left;

		AnnVacuumDelayPoint();
		checkLength(index, layout, id, ++length);
		removed += cleanPiece(index, layout, id, rows, &left, &next);
		/* Pieces that inserts have put in front meanwhile have none of ours. */
		if (left > 0 || !freePiece(index, meta, chain, prev, id))
			prev = id;
		id = next;
	}
	/* The count goes down after its rows have gone: a crash leaves it too high, not too low. */
	if (removed > 0)
	{
		AnnHnswChain *at;
		Buffer		buffer = lockChain(index, meta, chain, BUFFER_LOCK_EXCLUSIVE, &at);
		uint32		rest = at->rows - Min(at->rows, removed);
		AnnPagePatch patch = {&at->rows, &rest, sizeof(rest)};

		AnnPageApply(index, ANN_WRITE_WAL, buffer, &patch, 1);
		UnlockReleaseBuffer(buffer);
	}
}

/*
 * Takes rows that are being deleted out of their chains, before they are freed.
 * For VACUUM, which alone does that.
 */
void
AnnHnswUnchainRows(Relation index, const AnnHnswMetaPageData *meta, const AnnHnswRowSet *rows)
{
	const AnnHnswLayout *layout = &meta->layout;
	AnnAttributes *attributes;
	AnnHnswRowSet chains;
	AnnRowId	chain = 0;

	if (meta->nchains == 0)
		return;
	attributes = AnnAttributesCreate(index);
	AnnHnswRowSetInit(&chains, meta->nchains);
	for (AnnRowId row = 0; AnnHnswRowSetNext(rows, &row); row++)
	{
		char		area[ANN_ATTRIBUTES_MAX_SIZE];
		AnnHnswRowHeader *header;
		Buffer		buffer = AnnHnswLockRow(index, NULL, layout, row, BUFFER_LOCK_SHARE, &header);

		memcpy(area, AnnHnswRowAttributes(layout, header), layout->attribute_size);
		UnlockReleaseBuffer(buffer);
		AnnVacuumDelayPoint();
		AnnHnswRowSetAdd(&chains, AnnHnswChainOf(meta, attributes, area));
	}
	for (; AnnHnswRowSetNext(&chains, &chain); chain++)
		cleanChain(index, meta, chain, rows);
	AnnHnswRowSetFree(&chains);
	pfree(attributes);
}
