// Quantizers into sorted tiles: what a block finds out of its tile before it encodes it, and which slot each key takes.
#pragma once
#include "quantize_job.cuh"

namespace intflash {

/** What a block knows of its tile. */
template <int kKeys> struct alignas(16) TileFacts {  // read 16 bytes at a time
    float divisor[kMaxHeadDim];   // 1 / channel's largest |v|
    float mean[kMaxHeadDim];      // of K's channels; 0 without smooth-K
    float magnitude[kKeys];      // of a key: its largest |k|
    float weight[kKeys];         // of its value: largest |v / channel's maximum|
    uint32_t rank[kKeys];        // by which keys are sorted into slots; no two alike
    float key_step[kKeys];       // of a key: 1 / its scale; 0 where there is none, so that its codes are zeros with or without a mean
    float value_step[kKeys];     // of a key: 127 / value weight
    int slot[kKeys];             // of a key
    int key[kKeys];              // of a slot
    static constexpr int kMostParts = kKeys / kSlotGroup < 8 ? 8 : kKeys / kSlotGroup;  // half-int8 has eighths
    float part_scale[kMostParts];  // of sorted_scale_slots each; without half values the first is the low slots', the last the others'
    uint2 warp_best[16];          // of a warp's keys: how many keys fit the weight, and the weight's bits
};

/**
 * How far below the shared weight others may be, as bits: a factor of 2.7 to 3, which random values hardly exceed. With few channels weights lie so far
 * apart of themselves that more than a factor of 2 shows in the error.
 */
__device__ __forceinline__ uint32_t weight_reach(int channels) { return channels < 64 ? 1u << 23 : 3u << 22; }
__device__ __forceinline__ bool fits(float weight, float shared_weight, uint32_t reach) { return __float_as_uint(shared_weight) - __float_as_uint(weight) < reach; }
/** Adds 1 if it fits. 0, of a key past the end, is far away from all. */
__device__ __forceinline__ void count_if_fits(int& count, uint32_t weight, uint32_t shared_weight, uint32_t reach) {
    if (shared_weight - weight < reach) ++count;
}

/** Sum over kLanes neighbouring lanes. */
template <int kLanes> __device__ __forceinline__ int group_sum(int value) {
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) value += __shfl_xor_sync(~0u, value, step);
    return value;
}

/**
 * The value weight that most keys share nearly enough, and how many keys it does not fit. With too many of those the tile keeps a
 * weight and a scale a key.
 */
template <int kThreads, int kKeys> __device__ __forceinline__ TileKind classify(TileFacts<kKeys>& facts, int keys, uint32_t reach, float& shared_weight) {
    uint32_t most = 0, least = ~0u;
#pragma unroll
    for (int i = 0; i < kKeys; i += 32) {
        const int key = i + threadIdx.x % 32;
        const uint32_t bits = __float_as_uint(facts.weight[key]);
        if (key < keys) most = max(most, bits), least = min(least, bits);
    }
    shared_weight = __uint_as_float(__reduce_max_sync(~0u, most));
    if (fits(__uint_as_float(__reduce_min_sync(~0u, least)), shared_weight, reach)) return TileKind::kPlain;  // all fit the largest, as they nearly always do

    // With as many keys a warp finds the best of its own, and then every warp the best of all.
    constexpr int kShare = kThreads / kKeys;  // threads a key; where that leaves some without one, they do the last key's again
    const uint32_t own = __float_as_uint(facts.weight[min(static_cast<int>(threadIdx.x) / kShare, kKeys - 1)]);
    int count = 0;
#pragma unroll 4
    for (int i = threadIdx.x % kShare; i < kKeys / 4; i += kShare) {
        const uint4 others = reinterpret_cast<const uint4*>(facts.weight)[i];
        count_if_fits(count, others.x, own, reach), count_if_fits(count, others.y, own, reach), count_if_fits(count, others.z, own, reach), count_if_fits(count, others.w, own, reach);
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

/** Keys into slots by magnitude, then outliers, then what lies past the span. Magnitudes alike but for their last seven bits (eight of 192 keys) count as alike; the earlier key comes first. */
template <int kThreads, int kKeys> __device__ __forceinline__ void sort_into_slots(TileFacts<kKeys>& facts, int keys, int span, TileKind kind, uint32_t reach, float shared_weight) {
    constexpr int kShare = kThreads / kKeys, kOwnBits = kKeys > 128 ? 255 : 127;  // threads a key; as in classify
    const int key = min(static_cast<int>(threadIdx.x) / kShare, kKeys - 1), part = threadIdx.x % kShare;
    const bool outlier = kind == TileKind::kOutliers && key < keys && !fits(facts.weight[key], shared_weight, reach);
    const uint32_t own = (__float_as_uint(facts.magnitude[key]) & ~static_cast<uint32_t>(kOwnBits)) | static_cast<uint32_t>(key) | (outlier || key >= span ? 1u << 31 : 0u);
    if (part == 0) facts.rank[key] = own;
    __syncthreads();
    int before = 0;
#pragma unroll 8
    for (int i = part; i < kKeys / 4; i += kShare) {
        const uint4 others = reinterpret_cast<const uint4*>(facts.rank)[i];
        count_if_below(before, others.x, own), count_if_below(before, others.y, own), count_if_below(before, others.z, own), count_if_below(before, others.w, own);
    }
    before = group_sum<kShare>(before);
    if (part == 0) facts.slot[key] = before, facts.key[before] = key;
    __syncthreads();
}

__device__ __forceinline__ float key_scale(uint32_t largest) { return fmaxf(__uint_as_float(largest) / 127.f, kMinScale); }

/** Scales of sorted_scale_slots each; without half values the low slots share one, and so do the high ones. And every key's step. All threads call it. */
template <bool kHalf, int kThreads, int kKeys> __device__ __forceinline__ void find_scales(TileFacts<kKeys>& facts, int keys, int span, bool own_scale) {
    constexpr int kSlots = sorted_scale_slots(kKeys, kHalf), kParts = kKeys / kSlots;
    const int lane = threadIdx.x % 32, low_slots = sorted_low_slots(span);
#pragma unroll
    for (int first = 0; first < kParts; first += kThreads / 32) {  // a warp a part
        const int part = first + threadIdx.x / 32;
        if (part >= kParts) break;
        const int own_key = facts.key[part * kSlots + lane % kSlots];
        uint32_t bits = 0;
        if constexpr (kHalf) {
            bits = __float_as_uint(facts.magnitude[own_key]);
        } else {
            const bool low = part < low_slots / kSlots;
            for (int slot = (low ? 0 : low_slots) + lane; slot < (low ? low_slots : kKeys); slot += 32) bits = max(bits, __float_as_uint(facts.magnitude[facts.key[slot]]));
        }
        float scale = key_scale(__reduce_max_sync(~0u, bits));
        if (lane == 0) facts.part_scale[part] = scale;
        if (own_scale) scale = key_scale(__float_as_uint(facts.magnitude[own_key]));
        if (lane < kSlots) facts.key_step[own_key] = own_key < keys ? 1.f / scale : 0.f;
    }
    __syncthreads();
}

}  // namespace intflash
