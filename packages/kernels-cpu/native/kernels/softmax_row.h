// One query against one tile: scores to exponents x (in units of log2), exponents to weights p and their codes.
// Works on blocks of 16 keys; a block is outside the visible keys (all weights 0), inside (nothing to mask), or on their border.
#pragma once
#include "register_tile.h"

namespace int_flash {
namespace {

constexpr float kLargestFloat = 3.40282346638528859812e38f;

struct TileSpan {
    int begin, end;  // visible keys of the row within the tile
};

// What turns a row's scores into exponents.
struct RowExponent {
    const float* key_scale;  // [128]
    const float* tau;        // [128]
    float row_scale;      // r = f32(f32(sQ * scale) * log2 e)
    float natural_scale;  // f32(sQ * scale); for float scores f32(scale)
    float softcap;
};

// The masked part of one row: null data where there is no mask.
struct RowMask {
    MaskType type;
    const char* data;  // element of the tile's first key
    ptrdiff_t stride;  // elements
};

template <bool kIntScores>
INT_FLASH_INLINE Simd::Floats exponent16(const void* scores, int j, const RowExponent& row) {
    if constexpr (kIntScores) {
        const Simd::Floats s = Simd::mul(Simd::from_ints(static_cast<const int32_t*>(scores) + j), Simd::load(row.key_scale + j));
        return Simd::fma(s, Simd::splat(row.row_scale), Simd::load(row.tau + j));
    } else {
        const Simd::Floats s = Simd::mul(Simd::load(static_cast<const float*>(scores) + j), Simd::splat(row.natural_scale));
        return Simd::mul(s, Simd::splat(kLog2E));
    }
}

// Fills x for the blocks that `span` touches, -Infinity for its excluded keys, and returns the largest x.
template <bool kIntScores>
INT_FLASH_OUTLINE float plain_exponents(const void* scores, const RowExponent& row, TileSpan span, float* x) {
    const Simd::Floats excluded = Simd::splat(-INFINITY);
    Simd::Floats largest = excluded;
    for (int j = span.begin & ~15; j < span.end; j += 16) {
        Simd::Floats e = exponent16<kIntScores>(scores, j, row);
        if (j < span.begin || j + 16 > span.end) e = Simd::keep(e, span.begin - j, span.end - j, excluded);
        Simd::store(x + j, e);
        largest = Simd::max(largest, e);
    }
    return Simd::largest(largest);
}

// The same with a softcap or a mask, key by key.
template <bool kIntScores>
static float masked_exponents(const void* scores, const RowExponent& row, const RowMask& mask, TileSpan span, float* x) {
    const bool natural = row.softcap > 0.0f || mask.type == MaskType::kFloat32;
    float largest = -INFINITY;
    for (int j = span.begin & ~15; j < ((span.end + 15) & ~15); j++) {
        x[j] = -INFINITY;
        if (j < span.begin || j >= span.end) continue;
        float bias = 0.0f;
        if (mask.type == MaskType::kBool && mask.data[j * mask.stride] == 0) continue;
        if (mask.type == MaskType::kFloat32) {
            memcpy(&bias, mask.data + j * mask.stride * 4, 4);
            if (bias == -INFINITY) continue;
        }
        float s;
        if constexpr (kIntScores) {
            s = static_cast<float>(static_cast<const int32_t*>(scores)[j]) * row.key_scale[j];
        } else {
            s = static_cast<const float*>(scores)[j];
        }
        float e;
        if (natural) {
            s = s * row.natural_scale;
            if (row.softcap > 0.0f) s = row.softcap * static_cast<float>(tanh(static_cast<double>(s / row.softcap)));
            if (mask.type == MaskType::kFloat32) s = s + bias;
            e = fmaf(s, kLog2E, kIntScores ? row.tau[j] : 0.0f);
        } else if constexpr (kIntScores) {
            e = fmaf(s, row.row_scale, row.tau[j]);
        } else {
            e = (s * row.natural_scale) * kLog2E;
        }
        e = e < kLargestFloat ? e : kLargestFloat;
        x[j] = e > -kLargestFloat ? e : -kLargestFloat;
        largest = x[j] > largest ? x[j] : largest;
    }
    return largest;
}

template <bool kIntWeights>
INT_FLASH_INLINE uint32_t* weight_words(uint32_t* words, int j) {
    return words + (kIntWeights ? j / Simd::kGranule : j);
}

// p = exp2(x - m) for the keys of `span`, 0 for the rest of the blocks [first, last); returns L = Σ p / w.
template <bool kIntWeights>
INT_FLASH_OUTLINE float weights_of(const float* x, float m, bool masked, TileSpan span, int first, int last, float levels,
                                  const float* inverse_weight, uint32_t* words) {
    const Simd::Floats top = Simd::splat(m), scale = Simd::splat(levels);
    Simd::Floats sum = Simd::splat(0.0f);
    for (int j = first; j < last; j += 16) {
        if (j + 16 <= span.begin || j >= span.end) {
            if constexpr (kIntWeights) {
                Simd::store_zero_weights(weight_words<true>(words, j));
            } else {
                memset(words + j, 0, 64);
            }
            continue;
        }
        const Simd::Floats e = Simd::load(x + j);
        Simd::Floats p = Simd::exp2(Simd::sub(e, top));
        if (masked || j < span.begin || j + 16 > span.end) p = Simd::zero_excluded(p, e);
        sum = Simd::fma(p, Simd::load(inverse_weight + j), sum);
        if constexpr (kIntWeights) {
            Simd::store_weights(weight_words<true>(words, j), p, scale);
        } else {
            Simd::store(reinterpret_cast<float*>(words) + j, p);
        }
    }
    return Simd::fold(sum);
}

// Running state of a query: docs/arithmetic.md, "Tiles", step 6.
struct Rescale {
    float alpha, beta;  // of what was accumulated, of the tile
};

INT_FLASH_INLINE Rescale absorb(float tile_max, float tile_sum, float* running_max, float* row_sum) {
    const float before = *running_max;
    const float after = before > tile_max ? before : tile_max;
    const float alpha = before == -INFINITY ? 0.0f : exp2_polynomial(before - after);
    const float beta = exp2_polynomial(tile_max - after);
    *row_sum = fmaf(tile_sum, beta, *row_sum * alpha);
    *running_max = after;
    return {alpha, beta};
}

}  // namespace
}  // namespace int_flash
