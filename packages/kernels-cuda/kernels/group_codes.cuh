// A token's numbers to INT8 codes with a scale a group, as linear_int4.h lays them out.
#pragma once
#include <cstdint>

#include "int4_block.cuh"
#include "row_codes.cuh"

namespace intflash {

/** Four neighbouring columns of a thread, c … c + 3, of a warp's block of 128. `codes` and `scales`: of the token. */
__device__ __forceinline__ void encode_group_columns(const float4& x, int c, int group, int8_t* codes, float* scales, uint32_t* nonfinite) {
    const int lane = threadIdx.x % 32;
    float largest = larger(larger(x.x, x.y), larger(x.z, x.w));
#pragma unroll 1
    for (int step = 1; step < group / 4; step *= 2) largest = larger(largest, __shfl_xor_sync(~0u, largest, step));
    const Encoder encoder(symmetric_scale(largest));
    const uint32_t mine = pack_codes(encoder.code(x.x), encoder.code(x.z), encoder.code(x.y), encoder.code(x.w)), others = __shfl_xor_sync(~0u, mine, 1);
    const int part = lane / 8, owner = lane % 8 / 2, odd = lane % 2;
    const uint32_t word = odd ? __byte_perm(others, mine, 0x7632) : __byte_perm(mine, others, 0x5410);
    *reinterpret_cast<uint32_t*>(codes + c / kInt4Columns * kInt4Columns + owner * kLaneInputBytes + part * 8 + odd * 4) = word;
    if (c % group == 0) scales[c / group] = encoder.scale;
    if (!(largest <= FLT_MAX)) atomicOr(nonfinite, 1u);
}

}  // namespace intflash
