// Checks of numbers that already lie on the device, where TypeScript cannot read them.
#pragma once
#include <cuda_runtime_api.h>

#include "operand.h"
#include "quantize.h"

namespace intflash {

/** What a caller gave; bits of Findings::bad_given. */
enum class Given : uint32_t { kQueryScale = 1, kKeyScale = 2, kValueScale = 4, kChannelScale = 8, kMask = 16, kInt4Codes = 32 };

/** Notes scales that are not finite and above 0: one a token of each sequence and head, one a head where the token stride is 0, or `dim` channels. */
cudaError_t launch_check_scales(const ScaleOperand& scale, Given what, const SequenceTable& table, int heads, int dim, Findings* findings, cudaStream_t stream);

/** Notes entries of a float mask that are NaN or +infinity. All sequences are as long as the longest. */
cudaError_t launch_check_mask(const MaskOperand& mask, const SequenceTable& table, int heads, int64_t keys, Findings* findings, cudaStream_t stream);

}  // namespace intflash
