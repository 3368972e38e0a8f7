// Codes of a cache in shared memory, and integer sums of their products that become floats by one subtraction.
#pragma once
#include "cache_page.h"

namespace intflash {

/**
 * A product of Q·Kᵀ or P·V is at most 127 · 127 · 256 or 255 · 127 · 128; of INT4 codes, which stay in the upper half of a byte, 16 times what it is and at most
 * 16 · 255 · 7 · 128. All are below 2^22. So added to the bits of 1.5 · 2^23 it is a float's mantissa; for INT4 to those of 1.5 · 2^19, whose last place is a 16th.
 */
template <bool kInt4> struct BiasedSums {
    static constexpr int kBits = kInt4 ? 0x49400000 : 0x4b400000;
    static __device__ __forceinline__ float value(int sum) { return __fsub_rn(__int_as_float(sum), kInt4 ? 786432.f : 12582912.f); }
};

/** By which the 16-byte chunks of a row of 32, 64 or a multiple of 128 bytes are exchanged, so that eight rows' chunks of one number lie in different banks. */
INT_FLASH_BOTH constexpr int chunk_swizzle(int row, int row_bytes) { return row / (row_bytes < 128 ? 128 / row_bytes : 1) % (row_bytes < 128 ? row_bytes / 16 : 8); }

}  // namespace intflash
