// The miners of triplets and the gradient of their distances as operators.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "check.h"
#include "core/loss.h"
#include "cpu/ops/pairing_tensors.h"
#include "cpu/ops/torch_parallel.h"
#include "cpu/scan/triplets.h"
#include "cpu/triplets/backward.h"
#include "tensors.h"

namespace fasttriplet::cpu {
namespace {

std::tuple<Tensor, Tensor> mine_operator(const Tensor& embeddings, const Tensor& labels,
                                         std::optional<Tensor> ref_embeddings, const PairingList& list,
                                         const PairingNumbers& numbers, int64_t distance, int64_t miner,
                                         int64_t otherwise, bool within_margin, double margin, int64_t k, bool kth_only,
                                         double skip_fraction) {
  const PairingTensors tensors(embeddings, labels, ref_embeddings, list, numbers);
  check_pairing(tensors);
  const MinerOptions options = miner_options_of(miner, otherwise, within_margin, margin, k, kth_only, skip_fraction);
  const PackedPairing pairing(tensors);
  return dispatch_dtype(pairing.rows(), [&](auto* typed) -> std::tuple<Tensor, Tensor> {
    using T = Pointee<decltype(typed)>;
    const Batch<T> batch = pairing.batch<T>(distance_of(distance));
    const TorchParallel parallel;
    TripletMiner<T> mining(batch, pairing.input(), options, parallel);
    const int64_t count = mining.triplets();
    Tensor distances = new_tensor({2, count}, ScalarType::Double, embeddings);
    Tensor triplets = new_tensor({3, count}, ScalarType::Long, embeddings);
    double* const values = distances.mutable_data_ptr<double>();
    int64_t* const indices = triplets.mutable_data_ptr<int64_t>();
    mining.run({indices, indices + count, indices + 2 * count, values});
    if (!mining.all_finite()) std::fill_n(values, 2 * count, std::numeric_limits<double>::quiet_NaN());
    return {distances, triplets};
  });
}

std::tuple<Tensor, Tensor> backward_operator(const Tensor& grad, const Tensor& embeddings,
                                             std::optional<Tensor> ref_embeddings, const Tensor& distances,
                                             const Tensor& triplets, int64_t distance,
                                             const std::vector<int64_t>& numbers) {
  check_embeddings(embeddings);
  check_mined(grad, distances, triplets, embeddings);
  const Tensor rows = packed(embeddings), upstream = packed(grad);
  const Tensor values = packed(distances), indices = packed(triplets);
  std::optional<Tensor> references;
  if (ref_embeddings) {
    check_references(*ref_embeddings, embeddings);
    references = packed(*ref_embeddings);
  }
  const int64_t n = rows.size(0), d = rows.size(1), count = indices.size(1);
  const int64_t candidates = references ? references->size(0) : n;
  const int64_t* const anchors = indices.const_data_ptr<int64_t>();
  check_triplet_indices(anchors, count, n, candidates);
  const Parts parts = parts_of(numbers, n, references ? candidates : 0);
  Tensor gradient = new_tensor({parts.rows, d}, embeddings.scalar_type(), embeddings);
  Tensor reference_gradient =
      new_tensor(references ? std::vector<int64_t>{parts.references, d} : std::vector<int64_t>{0},
                 embeddings.scalar_type(), embeddings);
  const TripletEdges edges = {
      count, anchors, anchors + count, anchors + 2 * count, values.const_data_ptr<double>(), references ? n : 0};
  const double* const slopes_in = upstream.const_data_ptr<double>();
  std::vector<double> slopes(2 * count);
  bool poisoned = false;  // some loss is NaN
  for (int64_t t = 0; t < count; ++t)
    for (int64_t side = 0; side < 2; ++side) {
      const bool chosen = (side == 0 ? edges.positives : edges.negatives)[t] >= 0;
      const double slope = chosen ? slopes_in[side * count + t] : 0;
      slopes[2 * t + side] = slope;
      poisoned = poisoned || std::isnan(slope);
    }
  dispatch_dtype(rows, [&](auto* typed) {
    using T = Pointee<decltype(typed)>;
    edge_gradient<T>(PackedPairing::batch_of<T>(rows, references, distance_of(distance)), edges, slopes, poisoned,
                     wanted_rows(parts, n), TorchParallel(), gradient.template mutable_data_ptr<T>(),
                     reference_gradient.template mutable_data_ptr<T>());
  });
  return {gradient, reference_gradient};
}

std::tuple<Tensor, Tensor> losses_operator(const Tensor& distances, const Tensor& triplets, const Tensor& poison,
                                           double margin, bool soft_margin, int64_t reduction, int64_t on_missing) {
  check_mined(distances, distances, triplets, distances);
  check_poison(poison, distances);
  const LossOptions options = {margin, soft_margin, reduction_of(reduction), on_missing_of(on_missing)};
  const Tensor values = packed(distances), indices = packed(triplets);
  const int64_t count = indices.size(1);
  const int64_t *const positives = indices.const_data_ptr<int64_t>() + count, *const negatives = positives + count;
  const bool per_triplet = options.reduction == Reduction::kNone;
  Tensor loss =
      new_tensor(per_triplet ? std::vector<int64_t>{count} : std::vector<int64_t>{}, ScalarType::Double, distances);
  Tensor slopes = new_tensor({2, count}, ScalarType::Double, distances);
  double* const to_positive = slopes.mutable_data_ptr<double>();
  double* const to_negative = to_positive + count;
  std::vector<double> losses(count);
  const double reduced = reduce_losses(positives, negatives, values.const_data_ptr<double>(), count, options,
                                       std::isnan(*poison.const_data_ptr<double>()), losses.data(), to_positive);
  for (int64_t t = 0; t < count; ++t) {
    to_negative[t] = negatives[t] < 0 ? 0 : -to_positive[t];
    if (positives[t] < 0) to_positive[t] = 0;
  }
  if (per_triplet)
    std::copy(losses.begin(), losses.end(), loss.mutable_data_ptr<double>());
  else
    *loss.mutable_data_ptr<double>() = reduced;
  return {loss, slopes};
}

}  // namespace
}  // namespace fasttriplet::cpu

STABLE_TORCH_LIBRARY_IMPL(fasttriplet, CPU, m) {
  m.impl("mine_triplets", TORCH_BOX(&fasttriplet::cpu::mine_operator));
  m.impl("triplet_losses", TORCH_BOX(&fasttriplet::cpu::losses_operator));
  m.impl("_triplet_distances_backward", TORCH_BOX(&fasttriplet::cpu::backward_operator));
}
