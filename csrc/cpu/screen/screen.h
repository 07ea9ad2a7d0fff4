// The screen: one walk over the upper triangle that leaves each anchor with the few candidates its winner must be
// among.
//
// Two searches share the walk: the nearest negative of every anchor, and the farthest positive of anchors in classes
// too large to score pair by pair. Tasks are squares of blocks. Each works on its own copy of its anchors' thresholds
// and merges what it found under the blocks' locks.
//
// Which candidates end up in a list depends on timing. Which of them wins does not: a list always holds the winner
// (core/bound.h), and the winner is settled by exact scores.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "core/bound.h"
#include "cpu/kernels/tier.h"
#include "cpu/rows/prepare.h"
#include "cpu/threads/parallel.h"

namespace fasttriplet::cpu {

// Exact score of representatives a and b, and the row each stands for, to break ties.
struct Settler {
  std::function<double(int32_t a, int32_t b)> score;
  std::function<double(int32_t a, double score)> key;  // that belongs to a score of a, in the screen's units
  const int32_t* source;
};

struct Winner {
  int32_t candidate = -1;                                  // representative, -1 where there is none
  double score = std::numeric_limits<double>::infinity();  // times the search's sign
};

// Measured on 8192 random unit vectors an anchor is left with 1 candidate in float32 and int16, in bfloat16 1.5 at D =
// 128 and 5 at D = 2048, in int8 4 and, at D = 768, 11; before the nearest has been met there are more. A full list is
// settled on the spot.
inline constexpr int32_t kListLength = 32;

struct Anchor {
  double best;  // smallest upper bound seen; -infinity for rows that search nothing
  int32_t count = 0;
  int32_t scored = 0;  // exact scores taken
  int32_t candidates[kListLength];
  float lower[kListLength];
  Winner winner;  // of what has been settled
};

class Search {
 public:
  // sign +1 looks for the smallest score, -1 for the largest.
  Search(double sign, int64_t padded) : sign(sign), keys(padded, std::numeric_limits<float>::infinity()) {}
  void resize(int64_t rows);  // without it the search is empty and finds nothing
  bool empty() const { return anchors.empty(); }
  void set(int64_t row, const RowTerms& terms, bool is_anchor, bool is_candidate);

  // True where the anchor's list was full and had to be settled.
  bool offer(int64_t row, int32_t candidate, double lower, const Settler& settler);
  void settle(int64_t row, const Settler& settler);
  // A candidate of which the score is known.
  void take(int64_t row, int32_t candidate, double score, const Settler& settler);
  int64_t scored() const;  // exact scores taken for all anchors

  double sign;
  std::vector<float> keys;      // [padded M], +infinity for what is no candidate, padding among it
  std::vector<RowTerms> terms;  // [M]
  std::vector<Anchor> anchors;  // [M]
};

// Walks all pairs of `classes` [M], ascending, that a search which is not empty may want. Afterwards every anchor's
// list holds its winner. With `may_give_up` it returns false, early, once full lists have cost an anchor eight scores
// in the mean: then the products are too coarse for these rows.
bool run_screen(const Tier& tier, const Prepared& prepared, const std::vector<int32_t>& classes, Search& nearest,
                Search& farthest, const Settler& settler, const Parallel& parallel, bool may_give_up);

}  // namespace fasttriplet::cpu
