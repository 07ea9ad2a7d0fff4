#include "cpu/scan/beyond.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fasttriplet::cpu {
namespace {

// Columns looked at for a threshold, on average, from which on it is less to score all of them and sort the scores.
constexpr int64_t kLooks = 16;

constexpr int32_t kBlock = 32;  // columns whose rows stay in the first cache

}  // namespace

template <typename T>
void NegativesBeyond<T>::clear() {
  anchors_.clear();
  questions_.clear();
  found_.clear();
  requests_.clear();
  twins_.clear();
}

template <typename T>
void NegativesBeyond<T>::ask(const Query& query, const double* thresholds, int64_t count) {
  const int64_t first_question = static_cast<int64_t>(questions_.size());
  const int64_t first_found = static_cast<int64_t>(found_.size());
  anchors_.push_back({query.anchor, first_question, static_cast<int64_t>(twins_.size()), How::kPasses});
  for (int64_t at = 0; at < count; ++at) questions_.push_back({thresholds[at], first_found, {}});
  if (count <= kFewThresholds) {
    picker_.nearest_negatives(query, {thresholds, thresholds + count}, picks_);
    for (int64_t at = 0; at < count; ++at) questions_[first_question + at].pick = picks_[at];
    return;
  }
  query.for_each_twin(Role::kNegative,
                      [&](int64_t twin) { twins_.push_back({twin, picker_.score_of(query.anchor, twin)}); });
  How& how = anchors_.back().how;
  how = How::kBins;
  keys_.bin(query.keys);
  request_of_.resize(query.keys.count, -1);
  const size_t first_request = requests_.size();
  const int64_t most = kLooks * count + 4 * query.keys.count;
  for (int64_t at = first_question; at < first_question + count && how == How::kBins; ++at) {
    find(query, questions_[at].threshold);
    questions_[at].end = static_cast<int64_t>(found_.size());
    if (questions_[at].end - first_found > most) how = How::kScores;
  }
  for (size_t at = first_request; at < requests_.size(); ++at) request_of_[requests_[at].column] = -1;
  if (how == How::kBins) return;
  for (int64_t at = first_question; at < first_question + count; ++at) questions_[at].end = first_found;
  found_.resize(first_found);
  requests_.resize(first_request);
}

// Asks for the scores of what may be the nearest.
template <typename T>
void NegativesBeyond<T>::find(const Query& query, double threshold) {
  if (std::isnan(threshold)) return;
  const AnchorKeys& keys = query.keys;
  const float sure = keys.surely_above(threshold);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float bound = kInfinity, limit = kInfinity;
  near_.clear();
  keys_.for_each_between(keys.maybe_above(threshold), limit, [&](int32_t column) {
    const float key = keys.keys[column], width = keys.widths[column];
    near_.push_back(column);
    if (key - width >= sure && key + width < bound) {
      bound = key + width;
      limit = keys.limit(bound);
    }
    return limit;
  });
  for (const int32_t column : near_) {
    if (keys.keys[column] - keys.widths[column] > limit) continue;  // met before the limit came down
    int32_t& request = request_of_[column];
    if (request < 0) {
      request = static_cast<int32_t>(requests_.size());
      requests_.push_back({static_cast<int32_t>(anchors_.size() - 1), column});
    }
    found_.push_back(request);
  }
}

template <typename T>
void NegativesBeyond<T>::settle() {
  scored_.resize(requests_.size());
  order_.resize(requests_.size());
  block_end_.assign(request_of_.size() / kBlock + 1, 0);
  for (const Request& request : requests_) ++block_end_[request.column / kBlock];
  int32_t before = 0;
  for (int32_t& end : block_end_) {
    const int32_t size = end;
    end = before;
    before += size;
  }
  for (size_t at = 0; at < requests_.size(); ++at)
    order_[block_end_[requests_[at].column / kBlock]++] = static_cast<int32_t>(at);
  for (const int32_t at : order_) {
    const int64_t candidate = picker_.candidate_of(requests_[at].column);
    scored_[at] = {candidate, picker_.score_of(anchors_[requests_[at].place].row, candidate)};
  }
  picker_.count_work(static_cast<int64_t>(questions_.size()), static_cast<int64_t>(requests_.size()));
}

template <typename T>
void NegativesBeyond<T>::answer(int64_t place, const Query& query, std::vector<Pick>& picks) {
  const Anchor& anchor = anchors_[place];
  const auto end_of = [&](auto Anchor::*first, const auto& of) {
    return place + 1 < static_cast<int64_t>(anchors_.size()) ? anchors_[place + 1].*first : static_cast<int64_t>(of.size());
  };
  const int64_t first = anchor.first_question, last = end_of(&Anchor::first_question, questions_);
  const int64_t last_twin = end_of(&Anchor::first_twin, twins_);
  if (anchor.how == How::kScores) rank_all(query, last_twin - anchor.first_twin, twins_.data() + anchor.first_twin);
  picks.clear();
  for (int64_t at = first; at < last; ++at) {
    const double threshold = questions_[at].threshold;
    Pick best = questions_[at].pick;
    const auto offer = [&](const Pick& pick) {
      if (!above(pick.score, threshold)) return;
      if (best.candidate < 0 || goes_before(pick.score, pick.candidate, best.score, best.candidate)) best = pick;
    };
    if (anchor.how == How::kBins) {
      for (int64_t k = at == 0 ? 0 : questions_[at - 1].end; k < questions_[at].end; ++k) offer(scored_[found_[k]]);
      for (int64_t twin = anchor.first_twin; twin < last_twin; ++twin) offer(twins_[twin]);
    } else if (anchor.how == How::kScores && !std::isnan(threshold)) {
      const auto found = std::partition_point(ranked_.begin(), ranked_.end(),
                                              [&](const Pick& pick) { return !above(pick.score, threshold); });
      if (found != ranked_.end()) best = *found;
    }
    picks.push_back(best);
  }
}

// Scores of all negatives in order: then a threshold is a search.
template <typename T>
void NegativesBeyond<T>::rank_all(const Query& query, int64_t twins, const Pick* own) {
  ranked_.assign(own, own + twins);
  for (int32_t column = 0; column < query.keys.count; ++column)
    if (!std::isnan(query.keys.keys[column])) ranked_.push_back(picker_.pick_of(query, column));
  picker_.count_work(0, static_cast<int64_t>(ranked_.size()));
  const auto no_number = [](const Pick& pick) { return std::isnan(pick.score); };
  ranked_.erase(std::remove_if(ranked_.begin(), ranked_.end(), no_number), ranked_.end());
  std::sort(ranked_.begin(), ranked_.end(), [](const Pick& a, const Pick& b) {
    return goes_before(a.score, a.candidate, b.score, b.candidate);
  });
}

template class NegativesBeyond<float>;
template class NegativesBeyond<double>;

}  // namespace fasttriplet::cpu
