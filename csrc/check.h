// Every validation of tensors and option codes in C++. A failed one throws std::invalid_argument, Python's ValueError,
// and names the argument, what it must be and what came.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "core/options.h"

namespace fasttriplet {

using torch::stable::Tensor;

// embeddings [N, D] float32 or float64, labels [N] of an integer dtype or bool.
void check_embeddings(const Tensor& embeddings);
// On one device: labels and all else too must be where the embeddings are.
void check_labels(const Tensor& labels, const Tensor& embeddings);

// Tensors that the forward operator made; wrong ones mean a private operator was called by hand.
void check_saved(const Tensor& tensor, const char* name, torch::headeronly::ScalarType dtype, int64_t leading,
                 const Tensor& embeddings);
void check_pairs(const int64_t* pairs, int64_t n);  // [2, N], each -1 or an index below N
void check_upstream(const Tensor& grad_loss, const Tensor& embeddings);

// on_missing = "error": says how many anchors lack a positive or a negative, and which is the first.
void check_none_missing(int64_t missing, int64_t n, int64_t first);

Distance distance_of(int64_t code);
Reduction reduction_of(int64_t code);
OnMissing on_missing_of(int64_t code);

}  // namespace fasttriplet
