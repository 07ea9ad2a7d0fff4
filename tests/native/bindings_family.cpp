// The scan, the miners of triplets and the losses over all pairs, bound to NumPy.
#include <functional>
#include <limits>
#include <numeric>

#include "bindings.h"
#include "cpu/dense/batch_all.h"
#include "cpu/dense/weighted.h"
#include "cpu/scan/scan.h"
#include "cpu/scan/triplets.h"

namespace fasttriplet::cpu {
namespace {

PairingInput plain(const Array<int64_t>& labels) { return {labels.data()}; }

template <typename T>
py::dict mine_triplets(const Array<T>& rows, const Array<int64_t>& labels, int distance, int kind, int otherwise,
                       bool within_margin, double margin, int64_t k, bool kth_only, double skip_fraction,
                       const std::string& tier, int64_t threads) {
  const Batch<T> batch = batch_of(rows, distance, tier);
  const MinerOptions options = {static_cast<MinerKind>(kind),
                                static_cast<Otherwise>(otherwise),
                                within_margin,
                                margin,
                                k,
                                kth_only,
                                skip_fraction};
  const StdParallel parallel(threads);
  TripletMiner<T> miner(batch, plain(labels), options, parallel);
  const int64_t count = miner.triplets();
  Array<int64_t> triplets({int64_t{3}, count});
  Array<double> distances({int64_t{2}, count});
  int64_t* const indices = triplets.mutable_data();
  miner.run({indices, indices + count, indices + 2 * count, distances.mutable_data()});
  py::dict result;
  result["triplets"] = triplets;
  result["distances"] = distances;
  result["scored"] = miner.scored();
  return result;
}

// The keys of all pairs [N, N] in the order of the rows given, how far each may be from the exact key, and the units.
template <typename T>
py::dict scan_keys(const Array<T>& rows, int distance, const std::string& tier) {
  const Batch<T> batch = batch_of(rows, distance, tier);
  const StdParallel alone(1);
  const Survey survey = survey_rows(batch, alone);
  std::vector<int32_t> everyone(batch.n);
  std::iota(everyone.begin(), everyone.end(), 0);
  const Scan<T> scan(batch, survey, everyone, everyone, batch.tier, alone);
  Array<double> keys({batch.n, batch.n}), widths({batch.n, batch.n});
  scan.run([&](const Strip& strip) {
    for (int64_t r = 0; r < strip.count; ++r) {
      const AnchorKeys row = strip.keys_of(r);
      for (int64_t j = 0; j < batch.n; ++j) {
        keys.mutable_at(strip.rows[r], j) = static_cast<double>(row.keys[j]);
        widths.mutable_at(strip.rows[r], j) = static_cast<double>(row.widths[j]) + row.terms.anchor_width;
      }
    }
    return true;
  });
  py::dict result;
  result["keys"] = keys;
  result["widths"] = widths;
  result["scale"] = scan.prepared().scale;
  result["centre_norm"] = scan.prepared().product.centre_norm;
  return result;
}

template <typename T>
py::dict all_triplets(const Array<T>& rows, const Array<int64_t>& labels, int distance, double margin, bool soft_margin,
                      const std::string& tier, int64_t threads) {
  const Batch<T> batch = batch_of(rows, distance, tier);
  const int64_t n = batch.n;
  Array<double> sums(n);
  Array<int64_t> active(n), triplets(n), negatives(n);
  Array<T> gradient({n, batch.d});
  batch_all<T>(batch, plain(labels), margin, soft_margin, nullptr, StdParallel(threads),
               {sums.mutable_data(), active.mutable_data(), triplets.mutable_data(), negatives.mutable_data()},
               gradient.mutable_data(), nullptr);
  py::dict result;
  result["sums"] = sums;
  result["active"] = active;
  result["triplets"] = triplets;
  result["negative_counts"] = negatives;
  result["gradient"] = gradient;
  return result;
}

template <typename T>
py::dict weighted(const Array<T>& rows, const Array<int64_t>& labels, int distance, const Array<double>& upstream,
                  const std::string& tier, int64_t threads) {
  const Batch<T> batch = batch_of(rows, distance, tier);
  Array<double> values({kWeightedValues, batch.n});
  Array<T> gradient({batch.n, batch.d});
  weighted_distances(batch, plain(labels), StdParallel(threads), values.mutable_data());
  weighted_backward<T>(batch, plain(labels), upstream.data(), values.data(), StdParallel(threads),
                       gradient.mutable_data(), nullptr);
  py::dict result;
  result["distances"] = values;
  result["gradient"] = gradient;
  return result;
}

template <typename T>
void bind(py::module_& m, const std::string& suffix) {
  m.def(("mine_triplets_" + suffix).c_str(), mine_triplets<T>);
  m.def(("scan_keys_" + suffix).c_str(), scan_keys<T>);
  m.def(("batch_all_" + suffix).c_str(), all_triplets<T>);
  m.def(("weighted_" + suffix).c_str(), weighted<T>);
}

}  // namespace

void bind_family(py::module_& m) {
  bind<float>(m, "float32");
  bind<double>(m, "float64");
}

}  // namespace fasttriplet::cpu
