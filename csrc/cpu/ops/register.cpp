// The CPU kernels as operators: checks, tensors to pointers, dtype to type. The register*.cpp, and torch_parallel.h
// which they share, are the files of this room that know PyTorch.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <tuple>
#include <vector>

#include "check.h"
#include "core/loss.h"
#include "cpu/isa/isa.h"
#include "cpu/ops/torch_parallel.h"
#include "cpu/screen/mine.h"
#include "cpu/triplets/backward.h"
#include "tensors.h"

namespace fasttriplet::cpu {
namespace {

// Returns whether every row is finite.
bool mine(const Tensor& embeddings, const Tensor& labels, Distance distance, const MineOutput& output,
          MineReport* report = nullptr) {
  const Tensor rows = packed(embeddings), ids = packed(as_int64(labels));
  return dispatch_dtype(rows, [&](auto* typed) {
    using T = Pointee<decltype(typed)>;
    const Batch<T> batch{rows.const_data_ptr<T>(), rows.size(0), rows.size(1), distance,
                         tier_for_batch_hard(rows.size(0))};
    return mine_batch_hard(batch, ids.const_data_ptr<int64_t>(), TorchParallel(), output, report);
  });
}

std::tuple<Tensor, Tensor, Tensor> mine_reported(const Tensor& embeddings, const Tensor& labels, int64_t distance,
                                                 MineReport* report) {
  check_embeddings(embeddings);
  check_labels(labels, embeddings);
  MineResults results(embeddings);
  mine(embeddings, labels, distance_of(distance),
       {results.positives.mutable_data_ptr<int64_t>(), results.negatives.mutable_data_ptr<int64_t>(),
        results.distances.mutable_data_ptr<double>()},
       report);
  return {results.distances, results.positives, results.negatives};
}

std::tuple<Tensor, Tensor, Tensor> mine_operator(const Tensor& embeddings, const Tensor& labels, int64_t distance) {
  return mine_reported(embeddings, labels, distance, nullptr);
}

std::tuple<Tensor, Tensor> profile_operator(const Tensor& embeddings, const Tensor& labels, int64_t distance) {
  MineReport report;
  mine_reported(embeddings, labels, distance, &report);
  Tensor seconds = new_tensor({kStages}, ScalarType::Double, embeddings);
  Tensor counts = new_tensor({3}, ScalarType::Long, embeddings);
  std::copy(std::begin(report.seconds), std::end(report.seconds), seconds.mutable_data_ptr<double>());
  int64_t* count = counts.mutable_data_ptr<int64_t>();
  count[0] = report.representatives;
  count[1] = report.exact_negatives;
  count[2] = report.exact_positives;
  return {seconds, counts};
}

// on_missing = "error".
void refuse_missing(const int64_t* positives, const int64_t* negatives, int64_t n) {
  int64_t missing = 0, first = -1;
  for (int64_t i = n; i-- > 0;)
    if (positives[i] < 0 || negatives[i] < 0) {
      ++missing;
      first = i;
    }
  check_none_missing(missing, n, first);
}

std::tuple<Tensor, Tensor, Tensor> loss_operator(const Tensor& embeddings, const Tensor& labels, double margin,
                                                 int64_t distance, bool soft_margin, int64_t reduction,
                                                 int64_t on_missing) {
  check_embeddings(embeddings);
  check_labels(labels, embeddings);
  const LossOptions options = {margin, soft_margin, reduction_of(reduction), on_missing_of(on_missing)};
  const int64_t n = embeddings.size(0);
  const LossResults results(embeddings);
  const bool finite =
      mine(embeddings, labels, distance_of(distance), {results.positives, results.negatives, results.distances});
  if (options.on_missing == OnMissing::kError && finite) refuse_missing(results.positives, results.negatives, n);
  std::vector<double> losses(n);
  const double reduced = reduce_losses(results.positives, results.negatives, results.distances, n, options, !finite,
                                       losses.data(), results.slopes);
  Tensor loss = dispatch_dtype(embeddings, [&](auto* typed) {
    using T = Pointee<decltype(typed)>;
    const bool per_anchor = options.reduction == Reduction::kNone;
    Tensor result = new_loss(embeddings, per_anchor);
    T* out = result.template mutable_data_ptr<T>();
    if (per_anchor)
      for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(losses[i]);
    else
      *out = static_cast<T>(reduced);
    return result;
  });
  return {loss, results.values, results.pairs};
}

Tensor backward_operator(const Tensor& grad_loss, const Tensor& embeddings, const Tensor& values, const Tensor& pairs,
                         int64_t distance) {
  check_embeddings(embeddings);
  check_upstream(grad_loss, embeddings);
  const int64_t n = embeddings.size(0), d = embeddings.size(1);
  check_saved(values, "values", ScalarType::Double, 3, embeddings);
  check_saved(pairs, "pairs", ScalarType::Long, 2, embeddings);
  const Tensor rows = packed(embeddings), upstream = packed(grad_loss);
  const Tensor packed_values = packed(values), packed_pairs = packed(pairs);
  const double* slopes = packed_values.const_data_ptr<double>();
  const int64_t* positives = packed_pairs.const_data_ptr<int64_t>();
  check_pairs(positives, n);
  const MinedPairs mined = {positives, positives + n, slopes + n, slopes};
  Tensor gradient = new_tensor({n, d}, embeddings.scalar_type(), embeddings);
  dispatch_dtype(rows, [&](auto* typed) {
    using T = Pointee<decltype(typed)>;
    const Batch<T> batch{rows.const_data_ptr<T>(), n, d, distance_of(distance), chosen_tier()};
    mined_backward(batch, mined, upstream.const_data_ptr<T>(), upstream.dim() == 1, TorchParallel(),
                   gradient.template mutable_data_ptr<T>());
  });
  return gradient;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ",") + word;
  return text;
}

std::string build_info() {
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "gcc " __VERSION__;
#endif
  return "compiler=" + compiler + "\ncxx_standard=" + std::to_string(__cplusplus) + "\ntiers=" + joined(tiers_built()) +
         "\ntiers_available=" + joined(tiers_available()) + "\ntier=" + chosen_tier().name;
}

}  // namespace
}  // namespace fasttriplet::cpu

STABLE_TORCH_LIBRARY_IMPL(fasttriplet, CPU, m) {
  m.impl("mine_batch_hard", TORCH_BOX(&fasttriplet::cpu::mine_operator));
  m.impl("_mine_batch_hard_profile", TORCH_BOX(&fasttriplet::cpu::profile_operator));
  m.impl("batch_hard_loss", TORCH_BOX(&fasttriplet::cpu::loss_operator));
  m.impl("_batch_hard_loss_backward", TORCH_BOX(&fasttriplet::cpu::backward_operator));
}

STABLE_TORCH_LIBRARY_IMPL(fasttriplet, CompositeExplicitAutograd, m) {
  m.impl("_build_info", TORCH_BOX(&fasttriplet::cpu::build_info));
}
