// A tensor whose rows a call goes through one by one.
#pragma once
#include <cstdint>

#include "failure.h"
#include "operand.h"
#include "source.h"

namespace intflash {

struct TensorRows {
    Source data;
    RowStrides strides;
    int32_t batch, heads, tokens, dim;
    AbortFlag abort;

    size_t count() const { return static_cast<size_t>(batch) * static_cast<size_t>(heads) * static_cast<size_t>(tokens); }
};

}  // namespace intflash
