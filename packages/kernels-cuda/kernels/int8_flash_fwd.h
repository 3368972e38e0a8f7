// Launches of the INT8 forward kernels, one translation unit a padded head dimension.
#pragma once
#include <cuda_runtime_api.h>

#include "forward_args.h"

namespace intflash {

cudaError_t launch_int8_flash_fwd_d64(const ForwardArgs& args, bool half_values, const LaunchLimits& limits, cudaStream_t stream);
cudaError_t launch_int8_flash_fwd_d128(const ForwardArgs& args, bool half_values, const LaunchLimits& limits, cudaStream_t stream);
cudaError_t launch_int8_flash_fwd_d256(const ForwardArgs& args, bool half_values, const LaunchLimits& limits, cudaStream_t stream);

}  // namespace intflash
