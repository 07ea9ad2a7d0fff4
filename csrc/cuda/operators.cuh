// What the operators' registrations share: PyTorch's device, its current stream, and scratch of its allocator.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "cuda/engine.cuh"
#include "cuda/launch.cuh"
#include "tensors.h"

namespace fasttriplet::cuda {

using CudaEngine = Engine<CudaDevice>;

inline cudaStream_t current_stream(int32_t device) {
  void* stream = nullptr;
  if (aoti_torch_get_current_cuda_stream(device, &stream) != AOTI_TORCH_SUCCESS)
    throw std::runtime_error("PyTorch did not name its current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

inline int32_t device_of(const Tensor& tensor) { return static_cast<int32_t>(tensor.get_device_index()); }

// The device itself. Without a driver PyTorch's guard would only say that it failed, or print its stack of calls.
inline int32_t with_driver(int32_t device) {
  check_driver();
  return device;
}

// Scratch of a call in one allocation of PyTorch's. It may be given back before the kernels have run: the allocator
// reuses it in the order of the stream.
template <typename Scratch, typename... Arguments>
Scratch allocate(Tensor& memory, const Tensor& like, CudaDevice& device, const Arguments&... arguments) {
  Carver count(nullptr);
  Scratch(device, count, arguments...);
  memory = new_tensor({static_cast<int64_t>(count.used())}, ScalarType::Byte, like);
  Carver carver(reinterpret_cast<char*>(memory.mutable_data_ptr<uint8_t>()));
  return Scratch(device, carver, arguments...);
}

}  // namespace fasttriplet::cuda
