// See test_probes.h.
#include <cuda_runtime.h>

#include "test_probes.h"

namespace intflash {
namespace {

__global__ void poison_shared(int words) {
    extern __shared__ uint32_t shared[];
    for (int i = threadIdx.x; i < words; i += blockDim.x) reinterpret_cast<volatile uint32_t*>(shared)[i] = ~0u;
}

__global__ void count_differences(const uint32_t* a, const uint32_t* b, int64_t words, unsigned long long* different) {
    unsigned long long mine = 0;
    for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < words; i += static_cast<int64_t>(gridDim.x) * blockDim.x) mine += a[i] != b[i];
    if (mine > 0) atomicAdd(different, mine);
}

__global__ void fault(int* nowhere) { *nowhere = 1; }

}  // namespace

cudaError_t launch_poison_shared(int shared_bytes, int processors, cudaStream_t stream) {
    if (const cudaError_t status = cudaFuncSetAttribute(poison_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes)) return status;
    // A block fills its processor, so two rounds reach every one of them.
    poison_shared<<<static_cast<unsigned>(2 * processors), 256, static_cast<size_t>(shared_bytes), stream>>>(shared_bytes / 4);
    return cudaGetLastError();
}

cudaError_t launch_count_differences(const uint32_t* a, const uint32_t* b, int64_t words, unsigned long long* different, cudaStream_t stream) {
    count_differences<<<256, 256, 0, stream>>>(a, b, words, different);
    return cudaGetLastError();
}

cudaError_t launch_fault(cudaStream_t stream) {
    fault<<<1, 1, 0, stream>>>(reinterpret_cast<int*>(uintptr_t{64}));
    return cudaGetLastError();
}

}  // namespace intflash
