/*
 * sse2.c
 *	  Kernels for every x86-64 CPU.
 */
#if !defined(__SSE2__) || defined(__SSE3__)
#error "sse2.c is the portable baseline: no instruction-set flags"
#endif

#include <simde/x86/sse2.h>
#include <string.h>

#include "distance/tables.h"
#include "distance/transpose.h"

#define KERNEL(name) ann_##name##_sse2
#define KERNEL_TABLE ann_kernels_sse2
#define KERNEL_SET "sse2"
#define LANES 4
#define VECTOR_BYTES 16

typedef simde__m128 f32xN;
typedef simde__m128i ixN;

#define F32Zero() simde_mm_setzero_ps()
#define F32Set1(x) simde_mm_set1_ps(x)
#define F32Add(a, b) simde_mm_add_ps(a, b)
#define F32Sub(a, b) simde_mm_sub_ps(a, b)
#define F32Mul(a, b) simde_mm_mul_ps(a, b)
#define F32Fma(a, b, c) simde_mm_add_ps(simde_mm_mul_ps(a, b), c)
#define F32Abs(v) simde_mm_andnot_ps(simde_mm_set1_ps(-0.0f), v)
#define F32And(v, mask) simde_mm_and_ps(v, simde_mm_castsi128_ps(mask))
#define LoadF32(p) simde_mm_loadu_ps((const float *) (p))
#define StoreF32(p, v) simde_mm_storeu_ps((float *) (p), v)

FORCE_INLINE float
F32Sum(f32xN v_f32x4)
{
	v_f32x4 = simde_mm_add_ps(v_f32x4, simde_mm_movehl_ps(v_f32x4, v_f32x4));
	return simde_mm_cvtss_f32(simde_mm_add_ss(v_f32x4, simde_mm_shuffle_ps(v_f32x4, v_f32x4, 1)));
}

/* As AnnHalfToFloat. */
FORCE_INLINE f32xN
LoadF16(const void *p)
{
	simde__m128i h_u16x8 = simde_mm_loadl_epi64((const simde__m128i *) p);
	simde__m128i h_u32x4 = simde_mm_unpacklo_epi16(h_u16x8, simde_mm_setzero_si128());
	simde__m128i magnitude_u32x4 = simde_mm_and_si128(h_u32x4, simde_mm_set1_epi32(0x7fff));
	simde__m128i sign_u32x4 = simde_mm_slli_epi32(simde_mm_xor_si128(h_u32x4, magnitude_u32x4), 16);
	simde__m128i special_u32x4 = simde_mm_and_si128(simde_mm_cmpgt_epi32(magnitude_u32x4, simde_mm_set1_epi32(0x7bff)),
													simde_mm_set1_epi32(0x7f800000));
	simde__m128 scaled_f32x4 = simde_mm_mul_ps(simde_mm_castsi128_ps(simde_mm_slli_epi32(magnitude_u32x4, 13)),
											   simde_mm_set1_ps(0x1p112f));

	return simde_mm_or_ps(scaled_f32x4, simde_mm_castsi128_ps(simde_mm_or_si128(sign_u32x4, special_u32x4)));
}

/* As AnnFloatToHalf. */
FORCE_INLINE void
StoreF16(void *p, f32xN v_f32x4)
{
	const simde__m128i subnormal_u32x4 = simde_mm_castps_si128(simde_mm_set1_ps(0.5f));
	simde__m128i bits_u32x4 = simde_mm_castps_si128(v_f32x4);
	simde__m128i sign_u32x4 = simde_mm_and_si128(bits_u32x4, simde_mm_set1_epi32((int) 0x80000000));
	simde__m128i magnitude_u32x4 = simde_mm_xor_si128(bits_u32x4, sign_u32x4);
	simde__m128i is_nan_u32x4 = simde_mm_cmpgt_epi32(magnitude_u32x4, simde_mm_set1_epi32(0x7f800000));
	simde__m128i is_large_u32x4 = simde_mm_cmpgt_epi32(magnitude_u32x4, simde_mm_set1_epi32(0x477fffff));
	simde__m128i is_small_u32x4 = simde_mm_cmpgt_epi32(simde_mm_set1_epi32(0x38800000), magnitude_u32x4);
	simde__m128i nan_u32x4 = simde_mm_or_si128(simde_mm_set1_epi32(0x200),
											   simde_mm_and_si128(simde_mm_srli_epi32(magnitude_u32x4, 13),
																  simde_mm_set1_epi32(0x3ff)));
	simde__m128i large_u32x4 = simde_mm_or_si128(simde_mm_set1_epi32(0x7c00),
												 simde_mm_and_si128(is_nan_u32x4, nan_u32x4));
	simde__m128i small_u32x4 = simde_mm_sub_epi32(simde_mm_castps_si128(simde_mm_add_ps(simde_mm_castsi128_ps(magnitude_u32x4),
																					   simde_mm_set1_ps(0.5f))),
												  subnormal_u32x4);
	simde__m128i odd_u32x4 = simde_mm_and_si128(simde_mm_srli_epi32(magnitude_u32x4, 13), simde_mm_set1_epi32(1));
	simde__m128i half_u32x4 = simde_mm_add_epi32(simde_mm_add_epi32(magnitude_u32x4, odd_u32x4),
												 simde_mm_set1_epi32(0xfff - ((127 - 15) << 23)));

	half_u32x4 = simde_mm_srli_epi32(half_u32x4, 13);
	half_u32x4 = simde_mm_or_si128(simde_mm_and_si128(is_small_u32x4, small_u32x4),
								   simde_mm_andnot_si128(is_small_u32x4, half_u32x4));
	half_u32x4 = simde_mm_or_si128(simde_mm_and_si128(is_large_u32x4, large_u32x4),
								   simde_mm_andnot_si128(is_large_u32x4, half_u32x4));

	/* the arithmetic shift keeps packs from saturating */
	half_u32x4 = simde_mm_or_si128(half_u32x4, simde_mm_srai_epi32(sign_u32x4, 16));
	simde_mm_storel_epi64((simde__m128i *) p, simde_mm_packs_epi32(half_u32x4, half_u32x4));
}

FORCE_INLINE f32xN
LoadU8(const void *p)
{
	int32_t		bytes;
	simde__m128i v_u16x8;

	memcpy(&bytes, p, sizeof(bytes));
	v_u16x8 = simde_mm_unpacklo_epi8(simde_mm_cvtsi32_si128(bytes), simde_mm_setzero_si128());
	return simde_mm_cvtepi32_ps(simde_mm_unpacklo_epi16(v_u16x8, simde_mm_setzero_si128()));
}

FORCE_INLINE f32xN
F32Fht(f32xN v_f32x4)
{
	const simde__m128 sign1_f32x4 = simde_mm_setr_ps(0.0f, -0.0f, 0.0f, -0.0f);
	const simde__m128 sign2_f32x4 = simde_mm_setr_ps(0.0f, 0.0f, -0.0f, -0.0f);

	v_f32x4 = simde_mm_add_ps(simde_mm_xor_ps(v_f32x4, sign1_f32x4), simde_mm_shuffle_ps(v_f32x4, v_f32x4, 0xb1));
	return simde_mm_add_ps(simde_mm_xor_ps(v_f32x4, sign2_f32x4), simde_mm_shuffle_ps(v_f32x4, v_f32x4, 0x4e));
}

#define IntZero() simde_mm_setzero_si128()
#define IntLoad(p) simde_mm_loadu_si128((const simde__m128i *) (p))
#define IntXor(a, b) simde_mm_xor_si128(a, b)
#define IntAnd(a, b) simde_mm_and_si128(a, b)
#define IntOr(a, b) simde_mm_or_si128(a, b)
#define IntAdd64(a, b) simde_mm_add_epi64(a, b)

/* Counts in pairs of bits, then in half-bytes, then in bytes. */
FORCE_INLINE ixN
IntCountOnes64(ixN v_u8x16)
{
	const simde__m128i pairs_u8x16 = simde_mm_set1_epi8(0x55);
	const simde__m128i fours_u8x16 = simde_mm_set1_epi8(0x33);

	v_u8x16 = simde_mm_sub_epi8(v_u8x16, simde_mm_and_si128(simde_mm_srli_epi64(v_u8x16, 1), pairs_u8x16));
	v_u8x16 = simde_mm_add_epi8(simde_mm_and_si128(v_u8x16, fours_u8x16),
								simde_mm_and_si128(simde_mm_srli_epi64(v_u8x16, 2), fours_u8x16));
	v_u8x16 = simde_mm_and_si128(simde_mm_add_epi8(v_u8x16, simde_mm_srli_epi64(v_u8x16, 4)),
								 simde_mm_set1_epi8(0x0f));
	return simde_mm_sad_epu8(v_u8x16, simde_mm_setzero_si128());
}

FORCE_INLINE uint64_t
IntSum64(ixN v_u64x2)
{
	return (uint64_t) simde_mm_cvtsi128_si64(simde_mm_add_epi64(v_u64x2, simde_mm_unpackhi_epi64(v_u64x2, v_u64x2)));
}

typedef simde__m128i DotI8;

#define DotI8Zero() simde_mm_setzero_si128()

/* Odd and even bytes apart, as 16-bit numbers: the order does not matter. */
FORCE_INLINE DotI8
DotI8Step(DotI8 sum_i32x4, ixN a_i8x16, ixN b_i8x16)
{
	simde__m128i odd_i32x4 = simde_mm_madd_epi16(simde_mm_srai_epi16(a_i8x16, 8), simde_mm_srai_epi16(b_i8x16, 8));
	simde__m128i even_i32x4 = simde_mm_madd_epi16(simde_mm_srai_epi16(simde_mm_slli_epi16(a_i8x16, 8), 8),
												  simde_mm_srai_epi16(simde_mm_slli_epi16(b_i8x16, 8), 8));

	return simde_mm_add_epi32(sum_i32x4, simde_mm_add_epi32(odd_i32x4, even_i32x4));
}

FORCE_INLINE int32_t
DotI8Sum(DotI8 v_i32x4)
{
	v_i32x4 = simde_mm_add_epi32(v_i32x4, simde_mm_unpackhi_epi64(v_i32x4, v_i32x4));
	return simde_mm_cvtsi128_si32(simde_mm_add_epi32(v_i32x4, simde_mm_shuffle_epi32(v_i32x4, 0xb1)));
}

/*
 * A word of a code is broadcast to both 64-bit lanes, four times; of the k-th
 * copy lane j keeps bit 2 * k + j of each byte.  So the prepared query holds
 * the entries for bits 8 * i + j in the order of j.  They are stored as q + 128
 * for psadbw, which sums unsigned bytes; the bits are counted to take that back.
 */
#define CODE_GROUP 4
#define CODE_BLOCK (CODE_CHUNK_BITS / CODE_WORD_BITS)

typedef struct CodeQuery
{
	simde__m128i q_u8x16[4];
} CodeQuery;

typedef struct CodeAcc
{
	simde__m128i sum_u64x2;
	simde__m128i ones_u8x16;	/* at most 4 * CODE_BLOCK = 128 in a byte */
} CodeAcc;

typedef simde__m128i CodeTotal;

FORCE_INLINE void
PrepareQuery(const int8_t *q, int8_t *out)
{
	simde__m128i x_i8x16[4];

	for (int i = 0; i < 4; i++)
		x_i8x16[i] = simde_mm_xor_si128(IntLoad(q + 16 * i), simde_mm_set1_epi8((char) 0x80));
	TransposeBytes(x_i8x16, out);
}

FORCE_INLINE CodeQuery
LoadQuery(const int8_t *p)
{
	return (CodeQuery) {{IntLoad(p), IntLoad(p + 16), IntLoad(p + 32), IntLoad(p + 48)}};
}

FORCE_INLINE CodeAcc
CodeAccZero(void)
{
	return (CodeAcc) {simde_mm_setzero_si128(), simde_mm_setzero_si128()};
}

FORCE_INLINE CodeAcc
CodeStep(CodeAcc acc, const uint8_t *word, CodeQuery q)
{
	simde__m128i word_u8x16 = simde_mm_loadl_epi64((const simde__m128i *) word);

	word_u8x16 = simde_mm_unpacklo_epi64(word_u8x16, word_u8x16);
#pragma GCC unroll 4
	for (int k = 0; k < 4; k++)
	{
		simde__m128i bit_u8x16 = simde_mm_unpacklo_epi64(simde_mm_set1_epi8((char) (1 << 2 * k)),
														 simde_mm_set1_epi8((char) (2 << 2 * k)));
		simde__m128i is_set_u8x16 = simde_mm_cmpeq_epi8(simde_mm_and_si128(word_u8x16, bit_u8x16), bit_u8x16);

		acc.ones_u8x16 = simde_mm_sub_epi8(acc.ones_u8x16, is_set_u8x16);
		acc.sum_u64x2 = simde_mm_add_epi64(acc.sum_u64x2,
										   simde_mm_sad_epu8(simde_mm_and_si128(is_set_u8x16, q.q_u8x16[k]),
															 simde_mm_setzero_si128()));
	}
	return acc;
}

#define CodeTotalZero() simde_mm_setzero_si128()
#define CodeTotalDouble(total) simde_mm_add_epi64(total, total)

FORCE_INLINE CodeTotal
CodeTotalAdd(CodeTotal total_i64x2, CodeAcc acc)
{
	simde__m128i ones_u64x2 = simde_mm_sad_epu8(acc.ones_u8x16, simde_mm_setzero_si128());

	return simde_mm_add_epi64(total_i64x2, simde_mm_sub_epi64(acc.sum_u64x2, simde_mm_slli_epi64(ones_u64x2, 7)));
}

#define CodeSum(total) ((int32_t) (int64_t) IntSum64(total))

FORCE_INLINE void
CodeSum4(const CodeTotal *totals, int32_t *out)
{
	for (int i = 0; i < 4; i++)
		out[i] = CodeSum(totals[i]);
}

/*
 * Bytes are widened to 16 bits; products come in pairs, two to each vector of a panel, in
 * two registers.
 */
#define PANEL_ROWS 2

typedef struct PanelPair
{
	simde__m128i low;
	simde__m128i high;
} PanelPair;

typedef PanelPair PanelAcc;
typedef simde__m128i PanelRow;
typedef PanelPair PanelColumn;

/* The first int32 of every pair of sums starts with what is at p, the second with zero. */
FORCE_INLINE PanelAcc
PanelAccSet(const void *p)
{
	simde__m128i start_i32x4 = IntLoad(p);

	return (PanelAcc) {
		simde_mm_unpacklo_epi32(start_i32x4, simde_mm_setzero_si128()),
		simde_mm_unpackhi_epi32(start_i32x4, simde_mm_setzero_si128())
	};
}

FORCE_INLINE PanelRow
PanelLoadRow(const uint8_t *p)
{
	int			four;

	memcpy(&four, p, sizeof(four));
	return simde_mm_unpacklo_epi8(simde_mm_set1_epi32(four), simde_mm_setzero_si128());
}

FORCE_INLINE PanelColumn
PanelLoadColumn(const int8_t *p)
{
	simde__m128i v_i8x16 = IntLoad(p);

	return (PanelColumn) {
		simde_mm_srai_epi16(simde_mm_unpacklo_epi8(v_i8x16, v_i8x16), 8),
		simde_mm_srai_epi16(simde_mm_unpackhi_epi8(v_i8x16, v_i8x16), 8)
	};
}

FORCE_INLINE PanelAcc
PanelStep(PanelAcc acc, PanelRow row_i16x8, PanelColumn column)
{
	return (PanelAcc) {
		simde_mm_add_epi32(acc.low, simde_mm_madd_epi16(row_i16x8, column.low)),
		simde_mm_add_epi32(acc.high, simde_mm_madd_epi16(row_i16x8, column.high))
	};
}

FORCE_INLINE void
PanelStore(int32_t *p, PanelAcc acc)
{
	simde__m128 low = simde_mm_castsi128_ps(acc.low);
	simde__m128 high = simde_mm_castsi128_ps(acc.high);
	simde__m128i even_i32x4 = simde_mm_castps_si128(simde_mm_shuffle_ps(low, high, 0x88));
	simde__m128i odd_i32x4 = simde_mm_castps_si128(simde_mm_shuffle_ps(low, high, 0xdd));

	simde_mm_storeu_si128((simde__m128i *) p, simde_mm_add_epi32(even_i32x4, odd_i32x4));
}

FORCE_INLINE f32xN
F32Negate(f32xN v_f32x4, uint32_t bits)
{
	const simde__m128i lane_bits_i32x4 = simde_mm_setr_epi32(1, 2, 4, 8);
	simde__m128i bits_i32x4 = simde_mm_and_si128(simde_mm_set1_epi32((int) bits), lane_bits_i32x4);
	simde__m128i set_i32x4 = simde_mm_cmpeq_epi32(bits_i32x4, lane_bits_i32x4);

	return simde_mm_xor_ps(v_f32x4, simde_mm_castsi128_ps(simde_mm_slli_epi32(set_i32x4, 31)));
}

FORCE_INLINE void
StoreU8(uint8_t *p, f32xN v_f32x4)
{
	simde__m128i v_i32x4 = simde_mm_cvttps_epi32(v_f32x4);
	simde__m128i v_i16x8 = simde_mm_packs_epi32(v_i32x4, v_i32x4);
	int32_t		four = simde_mm_cvtsi128_si32(simde_mm_packus_epi16(v_i16x8, v_i16x8));

	memcpy(p, &four, sizeof(four));
}

#define LoadI32(p) simde_mm_cvtepi32_ps(IntLoad(p))
#define F32Signs(v) ((uint32_t) simde_mm_movemask_ps(v))
#define F32Max(a, b) simde_mm_max_ps(a, b)
#define F32AnyGe(a, b) (simde_mm_movemask_ps(simde_mm_cmpge_ps(a, b)) != 0)

#include "distance/kernels.inc.h"
