// One sequence's KV cache: pages that come and go with its tokens.
#include <algorithm>

#include "decoder.h"
#include "failure.h"

namespace intflash {
namespace {

int pages_of(int tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

CacheSequence::CacheSequence(Stream& worker, int layers, const DecoderFacts& facts, bool int4)
    : layers_(layers), kv_heads_(facts.kv_heads), padded_(padded_head(facts.head_dim)), max_tokens_(facts.max_tokens), int4_(int4) {
    const size_t heads = static_cast<size_t>(layers_) * static_cast<size_t>(kv_heads_);
    table_ = worker.allocate(static_cast<size_t>(pages_of(max_tokens_)) * sizeof(uint8_t*));
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
    pages_.resize(static_cast<size_t>(pages_of(length_)));
}

void CacheSequence::reserve(Stream& worker, int tokens) {
    if (tokens > max_tokens_) throw Failure("ERR_SHAPE", "Expected at most " + std::to_string(max_tokens_) + " tokens in the cache, got " + std::to_string(tokens));
    const size_t wanted = static_cast<size_t>(pages_of(tokens)), before = pages_.size();
    if (wanted <= before) return;
    const size_t page_bytes = static_cast<size_t>(layers_ * kv_heads_ * image_bytes(padded_, int4_));
    std::vector<std::shared_ptr<Buffer>> fresh;  // the sequence's only when all are there
    std::vector<uint8_t*> pointers;
    while (before + fresh.size() < wanted) {
        fresh.push_back(worker.allocate(page_bytes));
        pointers.push_back(fresh.back()->as<uint8_t>());
        // Kernels read whole pages; what is not written yet decides nothing, but shall be something.
        check_cuda(cudaMemsetAsync(pointers.back(), 0, page_bytes, worker.handle()), "clear a page");
    }
    check_cuda(cudaMemcpyAsync(table_->as<uint8_t*>() + before, pointers.data(), pointers.size() * sizeof(uint8_t*), cudaMemcpyHostToDevice, worker.handle()),
               "copy the page table");
    pages_.insert(pages_.end(), fresh.begin(), fresh.end());
}

}  // namespace intflash
