// The loss of explicit triplets by CUDA kernels as operators: checks, tensors to pointers, dtype to type.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "check.h"
#include "cuda/operators.cuh"
#include "tensors.h"

namespace fasttriplet::cuda {
namespace {

// Packed rows, kept alive until the kernels are launched: the allocator reuses memory in the order of the stream.
struct TripletTensors {
  Tensor anchor, positive, negative;

  TripletTensors(const Tensor& a, const Tensor& p, const Tensor& n)
      : anchor(packed(a)), positive(packed(p)), negative(packed(n)) {}

  template <typename T>
  DeviceTriplets<T> view(Distance distance) const {
    return {{anchor.const_data_ptr<T>(), positive.const_data_ptr<T>(), negative.const_data_ptr<T>()},
            anchor.size(0),
            anchor.size(1),
            distance};
  }
};

std::tuple<Tensor, Tensor> loss_operator(const Tensor& anchor, const Tensor& positive, const Tensor& negative,
                                         const std::optional<Tensor>& weights, double margin, int64_t distance_code,
                                         bool swap, bool soft_margin, std::optional<double> mining_margin,
                                         int64_t reduction) {
  check_triplets(anchor, positive, negative);
  const Distance distance = distance_of(distance_code);
  const TripletMarginOptions options(margin, swap, soft_margin, mining_margin, reduction_of(reduction));
  if (weights) check_triplet_weights(*weights, anchor);
  const torch::stable::accelerator::DeviceGuard guard(with_driver(device_of(anchor)));
  const int64_t t = anchor.size(0);
  std::optional<Tensor> factors;
  if (weights) factors = packed(as_float64(*weights));
  const TripletTensors tensors(anchor, positive, negative);
  Tensor values = new_tensor({TripletValues<double>::rows(distance, swap), t}, ScalarType::Double, anchor);
  const bool per_triplet = options.reduction == Reduction::kNone;
  Tensor loss = new_loss(anchor, per_triplet);
  CudaDevice device(device_of(anchor), current_stream(device_of(anchor)));
  CudaEngine engine(device);
  dispatch_dtype(anchor, [&](auto* typed) {
    using T = Pointee<decltype(typed)>;
    Tensor memory;
    const auto scratch = allocate<CudaEngine::TripletMarginScratch>(memory, anchor, device, t);
    T* const out = loss.mutable_data_ptr<T>();
    engine.triplet_margin(tensors.view<T>(distance), factors ? factors->const_data_ptr<double>() : nullptr, options,
                          scratch, {values.mutable_data_ptr<double>(), t, distance, swap}, per_triplet ? out : nullptr,
                          per_triplet ? nullptr : out);
  });
  return {loss, values};
}

std::tuple<Tensor, Tensor, Tensor> backward_operator(const Tensor& grad_loss, const Tensor& anchor,
                                                     const Tensor& positive, const Tensor& negative,
                                                     const Tensor& values, int64_t distance_code, bool swap,
                                                     bool wants_anchor, bool wants_positive, bool wants_negative) {
  check_triplets(anchor, positive, negative);
  check_upstream(grad_loss, anchor, "anchor");
  const Distance distance = distance_of(distance_code);
  check_saved(values, "values", ScalarType::Double, TripletValues<double>::rows(distance, swap), anchor,
              "triplet_margin_loss returned for these triplets");
  const torch::stable::accelerator::DeviceGuard guard(with_driver(device_of(anchor)));
  const TripletTensors tensors(anchor, positive, negative);
  const Tensor upstream = packed(grad_loss), packed_values = packed(values);
  const int64_t t = anchor.size(0), d = anchor.size(1);
  const auto gradient_where = [&](bool wanted) {
    return new_tensor(wanted ? std::vector<int64_t>{t, d} : std::vector<int64_t>{0}, anchor.scalar_type(), anchor);
  };
  Tensor of_anchor = gradient_where(wants_anchor), of_positive = gradient_where(wants_positive),
         of_negative = gradient_where(wants_negative);
  CudaDevice device(device_of(anchor), current_stream(device_of(anchor)));
  CudaEngine engine(device);
  dispatch_dtype(anchor, [&](auto* typed) {
    using T = Pointee<decltype(typed)>;
    T* const gradients[kRoles] = {wants_anchor ? of_anchor.mutable_data_ptr<T>() : nullptr,
                                  wants_positive ? of_positive.mutable_data_ptr<T>() : nullptr,
                                  wants_negative ? of_negative.mutable_data_ptr<T>() : nullptr};
    engine.triplet_margin_backward(tensors.view<T>(distance),
                                   {packed_values.const_data_ptr<double>(), t, distance, swap},
                                   upstream.const_data_ptr<T>(), upstream.dim() == 1, gradients);
  });
  return {of_anchor, of_positive, of_negative};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fasttriplet, CUDA, m) {
  m.impl("triplet_margin_loss", TORCH_BOX(&loss_operator));
  m.impl("_triplet_margin_loss_backward", TORCH_BOX(&backward_operator));
}

}  // namespace fasttriplet::cuda
