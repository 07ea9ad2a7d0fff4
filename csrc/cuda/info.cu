// The operator `fasttriplet::_cuda_build_info`: what compiled the CUDA library and for which GPUs, for bug reports.
//
// The CUDA kernels register in this library beside it. The schema is declared here and not in ops.cpp, since the
// operator exists only where this library is loaded.

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/library.h>

#include <string>

#define FT_TEXT_OF(number) #number
#define FT_TEXT(macro) FT_TEXT_OF(macro)

namespace fasttriplet::cuda {

// 1000 * major + 10 * minor of the CUDA runtime that is linked in. fasttriplet/_library.py finds this text in the file
// before it loads the library, since a driver too old for the runtime must be told of then. extern keeps it, though
// nothing here refers to it.
extern const char kRuntime[] = "fasttriplet_cuda_runtime=" FT_TEXT(CUDART_VERSION);

namespace {

// Lines key=value; fasttriplet/info.py reads them.
std::string build_info() { return "nvcc=" FASTTRIPLET_NVCC "\ncuda_architectures=" FASTTRIPLET_CUDA_ARCHITECTURES; }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fasttriplet, m) { m.def("_cuda_build_info() -> str"); }

// No tensor comes in, so no device could be dispatched on.
STABLE_TORCH_LIBRARY_IMPL(fasttriplet, CompositeExplicitAutograd, m) {
  m.impl("_cuda_build_info", TORCH_BOX(&build_info));
}

}  // namespace fasttriplet::cuda
