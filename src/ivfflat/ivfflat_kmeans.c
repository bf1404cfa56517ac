/*
 * ivfflat_kmeans.c
 *	  Clustering of a sample.  README: Build.
 *
 * Seeds by k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's iterations.  More
 * than DIRECT_CLUSTERS clusters are made in two levels: groups, clusters within each
 * group, and iterations over all in which a point looks at the clusters of its
 * nearest groups only.
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "ivfflat/ivfflat.h"

#define DIRECT_CLUSTERS 256
#define MAX_ITERATIONS 12
#define POLISH_ITERATIONS 12

/* Iterations stop when fewer points than one in this many change their cluster. */
#define SETTLED_SHARE 200

/* Points per cluster that seeds are drawn from, and that groups are trained on. */
#define SEED_POINTS 64
#define GROUP_POINTS 256

/* Groups whose clusters a point looks at. */
#define NEAR_GROUPS 8

/* Points handled together: a centroid is fetched once for all of them. */
#define BLOCK_POINTS 32

#define KMEANS_SEED 4711

typedef struct Kmeans
{
	const float *points;
	int			dim;
	bool		spherical;
	pg_prng_state prng;
} Kmeans;

static inline const float *
pointAt(const Kmeans *state, int i)
{
	return state->points + (Size) i * state->dim;
}

static inline float
distance2(const Kmeans *state, const float *a, const float *b)
{
	float		d = ann_kernels.l2sq_f32(a, b, state->dim);

	return isnan(d) ? INFINITY : d;
}

/*
 * The nearest of k centroids for each member; returns how many changed.
 */
static int
assign(const Kmeans *state, const int *members, int n, const float *centroids, int k, int *assignment)
{
	int			changed = 0;

	for (int start = 0; start < n; start += BLOCK_POINTS)
	{
		int			end = Min(n, start + BLOCK_POINTS);
		float		best[BLOCK_POINTS];
		int			nearest[BLOCK_POINTS];

		CHECK_FOR_INTERRUPTS();
		for (int i = start; i < end; i++)
		{
			best[i - start] = INFINITY;
			nearest[i - start] = 0;
		}
		for (int c = 0; c < k; c++)
		{
			const float *centroid = centroids + (Size) c * state->dim;

			for (int i = start; i < end; i++)
			{
				float		d = distance2(state, pointAt(state, members[i]), centroid);

				if (d < best[i - start])
				{
					best[i - start] = d;
					nearest[i - start] = c;
				}
			}
		}
		for (int i = start; i < end; i++)
		{
			changed += assignment[i] != nearest[i - start];
			assignment[i] = nearest[i - start];
		}
	}
	return changed;
}

/*
 * Moves each centroid to the mean of its members.  One that has none takes a member
 * of the largest cluster.
 */
static void
update(Kmeans *state, const int *members, int n, float *centroids, int k, const int *assignment)
{
	int			dim = state->dim;
	int		   *counts = palloc0(mul_size(sizeof(int), k));
	int			largest = 0;

	memset(centroids, 0, mul_size(mul_size(sizeof(float), dim), k));
	for (int i = 0; i < n; i++)
	{
		const float *point = pointAt(state, members[i]);
		float	   *centroid = centroids + (Size) assignment[i] * dim;

		for (int j = 0; j < dim; j++)
			centroid[j] += point[j];
		counts[assignment[i]]++;
	}
	for (int c = 1; c < k; c++)
		if (counts[c] > counts[largest])
			largest = c;
	for (int c = 0; c < k; c++)
	{
		float	   *centroid = centroids + (Size) c * dim;

		if (counts[c] == 0)
		{
			/* A random start, so that several empty clusters take different members. */
			int			i = (int) pg_prng_uint64_range(&state->prng, 0, n - 1);

			while (assignment[i] != largest)
				i = (i + 1) % n;
			memcpy(centroid, pointAt(state, members[i]), sizeof(float) * dim);
			continue;
		}
		for (int j = 0; j < dim; j++)
			centroid[j] /= counts[c];
		if (state->spherical)
			AnnNormalize(centroid, centroid, dim);
	}
	pfree(counts);
}

/*
 * Chooses up to k different members as first centroids; returns their number.
 */
static int
seed(Kmeans *state, const int *members, int n, float *centroids, int k)
{
	int			count = (int) Min((int64) n, (int64) SEED_POINTS * k);
	float	   *weights = palloc(mul_size(sizeof(float), count));
	int			chosen = 0;
	int			next = (int) pg_prng_uint64_range(&state->prng, 0, count - 1);

#define CANDIDATE(i) pointAt(state, members[(int64) (i) * n / count])
	for (int i = 0; i < count; i++)
		weights[i] = INFINITY;
	while (chosen < k)
	{
		float	   *centroid = centroids + (Size) chosen * state->dim;
		double		sum = 0;
		double		target;

		CHECK_FOR_INTERRUPTS();
		memcpy(centroid, CANDIDATE(next), sizeof(float) * state->dim);
		chosen++;
		for (int i = 0; i < count; i++)
		{
			float		d = distance2(state, CANDIDATE(i), centroid);

			if (d < weights[i])
				weights[i] = isfinite(d) ? d : FLT_MAX;
			sum += weights[i];
		}
		if (!(sum > 0))
			break;				/* the others equal one that is chosen */
		target = pg_prng_double(&state->prng) * sum;
		for (next = 0; next < count - 1; next++)
		{
			target -= weights[next];
			if (target < 0)
				break;
		}
		while (weights[next] == 0 && next > 0)
			next--;
		while (weights[next] == 0 && next < count - 1)
			next++;
	}
#undef CANDIDATE
	pfree(weights);
	return chosen;
}

/*
 * Clusters the members directly.  Returns the number of centroids, at most k.
 */
static int
clusterDirectly(Kmeans *state, const int *members, int n, int k, float *centroids, int *assignment)
{
	k = seed(state, members, n, centroids, Min(k, n));
	for (int i = 0; i < n; i++)
		assignment[i] = -1;
	for (int iteration = 0;; iteration++)
	{
		int			changed = assign(state, members, n, centroids, k, assignment);

		if (changed <= n / SETTLED_SHARE || iteration == MAX_ITERATIONS)
			break;
		update(state, members, n, centroids, k, assignment);
	}
	return k;
}

/* Where the clusters of each group begin in the table of all. */
typedef struct Groups
{
	int			count;
	float	   *centroids;
	int		   *start;			/* count + 1 */
} Groups;

/*
 * One iteration over all points: each looks at the clusters of its nearest groups.
 * Returns how many changed.
 */
static int
assignByGroups(const Kmeans *state, const Groups *groups, int n, const float *centroids, int *assignment)
{
	float	   *distances = palloc(mul_size(sizeof(float), groups->count));
	int			changed = 0;

	for (int i = 0; i < n; i++)
	{
		const float *point = pointAt(state, i);
		float		best = INFINITY;
		int			nearest = assignment[i];

		CHECK_FOR_INTERRUPTS();
		for (int g = 0; g < groups->count; g++)
			distances[g] = distance2(state, point, groups->centroids + (Size) g * state->dim);
		for (int r = 0; r < Min(NEAR_GROUPS, groups->count); r++)
		{
			int			g = 0;

			for (int h = 1; h < groups->count; h++)
				if (distances[h] < distances[g])
					g = h;
			distances[g] = INFINITY;
			for (int c = groups->start[g]; c < groups->start[g + 1]; c++)
			{
				float		d = distance2(state, point, centroids + (Size) c * state->dim);

				if (d < best)
				{
					best = d;
					nearest = c;
				}
			}
		}
		changed += nearest != assignment[i];
		assignment[i] = nearest;
	}
	pfree(distances);
	return changed;
}

/* Moves the groups' centroids to the means of their clusters' centroids. */
static void
updateGroups(const Kmeans *state, Groups *groups, const float *centroids)
{
	for (int g = 0; g < groups->count; g++)
	{
		float	   *to = groups->centroids + (Size) g * state->dim;
		int			count = groups->start[g + 1] - groups->start[g];

		if (count == 0)
			continue;
		memset(to, 0, sizeof(float) * state->dim);
		for (int c = groups->start[g]; c < groups->start[g + 1]; c++)
			for (int j = 0; j < state->dim; j++)
				to[j] += centroids[(Size) c * state->dim + j] / count;
	}
}

static int
clusterByGroups(Kmeans *state, int n, int k, float *centroids, int *assignment)
{
	Groups		groups;
	int			wanted = (int) ceil(sqrt(k));
	int		   *members = palloc(mul_size(sizeof(int), n));
	int		   *group_of = palloc(mul_size(sizeof(int), n));
	int		   *local = palloc(mul_size(sizeof(int), n));
	int			ntrain = (int) Min((int64) n, (int64) GROUP_POINTS * wanted);
	int			used = 0;
	int			points_left = n;

	for (int i = 0; i < ntrain; i++)
		members[i] = (int) ((int64) i * n / ntrain);
	groups.centroids = palloc_extended(mul_size(mul_size(sizeof(float), state->dim), wanted), MCXT_ALLOC_HUGE);
	groups.count = clusterDirectly(state, members, ntrain, wanted, groups.centroids, local);
	groups.start = palloc(mul_size(sizeof(int), groups.count + 1));
	for (int i = 0; i < n; i++)
	{
		members[i] = i;
		group_of[i] = -1;
	}
	assign(state, members, n, groups.centroids, groups.count, group_of);

	for (int g = 0; g < groups.count; g++)
	{
		int			size = 0;
		int			share;

		groups.start[g] = used;
		for (int i = 0; i < n; i++)
			if (group_of[i] == g)
				members[size++] = i;
		/* What is left is shared among the points that are left. */
		share = points_left > 0 ? (int) rint((double) (k - used) * size / points_left) : 0;
		points_left -= size;
		if (size > 0 && used < k)
		{
			share = clusterDirectly(state, members, size, Max(share, 1),
									centroids + (Size) used * state->dim, local);
			for (int i = 0; i < size; i++)
				assignment[members[i]] = used + local[i];
			used += share;
		}
		else
		{
			/* No cluster is left for it: the iterations below find one. */
			for (int i = 0; i < size; i++)
				assignment[members[i]] = 0;
		}
	}
	groups.start[groups.count] = used;

	for (int i = 0; i < n; i++)
		members[i] = i;
	for (int iteration = 0; iteration < POLISH_ITERATIONS; iteration++)
	{
		int			changed;

		updateGroups(state, &groups, centroids);
		changed = assignByGroups(state, &groups, n, centroids, assignment);
		if (changed <= n / SETTLED_SHARE || iteration + 1 == POLISH_ITERATIONS)
			break;
		update(state, members, n, centroids, used, assignment);
	}
	pfree(groups.centroids);
	pfree(groups.start);
	pfree(members);
	pfree(group_of);
	pfree(local);
	return used;
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
	Kmeans		state;
	int		   *members;

	if (npoints == 0 || k == 0)
		return 0;
	state.points = points;
	state.dim = dim;
	state.spherical = spherical;
	pg_prng_seed(&state.prng, KMEANS_SEED);
	if (k > DIRECT_CLUSTERS && npoints > DIRECT_CLUSTERS)
		return clusterByGroups(&state, npoints, k, centroids, assignment);
	members = palloc(mul_size(sizeof(int), npoints));
	for (int i = 0; i < npoints; i++)
		members[i] = i;
	k = clusterDirectly(&state, members, npoints, k, centroids, assignment);
	pfree(members);
	return k;
}
