// Four queries (a register tile's rows) against one tile: what softmax_row.h does for one, with the reductions and the exponentials
// of the running state shared out over vector lanes.
#pragma once
#include "softmax_row.h"

namespace int_flash {
namespace {

// Rescale of four rows.
struct Rescale4 {
    float alpha[kRowGroup], beta[kRowGroup];
};

// Four queries against one tile of keys, on their way through scores, weights and products.
struct RowGroup {
    int index;           // in its block of queries
    int64_t tile_start;  // the tile's first key
    TileSpan spans[kRowGroup];
    int begin, end;      // keys of the tile that some row sees
    bool whole;          // every row sees the whole tile
    float* exponent;     // four rows of x
    uint32_t* weights;   // four rows of P as words
    alignas(16) float top[kRowGroup];
    Rescale4 rescale;
};

// Excludes what lies outside `span` from the blocks of 16 exponents in [begin, end), which it lies in; returns the largest x.
INT_FLASH_INLINE float trim_exponents(float* x, TileSpan span, int begin, int end) {
    const Simd::Floats excluded = Simd::splat(-INFINITY);
    Simd::Floats largest = excluded;
    for (int j = begin & ~15; j < end; j += 16) {
        Simd::Floats e = Simd::load(x + j);
        if (j < span.begin || j + 16 > span.end) {
            e = Simd::keep(e, span.begin - j, span.end - j, excluded);
            Simd::store(x + j, e);
        }
        largest = Simd::max(largest, e);
    }
    return Simd::largest(largest);
}

// weights_of for four rows and the blocks of 16 keys in [begin, end): of a tile that all of them see whole, or with exponents of -Infinity.
template <bool kIntWeights, bool kExclude, class S = Simd>
INT_FLASH_OUTLINE void weights_of_four(const float* x, const float* top, int begin, int end, float levels, const float* inverse_weight, uint32_t* words,
                                       float* sums) {
    constexpr int kRows = S::kRowsAtOnce;
    const Simd::Floats scale = Simd::splat(levels);
    for (int first = 0; first < kRowGroup; first += kRows) {
        const float* rows = x + first * kTileKeys;
        uint32_t* out = words + first * kTileKeys;
        Simd::Floats m[kRows], sum[kRows];
        for (int r = 0; r < kRows; r++) m[r] = Simd::splat(top[first + r]), sum[r] = Simd::splat(0.0f);
        for (int j = begin & ~15; j < end; j += 16) {
            Simd::Floats p[kRows];
            for (int r = 0; r < kRows; r++) p[r] = Simd::sub(Simd::load(rows + r * kTileKeys + j), m[r]);
            if constexpr (kRows == 4) {
                S::exp2_four(p);
            } else {
                p[0] = Simd::exp2(p[0]);
            }
            if constexpr (kExclude) {
                for (int r = 0; r < kRows; r++) p[r] = Simd::zero_excluded(p[r], Simd::load(rows + r * kTileKeys + j));
            }
            const Simd::Floats w = Simd::load(inverse_weight + j);
            for (int r = 0; r < kRows; r++) sum[r] = Simd::fma(p[r], w, sum[r]);
            for (int r = 0; r < kRows; r++) {
                if constexpr (kIntWeights) {
                    Simd::store_weights(weight_words<true>(out + r * kTileKeys, j), p[r], scale);
                } else {
                    Simd::store(reinterpret_cast<float*>(out) + r * kTileKeys + j, p[r]);
                }
            }
        }
        if constexpr (kRows == 4) {
            S::fold_four(sum[0], sum[1], sum[2], sum[3], sums);
        } else {
            sums[first] = Simd::fold(sum[0]);
        }
    }
}

// Four times absorb(). A row without a visible key has top -Infinity and sum 0: whatever its factors are, they change nothing.
INT_FLASH_INLINE void absorb_four(const float* top, const float* sum, float* running_max, float* row_sum, Rescale4* rescale) {
    const Simd::Quad before = Simd::load_quad(running_max), tile = Simd::load_quad(top);
    const Simd::Quad after = Simd::max_quad(before, tile);
    const Simd::Quad alpha = Simd::exp2_quad(Simd::sub_quad(before, after));
    const Simd::Quad beta = Simd::exp2_quad(Simd::sub_quad(tile, after));
    Simd::store_quad(row_sum, Simd::fma_quad(Simd::load_quad(sum), beta, Simd::mul_quad(Simd::load_quad(row_sum), alpha)));
    Simd::store_quad(running_max, after);
    Simd::store_quad(rescale->alpha, alpha);
    Simd::store_quad(rescale->beta, beta);
}

}  // namespace
}  // namespace int_flash
