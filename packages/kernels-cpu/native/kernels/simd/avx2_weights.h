// What decoding needs of a cache's value scales: log2_weight of arithmetic.h step by step, the same bits. The compiler's own vectors of it take
// as long as all else that decoding does with 64 channels.
#pragma once
#include <immintrin.h>

#include "plain_rows.h"

namespace int_flash {
namespace {

struct Avx2Weights : PlainRows {
    // Eight weights as 2^exponent · mantissa, mantissa in [√½, √2).
    struct SplitWeights {
        __m256 mantissa;
        __m256i exponent;
    };
    INT_FLASH_INLINE SplitWeights split_weights(__m256 w) {
        const __m256i bits = _mm256_castps_si256(w);
        const __m256i mantissa = _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x007fffff)), _mm256_set1_epi32(0x3f800000));
        const __m256i upper = _mm256_cmpgt_epi32(mantissa, _mm256_set1_epi32(0x3fb504f3));  // the last float32 below √2; all ones above
        const __m256i biased = _mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(127));
        return {_mm256_castsi256_ps(_mm256_sub_epi32(mantissa, _mm256_and_si256(upper, _mm256_set1_epi32(0x00800000)))), _mm256_sub_epi32(biased, upper)};
    }
    // Step by step for four times four weights: one's steps wait for one another.
    INT_FLASH_INLINE void log2_of_16(const SplitWeights& a, const SplitWeights& b, float* tau) {
        const __m256d one = _mm256_set1_pd(1.0);
        const auto ratio = [=](__m128 mantissa) INT_FLASH_LAMBDA {
            const __m256d m = _mm256_cvtps_pd(mantissa);
            return _mm256_div_pd(_mm256_sub_pd(m, one), _mm256_add_pd(m, one));
        };
        const __m256d t0 = ratio(_mm256_castps256_ps128(a.mantissa)), t1 = ratio(_mm256_extractf128_ps(a.mantissa, 1));
        const __m256d t2 = ratio(_mm256_castps256_ps128(b.mantissa)), t3 = ratio(_mm256_extractf128_ps(b.mantissa, 1));
        const __m256d z0 = _mm256_mul_pd(t0, t0), z1 = _mm256_mul_pd(t1, t1), z2 = _mm256_mul_pd(t2, t2), z3 = _mm256_mul_pd(t3, t3);
        __m256d s0 = _mm256_set1_pd(kLog2FirstTerm), s1 = s0, s2 = s0, s3 = s0;
        log2_terms([&](double term) INT_FLASH_LAMBDA {
            const __m256d c = _mm256_set1_pd(term);
            s0 = _mm256_mul_pd(s0, z0), s1 = _mm256_mul_pd(s1, z1), s2 = _mm256_mul_pd(s2, z2), s3 = _mm256_mul_pd(s3, z3);
            s0 = _mm256_add_pd(s0, c), s1 = _mm256_add_pd(s1, c), s2 = _mm256_add_pd(s2, c), s3 = _mm256_add_pd(s3, c);
        });
        const auto store = [](float* out, __m256d t, __m256d sum, __m128i exponent) INT_FLASH_LAMBDA {
            const __m256d product = _mm256_mul_pd(_mm256_mul_pd(_mm256_mul_pd(_mm256_set1_pd(2.0), t), sum), _mm256_set1_pd(1.0 / 0.693147180559945309417));
            _mm_storeu_ps(out, _mm256_cvtpd_ps(_mm256_add_pd(_mm256_cvtepi32_pd(exponent), product)));
        };
        store(tau, t0, s0, _mm256_castsi256_si128(a.exponent)), store(tau + 4, t1, s1, _mm256_extracti128_si256(a.exponent, 1));
        store(tau + 8, t2, s2, _mm256_castsi256_si128(b.exponent)), store(tau + 12, t3, s3, _mm256_extracti128_si256(b.exponent, 1));
    }
    // inverse[j] = 1 / w and tau[j] = log2 w for the next 32 weights w.
    INT_FLASH_INLINE void read_weights(const float* given, float* inverse, float* tau) {
        const __m256 least = _mm256_set1_ps(kMinGivenWeight), one = _mm256_set1_ps(1.0f);
        for (int j = 0; j < 32; j += 16) {
            const __m256 a = _mm256_max_ps(_mm256_loadu_ps(given + j), least), b = _mm256_max_ps(_mm256_loadu_ps(given + j + 8), least);
            _mm256_storeu_ps(inverse + j, _mm256_div_ps(one, a));
            _mm256_storeu_ps(inverse + j + 8, _mm256_div_ps(one, b));
            log2_of_16(split_weights(a), split_weights(b), tau + j);
        }
    }
};

}  // namespace
}  // namespace int_flash
