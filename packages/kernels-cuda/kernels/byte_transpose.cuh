// Four by four codes turned, for products along the keys of values that lie a key a row.
#pragma once
#include <cstdint>

namespace intflash {

/** Four words of four channels, one a key, to four words of four keys, one a channel. */
__device__ __forceinline__ void transpose_bytes(const uint32_t (&w)[4], uint32_t (&t)[4]) {
    const uint32_t low01 = __byte_perm(w[0], w[1], 0x5140), low23 = __byte_perm(w[2], w[3], 0x5140);
    const uint32_t high01 = __byte_perm(w[0], w[1], 0x7362), high23 = __byte_perm(w[2], w[3], 0x7362);
    t[0] = __byte_perm(low01, low23, 0x5410);
    t[1] = __byte_perm(low01, low23, 0x7632);
    t[2] = __byte_perm(high01, high23, 0x5410);
    t[3] = __byte_perm(high01, high23, 0x7632);
}

}  // namespace intflash
