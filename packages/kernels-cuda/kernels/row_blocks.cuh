// Rows of floats, a block each or some blocks: sums over a block, and codes or zeros behind what was computed.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "decoder_steps.h"
#include "group_codes.cuh"
#include "launch_early.h"
#include "row_codes.cuh"
#include "row_threads.h"
#include "warp_reductions.cuh"

namespace intflash {

constexpr int kAtOnce = 4;

/** A row lies in shared memory where it has room there and nobody wants its floats; else in its place among `out.floats`. */
constexpr int kSharedFloats = 96 * 1024 / 4 - 256;

/** Rows from which on a processor gets several, and a thread stands for kAtOnce. */
constexpr int kManyRows = 256;

inline int shared_bytes_for(int width, const LayerInput& out) { return out.wants_codes() && width <= kSharedFloats ? width * static_cast<int>(sizeof(float)) : 0; }

__device__ __forceinline__ float* row_memory(int width, const LayerInput& out, int64_t token) {
    extern __shared__ __align__(16) float shared_row[];
    return out.wants_codes() && width <= kSharedFloats ? shared_row : out.floats + token * out.columns;
}

template <class... Parameters> cudaError_t launch_rows(void (*kernel)(Parameters...), dim3 grid, int threads, int width, const LayerInput& out, cudaStream_t stream, Parameters... parameters) {
    const int bytes = shared_bytes_for(width, out);
    // From less than 48 KB on, since a kernel's own shared memory counts, too; always the same number, since threads launch the same kernels.
    if (bytes > 32 * 1024)
        if (const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedFloats * static_cast<int>(sizeof(float)))) return status;
    return launch_early(kernel, grid, threads, bytes, stream, parameters...);
}

/** Of all threads' sums, the same in every thread; `scratch`: 32 doubles. Warps of a smaller block stand for several, too. */
template <int kFold> __device__ __forceinline__ double block_sum(const double (&sum)[kFold], double* scratch) {
    const int warps = blockDim.x / 32;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kFold; ++i) {
        const double part = warp_sum(sum[i]);
        if (threadIdx.x % 32 == 0) scratch[i * warps + threadIdx.x / 32] = part;
    }
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < kFold * warps ? scratch[threadIdx.x % 32] : 0.);
}

/** A row's codes by groups: a whole number of them, then zeros. All of it has to be there. */
__device__ __forceinline__ void encode_row_groups(const float* row, int width, const LayerInput& out, int64_t token, uint32_t* findings) {
    const GroupRows& groups = out.groups;
#pragma unroll 1
    for (int c = threadIdx.x * 4; c < out.columns; c += blockDim.x * 4) {
        const float4 x = c < width ? *reinterpret_cast<const float4*>(row + c) : float4{};
        encode_group_columns(x, c, groups.group, groups.codes + token * out.columns, groups.scales + token * (out.columns / groups.group), findings);
    }
}

/** Zeros behind a row of floats, or its codes where they are wanted. `most`: of this thread's numbers. */
__device__ __forceinline__ void finish_row(float* row, int width, const LayerInput& out, int64_t token, float most, uint32_t* findings, float* scratch) {
    if (out.codes.codes != nullptr) return encode_row(row, width, out.columns, block_largest(most, scratch), out.codes.codes + token * out.columns, out.codes.scales + token, findings);
    if (out.groups.codes != nullptr) {
        __syncthreads();
        return encode_row_groups(row, width, out, token, findings);
    }
    for (int c = width + threadIdx.x; c < out.columns; c += blockDim.x) row[c] = 0.f;
}

/** f(i, c) for this thread's columns of a row, kAtOnce at a time: first `load`, then `use` of each. */
template <class Load, class Use> __device__ __forceinline__ void for_columns(int first, int width, int stride, const Load& load, const Use& use) {
    for (int base = first; base < width; base += kAtOnce * stride) {
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
            if (base + i * stride < width) load(i, base + i * stride);
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
            if (base + i * stride < width) use(i, base + i * stride);
    }
}

}  // namespace intflash
