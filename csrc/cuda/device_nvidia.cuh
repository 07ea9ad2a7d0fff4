// The device's names as CUDA C++ and PTX; device.cuh lists them.
#pragma once

#include <cstdint>

#define FT_DEVICE __device__ __forceinline__

namespace fasttriplet::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

FT_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
FT_DEVICE int lane_index() { return thread_index() & 31; }
FT_DEVICE int warp_index() { return thread_index() >> 5; }
FT_DEVICE int64_t block_index() { return blockIdx.x; }
FT_DEVICE int64_t block_count() { return gridDim.x; }
FT_DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char memory[];
  return memory;
}

FT_DEVICE void block_barrier() { __syncthreads(); }
FT_DEVICE bool block_any(bool value) { return __syncthreads_or(value) != 0; }
FT_DEVICE void warp_barrier() { __syncwarp(); }
FT_DEVICE bool warp_any(bool value) { return __any_sync(kAllLanes, value) != 0; }
template <typename T>
FT_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}
template <typename T>
FT_DEVICE T shuffle_xor(T value, int stride) {
  return __shfl_xor_sync(kAllLanes, value, stride);
}

FT_DEVICE uint32_t atomic_min(uint32_t* target, uint32_t value) { return atomicMin(target, value); }
FT_DEVICE uint32_t atomic_max(uint32_t* target, uint32_t value) { return atomicMax(target, value); }
FT_DEVICE uint32_t atomic_add(uint32_t* target, uint32_t value) { return atomicAdd(target, value); }
// uint64_t is unsigned long on Linux, the atomics' type is unsigned long long: the same 64 bits.
FT_DEVICE uint64_t atomic_max(uint64_t* target, uint64_t value) {
  return atomicMax(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(value));
}
FT_DEVICE uint64_t compare_and_swap(uint64_t* target, uint64_t expected, uint64_t value) {
  return atomicCAS(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(expected),
                   static_cast<unsigned long long>(value));
}
FT_DEVICE uint32_t load_fresh(const uint32_t* from) { return __ldcg(from); }
FT_DEVICE uint64_t load_fresh(const uint64_t* from) {
  return __ldcg(reinterpret_cast<const unsigned long long*>(from));
}

// The same number, and what follows from it is not moved out of a loop, where it would hold registers.
FT_DEVICE int worked_out_here(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

FT_DEVICE uint32_t float_bits(float value) { return __float_as_uint(value); }
FT_DEVICE float bits_float(uint32_t bits) { return __uint_as_float(bits); }
FT_DEVICE uint64_t double_bits(double value) { return static_cast<uint64_t>(__double_as_longlong(value)); }
FT_DEVICE float add_down(float a, float b) { return __fadd_rd(a, b); }
FT_DEVICE float add_up(float a, float b) { return __fadd_ru(a, b); }
FT_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// Copies `bytes`, 0 or 16, and zeros behind them; both addresses are multiples of 16.
FT_DEVICE void copy_async(void* shared, const void* global, int bytes) {
#if __CUDA_ARCH__ >= 800
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(global), "r"(bytes) : "memory");
#else
  __trap();  // launched on sm_80 and later only
#endif
}
FT_DEVICE void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Until at most kPending of this thread's groups are under way.
template <int kPending>
FT_DEVICE void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// Four 8 x 8 matrices of 16-bit entries; lane l gives the address of row l % 8 of matrix l / 8.
FT_DEVICE void load_matrices(uint32_t (&words)[4], const void* shared_row) {
  const unsigned source = static_cast<unsigned>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(source)
               : "memory");
}

// sum += a b for a 16 x 16 and b 16 x 8, bfloat16, in float32.
FT_DEVICE void multiply_add_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}

}  // namespace fasttriplet::cuda
