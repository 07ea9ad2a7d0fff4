// Nearest neighbours and ranks of positives, bound to NumPy.
#include "bindings.h"
#include "cpu/neighbours/nearest.h"
#include "cpu/neighbours/ranks.h"

namespace fasttriplet::cpu {
namespace {

// Rows of the batch, and its references where there are any.
template <typename T>
Batch<T> batch_with(const Array<T>& rows, const std::optional<Array<T>>& references, int distance,
                    const std::string& tier) {
  Batch<T> batch = batch_of(rows, distance, tier);
  if (!references) return batch;
  batch.references = references->data();
  batch.n = batch.split + references->shape(0);
  return batch;
}

template <typename T>
py::tuple nearest_of(const Array<T>& rows, const std::optional<Array<T>>& references, int64_t k, int distance,
                     const std::string& tier, int64_t threads) {
  const Batch<T> batch = batch_with(rows, references, distance, tier);
  Array<double> distances({batch.split, k});
  Array<int64_t> indices({batch.split, k});
  nearest(batch, {}, k, StdParallel(threads), distances.mutable_data(), indices.mutable_data());
  return py::make_tuple(distances, indices);
}

template <typename T>
py::list within_of(const Array<T>& rows, const std::optional<Array<T>>& references, double radius, int distance,
                   const std::string& tier, int64_t threads) {
  py::list result;
  for (const auto& neighbours :
       within(batch_with(rows, references, distance, tier), {}, radius, StdParallel(threads))) {
    py::list indices;
    for (const Neighbour& neighbour : neighbours) indices.append(neighbour.candidate);
    result.append(indices);
  }
  return result;
}

template <typename T>
Array<double> ranks_of(const Array<T>& rows, const Array<int64_t>& labels, const std::optional<Array<T>>& references,
                       const std::vector<int64_t>& at, int way, int distance, const std::string& tier,
                       int64_t threads) {
  const Batch<T> batch = batch_with(rows, references, distance, tier);
  const RankOptions options = {at, false, static_cast<RankWay>(way)};
  Array<double> table({batch.split, options.columns()});
  retrieval_ranks(batch, PairingInput{labels.data()}, options, StdParallel(threads), table.mutable_data());
  return table;
}

template <typename T>
void bind(py::module_& m, const std::string& suffix) {
  m.def(("nearest_" + suffix).c_str(), &nearest_of<T>);
  m.def(("within_" + suffix).c_str(), &within_of<T>);
  m.def(("retrieval_ranks_" + suffix).c_str(), &ranks_of<T>);
}

}  // namespace

void bind_neighbours(py::module_& m) {
  bind<float>(m, "float32");
  bind<double>(m, "float64");
}

}  // namespace fasttriplet::cpu
