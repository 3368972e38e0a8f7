// The weight of a token of V as the forward reads it: tau = log2(w) and 1/w, in the tile.
#pragma once
#include "tile_layout.h"

namespace intflash {

/** log2(w), bit for bit quant's log2Weight: float64, plain operations, w = 2^e·m with m in [√½, √2). */
__device__ inline float log2_weight(float w) {
    double m = w;
    int exponent = 0;
    if (m < 0x1p-100) m *= 0x1p64, exponent -= 64;
    exponent += (__double2hiint(m) >> 20) - 1023;
    m = __hiloint2double((__double2hiint(m) & 0x000fffff) | 0x3ff00000, __double2loint(m));
    if (m >= 1.4142135623730951) m = m / 2, exponent += 1;
    const double t = (m - 1) / (m + 1), z = t * t;
    double series = 1.0 / 19;
#pragma unroll
    for (int odd = 17; odd >= 1; odd -= 2) series = series * z + 1.0 / odd;
    return static_cast<float>(exponent + 2 * t * series * 1.4426950408889634);
}

/** tau and 1/w of one key; keys past the end weigh nothing in the row sum. */
__device__ __forceinline__ void store_weight(uint8_t* tile, int padded, int key, bool present, float weight) {
    float* scales = reinterpret_cast<float*>(tile + scales_offset(padded, false)) + key_position(key);
    scales[kTileKeys] = present && weight != 1.f ? log2_weight(weight) : 0.f;
    scales[2 * kTileKeys] = present ? __fdiv_rn(1.f, weight) : 0.f;
}

}  // namespace intflash
