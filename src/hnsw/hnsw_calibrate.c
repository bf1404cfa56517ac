/*
 * hnsw_calibrate.c
 *	  The ef that gives an index its recall.  README: Calibration.
 *
 * Rows of the index are searched for as if they were not in it.  A search with a
 * small beam visits the first rows that one with a large beam visits, and ends when
 * the first ef entries of the beam are visited; so one search tells, for each of
 * the nearest rows, the least ef that finds it.
 */
#include "postgres.h"

#include "commands/vacuum.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "hnsw/hnsw_build.h"
#include "hnsw/hnsw_search.h"

#define NEAREST 10

/* Recall that is aimed at, with a margin for what the large beam misses. */
#define TARGET (0.95 + 0.01)

/* The large beam is at first, at least as a multiple of what is found, and at most. */
#define FIRST_EF 256
#define TIMES_EF 2.5
#define LAST_EF ANN_BUILD_CALIBRATION_LAST_EF

/* Rows visited with one width of the beam, at most: wider ones take fewer searches. */
#define VISITS (300 * 1024)

/* Searches that a participant of a build takes at once. */
#define SEARCHES 4

/* Rows that an insert searches for. */
#define INSERT_ROWS 32

/* Below this number of rows the ef is not less than the default: what is found soon has grown. */
#define FEW_ROWS 1024

/* Looks at so many places of rows for each one that it wants, where many are free. */
#define SAMPLE_TRIES 16

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

/* A calibration. */
typedef struct Calibration
{
	Relation	index;
	const AnnHnswMetaPageData *meta;	/* as it was at first */
	AnnHnswSpace space;
	const AnnRowId *rows;		/* sample */
	int			nrows;
	AnnBuild   *build;			/* whose participants share the work, or NULL */
	AnnBuildCalibration *shared;	/* theirs, or this backend's own */
	char	   *stored;
	MemoryContext search_context;	/* reset after each search */
} Calibration;

/* Empties what is counted.  In a build everybody waits for that, so nobody counts any more. */
static void
startCounting(Calibration *c)
{
	if (c->build != NULL)
		AnnBuildWait(c->build);
	if (c->build == NULL || c->build->leader)
		for (int i = 0; i <= LAST_EF; i++)
			pg_atomic_init_u32(&c->shared->found[i], 0);
	if (c->build != NULL)
	{
		if (c->build->leader)
			AnnBuildRestart(c->build);
		AnnBuildWait(c->build);
	}
}

/* Takes the next of so many rows, *start to *end - 1, which begins at 0; false if there are none. */
static bool
takeRows(Calibration *c, uint32 count, uint32 *start, uint32 *end)
{
	if (c->build != NULL)
		return AnnBuildTake(c->build, count, SEARCHES, start, end);
	*start = *end;
	*end = count;
	return *start < *end;
}

/* Reads a row's vector into c->stored; false if it is not live. */
static bool
readVector(Calibration *c, AnnRowId row)
{
	const AnnHnswLayout *layout = &c->space.layout;
	AnnHnswRowHeader *header;
	Buffer		buffer = AnnHnswLockRow(c->index, NULL, layout, row, BUFFER_LOCK_SHARE, &header);
	const char *found = header->state != ANN_HNSW_LIVE ? NULL :
		AnnHnswStoredVector(c->index, layout, header, c->stored);

	if (found != NULL && found != c->stored)
		memcpy(c->stored, found, layout->vector_size);
	UnlockReleaseBuffer(buffer);
	return found != NULL;
}

/*
 * Searches for the vector in c->stored as if `row` were not there.  False if the
 * index has got another centre.
 */
static bool
searchFor(Calibration *c, AnnRowId row, int ef, Nearest *nearest)
{
	AnnHnswCache *cache = AnnHnswCacheGet(c->index);
	AnnHnswSearch *search;

	AnnHnswCacheRefresh(c->index, cache);
	if (cache->meta.build_id != c->meta->build_id || cache->meta.recoding)
		return false;
	search = AnnHnswSearchAcquire();
	search->index = c->index;
	search->cache = cache;
	search->space = &c->space;
	search->query = AnnHnswQueryFromStored(&c->space, c->stored);
	search->ef = ef;
	search->keep_dropped = false;
	search->keep_results = false;
	search->hook = collect;
	search->hook_arg = nearest;
	search->skip = row;
	nearest->search = search;
	nearest->n = 0;
	AnnHnswSearchBegin(search);
	AnnHnswSearchBeam(search);
	AnnHnswSearchRelease(search);
	return true;
}

/*
 * The least ef with which the searches for the rows find the target's share of
 * their nearest rows, as a search with a beam of `ef` knows them; 0 if no row is live, or
 * if the index has got another centre.
 */
static int
leastEf(Calibration *c, int ef)
{
	AnnBuildCalibration *shared = c->shared;
	int			nrows = Min(c->nrows, VISITS / ef);
	uint64		total = 0;
	uint64		sum = 0;
	int			result = 0;
	uint32		start = 0;
	uint32		end = 0;

	startCounting(c);
	while (takeRows(c, nrows, &start, &end))
		for (uint32 i = start; i < end; i++)
		{
			MemoryContext old;
			Nearest		nearest;
			AnnRowId	row = c->rows[(int64) i * c->nrows / nrows];
			bool		valid;

			/* Outside of VACUUM it looks for interrupts only. */
			AnnVacuumDelayPoint();
			if (!readVector(c, row))
				continue;
			old = MemoryContextSwitchTo(c->search_context);
			valid = searchFor(c, row, ef, &nearest);
			MemoryContextSwitchTo(old);
			MemoryContextReset(c->search_context);
			if (!valid)
			{
				if (c->build != NULL)
					elog(ERROR, "index \"%s\" has got another center", RelationGetRelationName(c->index));
				return 0;
			}
			for (int j = 0; j < nearest.n; j++)
				pg_atomic_fetch_add_u32(&shared->found[Min(nearest.found[j].ef, ef)], 1);
		}
	if (c->build != NULL)
		AnnBuildWait(c->build);
	for (int e = 0; e <= ef; e++)
		total += pg_atomic_read_u32(&shared->found[e]);
	for (int e = 0; e <= ef && sum < TARGET * total; e++)
	{
		sum += pg_atomic_read_u32(&shared->found[e]);
		result = e;
	}
	return result;
}

/*
 * Finds the ef of an index whose rows have their edges; 0 if it cannot be told.  meta is
 * as the meta page is, `rows` a sample; those that are not live are left out.
 */
static int
findEf(Relation index, const AnnHnswMetaPageData *meta, const AnnRowId *rows, int nrows, AnnBuild *build)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ann hnsw calibration", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Calibration c = {.index = index, .meta = meta, .rows = rows, .nrows = nrows, .build = build};
	int			ef = FIRST_EF;
	int			result;

	AnnHnswSpaceInit(&c.space, meta, AnnHnswReadCenter(index, meta));
	c.shared = build != NULL ? &build->shared->calibration : palloc(sizeof(AnnBuildCalibration));
	c.stored = palloc(meta->layout.vector_size);
	c.search_context = AllocSetContextCreate(context, "ann hnsw calibration search", ALLOCSET_DEFAULT_SIZES);
	while ((result = leastEf(&c, ef)) * TIMES_EF > ef && ef < LAST_EF)
		ef *= 2;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

/*
 * Writes the ef, and keeps unless that is 0, into the meta page, unless the centre is another
 * one than `meta` says.
 */
static void
writeEf(Relation index, AnnWriteMode mode, const AnnHnswMetaPageData *meta, int ef, float keeps, double rows)
{
	Buffer		buffer = ReadBuffer(index, ANN_HNSW_META_BLOCK);

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	if (AnnHnswMetaOnPage(AnnPageGet(index, buffer, ANN_HNSW_PAGE_ID, ANN_HNSW_META))->build_id == meta->build_id)
	{
		AnnPageEdit edit = AnnPageEditBegin(index, mode);
		AnnHnswMetaPageData *page = AnnHnswMetaOnPage(AnnPageEditAdd(&edit, buffer, false));

		page->ef_search = ef;
		if (keeps > 0)
			page->keeps = keeps;
		page->calibrated_rows = (uint32) Min(rows, PG_UINT32_MAX);
		AnnPageEditCommit(&edit);
	}
	UnlockReleaseBuffer(buffer);
}

/*
 * At most n live rows, by chance, each of the index with the same probability; a row may
 * come twice.  Returns their number: less than n where most places of rows are free.
 */
static int
sampleRows(Relation index, const AnnHnswLayout *layout, AnnRowId *rows, int n)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(index);
	int			found = 0;

	for (int tries = 0; nblocks > ANN_HNSW_META_BLOCK + 1 && found < n && tries < n * SAMPLE_TRIES; tries++)
	{
		BlockNumber block = (BlockNumber) pg_prng_uint64_range(&pg_global_prng_state, ANN_HNSW_META_BLOCK + 1, nblocks - 1);
		int			slot = (int) pg_prng_uint64_range(&pg_global_prng_state, 0, layout->rows_per_page - 1);
		Buffer		buffer;
		Page		page;

		AnnVacuumDelayPoint();
		buffer = ReadBuffer(index, block);
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		page = BufferGetPage(buffer);
		if (AnnPageIsOurs(page, ANN_HNSW_PAGE_ID) && AnnPageOpaque(page)->kind == ANN_HNSW_ROW &&
			AnnHnswRowOnPage(layout, page, slot)->state == ANN_HNSW_LIVE)
			rows[found++] = block * layout->rows_per_page + slot;
		UnlockReleaseBuffer(buffer);
	}
	return found;
}

/*
 * What the rule keeps for inserts at the build's alpha: the mean share of the slots, 0 if the index
 * is too small to tell.
 */
static float
findKeeps(AnnBuild *build, const AnnHnswMetaPageData *meta, const AnnRowId *rows, int nrows)
{
	AnnHnswCache *cache = AnnHnswCacheGet(build->index);
	AnnBuildShared *shared = build->shared;
	double		sum = 0;
	uint32		n = 0;
	uint32		start;
	uint32		end;
	AnnHnswSpace space;

	if (meta->rows < FEW_ROWS)
		return 0;
	AnnHnswCacheRefresh(build->index, cache);
	AnnHnswSpaceInit(&space, &cache->meta, cache->center);
	while (AnnBuildTake(build, nrows, SEARCHES, &start, &end))
		n += AnnHnswSumKeptShares(build->index, cache, &space, rows + start, (int) (end - start), &sum);
	SpinLockAcquire(&shared->mutex);
	shared->kept_sum += sum;
	shared->kept_rows += n;
	SpinLockRelease(&shared->mutex);
	AnnBuildWait(build);
	return shared->kept_rows > 0 ? (float) (shared->kept_sum / shared->kept_rows) : 0;
}

/* At the end of a build, by all participants.  `rows` is a sample, the same for all. */
void
AnnHnswCalibrateBuild(AnnBuild *build, const AnnRowId *rows, int nrows)
{
	AnnHnswMetaPageData meta;
	int			ef;

	AnnHnswReadMeta(build->index, &meta);
	ef = findEf(build->index, &meta, rows, nrows, build);
	if (build->leader)
		AnnBuildRestart(build);
	AnnBuildWait(build);
	if (ef > 0)
	{
		float		keeps = findKeeps(build, &meta, rows, nrows);

		if (build->leader)
			writeEf(build->index, ANN_WRITE_BUILD, &meta, meta.rows < FEW_ROWS ? Max(ef, ANN_HNSW_DEFAULT_EF_SEARCH) : ef,
					keeps, meta.rows);
	}
}

/*
 * In VACUUM: calibrates an index that has twice the rows, or half of them, that it had
 * the last time.  No lock is held but, against a second one, one that nobody waits for.
 */
void
AnnHnswCalibrateAgain(Relation index)
{
	AnnHnswMetaPageData meta;
	AnnRowId   *rows;
	int			n;
	int			ef;

	if (!ConditionalLockPage(index, ANN_HNSW_CALIBRATION_LOCK, ExclusiveLock))
		return;
	AnnHnswReadMeta(index, &meta);
	if (meta.rows >= 1 && !meta.recoding &&
		(meta.rows >= 2.0 * meta.calibrated_rows || meta.rows <= 0.5 * meta.calibrated_rows))
	{
		rows = palloc(sizeof(AnnRowId) * ANN_HNSW_CALIBRATION_ROWS);
		n = sampleRows(index, &meta.layout, rows, ANN_HNSW_CALIBRATION_ROWS);
		ef = findEf(index, &meta, rows, n, NULL);
		if (ef > 0)
			writeEf(index, ANN_WRITE_WAL, &meta, meta.rows < FEW_ROWS ? Max(ef, ANN_HNSW_DEFAULT_EF_SEARCH) : ef, 0, meta.rows);
		pfree(rows);
	}
	UnlockPage(index, ANN_HNSW_CALIBRATION_LOCK, ExclusiveLock);
}

/* Whether an insert is to calibrate an index that was created empty. */
bool
AnnHnswWantsCalibration(const AnnHnswMetaPageData *meta)
{
	return meta->ef_search == 0 && meta->rows >= FEW_ROWS && !meta->recoding;
}

/*
 * In an insert: a first ef from few rows, which is never less than the default, as the
 * index is growing.  The next VACUUM finds a better one.
 */
void
AnnHnswCalibrateFirst(Relation index)
{
	AnnHnswMetaPageData meta;
	AnnRowId	rows[INSERT_ROWS];
	int			n;

	if (!ConditionalLockPage(index, ANN_HNSW_CALIBRATION_LOCK, ExclusiveLock))
		return;
	AnnHnswReadMeta(index, &meta);
	if (AnnHnswWantsCalibration(&meta))
	{
		n = sampleRows(index, &meta.layout, rows, INSERT_ROWS);
		writeEf(index, ANN_WRITE_WAL, &meta, Max(findEf(index, &meta, rows, n, NULL), ANN_HNSW_DEFAULT_EF_SEARCH), 0, 0);
	}
	UnlockPage(index, ANN_HNSW_CALIBRATION_LOCK, ExclusiveLock);
}
