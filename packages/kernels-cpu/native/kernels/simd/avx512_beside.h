// P·V of four rows and the softmax of the next four, in one loop. The products keep two vector units busy and leave the others idle, but a
// weight is a chain of a dozen operations, longer than the CPU looks ahead: so the chain is cut in four, and beside each step of products
// stand four parts of the weights of four steps. What ends one loop and begins the next stands beside products too, a row at a time: else
// the CPU, which looks about a hundred operations ahead, would find none. In assembler: compilers move the parts together again, and spill.
#pragma once
#include <immintrin.h>
#include <stddef.h>

#include "../../arithmetic.h"

namespace int_flash {
namespace {

// zmm16-19 values, zmm20 weights of one row, zmm21/22 and zmm23/24 an exponential's shifted argument and fraction (even and odd steps),
// zmm25 its polynomial, zmm26 a weight, zmm27 the row's sum, zmm28 x - top, zmm29-31 the magic number, the lowest exponent, the levels.
#define INT_FLASH_ROW(word, c0, c1, c2, c3)           \
    "vpbroadcastd " word "(%[weights]), %%zmm20\n\t"  \
    "vpdpbusd %%zmm16, %%zmm20, %[" c0 "]\n\t"        \
    "vpdpbusd %%zmm17, %%zmm20, %[" c1 "]\n\t"        \
    "vpdpbusd %%zmm18, %%zmm20, %[" c2 "]\n\t"        \
    "vpdpbusd %%zmm19, %%zmm20, %[" c3 "]\n\t"
#define INT_FLASH_VALUES(v0, v1, v2, v3)              \
    "vmovdqu64 " v0 "(%[values]), %%zmm16\n\t"        \
    "vmovdqu64 " v1 "(%[values]), %%zmm17\n\t"        \
    "vmovdqu64 " v2 "(%[values]), %%zmm18\n\t"        \
    "vmovdqu64 " v3 "(%[values]), %%zmm19\n\t"
#define INT_FLASH_SUBTRACT(x, top)                 \
    "vmovups " x "(%[x]), %%zmm28\n\t"             \
    "vsubps " top "(%[top])%{1to16%}, %%zmm28, %%zmm28\n\t"
#define INT_FLASH_BEGIN(shifted, fraction)            \
    "vpminud %%zmm30, %%zmm28, %%zmm28\n\t"           \
    "vaddps %%zmm29, %%zmm28, " shifted "\n\t"        \
    "vsubps %%zmm29, " shifted ", " fraction "\n\t"   \
    "vsubps " fraction ", %%zmm28, " fraction "\n\t"
#define INT_FLASH_POLYNOMIAL(fraction)                                     \
    "vbroadcastss (%[terms]), %%zmm25\n\t"                                 \
    "vfmadd213ps 4(%[terms])%{1to16%}, " fraction ", %%zmm25\n\t"          \
    "vfmadd213ps 8(%[terms])%{1to16%}, " fraction ", %%zmm25\n\t"
#define INT_FLASH_POWER(shifted, fraction)                                 \
    "vfmadd213ps 12(%[terms])%{1to16%}, " fraction ", %%zmm25\n\t"         \
    "vpslld $23, " shifted ", " shifted "\n\t"                             \
    "vfmadd213ps 16(%[terms])%{1to16%}, " fraction ", %%zmm25\n\t"         \
    "vpaddd %%zmm25, " shifted ", %%zmm26\n\t"
// The first of a row starts the sum, the others add to it.
#define INT_FLASH_FIRST(inverse) "vmulps " inverse "(%[inverse]), %%zmm26, %%zmm27\n\t"
#define INT_FLASH_NEXT(inverse) "vfmadd231ps " inverse "(%[inverse]), %%zmm26, %%zmm27\n\t"
#define INT_FLASH_CODE(out)                           \
    "vfmadd213ps %%zmm29, %%zmm31, %%zmm26\n\t"       \
    "vpmovdb %%zmm26, " out "(%[codes])\n\t"
#define INT_FLASH_STEP(v0, v1, v2, v3, w0, w1, w2, w3, sum, out, x, top, shifted, fraction, other_shifted, other_fraction) \
    "vmovdqu64 " v0 "(%[values]), %%zmm16\n\t"                                                                             \
    "vmovdqu64 " v1 "(%[values]), %%zmm17\n\t"                                                                             \
    "vmovdqu64 " v2 "(%[values]), %%zmm18\n\t"                                                                             \
    "vmovdqu64 " v3 "(%[values]), %%zmm19\n\t"                                                                             \
    INT_FLASH_ROW(w0, "c00", "c01", "c02", "c03")                                                                          \
    sum INT_FLASH_CODE(out)                                                                                                \
    INT_FLASH_ROW(w1, "c10", "c11", "c12", "c13")                                                                          \
    INT_FLASH_SUBTRACT(x, top)                                                                                             \
    INT_FLASH_POWER(other_shifted, other_fraction)                                                                         \
    INT_FLASH_ROW(w2, "c20", "c21", "c22", "c23")                                                                          \
    INT_FLASH_POLYNOMIAL(fraction)                                                                                         \
    INT_FLASH_ROW(w3, "c30", "c31", "c32", "c33")                                                                          \
    INT_FLASH_BEGIN(other_shifted, other_fraction)
#define INT_FLASH_EVEN "%%zmm21", "%%zmm22", "%%zmm23", "%%zmm24"
#define INT_FLASH_ODD "%%zmm23", "%%zmm24", "%%zmm21", "%%zmm22"
#define INT_FLASH_STEP_OF(...) INT_FLASH_STEP(__VA_ARGS__)
// Five steps of a row's eight.
#define INT_FLASH_FIVE_STEPS                                                                                                            \
    INT_FLASH_STEP_OF("0", "64", "128", "192", "0", "512", "1024", "1536", INT_FLASH_FIRST("0"), "0", "192", "0", INT_FLASH_EVEN)       \
    INT_FLASH_STEP_OF("256", "320", "384", "448", "4", "516", "1028", "1540", INT_FLASH_NEXT("64"), "16", "256", "0", INT_FLASH_ODD)    \
    INT_FLASH_STEP_OF("512", "576", "640", "704", "8", "520", "1032", "1544", INT_FLASH_NEXT("128"), "32", "320", "0", INT_FLASH_EVEN)  \
    INT_FLASH_STEP_OF("768", "832", "896", "960", "12", "524", "1036", "1548", INT_FLASH_NEXT("192"), "48", "384", "0", INT_FLASH_ODD)  \
    INT_FLASH_STEP_OF("1024", "1088", "1152", "1216", "16", "528", "1040", "1552", INT_FLASH_NEXT("256"), "64", "448", "0", INT_FLASH_EVEN)
// All rows of one step, and what stands behind the second, the third and the fourth of them.
#define INT_FLASH_ALL_ROWS(w0, w1, w2, w3, second, third, fourth)  \
    INT_FLASH_ROW(w0, "c00", "c01", "c02", "c03")                  \
    INT_FLASH_ROW(w1, "c10", "c11", "c12", "c13") second           \
    INT_FLASH_ROW(w2, "c20", "c21", "c22", "c23") third            \
    INT_FLASH_ROW(w3, "c30", "c31", "c32", "c33") fourth
#define INT_FLASH_CLEAR(c0, c1, c2, c3)           \
    "vpxord %[" c0 "], %[" c0 "], %[" c0 "]\n\t"  \
    "vpxord %[" c1 "], %[" c1 "], %[" c1 "]\n\t"  \
    "vpxord %[" c2 "], %[" c2 "], %[" c2 "]\n\t"  \
    "vpxord %[" c3 "], %[" c3 "], %[" c3 "]\n\t"
// Weights lag three steps behind: the first three steps begin theirs, and three end behind the last products. 32 = 3 + 3 rows of 8 + 5.
#define INT_FLASH_BESIDE                                                                                                                     \
    "vpbroadcastd 20(%[terms]), %%zmm30\n\t"                                                                                                 \
    "vbroadcastss 24(%[terms]), %%zmm29\n\t"                                                                                                 \
    "vbroadcastss 28(%[terms]), %%zmm31\n\t"                                                                                                 \
    INT_FLASH_CLEAR("c00", "c01", "c02", "c03") INT_FLASH_CLEAR("c10", "c11", "c12", "c13")                                                  \
    INT_FLASH_CLEAR("c20", "c21", "c22", "c23") INT_FLASH_CLEAR("c30", "c31", "c32", "c33")                                                  \
    INT_FLASH_VALUES("0", "64", "128", "192")                                                                                                \
    INT_FLASH_ALL_ROWS("0", "512", "1024", "1536", INT_FLASH_SUBTRACT("0", "0"), "", INT_FLASH_BEGIN("%%zmm21", "%%zmm22"))                  \
    INT_FLASH_VALUES("256", "320", "384", "448")                                                                                             \
    INT_FLASH_ALL_ROWS("4", "516", "1028", "1540", INT_FLASH_SUBTRACT("64", "0"), INT_FLASH_POLYNOMIAL("%%zmm22"),                           \
                       INT_FLASH_BEGIN("%%zmm23", "%%zmm24"))                                                                                \
    INT_FLASH_VALUES("512", "576", "640", "704")                                                                                             \
    INT_FLASH_ALL_ROWS("8", "520", "1032", "1544", INT_FLASH_SUBTRACT("128", "0") INT_FLASH_POWER("%%zmm21", "%%zmm22"),                     \
                       INT_FLASH_POLYNOMIAL("%%zmm24"), INT_FLASH_BEGIN("%%zmm21", "%%zmm22"))                                               \
    "add $768, %[values]\n\t"                                                                                                                \
    "add $12, %[weights]\n\t"                                                                                                                \
    ".p2align 5\n"                                                                                                                           \
    "1:\n\t"                                                                                                                                 \
    INT_FLASH_FIVE_STEPS                                                                                                                     \
    INT_FLASH_STEP_OF("1280", "1344", "1408", "1472", "20", "532", "1044", "1556", INT_FLASH_NEXT("320"), "80", "512", "4", INT_FLASH_ODD)   \
    INT_FLASH_STEP_OF("1536", "1600", "1664", "1728", "24", "536", "1048", "1560", INT_FLASH_NEXT("384"), "96", "576", "4", INT_FLASH_EVEN)  \
    INT_FLASH_STEP_OF("1792", "1856", "1920", "1984", "28", "540", "1052", "1564", INT_FLASH_NEXT("448"), "112", "640", "4", INT_FLASH_ODD)  \
    "vmovups %%zmm27, (%[x])\n\t"                                                                                                            \
    "add $2048, %[values]\n\t"                                                                                                               \
    "add $32, %[weights]\n\t"                                                                                                                \
    "add $512, %[x]\n\t"                                                                                                                     \
    "add $512, %[codes]\n\t"                                                                                                                 \
    "add $4, %[top]\n\t"                                                                                                                     \
    "dec %[rows]\n\t"                                                                                                                        \
    "jnz 1b\n\t"                                                                                                                             \
    INT_FLASH_FIVE_STEPS                                                                                                                     \
    INT_FLASH_NEXT("320") INT_FLASH_CODE("80") INT_FLASH_POWER("%%zmm21", "%%zmm22") INT_FLASH_POLYNOMIAL("%%zmm24")                         \
    INT_FLASH_NEXT("384") INT_FLASH_CODE("96") INT_FLASH_POWER("%%zmm23", "%%zmm24")                                                         \
    INT_FLASH_NEXT("448") INT_FLASH_CODE("112")                                                                                              \
    "vmovups %%zmm27, (%[x])\n\t"

// 64 more channels, when zmm21-28 are free: a row's products so far join its output as in absorb_product, and its sums begin anew with the
// first two steps, whose values are zmm16-19 and zmm24-27. Outputs lie at %[x], rows %[codes] bytes apart, the last at %[top]; %[rows]: factors.
#define INT_FLASH_ABSORB(c, at, o)                \
    "vcvtdq2ps %[" c "], %[" c "]\n\t"            \
    "vmulps " at o ", %%zmm21, %%zmm23\n\t"       \
    "vfmadd213ps %%zmm23, %%zmm22, %[" c "]\n\t"  \
    "vmovups %[" c "], " at o "\n\t"
#define INT_FLASH_NEXT_CHANNELS(row, even, odd, o, c0, c1, c2, c3)  \
    "vbroadcastss " row "(%[rows]), %%zmm21\n\t"                    \
    "vbroadcastss 16+" row "(%[rows]), %%zmm22\n\t"                 \
    INT_FLASH_ABSORB(c0, "0", o)                                    \
    INT_FLASH_ABSORB(c1, "64", o)                                   \
    INT_FLASH_ABSORB(c2, "128", o)                                  \
    INT_FLASH_ABSORB(c3, "192", o)                                  \
    INT_FLASH_CLEAR(c0, c1, c2, c3)                                 \
    INT_FLASH_ROW(even, c0, c1, c2, c3)                             \
    "vpbroadcastd " odd "(%[weights]), %%zmm20\n\t"                 \
    "vpdpbusd %%zmm24, %%zmm20, %[" c0 "]\n\t"                      \
    "vpdpbusd %%zmm25, %%zmm20, %[" c1 "]\n\t"                      \
    "vpdpbusd %%zmm26, %%zmm20, %[" c2 "]\n\t"                      \
    "vpdpbusd %%zmm27, %%zmm20, %[" c3 "]\n\t"
#define INT_FLASH_MORE_CHANNELS                                                                    \
    "mov 32(%[terms]), %[values]\n\t"                                                              \
    "mov 40(%[terms]), %[x]\n\t"                                                                   \
    "mov 48(%[terms]), %[codes]\n\t"                                                               \
    "mov 56(%[terms]), %[rows]\n\t"                                                                \
    "sub $108, %[weights]\n\t"                                                                     \
    "lea (%[x],%[codes],2), %[top]\n\t"                                                            \
    "add %[codes], %[top]\n\t"                                                                     \
    INT_FLASH_VALUES("0", "64", "128", "192")                                                      \
    "vmovdqu64 256(%[values]), %%zmm24\n\t"                                                        \
    "vmovdqu64 320(%[values]), %%zmm25\n\t"                                                        \
    "vmovdqu64 384(%[values]), %%zmm26\n\t"                                                        \
    "vmovdqu64 448(%[values]), %%zmm27\n\t"                                                        \
    INT_FLASH_NEXT_CHANNELS("0", "0", "4", "(%[x])", "c00", "c01", "c02", "c03")                   \
    INT_FLASH_NEXT_CHANNELS("4", "512", "516", "(%[x],%[codes])", "c10", "c11", "c12", "c13")      \
    INT_FLASH_NEXT_CHANNELS("8", "1024", "1028", "(%[x],%[codes],2)", "c20", "c21", "c22", "c23")  \
    INT_FLASH_NEXT_CHANNELS("12", "1536", "1540", "(%[top])", "c30", "c31", "c32", "c33")          \
    "mov $15, %[rows]\n\t"                                                                         \
    ".p2align 5\n"                                                                                 \
    "2:\n\t"                                                                                       \
    "add $512, %[values]\n\t"                                                                      \
    "add $8, %[weights]\n\t"                                                                       \
    INT_FLASH_VALUES("0", "64", "128", "192")                                                      \
    INT_FLASH_ALL_ROWS("0", "512", "1024", "1536", "", "", "")                                     \
    INT_FLASH_VALUES("256", "320", "384", "448")                                                   \
    INT_FLASH_ALL_ROWS("4", "516", "1028", "1540", "", "", "")                                     \
    "dec %[rows]\n\t"                                                                              \
    "jnz 2b\n\t"
#define INT_FLASH_BESIDE_OPERANDS                                                                                                           \
    : [c00] "=&v"(c00), [c01] "=&v"(c01), [c02] "=&v"(c02), [c03] "=&v"(c03), [c10] "=&v"(c10), [c11] "=&v"(c11), [c12] "=&v"(c12),         \
      [c13] "=&v"(c13), [c20] "=&v"(c20), [c21] "=&v"(c21), [c22] "=&v"(c22), [c23] "=&v"(c23), [c30] "=&v"(c30), [c31] "=&v"(c31),         \
      [c32] "=&v"(c32), [c33] "=&v"(c33), [values] "+&r"(values), [weights] "+&r"(weights), [x] "+&r"(x), [codes] "+&r"(codes),             \
      [top] "+&r"(top), [rows] "+&r"(rows)                                                                                                  \
    : [inverse] "r"(inverse), [terms] "r"(&constants)                                                                                       \
    : "memory", "cc", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28",  \
      "xmm29", "xmm30", "xmm31"

struct Avx512Beside {
    // Where the output of four rows lies, a pitch of bytes apart, the four alphas and four betas that it takes, and the next 64 channels' values.
    struct Wide {
        const uint32_t* values;
        float* out;
        ptrdiff_t pitch;
        const float* rescale;
    };

    // values: [32][64 channels] words of a tile; weights: four rows 128 words apart; x: four rows of 128 exponents. Writes the codes of the
    // next weights as store_weights does, over the first 16 of a row's exponents the parts of its sum, and hands each accumulator to
    // finish(row, vector, sum). kWide: multiplies 128 channels; finish gets the last 64.
    template <bool kWide, class Finish>
    INT_FLASH_INLINE void products_and_weights(const uint32_t* values, const uint32_t* weights, float* x, const float* top, float levels,
                                               const float* inverse, uint32_t* codes, const Wide& wide, Finish finish) {
        const struct {
            uint32_t terms[8];
            Wide wide;
        } constants = {{kExp2C4, kExp2C3, kExp2C2, kExp2C1, 0x3f800000u, kLowestExponentBits, bits_of(kRoundMagic), bits_of(levels)}, wide};
        static_assert(offsetof(decltype(constants), wide) == 32 && offsetof(Wide, rescale) == 24, "the assembler's offsets");
        __m512i c00, c01, c02, c03, c10, c11, c12, c13, c20, c21, c22, c23, c30, c31, c32, c33;
        int64_t rows = 3;
        if constexpr (kWide) {
            __asm__ volatile(INT_FLASH_BESIDE INT_FLASH_MORE_CHANNELS INT_FLASH_BESIDE_OPERANDS);
        } else {
            __asm__ volatile(INT_FLASH_BESIDE INT_FLASH_BESIDE_OPERANDS);
        }
        finish(0, 0, c00), finish(0, 1, c01), finish(0, 2, c02), finish(0, 3, c03);
        finish(1, 0, c10), finish(1, 1, c11), finish(1, 2, c12), finish(1, 3, c13);
        finish(2, 0, c20), finish(2, 1, c21), finish(2, 2, c22), finish(2, 3, c23);
        finish(3, 0, c30), finish(3, 1, c31), finish(3, 2, c32), finish(3, 3, c33);
    }
};

}  // namespace
}  // namespace int_flash
