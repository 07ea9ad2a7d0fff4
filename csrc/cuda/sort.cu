#include "cuda/sort.h"

#include <cub/device/device_radix_sort.cuh>

#include "cuda/status.h"

namespace fasttriplet::cuda {
namespace {

// CUB's function asks for its scratch where that is null.
void sort_pairs(char* scratch, size_t& bytes, const uint64_t* keys, uint64_t* sorted_keys, const int32_t* values,
                int32_t* sorted_values, int64_t n, int bits, cudaStream_t stream) {
  check_cuda(
      cub::DeviceRadixSort::SortPairs(scratch, bytes, keys, sorted_keys, values, sorted_values, n, 0, bits, stream),
      "the radix sort");
}

}  // namespace

size_t radix_sort_bytes(int64_t n) {
  size_t bytes = 0;
  sort_pairs(nullptr, bytes, nullptr, nullptr, nullptr, nullptr, n, 64, nullptr);
  return bytes;
}

void radix_sort(const uint64_t* keys, uint64_t* sorted_keys, const int32_t* values, int32_t* sorted_values, int64_t n,
                int bits, char* scratch, size_t size, cudaStream_t stream) {
  sort_pairs(scratch, size, keys, sorted_keys, values, sorted_values, n, bits, stream);
}

}  // namespace fasttriplet::cuda
