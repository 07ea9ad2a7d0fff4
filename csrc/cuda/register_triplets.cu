// Batch-hard's triplets with samples, groups and an ignored label, and losses and gradients of any miner's, by CUDA
// kernels as operators: checks, tensors to pointers, dtype to type.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "check.h"
#include "cuda/operators.cuh"
#include "tensors.h"

namespace fasttriplet::cuda {
namespace {

// What the kernels do not serve is for another engine, and whoever calls knows.
void check_served(const PairingTensors& pairing, const MinerOptions& options) {
  const auto refuse = [](const std::string& message) { throw std::invalid_argument(message); };
  if (options.kind != MinerKind::kBatchHard)
    refuse("miner must be 0, batch-hard, for CUDA's kernels; got " + std::to_string(static_cast<int>(options.kind)));
  if (pairing.ref_embeddings)
    refuse("ref_embeddings must not be given to CUDA's kernels; got " +
           std::to_string(pairing.ref_embeddings->size(0)) + " rows");
  if (pairing.labels.dim() != 1)
    refuse("labels must have shape [N] for CUDA's kernels; got several labels a row, [" +
           std::to_string(pairing.labels.size(0)) + ", " + std::to_string(pairing.labels.size(1)) + "]");
}

std::tuple<Tensor, Tensor> mine_operator(const Tensor& embeddings, const Tensor& labels,
                                         std::optional<Tensor> ref_embeddings, const PairingList& list,
                                         const PairingNumbers& numbers, int64_t distance, int64_t miner,
                                         int64_t otherwise, bool within_margin, double margin, int64_t k, bool kth_only,
                                         double skip_fraction) {
  const PairingTensors pairing(embeddings, labels, ref_embeddings, list, numbers);
  check_pairing(pairing);
  check_served(pairing, miner_options_of(miner, otherwise, within_margin, margin, k, kth_only, skip_fraction));
  check_rows(embeddings);
  const torch::stable::accelerator::DeviceGuard guard(with_driver(device_of(embeddings)));
  const Tensor rows = packed(embeddings), ids = packed(as_int64(labels));
  std::optional<Tensor> sample_ids, groups;
  if (pairing.sample_ids) sample_ids = packed(as_int64(*pairing.sample_ids));
  if (pairing.groups) groups = packed(as_int64(*pairing.groups));
  std::optional<uint64_t> ignored;
  if (pairing.ignore_index) ignored = static_cast<uint64_t>(*pairing.ignore_index);
  const int64_t n = rows.size(0);
  Tensor distances = new_tensor({2, n}, ScalarType::Double, rows);
  Tensor triplets = new_tensor({3, n}, ScalarType::Long, rows);
  int64_t* const anchors = triplets.mutable_data_ptr<int64_t>();
  const Mined mined = {anchors + n, anchors + 2 * n, distances.mutable_data_ptr<double>(), anchors};
  CudaDevice device(device_of(rows), current_stream(device_of(rows)));
  const Products products = chosen_products(device, device_of(rows), n);
  CudaEngine engine(device);
  dispatch_dtype(rows, [&](auto* typed) {
    using T = Pointee<decltype(typed)>;
    const DeviceBatch<T> batch = {rows.const_data_ptr<T>(), n, rows.size(1), distance_of(distance)};
    Tensor memory;
    const auto scratch = allocate<CudaEngine::MineScratch>(memory, rows, device, batch);
    const AllowedPairs partners = {scratch.order, sample_ids ? sample_ids->const_data_ptr<int64_t>() : nullptr,
                                   groups ? groups->const_data_ptr<int64_t>() : nullptr, pairing.groups_exclude};
    engine.mine(batch, reinterpret_cast<const uint64_t*>(ids.const_data_ptr<int64_t>()), products, scratch, mined,
                partners, ignored);
  });
  return {distances, triplets};
}

// Edges, two a triplet, have 32-bit numbers here.
void check_count(const Tensor& triplets) {
  if (triplets.size(1) >= int64_t{1} << 30)
    throw std::invalid_argument("triplets must be fewer than 2^30 on CUDA; got " + std::to_string(triplets.size(1)));
}

// Indices that are none of the batch's cannot be reported without a wait for the device: they make the gradient NaN.
std::tuple<Tensor, Tensor> backward_operator(const Tensor& grad, const Tensor& embeddings,
                                             std::optional<Tensor> ref_embeddings, const Tensor& distances,
                                             const Tensor& triplets, int64_t distance,
                                             const std::vector<int64_t>& numbers) {
  check_embeddings(embeddings);
  check_mined(grad, distances, triplets, embeddings);
  if (ref_embeddings) check_references(*ref_embeddings, embeddings);
  check_count(triplets);
  const torch::stable::accelerator::DeviceGuard guard(with_driver(device_of(embeddings)));
  const Tensor rows = packed(embeddings), slopes = packed(grad);
  const Tensor values = packed(distances), indices = packed(triplets);
  std::optional<Tensor> references;
  if (ref_embeddings) references = packed(*ref_embeddings);
  const int64_t n = rows.size(0), d = rows.size(1), m = references ? references->size(0) : 0, t = indices.size(1);
  const Parts parts = parts_of(numbers, n, m);
  Tensor gradient = new_tensor({n, d}, embeddings.scalar_type(), embeddings);
  Tensor reference_gradient = new_tensor(references ? std::vector<int64_t>{m, d} : std::vector<int64_t>{0},
                                         embeddings.scalar_type(), embeddings);
  CudaDevice device(device_of(rows), current_stream(device_of(rows)));
  CudaEngine engine(device);
  dispatch_dtype(rows, [&](auto* typed) {
    using T = Pointee<decltype(typed)>;
    const JoinedBatch<T> batch = {rows.const_data_ptr<T>(),
                                  n,
                                  references ? references->const_data_ptr<T>() : nullptr,
                                  m,
                                  d,
                                  distance_of(distance),
                                  references.has_value()};
    Tensor memory;
    const auto scratch = allocate<CudaEngine::BackwardScratch>(memory, rows, device, batch, t);
    engine.triplets_backward(batch, indices.const_data_ptr<int64_t>(), t, values.const_data_ptr<double>(),
                             slopes.const_data_ptr<double>(), scratch, gradient.mutable_data_ptr<T>(),
                             reference_gradient.mutable_data_ptr<T>());
  });
  if (numbers.empty()) return {gradient, reference_gradient};
  // All rows are gathered and some are kept: that reads what an anchor or two thousand do, and the miner far more.
  // Copied, or the part would keep the memory of the whole.
  gradient = torch::stable::clone(torch::stable::narrow(gradient, 0, parts.first, parts.rows));
  if (references)
    reference_gradient =
        torch::stable::clone(torch::stable::narrow(reference_gradient, 0, parts.first_reference, parts.references));
  return {gradient, reference_gradient};
}

std::tuple<Tensor, Tensor> losses_operator(const Tensor& distances, const Tensor& triplets, const Tensor& poison,
                                           double margin, bool soft_margin, int64_t reduction, int64_t on_missing) {
  check_mined(distances, distances, triplets, distances);
  check_poison(poison, distances);
  const LossOptions options = {margin, soft_margin, reduction_of(reduction), on_missing_of(on_missing)};
  const torch::stable::accelerator::DeviceGuard guard(with_driver(device_of(distances)));
  const Tensor values = packed(distances), indices = packed(triplets);
  const int64_t t = indices.size(1);
  const bool per_triplet = options.reduction == Reduction::kNone;
  Tensor loss =
      new_tensor(per_triplet ? std::vector<int64_t>{t} : std::vector<int64_t>{}, ScalarType::Double, distances);
  Tensor slopes = new_tensor({2, t}, ScalarType::Double, distances);
  CudaDevice device(device_of(distances), current_stream(device_of(distances)));
  CudaEngine engine(device);
  Tensor memory;
  const auto scratch = allocate<CudaEngine::LossScratch>(memory, distances, device, t);
  double* const out = loss.mutable_data_ptr<double>();
  engine.triplet_losses(indices.const_data_ptr<int64_t>(), values.const_data_ptr<double>(), t,
                        poison.const_data_ptr<double>(), options, scratch, per_triplet ? out : nullptr,
                        slopes.mutable_data_ptr<double>(), per_triplet ? nullptr : out);
  return {loss, slopes};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fasttriplet, CUDA, m) {
  m.impl("mine_triplets", TORCH_BOX(&mine_operator));
  m.impl("triplet_losses", TORCH_BOX(&losses_operator));
  m.impl("_triplet_distances_backward", TORCH_BOX(&backward_operator));
}

}  // namespace fasttriplet::cuda
