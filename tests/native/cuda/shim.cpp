#include "cuda/shim.h"

#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <new>
#include <random>
#include <stdexcept>

#include "cuda/fiber.h"

namespace fasttriplet::cuda::shim {

Position position;

namespace {

constexpr int kMostThreads = 1024;

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

void perform(const Copy& copy) {
  std::memset(copy.to, 0, 16);
  if (copy.bytes > 0) std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
}

struct Thread {
  int index = 0;
  bool finished = false;
  const char* waits_for = nullptr;  // null: can go on
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> open_group;
};

struct WarpState {
  const char* operation = nullptr;
  int arrived = 0;
  void* lanes[32] = {};
};

// A barrier that counts bytes.
struct Arrivals {
  int phase = 0;
  bool expecting = false;
  int bytes = 0;                             // still to come in this phase
  std::deque<std::function<void()>> copies;  // not done yet
};

// Four warps, and their products that are not done yet.
constexpr int kGroupThreads = 128;
struct GroupState {
  const char* operation = nullptr;
  int arrived = 0;
  float* sums[kGroupThreads] = {};
  std::vector<std::function<void()>> open;
  std::deque<std::vector<std::function<void()>>> committed;
};

// Where a byte of a row of 128 bytes lies in shared memory, the row's chunks of 16 bytes turned by its number: bits 7
// to 9 of the address are added to bits 4 to 6 without carry.
size_t swizzled(size_t row_start, size_t byte) {
  const size_t linear = row_start + byte;
  return linear ^ ((linear >> 7 & 7) << 4);
}

// One block at a time.
class Block {
 public:
  Block(const Settings& settings, std::vector<Fiber>& fibers, std::minstd_rand& random)
      : settings_(settings), fibers_(fibers), random_(random) {}

  void run(int64_t index, int64_t count, int threads, int shared_bytes, void (*body)(const void*), const void* kernel) {
    // Aligned as the copy engine wants it, and not a byte longer than asked for.
    const size_t bytes = static_cast<size_t>(std::max(shared_bytes, 1));
    void* memory = nullptr;
    if (posix_memalign(&memory, 1024, bytes) != 0) throw std::bad_alloc();
    const std::unique_ptr<char, void (*)(void*)> shared(static_cast<char*>(memory), std::free);
    std::memset(shared.get(), 0xff, bytes);
    shared_ = shared.get();
    shared_bytes_ = shared_bytes;
    body_ = body;
    kernel_ = kernel;
    block_ = index;
    blocks_ = count;
    threads_.assign(threads, Thread());
    warps_.assign((threads + 31) / 32, WarpState());
    groups_.assign((threads + kGroupThreads - 1) / kGroupThreads, GroupState());
    arrivals_.clear();
    arrived_ = finished_ = 0;
    any_ = false;
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
    any_ = any_ || value;
    if (++arrived_ < static_cast<int>(threads_.size())) {
      wait("the block");
      return result_;
    }
    arrived_ = 0;
    result_ = any_;
    any_ = false;
    for (Thread& thread : threads_) release(thread.index);
    return result_;
  }

  void copy(const Copy& copy) {
    const char* const to = static_cast<char*>(copy.to);
    if (to < shared_ || to + 16 > shared_ + shared_bytes_) return fail("a copy ends outside shared memory");
    if ((to - shared_) % 16 != 0 || (copy.bytes > 0 && reinterpret_cast<uintptr_t>(copy.from) % 16 != 0))
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

  void start_arrivals(uint64_t* barrier) {
    if (!arrivals_.emplace(barrier, Arrivals()).second) fail("a barrier of arrivals is started twice");
  }
  void end_arrivals(uint64_t* barrier) {
    if (arrivals_.erase(barrier) == 0) fail("a barrier of arrivals ends that was not started");
  }
  void expect_arrivals(uint64_t* barrier, int bytes) {
    Arrivals& arrivals = started(barrier);
    if (arrivals.expecting) fail("a barrier of arrivals already expects bytes");
    arrivals.expecting = true;
    arrivals.bytes += bytes;
  }
  void copy_box(char* to, const TileMap& map, int k, int row, uint64_t* barrier) {
    constexpr int kRows = 128, kEntries = 64, kBytes = kRows * kEntries * 2;
    if (to < shared_ || to + kBytes > shared_ + shared_bytes_) return fail("a box ends outside shared memory");
    if ((to - shared_) % 1024 != 0 || map.depth % 8 != 0) return fail("a box or its rows are not aligned");
    Arrivals& arrivals = started(barrier);
    const size_t offset = static_cast<size_t>(to - shared_);
    arrivals.copies.push_back([=, this_shared = shared_, &arrivals] {
      for (int r = 0; r < kRows; ++r)
        for (int e = 0; e < kEntries; ++e) {
          const bool inside = row + r < map.n && k + e < map.depth;
          const uint16_t entry = inside ? map.entries[(row + r) * static_cast<int64_t>(map.depth) + k + e] : 0;
          std::memcpy(this_shared + swizzled(offset + static_cast<size_t>(r) * 128, static_cast<size_t>(e) * 2), &entry,
                      sizeof entry);
        }
      arrivals.bytes -= kBytes;
    });
    if (!settings_.deferred_copies || waits_for_arrivals()) arrive(arrivals);
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
  void multiply_by_group(float* sum, const void* a, const void* b) {
    groups_[current_ / kGroupThreads].sums[current_ % kGroupThreads] = sum;
    const size_t a_offset = static_cast<size_t>(static_cast<const char*>(a) - shared_);
    const size_t b_offset = static_cast<size_t>(static_cast<const char*>(b) - shared_);
    meet_in_group("group_multiply_add", [&](GroupState& group) {
      const auto entry = [this](size_t offset, int row, int k) {
        uint16_t bits;
        std::memcpy(&bits, shared_ + swizzled(offset + static_cast<size_t>(row) * 128, static_cast<size_t>(k) * 2),
                    sizeof bits);
        return static_cast<double>(bits_float(static_cast<uint32_t>(bits) << 16));
      };
      const auto multiply = [=, &group] {
        for (int t = 0; t < kGroupThreads; ++t)
          for (int s = 0; s < 64; ++s) {
            const int row = t / 32 * 16 + t % 32 / 4 + s / 32 * 8, column = s % 32 / 2 * 8 + t % 4 * 2 + s % 2;
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
  // Does the copies, and ends the phase where all its bytes are there.
  void arrive(Arrivals& arrivals) {
    while (!arrivals.copies.empty()) {
      arrivals.copies.front()();
      arrivals.copies.pop_front();
      if (!arrivals.expecting || arrivals.bytes != 0) continue;
      arrivals.expecting = false;
      ++arrivals.phase;
      for (const Thread& thread : threads_)
        if (thread.waits_for == kArrival) release(thread.index);  // to look again
    }
  }

  static void begin(void* block) { static_cast<Block*>(block)->run_thread(); }

  void run_thread() {
    entered_fiber(host_);
    body_(kernel_);
    Thread& thread = threads_[current_];
    thread.finished = true;
    ++finished_;
    bool copying = !thread.open_group.empty();
    for (const std::vector<Copy>& group : thread.groups) copying = copying || !group.empty();
    if (copying) error_ = "a thread left with copies under way";
    switch_context(fibers_[current_].context, host_, true);
  }

  void go_on(int thread) {
    current_ = thread;
    position = {thread, block_, blocks_, shared_};
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
  std::vector<Fiber>& fibers_;
  std::minstd_rand& random_;
  Context host_;
  char* shared_ = nullptr;
  int shared_bytes_ = 0;
  void (*body_)(const void*) = nullptr;
  const void* kernel_ = nullptr;
  int64_t block_ = 0, blocks_ = 0;
  std::vector<Thread> threads_;
  std::vector<WarpState> warps_;
  std::vector<GroupState> groups_;
  std::map<uint64_t*, Arrivals> arrivals_;
  std::vector<int> ready_, unlucky_ready_;
  int unlucky_warp_ = 0;  // runs only where no other can: a warp may be far behind the rest
  int current_ = 0, arrived_ = 0, finished_ = 0;
  bool any_ = false, result_ = false;
  std::string error_;
};

Block* running = nullptr;
const Settings* running_settings = nullptr;

// Whether a site is the one to be broken; `names` gets its name. Asked at every wait, so known sites are found by
// pointer and line.
bool is_broken(std::vector<std::string>& names, Site site) {
  static std::vector<std::pair<Site, std::string>> known;
  auto found = std::find_if(known.begin(), known.end(), [&](const auto& other) {
    return other.first.line == site.line && other.first.file == site.file;
  });
  if (found == known.end()) {
    const std::string file = site.file;
    known.emplace_back(site, file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line));
    found = known.end() - 1;
    if (std::find(names.begin(), names.end(), found->second) == names.end()) names.push_back(found->second);
  }
  return found->second == running_settings->broken_site;
}

}  // namespace

Sites& sites() {
  static Sites all;
  return all;
}

void meet(const char* operation, void* own, void (*combine)(void* const lanes[32])) {
  running->meet(operation, own, combine);
}
bool wait_for_block(bool value, Site site) {
  if (is_broken(sites().block, site)) return value;
  return running->wait_for_block(value);
}
void wait_for_warp(Site site) {
  if (!is_broken(sites().warp, site)) running->meet("warp_barrier", nullptr, nullptr);
}
void copy(void* shared, const void* global, int bytes) { running->copy({shared, global, bytes}); }
void commit_copies() { running->commit(); }
void wait_for_copies(int pending, Site site) {
  running->wait_for_copies(is_broken(sites().copies, site) ? pending + 1 : pending);
}

void start_arrivals(uint64_t* barrier) { running->start_arrivals(barrier); }
void end_arrivals(uint64_t* barrier) { running->end_arrivals(barrier); }
void expect_arrivals(uint64_t* barrier, int bytes) { running->expect_arrivals(barrier, bytes); }
void copy_box(char* shared, const TileMap& map, int k, int row, uint64_t* barrier) {
  running->copy_box(shared, map, k, row, barrier);
}
void wait_for_arrivals(uint64_t* barrier, int parity, Site site) {
  if (!is_broken(sites().arrivals, site)) running->wait_for_arrivals(barrier, parity);
}
void multiply_by_group(float* sum, const void* a, const void* b) { running->multiply_by_group(sum, a, b); }
void commit_group() { running->commit_group(); }
void wait_for_group(int pending, Site site) {
  running->wait_for_group(is_broken(sites().groups, site) ? pending + 1 : pending);
}

void run_grid(const Settings& settings, int64_t blocks, int threads, int shared_bytes, void (*body)(const void*),
              const void* kernel) {
  static std::vector<Fiber> fibers(kMostThreads);
  std::minstd_rand random(static_cast<unsigned>(settings.seed * 2654435761u + 1));
  std::vector<int64_t> order(blocks);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  Block block(settings, fibers, random);
  running = &block;
  running_settings = &settings;
  for (const int64_t index : order) block.run(index, blocks, threads, shared_bytes, body, kernel);
}

}  // namespace fasttriplet::cuda::shim
