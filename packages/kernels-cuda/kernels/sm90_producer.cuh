// Hopper's forward: the producer. One thread brings queries and key tiles from global to shared memory, tiles ahead of the warpgroups that work on them.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "ptx/tile_copy.cuh"
#include "sm90_items.cuh"

namespace intflash {

template <class T> __device__ __forceinline__ void produce(SharedMemory<T>& shared, const SortedArgs& args) {
    RingSlot<T::kStages> stage;
    RingSlot<T::kQueryBuffers> buffer;
    SortedSequence sequence;
    int head;
    int64_t channel_at;
    for (int index = blockIdx.x; index < args.items; index = next_item(args)) {
        barrier_wait(shared_address(&shared.query_empty[buffer.index]), buffer.parity ^ 1);
        WorkItem& item = shared.items[buffer.index];
        if (!find_item<T>(args, index, sequence, head, channel_at, item)) continue;
        const int block = item.first_row / kQueryBlock, blocks = item.shared ? 1 : min(T::kConsumers, sequence.q_blocks - block);
        const int64_t first_block = sequence.q_block_base + static_cast<int64_t>(head) * sequence.q_blocks + block;
        const uint32_t query_full = shared_address(&shared.query_full[buffer.index]);
        expect_bytes(query_full, blocks * (T::kBlockBytes + kQueryBlock * 4) + T::kD * 4);
        bulk_copy(shared_address(shared.channel_scale[buffer.index]), args.channel_scale + channel_at, T::kD * 4, query_full);
        bulk_copy(shared_address(shared.query[buffer.index]), args.q_blocks + first_block * T::kBlockBytes, blocks * T::kBlockBytes, query_full);
        bulk_copy(shared_address(shared.query_scale[buffer.index]), args.q_scales + first_block * kQueryBlock, blocks * kQueryBlock * 4, query_full);
        buffer.next();
        const int kv_head = head / (args.heads / args.kv_heads);
        const uint8_t* tile = args.tiles + (sequence.tile_base + static_cast<int64_t>(kv_head) * sequence.tiles + item.tile_begin) * T::kTileBytes;
        for (int i = item.tile_begin; i < item.tile_end; ++i, tile += T::kTileBytes, stage.next()) {
            const int slot = stage.index;
            barrier_wait(shared_address(&shared.tile_empty[slot]), stage.parity ^ 1);
            const uint32_t full = shared_address(&shared.tile_full[slot]);
            expect_bytes(full, T::kTileBytes);
            bulk_copy(shared_address(shared.key[slot]), tile, T::kKeyBytes, full);
            bulk_copy(shared_address(shared.meta[slot]), tile + T::kKeyBytes + T::kValueBytes, T::kMetaBytes, full);
            constexpr int kPanelBytes = T::kValueBytes / T::kPanels;
            for (int panel = 0; panel < T::kPanels; ++panel) bulk_copy(shared_address(shared.value[slot]) + panel * T::kHalfPanelRoom, tile + T::kKeyBytes + panel * kPanelBytes, kPanelBytes, full);
        }
    }
    barrier_wait(shared_address(&shared.query_empty[buffer.index]), buffer.parity ^ 1);
    shared.items[buffer.index].rows = -1;
    barrier_arrive(shared_address(&shared.query_full[buffer.index]));
}

}  // namespace intflash
