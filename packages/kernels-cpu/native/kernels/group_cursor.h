// Which groups of four queries meet which tiles of keys, and what each row sees of a tile.
#pragma once
#include "softmax_group.h"

namespace int_flash {
namespace {

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

// Keys that some query of a block may see: from the first tile's first one on, up to `last`.
struct SeenKeys {
    int64_t first, last;
};

INT_FLASH_INLINE SeenKeys seen_keys(const BlockArgs& args) {
    int64_t first = args.first_query + args.shift_left, last = args.first_query + args.rows + args.shift_right;
    if (first < 0) first = 0;
    if (last > args.head->tokens) last = args.head->tokens;
    return {first / kTileKeys * kTileKeys, last};
}

// What group `index` of a block sees of a tile; false: nothing.
INT_FLASH_INLINE bool meet_tile(const BlockArgs& args, int64_t tile_start, int index, RowGroup* group) {
    group->index = index;
    group->tile_start = tile_start;
    const int first = index * kRowGroup;
    const int64_t query = args.first_query + first, tile_end = tile_start + kTileKeys;
    group->whole = first + kRowGroup <= args.rows && query + kRowGroup - 1 + args.shift_left <= tile_start && query + args.shift_right >= tile_end - 1 &&
                   tile_end <= args.head->tokens;
    if (group->whole) {
        for (TileSpan& span : group->spans) span = {0, kTileKeys};
        group->begin = 0, group->end = kTileKeys;
        return true;
    }
    group->begin = kTileKeys, group->end = 0;
    for (int r = 0; r < kRowGroup; r++) {
        const TileSpan span = tile_span(args, first + r, tile_start);
        group->spans[r] = span;
        if (span.end == 0) continue;
        group->begin = span.begin < group->begin ? span.begin : group->begin;
        group->end = span.end > group->end ? span.end : group->end;
    }
    return group->end > 0;
}

// Walks tile by tile through the groups of a block, past those that see nothing of their tile.
class GroupCursor {
public:
    GroupCursor(const BlockArgs& args) : args_(args), groups_((args.rows + kRowGroup - 1) / kRowGroup), keys_(seen_keys(args)) {}
    bool next(RowGroup* group) {
        for (; keys_.first < keys_.last; keys_.first += kTileKeys, index_ = 0) {
            if (*args_.aborted) return false;
            while (index_ < groups_) {
                if (meet_tile(args_, keys_.first, index_++, group)) return true;
            }
        }
        return false;
    }

private:
    const BlockArgs& args_;
    const int groups_;
    SeenKeys keys_;
    int index_ = 0;
};

}  // namespace
}  // namespace int_flash
