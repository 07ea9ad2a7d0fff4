#include "cuda/bindings_cuda.h"

#include <pybind11/stl.h>

#include <numeric>
#include <stdexcept>

#include "cuda/self_test.cuh"

namespace py = pybind11;

namespace fasttriplet::cuda {
namespace {

using shim::HostDevice;
using shim::HostMemory;
using shim::Settings;

}  // namespace

Products products_named(const std::string& name) {
  if (name == "small-tensor") return Products::kSmallTensor;
  if (name == "large-tensor") return Products::kLargeTensor;
  if (name == "wgmma") return Products::kWgmma;
  if (name == "wgmma-pair") return Products::kWgmmaPair;
  if (name == "float") return Products::kFloat;
  throw std::invalid_argument("products must be small-tensor, large-tensor, wgmma, wgmma-pair or float; got " + name);
}

namespace {

struct Arrays {
  Array<int64_t> pairs;     // [2, N]
  Array<double> distances;  // [2, N]

  explicit Arrays(int64_t n) : pairs({int64_t{2}, n}), distances({int64_t{2}, n}) {}
  Mined mined() {
    int64_t* const positives = pairs.mutable_data();
    return {positives, positives + pairs.shape(1), distances.mutable_data(), nullptr};
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
  // Clears too, but not the counting, which is none of a call's.
  result["launches"] = device.asked().launches + device.asked().clears - (n > 0);
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

template <typename T>
Array<T> backward_on(HostDevice& device, const Array<T>& rows, const Array<int64_t>& pairs,
                     const Array<double>& distances, const Array<double>& slopes, const Array<T>& upstream,
                     int distance) {
  HostMemory memory;
  HostEngine engine(device);
  const DeviceBatch<T> batch = batch_of(memory, rows, distance);
  const HostEngine::BackwardScratch scratch(device, memory, batch);
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

// Launches, clears and sorts of a gradient.
py::tuple backward_counts(const Array<float>& rows, const Array<int64_t>& pairs, const Array<double>& distances,
                          const Array<double>& slopes, int distance) {
  HostDevice device{Settings()};
  Array<float> upstream(rows.shape(0));
  std::fill_n(upstream.mutable_data(), upstream.size(), 1.0f);
  backward_on(device, rows, pairs, distances, slopes, upstream, distance);
  return py::make_tuple(device.asked().launches, device.asked().clears, device.asked().sorts);
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
  bind_shim(m);
  bind_triplets(m);
}

}  // namespace fasttriplet::cuda
