// What a JS handle of a linear layer holds.
#pragma once
#include <napi.h>

#include <memory>

#include "linear.h"

namespace intflash {

/** Empty once disposed. */
struct LinearHandle {
    std::shared_ptr<LinearLayer> layer;
};

/** @throws Napi::TypeError unless `js` is the handle of a live layer */
std::shared_ptr<LinearLayer> linear_of(const Napi::Value& js);

}  // namespace intflash
