// Few queries against one run of a cache, read where it lies: packing would cost as much as the products.
#pragma once
#include "attention_block.h"

namespace int_flash {
namespace {

void prepare_int8_row(const float* row, int dim, uint32_t* words, float* scale, uint32_t* max_bits, Scratch* scratch) {
    *max_bits = largest_magnitude_bits(row, dim);
    *scale = symmetric_scale(*max_bits, 127.0f);
    const Simd::Floats divisor = Simd::splat(*scale);
    alignas(64) int8_t codes[16];
    alignas(64) float last[16];
    const int whole = dim & ~15;
    for (int d = 0; d < whole; d += 16) {
        Simd::store_codes(codes, Simd::div(Simd::load(row + d), divisor));
        Simd::widen(words + d / kGranule, codes);
    }
    int d = whole;
    if (whole < dim) {
        memset(last, 0, sizeof last);
        memcpy(last, row + whole, static_cast<size_t>(dim - whole) * 4);
        Simd::store_codes(codes, Simd::div(Simd::load(last), divisor));
        Simd::widen(words + d / kGranule, codes);
        d += 16;
    }
    for (; d % 64 != 0; d += 16) memset(words + d / kGranule, 0, 16 / kGranule * 4);
    (void)scratch;
}

float cache_row_scale(const float* source, const float* shift, int dim, float* row) {
    for (int d = 0; d < dim; d++) row[d] = shift ? source[d] - shift[d] : source[d];
    for (int d = dim; d % 16 != 0; d++) row[d] = 0.0f;
    const uint32_t bits = largest_magnitude_bits(row, dim);
    return bits >= kInfinityBits ? float_of(0x7fc00000u) : symmetric_scale(bits, 127.0f);
}

void encode_cache_row(const float* row, int dim, float scale, int8_t* codes) {
    alignas(64) int8_t padded[kMaxHeadDim];
    encode_row(row, dim, scale, padded);
    memcpy(codes, padded, static_cast<size_t>(dim));
}

int32_t word_row_offset(const uint32_t* words, int dim) {
    if (!Simd::kOffsetScores) return 0;
    constexpr int kAtOnce = Simd::kLanes * kGranule;
    const Simd::Ints ones = Simd::splat_int(0x01010101);
    Simd::Ints sums = Simd::zero_ints();
    int d = 0;
    for (; d + kAtOnce <= dim; d += kAtOnce) sums = Simd::dot_scores(sums, ones, Simd::load_words(words + d / kGranule));
    int32_t lanes[Simd::kLanes];
    Simd::store_ints(lanes, sums);
    int32_t sum = sum_of_codes(reinterpret_cast<const int8_t*>(words) + d, dim - d);
    for (int i = 0; i < Simd::kLanes; i++) sum += lanes[i];
    return offset_start(sum);
}

// Two codes a byte, low nibble first, to one code a byte.
INT_FLASH_INLINE void unpack_int4(const uint8_t* packed, ptrdiff_t bytes, int8_t* codes) {
    for (ptrdiff_t i = 0; i < bytes; i++) {
        codes[2 * i] = static_cast<int8_t>(((packed[i] & 15) ^ 8) - 8);
        codes[2 * i + 1] = static_cast<int8_t>(((packed[i] >> 4) ^ 8) - 8);
    }
}

INT_FLASH_INLINE TileSpan run_span(const CacheRunArgs& args, int i, int64_t tile_start, int n) {
    int64_t begin = args.visible_begin[i] - tile_start, end = args.visible_end[i] - tile_start;
    if (begin < 0) begin = 0;
    if (end > n) end = n;
    if (end <= begin) return {0, 0};
    return {static_cast<int>(begin), static_cast<int>(end)};
}

// Scales and weights of the tile's n keys, zeros behind them up to a whole block of 16; returns the largest key scale.
INT_FLASH_INLINE float read_scales(const float* key_scale, const float* value_scale, int n, const Ahead& soon, Scratch* s) {
    constexpr int kStep = 32;  // weights that Simd::read_weights takes
    Simd::Floats largest = Simd::splat(0.0f);
    const auto read = [&](const float* keys, const float* values, int j) INT_FLASH_LAMBDA {
        for (int i = 0; i < kStep; i += 16) {
            const Simd::Floats scales = Simd::load(keys + i);
            Simd::store(s->key_scale + j + i, scales);
            largest = Simd::max(scales, largest);
        }
        Simd::read_weights(values, s->inverse_weight + j, s->tau + j);
    };
    int j = 0;
    for (; j + kStep <= n; j += kStep) {
        soon.fetch(j, kStep);
        read(key_scale + j, value_scale + j, j);
    }
    if (j < n) {
        alignas(64) float keys[kStep], values[kStep];
        for (int i = 0; i < kStep; i++) keys[i] = j + i < n ? key_scale[j + i] : 0.0f, values[i] = j + i < n ? value_scale[j + i] : 1.0f;
        read(keys, values, j);
        for (int i = n; i < j + kStep; i++) s->inverse_weight[i] = s->tau[i] = 0.0f;
    }
    return Simd::largest(largest);
}

// One tile's rows of keys or values: bytes a row as they lie, INT4 unpacked where the instruction set wants bytes.
struct CodeRows {
    const char* data;
    ptrdiff_t row_bytes;
    bool nibbles;

    INT_FLASH_INLINE CodeRows at(const void* rows, int64_t first, int dim, bool packed4) {
        const ptrdiff_t bytes = packed4 ? dim / 2 : dim;
        return {static_cast<const char*>(rows) + first * bytes, bytes, packed4};
    }
    CodeRows unpacked(int n, int8_t* codes) const {
        if (!nibbles || Simd::kInt4Rows) return *this;
        unpack_int4(reinterpret_cast<const uint8_t*>(data), n * row_bytes, codes);
        return {reinterpret_cast<const char*>(codes), 2 * row_bytes, false};
    }
};

// A query's words for score_rows, or its halves for INT4 rows that stay packed.
struct PreparedQuery {
    const uint32_t* words;
    const int8_t* halves;
    int32_t start;  // what its integer scores start at
};

template <class S = Simd>
INT_FLASH_INLINE PreparedQuery prepare_query(const uint32_t* words, int dim, bool packed4, int8_t* halves) {
    if constexpr (S::kInt4Rows) {
        if (packed4) return {words, halves, S::split_query(words, dim, halves)};
    }
    return {words, nullptr, word_row_offset(words, dim)};
}

template <class S = Simd>
INT_FLASH_INLINE void score_keys(const CodeRows& keys, int from, int n, const PreparedQuery& query, int dim, const Ahead& soon, int32_t* scores) {
    const char* rows = keys.data + from * keys.row_bytes;
    if constexpr (S::kInt4Rows) {
        if (keys.nibbles) return S::score_int4_rows(reinterpret_cast<const uint8_t*>(rows), n, query.halves, query.start, dim, soon, scores);
    }
    S::score_rows(reinterpret_cast<const int8_t*>(rows), dim, n, query.words, query.start, dim, soon, scores);
}

template <class S = Simd>
INT_FLASH_INLINE void weigh_values(const CodeRows& values, int from, int n, const uint32_t* weights, int dim, const Ahead& soon, int32_t* products) {
    const char* rows = values.data + from * values.row_bytes;
    if constexpr (S::kInt4Rows) {
        if (values.nibbles) return S::weigh_int4_rows(reinterpret_cast<const uint8_t*>(rows), n, weights, dim, soon, products);
    }
    S::weigh_rows(reinterpret_cast<const int8_t*>(rows), dim, n, weights, dim, soon, products);
}

constexpr ptrdiff_t kSmallTile = 16 << 10;  // bytes of a tile's keys and values; a third of a first-level cache

// What a tile's passes fetch: its scales, scores, weights (all at once) and products.
struct TileAhead {
    Ahead scales, scores, weights, products;
};

// Where two tiles fit the first-level cache, the next tile's rows, shared out by how long the passes take: one that asks for more than the memory gives
// waits for it, and one that asks for nothing leaves it idle. Else the values of this tile and the keys of the next. `next`: how many bytes of rows
// behind this tile's the next one's lie; 0: nowhere.
INT_FLASH_INLINE TileAhead tile_ahead(const CodeRows& keys, const CodeRows& values, ptrdiff_t next) {
    const ptrdiff_t row = keys.row_bytes, tile = kTileKeys * row;
    TileAhead ahead;
    if (2 * tile > kSmallTile) {
        ahead.scores = {values.data, row};
        if (next != 0) ahead.products = {keys.data + next, row};
    } else if (next != 0) {
        const char *next_keys = keys.data + next, *next_values = values.data + next;
        const ptrdiff_t first = Simd::kSlowScales ? row / 2 : 0, second = Simd::kSlowScales ? row / 4 : 0;
        ahead.scales = {next_keys, first}, ahead.scores = {next_keys + kTileKeys * first, row - first};
        ahead.weights = {next_values, second}, ahead.products = {next_values + kTileKeys * second, row - second};
    }
    return ahead;
}

constexpr ptrdiff_t kPageBytes = 4096, kPagesAhead = 8;

// Asks for one line of each page of keys and values that comes kPagesAhead after this tile's: where memory is not in huge pages, finding a page takes
// longer than reading it, and a CPU's own prefetching stops at its end. `left` bytes of keys lie from this tile on, then come those `next` bytes on.
INT_FLASH_INLINE void touch_pages(const CodeRows& keys, const CodeRows& values, ptrdiff_t left, ptrdiff_t next) {
    constexpr ptrdiff_t kFirst = kPagesAhead * kPageBytes;
    for (ptrdiff_t at = kFirst; at < kFirst + kTileKeys * keys.row_bytes; at += kPageBytes) {
        if (at >= left && next == 0) return;
        const ptrdiff_t there = at < left ? at : next + at - left;
        fetch_ahead(keys.data + there, 1);
        fetch_ahead(values.data + there, 1);
    }
}

void cache_run_int(CacheRunArgs* args, Scratch* s) {
    const int dim = args->head_dim;
    const int words = static_cast<int>(round_up(dim, 64)) / kGranule;
    const bool packed4 = args->type == ElementType::kInt4;
    const bool capped = args->softcap > 0.0f;
    PreparedQuery queries[kMaxBlockRows];
    for (int i = 0; i < args->rows; i++) {
        int8_t* halves = reinterpret_cast<int8_t*>(s->query) + i * kMaxHeadDim;
        queries[i] = prepare_query(args->query + i * words, dim, packed4, halves);
    }
    const RowMask no_mask{MaskType::kNone, nullptr, 0};
    for (int64_t tile_start = args->begin; tile_start < args->end; tile_start += kTileKeys) {
        const int n = static_cast<int>(args->end - tile_start < kTileKeys ? args->end - tile_start : kTileKeys);
        bool seen = false;
        for (int i = 0; i < args->rows; i++) seen = seen || run_span(*args, i, tile_start, n).end > 0;
        if (!seen) continue;
        const int64_t tile_row = tile_start - args->first;
        const CodeRows cached_keys = CodeRows::at(args->keys, tile_row, dim, packed4), cached_values = CodeRows::at(args->values, tile_row, dim, packed4);
        const CodeRows keys = cached_keys.unpacked(n, s->tile_keys), values = cached_values.unpacked(n, s->tile_values);
        // Past the run's end too: the head's next run is most likely this thread's next task, or the next head.
        const ptrdiff_t row_bytes = cached_keys.row_bytes, next_rows = args->next == 0 ? 0 : args->next - tile_row;
        const bool more = tile_start + 2 * kTileKeys <= args->readable, last = tile_start + kTileKeys >= args->readable;
        const ptrdiff_t next_tile = more ? kTileKeys : last ? next_rows : 0;
        TileAhead ahead = tile_ahead(cached_keys, cached_values, next_tile * row_bytes);
        touch_pages(cached_keys, cached_values, (args->readable - tile_start) * row_bytes, next_rows * row_bytes);
        const float largest = read_scales(args->key_scale + tile_row, args->value_scale + tile_row, n, ahead.scales, s);
        args->max_key_scale = largest > args->max_key_scale ? largest : args->max_key_scale;
        if (next_tile != 0) {
            fetch_ahead(args->key_scale + tile_row + next_tile, sizeof(float) * kTileKeys);
            fetch_ahead(args->value_scale + tile_row + next_tile, sizeof(float) * kTileKeys);
        }
        for (int i = 0; i < args->rows; i++) {
            const TileSpan span = run_span(*args, i, tile_start, n);
            if (span.end == 0) continue;
            const int from = span.begin & ~15, to = span.end;
            score_keys(keys, from, to - from, queries[i], dim, ahead.scores, s->scores + from);
            ahead.weights.fetch(0, kTileKeys);
            const RowExponent row{s->key_scale, s->tau, args->row_scale[i], args->natural_scale[i], args->softcap};
            const float top = capped ? masked_exponents<true>(s->scores, row, no_mask, span, s->exponent[0]) : plain_exponents<true>(s->scores, row, span, s->exponent[0]);
            const int padded_end = (to + 15) & ~15;
            const float sum = weights_of<true>(s->exponent[0], top, capped, span, from, padded_end, 255.0f, s->inverse_weight, s->weights[0]);
            weigh_values(values, from, to - from, weight_words<true>(s->weights[0], from), dim, ahead.products, s->products);
            ahead = {};  // the first query's passes have asked for all
            const Rescale rescale = absorb(top, sum, &s->running_max[i], &s->row_sum[i]);
            float* out = args->partial_out + static_cast<ptrdiff_t>(i) * args->out_width;
            for (int d = 0; d < dim; d++) out[d] = fmaf(static_cast<float>(s->products[d]), rescale.beta, out[d] * rescale.alpha);
        }
    }
}

void cache_run_float(CacheRunArgs* args, Scratch* s) {
    const int dim = args->head_dim;
    const RowMask no_mask{MaskType::kNone, nullptr, 0};
    const bool capped = args->softcap > 0.0f;
    for (int j = 0; j < kTileKeys; j++) s->inverse_weight[j] = 1.0f, s->tau[j] = 0.0f, s->key_scale[j] = 0.0f;
    for (int64_t tile_start = args->begin; tile_start < args->end; tile_start += kTileKeys) {
        const int n = static_cast<int>(args->end - tile_start < kTileKeys ? args->end - tile_start : kTileKeys);
        bool seen = false;
        for (int i = 0; i < args->rows; i++) seen = seen || run_span(*args, i, tile_start, n).end > 0;
        if (!seen) continue;
        const float* keys = static_cast<const float*>(args->keys) + (tile_start - args->first) * dim;
        const float* values = static_cast<const float*>(args->values) + (tile_start - args->first) * dim;
        for (int j = 0; j < n; j += 16) Simd::transpose16(keys + static_cast<ptrdiff_t>(j) * dim, dim, n - j, dim, s->float_tile + j * dim);
        for (int i = 0; i < args->rows; i++) {
            const TileSpan span = run_span(*args, i, tile_start, n);
            if (span.end == 0) continue;
            float* scores = reinterpret_cast<float*>(s->scores);
            const float* query = reinterpret_cast<const float*>(args->query) + i * kMaxHeadDim;
            const int from = span.begin & ~15, to = (span.end + 15) & ~15;
            for (int j = from; j < to; j += 16) {
                Simd::Floats sum = Simd::splat(0.0f);
                for (int d = 0; d < dim; d++) sum = Simd::fma(Simd::splat(query[d]), Simd::load(s->float_tile + j * dim + d * 16), sum);
                Simd::store(scores + j, sum);
            }
            const RowExponent row{s->key_scale, s->tau, 0.0f, args->natural_scale[i], args->softcap};
            const float top = capped ? masked_exponents<false>(scores, row, no_mask, span, s->exponent[0]) : plain_exponents<false>(scores, row, span, s->exponent[0]);
            const float sum = weights_of<false>(s->exponent[0], top, capped, span, from, to, 1.0f, s->inverse_weight, s->weights[0]);
            const Rescale rescale = absorb(top, sum, &s->running_max[i], &s->row_sum[i]);
            const float* p = reinterpret_cast<const float*>(s->weights[0]);
            float* product = reinterpret_cast<float*>(s->products);
            for (int d = 0; d < dim; d++) product[d] = 0.0f;
            for (int j = span.begin; j < span.end; j++) {
                const float weight = p[j];
                const float* v = values + static_cast<ptrdiff_t>(j) * dim;
                for (int d = 0; d < dim; d++) product[d] = fmaf(weight, v[d], product[d]);
            }
            float* out = args->partial_out + static_cast<ptrdiff_t>(i) * args->out_width;
            for (int d = 0; d < dim; d++) out[d] = fmaf(product[d], rescale.beta, out[d] * rescale.alpha);
        }
    }
}

void cache_run(CacheRunArgs* args, Scratch* scratch) {
    for (int i = 0; i < args->rows; i++) {
        scratch->running_max[i] = -INFINITY;
        scratch->row_sum[i] = 0.0f;
        memset(args->partial_out + static_cast<ptrdiff_t>(i) * args->out_width, 0, static_cast<size_t>(args->head_dim) * 4);
    }
    args->max_key_scale = 0.0f;
    if (args->type == ElementType::kFloat32) {
        cache_run_float(args, scratch);
    } else {
        cache_run_int(args, scratch);
    }
    // Only now: the same cache line holds other threads' rows, and every tile changes these.
    memcpy(args->partial_max, scratch->running_max, static_cast<size_t>(args->rows) * sizeof(float));
    memcpy(args->partial_sum, scratch->row_sum, static_cast<size_t>(args->rows) * sizeof(float));
}

}  // namespace
}  // namespace int_flash
