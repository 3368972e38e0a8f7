// What a JS handle of a linear layer holds.
#pragma once
#include <napi.h>

#include <memory>

#include "handles.h"
#include "linear.h"

namespace intflash {

/** Empty once disposed. */
struct LinearHandle {
    std::shared_ptr<LinearLayer> layer;
};

INTFLASH_HANDLE(LinearHandle, "a linear layer", 9);

/** @throws Napi::Error unless `js` is the handle of a live layer */
std::shared_ptr<LinearLayer> linear_of(const Napi::Value& js);

}  // namespace intflash
