// Launches of the forward kernel on sorted tiles for every architecture, one translation unit a padded head dimension.
#pragma once
#include <cuda_runtime_api.h>

#include "sorted_args.h"

namespace intflash {

/** True where a block's shared memory takes the tiles of this head dimension, two at a time beside the queries of all warps. */
constexpr bool sorted_supports(int padded, int shared_bytes) { return padded <= 128 || shared_bytes >= 200 * 1024; }

cudaError_t launch_sorted_flash_fwd_d64(const SortedArgs& args, const LaunchLimits& limits, cudaStream_t stream);
cudaError_t launch_sorted_flash_fwd_d128(const SortedArgs& args, const LaunchLimits& limits, cudaStream_t stream);
cudaError_t launch_sorted_flash_fwd_d256(const SortedArgs& args, const LaunchLimits& limits, cudaStream_t stream);

}  // namespace intflash
