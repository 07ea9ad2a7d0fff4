// The gradient of edges that come block by block of anchors, so that no more than a block of them is ever kept. Each
// end of an edge gathers what it pulls, in an order that the number of threads has no say in.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/rows/batch.h"
#include "cpu/triplets/wanted_rows.h"

namespace fasttriplet::cpu {

template <typename T>
class EdgeBlocks {
 public:
  EdgeBlocks(const Batch<T>& batch, const Survey& survey, const WantedRows& wanted, const Parallel& parallel)
      : batch_(batch), survey_(survey), wanted_(wanted), parallel_(parallel) {}

  // Nothing was pulled so far.
  void clear() { sums_.clear(); }
  // A block of anchors, rows of the batch.
  void begin(const int32_t* anchors, int64_t count);
  // The edges of anchor r, none yet; for one thread.
  std::vector<Pull>& edges(int64_t r) { return edges_[r]; }
  // Gathers the block's edges.
  void finish();

  // The gradient [D] of the wanted row of that number times `factor`, of all blocks so far.
  void gradient_of(int64_t at, double factor, double* gradient) const;
  // Writes the gradient of the wanted rows times `factor`, of all blocks so far: the batch's own and the references.
  void write(double factor, T* gradient, T* reference_gradient) const;

 private:
  static constexpr int64_t kParts = 8;  // of a block's anchors, for threads to sort the edges of

  void gather(int64_t at, const Pull* pulls, int64_t count);
  void sort_by_target(int64_t count);

  const Batch<T>& batch_;
  const Survey& survey_;
  const WantedRows wanted_;
  const Parallel& parallel_;
  std::vector<double> sums_;  // [wanted, D] of what pulls a row, at its unit row for cosine
  const int32_t* anchors_ = nullptr;
  int64_t anchor_count_ = 0;
  std::vector<std::vector<Pull>> edges_;  // by anchor, the target as partner
  std::vector<Pull> incoming_;            // by wanted target, the anchor as partner
  std::vector<int32_t> place_;            // [wanted, parts] where those of a part of the anchors begin, then end
};

}  // namespace fasttriplet::cpu
