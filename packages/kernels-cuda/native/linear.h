// A linear layer whose weights lie on the device, and inputs prepared for it.
#pragma once
#include <cstdint>
#include <memory>

#include "buffer.h"
#include "cublas_lt.h"
#include "linear_float.h"
#include "linear_int4.h"
#include "linear_int8.h"

namespace intflash {

/** Weights in the caller's memory; exactly one of `codes`, `packed` and `weights` is given. Only read while a layer is being made. */
struct HostWeights {
    int rows, cols;
    const int8_t* codes = nullptr;
    const uint8_t* packed = nullptr;  // INT4 codes, two a byte, low nibble first
    int group = 0;                    // columns that share a scale of theirs
    const float *scales = nullptr, *weights = nullptr, *bias = nullptr;
};

/** Memory for products by cuBLASLt, and the library. */
struct ProductMemory {
    CublasLt* library = nullptr;  // null: our own kernels
    std::shared_ptr<Buffer> sums, workspace;
};

/** All members but the facts are for the device's worker thread. */
class LinearLayer {
public:
    /** @throws Failure */
    LinearLayer(Stream& worker, const HostWeights& host);

    int rows() const { return rows_; }
    int cols() const { return cols_; }
    int columns() const { return group_ > 0 ? padded_int4_columns(cols_) : padded_columns(cols_); }
    /** Takes codes. */
    bool is_int8() const { return codes_ != nullptr && group_ == 0; }
    /** Takes codes by groups. */
    bool is_int4() const { return group_ > 0; }
    /** Takes floats. */
    bool is_float() const { return weights_ != nullptr; }
    FloatWeights float_weights() const;
    /** Of an INT8 layer. */
    Int8Weights int8_weights() const;

    /** Whether cuBLASLt shall multiply so many tokens; small products are not worth loading it. An INT8 layer's only. */
    bool suits_library(int tokens) const;
    /** y of codes that lie on the device already; an INT8 layer's only. `accumulate`: added to what `out` holds. `ahead`: of the layer that comes next. */
    void multiply(const Int8Rows& input, int tokens, float* out, bool accumulate, const ProductMemory& memory, const WeightsAhead& ahead, cudaStream_t stream) const;
    /** Leaves the products' sums [tokens, rows] in `memory`, for launch_finish_int8 and the like, if the library does them. @returns whether it does */
    bool sum(const Int8Rows& input, int tokens, const ProductMemory& memory, cudaStream_t stream) const;
    /** y of an INT4 layer. */
    void multiply(const GroupRows& input, int tokens, float* out, bool accumulate, cudaStream_t stream) const;
    /** y of floats with `columns()` elements between rows, zeros behind `cols()`; a float layer's only. `scratch`: memory of scratch_floats() for it alone. */
    void multiply(const float* input, int tokens, float* out, bool accumulate, float* scratch, cudaStream_t stream) const;
    /** What a float layer wants besides its input, and where an INT4 layer's input lies. */
    int64_t scratch_floats(int tokens) const;
    /** An INT4 layer's input in memory of scratch_floats(). */
    GroupRows group_rows(float* scratch, int tokens) const;
    /** Host memory in, host memory out: [tokens, cols] → [tokens, rows]. Waits for the answer. @throws Failure */
    void forward(Stream& worker, const float* input, int tokens, float* out) const;

    /** Memory for `tokens` of the layers that suit the library, if it is there. */
    static ProductMemory product_memory(Stream& worker, int tokens, int most_rows);

private:
    void forward_part(Stream& worker, const float* input, int tokens, float* out) const;

    void take_int4(Stream& worker, const HostWeights& host);
    void take_floats(Stream& worker, const HostWeights& host);

    int rows_, cols_, group_;
    bool is_bfloat16_ = false;
    std::shared_ptr<Buffer> codes_, scales_, weights_, bias_;
};

}  // namespace intflash
