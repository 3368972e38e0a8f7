// A step's memory, kept between steps and grown when one needs more.
#include <algorithm>

#include "ceil_div.h"
#include "decoder.h"
#include "failure.h"
#include "power_of_two.h"

namespace intflash {
namespace {

/** A step of more tokens than any before makes room for this many more: steps' memory is large, and graphs are recorded anew. */
constexpr int kRowsAtOnce = 1024;

}  // namespace

void Decoder::reserve(Stream& worker, const Step& step) {
    if (!work_.findings) work_.findings = worker.allocate(sizeof(uint32_t));
    const int tokens = step.table.tokens, logit_rows = step.logit_rows;
    if (tokens > work_.tokens) reserve_rows(worker, tokens > kShortQuery * kPageTokens ? ceil_div(tokens, kRowsAtOnce) * kRowsAtOnce : power_of_two(tokens));
    const size_t step_bytes = static_cast<size_t>(step.table.count) * sizeof(StepSequence) + static_cast<size_t>(2 * tokens + logit_rows) * sizeof(int32_t);
    if (step_bytes > work_.step_bytes) {
        ++work_.revision;
        work_.step_bytes = 0;  // in case an allocation fails
        work_.step = worker.allocate(2 * step_bytes);
        work_.step_bytes = 2 * step_bytes;
    }
    if (logit_rows > work_.logit_rows) {
        ++work_.revision;
        work_.logit_rows = 0;
        const int rows = power_of_two(logit_rows);
        work_.logits = worker.allocate(static_cast<size_t>(rows) * static_cast<size_t>(facts_.vocabulary) * sizeof(float));
        work_.logit_rows = rows;
    }
    reserve_layer_scratch(worker);
    if (step.short_rows > 0) reserve_scratch(worker, step);
}

void Decoder::reserve_rows(Stream& worker, int tokens) {
    const auto floats = [&](int64_t count) { return worker.allocate(static_cast<size_t>(count) * sizeof(float)); };
    ++work_.revision;
    work_.tokens = 0;  // in case an allocation fails half-way
    // Given back first: old and new need not fit together, and where the new ones do not fit, those of a smaller step do afterwards.
    for (auto* old : {&work_.hidden, &work_.floats, &work_.codes, &work_.scales, &work_.largest, &work_.qkv, &work_.query_codes, &work_.query_scales, &work_.mixed, &work_.wide, &work_.append, &work_.layer_scratch})
        old->reset();
    work_.products = ProductMemory{};
    const int64_t n = tokens, queries = n * facts_.heads;
    const int64_t widest = std::max<int64_t>(layers_.empty() ? 0 : layers_[0].mlp_up->rows(), facts_.hidden);
    work_.hidden = floats(n * facts_.hidden);
    work_.floats = floats(n * columns_);
    work_.codes = worker.allocate(static_cast<size_t>(n * columns_));
    work_.scales = floats(n);
    work_.largest = floats(n);
    work_.qkv = floats(n * (facts_.heads + 2 * facts_.kv_heads) * facts_.head_dim);
    work_.query_codes = worker.allocate(static_cast<size_t>(queries * padded_));
    work_.query_scales = floats(queries);
    work_.mixed = floats(n * columns_);
    check_cuda(cudaMemsetAsync(work_.mixed->as(), 0, work_.mixed->bytes(), worker.handle()), "clear the padding");
    work_.wide = floats(n * widest);
    work_.append = floats(n * facts_.kv_heads);
    reserve_products(worker, tokens);
    work_.tokens = tokens;
}

void Decoder::reserve_products(Stream& worker, int tokens) {
    int most_rows = 0;
    for (const Layer& layer : layers_)
        for (const auto& linear : {layer.qkv, layer.attention_output, layer.mlp_up, layer.mlp_down})
            if (linear->suits_library(tokens)) most_rows = std::max(most_rows, linear->rows());
    if (output_->suits_library(tokens)) most_rows = std::max(most_rows, output_->rows());
    work_.products = most_rows > 0 ? LinearLayer::product_memory(worker, tokens, most_rows) : ProductMemory{};
}

void Decoder::reserve_scratch(Stream& worker, const Step& step) {
    const int pieces = step.split == KeySplit::kRuns ? ceil_div(step.tiles, kCacheRun / kCacheTile) : step.tiles;
    const size_t heads = static_cast<size_t>(step.table.count) * static_cast<size_t>(facts_.kv_heads);
    const size_t states = heads * static_cast<size_t>(pieces) * static_cast<size_t>(step.short_rows), sums = states * static_cast<size_t>(padded_);
    const size_t tickets = heads * static_cast<size_t>(short_query_parts(step.short_rows));
    if (sums > work_.sums || states > work_.states) {
        ++work_.revision;
        work_.sums = work_.states = 0;
        work_.sum_memory = worker.allocate(sums * sizeof(int32_t));
        work_.state_memory = worker.allocate(2 * states * sizeof(float));
        work_.sums = sums;
        work_.states = states;
    }
    if (tickets > work_.tickets) {
        ++work_.revision;
        work_.tickets = 0;
        work_.ticket_memory = worker.allocate(2 * tickets * sizeof(uint32_t));
        check_cuda(cudaMemsetAsync(work_.ticket_memory->as(), 0, work_.ticket_memory->bytes(), worker.handle()), "clear the tickets");
        work_.tickets = 2 * tickets;
    }
}

void Decoder::reserve_layer_scratch(Stream& worker) {
    int64_t most = output_->scratch_floats(work_.logit_rows);
    for (const Layer& layer : layers_)
        for (const auto& linear : {layer.qkv, layer.attention_output, layer.mlp_up, layer.mlp_down}) most = std::max(most, linear->scratch_floats(work_.tokens));
    const size_t bytes = static_cast<size_t>(most) * sizeof(float);
    if (work_.layer_scratch && work_.layer_scratch->bytes() >= bytes) return;
    ++work_.revision;
    work_.layer_scratch.reset();
    work_.layer_scratch = worker.allocate(bytes);
}

void Decoder::reserve_answer(Stream& worker, size_t drawn) {
    const size_t bytes = (1 + drawn) * sizeof(int32_t);
    if (!work_.answer || work_.answer->bytes() < bytes) work_.answer = std::make_unique<Landing>(worker.device(), bytes);
}

}  // namespace intflash
