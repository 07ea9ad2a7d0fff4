// PyTorch's threads as the kernels ask for them.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <functional>

#include "cpu/threads/parallel.h"

namespace fasttriplet::cpu {

class TorchParallel : public Parallel {
 public:
  int64_t threads() const override { return torch::stable::get_num_threads(); }
  void run(int64_t workers, const std::function<void()>& body) const override {
    torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) body();
    });
  }
};

}  // namespace fasttriplet::cpu
