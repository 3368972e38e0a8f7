// INT4 codes of a tensor from one a byte to two, or back.
#pragma once
#include <memory>
#include <vector>

#include "int4_packing.h"
#include "operation.h"
#include "tensor_rows.h"

namespace intflash {

class Int4Operation final : public Operation {
public:
    enum class Way { kPack, kUnpack };

    /** Plans on the worker thread of `stream`; see AttentionOperation. @param rows `dim` counts codes @throws Failure */
    Int4Operation(Stream& stream, Way way, const TensorRows& rows, std::shared_ptr<FindingsSheet> sheet);

    void launch(cudaStream_t stream, const AbortFlag& abort) const override;
    void judge() const override;

    /** [batch, heads, tokens] rows of dim / 2 bytes when packed, else of dim. */
    const std::shared_ptr<Buffer>& out() const { return out_; }

private:
    const Way way_;
    const std::shared_ptr<FindingsSheet> sheet_;
    const int place_;
    std::vector<std::shared_ptr<Buffer>> held_;
    std::shared_ptr<Buffer> out_;
    CodeRows from_{};
};

}  // namespace intflash
