// What one instruction set offers, as plain data and function pointers. Everything behind a table is compiled with that instruction
// set's flags and has internal linkage, so that the linker cannot hand AVX-512 code to a CPU without it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace int_flash {

constexpr int kTileKeys = 128;    // docs/arithmetic.md, "Tiles"
constexpr int kRunKeys = 1024;    // cache attention of few queries splits the keys into runs of this length
constexpr int kPageTokens = 64;   // of a paged cache; KV_PAGE_TOKENS in packages/ops
constexpr int kMaxHeadDim = 256;  // judged in packages/ops
constexpr int kMaxBlockRows = 64; // queries a task computes
constexpr int kRowGroup = 4;      // queries a register tile holds

enum class Precision : int { kFullInt8, kHalfInt8, kPaperInt8, kInt4Qk, kFp32 };
enum class ElementType : int { kFloat32, kFloat16, kBfloat16, kInt8, kInt4 };
enum class MaskType : int { kNone, kBool, kFloat32 };

// Rows of `dim` contiguous elements, `token_stride` elements apart.
struct RowSource {
    const void* data;
    ElementType type;
    ptrdiff_t token_stride;
    int dim;
};

// One sequence's keys and values of one head, packed for the register tiles. `padded` = tokens rounded up to whole tiles.
struct HeadPack {
    int64_t tokens;
    int64_t padded;
    void* keys;           // [key block][dim / granule][keys of a block] words
    void* values;         // [channel block][padded / granule][channels of a block] words
    int32_t* value_sums;  // [padded / 128][padded channels]: 128 * sums of codes, where the instruction set needs them
    float* key_scale;     // [padded]; 0 past the end, up to the end of its key block
    float* tau;           // [padded]: log2 of the token's value weight
    float* inverse_weight;  // [padded]
    float* channel;       // [headDimV]
    float* key_mean;      // [headDim]; what smooth-K subtracted, zeros without it
};

// Statistics over all tokens of a head, gathered before any row can be quantized.
struct HeadStats {
    uint32_t max_bits;  // largest |x| as float32 bits; >= 0x7f800000 means a NaN or an Infinity
};

struct MaskRows {
    MaskType type;
    const void* data;  // element (query 0, key 0) of this head
    ptrdiff_t query_stride, key_stride;
};

struct Checksums {
    uint64_t scores, products;
};

// Rows that will be needed soon; a count of 0: none.
struct RowsAhead {
    const char* data;
    ptrdiff_t stride;  // bytes
    int row_bytes, count;
};

// A block of queries of one head against all keys that they may see.
struct BlockArgs {
    Precision precision;
    int head_dim, head_dim_v;
    float scale, softcap;
    int64_t first_query;  // in its sequence
    int rows;
    // Visible keys of query i: [i + shift_left, i + shift_right], cut to [0, tokens).
    int64_t shift_left, shift_right;
    RowSource query;            // starts at the block's first row
    RowsAhead next_query;       // of the block that this thread computes next
    const float* query_scale;   // for int8 queries: the scale of each row …
    ptrdiff_t query_scale_stride;
    const HeadPack* head;
    MaskRows mask;
    float* out;  // of the block's first row
    ptrdiff_t out_stride;
    float* lse;  // null: not wanted
    ptrdiff_t lse_stride;
    Checksums* checksums;         // null: not wanted
    const volatile bool* aborted;  // checked once a tile
};

struct BlockResult {
    float max_query_scale;    // for the overflow rule
    int bad_row, bad_column;  // first NaN or Infinity of the block's queries; bad_row -1: none
};

// One kv head of a cache, seen by `rows` queries over the keys of one run.
struct CacheRunArgs {
    ElementType type;  // kInt8, kInt4 or kFloat32
    int head_dim;
    const void* keys;  // row of key `first`
    const void* values;
    const float* key_scale;
    const float* value_scale;
    int64_t first;       // key whose row and scales come first
    int64_t begin, end;  // keys of this run
    int64_t readable;    // rows up to this key lie behind one another, end or later: worth fetching ahead
    int64_t next;        // rows from `first` to those that this thread most likely reads after them; 0: none
    int rows;
    const uint32_t* query;  // prepared rows, query_words apart
    const float* row_scale;    // r (integer scores) or unused
    const float* natural_scale;  // f32(sQ * scale), or scale for float
    const int64_t* visible_begin;  // per row
    const int64_t* visible_end;
    float softcap;
    float* partial_max;   // [rows]
    float* partial_sum;   // [rows]
    float* partial_out;   // [rows][kMaxHeadDim padded = out_width]
    int out_width;
    float max_key_scale;  // out: largest key scale seen
};

// Heads of consecutive positions; cosines and sines of those positions, [tokens][half].
struct RotaryArgs {
    const float *from, *cos, *sin;
    float* to;
    int64_t tokens, from_stride, to_stride;
    int heads, head_dim, half;
};

// Float weights of so many rows lie side by side, kFloatColumns of each in turn: whoever reads a few rows reads on in one line.
constexpr int kFloatRows = 4, kFloatColumns = 16;

struct LinearArgs {
    int rows, cols;
    const void* weights;   // packed
    bool bfloat16;         // float weights lie as bfloat16
    bool accumulate;       // out += y
    const float* scales;   // int8 only
    const float* bias;     // may be null
    const void* input;     // prepared rows, input_words apart
    int input_words;
    const float* input_scale;  // [tokens] for int8; [tokens][cols / group] for int4
    int group;                 // int4: columns that share a scale; its weight scales are [row block][cols / group][row step]
    const int32_t* starts;     // what dots start at, as input_scale
    int tokens;
    float* out;  // of first_row: [tokens, last_row - first_row], out_stride apart
    int out_stride;
    int first_row;  // first row of `weights`' block range
    int last_row;   // one past
};

struct alignas(64) Scratch {
    alignas(64) uint32_t query[kMaxBlockRows * kMaxHeadDim];
    alignas(64) float out[kMaxBlockRows * kMaxHeadDim];
    alignas(64) int32_t scores[kRowGroup * kTileKeys];
    alignas(64) float exponent[2][kRowGroup * kTileKeys];  // of a group and of the next one, like the weights
    alignas(64) uint32_t weights[2][kRowGroup * kTileKeys];     // P as words
    alignas(64) int32_t products[kRowGroup * kMaxHeadDim];
    // Of sixteen queries at a time, where a kernel takes so many.
    alignas(64) int32_t tile_sums[2][16 * kTileKeys];      // scores with a tile, of two meetings
    alignas(64) uint32_t tile_weights[2][16 * kTileKeys];  // P as words, likewise
    alignas(64) int32_t tile_starts[kMaxBlockRows][16];    // what scores of a query start at, in every column
    alignas(64) int32_t tile_products[2][16 * 16];         // of two times 16 channels
    alignas(64) int32_t tile_sums_of_products[16][kMaxHeadDim];  // of all, for checksums
    alignas(64) float row[kMaxHeadDim + 16];
    alignas(64) int8_t codes[4 * (kMaxHeadDim + 64)];
    alignas(64) float key_scale[kTileKeys], tau[kTileKeys], inverse_weight[kTileKeys];
    alignas(64) int8_t tile_keys[kTileKeys * kMaxHeadDim];
    alignas(64) int8_t tile_values[kTileKeys * kMaxHeadDim];
    alignas(64) float float_tile[kTileKeys * kMaxHeadDim];
    float running_max[kMaxBlockRows], row_sum[kMaxBlockRows], row_scale[kMaxBlockRows], natural_scale[kMaxBlockRows];
    int32_t score_start[kMaxBlockRows];
};

struct KernelTable {
    const char* name;
    int granule;             // codes a 32-bit word holds
    bool needs_value_sums;
    int channel_lanes;       // padded channels are a multiple of it

    // Adds up (K) or takes the maximum of (V) each channel over the tokens [0, tokens). `mean` or `maximum` may be null.
    void (*channel_stats)(const RowSource& rows, int64_t tokens, float* mean, float* maximum, HeadStats* stats);
    // Quantizes and packs the tokens [begin, end), begin a multiple of 128; the last chunk fills the padding.
    void (*pack_keys)(const RowSource& rows, const float* scales, ptrdiff_t scale_stride, Precision precision, int64_t begin,
                      int64_t end, HeadPack* head, Scratch* scratch, HeadStats* stats, float* max_scale);
    // channel_max: per channel (full-int8) or one number for the head (paper-int8), null for codes and float values.
    void (*pack_values)(const RowSource& rows, const float* scales, ptrdiff_t scale_stride, Precision precision,
                        const float* channel_max, int64_t begin, int64_t end, HeadPack* head, Scratch* scratch, HeadStats* stats);
    void (*attention_block)(const BlockArgs& args, Scratch* scratch, BlockResult* result);

    // Prepares a float row for cache_run or linear: codes as words (`words` of them), its scale, largest magnitude bits.
    void (*prepare_int8_row)(const float* row, int dim, uint32_t* words, float* scale, uint32_t* max_bits, Scratch* scratch);
    int32_t (*score_start)(const uint32_t* words, int dim);  // what a dot product with a prepared row starts at
    void (*cache_run)(CacheRunArgs* args, Scratch* scratch);
    // A cache's row less `shift` (or null) to `row` (dim rounded up to 16); returns its INT8 scale, NaN for a row that is not finite.
    float (*cache_row_scale)(const float* source, const float* shift, int dim, float* row);
    void (*encode_cache_row)(const float* row, int dim, float scale, int8_t* codes);
    // A row less `shift` (or null), turned by the Hadamard matrix, to `row` (dim rounded up to 16); false for a row that is not finite then.
    bool (*turn_row)(const float* source, const float* shift, int dim, float* row);
    float (*fit_int4_scale)(const float* row, int dim, bool* narrowed);
    void (*encode_int4_row)(const float* row, int dim, float scale, bool narrowed, uint8_t* packed);
    void (*unpack_int4)(const uint8_t* packed, ptrdiff_t bytes, int8_t* codes);

    size_t (*linear_int8_bytes)(int rows, int cols);
    void (*pack_linear_int8)(const int8_t* codes, int rows, int cols, void* packed);
    void (*linear_int8)(const LinearArgs& args, Scratch* scratch);
    size_t (*linear_int4_bytes)(int rows, int cols);
    void (*pack_linear_int4)(const uint8_t* codes, int rows, int cols, void* packed);
    void (*linear_int4)(const LinearArgs& args, Scratch* scratch);
    void (*linear_float)(const LinearArgs& args, Scratch* scratch);
    int linear_row_step;  // task boundaries fall on multiples of it
    // Multiply-adds of codes that one core does while a helper wakes: from there on a layer is shared.
    double macs_alone;

    void (*rms_norm_row)(const float* x, const float* gain, double epsilon, int dim, float* out);
    void (*rotate_heads)(const RotaryArgs& args);
    void (*swiglu_row)(const float* gate, const float* up, int width, float* out);

    // Yardsticks: kernels/machine_limits.h.
    double (*dot_peak)(int64_t rounds, uint32_t* result);
    uint32_t (*read_bytes)(const void* data, int64_t bytes);
};

// Channels or keys rounded up.
constexpr int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

const KernelTable* portable_kernels();
const KernelTable* avx2_kernels();
const KernelTable* avx_vnni_kernels();
const KernelTable* avx512_vnni_kernels();
const KernelTable* amx_int8_kernels();
const KernelTable* neon_kernels();
const KernelTable* neon_dot_kernels();

}  // namespace int_flash
