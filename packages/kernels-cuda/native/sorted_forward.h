// INT8 attention of floats on sorted tiles: the quantizers and the forward kernels, Hopper's and every architecture's, that take the portable ones' place.
#pragma once
#include <memory>
#include <vector>

#include "buffer.h"
#include "merge_parts.h"
#include "quantize.h"
#include "sorted_args.h"
#include "sorted_quantize.h"
#include "stream.h"

namespace intflash {

/** What the quantizers write and the forward kernels read. */
struct SortedBuffers {
    std::shared_ptr<Buffer> query_codes, query_scales, tiles, channel_scale;
};

class SortedForward {
public:
    /**
     * Allocates on the worker thread of `stream`. `request` is the portable plan's: operands, mode, statistics with their workspace,
     * findings; `args` its geometry, whose `out` holds `out_type`; `table` and `sequences` the same sequences on the device and here.
     */
    SortedForward(Stream& stream, bool on_hopper, const QuantizeRequest& request, const ForwardArgs& args, ElementType out_type, const SequenceTable& table, const std::vector<Sequence>& sequences);

    void quantize(cudaStream_t stream) const;
    void attend(cudaStream_t stream) const;

    const SortedBuffers& buffers() const { return buffers_; }

private:
    /** Of a head; or the parts that the keys of all its items are cut into. */
    struct Items {
        int32_t full, shared, parts;
    };
    Items share_out(int32_t q_len, int32_t k_len, int32_t tiles) const;
    int64_t keys_seen(int32_t q_len, int32_t k_len) const;
    void plan_parts(Stream& stream, int padded);
    void lay_out(Stream& stream, const std::vector<Sequence>& sequences);
    bool is_half() const { return request_.mode == ValueMode::kHalf; }

    const QuantizeRequest request_;
    const SequenceTable portable_;
    const bool on_hopper_;
    const LaunchLimits limits_;
    SortedTable table_{};
    SortedArgs args_{};
    int64_t q_blocks_ = 0, tiles_ = 0, part_rows_ = 0;
    int32_t part_items_ = 0, most_part_queries_ = 0;
    SortedArgs part_args_{};
    PartRows parts_{};
    MergedRows merged_{};
    SortedBuffers buffers_;
    SortedImages images_{};
    std::vector<std::shared_ptr<Buffer>> held_;
};

}  // namespace intflash
