#include "cpu/neighbours/candidates.h"

#include <limits>
#include <map>

namespace fasttriplet::cpu {
namespace {

// Candidates with the same keys have the same number.
std::vector<int64_t> numbered(const int64_t* keys, int64_t count, int64_t m) {
  std::vector<int64_t> numbers(m, 0);
  if (count == 1) numbers.assign(keys, keys + m);
  if (count < 2) return numbers;
  std::map<std::vector<int64_t>, int64_t> seen;
  std::vector<int64_t> of_one(count);
  for (int64_t j = 0; j < m; ++j) {
    for (int64_t k = 0; k < count; ++k) of_one[k] = keys[k * m + j];
    numbers[j] = seen.emplace(of_one, static_cast<int64_t>(seen.size())).first->second;
  }
  return numbers;
}

}  // namespace

template <typename T>
Candidates::Candidates(const Batch<T>& batch, const Survey& survey, const NeighbourRules& rules)
    : rules_(rules),
      own_(batch.references == nullptr),
      queries_(batch.split),
      first_candidate_(own_ ? 0 : batch.split) {
  const int64_t m = batch.n - first_candidate_;
  Survey part;
  part.rows.assign(survey.rows.begin() + first_candidate_, survey.rows.end());
  for (int64_t j = 0; j < m; ++j)
    if (!own_ && rules.reference_mask != nullptr && rules.reference_mask[j] == 0)
      part.rows[j].largest = std::numeric_limits<double>::quiet_NaN();
  const Batch<T> candidates{batch.row(first_candidate_), m, batch.d, batch.distance, batch.tier};
  groups_ = group_rows(candidates, numbered(own_ ? rules.own_keys : rules.reference_keys, rules.keys, m).data(), part,
                       EqualRows::kMerged);
  member_begin_.assign(representatives() + 1, 0);
  for (const int32_t r : groups_.representative_of)
    if (r >= 0) ++member_begin_[r + 1];
  for (int64_t r = 0; r < representatives(); ++r) member_begin_[r + 1] += member_begin_[r];
  count_members_ = member_begin_.back();
  members_.resize(count_members_);
  std::vector<int32_t> next(member_begin_.begin(), member_begin_.end() - 1);
  for (int64_t j = 0; j < m; ++j)
    if (groups_.representative_of[j] >= 0) members_[next[groups_.representative_of[j]]++] = static_cast<int32_t>(j);
}

template Candidates::Candidates(const Batch<float>&, const Survey&, const NeighbourRules&);
template Candidates::Candidates(const Batch<double>&, const Survey&, const NeighbourRules&);

}  // namespace fasttriplet::cpu
