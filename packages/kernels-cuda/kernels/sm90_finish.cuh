// Hopper's forward: the end of an item. Warpgroups that shared one add up, and O goes to memory.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "ptx/shared_memory.cuh"
#include "ptx/tile_copy.cuh"
#include "sm90_items.cuh"

namespace intflash {

constexpr uint32_t kPartialFull = 4, kPartialEmpty = 4;  // named barriers; those before are turns. Empty: + the number of the warpgroup that may write

/** The warpgroups' parts of one item, of the same rows, are added to the first one's, always in the same order. */
template <class T> __device__ __forceinline__ void add_up(SharedMemory<T>& shared, float (&out)[T::kOut], RowPair& rows, int self) {
    const auto arrive = [](uint32_t name) { asm volatile("bar.arrive %0, 256;" ::"r"(name) : "memory"); };
    const int thread = threadIdx.x & 127;
    for (int from = 1; from < T::kConsumers; ++from) {
        if (self != 0 && self != from) continue;
        float grown[2], shrink[2];
#pragma unroll
        for (int first = 0; first < T::kOut; first += 32) {
            if (self == 0) {
                arrive(kPartialEmpty + from);
                named_barrier_sync(kPartialFull, 256);
                if (first == 0) {
                    const float2 reference = shared.partial_rows[0][thread], sum = shared.partial_rows[1][thread], codes = shared.partial_rows[2][thread];
                    const float references[2] = {reference.x, reference.y}, sums[2] = {sum.x, sum.y}, more[2] = {codes.x, codes.y};
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        const float top = fmaxf(fmaxf(rows.reference[i], references[i]), kLowest);  // no tile on either side: nothing times nothing
                        shrink[i] = exp2_fast(rows.reference[i] - top), grown[i] = exp2_fast(references[i] - top);
                        rows.reference[i] = top;
                        rows.sum[i] = fmaf(sums[i], grown[i], rows.sum[i] * shrink[i]);
                        rows.codes[i] = fmaf(more[i], grown[i], rows.codes[i] * shrink[i]);
                    }
                }
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    const float4 v = shared.partial[i][thread];
                    float* at = out + first + 4 * i;
                    at[0] = fmaf(v.x, grown[0], at[0] * shrink[0]), at[1] = fmaf(v.y, grown[0], at[1] * shrink[0]);
                    at[2] = fmaf(v.z, grown[1], at[2] * shrink[1]), at[3] = fmaf(v.w, grown[1], at[3] * shrink[1]);
                }
            } else {
                named_barrier_sync(kPartialEmpty + from, 256);
                if (first == 0) {
                    shared.partial_rows[0][thread] = make_float2(rows.reference[0], rows.reference[1]);
                    shared.partial_rows[1][thread] = make_float2(rows.sum[0], rows.sum[1]);
                    shared.partial_rows[2][thread] = make_float2(rows.codes[0], rows.codes[1]);
                }
#pragma unroll
                for (int i = 0; i < 8; ++i) shared.partial[i][thread] = make_float4(out[first + 4 * i], out[first + 4 * i + 1], out[first + 4 * i + 2], out[first + 4 * i + 3]);
                arrive(kPartialFull);
            }
        }
    }
}

__device__ __forceinline__ float2 read_pair(uint32_t address) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address));
    return v;
}

__device__ __forceinline__ uint32_t pack_pair(float a, float b, __half*) {
    const __half2 pair = __floats2half2_rn(a, b);
    return reinterpret_cast<const uint32_t&>(pair);
}
__device__ __forceinline__ uint32_t pack_pair(float a, float b, __nv_bfloat16*) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
    return reinterpret_cast<const uint32_t&>(pair);
}

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

/** What the rows of a thread are multiplied with, and where they go. `row` is the first of the two within the item; `channels` the address of V's channel scales. */
template <class T, class Element>
__device__ __forceinline__ void store_rows(Element* out, const float (&o)[T::kOut], const float (&inverse)[2], const float (&offset)[2], const Sm90Args& args, int64_t out_at, int present, int c, uint32_t channels) {
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

}  // namespace intflash
