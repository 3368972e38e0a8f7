// See launch_place_heads in decoder_steps.h: all that happens to a few tokens' heads before attention, in one launch, a warp a row.
//   §1 a token of each sequence: every head is a warp's alone
//   §2 several: blocks of query heads, and a block for each KV head, whose values' scales depend on each other
//   §3 launches
#include <cuda_runtime.h>

#include <type_traits>

#include "launch_early.h"
#include "ptx/grid_dependency.cuh"
#include "settle_scales.cuh"

namespace intflash {
namespace {

// ── §1 ──
constexpr int kTokenWarps = 2;  // small blocks: they find room beside the launch before

/** A new sequence's keys have no offsets, and their channels scales of 1. */
template <bool kChannels> __device__ __forceinline__ void begin_shifts(int dim, float* offsets, float* channels) {
    for_fours(dim, [&](int c) {
        four_of(offsets, c) = float4{};
        if constexpr (kChannels) four_of(channels, c) = make_float4(1.f, 1.f, 1.f, 1.f);
    });
}

/** After a value's codes: its weight, and of zeros before it, if it is the first of other numbers. */
template <bool kInt4> __device__ __forceinline__ void keep_value(const Place& at, const Largest& kept, float before, float own, float scale) {
    const int lane = threadIdx.x % 32;
    const bool is_first = before == 0.f && own > 0.f;
    const float of_zeros = floor_of(own);
    __syncwarp();  // all lanes have read `before`, whose place may change
#pragma unroll 1
    for (int token = is_first ? lane : at.start + lane; token <= at.start; token += 32) store_weight<kInt4>(at, token, token == at.start ? scale : of_zeros);
    if (lane > 0) return;
    keep_largest(at, kept, 0, fmaxf(before, own));
    kept.recent[kRecent - 1] = before;
}

/**
 * fit, encode_row_of and write_key of cache_rows.cuh in one pass for queries, keys and values, which values that need a larger scale than their own go through again.
 * One copy of the code: behind hundreds of megabytes of weights it is fetched for longer than it runs (docs/results/h200/log.md).
 */
template <bool kInt4, bool kChannels>
__global__ void __launch_bounds__(32 * kTokenWarps) place_token(const Heads heads, const HeadNorms norms, const Rotation rotation, const StepTable step, const QueryTarget target,
                                                                const CacheLayer layer, uint32_t* findings) {
    __shared__ HeadMemory rows[kTokenWarps];
    launch_dependents();  // attention reads older tokens' codes meanwhile
    const int token = blockIdx.x, which = blockIdx.y * kTokenWarps + threadIdx.x / 32, each = heads.heads + 2 * heads.kv_heads, dim = heads.head_dim;
    if (which >= each) return;
    float* const row = rows[threadIdx.x / 32].row;
    const bool is_query = which < heads.heads, is_value = which >= heads.heads + heads.kv_heads;
    const int head = is_query ? kChannels ? which / (heads.heads / heads.kv_heads) : 0 : which - heads.heads - (is_value ? heads.kv_heads : 0);
    // Nothing of this depends on the launch before.
    const StepSequence& sequence = step.sequences[token];
    const Place at = place_of(heads, layer, sequence, head);
    const Turn turn = is_value ? Turn{} : turn_at(rotation, at.start);
    const Largest kept = largest_of(sequence, layer, heads.kv_heads, head);
    const int64_t shifts = (static_cast<int64_t>(layer.index) * heads.kv_heads + head) * dim, query = static_cast<int64_t>(token) * heads.heads + which;
    float *const offsets = sequence.offsets + shifts, *const channels = kChannels ? sequence.channels + shifts : nullptr;
    const int slot = at.start % kPageTokens, row_bytes = code_bytes(layer.padded, kInt4);
    uint8_t* const image = is_query ? nullptr : at.cache.image(at.start / kPageTokens, head);
    wait_for_launch_before();
    const float before = kept.before;
    float floor = 0.f;
#pragma unroll 1
    for (bool again = false;; again = true) {
        load_head(row, heads.qkv + (static_cast<int64_t>(token) * each + which) * dim, dim);
        if (!is_value) {
            turn_as(row, dim, is_query ? norms.query : norms.key, norms.epsilon, rotation, turn);
            if (at.start > 0) {
                if (!is_query) shift_key(row, dim, offsets, channels);
                else if constexpr (kChannels) scale_query(row, dim, sequence, shifts / dim);
            } else if (!is_query) {
                begin_shifts<kChannels>(dim, offsets, channels);
            }
        }
        if constexpr (kInt4) rotate_row(row, row, dim);
        const float largest = largest_of_row(row, dim, findings);
        const bool is_int8 = !kInt4 || is_query;
        Int4Grid grid{symmetric_scale(largest), false};
        if constexpr (kInt4)
            if (!is_query) grid = fit_int4(row, dim, largest);
        if (again) grid = {floor, false};
        uint8_t* const codes = is_query ? reinterpret_cast<uint8_t*>(target.codes) + query * layer.padded : is_value ? value_row(image, slot, row_bytes) : key_row(image, slot, row_bytes);
        if (is_int8) encode_columns(row, dim, layer.padded, grid.scale, reinterpret_cast<int8_t*>(codes), threadIdx.x % 32 * 4, 128);
        else write_int4_codes(row, dim, layer.padded, grid, codes);
        if (!is_value) {
            if (threadIdx.x % 32 == 0) *(is_query ? target.scales + query : key_scales(image, row_bytes) + slot) = grid.scale;
            return;
        }
        const float own = again ? 0.f : counted_scale(grid.scale);
        if (again || own > before || grid.scale >= floor_of(before)) return keep_value<kInt4>(at, kept, before, own, grid.scale);
        floor = floor_of(before);
        __syncwarp();
    }
}

// ── §2 ──
/** Blocks of query heads, a warp each; behind them a block for each KV head of each sequence. */
template <bool kInt4, bool kChannels>
__global__ void __launch_bounds__(kAppendThreads, kInt4 ? 2 : 1) place_heads(const Heads heads, const HeadNorms norms, const Rotation rotation, const StepTable step, const QueryTarget target,
                                                                             const CacheLayer layer, int query_blocks, uint32_t* findings) {
    __shared__ HeadMemory rows[kAppendWarps];
    __shared__ float scales[kMinOffsetTokens];
    launch_dependents();  // attention reads older tokens' codes meanwhile
    const int warp = threadIdx.x / 32;
    HeadMemory& memory = rows[warp];
    if (static_cast<int>(blockIdx.x) < query_blocks) {
        const int index = blockIdx.x * kAppendWarps + warp, token = index / heads.heads, head = index % heads.heads;
        if (token >= step.tokens) return;
        const Turn turn = turn_at(rotation, step.position(token));  // tables do not depend on the launch before
        wait_for_launch_before();
        load_head(memory.row, heads.qkv + (static_cast<int64_t>(token) * (heads.heads + 2 * heads.kv_heads) + head) * heads.head_dim, heads.head_dim);
        turn_as(memory.row, heads.head_dim, norms.query, norms.epsilon, rotation, turn);
        if constexpr (kChannels) {
            const StepSequence& sequence = step.sequences[step.sequence_of[token]];
            if (sequence.start > 0)  // else scales are ones, and being written
                scale_query(memory.row, heads.head_dim, sequence, static_cast<int64_t>(layer.index) * heads.kv_heads + head / (heads.heads / heads.kv_heads));
        }
        return write_query(memory, heads, step, token, head, target, findings);
    }
    const int index = blockIdx.x - query_blocks, head = index % heads.kv_heads;
    const StepSequence& sequence = step.sequences[index / heads.kv_heads];
    const Place at = place_of(heads, layer, sequence, head);
    const int64_t place = (static_cast<int64_t>(layer.index) * heads.kv_heads + head) * at.dim;
    float *const offsets = sequence.offsets + place, *const channels = kChannels ? sequence.channels + place : nullptr;
    const bool is_first = at.start == 0;
    Turn turn{};  // of this warp's first row, if that is a key
    if (warp % 2 == 0 && warp < 2 * at.tokens) turn = turn_at(rotation, at.start + warp / 2);
    wait_for_launch_before();
    if (is_first)
        for (int d = threadIdx.x; d < at.dim; d += kAppendThreads) {
            offsets[d] = 0.f;
            if constexpr (kChannels) channels[d] = 1.f;
        }
    for (int row = warp; row < 2 * at.tokens; row += kAppendWarps) {
        const int token = row / 2;
        if (row % 2 == 0) {
            load_head(memory.row, at.keys + token * at.stride, at.dim);
            if (row != warp) turn = turn_at(rotation, at.start + token);
            turn_as(memory.row, at.dim, norms.key, norms.epsilon, rotation, turn);
            write_key<kInt4>(at, token, is_first ? nullptr : offsets, is_first ? nullptr : channels, memory, findings);
        } else {
            const float scale = write_value<kInt4>(at, token, nullptr, memory, findings);
            if (threadIdx.x % 32 == 0) scales[token] = scale;
        }
    }
    settle<kInt4>(at, largest_of(sequence, layer, heads.kv_heads, head), scales, rows, findings);
}

// ── §3 ──
/** f(kInt4, kChannels). */
template <class F> cudaError_t with_cache(const CacheLayer& cache, const F& f) {
    const auto with_channels = [&](auto int4) { return cache.channel_scales ? f(int4, std::true_type()) : f(int4, std::false_type()); };
    return cache.int4 ? with_channels(std::true_type()) : with_channels(std::false_type());
}

}  // namespace

bool can_place_heads(const StepTable& step) { return step.most < kMinOffsetTokens; }

cudaError_t launch_place_heads(const Heads& heads, const HeadNorms& norms, const Rotation& rotation, const StepTable& step, const QueryTarget& target, const CacheLayer& cache, uint32_t* findings,
                               cudaStream_t stream) {
    return with_cache(cache, [&](auto int4, auto channels) {
        if (step.count == step.tokens) {
            const dim3 grid(step.tokens, (heads.heads + 2 * heads.kv_heads + kTokenWarps - 1) / kTokenWarps);
            return launch_early(place_token<int4.value, channels.value>, grid, 32 * kTokenWarps, 0, stream, heads, norms, rotation, step, target, cache, findings);
        }
        const int query_blocks = (step.tokens * heads.heads + kAppendWarps - 1) / kAppendWarps;
        return launch_early(place_heads<int4.value, channels.value>, dim3(query_blocks + heads.kv_heads * step.count), kAppendThreads, 0, stream, heads, norms, rotation, step, target, cache,
                            query_blocks, findings);
    });
}

}  // namespace intflash
