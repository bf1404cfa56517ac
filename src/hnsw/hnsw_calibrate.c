/*
 * hnsw_calibrate.c
 *	  The ef that gives a new index its recall.  README: Build.
 *
 * Rows of the index are searched for as if they were not in it.  A search with a
 * small beam visits the first rows that one with a large beam visits, and ends when
 * the first ef entries of the beam are visited; so one search tells, for each of
 * the nearest rows, the least ef that finds it.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "hnsw/hnsw_build.h"
#include "hnsw/hnsw_search.h"

#define NEAREST 10

/* Recall that is aimed at, with a margin for what the large beam misses. */
#define TARGET (0.95 + 0.01)

/* The large beam is at first, at least as a multiple of what is found, and at most. */
#define FIRST_EF 256
#define TIMES_EF 2.5
#define LAST_EF 8192

/* A row that a search has come to. */
typedef struct Found
{
	float		score;
	int			ef;				/* the least that finds it */
} Found;

typedef struct Nearest
{
	const AnnHnswSearch *search;
	int			n;
	Found		found[NEAREST];	/* ascending */
} Nearest;

/* Keeps the nearest rows. */
static void
collect(void *arg, AnnRowId row, const AnnHnswRowHeader *header, const char *stored, float score,
		const AnnHnswEdgeCode *code)
{
	Nearest    *nearest = (Nearest *) arg;
	int			at;

	if (nearest->n == NEAREST && score >= nearest->found[NEAREST - 1].score)
		return;
	at = nearest->n < NEAREST ? nearest->n++ : NEAREST - 1;
	for (; at > 0 && nearest->found[at - 1].score > score; at--)
		nearest->found[at] = nearest->found[at - 1];
	nearest->found[at].score = score;
	nearest->found[at].ef = Max(nearest->search->reach, 1);
}

/*
 * The least ef with which the searches for these rows find the target's share of
 * their nearest rows, as a search with a beam of `ef` knows them.
 */
static int
leastEf(AnnBuild *build, const AnnRowId *rows, int nrows, int ef)
{
	AnnHnswCache *cache = AnnHnswCacheGet(build->index);
	uint32	   *count = palloc0(sizeof(uint32) * (ef + 1));
	char	   *stored = palloc(build->meta.layout.vector_size);
	MemoryContext old = MemoryContextSwitchTo(build->tuple_context);
	uint64		total = 0;
	uint64		sum = 0;
	int			result = 1;

	for (int i = 0; i < nrows; i++)
	{
		AnnHnswSearch *search = AnnHnswSearchAcquire();
		Nearest		nearest = {.search = search};

		CHECK_FOR_INTERRUPTS();
		AnnBuildReadRow(build, rows[i], NULL, stored);
		search->index = build->index;
		search->cache = cache;
		search->space = &build->space;
		search->query = AnnHnswQueryFromStored(&build->space, stored);
		search->ef = ef;
		search->keep_dropped = false;
		search->keep_results = false;
		search->hook = collect;
		search->hook_arg = &nearest;
		search->skip = rows[i];
		AnnHnswSearchBegin(search);
		AnnHnswSearchBeam(search);
		AnnHnswSearchRelease(search);
		for (int j = 0; j < nearest.n; j++)
			count[Min(nearest.found[j].ef, ef)]++;
		total += nearest.n;
		MemoryContextReset(build->tuple_context);
	}
	for (int e = 0; e <= ef && sum < TARGET * total; e++)
	{
		sum += count[e];
		result = e;
	}
	MemoryContextSwitchTo(old);
	pfree(count);
	pfree(stored);
	return Max(result, 1);
}

/*
 * Finds the ef of an index whose rows have their edges, and writes it into the meta
 * page.  `rows` is a sample of them; those that are not live are left out.
 */
void
AnnBuildCalibrate(AnnBuild *build, const AnnRowId *rows, int nrows)
{
	AnnRowId   *live = palloc(sizeof(AnnRowId) * Max(nrows, 1));
	int			nlive = 0;
	int			ef = FIRST_EF;
	int			result;
	Buffer		buffer;
	AnnPageEdit edit;

	AnnBuildReport(build, ANN_BUILD_CALIBRATE);
	for (int i = 0; i < nrows; i++)
		if (AnnBuildRowIsLive(build, rows[i]))
			live[nlive++] = rows[i];
	if (nlive > 0)
	{
		AnnHnswCacheRefresh(build->index, AnnHnswCacheGet(build->index));
		while ((result = leastEf(build, live, nlive, ef)) * TIMES_EF > ef && ef < LAST_EF)
			ef *= 2;

		buffer = ReadBuffer(build->index, ANN_HNSW_META_BLOCK);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		edit = AnnPageEditBegin(build->index, ANN_WRITE_BUILD);
		AnnHnswMetaOnPage(AnnPageEditAdd(&edit, buffer, false))->ef_search = result;
		AnnPageEditCommit(&edit);
		UnlockReleaseBuffer(buffer);
	}
	pfree(live);
}
