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

/** Two rows of a thread, the second eight tokens on, times `inverse` each; of them `present` are there. `out_at` is the first one's place in `out`, `channels` the shared address of V's channel scales. */
template <class T, class Element>
__device__ __forceinline__ void store_rows(Element* out, const float (&o)[T::kOut], const float (&inverse)[2], const float (&offset)[2], const SortedArgs& args, int64_t out_at, int present, int c, uint32_t channels) {
    const int64_t token = args.out_strides.token;
    const auto scaled = [&](int block, int i) {
        const float2 factor = read_pair(channels + 32 * block + 8 * c);
        float a = o[4 * block + 2 * i], b = o[4 * block + 2 * i + 1];
        if constexpr (!T::kHalf) a = fmaf(a, 0x1p49f, offset[i]), b = fmaf(b, 0x1p49f, offset[i]);
        return make_float2(a * (factor.x * inverse[i]), b * (factor.y * inverse[i]));
    };
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

/**
 * The end of a row of queries: O over its sum to memory, and the log-sum-exp. `o` of a thread: columns 8j + 2c of two rows in registers 4j .. 4j + 3;
 * for INT8 values in units of 2^-49, with V's offset still in it. `level` is log2 of P's largest code.
 */
template <class T> __device__ __forceinline__ void finish_rows(const float (&o)[T::kOut], const RowPair& rows, float level, const SortedArgs& args, int64_t out_at, int64_t lse_at, int present, int c, uint32_t channels) {
    float inverse[2], offset[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float sum = quad_sum(rows.sum[i]);
        inverse[i] = sum > 0.f ? 1.f / sum : 0.f;  // no visible key: zeros
        offset[i] = -128.f * quad_sum(rows.codes[i]);
        if (args.lse != nullptr && c == 0 && i < present) args.lse[lse_at + 8 * i * args.lse_strides.token] = sum > 0.f ? (rows.reference[i] - level + log2f(sum)) * 0.693147181f : -INFINITY;
    }
    if (args.out_type == static_cast<int32_t>(ElementType::kFloat32)) store_rows<T>(static_cast<float*>(args.out), o, inverse, offset, args, out_at, present, c, channels);
    else if (args.out_type == static_cast<int32_t>(ElementType::kFloat16)) store_rows<T>(static_cast<__half*>(args.out), o, inverse, offset, args, out_at, present, c, channels);
    else store_rows<T>(static_cast<__nv_bfloat16*>(args.out), o, inverse, offset, args, out_at, present, c, channels);
}

}  // namespace intflash
