#include "sm90_flash_fwd.cuh"

namespace intflash {

cudaError_t launch_sm90_flash_fwd_d64(const SortedArgs& args, bool half_values, int processors, cudaStream_t stream) {
    return half_values ? launch_sm90_traits<Sm90Traits<64, true>>(args, processors, stream) : launch_sm90_traits<Sm90Traits<64, false>>(args, processors, stream);
}

}  // namespace intflash
