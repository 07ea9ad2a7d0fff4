// The engine's device on a GPU: launches on PyTorch's current stream, every one of them checked.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

#include "cuda/device.cuh"
#include "cuda/sort.h"
#include "cuda/status.h"

namespace fasttriplet::cuda {

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kMinBlocks) run(const __grid_constant__ Kernel kernel) {
  kernel();
}

class CudaDevice {
 public:
  CudaDevice(int index, cudaStream_t stream)
      : index_(index), stream_(stream), processors_(device_attribute(cudaDevAttrMultiProcessorCount, index)) {}

  int64_t processors() const { return processors_; }
  cudaStream_t stream() const { return stream_; }

  template <typename Kernel>
  void launch(const Kernel& kernel, int64_t blocks) {
    constexpr int kBytes = kSharedBytesOf<Kernel>;
    if constexpr (kBytes > kUsualSharedBytes) allow_shared_memory<Kernel>(kBytes);
    run<Kernel><<<static_cast<unsigned>(blocks), Kernel::kThreads, kBytes, stream_>>>(kernel);
    check_cuda(cudaGetLastError(), "a kernel's launch");
  }

  void clear(void* pointer, size_t bytes) {
    check_cuda(cudaMemsetAsync(pointer, 0, bytes, stream_), "cudaMemsetAsync");
  }

  size_t sort_bytes(int64_t n) const { return radix_sort_bytes(n); }
  void sort(const uint64_t* keys, uint64_t* sorted_keys, const int32_t* values, int32_t* sorted_values, int64_t n,
            char* scratch) {
    radix_sort(keys, sorted_keys, values, sorted_values, n, scratch, stream_);
  }

 private:
  static constexpr int kUsualSharedBytes = 48 * 1024;

  // More than 48 KB must be asked for, once a kernel and device.
  template <typename Kernel>
  void allow_shared_memory(int bytes) {
    static std::atomic<uint64_t> asked{0};
    const uint64_t bit = uint64_t{1} << (index_ % 64);
    if (index_ < 64 && (asked.load(std::memory_order_relaxed) & bit) != 0) return;
    check_cuda(cudaFuncSetAttribute(run<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "asking for shared memory");
    asked |= bit;
  }

  int index_;
  cudaStream_t stream_;
  int64_t processors_;
};

}  // namespace fasttriplet::cuda
