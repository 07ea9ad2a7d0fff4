#include "cpu/rows/pairing.h"

#include <limits>
#include <unordered_map>

namespace fasttriplet::cpu {
namespace {

// A row's labels and group as one number, equal where they are: numbered by first appearance.
class Kinds {
 public:
  explicit Kinds(const PairingInput& input) : input_(input) {}

  int64_t number(int64_t row) {
    if (input_.words == 1 && input_.groups == nullptr) return input_.labels[row];
    const uint64_t hashed = hash(row);
    const auto [first, last] = by_hash_.equal_range(hashed);
    for (auto at = first; at != last; ++at)
      if (same(at->second, row)) return at->second;
    by_hash_.emplace(hashed, row);
    return row;
  }

 private:
  uint64_t hash(int64_t row) const {
    // Multiplied: group and label xored would meet wherever they are alike.
    uint64_t mixed = input_.groups == nullptr ? 0 : static_cast<uint64_t>(input_.groups[row]) * 0x9e3779b97f4a7c15ULL;
    for (int64_t w = 0; w < input_.words; ++w)  // Fibonacci hashing, word by word
      mixed = (mixed ^ (mixed >> 29) ^ static_cast<uint64_t>(input_.labels[row * input_.words + w])) *
              0x9e3779b97f4a7c15ULL;
    return mixed;
  }
  bool same(int64_t a, int64_t b) const {
    for (int64_t w = 0; w < input_.words; ++w)
      if (input_.labels[a * input_.words + w] != input_.labels[b * input_.words + w]) return false;
    return input_.groups == nullptr || input_.groups[a] == input_.groups[b];
  }

  const PairingInput& input_;
  std::unordered_multimap<uint64_t, int64_t> by_hash_;  // to the first row of the kind
};

}  // namespace

template <typename T>
Pairing::Pairing(const Batch<T>& batch, const Survey& survey, const PairingInput& input, EqualRows equal_rows)
    : input_(input),
      has_references_(batch.references != nullptr),
      anchors_(batch.split),
      first_candidate_(has_references_ ? batch.split : 0),
      candidates_(batch.n - first_candidate_),
      plain_(!input.bit_masks && input.groups == nullptr) {
  takes_part_.resize(batch.n);
  for (int64_t i = 0; i < batch.n; ++i) {
    const bool ignored = input.ignored != nullptr && input.labels[i] == *input.ignored;
    const bool masked =
        i >= batch.split && input.reference_mask != nullptr && input.reference_mask[i - batch.split] == 0;
    takes_part_[i] = survey.finite(i) && !ignored && !masked;
    all_finite_ = all_finite_ && (ignored || masked || survey.finite(i));
  }
  if (input.sample_ids != nullptr) number_samples(batch.n);

  Kinds kinds(input);
  std::vector<int64_t> numbers(candidates_);
  Survey part;
  part.rows.assign(survey.rows.begin() + first_candidate_, survey.rows.end());
  for (int64_t j = 0; j < candidates_; ++j) {
    numbers[j] = kinds.number(first_candidate_ + j);
    if (!takes_part(first_candidate_ + j)) part.rows[j].largest = std::numeric_limits<double>::quiet_NaN();
  }
  const Batch<T> candidates{batch.row(first_candidate_), candidates_, batch.d, batch.distance, batch.tier};
  columns_ = group_rows(candidates, numbers.data(), part, equal_rows);

  if (input.sample_ids != nullptr) {
    column_rows_.assign(columns_.representatives(), 0);
    for (int64_t j = 0; j < candidates_; ++j)
      if (column_of(j) >= 0) ++column_rows_[column_of(j)];
  }

  std::unordered_map<int64_t, int32_t> class_of_number;
  members_.push_back(0);
  for (int32_t kind = 0; kind < columns_.classes(); ++kind) {
    const int64_t candidate = columns_.members[columns_.class_begin[kind]];
    class_of_number.emplace(numbers[candidate], kind);
    row_of_kind_.push_back(first_candidate_ + candidate);
    int64_t members = members_.back();
    for (int32_t at = columns_.class_begin[kind]; at < columns_.class_begin[kind + 1]; ++at)
      members += takes_part(first_candidate_ + columns_.members[at]);
    members_.push_back(members);
  }
  if (!plain_) index_ = KindIndex(input, anchors_, row_of_kind_);
  kind_of_.resize(anchors_);
  for (int64_t i = 0; i < anchors_; ++i) {
    if (!has_references_) {
      kind_of_[i] = columns_.class_of[i];
    } else {
      const auto found = class_of_number.find(kinds.number(i));
      kind_of_[i] = found == class_of_number.end() ? -1 : found->second;
    }
  }
  // Of several equal rows the lowest of another kind than the anchor's wins: with plain labels that is one of two.
  // Unless an own copy of yet another kind is among them.
  bool known = plain_;
  for (int64_t i = 0; i < anchors_ && known; ++i)
    for_each_own(i, [&](int64_t own) { known = known && columns_.class_of[own] == kind_of_[i]; });
  for (int64_t column = 0; column < columns_.representatives() && known; ++column)
    if (!columns_.may_be_negative[column]) barred_negatives_.push_back(static_cast<int32_t>(column));
}

void Pairing::number_samples(int64_t rows) {
  std::unordered_map<int64_t, int32_t> number_of_id;
  sample_of_.assign(rows, -1);
  for (int64_t i = 0; i < rows; ++i)
    if (input_.sample_ids[i] != -1)
      sample_of_[i] =
          number_of_id.emplace(input_.sample_ids[i], static_cast<int32_t>(number_of_id.size())).first->second;
  copies_begin_.assign(number_of_id.size() + 1, 0);
  for (int64_t i = first_candidate_; i < rows; ++i)
    if (sample_of_[i] >= 0) ++copies_begin_[sample_of_[i] + 1];
  for (size_t s = 1; s < copies_begin_.size(); ++s) copies_begin_[s] += copies_begin_[s - 1];
  copies_.resize(copies_begin_.back());
  std::vector<int32_t> next(copies_begin_.begin(), copies_begin_.end() - 1);
  for (int64_t i = first_candidate_; i < rows; ++i)
    if (sample_of_[i] >= 0) copies_[next[sample_of_[i]]++] = static_cast<int32_t>(i - first_candidate_);
}

Role Pairing::role(int64_t anchor, int32_t kind) const {
  const int64_t other = row_of_kind_[kind];
  const bool one_group = input_.groups != nullptr && input_.groups[anchor] == input_.groups[other];
  if (one_group && input_.groups_exclude == GroupsExclude::kPairs) return Role::kNone;
  const int64_t *a = input_.labels + anchor * input_.words, *b = input_.labels + other * input_.words;
  bool same = false;
  for (int64_t w = 0; w < input_.words; ++w) same = same || (input_.bit_masks ? (a[w] & b[w]) != 0 : a[w] == b[w]);
  if (same && one_group) return Role::kNone;
  return same ? Role::kPositive : Role::kNegative;
}

std::vector<int32_t> Pairing::column_rows() const {
  std::vector<int32_t> rows(columns_.source);
  for (int32_t& row : rows) row += static_cast<int32_t>(first_candidate_);
  return rows;
}

std::vector<int32_t> Pairing::anchor_rows() const {
  std::vector<int32_t> rows;
  for (int64_t i = 0; i < anchors_; ++i)
    if (takes_part(i)) rows.push_back(static_cast<int32_t>(i));
  const bool all_columns = !has_references_ && static_cast<int64_t>(rows.size()) == columns_.representatives();
  return all_columns ? columns_.source : rows;
}

int64_t Pairing::count(int64_t anchor, Role wanted) const {
  int64_t total = 0;
  if (wanted == Role::kPositive) {
    for_each_positive_run(anchor, [&](int32_t begin, int32_t end) { total += members_[end] - members_[begin]; });
  } else {
    total = members_.back();
    for_each_run_but_negatives(anchor, [&](int32_t begin, int32_t end) { total -= members_[end] - members_[begin]; });
  }
  for_each_own(anchor, [&](int64_t own) {
    if (column_of(own) >= 0 && role(anchor, columns_.class_of[own]) == wanted) --total;
  });
  return total;
}

template Pairing::Pairing(const Batch<float>&, const Survey&, const PairingInput&, EqualRows);
template Pairing::Pairing(const Batch<double>&, const Survey&, const PairingInput&, EqualRows);

}  // namespace fasttriplet::cpu
