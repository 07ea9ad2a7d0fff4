#include "cpu/scan/triplets.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/isa/isa.h"

namespace fasttriplet::cpu {
namespace {

// A screen that leaves this many columns a question is too coarse for these rows. In fixed point it is this share of
// the columns where that is more: a score takes the time of some fifty products of rows, which float32 takes twice.
constexpr int64_t kCoarse = 16, kCoarseShare = 128;

// Questions an anchor up to which fixed point is the faster; measured at 8192 x 128 with 3 and with 15.
constexpr int64_t kFixedPointQuestions = 6;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

bool in_window(const AnchorKeys& keys, int32_t column, const KeyWindow& window) {
  return keys.keys[column] + keys.widths[column] >= window.floor &&
         window.limit >= keys.keys[column] - keys.widths[column];
}

// A bound from every eighth vector, then all columns within it, costs half of a bound from all of them; what it lets
// pass beside the few candidates is sorted out by its keys. Short rows are not worth it.
constexpr int64_t kSampleStep = 8, kSampledColumns = 2048;

// The rank-th smallest of the values, from 1; where a smaller rank was asked for just before, from what lies above it.
float ranked(std::vector<float>& values, int64_t rank, int64_t smaller_rank = 0) {
  std::nth_element(values.begin() + smaller_rank, values.begin() + (rank - 1), values.end());
  return values[rank - 1];
}

// Where the columns of ranks `first` to `last` lie, by a sample: from the smallest key - width that the first may have
// to the largest key + width that the last may have. A guess, to be checked; infinite in short rows.
struct Bracket {
  float low, high;
};
Bracket sampled_bracket(const RowOfKeys& row, int64_t first, int64_t last) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Bracket bracket = {-kInfinity, kInfinity};
  if (row.count < kSampledColumns) return bracket;
  std::vector<float> keys;
  keys.reserve(row.count / kSampleStep + 1);
  float width = 0;
  for (int64_t j = 0; j < row.count; j += kSampleStep)
    if (!std::isnan(row.keys[j])) {
      keys.push_back(row.keys[j]);
      width = std::max(width, row.widths[j]);
    }
  if (keys.empty()) return bracket;
  const int64_t size = static_cast<int64_t>(keys.size());
  const auto place = [&](int64_t rank, double side) {  // three standard deviations aside of the rank in the sample
    const double share = static_cast<double>(rank) / kSampleStep, part = share / static_cast<double>(size);
    return static_cast<int64_t>(share + side * (3 * std::sqrt(share * std::max(1 - part, 0.0)) + 2));
  };
  const int64_t low = std::max<int64_t>(place(first, -1), 0), high = place(last, 1);  // three or more apart
  if (0 < low && low <= size) bracket.low = ranked(keys, low) - width;
  if (high <= size) bracket.high = ranked(keys, high, low) + width;
  return bracket;
}

int64_t count_below(const RowOfKeys& row, float floor) {
  int64_t below = 0;
  for (int64_t j = 0; j < row.count; ++j) below += row.keys[j] + row.widths[j] < floor;
  return below;
}

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
      score_(batch, survey_.factors),
      first_triplet_(pairing_.anchors() + 1) {
  for (int64_t i = 0; i < pairing_.anchors(); ++i) {
    int64_t count = 1;
    if (options.kind == MinerKind::kSemiHard)
      count = pairing_.takes_part(i) ? pairing_.count(i, Role::kPositive) : 0;
    else if (options.kind == MinerKind::kKHardest)
      count = options.kth_only ? 1 : options.k;
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
    queries_ = scored_ = 0;
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
void TripletMiner<T>::leave_own_copies(Query& query) {
  const Groups& columns = pairing_.columns();
  OwnColumns& own = query.own;
  own.columns.clear();
  own.alone.clear();
  own.twins.clear();
  pairing_.for_each_own(query.anchor, [&](int64_t copy) {
    const int32_t column = pairing_.column_of(copy);
    if (column < 0 || own.holds(column)) return;
    own.columns.push_back(column);
    query.keys.keys[column] = kNan;
    const int64_t twin = lowest_other(query.anchor, column);
    if (twin < 0)
      own.alone.push_back(column);
    else
      own.twins.push_back({twin, pairing_.role(query.anchor, columns.class_of[copy])});
  });
  std::sort(own.alone.begin(), own.alone.end());
}

// -1 where the column has nobody but own copies.
template <typename T>
int64_t TripletMiner<T>::lowest_other(int64_t anchor, int32_t column) const {
  const Groups& columns = pairing_.columns();
  for (const int32_t lowest : {columns.source[column], columns.twin[column]})  // the two lowest, mostly enough
    if (lowest < 0 || !pairing_.is_own(anchor, lowest)) return lowest;
  const int32_t kind = columns.representative_class[column];
  for (int32_t at = columns.class_begin[kind]; at < columns.class_begin[kind + 1]; ++at) {
    const int32_t member = columns.members[at];
    if (columns.representative_of[member] == column && !pairing_.is_own(anchor, member)) return member;
  }
  return -1;
}

template <typename T>
bool TripletMiner<T>::mine(Query& query, const TripletOutput& output) {
  leave_own_copies(query);
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
      const Pick positive = farthest_positive(query);
      leave_negatives(query);
      mine_ranks(query, positive, output);
      break;
    }
    default: {
      const bool easy = options_.kind != MinerKind::kBatchHard;
      const Pick positive = easy ? nearest_positive(query) : farthest_positive(query);
      leave_negatives(query);
      if (options_.kind == MinerKind::kEasyPositiveSemiHard && positive.candidate >= 0)
        put(positive, semi_hard(query, positive.score, nearest_negative(query, positive.score)));
      else
        put(positive, nearest_negative(query, kNoThreshold));
    }
  }
  return scored_.load(std::memory_order_relaxed) <= coarse_ * (queries_.load(std::memory_order_relaxed) + 1024);
}

template <typename T>
void TripletMiner<T>::count_work(int64_t queries, int64_t scored) {
  queries_.fetch_add(queries, std::memory_order_relaxed);
  scored_.fetch_add(scored, std::memory_order_relaxed);
}

template <typename T>
typename TripletMiner<T>::Pick TripletMiner<T>::pick_of(const Query& query, int32_t column) const {
  const int64_t candidate = pairing_.columns().source[column];
  return {candidate, score_of(query.anchor, candidate)};
}

template <typename T>
typename TripletMiner<T>::Pick TripletMiner<T>::extreme_positive(Query& query, int sign) {
  const Groups& columns = pairing_.columns();
  AnchorKeys& keys = query.keys;
  Pick best;
  const auto offer = [&](const Pick& pick) {
    if (best.candidate < 0 || goes_before(sign * pick.score, pick.candidate, sign * best.score, best.candidate))
      best = pick;
  };
  pairing_.for_each_positive_kind(query.anchor, [&](int32_t kind) {
    const int32_t begin = columns.representative_begin[kind], end = columns.representative_begin[kind + 1];
    if (end - begin <= kPairwiseClass) {
      for (int32_t column = begin; column < end; ++column)
        if (!query.own.holds(column)) offer(pick_of(query, column));
      return;
    }
    const RowOfKeys row = keys.row(begin, end);
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    KeyWindow window = {-kInfinity, kInfinity};
    if (sign > 0) {
      const float sure = -kInfinity;
      keys.kernels->smallest_above(row, 1, &sure, 1, &window.limit);
      window.limit = keys.limit(window.limit);
    } else {
      window.floor = keys.floor(keys.kernels->largest(row));
    }
    const int64_t found = keys.kernels->collect(row, &window, 1, query.found.data());
    for (int64_t k = 0; k < found; ++k) offer(pick_of(query, begin + query.found[k]));
    count_work(1, found);
  });
  query.for_each_twin(Role::kPositive, [&](int64_t twin) { offer({twin, score_of(query.anchor, twin)}); });
  return best;
}

template <typename T>
void TripletMiner<T>::leave_negatives(Query& query) {
  const Groups& columns = pairing_.columns();
  float* const keys = query.keys.keys;
  pairing_.for_each_kind_but_negatives(query.anchor, [&](int32_t kind) {
    std::fill(keys + columns.representative_begin[kind], keys + columns.representative_begin[kind + 1], kNan);
  });
  for (const int32_t column : pairing_.barred_negatives()) keys[column] = kNan;
}

template <typename T>
void TripletMiner<T>::nearest_negatives(Query& query, const std::vector<double>& thresholds, std::vector<Pick>& picks) {
  AnchorKeys& keys = query.keys;
  const RowOfKeys row = keys.row();
  picks.assign(thresholds.size(), Pick());
  int64_t scored = 0;
  for (size_t first = 0; first < thresholds.size(); first += kWindows) {
    const int count = static_cast<int>(std::min<size_t>(kWindows, thresholds.size() - first));
    float sure[kWindows], bounds[kWindows];
    KeyWindow windows[kWindows];
    for (int w = 0; w < count; ++w) sure[w] = keys.surely_above(thresholds[first + w]);
    keys.kernels->smallest_above(row, row.count < kSampledColumns ? 1 : kSampleStep, sure, count, bounds);
    for (int w = 0; w < count; ++w) windows[w] = {keys.maybe_above(thresholds[first + w]), keys.limit(bounds[w])};
    const int64_t found = keys.kernels->collect(row, windows, count, query.found.data());
    for (int w = 0; w < count; ++w) {
      for (int64_t k = 0; k < found; ++k) {
        const int32_t column = query.found[k];
        const float key = keys.keys[column], width = keys.widths[column];
        if (key - width >= sure[w]) bounds[w] = std::min(bounds[w], key + width);
      }
      windows[w].limit = keys.limit(bounds[w]);
    }
    const auto offer = [&](const Pick& pick, size_t w) {
      Pick& best = picks[first + w];
      const double threshold = thresholds[first + w];
      if (threshold != kNoThreshold && !(pick.score > threshold)) return;
      if (best.candidate >= 0 && !goes_before(pick.score, pick.candidate, best.score, best.candidate)) return;
      best = pick;
      windows[w].limit = std::min(windows[w].limit, keys.surely_above(best.score));  // halves what is scored
    };
    for (int64_t k = 0; k < found; ++k) {
      Pick pick;
      for (int w = 0; w < count; ++w) {
        if (!in_window(keys, query.found[k], windows[w])) continue;
        if (pick.candidate < 0) {
          pick = pick_of(query, query.found[k]);
          ++scored;
        }
        offer(pick, w);
      }
    }
    query.for_each_twin(Role::kNegative, [&](int64_t twin) {
      for (int w = 0; w < count; ++w) offer({twin, score_of(query.anchor, twin)}, w);
    });
  }
  count_work(static_cast<int64_t>(thresholds.size()), scored);
}

template <typename T>
typename TripletMiner<T>::Pick TripletMiner<T>::nearest_negative(Query& query, double threshold) {
  std::vector<Pick> picks;
  nearest_negatives(query, {threshold}, picks);
  return picks[0];
}

template <typename T>
typename TripletMiner<T>::Pick TripletMiner<T>::farthest_negative(Query& query) {
  AnchorKeys& keys = query.keys;
  const RowOfKeys row = keys.row();
  const KeyWindow window = {keys.floor(keys.kernels->largest(row)), std::numeric_limits<float>::infinity()};
  const int64_t found = keys.kernels->collect(row, &window, 1, query.found.data());
  Pick best;
  const auto offer = [&](const Pick& pick) {
    if (best.candidate < 0 || goes_before(-pick.score, pick.candidate, -best.score, best.candidate)) best = pick;
  };
  for (int64_t k = 0; k < found; ++k) offer(pick_of(query, query.found[k]));
  query.for_each_twin(Role::kNegative, [&](int64_t twin) { offer({twin, score_of(query.anchor, twin)}); });
  count_work(1, found);
  return best;
}

template <typename T>
typename TripletMiner<T>::Pick TripletMiner<T>::semi_hard(Query& query, double threshold, const Pick& nearest) {
  const bool fits = nearest.candidate >= 0 && (!options_.within_margin || nearest.score < threshold + options_.margin);
  if (fits) return nearest;
  return options_.otherwise == Otherwise::kFarthest ? farthest_negative(query) : Pick();
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
      if (alone_within(column, column + 1) == 0) thresholds.push_back(score_of(query.anchor, columns.source[column]));
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
  leave_negatives(query);
  std::vector<Pick> picks;
  nearest_negatives(query, thresholds, picks);
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
  AnchorKeys& keys = query.keys;
  const RowOfKeys row = keys.row();
  const int64_t count = pairing_.count(query.anchor, Role::kNegative);
  const int64_t skip = static_cast<int64_t>(std::floor(options_.skip_fraction * static_cast<double>(count)));
  const int64_t last = std::min(skip + options_.k, count);  // ranks [skip, last) are wanted
  std::vector<Pick> picks;
  int64_t below = 0;  // columns that are surely among the first `skip`
  if (last > skip) {
    // Ranks below `skip` are counted where they are sure to be, and scored only near the edge.
    const auto lower = [&](int32_t column) { return keys.keys[column] - keys.widths[column]; };
    const auto upper = [&](int32_t column) { return keys.keys[column] + keys.widths[column]; };
    Bracket bracket = sampled_bracket(row, skip + 1, last);
    int64_t near = 0;
    const auto collect = [&] {
      const KeyWindow window = {keys.floor(bracket.low), keys.limit(bracket.high)};
      below = skip > 0 ? count_below(row, window.floor) : 0;
      near = keys.kernels->collect(row, &window, 1, query.found.data());
    };
    const auto holds = [&] {  // the first wanted rank is not below the bracket, the last one not above it
      int64_t under = below, within = below;
      for (int64_t k = 0; k < near; ++k) {
        under += lower(query.found[k]) < bracket.low;
        within += upper(query.found[k]) <= bracket.high;
      }
      return under <= skip && within >= last;
    };
    collect();
    if (!holds()) {
      bracket = {-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity()};
      collect();
    }
    std::vector<float> values(near);
    const auto ranked_near = [&](auto&& side, int64_t rank) {
      std::transform(query.found.begin(), query.found.begin() + near, values.begin(), side);
      return ranked(values, rank - below);
    };
    KeyWindow window = {-std::numeric_limits<float>::infinity(), keys.limit(ranked_near(upper, last))};
    if (skip > 0) window.floor = keys.floor(ranked_near(lower, skip + 1));
    int64_t found = 0, sure = 0;
    for (int64_t k = 0; k < near; ++k) {
      const int32_t column = query.found[k];
      if (upper(column) < window.floor)
        ++sure;
      else if (in_window(keys, column, window))
        query.found[found++] = column;
    }
    below += sure;
    picks.reserve(found);
    for (int64_t k = 0; k < found; ++k) picks.push_back(pick_of(query, query.found[k]));
    std::sort(picks.begin(), picks.end(),
              [](const Pick& a, const Pick& b) { return goes_before(a.score, a.candidate, b.score, b.candidate); });
    count_work(last, found);
  }
  const int64_t t = first_triplet_[query.anchor];
  const int64_t first_rank = options_.kth_only ? skip + options_.k - 1 : skip;
  for (int64_t at = t; at < first_triplet_[query.anchor + 1]; ++at) {
    if (positive.candidate >= 0) {
      output.positives[at] = positive.candidate;
      output.distances[at] = positive.score;
    }
    const int64_t rank = first_rank + (at - t);
    if (rank >= last) continue;
    const Pick& pick = picks[rank - below];
    output.negatives[at] = pick.candidate;
    output.distances[triplets() + at] = pick.score;
  }
}

template class TripletMiner<float>;
template class TripletMiner<double>;

}  // namespace fasttriplet::cpu
