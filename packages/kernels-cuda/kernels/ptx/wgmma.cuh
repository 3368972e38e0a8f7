// Warpgroup products of sm_90a (wgmma): asynchronous, B and perhaps A read from shared memory, the accumulator in registers.
// One wrapper an instruction.
//
// Thread (warp w, lane 4r + c) of the four warps holds, of a 64xN accumulator: registers 4j, 4j + 1 = row 16w + r, columns 8j + 2c and the next;
// registers 4j + 2, 4j + 3 = the same columns of row 16w + r + 8.
#pragma once
#include <cstdint>

namespace intflash {

/**
 * A shared-memory operand: rows along its first axis, K along its rows, which are swizzled over 64 or 128 bytes. Positions count units of 16
 * bytes, so a step of 32 bytes along K is + 2. Half of the descriptor is known at compile time; the other half is the position.
 */
template <int row_bytes> struct SharedOperand {
    uint32_t position;
    __device__ __forceinline__ explicit SharedOperand(uint32_t address) : position(((address & 0x3ffff) >> 4) | (1u << 16)) {}
    __device__ __forceinline__ uint64_t at(int units) const {
        constexpr uint32_t kEightRows = 8 * row_bytes / 16, kSwizzle = row_bytes == 128 ? 1u : 2u;
        uint64_t descriptor;
        asm("mov.b64 %0, {%1, %2};" : "=l"(descriptor) : "r"(position + units), "n"(kEightRows | kSwizzle << 30));
        return descriptor;
    }
};

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/** Until every product committed so far is done. */
__device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

/** Until at most the last `pending` groups of products committed so far are not done. */
template <int pending> __device__ __forceinline__ void wgmma_wait_but() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory"); }

/** Keeps the compiler from reading accumulators before the wait above it. */
template <class T, int n> __device__ __forceinline__ void pin(T (&registers)[n]) {
#pragma unroll
    for (int i = 0; i < n; ++i) {
        if constexpr (sizeof(T) == sizeof(float) && static_cast<T>(0.5f) != static_cast<T>(0)) asm volatile("" : "+f"(registers[i])::"memory");
        else asm volatile("" : "+r"(registers[i])::"memory");
    }
}

#define INTFLASH_NAMES_32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define INTFLASH_NAMES_64 INTFLASH_NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define INTFLASH_NAMES_96 INTFLASH_NAMES_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define INTFLASH_NAMES_128 INTFLASH_NAMES_96 ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define INTFLASH_4(c, d, i) c(d[i]), c(d[(i) + 1]), c(d[(i) + 2]), c(d[(i) + 3])
#define INTFLASH_16(c, d, i) INTFLASH_4(c, d, i), INTFLASH_4(c, d, i + 4), INTFLASH_4(c, d, i + 8), INTFLASH_4(c, d, i + 12)
#define INTFLASH_32(c, d) INTFLASH_16(c, d, 0), INTFLASH_16(c, d, 16)
#define INTFLASH_64(c, d) INTFLASH_32(c, d), INTFLASH_16(c, d, 32), INTFLASH_16(c, d, 48)

/** d = a·bᵀ (+ d when `accumulate`): signed codes, 64 x 128 x 32, both operands in shared memory. */
__device__ __forceinline__ void wgmma_s8(int (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" INTFLASH_NAMES_64 "}, %64, %65, p; }"
                 : INTFLASH_64("+r", d)
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

/** The same, 64 x 64 x 32. */
__device__ __forceinline__ void wgmma_s8(int (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" INTFLASH_NAMES_32 "}, %32, %33, p; }"
                 : INTFLASH_32("+r", d)
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
/** The same, 64 x 192 x 32. */
__device__ __forceinline__ void wgmma_s8(int (&d)[96], uint64_t a, uint64_t b, bool accumulate) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %98, 0; wgmma.mma_async.sync.aligned.m64n192k32.s32.s8.s8 {" INTFLASH_NAMES_96 "}, %96, %97, p; }"
                 : INTFLASH_64("+r", d), INTFLASH_16("+r", d, 64), INTFLASH_16("+r", d, 80)
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

/** Unsigned codes on both sides, A in registers, 64 x 64 x 32. */
__device__ __forceinline__ void wgmma_u8_n64(int (&d)[32], const int* a, uint64_t b, bool accumulate) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k32.s32.u8.u8 {" INTFLASH_NAMES_32 "}, {%32,%33,%34,%35}, %36, p; }"
                 : INTFLASH_32("+r", d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

/** float16 on both sides, A in registers, 64 x (N + 8) x 16, onto a float32 accumulator; `last` are the last eight columns. */
__device__ __forceinline__ void wgmma_f16(float (&d)[64], float (&last)[4], const int* a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n136k16.f32.f16.f16 {" INTFLASH_NAMES_64 ",%64,%65,%66,%67}, {%68,%69,%70,%71}, %72, 1, 1, 1, 0;"
                 : INTFLASH_64("+f", d), INTFLASH_4("+f", last, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_f16(float (&d)[32], float (&last)[4], const int* a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n72k16.f32.f16.f16 {" INTFLASH_NAMES_32 ",%32,%33,%34,%35}, {%36,%37,%38,%39}, %40, 1, 1, 1, 0;"
                 : INTFLASH_32("+f", d), INTFLASH_4("+f", last, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
/** The same, 64 x 256 x 16, and 64 x 8 x 16: 264 columns are more than one instruction takes. */
__device__ __forceinline__ void wgmma_f16(float (&d)[128], const int* a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {" INTFLASH_NAMES_128 "}, {%128,%129,%130,%131}, %132, 1, 1, 1, 0;"
                 : INTFLASH_64("+f", d), INTFLASH_16("+f", d, 64), INTFLASH_16("+f", d, 80), INTFLASH_16("+f", d, 96), INTFLASH_16("+f", d, 112)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_f16(float (&d)[4], const int* a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, 1, 1, 1, 0;"
                 : INTFLASH_4("+f", d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef INTFLASH_NAMES_32
#undef INTFLASH_NAMES_64
#undef INTFLASH_NAMES_96
#undef INTFLASH_NAMES_128
#undef INTFLASH_4
#undef INTFLASH_16
#undef INTFLASH_32
#undef INTFLASH_64

/** Gives registers back (producer) or takes them (consumers): every thread of a warpgroup, once, and the counts must fit what the block was launched with. */
template <int count> __device__ __forceinline__ void release_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count)); }
template <int count> __device__ __forceinline__ void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count)); }

}  // namespace intflash
