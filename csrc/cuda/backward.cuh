// Gradient of a loss over mined pairs: every row sums its own edges and those that point at it, in a fixed order, with
// no atomic sums (cpu/triplets/backward.cpp is the same on the CPU).
//
// Edge 2 i is anchor i's to its positive, 2 i + 1 the one to its negative. Sorted by the row they point at, a row's
// incoming edges lie side by side, ascending. A row that very many point at, a hub, would keep one warp busy for long:
// chunks of the sorted edges that belong to one row are summed beforehand. Up to kRankedKeys edges three launches do it
// all, and nothing has to be cleared: listed and ranked, indexed, gathered.
#pragma once

#include "core/distance.h"
#include "cuda/ahead.cuh"
#include "cuda/order.cuh"
#include "cuda/score.cuh"
#include "cuda/settle.cuh"

namespace fasttriplet::cuda {

inline constexpr int64_t kHubChunk = 128;  // edges

// Where the edges that point at a row lie among the sorted ones; both zero where there are none.
struct alignas(8) EdgeRange {
  int32_t begin, end;
};

// The edges as a source of keys (order.cuh): the row they point at, N where an edge pulls nothing. Keeping a key writes
// it down with the edge's weight, and clears a range.
template <typename T>
struct Edges {
  const int64_t* pairs;     // [2, N]
  const double* distances;  // [2, N]
  const double* slopes;     // [N]
  const T* upstream;        // [N] or []
  bool per_anchor;
  Distance distance;
  int64_t n;
  uint64_t* targets;  // [2 N]
  double* weights;    // [2 N]
  EdgeRange* ranges;  // [N]

  // Nothing can be reported from here: an edge that the forward pass did not write makes the gradient NaN, not a wild
  // read. It sorts behind all others as N + 1, where SortedEdges looks for it.
  FT_DEVICE uint64_t key(int64_t e) const {
    const int64_t i = e / 2, target = pairs[e % 2 * n + i];
    const double slope = slopes[i];
    if (std::isnan(slope) || target >= n) return static_cast<uint64_t>(n) + 1;
    return static_cast<uint64_t>(slope != 0 && target >= 0 ? target : n);
  }
  FT_DEVICE void keep(int64_t e, uint64_t target) const {
    const int64_t i = e / 2;
    const double pull = slopes[i] * static_cast<double>(upstream[per_anchor ? i : 0]);
    weights[e] = edge_weight(distance, e % 2 == 0 ? pull : -pull, distances[e % 2 * n + i]);
    targets[e] = target;
    if (e % 2 == 0) ranges[i] = {0, 0};
  }
};

// For the radix sort, which wants its keys in memory.
template <typename T>
struct ListEdges {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  Edges<T> edges;

  FT_DEVICE void operator()() const {
    const Walk walk = walk_by_thread<ListEdges>();
    for (int64_t e = walk.first; e < 2 * edges.n; e += walk.stride) edges.keep(e, edges.key(e));
  }
};

struct SortedEdges {
  const uint64_t* targets;  // [2 N] by edge
  const int32_t* order;     // [2 N] edges by target
  int64_t n;

  FT_DEVICE uint64_t target_at(int64_t position) const { return targets[order[position]]; }
  FT_DEVICE bool poisoned() const { return target_at(2 * n - 1) > static_cast<uint64_t>(n); }
};

// What an edge brings to kEntries of a row's entries, a warp apart, before what all edges share: loaded first, added
// later, so that the loads of several edges are under way together.
template <typename T, int kEntries>
struct Pull {
  double weight;
  double factor, distance;  // cosine
  T entries[kEntries];
};

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
  template <int kEntries>
  FT_DEVICE Pull<T, kEntries> load(int64_t edge, int64_t partner, int64_t column) const {
    Pull<T, kEntries> pull = {weights[edge], 1, 0, {}};
    if constexpr (Kind::kNormalised) {
      pull.factor = exact.factor(partner);
      pull.distance = distances[edge % 2 * n + edge / 2];
    }
    const T* const row = exact.rows + partner * exact.d + column;
#pragma unroll
    for (int q = 0; q < kEntries; ++q)
      if (column + q * kWarp < exact.d) pull.entries[q] = row[q * kWarp];
    return pull;
  }
};

// Sums over edges, in the order in which they are added; `shrink`, of cosine, is how far they shorten the row.
template <typename Kind, typename T, int kEntries>
struct EdgeSum {
  double own[kEntries];
  double total[kEntries] = {};
  double shrink = 0;

  FT_DEVICE EdgeSum(const EdgeTerms<Kind, T>& terms, int64_t row, int64_t column) {
#pragma unroll
    for (int q = 0; q < kEntries; ++q)
      own[q] = column + q * kWarp < terms.exact.d ? terms.entry(row, column + q * kWarp) : 0;
  }
  // Entries beyond the row add up to something that nobody writes.
  FT_DEVICE void add(const Pull<T, kEntries>& pull) {
#pragma unroll
    for (int q = 0; q < kEntries; ++q) {
      double other = static_cast<double>(pull.entries[q]);
      if constexpr (Kind::kNormalised) other = other * pull.factor;
      total[q] = total[q] + (Kind::kProduct ? -pull.weight * other : pull.weight * (own[q] - other));
    }
    if constexpr (Kind::kNormalised) shrink = shrink + pull.weight * pull.distance;
  }
};

// The ranges of the rows, where a position's neighbours point elsewhere, and the sums of whole chunks that point at one
// row. A block takes a chunk: a thread a position, then a thread an entry.
template <typename Kind, typename T>
struct IndexEdges {
  static constexpr int kThreads = kHubChunk, kMinBlocks = 1, kAhead = 8;
  EdgeTerms<Kind, T> terms;
  SortedEdges edges;
  EdgeRange* ranges;  // [N], zero where no edge points
  double* hub_sums;   // [2 N / kHubChunk, D + 1], the last the sum of shrinks

  FT_DEVICE void operator()() const {
    const int64_t count = 2 * edges.n;
    for (int64_t first = block_index() * kHubChunk; first < count; first += block_count() * kHubChunk) {
      // Everything is loaded before anything is written, without branches between. The range that begins at zero has
      // its zero.
      const int64_t position = first + thread_index() < count ? first + thread_index() : count - 1;
      const uint64_t row = edges.target_at(position);
      const uint64_t before = edges.target_at(position > 0 ? position - 1 : 0);
      const uint64_t behind = edges.target_at(position + 1 < count ? position + 1 : position);
      const bool whole = first + kHubChunk <= count;
      const uint64_t first_row = edges.target_at(first);
      const uint64_t last_row = edges.target_at(whole ? first + kHubChunk - 1 : first);
      const bool pulls = row < static_cast<uint64_t>(edges.n);
      if (pulls & (before != row)) ranges[row].begin = static_cast<int32_t>(position);
      if (pulls & ((position + 1 == count) | (behind != row))) ranges[row].end = static_cast<int32_t>(position + 1);
      if (whole && first_row == last_row && first_row < static_cast<uint64_t>(edges.n))
        sum_chunk(first, static_cast<int64_t>(first_row));
    }
  }

 private:
  FT_DEVICE void sum_chunk(int64_t first, int64_t row) const {
    const int64_t d = terms.exact.d;
    double* const sums = hub_sums + first / kHubChunk * (d + 1);
    for (int64_t k = thread_index(); k < d; k += kThreads) {
      EdgeSum<Kind, T, 1> sum(terms, row, k);
      for (int e = 0; e < kHubChunk; e += kAhead) {
        int64_t edge[kAhead];
#pragma unroll
        for (int a = 0; a < kAhead; ++a) edge[a] = edges.order[first + e + a];
        Pull<T, 1> pull[kAhead];
#pragma unroll
        for (int a = 0; a < kAhead; ++a) pull[a] = terms.template load<1>(edge[a], edge[a] / 2, k);
#pragma unroll
        for (int a = 0; a < kAhead; ++a) sum.add(pull[a]);
      }
      sums[k] = sum.total[0];
      if (k == 0) sums[d] = sum.shrink;
    }
  }
};

// gradient = sum over edges of weight (x - y); for cosine (sum weight (u - v) - u sum weight distance) / |x|; -sum
// weight y. A warp takes a row's next kColumns entries. Four edges are loaded at a time, a row's own and on average two
// that point at it: three trips to memory (range and targets, order and own partners, partners), whatever their number.
template <typename Kind, typename T>
struct GatherGradient {
  static constexpr int kThreads = 128, kMinBlocks = 1, kEntries = 4, kColumns = kEntries * kWarp, kAhead = 4;
  EdgeTerms<Kind, T> terms;
  SortedEdges edges;
  const EdgeRange* ranges;  // [N]
  const double* hub_sums;   // [2 N / kHubChunk, D + 1]
  T* gradient;              // [N, D]

  FT_DEVICE void operator()() const {
    const int64_t n = terms.n, d = terms.exact.d, parts = (d + kColumns - 1) / kColumns;
    const bool poisoned = edges.poisoned();
    const Walk walk = walk_by_warp<GatherGradient>();
    for (int64_t unit = walk.first; unit < n * parts; unit += walk.stride) {
      const int64_t i = unit / parts, column = unit % parts * kColumns + lane_index();
      Sum sum(terms, i, column);
      add_edges(i, column, sum);
#pragma unroll
      for (int q = 0; q < kEntries; ++q) {
        const int64_t k = column + q * kWarp;
        if (k >= d) continue;
        double value = sum.total[q];
        if constexpr (Kind::kNormalised) value = (value - sum.shrink * sum.own[q]) * terms.exact.factor(i);
        gradient[i * d + k] = static_cast<T>(poisoned ? not_a_number() : value);
      }
    }
  }

 private:
  using Sum = EdgeSum<Kind, T, kEntries>;

  // The row's own edges, those that point at it up to the first whole chunk, the chunks, those behind them.
  FT_DEVICE void add_edges(int64_t i, int64_t column, Sum& sum) const {
    const EdgeRange range = ranges[i];
    int64_t chunk = (range.begin + kHubChunk - 1) / kHubChunk;
    const int64_t chunks_end = range.end / kHubChunk;
    if (chunk >= chunks_end) return add_single(2, i, range.begin, range.end, column, sum);
    add_single(2, i, range.begin, chunk * kHubChunk, column, sum);
    for (; chunk < chunks_end; ++chunk) {
      const double* const sums = hub_sums + chunk * (terms.exact.d + 1);
#pragma unroll
      for (int q = 0; q < kEntries; ++q)
        if (column + q * kWarp < terms.exact.d) sum.total[q] = sum.total[q] + sums[column + q * kWarp];
      if constexpr (Kind::kNormalised) sum.shrink = sum.shrink + sums[terms.exact.d];
    }
    add_single(0, i, chunks_end * kHubChunk, range.end, column, sum);
  }

  // The first `own` of the row's own edges, then the sorted ones from begin to end.
  FT_DEVICE void add_single(int own, int64_t i, int64_t begin, int64_t end, int64_t column, Sum& sum) const {
    const int count = own + static_cast<int>(end - begin);
    for (int s = 0; s < count; s += kAhead) {
      int64_t edge[kAhead], partner[kAhead];
      Pull<T, kEntries> pull[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const int item = s + a;
        edge[a] = item < own ? 2 * i + item : item < count ? edges.order[begin + item - own] : -1;
        partner[a] = item < own ? static_cast<int64_t>(edges.targets[2 * i + item]) : edge[a] / 2;
        if (partner[a] >= terms.n) edge[a] = -1;  // pulls nothing
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a)
        if (edge[a] >= 0) pull[a] = terms.template load<kEntries>(edge[a], partner[a], column);
#pragma unroll
      for (int a = 0; a < kAhead; ++a)
        if (edge[a] >= 0) sum.add(pull[a]);
    }
  }
};

}  // namespace fasttriplet::cuda
