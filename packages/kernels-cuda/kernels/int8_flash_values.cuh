// The second half of int8_flash_fwd.cuh's loop: a tile's scores to weights, and these times V.
//   §4 softmax: x → P         §5 values: O += P·V
#pragma once
#include "int8_flash_scores.cuh"
#include "warp_reductions.cuh"

namespace intflash {

// ── §4 ──
/**
 * Raises the reference of rows whose maximum has outgrown it by 2^slack, scaling what was accumulated. Any reference gives the same
 * quotient O / sum; following lazily makes this rare.
 */
template <class T> __device__ __forceinline__ void follow_maximum(Rows& rows, float (&out)[T::kOutBlocks][4], const float (&top)[2], float slack) {
    if (!outgrown(top, rows.reference, slack)) return;
    float shrink[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const float raised = fmaxf(rows.reference[row], top[row]);
        shrink[row] = exp2_fast(rows.reference[row] - raised);
        rows.reference[row] = raised;
        rows.sum[row] *= shrink[row];
        rows.excess[row] *= shrink[row];
    }
#pragma unroll
    for (int block = 0; block < T::kOutBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) out[block][i] *= shrink[i >> 1];
}

/**
 * p = 2^(s·factor + offset) = 2^(level_bits + x - base): one operation a score, or two where the base is so large that it would swallow
 * level_bits. The factor is 1 where s holds x.
 */
template <class T>
__device__ __forceinline__ void scores_to_exponents(int (&s)[T::kScoreBlocks][4], const float (&base)[2], float (&factor)[2], float (&offset)[2], float level_bits) {
    offset[0] = level_bits - base[0];
    offset[1] = level_bits - base[1];
    if (!__any_sync(~0u, fabsf(base[0]) > kExactOffset || fabsf(base[1]) > kExactOffset)) return;
#pragma unroll
    for (int block = 0; block < T::kScoreBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float x = __int_as_float(s[block][i]), from = base[i >> 1];
            // The product is rounded as the maximum's was: none comes out above it.
            s[block][i] = __float_as_int((T::kHalf && !T::kGeneral ? __fmul_rn(x, factor[i >> 1]) : x) - from);
        }
    factor[0] = factor[1] = 1.f;
    offset[0] = offset[1] = level_bits;
}

// ── §5 ──
/**
 * INT8 values: P as u8 codes; the integer product of the tile is scaled into O by 2^(tile's reference - O's). The products start from 128 · Σ codes,
 * as if V's codes were 128 larger: sums of what is not negative are below 2^23, and such bits, read as a float, are the number itself times 2^-149.
 */
template <class T>
__device__ __forceinline__ void absorb_int8(float (&out)[T::kOutBlocks][4], int (&s)[T::kScoreBlocks][4], Rows& rows, const float (&top)[2],
                                            uint32_t columns, uint32_t base, const ForwardArgs& args) {
    float beta[2], base_of[2], sum[2] = {0.f, 0.f};
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const float against = args.running_max ? rows.reference[row] : top[row];
        beta[row] = exp2_fast(against - rows.reference[row]);
        base_of[row] = against == -INFINITY ? 0.f : against;
    }
    float offset[2], factor[2] = {1.f, 1.f};
    scores_to_exponents<T>(s, base_of, factor, offset, args.level_bits);
    uint32_t p[T::kScoreBlocks / 2][2];
#pragma unroll
    for (int group = 0; group < T::kScoreBlocks / 2; ++group) {
        const float4 inverse_weight = load_shared_floats(columns + 1024 + 64 * group);
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            float e[4];
#pragma unroll
            for (int column = 0; column < 4; ++column) {
                e[column] = exp2_fast(__int_as_float(s[2 * group + (column >> 1)][2 * row + (column & 1)]) + offset[row]);
                sum[row] = fmaf(e[column], at(inverse_weight, column), sum[row]);
            }
            p[group][row] = pack_u8(e[0], e[1], e[2], e[3]);
        }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        rows.sum[row] = fmaf(sum[row], beta[row], rows.sum[row]);
        beta[row] *= kValueUnit;
    }
    // All signs are 0. Unless V's addresses depend on them, ptxas puts the sums off behind the products, and with them 64 exponentials.
    base += (__float_as_uint(rows.sum[0]) | __float_as_uint(rows.sum[1]) | __float_as_uint(beta[0]) | __float_as_uint(beta[1])) >> 31;
    int excess[4];  // 128 · Σ codes: of row r twice, of row r + 8 twice
#pragma unroll
    for (int step = 0; step < 4; ++step) {
        if (step == 0) mma_u8_u8_onto(excess, {p[0][0], p[0][1], p[1][0], p[1][1]}, 0x80808080u, 0x80808080u, 0);
        else mma_u8_u8(excess, {p[2 * step][0], p[2 * step][1], p[2 * step + 1][0], p[2 * step + 1][1]}, 0x80808080u, 0x80808080u);
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) rows.excess[row] = fmaf(__int_as_float(excess[2 * row]), beta[row], rows.excess[row]);
#pragma unroll
    for (int first = 0; first < T::kOutBlocks; first += T::kTogether) {
        int t[T::kTogether][4];
        uint32_t next = base;
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {  // 64 keys
            uint32_t b[T::kTogether][4];
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) ldmatrix_x4(b[j], (base ^ (pair * 64)) + (first + j) * 8 * kTileKeys);
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) {
                if (pair == 0) mma_u8_s8_from(t[j], {p[0][0], p[0][1], p[1][0], p[1][1]}, b[j][0], b[j][1], excess);
                else mma_u8_s8(t[j], {p[4][0], p[4][1], p[5][0], p[5][1]}, b[j][0], b[j][1]);
            }
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) mma_u8_s8(t[j], {p[4 * pair + 2][0], p[4 * pair + 2][1], p[4 * pair + 3][0], p[4 * pair + 3][1]}, b[j][2], b[j][3]);
            if (pair == 0) next += static_cast<uint32_t>(t[T::kTogether - 1][3]) >> 31;
        }
#pragma unroll
        for (int j = 0; j < T::kTogether; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) out[first + j][i] = fmaf(__int_as_float(t[j][i]), beta[i >> 1], out[first + j][i]);
        base = next;
    }
}

/**
 * float16 values: P as float16 in units of 2^(reference - level_bits), added to O in the tensor core. With level_bits = 7 and the
 * reference's slack of 2^8, P stays below 2^15 < 65504, and weights down to 2^-21 of the reference keep all 11 bits.
 */
template <class T>
__device__ __forceinline__ void absorb_half(float (&out)[T::kOutBlocks][4], int (&s)[T::kScoreBlocks][4], Rows& rows, uint32_t values, int lane,
                                            const ForwardArgs& args) {
    const float base_of[2] = {rows.reference[0], rows.reference[1]};
    float offset[2], factor[2] = {T::kGeneral ? 1.f : rows.scale[0], T::kGeneral ? 1.f : rows.scale[1]};
    scores_to_exponents<T>(s, base_of, factor, offset, args.level_bits);
    const int row_in_tile = (lane & 7) + ((lane >> 3) & 1) * 8;
    const uint32_t base = values + row_in_tile * 2 * T::kD;
    const int swizzle = lane & 7, chunk = lane >> 4;
#pragma unroll
    for (int group = 0; group < T::kScoreBlocks / 2; ++group) {
        float e[2][4];
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float x = __int_as_float(s[2 * group + half][i]);
                e[half][i] = exp2_fast(T::kGeneral ? x + offset[i >> 1] : fmaf(x, factor[i >> 1], offset[i >> 1]));
                rows.sum[i >> 1] += e[half][i];
            }
        const uint32_t a0 = pack_f16(e[0][0], e[0][1]), a1 = pack_f16(e[0][2], e[0][3]), a2 = pack_f16(e[1][0], e[1][1]), a3 = pack_f16(e[1][2], e[1][3]);
#pragma unroll
        for (int pair = 0; pair < T::kOutBlocks / 2; ++pair) {  // 16 channels
            uint32_t b[4];
            ldmatrix_x4_transposed(b, base + group * 32 * T::kD + (((2 * pair + chunk) ^ swizzle) << 4));
            mma_f16(out[2 * pair], {a0, a1, a2, a3}, b[0], b[1]);
            mma_f16(out[2 * pair + 1], {a0, a1, a2, a3}, b[2], b[3]);
        }
    }
}

}  // namespace intflash
