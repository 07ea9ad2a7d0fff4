#include "cpu/neighbours/lists.h"

namespace fasttriplet::cpu {

// Whether there is room, and a use for a candidate of that lower key.
bool NearestLists::make_room(int64_t anchor, double lower) {
  Entry* const first = entries_.data() + anchor * room_;
  const double bound = bounds_[anchor];
  Entry* const last = std::remove_if(first, first + room_,
                                     [=](const Entry& entry) { return static_cast<double>(entry.lower) > bound; });
  counts_[anchor] = static_cast<int32_t>(last - first);
  if (4 * (room_ - counts_[anchor]) >= room_ - k_) return true;
  std::vector<Entry> entries(first, last);
  const bool known = settle_(anchor, entries);
  counts_[anchor] = static_cast<int32_t>(std::copy(entries.begin(), entries.end(), first) - first);
  if (!known) return true;
  float* const uppers = uppers_.data() + anchor * k_;
  std::transform(entries.begin(), entries.end(), uppers, [](const Entry& entry) { return entry.lower; });
  std::make_heap(uppers, uppers + k_);
  lower_bound(anchor, static_cast<double>(uppers[0]));
  return lower <= bounds_[anchor];
}

void NearestLists::replace_largest(float* uppers, float upper) const {
  int64_t hole = 0;
  for (int64_t child; (child = 2 * hole + 1) < k_; hole = child) {
    if (child + 1 < k_ && uppers[child + 1] > uppers[child]) ++child;
    if (!(uppers[child] > upper)) break;
    uppers[hole] = uppers[child];
  }
  uppers[hole] = upper;
}

}  // namespace fasttriplet::cpu
