// What is subtracted from the rows before they are rounded. It changes no winner, only how tight the bound is
// (core/prepare.h).
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/rows/batch.h"

namespace fasttriplet::cpu {

struct Centres {
  std::vector<double> entries;  // [K, D]; empty: nothing is subtracted
  std::vector<int32_t> of;      // [M] the row of entries for each row; empty: the first for all

  bool empty() const { return entries.empty(); }
};

// The centre of rows `source` [M], or none where that does not pay.
template <typename T>
Centres common_centre(const Batch<T>& batch, const Survey& survey, const std::vector<int32_t>& source);

// A centre for each of the classes `classes` [M], ascending, of rows `source`: tight clusters far from each other have
// no common one that lies in all of them. None where it pays in no class of a sample, beside the common one.
template <typename T>
Centres class_centres(const Batch<T>& batch, const Survey& survey, const std::vector<int32_t>& source,
                      const std::vector<int32_t>& classes, const Centres& common);

}  // namespace fasttriplet::cpu
