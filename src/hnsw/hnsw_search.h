/*
 * hnsw_search.h
 *	  Best-first search of the graph, for scans and for inserts.
 */
#ifndef ANN_HNSW_SEARCH_H
#define ANN_HNSW_SEARCH_H

#include "hnsw/hnsw.h"
#include "space/scan.h"

/* The graph is given up for a sweep when this share of the rows has been visited. */
#define ANN_HNSW_SWEEP_SHARE 8

/*
 * Visits that a scan makes for each row it returns.  The farther part of what
 * was visited may still be overtaken by rows that are not known yet, and a row
 * returned too early makes them late.  ef is about what ten rows need.
 */
static inline int
AnnHnswVisitsPerRow(int ef)
{
	return Max(2, Min(8, ef / 10));
}

/* A row that was seen, with its score: estimated with codes, true without. */
typedef struct AnnHnswCandidate
{
	float		score;
	AnnRowId	row;
} AnnHnswCandidate;

typedef struct AnnHnswBeamEntry
{
	float		score;
	AnnRowId	row;
	uint32		visited:1;
	uint32		code:31;		/* place in the search's codes, if it keeps them */
} AnnHnswBeamEntry;

/* The code of a row as the edge that led to it has it. */
typedef struct AnnHnswEdgeCode
{
	AnnHalf		factors[2];		/* add, mul */
	uint8		code[FLEXIBLE_ARRAY_MEMBER];
} AnnHnswEdgeCode;

/* What is still to be asked for, from memory, of a row that will be visited soon. */
typedef struct AnnHnswAhead
{
	const char *at;
	const char *end;
} AnnHnswAhead;

/* A row whose own vector was scored. */
typedef struct AnnHnswResult
{
	double		lo;				/* bounds of the operator's result */
	double		hi;
	float		score;
	AnnRowId	row;
	uint32		node;
	uint8		ntids;
	ItemPointerData tids[ANN_HNSW_INLINE_TIDS];
} AnnHnswResult;

/*
 * Called for each live row whose vector is scored, under the share lock of its
 * page: copy what is needed.  code is NULL without codes.
 */
typedef void (*AnnHnswVisitHook) (void *arg, AnnRowId row, const AnnHnswRowHeader *header,
								  const char *stored, float score, const AnnHnswEdgeCode *code);

typedef struct AnnHnswSearch
{
	/* Given by the caller */
	Relation	index;
	AnnHnswCache *cache;		/* set anew in every access method call */
	const AnnHnswSpace *space;
	const AnnHnswQuery *query;
	int			ef;
	bool		keep_dropped;	/* the search may go on after the beam */
	bool		keep_results;
	AnnRowId	skip;			/* a row to search as if it were not there; 0: none */
	const AnnIndexScan *filter; /* which rows count; NULL: all */
	int			wanted;			/* with a filter: rows to be found, at most ef */
	bool		(*enough) (const struct AnnHnswSearch *search, void *arg);	/* with a filter: ends the beam */
	void	   *enough_arg;
	bool		by_cards;		/* all rows to visit are in the frontier from the start */
	AnnHnswVisitHook hook;
	void	   *hook_arg;

	/* The beam, ascending by score; entries before `next` are visited */
	AnnHnswBeamEntry *beam;
	int			beam_capacity;
	int			nbeam;
	int			next;
	int			deepest;		/* the furthest `next` was */
	int			reach;			/* and when the row that is being visited was chosen: with this ef the same
								 * rows are visited so far */

	/* What the beam dropped: unsorted at first, then a heap; by cards nunordered at first that are behind those of the heap */
	AnnHnswCandidate *frontier;
	int			nfrontier;
	int			nunordered;
	int			norder;			/* by_cards: about so many are ordered next */
	int			frontier_capacity;
	Size		max_frontier;	/* by_cards */
	char	   *cards;			/* copies of those whose rows come to the frontier next */
	int			ncards;
	bool		frontier_is_heap;

	/* With a filter: the best ef scores of members that were found, and the best `wanted`: heaps with the worst on top */
	float	   *best;
	int			best_capacity;
	int			nbest;
	float	   *nearest;
	int			nearest_capacity;
	int			nnearest;

	/* Of members that were visited: their number, sum and sum of squares of score minus estimate */
	double		nerrors;
	double		errors;
	double		errors2;
	float		estimate;		/* of the row that is being visited */
	double		zero;			/* the score of a distance of zero */
	double		penalty;		/* what rows that do not count have added to their score, of its difference from that */
	ItemPointerData *tids;		/* scratch */
	int			tids_capacity;

	/* Heap of results by lo */
	AnnHnswResult *results;
	int			nresults;
	int			results_capacity;

	/* Rows seen: open addressing, a slot is in use if its generation is this one */
	uint64	   *seen;
	uint32		seen_capacity;
	uint32		nseen;
	uint32		generation;

	/* Codes of the rows that entered the beam, for a hook */
	char	   *codes;
	int			ncodes;
	int			codes_capacity;
	uint32		visiting;		/* number of the code of the row that is being visited */

	uint64		nvisited;		/* rows expanded */
	uint64		nscored;		/* vectors scored */
	uint64		nmatched;		/* with a filter: heap TIDs found that are members */
	uint64		nunplaced;		/* rows whose score is no number, so that they are no results */
	char	   *vector;			/* scratch for external vectors */

	MemoryContext context;		/* of the arrays */
	struct SearchOwner *owner;	/* who has the backend's pooled search; NULL for one of its own */
} AnnHnswSearch;

extern AnnHnswSearch *AnnHnswSearchAcquire(void);
extern void AnnHnswSearchRelease(AnnHnswSearch *search);
extern void AnnHnswSearchBegin(AnnHnswSearch *search);
extern void AnnHnswSearchBeam(AnnHnswSearch *search);
extern void AnnHnswSearchBeginCards(AnnHnswSearch *search, const AnnRowId *skip, uint64 nskip, Size memory);
extern void AnnHnswSearchOfferPiece(void *search, const AnnHnswPiece *piece);
extern void AnnHnswSearchOrderCards(AnnHnswSearch *search);
extern bool AnnHnswSearchIsSettled(const AnnHnswSearch *search);
extern bool AnnHnswSearchHasAll(const AnnHnswSearch *search);
extern bool AnnHnswSearchMore(AnnHnswSearch *search);
extern bool AnnHnswPopResult(AnnHnswSearch *search, AnnHnswResult *result);
extern Size AnnHnswSearchMemory(const AnnHnswSearch *search);
extern const char *AnnHnswStoredVector(Relation index, const AnnHnswLayout *layout,
									   AnnHnswRowHeader *header, char *scratch);

#endif							/* ANN_HNSW_SEARCH_H */
