// The miners of triplets: for every anchor, or every ordered positive pair, the candidates that a miner picks, exactly,
// in O(N * D) memory beside the triplets themselves.
#pragma once

#include <cstdint>
#include <vector>

#include "core/options.h"
#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"
#include "cpu/scan/picks.h"
#include "cpu/scan/refine.h"
#include "cpu/scan/semi_hard.h"

namespace fasttriplet::cpu {

struct TripletOutput {
  int64_t* anchors;    // [T] ascending
  int64_t* positives;  // [T] among the candidates, -1 where there is none
  int64_t* negatives;  // [T] likewise
  double* distances;   // [2, T] to the positive, to the negative; NaN where there is none
};

template <typename T>
class TripletMiner {
 public:
  TripletMiner(const Batch<T>& batch, const PairingInput& input, const MinerOptions& options, const Parallel& parallel);

  int64_t triplets() const { return first_triplet_.back(); }
  bool all_finite() const { return pairing_.all_finite(); }
  void run(const TripletOutput& output);

  int64_t scored() const { return picker_.scored(); }  // exact scores taken of what the scan left

 private:
  bool mine_strip(const Strip& strip, const FineEnough& fine_enough, const TripletOutput& output);
  void mine(Query& query, SemiHardRule<T>& rule, const TripletOutput& output);
  void mine_ranks(Query& query, const Pick& positive, const TripletOutput& output);

  void put(int64_t t, const Pick& positive, const Pick& negative, const TripletOutput& output) const;

  const Batch<T>& batch_;
  const Parallel& parallel_;
  const MinerOptions options_;
  const Survey survey_;
  const Pairing pairing_;
  Picker<T> picker_;
  std::vector<int64_t> first_triplet_;  // [anchors + 1]
};

}  // namespace fasttriplet::cpu
