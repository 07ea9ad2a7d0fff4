#include "cpu/triplets/edge_blocks.h"

#include <algorithm>

namespace fasttriplet::cpu {
namespace {

constexpr int64_t kRange = 64;  // targets a task

}  // namespace

template <typename T>
void EdgeBlocks<T>::begin(const int32_t* anchors, int64_t count) {
  anchors_ = anchors;
  anchor_count_ = count;
  if (static_cast<int64_t>(edges_.size()) < count) edges_.resize(count);
  for (std::vector<Pull>& edges : edges_) edges.clear();
}

template <typename T>
void EdgeBlocks<T>::gather(int64_t at, const Pull* pulls, int64_t count) {
  batch_.kernels().pull[static_cast<int>(batch_.distance)](batch_.source(), survey_.factors.data(), wanted_.row(at),
                                                           pulls, count, sums_.data() + at * batch_.d);
}

template <typename T>
void EdgeBlocks<T>::finish() {
  int64_t count = 0;
  for (const std::vector<Pull>& edges : edges_) count += static_cast<int64_t>(edges.size());
  if (count == 0) return;
  sums_.resize(wanted_.size() * batch_.d, 0.0);
  const double operations = static_cast<double>(count) * static_cast<double>(batch_.d);
  for_each_range(parallel_, anchor_count_, 8, operations, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      if (const int64_t at = wanted_.number_of(anchors_[r]); at >= 0)
        gather(at, edges_[r].data(), static_cast<int64_t>(edges_[r].size()));
  });
  sort_by_target(count);
  for_each_range(parallel_, wanted_.size(), kRange, operations, [&](int64_t first, int64_t last) {
    for (int64_t target = first; target < last; ++target) {
      const int64_t begin = target == 0 ? 0 : place_[target * kParts - 1];
      const int64_t end = place_[target * kParts + kParts - 1];
      if (end > begin) gather(target, incoming_.data() + begin, end - begin);
    }
  });
}

// By counting; of one target in the order of the anchors.
template <typename T>
void EdgeBlocks<T>::sort_by_target(int64_t count) {
  place_.assign(wanted_.size() * kParts, 0);
  const auto for_each_edge_of = [&](int64_t part, auto&& f) {
    for (int64_t r = part * anchor_count_ / kParts; r < (part + 1) * anchor_count_ / kParts; ++r)
      for (const Pull& edge : edges_[r])
        if (const int64_t at = wanted_.number_of(edge.partner); at >= 0) f(r, edge, at);
  };
  const double operations = 16.0 * static_cast<double>(count);
  for_each_task(parallel_, kParts, operations, [&](int64_t part) {
    for_each_edge_of(part, [&](int64_t, const Pull&, int64_t at) { ++place_[at * kParts + part]; });
  });
  int32_t before = 0;
  for (int32_t& place : place_) {
    const int32_t size = place;
    place = before;
    before += size;
  }
  if (static_cast<int64_t>(incoming_.size()) < count) incoming_.resize(count);
  for_each_task(parallel_, kParts, operations, [&](int64_t part) {
    for_each_edge_of(part, [&](int64_t r, const Pull& edge, int64_t at) {
      incoming_[place_[at * kParts + part]++] = {edge.weight, anchors_[r]};
    });
  });
}

template <typename T>
void EdgeBlocks<T>::gradient_of(int64_t at, double factor, double* gradient) const {
  const int64_t d = batch_.d, i = wanted_.row(at);
  if (sums_.empty()) {  // there was no edge
    std::fill_n(gradient, d, factor * 0);
    return;
  }
  const double* const sums = sums_.data() + at * d;
  if (survey_.factors.empty()) {
    for (int64_t k = 0; k < d; ++k) gradient[k] = factor * sums[k];
    return;
  }
  // Along the sphere: less what points along the unit row. At |x| the gradient is 1 / |x| of that. A row that nothing
  // pulls may be anything.
  const double shrink = survey_.factors[i];
  if (shrink == 0 || std::all_of(sums, sums + d, [](double sum) { return sum == 0; })) {
    std::fill_n(gradient, d, factor * 0);
    return;
  }
  const T* const row = batch_.row(i);
  double along = 0;
  for (int64_t k = 0; k < d; ++k) along += static_cast<double>(row[k]) * shrink * sums[k];
  for (int64_t k = 0; k < d; ++k)  // short rows: `shrink` last
    gradient[k] = factor * (sums[k] - along * (static_cast<double>(row[k]) * shrink)) * shrink;
}

template <typename T>
void EdgeBlocks<T>::write(double factor, T* gradient, T* reference_gradient) const {
  const int64_t d = batch_.d;
  for_each_range(parallel_, wanted_.size(), kRange, 4.0 * static_cast<double>(wanted_.size() * d),
                 [&](int64_t first, int64_t last) {
                   std::vector<double> row(d);
                   for (int64_t at = first; at < last; ++at) {
                     gradient_of(at, factor, row.data());
                     T* const out = wanted_.place(at, d, gradient, reference_gradient);
                     for (int64_t k = 0; k < d; ++k) out[k] = static_cast<T>(row[k]);
                   }
                 });
}

template class EdgeBlocks<float>;
template class EdgeBlocks<double>;

}  // namespace fasttriplet::cpu
