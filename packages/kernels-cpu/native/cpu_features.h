// Which kernel tables this CPU and operating system can run.
#pragma once
#include "kernel_table.h"

namespace int_flash {

constexpr int kMaxIsas = 8;

// Fills `tables`, best first; the last is always the portable one. Returns how many.
int supported_kernels(const KernelTable* tables[kMaxIsas]);

}  // namespace int_flash
