#include "cpu/dense/semi_hard.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "core/loss.h"
#include "cpu/scan/refine.h"
#include "cpu/scan/semi_hard.h"
#include "cpu/threads/scratch_pool.h"
#include "cpu/triplets/edge_blocks.h"

namespace fasttriplet::cpu {
namespace {

// Edges of a block of anchors, about, or those of kTileRows anchors where they are more: 16 bytes each, twice. What a
// target's edges add up to follows from the blocks, so that neither the tier nor the number of threads may have a say
// in them.
constexpr int64_t kBlockEdges = 1 << 20;

template <typename T>
class SemiHard {
 public:
  SemiHard(const Batch<T>& batch, const Survey& survey, const Pairing& pairing, const MinerOptions& miner,
           double margin, bool soft_margin, const double* weights, const Parallel& parallel,
           const SemiHardOutput& output)
      : batch_(batch),
        survey_(survey),
        pairing_(pairing),
        miner_(miner),
        margin_(margin),
        soft_margin_(soft_margin),
        weights_(weights),
        parallel_(parallel),
        output_(output),
        picker_(batch, survey, pairing) {}

  // `edges` may be null: no gradient is wanted.
  void run(EdgeBlocks<T>* edges) {
    std::vector<int64_t> positives(pairing_.anchors());
    for (int64_t i = 0; i < pairing_.anchors(); ++i)
      positives[i] = pairing_.takes_part(i) ? pairing_.count(i, Role::kPositive) : 0;
    const int64_t pairs = std::accumulate(positives.begin(), positives.end(), int64_t{0});
    const Tier& tier = tier_for_thresholds(batch_.tier, pairs, pairing_.anchors());
    refine(batch_, survey_, pairing_, picker_, tier, parallel_,
           [&](const Scan<T>& scan, const FineEnough& fine_enough) {
             return attempt(scan, positives, fine_enough, edges);
           });
  }

  // Of triplets that were mined before, by anchor, every positive pair of it with its negative.
  void run(const MinedTriplets& mined, EdgeBlocks<T>* edges) {
    const int64_t anchors = pairing_.anchors();
    std::vector<int64_t> first(anchors + 1, mined.count), positives(anchors);
    for (int64_t t = mined.count; t-- > 0;) first[mined.anchors[t]] = t;
    for (int64_t i = anchors; i-- > 0;) {
      first[i] = std::min(first[i], first[i + 1]);
      positives[i] = first[i + 1] - first[i];
    }
    clear(edges);
    const std::vector<int32_t> rows = pairing_.anchor_rows();
    for_each_block(rows, positives, edges, [&](int64_t begin, int64_t end) {
      for_each_range(parallel_, end - begin, 8, 16.0 * static_cast<double>(mined.count), [&](int64_t from, int64_t to) {
        std::vector<PositivePick> pairs;
        for (int64_t r = from; r < to; ++r) {
          const int32_t anchor = rows[begin + r];
          pairs.clear();
          for (int64_t t = first[anchor]; t < first[anchor + 1]; ++t)
            pairs.push_back(
                {mined.positives[t], mined.distances[t], {mined.negatives[t], mined.distances[mined.count + t]}});
          add(anchor, pairs, edges == nullptr ? nullptr : &edges->edges(r));
        }
      });
      return true;
    });
  }

 private:
  void clear(EdgeBlocks<T>* edges) {
    std::fill_n(output_.sums, pairing_.anchors(), 0.0);
    std::fill_n(output_.active, pairing_.anchors(), 0);
    std::fill_n(output_.triplets, pairing_.anchors(), 0);
    if (edges != nullptr) edges->clear();
  }

  // Calls block(begin, end), which adds anchors rows[begin, end), until one returns false; returns the last answer.
  template <typename Block>
  bool for_each_block(const std::vector<int32_t>& rows, const std::vector<int64_t>& positives, EdgeBlocks<T>* edges,
                      Block&& block) {
    const int64_t count = static_cast<int64_t>(rows.size());
    for (int64_t begin = 0, end; begin < count; begin = end) {
      int64_t total = 0;
      for (end = begin; end < count && (total < kBlockEdges || (end - begin) % kTileRows != 0); ++end)
        if (edges != nullptr) total += 2 * positives[rows[end]];
      if (edges != nullptr) edges->begin(rows.data() + begin, end - begin);
      if (!block(begin, end)) return false;
      if (edges != nullptr) edges->finish();
    }
    return true;
  }

  bool attempt(const Scan<T>& scan, const std::vector<int64_t>& positives, const FineEnough& fine_enough,
               EdgeBlocks<T>* edges) {
    clear(edges);
    return for_each_block(scan.rows(), positives, edges, [&](int64_t begin, int64_t end) {
      return scan.run(begin, end, [&](const Strip& strip) {
        std::unique_ptr<SemiHardMiner<T>> miner =
            pool_.take([&] { return std::make_unique<SemiHardMiner<T>>(picker_, pairing_, miner_); });
        int64_t r = strip.first - begin;
        const bool wanted = miner->mine(strip, [&](int32_t anchor, const std::vector<PositivePick>& pairs) {
          add(anchor, pairs, edges == nullptr ? nullptr : &edges->edges(r));
          ++r;
          return fine_enough();
        });
        pool_.give(std::move(miner));
        return wanted;
      });
    });
  }

  // An anchor's sum, and its edges where those are wanted: a positive's and its negative's in turn, so that what
  // cancels does so at once.
  void add(int32_t anchor, const std::vector<PositivePick>& pairs, std::vector<Pull>* edges) const {
    const double weight_of_anchor = weights_ == nullptr ? 1 : weights_[anchor];
    const int64_t first = pairing_.first_candidate();
    if (edges != nullptr) edges->reserve(2 * pairs.size());
    double sum = 0;
    int64_t active = 0, triplets = 0;
    for (const PositivePick& pair : pairs) {
      if (pair.positive < 0 || pair.negative.candidate < 0) continue;
      const double difference = pair.distance - pair.negative.score;
      const AnchorLoss loss = soft_margin_ ? softplus(difference) : hinge(difference, margin_);
      ++triplets;
      active += loss.loss != 0;  // true for NaN
      sum += loss.loss;
      if (edges == nullptr || loss.slope == 0) continue;
      const auto pull = [&](double slope, const Pick& pick) {
        const double weight = edge_weight(batch_.distance, slope, pick.score);
        if (weight != 0) edges->push_back({weight, static_cast<int32_t>(first + pick.candidate)});
      };
      pull(weight_of_anchor * loss.slope, {pair.positive, pair.distance});
      pull(-weight_of_anchor * loss.slope, pair.negative);
    }
    output_.sums[anchor] = sum;
    output_.active[anchor] = active;
    output_.triplets[anchor] = triplets;
  }

  const Batch<T>& batch_;
  const Survey& survey_;
  const Pairing& pairing_;
  const MinerOptions& miner_;
  const double margin_;
  const bool soft_margin_;
  const double* const weights_;
  const Parallel& parallel_;
  const SemiHardOutput& output_;
  Picker<T> picker_;
  ScratchPool<SemiHardMiner<T>> pool_;  // what a thread keeps from strip to strip
};

}  // namespace

namespace {

// Runs `loss`, and writes its gradient where one is wanted. Returns whether every row that takes part is finite.
template <typename T, typename Run>
bool sums_and_gradient(const Batch<T>& batch, const Survey& survey, const Pairing& pairing, const double* weights,
                       const WantedRows& rows, const Parallel& parallel, const SemiHardOutput& output, T* gradient,
                       T* reference_gradient, Run&& run) {
  const int64_t anchors = pairing.anchors();
  const bool finite = pairing.all_finite();
  // A sum or a weight is, of an anchor that has triplets.
  const auto is_nan = [&](int64_t i) {
    return output.triplets[i] > 0 && (std::isnan(output.sums[i]) || (weights != nullptr && std::isnan(weights[i])));
  };
  if (gradient != nullptr || reference_gradient != nullptr) {
    EdgeBlocks<T> edges(batch, survey, rows, parallel);
    run(&edges);
    const int64_t triplets = std::accumulate(output.triplets, output.triplets + anchors, int64_t{0});
    double factor = 1 / static_cast<double>(std::max<int64_t>(triplets, 1));
    bool exists = finite;
    for (int64_t i = 0; i < anchors; ++i) exists &= !is_nan(i);
    if (!exists) factor = std::numeric_limits<double>::quiet_NaN();
    edges.write(factor, gradient, reference_gradient);
  } else {
    run(nullptr);
  }
  if (!finite) std::fill_n(output.sums, anchors, std::numeric_limits<double>::quiet_NaN());
  return finite;
}

}  // namespace

template <typename T>
bool semi_hard(const Batch<T>& batch, const PairingInput& input, const MinerOptions& miner, double margin,
               bool soft_margin, const double* weights, const Parallel& parallel, const SemiHardOutput& output,
               T* gradient, T* reference_gradient) {
  const KeepDenormals mode;
  const Survey survey = survey_rows(batch, parallel);
  const Pairing pairing(batch, survey, input, EqualRows::kMerged);
  SemiHard<T> loss(batch, survey, pairing, miner, margin, soft_margin, weights, parallel, output);
  return sums_and_gradient(batch, survey, pairing, weights, every_row(batch.split, batch.n), parallel, output, gradient,
                           reference_gradient, [&](EdgeBlocks<T>* edges) { loss.run(edges); });
}

template <typename T>
bool semi_hard_of_triplets(const Batch<T>& batch, const PairingInput& input, const MinedTriplets& mined, double margin,
                           bool soft_margin, const double* weights, const WantedRows& rows, const Parallel& parallel,
                           const SemiHardOutput& output, T* gradient, T* reference_gradient) {
  const KeepDenormals mode;
  const Survey survey = survey_rows(batch, parallel);
  const Pairing pairing(batch, survey, input, EqualRows::kMerged);
  const MinerOptions unused{};
  SemiHard<T> loss(batch, survey, pairing, unused, margin, soft_margin, weights, parallel, output);
  return sums_and_gradient(batch, survey, pairing, weights, rows, parallel, output, gradient, reference_gradient,
                           [&](EdgeBlocks<T>* edges) { loss.run(mined, edges); });
}

template bool semi_hard(const Batch<float>&, const PairingInput&, const MinerOptions&, double, bool, const double*,
                        const Parallel&, const SemiHardOutput&, float*, float*);
template bool semi_hard(const Batch<double>&, const PairingInput&, const MinerOptions&, double, bool, const double*,
                        const Parallel&, const SemiHardOutput&, double*, double*);

template bool semi_hard_of_triplets(const Batch<float>&, const PairingInput&, const MinedTriplets&, double, bool,
                                    const double*, const WantedRows&, const Parallel&, const SemiHardOutput&, float*,
                                    float*);
template bool semi_hard_of_triplets(const Batch<double>&, const PairingInput&, const MinedTriplets&, double, bool,
                                    const double*, const WantedRows&, const Parallel&, const SemiHardOutput&, double*,
                                    double*);

}  // namespace fasttriplet::cpu
