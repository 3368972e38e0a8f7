// What JavaScript holds of a linear layer.
#pragma once
#include <napi.h>

#include <memory>

#include "environment.h"
#include "failure.h"
#include "linear_layer.h"

namespace int_flash {

struct LinearHandle {
    std::shared_ptr<Environment> environment;  // whose live bytes the layer counts in: it must not go first
    std::shared_ptr<LinearLayer> layer;
};

// Null, with `failure` set, where `value` is none.
LinearHandle* linear_handle_of(napi_env env, napi_value value, Failure* failure);

}  // namespace int_flash
