// Hopper's forward: warpgroups taking turns. Left to themselves they fall into step, all at the tensor cores, then all at the exponentials.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "ptx/tile_copy.cuh"

namespace intflash {

/** Turns on the tensor cores: a warpgroup starts its Q·Kᵀ when the one before it has finished its own, so that all do not weigh at once. */
template <class T> struct TurnRing {
    int self;
    __device__ __forceinline__ void wait() const {
        if constexpr (T::kProductTurns) asm volatile("bar.sync %0, 256;" ::"r"(1 + self) : "memory");
    }
    __device__ __forceinline__ void pass() const {
        if constexpr (T::kProductTurns) asm volatile("bar.arrive %0, 256;" ::"r"(1 + (self == T::kConsumers - 1 ? 0 : self + 1)) : "memory");
    }
};

/** One arrival a warp, once `known` is known: the compiler cannot start it before. */
__device__ __forceinline__ void arrive_as_warp(uint32_t bar, unsigned known = 0) {
    asm volatile("{ .reg .pred p; .reg .b64 state; elect.sync _|p, 0xffffffff; setp.ne.and.u32 p, %1, 0xffffffff, p; @p mbarrier.arrive.shared.b64 state, [%0]; }"
                 ::"r"(bar), "r"(known) : "memory");
}

__device__ __forceinline__ bool barrier_passed_with(uint32_t bar, uint32_t parity, const float (&before)[2], float (&after)[2]) {
    uint32_t passed;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%3], %4; selp.u32 %0, 1, 0, p; selp.f32 %1, %5, 0f7fffffff, p; selp.f32 %2, %6, 0f7fffffff, p; }"
                 : "=r"(passed), "=f"(after[0]), "=f"(after[1]) : "r"(bar), "r"(parity), "f"(before[0]), "f"(before[1]) : "memory");
    return passed != 0;
}

/**
 * Turns on the exponentials: each of the four warps of a warpgroup shares its quarter of the processor with one warp of every other one, and
 * waits until that of the warpgroup before it is nearly through. Without, all of them weigh at once, then multiply at once.
 */
template <class T> struct ExponentialTurn {
    uint32_t own, next;  // barriers
    uint32_t parity;
    /** What the exponentials need goes through here, or the compiler would start them before the turn. */
    __device__ __forceinline__ void wait(float (&needed)[2]) const {
        if constexpr (T::kExponentialTurns) {
            bool passed;
            float after[2];
            do {
                passed = barrier_passed_with(own, parity, needed, after);
            } while (!passed);
            needed[0] = after[0], needed[1] = after[1];
        }
    }
    __device__ __forceinline__ void skip() {
        float nothing[2] = {0.f, 0.f};
        wait(nothing);
        pass();
    }
    /** `done`: what the last weighed group left (sums of codes, or weights), so that the compiler cannot pass the turn before they are known. */
    __device__ __forceinline__ void pass(unsigned done = 0) {
        if constexpr (T::kExponentialTurns) {
            parity ^= 1;
            arrive_as_warp(next, done);
        }
    }
};

}  // namespace intflash
