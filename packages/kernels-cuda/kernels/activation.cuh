// What stands between an MLP's linear layers, in float64.
#pragma once
#include <cstdint>

namespace intflash {

/** e^x within 3e-13 of its size, for |x| <= 700: the CPU kernels' series, 2^n · e^r with |r| <= ln 2 / 2. */
__device__ __forceinline__ double exponential(double x) {
    constexpr double kMagic = 6755399441055744.0;  // 1.5 · 2^52: adding it rounds to the nearest integer
    const double shifted = fma(x, 1.4426950408889634, kMagic), n = shifted - kMagic;
    const double r = fma(n, -1.90821492927058770002e-10, fma(n, -0.693147180369123816490, x));
    const double r2 = r * r, r4 = r2 * r2;
    const double low = fma(fma(r, 1.0 / 6.0, 0.5), r2, 1.0 + r);
    const double middle = fma(fma(r, 1.0 / 5040.0, 1.0 / 720.0), r2, fma(r, 1.0 / 120.0, 1.0 / 24.0));
    const double high = fma(r2, 1.0 / 3628800.0, fma(r, 1.0 / 362880.0, 1.0 / 40320.0));
    const double p = fma(fma(high, r4, middle), r4, low);
    return __hiloint2double(__double2hiint(p) + (__double2loint(shifted) << 20), __double2loint(p));
}

/** x / d within some 2^-52 of its size, for d in [1, 2^1020]. */
__device__ __forceinline__ double quotient(double x, double d) {
    double inverse;
    asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(inverse) : "d"(d));  // 20 bits
    inverse = fma(fma(-d, inverse, 1.0), inverse, inverse);
    inverse = fma(fma(-d, inverse, 1.0), inverse, inverse);
    const double q = x * inverse;
    return fma(fma(-d, q, x), inverse, q);
}

__device__ __forceinline__ double silu(float x) { return quotient(x, 1.0 + exponential(-static_cast<double>(fminf(fmaxf(x, -700.f), 700.f)))); }

/** silu(gate) · up, rounded once. */
__device__ __forceinline__ float swiglu(float gate, float up) { return static_cast<float>(silu(gate) * up); }

}  // namespace intflash
