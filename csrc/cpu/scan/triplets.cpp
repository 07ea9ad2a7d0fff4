#include "cpu/scan/triplets.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/isa/isa.h"
#include "cpu/scan/ranks.h"
#include "cpu/scan/scan.h"

namespace fasttriplet::cpu {
namespace {

// A screen that leaves this many columns a question is too coarse for these rows. In fixed point it is this share of
// the columns where that is more. A score takes the time of some fifty products of rows, and float32 takes those twice.
constexpr int64_t kCoarse = 16, kCoarseShare = 128;

// Questions an anchor up to which fixed point is the faster; measured at 8192 x 128 with 3 and with 15.
constexpr int64_t kFixedPointQuestions = 6;

}  // namespace

template <typename T>
TripletMiner<T>::TripletMiner(const Batch<T>& batch, const PairingInput& input, const MinerOptions& options,
                              const Parallel& parallel)
    : batch_(batch),
      parallel_(parallel),
      options_(options),
      survey_(survey_rows(batch, parallel)),
      // Ranks count every row; elsewhere equal rows of one kind are one column, or each of their ties would be scored.
      pairing_(batch, survey_, input, options.kind == MinerKind::kKHardest ? EqualRows::kApart : EqualRows::kMerged),
      picker_(batch, survey_, pairing_),
      first_triplet_(pairing_.anchors() + 1) {
  for (int64_t i = 0; i < pairing_.anchors(); ++i) {
    int64_t count = 1;
    if (options.kind == MinerKind::kSemiHard)
      count = pairing_.takes_part(i) ? pairing_.count(i, Role::kPositive) : 0;
    else if (options.kind == MinerKind::kKHardest)
      count = options.kth_only ? 1 : std::min(options.k, pairing_.candidates());
    first_triplet_[i + 1] = first_triplet_[i] + count;
  }
}

template <typename T>
void TripletMiner<T>::run(const TripletOutput& output) {
  const KeepDenormals mode;
  const int64_t t = triplets();
  for (int64_t i = 0; i < pairing_.anchors(); ++i)
    std::fill(output.anchors + first_triplet_[i], output.anchors + first_triplet_[i + 1], i);
  std::fill_n(output.positives, t, -1);
  std::fill_n(output.negatives, t, -1);
  std::fill_n(output.distances, 2 * t, std::numeric_limits<double>::quiet_NaN());
  const std::vector<int32_t> rows = pairing_.anchor_rows(), columns = pairing_.column_rows();
  const bool thresholds = options_.kind == MinerKind::kSemiHard || options_.kind == MinerKind::kEasyPositiveSemiHard ||
                          (options_.kind == MinerKind::kKHardest && options_.skip_fraction > 0);
  const Tier* first_tier = thresholds ? &threshold_tier(batch_.tier) : &batch_.tier;
  // What fixed point saves an anchor it loses again to exact scores of its questions, some ten each.
  if (first_tier != &batch_.tier && first_tier->layout.fixed_point && t > kFixedPointQuestions * pairing_.anchors())
    first_tier = first_tier->finer;
  for (const Tier* tier = first_tier; tier != nullptr; tier = tier->finer) {
    const Scan<T> scan(batch_, survey_, rows, columns, *tier, parallel_);
    const bool may_give_up = tier->finer != nullptr && scan.prepared().scale != 0;
    if (scan.prepared().too_coarse && may_give_up) continue;
    coarse_ = kCoarse;
    if (tier->layout.fixed_point) coarse_ = std::max(kCoarse, static_cast<int64_t>(columns.size()) / kCoarseShare);
    picker_.forget_work();
    const bool done = scan.run([&](const Strip& strip) {
      bool fine_enough = true;
      OwnColumns own;
      for (int64_t r = 0; r < strip.count && fine_enough; ++r) {
        AnchorKeys keys = strip.keys_of(r);
        Query query{strip.rows[r], keys, strip.found, own};
        fine_enough = mine(query, output) || !may_give_up;
      }
      return fine_enough;
    });
    if (done) return;
  }
}

template <typename T>
bool TripletMiner<T>::mine(Query& query, const TripletOutput& output) {
  picker_.leave_own_copies(query);
  const int64_t t = first_triplet_[query.anchor];
  const auto put = [&](const Pick& positive, const Pick& negative) {
    if (positive.candidate >= 0) {
      output.positives[t] = positive.candidate;
      output.distances[t] = positive.score;
    }
    if (negative.candidate >= 0) {
      output.negatives[t] = negative.candidate;
      output.distances[triplets() + t] = negative.score;
    }
  };
  switch (options_.kind) {
    case MinerKind::kSemiHard:
      mine_pairs(query, output);
      break;
    case MinerKind::kKHardest: {
      const Pick positive = picker_.farthest_positive(query);
      picker_.leave_negatives(query);
      mine_ranks(query, positive, output);
      break;
    }
    default: {
      const bool easy = options_.kind != MinerKind::kBatchHard;
      const Pick positive = easy ? picker_.nearest_positive(query) : picker_.farthest_positive(query);
      picker_.leave_negatives(query);
      if (options_.kind == MinerKind::kEasyPositiveSemiHard && positive.candidate >= 0)
        put(positive, semi_hard(query, positive.score, picker_.nearest_negative(query, positive.score)));
      else
        put(positive, picker_.nearest_negative(query, kNoThreshold));
    }
  }
  return picker_.scored() <= coarse_ * (picker_.queries() + 1024);
}

template <typename T>
Pick TripletMiner<T>::semi_hard(Query& query, double threshold, const Pick& nearest) {
  const bool fits = nearest.candidate >= 0 && (!options_.within_margin || nearest.score < threshold + options_.margin);
  if (fits) return nearest;
  return options_.otherwise == Otherwise::kFarthest ? picker_.farthest_negative(query) : Pick();
}

template <typename T>
void TripletMiner<T>::mine_pairs(Query& query, const TripletOutput& output) {
  const Groups& columns = pairing_.columns();
  // Columns of positives, one after the other, and their scores: a row's is that of its column.
  struct Positives {
    int32_t kind;
    size_t first;  // its first column's place among the thresholds
  };
  std::vector<Positives> kinds;
  std::vector<double> thresholds;
  const std::vector<int32_t>& alone = query.own.alone;
  // How many columns from `begin` to before `end` have nobody but own copies.
  const auto alone_within = [&](int32_t begin, int32_t end) {
    return std::lower_bound(alone.begin(), alone.end(), end) - std::lower_bound(alone.begin(), alone.end(), begin);
  };
  pairing_.for_each_positive_kind(query.anchor, [&](int32_t kind) {
    kinds.push_back({kind, thresholds.size()});
    for (int32_t column = columns.representative_begin[kind]; column < columns.representative_begin[kind + 1]; ++column)
      if (alone_within(column, column + 1) == 0)
        thresholds.push_back(picker_.score_of(query.anchor, columns.source[column]));
  });
  struct Pair {
    int64_t positive;
    size_t threshold;
  };
  std::vector<Pair> pairs;
  size_t of_kind = 0;
  pairing_.for_each_positive(query.anchor, [&](int32_t candidate, int32_t column) {
    while (kinds[of_kind].kind != columns.representative_class[column]) ++of_kind;
    const int32_t begin = columns.representative_begin[kinds[of_kind].kind];
    pairs.push_back({candidate, kinds[of_kind].first + (column - begin) - alone_within(begin, column)});
  });
  if (pairs.empty()) return;
  if (kinds.size() > 1)
    std::sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a.positive < b.positive; });
  picker_.leave_negatives(query);
  std::vector<Pick> picks;
  picker_.nearest_negatives(query, thresholds, picks);
  std::vector<uint8_t> settled(picks.size());
  int64_t t = first_triplet_[query.anchor];
  for (const Pair& pair : pairs) {
    Pick& pick = picks[pair.threshold];
    const double threshold = thresholds[pair.threshold];
    if (!settled[pair.threshold]) pick = semi_hard(query, threshold, pick);
    settled[pair.threshold] = 1;
    output.positives[t] = pair.positive;
    output.distances[t] = threshold;
    if (pick.candidate >= 0) {
      output.negatives[t] = pick.candidate;
      output.distances[triplets() + t] = pick.score;
    }
    ++t;
  }
}

template <typename T>
void TripletMiner<T>::mine_ranks(Query& query, const Pick& positive, const TripletOutput& output) {
  const int64_t count = pairing_.count(query.anchor, Role::kNegative);
  const int64_t skip = static_cast<int64_t>(std::floor(options_.skip_fraction * static_cast<double>(count)));
  const int64_t last = std::min(skip + options_.k, count);  // ranks [skip, last) are wanted
  Ranked ranked;
  if (last > skip) ranked = ranked_negatives(picker_, query, skip, last);
  const int64_t t = first_triplet_[query.anchor];
  const int64_t first_rank = options_.kth_only ? skip + options_.k - 1 : skip;
  for (int64_t at = t; at < first_triplet_[query.anchor + 1]; ++at) {
    if (positive.candidate >= 0) {
      output.positives[at] = positive.candidate;
      output.distances[at] = positive.score;
    }
    const int64_t rank = first_rank + (at - t);
    if (rank >= last) continue;
    const Pick& pick = ranked.at(rank);
    output.negatives[at] = pick.candidate;
    output.distances[triplets() + at] = pick.score;
  }
}

template class TripletMiner<float>;
template class TripletMiner<double>;

}  // namespace fasttriplet::cpu
