#include "cpu/scan/semi_hard.h"

#include <algorithm>

namespace fasttriplet::cpu {
template <typename T>
Pick SemiHardRule<T>::operator()(const Query& query, double threshold, const Pick& nearest) {
  const bool fits = nearest.candidate >= 0 && (!options_.within_margin || nearest.score < threshold + options_.margin);
  if (fits || options_.otherwise == Otherwise::kSkip) return fits ? nearest : Pick();
  if (!farthest_known_) farthest_ = picker_.farthest_negative(query);
  farthest_known_ = true;
  return farthest_;
}

template <typename T>
bool SemiHardMiner<T>::mine(const Strip& strip, const Visit& visit) {
  for (int64_t begin = 0, end; begin < strip.count; begin = end) {
    end = choose(strip, begin);
    score_positives();
    beyond_.clear();
    own_.resize(std::max<size_t>(own_.size(), end - begin));
    const auto for_each_query = [&](auto&& f) {
      for (int64_t r = begin; r < end; ++r) {
        AnchorKeys keys = strip.keys_of(r);
        Query query{strip.rows[r], keys, strip.found, own_[r - begin]};
        if (!f(query, r - begin)) return false;
      }
      return true;
    };
    for_each_query([&](Query& query, int64_t place) {
      picker_.leave_own_copies(query);
      picker_.leave_negatives(query);
      ask(query, first_of_[place]);
      return true;
    });
    beyond_.settle();
    const bool wanted = for_each_query([&](Query& query, int64_t place) {
      answer(query, place, first_of_[place]);
      return visit(static_cast<int32_t>(query.anchor), pairs_);
    });
    if (!wanted) return false;
  }
  return true;
}

// The anchors from `begin` on that are mined together; returns the end of them.
template <typename T>
int64_t SemiHardMiner<T>::choose(const Strip& strip, int64_t begin) {
  const Groups& columns = pairing_.columns();
  kinds_.clear();
  first_of_.clear();
  int64_t count = 0, r = begin;
  for (; r < strip.count && count < kQuestions; ++r) {
    first_of_.push_back(count);
    pairing_.for_each_positive_kind(strip.rows[r], [&](int32_t kind) {
      kinds_.push_back({kind, strip.rows[r], count});
      count += columns.representative_begin[kind + 1] - columns.representative_begin[kind];
    });
  }
  scores_.resize(count);
  return r;
}

template <typename T>
void SemiHardMiner<T>::score_positives() {
  const Groups& columns = pairing_.columns();
  std::stable_sort(kinds_.begin(), kinds_.end(), [](const Columns& a, const Columns& b) { return a.kind < b.kind; });
  for (size_t first = 0, last; first < kinds_.size(); first = last) {
    const int32_t kind = kinds_[first].kind, column = columns.representative_begin[kind];
    const int32_t size = columns.representative_begin[kind + 1] - column;
    for (last = first; last < kinds_.size() && kinds_[last].kind == kind;) ++last;
    for (int32_t begin = 0; begin < size; begin += kScoredTogether) {
      const int32_t count = std::min(kScoredTogether, size - begin);
      int32_t rows[kScoredTogether];
      for (int32_t k = 0; k < count; ++k) rows[k] = picker_.row_of(column + begin + k);
      for (size_t at = first; at < last; ++at)
        picker_.score_rows(kinds_[at].anchor, rows, count, scores_.data() + kinds_[at].first + begin);
    }
  }
}

template <typename T>
void SemiHardMiner<T>::ask(Query& query, int64_t first) {
  thresholds_.clear();
  for_each_threshold(query, first, [&](int32_t, double score) { thresholds_.push_back(score); });
  beyond_.ask(query, thresholds_);
}

template <typename T>
void SemiHardMiner<T>::answer(const Query& query, int64_t place, int64_t first) {
  beyond_.answer(place, query, picks_);
  rule_.begin();
  thresholds_.clear();
  threshold_of_column_.resize(pairing_.columns().representatives());
  for_each_threshold(query, first, [&](int32_t column, double score) {
    Pick& pick = picks_[thresholds_.size()];
    pick = rule_(query, score, pick);
    threshold_of_column_[column] = static_cast<int32_t>(thresholds_.size());
    thresholds_.push_back(score);
  });
  pairs_.clear();
  pairing_.for_each_positive(query.anchor, [&](int32_t candidate, int32_t column) {
    const int32_t at = threshold_of_column_[column];
    pairs_.push_back({candidate, thresholds_[at], picks_[at]});
  });
  // By kind so far; within a kind they ascend.
  const auto by_positive = [](const PositivePick& a, const PositivePick& b) { return a.positive < b.positive; };
  if (!std::is_sorted(pairs_.begin(), pairs_.end(), by_positive)) std::sort(pairs_.begin(), pairs_.end(), by_positive);
}

template class SemiHardRule<float>;
template class SemiHardRule<double>;
template class SemiHardMiner<float>;
template class SemiHardMiner<double>;

}  // namespace fasttriplet::cpu
