#include "cpu/triplets/backward.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fasttriplet::cpu {
namespace {

int64_t anchor_of(const TripletEdges& triplets, int64_t edge) {
  return triplets.anchors == nullptr ? edge / 2 : triplets.anchors[edge / 2];
}

int64_t target_of(const TripletEdges& triplets, int64_t edge) {
  // In two steps: gcc 12 miscompiles (condition ? p : q)[i] under -fsanitize=undefined.
  const int64_t* targets = edge & 1 ? triplets.negatives : triplets.positives;
  if (targets == nullptr) return -1;
  const int64_t target = targets[edge / 2];
  return target < 0 ? -1 : triplets.first_candidate + target;
}

// Numbers of things by the row they belong to, compressed rows.
struct ByRow {
  std::vector<int64_t> begin;  // [N + 1]
  std::vector<int64_t> items;
};

// Items 0 to `count`, ascending in each row; `row_of` is -1 where an item belongs to none.
template <typename F>
ByRow by_row(int64_t rows, int64_t count, F&& row_of) {
  ByRow result;
  result.begin.assign(rows + 1, 0);
  for (int64_t item = 0; item < count; ++item)
    if (row_of(item) >= 0) ++result.begin[row_of(item) + 1];
  for (int64_t i = 0; i < rows; ++i) result.begin[i + 1] += result.begin[i];
  result.items.resize(result.begin[rows]);
  std::vector<int64_t> next(result.begin.begin(), result.begin.end() - 1);
  for (int64_t item = 0; item < count; ++item)
    if (row_of(item) >= 0) result.items[next[row_of(item)]++] = item;
  return result;
}

// The first triplet of each anchor [rows + 1]; empty where triplet t is anchor t's.
std::vector<int64_t> first_triplets(const TripletEdges& triplets, int64_t rows) {
  if (triplets.anchors == nullptr) return {};
  std::vector<int64_t> first(rows + 1, triplets.triplets);
  for (int64_t t = triplets.triplets; t-- > 0;) first[triplets.anchors[t]] = t;
  for (int64_t i = rows; i-- > 0;) first[i] = std::min(first[i], first[i + 1]);
  return first;
}

}  // namespace

template <typename T>
void edge_gradient(const Batch<T>& batch, const TripletEdges& triplets, const std::vector<double>& slopes,
                   bool poisoned, const WantedRows& wanted, const Parallel& parallel, T* gradient,
                   T* reference_gradient) {
  const KeepDenormals mode;
  const int64_t n = batch.n, d = batch.d;
  if (poisoned) {
    std::fill_n(gradient, wanted.own.size() * d, std::numeric_limits<T>::quiet_NaN());
    std::fill_n(reference_gradient, wanted.references.size() * d, std::numeric_limits<T>::quiet_NaN());
    return;
  }
  const std::vector<double> factors =
      batch.distance == Distance::kCosine ? normalising_factors(batch, parallel) : std::vector<double>();
  const int64_t count = 2 * triplets.triplets;
  const auto pulls = [&](int64_t e) { return slopes[e] != 0 && target_of(triplets, e) >= 0; };
  const ByRow incoming = by_row(n, count, [&](int64_t e) { return pulls(e) ? target_of(triplets, e) : -1; });
  const std::vector<int64_t> first = first_triplets(triplets, n);
  const auto distance_of = [&](int64_t e) { return triplets.distances[(e & 1) * triplets.triplets + e / 2]; };
  std::vector<double> weights(count);  // once an edge, though both of its ends use it: a division each
  for (int64_t e = 0; e < count; ++e) weights[e] = edge_weight(batch.distance, slopes[e], distance_of(e));
  const auto gather = batch.kernels().gather[static_cast<int>(batch.distance)];
  const Rows<T> rows = batch.source();
  const double operations = 4.0 * static_cast<double>(incoming.items.size()) * static_cast<double>(d);
  for_each_range(parallel, wanted.size(), 64, operations, [&](int64_t begin, int64_t end) {
    std::vector<Edge> edges;
    for (int64_t at = begin; at < end; ++at) {
      const int64_t i = wanted.row(at);
      edges.clear();
      const int64_t own_begin = first.empty() ? i : first[i],
                    own_end = first.empty() ? std::min(i + 1, triplets.triplets) : first[i + 1];
      for (int64_t own = 2 * own_begin; own < 2 * own_end; ++own)
        if (pulls(own)) edges.push_back({target_of(triplets, own), weights[own], distance_of(own)});
      for (int64_t item = incoming.begin[i]; item < incoming.begin[i + 1]; ++item) {
        const int64_t e = incoming.items[item];
        edges.push_back({anchor_of(triplets, e), weights[e], distance_of(e)});
      }
      gather(rows, factors.data(), i, edges.data(), static_cast<int64_t>(edges.size()),
             wanted.place(at, d, gradient, reference_gradient));
    }
  });
}

template <typename T>
void mined_backward(const Batch<T>& batch, const MinedPairs& pairs, const T* upstream, bool per_anchor,
                    const Parallel& parallel, T* gradient) {
  const int64_t n = batch.n;
  const bool poisoned = std::any_of(pairs.slopes, pairs.slopes + n, [](double slope) { return std::isnan(slope); });
  std::vector<double> slopes(2 * n);
  for (int64_t i = 0; i < n; ++i) {
    slopes[2 * i] = pairs.slopes[i] * static_cast<double>(upstream[per_anchor ? i : 0]);
    slopes[2 * i + 1] = -slopes[2 * i];
  }
  edge_gradient<T>(batch, {n, nullptr, pairs.positives, pairs.negatives, pairs.distances, 0}, slopes, poisoned,
                   every_row(n, n), parallel, gradient, nullptr);
}

template void edge_gradient(const Batch<float>&, const TripletEdges&, const std::vector<double>&, bool,
                            const WantedRows&, const Parallel&, float*, float*);
template void edge_gradient(const Batch<double>&, const TripletEdges&, const std::vector<double>&, bool,
                            const WantedRows&, const Parallel&, double*, double*);
template void mined_backward(const Batch<float>&, const MinedPairs&, const float*, bool, const Parallel&, float*);
template void mined_backward(const Batch<double>&, const MinedPairs&, const double*, bool, const Parallel&, double*);

}  // namespace fasttriplet::cpu
