/*
 * kernels.inc.h
 *	  The kernels, written once.  Each instruction set's file defines the
 *	  vocabulary below and includes this file, which ends in its table.
 *
 * A vector f32xN has LANES floats, a vector of bytes ixN VECTOR_BYTES =
 * 4 * LANES bytes.  Pointers need no alignment.  The vocabulary:
 *
 *	KERNEL(name), KERNEL_TABLE, KERNEL_SET	names
 *	LANES, f32xN, ixN
 *	F32Zero F32Set1 F32Add F32Sub F32Mul F32Abs F32Sum
 *	F32Fma(a, b, c)			a * b + c
 *	F32Fht(v)				unscaled Hadamard transform of the LANES values
 *	LoadF32 LoadF16 LoadU8	LANES elements, as floats
 *	StoreF32 StoreF16
 *	F32LoadTail(elem, p, n), IntLoadTail(p, n)
 *							the last n % LANES elements (n % VECTOR_BYTES bytes) of
 *							the n at p, in any lanes, but always the same for the
 *							same n; the other lanes are zero
 *	F32KeepTail(v, n)		v with zeros in those other lanes
 *	IntZero IntLoad IntXor IntAnd IntOr
 *	IntAdd64 IntCountOnes64 IntSum64		sums and counts per 64 bits
 *	DotI8, DotI8Zero, DotI8Step, DotI8Sum	sum of int8 products in 32 bits
 *
 * and for codes, which come 64 bits at a time:
 *
 *	PrepareQuery(q, out)	64 entries in the order in which CodeStep wants them
 *	CodeQuery, LoadQuery	one prepared block, in registers
 *	CodeAcc, CodeAccZero, CodeStep
 *							sums over at most CODE_BLOCK words
 *	CodeTotal, CodeTotalZero, CodeTotalDouble, CodeTotalAdd(total, acc)
 *	CodeSum(total), CodeSum4(totals, out)
 *	CODE_GROUP				codes handled at a time: 4 or 8
 *
 * and for panels, whose vectors have their bytes by fours side by side:
 *
 *	PANEL_ROWS				vectors that are compared with a panel at a time, at most 12
 *	PanelAcc				sums of LANES vectors of a panel
 *	PanelAccSet(p)			from LANES int32
 *	PanelRow, PanelLoadRow(p)	four bytes of a vector, for every lane
 *	PanelColumn, PanelLoadColumn(p)	four bytes of LANES vectors of a panel
 *	PanelStep(acc, row, column)
 *	PanelStore(p, acc)		LANES sums as int32
 *	LoadI32(p)				LANES int32 as floats
 *	F32Negate(v, bits)		v with lane i negated where bit i is set; other bits do not matter
 *	StoreU8(p, v)			LANES floats of 0 to 255 as bytes, rounded towards zero
 *	F32Signs(v)				bit i is the sign bit of lane i
 *	F32Max(a, b), F32AnyGe(a, b)	the larger; whether a lane of a is >= that of b
 *
 * Instruction sets with masked loads define MASKED_TAILS and the functions of
 * tails; the others define F32And(v, mask) and get them from here.
 */
#include <math.h>
#include <stdbool.h>

#include "distance/half.h"


/* Bits of a code handled at a time; their prepared query lives on the stack. */
#define CODE_CHUNK_BITS 2048
#define CODE_WORD_BITS 64
#define CODE_WORD_BYTES 8

FORCE_INLINE f32xN
F32LoadElem(Elem elem, const void *p)
{
	switch (elem)
	{
		case ELEM_F32:
			return LoadF32(p);
		case ELEM_F16:
			return LoadF16(p);
		case ELEM_U8:
		case ELEM_SQ8:
			return LoadU8(p);
	}
	return F32Zero();
}

#ifdef MASKED_TAILS
#define SHORT_BYTES 1
#else

/* Bit strings too short for a vector, which would have to be copied, go by words. */
#define SHORT_BYTES VECTOR_BYTES

/*
 * The last elements are the upper lanes of the vector that ends where the data
 * end; what was seen before is masked out.  Only data shorter than a vector
 * are copied.
 */

/* All bits of the last nbytes bytes, none of the others. */
FORCE_INLINE ixN
TailMask(size_t nbytes)
{
	static const uint8_t mask[2 * VECTOR_BYTES] = {[VECTOR_BYTES... 2 * VECTOR_BYTES - 1] = 0xff};

	return IntLoad(mask + nbytes);
}

FORCE_INLINE f32xN
F32KeepTail(f32xN v_f32xN, size_t n)
{
	return F32And(v_f32xN, TailMask(n % LANES * sizeof(float)));
}

FORCE_INLINE f32xN
F32LoadTail(Elem elem, const void *p, size_t n)
{
	size_t		size = ElemSize(elem);
	char		copy[LANES * sizeof(float)] = {0};

	if (n >= LANES)
		return F32KeepTail(F32LoadElem(elem, (const char *) p + (n - LANES) * size), n);

	memcpy(copy + (LANES - n) * size, p, n * size);
	return F32LoadElem(elem, copy);
}

FORCE_INLINE ixN
IntLoadTail(const void *p, size_t n)
{
	char		copy[VECTOR_BYTES] = {0};

	if (n >= VECTOR_BYTES)
		return IntAnd(IntLoad((const char *) p + n - VECTOR_BYTES), TailMask(n % VECTOR_BYTES));

	memcpy(copy + VECTOR_BYTES - n, p, n);
	return IntLoad(copy);
}

#endif							/* MASKED_TAILS */

FORCE_INLINE f32xN
Load(Elem elem, const void *p, size_t i, float lo, float step)
{
	f32xN		x_f32xN = F32LoadElem(elem, (const char *) p + i * ElemSize(elem));

	return elem == ELEM_SQ8 ? F32Fma(F32Set1(step), x_f32xN, F32Set1(lo)) : x_f32xN;
}

FORCE_INLINE f32xN
LoadTail(Elem elem, const void *p, size_t n, float lo, float step)
{
	f32xN		x_f32xN = F32LoadTail(elem, p, n);

	return elem == ELEM_SQ8 ?
		F32KeepTail(F32Fma(F32Set1(step), x_f32xN, F32Set1(lo)), n) : x_f32xN;
}

FORCE_INLINE f32xN
Step(Op op, f32xN sum_f32xN, f32xN a_f32xN, f32xN b_f32xN)
{
	f32xN		d_f32xN;

	switch (op)
	{
		case OP_L2SQ:
			d_f32xN = F32Sub(a_f32xN, b_f32xN);
			return F32Fma(d_f32xN, d_f32xN, sum_f32xN);
		case OP_IP:
			return F32Fma(a_f32xN, b_f32xN, sum_f32xN);
		case OP_L1:
			return F32Add(sum_f32xN, F32Abs(F32Sub(a_f32xN, b_f32xN)));
	}
	return sum_f32xN;
}

/*
 * Sum of op over the n elements of a and b; lo and step matter to ELEM_SQ8.
 * Four sums hide the latency of the addition.
 */
FORCE_INLINE float
Reduce(Op op, Elem elem_a, const void *a, Elem elem_b, const void *b, float lo, float step, size_t n)
{
	f32xN		sum0_f32xN = F32Zero();
	f32xN		sum1_f32xN = F32Zero();
	f32xN		sum2_f32xN = F32Zero();
	f32xN		sum3_f32xN = F32Zero();
	size_t		i = 0;

#define STEP(sum, at) \
	sum = Step(op, sum, Load(elem_a, a, at, 0, 0), Load(elem_b, b, at, lo, step))

	for (; i + 4 * LANES <= n; i += 4 * LANES)
	{
		STEP(sum0_f32xN, i);
		STEP(sum1_f32xN, i + LANES);
		STEP(sum2_f32xN, i + 2 * LANES);
		STEP(sum3_f32xN, i + 3 * LANES);
	}
	if (i + 2 * LANES <= n)
	{
		STEP(sum0_f32xN, i);
		STEP(sum1_f32xN, i + LANES);
		i += 2 * LANES;
	}
	if (i + LANES <= n)
		STEP(sum2_f32xN, i);
	if (n % LANES != 0)
		sum3_f32xN = Step(op, sum3_f32xN, LoadTail(elem_a, a, n, 0, 0), LoadTail(elem_b, b, n, lo, step));
#undef STEP

	return F32Sum(F32Add(F32Add(sum0_f32xN, sum1_f32xN), F32Add(sum2_f32xN, sum3_f32xN)));
}

FORCE_INLINE AnnCosineSums
ReduceCosine(Elem elem, const void *a, const void *b, size_t n)
{
	f32xN		ab0_f32xN = F32Zero();
	f32xN		aa0_f32xN = F32Zero();
	f32xN		bb0_f32xN = F32Zero();
	f32xN		ab1_f32xN = F32Zero();
	f32xN		aa1_f32xN = F32Zero();
	f32xN		bb1_f32xN = F32Zero();
	f32xN		a_f32xN;
	f32xN		b_f32xN;
	size_t		i = 0;

#define STEP(ab, aa, bb) \
	(ab = F32Fma(a_f32xN, b_f32xN, ab), \
	 aa = F32Fma(a_f32xN, a_f32xN, aa), \
	 bb = F32Fma(b_f32xN, b_f32xN, bb))

	for (; i + 2 * LANES <= n; i += 2 * LANES)
	{
		a_f32xN = Load(elem, a, i, 0, 0);
		b_f32xN = Load(elem, b, i, 0, 0);
		STEP(ab0_f32xN, aa0_f32xN, bb0_f32xN);
		a_f32xN = Load(elem, a, i + LANES, 0, 0);
		b_f32xN = Load(elem, b, i + LANES, 0, 0);
		STEP(ab1_f32xN, aa1_f32xN, bb1_f32xN);
	}
	if (i + LANES <= n)
	{
		a_f32xN = Load(elem, a, i, 0, 0);
		b_f32xN = Load(elem, b, i, 0, 0);
		STEP(ab0_f32xN, aa0_f32xN, bb0_f32xN);
	}
	if (n % LANES != 0)
	{
		a_f32xN = LoadTail(elem, a, n, 0, 0);
		b_f32xN = LoadTail(elem, b, n, 0, 0);
		STEP(ab1_f32xN, aa1_f32xN, bb1_f32xN);
	}
#undef STEP

	return (AnnCosineSums)
	{
		F32Sum(F32Add(ab0_f32xN, ab1_f32xN)),
			F32Sum(F32Add(aa0_f32xN, aa1_f32xN)),
			F32Sum(F32Add(bb0_f32xN, bb1_f32xN))
	};
}

static float
KERNEL(l2sq_f32) (const float *a, const float *b, size_t n)
{
	return Reduce(OP_L2SQ, ELEM_F32, a, ELEM_F32, b, 0, 0, n);
}

static float
KERNEL(ip_f32) (const float *a, const float *b, size_t n)
{
	return Reduce(OP_IP, ELEM_F32, a, ELEM_F32, b, 0, 0, n);
}

static float
KERNEL(l1_f32) (const float *a, const float *b, size_t n)
{
	return Reduce(OP_L1, ELEM_F32, a, ELEM_F32, b, 0, 0, n);
}

static AnnCosineSums
KERNEL(cosine_f32) (const float *a, const float *b, size_t n)
{
	return ReduceCosine(ELEM_F32, a, b, n);
}

static float
KERNEL(l2sq_f16) (const AnnHalf *a, const AnnHalf *b, size_t n)
{
	return Reduce(OP_L2SQ, ELEM_F16, a, ELEM_F16, b, 0, 0, n);
}

static float
KERNEL(ip_f16) (const AnnHalf *a, const AnnHalf *b, size_t n)
{
	return Reduce(OP_IP, ELEM_F16, a, ELEM_F16, b, 0, 0, n);
}

static float
KERNEL(l1_f16) (const AnnHalf *a, const AnnHalf *b, size_t n)
{
	return Reduce(OP_L1, ELEM_F16, a, ELEM_F16, b, 0, 0, n);
}

static AnnCosineSums
KERNEL(cosine_f16) (const AnnHalf *a, const AnnHalf *b, size_t n)
{
	return ReduceCosine(ELEM_F16, a, b, n);
}

static float
KERNEL(l2sq_f32_f16) (const float *q, const AnnHalf *x, size_t n)
{
	return Reduce(OP_L2SQ, ELEM_F32, q, ELEM_F16, x, 0, 0, n);
}

static float
KERNEL(ip_f32_f16) (const float *q, const AnnHalf *x, size_t n)
{
	return Reduce(OP_IP, ELEM_F32, q, ELEM_F16, x, 0, 0, n);
}

static float
KERNEL(l2sq_f32_sq8) (const float *q, const uint8_t *u, float lo, float step, size_t n)
{
	return Reduce(OP_L2SQ, ELEM_F32, q, ELEM_SQ8, u, lo, step, n);
}

static float
KERNEL(ip_f32_u8) (const float *q, const uint8_t *u, size_t n)
{
	return Reduce(OP_IP, ELEM_F32, q, ELEM_U8, u, 0, 0, n);
}

static int32_t
KERNEL(ip_i8) (const int8_t *a, const int8_t *b, size_t n)
{
	DotI8		sum0 = DotI8Zero();
	DotI8		sum1 = DotI8Zero();
	size_t		i = 0;

	for (; i + 2 * VECTOR_BYTES <= n; i += 2 * VECTOR_BYTES)
	{
		sum0 = DotI8Step(sum0, IntLoad(a + i), IntLoad(b + i));
		sum1 = DotI8Step(sum1, IntLoad(a + i + VECTOR_BYTES), IntLoad(b + i + VECTOR_BYTES));
	}
	if (i + VECTOR_BYTES <= n)
		sum0 = DotI8Step(sum0, IntLoad(a + i), IntLoad(b + i));
	if (n % VECTOR_BYTES != 0)
		sum1 = DotI8Step(sum1, IntLoadTail(a, n), IntLoadTail(b, n));

	return DotI8Sum(sum0) + DotI8Sum(sum1);
}

/*
 * The conversions do the last, incomplete vector by doing the last LANES
 * elements, some of them a second time.
 */
static void
KERNEL(f16_to_f32) (const AnnHalf *src, float *dst, size_t n)
{
	const char *from = (const char *) src;
	char	   *to = (char *) dst;
	size_t		i = 0;

	for (; i + LANES <= n; i += LANES)
		StoreF32(to + i * sizeof(float), LoadF16(from + i * sizeof(AnnHalf)));
	if (i < n && n >= LANES)
		StoreF32(to + (n - LANES) * sizeof(float), LoadF16(from + (n - LANES) * sizeof(AnnHalf)));
	else
		for (; i < n; i++)
		{
			AnnHalf		h;
			float		f;

			memcpy(&h, from + i * sizeof(h), sizeof(h));
			f = AnnHalfToFloat(h);
			memcpy(to + i * sizeof(f), &f, sizeof(f));
		}
}

static void
KERNEL(f32_to_f16) (const float *src, AnnHalf *dst, size_t n)
{
	const char *from = (const char *) src;
	char	   *to = (char *) dst;
	size_t		i = 0;

	for (; i + LANES <= n; i += LANES)
		StoreF16(to + i * sizeof(AnnHalf), LoadF32(from + i * sizeof(float)));
	if (i < n && n >= LANES)
		StoreF16(to + (n - LANES) * sizeof(AnnHalf), LoadF32(from + (n - LANES) * sizeof(float)));
	else
		for (; i < n; i++)
		{
			float		f;
			AnnHalf		h;

			memcpy(&f, from + i * sizeof(f), sizeof(f));
			h = AnnFloatToHalf(f);
			memcpy(to + i * sizeof(h), &h, sizeof(h));
		}
}

static uint64_t
KERNEL(hamming) (const uint8_t *a, const uint8_t *b, size_t n)
{
	ixN			sum_u64xN = IntZero();

	if (n < SHORT_BYTES)
		return HammingWords(a, b, n);

	for (size_t i = 0; i + VECTOR_BYTES <= n; i += VECTOR_BYTES)
		sum_u64xN = IntAdd64(sum_u64xN, IntCountOnes64(IntXor(IntLoad(a + i), IntLoad(b + i))));
	if (n % VECTOR_BYTES != 0)
		sum_u64xN = IntAdd64(sum_u64xN, IntCountOnes64(IntXor(IntLoadTail(a, n), IntLoadTail(b, n))));

	return IntSum64(sum_u64xN);
}

static void
KERNEL(jaccard) (const uint8_t *a, const uint8_t *b, size_t n, uint64_t *both, uint64_t *either)
{
	ixN			both_u64xN = IntZero();
	ixN			either_u64xN = IntZero();

	if (n < SHORT_BYTES)
	{
		JaccardWords(a, b, n, both, either);
		return;
	}

#define STEP(x, y) \
	(both_u64xN = IntAdd64(both_u64xN, IntCountOnes64(IntAnd(x, y))), \
	 either_u64xN = IntAdd64(either_u64xN, IntCountOnes64(IntOr(x, y))))

	for (size_t i = 0; i + VECTOR_BYTES <= n; i += VECTOR_BYTES)
	{
		ixN			x_u8xN = IntLoad(a + i);
		ixN			y_u8xN = IntLoad(b + i);

		STEP(x_u8xN, y_u8xN);
	}
	if (n % VECTOR_BYTES != 0)
	{
		ixN			x_u8xN = IntLoadTail(a, n);
		ixN			y_u8xN = IntLoadTail(b, n);

		STEP(x_u8xN, y_u8xN);
	}
#undef STEP

	*both = IntSum64(both_u64xN);
	*either = IntSum64(either_u64xN);
}

/*
 * Totals of `group` (1, 4 or 8) codes against nwords prepared words of the
 * query.  The codes share the loads of the query, and their sums are
 * independent of each other, which hides the latency of the additions.
 */
FORCE_INLINE void
CodeGroup(int group, const uint8_t *codes, size_t stride, int planes, size_t plane_bytes,
		  const int8_t *query, size_t nwords, int32_t *out)
{
	CodeTotal	totals[CODE_GROUP];

#pragma GCC unroll 8
	for (int i = 0; i < group; i++)
		totals[i] = CodeTotalZero();

	for (int plane = planes - 1; plane >= 0; plane--)
	{
		const uint8_t *bits = codes + plane * plane_bytes;

#pragma GCC unroll 8
		for (int i = 0; i < group; i++)
			totals[i] = CodeTotalDouble(totals[i]);

		for (size_t block = 0; block < nwords; block += CODE_BLOCK)
		{
			size_t		end = nwords - block < CODE_BLOCK ? nwords : block + CODE_BLOCK;
			CodeAcc		accs[CODE_GROUP];

#pragma GCC unroll 8
			for (int i = 0; i < group; i++)
				accs[i] = CodeAccZero();

			for (size_t word = block; word < end; word++)
			{
				CodeQuery	q = LoadQuery(query + word * CODE_WORD_BITS);

#pragma GCC unroll 8
				for (int i = 0; i < group; i++)
					accs[i] = CodeStep(accs[i], bits + i * stride + word * CODE_WORD_BYTES, q);
			}

#pragma GCC unroll 8
			for (int i = 0; i < group; i++)
				totals[i] = CodeTotalAdd(totals[i], accs[i]);
		}
	}

	if (group == 1)
		out[0] = CodeSum(totals[0]);
	else
		CodeSum4(totals, out);
	if (group == 8)
		CodeSum4(totals + CODE_GROUP - 4, out + 4);
}

/* As code_ip_batch, for one chunk of the bits, with `planes` known if it is 1. */
FORCE_INLINE void
CodeChunk(const uint8_t *codes, size_t stride, int count, int planes, size_t plane_bytes,
		  const int8_t *query, size_t nwords, int32_t *out)
{
	int			i = 0;

	for (; i + CODE_GROUP <= count; i += CODE_GROUP)
		CodeGroup(CODE_GROUP, codes + i * stride, stride, planes, plane_bytes, query, nwords, out + i);
	if (CODE_GROUP > 4 && i + 4 <= count)
	{
		CodeGroup(4, codes + i * stride, stride, planes, plane_bytes, query, nwords, out + i);
		i += 4;
	}
	for (; i < count; i++)
		CodeGroup(1, codes + i * stride, stride, planes, plane_bytes, query, nwords, out + i);
}

static void
KERNEL(code_ip_batch) (const uint8_t *codes, size_t stride, int count,
					   int planes, size_t nbits, const int8_t *q, int32_t *out)
{
	int8_t		query[CODE_CHUNK_BITS] __attribute__((aligned(64)));
	int32_t		sums[CODE_GROUP];
	size_t		plane_bytes = nbits / 8;

	for (int i = 0; i < count; i++)
		out[i] = 0;

	for (size_t start = 0; start < nbits; start += CODE_CHUNK_BITS)
	{
		size_t		nwords = (nbits - start < CODE_CHUNK_BITS ? nbits - start : CODE_CHUNK_BITS) / CODE_WORD_BITS;
		const uint8_t *bits = codes + start / 8;

		for (size_t word = 0; word < nwords; word++)
			PrepareQuery(q + start + word * CODE_WORD_BITS, query + word * CODE_WORD_BITS);

		if (nbits <= CODE_CHUNK_BITS && planes == 1)
			CodeChunk(bits, stride, count, 1, plane_bytes, query, nwords, out);
		else if (nbits <= CODE_CHUNK_BITS)
			CodeChunk(bits, stride, count, planes, plane_bytes, query, nwords, out);
		else
			for (int i = 0; i < count; i++)
			{
				CodeGroup(1, bits + i * stride, stride, planes, plane_bytes, query, nwords, sums);
				out[i] += sums[0];
			}
	}
}

static int32_t
KERNEL(code_ip) (const uint8_t *code, int planes, size_t nbits, const int8_t *q)
{
	int32_t		sum;

	KERNEL(code_ip_batch) (code, 0, 1, planes, nbits, q, &sum);
	return sum;
}

/* Rows whose scores are made together: while a panel is in the cache. */
#define PANEL_CHUNK (4 * PANEL_ROWS)

/* Sums of two vectors of lanes for each row are in registers. */
#define PANEL_COLUMNS 2

/* A variable for each: compilers keep no arrays of them in registers throughout the loop. */
#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

/*
 * Products of a few vectors u (a constant number of rows) with as many vectors of a panel as
 * PANEL_COLUMNS vectors of lanes hold.
 */
FORCE_INLINE void
PanelProducts(int rows, const uint8_t *u, size_t dim, const int8_t *bytes, const int32_t *offset,
			  int32_t sums[][PANEL_COLUMNS][LANES])
{
#define START(row) \
	PanelAcc	a##row = PanelAccSet(offset); \
	PanelAcc	b##row = PanelAccSet((const char *) offset + VECTOR_BYTES);
#define STEP(row) \
	if (row < rows) \
	{ \
		PanelRow	four = PanelLoadRow(u + row * dim + j); \
		\
		a##row = PanelStep(a##row, four, a_column); \
		b##row = PanelStep(b##row, four, b_column); \
	}
#define STORE(row) \
	if (row < rows) \
	{ \
		PanelStore(sums[row][0], a##row); \
		PanelStore(sums[row][1], b##row); \
	}

	EACH_ROW(START)
	for (size_t j = 0; j < dim; j += 4)
	{
		PanelColumn a_column = PanelLoadColumn(bytes + j * ANN_PANEL);
		PanelColumn b_column = PanelLoadColumn(bytes + j * ANN_PANEL + VECTOR_BYTES);

		EACH_ROW(STEP)
	}
	EACH_ROW(STORE)
#undef START
#undef STEP
#undef STORE
}

/* Functions of their own: inlined into a caller that needs registers, the sums get none. */
static __attribute__((noinline)) void
PanelProductsOfMany(const uint8_t *u, size_t dim, const int8_t *bytes, const int32_t *offset,
					int32_t sums[][PANEL_COLUMNS][LANES])
{
	PanelProducts(PANEL_ROWS, u, dim, bytes, offset, sums);
}

static __attribute__((noinline)) void
PanelProductsOfOne(const uint8_t *u, size_t dim, const int8_t *bytes, const int32_t *offset,
				   int32_t sums[][PANEL_COLUMNS][LANES])
{
	PanelProducts(1, u, dim, bytes, offset, sums);
}

static void
KERNEL(panel_scores) (const AnnPanels *panels, const uint8_t *u, const float *scale,
					  const float *spread, size_t n, float *upper, float *best)
{
	size_t		stride = panels->count * ANN_PANEL * sizeof(float);

	for (size_t start = 0; start < n; start += PANEL_CHUNK)
	{
		size_t		rows = n - start < PANEL_CHUNK ? n - start : PANEL_CHUNK;
		const uint8_t *u_chunk = u + start * panels->dim;
		char	   *upper_chunk = (char *) upper + start * stride;
		float		scales[PANEL_CHUNK];
		float		spreads[PANEL_CHUNK];
		float		lanes[PANEL_CHUNK * LANES];

		memcpy(scales, (const char *) scale + start * sizeof(float), rows * sizeof(float));
		memcpy(spreads, (const char *) spread + start * sizeof(float), rows * sizeof(float));
		for (size_t i = 0; i < rows * LANES; i++)
			lanes[i] = -INFINITY;

		for (size_t at = 0; at < panels->count * ANN_PANEL; at += PANEL_COLUMNS * LANES)
		{
			const int8_t *bytes = panels->bytes + at / ANN_PANEL * ANN_PANEL * panels->dim + at % ANN_PANEL * 4;
			size_t		i = 0;

			while (i < rows)
			{
				int32_t		sums[PANEL_ROWS][PANEL_COLUMNS][LANES];
				const int32_t *offset = (const int32_t *) ((const char *) panels->offset + at * sizeof(int32_t));
				bool		many = i + PANEL_ROWS <= rows;
				size_t		end = many ? i + PANEL_ROWS : i + 1;

				if (many)
					PanelProductsOfMany(u_chunk + i * panels->dim, panels->dim, bytes, offset, sums);
				else
					PanelProductsOfOne(u_chunk + i * panels->dim, panels->dim, bytes, offset, sums);
				for (size_t first = i; i < end; i++)
					for (int column = 0; column < PANEL_COLUMNS; column++)
					{
						size_t		c = (at + column * LANES) * sizeof(float);
						f32xN		product_f32xN = F32Mul(LoadI32(sums[i - first][column]),
														   LoadF32((const char *) panels->scale + c));
						f32xN		middle_f32xN = F32Fma(product_f32xN, F32Set1(scales[i]),
														  LoadF32((const char *) panels->bias + c));
						f32xN		width_f32xN = F32Mul(LoadF32((const char *) panels->error + c),
														 F32Set1(spreads[i]));
						float	   *largest = lanes + i * LANES;

						StoreF32(upper_chunk + i * stride + c, F32Add(middle_f32xN, width_f32xN));
						StoreF32(largest, F32Max(LoadF32(largest), F32Sub(middle_f32xN, width_f32xN)));
					}
			}
		}
		for (size_t i = 0; i < rows; i++)
		{
			float		largest = lanes[i * LANES];

			for (int lane = 1; lane < LANES; lane++)
				if (lanes[i * LANES + lane] > largest)
					largest = lanes[i * LANES + lane];
			memcpy((char *) best + (start + i) * sizeof(float), &largest, sizeof(float));
		}
	}
}

static void
KERNEL(u7_f32) (const float *x, const float *mean, size_t n, uint8_t *u, float *step, float *norm)
{
	const char *from = (const char *) x;
	const char *from_mean = (const char *) mean;
	f32xN		max_f32xN = F32Zero();
	f32xN		sum_f32xN = F32Zero();
	f32xN		inverse_f32xN;
	float		lanes[LANES];
	float		max = 0;
	float		inverse;
	size_t		i = 0;

	for (; i + LANES <= n; i += LANES)
	{
		f32xN		r_f32xN = F32Sub(LoadF32(from + i * sizeof(float)), LoadF32(from_mean + i * sizeof(float)));

		max_f32xN = F32Max(max_f32xN, F32Abs(r_f32xN));
		sum_f32xN = F32Fma(r_f32xN, r_f32xN, sum_f32xN);
	}
	if (i < n)
	{
		f32xN		r_f32xN = F32Sub(F32LoadTail(ELEM_F32, x, n), F32LoadTail(ELEM_F32, mean, n));

		max_f32xN = F32Max(max_f32xN, F32Abs(r_f32xN));
		sum_f32xN = F32Fma(r_f32xN, r_f32xN, sum_f32xN);
	}
	StoreF32(lanes, max_f32xN);
	for (int lane = 0; lane < LANES; lane++)
		max = lanes[lane] > max ? lanes[lane] : max;
	*step = U7Step(max);
	*norm = sqrtf(F32Sum(sum_f32xN));

	inverse = U7Inverse(max);
	inverse_f32xN = F32Set1(inverse);
	for (i = 0; i + LANES <= n; i += LANES)
	{
		f32xN		r_f32xN = F32Sub(LoadF32(from + i * sizeof(float)), LoadF32(from_mean + i * sizeof(float)));

		StoreU8(u + i, F32Fma(r_f32xN, inverse_f32xN, F32Set1(U7_ZERO + 0.5f)));
	}
	for (; i < n; i++)
	{
		float		a;
		float		b;

		memcpy(&a, from + i * sizeof(a), sizeof(a));
		memcpy(&b, from_mean + i * sizeof(b), sizeof(b));
		u[i] = (uint8_t) ((a - b) * inverse + (U7_ZERO + 0.5f));
	}
}

static size_t
KERNEL(places_ge_f32) (const float *x, size_t n, float least, uint32_t *places)
{
	const char *p = (const char *) x;
	f32xN		least_f32xN = F32Set1(least);
	size_t		count = 0;

	for (size_t i = 0; i < n; i += LANES)
	{
		if (i + LANES <= n && !F32AnyGe(LoadF32(p + i * sizeof(float)), least_f32xN))
			continue;
		for (uint32_t j = (uint32_t) i; j < n && j < i + LANES; j++)
		{
			float		f;

			memcpy(&f, p + j * sizeof(f), sizeof(f));
			if (f >= least)
				memcpy((char *) places + count++ * sizeof(j), &j, sizeof(j));
		}
	}
	return count;
}

static float
KERNEL(signs_f32) (const float *x, size_t n, uint8_t *bits)
{
	const char *from = (const char *) x;
	f32xN		sum_f32xN = F32Zero();
	float		sum;

	for (size_t start = 0; start < n; start += 64)
	{
		size_t		end = n - start < 64 ? n : start + 64;
		uint64_t	word = 0;
		size_t		i = start;

		for (; i + LANES <= end; i += LANES)
		{
			f32xN		x_f32xN = LoadF32(from + i * sizeof(float));

			sum_f32xN = F32Add(sum_f32xN, F32Abs(x_f32xN));
			word |= (uint64_t) (~F32Signs(x_f32xN) & (uint32_t) ((UINT64_C(1) << LANES) - 1)) << (i - start);
		}
		for (; i < end; i++)
		{
			uint32_t	element;

			memcpy(&element, from + i * sizeof(element), sizeof(element));
			word |= (uint64_t) (~element >> 31) << (i - start);
		}
		memcpy(bits + start / 8, &word, sizeof(word));
	}
	sum = F32Sum(sum_f32xN);
	if (n % LANES != 0)
		sum += F32Sum(F32Abs(F32LoadTail(ELEM_F32, x, n)));
	return sum;
}

static void
KERNEL(negate_f32) (const float *in, float *out, const uint64_t *words, size_t n)
{
	const char *from = (const char *) in;
	char	   *to = (char *) out;
	uint64_t	word = 0;
	size_t		i = 0;

	for (; i + LANES <= n; i += LANES, word >>= LANES)
	{
		if (i % 64 == 0)
			memcpy(&word, (const char *) words + i / 8, sizeof(word));
		StoreF32(to + i * sizeof(float), F32Negate(LoadF32(from + i * sizeof(float)), (uint32_t) word));
	}
	if (i < n && i % 64 == 0)
		memcpy(&word, (const char *) words + i / 8, sizeof(word));
	for (; i < n; i++, word >>= 1)
	{
		float		f;

		memcpy(&f, from + i * sizeof(f), sizeof(f));
		f = word & 1 ? -f : f;
		memcpy(to + i * sizeof(f), &f, sizeof(f));
	}
}

/* The transform of fewer values than a vector holds. */
static void
FhtShort(char *x, size_t n, float scale)
{
	float		v[LANES];

	memcpy(v, x, n * sizeof(float));
	for (size_t half = 1; half < n; half *= 2)
		for (size_t i = 0; i < n; i++)
			if ((i & half) == 0)
			{
				float		sum = v[i] + v[i + half];

				v[i + half] = v[i] - v[i + half];
				v[i] = sum;
			}
	for (size_t i = 0; i < n; i++)
		v[i] *= scale;
	memcpy(x, v, n * sizeof(float));
}

static void
KERNEL(fht_f32) (float *x, size_t n)
{
	const size_t vec = LANES * sizeof(float);
	size_t		nbytes = n * sizeof(float);
	char	   *p = (char *) x;
	f32xN		scale_f32xN = F32Set1(FhtScale(n));
	size_t		half = vec;

	if (n < LANES)
	{
		FhtShort(p, n, FhtScale(n));
		return;
	}

	for (size_t i = 0; i < nbytes; i += vec)
		StoreF32(p + i, F32Fht(F32Mul(scale_f32xN, LoadF32(p + i))));

	/* two steps of the transform at a time save half of the loads */
	for (; half * 4 <= nbytes; half *= 4)
		for (size_t block = 0; block < nbytes; block += 4 * half)
			for (size_t i = block; i < block + half; i += vec)
			{
				f32xN		a_f32xN = LoadF32(p + i);
				f32xN		b_f32xN = LoadF32(p + i + half);
				f32xN		c_f32xN = LoadF32(p + i + 2 * half);
				f32xN		d_f32xN = LoadF32(p + i + 3 * half);
				f32xN		ab_f32xN = F32Add(a_f32xN, b_f32xN);
				f32xN		cd_f32xN = F32Add(c_f32xN, d_f32xN);

				a_f32xN = F32Sub(a_f32xN, b_f32xN);
				c_f32xN = F32Sub(c_f32xN, d_f32xN);
				StoreF32(p + i, F32Add(ab_f32xN, cd_f32xN));
				StoreF32(p + i + half, F32Add(a_f32xN, c_f32xN));
				StoreF32(p + i + 2 * half, F32Sub(ab_f32xN, cd_f32xN));
				StoreF32(p + i + 3 * half, F32Sub(a_f32xN, c_f32xN));
			}
	if (half < nbytes)
		for (size_t i = 0; i < half; i += vec)
		{
			f32xN		a_f32xN = LoadF32(p + i);
			f32xN		b_f32xN = LoadF32(p + i + half);

			StoreF32(p + i, F32Add(a_f32xN, b_f32xN));
			StoreF32(p + i + half, F32Sub(a_f32xN, b_f32xN));
		}
}

const AnnKernels KERNEL_TABLE = {
	.name = KERNEL_SET,
	.l2sq_f32 = KERNEL(l2sq_f32),
	.ip_f32 = KERNEL(ip_f32),
	.l1_f32 = KERNEL(l1_f32),
	.cosine_f32 = KERNEL(cosine_f32),
	.l2sq_f16 = KERNEL(l2sq_f16),
	.ip_f16 = KERNEL(ip_f16),
	.l1_f16 = KERNEL(l1_f16),
	.cosine_f16 = KERNEL(cosine_f16),
	.l2sq_f32_f16 = KERNEL(l2sq_f32_f16),
	.ip_f32_f16 = KERNEL(ip_f32_f16),
	.l2sq_f32_sq8 = KERNEL(l2sq_f32_sq8),
	.ip_f32_u8 = KERNEL(ip_f32_u8),
	.ip_i8 = KERNEL(ip_i8),
	.f16_to_f32 = KERNEL(f16_to_f32),
	.f32_to_f16 = KERNEL(f32_to_f16),
	.hamming = KERNEL(hamming),
	.jaccard = KERNEL(jaccard),
	.code_ip = KERNEL(code_ip),
	.code_ip_batch = KERNEL(code_ip_batch),
	.panel_scores = KERNEL(panel_scores),
	.u7_f32 = KERNEL(u7_f32),
	.places_ge_f32 = KERNEL(places_ge_f32),
	.signs_f32 = KERNEL(signs_f32),
	.negate_f32 = KERNEL(negate_f32),
	.fht_f32 = KERNEL(fht_f32),
};
