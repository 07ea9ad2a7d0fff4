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

// A barrier that counts arrivals and bytes.
struct Arrivals {
  int count = 0;  // arrivals that end a phase
  int phase = 0;
  int missing = 0;                           // arrivals still to come in this phase
  int bytes = 0;                             // likewise; below zero where they come before they are expected
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

// A block of a cluster, as far as it is of its own.
struct BlockState {
  std::unique_ptr<char, void (*)(void*)> shared{nullptr, std::free};
  int arrived = 0, finished = 0;
  bool any = false, result = false;
};

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

Cluster* running = nullptr;
const Settings* running_settings = nullptr;

struct KnownSite {
  Site site;
  std::string name;
  int64_t waits;  // of single threads
};
std::vector<KnownSite> known_sites;

// Whether a site is the one to be broken; `names` gets its name. Asked at every wait, so known sites are found by
// pointer and line.
bool is_broken(std::vector<std::string>& names, Site site) {
  auto found = std::find_if(known_sites.begin(), known_sites.end(), [&](const KnownSite& other) {
    return other.site.line == site.line && other.site.file == site.file;
  });
  if (found == known_sites.end()) {
    const std::string file = site.file;
    known_sites.push_back({site, file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line), 0});
    found = known_sites.end() - 1;
    if (std::find(names.begin(), names.end(), found->name) == names.end()) names.push_back(found->name);
  }
  ++found->waits;
  return found->name == running_settings->broken_site;
}

}  // namespace

Sites& sites() {
  static Sites all;
  return all;
}

std::map<std::string, int64_t> take_waits() {
  std::map<std::string, int64_t> waits;
  for (KnownSite& known : known_sites) {
    waits[known.name] += known.waits;
    known.waits = 0;
  }
  return waits;
}

void meet(const char* operation, void* own, void (*combine)(void* const lanes[32])) {
  running->meet(operation, own, combine);
}
bool wait_for_block(bool value, Site site) {
  if (is_broken(sites().block, site)) return value;
  return running->wait_for_block(value);
}
bool last_of_blocks(uint32_t* arrived, uint32_t blocks) { return running->last_of_blocks(arrived, blocks); }
int cluster_rank() { return running->rank(); }
void wait_for_cluster(Site site) {
  if (!is_broken(sites().block, site)) running->wait_for_cluster();
}
void wait_for_warp(Site site) {
  if (!is_broken(sites().warp, site)) running->meet("warp_barrier", nullptr, nullptr);
}
void copy(void* shared, const void* global, int bytes) { running->copy({shared, global, bytes}); }
void commit_copies() { running->commit(); }
void wait_for_copies(int pending, Site site) {
  running->wait_for_copies(is_broken(sites().copies, site) ? pending + 1 : pending);
}

void start_arrivals(uint64_t* barrier, int count) { running->start_arrivals(barrier, count); }
void arrive_at(uint64_t* barrier, int rank) { running->arrive_at(barrier, rank); }
void end_arrivals(uint64_t* barrier) { running->end_arrivals(barrier); }
void expect_arrivals(uint64_t* barrier, int bytes) { running->expect_arrivals(barrier, bytes); }
void copy_box(char* shared, const TileMap& map, int k, int row, uint64_t* barrier, bool to_both) {
  running->copy_box(shared, map, k, row, barrier, to_both);
}
void wait_for_arrivals(uint64_t* barrier, int parity, Site site) {
  if (!is_broken(sites().arrivals, site)) running->wait_for_arrivals(barrier, parity);
}
void multiply_by_group(float* sum, int columns, const void* a, const void* b) {
  running->multiply_by_group(sum, columns, a, b);
}
void commit_group() { running->commit_group(); }
void wait_for_group(int pending, Site site) {
  running->wait_for_group(is_broken(sites().groups, site) ? pending + 1 : pending);
}

void run_grid(const Settings& settings, const Grid& grid, void (*body)(const void*), const void* kernel) {
  static std::vector<Fiber> fibers(kMostThreads);
  std::minstd_rand random(static_cast<unsigned>(settings.seed * 2654435761u + 1));
  if (grid.blocks % grid.cluster != 0) throw std::runtime_error("a grid is not made of whole clusters");
  std::vector<int64_t> order(grid.blocks / grid.cluster);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  Cluster cluster(settings, grid, fibers, random, body, kernel);
  running = &cluster;
  running_settings = &settings;
  for (const int64_t number : order) cluster.run(number * grid.cluster);
}

}  // namespace fasttriplet::cuda::shim
