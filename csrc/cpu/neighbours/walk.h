// The walk over all pairs of an anchor and a candidate, by low-precision products: what may be near enough of an anchor
// is a hit, and a consumer says what becomes of it. Where the anchors are the candidates each product serves both ways.
//
// Tasks are squares of blocks. Each works on its own copy of its anchors' bounds, and hands its hits over under the
// lock of their block.
#pragma once

#include <cstdint>
#include <vector>

#include "core/bound.h"
#include "cpu/kernels/tier.h"
#include "cpu/rows/prepare.h"
#include "cpu/threads/parallel.h"

namespace fasttriplet::cpu {

// The anchor's key to the candidate is at least `lower`, and at most that and the slacks of both (core/bound.h).
struct Hit {
  int32_t anchor, candidate;  // places
  double lower;
};

// Anchors and candidates as rows of `prepared`.
struct Walked {
  const Tier& tier;
  const Prepared& prepared;
  const std::vector<RowTerms>& terms;  // [prepared rows]
  int64_t anchors;                     // places [0, anchors)
  int64_t first_candidate;             // a multiple of the tier's width, behind the anchors; 0: the anchors themselves
  int64_t candidates;

  bool symmetric() const { return first_candidate == 0; }
};

class HitConsumer {
 public:
  virtual ~HitConsumer() = default;
  // Copies the bounds of anchors [begin, end): pairs with a lower key above them are no hits. Minus infinity: none is.
  virtual void load(int64_t begin, int64_t end, double* bounds) const = 0;
  // Of one task and one block of anchors, in any order; what it makes of them is handed to `merge`. Without a lock: by
  // several threads at once.
  virtual void look(std::vector<Hit>& hits) = 0;
  // With the lock of the anchors that the hits are of. False ends the walk.
  virtual bool merge(const std::vector<Hit>& hits) = 0;
};

// Calls the consumer for every pair whose lower key is not above its anchor's bound, none with itself. False where a
// merge was. `classes` [prepared.padded] ascending, and no class twice unless the walk is symmetric: pairs of one class
// are no hits.
bool walk_pairs(const Walked& walked, const int32_t* classes, HitConsumer& consumer, const Parallel& parallel);

}  // namespace fasttriplet::cpu
