// A decoder whose weights, KV caches and activations lie on the device: token ids go there, logits come back.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "buffer.h"
#include "cache_attention.h"
#include "cache_sequence.h"
#include "decoder_steps.h"
#include "draw_tokens.h"
#include "landing.h"
#include "linear.h"
#include "step_graph.h"

namespace intflash {

/** The caller's floats; only read while a decoder is being made. */
struct HostFloats {
    const float* data = nullptr;
    size_t count = 0;
};

struct HostNorm {
    HostFloats gain, bias;
};

struct HostLayer {
    HostNorm attention_norm, mlp_norm;
    HostFloats query_norm, key_norm;
    std::shared_ptr<LinearLayer> qkv, attention_output, mlp_up, mlp_down;
    int64_t window_left;  // negative: all
};

struct DecoderFacts {
    int hidden, heads, kv_heads, head_dim, intermediate, vocabulary, max_tokens, rotary_half;
    float scale;
    double epsilon;
    bool centered;  // layer norms
    Activation activation;
};

struct HostDecoder {
    DecoderFacts facts;
    HostFloats embedding, positions, cos, sin;  // no embedding: the output layer's weights serve
    std::vector<HostLayer> layers;
    HostNorm output_norm;
    std::shared_ptr<LinearLayer> output;
};

/** A sequence's share of a step: its next tokens. */
struct StepPart {
    std::shared_ptr<CacheSequence> sequence;
    std::vector<int32_t> ids;
    int wanted;  // logits after so many of its last tokens, 1 or more
};

/** For the device's worker thread. */
class Decoder {
public:
    /** @throws Failure */
    Decoder(Stream& worker, const HostDecoder& host);

    const DecoderFacts& facts() const { return facts_; }
    int layers() const { return static_cast<int>(layers_.size()); }
    CacheShape cache_shape(bool int4, bool channel_scales) const { return {layers(), facts_.kv_heads, facts_.head_dim, facts_.max_tokens, int4, channel_scales}; }

    /**
     * Runs a step: each part's tokens behind what its sequence holds. The linear layers read their weights once for all; nothing that a
     * sequence gets depends on the others. On failure all sequences stay as they were.
     *
     * @param parts of different sequences whose caches are of one type
     * @param logits [all that parts want, vocabulary]
     * @throws Failure
     */
    void forward(Stream& worker, const std::vector<StepPart>& parts, float* logits);
    /**
     * The same step, which ends in a token in place of each row of logits.
     *
     * @param rules of each row
     * @throws Failure, ERR_NONFINITE also where a row's highest logit is not finite
     */
    std::vector<int32_t> draw(Stream& worker, const std::vector<StepPart>& parts, const std::vector<DrawRules>& rules);

private:
    struct DeviceNorm {
        std::shared_ptr<Buffer> gain, bias;
    };
    struct Layer {
        DeviceNorm attention_norm, mlp_norm;
        std::shared_ptr<Buffer> query_norm, key_norm;
        std::shared_ptr<LinearLayer> qkv, attention_output, mlp_up, mlp_down;
        int64_t window_left;
    };
    /** Memory of a step, kept between steps and grown when one needs more. */
    struct Workspace {
        int tokens = 0, logit_rows = 0;
        size_t step_bytes = 0, sums = 0, states = 0, tickets = 0;  // what the memory below has room for
        int64_t revision = 0;  // of the buffers
        std::shared_ptr<Buffer> step, findings, hidden, floats, codes, scales, largest, qkv, query_codes, query_scales, mixed, wide, append, sum_memory, state_memory, ticket_memory, logits, rules, drawn, layer_scratch;
        std::unique_ptr<Landing> answer;  // the findings, then the tokens drawn
        ProductMemory products;
    };

    /** What a step's kernels need to know besides the weights. */
    struct Step {
        StepTable table{};
        const int32_t *ids = nullptr, *rows = nullptr;  // on the device; rows: tokens whose logits are wanted
        int logit_rows = 0;
        int short_rows = 0;  // query rows of a KV head, at most, among sequences with few tokens; 0: there are none
        int tiles = 0;       // of those, at most
        KeySplit split = KeySplit::kTiles;
        bool int4 = false, channel_scales = false;
    };
    /** A step of as many tokens for each sequence, few of them, all logits wanted: sequences, tokens of one, tiles, KeySplit, cache type and scales. Its kernels differ in nothing else. */
    using GraphKey = std::array<int, 6>;
    struct StepRecord {
        int uses = 0;
        std::unique_ptr<StepGraph> graph;
    };

    /** Puts a step into the stream, up to its logits. */
    Step begin(Stream& worker, const std::vector<StepPart>& parts);
    /** Waits for it, and counts its tokens if all was well. */
    void finish(Stream& worker, const std::vector<StepPart>& parts);
    Step plan(const std::vector<StepPart>& parts) const;
    KeySplit split_of(const Step& step) const;
    /** Places the step's tables in `bytes`, as they will lie in work_.step, and lets `step` point there. */
    void write_tables(const std::vector<StepPart>& parts, Step& step, std::vector<uint8_t>& bytes) const;
    void reserve(Stream& worker, const Step& step);
    void reserve_rows(Stream& worker, int tokens);
    void reserve_products(Stream& worker, int tokens);
    void reserve_scratch(Stream& worker, const Step& step);
    void reserve_layer_scratch(Stream& worker);
    /** Room on the host for what a step finds and that many tokens; before it is begun. */
    void reserve_answer(Stream& worker, size_t drawn);
    /** Everything between the upload of the tables and the download of the logits; allocates nothing and waits for nothing. */
    void launch(const Step& step, cudaStream_t stream) const;
    void launch_layer(int index, const Step& step, cudaStream_t stream) const;
    void attend(const Layer& layer, const CacheLayer& cache, const Step& step, cudaStream_t stream) const;
    void normalize(const DeviceNorm& norm, const float* input, const int32_t* rows, int tokens, const LinearLayer& next, cudaStream_t stream) const;
    /** An MLP up to the input of its second layer. */
    void widen(const Layer& layer, int tokens, cudaStream_t stream) const;
    /** `ahead`: of the linear layer after this one. */
    void project(const LinearLayer& layer, const float* floats, int tokens, float* out, bool accumulate, const WeightsAhead& ahead, cudaStream_t stream) const;
    /** `is_gated`: that layer reads gate and up rows side by side. */
    WeightsAhead beginning_of(const LinearLayer& next, bool is_gated = false) const;
    /** Whether silu(gate) · up comes with the first layer of such an MLP. */
    bool is_swiglu(const Layer& layer) const;
    /** Launches such a step, from its third time on as a graph. */
    void launch_alike(const Step& step, cudaStream_t stream);
    LayerInput input_of(const LinearLayer& layer, int tokens) const;
    float* layer_scratch() const { return work_.layer_scratch->as<float>(); }

    DecoderFacts facts_;
    int padded_, columns_;  // columns: of the widest layer input
    std::shared_ptr<Buffer> embedding_, positions_, cos_, sin_;
    std::vector<Layer> layers_;
    DeviceNorm output_norm_;
    std::shared_ptr<LinearLayer> output_;
    Workspace work_;
    const int shared_bytes_, bytes_ahead_;
    const std::optional<KeySplit> forced_split_;  // INTFLASH_KEY_SPLIT=tiles or runs, for tests and benchmarks
    std::map<GraphKey, StepRecord> graphs_;
    int64_t graphs_revision_ = 0;  // of the memory that they were recorded with
};

}  // namespace intflash
