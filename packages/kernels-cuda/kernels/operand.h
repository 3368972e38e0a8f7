// The caller's tensors as kernels see them. Plain data, shared by host and device.
#pragma once
#include "forward_args.h"

namespace intflash {

enum class ElementType : int32_t { kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2, kInt8 = 3 };

/** Rows of the caller's: row (b, h, n) starts at element b·batch + h·head + (start + n)·token. */
struct Operand {
    const void* data;
    RowStrides strides;
    ElementType type;
    int32_t heads, dim;
};

inline bool is_float(const Operand& operand) { return operand.type != ElementType::kInt8; }

/** Device memory of one sequence table and the grid that covers it. */
struct SequenceTable {
    const Sequence* sequences;
    int32_t count, max_q_len, max_tiles, padding;
};

}  // namespace intflash
