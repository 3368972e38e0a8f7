#include "ledger.h"

namespace intflash {

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
