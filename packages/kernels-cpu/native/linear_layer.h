// A linear layer's weights in the layout of one instruction set.
#pragma once
#include "failure.h"
#include "kernel_table.h"
#include "owned_memory.h"

namespace int_flash {

// What is done in the same call as the matrix product.
struct LinearSteps {
    const float* norm_gain = nullptr;  // [cols]: the root-mean-square norm of each input row first
    double epsilon = 0;
    bool swiglu = false;      // rows are the gate's, then the up projection's; out has half as many
    bool accumulate = false;  // out += y
};

class LinearLayer {
public:
    // codes + scales: INT8 weights (W8A8); weights: float32. Exactly one of codes and weights is given; bias may be null.
    bool create(const KernelTable* kernels, int threads, int rows, int cols, const int8_t* codes, const float* scales, const float* weights,
                const float* bias, LiveBytes* live, Failure* failure);
    bool forward(const float* input, int64_t tokens, float* out, const LinearSteps& steps, Failure* failure) const;
    void dispose();
    bool disposed() const { return disposed_; }
    int rows() const { return rows_; }
    int cols() const { return cols_; }
    int64_t bytes() const { return static_cast<int64_t>(memory_.bytes()); }

private:
    const KernelTable* kernels_ = nullptr;
    int threads_ = 1, rows_ = 0, cols_ = 0;
    bool is_int8_ = false, bfloat16_ = false, disposed_ = false;
    OwnedMemory memory_;
    void* weights_ = nullptr;
    float *scales_ = nullptr, *bias_ = nullptr;
};

}  // namespace int_flash
