// Explicit triplets: all distances in one read of the rows, all gradients in another, and nothing but [*, T] between
// (cpu/triplets/triplet_margin.cpp is the same on the CPU). Distances have the CPU's bits, and so have gradients, given
// the slopes.
//
// The reduction adds up in a fixed order, the same on every run: over sixteen triplets, then over those sums. The CPU's
// order is one chain over all triplets, which here would be a microsecond for every hundred of them, so the last bits
// of a sum may be others, and with weights those of the slopes.
#pragma once

#include "core/distance.h"
#include "core/triplet_margin.h"
#include "cuda/ahead.cuh"
#include "cuda/block_sum.cuh"
#include "cuda/score.cuh"
#include "cuda/survey.cuh"

namespace fasttriplet::cuda {

enum Role : int { kAnchor, kPositive, kNegative };
inline constexpr int kRoles = 3;

template <typename T>
struct DeviceTriplets {
  const T* rows[kRoles];  // anchors, positives, negatives, each [T, D]
  int64_t t, d;
  Distance distance;
};

struct TripletSum {
  double total, divisor;
};

FT_DEVICE TripletSum plus(const TripletSum& a, const TripletSum& b) {
  return {a.total + b.total, a.divisor + b.divisor};
}

// Distances, losses and slopes, before the reduction's divisor, and the sums of each block of triplets.
//
// Eight lanes a triplet, each with both chains of a score's sums (score.cuh), so that a row's sum of squares, for which
// lanes have one chain, can be taken by the same lanes. What a block finds of its triplets goes through shared memory:
// one warp then makes losses of it, with a triplet a lane and stores side by side.
template <typename Kind, typename T>
struct LossOfTriplets {
  static constexpr int kThreads = 128, kMinBlocks = 1, kLanes = 8;
  static constexpr int kTriplets = kThreads / kLanes;  // of a block: 256 triplets are 16 of them
  // Steps of sixteen entries, three rows of them, that are on their way at once: 24 loads a lane in 24 or 48 registers.
  // Of eight steps the registers would leave room for two blocks of a multiprocessor, of four for four.
  static constexpr int kAhead = 4;
  struct Found {
    double to_positive, to_negative, swapped;  // the last from the positive to the negative
    double factors[kRoles];
    bool finite;  // false where a normalised distance would hide an entry that is not
  };
  // Two in turn: the next block of triplets is measured while one warp still reads.
  static constexpr int kSharedBytes = 2 * kTriplets * static_cast<int>(sizeof(Found));
  static_assert(kTriplets <= kWarp, "one warp has a lane for every triplet of a block");

  DeviceTriplets<T> triplets;
  const double* weights;  // [T] or null: all 1
  TripletMarginOptions options;
  TripletValues<double> values;
  T* losses;         // [T] or null
  TripletSum* sums;  // [T / kTriplets] or null

  FT_DEVICE void operator()() const {
    Found* const found = reinterpret_cast<Found*>(shared_memory());
    const int64_t t = triplets.t;
    int turn = 0;
    for (int64_t chunk = block_index(); chunk * kTriplets < t; chunk += block_count()) {
      const int own = thread_index() / kLanes;
      const int64_t i = chunk * kTriplets + own;
      const Found measured = measure(i < t ? i : t - 1);  // beyond the last that one again: a warp stays together
      if (thread_index() % kLanes == 0) found[turn * kTriplets + own] = measured;
      block_barrier();
      if (warp_index() == 0) finish(chunk, found + turn * kTriplets);
      turn = 1 - turn;
    }
  }

 private:
  struct Entries {
    T of[kRoles];
  };

  // Calls use(entries, chain) for the entries of this lane in their order, in turn of the even and of the odd chain,
  // the last, incomplete eight of the odd one.
  template <typename Use>
  FT_DEVICE void for_entries(int64_t i, Use&& use) const {
    const int64_t d = triplets.d, whole = d / kLanes * kLanes;
    const int lane = thread_index() % kLanes;
    const auto load = [&](int64_t k) {
      const int64_t at = i * d + k + lane;
      return Entries{{triplets.rows[kAnchor][at], triplets.rows[kPositive][at], triplets.rows[kNegative][at]}};
    };
    const bool has_single = whole % (2 * kLanes) != 0, has_last = lane < d - whole;
    Entries single = {}, last = {};
    if (has_single) single = load(whole - kLanes);
    if (has_last) last = load(whole);
    struct Step {
      Entries even, odd;
    };
    use_loaded<kAhead>(
        static_cast<int>(whole / (2 * kLanes)),
        [&](int s) {
          const int64_t k = int64_t{s} * (2 * kLanes);
          return Step{load(k), load(k + kLanes)};
        },
        [&](const Step& step) {
          use(step.even, 0);
          use(step.odd, 1);
        });
    if (has_single) use(single, 0);
    if (has_last) use(last, 1);
  }

  // The same in all lanes of the triplet.
  FT_DEVICE Found measure(int64_t i) const {
    Found found = {0, 0, 0, {1, 1, 1}, true};
    if constexpr (Kind::kNormalised) normalise(i, found);
    double positive[2] = {}, negative[2] = {}, swapped[2] = {};
    const double* const factor = found.factors;
    for_entries(i, [&](const Entries& entries, int chain) {
      const double x = static_cast<double>(entries.of[kAnchor]), y = static_cast<double>(entries.of[kPositive]),
                   z = static_cast<double>(entries.of[kNegative]);
      positive[chain] = positive[chain] + score_term<Kind>(x, y, factor[kAnchor], factor[kPositive]);
      negative[chain] = negative[chain] + score_term<Kind>(x, z, factor[kAnchor], factor[kNegative]);
      if (options.swap) swapped[chain] = swapped[chain] + score_term<Kind>(y, z, factor[kPositive], factor[kNegative]);
    });
    const auto score = [&](const double (&chains)[2], Role x, Role y) {
      return score_of_sums<Kind, kLanes>(chains[0] + chains[1], factor[x], factor[y]);
    };
    found.to_positive = score(positive, kAnchor, kPositive);
    found.to_negative = score(negative, kAnchor, kNegative);
    if (options.swap) found.swapped = score(swapped, kPositive, kNegative);
    return found;
  }

  // Another walk over the rows, which lie in the first-level cache by then: a block's are 24 KB at D = 128.
  FT_DEVICE void normalise(int64_t i, Found& found) const {
    RowSums sums[kRoles];
    for_entries(i, [&](const Entries& entries, int) {
#pragma unroll
      for (int role = 0; role < kRoles; ++role) sums[role].add(static_cast<double>(entries.of[role]));
    });
#pragma unroll
    for (int role = 0; role < kRoles; ++role) {
      sums[role].template join<kLanes>();
      found.factors[role] = sums[role].factor(triplets.rows[role] + i * triplets.d, triplets.d);
      found.finite = found.finite && sums[role].finite();
    }
  }

  // One warp, a triplet a lane.
  FT_DEVICE void finish(int64_t chunk, const Found* found) const {
    const int64_t t = triplets.t, i = chunk * kTriplets + lane_index();
    TripletSum own = {0, 0};
    if (lane_index() < kTriplets && i < t) {
      const Found& pair = found[lane_index()];
      const bool swaps = options.swap && pair.swapped < pair.to_negative;
      const double to_negative = swaps ? pair.swapped : pair.to_negative;
      const TripletShare share =
          triplet_share(pair.to_positive, to_negative, pair.finite, weights == nullptr ? 1 : weights[i], options);
      values.slopes[i] = share.slope;
      values.to_positive[i] = pair.to_positive;
      values.to_negative[i] = to_negative;
      if (options.swap) values.swapped[i] = swaps;
      if constexpr (Kind::kNormalised)
#pragma unroll
        for (int role = 0; role < kRoles; ++role) values.factors[role * t + i] = pair.factors[role];
      if (losses != nullptr) losses[i] = static_cast<T>(share.loss);
      own = {share.loss, share.share};
    }
    if (sums == nullptr) return;
    own = {warp_sum(own.total), warp_sum(own.divisor)};
    if (lane_index() == 0) sums[chunk] = own;
  }
};

// The reduced loss; slopes divided by the reduction's divisor. Every block adds the sums up for itself.
template <typename T>
struct ReduceTriplets {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  static constexpr int kSharedBytes = kThreads * static_cast<int>(sizeof(TripletSum));
  const TripletSum* sums;  // [count]
  int64_t count, t;
  Reduction reduction;
  double* slopes;  // [T]
  T* loss;         // []

  FT_DEVICE void operator()() const {
    TripletSum own = {0, 0};
    for (int64_t k = thread_index(); k < count; k += kThreads) own = plus(own, sums[k]);
    const TripletSum sum = block_sum<kThreads>(own);
    const bool divides = reduction == Reduction::kMean || reduction == Reduction::kMeanNonzero;
    // Where the divisor is 0, so is the loss, unless it is NaN.
    const double total = !divides ? sum.total : sum.divisor == 0 ? sum.total * 0 : sum.total / sum.divisor;
    if (block_index() == 0 && thread_index() == 0) *loss = static_cast<T>(total);
    if (!divides) return;
    const Walk walk = walk_by_thread<ReduceTriplets>();
    for (int64_t i = walk.first; i < t; i += walk.stride)
      slopes[i] = sum.divisor == 0 ? slopes[i] * 0 : slopes[i] / sum.divisor;
  }
};

// Gradients of all three rows in one read of them; the formulas are in cpu/kernels/fork-inl.h. A warp takes a triplet's
// next kColumns entries.
template <typename Kind, typename T>
struct GradientOfTriplets {
  static constexpr int kThreads = 128, kMinBlocks = 1, kEntries = 4, kColumns = kEntries * kWarp;
  DeviceTriplets<T> triplets;
  TripletValues<const double> values;
  const T* upstream;  // [T] or []
  bool per_triplet;
  T* gradients[kRoles];  // [T, D] each, null where it is not wanted

  FT_DEVICE void operator()() const {
    const int64_t parts = (triplets.d + kColumns - 1) / kColumns;
    const Walk walk = walk_by_warp<GradientOfTriplets>();
    for (int64_t unit = walk.first; unit < triplets.t * parts; unit += walk.stride)
      differentiate(unit / parts, unit % parts * kColumns + lane_index());
  }

 private:
  // Of the hub, which both distances share, and of the two ends: to these by weights, and for cosine by how far the
  // edges shorten a row.
  struct Fork {
    int roles[kRoles];
    double weights[2], shrink[2], factors[kRoles];
  };

  FT_DEVICE void differentiate(int64_t i, int64_t column) const {
    const int64_t d = triplets.d, t = triplets.t;
    const double slope = values.slopes[i] * static_cast<double>(upstream[per_triplet ? i : 0]);
    // The hub is the anchor, or the positive where its distance to the negative was swapped in.
    const bool swapped = values.swapped != nullptr && values.swapped[i] != 0;
    const double distances[2] = {values.to_positive[i], values.to_negative[i]};
    Fork fork = {{swapped ? kPositive : kAnchor, swapped ? kAnchor : kPositive, kNegative}, {}, {}, {1, 1, 1}};
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      fork.weights[e] = edge_weight(triplets.distance, e == 0 ? slope : -slope, distances[e]);
      fork.shrink[e] = fork.weights[e] * distances[e];
    }
    const bool pulls = slope != 0;  // else nothing to read: most triplets of a trained network are here
    const T* rows[kRoles];
    T* out[kRoles];
#pragma unroll
    for (int k = 0; k < kRoles; ++k) {
      rows[k] = triplets.rows[fork.roles[k]] + i * d + column;
      out[k] = gradients[fork.roles[k]] == nullptr ? nullptr : gradients[fork.roles[k]] + i * d + column;
      if (Kind::kNormalised && pulls) fork.factors[k] = values.factors[fork.roles[k] * t + i];
    }
    T entries[kEntries][kRoles] = {};  // all on their way before the first is used
    if (pulls)
#pragma unroll
      for (int q = 0; q < kEntries; ++q)
#pragma unroll
        for (int k = 0; k < kRoles; ++k)
          if (column + q * kWarp < d) entries[q][k] = rows[k][q * kWarp];
#pragma unroll
    for (int q = 0; q < kEntries; ++q) {
      if (column + q * kWarp >= d) continue;
      double gradient[kRoles] = {};
      if (pulls) gradient_at(fork, entries[q], gradient);
#pragma unroll
      for (int k = 0; k < kRoles; ++k)
        if (out[k] != nullptr) out[k][q * kWarp] = static_cast<T>(gradient[k]);
    }
  }

  static FT_DEVICE void gradient_at(const Fork& fork, const T (&entries)[kRoles], double (&gradient)[kRoles]) {
    const double w = fork.weights[0], v = fork.weights[1];
    double h = static_cast<double>(entries[0]), x = static_cast<double>(entries[1]),
           y = static_cast<double>(entries[2]);
    if constexpr (Kind::kProduct) {
      gradient[0] = -(w * x + v * y);
      gradient[1] = -w * h;
      gradient[2] = -v * h;
    } else {
      if constexpr (Kind::kNormalised) {
        h = h * fork.factors[0];
        x = x * fork.factors[1];
        y = y * fork.factors[2];
      }
      const double to_x = w * (h - x), to_y = v * (h - y);
      gradient[0] = to_x + to_y;
      gradient[1] = -to_x;
      gradient[2] = -to_y;
      if constexpr (Kind::kNormalised) {
        gradient[0] = (gradient[0] - (fork.shrink[0] + fork.shrink[1]) * h) * fork.factors[0];
        gradient[1] = (gradient[1] - fork.shrink[0] * x) * fork.factors[1];
        gradient[2] = (gradient[2] - fork.shrink[1] * y) * fork.factors[2];
      }
    }
  }
};

}  // namespace fasttriplet::cuda
