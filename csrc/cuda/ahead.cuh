// Loads in flight ahead of what is done with them: a sum whose order is fixed must not wait for memory term by term.
#pragma once

#include "cuda/device.cuh"

namespace fasttriplet::cuda {

// use(load(0)), use(load(1)) to use(load(count - 1)), in this order, up to kAhead of the loads before the first use.
// Both unrolled halves are straight-line code: the loads depend on nothing but their number.
template <int kAhead, typename Load, typename Use>
FT_DEVICE void use_loaded(int count, Load&& load, Use&& use) {
  decltype(load(0)) loaded[kAhead] = {};
  int s = 0;
  for (; s + kAhead <= count; s += kAhead) {
#pragma unroll
    for (int a = 0; a < kAhead; ++a) loaded[a] = load(s + a);
#pragma unroll
    for (int a = 0; a < kAhead; ++a) use(loaded[a]);
  }
#pragma unroll
  for (int a = 0; a < kAhead; ++a)
    if (s + a < count) loaded[a] = load(s + a);
#pragma unroll
  for (int a = 0; a < kAhead; ++a)
    if (s + a < count) use(loaded[a]);
}

}  // namespace fasttriplet::cuda
