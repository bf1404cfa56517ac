/*
 * ivfflat_kmeans.c
 *	  Clustering of a sample.  README: Build.
 *
 * Seeds by k-means++ (Arthur and Vassilvitskii 2007), drawn in batches; then Lloyd's
 * iterations, the first ones of a part of the points.
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "ivfflat/ivfflat.h"

/* Points that seeds are drawn from: of each cluster, and at least; points that the mean is taken of. */
#define SEED_POINTS 8
#define MIN_SEED_POINTS 4096
#define MEAN_POINTS 4096

/* Seeds that are drawn before the points' distances are computed anew. */
#define SEED_BATCH ANN_PANEL

/* Where one set of seeds takes few products of coordinates, this many are tried. */
#define SEED_TRIES 8
#define SEED_TRY_WORK 200000000.0

/* Draws for a batch, of which some are rejected. */
#define SEED_DRAWS (4 * SEED_BATCH)

/*
 * Iterations of a part of the points, every `stride`-th.  The last ones end when fewer
 * points than one in SETTLED_SHARE change their cluster.
 */
static const struct
{
	int			stride;
	int			iterations;
}			schedule[] = {{4, 4}, {2, 2}, {1, 6}};

#define SETTLED_SHARE 200

/*
 * A point that has a cluster looks for a nearer one among so many clusters around it, where there are more than
 * LEAST_CLUSTERS.
 */
#define NEIGHBOURS (4 * ANN_PANEL)
#define LEAST_CLUSTERS 1024

#define KMEANS_SEED 4711

typedef struct Move
{
	int			point;
	int			from;
} Move;

typedef struct Kmeans
{
	const float *points;
	int			npoints;
	int			dim;
	bool		spherical;
	float	   *mean;
	AnnNearestRows rows;		/* of all points */
	AnnNearestRows block;		/* of some, copied together */
	float	   *centroids;
	int			k;
	void	   *table;
	char	   *scratch;
	void	   *part;			/* table of some centroids */
	int		   *cluster;		/* of each point */
	int		   *order;			/* scratch: numbers of points, by their clusters */
	float	   *sums;			/* of the members of each cluster, */
	int		   *counts;			/* and how many there are, */
	int			summed;			/* among every `summed`-th point; 0: not known */
	Move	   *moves;				/* points that have changed their cluster since then */
	int			nmoves;
	pg_prng_state prng;
} Kmeans;

static inline const float *
pointAt(const Kmeans *state, int i)
{
	return state->points + (Size) i * state->dim;
}

/* Codes the points relative to their mean. */
static void
codePoints(Kmeans *state)
{
	int			dim = state->dim;
	int			stride = Max(1, state->npoints / MEAN_POINTS);
	int			count = 0;
	double	   *sum = palloc0(mul_size(sizeof(double), dim));

	for (int i = 0; i < state->npoints; i += stride, count++)
		for (int j = 0; j < dim; j++)
			sum[j] += pointAt(state, i)[j];
	for (int j = 0; j < dim; j++)
		state->mean[j] = (float) (sum[j] / count);
	pfree(sum);
	for (int i = 0; i < state->npoints; i++)
	{
		CHECK_FOR_INTERRUPTS();
		AnnNearestSetRow(&state->rows, i, pointAt(state, i), state->mean, dim);
	}
}

/* Every stride-th point: how many there are. */
static inline int
strided(const Kmeans *state, int stride)
{
	return (state->npoints + stride - 1) / stride;
}

/*
 * The nearest centroids for n points, at most ANN_NEAREST_MAX_ROWS.
 */
static void
findNearest(const Kmeans *state, const AnnNearest *nearest, const int *points, int n, int *result)
{
	Size		row_bytes = AnnNearestRowBytes(state->dim);
	const float *vectors[ANN_NEAREST_MAX_ROWS];

	CHECK_FOR_INTERRUPTS();
	for (int i = 0; i < n; i++)
	{
		Size		point = points[i];

		vectors[i] = pointAt(state, points[i]);
		memcpy(state->block.bytes + i * row_bytes, state->rows.bytes + point * row_bytes, row_bytes);
		state->block.scale[i] = state->rows.scale[point];
		state->block.spread[i] = state->rows.spread[point];
	}
	AnnNearestFind(nearest, &state->block, vectors, n, state->scratch, result);
}

/* Every stride-th point from the first-th one on, so many as are looked for together; returns their number. */
static int
takePoints(const Kmeans *state, int first, int stride, int *points)
{
	int			n = Min(ANN_NEAREST_MAX_ROWS, strided(state, stride) - first);

	for (int i = 0; i < n; i++)
		points[i] = (first + i) * stride;
	return n;
}

/*
 * One of n at random, by weight; cumulated is the sum of the weights up to each.
 */
static int
draw(Kmeans *state, const double *cumulated, int n)
{
	double		target = pg_prng_double(&state->prng) * cumulated[n - 1];
	int			low = 0;
	int			high = n - 1;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (cumulated[middle] > target)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/*
 * Chooses up to k different points as first centroids; returns their number.  *rest
 * becomes the sum of the points' squared distances from them.
 *
 * Each is drawn with the probability of its squared distance from those before it.  Within
 * a batch rows are drawn by the distances from before the batch, and accepted with
 * the probability of what is left of theirs: this comes to the same.
 */
static int
seed(Kmeans *state, int stride, double *rest)
{
	int			n = strided(state, stride);
	Size		vector_size = sizeof(float) * (Size) state->dim;
	float	   *weights = palloc_extended(mul_size(sizeof(float), n), MCXT_ALLOC_HUGE);
	double	   *cumulated = palloc_extended(mul_size(sizeof(double), n), MCXT_ALLOC_HUGE);
	int			chosen = 0;

	for (int i = 0; i < n; i++)
	{
		weights[i] = INFINITY;
		cumulated[i] = i + 1;
	}
	*rest = 0;
	while (chosen < state->k)
	{
		float	   *batch = state->centroids + (Size) chosen * state->dim;
		int			wanted = Min(Min(SEED_BATCH, Max(1, chosen)), state->k - chosen);
		int			count = 0;
		AnnNearest	nearest;
		double		sum = 0;

		for (int i = 0; i < SEED_DRAWS && count < wanted; i++)
		{
			int			at = draw(state, cumulated, n);
			const float *point = pointAt(state, at * stride);
			float		left = weights[at];

			for (int c = 0; c < count; c++)
				left = Min(left, ann_kernels.l2sq_f32(point, batch + (Size) c * state->dim, state->dim));
			if (left > 0 && (chosen == 0 || pg_prng_double(&state->prng) * weights[at] < left))
				memcpy(batch + (Size) count++ * state->dim, point, vector_size);
		}
		if (count == 0)
			break;
		chosen += count;

		AnnNearestFill(state->table, batch, count, state->dim, state->mean, ANN_NEAREST_DISTANCE);
		AnnNearestOpen(&nearest, state->table, batch, count, state->dim, ANN_NEAREST_DISTANCE);
		for (int first = 0; first < n; first += ANN_NEAREST_MAX_ROWS)
		{
			int			points[ANN_NEAREST_MAX_ROWS];
			int			found[ANN_NEAREST_MAX_ROWS];
			int			npoints = takePoints(state, first, stride, points);

			findNearest(state, &nearest, points, npoints, found);
			for (int i = 0; i < npoints; i++)
			{
				float		d = ann_kernels.l2sq_f32(pointAt(state, points[i]),
													 batch + (Size) found[i] * state->dim, state->dim);
				float	   *weight = &weights[first + i];

				if (d < *weight)
					*weight = d;
				else if (!isfinite(*weight))
					*weight = FLT_MAX;
				sum += *weight;
				cumulated[first + i] = sum;
			}
		}
		*rest = sum;
		if (!(sum > 0))
			break;				/* all others equal one that is chosen */
	}
	pfree(weights);
	pfree(cumulated);
	return chosen;
}

/*
 * The best of several sets of seeds: of a few clusters that lie far apart two often get only one.
 */
static int
seedWell(Kmeans *state)
{
	int			stride = Max(1, (int) (state->npoints / Max((int64) SEED_POINTS * state->k, MIN_SEED_POINTS)));
	int			tries = (double) strided(state, stride) * state->k * state->dim > SEED_TRY_WORK ? 1 : SEED_TRIES;
	pg_prng_state best = state->prng;
	double		least = INFINITY;
	double		rest;

	for (int i = 0; tries > 1 && i < tries; i++)
	{
		pg_prng_state begin = state->prng;

		seed(state, stride, &rest);
		if (rest < least)
		{
			least = rest;
			best = begin;
		}
	}
	state->prng = best;
	return seed(state, stride, &rest);
}

/* Finds the clusters of n points; returns how many changed. */
static int
assignPoints(Kmeans *state, const AnnNearest *nearest, const int *points, int n)
{
	int			changed = 0;

	for (int first = 0; first < n; first += ANN_NEAREST_MAX_ROWS)
	{
		int			found[ANN_NEAREST_MAX_ROWS];
		int			count = Min(ANN_NEAREST_MAX_ROWS, n - first);

		findNearest(state, nearest, points + first, count, found);
		for (int i = 0; i < count; i++)
		{
			int		   *cluster = &state->cluster[points[first + i]];

			if (*cluster == found[i])
				continue;
			state->moves[state->nmoves].point = points[first + i];
			state->moves[state->nmoves++].from = *cluster;
			*cluster = found[i];
			changed++;
		}
	}
	return changed;
}

/*
 * Finds the cluster of every stride-th point; returns how many changed.  A point that had one, near which
 * there are few others, is compared with those alone.
 */
static int
assign(Kmeans *state, int stride)
{
	bool		local = state->k >= LEAST_CLUSTERS;
	int			n = strided(state, stride);
	int		   *ends = palloc0(mul_size(sizeof(int), state->k + 2));
	int			changed;
	AnnNearest	nearest;

	state->nmoves = 0;
	AnnNearestFill(state->table, state->centroids, state->k, state->dim, state->mean, ANN_NEAREST_DISTANCE);
	AnnNearestOpen(&nearest, state->table, state->centroids, state->k, state->dim, ANN_NEAREST_DISTANCE);

	/* In the order of their clusters, those without one first. */
	for (int i = 0; i < n; i++)
		ends[(local ? state->cluster[i * stride] : -1) + 2]++;
	for (int c = 1; c <= state->k + 1; c++)
		ends[c] += ends[c - 1];
	for (int i = 0; i < n; i++)
		state->order[ends[(local ? state->cluster[i * stride] : -1) + 1]++] = i * stride;

	changed = assignPoints(state, &nearest, state->order, ends[0]);
	for (int c = 0; c < state->k; c++)
	{
		uint32		around[NEIGHBOURS];
		AnnNearest	part;
		int			count;

		if (ends[c + 1] == ends[c])
			continue;
		AnnNearestSetRow(&state->block, 0, state->centroids + (Size) c * state->dim, state->mean, state->dim);
		count = AnnNearestSome(&nearest, &state->block, NEIGHBOURS, NEIGHBOURS, state->scratch, around);
		AnnNearestPart(&part, state->part, &nearest, around, count);
		changed += assignPoints(state, &part, state->order + ends[c], ends[c + 1] - ends[c]);
	}
	pfree(ends);
	return changed;
}

/* Adds a point, or takes it away. */
static void
addTo(Kmeans *state, int cluster, int point, int sign)
{
	float	   *sum = state->sums + (Size) cluster * state->dim;
	const float *x = pointAt(state, point);

	if (sign > 0)
		for (int j = 0; j < state->dim; j++)
			sum[j] += x[j];
	else
		for (int j = 0; j < state->dim; j++)
			sum[j] -= x[j];
	state->counts[cluster] += sign;
}

/* Sums up the members of the clusters, or what has changed since that was done for the same points. */
static void
sumUp(Kmeans *state, int stride)
{
	if (state->summed == stride && state->nmoves < strided(state, stride) / 2)
	{
		for (int i = 0; i < state->nmoves; i++)
		{
			addTo(state, state->cluster[state->moves[i].point], state->moves[i].point, 1);
			addTo(state, state->moves[i].from, state->moves[i].point, -1);
		}
		return;
	}
	state->summed = stride;
	memset(state->sums, 0, mul_size(mul_size(sizeof(float), state->dim), state->k));
	memset(state->counts, 0, mul_size(sizeof(int), state->k));
	for (int i = 0; i < state->npoints; i += stride)
		addTo(state, state->cluster[i], i, 1);
}

/*
 * Moves each centroid to the mean of its members among every stride-th point.  One that has
 * none takes a member of the largest cluster.
 */
static void
update(Kmeans *state, int stride)
{
	int			dim = state->dim;
	int			n = strided(state, stride);
	int			largest = 0;

	sumUp(state, stride);
	for (int c = 1; c < state->k; c++)
		if (state->counts[c] > state->counts[largest])
			largest = c;
	for (int c = 0; c < state->k; c++)
	{
		float	   *centroid = state->centroids + (Size) c * dim;
		const float *sum = state->sums + (Size) c * dim;

		if (state->counts[c] == 0)
		{
			/* A random start, so that several empty clusters take different members. */
			int			i = (int) pg_prng_uint64_range(&state->prng, 0, n - 1);

			while (state->cluster[i * stride] != largest)
				i = (i + 1) % n;
			memcpy(centroid, pointAt(state, i * stride), sizeof(float) * dim);
			continue;
		}
		for (int j = 0; j < dim; j++)
			centroid[j] = sum[j] / state->counts[c];
		if (state->spherical)
			AnnNormalize(centroid, centroid, dim);
	}
}

static void
iterate(Kmeans *state)
{
	for (int i = 0; i < state->npoints; i++)
		state->cluster[i] = -1;
	for (int phase = 0; phase < lengthof(schedule); phase++)
	{
		int			stride = schedule[phase].stride;
		int			n = strided(state, stride);

		/* Few points for each centroid move it at random. */
		if (stride > 1 && n < 4 * state->k)
			continue;
		for (int iteration = 0; iteration < schedule[phase].iterations; iteration++)
		{
			int			changed = assign(state, stride);

			if (stride == 1 && (changed <= n / SETTLED_SHARE || iteration + 1 == schedule[phase].iterations))
				break;
			update(state, stride);
		}
	}
}

/*
 * Memory that AnnIvfKmeans takes for each point (of many) and for each cluster, beside its arguments.
 */
Size
AnnIvfKmeansPointSize(int dim)
{
	return AnnNearestRowBytes(dim) + 2 * sizeof(float) + (sizeof(float) + sizeof(double)) / 2 +
		sizeof(int) + sizeof(Move);
}

Size
AnnIvfKmeansClusterSize(int dim)
{
	return sizeof(float) * dim + sizeof(int) + AnnNearestSize(dim, ANN_PANEL) / ANN_PANEL + AnnNearestScratchSize(ANN_PANEL, ANN_NEAREST_MAX_ROWS) / ANN_PANEL;
}

/*
 * Clusters points, float[npoints][dim].  Fills centroids, float[k][dim], and the
 * cluster of each point, and returns the number of clusters: at most k, and fewer
 * only if there are fewer different points.  With `spherical` the points are of unit
 * length, and so are the centroids.  Deterministic.
 */
int
AnnIvfKmeans(const float *points, int npoints, int dim, int k, bool spherical, float *centroids, int *assignment)
{
	MemoryContext context;
	MemoryContext old;
	Kmeans		state = {0};

	if (npoints == 0 || k == 0)
		return 0;
	k = Min(k, npoints);
	context = AllocSetContextCreate(CurrentMemoryContext, "ivfflat clustering", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	state.points = points;
	state.npoints = npoints;
	state.dim = dim;
	state.spherical = spherical;
	state.centroids = centroids;
	state.k = k;
	state.mean = palloc(mul_size(sizeof(float), dim));
	state.rows.bytes = palloc_extended(mul_size(AnnNearestRowBytes(dim), npoints), MCXT_ALLOC_HUGE);
	state.rows.scale = palloc_extended(mul_size(2 * sizeof(float), npoints), MCXT_ALLOC_HUGE);
	state.rows.spread = state.rows.scale + npoints;
	state.block.bytes = palloc(AnnNearestRowBytes(dim) * ANN_NEAREST_MAX_ROWS);
	state.block.scale = palloc(2 * sizeof(float) * ANN_NEAREST_MAX_ROWS);
	state.block.spread = state.block.scale + ANN_NEAREST_MAX_ROWS;
	state.cluster = assignment;
	state.order = palloc_extended(mul_size(sizeof(int), npoints), MCXT_ALLOC_HUGE);
	state.moves = palloc_extended(mul_size(sizeof(Move), npoints), MCXT_ALLOC_HUGE);
	state.sums = palloc_extended(mul_size(mul_size(sizeof(float), dim), k), MCXT_ALLOC_HUGE);
	state.counts = palloc(mul_size(sizeof(int), k));
	if (k >= LEAST_CLUSTERS)
		state.part = palloc(AnnNearestSize(dim, NEIGHBOURS));
	state.table = palloc_extended(AnnNearestSize(dim, Max(k, ANN_PANEL)), MCXT_ALLOC_HUGE);
	state.scratch = palloc_extended(AnnNearestScratchSize(Max(k, ANN_PANEL), ANN_NEAREST_MAX_ROWS), MCXT_ALLOC_HUGE);
	pg_prng_seed(&state.prng, KMEANS_SEED);

	codePoints(&state);
	state.k = seedWell(&state);
	iterate(&state);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return state.k;
}
