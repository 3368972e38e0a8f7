#include "operation.h"

namespace intflash {

void run_now(Stream& stream, const Operation& operation, FindingsSheet& sheet, const AbortFlag& abort) {
    abort.check();
    sheet.clear(stream.handle());
    operation.launch(stream.handle(), abort);
    sheet.collect(stream.handle());
    stream.synchronize();
    operation.judge();
}

}  // namespace intflash
