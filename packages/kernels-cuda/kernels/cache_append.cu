// See launch_append and launch_place_heads in decoder_steps.h: the TypeScript cache (packages/llm, kv-cache-layer.ts and fitted-int4.ts) on the
// device. A warp a row.
//   §1 the first append: keys' shifts    §4 the values' floor
//   §2 a row's scale and codes           §5 few tokens: one launch for all that happens to heads
//   §3 rows into the cache               §6 many tokens: rows of 64 tokens a block, then one block a KV head and sequence for scales
#include <cuda_runtime.h>

#include <type_traits>

#include "decoder_steps.h"
#include "exact_math.cuh"
#include "fitted_int4.cuh"
#include "hadamard.cuh"
#include "int4_codes.cuh"
#include "launch_early.h"
#include "ptx/grid_dependency.cuh"
#include "row_codes.cuh"
#include "turn_head.cuh"
#include "warp_reductions.cuh"

namespace intflash {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kMaxGridZ = 65535;  // CUDA's limit
constexpr int kOffsetTokens = 64;  // a key offset is the mean of this many tokens at most …
constexpr int kMinOffsetTokens = 8;  // … and of no fewer than this
constexpr int kMostChannelBits = 30;  // a channel's scale is 2^30 at most: queries times it stay far inside float32
constexpr float kScaleFloor = 9.53674316e-7f;  // 2^-20: no value row gets a scale below this part of the largest before it

struct Place {
    CacheView cache;
    int start, tokens, dim, head;
    int64_t stride;
    const float *keys, *values;  // of the first token
};

__device__ __forceinline__ Place place_of(const Heads& heads, const CacheLayer& layer, const StepSequence& sequence, int head) {
    Place at;
    at.cache = view_of(sequence, layer);
    at.start = sequence.start;
    at.tokens = sequence.tokens;
    at.dim = heads.head_dim;
    at.head = head;
    at.stride = static_cast<int64_t>(heads.heads + 2 * heads.kv_heads) * heads.head_dim;
    at.keys = heads.qkv + sequence.first * at.stride + static_cast<int64_t>(heads.heads + head) * heads.head_dim;
    at.values = at.keys + static_cast<int64_t>(heads.kv_heads) * heads.head_dim;
    return at;
}

// ── §1 ──
/** Of at least kMinOffsetTokens tokens; fewer have offsets of zero. */
__device__ __forceinline__ float mean_key(const Place& at, int d) {
    const int counted = min(at.tokens, kOffsetTokens);
    double sum = 0;
#pragma unroll 8
    for (int token = 0; token < counted; ++token) sum = __dadd_rn(sum, at.keys[token * at.stride + d]);
    return static_cast<float>(sum / counted);
}

__device__ __forceinline__ int exponent_of(float magnitude) { return __float_as_int(magnitude) >> 23; }

/** A block a KV head and sequence, a thread a channel. Channels more than twice as large as the middle one get the power of two that brings them there. */
__global__ void __launch_bounds__(kMaxHeadDim) freeze_shifts(const Heads heads, const CacheLayer layer, const StepTable step) {
    __shared__ int exponents[kMaxHeadDim], middle;
    const StepSequence sequence = step.sequences[blockIdx.y];
    if (sequence.start > 0) return;
    const Place at = place_of(heads, layer, sequence, blockIdx.x);
    const int d = threadIdx.x, counted = min(at.tokens, kOffsetTokens);
    const bool is_channel = d < at.dim;
    float offset = 0.f, scale = 1.f;
    if (counted >= kMinOffsetTokens) {
        if (is_channel) {
            offset = mean_key(at, d);
            float largest = 0.f;
            for (int token = 0; token < counted; ++token) largest = fmaxf(largest, fabsf(__fsub_rn(at.keys[token * at.stride + d], offset)));
            exponents[d] = exponent_of(largest);
        }
        __syncthreads();
        if (is_channel) {
            int rank = 0;
            for (int other = 0; other < at.dim; ++other) rank += exponents[other] < exponents[d] || (exponents[other] == exponents[d] && other < d);
            if (rank == at.dim / 2) middle = exponents[d];
        }
        __syncthreads();
        if (is_channel) scale = __int_as_float((127 + min(max(exponents[d] - middle - 1, 0), kMostChannelBits)) << 23);
    }
    const int64_t place = (static_cast<int64_t>(layer.index) * heads.kv_heads + at.head) * at.dim + d;
    if (is_channel) sequence.offsets[place] = __fdiv_rn(offset, scale), sequence.channels[place] = scale;
}

// ── §2 ──
/** Largest magnitude of a row, the same in every lane. */
__device__ __forceinline__ float row_max(const float* row, int dim, uint32_t* findings) {
    float largest = 0.f;
    bool bad = false;
    for (int d = threadIdx.x % 32; d < dim; d += 32) largest = fmaxf(largest, magnitude(row[d], bad));
    if (bad) atomicOr(findings, kNonfinite);
    return warp_max(largest);
}

template <bool kInt4> __device__ __forceinline__ Int4Grid fit(const float* row, int dim, uint32_t* findings) {
    const float largest = row_max(row, dim, findings);
    if constexpr (kInt4) return fit_int4(row, dim, largest);
    else return {symmetric_scale(largest), false};
}

template <bool kInt4> __device__ __forceinline__ void write_codes(const float* row, int dim, int padded, const Int4Grid& grid, uint8_t* to) {
    if constexpr (kInt4) {
#pragma unroll 1
        for (int byte = threadIdx.x % 32; byte < padded / 2; byte += 32)
            to[byte] = 2 * byte < dim ? pack_int4(grid.code(row[2 * byte]), grid.code(row[2 * byte + 1])) : uint8_t{0};
    } else {
        for (int d = threadIdx.x % 32; d < padded; d += 32) to[d] = static_cast<uint8_t>(d < dim ? to_code(row[d], grid.scale) : 0);
    }
}

/** Codes of a row in shared memory under its own scale, which is returned, or under `floor`. */
template <bool kInt4> __device__ __forceinline__ float encode_row_of(float* row, int dim, int padded, const float* floor, uint8_t* to, uint32_t* findings) {
    if constexpr (kInt4) rotate_row(row, row, dim);
    const Int4Grid grid = floor == nullptr ? fit<kInt4>(row, dim, findings) : Int4Grid{*floor, false};
    write_codes<kInt4>(row, dim, padded, grid, to);
    __syncwarp();  // the row's memory is free again
    return grid.scale;
}

/** For INT4 one copy of it serves keys and values alike: code that runs once is fetched for longer than it runs. */
__device__ __noinline__ float encode_int4_row(float* row, int dim, int padded, const float* floor, uint8_t* to, uint32_t* findings) {
    __builtin_assume(__isShared(row));
    return encode_row_of<true>(row, dim, padded, floor, to, findings);
}

template <bool kInt4> __device__ __forceinline__ float encode_head(float* row, int dim, int padded, const float* floor, uint8_t* to, uint32_t* findings) {
    if constexpr (kInt4) return encode_int4_row(row, dim, padded, floor, to, findings);
    else return encode_row_of<false>(row, dim, padded, floor, to, findings);
}

// ── §3 ──
/** From `memory.row`, a key that has been turned. `offsets`: null for zeros; `channels`: null for ones. */
template <bool kInt4> __device__ __forceinline__ void write_key(const Place& at, int token, const float* offsets, const float* channels, HeadMemory& memory, uint32_t* findings) {
    if (channels != nullptr)
        for (int d = threadIdx.x % 32; d < at.dim; d += 32) memory.row[d] = __fdiv_rn(memory.row[d], channels[d]);
    for (int d = threadIdx.x % 32; d < at.dim; d += 32) memory.row[d] = __fsub_rn(memory.row[d], offsets == nullptr ? 0.f : offsets[d]);
    __syncwarp();
    const int row_bytes = code_bytes(at.cache.padded, kInt4), slot = (at.start + token) % kPageTokens;
    uint8_t* image = at.cache.image((at.start + token) / kPageTokens, at.head);
    const float scale = encode_head<kInt4>(memory.row, at.dim, at.cache.padded, nullptr, key_row(image, slot, row_bytes), findings);
    if (threadIdx.x % 32 == 0) key_scales(image, row_bytes)[slot] = scale;
}

/** Codes of a value row under its own scale, which is returned, or under `floor` where its own is smaller. */
template <bool kInt4> __device__ __forceinline__ float write_value(const Place& at, int token, const float* floor, HeadMemory& memory, uint32_t* findings) {
    load_head(memory.row, at.values + token * at.stride, at.dim);
    uint8_t* image = at.cache.image((at.start + token) / kPageTokens, at.head);
    return encode_head<kInt4>(memory.row, at.dim, at.cache.padded, floor, value_row(image, (at.start + token) % kPageTokens, code_bytes(at.cache.padded, kInt4)), findings);
}

template <bool kInt4> __device__ __forceinline__ void store_weight(const Place& at, int token, float scale) {
    const float weight = fmaxf(scale, kMinCacheWeight);
    uint8_t* image = at.cache.image(token / kPageTokens, at.head);
    const int row_bytes = code_bytes(at.cache.padded, kInt4);
    value_taus(image, row_bytes)[token % kPageTokens] = log2_weight(weight);
    value_inverses(image, row_bytes)[token % kPageTokens] = __fdiv_rn(1.f, weight);
}

// ── §4 ──
/** The first value row that is not zero, and its scale: rows of zeros before it had nothing to compare with, and take their floor from it. */
struct FirstValue {
    int token;
    float scale;
};

__device__ __forceinline__ float floor_of(float largest) { return largest == 0.f ? 1.f : __fmul_rn(largest, kScaleFloor); }

/** The largest value scale of a head, as StepSequence has it: before these tokens, and where it is kept. */
struct Largest {
    float before;
    float* recent;
    int64_t offset;  // bytes into a page
};

__device__ __forceinline__ Largest largest_of(const StepSequence& sequence, const CacheLayer& layer, int kv_heads, int head) {
    const int64_t place = static_cast<int64_t>(layer.index) * kv_heads + head;
    return {sequence.before == nullptr ? 0.f : sequence.before[place * sequence.before_stride], sequence.recent + place * kRecent, layer.largest_offset + place * static_cast<int64_t>(sizeof(float))};
}

/** Maximum of the threads before this one, over a block of kBlockWarps. */
template <int kBlockWarps> __device__ __forceinline__ float max_before(float value) {
    __shared__ float most[kBlockWarps];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float running = value;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const float other = __shfl_up_sync(~0u, running, step);
        if (lane >= step) running = fmaxf(running, other);
    }
    if (lane == 31) most[warp] = running;
    const float earlier = __shfl_up_sync(~0u, running, 1);
    __syncthreads();
    float before = lane == 0 ? 0.f : earlier;
#pragma unroll
    for (int other = 0; other < kBlockWarps; ++other)
        if (other < warp) before = fmaxf(before, most[other]);
    return before;
}

/** The largest scale up to a token, where it may be wanted again. */
__device__ __forceinline__ void keep_largest(const Place& at, const Largest& kept, int token, float largest) {
    const int position = at.start + token, slot = position % kPageTokens;
    if (token >= at.tokens - kPageTokens) kept.recent[slot] = largest;
    if (slot == kPageTokens - 1) *reinterpret_cast<float*>(at.cache.pages[position / kPageTokens] + kept.offset) = largest;
}

/**
 * By a whole block, a run of rows a thread: each row's scale from its own and the largest of the rows before it. Rows that need other codes for
 * it get the scale's negative. `first` (shared) is set by who finds it.
 */
template <int kBlockWarps> __device__ __forceinline__ void settle_scales(const Place& at, const Largest& kept, float* scales, FirstValue& first) {
    constexpr int kBlockThreads = 32 * kBlockWarps;
    const int each = (at.tokens + kBlockThreads - 1) / kBlockThreads, begin = min(static_cast<int>(threadIdx.x) * each, at.tokens), end = min(begin + each, at.tokens);
    const auto counted = [](float scale) { return scale > kMinScale ? scale : 0.f; };
    float most = 0.f;
#pragma unroll 4
    for (int token = begin; token < end; ++token) most = fmaxf(most, counted(scales[token]));
    float before = fmaxf(kept.before, max_before<kBlockWarps>(most));  // past this, all threads have read kept.before: its place may change
    for (int token = begin; token < end; ++token) {
        const float own = scales[token];
        if (counted(own) > before) {
            if (before == 0.f) first = {token, own};
        } else if (own < floor_of(before)) {
            scales[token] = -floor_of(before);
        }
        before = fmaxf(before, counted(own));
        keep_largest(at, kept, token, before);
    }
    if (threadIdx.x == 0) kept.recent[kRecent - 1] = kept.before;
}

/** By a whole block, after write_value of all rows gave `scales`: each row's weight, and other codes where it needs them. */
template <bool kInt4, int kBlockWarps> __device__ __forceinline__ void settle(const Place& at, const Largest& kept, float* scales, HeadMemory (&rows)[kBlockWarps], uint32_t* findings) {
    constexpr int kBlockThreads = 32 * kBlockWarps;
    __shared__ FirstValue first;
    if (threadIdx.x == 0) first = {0, 0.f};
    __syncthreads();  // all scales are there, too
    settle_scales<kBlockWarps>(at, kept, scales, first);
    __syncthreads();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int base = warp * 32; base < at.tokens; base += kBlockThreads) {
        const float mine = base + lane < at.tokens ? scales[base + lane] : 0.f;
        for (unsigned wanting = __ballot_sync(~0u, mine < 0.f); wanting != 0; wanting &= wanting - 1) {
            const int which = __ffs(static_cast<int>(wanting)) - 1;
            const float floor = -__shfl_sync(~0u, mine, which);
            write_value<kInt4>(at, base + which, &floor, rows[warp], findings);
        }
    }
    const int zeros = first.scale > 0.f ? first.token : 0;  // rows of these tokens, all of zeros
    for (int token = threadIdx.x; token < at.tokens; token += kBlockThreads) store_weight<kInt4>(at, at.start + token, token < zeros ? floor_of(first.scale) : fabsf(scales[token]));
    if (first.scale > 0.f)
        for (int token = threadIdx.x; token < at.start; token += kBlockThreads) store_weight<kInt4>(at, token, floor_of(first.scale));
}

// ── §5 ──
/** Blocks of query heads, a warp each; behind them a block for each KV head of each sequence. A token's key and value are work for two warps: small blocks, many at a time. */
template <bool kInt4, bool kChannels, int kBlockWarps>
__global__ void __launch_bounds__(32 * kBlockWarps, kInt4 ? (kBlockWarps == 2 ? 7 : 2) : 1) place_heads(const Heads heads, const HeadNorms norms, const Rotation rotation, const StepTable step, const QueryTarget target, const CacheLayer layer,
                                                        int query_blocks, uint32_t* findings) {
    __shared__ HeadMemory rows[kBlockWarps];
    __shared__ float scales[kMinOffsetTokens];
    launch_dependents();  // attention reads older tokens' codes meanwhile
    const int warp = threadIdx.x / 32;
    HeadMemory& memory = rows[warp];
    if (static_cast<int>(blockIdx.x) < query_blocks) {
        const int index = blockIdx.x * kBlockWarps + warp, token = index / heads.heads, head = index % heads.heads;
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
        for (int d = threadIdx.x; d < at.dim; d += 32 * kBlockWarps) {
            offsets[d] = 0.f;
            if constexpr (kChannels) channels[d] = 1.f;
        }
    for (int row = warp; row < 2 * at.tokens; row += kBlockWarps) {
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
    settle<kInt4, kBlockWarps>(at, largest_of(sequence, layer, heads.kv_heads, head), scales, rows, findings);
}

// ── §6 ──
constexpr int kBlockTokens = 64;

template <bool kInt4, bool kChannels> __global__ void __launch_bounds__(kThreads, kInt4 ? 3 : 5) append_rows(const Heads heads, const CacheLayer layer, const StepTable step, float* scales, uint32_t* findings) {
    __shared__ HeadMemory rows[kWarps];
    __shared__ float offsets[kMaxHeadDim];
    const int head = blockIdx.x, warp = threadIdx.x / 32, first_token = blockIdx.z * kBlockTokens;
    const StepSequence sequence = step.sequences[blockIdx.y];
    if (first_token >= sequence.tokens) return;
    const Place at = place_of(heads, layer, sequence, head);
    const int64_t place = (static_cast<int64_t>(layer.index) * heads.kv_heads + head) * at.dim;
    float* const kept = sequence.offsets + place;
    const float* const channels = kChannels ? sequence.channels + place : nullptr;
    const bool is_frozen = kChannels || at.start > 0;
    for (int d = threadIdx.x; d < at.dim; d += kThreads) {
        offsets[d] = is_frozen ? kept[d] : at.tokens < kMinOffsetTokens ? 0.f : mean_key(at, d);
        if (!is_frozen && first_token == 0) kept[d] = offsets[d];
    }
    __syncthreads();
    float* own = scales + static_cast<int64_t>(head) * step.tokens + sequence.first;
    for (int token = first_token + warp; token < min(first_token + kBlockTokens, at.tokens); token += kWarps) {
        load_head(rows[warp].row, at.keys + token * at.stride, at.dim);
        write_key<kInt4>(at, token, offsets, channels, rows[warp], findings);
        const float scale = write_value<kInt4>(at, token, nullptr, rows[warp], findings);
        if (threadIdx.x % 32 == 0) own[token] = scale;
    }
}

template <bool kInt4> __global__ void __launch_bounds__(kThreads) settle_rows(const Heads heads, const CacheLayer layer, const StepTable step, float* scales, uint32_t* findings) {
    __shared__ HeadMemory rows[kWarps];
    launch_dependents();
    const int head = blockIdx.x;
    const StepSequence sequence = step.sequences[blockIdx.y];
    float* own = scales + static_cast<int64_t>(head) * step.tokens + sequence.first;
    settle<kInt4>(place_of(heads, layer, sequence, head), largest_of(sequence, layer, heads.kv_heads, head), own, rows, findings);
}

template <bool kInt4> cudaError_t launch_append_as(const Heads& heads, const CacheLayer& cache, const StepTable& step, float* scratch, uint32_t* findings, cudaStream_t stream) {
    const dim3 grid(heads.kv_heads, step.count, (step.most + kBlockTokens - 1) / kBlockTokens);
    if (grid.z > kMaxGridZ) return cudaErrorInvalidConfiguration;
    if (cache.channel_scales) append_rows<kInt4, true><<<grid, kThreads, 0, stream>>>(heads, cache, step, scratch, findings);
    else append_rows<kInt4, false><<<grid, kThreads, 0, stream>>>(heads, cache, step, scratch, findings);
    settle_rows<kInt4><<<dim3(heads.kv_heads, step.count), kThreads, 0, stream>>>(heads, cache, step, scratch, findings);
    return cudaGetLastError();
}

}  // namespace

cudaError_t launch_freeze_shifts(const Heads& heads, const CacheLayer& cache, const StepTable& step, cudaStream_t stream) {
    freeze_shifts<<<dim3(heads.kv_heads, step.count), kMaxHeadDim, 0, stream>>>(heads, cache, step);
    return cudaGetLastError();
}

bool can_place_heads(const StepTable& step) { return step.most < kMinOffsetTokens; }

cudaError_t launch_place_heads(const Heads& heads, const HeadNorms& norms, const Rotation& rotation, const StepTable& step, const QueryTarget& target, const CacheLayer& cache, uint32_t* findings,
                               cudaStream_t stream) {
    const auto launch = [&](auto int4, auto channels, auto warps) {
        const int query_blocks = (step.tokens * heads.heads + warps.value - 1) / warps.value;
        const dim3 grid(query_blocks + heads.kv_heads * step.count);
        return launch_early(place_heads<int4.value, channels.value, warps.value>, grid, 32 * warps.value, 0, stream, heads, norms, rotation, step, target, cache, query_blocks, findings);
    };
    const auto launch_of = [&](auto int4, auto channels) { return step.most == 1 ? launch(int4, channels, std::integral_constant<int, 2>()) : launch(int4, channels, std::integral_constant<int, kWarps>()); };
    const auto launch_as = [&](auto int4) { return cache.channel_scales ? launch_of(int4, std::true_type()) : launch_of(int4, std::false_type()); };
    return cache.int4 ? launch_as(std::true_type()) : launch_as(std::false_type());
}

cudaError_t launch_append(const Heads& heads, const CacheLayer& cache, const StepTable& step, float* scratch, uint32_t* findings, cudaStream_t stream) {
    return cache.int4 ? launch_append_as<true>(heads, cache, step, scratch, findings, stream) : launch_append_as<false>(heads, cache, step, scratch, findings, stream);
}

}  // namespace intflash
