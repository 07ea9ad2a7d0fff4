// Every call of the CUDA runtime and every launch is checked.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace fasttriplet::cuda {

inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // not to be found again by the next launch
  throw std::runtime_error(std::string("fasttriplet: ") + what + " failed: " + cudaGetErrorString(status));
}

inline int device_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace fasttriplet::cuda
