#pragma once
#include "kernel_table.h"

namespace int_flash {

// This thread's scratch, allocated on first use and freed when the thread ends; null when memory ran out.
Scratch* thread_scratch();

}  // namespace int_flash
