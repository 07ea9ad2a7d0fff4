// The launches of a call, in their order; nothing comes back to the host between them. Host code without PyTorch and
// without the CUDA runtime: a Device launches kernels, clears memory and sorts, on the GPU (launch.cuh) or, in the
// tests, on the host.
//
//   Device::launch(kernel, blocks)               kernel: a struct of device.cuh
//   Device::clear(pointer, bytes)
//   Device::processors()
//   Device::sort_bytes(count), Device::sort(...)   radix sort of 64-bit keys with 32-bit values
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/backward.cuh"
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

namespace fasttriplet::cuda {

// Which products the screen begins with; what they leave open goes to float32 products, and from there to exact scores.
enum class Products { kSmallTensor, kLargeTensor, kWgmma, kFloat };

// Up to 4096 rows small tiles keep more of the machine busy.
inline Products tensor_products(int64_t n) { return n <= 4096 ? Products::kSmallTensor : Products::kLargeTensor; }

template <typename T>
struct DeviceBatch {
  const T* rows;  // [N, D]
  int64_t n, d;
  Distance distance;
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
  if constexpr (std::is_same_v<Tile, WgmmaTile>)
    return {device.tile_map(packed, n, depth), depth};
  else
    return {packed, n, depth};
}

template <typename Device>
class Engine {
 public:
  explicit Engine(Device& device) : device_(device) {}

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
    State* state;
    Lowest* bad_of_class;  // [N]
    double* factors;       // [N] or null
    uint8_t* finite;       // [N]
    int32_t *order, *begin, *end;
    double* centre;   // [D]
    Float32* packed;  // [N, depth]; the coarse round's rows, which are not longer, lie there before
    RowNorms* norms;  // [N]
    PerSearch<Anchors> anchors;
    PerSearch<int32_t*> left_over;  // [N]
    LossSum* sums;                  // [chunks]
    SortScratch sort;

    template <typename T>
    MineScratch(Device& device, Memory& memory, const DeviceBatch<T>& batch)
        : state(memory.take<State>(1)),
          bad_of_class(memory.take<Lowest>(batch.n)),
          factors(batch.distance == Distance::kCosine ? memory.take<double>(batch.n) : nullptr),
          finite(memory.take<uint8_t>(batch.n)),
          order(memory.take<int32_t>(batch.n)),
          begin(memory.take<int32_t>(batch.n)),
          end(memory.take<int32_t>(batch.n)),
          centre(memory.take<double>(batch.d)),
          packed(memory.take<Float32>(batch.n * packed_depth<FloatTile>(batch.d))),
          norms(memory.take<RowNorms>(batch.n)),
          sums(memory.take<LossSum>((batch.n + kLossChunk - 1) / kLossChunk)),
          sort(device, memory, batch.n) {
      for (int search = 0; search < kSearches; ++search) {
        anchors[search] = {memory.take<Terms>(batch.n),
                           memory.take<uint32_t>(batch.n),
                           memory.take<uint64_t>(batch.n * list_length(batch.d)),
                           memory.take<uint8_t>(batch.n),
                           memory.take<uint8_t>(batch.n),
                           list_length(batch.d)};
        left_over[search] = memory.take<int32_t>(batch.n);
      }
    }
  };

  // labels [N]. Afterwards scratch.state->bad_rows says on the device how many rows are not finite.
  template <typename T>
  void mine(const DeviceBatch<T>& batch, const uint64_t* labels, Products products, const MineScratch& scratch,
            const Mined& mined) {
    const int64_t n = batch.n, d = batch.d;
    device_.clear(scratch.state, sizeof(State));
    if (n == 0) return;
    device_.clear(scratch.bad_of_class, static_cast<size_t>(n) * sizeof(Lowest));
    survey(batch, scratch);
    sort(labels, n, 64, scratch.order, scratch.sort);
    launch_threads(FindClasses{labels, scratch.order, scratch.finite, n, scratch.begin, scratch.end,
                               scratch.bad_of_class, scratch.state},
                   n);
    launch(ChooseCentre<T>{batch.rows, n, d, scratch.factors, scratch.finite, scratch.centre, scratch.state}, 1);
    if (products == Products::kSmallTensor) screen<SmallTensorTile>(batch, scratch, kCoarse, true);
    if (products == Products::kLargeTensor) screen<LargeTensorTile>(batch, scratch, kCoarse, true);
    if (products == Products::kWgmma) screen<WgmmaTile>(batch, scratch, kCoarse, true);
    screen<FloatTile>(batch, scratch, kFine, products == Products::kFloat);
    const PairWriter writer = {
        n,    labels, scratch.order, scratch.finite, scratch.begin, scratch.end, scratch.bad_of_class, scratch.state,
        mined};
    const ExactRows<T> exact = {batch.rows, d, scratch.factors};
    dispatch_distance(batch.distance, [&](auto kind) {
      using Kind = decltype(kind);
      launch_warps(SettleCandidates<Kind, T>{exact, scratch.anchors, writer, scratch.left_over, scratch.state}, n);
      using Scan = ScanExactly<Kind, T>;
      launch(Scan{exact, writer, scratch.left_over, scratch.state},
             std::min((n + Scan::kAnchors - 1) / Scan::kAnchors, 2 * device_.processors()));
    });
  }

  // losses [N] or null; slopes [N]; loss [] or null.
  template <typename T>
  void reduce(int64_t n, const LossOptions& options, const MineScratch& scratch, const Mined& mined, T* losses,
              double* slopes, T* loss) {
    const int64_t chunks = (n + kLossChunk - 1) / kLossChunk;
    const int64_t blocks = std::min(chunks, device_.processors());
    if (n > 0) launch(LossOfAnchors<T>{mined, n, options, scratch.state, losses, slopes, scratch.sums}, blocks);
    if (loss != nullptr) launch(ReduceLoss<T>{n, options, scratch.state, scratch.sums, slopes, loss}, blocks);
  }

  struct BackwardScratch {
    uint64_t* targets;  // [2 N]
    double* weights;    // [2 N]
    int32_t* order;     // [2 N]
    EdgeRange* ranges;  // [N]
    double* hub_sums;   // [2 N / kHubChunk, D + 1]
    double* factors;    // [N] or null
    uint8_t* finite;    // [N] or null
    SortScratch sort;
    State* state = nullptr;  // a gradient asks for nothing that the rows have in common

    template <typename T>
    BackwardScratch(Device& device, Memory& memory, const DeviceBatch<T>& batch)
        : targets(memory.take<uint64_t>(2 * batch.n)),
          weights(memory.take<double>(2 * batch.n)),
          order(memory.take<int32_t>(2 * batch.n)),
          ranges(memory.take<EdgeRange>(batch.n)),
          hub_sums(memory.take<double>(2 * batch.n / kHubChunk * (batch.d + 1))),
          factors(batch.distance == Distance::kCosine ? memory.take<double>(batch.n) : nullptr),
          finite(batch.distance == Distance::kCosine ? memory.take<uint8_t>(batch.n) : nullptr),
          sort(device, memory, 2 * batch.n) {}
  };

  // gradient [N, D]; pairs, distances and slopes as the forward pass left them; upstream [N] where per_anchor, else [].
  template <typename T>
  void backward(const DeviceBatch<T>& batch, const int64_t* pairs, const double* distances, const double* slopes,
                const T* upstream, bool per_anchor, const BackwardScratch& scratch, T* gradient) {
    const int64_t n = batch.n, d = batch.d;
    if (n == 0 || d == 0) return;
    if (scratch.factors != nullptr) survey(batch, scratch);
    const Edges<T> edges = {pairs,          distances, slopes,          upstream,        per_anchor,
                            batch.distance, n,         scratch.targets, scratch.weights, scratch.ranges};
    if (2 * n <= kRankedKeys) {
      rank(edges, 2 * n, scratch.order);
    } else {
      launch_threads(ListEdges<T>{edges}, 2 * n);
      int bits = 1;
      while ((n + 1) >> bits != 0) ++bits;  // keys are at most n + 1
      sort(scratch.targets, 2 * n, bits, scratch.order, scratch.sort);
    }
    const SortedEdges sorted = {scratch.targets, scratch.order, n};
    dispatch_distance(batch.distance, [&](auto kind) {
      // A root is in the weights already.
      using Kind = std::conditional_t<decltype(kind)::kRoot, Difference, decltype(kind)>;
      const EdgeTerms<Kind, T> terms = {{batch.rows, d, scratch.factors}, scratch.weights, distances, n};
      launch_threads(IndexEdges<Kind, T>{terms, sorted, scratch.ranges, scratch.hub_sums}, 2 * n);
      using Gather = GatherGradient<Kind, T>;
      launch_warps(Gather{terms, sorted, scratch.ranges, scratch.hub_sums, gradient},
                   n * ((d + Gather::kColumns - 1) / Gather::kColumns));
    });
  }

 private:
  // Scratch of a call or of its gradient: factors or null, finite, state.
  template <typename T, typename Scratch>
  void survey(const DeviceBatch<T>& batch, const Scratch& scratch) {
    using Survey = SurveyRows<T>;
    launch_warps(Survey{batch.rows, batch.n, batch.d, scratch.factors, scratch.finite, scratch.state},
                 (batch.n + Survey::kRowsOfWarp - 1) / Survey::kRowsOfWarp);
  }

  // Rows packed, terms set and pairs screened: in the first round always, then if the round before asks for it.
  template <typename Tile, typename T>
  void screen(const DeviceBatch<T>& batch, const MineScratch& scratch, Round round, bool first) {
    using Entry = typename Tile::Entry;
    static_assert(sizeof(Entry) * Tile::kDepthStep <= sizeof(Float32) * FloatTile::kDepthStep);
    const int64_t n = batch.n, d = batch.d, depth = packed_depth<Tile>(d);
    Entry* const packed = reinterpret_cast<Entry*>(scratch.packed);
    const RoundCondition condition = {first ? nullptr : scratch.state->overflows[round - 1]};
    launch_warps(PackRows<T, Entry>{batch.rows, n, d, depth, scratch.order, scratch.factors, scratch.finite,
                                    scratch.centre, scratch.state, round, condition, packed, scratch.norms},
                 n);
    if (batch.distance == Distance::kInnerProduct)
      launch(ChooseProductScale{scratch.norms, n, d, round, condition, scratch.state}, 1);
    launch_threads(SetTerms{scratch.norms, n, scratch.order, scratch.finite, scratch.begin, scratch.end, batch.distance,
                            Tile::product_error(d), round, condition, scratch.state, scratch.anchors},
                   n);
    using Screen = ScreenPairs<Tile>;
    launch(Screen{source_of<Tile>(device_, packed, n, static_cast<int>(depth)), n, scratch.begin, condition,
                  scratch.state->overflows[round], scratch.anchors},
           std::min(tile_slots(n, Tile::kSize), Screen::kMinBlocks * device_.processors()));
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
};

}  // namespace fasttriplet::cuda
