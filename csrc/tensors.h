// Tensors as the kernels' registrations use them, on any device: new ones, packed ones, dtype to type.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace fasttriplet {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The one place where a dtype becomes a type: calls f with a null pointer to it.
template <typename F>
auto dispatch_dtype(const Tensor& embeddings, F&& f) {
  return embeddings.scalar_type() == ScalarType::Double ? f(static_cast<const double*>(nullptr))
                                                        : f(static_cast<const float*>(nullptr));
}
// What a null pointer of dispatch_dtype stands for.
template <typename Pointer>
using Pointee = std::remove_const_t<std::remove_pointer_t<Pointer>>;

// On the device of `like`. By the C shim that the stable ABI rests on: torch::stable::empty looks the operator up by
// name, 1 us a tensor.
inline Tensor new_tensor(const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& like) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t axis = shape.size(); axis-- > 0; stride *= std::max<int64_t>(shape[axis], 1)) strides[axis] = stride;
  const int32_t code = dtype == ScalarType::Double  ? aoti_torch_dtype_float64()
                       : dtype == ScalarType::Float ? aoti_torch_dtype_float32()
                       : dtype == ScalarType::Byte  ? aoti_torch_dtype_uint8()
                                                    : aoti_torch_dtype_int64();
  int32_t device = 0, index = 0;
  AtenTensorHandle handle = nullptr;
  if (aoti_torch_get_device_type(like.get(), &device) != AOTI_TORCH_SUCCESS ||
      aoti_torch_get_device_index(like.get(), &index) != AOTI_TORCH_SUCCESS ||
      aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(), code, device, index,
                               &handle) != AOTI_TORCH_SUCCESS)
    throw std::runtime_error((device == aoti_torch_device_type_cuda() ? "CUDA out of memory: " : std::string()) +
                             "PyTorch could not allocate a tensor of " + std::to_string(stride) + " " +
                             torch::headeronly::toString(dtype) + " entries");
  return Tensor(handle);
}

// [N], or [] where the losses are reduced.
inline Tensor new_loss(const Tensor& embeddings, bool per_anchor) {
  return new_tensor(per_anchor ? std::vector<int64_t>{embeddings.size(0)} : std::vector<int64_t>{},
                    embeddings.scalar_type(), embeddings);
}

// Asked first, since contiguous and to are looked up by name even where they have nothing to do.
inline Tensor packed(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}
inline Tensor as_float64(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? tensor : torch::stable::to(tensor, ScalarType::Double);
}
inline Tensor as_int64(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Long ? tensor : torch::stable::to(tensor, ScalarType::Long);
}

// What mine_batch_hard returns (ops.cpp).
struct MineResults {
  Tensor distances, positives, negatives;  // [2, N] float64, [N] int64, [N] int64

  explicit MineResults(const Tensor& embeddings)
      : distances(new_tensor({2, embeddings.size(0)}, ScalarType::Double, embeddings)),
        positives(new_tensor({embeddings.size(0)}, ScalarType::Long, embeddings)),
        negatives(new_tensor({embeddings.size(0)}, ScalarType::Long, embeddings)) {}
};

// What batch_hard_loss returns beside the loss (ops.cpp).
struct LossResults {
  Tensor values, pairs;            // [3, N] float64, [2, N] int64
  double *slopes, *distances;      // [N], [2, N] within values
  int64_t *positives, *negatives;  // [N] each, within pairs

  explicit LossResults(const Tensor& embeddings)
      : values(new_tensor({3, embeddings.size(0)}, ScalarType::Double, embeddings)),
        pairs(new_tensor({2, embeddings.size(0)}, ScalarType::Long, embeddings)),
        slopes(values.mutable_data_ptr<double>()),
        distances(slopes + embeddings.size(0)),
        positives(pairs.mutable_data_ptr<int64_t>()),
        negatives(positives + embeddings.size(0)) {}
};

}  // namespace fasttriplet
