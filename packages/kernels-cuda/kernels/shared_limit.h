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

}  // namespace intflash
