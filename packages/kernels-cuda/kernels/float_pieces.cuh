// Rows of the caller's floats, 16 bytes a piece. Loading is kept apart from widening so that many loads can be in flight.
#pragma once
#include <cuda_fp16.h>

#include <cfloat>

#include "load_operand.cuh"
#include "quantize.h"
#include "tile_layout.h"

namespace intflash {

/** kWide: float32; else 16-bit floats. */
template <int kD_, bool kWide_> struct Pieces {
    static constexpr int kD = kD_;
    static constexpr bool kWide = kWide_;
    static constexpr int kPiece = kWide ? 4 : 8;  // channels in 16 bytes
};

struct Place {
    Sequence sequence;
    int batch, head;
    int64_t tiles_at;  // first tile of this KV head
};

__device__ __forceinline__ Place place(const SequenceTable& table) {
    Place p;
    p.batch = blockIdx.z;
    p.head = blockIdx.y;
    p.sequence = table.sequences[blockIdx.z];
    p.tiles_at = p.sequence.tile_base + static_cast<int64_t>(p.head) * p.sequence.tiles;
    return p;
}

/** True when every row starts at a multiple of 16 bytes. */
__device__ __forceinline__ bool aligned_rows(const Operand& operand) {
    const int64_t size = operand.type == ElementType::kFloat32 ? 4 : 2;
    const int64_t steps = (operand.strides.batch | operand.strides.head | operand.strides.token) * size;
    return ((reinterpret_cast<int64_t>(operand.data) | steps) & 15) == 0;
}

/** 16 bytes from element `at` on. */
template <bool kWide> __device__ __forceinline__ uint4 load_piece(const Operand& operand, int64_t at, bool aligned) {
    if (aligned) return __ldg(reinterpret_cast<const uint4*>(static_cast<const char*>(operand.data) + at * (kWide ? 4 : 2)));
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (kWide) {
            words[i] = __ldg(static_cast<const uint32_t*>(operand.data) + at + i);
        } else {
            const unsigned short* source = static_cast<const unsigned short*>(operand.data) + at + 2 * i;
            words[i] = __ldg(source) | static_cast<uint32_t>(__ldg(source + 1)) << 16;
        }
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

template <class P> __device__ __forceinline__ void widen(float (&x)[P::kPiece], uint4 raw, ElementType type) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (P::kWide) {
            x[i] = __uint_as_float(words[i]);
        } else if (type == ElementType::kFloat16) {
            const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
            x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
        } else {
            x[2 * i] = __uint_as_float(words[i] << 16), x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
    }
}

template <int kCount> __device__ __forceinline__ bool all_within(const float (&x)[kCount], float largest) {
    bool within = true;
#pragma unroll
    for (int i = 0; i < kCount; ++i) within &= fabsf(x[i]) <= largest;  // false for NaN
    return within;
}

/** Off the fast path: what exactly is wrong with these channels. `large` may be null: then any finite number is right. */
template <int kCount> __device__ __noinline__ void report(const float (&x)[kCount], float largest, uint32_t* bad, uint32_t* large) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
        if (!(fabsf(x[i]) <= FLT_MAX)) atomicOr(bad, 1u);
        else if (large != nullptr && fabsf(x[i]) > largest) atomicMax(large, __float_as_uint(fabsf(x[i])));
    }
}

template <int kCount> __device__ __forceinline__ float magnitude(const float (&x)[kCount]) {
    float largest = 0.f;
#pragma unroll
    for (int i = 0; i < kCount; ++i) largest = fmaxf(largest, fabsf(x[i]));
    return largest;
}

/** Maximum over the `lanes` neighbouring lanes (a power of two) that share a row. */
template <int lanes> __device__ __forceinline__ float row_max(float value) {
#pragma unroll
    for (int step = 1; step < lanes; step *= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

/** Raises *target to the warp's largest value, which is not negative. */
__device__ __forceinline__ void note_max(uint32_t* target, float value) {
    const uint32_t largest = __reduce_max_sync(~0u, __float_as_uint(value));
    if ((threadIdx.x & 31) == 0 && largest > 0) atomicMax(target, largest);
}

inline dim3 grid_of(int64_t blocks, int heads, const SequenceTable& table) {
    return dim3(static_cast<unsigned>(blocks > 0 ? blocks : 1), static_cast<unsigned>(heads), static_cast<unsigned>(table.count));
}

/** Calls run(Pieces) with those of an operand's type and of rows of `padded` codes. @returns what it returns */
template <class F> auto with_pieces(int padded, ElementType type, F run) {
    const bool wide = type == ElementType::kFloat32;
    switch (padded) {
        case 64: return wide ? run(Pieces<64, true>()) : run(Pieces<64, false>());
        case 128: return wide ? run(Pieces<128, true>()) : run(Pieces<128, false>());
        default: return wide ? run(Pieces<256, true>()) : run(Pieces<256, false>());
    }
}

}  // namespace intflash
