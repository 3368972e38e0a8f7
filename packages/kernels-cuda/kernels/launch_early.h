// Launches that may begin before the launch before them ends, where the GPU can do that; the kernel waits itself (ptx/grid_dependency.cuh).
#pragma once
#include <cuda_runtime.h>

namespace intflash {

/** Whether the calling thread's device is Hopper or later. */
inline cudaError_t can_start_early(bool& can) {
    int device = 0, major = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    can = major >= 9;
    return status;
}

/** `kernel` must not touch what the launch before writes, nor write what it reads, before wait_for_launch_before(). */
template <class... Parameters>
cudaError_t launch_early(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes, cudaStream_t stream, Parameters... parameters) {
    bool can = false;
    if (const cudaError_t status = can_start_early(can)) return status;
    cudaLaunchAttribute early{};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how{grid, dim3(static_cast<unsigned>(threads)), static_cast<size_t>(shared_bytes), stream, &early, can ? 1u : 0u};
    cudaLaunchKernelEx(&how, kernel, parameters...);
    return cudaGetLastError();  // so that a launch that failed leaves no error for the next to find
}

}  // namespace intflash
