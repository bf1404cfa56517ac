/*
 * scalar.c
 *	  Kernels in plain C, for any CPU.
 *
 * Sums run in eight independent lanes, so that a compiler may turn them into
 * the vectors of an instruction set that has no file here, and so that the
 * error bound (README) is that of n / 8 additions.
 */
#include <math.h>
#include <string.h>

#include "distance/half.h"
#include "distance/tables.h"

#define LANES 8

/* Element i of p, which may be unaligned, as a float. */
FORCE_INLINE float
Load(Elem elem, const void *p, size_t i)
{
	float		f;
	AnnHalf		h;

	switch (elem)
	{
		case ELEM_F32:
			memcpy(&f, (const char *) p + i * sizeof(f), sizeof(f));
			return f;
		case ELEM_F16:
			memcpy(&h, (const char *) p + i * sizeof(h), sizeof(h));
			return AnnHalfToFloat(h);
		case ELEM_U8:
		case ELEM_SQ8:
			return ((const uint8_t *) p)[i];
	}
	return 0;
}

FORCE_INLINE float
Term(Op op, float a, float b)
{
	float		d = a - b;

	switch (op)
	{
		case OP_L2SQ:
			return d * d;
		case OP_IP:
			return a * b;
		case OP_L1:
			return d < 0 ? -d : d;
	}
	return 0;
}

FORCE_INLINE float
SumLanes(const float *sum_f32x8)
{
	return ((sum_f32x8[0] + sum_f32x8[4]) + (sum_f32x8[2] + sum_f32x8[6])) +
		((sum_f32x8[1] + sum_f32x8[5]) + (sum_f32x8[3] + sum_f32x8[7]));
}

FORCE_INLINE float
LoadSq8(Elem elem, const void *p, size_t i, float lo, float step)
{
	float		x = Load(elem, p, i);

	return elem == ELEM_SQ8 ? lo + step * x : x;
}

/* Sum of op over the n elements of a and b; lo and step matter to ELEM_SQ8. */
FORCE_INLINE float
Reduce(Op op, Elem elem_a, const void *a, Elem elem_b, const void *b, float lo, float step, size_t n)
{
	float		sum_f32x8[LANES] = {0};
	size_t		i = 0;

	for (; i + LANES <= n; i += LANES)
		for (int lane = 0; lane < LANES; lane++)
			sum_f32x8[lane] += Term(op, Load(elem_a, a, i + lane),
									LoadSq8(elem_b, b, i + lane, lo, step));
	for (int lane = 0; i < n; i++, lane++)
		sum_f32x8[lane] += Term(op, Load(elem_a, a, i), LoadSq8(elem_b, b, i, lo, step));

	return SumLanes(sum_f32x8);
}

FORCE_INLINE AnnCosineSums
ReduceCosine(Elem elem, const void *a, const void *b, size_t n)
{
	float		ab_f32x8[LANES] = {0};
	float		aa_f32x8[LANES] = {0};
	float		bb_f32x8[LANES] = {0};

	for (size_t i = 0; i < n; i++)
	{
		float		x = Load(elem, a, i);
		float		y = Load(elem, b, i);

		ab_f32x8[i % LANES] += x * y;
		aa_f32x8[i % LANES] += x * x;
		bb_f32x8[i % LANES] += y * y;
	}
	return (AnnCosineSums)
	{
		SumLanes(ab_f32x8), SumLanes(aa_f32x8), SumLanes(bb_f32x8)
	};
}

static float
ann_l2sq_f32_scalar(const float *a, const float *b, size_t n)
{
	return Reduce(OP_L2SQ, ELEM_F32, a, ELEM_F32, b, 0, 0, n);
}

static float
ann_ip_f32_scalar(const float *a, const float *b, size_t n)
{
	return Reduce(OP_IP, ELEM_F32, a, ELEM_F32, b, 0, 0, n);
}

static float
ann_l1_f32_scalar(const float *a, const float *b, size_t n)
{
	return Reduce(OP_L1, ELEM_F32, a, ELEM_F32, b, 0, 0, n);
}

static AnnCosineSums
ann_cosine_f32_scalar(const float *a, const float *b, size_t n)
{
	return ReduceCosine(ELEM_F32, a, b, n);
}

static float
ann_l2sq_f16_scalar(const AnnHalf *a, const AnnHalf *b, size_t n)
{
	return Reduce(OP_L2SQ, ELEM_F16, a, ELEM_F16, b, 0, 0, n);
}

static float
ann_ip_f16_scalar(const AnnHalf *a, const AnnHalf *b, size_t n)
{
	return Reduce(OP_IP, ELEM_F16, a, ELEM_F16, b, 0, 0, n);
}

static float
ann_l1_f16_scalar(const AnnHalf *a, const AnnHalf *b, size_t n)
{
	return Reduce(OP_L1, ELEM_F16, a, ELEM_F16, b, 0, 0, n);
}

static AnnCosineSums
ann_cosine_f16_scalar(const AnnHalf *a, const AnnHalf *b, size_t n)
{
	return ReduceCosine(ELEM_F16, a, b, n);
}

static float
ann_l2sq_f32_f16_scalar(const float *q, const AnnHalf *x, size_t n)
{
	return Reduce(OP_L2SQ, ELEM_F32, q, ELEM_F16, x, 0, 0, n);
}

static float
ann_ip_f32_f16_scalar(const float *q, const AnnHalf *x, size_t n)
{
	return Reduce(OP_IP, ELEM_F32, q, ELEM_F16, x, 0, 0, n);
}

static float
ann_l2sq_f32_sq8_scalar(const float *q, const uint8_t *u, float lo, float step, size_t n)
{
	return Reduce(OP_L2SQ, ELEM_F32, q, ELEM_SQ8, u, lo, step, n);
}

static float
ann_ip_f32_u8_scalar(const float *q, const uint8_t *u, size_t n)
{
	return Reduce(OP_IP, ELEM_F32, q, ELEM_U8, u, 0, 0, n);
}

static int32_t
ann_ip_i8_scalar(const int8_t *a, const int8_t *b, size_t n)
{
	int32_t		sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (int32_t) a[i] * b[i];
	return sum;
}

static void
ann_f16_to_f32_scalar(const AnnHalf *src, float *dst, size_t n)
{
	for (size_t i = 0; i < n; i++)
	{
		float		f = Load(ELEM_F16, src, i);

		memcpy((char *) dst + i * sizeof(f), &f, sizeof(f));
	}
}

static void
ann_f32_to_f16_scalar(const float *src, AnnHalf *dst, size_t n)
{
	for (size_t i = 0; i < n; i++)
	{
		AnnHalf		h = AnnFloatToHalf(Load(ELEM_F32, src, i));

		memcpy((char *) dst + i * sizeof(h), &h, sizeof(h));
	}
}

static uint64_t
ann_hamming_scalar(const uint8_t *a, const uint8_t *b, size_t n)
{
	return HammingWords(a, b, n);
}

static void
ann_jaccard_scalar(const uint8_t *a, const uint8_t *b, size_t n, uint64_t *both, uint64_t *either)
{
	JaccardWords(a, b, n, both, either);
}

static int32_t
ann_code_ip_scalar(const uint8_t *code, int planes, size_t nbits, const int8_t *q)
{
	int32_t		total = 0;

	for (int plane = planes - 1; plane >= 0; plane--)
	{
		const uint8_t *bits = code + plane * (nbits / 8);
		int32_t		sum = 0;

		for (size_t i = 0; i < nbits; i++)
			sum += -(bits[i / 8] >> (i % 8) & 1) & q[i];
		total = 2 * total + sum;
	}
	return total;
}

static void
ann_code_ip_batch_scalar(const uint8_t *codes, size_t stride, int count,
						 int planes, size_t nbits, const int8_t *q, int32_t *out)
{
	for (int i = 0; i < count; i++)
		out[i] = ann_code_ip_scalar(codes + i * stride, planes, nbits, q);
}

/* The float at place i of p, which may be unaligned. */
FORCE_INLINE float
FloatAt(const float *p, size_t i)
{
	return Load(ELEM_F32, p, i);
}

static void
ann_panel_scores_scalar(const AnnPanels *panels, const uint8_t *u, const float *scale,
						const float *spread, size_t n, float *upper, float *best)
{
	size_t		width = panels->count * ANN_PANEL;

	for (size_t i = 0; i < n; i++, u += panels->dim)
	{
		float		largest = -INFINITY;

		for (size_t p = 0; p < panels->count; p++)
		{
			const int8_t *bytes = panels->bytes + p * ANN_PANEL * panels->dim;
			int32_t		products[ANN_PANEL];

			memcpy(products, (const char *) panels->offset + p * sizeof(products), sizeof(products));
			for (size_t j = 0; j < panels->dim; j += 4, bytes += 4 * ANN_PANEL)
				for (int c = 0; c < ANN_PANEL; c++)
					for (int k = 0; k < 4; k++)
						products[c] += u[j + k] * bytes[4 * c + k];
			for (int c = 0; c < ANN_PANEL; c++)
			{
				size_t		at = p * ANN_PANEL + c;
				float		middle = (float) products[c] * FloatAt(panels->scale, at) * FloatAt(scale, i) +
					FloatAt(panels->bias, at);
				float		error = FloatAt(panels->error, at) * FloatAt(spread, i);
				float		sum = middle + error;

				memcpy((char *) upper + (i * width + at) * sizeof(float), &sum, sizeof(float));
				if (middle - error > largest)
					largest = middle - error;
			}
		}
		memcpy((char *) best + i * sizeof(float), &largest, sizeof(float));
	}
}

static void
ann_u7_f32_scalar(const float *x, const float *mean, size_t n, uint8_t *u, float *step, float *norm)
{
	float		max = 0;
	float		inverse;

	for (size_t i = 0; i < n; i++)
	{
		float		size = fabsf(FloatAt(x, i) - FloatAt(mean, i));

		max = size > max ? size : max;
	}
	*step = U7Step(max);
	*norm = sqrtf(Reduce(OP_L2SQ, ELEM_F32, x, ELEM_F32, mean, 0, 0, n));
	inverse = U7Inverse(max);
	for (size_t i = 0; i < n; i++)
		u[i] = (uint8_t) ((FloatAt(x, i) - FloatAt(mean, i)) * inverse + (U7_ZERO + 0.5f));
}

static size_t
ann_places_ge_f32_scalar(const float *x, size_t n, float least, uint32_t *places)
{
	size_t		count = 0;

	for (uint32_t i = 0; i < n; i++)
		if (FloatAt(x, i) >= least)
			memcpy((char *) places + count++ * sizeof(i), &i, sizeof(i));
	return count;
}

static float
ann_signs_f32_scalar(const float *x, size_t n, uint8_t *bits)
{
	float		sum = 0;

	memset(bits, 0, (n + 63) / 64 * 8);
	for (size_t i = 0; i < n; i++)
	{
		float		f = FloatAt(x, i);

		sum += fabsf(f);
		bits[i / 8] |= (uint8_t) (!signbit(f) << (i % 8));
	}
	return sum;
}

static void
ann_negate_f32_scalar(const float *in, float *out, const uint64_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
	{
		uint64_t	word;
		float		f = FloatAt(in, i);

		memcpy(&word, (const char *) words + i / 64 * sizeof(word), sizeof(word));
		f = word >> (i % 64) & 1 ? -f : f;
		memcpy((char *) out + i * sizeof(f), &f, sizeof(f));
	}
}

static void
ann_fht_f32_scalar(float *x, size_t n)
{
	float		scale = FhtScale(n);
	char	   *bytes = (char *) x;

	for (size_t i = 0; i < n; i++)
	{
		float		f = scale * Load(ELEM_F32, x, i);

		memcpy(bytes + i * sizeof(f), &f, sizeof(f));
	}
	for (size_t half = 1; half < n; half *= 2)
		for (size_t block = 0; block < n; block += 2 * half)
			for (size_t i = block; i < block + half; i++)
			{
				float		a = Load(ELEM_F32, x, i);
				float		b = Load(ELEM_F32, x, i + half);
				float		sum = a + b;
				float		difference = a - b;

				memcpy(bytes + i * sizeof(sum), &sum, sizeof(sum));
				memcpy(bytes + (i + half) * sizeof(sum), &difference, sizeof(sum));
			}
}

const AnnKernels ann_kernels_scalar = {
	.name = "scalar",
	.l2sq_f32 = ann_l2sq_f32_scalar,
	.ip_f32 = ann_ip_f32_scalar,
	.l1_f32 = ann_l1_f32_scalar,
	.cosine_f32 = ann_cosine_f32_scalar,
	.l2sq_f16 = ann_l2sq_f16_scalar,
	.ip_f16 = ann_ip_f16_scalar,
	.l1_f16 = ann_l1_f16_scalar,
	.cosine_f16 = ann_cosine_f16_scalar,
	.l2sq_f32_f16 = ann_l2sq_f32_f16_scalar,
	.ip_f32_f16 = ann_ip_f32_f16_scalar,
	.l2sq_f32_sq8 = ann_l2sq_f32_sq8_scalar,
	.ip_f32_u8 = ann_ip_f32_u8_scalar,
	.ip_i8 = ann_ip_i8_scalar,
	.f16_to_f32 = ann_f16_to_f32_scalar,
	.f32_to_f16 = ann_f32_to_f16_scalar,
	.hamming = ann_hamming_scalar,
	.jaccard = ann_jaccard_scalar,
	.code_ip = ann_code_ip_scalar,
	.code_ip_batch = ann_code_ip_batch_scalar,
	.panel_scores = ann_panel_scores_scalar,
	.u7_f32 = ann_u7_f32_scalar,
	.places_ge_f32 = ann_places_ge_f32_scalar,
	.signs_f32 = ann_signs_f32_scalar,
	.negate_f32 = ann_negate_f32_scalar,
	.fht_f32 = ann_fht_f32_scalar,
};
