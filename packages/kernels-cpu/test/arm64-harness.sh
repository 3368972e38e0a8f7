#!/usr/bin/env bash
# Compiles the kernels for AArch64 and compares NEON, with and without sdot, with portable C++ under emulation; about a minute.
# Needs Debian's g++-aarch64-linux-gnu and qemu-user.
set -euo pipefail
cd "$(dirname "$0")/../native"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
flags=(-std=c++17 -O2 -Wall -Wextra -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-exceptions -fno-rtti -DINT_FLASH_ARM64 -I.)
for source in attention_job attention_spec cache_append cache_attention call_memory cpu_features linear_layer scratch thread_pool kernels/portable kernels/neon; do
  aarch64-linux-gnu-g++ "${flags[@]}" -c "$source.cc" -o "$out/${source##*/}.o"
done
aarch64-linux-gnu-g++ "${flags[@]}" -march=armv8.2-a+dotprod -c kernels/neon_dot.cc -o "$out/neon_dot.o"
aarch64-linux-gnu-g++ "${flags[@]}" ../test/isa-harness.cc "$out"/*.o -o "$out/isa-harness" -static -pthread
qemu-aarch64 -cpu max "$out/isa-harness" | tee "$out/said"
node ../../../tools/record-check.mjs "arm64 emulated" <"$out/said"
