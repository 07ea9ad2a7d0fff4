// Who may be whose neighbour. Candidates that are equal in value and in what rules say of them are interchangeable but
// for their index: one representative stands for all in every search, as in cpu/rows/groups.h.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/rows/batch.h"
#include "cpu/rows/groups.h"

namespace fasttriplet::cpu {

// What a caller says of it; null where it says nothing. A pair of equal keys, neither below zero, is none.
struct NeighbourRules {
  const int64_t* self_indices = nullptr;    // [Q] the query's own copy among the references, -1 for none
  int64_t keys = 0;                         // K
  const int64_t* own_keys = nullptr;        // [K, Q]
  const int64_t* reference_keys = nullptr;  // [K, M], with references
  const uint8_t* reference_mask = nullptr;  // [M] 0: the reference is not there
};

struct Neighbour {
  double score;
  int64_t candidate;

  bool operator<(const Neighbour& other) const { return goes_before(score, candidate, other.score, other.candidate); }
};

class Candidates {
 public:
  // Queries are the batch's own rows; candidates its references, or its own rows.
  template <typename T>
  Candidates(const Batch<T>& batch, const Survey& survey, const NeighbourRules& rules);

  bool own() const { return own_; }  // the queries are the candidates
  int64_t queries() const { return queries_; }
  int64_t count() const { return static_cast<int64_t>(groups_.representative_of.size()); }
  int64_t representatives() const { return groups_.representatives(); }
  int32_t representative_of(int64_t candidate) const { return groups_.representative_of[candidate]; }  // -1: none
  // The lowest of a representative's candidates, as a candidate and as a row of the batch.
  int32_t lowest(int32_t representative) const { return groups_.source[representative]; }
  int32_t row_of(int32_t representative) const {
    return static_cast<int32_t>(first_candidate_) + groups_.source[representative];
  }
  bool all_apart() const { return count_members_ == representatives(); }  // each stands for one candidate

  bool has_keys() const { return rules_.keys > 0; }
  bool has_self_indices() const { return rules_.self_indices != nullptr; }
  // Whether no candidate of the representative may be a neighbour of the query, for its keys.
  bool barred(int64_t query, int32_t representative) const {
    const int64_t candidate = groups_.source[representative];
    const int64_t* const theirs = own_ ? rules_.own_keys : rules_.reference_keys;
    for (int64_t k = 0; k < rules_.keys; ++k) {
      const int64_t key = rules_.own_keys[k * queries_ + query];
      if (key >= 0 && key == theirs[k * count() + candidate]) return true;
    }
    return false;
  }
  // Whether the query itself is this candidate.
  bool is_self(int64_t query, int64_t candidate) const {
    return own_ ? query == candidate : has_self_indices() && rules_.self_indices[query] == candidate;
  }
  // Calls f(candidate), ascending, until it returns false.
  template <typename F>
  void for_each_member(int32_t representative, F&& f) const {
    for (int32_t at = member_begin_[representative]; at < member_begin_[representative + 1]; ++at)
      if (!f(int64_t{members_[at]})) return;
  }
  bool is_alone(int32_t representative) const {
    return member_begin_[representative + 1] - member_begin_[representative] == 1;
  }

 private:
  NeighbourRules rules_;
  bool own_;
  int64_t queries_, first_candidate_, count_members_ = 0;
  Groups groups_;  // of the candidates
  std::vector<int32_t> member_begin_, members_;
};

}  // namespace fasttriplet::cpu
