#include "cache_sequence.h"

#include <algorithm>
#include <string>

#include "failure.h"
#include "host_copy.h"

namespace intflash {
namespace {

int pages_of(int tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

CacheSequence::CacheSequence(Stream& worker, const CacheShape& shape) : shape_(shape) {
    const auto heads = static_cast<size_t>(shape_.heads());
    table_ = worker.allocate(static_cast<size_t>(pages_of(shape_.max_tokens)) * sizeof(uint8_t*));
    shifts_ = worker.allocate((shape_.channel_scales ? 2 : 1) * heads * static_cast<size_t>(shape_.head_dim) * sizeof(float));
    recent_ = worker.allocate(heads * kRecent * sizeof(float));
}

int64_t CacheSequence::bytes() const {
    int64_t sum = static_cast<int64_t>(table_->bytes() + shifts_->bytes() + recent_->bytes());
    for (const auto& page : pages_) sum += static_cast<int64_t>(page->bytes());
    return sum;
}

// ── growing and going back ──
void CacheSequence::truncate(int length) {
    if (length < length_) {
        const int whole = length / kPageTokens;
        const bool is_shared = length % kPageTokens != 0 && pages_[static_cast<size_t>(whole)].use_count() > 1;
        length_ = knows_state_at(length) && !is_shared ? length : whole * kPageTokens;
    }
    pages_.resize(static_cast<size_t>(pages_of(length_)));
    if (length_ < settled_pages_ * kPageTokens) settled_pages_ = -1;
}

void CacheSequence::reserve(Stream& worker, int tokens) {
    if (tokens > shape_.max_tokens) throw Failure("ERR_SHAPE", "Expected at most " + std::to_string(shape_.max_tokens) + " tokens in the cache, got " + std::to_string(tokens));
    // The first step freezes the shifts; those of another sequence stay as they are.
    if (length_ == 0 && shifts_.use_count() > 1) shifts_ = worker.allocate(shifts_->bytes());
    const size_t wanted = static_cast<size_t>(pages_of(tokens)), before = pages_.size();
    if (wanted <= before) return;
    std::vector<std::shared_ptr<Buffer>> fresh;  // the sequence's only when all are there
    while (before + fresh.size() < wanted) {
        fresh.push_back(worker.allocate(shape_.page_bytes()));
        // Kernels read whole pages; what is not written yet decides nothing, but shall be something.
        check_cuda(cudaMemsetAsync(fresh.back()->as(), 0, fresh.back()->bytes(), worker.handle()), "clear a page");
    }
    pages_.insert(pages_.end(), fresh.begin(), fresh.end());
    write_table(worker, before);
}

void CacheSequence::write_table(Stream& worker, size_t from) {
    std::vector<uint8_t*> pointers;
    for (size_t i = from; i < pages_.size(); ++i) pointers.push_back(pages_[i]->as<uint8_t>());
    check_cuda(cudaMemcpyAsync(table_->as<uint8_t*>() + from, pointers.data(), pointers.size() * sizeof(uint8_t*), cudaMemcpyHostToDevice, worker.handle()), "copy the page table");
}

StepSequence CacheSequence::begin(int tokens) {
    StepSequence step{};
    step.pages = table_->as<uint8_t*>();
    step.start = length_;
    step.tokens = tokens;
    step.offsets = shifts_->as<float>();
    step.channels = shape_.channel_scales ? step.offsets + shape_.heads() * shape_.head_dim : nullptr;
    step.recent = recent_->as<float>();
    step.before_stride = kRecent;
    if (length_ % kPageTokens != 0) {
        step.before = step.recent + (length_ >= recent_from_ ? (length_ - 1) % kPageTokens : kRecent - 1);
    } else if (length_ > 0) {
        step.before = page_largest(static_cast<size_t>(length_ / kPageTokens - 1));
        step.before_stride = 1;
    }
    // Whatever becomes of the step, it overwrites the places of its last 64 tokens.
    began_at_ = length_;
    recent_from_ = std::max(std::min(recent_from_, length_ + 1), length_ + tokens - kPageTokens + 1);
    return step;
}

// ── sharing ──
std::optional<CachePage> CacheSequence::share(Stream& worker, int index) {
    const int pages = index + 1;
    if (index < 0 || pages * kPageTokens > length_) throw Failure("ERR_ARG_RANGE", "Expected a whole page of the sequence, got page " + std::to_string(index));
    const auto at = static_cast<size_t>(index);
    if (settled_pages_ < 0 || pages < settled_pages_) {
        std::vector<float> largest(static_cast<size_t>(shape_.heads()));
        copy_to_host(worker, largest.data(), page_largest(at), largest.size() * sizeof(float));
        if (std::find(largest.begin(), largest.end(), 0.f) != largest.end()) return std::nullopt;
        settled_pages_ = pages;
    }
    return CachePage{shape_, pages_[at], shifts_};
}

void CacheSequence::adopt(Stream& worker, int index, const std::vector<CachePage>& pages) {
    const auto from = static_cast<size_t>(index), count = pages.size(), end = from + count, whole = static_cast<size_t>(length_ / kPageTokens);
    const bool is_behind = from == pages_.size() && length_ == index * kPageTokens;
    if (index < 0 || (!is_behind && end > whole) || end > static_cast<size_t>(shape_.max_tokens / kPageTokens))
        throw Failure("ERR_ARG_RANGE", "Expected pages behind the sequence's last or in place of whole ones, got them from page " + std::to_string(index) + " on");
    for (const CachePage& page : pages)
        if (!shape_.suits(page.shape)) throw Failure("ERR_ARG_TYPE", "Expected pages of caches like this one, got others");
    if (count == 0) return;
    const auto before = pages_;
    pages_.resize(std::max(pages_.size(), end));
    for (size_t i = 0; i < count; ++i) pages_[from + i] = pages[i].memory;
    try {
        write_table(worker, from);
    } catch (...) {
        pages_ = before;
        throw;
    }
    if (index == 0) shifts_ = pages[0].shifts;
    if (is_behind) {
        length_ = static_cast<int>(end) * kPageTokens;
        recent_from_ = length_ + 1;
    }
    settled_pages_ = settled_pages_ < 0 ? static_cast<int>(from) + 1 : std::min(settled_pages_, static_cast<int>(from) + 1);
}

}  // namespace intflash
