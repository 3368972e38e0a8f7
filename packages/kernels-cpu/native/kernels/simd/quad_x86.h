// Four floats, one for each row of a group: the running state of the softmax. AVX2 and AVX-512 have them in common.
#pragma once
#include <immintrin.h>

#include "../../arithmetic.h"

namespace int_flash {
namespace {

struct QuadX86 {
    using Quad = __m128;

    INT_FLASH_INLINE Quad load_quad(const float* p) { return _mm_loadu_ps(p); }
    INT_FLASH_INLINE void store_quad(float* p, Quad a) { _mm_storeu_ps(p, a); }
    INT_FLASH_INLINE Quad max_quad(Quad a, Quad b) { return _mm_max_ps(a, b); }
    INT_FLASH_INLINE Quad sub_quad(Quad a, Quad b) { return _mm_sub_ps(a, b); }
    INT_FLASH_INLINE Quad mul_quad(Quad a, Quad b) { return _mm_mul_ps(a, b); }
    INT_FLASH_INLINE Quad fma_quad(Quad a, Quad b, Quad c) { return _mm_fmadd_ps(a, b, c); }
    // 16 channels of four rows of codes, `stride` apart, to a word a channel.
    INT_FLASH_INLINE void interleave_four(const int8_t* codes, ptrdiff_t stride, uint32_t* words) {
        const auto row = [=](int i) INT_FLASH_LAMBDA { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i * stride)); };
        const __m128i r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3);
        const __m128i lo01 = _mm_unpacklo_epi8(r0, r1), hi01 = _mm_unpackhi_epi8(r0, r1);
        const __m128i lo23 = _mm_unpacklo_epi8(r2, r3), hi23 = _mm_unpackhi_epi8(r2, r3);
        __m128i* out = reinterpret_cast<__m128i*>(words);
        _mm_storeu_si128(out, _mm_unpacklo_epi16(lo01, lo23));
        _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(lo01, lo23));
        _mm_storeu_si128(out + 2, _mm_unpacklo_epi16(hi01, hi23));
        _mm_storeu_si128(out + 3, _mm_unpackhi_epi16(hi01, hi23));
    }
    // 16 words of 16 rows, `stride` apart, to 16 columns, `out_stride` apart, each xor-ed with `flip`.
    INT_FLASH_INLINE void transpose_words(const uint32_t* rows, ptrdiff_t stride, uint32_t flip, uint32_t* out, ptrdiff_t out_stride) {
        const __m128i mask = _mm_set1_epi32(static_cast<int>(flip));
        for (int j = 0; j < 16; j += 4) {
            for (int g = 0; g < 16; g += 4) {
                const auto row = [=](int i) INT_FLASH_LAMBDA {
                    return _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + (j + i) * stride + g)), mask);
                };
                const auto put = [=](int i, __m128i a) INT_FLASH_LAMBDA { _mm_storeu_si128(reinterpret_cast<__m128i*>(out + (g + i) * out_stride + j), a); };
                const __m128i a = row(0), b = row(1), c = row(2), d = row(3);
                const __m128i lo_ab = _mm_unpacklo_epi32(a, b), hi_ab = _mm_unpackhi_epi32(a, b);
                const __m128i lo_cd = _mm_unpacklo_epi32(c, d), hi_cd = _mm_unpackhi_epi32(c, d);
                put(0, _mm_unpacklo_epi64(lo_ab, lo_cd));
                put(1, _mm_unpackhi_epi64(lo_ab, lo_cd));
                put(2, _mm_unpacklo_epi64(hi_ab, hi_cd));
                put(3, _mm_unpackhi_epi64(hi_ab, hi_cd));
            }
        }
    }
    INT_FLASH_INLINE Quad quad_constant(uint32_t bits) { return _mm_castsi128_ps(_mm_set1_epi32(static_cast<int>(bits))); }
    INT_FLASH_INLINE Quad exp2_quad(Quad y) {
        y = _mm_max_ps(y, _mm_set1_ps(-125.0f));  // of a NaN it makes -125
        const __m128 magic = _mm_set1_ps(kRoundMagic);
        const __m128 shifted = _mm_add_ps(y, magic);
        const __m128 f = _mm_sub_ps(y, _mm_sub_ps(shifted, magic));
        __m128 p = _mm_fmadd_ps(quad_constant(kExp2C4), f, quad_constant(kExp2C3));
        p = _mm_fmadd_ps(p, f, quad_constant(kExp2C2));
        p = _mm_fmadd_ps(p, f, quad_constant(kExp2C1));
        p = _mm_fmadd_ps(p, f, _mm_set1_ps(1.0f));
        return _mm_castsi128_ps(_mm_add_epi32(_mm_castps_si128(p), _mm_slli_epi32(_mm_castps_si128(shifted), 23)));
    }
};

}  // namespace
}  // namespace int_flash
