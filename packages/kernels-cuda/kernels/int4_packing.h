// INT4 codes from one a byte to two and back, rows of any strides; quant's packInt4 and unpackInt4 on the device.
#pragma once
#include <cuda_runtime_api.h>

#include "check_operands.h"

namespace intflash {

/** Rows of `dim` codes, a multiple of 8. Row (b, h, t) starts at byte b·batch + h·head + t·token. */
struct CodeRows {
    const uint8_t* data;
    RowStrides strides;
    int64_t rows;  // of all heads and batches
    int32_t heads, tokens, dim;
};

/** Codes of a byte each into `packed`, on 16 bytes, row after row; Given::kInt4Codes where one is not in [-8, 7]. */
cudaError_t launch_pack_int4(const CodeRows& from, uint32_t* packed, Findings* findings, cudaStream_t stream);
/** Packed rows into `codes`, on 16 bytes, a byte each, row after row. */
cudaError_t launch_unpack_int4(const CodeRows& from, uint2* codes, cudaStream_t stream);

}  // namespace intflash
