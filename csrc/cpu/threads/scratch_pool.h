// What threads keep from task to task: fresh memory costs a page fault every 4 KB.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace fasttriplet::cpu {

template <typename Scratch>
class ScratchPool {
 public:
  // One that is free, or what `make` returns.
  template <typename Make>
  std::unique_ptr<Scratch> take(Make&& make) {
    {
      const std::lock_guard<std::mutex> guard(lock_);
      if (!free_.empty()) {
        std::unique_ptr<Scratch> scratch = std::move(free_.back());
        free_.pop_back();
        return scratch;
      }
    }
    return make();
  }
  void give(std::unique_ptr<Scratch> scratch) {
    const std::lock_guard<std::mutex> guard(lock_);
    free_.push_back(std::move(scratch));
  }
  // Calls f(scratch) for all, while none is out.
  template <typename F>
  void for_each(F&& f) {
    for (const std::unique_ptr<Scratch>& scratch : free_) f(*scratch);
  }

 private:
  std::mutex lock_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

}  // namespace fasttriplet::cpu
