// A decoder whose weights, KV caches and activations lie on the device: token ids go there, logits come back.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "cache_attention.h"
#include "decoder_steps.h"
#include "buffer.h"
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

/** One sequence's KV cache. Members other than the facts are for the device's worker thread. */
class CacheSequence {
public:
    CacheSequence(Stream& worker, int layers, const DecoderFacts& facts, bool int4);

    int length() const { return length_; }
    int64_t bytes() const;
    void truncate(int length);

private:
    friend class Decoder;
    void reserve(Stream& worker, int tokens);

    int layers_, kv_heads_, padded_, max_tokens_, length_ = 0;
    bool int4_;
    std::vector<std::shared_ptr<Buffer>> pages_;
    std::shared_ptr<Buffer> table_, offsets_, largest_;
    /** A step of one token, good while scratch memory and tiles are what they were when it was recorded. */
    std::unique_ptr<StepGraph> graph_;
    int graph_tiles_ = 0, single_steps_ = 0;
    int64_t graph_memory_ = 0;
};

/** For the device's worker thread. */
class Decoder {
public:
    /** @throws Failure */
    Decoder(Stream& worker, const HostDecoder& host);

    const DecoderFacts& facts() const { return facts_; }
    int layers() const { return static_cast<int>(layers_.size()); }

    /**
     * Runs `ids` behind what the sequence holds; on failure the sequence stays as it was.
     *
     * @param logits [ids, vocabulary] with `all_logits`, else [vocabulary]: after the last token
     * @throws Failure
     */
    void forward(Stream& worker, CacheSequence& sequence, const std::vector<int32_t>& ids, bool all_logits, float* logits);

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
        int tokens = 0, tiles = 0, logit_rows = 0;
        int64_t revision = 0;  // of the buffers
        std::shared_ptr<Buffer> step, findings, hidden, floats, codes, scales, qkv, query_codes, query_scales, mixed, wide, append, sums, states, tickets, logits;
    };

    /** What a step's kernels need to know besides the weights. */
    struct Step {
        const CacheSequence& sequence;
        int tokens, tiles, logit_rows;
    };

    void reserve(Stream& worker, int tokens, int tiles, int logit_rows);
    /** Everything between the upload of the tokens and the download of the logits; allocates nothing and waits for nothing. */
    void launch(const Step& step, cudaStream_t stream) const;
    void launch_layer(int index, const Step& step, cudaStream_t stream) const;
    void attend(const Layer& layer, const CacheView& cache, const Step& step, cudaStream_t stream) const;
    void normalize(const DeviceNorm& norm, const float* input, int tokens, const LinearLayer& next, cudaStream_t stream) const;
    void project(const LinearLayer& layer, int tokens, float* out, bool accumulate, cudaStream_t stream) const;
    void replay(CacheSequence& sequence, int tiles, cudaStream_t stream) const;
    LayerInput input_of(const LinearLayer& layer) const;

    DecoderFacts facts_;
    int padded_, columns_;  // columns: of the widest layer input
    std::shared_ptr<Buffer> embedding_, positions_, cos_, sin_;
    std::vector<Layer> layers_;
    DeviceNorm output_norm_;
    std::shared_ptr<LinearLayer> output_;
    Workspace work_;
};

}  // namespace intflash
