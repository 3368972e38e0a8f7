// A counter by which blocks find out who of them is the last.
#pragma once
#include <cstdint>

namespace intflash {

/**
 * The ticket drawn. What this thread's block wrote before (and a __syncthreads in between) is there for whoever draws a later one, and what those
 * with earlier ones wrote is there for this block after its next __syncthreads.
 */
__device__ __forceinline__ uint32_t draw_ticket(uint32_t* counter) {
    uint32_t drawn;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(drawn) : "l"(counter) : "memory");
    return drawn;
}

}  // namespace intflash
