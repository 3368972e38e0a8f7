// See sm90_quantize.h and sm90_layout.h. Bound by memory, in one launch: the blocks of a head that gather what its channels need of all
// tokens come a little before the blocks that encode its tiles, so that these find K and V still in L2.
//   §1 the order of blocks      §2 what channels need      §3 queries      §4 tiles
#include <cuda_runtime.h>

#include <algorithm>

#include "piece_codes.cuh"
#include "ptx/copy_async.cuh"
#include "sm90_quantize.h"

namespace intflash {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kBlocksAhead = 420;  // between a head's two kinds of blocks: as many as run at a time; with more of them K and V would have left L2

// ── §1 ──
struct Job {
    QuantizeRequest request;
    Sm90Table table;
    int8_t* query_codes;
    float* query_scales;
    uint8_t* tiles;
    float* channel_scale;
    int32_t heads;         // KV heads of all sequences
    int32_t gather_key, gather_value, encode_tiles, encode_queries;  // blocks of a head
    int32_t lag;           // heads between its gathering and its encoding blocks
};

/** Counters of one head in Statistics::arrivals. */
struct Progress {
    uint32_t *key_tiles, *value_tiles, *means_ready;
    __device__ __forceinline__ Progress(const Job& job, int64_t head)
        : key_tiles(job.request.statistics.arrivals + head), value_tiles(key_tiles + job.heads), means_ready(value_tiles + job.heads) {}
};

__device__ __forceinline__ uint32_t acquire(const uint32_t* counter) {
    uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
    return value;
}
/** All threads of the block have done their part: one more arrival. @returns how many came before, in every thread */
__device__ __forceinline__ uint32_t arrive(uint32_t* counter) {
    __shared__ uint32_t before;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) before = atomicAdd(counter, 1u);
    __syncthreads();
    return before;
}
/** The blocks waited for have lower numbers, and blocks start in the order of their numbers: they run or have run. */
__device__ __forceinline__ void wait_until(const uint32_t* counter, uint32_t value) {
    if (threadIdx.x == 0)
        while (acquire(counter) < value) __nanosleep(200);
    __syncthreads();
}

/** A KV head of a sequence. */
struct HeadPlace {
    Sm90Sequence sequence;
    int batch, head;
    __device__ __forceinline__ HeadPlace(const Job& job, int flat) : batch(flat / job.request.key.heads), head(flat - batch * job.request.key.heads) { sequence = job.table.sequences[batch]; }
};

/** How a warp covers rows: kGroups at once, a lane with two pieces of its row. */
template <class P> struct RowLanes {
    static constexpr int kLanes = P::kD / P::kPiece / 2, kGroups = 32 / kLanes, kRounds = kTileKeys / kWarps / kGroups, kRowBytes = P::kD * (P::kWide ? 4 : 2);
    int lane, first_row;
    __device__ __forceinline__ RowLanes() : lane(threadIdx.x % kLanes), first_row(threadIdx.x / 32 * (kTileKeys / kWarps) + threadIdx.x % 32 / kLanes) {}
    __device__ __forceinline__ int row(int round) const { return first_row + round * kGroups; }
    __device__ __forceinline__ int channel(int part) const { return (part * kLanes + lane) * P::kPiece; }
};

/** 128 rows of an operand on their way to shared memory, zeros where there are none. */
template <class P> __device__ __forceinline__ void fetch_rows(uint8_t* target, const Operand& operand, int64_t first, int rows) {
    constexpr int kPieces = P::kD / P::kPiece;
    const bool aligned = aligned_rows(operand);
#pragma unroll 4
    for (int item = threadIdx.x; item < kTileKeys * kPieces; item += kThreads) {
        const int row = item / kPieces, channel = item % kPieces * P::kPiece;
        const bool present = row < rows && channel < operand.dim;
        const int64_t at = present ? first + row * operand.strides.token + channel : first;
        if (aligned) copy_async_16(shared_address_of(target) + item * 16, static_cast<const char*>(operand.data) + at * (P::kWide ? 4 : 2), present);
        else *reinterpret_cast<uint4*>(target + item * 16) = present ? load_piece<P::kWide>(operand, at, false) : make_uint4(0, 0, 0, 0);
    }
}

// ── §2 ──
/** Two neighbouring channels of a row kept in shared memory. */
template <class P> __device__ __forceinline__ float2 pair_at(const uint8_t* rows, int row, int channel, ElementType type) {
    const uint8_t* at = rows + row * RowLanes<P>::kRowBytes + channel * (P::kWide ? 4 : 2);
    if constexpr (P::kWide) return *reinterpret_cast<const float2*>(at);
    const uint32_t bits = *reinterpret_cast<const uint32_t*>(at);
    if (type == ElementType::kFloat16) return __half22float2(*reinterpret_cast<const __half2*>(&bits));
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

/** Sums of K's channels over one tile, tokens in order; the head's last block adds up the tiles, in order. */
template <class P> __device__ __forceinline__ void gather_key(const Job& job, const HeadPlace& at, int64_t head, int tile, uint8_t* memory) {
    const Operand& key = job.request.key;
    const Statistics& statistics = job.request.statistics;
    const Sm90Sequence& sequence = at.sequence;
    float* means = statistics.means + head * P::kD;
    const Progress progress(job, head);
    if (sequence.tiles == 0) {
        if (tile == 0 && threadIdx.x < P::kD) means[threadIdx.x] = 0.f;
        if (tile == 0) arrive(progress.means_ready);
        return;
    }
    if (tile >= sequence.tiles) return;
    const int keys = min(kTileKeys, sequence.k_len - tile * kTileKeys);
    double* partial = statistics.partial_sums + (sequence.tile_base + static_cast<int64_t>(at.head) * sequence.tiles) * P::kD;
    fetch_rows<P>(memory, key, row_offset(key, at.batch, at.head, sequence.k_start + int64_t{tile} * kTileKeys), keys);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    const int channel = 2 * threadIdx.x;
    if (channel < P::kD) {
        double2 sum = make_double2(0., 0.);
#pragma unroll 8
        for (int row = 0; row < keys; ++row) {
            const float2 x = pair_at<P>(memory, row, channel, key.type);
            sum.x += x.x, sum.y += x.y;
        }
        *reinterpret_cast<double2*>(partial + int64_t{tile} * P::kD + channel) = sum;
    }
    if (arrive(progress.key_tiles) + 1 < static_cast<uint32_t>(sequence.tiles)) return;
    __threadfence();
    if (threadIdx.x < P::kD) {
        double total = 0.;
        int done = 0;
        for (; done + 16 <= sequence.tiles; done += 16) {
            double x[16];
#pragma unroll
            for (int i = 0; i < 16; ++i) x[i] = __ldcg(partial + int64_t{done + i} * P::kD + threadIdx.x);
#pragma unroll
            for (int i = 0; i < 16; ++i) total += x[i];
        }
        for (; done < sequence.tiles; ++done) total += __ldcg(partial + int64_t{done} * P::kD + threadIdx.x);
        means[threadIdx.x] = static_cast<int>(threadIdx.x) < key.dim ? static_cast<float>(total / sequence.k_len) : 0.f;
    }
    arrive(progress.means_ready);
}

/** Largest magnitudes of V's channels. They are found on the bits, which for one sign order as the numbers do, NaN above all. */
template <class P> __device__ __forceinline__ void gather_value(const Job& job, const HeadPlace& at, int64_t head, int tile, uint8_t* memory) {
    constexpr int kPieces = P::kD / P::kPiece, kStep = kThreads / kPieces, kPerThread = kTileKeys / kStep;
    const Operand& value = job.request.value;
    const Sm90Sequence& sequence = at.sequence;
    if (tile >= sequence.tiles) return;
    const int keys = min(kTileKeys, sequence.k_len - tile * kTileKeys), piece = threadIdx.x % kPieces, channel = piece * P::kPiece;
    const bool aligned = aligned_rows(value);
    const int64_t first = row_offset(value, at.batch, at.head, sequence.k_start + int64_t{tile} * kTileKeys) + channel;
    uint32_t top[4] = {};
    constexpr int kBatch = kPerThread < 8 ? kPerThread : 8;
#pragma unroll 1
    for (int from = 0; from < kPerThread; from += kBatch) {
        uint4 raw[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int row = threadIdx.x / kPieces + (from + i) * kStep;
            raw[i] = row < keys && channel < value.dim ? load_piece<P::kWide>(value, first + row * value.strides.token, aligned) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const uint32_t words[4] = {raw[i].x, raw[i].y, raw[i].z, raw[i].w};
#pragma unroll
            for (int w = 0; w < 4; ++w) top[w] = P::kWide ? max(top[w], words[w] & 0x7fffffffu) : __vmaxu2(top[w], words[w] & 0x7fff7fffu);
        }
    }
    uint32_t* shared_top = reinterpret_cast<uint32_t*>(memory);  // [channel], bits of float32
    for (int i = threadIdx.x; i < P::kD; i += kThreads) shared_top[i] = 0;
    __syncthreads();
    float largest[P::kPiece];
    widen<P>(largest, make_uint4(top[0], top[1], top[2], top[3]), value.type);
#pragma unroll
    for (int step = kPieces; step < 32; step *= 2)
#pragma unroll
        for (int e = 0; e < P::kPiece; ++e)
            largest[e] = __uint_as_float(max(__float_as_uint(largest[e]), __shfl_xor_sync(~0u, __float_as_uint(largest[e]), step)));
    if (kPieces >= 32 || threadIdx.x % 32 < kPieces) {
#pragma unroll
        for (int e = 0; e < P::kPiece; ++e) atomicMax(shared_top + channel + e, __float_as_uint(largest[e]));
    }
    __syncthreads();
    if (threadIdx.x < P::kD) {
        const float most = __uint_as_float(shared_top[threadIdx.x]);
        if (!(most <= kLargestOperand)) {
            if (most <= FLT_MAX) atomicMax(&job.request.findings->large_value, __float_as_uint(most));
            else atomicOr(&job.request.findings->bad_value, 1u);
        }
        atomicMax(reinterpret_cast<uint32_t*>(job.request.statistics.maxima) + head * P::kD + threadIdx.x, __float_as_uint(most));
    }
    arrive(Progress(job, head).value_tiles);
}

// ── §3 ──
/** load_piece of what nobody reads again: it is the first to leave L2. */
template <class P> __device__ __forceinline__ uint4 load_once(const Operand& operand, int64_t at, bool aligned) {
    if (aligned) return __ldcs(reinterpret_cast<const uint4*>(static_cast<const char*>(operand.data) + at * (P::kWide ? 4 : 2)));
    return load_piece<P::kWide>(operand, at, false);
}

/** 128 queries of a head, two blocks of the image: per-token codes, the bits of quant's quantizePerTokenInt8. */
template <class P> __device__ __forceinline__ void encode_queries(const Job& job, const HeadPlace& at, int head, int chunk) {
    using Lanes = RowLanes<P>;
    constexpr int kBatch = Lanes::kRounds < 4 ? Lanes::kRounds : 4;
    const Operand& query = job.request.query;
    const Sm90Sequence& sequence = at.sequence;
    const int first = chunk * kTileKeys, rows = sequence.q_blocks * kQueryBlock;
    if (first >= rows) return;
    const int64_t block = sequence.q_block_base + static_cast<int64_t>(head) * sequence.q_blocks + chunk * (kTileKeys / kQueryBlock);
    const int64_t from = row_offset(query, at.batch, head, sequence.q_start + first);
    const bool aligned = aligned_rows(query);
    const Lanes lanes;
    float largest_scale = 0.f;
#pragma unroll 1
    for (int begin = 0; begin < Lanes::kRounds; begin += kBatch) {
        uint4 raw[kBatch][2];
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
#pragma unroll
            for (int part = 0; part < 2; ++part) {
                const int row = lanes.row(begin + i), channel = lanes.channel(part);
                raw[i][part] = first + row < sequence.q_len && channel < query.dim ? load_once<P>(query, from + row * query.strides.token + channel, aligned) : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int row = lanes.row(begin + i);
            uint32_t top = 0;  // bits of the largest magnitude, NaN above all
#pragma unroll
            for (int part = 0; part < 2; ++part) {
                const uint32_t words[4] = {raw[i][part].x, raw[i][part].y, raw[i][part].z, raw[i][part].w};
#pragma unroll
                for (int w = 0; w < 4; ++w) top = P::kWide ? max(top, words[w] & 0x7fffffffu) : __vmaxu2(top, words[w] & 0x7fff7fffu);
            }
            float x[2][P::kPiece];
            float largest;
            if constexpr (P::kWide) {
                largest = __uint_as_float(top);
            } else {
                const uint32_t most = max(top & 0xffffu, top >> 16);
                largest = query.type == ElementType::kFloat16 ? __half2float(__ushort_as_half(static_cast<unsigned short>(most))) : __uint_as_float(most << 16);
            }
            uint32_t bits = __float_as_uint(largest);
#pragma unroll
            for (int step = 1; step < Lanes::kLanes; step *= 2) bits = max(bits, __shfl_xor_sync(~0u, bits, step));
            largest = __uint_as_float(bits);
            if (!(largest <= FLT_MAX)) atomicOr(&job.request.findings->bad_query, 1u);
            float scale = fmaxf(__fdiv_rn(largest, 127.f), kMinScale);
            if (first + row < sequence.q_len) largest_scale = fmaxf(largest_scale, scale);
            const int in_block = row % kQueryBlock;
            const int64_t own_block = block + row / kQueryBlock;
            const bool stored = first + row < rows;
            if (stored && lanes.lane == 0) job.query_scales[own_block * kQueryBlock + in_block] = scale;
#pragma unroll
            for (int part = 0; part < 2; ++part) widen<P>(x[part], raw[i][part], query.type);
            if (scale < kTinyDivisor) {
                scale *= kScaleUp;
#pragma unroll
                for (int part = 0; part < 2; ++part)
#pragma unroll
                    for (int e = 0; e < P::kPiece; ++e) x[part][e] *= kScaleUp;
            }
            const Divisor by = divisor(scale);
            int8_t* image = job.query_codes + own_block * (kQueryBlock * P::kD);
#pragma unroll
            for (int part = 0; part < 2; ++part)
                if (stored) encode_piece<P>(x[part], by).store(image + panel_offset(in_block, lanes.channel(part), kQueryBlock, P::kD));
        }
    }
    note_max(job.request.head_maxima.query + static_cast<int64_t>(at.batch) * query.heads + head, largest_scale);
}

// ── §4 ──
/** What a block knows of its tile. */
struct alignas(16) TileFacts {  // read 16 bytes at a time
    float divisor[kMaxHeadDim];   // 1 / channel's largest |v|
    float mean[kMaxHeadDim];      // of K's channels; 0 without smooth-K
    float magnitude[kTileKeys];   // of a key: its largest |k|
    float weight[kTileKeys];      // of its value: largest |v / channel's maximum|
    uint32_t rank[kTileKeys];     // by which keys are sorted into slots; no two alike
    float value_step[kTileKeys];  // of a slot: 127 / value weight
    int slot[kTileKeys];          // of a key
    int key[kTileKeys];           // of a slot
    float part_scale[8], part_step[8];  // of the slots' eighths, and their reciprocals
    unsigned long long best;
    int outliers;
};

__device__ __forceinline__ bool fits(float weight, float shared_weight) { return weight <= shared_weight && weight > 0.5f * shared_weight; }

/**
 * The value weight that most keys share within a factor of two, and how many keys it does not fit. With too many of those the tile keeps a
 * weight and a scale a key.
 */
__device__ __forceinline__ TileKind classify(TileFacts& facts, int keys, float& shared_weight) {
    uint32_t most = 0, least = ~0u;
#pragma unroll
    for (int i = 0; i < kTileKeys; i += 32) {
        const int key = i + threadIdx.x % 32;
        const uint32_t bits = __float_as_uint(facts.weight[key]);
        if (key < keys) most = max(most, bits), least = min(least, bits);
    }
    shared_weight = __uint_as_float(__reduce_max_sync(~0u, most));
    if (fits(__uint_as_float(__reduce_min_sync(~0u, least)), shared_weight)) return TileKind::kPlain;  // all fit the largest, as they nearly always do

    const int key = threadIdx.x / 2, half = threadIdx.x % 2;
    const float own = facts.weight[key];
    int count = 0;
    for (int other = half; other < keys; other += 2) count += fits(facts.weight[other], own);
    count += __shfl_xor_sync(~0u, count, 1);
    if (half == 0 && key < keys) atomicMax(&facts.best, static_cast<unsigned long long>(count) << 32 | __float_as_uint(own));
    __syncthreads();
    shared_weight = __uint_as_float(static_cast<uint32_t>(facts.best));
    if (half == 0 && key < keys && !fits(own, shared_weight)) atomicAdd(&facts.outliers, 1);
    __syncthreads();
    return facts.outliers <= kOutlierSlots ? TileKind::kOutliers : TileKind::kColumns;
}

/** Keys into slots by magnitude, outliers last. Magnitudes alike but for their last seven bits count as alike; the earlier key comes first. */
__device__ __forceinline__ void sort_into_slots(TileFacts& facts, int keys, TileKind kind, float shared_weight) {
    const int key = threadIdx.x / 2, half = threadIdx.x % 2;
    const bool outlier = kind == TileKind::kOutliers && key < keys && !fits(facts.weight[key], shared_weight);
    const uint32_t own = (__float_as_uint(facts.magnitude[key]) & ~127u) | static_cast<uint32_t>(key) | (outlier ? 1u << 31 : 0u);
    if (half == 0) facts.rank[key] = own;
    __syncthreads();
    int before = 0;
#pragma unroll 8
    for (int i = 0; i < kTileKeys / 8; ++i) {
        const uint4 others = reinterpret_cast<const uint4*>(facts.rank)[2 * i + half];
        before += (others.x < own) + (others.y < own) + (others.z < own) + (others.w < own);
    }
    before += __shfl_xor_sync(~0u, before, 1);
    if (half == 0) facts.slot[key] = before, facts.key[before] = key;
    __syncthreads();
}

/** Scales of the slots' eighths; without half values the low slots share one, and so do the high ones. All threads call it. */
template <bool kHalf> __device__ __forceinline__ void find_part_scales(TileFacts& facts) {
    const int part = threadIdx.x / 32, lane = threadIdx.x % 32;  // a warp an eighth
    const auto scale = [](uint32_t most) { return fmaxf(__uint_as_float(most) / 127.f, kMinScale); };
    uint32_t bits = 0;
    if constexpr (kHalf) {
        bits = __float_as_uint(facts.magnitude[facts.key[part * kEighthSlots + lane % kEighthSlots]]);
    } else {
        const bool low = part < kLowSlots / kEighthSlots;
        for (int slot = (low ? 0 : kLowSlots) + lane; slot < (low ? kLowSlots : kTileKeys); slot += 32) bits = max(bits, __float_as_uint(facts.magnitude[facts.key[slot]]));
    }
    bits = __reduce_max_sync(~0u, bits);
    if (lane == 0) facts.part_scale[part] = scale(bits), facts.part_step[part] = 1.f / scale(bits);
    __syncthreads();
}
static_assert(kTileKeys / kEighthSlots == kWarps && kLowSlots % kEighthSlots == 0, "a warp an eighth");

/** Where the caller's rows fit into shared memory twice over they are kept there, else read again. */
template <class P> constexpr bool kKept = 2 * kTileKeys * RowLanes<P>::kRowBytes <= 128 * 1024;
template <class P, bool kHalf> constexpr int kDynamicBytes = kKept<P> ? 2 * kTileKeys * RowLanes<P>::kRowBytes : kTileKeys * RowLanes<P>::kRowBytes;

template <class P, bool kHalf> __device__ __forceinline__ void encode_tile(const Job& job, const HeadPlace& at, int64_t head, int tile_index, uint8_t* memory) {
    constexpr int kD = P::kD;
    using Lanes = RowLanes<P>;
    __shared__ TileFacts facts;
    const QuantizeRequest& request = job.request;
    const Operand &key = request.key, &value = request.value;
    const Sm90Sequence& sequence = at.sequence;
    const int thread = threadIdx.x, keys = min(kTileKeys, sequence.k_len - tile_index * kTileKeys);
    const int64_t first_row = sequence.k_start + int64_t{tile_index} * kTileKeys;
    const int64_t key_at = row_offset(key, at.batch, at.head, first_row), value_at = row_offset(value, at.batch, at.head, first_row);
    uint8_t *key_rows = memory, *value_rows = memory + kTileKeys * Lanes::kRowBytes;
    if (kKept<P> && keys > 0) {
        fetch_rows<P>(key_rows, key, key_at, keys);
        fetch_rows<P>(value_rows, value, value_at, keys);
    }
    commit_copies();
    if (request.statistics.means != nullptr) wait_until(Progress(job, head).means_ready, 1);
    if (!kHalf) wait_until(Progress(job, head).value_tiles, sequence.tiles);
    if (thread < kD) {
        float c = !kHalf && thread < value.dim ? __ldcg(request.statistics.maxima + head * kD + thread) : 0.f;
        c = c > 0.f ? fmaxf(c, kMinScale) : 1.f;
        facts.divisor[thread] = 1.f / c;
        facts.mean[thread] = request.statistics.means != nullptr ? __ldcg(request.statistics.means + head * kD + thread) : 0.f;
        if (tile_index == 0) job.channel_scale[head * kD + thread] = kHalf ? 1.f : c / 127.f;  // even of an empty sequence
    }
    if (thread == 0) facts.best = 0, facts.outliers = 0;
    if (tile_index >= sequence.tiles) return;
    wait_for_copies<0>();
    __syncthreads();

    uint8_t* tile = job.tiles + (sequence.tile_base + static_cast<int64_t>(at.head) * sequence.tiles + tile_index) * sm90_tile_bytes(kD, kHalf);
    const Lanes lanes;
    const auto piece = [&](const Operand& operand, const uint8_t* rows, int64_t from, int row, int channel) -> uint4 {
        if constexpr (kKept<P>) return *reinterpret_cast<const uint4*>(rows + row * Lanes::kRowBytes + channel * (P::kWide ? 4 : 2));
        return row < keys && channel < operand.dim ? load_piece<P::kWide>(operand, from + row * operand.strides.token + channel, aligned_rows(operand)) : make_uint4(0, 0, 0, 0);
    };
    const auto smooth = [&](float(&x)[P::kPiece], int channel) {
#pragma unroll
        for (int e = 0; e < P::kPiece; ++e) x[e] -= facts.mean[channel + e];
    };

#pragma unroll 2
    for (int round = 0; round < Lanes::kRounds; ++round) {
        const int row = lanes.row(round);
        uint32_t largest = 0, raw_largest = 0;  // as bits: NaN above all
        float weight = kMinWeight;
        bool large_half = false;
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const int channel = lanes.channel(part);
            float x[P::kPiece];
            widen<P>(x, piece(key, key_rows, key_at, row, channel), key.type);
#pragma unroll
            for (int e = 0; e < P::kPiece; ++e) raw_largest = max(raw_largest, __float_as_uint(fabsf(x[e])));
            smooth(x, channel);
#pragma unroll
            for (int e = 0; e < P::kPiece; ++e) largest = max(largest, __float_as_uint(fabsf(x[e])));
            widen<P>(x, piece(value, value_rows, value_at, row, channel), value.type);
            if constexpr (kHalf) {
                large_half |= !all_within(x, kLargestFloat16);
                if (large_half) report(x, kLargestFloat16, &request.findings->bad_value, &request.findings->large_value);
            } else {
#pragma unroll
                for (int e = 0; e < P::kPiece; ++e) weight = fmaxf(weight, fabsf(x[e]) * facts.divisor[channel + e]);
            }
        }
        if (!(__uint_as_float(raw_largest) <= kLargestOperand)) {
            if (raw_largest < 0x7f800000u) atomicMax(&request.findings->large_key, raw_largest);
            else atomicOr(&request.findings->bad_key, 1u);
        }
        largest = min(largest, 0x7f7fffffu);  // the answer is refused then, but every slot must get a key
#pragma unroll
        for (int step = 1; step < Lanes::kLanes; step *= 2) largest = max(largest, __shfl_xor_sync(~0u, largest, step));
        if constexpr (!kHalf) weight = row_max<Lanes::kLanes>(weight);
        if (lanes.lane == 0) {
            const bool present = row < keys;
            facts.magnitude[row] = present ? __uint_as_float(largest) : 0.f;
            facts.weight[row] = kHalf ? 1.f : present ? fminf(weight, FLT_MAX) : 0.f;
        }
    }
    __syncthreads();

    float shared_weight = 1.f;
    const TileKind kind = kHalf ? TileKind::kPlain : classify(facts, keys, shared_weight);
    sort_into_slots(facts, keys, kind, shared_weight);
    const bool own_scale = kind == TileKind::kColumns;
    find_part_scales<kHalf>(facts);
    const auto scale_of = [&](int row, int slot) { return own_scale ? fmaxf(facts.magnitude[row] / 127.f, kMinScale) : facts.part_scale[slot / kEighthSlots]; };
    const auto weight_of = [&](int row) { return kHalf ? 1.f : own_scale || !fits(facts.weight[row], shared_weight) ? facts.weight[row] : shared_weight; };
    if (thread < kTileKeys) facts.value_step[thread] = facts.key[thread] < keys ? 127.f / weight_of(facts.key[thread]) : 0.f;

#pragma unroll 2
    for (int round = 0; round < Lanes::kRounds; ++round) {
        const int row = lanes.row(round), slot = facts.slot[row];
        float step = own_scale ? 1.f / scale_of(row, slot) : facts.part_step[slot / kEighthSlots];
        if (row >= keys) step = 0.f;  // codes of absent keys are zeros, with or without a mean
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const int channel = lanes.channel(part);
            float x[P::kPiece];
            widen<P>(x, piece(key, key_rows, key_at, row, channel), key.type);
            smooth(x, channel);
            PieceCodes<P> codes;
#pragma unroll
            for (int w = 0; w < P::kPiece / 4; ++w)
                codes.words[w] = pack_codes(rounded_bits(x[4 * w] * step), rounded_bits(x[4 * w + 1] * step), rounded_bits(x[4 * w + 2] * step), rounded_bits(x[4 * w + 3] * step));
            codes.store(tile + panel_offset(slot, channel, kTileKeys, kD));
        }
    }
    __syncthreads();

    // V's part of the image, in place of K's rows: two channels a thread, 16 slots at a time; then out in whole lines.
    const auto value_pair = [&](int row, int channel) -> float2 {
        if constexpr (kKept<P>) return pair_at<P>(value_rows, row, channel, value.type);
        if (row >= keys || channel >= value.dim) return make_float2(0.f, 0.f);
        const int64_t from = value_at + row * value.strides.token + channel;
        return make_float2(load_one(value, from), load_one(value, from + 1));
    };
    for (int item = thread; item < kD / 2 * (kTileKeys / 16); item += kThreads) {
        const int channel = item % (kD / 2) * 2, group = item / (kD / 2);
        const int4* group_keys = reinterpret_cast<const int4*>(facts.key + group * 16);
        int row[16];
#pragma unroll
        for (int i = 0; i < 4; ++i) row[4 * i] = group_keys[i].x, row[4 * i + 1] = group_keys[i].y, row[4 * i + 2] = group_keys[i].z, row[4 * i + 3] = group_keys[i].w;
        if constexpr (kHalf) {
            uint32_t words[2][8];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const float2 a = value_pair(row[2 * i], channel), b = value_pair(row[2 * i + 1], channel);
                const __half2 low = __floats2half2_rn(a.x, b.x), high = __floats2half2_rn(a.y, b.y);
                words[0][i] = *reinterpret_cast<const uint32_t*>(&low), words[1][i] = *reinterpret_cast<const uint32_t*>(&high);
            }
#pragma unroll
            for (int c = 0; c < 2; ++c)
#pragma unroll
                for (int i = 0; i < 8; i += 4)
                    *reinterpret_cast<uint4*>(memory + panel_offset(channel + c, 2 * (group * 16 + 2 * i), kD, 2 * kTileKeys)) =
                        make_uint4(words[c][i], words[c][i + 1], words[c][i + 2], words[c][i + 3]);
        } else {
            const float2 divisor = *reinterpret_cast<const float2*>(facts.divisor + channel);
            uint32_t words[2][4];
#pragma unroll
            for (int w = 0; w < 4; ++w) {  // the slots at positions 4w .. 4w + 3
                uint32_t bits[2][4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int slot = 2 * w + (i & 1) + 8 * (i >> 1);
                    const float2 v = value_pair(row[slot], channel);
                    const float step = facts.value_step[group * 16 + slot];
                    bits[0][i] = rounded_bits(v.x * divisor.x * step), bits[1][i] = rounded_bits(v.y * divisor.y * step);
                }
#pragma unroll
                for (int c = 0; c < 2; ++c) words[c][w] = pack_codes(bits[c][0], bits[c][1], bits[c][2], bits[c][3]) ^ 0x80808080u;  // + 128
            }
#pragma unroll
            for (int c = 0; c < 2; ++c) *reinterpret_cast<uint4*>(memory + panel_offset(channel + c, group * 16, kD, kTileKeys)) = make_uint4(words[c][0], words[c][1], words[c][2], words[c][3]);
        }
    }
    __syncthreads();
#pragma unroll 4
    for (int offset = thread * 16; offset < sm90_value_bytes(kD, kHalf); offset += kThreads * 16)
        *reinterpret_cast<uint4*>(tile + kTileKeys * kD + offset) = *reinterpret_cast<const uint4*>(memory + offset);

    uint8_t* meta = tile + sm90_columns_offset(kD, kHalf);
    if (thread < kTileKeys) {
        const int row = facts.key[thread], position = slot_position(thread);
        float* columns = reinterpret_cast<float*>(meta) + position;
        const bool present = row < keys;
        const float weight = present ? weight_of(row) : 1.f;
        columns[0] = scale_of(row, thread);
        columns[kTileKeys] = log2f(weight);
        columns[2 * kTileKeys] = present ? 1.f / weight : 0.f;
        meta[3 * kTileKeys * 4 + position] = static_cast<uint8_t>(row);
    } else if (thread == kTileKeys) {
        if constexpr (kHalf) {
            float4* header = reinterpret_cast<float4*>(meta + kColumnBytes);
            header[0] = reinterpret_cast<const float4*>(facts.part_scale)[0];
            header[1] = reinterpret_cast<const float4*>(facts.part_scale)[1];
        } else {
            TileHeader header{};
            header.k_scale[0] = facts.part_scale[0], header.k_scale[1] = facts.part_scale[7];
            header.tau = log2f(shared_weight);
            header.inverse_weight = 1.f / shared_weight;
            header.kind = static_cast<int32_t>(kind);
            *reinterpret_cast<TileHeader*>(meta + kColumnBytes) = header;
        }
        float largest = 0.f;
        for (int part = 0; part < 8; ++part) largest = fmaxf(largest, facts.part_scale[part]);
        atomicMax(request.head_maxima.key + head, __float_as_uint(largest));
    }
}

/** One image or one tile's statistics a block, in the order that §1 tells. */
template <class P, bool kHalf> __global__ void __launch_bounds__(kThreads, 3) quantize_all(const __grid_constant__ Job job) {
    extern __shared__ __align__(128) uint8_t memory[];
    const int gathering = job.gather_key + job.gather_value, encoding = job.encode_tiles + job.encode_queries;
    const int step = blockIdx.x / (gathering + encoding), within = blockIdx.x - step * (gathering + encoding);
    if (within < gathering) {
        if (step >= job.heads) return;
        const HeadPlace at(job, step);
        if (within < job.gather_key) gather_key<P>(job, at, step, within, memory);
        else gather_value<P>(job, at, step, within - job.gather_key, memory);
        return;
    }
    const int head = step - job.lag, item = within - gathering;
    if (head < 0) return;
    const HeadPlace at(job, head);
    if (item < job.encode_tiles) {
        if (item == 0 || item < at.sequence.tiles) encode_tile<P, kHalf>(job, at, head, item, memory);
        return;
    }
    const int group = job.request.query.heads / job.request.key.heads, chunks = job.encode_queries / group, query = item - job.encode_tiles;
    encode_queries<P>(job, at, at.head * group + query / chunks, query % chunks);
}

template <class P, bool kHalf> cudaError_t launch_all(Job job, cudaStream_t stream) {
    constexpr int bytes = kDynamicBytes<P, kHalf>;
    if (const cudaError_t status = cudaFuncSetAttribute(quantize_all<P, kHalf>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return status;
    const int64_t per_head = int64_t{job.gather_key} + job.gather_value + job.encode_tiles + job.encode_queries;
    job.lag = job.gather_key + job.gather_value == 0 ? 0 : static_cast<int32_t>(std::min<int64_t>(job.heads, (kBlocksAhead + per_head - 1) / per_head));
    const int64_t blocks = per_head * (job.heads + job.lag);
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    quantize_all<P, kHalf><<<static_cast<unsigned>(blocks), kThreads, bytes, stream>>>(job);
    return cudaGetLastError();
}

}  // namespace

cudaError_t launch_sm90_quantize(const QuantizeRequest& request, const Sm90Table& table, const Sm90Images& images, cudaStream_t stream) {
    const int tiles = std::max(table.max_tiles, 1), chunks = (table.max_q_blocks * kQueryBlock + kTileKeys - 1) / kTileKeys;
    const Job job{request, table, images.query_codes, images.query_scales, images.tiles, images.channel_scale, table.count * request.key.heads,
                  request.statistics.means != nullptr ? tiles : 0, request.mode == ValueMode::kHalf ? 0 : table.max_tiles, tiles, request.query.heads / request.key.heads * chunks, 0};
    if (job.heads == 0) return cudaSuccess;
    cudaError_t status = cudaSuccess;
    const cudaError_t launched = with_pieces(request.padded, request.key.type == ElementType::kFloat32, [&](auto pieces) {
        using P = decltype(pieces);
        status = request.mode == ValueMode::kHalf ? launch_all<P, true>(job, stream) : launch_all<P, false>(job, stream);
    });
    return status != cudaSuccess ? status : launched;
}

}  // namespace intflash
