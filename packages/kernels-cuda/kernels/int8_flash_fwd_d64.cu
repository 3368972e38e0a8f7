#include "int8_flash_fwd.cuh"

namespace intflash {
cudaError_t launch_int8_flash_fwd_d64(const ForwardArgs& args, bool half_values, const LaunchLimits& limits, cudaStream_t stream) {
    return launch_dim<64>(args, half_values, limits, stream);
}
}  // namespace intflash
