// Puts back into the log-sum-exp what smooth-K took out of it.
#include <cuda_runtime.h>

#include "float_pieces.cuh"

namespace intflash {
namespace {

constexpr int kWarps = 8;

/** One warp a query. */
__global__ void __launch_bounds__(kWarps * 32) restore_lse(const Operand query, const SequenceTable table, int padded, const float* means, int group, float scale, float* lse,
                                                           RowStrides strides) {
    const Place at = place(table);
    const int row = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= at.sequence.q_len) return;
    const int64_t first = row_offset(query, at.batch, at.head, at.sequence.q_start + row);
    const float* mean = means + (static_cast<int64_t>(at.batch) * (query.heads / group) + at.head / group) * padded;
    double dot = 0;
    for (int d = lane; d < query.dim; d += 32) dot += static_cast<double>(load_one(query, first + d)) * mean[d];
    for (int step = 16; step > 0; step /= 2) dot += __shfl_xor_sync(~0u, dot, step);
    float* target = lse + at.batch * strides.batch + at.head * strides.head + (at.sequence.q_start + row) * strides.token;
    if (lane == 0) *target = static_cast<float>(*target + scale * dot);  // -infinity stays
}

}  // namespace

cudaError_t launch_restore_lse(const Operand& query, const SequenceTable& table, int padded, const float* means, int kv_heads, float scale, float* lse,
                               const RowStrides& lse_strides, cudaStream_t stream) {
    restore_lse<<<grid_of((table.max_q_len + kWarps - 1) / kWarps, query.heads, table), kWarps * 32, 0, stream>>>(query, table, padded, means, query.heads / kv_heads, scale, lse,
                                                                                                                 lse_strides);
    return cudaGetLastError();
}

}  // namespace intflash
