// dp4a: products of four bytes, added up. One wrapper a pair of kinds; CUDA's own intrinsics have none of mixed signs.
#pragma once
#include <cstdint>

namespace intflash {

/** Signed by signed. */
__device__ __forceinline__ int dot_s8(uint32_t a, uint32_t b, int sum) { return __dp4a(static_cast<int>(a), static_cast<int>(b), sum); }

/** Unsigned `a` by signed `b`. */
__device__ __forceinline__ int dot_u8_s8(uint32_t a, uint32_t b, int sum) {
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(a), "r"(b));
    return sum;
}

}  // namespace intflash
