// Intel AMX: eight registers of up to 16 rows of 64 bytes, and exact sums of products of bytes. Written as instructions, so that the assembler alone need know
// them. A product wants its second operand as vpdpbusd does: four bytes of a column, then those of the next column.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../../arithmetic.h"

namespace int_flash {
namespace {

constexpr int kAmxRows = 16, kAmxBytes = 64;

// What the registers are for; sums have 16 columns of 32 bits.
enum AmxTile { kSums0, kSums1, kSums2, kSums3, kLeft, kRight, kLeftRest, kRightRest };

// The shapes of this thread's registers, for as long as it lives. Left operands have 64 bytes a row, right ones 16 rows of four bytes each; those of the rest
// `rest` bytes a row, and a quarter as many rows.
class AmxShapes {
public:
    explicit AmxShapes(int rest) {
        alignas(64) struct {
            uint8_t palette, start_row, reserved[14];
            uint16_t bytes[16];
            uint8_t rows[16];
        } shapes{};
        shapes.palette = 1;
        for (int tile = 0; tile < 8; tile++) shapes.bytes[tile] = kAmxBytes, shapes.rows[tile] = kAmxRows;
        if (rest > 0) shapes.bytes[kLeftRest] = static_cast<uint16_t>(rest), shapes.rows[kRightRest] = static_cast<uint8_t>(rest / 4);
        __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
    }
    ~AmxShapes() { __asm__ volatile("tilerelease"); }
    AmxShapes(const AmxShapes&) = delete;
    AmxShapes& operator=(const AmxShapes&) = delete;
};

// `stride`: bytes from row to row.
template <AmxTile kTile>
INT_FLASH_INLINE void amx_load(const void* rows, ptrdiff_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride), "i"(kTile) : "memory");
}
template <AmxTile kTile>
INT_FLASH_INLINE void amx_store(void* rows, ptrdiff_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(stride), "i"(kTile) : "memory");
}
template <AmxTile kTile>
INT_FLASH_INLINE void amx_zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
// Signed times unsigned bytes, and unsigned times signed ones.
template <AmxTile kSums, AmxTile kSigned, AmxTile kUnsigned>
INT_FLASH_INLINE void amx_dot_signed() {
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kSigned), "i"(kUnsigned));
}
template <AmxTile kSums, AmxTile kUnsigned, AmxTile kSigned>
INT_FLASH_INLINE void amx_dot_unsigned() {
    __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kUnsigned), "i"(kSigned));
}

}  // namespace
}  // namespace int_flash
