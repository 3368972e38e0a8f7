// How 64 keys lie between baseline_pack.cu and baseline_flash_fwd.cu.
#pragma once
#include "tile_layout.h"

namespace intflash {

constexpr int kBaselineKeys = 64;
constexpr float kLargestE4m3 = 448.f;

/** K, then V; `size` bytes an element. */
INTFLASH_BOTH int baseline_tile_bytes(int padded, int size) { return 2 * kBaselineKeys * padded * size; }

/** FP8's scale of a head whose largest magnitude has these bits. */
__device__ __forceinline__ float fp8_scale(uint32_t max_bits) { return fmaxf(__uint_as_float(max_bits) / kLargestE4m3, 1.17549435e-38f); }

}  // namespace intflash
