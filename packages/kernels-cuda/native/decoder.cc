#include "decoder.h"

#include <algorithm>

#include "failure.h"

namespace intflash {
namespace {

/** Single tokens in a row after which a sequence gets a graph: recording one costs as much as a few steps. */
constexpr int kStepsBeforeGraph = 3;

std::shared_ptr<Buffer> upload(Stream& worker, const HostFloats& from) {
    if (from.data == nullptr) return nullptr;
    auto buffer = worker.allocate(from.count * sizeof(float));
    check_cuda(cudaMemcpyAsync(buffer->as(), from.data, buffer->bytes(), cudaMemcpyHostToDevice, worker.handle()), "copy weights to the device");
    return buffer;
}

const float* floats_of(const std::shared_ptr<Buffer>& buffer) { return buffer ? buffer->as<float>() : nullptr; }

int ceil_div(int a, int b) { return (a + b - 1) / b; }

void check_findings(uint32_t findings) {
    if (findings & kNonfinite) throw Failure("ERR_NONFINITE", "Expected finite numbers in the model's layers, got NaN or Infinity");
    if (findings & kOverflow) throw Failure("ERR_OVERFLOW", "Expected scores of at most 2^100, got inputs that allow larger ones");
}

}  // namespace

CacheSequence::CacheSequence(Stream& worker, int layers, const DecoderFacts& facts, bool int4)
    : layers_(layers), kv_heads_(facts.kv_heads), padded_(padded_head(facts.head_dim)), max_tokens_(facts.max_tokens), int4_(int4) {
    const size_t heads = static_cast<size_t>(layers_) * static_cast<size_t>(kv_heads_);
    table_ = worker.allocate(static_cast<size_t>(ceil_div(max_tokens_, kPageTokens)) * sizeof(uint8_t*));
    offsets_ = worker.allocate(heads * static_cast<size_t>(facts.head_dim) * sizeof(float));
    largest_ = worker.allocate(heads * sizeof(float));
}

int64_t CacheSequence::bytes() const {
    int64_t sum = static_cast<int64_t>(table_->bytes() + offsets_->bytes() + largest_->bytes());
    for (const auto& page : pages_) sum += static_cast<int64_t>(page->bytes());
    return sum;
}

void CacheSequence::truncate(int length) {
    length_ = std::min(length_, length);
    pages_.resize(static_cast<size_t>(ceil_div(length_, kPageTokens)));
}

void CacheSequence::reserve(Stream& worker, int tokens) {
    if (tokens > max_tokens_) throw Failure("ERR_SHAPE", "Expected at most " + std::to_string(max_tokens_) + " tokens in the cache, got " + std::to_string(tokens));
    const size_t wanted = static_cast<size_t>(ceil_div(tokens, kPageTokens)), before = pages_.size();
    if (wanted <= before) return;
    const size_t page_bytes = static_cast<size_t>(layers_ * kv_heads_ * image_bytes(padded_, int4_));
    while (pages_.size() < wanted) pages_.push_back(worker.allocate(page_bytes));
    std::vector<uint8_t*> pointers;
    for (size_t i = before; i < wanted; ++i) pointers.push_back(pages_[i]->as<uint8_t>());
    check_cuda(cudaMemcpyAsync(table_->as<uint8_t*>() + before, pointers.data(), pointers.size() * sizeof(uint8_t*), cudaMemcpyHostToDevice, worker.handle()),
               "copy the page table");
}

Decoder::Decoder(Stream& worker, const HostDecoder& host) : facts_(host.facts), padded_(padded_head(host.facts.head_dim)), columns_(0), output_(host.output) {
    const auto norm = [&](const HostNorm& from) { return DeviceNorm{upload(worker, from.gain), upload(worker, from.bias)}; };
    for (const HostLayer& from : host.layers) {
        layers_.push_back({norm(from.attention_norm), norm(from.mlp_norm), upload(worker, from.query_norm), upload(worker, from.key_norm), from.qkv, from.attention_output,
                           from.mlp_up, from.mlp_down, from.window_left});
        for (const auto& layer : {from.qkv, from.attention_output, from.mlp_up, from.mlp_down}) columns_ = std::max(columns_, layer->columns());
    }
    columns_ = std::max(columns_, output_->columns());
    embedding_ = upload(worker, host.embedding);
    positions_ = upload(worker, host.positions);
    cos_ = upload(worker, host.cos);
    sin_ = upload(worker, host.sin);
    output_norm_ = norm(host.output_norm);
    worker.synchronize();
}

void Decoder::reserve(Stream& worker, int tokens, int tiles, int logit_rows) {
    const auto floats = [&](int64_t count) { return worker.allocate(static_cast<size_t>(count) * sizeof(float)); };
    const int64_t group = facts_.heads / facts_.kv_heads;
    if (!work_.findings) {
        work_.findings = worker.allocate(sizeof(uint32_t));
        const int parts = short_query_parts(kShortQuery * static_cast<int>(group));
        work_.tickets = worker.allocate(static_cast<size_t>(facts_.kv_heads * parts) * sizeof(uint32_t));
        check_cuda(cudaMemsetAsync(work_.tickets->as(), 0, work_.tickets->bytes(), worker.handle()), "clear the tickets");
    }
    if (tokens > work_.tokens) {
        ++work_.revision;
        work_.tokens = 0;  // in case an allocation fails half-way
        const int64_t n = tokens, queries = n * facts_.heads;
        const int64_t widest = std::max<int64_t>(layers_.empty() ? 0 : layers_[0].mlp_up->rows(), facts_.hidden);
        work_.step = worker.allocate(static_cast<size_t>(n + 1) * sizeof(int32_t));
        work_.hidden = floats(n * facts_.hidden);
        work_.floats = floats(n * columns_);
        work_.codes = worker.allocate(static_cast<size_t>(n * columns_));
        work_.scales = floats(n);
        work_.qkv = floats(n * (facts_.heads + 2 * facts_.kv_heads) * facts_.head_dim);
        work_.query_codes = worker.allocate(static_cast<size_t>(queries * padded_));
        work_.query_scales = floats(queries);
        work_.mixed = floats(n * columns_);
        check_cuda(cudaMemsetAsync(work_.mixed->as(), 0, work_.mixed->bytes(), worker.handle()), "clear the padding");
        work_.wide = floats(n * widest);
        work_.append = floats(n * facts_.kv_heads);
        work_.tokens = tokens;
    }
    if (tiles > work_.tiles) {
        ++work_.revision;
        work_.tiles = 0;
        const int rows = kShortQuery * static_cast<int>(group);
        work_.sums = worker.allocate(static_cast<size_t>(short_query_sums(facts_.kv_heads, rows, padded_, tiles)) * sizeof(int32_t));
        work_.states = floats(int64_t{2} * facts_.kv_heads * tiles * rows);
        work_.tiles = tiles;
    }
    if (logit_rows > work_.logit_rows) {
        ++work_.revision;
        work_.logit_rows = 0;
        work_.logits = floats(static_cast<int64_t>(logit_rows) * facts_.vocabulary);
        work_.logit_rows = logit_rows;
    }
}

LayerInput Decoder::input_of(const LinearLayer& layer) const {
    const Int8Rows codes = layer.is_int8() ? Int8Rows{work_.codes->as<int8_t>(), work_.scales->as<float>()} : Int8Rows{};
    return {work_.floats->as<float>(), codes, layer.columns()};
}

void Decoder::normalize(const DeviceNorm& norm, const float* input, int tokens, const LinearLayer& next, cudaStream_t stream) const {
    const Norm how{floats_of(norm.gain), floats_of(norm.bias), facts_.epsilon, facts_.centered};
    check_cuda(launch_norm(how, input, tokens, facts_.hidden, input_of(next), work_.findings->as<uint32_t>(), stream), "normalize");
}

void Decoder::project(const LinearLayer& layer, int tokens, float* out, bool accumulate, cudaStream_t stream) const {
    const LayerInput input = input_of(layer);
    if (layer.is_int8()) layer.multiply(input.codes, tokens, out, accumulate, stream);
    else layer.multiply(input.floats, tokens, out, accumulate, stream);
}

void Decoder::attend(const Layer& layer, const CacheView& cache, const Step& step, cudaStream_t stream) const {
    CacheAttention args{};
    args.cache = cache;
    args.query = {work_.query_codes->as<int8_t>(), work_.query_scales->as<float>()};
    args.start = work_.step->as<int32_t>();
    args.tokens = step.tokens;
    args.heads = facts_.heads;
    args.kv_heads = facts_.kv_heads;
    args.head_dim = facts_.head_dim;
    args.scale = facts_.scale;
    args.window_left = layer.window_left;
    args.out = work_.mixed->as<float>();
    args.out_stride = layer.attention_output->columns();
    args.findings = work_.findings->as<uint32_t>();
    if (step.tokens <= kShortQuery) {
        const ShortQueryScratch scratch{work_.sums->as<int32_t>(), work_.states->as<float>(), work_.tickets->as<uint32_t>()};
        check_cuda(launch_short_query(args, scratch, step.tiles, stream), "attend the cache");
    } else {
        check_cuda(launch_long_query(args, stream), "attend the cache");
    }
}

void Decoder::launch_layer(int index, const Step& step, cudaStream_t stream) const {
    const Layer& layer = layers_[static_cast<size_t>(index)];
    const int tokens = step.tokens;
    const int32_t* start = work_.step->as<int32_t>();
    uint32_t* findings = work_.findings->as<uint32_t>();
    float* hidden = work_.hidden->as<float>();
    normalize(layer.attention_norm, hidden, tokens, *layer.qkv, stream);
    project(*layer.qkv, tokens, work_.qkv->as<float>(), false, stream);

    const Heads heads{work_.qkv->as<float>(), tokens, facts_.heads, facts_.kv_heads, facts_.head_dim};
    const HeadNorms head_norms{floats_of(layer.query_norm), floats_of(layer.key_norm), facts_.epsilon};
    const Rotation rotation{floats_of(cos_), floats_of(sin_), facts_.rotary_half};
    const bool int4 = step.sequence.int4_;
    const QueryTarget queries{work_.query_codes->as<int8_t>(), work_.query_scales->as<float>(), padded_, int4};
    check_cuda(launch_turn_heads(heads, head_norms, rotation, start, queries, findings, stream), "turn the heads");
    const CacheView cache{step.sequence.table_->as<uint8_t*>(), index * facts_.kv_heads * image_bytes(padded_, int4), padded_, int4};
    const int64_t first_head = int64_t{index} * facts_.kv_heads;
    const CacheMemory memory{step.sequence.offsets_->as<float>() + first_head * facts_.head_dim, step.sequence.largest_->as<float>() + first_head};
    check_cuda(launch_append(heads, cache, memory, start, work_.append->as<float>(), findings, stream), "append to the cache");

    attend(layer, cache, step, stream);
    const LinearLayer& output = *layer.attention_output;
    if (int4) check_cuda(launch_rotate_back(work_.mixed->as<float>(), output.columns(), tokens, facts_.heads, facts_.head_dim, stream), "rotate the heads back");
    if (output.is_int8()) {
        const LayerInput input = input_of(output);
        check_cuda(launch_quantize_rows(work_.mixed->as<float>(), output.columns(), tokens, output.cols(), input.codes, findings, stream), "quantize the heads");
        output.multiply(input.codes, tokens, hidden, true, stream);
    } else {
        output.multiply(work_.mixed->as<float>(), tokens, hidden, true, stream);
    }

    normalize(layer.mlp_norm, hidden, tokens, *layer.mlp_up, stream);
    project(*layer.mlp_up, tokens, work_.wide->as<float>(), false, stream);
    check_cuda(launch_activate(facts_.activation, work_.wide->as<float>(), tokens, facts_.intermediate, input_of(*layer.mlp_down), findings, stream), "activate");
    project(*layer.mlp_down, tokens, hidden, true, stream);
}

void Decoder::launch(const Step& step, cudaStream_t stream) const {
    check_cuda(cudaMemsetAsync(work_.findings->as(), 0, sizeof(uint32_t), stream), "clear the findings");
    const int32_t* start = work_.step->as<int32_t>();
    const Embedding embedding{embedding_ ? floats_of(embedding_) : output_->float_weights(), floats_of(positions_), embedding_ ? facts_.hidden : output_->columns(), facts_.hidden};
    check_cuda(launch_embed(embedding, start + 1, start, step.tokens, work_.hidden->as<float>(), stream), "embed the tokens");
    for (int index = 0; index < layers(); ++index) launch_layer(index, step, stream);
    const float* last = work_.hidden->as<float>() + static_cast<int64_t>(step.tokens - step.logit_rows) * facts_.hidden;
    normalize(output_norm_, last, step.logit_rows, *output_, stream);
    project(*output_, step.logit_rows, work_.logits->as<float>(), false, stream);
}

void Decoder::replay(CacheSequence& sequence, int tiles, cudaStream_t stream) const {
    if (!sequence.graph_ || sequence.graph_tiles_ != tiles || sequence.graph_memory_ != work_.revision) {
        sequence.graph_.reset();
        sequence.graph_ = std::make_unique<StepGraph>([&](cudaStream_t recorded) { launch({sequence, 1, tiles, 1}, recorded); });
        sequence.graph_tiles_ = tiles;
        sequence.graph_memory_ = work_.revision;
    }
    sequence.graph_->replay(stream);
}

void Decoder::forward(Stream& worker, CacheSequence& sequence, const std::vector<int32_t>& ids, bool all_logits, float* logits) {
    const cudaStream_t stream = worker.handle();
    const int tokens = static_cast<int>(ids.size()), length = sequence.length_ + tokens, logit_rows = all_logits ? tokens : 1;
    sequence.reserve(worker, length);
    // Powers of two: a cache that grows a token a step asks for more scratch memory, and for another graph, only now and then.
    int tiles = 8;
    while (int64_t{tiles} * kCacheTile < length) tiles *= 2;
    reserve(worker, tokens, tokens <= kShortQuery ? tiles : 0, logit_rows);

    std::vector<int32_t> step{sequence.length_};
    step.insert(step.end(), ids.begin(), ids.end());
    check_cuda(cudaMemcpyAsync(work_.step->as(), step.data(), step.size() * sizeof(int32_t), cudaMemcpyHostToDevice, stream), "copy the tokens");
    sequence.single_steps_ = tokens == 1 ? sequence.single_steps_ + 1 : 0;
    if (sequence.single_steps_ >= kStepsBeforeGraph) replay(sequence, tiles, stream);
    else launch({sequence, tokens, tiles, logit_rows}, stream);

    uint32_t findings = 0;
    check_cuda(cudaMemcpyAsync(&findings, work_.findings->as(), sizeof findings, cudaMemcpyDeviceToHost, stream), "read the findings");
    const size_t bytes = static_cast<size_t>(logit_rows) * static_cast<size_t>(facts_.vocabulary) * sizeof(float);
    check_cuda(cudaMemcpyAsync(logits, work_.logits->as(), bytes, cudaMemcpyDeviceToHost, stream), "copy the logits to the host");
    worker.synchronize();
    check_findings(findings);
    sequence.length_ = length;
}

}  // namespace intflash
