// Launches that may begin before the launch before them ends, where the GPU can do that; the kernel waits itself (ptx/grid_dependency.cuh).
#pragma once
#include <cuda_runtime.h>

namespace intflash {

/**
 * Whether `kernel` can wait for the launch before it: on Hopper or later, in code that was compiled for that. PTX for compute capability 8.0, which the driver
 * compiles where there is no cubin, waits for nothing.
 */
template <class... Parameters> cudaError_t can_start_early(void (*kernel)(Parameters...), bool& can) {
    int device = 0, major = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    can = false;
    if (status != cudaSuccess || major < 9) return status;
    cudaFuncAttributes attributes{};
    status = cudaFuncGetAttributes(&attributes, kernel);
    can = attributes.ptxVersion >= 90;
    return status;
}

/** T, which the compiler then does not look for in an argument. */
template <class T> struct As {
    using Type = T;
};

/** `kernel` must not touch what the launch before writes, nor write what it reads, before wait_for_launch_before(). */
template <class... Parameters>
cudaError_t launch_early(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes, cudaStream_t stream, typename As<Parameters>::Type... parameters) {
    bool can = false;
    if (const cudaError_t status = can_start_early(kernel, can)) return status;
    cudaLaunchAttribute early{};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how{grid, dim3(static_cast<unsigned>(threads)), static_cast<size_t>(shared_bytes), stream, &early, can ? 1u : 0u};
    cudaLaunchKernelEx(&how, kernel, parameters...);
    return cudaGetLastError();  // so that a launch that failed leaves no error for the next to find
}

}  // namespace intflash
