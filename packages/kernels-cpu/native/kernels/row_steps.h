// What a decoder does to rows between its matrix products, as the TypeScript twins in packages/llm/src/layers: the norm in float64 like
// them, SwiGLU in float32. Plain loops that every compiler turns into vectors, with sums in a fixed order of lanes: the same bits on every
// instruction set.
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

// e^x within 2e-7 of its size, for |x| <= 87 and no more beyond: 2^n · e^r, |r| <= ln 2 / 2, Taylor's series to r^7.
INT_FLASH_INLINE float exponential(float x) {
    x = x < 87.0f ? x : 87.0f;
    x = x > -87.0f ? x : -87.0f;
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
    const float shifted = x * 1.44269504f + magic;
    const float n = shifted - magic;
    const float r = (x - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;  // ln 2 in two parts: n times the first is exact
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits, power;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&power, &shifted, sizeof power);
    bits += power << 23;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

// out = gate / (1 + e^-gate) · up, within 3e-7 of its size.
void swiglu_row(const float* gate, const float* up, int width, float* out) {
    for (int i = 0; i < width; i++) out[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}

}  // namespace
}  // namespace int_flash
