// Tiles of keys on their way through a ring of stages in shared memory. The warps of a block share it and run independently: a tile's "full" barrier
// says that it has landed, its "empty" barrier that every thread has left it. One thread asks for the tiles, or all where copies need all (tile_copy.cuh).
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "ptx/tile_copy.cuh"

namespace intflash {

constexpr int kMaxStages = 4;  // tiles in flight; more did not help where shared memory allows more

struct RingBarriers {
    uint64_t full[kMaxStages], empty[kMaxStages];
    /** One thread calls it, before a __syncthreads. */
    __device__ __forceinline__ void init(int stages, int warps) {
        for (int stage = 0; stage < stages; ++stage) {
            barrier_init(shared_address(full + stage), copy_arrivals());
            barrier_init(shared_address(empty + stage), 32 * warps);
        }
        publish_writes();
    }
};

/** A warp's place in the ring. */
template <int kTileBytes, int kStageBytes> struct TileRing {
    uint32_t full, first;  // addresses of the barriers and of the first stage, the same in all lanes
    int stages, stage = 0;
    uint32_t parity = 0;
    __device__ __forceinline__ TileRing(uint32_t barriers, uint32_t first, int stages) : full(barriers), first(first), stages(stages) {}

    /** With 3 stages or more the copy trails by one more tile, so that who copies need not wait for the slowest of the others. */
    __device__ __forceinline__ int ahead() const { return stages >= 3 ? stages - 2 : stages - 1; }
    __device__ __forceinline__ void copy(const uint8_t* tiles, int tile, int into) const {
        copy_tile(first + into * kStageBytes, tiles + static_cast<int64_t>(tile) * kTileBytes, kTileBytes, full + 8 * into);
    }
    /** The first of tiles [begin, end). */
    __device__ __forceinline__ void start(const uint8_t* const& tiles, int begin, int end) const {
        if (copies())
            for (int i = 0; i < min(ahead(), end - begin); ++i) copy(tiles, begin + i, i);
    }
    /** The one that is due when `tile` is. */
    __device__ __forceinline__ void keep_up(const uint8_t* const& tiles, int tile, int end) const {
        if (!copies() || tile + ahead() >= end) return;
        const bool wraps = stage + ahead() >= stages;
        const int next = stage + ahead() - (wraps ? stages : 0);
        barrier_wait(full + 8 * kMaxStages + 8 * next, parity ^ wraps ^ 1);  // a fresh barrier counts as having passed the phase before the first
        copy(tiles, tile + ahead(), next);
    }
    __device__ __forceinline__ uint32_t address() const { return first + stage * kStageBytes; }
    __device__ __forceinline__ void wait() const { barrier_wait(full + 8 * stage, parity); }
    /** The thread has read all that it will of the tile. Each arrives by itself, not one for its warp: it costs nothing, and tools that look for races can follow it. */
    __device__ __forceinline__ void leave() {
        barrier_arrive(full + 8 * kMaxStages + 8 * stage);
        if (++stage == stages) stage = 0, parity ^= 1;
    }
};

}  // namespace intflash
