// Launches of Hopper's forward kernels, one translation unit a padded head dimension.
#pragma once
#include <cuda_runtime_api.h>

#include "sorted_args.h"

namespace intflash {

/** Warpgroups of a block that multiply, 64 queries each: as many as the registers of a multiprocessor allow. */
constexpr int sm90_consumers(int padded) { return padded == 256 ? 2 : 3; }

/**
 * Whether what runs on the calling thread's device is the code of these kernels. Without a cubin for compute capability 9.0a (a build for other
 * architectures, or CUDA_FORCE_PTX_JIT=1) it would be an empty body.
 */
bool has_sm90_flash_fwd();

cudaError_t launch_sm90_flash_fwd_d64(const SortedArgs& args, bool half_values, int processors, cudaStream_t stream);
cudaError_t launch_sm90_flash_fwd_d128(const SortedArgs& args, bool half_values, int processors, cudaStream_t stream);
cudaError_t launch_sm90_flash_fwd_d256(const SortedArgs& args, bool half_values, int processors, cudaStream_t stream);

}  // namespace intflash
