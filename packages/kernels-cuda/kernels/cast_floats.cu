// See cast_floats.h. Four numbers a thread and step: bound by memory.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "cast_floats.h"

namespace intflash {
namespace {

constexpr int kThreads = 256, kMaxBlocks = 4096;

template <bool kBfloat16> __device__ __forceinline__ unsigned short narrow(float x, bool& overflow) {
    unsigned short bits;
    if constexpr (kBfloat16) bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
    else bits = __half_as_ushort(__float2half_rn(x));
    constexpr unsigned short kInfinity = kBfloat16 ? 0x7f80 : 0x7c00;
    overflow |= (bits & 0x7fff) == kInfinity && !isinf(x);
    return bits;
}

template <bool kBfloat16> __global__ void __launch_bounds__(kThreads) cast_floats(const float* from, int64_t elements, unsigned short* to, uint32_t* overflow) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads, first = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
    bool large = false;
    for (int64_t i = first; i < elements / 4; i += step) {
        const float4 x = reinterpret_cast<const float4*>(from)[i];
        reinterpret_cast<ushort4*>(to)[i] = make_ushort4(narrow<kBfloat16>(x.x, large), narrow<kBfloat16>(x.y, large), narrow<kBfloat16>(x.z, large), narrow<kBfloat16>(x.w, large));
    }
    const int64_t last = elements / 4 * 4 + first;
    if (last < elements) to[last] = narrow<kBfloat16>(from[last], large);
    if (large) atomicOr(overflow, 1u);
}

}  // namespace

cudaError_t launch_cast(const float* from, int64_t elements, ElementType type, void* to, uint32_t* overflow, cudaStream_t stream) {
    if (elements == 0) return cudaSuccess;
    const int blocks = static_cast<int>(std::min<int64_t>((elements / 4 + kThreads) / kThreads, kMaxBlocks));
    auto* target = static_cast<unsigned short*>(to);
    if (type == ElementType::kBfloat16) cast_floats<true><<<blocks, kThreads, 0, stream>>>(from, elements, target, overflow);
    else cast_floats<false><<<blocks, kThreads, 0, stream>>>(from, elements, target, overflow);
    return cudaGetLastError();
}

}  // namespace intflash
