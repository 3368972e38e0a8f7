// A head's keys and values on their way into a cache, a warp a row: the TypeScript cache (packages/llm, kv-cache-layer.ts and fitted-int4.ts) on the device.
// Four channels a lane and little code: for a token or two it is fetched for longer than it runs.
//   §1 places   §2 a row's scale and codes   §3 rows into the cache   §4 the values' floor
#pragma once
#include <cstdint>

#include "decoder_steps.h"
#include "exact_math.cuh"
#include "fitted_int4.cuh"
#include "hadamard.cuh"
#include "int4_codes.cuh"
#include "row_codes.cuh"
#include "turn_head.cuh"
#include "warp_reductions.cuh"

namespace intflash {

constexpr int kMinOffsetTokens = 8;  // a key offset is the mean of this many tokens at least
constexpr float kScaleFloor = 9.53674316e-7f;  // 2^-20: no value row gets a scale below this part of the largest before it

// ── §1 ──
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

// ── §2 ──
template <bool kInt4> __device__ __forceinline__ Int4Grid fit(const float* row, int dim, uint32_t* findings) {
    const float largest = largest_of_row(row, dim, findings);
    if constexpr (kInt4) return fit_int4(row, dim, largest);
    else return {symmetric_scale(largest), false};
}

__device__ __forceinline__ void write_int4_codes(const float* row, int dim, int padded, const Int4Grid& grid, uint8_t* to) {
    const bool is_usual = grid.scale >= kTinyDivisor && grid.scale <= kHugeDivisor;
    const Divisor by = divisor(is_usual ? grid.scale : 1.f);
    const auto quotient_code = [&](float x) { return min(max(__float2int_rn(divide(x, by)), -kMaxInt4), kMaxInt4); };
    for_fours(padded, [&](int c) {
        uint32_t codes = 0;
        if (c < dim) {
            const float4 x = four_of(row, c);
            if (grid.exact) codes = pack_int4(grid.exact_code(x.x), grid.exact_code(x.y)) | pack_int4(grid.exact_code(x.z), grid.exact_code(x.w)) << 8;
            else if (is_usual) codes = pack_int4(quotient_code(x.x), quotient_code(x.y)) | pack_int4(quotient_code(x.z), quotient_code(x.w)) << 8;
            else
#pragma unroll 1
                for (int i = 0; i < 4; ++i) codes |= (grid.quotient_code(row[c + i]) & 15u) << (4 * i);
        }
        *reinterpret_cast<uint16_t*>(to + c / 2) = static_cast<uint16_t>(codes);
    });
}

/** Codes of a row in shared memory under its own scale, which is returned, or under `floor`. */
template <bool kInt4> __device__ __forceinline__ float encode_row_of(float* row, int dim, int padded, const float* floor, uint8_t* to, uint32_t* findings) {
    if constexpr (kInt4) rotate_row(row, row, dim);
    const Int4Grid grid = floor == nullptr ? fit<kInt4>(row, dim, findings) : Int4Grid{*floor, false};
    if constexpr (kInt4) write_int4_codes(row, dim, padded, grid, to);
    else encode_columns(row, dim, padded, grid.scale, reinterpret_cast<int8_t*>(to), threadIdx.x % 32 * 4, 128);
    __syncwarp();  // the row's memory is free again
    return grid.scale;
}

/** One copy of it serves keys and values alike. */
template <bool kInt4> __device__ __noinline__ float encode_head(float* row, int dim, int padded, const float* floor, uint8_t* to, uint32_t* findings) {
    __builtin_assume(__isShared(row));
    return encode_row_of<kInt4>(row, dim, padded, floor, to, findings);
}

// ── §3 ──
/** A key that has been turned, in units of its channels and less their offsets. `offsets`: null for zeros; `channels`: powers of two, or null for ones. */
__device__ __forceinline__ void shift_key(float* row, int dim, const float* offsets, const float* channels) {
    if (offsets == nullptr && channels == nullptr) return;
    for_fours(dim, [&](int c) {
        float4 x = four_of(row, c);
        if (channels != nullptr) {
            const float4 by = four_of(channels, c);
            const auto divided = [](float value, float power) { return __fmul_rn(value, __int_as_float((254 << 23) - __float_as_int(power))); };
            x = make_float4(divided(x.x, by.x), divided(x.y, by.y), divided(x.z, by.z), divided(x.w, by.w));
        }
        const float4 less = offsets == nullptr ? float4{} : four_of(offsets, c);
        four_of(row, c) = make_float4(__fsub_rn(x.x, less.x), __fsub_rn(x.y, less.y), __fsub_rn(x.z, less.z), __fsub_rn(x.w, less.w));
    });
    __syncwarp();
}

/** From `memory.row`, a key that has been turned. Offsets and channels as shift_key has them. */
template <bool kInt4> __device__ __forceinline__ void write_key(const Place& at, int token, const float* offsets, const float* channels, HeadMemory& memory, uint32_t* findings) {
    shift_key(memory.row, at.dim, offsets, channels);
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

/** A row's scale where it counts as one of other than zeros, else 0. */
__device__ __forceinline__ float counted_scale(float scale) { return scale > kMinScale ? scale : 0.f; }

/** The largest scale up to a token, where it may be wanted again. */
__device__ __forceinline__ void keep_largest(const Place& at, const Largest& kept, int token, float largest) {
    const int position = at.start + token, slot = position % kPageTokens;
    if (token >= at.tokens - kPageTokens) kept.recent[slot] = largest;
    if (slot == kPageTokens - 1) *reinterpret_cast<float*>(at.cache.pages[position / kPageTokens] + kept.offset) = largest;
}

}  // namespace intflash
