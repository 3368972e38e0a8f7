// See test_probes.h.
#include <cuda_runtime.h>

#include "cache_page.h"
#include "test_probes.h"

namespace intflash {
namespace {

__global__ void poison_shared(int words) {
    extern __shared__ uint32_t shared[];
    for (int i = threadIdx.x; i < words; i += blockDim.x) reinterpret_cast<volatile uint32_t*>(shared)[i] = ~0u;
}

/** A block an image. */
__global__ void poison_page(uint8_t* page, int padded, bool int4, int from) {
    constexpr uint8_t kCode = 0x80;
    const float nan = __int_as_float(0x7fffffff);
    const int row = code_bytes(padded, int4);
    const int64_t bytes = image_bytes(padded, int4);
    uint8_t* image = page + blockIdx.x * bytes;
    for (int i = threadIdx.x; i < (kPageTokens - from) * row; i += blockDim.x) key_row(image, from, row)[i] = value_row(image, from, row)[i] = kCode;
    for (int token = from + static_cast<int>(threadIdx.x); token < kPageTokens; token += blockDim.x)
        key_scales(image, row)[token] = value_taus(image, row)[token] = value_inverses(image, row)[token] = nan;
    if (threadIdx.x == 0) reinterpret_cast<float*>(page + gridDim.x * bytes)[blockIdx.x] = nan;
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

cudaError_t launch_poison_page(uint8_t* page, int64_t heads, int padded, bool int4, int from, cudaStream_t stream) {
    poison_page<<<static_cast<unsigned>(heads), 256, 0, stream>>>(page, padded, int4, from);
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
