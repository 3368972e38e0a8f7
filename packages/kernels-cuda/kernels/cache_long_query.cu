// See cache_attention.h. A block owns 64 query rows of one KV head, a warp 16 of them, and walks the visible tiles of 128 keys in order, on
// tensor cores (mma.sync); a row's state stays in the registers of the four lanes that share it (ptx/mma.cuh).
//   §1 shared memory and loads     §3 P·V and the running state
//   §2 scores to weights           §4 kernel and launch
#include <cuda_runtime.h>

#include "byte_transpose.cuh"
#include "cache_attention.h"
#include "exact_math.cuh"
#include "int4_codes.cuh"
#include "ptx/copy_async.cuh"
#include "ptx/mma.cuh"

namespace intflash {
namespace {

// ── §1 ──
constexpr int kWarps = 4, kThreads = kWarps * 32, kBlockRows = kWarps * 16;
constexpr int kScoreTiles = kCacheTile / 8;

template <int kD> struct alignas(16) Shared {
    static constexpr int kKeyStride = kD + 16, kTileStride = kCacheTile + 16;  // odd numbers of 16-byte chunks: see ldmatrix_x4
    uint8_t keys[kCacheTile * kKeyStride];
    uint8_t values[kD * kTileStride];  // transposed: a row is a channel
    uint8_t codes[kBlockRows * kTileStride];
    float key_scales[kCacheTile], taus[kCacheTile], inverses[kCacheTile];
};

template <int kD, bool kInt4> __device__ __forceinline__ void load_tile(const CacheView& cache, int tile, int length, Shared<kD>& shared) {
    constexpr int kRow = code_bytes(kD, kInt4), kChunks = kRow / 16, kPages = kCacheTile / kPageTokens;
    uint8_t* images[kPages];
    bool inside[kPages];
#pragma unroll
    for (int i = 0; i < kPages; ++i) {
        inside[i] = (tile * kPages + i) * kPageTokens < length;
        images[i] = cache.image(inside[i] ? tile * kPages + i : 0, blockIdx.y);
    }
    for (int item = threadIdx.x; item < kCacheTile * kChunks; item += kThreads) {
        const int row = item / kChunks, chunk = item % kChunks, page = row / kPageTokens;
        const uint8_t* from = key_row(images[page], row % kPageTokens, kRow) + chunk * 16;
        uint8_t* to = shared.keys + row * Shared<kD>::kKeyStride + chunk * (kInt4 ? 32 : 16);
        if constexpr (kInt4) {
            const uint4 packed = inside[page] ? *reinterpret_cast<const uint4*>(from) : uint4{};
            const uint2 a = unpack_int4(packed.x), b = unpack_int4(packed.y), c = unpack_int4(packed.z), d = unpack_int4(packed.w);
            reinterpret_cast<uint4*>(to)[0] = make_uint4(a.x, a.y, b.x, b.y);
            reinterpret_cast<uint4*>(to)[1] = make_uint4(c.x, c.y, d.x, d.y);
        } else {
            copy_async_16(shared_address_of(to), from, inside[page]);
        }
    }
    commit_copies();
    // Four keys by four channels a step. Eight neighbouring threads take eight words of one row: a whole sector.
    for (int item = threadIdx.x; item < kCacheTile / 4 * kD / 4; item += kThreads) {
        const int column = item % 8 + item / (8 * (kCacheTile / 4)) * 8, quad = item / 8 % (kCacheTile / 4), page = quad * 4 / kPageTokens;
        uint32_t w[4] = {}, t[4];
        if (inside[page]) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint8_t* from = value_row(images[page], quad * 4 % kPageTokens + i, kRow);
                w[i] = kInt4 ? unpack_int4(*reinterpret_cast<const uint16_t*>(from + column * 2)).x : *reinterpret_cast<const uint32_t*>(from + column * 4);
            }
        }
        transpose_bytes(w, t);
#pragma unroll
        for (int i = 0; i < 4; ++i) *reinterpret_cast<uint32_t*>(shared.values + (column * 4 + i) * Shared<kD>::kTileStride + quad * 4) = t[i];
    }
    for (int j = threadIdx.x; j < kCacheTile; j += kThreads) {
        const bool there = tile * kCacheTile + j < length;
        uint8_t* image = images[j / kPageTokens];
        shared.key_scales[j] = there ? key_scales(image, kRow)[j % kPageTokens] : 0.f;
        shared.taus[j] = there ? value_taus(image, kRow)[j % kPageTokens] : 0.f;
        shared.inverses[j] = there ? value_inverses(image, kRow)[j % kPageTokens] : 0.f;
    }
    wait_for_copies<0>();
    __syncthreads();
}

/** One of the two query rows that a lane shares: element index / 2 of an accumulator. */
struct Row {
    int begin, end;  // visible keys
    float q_scale, factor;  // factor: f32(f32(sQ · scale) · log2 e)
    float m, l;
};

__device__ __forceinline__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
    return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}

// ── §2 ──
template <int kD> __device__ __forceinline__ void score_keys(const Shared<kD>& shared, const uint32_t (&q)[kD / 32][4], int (&scores)[kScoreTiles][4]) {
    const int lane = threadIdx.x % 32;
    const uint32_t at = shared_address_of(shared.keys) + (lane / 16 * 8 + lane % 8) * Shared<kD>::kKeyStride + lane / 8 % 2 * 16;
#pragma unroll
    for (int t = 0; t < kScoreTiles; t += 2) {
#pragma unroll
        for (int k = 0; k < kD / 32; ++k) {
            uint32_t b[4];  // bytes 0-15 and 16-31 of eight keys, then of the next eight
            ldmatrix_x4(b, at + t * 8 * Shared<kD>::kKeyStride + k * 32);
            if (k == 0) {
                mma_s8_onto(scores[t], q[k], b[0], b[1], 0);
                mma_s8_onto(scores[t + 1], q[k], b[2], b[3], 0);
            } else {
                mma_s8(scores[t], q[k], b[0], b[1]);
                mma_s8(scores[t + 1], q[k], b[2], b[3]);
            }
        }
    }
}

/** Codes of P into shared memory, row sum and maximum into the row's state; returns how output and product are rescaled. */
template <int kD> __device__ __forceinline__ Rescale weigh_row(const CacheAttention& args, Shared<kD>& shared, int (&scores)[kScoreTiles][4], int half, int tile, Row& row) {
    const int lane = threadIdx.x % 32, first = lane % 4 * 2;
    uint8_t* codes = shared.codes + (threadIdx.x / 32 * 16 + half * 8 + lane / 4) * Shared<kD>::kTileStride;
    float top = -INFINITY;
    bool beyond = false;
#pragma unroll
    for (int t = 0; t < kScoreTiles; ++t)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int j = t * 8 + first + i, key = tile * kCacheTile + j;
            const float key_scale = shared.key_scales[j];
            float x = -INFINITY;
            if (key >= row.begin && key < row.end) {
                x = __fmaf_rn(__fmul_rn(__int2float_rn(scores[t][half * 2 + i]), key_scale), row.factor, shared.taus[j]);
                beyond |= !(score_bound(args.head_dim, row.q_scale, key_scale, args.scale) <= 0x1p100f);
            }
            scores[t][half * 2 + i] = __float_as_int(x);
            top = fmaxf(top, x);
        }
    if (beyond) atomicOr(args.findings, kOverflow);
    top = quad_max(top);
    float sums[4] = {};  // keys first, first + 1, first + 8, first + 9 of every 16
#pragma unroll
    for (int t = 0; t < kScoreTiles; ++t) {
        uint32_t pair = 0;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float x = __int_as_float(scores[t][half * 2 + i]);
            const float p = x == -INFINITY ? 0.f : exp2_polynomial(__fsub_rn(x, top));
            sums[t % 2 * 2 + i] = __fmaf_rn(p, shared.inverses[t * 8 + first + i], sums[t % 2 * 2 + i]);
            pair |= weight_code(p) << (8 * i);
        }
        *reinterpret_cast<uint16_t*>(codes + t * 8 + first) = static_cast<uint16_t>(pair);
    }
    // a[l] + a[l + 8] lie in one lane, + 4 two lanes on, + 2 one lane on, + 1 in one lane.
    float low = __fadd_rn(sums[0], sums[2]), high = __fadd_rn(sums[1], sums[3]);
#pragma unroll
    for (int step = 2; step > 0; step /= 2) {
        low = __fadd_rn(low, __shfl_xor_sync(~0u, low, step));
        high = __fadd_rn(high, __shfl_xor_sync(~0u, high, step));
    }
    return absorb(top, __fadd_rn(low, high), row.m, row.l);
}

// ── §3 ──
template <int kD> __device__ __forceinline__ void accumulate_values(const Shared<kD>& shared, const Rescale (&by)[2], float (&out)[kD / 8][4]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    constexpr int kSteps = kCacheTile / 32, kStride = Shared<kD>::kTileStride;
    uint32_t p[kSteps][4];
#pragma unroll
    for (int k = 0; k < kSteps; ++k) ldmatrix_x4(p[k], shared_address_of(shared.codes) + (warp * 16 + lane % 16) * kStride + k * 32 + lane / 16 * 16);
    const uint32_t at = shared_address_of(shared.values) + (lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 16;
#pragma unroll
    for (int n = 0; n < kD / 8; n += 2) {
        int products[2][4];
#pragma unroll
        for (int k = 0; k < kSteps; ++k) {
            uint32_t b[4];
            ldmatrix_x4(b, at + n * 8 * kStride + k * 32);
            if (k == 0) {
                mma_u8_s8_onto(products[0], p[k][0], p[k][1], p[k][2], p[k][3], b[0], b[1], 0);
                mma_u8_s8_onto(products[1], p[k][0], p[k][1], p[k][2], p[k][3], b[2], b[3], 0);
            } else {
                mma_u8_s8(products[0], p[k][0], p[k][1], p[k][2], p[k][3], b[0], b[1]);
                mma_u8_s8(products[1], p[k][0], p[k][1], p[k][2], p[k][3], b[2], b[3]);
            }
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            float& o = out[n + i / 4][i % 4];
            o = __fmaf_rn(__int2float_rn(products[i / 4][i % 4]), by[i % 4 / 2].beta, __fmul_rn(o, by[i % 4 / 2].alpha));
        }
    }
}

// ── §4 ──
template <int kD, bool kInt4> __global__ void __launch_bounds__(kThreads) cache_long_query(const CacheAttention args) {
    extern __shared__ __align__(16) uint8_t memory[];
    Shared<kD>& shared = *reinterpret_cast<Shared<kD>*>(memory);
    const StepSequence& sequence = args.step.sequences[blockIdx.z];
    const CacheView cache = view_of(sequence, args.cache);
    const int start = sequence.start, length = start + sequence.tokens, group = args.heads / args.kv_heads, rows = sequence.tokens * group;
    if (sequence.tokens <= kShortQuery || static_cast<int>(blockIdx.x) * kBlockRows >= rows) return;
    const int lane = threadIdx.x % 32, first_row = blockIdx.x * kBlockRows, warp_row = first_row + threadIdx.x / 32 * 16;
    const int64_t head_rows = static_cast<int64_t>(sequence.first) * args.heads + static_cast<int64_t>(blockIdx.y) * rows;
    Row row[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int i = warp_row + half * 8 + lane / 4, position = start + i / group;
        const bool there = i < rows;
        row[half].begin = args.window_left < 0 ? 0 : static_cast<int>(max(int64_t{0}, position - args.window_left));
        row[half].end = there ? position + 1 : 0;
        row[half].q_scale = there ? args.query.scales[head_rows + i] : 0.f;
        row[half].factor = __fmul_rn(__fmul_rn(row[half].q_scale, args.scale), kLog2E);
        row[half].m = -INFINITY;
        row[half].l = 0.f;
    }
    uint32_t q[kD / 32][4];
#pragma unroll
    for (int k = 0; k < kD / 32; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // rows r and r + 8 of bytes 4c.., then of bytes 16 + 4c..
            const int r = warp_row + i % 2 * 8 + lane / 4;
            q[k][i] = r < rows ? *reinterpret_cast<const uint32_t*>(args.query.codes + (head_rows + r) * kD + k * 32 + i / 2 * 16 + lane % 4 * 4) : 0;
        }
    float out[kD / 8][4] = {};
    const int last_position = start + (min(first_row + kBlockRows, rows) - 1) / group;
    const int64_t first_visible = args.window_left < 0 ? 0 : max(int64_t{0}, start + first_row / group - args.window_left);
    for (int tile = static_cast<int>(first_visible / kCacheTile); tile * kCacheTile <= last_position; ++tile) {
        __syncthreads();  // the tile before has been read
        load_tile<kD, kInt4>(cache, tile, length, shared);
        int scores[kScoreTiles][4];
        score_keys<kD>(shared, q, scores);
        Rescale by[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) by[half] = weigh_row<kD>(args, shared, scores, half, tile, row[half]);
        __syncwarp();  // a warp reads only the codes that it wrote
        accumulate_values<kD>(shared, by, out);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int i = warp_row + half * 8 + lane / 4;
        if (i >= rows) continue;
        const float factor = row[half].m == -INFINITY ? 0.f : __fdiv_rn(1.f / 255.f, row[half].l);
        float* target = args.out + (sequence.first + i / group) * args.out_stride + (blockIdx.y * group + i % group) * args.head_dim;
#pragma unroll
        for (int n = 0; n < kD / 8; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int d = n * 8 + lane % 4 * 2 + e;
                if (d < args.head_dim) target[d] = __fmul_rn(out[n][half * 2 + e], factor);
            }
    }
}

template <int kD, bool kInt4> cudaError_t launch(const CacheAttention& args, cudaStream_t stream) {
    constexpr int kBytes = sizeof(Shared<kD>);
    if constexpr (kBytes > 48 * 1024) {
        const cudaError_t status = cudaFuncSetAttribute(cache_long_query<kD, kInt4>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
        if (status != cudaSuccess) return status;
    }
    const int rows = args.step.most * (args.heads / args.kv_heads);
    cache_long_query<kD, kInt4><<<dim3((rows + kBlockRows - 1) / kBlockRows, args.kv_heads, args.step.count), kThreads, kBytes, stream>>>(args);
    return cudaGetLastError();
}

}  // namespace

cudaError_t launch_long_query(const CacheAttention& args, cudaStream_t stream) {
    const bool int4 = args.cache.int4;
    switch (args.cache.padded) {
        case 64: return int4 ? launch<64, true>(args, stream) : launch<64, false>(args, stream);
        case 128: return int4 ? launch<128, true>(args, stream) : launch<128, false>(args, stream);
        default: return int4 ? launch<256, true>(args, stream) : launch<256, false>(args, stream);
    }
}

}  // namespace intflash
