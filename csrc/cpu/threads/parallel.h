// Running tasks on threads, without naming whose threads they are: PyTorch's in the extension, std::thread in native
// tests.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>

#include "cpu/threads/denormals.h"

namespace fasttriplet::cpu {

class Parallel {
 public:
  virtual ~Parallel() = default;
  virtual int64_t threads() const = 0;
  // Calls `body` once on each of `workers` threads, the caller's among them, and waits.
  virtual void run(int64_t workers, const std::function<void()>& body) const = 0;
};

// Waking a thread costs about 10 us, more on a busy machine. So a worker must have some 50 us of work, 2^17 float64
// operations. Measured at N = 256, D = 128: a quarter of this gains nothing on a quiet machine. On a busy one the call
// then takes 0.4 ms instead of 0.15.
inline constexpr double kOperationsPerWorker = 1 << 17;

// Calls f(task) for every task in [0, tasks), each once, in no particular order. Where there is too little to share,
// the caller's thread works alone.
template <typename F>
void for_each_task(const Parallel& parallel, int64_t tasks, double operations, F&& f) {
  const double worthwhile = std::min(operations / kOperationsPerWorker, 1e6);
  const int64_t workers = std::min({parallel.threads(), tasks, static_cast<int64_t>(worthwhile)});
  if (workers <= 1) {
    for (int64_t task = 0; task < tasks; ++task) f(task);
    return;
  }
  std::atomic<int64_t> next{0};
  parallel.run(workers, [&] {
    const KeepDenormals mode;
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) f(task);
  });
}

// Likewise for ranges [begin, end) of at most `grain` of `count` items.
template <typename F>
void for_each_range(const Parallel& parallel, int64_t count, int64_t grain, double operations, F&& f) {
  for_each_task(parallel, (count + grain - 1) / grain, operations,
                [&](int64_t task) { f(task * grain, std::min(count, (task + 1) * grain)); });
}

}  // namespace fasttriplet::cpu
