// Batch-hard's CUDA kernels as operators: checks, tensors to pointers, dtype to type.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "check.h"
#include "cuda/operators.cuh"
#include "cuda/trust.h"
#include "tensors.h"

namespace fasttriplet::cuda {
namespace {

// Mines, then calls then(engine, device, products, scratch, typed null pointer).
template <typename Then>
void mine(const Tensor& embeddings, const Tensor& labels, Distance distance, const Mined& mined, Then&& then) {
  check_rows(embeddings);
  const Tensor rows = packed(embeddings), ids = packed(as_int64(labels));
  CudaDevice device(device_of(rows), current_stream(device_of(rows)));
  const Products products = chosen_products(device, device_of(rows), rows.size(0));
  CudaEngine engine(device);
  dispatch_dtype(rows, [&](auto* typed) {
    using T = Pointee<decltype(typed)>;
    const DeviceBatch<T> batch = {rows.const_data_ptr<T>(), rows.size(0), rows.size(1), distance};
    Tensor memory;
    const auto scratch = allocate<CudaEngine::MineScratch>(memory, rows, device, batch);
    engine.mine(batch, reinterpret_cast<const uint64_t*>(ids.const_data_ptr<int64_t>()), products, scratch, mined);
    then(engine, device, products, scratch, typed);
  });
}

std::tuple<Tensor, Tensor, Tensor> mine_operator(const Tensor& embeddings, const Tensor& labels, int64_t distance) {
  check_embeddings(embeddings);
  check_labels(labels, embeddings);
  const torch::stable::accelerator::DeviceGuard guard(with_driver(device_of(embeddings)));
  MineResults results(embeddings);
  mine(embeddings, labels, distance_of(distance),
       {results.positives.mutable_data_ptr<int64_t>(), results.negatives.mutable_data_ptr<int64_t>(),
        results.distances.mutable_data_ptr<double>(), nullptr},
       [](CudaEngine&, CudaDevice&, Products, const CudaEngine::MineScratch&, auto*) {});
  return {results.distances, results.positives, results.negatives};
}

// on_missing = "error" waits for the device: nothing else does.
void refuse_missing(const CudaDevice& device, const State* on_device, int64_t n) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(device.stream(), &capture), "cudaStreamIsCapturing");
  if (capture != cudaStreamCaptureStatusNone)
    throw std::invalid_argument(
        "on_missing must be 'skip' or 'zero' while a CUDA graph is captured, since 'error' waits for the device; got "
        "'error'");
  State state;
  check_cuda(cudaMemcpyAsync(&state, on_device, sizeof state, cudaMemcpyDeviceToHost, device.stream()),
             "cudaMemcpyAsync");
  check_cuda(cudaStreamSynchronize(device.stream()), "cudaStreamSynchronize");
  if (state.bad_rows > 0) return;  // the loss is NaN
  check_none_missing(state.missing, n, n - static_cast<int64_t>(state.first_missing.reversed));
}

std::tuple<Tensor, Tensor, Tensor> loss_operator(const Tensor& embeddings, const Tensor& labels, double margin,
                                                 int64_t distance, bool soft_margin, int64_t reduction,
                                                 int64_t on_missing) {
  check_embeddings(embeddings);
  check_labels(labels, embeddings);
  const LossOptions options = {margin, soft_margin, reduction_of(reduction), on_missing_of(on_missing)};
  const torch::stable::accelerator::DeviceGuard guard(with_driver(device_of(embeddings)));
  const int64_t n = embeddings.size(0);
  const LossResults results(embeddings);
  const bool per_anchor = options.reduction == Reduction::kNone;
  Tensor loss = new_loss(embeddings, per_anchor);
  const Mined mined = {results.positives, results.negatives, results.distances, nullptr};
  mine(embeddings, labels, distance_of(distance), mined,
       [&](CudaEngine& engine, CudaDevice& device, Products, const CudaEngine::MineScratch& scratch, auto* typed) {
         using T = Pointee<decltype(typed)>;
         T* const out = loss.mutable_data_ptr<T>();
         engine.reduce<T>(n, options, scratch, mined, per_anchor ? out : nullptr, results.slopes,
                          per_anchor ? nullptr : out);
         if (options.on_missing == OnMissing::kError) refuse_missing(device, scratch.state, n);
       });
  return {loss, results.values, results.pairs};
}

Tensor backward_operator(const Tensor& grad_loss, const Tensor& embeddings, const Tensor& values, const Tensor& pairs,
                         int64_t distance) {
  check_embeddings(embeddings);
  check_upstream(grad_loss, embeddings);
  check_rows(embeddings);
  const int64_t n = embeddings.size(0), d = embeddings.size(1);
  check_saved(values, "values", ScalarType::Double, 3, embeddings);
  check_saved(pairs, "pairs", ScalarType::Long, 2, embeddings);
  const torch::stable::accelerator::DeviceGuard guard(with_driver(device_of(embeddings)));
  const Tensor rows = packed(embeddings), upstream = packed(grad_loss);
  const Tensor packed_values = packed(values), packed_pairs = packed(pairs);
  const double* slopes = packed_values.const_data_ptr<double>();
  Tensor gradient = new_tensor({n, d}, embeddings.scalar_type(), embeddings);
  CudaDevice device(device_of(rows), current_stream(device_of(rows)));
  CudaEngine engine(device);
  dispatch_dtype(rows, [&](auto* typed) {
    using T = Pointee<decltype(typed)>;
    const DeviceBatch<T> batch = {rows.const_data_ptr<T>(), n, d, distance_of(distance)};
    Tensor memory;
    const auto scratch = allocate<CudaEngine::BackwardScratch>(memory, rows, device, batch);
    engine.backward(batch, packed_pairs.const_data_ptr<int64_t>(), slopes + n, slopes, upstream.const_data_ptr<T>(),
                    upstream.dim() == 1, scratch, gradient.mutable_data_ptr<T>());
  });
  return gradient;
}

// One call, and what its screen left: for reports. Waits for the device.
std::string mine_counters(const Tensor& embeddings, const Tensor& labels, int64_t distance) {
  check_embeddings(embeddings);
  check_labels(labels, embeddings);
  const torch::stable::accelerator::DeviceGuard guard(with_driver(device_of(embeddings)));
  MineResults results(embeddings);
  std::string text;
  mine(embeddings, labels, distance_of(distance),
       {results.positives.mutable_data_ptr<int64_t>(), results.negatives.mutable_data_ptr<int64_t>(),
        results.distances.mutable_data_ptr<double>(), nullptr},
       [&](CudaEngine& engine, CudaDevice& device, Products products, const CudaEngine::MineScratch& scratch, auto*) {
         const int64_t n = embeddings.size(0);
         engine.count_candidates(n, scratch);
         State state;
         check_cuda(cudaMemcpyAsync(&state, scratch.state, sizeof state, cudaMemcpyDeviceToHost, device.stream()),
                    "cudaMemcpyAsync");
         check_cuda(cudaStreamSynchronize(device.stream()), "cudaStreamSynchronize");
         const ScreenCounters found = engine.counters(n, products, state);
         const char* const searches[kSearches] = {"nearest", "farthest"};
         for (int search = 0; search < kSearches; ++search)
           text += std::string("overflown_") + searches[search] + "=" + std::to_string(found.overflown[search]) +
                   "\nscanned_" + searches[search] + "=" + std::to_string(found.scanned[search]) + "\ncandidates_" +
                   searches[search] + "=" + std::to_string(found.candidates[search]) + "\n";
         text += std::string("fine_round=") + (found.fine_round ? "1" : "0");
       });
  return text;
}

constexpr const char* kKindsOfTensorCores = "products must be tensor, wgmma or wgmma-pair";

double tensor_core_share(int64_t device, std::string products) {
  const TensorCores kind = tensor_cores_named(products, kKindsOfTensorCores);
  const torch::stable::accelerator::DeviceGuard guard(with_driver(static_cast<int32_t>(device)));
  return largest_error_share(static_cast<int>(device), kind);
}

std::string tensor_core_test(int64_t device, std::string products) {
  const TensorCores kind = tensor_cores_named(products, kKindsOfTensorCores);
  const torch::stable::accelerator::DeviceGuard guard(with_driver(static_cast<int32_t>(device)));
  return test_tensor_cores(static_cast<int>(device), kind);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fasttriplet, m) {
  // What is wrong with the tensor cores of a device, empty where nothing is; `products`: tensor, wgmma or wgmma-pair.
  m.def("_cuda_test_tensor_cores(int device, str products) -> str");
  // The largest error of their products in that test, as a share of what core/bound.h allows.
  m.def("_cuda_tensor_core_share(int device, str products) -> float");
  // What the screen of one call left, lines key=value.
  m.def("_cuda_mine_counters(Tensor embeddings, Tensor labels, int distance) -> str");
}

STABLE_TORCH_LIBRARY_IMPL(fasttriplet, CUDA, m) {
  m.impl("mine_batch_hard", TORCH_BOX(&mine_operator));
  m.impl("batch_hard_loss", TORCH_BOX(&loss_operator));
  m.impl("_batch_hard_loss_backward", TORCH_BOX(&backward_operator));
  m.impl("_cuda_mine_counters", TORCH_BOX(&mine_counters));
}

STABLE_TORCH_LIBRARY_IMPL(fasttriplet, CompositeExplicitAutograd, m) {
  m.impl("_cuda_test_tensor_cores", TORCH_BOX(&tensor_core_test));
  m.impl("_cuda_tensor_core_share", TORCH_BOX(&tensor_core_share));
}

}  // namespace fasttriplet::cuda
