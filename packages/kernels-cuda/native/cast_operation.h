// An output of another operation in a 16-bit format.
#pragma once
#include <memory>

#include "operand.h"
#include "operation.h"

namespace intflash {

class CastOperation final : public Operation {
public:
    /** Plans on the worker thread of `stream`. @param from float32 numbers @throws Failure */
    CastOperation(Stream& stream, std::shared_ptr<Buffer> from, ElementType type, std::shared_ptr<FindingsSheet> sheet);

    void launch(cudaStream_t stream, const AbortFlag& abort) const override;
    void judge() const override;

    const std::shared_ptr<Buffer>& out() const { return out_; }

private:
    const std::shared_ptr<FindingsSheet> sheet_;
    const int place_;
    const ElementType type_;
    std::shared_ptr<Buffer> from_, out_;
};

}  // namespace intflash
