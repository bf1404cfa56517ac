/*
 * nearest.c
 *	  The nearest of many vectors for many others (README, Nearest of many).
 */
#include "quantize/numeric.h"

/* What stands for zero in a row's bytes, and the largest byte of the table. */
#define ROW_ZERO 64
#define TABLE_MAX 127

/*
 * Standard errors of an inner product of bytes within which it is taken to lie.  All
 * coordinates' errors together are at most sqrt(3 dim) of them.
 */
#define STANDARD_ERRORS 4

/* 1 / sqrt(12): the standard deviation of what rounding to integers takes. */
#define ROUNDING 0.288675f

/*
 * The step of bytes, in units of the vector's length, for a vector of the table with
 * coordinates of up to three standard deviations.
 */
static inline float
UsualStep(int dim)
{
	return 3 / (TABLE_MAX * sqrtf((float) dim));
}

/* Scores that are looked at for one that about so many reach. */
#define SAMPLED_SCORES 256

/* Where the parts of a table are in its memory. */
typedef struct Parts
{
	size_t		offset;
	size_t		scale;
	size_t		bias;
	size_t		error;
	size_t		factor;
	size_t		bytes;
	size_t		size;
} Parts;

static Parts
PartsOf(int dim, int count)
{
	size_t		width = ((size_t) count + ANN_PANEL - 1) / ANN_PANEL * ANN_PANEL;
	Parts		parts;

	parts.offset = 0;
	parts.scale = parts.offset + width * sizeof(int32_t);
	parts.bias = parts.scale + width * sizeof(float);
	parts.error = parts.bias + width * sizeof(float);
	parts.factor = parts.error + width * sizeof(float);
	parts.bytes = parts.factor + width * sizeof(float);
	parts.size = parts.bytes + width * AnnNearestRowBytes(dim);
	return parts;
}

size_t
AnnNearestSize(int dim, int count)
{
	return PartsOf(dim, count).size;
}

/* Rounded to an integer; |x| is at most 2^20. */
static inline int
Round(float x)
{
	return (int) (x + 1048576.5f) - 1048576;
}

void
AnnNearestFill(void *memory, const float *vectors, int count, int dim, const float *mean, AnnNearestOrder order)
{
	Parts		parts = PartsOf(dim, count);
	char	   *base = memory;
	int32_t    *offset = (int32_t *) (base + parts.offset);
	float	   *scale = (float *) (base + parts.scale);
	float	   *bias = (float *) (base + parts.bias);
	float	   *error = (float *) (base + parts.error);
	float	   *factor = (float *) (base + parts.factor);
	int8_t	   *bytes = (int8_t *) (base + parts.bytes);
	int			width = (count + ANN_PANEL - 1) / ANN_PANEL * ANN_PANEL;

	memset(memory, 0, parts.size);
	for (int c = 0; c < width; c++)
	{
		const float *vector = vectors + (size_t) c * dim;
		int8_t	   *to = bytes + (size_t) (c / ANN_PANEL) * ANN_PANEL * AnnNearestRowBytes(dim) + c % ANN_PANEL * 4;
		float		max = 0;
		float		length2 = 0;
		float		of_mean = 0;
		float		inverse;
		int			sum = 0;

		if (c >= count)
		{
			bias[c] = -INFINITY;
			continue;
		}
		factor[c] = 1;
		if (order == ANN_NEAREST_DIRECTION)
		{
			float		norm = sqrtf(ann_kernels.ip_f32(vector, vector, dim));

			factor[c] = norm > 0 && norm <= FLT_MAX ? 1 / norm : 0;
		}
		for (int j = 0; j < dim; j++)
		{
			float		r = vector[j] * factor[c] - mean[j];

			max = fabsf(r) > max ? fabsf(r) : max;
			length2 += r * r;
			of_mean += (vector[j] * factor[c]) * mean[j];
		}
		scale[c] = max / TABLE_MAX;
		inverse = max > 0x1p-120f ? TABLE_MAX / max : 0;
		for (int j = 0; j < dim; j++)
		{
			int			level = Round((vector[j] * factor[c] - mean[j]) * inverse);

			to[(size_t) (j / 4) * 4 * ANN_PANEL + j % 4] = (int8_t) level;
			sum += level;
		}
		offset[c] = -ROW_ZERO * sum;
		error[c] = ROUNDING * fmaxf(scale[c], UsualStep(dim) * sqrtf(length2));
		bias[c] = order == ANN_NEAREST_DISTANCE ? -length2 / 2 : of_mean;
	}
}

void
AnnNearestOpen(AnnNearest *nearest, const void *memory, const float *vectors, int count, int dim, AnnNearestOrder order)
{
	Parts		parts = PartsOf(dim, count);
	const char *base = memory;

	nearest->dim = dim;
	nearest->count = count;
	nearest->order = order;
	nearest->vectors = vectors;
	nearest->factor = (const float *) (base + parts.factor);
	nearest->places = NULL;
	nearest->panels.count = ((size_t) count + ANN_PANEL - 1) / ANN_PANEL;
	nearest->panels.dim = AnnNearestRowBytes(dim);
	nearest->panels.bytes = (const int8_t *) (base + parts.bytes);
	nearest->panels.offset = (const int32_t *) (base + parts.offset);
	nearest->panels.scale = (const float *) (base + parts.scale);
	nearest->panels.bias = (const float *) (base + parts.bias);
	nearest->panels.error = (const float *) (base + parts.error);
}

void
AnnNearestPart(AnnNearest *part, void *memory, const AnnNearest *whole, const uint32_t *places, int count)
{
	int			dim = whole->dim;
	Parts		parts = PartsOf(dim, count);
	char	   *base = memory;
	int32_t    *offset = (int32_t *) (base + parts.offset);
	float	   *scale = (float *) (base + parts.scale);
	float	   *bias = (float *) (base + parts.bias);
	float	   *error = (float *) (base + parts.error);
	int			width = (count + ANN_PANEL - 1) / ANN_PANEL * ANN_PANEL;
	size_t		panel_size = ANN_PANEL * AnnNearestRowBytes(dim);

	for (int c = 0; c < width; c++)
	{
		/* What fills up the last panel is the first vector, and never found. */
		uint32_t	place = places[c < count ? c : 0];
		const int8_t *from = whole->panels.bytes + place / ANN_PANEL * panel_size + place % ANN_PANEL * 4;
		int8_t	   *to = (int8_t *) (base + parts.bytes) + c / ANN_PANEL * panel_size + c % ANN_PANEL * 4;

		for (size_t at = 0; at < panel_size; at += 4 * ANN_PANEL)
			memcpy(to + at, from + at, 4);
		offset[c] = whole->panels.offset[place];
		scale[c] = whole->panels.scale[place];
		bias[c] = c < count ? whole->panels.bias[place] : -INFINITY;
		error[c] = whole->panels.error[place];
	}
	AnnNearestOpen(part, memory, whole->vectors, count, dim, whole->order);
	part->factor = whole->factor;
	part->places = places;
}

void
AnnNearestSetRow(const AnnNearestRows *rows, int i, const float *x, const float *mean, int dim)
{
	size_t		row_bytes = AnnNearestRowBytes(dim);
	uint8_t    *to = rows->bytes + (size_t) i * row_bytes;
	float		errors = fminf(STANDARD_ERRORS, sqrtf(3 * (float) dim));
	float		norm;

	ann_kernels.u7_f32(x, mean, dim, to, &rows->scale[i], &norm);
	memset(to + dim, 0, row_bytes - dim);
	rows->spread[i] = errors * (norm + rows->scale[i] / UsualStep(dim));
}

size_t
AnnNearestScratchSize(int count, int nrows)
{
	size_t		width = ((size_t) count + ANN_PANEL - 1) / ANN_PANEL * ANN_PANEL;

	return width * sizeof(uint32_t) + (width + 1) * (size_t) nrows * sizeof(float);
}

void
AnnNearestFind(const AnnNearest *nearest, const AnnNearestRows *rows, const float *const *x, int nrows,
			   void *scratch, int *result)
{
	size_t		width = nearest->panels.count * ANN_PANEL;
	uint32_t   *places = scratch;
	float	   *best = (float *) (places + width);
	float	   *upper = best + nrows;

	ann_kernels.panel_scores(&nearest->panels, rows->bytes, rows->scale, rows->spread, nrows, upper, best);
	for (int i = 0; i < nrows; i++)
	{
		/* Where all scores overflow to -infinity, so do those of the vectors that fill up the last panel. */
		size_t		count = ann_kernels.places_ge_f32(upper + i * width, (size_t) nearest->count, best[i], places);
		float		least = INFINITY;

		result[i] = count > 0 ? (int) places[0] : 0;
		for (size_t p = 0; count > 1 && p < count; p++)
		{
			size_t		place = nearest->places != NULL ? nearest->places[places[p]] : places[p];
			const float *vector = nearest->vectors + place * nearest->dim;
			float		score;

			if (nearest->order != ANN_NEAREST_DISTANCE)
				score = -ann_kernels.ip_f32(x[i], vector, nearest->dim) * nearest->factor[place];
			else
				score = ann_kernels.l2sq_f32(x[i], vector, nearest->dim);
			if (score < least)
			{
				least = score;
				result[i] = (int) places[p];
			}
		}
		if (nearest->places != NULL)
			result[i] = (int) nearest->places[result[i]];
	}
}

int
AnnNearestSome(const AnnNearest *nearest, const AnnNearestRows *rows, int wanted, int most,
			   void *scratch, uint32_t *places)
{
	size_t		width = nearest->panels.count * ANN_PANEL;
	uint32_t   *found = scratch;
	float	   *best = (float *) (found + width);
	float	   *scores = best + 1;
	float		largest[SAMPLED_SCORES];
	size_t		nsampled = nearest->count < SAMPLED_SCORES ? (size_t) nearest->count : SAMPLED_SCORES;
	size_t		rank = 1 + nsampled * (size_t) wanted / (size_t) nearest->count;
	size_t		nlargest = 0;
	size_t		count;

	rank = rank < nsampled ? rank : nsampled;
	ann_kernels.panel_scores(&nearest->panels, rows->bytes, rows->scale, rows->spread, 1, scores, best);
	for (size_t i = 0; i < nsampled; i++)
	{
		float		score = scores[i * (size_t) nearest->count / nsampled];
		size_t		at;

		if (nlargest == rank && score <= largest[rank - 1])
			continue;
		nlargest += nlargest < rank;
		for (at = nlargest - 1; at > 0 && largest[at - 1] < score; at--)
			largest[at] = largest[at - 1];
		largest[at] = score;
	}
	count = ann_kernels.places_ge_f32(scores, (size_t) nearest->count, largest[rank - 1], found);
	/* Too many: those of the best scores. */
	for (size_t i = 0; i < count; i++)
	{
		size_t		at = i < (size_t) most ? i : (size_t) most;

		if (at == (size_t) most && scores[found[i]] <= scores[places[most - 1]])
			continue;
		if (at == (size_t) most)
			at--;
		for (; at > 0 && scores[places[at - 1]] < scores[found[i]]; at--)
			places[at] = places[at - 1];
		places[at] = found[i];
	}
	return count < (size_t) most ? (int) count : most;
}
