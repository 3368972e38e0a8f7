// A head of a token in a warp's shared memory: its norm, its rotation by the token's position; a query's codes.
#pragma once
#include <cstdint>

#include "decoder_steps.h"
#include "hadamard.cuh"
#include "row_codes.cuh"
#include "warp_reductions.cuh"

namespace intflash {

/** f(c) for each four channels of a lane, c … c + 3. */
template <class F> __device__ __forceinline__ void for_fours(int dim, const F& f) {
#pragma unroll 1
    for (int c = threadIdx.x % 32 * 4; c < dim; c += 128) f(c);
}

__device__ __forceinline__ float4& four_of(float* row, int c) { return *reinterpret_cast<float4*>(row + c); }
__device__ __forceinline__ const float4& four_of(const float* row, int c) { return *reinterpret_cast<const float4*>(row + c); }

__device__ __forceinline__ void norm_head(float* row, int dim, const float* gain, double epsilon) {
    double squares = 0;
#pragma unroll 1
    for (int d = threadIdx.x % 32; d < dim; d += 32) squares = __dadd_rn(squares, __dmul_rn(row[d], row[d]));
    const double factor = 1 / sqrt(warp_sum(squares) / dim + epsilon);
    const auto scaled = [&](float value, float by) { return static_cast<float>(__dmul_rn(by, __dmul_rn(value, factor))); };
    for_fours(dim, [&](int c) {
        const float4 x = four_of(row, c), by = four_of(gain, c);
        four_of(row, c) = make_float4(scaled(x.x, by.x), scaled(x.y, by.y), scaled(x.z, by.z), scaled(x.w, by.w));
    });
    __syncwarp();
}

/** What turns a lane's pairs of channels at a position. */
struct Turn {
    float cos[kMaxHeadDim / 64], sin[kMaxHeadDim / 64];
};

__device__ __forceinline__ Turn turn_at(const Rotation& rotation, int64_t position) {
    Turn turn{};
    if (rotation.cos == nullptr) return turn;
#pragma unroll
    for (int i = 0; i < kMaxHeadDim / 64; ++i) {
        const int d = threadIdx.x % 32 + 32 * i;
        if (d < rotation.half) turn.cos[i] = rotation.cos[position * rotation.half + d], turn.sin[i] = rotation.sin[position * rotation.half + d];
    }
    return turn;
}

/** Channel d turns with channel d + half; products of two floats are exact in float64. */
__device__ __forceinline__ void turn_head(float* row, int half, const Turn& turn) {
#pragma unroll
    for (int i = 0; i < kMaxHeadDim / 64; ++i) {
        const int d = threadIdx.x % 32 + 32 * i;
        if (d >= half) break;
        const double cos = turn.cos[i], sin = turn.sin[i], a = row[d], b = row[half + d];
        row[d] = static_cast<float>(a * cos - b * sin);
        row[half + d] = static_cast<float>(b * cos + a * sin);
    }
    __syncwarp();
}

/** `gain`: of the heads' norm, or null. */
__device__ __forceinline__ void turn_as(float* row, int dim, const float* gain, double epsilon, const Rotation& rotation, const Turn& turn) {
    if (gain != nullptr) norm_head(row, dim, gain, epsilon);
    if (rotation.cos != nullptr) turn_head(row, rotation.half, turn);
}

/** A query in units of its keys' channels, where those have scales. `place`: of the layer's KV head. */
__device__ __forceinline__ void scale_query(float* row, int dim, const StepSequence& sequence, int64_t place) {
    if (sequence.channels == nullptr) return;
    for_fours(dim, [&](int c) {
        const float4 x = four_of(row, c), by = four_of(sequence.channels + place * dim, c);
        four_of(row, c) = make_float4(__fmul_rn(x.x, by.x), __fmul_rn(x.y, by.y), __fmul_rn(x.z, by.z), __fmul_rn(x.w, by.w));
    });
    __syncwarp();
}

/** A warp's row. */
struct alignas(16) HeadMemory {
    float row[kMaxHeadDim];
};

/** From the layer's projection. */
__device__ __forceinline__ void load_head(float* row, const float* from, int dim) {
    for_fours(dim, [&](int c) { four_of(row, c) = four_of(from, c); });
    __syncwarp();
}

/** Largest magnitude of a row in shared memory, the same in every lane. */
__device__ __forceinline__ float largest_of_row(const float* row, int dim, uint32_t* findings) {
    float largest = 0.f;
    bool bad = false;
    for_fours(dim, [&](int c) {
        const float4 x = four_of(row, c);
        largest = fmaxf(fmaxf(fmaxf(largest, magnitude(x.x, bad)), fmaxf(magnitude(x.y, bad), magnitude(x.z, bad))), magnitude(x.w, bad));
    });
    if (bad) atomicOr(findings, kNonfinite);
    return warp_max(largest);
}

/** Codes of a query head that has been turned, and their scale, where attention looks for them. */
__device__ __forceinline__ void write_query(HeadMemory& memory, const Heads& heads, const StepTable& step, int token, int head, const QueryTarget& target, uint32_t* findings) {
    const StepSequence& sequence = step.sequences[step.sequence_of[token]];
    const int group = heads.heads / heads.kv_heads, rows_each = sequence.tokens * group;  // of a KV head
    const int64_t place = static_cast<int64_t>(sequence.first) * heads.heads + static_cast<int64_t>(head / group) * rows_each + (token - sequence.first) * group + head % group;
    float* row = memory.row;
    if (target.rotated) rotate_row(row, row, heads.head_dim);
    const float scale = symmetric_scale(largest_of_row(row, heads.head_dim, findings));
    encode_columns(row, heads.head_dim, target.padded, scale, target.codes + place * target.padded, threadIdx.x % 32 * 4, 128);
    if (threadIdx.x % 32 == 0) target.scales[place] = scale;
}

}  // namespace intflash
