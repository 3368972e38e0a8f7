// Codes of 16 bytes of a row of floats, the bits of quant's quantizePerTokenInt8, and the floors of scales and weights.
#pragma once
#include "exact_divide.cuh"
#include "float_pieces.cuh"

namespace intflash {

constexpr float kMinScale = 1.17549435e-38f;  // 2^-126: keeps an all-zero row from 0 / 0
constexpr float kMinWeight = 9.53674316e-7f;  // 2^-20: the smallest value weight of a token

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

}  // namespace intflash
