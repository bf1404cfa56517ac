/*
 * neon.c
 *	  Kernels for every 64-bit ARM CPU.
 *
 * Elsewhere SIMDe emulates NEON, slowly: the kernel test does so, in order to
 * test this file on any machine.
 */
#include <simde/arm/neon.h>
#include <string.h>

#include "distance/tables.h"

#define KERNEL(name) ann_##name##_neon
#define KERNEL_TABLE ann_kernels_neon
#define KERNEL_SET "neon"
#define LANES 4
#define VECTOR_BYTES 16

typedef simde_float32x4_t f32xN;
typedef simde_uint8x16_t ixN;

#define F32Zero() simde_vdupq_n_f32(0)
#define F32Set1(x) simde_vdupq_n_f32(x)
#define F32Add(a, b) simde_vaddq_f32(a, b)
#define F32Sub(a, b) simde_vsubq_f32(a, b)
#define F32Mul(a, b) simde_vmulq_f32(a, b)
#define F32Abs(v) simde_vabsq_f32(v)
#define F32Sum(v) simde_vaddvq_f32(v)
#define F32And(v, mask) simde_vreinterpretq_f32_u8(simde_vandq_u8(simde_vreinterpretq_u8_f32(v), mask))
#define LoadF32(p) simde_vreinterpretq_f32_u8(simde_vld1q_u8((const uint8_t *) (p)))
#define StoreF32(p, v) simde_vst1q_u8((uint8_t *) (p), simde_vreinterpretq_u8_f32(v))

/* SIMDe emulates the halves on ARM as well, unless half arithmetic is there; before 0.7.4 it has no vfmaq. */
#if defined(__aarch64__)
#define F32Fma(a, b, c) vfmaq_f32(c, a, b)
#define F32FromF16(v) vcvt_f32_f16(vreinterpret_f16_u8(v))
#define F16FromF32(v) vreinterpret_u8_f16(vcvt_f16_f32(v))
#else
#define F32Fma(a, b, c) simde_vfmaq_f32(c, a, b)
#define F32FromF16(v) simde_vcvt_f32_f16(simde_vreinterpret_f16_u16(simde_vreinterpret_u16_u8(v)))
#define F16FromF32(v) simde_vreinterpret_u8_u16(simde_vreinterpret_u16_f16(simde_vcvt_f16_f32(v)))
#endif

#define LoadF16(p) F32FromF16(simde_vld1_u8((const uint8_t *) (p)))
#define StoreF16(p, v) simde_vst1_u8((uint8_t *) (p), F16FromF32(v))

FORCE_INLINE f32xN
LoadU8(const void *p)
{
	uint32_t	bytes;
	simde_uint16x8_t v_u16x8;

	memcpy(&bytes, p, sizeof(bytes));
	v_u16x8 = simde_vmovl_u8(simde_vreinterpret_u8_u32(simde_vdup_n_u32(bytes)));
	return simde_vcvtq_f32_u32(simde_vmovl_u16(simde_vget_low_u16(v_u16x8)));
}

FORCE_INLINE f32xN
F32Fht(f32xN v_f32x4)
{
	static const float sign1[4] = {1, -1, 1, -1};
	static const float sign2[4] = {1, 1, -1, -1};

	v_f32x4 = F32Fma(v_f32x4, LoadF32(sign1), simde_vrev64q_f32(v_f32x4));
	return F32Fma(v_f32x4, LoadF32(sign2), simde_vextq_f32(v_f32x4, v_f32x4, 2));
}

#define IntZero() simde_vdupq_n_u8(0)
#define IntLoad(p) simde_vld1q_u8((const uint8_t *) (p))
#define IntXor(a, b) simde_veorq_u8(a, b)
#define IntAnd(a, b) simde_vandq_u8(a, b)
#define IntOr(a, b) simde_vorrq_u8(a, b)

FORCE_INLINE ixN
IntAdd64(ixN a, ixN b)
{
	return simde_vreinterpretq_u8_u64(simde_vaddq_u64(simde_vreinterpretq_u64_u8(a), simde_vreinterpretq_u64_u8(b)));
}

FORCE_INLINE ixN
IntCountOnes64(ixN v_u8x16)
{
	return simde_vreinterpretq_u8_u64(simde_vpaddlq_u32(simde_vpaddlq_u16(simde_vpaddlq_u8(simde_vcntq_u8(v_u8x16)))));
}

#define IntSum64(v) simde_vaddvq_u64(simde_vreinterpretq_u64_u8(v))

typedef simde_int32x4_t DotI8;

#define DotI8Zero() simde_vdupq_n_s32(0)

/* A product needs 16 bits, and the sum of two of them 17. */
FORCE_INLINE DotI8
DotI8Step(DotI8 sum_i32x4, ixN a_u8x16, ixN b_u8x16)
{
	simde_int8x16_t a_i8x16 = simde_vreinterpretq_s8_u8(a_u8x16);
	simde_int8x16_t b_i8x16 = simde_vreinterpretq_s8_u8(b_u8x16);

	sum_i32x4 = simde_vpadalq_s16(sum_i32x4, simde_vmull_s8(simde_vget_low_s8(a_i8x16), simde_vget_low_s8(b_i8x16)));
	return simde_vpadalq_s16(sum_i32x4, simde_vmull_high_s8(a_i8x16, b_i8x16));
}

#define DotI8Sum(sum) simde_vaddvq_s32(sum)

/*
 * A word of a code is broadcast to both 64-bit lanes, four times; of the k-th
 * copy lane j looks at bit 2 * k + j of each byte.  So the prepared query holds
 * the entries for bits 8 * i + j in the order of j.  One step adds at most
 * 4 * 2 * 128 to a 16-bit sum, which therefore holds 16 steps with ease.
 */
#define CODE_GROUP 4
#define CODE_BLOCK 16

typedef struct CodeQuery
{
	simde_uint8x16_t q_u8x16[4];
} CodeQuery;

typedef simde_int16x8_t CodeAcc;
typedef simde_int32x4_t CodeTotal;

/* Byte 8 * j + i of the result is byte 8 * i + j: three perfect shuffles. */
FORCE_INLINE void
PrepareQuery(const int8_t *q, int8_t *out)
{
	simde_uint8x16_t x_u8x16[4];

	for (int i = 0; i < 4; i++)
		x_u8x16[i] = IntLoad(q + 16 * i);
	for (int round = 0; round < 3; round++)
	{
		simde_uint8x16_t a_u8x16 = simde_vzip1q_u8(x_u8x16[0], x_u8x16[2]);
		simde_uint8x16_t b_u8x16 = simde_vzip2q_u8(x_u8x16[0], x_u8x16[2]);
		simde_uint8x16_t c_u8x16 = simde_vzip1q_u8(x_u8x16[1], x_u8x16[3]);
		simde_uint8x16_t d_u8x16 = simde_vzip2q_u8(x_u8x16[1], x_u8x16[3]);

		x_u8x16[0] = a_u8x16;
		x_u8x16[1] = b_u8x16;
		x_u8x16[2] = c_u8x16;
		x_u8x16[3] = d_u8x16;
	}
	for (int i = 0; i < 4; i++)
		simde_vst1q_u8((uint8_t *) out + 16 * i, x_u8x16[i]);
}

FORCE_INLINE CodeQuery
LoadQuery(const int8_t *p)
{
	return (CodeQuery) {{IntLoad(p), IntLoad(p + 16), IntLoad(p + 32), IntLoad(p + 48)}};
}

#define CodeAccZero() simde_vdupq_n_s16(0)

FORCE_INLINE CodeAcc
CodeStep(CodeAcc acc_i16x8, const uint8_t *word, CodeQuery q)
{
	simde_uint8x8_t word_u8x8 = simde_vld1_u8(word);
	simde_uint8x16_t word_u8x16 = simde_vcombine_u8(word_u8x8, word_u8x8);

#pragma GCC unroll 4
	for (int k = 0; k < 4; k++)
	{
		simde_uint8x16_t bit_u8x16 = simde_vcombine_u8(simde_vdup_n_u8((uint8_t) (1 << 2 * k)),
													   simde_vdup_n_u8((uint8_t) (2 << 2 * k)));
		simde_uint8x16_t kept_u8x16 = simde_vandq_u8(simde_vtstq_u8(word_u8x16, bit_u8x16), q.q_u8x16[k]);

		acc_i16x8 = simde_vpadalq_s8(acc_i16x8, simde_vreinterpretq_s8_u8(kept_u8x16));
	}
	return acc_i16x8;
}

#define CodeTotalZero() simde_vdupq_n_s32(0)
#define CodeTotalDouble(total) simde_vaddq_s32(total, total)
#define CodeTotalAdd(total, acc) simde_vpadalq_s16(total, acc)
#define CodeSum(total) simde_vaddvq_s32(total)

FORCE_INLINE void
CodeSum4(const CodeTotal *totals, int32_t *out)
{
	for (int i = 0; i < 4; i++)
		out[i] = CodeSum(totals[i]);
}

/* Products come in pairs, two to each vector of a panel, in two registers. */
#define PANEL_ROWS 4

typedef struct PanelAcc
{
	simde_int32x4_t low;
	simde_int32x4_t high;
} PanelAcc;

typedef simde_int8x8_t PanelRow;
typedef simde_int8x16_t PanelColumn;

/* The first int32 of every pair of sums starts with what is at p, the second with zero. */
FORCE_INLINE PanelAcc
PanelAccSet(const void *p)
{
	simde_int32x4_t start_i32x4 = simde_vreinterpretq_s32_u8(simde_vld1q_u8(p));

	return (PanelAcc) {
		simde_vzip1q_s32(start_i32x4, simde_vdupq_n_s32(0)),
		simde_vzip2q_s32(start_i32x4, simde_vdupq_n_s32(0))
	};
}

FORCE_INLINE PanelRow
PanelLoadRow(const uint8_t *p)
{
	int32_t		four;

	memcpy(&four, p, sizeof(four));
	return simde_vreinterpret_s8_s32(simde_vdup_n_s32(four));
}

FORCE_INLINE PanelAcc
PanelStep(PanelAcc acc, PanelRow row_i8x8, PanelColumn column_i8x16)
{
	return (PanelAcc) {
		simde_vpadalq_s16(acc.low, simde_vmull_s8(row_i8x8, simde_vget_low_s8(column_i8x16))),
		simde_vpadalq_s16(acc.high, simde_vmull_s8(row_i8x8, simde_vget_high_s8(column_i8x16)))
	};
}

#define PanelLoadColumn(p) simde_vreinterpretq_s8_u8(IntLoad(p))
#define PanelStore(p, acc) simde_vst1q_s32(p, simde_vpaddq_s32((acc).low, (acc).high))
#define LoadI32(p) simde_vcvtq_f32_s32(simde_vld1q_s32(p))
FORCE_INLINE f32xN
F32Negate(f32xN v_f32x4, uint32_t bits)
{
	static const uint32_t lane_bits[4] = {1, 2, 4, 8};
	simde_uint32x4_t set_u32x4 = simde_vtstq_u32(simde_vdupq_n_u32(bits), simde_vld1q_u32(lane_bits));

	return simde_vreinterpretq_f32_u32(simde_veorq_u32(simde_vreinterpretq_u32_f32(v_f32x4),
													   simde_vshlq_n_u32(set_u32x4, 31)));
}

FORCE_INLINE void
StoreU8(uint8_t *p, f32xN v_f32x4)
{
	simde_uint16x4_t v_u16x4 = simde_vmovn_u32(simde_vcvtq_u32_f32(v_f32x4));
	uint32_t	four = simde_vget_lane_u32(simde_vreinterpret_u32_u8(simde_vmovn_u16(simde_vcombine_u16(v_u16x4, v_u16x4))), 0);

	memcpy(p, &four, sizeof(four));
}

FORCE_INLINE uint32_t
F32Signs(f32xN v_f32x4)
{
	static const int32_t lanes[4] = {0, 1, 2, 3};
	simde_uint32x4_t signs_u32x4 = simde_vshrq_n_u32(simde_vreinterpretq_u32_f32(v_f32x4), 31);

	return simde_vaddvq_u32(simde_vshlq_u32(signs_u32x4, simde_vld1q_s32(lanes)));
}

#define F32Max(a, b) simde_vmaxq_f32(a, b)
#define F32AnyGe(a, b) (simde_vmaxvq_u32(simde_vcgeq_f32(a, b)) != 0)

#include "distance/kernels.inc.h"
