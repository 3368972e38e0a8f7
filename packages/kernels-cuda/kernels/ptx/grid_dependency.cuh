// Launches that begin before the one before them ends (programmatic dependent launch). Before Hopper they do not, and these do nothing.
#pragma once

namespace intflash {

/** The next launch may begin, if it is one that allows for that and all blocks have come here or ended. */
__device__ __forceinline__ void launch_dependents() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/** Until the launch before has ended, and what it wrote is there. */
__device__ __forceinline__ void wait_for_launch_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace intflash
