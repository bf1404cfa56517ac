/*
 * ivfflat_reach.c
 *	  How far lists are read for a filter, and for many rows: README, section Filtered.
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "ivfflat/ivfflat_scan.h"

/* How many times the entries of the first lists as many rows need as those are meant for; it grows with their root. */
#define UNFILTERED_REACH 1.2

/* Entries of a page whose radius is looked at. */
#define RADIUS_ENTRIES 2

/* Rows that are waited for by their estimates, at the most. */
#define MAX_WANTED 100000

/* What a page of the first lists says of their radius. */
void
AnnIvfLearnRadius(AnnIvfScan *state, Page page, const AnnIvfShape *shape)
{
	AnnIvfReach *reach = state->reach;
	int			n = 0;

	for (int i = 0; i < AnnIvfListPageOf(page)->count && n < RADIUS_ENTRIES; i++)
	{
		AnnCodeFactors factors;

		if (!ItemPointerIsValid(AnnIvfTidOf(page, shape, i)))
			continue;
		AnnIvfTopFactors(&state->meta, shape, page, i, &factors);
		reach->radius2 += (double) factors.add * factors.add;
		reach->nradius++;
		n++;
	}
}

/* What an entry says of how far to read, one that counts for sure or any other. */
void
AnnIvfLearnReach(AnnIvfScan *state, float estimate, bool is_sure)
{
	AnnIvfReach *reach = state->reach;

	if (is_sure)
		AnnKeepBest(reach->wanted, &reach->nwanted, reach->wanted_count, estimate);
	if (reach->learning)
		AnnKeepBest(reach->nearest, &reach->nnearest, ANN_IVF_CALIBRATED_ROWS, estimate);
}

/* The largest estimate of which more is to be learnt. */
float
AnnIvfReachLimit(const AnnIvfScan *state)
{
	const AnnIvfReach *reach = state->reach;

	if (reach->nwanted < reach->wanted_count || (reach->learning && reach->nnearest < ANN_IVF_CALIBRATED_ROWS))
		return INFINITY;
	return reach->learning ? Max(reach->wanted[0], reach->nearest[0]) : reach->wanted[0];
}

/*
 * How deep rows of this score must lie in a list of this centroid, on the side of the query:
 * the cosine of the angle between the query and such a row, seen from the
 * centroid, but for a factor that is the same for all lists.
 */
static double
depth(const AnnIvfScan *state, float centroid, float score)
{
	const AnnIvfReach *reach = state->reach;
	double		radius2 = reach->nradius > 0 ? reach->radius2 / reach->nradius : 0;

	if (state->meta.layout.metric == ANN_METRIC_IP)
		return (double) centroid - score;
	if (state->meta.layout.metric == ANN_METRIC_COSINE)
		score *= 2;
	return (centroid + radius2 - score) / sqrt(Max(centroid, FLT_MIN));
}

/*
 * The same for a list of its own radius, as a cosine.  Not for inner product.
 */
float
AnnIvfAngle(const AnnIvfScan *state, const AnnIvfListScore *list, float score)
{
	AnnIvfListHead head = AnnIvfHeadForScan(state, state->centroids.index, list->list);
	double		radius2 = head.spread > 0 ? head.spread : state->meta.spread;
	double		centroid2 = list->score;

	if (state->meta.layout.metric == ANN_METRIC_COSINE)
		score *= 2;
	return (float) ((centroid2 + radius2 - score) / (2 * sqrt(Max(centroid2 * radius2, FLT_MIN))));
}

/* Share of a list's rows that lie so deep: cosines are about normally distributed. */
static double
shareAt(double scale, double depth)
{
	return erfc(scale * depth / sqrt(2.0)) / 2;
}

/*
 * What the first lists say: the scale with which as many rows are expected among the nearest
 * as there are, and the share of a list at which the setting ends, in the same terms.
 */
static void
finishLearning(AnnIvfScan *state)
{
	AnnIvfReach *reach = state->reach;
	double		low = 0;
	double		high = 1;
	float		nearest = reach->nearest[0];

	reach->learning = false;
	if (state->code == NULL || reach->nnearest < ANN_IVF_CALIBRATED_ROWS || reach->nlists == 0)
		return;
	for (int step = 0; step < 60; step++)
	{
		double		scale = step < 20 ? high : (low + high) / 2;
		double		expected = 0;

		for (int i = 0; i < reach->nlists; i++)
			expected += (double) reach->lengths[i] * shareAt(scale, depth(state, reach->centroids[i], nearest));
		if (expected > ANN_IVF_CALIBRATED_ROWS)
		{
			low = scale;
			if (step < 20)
				high *= 2;
		}
		else
		{
			high = scale;
			step = Max(step, 19);
		}
	}
	reach->scale = high;
	/* Of more rows that are wanted more may be missed. */
	reach->tolerated = shareAt(high, depth(state, reach->centroids[reach->nlists - 1], nearest)) *
		Max(1, sqrt((double) reach->wanted_count / ANN_IVF_CALIBRATED_ROWS));
}

/* Whether the next list is further than the first lists were, for the rows that are wanted. */
static bool
isOutOfReach(const AnnIvfScan *state)
{
	const AnnIndexScan *base = &state->base;
	const AnnIvfReach *reach = state->reach;

	if (reach->nwanted < reach->wanted_count)
		return false;
	/* Without a filter the lists to be read grow with the root of the rows that are wanted. */
	if (AnnScanIsPlain(base) && state->nscanned >= reach->wanted_count * ANN_IVF_LEAST_PER_WANTED &&
		state->nscanned >= reach->ncompared * UNFILTERED_REACH *
		sqrt(Max(1, (double) reach->wanted_count / ANN_IVF_CALIBRATED_ROWS)))
		return true;
	if (reach->calibrated && reach->share > 0)
	{
		double		share = reach->share * ANN_IVF_CALIBRATED_ROWS / Max(reach->wanted_count, ANN_IVF_CALIBRATED_ROWS);

		if (AnnIvfAngle(state, &state->ahead[0], reach->wanted[0]) <= state->meta.reach + state->meta.reach_slope * log(share))
			return false;
	}
	/* Without codes nothing is known of rows that do not count: as many as the first lists had will do. */
	if (reach->scale <= 0)
		return state->nscanned >= reach->ncompared;
	/* What ten rows of a query tell may be far off. */
	if (state->nscanned < reach->ncompared / 2)
		return false;
	return reach->share * shareAt(reach->scale, depth(state, state->ahead[0].score, reach->wanted[0])) <
		reach->tolerated;
}

/* Reads the next list, with a look at how many of its entries count. */
static void
readReachedList(AnnIvfScan *state, Relation index)
{
	AnnIvfReach *reach = state->reach;
	uint64		looked_at = state->base.nvisited;
	uint64		counted = state->nscanned;
	float		centroid = state->ahead[0].score;

	AnnIvfReadNextList(state, index);
	looked_at = state->base.nvisited - looked_at;
	counted = state->nscanned - counted;
	if (looked_at > 0)
		reach->share = Max(reach->share, (double) counted / looked_at);
	if (reach->learning)
	{
		reach->centroids[reach->nlists] = centroid;
		reach->lengths[reach->nlists++] = looked_at;
	}
}

/*
 * Reads the first lists: as many as the setting says and, for a filter or many rows,
 * those within the same reach.  False if that is too much: sorting all is better, or
 * the caller has a better way.
 */
bool
AnnIvfReadFirstLists(AnnIvfScan *state, Relation index)
{
	AnnIndexScan *base = &state->base;
	AnnIvfReach *reach;
	bool		fits = true;

	if (base->iterative == ANN_ITERATIVE_OFF || (AnnScanIsPlain(base) && base->limit <= ANN_IVF_CALIBRATED_ROWS))
		return AnnIvfReadLists(state, index, state->probes);
	reach = state->reach = palloc0(sizeof(AnnIvfReach));
	reach->learning = true;
	reach->wanted_count = (int) Min(base->limit > 0 ? ceil(base->limit) : ANN_IVF_CALIBRATED_ROWS, MAX_WANTED);
	reach->wanted = palloc(sizeof(float) * reach->wanted_count);
	reach->calibrated = state->meta.reach > 0 && state->probes >= (int) state->meta.probes;
	reach->centroids = palloc(mul_size(sizeof(float), state->probes));
	reach->lengths = palloc(mul_size(sizeof(uint64), state->probes));
	for (int i = 0; i < state->probes && fits && AnnIvfPeekList(state); i++)
	{
		readReachedList(state, index);
		fits = !AnnIvfScanIsFull(state);
	}
	reach->ncompared = base->nvisited;
	finishLearning(state);
	while (fits && AnnIvfPeekList(state) && !isOutOfReach(state))
	{
		readReachedList(state, index);
		fits = !AnnIvfScanIsFull(state);
	}
	if (AnnIvfScanWorkIsDone(state) && !AnnIvfScanHasAll(state))
		fits = false;
	state->reach = NULL;
	AnnIvfFinishReading(state);
	return fits;
}
