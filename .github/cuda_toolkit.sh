#!/usr/bin/env bash
# Puts into FOLDER, in the container that wheels are built in, what the wheel with a CUDA library needs:
#
#     .github/cuda_toolkit.sh 12|13 FOLDER
#
#     FOLDER/toolkit      nvcc and the static runtime of that major version of CUDA: CUDA_HOME
#     FOLDER/version.cfg  gives the wheel its local version, as +cu13: DIST_EXTRA_CONFIG
#
# The major version is all that matters to a driver. Its minor is the first that knows sm_120.
set -euo pipefail
major=$1
folder=$2
mkdir -p "$folder"
case $major in
  12)
    case $(uname -m) in
      x86_64) machine=x86_64 ;;
      aarch64) machine=sbsa ;;
    esac
    dnf config-manager --add-repo "$CUDA_REPOSITORY/$machine/cuda-rhel8.repo"
    dnf install -y cuda-minimal-build-12-8
    ln -s /usr/local/cuda-12.8 "$folder/toolkit"
    ;;
  13)
    /opt/python/cp310-cp310/bin/python -m pip install --no-deps --target "$folder/wheels" \
      nvidia-cuda-cccl==13.0.85 nvidia-cuda-crt==13.0.88 nvidia-cuda-nvcc==13.0.88 nvidia-cuda-runtime==13.0.96 \
      nvidia-nvvm==13.0.88
    ln -s "$folder/wheels/nvidia/cu13" "$folder/toolkit"
    ;;
  *)
    echo "the major version of CUDA must be 12 or 13; got '$major'" >&2
    exit 2
    ;;
esac
"$folder/toolkit/bin/nvcc" --version
printf '[egg_info]\ntag_build = +cu%s\n' "$major" > "$folder/version.cfg"
