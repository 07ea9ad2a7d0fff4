#!/usr/bin/env bash
# Whether the two libraries, CPU's and CUDA's, can be carried to another machine and loaded there: together at most 64
# MiB, and libtorch.so among what the CUDA one needs, without which a CUDA PyTorch does not resolve its symbols.
set -euo pipefail

readonly most=$((64 * 1024 * 1024))
if (($# != 2)); then
  echo "usage: build_tools/bundle.sh CPU_LIBRARY CUDA_LIBRARY" >&2
  exit 64
fi
size=$(($(stat --format %s "$1") + $(stat --format %s "$2")))
if ((size > most)); then
  echo "both libraries together must be at most $most bytes; got $size" >&2
  exit 1
fi
needed="$(readelf --dynamic --wide "$2" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | tr '\n' ' ')"
if [[ " $needed" != *" libtorch.so "* ]]; then
  echo "$2 must need libtorch.so; it needs $needed" >&2
  exit 1
fi
echo "$1 and $2: $((size / 1024)) KiB, needs $needed"
