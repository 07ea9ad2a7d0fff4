// For each anchor the few candidates that its k nearest must be among.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "core/bound.h"

namespace fasttriplet::cpu {

// Bounded lists: what a full one cannot reject is settled by exact scores.
class NearestLists {
 public:
  struct Entry {
    int32_t candidate;  // place
    float lower;        // of its key; once that is settled an upper one, so that it bounds others
  };
  // Exact scores of an anchor's candidates decide: keeps the k nearest of the entries, in any order, each with its
  // exact key, rounded up, for `lower`. False where some key says nothing.
  using Settle = std::function<bool(int64_t anchor, std::vector<Entry>& entries)>;

  NearestLists(int64_t anchors, int64_t k, Settle settle)
      : k_(k),
        room_(k + std::max<int64_t>(kSpare, k / 3)),
        settle_(std::move(settle)),
        bounds_(anchors, std::numeric_limits<double>::infinity()),
        counts_(anchors, 0),
        entries_(anchors * room_),
        uppers_(anchors * k, std::numeric_limits<float>::infinity()) {}

  const double* bounds() const { return bounds_.data(); }
  double bound(int64_t anchor) const { return bounds_[anchor]; }
  void lower_bound(int64_t anchor, double bound) { bounds_[anchor] = std::min(bounds_[anchor], bound); }

  // A candidate that has not been offered before, with a key from `lower` to `upper`.
  void offer(int64_t anchor, int32_t candidate, double lower, double upper) {
    if (!(lower <= bounds_[anchor])) return;
    if (counts_[anchor] == room_ && !make_room(anchor, lower)) return;
    entries_[anchor * room_ + counts_[anchor]++] = {candidate, float_below(lower)};
    float* const uppers = uppers_.data() + anchor * k_;
    if (!(upper < static_cast<double>(uppers[0]))) return;
    replace_largest(uppers, float_above(upper));
    lower_bound(anchor, static_cast<double>(uppers[0]));
  }
  // Calls f(candidate) for what is left in the end.
  template <typename F>
  void for_each(int64_t anchor, F&& f) const {
    const Entry* const first = entries_.data() + anchor * room_;
    for (int32_t at = 0; at < counts_[anchor]; ++at)
      if (static_cast<double>(first[at].lower) <= bounds_[anchor]) f(first[at].candidate);
  }

 private:
  static constexpr int64_t kSpare = 22;

  bool make_room(int64_t anchor, double lower);
  void replace_largest(float* uppers, float upper) const;

  int64_t k_, room_;
  Settle settle_;
  std::vector<double> bounds_;  // [anchors] no key above it is among the k nearest
  std::vector<int32_t> counts_;
  std::vector<Entry> entries_;  // [anchors, room]
  std::vector<float> uppers_;   // [anchors, k] the smallest upper keys seen, the largest of them first: a heap
};

}  // namespace fasttriplet::cpu
