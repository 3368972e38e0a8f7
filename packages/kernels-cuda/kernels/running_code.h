// Which of the code in this build a device runs. Its compute capability does not say: the driver compiles PTX where there is no cubin for it, or where
// CUDA_FORCE_PTX_JIT=1 says so, and that is code for a compute capability of long ago. Nor do cudaFuncGetAttributes: cubins of CUDA 13 do not note their PTX.
#pragma once
#include <cuda_runtime_api.h>

namespace intflash {

struct RunningCode {
    int architecture;  // __CUDA_ARCH__, as in 900; 0 where nothing runs
    bool is_sm90a;     // compiled for 9.0a, the only code of Hopper's forward kernels that is not empty
};

/** Asks the calling thread's device once in the life of the process, by a launch, and waits: not for streams under capture. */
RunningCode ask_running_code();

/** What it said: zeros before that. Of the calling thread's device. */
RunningCode running_code();

}  // namespace intflash
