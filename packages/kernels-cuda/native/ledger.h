// Where the findings of a call go, and who keeps its operation.
#pragma once
#include <memory>
#include <utility>

#include "binding.h"

namespace intflash {

/** A recording, or nothing: then the call has a sheet of its own. */
struct Ledger {
    std::shared_ptr<Recording> recording;

    /** With room for an attention and a cast. */
    std::shared_ptr<FindingsSheet> sheet(Stream& stream) const { return recording ? recording->sheet : std::make_shared<FindingsSheet>(stream, 2); }
    void add(std::shared_ptr<const Operation> operation) const {
        if (recording) recording->operations.push_back(std::move(operation));
    }
};

/** Of a request that may name a `recording`. @throws Napi::Error */
Ledger ledger_of(const Napi::Object& request, const DeviceHandle& device, const Stream& stream);

}  // namespace intflash
