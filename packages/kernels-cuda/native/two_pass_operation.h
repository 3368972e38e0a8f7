// Codes of a float tensor that need something of all its tokens first: smooth-K, a scale a channel, a scale for everything. Left on the device.
#pragma once
#include <memory>
#include <vector>

#include "operation.h"
#include "quantize_request.h"
#include "two_pass_quantize.h"

namespace intflash {

class TwoPassOperation final : public Operation {
public:
    /** Plans on the worker thread of `stream`; see AttentionOperation. @param request smooth, or not of tokens @throws Failure */
    TwoPassOperation(Stream& stream, const TensorQuantizeRequest& request, std::shared_ptr<FindingsSheet> sheet);

    void launch(cudaStream_t stream, const AbortFlag& abort) const override;
    void judge() const override;

    /** [batch, heads, tokens] rows of padded_dim(dim) bytes. */
    const std::shared_ptr<Buffer>& codes() const { return codes_; }
    /** [batch, heads, tokens], [batch, heads, dim] or one number. */
    const std::shared_ptr<Buffer>& scales() const { return scales_; }
    /** [batch, heads, dim] of a smooth request, else nothing. */
    const std::shared_ptr<Buffer>& means() const { return means_; }

private:
    const std::shared_ptr<FindingsSheet> sheet_;
    const int place_;
    std::shared_ptr<Buffer> codes_, scales_, means_;
    std::vector<std::shared_ptr<Buffer>> held_;
    TwoPassRequest request_{};
};

}  // namespace intflash
