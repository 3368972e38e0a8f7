// See check_operands.h. Bound by memory, and small beside what follows.
#include <cuda_runtime.h>

#include <cfloat>

#include "check_operands.h"

namespace intflash {
namespace {

constexpr int kThreads = 256;

__global__ void check_scales(const ScaleOperand scale, Given what, const SequenceTable table, int dim, Findings* findings) {
    const Sequence sequence = table.sequences[blockIdx.z];
    int64_t start = 0, length = dim;
    if (what == Given::kQueryScale) start = sequence.q_start, length = sequence.q_len;
    else if (what != Given::kChannelScale) start = sequence.k_start, length = sequence.k_len;
    const int64_t step = what == Given::kChannelScale ? 1 : scale.strides.token;  // channels lie next to each other
    if (step == 0) start = 0, length = length > 0 ? 1 : 0;
    const float* first = scale.data + blockIdx.z * scale.strides.batch + blockIdx.y * scale.strides.head;
    bool bad = false;
    for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < length; i += static_cast<int64_t>(gridDim.x) * kThreads) {
        const float value = first[(start + i) * step];
        bad |= !(value > 0.f && value <= FLT_MAX);
    }
    if (bad) atomicOr(&findings->bad_given, static_cast<uint32_t>(what));
}

__global__ void check_mask(const MaskOperand mask, int64_t heads, int64_t queries, int64_t keys, int64_t count, Findings* findings) {
    bool bad = false;
    for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * kThreads) {
        const int64_t key = i % keys, row = i / keys, query = row % queries, plane = row / queries;
        const float value = static_cast<const float*>(mask.data)[plane / heads * mask.batch + plane % heads * mask.head + query * mask.query + key * mask.key];
        bad |= !(value <= FLT_MAX);
    }
    if (bad) atomicOr(&findings->bad_given, static_cast<uint32_t>(Given::kMask));
}

unsigned blocks_for(int64_t items, int64_t most) {
    const int64_t blocks = (items + kThreads - 1) / kThreads;
    return static_cast<unsigned>(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

}  // namespace

cudaError_t launch_check_scales(const ScaleOperand& scale, Given what, const SequenceTable& table, int heads, int dim, Findings* findings, cudaStream_t stream) {
    const int64_t longest = what == Given::kQueryScale ? table.max_q_len : what == Given::kChannelScale ? dim : int64_t{table.max_tiles} * 128;
    const dim3 grid(blocks_for(longest, 64), static_cast<unsigned>(heads), static_cast<unsigned>(table.count));
    check_scales<<<grid, kThreads, 0, stream>>>(scale, what, table, dim, findings);
    return cudaGetLastError();
}

cudaError_t launch_check_mask(const MaskOperand& mask, const SequenceTable& table, int heads, int64_t keys, Findings* findings, cudaStream_t stream) {
    // A stride of 0 repeats: one of the repeated entries is enough.
    const int64_t planes_heads = mask.head == 0 ? 1 : heads, queries = mask.query == 0 ? 1 : table.max_q_len, columns = mask.key == 0 ? 1 : keys;
    const int64_t count = (mask.batch == 0 ? 1 : table.count) * planes_heads * queries * columns;
    if (count == 0) return cudaSuccess;
    check_mask<<<blocks_for(count, 1024), kThreads, 0, stream>>>(mask, planes_heads, queries, columns, count, findings);
    return cudaGetLastError();
}

}  // namespace intflash
