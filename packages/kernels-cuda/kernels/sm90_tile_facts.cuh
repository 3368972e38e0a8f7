// Hopper's quantizers: what a block finds out of its tile before it encodes it, and which slot each key takes.
#pragma once
#include "sm90_quantize_job.cuh"

namespace intflash {

/** What a block knows of its tile. */
struct alignas(16) TileFacts {  // read 16 bytes at a time
    float divisor[kMaxHeadDim];   // 1 / channel's largest |v|
    float mean[kMaxHeadDim];      // of K's channels; 0 without smooth-K
    float magnitude[kTileKeys];   // of a key: its largest |k|
    float weight[kTileKeys];      // of its value: largest |v / channel's maximum|
    uint32_t rank[kTileKeys];     // by which keys are sorted into slots; no two alike
    float key_step[kTileKeys];    // of a key: 1 / its scale; 0 where there is none, so that its codes are zeros with or without a mean
    float value_step[kTileKeys];  // of a key: 127 / value weight
    int slot[kTileKeys];          // of a key
    int key[kTileKeys];           // of a slot
    float part_scale[8];          // of the slots' eighths
    uint2 warp_best[16];          // of a warp's keys: how many keys fit the weight, and the weight's bits
};

__device__ __forceinline__ bool fits(float weight, float shared_weight) { return weight <= shared_weight && weight > 0.5f * shared_weight; }
/** Adds 1 if it fits. As bits, weights within a factor of two are less than 2^23 apart; 0, of a key past the end, is further away from all. */
__device__ __forceinline__ void count_if_fits(int& count, uint32_t weight, uint32_t shared_weight) {
    if (shared_weight - weight < 1u << 23) ++count;
}

/** Sum over kLanes neighbouring lanes. */
template <int kLanes> __device__ __forceinline__ int group_sum(int value) {
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) value += __shfl_xor_sync(~0u, value, step);
    return value;
}

/**
 * The value weight that most keys share within a factor of two, and how many keys it does not fit. With too many of those the tile keeps a
 * weight and a scale a key.
 */
template <int kThreads> __device__ __forceinline__ TileKind classify(TileFacts& facts, int keys, float& shared_weight) {
    uint32_t most = 0, least = ~0u;
#pragma unroll
    for (int i = 0; i < kTileKeys; i += 32) {
        const int key = i + threadIdx.x % 32;
        const uint32_t bits = __float_as_uint(facts.weight[key]);
        if (key < keys) most = max(most, bits), least = min(least, bits);
    }
    shared_weight = __uint_as_float(__reduce_max_sync(~0u, most));
    if (fits(__uint_as_float(__reduce_min_sync(~0u, least)), shared_weight)) return TileKind::kPlain;  // all fit the largest, as they nearly always do

    // With as many keys a warp finds the best of its own, and then every warp the best of all.
    constexpr int kShare = kThreads / kTileKeys;  // threads a key
    const uint32_t own = __float_as_uint(facts.weight[threadIdx.x / kShare]);
    int count = 0;
#pragma unroll 4
    for (int i = threadIdx.x % kShare; i < kTileKeys / 4; i += kShare) {
        const uint4 others = reinterpret_cast<const uint4*>(facts.weight)[i];
        count_if_fits(count, others.x, own), count_if_fits(count, others.y, own), count_if_fits(count, others.z, own), count_if_fits(count, others.w, own);
    }
    count = group_sum<kShare>(count);
    const auto best = [](uint32_t& fitting, uint32_t& weight) {
        const uint32_t largest = __reduce_max_sync(~0u, fitting);
        weight = __reduce_max_sync(~0u, fitting == largest ? weight : 0u);
        fitting = largest;
    };
    uint32_t fitting = own == 0 ? 0u : static_cast<uint32_t>(count), weight = own;
    best(fitting, weight);
    if (threadIdx.x % 32 == 0) facts.warp_best[threadIdx.x / 32] = make_uint2(fitting, weight);
    __syncthreads();
    const uint2 other = facts.warp_best[threadIdx.x % (kThreads / 32)];
    fitting = other.x, weight = other.y;
    best(fitting, weight);
    shared_weight = __uint_as_float(weight);
    return keys - static_cast<int>(fitting) <= kOutlierSlots ? TileKind::kOutliers : TileKind::kColumns;
}

/** Adds 1 if a < b, in two instructions. */
__device__ __forceinline__ void count_if_below(int& count, uint32_t a, uint32_t b) {
    asm("{ .reg .pred below; setp.lt.u32 below, %1, %2; @below add.s32 %0, %0, 1; }" : "+r"(count) : "r"(a), "r"(b));
}

/** Keys into slots by magnitude, outliers last. Magnitudes alike but for their last seven bits count as alike; the earlier key comes first. */
template <int kThreads> __device__ __forceinline__ void sort_into_slots(TileFacts& facts, int keys, TileKind kind, float shared_weight) {
    constexpr int kShare = kThreads / kTileKeys;  // threads a key
    const int key = threadIdx.x / kShare, part = threadIdx.x % kShare;
    const bool outlier = kind == TileKind::kOutliers && key < keys && !fits(facts.weight[key], shared_weight);
    const uint32_t own = (__float_as_uint(facts.magnitude[key]) & ~127u) | static_cast<uint32_t>(key) | (outlier ? 1u << 31 : 0u);
    if (part == 0) facts.rank[key] = own;
    __syncthreads();
    int before = 0;
#pragma unroll 8
    for (int i = part; i < kTileKeys / 4; i += kShare) {
        const uint4 others = reinterpret_cast<const uint4*>(facts.rank)[i];
        count_if_below(before, others.x, own), count_if_below(before, others.y, own), count_if_below(before, others.z, own), count_if_below(before, others.w, own);
    }
    before = group_sum<kShare>(before);
    if (part == 0) facts.slot[key] = before, facts.key[before] = key;
    __syncthreads();
}

__device__ __forceinline__ float key_scale(uint32_t largest) { return fmaxf(__uint_as_float(largest) / 127.f, kMinScale); }

/** Scales of the slots' eighths; without half values the low slots share one, and so do the high ones. And every key's step. All threads call it. */
template <bool kHalf> __device__ __forceinline__ void find_scales(TileFacts& facts, int keys, bool own_scale) {
    const int part = threadIdx.x / 32, lane = threadIdx.x % 32;  // a warp an eighth
    if (part < kTileKeys / kEighthSlots) {
        const int own_key = facts.key[part * kEighthSlots + lane % kEighthSlots];
        uint32_t bits = 0;
        if constexpr (kHalf) {
            bits = __float_as_uint(facts.magnitude[own_key]);
        } else {
            const bool low = part < kLowSlots / kEighthSlots;
            for (int slot = (low ? 0 : kLowSlots) + lane; slot < (low ? kLowSlots : kTileKeys); slot += 32) bits = max(bits, __float_as_uint(facts.magnitude[facts.key[slot]]));
        }
        float scale = key_scale(__reduce_max_sync(~0u, bits));
        if (lane == 0) facts.part_scale[part] = scale;
        if (own_scale) scale = key_scale(__float_as_uint(facts.magnitude[own_key]));
        if (lane < kEighthSlots) facts.key_step[own_key] = own_key < keys ? 1.f / scale : 0.f;
    }
    __syncthreads();
}
static_assert(kLowSlots % kEighthSlots == 0, "an eighth has one scale");

}  // namespace intflash
