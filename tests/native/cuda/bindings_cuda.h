// The CUDA kernels under the shim, as the submodule `cuda` of the native test module.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>

#include "cuda/engine.cuh"
#include "cuda/shim.h"

namespace fasttriplet::cuda {

using HostEngine = Engine<shim::HostDevice>;

template <typename T>
using Array = pybind11::array_t<T, pybind11::array::c_style | pybind11::array::forcecast>;

// Inputs as scratch is: in pieces of their own.
template <typename T>
const T* own_copy(shim::HostMemory& memory, const Array<T>& array) {
  T* const copy = memory.take<T>(array.size());
  std::copy_n(array.data(), array.size(), copy);
  return copy;
}

Products products_named(const std::string& name);

void bind_cuda(pybind11::module_& m);
void bind_shim(pybind11::module_& m);  // called by it, as is the next
void bind_triplets(pybind11::module_& m);

}  // namespace fasttriplet::cuda
