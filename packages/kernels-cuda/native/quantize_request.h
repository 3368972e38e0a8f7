// What a call that makes codes of a tensor is asked.
#pragma once
#include <cstdint>

#include "tensor_rows.h"

namespace intflash {

/** What has a scale of its own. */
enum class Granularity : int32_t { kToken, kChannel, kTensor };

struct TensorQuantizeRequest : TensorRows {
    ElementType type;
    int32_t levels;  // the largest code: 127 or, of tokens, 7
    Granularity granularity;
    bool smooth;  // tokens, less the means of their channels
};

}  // namespace intflash
