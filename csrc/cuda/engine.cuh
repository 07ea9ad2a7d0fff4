// The launches of a call, in their order; nothing comes back to the host between them. Host code without PyTorch and
// without the CUDA runtime: a Device launches kernels, clears memory and sorts, on the GPU (launch.cuh) or, in the
// tests, on the host.
//
//   Device::launch(kernel, blocks)               kernel: a struct of device.cuh
//   Device::clear(pointer, bytes)
//   Device::processors(), float64_ratio()         multiprocessors, and how much slower float64 is than float32
//   Device::sort_bytes(count), Device::sort(...)   radix sort of 64-bit keys with 32-bit values
#pragma once

#include <algorithm>
#include <optional>
#include <type_traits>

#include "cuda/backward.cuh"
#include "cuda/counters.cuh"
#include "cuda/loss.cuh"
#include "cuda/memory.cuh"
#include "cuda/order.cuh"
#include "cuda/prepare.cuh"
#include "cuda/screen.cuh"
#include "cuda/settle.cuh"
#include "cuda/survey.cuh"
#include "cuda/tile_float.cuh"
#include "cuda/tile_tensor.cuh"
#include "cuda/tile_wgmma.cuh"
#include "cuda/together.cuh"
#include "cuda/triplet_margin.cuh"

namespace fasttriplet::cuda {

// Which products the screen begins with; what they leave open goes to float32 products, and from there to exact scores.
enum class Products { kSmallTensor, kLargeTensor, kWgmma, kWgmmaPair, kFloat };

// Up to 4096 rows small tiles keep more of the machine busy.
inline Products tensor_products(int64_t n) { return n <= 4096 ? Products::kSmallTensor : Products::kLargeTensor; }

// Up to this many rows, anchors that the coarse round leaves are scored against everyone, and the launches of another
// round are spared: all of them take some 10 us at D = 128 on a GPU for computing.
inline constexpr int64_t kSmallBatch = 512;

template <typename T>
struct DeviceBatch {
  const T* rows;  // [N, D]
  int64_t n, d;
  Distance distance;
};

// The batch's own rows and behind them those of references, which lie elsewhere.
template <typename T>
struct JoinedBatch {
  const T* rows;  // [N, D]
  int64_t n;
  const T* references;  // [M, D]
  int64_t m, d;
  Distance distance;
  bool has_references;  // if only of no rows: these are the candidates, else the batch's own rows
};

// Calls f with the tag of the distance.
template <typename F>
void dispatch_distance(Distance distance, F&& f) {
  switch (distance) {
    case Distance::kEuclidean:
      return f(RootDifference());
    case Distance::kSquaredEuclidean:
      return f(Difference());
    case Distance::kCosine:
      return f(UnitDifference());
    case Distance::kInnerProduct:
      return f(Product());
  }
}

// Entries of a packed row, at least one step: the copy engine knows no empty matrix.
template <typename Tile>
int64_t packed_depth(int64_t d) {
  return std::max<int64_t>((d + Tile::kDepthStep - 1) / Tile::kDepthStep, 1) * Tile::kDepthStep;
}

template <typename Tile, typename Device>
typename Tile::Source source_of(const Device& device, const typename Tile::Entry* packed, int64_t n, int depth) {
  if constexpr (Tile::kByWarpgroups)
    return {device.tile_map(packed, n, depth), depth};
  else
    return {packed, n, depth};
}

template <typename Device>
class Engine {
 public:
  // `small_batch`: kSmallBatch, but where tests want another.
  explicit Engine(Device& device, int64_t small_batch = kSmallBatch) : device_(device), small_batch_(small_batch) {}

  // Keys in order, equal keys by index.
  struct SortScratch {
    uint64_t* keys;   // [N]
    int32_t* values;  // [N]
    size_t size;
    char* bytes;  // [size], of the sort itself

    SortScratch(Device& device, Memory& memory, int64_t n)
        : keys(memory.take<uint64_t>(n > kRankedKeys ? n : 0)),
          values(memory.take<int32_t>(n > kRankedKeys ? n : 0)),
          size(n > kRankedKeys ? device.sort_bytes(n) : 0),
          bytes(memory.take<char>(size)) {}
  };

  // `bits`: those above are the same in all keys.
  void sort(const uint64_t* keys, int64_t n, int bits, int32_t* order, const SortScratch& scratch) {
    if (n <= kRankedKeys) return rank(GivenKeys{keys}, n, order);
    launch_threads(CountUp{scratch.values, n}, n);
    device_.sort(keys, scratch.keys, scratch.values, order, n, bits, scratch.bytes, scratch.size);
  }
  template <typename Source>
  void rank(const Source& source, int64_t n, int32_t* order) {
    using Rank = RankKeys<Source>;
    launch(Rank{source, static_cast<int>(n), order}, (n + Rank::kKeys - 1) / Rank::kKeys);
  }

  struct MineScratch {
    // These lie side by side, zero at first.
    State* state;
    Lowest* bad_of_class;  // [N]
    uint32_t* arrived;     // [blocks] of the exact scan
    size_t cleared_bytes;  // of all three

    double* factors;  // [N] or null
    uint8_t* finite;  // [N]
    int32_t *order, *begin, *end;
    double* centre;   // [D]
    Float32* packed;  // [N, depth]; the coarse round's rows, which are not longer, lie there before
    RowNorms* norms;  // [N]
    PerSearch<Anchors> anchors;
    PerSearch<int32_t*> left_over;  // [N]
    uint8_t* searching;             // [fine tiles]
    double* longest;                // [blocks, ChooseProductScale::kLongest] or null
    Winner* partial;                // [blocks, 4] of the exact scan
    LossSum* sums;                  // [chunks]
    SortScratch sort;

    template <typename T>
    MineScratch(Device& device, Memory& memory, const DeviceBatch<T>& batch)
        : cleared_bytes(sizeof(State) + static_cast<size_t>(batch.n) * sizeof(Lowest) +
                        static_cast<size_t>(scan_blocks(device)) * sizeof(uint32_t)),
          factors(batch.distance == Distance::kCosine ? memory.take<double>(batch.n) : nullptr),
          finite(memory.take<uint8_t>(batch.n)),
          order(memory.take<int32_t>(batch.n)),
          begin(memory.take<int32_t>(batch.n)),
          end(memory.take<int32_t>(batch.n)),
          centre(memory.take<double>(batch.d)),
          packed(memory.take<Float32>(batch.n * packed_depth<FloatTile>(batch.d))),
          norms(memory.take<RowNorms>(batch.n)),
          searching(memory.take<uint8_t>((batch.n + FloatTile::kSize - 1) / FloatTile::kSize)),
          longest(batch.distance == Distance::kInnerProduct
                      ? memory.take<double>(scale_blocks(device, batch.n) * ChooseProductScale::kLongest)
                      : nullptr),
          partial(memory.take<Winner>(scan_blocks(device) * kScannedAnchors)),
          sums(memory.take<LossSum>((batch.n + kLossChunk - 1) / kLossChunk)),
          sort(device, memory, batch.n) {
      state = reinterpret_cast<State*>(memory.take<uint64_t>(static_cast<int64_t>(cleared_bytes / 8 + 1)));
      bad_of_class = reinterpret_cast<Lowest*>(state + 1);
      arrived = reinterpret_cast<uint32_t*>(bad_of_class + batch.n);
      for (int search = 0; search < kSearches; ++search) {
        anchors[search] = {memory.take<Terms>(batch.n),
                           memory.take<uint32_t>(batch.n),
                           memory.take<uint64_t>(batch.n * list_length(batch.d)),
                           memory.take<uint8_t>(batch.n),
                           memory.take<uint32_t>(batch.n),
                           list_length(batch.d)};
        left_over[search] = memory.take<int32_t>(batch.n);
      }
    }
  };

  // labels [N]. Afterwards scratch.state->bad_rows says on the device how many rows are not finite, of those whose
  // label is not to be ignored.
  template <typename T, typename Partners = EveryPair>
  void mine(const DeviceBatch<T>& batch, const uint64_t* labels, Products products, const MineScratch& scratch,
            const Mined& mined, const Partners& partners = {}, std::optional<uint64_t> ignored = {}) {
    const int64_t n = batch.n, d = batch.d;
    device_.clear(scratch.state, scratch.cleared_bytes);
    if (n == 0) return;
    survey_and_sort(batch, labels, ignored, scratch);
    const FindClasses classes = {labels,        scratch.order, scratch.finite,       n,
                                 scratch.begin, scratch.end,   scratch.bad_of_class, scratch.state};
    if (products == Products::kSmallTensor) screen<SmallTensorTile>(batch, scratch, kCoarse, &classes, partners);
    if (products == Products::kLargeTensor) screen<LargeTensorTile>(batch, scratch, kCoarse, &classes, partners);
    if (products == Products::kWgmma) screen<WgmmaBlockTile>(batch, scratch, kCoarse, &classes, partners);
    if (products == Products::kWgmmaPair) screen<WgmmaPairTile>(batch, scratch, kCoarse, &classes, partners);
    if (products == Products::kFloat) screen<FloatTile>(batch, scratch, kFine, &classes, partners);
    if (products != Products::kFloat && n > small_batch_) screen<FloatTile>(batch, scratch, kFine, nullptr, partners);
    const PairWriter<Partners> writer = {
        n,     labels,  scratch.order, scratch.finite, scratch.begin, scratch.end, scratch.bad_of_class, scratch.state,
        mined, partners};
    const ExactRows<T> exact = {batch.rows, d, scratch.factors};
    dispatch_distance(batch.distance, [&](auto kind) {
      using Kind = decltype(kind);
      launch_warps(
          SettleCandidates<Kind, T, Partners>{exact, scratch.anchors, writer, scratch.left_over, scratch.state}, n);
      using Scan = ScanExactly<Kind, T, Partners>;
      static_assert(Scan::kAnchors == kScannedAnchors);
      launch(Scan{exact, writer, scratch.left_over, scratch.state, scratch.partial, scratch.arrived},
             scan_blocks(device_));
    });
  }

  // After `mine`: leaves what lists hold in the state.
  void count_candidates(int64_t n, const MineScratch& scratch) {
    if (n > 0) launch_threads(CountCandidates{scratch.anchors, n, scratch.state->candidates}, n);
  }
  // From a copy of the state on the host.
  ScreenCounters counters(int64_t n, Products products, const State& state) const {
    ScreenCounters found = {};
    uint64_t overflown = 0;
    for (int search = 0; search < kSearches; ++search) {
      overflown += found.overflown[search] = state.overflows[kCoarse][search];
      found.scanned[search] = state.listed[search];
      found.candidates[search] = state.candidates[search];
    }
    found.fine_round = products != Products::kFloat && n > small_batch_ && overflown > few_left_over(n);
    return found;
  }

  // losses [N] or null; slopes [N]; loss [] or null.
  template <typename T>
  void reduce(int64_t n, const LossOptions& options, const MineScratch& scratch, const Mined& mined, T* losses,
              double* slopes, T* loss) {
    reduce_mined({mined.positives,
                  mined.negatives,
                  mined.distances,
                  n,
                  options,
                  {scratch.state, nullptr},
                  losses,
                  {slopes, nullptr},
                  scratch.sums},
                 loss);
  }

  struct LossScratch {
    LossSum* sums;  // [chunks]

    LossScratch(Device&, Memory& memory, int64_t t) : sums(memory.take<LossSum>((t + kLossChunk - 1) / kLossChunk)) {}
  };

  // The same of triplets mined before: triplets [3, T], distances and slopes [2, T], poison [].
  void triplet_losses(const int64_t* triplets, const double* distances, int64_t t, const double* poison,
                      const LossOptions& options, const LossScratch& scratch, double* losses, double* slopes,
                      double* loss) {
    reduce_mined<double>({triplets + t,
                          triplets + 2 * t,
                          distances,
                          t,
                          options,
                          {nullptr, poison},
                          losses,
                          {slopes, slopes + t},
                          scratch.sums},
                         loss);
  }

  struct BackwardScratch {
    uint64_t* targets;  // [2 T]
    double* weights;    // [2 T]
    int32_t* order;     // [2 T]
    EdgeRange* ranges;  // [rows]
    double* hub_sums;   // [2 T / kHubChunk, D + 1]
    double* factors;    // [rows] or null
    uint8_t* finite;    // [rows] or null
    SortScratch sort;

    // Of batch-hard's pairs.
    template <typename T>
    BackwardScratch(Device& device, Memory& memory, const DeviceBatch<T>& batch)
        : BackwardScratch(device, memory, batch.n, batch.n, batch.d, batch.distance, 1) {}
    // Of any miner's triplets: behind the ranges of edges that point at a row those of its own ones.
    template <typename T>
    BackwardScratch(Device& device, Memory& memory, const JoinedBatch<T>& batch, int64_t triplets)
        : BackwardScratch(device, memory, batch.n + batch.m, triplets, batch.d, batch.distance, 2) {}

   private:
    BackwardScratch(Device& device, Memory& memory, int64_t rows, int64_t triplets, int64_t d, Distance distance,
                    int64_t ranges_of_row)
        : targets(memory.take<uint64_t>(2 * triplets)),
          weights(memory.take<double>(2 * triplets)),
          order(memory.take<int32_t>(2 * triplets)),
          ranges(memory.take<EdgeRange>(ranges_of_row * rows)),
          hub_sums(memory.take<double>(2 * triplets / kHubChunk * (d + 1))),
          factors(distance == Distance::kCosine ? memory.take<double>(rows) : nullptr),
          finite(distance == Distance::kCosine ? memory.take<uint8_t>(rows) : nullptr),
          sort(device, memory, 2 * triplets) {}
  };

  // gradient [N, D]; pairs, distances and slopes as the forward pass left them; upstream [N] where per_anchor, else [].
  template <typename T>
  void backward(const DeviceBatch<T>& batch, const int64_t* pairs, const double* distances, const double* slopes,
                const T* upstream, bool per_anchor, const BackwardScratch& scratch, T* gradient) {
    const int64_t n = batch.n, d = batch.d;
    if (n == 0 || d == 0) return;
    normalise(batch.rows, n, d, 0, scratch);
    const PairEdges<T> edges = {pairs,          distances, slopes,          upstream,        per_anchor,
                                batch.distance, n,         scratch.targets, scratch.weights, scratch.ranges};
    using Graph = AnchorPairs<T>;
    gather_gradient<T>(edges, 2 * n, n, Graph{batch.rows, n}, d, distances, scratch,
                       typename Graph::Gradient{gradient});
  }

  // gradient [N, D] and reference_gradient [M, D]; triplets [3, T], distances and slopes of the loss by them [2, T].
  template <typename T>
  void triplets_backward(const JoinedBatch<T>& batch, const int64_t* triplets, int64_t t, const double* distances,
                         const double* slopes, const BackwardScratch& scratch, T* gradient, T* reference_gradient) {
    const int64_t n = batch.n, rows = n + batch.m, d = batch.d;
    if (rows == 0 || d == 0) return;
    if (t == 0) {
      if (n > 0) device_.clear(gradient, static_cast<size_t>(n * d) * sizeof(T));
      if (batch.m > 0) device_.clear(reference_gradient, static_cast<size_t>(batch.m * d) * sizeof(T));
      return;
    }
    device_.clear(scratch.ranges, static_cast<size_t>(2 * rows) * sizeof(EdgeRange));
    if (n > 0) normalise(batch.rows, n, d, 0, scratch);
    if (batch.m > 0) normalise(batch.references, batch.m, d, n, scratch);
    EdgeRange* const own = scratch.ranges + rows;
    const TripletEdges edges = {triplets,
                                slopes,
                                distances,
                                batch.distance,
                                t,
                                n,
                                batch.has_references ? batch.m : n,
                                batch.has_references ? n : 0,
                                rows,
                                scratch.targets,
                                scratch.weights,
                                own};
    using Graph = AnchorTriplets<T>;
    gather_gradient<T>(edges, 2 * t, rows, Graph{batch.rows, batch.references, n, t, triplets, own}, d, distances,
                       scratch, typename Graph::Gradient{gradient, reference_gradient, n});
  }

  struct TripletMarginScratch {
    int64_t chunks;
    TripletSum* sums;  // [chunks]

    TripletMarginScratch(Device&, Memory& memory, int64_t t)
        : chunks((t + kTripletChunk - 1) / kTripletChunk), sums(memory.take<TripletSum>(chunks)) {}
  };

  // Explicit triplets: values of core/triplet_margin.h; losses [T] or null, loss [] or null. weights [T] or null.
  template <typename T>
  void triplet_margin(const DeviceTriplets<T>& triplets, const double* weights, const TripletMarginOptions& options,
                      const TripletMarginScratch& scratch, const TripletValues<double>& values, T* losses, T* loss) {
    TripletSum* const sums = loss == nullptr ? nullptr : scratch.sums;
    if (triplets.t > 0)
      dispatch_distance(triplets.distance, [&](auto kind) {
        using Loss = LossOfTriplets<decltype(kind), T>;
        static_assert(Loss::kTriplets == kTripletChunk);
        launch_threads(Loss{triplets, weights, options, values, losses, sums}, scratch.chunks * Loss::kThreads);
      });
    using Reduce = ReduceTriplets<T>;
    if (loss != nullptr)
      launch(Reduce{sums, scratch.chunks, triplets.t, options.reduction, values.slopes, loss},
             std::min((triplets.t + Reduce::kThreads - 1) / Reduce::kThreads, device_.processors()));
  }

  // gradients of anchors, positives and negatives [T, D], null where not wanted; upstream [T] where per_triplet, else
  // [].
  template <typename T>
  void triplet_margin_backward(const DeviceTriplets<T>& triplets, const TripletValues<const double>& values,
                               const T* upstream, bool per_triplet, T* const (&gradients)[kRoles]) {
    if (triplets.t == 0 || triplets.d == 0) return;
    dispatch_distance(triplets.distance, [&](auto kind) {
      // A root is in the weights already.
      using Kind = std::conditional_t<decltype(kind)::kRoot, Difference, decltype(kind)>;
      using Gradient = GradientOfTriplets<Kind, T>;
      launch_warps(Gradient{triplets, values, upstream, per_triplet, {gradients[0], gradients[1], gradients[2]}},
                   triplets.t * ((triplets.d + Gradient::kColumns - 1) / Gradient::kColumns));
    });
  }

 private:
  static constexpr int64_t kTripletChunk = 16;  // triplets whose losses are summed together

  uint32_t few_left_over(int64_t n) const { return few_overflows(n, device_.float64_ratio()); }

  template <typename T>
  static int64_t warps_of(const SurveyRows<T>& survey) {
    return (survey.n + SurveyRows<T>::kRowsOfWarp - 1) / SurveyRows<T>::kRowsOfWarp;
  }

  template <typename T>
  void reduce_mined(const LossOfMined<T>& losses, T* loss) {
    const int64_t chunks = (losses.n + kLossChunk - 1) / kLossChunk;
    const int64_t blocks = std::min(chunks, device_.processors());
    const ReduceLoss<T> reduction = {losses.n, losses.options, losses.poison, losses.sums, losses.slopes, loss};
    // The thread that writes a chunk's sum adds it up, and slopes are divided by those that wrote them.
    if (chunks == 1 && loss != nullptr) return launch(Together<LossOfMined<T>, ReduceLoss<T>>{losses, reduction}, 1);
    if (losses.n > 0) launch(losses, blocks);
    if (loss != nullptr) launch(reduction, blocks);
  }

  // 1 / |x| of rows [n, d] for cosine, from row `first` of the scratch on. A gradient asks for nothing that the rows
  // have in common.
  template <typename T>
  void normalise(const T* rows, int64_t n, int64_t d, int64_t first, const BackwardScratch& scratch) {
    if (scratch.factors == nullptr) return;
    const SurveyRows<T> survey = {rows, n, d, scratch.factors + first, scratch.finite + first, nullptr};
    launch_warps(survey, warps_of(survey));
  }

  template <typename T, typename Source, typename Graph>
  void gather_gradient(const Source& edges, int64_t count, int64_t rows, const Graph& graph, int64_t d,
                       const double* distances, const BackwardScratch& scratch,
                       const typename Graph::Gradient& gradient) {
    if (count <= kRankedKeys) {
      rank(edges, count, scratch.order);
    } else {
      launch_threads(ListEdges<Source>{edges}, count);
      int bits = 1;
      while ((rows + 1) >> bits != 0) ++bits;  // keys are at most rows + 1
      sort(scratch.targets, count, bits, scratch.order, scratch.sort);
    }
    const SortedEdges sorted = {scratch.targets, scratch.order, count, rows};
    dispatch_distance(edges.distance, [&](auto kind) {
      // A root is in the weights already.
      using Kind = std::conditional_t<decltype(kind)::kRoot, Difference, decltype(kind)>;
      const EdgeTerms<Kind, T, Graph> terms = {graph, d, scratch.factors, scratch.weights, distances};
      launch_threads(IndexEdges<Kind, T, Graph>{terms, sorted, scratch.ranges, scratch.hub_sums}, count);
      using Gather = GatherGradient<Kind, T, Graph>;
      launch_warps(Gather{terms, sorted, scratch.ranges, scratch.hub_sums, gradient},
                   rows * ((d + Gather::kColumns - 1) / Gather::kColumns));
    });
  }

  // What is known of the rows, the order of the labels, and, when all rows are known, the centre.
  template <typename T>
  void survey_and_sort(const DeviceBatch<T>& batch, const uint64_t* labels, std::optional<uint64_t> ignored,
                       const MineScratch& scratch) {
    using Survey = SurveyRows<T>;
    const int64_t n = batch.n;
    const Survey rows = {
        batch.rows,         n, batch.d, scratch.factors, scratch.finite, scratch.state, ignored ? labels : nullptr,
        ignored.value_or(0)};
    const ChooseCentre<T> centre = {batch.rows,   n, batch.d, scratch.factors, scratch.finite, scratch.centre,
                                    scratch.state};
    uint32_t* const arrived = &scratch.state->surveyed;
    if (n > kRankedKeys) {
      launch_warps(ThenOneBlock<Survey, ChooseCentre<T>>{rows, centre, arrived}, warps_of(rows));
      return sort(labels, n, 64, scratch.order, scratch.sort);
    }
    using Both = Together<Survey, RankKeys<GivenKeys>>;
    const Both both = {rows, {{labels}, static_cast<int>(n), scratch.order}};
    const int64_t row_blocks = (warps_of(rows) * kWarp + Both::kThreads - 1) / Both::kThreads;
    const int64_t key_blocks = (n + RankKeys<GivenKeys>::kKeys - 1) / RankKeys<GivenKeys>::kKeys;
    launch(ThenOneBlock<Both, ChooseCentre<T>>{both, centre, arrived},
           std::min(std::max(row_blocks, key_blocks), 2048 / Both::kThreads * device_.processors()));
  }

  // Rows packed, terms set and pairs screened: in the first round, which brings `classes` to be found, always; then if
  // the round before asks for it.
  template <typename Tile, typename T, typename Partners>
  void screen(const DeviceBatch<T>& batch, const MineScratch& scratch, Round round, const FindClasses* classes,
              const Partners& partners) {
    using Entry = typename Tile::Entry;
    using Pack = PackRows<T, Entry>;
    static_assert(sizeof(Entry) * Tile::kDepthStep <= sizeof(Float32) * FloatTile::kDepthStep);
    const int64_t n = batch.n, d = batch.d, depth = packed_depth<Tile>(d);
    const bool first = classes != nullptr;
    Entry* const packed = reinterpret_cast<Entry*>(scratch.packed);
    const RoundCondition condition = {first ? nullptr : scratch.state->overflows[round - 1],
                                      first ? 0 : few_left_over(n)};
    const Pack pack = {
        batch.rows,    n,     d,         depth,  scratch.order, scratch.factors, scratch.finite, scratch.centre,
        scratch.state, round, condition, packed, scratch.norms};
    if (first)
      launch_warps(Together<Pack, FindClasses>{pack, *classes}, n);
    else
      launch_warps(pack, n);
    if (batch.distance == Distance::kInnerProduct)
      launch(ChooseProductScale{scratch.norms, n, d, round, condition, scratch.state, scratch.longest},
             scale_blocks(device_, n));
    launch_threads(SetTerms{scratch.norms, n, scratch.order, scratch.finite, scratch.begin, scratch.end, batch.distance,
                            Tile::product_error(d), round, condition, scratch.state, scratch.anchors, scratch.searching,
                            FloatTile::kSize},
                   n);
    using Screen = ScreenPairs<Tile, Partners>;
    const int64_t most = Screen::kMinBlocks * device_.processors() / Tile::kBlocks;
    launch(Screen{source_of<Tile>(device_, packed, n, static_cast<int>(depth)), n, scratch.begin, condition,
                  first ? nullptr : scratch.searching, scratch.state->taken_tiles + round,
                  scratch.state->overflows[round], scratch.anchors, partners},
           std::min(TileOrder(n, Tile::kSize).count(), std::max<int64_t>(most, 1)) * Tile::kBlocks);
  }

  // The exact scan does not know beforehand how much is left to it.
  static constexpr int64_t kScannedAnchors = 4;
  // One a multiprocessor: its registers leave no room for another.
  static int64_t scan_blocks(const Device& device) { return device.processors(); }
  static int64_t scale_blocks(const Device& device, int64_t n) {
    return std::clamp<int64_t>(n / ChooseProductScale::kRowsOfBlock, 1, device.processors());
  }

  template <typename Kernel>
  void launch(const Kernel& kernel, int64_t blocks) {
    device_.launch(kernel, std::clamp<int64_t>(blocks, 1, kMostBlocks));
  }
  // Enough blocks to fill the machine; a kernel walks what is beyond.
  template <typename Kernel>
  void launch_threads(const Kernel& kernel, int64_t threads) {
    launch(kernel, std::min((threads + Kernel::kThreads - 1) / Kernel::kThreads,
                            2048 / Kernel::kThreads * device_.processors()));
  }
  template <typename Kernel>
  void launch_warps(const Kernel& kernel, int64_t warps) {
    launch_threads(kernel, warps * kWarp);
  }

  static constexpr int64_t kMostBlocks = int64_t{1} << 30;
  Device& device_;
  int64_t small_batch_;
};

}  // namespace fasttriplet::cuda
