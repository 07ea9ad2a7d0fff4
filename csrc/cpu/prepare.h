// The rows as the screen multiplies them: representatives in class order, centred, scaled, rounded to float32 or
// bfloat16, in panels.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/bound.h"
#include "cpu/batch.h"
#include "cpu/groups.h"

namespace fasttriplet::cpu {

struct Prepared {
  std::unique_ptr<float[], void (*)(void*)> panels{nullptr, nullptr};  // [panels, panel words]
  int64_t depth = 0;                                                   // words of a row, cpu/tier.h
  int64_t padded = 0;                                                  // M rounded up to whole panels
  std::vector<RowNorms> norms;                                         // [M]
  double kappa = 0;                                                    // core/bound.h
  ProductScale product = {};                                           // of inner products
  double scale = 1;                                                    // power of two; 0 where nothing can be screened
};

// `tier` is the one that will multiply them: the batch's or a finer one.
template <typename T>
Prepared prepare_rows(const Batch<T>& batch, const Tier& tier, const Survey& survey, const Groups& groups,
                      const Parallel& parallel);

// A representative's share of the bound, for the nearest or the farthest.
RowTerms terms_of(const Prepared& prepared, Distance distance, int64_t representative, bool farthest);

}  // namespace fasttriplet::cpu
