// See merge_parts.h. A thread takes two neighbouring channels of a row: O is the mean of the parts' O, each weighted by the sum of its exponentials, exp(lse).
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "grid_limits.h"
#include "merge_parts.h"

namespace intflash {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ void store_pair(float* to, const float2& pair) { *reinterpret_cast<float2*>(to) = pair; }
__device__ __forceinline__ void store_pair(__half* to, const float2& pair) { *reinterpret_cast<__half2*>(to) = __float22half2_rn(pair); }
__device__ __forceinline__ void store_pair(__nv_bfloat16* to, const float2& pair) { *reinterpret_cast<__nv_bfloat162*>(to) = __float22bfloat162_rn(pair); }

template <class Element> __device__ __forceinline__ void merge_pair(const PartRows& parts, const SortedSequence& sequence, int batch, int head, int64_t row, int channel, const MergedRows& merged) {
    const int64_t first = sequence.part_base + static_cast<int64_t>(head) * sequence.parts * sequence.q_len + row;
    const auto lse_of = [&](int part) { return parts.lse[first + static_cast<int64_t>(part) * sequence.q_len]; };
    const auto pair_of = [&](int part) { return *reinterpret_cast<const float2*>(parts.out + (first + static_cast<int64_t>(part) * sequence.q_len) * merged.padded + channel); };
    float top = -INFINITY, sum = 0.f;
    for (int part = 0; part < sequence.parts; ++part) top = fmaxf(top, lse_of(part));
    float2 mean{0.f, 0.f};
    if (top > -INFINITY)  // else no part has a key that this row sees
#pragma unroll 4
        for (int part = 0; part < sequence.parts; ++part) {
            const float weight = expf(lse_of(part) - top);
            const float2 o = pair_of(part);
            mean.x = fmaf(o.x, weight, mean.x), mean.y = fmaf(o.y, weight, mean.y);
            sum += weight;
        }
    if (sum > 0.f) mean.x /= sum, mean.y /= sum;
    const int64_t token = sequence.q_start + row;
    store_pair(static_cast<Element*>(merged.out) + batch * merged.out_strides.batch + head * merged.out_strides.head + token * merged.out_strides.token + channel, mean);
    if (channel == 0 && merged.lse != nullptr) merged.lse[batch * merged.lse_strides.batch + head * merged.lse_strides.head + token * merged.lse_strides.token] = top + logf(fmaxf(sum, 1.f));  // the sum is 1 and more where there is a key
}

/** `blocks` of them share a sequence's rows of one head. */
template <class Element> __global__ void __launch_bounds__(kThreads) merge_parts(const PartRows parts, const SortedSequence* sequences, int blocks, const MergedRows merged) {
    const int batch = blockIdx.x / blocks, block = blockIdx.x - batch * blocks, pairs = merged.padded / 2;
    const SortedSequence sequence = sequences[batch];
    if (sequence.parts == 0) return;
    for (int64_t index = static_cast<int64_t>(block) * kThreads + threadIdx.x; index < int64_t{sequence.q_len} * pairs; index += static_cast<int64_t>(blocks) * kThreads) {
        const int channel = static_cast<int>(index % pairs) * 2;
        if (channel < merged.head_dim_v) merge_pair<Element>(parts, sequence, batch, blockIdx.y, index / pairs, channel, merged);
    }
}

}  // namespace

cudaError_t launch_merge_parts(const PartRows& parts, const SortedSequence* sequences, int count, int most_queries, const MergedRows& merged, cudaStream_t stream) {
    // Sequences differ in length, and blocks that find nothing to do take time, too.
    constexpr int64_t kFew = 4, kEnough = 4096;
    const int64_t wanted = (int64_t{most_queries} * (merged.padded / 2) + kThreads - 1) / kThreads;
    const int64_t blocks = std::max<int64_t>(1, std::min(wanted, std::max(kFew, kEnough / std::max<int64_t>(1, int64_t{count} * merged.heads))));
    if (blocks * count > INT32_MAX || merged.heads > kMaxGridY) return cudaErrorInvalidConfiguration;
    const dim3 grid(static_cast<unsigned>(blocks * count), static_cast<unsigned>(merged.heads));
    const auto launch = [&](auto kernel) { kernel<<<grid, kThreads, 0, stream>>>(parts, sequences, static_cast<int>(blocks), merged); };
    if (merged.out_type == ElementType::kFloat32) launch(merge_parts<float>);
    else if (merged.out_type == ElementType::kFloat16) launch(merge_parts<__half>);
    else launch(merge_parts<__nv_bfloat16>);
    return cudaGetLastError();
}

}  // namespace intflash
