// Given triplets by the CUDA kernels under the shim, bound to NumPy as those of the CPU are: explicit ones, and losses
// and gradients of mined ones.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "cuda/bindings_cuda.h"

namespace py = pybind11;

namespace fasttriplet::cuda {
namespace {

using shim::HostDevice;
using shim::HostMemory;
using shim::Settings;

template <typename T>
DeviceTriplets<T> triplets_of(HostMemory& memory, const std::vector<Array<T>>& rows, int distance) {
  return {{own_copy(memory, rows.at(0)), own_copy(memory, rows.at(1)), own_copy(memory, rows.at(2))},
          rows.at(0).shape(0),
          rows.at(0).shape(1),
          static_cast<Distance>(distance)};
}

// weights [T] or of no length; `loss` is [T] or [], as the operator returns it.
template <typename T>
py::dict triplet_margin_loss(const std::vector<Array<T>>& rows, const Array<double>& weights, double margin,
                             int distance, bool swap, bool soft_margin, std::optional<double> mining_margin,
                             int reduction, const Settings& settings) {
  HostMemory memory;
  HostDevice device(settings);
  HostEngine engine(device);
  const DeviceTriplets<T> triplets = triplets_of(memory, rows, distance);
  const int64_t t = triplets.t;
  const TripletMarginOptions options(margin, swap, soft_margin, mining_margin, static_cast<Reduction>(reduction));
  Array<double> values({TripletValues<double>::rows(triplets.distance, swap), t});
  double* const own_values = memory.take<double>(values.size());
  const bool per_triplet = options.reduction == Reduction::kNone;
  Array<T> loss(per_triplet ? std::vector<int64_t>{t} : std::vector<int64_t>{});
  T* const own_loss = memory.take<T>(loss.size());
  engine.triplet_margin(triplets, weights.size() == 0 ? nullptr : own_copy(memory, weights), options,
                        HostEngine::TripletMarginScratch(device, memory, t), {own_values, t, triplets.distance, swap},
                        per_triplet ? own_loss : nullptr, per_triplet ? nullptr : own_loss);
  std::copy_n(own_values, values.size(), values.mutable_data());
  std::copy_n(own_loss, loss.size(), loss.mutable_data());
  py::dict result;
  result["loss"] = loss;
  result["values"] = values;
  result["launches"] = device.asked().launches + device.asked().clears;
  return result;
}

// upstream [T] or []; gradients of those that are wanted, the others of no length.
template <typename T>
std::vector<Array<T>> triplet_margin_gradients(const std::vector<Array<T>>& rows, const Array<double>& values,
                                               const Array<T>& upstream, int distance, bool swap,
                                               const std::vector<bool>& wanted, const Settings& settings) {
  HostMemory memory;
  HostDevice device(settings);
  HostEngine engine(device);
  const DeviceTriplets<T> triplets = triplets_of(memory, rows, distance);
  std::vector<Array<T>> gradients;
  T* out[kRoles];
  for (int role = 0; role < kRoles; ++role) {
    gradients.emplace_back(std::vector<int64_t>{wanted.at(role) ? triplets.t : 0, triplets.d});
    out[role] = wanted.at(role) ? memory.take<T>(gradients[role].size()) : nullptr;
  }
  engine.triplet_margin_backward(triplets, {own_copy(memory, values), triplets.t, triplets.distance, swap},
                                 own_copy(memory, upstream), upstream.ndim() == 1, out);
  for (int role = 0; role < kRoles; ++role)
    if (wanted.at(role)) std::copy_n(out[role], gradients[role].size(), gradients[role].mutable_data());
  return gradients;
}

template <typename T>
JoinedBatch<T> joined_batch(HostMemory& memory, const Array<T>& rows, const Array<T>& references, int distance) {
  return {own_copy(memory, rows), rows.shape(0), own_copy(memory, references),
          references.shape(0),    rows.shape(1), static_cast<Distance>(distance),
          references.size() > 0};
}

// references [M, D], or [0, 0]: none. triplets [3, T], distances [2, T] and slopes of the loss by them [2, T]; the last
// result says how many launches, clears and sorts that took.
template <typename T>
py::tuple triplets_gradients(const Array<T>& rows, const Array<T>& references, const Array<int64_t>& triplets,
                             const Array<double>& distances, const Array<double>& slopes, int distance,
                             const Settings& settings) {
  HostMemory memory;
  HostDevice device(settings);
  HostEngine engine(device);
  const JoinedBatch<T> batch = joined_batch(memory, rows, references, distance);
  const int64_t t = triplets.shape(1);
  const HostEngine::BackwardScratch scratch(device, memory, batch, t);
  Array<T> gradient({batch.n, batch.d}), reference_gradient({batch.m, batch.d});
  T *const own_gradient = memory.take<T>(gradient.size()), *const references_own = memory.take<T>(batch.m * batch.d);
  engine.triplets_backward(batch, own_copy(memory, triplets), t, own_copy(memory, distances), own_copy(memory, slopes),
                           scratch, own_gradient, references_own);
  std::copy_n(own_gradient, gradient.size(), gradient.mutable_data());
  std::copy_n(references_own, reference_gradient.size(), reference_gradient.mutable_data());
  return py::make_tuple(gradient, reference_gradient,
                        py::make_tuple(device.asked().launches, device.asked().clears, device.asked().sorts));
}

// loss [T] or [], slopes [2, T] and launches.
py::tuple triplet_losses(const Array<int64_t>& triplets, const Array<double>& distances, double poison, double margin,
                         bool soft_margin, int reduction, int on_missing, const Settings& settings) {
  HostMemory memory;
  HostDevice device(settings);
  HostEngine engine(device);
  const int64_t t = triplets.shape(1);
  const LossOptions options = {margin, soft_margin, static_cast<Reduction>(reduction),
                               static_cast<OnMissing>(on_missing)};
  const bool per_triplet = options.reduction == Reduction::kNone;
  Array<double> loss(per_triplet ? std::vector<int64_t>{t} : std::vector<int64_t>{}), slopes({int64_t{2}, t});
  double *const own_loss = memory.take<double>(loss.size()), *const own_slopes = memory.take<double>(2 * t);
  engine.triplet_losses(own_copy(memory, triplets), own_copy(memory, distances), t, &poison, options,
                        HostEngine::LossScratch(device, memory, t), per_triplet ? own_loss : nullptr, own_slopes,
                        per_triplet ? nullptr : own_loss);
  std::copy_n(own_loss, loss.size(), loss.mutable_data());
  std::copy_n(own_slopes, slopes.size(), slopes.mutable_data());
  return py::make_tuple(loss, slopes, device.asked().launches + device.asked().clears);
}

// Batch-hard's triplets [3, N] and distances [2, N], and launches; sample_ids and groups [N] or of no length.
template <typename T>
py::tuple mine_allowed(const Array<T>& rows, const Array<int64_t>& labels, const Array<int64_t>& sample_ids,
                       const Array<int64_t>& groups, int groups_exclude, std::optional<int64_t> ignored, int distance,
                       const std::string& products, const Settings& settings) {
  HostMemory memory;
  HostDevice device(settings);
  HostEngine engine(device, settings.small_batch);
  const DeviceBatch<T> batch = {own_copy(memory, rows), rows.shape(0), rows.shape(1), static_cast<Distance>(distance)};
  const HostEngine::MineScratch scratch(device, memory, batch);
  Array<int64_t> triplets({int64_t{3}, batch.n});
  Array<double> distances({int64_t{2}, batch.n});
  int64_t* const anchors = triplets.mutable_data();
  const AllowedPairs partners = {scratch.order, sample_ids.size() == 0 ? nullptr : own_copy(memory, sample_ids),
                                 groups.size() == 0 ? nullptr : own_copy(memory, groups),
                                 static_cast<GroupsExclude>(groups_exclude)};
  std::optional<uint64_t> label;
  if (ignored) label = static_cast<uint64_t>(*ignored);
  engine.mine(batch, reinterpret_cast<const uint64_t*>(own_copy(memory, labels)), products_named(products), scratch,
              {anchors + batch.n, anchors + 2 * batch.n, distances.mutable_data(), anchors}, partners, label);
  return py::make_tuple(triplets, distances, device.asked().launches + device.asked().clears);
}

template <typename T>
void bind(py::module_& m, const std::string& suffix) {
  m.def(("triplet_margin_" + suffix).c_str(), triplet_margin_loss<T>);
  m.def(("triplet_margin_backward_" + suffix).c_str(), triplet_margin_gradients<T>);
  m.def(("triplets_backward_" + suffix).c_str(), triplets_gradients<T>);
  m.def(("mine_allowed_" + suffix).c_str(), mine_allowed<T>);
}

}  // namespace

void bind_triplets(py::module_& m) {
  bind<float>(m, "float32");
  bind<double>(m, "float64");
  m.def("triplet_losses", triplet_losses);
}

}  // namespace fasttriplet::cuda
