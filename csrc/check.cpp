#include "check.h"

#include <torch/headeronly/core/ScalarType.h>

#include <cctype>
#include <cmath>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/bound.h"

namespace fasttriplet {
namespace {

using torch::headeronly::ScalarType;

std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t k = 0; k < tensor.dim(); ++k) text += (k > 0 ? ", " : "") + std::to_string(tensor.size(k));
  return text + "]";
}

// As PyTorch prints it.
std::string name_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Bool:
      return "torch.bool";
    case ScalarType::Char:
      return "torch.int8";
    case ScalarType::Byte:
      return "torch.uint8";
    case ScalarType::Short:
      return "torch.int16";
    case ScalarType::UInt16:
      return "torch.uint16";
    case ScalarType::Int:
      return "torch.int32";
    case ScalarType::UInt32:
      return "torch.uint32";
    case ScalarType::Long:
      return "torch.int64";
    case ScalarType::UInt64:
      return "torch.uint64";
    case ScalarType::Half:
      return "torch.float16";
    case ScalarType::BFloat16:
      return "torch.bfloat16";
    case ScalarType::Float:
      return "torch.float32";
    case ScalarType::Double:
      return "torch.float64";
    case ScalarType::ComplexHalf:
      return "torch.complex32";
    case ScalarType::ComplexFloat:
      return "torch.complex64";
    case ScalarType::ComplexDouble:
      return "torch.complex128";
    default: {  // float8 and its like
      std::string name = torch::headeronly::toString(dtype);
      for (char& letter : name) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
      return "torch." + name;
    }
  }
}

std::string dtype_of(const Tensor& tensor) { return name_of(tensor.scalar_type()); }

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

// What makes rows of features, of which there are `count`, of something else.
std::string advice_for_dim(int64_t dim, const std::string& count) {
  if (dim == 0) return "a number is no row of features";
  if (dim == 1) return "make one row of it with x[None], or rows of numbers with x[:, None]";
  return "pool or flatten each first, e.g. x.flatten(1)" +
         (dim == 4   ? ", x.mean((1, 2)) of feature maps [" + count + ", H, W, C] or x.mean((2, 3)) of [" + count +
                           ", C, H, W]"
          : dim == 3 ? " or x.mean(1) of sequences [" + count + ", L, D]"
                     : std::string());
}

// Classes [N], or several labels a row, bool [N, C]. What users have in other forms is easily made one of these.
void check_classes(const Tensor& labels, const char* name, const Tensor& rows, const char* rows_name) {
  const bool integer = is_integer(labels.scalar_type()), many = labels.dim() == 2 && labels.size(0) == rows.size(0);
  if (labels.dim() == 1 && labels.size(0) == rows.size(0) && integer) return;
  if (many && labels.scalar_type() == ScalarType::Bool) return;
  const std::string n = std::to_string(rows.size(0)), x = name;
  const std::string must = x + " must be integers or bool [" + n + "], one class a row, or bool [" + n +
                           ", C], several labels a row, to match " + rows_name + " " + shape_of(rows) + "; got " +
                           dtype_of(labels) + " " + shape_of(labels);
  if (many && labels.size(1) == 1) fail(must + ": for classes pass " + x + ".squeeze(1)" + (integer ? "" : ".long()"));
  if (many) fail(must + ": pass " + x + ".bool() where a row may have several, " + x + ".argmax(1) of one-hot rows");
  if (labels.dim() == 1 && labels.size(0) == rows.size(0)) fail(must + ": pass " + x + ".long() of whole numbers");
  fail(must);
}

}  // namespace

namespace {

// Rows of features, of which there are `count`.
void check_rows(const Tensor& rows, const std::string& name, const char* count) {
  const ScalarType dtype = rows.scalar_type();
  if (dtype != ScalarType::Float && dtype != ScalarType::Double)
    fail(name + " must have dtype float64, float32, float16 or bfloat16; got " + dtype_of(rows));
  if (rows.dim() != 2)
    fail(name + " must have shape [" + count + ", D]; got " + shape_of(rows) + ": " +
         advice_for_dim(rows.dim(), count));
  if (rows.size(0) > std::numeric_limits<int32_t>::max())
    fail(name + " must have at most 2^31 - 1 rows; got " + shape_of(rows));
  if (rows.size(1) > kMaxColumns) fail(name + " must have at most 2^22 columns; got " + shape_of(rows));
}

// References of rows.
void check_other_rows(const Tensor& references, const std::string& name, const Tensor& rows,
                      const std::string& rows_name) {
  if (references.dim() != 2 || references.size(1) != rows.size(1))
    fail(name + " must have shape [M, " + std::to_string(rows.size(1)) + "] to match " + rows_name + " " +
         shape_of(rows) + "; got " + shape_of(references) +
         (references.dim() == 2 ? "" : ": " + advice_for_dim(references.dim(), "M")));
  if (references.scalar_type() != ScalarType::Float && references.scalar_type() != ScalarType::Double)
    fail(name + " must have dtype float64, float32, float16 or bfloat16; got " + dtype_of(references));
  if (references.scalar_type() != rows.scalar_type())
    fail(name + " must have the dtype of " + rows_name + ", " + dtype_of(rows) + "; got " + dtype_of(references));
  if (rows.size(0) + references.size(0) > std::numeric_limits<int32_t>::max())
    fail(rows_name + " and " + name + " must have at most 2^31 - 1 rows together; got " + shape_of(rows) + " and " +
         shape_of(references));
  check_device(references, name.c_str(), rows, rows_name.c_str());
}

}  // namespace

void check_embeddings(const Tensor& embeddings) { check_rows(embeddings, "embeddings", "N"); }

void check_labels(const Tensor& labels, const Tensor& embeddings) {
  check_classes(labels, "labels", embeddings, "embeddings");
  if (labels.dim() != 1) fail("labels must have shape [N] here; got " + shape_of(labels));
  check_device(labels, "labels", embeddings);
}

void check_saved(const Tensor& tensor, const char* name, ScalarType dtype, int64_t leading, const Tensor& embeddings,
                 const char* origin) {
  const int64_t n = embeddings.size(0);
  if (tensor.scalar_type() != dtype || tensor.dim() != 2 || tensor.size(0) != leading || tensor.size(1) != n)
    fail(std::string(name) + " must be what " + origin + ", " + name_of(dtype) + " [" + std::to_string(leading) + ", " +
         std::to_string(n) + "]; got " + dtype_of(tensor) + " " + shape_of(tensor));
  check_device(tensor, name, embeddings);
}

PairingTensors::PairingTensors(Tensor rows, Tensor ids, std::optional<Tensor> references, const PairingList& pairing,
                               const PairingNumbers& numbers)
    : embeddings(std::move(rows)), labels(std::move(ids)), ref_embeddings(std::move(references)) {
  std::optional<Tensor>* const listed[] = {&ref_labels, &self_indices, &sample_ids, &ref_sample_ids,
                                           &groups,     &ref_groups,   &ref_mask};
  if (pairing.size() > std::size(listed) || numbers.size() > 2)
    fail("pairing must list at most " + std::to_string(std::size(listed)) + " tensors and 2 numbers; got " +
         std::to_string(pairing.size()) + " and " + std::to_string(numbers.size()));
  for (size_t at = 0; at < pairing.size(); ++at) *listed[at] = pairing[at];
  if (!numbers.empty())
    groups_exclude = static_cast<GroupsExclude>(code_below(numbers[0], kGroupsExclude, "groups_exclude"));
  if (numbers.size() > 1) ignore_index = numbers[1];
}

namespace {

// One integer a row of `rows`; bool too where it can only mean two of them.
void check_ids(const Tensor& ids, const char* name, const Tensor& rows, const char* rows_name, bool may_be_bool) {
  if (!is_integer(ids.scalar_type()) || (ids.scalar_type() == ScalarType::Bool && !may_be_bool))
    fail(std::string(name) + " must have an integer dtype" + (may_be_bool ? " or bool" : "") + "; got " +
         dtype_of(ids));
  if (ids.dim() != 1 || ids.size(0) != rows.size(0))
    fail(std::string(name) + " must have shape [" + std::to_string(rows.size(0)) + "] to match " + rows_name + " " +
         shape_of(rows) + "; got " + shape_of(ids));
}

// What rows have and, where there are references, these have as well.
void check_both(const PairingTensors& pairing, const std::optional<Tensor>& ids, const char* name,
                const std::optional<Tensor>& ref_ids, const char* ref_name, bool may_be_bool) {
  const bool wants_both = pairing.ref_embeddings.has_value();
  if (ids.has_value() ? ref_ids.has_value() != wants_both : ref_ids.has_value())
    fail(std::string(ref_name) + " must be given with " + name + " and ref_embeddings, and not otherwise; got " +
         (ids ? "" : "no ") + name + (ref_ids ? " and " : " and no ") + ref_name);
  if (ids) {
    check_ids(*ids, name, pairing.embeddings, "embeddings", may_be_bool);
    check_device(*ids, name, pairing.embeddings);
  }
  if (ref_ids) {
    check_ids(*ref_ids, ref_name, *pairing.ref_embeddings, "ref_embeddings", may_be_bool);
    check_device(*ref_ids, ref_name, pairing.embeddings);
  }
}

}  // namespace

void check_references(const Tensor& references, const Tensor& embeddings) {
  check_other_rows(references, "ref_embeddings", embeddings, "embeddings");
}

void check_pairing(const PairingTensors& pairing) {
  const Tensor& embeddings = pairing.embeddings;
  check_embeddings(embeddings);
  check_classes(pairing.labels, "labels", embeddings, "embeddings");
  check_device(pairing.labels, "labels", embeddings);
  if (pairing.ref_embeddings.has_value() != pairing.ref_labels.has_value())
    fail("ref_embeddings and ref_labels must be given together; got one of them");
  if (pairing.ignore_index.has_value() && pairing.labels.dim() == 2)
    fail("ignore_index must not be given where labels are multi-hot, bool [N, C]; got labels " +
         shape_of(pairing.labels));
  if (pairing.ref_embeddings.has_value()) {
    const Tensor &references = *pairing.ref_embeddings, &labels = *pairing.ref_labels;
    check_references(references, embeddings);
    check_classes(labels, "ref_labels", references, "ref_embeddings");
    if (labels.dim() != pairing.labels.dim() || (labels.dim() == 2 && labels.size(1) != pairing.labels.size(1)))
      fail("ref_labels must have the form of labels, " + shape_of(pairing.labels) + "; got " + shape_of(labels));
    check_device(labels, "ref_labels", embeddings);
  }
  if (pairing.self_indices.has_value()) {
    if (!pairing.ref_embeddings)
      fail("self_indices must come with ref_embeddings, which they point into; got them without");
    check_ids(*pairing.self_indices, "self_indices", embeddings, "embeddings", false);
    check_device(*pairing.self_indices, "self_indices", embeddings);
  }
  if (pairing.ref_mask.has_value()) {
    if (!pairing.ref_embeddings) fail("ref_mask must come with ref_embeddings, which it masks; got it without");
    if (pairing.ref_mask->scalar_type() != ScalarType::Bool)
      fail("ref_mask must have dtype torch.bool; got " + dtype_of(*pairing.ref_mask));
    check_ids(*pairing.ref_mask, "ref_mask", *pairing.ref_embeddings, "ref_embeddings", true);
    check_device(*pairing.ref_mask, "ref_mask", embeddings);
  }
  check_both(pairing, pairing.sample_ids, "sample_ids", pairing.ref_sample_ids, "ref_sample_ids", false);
  check_both(pairing, pairing.groups, "groups", pairing.ref_groups, "ref_groups", true);
}

NeighbourTensors::NeighbourTensors(Tensor rows, std::optional<Tensor> others, const PairingList& rules)
    : queries(std::move(rows)), references(std::move(others)) {
  std::optional<Tensor>* const listed[] = {&self_indices, &keys, &ref_keys, &ref_mask};
  if (rules.size() > std::size(listed))
    fail("rules must list at most " + std::to_string(std::size(listed)) + " tensors; got " +
         std::to_string(rules.size()));
  for (size_t at = 0; at < rules.size(); ++at) *listed[at] = rules[at];
}

void check_neighbours(const NeighbourTensors& neighbours) {
  const Tensor& queries = neighbours.queries;
  check_rows(queries, "queries", "Q");
  if (neighbours.references) check_other_rows(*neighbours.references, "references", queries, "queries");
  const auto check_rule = [&](const std::optional<Tensor>& rule, const std::string& name, ScalarType dtype,
                              const std::vector<int64_t>& shape) {
    if (!rule) return;
    bool matches = rule->dim() == static_cast<int64_t>(shape.size());
    std::string text;
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      matches = matches && (shape[axis] < 0 || rule->size(static_cast<int64_t>(axis)) == shape[axis]);
      text += (axis > 0 ? ", " : "") + (shape[axis] < 0 ? "K" : std::to_string(shape[axis]));
    }
    if (!matches || rule->scalar_type() != dtype)
      fail(name + " must be " + name_of(dtype) + " [" + text + "]; got " + dtype_of(*rule) + " " + shape_of(*rule));
    check_device(*rule, name.c_str(), queries, "queries");
  };
  const bool references = neighbours.references.has_value();
  for (const auto& [rule, name] :
       {std::pair(&neighbours.self_indices, "self_indices"), std::pair(&neighbours.ref_keys, "ref_keys"),
        std::pair(&neighbours.ref_mask, "ref_mask")})
    if (rule->has_value() && !references)
      fail(std::string(name) + " must come with references, which it is about; got it without");
  const int64_t q = queries.size(0), m = references ? neighbours.references->size(0) : q;
  check_rule(neighbours.self_indices, "self_indices", ScalarType::Long, {q});
  check_rule(neighbours.keys, "keys", ScalarType::Long, {-1, q});
  if (references && neighbours.keys.has_value() != neighbours.ref_keys.has_value())
    fail("keys and ref_keys must be given together where there are references; got one of them");
  check_rule(neighbours.ref_keys, "ref_keys", ScalarType::Long, {neighbours.keys ? neighbours.keys->size(0) : -1, m});
  check_rule(neighbours.ref_mask, "ref_mask", ScalarType::Bool, {m});
}

void check_radius(double radius) {
  if (std::isnan(radius)) fail("radius must be a number; got nan");
}

void check_count(int64_t count, const char* name) {
  if (count < 1) fail(std::string(name) + " must be at least 1; got " + std::to_string(count));
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
      fail(std::string(name) + " must be what mine_triplets returned for these embeddings, " + name_of(dtype) + " [" +
           std::to_string(leading) + ", T]; got " + dtype_of(tensor) + " " + shape_of(tensor));
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

Parts parts_of(const std::vector<int64_t>& numbers, int64_t rows, int64_t references) {
  if (numbers.empty()) return {0, rows, 0, references};
  const auto lies_within = [](int64_t first, int64_t count, int64_t all) {
    return first >= 0 && count >= 0 && first <= all && count <= all - first;
  };
  if (numbers.size() != 4 || !lies_within(numbers[0], numbers[1], rows) ||
      !lies_within(numbers[2], numbers[3], references)) {
    std::string got;
    for (const int64_t number : numbers) got += (got.empty() ? "" : ", ") + std::to_string(number);
    fail("parts must be none, or the first row and the number of rows of " + std::to_string(rows) +
         " and the same of " + std::to_string(references) + " references; got [" + got + "]");
  }
  return {numbers[0], numbers[1], numbers[2], numbers[3]};
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
      fail(must + "shape [T, D], one row a triplet; " + listed(shape_of) + ": " + advice_for_dim(tensor->dim(), "T"));
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
