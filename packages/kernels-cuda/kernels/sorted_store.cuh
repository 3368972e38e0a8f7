// The end of a forward kernel on sorted tiles: two rows of O to memory.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "operand.h"
#include "ptx/mma.cuh"
#include "sorted_args.h"
#include "sorted_softmax.cuh"
#include "warp_reductions.cuh"

namespace intflash {

__device__ __forceinline__ float2 read_pair(uint32_t address) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address));
    return v;
}

__device__ __forceinline__ uint32_t pack_pair(float a, float b, __half*) { return pack_f16(a, b); }
__device__ __forceinline__ uint32_t pack_pair(float a, float b, __nv_bfloat16*) { return pack_bf16(a, b); }

/** Word j of thread c of four becomes word c of thread j: what was 4 bytes of each of four blocks is then 16 bytes of one. */
__device__ __forceinline__ void transpose_quad(uint32_t (&words)[4], int c) {
#pragma unroll
    for (int bit = 1; bit <= 2; bit *= 2) {
        const bool high = (c & bit) != 0;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int low = bit == 1 ? 2 * i : i, up = low + bit;
            const uint32_t got = __shfl_xor_sync(~0u, high ? words[low] : words[up], bit);
            (high ? words[low] : words[up]) = got;
        }
    }
}

/**
 * Columns 8 · block + 2c and the next one of a thread's row `i`, as they go to memory. `o` of a thread: columns 8j + 2c of two rows in registers 4j .. 4j + 3; for INT8
 * values in units of 2^-49, with V's offset still in it.
 */
template <class T> __device__ __forceinline__ float2 scaled_pair(const float (&o)[T::kOut], int block, int i, const float2& factor, const float (&inverse)[2], const float (&offset)[2]) {
    float a = o[4 * block + 2 * i], b = o[4 * block + 2 * i + 1];
    if constexpr (!T::kHalf) a = fmaf(a, 0x1p49f, offset[i]), b = fmaf(b, 0x1p49f, offset[i]);
    return make_float2(a * (factor.x * inverse[i]), b * (factor.y * inverse[i]));
}

/** Two rows of a thread, the second eight tokens on, times `inverse` each; of them `present` are there. `out_at` is the first one's place in `out`, `channels` the shared address of V's channel scales. */
template <class T, class Element>
__device__ __forceinline__ void store_rows(Element* out, const float (&o)[T::kOut], const float (&inverse)[2], const float (&offset)[2], const SortedArgs& args, int64_t out_at, int present, int c, uint32_t channels) {
    const int64_t token = args.out_strides.token;
    const auto scaled = [&](int block, int i) { return scaled_pair<T>(o, block, i, read_pair(channels + 32 * block + 8 * c), inverse, offset); };
#pragma unroll
    for (int first = 0; first < T::kD / 8; first += 4) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            Element* target = out + out_at + 8 * i * token;
            if constexpr (sizeof(Element) == 2) {
                uint32_t words[4];
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const float2 pair = scaled(first + j, i);
                    words[j] = pack_pair(pair.x, pair.y, target);
                }
                transpose_quad(words, c);
                const int channel = 8 * (first + c);
                if (i < present && channel < args.head_dim_v) *reinterpret_cast<uint4*>(target + channel) = make_uint4(words[0], words[1], words[2], words[3]);
            } else {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int channel = 8 * (first + j) + 2 * c;
                    const float2 pair = scaled(first + j, i);
                    if (i < present && channel < args.head_dim_v) *reinterpret_cast<float2*>(target + channel) = pair;
                }
            }
        }
    }
}

/** What O's row is multiplied with, to a unit in the last place; zeros where no key was visible. A row's sum is 127 or more; above 2^126 the answer is 0. */
__device__ __forceinline__ float reciprocal_or_zero(float sum) {
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(sum));
    return sum > 0.f ? inverse : 0.f;
}

/**
 * The end of a thread's two rows of queries: their sums' reciprocals and what takes V's offset out again, which `store(out, inverse, offset)` needs to bring O to memory, `out`
 * being a pointer to its elements; and the log-sum-exp. `level` is log2 of P's largest code.
 */
template <class Store> __device__ __forceinline__ void finish_rows(const RowPair& rows, float level, const SortedArgs& args, int64_t lse_at, int present, int c, const Store& store) {
    float sum[2], inverse[2], offset[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) sum[i] = quad_sum(rows.sum[i]), inverse[i] = reciprocal_or_zero(sum[i]), offset[i] = -128.f * quad_sum(rows.codes[i]);
    if (args.out_type == static_cast<int32_t>(ElementType::kFloat32)) store(static_cast<float*>(args.out), inverse, offset);
    else if (args.out_type == static_cast<int32_t>(ElementType::kFloat16)) store(static_cast<__half*>(args.out), inverse, offset);
    else store(static_cast<__nv_bfloat16*>(args.out), inverse, offset);
    if (args.lse == nullptr || c != 0) return;
#pragma unroll
    for (int i = 0; i < 2; ++i)
        if (i < present) args.lse[lse_at + 8 * i * args.lse_strides.token] = sum[i] > 0.f ? (rows.reference[i] - level + log2f(sum[i])) * 0.693147181f : -INFINITY;
}

}  // namespace intflash
