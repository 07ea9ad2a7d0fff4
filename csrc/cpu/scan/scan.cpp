#include "cpu/scan/scan.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>

#include "cpu/threads/scratch_pool.h"

namespace fasttriplet::cpu {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Keys of a strip: 4 MB stay in the outer caches, and a strip of several tiles reads each column's panel once for all.
// Of Intel's tiles, 32 rows high, two are better than one; more gain nothing.
constexpr int64_t kStripFloats = 1 << 20, kStripRows = 64;
static_assert(kStripRows % kTileRows == 0);

}  // namespace

template <typename T>
Scan<T>::Scan(const Batch<T>& batch, const Survey& survey, const std::vector<int32_t>& rows,
              const std::vector<int32_t>& columns, const Tier& tier, const Parallel& parallel)
    : batch_(batch), tier_(tier), parallel_(parallel), columns_(static_cast<int64_t>(columns.size())), rows_(rows) {
  const int64_t width = tier.layout.width;
  padded_columns_ = (columns_ + width - 1) / width * width;
  if (columns_ == 0 || rows_.empty()) return;
  std::vector<int32_t> source(columns);
  if (rows != columns) {  // else packed once
    source.resize(padded_columns_, source[0]);
    first_place_ = padded_columns_;
    source.insert(source.end(), rows_.begin(), rows_.end());
  }
  prepared_ = prepare_rows(batch, tier, survey, source, common_centre(batch, survey, source), parallel);
  terms_.resize(source.size());
  for (size_t place = 0; place < source.size(); ++place) {
    const RowNorms& row = prepared_.norms[place];
    terms_[place] = batch.distance == Distance::kInnerProduct
                        ? product_key_terms(row, prepared_.precision.kappa(), prepared_.product)
                        : difference_key_terms(row, prepared_.precision);
  }
  row_terms_.assign((rows_.size() + width - 1) / width * width, 0);
  for (size_t at = 0; at < rows_.size(); ++at) row_terms_[at] = static_cast<float>(terms_[first_place_ + at].term);
  column_terms_.assign(padded_columns_, kNan);
  widths_.assign(padded_columns_, 0);
  for (int64_t column = 0; column < columns_; ++column) {
    column_terms_[column] = static_cast<float>(terms_[column].term);
    // A scale of zero: nothing is known of any pair.
    widths_[column] = prepared_.scale == 0 ? kInfinity : float_above(terms_[column].candidate_width);
    widest_ = std::max(widest_, widths_[column]);
  }
}

template <typename T>
void Scan<T>::write_keys(int64_t begin, int64_t count, float* keys) const {
  StripTask strip;
  strip.panels = prepared_.view();
  strip.row_begin = first_place_ + begin;
  strip.rows = count;
  strip.column_begin = 0;
  strip.columns = padded_columns_;
  strip.row_terms = row_terms_.data() + begin;
  strip.column_terms = column_terms_.data();
  strip.keys = keys;
  tier_.scan.strip(strip);
}

template <typename T>
AnchorKeys Scan<T>::keys_of(int64_t at, float* keys) const {
  return {keys,
          widths_.data(),
          columns_,
          widest_,
          terms_[first_place_ + at],
          prepared_.product.centre_norm,
          prepared_.scale,
          batch_.distance,
          &tier_.scan};
}

template <typename T>
bool Scan<T>::run(int64_t first, int64_t last, const Visit& visit) const {
  const int64_t count = last - first;
  if (columns_ == 0 || count <= 0) return true;
  const int64_t height = tier_.scan.height;
  // With several threads few anchors are cut finer, so that all of them have tasks.
  const int64_t fit = kStripFloats / padded_columns_, share = count / (2 * parallel_.threads());
  const int64_t rows = std::clamp(std::min(fit, share) / height * height, height, kStripRows);
  const double operations =
      static_cast<double>(count) * static_cast<double>(padded_columns_) * static_cast<double>(prepared_.depth + 16) / 8;
  ScratchPool<ScanScratch> pool;
  std::atomic<bool> refused{false};
  for_each_task(parallel_, (count + rows - 1) / rows, operations, [&](int64_t task) {
    const int64_t begin = first + task * rows, end = std::min(begin + rows, last);
    if (refused.load(std::memory_order_relaxed)) return;
    std::unique_ptr<ScanScratch> taken = pool.take([] { return std::make_unique<ScanScratch>(); });
    ScanScratch& scratch = *taken;
    scratch.keys.resize((rows + height - 1) / height * height * padded_columns_);
    scratch.found.resize(padded_columns_);
    write_keys(begin, end - begin, scratch.keys.data());
    const std::function<AnchorKeys(int64_t)> keys_of_row = [&](int64_t r) {
      return keys_of(begin + r, scratch.keys.data() + r * padded_columns_);
    };
    const Strip visited = {rows_.data() + begin, end - begin,   begin,      scratch.keys.data(),
                           padded_columns_,      scratch.found, keys_of_row};
    if (!visit(visited)) refused = true;
    pool.give(std::move(taken));
  });
  return !refused;
}

template class Scan<float>;
template class Scan<double>;

}  // namespace fasttriplet::cpu
