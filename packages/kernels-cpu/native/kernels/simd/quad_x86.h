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
