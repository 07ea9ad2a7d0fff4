// The losses over all pairs as operators.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "check.h"
#include "cpu/dense/batch_all.h"
#include "cpu/dense/weighted.h"
#include "cpu/ops/gradients.h"
#include "cpu/ops/pairing_tensors.h"
#include "cpu/ops/torch_parallel.h"
#include "tensors.h"

namespace fasttriplet::cpu {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> batch_all_operator(
    const Tensor& embeddings, const Tensor& labels, std::optional<Tensor> ref_embeddings, const PairingList& list,
    const PairingNumbers& numbers, int64_t distance, double margin, bool soft_margin, bool with_gradient) {
  const PairingTensors tensors(embeddings, labels, ref_embeddings, list, numbers);
  check_pairing(tensors);
  const PackedPairing pairing(tensors);
  const int64_t n = embeddings.size(0), candidates = ref_embeddings ? ref_embeddings->size(0) : n;
  Tensor sums = new_tensor({n}, ScalarType::Double, embeddings);
  Tensor counts = new_tensor({2, n}, ScalarType::Long, embeddings);
  Tensor negatives = new_tensor({candidates}, ScalarType::Long, embeddings);
  Gradients gradients(tensors, with_gradient);
  int64_t* const count = counts.mutable_data_ptr<int64_t>();
  const BatchAllOutput output = {sums.mutable_data_ptr<double>(), count, count + n,
                                 negatives.mutable_data_ptr<int64_t>()};
  with_rows(pairing, distance, gradients,
            [&](const auto& batch, const PairingInput& input, auto* own, auto* references) {
              batch_all(batch, input, margin, soft_margin, nullptr, TorchParallel(), output,
                        with_gradient ? own : nullptr, with_gradient ? references : nullptr);
            });
  return {sums, counts, negatives, gradients.own, gradients.references};
}

std::tuple<Tensor, Tensor> batch_all_backward_operator(const Tensor& grad, const Tensor& embeddings,
                                                       const Tensor& labels, std::optional<Tensor> ref_embeddings,
                                                       const PairingList& list, const PairingNumbers& numbers,
                                                       int64_t distance, double margin, bool soft_margin) {
  const PairingTensors tensors(embeddings, labels, ref_embeddings, list, numbers);
  check_pairing(tensors);
  check_anchor_values(grad, "grad", 0, embeddings);
  const PackedPairing pairing(tensors);
  const Tensor upstream = packed(grad);
  const int64_t n = embeddings.size(0), candidates = ref_embeddings ? ref_embeddings->size(0) : n;
  std::vector<double> sums(n);
  std::vector<int64_t> counts(2 * n), negatives(candidates);
  Gradients gradients(tensors, true);
  with_rows(pairing, distance, gradients,
            [&](const auto& batch, const PairingInput& input, auto* own, auto* references) {
              batch_all(batch, input, margin, soft_margin, upstream.const_data_ptr<double>(), TorchParallel(),
                        {sums.data(), counts.data(), counts.data() + n, negatives.data()}, own, references);
            });
  return {gradients.own, gradients.references};
}

Tensor weighted_operator(const Tensor& embeddings, const Tensor& labels, std::optional<Tensor> ref_embeddings,
                         const PairingList& list, const PairingNumbers& numbers, int64_t distance) {
  const PairingTensors tensors(embeddings, labels, ref_embeddings, list, numbers);
  check_pairing(tensors);
  const PackedPairing pairing(tensors);
  Tensor values = new_tensor({kWeightedValues, embeddings.size(0)}, ScalarType::Double, embeddings);
  Gradients gradients(tensors, false);
  with_rows(pairing, distance, gradients, [&](const auto& batch, const PairingInput& input, auto*, auto*) {
    weighted_distances(batch, input, TorchParallel(), values.mutable_data_ptr<double>());
  });
  return values;
}

std::tuple<Tensor, Tensor> weighted_backward_operator(const Tensor& grad, const Tensor& embeddings,
                                                      const Tensor& labels, std::optional<Tensor> ref_embeddings,
                                                      const PairingList& list, const PairingNumbers& numbers,
                                                      int64_t distance, const Tensor& values) {
  const PairingTensors tensors(embeddings, labels, ref_embeddings, list, numbers);
  check_pairing(tensors);
  check_anchor_values(grad, "grad", 2, embeddings);
  check_anchor_values(values, "values", kWeightedValues, embeddings);
  const PackedPairing pairing(tensors);
  const Tensor upstream = packed(grad), saved = packed(values);
  Gradients gradients(tensors, true);
  with_rows(pairing, distance, gradients,
            [&](const auto& batch, const PairingInput& input, auto* own, auto* references) {
              weighted_backward(batch, input, upstream.const_data_ptr<double>(), saved.const_data_ptr<double>(),
                                TorchParallel(), own, references);
            });
  return {gradients.own, gradients.references};
}

}  // namespace
}  // namespace fasttriplet::cpu

STABLE_TORCH_LIBRARY_IMPL(fasttriplet, CPU, m) {
  m.impl("batch_all", TORCH_BOX(&fasttriplet::cpu::batch_all_operator));
  m.impl("_batch_all_backward", TORCH_BOX(&fasttriplet::cpu::batch_all_backward_operator));
  m.impl("weighted_distances", TORCH_BOX(&fasttriplet::cpu::weighted_operator));
  m.impl("_weighted_distances_backward", TORCH_BOX(&fasttriplet::cpu::weighted_backward_operator));
}
