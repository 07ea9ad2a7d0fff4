#include "cpu/neighbours/walk.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>

#include "core/triangle.h"

namespace fasttriplet::cpu {
namespace {

constexpr float kNever = std::numeric_limits<float>::infinity();

// Rows of a block, as in cpu/screen/screen.cpp.
constexpr int64_t kBlock = 384;

// What a task knows of one block's anchors.
class Side {
 public:
  Side(const Walked& walked, const HitConsumer& consumer, int64_t begin, int64_t end, std::mutex& lock)
      : walked_(walked), begin_(begin), bounds_(end - begin), thresholds_(kBlock, kNever), lock_(lock) {
    {
      const std::lock_guard<std::mutex> guard(lock_);
      consumer.load(begin, end, bounds_.data());
    }
    for (int64_t at = 0; at < end - begin; ++at)
      if (bounds_[at] != -std::numeric_limits<double>::infinity())
        thresholds_[at] = anchor_threshold(walked.terms[begin + at].anchor, bounds_[at]);
  }

  const float* thresholds() const { return thresholds_.data(); }

  void offer(int64_t anchor, int64_t candidate, double dot) {
    const double lower = walked_.terms[anchor].anchor + walked_.terms[candidate].candidate - dot;
    if (lower <= bounds_[anchor - begin_])
      hits_.push_back({static_cast<int32_t>(anchor), static_cast<int32_t>(candidate), lower});
  }

  bool hand_over(HitConsumer& consumer) {
    if (hits_.empty()) return true;
    consumer.look(hits_);
    const std::lock_guard<std::mutex> guard(lock_);
    return consumer.merge(hits_);
  }

 private:
  const Walked& walked_;
  int64_t begin_;
  std::vector<double> bounds_;
  std::vector<float> thresholds_;
  std::vector<Hit> hits_;
  std::mutex& lock_;
};

struct Task {
  Side *rows, *columns;  // null where columns are no anchors

  static void hit(void* context, int64_t i, int64_t j, float dot, bool) {
    const Task& task = *static_cast<Task*>(context);
    task.rows->offer(i, j, static_cast<double>(dot));
    if (task.columns != nullptr) task.columns->offer(j, i, static_cast<double>(dot));
  }
};

}  // namespace

bool walk_pairs(const Walked& walked, const int32_t* classes, HitConsumer& consumer, const Parallel& parallel) {
  const int64_t width = walked.tier.layout.width, n = walked.anchors, m = walked.candidates;
  if (n == 0 || m == 0) return true;
  const bool symmetric = walked.symmetric();
  const double pairs = static_cast<double>(n) * static_cast<double>(m) / (symmetric ? 2 : 1);
  const double operations = pairs * static_cast<double>(walked.prepared.depth + 4) / 8;
  // With several threads a batch of few blocks is cut finer, so that all of them have tasks.
  const auto block_of = [&](int64_t count) {
    const int64_t share = operations < 2 * kOperationsPerWorker ? kBlock : count / (2 * parallel.threads() + 2);
    return std::clamp((share + width - 1) / width * width, width, kBlock);
  };
  const int64_t row_block = block_of(n), column_block = symmetric ? row_block : block_of(m);
  const int64_t row_blocks = (n + row_block - 1) / row_block, column_blocks = (m + column_block - 1) / column_block;
  const std::unique_ptr<std::mutex[]> locks(new std::mutex[row_blocks]);
  std::vector<float> keys(walked.prepared.padded, kNever);
  for (int64_t place = walked.first_candidate; place < walked.first_candidate + m; ++place)
    keys[place] = candidate_key(walked.terms[place].candidate);
  const std::vector<float> never(std::max(walked.prepared.padded, kBlock), kNever);
  std::atomic<bool> stopped{false};
  const int64_t tasks = symmetric ? row_blocks * (row_blocks + 1) / 2 : row_blocks * column_blocks;
  for_each_task(parallel, tasks, operations, [&](int64_t index) {
    if (stopped.load(std::memory_order_relaxed)) return;
    BlockPair pair;
    if (symmetric)
      pair = block_pair(index, row_blocks);
    else  // an anchor's block is met again after all others
      pair = {index % row_blocks, (index / row_blocks + index % row_blocks) % column_blocks};
    const auto side = [&](int64_t block) {
      return Side(walked, consumer, block * row_block, std::min((block + 1) * row_block, n), locks[block]);
    };
    Side rows = side(pair.i);
    std::optional<Side> columns;
    Task context = {&rows, nullptr};
    if (symmetric) context.columns = pair.i == pair.j ? &rows : &columns.emplace(side(pair.j));
    ScreenTask task;
    task.panels = walked.prepared.view();
    task.row_begin = pair.i * row_block;
    task.row_end = std::min((pair.i + 1) * row_block, n);
    task.column_begin = walked.first_candidate + pair.j * column_block;
    task.column_end = walked.first_candidate + std::min((pair.j + 1) * column_block, m);
    task.classes = classes;
    task.nearest = {keys.data(), rows.thresholds(), symmetric ? context.columns->thresholds() : never.data(), true};
    task.farthest = {never.data(), never.data(), never.data(), false};
    task.hit = Task::hit;
    task.context = &context;
    walked.tier.screen(task);
    if (!rows.hand_over(consumer) || (columns && !columns->hand_over(consumer))) stopped = true;
  });
  return !stopped;
}

}  // namespace fasttriplet::cpu
