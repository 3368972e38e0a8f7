// A linear layer's weights in the layout of one instruction set.
#pragma once
#include "failure.h"
#include "kernel_table.h"
#include "owned_memory.h"
#include "thread_pool.h"

namespace int_flash {

// What is done in the same call as the matrix product.
struct LinearSteps {
    const float* norm_gain = nullptr;  // [cols]: the root-mean-square norm of each input row first
    double epsilon = 0;
    bool swiglu = false;      // rows are the gate's, then the up projection's; out has half as many
    bool accumulate = false;  // out += y
};

// [rows, cols], row-major. Exactly one of codes, nibbles and floats is given.
struct LinearSource {
    int rows, cols;
    const int8_t* codes = nullptr;     // INT8 with one scale a row (W8A8)
    const uint8_t* nibbles = nullptr;  // INT4 with one for `group` columns, two's complement, low nibble first; inputs in INT8 with a scale a group
    int group = 0;                     // 32, 64 or 128; cols is a multiple of it
    const float* scales = nullptr;     // [rows], or [rows, cols / group]
    const float* floats = nullptr;
    const float* bias = nullptr;  // or null
};

class LinearLayer {
public:
    bool create(const KernelTable* kernels, int threads, const LinearSource& source, LiveBytes* live, Failure* failure);
    bool forward(const float* input, int64_t tokens, float* out, const LinearSteps& steps, Failure* failure) const;
    void dispose();
    bool expect_in_use(Failure* failure) const { return !disposed_ || failure->set("ERR_DISPOSED", "Expected a linear layer in use, got one that was disposed"); }
    int rows() const { return rows_; }
    int cols() const { return cols_; }
    int64_t bytes() const { return static_cast<int64_t>(memory_.bytes()); }

private:
    const KernelTable* kernels_ = nullptr;
    int threads_ = 1, rows_ = 0, cols_ = 0;
    int group_ = 0;  // columns that share a scale of the input: all of them for INT8, 0 for floats
    bool is_int8_ = false, is_int4_ = false, bfloat16_ = false, disposed_ = false;
    OwnedMemory memory_;
    Reading reading_;
    void* weights_ = nullptr;
    size_t weight_bytes_ = 0;
    float *scales_ = nullptr, *bias_ = nullptr;
};

}  // namespace int_flash
