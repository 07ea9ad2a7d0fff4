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

void check_device(const Tensor& tensor, const char* name, const Tensor& embeddings, const char* like = "embeddings") {
  const auto place = [](const Tensor& of) {
    return (of.is_cuda() ? "cuda:" : of.is_cpu() ? "cpu:" : "another device:") + std::to_string(of.get_device_index());
  };
  if (tensor.is_cuda() != embeddings.is_cuda() || tensor.get_device_index() != embeddings.get_device_index())
    fail(std::string(name) + " must be on the device of " + like + ", " + place(embeddings) + "; got " + place(tensor));
}

// What makes rows of features of something else.
std::string advice_for_dim(int64_t dim) {
  if (dim == 0) return "a number is no row of features";
  if (dim == 1) return "make one triplet of a row with x[None], or rows of numbers with x[:, None]";
  return "pool or flatten each first, e.g. x.flatten(1)" +
         std::string(dim == 4   ? ", x.mean((1, 2)) of feature maps [T, H, W, C] or x.mean((2, 3)) of [T, C, H, W]"
                     : dim == 3 ? " or x.mean(1) of sequences [T, L, D]"
                                : "");
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

void check_saved(const Tensor& tensor, const char* name, ScalarType dtype, int64_t leading, const Tensor& embeddings,
                 const char* origin) {
  const int64_t n = embeddings.size(0);
  if (tensor.scalar_type() != dtype || tensor.dim() != 2 || tensor.size(0) != leading || tensor.size(1) != n)
    fail(std::string(name) + " must be what " + origin + ", " + torch::headeronly::toString(dtype) + " [" +
         std::to_string(leading) + ", " + std::to_string(n) + "]; got " + dtype_of(tensor) + " " + shape_of(tensor));
  check_device(tensor, name, embeddings);
}

namespace {

// One integer a row of `rows`, or where `may_be_masks` a bit mask.
void check_ids(const Tensor& ids, const char* name, const Tensor& rows, const char* rows_name, bool may_be_masks) {
  if (!is_integer(ids.scalar_type()))
    fail(std::string(name) + " must have an integer dtype or bool; got " + dtype_of(ids));
  const std::string n = std::to_string(rows.size(0));
  const bool shaped = ids.dim() == 1 || (may_be_masks && ids.dim() == 2);
  if (!shaped || ids.size(0) != rows.size(0))
    fail(std::string(name) + " must have shape [" + n + "]" +
         (may_be_masks ? ", or [" + n + ", W] for bit masks," : "") + " to match " + rows_name + " " + shape_of(rows) +
         "; got " + shape_of(ids));
}

}  // namespace

void check_references(const Tensor& references, const Tensor& embeddings) {
  if (references.dim() != 2 || references.size(1) != embeddings.size(1))
    fail("ref_embeddings must have shape [M, " + std::to_string(embeddings.size(1)) + "] to match embeddings " +
         shape_of(embeddings) + "; got " + shape_of(references));
  if (references.scalar_type() != embeddings.scalar_type())
    fail("ref_embeddings must have the dtype of embeddings, " + dtype_of(embeddings) + "; got " + dtype_of(references));
  if (embeddings.size(0) + references.size(0) > std::numeric_limits<int32_t>::max())
    fail("embeddings and ref_embeddings must have at most 2^31 - 1 rows together; got " + shape_of(embeddings) +
         " and " + shape_of(references));
  check_device(references, "ref_embeddings", embeddings);
}

void check_pairing(const PairingTensors& pairing) {
  const Tensor& embeddings = pairing.embeddings;
  check_embeddings(embeddings);
  check_ids(pairing.labels, "labels", embeddings, "embeddings", true);
  check_device(pairing.labels, "labels", embeddings);
  if (pairing.ref_embeddings.has_value() != pairing.ref_labels.has_value())
    fail("ref_embeddings and ref_labels must be given together; got one of them");
  if (pairing.self_indices.has_value() && !pairing.ref_embeddings.has_value())
    fail("self_indices must come with ref_embeddings, which they point into; got them without");
  if (pairing.ignore_index.has_value() && pairing.labels.dim() == 2)
    fail("ignore_index must not be given with bit masks, labels of shape [N, W]; got " + shape_of(pairing.labels));
  if (pairing.ref_embeddings.has_value()) {
    const Tensor &references = *pairing.ref_embeddings, &labels = *pairing.ref_labels;
    check_references(references, embeddings);
    check_ids(labels, "ref_labels", references, "ref_embeddings", true);
    if (labels.dim() != pairing.labels.dim() || (labels.dim() == 2 && labels.size(1) != pairing.labels.size(1)))
      fail("ref_labels must have the form of labels, " + shape_of(pairing.labels) + "; got " + shape_of(labels));
    check_device(labels, "ref_labels", embeddings);
  }
  if (pairing.self_indices.has_value()) {
    check_ids(*pairing.self_indices, "self_indices", embeddings, "embeddings", false);
    check_device(*pairing.self_indices, "self_indices", embeddings);
  }
  const bool wants_both = pairing.ref_embeddings.has_value();
  if (pairing.groups.has_value() ? pairing.ref_groups.has_value() != wants_both : pairing.ref_groups.has_value())
    fail(std::string("ref_groups must be given with groups and ref_embeddings, and not otherwise; got ") +
         (pairing.groups.has_value() ? "groups " : "no groups ") +
         (pairing.ref_groups.has_value() ? "and ref_groups" : "and no ref_groups"));
  if (pairing.groups.has_value()) {
    check_ids(*pairing.groups, "groups", embeddings, "embeddings", false);
    check_device(*pairing.groups, "groups", embeddings);
  }
  if (pairing.ref_groups.has_value()) {
    check_ids(*pairing.ref_groups, "ref_groups", *pairing.ref_embeddings, "ref_embeddings", false);
    check_device(*pairing.ref_groups, "ref_groups", embeddings);
  }
}

void check_self_indices(const int64_t* indices, int64_t n, int64_t references) {
  for (int64_t i = 0; i < n; ++i)
    if (indices[i] < -1 || indices[i] >= references)
      fail("self_indices must hold -1 or an index below " + std::to_string(references) + "; got " +
           std::to_string(indices[i]) + " at index " + std::to_string(i));
}

void check_anchor_values(const Tensor& tensor, const char* name, int64_t rows, const Tensor& embeddings) {
  const int64_t n = embeddings.size(0);
  const bool shaped = rows == 0 ? tensor.dim() == 1 && tensor.size(0) == n
                                : tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == n;
  if (tensor.scalar_type() != ScalarType::Double || !shaped)
    fail(std::string(name) + " must be float64 [" + (rows == 0 ? "" : std::to_string(rows) + ", ") + std::to_string(n) +
         "] to match embeddings " + shape_of(embeddings) + "; got " + dtype_of(tensor) + " " + shape_of(tensor));
  check_device(tensor, name, embeddings);
}

void check_mined(const Tensor& grad, const Tensor& distances, const Tensor& triplets, const Tensor& embeddings) {
  const auto check = [&](const Tensor& tensor, const char* name, ScalarType dtype, int64_t leading) {
    if (tensor.scalar_type() != dtype || tensor.dim() != 2 || tensor.size(0) != leading ||
        tensor.size(1) != triplets.size(triplets.dim() - 1))
      fail(std::string(name) + " must be what mine_triplets returned for these embeddings, " +
           torch::headeronly::toString(dtype) + " [" + std::to_string(leading) + ", T]; got " + dtype_of(tensor) + " " +
           shape_of(tensor));
    check_device(tensor, name, embeddings);
  };
  if (triplets.dim() != 2) fail("triplets must have shape [3, T]; got " + shape_of(triplets));
  check(triplets, "triplets", ScalarType::Long, 3);
  check(distances, "distances", ScalarType::Double, 2);
  check(grad, "grad", ScalarType::Double, 2);
}

void check_poison(const Tensor& poison, const Tensor& distances) {
  if (poison.scalar_type() != ScalarType::Double || poison.dim() != 0)
    fail("poison must be a float64 scalar, []; got " + dtype_of(poison) + " " + shape_of(poison));
  check_device(poison, "poison", distances);
}

void check_triplet_indices(const int64_t* triplets, int64_t count, int64_t anchors, int64_t candidates) {
  for (int64_t t = 0; t < count; ++t) {
    const int64_t anchor = triplets[t];
    if (anchor < (t > 0 ? triplets[t - 1] : 0) || anchor >= anchors)
      fail("triplets must hold anchors ascending from 0 and below " + std::to_string(anchors) + "; got " +
           std::to_string(anchor) + " at index " + std::to_string(t));
  }
  for (int64_t at = count; at < 3 * count; ++at)
    if (triplets[at] < -1 || triplets[at] >= candidates)
      fail("triplets must hold -1 or a candidate below " + std::to_string(candidates) + "; got " +
           std::to_string(triplets[at]) + " in row " + std::to_string(at / count) + " at index " +
           std::to_string(at % count));
}

void check_pairs(const int64_t* pairs, int64_t n) {
  for (int64_t i = 0; i < 2 * n; ++i)
    if (pairs[i] < -1 || pairs[i] >= n)
      fail("pairs must hold -1 or an index below " + std::to_string(n) + "; got " + std::to_string(pairs[i]) +
           " in row " + std::to_string(i / n) + " at index " + std::to_string(i % n));
}

void check_upstream(const Tensor& grad_loss, const Tensor& embeddings, const char* name) {
  const bool shaped = grad_loss.dim() == 0 || (grad_loss.dim() == 1 && grad_loss.size(0) == embeddings.size(0));
  if (grad_loss.scalar_type() != embeddings.scalar_type() || !shaped)
    fail(std::string("grad_loss must have the dtype of ") + name + ", " + dtype_of(embeddings) + ", and shape [] or [" +
         std::to_string(embeddings.size(0)) + "]; got " + dtype_of(grad_loss) + " " + shape_of(grad_loss));
  check_device(grad_loss, "grad_loss", embeddings, name);
}

void check_triplets(const Tensor& anchor, const Tensor& positive, const Tensor& negative) {
  const Tensor* const rows[] = {&anchor, &positive, &negative};
  const auto listed = [&](auto&& of) {
    return "got anchor " + of(anchor) + ", positive " + of(positive) + ", negative " + of(negative);
  };
  const std::string must = "anchor, positive and negative must have ";
  for (const Tensor* tensor : rows)
    if (tensor->dim() != 2)
      fail(must + "shape [T, D], one row a triplet; " + listed(shape_of) + ": " + advice_for_dim(tensor->dim()));
  const auto differs = [&](int64_t axis) {
    return positive.size(axis) != anchor.size(axis) || negative.size(axis) != anchor.size(axis);
  };
  if (differs(0) || differs(1)) {
    std::string axes = differs(0) ? "the number of triplets T differs" : "";
    if (differs(1)) axes += std::string(differs(0) ? ", and " : "") + "the number of features D differs";
    fail(must + "one shape [T, D]; " + listed(shape_of) + ": " + axes);
  }
  const ScalarType dtype = anchor.scalar_type();
  if (positive.scalar_type() != dtype || negative.scalar_type() != dtype) fail(must + "one dtype; " + listed(dtype_of));
  if (dtype != ScalarType::Float && dtype != ScalarType::Double)
    fail(must + "dtype float64, float32, float16 or bfloat16; got " + dtype_of(anchor));
  check_device(positive, "positive", anchor, "anchor");
  check_device(negative, "negative", anchor, "anchor");
}

void check_triplet_weights(const Tensor& weights, const Tensor& anchor) {
  const ScalarType dtype = weights.scalar_type();
  if (dtype != ScalarType::Double && dtype != ScalarType::Float && dtype != ScalarType::Half &&
      dtype != ScalarType::BFloat16)
    fail("weights must have dtype float64, float32, float16 or bfloat16; got " + dtype_of(weights));
  if (weights.dim() != 1 || weights.size(0) != anchor.size(0))
    fail("weights must have shape [" + std::to_string(anchor.size(0)) + "] to match anchor " + shape_of(anchor) +
         "; got " + shape_of(weights));
  check_device(weights, "weights", anchor, "anchor");
}

void check_none_missing(int64_t missing, int64_t n, int64_t first) {
  if (missing > 0)
    fail("labels must give every anchor a positive and a negative (on_missing='error'); got " +
         std::to_string(missing) + " of " + std::to_string(n) + " anchors without, the first at index " +
         std::to_string(first));
}

Distance distance_of(int64_t code) { return static_cast<Distance>(code_below(code, kDistances, "distance")); }
Reduction reduction_of(int64_t code) { return static_cast<Reduction>(code_below(code, kReductions, "reduction")); }
MinerOptions miner_options_of(int64_t miner, int64_t otherwise, bool within_margin, double margin, int64_t k,
                              bool kth_only, double skip_fraction) {
  if (k < 1 || k > std::numeric_limits<int32_t>::max())
    fail("k must be at least 1 and at most 2^31 - 1; got " + std::to_string(k));
  if (!(skip_fraction >= 0 && skip_fraction < 1))
    fail("skip_fraction must be at least 0 and below 1; got " + std::to_string(skip_fraction));
  return {static_cast<MinerKind>(code_below(miner, kMinerKinds, "miner")),
          static_cast<Otherwise>(code_below(otherwise, kOtherwise, "otherwise")),
          within_margin,
          margin,
          k,
          kth_only,
          skip_fraction};
}
OnMissing on_missing_of(int64_t code) { return static_cast<OnMissing>(code_below(code, kOnMissing, "on_missing")); }

}  // namespace fasttriplet
