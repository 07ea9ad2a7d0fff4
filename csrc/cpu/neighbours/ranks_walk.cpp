#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>

#include "cpu/neighbours/ranked.h"
#include "cpu/neighbours/ranks.h"
#include "cpu/neighbours/walk.h"
#include "cpu/rows/prepare.h"

namespace fasttriplet::cpu {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The positives of all anchors, nearest first, and how many negatives have been met between each and the one before.
struct AllPositives {
  std::vector<int64_t> begin;  // [anchors + 1]
  std::vector<Neighbour> positives;
  std::vector<int64_t> before;  // [positives]

  int64_t count(int64_t anchor) const { return begin[anchor + 1] - begin[anchor]; }
};

// Counts each hit at the first positive that it is before.
template <typename T>
class RankConsumer : public HitConsumer {
 public:
  // Places of anchors and candidates are rows of the batch by `row_at`.
  RankConsumer(const Walked& walked, const std::vector<int32_t>& row_at, const Batch<T>& batch, const RankTask& task,
               AllPositives& all, bool may_give_up)
      : walked_(walked),
        row_at_(row_at),
        pairing_(task.pairing),
        score_(batch, task.survey.factors),
        all_(all),
        keys_(all.positives.size()),
        bounds_(walked.anchors, -kInfinity),
        left_(may_give_up ? kMostScored * walked.anchors + walked.anchors * walked.candidates / kScoredShare
                          : std::numeric_limits<int64_t>::max()) {
    for (int64_t place = 0; place < walked.anchors; ++place) {
      const int64_t anchor = row_at[place];
      for (int64_t at = all.begin[anchor]; at < all.begin[anchor + 1]; ++at) {
        keys_[at] = key_of(walked.prepared, batch.distance, place, all.positives[at].score);
        bounds_[place] = std::max(bounds_[place], std::isfinite(keys_[at]) ? above(keys_[at]) : kInfinity);
      }
    }
  }

  void load(int64_t begin, int64_t end, double* bounds) const override {
    std::copy(bounds_.begin() + begin, bounds_.begin() + end, bounds);
  }
  void look(std::vector<Hit>& hits) override {  // leaves those before some positive, that one for the candidate
    int64_t scored = 0;
    size_t kept = 0;
    for (const Hit& hit : hits) {
      const int64_t anchor = row_at_[hit.anchor], first = all_.begin[anchor], count = all_.count(anchor);
      const int64_t candidate = row_at_[hit.candidate] - pairing_.first_candidate();
      if (pairing_.role(anchor, pairing_.columns().class_of[candidate]) != Role::kNegative) continue;
      if (pairing_.is_own(anchor, candidate)) continue;
      const double upper =
          hit.lower + walked_.terms[hit.anchor].anchor_slack + walked_.terms[hit.candidate].candidate_slack;
      // Surely behind `from` of the positives, surely before those from `to` on. What is not known is neither.
      int64_t from = 0, to = count;
      while (from < count && above(keys_[first + from]) < hit.lower) ++from;
      while (to > from && below(keys_[first + to - 1]) > upper) --to;
      if (from < to) {
        from = positives_before(all_.positives.data() + first, from, to,
                                {score_(anchor, row_at_[hit.candidate]), candidate});
        ++scored;
      }
      if (from < count) hits[kept++] = {hit.anchor, static_cast<int32_t>(from), 0};
    }
    hits.resize(kept);
    left_ -= scored;
  }
  bool merge(const std::vector<Hit>& hits) override {
    for (const Hit& hit : hits) ++all_.before[all_.begin[row_at_[hit.anchor]] + hit.candidate];
    return left_ >= 0;
  }

 private:
  static constexpr int64_t kMostScored = 64, kScoredShare = 256;
  static constexpr double kScoreRounding = 0x1p-40;  // of a score in float64, as a share of it, and much more
  static double above(double key) { return key + kScoreRounding * std::fabs(key); }
  static double below(double key) { return key - kScoreRounding * std::fabs(key); }

  const Walked& walked_;
  const std::vector<int32_t>& row_at_;
  const Pairing& pairing_;
  const ExactScore<T> score_;
  AllPositives& all_;
  std::vector<double> keys_;    // [positives]
  std::vector<double> bounds_;  // [anchors] by place
  std::atomic<int64_t> left_;
};

template <typename T>
AllPositives all_positives(const Batch<T>& batch, const RankTask& task) {
  AllPositives all;
  const int64_t anchors = task.pairing.anchors();
  all.begin.assign(anchors + 1, 0);
  for (int64_t i = 0; i < anchors; ++i) all.begin[i + 1] = all.begin[i] + task.positives[i];
  all.positives.resize(all.begin[anchors]);
  const ExactScore<T> score(batch, task.survey.factors);
  const double operations = 3.0 * static_cast<double>(all.begin[anchors]) * static_cast<double>(batch.d);
  for_each_range(task.parallel, anchors, 64, operations, [&](int64_t first, int64_t last) {
    RankedPositives<T> ranked(task.pairing, score);
    for (int64_t i = first; i < last; ++i) {
      if (all.count(i) == 0) continue;
      const std::vector<Neighbour>& positives = ranked.of(i);
      std::copy(positives.begin(), positives.end(), all.positives.begin() + all.begin[i]);
    }
  });
  return all;
}

}  // namespace

template <typename T>
void rank_by_walk(const Batch<T>& batch, const RankTask& task) {
  const Pairing& pairing = task.pairing;
  AllPositives all = all_positives(batch, task);
  const std::vector<int32_t> columns = pairing.column_rows();
  // By kind, so that tiles within one are passed over.
  const bool by_kind = !pairing.has_references() && !pairing.kinds_have_negatives();
  std::vector<int32_t> anchor_rows;
  for (int64_t i = 0; i < pairing.anchors() && pairing.has_references(); ++i)
    if (task.positives[i] > 0) anchor_rows.push_back(static_cast<int32_t>(i));
  for (const Tier* tier = &batch.tier.for_depth(batch.d, batch.distance); tier != nullptr; tier = tier->finer) {
    const int64_t width = tier->layout.width;
    std::vector<int32_t> rows = anchor_rows;
    if (pairing.has_references()) rows.resize((rows.size() + width - 1) / width * width, rows[0]);
    const auto first_candidate = static_cast<int64_t>(rows.size());
    rows.insert(rows.end(), columns.begin(), columns.end());
    const auto anchors = static_cast<int64_t>(pairing.has_references() ? anchor_rows.size() : columns.size());
    const Prepared prepared =
        prepare_rows(batch, *tier, task.survey, rows, common_centre(batch, task.survey, rows), task.parallel);
    if (prepared.too_coarse) continue;
    std::vector<int32_t> classes = pairing.columns().representative_class;
    classes.resize(prepared.padded, std::numeric_limits<int32_t>::max());
    if (!by_kind) std::iota(classes.begin(), classes.end(), 0);
    std::vector<RowTerms> terms(rows.size());
    for (size_t place = 0; place < rows.size(); ++place)
      terms[place] = terms_of(prepared, batch.distance, static_cast<int64_t>(place), false);
    const Walked walked = {*tier, prepared, terms, anchors, first_candidate, static_cast<int64_t>(columns.size())};
    all.before.assign(all.positives.size(), 0);
    RankConsumer<T> consumer(walked, rows, batch, task, all, tier->finer != nullptr && prepared.scale != 0);
    if (walk_pairs(walked, classes.data(), consumer, task.parallel)) break;
  }
  for (int64_t i = 0; i < pairing.anchors(); ++i) {
    if (all.count(i) == 0) continue;
    int64_t* const before = all.before.data() + all.begin[i];
    std::partial_sum(before, before + all.count(i), before);
    summarise(before, all.count(i), task.relevant[i], task.candidates[i], task.options,
              task.table + i * task.options.columns());
  }
}

template void rank_by_walk(const Batch<float>&, const RankTask&);
template void rank_by_walk(const Batch<double>&, const RankTask&);

}  // namespace fasttriplet::cpu
