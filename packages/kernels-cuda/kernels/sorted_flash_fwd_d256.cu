#include "sorted_flash_fwd.cuh"

namespace intflash {
cudaError_t launch_sorted_flash_fwd_d256(const SortedArgs& args, const LaunchLimits& limits, cudaStream_t stream) { return launch_sorted<256>(args, limits, stream); }
}  // namespace intflash
