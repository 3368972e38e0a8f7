// Launches that may begin before the launch before them ends, where the GPU can do that; the kernel waits itself (ptx/grid_dependency.cuh).
#pragma once
#include <cuda_runtime.h>

#include "running_code.h"

namespace intflash {

/** T, which the compiler then does not look for in an argument. */
template <class T> struct As {
    using Type = T;
};

/** `kernel` must not touch what the launch before writes, nor write what it reads, before wait_for_launch_before(). */
template <class... Parameters>
cudaError_t launch_early(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes, cudaStream_t stream, typename As<Parameters>::Type... parameters) {
    cudaLaunchAttribute early{};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    const bool can = running_code().architecture >= 900;  // earlier code does not wait
    cudaLaunchConfig_t how{grid, dim3(static_cast<unsigned>(threads)), static_cast<size_t>(shared_bytes), stream, &early, can ? 1u : 0u};
    cudaLaunchKernelEx(&how, kernel, parameters...);
    return cudaGetLastError();  // so that a launch that failed leaves no error for the next to find
}

}  // namespace intflash
