// What a decoder does between its linear layers. Sums and functions in float64, results rounded to float32 where the TypeScript
// layers (packages/llm) round them, so that both give the same bits but for a last place of exp, tanh or erf.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "cache_page.h"
#include "linear_int4.h"
#include "linear_int8.h"

namespace intflash {

/** Where rows of a linear layer's input go: floats, `columns` apart, and codes for an INT8 layer or an INT4 layer (null: none wanted). */
struct LayerInput {
    float* floats;
    Int8Rows codes;
    GroupRows groups;
    int columns;  // of the layer, padded

    INT_FLASH_BOTH bool wants_codes() const { return codes.codes != nullptr || groups.codes != nullptr; }
};

struct Embedding {
    const float* table;      // [vocabulary, stride], or null:
    const uint16_t* bfloat16;  // the same in 16 bits
    const float* positions;  // [max tokens, hidden] or null
    int64_t stride;
    int hidden;
};

/** hidden[t] = table[ids[t]] (+ positions[position of t]). */
cudaError_t launch_embed(const Embedding& embedding, const int32_t* ids, const StepTable& step, float* hidden, cudaStream_t stream);

struct Norm {
    const float *gain, *bias;  // bias: layer norm's, or null
    double epsilon;
    bool centered;  // layer norm; otherwise root mean square
};

/**
 * @param input   [.., width]
 * @param rows    [tokens] of `input`, on the device; null: the first `tokens`
 * @param out     where codes are wanted, floats are scratch memory at most
 * @param cleared [tokens] that become zero, or null: for the maxima that the functions below and launch_swiglu_int8 raise
 */
cudaError_t launch_norm(const Norm& norm, const float* input, const int32_t* rows, int tokens, int width, const LayerInput& out, uint32_t* cleared, uint32_t* findings, cudaStream_t stream);

enum class Activation : int32_t { kSwiglu, kSilu, kGelu, kGeluTanh };
/**
 * `swiglu` reads a gate row and an up row side by side; the others read one row. Few rows with codes leave their floats, too.
 *
 * @param largest [tokens] zeros, which change
 */
cudaError_t launch_activate(Activation activation, const float* input, int tokens, int width, const LayerInput& out, uint32_t* largest, uint32_t* findings, cudaStream_t stream);
/** Whether the next function can do it: rows of floats would not lie on 16 bytes otherwise. */
bool suits_swiglu_sums(const Int8Weights& weights);
/** `swiglu` with codes of a linear layer's products as launch_finish_int8 takes them, gate rows before up rows. Few rows leave their floats, too; `largest` as above. */
cudaError_t launch_swiglu_sums(const Int8Weights& weights, const int32_t* sums, const float* scales, int tokens, const LayerInput& out, uint32_t* largest, uint32_t* findings,
                               cudaStream_t stream);

/** A layer's heads as its projection leaves them: rows of all query heads, all key heads, all value heads. */
struct Heads {
    float* qkv;  // [tokens, (heads + 2 · kv_heads) · head_dim]
    int heads, kv_heads, head_dim;
};

struct Rotation {
    const float *cos, *sin;  // [max tokens, half]; null: heads are not turned
    int half;
};

struct HeadNorms {
    const float *query, *key;  // [head_dim] or null
    double epsilon;
};

/** Where queries go, as CacheQuery of cache_attention.h has them. `rotated`: by the Hadamard matrix first, as an INT4 cache's keys are. */
struct QueryTarget {
    int8_t* codes;
    float* scales;
    int padded;
    bool rotated;
};

enum class TurnedHeads { kAll, kKeys, kQueries };

/** Norms and turns queries and keys in place, and writes the queries' codes, in units of their keys' channels. */
cudaError_t launch_turn_heads(const Heads& heads, const HeadNorms& norms, const Rotation& rotation, const StepTable& step, const QueryTarget& target, const CacheLayer& cache, TurnedHeads which,
                              uint32_t* findings, cudaStream_t stream);

/** Of sequences whose keys' channels have scales: those, and offsets, from the first keys (turned); later ones leave them. Before launch_append. */
cudaError_t launch_freeze_shifts(const Heads& heads, const CacheLayer& cache, const StepTable& step, cudaStream_t stream);

/** Turns what attention made of an INT4 cache's rotated values back: rows.floats, head after head; in place, or into codes where those are wanted. */
cudaError_t launch_rotate_back(const LayerInput& rows, int tokens, int heads, int head_dim, uint32_t* findings, cudaStream_t stream);

/** Whether launch_place_heads can do a step: where no sequence has so many tokens that keys get offsets from them. */
bool can_place_heads(const StepTable& step);
/** What launch_turn_heads and launch_append do, in one launch; keys in `heads` stay as they were. */
cudaError_t launch_place_heads(const Heads& heads, const HeadNorms& norms, const Rotation& rotation, const StepTable& step, const QueryTarget& target, const CacheLayer& cache, uint32_t* findings,
                               cudaStream_t stream);

/** Writes the keys (turned) and values of `heads` behind what their sequences hold. `scratch`: [kv_heads, tokens] floats. */
cudaError_t launch_append(const Heads& heads, const CacheLayer& cache, const StepTable& step, float* scratch, uint32_t* findings, cudaStream_t stream);

}  // namespace intflash
