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

// Whole numbers, whose products are exact, show a wrong layout; fractions, over a long depth, a wrong error bound.
template <typename Tile>
std::string test_tile(CudaDevice& device, Session& session, int depth, bool whole) {
  const int64_t n = 2 * Tile::kSize - 5;  // the last rows are beyond the batch
  std::mt19937 random(0);
  std::uniform_int_distribution<int> integer(-8, 8);
  std::normal_distribution<float> normal;
  std::vector<BFloat16> rows(static_cast<size_t>(n * depth));
  for (BFloat16& entry : rows) entry = cut_off(whole ? static_cast<float>(integer(random)) : normal(random));
  std::vector<float> products(Tile::kSize * Tile::kSize);
  BFloat16* const device_rows = session.take<BFloat16>(rows.size());
  float* const device_products = session.take<float>(products.size());
  session.copy(device_rows, rows.data(), rows.size());
  device.launch(MultiplyTile<Tile>{source_of<Tile>(device, device_rows, n, depth), device_products}, 1);
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
      const double allowed = whole ? 0 : tensor_core_error(depth) * std::sqrt(x_square * y_square);
      const double found = products[i * Tile::kSize + j];
      if (!(std::fabs(found - dot) <= allowed))
        return "product (" + std::to_string(i) + ", " + std::to_string(j) + ") of a tile of " +
               std::to_string(Tile::kSize) + " and depth " + std::to_string(depth) + " is " + std::to_string(found) +
               ", and " + std::to_string(dot) + " was expected, within " + std::to_string(allowed);
    }
  return "";
}

}  // namespace

std::string test_tensor_cores(int device, TensorCores kind) {
  Session session;
  CudaDevice launcher(device, session.stream());
  for (const auto& [depth, whole] : {std::pair<int, bool>{72, true}, {8, true}, {2048, false}}) {
    std::string wrong;
    if (kind == TensorCores::kWarpgroup) {
      wrong = test_tile<WgmmaTile>(launcher, session, depth, whole);
    } else {
      wrong = test_tile<SmallTensorTile>(launcher, session, depth, whole);
      if (wrong.empty()) wrong = test_tile<LargeTensorTile>(launcher, session, depth, whole);
    }
    if (!wrong.empty()) return wrong;
  }
  return "";
}

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
