// The same draw as draw_tokens.h's, for rows whose rules leave more tokens than the kernel sorts.
#pragma once
#include <vector>

#include "draw_tokens.h"

namespace intflash {

/** @param logits of what may be drawn; the highest is finite */
int draw_on_host(const std::vector<float>& logits, const DrawRules& rules);

}  // namespace intflash
