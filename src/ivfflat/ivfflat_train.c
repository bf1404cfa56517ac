/*
 * ivfflat_train.c
 *	  From a sample to centroids: clusters, their codes.
 *	  README: Build.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/memutils.h"

#include "ivfflat/ivfflat_options.h"

/* Rows of the sample for each list. */
#define SAMPLE_ROWS 50
#define MIN_SAMPLE_ROWS 2000

/* Of so few rows of the sample for each list centroids still are means. */
#define LEAST_SAMPLE_ROWS 10

/* Room in a sample beyond the number of rows, which is an estimate. */
#define MORE_ROWS(rows) ((rows) * 1.2 + 1000)

/* Without the option: lists for this many rows, and no more than a list for so many rows. */
#define LISTS_PER_ROOT 2.0
#define MIN_ROWS_PER_LIST 40

/* Rows of the sample that are looked for when probes are calibrated. */
#define CALIBRATION_QUERIES 150

/* Vectors with larger coordinates are left out of a sample. */
#define MAX_COORDINATE 1e18f

/* Bytes of a row of a sample, and what clustering it takes beside. */
static Size
sampleRowSize(const AnnIvfLayout *layout)
{
	return sizeof(float) * ((Size) layout->dim + 1);
}

static Size
trainingRowSize(const AnnIvfLayout *layout)
{
	return sampleRowSize(layout) + sizeof(int) + AnnIvfKmeansPointSize((int) layout->dim);
}

/* Bytes that a list takes while centroids are made: the centroid, under inner product its direction, its code. */
static Size
listSize(const AnnIvfLayout *layout)
{
	Size		size = sizeof(float) * (Size) layout->dim * (layout->metric == ANN_METRIC_IP ? 2 : 1);
	AnnCodeParams code;

	AnnIvfCentroidParams(&code, layout);
	if (code.dim > 0)
		size += AnnIvfCentroidCodeStride(&code);
	return size + AnnIvfKmeansClusterSize((int) layout->dim);
}

/*
 * Lists for an index of so many rows.  No more than can be made within maintenance_work_mem, of
 * all rows or of a few for each list.
 */
int
AnnIvfChooseLists(Relation index, const AnnIvfLayout *layout, double rows)
{
	int			option = AnnIvfOptionLists((const AnnIvfOptions *) index->rd_options);
	double		lists = option > 0 ? option : Min(LISTS_PER_ROOT * sqrt(rows), rows / MIN_ROWS_PER_LIST);
	double		memory = (double) maintenance_work_mem * 1024;
	double		most = memory / (LEAST_SAMPLE_ROWS * trainingRowSize(layout) + listSize(layout));

	most = Max(most, (memory - MORE_ROWS(rows) * trainingRowSize(layout)) / listSize(layout));
	return (int) Max(1, Min(Min(lists, most), ANN_IVF_MAX_LISTS));
}

/*
 * Makes an empty sample for so many rows and lists, within what these leave of
 * maintenance_work_mem.
 */
void
AnnIvfSampleInit(AnnIvfSample *sample, const AnnIvfLayout *layout, double rows, int lists)
{
	Size		row_size = sampleRowSize(layout);
	double		memory = (double) maintenance_work_mem * 1024 - (double) lists * listSize(layout);
	double		wanted = Max((double) lists * SAMPLE_ROWS, MIN_SAMPLE_ROWS);

	memset(sample, 0, sizeof(*sample));
	AnnIvfSpaceInit(&sample->space, layout);
	sample->dim = (int) layout->dim;
	wanted = Min(wanted, Max(memory / trainingRowSize(layout), Min(lists, 64)));
	/* The estimate may be low: room for some more rows, and all of a small table. */
	wanted = Min(wanted, MORE_ROWS(rows));
	sample->capacity = (int) wanted;
	sample->points = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(row_size, sample->capacity));
	if (layout->metric == ANN_METRIC_IP)
		sample->norms = sample->points + (Size) sample->capacity * sample->dim;
}

/*
 * Copies a vector of the index space to a place in the sample; false if it is out of range,
 * since it would make a mean that is nobody's.
 */
bool
AnnIvfSampleTake(AnnIvfSample *sample, const float *dense, int place)
{
	float	   *to = sample->points + (Size) place * sample->dim;

	for (int i = 0; i < sample->dim; i++)
		if (!(fabsf(dense[i]) < MAX_COORDINATE))
			return false;
	if (sample->norms != NULL)
		sample->norms[place] = (float) AnnNormalize(dense, to, sample->dim);
	else
		memcpy(to, dense, sizeof(float) * sample->dim);
	return true;
}

/*
 * Under inner product clusters are made of directions; the centroids that are kept
 * are the means of the vectors themselves.
 */
static void
scaleCentroids(const AnnIvfSample *sample, float *centroids, int k, const int *assignment)
{
	int			dim = sample->dim;
	int		   *counts = palloc0(mul_size(sizeof(int), k));
	float	   *directions = palloc_extended(mul_size(mul_size(sizeof(float), dim), k), MCXT_ALLOC_HUGE);

	memcpy(directions, centroids, sizeof(float) * dim * (Size) k);
	memset(centroids, 0, sizeof(float) * dim * (Size) k);
	for (int i = 0; i < sample->count; i++)
	{
		const float *point = sample->points + (Size) i * dim;
		float	   *centroid = centroids + (Size) assignment[i] * dim;

		for (int j = 0; j < dim; j++)
			centroid[j] += sample->norms[i] * point[j];
		counts[assignment[i]]++;
	}
	for (int c = 0; c < k; c++)
	{
		float	   *centroid = centroids + (Size) c * dim;

		if (counts[c] == 0)
			memcpy(centroid, directions + (Size) c * dim, sizeof(float) * dim);
		else
			for (int j = 0; j < dim; j++)
				centroid[j] /= counts[c];
	}
	pfree(counts);
	pfree(directions);
}

/* Mean squared distance of the sample's vectors from their centroids. */
static double
meanSpread(const AnnIvfSample *sample, const float *centroids, const int *assignment)
{
	float	   *vector = palloc(mul_size(sizeof(float), sample->dim));
	double		sum = 0;

	for (int i = 0; i < sample->count; i++)
	{
		const float *point = sample->points + (Size) i * sample->dim;
		float		norm = sample->norms != NULL ? sample->norms[i] : 1;

		for (int j = 0; j < sample->dim; j++)
			vector[j] = norm * point[j];
		sum += ann_kernels.l2sq_f32(vector, centroids + (Size) assignment[i] * sample->dim, sample->dim);
	}
	pfree(vector);
	return sum / Max(sample->count, 1);
}

/*
 * Copies rows of the sample that AnnIvfCalibrate is to look for, float[*count][dim], palloc'd.
 */
float *
AnnIvfSampleQueries(const AnnIvfSample *sample, int *count)
{
	Size		dim = sample->dim;
	float	   *queries;

	*count = Min(CALIBRATION_QUERIES, sample->count);
	queries = palloc_extended(mul_size(mul_size(sizeof(float), dim), Max(*count, 1)), MCXT_ALLOC_HUGE);
	for (int n = 0; n < *count; n++)
	{
		Size		row = (Size) n * sample->count / *count;
		float		norm = sample->norms != NULL ? sample->norms[row] : 1;

		for (Size j = 0; j < dim; j++)
			queries[n * dim + j] = norm * sample->points[row * dim + j];
	}
	return queries;
}

/*
 * Points the struct at centroids (float[lists][dim]) that are followed by their
 * mean and codes.
 */
void
AnnIvfOpenCentroids(AnnIvfCentroids *centroids, const AnnIvfMetaPageData *meta, const char *data)
{
	memset(centroids, 0, sizeof(*centroids));
	centroids->count = (int) meta->lists;
	centroids->dim = (int) meta->layout.dim;
	centroids->ip = meta->layout.metric == ANN_METRIC_IP;
	centroids->vectors = (const float *) data;
	centroids->block = InvalidBlockNumber;
	if (meta->centroid_code.dim > 0)
	{
		centroids->code = meta->centroid_code;
		centroids->mean = centroids->vectors + (Size) meta->lists * meta->layout.dim;
		centroids->codes = (const char *) (centroids->mean + meta->layout.dim);
		centroids->code_stride = AnnIvfCentroidCodeStride(&meta->centroid_code);
	}
}

/* Bytes of the centroids, and of mean and codes behind them. */
Size
AnnIvfCentroidsSize(const AnnIvfMetaPageData *meta)
{
	return mul_size(mul_size(sizeof(float), meta->layout.dim), meta->lists);
}

Size
AnnIvfCentroidCodesSize(const AnnIvfMetaPageData *meta)
{
	if (meta->centroid_code.dim == 0)
		return 0;
	return add_size(sizeof(float) * (Size) meta->layout.dim,
					mul_size(AnnIvfCentroidCodeStride(&meta->centroid_code), meta->lists));
}

/*
 * Clusters a sample of an index of so many rows; fills in the meta page's lists, rows, spread,
 * codes of centroids and scale of codes.  Returns the centroids, float[lists][dim],
 * with their mean and codes behind them (AnnIvfOpenCentroids), palloc'd; or NULL for the
 * single one that is zero.
 */
char *
AnnIvfTrain(const AnnIvfSample *sample, AnnIvfMetaPageData *meta, int lists, double rows)
{
	Size		row_size = sizeof(float) * (Size) meta->layout.dim;
	int		   *assignment;
	AnnIvfCentroids table;
	char	   *result;
	float	   *centroids;

	meta->lists = 1;
	meta->rows = rows;
	meta->probes = 0;
	meta->reach = meta->reach_slope = 0;
	meta->spread = 0;
	memset(&meta->centroid_code, 0, sizeof(meta->centroid_code));
	if (sample->count == 0)
		return NULL;

	lists = Min(lists, sample->count);
	assignment = palloc(mul_size(sizeof(int), sample->count));
	result = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(row_size, lists));
	centroids = (float *) result;
	meta->lists = AnnIvfKmeans(sample->points, sample->count, sample->dim, lists,
							   meta->layout.metric == ANN_METRIC_IP || meta->layout.metric == ANN_METRIC_COSINE,
							   centroids, assignment);
	if (sample->norms != NULL)
		scaleCentroids(sample, centroids, meta->lists, assignment);
	meta->spread = meanSpread(sample, centroids, assignment);
	if (AnnIvfHasCodes(&meta->layout) && meta->spread > 0)
		AnnCodeParamsSetScale(&meta->code, (float) sqrt(meta->spread));
	pfree(assignment);

	AnnIvfCentroidParams(&meta->centroid_code, &meta->layout);
	result = repalloc_huge(result, add_size(AnnIvfCentroidsSize(meta), AnnIvfCentroidCodesSize(meta)));
	AnnIvfOpenCentroids(&table, meta, result);
	if (meta->centroid_code.dim > 0)
		AnnIvfEncodeCentroids(&table, &meta->centroid_code, (float *) (result + AnnIvfCentroidsSize(meta)),
							  result + AnnIvfCentroidsSize(meta) + row_size);
	return result;
}
