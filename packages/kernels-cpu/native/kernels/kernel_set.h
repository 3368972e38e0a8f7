// All kernels of one instruction set, whose Simd is included before.
#pragma once
#include "int4_rows.h"
#include "linear_int4.h"
#include "rotate_heads.h"

namespace int_flash {
namespace {

constexpr double kMacsAlone = 500e3;

[[maybe_unused]] constexpr KernelTable kTable = {
    Simd::kName,        kGranule,          Simd::kOffsetProducts, Simd::kLanes,    channel_stats,    pack_keys,
    pack_values,        attention_block,   prepare_int8_row,      word_row_offset, cache_run,        cache_row_scale,
    encode_cache_row,   turn_row,          fit_int4_scale,        encode_int4_row, unpack_int4,      linear_int8_bytes, pack_linear_int8,
    linear_int8,        linear_int4_bytes, pack_linear_int4,      linear_int4,     linear_float,     kBlock,
    kMacsAlone,
    rms_norm_row,       rotate_heads,      swiglu_row,            dot_peak,        read_bytes,
};

}  // namespace
}  // namespace int_flash
