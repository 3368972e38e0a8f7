// What the products of INT4 weights have in common: linear_int4.h's blocks of 128 columns in a lane's registers.
#pragma once
#include <cstdint>
#include <type_traits>

#include "int4_codes.cuh"
#include "linear_int4.h"

namespace intflash {

constexpr int kInt4Parts = 4;  // of 32 columns, in a block
constexpr int kBlockCodeBytes = kInt4Columns / 2, kLaneCodeBytes = kBlockCodeBytes / 4, kLaneInputBytes = kInt4Columns / 4;

/** Scales of a block. */
template <int kGroup> constexpr int kScalesOf = kInt4Columns / kGroup;

/** A lane's codes of a block's four parts, eight columns a word. */
__device__ __forceinline__ uint32_t part_of(const int4& codes, int part) { return static_cast<uint32_t>(part == 0 ? codes.x : part == 1 ? codes.y : part == 2 ? codes.z : codes.w); }

/** The same of the input: four even columns, four odd ones, of each part. */
struct LaneInput {
    int4 halves[2];
    __device__ __forceinline__ uint32_t even(int part) const { return static_cast<uint32_t>(part % 2 == 0 ? halves[part / 2].x : halves[part / 2].z); }
    __device__ __forceinline__ uint32_t odd(int part) const { return static_cast<uint32_t>(part % 2 == 0 ? halves[part / 2].y : halves[part / 2].w); }
};

/** A group's part of y, of sixteen times its sum. */
__device__ __forceinline__ float group_term(int sum, float x_scale, float w_scale) { return __fmul_rn(__int2float_rn(sum >> 4), __fmul_rn(x_scale, w_scale)); }

/** Calls f with the group as a constant. */
template <class F> cudaError_t with_group(int group, const F& f) {
    if (group == 32) return f(std::integral_constant<int, 32>());
    if (group == 64) return f(std::integral_constant<int, 64>());
    return f(std::integral_constant<int, 128>());
}

}  // namespace intflash
