#!/usr/bin/env bash
# The whole check on a GPU in one command, under ten minutes: build, tests, compute-sanitizer, timings. Every step runs
# even where one before it failed; the last lines say which did. Logs and results go to benchmarks/results, or to $OUT.
#
# Needs a GPU, nvcc, and a Python (PYTHON, default python3) that has a CUDA PyTorch, setuptools, ninja, NumPy, pytest,
# hypothesis and matplotlib. Without a GPU it says so and does nothing; `make cuda` builds without one.
set -uo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
results="${OUT:-benchmarks/results}"
failed=()
started=$SECONDS

step() {  # name, command...
  local name="$1" began=$SECONDS
  shift
  echo "== $name"
  local log
  log="$(mktemp)"
  if "$@" >"$log" 2>&1; then
    echo "   passed, $((SECONDS - began)) s"
  else
    echo "   FAILED, $((SECONDS - began)) s; its end, all of it is in $results/gpu.log:"
    tail -n 40 "$log" | sed 's/^/   /'
    failed+=("$name")
  fi
  { echo "== $name"; cat "$log"; } >>"$results/gpu.log"
  rm "$log"
}

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "no GPU here: nothing was run, and nothing is claimed about a GPU"
  exit 3
fi
capability="$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')"
[[ $capability == 9.0 ]] && capability=9.0a
"$python" -c 'import torch; print("==", torch.cuda.get_device_name(), "PyTorch", torch.__version__)'

mkdir -p "$results"
rm -f "$results/gpu.log"
step build timeout 150 env FASTTRIPLET_CUDA=1 TORCH_CUDA_ARCH_LIST="$capability" "$python" setup.py build_ext --inplace
step tensor_cores timeout 20 "$python" -c '
import fasttriplet, torch
from fasttriplet import _library
assert _library.cuda_absence is None, _library.cuda_absence
for warpgroup in (False, True) if torch.cuda.get_device_capability() == (9, 0) else (False,):
    wrong = torch.ops.fasttriplet._cuda_test_tensor_cores(0, warpgroup)
    assert wrong == "", wrong'
step cuda_tests timeout 80 "$python" -m pytest -q -p no:cacheprovider tests/test_cuda.py
step suite env FASTTRIPLET_TEST_ENGINE=cuda timeout 90 "$python" -m pytest -q -p no:cacheprovider tests
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    step "$tool" timeout 50 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" -m benchmarks.small_run
  done
else
  echo "== compute-sanitizer is not here: memory and races were not checked"
fi
step timings timeout 140 "$python" -m benchmarks.gpu --minutes 1.7 --output "$results"
echo "== $((SECONDS - started)) s in all"
if ((${#failed[@]})); then
  echo "FAILED: ${failed[*]}"
  exit 1
fi
echo "every step passed"
