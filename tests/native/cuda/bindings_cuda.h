// The CUDA kernels under the shim, as the submodule `cuda` of the native test module.
#pragma once

#include <pybind11/pybind11.h>

namespace fasttriplet::cuda {

void bind_cuda(pybind11::module_& m);
void bind_shim(pybind11::module_& m);  // called by it

}  // namespace fasttriplet::cuda
