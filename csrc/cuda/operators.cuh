// What the operators' registrations share: PyTorch's device, its current stream, scratch of its allocator, and which
// products the screen begins with.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cuda/engine.cuh"
#include "cuda/launch.cuh"
#include "cuda/trust.h"
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

// Edges, two a row, have 32-bit numbers here.
inline void check_rows(const Tensor& embeddings) {
  if (embeddings.size(0) >= int64_t{1} << 30)
    throw std::invalid_argument("embeddings must have fewer than 2^30 rows on CUDA; got " +
                                std::to_string(embeddings.size(0)));
}

// `must_be`: what the error says before what came.
inline TensorCores tensor_cores_named(const std::string& name, const char* must_be) {
  if (name == "tensor") return TensorCores::kWarp;
  if (name == "wgmma") return TensorCores::kWarpgroup;
  if (name == "wgmma-pair") return TensorCores::kWarpgroupPair;
  throw std::invalid_argument(std::string(must_be) + "; got '" + name + "'");
}

// FASTTRIPLET_CUDA_PRODUCTS forces what the screen begins with; otherwise tensor cores where they have passed their
// test. wgmma has to be asked for until it has been measured.
inline Products chosen_products(const CudaDevice& device, int32_t index, int64_t n) {
  const char* const forced = std::getenv("FASTTRIPLET_CUDA_PRODUCTS");
  const std::string wish = forced == nullptr ? "" : forced;
  if (wish == "float") return Products::kFloat;
  const TensorCores kind = tensor_cores_named(wish.empty() ? "tensor" : wish,
                                              "FASTTRIPLET_CUDA_PRODUCTS must be tensor, wgmma, wgmma-pair or float");
  const bool trusted = tensor_cores_trusted(index, kind, device.stream());
  if (!wish.empty() && !trusted)
    throw std::invalid_argument("FASTTRIPLET_CUDA_PRODUCTS=" + wish + " needs a GPU of compute capability " +
                                (kind == TensorCores::kWarp ? "8.0 or later" : "9.0") +
                                " that has passed the test of its tensor cores, outside the capture of a graph; CUDA "
                                "device " +
                                std::to_string(index) + " is none");
  if (!trusted) return Products::kFloat;
  if (kind == TensorCores::kWarp) return tensor_products(n);
  return kind == TensorCores::kWarpgroup ? Products::kWgmma : Products::kWgmmaPair;
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
