// The one inner loop: kRowGroup rows of broadcast words against a packed block, kVectors accumulators wide.
// Every product of this package (Q·Kᵀ, P·V, linear layers, in INT8 and float) is this loop with another Op.
// Accumulators are named, not indexed: g++ keeps an array of them in memory, at a third of the speed.
#pragma once
#include "../kernel_table.h"

namespace int_flash {
namespace {

struct ScoreOp {
    using Sum = Simd::Ints;
    using Packed = uint32_t;
    template <int kVectors>
    static constexpr ptrdiff_t step() { return kVectors * Simd::kLanes; }
    INT_FLASH_INLINE Sum load(const Packed* p, int v) { return Simd::load_words(p + v * Simd::kLanes); }
    INT_FLASH_INLINE Sum spread(const uint32_t* p) { return Simd::spread(p); }
    INT_FLASH_INLINE Sum dot(Sum sum, Sum packed, Sum word) { return Simd::dot_scores(sum, packed, word); }
};

struct ProductOp : ScoreOp {
    INT_FLASH_INLINE Sum dot(Sum sum, Sum packed, Sum word) { return Simd::dot_products(sum, packed, word); }
};

struct LinearOp : ScoreOp {
    using Packed = uint8_t;
    template <int kVectors>
    static constexpr ptrdiff_t step() { return kVectors * Simd::kLanes * Simd::kGranule; }
    INT_FLASH_INLINE Sum load(const Packed* p, int v) { return Simd::load_linear(p, v); }
};

struct FloatOp {
    using Sum = Simd::Partial;
    using Packed = float;
    template <int kVectors>
    static constexpr ptrdiff_t step() { return kVectors * Simd::kLanes; }
    INT_FLASH_INLINE Sum load(const Packed* p, int v) { return Simd::load_floats(p + v * Simd::kLanes); }
    INT_FLASH_INLINE Sum spread(const uint32_t* p) { return Simd::spread_float(reinterpret_cast<const float*>(p)); }
    INT_FLASH_INLINE Sum dot(Sum sum, Sum packed, Sum word) { return Simd::multiply_add(word, packed, sum); }
};

// sum[r][v] = start(r, v) + Σ over `steps` of packed[step][v] · words[r][step]; each goes to finish(r, v, sum).
template <class Op, int kRows, int kVectors, class Start, class Finish>
INT_FLASH_INLINE void register_tile(const typename Op::Packed* packed, const uint32_t* words, ptrdiff_t row_words, int steps,
                                    Start start, Finish finish) {
    static_assert((kRows == 1 || kRows == 4) && kVectors >= 1 && kVectors <= 4, "named accumulators below");
    using Sum = typename Op::Sum;
    constexpr bool k4 = kRows == 4;
    constexpr int V = kVectors;
    const uint32_t* w0 = words;
    const uint32_t* w1 = w0 + row_words;
    const uint32_t* w2 = w1 + row_words;
    const uint32_t* w3 = w2 + row_words;
    Sum c00 = start(0, 0), c01 = c00, c02 = c00, c03 = c00;
    if constexpr (V > 1) c01 = start(0, 1);
    if constexpr (V > 2) c02 = start(0, 2);
    if constexpr (V > 3) c03 = start(0, 3);
    Sum c10 = c00, c11 = c00, c12 = c00, c13 = c00, c20 = c00, c21 = c00, c22 = c00, c23 = c00;
    Sum c30 = c00, c31 = c00, c32 = c00, c33 = c00;
    if constexpr (k4) {
        c10 = start(1, 0), c20 = start(2, 0), c30 = start(3, 0);
        if constexpr (V > 1) c11 = start(1, 1), c21 = start(2, 1), c31 = start(3, 1);
        if constexpr (V > 2) c12 = start(1, 2), c22 = start(2, 2), c32 = start(3, 2);
        if constexpr (V > 3) c13 = start(1, 3), c23 = start(2, 3), c33 = start(3, 3);
    }
    const auto step = [&](int s) INT_FLASH_LAMBDA {
        const Sum b0 = Op::load(packed, 0);
        Sum b1 = b0, b2 = b0, b3 = b0;
        if constexpr (V > 1) b1 = Op::load(packed, 1);
        if constexpr (V > 2) b2 = Op::load(packed, 2);
        if constexpr (V > 3) b3 = Op::load(packed, 3);
        packed += Op::template step<V>();
        Sum a = Op::spread(w0 + s);
        c00 = Op::dot(c00, b0, a);
        if constexpr (V > 1) c01 = Op::dot(c01, b1, a);
        if constexpr (V > 2) c02 = Op::dot(c02, b2, a);
        if constexpr (V > 3) c03 = Op::dot(c03, b3, a);
        if constexpr (k4) {
            a = Op::spread(w1 + s);
            c10 = Op::dot(c10, b0, a);
            if constexpr (V > 1) c11 = Op::dot(c11, b1, a);
            if constexpr (V > 2) c12 = Op::dot(c12, b2, a);
            if constexpr (V > 3) c13 = Op::dot(c13, b3, a);
            a = Op::spread(w2 + s);
            c20 = Op::dot(c20, b0, a);
            if constexpr (V > 1) c21 = Op::dot(c21, b1, a);
            if constexpr (V > 2) c22 = Op::dot(c22, b2, a);
            if constexpr (V > 3) c23 = Op::dot(c23, b3, a);
            a = Op::spread(w3 + s);
            c30 = Op::dot(c30, b0, a);
            if constexpr (V > 1) c31 = Op::dot(c31, b1, a);
            if constexpr (V > 2) c32 = Op::dot(c32, b2, a);
            if constexpr (V > 3) c33 = Op::dot(c33, b3, a);
        }
    };
    // Unrolled no further: g++ would copy every sum from one register to another at each exit of the loop.
    INT_FLASH_UNROLL(1)
    for (int s = 0; s < steps; s++) step(s);
    INT_FLASH_RELOAD();
    finish(0, 0, c00);
    if constexpr (V > 1) finish(0, 1, c01);
    if constexpr (V > 2) finish(0, 2, c02);
    if constexpr (V > 3) finish(0, 3, c03);
    if constexpr (k4) {
        finish(1, 0, c10);
        if constexpr (V > 1) finish(1, 1, c11);
        if constexpr (V > 2) finish(1, 2, c12);
        if constexpr (V > 3) finish(1, 3, c13);
        finish(2, 0, c20);
        if constexpr (V > 1) finish(2, 1, c21);
        if constexpr (V > 2) finish(2, 2, c22);
        if constexpr (V > 3) finish(2, 3, c23);
        finish(3, 0, c30);
        if constexpr (V > 1) finish(3, 1, c31);
        if constexpr (V > 2) finish(3, 2, c32);
        if constexpr (V > 3) finish(3, 3, c33);
    }
}

constexpr int kBlock = Simd::kLanes * Simd::kVectors;  // keys of a key block, channels of a channel block
static_assert(kTileKeys % kBlock == 0, "a tile is whole key blocks");

template <int kValue>
struct Constant {
    static constexpr int value = kValue;
};

// Calls f with the number of vectors of a channel block `width` channels wide, as a constant.
template <class F>
INT_FLASH_INLINE void with_vectors(int width, F f) {
    const int vectors = width / Simd::kLanes;
    if constexpr (Simd::kVectors == 4) {
        if (vectors == 4) return f(Constant<4>{});
        if (vectors == 3) return f(Constant<3>{});
    }
    if (vectors == 2) return f(Constant<2>{});
    return f(Constant<1>{});
}

}  // namespace
}  // namespace int_flash
