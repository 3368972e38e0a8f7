// Q·Kᵀ of four rows and a whole tile, and the exponents of its sums. Making those keeps other units busy than the dot products do: so the
// first 64 keys' exponents are made beside the first products of the others, a row at a time. In assembler: compilers move the parts
// together again, and spill.
#pragma once
#include <immintrin.h>

#include "../../arithmetic.h"

namespace int_flash {
namespace {

// zmm0-15 sums, a row's four after one another; zmm16-19 and zmm21-24 keys of even and odd steps; zmm20 words of one row; zmm25 a row's scale.
#define INT_FLASH_KEYS(k0, k1, k2, k3, at)       \
    "vmovdqu64 " at "(%[keys]), " k0 "\n\t"      \
    "vmovdqu64 64+" at "(%[keys]), " k1 "\n\t"   \
    "vmovdqu64 128+" at "(%[keys]), " k2 "\n\t"  \
    "vmovdqu64 192+" at "(%[keys]), " k3 "\n\t"
#define INT_FLASH_DOTS(word, k0, k1, k2, k3, c0, c1, c2, c3)  \
    "vpbroadcastd " word ", %%zmm20\n\t"                      \
    "vpdpbusd %%zmm20, " k0 ", " c0 "\n\t"                    \
    "vpdpbusd %%zmm20, " k1 ", " c1 "\n\t"                    \
    "vpdpbusd %%zmm20, " k2 ", " c2 "\n\t"                    \
    "vpdpbusd %%zmm20, " k3 ", " c3 "\n\t"
#define INT_FLASH_EVEN_KEYS "%%zmm16", "%%zmm17", "%%zmm18", "%%zmm19"
#define INT_FLASH_ODD_KEYS "%%zmm21", "%%zmm22", "%%zmm23", "%%zmm24"
#define INT_FLASH_SUMS0 "%%zmm0", "%%zmm1", "%%zmm2", "%%zmm3"
#define INT_FLASH_SUMS1 "%%zmm4", "%%zmm5", "%%zmm6", "%%zmm7"
#define INT_FLASH_SUMS2 "%%zmm8", "%%zmm9", "%%zmm10", "%%zmm11"
#define INT_FLASH_SUMS3 "%%zmm12", "%%zmm13", "%%zmm14", "%%zmm15"
#define INT_FLASH_WORD0(at) at "(%[query])"
#define INT_FLASH_WORD1(at) at "(%[query],%[pitch])"
#define INT_FLASH_WORD2(at) at "(%[query],%[pitch],2)"
#define INT_FLASH_WORD3(at) at "(%[last])"
#define INT_FLASH_DOTS_OF(...) INT_FLASH_DOTS(__VA_ARGS__)
#define INT_FLASH_KEYS_OF(...) INT_FLASH_KEYS(__VA_ARGS__)
// Two steps of all rows.
#define INT_FLASH_TWO_STEPS                                                        \
    INT_FLASH_KEYS_OF(INT_FLASH_EVEN_KEYS, "0")                                    \
    INT_FLASH_DOTS_OF(INT_FLASH_WORD0("0"), INT_FLASH_EVEN_KEYS, INT_FLASH_SUMS0)  \
    INT_FLASH_DOTS_OF(INT_FLASH_WORD1("0"), INT_FLASH_EVEN_KEYS, INT_FLASH_SUMS1)  \
    INT_FLASH_DOTS_OF(INT_FLASH_WORD2("0"), INT_FLASH_EVEN_KEYS, INT_FLASH_SUMS2)  \
    INT_FLASH_DOTS_OF(INT_FLASH_WORD3("0"), INT_FLASH_EVEN_KEYS, INT_FLASH_SUMS3)  \
    INT_FLASH_KEYS_OF(INT_FLASH_ODD_KEYS, "256")                                   \
    INT_FLASH_DOTS_OF(INT_FLASH_WORD0("4"), INT_FLASH_ODD_KEYS, INT_FLASH_SUMS0)   \
    INT_FLASH_DOTS_OF(INT_FLASH_WORD1("4"), INT_FLASH_ODD_KEYS, INT_FLASH_SUMS1)   \
    INT_FLASH_DOTS_OF(INT_FLASH_WORD2("4"), INT_FLASH_ODD_KEYS, INT_FLASH_SUMS2)   \
    INT_FLASH_DOTS_OF(INT_FLASH_WORD3("4"), INT_FLASH_ODD_KEYS, INT_FLASH_SUMS3)   \
    "add $512, %[keys]\n\t"                                                        \
    "add $8, %[query]\n\t"                                                         \
    "add $8, %[last]\n\t"
#define INT_FLASH_START(start, c0, c1, c2, c3)      \
    "vpbroadcastd " start "(%[start]), " c0 "\n\t"  \
    "vmovdqa64 " c0 ", " c1 "\n\t"                  \
    "vmovdqa64 " c0 ", " c2 "\n\t"                  \
    "vmovdqa64 " c0 ", " c3 "\n\t"
#define INT_FLASH_START_OF(...) INT_FLASH_START(__VA_ARGS__)
#define INT_FLASH_EXPONENT(c, at, x, top)             \
    "vmulps " at "(%[scale]), " c ", " c "\n\t"       \
    "vfmadd213ps " at "(%[tau]), %%zmm25, " c "\n\t"  \
    "vmovups " c ", " x "(%[x])\n\t"                  \
    "vmaxps " c ", " top ", " top "\n\t"
#define INT_FLASH_EXPONENTS(row, c0, c1, c2, c3, x, top)  \
    "vbroadcastss " row "(%[row_scale]), %%zmm25\n\t"     \
    "vcvtdq2ps " c0 ", " c0 "\n\t"                        \
    "vcvtdq2ps " c1 ", " c1 "\n\t"                        \
    "vcvtdq2ps " c2 ", " c2 "\n\t"                        \
    "vcvtdq2ps " c3 ", " c3 "\n\t"                        \
    INT_FLASH_EXPONENT(c0, "0", x, top)                   \
    INT_FLASH_EXPONENT(c1, "64", "64+" x, top)            \
    INT_FLASH_EXPONENT(c2, "128", "128+" x, top)          \
    INT_FLASH_EXPONENT(c3, "192", "192+" x, top)
#define INT_FLASH_EXPONENTS_OF(...) INT_FLASH_EXPONENTS(__VA_ARGS__)
#define INT_FLASH_NEXT_HALF(row, sums, word, x, top)         \
    INT_FLASH_EXPONENTS_OF(row, sums, x, top)                \
    INT_FLASH_START_OF(row, sums)                            \
    INT_FLASH_DOTS_OF(word("0"), INT_FLASH_EVEN_KEYS, sums)  \
    INT_FLASH_DOTS_OF(word("4"), INT_FLASH_ODD_KEYS, sums)

struct Avx512Exponents {
    // keys: two blocks of [words][64]; query: four rows of `words` words, an even number of at least 4. Writes four rows of 128 exponents to x,
    // and to `top` the largest of each row's lanes.
    INT_FLASH_INLINE void exponents_of_whole(const uint32_t* keys, const uint32_t* query, int words, const int32_t* start, const float* row_scale,
                                             const float* key_scale, const float* tau, float* x, __m512* top) {
        const ptrdiff_t pitch = words * static_cast<ptrdiff_t>(sizeof *query);
        const uint32_t* last = query + 3 * words;
        int64_t rounds = words / 2;
        const int64_t later = words / 2 - 1;
        __m512 t0 = _mm512_set1_ps(-__builtin_inff()), t1 = t0, t2 = t0, t3 = t0;
        __asm__ volatile(
            INT_FLASH_START_OF("0", INT_FLASH_SUMS0)
            INT_FLASH_START_OF("4", INT_FLASH_SUMS1)
            INT_FLASH_START_OF("8", INT_FLASH_SUMS2)
            INT_FLASH_START_OF("12", INT_FLASH_SUMS3)
            ".p2align 5\n"
            "1:\n\t"
            INT_FLASH_TWO_STEPS
            "dec %[rounds]\n\t"
            "jnz 1b\n\t"
            "sub %[pitch], %[query]\n\t"
            "sub %[pitch], %[last]\n\t"
            INT_FLASH_KEYS_OF(INT_FLASH_EVEN_KEYS, "0")
            INT_FLASH_KEYS_OF(INT_FLASH_ODD_KEYS, "256")
            INT_FLASH_NEXT_HALF("0", INT_FLASH_SUMS0, INT_FLASH_WORD0, "0", "%[t0]")
            INT_FLASH_NEXT_HALF("4", INT_FLASH_SUMS1, INT_FLASH_WORD1, "512", "%[t1]")
            INT_FLASH_NEXT_HALF("8", INT_FLASH_SUMS2, INT_FLASH_WORD2, "1024", "%[t2]")
            INT_FLASH_NEXT_HALF("12", INT_FLASH_SUMS3, INT_FLASH_WORD3, "1536", "%[t3]")
            "add $512, %[keys]\n\t"
            "add $8, %[query]\n\t"
            "add $8, %[last]\n\t"
            "add $256, %[x]\n\t"
            "add $256, %[scale]\n\t"
            "add $256, %[tau]\n\t"
            "mov %[later], %[rounds]\n\t"
            ".p2align 5\n"
            "2:\n\t"
            INT_FLASH_TWO_STEPS
            "dec %[rounds]\n\t"
            "jnz 2b\n\t"
            INT_FLASH_EXPONENTS_OF("0", INT_FLASH_SUMS0, "0", "%[t0]")
            INT_FLASH_EXPONENTS_OF("4", INT_FLASH_SUMS1, "512", "%[t1]")
            INT_FLASH_EXPONENTS_OF("8", INT_FLASH_SUMS2, "1024", "%[t2]")
            INT_FLASH_EXPONENTS_OF("12", INT_FLASH_SUMS3, "1536", "%[t3]")
            : [t0] "+&v"(t0), [t1] "+&v"(t1), [t2] "+&v"(t2), [t3] "+&v"(t3), [keys] "+&r"(keys), [query] "+&r"(query), [last] "+&r"(last),
              [rounds] "+&r"(rounds), [x] "+&r"(x), [scale] "+&r"(key_scale), [tau] "+&r"(tau)
            : [pitch] "r"(pitch), [start] "r"(start), [row_scale] "r"(row_scale), [later] "rm"(later)
            : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
              "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25");
        top[0] = t0, top[1] = t1, top[2] = t2, top[3] = t3;
    }
};

}  // namespace
}  // namespace int_flash
