// See draw_tokens.h. Every sum has a fixed order, so a draw is the same every time.
//   §1 sums and maxima of a block     §3 a draw from candidates, the most probable first
//   §2 the candidates, sorted         §4 a draw in the order of ids; kernel and launch
#include <cuda_runtime.h>

#include <cfloat>

#include "draw_tokens.h"

namespace intflash {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
/** Candidates are what lies above the first of these parts of the highest probability that leaves enough; as in the TypeScript sampler. */
constexpr int kTiers = 3;
__device__ constexpr float kTierWeights[kTiers] = {0x1p-6f, 0x1p-12f, 0x1p-24f};
constexpr int kEach = kMostCandidates / kThreads;  // candidates of a thread

struct Shared {
    uint64_t keys[kMostCandidates];  // ascending: score down, then id up
    double sums[kThreads];
    double partial[kWarps];
    int partial_ints[kWarps];
    int counter, chosen;
};

/** One row, and what does not change with the token. */
struct Row {
    const float* logits;
    DrawRules rules;
    float highest;

    /** Weight of a logit, the highest one's being 1; for sums over all. */
    __device__ __forceinline__ float rough_weight(float logit) const { return logit == highest ? 1.f : expf((logit - highest) / static_cast<float>(rules.temperature)); }
    __device__ __forceinline__ double weight(float logit) const {
        return logit == highest ? 1. : exp((static_cast<double>(logit) - static_cast<double>(highest)) / rules.temperature);
    }
};

// ── §1 ──
/** The same in every thread. */
__device__ __forceinline__ double block_sum(double value, Shared& shared) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared.partial[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0;
    for (int warp = 0; warp < kWarps; ++warp) value += shared.partial[warp];
    return value;
}

__device__ __forceinline__ int block_sum(int value, Shared& shared) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared.partial_ints[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0;
    for (int warp = 0; warp < kWarps; ++warp) value += shared.partial_ints[warp];
    return value;
}

/** A float's bits in the order of its value. */
__device__ __forceinline__ uint32_t ordered(float x) {
    const uint32_t bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float unordered(uint32_t bits) { return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits); }

/** Ascending: higher scores first, lower ids first among equals. NaN counts as the lowest score. */
__device__ __forceinline__ uint64_t key_of(float logit, int id) {
    const float score = logit == logit ? logit + 0.f : -INFINITY;  // + 0: -0 and 0 are equal
    return static_cast<uint64_t>(~ordered(score)) << 32 | static_cast<uint32_t>(id);
}
__device__ __forceinline__ int id_of(uint64_t key) { return static_cast<int>(key & 0xffffffffu); }
__device__ __forceinline__ float score_of(uint64_t key) { return unordered(~static_cast<uint32_t>(key >> 32)); }

__device__ __forceinline__ uint64_t block_min(uint64_t key, Shared& shared) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const uint64_t other = __shfl_xor_sync(~0u, key, step);
        key = other < key ? other : key;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared.keys[threadIdx.x / 32] = key;
    __syncthreads();
    for (int warp = 0; warp < kWarps; ++warp) key = shared.keys[warp] < key ? shared.keys[warp] : key;
    __syncthreads();
    return key;
}

// ── §2 ──
/** What lies above each tier: how many, and their weight. */
struct Tiers {
    int counts[kTiers];
    double weights[kTiers], all;
};

__device__ __forceinline__ Tiers measure(const Row& row, Shared& shared) {
    int counts[kTiers] = {};
    double weights[kTiers] = {}, all = 0;
    for (int id = threadIdx.x; id < row.rules.vocabulary; id += kThreads) {
        const float weight = row.rough_weight(row.logits[id]);
        if (!(weight > 0.f)) continue;
        all += weight;
#pragma unroll
        for (int tier = 0; tier < kTiers; ++tier)
            if (weight >= kTierWeights[tier]) counts[tier]++, weights[tier] += weight;
    }
    Tiers result;
#pragma unroll
    for (int tier = 0; tier < kTiers; ++tier) {
        result.counts[tier] = block_sum(counts[tier], shared);
        result.weights[tier] = block_sum(weights[tier], shared);
    }
    result.all = block_sum(all, shared);
    return result;
}

/** The candidates above `tier` into shared.keys, sorted; the rest of a power of two is filled with the largest key. */
__device__ __forceinline__ void sort_candidates(const Row& row, float tier, int count, Shared& shared) {
    int slots = 2;
    while (slots < count) slots *= 2;
    if (threadIdx.x == 0) shared.counter = 0;
    for (int i = threadIdx.x; i < slots; i += kThreads) shared.keys[i] = ~uint64_t{0};
    __syncthreads();
    for (int id = threadIdx.x; id < row.rules.vocabulary; id += kThreads)
        if (row.rough_weight(row.logits[id]) >= tier) shared.keys[atomicAdd(&shared.counter, 1)] = key_of(row.logits[id], id);  // any order: they are sorted next
    __syncthreads();
    for (int span = 2; span <= slots; span *= 2)
        for (int step = span / 2; step > 0; step /= 2) {
            for (int i = threadIdx.x; i < slots / 2; i += kThreads) {
                const int low = i / step * 2 * step + i % step, high = low + step;
                const bool up = (low & span) == 0;
                const uint64_t a = shared.keys[low], b = shared.keys[high];
                if ((a > b) == up) shared.keys[low] = b, shared.keys[high] = a;
            }
            __syncthreads();
        }
}

// ── §3 ──
/** Running sums of the sorted candidates' weights: candidate kEach · t + i of thread t. The total so far before a thread's first in shared.sums. */
__device__ __forceinline__ void sum_candidates(const Row& row, int count, double (&sums)[kEach], double (&weights)[kEach], Shared& shared) {
    double sum = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        const int at = threadIdx.x * kEach + i;
        weights[i] = at < count ? row.weight(score_of(shared.keys[at])) : 0.;
        sum += weights[i];
        sums[i] = sum;
    }
    shared.sums[threadIdx.x] = sum;
    __syncthreads();
    for (int step = 1; step < kThreads; step *= 2) {
        const double before = static_cast<int>(threadIdx.x) >= step ? shared.sums[threadIdx.x - step] : 0.;
        __syncthreads();
        shared.sums[threadIdx.x] += before;
        __syncthreads();
    }
    const double before = threadIdx.x > 0 ? shared.sums[threadIdx.x - 1] : 0.;
#pragma unroll
    for (int i = 0; i < kEach; ++i) sums[i] += before;
}

/** Number of candidates for which `holds(sum, weight)`; a beginning of them. */
template <class Holds> __device__ __forceinline__ int count_while(int count, const double (&sums)[kEach], const double (&weights)[kEach], Shared& shared, Holds holds) {
    int mine = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i)
        if (static_cast<int>(threadIdx.x) * kEach + i < count && holds(sums[i], weights[i])) ++mine;
    return block_sum(mine, shared);
}

/** The running sum that candidate `at` ends. */
__device__ __forceinline__ double sum_at(int at, const double (&sums)[kEach], Shared& shared) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kEach; ++i)
        if (static_cast<int>(threadIdx.x) * kEach + i == at) shared.partial[0] = sums[i];
    __syncthreads();
    return shared.partial[0];
}

__device__ __forceinline__ int draw_sorted(const Row& row, Shared& shared) {
    const DrawRules& rules = row.rules;
    const Tiers tiers = measure(row, shared);
    int chosen = -1;
    for (int tier = 0; tier < kTiers && chosen < 0; ++tier)
        if (rules.top_k > 0 ? tiers.counts[tier] >= min(rules.top_k, row.rules.vocabulary) : tiers.weights[tier] >= rules.top_p * tiers.all) chosen = tier;
    if (chosen < 0 || tiers.counts[chosen] > kMostCandidates) return kTooMany;
    int count = tiers.counts[chosen];
    sort_candidates(row, kTierWeights[chosen], count, shared);
    double sums[kEach], weights[kEach];
    sum_candidates(row, count, sums, weights, shared);
    double mass = tiers.all;
    if (rules.top_k > 0) {
        count = min(count, rules.top_k);
        mass = sum_at(count - 1, sums, shared);
    }
    if (rules.top_p < 1) count = min(count, 1 + count_while(count, sums, weights, shared, [&](double sum, double) { return sum < rules.top_p * mass; }));
    if (rules.min_p > 0) count = max(1, count_while(count, sums, weights, shared, [&](double, double weight) { return weight >= rules.min_p; }));
    const double target = rules.uniform * sum_at(count - 1, sums, shared);
    const int before = count_while(count, sums, weights, shared, [&](double sum, double) { return sum <= target; });
    return id_of(shared.keys[min(before, count - 1)]);
}

// ── §4 ──
/** Ids [from, to) of a warp, 32 at a time. */
__device__ __forceinline__ double kept_weight(const Row& row, int id, int to) {
    if (id >= to) return 0;
    const float weight = row.rough_weight(row.logits[id]);
    return weight > 0.f && weight >= row.rules.min_p ? weight : 0.;
}

__device__ __forceinline__ int draw_in_order(const Row& row, Shared& shared) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, each = (row.rules.vocabulary + kWarps - 1) / kWarps;
    const int from = warp * each, to = min(from + each, row.rules.vocabulary);
    double sum = 0;
    for (int first = from; first < to; first += 32) {
        double part = kept_weight(row, first + lane, to);
#pragma unroll
        for (int step = 16; step > 0; step /= 2) part += __shfl_xor_sync(~0u, part, step);
        sum += part;
    }
    if (lane == 0) shared.partial[warp] = sum;
    __syncthreads();
    double before = 0, all = 0;
    for (int i = 0; i < kWarps; ++i) {
        if (i < warp) before += shared.partial[i];
        all += shared.partial[i];
    }
    const double target = row.rules.uniform * all;
    if (threadIdx.x == 0) shared.chosen = row.rules.vocabulary;
    __syncthreads();
    // The first id whose running sum exceeds the target; rounding may leave a crumb behind the last one, which then is drawn.
    int found = row.rules.vocabulary, last = -1;
    for (int first = from; first < to; first += 32) {
        const double mine = kept_weight(row, first + lane, to);
        double running = mine;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            const double other = __shfl_up_sync(~0u, running, step);
            if (lane >= step) running += other;
        }
        if (mine > 0.) last = first + lane;
        if (found == row.rules.vocabulary && mine > 0. && before + running > target) found = first + lane;
        before += __shfl_sync(~0u, running, 31);
    }
    atomicMin(&shared.chosen, found);
    __syncthreads();
    if (threadIdx.x == 0) shared.counter = -1;
    __syncthreads();
    atomicMax(&shared.counter, last);
    __syncthreads();
    return shared.chosen < row.rules.vocabulary ? shared.chosen : shared.counter;
}

/** The key of the best of a thread's logits, every kThreads-th. Many are on their way at a time: a block alone reads a row. */
__device__ __forceinline__ uint64_t best_of_thread(const Row& row) {
    constexpr int kAtOnce = 16;
    const int vocabulary = row.rules.vocabulary, first = threadIdx.x;
    if (first >= vocabulary) return ~uint64_t{0};
    float most = -INFINITY;  // of NaNs, too, which no comparison finds larger
    int id = first;
    for (int from = first; from < vocabulary; from += kAtOnce * kThreads) {
        float some[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) some[i] = from + i * kThreads < vocabulary ? row.logits[from + i * kThreads] : -INFINITY;
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
            if (some[i] > most) most = some[i], id = from + i * kThreads;
    }
    return key_of(most, id);
}

__global__ void __launch_bounds__(kThreads) draw_tokens(const float* logits, int64_t stride, const DrawRules* rules, int32_t* drawn) {
    extern __shared__ __align__(16) uint8_t memory[];
    Shared& shared = *reinterpret_cast<Shared*>(memory);
    Row row{logits + blockIdx.x * stride, rules[blockIdx.x], 0.f};
    const uint64_t best = block_min(best_of_thread(row), shared);
    row.highest = score_of(best);
    int token = id_of(best);
    if (!(fabsf(row.highest) <= FLT_MAX)) token = kBadLogits;
    else if (row.rules.temperature > 0) token = row.rules.top_k > 0 || row.rules.top_p < 1 ? draw_sorted(row, shared) : draw_in_order(row, shared);
    if (threadIdx.x == 0) drawn[blockIdx.x] = token;
}

}  // namespace

cudaError_t launch_draw(const float* logits, int64_t stride, const DrawRules* rules, int rows, int32_t* drawn, cudaStream_t stream) {
    constexpr int kBytes = sizeof(Shared);
    draw_tokens<<<rows, kThreads, kBytes, stream>>>(logits, stride, rules, drawn);
    return cudaGetLastError();
}

}  // namespace intflash
