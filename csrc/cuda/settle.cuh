// From the screen's candidates to the mined pairs, by exact scores; and the exact scan for anchors whose lists did not
// suffice. Equal scores go to the lowest row, so the answer does not depend on the order of the candidates, nor on how
// they are shared out among blocks.
#pragma once

#include "cuda/partners.cuh"
#include "cuda/prepare.cuh"
#include "cuda/score.cuh"

namespace fasttriplet::cuda {

// What a call mines.
struct Mined {
  int64_t* positives;  // [N], -1 where there is none
  int64_t* negatives;  // [N], likewise
  double* distances;   // [2, N] to the positive and to the negative, NaN where there is none
  int64_t* anchors;    // [N] the rows' own numbers, of triplets; else null
};

// Writes an anchor's pair. Where bad rows win, a row that is not finite is at distance NaN from every row, and NaN is
// the hardest of all: the lowest such row wins, and such a row itself takes the lowest of all.
template <typename Partners>
struct PairWriter {
  int64_t n;
  const uint64_t* labels;      // [N] by row
  const int32_t* order;        // [N] row at each position
  const uint8_t* finite;       // [N] by row
  const int32_t* begin;        // [N] classes by position
  const int32_t* end;          // [N]
  const Lowest* bad_of_class;  // [N]
  const State* state;
  Mined mined;
  Partners partners;

  // Whether the row at position c is a finite candidate of the anchor at position r.
  FT_DEVICE bool pairs(Search search, int64_t r, int64_t c) const {
    return r != c && (begin[r] == begin[c]) == (search == kFarthest) && finite[order[c]] != 0 &&
           partners.allows(search, r, c);
  }

  FT_DEVICE void write(Search search, int64_t position, Winner winner) const {
    const int64_t i = order[position];
    if (search == kFarthest) winner.score = -winner.score;
    const bool bad = state->bad_rows > 0;
    if constexpr (Partners::kBadRowsWin) {
      const int64_t hardest = !bad ? -1 : search == kNearest ? hardest_negative(i) : hardest_positive(position, i);
      if (hardest >= 0) winner = {hardest, not_a_number()};
    } else {
      if (bad) winner.score = not_a_number();
      if (search == kNearest) mined.anchors[i] = i;
    }
    (search == kNearest ? mined.negatives : mined.positives)[i] = winner.row;
    mined.distances[(search == kNearest ? n : 0) + i] = winner.row < 0 ? not_a_number() : winner.score;
  }

 private:
  FT_DEVICE int64_t hardest_positive(int64_t position, int64_t i) const {
    if (finite[i]) return bad_of_class[begin[position]].get(n);
    if (end[position] - begin[position] == 1) return -1;
    const int64_t first = order[begin[position]];  // the order is stable: the lowest of the class
    return first == i ? order[begin[position] + 1] : first;
  }
  FT_DEVICE int64_t hardest_negative(int64_t i) const {
    if (!finite[i]) return labels[0] == labels[i] ? state->other_class.get(n) : 0;
    const int64_t bad = state->bad.get(n);
    return labels[bad] == labels[i] ? state->bad_of_other_class.get(n) : bad;
  }
};

// A warp an anchor; its halves settle the two searches.
template <typename Kind, typename T, typename Partners = EveryPair>
struct SettleCandidates {
  static constexpr int kThreads = 128, kMinBlocks = 1;
  ExactRows<T> exact;
  PerSearch<Anchors> anchors;
  PairWriter<Partners> writer;
  PerSearch<int32_t*> left_over;  // [N] positions for the exact scan
  State* state;

  FT_DEVICE void operator()() const {
    const Walk walk = walk_by_warp<SettleCandidates>();
    const Search search = group_of_warp() == 0 ? kNearest : kFarthest;
    const Anchors& own = anchors[search];
    for (int64_t r = walk.first; r < writer.n; r += walk.stride) {
      const bool sufficient = !own.overflown[r];
      Winner winner = {-1, 0};
      if (warp_any(sufficient)) score_list(search, r, sufficient, winner);
      if (group_lane() != 0) continue;
      if (sufficient)
        writer.write(search, r, winner);
      else
        left_over[search][atomic_add(&state->listed[search], 1)] = static_cast<int32_t>(r);
    }
  }

 private:
  FT_DEVICE void score_list(Search search, int64_t r, bool wanted, Winner& winner) const {
    const Anchors& own = anchors[search];
    const uint32_t best = own.best[r];
    for (int begin = 0; begin < own.length; begin += kSlotsAtOnce) {
      uint64_t slots[kSlotsAtOnce];
      bool empty = true;
#pragma unroll
      for (int k = 0; k < kSlotsAtOnce; ++k) {
        slots[k] = own.slots[r * own.length + begin + k];
        empty = empty && slots[k] == kEmptySlot;
      }
      if (!warp_any(!empty)) return;  // and so are the slots behind
#pragma unroll
      for (int k = 0; k < kSlotsAtOnce; ++k)
        score_one(search, r, static_cast<uint32_t>(slots[k]), wanted && slots[k] >> 32 <= best, winner);
    }
  }

  // The anchor and the candidate at these positions. The whole warp must come.
  FT_DEVICE void score_one(Search search, int64_t r, int64_t c, bool wanted, Winner& winner) const {
    if (!warp_any(wanted)) return;
    const int64_t i = writer.order[r], j = wanted ? writer.order[c] : i;
    const double value = score<Kind>(exact, i, j);
    if (wanted) winner.meet(j, search == kNearest ? value : -value);
  }
};

// Every candidate's exact score for the anchors that are left: four anchors a block, four candidates a group of lanes.
// Where four anchors a block would leave multiprocessors idle, several blocks share out the candidates of the same
// anchors; the last of them to come takes the best of what they have found.
template <typename Kind, typename T, typename Partners = EveryPair>
struct ScanExactly {
  static constexpr int kThreads = 256, kMinBlocks = 1, kAnchors = 4, kCandidates = 4;
  static constexpr int kGroups = kThreads / kGroup;
  static constexpr int kSharedBytes = kGroups * kAnchors * static_cast<int>(sizeof(Winner));
  ExactRows<T> exact;
  PairWriter<Partners> writer;
  PerSearch<int32_t*> left_over;  // [N]
  const State* state;
  Winner* partial;    // [blocks, kAnchors]
  uint32_t* arrived;  // [blocks] by anchors' first block, zero at first

  // Candidates that a block is worth the trouble for: two steps.
  static constexpr int64_t kLeastCandidates = 2 * kGroups * kCandidates;

  FT_DEVICE void operator()() const {
    const int64_t nearest = (state->listed[kNearest] + kAnchors - 1) / kAnchors;
    const int64_t all = nearest + (state->listed[kFarthest] + kAnchors - 1) / kAnchors;
    if (all == 0) return;
    const int64_t useful = (writer.n + kLeastCandidates - 1) / kLeastCandidates, idle = block_count() / all;
    const int64_t shares = idle < 1 ? 1 : idle < useful ? idle : useful;
    for (int64_t unit = block_index(); unit < all * shares; unit += block_count()) {
      const int64_t four = unit / shares;
      if (four < nearest)
        scan(kNearest, four * kAnchors, four * shares, unit % shares, shares);
      else
        scan(kFarthest, (four - nearest) * kAnchors, four * shares, unit % shares, shares);
    }
  }

 private:
  // Four anchors from `first` on, and one share of their candidates; `base` is the first of `shares` places.
  FT_DEVICE void scan(Search search, int64_t first, int64_t base, int64_t share, int64_t shares) const {
    const int64_t count = state->listed[search];
    Winner(*const winners)[kAnchors] = reinterpret_cast<Winner(*)[kAnchors]>(shared_memory());
    int64_t position[kAnchors];
    Winner winner[kAnchors];
    int64_t begin = writer.n, end = 0;  // where candidates may lie
#pragma unroll
    for (int a = 0; a < kAnchors; ++a) {
      position[a] = left_over[search][first + a < count ? first + a : first];
      winner[a] = {-1, 0};
      const int64_t class_begin = writer.begin[position[a]], class_end = writer.end[position[a]];
      begin = class_begin < begin ? class_begin : begin;
      end = class_end > end ? class_end : end;
    }
    if (search == kNearest) {
      begin = 0;
      end = writer.n;
    }
    // In steps of the block, so that a warp stays together.
    constexpr int64_t kStep = kGroups * kCandidates;
    const int64_t steps = (end - begin + kStep - 1) / kStep, own_end = begin + steps * (share + 1) / shares * kStep;
    for (int64_t step = begin + steps * share / shares * kStep; step < own_end; step += kStep)
      score_candidates(search, position, step + (warp_index() * 2 + group_of_warp()) * kCandidates, end, winner);
    if (group_lane() == 0)
#pragma unroll
      for (int a = 0; a < kAnchors; ++a) winners[warp_index() * 2 + group_of_warp()][a] = winner[a];
    block_barrier();
    const int64_t a = thread_index();
    const bool writes = a < kAnchors && first + a < count;
    Winner best = {-1, 0};
    if (writes)
      for (int g = 0; g < kGroups; ++g) best.meet_if_any(winners[g][a]);
    if (shares > 1) {
      if (writes) partial[(base + share) * kAnchors + a] = best;
      if (!last_of_blocks(arrived + base, static_cast<uint32_t>(shares))) return;
      best = {-1, 0};
      if (writes)
        for (int64_t s = 0; s < shares; ++s) best.meet_if_any(partial[(base + s) * kAnchors + a]);
    }
    if (writes) writer.write(search, left_over[search][first + a], best);
    block_barrier();  // the winners are overwritten
  }

  FT_DEVICE void score_candidates(Search search, const int64_t (&position)[kAnchors], int64_t from, int64_t end,
                                  Winner (&winner)[kAnchors]) const {
    int64_t x[kAnchors], y[kCandidates];
#pragma unroll
    for (int a = 0; a < kAnchors; ++a) x[a] = writer.order[position[a]];
#pragma unroll
    for (int c = 0; c < kCandidates; ++c) y[c] = writer.order[from + c < writer.n ? from + c : writer.n - 1];
    double sum[kAnchors][kCandidates] = {};
    double x_factor[kAnchors], y_factor[kCandidates];
#pragma unroll
    for (int a = 0; a < kAnchors; ++a) x_factor[a] = exact.factor(x[a]);
#pragma unroll
    for (int c = 0; c < kCandidates; ++c) y_factor[c] = exact.factor(y[c]);
    for_entries_of_lane(exact.d, [&](int64_t k) {
      double x_entry[kAnchors], y_entry[kCandidates];
#pragma unroll
      for (int a = 0; a < kAnchors; ++a) x_entry[a] = static_cast<double>(exact.rows[x[a] * exact.d + k]);
#pragma unroll
      for (int c = 0; c < kCandidates; ++c) y_entry[c] = static_cast<double>(exact.rows[y[c] * exact.d + k]);
#pragma unroll
      for (int a = 0; a < kAnchors; ++a)
#pragma unroll
        for (int c = 0; c < kCandidates; ++c)
          sum[a][c] = sum[a][c] + score_term<Kind>(x_entry[a], y_entry[c], x_factor[a], y_factor[c]);
    });
#pragma unroll
    for (int a = 0; a < kAnchors; ++a)
#pragma unroll
      for (int c = 0; c < kCandidates; ++c) {
        const double value = score_of_sums<Kind>(sum[a][c], x_factor[a], y_factor[c]);
        if (from + c < end && writer.pairs(search, position[a], from + c))
          winner[a].meet(y[c], search == kNearest ? value : -value);
      }
  }
};

}  // namespace fasttriplet::cuda
