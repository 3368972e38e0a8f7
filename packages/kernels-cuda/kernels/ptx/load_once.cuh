// Loads of what a launch reads once, as weights are: L2 gives their lines up first, and keeps those of other kernels' code and numbers.
#pragma once
#include <cstdint>

namespace intflash {

/** What load_once and copy_async_16_once want; made once a thread. */
__device__ __forceinline__ uint64_t read_once_policy() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/** 16 aligned bytes of global memory that no one writes meanwhile. */
__device__ __forceinline__ int4 load_once(const int4* from, uint64_t policy) {
    int4 loaded;
    asm("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.s32 {%0, %1, %2, %3}, [%4], %5;" : "=r"(loaded.x), "=r"(loaded.y), "=r"(loaded.z), "=r"(loaded.w) : "l"(from), "l"(policy));
    return loaded;
}

/** As load_once, but asked for at this place and no later, and the launch before may have written them. */
__device__ __forceinline__ void load_once_now(uint32_t (&words)[4], const void* from, uint64_t policy) {
    asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;" : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "l"(from), "l"(policy));
}

/** Asks L2 for the 128 bytes at `from`. */
__device__ __forceinline__ void prefetch_line(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }

}  // namespace intflash
