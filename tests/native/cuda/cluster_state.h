// What the shim's cluster keeps of each of its blocks, groups of warps, warps and threads while they run.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

namespace fasttriplet::cuda::shim {

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

inline void perform(const Copy& copy) {
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
inline constexpr int kGroupThreads = 128;
struct GroupState {
  const char* operation = nullptr;
  int arrived = 0;
  float* sums[kGroupThreads] = {};
  std::vector<std::function<void()>> open;
  std::deque<std::vector<std::function<void()>>> committed;
};

// Where a byte of a row of 128 bytes lies in shared memory, the row's chunks of 16 bytes turned by its number: bits 7
// to 9 of the address are added to bits 4 to 6 without carry.
inline size_t swizzled(size_t row_start, size_t byte) {
  const size_t linear = row_start + byte;
  return linear ^ ((linear >> 7 & 7) << 4);
}

// A block of a cluster, as far as it is of its own.
struct BlockState {
  std::unique_ptr<char, void (*)(void*)> shared{nullptr, std::free};
  int arrived = 0, finished = 0;
  bool any = false, result = false;
};

}  // namespace fasttriplet::cuda::shim
