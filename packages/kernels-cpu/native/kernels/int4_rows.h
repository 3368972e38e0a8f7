// Rows of an INT4 cache: turned by the Hadamard matrix, then coded with the scale of seven that loses least. The bits are those of
// hadamardRotate (packages/quant) and quantizeFittedInt4 (packages/llm), which work in float64; so does this.
#pragma once
#include <cmath>
#include <cstring>

#include "quantize_rows.h"

namespace int_flash {
namespace {

constexpr int kScales = 8;  // candidates beside one another; the last one is no candidate
constexpr float kInt4Codes = 7.0f;
constexpr double kRoundShift = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves whole numbers

INT_FLASH_INLINE double rounded(double x) { return (x + kRoundShift) - kRoundShift; }

// Sums and differences of neighbours kHalf apart, in place. Compilers make shuffles of the swap.
template <int kHalf>
INT_FLASH_INLINE void turn_eight(double* x) {
    double sum[8], difference[8];
    for (int i = 0; i < 8; i++) sum[i] = x[i ^ kHalf] + x[i], difference[i] = x[i ^ kHalf] - x[i];
    for (int i = 0; i < 8; i++) x[i] = i & kHalf ? difference[i] : sum[i];
}

// Blocks of the largest power of two that divides dim. False when an element is not finite or becomes so.
bool turn_row(const float* source, const float* shift, int dim, float* row) {
    alignas(64) double work[kMaxHeadDim];
    for (int d = 0; d < dim; d++) work[d] = shift ? source[d] - shift[d] : source[d];
    const int block = dim & -dim;
    int half = 1;
    if (block >= 8) {
        half = 8;
        for (int d = 0; d < dim; d += 8) turn_eight<1>(work + d), turn_eight<2>(work + d), turn_eight<4>(work + d);
    }
    for (; half < block; half *= 2)
        for (int start = 0; start < dim; start += 2 * half)
            for (int i = start; i < start + half; i++) {
                const double a = work[i], b = work[i + half];
                work[i] = a + b;
                work[i + half] = a - b;
            }
    const double norm = 1 / std::sqrt(static_cast<double>(block));
    for (int d = 0; d < dim; d++) row[d] = static_cast<float>(work[d] * norm);
    for (int d = dim; d % 16 != 0; d++) row[d] = 0.0f;
    return largest_magnitude_bits(row, dim) < kInfinityBits;  // a NaN or an Infinity reaches some element of its block
}

// The scale of a turned row, and whether it is narrower than the row's largest element asks for. Signs do not change what is lost, nor does
// multiplying by an inverse: it rounds to another code than dividing does only halfway between two, and both of them lose the same.
float fit_int4_scale(const float* row, int dim, bool* narrowed) {
    const float widest = symmetric_scale(largest_magnitude_bits(row, dim), kInt4Codes);
    constexpr double kParts[kScales] = {1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 1};
    alignas(64) double scale[kScales], inverse[kScales], lost[kScales] = {}, squares[kMaxHeadDim * kScales];
    for (int i = 0; i < kScales; i++) {
        scale[i] = static_cast<float>(static_cast<double>(widest) * kParts[i]);
        inverse[i] = 1 / scale[i];
    }
    for (int d = 0; d < dim; d++) {
        const double size = std::fabs(static_cast<double>(row[d]));
        INT_FLASH_UNROLL(1)  // else g++ unrolls it before it can become vectors
        for (int i = 0; i < kScales; i++) {
            const double code = rounded(size * inverse[i]);
            const double error = size - (code > kInt4Codes ? kInt4Codes : code) * scale[i];
            squares[d * kScales + i] = error * error;
        }
    }
    for (int d = 0; d < dim; d++)
        for (int i = 0; i < kScales; i++) lost[i] += squares[d * kScales + i];
    int best = 0;
    for (int i = 1; i < kScales - 1; i++)
        if (lost[i] < lost[best]) best = i;
    *narrowed = best != 0;
    return static_cast<float>(scale[best]);
}

// Two codes a byte, low nibble first. A narrowed scale divides in float64 and cuts off; any other, as quantizers do, divides in float32.
void encode_int4_row(const float* row, int dim, float scale, bool narrowed, uint8_t* packed) {
    alignas(64) int8_t codes[kMaxHeadDim];
    for (int d = 0; d < dim; d++) {
        const double quotient = narrowed ? static_cast<double>(row[d]) / scale : static_cast<double>(row[d] / scale);
        double code = rounded(quotient);
        code = code > kInt4Codes ? kInt4Codes : code;
        code = code < -kInt4Codes ? -kInt4Codes : code;
        codes[d] = static_cast<int8_t>(code);
    }
    for (int i = 0; i < dim / 2; i++) packed[i] = static_cast<uint8_t>((codes[2 * i] & 15) | (codes[2 * i + 1] & 15) << 4);
}

}  // namespace
}  // namespace int_flash
