// The refusals of docs/arithmetic.md: magnitudes of what stays float, and the bound of a head's scores.
#include <cuda_runtime.h>

#include <algorithm>

#include "float_pieces.cuh"
#include "launch_early.h"
#include "ptx/grid_dependency.cuh"

namespace intflash {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kRowsPerBlock = 128;

/** One warp a row at a time; `maxima` may be null. */
__global__ void __launch_bounds__(kThreads) inspect(const Operand operand, const SequenceTable table, bool queries, float allowed, uint32_t* maxima, uint32_t* bad,
                                                    uint32_t* large) {
    const Place at = place(table);
    const int64_t length = queries ? at.sequence.q_len : at.sequence.k_len, start = queries ? at.sequence.q_start : at.sequence.k_start;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float largest = 0.f;
    for (int64_t row = first + warp; row < min(first + kRowsPerBlock, length); row += kWarps) {
        const int64_t from = row_offset(operand, at.batch, at.head, start + row);
        for (int channel = lane * kChunk; channel < operand.dim; channel += 32 * kChunk) {
            float x[kChunk];
            load_chunk(x, operand, from + channel);
            if (!all_within(x, allowed)) report(x, allowed, bad, large);
            largest = fmaxf(largest, magnitude(x));
        }
    }
    if (maxima != nullptr) note_max(maxima + static_cast<int64_t>(at.batch) * operand.heads + at.head, largest);
}

__device__ void judge(const HeadMaxima& maxima, int64_t count, int heads, int group, double codes, int head_dim, double factor, Findings* findings) {
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
        const int64_t batch = i / heads, head = i % heads;
        const double query = codes * __uint_as_float(maxima.query[i]);
        const double key = codes * __uint_as_float(maxima.key[batch * (heads / group) + head / group]);
        // Each factor counts as at least 1: a partial product is formed before the others can make it small.
        const double bound = head_dim * fmax(query, 1.) * fmax(key, 1.) * fmax(factor, 1.);
        if (!(bound <= 0x1p100)) atomicMax(reinterpret_cast<unsigned long long*>(&findings->score_bound), static_cast<unsigned long long>(__double_as_longlong(bound)));
    }
}

__global__ void __launch_bounds__(kThreads) judge_scores(const HeadMaxima maxima, int64_t count, int heads, int group, double codes, int head_dim, double factor,
                                                         Findings* findings) {
    judge(maxima, count, heads, group, codes, head_dim, factor, findings);
}

/** The first block judges; all clear `all` pieces of 16 bytes, of which the first `judged` are the maxima. */
__global__ void __launch_bounds__(kThreads) judge_and_clear(const HeadMaxima maxima, int64_t count, int heads, int group, int head_dim, double factor, Findings* findings,
                                                            uint4* pieces, int64_t judged, int64_t all) {
    launch_dependents();
    wait_for_launch_before();
    for (int64_t i = judged + int64_t{blockIdx.x} * kThreads + threadIdx.x; i < all; i += int64_t{gridDim.x} * kThreads) pieces[i] = make_uint4(0, 0, 0, 0);
    if (blockIdx.x > 0) return;
    judge(maxima, count, heads, group, 127, head_dim, factor, findings);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < judged; i += kThreads) pieces[i] = make_uint4(0, 0, 0, 0);
}

double natural_to_binary(float scale) { return static_cast<double>(scale) * 1.4426950408889634; }

}  // namespace

cudaError_t launch_inspect(const Operand& query, const Operand& key, const Operand& value, float largest_query, float largest, const SequenceTable& table,
                           const HeadMaxima& maxima, uint32_t* value_maxima, Findings* findings, cudaStream_t stream) {
    const auto blocks = [](int64_t rows) { return (rows + kRowsPerBlock - 1) / kRowsPerBlock; };
    const int64_t keys = int64_t{table.max_tiles} * kTileKeys;
    inspect<<<grid_of(blocks(table.max_q_len), query.heads, table), kThreads, 0, stream>>>(query, table, true, largest_query, maxima.query, &findings->bad_query, &findings->large_query);
    inspect<<<grid_of(blocks(keys), key.heads, table), kThreads, 0, stream>>>(key, table, false, largest, maxima.key, &findings->bad_key, &findings->large_key);
    inspect<<<grid_of(blocks(keys), value.heads, table), kThreads, 0, stream>>>(value, table, false, largest, value_maxima, &findings->bad_value, &findings->large_value);
    return cudaGetLastError();
}

cudaError_t launch_judge_scores(const HeadMaxima& maxima, const SequenceTable& table, int heads, int kv_heads, double codes, int head_dim, float scale, Findings* findings,
                                cudaStream_t stream) {
    judge_scores<<<1, kThreads, 0, stream>>>(maxima, static_cast<int64_t>(table.count) * heads, heads, heads / kv_heads, codes, head_dim, natural_to_binary(scale), findings);
    return cudaGetLastError();
}

cudaError_t launch_judge_and_clear(const QuantizeRequest& request, const SequenceTable& table, cudaStream_t stream) {
    const HeadMaxima& maxima = request.head_maxima;
    const int heads = request.query.heads;
    const auto judged = (reinterpret_cast<uintptr_t>(request.statistics.arrivals) - reinterpret_cast<uintptr_t>(maxima.query)) / sizeof(uint4);
    const auto all = request.cleared_bytes / sizeof(uint4);
    const size_t blocks = std::min<size_t>(1 + (all - judged) / (4 * kThreads), 128);
    // Early: its blocks are there when the quantizers' last ones end.
    return launch_early(judge_and_clear, dim3(static_cast<unsigned>(blocks)), kThreads, 0, stream, maxima, static_cast<int64_t>(table.count) * heads, heads, heads / request.key.heads,
                        static_cast<int>(request.query.dim), natural_to_binary(request.scale), request.findings, reinterpret_cast<uint4*>(maxima.query),
                        static_cast<int64_t>(judged), static_cast<int64_t>(all));
}

}  // namespace intflash
