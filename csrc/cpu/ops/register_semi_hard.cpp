// The semi-hard loss of every anchor as an operator.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

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

}  // namespace
}  // namespace fasttriplet::cpu

STABLE_TORCH_LIBRARY_IMPL(fasttriplet, CPU, m) {
  m.impl("semi_hard", TORCH_BOX(&fasttriplet::cpu::semi_hard_operator));
}
