/*
 * code.c
 *	  RaBitQ codes of rotated residuals (README, Codes).
 *
 * A coordinate becomes an integer u of `planes` bits that stands for the odd
 * multiple v = u - (2^planes - 1) / 2 of some step; one bit keeps the sign.  v is
 * the code point: its direction is what counts, its length cancels out.
 */
#include <simde/x86/sse2.h>

#include "distance/half.h"
#include "quantize/numeric.h"

#define WORD 64					/* coordinates coded at a time */

/* Below this cosine to the code point a residual is as good as lost. */
#define MIN_COSINE 0x1p-10f

/* A residual without a larger coordinate is not coded. */
#define MIN_CODED 0x1p-100f

/* Parameters */

void
AnnCodeParamsSet(AnnCodeParams *p, AnnMetric metric, int dim, int planes, int kept)
{
	memset(p, 0, sizeof(*p));
	p->dim = dim;
	p->kept = kept;
	p->nbits = (kept + WORD - 1) / WORD * WORD;
	p->planes = planes;
	p->metric = metric;
}

void
AnnCodeParamsChoose(AnnCodeParams *p, AnnMetric metric, int dim, AnnCodeUse use, size_t max_bytes)
{
	int			planes = dim <= 128 ? 3 : dim < 384 ? 2 : 1;
	int			least = dim - dim / 3;

	if (use == ANN_CODE_BUILD && planes > 1)
		planes++;

	AnnCodeParamsSet(p, metric, dim, planes, dim);
	if (max_bytes == 0)
		return;
	while (planes > 1 && AnnCodeBytes(p) > max_bytes)
		AnnCodeParamsSet(p, metric, dim, --planes, dim);
	if (AnnCodeBytes(p) > max_bytes)
	{
		int			fits = (int) (max_bytes * 8 / WORD) * WORD;

		AnnCodeParamsSet(p, metric, dim, 1, fits > least ? fits : least);
	}
}

void
AnnCodeParamsSetScale(AnnCodeParams *p, float typical_norm)
{
	int			exponent = 0;

	if (typical_norm > 0 && typical_norm <= FLT_MAX)
		frexpf(typical_norm, &exponent);
	p->half_exp = exponent < -40 ? -40 : exponent > 40 ? 40 : exponent;
}

bool
AnnCodeParamsValid(const AnnCodeParams *p)
{
	return p->dim >= 1 && p->dim <= 16000 &&
		p->kept >= 1 && p->kept <= p->dim &&
		p->nbits == (p->kept + WORD - 1) / WORD * WORD &&
		p->planes >= 1 && p->planes <= ANN_CODE_MAX_PLANES &&
		p->metric >= ANN_METRIC_L2 && p->metric <= ANN_METRIC_COSINE &&
		p->half_exp >= -40 && p->half_exp <= 40 && p->reserved == 0;
}

/* Encoding */

/* Inner products of the code point v with itself and with the scaled x. */
typedef struct Fit
{
	float		vv;
	float		vx;
} Fit;

/* Steps between zero and the nearest code point below |x|. */
static inline int
Level(float x, int top)
{
	float		size = fabsf(x);

	return (int) (size < top ? size : top);
}

static inline void
AddToFit(float x, int top, float *vv, float *vx)
{
	float		v = (float) Level(x, top) + 0.5f;

	*vv += v * v;
	*vx += v * fabsf(x);
}

/* The fit of the code point for x times scale, whose levels end at top. */
static Fit
TryScale(const float *x, int n, float scale, int top)
{
	float		vv_f32x16[LANES] = {0};
	float		vx_f32x16[LANES] = {0};
	Fit			fit = {0, 0};
	int			i = 0;

	for (; i + LANES <= n; i += LANES)
		for (int lane = 0; lane < LANES; lane++)
			AddToFit(x[i + lane] * scale, top, &vv_f32x16[lane], &vx_f32x16[lane]);
	for (int lane = 0; i < n; i++, lane++)
		AddToFit(x[i] * scale, top, &vv_f32x16[lane], &vx_f32x16[lane]);
	for (int lane = 0; lane < LANES; lane++)
	{
		fit.vv += vv_f32x16[lane];
		fit.vx += vx_f32x16[lane];
	}
	return fit;
}

/* The square of the cosine, times the square of the length of x before scaling. */
static inline float
FitQuality(Fit fit, float scale)
{
	float		vx = fit.vx / scale;

	return vx * (vx / fit.vv);
}

/*
 * The factor of to_one whose code point has the largest cosine to x: the best of
 * a grid around what is best for a normal distribution (J. Max, 1960, table
 * II), then improved by turns: the best scale for the code point, the nearest
 * code point for the scale.  Neither turn can lose.  (Gao et al. 2025 search all
 * scales.)  Up to three planes every other scale of the grid does.  rms is that of the n coordinates
 * of x times to_one; *fit becomes that of the result.
 */
static float
SearchScale(const float *x, int n, float to_one, float rms, int planes, Fit *fit)
{
	static const float normal_step[ANN_CODE_MAX_PLANES + 1] = {0, 1.596f, 0.9957f, 0.5860f, 0.3352f};
	static const float grid[] = {0.70f, 0.80f, 0.87f, 0.94f, 1.00f, 1.06f, 1.13f, 1.20f, 1.30f, 1.45f};
	int			top = (1 << (planes - 1)) - 1;
	float		best_scale = 0;
	Fit			best = {1, 0};

	for (size_t i = planes < 4; i < sizeof(grid) / sizeof(grid[0]); i += planes < 4 ? 2 : 1)
	{
		float		scale = 1 / (grid[i] * normal_step[planes] * rms);
		Fit			tried = TryScale(x, n, to_one * scale, top);

		if (best_scale == 0 || FitQuality(tried, scale) > FitQuality(best, best_scale))
		{
			best = tried;
			best_scale = scale;
		}
	}
	for (int turn = 0; turn < 3; turn++)
	{
		float		scale = best_scale * (best.vv / best.vx);
		Fit			tried = TryScale(x, n, to_one * scale, top);

		if (!(FitQuality(tried, scale) > FitQuality(best, best_scale)))
			break;
		best = tried;
		best_scale = scale;
	}
	*fit = best;
	return best_scale;
}

/* The little-endian bytes of a word, bit i of byte i / 8 first. */
static inline void
StoreWord(uint8_t *dst, uint64_t word)
{
	for (int i = 0; i < 8; i++)
		dst[i] = (uint8_t) (word >> (8 * i));
}

/* Codes WORD coordinates at x, of which the first n count, into one word of each plane. */
static inline void
EncodeWord(const float *x, int n, float scale, int planes, uint8_t *code, size_t plane_bytes)
{
	const simde__m128 sign_f32x4 = simde_mm_set1_ps(-0.0f);
	int			half = 1 << (planes - 1);
	uint64_t	words[ANN_CODE_MAX_PLANES] = {0};

	for (int i = 0; i < WORD; i += 4)
	{
		simde__m128 x_f32x4 = simde_mm_loadu_ps(x + i);
		simde__m128i negative_i32x4 = simde_mm_srai_epi32(simde_mm_castps_si128(x_f32x4), 31);
		simde__m128 size_f32x4 = simde_mm_andnot_ps(sign_f32x4, simde_mm_mul_ps(x_f32x4, simde_mm_set1_ps(scale)));
		simde__m128i level_i32x4 = simde_mm_cvttps_epi32(simde_mm_min_ps(size_f32x4, simde_mm_set1_ps((float) (half - 1))));

		/* half + level, or half - 1 - level where x is negative: ~level is -1 - level */
		simde__m128i u_i32x4 = simde_mm_add_epi32(simde_mm_set1_epi32(half), simde_mm_xor_si128(level_i32x4, negative_i32x4));

		for (int plane = 0; plane < planes; plane++)
		{
			simde__m128i top_i32x4 = simde_mm_slli_epi32(u_i32x4, 31 - plane);

			words[plane] |= (uint64_t) simde_mm_movemask_ps(simde_mm_castsi128_ps(top_i32x4)) << i;
		}
	}
	for (int plane = 0; plane < planes; plane++)
		StoreWord(code + plane * plane_bytes, words[plane] & (~UINT64_C(0) >> (WORD - n)));
}

static void
EncodeBits(const AnnCodeParams *p, const float *x, float scale, uint8_t *code)
{
	size_t		plane_bytes = p->nbits / 8;

	for (int i = 0; i < p->kept; i += WORD)
	{
		int			n = p->kept - i < WORD ? p->kept - i : WORD;
		const float *at = x + i;
		float		padded[WORD] = {0};

		if (n < WORD)
			at = memcpy(padded, at, sizeof(float) * n);

		/* Constant arguments: the loops over the planes unroll. */
		switch (p->planes)
		{
			case 1:
				EncodeWord(at, n, scale, 1, code + i / 8, plane_bytes);
				break;
			case 2:
				EncodeWord(at, n, scale, 2, code + i / 8, plane_bytes);
				break;
			case 3:
				EncodeWord(at, n, scale, 3, code + i / 8, plane_bytes);
				break;
			default:
				EncodeWord(at, n, scale, 4, code + i / 8, plane_bytes);
				break;
		}
	}
}

/*
 * Factors of a residual that no code point comes near, or that has no length
 * to speak of: with |<r, q>| <= |r| |q| as the error, and nothing as the estimate, of
 * the inner product.
 */
static void
FactorsWithoutCode(double norm, AnnCodeFactors *factors)
{
	factors->mul = 0;
	factors->error = norm > 0 ? RoundUp(norm) : 0;
}

/* The squared lengths between which a residual is coded as it is: no sum overflows or loses anything. */
#define MIN_PLAIN 0x1p-80f
#define MAX_PLAIN 0x1p80f

/*
 * The factors for a residual of this length, whose kept part has the inner product vr with a
 * code point of the squared length vv; lengths are times 2 to -exponent.
 */
static void
SetFactors(const AnnCodeParams *p, float norm, double vv, float vr, int exponent, AnnCodeFactors *factors)
{
	double		cosine = vr / (sqrt(vv) * norm);

	/* 1 - cosine^2 is known no better than the sums it comes from. */
	factors->mul = ldexpf(norm * (norm / vr) * sqrtf((float) p->kept), exponent);
	factors->error = RoundUp(ldexp(norm * sqrt((fmax(1 / (cosine * cosine) - 1, 0) + 16 * FLOAT_UNIT) /
											   (p->dim > 1 ? p->dim - 1 : 1)), exponent));
}

/*
 * Codes a residual of usual length by its signs; false, with nothing done, if it is another.
 */
static bool
EncodeSigns(const AnnCodeParams *p, const float *r, float r_dot_c, uint8_t *code, AnnCodeFactors *factors)
{
	bool		ip = p->metric == ANN_METRIC_IP;
	float		kept2 = ann_kernels.ip_f32(r, r, p->kept);
	float		norm2 = kept2 + ann_kernels.ip_f32(r + p->kept, r + p->kept, p->dim - p->kept);
	float		norm;

	if (!(norm2 > MIN_PLAIN && norm2 < MAX_PLAIN) || kept2 < 4 * (MIN_COSINE * MIN_COSINE) * norm2 ||
		(ip && !(fabsf(r_dot_c) <= MAX_ELEMENT)))
		return false;
	norm = sqrtf(norm2);
	factors->add = ip ? -r_dot_c : norm;
	/* Code points are -1/2 and 1/2. */
	SetFactors(p, norm, p->kept / 4.0, ann_kernels.signs_f32(r, p->kept, code) / 2, 0, factors);
	return true;
}

AnnCodeStatus
AnnEncode(const AnnCodeParams *p, const float *r, float r_dot_c, uint8_t *code, AnnCodeFactors *factors)
{
	bool		ip = p->metric == ANN_METRIC_IP;
	float		max;
	int			exponent;
	float		to_one;
	float		kept2;
	float		norm;			/* times to_one, as all that follows */
	float		scale;
	Fit			fit;

	if (p->planes == 1 && EncodeSigns(p, r, r_dot_c, code, factors))
		return ANN_CODE_OK;
	max = MaxAbs(r, p->dim);
	exponent = max > 0 && max <= FLT_MAX ? ScaleExponent(max) : 0;
	to_one = ldexpf(1, -exponent);
	memset(code, 0, AnnCodeBytes(p));
	memset(factors, 0, sizeof(*factors));
	if (!(max <= MAX_NORM) || (ip && !(fabsf(r_dot_c) <= MAX_ELEMENT)))
	{
		factors->error = INFINITY;
		return ANN_CODE_INVALID;
	}
	if (max == 0)
		return ANN_CODE_ZERO;

	kept2 = SumSquares(r, p->kept, to_one);
	norm = sqrtf(kept2 + SumSquares(r + p->kept, p->dim - p->kept, to_one));
	if (ldexpf(norm, exponent) > MAX_NORM)
	{
		factors->error = INFINITY;
		return ANN_CODE_INVALID;
	}
	factors->add = ip ? -r_dot_c : ldexpf(norm, exponent);
	if (max < MIN_CODED || sqrtf(kept2) < MIN_COSINE * norm)
	{
		FactorsWithoutCode(ldexp(norm, exponent), factors);
		return ANN_CODE_OK;
	}

	if (p->planes == 1)
	{
		scale = 1;
		fit = TryScale(r, p->kept, to_one, 0);
	}
	else
		scale = SearchScale(r, p->kept, to_one, sqrtf(kept2 / p->kept), p->planes, &fit);
	EncodeBits(p, r, to_one * scale, code);
	SetFactors(p, norm, fit.vv, fit.vx / scale, exponent, factors);
	return ANN_CODE_OK;
}

/* Factors as halves */

/* x as a half; out of range the largest one, and *saturated is set. */
static AnnHalf
HalfSaturated(float x, bool *saturated)
{
	AnnHalf		half = AnnFloatToHalf(x);

	if ((half & 0x7fff) < 0x7c00)
		return half;
	*saturated = true;
	return (half & 0x8000) | 0x7bff;
}

/* The smallest half >= x >= 0. */
static AnnHalf
HalfRoundedUp(float x)
{
	AnnHalf		half = AnnFloatToHalf(x);

	return AnnHalfToFloat(half) < x ? half + 1 : half;
}

void
AnnFactorsToHalf(const AnnCodeParams *p, const AnnCodeFactors *factors, AnnHalf half[3])
{
	int			add_exponent = p->metric == ANN_METRIC_IP ? 2 * p->half_exp : p->half_exp;
	float		mul = ldexpf(factors->mul, -p->half_exp);
	float		error = ldexpf(factors->error, -p->half_exp);
	bool		saturated = false;

	half[0] = HalfSaturated(ldexpf(factors->add, -add_exponent), &saturated);
	half[1] = HalfSaturated(mul, &saturated);

	/* What a subnormal mul loses is not relative; the code point is at most this long. */
	if (mul > 0 && mul < 0x1p-14f)
		error += 0x1p-25f * (float) ((1 << p->planes) - 1) / 2;
	half[2] = saturated ? 0x7c00 : HalfRoundedUp(error);
}

void
AnnFactorsFromHalf(const AnnCodeParams *p, const AnnHalf half[3], AnnCodeFactors *factors)
{
	int			add_exponent = p->metric == ANN_METRIC_IP ? 2 * p->half_exp : p->half_exp;

	factors->add = ldexpf(AnnHalfToFloat(half[0]), add_exponent);
	factors->mul = ldexpf(AnnHalfToFloat(half[1]), p->half_exp);
	factors->error = ldexpf(AnnHalfToFloat(half[2]), p->half_exp);
}
