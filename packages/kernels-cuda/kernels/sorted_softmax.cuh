// Scores of 16 queries and a tile's keys to weights, in a warp: registers 8g + i of a thread hold slots 16g + 4c .. (in `slot_position`
// order) of two rows: i = 0, 1, 4, 5 of row r and i = 2, 3, 6, 7 of row r + 8.
//
// Everything is in log2 units. P is quantized against the tile's own maximum (docs/arithmetic.md); O and the sums are kept in units of
// 2^reference, which follows the maximum lazily.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>

#include "ptx/mma.cuh"
#include "ptx/shared_memory.cuh"
#include "row_band.cuh"
#include "sorted_layout.h"
#include "warp_reductions.cuh"

namespace intflash {

constexpr float kLevelBits = 7.99435344f;  // log2(255)
constexpr float kHalfLevelBits = 7.f;      // half-int8: P in units of 2^(reference - 7), so that float16 reaches 2^-21 of it with all its bits
constexpr float kSlack = 8.f;              // how far a maximum may rise above the reference before O is rescaled
constexpr float kLowest = -0x1p101f;       // stands for the maximum of no key: below every score, which lies within ±2^100

/** The two rows of a thread: rows r and r + 8 of its warp's sixteen. */
struct RowPair {
    float factor[2];     // query scale · softmax scale · log2 e
    float reference[2];  // -infinity before the first tile
    float sum[2];        // Σ p / weight
    float codes[2];      // Σ codes of P: what V's offset of 128 adds to O, by 128
};

/** A tile's scales in shared memory, at this thread's four columns of each group of 16 slots. */
template <int kKeys> struct TileColumns {
    uint32_t scales, keys;  // addresses of the first group's kScale and key
    __device__ __forceinline__ TileColumns(uint32_t meta, uint32_t c) : scales(meta + 16 * c), keys(meta + 12 * kKeys + 8 * c) {}
    __device__ __forceinline__ float4 k_scale(int group) const { return load_shared_floats(scales + 64 * group); }
    __device__ __forceinline__ float4 tau(int group) const { return load_shared_floats(scales + 4 * kKeys + 64 * group); }
    __device__ __forceinline__ float4 inverse_weight(int group) const { return load_shared_floats(scales + 8 * kKeys + 64 * group); }
    /** 255 - key of columns 0 and 1, and of 2 and 3. */
    __device__ __forceinline__ uint2 keys_left(int group) const {
        uint2 pairs;
        asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(pairs.x), "=r"(pairs.y) : "r"(keys + 32 * group));
        return pairs;
    }

};

__device__ __forceinline__ constexpr int row_of(int i) { return (i >> 1) & 1; }
__device__ __forceinline__ constexpr int column_of(int i) { return 2 * (i >> 2) + (i & 1); }

/** 255 for each negative one of four 16-bit numbers, 0 for the others. */
__device__ __forceinline__ uint32_t sign_bytes(uint32_t low, uint32_t high) {
    uint32_t signs;
    asm("prmt.b32 %0, %1, %2, 0xfdb9;" : "=r"(signs) : "r"(low), "r"(high));
    return signs;
}

/** All ones for each negative one of two 16-bit numbers, 0 for the other. */
__device__ __forceinline__ uint32_t sign_halves(uint32_t pair) {
    uint32_t signs;
    asm("prmt.b32 %0, %1, 0, 0xbb99;" : "=r"(signs) : "r"(pair));
    return signs;
}

/** Groups of 16 slots, of `groups`, that a warpgroup weighs before the next may begin: five eighths, or half of INT8's 192 keys (measured: docs/results/h200/log.md). */
__device__ __forceinline__ constexpr int pass_before(int groups, bool half_values = false) { return groups > 8 && !half_values ? groups / 2 : (groups * 5 + 4) / 8; }

/**
 * Keys of a tile that a thread's two rows see: those before `end`. Scores of others are pushed below every score there can be, for the maxima; and
 * as a distance below the maximum is worth what the scales make of it, their codes are cleared as well.
 */
struct VisibleKeys {
    static constexpr int kStep = 1 << 23, kMargin = kStep / 2, kLeast = -kMargin + (1 << 15);  // kLeast: less than any score, more than what is pushed down
    static constexpr bool kAll = false;
    int ceiling[2];       // (end - 256) * kStep + kMargin: plus (255 - key) * kStep it is above all scores if key < end, else below
    uint32_t end_left[2]; // 0x8000 + 255 - end in both halves: minus (255 - key) the sign says key >= end
    __device__ __forceinline__ VisibleKeys(const RowBand& band, int row, int first_key, int keys) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int end = min(max(band.end(row + 8 * i) - first_key, 0), keys);
            ceiling[i] = static_cast<int>(static_cast<uint32_t>(end - 256) << 23) + kMargin;
            end_left[i] = static_cast<uint32_t>(0x80ff - end) * 0x10001u;
        }
    }
    /** Of a group's eight scores. */
    __device__ __forceinline__ void lower(int* s, const uint2& keys_left) const {
        // What is left of the other key of a pair is below kStep / 256.
        const int left[4] = {static_cast<int>(keys_left.x << 23), static_cast<int>(keys_left.x << 7), static_cast<int>(keys_left.y << 23), static_cast<int>(keys_left.y << 7)};
#pragma unroll
        for (int i = 0; i < 8; ++i) s[i] = __viaddmin_s32(ceiling[row_of(i)], left[column_of(i)], s[i]);
    }
    /** Of a row's four codes. */
    __device__ __forceinline__ uint32_t clear(uint32_t codes, int row, const uint2& keys_left) const {
        return codes & ~sign_bytes(end_left[row] - keys_left.x, end_left[row] - keys_left.y);
    }
    /** Of two of a row's weights in float16; `left`: of their keys. */
    __device__ __forceinline__ uint32_t clear_halves(uint32_t pair, int row, uint32_t left) const { return pair & ~sign_halves(end_left[row] - left); }
};
/** All of a tile's keys. */
struct AllKeys {
    static constexpr bool kAll = true;
    __device__ __forceinline__ void lower(int*, const uint2&) const {}
    __device__ __forceinline__ uint32_t clear(uint32_t codes, int, const uint2&) const { return codes; }
    __device__ __forceinline__ uint32_t clear_halves(uint32_t pair, int, uint32_t) const { return pair; }
};

/** What one tile adds, in units of its own maximum: Σ p / weight and Σ codes, of this thread's columns. */
struct TileSums {
    float sum[2];
    unsigned codes[2];
    float beta[2];  // the weight of the tile's P·V in O
};

/** Raises the reference to `top` where it lies more than the slack above; `scale_out(shrink)` rescales O. Rare after the first tile. */
template <class ScaleOut> __device__ __forceinline__ void follow(RowPair& rows, const float (&top)[2], const ScaleOut& scale_out) {
    if (!outgrown(top, rows.reference, kSlack)) return;
    float shrink[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const bool raise = top[row] - rows.reference[row] > kSlack;
        shrink[row] = raise ? exp2_fast(rows.reference[row] - top[row]) : 1.f;
        if (raise) rows.reference[row] = top[row];
        rows.sum[row] *= shrink[row];
        rows.codes[row] *= shrink[row];
    }
    scale_out(shrink);
}

__device__ __forceinline__ void absorb(RowPair& rows, const TileSums& tile) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        rows.sum[row] = fmaf(tile.sum[row], tile.beta[row], rows.sum[row]);
        rows.codes[row] = fmaf(__int2float_rn(static_cast<int>(tile.codes[row])), tile.beta[row], rows.codes[row]);
    }
}

/** P of a group of 16 slots: two words of four codes, rows r and r + 8, the group's part of the A operand. `p` may be the scores themselves: words take the place of groups gone by. */
template <int n, class Visible> __device__ __forceinline__ void pack_group(int (&p)[n], int group, const float (&e)[8], unsigned (&codes)[2], const Visible& visible, const uint2& keys_left) {
    const uint32_t words[2] = {visible.clear(pack_u8(e[0], e[1], e[4], e[5]), 0, keys_left), visible.clear(pack_u8(e[2], e[3], e[6], e[7]), 1, keys_left)};
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        codes[row] = __dp4a(words[row], 0x01010101u, codes[row]);
        p[2 * group + row] = static_cast<int>(words[row]);
    }
}

/**
 * A tile whose keys share two key scales and, but for the last group where kOutliers, one value weight. `header` is the address of its
 * TileHeader; the exponentials take `turn`. `before_group(g)` is called when the groups before g are weighed.
 * Maxima are found on the integers; the row sum takes the codes (ADR 0001 allows it where no token stands out).
 */
template <bool kOutliers, int kScores, int n, class Visible, class Columns, class Turn, class ScaleOut, class BeforeGroup>
__device__ __forceinline__ TileSums weigh_plain(int (&s)[kScores], int (&p)[n], RowPair& rows, uint32_t header, const Columns& columns, const Visible& visible, Turn& turn, const ScaleOut& scale_out, const BeforeGroup& before_group) {
    constexpr int kGroups = kScores / 8, kLowGroups = sorted_low_slots(kGroups), kPlainGroups = kOutliers ? kGroups - 1 : kGroups, kSpecial = 8 * (kGroups - 1);
    float factor[2][2], top[2], offset[2], special[8];
    const float k_scale[2] = {load_shared_float(header), load_shared_float(header + 4)}, tau_all = load_shared_float(header + offsetof(TileHeader, tau));
    const auto keys_left = [&](int group) { return Visible::kAll ? uint2{} : columns.keys_left(group); };
    TileSums tile;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) visible.lower(s + 8 * group, keys_left(group));
#pragma unroll
    for (int row = 0; row < 2; ++row) factor[0][row] = rows.factor[row] * k_scale[0], factor[1][row] = rows.factor[row] * k_scale[1];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        int most[2];
#pragma unroll
        for (int group = 0; group < kPlainGroups; ++group) {
            const int part = group >= kLowGroups, at = 8 * group + 2 * row;
            most[part] = group == part * kLowGroups ? max(s[at], s[at + 1]) : __vimax3_s32(most[part], s[at], s[at + 1]);
            most[part] = __vimax3_s32(most[part], s[at + 4], s[at + 5]);
        }
        // Perhaps none of the keys that share a scale is seen: their lowered scores then say nothing, least of all under a scale that is near 0.
        const auto highest = [&](int part) { return Visible::kAll || most[part] >= VisibleKeys::kLeast ? __int2float_rn(most[part]) * factor[part][row] : kLowest; };
        top[row] = fmaxf(highest(0), highest(1));
    }
    if constexpr (kOutliers) {
        const float4 tau = columns.tau(kGroups - 1);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int score = s[kSpecial + i];
            special[i] = fmaf(__int2float_rn(score), factor[1][row_of(i)], at(tau, column_of(i)) - tau_all);
            if (!Visible::kAll && score < VisibleKeys::kLeast) special[i] = -INFINITY;
            top[row_of(i)] = fmaxf(top[row_of(i)], special[i]);
        }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        top[row] = quad_max(top[row]);
        offset[row] = kLevelBits - top[row];
        top[row] += tau_all;
        tile.codes[row] = 0;
    }
    follow(rows, top, scale_out);
    tile.beta[0] = exp2_fast(top[0] - rows.reference[0]), tile.beta[1] = exp2_fast(top[1] - rows.reference[1]);
    turn.wait(offset);
#pragma unroll
    for (int group = 0; group < kPlainGroups; ++group) {
        if (group == pass_before(kGroups)) turn.pass(tile.codes[0] | tile.codes[1]);
        before_group(group);
        float e[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) e[i] = exp2_fast(fmaf(__int2float_rn(s[8 * group + i]), factor[group >= kLowGroups][row_of(i)], offset[row_of(i)]));
        pack_group(p, group, e, tile.codes, visible, keys_left(group));
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) tile.sum[row] = __int2float_rn(static_cast<int>(tile.codes[row])) * load_shared_float(header + offsetof(TileHeader, inverse_weight));  // not kept in a register until here
    if constexpr (kOutliers) {
        const float4 inverse = columns.inverse_weight(kGroups - 1);
        float e[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            e[i] = exp2_fast(special[i] + offset[row_of(i)]);
            tile.sum[row_of(i)] = fmaf(e[i], at(inverse, column_of(i)), tile.sum[row_of(i)]);
        }
        pack_group(p, kGroups - 1, e, tile.codes, AllKeys{}, uint2{});
    }
    return tile;
}

/** Scores of any tile in place: x = S·kScale·factor + tau, -infinity where the band excludes the key. `top` gets the rows' maxima. */
template <bool kTau, bool kMasked, int kScores, class Columns>
__device__ __forceinline__ void general_scores(int (&s)[kScores], float (&top)[2], const RowPair& rows, const Columns& columns, const RowBand& band, int row, int first_key) {
    const int lo[2] = {band.first(row) - first_key, band.first(row + 8) - first_key}, hi[2] = {band.end(row) - first_key, band.end(row + 8) - first_key};
    top[0] = top[1] = kLowest;
#pragma unroll
    for (int group = 0; group < kScores / 8; ++group) {
        const float4 scale = columns.k_scale(group);
        float4 tau = make_float4(0.f, 0.f, 0.f, 0.f);
        if constexpr (kTau) tau = columns.tau(group);
        const uint2 left = kMasked ? columns.keys_left(group) : uint2{};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            float x = fmaf(__int2float_rn(s[8 * group + i]) * at(scale, column_of(i)), rows.factor[row_of(i)], at(tau, column_of(i)));
            if constexpr (kMasked) {
                const int key = 255 - static_cast<int>(((i < 4 ? left.x : left.y) >> (16 * (i & 1))) & 0xffffu);
                if (key < lo[row_of(i)] || key >= hi[row_of(i)]) x = -INFINITY;
            }
            top[row_of(i)] = fmaxf(top[row_of(i)], x);
            s[8 * group + i] = __float_as_int(x);
        }
    }
    top[0] = quad_max(top[0]);
    top[1] = quad_max(top[1]);
}

/** Weights of general scores; every slot has its own weight in the row sum. */
template <int kScores, int n, class Columns, class Turn>
__device__ __forceinline__ TileSums weigh_columns(const int (&s)[kScores], int (&p)[n], const RowPair& rows, const float (&top)[2], const Columns& columns, Turn& turn) {
    constexpr int kGroups = kScores / 8;
    TileSums tile{{0.f, 0.f}, {0, 0}, {exp2_fast(top[0] - rows.reference[0]), exp2_fast(top[1] - rows.reference[1])}};
    float offset[2] = {kLevelBits - top[0], kLevelBits - top[1]};
    turn.wait(offset);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
        if (group == pass_before(kGroups)) turn.pass(tile.codes[0] | tile.codes[1]);
        const float4 inverse = columns.inverse_weight(group);
        float e[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            e[i] = exp2_fast(__int_as_float(s[8 * group + i]) + offset[row_of(i)]);
            tile.sum[row_of(i)] = fmaf(e[i], at(inverse, column_of(i)), tile.sum[row_of(i)]);
        }
        pack_group(p, group, e, tile.codes, AllKeys{}, uint2{});
    }
    return tile;
}

/** half-int8: key scales of half of a tile's eighths. */
__device__ __forceinline__ float4 read_eighths(uint32_t header, int half) { return load_shared_floats(header + 16 * half); }

/** half-int8: the rows' maxima from the integers of a tile's first slots, by eighths of all `kKeys`; scores out of sight are lowered. */
template <int kKeys, int kScores, class Columns, class Visible>
__device__ __forceinline__ void maxima_of_eighths(int (&s)[kScores], float (&top)[2], const RowPair& rows, uint32_t header, const Columns& columns, const Visible& visible) {
    constexpr int kPart = kKeys / 16;  // scores of two rows, four of each half of a group
    if constexpr (!Visible::kAll) {
#pragma unroll
        for (int group = 0; group < kScores / 8; ++group) visible.lower(s + 8 * group, columns.keys_left(group));
    }
#pragma unroll
    for (int first = 0; first < kScores; first += 4 * kPart) {
        const float4 k_scale = read_eighths(header, first > 0);
#pragma unroll
        for (int part = first; part < min(first + 4 * kPart, kScores); part += kPart)
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                int most = max(s[part + 2 * row], s[part + 2 * row + 1]);
#pragma unroll
                for (int more = part + 4; more < min(part + kPart, kScores); more += 4) most = __vimax3_s32(most, s[more + 2 * row], s[more + 2 * row + 1]);
                float x = __int2float_rn(most) * at(k_scale, (part - first) / kPart);
                if constexpr (!Visible::kAll) x = most >= VisibleKeys::kLeast ? x * rows.factor[row] : kLowest;
                top[row] = part == 0 ? x : fmaxf(top[row], x);
            }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) top[row] = quad_max(Visible::kAll ? top[row] * rows.factor[row] : top[row]);
}

/** P of 64 keys from group `first` on as float16 in units of 2^(reference - 7); `p` is the A operand of four products of 16 keys. `exponent(group, index)` is a score's; `clearing(group)(i, pair)` is what remains of its weights i, two of a row; `after_group(g, known)` follows each group. */
template <int first, class Exponent, class Clearing, class AfterGroup>
__device__ __forceinline__ void weigh_half(int (&p)[16], const Exponent& exponent, const Clearing& clearing, const AfterGroup& after_group) {
#pragma unroll
    for (int group = 0; group < 4; ++group) {
        const auto clear = clearing(first + group);
        float e[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) e[i] = exp2_fast(exponent(first + group, i));
#pragma unroll
        for (int i = 0; i < 4; ++i) p[4 * group + i] = static_cast<int>(clear(i, pack_f16(e[2 * i], e[2 * i + 1])));
        after_group(first + group, static_cast<unsigned>(p[4 * group + 3]));
    }
}

/** From scores as general_scores leaves them: of keys out of sight the weight is 0 already. */
template <int first, int kScores, class AfterGroup> __device__ __forceinline__ void weigh_half_general(const int (&s)[kScores], int (&p)[16], const RowPair& rows, const AfterGroup& after_group) {
    const float offset[2] = {kHalfLevelBits - rows.reference[0], kHalfLevelBits - rows.reference[1]};
    const auto exponent = [&](int group, int i) { return __int_as_float(s[8 * group + i]) + offset[row_of(i)]; };
    weigh_half<first>(p, exponent, [](int) { return [](int, uint32_t pair) { return pair; }; }, after_group);
}

/** From integers, by eighths. */
template <int kKeys, int first, int kScores, class Columns, class Visible, class AfterGroup>
__device__ __forceinline__ void weigh_half_plain(const int (&s)[kScores], int (&p)[16], const RowPair& rows, uint32_t header, const Columns& columns, const Visible& visible, const AfterGroup& after_group) {
    const float offset[2] = {kHalfLevelBits - rows.reference[0], kHalfLevelBits - rows.reference[1]};
    constexpr int kHalves = kKeys / 64;  // half groups (8 slots) in an eighth of the slots
    constexpr int kFirstEighth = 2 * first / kHalves, kLastEighth = (2 * first + 7) / kHalves;
    float4 k_scale[2];
    if constexpr (kFirstEighth < 4) k_scale[0] = read_eighths(header, 0);
    if constexpr (kLastEighth >= 4) k_scale[1] = read_eighths(header, 1);
    const auto exponent = [&](int group, int i) {
        const int eighth = (2 * group + (i >> 2)) / kHalves;
        return fmaf(__int2float_rn(s[8 * group + i]), rows.factor[row_of(i)] * at(k_scale[eighth / 4], eighth % 4), offset[row_of(i)]);
    };
    const auto clearing = [&](int group) {
        const uint2 left = Visible::kAll ? uint2{} : columns.keys_left(group);
        return [&visible, left](int i, uint32_t pair) { return visible.clear_halves(pair, i & 1, i < 2 ? left.x : left.y); };
    };
    weigh_half<first>(p, exponent, clearing, after_group);
}

}  // namespace intflash
