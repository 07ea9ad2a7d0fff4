#!/usr/bin/env bash
# The check on a GPU in two halves, each at most 270 s or --seconds. `first`: the libraries load, each kind of products gives the
# CPU's answers, the tests of tests/test_cuda.py, where a step's time goes. `second`: the package's tests, timings, the
# sanitizers, then what compiles or takes what time is left. Log and results go to benchmarks/results, or to $OUT.
#
# Needs a GPU and a Python (PYTHON, default python3) that has a CUDA PyTorch, NumPy, pytest, hypothesis and matplotlib;
# pytest-xdist and pytest-timeout are used where they are. Uses the libraries that lie in fasttriplet/, which `make
# gpu-bundle` builds without a GPU; --build builds them here, before the half's time begins. `--device cpu` walks
# through a half without a GPU, by the shim (`make native`) and in small sizes: it says nothing about a GPU.
#
# Every step is a process of its own under a time limit, and runs even where one before it failed; the last lines say
# step by step what passed, failed or was left out. Exit status: 0, 1 where a step failed, 2 where nothing loads (and
# nothing else was run), 3 without a GPU, 64 for a wrong argument.
set -uo pipefail
cd "$(dirname "$0")/.."

readonly grace=5  # seconds from a step's limit until it is killed
readonly left_out_status=77
readonly least_whole=16  # no step would have the time to begin
readonly python="${PYTHON:-python3}"
half='' device=cuda build=no whole=270
outcomes=() passed=0 failed=0 left_out=0

refuse() {
  echo "$1" >&2
  echo "usage: benchmarks/gpu.sh first|second [--device cuda|cpu] [--build] [--seconds N]" >&2
  exit 64
}

while (($#)); do
  case "$1" in
    first | second) half="$1" ;;
    --build) build=yes ;;
    --device)
      (($# > 1)) || refuse "--device must be cuda or cpu; got nothing"
      device="$2"
      shift
      ;;
    --seconds)
      whole="${2:-}"
      [[ $whole =~ ^[0-9]+$ ]] && ((10#$whole >= least_whole)) ||
        refuse "--seconds must be an integer of at least $least_whole; got '$whole'"
      shift
      ;;
    *) refuse "an argument must be first, second, --device, --build or --seconds; got '$1'" ;;
  esac
  shift
done
[[ -n $half ]] || refuse "the half must be first or second; got nothing"
[[ $device == cuda || $device == cpu ]] || refuse "--device must be cuda or cpu; got '$device'"
[[ $build == no || $device == cuda ]] || refuse "--build must come with a GPU, whose libraries it builds; got --device cpu"

results="${OUT:-benchmarks/results}"
[[ $device == cpu ]] && results="${OUT:-build/gpu-trial}"

outcome() {  # verdict, step, why
  outcomes+=("$(printf '%-9s %-18s %s' "$1" "$2" "$3")")
  case "$1" in
    passed) passed=$((passed + 1)) ;;
    FAILED) failed=$((failed + 1)) ;;
    *) left_out=$((left_out + 1)) ;;
  esac
  echo "   $1: $3"
}

leave_out() {  # step, why
  echo "== $1"
  outcome "left out" "$1" "$2"
}

# Runs a step for at most so many seconds, less where less is left; it is left out where less than $least would be. A
# step that takes too long is interrupted, so that pytest still says what failed, then killed.
step() {  # step, seconds, command...
  local name="$1" most="$2" left=$((whole - grace - SECONDS)) began=$SECONDS status
  shift 2
  ((left >= ${least:-10})) || { leave_out "$name" "no time was left"; return; }
  ((most < left)) || most=$left
  echo "== $name, at most $most s, $SECONDS s into the half"
  timeout --signal INT --kill-after "$grace" "$most" "$@" </dev/null
  status=$?
  case $status in
    0) outcome passed "$name" "$((SECONDS - began)) s" ;;
    "$left_out_status") outcome "left out" "$name" "what it needs is missing here, see above" ;;
    124 | 137) outcome FAILED "$name" "stopped after $((SECONDS - began)) s" ;;
    *) outcome FAILED "$name" "exit status $status after $((SECONDS - began)) s" ;;
  esac
}

# Ends the half where nothing loads, or where there is no GPU.
gate() {
  echo "== gate, at most 60 s"
  timeout --signal INT --kill-after "$grace" 60 "$python" -m benchmarks.gpu.gate --device "$device" </dev/null
  local status=$?
  case $status in
    0) outcome passed gate "$SECONDS s" ;;
    3) exit 3 ;;
    *)
      outcome FAILED gate "exit status $status after $SECONDS s"
      echo "$half half: the gate FAILED, nothing else was run"
      exit 2
      ;;
  esac
}

capability() { nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1; }

build() {
  local architecture
  architecture="$(capability)"
  if [[ -z $architecture ]]; then
    echo "nvidia-smi must name the GPU's compute capability, for which --build compiles; got nothing: nothing else was run"
    exit 2
  fi
  [[ $architecture == 9.0 ]] && architecture=9.0a
  FASTTRIPLET_CUDA=1 TORCH_CUDA_ARCH_LIST="$architecture" "$python" setup.py build_ext --inplace || {
    echo "the libraries did not build for compute capability '$architecture': nothing else was run"
    exit 2
  }
}

has() { "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)' "$1"; }

first_half() {
  local kind
  for kind in float tensor wgmma wgmma-pair; do  # the simplest first: each tells what the next one's failure means
    step "answers_$kind" 30 "$python" -m benchmarks.gpu.answers "$kind" --device "$device"
  done
  if [[ $device == cpu ]]; then
    step cuda_tests 60 "${pytest[@]}" tests/native/test_cuda.py -k "no_rows or equal_rows"
    step kernels 60 "$python" -m benchmarks.gpu.kernels --device cpu --sizes 64x128 128x128 --output "$results"
    return
  fi
  step cuda_tests 75 "${pytest[@]}" ${one_worker[@]+"${one_worker[@]}"} -v --maxfail 5 -m "not alone" tests/test_cuda.py
  # Last, since it ends with Hopper's products, which may hang until they are stopped.
  step kernels 100 "$python" -m benchmarks.gpu.kernels --output "$results"
}

alone() {  # step, seconds, test
  step "$1" "$2" "${pytest[@]}" "tests/test_cuda.py::$3"
}

sanitize() {  # tool, seconds, part of the names of the kernels that it follows
  if ! command -v compute-sanitizer >/dev/null; then
    leave_out "$1" "compute-sanitizer is not here"
    return
  fi
  step "$1" "$2" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --kernel-name "kns=$3" \
    --error-exitcode 9 "$python" -m benchmarks.gpu.small_run "$1"
}

amx_tier() {
  if grep -qw amx_tile /proc/cpuinfo; then
    step amx 40 "$python" -m benchmarks.gpu.tiers amx avx2 "$@"
  else
    leave_out amx "this processor has no AMX"
  fi
}

second_half() {
  if [[ $device == cpu ]]; then
    step suite 60 env FASTTRIPLET_TEST_ENGINE=shim "${pytest[@]}" tests/test_miners.py tests/test_losses.py
    step timings 60 "$python" -m benchmarks.gpu.timings --device cpu --sizes 64x128 128x128 --output "$results"
    local name
    for name in memcheck racecheck capture_first wgmma_beside wgmma-pair_beside reduce_overhead ncu compiled_peer; do
      leave_out "$name" "needs a GPU"
    done
    amx_tier --small
    return
  fi
  step suite 70 env FASTTRIPLET_TEST_ENGINE=cuda "${pytest[@]}" ${workers[@]+"${workers[@]}"} --maxfail 5 tests
  step timings 100 "$python" -m benchmarks.gpu.timings --minutes 1.1 --output "$results"
  alone capture_first 30 test_an_untested_device_is_not_trusted_while_a_graph_is_captured
  sanitize memcheck 60 fasttriplet
  sanitize racecheck 40 ScreenPairs
  amx_tier
  if [[ $(capability) == 9.0 ]]; then
    alone wgmma_beside 20 "test_wgmma_gives_the_same[wgmma]"
    alone wgmma-pair_beside 20 "test_wgmma_gives_the_same[wgmma-pair]"
  else
    leave_out wgmma_beside "needs compute capability 9.0"
    leave_out wgmma-pair_beside "needs compute capability 9.0"
  fi
  alone reduce_overhead 60 test_compiled_with_less_overhead
  if command -v ncu >/dev/null; then
    # The kernels are instances of one template, `run`: the name to look at is the demangled one. The first step's two
    # screens are passed over, in which the device is still cold.
    least=40 step ncu 60 ncu --clock-control none --set full --kernel-name-base demangled \
      --kernel-name regex:ScreenPairs --launch-skip 2 --launch-count 1 "$python" -m benchmarks.gpu.one_size 65536x512
  else
    leave_out ncu "ncu is not here"
  fi
  least=30 step compiled_peer 60 "$python" -m benchmarks.gpu.timings --sizes 1024x128 --peers "masks compiled" \
    --suffix _compiled --output "$results"
}

main() {
  [[ $build == no ]] || build
  SECONDS=0
  echo "== $half half on $device, $(date -u '+%F %T') UTC"
  if [[ $device == cuda ]] && command -v nvidia-smi >/dev/null; then
    timeout 10 nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  fi
  gate
  pytest=("$python" -m pytest -p no:cacheprovider --durations 10)
  one_worker=() workers=()
  # A test that hangs ends its worker, and the next one goes on.
  if has xdist; then one_worker=(-n 1) workers=(-n 6); fi
  if has pytest_timeout; then
    one_worker+=(--timeout 30 --timeout-method thread) workers+=(--timeout 30 --timeout-method thread)
  fi
  "${half}_half"
  echo "== $half half: $SECONDS s of $whole"
  printf '%s\n' "${outcomes[@]}"
  echo "$half half: $passed passed, $failed FAILED, $left_out left out"
  ((failed == 0))
}

# Output is never held back, so that a kill loses none of it.
export PYTHONUNBUFFERED=1
# The oracle is a tier that much else has tested: a host of such a GPU has AMX, which little has.
if grep -qw avx2 /proc/cpuinfo; then export FASTTRIPLET_ISA=avx2; fi
PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin"
mkdir -p "$results"
main 2>&1 | tee -a "$results/gpu.log"
exit "${PIPESTATUS[0]}"
