// AVX2 + FMA + F16C: two ymm registers hold 16 floats. Codes are widened to 16 bits and multiplied by vpmaddwd, which cannot
// saturate on them; with INT_FLASH_AVX_VNNI codes stay in 8 bits and go through vpdpbusd (the VEX form, for CPUs without AVX-512).
#pragma once
#include <stddef.h>

#include "avx2_weights.h"
#include "quad_x86.h"

namespace int_flash {
namespace {

struct Simd : QuadX86, Avx2Weights {
#ifdef INT_FLASH_AVX_VNNI
    static constexpr const char* kName = "avx-vnni";
    static constexpr int kGranule = 4;
    static constexpr uint32_t kKeyFlip = 0x80808080u;  // s8 + 128 as u8; vpdpbusd wants one unsigned operand
    static constexpr bool kOffsetScores = true;
#else
    static constexpr const char* kName = "avx2";
    static constexpr int kGranule = 2;
    static constexpr uint32_t kKeyFlip = 0;
    static constexpr bool kOffsetScores = false;
#endif
    static constexpr int kLanes = 8, kVectors = 2;
    static constexpr uint32_t kValueFlip = 0;
    static constexpr bool kOffsetProducts = false;
    static constexpr int kWideLoad = 32;
    static constexpr int kRowsAtOnce = 1;
    static constexpr bool kHandScheduled = false;

    struct Floats {
        __m256 lo, hi;
    };
    using Ints = __m256i;
    using Partial = __m256;

    INT_FLASH_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    INT_FLASH_INLINE __m256 widen_bfloat16(const uint16_t* p) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
    }
    INT_FLASH_INLINE Floats load_bfloat16(const uint16_t* p) { return {widen_bfloat16(p), widen_bfloat16(p + 8)}; }
    INT_FLASH_INLINE void store(float* p, Floats a) {
        _mm256_storeu_ps(p, a.lo);
        _mm256_storeu_ps(p + 8, a.hi);
    }
    INT_FLASH_INLINE Floats splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    INT_FLASH_INLINE Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
    INT_FLASH_INLINE Floats sub(Floats a, Floats b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
    INT_FLASH_INLINE Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
    INT_FLASH_INLINE Floats div(Floats a, Floats b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
    INT_FLASH_INLINE Floats fma(Floats a, Floats b, Floats c) {
        return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
    }
    INT_FLASH_INLINE Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
    INT_FLASH_INLINE Floats abs(Floats a) {
        const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
        return {_mm256_and_ps(a.lo, mask), _mm256_and_ps(a.hi, mask)};
    }
    INT_FLASH_INLINE Floats from_ints(const int32_t* p) {
        return {_mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))),
                _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8)))};
    }
    INT_FLASH_INLINE __m256 exp2_half(__m256 y) {
        y = _mm256_max_ps(y, _mm256_set1_ps(-125.0f));
        const __m256 magic = _mm256_set1_ps(kRoundMagic);
        const __m256 shifted = _mm256_add_ps(y, magic);
        const __m256 f = _mm256_sub_ps(y, _mm256_sub_ps(shifted, magic));
        __m256 p = _mm256_fmadd_ps(constant(kExp2C4), f, constant(kExp2C3));
        p = _mm256_fmadd_ps(p, f, constant(kExp2C2));
        p = _mm256_fmadd_ps(p, f, constant(kExp2C1));
        p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
        const __m256i power = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
        return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), power));
    }
    INT_FLASH_INLINE __m256 constant(uint32_t bits) { return _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(bits))); }
    INT_FLASH_INLINE Floats exp2(Floats y) { return {exp2_half(y.lo), exp2_half(y.hi)}; }
    INT_FLASH_INLINE float largest(Floats a) {
        const __m256 m = _mm256_max_ps(a.lo, a.hi);
        __m128 x = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
        x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
    }
    INT_FLASH_INLINE float fold(Floats a) {
        const __m256 s = _mm256_add_ps(a.lo, a.hi);
        __m128 x = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
        x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
    }
    INT_FLASH_INLINE Floats keep(Floats a, int begin, int end, Floats b) {
        const __m256i low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        const __m256i high = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
        return {keep_half(a.lo, low, begin, end, b.lo), keep_half(a.hi, high, begin, end, b.hi)};
    }
    INT_FLASH_INLINE __m256 keep_half(__m256 a, __m256i lane, int begin, int end, __m256 b) {
        const __m256i inside = _mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(begin - 1)),
                                                _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
        return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(inside));
    }
    INT_FLASH_INLINE Floats zero_excluded(Floats a, Floats x) {
        const __m256 excluded = _mm256_set1_ps(-__builtin_inff());
        return {_mm256_andnot_ps(_mm256_cmp_ps(x.lo, excluded, _CMP_EQ_OQ), a.lo),
                _mm256_andnot_ps(_mm256_cmp_ps(x.hi, excluded, _CMP_EQ_OQ), a.hi)};
    }
    INT_FLASH_INLINE __m256i to_16_bit(__m256i lo, __m256i hi) {
        return _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xd8);  // undo the interleaving of 128-bit halves
    }
    INT_FLASH_INLINE void store_codes(int8_t* p, Floats a) {
        const __m256i wide = to_16_bit(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
        const __m128i codes = _mm_packs_epi16(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes);
    }
    INT_FLASH_INLINE __m256i weight_codes(__m256 p, __m256 levels) {
        const __m256 code = _mm256_fmadd_ps(p, levels, _mm256_set1_ps(kRoundMagic));  // in the low bits
        return _mm256_sub_epi32(_mm256_castps_si256(code), _mm256_castps_si256(_mm256_set1_ps(kRoundMagic)));
    }
    INT_FLASH_INLINE void store_weights(uint32_t* words, Floats p, Floats levels) {
        const __m256i wide = to_16_bit(weight_codes(p.lo, levels.lo), weight_codes(p.hi, levels.hi));
#ifdef INT_FLASH_AVX_VNNI
        const __m128i codes = _mm_packus_epi16(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(words), codes);
#else
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), wide);
#endif
    }
    INT_FLASH_INLINE void store_zero_weights(uint32_t* words) { memset(words, 0, 16 / kGranule * 4); }
    INT_FLASH_INLINE void widen(uint32_t* words, const int8_t* codes) {
        const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
#ifdef INT_FLASH_AVX_VNNI
        _mm_storeu_si128(reinterpret_cast<__m128i*>(words), narrow);
#else
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), _mm256_cvtepi8_epi16(narrow));
#endif
    }

    INT_FLASH_INLINE void interleave(const int8_t* codes, ptrdiff_t stride, uint32_t* words) {
#ifdef INT_FLASH_AVX_VNNI
        interleave_four(codes, stride, words);
#else
        const __m256i a = load_16_codes(codes), b = load_16_codes(codes + stride);
        const __m256i lo = _mm256_unpacklo_epi16(a, b), hi = _mm256_unpackhi_epi16(a, b);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), _mm256_permute2x128_si256(lo, hi, 0x20));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words) + 1, _mm256_permute2x128_si256(lo, hi, 0x31));
#endif
    }

    INT_FLASH_INLINE Ints zero_ints() { return _mm256_setzero_si256(); }
    INT_FLASH_INLINE Ints splat_int(int32_t x) { return _mm256_set1_epi32(x); }
    INT_FLASH_INLINE Ints load_words(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    INT_FLASH_INLINE Ints load_ints(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    INT_FLASH_INLINE void store_ints(int32_t* p, Ints a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
    INT_FLASH_INLINE Ints spread(const uint32_t* p) {
        int32_t word;
        memcpy(&word, p, 4);
        return _mm256_set1_epi32(word);
    }
    INT_FLASH_INLINE Ints dot_scores(Ints sum, Ints keys, Ints query) {
#ifdef INT_FLASH_AVX_VNNI
        return _mm256_dpbusd_avx_epi32(sum, keys, query);
#else
        return _mm256_add_epi32(sum, _mm256_madd_epi16(keys, query));
#endif
    }
    INT_FLASH_INLINE Ints dot_products(Ints sum, Ints values, Ints weights) {
#ifdef INT_FLASH_AVX_VNNI
        return _mm256_dpbusd_avx_epi32(sum, weights, values);
#else
        return _mm256_add_epi32(sum, _mm256_madd_epi16(values, weights));
#endif
    }

    INT_FLASH_INLINE Partial zero_floats() { return _mm256_setzero_ps(); }
    INT_FLASH_INLINE Partial load_floats(const float* p) { return _mm256_loadu_ps(p); }
    INT_FLASH_INLINE void store_floats(float* p, Partial a) { _mm256_storeu_ps(p, a); }
    INT_FLASH_INLINE Partial spread_float(const float* p) { return _mm256_broadcast_ss(p); }
    INT_FLASH_INLINE Partial to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }
    INT_FLASH_INLINE Partial multiply_add(Partial a, Partial b, Partial c) { return _mm256_fmadd_ps(a, b, c); }
    INT_FLASH_INLINE Partial multiply(Partial a, Partial b) { return _mm256_mul_ps(a, b); }
    INT_FLASH_INLINE Partial plus(Partial a, Partial b) { return _mm256_add_ps(a, b); }
    INT_FLASH_INLINE Partial larger(Partial a, Partial b) { return _mm256_max_ps(a, b); }
    INT_FLASH_INLINE Partial excluded() { return _mm256_set1_ps(-__builtin_inff()); }
    INT_FLASH_INLINE void largest_of_four(Partial a, Partial b, Partial c, Partial d, float* out) {
        out[0] = largest({a, a}), out[1] = largest({b, b}), out[2] = largest({c, c}), out[3] = largest({d, d});
    }

    INT_FLASH_INLINE __m128i sums_of_four(__m256i a, __m256i b, __m256i c, __m256i d) {
        const __m256i quads = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        return _mm_add_epi32(_mm256_castsi256_si128(quads), _mm256_extracti128_si256(quads, 1));
    }

#ifdef INT_FLASH_AVX_VNNI
    // 32 codes of a row, or the 8, 16 or 24 of `mask`, zeros behind.
    template <bool kWhole>
    INT_FLASH_INLINE __m256i load_codes(const int8_t* p, __m256i mask) {
        if constexpr (kWhole) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return _mm256_maskload_epi32(reinterpret_cast<const int*>(p), mask);
    }
    INT_FLASH_INLINE __m256i first_codes(int count) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(count / 4), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
    template <bool kWhole>
    INT_FLASH_INLINE void score_all(const int8_t* keys, ptrdiff_t stride, int n, const uint32_t* query, int32_t start, int dim, const Ahead& soon, int32_t* scores) {
        const __m256i flip = _mm256_set1_epi32(static_cast<int>(kKeyFlip));
        for (int j = 0; j < n; j += 4) {
            soon.fetch(j, 4);
            const int8_t* k0 = keys + j * stride;
            const int8_t* k1 = j + 1 < n ? k0 + stride : k0;
            const int8_t* k2 = j + 2 < n ? k1 + stride : k0;
            const int8_t* k3 = j + 3 < n ? k2 + stride : k0;
            __m256i s0 = zero_ints(), s1 = s0, s2 = s0, s3 = s0;
            for (int d = 0; d < dim; d += 32) {
                const __m256i q = load_words(query + d / 4);
                const __m256i mask = first_codes(dim - d);
                s0 = _mm256_dpbusd_avx_epi32(s0, _mm256_xor_si256(load_codes<kWhole>(k0 + d, mask), flip), q);
                s1 = _mm256_dpbusd_avx_epi32(s1, _mm256_xor_si256(load_codes<kWhole>(k1 + d, mask), flip), q);
                s2 = _mm256_dpbusd_avx_epi32(s2, _mm256_xor_si256(load_codes<kWhole>(k2 + d, mask), flip), q);
                s3 = _mm256_dpbusd_avx_epi32(s3, _mm256_xor_si256(load_codes<kWhole>(k3 + d, mask), flip), q);
            }
            const __m128i sums = _mm_add_epi32(sums_of_four(s0, s1, s2, s3), _mm_set1_epi32(start));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(scores + j), sums);
        }
    }
    INT_FLASH_INLINE void score_rows(const int8_t* keys, ptrdiff_t stride, int n, const uint32_t* query, int32_t start, int dim, const Ahead& soon,
                                     int32_t* scores) {
        if (dim % 32 == 0) return score_all<true>(keys, stride, n, query, start, dim, soon, scores);
        score_all<false>(keys, stride, n, query, start, dim, soon, scores);
    }
    template <bool kWhole>
    INT_FLASH_INLINE void weigh_32(const int8_t* values, ptrdiff_t stride, int n, const uint32_t* weights, __m256i mask, const Ahead& soon, int32_t* products) {
        __m256i c0 = zero_ints(), c1 = c0, c2 = c0, c3 = c0;
        for (int j = 0; j < n; j += 4) {
            soon.fetch(j, 4);
            const int8_t* v0 = values + j * stride;
            const int8_t* v1 = j + 1 < n ? v0 + stride : v0;
            const int8_t* v2 = j + 2 < n ? v1 + stride : v0;
            const int8_t* v3 = j + 3 < n ? v2 + stride : v0;
            const __m256i r0 = load_codes<kWhole>(v0, mask), r1 = load_codes<kWhole>(v1, mask);
            const __m256i r2 = load_codes<kWhole>(v2, mask), r3 = load_codes<kWhole>(v3, mask);
            const __m256i p = spread(weights + j / 4);
            const __m256i lo01 = _mm256_unpacklo_epi8(r0, r1), hi01 = _mm256_unpackhi_epi8(r0, r1);
            const __m256i lo23 = _mm256_unpacklo_epi8(r2, r3), hi23 = _mm256_unpackhi_epi8(r2, r3);
            c0 = _mm256_dpbusd_avx_epi32(c0, p, _mm256_unpacklo_epi16(lo01, lo23));
            c1 = _mm256_dpbusd_avx_epi32(c1, p, _mm256_unpackhi_epi16(lo01, lo23));
            c2 = _mm256_dpbusd_avx_epi32(c2, p, _mm256_unpacklo_epi16(hi01, hi23));
            c3 = _mm256_dpbusd_avx_epi32(c3, p, _mm256_unpackhi_epi16(hi01, hi23));
        }
        // 128-bit half h of c_i holds channels 16 h + 4 i onwards.
        store_ints(products, _mm256_permute2x128_si256(c0, c1, 0x20));
        store_ints(products + 8, _mm256_permute2x128_si256(c2, c3, 0x20));
        store_ints(products + 16, _mm256_permute2x128_si256(c0, c1, 0x31));
        store_ints(products + 24, _mm256_permute2x128_si256(c2, c3, 0x31));
    }
    INT_FLASH_INLINE void weigh_rows(const int8_t* values, ptrdiff_t stride, int n, const uint32_t* weights, int dim, const Ahead& soon,
                                     int32_t* products) {
        for (int d = 0; d < dim; d += 32) {
            const Ahead now = d == 0 ? soon : Ahead{};
            if (dim - d >= 32) weigh_32<true>(values + d, stride, n, weights, _mm256_setzero_si256(), now, products + d);
            else weigh_32<false>(values + d, stride, n, weights, first_codes(dim - d), now, products + d);
        }
    }
    static constexpr int kLinearCodeBytes = 1;
    // Of bytes with two codes each: the low ones, the high ones.
    INT_FLASH_INLINE Ints low_nibbles(Ints a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
    INT_FLASH_INLINE Ints high_nibbles(Ints a) { return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(15)); }
    INT_FLASH_INLINE Ints plus(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
    INT_FLASH_INLINE Ints load_linear(const void* p, int vector) { return load_words(static_cast<const uint32_t*>(p) + vector * 8); }
#else
    INT_FLASH_INLINE __m256i load_16_codes(const int8_t* p) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    INT_FLASH_INLINE __m256i load_8_codes(const int8_t* p) {
        return _mm256_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    }
    INT_FLASH_INLINE void score_rows(const int8_t* keys, ptrdiff_t stride, int n, const uint32_t* query, int32_t, int dim, const Ahead& soon,
                                     int32_t* scores) {
        const int whole = dim & ~15;
        for (int j = 0; j < n; j += 4) {
            soon.fetch(j, 4);
            const int8_t* k0 = keys + j * stride;
            const int8_t* k1 = j + 1 < n ? k0 + stride : k0;
            const int8_t* k2 = j + 2 < n ? k1 + stride : k0;
            const int8_t* k3 = j + 3 < n ? k2 + stride : k0;
            __m256i s0 = zero_ints(), s1 = s0, s2 = s0, s3 = s0;
            for (int d = 0; d < whole; d += 16) {
                const __m256i q = load_words(query + d / 2);
                s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(load_16_codes(k0 + d), q));
                s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(load_16_codes(k1 + d), q));
                s2 = _mm256_add_epi32(s2, _mm256_madd_epi16(load_16_codes(k2 + d), q));
                s3 = _mm256_add_epi32(s3, _mm256_madd_epi16(load_16_codes(k3 + d), q));
            }
            if (whole < dim) {
                const __m256i q = load_words(query + whole / 2);
                s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(load_8_codes(k0 + whole), q));
                s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(load_8_codes(k1 + whole), q));
                s2 = _mm256_add_epi32(s2, _mm256_madd_epi16(load_8_codes(k2 + whole), q));
                s3 = _mm256_add_epi32(s3, _mm256_madd_epi16(load_8_codes(k3 + whole), q));
            }
            _mm_storeu_si128(reinterpret_cast<__m128i*>(scores + j), sums_of_four(s0, s1, s2, s3));
        }
    }
    INT_FLASH_INLINE void weigh_16(__m128i r0, __m128i r1, __m256i p, __m256i* c0, __m256i* c1) {
        *c0 = _mm256_add_epi32(*c0, _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(r0, r1)), p));
        *c1 = _mm256_add_epi32(*c1, _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm_unpackhi_epi8(r0, r1)), p));
    }
    INT_FLASH_INLINE __m128i load_128(const int8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
    INT_FLASH_INLINE void weigh_rows(const int8_t* values, ptrdiff_t stride, int n, const uint32_t* weights, int dim, const Ahead& soon,
                                     int32_t* products) {
        int d = 0;
        for (; d + 64 <= dim; d += 64) {
            __m256i c0 = zero_ints(), c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0;
            for (int j = 0; j < n; j += 2) {
                if (d == 0) soon.fetch(j, 2);
                const int8_t* v0 = values + j * stride + d;
                const int8_t* v1 = j + 1 < n ? v0 + stride : v0;
                const __m256i p = spread(weights + j / 2);
                weigh_16(load_128(v0), load_128(v1), p, &c0, &c1);
                weigh_16(load_128(v0 + 16), load_128(v1 + 16), p, &c2, &c3);
                weigh_16(load_128(v0 + 32), load_128(v1 + 32), p, &c4, &c5);
                weigh_16(load_128(v0 + 48), load_128(v1 + 48), p, &c6, &c7);
            }
            store_ints(products + d, c0);
            store_ints(products + d + 8, c1);
            store_ints(products + d + 16, c2);
            store_ints(products + d + 24, c3);
            store_ints(products + d + 32, c4);
            store_ints(products + d + 40, c5);
            store_ints(products + d + 48, c6);
            store_ints(products + d + 56, c7);
        }
        for (; d < dim; d += 8) {
            __m256i c = zero_ints();
            for (int j = 0; j < n; j += 2) {
                if (d == 0) soon.fetch(j, 2);
                const int8_t* v0 = values + j * stride + d;
                const int8_t* v1 = j + 1 < n ? v0 + stride : v0;
                const __m128i r0 = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(v0));
                const __m128i r1 = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(v1));
                const __m256i pairs = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(r0, r1));
                c = _mm256_add_epi32(c, _mm256_madd_epi16(pairs, spread(weights + j / 2)));
            }
            store_ints(products + d, c);
        }
    }
    static constexpr int kLinearCodeBytes = 1;
    INT_FLASH_INLINE Ints load_linear(const void* p, int vector) { return load_16_codes(static_cast<const int8_t*>(p) + vector * 16); }
#endif

    INT_FLASH_INLINE void transpose8(const float* const row[8], int d, float* out) {
        const __m256 r0 = _mm256_loadu_ps(row[0] + d), r1 = _mm256_loadu_ps(row[1] + d), r2 = _mm256_loadu_ps(row[2] + d);
        const __m256 r3 = _mm256_loadu_ps(row[3] + d), r4 = _mm256_loadu_ps(row[4] + d), r5 = _mm256_loadu_ps(row[5] + d);
        const __m256 r6 = _mm256_loadu_ps(row[6] + d), r7 = _mm256_loadu_ps(row[7] + d);
        const __m256 a0 = _mm256_unpacklo_ps(r0, r1), a1 = _mm256_unpackhi_ps(r0, r1), a2 = _mm256_unpacklo_ps(r2, r3);
        const __m256 a3 = _mm256_unpackhi_ps(r2, r3), a4 = _mm256_unpacklo_ps(r4, r5), a5 = _mm256_unpackhi_ps(r4, r5);
        const __m256 a6 = _mm256_unpacklo_ps(r6, r7), a7 = _mm256_unpackhi_ps(r6, r7);
        const __m256 b0 = _mm256_shuffle_ps(a0, a2, 0x44), b1 = _mm256_shuffle_ps(a0, a2, 0xee);
        const __m256 b2 = _mm256_shuffle_ps(a1, a3, 0x44), b3 = _mm256_shuffle_ps(a1, a3, 0xee);
        const __m256 b4 = _mm256_shuffle_ps(a4, a6, 0x44), b5 = _mm256_shuffle_ps(a4, a6, 0xee);
        const __m256 b6 = _mm256_shuffle_ps(a5, a7, 0x44), b7 = _mm256_shuffle_ps(a5, a7, 0xee);
        _mm256_storeu_ps(out, _mm256_permute2f128_ps(b0, b4, 0x20));
        _mm256_storeu_ps(out + 16, _mm256_permute2f128_ps(b1, b5, 0x20));
        _mm256_storeu_ps(out + 32, _mm256_permute2f128_ps(b2, b6, 0x20));
        _mm256_storeu_ps(out + 48, _mm256_permute2f128_ps(b3, b7, 0x20));
        _mm256_storeu_ps(out + 64, _mm256_permute2f128_ps(b0, b4, 0x31));
        _mm256_storeu_ps(out + 80, _mm256_permute2f128_ps(b1, b5, 0x31));
        _mm256_storeu_ps(out + 96, _mm256_permute2f128_ps(b2, b6, 0x31));
        _mm256_storeu_ps(out + 112, _mm256_permute2f128_ps(b3, b7, 0x31));
    }
    INT_FLASH_INLINE void transpose16(const float* rows, ptrdiff_t stride, int n, int dim, float* out) {
        for (int half = 0; half < 16; half += 8) {
            const float* row[8];
            for (int j = 0; j < 8; j++) row[j] = rows + (half + j < n ? half + j : n - 1) * stride;
            for (int d = 0; d < dim; d += 8) transpose8(row, d, out + d * 16 + half);
        }
    }
};

}  // namespace
}  // namespace int_flash
