/*
 * quantize.h
 *	  Rotation, short codes that estimate a distance, and the refine forms that
 *	  bound it (src/quantize/README: maths, error bounds, on-disk meaning).
 *
 * Plain C over memory of the caller: nothing here allocates, raises an error or
 * keeps state, no struct holds a pointer into itself or into another one, and
 * nothing but ann_kernels is global, so every function may run in a parallel
 * worker on structs that lie in shared memory.  Like distance.h the file
 * includes nothing of PostgreSQL.
 *
 * Vectors are float[dim] of finite values.  Stored vectors, codes and factors need no
 * alignment.  The order of things, for HNSW and for IVFFlat:
 *
 *	x  -- AnnRefineEncode -->  stored form, and x as stored: normalised for
 *							   cosine, rotated where the form is
 *	r  = P(x - c)			   by AnnRotate(x - c), or as Px - Pc
 *	r  -- AnnEncode -->		   code bits and AnnCodeFactors
 *	q  -- AnnRefineQueryInit, AnnQueryCodeInit(P(q - c)) --> the two query forms
 *	AnnEstimateBatch		   estimates from codes
 *	AnnRefineScore/Interval    distances from the refine form
 */
#ifndef ANN_QUANTIZE_H
#define ANN_QUANTIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "distance/distance.h"

/* On-disk values: never renumber. */
typedef enum AnnMetric
{
	ANN_METRIC_L2 = 0,			/* <->, sqrt of the sum of squares */
	ANN_METRIC_IP = 1,			/* <#>, negative inner product */
	ANN_METRIC_COSINE = 2,		/* <=>, 1 - cosine */
	ANN_METRIC_L1 = 3,			/* <+>, refine forms only: there is no code */
	ANN_METRIC_HAMMING = 4,		/* <~>, bit: neither code nor refine form */
	ANN_METRIC_JACCARD = 5		/* <%>, bit: likewise */
} AnnMetric;

/*
 * The scale in which scores and estimates are given, so that the two compare:
 * L2: squared distance; IP: negative inner product; cosine: 1 - cosine; L1: the
 * distance.  Only intervals (AnnRefineInterval) are in the operator's scale,
 * which differs for L2.
 */

/* rotate.c */

/*
 * out = P in, with P a fixed orthogonal matrix for each dim in 1..16000 that is part of
 * the on-disk format.  in may equal out; other overlaps are not allowed.
 * Relative float error of the result, in the L2 norm, on any CPU: at most
 * AnnRotationError(dim).  A result too large for float becomes infinity.
 */
extern void AnnRotate(const float *in, float *out, int dim);

/* out = transpose of P times in: undoes AnnRotate up to twice that error. */
extern void AnnRotateInverse(const float *in, float *out, int dim);

extern double AnnRotationError(int dim);

/*
 * out = in / |in|, norm in double.  Returns |in|; 0 (and out all zero) for the
 * zero vector.  in may equal out.
 */
extern double AnnNormalize(const float *in, float *out, int dim);

/* code.c: parameters */

#define ANN_CODE_MAX_PLANES 4

/*
 * What all codes of an index have in common; lies in its meta page.
 *
 *	OFFSET SIZE  FIELD
 *	   0     4   dim
 *	   4     4   kept: the first kept rotated coordinates are coded, <= dim
 *	   8     4   nbits: kept rounded up to a multiple of 64; the rest is zero
 *	  12     2   planes: bits per coordinate, 1..4
 *	  14     2   metric (AnnMetric)
 *	  16     4   half_exp: factors stored as halves are scaled by 2^-half_exp
 *	  20     4   reserved, zero
 */
typedef struct AnnCodeParams
{
	int32_t		dim;
	int32_t		kept;
	int32_t		nbits;
	int16_t		planes;
	int16_t		metric;
	int32_t		half_exp;
	int32_t		reserved;
} AnnCodeParams;

typedef enum AnnCodeUse
{
	ANN_CODE_SEARCH,			/* codes in index rows */
	ANN_CODE_BUILD				/* codes that a graph is built from */
} AnnCodeUse;

static inline size_t
AnnCodeBytes(const AnnCodeParams *p)
{
	return (size_t) p->planes * (size_t) (p->nbits / 8);
}

/*
 * The policy: dim <= 128 three bits per coordinate (four for the build), dim <
 * 384 two (three), else one.  max_bytes > 0 asks for codes of at most that
 * size: then bits are dropped, down to one, and after that coordinates, down to
 * two thirds of them (at equal size that is the smaller error), so the result may still be
 * larger than asked for.  half_exp is 0.  metric is not L1.
 */
extern void AnnCodeParamsChoose(AnnCodeParams *p, AnnMetric metric, int dim,
								AnnCodeUse use, size_t max_bytes);

/* The same with everything given: 1 <= planes <= 4, 1 <= kept <= dim. */
extern void AnnCodeParamsSet(AnnCodeParams *p, AnnMetric metric, int dim, int planes, int kept);

/*
 * Sets half_exp for residuals of about this norm, so that those from 2^-14 to
 * 2^15 times as long keep full precision as halves.  Without it the range is
 * that of a half: 6e-5 to 65504.
 */
extern void AnnCodeParamsSetScale(AnnCodeParams *p, float typical_norm);

/* For reading a meta page: whether these are parameters that Choose or Set could have made. */
extern bool AnnCodeParamsValid(const AnnCodeParams *p);

/* code.c: encoding */

typedef enum AnnCodeStatus
{
	ANN_CODE_OK,
	ANN_CODE_ZERO,				/* zero residual: the estimate is exact */
	ANN_CODE_INVALID			/* out of range: code all zero, factors {0, 0, infinity}:
								 * the estimate is that of the centre, the lower
								 * bound -infinity, so score such a row exactly */
} AnnCodeStatus;

/*
 * Per-vector factors, always finite but for error, which is infinite where the
 * estimate means nothing.
 */
typedef struct AnnCodeFactors
{
	float		add;			/* L2, cosine: |r|; IP: -<r, Pc> */
	float		mul;			/* |r|^2 sqrt(kept) / <code point, r> */
	float		error;			/* |r| sqrt((1/s^2 - 1) / (dim - 1)), rounded up */
} AnnCodeFactors;

/*
 * Encodes the rotated residual r = P(x - c), float[dim].  r_dot_c is <x - c, c>
 * (only IP looks at it; 0 when the centre is).  code has AnnCodeBytes(p) bytes.
 */
extern AnnCodeStatus AnnEncode(const AnnCodeParams *p, const float *r, float r_dot_c,
							   uint8_t *code, AnnCodeFactors *factors);

/*
 * Factors to and from halves: {add, mul, error}, error rounded up, values out
 * of a half's range saturated with error infinite.  A slot that has no room for
 * error stores the first two.
 */
extern void AnnFactorsToHalf(const AnnCodeParams *p, const AnnCodeFactors *factors, AnnHalf half[3]);
extern void AnnFactorsFromHalf(const AnnCodeParams *p, const AnnHalf half[3], AnnCodeFactors *factors);

/* query.c */

/* Query as int8 codes; AnnQueryCodeSize bytes, copyable with memcpy. */
typedef struct AnnQueryCode
{
	AnnCodeParams params;
	bool		valid;
	float		norm;			/* |q - c| */
	float		add;			/* what the estimate gets from the query alone */
	float		mul;			/* scale of factors->mul times the integer below */
	float		error_norm;		/* scale of factors->error */
	float		error_mul;		/* scale of factors->mul in the error: q's rounding */
	float		slack;			/* float error of both rotations and centrings, relative */
	int32_t		sum;			/* of q8 */
	int8_t		q8[];			/* nbits entries */
} AnnQueryCode;

static inline size_t
AnnQueryCodeSize(const AnnCodeParams *p)
{
	return sizeof(AnnQueryCode) + (size_t) p->nbits;
}

/*
 * Codes the rotated and centred query rq = P(q - c), float[dim].  q_dot_c is
 * <q, c> (only IP looks at it).  For a build, where the new row is the query:
 * rq is its r, and q_dot_c = r_dot_c + |c|^2.
 *
 * False if rq is out of range; estimates then are all 0 with infinite error.
 */
extern bool AnnQueryCodeInit(AnnQueryCode *qc, const AnnCodeParams *p, const float *rq, float q_dot_c);

typedef enum AnnFactorForm
{
	ANN_FACTORS_HALF2,			/* AnnHalf {add, mul} */
	ANN_FACTORS_HALF3,			/* AnnHalf {add, mul, error} */
	ANN_FACTORS_FLOAT3			/* float {add, mul, error} */
} AnnFactorForm;

/*
 * `count` codes, the first at `codes`, each code_stride bytes after the one
 * before; likewise their factors.  Interleaved slots have equal strides.  No
 * alignment is needed.
 */
typedef struct AnnCodeArray
{
	const void *codes;
	size_t		code_stride;
	const void *factors;
	size_t		factor_stride;
	AnnFactorForm form;
	int			count;
} AnnCodeArray;

/*
 * Estimated scores of the codes, never NaN.  errors, unless NULL, receives their
 * standard errors (form HALF2 has none: pass NULL), what halves and int8 lost
 * included: the true score is above estimate - ANN_CODE_EPS * error with high
 * probability, not with certainty.
 */
extern void AnnEstimateBatch(const AnnQueryCode *qc, const AnnCodeArray *array,
							 float *estimates, float *errors);

#define ANN_CODE_EPS 3.0f

/*
 * `count` codes in columns, each an array without gaps.  The uppermost plane of a code is the code
 * of one plane of the same vector: it has factors of its own, as halves.  Estimates by
 * the whole code then are for those that this does not rule out.
 */
typedef struct AnnCodeColumns
{
	int			count;
	const AnnHalf *add;			/* of both */
	const AnnHalf *mul;
	const AnnHalf *error;
	const uint8_t *top;			/* uppermost planes, nbits / 8 bytes each */
	const AnnHalf *fine;		/* {mul, error} of whole codes, if they have more than one plane; */
	const uint8_t *low;			/* their other planes */
} AnnCodeColumns;

/*
 * Lower bounds of the scores, estimate - eps * error, from the uppermost planes of all codes, never
 * NaN or infinity.  *ips receives what AnnEstimateColumns wants to know of them.
 */
extern void AnnBoundColumns(const AnnQueryCode *qc, const AnnCodeColumns *columns, float eps,
							float *lowers, int32_t *ips);

/* What AnnEstimateBatch finds for the whole codes at n places. */
extern void AnnEstimateColumns(const AnnQueryCode *qc, const AnnCodeColumns *columns, const int32_t *ips,
							   const uint16_t *places, int n, float *estimates, float *errors);

/* probe.c: distances between two coded vectors, from their codes alone */

/*
 * A code made ready for many comparisons; AnnCodeProbeSize bytes (a multiple of
 * 8), copyable with memcpy.
 */
typedef struct AnnCodeProbe
{
	float		norm;			/* |r| */
	float		inv_length;		/* 1 / |code point|, more than one plane only */
	int8_t		data[];
} AnnCodeProbe;

extern size_t AnnCodeProbeSize(const AnnCodeParams *p);
extern void AnnCodeProbeInit(AnnCodeProbe *probe, const AnnCodeParams *p, const uint8_t *code, float norm);

/* Estimated cosine of the two residuals, in [-1, 1]; squared L2 distance of the two vectors. */
extern float AnnCodeProbeCosine(const AnnCodeParams *p, const AnnCodeProbe *a, const AnnCodeProbe *b);
extern float AnnCodeProbeDistance2(const AnnCodeParams *p, const AnnCodeProbe *a, const AnnCodeProbe *b);

/*
 * |r| of a coded vector from its factors: exact (as stored) for L2 and cosine,
 * for IP from mul and the code, within a few percent.
 */
extern float AnnCodeNorm(const AnnCodeParams *p, const uint8_t *code, const AnnCodeFactors *factors);

/* refine.c */

/* On-disk values: never renumber. */
typedef enum AnnRefineForm
{
	ANN_REFINE_FULL = 0,		/* as the column has it: float4, or half for halfvec */
	ANN_REFINE_HALF = 1,
	ANN_REFINE_SQ8 = 2
} AnnRefineForm;

typedef enum AnnElement
{
	ANN_ELEMENT_FLOAT4 = 0,		/* vector */
	ANN_ELEMENT_HALF = 1,		/* halfvec */
	ANN_ELEMENT_SPARSE = 2,		/* sparsevec: no refine form */
	ANN_ELEMENT_BIT = 3			/* bit: likewise */
} AnnElement;

/*
 * How an index stores its vectors; lies in its meta page.
 *
 *	OFFSET SIZE  FIELD
 *	   0     4   dim
 *	   4     1   metric (AnnMetric)
 *	   5     1   form (AnnRefineForm)
 *	   6     1   element (AnnElement): type of the column
 *	   7     1   rotated: 0 or 1; not for L1
 */
typedef struct AnnRefineSpec
{
	int32_t		dim;
	uint8_t		metric;
	uint8_t		form;
	uint8_t		element;
	uint8_t		rotated;
} AnnRefineSpec;

/* full and not rotated: intervals are points, the value of the SQL function. */
static inline bool
AnnRefineIsExact(const AnnRefineSpec *spec)
{
	return spec->form == ANN_REFINE_FULL && !spec->rotated;
}

/*
 * Bytes of a stored vector; needs no alignment.
 *
 *	exact:   float4[dim], or half[dim] for halfvec
 *	else:	 float4 radius: bound of the distance between what is stored and the truth (README)
 *			 full: float4[dim]	 half: half[dim]   sq8: float4 lo, float4 step, uint8[dim]
 */
extern size_t AnnRefineSize(const AnnRefineSpec *spec);

typedef enum AnnRefineStatus
{
	ANN_REFINE_OK,
	ANN_REFINE_ZERO,			/* zero vector under cosine: its distance is NaN */
	ANN_REFINE_RANGE			/* out of range: radius is infinite, every interval
								 * [-infinity, infinity] */
} AnnRefineStatus;

/*
 * Stores x, dim elements of the column's type, in out (AnnRefineSize bytes).
 * scratch, float[dim], receives the vector before it was rounded to the form: as
 * floats, normalised under cosine (unless exact), rotated if the spec says so.
 */
extern AnnRefineStatus AnnRefineEncode(const AnnRefineSpec *spec, const void *x, void *out, float *scratch);

/* Reads a stored vector back as floats: what scratch was, up to rounding. */
extern void AnnRefineDecode(const AnnRefineSpec *spec, const void *stored, float *out);

/* A query to be compared with stored vectors; AnnRefineQuerySize bytes. */
typedef struct AnnRefineQuery
{
	AnnRefineSpec spec;
	AnnRefineStatus status;
	float		sum;			/* of x */
	double		norm;			/* |q| as compared: 1 under cosine */
	double		radius;			/* bound of the float error in x */
	float		x[];			/* dim floats; for an exact halfvec halves */
} AnnRefineQuery;

extern size_t AnnRefineQuerySize(const AnnRefineSpec *spec);

/*
 * Prepares q, dim elements of the column's type.  Afterwards query->x is what
 * scratch is in AnnRefineEncode (halves where the spec is exact for halfvec),
 * so P(q - c) can be had as x - Pc.  Returns query->status.
 */
extern AnnRefineStatus AnnRefineQueryInit(AnnRefineQuery *query, const AnnRefineSpec *spec, const void *q);

/* The score of a stored vector, a single kernel call in most cases. */
extern float AnnRefineScore(const AnnRefineQuery *query, const void *stored);

/*
 * Bounds, in the operator's scale, of the distance of a stored vector: both of
 * its exact value and of what the SQL function returns on any CPU.  score is
 * AnnRefineScore of the same two.  lo == hi where the spec is exact (then both are
 * the SQL function's result on this CPU, NaN included); never NaN otherwise.
 */
typedef struct AnnInterval
{
	double		lo;
	double		hi;
} AnnInterval;

extern AnnInterval AnnRefineInterval(const AnnRefineQuery *query, const void *stored, float score);

/* nearest.c */

/*
 * Finds the nearest of many vectors (the table) for many others (rows).  Both are coded as
 * bytes relative to one mean, which rule out all but a few vectors of the table for
 * each row; those are compared exactly (README, Nearest of many).
 */
typedef enum AnnNearestOrder
{
	ANN_NEAREST_DISTANCE,		/* least Euclidean distance */
	ANN_NEAREST_DIRECTION,		/* least angle: largest inner product with x / |x| */
	ANN_NEAREST_PRODUCT			/* largest inner product */
} AnnNearestOrder;

/* Made by AnnNearestOpen; points into the memory that AnnNearestFill has filled. */
typedef struct AnnNearest
{
	int			dim;
	int			count;
	AnnNearestOrder order;
	const float *vectors;		/* float[count][dim] */
	const float *factor;		/* 1, or 1 / |x| for directions */
	const uint32_t *places;		/* of a part: places in the whole table; NULL: it is the whole */
	AnnPanels	panels;
} AnnNearest;

/* Rows in the form in which they are compared with a table. */
typedef struct AnnNearestRows
{
	uint8_t    *bytes;			/* AnnNearestRowBytes of each */
	float	   *scale;
	float	   *spread;
} AnnNearestRows;

/* The rows from i on. */
static inline AnnNearestRows
AnnNearestRowsFrom(const AnnNearestRows *rows, size_t i, int dim)
{
	AnnNearestRows result = {rows->bytes + i * (((size_t) dim + 3) / 4 * 4), rows->scale + i, rows->spread + i};

	return result;
}

/* Rows that one call of AnnNearestFind takes at most. */
#define ANN_NEAREST_MAX_ROWS 48

static inline size_t
AnnNearestRowBytes(int dim)
{
	return ((size_t) dim + 3) / 4 * 4;
}

/* Bytes of the memory of a table, which holds no pointers; aligned to 8. */
extern size_t AnnNearestSize(int dim, int count);

/* Codes a table of count >= 1 vectors.  mean is float[dim], the rows' own. */
extern void AnnNearestFill(void *memory, const float *vectors, int count, int dim,
						   const float *mean, AnnNearestOrder order);

extern void AnnNearestOpen(AnnNearest *nearest, const void *memory, const float *vectors, int count, int dim,
						   AnnNearestOrder order);

/*
 * Makes a table of count >= 1 vectors of another one, which stays in use, as do places; memory has
 * AnnNearestSize bytes.  What is found are places in the other table.
 */
extern void AnnNearestPart(AnnNearest *part, void *memory, const AnnNearest *whole, const uint32_t *places, int count);

/*
 * Places of vectors of the table that are probably the nearest to row i, about `wanted` of them and at most
 * `most`; scratch as for AnnNearestFind.  Returns their number.
 */
extern int	AnnNearestSome(const AnnNearest *nearest, const AnnNearestRows *rows, int wanted, int most,
						   void *scratch, uint32_t *places);

/* Codes x as row i.  x is finite, |x - mean| below 1e19; of unit length for directions. */
extern void AnnNearestSetRow(const AnnNearestRows *rows, int i, const float *x, const float *mean, int dim);

/* Bytes of the scratch memory of AnnNearestFind for so many rows at a time. */
extern size_t AnnNearestScratchSize(int count, int nrows);

/*
 * Fills nearest[i] with the place of the nearest vector for each of nrows rows (at
 * most ANN_NEAREST_MAX_ROWS), whose vectors x[i] points to.
 */
extern void AnnNearestFind(const AnnNearest *nearest, const AnnNearestRows *rows, const float *const *x, int nrows,
						   void *scratch, int *result);

#endif							/* ANN_QUANTIZE_H */
