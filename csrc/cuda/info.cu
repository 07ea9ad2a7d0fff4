// The operator `fasttriplet::_cuda_build_info`: what compiled the CUDA library and for which GPUs, for bug reports.
//
// The CUDA kernels register in this library beside it. The schema is declared here and not in ops.cpp, since the
// operator exists only where this library is loaded.

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/library.h>

#include <string>

namespace fasttriplet::cuda {
namespace {

// Lines key=value; fasttriplet/info.py reads them.
std::string build_info() {
  int version = 0;  // 1000 * major + 10 * minor
  const cudaError_t status = cudaRuntimeGetVersion(&version);
  const std::string runtime = status == cudaSuccess
                                  ? std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10)
                                  : std::string("unknown, ") + cudaGetErrorString(status);
  return "nvcc=" FASTTRIPLET_NVCC "\ncuda_architectures=" FASTTRIPLET_CUDA_ARCHITECTURES "\ncuda_runtime=" + runtime;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fasttriplet, m) { m.def("_cuda_build_info() -> str"); }

// No tensor comes in, so no device could be dispatched on.
STABLE_TORCH_LIBRARY_IMPL(fasttriplet, CompositeExplicitAutograd, m) {
  m.impl("_cuda_build_info", TORCH_BOX(&build_info));
}

}  // namespace fasttriplet::cuda
