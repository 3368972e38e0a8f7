// One sequence's KV cache on the device: pages that come and go with its tokens, whole ones shared with others that begin alike.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "buffer.h"
#include "cache_page.h"

namespace intflash {

/** What decides how large a cache is. */
struct CacheShape {
    int layers, kv_heads, head_dim, max_tokens;
    bool int4, channel_scales;  // the latter: keys' channels have scales besides those of tokens

    int64_t heads() const { return int64_t{layers} * kv_heads; }
    int padded() const { return padded_head(head_dim); }
    size_t page_bytes() const { return static_cast<size_t>(intflash::page_bytes(heads(), padded(), int4)); }
    /** Of one that can go on where the other ends. */
    bool suits(const CacheShape& other) const { return layers == other.layers && kv_heads == other.kv_heads && head_dim == other.head_dim && int4 == other.int4 && channel_scales == other.channel_scales; }
};

/** A whole page, which nobody writes any more, and what its keys were changed by. */
struct CachePage {
    CacheShape shape;
    std::shared_ptr<Buffer> memory, shifts;
};

/** For the device's worker thread, but for its shape. */
class CacheSequence {
public:
    CacheSequence(Stream& worker, const CacheShape& shape);

    const CacheShape& shape() const { return shape_; }
    int length() const { return length_; }
    int64_t bytes() const;

    /**
     * Forgets all tokens from `length` on, as if they had never been there. What the cache knows of its earlier states decides how exactly: where
     * `length` is not a whole number of pages, lies further back than the last 64 tokens and is not where the last step began, or where others
     * read the page that it ends in, up to 63 tokens more go.
     */
    void truncate(int length);

    /** Room for so many tokens in all. @throws Failure; then nothing has changed */
    void reserve(Stream& worker, int tokens);
    /** What a step over its next tokens needs to know, all but `first`. The step may fail: the sequence stays as it is until `advance`. */
    StepSequence begin(int tokens);
    void advance(int tokens) { length_ += tokens; }

    /** The page, if what it holds is settled: rows of zeros at a sequence's beginning wait for the first that is not zero. @throws Failure */
    std::optional<CachePage> share(Stream& worker, int index);
    /** What its tokens lie in, for tests. */
    const std::vector<std::shared_ptr<Buffer>>& pages() const { return pages_; }
    /** Pages of sequences that began alike, from page `index` on: in place of its own, or behind all that it has. @throws Failure; then nothing has changed */
    void adopt(Stream& worker, int index, const std::vector<CachePage>& pages);

private:
    const float* page_largest(size_t index) const { return reinterpret_cast<const float*>(pages_[index]->as<uint8_t>() + shape_.heads() * image_bytes(shape_.padded(), shape_.int4)); }
    bool knows_state_at(int length) const { return length % kPageTokens == 0 || length >= recent_from_ || length == began_at_; }
    void write_table(Stream& worker, size_t from);

    const CacheShape shape_;
    int length_ = 0;
    int recent_from_ = 1;  // lengths from here on whose state lies in `recent_`
    int began_at_ = 0;     // of the last step: its state lies in the last place
    int settled_pages_ = -1;  // how many there must be for the last of them to be settled, and with it all later ones; -1: not known
    std::vector<std::shared_ptr<Buffer>> pages_;
    std::shared_ptr<Buffer> table_, recent_;
    std::shared_ptr<Buffer> shifts_;  // StepSequence's offsets and, behind them, channels
};

}  // namespace intflash
