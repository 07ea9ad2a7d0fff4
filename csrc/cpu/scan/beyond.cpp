#include "cpu/scan/beyond.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/scan/bucket_sort.h"

namespace fasttriplet::cpu {
namespace {

// Columns linked to a threshold, on average, from which on it is less to score all of them and sort the scores.
constexpr size_t kLinks = 16;

// Steps over the thresholds' range: some a threshold, or one for some columns where thresholds are few.
constexpr size_t kStepsPerThreshold = 4, kMostSteps = 1 << 20, kColumnsPerStep = 6;

// Thresholds so few that what a part of the columns bounds leaves few of the others to be looked at.
bool few_among(size_t columns, size_t thresholds) { return columns >= 32 * thresholds; }

}  // namespace

template <typename T>
void NegativesBeyond<T>::clear() {
  anchors_.clear();
  questions_.clear();
  requests_.clear();
  links_.clear();
  twins_.clear();
}

// Where what an anchor has ends.
template <typename T>
typename NegativesBeyond<T>::Anchor NegativesBeyond<T>::end_of(int64_t place) const {
  if (place + 1 < static_cast<int64_t>(anchors_.size())) return anchors_[place + 1];
  return {-1, static_cast<int64_t>(questions_.size()), static_cast<int64_t>(links_.size()),
          static_cast<int64_t>(twins_.size()), How::kPasses};
}

template <typename T>
void NegativesBeyond<T>::ask(const Query& query, const std::vector<double>& thresholds) {
  const auto count = static_cast<int64_t>(thresholds.size());
  Anchor anchor = end_of(static_cast<int64_t>(anchors_.size()) - 1);
  anchor.row = query.anchor;
  anchors_.push_back(anchor);
  for (const double threshold : thresholds) questions_.push_back({threshold, {}});
  if (count <= kFewThresholds) {
    picker_.nearest_negatives(query, thresholds, picks_);
    for (int64_t at = 0; at < count; ++at) questions_[anchor.first_question + at].pick = picks_[at];
    return;
  }
  query.for_each_twin(Role::kNegative,
                      [&](int64_t twin) { twins_.push_back({twin, picker_.score_of(query.anchor, twin)}); });
  picker_.count_work(count, 0);
  const size_t first_request = requests_.size();
  anchors_.back().how = How::kLinks;
  if (find(query, anchor.first_question)) return;
  anchors_.back().how = How::kScores;
  requests_.resize(first_request);
  links_.resize(anchor.first_link);
}

// In ascending order: by equal steps over their range, in which a key finds its place too, and within a step by
// comparing.
template <typename T>
void NegativesBeyond<T>::list_thresholds(const AnchorKeys& keys, int64_t first_question) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  unsorted_.clear();
  float least = kInfinity, most = -kInfinity;
  for (int64_t at = first_question; at < static_cast<int64_t>(questions_.size()); ++at) {
    const double threshold = questions_[at].threshold;
    if (std::isnan(threshold)) continue;  // which nothing is above
    const AnchorKeys::Above above = keys.above(threshold);
    unsorted_.push_back({above.surely, above.perhaps, static_cast<int32_t>(at)});
    least = std::min(least, above.surely);
    most = std::max(most, above.surely);
  }
  const size_t count = unsorted_.size(), columns = static_cast<size_t>(keys.count);
  size_t steps = std::min(kStepsPerThreshold * count + 1, kMostSteps);
  if (few_among(columns, count)) steps = std::max(steps, columns / kColumnsPerStep);
  last_ = static_cast<float>(steps - 1);
  low_ = least;
  per_unit_ = last_ / (most - least);
  if (!std::isfinite(least) || !std::isfinite(most) || !std::isfinite(per_unit_)) low_ = per_unit_ = 0;  // one step
  step_of_.resize(count);
  for (size_t at = 0; at < count; ++at) step_of_[at] = step_of(unsorted_[at].sure);
  thresholds_.resize(count);
  place_by_bucket(step_of_, static_cast<int64_t>(steps), step_begin_,
                  [&](int32_t place, size_t at) { thresholds_[place] = unsorted_[at]; });
  // Both bounds never fall while thresholds rise.
  sort_nearly_sorted(thresholds_, [](const Threshold& a, const Threshold& b) {
    return a.sure < b.sure || (a.sure == b.sure && a.floor < b.floor);
  });
  sure_.assign(count + ThresholdSteps::kUsual, kNan);
  for (size_t at = 0; at < count; ++at) sure_[at] = thresholds_[at].sure;
}

// Places keys in the window, and limits the nearest that each threshold may have by them.
template <typename T>
int64_t NegativesBeyond<T>::place(const Query& query, int64_t step, const KeyWindow& window, const uint8_t* wanted) {
  const AnchorKeys& keys = query.keys;
  const int64_t placed =
      keys.kernels->place(keys.row(), step, window, {sure_.data(), step_begin_.data(), low_, per_unit_, last_, wanted},
                          {query.found.data(), below_.data(), lower_.data(), upper_.data(), nearest_.data()});
  float bound = std::numeric_limits<float>::infinity();
  for (size_t at = thresholds_.size(); at > 0; --at) {
    bound = std::min(bound, nearest_[at]);
    limits_[at] = keys.limit(bound);
  }
  limits_[0] = -std::numeric_limits<float>::infinity();
  return placed;
}

// Those in which the nearest negative of a threshold may lie. A few wide columns make them many, of all columns.
template <typename T>
void NegativesBeyond<T>::want_steps(const AnchorKeys& keys) {
  wanted_.assign(step_begin_.size() - 2, 0);
  const double width = 2.0 * keys.widest;
  int32_t next = 0;  // neither end of what a threshold wants ever falls
  for (size_t at = 0; at < thresholds_.size(); ++at) {
    const double floor = floors_[at], from = floor - width;  // of key - width
    const int32_t first = step_of(float_below(from - 0x1p-20 * (std::fabs(floor) + width)));
    const int32_t end = step_of(limits_[at + 1]) + 1;
    for (int32_t step = std::max(first, next); step < end; ++step) wanted_[step] = 1;
    next = std::max(next, end);
  }
}

// Asks for the scores of what may be the nearest; false where that is too much.
template <typename T>
bool NegativesBeyond<T>::find(const Query& query, int64_t first_question) {
  const AnchorKeys& keys = query.keys;
  list_thresholds(keys, first_question);
  if (thresholds_.empty()) return true;
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  const size_t count = thresholds_.size();
  // Of what is above every threshold only the nearest matter: once classes lie apart, that is most of all.
  float nearest_of_all;
  keys.kernels->smallest_above(keys.row(), 1, &thresholds_.back().sure, 1, &nearest_of_all);
  const KeyWindow window = {thresholds_.front().floor, keys.limit(nearest_of_all)};
  nearest_.assign(count + 1, kInfinity);
  const size_t columns = static_cast<size_t>(keys.count);
  if (below_.size() < columns) {
    for (std::vector<int32_t>* of_keys : {&below_, &kept_}) of_keys->resize(columns);
    for (std::vector<float>* of_keys : {&lower_, &upper_}) of_keys->resize(columns);
  }
  limits_.resize(count + 1);
  floors_.resize(count + 1);
  for (size_t at = 0; at < count; ++at) floors_[at] = thresholds_[at].floor;
  floors_[count] = kNan;
  const bool sampled = few_among(columns, count);
  if (sampled) {
    place(query, kSampleStep, window, nullptr);
    want_steps(keys);
  }
  const int64_t within = place(query, 1, window, sampled ? wanted_.data() : nullptr);
  int64_t kept = 0;
  for (int64_t k = 0; k < within; ++k) {
    kept_[kept] = static_cast<int32_t>(k);
    kept += (lower_[k] <= limits_[below_[k]]) | (upper_[k] >= floors_[below_[k]]);
  }
  const size_t most = links_.size() + kLinks * count + 4 * columns;
  for (int64_t at = 0; at < kept; ++at)
    if (!link(kept_[at], query.found[kept_[at]], most)) return false;
  return true;
}

// Key k, of a column, to the thresholds whose nearest negative it may be: some that it is above, and some that it
// perhaps is.
template <typename T>
bool NegativesBeyond<T>::link(int64_t k, int32_t column, size_t most) {
  const int32_t request = static_cast<int32_t>(requests_.size());
  requests_.push_back({static_cast<int32_t>(anchors_.size() - 1), column});
  for (int32_t at = below_[k]; at > 0 && lower_[k] <= limits_[at]; --at)
    links_.push_back({thresholds_[at - 1].question, request});
  for (size_t at = below_[k]; at < thresholds_.size() && upper_[k] >= floors_[at]; ++at)
    links_.push_back({thresholds_[at].question, request});
  return links_.size() <= most;
}

template <typename T>
void NegativesBeyond<T>::settle() {
  scored_.resize(requests_.size());
  order_.resize(requests_.size());
  int32_t columns = 0;
  for (const Request& request : requests_) columns = std::max(columns, request.column);
  block_end_.assign(columns / kScoredTogether + 1, 0);
  for (const Request& request : requests_) ++block_end_[request.column / kScoredTogether];
  int32_t before = 0;
  for (int32_t& end : block_end_) {
    const int32_t size = end;
    end = before;
    before += size;
  }
  for (size_t at = 0; at < requests_.size(); ++at)
    order_[block_end_[requests_[at].column / kScoredTogether]++] = static_cast<int32_t>(at);
  // Those of one anchor in a block follow each other.
  for (size_t first = 0, last; first < order_.size(); first = last) {
    const Request& request = requests_[order_[first]];
    block_rows_.clear();
    for (last = first; last < order_.size() && requests_[order_[last]].place == request.place; ++last)
      block_rows_.push_back(picker_.row_of(requests_[order_[last]].column));
    block_scores_.resize(block_rows_.size());
    picker_.score_rows(anchors_[request.place].row, block_rows_.data(), static_cast<int64_t>(block_rows_.size()),
                       block_scores_.data());
    for (size_t at = first; at < last; ++at)
      scored_[order_[at]] = {picker_.candidate_of(requests_[order_[at]].column), block_scores_[at - first]};
  }
  picker_.count_work(0, static_cast<int64_t>(requests_.size()));
}

template <typename T>
void NegativesBeyond<T>::answer(int64_t place, const Query& query, std::vector<Pick>& picks) {
  const Anchor &anchor = anchors_[place], end = end_of(place);
  const int64_t twins = end.first_twin - anchor.first_twin;
  const Pick* const own = twins_.data() + anchor.first_twin;
  picks.clear();
  for (int64_t at = anchor.first_question; at < end.first_question; ++at) picks.push_back(questions_[at].pick);
  const auto offer = [&](int64_t question, const Pick& pick) {
    if (!above(pick.score, questions_[question].threshold)) return;
    Pick& best = picks[question - anchor.first_question];
    if (best.candidate < 0 || goes_before(pick.score, pick.candidate, best.score, best.candidate)) best = pick;
  };
  if (anchor.how == How::kLinks) {
    for (int64_t at = anchor.first_link; at < end.first_link; ++at)
      offer(links_[at].question, scored_[links_[at].request]);
    for (int64_t at = anchor.first_question; at < end.first_question; ++at)
      for (int64_t twin = 0; twin < twins; ++twin) offer(at, own[twin]);
  } else if (anchor.how == How::kScores) {
    rank_all(query, twins, own);
    for (int64_t at = anchor.first_question; at < end.first_question; ++at) {
      const double threshold = questions_[at].threshold;
      const auto found = std::partition_point(ranked_.begin(), ranked_.end(),
                                              [&](const Pick& pick) { return !above(pick.score, threshold); });
      if (found != ranked_.end()) offer(at, *found);
    }
  }
}

// Scores of all negatives in order: then a threshold is a search.
template <typename T>
void NegativesBeyond<T>::rank_all(const Query& query, int64_t twins, const Pick* own) {
  ranked_.assign(own, own + twins);
  block_rows_.clear();
  for (int32_t column = 0; column < query.keys.count; ++column) {
    if (std::isnan(query.keys.keys[column])) continue;
    ranked_.push_back({picker_.candidate_of(column), 0});
    block_rows_.push_back(picker_.row_of(column));
  }
  const auto count = static_cast<int64_t>(block_rows_.size());
  block_scores_.resize(count);
  picker_.score_rows(query.anchor, block_rows_.data(), count, block_scores_.data());
  for (int64_t at = 0; at < count; ++at) ranked_[twins + at].score = block_scores_[at];
  picker_.count_work(0, count);
  const auto no_number = [](const Pick& pick) { return std::isnan(pick.score); };
  ranked_.erase(std::remove_if(ranked_.begin(), ranked_.end(), no_number), ranked_.end());
  std::sort(ranked_.begin(), ranked_.end(),
            [](const Pick& a, const Pick& b) { return goes_before(a.score, a.candidate, b.score, b.candidate); });
}

template class NegativesBeyond<float>;
template class NegativesBeyond<double>;

}  // namespace fasttriplet::cpu
