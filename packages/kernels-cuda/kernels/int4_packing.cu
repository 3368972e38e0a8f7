// See int4_packing.h. A word is eight codes. Rows that lie without gaps, 16 or 32 codes a thread and step; others, and what is left of those, a word a step.
#include <cuda_runtime.h>

#include <algorithm>

#include "int4_codes.cuh"
#include "int4_packing.h"

namespace intflash {
namespace {

constexpr int kThreads = 256, kMaxBlocks = 4096, kCodes = 8;

/** Where word `index` lies, row after row; of `bytes`. */
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

/** A byte with its high half set for each code outside [-8, 7]: one inside is in [0, 15] now. */
__device__ __forceinline__ uint32_t outside(uint32_t codes) { return __vadd4(codes, 0x08080808u) & 0xf0f0f0f0u; }

__device__ __forceinline__ uint32_t pack_word(uint32_t first, uint32_t second) { return __byte_perm(pair_up(first), pair_up(second), 0x6420); }

__device__ __forceinline__ void report(uint32_t found, uint32_t* bad) {
    if (found != 0) atomicOr(bad, static_cast<uint32_t>(Given::kInt4Codes));
}

/** Words from `first` on. */
__global__ void __launch_bounds__(kThreads) pack_codes(const CodeRows from, int64_t first, int64_t words, uint32_t* packed, uint32_t* bad) {
    const int64_t step = int64_t{gridDim.x} * kThreads;
    uint32_t found = 0;
    for (int64_t i = first + int64_t{blockIdx.x} * kThreads + threadIdx.x; i < words; i += step) {
        const uint8_t* source = place_of(from, i, kCodes);
        const uint32_t low = load_word(source), high = load_word(source + 4);
        found |= outside(low) | outside(high);
        packed[i] = pack_word(low, high);
    }
    report(found, bad);
}

__global__ void __launch_bounds__(kThreads) unpack_codes(const CodeRows from, int64_t first, int64_t words, uint2* codes) {
    const int64_t step = int64_t{gridDim.x} * kThreads;
    for (int64_t i = first + int64_t{blockIdx.x} * kThreads + threadIdx.x; i < words; i += step) codes[i] = unpack_int4(load_word(place_of(from, i, kCodes / 2)));
}

__global__ void __launch_bounds__(kThreads) pack_dense(const uint4* codes, int64_t count, uint4* packed, uint32_t* bad) {
    const int64_t step = int64_t{gridDim.x} * kThreads;
    uint32_t found = 0;
#pragma unroll 2
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
        const uint4 a = codes[2 * i], b = codes[2 * i + 1];
        found |= outside(a.x) | outside(a.y) | outside(a.z) | outside(a.w) | outside(b.x) | outside(b.y) | outside(b.z) | outside(b.w);
        packed[i] = make_uint4(pack_word(a.x, a.y), pack_word(a.z, a.w), pack_word(b.x, b.y), pack_word(b.z, b.w));
    }
    report(found, bad);
}

/** 16 codes a thread and step: what a warp writes at once are whole lines. */
__global__ void __launch_bounds__(kThreads) unpack_dense(const uint2* packed, int64_t count, uint4* codes) {
    const int64_t step = int64_t{gridDim.x} * kThreads;
#pragma unroll 4
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
        const uint2 words = packed[i];
        const uint2 low = unpack_int4(words.x), high = unpack_int4(words.y);
        codes[i] = make_uint4(low.x, low.y, high.x, high.y);
    }
}

constexpr int kPackedWords = 4, kUnpackedWords = 2;  // of a thread's step

int64_t words_of(const CodeRows& rows) { return rows.rows * (rows.dim / kCodes); }
unsigned blocks_of(int64_t threads) { return static_cast<unsigned>(std::min<int64_t>((threads + kThreads - 1) / kThreads, kMaxBlocks)); }

/** Of rows of `bytes`: how many groups of `words` lie one after the other on 16 bytes. Where there is one row, head or batch, its stride does not count. */
int64_t dense_groups(const CodeRows& rows, int64_t bytes, int words) {
    const int64_t head = bytes * rows.tokens, batch = head * rows.heads, batches = rows.rows / (int64_t{rows.tokens} * rows.heads);
    const bool is_dense = (rows.tokens == 1 || rows.strides.token == bytes) && (rows.heads == 1 || rows.strides.head == head) && (batches == 1 || rows.strides.batch == batch);
    return is_dense && reinterpret_cast<uintptr_t>(rows.data) % sizeof(uint4) == 0 ? words_of(rows) / words : 0;
}

}  // namespace

cudaError_t launch_pack_int4(const CodeRows& from, uint32_t* packed, Findings* findings, cudaStream_t stream) {
    const int64_t words = words_of(from);
    if (words == 0) return cudaSuccess;
    const int64_t groups = dense_groups(from, from.dim, kPackedWords), left = words - groups * kPackedWords;
    if (groups > 0) pack_dense<<<blocks_of(groups), kThreads, 0, stream>>>(reinterpret_cast<const uint4*>(from.data), groups, reinterpret_cast<uint4*>(packed), &findings->bad_given);
    if (left > 0) pack_codes<<<blocks_of(left), kThreads, 0, stream>>>(from, words - left, words, packed, &findings->bad_given);
    return cudaGetLastError();
}

cudaError_t launch_unpack_int4(const CodeRows& from, uint2* codes, cudaStream_t stream) {
    const int64_t words = words_of(from);
    if (words == 0) return cudaSuccess;
    const int64_t groups = dense_groups(from, from.dim / 2, kUnpackedWords), left = words - groups * kUnpackedWords;
    if (groups > 0) unpack_dense<<<blocks_of(groups), kThreads, 0, stream>>>(reinterpret_cast<const uint2*>(from.data), groups, reinterpret_cast<uint4*>(codes));
    if (left > 0) unpack_codes<<<blocks_of(left), kThreads, 0, stream>>>(from, words - left, words, codes);
    return cudaGetLastError();
}

}  // namespace intflash
