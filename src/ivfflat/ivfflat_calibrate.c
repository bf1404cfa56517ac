/*
 * ivfflat_calibrate.c
 *	  Probes and reach, found on a finished index: README, sections Build and Filtered.
 */
#include "postgres.h"

#include <math.h>

#include "access/relscan.h"
#include "common/hashfn.h"
#include "miscadmin.h"

#include "ivfflat/ivfflat_scan.h"

/*
 * Calibration.  Rows that count: all, one in SPARSE by a hash of the heap TID, and those that are
 * not in the nearest lists, as by a filter that keeps a query's own place out.
 */
#define NPOPULATIONS 3
#define POPULATION_ALL 0
#define POPULATION_SPARSE 1
#define POPULATION_FAR 2
#define SPARSE 8

/* Recall that is aimed at, with a margin for neighbours in lists that are not read. */
#define TARGET (0.95 + 0.01)

/* The same where a filter keeps rows as they come, and one that keeps what is near out. */
#define REACH_TARGET (0.96 + 0.01)
#define FAR_TARGET 0.95

/*
 * Share of the lists that are read for a query, and at least; so many times those that end at the last
 * with a neighbour are enough.  Share of the lists that far rows are not in.
 */
#define READ_SHARE 0.25
#define READ_LEAST 32
#define READ_BARREN 3
#define FAR_SHARE 0.02

/* What a scan ends at must not fall faster with the share of rows that count. */
#define MAX_SLOPE 0.04
#define CLUSTERED_SLOPE 0.08

/* Squared length, in shares of the query's, of the rounding of a stored vector. */
#define ROUNDING2 1e-4f

/* One neighbour of a query, and what finds it: how many lists, which reach. */
typedef struct Neighbour
{
	float		score;
	int			rank;
	float		reach;
} Neighbour;

typedef struct Population
{
	float		estimates[ANN_IVF_CALIBRATED_ROWS];	/* a heap, as a filtered scan has it */
	int			nestimates;
	Neighbour	nearest[ANN_IVF_CALIBRATED_ROWS];	/* ascending */
	int			nnearest;
	float		reach;			/* the largest angle so far at which a list was read */
} Population;

struct AnnIvfCalibration
{
	Population	populations[NPOPULATIONS];
	int			rank;			/* of the list at hand, from 1 */
	int			last_rank;		/* of the last list with a row that was a neighbour so far */
	int			nfar;			/* lists that the far rows are not in */
	float		self;			/* squared distance within which a row is the query itself */
	bool		self_seen;
	float	   *dense;			/* scratch, float[dim] */
};

/* Whether the list at hand has rows of a population of the calibration. */
static inline bool
hasPopulation(const AnnIvfCalibration *calibration, int population)
{
	return population != POPULATION_FAR || calibration->rank > calibration->nfar;
}

/* Whether a row of the list at hand counts among a population of the calibration. */
static inline bool
isOfPopulation(const AnnIvfCalibration *calibration, int population, BlockNumber heap_block, uint16 heap_offset)
{
	if (population == POPULATION_SPARSE)
		return hash_combine(murmurhash32(heap_block), murmurhash32(heap_offset)) % SPARSE == 0;
	return hasPopulation(calibration, population);
}

/* Notes a row among the neighbours of the query that is looked for. */
void
AnnIvfNoteNeighbour(AnnIvfScan *state, const char *stored, const ItemPointerData *tid)
{
	AnnIvfCalibration *calibration = state->calibration;
	int			dim = (int) state->meta.layout.dim;
	float		score;

	AnnIvfDecode(&state->cache->space, stored, calibration->dense);
	score = ann_kernels.l2sq_f32(state->dense, calibration->dense, dim);
	if (!calibration->self_seen && score <= calibration->self)
	{
		calibration->self_seen = true;
		return;
	}
	if (state->meta.layout.metric == ANN_METRIC_IP)
		score = -ann_kernels.ip_f32(state->dense, calibration->dense, dim);
	for (int p = 0; p < NPOPULATIONS; p++)
	{
		Population *population = &calibration->populations[p];
		Neighbour  *nearest = population->nearest;
		int			at;

		if (!isOfPopulation(calibration, p, ItemPointerGetBlockNumberNoCheck(tid),
							ItemPointerGetOffsetNumberNoCheck(tid)))
			continue;
		if (population->nnearest == ANN_IVF_CALIBRATED_ROWS && !(score < nearest[ANN_IVF_CALIBRATED_ROWS - 1].score))
			continue;
		at = population->nnearest < ANN_IVF_CALIBRATED_ROWS ? population->nnearest++ : ANN_IVF_CALIBRATED_ROWS - 1;
		for (; at > 0 && nearest[at - 1].score > score; at--)
			nearest[at] = nearest[at - 1];
		nearest[at].score = score;
		nearest[at].rank = calibration->rank;
		nearest[at].reach = population->reach;
		calibration->last_rank = calibration->rank;
	}
}

/* What a scan that looked for each population would know of its nearest rows. */
void
AnnIvfLearnEstimate(AnnIvfScan *state, const ItemPointerData *tid, float estimate)
{
	AnnIvfCalibration *calibration = state->calibration;

	for (int p = 0; p < NPOPULATIONS; p++)
	{
		Population *population = &calibration->populations[p];

		if ((population->nestimates < ANN_IVF_CALIBRATED_ROWS || estimate < population->estimates[0]) &&
			isOfPopulation(calibration, p, ItemPointerGetBlockNumberNoCheck(tid), ItemPointerGetOffsetNumberNoCheck(tid)))
			AnnKeepBest(population->estimates, &population->nestimates, ANN_IVF_CALIBRATED_ROWS, estimate);
	}
}

/* The largest estimate that anybody looks at. */
float
AnnIvfCalibrationLimit(const AnnIvfScan *state)
{
	const AnnIvfCalibration *calibration = state->calibration;
	float		unit = state->meta.layout.metric == ANN_METRIC_COSINE ? 0.5f : 1;
	float		limit = -INFINITY;

	for (int p = 0; p < NPOPULATIONS; p++)
	{
		const Population *population = &calibration->populations[p];

		if (!hasPopulation(calibration, p))
			continue;
		if (population->nestimates < ANN_IVF_CALIBRATED_ROWS || population->nnearest < ANN_IVF_CALIBRATED_ROWS)
			return INFINITY;
		limit = Max(limit, Max(population->estimates[0], population->nearest[ANN_IVF_CALIBRATED_ROWS - 1].score * unit));
	}
	return limit;
}

static int
compareFloats(const void *a, const void *b)
{
	float		x = *(const float *) a;
	float		y = *(const float *) b;

	return (x > y) - (x < y);
}

/* The one of n values (sorted here) that this share of them does not exceed. */
static float
quantile(float *values, int n, double share)
{
	qsort(values, n, sizeof(float), compareFloats);
	return values[Min(n - 1, (int) (n * share))];
}

/* Whether an entry may be a neighbour, for one of the populations. */
static bool
mayBeNeighbour(const AnnIvfCalibration *calibration, const AnnIvfPending *pending)
{
	for (int p = 0; p < NPOPULATIONS; p++)
	{
		const Population *population = &calibration->populations[p];

		if ((population->nnearest < ANN_IVF_CALIBRATED_ROWS ||
			 pending->lower <= population->nearest[ANN_IVF_CALIBRATED_ROWS - 1].score) &&
			isOfPopulation(calibration, p, pending->heap_block, pending->heap_offset))
			return true;
	}
	return false;
}

/* Reads the vectors of the pending entries that may be neighbours, the nearest first, and forgets all. */
static void
notePending(AnnIvfScan *state, Relation index)
{
	AnnIvfArrays *arrays = state->arrays;
	int			n = 0;

	/* Most are none by now, and need no order. */
	for (int i = 0; i < arrays->npending; i++)
	{
		if (state->meta.layout.metric == ANN_METRIC_COSINE)
			arrays->pending[i].lower *= 2;
		if (mayBeNeighbour(state->calibration, &arrays->pending[i]))
			arrays->pending[n++] = arrays->pending[i];
	}
	AnnIvfForgetEntries(arrays);
	arrays->npending = n;
	while (arrays->npending > 0)
	{
		AnnIvfPending pending = AnnIvfPopPending(arrays);

		if (mayBeNeighbour(state->calibration, &pending))
			AnnIvfReadVector(state, index, &pending);
	}
}

/* Reads the lists near state->dense, and notes its neighbours in them. */
static void
findNeighbours(AnnIvfScan *state, Relation index)
{
	AnnIvfCalibration *calibration = state->calibration;
	float		cosine = state->meta.layout.metric == ANN_METRIC_COSINE ? 0.5f : 1;

	/* After so many lists without one the next ones have too few to matter. */
	while (calibration->rank < Max(READ_LEAST, READ_BARREN * calibration->last_rank) && AnnIvfPeekList(state))
	{
		calibration->rank++;
		for (int p = 0; p < NPOPULATIONS && state->meta.layout.metric != ANN_METRIC_IP; p++)
		{
			Population *population = &calibration->populations[p];

			if (population->nestimates == ANN_IVF_CALIBRATED_ROWS)
				population->reach = Max(population->reach, AnnIvfAngle(state, &state->ahead[0], population->estimates[0]));
			else if (state->code == NULL && population->nnearest == ANN_IVF_CALIBRATED_ROWS)
				population->reach = Max(population->reach,
										AnnIvfAngle(state, &state->ahead[0],
											  population->nearest[ANN_IVF_CALIBRATED_ROWS - 1].score * cosine));
		}
		AnnIvfReadNextList(state, index);
		notePending(state, index);
	}
}

/*
 * Finds the probes of an index, and how far a filtered scan is to read, by looking for rows
 * of it (vectors of the index space), and writes them into the meta page.
 */
void
AnnIvfCalibrate(Relation index, const float *queries, int count, AnnWriteMode mode)
{
	IndexScanDesc scan = ann_ivfflat_beginscan(index, 0, 1);
	AnnIvfScan *state = (AnnIvfScan *) scan->opaque;
	float	   *ranks = palloc(sizeof(float) * ANN_IVF_CALIBRATED_ROWS * Max(count, 1));
	float	   *reaches[NPOPULATIONS];
	int			nranks = 0;
	int			nreaches[NPOPULATIONS] = {0};
	AnnIvfMetaPageData *meta;
	Buffer		buffer;
	AnnPageEdit edit;
	uint32		probes = 0;
	float		reach = 0;
	float		slope = 0;

	for (int p = 0; p < NPOPULATIONS; p++)
		reaches[p] = palloc(sizeof(float) * ANN_IVF_CALIBRATED_ROWS * Max(count, 1));
	for (int n = 0; n < count; n++)
	{
		MemoryContext old;
		int			dim;

		CHECK_FOR_INTERRUPTS();
		ann_index_rescan(scan, NULL, 0, NULL, 0);
		old = MemoryContextSwitchTo(state->base.context);
		state->cache = AnnIvfCacheGet(index);
		state->meta = state->cache->meta;
		dim = (int) state->meta.layout.dim;
		state->max_probes = (int) Min(Max(ceil(state->meta.lists * READ_SHARE), READ_LEAST), state->meta.lists);
		state->dense = unconstify(float *, queries + (Size) n * dim);
		state->calibration = palloc0(sizeof(AnnIvfCalibration));
		state->calibration->dense = palloc(mul_size(sizeof(float), dim));
		state->calibration->self = ROUNDING2 * ann_kernels.ip_f32(state->dense, state->dense, dim);
		state->calibration->nfar = (int) ceil(state->meta.lists * FAR_SHARE);
		for (int p = 0; p < NPOPULATIONS; p++)
			state->calibration->populations[p].reach = -1;
		AnnIvfStartLists(state);
		state->centroids.index = index;
		findNeighbours(state, index);
		for (int p = 0; p < NPOPULATIONS; p++)
		{
			const Population *population = &state->calibration->populations[p];

			for (int i = 0; i < population->nnearest; i++)
			{
				if (p == POPULATION_ALL)
					ranks[nranks++] = (float) population->nearest[i].rank;
				reaches[p][nreaches[p]++] = population->nearest[i].reach;
			}
		}
		MemoryContextSwitchTo(old);
	}
	if (nranks > 0)
		probes = (uint32) quantile(ranks, nranks, TARGET);
	if (nranks > 0 && state->meta.layout.metric != ANN_METRIC_IP)
	{
		float		all = quantile(reaches[POPULATION_ALL], nranks, REACH_TARGET);

		reach = all;
		if (nreaches[POPULATION_FAR] > 0)
			reach = Max(reach, quantile(reaches[POPULATION_FAR], nreaches[POPULATION_FAR], FAR_TARGET));
		if (nreaches[POPULATION_SPARSE] > 0)
			slope = (all - quantile(reaches[POPULATION_SPARSE], nreaches[POPULATION_SPARSE], REACH_TARGET)) / logf(SPARSE);
		/* Among tight clusters the first lists have them all, and tell nothing of the others. */
		slope = slope > CLUSTERED_SLOPE ? 0 : Min(Max(slope, 0), MAX_SLOPE);
	}
	ann_index_endscan(scan);

	if (probes > 0)
	{
		buffer = ReadBuffer(index, ANN_IVF_META_BLOCK);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		edit = AnnPageEditBegin(index, mode);
		meta = AnnIvfMetaOnPage(AnnPageEditAdd(&edit, buffer, false));
		meta->probes = probes;
		meta->reach = reach;
		meta->reach_slope = slope;
		AnnPageEditCommit(&edit);
		UnlockReleaseBuffer(buffer);
	}
}
