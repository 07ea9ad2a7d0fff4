#include "cuda/shim.h"

#include <deque>
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

// One block at a time.
class Block {
 public:
  Block(const Settings& settings, std::vector<Fiber>& fibers, std::minstd_rand& random)
      : settings_(settings), fibers_(fibers), random_(random) {}

  void run(int64_t index, int64_t count, int threads, int shared_bytes, void (*body)(const void*), const void* kernel) {
    // Aligned as shared memory is, and not a byte longer than asked for.
    const size_t bytes = static_cast<size_t>(shared_bytes);
    std::unique_ptr<char, void (*)(void*)> shared(
        static_cast<char*>(std::aligned_alloc(128, (bytes + 127) / 128 * 128)), std::free);
    std::memset(shared.get(), 0xff, (bytes + 127) / 128 * 128);
    shared_ = shared.get();
    shared_bytes_ = shared_bytes;
    body_ = body;
    kernel_ = kernel;
    block_ = index;
    blocks_ = count;
    threads_.assign(threads, Thread());
    warps_.assign((threads + 31) / 32, WarpState());
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

 private:
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
  std::vector<int> ready_, unlucky_ready_;
  int unlucky_warp_ = 0;  // runs only where no other can: a warp may be far behind the rest
  int current_ = 0, arrived_ = 0, finished_ = 0;
  bool any_ = false, result_ = false;
  std::string error_;
};

Block* running = nullptr;
const Settings* running_settings = nullptr;

// The names of the sites met so far; looked up at every wait, so by pointer and line.
struct SeenSite {
  Site site;
  std::string name;
};

bool is_broken(std::vector<std::string>& names, Site site) {
  static std::vector<SeenSite> seen;
  const auto found = std::find_if(seen.begin(), seen.end(), [&](const SeenSite& known) {
    return known.site.line == site.line && known.site.file == site.file;
  });
  if (found == seen.end()) {
    const std::string file = site.file;
    const std::string name = file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
    seen.push_back({site, name});
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    return name == running_settings->broken_site;
  }
  return !running_settings->broken_site.empty() && found->name == running_settings->broken_site;
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
