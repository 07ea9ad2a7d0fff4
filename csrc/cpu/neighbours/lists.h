// For each anchor the few candidates that its k nearest must be among.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "core/bound.h"

namespace fasttriplet::cpu {

// Bounded lists: what a full one cannot reject is settled by exact scores.
class NearestLists {
 public:
  struct Entry {
    int32_t candidate;  // place
    float lower;        // of its key
  };
  // Exact scores of an anchor's candidates decide: keeps the k nearest of the entries, in any order, each with its
  // exact key for `lower`, and returns the bound of the k-th.
  using Settle = std::function<double(int64_t anchor, std::vector<Entry>& entries)>;

  // `terms` by place.
  NearestLists(int64_t anchors, int64_t k, const std::vector<RowTerms>& terms, Settle settle)
      : k_(k),
        room_(k + std::max<int64_t>(kSpare, k / 3)),
        terms_(terms),
        settle_(std::move(settle)),
        bounds_(anchors, std::numeric_limits<double>::infinity()),
        counts_(anchors, 0),
        entries_(anchors * room_) {}

  double bound(int64_t anchor) const { return bounds_[anchor]; }
  const double* bounds() const { return bounds_.data(); }
  void lower_bound(int64_t anchor, double bound) { bounds_[anchor] = std::min(bounds_[anchor], bound); }

  void offer(int64_t anchor, int32_t candidate, double lower);
  // Makes use of what has come since; worth it once for some.
  void tighten(int64_t anchor) {
    if (counts_[anchor] >= k_ + kWorthwhile) shrink(anchor);
  }
  // Calls f(candidate) for what is left in the end.
  template <typename F>
  void for_each(int64_t anchor, F&& f) const {
    const Entry* const first = entries_.data() + anchor * room_;
    for (int32_t at = 0; at < counts_[anchor]; ++at)
      if (static_cast<double>(first[at].lower) <= bounds_[anchor]) f(first[at].candidate);
  }
  void shrink(int64_t anchor);

 private:
  static constexpr int64_t kSpare = 22, kWorthwhile = 6;

  int64_t k_, room_;
  const std::vector<RowTerms>& terms_;
  Settle settle_;
  std::vector<double> bounds_;  // [anchors] an upper key of the k-th nearest
  std::vector<int32_t> counts_;
  std::vector<Entry> entries_;  // [anchors, room]
};

}  // namespace fasttriplet::cpu
