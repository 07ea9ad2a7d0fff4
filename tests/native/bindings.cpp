// The torch-free kernels bound straight to NumPy, every tier by name, for pytest and for the sanitizers.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>

#include "amx_emulator.h"
#include "bindings.h"
#include "core/loss.h"
#include "cpu/isa/isa.h"
#include "cpu/rows/centres.h"
#include "cpu/rows/groups.h"
#include "cpu/rows/prepare.h"
#include "cpu/screen/mine.h"
#include "cpu/screen/screen.h"
#include "cpu/triplets/backward.h"
#include "cuda/bindings_cuda.h"

namespace py = pybind11;

namespace fasttriplet::cpu {
namespace {

template <typename T>
py::dict mine(const Array<T>& rows, const Array<int64_t>& labels, int distance, const std::string& tier,
              int64_t threads) {
  const Batch<T> batch = batch_of(rows, distance, tier);
  if (labels.ndim() != 1 || labels.shape(0) != batch.n) throw std::invalid_argument("labels must have shape [N]");
  Array<int64_t> positives(batch.n), negatives(batch.n);
  Array<double> distances({int64_t{2}, batch.n});
  const MineOutput output = {positives.mutable_data(), negatives.mutable_data(), distances.mutable_data()};
  MineReport report;
  const bool finite = mine_batch_hard(batch, labels.data(), StdParallel(threads), output, &report);
  py::dict result;
  result["positives"] = positives;
  result["negatives"] = negatives;
  result["distances"] = distances;
  result["finite"] = finite;
  result["representatives"] = report.representatives;
  result["exact_negatives"] = report.exact_negatives;
  result["exact_positives"] = report.exact_positives;
  result["seconds"] = std::vector<double>(std::begin(report.seconds), std::end(report.seconds));
  return result;
}

// What the screen says of pairs of distinct rows: with `farthest` of all pairs of one class, where there are several
// with a centre a class, otherwise of all pairs of two. The interval [lower, upper] of the pair's key in the units of
// prepare, times 1 / scale^2 here, and how many of the pairs the tile reported (it must be all).
template <typename T>
py::dict screen_intervals(const Array<T>& rows, const Array<int64_t>& labels, int distance, const std::string& tier,
                          bool farthest) {
  const Batch<T> batch = batch_of(rows, distance, tier);
  const StdParallel alone(1);
  const Survey survey = survey_rows(batch, alone);
  const Groups groups = group_rows(batch, labels.data(), survey, EqualRows::kMerged);
  Centres centres = common_centre(batch, survey, groups.source);
  if (farthest && groups.classes() > 1)
    centres = class_centres(batch, survey, groups.source, groups.representative_class, centres);
  const Prepared prepared = prepare_rows(batch, batch.tier, survey, groups.source, centres, alone);
  const int64_t m = groups.representatives();
  Search search(farthest ? -1 : 1, prepared.padded);
  search.resize(m);
  for (int64_t r = 0; r < m; ++r) search.set(r, terms_of(prepared, batch.distance, r, farthest), true, true);

  struct Context {
    Search& search;
    double* lower;
    double* upper;
    int64_t m, reported;
  };
  Array<double> lower({m, m}), upper({m, m});
  std::fill_n(lower.mutable_data(), m * m, 0.0);
  std::fill_n(upper.mutable_data(), m * m, 0.0);
  Context context{search, lower.mutable_data(), upper.mutable_data(), m, 0};
  std::vector<int32_t> classes(groups.representative_class);
  classes.resize(prepared.padded, std::numeric_limits<int32_t>::max());
  const std::vector<float> always(prepared.padded, std::numeric_limits<float>::lowest());
  const std::vector<float> never(prepared.padded, std::numeric_limits<float>::infinity());
  const ScreenTask::Search wanted = {search.keys.data(), always.data(), always.data(), true};
  const ScreenTask::Search other = {never.data(), never.data(), never.data(), false};
  ScreenTask task;
  task.panels = prepared.view();
  task.row_begin = task.column_begin = 0;
  task.row_end = task.column_end = prepared.padded;
  task.classes = classes.data();
  task.nearest = farthest ? other : wanted;
  task.farthest = farthest ? wanted : other;
  task.context = &context;
  task.hit = [](void* opaque, int64_t i, int64_t j, float dot, bool) {
    Context& into = *static_cast<Context*>(opaque);
    if (i >= into.m || j >= into.m) return;  // padding rows have no anchors: here every threshold is open
    ++into.reported;
    for (const auto& [anchor, candidate] : {std::pair{i, j}, std::pair{j, i}}) {
      const RowTerms &a = into.search.terms[anchor], &c = into.search.terms[candidate];
      const double low = a.anchor + c.candidate - into.search.sign * static_cast<double>(dot);
      into.lower[anchor * into.m + candidate] = low;
      into.upper[anchor * into.m + candidate] = low + a.anchor_slack + c.candidate_slack;
    }
  };
  batch.tier.screen(task);
  py::dict result;
  result["lower"] = lower;
  result["upper"] = upper;
  result["scale"] = prepared.scale;
  result["reported"] = context.reported;
  const ExactScore<T> score(batch, survey.factors);
  Array<double> keys({m, m});  // that the exact scores tell
  for (int64_t a = 0; a < m; ++a)
    for (int64_t b = 0; b < m; ++b)
      keys.mutable_data()[a * m + b] = key_of(prepared, batch.distance, a, score(groups.source[a], groups.source[b]));
  result["keys"] = keys;
  result["source"] = Array<int32_t>(m, groups.source.data());
  return result;
}

template <typename T>
double score(const Array<T>& x, const Array<T>& y, int distance, const std::string& tier, double x_factor,
             double y_factor) {
  const RowKernels<T>& kernels = tier_to_test(tier).rows(x.data());
  return kernels.score[distance](x.data(), y.data(), x.shape(0), x_factor, y_factor);
}

template <typename T>
Array<double> factors(const Array<T>& rows) {
  const std::vector<double> factors =
      normalising_factors(batch_of(rows, static_cast<int>(Distance::kCosine), kPortableTier.name), StdParallel(1));
  return Array<double>(factors.size(), factors.data());
}

template <typename T>
Array<T> backward(const Array<T>& rows, const Array<int64_t>& positives, const Array<int64_t>& negatives,
                  const Array<double>& distances, const Array<double>& slopes, const Array<T>& upstream, int distance,
                  const std::string& tier, int64_t threads) {
  const Batch<T> batch = batch_of(rows, distance, tier);
  Array<T> gradient({batch.n, batch.d});
  mined_backward(batch, {positives.data(), negatives.data(), distances.data(), slopes.data()}, upstream.data(),
                 upstream.ndim() == 1, StdParallel(threads), gradient.mutable_data());
  return gradient;
}

py::tuple loss(const Array<int64_t>& positives, const Array<int64_t>& negatives, const Array<double>& distances,
               double margin, bool soft_margin, int reduction, int on_missing, bool poisoned) {
  const int64_t n = positives.shape(0);
  Array<double> losses(n), slopes(n);
  const LossOptions options = {margin, soft_margin, static_cast<Reduction>(reduction),
                               static_cast<OnMissing>(on_missing)};
  const double reduced = reduce_losses(positives.data(), negatives.data(), distances.data(), n, options, poisoned,
                                       losses.mutable_data(), slopes.mutable_data());
  return py::make_tuple(reduced, losses, slopes);
}

template <typename T>
void bind(py::module_& m, const char* suffix) {
  const auto name = [&](const char* stem) { return std::string(stem) + suffix; };
  m.def(name("mine_").c_str(), mine<T>);
  m.def(name("screen_intervals_").c_str(), screen_intervals<T>);
  m.def(name("score_").c_str(), score<T>);
  m.def(name("factors_").c_str(), factors<T>);
  m.def(name("backward_").c_str(), backward<T>);
}

}  // namespace
}  // namespace fasttriplet::cpu

PYBIND11_MODULE(_native, m) {
  using namespace fasttriplet::cpu;
  m.def("tiers_to_test", tiers_to_test);
  m.def("amx_is_emulated", [] { return !emulated_tiers().empty(); });
  m.def("amx_tiles_configured", fasttriplet::testing::amx_tiles_configured);
  m.def("amx_tile_products", fasttriplet::testing::amx_tile_products);
  m.def("tier_named", [](const std::string& tier) { return tier_named(tier).name; });
  m.def("screens_in", [](const std::string& name) {
    const Tier& tier = tier_to_test(name);
    constexpr const char* kNames[] = {"float32", "bfloat16", "bfloat16x2", "int16", "int8"};
    return kNames[static_cast<int>(tier.layout.format)];
  });
  m.def("tier_for_batch_hard", [](int64_t rows) { return tier_for_batch_hard(rows).name; });
  m.def("threshold_tier", [](const std::string& tier) { return threshold_tier(tier_to_test(tier)).name; });
  m.def("loss", loss);
  m.def("int16_step", fasttriplet::int16_step);
  m.def("int8_step", fasttriplet::int8_step);
  m.def("candidate_key", fasttriplet::candidate_key);
  m.def("anchor_threshold", fasttriplet::anchor_threshold);
  bind<float>(m, "float32");
  bind<double>(m, "float64");
  bind_family(m);
  bind_neighbours(m);
  bind_triplets(m);
  py::module_ cuda = m.def_submodule("cuda", "The CUDA kernels under a shim of the device.");
  fasttriplet::cuda::bind_cuda(cuda);
}
