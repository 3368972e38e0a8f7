// A block of queries of one head against the packed keys and values, tile by tile, four queries at a time:
//   §1 queries        quantized here, so that no pass over Q is needed
//   §2 scores         S = Q·Kᵀ of four rows and the visible key blocks
//   §3 softmax        x, m', p, codes, L of each row (softmax_row.h)
//   §4 products       T = P·V, and O = T·β + O·α straight from the accumulators
//   §5 epilogue
#pragma once
#include "group_cursor.h"
#include "line_fetcher.h"
#include "pack_rows.h"

namespace int_flash {
namespace {

constexpr int kRowsAhead = 4;    // rows of queries and of the output come from memory, where …
constexpr int kLinesAGroup = 2;  // … the groups before were too few to fetch them all

// ── §1 ──
template <bool kIntScores, int kDim>
INT_FLASH_OUTLINE void load_queries(const BlockArgs& args, Scratch* s, BlockResult* result) {
    const int dim = kDim > 0 ? kDim : args.head_dim;
    const int words = kIntScores ? dim / kGranule : dim;
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
        int32_t sum = 0;
        const float* row = s->row;
        if (args.query.type == ElementType::kInt8) {
            copy_codes(code_row(args.query, i), dim, s->codes);
            sum = sum_of_codes(s->codes, dim);
            scale = args.query_scale[i * args.query_scale_stride];
        } else {
            row = row_floats(args.query, i, s->row);
            if (row != s->row && i + kRowsAhead < args.rows) fetch_ahead(row + kRowsAhead * args.query.token_stride, sizeof(float) * static_cast<size_t>(dim));
            const uint32_t bits = largest_magnitude_bits(row, dim);
            if (bits >= kInfinityBits && result->bad_row < 0) {
                result->bad_row = i;
                for (int d = dim - 1; d >= 0; d--)
                    if ((bits_of(row[d]) & 0x7fffffffu) >= kInfinityBits) result->bad_column = d;
            }
            scale = symmetric_scale(bits, max_code);
            if constexpr (kIntScores) sum = encode_and_sum(row, dim, scale, s->codes);
        }
        result->max_query_scale = scale > result->max_query_scale ? scale : result->max_query_scale;
        if constexpr (kIntScores) {
            widen_row(s->codes, dim, out);  // up to 8 codes past the row's end, where the next row follows
            s->natural_scale[i] = scale * args.scale;
            s->row_scale[i] = s->natural_scale[i] * kLog2E;
            s->score_start[i] = offset_start(sum);
        } else {
            memcpy(out, row, static_cast<size_t>(words) * 4);
            s->natural_scale[i] = args.scale;
        }
    }
}

// ── §2 ──
// Exponents x of four rows and the blocks of keys that they touch, straight from the accumulators, and the largest of each row. kTrim: excluded
// keys are taken out there too, instead of afterwards.
template <bool kIntScores, bool kTrim, class S = Simd>
INT_FLASH_OUTLINE void exponents_of_group(const HeadPack& head, int words, RowGroup* group, Scratch* s) {
    const int first = group->index * kRowGroup;
    const uint32_t* query = s->query + first * words;
    const float* key_scale = head.key_scale + group->tile_start;
    const float* tau = head.tau + group->tile_start;
    const float* row_scale = s->row_scale + first;
    const float* natural_scale = s->natural_scale + first;
    const int32_t* start = s->score_start + first;
    float* x = group->exponent;
    Simd::Partial top[kRowGroup];
    if constexpr (kIntScores && S::kHandScheduled) {
        if (group->whole && words >= 4) {
            S::exponents_of_whole(static_cast<const uint32_t*>(head.keys) + group->tile_start * words, query, words, start, row_scale, key_scale, tau, x, top);
            return S::largest_of_four(top[0], top[1], top[2], top[3], group->top);
        }
    }
    for (int r = 0; r < kRowGroup; r++) top[r] = Simd::excluded();
    for (int k = group->begin / kBlock * kBlock; k < group->end; k += kBlock) {
        const int64_t block = (group->tile_start + k) * words;  // blocks are kBlock keys of `words` words each
        const auto keep = [=, &top](int r, int v, Simd::Partial e) INT_FLASH_LAMBDA {
            if constexpr (kTrim) {
                const TileSpan span = group->spans[r];
                e = S::only_lanes(e, span.begin - k - v * Simd::kLanes, span.end - span.begin);
            }
            Simd::store_floats(x + r * kTileKeys + k + v * Simd::kLanes, e);
            top[r] = Simd::larger(top[r], e);
        };
        if constexpr (kIntScores) {
            register_tile<ScoreOp, kRowGroup, Simd::kVectors>(
                static_cast<const uint32_t*>(head.keys) + block, query, words, words,
                [=](int r, int) INT_FLASH_LAMBDA { return Simd::kOffsetScores ? Simd::splat_int(start[r]) : Simd::zero_ints(); },
                [=](int r, int v, Simd::Ints sum) INT_FLASH_LAMBDA {
                    const int j = k + v * Simd::kLanes;
                    const Simd::Partial scaled = Simd::multiply(Simd::to_floats(sum), Simd::load_floats(key_scale + j));
                    keep(r, v, Simd::multiply_add(scaled, Simd::spread_float(row_scale + r), Simd::load_floats(tau + j)));
                });
        } else {
            static const float log2_e = kLog2E;
            register_tile<FloatOp, kRowGroup, Simd::kVectors>(
                static_cast<const float*>(head.keys) + block, query, words, words, [](int, int) INT_FLASH_LAMBDA { return Simd::zero_floats(); },
                [=](int r, int v, Simd::Partial sum) INT_FLASH_LAMBDA {
                    keep(r, v, Simd::multiply(Simd::multiply(sum, Simd::spread_float(natural_scale + r)), Simd::spread_float(&log2_e)));
                });
        }
    }
    if (group->whole || kTrim) {
        Simd::largest_of_four(top[0], top[1], top[2], top[3], group->top);
    } else {
        for (int r = 0; r < kRowGroup; r++) group->top[r] = trim_exponents(x + r * kTileKeys, group->spans[r], group->begin, group->end);
    }
}

// The sums alone, for what is done with them one by one: masks, softcap, checksums.
template <bool kIntScores>
INT_FLASH_OUTLINE void scores_of_group(const HeadPack& head, int words, const RowGroup& group, Scratch* s) {
    const uint32_t* query = s->query + group.index * kRowGroup * words;
    const int32_t* start = s->score_start + group.index * kRowGroup;
    for (int k = group.begin / kBlock * kBlock; k < group.end; k += kBlock) {
        const int64_t block = (group.tile_start + k) * words;
        if constexpr (kIntScores) {
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

// `scores`: four rows of sums.
template <bool kIntScores>
INT_FLASH_OUTLINE void masked_exponents_of_group(const BlockArgs& args, const int32_t* scores, RowGroup* group, Scratch* s) {
    const HeadPack& head = *args.head;
    const ptrdiff_t size = args.mask.type == MaskType::kFloat32 ? 4 : 1;
    for (int r = 0; r < kRowGroup; r++) {
        const int i = group->index * kRowGroup + r;
        group->top[r] = -INFINITY;
        if (group->spans[r].end == 0) continue;
        const RowExponent row{head.key_scale + group->tile_start, head.tau + group->tile_start, s->row_scale[i], s->natural_scale[i], args.softcap};
        const ptrdiff_t element = i * args.mask.query_stride + static_cast<ptrdiff_t>(group->tile_start) * args.mask.key_stride;
        const RowMask mask{args.mask.type, static_cast<const char*>(args.mask.data) + element * size, args.mask.key_stride};
        group->top[r] = masked_exponents<kIntScores>(scores + r * kTileKeys, row, mask, group->spans[r], group->exponent + r * kTileKeys);
    }
}

// ── §3 ──
INT_FLASH_INLINE float levels_of(Precision precision) { return precision == Precision::kPaperInt8 ? 127.0f : 255.0f; }

// What the weights are taken against; a row that sees nothing loses its span.
INT_FLASH_INLINE void settle_top(const BlockArgs& args, RowGroup* group, const Scratch* s) {
    for (int r = 0; r < kRowGroup; r++) {
        if (group->top[r] == -INFINITY) group->spans[r] = {0, 0};
        const float before = s->running_max[group->index * kRowGroup + r];
        if (args.precision == Precision::kPaperInt8 && before > group->top[r]) group->top[r] = before;
    }
}

// Without what becomes of the running state: `sums` of the four rows.
template <bool kIntWeights>
INT_FLASH_INLINE void make_weights(const BlockArgs& args, bool masked, RowGroup* group, const Scratch* s, float* sums) {
    const float levels = levels_of(args.precision);
    const float* inverse_weight = args.head->inverse_weight + group->tile_start;
    settle_top(args, group, s);
    if (group->whole && !masked) {
        weights_of_four<kIntWeights, false>(group->exponent, group->top, 0, kTileKeys, levels, inverse_weight, group->weights, sums);
    } else if (Simd::kRowsAtOnce == kRowGroup && !masked) {
        weights_of_four<kIntWeights, true>(group->exponent, group->top, group->begin, group->end, levels, inverse_weight, group->weights, sums);
    } else {
        const int from = Simd::kOffsetProducts && kIntWeights ? 0 : group->begin & ~15;
        const int to = Simd::kOffsetProducts && kIntWeights ? kTileKeys : (group->end + 15) & ~15;
        for (int r = 0; r < kRowGroup; r++)
            sums[r] = weights_of<kIntWeights>(group->exponent + r * kTileKeys, group->top[r], masked, group->spans[r], from, to, levels, inverse_weight,
                                              group->weights + r * kTileKeys);
    }
}

template <bool kIntWeights>
INT_FLASH_INLINE void weights_of_group(const BlockArgs& args, bool masked, RowGroup* group, Scratch* s) {
    const int first = group->index * kRowGroup;
    float sums[kRowGroup];
    make_weights<kIntWeights>(args, masked, group, s, sums);
    absorb_four(group->top, sums, s->running_max + first, s->row_sum + first, &group->rescale);
}

// ── §4 ──
INT_FLASH_INLINE void absorb_product(float* o, const Rescale4* rescale, int r, Simd::Partial product) {
    const Simd::Partial alpha = Simd::spread_float(rescale->alpha + r), beta = Simd::spread_float(rescale->beta + r);
    Simd::store_floats(o, Simd::multiply_add(product, beta, Simd::multiply(Simd::load_floats(o), alpha)));
}

template <bool kIntWeights, bool kKeepProducts>
INT_FLASH_INLINE void product_block(const HeadPack& head, int width, int c, const RowGroup& group, Scratch* s) {
    const uint32_t* weights = group.weights;
    float* out = s->out + group.index * kRowGroup * width;
    const Rescale4* rescale = &group.rescale;
    const int64_t tile_start = group.tile_start;
    const int begin = Simd::kOffsetProducts && kIntWeights ? 0 : group.begin;
    const int end = Simd::kOffsetProducts && kIntWeights ? kTileKeys : group.end;
    const int block = width - c < kBlock ? width - c : kBlock;
    with_vectors(block, [&](auto vectors) INT_FLASH_LAMBDA {
        constexpr int kVectors = decltype(vectors)::value;
        const auto accumulate = [=](int r, int v, Simd::Partial product) INT_FLASH_LAMBDA {
            absorb_product(out + r * width + c + v * Simd::kLanes, rescale, r, product);
        };
        if constexpr (kIntWeights) {
            const int first = begin / kGranule, steps = (end + kGranule - 1) / kGranule - first;
            const uint32_t* values = static_cast<const uint32_t*>(head.values) + c * (head.padded / kGranule) + (tile_start / kGranule + first) * block;
            const int32_t* sums = Simd::kOffsetProducts ? head.value_sums + tile_start / kTileKeys * width + c : nullptr;
            register_tile<ProductOp, kRowGroup, kVectors>(
                values, weights + first, kTileKeys, steps,
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
                values, weights + begin, kTileKeys, end - begin, [](int, int) INT_FLASH_LAMBDA { return Simd::zero_floats(); }, accumulate);
        }
    });
}

template <bool kIntWeights, bool kKeepProducts>
INT_FLASH_OUTLINE void products_of_group(const HeadPack& head, int width, const RowGroup& group, Scratch* s) {
    for (int c = 0; c < width; c += kBlock) product_block<kIntWeights, kKeepProducts>(head, width, c, group, s);
}

// One group's products and the next one's weights, both of whole tiles.
template <class S = Simd>
INT_FLASH_OUTLINE void products_beside_weights(const BlockArgs& args, int width, const RowGroup& group, RowGroup* next, Scratch* s) {
    const HeadPack& head = *args.head;
    const int first = next->index * kRowGroup;
    if (args.precision == Precision::kPaperInt8) settle_top(args, next, s);  // else: every row of a whole tile has seen a key
    const uint32_t* values = static_cast<const uint32_t*>(head.values) + group.tile_start / kGranule * kBlock;
    float* out = s->out + group.index * kRowGroup * width;
    const Rescale4* rescale = &group.rescale;
    const typename S::Wide wide{values + kBlock * (head.padded / kGranule), out, width * static_cast<ptrdiff_t>(sizeof *out), rescale->alpha};
    const auto multiply = [&](auto wide_enough) INT_FLASH_LAMBDA {
        constexpr bool kWide = decltype(wide_enough)::value != 0;
        float* last = out + (kWide ? kBlock : 0);
        S::template products_and_weights<kWide>(values, group.weights, next->exponent, next->top, levels_of(args.precision),
                                                head.inverse_weight + next->tile_start, next->weights, wide,
                                                [=](int r, int v, Simd::Ints sum) INT_FLASH_LAMBDA {
                                                    absorb_product(last + r * width + v * Simd::kLanes, rescale, r, Simd::to_floats(sum));
                                                });
        return last - out + kBlock;
    };
    ptrdiff_t c = width >= 2 * kBlock ? multiply(Constant<1>{}) : multiply(Constant<0>{});  // channels that are done
    const auto parts = [next](int r) INT_FLASH_LAMBDA { return Simd::load(next->exponent + r * kTileKeys); };
    float sums[kRowGroup];
    S::fold_four(parts(0), parts(1), parts(2), parts(3), sums);
    absorb_four(next->top, sums, s->running_max + first, s->row_sum + first, &next->rescale);
    for (; c < width; c += kBlock) product_block<true, false>(head, width, static_cast<int>(c), group, s);
}

// ── §5 ──
template <bool kIntWeights, int kDim>
INT_FLASH_OUTLINE void store_block(const BlockArgs& args, Scratch* s) {
    const int dim = kDim > 0 ? kDim : args.head_dim_v;
    const int width = static_cast<int>(round_up(dim, Simd::kLanes));
    const float levels = levels_of(args.precision);
    const float* mean = args.head->key_mean;
    float* channel = s->float_tile;
    for (int d = 0; d < dim; d++) channel[d] = args.head->channel[d] / levels;
    for (int i = 0; i < args.rows; i++) {
        float* out = args.out + i * args.out_stride;
        if (i + kRowsAhead < args.rows) fetch_ahead<true>(out + kRowsAhead * args.out_stride, sizeof(float) * static_cast<size_t>(dim));
        const float* o = s->out + i * width;
        const float sum = s->row_sum[i];
        const bool empty = s->running_max[i] == -INFINITY;
        if (empty) {
            memset(out, 0, static_cast<size_t>(dim) * 4);
        } else if constexpr (kIntWeights) {
            for (int d = 0; d < dim; d++) out[d] = o[d] * (channel[d] / sum);
        } else {
            for (int d = 0; d < dim; d++) out[d] = o[d] / sum;
        }
        if (!args.lse) continue;
        double lse = -INFINITY;
        if (!empty) {
            lse = 0.693147180559945309417 * (static_cast<double>(s->running_max[i]) + log2(static_cast<double>(sum)));
            if (args.query.type != ElementType::kInt8) {
                const float* row = row_floats(args.query, i, s->row);
                double dot = 0.0;
                for (int d = 0; d < args.head_dim; d++) dot += static_cast<double>(row[d]) * static_cast<double>(mean[d]);
                lse += static_cast<double>(args.scale) * dot;
            }
        }
        args.lse[i * args.lse_stride] = static_cast<float>(lse);
    }
}

INT_FLASH_INLINE void add_score_checksums(const BlockArgs& args, const RowGroup& group, const int32_t* scores) {
    for (int r = 0; r < kRowGroup; r++) {
        const auto query = static_cast<uint64_t>(args.first_query + group.index * kRowGroup + r);
        for (int j = group.spans[r].begin; j < group.spans[r].end; j++)
            args.checksums->scores += mix_checksum(query, static_cast<uint64_t>(group.tile_start + j), scores[r * kTileKeys + j]);
    }
}

INT_FLASH_INLINE void add_product_checksums(const BlockArgs& args, const RowGroup& group, const int32_t* products) {
    for (int r = 0; r < kRowGroup; r++) {
        const auto query = static_cast<uint64_t>(args.first_query + group.index * kRowGroup + r);
        for (int d = 0; group.spans[r].end > 0 && d < args.head_dim_v; d++)
            args.checksums->products += mix_checksum(query, static_cast<uint64_t>(group.tile_start * 2 + d), products[r * kMaxHeadDim + d]);
    }
}

// Three stages a group: scores, weights, products. While one group is multiplied, the weights of the next are made beside it where the CPU
// has registers for both, and the scores of the one after it are there already: no stage waits for the end of the one before.
template <bool kIntScores, bool kIntWeights>
static void attention_block_of(const BlockArgs& args, Scratch* s, BlockResult* result) {
    const HeadPack& head = *args.head;
    const int words = kIntScores ? args.head_dim / kGranule : args.head_dim;
    const int width = static_cast<int>(round_up(args.head_dim_v, Simd::kLanes));
    const bool masked = args.softcap > 0.0f || args.mask.type != MaskType::kNone;
    with_dim(args.head_dim, [&](auto dim) { load_queries<kIntScores, decltype(dim)::value>(args, s, result); });
    if (result->bad_row >= 0) return;
    memset(s->out, 0, sizeof(float) * static_cast<size_t>(round_up(args.rows, kRowGroup) * width));

    const auto score = [&](RowGroup* group) {
        if (masked || (args.checksums && kIntScores)) scores_of_group<kIntScores>(head, words, *group, s);
        if (args.checksums && kIntScores) add_score_checksums(args, *group, s->scores);
        if (masked) {
            masked_exponents_of_group<kIntScores>(args, s->scores, group, s);
        } else {
            const bool trim = Simd::kHandScheduled && !group->whole;
            trim ? exponents_of_group<kIntScores, Simd::kHandScheduled>(head, words, group, s) : exponents_of_group<kIntScores, false>(head, words, group, s);
        }
    };
    GroupCursor cursor(args);
    RowGroup groups[3];
    int64_t begun = 0;  // groups whose scores are there
    constexpr int kFloatBytes = sizeof(float);
    LineFetcher<true> out_lines({reinterpret_cast<const char*>(args.out), args.out_stride * kFloatBytes, args.head_dim_v * kFloatBytes, args.rows});
    LineFetcher<false> query_lines(args.next_query);
    const auto begin = [&]() {
        RowGroup* group = &groups[begun % 3];
        if (!cursor.next(group)) return false;
        group->exponent = s->exponent[begun % 2];
        group->weights = s->weights[begun % 2];
        score(group);
        begun++;
        return true;
    };
    if (begin()) weights_of_group<kIntWeights>(args, masked, &groups[0], s);
    begin();
    for (int64_t done = 0; done < begun; done++) {
        RowGroup *group = &groups[done % 3], *next = &groups[(done + 1) % 3];
        const bool more = done + 1 < begun;
        begin();
        for (int line = 0; line < kLinesAGroup; line++) out_lines.step(), query_lines.step();
        if constexpr (kIntWeights && Simd::kHandScheduled) {
            if (more && !masked && !args.checksums && group->whole && next->whole && width >= kBlock) {
                products_beside_weights(args, width, *group, next, s);
                continue;
            }
        }
        if (args.checksums && kIntWeights) {
            products_of_group<kIntWeights, true>(head, width, *group, s);
            add_product_checksums(args, *group, s->products);
        } else {
            products_of_group<kIntWeights, false>(head, width, *group, s);
        }
        if (more) weights_of_group<kIntWeights>(args, masked, next, s);
    }
    if (!*args.aborted) with_dim(args.head_dim_v, [&](auto dim) { store_block<kIntWeights, decltype(dim)::value>(args, s); });
}

void attention_block(const BlockArgs& args, Scratch* scratch, BlockResult* result) {
    if (args.precision == Precision::kFp32) return attention_block_of<false, false>(args, scratch, result);
    if (args.precision == Precision::kHalfInt8) return attention_block_of<true, false>(args, scratch, result);
    attention_block_of<true, true>(args, scratch, result);
}

}  // namespace
}  // namespace int_flash
