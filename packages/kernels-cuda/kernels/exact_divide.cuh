// Many IEEE divisions by one divisor: four operations each, where a lone division takes nine and a special unit.
#pragma once
#include <cstdint>

namespace intflash {

/** Below it quotients and remainders could leave the normal numbers; callers scale both sides by kScaleUp then. */
constexpr float kTinyDivisor = 0x1p-60f;
/** Above it there is no Divisor. */
constexpr float kHugeDivisor = 0x1p120f;
constexpr float kScaleUp = 0x1p60f;

struct Divisor {
    float value, inverse, rest;  // 1 / value = inverse + rest, to 2^-47 of it
};

/** `value` in [2^-89, 2^121]. */
__device__ __forceinline__ Divisor divisor(float value) {
    const float inverse = __frcp_rn(value);
    return {value, inverse, fmaf(-value, inverse, 1.f) * inverse};
}

/**
 * x / d, correctly rounded wherever the quotient is at least 2^-29 in magnitude (smaller ones round to code 0 anyway). The first two
 * operations come within one ulp, so the remainder is exact and, 1/d being correctly rounded, adding it rounds right (Markstein 1990).
 */
__device__ __forceinline__ float divide(float x, const Divisor& d) {
    const float quotient = fmaf(x, d.inverse, x * d.rest);
    return fmaf(fmaf(-quotient, d.value, x), d.inverse, quotient);
}

/** The bits of x + 1.5·2^23: for |x| < 2^22 the low byte is the nearest integer, ties to even, as a signed byte. */
__device__ __forceinline__ uint32_t rounded_bits(float x) { return __float_as_uint(x + 12582912.f); }

/** Four codes; `a` in the lowest byte. */
__device__ __forceinline__ uint32_t pack_codes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

}  // namespace intflash
