// A query against rows of a KV cache as they lie, 16 keys at a time: what decoding does instead of packing (cache_run.h).
// INT8: K as u8 (code + 128) times q. INT4: two codes a byte, taken apart in registers: the query is split into its even and its odd
// channels (split_query), which face the low and the high nibbles.
#pragma once
#include <immintrin.h>
#include <stddef.h>

#include "../../arithmetic.h"

namespace int_flash {
namespace {

struct Avx512Rows {
    static constexpr bool kChannelsOfRows = true;
    static constexpr bool kInt4Rows = true;  // score_int4_rows and weigh_int4_rows exist

    // sum += u · s. In assembler for g++, which gives the intrinsic another register for its result and copies all sums every step.
    INT_FLASH_INLINE __m512i dot(__m512i sum, __m512i u, __m512i s) {
#if defined(__GNUC__) && !defined(__clang__)
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(s));
        return sum;
#else
        return _mm512_dpbusd_epi32(sum, u, s);
#endif
    }

    // Keeps a compiler from loading x again for every instruction that takes it: a line and a half of memory each time, where rows are not aligned.
    INT_FLASH_INLINE __m512i in_register(__m512i x) {
#if defined(__GNUC__)
        __asm__("" : "+v"(x));
#endif
        return x;
    }

    // Row i of the 16 at hand; past the last one that is there, the last one again.
    template <bool kWhole>
    INT_FLASH_INLINE const char* row_at(const char* rows, ptrdiff_t stride, int i, int last) {
        return rows + (kWhole || i < last ? i : last) * stride;
    }
    // Bytes [0, count) of 64, count a multiple of 4.
    INT_FLASH_INLINE __mmask16 words_of(int bytes) { return static_cast<__mmask16>(bytes >= 64 ? 0xffffu : (1u << (bytes / 4)) - 1u); }

    // Two accumulators' lanes next to each other, then four's: in each 128-bit quarter the partial sums of rows 0 to 3.
    INT_FLASH_INLINE __m512i sum_pairs(__m512i a, __m512i b) { return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)); }
    INT_FLASH_INLINE __m512i sum_quads(__m512i ab, __m512i cd) {
        return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    }
    INT_FLASH_INLINE __m512i sum_quarters(__m512i a, __m512i b) {
        return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
    }

    // kChunks whole chunks of 64 channels, or with 0 as many as `dim` has, the last one masked.
    template <int kChunks, bool kWhole>
    INT_FLASH_INLINE __m512i score_4(const char* rows, ptrdiff_t stride, int first, int last, const char* query, int dim) {
        const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
        const char* k0 = row_at<kWhole>(rows, stride, first, last);
        const char* k1 = row_at<kWhole>(rows, stride, first + 1, last);
        const char* k2 = row_at<kWhole>(rows, stride, first + 2, last);
        const char* k3 = row_at<kWhole>(rows, stride, first + 3, last);
        __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0;
        const int width = kChunks > 0 ? kChunks * 64 : dim;
        for (int d = 0; d < width; d += 64) {
            const __m512i q = _mm512_loadu_si512(query + d);
            const __mmask16 mask = kChunks > 0 ? static_cast<__mmask16>(0xffff) : words_of(dim - d);
            s0 = dot(s0, _mm512_xor_si512(_mm512_maskz_loadu_epi32(mask, k0 + d), flip), q);
            s1 = dot(s1, _mm512_xor_si512(_mm512_maskz_loadu_epi32(mask, k1 + d), flip), q);
            s2 = dot(s2, _mm512_xor_si512(_mm512_maskz_loadu_epi32(mask, k2 + d), flip), q);
            s3 = dot(s3, _mm512_xor_si512(_mm512_maskz_loadu_epi32(mask, k3 + d), flip), q);
        }
        return sum_quads(sum_pairs(s0, s1), sum_pairs(s2, s3));
    }
    template <int kChunks, bool kWhole>
    INT_FLASH_INLINE void score_16(const char* rows, ptrdiff_t stride, int last, const char* query, __m512i start, int dim, int32_t* scores) {
        const __m512i a = score_4<kChunks, kWhole>(rows, stride, 0, last, query, dim), b = score_4<kChunks, kWhole>(rows, stride, 4, last, query, dim);
        const __m512i c = score_4<kChunks, kWhole>(rows, stride, 8, last, query, dim), d = score_4<kChunks, kWhole>(rows, stride, 12, last, query, dim);
        _mm512_storeu_si512(scores, _mm512_add_epi32(sum_quarters(sum_quarters(a, b), sum_quarters(c, d)), start));
    }
    template <int kChunks>
    INT_FLASH_INLINE void score_all(const char* rows, ptrdiff_t stride, int n, const char* query, int32_t start, int dim, const Ahead& soon, int32_t* scores) {
        const __m512i first = _mm512_set1_epi32(start);
        int j = 0;
        for (; j + 16 <= n; j += 16) {
            soon.fetch(j, 16);
            score_16<kChunks, true>(rows + j * stride, stride, 15, query, first, dim, scores + j);
        }
        if (j < n) score_16<kChunks, false>(rows + j * stride, stride, n - 1 - j, query, first, dim, scores + j);
    }
    // scores[j] = start + 〈row j + 128, query〉 for j < n, and something up to the next multiple of 16.
    INT_FLASH_INLINE void score_rows(const int8_t* keys, ptrdiff_t stride, int n, const uint32_t* query, int32_t start, int dim, const Ahead& soon,
                                     int32_t* scores) {
        const char* rows = reinterpret_cast<const char*>(keys);
        const char* words = reinterpret_cast<const char*>(query);
        if (dim == 64) return score_all<1>(rows, stride, n, words, start, dim, soon, scores);
        if (dim == 128) return score_all<2>(rows, stride, n, words, start, dim, soon, scores);
        score_all<0>(rows, stride, n, words, start, dim, soon, scores);
    }

    // Adds n rows' channels [0, 64) to `sums`, row after row, and raises `largest` to their magnitudes as bits. All in registers.
    template <bool kSum>
    INT_FLASH_INLINE void channels_of_rows(const float* row, ptrdiff_t stride, int n, double* sums, uint32_t* largest) {
        const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
        __m512d s0 = _mm512_setzero_pd(), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
        __m512i m0 = _mm512_loadu_si512(largest), m1 = _mm512_loadu_si512(largest + 16), m2 = _mm512_loadu_si512(largest + 32), m3 = _mm512_loadu_si512(largest + 48);
        const auto add = [=](const float* p, __m512d& low, __m512d& high, __m512i& m) INT_FLASH_LAMBDA {
            const __m512 x = _mm512_loadu_ps(p);
            m = _mm512_max_epu32(m, _mm512_and_si512(_mm512_castps_si512(x), magnitude));
            if constexpr (kSum) {
                low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(x)));
                high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
            }
        };
        for (int j = 0; j < n; j++, row += stride) {
            fetch_ahead(row + kPassRowsAhead * stride, 64 * sizeof *row);  // past the last row too: it harms nothing
            add(row, s0, s1, m0), add(row + 16, s2, s3, m1), add(row + 32, s4, s5, m2), add(row + 48, s6, s7, m3);
        }
        _mm512_storeu_si512(largest, m0), _mm512_storeu_si512(largest + 16, m1), _mm512_storeu_si512(largest + 32, m2), _mm512_storeu_si512(largest + 48, m3);
        if constexpr (!kSum) return;
        const auto store = [sums](int d, __m512d s) INT_FLASH_LAMBDA { _mm512_storeu_pd(sums + d, _mm512_add_pd(_mm512_loadu_pd(sums + d), s)); };
        store(0, s0), store(8, s1), store(16, s2), store(24, s3), store(32, s4), store(40, s5), store(48, s6), store(56, s7);
    }

    INT_FLASH_INLINE void store_quarters(int32_t* out, ptrdiff_t step, __m512i a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_castsi512_si128(a));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + step), _mm512_extracti32x4_epi32(a, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * step), _mm512_extracti32x4_epi32(a, 2));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * step), _mm512_extracti32x4_epi32(a, 3));
    }
    // products[d] = Σ p_j · row j [d]; weights past n are 0.
    INT_FLASH_INLINE void weigh_rows(const int8_t* values, ptrdiff_t stride, int n, const uint32_t* weights, int dim, const Ahead& soon,
                                     int32_t* products) {
        const Ahead none{};
        int d = 0;
        for (; d + 64 <= dim; d += 64) weigh_channels<true>(values + d, stride, n, weights, 64, d == 0 ? soon : none, products + d);
        if (d < dim) weigh_channels<false>(values + d, stride, n, weights, dim - d, d == 0 ? soon : none, products + d);
    }
    // Up to 64 channels. Masked loads take a unit that multiplies, so whole ones have none.
    template <bool kWhole>
    INT_FLASH_INLINE void weigh_channels(const int8_t* values, ptrdiff_t stride, int n, const uint32_t* weights, int channels, const Ahead& soon,
                                         int32_t* products) {
        const __mmask16 mask = words_of(channels);
        const auto load = [mask](const int8_t* row) INT_FLASH_LAMBDA { return kWhole ? in_register(_mm512_loadu_si512(row)) : _mm512_maskz_loadu_epi32(mask, row); };
        const __m512i zero = _mm512_setzero_si512();
        __m512i c0 = zero, c1 = zero, c2 = zero, c3 = zero;
        const auto add = [&](const int8_t* v0, const int8_t* v1, const int8_t* v2, const int8_t* v3, const uint32_t* word) INT_FLASH_LAMBDA {
            const __m512i r0 = load(v0), r1 = load(v1), r2 = load(v2), r3 = load(v3);
            int32_t bits;
            memcpy(&bits, word, 4);
            const __m512i p = _mm512_set1_epi32(bits);
            const __m512i lo01 = _mm512_unpacklo_epi8(r0, r1), hi01 = _mm512_unpackhi_epi8(r0, r1);
            const __m512i lo23 = _mm512_unpacklo_epi8(r2, r3), hi23 = _mm512_unpackhi_epi8(r2, r3);
            c0 = dot(c0, p, _mm512_unpacklo_epi16(lo01, lo23));
            c1 = dot(c1, p, _mm512_unpackhi_epi16(lo01, lo23));
            c2 = dot(c2, p, _mm512_unpacklo_epi16(hi01, hi23));
            c3 = dot(c3, p, _mm512_unpackhi_epi16(hi01, hi23));
        };
        int j = 0;
        for (; j + 4 <= n; j += 4) {
            soon.fetch(j, 4);
            const int8_t* v = values + j * stride;
            add(v, v + stride, v + 2 * stride, v + 3 * stride, weights + j / 4);
        }
        if (j < n) {
            const int8_t* v = values + j * stride;
            add(v, j + 1 < n ? v + stride : v, j + 2 < n ? v + 2 * stride : v, v, weights + j / 4);
        }
        // Quarter h of c_i holds channels 16 h + 4 i onwards.
        store_quarters(products, 16, c0);
        store_quarters(products + 4, 16, c1);
        store_quarters(products + 8, 16, c2);
        store_quarters(products + 12, 16, c3);
    }

    // Bytes that split_query writes.
    static constexpr int split_bytes(int dim) { return (dim + 127) / 128 * 128; }
    // Of each 128 channels the 64 even ones, then the 64 odd ones; zeros past dim. Returns what int4 scores start at.
    INT_FLASH_INLINE int32_t split_query(const uint32_t* words, int dim, int8_t* split) {
        const int8_t* codes = reinterpret_cast<const int8_t*>(words);
        int32_t sum = 0;
        memset(split, 0, static_cast<size_t>(split_bytes(dim)));
        for (int d = 0; d < dim; d++) {
            split[d / 128 * 128 + d % 2 * 64 + d % 128 / 2] = codes[d];
            sum += codes[d];
        }
        return -8 * sum;
    }
    // (x ^ 0x88) & 0x0f: a nibble's code + 8.
    INT_FLASH_INLINE __m512i low_codes(__m512i x) {
        return _mm512_ternarylogic_epi32(x, _mm512_set1_epi8(static_cast<char>(0x88)), _mm512_set1_epi8(0x0f), 0x28);
    }
    INT_FLASH_INLINE __m512i dot_nibbles(__m512i sum, __m512i bytes, __m512i even, __m512i odd) {
        sum = dot(sum, low_codes(bytes), even);
        return dot(sum, low_codes(_mm512_srli_epi16(bytes, 4)), odd);
    }
    // Head dimension 64: a row is 32 bytes, so a register holds two.
    template <bool kWhole>
    INT_FLASH_INLINE void score_16_halves(const char* rows, int n, __m512i even, __m512i odd, __m512i start, int32_t* scores) {
        const auto dot = [&](int i) INT_FLASH_LAMBDA {
            const __m512i bytes = kWhole ? _mm512_loadu_si512(rows + i * 64) : _mm512_maskz_loadu_epi32(words_of(n * 32 - i * 64 > 0 ? n * 32 - i * 64 : 0), rows + i * 64);
            return dot_nibbles(_mm512_setzero_si512(), bytes, even, odd);
        };
        const __m512i a = sum_quads(sum_pairs(dot(0), dot(1)), sum_pairs(dot(2), dot(3)));
        const __m512i b = sum_quads(sum_pairs(dot(4), dot(5)), sum_pairs(dot(6), dot(7)));
        const __m512i order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
        _mm512_storeu_si512(scores, _mm512_add_epi32(_mm512_permutexvar_epi32(order, sum_quarters(a, b)), start));
    }
    template <bool kWhole>
    INT_FLASH_INLINE __m512i score_int4_4(const char* rows, ptrdiff_t stride, int first, int last, const int8_t* query, int dim) {
        const char* k0 = row_at<kWhole>(rows, stride, first, last);
        const char* k1 = row_at<kWhole>(rows, stride, first + 1, last);
        const char* k2 = row_at<kWhole>(rows, stride, first + 2, last);
        const char* k3 = row_at<kWhole>(rows, stride, first + 3, last);
        __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0;
        for (int d = 0; d < dim; d += 128) {
            const __m512i even = _mm512_loadu_si512(query + d), odd = _mm512_loadu_si512(query + d + 64);
            const __mmask16 mask = words_of((dim - d) / 2);
            s0 = dot_nibbles(s0, _mm512_maskz_loadu_epi32(mask, k0 + d / 2), even, odd);
            s1 = dot_nibbles(s1, _mm512_maskz_loadu_epi32(mask, k1 + d / 2), even, odd);
            s2 = dot_nibbles(s2, _mm512_maskz_loadu_epi32(mask, k2 + d / 2), even, odd);
            s3 = dot_nibbles(s3, _mm512_maskz_loadu_epi32(mask, k3 + d / 2), even, odd);
        }
        return sum_quads(sum_pairs(s0, s1), sum_pairs(s2, s3));
    }
    template <bool kWhole>
    INT_FLASH_INLINE void score_int4_16(const char* rows, ptrdiff_t stride, int last, const int8_t* query, int dim, __m512i start, int32_t* scores) {
        const __m512i a = score_int4_4<kWhole>(rows, stride, 0, last, query, dim), b = score_int4_4<kWhole>(rows, stride, 4, last, query, dim);
        const __m512i c = score_int4_4<kWhole>(rows, stride, 8, last, query, dim), d = score_int4_4<kWhole>(rows, stride, 12, last, query, dim);
        _mm512_storeu_si512(scores, _mm512_add_epi32(sum_quarters(sum_quarters(a, b), sum_quarters(c, d)), start));
    }
    // As score_rows, for rows of dim / 2 bytes and a query from split_query.
    INT_FLASH_INLINE void score_int4_rows(const uint8_t* keys, int n, const int8_t* query, int32_t start, int dim, const Ahead& soon, int32_t* scores) {
        const char* rows = reinterpret_cast<const char*>(keys);
        const ptrdiff_t stride = dim / 2;
        const __m512i first = _mm512_set1_epi32(start);
        const __m512i even = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(query)));
        const __m512i odd = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(query + 64)));
        int j = 0;
        for (; j + 16 <= n; j += 16) {
            soon.fetch(j, 16);
            if (dim == 64) {
                score_16_halves<true>(rows + j * stride, 16, even, odd, first, scores + j);
            } else {
                score_int4_16<true>(rows + j * stride, stride, 15, query, dim, first, scores + j);
            }
        }
        if (j >= n) return;
        if (dim == 64) return score_16_halves<false>(rows + j * stride, n - j, even, odd, first, scores + j);
        score_int4_16<false>(rows + j * stride, stride, n - 1 - j, query, dim, first, scores + j);
    }

    // Four rows' bytes to words of four keys; low nibbles count as code + 8 (taken out at the end), whole bytes as 16 high + low.
    struct NibbleSums {
        __m512i low, both;
        INT_FLASH_LAMBDA void add(__m512i p, __m512i words) {
            const __m512i flipped = _mm512_xor_si512(words, _mm512_set1_epi8(0x08));
            low = dot(low, p, _mm512_and_si512(flipped, _mm512_set1_epi8(0x0f)));
            both = dot(both, p, flipped);
        }
        INT_FLASH_LAMBDA __m512i high() const { return _mm512_srai_epi32(_mm512_sub_epi32(both, low), 4); }
        INT_FLASH_LAMBDA __m512i low_less(__m512i offset) const { return _mm512_sub_epi32(low, offset); }
    };
    struct NibbleBlock {
        NibbleSums s0, s1, s2, s3;
        INT_FLASH_LAMBDA void add(__m512i p, __m512i r0, __m512i r1, __m512i r2, __m512i r3) {
            const __m512i lo01 = _mm512_unpacklo_epi8(r0, r1), hi01 = _mm512_unpackhi_epi8(r0, r1);
            const __m512i lo23 = _mm512_unpacklo_epi8(r2, r3), hi23 = _mm512_unpackhi_epi8(r2, r3);
            s0.add(p, _mm512_unpacklo_epi16(lo01, lo23));
            s1.add(p, _mm512_unpackhi_epi16(lo01, lo23));
            s2.add(p, _mm512_unpacklo_epi16(hi01, hi23));
            s3.add(p, _mm512_unpackhi_epi16(hi01, hi23));
        }
    };
    // Word w of quarter h of block i stands for byte 16 h + 4 i + w of a row: channels 2 · that and the next.
    INT_FLASH_INLINE void store_nibbles(const NibbleSums& sums, __m512i offset, int32_t* products) {
        const __m512i low = sums.low_less(offset), high = sums.high();
        store_quarters(products, 32, _mm512_unpacklo_epi32(low, high));
        store_quarters(products + 4, 32, _mm512_unpackhi_epi32(low, high));
    }
    INT_FLASH_INLINE void weigh_int4_rows(const uint8_t* values, int n, const uint32_t* weights, int dim, const Ahead& soon, int32_t* products) {
        const ptrdiff_t stride = dim / 2;
        const uint8_t* codes = reinterpret_cast<const uint8_t*>(weights);
        const __m512i zero = _mm512_setzero_si512();
        __m512i sums = zero;
        for (int j = 0; j < n; j += 64) sums = dot(sums, _mm512_maskz_loadu_epi32(words_of((n - j + 15) / 16 * 16), codes + j), _mm512_set1_epi8(1));
        const __m512i offset = _mm512_set1_epi32(8 * _mm512_reduce_add_epi32(sums));
        if (dim == 64) return weigh_int4_halves(values, n, codes, offset, soon, products);
        for (int d = 0; d < dim; d += 128) {
            const __mmask16 mask = words_of((dim - d) / 2);
            NibbleBlock block{{zero, zero}, {zero, zero}, {zero, zero}, {zero, zero}};
            for (int j = 0; j < n; j += 4) {
                if (d == 0) soon.fetch(j, 4);
                const uint8_t* v0 = values + j * stride + d / 2;
                const uint8_t* v1 = j + 1 < n ? v0 + stride : v0;
                const uint8_t* v2 = j + 2 < n ? v1 + stride : v0;
                const uint8_t* v3 = j + 3 < n ? v2 + stride : v0;
                int32_t bits;
                memcpy(&bits, codes + j, 4);
                block.add(_mm512_set1_epi32(bits), _mm512_maskz_loadu_epi32(mask, v0), _mm512_maskz_loadu_epi32(mask, v1), _mm512_maskz_loadu_epi32(mask, v2),
                          _mm512_maskz_loadu_epi32(mask, v3));
            }
            store_nibbles(block.s0, offset, products + d);
            store_nibbles(block.s1, offset, products + d + 8);
            store_nibbles(block.s2, offset, products + d + 16);
            store_nibbles(block.s3, offset, products + d + 24);
        }
    }
    // Head dimension 64, eight keys at a time: the lower half of a register holds an even key, the upper half the next.
    INT_FLASH_INLINE void weigh_int4_halves(const uint8_t* values, int n, const uint8_t* codes, __m512i offset, const Ahead& soon, int32_t* products) {
        const __m512i zero = _mm512_setzero_si512();
        NibbleBlock block{{zero, zero}, {zero, zero}, {zero, zero}, {zero, zero}};
        const __m128i split = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, -1, -1, -1, -1, -1, -1, -1, -1);
        for (int j = 0; j < n; j += 8) {
            soon.fetch(j, 8);
            const __m128i p = _mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + j)), split);
            const __m512i spread = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), _mm512_castsi128_si512(p));
            const uint8_t* v = values + j * 32;
            if (j + 8 <= n) {
                block.add(spread, _mm512_loadu_si512(v), _mm512_loadu_si512(v + 64), _mm512_loadu_si512(v + 128), _mm512_loadu_si512(v + 192));
            } else {
                const auto load = [&](int i) INT_FLASH_LAMBDA {
                    const int bytes = (n - j) * 32 - i * 64;
                    return bytes > 0 ? _mm512_maskz_loadu_epi32(words_of(bytes), v + i * 64) : zero;
                };
                block.add(spread, load(0), load(1), load(2), load(3));
            }
        }
        const auto store = [&](const NibbleSums& sums, int32_t* out) INT_FLASH_LAMBDA {
            const __m512i low = sums.low, both = sums.both;
            const __m512i upper_low = _mm512_shuffle_i64x2(low, low, 0x4e), upper_both = _mm512_shuffle_i64x2(both, both, 0x4e);
            const NibbleSums whole{_mm512_add_epi32(low, upper_low), _mm512_add_epi32(both, upper_both)};
            const __m512i even = whole.low_less(offset), odd = whole.high();
            const __m512i first = _mm512_unpacklo_epi32(even, odd), second = _mm512_unpackhi_epi32(even, odd);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_castsi512_si128(first));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 4), _mm512_castsi512_si128(second));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 32), _mm512_extracti32x4_epi32(first, 1));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 36), _mm512_extracti32x4_epi32(second, 1));
        };
        store(block.s0, products);
        store(block.s1, products + 8);
        store(block.s2, products + 16);
        store(block.s3, products + 24);
    }
};

}  // namespace
}  // namespace int_flash
