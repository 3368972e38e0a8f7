// INT4 codes, two a byte, low nibble first.
#pragma once
#include <cstdint>

namespace intflash {

/** Sixteen times a word's even codes, or its odd ones, as bytes. */
__device__ __forceinline__ uint32_t even_codes(uint32_t packed) { return packed << 4 & 0xf0f0f0f0u; }
__device__ __forceinline__ uint32_t odd_codes(uint32_t packed) { return packed & 0xf0f0f0f0u; }

/** Eight codes of a word to eight bytes. */
__device__ __forceinline__ uint2 unpack_int4(uint32_t packed) {
    const uint32_t even = __vsub4((packed & 0x0f0f0f0fu) ^ 0x08080808u, 0x08080808u);
    const uint32_t odd = __vsub4((packed >> 4 & 0x0f0f0f0fu) ^ 0x08080808u, 0x08080808u);
    return make_uint2(__byte_perm(even, odd, 0x5140), __byte_perm(even, odd, 0x7362));
}

__device__ __forceinline__ uint8_t pack_int4(int low, int high) { return static_cast<uint8_t>((low & 15) | (high & 15) << 4); }

}  // namespace intflash
