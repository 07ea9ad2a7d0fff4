// Negatives by rank: those that are neither the `skip` nearest of an anchor nor beyond rank `last`, exactly.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/scan/picks.h"

namespace fasttriplet::cpu {

struct Ranked {
  std::vector<Pick> picks;  // ascending, those of ranks [skip, last) among them
  int64_t below = 0;        // rank of the first

  const Pick& at(int64_t rank) const { return picks[rank - below]; }
};

// Ranks [skip, last) of the query's negatives, skip < last <= their count, from 0. Each negative has a column of its
// own.
template <typename T>
Ranked ranked_negatives(Picker<T>& picker, Query& query, int64_t skip, int64_t last);

}  // namespace fasttriplet::cpu
