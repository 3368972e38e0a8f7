// What a JS handle of a sequence holds.
#pragma once
#include <napi.h>

#include <memory>

#include "cache_sequence.h"
#include "handles.h"

namespace intflash {

/** Empty once disposed. */
struct SequenceHandle {
    std::shared_ptr<CacheSequence> sequence;
};

INTFLASH_HANDLE(SequenceHandle, "a sequence", 11);

/** @throws Napi::Error unless `js` is the handle of a live sequence */
std::shared_ptr<CacheSequence> sequence_of(const Napi::Value& js);

}  // namespace intflash
