// Nearest neighbours, and what rankings say, as operators.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "check.h"
#include "cpu/neighbours/nearest.h"
#include "cpu/neighbours/ranks.h"
#include "cpu/ops/pairing_tensors.h"
#include "cpu/ops/torch_parallel.h"
#include "tensors.h"

namespace fasttriplet::cpu {
namespace {

// Rows and rules, checked and packed, as the kernels take them.
class PackedNeighbours {
 public:
  explicit PackedNeighbours(const NeighbourTensors& given) : rows_(checked(given)) {
    if (given.references) references_ = packed(*given.references);
    if (given.self_indices) {
      self_indices_ = packed(*given.self_indices);
      check_self_indices(self_indices_->const_data_ptr<int64_t>(), rows_.size(0), references_->size(0));
    }
    if (given.keys) keys_ = packed(*given.keys);
    if (given.ref_keys) ref_keys_ = packed(*given.ref_keys);
    if (given.ref_mask) mask_ = packed(*given.ref_mask);
  }

  const Tensor& rows() const { return rows_; }
  NeighbourRules rules() const {
    NeighbourRules rules;
    if (self_indices_) rules.self_indices = self_indices_->const_data_ptr<int64_t>();
    if (keys_) {
      rules.keys = keys_->size(0);
      rules.own_keys = keys_->const_data_ptr<int64_t>();
    }
    if (ref_keys_) rules.reference_keys = ref_keys_->const_data_ptr<int64_t>();
    if (mask_) rules.reference_mask = static_cast<const uint8_t*>(mask_->const_data_ptr());
    return rules;
  }
  template <typename T>
  Batch<T> batch(Distance distance) const {
    return PackedPairing::batch_of<T>(rows_, references_, distance);
  }

 private:
  static Tensor checked(const NeighbourTensors& given) {
    check_neighbours(given);
    return packed(given.queries);
  }

  Tensor rows_;
  std::optional<Tensor> references_, self_indices_, keys_, ref_keys_, mask_;
};

std::tuple<Tensor, Tensor> nearest_operator(const Tensor& queries, std::optional<Tensor> references,
                                            const PairingList& rules, int64_t distance, int64_t k) {
  const PackedNeighbours given(NeighbourTensors(queries, references, rules));
  check_count(k, "k");
  const int64_t q = queries.size(0);
  Tensor distances = new_tensor({q, k}, ScalarType::Double, queries);
  Tensor indices = new_tensor({q, k}, ScalarType::Long, queries);
  dispatch_dtype(given.rows(), [&](auto* typed) {
    using T = Pointee<decltype(typed)>;
    const Batch<T> batch = given.batch<T>(distance_of(distance));
    nearest(batch, given.rules(), k, TorchParallel(), distances.mutable_data_ptr<double>(),
            indices.mutable_data_ptr<int64_t>());
  });
  return {distances, indices};
}

std::tuple<Tensor, Tensor, Tensor> within_operator(const Tensor& queries, std::optional<Tensor> references,
                                                   const PairingList& rules, int64_t distance, double radius) {
  const PackedNeighbours given(NeighbourTensors(queries, references, rules));
  check_radius(radius);
  return dispatch_dtype(given.rows(), [&](auto* typed) -> std::tuple<Tensor, Tensor, Tensor> {
    using T = Pointee<decltype(typed)>;
    const Batch<T> batch = given.batch<T>(distance_of(distance));
    const std::vector<std::vector<Neighbour>> found = within(batch, given.rules(), radius, TorchParallel());
    Tensor offsets = new_tensor({static_cast<int64_t>(found.size()) + 1}, ScalarType::Long, queries);
    int64_t* const begin = offsets.mutable_data_ptr<int64_t>();
    begin[0] = 0;
    for (size_t i = 0; i < found.size(); ++i) begin[i + 1] = begin[i] + static_cast<int64_t>(found[i].size());
    const int64_t count = begin[found.size()];
    Tensor distances = new_tensor({count}, ScalarType::Double, queries);
    Tensor indices = new_tensor({count}, ScalarType::Long, queries);
    double* values = distances.mutable_data_ptr<double>();
    int64_t* numbers = indices.mutable_data_ptr<int64_t>();
    for (const std::vector<Neighbour>& of_query : found)
      for (const Neighbour& neighbour : of_query) {
        *values++ = neighbour.score;
        *numbers++ = neighbour.candidate;
      }
    return {offsets, distances, indices};
  });
}

Tensor ranks_operator(const Tensor& embeddings, const Tensor& labels, std::optional<Tensor> ref_embeddings,
                      const PairingList& list, const PairingNumbers& numbers, int64_t distance,
                      const std::vector<int64_t>& at, bool count_missing) {
  const PairingTensors tensors(embeddings, labels, ref_embeddings, list, numbers);
  check_pairing(tensors);
  for (const int64_t rank : at) check_count(rank, "at");
  const PackedPairing pairing(tensors);
  const RankOptions options = {at, count_missing};
  Tensor table = new_tensor({embeddings.size(0), options.columns()}, ScalarType::Double, embeddings);
  dispatch_dtype(pairing.rows(), [&](auto* typed) {
    using T = Pointee<decltype(typed)>;
    const Batch<T> batch = pairing.batch<T>(distance_of(distance));
    retrieval_ranks(batch, pairing.input(), options, TorchParallel(), table.mutable_data_ptr<double>());
  });
  return table;
}

}  // namespace
}  // namespace fasttriplet::cpu

STABLE_TORCH_LIBRARY_IMPL(fasttriplet, CPU, m) {
  m.impl("nearest", TORCH_BOX(&fasttriplet::cpu::nearest_operator));
  m.impl("retrieval_ranks", TORCH_BOX(&fasttriplet::cpu::ranks_operator));
  m.impl("within", TORCH_BOX(&fasttriplet::cpu::within_operator));
}
