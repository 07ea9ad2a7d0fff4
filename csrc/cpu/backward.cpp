#include "cpu/backward.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace fasttriplet::cpu {
namespace {

// Edges by the row they point at: compressed rows, ascending by anchor, the positive before the negative. Edge 2 i is
// anchor i's to its positive, 2 i + 1 the one to its negative.
struct IncomingEdges {
  std::vector<int64_t> begin;  // [N + 1]
  std::vector<int64_t> edges;  // [number of edges]
};

int64_t target_of(const MinedPairs& pairs, int64_t edge) {
  // In two steps: gcc 12 miscompiles (condition ? p : q)[i] under -fsanitize=undefined.
  const int64_t* targets = edge & 1 ? pairs.negatives : pairs.positives;
  return targets[edge / 2];
}

bool pulls(const MinedPairs& pairs, int64_t edge) { return pairs.slopes[edge / 2] != 0 && target_of(pairs, edge) >= 0; }

IncomingEdges incoming_edges(const MinedPairs& pairs, int64_t n) {
  IncomingEdges incoming;
  incoming.begin.assign(n + 1, 0);
  for (int64_t e = 0; e < 2 * n; ++e)
    if (pulls(pairs, e)) ++incoming.begin[target_of(pairs, e) + 1];
  for (int64_t i = 0; i < n; ++i) incoming.begin[i + 1] += incoming.begin[i];
  incoming.edges.resize(incoming.begin[n]);
  std::vector<int64_t> next(incoming.begin.begin(), incoming.begin.end() - 1);
  for (int64_t e = 0; e < 2 * n; ++e)
    if (pulls(pairs, e)) incoming.edges[next[target_of(pairs, e)]++] = e;
  return incoming;
}

}  // namespace

template <typename T>
void mined_backward(const Batch<T>& batch, const MinedPairs& pairs, const T* upstream, bool per_anchor,
                    const Parallel& parallel, T* gradient) {
  const KeepDenormals mode;
  const int64_t n = batch.n, d = batch.d;
  if (std::any_of(pairs.slopes, pairs.slopes + n, [](double slope) { return std::isnan(slope); })) {
    std::fill_n(gradient, n * d, std::numeric_limits<T>::quiet_NaN());
    return;
  }
  const std::vector<double> factors =
      batch.distance == Distance::kCosine ? normalising_factors(batch, parallel) : std::vector<double>();
  const IncomingEdges incoming = incoming_edges(pairs, n);
  std::vector<double> weights(2 * n);  // once an edge, though both of its ends use it: a division each
  for (int64_t e = 0; e < 2 * n; ++e) {
    const double slope = pairs.slopes[e / 2] * static_cast<double>(upstream[per_anchor ? e / 2 : 0]);
    weights[e] = edge_weight(batch.distance, e & 1 ? -slope : slope, pairs.distances[(e & 1) * n + e / 2]);
  }
  const auto edge = [&](int64_t e, int64_t partner) {
    return Edge{partner, weights[e], pairs.distances[(e & 1) * n + e / 2]};
  };
  const auto gather = batch.kernels().gather[static_cast<int>(batch.distance)];
  const double operations = 4.0 * static_cast<double>(incoming.edges.size()) * static_cast<double>(d);
  for_each_range(parallel, n, 64, operations, [&](int64_t first, int64_t last) {
    std::vector<Edge> edges;
    for (int64_t i = first; i < last; ++i) {
      edges.clear();
      for (const int64_t own : {2 * i, 2 * i + 1})
        if (pulls(pairs, own)) edges.push_back(edge(own, target_of(pairs, own)));
      for (int64_t at = incoming.begin[i]; at < incoming.begin[i + 1]; ++at)
        edges.push_back(edge(incoming.edges[at], incoming.edges[at] / 2));
      gather(batch.rows, d, factors.data(), i, edges.data(), static_cast<int64_t>(edges.size()), gradient + i * d);
    }
  });
}

template void mined_backward(const Batch<float>&, const MinedPairs&, const float*, bool, const Parallel&, float*);
template void mined_backward(const Batch<double>&, const MinedPairs&, const double*, bool, const Parallel&, double*);

}  // namespace fasttriplet::cpu
