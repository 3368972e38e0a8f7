// The first half of int8_flash_fwd.cuh's loop: what a warp owns, and its scores with a tile of 128 keys.
//   §1 traits                 §2 the rows a warp owns     §3 scores: S = Q·Kᵀ → x, in log2 units
#pragma once
#include "forward_args.h"
#include "int8_flash_fwd.h"
#include "ptx/mma.cuh"
#include "ptx/shared_memory.cuh"
#include "row_band.cuh"
#include "tile_layout.h"
#include "tile_ring.cuh"

namespace intflash {

// ── §1 ──
/** kGeneral: softcap or a mask over scores. */
template <int kD_, bool kHalf_, bool kGeneral_> struct ForwardTraits {
    static constexpr int kD = kD_;
    static constexpr bool kHalf = kHalf_, kGeneral = kGeneral_;
    static constexpr int kMaxWarps = kD == 64 && !kGeneral ? 12 : 8;  // measured: docs/results/h200/log.md
    static constexpr int kTogether = 4;  // independent chains of products side by side, to hide their latency
    static constexpr int kScoreBlocks = kTileKeys / 8, kOutBlocks = kD / 8, kSteps = kD / 32;
    static constexpr bool kQueryInShared = kD <= 128;  // registers are taken; at D = 256 so is shared memory on sm_86 and sm_120
    static constexpr int kQueryBytes = kQueryInShared ? 16 * kD : 0;  // a warp's Q, as operand registers lie in its lanes
    static constexpr int kTileBytes = kTileKeys * kD * (kHalf ? 3 : 2) + 3 * kTileKeys * 4;
    static_assert(kD == 64 || kD == 128 || kD == 256, "tile_layout.h swizzles these row lengths");
    static_assert(127 * 127 * kD < (1 << 22), "scores stay exact beside the float bias kBias");
    static_assert(255 * 255 * kTileKeys < (1 << 23), "P·(V + 128) read as the bits of a subnormal float is that integer · 2^-149");
};

/** 1.5·2^23: an integer below 2^22 in magnitude, added to these bits, is the float kBias + integer. Saves the conversion. */
constexpr int kBiasBits = 0x4b400000;
constexpr float kBias = 12582912.f;
constexpr float kLargest = 3.40282347e38f;
constexpr float kExactOffset = 4096.f;  // up to here x + (level_bits - maximum) loses less than 2^-12
constexpr float kValueUnit = 0x1p100f, kValueOut = 0x1p49f;  // P·(V + 128) comes in units of 2^-149; so weighted, O is in units of 2^-49

// ── §2 ──
/** What the loop asks for rarely. */
template <int kWarps> struct Plan {
    RingBarriers barriers;
    TileRange ranges[kWarps];  // in shared memory, for registers are dear
    RowBand band;
    const uint8_t* tiles;  // of the head
};

/** Of the two rows a lane works on (r and r + 8): scales, running state. */
struct Rows {
    float scale[2];     // r[i] of docs/arithmetic.md, or sQ·scale for kGeneral
    float reference[2]; // O and sum are in units of 2^reference; follows the maximum, lazily but for paper-int8. No key yet: -kLargest, as no score is lower (baseline: -infinity)
    float sum[2];       // of this lane's columns
    float excess[2];    // what V's offset of 128 has added to every channel of O
};

// ── §3 ──
/** One k-step of Q's A operand. At D = 256 these are read anew every tile (from L1). */
__device__ __forceinline__ void load_query(uint32_t (&a)[4], const int8_t* row0, const int8_t* row1, int step) {
    const int8_t *p0 = row0 + step * 32, *p1 = row1 + step * 32;
    a[0] = load_word(p0);
    a[1] = load_word(p1);
    a[2] = load_word(p0 + 16);
    a[3] = load_word(p1 + 16);
}

/** `query`, `base`: this lane's address of Q's operands, of the rows that it names to ldmatrix. */
template <class T>
__device__ __forceinline__ void score_products(int (&s)[T::kScoreBlocks][4], uint32_t query, const int8_t* row0, const int8_t* row1, uint32_t base) {
#pragma unroll
    for (int pair = 0; pair < T::kSteps / 2; ++pair) {  // 64 channels: two k-steps from one ldmatrix
        uint32_t a0[4], a1[4];
        if constexpr (T::kQueryInShared) {
            load_shared_words(a0, query + 2 * pair * 512);
            load_shared_words(a1, query + (2 * pair + 1) * 512);
        } else {
            load_query(a0, row0, row1, 2 * pair);
            load_query(a1, row0, row1, 2 * pair + 1);
        }
        const uint32_t address = (base ^ ((pair & 1) * 64)) + (pair >> 1) * 128;
#pragma unroll
        for (int first = 0; first < T::kScoreBlocks; first += T::kTogether) {
            uint32_t b[T::kTogether][4];
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) ldmatrix_x4(b[j], address + (first + j) * 8 * T::kD);
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) {
                if (pair == 0) mma_s8_onto(s[first + j], a0, b[j][0], b[j][1], kBiasBits);
                else mma_s8(s[first + j], a0, b[j][0], b[j][1]);
            }
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) mma_s8(s[first + j], a1, b[j][2], b[j][3]);
        }
    }
}

/** softcap and mask, in natural units; a masked key becomes -infinity. */
template <class T>
__device__ __forceinline__ float general_score(float s, float k_scale, float row_scale, float tau, const ForwardArgs& args, int64_t mask_at, bool inside) {
    float natural = (s * k_scale) * row_scale;
    if (args.softcap > 0.f) natural = args.softcap * tanhf(natural / args.softcap);
    if (args.mask.data != nullptr && inside) {
        if (args.mask.is_float) {
            const float bias = __ldg(static_cast<const float*>(args.mask.data) + mask_at);
            if (bias == -INFINITY) return -INFINITY;
            natural += bias;
        } else if (__ldg(static_cast<const uint8_t*>(args.mask.data) + mask_at) == 0) {
            return -INFINITY;
        }
    }
    return fminf(fmaxf(fmaf(natural, 1.44269504f, tau), -kLargest), kLargest);  // a mask of -FLT_MAX is no exclusion
}

template <class T> __device__ __forceinline__ void float_maxima(float (&top)[2], const int (&s)[T::kScoreBlocks][4]) {
#pragma unroll
    for (int block = 0; block < T::kScoreBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) top[i >> 1] = block == 0 && (i & 1) == 0 ? __int_as_float(s[block][i]) : fmaxf(top[i >> 1], __int_as_float(s[block][i]));
}

/** Raw sums → x, in place (half-int8 without softcap and mask: x / scale[row]), and the rows' maxima of that over this lane's columns. `columns`: this lane's kScale; + 512 tau. */
template <class T>
__device__ __forceinline__ void scores_to_log2(int (&s)[T::kScoreBlocks][4], float (&top)[2], const Rows& rows, uint32_t columns, int first_key, int c, const RowBand& band,
                                               int first_row, const ForwardArgs& args, const int64_t (&mask_row)[2]) {
    int most[2];
#pragma unroll
    for (int group = 0; group < T::kScoreBlocks / 2; ++group) {  // 16 keys
        const float4 scale = load_shared_floats(columns + 64 * group);
        float4 tau = make_float4(0.f, 0.f, 0.f, 0.f);
        if constexpr (!T::kHalf) tau = load_shared_floats(columns + 512 + 64 * group);
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int row = i >> 1, column = half * 2 + (i & 1);
                int& score = s[2 * group + half][i];
                const float sum = __int_as_float(score) - kBias;
                float x;
                if constexpr (T::kGeneral) {
                    const int key = first_key + group * 16 + half * 8 + 2 * c + (i & 1);
                    const bool inside = key >= band.first(first_row + 8 * row) && key < band.end(first_row + 8 * row);
                    x = general_score<T>(sum, at(scale, column), rows.scale[row], at(tau, column), args, mask_row[row] + key * args.mask.key, inside);
                } else if constexpr (T::kHalf) {
                    x = sum * at(scale, column);
                } else {
                    x = fmaf(sum * at(scale, column), rows.scale[row], at(tau, column));
                }
                score = __float_as_int(x);
                const bool first = group == 0 && half == 0;
                if (i & 1) most[row] = first ? max(s[0][i - 1], score) : max(max(most[row], s[2 * group + half][i - 1]), score);
            }
    }
    // Float bits order as integers from +0 on. A row without a score above 0 is rare, and is gone over again.
    top[0] = __int_as_float(most[0]), top[1] = __int_as_float(most[1]);
    if (__any_sync(~0u, min(most[0], most[1]) < 0)) float_maxima<T>(top, s);
}

/** Scores that the band excludes become -infinity. */
template <class T> __device__ __forceinline__ void mask_scores(int (&s)[T::kScoreBlocks][4], float (&top)[2], const RowBand& band, int first_row, int first_key, int c) {
    const int from = first_key + 2 * c;
    const int lo[2] = {band.first(first_row) - from, band.first(first_row + 8) - from}, hi[2] = {band.end(first_row) - from, band.end(first_row + 8) - from};
#pragma unroll
    for (int block = 0; block < T::kScoreBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int key = 8 * block + (i & 1);
            if (key < lo[i >> 1] || key >= hi[i >> 1]) s[block][i] = __float_as_int(-INFINITY);
        }
    float_maxima<T>(top, s);
}

}  // namespace intflash
