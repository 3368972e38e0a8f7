// Plain C++: what the other files of this folder do, spelled out. Any compiler, any machine.
//
// Every file here defines the same struct `Simd`:
//   Floats    16 float lanes, on which softmax and the quantizers are written
//   Ints      kLanes int32 accumulators of a register tile, kVectors of them side by side make a block
//   words     32 bits holding kGranule codes: the unit of the packed layouts and of the broadcast operand
#pragma once
#include <stddef.h>

#include "plain_rows.h"

namespace int_flash {
namespace {

struct Simd : PlainRows {
    static constexpr const char* kName = "portable-cpp";
    static constexpr int kLanes = 8, kVectors = 2;
    static constexpr int kGranule = 2;              // codes of 16 bits
    static constexpr uint32_t kKeyFlip = 0;         // xor-ed into packed K words
    static constexpr uint32_t kValueFlip = 0;       // xor-ed into packed weights P
    static constexpr bool kOffsetScores = false;    // scores start at -128 * sum(q)
    static constexpr bool kOffsetProducts = false;  // products start at 128 * sum(v)
    static constexpr int kWideLoad = 16;            // codes score_rows reads at once: prepared rows are padded to it
    static constexpr int kRowsAtOnce = 1;           // rows of a group whose softmax runs side by side: 1 or 4
    static constexpr bool kHandScheduled = false;      // whole tiles in assembler: avx512_exponents.h, avx512_beside.h

    struct Floats {
        float lane[16];
    };
    struct Ints {
        int32_t lane[8];
    };
    struct Partial {
        float lane[8];
    };

    template <class F>
    INT_FLASH_INLINE Floats each(F f) {
        Floats r;
        for (int i = 0; i < 16; i++) r.lane[i] = f(i);
        return r;
    }
    INT_FLASH_INLINE Floats load(const float* p) { return each([&](int i) { return p[i]; }); }
    INT_FLASH_INLINE Floats load_bfloat16(const uint16_t* p) {
        return each([&](int i) { return float_of(static_cast<uint32_t>(p[i]) << 16); });
    }
    INT_FLASH_INLINE void store(float* p, Floats a) { memcpy(p, a.lane, sizeof a.lane); }
    INT_FLASH_INLINE Floats splat(float x) { return each([&](int) { return x; }); }
    INT_FLASH_INLINE Floats add(Floats a, Floats b) { return each([&](int i) { return a.lane[i] + b.lane[i]; }); }
    INT_FLASH_INLINE Floats sub(Floats a, Floats b) { return each([&](int i) { return a.lane[i] - b.lane[i]; }); }
    INT_FLASH_INLINE Floats mul(Floats a, Floats b) { return each([&](int i) { return a.lane[i] * b.lane[i]; }); }
    INT_FLASH_INLINE Floats div(Floats a, Floats b) { return each([&](int i) { return a.lane[i] / b.lane[i]; }); }
    INT_FLASH_INLINE Floats fma(Floats a, Floats b, Floats c) {
        return each([&](int i) { return fmaf(a.lane[i], b.lane[i], c.lane[i]); });
    }
    INT_FLASH_INLINE Floats max(Floats a, Floats b) {
        return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
    }
    INT_FLASH_INLINE Floats abs(Floats a) { return each([&](int i) { return float_of(bits_of(a.lane[i]) & 0x7fffffffu); }); }
    INT_FLASH_INLINE Floats from_ints(const int32_t* p) { return each([&](int i) { return static_cast<float>(p[i]); }); }
    INT_FLASH_INLINE Floats exp2(Floats y) { return each([&](int i) { return exp2_polynomial(y.lane[i]); }); }
    INT_FLASH_INLINE float largest(Floats a) {
        float m = a.lane[0];
        for (int i = 1; i < 16; i++) m = a.lane[i] > m ? a.lane[i] : m;
        return m;
    }
    INT_FLASH_INLINE float fold(Floats a) {
        for (int half = 8; half >= 1; half /= 2)
            for (int i = 0; i < half; i++) a.lane[i] = a.lane[i] + a.lane[i + half];
        return a.lane[0];
    }
    // Lanes [begin, end) of a, the rest of b.
    INT_FLASH_INLINE Floats keep(Floats a, int begin, int end, Floats b) {
        return each([&](int i) { return i >= begin && i < end ? a.lane[i] : b.lane[i]; });
    }
    // a, or 0 where x is -Infinity.
    INT_FLASH_INLINE Floats zero_excluded(Floats a, Floats x) {
        return each([&](int i) { return bits_of(x.lane[i]) == 0xff800000u ? 0.0f : a.lane[i]; });
    }
    INT_FLASH_INLINE int32_t round_int(float x) {  // |x| < 2^22; anything else gives a defined, meaningless code
        return static_cast<int32_t>(bits_of(x + kRoundMagic) - bits_of(kRoundMagic));
    }
    INT_FLASH_INLINE void store_codes(int8_t* p, Floats a) {
        for (int i = 0; i < 16; i++) p[i] = static_cast<int8_t>(round_int(a.lane[i]));
    }
    // Weights rne(levels * p) in [0, 255] as the product's left operand: 16 codes, 16 / kGranule words.
    INT_FLASH_INLINE void store_weights(uint32_t* words, Floats p, Floats levels) {
        int16_t codes[16];
        for (int i = 0; i < 16; i++) codes[i] = static_cast<int16_t>(bits_of(fmaf(p.lane[i], levels.lane[i], kRoundMagic)) - bits_of(kRoundMagic));
        memcpy(words, codes, sizeof codes);
    }
    INT_FLASH_INLINE void store_zero_weights(uint32_t* words) { memset(words, 0, 32); }

    // 16 INT8 codes to 16 / kGranule words.
    INT_FLASH_INLINE void widen(uint32_t* words, const int8_t* codes) {
        int16_t wide[16];
        for (int i = 0; i < 16; i++) wide[i] = codes[i];
        memcpy(words, wide, sizeof wide);
    }

    // 16 channels of kGranule rows of codes, `stride` apart, to a word a channel.
    INT_FLASH_INLINE void interleave(const int8_t* codes, ptrdiff_t stride, uint32_t* words) {
        for (int d = 0; d < 16; d++)
            words[d] = static_cast<uint32_t>(static_cast<uint16_t>(codes[d])) | (static_cast<uint32_t>(codes[stride + d]) << 16);
    }
    // 16 words of 16 rows, `stride` apart, to 16 columns, `out_stride` apart, each xor-ed with `flip`.
    INT_FLASH_INLINE void transpose_words(const uint32_t* rows, ptrdiff_t stride, uint32_t flip, uint32_t* out, ptrdiff_t out_stride) {
        for (int j = 0; j < 16; j++)
            for (int g = 0; g < 16; g++) out[g * out_stride + j] = rows[j * stride + g] ^ flip;
    }

    INT_FLASH_INLINE Ints zero_ints() { return splat_int(0); }
    INT_FLASH_INLINE Ints splat_int(int32_t x) {
        Ints r;
        for (int i = 0; i < 8; i++) r.lane[i] = x;
        return r;
    }
    INT_FLASH_INLINE Ints load_words(const uint32_t* p) {
        Ints r;
        memcpy(r.lane, p, sizeof r.lane);
        return r;
    }
    INT_FLASH_INLINE Ints load_ints(const int32_t* p) {
        Ints r;
        memcpy(r.lane, p, sizeof r.lane);
        return r;
    }
    INT_FLASH_INLINE void store_ints(int32_t* p, Ints a) { memcpy(p, a.lane, sizeof a.lane); }
    INT_FLASH_INLINE Ints spread(const uint32_t* p) {
        int32_t word;
        memcpy(&word, p, 4);
        return splat_int(word);
    }
    INT_FLASH_INLINE Ints dot(Ints sum, Ints b, Ints a) {
        for (int i = 0; i < 8; i++) {
            const int32_t x = a.lane[i], y = b.lane[i];
            sum.lane[i] += static_cast<int16_t>(x) * static_cast<int16_t>(y) + (x >> 16) * (y >> 16);
        }
        return sum;
    }
    INT_FLASH_INLINE Ints dot_scores(Ints sum, Ints keys, Ints query) { return dot(sum, keys, query); }
    INT_FLASH_INLINE Ints dot_products(Ints sum, Ints values, Ints weights) { return dot(sum, values, weights); }

    INT_FLASH_INLINE Partial zero_floats() { return Partial{{0, 0, 0, 0, 0, 0, 0, 0}}; }
    INT_FLASH_INLINE Partial load_floats(const float* p) {
        Partial r;
        memcpy(r.lane, p, sizeof r.lane);
        return r;
    }
    INT_FLASH_INLINE void store_floats(float* p, Partial a) { memcpy(p, a.lane, sizeof a.lane); }
    INT_FLASH_INLINE Partial spread_float(const float* p) {
        Partial r;
        for (int i = 0; i < 8; i++) r.lane[i] = *p;
        return r;
    }
    INT_FLASH_INLINE Partial to_floats(Ints a) {
        Partial r;
        for (int i = 0; i < 8; i++) r.lane[i] = static_cast<float>(a.lane[i]);
        return r;
    }
    INT_FLASH_INLINE Partial multiply_add(Partial a, Partial b, Partial c) {
        for (int i = 0; i < 8; i++) c.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]);
        return c;
    }
    INT_FLASH_INLINE Partial multiply(Partial a, Partial b) {
        for (int i = 0; i < 8; i++) a.lane[i] *= b.lane[i];
        return a;
    }
    INT_FLASH_INLINE Partial plus(Partial a, Partial b) {
        for (int i = 0; i < 8; i++) a.lane[i] += b.lane[i];
        return a;
    }
    INT_FLASH_INLINE Partial larger(Partial a, Partial b) {
        for (int i = 0; i < 8; i++) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
        return a;
    }
    INT_FLASH_INLINE Partial excluded() {
        const float x = -INFINITY;
        return spread_float(&x);
    }
    INT_FLASH_INLINE float largest_lane(Partial a) {
        float m = a.lane[0];
        for (int i = 1; i < 8; i++) m = a.lane[i] > m ? a.lane[i] : m;
        return m;
    }
    INT_FLASH_INLINE void largest_of_four(Partial a, Partial b, Partial c, Partial d, float* out) {
        out[0] = largest_lane(a), out[1] = largest_lane(b), out[2] = largest_lane(c), out[3] = largest_lane(d);
    }

    // Four floats, one for each row of a group.
    struct Quad {
        float lane[4];
    };
    template <class F>
    INT_FLASH_INLINE Quad each_of_four(F f) {
        Quad r;
        for (int i = 0; i < 4; i++) r.lane[i] = f(i);
        return r;
    }
    INT_FLASH_INLINE Quad load_quad(const float* p) { return each_of_four([&](int i) { return p[i]; }); }
    INT_FLASH_INLINE void store_quad(float* p, Quad a) { memcpy(p, a.lane, sizeof a.lane); }
    INT_FLASH_INLINE Quad max_quad(Quad a, Quad b) {
        return each_of_four([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
    }
    INT_FLASH_INLINE Quad sub_quad(Quad a, Quad b) { return each_of_four([&](int i) { return a.lane[i] - b.lane[i]; }); }
    INT_FLASH_INLINE Quad mul_quad(Quad a, Quad b) { return each_of_four([&](int i) { return a.lane[i] * b.lane[i]; }); }
    INT_FLASH_INLINE Quad fma_quad(Quad a, Quad b, Quad c) { return each_of_four([&](int i) { return fmaf(a.lane[i], b.lane[i], c.lane[i]); }); }
    INT_FLASH_INLINE Quad exp2_quad(Quad y) { return each_of_four([&](int i) { return exp2_polynomial(y.lane[i]); }); }  // of a NaN 2^-125

    // scores[j] = query . keys[j] for n rows, `stride` codes apart. Reads dim codes a row and nothing beyond.
    INT_FLASH_INLINE void score_rows(const int8_t* keys, ptrdiff_t stride, int n, const uint32_t* query, int32_t, int dim, const Ahead&,
                                     int32_t* scores) {
        int16_t q[256];
        memcpy(q, query, static_cast<size_t>(dim) * 2);
        for (int j = 0; j < n; j++) {
            int32_t sum = 0;
            for (int d = 0; d < dim; d++) sum += q[d] * keys[j * stride + d];
            scores[j] = sum;
        }
    }
    // products[d] = sum over n rows of weights[j] * values[j, d]. Weights past n are 0.
    INT_FLASH_INLINE void weigh_rows(const int8_t* values, ptrdiff_t stride, int n, const uint32_t* weights, int dim, const Ahead&,
                                     int32_t* products) {
        int16_t p[128];
        memcpy(p, weights, static_cast<size_t>(n) * 2);
        for (int d = 0; d < dim; d++) products[d] = 0;
        for (int j = 0; j < n; j++)
            for (int d = 0; d < dim; d++) products[d] += p[j] * values[j * stride + d];
    }
    // Rows of `dim` floats to [dim][16]: 16 keys side by side. Rows past n repeat the last one.
    INT_FLASH_INLINE void transpose16(const float* rows, ptrdiff_t stride, int n, int dim, float* out) {
        for (int j = 0; j < 16; j++) {
            const float* row = rows + (j < n ? j : n - 1) * stride;
            for (int d = 0; d < dim; d++) out[d * 16 + j] = row[d];
        }
    }
    // Linear layers keep their weights in 8 bits: 2 words of 16-bit codes from 4 bytes.
    static constexpr int kLinearCodeBytes = 1;
    INT_FLASH_INLINE Ints load_linear(const void* p, int vector) {
        int8_t codes[16];
        memcpy(codes, static_cast<const int8_t*>(p) + vector * 16, 16);
        Ints r;
        for (int i = 0; i < 8; i++)
            r.lane[i] = static_cast<int32_t>((static_cast<uint32_t>(static_cast<uint16_t>(codes[2 * i]))) |
                                             (static_cast<uint32_t>(static_cast<uint16_t>(codes[2 * i + 1])) << 16));
        return r;
    }
};

}  // namespace
}  // namespace int_flash
