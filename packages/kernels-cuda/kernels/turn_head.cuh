// A head of a token in a warp's shared memory: its norm, its rotation by the token's position; a query's codes.
#pragma once
#include <cstdint>

#include "decoder_steps.h"
#include "hadamard.cuh"
#include "row_codes.cuh"
#include "warp_reductions.cuh"

namespace intflash {

__device__ __forceinline__ void norm_head(float* row, int dim, const float* gain, double epsilon) {
    double squares = 0;
    for (int d = threadIdx.x % 32; d < dim; d += 32) squares = __dadd_rn(squares, __dmul_rn(row[d], row[d]));
    const double factor = 1 / sqrt(warp_sum(squares) / dim + epsilon);
    for (int d = threadIdx.x % 32; d < dim; d += 32) row[d] = static_cast<float>(__dmul_rn(gain[d], __dmul_rn(row[d], factor)));
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
    for (int d = threadIdx.x % 32; d < dim; d += 32) row[d] = __fmul_rn(row[d], sequence.channels[place * dim + d]);
    __syncwarp();
}

/** A warp's row. */
struct alignas(16) HeadMemory {
    float row[kMaxHeadDim];
};

/** From the layer's projection. */
__device__ __forceinline__ void load_head(float* row, const float* from, int dim) {
    for (int d = threadIdx.x % 32; d < dim; d += 32) row[d] = from[d];
    __syncwarp();
}

/** Codes of a query head that has been turned, and their scale, where attention looks for them. */
__device__ __forceinline__ void write_query(HeadMemory& memory, const Heads& heads, const StepTable& step, int token, int head, const QueryTarget& target, uint32_t* findings) {
    const int lane = threadIdx.x % 32, dim = heads.head_dim;
    float* row = memory.row;
    if (target.rotated) rotate_row(row, row, dim);
    float largest = 0.f;
    bool bad = false;
    for (int d = lane; d < dim; d += 32) largest = fmaxf(largest, magnitude(row[d], bad));
    if (bad) atomicOr(findings, kNonfinite);
    const float scale = symmetric_scale(warp_max(largest));
    const StepSequence& sequence = step.sequences[step.sequence_of[token]];
    const int group = heads.heads / heads.kv_heads, rows_each = sequence.tokens * group;  // of a KV head
    const int64_t place = static_cast<int64_t>(sequence.first) * heads.heads + static_cast<int64_t>(head / group) * rows_each + (token - sequence.first) * group + head % group;
    encode_columns(row, dim, target.padded, scale, target.codes + place * target.padded, lane * 4, 128);
    if (lane == 0) target.scales[place] = scale;
}

}  // namespace intflash
