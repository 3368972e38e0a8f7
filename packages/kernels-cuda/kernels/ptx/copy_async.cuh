// cp.async: up to 16 bytes global → shared without a register in between, in groups that complete in order.
#pragma once
#include <cstdint>

namespace intflash {

__device__ __forceinline__ uint32_t shared_address_of(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }

/** 4, 8 or 16 bytes, both ends aligned to as many. Not `inside`: zeros are written, and `source` (any valid address) is not read. */
template <int kBytes> __device__ __forceinline__ void copy_async(uint32_t target, const void* source, bool inside = true) {
    const int bytes = inside ? kBytes : 0;
    if constexpr (kBytes == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes) : "memory");
    else asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(target), "l"(source), "n"(kBytes), "r"(bytes) : "memory");
}

/** 16 bytes of what a launch reads once: L2 gives its lines up first. `policy`: read_once_policy() of load_once.cuh. */
__device__ __forceinline__ void copy_async_16_once(uint32_t target, const void* source, uint64_t policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "l"(policy) : "memory");
}

/** Ends a group; an empty one is fine. */
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/** Waits until all of this thread's groups but the `kPending` newest have landed. */
template <int kPending> __device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory"); }

}  // namespace intflash
