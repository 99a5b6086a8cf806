#!/usr/bin/env bash
# Runs targets under libFuzzer, one after the other on one core, and says what each covered:
#   fuzz/run.sh [SECONDS] [TARGET...]   each for so long (900); ends non-zero where an input broke a law
#   fuzz/run.sh merge [TARGET...]       makes the committed corpora again, of what all runs found, and minimised
set -euo pipefail
cd "$(dirname "$0")/.."

targets=(canonical block tensorblock gguf safetensors uploads)
target_dir=${CARGO_TARGET_DIR:-$PWD/target}
program=$target_dir/debug/blyan-libfuzzer
len_max=8192

RUSTC_WORKSPACE_WRAPPER=$PWD/fuzz/instrument.sh \
  cargo build --locked -p blyan-fuzz --bin blyan-libfuzzer --features libfuzzer

# Uploads are files: in memory where there is such a folder.
[[ -d /dev/shm ]] && export TMPDIR=${TMPDIR:-/dev/shm}

# What a target's runs found so far, beside the committed corpus.
found() { echo "$target_dir/fuzz/$1"; }

libfuzzer() {
  BLYAN_FUZZ_TARGET=$1 "$program" -max_len=$len_max "${@:2}"
}

prepare() {
  mkdir -p "$(found "$1")" "fuzz/corpus/$1"
  # libFuzzer warns of the sanitizers that are not there.
  BLYAN_FUZZ_TARGET=$1 BLYAN_FUZZ_SEEDS=$(found "$1") "$program" 2> >(grep -v ^WARNING >&2)
}

run() {
  local target=$1 seconds=$2 log
  log=$(found "$target").log
  prepare "$target"
  if libfuzzer "$target" -max_total_time="$seconds" -timeout=10 \
    -artifact_prefix="$(found "$target")-" "$(found "$target")" "fuzz/corpus/$target" >"$log" 2>&1; then
    echo "$target: $(grep -E '^#[0-9]+.*DONE' "$log" | sed -E 's/\t/ /g; s/ lim:.*//'), $(grep -Eo '^Done.*' "$log")"
  else
    tail -n 30 "$log"
    echo "$target: an input broke a law; see $log" >&2
    return 1
  fi
}

# The shortest TensorBlock has 4 KiB; a kilobyte is enough to reach what the others have.
merge() {
  local target=$1 merged len=1024
  merged=$(found "$target").merged
  [[ $target == tensorblock ]] && len=$len_max
  prepare "$target"
  rm -rf "$merged" && mkdir -p "$merged"
  libfuzzer "$target" -set_cover_merge=1 -use_counters=0 -max_len=$len "$merged" "fuzz/corpus/$target" "$(found "$target")" \
    >"$(found "$target").log" 2>&1
  rm -rf "fuzz/corpus/$target" && mv "$merged" "fuzz/corpus/$target"
  echo "$target: $(find "fuzz/corpus/$target" -type f | wc -l) inputs, $(du -sb "fuzz/corpus/$target" | cut -f1) bytes"
}

broken=0
if [[ ${1:-} == merge ]]; then
  [[ $# -gt 1 ]] && targets=("${@:2}")
  for target in "${targets[@]}"; do merge "$target"; done
else
  seconds=${1:-900}
  [[ $# -gt 1 ]] && targets=("${@:2}")
  for target in "${targets[@]}"; do run "$target" "$seconds" || broken=1; done
fi
exit $broken
