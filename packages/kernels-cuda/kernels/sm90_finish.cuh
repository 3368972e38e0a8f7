// Hopper's forward: the end of an item. Warpgroups that shared one add up; then O goes to memory.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "ptx/mma.cuh"
#include "ptx/shared_memory.cuh"
#include "ptx/tile_copy.cuh"
#include "sm90_items.cuh"
#include "sorted_store.cuh"

namespace intflash {

constexpr uint32_t kPartialBarrier = 4, kFinishBarrier = 5;  // named barriers, the latter one for each warpgroup; those before are turns

/**
 * The warpgroups' parts of one item, of the same rows, are added to the first one's, always in the same order. All of them meet at each step, also
 * those whose part it is not.
 */
template <class T> __device__ __forceinline__ void add_up(SharedMemory<T>& shared, float (&out)[T::kOut], RowPair& rows, int self) {
    const auto meet = [] { named_barrier_sync(kPartialBarrier, 128 * T::kConsumers); };
    const int thread = threadIdx.x & 127;
    for (int from = 1; from < T::kConsumers; ++from) {
        float grown[2], shrink[2];
#pragma unroll
        for (int first = 0; first < T::kOut; first += 32) {
            if (self == from) {
                if (first == 0) {
                    shared.partial_rows[0][thread] = make_float2(rows.reference[0], rows.reference[1]);
                    shared.partial_rows[1][thread] = make_float2(rows.sum[0], rows.sum[1]);
                    shared.partial_rows[2][thread] = make_float2(rows.codes[0], rows.codes[1]);
                }
#pragma unroll
                for (int i = 0; i < 8; ++i) shared.partial[i][thread] = make_float4(out[first + 4 * i], out[first + 4 * i + 1], out[first + 4 * i + 2], out[first + 4 * i + 3]);
            }
            meet();
            if (self == 0) {
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
            }
            meet();  // the room is free again
        }
    }
}

/**
 * A warp's 16 rows of 16-bit elements, the first `present` of which are there, from `out_at` on. Half of the channels at a time they are put together in `room`, 16 · D bytes of
 * shared memory that only this warp uses, and leave 16 bytes a lane, a row's neighbouring ones together.
 */
template <class T, class Element>
__device__ __forceinline__ void store_rows_through(uint32_t room, Element* out, const float (&o)[T::kOut], const float (&inverse)[2], const float (&offset)[2], const SortedArgs& args, int64_t out_at, int present, int lane, uint32_t channels) {
    constexpr int kBlocks = T::kD / 16, kRows = 32 / kBlocks;  // eights of channels, 16 bytes of a row each; rows a time
    const auto place = [&](int row, int block) { return room + row * T::kD + 16 * (block ^ (kBlocks == 4 ? row >> 1 & 3 : row & 7)); };  // what a quarter of a warp stores or loads at once lies in all banks
    const uint32_t own = place(lane & 15, lane >> 4);
    const int row = lane / kBlocks, block = lane % kBlocks;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float2 factor[kBlocks];  // all asked for before the first is needed
#pragma unroll
        for (int i = 0; i < kBlocks; ++i) factor[i] = read_pair(channels + 32 * (half * kBlocks + i) + 8 * (lane & 3));
        uint32_t words[kBlocks / 2][4];
#pragma unroll
        for (int i = 0; i < 2 * kBlocks; ++i) {
            const float2 pair = scaled_pair<T>(o, half * kBlocks + i / 2, i & 1, factor[i / 2], inverse, offset);
            words[i / 4][i % 4] = pack_pair(pair.x, pair.y, out);
        }
        if (half > 0) __syncwarp();
#pragma unroll
        for (int i = 0; i < kBlocks / 2; ++i) stmatrix_x4(own ^ (32 * i), words[i]);
        __syncwarp();
        uint32_t rows[16 / kRows][4];
#pragma unroll
        for (int i = 0; i < 16 / kRows; ++i) load_shared_words(rows[i], place(i * kRows + row, block));
        const int channel = 8 * (half * kBlocks + block);
        Element* target = out + out_at + row * args.out_strides.token + channel;
#pragma unroll
        for (int i = 0; i < 16 / kRows; ++i)
            if (i * kRows + row < present && channel < args.head_dim_v) *reinterpret_cast<uint4*>(target + i * kRows * args.out_strides.token) = make_uint4(rows[i][0], rows[i][1], rows[i][2], rows[i][3]);
    }
}

}  // namespace intflash
