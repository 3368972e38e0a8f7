// A decoder's layer from hidden rows to hidden rows: its linear layers and what stands between them, for a few tokens of one sequence. One call instead of
// seven: between them a small model would spend as long in JavaScript as in its layers.
#pragma once
#include <cstdint>
#include <memory>

#include "cache_append.h"
#include "failure.h"
#include "linear_layer.h"
#include "owned_memory.h"

namespace int_flash {

struct LayerFacts {
    const KernelTable* kernels = nullptr;
    int threads = 1, heads = 0, kv_heads = 0, head_dim = 0;
    int half = 0;  // of the channels that turn with the position
    float scale = 0;
    double epsilon = 0;
    int64_t window_left = -1;  // -1: unlimited

    int64_t row() const { return (int64_t{heads} + 2 * kv_heads) * head_dim; }
};

// All of one hidden size.
struct LayerParts {
    std::shared_ptr<const LinearLayer> qkv, attention_output, mlp_up, mlp_down;  // mlp_up: the gate's rows, then the up projection's
};

struct LayerStep {
    float* hidden = nullptr;  // [tokens, hidden size]; changed in place
    float* rows = nullptr;    // [tokens, LayerFacts::row()], where queries, keys and values go
    const float *cos = nullptr, *sin = nullptr;  // [tokens, half]
    AppendSpec append;  // all but kernels, threads, keys, values, stride, kv_heads and head_dim
};

enum class LayerOutcome { kDone, kNotFinite, kFailed };  // kNotFinite: some key or value in `rows`

class DecoderLayer {
public:
    // False, with `failure` set, when parts do not fit together or there is no memory.
    bool create(const LayerFacts& facts, const LayerParts& parts, const float* attention_gain, const float* mlp_gain, LiveBytes* live, Failure* failure);
    LayerOutcome forward(const LayerStep& step, LiveBytes* live, Failure* failure) const;
    void dispose();  // not its parts
    bool disposed() const { return parts_.qkv == nullptr; }
    const LayerFacts& facts() const { return facts_; }
    int hidden() const { return parts_.qkv->cols(); }

private:
    LayerFacts facts_;
    LayerParts parts_;
    OwnedMemory gains_;  // attention's, then the MLP's
};

}  // namespace int_flash
