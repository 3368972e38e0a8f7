// What a decoder does to rows between its matrix products. In float64, as the TypeScript twins in packages/llm/src/layers; plain loops
// that every compiler turns into vectors, with sums in a fixed order of lanes: the same bits on every instruction set.
#pragma once
#include "cache_run.h"

namespace int_flash {
namespace {

// out = gain · (x · 1 / sqrt(mean x² + epsilon)); the squares in 8 partial sums, channel d into sum d mod 8, folded 4, 2, 1.
void rms_norm_row(const float* x, const float* gain, double epsilon, int dim, float* out) {
    double sums[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    int d = 0;
    for (; d + 8 <= dim; d += 8)
        for (int lane = 0; lane < 8; lane++) sums[lane] += static_cast<double>(x[d + lane]) * static_cast<double>(x[d + lane]);
    for (int lane = 0; d + lane < dim; lane++) sums[lane] += static_cast<double>(x[d + lane]) * static_cast<double>(x[d + lane]);
    for (int half = 4; half >= 1; half /= 2)
        for (int lane = 0; lane < half; lane++) sums[lane] += sums[lane + half];
    const double factor = 1.0 / sqrt(sums[0] / dim + epsilon);
    for (d = 0; d < dim; d++) out[d] = static_cast<float>(static_cast<double>(gain[d]) * (static_cast<double>(x[d]) * factor));
}

// e^x within 3e-13 of its size, for |x| <= 700 and no more beyond: 2^n · e^r, |r| <= ln 2 / 2, Taylor's series to r^10 in short chains.
INT_FLASH_INLINE double exponential(double x) {
    x = x < 700.0 ? x : 700.0;
    x = x > -700.0 ? x : -700.0;
    const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to the nearest integer
    const double shifted = x * 1.4426950408889634 + magic;
    const double n = shifted - magic;
    const double r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;  // ln 2 in two parts: n times the first is exact
    const double r2 = r * r, r4 = r2 * r2;
    const double low = (1.0 + r) + (0.5 + r * (1.0 / 6.0)) * r2;
    const double middle = (1.0 / 24.0 + r * (1.0 / 120.0)) + (1.0 / 720.0 + r * (1.0 / 5040.0)) * r2;
    const double high = (1.0 / 40320.0 + r * (1.0 / 362880.0)) + r2 * (1.0 / 3628800.0);
    const double p = (low + middle * r4) + high * (r4 * r4);
    uint64_t bits, power;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&power, &shifted, sizeof power);
    bits += power << 52;
    double result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

// out = gate / (1 + e^-gate) · up
void swiglu_row(const float* gate, const float* up, int width, float* out) {
    for (int i = 0; i < width; i++) {
        const double x = static_cast<double>(gate[i]);
        out[i] = static_cast<float>(x / (1.0 + exponential(-x)) * static_cast<double>(up[i]));
    }
}

}  // namespace
}  // namespace int_flash
