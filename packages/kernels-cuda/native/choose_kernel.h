// Which kernels answer an attention call.
#pragma once
#include "attention.h"

namespace intflash {

/** On a worker thread. @returns one of the kernels; kPortable also for precisions of which there is only one. @throws Failure where one was named that can't do it */
KernelChoice choose_kernel(Device& device, const AttentionRequest& request);

}  // namespace intflash
