// Global → shared copies that complete on an mbarrier. From sm_90 on, one thread hands a whole tile to the bulk-copy engine;
// before that, every thread copies its share with cp.async. Both come behind one interface.
//
// The i-th use of a barrier completes phase i; `wait(bar, parity)` returns once the phase of that parity is over.
#pragma once
#include <cstdint>

namespace intflash {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }

__device__ __forceinline__ void barrier_init(uint32_t bar, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}

/** After barrier_init and writes to shared memory, before __syncthreads: lets the copy engine and the tensor cores see them. */
__device__ __forceinline__ void publish_writes() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ __forceinline__ void barrier_arrive(uint32_t bar) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(bar) : "memory");
}

/** Whether the phase of `parity` is over; does not wait. */
__device__ __forceinline__ bool barrier_is_past(uint32_t bar, uint32_t parity) {
    uint32_t passed;
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(passed) : "r"(bar), "r"(parity) : "memory");
    return passed != 0;
}

/** The same; may wait a while for it. */
__device__ __forceinline__ bool barrier_passed(uint32_t bar, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
    uint32_t passed;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(passed) : "r"(bar), "r"(parity) : "memory");
    return passed != 0;
#else
    return barrier_is_past(bar, parity);
#endif
}

__device__ __forceinline__ void barrier_wait(uint32_t bar, uint32_t parity) {
#pragma unroll 1  // nvcc would unroll the spin
    while (!barrier_passed(bar, parity)) {
    }
}

/** Waits until `threads` threads of the block (whole warps) have come to barrier `name`, 1 to 15; what they wrote before is visible after. */
__device__ __forceinline__ void named_barrier_sync(uint32_t name, uint32_t threads) { asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory"); }

#if __CUDA_ARCH__ >= 900
constexpr bool kBulkCopy = true;
#else
constexpr bool kBulkCopy = false;
#endif

/** Arrivals that a "full" barrier expects for one tile. */
__device__ __forceinline__ uint32_t copy_arrivals() { return kBulkCopy ? 1 : blockDim.x; }

/** True for the threads that must call copy_tile. */
__device__ __forceinline__ bool copies() { return !kBulkCopy || threadIdx.x == 0; }

/** From sm_90 on: arrives on `full`, which from then on waits for `bytes` as well. */
__device__ __forceinline__ void expect_bytes(uint32_t full, uint32_t bytes) { asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(full), "r"(bytes) : "memory"); }

/** From sm_90 on: starts copying `bytes` (a multiple of 16, both ends 16-byte aligned), which `full` counts when they have landed. */
__device__ __forceinline__ void bulk_copy(uint32_t target, const void* source, uint32_t bytes, uint32_t full) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(target), "l"(source), "r"(bytes), "r"(full) : "memory");
}

/** Starts copying `bytes`, as bulk_copy, and arrives on `full` when they have landed. */
__device__ __forceinline__ void copy_tile(uint32_t target, const uint8_t* source, uint32_t bytes, uint32_t full) {
#if __CUDA_ARCH__ >= 900
    expect_bytes(full, bytes);
    bulk_copy(target, source, bytes, full);
#else
    for (uint32_t at = threadIdx.x * 16; at < bytes; at += blockDim.x * 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target + at), "l"(source + at) : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(full) : "memory");
#endif
}

}  // namespace intflash
