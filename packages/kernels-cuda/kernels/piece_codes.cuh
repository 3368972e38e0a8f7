// Codes of 16 bytes of a row of floats, the bits of quant's quantizePerTokenInt8, and the floors of scales and weights.
#pragma once
#include "exact_divide.cuh"
#include "float_pieces.cuh"

namespace intflash {

constexpr float kMinScale = 1.17549435e-38f;  // 2^-126: keeps an all-zero row from 0 / 0
constexpr float kMinWeight = 9.53674316e-7f;  // 2^-20: the smallest value weight of a token

/** f32(largest / levels), at least 2^-126. */
__device__ __forceinline__ float row_scale(float largest, const Divisor& levels) {
    float scale = divide(largest, levels);
    if (!(largest >= 0x1p-80f)) scale = __fdiv_rn(largest, levels.value);  // divide's remainder would not be exact
    return fmaxf(scale, kMinScale);
}

/** Codes of one piece of a row. */
template <class P> struct PieceCodes {
    uint32_t words[P::kPiece / 4];
    __device__ __forceinline__ void store(void* target) const {
        if constexpr (P::kWide) *static_cast<uint32_t*>(target) = words[0];
        else *static_cast<uint2*>(target) = make_uint2(words[0], words[1]);
    }
    /** For what is not read again soon: it is the first to leave L2. */
    __device__ __forceinline__ void store_once(void* target) const {
        if constexpr (P::kWide) __stcs(static_cast<uint32_t*>(target), words[0]);
        else __stcs(static_cast<uint2*>(target), make_uint2(words[0], words[1]));
    }
};

/** One piece of a row in float16. */
template <class P> struct PieceHalves {
    uint32_t words[P::kPiece / 2];
    __device__ __forceinline__ PieceHalves(const uint4& raw, ElementType type) {
        if (!P::kWide && type == ElementType::kFloat16) {
            const uint32_t same[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
            for (int w = 0; w < P::kPiece / 2; ++w) words[w] = same[w];
            return;
        }
        float x[P::kPiece];
        widen<P>(x, raw, type);
#pragma unroll
        for (int w = 0; w < P::kPiece / 2; ++w) {
            const __half2 both = __floats2half2_rn(x[2 * w], x[2 * w + 1]);
            words[w] = *reinterpret_cast<const uint32_t*>(&both);
        }
    }
    __device__ __forceinline__ void store(void* target) const {
        if constexpr (P::kWide) *static_cast<uint2*>(target) = make_uint2(words[0], words[1]);
        else *static_cast<uint4*>(target) = make_uint4(words[0], words[1], words[2], words[3]);
    }
};

/** Four floats within ±127.49 to the nearest codes, ties to even; `a` in the lowest byte. */
__device__ __forceinline__ uint32_t nearest_codes(float a, float b, float c, float d) {
#if __CUDA_ARCH__ >= 860  // two instructions there; sm_80 would convert each float by itself
    uint32_t high, all;
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, 0;" : "=r"(high) : "r"(__float2int_rn(d)), "r"(__float2int_rn(c)));
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(all) : "r"(__float2int_rn(b)), "r"(__float2int_rn(a)), "r"(high));
    return all;
#else
    return pack_codes(rounded_bits(a), rounded_bits(b), rounded_bits(c), rounded_bits(d));
#endif
}

template <class P> __device__ __forceinline__ PieceCodes<P> nearest_piece(const float (&x)[P::kPiece]) {
    PieceCodes<P> codes;
#pragma unroll
    for (int w = 0; w < P::kPiece / 4; ++w) codes.words[w] = nearest_codes(x[4 * w], x[4 * w + 1], x[4 * w + 2], x[4 * w + 3]);
    return codes;
}

/** Scales a lane's two pieces of a row and what divides them, so that quotients and remainders stay normal numbers. */
template <class P> __device__ __forceinline__ void bring_near(float (&x)[2][P::kPiece], float& divisor) {
    if (divisor >= kTinyDivisor && divisor <= 1.f / kTinyDivisor) return;
    const float factor = divisor < kTinyDivisor ? kScaleUp : 1.f / kScaleUp;
    divisor *= factor;
#pragma unroll
    for (int part = 0; part < 2; ++part)
#pragma unroll
        for (int e = 0; e < P::kPiece; ++e) x[part][e] *= factor;
}

/** The nearest codes of x / scale, rounded to float32 in between. */
template <class P> __device__ __forceinline__ void encode_pieces(PieceCodes<P> (&codes)[2], float (&x)[2][P::kPiece], float scale) {
    bring_near<P>(x, scale);
    const Divisor by = divisor(scale);
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
        for (int e = 0; e < P::kPiece; ++e) x[part][e] = divide(x[part][e], by);
        codes[part] = nearest_piece<P>(x[part]);
    }
}

}  // namespace intflash
