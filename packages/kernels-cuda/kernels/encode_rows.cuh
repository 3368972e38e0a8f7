// A block's rows of floats to per-token INT8 codes, 128 rows at a time: quant's quantizePerTokenInt8, bound by memory. A warp keeps several
// rows in flight, then finds a row's scale over its lanes.
#pragma once
#include <cuda_runtime.h>

#include "exact_divide.cuh"
#include "float_pieces.cuh"

namespace intflash {

constexpr int kEncodeThreads = 256, kEncodeWarps = kEncodeThreads / 32, kWarpRows = kTileKeys / kEncodeWarps;
constexpr float kMinScale = 1.17549435e-38f;  // 2^-126: keeps an all-zero row from 0 / 0
constexpr float kMinWeight = 9.53674316e-7f;  // 2^-20: the smallest value weight of a token

/** Which channels and rows a lane of a warp has. */
template <class P> struct LanePlace {
    int warp, group, channel;  // channel: of the lane's first piece; the next is 128 on
    __device__ __forceinline__ LanePlace() {
        warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
        group = threadIdx.x % 32 / P::kLanes;
        channel = threadIdx.x % P::kLanes * P::kPiece;
    }
    __device__ __forceinline__ int piece_channel(int part) const { return channel + part * P::kLanes * P::kPiece; }
};

/** Codes of one piece of a row. */
template <class P> struct PieceCodes {
    uint32_t words[P::kPiece / 4];
    __device__ __forceinline__ void store(void* target) const {
        if constexpr (P::kWide) *static_cast<uint32_t*>(target) = words[0];
        else *static_cast<uint2*>(target) = make_uint2(words[0], words[1]);
    }
};

template <class P> __device__ __forceinline__ PieceCodes<P> encode_piece(const float (&x)[P::kPiece], const Divisor& scale) {
    PieceCodes<P> codes;
#pragma unroll
    for (int w = 0; w < P::kPiece / 4; ++w)
        codes.words[w] = pack_codes(rounded_bits(divide(x[4 * w], scale)), rounded_bits(divide(x[4 * w + 1], scale)),
                                    rounded_bits(divide(x[4 * w + 2], scale)), rounded_bits(divide(x[4 * w + 3], scale)));
    return codes;
}

/**
 * Per-token codes of 128 rows, from `first` on, with the same mean taken off each. store(row, part, codes) writes a piece's codes,
 * keep(row, scale) is called by a row's first lane. Rows from `length` on count as zeros, if `kPadded`, or are left out.
 */
template <class P, bool kPadded, class Store, class Keep>
__device__ __forceinline__ void encode_rows(const Operand& operand, int batch, int head, int64_t start, int64_t first, int64_t length, float levels, const float* mean,
                                            float limit, uint32_t* bad, uint32_t* large, uint32_t* maximum, Store store, Keep keep) {
    constexpr int kRows = kWarpRows / P::kGroups, kBatch = kRows < 8 / P::kParts ? kRows : 8 / P::kParts;
    const LanePlace<P> lane;
    const bool aligned = aligned_rows(operand);
    const int64_t base = row_offset(operand, batch, head, start);
    float means[P::kParts][P::kPiece];
#pragma unroll
    for (int part = 0; part < P::kParts; ++part)
#pragma unroll
        for (int i = 0; i < P::kPiece; ++i) means[part][i] = mean == nullptr ? 0.f : mean[lane.piece_channel(part) + i];
    float largest_scale = 0.f;
#pragma unroll 1
    for (int from = 0; from < kRows; from += kBatch) {
        uint4 raw[kBatch][P::kParts];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int64_t row = first + lane.warp * kWarpRows + (from + i) * P::kGroups + lane.group;
#pragma unroll
            for (int part = 0; part < P::kParts; ++part) {
                raw[i][part] = make_uint4(0, 0, 0, 0);
                if (row < length && lane.piece_channel(part) < operand.dim)
                    raw[i][part] = load_piece<P::kWide>(operand, base + row * operand.strides.token + lane.piece_channel(part), aligned);
            }
        }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int64_t row = first + lane.warp * kWarpRows + (from + i) * P::kGroups + lane.group;
            float x[P::kParts][P::kPiece], largest = 0.f;
#pragma unroll
            for (int part = 0; part < P::kParts; ++part) {
                widen<P>(x[part], raw[i][part], operand.type);
                if (!all_within(x[part], limit)) report(x[part], limit, bad, large);
                if (row < length) {
#pragma unroll
                    for (int e = 0; e < P::kPiece; ++e) x[part][e] = x[part][e] - means[part][e];
                }
                largest = fmaxf(largest, magnitude(x[part]));
            }
            float scale = fmaxf(__fdiv_rn(row_max<P::kLanes>(largest), levels), kMinScale);
            if (!kPadded && row >= length) continue;  // only after the shuffles
            if (row < length) largest_scale = fmaxf(largest_scale, scale);
            if (lane.channel == 0) keep(row, scale);
            if (scale < kTinyDivisor) {
                scale *= kScaleUp;
#pragma unroll
                for (int part = 0; part < P::kParts; ++part)
#pragma unroll
                    for (int e = 0; e < P::kPiece; ++e) x[part][e] *= kScaleUp;
            }
            const Divisor by = divisor(scale);
#pragma unroll
            for (int part = 0; part < P::kParts; ++part) store(row, lane.piece_channel(part), encode_piece<P>(x[part], by));
        }
    }
    note_max(maximum, largest_scale);
}

}  // namespace intflash
