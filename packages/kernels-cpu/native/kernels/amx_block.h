// The same block of queries as attention_block.h, to the same bits, with both products on AMX: sixteen queries against a tile of keys at a time. While the
// exponents and weights of one such meeting are made, four queries at a time, the scores of the next and the products of the one before are on their way.
// (AMX multiplies ten times as fast as vectors do, but for a microsecond or two behind any of its instructions vectors multiply at little more than half of
// their rate; docs/results/cpu/log.md.)
//   §1 which sixteen queries meet which tile    §3 exponents and weights
//   §2 scores                                   §4 products
#pragma once
#include "attention_block.h"
#include "simd/amx_tiles.h"

namespace int_flash {
namespace {

// Fewer are not worth the microseconds for which vectors run slower behind AMX (docs/results/cpu/log.md).
constexpr int kLeastQueries = 32, kLeastKeys = 96;
constexpr int kSlots = kAmxRows / kRowGroup;  // groups of four queries, and parts that the products are spread over
constexpr int kAmxColumns = 16;               // keys or channels of a register of sums
constexpr ptrdiff_t kAmxSumBytes = kTileKeys * static_cast<ptrdiff_t>(sizeof(int32_t));

// ── §1 ──
// Sixteen queries, or the last ones, against a tile.
struct Meeting {
    int64_t tile_start;
    int first;       // query, in its block
    int begin, end;  // keys of the tile that some query sees
    RowGroup groups[kSlots];
    bool sees[kSlots];
    int32_t* sums;      // [16][128]; then, in their place, exponents x: vectors alone read them as floats, whose loads and stores may alias anything
    uint32_t* weights;  // [16][128]: rows of P as a group has them
    alignas(64) float top[kAmxRows], weight_sums[kAmxRows];
};

class MeetingCursor {
public:
    MeetingCursor(const BlockArgs& args) : args_(args), keys_(seen_keys(args)) {}
    bool next(Meeting* meeting) {
        for (; keys_.first < keys_.last; keys_.first += kTileKeys, row_ = 0) {
            if (*args_.aborted) return false;
            while (row_ < args_.rows) {
                const int first = row_;
                row_ += kAmxRows;
                if (visit(first, meeting)) return true;
            }
        }
        return false;
    }

private:
    bool visit(int first, Meeting* meeting) const {
        meeting->tile_start = keys_.first;
        meeting->first = first;
        meeting->begin = kTileKeys, meeting->end = 0;
        for (int slot = 0; slot < kSlots; slot++) {
            RowGroup* group = &meeting->groups[slot];
            const int row = first + slot * kRowGroup;
            meeting->sees[slot] = row < args_.rows && meet_tile(args_, keys_.first, row / kRowGroup, group);
            if (!meeting->sees[slot]) continue;
            meeting->begin = group->begin < meeting->begin ? group->begin : meeting->begin;
            meeting->end = group->end > meeting->end ? group->end : meeting->end;
        }
        return meeting->end > 0;
    }

    const BlockArgs& args_;
    SeenKeys keys_;
    int row_ = 0;
};

// ── §2 ──
// Onto the sums: some of the queries' channels times those of 32 keys.
template <AmxTile kQueries, AmxTile kKeys>
INT_FLASH_INLINE void amx_score_step(const char* query, ptrdiff_t query_stride, const uint32_t* keys) {
    constexpr ptrdiff_t kStride = kBlock * sizeof(uint32_t);
    amx_load<kQueries>(query, query_stride);
    amx_load<kKeys>(keys, kStride);
    amx_dot_signed<kSums0, kQueries, kKeys>();
    amx_load<kKeys>(keys + kAmxColumns, kStride);
    amx_dot_signed<kSums1, kQueries, kKeys>();
}

// Q·Kᵀ of a part of the tile's keys: 32 for each of four slots.
INT_FLASH_OUTLINE void amx_scores(const HeadPack& head, int dim, const Meeting& meeting, int slot, const Scratch* s) {
    constexpr int kKeys = 2 * kAmxColumns;
    const int key = slot * kKeys;
    if (key >= meeting.end || key + kKeys <= meeting.begin) return;
    const int words = dim / kGranule;
    const char* query = reinterpret_cast<const char*>(s->query + meeting.first * words);
    const int64_t block = (meeting.tile_start + key / kBlock * kBlock) * words;
    const uint32_t* keys = static_cast<const uint32_t*>(head.keys) + block + key % kBlock;
    amx_load<kSums0>(s->tile_starts[meeting.first], kAmxBytes);
    amx_load<kSums1>(s->tile_starts[meeting.first], kAmxBytes);
    int d = 0;
    for (; d + kAmxBytes <= dim; d += kAmxBytes) amx_score_step<kLeft, kRight>(query + d, dim, keys + d / kGranule * kBlock);
    if (d < dim) amx_score_step<kLeftRest, kRightRest>(query + d, dim, keys + d / kGranule * kBlock);
    amx_store<kSums0>(meeting.sums + key, kAmxSumBytes);
    amx_store<kSums1>(meeting.sums + key + kAmxColumns, kAmxSumBytes);
}

// ── §3 ──
// Exponents x of four queries in place of their sums, and the largest of each. kTrim: excluded keys are taken out.
template <bool kTrim>
INT_FLASH_OUTLINE void exponents_of_sums(const HeadPack& head, RowGroup* group, const Scratch* s) {
    const int first = group->index * kRowGroup;
    const float* key_scale = head.key_scale + group->tile_start;
    const float* tau = head.tau + group->tile_start;
    const __m512 scale0 = Simd::spread_float(s->row_scale + first), scale1 = Simd::spread_float(s->row_scale + first + 1);
    const __m512 scale2 = Simd::spread_float(s->row_scale + first + 2), scale3 = Simd::spread_float(s->row_scale + first + 3);
    __m512 top0 = Simd::excluded(), top1 = top0, top2 = top0, top3 = top0;
    for (int j = group->begin & ~15; j < group->end; j += 16) {
        const __m512 scale = Simd::load(key_scale + j), weight = Simd::load(tau + j);
        const auto exponent = [=](int r, __m512 row_scale, __m512 top) INT_FLASH_LAMBDA {
            __m512 e = Simd::fma(Simd::mul(Simd::from_ints(reinterpret_cast<const int32_t*>(group->exponent) + r * kTileKeys + j), scale), row_scale, weight);
            if constexpr (kTrim) e = Simd::only_lanes(e, group->spans[r].begin - j, group->spans[r].end - group->spans[r].begin);
            Simd::store(group->exponent + r * kTileKeys + j, e);
            return Simd::max(top, e);
        };
        top0 = exponent(0, scale0, top0);
        top1 = exponent(1, scale1, top1);
        top2 = exponent(2, scale2, top2);
        top3 = exponent(3, scale3, top3);
    }
    Simd::largest_of_four(top0, top1, top2, top3, group->top);
}

// From sums to exponents, of four queries.
INT_FLASH_INLINE void amx_exponents(const BlockArgs& args, bool masked, Meeting* meeting, int slot, Scratch* s) {
    if (!meeting->sees[slot]) return;
    RowGroup* group = &meeting->groups[slot];
    const int32_t* sums = meeting->sums + slot * kRowGroup * kTileKeys;
    group->exponent = reinterpret_cast<float*>(meeting->sums) + slot * kRowGroup * kTileKeys;
    if (args.checksums) add_score_checksums(args, *group, sums);
    if (masked) {
        memcpy(s->scores, sums, kRowGroup * kAmxSumBytes);
        masked_exponents_of_group<true>(args, s->scores, group, s);
    } else if (group->whole) {
        exponents_of_sums<false>(*args.head, group, s);
    } else {
        exponents_of_sums<true>(*args.head, group, s);
    }
}

// From exponents to weights.
template <bool kIntWeights>
INT_FLASH_INLINE void amx_weights(const BlockArgs& args, bool masked, Meeting* meeting, int slot, const Scratch* s) {
    float *top = meeting->top + slot * kRowGroup, *sums = meeting->weight_sums + slot * kRowGroup;
    if (!meeting->sees[slot]) {  // leaves the running state as it is
        for (int r = 0; r < kRowGroup; r++) top[r] = -INFINITY, sums[r] = 0.0f;
        return;
    }
    RowGroup* group = &meeting->groups[slot];
    group->weights = meeting->weights + slot * kRowGroup * kTileKeys;
    if (kIntWeights && !group->whole)
        for (int r = 0; r < kRowGroup; r++) memset(group->weights + r * kTileKeys, 0, kTileKeys);
    make_weights<kIntWeights>(args, masked, group, s, sums);
    memcpy(top, group->top, sizeof group->top);
}

// absorb_four of sixteen queries.
INT_FLASH_INLINE void amx_absorb(Meeting* meeting, Scratch* s) {
    float *running_max = s->running_max + meeting->first, *row_sum = s->row_sum + meeting->first;
    const __m512 before = Simd::load(running_max), tile = Simd::load(meeting->top), after = Simd::max(before, tile);
    const __m512 alpha = Simd::exp2(Simd::sub(before, after)), beta = Simd::exp2(Simd::sub(tile, after));
    Simd::store(row_sum, Simd::fma(Simd::load(meeting->weight_sums), beta, Simd::mul(Simd::load(row_sum), alpha)));
    Simd::store(running_max, after);
    alignas(64) float alphas[kAmxRows], betas[kAmxRows];
    Simd::store(alphas, alpha);
    Simd::store(betas, beta);
    for (int g = 0; g < kSlots; g++) {
        memcpy(meeting->groups[g].rescale.alpha, alphas + g * kRowGroup, sizeof(float) * kRowGroup);
        memcpy(meeting->groups[g].rescale.beta, betas + g * kRowGroup, sizeof(float) * kRowGroup);
    }
}

// ── §4 ──
// P·V of a part of the channels, 32 at a time for each of four slots, onto the output.
INT_FLASH_OUTLINE void amx_products(const BlockArgs& args, int width, const Meeting& meeting, int slot, Scratch* s) {
    constexpr int kChannels = 2 * kAmxColumns;
    const HeadPack& head = *args.head;
    for (int c = slot * kChannels; c < width; c += kSlots * kChannels) {
        const int block = c / kBlock * kBlock, across = width - block < kBlock ? width - block : kBlock;
        const bool both = c + kAmxColumns < width;
        const uint32_t* values = static_cast<const uint32_t*>(head.values) + block * (head.padded / kGranule) + meeting.tile_start / kGranule * across + (c - block);
        const ptrdiff_t stride = across * static_cast<ptrdiff_t>(sizeof(uint32_t));
        amx_zero<kSums2>();
        amx_zero<kSums3>();
        for (int key = 0; key < kTileKeys; key += kAmxBytes) {
            if (key >= meeting.end || key + kAmxBytes <= meeting.begin) continue;
            const uint32_t* from = values + key / kGranule * across;
            amx_load<kLeft>(meeting.weights + key / kGranule, kAmxSumBytes);
            amx_load<kRight>(from, stride);
            amx_dot_unsigned<kSums2, kLeft, kRight>();
            if (!both) continue;
            amx_load<kRight>(from + kAmxColumns, stride);
            amx_dot_unsigned<kSums3, kLeft, kRight>();
        }
        int32_t(*products)[kAmxRows * kAmxColumns] = s->tile_products;
        amx_store<kSums2>(products[0], kAmxColumns * sizeof(int32_t));
        if (both) amx_store<kSums3>(products[1], kAmxColumns * sizeof(int32_t));
        for (int g = 0; g < kSlots; g++) {
            if (!meeting.sees[g]) continue;
            const RowGroup& group = meeting.groups[g];
            for (int r = 0; r < kRowGroup; r++) {
                float* out = s->out + (group.index * kRowGroup + r) * width + c;
                for (int half = 0; half < 1 + both; half++) {
                    const __m512i sum = Simd::load_ints(products[half] + (g * kRowGroup + r) * kAmxColumns);
                    absorb_product(out + half * kAmxColumns, &group.rescale, r, Simd::to_floats(sum));
                    if (args.checksums) Simd::store_ints(s->tile_sums_of_products[g * kRowGroup + r] + c + half * kAmxColumns, sum);
                }
            }
        }
    }
}

template <bool kIntWeights>
static void amx_block_of(const BlockArgs& args, Scratch* s, BlockResult* result) {
    const HeadPack& head = *args.head;
    const int dim = args.head_dim, width = static_cast<int>(round_up(args.head_dim_v, Simd::kLanes));
    const bool masked = args.softcap > 0.0f || args.mask.type != MaskType::kNone;
    with_dim(dim, [&](auto constant) { load_queries<true, decltype(constant)::value>(args, s, result); });
    if (result->bad_row >= 0) return;
    memset(s->out, 0, sizeof(float) * static_cast<size_t>(round_up(args.rows, kRowGroup) * width));
    for (int i = 0; i < round_up(args.rows, kRowGroup); i++) Simd::store_ints(s->tile_starts[i], Simd::splat_int(s->score_start[i]));
    const AmxShapes shapes(dim % kAmxBytes);

    const auto multiply = [&](const Meeting& meeting, int slot) {
        if constexpr (kIntWeights) {
            amx_products(args, width, meeting, slot, s);
            if (!args.checksums || slot + 1 < kSlots) return;
            for (int g = 0; g < kSlots; g++)
                if (meeting.sees[g]) add_product_checksums(args, meeting.groups[g], s->tile_sums_of_products[g * kRowGroup]);
        } else if (meeting.sees[slot]) {
            products_of_group<false, false>(head, width, meeting.groups[slot], s);
        }
    };
    MeetingCursor cursor(args);
    Meeting meetings[3];
    int64_t begun = 0;
    const auto begin = [&]() {
        Meeting* meeting = &meetings[begun % 3];
        if (!cursor.next(meeting)) return false;
        meeting->sums = s->tile_sums[begun % 2];
        meeting->weights = s->tile_weights[begun % 2];
        begun++;
        return true;
    };
    constexpr int kFloatBytes = sizeof(float);
    LineFetcher<true> out_lines({reinterpret_cast<const char*>(args.out), args.out_stride * kFloatBytes, args.head_dim_v * kFloatBytes, args.rows});
    LineFetcher<false> query_lines(args.next_query);
    if (begin())
        for (int slot = 0; slot < kSlots; slot++) amx_scores(head, dim, meetings[0], slot, s);
    for (int64_t now = 0; begun > 0 && now <= begun; now++) {  // one more than there are: the last one's products
        const bool is_there = now < begun;
        const bool more = is_there && begin();
        for (int slot = 0; slot < kSlots; slot++) {
            if (more) amx_scores(head, dim, meetings[(now + 1) % 3], slot, s);
            if (is_there) amx_exponents(args, masked, &meetings[now % 3], slot, s);
        }
        for (int slot = 0; slot < kSlots; slot++) {
            if (now > 0) multiply(meetings[(now + 2) % 3], slot);
            if (is_there) amx_weights<kIntWeights>(args, masked, &meetings[now % 3], slot, s);
            for (int line = 0; line < kLinesAGroup; line++) out_lines.step(), query_lines.step();
        }
        if (is_there) amx_absorb(&meetings[now % 3], s);
    }
    if (!*args.aborted) with_dim(args.head_dim_v, [&](auto constant) { store_block<kIntWeights, decltype(constant)::value>(args, s); });
}

void amx_attention_block(const BlockArgs& args, Scratch* scratch, BlockResult* result) {
    if (args.precision == Precision::kFp32 || args.rows < kLeastQueries || args.head->tokens < kLeastKeys) return attention_block(args, scratch, result);
    if (args.precision == Precision::kHalfInt8) return amx_block_of<false>(args, scratch, result);
    amx_block_of<true>(args, scratch, result);
}

}  // namespace
}  // namespace int_flash
