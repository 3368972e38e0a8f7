// The scalar operations of docs/arithmetic.md. Included by files of every instruction set, hence internal linkage throughout.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER)
#define INT_FLASH_INLINE static __forceinline
#define INT_FLASH_METHOD __forceinline
#define INT_FLASH_LAMBDA
#define INT_FLASH_OUTLINE static __declspec(noinline)
#define INT_FLASH_UNROLL(n)
#define INT_FLASH_RELOAD()
#else
#define INT_FLASH_INLINE static inline __attribute__((always_inline))
#define INT_FLASH_METHOD inline __attribute__((always_inline))
#define INT_FLASH_LAMBDA __attribute__((always_inline))
// Kept apart from its caller, whose values would take registers away from the accumulators.
#define INT_FLASH_OUTLINE static __attribute__((noinline))
#define INT_FLASH_PRAGMA(text) _Pragma(#text)
#define INT_FLASH_UNROLL(n) INT_FLASH_PRAGMA(GCC unroll n)
// Nothing read after this may be kept in registers from before it: hoisted constants would push accumulators out of them.
#define INT_FLASH_RELOAD() __asm__ volatile("" ::: "memory")
#endif

namespace int_flash {
namespace {

constexpr float kMinScale = 1.17549435e-38f;      // 2^-126
constexpr float kMinWeight = 9.5367431640625e-7f;  // 2^-20
// A cache or a caller may hold weights down to 2^-126, for all-zero rows; below this floor 1 / w would leave float32's range once summed.
constexpr float kMinGivenWeight = 7.888609052210118e-31f;  // 2^-100
constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kRoundMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds |y| < 2^22 to the nearest integer, ties to even
constexpr uint32_t kInfinityBits = 0x7f800000u;
constexpr uint32_t kLowestExponentBits = 0xc2fa0000u;  // -125

// Brings what will soon be read, or written, nearer.
template <bool kWrite = false>
INT_FLASH_INLINE void fetch_ahead(const void* data, size_t bytes) {
#if defined(__GNUC__)
    for (size_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(static_cast<const char*>(data) + byte, kWrite);
#else
    (void)data, (void)bytes;
#endif
}

constexpr int kPassRowsAhead = 16;  // a pass over rows of floats in memory asks for so many rows before it reads them: a fraction of a microsecond

// What a pass over keys brings nearer meanwhile: so many bytes for each of them.
struct Ahead {
    const char* data = nullptr;  // null: nothing
    ptrdiff_t bytes = 0;         // a key
    INT_FLASH_LAMBDA void fetch(ptrdiff_t first, ptrdiff_t count) const {
        if (data) fetch_ahead(data + first * bytes, static_cast<size_t>(count * bytes));
    }
};

INT_FLASH_INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INT_FLASH_INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

constexpr uint32_t kExp2C4 = 0x3c1d0166u, kExp2C3 = 0x3d64fe23u, kExp2C2 = 0x3e7601bcu, kExp2C1 = 0x3f317096u;

INT_FLASH_INLINE float exp2_polynomial(float y) {
    y = y > -125.0f ? y : -125.0f;
    const float shifted = y + kRoundMagic;
    const float f = y - (shifted - kRoundMagic);
    float p = fmaf(float_of(kExp2C4), f, float_of(kExp2C3));
    p = fmaf(p, f, float_of(kExp2C2));
    p = fmaf(p, f, float_of(kExp2C1));
    p = fmaf(p, f, 1.0f);
    return float_of(bits_of(p) + (bits_of(shifted) << 23));  // p is in [0.7, 1.42] and 2^n >= 2^-125: never subnormal
}

// The series that log2_weight adds up, t · (1 + t² / 3 + t⁴ / 5 + …): its last term's factor, then step(factor) for those before it.
constexpr double kLog2FirstTerm = 1.0 / 19.0;
template <class Step>
INT_FLASH_INLINE void log2_terms(Step step) {
    step(1.0 / 17.0), step(1.0 / 15.0), step(1.0 / 13.0), step(1.0 / 11.0), step(1.0 / 9.0), step(1.0 / 7.0), step(1.0 / 5.0), step(1.0 / 3.0), step(1.0);
}

// log2 of a normal float32 > 0, in float64 with plain operations; a loop over it vectorises.
INT_FLASH_INLINE float log2_weight(float w) {
    const uint32_t bits = bits_of(w);
    const double mantissa = float_of((bits & 0x007fffffu) | 0x3f800000u);  // [1, 2)
    const bool upper = mantissa >= 1.4142135623730951;
    const double m = upper ? mantissa * 0.5 : mantissa;
    const int exponent = static_cast<int>(bits >> 23) - 127 + (upper ? 1 : 0);
    const double t = (m - 1.0) / (m + 1.0);
    const double z = t * t;
    double sum = kLog2FirstTerm;
    log2_terms([&](double term) INT_FLASH_LAMBDA { sum = sum * z + term; });
    return static_cast<float>(exponent + 2.0 * t * sum * (1.0 / 0.693147180559945309417));
}

// Exact, subnormals included.
INT_FLASH_INLINE float float16_to_float32(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00u) return float_of(sign | kInfinityBits | ((magnitude & 0x3ffu) << 13));
    if (magnitude >= 0x0400u) return float_of(sign | ((magnitude << 13) + (112u << 23)));
    const float tiny = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // magnitude * 2^-24
    return float_of(bits_of(tiny) | sign);
}

// float32 rounded to float16 (ties to even) and widened again; |value| <= 65504 + half a step is the caller's business.
INT_FLASH_INLINE float round_to_float16(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude < 0x38800000u) {  // below 2^-14: the step is 2^-24, and 0.75 + |x| has exactly that step
        const float rounded = (float_of(magnitude) + 0.75f) - 0.75f;
        return float_of(bits_of(rounded) | (bits & 0x80000000u));
    }
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return float_of((rounded & ~0x1fffu) | (bits & 0x80000000u));
}

INT_FLASH_INLINE uint64_t mix_checksum(uint64_t row, uint64_t column, int32_t value) {
    uint64_t h = (row * 0x9e3779b97f4a7c15ull) ^ ((column + 1) * 0xc2b2ae3d27d4eb4full) ^ static_cast<uint32_t>(value);
    h ^= h >> 31;
    h *= 0xff51afd7ed558ccdull;
    h ^= h >> 29;
    return h;
}

}  // namespace
}  // namespace int_flash
