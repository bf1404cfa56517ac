/*
 * avx2.c
 *	  Kernels for x86-64 with AVX2, FMA and F16C.
 */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "avx2.c needs its own compiler flags, see the Makefile"
#endif

#include <immintrin.h>
#include <simde/x86/avx2.h>
#include <simde/x86/fma.h>
#include <string.h>

#include "distance/tables.h"
#include "distance/transpose.h"

#define KERNEL(name) ann_##name##_avx2
#define KERNEL_TABLE ann_kernels_avx2
#define KERNEL_SET "avx2"
#define LANES 8
#define VECTOR_BYTES 32

typedef simde__m256 f32xN;
typedef simde__m256i ixN;

#define F32Zero() simde_mm256_setzero_ps()
#define F32Set1(x) simde_mm256_set1_ps(x)
#define F32Add(a, b) simde_mm256_add_ps(a, b)
#define F32Sub(a, b) simde_mm256_sub_ps(a, b)
#define F32Mul(a, b) simde_mm256_mul_ps(a, b)
#define F32Fma(a, b, c) simde_mm256_fmadd_ps(a, b, c)
#define F32Abs(v) simde_mm256_andnot_ps(simde_mm256_set1_ps(-0.0f), v)
#define F32And(v, mask) simde_mm256_and_ps(v, simde_mm256_castsi256_ps(mask))
#define LoadF32(p) simde_mm256_loadu_ps((const float *) (p))
/* SIMDe's conversions of halves are younger than Ubuntu 24.04's package of it. */
#define LoadF16(p) _mm256_cvtph_ps(simde_mm_loadu_si128((const simde__m128i *) (p)))
#define LoadU8(p) simde_mm256_cvtepi32_ps(simde_mm256_cvtepu8_epi32(simde_mm_loadl_epi64((const simde__m128i *) (p))))
#define StoreF32(p, v) simde_mm256_storeu_ps((float *) (p), v)
#define StoreF16(p, v) simde_mm_storeu_si128((simde__m128i *) (p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT))

FORCE_INLINE float
F32Sum(f32xN v_f32x8)
{
	simde__m128 v_f32x4 = simde_mm_add_ps(simde_mm256_castps256_ps128(v_f32x8),
										  simde_mm256_extractf128_ps(v_f32x8, 1));

	v_f32x4 = simde_mm_add_ps(v_f32x4, simde_mm_movehl_ps(v_f32x4, v_f32x4));
	return simde_mm_cvtss_f32(simde_mm_add_ss(v_f32x4, simde_mm_movehdup_ps(v_f32x4)));
}

FORCE_INLINE f32xN
F32Fht(f32xN v_f32x8)
{
	const simde__m256 sign1_f32x8 = simde_mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
	const simde__m256 sign2_f32x8 = simde_mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
	const simde__m256 sign4_f32x8 = simde_mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);

	v_f32x8 = simde_mm256_fmadd_ps(v_f32x8, sign1_f32x8, simde_mm256_permute_ps(v_f32x8, 0xb1));
	v_f32x8 = simde_mm256_fmadd_ps(v_f32x8, sign2_f32x8, simde_mm256_permute_ps(v_f32x8, 0x4e));
	return simde_mm256_fmadd_ps(v_f32x8, sign4_f32x8, simde_mm256_permute2f128_ps(v_f32x8, v_f32x8, 1));
}

#define IntZero() simde_mm256_setzero_si256()
#define IntLoad(p) simde_mm256_loadu_si256((const simde__m256i *) (p))
#define IntXor(a, b) simde_mm256_xor_si256(a, b)
#define IntAnd(a, b) simde_mm256_and_si256(a, b)
#define IntOr(a, b) simde_mm256_or_si256(a, b)
#define IntAdd64(a, b) simde_mm256_add_epi64(a, b)

/* Counts the ones of each half-byte from a table (Mula, Kurz and Lemire 2018). */
FORCE_INLINE ixN
IntCountOnes64(ixN v_u8x32)
{
	const simde__m256i ones_u8x32 = simde_mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
														  0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
	const simde__m256i low_u8x32 = simde_mm256_set1_epi8(0x0f);
	simde__m256i high_u8x32 = simde_mm256_and_si256(simde_mm256_srli_epi16(v_u8x32, 4), low_u8x32);

	v_u8x32 = simde_mm256_and_si256(v_u8x32, low_u8x32);
	return simde_mm256_sad_epu8(simde_mm256_add_epi8(simde_mm256_shuffle_epi8(ones_u8x32, v_u8x32),
													 simde_mm256_shuffle_epi8(ones_u8x32, high_u8x32)),
								simde_mm256_setzero_si256());
}

FORCE_INLINE uint64_t
IntSum64(ixN v_u64x4)
{
	simde__m128i v_u64x2 = simde_mm_add_epi64(simde_mm256_castsi256_si128(v_u64x4),
											  simde_mm256_extracti128_si256(v_u64x4, 1));

	return (uint64_t) simde_mm_cvtsi128_si64(simde_mm_add_epi64(v_u64x2, simde_mm_unpackhi_epi64(v_u64x2, v_u64x2)));
}

FORCE_INLINE int32_t
IntSum32(ixN v_i32x8)
{
	simde__m128i v_i32x4 = simde_mm_add_epi32(simde_mm256_castsi256_si128(v_i32x8),
											  simde_mm256_extracti128_si256(v_i32x8, 1));

	v_i32x4 = simde_mm_add_epi32(v_i32x4, simde_mm_unpackhi_epi64(v_i32x4, v_i32x4));
	return simde_mm_cvtsi128_si32(simde_mm_add_epi32(v_i32x4, simde_mm_shuffle_epi32(v_i32x4, 0xb1)));
}

typedef simde__m256i DotI8;

#define DotI8Zero() simde_mm256_setzero_si256()

/* Odd and even bytes apart, as 16-bit numbers: the order does not matter. */
FORCE_INLINE DotI8
DotI8Step(DotI8 sum_i32x8, ixN a_i8x32, ixN b_i8x32)
{
	simde__m256i odd_i32x8 = simde_mm256_madd_epi16(simde_mm256_srai_epi16(a_i8x32, 8),
													simde_mm256_srai_epi16(b_i8x32, 8));
	simde__m256i even_i32x8 = simde_mm256_madd_epi16(simde_mm256_srai_epi16(simde_mm256_slli_epi16(a_i8x32, 8), 8),
													 simde_mm256_srai_epi16(simde_mm256_slli_epi16(b_i8x32, 8), 8));

	return simde_mm256_add_epi32(sum_i32x8, simde_mm256_add_epi32(odd_i32x8, even_i32x8));
}

#define DotI8Sum(sum) IntSum32(sum)

/*
 * A word of a code is broadcast to all 64-bit lanes, once as it is and once
 * shifted right by 4; lane j keeps bit j of each byte, a byte of value 2^j
 * (j = 0 to 3) or 0.  So lane j of the prepared query's halves holds the
 * entries for bits 8 * i + j and 8 * i + j + 4, and the sums of lane j are 2^j
 * times too large.  One step adds at most 2 * 2^3 * 128 to a 16-bit sum, so
 * that it holds 16 steps.
 */
#define CODE_GROUP 4
#define CODE_BLOCK 16

typedef struct CodeQuery
{
	simde__m256i low_i8x32;
	simde__m256i high_i8x32;
} CodeQuery;

typedef struct CodeAcc
{
	simde__m256i low_i16x16;
	simde__m256i high_i16x16;
} CodeAcc;

typedef simde__m256i CodeTotal;

FORCE_INLINE void
PrepareQuery(const int8_t *q, int8_t *out)
{
	simde__m128i x_i8x16[4];

	for (int i = 0; i < 4; i++)
		x_i8x16[i] = simde_mm_loadu_si128((const simde__m128i *) (q + 16 * i));
	TransposeBytes(x_i8x16, out);
}

FORCE_INLINE CodeQuery
LoadQuery(const int8_t *p)
{
	return (CodeQuery) {IntLoad(p), IntLoad(p + VECTOR_BYTES)};
}

FORCE_INLINE CodeAcc
CodeAccZero(void)
{
	return (CodeAcc) {simde_mm256_setzero_si256(), simde_mm256_setzero_si256()};
}

FORCE_INLINE CodeAcc
CodeStep(CodeAcc acc, const uint8_t *word, CodeQuery q)
{
	const simde__m256i bit_u8x32 = simde_mm256_setr_epi64x(0x0101010101010101, 0x0202020202020202,
														   0x0404040404040404, 0x0808080808080808);
	simde__m256i word_u8x32 = simde_mm256_broadcastq_epi64(simde_mm_loadl_epi64((const simde__m128i *) word));
	simde__m256i low_u8x32 = simde_mm256_and_si256(word_u8x32, bit_u8x32);
	simde__m256i high_u8x32 = simde_mm256_and_si256(simde_mm256_srli_epi64(word_u8x32, 4), bit_u8x32);

	acc.low_i16x16 = simde_mm256_add_epi16(acc.low_i16x16, simde_mm256_maddubs_epi16(low_u8x32, q.low_i8x32));
	acc.high_i16x16 = simde_mm256_add_epi16(acc.high_i16x16, simde_mm256_maddubs_epi16(high_u8x32, q.high_i8x32));
	return acc;
}

#define CodeTotalZero() simde_mm256_setzero_si256()
#define CodeTotalDouble(total) simde_mm256_add_epi32(total, total)

/* Totals are 2^3 times too large in all lanes. */
FORCE_INLINE CodeTotal
CodeTotalAdd(CodeTotal total_i32x8, CodeAcc acc)
{
	const simde__m256i weight_i16x16 = simde_mm256_setr_epi16(8, 8, 8, 8, 4, 4, 4, 4, 2, 2, 2, 2, 1, 1, 1, 1);

	total_i32x8 = simde_mm256_add_epi32(total_i32x8, simde_mm256_madd_epi16(acc.low_i16x16, weight_i16x16));
	return simde_mm256_add_epi32(total_i32x8, simde_mm256_madd_epi16(acc.high_i16x16, weight_i16x16));
}

#define CodeSum(total) (IntSum32(total) / 8)

FORCE_INLINE void
CodeSum4(const CodeTotal *totals, int32_t *out)
{
	simde__m256i sum_i32x8 = simde_mm256_hadd_epi32(simde_mm256_hadd_epi32(totals[0], totals[1]),
													simde_mm256_hadd_epi32(totals[2], totals[3]));
	simde__m128i sum_i32x4 = simde_mm_add_epi32(simde_mm256_castsi256_si128(sum_i32x8),
												simde_mm256_extracti128_si256(sum_i32x8, 1));

	simde_mm_storeu_si128((simde__m128i *) out, simde_mm_srai_epi32(sum_i32x4, 3));
}

/*
 * Products of bytes are added in pairs, in 16 bits, which hold 2 * 127 * 127.
 */
#define PANEL_ROWS 4

typedef simde__m256i PanelAcc;
typedef simde__m256i PanelRow;
typedef simde__m256i PanelColumn;

FORCE_INLINE PanelRow
PanelLoadRow(const uint8_t *p)
{
	int			four;

	memcpy(&four, p, sizeof(four));
	return simde_mm256_set1_epi32(four);
}

FORCE_INLINE PanelAcc
PanelStep(PanelAcc acc_i32x8, PanelRow row_u8x32, PanelColumn column_i8x32)
{
	simde__m256i pairs_i16x16 = simde_mm256_maddubs_epi16(row_u8x32, column_i8x32);

	return simde_mm256_add_epi32(acc_i32x8, simde_mm256_madd_epi16(pairs_i16x16, simde_mm256_set1_epi16(1)));
}

#define PanelAccSet(p) IntLoad(p)
#define PanelLoadColumn(p) IntLoad(p)
#define PanelStore(p, acc) simde_mm256_storeu_si256((simde__m256i *) (p), acc)
#define LoadI32(p) simde_mm256_cvtepi32_ps(IntLoad(p))
FORCE_INLINE f32xN
F32Negate(f32xN v_f32x8, uint32_t bits)
{
	const simde__m256i lane_bits_i32x8 = simde_mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
	simde__m256i bits_i32x8 = simde_mm256_and_si256(simde_mm256_set1_epi32((int) bits), lane_bits_i32x8);
	simde__m256i set_i32x8 = simde_mm256_cmpeq_epi32(bits_i32x8, lane_bits_i32x8);

	return simde_mm256_xor_ps(v_f32x8, simde_mm256_castsi256_ps(simde_mm256_slli_epi32(set_i32x8, 31)));
}

FORCE_INLINE void
StoreU8(uint8_t *p, f32xN v_f32x8)
{
	simde__m256i v_i32x8 = simde_mm256_cvttps_epi32(v_f32x8);
	simde__m128i v_i16x8 = simde_mm_packs_epi32(simde_mm256_castsi256_si128(v_i32x8),
												simde_mm256_extracti128_si256(v_i32x8, 1));

	simde_mm_storel_epi64((simde__m128i *) p, simde_mm_packus_epi16(v_i16x8, v_i16x8));
}

#define F32Signs(v) ((uint32_t) simde_mm256_movemask_ps(v))
#define F32Max(a, b) simde_mm256_max_ps(a, b)
#define F32AnyGe(a, b) (simde_mm256_movemask_ps(simde_mm256_cmp_ps(a, b, SIMDE_CMP_GE_OQ)) != 0)

#include "distance/kernels.inc.h"
