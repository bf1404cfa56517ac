/*
 * distance.h
 *	  Distance kernels: one table of functions per instruction set.
 *
 * Every kernel takes unaligned pointers and any length n >= 0, allocates
 * nothing, raises nothing and accumulates in float4 unless it says otherwise
 * (src/distance/README states the error).  The file includes nothing of
 * PostgreSQL, so the kernels also build into stand-alone test and benchmark
 * programs.
 */
#ifndef ANN_DISTANCE_H
#define ANN_DISTANCE_H

#include <stddef.h>
#include <stdint.h>

/* IEEE 754 binary16, as stored in halfvec. */
typedef uint16_t AnnHalf;

/* Sums that cosine distance is made of. */
typedef struct AnnCosineSums
{
	float		ab;				/* sum a[i] * b[i] */
	float		aa;				/* sum a[i] * a[i] */
	float		bb;				/* sum b[i] * b[i] */
} AnnCosineSums;

/* Vectors of a panel. */
#define ANN_PANEL 32

/*
 * Vectors in a form in which many others are compared with all of them: bytes by
 * panels of ANN_PANEL, and factors that turn a product of bytes into a score.  The last
 * panel is filled up with vectors of zeros whose bias is -infinity.
 */
typedef struct AnnPanels
{
	size_t		count;			/* panels */
	size_t		dim;			/* bytes of a vector, a multiple of 4 */
	const int8_t *bytes;		/* [count][dim / 4][ANN_PANEL][4], -127 to 127 */
	const int32_t *offset;		/* [count * ANN_PANEL], as all that follow */
	const float *scale;
	const float *bias;
	const float *error;
} AnnPanels;

typedef struct AnnKernels
{
	const char *name;			/* "scalar", "sse2", "avx2", "avx512", "neon" */

	/* float4 x float4: squared L2, inner product, L1, cosine sums */
	float		(*l2sq_f32) (const float *a, const float *b, size_t n);
	float		(*ip_f32) (const float *a, const float *b, size_t n);
	float		(*l1_f32) (const float *a, const float *b, size_t n);
	AnnCosineSums (*cosine_f32) (const float *a, const float *b, size_t n);

	/* half x half */
	float		(*l2sq_f16) (const AnnHalf *a, const AnnHalf *b, size_t n);
	float		(*ip_f16) (const AnnHalf *a, const AnnHalf *b, size_t n);
	float		(*l1_f16) (const AnnHalf *a, const AnnHalf *b, size_t n);
	AnnCosineSums (*cosine_f16) (const AnnHalf *a, const AnnHalf *b, size_t n);

	/* float4 query x half stored */
	float		(*l2sq_f32_f16) (const float *q, const AnnHalf *x, size_t n);
	float		(*ip_f32_f16) (const float *q, const AnnHalf *x, size_t n);

	/* float4 query x sq8 stored: x[i] = lo + step * u[i] */
	float		(*l2sq_f32_sq8) (const float *q, const uint8_t *u, float lo, float step, size_t n);
	/* sum q[i] * u[i] */
	float		(*ip_f32_u8) (const float *q, const uint8_t *u, size_t n);

	/* sum a[i] * b[i], exact */
	int32_t		(*ip_i8) (const int8_t *a, const int8_t *b, size_t n);

	/* Conversions, round to nearest even; float too large for half gives infinity */
	void		(*f16_to_f32) (const AnnHalf *src, float *dst, size_t n);
	void		(*f32_to_f16) (const float *src, AnnHalf *dst, size_t n);

	/* Bit strings of n bytes: number of ones in a xor b, in a and b, in a or b */
	uint64_t	(*hamming) (const uint8_t *a, const uint8_t *b, size_t n);
	void		(*jaccard) (const uint8_t *a, const uint8_t *b, size_t n, uint64_t *both, uint64_t *either);

	/*
	 * Quantizer codes against an int8 query.  A code is `planes` bit planes of
	 * nbits / 8 bytes each, plane 0 the least significant bit; bit i of a plane
	 * is bit (i % 8) of byte i / 8.  nbits is a multiple of 64; q has nbits
	 * entries (pad with zeros).  Result: sum over planes p of 2^p times the sum
	 * of q[i] over the bits i set in plane p, exact.
	 */
	int32_t		(*code_ip) (const uint8_t *code, int planes, size_t nbits, const int8_t *q);

	/* The same for `count` codes that start `stride` bytes apart. */
	void		(*code_ip_batch) (const uint8_t *codes, size_t stride, int count,
								  int planes, size_t nbits, const int8_t *q, int32_t *out);

	/*
	 * Scores of n vectors u (bytes of 0 to 127, panels->dim each) for each vector c of
	 * the panels:
	 *		product = offset[c] + sum over j of u[i][j] * bytes[c][j], exact
	 *		middle = product * panels->scale[c] * scale[i] + bias[c]
	 *		width = error[c] * spread[i]
	 * Fills upper[i * count * ANN_PANEL + c] = middle + width, and best[i] with the
	 * largest of all middle - width.  dim up to 65,536; no NaN, no overflow.
	 */
	void		(*panel_scores) (const AnnPanels *panels, const uint8_t *u, const float *scale,
								 const float *spread, size_t n, float *upper, float *best);

	/*
	 * x - mean as bytes of 1 to 127: rounded multiples of *step, plus 64.  *norm is
	 * its length.  |x[i] - mean[i]| is finite.
	 */
	void		(*u7_f32) (const float *x, const float *mean, size_t n, uint8_t *u, float *step, float *norm);

	/* Places of the elements >= least, in order; returns their number. */
	size_t		(*places_ge_f32) (const float *x, size_t n, float least, uint32_t *places);

	/*
	 * Bit i % 8 of bits[i / 8] is set where the sign of x[i] is not; bits are filled up with zeros to
	 * a multiple of 64.  Returns the sum of |x[i]|.
	 */
	float		(*signs_f32) (const float *x, size_t n, uint8_t *bits);

	/*
	 * out[i] = in[i], negated where bit i % 64 of words[i / 64] is set.  in may equal
	 * out.
	 */
	void		(*negate_f32) (const float *in, float *out, const uint64_t *words, size_t n);

	/*
	 * Orthonormal fast Walsh-Hadamard transform of n = 2^k floats (k >= 0) in
	 * place, scaled by 1/sqrt(n).
	 */
	void		(*fht_f32) (float *x, size_t n);
} AnnKernels;

/* The kernels for this CPU; set by AnnDistanceInit, never NULL after it. */
extern AnnKernels ann_kernels;

/* Chooses the best table this CPU can run. Idempotent. */
extern void AnnDistanceInit(void);

/*
 * Tables this binary holds and this CPU can run, slowest first ("scalar" is
 * always the first, the portable baseline the second where there is one).
 * Returns their number and points *tables to them. For tests and benchmarks.
 */
extern int	AnnDistanceTables(const AnnKernels *const **tables);

#endif							/* ANN_DISTANCE_H */
