// INT8 attention of floats on Hopper's warpgroup products: the quantizers and the forward kernel that take the portable ones' place.
#pragma once
#include <memory>
#include <vector>

#include "buffer.h"
#include "quantize.h"
#include "sm90_flash_fwd.h"
#include "sm90_quantize.h"
#include "stream.h"

namespace intflash {

class Sm90Forward {
public:
    /** True where the device and this build have the kernels. */
    static bool available(const DeviceFacts& facts);

    /**
     * Allocates on the worker thread of `stream`. `request` is the portable plan's: operands, mode, statistics with their workspace,
     * findings; `args` its geometry, whose `out` holds `out_type`; `table` and `sequences` the same sequences on the device and here.
     */
    Sm90Forward(Stream& stream, const QuantizeRequest& request, const ForwardArgs& args, ElementType out_type, const SequenceTable& table, const std::vector<Sequence>& sequences);

    void quantize(cudaStream_t stream) const;
    void attend(cudaStream_t stream) const;

private:
    struct Items {
        int32_t full, shared;
    };
    Items share_out(int32_t q_len, int32_t tiles) const;
    void lay_out(Stream& stream, const std::vector<Sequence>& sequences);
    bool is_half() const { return request_.mode == ValueMode::kHalf; }

    const QuantizeRequest request_;
    const SequenceTable portable_;
    const int processors_;
    Sm90Table table_{};
    Sm90Args args_{};
    int64_t q_blocks_ = 0, tiles_ = 0;
    Sm90Images images_{};
    std::vector<std::shared_ptr<Buffer>> held_;
};

}  // namespace intflash
