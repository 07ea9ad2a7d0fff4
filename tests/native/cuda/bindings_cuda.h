// The CUDA kernels under the shim, as the submodule `cuda` of the native test module.
#pragma once

#include <pybind11/pybind11.h>

namespace fasttriplet::cuda {

void bind_cuda(pybind11::module_& m);

}  // namespace fasttriplet::cuda
