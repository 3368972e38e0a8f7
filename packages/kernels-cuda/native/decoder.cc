#include "decoder.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "ceil_div.h"
#include "draw_on_host.h"
#include "failure.h"
#include "host_copy.h"
#include "power_of_two.h"

namespace intflash {
namespace {

/** Equal steps after which there is a graph for them: recording one costs as much as a few. */
constexpr int kStepsBeforeGraph = 3;
constexpr size_t kMostGraphs = 256;
constexpr int kFewestTiles = 8;
/** Of the next layer's weights, at most, and as a part of L2: more is slower again, the layer's own numbers have to wait. */
constexpr int kBytesAhead = 8 << 20, kPartAhead = 6;

std::shared_ptr<Buffer> upload(Stream& worker, const HostFloats& from) {
    if (from.data == nullptr) return nullptr;
    auto buffer = worker.allocate(from.count * sizeof(float));
    check_cuda(cudaMemcpyAsync(buffer->as(), from.data, buffer->bytes(), cudaMemcpyHostToDevice, worker.handle()), "copy weights to the device");
    return buffer;
}

const float* floats_of(const std::shared_ptr<Buffer>& buffer) { return buffer ? buffer->as<float>() : nullptr; }

std::optional<KeySplit> split_from_environment() {
    const char* const wanted = std::getenv("INTFLASH_KEY_SPLIT");
    if (wanted != nullptr && std::strcmp(wanted, "tiles") == 0) return KeySplit::kTiles;
    if (wanted != nullptr && std::strcmp(wanted, "runs") == 0) return KeySplit::kRuns;
    return std::nullopt;
}

void check_findings(uint32_t findings) {
    if (findings & kNonfinite) throw Failure("ERR_NONFINITE", "Expected finite numbers in the model's layers, got NaN or Infinity");
    if (findings & kOverflow) throw Failure("ERR_OVERFLOW", "Expected scores of at most 2^100, got inputs that allow larger ones");
}

}  // namespace

Decoder::Decoder(Stream& worker, const HostDecoder& host) : facts_(host.facts), padded_(padded_head(host.facts.head_dim)), columns_(0), output_(host.output),
      shared_bytes_(worker.device().facts().shared_bytes_per_block), bytes_ahead_(std::min(kBytesAhead, worker.device().facts().l2_bytes / kPartAhead)), forced_split_(split_from_environment()) {
    const auto norm = [&](const HostNorm& from) { return DeviceNorm{upload(worker, from.gain), upload(worker, from.bias)}; };
    if (host.embedding.data == nullptr && !output_->is_float())
        throw Failure("ERR_ARG_TYPE", "Expected an embedding, or an output layer in float32 that has the same numbers");
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

// ── planning a step ──
Decoder::Step Decoder::plan(const std::vector<StepPart>& parts) const {
    Step step;
    const int group = facts_.heads / facts_.kv_heads;
    int longest = 0;
    for (const auto& [sequence, ids, wanted] : parts) {
        const int tokens = static_cast<int>(ids.size());
        step.table.tokens += tokens;
        step.table.most = std::max(step.table.most, tokens);
        step.logit_rows += wanted;
        step.int4 = sequence->shape().int4;
        step.channel_scales = sequence->shape().channel_scales;
        if (tokens > kShortQuery) continue;
        step.short_rows = std::max(step.short_rows, tokens * group);
        longest = std::max(longest, sequence->length() + tokens);
    }
    step.table.count = static_cast<int>(parts.size());
    // Powers of two: caches that grow a token a step ask for more scratch memory, and for another graph, only now and then.
    step.tiles = std::max(kFewestTiles, power_of_two(ceil_div(longest, kCacheTile)));
    step.split = split_of(step);
    return step;
}

KeySplit Decoder::split_of(const Step& step) const {
    if (step.short_rows == 0 || !run_query_fits(padded_, step.int4, step.short_rows, shared_bytes_)) return KeySplit::kTiles;
    return forced_split_.value_or(KeySplit::kRuns);  // less than half the time of tiles, even for one sequence of 512 tokens
}

void Decoder::write_tables(const std::vector<StepPart>& parts, Step& step, std::vector<uint8_t>& bytes) const {
    const auto tokens = static_cast<size_t>(step.table.tokens), rows = static_cast<size_t>(step.logit_rows);
    const size_t ids_at = parts.size() * sizeof(StepSequence), owners_at = ids_at + tokens * sizeof(int32_t), rows_at = owners_at + tokens * sizeof(int32_t);
    bytes.resize(rows_at + rows * sizeof(int32_t));
    auto* sequences = reinterpret_cast<StepSequence*>(bytes.data());
    auto* ids_out = reinterpret_cast<int32_t*>(bytes.data() + ids_at);
    auto* owners = reinterpret_cast<int32_t*>(bytes.data() + owners_at);
    auto* rows_out = reinterpret_cast<int32_t*>(bytes.data() + rows_at);
    int32_t first = 0, row = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
        const auto& [sequence, part_ids, wanted] = parts[i];
        const auto count = static_cast<int32_t>(part_ids.size());
        sequences[i] = sequence->begin(count);
        sequences[i].first = first;
        for (int32_t t = 0; t < count; ++t) ids_out[first + t] = part_ids[static_cast<size_t>(t)], owners[first + t] = static_cast<int32_t>(i);
        first += count;
        for (int32_t t = first - wanted; t < first; ++t) rows_out[row++] = t;
    }
    const uint8_t* device = work_.step->as<uint8_t>();
    step.table.sequences = reinterpret_cast<const StepSequence*>(device);
    step.ids = reinterpret_cast<const int32_t*>(device + ids_at);
    step.table.sequence_of = reinterpret_cast<const int32_t*>(device + owners_at);
    step.rows = reinterpret_cast<const int32_t*>(device + rows_at);
}

// ── a step's kernels ──
LayerInput Decoder::input_of(const LinearLayer& layer, int tokens) const {
    const Int8Rows codes = layer.is_int8() ? Int8Rows{work_.codes->as<int8_t>(), work_.scales->as<float>()} : Int8Rows{};
    return {work_.floats->as<float>(), codes, layer.is_int4() ? layer.group_rows(layer_scratch(), tokens) : GroupRows{}, layer.columns()};
}

void Decoder::normalize(const DeviceNorm& norm, const float* input, const int32_t* rows, int tokens, const LinearLayer& next, cudaStream_t stream) const {
    const Norm how{floats_of(norm.gain), floats_of(norm.bias), facts_.epsilon, facts_.centered};
    check_cuda(launch_norm(how, input, rows, tokens, facts_.hidden, input_of(next, tokens), work_.largest->as<uint32_t>(), work_.findings->as<uint32_t>(), stream), "normalize");
}

WeightsAhead Decoder::beginning_of(const LinearLayer& next, bool is_gated) const {
    if (!next.is_int8()) return {};
    const Int8Weights weights = next.int8_weights();
    const int64_t bytes = int64_t{weights.rows} * weights.columns, half = bytes / 2;
    if (is_gated) return {weights.codes, weights.codes + half, static_cast<int>(std::min<int64_t>(half, bytes_ahead_ / 2))};
    return {weights.codes, nullptr, static_cast<int>(std::min<int64_t>(bytes, bytes_ahead_))};
}

void Decoder::project(const LinearLayer& layer, const float* floats, int tokens, float* out, bool accumulate, const WeightsAhead& ahead, cudaStream_t stream) const {
    const LayerInput input = input_of(layer, tokens);
    if (layer.is_int8()) layer.multiply(input.codes, tokens, out, accumulate, work_.products, ahead, stream);
    else if (layer.is_int4()) layer.multiply(input.groups, tokens, out, accumulate, stream);
    else layer.multiply(floats, tokens, out, accumulate, layer_scratch(), stream);
}

void Decoder::attend(const Layer& layer, const CacheLayer& cache, const Step& step, cudaStream_t stream) const {
    CacheAttention args{};
    args.cache = cache;
    args.step = step.table;
    args.query = {work_.query_codes->as<int8_t>(), work_.query_scales->as<float>()};
    args.heads = facts_.heads;
    args.kv_heads = facts_.kv_heads;
    args.head_dim = facts_.head_dim;
    args.scale = facts_.scale;
    args.window_left = layer.window_left;
    args.out = work_.mixed->as<float>();
    args.out_stride = layer.attention_output->columns();
    args.findings = work_.findings->as<uint32_t>();
    if (step.short_rows > 0) {
        const ShortQueryScratch scratch{work_.sum_memory->as<int32_t>(), work_.state_memory->as<float>(), work_.ticket_memory->as<uint32_t>()};
        const auto launch = step.split == KeySplit::kRuns ? launch_run_query : launch_short_query;
        check_cuda(launch(args, scratch, step.tiles, step.short_rows, stream), "attend the cache");
    }
    if (step.table.most > kShortQuery) check_cuda(launch_long_query(args, stream), "attend the cache");
}

void Decoder::launch_layer(int index, const Step& step, cudaStream_t stream) const {
    const Layer& layer = layers_[static_cast<size_t>(index)];
    const int tokens = step.table.tokens;
    uint32_t* findings = work_.findings->as<uint32_t>();
    float* hidden = work_.hidden->as<float>();
    normalize(layer.attention_norm, hidden, nullptr, tokens, *layer.qkv, stream);
    project(*layer.qkv, work_.floats->as<float>(), tokens, work_.qkv->as<float>(), false, beginning_of(*layer.attention_output), stream);

    const Heads heads{work_.qkv->as<float>(), facts_.heads, facts_.kv_heads, facts_.head_dim};
    const HeadNorms head_norms{floats_of(layer.query_norm), floats_of(layer.key_norm), facts_.epsilon};
    const Rotation rotation{floats_of(cos_), floats_of(sin_), facts_.rotary_half};
    const QueryTarget queries{work_.query_codes->as<int8_t>(), work_.query_scales->as<float>(), padded_, step.int4};
    const int64_t layer_bytes = facts_.kv_heads * image_bytes(padded_, step.int4);
    const CacheLayer cache{index * layer_bytes, layers() * layer_bytes, index, padded_, step.int4, step.channel_scales};
    if (can_place_heads(step.table)) {
        check_cuda(launch_place_heads(heads, head_norms, rotation, step.table, queries, cache, findings, stream), "place the heads");
    } else {
        const auto turn = [&](TurnedHeads which) { check_cuda(launch_turn_heads(heads, head_norms, rotation, step.table, queries, cache, which, findings, stream), "turn the heads"); };
        if (step.channel_scales) {  // a first step's queries need scales that all its keys decide
            turn(TurnedHeads::kKeys);
            check_cuda(launch_freeze_shifts(heads, cache, step.table, stream), "freeze the channels' scales");
            turn(TurnedHeads::kQueries);
        } else {
            turn(TurnedHeads::kAll);
        }
        check_cuda(launch_append(heads, cache, step.table, work_.append->as<float>(), findings, stream), "append to the cache");
    }

    attend(layer, cache, step, stream);
    const LinearLayer& output = *layer.attention_output;
    float* mixed = work_.mixed->as<float>();
    const LayerInput input = input_of(output, tokens), mixed_into{mixed, input.codes, input.groups, input.columns};
    if (step.int4) check_cuda(launch_rotate_back(mixed_into, tokens, facts_.heads, facts_.head_dim, findings, stream), "rotate the heads back");
    else if (output.is_int8()) check_cuda(launch_quantize_rows(mixed, input.columns, tokens, output.cols(), input.codes, findings, stream), "quantize the heads");
    else if (output.is_int4()) check_cuda(launch_quantize_groups(mixed, input.columns, tokens, output.cols(), input.groups, findings, stream), "quantize the heads by groups");
    project(output, mixed, tokens, hidden, true, beginning_of(*layer.mlp_up, is_swiglu(layer)), stream);

    normalize(layer.mlp_norm, hidden, nullptr, tokens, *layer.mlp_up, stream);
    widen(layer, tokens, stream);
    const LinearLayer& next = index + 1 == layers() ? *output_ : *layers_[static_cast<size_t>(index) + 1].qkv;
    project(*layer.mlp_down, work_.floats->as<float>(), tokens, hidden, true, beginning_of(next), stream);
}

bool Decoder::is_swiglu(const Layer& layer) const { return facts_.activation == Activation::kSwiglu && layer.mlp_up->is_int8() && layer.mlp_down->is_int8(); }

void Decoder::widen(const Layer& layer, int tokens, cudaStream_t stream) const {
    const LinearLayer &up = *layer.mlp_up, &down = *layer.mlp_down;
    uint32_t *findings = work_.findings->as<uint32_t>(), *largest = work_.largest->as<uint32_t>();  // zeros since the norm
    const LayerInput codes = input_of(up, tokens), target = input_of(down, tokens);
    const bool swiglu = is_swiglu(layer);
    if (swiglu && tokens <= kFewTokens) {
        const GatedRows gated{work_.wide->as<float>(), facts_.intermediate, largest};
        check_cuda(launch_swiglu_int8(up.int8_weights(), codes.codes, tokens, gated, beginning_of(down), stream), "run an MLP's first layer");
        return check_cuda(launch_encode_rows(gated.floats, gated.stride, tokens, facts_.intermediate, largest, target.codes, findings, stream), "quantize an MLP's rows");
    }
    if (swiglu && suits_swiglu_sums(up.int8_weights()) && up.sum(codes.codes, tokens, work_.products, stream))
        return check_cuda(launch_swiglu_sums(up.int8_weights(), work_.products.sums->as<int32_t>(), codes.codes.scales, tokens, target, largest, findings, stream), "activate");
    project(up, work_.floats->as<float>(), tokens, work_.wide->as<float>(), false, beginning_of(down), stream);
    check_cuda(launch_activate(facts_.activation, work_.wide->as<float>(), tokens, facts_.intermediate, target, largest, findings, stream), "activate");
}

void Decoder::launch(const Step& step, cudaStream_t stream) const {
    check_cuda(cudaMemsetAsync(work_.findings->as(), 0, sizeof(uint32_t), stream), "clear the findings");
    Embedding embedding{floats_of(embedding_), nullptr, floats_of(positions_), facts_.hidden, facts_.hidden};
    if (!embedding_) {
        const FloatWeights shared = output_->float_weights();
        embedding.table = shared.weights;
        embedding.bfloat16 = shared.bfloat16;
        embedding.stride = shared.columns;
    }
    check_cuda(launch_embed(embedding, step.ids, step.table, work_.hidden->as<float>(), stream), "embed the tokens");
    for (int index = 0; index < layers(); ++index) launch_layer(index, step, stream);
    normalize(output_norm_, work_.hidden->as<float>(), step.rows, step.logit_rows, *output_, stream);
    project(*output_, work_.floats->as<float>(), step.logit_rows, work_.logits->as<float>(), false, {}, stream);
}

void Decoder::launch_alike(const Step& step, cudaStream_t stream) {
    if (graphs_revision_ != work_.revision || graphs_.size() > kMostGraphs) graphs_.clear();
    graphs_revision_ = work_.revision;
    StepRecord& record = graphs_[{step.table.count, step.table.most, step.tiles, static_cast<int>(step.split), step.int4, step.channel_scales}];
    if (++record.uses < kStepsBeforeGraph) return launch(step, stream);
    if (!record.graph) record.graph = std::make_unique<StepGraph>([&](cudaStream_t recorded) { launch(step, recorded); });
    record.graph->replay(stream);
}

// ── a step ──
Decoder::Step Decoder::begin(Stream& worker, const std::vector<StepPart>& parts) {
    const cudaStream_t stream = worker.handle();
    const CacheShape& first = parts[0].sequence->shape();
    const CacheShape expected = cache_shape(first.int4, first.channel_scales);
    for (const auto& [sequence, ids, wanted] : parts) {
        if (!sequence->shape().suits(expected)) throw Failure("ERR_ARG_TYPE", "Expected sequences of this decoder with caches of one type, got others");
        sequence->reserve(worker, sequence->length() + static_cast<int>(ids.size()));
    }
    Step step = plan(parts);
    reserve(worker, step);
    std::vector<uint8_t> tables;
    write_tables(parts, step, tables);
    check_cuda(cudaMemcpyAsync(work_.step->as(), tables.data(), tables.size(), cudaMemcpyHostToDevice, stream), "copy the tokens");
    const bool is_alike = step.table.most <= kShortQuery && step.table.count * step.table.most == step.table.tokens && step.table.tokens == step.logit_rows;
    if (is_alike) launch_alike(step, stream);
    else launch(step, stream);
    check_cuda(cudaMemcpyAsync(work_.answer->as(), work_.findings->as(), sizeof(uint32_t), cudaMemcpyDeviceToHost, stream), "read the findings");
    return step;
}

void Decoder::finish(Stream& worker, const std::vector<StepPart>& parts) {
    worker.synchronize();
    check_findings(*work_.answer->as<uint32_t>());
    for (const StepPart& part : parts) part.sequence->advance(static_cast<int>(part.ids.size()));
}

void Decoder::forward(Stream& worker, const std::vector<StepPart>& parts, float* logits) {
    reserve_answer(worker, 0);
    const Step step = begin(worker, parts);
    const size_t bytes = static_cast<size_t>(step.logit_rows) * static_cast<size_t>(facts_.vocabulary) * sizeof(float);
    copy_to_host(worker, logits, work_.logits->as(), bytes);
    finish(worker, parts);
}

std::vector<int32_t> Decoder::draw(Stream& worker, const std::vector<StepPart>& parts, const std::vector<DrawRules>& rules) {
    const cudaStream_t stream = worker.handle();
    reserve_answer(worker, rules.size());
    const Step step = begin(worker, parts);
    const size_t rule_bytes = rules.size() * sizeof(DrawRules);
    if (!work_.rules || work_.rules->bytes() < rule_bytes) {
        auto rule_memory = worker.allocate(2 * rule_bytes);
        work_.drawn = worker.allocate(2 * rules.size() * sizeof(int32_t));
        work_.rules = std::move(rule_memory);  // last: its size stands for both, and an allocation may fail
    }
    check_cuda(cudaMemcpyAsync(work_.rules->as(), rules.data(), rule_bytes, cudaMemcpyHostToDevice, stream), "copy the rules");
    check_cuda(launch_draw(work_.logits->as<float>(), facts_.vocabulary, work_.rules->as<DrawRules>(), step.logit_rows, work_.drawn->as<int32_t>(), stream), "draw tokens");
    int32_t* const answer = work_.answer->as<int32_t>() + 1;
    check_cuda(cudaMemcpyAsync(answer, work_.drawn->as(), rules.size() * sizeof(int32_t), cudaMemcpyDeviceToHost, stream), "read the tokens");
    worker.synchronize();
    std::vector<int32_t> drawn(answer, answer + rules.size());
    for (size_t i = 0; i < drawn.size(); ++i) {
        if (drawn[i] == kBadLogits) throw Failure("ERR_NONFINITE", "Expected finite logits, got NaN or Infinity");
        if (drawn[i] != kTooMany) continue;
        std::vector<float> logits(static_cast<size_t>(rules[i].vocabulary));
        const float* row = work_.logits->as<float>() + i * static_cast<size_t>(facts_.vocabulary);
        copy_to_host(worker, logits.data(), row, logits.size() * sizeof(float));
        drawn[i] = draw_on_host(logits, rules[i]);
    }
    finish(worker, parts);
    return drawn;
}

}  // namespace intflash
