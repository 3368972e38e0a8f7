#define INT_FLASH_AMX
#include "simd/avx512.h"

#include "kernel_set.h"

#include "amx_block.h"
#include "amx_linear.h"

namespace int_flash {
namespace {

// dot_peak of machine_limits.h, of what multiplies here.
double amx_dot_peak(int64_t rounds, uint32_t* result) {
    const AmxShapes shapes(0);
    alignas(64) int32_t lanes[kAmxRows][kAmxRows] = {};
    amx_load<kLeft>(lanes, kAmxBytes);
    amx_load<kRight>(lanes, kAmxBytes);
    for (int64_t i = 0; i < rounds; i++) {
        amx_dot_signed<kSums0, kLeft, kRight>();
        amx_dot_signed<kSums1, kLeft, kRight>();
        amx_dot_signed<kSums2, kLeft, kRight>();
        amx_dot_signed<kSums3, kLeft, kRight>();
    }
    amx_store<kSums3>(lanes, kAmxBytes);
    *result = static_cast<uint32_t>(lanes[0][0]);
    return 2.0 * 4 * kAmxRows * kAmxRows * kAmxBytes * static_cast<double>(rounds);
}

constexpr KernelTable amx_table() {
    KernelTable table = kTable;
    table.name = "amx-int8";
    table.attention_block = amx_attention_block;
    table.linear_int8 = amx_linear_int8;
    table.dot_peak = amx_dot_peak;
    table.macs_alone = 200e3;  // these processors' shared cache gives one core 20 GB/s, and weights come from there
    return table;
}
constexpr KernelTable kAmxTable = amx_table();

}  // namespace

const KernelTable* amx_int8_kernels() { return &kAmxTable; }
}  // namespace int_flash
