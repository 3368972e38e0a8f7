// A KV cache in pages of 64 tokens. A page holds all layers; for one layer and KV head it holds an image:
//   [64 keys] rows of codes, [64 values] rows of codes, then [64] each of a key's scale, log2 and inverse of a value's weight.
// Behind the images lie [layers, kv_heads] floats: the largest value scale from the sequence's first token to the page's last.
// A row is `padded` codes, a byte each or, in INT4, two a byte, low nibble first. What attention needs of a value's scale w is τ = log2 w and
// 1 / w (docs/arithmetic.md), so these are stored and not w.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define INT_FLASH_BOTH __host__ __device__ __forceinline__
#else
#define INT_FLASH_BOTH inline
#endif

namespace intflash {

constexpr int kPageTokens = 64;
constexpr int kCacheTile = 128;  // keys; docs/arithmetic.md
constexpr int kCacheRun = 1024;  // keys that a short query's partial sums span
constexpr int kRecent = kPageTokens + 1;  // StepSequence::recent

/** Head dimensions as they are stored: what the kernels are compiled for. */
constexpr int padded_head(int head_dim) { return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256; }

/** Bytes of a row of codes. */
INT_FLASH_BOTH constexpr int code_bytes(int padded, bool int4) { return int4 ? padded / 2 : padded; }
INT_FLASH_BOTH constexpr int64_t image_bytes(int padded, bool int4) { return int64_t{kPageTokens} * (2 * code_bytes(padded, int4) + 3 * 4); }

/** Of `heads` KV heads in all layers. */
constexpr int64_t page_bytes(int64_t heads, int padded, bool int4) { return heads * (image_bytes(padded, int4) + int64_t{sizeof(float)}); }

/**
 * A sequence's part in a step, and its cache. On the device.
 *
 * A value row's scale depends on the largest of the rows before it, 0 while those were all zeros. So that tokens can be taken back as if they had
 * never been there, that number is kept for each whole page (in the page), after each of the last 64 tokens, and from before the last append.
 */
struct alignas(16) StepSequence {
    // These three are read at once: a block of attention can do nothing before it knows them.
    uint8_t* const* pages;  // of each 64 tokens
    int32_t start;          // tokens in the cache before these
    int32_t tokens;
    float* offsets;   // [layers, kv_heads, head_dim]: subtracted from every key, frozen at the first append
    float* channels;  // the same; divides keys before and multiplies queries, powers of two; null: all are 1
    const float* before;    // [layers, kv_heads], `before_stride` apart: the largest value scale of the tokens before these; null: there are none
    float* recent;          // [layers, kv_heads, kRecent]: the same after token t in place t % 64, and from before the last append in the last place
    int32_t before_stride;
    int32_t first;          // of the tokens, among all of the step
};

/** A step's tokens: those of one sequence follow each other. */
struct StepTable {
    const StepSequence* sequences;
    const int32_t* sequence_of;  // [tokens], on the device
    int32_t count, tokens;       // sequences, tokens of all
    int32_t most;                // tokens of one

#ifdef __CUDACC__
    __device__ __forceinline__ int position(int token) const {
        const StepSequence& sequence = sequences[sequence_of[token]];
        return sequence.start + token - sequence.first;
    }
#endif
};

/** What the caches of a step have in common: the layer at hand, and how pages are laid out. */
struct CacheLayer {
    int64_t offset;  // bytes into a page
    int64_t largest_offset;  // the same of the floats behind the images, those of all layers
    int index, padded;
    bool int4, channel_scales;
};

/** One layer of a sequence's cache. */
struct CacheView {
    uint8_t* const* pages;
    int64_t layer_offset;
    int padded;
    bool int4;

    INT_FLASH_BOTH uint8_t* image(int64_t page, int kv_head) const { return pages[page] + layer_offset + kv_head * image_bytes(padded, int4); }
};
INT_FLASH_BOTH CacheView view_of(const StepSequence& sequence, const CacheLayer& layer) { return {sequence.pages, layer.offset, layer.padded, layer.int4}; }

/** Places inside an image; `row` is code_bytes(). */
INT_FLASH_BOTH uint8_t* key_row(uint8_t* image, int token, int row) { return image + int64_t{token} * row; }
INT_FLASH_BOTH uint8_t* value_row(uint8_t* image, int token, int row) { return key_row(image, kPageTokens + token, row); }
INT_FLASH_BOTH float* key_scales(uint8_t* image, int row) { return reinterpret_cast<float*>(image + 2 * kPageTokens * row); }
INT_FLASH_BOTH float* value_taus(uint8_t* image, int row) { return key_scales(image, row) + kPageTokens; }
INT_FLASH_BOTH float* value_inverses(uint8_t* image, int row) { return key_scales(image, row) + 2 * kPageTokens; }

/** Bits of a step's findings. */
enum Finding : uint32_t { kNonfinite = 1, kOverflow = 2 };

}  // namespace intflash
