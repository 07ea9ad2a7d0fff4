// A cluster of blocks as the shim runs it on the host: a fiber a thread, one at a time in an order drawn at random, and
// everything a thread can wait for. What hardware would leave undefined is an error.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/cluster_state.h"
#include "cuda/fiber.h"
#include "cuda/shim.h"

namespace fasttriplet::cuda::shim {

// One cluster at a time, mostly of one block.
class Cluster {
 public:
  Cluster(const Settings& settings, const Grid& grid, std::vector<Fiber>& fibers, std::minstd_rand& random,
          void (*body)(const void*), const void* kernel)
      : settings_(settings), grid_(grid), fibers_(fibers), random_(random), body_(body), kernel_(kernel) {}

  void run(int64_t first_block) {
    first_block_ = first_block;
    blocks_.clear();
    for (int rank = 0; rank < grid_.cluster; ++rank) {
      // Aligned as the copy engine wants it, and not a byte longer than asked for.
      const size_t bytes = static_cast<size_t>(std::max(grid_.shared_bytes, 1));
      void* memory = nullptr;
      if (posix_memalign(&memory, 1024, bytes) != 0) throw std::bad_alloc();
      blocks_.emplace_back();
      blocks_.back().shared.reset(static_cast<char*>(memory));
      std::memset(memory, 0xff, bytes);
    }
    const int threads = grid_.cluster * grid_.threads;
    threads_.assign(threads, Thread());
    warps_.assign((threads + 31) / 32, WarpState());
    groups_.assign((threads + kGroupThreads - 1) / kGroupThreads, GroupState());
    arrivals_.clear();
    in_cluster_ = finished_ = 0;
    ready_.clear();
    unlucky_ready_.clear();
    unlucky_warp_ = static_cast<int>(random_() % warps_.size());
    for (int t = 0; t < threads; ++t) {
      threads_[t].index = t;
      fibers_[t].start(begin, this);
      make_ready(t);
    }
    while (error_.empty() && !(ready_.empty() && unlucky_ready_.empty())) {
      std::vector<int>& ready = ready_.empty() ? unlucky_ready_ : ready_;
      const size_t pick = random_() % ready.size();
      const int next = ready[pick];
      ready[pick] = ready.back();
      ready.pop_back();
      go_on(next);
    }
    if (error_.empty() && finished_ < threads) error_ = describe_deadlock();
    if (error_.empty() && !arrivals_.empty()) error_ = "a barrier of arrivals was not ended";
    for (const GroupState& group : groups_)
      if (error_.empty() && !(group.open.empty() && group.committed.empty()))
        error_ = "a group left with products under way";
    if (!error_.empty()) throw std::runtime_error(error_);
  }

  void meet(const char* operation, void* own, void (*combine)(void* const lanes[32])) {
    WarpState& warp = warps_[current_ / 32];
    if (warp.arrived > 0 && std::strcmp(warp.operation, operation) != 0)
      return fail(std::string("lanes of a warp meet in ") + warp.operation + " and in " + operation);
    warp.operation = operation;
    warp.lanes[current_ % 32] = own;
    if (++warp.arrived < 32) return wait(operation);
    if (combine != nullptr) combine(warp.lanes);
    warp.arrived = 0;
    for (int t = current_ / 32 * 32; t < current_ / 32 * 32 + 32; ++t) release(t);
  }

  bool wait_for_block(bool value) {
    BlockState& block = blocks_[rank()];
    block.any = block.any || value;
    if (++block.arrived < grid_.threads) {
      wait("the block");
      return block.result;
    }
    block.arrived = 0;
    block.result = block.any;
    block.any = false;
    for (int t = rank() * grid_.threads; t < (rank() + 1) * grid_.threads; ++t) release(t);
    return block.result;
  }
  void wait_for_cluster() {
    if (++in_cluster_ < static_cast<int>(threads_.size())) return wait("the cluster");
    in_cluster_ = 0;
    for (Thread& thread : threads_) release(thread.index);
  }
  int rank() const { return current_ / grid_.threads; }

  // Blocks run one after the other, so that those before have come and gone.
  bool last_of_blocks(uint32_t* arrived, uint32_t blocks) {
    wait_for_block(false);
    return wait_for_block(current_ == 0 && (*arrived)++ == blocks - 1);
  }

  void copy(const Copy& copy) {
    const char* const to = static_cast<char*>(copy.to);
    if (to < shared() || to + 16 > shared() + grid_.shared_bytes) return fail("a copy ends outside shared memory");
    if ((to - shared()) % 16 != 0 || (copy.bytes > 0 && reinterpret_cast<uintptr_t>(copy.from) % 16 != 0))
      return fail("a copy's address is not a multiple of 16");
    if (settings_.deferred_copies)
      threads_[current_].open_group.push_back(copy);
    else
      perform(copy);
  }
  void commit() {
    Thread& thread = threads_[current_];
    thread.groups.push_back(std::move(thread.open_group));
    thread.open_group.clear();
  }
  void wait_for_copies(int pending) {
    Thread& thread = threads_[current_];
    for (; static_cast<int>(thread.groups.size()) > pending; thread.groups.pop_front())
      for (const Copy& copy : thread.groups.front()) perform(copy);
  }

  void start_arrivals(uint64_t* barrier, int count) {
    Arrivals arrivals;
    arrivals.count = arrivals.missing = count;
    if (!arrivals_.emplace(barrier, arrivals).second) fail("a barrier of arrivals is started twice");
  }
  void end_arrivals(uint64_t* barrier) {
    const Arrivals& arrivals = started(barrier);
    if (arrivals.bytes != 0 || !arrivals.copies.empty()) fail("a barrier of arrivals ends before its bytes have come");
    arrivals_.erase(barrier);
  }
  void expect_arrivals(uint64_t* barrier, int bytes) {
    Arrivals& arrivals = started(barrier);
    arrivals.bytes += bytes;
    arrive_once(arrivals);
  }
  void arrive_at(uint64_t* barrier, int rank) { arrive_once(started(in_block(barrier, rank))); }

  void copy_box(char* to, const TileMap& map, int k, int row, uint64_t* barrier, bool to_both) {
    constexpr int kRows = 128, kEntries = 64, kBytes = kRows * kEntries * 2;
    if (to < shared() || to + kBytes > shared() + grid_.shared_bytes) return fail("a box ends outside shared memory");
    if ((to - shared()) % 1024 != 0 || map.depth % 8 != 0) return fail("a box or its rows are not aligned");
    const size_t offset = static_cast<size_t>(to - shared());
    for (int rank = 0; rank < grid_.cluster; ++rank) {
      if (!to_both && rank != this->rank()) continue;
      if (blocks_[rank].finished == grid_.threads) return fail("a box is sent to a block that has left");
      char* const there = blocks_[rank].shared.get();
      Arrivals& arrivals = started(in_block(barrier, rank));
      arrivals.copies.push_back([=, &arrivals] {
        for (int r = 0; r < kRows; ++r)
          for (int e = 0; e < kEntries; ++e) {
            const bool inside = row + r < map.n && k + e < map.depth;
            const uint16_t entry = inside ? map.entries[(row + r) * static_cast<int64_t>(map.depth) + k + e] : 0;
            std::memcpy(there + swizzled(offset + static_cast<size_t>(r) * 128, static_cast<size_t>(e) * 2), &entry,
                        sizeof entry);
          }
        arrivals.bytes -= kBytes;
      });
      if (!settings_.deferred_copies || waits_for_arrivals()) arrive(arrivals);
    }
  }
  void wait_for_arrivals(uint64_t* barrier, int parity) {
    while (started(barrier).phase % 2 == parity) {
      arrive(started(barrier));
      if (started(barrier).phase % 2 == parity) wait(kArrival);
    }
  }

  // Calls `last` when all threads of the group have come.
  template <typename F>
  void meet_in_group(const char* operation, F&& last) {
    GroupState& group = groups_[current_ / kGroupThreads];
    if (group.arrived > 0 && std::strcmp(group.operation, operation) != 0)
      return fail(std::string("threads of a group meet in ") + group.operation + " and in " + operation);
    group.operation = operation;
    if (++group.arrived < kGroupThreads) return wait(operation);
    last(group);
    group.arrived = 0;
    const int first = current_ / kGroupThreads * kGroupThreads;
    for (int t = first; t < first + kGroupThreads; ++t) release(t);
  }

  // PTX ISA, "Register fragments for wgmma.mma_async.m64nNk16": accumulators of warp w lie in its rows 16 w to 16 w +
  // 15 as those of mma.m16n8 do.
  void multiply_by_group(float* sum, int columns, const void* a, const void* b) {
    groups_[current_ / kGroupThreads].sums[current_ % kGroupThreads] = sum;
    const char* const memory = shared();
    const size_t a_offset = static_cast<size_t>(static_cast<const char*>(a) - memory);
    const size_t b_offset = static_cast<size_t>(static_cast<const char*>(b) - memory);
    meet_in_group("group_multiply_add", [&](GroupState& group) {
      const auto entry = [memory](size_t offset, int row, int k) {
        uint16_t bits;
        std::memcpy(&bits, memory + swizzled(offset + static_cast<size_t>(row) * 128, static_cast<size_t>(k) * 2),
                    sizeof bits);
        return static_cast<double>(bits_float(static_cast<uint32_t>(bits) << 16));
      };
      const auto multiply = [=, &group] {
        const int of_lane = columns / 4;  // in each of two rows
        for (int t = 0; t < kGroupThreads; ++t)
          for (int s = 0; s < 2 * of_lane; ++s) {
            const int row = t / 32 * 16 + t % 32 / 4 + s / of_lane * 8;
            const int column = s % of_lane / 2 * 8 + t % 4 * 2 + s % 2;
            double products[16];
            for (int k = 0; k < 16; ++k) products[k] = entry(a_offset, row, k) * entry(b_offset, column, k);
            group.sums[t][s] = add_as_tensor_core(group.sums[t][s], products);
          }
      };
      if (settings_.deferred_products)
        group.open.push_back(multiply);
      else
        multiply();
    });
  }
  void commit_group() {
    meet_in_group("group_commit", [](GroupState& group) {
      group.committed.push_back(std::move(group.open));
      group.open.clear();
    });
  }
  void wait_for_group(int pending) {
    meet_in_group("group_wait", [&](GroupState& group) {
      for (; static_cast<int>(group.committed.size()) > pending; group.committed.pop_front())
        for (const auto& multiply : group.committed.front()) multiply();
    });
  }

 private:
  static constexpr const char* kArrival = "arrivals";

  Arrivals& started(uint64_t* barrier) {
    const auto found = arrivals_.find(barrier);
    if (found == arrivals_.end()) fail("a barrier of arrivals is used that was not started");
    return found->second;
  }
  bool waits_for_arrivals() const {
    return std::any_of(threads_.begin(), threads_.end(),
                       [](const Thread& thread) { return thread.waits_for == kArrival; });
  }
  // The copies that are under way.
  void arrive(Arrivals& arrivals) {
    while (!arrivals.copies.empty()) {
      arrivals.copies.front()();
      arrivals.copies.pop_front();
      end_phase(arrivals);
    }
  }
  void arrive_once(Arrivals& arrivals) {
    if (arrivals.missing == 0) return fail("more arrive at a barrier than it waits for");
    --arrivals.missing;
    end_phase(arrivals);
  }
  // Where all arrivals and all bytes are there.
  void end_phase(Arrivals& arrivals) {
    if (arrivals.missing != 0 || arrivals.bytes != 0) return;
    arrivals.missing = arrivals.count;
    ++arrivals.phase;
    for (const Thread& thread : threads_)
      if (thread.waits_for == kArrival) release(thread.index);  // to look again
  }

  char* shared() const { return blocks_[rank()].shared.get(); }
  // What lies at the same place in the shared memory of another block of the cluster.
  uint64_t* in_block(uint64_t* place, int rank) {
    if (rank >= grid_.cluster) fail("the cluster has fewer blocks");
    return reinterpret_cast<uint64_t*>(blocks_[rank].shared.get() + (reinterpret_cast<char*>(place) - shared()));
  }

  static void begin(void* cluster) { static_cast<Cluster*>(cluster)->run_thread(); }

  void run_thread() {
    entered_fiber(host_);
    body_(kernel_);
    Thread& thread = threads_[current_];
    thread.finished = true;
    ++finished_;
    ++blocks_[rank()].finished;
    bool copying = !thread.open_group.empty();
    for (const std::vector<Copy>& group : thread.groups) copying = copying || !group.empty();
    if (copying) error_ = "a thread left with copies under way";
    switch_context(fibers_[current_].context, host_, true);
  }

  void go_on(int thread) {
    current_ = thread;
    position = {thread % grid_.threads, first_block_ + rank(), grid_.blocks, shared()};
    switch_context(host_, fibers_[thread].context);
  }

  void wait(const char* what) {
    threads_[current_].waits_for = what;
    switch_context(fibers_[current_].context, host_);
  }

  void release(int thread) {
    if (thread == current_) return;
    threads_[thread].waits_for = nullptr;
    make_ready(thread);
  }

  void make_ready(int thread) { (thread / 32 == unlucky_warp_ ? unlucky_ready_ : ready_).push_back(thread); }

  // Never returns: nothing goes on after an error.
  void fail(const std::string& message) {
    error_ = message;
    switch_context(fibers_[current_].context, host_, true);
  }

  std::string describe_deadlock() const {
    std::string text = "threads wait for ever:";
    for (size_t warp = 0; warp < warps_.size(); ++warp) {
      int finished = 0, waiting = 0;
      const char* what = "";
      for (size_t t = warp * 32; t < std::min(threads_.size(), warp * 32 + 32); ++t) {
        finished += threads_[t].finished;
        if (threads_[t].waits_for != nullptr) {
          ++waiting;
          what = threads_[t].waits_for;
        }
      }
      if (waiting > 0)
        text += " of warp " + std::to_string(warp) + " " + std::to_string(waiting) + " wait for " + what + " and " +
                std::to_string(finished) + " have left;";
    }
    return text;
  }

  const Settings& settings_;
  const Grid& grid_;
  std::vector<Fiber>& fibers_;
  std::minstd_rand& random_;
  Context host_;
  void (*body_)(const void*);
  const void* kernel_;
  int64_t first_block_ = 0;
  std::vector<BlockState> blocks_;
  std::vector<Thread> threads_;
  std::vector<WarpState> warps_;
  std::vector<GroupState> groups_;
  std::map<uint64_t*, Arrivals> arrivals_;
  std::vector<int> ready_, unlucky_ready_;
  int unlucky_warp_ = 0;  // runs only where no other can: a warp may be far behind the rest
  int current_ = 0, in_cluster_ = 0, finished_ = 0;
  std::string error_;
};

}  // namespace fasttriplet::cuda::shim
