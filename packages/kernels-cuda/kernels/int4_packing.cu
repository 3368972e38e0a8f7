// See int4_packing.h. Eight codes a thread and step: bound by memory.
#include <cuda_runtime.h>

#include <algorithm>

#include "int4_codes.cuh"
#include "int4_packing.h"

namespace intflash {
namespace {

constexpr int kThreads = 256, kMaxBlocks = 4096, kCodes = 8;

/** Byte `byte` of the row that has the eight codes of number `index`, row after row. */
__device__ __forceinline__ const uint8_t* place_of(const CodeRows& rows, int64_t index, int bytes) {
    const int in_row = rows.dim / kCodes;
    const int64_t row = index / in_row, plane = row / rows.tokens;
    return rows.data + plane / rows.heads * rows.strides.batch + plane % rows.heads * rows.strides.head + row % rows.tokens * rows.strides.token + index % in_row * bytes;
}

/** Four bytes from anywhere. */
__device__ __forceinline__ uint32_t load_word(const uint8_t* from) {
    if (reinterpret_cast<uintptr_t>(from) % 4 == 0) return *reinterpret_cast<const uint32_t*>(from);
    return from[0] | from[1] << 8 | from[2] << 16 | static_cast<uint32_t>(from[3]) << 24;
}

/** Four codes of a byte each to the low two bytes of a pair: bytes 0 and 2. */
__device__ __forceinline__ uint32_t pair_up(uint32_t codes) {
    const uint32_t nibbles = codes & 0x0f0f0f0fu;
    return nibbles | nibbles >> 4;
}

__global__ void __launch_bounds__(kThreads) pack_codes(const CodeRows from, int64_t words, uint32_t* packed, uint32_t* bad) {
    const int64_t step = int64_t{gridDim.x} * kThreads;
    uint32_t high = 0;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < words; i += step) {
        const uint8_t* source = place_of(from, i, kCodes);
        const uint32_t first = load_word(source), second = load_word(source + 4);
        high |= (__vadd4(first, 0x08080808u) | __vadd4(second, 0x08080808u)) & 0xf0f0f0f0u;  // a code of [-8, 7] is one of [0, 15] now
        packed[i] = __byte_perm(pair_up(first), pair_up(second), 0x6420);
    }
    if (high != 0) atomicOr(bad, static_cast<uint32_t>(Given::kInt4Codes));
}

__global__ void __launch_bounds__(kThreads) unpack_codes(const CodeRows from, int64_t words, uint2* codes) {
    const int64_t step = int64_t{gridDim.x} * kThreads;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < words; i += step) codes[i] = unpack_int4(load_word(place_of(from, i, kCodes / 2)));
}

int64_t words_of(const CodeRows& rows) { return rows.rows * (rows.dim / kCodes); }
unsigned blocks_of(int64_t words) { return static_cast<unsigned>(std::min<int64_t>((words + kThreads - 1) / kThreads, kMaxBlocks)); }

}  // namespace

cudaError_t launch_pack_int4(const CodeRows& from, uint32_t* packed, Findings* findings, cudaStream_t stream) {
    const int64_t words = words_of(from);
    if (words == 0) return cudaSuccess;
    pack_codes<<<blocks_of(words), kThreads, 0, stream>>>(from, words, packed, &findings->bad_given);
    return cudaGetLastError();
}

cudaError_t launch_unpack_int4(const CodeRows& from, uint2* codes, cudaStream_t stream) {
    const int64_t words = words_of(from);
    if (words == 0) return cudaSuccess;
    unpack_codes<<<blocks_of(words), kThreads, 0, stream>>>(from, words, codes);
    return cudaGetLastError();
}

}  // namespace intflash
