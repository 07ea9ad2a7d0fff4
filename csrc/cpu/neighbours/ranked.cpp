#include "cpu/neighbours/ranked.h"

#include <cmath>

#include "cpu/scan/bucket_sort.h"

namespace fasttriplet::cpu {

const std::vector<Neighbour>& SortedNeighbours::of(const std::vector<Neighbour>& unsorted) {
  constexpr size_t kFewest = 32;  // below, buckets cost more than they save
  const size_t count = unsorted.size();
  const bool usable = count >= kFewest && std::all_of(unsorted.begin(), unsorted.end(), [](const Neighbour& neighbour) {
                        return std::isfinite(neighbour.score);
                      });
  double least = 0, per_unit = 0;
  if (usable) {
    const auto range = std::minmax_element(unsorted.begin(), unsorted.end());
    least = range.first->score;
    per_unit = static_cast<double>(count - 1) / (range.second->score - least);
  }
  if (per_unit == 0 || !std::isfinite(per_unit)) {  // also of a range that is zero or overflows
    sorted_ = unsorted;
    std::sort(sorted_.begin(), sorted_.end());
    return sorted_;
  }
  bucket_of_.resize(count);
  for (size_t at = 0; at < count; ++at)
    bucket_of_[at] = std::min(static_cast<int32_t>((unsorted[at].score - least) * per_unit),
                              static_cast<int32_t>(count - 1));  // rounding may lead one beyond
  sorted_.resize(count);
  place_by_bucket(bucket_of_, static_cast<int64_t>(count), begin_,
                  [&](int32_t place, size_t at) { sorted_[place] = unsorted[at]; });
  sort_nearly_sorted(sorted_, [](const Neighbour& a, const Neighbour& b) { return a < b; });
  return sorted_;
}

}  // namespace fasttriplet::cpu
