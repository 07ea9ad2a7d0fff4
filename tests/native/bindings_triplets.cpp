// Given triplets on the CPU, bound to NumPy: explicit ones, and the gradient of mined ones.
#include <cmath>

#include "bindings.h"
#include "cpu/scan/triplets.h"
#include "cpu/triplets/backward.h"
#include "cpu/triplets/triplet_margin.h"

namespace fasttriplet::cpu {
namespace {

template <typename T>
Triplets<T> triplets_of(const std::vector<Array<T>>& rows, int distance, const std::string& tier) {
  return {{rows.at(0).data(), rows.at(1).data(), rows.at(2).data()},
          rows.at(0).shape(0),
          rows.at(0).shape(1),
          static_cast<Distance>(distance),
          tier_to_test(tier)};
}

// rows: anchors, positives, negatives; weights [T] or of no length. Losses before the reduction beside the reduced one.
template <typename T>
py::dict triplet_margin_loss(const std::vector<Array<T>>& rows, const Array<double>& weights, double margin,
                             int distance, bool swap, bool soft_margin, std::optional<double> mining_margin,
                             int reduction, const std::string& tier, int64_t threads) {
  const Triplets<T> triplets = triplets_of(rows, distance, tier);
  const TripletMarginOptions options(margin, swap, soft_margin, mining_margin, static_cast<Reduction>(reduction));
  Array<double> values({TripletValues<double>::rows(triplets.distance, swap), triplets.t}), losses(triplets.t);
  py::dict result;
  result["loss"] =
      triplet_margin(triplets, weights.size() == 0 ? nullptr : weights.data(), options, StdParallel(threads),
                     {values.mutable_data(), triplets.t, triplets.distance, swap}, losses.mutable_data());
  result["losses"] = losses;
  result["values"] = values;
  return result;
}

// upstream [T] or []; gradients of those that are wanted, the others of no length.
template <typename T>
std::vector<Array<T>> triplet_margin_gradients(const std::vector<Array<T>>& rows, const Array<double>& values,
                                               const Array<T>& upstream, int distance, bool swap,
                                               const std::vector<bool>& wanted, const std::string& tier,
                                               int64_t threads) {
  const Triplets<T> triplets = triplets_of(rows, distance, tier);
  std::vector<Array<T>> gradients;
  T* out[3];
  for (int role = 0; role < 3; ++role) {
    gradients.emplace_back(std::vector<int64_t>{wanted.at(role) ? triplets.t : 0, triplets.d});
    out[role] = wanted.at(role) ? gradients[role].mutable_data() : nullptr;
  }
  triplet_margin_backward(triplets, {values.data(), triplets.t, triplets.distance, swap}, upstream.data(),
                          upstream.ndim() == 1, StdParallel(threads), out);
  return gradients;
}

// references [M, D], or [0, 0]: none. triplets [3, T], distances [2, T] and slopes of the loss by them [2, T].
template <typename T>
py::tuple triplets_gradients(const Array<T>& rows, const Array<T>& references, const Array<int64_t>& triplets,
                             const Array<double>& distances, const Array<double>& slopes, int distance,
                             const std::string& tier, int64_t threads) {
  const Batch<T> alone = batch_of(rows, distance, tier);
  const int64_t own = alone.n, d = alone.d, m = references.shape(0), t = triplets.shape(1);
  const bool joined = references.size() > 0;
  const Batch<T> batch{rows.data(), own + m, d, alone.distance, alone.tier, joined ? references.data() : nullptr, own};
  const int64_t* const anchors = triplets.data();
  std::vector<double> by_edge(2 * t);
  bool poisoned = false;
  for (int64_t e = 0; e < 2 * t; ++e) {
    by_edge[e] = triplets.at(1 + e % 2, e / 2) >= 0 ? slopes.at(e % 2, e / 2) : 0;
    poisoned = poisoned || std::isnan(by_edge[e]);
  }
  Array<T> gradient({own, d}), reference_gradient({m, d});
  edge_gradient<T>(batch, {t, anchors, anchors + t, anchors + 2 * t, distances.data(), joined ? own : 0}, by_edge,
                   poisoned, every_row(own, own + m), StdParallel(threads), gradient.mutable_data(),
                   reference_gradient.mutable_data());
  return py::make_tuple(gradient, reference_gradient);
}

// Batch-hard's triplets [3, N] and distances [2, N]; sample_ids and groups [N] or of no length.
template <typename T>
py::tuple mine_allowed(const Array<T>& rows, const Array<int64_t>& labels, const Array<int64_t>& sample_ids,
                       const Array<int64_t>& groups, int groups_exclude, std::optional<int64_t> ignored, int distance,
                       const std::string& tier, int64_t threads) {
  const Batch<T> batch = batch_of(rows, distance, tier);
  PairingInput input{labels.data()};
  if (sample_ids.size() > 0) input.sample_ids = sample_ids.data();
  if (groups.size() > 0) input.groups = groups.data();
  input.groups_exclude = static_cast<GroupsExclude>(groups_exclude);
  input.ignored = ignored ? &*ignored : nullptr;
  const MinerOptions options = {MinerKind::kBatchHard, Otherwise::kSkip, false, 0, 1, false, 0};
  const StdParallel parallel(threads);
  TripletMiner<T> miner(batch, input, options, parallel);
  Array<int64_t> triplets({int64_t{3}, batch.n});
  Array<double> distances({int64_t{2}, batch.n});
  int64_t* const indices = triplets.mutable_data();
  miner.run({indices, indices + batch.n, indices + 2 * batch.n, distances.mutable_data()});
  if (!miner.all_finite()) std::fill_n(distances.mutable_data(), distances.size(), std::nan(""));
  return py::make_tuple(triplets, distances);
}

template <typename T>
void bind(py::module_& m, const std::string& suffix) {
  m.def(("triplet_margin_" + suffix).c_str(), triplet_margin_loss<T>);
  m.def(("triplet_margin_backward_" + suffix).c_str(), triplet_margin_gradients<T>);
  m.def(("triplets_backward_" + suffix).c_str(), triplets_gradients<T>);
  m.def(("mine_allowed_" + suffix).c_str(), mine_allowed<T>);
}

}  // namespace

void bind_triplets(py::module_& m) {
  bind<float>(m, "float32");
  bind<double>(m, "float64");
}

}  // namespace fasttriplet::cpu
