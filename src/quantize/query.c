/*
 * query.c
 *	  Estimates of distances from a query to codes (README, Estimates).
 */
#include "quantize/numeric.h"

#define CHUNK 64				/* codes at a time, so that everything stays on the stack */

/* Relative error of a half, and of the square of one. */
#define HALF_UNIT 0x1p-11f

/* Adding and taking away rounds a small float to an integer. */
#define ROUND_MAGIC 0x1.8p23f

/* A query of smaller coordinates, relative to its largest one, is coded as zero. */
#define MIN_CODED 0x1p-40f

/*
 * int8 codes of the kept coordinates of rq, times `scale`, which brings them into
 * [-127, 127].  Returns the square of the norm of what rounding lost, in units
 * of scaled coordinates.
 */
static double
QuantizeQuery(const float *rq, int kept, float to_one, float scale, int8_t *q8, int32_t *sum)
{
	int32_t		total_i32x16[LANES] = {0};
	float		lost_f32x16[LANES] = {0};
	double		lost = 0;
	int8_t		levels[LANES];	/* nothing that x may overlap with */
	int			i = 0;

#define STEP(lane) \
	do { \
		float		x = rq[i + (lane)] * to_one * scale; \
		float		rounded = (x + ROUND_MAGIC) - ROUND_MAGIC; \
		int32_t		level = (int32_t) rounded; \
		\
		lost_f32x16[lane] += (x - rounded) * (x - rounded); \
		total_i32x16[lane] += level; \
		levels[lane] = (int8_t) level; \
	} while (0)

	/* Loops of a constant length are vectorized. */
	for (; i + LANES <= kept; i += LANES)
	{
		for (int lane = 0; lane < LANES; lane++)
			STEP(lane);
		memcpy(q8 + i, levels, LANES);
	}
	for (int lane = 0; i + lane < kept; lane++)
		STEP(lane);
	memcpy(q8 + i, levels, kept - i);
#undef STEP

	*sum = 0;
	for (int lane = 0; lane < LANES; lane++)
	{
		lost += lost_f32x16[lane];
		*sum += total_i32x16[lane];
	}
	return lost;
}

bool
AnnQueryCodeInit(AnnQueryCode *qc, const AnnCodeParams *p, const float *rq, float q_dot_c)
{
	bool		ip = p->metric == ANN_METRIC_IP;
	float		max_all = MaxAbs(rq, p->dim);
	float		max = max_all;
	int			exponent;
	float		to_one;
	double		norm;
	double		lost;			/* norm of rq less what its codes stand for */
	float		factor = p->metric == ANN_METRIC_L2 ? 2 : 1;
	float		longest = (float) ((1 << p->planes) - 1) / 2;

	memset(qc, 0, AnnQueryCodeSize(p));
	qc->params = *p;
	if (!(max_all <= MAX_NORM) || (ip && !(fabsf(q_dot_c) <= MAX_ELEMENT)))
		return false;

	exponent = max_all > 0 ? ScaleExponent(max_all) : 0;
	to_one = ldexpf(1, -exponent);
	norm = ldexp(sqrt(SumSquares(rq, p->dim, to_one)), exponent);
	if (!(norm <= MAX_NORM))
		return false;

	lost = norm;
	if (p->kept < p->dim)
	{
		max = MaxAbs(rq, p->kept);
		lost = ldexp(sqrt(SumSquares(rq, p->kept, to_one)), exponent);
	}
	max *= to_one;
	if (max > MIN_CODED)
	{
		float		scale = 127 / max;
		double		step = ldexp(1 / (double) scale, exponent);

		lost = step * sqrt(QuantizeQuery(rq, p->kept, to_one, scale, qc->q8, &qc->sum));
		qc->mul = (float) (factor / 2 * step / sqrt(p->kept));
	}
	qc->valid = true;
	qc->norm = (float) norm;
	qc->add = ip ? -q_dot_c : (float) (factor / 2 * norm * norm);
	qc->error_norm = RoundUp(factor * norm);
	qc->error_mul = RoundUp(factor * longest * lost / sqrt(p->kept));
	qc->slack = RoundUp(4 * AnnRotationError(p->dim) + (p->dim / 8 + 64) * FLOAT_UNIT);
	return true;
}

/* What an estimate is made of, for a chunk of codes, contiguous. */
typedef struct Chunk
{
	float		add[CHUNK];
	float		mul[CHUNK];
	float		error[CHUNK];
	int32_t		ip[CHUNK];
} Chunk;

/* Float factors, or halves as floats, whose scale the caller accounts for. */
static void
GatherFactors(const AnnCodeArray *array, int first, int count, bool errors, Chunk *chunk)
{
	const char *factors = (const char *) array->factors + (size_t) first * array->factor_stride;
	AnnHalf		halves[3][CHUNK];

	if (count <= 0)
		return;
	if (array->form == ANN_FACTORS_FLOAT3)
	{
		for (int i = 0; i < count; i++, factors += array->factor_stride)
		{
			memcpy(&chunk->add[i], factors, sizeof(float));
			memcpy(&chunk->mul[i], factors + sizeof(float), sizeof(float));
			memcpy(&chunk->error[i], factors + 2 * sizeof(float), sizeof(float));
		}
		return;
	}
	for (int i = 0; i < count; i++, factors += array->factor_stride)
	{
		memcpy(&halves[0][i], factors, sizeof(AnnHalf));
		memcpy(&halves[1][i], factors + sizeof(AnnHalf), sizeof(AnnHalf));
		if (errors)
			memcpy(&halves[2][i], factors + 2 * sizeof(AnnHalf), sizeof(AnnHalf));
	}
	ann_kernels.f16_to_f32(halves[0], chunk->add, count);
	ann_kernels.f16_to_f32(halves[1], chunk->mul, count);
	if (errors)
		ann_kernels.f16_to_f32(halves[2], chunk->error, count);
}

/*
 * estimate = square * add^2 + linear * add + query_add - mul * query_mul * w,
 * w = 2 <u, q8> - (2^planes - 1) sum(q8), an integer.
 */
typedef struct Formula
{
	float		square;
	float		linear;
	float		query_mul;
	float		error_norm;
	float		error_mul;
	float		relative;		/* error of the terms with factors */
	float		query_relative;	/* error of the other term */
	float		absolute;
} Formula;

static Formula
MakeFormula(const AnnQueryCode *qc, AnnFactorForm form)
{
	const AnnCodeParams *p = &qc->params;
	bool		ip = p->metric == ANN_METRIC_IP;
	bool		half = form != ANN_FACTORS_FLOAT3;
	float		scale = half ? PowerOfTwo(p->half_exp) : 1;
	float		scale2 = scale * scale;
	Formula		f;

	f.square = ip ? 0 : (p->metric == ANN_METRIC_L2 ? 1 : 0.5f) * scale2;
	f.linear = ip ? scale2 : 0;
	f.query_mul = qc->mul * scale;
	/* Not zero: an infinite error stays infinite. */
	f.error_norm = fmaxf(qc->error_norm * scale, FLT_MIN);
	f.error_mul = qc->error_mul * scale;
	f.relative = qc->slack + (half ? 2 * HALF_UNIT : 0);
	f.query_relative = qc->slack;
	f.absolute = !half ? 0 : (ip ? 0x1p-25f : 0x1p-37f) * scale2;
	return f;
}

/* sqrt(a^2 + b^2) of non-negative a and b, where the squares may overflow or underflow. */
static inline float
Hypotenuse(float a, float b)
{
	float		larger = a > b ? a : b;
	float		smaller = a > b ? b : a;
	float		ratio = smaller / (larger > FLT_MIN ? larger : FLT_MIN);

	ratio = ratio < 1 ? ratio : 1;	/* of infinities too */
	return larger * sqrtf(1 + ratio * ratio);
}

static void
EstimateChunk(const AnnQueryCode *qc, const Formula *f, const Chunk *chunk, int count,
			  float *estimates, float *errors)
{
	int32_t		middle = ((1 << qc->params.planes) - 1) * qc->sum;

	for (int i = 0; i < count; i++)
	{
		float		add = (f->square * chunk->add[i] + f->linear) * chunk->add[i];
		float		inner = chunk->mul[i] * (f->query_mul * (float) (2 * chunk->ip[i] - middle));

		estimates[i] = add + (qc->add - inner);
	}
	if (errors == NULL)
		return;
	for (int i = 0; i < count; i++)
	{
		float		add = (f->square * chunk->add[i] + f->linear) * chunk->add[i];
		float		inner = chunk->mul[i] * (f->query_mul * (float) (2 * chunk->ip[i] - middle));
		float		from_code = chunk->error[i] * f->error_norm;
		float		from_query = chunk->mul[i] * f->error_mul;

		errors[i] = Hypotenuse(from_code, from_query) + f->relative * (fabsf(add) + fabsf(inner)) +
			f->query_relative * fabsf(qc->add) + f->absolute;
	}
}

void
AnnEstimateBatch(const AnnQueryCode *qc, const AnnCodeArray *array, float *estimates, float *errors)
{
	const AnnCodeParams *p = &qc->params;
	Formula		formula = MakeFormula(qc, array->form);
	Chunk		chunk;

	if (!qc->valid)
	{
		for (int i = 0; i < array->count; i++)
		{
			estimates[i] = 0;
			if (errors != NULL)
				errors[i] = INFINITY;
		}
		return;
	}
	for (int first = 0; first < array->count; first += CHUNK)
	{
		int			count = array->count - first < CHUNK ? array->count - first : CHUNK;

		ann_kernels.code_ip_batch((const uint8_t *) array->codes + (size_t) first * array->code_stride,
								  array->code_stride, count, p->planes, p->nbits, qc->q8, chunk.ip);
		GatherFactors(array, first, count, errors != NULL, &chunk);
		EstimateChunk(qc, &formula, &chunk, count, estimates + first,
					  errors != NULL ? errors + first : NULL);
	}
}

void
AnnBoundColumns(const AnnQueryCode *qc, const AnnCodeColumns *columns, float eps, float *lowers, int32_t *ips)
{
	const AnnCodeParams *p = &qc->params;
	Formula		f = MakeFormula(qc, ANN_FACTORS_HALF3);
	float		constant = qc->add - eps * (f.query_relative * fabsf(qc->add) + f.absolute);
	float		square = f.square;
	float		linear = f.linear;
	float		query_mul = f.query_mul;
	float		relative = eps * f.relative;
	float		error_norm = eps * f.error_norm;
	float		error_mul = eps * f.error_mul / (float) ((1 << p->planes) - 1);
	Chunk		chunk;

	if (!qc->valid)
	{
		for (int i = 0; i < columns->count; i++)
		{
			lowers[i] = -INFINITY;
			ips[i] = 0;
		}
		return;
	}
	ann_kernels.code_ip_batch(columns->top, p->nbits / 8, columns->count, 1, p->nbits, qc->q8, ips);
	for (int first = 0; first < columns->count; first += CHUNK)
	{
		int			count = columns->count - first < CHUNK ? columns->count - first : CHUNK;
		float	   *out = lowers + first;
		const int32_t *ip = ips + first;
		int32_t		middle = qc->sum;

		ann_kernels.f16_to_f32(columns->add + first, chunk.add, count);
		ann_kernels.f16_to_f32(columns->mul + first, chunk.mul, count);
		ann_kernels.f16_to_f32(columns->error + first, chunk.error, count);
		/* A sum in place of a hypotenuse is a little too much error, and no square root. */
		for (int i = 0; i < count; i++)
		{
			float		add = (square * chunk.add[i] + linear) * chunk.add[i];
			float		inner = chunk.mul[i] * (query_mul * (float) (2 * ip[i] - middle));
			float		error = chunk.error[i] * error_norm + chunk.mul[i] * error_mul +
				relative * (fabsf(add) + fabsf(inner));
			float		lower = add - inner + constant - error;

			/* inf - inf, where squares overflow: nothing is known */
			out[i] = lower < INFINITY ? lower : -INFINITY;
		}
	}
}

/* Copied together, small codes are worth a batch. */
#define SMALL_CODE 64

void
AnnEstimateColumns(const AnnQueryCode *qc, const AnnCodeColumns *columns, const int32_t *ips,
				   const uint16_t *places, int n, float *estimates, float *errors)
{
	const AnnCodeParams *p = &qc->params;
	Formula		formula = MakeFormula(qc, ANN_FACTORS_HALF3);
	int			low_planes = p->planes - 1;
	size_t		low_size = (size_t) low_planes * (p->nbits / 8);
	Chunk		chunk;
	AnnHalf		halves[3][CHUNK];
	uint8_t		codes[CHUNK * SMALL_CODE];

	for (int first = 0; first < n; first += CHUNK, places += CHUNK, estimates += CHUNK, errors += CHUNK)
	{
		int			count = n - first < CHUNK ? n - first : CHUNK;

		if (!qc->valid)
		{
			for (int i = 0; i < count; i++)
			{
				estimates[i] = 0;
				errors[i] = INFINITY;
			}
			continue;
		}
		/* Most other codes are never looked at, so these are not in the caches. */
		for (int i = 0; low_planes > 0 && i < count; i++)
		{
			__builtin_prefetch(columns->low + places[i] * low_size);
			__builtin_prefetch(columns->fine + 2 * places[i]);
		}
		for (int i = 0; i < count; i++)
		{
			int			place = places[i];

			halves[0][i] = columns->add[place];
			halves[1][i] = low_planes > 0 ? columns->fine[2 * place] : columns->mul[place];
			halves[2][i] = low_planes > 0 ? columns->fine[2 * place + 1] : columns->error[place];
			if (low_size > SMALL_CODE)
				chunk.ip[i] = ann_kernels.code_ip(columns->low + place * low_size, low_planes, p->nbits, qc->q8);
			else if (low_planes > 0)
				/* (nbits is a multiple of 64.) */
				for (size_t at = 0; at < low_size; at += 8)
					memcpy(codes + i * low_size + at, columns->low + place * low_size + at, 8);
			else
				chunk.ip[i] = 0;
		}
		if (low_planes > 0 && low_size <= SMALL_CODE)
			ann_kernels.code_ip_batch(codes, low_size, count, low_planes, p->nbits, qc->q8, chunk.ip);
		for (int i = 0; i < count; i++)
			chunk.ip[i] += ips[places[i]] * (1 << low_planes);
		ann_kernels.f16_to_f32(halves[0], chunk.add, count);
		ann_kernels.f16_to_f32(halves[1], chunk.mul, count);
		ann_kernels.f16_to_f32(halves[2], chunk.error, count);
		EstimateChunk(qc, &formula, &chunk, count, estimates, errors);
	}
}
