#include "cpu/neighbours/lists.h"

#include <algorithm>
#include <cmath>

namespace fasttriplet::cpu {
namespace {

// The upper key of an entry, a little above what its rounded lower one says.
double upper(const NearestLists::Entry& entry, const RowTerms& anchor, const RowTerms& candidate) {
  const double lower = static_cast<double>(entry.lower);
  return lower + 0x1p-22 * std::fabs(lower) + anchor.anchor_slack + candidate.candidate_slack;
}

}  // namespace

void NearestLists::offer(int64_t anchor, int32_t candidate, double lower) {
  if (!(lower <= bounds_[anchor])) return;
  if (counts_[anchor] == room_) {
    shrink(anchor);
    if (4 * (room_ - counts_[anchor]) < room_ - k_) {
      Entry* const first = entries_.data() + anchor * room_;
      std::vector<Entry> entries(first, first + counts_[anchor]);
      lower_bound(anchor, settle_(anchor, entries));
      counts_[anchor] = static_cast<int32_t>(entries.size());
      std::copy(entries.begin(), entries.end(), first);
    }
    if (!(lower <= bounds_[anchor])) return;
  }
  entries_[anchor * room_ + counts_[anchor]++] = {candidate, float_below(lower)};
}

void NearestLists::shrink(int64_t anchor) {
  Entry* const first = entries_.data() + anchor * room_;
  const int32_t count = counts_[anchor];
  if (count < k_) return;
  thread_local std::vector<double> uppers;
  uppers.resize(count);
  for (int32_t at = 0; at < count; ++at) uppers[at] = upper(first[at], terms_[anchor], terms_[first[at].candidate]);
  std::nth_element(uppers.begin(), uppers.begin() + (k_ - 1), uppers.end());
  lower_bound(anchor, uppers[k_ - 1]);
  const double bound = bounds_[anchor];
  int32_t kept = 0;
  for (int32_t at = 0; at < count; ++at)
    if (static_cast<double>(first[at].lower) <= bound) first[kept++] = first[at];
  counts_[anchor] = kept;
}

}  // namespace fasttriplet::cpu
