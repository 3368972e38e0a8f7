// Per-token codes and scales of a float tensor, left on the device, and what every call that makes codes is asked.
#pragma once
#include <memory>
#include <vector>

#include "operation.h"
#include "quantize.h"
#include "tensor_rows.h"

namespace intflash {

/** What has a scale of its own. */
enum class Granularity : int32_t { kToken, kChannel, kTensor };

struct TensorQuantizeRequest : TensorRows {
    ElementType type;
    int32_t levels;  // the largest code: 127 or, of tokens, 7
    Granularity granularity;
    bool smooth;  // tokens, less the means of their channels
};

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
