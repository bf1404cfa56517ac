/*
 * probe.c
 *	  Distances between two coded vectors from their codes (README, Angles).
 */
#include "quantize/numeric.h"

/* Coordinates unpacked at a time. */
#define WORD 64

/* Knots of the curves in CosineFromCodes. */
#define KNOTS 32

static inline uint64_t
LoadWord(const uint8_t *src)
{
	uint64_t	word = 0;

	for (int i = 0; i < 8; i++)
		word |= (uint64_t) src[i] << (8 * i);
	return word;
}

/*
 * The code point of the word of coordinates at `code`, doubled so that it is of
 * integers: 2 u - (2^planes - 1), or 0 from coordinate n on.
 */
static inline void
UnpackWord(const uint8_t *code, int planes, size_t plane_bytes, int n, int8_t *out)
{
	int8_t		middle = (int8_t) ((1 << planes) - 1);

	memset(out, 0, WORD);
	for (int plane = 0; plane < planes; plane++)
	{
		uint64_t	word = LoadWord(code + plane * plane_bytes);

		for (int i = 0; i < WORD; i++)
			out[i] |= (int8_t) ((word >> i & 1) << (plane + 1));
	}
	for (int i = 0; i < n; i++)
		out[i] -= middle;
}

/* cos(pi x) for x in [0, 1], wrong by less than 1e-7. */
static inline float
CosPi(float x)
{
	float		y = 0.5f - x;	/* sin(pi y), y in [-1/2, 1/2] */
	float		z = y * y;

	return y * (3.14159265f + z * (-5.16771278f + z * (2.55016404f + z * (-0.59926453f + z * (0.08214589f - z * 0.00737043f)))));
}

/*
 * The cosine of two vectors whose code points have cosine c.  One plane: the
 * angle is pi times the share of bits that differ (Charikar 2002).  More planes:
 * for jointly normal coordinates of correlation rho, c = sum a_k^2 rho^k / sum
 * a_k^2 with a_k the Hermite coefficients of the quantizer; the curves are its
 * inverse, at c = 1 - (1 - i / KNOTS)^2 (test/quantize checks them by simulation).
 */
static float
CosineFromCodes(int planes, float c)
{
	static const float curves[ANN_CODE_MAX_PLANES + 1][KNOTS + 1] = {
		[2] = {
			0.00000f, 0.06981f, 0.13734f, 0.20253f, 0.26534f, 0.32574f, 0.38372f, 0.43926f,
			0.49235f, 0.54301f, 0.59123f, 0.63704f, 0.68044f, 0.72145f, 0.76008f, 0.79633f,
			0.83018f, 0.86156f, 0.89027f, 0.91592f, 0.93796f, 0.95593f, 0.96984f, 0.98020f,
			0.98763f, 0.99275f, 0.99608f, 0.99811f, 0.99923f, 0.99973f, 0.99991f, 0.99998f, 1.0f
		},
		[3] = {
			0.00000f, 0.06391f, 0.12579f, 0.18562f, 0.24339f, 0.29910f, 0.35275f, 0.40434f,
			0.45385f, 0.50130f, 0.54668f, 0.58999f, 0.63124f, 0.67042f, 0.70753f, 0.74259f,
			0.77560f, 0.80655f, 0.83545f, 0.86231f, 0.88714f, 0.90992f, 0.93067f, 0.94936f,
			0.96576f, 0.97919f, 0.98870f, 0.99455f, 0.99777f, 0.99929f, 0.99982f, 0.99997f, 1.0f
		},
		[4] = {
			0.00000f, 0.06224f, 0.12251f, 0.18079f, 0.23710f, 0.29142f, 0.34376f, 0.39412f,
			0.44249f, 0.48888f, 0.53329f, 0.57571f, 0.61614f, 0.65459f, 0.69106f, 0.72554f,
			0.75804f, 0.78855f, 0.81709f, 0.84364f, 0.86821f, 0.89081f, 0.91143f, 0.93007f,
			0.94674f, 0.96144f, 0.97417f, 0.98491f, 0.99321f, 0.99784f, 0.99958f, 0.99994f, 1.0f
		},
	};
	float		size = fminf(fabsf(c), 1);
	float		at = (1 - sqrtf(1 - size)) * KNOTS;
	int			i = (int) at < KNOTS ? (int) at : KNOTS - 1;
	float		cosine = curves[planes][i] + (at - i) * (curves[planes][i + 1] - curves[planes][i]);

	return c < 0 ? -cosine : cosine;
}

size_t
AnnCodeProbeSize(const AnnCodeParams *p)
{
	return sizeof(AnnCodeProbe) + (p->planes == 1 ? p->nbits / 8 : p->nbits);
}

void
AnnCodeProbeInit(AnnCodeProbe *probe, const AnnCodeParams *p, const uint8_t *code, float norm)
{
	probe->norm = norm;
	probe->inv_length = 0;
	if (p->planes == 1)
	{
		memcpy(probe->data, code, AnnCodeBytes(p));
		return;
	}
	for (int i = 0; i < p->nbits; i += WORD)
	{
		int			n = p->kept - i < WORD ? p->kept - i : WORD;

		UnpackWord(code + i / 8, p->planes, p->nbits / 8, n, probe->data + i);
	}
	probe->inv_length = 1 / sqrtf((float) ann_kernels.ip_i8(probe->data, probe->data, p->nbits));
}

float
AnnCodeProbeCosine(const AnnCodeParams *p, const AnnCodeProbe *a, const AnnCodeProbe *b)
{
	if (p->planes == 1)
		return CosPi((float) ann_kernels.hamming((const uint8_t *) a->data, (const uint8_t *) b->data, p->nbits / 8) / p->kept);
	return CosineFromCodes(p->planes, (float) ann_kernels.ip_i8(a->data, b->data, p->nbits) *
						   a->inv_length * b->inv_length);
}

float
AnnCodeProbeDistance2(const AnnCodeParams *p, const AnnCodeProbe *a, const AnnCodeProbe *b)
{
	float		difference = a->norm - b->norm;

	return difference * difference + 2 * a->norm * b->norm * (1 - AnnCodeProbeCosine(p, a, b));
}

/* |r|^2 sqrt(kept) / <v, r> = |r| sqrt(kept) / (s |v|), s the cosine of r and v. */
float
AnnCodeNorm(const AnnCodeParams *p, const uint8_t *code, const AnnCodeFactors *factors)
{
	/* For normal coordinates (README, Codes). */
	static const float expected_cosine[ANN_CODE_MAX_PLANES + 1] = {0, 0.79788f, 0.93870f, 0.98110f, 0.99421f};
	int32_t		vv = 0;

	if (p->metric != ANN_METRIC_IP)
		return factors->add;
	for (int i = 0; i < p->nbits; i += WORD)
	{
		int			n = p->kept - i < WORD ? p->kept - i : WORD;
		int8_t		v[WORD];

		UnpackWord(code + i / 8, p->planes, p->nbits / 8, n, v);
		vv += ann_kernels.ip_i8(v, v, WORD);
	}
	return factors->mul * expected_cosine[p->planes] * (sqrtf((float) vv) / 2) / sqrtf((float) p->dim);
}
