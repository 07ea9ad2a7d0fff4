#include "cuda/trust.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <random>
#include <vector>

#include "core/bound.h"
#include "cuda/engine.cuh"
#include "cuda/launch.cuh"
#include "cuda/self_test.cuh"
#include "cuda/tile_tensor.cuh"

namespace fasttriplet::cuda {
namespace {

// Whether this library has code for sm_90a, which alone has those instructions.
const bool kHasWgmma = std::string(FASTTRIPLET_CUDA_ARCHITECTURES).find("sm_90a") != std::string::npos;

// A stream and memory of the test's own: PyTorch's need not be disturbed, nor a graph that another thread captures.
class Session {
 public:
  Session() {
    check_cuda(cudaThreadExchangeStreamCaptureMode(&capture_mode_), "cudaThreadExchangeStreamCaptureMode");
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  ~Session() {
    for (void* piece : pieces_) cudaFree(piece);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
    cudaThreadExchangeStreamCaptureMode(&capture_mode_);
  }
  cudaStream_t stream() const { return stream_; }

  template <typename T>
  T* take(size_t count) {
    void* piece = nullptr;
    const cudaError_t status = cudaMalloc(&piece, count * sizeof(T));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
    check_cuda(status, "cudaMalloc");
    pieces_.push_back(piece);
    return static_cast<T*>(piece);
  }
  template <typename T>
  void copy(T* to, const T* from, size_t count) {
    check_cuda(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyDefault, stream_), "cudaMemcpyAsync");
    check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }

 private:
  cudaStreamCaptureMode capture_mode_ = cudaStreamCaptureModeRelaxed;  // the thread's own one while this lives
  cudaStream_t stream_ = nullptr;
  std::vector<void*> pieces_;
};

double value_of(BFloat16 entry) {
  const uint32_t bits = static_cast<uint32_t>(entry.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

BFloat16 cut_off(float value) {  // any bfloat16 number near value will do
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return {static_cast<uint16_t>(bits >> 16)};
}

// Whole numbers, whose products are exact, show a wrong layout; fractions, over a long depth, a wrong error bound; so
// do numbers in [1, 2) added to a first product of 4096, which lose as many bits as sums can.
enum class Entries { kWhole, kNormal, kLarge };

BFloat16 draw(Entries kind, int64_t k, std::mt19937& random) {
  std::uniform_int_distribution<int> integer(-8, 8);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(1, 2);
  if (kind == Entries::kWhole) return cut_off(static_cast<float>(integer(random)));
  if (kind == Entries::kNormal) return cut_off(normal(random));
  return cut_off(k == 0 ? 64 : uniform(random));
}

struct Found {
  std::string wrong;  // empty: nothing
  double share = 0;   // largest error, of what is allowed
};

template <typename Tile>
void test_tile(CudaDevice& device, Session& session, int depth, Entries kind, Found& found) {
  const int64_t n = 2 * Tile::kSize - 5;  // the last rows are beyond the batch
  std::mt19937 random(0);
  std::vector<BFloat16> rows(static_cast<size_t>(n * depth));
  for (int64_t e = 0; e < n * depth; ++e) rows[e] = draw(kind, e % depth, random);
  std::vector<float> products(Tile::kSize * Tile::kSize);
  BFloat16* const device_rows = session.take<BFloat16>(rows.size());
  float* const device_products = session.take<float>(products.size());
  session.copy(device_rows, rows.data(), rows.size());
  device.launch(MultiplyTile<Tile>{source_of<Tile>(device, device_rows, n, depth), device_products}, Tile::kBlocks);
  session.copy(products.data(), device_products, products.size());
  for (int64_t i = 0; i < Tile::kSize; ++i)
    for (int64_t j = 0; j < Tile::kSize; ++j) {
      double dot = 0, x_square = 0, y_square = 0;
      for (int64_t k = 0; k < depth; ++k) {
        const double x = value_of(rows[i * depth + k]);
        const double y = Tile::kSize + j < n ? value_of(rows[(Tile::kSize + j) * depth + k]) : 0;
        dot += x * y;
        x_square += x * x;
        y_square += y * y;
      }
      const bool exact = kind == Entries::kWhole;
      const double allowed = exact ? 0 : tensor_core_error(depth) * std::sqrt(x_square * y_square);
      const double product = products[i * Tile::kSize + j], error = std::fabs(product - dot);
      if (!exact && allowed > 0) found.share = std::fmax(found.share, error / allowed);
      if (!(error <= allowed) && found.wrong.empty())
        found.wrong = "product (" + std::to_string(i) + ", " + std::to_string(j) + ") of a tile of " +
                      std::to_string(Tile::kSize) + " and depth " + std::to_string(depth) + " is " +
                      std::to_string(product) + ", and " + std::to_string(dot) + " was expected, within " +
                      std::to_string(allowed);
    }
}

Found test(int device, TensorCores kind) {
  Session session;
  CudaDevice launcher(device, session.stream());
  Found found;
  for (const auto& [depth, entries] : {std::pair<int, Entries>{72, Entries::kWhole},
                                       {8, Entries::kWhole},
                                       {2048, Entries::kNormal},
                                       {512, Entries::kLarge}}) {
    if (kind == TensorCores::kWarpgroup) {
      test_tile<WgmmaBlockTile>(launcher, session, depth, entries, found);
    } else if (kind == TensorCores::kWarpgroupPair) {
      test_tile<WgmmaPairTile>(launcher, session, depth, entries, found);
    } else {
      test_tile<SmallTensorTile>(launcher, session, depth, entries, found);
      test_tile<LargeTensorTile>(launcher, session, depth, entries, found);
    }
    if (!found.wrong.empty()) break;
  }
  return found;
}

}  // namespace

std::string test_tensor_cores(int device, TensorCores kind) { return test(device, kind).wrong; }

double largest_error_share(int device, TensorCores kind) { return test(device, kind).share; }

bool tensor_cores_trusted(int device, TensorCores kind, cudaStream_t stream) {
  enum class Trust { kUnknown, kYes, kNo };
  static std::mutex lock;
  static std::map<std::pair<int, TensorCores>, Trust> known;
  const std::lock_guard<std::mutex> guard(lock);
  Trust& trust = known[{device, kind}];
  if (trust == Trust::kUnknown) {
    const int major = device_attribute(cudaDevAttrComputeCapabilityMajor, device);
    if (kind == TensorCores::kWarp ? major < 8 : major != 9 || !kHasWgmma) {
      trust = Trust::kNo;
      return false;
    }
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing");
    if (capture != cudaStreamCaptureStatusNone) return false;
    std::string wrong;
    try {
      wrong = test_tensor_cores(device, kind);
    } catch (const std::bad_alloc&) {
      return false;  // no memory just now: perhaps at a later call
    }
    if (!wrong.empty())
      std::fprintf(stderr, "fasttriplet: the tensor cores of CUDA device %d are not used: %s\n", device, wrong.c_str());
    trust = wrong.empty() ? Trust::kYes : Trust::kNo;
  }
  return trust == Trust::kYes;
}

}  // namespace fasttriplet::cuda
