// The edges that a gradient runs along (backward.cuh): where their rows lie, and their order by the row they point at.
#pragma once

#include "core/distance.h"
#include "cuda/order.cuh"

namespace fasttriplet::cuda {

// Where the edges that point at a row lie among the sorted ones, or a row's own edges by number; both zero where there
// are none.
struct alignas(8) EdgeRange {
  int32_t begin, end;
};

// Batch-hard's: triplet i is anchor i's, and all rows are the batch's own.
template <typename T>
struct AnchorPairs {
  struct Gradient {
    T* rows;  // [N, D]

    FT_DEVICE T* row(int64_t i, int64_t d) const { return rows + i * d; }
  };
  const T* rows;  // [N, D]
  int64_t n;

  FT_DEVICE const T* row(int64_t i, int64_t d) const { return rows + i * d; }
  FT_DEVICE int64_t triplets() const { return n; }
  FT_DEVICE int64_t anchor(int64_t edge) const { return edge / 2; }
  FT_DEVICE EdgeRange own_edges(int64_t i) const {
    return {static_cast<int32_t>(2 * i), static_cast<int32_t>(2 * i + 2)};
  }
};

// Any miner's: an anchor has any number of triplets, side by side, and the rows of references follow on the batch's
// own.
template <typename T>
struct AnchorTriplets {
  struct Gradient {
    T* own;         // [N, D]
    T* references;  // [M, D]
    int64_t n;

    FT_DEVICE T* row(int64_t i, int64_t d) const { return i < n ? own + i * d : references + (i - n) * d; }
  };
  const T* own;             // [N, D]
  const T* references;      // [M, D] or null
  int64_t n, count;         // own rows, triplets
  const int64_t* anchors;   // [T] ascending
  const EdgeRange* ranges;  // [N + M] of a row's own edges

  FT_DEVICE const T* row(int64_t i, int64_t d) const { return i < n ? own + i * d : references + (i - n) * d; }
  FT_DEVICE int64_t triplets() const { return count; }
  FT_DEVICE int64_t anchor(int64_t edge) const { return anchors[edge / 2]; }
  FT_DEVICE EdgeRange own_edges(int64_t i) const { return ranges[i]; }
};

// Batch-hard's edges as a source of keys (order.cuh): the row they point at, N where an edge pulls nothing. Keeping a
// key writes it down with the edge's weight, and clears a range.
template <typename T>
struct PairEdges {
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

  FT_DEVICE int64_t count() const { return 2 * n; }
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

// The edges of any miner's triplets likewise. Keeping the first and the last key of an anchor writes down its range.
struct TripletEdges {
  const int64_t* triplets;  // [3, T] anchors, positives, negatives
  const double* slopes;     // [2, T] d loss / d distance
  const double* distances;  // [2, T]
  Distance distance;
  int64_t t, anchors, candidates;
  int64_t first_candidate, rows;  // the row that candidate 0 is; N + M
  uint64_t* targets;              // [2 T]
  double* weights;                // [2 T]
  EdgeRange* own;                 // [rows], zero at first

  FT_DEVICE int64_t count() const { return 2 * t; }
  FT_DEVICE uint64_t key(int64_t e) const {
    const int64_t i = e / 2, target = triplets[(1 + e % 2) * t + i];
    const int64_t anchor = triplets[i], before = triplets[i > 0 ? i - 1 : 0];
    const double slope = slopes[e % 2 * t + i];
    const bool wrong = anchor < 0 || anchor < before || anchor >= anchors || target < -1 || target >= candidates;
    if (wrong || (target >= 0 && std::isnan(slope))) return static_cast<uint64_t>(rows) + 1;
    return static_cast<uint64_t>(slope != 0 && target >= 0 ? first_candidate + target : rows);
  }
  FT_DEVICE void keep(int64_t e, uint64_t target) const {
    const int64_t i = e / 2, anchor = triplets[i];
    weights[e] = edge_weight(distance, slopes[e % 2 * t + i], distances[e % 2 * t + i]);
    targets[e] = target;
    if (anchor < 0 || anchor >= anchors) return;
    if (e % 2 == 0 && (i == 0 || triplets[i - 1] != anchor)) own[anchor].begin = static_cast<int32_t>(e);
    if (e % 2 == 1 && (i + 1 == t || triplets[i + 1] != anchor)) own[anchor].end = static_cast<int32_t>(e + 1);
  }
};

// For the radix sort, which wants its keys in memory.
template <typename Source>
struct ListEdges {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  Source edges;

  FT_DEVICE void operator()() const {
    const Walk walk = walk_by_thread<ListEdges>();
    for (int64_t e = walk.first; e < edges.count(); e += walk.stride) edges.keep(e, edges.key(e));
  }
};

struct SortedEdges {
  const uint64_t* targets;  // [2 T] by edge
  const int32_t* order;     // [2 T] edges by target
  int64_t count, rows;      // 2 T; a target of `rows` pulls nothing

  FT_DEVICE uint64_t target_at(int64_t position) const { return targets[order[position]]; }
  FT_DEVICE bool poisoned() const { return target_at(count - 1) > static_cast<uint64_t>(rows); }
};

}  // namespace fasttriplet::cuda
