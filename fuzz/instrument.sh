#!/bin/sh
# A compiler for RUSTC_WORKSPACE_WRAPPER: this workspace's crates count which edges of their code run, in the form that
# libFuzzer reads. The crates of others stay as they are, so none of them is built again.
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
