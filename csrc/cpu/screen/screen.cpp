#include "cpu/screen/screen.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <optional>

#include "core/distance.h"
#include "core/triangle.h"
#include "cpu/rows/sampled_keys.h"

namespace fasttriplet::cpu {
namespace {

constexpr float kNever = std::numeric_limits<float>::infinity();
constexpr double kNothingSeen = std::numeric_limits<double>::max();  // below the infinity that marks "no candidate"

// Rows of a block: a common multiple of the tiers' panel widths. At D = 128 a block is 196 KB, so the two of a task fit
// a second-level cache. A task is 384 x 384 x 128 multiply-adds, about 0.3 ms, long against a lock.
constexpr int64_t kBlock = 384;

// Exact scores an anchor that full lists may take before the products are too coarse.
constexpr int64_t kMostScored = 8;

// Products coarser than this leave many candidates within their error of the nearest. Its score, taken early, halves
// that.
constexpr double kCoarse = 0x1p-7;

// What a task knows of one block's anchors in one search.
class LocalAnchors {
 public:
  LocalAnchors(Search& search, int64_t begin, int64_t end, int64_t padded_end)
      : search_(search),
        begin_(begin),
        end_(end),
        best_(end - begin),
        nearest_(end - begin, -1),
        thresholds_(padded_end - begin, kNever) {}

  // Takes over what is known so far. The caller holds the block's lock.
  void load() {
    if (search_.empty()) return;
    found_.reserve(8 * best_.size());  // rarely more
    for (int64_t row = begin_; row < end_; ++row) lower_best(row, search_.anchors[row].best);
  }

  const float* thresholds() const { return thresholds_.data(); }

  void offer(int64_t anchor, int64_t candidate, double signed_dot) {
    const RowTerms &a = search_.terms[anchor], &c = search_.terms[candidate];
    const double lower = a.anchor + c.candidate - signed_dot;
    if (!(lower <= best_[anchor - begin_])) return;
    const double upper = lower + a.anchor_slack + c.candidate_slack;
    if (upper < best_[anchor - begin_]) {
      lower_best(anchor, upper);
      nearest_[anchor - begin_] = static_cast<int32_t>(candidate);
    }
    found_.push_back({static_cast<int32_t>(anchor), static_cast<int32_t>(candidate), lower});
  }

  // Scores the candidates that the task has found to be the nearest so far.
  void score_nearest(const Settler& settler) {
    if (search_.empty()) return;
    nearest_scores_.resize(nearest_.size());
    for (size_t at = 0; at < nearest_.size(); ++at)
      if (nearest_[at] >= 0)
        nearest_scores_[at] = settler.score(static_cast<int32_t>(begin_) + static_cast<int32_t>(at), nearest_[at]);
  }

  // The caller holds the block's lock. Takes each full list that it settles off `left`, and stops below zero.
  void merge(const Settler& settler, std::atomic<int64_t>& left) {
    for (size_t at = 0; at < nearest_scores_.size(); ++at) {
      if (nearest_[at] < 0) continue;
      const int64_t row = begin_ + static_cast<int64_t>(at);
      search_.take(row, nearest_[at], nearest_scores_[at], settler);
      best_[at] = std::min(best_[at], search_.sign * settler.key(static_cast<int32_t>(row), nearest_scores_[at]));
    }
    for (const Found& found : found_) {
      double& best = search_.anchors[found.anchor].best;
      best = std::min(best, best_[found.anchor - begin_]);
    }
    for (const Found& found : found_)
      if ((nearest_scores_.empty() || found.candidate != nearest_[found.anchor - begin_]) &&
          search_.offer(found.anchor, found.candidate, found.lower, settler) && --left < 0)
        return;
  }

 private:
  struct Found {
    int32_t anchor, candidate;
    double lower;
  };

  void lower_best(int64_t row, double best) {
    best_[row - begin_] = best;
    thresholds_[row - begin_] =
        best == -std::numeric_limits<double>::infinity() ? kNever : anchor_threshold(search_.terms[row].anchor, best);
  }

  Search& search_;
  int64_t begin_, end_;
  std::vector<double> best_;
  std::vector<int32_t> nearest_;        // whose upper bound is the best, where this task has found one
  std::vector<double> nearest_scores_;  // or empty
  std::vector<float> thresholds_;
  std::vector<Found> found_;
};

// One task: the blocks' anchors in both searches. On the diagonal rows and columns are the same anchors.
struct TaskContext {
  Search *nearest, *farthest;
  LocalAnchors *nearest_rows, *nearest_columns, *farthest_rows, *farthest_columns;

  static void hit(void* context, int64_t i, int64_t j, float dot, bool positive) {
    const TaskContext& task = *static_cast<TaskContext*>(context);
    const double signed_dot = (positive ? task.farthest : task.nearest)->sign * static_cast<double>(dot);
    (positive ? task.farthest_rows : task.nearest_rows)->offer(i, j, signed_dot);
    (positive ? task.farthest_columns : task.nearest_columns)->offer(j, i, signed_dot);
  }
};

// A sample of k spares an anchor ln k candidates that are the nearest so far.
constexpr int64_t kSamples = 96, kLeastSampled = 8 * kSamples;

void sample(const Tier& tier, const Prepared& prepared, const std::vector<int32_t>& classes, Search& search,
            const Parallel& parallel) {
  const auto m = static_cast<int64_t>(classes.size());
  const int64_t width = tier.layout.width, samples = kSamples / width * width;
  const SampledKeys sampled = {tier, prepared, search.terms, 0, m, samples};
  const double operations = static_cast<double>(m * samples) * static_cast<double>(prepared.depth + 4) / 8;
  const std::vector<float> no_widths(samples, 0.0f);
  for_each_range(parallel, m, width, operations, [&](int64_t begin, int64_t end) {
    const int64_t from = sampled.begin(begin);
    const bool apart = classes[end - 1] < classes[from] || classes[from + samples - 1] < classes[begin];
    if (!apart) return;
    std::vector<float> keys(width * samples);
    sampled.write(begin, end - begin, keys.data());
    for (int64_t row = begin; row < end; ++row) {
      const float everything = -kNever;
      float smallest;
      tier.scan.smallest_above({keys.data() + (row - begin) * samples, no_widths.data(), samples}, 1, &everything, 1,
                               &smallest);
      double& best = search.anchors[row].best;
      best = std::min(best, SampledKeys::bound(search.terms[row], smallest));
    }
  });
}

// Ordered pairs of one class.
double pairs_within(const std::vector<int32_t>& classes) {
  double pairs = 0;
  for (auto first = classes.begin(); first != classes.end();) {
    const auto next = std::upper_bound(first, classes.end(), *first);
    pairs += static_cast<double>(next - first) * static_cast<double>(next - first);
    first = next;
  }
  return pairs;
}

}  // namespace

void Search::resize(int64_t rows) {
  terms.resize(rows);
  anchors.resize(rows);
}

void Search::set(int64_t row, const RowTerms& row_terms, bool is_anchor, bool is_candidate) {
  terms[row] = row_terms;
  if (!is_candidate) terms[row].candidate = std::numeric_limits<double>::infinity();
  keys[row] = is_candidate ? candidate_key(row_terms.candidate) : kNever;
  anchors[row].best = is_anchor ? kNothingSeen : -std::numeric_limits<double>::infinity();
}

bool Search::offer(int64_t row, int32_t candidate, double lower, const Settler& settler) {
  Anchor& anchor = anchors[row];
  if (!(lower <= anchor.best)) return false;
  bool full = false;
  if (anchor.count == kListLength) {
    int32_t kept = 0;
    for (int32_t k = 0; k < anchor.count; ++k)
      if (static_cast<double>(anchor.lower[k]) <= anchor.best) {
        anchor.candidates[kept] = anchor.candidates[k];
        anchor.lower[kept++] = anchor.lower[k];
      }
    anchor.count = kept;
    full = kept == kListLength;
    if (full) settle(row, settler);
  }
  anchor.candidates[anchor.count] = candidate;
  anchor.lower[anchor.count++] = float_below(lower);
  return full;
}

void Search::settle(int64_t row, const Settler& settler) {
  Anchor& anchor = anchors[row];
  for (int32_t k = 0; k < anchor.count; ++k) {
    if (static_cast<double>(anchor.lower[k]) > anchor.best) continue;
    const int32_t candidate = anchor.candidates[k];
    take(row, candidate, settler.score(static_cast<int32_t>(row), candidate), settler);
  }
  anchor.count = 0;
}

void Search::take(int64_t row, int32_t candidate, double score, const Settler& settler) {
  Anchor& anchor = anchors[row];
  ++anchor.scored;
  Winner& winner = anchor.winner;
  if (winner.candidate < 0 ||
      goes_before(sign * score, settler.source[candidate], winner.score, settler.source[winner.candidate]))
    winner = {candidate, sign * score};
}

int64_t Search::scored() const {
  int64_t total = 0;
  for (const Anchor& anchor : anchors) total += anchor.scored;
  return total;
}

bool run_screen(const Tier& tier, const Prepared& prepared, const std::vector<int32_t>& classes, Search& nearest,
                Search& farthest, const Settler& settler, const Parallel& parallel, bool may_give_up) {
  const int64_t m = static_cast<int64_t>(classes.size());
  const double pairs = nearest.empty() ? pairs_within(classes) : static_cast<double>(m) * static_cast<double>(m);
  const double operations = pairs * static_cast<double>(prepared.depth + 4) / 16;
  // With several threads a batch of few blocks is cut finer, so that all of them have tasks.
  const int64_t share = operations < 2 * kOperationsPerWorker ? kBlock : m / (2 * parallel.threads() + 2);
  const int64_t width = tier.layout.width;
  const int64_t block = std::clamp((share + width - 1) / width * width, width, kBlock);
  const int64_t blocks = (m + block - 1) / block;
  std::vector<int32_t> padded_classes(classes);
  padded_classes.resize(prepared.padded, std::numeric_limits<int32_t>::max());
  std::vector<std::mutex> locks(blocks);
  // Full lists to be settled, of scores in all.
  std::atomic<int64_t> left{may_give_up ? kMostScored * m / kListLength : std::numeric_limits<int64_t>::max()};

  if (!nearest.empty() && m >= kLeastSampled && prepared.scale != 0) sample(tier, prepared, classes, nearest, parallel);
  for_each_task(parallel, blocks * (blocks + 1) / 2, operations, [&](int64_t index) {
    if (left < 0) return;
    const BlockPair pair = block_pair(index, blocks);
    const int32_t row_last = classes[std::min((pair.i + 1) * block, m) - 1], column_first = classes[pair.j * block];
    if (nearest.empty() && row_last < column_first) return;
    const auto local = [&](Search& search, int64_t of) {
      LocalAnchors anchors(search, of * block, std::min((of + 1) * block, m),
                           std::min((of + 1) * block, prepared.padded));
      const std::lock_guard<std::mutex> guard(locks[of]);
      anchors.load();
      return anchors;
    };
    LocalAnchors nearest_rows = local(nearest, pair.i), farthest_rows = local(farthest, pair.i);
    std::optional<LocalAnchors> nearest_columns, farthest_columns;
    TaskContext context = {&nearest, &farthest, &nearest_rows, &nearest_rows, &farthest_rows, &farthest_rows};
    const bool diagonal = pair.i == pair.j;
    if (!diagonal) {
      context.nearest_columns = &nearest_columns.emplace(local(nearest, pair.j));
      context.farthest_columns = &farthest_columns.emplace(local(farthest, pair.j));
    }
    ScreenTask task;
    task.panels = prepared.view();
    task.row_begin = pair.i * block;
    task.row_end = std::min((pair.i + 1) * block, m);
    task.column_begin = pair.j * block;
    task.column_end = std::min((pair.j + 1) * block, m);
    task.classes = padded_classes.data();
    task.nearest = {nearest.keys.data(), context.nearest_rows->thresholds(), context.nearest_columns->thresholds(),
                    !nearest.empty()};
    task.farthest = {farthest.keys.data(), context.farthest_rows->thresholds(), context.farthest_columns->thresholds(),
                     !farthest.empty()};
    task.hit = TaskContext::hit;
    task.context = &context;
    tier.screen(task);
    if (prepared.precision.kappa() > kCoarse) {
      context.nearest_rows->score_nearest(settler);
      context.farthest_rows->score_nearest(settler);
      if (!diagonal) {
        context.nearest_columns->score_nearest(settler);
        context.farthest_columns->score_nearest(settler);
      }
    }
    {
      const std::lock_guard<std::mutex> guard(locks[pair.i]);
      context.nearest_rows->merge(settler, left);
      context.farthest_rows->merge(settler, left);
    }
    if (!diagonal) {
      const std::lock_guard<std::mutex> guard(locks[pair.j]);
      context.nearest_columns->merge(settler, left);
      context.farthest_columns->merge(settler, left);
    }
  });
  return left >= 0;
}

}  // namespace fasttriplet::cpu
