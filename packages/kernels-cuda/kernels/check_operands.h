// Checks of numbers that already lie on the device, where TypeScript cannot read them.
#pragma once
#include <cuda_runtime_api.h>

#include "operand.h"
#include "quantize.h"

namespace intflash {

enum class ScaleOf : int32_t { kQuery = 1, kKey = 2, kValue = 4, kChannel = 8 };  // bits of Findings::bad_scale

/** Notes scales that are not finite and above 0: one a token of each sequence and head, one a head where the token stride is 0, or `dim` channels. */
cudaError_t launch_check_scales(const ScaleOperand& scale, ScaleOf of, const SequenceTable& table, int heads, int dim, Findings* findings, cudaStream_t stream);

/** Notes entries of a float mask that are NaN or +infinity. All sequences are as long as the longest. */
cudaError_t launch_check_mask(const MaskOperand& mask, const SequenceTable& table, int heads, int64_t keys, Findings* findings, cudaStream_t stream);

}  // namespace intflash
