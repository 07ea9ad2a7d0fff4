// The device's names as CUDA C++ and PTX; device.cuh lists them.
//
// Where the code is compiled for an architecture that lacks an instruction the function does nothing: the first-use
// test (trust.h) then finds wrong products, and they are not used.
#pragma once

#include <cuda.h>

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
  extern __shared__ __align__(1024) char memory[];
  return memory;
}

FT_DEVICE void block_barrier() { __syncthreads(); }
FT_DEVICE bool block_any(bool value) { return __syncthreads_or(value) != 0; }
// Whether this block is the last of `blocks` to come here; `arrived` starts at zero. Each block's writes before are
// then visible to all threads of the last one: released before the count, acquired behind it, where the first-level
// cache is emptied too. __threadfence would order more than that, and take longer.
FT_DEVICE bool last_of_blocks(uint32_t* arrived, uint32_t blocks) {
  __syncthreads();
  bool last = false;
  if (threadIdx.x == 0) {
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
    last = atomicAdd(arrived, 1u) == blocks - 1;
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
  }
  return __syncthreads_or(last) != 0;
}
FT_DEVICE void warp_barrier() { __syncwarp(); }
FT_DEVICE bool warp_any(bool value) { return __any_sync(kAllLanes, value) != 0; }
template <typename T>
FT_DEVICE T shuffle_xor(T value, int stride) {
  return __shfl_xor_sync(kAllLanes, value, stride);
}

FT_DEVICE uint32_t atomic_min(uint32_t* target, uint32_t value) { return atomicMin(target, value); }
FT_DEVICE uint32_t atomic_max(uint32_t* target, uint32_t value) { return atomicMax(target, value); }
FT_DEVICE uint32_t atomic_add(uint32_t* target, uint32_t value) { return atomicAdd(target, value); }
// uint64_t is unsigned long on Linux, the atomics' type is unsigned long long: the same 64 bits.
FT_DEVICE uint64_t atomic_add(uint64_t* target, uint64_t value) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(value));
}
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
FT_DEVICE int lowest_bit(uint64_t bits) { return __ffsll(static_cast<long long>(bits)) - 1; }
FT_DEVICE float add_down(float a, float b) { return __fadd_rd(a, b); }
FT_DEVICE float add_up(float a, float b) { return __fadd_ru(a, b); }
FT_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// Copies `bytes`, 0 or 16, and zeros behind them; both addresses are multiples of 16.
FT_DEVICE void copy_async(void* shared, const void* global, int bytes) {
#if __CUDA_ARCH__ >= 800
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(global), "r"(bytes) : "memory");
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
#endif
}

// Hopper: the copy engine and the products of four warps, where the code is compiled for sm_90a.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FT_SM90A 1
#else
#define FT_SM90A 0
#endif

FT_DEVICE bool has_warpgroups() { return FT_SM90A != 0; }

using TileMap = CUtensorMap;

FT_DEVICE unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Blocks of a cluster run side by side and reach each other's shared memory.
FT_DEVICE int cluster_rank() {
#if FT_SM90A
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
#else
  return 0;
#endif
}
FT_DEVICE void cluster_barrier() {
#if FT_SM90A
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// A barrier whose phase ends when `count` arrivals and as many bytes as they expect have come.
FT_DEVICE void arrival_start(uint64_t* barrier, int count) {
#if FT_SM90A
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
FT_DEVICE void arrival_end(uint64_t* barrier) {
#if FT_SM90A
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}
FT_DEVICE void arrival_expect(uint64_t* barrier, int bytes) {
#if FT_SM90A
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#endif
}
// An arrival at the barrier that lies at this place in the shared memory of a block of the cluster. What it tells of is
// shared memory that the copy engine may write again, so it names no scope: ".release.cluster" is a fence of all
// memory, a trip to the second-level cache (MEMBAR.ALL.GPU), at every step of the products.
FT_DEVICE void arrive_at(uint64_t* barrier, int rank) {
#if FT_SM90A
  unsigned target;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(target) : "r"(shared_address(barrier)), "r"(rank));
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(target) : "memory");
#endif
}
// Until the phase of this parity has ended; the first one has parity 0. A box that never comes is an error of the
// kernel, not a process that hangs: a try waits by itself, so these take seconds to minutes.
FT_DEVICE void arrival_wait(uint64_t* barrier, int parity) {
#if FT_SM90A
  unsigned done = 0;
  for (unsigned tries = 0; done == 0; ++tries) {
    if (tries == 1u << 26) __trap();
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
  }
#endif
}

// Generic accesses to shared memory before, those of the copy engine and of wgmma after.
FT_DEVICE void fence_async() {
#if FT_SM90A
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// The box from entry k of row on, zeros beyond the matrix.
FT_DEVICE void copy_box(void* shared, const TileMap& map, int k, int row, uint64_t* barrier) {
#if FT_SM90A
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared_address(shared)),
      "l"(&map), "r"(k), "r"(row), "r"(shared_address(barrier))
      : "memory");
#endif
}

// The same into this place of the shared memory of both blocks of a cluster, each told by its barrier at that place.
FT_DEVICE void copy_box_to_both(void* shared, const TileMap& map, int k, int row, uint64_t* barrier) {
#if FT_SM90A
  const uint16_t both = 3;
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, "
      "%3}], [%4], %5;" ::"r"(shared_address(shared)),
      "l"(&map), "r"(k), "r"(row), "r"(shared_address(barrier)), "h"(both)
      : "memory");
#endif
}

FT_DEVICE void group_begin() {
#if FT_SM90A
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
FT_DEVICE void group_commit() {
#if FT_SM90A
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int kPending>
FT_DEVICE void group_wait() {
#if FT_SM90A
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}

// An empty instruction on all sums: the compiler takes them for ready once the last wgmma is issued.
template <int kColumns>
FT_DEVICE void hold_sums(float (&sum)[2][kColumns]) {
#if FT_SM90A
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int c = 0; c < kColumns; ++c) asm volatile("" : "+f"(sum[r][c])::"memory");
#endif
}

// What wgmma must know of an operand whose rows of 128 bytes are swizzled: its address, 1024 bytes from eight rows to
// the next eight, and the swizzle (PTX ISA, "Matrix descriptor"), in units of 16 bytes.
FT_DEVICE uint64_t operand_descriptor(const void* shared) {
  constexpr uint64_t kEightRows = 1024 / 16, kSwizzle128 = 1;
  return static_cast<uint64_t>((shared_address(shared) & 0x3ffff) >> 4) | uint64_t{1} << 16 | kEightRows << 32 |
         kSwizzle128 << 62;
}

// sum += a b for a 64 x 16, a row 128 bytes from the next, and b 16 x 128 or 16 x 256 by its columns likewise, in
// float32.
FT_DEVICE void group_multiply_add(float (&sum)[2][32], const void* a, const void* b) {
#if FT_SM90A
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63 "
      "}, %64, %65, 1, 1, 1, 0, 0;"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[0][2]), "+f"(sum[0][3]),
        "+f"(sum[1][2]), "+f"(sum[1][3]), "+f"(sum[0][4]), "+f"(sum[0][5]), "+f"(sum[1][4]), "+f"(sum[1][5]),
        "+f"(sum[0][6]), "+f"(sum[0][7]), "+f"(sum[1][6]), "+f"(sum[1][7]), "+f"(sum[0][8]), "+f"(sum[0][9]),
        "+f"(sum[1][8]), "+f"(sum[1][9]), "+f"(sum[0][10]), "+f"(sum[0][11]), "+f"(sum[1][10]), "+f"(sum[1][11]),
        "+f"(sum[0][12]), "+f"(sum[0][13]), "+f"(sum[1][12]), "+f"(sum[1][13]), "+f"(sum[0][14]), "+f"(sum[0][15]),
        "+f"(sum[1][14]), "+f"(sum[1][15]), "+f"(sum[0][16]), "+f"(sum[0][17]), "+f"(sum[1][16]), "+f"(sum[1][17]),
        "+f"(sum[0][18]), "+f"(sum[0][19]), "+f"(sum[1][18]), "+f"(sum[1][19]), "+f"(sum[0][20]), "+f"(sum[0][21]),
        "+f"(sum[1][20]), "+f"(sum[1][21]), "+f"(sum[0][22]), "+f"(sum[0][23]), "+f"(sum[1][22]), "+f"(sum[1][23]),
        "+f"(sum[0][24]), "+f"(sum[0][25]), "+f"(sum[1][24]), "+f"(sum[1][25]), "+f"(sum[0][26]), "+f"(sum[0][27]),
        "+f"(sum[1][26]), "+f"(sum[1][27]), "+f"(sum[0][28]), "+f"(sum[0][29]), "+f"(sum[1][28]), "+f"(sum[1][29]),
        "+f"(sum[0][30]), "+f"(sum[0][31]), "+f"(sum[1][30]), "+f"(sum[1][31])
      : "l"(operand_descriptor(a)), "l"(operand_descriptor(b)));
#endif
}
FT_DEVICE void group_multiply_add(float (&sum)[2][64], const void* a, const void* b) {
#if FT_SM90A
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127 "
      "}, %128, %129, 1, 1, 1, 0, 0;"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[0][2]), "+f"(sum[0][3]),
        "+f"(sum[1][2]), "+f"(sum[1][3]), "+f"(sum[0][4]), "+f"(sum[0][5]), "+f"(sum[1][4]), "+f"(sum[1][5]),
        "+f"(sum[0][6]), "+f"(sum[0][7]), "+f"(sum[1][6]), "+f"(sum[1][7]), "+f"(sum[0][8]), "+f"(sum[0][9]),
        "+f"(sum[1][8]), "+f"(sum[1][9]), "+f"(sum[0][10]), "+f"(sum[0][11]), "+f"(sum[1][10]), "+f"(sum[1][11]),
        "+f"(sum[0][12]), "+f"(sum[0][13]), "+f"(sum[1][12]), "+f"(sum[1][13]), "+f"(sum[0][14]), "+f"(sum[0][15]),
        "+f"(sum[1][14]), "+f"(sum[1][15]), "+f"(sum[0][16]), "+f"(sum[0][17]), "+f"(sum[1][16]), "+f"(sum[1][17]),
        "+f"(sum[0][18]), "+f"(sum[0][19]), "+f"(sum[1][18]), "+f"(sum[1][19]), "+f"(sum[0][20]), "+f"(sum[0][21]),
        "+f"(sum[1][20]), "+f"(sum[1][21]), "+f"(sum[0][22]), "+f"(sum[0][23]), "+f"(sum[1][22]), "+f"(sum[1][23]),
        "+f"(sum[0][24]), "+f"(sum[0][25]), "+f"(sum[1][24]), "+f"(sum[1][25]), "+f"(sum[0][26]), "+f"(sum[0][27]),
        "+f"(sum[1][26]), "+f"(sum[1][27]), "+f"(sum[0][28]), "+f"(sum[0][29]), "+f"(sum[1][28]), "+f"(sum[1][29]),
        "+f"(sum[0][30]), "+f"(sum[0][31]), "+f"(sum[1][30]), "+f"(sum[1][31]), "+f"(sum[0][32]), "+f"(sum[0][33]),
        "+f"(sum[1][32]), "+f"(sum[1][33]), "+f"(sum[0][34]), "+f"(sum[0][35]), "+f"(sum[1][34]), "+f"(sum[1][35]),
        "+f"(sum[0][36]), "+f"(sum[0][37]), "+f"(sum[1][36]), "+f"(sum[1][37]), "+f"(sum[0][38]), "+f"(sum[0][39]),
        "+f"(sum[1][38]), "+f"(sum[1][39]), "+f"(sum[0][40]), "+f"(sum[0][41]), "+f"(sum[1][40]), "+f"(sum[1][41]),
        "+f"(sum[0][42]), "+f"(sum[0][43]), "+f"(sum[1][42]), "+f"(sum[1][43]), "+f"(sum[0][44]), "+f"(sum[0][45]),
        "+f"(sum[1][44]), "+f"(sum[1][45]), "+f"(sum[0][46]), "+f"(sum[0][47]), "+f"(sum[1][46]), "+f"(sum[1][47]),
        "+f"(sum[0][48]), "+f"(sum[0][49]), "+f"(sum[1][48]), "+f"(sum[1][49]), "+f"(sum[0][50]), "+f"(sum[0][51]),
        "+f"(sum[1][50]), "+f"(sum[1][51]), "+f"(sum[0][52]), "+f"(sum[0][53]), "+f"(sum[1][52]), "+f"(sum[1][53]),
        "+f"(sum[0][54]), "+f"(sum[0][55]), "+f"(sum[1][54]), "+f"(sum[1][55]), "+f"(sum[0][56]), "+f"(sum[0][57]),
        "+f"(sum[1][56]), "+f"(sum[1][57]), "+f"(sum[0][58]), "+f"(sum[0][59]), "+f"(sum[1][58]), "+f"(sum[1][59]),
        "+f"(sum[0][60]), "+f"(sum[0][61]), "+f"(sum[1][60]), "+f"(sum[1][61]), "+f"(sum[0][62]), "+f"(sum[0][63]),
        "+f"(sum[1][62]), "+f"(sum[1][63])
      : "l"(operand_descriptor(a)), "l"(operand_descriptor(b)));
#endif
}

}  // namespace fasttriplet::cuda
