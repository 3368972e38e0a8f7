// Where the findings of a call go, and who keeps its operation.
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "binding.h"

namespace intflash {

/** A recording, or nothing: then the call has a sheet of its own. */
struct Ledger {
    std::shared_ptr<Recording> recording;
};

/** What one call adds to a ledger: all of its operations once they went well, or, when it is refused at whichever, none and no place in the sheet. */
class LedgerEntry {
public:
    /** On the worker thread of `stream`. */
    LedgerEntry(const Ledger& ledger, Stream& stream);
    ~LedgerEntry();
    LedgerEntry(const LedgerEntry&) = delete;
    LedgerEntry& operator=(const LedgerEntry&) = delete;

    /** Where the operations note their findings. */
    const std::shared_ptr<FindingsSheet>& sheet() const { return sheet_; }
    /** Launches `operation`, waits and judges; a graph will run it after those added before. @throws Failure, Aborted */
    void run(Stream& stream, std::shared_ptr<const Operation> operation, const AbortFlag& abort);
    /** The same of one that has run. */
    void add(std::shared_ptr<const Operation> operation) { operations_.push_back(std::move(operation)); }
    /** All went well. */
    void keep();

private:
    static constexpr int kMostOperations = 2;  // an attention and a cast

    const std::shared_ptr<Recording> recording_;
    const std::shared_ptr<FindingsSheet> sheet_;
    const int first_place_;
    std::vector<std::shared_ptr<const Operation>> operations_;
    bool kept_ = false;
};

/** Of a request that may name a `recording`. @throws Napi::Error */
Ledger ledger_of(const Napi::Object& request, const DeviceHandle& device, const Stream& stream);

}  // namespace intflash
