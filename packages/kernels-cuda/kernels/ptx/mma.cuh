// Warp-wide tensor-core products (mma.sync) and the shared-memory loads that feed them (ldmatrix). One wrapper an instruction.
//
// Lane l = 4r + c of a warp holds, of a 16x8 accumulator: rows r (elements 0, 1) and r + 8 (2, 3), columns 2c and 2c + 1.
// Of a 16x32 INT8 A operand: bytes 4c..4c+3 of rows r (a0), r + 8 (a1), then bytes 16+4c.. of the same rows (a2, a3).
// Of a 32x8 INT8 B operand: bytes 4c..4c+3 of column r (b0), bytes 16+4c.. (b1).
#pragma once
#include <cstdint>

namespace intflash {

// What differs in operand types alone. `a`: four registers in the order above.
/**
 * Of bytes. `name`: d = a·b + d. `name`_onto: d = a·b + bias in every element, the first product of a chain without filling d before.
 */
#define INTFLASH_BYTE_PRODUCTS(name, types)                                                                                                     \
    __device__ __forceinline__ void name(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {                                       \
        asm("mma.sync.aligned.m16n8k32.row.col.s32." types ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                         \
            : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                                                                    \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                                                    \
    }                                                                                                                                           \
    __device__ __forceinline__ void name##_onto(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int bias) {                      \
        asm("mma.sync.aligned.m16n8k32.row.col.s32." types ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"                     \
            : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])                                                                                    \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(bias));                                                         \
    }
INTFLASH_BYTE_PRODUCTS(mma_s8, "s8.s8")
INTFLASH_BYTE_PRODUCTS(mma_u8_s8, "u8.s8")
INTFLASH_BYTE_PRODUCTS(mma_u8_u8, "u8.u8")
INTFLASH_BYTE_PRODUCTS(mma_s8_u8, "s8.u8")
#undef INTFLASH_BYTE_PRODUCTS

/** d = a·b + c. */
__device__ __forceinline__ void mma_u8_s8_from(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const int (&c)[4]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

/** d = a·b + d in float32. */
#define INTFLASH_FLOAT_PRODUCT(name, types)                                                                                 \
    __device__ __forceinline__ void name(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {                 \
        asm("mma.sync.aligned." types " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                              \
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                                \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                                \
    }
// Of 16-bit floats; the A operand's pairs lie as the bytes above do, two elements a register.
INTFLASH_FLOAT_PRODUCT(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32")
INTFLASH_FLOAT_PRODUCT(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")

// Of FP8 e4m3, laid out as INT8. Hopper has no such instruction: it converts and multiplies in float16.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
constexpr bool kHasFp8 = true;
INTFLASH_FLOAT_PRODUCT(mma_e4m3, "m16n8k32.row.col.f32.e4m3.e4m3.f32")
#else
constexpr bool kHasFp8 = false;  // this wrapper and the next do nothing then; the host never asks
__device__ __forceinline__ void mma_e4m3(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t) {}
#endif
#undef INTFLASH_FLOAT_PRODUCT

/** Four floats to e4m3, round half to even, saturating at 448; `a` in the lowest byte. */
__device__ __forceinline__ uint32_t pack_e4m3(float a, float b, float c, float d) {
#if __CUDA_ARCH__ >= 890
    uint16_t low, high;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
    return low | static_cast<uint32_t>(high) << 16;
#else
    return 0;
#endif
}

/** Four 8x8 matrices of 16-bit elements (8 rows of 16 bytes each); lane l names row l % 8 of matrix l / 8. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&m)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address));
}

__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&m)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address));
}

/** The other way: lane 4r + c of matrix m gives elements 2c and 2c + 1 of its row r. */
__device__ __forceinline__ void stmatrix_x4(uint32_t address, const uint32_t (&m)[4]) {
#if __CUDA_ARCH__ >= 900
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(m[0]), "r"(m[1]), "r"(m[2]), "r"(m[3]) : "memory");
#endif
}

/** An 8x8 matrix of 16-bit elements, rows and columns exchanged; lane 4r + c holds elements 2c and 2c + 1 of row r. */
__device__ __forceinline__ uint32_t transpose_matrix(uint32_t elements) {
    uint32_t turned;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(elements));
    return turned;
}

/** Four bytes of global memory that no kernel writes meanwhile. volatile: never hoisted out of a loop into registers. */
__device__ __forceinline__ uint32_t load_word(const void* address) {
    uint32_t word;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(word) : "l"(address));
    return word;
}

/** 2^x; relative error 2^-22, exact at 0. */
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/** Four floats to u8, round half to even, saturating; `a` in the lowest byte. Two instructions from sm_86 on. */
__device__ __forceinline__ uint32_t pack_u8(float a, float b, float c, float d) {
    uint32_t high, all;
    asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, 0;" : "=r"(high) : "r"(__float2int_rn(d)), "r"(__float2int_rn(c)));
    asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, %3;" : "=r"(all) : "r"(__float2int_rn(b)), "r"(__float2int_rn(a)), "r"(high));
    return all;
}

/** Two floats to float16, round half to even; `a` in the lower half. */
__device__ __forceinline__ uint32_t pack_f16(float a, float b) {
    uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(b), "f"(a));
    return both;
}

/** Two floats to bfloat16, likewise. */
__device__ __forceinline__ uint32_t pack_bf16(float a, float b) {
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(b), "f"(a));
    return both;
}

}  // namespace intflash
