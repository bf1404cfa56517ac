/*
 * refine.c
 *	  Stored vectors and bounds of their distances (README, Refine forms; the
 *	  letters below are those of its derivation).
 */
#include "distance/cosine.h"
#include "distance/half.h"
#include "quantize/numeric.h"

#define CHUNK 128				/* elements decoded at a time */

/* Cosine: vectors of other norms are not bounded, their squares may get lost. */
#define MIN_COSINE_NORM 0x1p-40
#define MAX_COSINE_NORM 0x1p60

static size_t
ElementSize(const AnnRefineSpec *spec)
{
	switch ((AnnRefineForm) spec->form)
	{
		case ANN_REFINE_HALF:
			return sizeof(AnnHalf);
		case ANN_REFINE_SQ8:
			return sizeof(uint8_t);
		case ANN_REFINE_FULL:
			break;
	}
	return AnnRefineIsExact(spec) && spec->element == ANN_ELEMENT_HALF ? sizeof(AnnHalf) : sizeof(float);
}

size_t
AnnRefineSize(const AnnRefineSpec *spec)
{
	size_t		size = ElementSize(spec) * (size_t) spec->dim;

	if (!AnnRefineIsExact(spec))
		size += sizeof(float);
	if (spec->form == ANN_REFINE_SQ8)
		size += 2 * sizeof(float);
	return size;
}

/* A stored vector taken apart; lo and step are those of sq8. */
typedef struct Stored
{
	float		radius;
	float		lo;
	float		step;
	const void *elements;
} Stored;

static inline Stored
TakeApart(const AnnRefineSpec *spec, const void *stored)
{
	const char *p = stored;
	Stored		s = {0, 0, 0, NULL};

	if (!AnnRefineIsExact(spec))
	{
		memcpy(&s.radius, p, sizeof(float));
		p += sizeof(float);
	}
	if (spec->form == ANN_REFINE_SQ8)
	{
		memcpy(&s.lo, p, sizeof(float));
		memcpy(&s.step, p + sizeof(float), sizeof(float));
		p += 2 * sizeof(float);
	}
	s.elements = p;
	return s;
}

/* Relative error of a kernel's sum, in unit roundoffs (src/distance/README). */
static inline double
SumRoundings(int dim)
{
	return dim / 8 + 16;
}

/* Whether a kernel's sum of squares neither overflowed nor lost much by underflow. */
static inline bool
IsUsualSum(float sum)
{
	return sum >= 0x1p-100f && sum <= FLT_MAX;
}

/* At least what such a sum of dim squares should be. */
static inline double
SumBound(float sum, int dim)
{
	return sum * (1 + 2 * Gamma(SumRoundings(dim)));
}

/* Bound of what underflow takes from a sum of dim products, twice over. */
static inline double
Underflow(int dim)
{
	return dim * 0x1p-148;
}

/* What underflow adds to the error of a rotation. */
static inline double
RotationUnderflow(int dim)
{
	return 0x1p-136 * sqrt(dim);
}

/* What an interval under IP allows for both kernels and the rotation of the query, per |q||x|. */
static inline double
ProductError(const AnnRefineSpec *spec)
{
	double		gamma = Gamma(SumRoundings(spec->dim));
	double		rotation = spec->rotated ? AnnRotationError(spec->dim) : 0;

	return 2 * gamma * (1 + rotation) + rotation;
}

/* Encoding */

/* Elements of the column's type as floats. */
static void
LoadElements(const AnnRefineSpec *spec, const void *x, float *out)
{
	if (spec->element == ANN_ELEMENT_HALF)
		ann_kernels.f16_to_f32(x, out, spec->dim);
	else
		memcpy(out, x, sizeof(float) * (size_t) spec->dim);
}

/* The status of a vector that is compared as it is. */
static AnnRefineStatus
ExactStatus(const AnnRefineSpec *spec, const void *x)
{
	const AnnHalf *halves = x;

	if (spec->metric != ANN_METRIC_COSINE)
		return ANN_REFINE_OK;
	if (spec->element == ANN_ELEMENT_FLOAT4)
		return MaxAbs(x, spec->dim) == 0 ? ANN_REFINE_ZERO : ANN_REFINE_OK;
	for (int i = 0; i < spec->dim; i++)
		if ((halves[i] & 0x7fff) != 0)
			return ANN_REFINE_OK;
	return ANN_REFINE_ZERO;
}

/* A vector in the space of a spec that is not exact, and what getting there cost. */
typedef struct Prepared
{
	AnnRefineStatus status;
	double		norm;			/* of the vector in that space, or a little more */
	double		radius;			/* bound of the distance to where it should be */
} Prepared;

/*
 * Normalises for cosine and rotates if the spec says so, in place.  Leaves
 * finite values whatever happens.
 */
static Prepared
Prepare(const AnnRefineSpec *spec, float *x)
{
	Prepared	p = {ANN_REFINE_OK, 0, 0};
	float		sum = spec->metric == ANN_METRIC_COSINE ? INFINITY : ann_kernels.ip_f32(x, x, spec->dim);

	if (IsUsualSum(sum))
	{
		/* All elements are in range; a norm that is a little too large will do. */
		p.norm = sqrt(SumBound(sum, spec->dim));
	}
	else
	{
		float		max = MaxAbs(x, spec->dim);

		if (!(max <= MAX_ELEMENT))
		{
			memset(x, 0, sizeof(float) * (size_t) spec->dim);
			p.status = ANN_REFINE_RANGE;
			return p;
		}
		p.norm = sqrt(SumSquaresDouble(x, spec->dim));
	}

	if (spec->metric == ANN_METRIC_COSINE)
	{
		double		lost = 0;

		if (p.norm == 0)
		{
			p.status = ANN_REFINE_ZERO;
			return p;
		}
		if (p.norm < MIN_COSINE_NORM || p.norm > MAX_COSINE_NORM)
			p.status = ANN_REFINE_RANGE;
		for (int i = 0; i < spec->dim; i++)
		{
			double		exact = x[i] / p.norm;

			x[i] = (float) exact;
			lost += (exact - x[i]) * (exact - x[i]);
		}
		p.norm = 1;
		p.radius = sqrt(lost) + 0x1p-40;
	}
	if (spec->rotated)
	{
		AnnRotate(x, x, spec->dim);
		p.radius += AnnRotationError(spec->dim) * p.norm + RotationUnderflow(spec->dim);
	}
	return p;
}

/* Norm of a difference in which errors accumulate: L1 under L1, else L2. */
typedef struct Loss
{
	bool		l1;
	double		sum;
} Loss;

static inline void
AddLoss(Loss *loss, double difference)
{
	loss->sum += loss->l1 ? fabs(difference) : difference * difference;
}

static inline double
LossNorm(Loss loss)
{
	return (loss.l1 ? loss.sum : sqrt(loss.sum)) * (1 + 0x1p-30);
}

static void
StoreHalf(const float *x, int dim, char *out, Loss *loss)
{
	AnnHalf		halves[CHUNK];
	float		floats[CHUNK];
	double		sum_f64x16[LANES] = {0};
	float		sum;

	ann_kernels.f32_to_f16(x, (AnnHalf *) out, dim);
	sum = loss->l1 ? INFINITY : ann_kernels.l2sq_f32_f16(x, (const AnnHalf *) out, dim);
	if (IsUsualSum(sum))
	{
		/* None is infinite, so the differences were exact. */
		loss->sum += SumBound(sum, dim);
		return;
	}
	for (int i = 0; i < dim; i += CHUNK)
	{
		int			n = dim - i < CHUNK ? dim - i : CHUNK;

		ann_kernels.f32_to_f16(x + i, halves, n);
		for (int j = 0; j < n; j++)
			if ((halves[j] & 0x7fff) == 0x7c00)
				halves[j]--;	/* the largest half: far off, but the loss says so */
		ann_kernels.f16_to_f32(halves, floats, n);
		for (int j = 0; j < n / LANES * LANES; j += LANES)
			for (int lane = 0; lane < LANES; lane++)
			{
				double		lost = (double) x[i + j + lane] - floats[j + lane];

				sum_f64x16[lane] += loss->l1 ? fabs(lost) : lost * lost;
			}
		for (int j = n / LANES * LANES; j < n; j++)
			AddLoss(loss, (double) x[i + j] - floats[j]);
		memcpy(out + (size_t) i * sizeof(AnnHalf), halves, (size_t) n * sizeof(AnnHalf));
	}
	for (int lane = 0; lane < LANES; lane++)
		loss->sum += sum_f64x16[lane];
}

/*
 * Stores lo, step and the bytes.  *evaluation receives a bound of what kernels
 * lose when they compute lo + step * u in float, in the norm of the loss, and
 * *cancelled the sum of the norms of lo and of step * u, which is what an inner
 * product is made of before it cancels.
 */
static void
StoreSq8(const float *x, int dim, char *out, Loss *loss, double *evaluation, double *cancelled)
{
	float		lo = x[0];
	float		hi = x[0];
	float		step;
	uint8_t    *u = (uint8_t *) out + 2 * sizeof(float);
	Loss		rounding = {loss->l1, 0};
	double		steps2 = 0;

	for (int i = 1; i < dim; i++)
	{
		lo = x[i] < lo ? x[i] : lo;
		hi = x[i] > hi ? x[i] : hi;
	}
	step = (float) (((double) hi - lo) / 255);

	for (int i = 0; i < dim; i++)
	{
		double		at = step > 0 ? ((double) x[i] - lo) / step + 0.5 : 0;
		int			level = at >= 255 ? 255 : (int) at;
		double		steps = (double) step * level;
		double		value = lo + steps;

		u[i] = (uint8_t) level;
		AddLoss(loss, x[i] - value);
		AddLoss(&rounding, FLOAT_UNIT * (steps + fabs(value)) * (1 + 2 * FLOAT_UNIT) + 0x1p-149);
		steps2 += steps * steps;
	}
	memcpy(out, &lo, sizeof(lo));
	memcpy(out + sizeof(lo), &step, sizeof(step));
	*evaluation = LossNorm(rounding);
	*cancelled = fabs(lo) * sqrt(dim) + sqrt(steps2);
}

AnnRefineStatus
AnnRefineEncode(const AnnRefineSpec *spec, const void *x, void *out, float *scratch)
{
	char	   *elements = (char *) out + sizeof(float);
	Loss		loss = {spec->metric == ANN_METRIC_L1, 0};
	double		evaluation = 0;
	double		cancelled = 0;
	double		radius;
	float		stored_radius;
	Prepared	prepared;

	LoadElements(spec, x, scratch);
	if (AnnRefineIsExact(spec))
	{
		memcpy(out, x, AnnRefineSize(spec));
		return ExactStatus(spec, x);
	}

	prepared = Prepare(spec, scratch);
	switch ((AnnRefineForm) spec->form)
	{
		case ANN_REFINE_FULL:
			memcpy(elements, scratch, sizeof(float) * (size_t) spec->dim);
			break;
		case ANN_REFINE_HALF:
			StoreHalf(scratch, spec->dim, elements, &loss);
			break;
		case ANN_REFINE_SQ8:
			StoreSq8(scratch, spec->dim, elements, &loss, &evaluation, &cancelled);
			break;
	}

	radius = prepared.radius + LossNorm(loss);
	if (spec->metric == ANN_METRIC_IP)
	{
		/* All that an interval multiplies with |q|: see IpInterval. */
		radius += ProductError(spec) * (prepared.norm + radius) +
			(Gamma(SumRoundings(spec->dim)) + 4 * FLOAT_UNIT) * cancelled;
	}
	else
		radius += evaluation;

	stored_radius = prepared.status == ANN_REFINE_OK ? RoundUp(radius) : INFINITY;
	memcpy(out, &stored_radius, sizeof(stored_radius));
	return prepared.status != ANN_REFINE_OK || stored_radius <= FLT_MAX ? prepared.status : ANN_REFINE_RANGE;
}

void
AnnRefineDecode(const AnnRefineSpec *spec, const void *stored, float *out)
{
	Stored		s = TakeApart(spec, stored);

	switch ((AnnRefineForm) spec->form)
	{
		case ANN_REFINE_FULL:
			if (ElementSize(spec) == sizeof(float))
				memcpy(out, s.elements, sizeof(float) * (size_t) spec->dim);
			else
				ann_kernels.f16_to_f32(s.elements, out, spec->dim);
			break;
		case ANN_REFINE_HALF:
			ann_kernels.f16_to_f32(s.elements, out, spec->dim);
			break;
		case ANN_REFINE_SQ8:
			for (int i = 0; i < spec->dim; i++)
				out[i] = s.lo + s.step * ((const uint8_t *) s.elements)[i];
			break;
	}
}

/* Scores */

size_t
AnnRefineQuerySize(const AnnRefineSpec *spec)
{
	return sizeof(AnnRefineQuery) + sizeof(float) * (size_t) spec->dim;
}

AnnRefineStatus
AnnRefineQueryInit(AnnRefineQuery *query, const AnnRefineSpec *spec, const void *q)
{
	Prepared	prepared;
	double		sum = 0;

	memset(query, 0, sizeof(*query));
	query->spec = *spec;
	if (AnnRefineIsExact(spec))
	{
		memcpy(query->x, q, AnnRefineSize(spec));
		query->status = ExactStatus(spec, q);
		return query->status;
	}

	LoadElements(spec, q, query->x);
	prepared = Prepare(spec, query->x);
	for (int i = 0; i < spec->dim; i++)
		sum += query->x[i];
	query->status = prepared.status;
	query->sum = (float) sum;
	query->norm = prepared.norm;
	query->radius = prepared.radius;
	return query->status;
}

static float
L1Score(const AnnRefineQuery *query, Stored s)
{
	double		sum = 0;
	float		floats[CHUNK];

	for (int i = 0; i < query->spec.dim; i += CHUNK)
	{
		int			n = query->spec.dim - i < CHUNK ? query->spec.dim - i : CHUNK;

		if (query->spec.form == ANN_REFINE_HALF)
			ann_kernels.f16_to_f32((const AnnHalf *) s.elements + i, floats, n);
		else
			for (int j = 0; j < n; j++)
				floats[j] = s.lo + s.step * ((const uint8_t *) s.elements)[i + j];
		sum += ann_kernels.l1_f32(query->x + i, floats, n);
	}
	return (float) sum;
}

static float
ExactScore(const AnnRefineQuery *query, const void *x)
{
	const void *q = query->x;
	size_t		n = query->spec.dim;
	bool		half = query->spec.element == ANN_ELEMENT_HALF;

	switch ((AnnMetric) query->spec.metric)
	{
		case ANN_METRIC_L2:
			return half ? ann_kernels.l2sq_f16(q, x, n) : ann_kernels.l2sq_f32(q, x, n);
		case ANN_METRIC_IP:
			return half ? -ann_kernels.ip_f16(q, x, n) : -ann_kernels.ip_f32(q, x, n);
		case ANN_METRIC_COSINE:
			return (float) AnnCosineDistance(half ? ann_kernels.cosine_f16(q, x, n) : ann_kernels.cosine_f32(q, x, n));
		default:
			break;
	}
	return half ? ann_kernels.l1_f16(q, x, n) : ann_kernels.l1_f32(q, x, n);
}

static float
L2SquaredScore(const AnnRefineQuery *query, Stored s)
{
	size_t		n = query->spec.dim;

	switch ((AnnRefineForm) query->spec.form)
	{
		case ANN_REFINE_HALF:
			return ann_kernels.l2sq_f32_f16(query->x, s.elements, n);
		case ANN_REFINE_SQ8:
			return ann_kernels.l2sq_f32_sq8(query->x, s.elements, s.lo, s.step, n);
		case ANN_REFINE_FULL:
			break;
	}
	return ann_kernels.l2sq_f32(query->x, s.elements, n);
}

static float
IpScore(const AnnRefineQuery *query, Stored s)
{
	size_t		n = query->spec.dim;

	switch ((AnnRefineForm) query->spec.form)
	{
		case ANN_REFINE_HALF:
			return ann_kernels.ip_f32_f16(query->x, s.elements, n);
		case ANN_REFINE_SQ8:
			return s.lo * query->sum + s.step * ann_kernels.ip_f32_u8(query->x, s.elements, n);
		case ANN_REFINE_FULL:
			break;
	}
	return ann_kernels.ip_f32(query->x, s.elements, n);
}

float
AnnRefineScore(const AnnRefineQuery *query, const void *stored)
{
	Stored		s = TakeApart(&query->spec, stored);

	if (AnnRefineIsExact(&query->spec))
		return ExactScore(query, stored);

	switch ((AnnMetric) query->spec.metric)
	{
		case ANN_METRIC_IP:
			return -IpScore(query, s);
		case ANN_METRIC_COSINE:
			return L2SquaredScore(query, s) / 2;
		case ANN_METRIC_L1:
			return L1Score(query, s);
		default:
			break;
	}
	return L2SquaredScore(query, s);
}

/* Intervals */

static const AnnInterval everything = {-INFINITY, INFINITY};

/* What the SQL function makes of a score that is exact. */
static AnnInterval
ExactInterval(const AnnRefineQuery *query, const void *x, float score)
{
	double		distance = score;

	if (query->spec.metric == ANN_METRIC_L2)
		distance = sqrt((double) score);
	else if (query->spec.metric == ANN_METRIC_COSINE)
		distance = AnnCosineDistance(query->spec.element == ANN_ELEMENT_HALF ?
									 ann_kernels.cosine_f16((const void *) query->x, x, query->spec.dim) :
									 ann_kernels.cosine_f32(query->x, x, query->spec.dim));
	return (AnnInterval)
	{
		distance, distance
	};
}

/* Bounds of a sum of non-negative terms, from the float that a kernel made of it. */
static AnnInterval
SumInterval(int dim, double computed)
{
	double		gamma = Gamma(SumRoundings(dim));
	double		low = computed <= FLT_MAX ? computed : FLT_MAX;

	return (AnnInterval)
	{
		fmax(low - Underflow(dim), 0) / (1 + gamma), (computed + Underflow(dim)) / (1 - gamma)
	};
}

/* Bounds of what any kernel makes of a sum of non-negative terms that is within bounds. */
static AnnInterval
ComputedSum(int dim, AnnInterval sum)
{
	double		gamma = Gamma(SumRoundings(dim));
	double		hi = (sum.hi + Underflow(dim)) * (1 + gamma);

	return (AnnInterval)
	{
		fmax(sum.lo - Underflow(dim), 0) * (1 - gamma), hi < FLT_MAX ? hi : INFINITY
	};
}

/* The distance to what should be stored, from that to what is. */
static AnnInterval
Widen(AnnInterval distance, double radius)
{
	return (AnnInterval)
	{
		fmax(distance.lo - radius, 0), distance.hi + radius
	};
}

/* Square roots of the bounds, or their squares, with room for the rounding of a double. */
static AnnInterval
Root(AnnInterval x)
{
	return (AnnInterval)
	{
		sqrt(x.lo) * (1 - 0x1p-48), sqrt(x.hi) * (1 + 0x1p-48)
	};
}

static AnnInterval
Square(AnnInterval x)
{
	return (AnnInterval)
	{
		x.lo * x.lo * (1 - 0x1p-48), x.hi * x.hi * (1 + 0x1p-48)
	};
}

static AnnInterval
L2Interval(int dim, double radius, float score)
{
	AnnInterval distance = Widen(Root(SumInterval(dim, score)), radius);

	return Root(ComputedSum(dim, Square(distance)));
}

static AnnInterval
L1Interval(int dim, double radius, float score)
{
	AnnInterval distance = ComputedSum(dim, Widen(SumInterval(dim, score), radius));

	distance.lo *= 1 - 0x1p-48;
	distance.hi *= 1 + 0x1p-48;
	return distance;
}

/*
 * Half the squared distance of the normalised vectors; the SQL function's
 * similarity adds an error of gamma for each of its sums.
 */
static AnnInterval
CosineInterval(int dim, double radius, float score)
{
	AnnInterval squared = Square(Widen(Root(SumInterval(dim, 2 * (double) score)), radius));
	double		gamma = Gamma(SumRoundings(dim));
	double		error = 2 * gamma / (1 - gamma) + 4 * FLOAT_UNIT;

	return (AnnInterval)
	{
		fmax(squared.lo / 2 - error, 0), fmin(squared.hi / 2 + error, 2)
	};
}

static AnnInterval
IpInterval(const AnnRefineQuery *query, double radius, float score)
{
	const AnnRefineSpec *spec = &query->spec;
	double		product_error = ProductError(spec);
	double		norm = query->norm + RotationUnderflow(spec->dim) / Gamma(SumRoundings(spec->dim));
	double		error = norm * radius * (1 + 0x1p-40) + Underflow(spec->dim);

	/* norm * radius / product_error bounds |q||x|: sums near the end of float may overflow. */
	if (!(norm * radius / product_error < FLT_MAX / 4) || !(fabsf(score) <= FLT_MAX))
		return everything;
	return (AnnInterval)
	{
		score - error, score + error
	};
}

AnnInterval
AnnRefineInterval(const AnnRefineQuery *query, const void *stored, float score)
{
	const AnnRefineSpec *spec = &query->spec;
	double		radius;

	if (AnnRefineIsExact(spec))
		return ExactInterval(query, stored, score);

	radius = TakeApart(spec, stored).radius;
	if (query->status != ANN_REFINE_OK || !(radius <= FLT_MAX))
		return everything;
	switch ((AnnMetric) spec->metric)
	{
		case ANN_METRIC_IP:
			return IpInterval(query, radius, score);
		case ANN_METRIC_COSINE:
			return CosineInterval(spec->dim, radius + query->radius, score);
		case ANN_METRIC_L1:
			return L1Interval(spec->dim, radius, score);
		default:
			break;
	}
	return L2Interval(spec->dim, radius + query->radius, score);
}
