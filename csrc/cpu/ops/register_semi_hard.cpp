// The semi-hard loss of every anchor as operators.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "check.h"
#include "cpu/dense/semi_hard.h"
#include "cpu/ops/gradients.h"
#include "cpu/ops/pairing_tensors.h"
#include "cpu/ops/torch_parallel.h"
#include "tensors.h"

namespace fasttriplet::cpu {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> semi_hard_operator(const Tensor& embeddings, const Tensor& labels,
                                                              std::optional<Tensor> ref_embeddings,
                                                              const PairingList& list, const PairingNumbers& numbers,
                                                              int64_t distance, int64_t otherwise, bool within_margin,
                                                              double margin, bool soft_margin, bool with_gradient,
                                                              std::optional<Tensor> weights) {
  const PairingTensors tensors(embeddings, labels, ref_embeddings, list, numbers);
  check_pairing(tensors);
  std::optional<Tensor> shares;
  if (weights) {
    check_anchor_values(*weights, "weights", 0, embeddings);
    shares = packed(*weights);
  }
  const MinerOptions miner =
      miner_options_of(static_cast<int64_t>(MinerKind::kSemiHard), otherwise, within_margin, margin, 1, false, 0);
  const PackedPairing pairing(tensors);
  const int64_t n = embeddings.size(0);
  Tensor sums = new_tensor({n}, ScalarType::Double, embeddings);
  Tensor counts = new_tensor({2, n}, ScalarType::Long, embeddings);
  Gradients gradients(tensors, with_gradient);
  int64_t* const count = counts.mutable_data_ptr<int64_t>();
  const SemiHardOutput output = {sums.mutable_data_ptr<double>(), count, count + n};
  with_rows(pairing, distance, gradients,
            [&](const auto& batch, const PairingInput& input, auto* own, auto* references) {
              semi_hard(batch, input, miner, margin, soft_margin, shares ? shares->const_data_ptr<double>() : nullptr,
                        TorchParallel(), output, with_gradient ? own : nullptr, with_gradient ? references : nullptr);
            });
  return {sums, counts, gradients.own, gradients.references};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> semi_hard_of_triplets_operator(
    const Tensor& embeddings, const Tensor& labels, std::optional<Tensor> ref_embeddings, const PairingList& list,
    const PairingNumbers& numbers, int64_t distance, const Tensor& distances, const Tensor& triplets, double margin,
    bool soft_margin, const std::vector<int64_t>& parts, bool with_gradient, std::optional<Tensor> weights) {
  const PairingTensors tensors(embeddings, labels, ref_embeddings, list, numbers);
  check_pairing(tensors);
  check_mined(distances, distances, triplets, embeddings);
  std::optional<Tensor> shares;
  if (weights) {
    check_anchor_values(*weights, "weights", 0, embeddings);
    shares = packed(*weights);
  }
  const Tensor values = packed(distances), indices = packed(triplets);
  const int64_t n = embeddings.size(0), count = indices.size(1);
  const int64_t references = ref_embeddings ? ref_embeddings->size(0) : 0;
  const int64_t* const anchors = indices.const_data_ptr<int64_t>();
  check_triplet_indices(anchors, count, n, ref_embeddings ? references : n);
  const MinedTriplets mined = {count, anchors, anchors + count, anchors + 2 * count, values.const_data_ptr<double>()};
  const Parts wanted = parts_of(parts, n, references);
  const PackedPairing pairing(tensors);
  Tensor sums = new_tensor({n}, ScalarType::Double, embeddings);
  Tensor counts = new_tensor({2, n}, ScalarType::Long, embeddings);
  Gradients gradients(tensors, with_gradient, wanted);
  int64_t* const tally = counts.mutable_data_ptr<int64_t>();
  const SemiHardOutput output = {sums.mutable_data_ptr<double>(), tally, tally + n};
  with_rows(pairing, distance, gradients, [&](const auto& batch, const PairingInput& input, auto* own, auto* others) {
    semi_hard_of_triplets(batch, input, mined, margin, soft_margin, shares ? shares->const_data_ptr<double>() : nullptr,
                          wanted_rows(wanted, n), TorchParallel(), output, with_gradient ? own : nullptr,
                          with_gradient ? others : nullptr);
  });
  return {sums, counts, gradients.own, gradients.references};
}

}  // namespace
}  // namespace fasttriplet::cpu

STABLE_TORCH_LIBRARY_IMPL(fasttriplet, CPU, m) {
  m.impl("semi_hard", TORCH_BOX(&fasttriplet::cpu::semi_hard_operator));
  m.impl("semi_hard_of_triplets", TORCH_BOX(&fasttriplet::cpu::semi_hard_of_triplets_operator));
}
