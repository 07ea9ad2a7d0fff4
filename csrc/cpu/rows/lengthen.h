// Cosine's gradient grows as 1 / |x|. Near the end of T's range the parts that a sum over all pairs adds up leave it
// where the sum does not, and infinities of both signs give NaN. Rows that short are lengthened by powers of two, which
// leaves every bit of their cosines as it is. The gradient is brought back once it is whole, rounded once.
#pragma once

#include <vector>

#include "cpu/rows/batch.h"

namespace fasttriplet::cpu {

template <typename T>
class Lengthened {
 public:
  // Whether a row is so short; never where the distance does not normalise.
  static bool wanted(const Survey& survey);

  Lengthened(const Batch<T>& batch, const Survey& survey);
  Lengthened(const Lengthened&) = delete;
  Lengthened& operator=(const Lengthened&) = delete;

  const Batch<T>& batch() const { return batch_; }
  // From the gradients [split, D] and [N - split, D] of the lengthened rows to those of the rows that were given.
  void bring_back(T* gradient, T* reference_gradient) const;

 private:
  std::vector<T> rows_;         // [N, D]
  std::vector<int> exponents_;  // [N] a row's power of two
  Batch<T> batch_;
};

}  // namespace fasttriplet::cpu
