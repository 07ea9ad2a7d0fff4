// The shim itself, for its own tests: roundings, fragments, where threads waited, and mistakes that it must notice.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "cuda/bindings_cuda.h"
#include "cuda/shim.h"

namespace py = pybind11;

namespace fasttriplet::cuda {
namespace {

using shim::HostDevice;
using shim::Settings;

// One warp.
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

}  // namespace

void bind_shim(py::module_& m) {
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
