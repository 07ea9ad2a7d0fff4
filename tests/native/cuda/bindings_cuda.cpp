#include "cuda/bindings_cuda.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "cuda/engine.cuh"
#include "cuda/self_test.cuh"
#include "cuda/shim.h"

namespace py = pybind11;

namespace fasttriplet::cuda {
namespace {

using shim::HostDevice;
using shim::HostMemory;
using shim::Settings;
using HostEngine = Engine<HostDevice>;

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// Inputs as scratch is: in pieces of their own.
template <typename T>
const T* own_copy(HostMemory& memory, const Array<T>& array) {
  T* const copy = memory.take<T>(array.size());
  std::copy_n(array.data(), array.size(), copy);
  return copy;
}

Products products_named(const std::string& name) {
  if (name == "small-tensor") return Products::kSmallTensor;
  if (name == "large-tensor") return Products::kLargeTensor;
  if (name == "wgmma") return Products::kWgmma;
  if (name == "wgmma-pair") return Products::kWgmmaPair;
  if (name == "float") return Products::kFloat;
  throw std::invalid_argument("products must be small-tensor, large-tensor, wgmma, wgmma-pair or float; got " + name);
}

struct Arrays {
  Array<int64_t> pairs;     // [2, N]
  Array<double> distances;  // [2, N]

  explicit Arrays(int64_t n) : pairs({int64_t{2}, n}), distances({int64_t{2}, n}) {}
  Mined mined() {
    int64_t* const positives = pairs.mutable_data();
    return {positives, positives + pairs.shape(1), distances.mutable_data()};
  }
};

template <typename T>
DeviceBatch<T> batch_of(HostMemory& memory, const Array<T>& rows, int distance) {
  if (rows.ndim() != 2)
    throw std::invalid_argument("rows must have shape [N, D]; got " + std::to_string(rows.ndim()) + " dimensions");
  return {own_copy(memory, rows), rows.shape(0), rows.shape(1), static_cast<Distance>(distance)};
}

// Everything a test may want to know of a call: pairs, distances, the rounds that were needed, and the loss of it.
template <typename T>
py::dict mine(const Array<T>& rows, const Array<int64_t>& labels, int distance, const std::string& products,
              const Settings& settings, double margin, bool soft_margin, int reduction, int on_missing) {
  HostMemory memory;
  HostDevice device(settings);
  HostEngine engine(device, settings.small_batch);
  const DeviceBatch<T> batch = batch_of(memory, rows, distance);
  const int64_t n = batch.n;
  const uint64_t* const keys = reinterpret_cast<const uint64_t*>(own_copy(memory, labels));
  const HostEngine::MineScratch scratch(device, memory, batch);
  Arrays arrays(n);
  engine.mine(batch, keys, products_named(products), scratch, arrays.mined());
  engine.count_candidates(n, scratch);
  const State state = *scratch.state;

  const LossOptions options = {margin, soft_margin, static_cast<Reduction>(reduction),
                               static_cast<OnMissing>(on_missing)};
  Array<double> slopes(n);
  Array<T> losses(n);
  T loss = 0;
  const bool per_anchor = options.reduction == Reduction::kNone;
  engine.reduce<T>(n, options, scratch, arrays.mined(), per_anchor ? losses.mutable_data() : nullptr,
                   slopes.mutable_data(), per_anchor ? nullptr : &loss);
  py::dict result;
  result["pairs"] = arrays.pairs;
  result["distances"] = arrays.distances;
  result["bad_rows"] = state.bad_rows;
  result["scale"] = state.scale;
  result["centre_norm"] = state.centre_norm;
  const ScreenCounters counters = engine.counters(n, products_named(products), state);
  result["overflown"] = py::make_tuple(counters.overflown[kNearest], counters.overflown[kFarthest]);
  result["fine_round"] = counters.fine_round;
  result["launches"] = device.launches() - (n > 0);  // counting is none of a call's
  // Blocks that shared the candidates of an exact scan's anchors with others.
  result["scan_shares"] = std::accumulate(scratch.arrived, scratch.arrived + settings.processors, 0u);
  result["product_scale"] = py::make_tuple(state.product[kFine].usual_norm, state.product[kFine].largest_norm);
  result["scanned"] = py::make_tuple(counters.scanned[kNearest], counters.scanned[kFarthest]);
  result["candidates"] = py::make_tuple(counters.candidates[kNearest], counters.candidates[kFarthest]);
  result["missing"] = scratch.state->missing;
  result["first_missing"] = scratch.state->first_missing.get(n);
  result["slopes"] = slopes;
  if (per_anchor)
    result["loss"] = losses;
  else
    result["loss"] = loss;
  return result;
}

template <typename Device, typename T>
Array<T> backward_on(Device& device, const Array<T>& rows, const Array<int64_t>& pairs, const Array<double>& distances,
                     const Array<double>& slopes, const Array<T>& upstream, int distance) {
  HostMemory memory;
  Engine<Device> engine(device);
  const DeviceBatch<T> batch = batch_of(memory, rows, distance);
  const typename Engine<Device>::BackwardScratch scratch(device, memory, batch);
  Array<T> gradient({batch.n, batch.d});
  T* const own_gradient = memory.take<T>(gradient.size());
  engine.backward(batch, own_copy(memory, pairs), own_copy(memory, distances), own_copy(memory, slopes),
                  own_copy(memory, upstream), upstream.ndim() == 1, scratch, own_gradient);
  std::copy_n(own_gradient, gradient.size(), gradient.mutable_data());
  return gradient;
}

template <typename T>
Array<T> backward(const Array<T>& rows, const Array<int64_t>& pairs, const Array<double>& distances,
                  const Array<double>& slopes, const Array<T>& upstream, int distance, const Settings& settings) {
  HostDevice device(settings);
  return backward_on(device, rows, pairs, distances, slopes, upstream, distance);
}

// Counts what the engine asks of the device.
struct CountingDevice : HostDevice {
  using HostDevice::HostDevice;
  int launches = 0, clears = 0, sorts = 0;

  template <typename Kernel>
  void launch(const Kernel& kernel, int64_t blocks) {
    ++launches;
    HostDevice::launch(kernel, blocks);
  }
  void clear(void* pointer, size_t bytes) {
    ++clears;
    HostDevice::clear(pointer, bytes);
  }
  template <typename... Arguments>
  void sort(const Arguments&... arguments) {
    ++sorts;
    HostDevice::sort(arguments...);
  }
};

// Launches, clears and sorts of a gradient.
py::tuple backward_counts(const Array<float>& rows, const Array<int64_t>& pairs, const Array<double>& distances,
                          const Array<double>& slopes, int distance) {
  CountingDevice device{Settings()};
  Array<float> upstream(rows.shape(0));
  std::fill_n(upstream.mutable_data(), upstream.size(), 1.0f);
  backward_on(device, rows, pairs, distances, slopes, upstream, distance);
  return py::make_tuple(device.launches, device.clears, device.sorts);
}

// order, begin and end of the classes of labels [N].
py::tuple sort_classes(const Array<uint64_t>& labels, const Settings& settings) {
  HostMemory memory;
  HostDevice device(settings);
  HostEngine engine(device);
  const int64_t n = labels.size();
  const uint64_t* const keys = own_copy(memory, labels);
  int32_t *const order = memory.take<int32_t>(n), *const begin = memory.take<int32_t>(n),
                 *const end = memory.take<int32_t>(n);
  engine.sort(keys, n, 64, order, HostEngine::SortScratch(device, memory, n));
  if (std::any_of(order, order + n, [n](int32_t i) { return i < 0 || i >= n; }))
    throw std::runtime_error("order has a place that was not written");
  State* const state = memory.take<State>(1);
  device.clear(state, sizeof *state);
  device.launch(FindClasses{keys, order, nullptr, n, begin, end, nullptr, state}, settings.processors);
  return py::make_tuple(Array<int32_t>(n, order), Array<int32_t>(n, begin), Array<int32_t>(n, end));
}

// products [kSize, kSize] of the first kSize rows with the next kSize, and the rows as they were rounded.
template <typename Tile>
py::tuple multiply_tile(const Array<float>& rows, const Settings& settings) {
  HostMemory memory;
  HostDevice device(settings);
  const int64_t n = rows.shape(0), d = rows.shape(1), depth = packed_depth<Tile>(d);
  typename Tile::Entry* const packed = memory.take<typename Tile::Entry>(n * depth);
  Array<float> rounded({n, d});
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < depth; ++k) {
      packed[i * depth + k] = Tile::Entry::round(k < d ? rows.at(i, k) : 0.0f);
      if (k < d) rounded.mutable_at(i, k) = packed[i * depth + k].value();
    }
  Array<float> products({int64_t{Tile::kSize}, int64_t{Tile::kSize}});
  device.launch(
      MultiplyTile<Tile>{source_of<Tile>(device, packed, n, static_cast<int>(depth)), products.mutable_data()},
      Tile::kBlocks);
  return py::make_tuple(products, rounded);
}

// Where a warp's products lie in shared memory: words of [rows, columns]; and row and column of each of a lane's,
// [lanes, products of a lane, 2].
template <typename Tile>
py::dict products_in_memory() {
  using Sums = typename Tile::Sums;
  Array<int32_t> words({Sums::kRows, Sums::kColumns});
  for (int r = 0; r < Sums::kRows; ++r)
    for (int c = 0; c < Sums::kColumns; ++c) words.mutable_at(r, c) = Sums::place(r, c);
  Array<int32_t> lanes({kWarp, Sums::kRowsOfLane * Sums::kColumnsOfLane, 2});
  for (int lane = 0; lane < kWarp; ++lane)
    for (int r = 0; r < Sums::kRowsOfLane; ++r)
      for (int c = 0; c < Sums::kColumnsOfLane; ++c) {
        lanes.mutable_at(lane, r * Sums::kColumnsOfLane + c, 0) = Sums::row(r, lane);
        lanes.mutable_at(lane, r * Sums::kColumnsOfLane + c, 1) = Sums::column(c, lane);
      }
  py::dict result;
  result["words"] = words;
  result["lanes"] = lanes;
  return result;
}

// One warp, for tests of the shim itself.
struct OneWarp {
  static constexpr int kThreads = 32, kMinBlocks = 1;
};

struct MultiplyFragments : OneWarp {
  const uint32_t* a;  // [32, 4]
  const uint32_t* b;  // [32, 2]
  float* sum;         // [32, 4]
  void operator()() const {
    const int lane = lane_index();
    uint32_t own_a[4];
    float own_sum[4];
    for (int w = 0; w < 4; ++w) {
      own_a[w] = a[lane * 4 + w];
      own_sum[w] = sum[lane * 4 + w];
    }
    multiply_add_bf16(own_sum, own_a, b[lane * 2], b[lane * 2 + 1]);
    for (int w = 0; w < 4; ++w) sum[lane * 4 + w] = own_sum[w];
  }
};

template <int kColumns>
struct MultiplyGroupFragments {
  static constexpr int kThreads = 128, kMinBlocks = 1, kSharedBytes = (64 + kColumns) * 128;
  const char* image;  // of shared memory: 64 rows of a, the columns of b, 128 bytes each
  float* sums;        // [128, 2, columns / 4]
  void operator()() const {
    if (thread_index() == 0) std::memcpy(shared_memory(), image, kSharedBytes);
    block_barrier();
    float own[2][kColumns / 4] = {};
    group_begin();
    group_multiply_add(own, shared_memory(), shared_memory() + 8192);
    group_commit();
    group_wait<0>();
    std::memcpy(sums + thread_index() * kColumns / 2, own, sizeof own);
  }
};

template <int kColumns>
Array<float> multiply_group_fragments(const Array<uint8_t>& image) {
  using Kernel = MultiplyGroupFragments<kColumns>;
  if (image.size() != Kernel::kSharedBytes)
    throw std::invalid_argument("image must fill " + std::to_string(Kernel::kSharedBytes) + " bytes; got " +
                                std::to_string(image.size()));
  Array<float> sums({128, 2, kColumns / 4});
  HostDevice({}).launch(Kernel{reinterpret_cast<const char*>(image.data()), sums.mutable_data()}, 1);
  return sums;
}

struct LoadFragments : OneWarp {
  const uint16_t* rows;  // [4, 8, 8]
  uint32_t* words;       // [32, 4]
  void operator()() const {
    uint32_t own[4];
    load_matrices(own, rows + lane_index() * 8);
    for (int w = 0; w < 4; ++w) words[lane_index() * 4 + w] = own[w];
  }
};

// Mistakes that must be noticed, by name.
struct Mistake {
  static constexpr int kThreads = 128, kMinBlocks = 1, kSharedBytes = 16384 + 256, kClusterBlocks = 2;
  const char* name;
  float* sink;     // [128], aligned to 16 bytes
  BFloat16* rows;  // [128, 64]
  void operator()() const {
    const std::string mistake = name;
    const int thread = thread_index();
    char* const shared = shared_memory();
    uint64_t* const barrier = reinterpret_cast<uint64_t*>(shared + 16384);
    const TileMap map = HostDevice::tile_map(rows, 128, 64);
    if (mistake == "lane stays away" && thread != 7) sink[thread] = shuffle_xor(1.0f, 1);
    if (mistake == "two operations") sink[thread] = thread < 16 ? warp_any(true) : shuffle_xor(1.0f, 1);
    if (mistake == "thread leaves" && thread != 3) block_barrier();
    if (mistake == "copy beyond" && thread == 0) copy_async(shared + kSharedBytes, sink, 16);
    if (mistake == "copy not aligned" && thread == 0) copy_async(shared + 8, sink, 16);
    if (mistake == "copies under way" && thread == 0) {
      copy_async(shared, sink, 16);
      copy_async_commit();
    }
    if (mistake == "one block stays away" && cluster_rank() == 0) cluster_barrier();
    float sums[2][32] = {};
    if (mistake == "two operations of a group") {
      if (thread < 64)
        group_commit();
      else
        group_multiply_add(sums, shared, shared);
    }
    if (mistake == "products under way") {
      group_multiply_add(sums, shared, shared);
      group_commit();
    }
    if (mistake.rfind("arrivals", 0) != 0 || thread != 0) return;
    if (mistake == "arrivals at a block that has left") return arrive_at(barrier, cluster_rank() ^ 1);
    if (mistake != "arrivals not started") arrival_start(barrier, 1);
    if (mistake == "arrivals started twice") arrival_start(barrier, 1);
    if (mistake == "arrivals not started") arrival_expect(barrier, 16384);
    if (mistake == "arrivals in a block that is not there") arrive_at(barrier, 2);
    if (mistake == "arrivals of too many") {
      arrival_expect(barrier, 16384);
      arrive_at(barrier, cluster_rank());
    }
    if (mistake == "arrivals of a box beyond") copy_box(shared + 1024, map, 0, 0, barrier);
    if (mistake == "arrivals of a box not aligned") copy_box(shared + 128, map, 0, 0, barrier);
    if (mistake == "arrivals ended early") {
      arrival_expect(barrier, 16384);
      copy_box(shared, map, 0, 0, barrier);
      arrival_end(barrier);
    }
    if (mistake == "arrivals ended twice") {
      arrival_end(barrier);
      arrival_end(barrier);
    }
    if (mistake == "arrivals never come") arrival_wait(barrier, 0);
  }
};

template <typename T>
void bind(py::module_& m, const char* suffix) {
  m.def((std::string("mine_") + suffix).c_str(), mine<T>);
  m.def((std::string("backward_") + suffix).c_str(), backward<T>);
}

}  // namespace

void bind_cuda(py::module_& m) {
  py::class_<Settings>(m, "Settings")
      .def(py::init<>())
      .def_readwrite("seed", &Settings::seed)
      .def_readwrite("deferred_copies", &Settings::deferred_copies)
      .def_readwrite("deferred_products", &Settings::deferred_products)
      .def_readwrite("processors", &Settings::processors)
      .def_readwrite("float64_ratio", &Settings::float64_ratio)
      .def_readwrite("small_batch", &Settings::small_batch)
      .def_readwrite("broken_site", &Settings::broken_site)
      .def_readwrite("bound_factor", &Settings::bound_factor);
  m.attr("ranked_keys") = kRankedKeys;
  m.attr("hub_chunk") = kHubChunk;
  m.attr("small_batch") = kSmallBatch;
  m.def("few_overflows", few_overflows);
  m.def("list_length", list_length);
  // Row and column of every tile in the order in which they are taken.
  m.def("tile_order", [](int64_t n, int size) {
    const TileOrder order(n, size);
    Array<int32_t> places({order.count(), int64_t{2}});
    for (int64_t number = 0; number < order.count(); ++number) {
      const TilePlace place = order.place(number);
      places.mutable_at(number, 0) = place.row;
      places.mutable_at(number, 1) = place.column;
    }
    return places;
  });
  py::dict parts;
  parts["float"] = products_in_memory<FloatTile>();
  parts["small_tensor"] = products_in_memory<SmallTensorTile>();
  parts["large_tensor"] = products_in_memory<LargeTensorTile>();
  parts["wgmma"] = products_in_memory<WgmmaBlockTile>();
  parts["wgmma_pair"] = products_in_memory<WgmmaPairTile>();
  m.attr("products_in_memory") = parts;
  m.def("product_scale", [](const Array<double>& lengths, const Settings& settings, int64_t blocks) {
    HostMemory memory;
    HostDevice device(settings);
    const int64_t n = lengths.size();
    RowNorms* const norms = memory.take<RowNorms>(n);
    for (int64_t r = 0; r < n; ++r) norms[r].norm = lengths.at(r);
    State state = {};
    double* const longest = memory.take<double>(blocks * ChooseProductScale::kLongest);
    device.launch(ChooseProductScale{norms, n, 8, kFine, {nullptr, 0}, &state, longest}, blocks);
    return py::make_tuple(state.product[kFine].usual_norm, state.product[kFine].largest_norm);
  });
  bind<float>(m, "float32");
  bind<double>(m, "float64");
  m.def("backward_counts", backward_counts);
  m.def("sort_classes", sort_classes);
  m.def("multiply_float_tile", multiply_tile<FloatTile>);
  m.def("multiply_small_tensor_tile", multiply_tile<SmallTensorTile>);
  m.def("multiply_large_tensor_tile", multiply_tile<LargeTensorTile>);
  m.def("multiply_wgmma_tile", multiply_tile<WgmmaBlockTile>);
  m.def("multiply_wgmma_pair_tile", multiply_tile<WgmmaPairTile>);
  m.def("tensor_core_error", tensor_core_error);
  m.def("accumulation_error", accumulation_error);
  m.def("add_down", [](float a, float b) { return add_down(a, b); });
  m.def("add_up", [](float a, float b) { return add_up(a, b); });
  m.def("ordered_bits", [](float value) { return ordered_bits(value); });
  m.def("ordered_value", [](uint32_t bits) { return ordered_value(bits); });
  m.def("multiply_fragments", [](const Array<uint32_t>& a, const Array<uint32_t>& b, Array<float> sum) {
    MultiplyFragments kernel;
    kernel.a = a.data();
    kernel.b = b.data();
    kernel.sum = sum.mutable_data();
    HostDevice({}).launch(kernel, 1);
    return sum;
  });
  m.def("multiply_group_fragments_128", multiply_group_fragments<128>);
  m.def("multiply_group_fragments_256", multiply_group_fragments<256>);
  m.def("load_fragments", [](const Array<uint16_t>& rows) {
    Array<uint32_t> words({32, 4});
    LoadFragments kernel;
    kernel.rows = rows.data();
    kernel.words = words.mutable_data();
    HostDevice({}).launch(kernel, 1);
    return words;
  });
  m.def("make_mistake", [](const std::string& name, const Settings& settings) {
    alignas(16) float sink[128] = {};
    std::vector<BFloat16> rows(128 * 64);
    HostDevice(settings).launch(Mistake{name.c_str(), sink, rows.data()}, 2);
  });
  m.def("take_waits", shim::take_waits);
  m.def("sites", [] {
    py::dict all;
    all["block"] = shim::sites().block;
    all["warp"] = shim::sites().warp;
    all["copies"] = shim::sites().copies;
    all["arrivals"] = shim::sites().arrivals;
    all["groups"] = shim::sites().groups;
    return all;
  });
}

}  // namespace fasttriplet::cuda
