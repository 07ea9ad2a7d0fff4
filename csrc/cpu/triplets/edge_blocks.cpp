#include "cpu/triplets/edge_blocks.h"

#include <algorithm>
#include <cmath>

namespace fasttriplet::cpu {
namespace {

constexpr int64_t kRange = 64;  // targets a task

}  // namespace

template <typename T>
EdgeBlocks<T>::EdgeBlocks(const Batch<T>& batch, const Survey& survey, const Parallel& parallel)
    : batch_(batch), survey_(survey), parallel_(parallel), sums_(batch.n * batch.d) {}

template <typename T>
void EdgeBlocks<T>::clear() {
  std::fill(sums_.begin(), sums_.end(), 0.0);
}

template <typename T>
void EdgeBlocks<T>::begin(const int32_t* anchors, int64_t count, const std::vector<int64_t>& room) {
  anchors_ = anchors;
  anchor_count_ = count;
  begin_.assign(count, 0);
  count_.assign(count, 0);
  int64_t total = 0;
  for (int64_t r = 0; r < count; ++r) {
    begin_[r] = total;
    total += room[r];
  }
  if (static_cast<int64_t>(edges_.size()) < total) edges_.resize(total);
}

template <typename T>
void EdgeBlocks<T>::gather(int64_t target, const Pull* pulls, int64_t count) {
  batch_.kernels().pull[static_cast<int>(batch_.distance)](batch_.source(), survey_.factors.data(), target, pulls,
                                                           count, sums_.data() + target * batch_.d);
}

template <typename T>
void EdgeBlocks<T>::finish() {
  int64_t edges = 0;
  for (const int64_t count : count_) edges += count;
  if (edges == 0) return;
  const double operations = static_cast<double>(edges) * static_cast<double>(batch_.d);
  for_each_range(parallel_, anchor_count_, 8, operations, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) gather(anchors_[r], edges_.data() + begin_[r], count_[r]);
  });
  sort_by_target();
  for_each_range(parallel_, batch_.n, kRange, operations, [&](int64_t first, int64_t last) {
    for (int64_t target = first; target < last; ++target) {
      const int64_t begin = target == 0 ? 0 : place_[target * kParts - 1];
      const int64_t end = place_[target * kParts + kParts - 1];
      if (end > begin) gather(target, incoming_.data() + begin, end - begin);
    }
  });
}

// By counting; of one target in the order of the anchors.
template <typename T>
void EdgeBlocks<T>::sort_by_target() {
  place_.assign(batch_.n * kParts, 0);
  const auto for_each_edge_of = [&](int64_t part, auto&& f) {
    for (int64_t r = part * anchor_count_ / kParts; r < (part + 1) * anchor_count_ / kParts; ++r)
      for (int64_t at = begin_[r]; at < begin_[r] + count_[r]; ++at) f(r, edges_[at]);
  };
  int64_t edges = 0;
  for (const int64_t count : count_) edges += count;
  const double operations = 16.0 * static_cast<double>(edges);
  for_each_task(parallel_, kParts, operations, [&](int64_t part) {
    for_each_edge_of(part, [&](int64_t, const Pull& edge) { ++place_[edge.partner * kParts + part]; });
  });
  int32_t before = 0;
  for (int32_t& place : place_) {
    const int32_t count = place;
    place = before;
    before += count;
  }
  if (static_cast<int64_t>(incoming_.size()) < edges) incoming_.resize(edges);
  for_each_task(parallel_, kParts, operations, [&](int64_t part) {
    for_each_edge_of(part, [&](int64_t r, const Pull& edge) {
      incoming_[place_[edge.partner * kParts + part]++] = {edge.weight, anchors_[r]};
    });
  });
}

template <typename T>
void EdgeBlocks<T>::write(double factor, T* gradient, T* reference_gradient) const {
  const int64_t d = batch_.d;
  for_each_range(parallel_, batch_.n, 64, 4.0 * static_cast<double>(batch_.n * d), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const double* const sums = sums_.data() + i * d;
      T* const out = i < batch_.split ? gradient + i * d : reference_gradient + (i - batch_.split) * d;
      if (survey_.factors.empty()) {
        for (int64_t k = 0; k < d; ++k) out[k] = static_cast<T>(factor * sums[k]);
        continue;
      }
      // Along the sphere: less what points along the unit row u. At |x| the gradient is 1 / |x| of that at u.
      const T* const row = batch_.row(i);
      const double shrink = survey_.factors[i];
      double along = 0;
      for (int64_t k = 0; k < d; ++k) along += static_cast<double>(row[k]) * shrink * sums[k];
      const bool pulled = shrink != 0 && std::any_of(sums, sums + d, [](double sum) { return sum != 0; });
      for (int64_t k = 0; k < d; ++k) {
        const double unit = static_cast<double>(row[k]) * shrink;
        out[k] = static_cast<T>(factor * (pulled ? (sums[k] - along * unit) * shrink : 0.0));
      }
    }
  });
}

template class EdgeBlocks<float>;
template class EdgeBlocks<double>;

}  // namespace fasttriplet::cpu
