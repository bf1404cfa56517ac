/*
 * avx512.c
 *	  Kernels for x86-64 with AVX-512 as of Ice Lake and Zen 4.
 *
 * The compiler's own intrinsics: SIMDe has no masked loads for AVX-512.
 */
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || \
	!defined(__AVX512VL__) || !defined(__AVX512VBMI__) || !defined(__AVX512VNNI__) || \
	!defined(__AVX512VPOPCNTDQ__)
#error "avx512.c needs its own compiler flags, see the Makefile"
#endif

#include <immintrin.h>
#include <string.h>

#include "distance/tables.h"

#define KERNEL(name) ann_##name##_avx512
#define KERNEL_TABLE ann_kernels_avx512
#define KERNEL_SET "avx512"
#define LANES 16
#define VECTOR_BYTES 64
#define MASKED_TAILS

typedef __m512 f32xN;
typedef __m512i ixN;

#define F32Zero() _mm512_setzero_ps()
#define F32Set1(x) _mm512_set1_ps(x)
#define F32Add(a, b) _mm512_add_ps(a, b)
#define F32Sub(a, b) _mm512_sub_ps(a, b)
#define F32Mul(a, b) _mm512_mul_ps(a, b)
#define F32Fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define F32Abs(v) _mm512_abs_ps(v)
#define F32Sum(v) _mm512_reduce_add_ps(v)
#define LoadF32(p) _mm512_loadu_ps(p)
#define LoadF16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) (p)))
#define LoadU8(p) _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) (p))))
#define StoreF32(p, v) _mm512_storeu_ps(p, v)
#define StoreF16(p, v) _mm256_storeu_si256((__m256i *) (p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))

FORCE_INLINE __mmask16
TailLanes(size_t n)
{
	return (__mmask16) ((1u << (n % LANES)) - 1);
}

FORCE_INLINE f32xN
F32KeepTail(f32xN v_f32x16, size_t n)
{
	return _mm512_maskz_mov_ps(TailLanes(n), v_f32x16);
}

FORCE_INLINE f32xN
F32LoadTail(Elem elem, const void *p, size_t n)
{
	const char *tail = (const char *) p + (n - n % LANES) * ElemSize(elem);
	__mmask16	lanes = TailLanes(n);

	switch (elem)
	{
		case ELEM_F32:
			return _mm512_maskz_loadu_ps(lanes, tail);
		case ELEM_F16:
			return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, tail));
		case ELEM_U8:
		case ELEM_SQ8:
			return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, tail)));
	}
	return F32Zero();
}

FORCE_INLINE f32xN
F32Fht(f32xN v_f32x16)
{
	const __m512 sign1_f32x16 = _mm512_broadcast_f32x4(_mm_setr_ps(1, -1, 1, -1));
	const __m512 sign2_f32x16 = _mm512_broadcast_f32x4(_mm_setr_ps(1, 1, -1, -1));
	const __m512 sign4_f32x16 = _mm512_broadcast_f32x8(_mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1));
	const __m512 sign8_f32x16 = _mm512_setr_ps(1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1);

	v_f32x16 = _mm512_fmadd_ps(v_f32x16, sign1_f32x16, _mm512_permute_ps(v_f32x16, 0xb1));
	v_f32x16 = _mm512_fmadd_ps(v_f32x16, sign2_f32x16, _mm512_permute_ps(v_f32x16, 0x4e));
	v_f32x16 = _mm512_fmadd_ps(v_f32x16, sign4_f32x16, _mm512_shuffle_f32x4(v_f32x16, v_f32x16, 0xb1));
	return _mm512_fmadd_ps(v_f32x16, sign8_f32x16, _mm512_shuffle_f32x4(v_f32x16, v_f32x16, 0x4e));
}

#define IntZero() _mm512_setzero_si512()
#define IntLoad(p) _mm512_loadu_si512(p)
#define IntXor(a, b) _mm512_xor_si512(a, b)
#define IntAnd(a, b) _mm512_and_si512(a, b)
#define IntOr(a, b) _mm512_or_si512(a, b)
#define IntAdd64(a, b) _mm512_add_epi64(a, b)
#define IntCountOnes64(v) _mm512_popcnt_epi64(v)
#define IntSum64(v) ((uint64_t) _mm512_reduce_add_epi64(v))

/*
 * Not one masked load of 64 bytes: short bit strings that stream from memory would
 * take twice as long.
 */
FORCE_INLINE ixN
IntLoadTail(const void *p, size_t n)
{
	size_t		left = n % VECTOR_BYTES;
	const char *tail = (const char *) p + n - left;

	if (left < 16)
		return _mm512_zextsi128_si512(_mm_maskz_loadu_epi8((__mmask16) ((1u << left) - 1), tail));
	if (left < 32)
	{
		__m256i		first_u8x32 = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *) tail));
		__m128i		rest_u8x16 = _mm_maskz_loadu_epi8((__mmask16) ((1u << (left - 16)) - 1), tail + 16);

		return _mm512_zextsi256_si512(_mm256_inserti128_si256(first_u8x32, rest_u8x16, 1));
	}
	return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *) tail)),
							  _mm256_maskz_loadu_epi8((__mmask32) ((1u << (left - 32)) - 1), tail + 32), 1);
}

/* VNNI multiplies unsigned by signed: the sum of (a + 128) * b, and that of 128 * b. */
typedef struct DotI8
{
	__m512i		biased_i32x16;
	__m512i		bias_i32x16;
} DotI8;

FORCE_INLINE DotI8
DotI8Zero(void)
{
	return (DotI8) {_mm512_setzero_si512(), _mm512_setzero_si512()};
}

FORCE_INLINE DotI8
DotI8Step(DotI8 sum, ixN a_i8x64, ixN b_i8x64)
{
	const __m512i bias_u8x64 = _mm512_set1_epi8((char) 0x80);

	sum.biased_i32x16 = _mm512_dpbusd_epi32(sum.biased_i32x16, _mm512_xor_si512(a_i8x64, bias_u8x64), b_i8x64);
	sum.bias_i32x16 = _mm512_dpbusd_epi32(sum.bias_i32x16, bias_u8x64, b_i8x64);
	return sum;
}

#define DotI8Sum(sum) _mm512_reduce_add_epi32(_mm512_sub_epi32((sum).biased_i32x16, (sum).bias_i32x16))

/*
 * A word of a code is broadcast to all 64-bit lanes; lane j keeps bit j of each
 * byte, a byte of value 2^j or 0.  So lane j of the prepared query holds the
 * entries for bits 8 * i + j, and lane j of a total is 2^j times too large.
 */
#define CODE_GROUP 8
#define CODE_BLOCK (CODE_CHUNK_BITS / CODE_WORD_BITS)

typedef __m512i CodeQuery;
typedef __m512i CodeAcc;
typedef __m512i CodeTotal;

FORCE_INLINE void
PrepareQuery(const int8_t *q, int8_t *out)
{
	/* byte 8 * j + i of the result is byte 8 * i + j */
	const __m512i first_u8x64 = _mm512_set1_epi64(0x3830282018100800);
	const __m512i lane_u8x64 = _mm512_setr_epi64(0, 0x0101010101010101, 0x0202020202020202,
												 0x0303030303030303, 0x0404040404040404,
												 0x0505050505050505, 0x0606060606060606,
												 0x0707070707070707);

	_mm512_storeu_si512(out, _mm512_permutexvar_epi8(_mm512_add_epi8(first_u8x64, lane_u8x64),
													 _mm512_loadu_si512(q)));
}

FORCE_INLINE CodeAcc
CodeStep(CodeAcc acc_i32x16, const uint8_t *word, CodeQuery q_i8x64)
{
	const __m512i bit_u8x64 = _mm512_setr_epi64(0x0101010101010101, 0x0202020202020202,
												0x0404040404040404, 0x0808080808080808,
												0x1010101010101010, 0x2020202020202020,
												0x4040404040404040, (long long) 0x8080808080808080);
	long long	bits;

	memcpy(&bits, word, sizeof(bits));
	return _mm512_dpbusd_epi32(acc_i32x16, _mm512_and_si512(_mm512_set1_epi64(bits), bit_u8x64), q_i8x64);
}

#define LoadQuery(p) _mm512_loadu_si512(p)
#define CodeAccZero() _mm512_setzero_si512()
#define CodeTotalZero() _mm512_setzero_si512()
#define CodeTotalDouble(total) _mm512_add_epi32(total, total)
#define CodeTotalAdd(total, acc) _mm512_add_epi32(total, acc)

FORCE_INLINE __m512i
CodeUnscale(CodeTotal total_i32x16)
{
	return _mm512_srav_epi32(total_i32x16, _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7));
}

#define CodeSum(total) _mm512_reduce_add_epi32(CodeUnscale(total))

FORCE_INLINE void
CodeSum4(const CodeTotal *totals, int32_t *out)
{
	__m512i		a_i32x16 = CodeUnscale(totals[0]);
	__m512i		b_i32x16 = CodeUnscale(totals[1]);
	__m512i		c_i32x16 = CodeUnscale(totals[2]);
	__m512i		d_i32x16 = CodeUnscale(totals[3]);
	__m512i		ab_i32x16 = _mm512_add_epi32(_mm512_unpacklo_epi32(a_i32x16, b_i32x16),
											 _mm512_unpackhi_epi32(a_i32x16, b_i32x16));
	__m512i		cd_i32x16 = _mm512_add_epi32(_mm512_unpacklo_epi32(c_i32x16, d_i32x16),
											 _mm512_unpackhi_epi32(c_i32x16, d_i32x16));
	__m512i		sum_i32x16 = _mm512_add_epi32(_mm512_unpacklo_epi64(ab_i32x16, cd_i32x16),
											  _mm512_unpackhi_epi64(ab_i32x16, cd_i32x16));
	__m256i		sum_i32x8 = _mm256_add_epi32(_mm512_castsi512_si256(sum_i32x16),
											 _mm512_extracti64x4_epi64(sum_i32x16, 1));

	_mm_storeu_si128((__m128i *) out, _mm_add_epi32(_mm256_castsi256_si128(sum_i32x8),
													_mm256_extracti128_si256(sum_i32x8, 1)));
}

/* One panel of bytes is two vectors. */
#define PANEL_ROWS 12

typedef __m512i PanelAcc;
typedef __m512i PanelRow;
typedef __m512i PanelColumn;

FORCE_INLINE PanelRow
PanelLoadRow(const uint8_t *p)
{
	int			four;

	memcpy(&four, p, sizeof(four));
	return _mm512_set1_epi32(four);
}

#define PanelAccSet(p) _mm512_loadu_si512(p)
#define PanelLoadColumn(p) _mm512_loadu_si512(p)
#define PanelStep(acc, row, column) _mm512_dpbusd_epi32(acc, row, column)
#define PanelStore(p, acc) _mm512_storeu_si512(p, acc)
#define LoadI32(p) _mm512_cvtepi32_ps(_mm512_loadu_si512(p))
#define F32Negate(v, bits) \
	_mm512_castsi512_ps(_mm512_mask_xor_epi32(_mm512_castps_si512(v), (__mmask16) (bits), \
											  _mm512_castps_si512(v), _mm512_set1_epi32((int) 0x80000000)))
#define StoreU8(p, v) _mm_storeu_si128((__m128i *) (p), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v)))
#define F32Signs(v) ((uint32_t) _mm512_movepi32_mask(_mm512_castps_si512(v)))
#define F32Max(a, b) _mm512_max_ps(a, b)
#define F32AnyGe(a, b) (_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ) != 0)

#include "distance/kernels.inc.h"
