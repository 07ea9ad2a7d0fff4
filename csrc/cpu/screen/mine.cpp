#include "cpu/screen/mine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "cpu/rows/groups.h"
#include "cpu/rows/prepare.h"
#include "cpu/screen/screen.h"

namespace fasttriplet::cpu {
namespace {

struct Pick {
  int64_t index = -1;
  double score = 0;
};

// The harder of two positives.
Pick farther(const Pick& a, const Pick& b) {
  if (a.index < 0) return b;
  if (b.index < 0) return a;
  return goes_before(-a.score, a.index, -b.score, b.index) ? a : b;
}

template <typename T>
class Miner {
 public:
  Miner(const Batch<T>& batch, const int64_t* labels, const Parallel& parallel)
      : batch_(batch),
        parallel_(parallel),
        survey_(survey_rows(batch, parallel)),
        groups_(group_rows(batch, labels, survey_, EqualRows::kMerged)),
        score_(batch, survey_.factors),
        farthest_(groups_.representatives()),
        nearest_(groups_.representatives()) {}

  bool run(const MineOutput& output, MineReport* report) {
    lap(Stage::kPrepare);
    score_small_classes();
    lap(Stage::kPositives);
    screen();
    for_each_range(parallel_, batch_.n, 256, 20.0 * static_cast<double>(batch_.n),
                   [&](int64_t begin, int64_t end) { write(begin, end, output); });
    if (!survey_.all_finite) override_non_finite(output);
    lap(Stage::kWrite);
    report_.representatives = groups_.representatives();
    if (report != nullptr) *report = report_;
    return survey_.all_finite;
  }

 private:
  using Clock = std::chrono::steady_clock;

  // The time since the last lap goes to `stage`; some 25 ns, so it is always on.
  void lap(Stage stage) {
    const Clock::time_point now = Clock::now();
    report_.seconds[static_cast<int>(stage)] += std::chrono::duration<double>(now - last_lap_).count();
    last_lap_ = now;
  }

  int32_t class_size(int32_t c) const { return groups_.representative_begin[c + 1] - groups_.representative_begin[c]; }
  int32_t largest_class() const {
    int32_t largest = 0;
    for (int32_t c = 0; c < groups_.classes(); ++c) largest = std::max(largest, class_size(c));
    return largest;
  }
  bool in_large_class(int32_t r) const { return class_size(groups_.representative_class[r]) > kPairwiseClass; }
  double score_of(int32_t a, int32_t b) const { return score_(groups_.source[a], groups_.source[b]); }

  void score_small_classes() {
    for (int32_t c = 0; c < groups_.classes(); ++c)
      if (class_size(c) <= kPairwiseClass)
        report_.exact_positives += static_cast<int64_t>(class_size(c)) * (class_size(c) - 1) / 2;
    constexpr int64_t kGrain = 64;
    const double operations = static_cast<double>(report_.exact_positives) * static_cast<double>(batch_.d);
    for_each_range(parallel_, groups_.classes(), kGrain, operations, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c)
        if (class_size(static_cast<int32_t>(c)) <= kPairwiseClass) score_class(static_cast<int32_t>(c));
    });
  }

  void score_class(int32_t c) {
    const int32_t begin = groups_.representative_begin[c], end = groups_.representative_begin[c + 1];
    for (int32_t a = begin; a < end; ++a)
      for (int32_t b = a + 1; b < end; ++b) {
        const double score = score_of(a, b);
        farthest_[a] = farther(farthest_[a], {groups_.source[b], score});
        farthest_[b] = farther(farthest_[b], {groups_.source[a], score});
      }
  }

  // What one screen looks for, and among which representatives.
  struct Wanted {
    bool nearest, farthest;
    const std::vector<int32_t>& source;   // [R]
    const std::vector<int32_t>& classes;  // [R]
    const Centres& centres;
    const int32_t* representatives;  // [R], or null: all
  };

  // The nearest negatives, and the farthest positives of large classes, in one walk. The positives have a walk of their
  // own where each class then has its own centre.
  void screen() {
    const bool negatives = groups_.classes() > 1 && groups_.representatives() > 1;
    const bool positives = largest_class() > kPairwiseClass;
    if (!negatives && !positives) return;
    const Centres common = common_centre(batch_, survey_, groups_.source);
    const bool apart = positives && screen_positives_apart(common);
    if (negatives || !apart)
      screen({negatives, positives && !apart, groups_.source, groups_.representative_class, common, nullptr});
  }

  // False where no class has a use for a centre of its own.
  bool screen_positives_apart(const Centres& common) {
    std::vector<int32_t> representatives, source, classes;
    for (int32_t r = 0; r < groups_.representatives(); ++r) {
      if (!in_large_class(r)) continue;
      representatives.push_back(r);
      source.push_back(groups_.source[r]);
      classes.push_back(groups_.representative_class[r]);
    }
    const Centres own = class_centres(batch_, survey_, source, classes, common);
    if (own.empty()) return false;
    screen({false, true, source, classes, own, representatives.data()});
    return true;
  }

  void screen(const Wanted& wanted) {
    for (const Tier* tier = &batch_.tier.for_depth(batch_.d, batch_.distance); tier != nullptr; tier = tier->finer)
      if (screen_by(*tier, wanted)) return;
  }

  // False where the tier's products are too coarse and a finer tier can do it.
  bool screen_by(const Tier& tier, const Wanted& wanted) {
    const int32_t m = static_cast<int32_t>(wanted.source.size());
    const Prepared prepared = prepare_rows(batch_, tier, survey_, wanted.source, wanted.centres, parallel_);
    if (prepared.too_coarse) return false;
    const auto representative = [&](int32_t r) { return wanted.representatives ? wanted.representatives[r] : r; };
    Search nearest(1, prepared.padded), farthest(-1, prepared.padded);
    if (wanted.nearest) nearest.resize(m);
    if (wanted.farthest) farthest.resize(m);
    for (int32_t r = 0; r < m; ++r) {
      if (wanted.nearest)
        nearest.set(r, terms_of(prepared, batch_.distance, r, false), true,
                    groups_.may_be_negative[representative(r)] != 0);
      if (!wanted.farthest) continue;
      const bool screened = in_large_class(representative(r));
      farthest.set(r, terms_of(prepared, batch_.distance, r, true), screened, screened);
    }
    lap(Stage::kPrepare);
    const Settler settler{[&](int32_t a, int32_t b) { return score_(wanted.source[a], wanted.source[b]); },
                          [&](int32_t a, double score) { return key_of(prepared, batch_.distance, a, score); },
                          wanted.source.data()};
    const bool done = run_screen(tier, prepared, wanted.classes, nearest, farthest, settler, parallel_,
                                 tier.finer != nullptr && prepared.scale != 0);
    lap(Stage::kScreen);
    if (done) {
      settle(nearest, settler, [&](int32_t r) -> Pick& { return nearest_[representative(r)]; });
      settle(farthest, settler, [&](int32_t r) -> Pick& { return farthest_[representative(r)]; });
    }
    report_.exact_negatives += nearest.scored();
    report_.exact_positives += farthest.scored();
    lap(Stage::kSettle);
    return done;
  }

  template <typename PickOf>
  void settle(Search& search, const Settler& settler, PickOf&& pick_of) {
    const int64_t m = static_cast<int64_t>(search.anchors.size());
    const double operations = 6.0 * static_cast<double>(m) * static_cast<double>(batch_.d);
    for_each_range(parallel_, m, 128, operations, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        search.settle(r, settler);
        const Winner& winner = search.anchors[r].winner;
        if (winner.candidate >= 0)
          pick_of(static_cast<int32_t>(r)) = {settler.source[winner.candidate], search.sign * winner.score};
      }
    });
  }

  void write(int64_t begin, int64_t end, const MineOutput& output) const {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t r = groups_.representative_of[i];
      Pick positive, negative;
      if (r >= 0) {
        negative = nearest_[r];
        positive = farthest_[r];
        // A row equal to the anchor is a positive as well.
        const int64_t twin = groups_.source[r] == i ? groups_.twin[r] : groups_.source[r];
        if (twin >= 0) positive = farther(positive, {twin, score_(i, twin)});
      }
      put(output, i, positive, negative);
    }
  }

  void put(const MineOutput& output, int64_t i, const Pick& positive, const Pick& negative) const {
    const auto value = [&](const Pick& pick) {
      return pick.index < 0 ? std::numeric_limits<double>::quiet_NaN() : pick.score;
    };
    output.positives[i] = positive.index;
    output.negatives[i] = negative.index;
    output.distances[i] = value(positive);
    output.distances[batch_.n + i] = value(negative);
  }

  // Every distance of a row that is not finite is NaN, the hardest. So the lowest such row wins, and such a row itself
  // takes the lowest of all. Where a finite row's distance is NaN too, since it overflows, the lower of both wins.
  void override_non_finite(const MineOutput& output) const {
    std::vector<int64_t> bad_of_class(groups_.classes(), -1);
    for (int64_t i = batch_.n; i-- > 0;)
      if (!survey_.finite(i)) bad_of_class[groups_.class_of[i]] = i;
    const Lowest bad = lowest([&](int64_t i) { return !survey_.finite(i); }),
                 any = lowest([](int64_t) { return true; });
    const auto of_other_class = [&](const Lowest& rows, int32_t c) {
      return rows.first >= 0 && groups_.class_of[rows.first] == c ? rows.first_of_other_class : rows.first;
    };
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (int64_t i = 0; i < batch_.n; ++i) {
      const int32_t c = groups_.class_of[i];
      int64_t positive, negative;
      if (survey_.finite(i)) {
        positive = bad_of_class[c];
        negative = of_other_class(bad, c);
      } else {
        const int32_t begin = groups_.class_begin[c];
        const bool alone = groups_.class_begin[c + 1] - begin == 1;
        positive = alone ? -1 : groups_.members[groups_.members[begin] == i ? begin + 1 : begin];
        negative = of_other_class(any, c);
      }
      const auto replace = [&](int64_t* index, double* distance, int64_t by) {
        if (by < 0 || (*index >= 0 && *index < by && std::isnan(*distance))) return;
        *index = by;
        *distance = nan;
      };
      replace(output.positives + i, output.distances + i, positive);
      replace(output.negatives + i, output.distances + batch_.n + i, negative);
    }
  }

  struct Lowest {
    int64_t first = -1, first_of_other_class = -1;
  };
  template <typename F>
  Lowest lowest(F&& accept) const {
    Lowest rows;
    for (int64_t i = 0; i < batch_.n; ++i) {
      if (!accept(i)) continue;
      if (rows.first < 0) {
        rows.first = i;
      } else if (groups_.class_of[i] != groups_.class_of[rows.first]) {
        rows.first_of_other_class = i;
        break;
      }
    }
    return rows;
  }

  Clock::time_point last_lap_ = Clock::now();  // first: the stage of what is initialised below has begun
  const Batch<T>& batch_;
  const Parallel& parallel_;
  const Survey survey_;
  const Groups groups_;
  const ExactScore<T> score_;
  std::vector<Pick> farthest_, nearest_;  // [M]
  MineReport report_;
};

}  // namespace

template <typename T>
bool mine_batch_hard(const Batch<T>& batch, const int64_t* labels, const Parallel& parallel, const MineOutput& output,
                     MineReport* report) {
  const KeepDenormals mode;
  return Miner<T>(batch, labels, parallel).run(output, report);
}

template bool mine_batch_hard(const Batch<float>&, const int64_t*, const Parallel&, const MineOutput&, MineReport*);
template bool mine_batch_hard(const Batch<double>&, const int64_t*, const Parallel&, const MineOutput&, MineReport*);

}  // namespace fasttriplet::cpu
