// See linear_int4.h. More tokens: linear_int4_many.cu.
//   §1 the orders of codes            §3 up to eight: a block sixteen rows, tensor cores (mma.sync m16n8k32)
//   §2 one token: a warp a row, dp4a  §4 launches
#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#include "few_tokens.h"
#include "float_sums.cuh"
#include "group_codes.cuh"
#include "launch_early.h"
#include "ptx/grid_dependency.cuh"
#include "ptx/load_once.cuh"
#include "ptx/mma.cuh"

namespace intflash {
namespace {

// ── §1 ──
/** Words of eight codes: a block's [part][lane] become [lane][part]. */
__global__ void __launch_bounds__(256) arrange_int4(const uint32_t* source, int64_t count, uint32_t* target) {
    for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        const int at = static_cast<int>(i % 16);
        target[i] = source[i - at + at % 4 * 4 + at / 4];
    }
}

constexpr int kEncoders = 256;

/** A thread four neighbouring columns, a warp a block of 128. */
__global__ void __launch_bounds__(kEncoders) quantize_groups(const float* input, int64_t stride, int cols, int columns, const GroupRows target, uint32_t* nonfinite) {
    wait_for_launch_before();
    const int64_t token = blockIdx.x;
    const int c = (blockIdx.y * kEncoders + threadIdx.x) * 4;
    float4 x{};
    if (c < cols) x = *reinterpret_cast<const float4*>(input + token * stride + c);
    launch_dependents();  // a layer that begins early asks for its weights at once, which would be in the way before
    if (c < columns) encode_group_columns(x, c, target.group, target.codes + token * columns, target.scales + token * (columns / target.group), nonfinite);  // of a whole warp, or of none
}

// ── §2 ──
constexpr int kOneWarps = 4, kOneAhead = 4, kWarpBlocks = 8;  // a warp's lanes have four a block

/** Of the four lanes of a block: lane c gets the sum of group c · scales / 4. */
template <int kScales> __device__ __forceinline__ int group_sum(const int (&sums)[kInt4Parts]) {
    const int c = threadIdx.x % 4;
    if constexpr (kScales == 1) {
        int sum = sums[0] + sums[1] + sums[2] + sums[3];
        sum += __shfl_xor_sync(~0u, sum, 1);
        return sum + __shfl_xor_sync(~0u, sum, 2);
    } else if constexpr (kScales == 2) {
        const int first = sums[0] + sums[1], second = sums[2] + sums[3];
        const bool upper = c >= 2;
        const int sum = (upper ? second : first) + __shfl_xor_sync(~0u, upper ? first : second, 2);
        return sum + __shfl_xor_sync(~0u, sum, 1);
    } else {
        const bool upper = c >= 2, odd = c % 2 != 0;
        const int even = (upper ? sums[2] : sums[0]) + __shfl_xor_sync(~0u, upper ? sums[0] : sums[2], 2);
        const int other = (upper ? sums[3] : sums[1]) + __shfl_xor_sync(~0u, upper ? sums[1] : sums[3], 2);
        return (odd ? other : even) + __shfl_xor_sync(~0u, odd ? even : other, 1);
    }
}

template <int kGroup> __global__ void __launch_bounds__(kOneWarps * 32) linear_int4_one(const Int4Weights weights, const GroupRows input, float* out, bool accumulate) {
    constexpr int kScales = kScalesOf<kGroup>;
    const int lane = threadIdx.x % 32, quad = lane / 4, c = lane % 4, row = blockIdx.x * kOneWarps + threadIdx.x / 32;
    const int blocks = weights.columns / kInt4Columns, group = c * kScales / 4;  // of a block's, the one that this lane finishes
    const int64_t at = min(row, weights.rows - 1);
    const uint8_t* w = weights.codes + at * (weights.columns / 2) + c * kLaneCodeBytes;
    const float* w_scales = weights.scales + at * blocks * kScales + group;
    const uint64_t policy = read_once_policy();
    int4 codes[kOneAhead];
    float scales[kOneAhead];
    const auto fetch = [&](int i, int block) {
        codes[i] = block < blocks ? load_once(reinterpret_cast<const int4*>(w + block * kBlockCodeBytes), policy) : make_int4(0, 0, 0, 0);
        scales[i] = block < blocks ? __ldg(w_scales + block * kScales) : 0.f;
    };
    launch_dependents();
#pragma unroll
    for (int i = 0; i < kOneAhead; ++i) fetch(i, i * kWarpBlocks + quad);
    wait_for_launch_before();
    float y = 0.f;
    for (int first = 0; first < blocks; first += kOneAhead * kWarpBlocks) {
#pragma unroll
        for (int i = 0; i < kOneAhead; ++i) {
            if (first + i * kWarpBlocks >= blocks) break;
            const int block = first + i * kWarpBlocks + quad, there = min(block, blocks - 1);  // codes and scales of others are zeros
            const int4* from = reinterpret_cast<const int4*>(input.codes + there * kInt4Columns + c * kLaneInputBytes);
            const LaneInput x{{from[0], from[1]}};
            const float x_scale = input.scales[there * kScales + group];
            int sums[kInt4Parts];
#pragma unroll
            for (int part = 0; part < kInt4Parts; ++part) {
                const uint32_t packed = part_of(codes[i], part);
                sums[part] = __dp4a(static_cast<int>(even_codes(packed)), static_cast<int>(x.even(part)), __dp4a(static_cast<int>(odd_codes(packed)), static_cast<int>(x.odd(part)), 0));
            }
            const float term = group_term(group_sum<kScales>(sums), x_scale, scales[i]);
            fetch(i, block + kOneAhead * kWarpBlocks);
#pragma unroll
            for (int g = 0; g < kWarpBlocks * kScales; ++g) y = __fadd_rn(y, __shfl_sync(~0u, term, g * 4 / kScales));
        }
    }
    if (lane == 0 && row < weights.rows) finish_float(weights.bias, row, y, out + row, accumulate);
}

// ── §3 ──
constexpr int kSomeWarps = 8, kSomeRows = 16, kSomeAhead = 4;

/** Warps share a row's blocks; what they make of their groups meets in shared memory, where threads add it up in order. */
template <int kGroup> __global__ void __launch_bounds__(kSomeWarps * 32, 2) linear_int4_some(const Int4Weights weights, const GroupRows input, int tokens, float* out, bool accumulate) {
    constexpr int kScales = kScalesOf<kGroup>, kPartsEach = kInt4Parts / kScales;
    __shared__ float terms[2][kSomeWarps * kScales][kFewTokens][kSomeRows + 1];
    const int warp = threadIdx.x / 32, r = threadIdx.x % 32 / 4, c = threadIdx.x % 4, first_row = blockIdx.x * kSomeRows, last = weights.rows - 1;
    const int blocks = weights.columns / kInt4Columns, rounds = (blocks + kSomeWarps - 1) / kSomeWarps;
    const int64_t rows[2] = {min(first_row + r, last), min(first_row + r + 8, last)};
    const uint64_t policy = read_once_policy();
    int4 codes[kSomeAhead][2];
    const auto fetch = [&](int i, int block) {
#pragma unroll
        for (int half = 0; half < 2; ++half)
            codes[i][half] = block < blocks ? load_once(reinterpret_cast<const int4*>(weights.codes + rows[half] * (weights.columns / 2) + block * kBlockCodeBytes + c * kLaneCodeBytes), policy)
                                            : make_int4(0, 0, 0, 0);
    };
    launch_dependents();
#pragma unroll
    for (int i = 0; i < kSomeAhead; ++i) fetch(i, i * kSomeWarps + warp);
    wait_for_launch_before();
    const int token = threadIdx.x / kSomeRows, row = threadIdx.x % kSomeRows;  // whose sum this thread adds up
    const int8_t* x_codes = input.codes + static_cast<int64_t>(min(r, tokens - 1)) * weights.columns + c * kLaneInputBytes;
    const float* x_scales[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) x_scales[j] = input.scales + static_cast<int64_t>(min(2 * c + j, tokens - 1)) * blocks * kScales;
    float y = 0.f;
    for (int first = 0; first < rounds; first += kSomeAhead) {
#pragma unroll
        for (int i = 0; i < kSomeAhead; ++i) {
            if (first + i >= rounds) break;
            const int block = (first + i) * kSomeWarps + warp, there = min(block, blocks - 1);  // codes and scales of others are zeros
            const int4* from = reinterpret_cast<const int4*>(x_codes + there * kInt4Columns);
            const LaneInput x{{from[0], from[1]}};
            float(&to)[kSomeWarps * kScales][kFewTokens][kSomeRows + 1] = terms[i % 2];
#pragma unroll
            for (int g = 0; g < kScales; ++g) {
                int sums[4] = {};
#pragma unroll
                for (int part = g * kPartsEach; part < (g + 1) * kPartsEach; ++part) {
                    const uint32_t low = part_of(codes[i][0], part), high = part_of(codes[i][1], part);
                    const uint32_t w[4] = {even_codes(low), even_codes(high), odd_codes(low), odd_codes(high)};
                    mma_s8(sums, w, x.even(part), x.odd(part));
                }
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    const float found = __ldg(weights.scales + rows[k / 2] * blocks * kScales + there * kScales + g), w_scale = block < blocks ? found : 0.f;
                    to[warp * kScales + g][2 * c + k % 2][r + k / 2 * 8] = group_term(sums[k], x_scales[k % 2][there * kScales + g], w_scale);
                }
            }
            fetch(i, block + kSomeAhead * kSomeWarps);
            __syncthreads();  // the other half of `terms` is written next, and this one after another such meeting
            if (token < kFewTokens)
#pragma unroll
                for (int g = 0; g < kSomeWarps * kScales; ++g) y = __fadd_rn(y, to[g][token][row]);
        }
    }
    if (token < tokens && first_row + row <= last) finish_float(weights.bias, first_row + row, y, out + static_cast<int64_t>(token) * weights.rows + first_row + row, accumulate);
}

}  // namespace

// ── §4 ──
cudaError_t launch_arrange_int4(const uint8_t* source, int rows, int columns, uint8_t* target, cudaStream_t stream) {
    const int64_t count = static_cast<int64_t>(rows) * columns / 8;
    const int blocks = static_cast<int>(std::min<int64_t>((count + 255) / 256, 65535));
    arrange_int4<<<blocks, 256, 0, stream>>>(reinterpret_cast<const uint32_t*>(source), count, reinterpret_cast<uint32_t*>(target));
    return cudaGetLastError();
}

cudaError_t launch_quantize_groups(const float* input, int64_t input_stride, int tokens, int cols, const GroupRows& target, uint32_t* nonfinite, cudaStream_t stream) {
    const int columns = padded_int4_columns(cols);
    const dim3 grid(tokens, (columns / 4 + kEncoders - 1) / kEncoders);
    return launch_early(quantize_groups, grid, kEncoders, 0, stream, input, input_stride, cols, columns, target, nonfinite);
}

cudaError_t launch_linear_int4(const Int4Weights& weights, const GroupRows& input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    if (tokens > kFewTokens) return launch_linear_int4_many(weights, input, tokens, out, accumulate, stream);
    return with_group(weights.group, [&](auto size) {
        if (tokens == 1) return launch_early(linear_int4_one<size.value>, dim3((weights.rows + kOneWarps - 1) / kOneWarps), kOneWarps * 32, 0, stream, weights, input, out, accumulate);
        return launch_early(linear_int4_some<size.value>, dim3((weights.rows + kSomeRows - 1) / kSomeRows), kSomeWarps * 32, 0, stream, weights, input, tokens, out, accumulate);
    });
}

}  // namespace intflash
