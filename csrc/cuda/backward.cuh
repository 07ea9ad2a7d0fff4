// Gradient of a loss over mined triplets: every row sums its own edges and those that point at it, in a fixed order,
// with no atomic sums (cpu/triplets/backward.cpp is the same on the CPU).
//
// Edge 2 t goes from the anchor of triplet t to its positive, 2 t + 1 from there to its negative. Of batch-hard triplet
// i is anchor i's and rows are one array; other miners' triplets lie by anchor, any number each, and references behind
// the batch's own rows (edges.cuh says where everything lies). Sorted by the row they point at, a row's
// incoming edges lie side by side, ascending. A row that very many point at, a hub, would keep one warp busy for long:
// chunks of the sorted edges that belong to one row are summed beforehand. Up to kRankedKeys edges three launches do it
// all, and nothing has to be cleared: listed and ranked, indexed, gathered.
#pragma once

#include "cuda/ahead.cuh"
#include "cuda/edges.cuh"

namespace fasttriplet::cuda {

inline constexpr int64_t kHubChunk = 128;  // edges

// What an edge brings to kEntries of a row's entries, a warp apart, before what all edges share: loaded first, added
// later, so that the loads of several edges are under way together.
template <typename T, int kEntries>
struct Pull {
  double weight;
  double factor, distance;  // cosine
  T entries[kEntries];
};

// Graph: AnchorPairs or AnchorTriplets (edges.cuh).
template <typename Kind, typename T, typename Graph>
struct EdgeTerms {
  Graph graph;
  int64_t d;
  const double* factors;    // [rows] or null
  const double* weights;    // [2 T]
  const double* distances;  // [2, T]

  FT_DEVICE double factor(int64_t row) const { return factors != nullptr ? factors[row] : 1; }
  FT_DEVICE double entry(int64_t row, int64_t k) const {
    const double x = static_cast<double>(graph.row(row, d)[k]);
    return Kind::kNormalised ? x * factor(row) : x;
  }
  template <int kEntries>
  FT_DEVICE Pull<T, kEntries> load(int64_t edge, int64_t partner, int64_t column) const {
    Pull<T, kEntries> pull = {weights[edge], 1, 0, {}};
    if constexpr (Kind::kNormalised) {
      pull.factor = factor(partner);
      pull.distance = distances[edge % 2 * graph.triplets() + edge / 2];
    }
    const T* const row = graph.row(partner, d) + column;
#pragma unroll
    for (int q = 0; q < kEntries; ++q)
      if (column + q * kWarp < d) pull.entries[q] = row[q * kWarp];
    return pull;
  }
};

// Sums over edges, in the order in which they are added; `shrink`, of cosine, is how far they shorten the row.
template <typename Kind, typename T, int kEntries>
struct EdgeSum {
  double own[kEntries];
  double total[kEntries] = {};
  double shrink = 0;

  template <typename Terms>
  FT_DEVICE EdgeSum(const Terms& terms, int64_t row, int64_t column) {
#pragma unroll
    for (int q = 0; q < kEntries; ++q) own[q] = column + q * kWarp < terms.d ? terms.entry(row, column + q * kWarp) : 0;
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
template <typename Kind, typename T, typename Graph>
struct IndexEdges {
  static constexpr int kThreads = kHubChunk, kMinBlocks = 1, kAhead = 8;
  EdgeTerms<Kind, T, Graph> terms;
  SortedEdges edges;
  EdgeRange* ranges;  // [rows], zero where no edge points
  double* hub_sums;   // [2 T / kHubChunk, D + 1], the last the sum of shrinks

  FT_DEVICE void operator()() const {
    const int64_t count = edges.count;
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
      const bool pulls = row < static_cast<uint64_t>(edges.rows);
      if (pulls & (before != row)) ranges[row].begin = static_cast<int32_t>(position);
      if (pulls & ((position + 1 == count) | (behind != row))) ranges[row].end = static_cast<int32_t>(position + 1);
      if (whole && first_row == last_row && first_row < static_cast<uint64_t>(edges.rows))
        sum_chunk(first, static_cast<int64_t>(first_row));
    }
  }

 private:
  FT_DEVICE void sum_chunk(int64_t first, int64_t row) const {
    const int64_t d = terms.d;
    double* const sums = hub_sums + first / kHubChunk * (d + 1);
    for (int64_t k = thread_index(); k < d; k += kThreads) {
      EdgeSum<Kind, T, 1> sum(terms, row, k);
      for (int e = 0; e < kHubChunk; e += kAhead) {
        int64_t edge[kAhead];
#pragma unroll
        for (int a = 0; a < kAhead; ++a) edge[a] = edges.order[first + e + a];
        Pull<T, 1> pull[kAhead];
#pragma unroll
        for (int a = 0; a < kAhead; ++a) pull[a] = terms.template load<1>(edge[a], terms.graph.anchor(edge[a]), k);
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
template <typename Kind, typename T, typename Graph>
struct GatherGradient {
  static constexpr int kThreads = 128, kMinBlocks = 1, kEntries = 4, kColumns = kEntries * kWarp, kAhead = 4;
  EdgeTerms<Kind, T, Graph> terms;
  SortedEdges edges;
  const EdgeRange* ranges;  // [rows]
  const double* hub_sums;   // [2 T / kHubChunk, D + 1]
  typename Graph::Gradient gradient;

  FT_DEVICE void operator()() const {
    const int64_t n = edges.rows, d = terms.d, parts = (d + kColumns - 1) / kColumns;
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
        if constexpr (Kind::kNormalised) value = (value - sum.shrink * sum.own[q]) * terms.factor(i);
        gradient.row(i, d)[k] = static_cast<T>(poisoned ? not_a_number() : value);
      }
    }
  }

 private:
  using Sum = EdgeSum<Kind, T, kEntries>;

  // The row's own edges, those that point at it up to the first whole chunk, the chunks, those behind them.
  FT_DEVICE void add_edges(int64_t i, int64_t column, Sum& sum) const {
    const EdgeRange range = ranges[i], own = terms.graph.own_edges(i);
    int64_t chunk = (range.begin + kHubChunk - 1) / kHubChunk;
    const int64_t chunks_end = range.end / kHubChunk;
    if (chunk >= chunks_end) return add_single(own, range, column, sum);
    add_single(own, {range.begin, static_cast<int32_t>(chunk * kHubChunk)}, column, sum);
    for (; chunk < chunks_end; ++chunk) {
      const double* const sums = hub_sums + chunk * (terms.d + 1);
#pragma unroll
      for (int q = 0; q < kEntries; ++q)
        if (column + q * kWarp < terms.d) sum.total[q] = sum.total[q] + sums[column + q * kWarp];
      if constexpr (Kind::kNormalised) sum.shrink = sum.shrink + sums[terms.d];
    }
    add_single({0, 0}, {static_cast<int32_t>(chunks_end * kHubChunk), range.end}, column, sum);
  }

  // The row's own edges by number, then the sorted ones by place.
  FT_DEVICE void add_single(EdgeRange own, EdgeRange sorted, int64_t column, Sum& sum) const {
    const int owned = own.end - own.begin, count = owned + (sorted.end - sorted.begin);
    for (int s = 0; s < count; s += kAhead) {
      int64_t edge[kAhead], partner[kAhead];
      Pull<T, kEntries> pull[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const int item = s + a;
        edge[a] = item < owned ? own.begin + item : item < count ? edges.order[sorted.begin + item - owned] : -1;
        partner[a] = item < owned   ? static_cast<int64_t>(edges.targets[own.begin + item])
                     : item < count ? terms.graph.anchor(edge[a])
                                    : 0;
        if (partner[a] >= edges.rows) edge[a] = -1;  // pulls nothing
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
