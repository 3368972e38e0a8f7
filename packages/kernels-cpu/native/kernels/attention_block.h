// A block of queries of one head against the packed keys and values, tile by tile, four queries at a time:
//   §1 queries        quantized here, so that no pass over Q is needed
//   §2 scores         S = Q·Kᵀ of four rows and the visible key blocks
//   §3 softmax        x, m', p, codes, L of each row (softmax_row.h)
//   §4 products       T = P·V, and O = T·β + O·α straight from the accumulators
//   §5 epilogue
#pragma once
#include "quantize_rows.h"
#include "softmax_row.h"

namespace int_flash {
namespace {

// ── §1 ──
template <bool kIntScores>
INT_FLASH_INLINE void load_queries(const BlockArgs& args, int words, Scratch* s, BlockResult* result) {
    const int dim = args.head_dim;
    const float max_code = args.precision == Precision::kInt4Qk ? 7.0f : 127.0f;
    const int padded = static_cast<int>(round_up(args.rows, kRowGroup));
    result->max_query_scale = 0.0f;
    result->bad_row = -1;
    for (int i = 0; i < padded; i++) {
        uint32_t* out = s->query + i * words;
        s->running_max[i] = -INFINITY;
        s->row_sum[i] = 0.0f;
        s->row_scale[i] = 0.0f, s->natural_scale[i] = 0.0f, s->score_start[i] = 0;
        if (i >= args.rows) {
            memset(out, 0, static_cast<size_t>(words) * 4);
            continue;
        }
        float scale;
        if (args.query.type == ElementType::kInt8) {
            copy_codes(code_row(args.query, i), dim, s->codes);
            scale = args.query_scale[i * args.query_scale_stride];
        } else {
            load_row(args.query, i, s->row);
            const uint32_t bits = largest_magnitude_bits(s->row, dim);
            if (bits >= kInfinityBits && result->bad_row < 0) {
                result->bad_row = i;
                for (int d = dim - 1; d >= 0; d--)
                    if ((bits_of(s->row[d]) & 0x7fffffffu) >= kInfinityBits) result->bad_column = d;
            }
            scale = symmetric_scale(bits, max_code);
            if constexpr (kIntScores) encode_row(s->row, dim, scale, s->codes);
        }
        result->max_query_scale = scale > result->max_query_scale ? scale : result->max_query_scale;
        if constexpr (kIntScores) {
            uint32_t wide[kMaxHeadDim];
            widen_row(s->codes, dim, wide);
            memcpy(out, wide, static_cast<size_t>(words) * 4);
            s->natural_scale[i] = scale * args.scale;
            s->row_scale[i] = s->natural_scale[i] * kLog2E;
            s->score_start[i] = offset_start(s->codes, dim);
        } else {
            memcpy(out, s->row, static_cast<size_t>(words) * 4);
            s->natural_scale[i] = args.scale;
        }
    }
}

// ── §2 ──
template <bool kIntScores>
INT_FLASH_OUTLINE void score_tile(const HeadPack& head, int words, int64_t tile_start, int begin, int end, int group, Scratch* s) {
    const uint32_t* query = s->query + group * kRowGroup * words;
    for (int k = begin / kBlock * kBlock; k < end; k += kBlock) {
        const int64_t block = (tile_start + k) * words;  // blocks are kBlock keys of `words` words each
        if constexpr (kIntScores) {
            const int32_t* start = s->score_start + group * kRowGroup;
            register_tile<ScoreOp, kRowGroup, Simd::kVectors>(
                static_cast<const uint32_t*>(head.keys) + block, query, words, words,
                [=](int r, int) INT_FLASH_LAMBDA { return Simd::kOffsetScores ? Simd::splat_int(start[r]) : Simd::zero_ints(); },
                [=](int r, int v, Simd::Ints sum) INT_FLASH_LAMBDA { Simd::store_ints(s->scores + r * kTileKeys + k + v * Simd::kLanes, sum); });
        } else {
            float* scores = reinterpret_cast<float*>(s->scores);
            register_tile<FloatOp, kRowGroup, Simd::kVectors>(
                static_cast<const float*>(head.keys) + block, query, words, words, [](int, int) INT_FLASH_LAMBDA { return Simd::zero_floats(); },
                [=](int r, int v, Simd::Partial sum) INT_FLASH_LAMBDA { Simd::store_floats(scores + r * kTileKeys + k + v * Simd::kLanes, sum); });
        }
    }
}

// ── §4 ──
template <bool kIntWeights, bool kKeepProducts>
INT_FLASH_OUTLINE void product_tile(const HeadPack& head, int width, int64_t tile_start, int begin, int end, int group,
                                   const Rescale* rescale, Scratch* s) {
    float* out = s->out + group * kRowGroup * width;
    for (int c = 0; c < width; c += kBlock) {
        const int block = width - c < kBlock ? width - c : kBlock;
        with_vectors(block, [&](auto vectors) INT_FLASH_LAMBDA {
            constexpr int kVectors = decltype(vectors)::value;
            const auto accumulate = [=](int r, int v, Simd::Partial product) INT_FLASH_LAMBDA {
                float* o = out + r * width + c + v * Simd::kLanes;
                const Simd::Partial alpha = Simd::spread_float(&rescale[r].alpha), beta = Simd::spread_float(&rescale[r].beta);
                Simd::store_floats(o, Simd::multiply_add(product, beta, Simd::multiply(Simd::load_floats(o), alpha)));
            };
            if constexpr (kIntWeights) {
                const int first = begin / kGranule, steps = (end + kGranule - 1) / kGranule - first;
                const uint32_t* values = static_cast<const uint32_t*>(head.values) + c * (head.padded / kGranule) + (tile_start / kGranule + first) * block;
                const int32_t* sums = Simd::kOffsetProducts ? head.value_sums + tile_start / kTileKeys * width + c : nullptr;
                register_tile<ProductOp, kRowGroup, kVectors>(
                    values, s->weights + first, kTileKeys, steps,
                    [=](int, int v) INT_FLASH_LAMBDA {
                        if constexpr (Simd::kOffsetProducts) return Simd::load_ints(sums + v * Simd::kLanes);
                        return Simd::zero_ints();
                    },
                    [=](int r, int v, Simd::Ints sum) INT_FLASH_LAMBDA {
                        if constexpr (kKeepProducts) Simd::store_ints(s->products + r * kMaxHeadDim + c + v * Simd::kLanes, sum);
                        accumulate(r, v, Simd::to_floats(sum));
                    });
            } else {
                const float* values = static_cast<const float*>(head.values) + c * head.padded + (tile_start + begin) * block;
                register_tile<FloatOp, kRowGroup, kVectors>(
                    values, s->weights + begin, kTileKeys, end - begin, [](int, int) INT_FLASH_LAMBDA { return Simd::zero_floats(); }, accumulate);
            }
        });
    }
}

// ── §5 ──
template <bool kIntWeights>
INT_FLASH_INLINE void store_block(const BlockArgs& args, int width, Scratch* s) {
    const float levels = args.precision == Precision::kPaperInt8 ? 127.0f : 255.0f;
    for (int i = 0; i < args.rows; i++) {
        float* out = args.out + i * args.out_stride;
        const float* o = s->out + i * width;
        const float sum = s->row_sum[i];
        const bool empty = s->running_max[i] == -INFINITY;
        if (empty) {
            memset(out, 0, static_cast<size_t>(args.head_dim_v) * 4);
        } else if constexpr (kIntWeights) {
            const float* channel = args.head->channel;
            for (int d = 0; d < args.head_dim_v; d++) out[d] = o[d] * ((channel[d] / levels) / sum);
        } else {
            for (int d = 0; d < args.head_dim_v; d++) out[d] = o[d] / sum;
        }
        if (!args.lse) continue;
        double lse = -INFINITY;
        if (!empty) {
            lse = 0.693147180559945309417 * (static_cast<double>(s->running_max[i]) + log2(static_cast<double>(sum)));
            if (args.query.type != ElementType::kInt8) {
                load_row(args.query, i, s->row);
                double dot = 0.0;
                for (int d = 0; d < args.head_dim; d++) dot += static_cast<double>(s->row[d]) * static_cast<double>(args.head->key_mean[d]);
                lse += static_cast<double>(args.scale) * dot;
            }
        }
        args.lse[i * args.lse_stride] = static_cast<float>(lse);
    }
}

template <bool kIntScores, bool kIntWeights>
INT_FLASH_INLINE TileSpan tile_span(const BlockArgs& args, int i, int64_t tile_start) {
    if (i >= args.rows) return {0, 0};
    const int64_t query = args.first_query + i;
    int64_t begin = query + args.shift_left, end = query + args.shift_right + 1;
    if (begin < 0) begin = 0;
    if (end > args.head->tokens) end = args.head->tokens;
    begin -= tile_start, end -= tile_start;
    if (begin < 0) begin = 0;
    if (end > kTileKeys) end = kTileKeys;
    if (end <= begin) return {0, 0};
    return {static_cast<int>(begin), static_cast<int>(end)};
}

INT_FLASH_INLINE void add_checksums(const BlockArgs& args, int group, int64_t tile_start, const TileSpan* spans, const bool* live, bool scores,
                                    Scratch* s) {
    for (int r = 0; r < kRowGroup; r++) {
        const uint64_t query = static_cast<uint64_t>(args.first_query + group * kRowGroup + r);
        if (scores) {
            for (int j = spans[r].begin; j < spans[r].end; j++)
                args.checksums->scores += mix_checksum(query, static_cast<uint64_t>(tile_start + j), s->scores[r * kTileKeys + j]);
        } else if (live[r]) {
            for (int d = 0; d < args.head_dim_v; d++)
                args.checksums->products += mix_checksum(query, static_cast<uint64_t>(tile_start * 2 + d), s->products[r * kMaxHeadDim + d]);
        }
    }
}

template <bool kIntScores, bool kIntWeights>
static void attention_block_of(const BlockArgs& args, Scratch* s, BlockResult* result) {
    const HeadPack& head = *args.head;
    const int words = kIntScores ? args.head_dim / kGranule : args.head_dim;
    const int width = static_cast<int>(round_up(args.head_dim_v, Simd::kLanes));
    const int groups = (args.rows + kRowGroup - 1) / kRowGroup;
    const bool paper = args.precision == Precision::kPaperInt8;
    const bool masked = args.softcap > 0.0f || args.mask.type != MaskType::kNone;
    const float levels = paper ? 127.0f : 255.0f;
    load_queries<kIntScores>(args, words, s, result);
    if (result->bad_row >= 0) return;
    memset(s->out, 0, static_cast<size_t>(groups * kRowGroup * width) * 4);

    int64_t first = args.first_query + args.shift_left, last = args.first_query + args.rows + args.shift_right;
    if (first < 0) first = 0;
    if (last > head.tokens) last = head.tokens;
    for (int64_t tile_start = first / kTileKeys * kTileKeys; tile_start < last; tile_start += kTileKeys) {
        if (*args.aborted) return;
        for (int group = 0; group < groups; group++) {
            TileSpan spans[kRowGroup];
            int begin = kTileKeys, end = 0;
            for (int r = 0; r < kRowGroup; r++) {
                spans[r] = tile_span<kIntScores, kIntWeights>(args, group * kRowGroup + r, tile_start);
                if (spans[r].end == 0) continue;
                begin = spans[r].begin < begin ? spans[r].begin : begin;
                end = spans[r].end > end ? spans[r].end : end;
            }
            if (end == 0) continue;
            score_tile<kIntScores>(head, words, tile_start, begin, end, group, s);
            bool live[kRowGroup];
            if (args.checksums && kIntScores) add_checksums(args, group, tile_start, spans, live, true, s);

            const int from = Simd::kOffsetProducts && kIntWeights ? 0 : begin & ~15;
            const int to = Simd::kOffsetProducts && kIntWeights ? kTileKeys : (end + 15) & ~15;
            Rescale rescale[kRowGroup];
            for (int r = 0; r < kRowGroup; r++) {
                const int i = group * kRowGroup + r;
                const int32_t* scores = s->scores + r * kTileKeys;
                uint32_t* weights = s->weights + r * kTileKeys;
                const RowExponent row{head.key_scale + tile_start, head.tau + tile_start, s->row_scale[i], s->natural_scale[i], args.softcap};
                float top = -INFINITY;
                if (spans[r].end > 0) {
                    if (masked) {
                        const ptrdiff_t size = args.mask.type == MaskType::kFloat32 ? 4 : 1;
                        const RowMask mask{args.mask.type,
                                           static_cast<const char*>(args.mask.data) + (i * args.mask.query_stride + tile_start * args.mask.key_stride) * size,
                                           args.mask.key_stride};
                        top = masked_exponents<kIntScores>(scores, row, mask, spans[r], s->exponent);
                    } else {
                        top = plain_exponents<kIntScores>(scores, row, spans[r], s->exponent);
                    }
                }
                live[r] = top != -INFINITY;
                if (!live[r]) spans[r] = {0, 0};
                if (paper && s->running_max[i] > top) top = s->running_max[i];
                const float sum = weights_of<kIntWeights>(s->exponent, top, masked, spans[r], from, to, levels, head.inverse_weight + tile_start, weights);
                rescale[r] = {1.0f, 0.0f};
                if (live[r]) rescale[r] = absorb(top, sum, &s->running_max[i], &s->row_sum[i]);
            }
            const int product_begin = Simd::kOffsetProducts && kIntWeights ? 0 : begin;
            const int product_end = Simd::kOffsetProducts && kIntWeights ? kTileKeys : end;
            if (args.checksums && kIntWeights) {
                product_tile<kIntWeights, true>(head, width, tile_start, product_begin, product_end, group, rescale, s);
                add_checksums(args, group, tile_start, spans, live, false, s);
            } else {
                product_tile<kIntWeights, false>(head, width, tile_start, product_begin, product_end, group, rescale, s);
            }
        }
    }
    store_block<kIntWeights>(args, width, s);
}

void attention_block(const BlockArgs& args, Scratch* scratch, BlockResult* result) {
    if (args.precision == Precision::kFp32) return attention_block_of<false, false>(args, scratch, result);
    if (args.precision == Precision::kHalfInt8) return attention_block_of<true, false>(args, scratch, result);
    attention_block_of<true, true>(args, scratch, result);
}

}  // namespace
}  // namespace int_flash
