#include "check.h"

#include <torch/headeronly/core/ScalarType.h>

#include <limits>
#include <stdexcept>
#include <string>

#include "core/bound.h"

namespace fasttriplet {
namespace {

using torch::headeronly::ScalarType;

std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t k = 0; k < tensor.dim(); ++k) text += (k > 0 ? ", " : "") + std::to_string(tensor.size(k));
  return text + "]";
}

std::string dtype_of(const Tensor& tensor) { return torch::headeronly::toString(tensor.scalar_type()); }

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

int64_t code_below(int64_t code, int64_t count, const char* name) {
  if (code < 0 || code >= count)
    fail(std::string(name) + " must be a code from 0 to " + std::to_string(count - 1) + "; got " +
         std::to_string(code));
  return code;
}

bool is_integer(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Bool:
    case ScalarType::Char:
    case ScalarType::Byte:
    case ScalarType::Short:
    case ScalarType::UInt16:
    case ScalarType::Int:
    case ScalarType::UInt32:
    case ScalarType::Long:
    case ScalarType::UInt64:
      return true;
    default:
      return false;
  }
}

void check_device(const Tensor& tensor, const char* name, const Tensor& embeddings) {
  const auto place = [](const Tensor& of) {
    return (of.is_cuda() ? "cuda:" : of.is_cpu() ? "cpu:" : "another device:") + std::to_string(of.get_device_index());
  };
  if (tensor.is_cuda() != embeddings.is_cuda() || tensor.get_device_index() != embeddings.get_device_index())
    fail(std::string(name) + " must be on the device of embeddings, " + place(embeddings) + "; got " + place(tensor));
}

}  // namespace

void check_embeddings(const Tensor& embeddings) {
  const ScalarType dtype = embeddings.scalar_type();
  if (dtype != ScalarType::Float && dtype != ScalarType::Double)
    fail("embeddings must have dtype float64, float32, float16 or bfloat16; got " + dtype_of(embeddings));
  if (embeddings.dim() != 2) fail("embeddings must have shape [N, D]; got " + shape_of(embeddings));
  if (embeddings.size(0) > std::numeric_limits<int32_t>::max())
    fail("embeddings must have at most 2^31 - 1 rows; got " + shape_of(embeddings));
  if (embeddings.size(1) > kMaxColumns) fail("embeddings must have at most 2^22 columns; got " + shape_of(embeddings));
}

void check_labels(const Tensor& labels, const Tensor& embeddings) {
  if (!is_integer(labels.scalar_type())) fail("labels must have an integer dtype or bool; got " + dtype_of(labels));
  if (labels.dim() != 1 || labels.size(0) != embeddings.size(0))
    fail("labels must have shape [" + std::to_string(embeddings.size(0)) + "] to match embeddings " +
         shape_of(embeddings) + "; got " + shape_of(labels));
  check_device(labels, "labels", embeddings);
}

void check_saved(const Tensor& tensor, const char* name, ScalarType dtype, int64_t leading, const Tensor& embeddings) {
  const int64_t n = embeddings.size(0);
  if (tensor.scalar_type() != dtype || tensor.dim() != 2 || tensor.size(0) != leading || tensor.size(1) != n)
    fail(std::string(name) + " must be what batch_hard_loss returned for these embeddings, " +
         torch::headeronly::toString(dtype) + " [" + std::to_string(leading) + ", " + std::to_string(n) + "]; got " +
         dtype_of(tensor) + " " + shape_of(tensor));
  check_device(tensor, name, embeddings);
}

void check_pairs(const int64_t* pairs, int64_t n) {
  for (int64_t i = 0; i < 2 * n; ++i)
    if (pairs[i] < -1 || pairs[i] >= n)
      fail("pairs must hold -1 or an index below " + std::to_string(n) + "; got " + std::to_string(pairs[i]) +
           " in row " + std::to_string(i / n) + " at index " + std::to_string(i % n));
}

void check_upstream(const Tensor& grad_loss, const Tensor& embeddings) {
  const bool shaped = grad_loss.dim() == 0 || (grad_loss.dim() == 1 && grad_loss.size(0) == embeddings.size(0));
  if (grad_loss.scalar_type() != embeddings.scalar_type() || !shaped)
    fail("grad_loss must have the dtype of embeddings, " + dtype_of(embeddings) + ", and shape [] or [" +
         std::to_string(embeddings.size(0)) + "]; got " + dtype_of(grad_loss) + " " + shape_of(grad_loss));
  check_device(grad_loss, "grad_loss", embeddings);
}

void check_none_missing(int64_t missing, int64_t n, int64_t first) {
  if (missing > 0)
    fail("labels must give every anchor a positive and a negative (on_missing='error'); got " +
         std::to_string(missing) + " of " + std::to_string(n) + " anchors without, the first at index " +
         std::to_string(first));
}

Distance distance_of(int64_t code) { return static_cast<Distance>(code_below(code, kDistances, "distance")); }
Reduction reduction_of(int64_t code) { return static_cast<Reduction>(code_below(code, kReductions, "reduction")); }
OnMissing on_missing_of(int64_t code) { return static_cast<OnMissing>(code_below(code, kOnMissing, "on_missing")); }

}  // namespace fasttriplet
