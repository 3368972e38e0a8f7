#include "ledger.h"

namespace intflash {

LedgerEntry::LedgerEntry(const Ledger& ledger, Stream& stream)
    : recording_(ledger.recording), sheet_(recording_ ? recording_->sheet : std::make_shared<FindingsSheet>(stream, kMostOperations)), first_place_(sheet_->used()) {}

LedgerEntry::~LedgerEntry() {
    if (!kept_) sheet_->take_back(first_place_);
}

void LedgerEntry::run(Stream& stream, std::shared_ptr<const Operation> operation, const AbortFlag& abort) {
    run_now(stream, *operation, *sheet_, abort);
    add(std::move(operation));
}

void LedgerEntry::keep() {
    if (recording_) recording_->operations.insert(recording_->operations.end(), operations_.begin(), operations_.end());
    kept_ = true;
}

Ledger ledger_of(const Napi::Object& request, const DeviceHandle& device, const Stream& stream) {
    const Napi::Value js = request.Get("recording");
    if (js.IsUndefined()) return {};
    const RecordingHandle& handle = read_handle<RecordingHandle>(js, "recording");
    if (handle.device != device.device || !handle.recording) throw argument_error(js.Env(), "ERR_ARG_TYPE", "Expected an unfinished recording of the same device object");
    // One thread: the recording is nobody else's while it grows.
    if (&stream != device.stream.get()) throw argument_error(js.Env(), "ERR_ARG_TYPE", "Expected no stream in a recording, got one");
    return {handle.recording};
}

}  // namespace intflash
