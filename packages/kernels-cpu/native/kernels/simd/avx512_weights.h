// What decoding needs of a cache's value scales: log2_weight of arithmetic.h, the same bits (test/weights-harness.cc), without its division and with half of
// its operations.
#pragma once
#include <immintrin.h>

#include "../../arithmetic.h"

namespace int_flash {
namespace {

// A weight is 2^e · x, x in [1, 2), and `inverse` times x is near 1: log2 w = e + tau + log2(1 + r) with r = x · inverse - 1, which is exact.
// Sixteen parts of [1, 2), by the fraction's first four bits. Near w = 1, on either side, e + tau is 0, so that log2(1 + r) keeps all its digits.
alignas(64) constexpr double kInverse[16] = {1.0,       0.9140625,    0.865234375,  0.8203125,    0.7802734375, 0.744140625, 0.7109375,    0.6806640625,
                                             0.6533203125, 0.6279296875, 0.603515625,  0.58203125,   0.5615234375, 0.5419921875, 0.5244140625, 0.5};
// -log2(inverse).
alignas(64) constexpr double kTau[16] = {0.0,
                                         0.12963528041659547,
                                         0.20883711144498168,
                                         0.28575448233387735,
                                         0.35794830707202324,
                                         0.42635281250667795,
                                         0.49220535980130375,
                                         0.5549851541315769,
                                         0.6141375993585391,
                                         0.6713250726720527,
                                         0.7285369720956254,
                                         0.7808314795378384,
                                         0.8325818541682625,
                                         0.8836560387625317,
                                         0.9312217220145874,
                                         1.0};

struct Avx512Weights {
    static constexpr double kLargestWeight = 3.40282346638528859812e38;  // the largest float32
    static constexpr bool kSlowScales = false;  // read_weights takes less than half of a pass over a tile of rows
    struct Log2Of8 {
        __m512d value;
        __mmask8 unsure;  // so near the middle between two float32 that log2_weight may be on its other side
    };
    // Within 2^-44 of the number itself, which is as near as the series of log2_weight comes when its float64 is rounded.
    INT_FLASH_INLINE Log2Of8 log2_of_8(__m512d w) {
        constexpr int kFractionBits = 52, kPartBits = 4;
        const __m512i part = _mm512_srli_epi64(_mm512_castpd_si512(w), kFractionBits - kPartBits);  // permutations look at the last four bits
        const __m512d x = _mm512_getmant_pd(w, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
        const auto look_up = [part](const double* table) INT_FLASH_LAMBDA { return _mm512_permutex2var_pd(_mm512_load_pd(table), part, _mm512_load_pd(table + 8)); };
        const __m512d r = _mm512_fmsub_pd(x, look_up(kInverse), _mm512_set1_pd(1.0));
        const __m512d base = _mm512_add_pd(_mm512_getexp_pd(w), look_up(kTau));
        // log2(1 + r) / r for r in [-1/32, 1/16].
        constexpr double kTerms[8] = {1.4426950408889874,  -0.7213475204464496, 0.4808983465811164,  -0.3606737463463138,
                                      0.28853984249361697, -0.2404784614774457, 0.20577439220446953, -0.16206168174034688};
        __m512d sum = _mm512_set1_pd(kTerms[7]);
#pragma GCC unroll 7
        for (int i = 6; i >= 0; i--) sum = _mm512_fmadd_pd(sum, r, _mm512_set1_pd(kTerms[i]));
        const __m512d value = _mm512_fmadd_pd(sum, r, base);
        // The last 29 bits are what rounding to float32 takes off: half a unit is 2^28.
        constexpr int64_t kUnsure = 1 << 12, kTakenOff = (1 << 29) - 1;
        const __m512i off = _mm512_add_epi64(_mm512_castpd_si512(value), _mm512_set1_epi64(kUnsure - (1 << 28)));
        return {value, _mm512_testn_epi64_mask(off, _mm512_set1_epi64(kTakenOff & ~(2 * kUnsure - 1)))};
    }
    // Eight weights, each at least the least one there is; an infinite one as the largest float32, whose logarithm rounds to the same 128.
    INT_FLASH_INLINE __m512d read_8(const float* given) {
        const __m512d w = _mm512_max_pd(_mm512_cvtps_pd(_mm256_loadu_ps(given)), _mm512_set1_pd(kMinGivenWeight));
        return _mm512_min_pd(w, _mm512_set1_pd(kLargestWeight));
    }
    // inverse[j] = 1 / w and tau[j] = log2 w for the next 32 weights w.
    INT_FLASH_INLINE void read_weights(const float* given, float* inverse, float* tau) {
        const __m512 least = _mm512_set1_ps(kMinGivenWeight), one = _mm512_set1_ps(1.0f);
        _mm512_storeu_ps(inverse, _mm512_div_ps(one, _mm512_max_ps(_mm512_loadu_ps(given), least)));
        _mm512_storeu_ps(inverse + 16, _mm512_div_ps(one, _mm512_max_ps(_mm512_loadu_ps(given + 16), least)));
        const Log2Of8 t0 = log2_of_8(read_8(given)), t1 = log2_of_8(read_8(given + 8)), t2 = log2_of_8(read_8(given + 16)), t3 = log2_of_8(read_8(given + 24));
        _mm256_storeu_ps(tau, _mm512_cvtpd_ps(t0.value)), _mm256_storeu_ps(tau + 8, _mm512_cvtpd_ps(t1.value));
        _mm256_storeu_ps(tau + 16, _mm512_cvtpd_ps(t2.value)), _mm256_storeu_ps(tau + 24, _mm512_cvtpd_ps(t3.value));
        if (__builtin_expect((t0.unsure | t1.unsure | t2.unsure | t3.unsure) != 0, 0)) read_slowly(given, tau);
    }
    // One weight in 65,536 is unsure.
    INT_FLASH_OUTLINE void read_slowly(const float* given, float* tau) {
        for (int i = 0; i < 32; i++) tau[i] = log2_weight(given[i] > kMinGivenWeight ? given[i] : kMinGivenWeight);
    }
};

}  // namespace
}  // namespace int_flash
