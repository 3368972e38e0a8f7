#!/usr/bin/env bash
# Builds weights-harness.cc and runs it; some seconds. Needs g++ or clang++, and a CPU with AVX-512.
set -euo pipefail
cd "$(dirname "$0")/../native"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"${CXX:-g++}" -std=c++17 -O2 -ffp-contract=off -fno-math-errno -fno-trapping-math -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -I. ../test/weights-harness.cc -o "$out/weights-harness" -pthread
"$out/weights-harness" | tee "$out/said"
node ../../../tools/record-check.mjs "every weight" <"$out/said"
