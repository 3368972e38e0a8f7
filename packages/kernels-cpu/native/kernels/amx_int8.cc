#define INT_FLASH_AMX
#include "simd/avx512.h"

#include "kernel_set.h"

#include "amx_block.h"
#include "amx_linear.h"

namespace int_flash {
namespace {

constexpr KernelTable amx_table() {
    KernelTable table = kTable;
    table.name = "amx-int8";
    table.attention_block = amx_attention_block;
    table.linear_int8 = amx_linear_int8;
    return table;
}
constexpr KernelTable kAmxTable = amx_table();

}  // namespace

const KernelTable* amx_int8_kernels() { return &kAmxTable; }
}  // namespace int_flash
