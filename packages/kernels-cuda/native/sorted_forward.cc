#include "sorted_forward.h"

#include <algorithm>

#include "failure.h"
#include "sm90_flash_fwd.h"
#include "sorted_flash_fwd.h"

namespace intflash {

SortedForward::SortedForward(Stream& stream, bool on_hopper, const QuantizeRequest& request, const ForwardArgs& args, ElementType out_type, const SequenceTable& table, const std::vector<Sequence>& sequences)
    : request_(request), portable_(table), on_hopper_(on_hopper), limits_{stream.device().facts().shared_bytes_per_block, stream.device().facts().processors} {
    args_.heads = args.heads;
    args_.kv_heads = args.kv_heads;
    args_.window_left = args.window_left;
    args_.window_right = args.window_right;
    args_.bottom_right = args.bottom_right;
    lay_out(stream, sequences);
    const auto blocks = static_cast<size_t>(q_blocks_), padded = static_cast<size_t>(request.padded);
    buffers_.query_codes = stream.allocate(blocks * kQueryBlock * padded);
    buffers_.query_scales = stream.allocate(blocks * kQueryBlock * sizeof(float));
    buffers_.tiles = stream.allocate(static_cast<size_t>(tiles_) * static_cast<size_t>(sorted_tile_bytes(request.padded, is_half())));
    buffers_.channel_scale = stream.allocate(static_cast<size_t>(table.count) * static_cast<size_t>(args.kv_heads) * padded * sizeof(float));
    args_.q_blocks = images_.query_codes = buffers_.query_codes->as<int8_t>();
    args_.q_scales = images_.query_scales = buffers_.query_scales->as<float>();
    args_.tiles = images_.tiles = buffers_.tiles->as<uint8_t>();
    args_.channel_scale = images_.channel_scale = buffers_.channel_scale->as<float>();
    args_.next_item = held_.emplace_back(stream.allocate(sizeof(int32_t)))->as<int32_t>();
    check_cuda(cudaMemsetAsync(args_.next_item, 0, sizeof(int32_t), stream.handle()), "clear a counter");
    args_.out = args.out;
    args_.out_type = static_cast<int32_t>(out_type);
    args_.lse = args.lse;
    args_.out_strides = args.out_strides;
    args_.lse_strides = args.lse_strides;
    args_.sequence_count = args.sequence_count;
    args_.head_dim_v = args.head_dim_v;
    args_.scale = args.scale;
    if (part_items_ > 0) plan_parts(stream, request.padded);
}

/** The launch for sequences in parts, whose answers have memory of their own, and where they go from there. */
void SortedForward::plan_parts(Stream& stream, int padded) {
    const auto rows = static_cast<size_t>(part_rows_);
    parts_.out = held_.emplace_back(stream.allocate(rows * static_cast<size_t>(padded) * sizeof(float)))->as<float>();
    parts_.lse = held_.emplace_back(stream.allocate(rows * sizeof(float)))->as<float>();
    merged_ = {args_.out, static_cast<ElementType>(args_.out_type), args_.lse, args_.out_strides, args_.lse_strides, args_.heads, args_.head_dim_v, padded};
    part_args_ = args_;
    part_args_.part_items = part_items_;
    part_args_.out = parts_.out;
    part_args_.lse = parts_.lse;
    part_args_.out_type = static_cast<int32_t>(ElementType::kFloat32);
    part_args_.out_strides.token = padded;
    part_args_.lse_strides.token = 1;
}

constexpr int64_t kLeastPartKeys = 3072;  // of fewer, writing a part and reading it again takes too much of the time that it saves

/**
 * For Hopper's kernel: how many items of all warpgroups' queries a head has, and how many of 64 queries that warpgroups share: what is left of it, where that is
 * the quicker way, or all of it, where the sequence's heads alone leave processors idle. Where they still do, the keys of each item are cut into parts. Other
 * sequences have no say in it, so that a row's bits do not depend on them.
 */
SortedForward::Items SortedForward::share_out(int32_t q_len, int32_t k_len, int32_t tiles) const {
    const int32_t consumers = sm90_consumers(request_.padded), rows = consumers * kQueryBlock;
    const int32_t full = q_len / rows, left = (q_len % rows + kQueryBlock - 1) / kQueryBlock, rounded = full + (left > 0 ? 1 : 0);
    const bool worth = tiles >= 2 * consumers;  // adding up costs as much as two or three tiles
    if (worth && int64_t{args_.heads} * rounded < limits_.processors) {
        const int32_t blocks = (q_len + kQueryBlock - 1) / kQueryBlock;
        const int64_t parts = on_hopper_ && blocks > 0 ? std::min(limits_.processors / (int64_t{args_.heads} * blocks), keys_seen(q_len, k_len) / kLeastPartKeys) : 0;
        return parts > 1 ? Items{0, 0, static_cast<int32_t>(parts)} : Items{0, blocks, 0};
    }
    if (left == 1 && worth) return {full, 1, 0};
    if (left == 2 && consumers == 3 && tiles >= 32) return {full, 2, 0};
    return {rounded, 0, 0};
}

/** By some row, at most. */
int64_t SortedForward::keys_seen(int32_t q_len, int32_t k_len) const {
    const int64_t left = std::min(args_.window_left, int64_t{k_len}), right = std::min(args_.window_right, int64_t{k_len});
    const int64_t reach = args_.bottom_right != 0 ? k_len + right : q_len + right;  // the last row's end
    return std::min({int64_t{k_len}, left + right + 1, reach});
}

void SortedForward::lay_out(Stream& stream, const std::vector<Sequence>& sequences) {
    std::vector<SortedSequence> own;
    for (const Sequence& each : sequences) {
        const int32_t q_blocks = (each.q_len + kQueryBlock - 1) / kQueryBlock, keys = sorted_tile_keys(request_.padded, is_half()), tiles = (each.k_len + keys - 1) / keys;
        const Items items = share_out(each.q_len, each.k_len, tiles);
        own.push_back({each.q_start, each.k_start, q_blocks_, tiles_, each.tile_base, each.q_len, each.k_len, q_blocks, tiles, each.tiles, items.full, items.full + items.shared, items.parts,
                       part_items_, part_rows_});
        args_.max_full_items = std::max(args_.max_full_items, items.full);
        args_.max_shared_items = std::max(args_.max_shared_items, items.shared);
        if (items.parts > 0) {
            part_items_ += args_.heads * q_blocks * items.parts;
            part_rows_ += int64_t{args_.heads} * items.parts * each.q_len;
            most_part_queries_ = std::max(most_part_queries_, each.q_len);
        }
        q_blocks_ += int64_t{q_blocks} * request_.query.heads;
        tiles_ += int64_t{tiles} * request_.key.heads;
        table_.max_q_blocks = std::max(table_.max_q_blocks, q_blocks);
        table_.max_tiles = std::max(table_.max_tiles, tiles);
        table_.max_sums = std::max(table_.max_sums, each.tiles);
        args_.max_k_len = std::max(args_.max_k_len, each.k_len);
        args_.max_q_blocks = std::max(args_.max_q_blocks, q_blocks);
    }
    table_.count = static_cast<int32_t>(own.size());
    const auto& buffer = held_.emplace_back(stream.allocate(own.size() * sizeof(SortedSequence)));
    if (!own.empty()) check_cuda(cudaMemcpyAsync(buffer->as(), own.data(), buffer->bytes(), cudaMemcpyHostToDevice, stream.handle()), "copy the sequence table");
    table_.sequences = args_.sequences = buffer->as<SortedSequence>();
}

void SortedForward::quantize(cudaStream_t stream) const {
    check_cuda(launch_sorted_quantize(request_, table_, images_, stream), "quantize into sorted tiles");
    check_cuda(launch_judge_and_clear(request_, portable_, stream), "judge the scores");
}

void SortedForward::attend(cudaStream_t stream) const {
    if (on_hopper_) {
        const auto launch = request_.padded == 64 ? launch_sm90_flash_fwd_d64 : request_.padded == 128 ? launch_sm90_flash_fwd_d128 : launch_sm90_flash_fwd_d256;
        check_cuda(launch(args_, is_half(), limits_.processors, stream), "run attention on Hopper");
        if (part_items_ == 0) return;
        check_cuda(launch(part_args_, is_half(), limits_.processors, stream), "run attention by parts of the keys");
        return check_cuda(launch_merge_parts(parts_, args_.sequences, args_.sequence_count, most_part_queries_, merged_, stream), "put parts of the keys together");
    }
    const auto launch = request_.padded == 64 ? launch_sorted_flash_fwd_d64 : request_.padded == 128 ? launch_sorted_flash_fwd_d128 : launch_sorted_flash_fwd_d256;
    check_cuda(launch(args_, limits_, stream), "run attention on sorted tiles");
}

}  // namespace intflash
