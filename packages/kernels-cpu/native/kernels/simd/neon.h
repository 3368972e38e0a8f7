// NEON (AArch64): four q registers hold 16 floats. Codes are widened to 16 bits and multiplied by smull, which cannot overflow on
// them; with INT_FLASH_NEON_DOT codes stay in 8 bits and go through sdot. Its operands are both signed, so weights P in [0, 255] are
// stored less 128, and the products start at 128 times the sum of the values.
#pragma once
#include <arm_neon.h>
#include <stddef.h>

#include "plain_rows.h"

namespace int_flash {
namespace {

struct Simd : PlainRows {
#ifdef INT_FLASH_NEON_DOT
    static constexpr const char* kName = "neon-dot";
    static constexpr int kGranule = 4;
    static constexpr uint32_t kValueFlip = 0x80808080u;  // u8 - 128 as s8
    static constexpr bool kOffsetProducts = true;
#else
    static constexpr const char* kName = "neon";
    static constexpr int kGranule = 2;
    static constexpr uint32_t kValueFlip = 0;
    static constexpr bool kOffsetProducts = false;
#endif
    static constexpr int kLanes = 8, kVectors = 2;
    static constexpr uint32_t kKeyFlip = 0;
    static constexpr bool kOffsetScores = false;
    static constexpr int kWideLoad = 16;
    static constexpr int kRowsAtOnce = 1;
    static constexpr bool kHandScheduled = false;

    struct Floats {
        float32x4_t a, b, c, d;
    };
    struct Ints {
        int32x4_t lo, hi;
    };
    struct Partial {
        float32x4_t lo, hi;
    };

    INT_FLASH_INLINE Floats load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
    INT_FLASH_INLINE float32x4_t widen_bfloat16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
    INT_FLASH_INLINE Floats load_bfloat16(const uint16_t* p) {
        return {widen_bfloat16(p), widen_bfloat16(p + 4), widen_bfloat16(p + 8), widen_bfloat16(p + 12)};
    }
    INT_FLASH_INLINE void store(float* p, Floats x) {
        vst1q_f32(p, x.a);
        vst1q_f32(p + 4, x.b);
        vst1q_f32(p + 8, x.c);
        vst1q_f32(p + 12, x.d);
    }
    INT_FLASH_INLINE Floats splat(float x) {
        const float32x4_t v = vdupq_n_f32(x);
        return {v, v, v, v};
    }
    INT_FLASH_INLINE Floats add(Floats x, Floats y) {
        return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
    }
    INT_FLASH_INLINE Floats sub(Floats x, Floats y) {
        return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
    }
    INT_FLASH_INLINE Floats mul(Floats x, Floats y) {
        return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
    }
    INT_FLASH_INLINE Floats div(Floats x, Floats y) {
        return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
    }
    INT_FLASH_INLINE Floats fma(Floats x, Floats y, Floats z) {
        return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
    }
    INT_FLASH_INLINE Floats max(Floats x, Floats y) {
        return {vmaxq_f32(x.a, y.a), vmaxq_f32(x.b, y.b), vmaxq_f32(x.c, y.c), vmaxq_f32(x.d, y.d)};
    }
    INT_FLASH_INLINE Floats abs(Floats x) { return {vabsq_f32(x.a), vabsq_f32(x.b), vabsq_f32(x.c), vabsq_f32(x.d)}; }
    INT_FLASH_INLINE Floats from_ints(const int32_t* p) {
        return {vcvtq_f32_s32(vld1q_s32(p)), vcvtq_f32_s32(vld1q_s32(p + 4)), vcvtq_f32_s32(vld1q_s32(p + 8)),
                vcvtq_f32_s32(vld1q_s32(p + 12))};
    }
    INT_FLASH_INLINE float32x4_t constant(uint32_t bits) { return vreinterpretq_f32_u32(vdupq_n_u32(bits)); }
    INT_FLASH_INLINE float32x4_t exp2_quarter(float32x4_t y) {
        y = vmaxq_f32(y, vdupq_n_f32(-125.0f));
        const float32x4_t magic = vdupq_n_f32(kRoundMagic);
        const float32x4_t shifted = vaddq_f32(y, magic);
        const float32x4_t f = vsubq_f32(y, vsubq_f32(shifted, magic));
        float32x4_t p = vfmaq_f32(constant(kExp2C3), constant(kExp2C4), f);
        p = vfmaq_f32(constant(kExp2C2), p, f);
        p = vfmaq_f32(constant(kExp2C1), p, f);
        p = vfmaq_f32(vdupq_n_f32(1.0f), p, f);
        const int32x4_t power = vshlq_n_s32(vreinterpretq_s32_f32(shifted), 23);
        return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p), power));
    }
    INT_FLASH_INLINE Floats exp2(Floats y) { return {exp2_quarter(y.a), exp2_quarter(y.b), exp2_quarter(y.c), exp2_quarter(y.d)}; }
    INT_FLASH_INLINE float largest(Floats x) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.a, x.b), vmaxq_f32(x.c, x.d))); }
    INT_FLASH_INLINE float fold(Floats x) {
        const float32x4_t quad = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
        const float32x2_t pair = vadd_f32(vget_low_f32(quad), vget_high_f32(quad));
        return vget_lane_f32(pair, 0) + vget_lane_f32(pair, 1);
    }
    INT_FLASH_INLINE float32x4_t keep_quarter(float32x4_t x, int first, int begin, int end, float32x4_t y) {
        static const int32_t kLane[4] = {0, 1, 2, 3};
        const int32x4_t lane = vaddq_s32(vld1q_s32(kLane), vdupq_n_s32(first));
        const uint32x4_t inside = vandq_u32(vcgeq_s32(lane, vdupq_n_s32(begin)), vcltq_s32(lane, vdupq_n_s32(end)));
        return vbslq_f32(inside, x, y);
    }
    INT_FLASH_INLINE Floats keep(Floats x, int begin, int end, Floats y) {
        return {keep_quarter(x.a, 0, begin, end, y.a), keep_quarter(x.b, 4, begin, end, y.b), keep_quarter(x.c, 8, begin, end, y.c),
                keep_quarter(x.d, 12, begin, end, y.d)};
    }
    INT_FLASH_INLINE float32x4_t zero_where(float32x4_t x, float32x4_t e) {
        const uint32x4_t excluded = vceqq_f32(e, vdupq_n_f32(-__builtin_inff()));
        return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x), excluded));
    }
    INT_FLASH_INLINE Floats zero_excluded(Floats x, Floats e) {
        return {zero_where(x.a, e.a), zero_where(x.b, e.b), zero_where(x.c, e.c), zero_where(x.d, e.d)};
    }
    struct Codes16 {
        int16x8_t lo, hi;
    };
    INT_FLASH_INLINE Codes16 to_16_bit(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
        return {vcombine_s16(vqmovn_s32(a), vqmovn_s32(b)), vcombine_s16(vqmovn_s32(c), vqmovn_s32(d))};
    }
    INT_FLASH_INLINE void store_codes(int8_t* p, Floats x) {
        const Codes16 wide = to_16_bit(vcvtnq_s32_f32(x.a), vcvtnq_s32_f32(x.b), vcvtnq_s32_f32(x.c), vcvtnq_s32_f32(x.d));
        vst1q_s8(p, vcombine_s8(vqmovn_s16(wide.lo), vqmovn_s16(wide.hi)));
    }
    INT_FLASH_INLINE int32x4_t weight_codes(float32x4_t p, float32x4_t levels) {
        const float32x4_t magic = vdupq_n_f32(kRoundMagic);
        return vsubq_s32(vreinterpretq_s32_f32(vfmaq_f32(magic, p, levels)), vreinterpretq_s32_f32(magic));
    }
    INT_FLASH_INLINE void store_weights(uint32_t* words, Floats p, Floats levels) {
        const Codes16 wide = to_16_bit(weight_codes(p.a, levels.a), weight_codes(p.b, levels.b), weight_codes(p.c, levels.c), weight_codes(p.d, levels.d));
#ifdef INT_FLASH_NEON_DOT
        const uint8x16_t codes = vcombine_u8(vqmovun_s16(wide.lo), vqmovun_s16(wide.hi));
        vst1q_u8(reinterpret_cast<uint8_t*>(words), veorq_u8(codes, vdupq_n_u8(0x80)));
#else
        vst1q_s16(reinterpret_cast<int16_t*>(words), wide.lo);
        vst1q_s16(reinterpret_cast<int16_t*>(words) + 8, wide.hi);
#endif
    }
    INT_FLASH_INLINE void store_zero_weights(uint32_t* words) {
        for (int i = 0; i < 16 / kGranule; i++) words[i] = kValueFlip;
    }
    INT_FLASH_INLINE void widen(uint32_t* words, const int8_t* codes) {
        const int8x16_t narrow = vld1q_s8(codes);
#ifdef INT_FLASH_NEON_DOT
        vst1q_s8(reinterpret_cast<int8_t*>(words), narrow);
#else
        vst1q_s16(reinterpret_cast<int16_t*>(words), vmovl_s8(vget_low_s8(narrow)));
        vst1q_s16(reinterpret_cast<int16_t*>(words) + 8, vmovl_high_s8(narrow));
#endif
    }

    // 16 channels of kGranule rows of codes, `stride` apart, to a word a channel.
    INT_FLASH_INLINE void interleave(const int8_t* codes, ptrdiff_t stride, uint32_t* words) {
#ifdef INT_FLASH_NEON_DOT
        vst4q_s8(reinterpret_cast<int8_t*>(words), int8x16x4_t{{vld1q_s8(codes), vld1q_s8(codes + stride), vld1q_s8(codes + 2 * stride), vld1q_s8(codes + 3 * stride)}});
#else
        const int8x16_t a = vld1q_s8(codes), b = vld1q_s8(codes + stride);
        int16_t* out = reinterpret_cast<int16_t*>(words);
        vst2q_s16(out, int16x8x2_t{{vmovl_s8(vget_low_s8(a)), vmovl_s8(vget_low_s8(b))}});
        vst2q_s16(out + 16, int16x8x2_t{{vmovl_high_s8(a), vmovl_high_s8(b)}});
#endif
    }
    // 16 words of 16 rows, `stride` apart, to 16 columns, `out_stride` apart, each xor-ed with `flip`.
    INT_FLASH_INLINE void transpose_words(const uint32_t* rows, ptrdiff_t stride, uint32_t flip, uint32_t* out, ptrdiff_t out_stride) {
        for (int j = 0; j < 16; j++)
            for (int g = 0; g < 16; g++) out[g * out_stride + j] = rows[j * stride + g] ^ flip;
    }

    INT_FLASH_INLINE Ints zero_ints() { return splat_int(0); }
    INT_FLASH_INLINE Ints splat_int(int32_t x) { return {vdupq_n_s32(x), vdupq_n_s32(x)}; }
    INT_FLASH_INLINE Ints load_ints(const int32_t* p) { return {vld1q_s32(p), vld1q_s32(p + 4)}; }
    INT_FLASH_INLINE Ints load_words(const uint32_t* p) { return load_ints(reinterpret_cast<const int32_t*>(p)); }
    INT_FLASH_INLINE void store_ints(int32_t* p, Ints x) {
        vst1q_s32(p, x.lo);
        vst1q_s32(p + 4, x.hi);
    }
    INT_FLASH_INLINE Ints spread(const uint32_t* p) {
        int32_t word;
        memcpy(&word, p, 4);
        return splat_int(word);
    }
    INT_FLASH_INLINE int32x4_t dot_half(int32x4_t sum, int32x4_t x, int32x4_t y) {
#ifdef INT_FLASH_NEON_DOT
        return vdotq_s32(sum, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(y));
#else
        const int16x8_t a = vreinterpretq_s16_s32(x), b = vreinterpretq_s16_s32(y);
        return vaddq_s32(sum, vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b)));
#endif
    }
    INT_FLASH_INLINE Ints dot_scores(Ints sum, Ints keys, Ints query) {
        return {dot_half(sum.lo, keys.lo, query.lo), dot_half(sum.hi, keys.hi, query.hi)};
    }
    INT_FLASH_INLINE Ints dot_products(Ints sum, Ints values, Ints weights) { return dot_scores(sum, values, weights); }

    INT_FLASH_INLINE Partial zero_floats() { return {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}; }
    INT_FLASH_INLINE Partial load_floats(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
    INT_FLASH_INLINE void store_floats(float* p, Partial x) {
        vst1q_f32(p, x.lo);
        vst1q_f32(p + 4, x.hi);
    }
    INT_FLASH_INLINE Partial spread_float(const float* p) {
        const float32x4_t v = vld1q_dup_f32(p);
        return {v, v};
    }
    INT_FLASH_INLINE Partial to_floats(Ints x) { return {vcvtq_f32_s32(x.lo), vcvtq_f32_s32(x.hi)}; }
    INT_FLASH_INLINE Partial multiply_add(Partial x, Partial y, Partial z) {
        return {vfmaq_f32(z.lo, x.lo, y.lo), vfmaq_f32(z.hi, x.hi, y.hi)};
    }
    INT_FLASH_INLINE Partial multiply(Partial x, Partial y) { return {vmulq_f32(x.lo, y.lo), vmulq_f32(x.hi, y.hi)}; }
    INT_FLASH_INLINE Partial plus(Partial x, Partial y) { return {vaddq_f32(x.lo, y.lo), vaddq_f32(x.hi, y.hi)}; }
    INT_FLASH_INLINE Partial larger(Partial x, Partial y) { return {vmaxq_f32(x.lo, y.lo), vmaxq_f32(x.hi, y.hi)}; }
    INT_FLASH_INLINE Partial excluded() { return {vdupq_n_f32(-__builtin_inff()), vdupq_n_f32(-__builtin_inff())}; }
    INT_FLASH_INLINE float largest_lane(Partial x) { return vmaxvq_f32(vmaxq_f32(x.lo, x.hi)); }
    INT_FLASH_INLINE void largest_of_four(Partial a, Partial b, Partial c, Partial d, float* out) {
        out[0] = largest_lane(a), out[1] = largest_lane(b), out[2] = largest_lane(c), out[3] = largest_lane(d);
    }

    using Quad = float32x4_t;  // one float for each row of a group
    INT_FLASH_INLINE Quad load_quad(const float* p) { return vld1q_f32(p); }
    INT_FLASH_INLINE void store_quad(float* p, Quad x) { vst1q_f32(p, x); }
    INT_FLASH_INLINE Quad max_quad(Quad x, Quad y) { return vmaxq_f32(x, y); }
    INT_FLASH_INLINE Quad sub_quad(Quad x, Quad y) { return vsubq_f32(x, y); }
    INT_FLASH_INLINE Quad mul_quad(Quad x, Quad y) { return vmulq_f32(x, y); }
    INT_FLASH_INLINE Quad fma_quad(Quad x, Quad y, Quad z) { return vfmaq_f32(z, x, y); }
    INT_FLASH_INLINE Quad exp2_quad(Quad y) { return exp2_quarter(vmaxnmq_f32(y, vdupq_n_f32(-125.0f))); }  // of a NaN 2^-125

    INT_FLASH_INLINE void score_rows(const int8_t* keys, ptrdiff_t stride, int n, const uint32_t* query, int32_t, int dim, const Ahead&,
                                     int32_t* scores) {
        for (int j = 0; j < n; j++) {
            const int8_t* key = keys + j * stride;
            int32x4_t sum = vdupq_n_s32(0), more = sum;
#ifdef INT_FLASH_NEON_DOT
            const int8_t* q = reinterpret_cast<const int8_t*>(query);
            int d = 0;
            for (; d + 16 <= dim; d += 16) sum = vdotq_s32(sum, vld1q_s8(key + d), vld1q_s8(q + d));
            if (d < dim) {  // a head dimension is a multiple of 8
                const int8x8_t none = vdup_n_s8(0);
                more = vdotq_s32(more, vcombine_s8(vld1_s8(key + d), none), vcombine_s8(vld1_s8(q + d), none));
            }
#else
            const int16_t* q = reinterpret_cast<const int16_t*>(query);
            for (int d = 0; d < dim; d += 8) {
                const int16x8_t k16 = vmovl_s8(vld1_s8(key + d)), q16 = vld1q_s16(q + d);
                sum = vmlal_s16(sum, vget_low_s16(k16), vget_low_s16(q16));
                more = vmlal_high_s16(more, k16, q16);
            }
#endif
            scores[j] = vaddvq_s32(vaddq_s32(sum, more));
        }
    }
    INT_FLASH_INLINE int16_t weight_at(const uint32_t* words, int j) {
#ifdef INT_FLASH_NEON_DOT
        return static_cast<int16_t>(reinterpret_cast<const uint8_t*>(words)[j] ^ 0x80);
#else
        return reinterpret_cast<const int16_t*>(words)[j];
#endif
    }
    INT_FLASH_INLINE void weigh_rows(const int8_t* values, ptrdiff_t stride, int n, const uint32_t* weights, int dim, const Ahead&,
                                     int32_t* products) {
        for (int d = 0; d < dim; d += 8) {
            int32x4_t lo = vdupq_n_s32(0), hi = lo;
            for (int j = 0; j < n; j++) {
                const int16x8_t v = vmovl_s8(vld1_s8(values + j * stride + d));
                const int16_t p = weight_at(weights, j);
                lo = vmlal_n_s16(lo, vget_low_s16(v), p);
                hi = vmlal_high_n_s16(hi, v, p);
            }
            vst1q_s32(products + d, lo);
            vst1q_s32(products + d + 4, hi);
        }
    }
    INT_FLASH_INLINE void transpose16(const float* rows, ptrdiff_t stride, int n, int dim, float* out) {
        for (int j = 0; j < 16; j++) {
            const float* row = rows + (j < n ? j : n - 1) * stride;
            for (int d = 0; d < dim; d++) out[d * 16 + j] = row[d];
        }
    }
    static constexpr int kLinearCodeBytes = 1;
    INT_FLASH_INLINE Ints load_linear(const void* p, int vector) {
#ifdef INT_FLASH_NEON_DOT
        return load_words(static_cast<const uint32_t*>(p) + vector * 8);
#else
        const int8x16_t codes = vld1q_s8(static_cast<const int8_t*>(p) + vector * 16);
        return {vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(codes))), vreinterpretq_s32_s16(vmovl_high_s8(codes))};
#endif
    }
};

}  // namespace
}  // namespace int_flash
