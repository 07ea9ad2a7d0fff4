// The radix sort of CUB, compiled once, apart from all that launches kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace fasttriplet::cuda {

// Scratch of a sort of `n` keys.
size_t radix_sort_bytes(int64_t n);

// Stable, with `size` bytes of scratch: values in the order of the lower `bits` of their keys, equal keys by place.
void radix_sort(const uint64_t* keys, uint64_t* sorted_keys, const int32_t* values, int32_t* sorted_values, int64_t n,
                int bits, char* scratch, size_t size, cudaStream_t stream);

}  // namespace fasttriplet::cuda
