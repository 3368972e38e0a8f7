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
    args_.window_left = args.window_left;
    args_.window_right = args.window_right;
    args_.sequence_count = args.sequence_count;
    args_.head_dim_v = args.head_dim_v;
    args_.bottom_right = args.bottom_right;
    args_.scale = args.scale;
}

/**
 * For Hopper's kernel: how many items of all warpgroups' queries a head has, and how many of 64 queries that warpgroups share: what is left of it, where that is
 * the quicker way, or all of it, where the sequence's heads alone leave processors idle. Other sequences have no say in it, so that a row's
 * bits do not depend on them.
 */
SortedForward::Items SortedForward::share_out(int32_t q_len, int32_t tiles) const {
    const int32_t consumers = sm90_consumers(request_.padded), rows = consumers * kQueryBlock;
    const int32_t full = q_len / rows, left = (q_len % rows + kQueryBlock - 1) / kQueryBlock, rounded = full + (left > 0 ? 1 : 0);
    const bool worth = tiles >= 2 * consumers;  // adding up costs as much as two or three tiles
    if (worth && int64_t{args_.heads} * rounded < limits_.processors) return {0, (q_len + kQueryBlock - 1) / kQueryBlock};
    if (left == 1 && worth) return {full, 1};
    if (left == 2 && consumers == 3 && tiles >= 32) return {full, 2};
    return {rounded, 0};
}

void SortedForward::lay_out(Stream& stream, const std::vector<Sequence>& sequences) {
    std::vector<SortedSequence> own;
    for (const Sequence& each : sequences) {
        const int32_t q_blocks = (each.q_len + kQueryBlock - 1) / kQueryBlock, keys = sorted_tile_keys(request_.padded, is_half()), tiles = (each.k_len + keys - 1) / keys;
        const Items items = share_out(each.q_len, tiles);
        own.push_back({each.q_start, each.k_start, q_blocks_, tiles_, each.tile_base, each.q_len, each.k_len, q_blocks, tiles, each.tiles, 0, items.full, items.full + items.shared});
        args_.max_full_items = std::max(args_.max_full_items, items.full);
        args_.max_shared_items = std::max(args_.max_shared_items, items.shared);
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
        return check_cuda(launch(args_, is_half(), limits_.processors, stream), "run attention on Hopper");
    }
    const auto launch = request_.padded == 64 ? launch_sorted_flash_fwd_d64 : request_.padded == 128 ? launch_sorted_flash_fwd_d128 : launch_sorted_flash_fwd_d256;
    check_cuda(launch(args_, limits_, stream), "run attention on sorted tiles");
}

}  // namespace intflash
