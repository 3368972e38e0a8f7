// Launches of Hopper's forward kernels, one translation unit a padded head dimension.
#pragma once
#include <cuda_runtime_api.h>

#include "sorted_args.h"

namespace intflash {

/** Warpgroups of a block that multiply, 64 queries each: as many as the registers of a multiprocessor allow. */
constexpr int sm90_consumers(int padded) { return padded == 256 ? 2 : 3; }

cudaError_t launch_sm90_flash_fwd_d64(const SortedArgs& args, bool half_values, int processors, cudaStream_t stream);
cudaError_t launch_sm90_flash_fwd_d128(const SortedArgs& args, bool half_values, int processors, cudaStream_t stream);
cudaError_t launch_sm90_flash_fwd_d256(const SortedArgs& args, bool half_values, int processors, cudaStream_t stream);

}  // namespace intflash
