#!/usr/bin/env bash
# Cross-compiles for aarch64 Linux and runs tests/native there under QEMU's user-mode emulation:
#
#     build_tools/aarch64.sh BIN [argument of pytest ...]
#
# BIN is the folder of programs of a virtual environment in which the package is installed for development. All that is
# made lies in build/aarch64, and what is up to date there is used again. Nothing needs root: the aarch64 Python is
# made of packages that are unpacked, never installed.
set -euo pipefail
if [[ ! -x ${1-}/python ]]; then
  echo "BIN must be the folder of programs of a virtual environment; got '${1-}'" >&2
  exit 2
fi
bin=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
out=$PWD/build/aarch64
root=$out/root  # what the emulated programs see as /, where it has the file
site=$out/site  # Python packages for aarch64

emulator=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
[[ -n $emulator ]] || missing="qemu-aarch64-static"
# apt-get and dpkg-deb fetch and unpack a Python, nm lists the names of PyTorch's C functions.
for tool in aarch64-linux-gnu-g++ aarch64-linux-gnu-gcc apt-get dpkg-deb nm "$bin/cmake" "$bin/ninja"; do
  command -v "$tool" > /dev/null || missing=$tool
done
if [[ -n ${missing-} ]]; then
  echo "aarch64 needs $missing, which is not here; on Debian: apt-get install g++-aarch64-linux-gnu qemu-user-static" >&2
  exit 1
fi
mkdir -p "$out"

# 1. A Python for aarch64 with its headers, from the system's own package sources. apt gets an architecture, lists, a
# cache and an (empty) record of installed packages of its own, so the system's stay as they are.
if [[ ! -e $root/.complete ]]; then
  echo "Fetching Python for aarch64 into $root"
  rm -rf "$root" "$out/apt"
  mkdir -p "$root" "$out"/apt/{state/lists/partial,cache/archives/partial}
  : > "$out/apt/status"
  cat > "$out/apt/apt.conf" << EOF
APT::Architecture "arm64";
#clear APT::Architectures;
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Dir::State "$out/apt/state";
Dir::State::status "$out/apt/status";
Dir::Cache "$out/apt/cache";
Dir::Cache::archives "archives";
// Hooks of this machine are about its own packages.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
EOF
  apt-get --config-file="$out/apt/apt.conf" -qq update
  apt-get --config-file="$out/apt/apt.conf" -qq --yes --download-only install python3 libpython3-dev libstdc++6
  for package in "$out"/apt/cache/archives/*.deb; do dpkg-deb --extract "$package" "$root"; done
  [[ -e $root/lib ]] || ln -s usr/lib "$root/lib"  # in a Debian that merged them, no package has it
  rm -rf "$out/apt"
  touch "$root/.complete"
fi

# To CMake, pybind11 and the tests it is a Python as any other. The CPU is of the first generation, ARMv8.0: a
# later instruction ends the process.
python=$out/python
cat > "$python" << EOF
#!/bin/sh
PYTHONPATH='$site' PYTHONNOUSERSITE=1 PYTHONPYCACHEPREFIX='$out/pycache' QEMU_CPU=cortex-a57 \\
  exec '$emulator' -L '$root' '$root/usr/bin/python3' "\$@"
EOF
chmod +x "$python"

# 2. What the tests import. pip runs on this machine, so it must be told for which it chooses.
if [[ ! -e $site/.complete || requirements/constraints.txt -nt $site/.complete ]]; then
  echo "Installing what the tests need into $site"
  rm -rf "$site"
  "$bin/python" -m pip --disable-pip-version-check install --quiet --constraint requirements/constraints.txt \
    --target "$site" --no-compile --only-binary=:all: --implementation cp \
    --python-version "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    numpy pytest hypothesis pybind11
  touch "$site/.complete"
fi

# 3. The package's library, as setup.py builds it but for the linker's search path. Instead of an aarch64 PyTorch the
# linker is given a library that has the names of its C functions, taken from the PyTorch at hand, and no code: with
# `-z defs` in setup.py that shows that nothing else is missing. The result is never run.
torch=$out/torch
mkdir -p "$torch"
"$bin/python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")' |
  xargs nm --dynamic --defined-only |
  awk '$3 ~ /^(aoti_torch|torch)_[a-z0-9_]+$/ { print "void " $3 "(void) {}" }' > "$torch/names.c"
aarch64-linux-gnu-gcc -shared -fPIC -w -Wl,-soname,libtorch_cpu.so -o "$torch/libtorch_cpu.so" "$torch/names.c"
CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ LDSHARED="aarch64-linux-gnu-gcc -shared" \
  LDCXXSHARED="aarch64-linux-gnu-g++ -shared" LDFLAGS="-L$torch" FASTTRIPLET_CUDA=0 \
  "$bin/python" setup.py --quiet build_ext --build-temp "$out/package" --build-lib "$out/package"

# 4. The native module. Debian keeps Python's pyconfig.h beside the folder of its headers.
"$bin/cmake" -S . -B "$out/native" -G Ninja -DCMAKE_MAKE_PROGRAM="$bin/ninja" \
  -DCMAKE_TOOLCHAIN_FILE="$PWD/build_tools/aarch64.cmake" -DCMAKE_CXX_FLAGS="-idirafter $root/usr/include" \
  -DPython_EXECUTABLE="$python" --log-level=WARNING
"$bin/cmake" --build "$out/native"

# Of the CUDA kernels' shim only its own tests: it is for the host, and emulated once more the kernels would take an hour.
FASTTRIPLET_NATIVE_DIR=$out/native "$python" -m pytest -p no:cacheprovider --ignore=tests/native/test_cuda.py \
  --ignore=tests/native/test_cuda_faults.py tests/native "$@"
