// What the screen left, counted for reports and tests: nothing that a call needs.
#pragma once

#include "cuda/prepare.cuh"

namespace fasttriplet::cuda {

// Candidates in all lists that no best has left behind.
struct CountCandidates {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  PerSearch<Anchors> anchors;
  int64_t n;
  uint64_t* counts;  // [kSearches], zero at first

  FT_DEVICE void operator()() const {
    const Walk walk = walk_by_thread<CountCandidates>();
    for (int search = 0; search < kSearches; ++search) {
      const Anchors& own = anchors[search];
      uint64_t count = 0;
      for (int64_t r = walk.first; r < n; r += walk.stride)
        for (int k = 0; k < own.length; ++k) count += own.slots[r * own.length + k] >> 32 <= own.best[r];
      if (count > 0) atomic_add(counts + search, count);
    }
  }
};

// On the host, after a call.
struct ScreenCounters {
  uint32_t overflown[kSearches];   // anchors whose lists did not suffice in the coarse round
  bool fine_round;                 // whether another round came for them
  uint32_t scanned[kSearches];     // anchors that were scored against everyone
  uint64_t candidates[kSearches];  // kept in all lists
};

}  // namespace fasttriplet::cuda
