// The engine's device on a GPU: launches on PyTorch's current stream, every one of them checked.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

#include "cuda/device.cuh"
#include "cuda/sort.h"
#include "cuda/status.h"
#include "cuda/tile.cuh"

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
  int64_t float64_ratio() const { return device_attribute(cudaDevAttrSingleToDoublePrecisionPerfRatio, index_); }
  cudaStream_t stream() const { return stream_; }

  template <typename Kernel>
  void launch(const Kernel& kernel, int64_t blocks) {
    constexpr int kBytes = kSharedBytesOf<Kernel>;
    if constexpr (kBytes > kUsualSharedBytes) allow_shared_memory<Kernel>(kBytes);
    if constexpr (kClusterBlocksOf<Kernel> > 1) {
      launch_clusters(kernel, blocks);
    } else {
      run<Kernel><<<static_cast<unsigned>(blocks), Kernel::kThreads, kBytes, stream_>>>(kernel);
      check_cuda(cudaGetLastError(), "a kernel's launch");
    }
  }

  // Boxes of kBoxRows x kBoxEntries of a matrix [n, depth], for the copy engine.
  TileMap tile_map(const BFloat16* entries, int64_t n, int depth) const {
    const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(depth), static_cast<cuuint64_t>(n)};
    const cuuint64_t row_bytes[1] = {static_cast<cuuint64_t>(depth) * sizeof(BFloat16)};
    const cuuint32_t box[2] = {kBoxEntries, kBoxRows}, steps[2] = {1, 1};
    TileMap map;
    const CUresult status =
        tile_map_encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<BFloat16*>(entries), sizes, row_bytes,
                           box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (status != CUDA_SUCCESS)
      throw std::runtime_error("fasttriplet: cuTensorMapEncodeTiled failed with code " + std::to_string(status));
    return map;
  }

  void clear(void* pointer, size_t bytes) {
    check_cuda(cudaMemsetAsync(pointer, 0, bytes, stream_), "cudaMemsetAsync");
  }

  size_t sort_bytes(int64_t n) const { return radix_sort_bytes(n); }
  void sort(const uint64_t* keys, uint64_t* sorted_keys, const int32_t* values, int32_t* sorted_values, int64_t n,
            int bits, char* scratch, size_t size) {
    radix_sort(keys, sorted_keys, values, sorted_values, n, bits, scratch, size, stream_);
  }

 private:
  // The driver's function, asked for where it is used: the library is not linked to the driver.
  static decltype(&cuTensorMapEncodeTiled) tile_map_encoder() {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t status = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    check_cuda(status, "asking the driver for cuTensorMapEncodeTiled");
    if (found != cudaDriverEntryPointSuccess || function == nullptr)
      throw std::runtime_error("fasttriplet: this driver has no cuTensorMapEncodeTiled, which wgmma needs");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }

  static constexpr int kUsualSharedBytes = 48 * 1024;

  template <typename Kernel>
  void launch_clusters(const Kernel& kernel, int64_t blocks) {
    cudaLaunchAttribute clusters = {};
    clusters.id = cudaLaunchAttributeClusterDimension;
    clusters.val.clusterDim.x = kClusterBlocksOf<Kernel>;
    clusters.val.clusterDim.y = clusters.val.clusterDim.z = 1;
    cudaLaunchConfig_t shape = {};
    shape.gridDim = dim3(static_cast<unsigned>(blocks));
    shape.blockDim = dim3(Kernel::kThreads);
    shape.dynamicSmemBytes = kSharedBytesOf<Kernel>;
    shape.stream = stream_;
    shape.attrs = &clusters;
    shape.numAttrs = 1;
    check_cuda(cudaLaunchKernelEx(&shape, run<Kernel>, kernel), "a kernel's launch in clusters");
  }

  // More than 48 KB must be asked for, once a kernel and device.
  template <typename Kernel>
  void allow_shared_memory(int bytes) {
    static std::atomic<uint64_t> asked{0};
    const uint64_t bit = uint64_t{1} << (index_ % 64);
    if (index_ < 64 && (asked.load(std::memory_order_relaxed) & bit) != 0) return;
    check_cuda(cudaFuncSetAttribute(run<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "asking for shared memory");
    if (index_ < 64) asked |= bit;
  }

  int index_;
  cudaStream_t stream_;
  int64_t processors_;
};

}  // namespace fasttriplet::cuda
