// Operator schemas, nothing else. Options are codes (core/options.h); each device registers its own kernels.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fasttriplet, m) {
  // positives [N] int64, negatives [N] int64, distances [2, N] float64.
  m.def("mine_batch_hard(Tensor embeddings, Tensor labels, int distance) -> (Tensor, Tensor, Tensor)");
  // loss [N] or [], positives [N], negatives [N], distances [2, N] float64, slopes [N] float64.
  m.def(
      "batch_hard_loss(Tensor embeddings, Tensor labels, float margin, int distance, bool soft_margin, int reduction, "
      "int on_missing) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // Gradient [N, D] of the embeddings.
  m.def(
      "_batch_hard_loss_backward(Tensor grad_loss, Tensor embeddings, Tensor positives, Tensor negatives, "
      "Tensor distances, Tensor slopes, int distance) -> Tensor");
  // Lines of key=value about this library and the CPU.
  m.def("_build_info() -> str");
}
