// Reading the caller's float tensors: float32, float16 or bfloat16, any row strides, widened to float32 (exact).
#pragma once
#include <cuda_fp16.h>

#include "operand.h"

namespace intflash {

constexpr int kChunk = 8;  // channels a thread handles at once; head dimensions are multiples of it

__device__ __forceinline__ int64_t row_offset(const Operand& operand, int batch, int head, int64_t row) {
    return batch * operand.strides.batch + head * operand.strides.head + row * operand.strides.token;
}

__device__ __forceinline__ float load_one(const Operand& operand, int64_t at) {
    if (operand.type == ElementType::kFloat32) return __ldg(static_cast<const float*>(operand.data) + at);
    const unsigned short bits = __ldg(static_cast<const unsigned short*>(operand.data) + at);
    return operand.type == ElementType::kFloat16 ? __half2float(__ushort_as_half(bits)) : __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

/** Eight neighbouring channels, widened to float32; 16-byte loads where the address allows. */
__device__ __forceinline__ void load_chunk(float (&x)[kChunk], const Operand& operand, int64_t at) {
    const bool wide = operand.type == ElementType::kFloat32;
    const char* address = static_cast<const char*>(operand.data) + at * (wide ? 4 : 2);
    if (reinterpret_cast<uintptr_t>(address) % 16 != 0) {
#pragma unroll
        for (int i = 0; i < kChunk; ++i) x[i] = load_one(operand, at + i);
        return;
    }
    const uint4 low = __ldg(reinterpret_cast<const uint4*>(address));
    if (wide) {
        const uint4 high = __ldg(reinterpret_cast<const uint4*>(address) + 1);
        const uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int i = 0; i < kChunk; ++i) x[i] = __uint_as_float(words[i]);
        return;
    }
    const uint32_t words[4] = {low.x, low.y, low.z, low.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (operand.type == ElementType::kFloat16) {
            const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
            x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
        } else {
            x[2 * i] = __uint_as_float(words[i] << 16), x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
    }
}

}  // namespace intflash
