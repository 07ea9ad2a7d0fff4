// Gradient of a loss over mined pairs: every row sums its own edges and those that point at it, in a fixed order, with
// no atomic sums (cpu/backward.cpp is the same on the CPU).
//
// Edge 2 i is anchor i's to its positive, 2 i + 1 the one to its negative. Sorted by the row they point at, a row's
// incoming edges lie side by side, ascending. A row that very many point at, a hub, would keep one warp busy for long:
// chunks of the sorted edges that belong to one row are summed beforehand.
#pragma once

#include "core/distance.h"
#include "cuda/order.cuh"
#include "cuda/score.cuh"
#include "cuda/settle.cuh"

namespace fasttriplet::cuda {

inline constexpr int64_t kHubChunk = 128;  // edges

// Weights and targets of the edges; N where an edge pulls nothing.
template <typename T>
struct ListEdges {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  const int64_t* pairs;     // [2, N]
  const double* distances;  // [2, N]
  const double* slopes;     // [N]
  const T* upstream;        // [N] or []
  bool per_anchor;
  Distance distance;
  int64_t n;
  uint64_t* targets;  // [2 N]
  double* weights;    // [2 N]
  State* state;

  FT_DEVICE void operator()() const {
    const Walk walk = walk_by_thread<ListEdges>();
    for (int64_t e = walk.first; e < 2 * n; e += walk.stride) {
      const int64_t i = e / 2, at = e % 2 * n + i, target = pairs[at];
      const double slope = slopes[i];
      const double pull = slope * static_cast<double>(upstream[per_anchor ? i : 0]);
      weights[e] = edge_weight(distance, e % 2 == 0 ? pull : -pull, distances[at]);
      const bool pulls = slope != 0 && target >= 0;
      // Nothing can be reported from here: what the forward pass did not write makes the gradient NaN, not a wild read.
      if (std::isnan(slope) || target >= n) state->poisoned = 1;
      targets[e] = static_cast<uint64_t>(pulls && target < n ? target : n);
    }
  }
};

// What the edges of a row add up to at one entry, before what all of them share.
template <typename Kind, typename T>
struct EdgeTerms {
  ExactRows<T> exact;
  const double* weights;    // [2 N]
  const double* distances;  // [2, N]
  int64_t n;

  FT_DEVICE double entry(int64_t row, int64_t k) const {
    const double x = static_cast<double>(exact.rows[row * exact.d + k]);
    return Kind::kNormalised ? x * exact.factor(row) : x;
  }
  FT_DEVICE double term(int64_t edge, double own, int64_t partner, int64_t k) const {
    const double weight = weights[edge], other = entry(partner, k);
    return Kind::kProduct ? -weight * other : weight * (own - other);
  }
  // Cosine: how far the edge shortens the row.
  FT_DEVICE double shrink(int64_t edge) const { return weights[edge] * distances[edge % 2 * n + edge / 2]; }
};

// Sums of whole chunks of sorted edges that point at one row.
template <typename Kind, typename T>
struct SumHubChunks {
  static constexpr int kThreads = 128, kMinBlocks = 1;
  EdgeTerms<Kind, T> terms;
  const uint64_t* targets;  // [2 N] by edge
  const int32_t* order;     // [2 N] edges by target
  const State* state;
  double* sums;  // [2 N / kHubChunk, D + 1], the last the sum of shrinks

  FT_DEVICE void operator()() const {
    const int64_t d = terms.exact.d, chunks = 2 * terms.n / kHubChunk;
    if (state->poisoned != 0) return;
    for (int64_t chunk = block_index(); chunk < chunks; chunk += block_count()) {
      const int32_t* const edges = order + chunk * kHubChunk;
      const uint64_t row = targets[edges[0]];
      if (row != targets[edges[kHubChunk - 1]] || row == static_cast<uint64_t>(terms.n)) continue;
      for (int64_t k = thread_index(); k <= d; k += kThreads) {
        const double own = k < d ? terms.entry(static_cast<int64_t>(row), k) : 0;
        double total = 0;
        for (int64_t e = 0; e < kHubChunk; ++e)
          total = total + (k < d ? terms.term(edges[e], own, edges[e] / 2, k) : terms.shrink(edges[e]));
        sums[chunk * (d + 1) + k] = total;
      }
    }
  }
};

// gradient = sum over edges of weight (x - y); for cosine (sum weight (u - v) - u sum weight distance) / |x|; -sum
// weight y. A warp takes a row's next kColumns entries.
template <typename Kind, typename T>
struct GatherGradient {
  static constexpr int kThreads = 128, kMinBlocks = 1, kEntries = 4, kColumns = kEntries * kWarp;
  EdgeTerms<Kind, T> terms;
  const uint64_t* targets;  // [2 N] by edge
  const int32_t* order;     // [2 N] edges by target
  const double* hub_sums;   // [2 N / kHubChunk, D + 1]
  const State* state;
  T* gradient;  // [N, D]

  FT_DEVICE void operator()() const {
    const int64_t n = terms.n, d = terms.exact.d, parts = (d + kColumns - 1) / kColumns;
    const bool poisoned = state->poisoned != 0;
    const Walk walk = walk_by_warp<GatherGradient>();
    for (int64_t unit = walk.first; unit < n * parts; unit += walk.stride) {
      const int64_t i = unit / parts, column = unit % parts * kColumns + lane_index();
      double total[kEntries] = {}, shrink = 0;
      if (!poisoned) sum_edges(i, column, total, shrink);
#pragma unroll
      for (int q = 0; q < kEntries; ++q) {
        const int64_t k = column + q * kWarp;
        if (k >= d) continue;
        double value = total[q];
        if constexpr (Kind::kNormalised) value = (value - shrink * terms.entry(i, k)) * terms.exact.factor(i);
        gradient[i * d + k] = static_cast<T>(poisoned ? not_a_number() : value);
      }
    }
  }

 private:
  FT_DEVICE void sum_edges(int64_t i, int64_t column, double (&total)[kEntries], double& shrink) const {
    const int64_t n = terms.n, d = terms.exact.d;
    double own[kEntries];
#pragma unroll
    for (int q = 0; q < kEntries; ++q) own[q] = column + q * kWarp < d ? terms.entry(i, column + q * kWarp) : 0;
    const auto add = [&](int64_t edge, int64_t partner) {
#pragma unroll
      for (int q = 0; q < kEntries; ++q)
        if (column + q * kWarp < d) total[q] = total[q] + terms.term(edge, own[q], partner, column + q * kWarp);
      if constexpr (Kind::kNormalised) shrink = shrink + terms.shrink(edge);
    };
    for (const int64_t edge : {2 * i, 2 * i + 1})
      if (targets[edge] < static_cast<uint64_t>(n)) add(edge, static_cast<int64_t>(targets[edge]));
    const int64_t begin = bound_of<false>(targets, order, 2 * n, static_cast<uint64_t>(i));
    const int64_t end = bound_of<true>(targets, order, 2 * n, static_cast<uint64_t>(i));
    for (int64_t e = begin; e < end;) {
      if (e % kHubChunk != 0 || e + kHubChunk > end) {
        add(order[e], order[e] / 2);
        ++e;
        continue;
      }
      const double* const sums = hub_sums + e / kHubChunk * (d + 1);
#pragma unroll
      for (int q = 0; q < kEntries; ++q)
        if (column + q * kWarp < d) total[q] = total[q] + sums[column + q * kWarp];
      if constexpr (Kind::kNormalised) shrink = shrink + sums[d];
      e += kHubChunk;
    }
  }
};

}  // namespace fasttriplet::cuda
