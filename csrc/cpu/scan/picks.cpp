#include "cpu/scan/picks.h"

#include <algorithm>
#include <limits>

namespace fasttriplet::cpu {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Columns put side by side: they lie in many short ranges where a row has several labels or a group.
struct GatheredKeys {
  std::vector<int32_t> columns;
  std::vector<float> keys, widths;

  void append(const AnchorKeys& from, int32_t begin, int32_t end) {
    for (int32_t column = begin; column < end; ++column) columns.push_back(column);
    keys.insert(keys.end(), from.keys + begin, from.keys + end);
    widths.insert(widths.end(), from.widths + begin, from.widths + end);
  }
  RowOfKeys row() const { return {keys.data(), widths.data(), static_cast<int64_t>(columns.size())}; }
};

}  // namespace

template <typename T>
void Picker<T>::leave_own_copies(Query& query) const {
  const Groups& columns = pairing_.columns();
  OwnColumns& own = query.own;
  own.columns.clear();
  own.alone.clear();
  own.twins.clear();
  pairing_.for_each_own(query.anchor, [&](int64_t copy) {
    if (pairing_.column_of(copy) >= 0) own.columns.push_back(pairing_.column_of(copy));
  });
  // Sorted: a sample may have thousands of copies, and be asked for each column.
  std::sort(own.columns.begin(), own.columns.end());
  size_t kept = 0;
  for (size_t at = 0; at < own.columns.size();) {
    const int32_t column = own.columns[at];
    const size_t first = at;
    while (at < own.columns.size() && own.columns[at] == column) ++at;
    own.columns[kept++] = column;
    query.keys.keys[column] = kNan;
    const bool nobody_else = static_cast<int64_t>(at - first) == pairing_.rows_of(column);
    const int64_t twin = nobody_else ? -1 : lowest_other(query.anchor, column);
    if (twin < 0)
      own.alone.push_back(column);
    else
      own.twins.push_back({twin, pairing_.role(query.anchor, columns.representative_class[column])});
  }
  own.columns.resize(kept);
}

// -1 where the column has nobody but own copies.
template <typename T>
int64_t Picker<T>::lowest_other(int64_t anchor, int32_t column) const {
  const Groups& columns = pairing_.columns();
  for (const int32_t lowest : {columns.source[column], columns.twin[column]})  // the two lowest, mostly enough
    if (lowest < 0 || !pairing_.is_own(anchor, lowest)) return lowest;
  const int32_t kind = columns.representative_class[column];
  for (int32_t at = columns.class_begin[kind]; at < columns.class_begin[kind + 1]; ++at) {
    const int32_t member = columns.members[at];
    if (columns.representative_of[member] == column && !pairing_.is_own(anchor, member)) return member;
  }
  return -1;
}

template <typename T>
void Picker<T>::leave_negatives(Query& query) const {
  const Groups& columns = pairing_.columns();
  float* const keys = query.keys.keys;
  pairing_.for_each_run_but_negatives(query.anchor, [&](int32_t begin, int32_t end) {
    std::fill(keys + columns.representative_begin[begin], keys + columns.representative_begin[end], kNan);
  });
  for (const int32_t column : pairing_.barred_negatives()) keys[column] = kNan;
}

template <typename T>
Pick Picker<T>::extreme_positive(Query& query, int sign) {
  const Groups& columns = pairing_.columns();
  AnchorKeys& keys = query.keys;
  Pick best;
  const auto offer = [&](const Pick& pick) {
    if (best.candidate < 0 || goes_before(sign * pick.score, pick.candidate, sign * best.score, best.candidate))
      best = pick;
  };
  const auto for_each_range = [&](auto&& f) {
    pairing_.for_each_positive_run(query.anchor, [&](int32_t begin, int32_t end) {
      f(columns.representative_begin[begin], columns.representative_begin[end]);
    });
  };
  int64_t total = 0;
  for_each_range([&](int32_t begin, int32_t end) { total += end - begin; });
  if (total <= kPairwiseClass) {
    for_each_range([&](int32_t begin, int32_t end) {
      for (int32_t column = begin; column < end; ++column)
        if (!query.own.holds(column)) offer(pick_of(query, column));
    });
  } else {
    RowOfKeys row = {};
    int32_t first = 0;
    GatheredKeys gathered;
    for_each_range([&](int32_t begin, int32_t end) {
      if (end - begin == total) {  // all lie side by side
        row = keys.row(begin, end);
        first = begin;
      } else {
        gathered.append(keys, begin, end);
      }
    });
    if (row.keys == nullptr) row = gathered.row();
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    KeyWindow window = {-kInfinity, kInfinity};
    if (sign > 0) {
      const float sure = -kInfinity;
      keys.kernels->smallest_above(row, 1, &sure, 1, &window.limit);
      window.limit = keys.limit(window.limit);
    } else {
      window.floor = keys.floor(keys.kernels->largest(row));
    }
    const int64_t found = keys.kernels->collect(row, &window, 1, query.found.data(), nullptr);
    for (int64_t k = 0; k < found; ++k)
      offer(pick_of(query, gathered.columns.empty() ? first + query.found[k] : gathered.columns[query.found[k]]));
    count_work(1, found);
  }
  query.for_each_twin(Role::kPositive, [&](int64_t twin) { offer({twin, score_of(query.anchor, twin)}); });
  return best;
}

template <typename T>
void Picker<T>::nearest_negatives(const Query& query, const std::vector<double>& thresholds, std::vector<Pick>& picks) {
  const AnchorKeys& keys = query.keys;
  const RowOfKeys row = keys.row();
  picks.assign(thresholds.size(), Pick());
  int64_t scored = 0;
  for (size_t first = 0; first < thresholds.size(); first += kWindows) {
    const int count = static_cast<int>(std::min<size_t>(kWindows, thresholds.size() - first));
    float sure[kWindows], bounds[kWindows];
    KeyWindow windows[kWindows];
    for (int w = 0; w < count; ++w) sure[w] = keys.surely_above(thresholds[first + w]);
    keys.kernels->smallest_above(row, row.count < kSampledColumns ? 1 : kSampleStep, sure, count, bounds);
    for (int w = 0; w < count; ++w) windows[w] = {keys.above(thresholds[first + w]).perhaps, keys.limit(bounds[w])};
    const int64_t found = keys.kernels->collect(row, windows, count, query.found.data(), nullptr);
    for (int w = 0; w < count; ++w) {
      for (int64_t k = 0; k < found; ++k) {
        const int32_t column = query.found[k];
        const float key = keys.keys[column], width = keys.widths[column];
        if (key - width >= sure[w]) bounds[w] = std::min(bounds[w], key + width);
      }
      windows[w].limit = keys.limit(bounds[w]);
    }
    const auto offer = [&](const Pick& pick, size_t w) {
      Pick& best = picks[first + w];
      const double threshold = thresholds[first + w];
      if (!above(pick.score, threshold)) return;
      if (best.candidate >= 0 && !goes_before(pick.score, pick.candidate, best.score, best.candidate)) return;
      best = pick;
      windows[w].limit = std::min(windows[w].limit, keys.surely_above(best.score));  // halves what is scored
    };
    for (int64_t k = 0; k < found; ++k) {
      Pick pick;
      for (int w = 0; w < count; ++w) {
        if (!in_window(keys, query.found[k], windows[w])) continue;
        if (pick.candidate < 0) {
          pick = pick_of(query, query.found[k]);
          ++scored;
        }
        offer(pick, w);
      }
    }
    query.for_each_twin(Role::kNegative, [&](int64_t twin) {
      for (int w = 0; w < count; ++w) offer({twin, score_of(query.anchor, twin)}, w);
    });
  }
  count_work(static_cast<int64_t>(thresholds.size()), scored);
}

template <typename T>
Pick Picker<T>::nearest_negative(const Query& query, double threshold) {
  std::vector<Pick> picks;
  nearest_negatives(query, {threshold}, picks);
  return picks[0];
}

template <typename T>
Pick Picker<T>::farthest_negative(const Query& query) {
  const AnchorKeys& keys = query.keys;
  const RowOfKeys row = keys.row();
  const KeyWindow window = {keys.floor(keys.kernels->largest(row)), std::numeric_limits<float>::infinity()};
  const int64_t found = keys.kernels->collect(row, &window, 1, query.found.data(), nullptr);
  Pick best;
  const auto offer = [&](const Pick& pick) {
    if (best.candidate < 0 || goes_before(-pick.score, pick.candidate, -best.score, best.candidate)) best = pick;
  };
  for (int64_t k = 0; k < found; ++k) offer(pick_of(query, query.found[k]));
  query.for_each_twin(Role::kNegative, [&](int64_t twin) { offer({twin, score_of(query.anchor, twin)}); });
  count_work(1, found);
  return best;
}

template class Picker<float>;
template class Picker<double>;

}  // namespace fasttriplet::cpu
