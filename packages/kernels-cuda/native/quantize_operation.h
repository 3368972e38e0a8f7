// Per-token codes and scales of a float tensor, left on the device.
#pragma once
#include <memory>
#include <vector>

#include "operation.h"
#include "quantize.h"
#include "quantize_request.h"

namespace intflash {

class QuantizeOperation final : public Operation {
public:
    /** Plans on the worker thread of `stream`; see AttentionOperation. @throws Failure */
    QuantizeOperation(Stream& stream, const TensorQuantizeRequest& request, std::shared_ptr<FindingsSheet> sheet);

    void launch(cudaStream_t stream, const AbortFlag& abort) const override;
    void judge() const override;

    /** [batch, heads, tokens] rows of padded_dim(dim) bytes. */
    const std::shared_ptr<Buffer>& codes() const { return codes_; }
    const std::shared_ptr<Buffer>& scales() const { return scales_; }

private:
    const std::shared_ptr<FindingsSheet> sheet_;
    const int place_;
    std::shared_ptr<Buffer> codes_, scales_;
    std::vector<std::shared_ptr<Buffer>> held_;
    SequenceTable table_{};
    QuantizeRequest quantize_{};  // of its query alone
};

}  // namespace intflash
