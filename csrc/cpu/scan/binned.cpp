#include "cpu/scan/binned.h"

#include <cmath>
#include <limits>

namespace fasttriplet::cpu {
namespace {

constexpr int64_t kSample = 64;         // columns that the range of the bins is taken from
constexpr int64_t kColumnsPerBin = 2;   // fewer would be bins to go through, more columns
constexpr float kBeyondSample = 0.25f;  // of its range, at either end; the end bins take what is left

}  // namespace

// Steps between the second lowest and the second highest of a sample: one row far from all others, or near to all,
// must not make the rest one bin.
void BinnedKeys::choose_steps(int64_t count) {
  sample_.clear();
  const int64_t step = std::max<int64_t>(count / kSample, 1);
  for (int64_t j = 0; j < count; j += step)
    if (!std::isnan(keys_[j])) sample_.push_back(lower(static_cast<int32_t>(j)));
  std::sort(sample_.begin(), sample_.end());
  const size_t aside = sample_.size() > 8 ? 1 : 0;
  float low = 0, range = 0;
  if (!sample_.empty()) {
    low = sample_[aside];
    range = sample_[sample_.size() - 1 - aside] - low;
  }
  const float margin = kBeyondSample * range;
  low_ = low - margin;
  per_unit_ = (last_ + 1) / (range + 2 * margin);
  if (std::isfinite(low_) && std::isfinite(per_unit_)) return;
  low_ = 0;  // all in the first bin
  per_unit_ = 0;
}

void BinnedKeys::bin(const AnchorKeys& keys) {
  keys_ = keys.keys;
  widths_ = keys.widths;
  const int64_t count = keys.count, bins = std::clamp<int64_t>(count / kColumnsPerBin, 1, 1 << 20);
  last_ = static_cast<float>(bins - 1);
  choose_steps(count);
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  bins_.assign(bins, {0, kLowest});
  sorted_.assign(bins, 0);
  bin_of_.resize(count);
  for (int64_t j = 0; j < count; ++j) {
    const int32_t column = static_cast<int32_t>(j);
    if (std::isnan(keys_[j])) {
      bin_of_[j] = -1;
      continue;
    }
    const int32_t number = bin_of(lower(column));
    bin_of_[j] = number;
    Bin& bin = bins_[number];
    ++bin.end;
    bin.highest = std::max(bin.highest, upper(column));
  }
  int32_t before = 0;
  float highest = kLowest;
  for (Bin& bin : bins_) {  // where its columns begin, until they are put there
    const int32_t size = bin.end;
    bin.end = before;
    before += size;
    bin.highest = highest = std::max(highest, bin.highest);
  }
  columns_.resize(before);
  highest_.resize(before);
  for (int64_t j = 0; j < count; ++j)
    if (bin_of_[j] >= 0) columns_[bins_[bin_of_[j]].end++] = static_cast<int32_t>(j);
}

void BinnedKeys::sort(int32_t number) {
  const int32_t begin = begin_of(number), end = bins_[number].end;
  std::sort(columns_.begin() + begin, columns_.begin() + end,
            [&](int32_t a, int32_t b) { return lower(a) < lower(b); });
  float highest = -std::numeric_limits<float>::infinity();
  for (int32_t at = begin; at < end; ++at) highest_[at] = highest = std::max(highest, upper(columns_[at]));
  sorted_[number] = 1;
}

}  // namespace fasttriplet::cpu
