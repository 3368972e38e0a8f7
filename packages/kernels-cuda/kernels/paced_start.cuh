// How fast a block that began early asks for its first loads. The launch before is still at work then, and what it has left to load, store and fetch as code waits behind them
// in the queues of L2 and memory. Asked for more slowly than memory answers, they leave those queues short (docs/results/h200/log.md).
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>

#include "ptx/tile_copy.cuh"

namespace intflash {

/** Of one warp. */
struct Pace {
    uint32_t begun;              // clock() where the first load of all may be asked for
    int first, each, clocks;     // this warp's loads are number `first`, first + `each`, ... of the block's, which are so many clocks apart; 0: all at once
    uint32_t ended;              // a barrier whose first phase is over when the launch before has ended, and nothing waits behind these loads any more

    /** Until the warp's load `index` may be asked for. */
    __device__ __forceinline__ void wait_for(int index) const {
        constexpr unsigned kNanoseconds = 40;
        const uint32_t due = static_cast<uint32_t>((first + index * each) * clocks);
        while (static_cast<uint32_t>(clock()) - begun < due && !barrier_is_past(ended, 0)) __nanosleep(kNanoseconds);
    }
};

/** Bytes that the calling thread's device brings from memory in a clock of its processors, at most; 0 where it does not say. */
inline cudaError_t memory_bytes_per_clock(int device, double& bytes) {
    constexpr size_t kMaxDevices = 64;
    constexpr double kNotSaid = -1;
    static std::array<std::atomic<double>, kMaxDevices> known{};  // a driver takes most of a millisecond to say how fast clocks are
    const size_t index = static_cast<size_t>(device);
    const double before = index < kMaxDevices ? known[index].load() : 0;
    bytes = std::max(before, 0.);
    if (before != 0) return cudaSuccess;
    int memory_khz = 0, bus_bits = 0, khz = 0;
    cudaError_t status = cudaDeviceGetAttribute(&memory_khz, cudaDevAttrMemoryClockRate, device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, device);
    if (status != cudaSuccess) return status;
    if (khz > 0) bytes = 2. * memory_khz * (bus_bits / 8) / khz;  // twice a clock
    if (index < kMaxDevices) known[index] = bytes > 0 ? bytes : kNotSaid;
    return cudaSuccess;
}

/** Clocks between loads of `bytes`, where `blocks` blocks begin, one a processor at once; 0 where the device does not say how fast its memory is. */
inline cudaError_t pace_of(int bytes, int64_t blocks, int& clocks) {
    constexpr double kShare = 0.75;  // of memory's time
    int device = 0, processors = 0;
    double at_once = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (status == cudaSuccess) status = memory_bytes_per_clock(device, at_once);
    clocks = at_once > 0 ? static_cast<int>(static_cast<double>(bytes) * static_cast<double>(std::min<int64_t>(blocks, processors)) / (kShare * at_once)) : 0;
    return status;
}

}  // namespace intflash
