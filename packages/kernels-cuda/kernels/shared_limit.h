// What a block can ask for.
#pragma once
#include <cuda_runtime.h>

namespace intflash {

/** Bytes of shared memory that a block on the calling thread's device can have. */
inline cudaError_t most_shared_bytes(int& bytes) {
    int device = 0;
    const cudaError_t status = cudaGetDevice(&device);
    return status != cudaSuccess ? status : cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
}

/**
 * Lets blocks of `kernel` ask for all the dynamic shared memory that `shared_bytes`, a block's most, leave it. The attribute is the kernel's, not the
 * launch's: one number for all launches, or streams that launch different shapes at once would take it from each other.
 */
template <class Kernel> cudaError_t allow_most_shared(Kernel kernel, int shared_bytes) {
    cudaFuncAttributes attributes;
    const cudaError_t status = cudaFuncGetAttributes(&attributes, kernel);
    return status != cudaSuccess ? status : cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes - static_cast<int>(attributes.sharedSizeBytes));
}

}  // namespace intflash
