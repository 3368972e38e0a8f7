// AVX-512 (F, BW, DQ, VL) with VNNI: one zmm register holds 16 floats. K is stored as u8 (code + 128) for vpdpbusd, and a score starts
// at -128 * sum(q), which takes the offset out again exactly; P is unsigned as it is.
#pragma once
#include <stddef.h>

#include "avx512_beside.h"
#include "avx512_exponents.h"
#include "avx512_rows.h"
#include "avx512_weights.h"
#include "quad_x86.h"

namespace int_flash {
namespace {

struct Simd : QuadX86, Avx512Rows, Avx512Weights, Avx512Exponents, Avx512Beside {
    static constexpr const char* kName = "avx512-vnni";
    static constexpr int kLanes = 16, kVectors = 4;
    static constexpr int kGranule = 4;
    static constexpr uint32_t kKeyFlip = 0x80808080u;
    static constexpr uint32_t kValueFlip = 0;
    static constexpr bool kOffsetScores = true;
    static constexpr bool kOffsetProducts = false;
    static constexpr int kWideLoad = 64;
    static constexpr int kRowsAtOnce = 4;
    static constexpr bool kHandScheduled = true;

    using Floats = __m512;
    using Ints = __m512i;
    using Partial = __m512;

    INT_FLASH_INLINE Floats load(const float* p) { return _mm512_loadu_ps(p); }
    INT_FLASH_INLINE Floats load_bfloat16(const uint16_t* p) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
    }
    INT_FLASH_INLINE void store(float* p, Floats a) { _mm512_storeu_ps(p, a); }
    INT_FLASH_INLINE Floats splat(float x) { return _mm512_set1_ps(x); }
    INT_FLASH_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
    INT_FLASH_INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
    INT_FLASH_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    INT_FLASH_INLINE Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
    INT_FLASH_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    INT_FLASH_INLINE Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
    INT_FLASH_INLINE Floats abs(Floats a) { return _mm512_abs_ps(a); }
    INT_FLASH_INLINE Floats from_ints(const int32_t* p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
    INT_FLASH_INLINE __m512 constant(uint32_t bits) { return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(bits))); }
    INT_FLASH_INLINE Floats scale_by_power(Floats p, Floats shifted) {
        const __m512i power = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
        return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), power));
    }
    // 2^f of four fractions. Step by step for all four: one value's steps wait for one another, and the CPU does not look far enough ahead to fill the gaps.
    INT_FLASH_INLINE void power_of_fractions(Floats& f0, Floats& f1, Floats& f2, Floats& f3) {
        const __m512 c4 = constant(kExp2C4), c3 = constant(kExp2C3), c2 = constant(kExp2C2), c1 = constant(kExp2C1), one = _mm512_set1_ps(1.0f);
        __m512 p0 = fma(c4, f0, c3), p1 = fma(c4, f1, c3), p2 = fma(c4, f2, c3), p3 = fma(c4, f3, c3);
        p0 = fma(p0, f0, c2), p1 = fma(p1, f1, c2), p2 = fma(p2, f2, c2), p3 = fma(p3, f3, c2);
        p0 = fma(p0, f0, c1), p1 = fma(p1, f1, c1), p2 = fma(p2, f2, c1), p3 = fma(p3, f3, c1);
        f0 = fma(p0, f0, one), f1 = fma(p1, f1, one), f2 = fma(p2, f2, one), f3 = fma(p3, f3, one);
    }
#if defined(INT_FLASH_AMX)
    // On the CPUs that have AMX two units run vmaxps, and in one instruction each what splits a number and what scales by a power of two.
    INT_FLASH_INLINE Floats clamp_exponent(Floats y) { return _mm512_max_ps(y, constant(kLowestExponentBits)); }
    // y less the nearest integer, or the even one of two; exact.
    INT_FLASH_INLINE Floats fraction(Floats y) { return _mm512_reduce_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    INT_FLASH_INLINE void exp2_four(Floats* y) {
        const __m512 y0 = clamp_exponent(y[0]), y1 = clamp_exponent(y[1]), y2 = clamp_exponent(y[2]), y3 = clamp_exponent(y[3]);
        __m512 f0 = fraction(y0), f1 = fraction(y1), f2 = fraction(y2), f3 = fraction(y3);
        const __m512 n0 = sub(y0, f0), n1 = sub(y1, f1), n2 = sub(y2, f2), n3 = sub(y3, f3);
        power_of_fractions(f0, f1, f2, f3);
        y[0] = _mm512_scalef_ps(f0, n0), y[1] = _mm512_scalef_ps(f1, n1), y[2] = _mm512_scalef_ps(f2, n2), y[3] = _mm512_scalef_ps(f3, n3);
    }
#else
    // y <= 0. As integers, negative floats grow away from 0: an unsigned minimum is max(y, -125) and leaves +0 alone. Unlike vmaxps it
    // runs on any vector unit; those for additions have enough to do here.
    INT_FLASH_INLINE Floats clamp_exponent(Floats y) {
        return _mm512_castsi512_ps(_mm512_min_epu32(_mm512_castps_si512(y), _mm512_set1_epi32(static_cast<int>(kLowestExponentBits))));
    }
    INT_FLASH_INLINE void exp2_four(Floats* y) {
        const __m512 magic = _mm512_set1_ps(kRoundMagic);
        const __m512 y0 = clamp_exponent(y[0]), y1 = clamp_exponent(y[1]), y2 = clamp_exponent(y[2]), y3 = clamp_exponent(y[3]);
        const __m512 s0 = add(y0, magic), s1 = add(y1, magic), s2 = add(y2, magic), s3 = add(y3, magic);
        const __m512 n0 = sub(s0, magic), n1 = sub(s1, magic), n2 = sub(s2, magic), n3 = sub(s3, magic);
        __m512 f0 = sub(y0, n0), f1 = sub(y1, n1), f2 = sub(y2, n2), f3 = sub(y3, n3);
        power_of_fractions(f0, f1, f2, f3);
        y[0] = scale_by_power(f0, s0), y[1] = scale_by_power(f1, s1), y[2] = scale_by_power(f2, s2), y[3] = scale_by_power(f3, s3);
    }
#endif
    INT_FLASH_INLINE Floats exp2(Floats y) {
        y = clamp_exponent(y);
        const __m512 magic = _mm512_set1_ps(kRoundMagic);
        const __m512 shifted = _mm512_add_ps(y, magic);
        const __m512 f = _mm512_sub_ps(y, _mm512_sub_ps(shifted, magic));
        __m512 p = _mm512_fmadd_ps(constant(kExp2C4), f, constant(kExp2C3));
        p = _mm512_fmadd_ps(p, f, constant(kExp2C2));
        p = _mm512_fmadd_ps(p, f, constant(kExp2C1));
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
        return scale_by_power(p, shifted);
    }
    INT_FLASH_INLINE float largest(Floats a) {
        const __m256 m = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
        __m128 x = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
        x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
    }
    INT_FLASH_INLINE float fold(Floats a) {
        const __m256 s = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
        __m128 x = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
        x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
    }
    // Bits [begin, end), cut to [0, 16).
    INT_FLASH_INLINE __mmask16 lanes(int begin, int end) {
        const uint32_t from = begin <= 0 ? 0xffffu : begin >= 16 ? 0u : 0xffffu << begin;
        const uint32_t to = end >= 16 ? 0xffffu : end <= 0 ? 0u : (1u << end) - 1u;
        return static_cast<__mmask16>(from & to);
    }
    INT_FLASH_INLINE Floats keep(Floats a, int begin, int end, Floats b) { return _mm512_mask_blend_ps(lanes(begin, end), b, a); }
    // -Infinity outside the lanes [begin, begin + count): keep() without a branch, for a register among others.
    INT_FLASH_INLINE Floats only_lanes(Floats a, int begin, int count) {
        const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        return _mm512_mask_blend_ps(_mm512_cmplt_epu32_mask(_mm512_sub_epi32(lane, _mm512_set1_epi32(begin)), _mm512_set1_epi32(count)), excluded(), a);
    }
    INT_FLASH_INLINE Floats zero_excluded(Floats a, Floats x) {
        const __mmask16 included = _mm512_cmpneq_epi32_mask(_mm512_castps_si512(x), _mm512_set1_epi32(static_cast<int>(0xff800000u)));
        return _mm512_maskz_mov_ps(included, a);
    }
    INT_FLASH_INLINE void store_codes(int8_t* p, Floats a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
    }
    INT_FLASH_INLINE void store_weights(uint32_t* words, Floats p, Floats levels) {
        const __m512 code = _mm512_fmadd_ps(p, levels, _mm512_set1_ps(kRoundMagic));  // in the low bits
        _mm_storeu_si128(reinterpret_cast<__m128i*>(words), _mm512_cvtepi32_epi8(_mm512_castps_si512(code)));
    }
    INT_FLASH_INLINE void store_zero_weights(uint32_t* words) { memset(words, 0, 16); }
    INT_FLASH_INLINE void widen(uint32_t* words, const int8_t* codes) { memcpy(words, codes, 16); }

    INT_FLASH_INLINE void interleave(const int8_t* codes, ptrdiff_t stride, uint32_t* words) { interleave_four(codes, stride, words); }

    INT_FLASH_INLINE Ints zero_ints() { return _mm512_setzero_si512(); }
    INT_FLASH_INLINE Ints splat_int(int32_t x) { return _mm512_set1_epi32(x); }
    INT_FLASH_INLINE Ints load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
    INT_FLASH_INLINE Ints load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
    INT_FLASH_INLINE void store_ints(int32_t* p, Ints a) { _mm512_storeu_si512(p, a); }
    INT_FLASH_INLINE Ints spread(const uint32_t* p) {
        int32_t word;
        memcpy(&word, p, 4);
        return _mm512_set1_epi32(word);
    }
    INT_FLASH_INLINE Ints dot_scores(Ints sum, Ints keys, Ints query) { return dot(sum, keys, query); }
    INT_FLASH_INLINE Ints dot_products(Ints sum, Ints values, Ints weights) { return dot(sum, weights, values); }

    INT_FLASH_INLINE Partial zero_floats() { return _mm512_setzero_ps(); }
    INT_FLASH_INLINE Partial load_floats(const float* p) { return _mm512_loadu_ps(p); }
    INT_FLASH_INLINE void store_floats(float* p, Partial a) { _mm512_storeu_ps(p, a); }
    INT_FLASH_INLINE Partial spread_float(const float* p) { return _mm512_set1_ps(*p); }
    INT_FLASH_INLINE Partial to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
    INT_FLASH_INLINE Partial multiply_add(Partial a, Partial b, Partial c) { return _mm512_fmadd_ps(a, b, c); }
    INT_FLASH_INLINE Partial multiply(Partial a, Partial b) { return _mm512_mul_ps(a, b); }
    INT_FLASH_INLINE Partial plus(Partial a, Partial b) { return _mm512_add_ps(a, b); }
    INT_FLASH_INLINE Partial larger(Partial a, Partial b) { return _mm512_max_ps(a, b); }
    INT_FLASH_INLINE Partial excluded() { return _mm512_set1_ps(-__builtin_inff()); }

    // largest() and fold() of four rows: lanes l and l + 8 of each meet first, then l and l + 4, …
    template <class F>
    INT_FLASH_INLINE void reduce_four(Floats a, Floats b, Floats c, Floats d, float* out, F join) {
        const __m512 ab = join(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
        const __m512 cd = join(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
        __m512 x = join(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
        x = join(x, _mm512_permute_ps(x, 0x4e));
        x = join(x, _mm512_permute_ps(x, 0xb1));
        const __m512i first_of_quarter = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
        _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_quarter, x)));
    }
    INT_FLASH_INLINE void largest_of_four(Floats a, Floats b, Floats c, Floats d, float* out) {
        reduce_four(a, b, c, d, out, [](Floats x, Floats y) INT_FLASH_LAMBDA { return _mm512_max_ps(x, y); });
    }
    INT_FLASH_INLINE void fold_four(Floats a, Floats b, Floats c, Floats d, float* out) {
        reduce_four(a, b, c, d, out, [](Floats x, Floats y) INT_FLASH_LAMBDA { return _mm512_add_ps(x, y); });
    }

    // Of bytes with two codes each: the low ones, the high ones.
    INT_FLASH_INLINE Ints low_nibbles(Ints a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
    INT_FLASH_INLINE Ints high_nibbles(Ints a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
    INT_FLASH_INLINE Ints plus(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
    INT_FLASH_INLINE Ints load_linear(const void* p, int vector) { return load_words(static_cast<const uint32_t*>(p) + vector * 16); }

    // 16 keys side by side, four rows and four columns at a time.
    INT_FLASH_INLINE void transpose16(const float* rows, ptrdiff_t stride, int n, int dim, float* out) {
        for (int j = 0; j < 16; j += 4) {
            const auto row = [&](int i) INT_FLASH_LAMBDA { return rows + (j + i < n ? j + i : n - 1) * stride; };
            const float *r0 = row(0), *r1 = row(1), *r2 = row(2), *r3 = row(3);
            for (int d = 0; d < dim; d += 4) {
                __m128 a = _mm_loadu_ps(r0 + d), b = _mm_loadu_ps(r1 + d), c = _mm_loadu_ps(r2 + d), e = _mm_loadu_ps(r3 + d);
                _MM_TRANSPOSE4_PS(a, b, c, e);
                _mm_storeu_ps(out + d * 16 + j, a);
                _mm_storeu_ps(out + d * 16 + 16 + j, b);
                _mm_storeu_ps(out + d * 16 + 32 + j, c);
                _mm_storeu_ps(out + d * 16 + 48 + j, e);
            }
        }
    }
};

}  // namespace
}  // namespace int_flash
