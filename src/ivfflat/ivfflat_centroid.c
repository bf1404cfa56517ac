/*
 * ivfflat_centroid.c
 *	  The centroid table: codes of centroids, which lists are near a vector.
 *
 * Codes rule out all but a few centroids; those are read and scored exactly.
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "ivfflat/ivfflat.h"

/*
 * Bits per coordinate of a centroid's code: its error decides how many centroids are
 * read. Measured with 900 lists at 768 dimensions: two take less time than four.
 */
#define CENTROID_PLANES 2

/* Fewer centroids than this are all scored exactly. */
#define MIN_CODED_CENTROIDS 16

/* Squared length of the longest vectors that are compared by bytes. */
#define MAX_DISTANCE2 1e30f

Size
AnnIvfCentroidCodeStride(const AnnCodeParams *code)
{
	return TYPEALIGN(4, offsetof(AnnIvfCentroidCode, code) + AnnCodeBytes(code));
}

/*
 * Parameters of centroid codes; dim 0 where the index space is not rotated.
 */
void
AnnIvfCentroidParams(AnnCodeParams *code, const AnnIvfLayout *layout)
{
	AnnSpace	space;

	memset(code, 0, sizeof(*code));
	AnnIvfSpaceInit(&space, layout);
	if (space.rotated)
		AnnCodeParamsSet(code, layout->metric == ANN_METRIC_IP ? ANN_METRIC_IP : ANN_METRIC_L2,
						 (int) layout->dim, CENTROID_PLANES, (int) layout->dim);
}

/*
 * Encodes centroids->vectors: fills mean, float[dim], and codes, count times the
 * stride, and sets the struct up to use them.
 */
void
AnnIvfEncodeCentroids(AnnIvfCentroids *centroids, const AnnCodeParams *code, float *mean, char *codes)
{
	int			dim = centroids->dim;
	double	   *sum = palloc0(mul_size(sizeof(double), dim));
	float	   *r = palloc(mul_size(sizeof(float), dim));

	for (int i = 0; i < centroids->count; i++)
		for (int j = 0; j < dim; j++)
			sum[j] += centroids->vectors[(Size) i * dim + j];
	for (int j = 0; j < dim; j++)
		mean[j] = (float) (sum[j] / Max(centroids->count, 1));
	centroids->code = *code;
	centroids->mean = mean;
	centroids->codes = codes;
	centroids->code_stride = AnnIvfCentroidCodeStride(code);
	for (int i = 0; i < centroids->count; i++)
	{
		AnnIvfCentroidCode *item = (AnnIvfCentroidCode *) (codes + (Size) i * centroids->code_stride);
		const float *vector = centroids->vectors + (Size) i * dim;
		float		norm = sqrtf(ann_kernels.ip_f32(vector, vector, dim));

		for (int j = 0; j < dim; j++)
			r[j] = vector[j] - mean[j];
		memset(item, 0, centroids->code_stride);
		AnnEncode(code, r, ann_kernels.ip_f32(r, mean, dim), item->code, &item->factors);
		item->inv_norm = norm > 0 && isfinite(norm) ? 1 / norm : 0;
	}
	pfree(sum);
	pfree(r);
}

/*
 * Has a scan's lists ranked by bytes of centroids->vectors, which are many times more exact than the codes:
 * fills *bytes and the memory, allocated in CurrentMemoryContext, that it points into.
 */
void
AnnIvfCodeInBytes(AnnIvfCentroids *centroids, AnnNearest *bytes)
{
	AnnNearestOrder order = centroids->ip ? ANN_NEAREST_PRODUCT : ANN_NEAREST_DISTANCE;
	int			dim = centroids->dim;
	char	   *memory;

	for (int i = 0; i < centroids->count; i++)
		if (!(ann_kernels.l2sq_f32(centroids->vectors + (Size) i * dim, centroids->mean, dim) < MAX_DISTANCE2))
			return;
	memory = MemoryContextAllocHuge(CurrentMemoryContext, AnnNearestSize(dim, centroids->count));
	AnnNearestFill(memory, centroids->vectors, centroids->count, dim, centroids->mean, order);
	AnnNearestOpen(bytes, memory, centroids->vectors, centroids->count, dim, order);
	centroids->bytes = bytes;
}

/*
 * The vector of a centroid: in the table, or read into scratch, float[dim].
 */
const float *
AnnIvfCentroid(const AnnIvfCentroids *centroids, uint32 list, float *scratch)
{
	Size		size = sizeof(float) * (Size) centroids->dim;

	if (centroids->vectors != NULL)
		return centroids->vectors + (Size) list * centroids->dim;
	if (!BlockNumberIsValid(centroids->block))
		memset(scratch, 0, size);
	else
		AnnIvfReadBlob(centroids->index, centroids->hints, centroids->block, list * size, size, (char *) scratch);
	return scratch;
}

static float
exactScore(const AnnIvfCentroids *centroids, const float *dense, uint32 list, float *scratch)
{
	const float *vector = AnnIvfCentroid(centroids, list, scratch);
	float		score = centroids->ip ? -ann_kernels.ip_f32(dense, vector, centroids->dim) :
		ann_kernels.l2sq_f32(dense, vector, centroids->dim);

	return isnan(score) ? INFINITY : score;
}

/*
 * Bounds from codes: estimates and errors are float[count], rq and qc scratch.
 */
static void
estimate(const AnnIvfCentroids *centroids, const float *dense, float *rq, AnnQueryCode *qc,
		 float *estimates, float *errors)
{
	AnnCodeArray array;
	int			dim = centroids->dim;
	float		q_dot_c = 0;

	for (int i = 0; i < dim; i++)
		rq[i] = dense[i] - centroids->mean[i];
	if (centroids->ip)
		q_dot_c = ann_kernels.ip_f32(dense, centroids->mean, dim);
	AnnQueryCodeInit(qc, &centroids->code, rq, q_dot_c);
	array.codes = centroids->codes + offsetof(AnnIvfCentroidCode, code);
	array.code_stride = centroids->code_stride;
	array.factors = centroids->codes + offsetof(AnnIvfCentroidCode, factors);
	array.factor_stride = centroids->code_stride;
	array.form = ANN_FACTORS_FLOAT3;
	array.count = centroids->count;
	AnnEstimateBatch(qc, &array, estimates, errors);
}

static bool
useCodes(const AnnIvfCentroids *centroids)
{
	return centroids->code.dim > 0 && centroids->codes != NULL && centroids->count >= MIN_CODED_CENTROIDS;
}

/* ---- ranking ---- */

static void
siftDown(AnnIvfListScore *heap, int n, int i)
{
	AnnIvfListScore item = heap[i];

	for (;;)
	{
		int			child = 2 * i + 1;

		if (child >= n)
			break;
		if (child + 1 < n && heap[child + 1].score < heap[child].score)
			child++;
		if (heap[child].score >= item.score)
			break;
		heap[i] = heap[child];
		i = child;
	}
	heap[i] = item;
}

static void
siftUp(AnnIvfListScore *heap, int i)
{
	AnnIvfListScore item = heap[i];

	while (i > 0 && heap[(i - 1) / 2].score > item.score)
	{
		heap[i] = heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	heap[i] = item;
}

/* Lists whose order is found at first, and how many are sampled for that. */
#define FIRST_NEAR 32
#define NEAR_SAMPLE 128

/* Centroids asked for together. */
#define PREFETCH 12

/* The key that about `wanted` of n do not fall below: of a sample, the one of that rank. */
static float
nearKey(const float *keys, int n, int wanted)
{
	float		largest[NEAR_SAMPLE];
	int			rank = 1 + (int) ((int64) NEAR_SAMPLE * wanted / n);
	int			nlargest = 0;

	for (int i = 0; i < NEAR_SAMPLE; i++)
	{
		float		key = keys[(int64) i * n / NEAR_SAMPLE];
		int			at = Min(nlargest, rank - 1);

		if (nlargest == rank && key <= largest[rank - 1])
			continue;
		for (; at > 0 && largest[at - 1] < key; at--)
			largest[at] = largest[at - 1];
		largest[at] = key;
		nlargest = Min(nlargest + 1, rank);
	}
	return largest[rank - 1];
}

/*
 * Makes a heap of the smallest bounds left, about near_wanted, at least one: most lists are never
 * asked for.  None of the others is smaller than any of it.
 */
static void
selectNear(AnnIvfRanking *ranking)
{
	int			n = ranking->centroids->count;
	float		least = -FLT_MAX;
	int			count;

	if (ranking->nleft > 4 * ranking->near_wanted)
		least = Max(nearKey(ranking->keys, n, ranking->near_wanted), -FLT_MAX);
	count = (int) ann_kernels.places_ge_f32(ranking->keys, n, least, ranking->places);
	for (int i = 0; i < count; i++)
	{
		uint32		list = ranking->places[i];

		ranking->near[i].list = list;
		ranking->near[i].score = ranking->base - ranking->factor * ranking->keys[list];
		ranking->keys[list] = -INFINITY;
	}
	ranking->nnear = count;
	ranking->nleft -= count;
	ranking->near_wanted = Min(2 * ranking->near_wanted, ANN_IVF_MAX_LISTS);
	for (int i = count / 2 - 1; i >= 0; i--)
		siftDown(ranking->near, count, i);
}

static AnnIvfListScore
pop(AnnIvfListScore *heap, int *n)
{
	AnnIvfListScore top = heap[0];

	heap[0] = heap[--*n];
	if (*n > 0)
		siftDown(heap, *n, 0);
	return top;
}

/* Bounds by bytes, whose width is given to a factor of a few standard errors; false if the vector is too long for them. */
static bool
boundByBytes(AnnIvfRanking *ranking, const AnnIvfCentroids *centroids, const float *dense)
{
	const AnnNearest *bytes = centroids->bytes;
	int			dim = centroids->dim;
	float		distance2 = ann_kernels.l2sq_f32(dense, centroids->mean, dim);
	AnnNearestRows row;
	float		scale;
	float		spread;
	float		best;

	if (!(distance2 < MAX_DISTANCE2))
		return false;
	row.bytes = palloc(AnnNearestRowBytes(dim));
	row.scale = &scale;
	row.spread = &spread;
	AnnNearestSetRow(&row, 0, dense, centroids->mean, dim);
	ann_kernels.panel_scores(&bytes->panels, row.bytes, &scale, &spread, 1, ranking->keys, &best);
	pfree(row.bytes);
	if (centroids->ip)
	{
		ranking->base = ann_kernels.ip_f32(centroids->mean, centroids->mean, dim) -
			ann_kernels.ip_f32(dense, centroids->mean, dim);
		ranking->factor = 1;
	}
	else
	{
		ranking->base = distance2;
		ranking->factor = 2;
	}
	return true;
}

static void
boundByCodes(AnnIvfRanking *ranking, const AnnIvfCentroids *centroids, const float *dense)
{
	int			n = centroids->count;
	float	   *errors = palloc(mul_size(sizeof(float), n));
	AnnQueryCode *qc = palloc(AnnQueryCodeSize(&centroids->code));

	estimate(centroids, dense, ranking->scratch, qc, ranking->keys, errors);
	for (int i = 0; i < n; i++)
		ranking->keys[i] = Max(ANN_CODE_EPS * errors[i] - ranking->keys[i], -FLT_MAX);
	ranking->base = 0;
	ranking->factor = 1;
	pfree(errors);
	pfree(qc);
}

/*
 * Begins to rank the lists by their distance from a vector of the index space,
 * which must outlive the ranking.  Allocates in CurrentMemoryContext.
 */
void
AnnIvfRank(AnnIvfRanking *ranking, const AnnIvfCentroids *centroids, const float *dense)
{
	int			n = centroids->count;

	ranking->centroids = centroids;
	ranking->dense = dense;
	ranking->nleft = ranking->nnear = 0;
	ranking->nscored = 0;
	ranking->scored = palloc(mul_size(sizeof(AnnIvfListScore), n));
	ranking->scratch = palloc(mul_size(sizeof(float), centroids->dim));
	if (useCodes(centroids))
	{
		ranking->near = palloc(mul_size(sizeof(AnnIvfListScore), n));
		ranking->places = palloc(mul_size(sizeof(uint32), n));
		/* (Panels are full.) */
		ranking->keys = palloc(mul_size(sizeof(float), TYPEALIGN(ANN_PANEL, n)));
		if (centroids->bytes == NULL || !boundByBytes(ranking, centroids, dense))
			boundByCodes(ranking, centroids, dense);
		ranking->nleft = n;
		ranking->near_wanted = FIRST_NEAR;
	}
	else
	{
		for (int i = 0; i < n; i++)
		{
			ranking->scored[i].score = exactScore(centroids, dense, i, ranking->scratch);
			ranking->scored[i].list = i;
		}
		ranking->nscored = n;
		for (int i = n / 2 - 1; i >= 0; i--)
			siftDown(ranking->scored, n, i);
	}
}

/* Asks for the vectors of centroids, if they are in memory.  (Always inline: gcc drops calls of what only prefetches.) */
static pg_attribute_always_inline void
prefetchVectors(const AnnIvfCentroids *centroids, const AnnIvfListScore *lists, int n)
{
	if (centroids->vectors == NULL)
		return;
	for (int i = 0; i < n; i++)
	{
		const float *vector = centroids->vectors + (Size) lists[i].list * centroids->dim;

		for (int j = 0; j < centroids->dim; j += 16)
			__builtin_prefetch(vector + j);
	}
}

/*
 * The next list; false after the last.
 */
bool
AnnIvfRankNext(AnnIvfRanking *ranking, AnnIvfListScore *next)
{
	while (ranking->nleft > 0 || ranking->nnear > 0)
	{
		AnnIvfListScore item;

		if (ranking->nnear == 0)
		{
			selectNear(ranking);
			prefetchVectors(ranking->centroids, ranking->near, Min(ranking->nnear, PREFETCH));
		}
		if (ranking->nscored > 0 && ranking->scored[0].score <= ranking->near[0].score)
			break;
		item = pop(ranking->near, &ranking->nnear);
		prefetchVectors(ranking->centroids, ranking->near, Min(ranking->nnear, 3));
		item.score = exactScore(ranking->centroids, ranking->dense, item.list, ranking->scratch);
		ranking->scored[ranking->nscored] = item;
		siftUp(ranking->scored, ranking->nscored++);
	}
	if (ranking->nscored == 0)
		return false;
	*next = pop(ranking->scored, &ranking->nscored);
	return true;
}

/* ---- the list of a vector ---- */

Size
AnnIvfNearestScratch(const AnnIvfCentroids *centroids)
{
	return add_size(MAXALIGN(mul_size(sizeof(float), add_size(2 * (Size) centroids->count, centroids->dim))),
					centroids->code.dim > 0 ? AnnQueryCodeSize(&centroids->code) : 0);
}

/*
 * The list that a vector of the index space belongs to: the nearest centroid, or under
 * inner product the one of the most similar direction.  scratch has
 * AnnIvfNearestScratch bytes.
 */
uint32
AnnIvfNearest(const AnnIvfCentroids *centroids, const float *dense, char *scratch)
{
	int			n = centroids->count;
	float	   *estimates = (float *) scratch;
	float	   *errors = estimates + n;
	float	   *vector = errors + n;
	uint32		best = 0;
	int			first;
	float		best_score = INFINITY;

	if (n == 1)
		return 0;
	if (!useCodes(centroids))
	{
		for (int i = 0; i < n; i++)
		{
			float		score = exactScore(centroids, dense, i, vector);

			if (centroids->ip)
			{
				const float *v = AnnIvfCentroid(centroids, i, vector);
				float		norm = sqrtf(ann_kernels.ip_f32(v, v, centroids->dim));

				score = norm > 0 && isfinite(norm) ? score / norm : 0;
			}
			if (score < best_score)
			{
				best_score = score;
				best = i;
			}
		}
		return best;
	}

	estimate(centroids, dense, vector,
			 (AnnQueryCode *) (scratch + MAXALIGN(sizeof(float) * (2 * (Size) n + centroids->dim))),
			 estimates, errors);
	if (centroids->ip)
	{
		for (int i = 0; i < n; i++)
		{
			float		inv = ((const AnnIvfCentroidCode *) (centroids->codes + i * centroids->code_stride))->inv_norm;

			estimates[i] *= inv;
			errors[i] *= inv;
		}
	}
	for (int i = 0; i < n; i++)
	{
		if (estimates[i] < best_score)
		{
			best_score = estimates[i];
			best = i;
		}
		/* From here on a lower bound. */
		errors[i] = estimates[i] - ANN_CODE_EPS * errors[i];
	}
	first = (int) best;
	for (int j = -1; j < n; j++)
	{
		/* First the one of the best estimate, then all that its score does not rule out. */
		int			i = j < 0 ? first : j;
		float		score;

		if (j >= 0 && (errors[j] >= best_score || j == first))
			continue;
		score = exactScore(centroids, dense, i, vector);
		if (centroids->ip)
			score *= ((const AnnIvfCentroidCode *) (centroids->codes + i * centroids->code_stride))->inv_norm;
		if (score < best_score || j < 0)
		{
			best_score = score;
			best = i;
		}
	}
	return best;
}

/* ---- the lists of many vectors ---- */

static AnnNearestOrder
assignOrder(const AnnIvfCentroids *centroids)
{
	return centroids->ip ? ANN_NEAREST_DIRECTION : ANN_NEAREST_DISTANCE;
}

/*
 * Bytes of the table from which an assigner works: mean of the centroids (of their
 * directions, under inner product), then an AnnNearest's memory.  It holds no pointers.
 */
Size
AnnIvfAssignTableSize(const AnnIvfMetaPageData *meta)
{
	return add_size(MAXALIGN(sizeof(float) * (Size) meta->layout.dim),
					AnnNearestSize((int) meta->layout.dim, (int) meta->lists));
}

void
AnnIvfAssignTableFill(void *memory, const AnnIvfCentroids *centroids)
{
	int			dim = centroids->dim;
	float	   *mean = memory;
	double	   *sum = palloc0(mul_size(sizeof(double), dim));

	for (int i = 0; i < centroids->count; i++)
	{
		const float *vector = centroids->vectors + (Size) i * dim;
		float		norm = centroids->ip ? sqrtf(ann_kernels.ip_f32(vector, vector, dim)) : 1;

		if (norm > 0 && isfinite(norm))
			for (int j = 0; j < dim; j++)
				sum[j] += vector[j] / norm;
	}
	for (int j = 0; j < dim; j++)
		mean[j] = (float) (sum[j] / centroids->count);
	pfree(sum);
	AnnNearestFill((char *) memory + MAXALIGN(sizeof(float) * (Size) dim), centroids->vectors, centroids->count, dim,
				   mean, assignOrder(centroids));
}

/*
 * Centroids and table must outlive the assigner.  palloc's in CurrentMemoryContext.
 */
void
AnnIvfAssignerInit(AnnIvfAssigner *assigner, const AnnIvfCentroids *centroids, const void *memory)
{
	int			dim = centroids->dim;

	memset(assigner, 0, sizeof(*assigner));
	assigner->mean = memory;
	AnnNearestOpen(&assigner->nearest, (const char *) memory + MAXALIGN(sizeof(float) * (Size) dim),
				   centroids->vectors, centroids->count, dim, assignOrder(centroids));
	assigner->rows.bytes = palloc(AnnNearestRowBytes(dim) * ANN_NEAREST_MAX_ROWS);
	assigner->rows.scale = palloc(2 * sizeof(float) * ANN_NEAREST_MAX_ROWS);
	assigner->rows.spread = assigner->rows.scale + ANN_NEAREST_MAX_ROWS;
	if (centroids->ip)
		assigner->directions = palloc(sizeof(float) * (Size) dim * ANN_NEAREST_MAX_ROWS);
	assigner->scratch = palloc_extended(AnnNearestScratchSize(centroids->count, ANN_NEAREST_MAX_ROWS), MCXT_ALLOC_HUGE);
}

/*
 * Takes a vector of the index space as the i-th; it must stay until its list is found.
 */
void
AnnIvfAssignerSet(AnnIvfAssigner *assigner, int i, const float *dense)
{
	int			dim = assigner->nearest.dim;

	if (assigner->directions != NULL)
	{
		float	   *direction = assigner->directions + (Size) i * dim;

		AnnNormalize(dense, direction, dim);
		dense = direction;
	}
	assigner->vectors[i] = dense;
	AnnNearestSetRow(&assigner->rows, i, dense, assigner->mean, dim);
}

/*
 * The lists of the first count vectors, as AnnIvfNearest finds them.
 */
void
AnnIvfAssignerFind(AnnIvfAssigner *assigner, int count, int *lists)
{
	AnnNearestFind(&assigner->nearest, &assigner->rows, assigner->vectors, count, assigner->scratch, lists);
}
