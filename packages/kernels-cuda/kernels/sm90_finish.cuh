// Hopper's forward: the end of an item that warpgroups shared. They add up.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "ptx/shared_memory.cuh"
#include "ptx/tile_copy.cuh"
#include "sm90_items.cuh"

namespace intflash {

constexpr uint32_t kPartialBarrier = 4;  // named barrier; those before are turns

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

}  // namespace intflash
