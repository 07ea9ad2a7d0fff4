#include "cpu/rows/groups.h"

#include <cstring>
#include <unordered_map>

namespace fasttriplet::cpu {
namespace {

// Finalizer of splitmix64: every bit of the key moves about half the bits of the hash.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

uint64_t bits_of(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// Numbers of things seen, by open addressing: slot(hash, same) is where a thing with `same(number)` lies or may be put.
class NumberTable {
 public:
  explicit NumberTable(int64_t capacity) {
    uint64_t size = 16;
    while (size < 2 * static_cast<uint64_t>(capacity)) size *= 2;
    slots_.assign(size, -1);
  }
  template <typename Same>
  int32_t& slot(uint64_t hash, Same&& same) {
    const uint64_t mask = slots_.size() - 1;
    for (uint64_t at = hash & mask;; at = (at + 1) & mask)
      if (slots_[at] < 0 || same(slots_[at])) return slots_[at];
  }

 private:
  std::vector<int32_t> slots_;
};

void group_by_label(const int64_t* labels, int64_t n, Groups& groups) {
  NumberTable table(n);
  std::vector<int64_t> label_of_class;
  std::vector<int32_t> sizes;
  groups.class_of.resize(n);
  for (int64_t i = 0; i < n; ++i) {
    int32_t& slot =
        table.slot(mix(static_cast<uint64_t>(labels[i])), [&](int32_t c) { return label_of_class[c] == labels[i]; });
    if (slot < 0) {
      slot = static_cast<int32_t>(label_of_class.size());
      label_of_class.push_back(labels[i]);
      sizes.push_back(0);
    }
    groups.class_of[i] = slot;
    ++sizes[slot];
  }
  groups.class_begin.assign(sizes.size() + 1, 0);
  for (size_t c = 0; c < sizes.size(); ++c) groups.class_begin[c + 1] = groups.class_begin[c] + sizes[c];
  std::vector<int32_t> next(groups.class_begin.begin(), groups.class_begin.end() - 1);
  groups.members.resize(n);
  for (int64_t i = 0; i < n; ++i) groups.members[next[groups.class_of[i]]++] = static_cast<int32_t>(i);
}

// A set of rows equal in value, and its two rows that may win as negatives.
struct Value {
  int32_t lowest;
  int32_t lowest_of_other_class;
};

template <typename T>
bool same_values(const T* x, const T* y, int64_t d) {
  for (int64_t k = 0; k < d; ++k)
    if (!(x[k] == y[k])) return false;
  return true;
}

}  // namespace

template <typename T>
Groups group_rows(const Batch<T>& batch, const int64_t* labels, const Survey& survey, EqualRows equal_rows) {
  Groups groups;
  const int64_t n = batch.n;
  group_by_label(labels, n, groups);

  // Pass 1, by index: the value of each row, and for each row the lowest row of the same value and class.
  NumberTable table(n);
  std::vector<Value> values;
  if (equal_rows == EqualRows::kMerged) values.reserve(n);
  std::vector<int32_t> leader(n, -1);
  std::unordered_map<uint64_t, int32_t>
      other_leaders;  // of (value, class), where the class is not that of the lowest row
  std::vector<int32_t> twin_of_row(n, -1);
  for (int64_t i = 0; i < n; ++i) {
    if (!survey.finite(i)) continue;
    if (equal_rows == EqualRows::kApart) {
      leader[i] = static_cast<int32_t>(i);
      continue;
    }
    const RowSurvey& mine = survey.rows[i];
    const uint64_t hash = mix(bits_of(mine.square) ^ mix(bits_of(mine.probe)));
    int32_t& slot = table.slot(hash, [&](int32_t v) {
      const RowSurvey& its = survey.rows[values[v].lowest];
      return its.square == mine.square && its.probe == mine.probe &&
             same_values(batch.row(values[v].lowest), batch.row(i), batch.d);
    });
    const int32_t row = static_cast<int32_t>(i);
    if (slot < 0) {
      slot = static_cast<int32_t>(values.size());
      values.push_back({row, -1});
      leader[i] = row;
      continue;
    }
    Value& value = values[slot];
    const int32_t c = groups.class_of[i];
    if (c == groups.class_of[value.lowest]) {
      leader[i] = value.lowest;
    } else {
      if (value.lowest_of_other_class < 0) value.lowest_of_other_class = row;
      const uint64_t key = static_cast<uint64_t>(slot) << 32 | static_cast<uint32_t>(c);
      leader[i] = other_leaders.try_emplace(key, row).first->second;
    }
    if (leader[i] != row && twin_of_row[leader[i]] < 0) twin_of_row[leader[i]] = row;
  }

  // Pass 2, by class: number the leaders.
  groups.representative_of.assign(n, -1);
  groups.representative_begin.reserve(groups.classes() + 1);
  groups.source.reserve(n);
  groups.twin.reserve(n);
  groups.representative_class.reserve(n);
  for (int32_t c = 0; c < groups.classes(); ++c) {
    groups.representative_begin.push_back(static_cast<int32_t>(groups.source.size()));
    for (int32_t at = groups.class_begin[c]; at < groups.class_begin[c + 1]; ++at) {
      const int32_t i = groups.members[at];
      if (leader[i] < 0) continue;
      if (leader[i] == i) {
        groups.representative_of[i] = static_cast<int32_t>(groups.source.size());
        groups.source.push_back(i);
        groups.twin.push_back(twin_of_row[i]);
        groups.representative_class.push_back(c);
      } else {
        groups.representative_of[i] = groups.representative_of[leader[i]];  // the leader is lower: already numbered
      }
    }
  }
  groups.representative_begin.push_back(static_cast<int32_t>(groups.source.size()));
  groups.may_be_negative.assign(groups.source.size(), equal_rows == EqualRows::kApart);
  for (const Value& value : values) {
    groups.may_be_negative[groups.representative_of[value.lowest]] = 1;
    if (value.lowest_of_other_class >= 0)
      groups.may_be_negative[groups.representative_of[value.lowest_of_other_class]] = 1;
  }
  return groups;
}

template Groups group_rows(const Batch<float>&, const int64_t*, const Survey&, EqualRows);
template Groups group_rows(const Batch<double>&, const int64_t*, const Survey&, EqualRows);

}  // namespace fasttriplet::cpu
