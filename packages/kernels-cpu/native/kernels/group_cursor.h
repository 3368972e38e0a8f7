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

// Walks tile by tile through the groups of a block, past those that see nothing of their tile.
class GroupCursor {
public:
    GroupCursor(const BlockArgs& args) : args_(args), groups_((args.rows + kRowGroup - 1) / kRowGroup) {
        int64_t first = args.first_query + args.shift_left;
        last_ = args.first_query + args.rows + args.shift_right;
        if (first < 0) first = 0;
        if (last_ > args.head->tokens) last_ = args.head->tokens;
        tile_start_ = first / kTileKeys * kTileKeys;
    }
    bool next(RowGroup* group) {
        for (; tile_start_ < last_; tile_start_ += kTileKeys, index_ = 0) {
            if (*args_.aborted) return false;
            while (index_ < groups_) {
                if (visit(index_++, group)) return true;
            }
        }
        return false;
    }

private:
    bool visit(int index, RowGroup* group) const {
        group->index = index;
        group->tile_start = tile_start_;
        const int first = index * kRowGroup;
        const int64_t query = args_.first_query + first, tile_end = tile_start_ + kTileKeys;
        group->whole = first + kRowGroup <= args_.rows && query + kRowGroup - 1 + args_.shift_left <= tile_start_ &&
                       query + args_.shift_right >= tile_end - 1 && tile_end <= args_.head->tokens;
        if (group->whole) {
            for (TileSpan& span : group->spans) span = {0, kTileKeys};
            group->begin = 0, group->end = kTileKeys;
            return true;
        }
        group->begin = kTileKeys, group->end = 0;
        for (int r = 0; r < kRowGroup; r++) {
            const TileSpan span = tile_span(args_, first + r, tile_start_);
            group->spans[r] = span;
            if (span.end == 0) continue;
            group->begin = span.begin < group->begin ? span.begin : group->begin;
            group->end = span.end > group->end ? span.end : group->end;
        }
        return group->end > 0;
    }

    const BlockArgs& args_;
    const int groups_;
    int64_t tile_start_, last_;
    int index_ = 0;
};

}  // namespace
}  // namespace int_flash
