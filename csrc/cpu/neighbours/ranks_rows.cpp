#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/neighbours/ranked.h"
#include "cpu/neighbours/ranks.h"
#include "cpu/scan/beyond.h"
#include "cpu/scan/refine.h"
#include "cpu/scan/scan.h"

namespace fasttriplet::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Negatives before each positive of an anchor, from its row of keys.
template <typename T>
class RowCounter {
 public:
  explicit RowCounter(Picker<T>& picker) : picker_(picker) {}

  // `before` [positives]. Keys must be those of negatives alone.
  void count(const Query& query, const std::vector<Neighbour>& positives, std::vector<int64_t>& before) {
    const auto count = static_cast<int64_t>(positives.size());
    before.assign(count, 0);
    const bool numbers = std::all_of(positives.begin(), positives.end(),
                                     [](const Neighbour& positive) { return std::isfinite(positive.score); });
    if (!numbers)
      by_scores(query, positives, before);
    else if (count <= kFewThresholds)
      by_passes(query, positives, before);
    else
      by_places(query, positives, before);
  }

 private:
  Neighbour negative(const Query& query, int32_t column) const {
    const Pick pick = picker_.pick_of(query, column);
    return {pick.score, pick.candidate};
  }

  // Some positives at a time: a pass counts what is surely before each and finds what is unsure.
  void by_passes(const Query& query, const std::vector<Neighbour>& positives, std::vector<int64_t>& before) {
    const AnchorKeys& keys = query.keys;
    int64_t scored = 0;
    for (size_t first = 0; first < positives.size(); first += kWindows) {
      const int count = static_cast<int>(std::min<size_t>(kWindows, positives.size() - first));
      KeyWindow windows[kWindows];
      for (int w = 0; w < count; ++w) {
        const AnchorKeys::Above above = keys.above(positives[first + w].score);
        windows[w] = {above.perhaps, above.surely};
      }
      const int64_t found =
          keys.kernels->collect(keys.row(), windows, count, query.found.data(), before.data() + first);
      scored += found;
      rows_.resize(found);
      scores_.resize(found);
      for (int64_t k = 0; k < found; ++k) rows_[k] = picker_.row_of(query.found[k]);
      picker_.score_rows(query.anchor, rows_.data(), found, scores_.data());
      for (int64_t k = 0; k < found; ++k) {
        const Neighbour unsure = {scores_[k], picker_.candidate_of(query.found[k])};
        for (int w = 0; w < count; ++w)
          before[first + w] += in_window(keys, query.found[k], windows[w]) && unsure < positives[first + w];
      }
    }
    picker_.count_work(static_cast<int64_t>(positives.size()), scored);
  }

  // Each key finds its place among the positives by equal steps over their range.
  void by_places(const Query& query, const std::vector<Neighbour>& positives, std::vector<int64_t>& before) {
    constexpr int64_t kStepsPerPositive = 2, kMostSteps = 1 << 20;
    const AnchorKeys& keys = query.keys;
    const auto count = static_cast<int64_t>(positives.size());
    sure_.assign(count + ThresholdSteps::kUsual, std::numeric_limits<float>::quiet_NaN());
    perhaps_.resize(count);
    for (int64_t at = 0; at < count; ++at) {
      const AnchorKeys::Above above = keys.above(positives[at].score);
      sure_[at] = above.surely;
      perhaps_[at] = above.perhaps;
    }
    const auto steps = static_cast<int32_t>(std::min(kStepsPerPositive * count, kMostSteps));
    const float low = sure_[0], last = static_cast<float>(steps - 1);
    const float range = sure_[count - 1] - low, per_unit = range > 0 && range < kInfinity ? last / range : 0.0f;
    const bool usable = std::isfinite(per_unit);  // of a range that is hardly one it is not
    step_begin_.assign(steps + 1, 0);
    for (int64_t at = 0; at < count; ++at) {
      const float place = (sure_[at] - low) * (usable ? per_unit : 0.0f);
      ++step_begin_[(place > 0 ? static_cast<int32_t>(std::min(place, last)) : 0) + 1];
    }
    for (int32_t step = 0; step < steps; ++step) step_begin_[step + 1] += step_begin_[step];
    const auto room = static_cast<size_t>(keys.count) + kPadding;
    if (below_.size() < room) {
      below_.resize(room);
      lower_.resize(room);
      upper_.resize(room);
    }
    nearest_.assign(count + 1, kInfinity);
    const KeyWindow window = {-kInfinity, sure_[count - 1]};
    const int64_t placed = keys.kernels->place(
        keys.row(), 1, window, {sure_.data(), step_begin_.data(), low, usable ? per_unit : 0.0f, last, nullptr},
        {query.found.data(), below_.data(), lower_.data(), upper_.data(), nearest_.data()});
    int64_t scored = 0;
    for (int64_t k = 0; k < placed; ++k) {
      int64_t at = below_[k];
      if (at < count && upper_[k] >= perhaps_[at]) {
        at = positives_before(positives.data(), at, count, negative(query, query.found[k]));
        ++scored;
      }
      if (at < count) ++before[at];
    }
    for (int64_t at = 1; at < count; ++at) before[at] += before[at - 1];
    picker_.count_work(count, scored);
  }

  // Of distances that overflow: keys say nothing.
  void by_scores(const Query& query, const std::vector<Neighbour>& positives, std::vector<int64_t>& before) {
    const auto count = static_cast<int64_t>(positives.size());
    for (int32_t column = 0; column < query.keys.count; ++column) {
      if (std::isnan(query.keys.keys[column])) continue;
      const int64_t at = positives_before(positives.data(), 0, count, negative(query, column));
      if (at < count) ++before[at];
    }
    for (int64_t at = 1; at < count; ++at) before[at] += before[at - 1];
  }

  static constexpr size_t kPadding = 64;  // the kernels write whole vectors

  Picker<T>& picker_;
  std::vector<float> sure_, perhaps_, lower_, upper_, nearest_;
  std::vector<int32_t> step_begin_, below_, rows_;
  std::vector<double> scores_;
};

}  // namespace

template <typename T>
void rank_by_rows(const Batch<T>& batch, const RankTask& task) {
  const Pairing& pairing = task.pairing;
  Picker<T> picker(batch, task.survey, pairing);
  const ExactScore<T> score(batch, task.survey.factors);
  refine(batch, task.survey, pairing, picker, threshold_tier(batch.tier), task.parallel,
         [&](const Scan<T>& scan, const FineEnough& fine_enough) {
           return scan.run([&](const Strip& strip) {
             OwnColumns own;
             RowCounter<T> counter(picker);
             RankedPositives<T> ranked(pairing, score);
             std::vector<int64_t> before;
             for (int64_t r = 0; r < strip.count; ++r) {
               const int64_t anchor = strip.rows[r];
               if (task.positives[anchor] == 0) continue;
               AnchorKeys keys = strip.keys_of(r);
               Query query{anchor, keys, strip.found, own};
               picker.leave_own_copies(query);
               picker.leave_negatives(query);
               const std::vector<Neighbour>& positives = ranked.of(anchor);
               counter.count(query, positives, before);
               summarise(before.data(), task.positives[anchor], task.relevant[anchor], task.candidates[anchor],
                         task.options, task.table + anchor * task.options.columns());
               if (!fine_enough()) return false;
             }
             return true;
           });
         });
}

template void rank_by_rows(const Batch<float>&, const RankTask&);
template void rank_by_rows(const Batch<double>&, const RankTask&);

}  // namespace fasttriplet::cpu
