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

// Throws where no kernel can run for want of a driver or a device. Asked until there is one, then never again.
inline void check_driver() {
  [[maybe_unused]] static const bool found = [] {
    int version = 0;  // stays 0 without a driver
    check_cuda(cudaDriverGetVersion(&version), "cudaDriverGetVersion");
    if (version == 0) throw std::runtime_error("fasttriplet: CUDA kernels need an NVIDIA driver, and none was found");
    int devices = 0;
    check_cuda(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
    return true;
  }();
}

inline int device_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace fasttriplet::cuda
