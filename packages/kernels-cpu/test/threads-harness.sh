#!/usr/bin/env bash
# Builds threads-harness.cc with a sanitizer (thread, or with an argument address,undefined and leaks) and runs it; some five minutes on
# two cores, so npm test does not.
# Needs g++ or clang++ on x86-64, and an assembler that knows AMX. Any report fails it.
set -euo pipefail
cd "$(dirname "$0")/../native"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cxx=${CXX:-g++}
flags=(-std=c++17 -O1 -g -fno-omit-frame-pointer "-fsanitize=${1:-thread}" -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-exceptions -fno-rtti
  -DINT_FLASH_X86 -DINT_FLASH_HAS_AVX_VNNI -DINT_FLASH_HAS_AMX -I. -w)
avx2=(-mavx2 -mfma -mf16c)
avx512=("${avx2[@]}" -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni)
for source in attention_job attention_spec cache_append cache_attention call_memory cpu_features decoder_layer linear_layer scratch thread_pool kernels/portable; do
  "$cxx" "${flags[@]}" -c "$source.cc" -o "$out/${source##*/}.o"
done
"$cxx" "${flags[@]}" "${avx2[@]}" -c kernels/avx2.cc -o "$out/avx2.o"
"$cxx" "${flags[@]}" "${avx2[@]}" -mavxvnni -c kernels/avx_vnni.cc -o "$out/avx_vnni.o"
"$cxx" "${flags[@]}" "${avx512[@]}" -c kernels/avx512_vnni.cc -o "$out/avx512_vnni.o"
"$cxx" "${flags[@]}" "${avx512[@]}" -c kernels/amx_int8.cc -o "$out/amx_int8.o"
"$cxx" "${flags[@]}" -c ../test/threads-harness.cc -o "$out/threads-harness.o"
"$cxx" "${flags[@]}" "$out"/*.o -o "$out/threads-harness" -pthread
TSAN_OPTIONS=halt_on_error=0:exitcode=66 ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1 "$out/threads-harness" | tee "$out/said"
node ../../../tools/record-check.mjs "${1:-thread} sanitizer" <"$out/said"
