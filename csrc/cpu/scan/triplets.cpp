#include "cpu/scan/triplets.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/scan/ranks.h"
#include "cpu/scan/scan.h"

namespace fasttriplet::cpu {
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
  const bool thresholds = options_.kind == MinerKind::kSemiHard || options_.kind == MinerKind::kEasyPositiveSemiHard ||
                          (options_.kind == MinerKind::kKHardest && options_.skip_fraction > 0);
  const Tier& tier = thresholds ? tier_for_thresholds(batch_.tier, t, pairing_.anchors()) : batch_.tier;
  refine(batch_, survey_, pairing_, picker_, tier, parallel_, [&](const Scan<T>& scan, const FineEnough& fine_enough) {
    return scan.run([&](const Strip& strip) { return mine_strip(strip, fine_enough, output); });
  });
}

template <typename T>
void TripletMiner<T>::put(int64_t t, const Pick& positive, const Pick& negative, const TripletOutput& output) const {
  if (positive.candidate >= 0) {
    output.positives[t] = positive.candidate;
    output.distances[t] = positive.score;
  }
  if (negative.candidate >= 0) {
    output.negatives[t] = negative.candidate;
    output.distances[triplets() + t] = negative.score;
  }
}

template <typename T>
bool TripletMiner<T>::mine_strip(const Strip& strip, const FineEnough& fine_enough, const TripletOutput& output) {
  if (options_.kind == MinerKind::kSemiHard) {
    SemiHardMiner<T> miner(picker_, pairing_, options_);
    return miner.mine(strip, [&](int32_t anchor, const std::vector<PositivePick>& pairs) {
      int64_t t = first_triplet_[anchor];
      for (const PositivePick& pair : pairs) put(t++, {pair.positive, pair.distance}, pair.negative, output);
      return fine_enough();
    });
  }
  OwnColumns own;
  SemiHardRule<T> rule(picker_, options_);
  for (int64_t r = 0; r < strip.count; ++r) {
    AnchorKeys keys = strip.keys_of(r);
    Query query{strip.rows[r], keys, strip.found, own};
    mine(query, rule, output);
    if (!fine_enough()) return false;
  }
  return true;
}

template <typename T>
void TripletMiner<T>::mine(Query& query, SemiHardRule<T>& rule, const TripletOutput& output) {
  picker_.leave_own_copies(query);
  const bool easy = options_.kind == MinerKind::kEasyPositive || options_.kind == MinerKind::kEasyPositiveSemiHard;
  const Pick positive = easy ? picker_.nearest_positive(query) : picker_.farthest_positive(query);
  picker_.leave_negatives(query);
  if (options_.kind == MinerKind::kKHardest) return mine_ranks(query, positive, output);
  Pick negative;
  if (options_.kind == MinerKind::kEasyPositiveSemiHard && positive.candidate >= 0) {
    rule.begin();
    negative = rule(query, positive.score, picker_.nearest_negative(query, positive.score));
  } else {
    negative = picker_.nearest_negative(query, kNoThreshold);
  }
  put(first_triplet_[query.anchor], positive, negative, output);
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
