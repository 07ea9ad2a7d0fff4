// Gradients of two distances that share a row, of all three rows in one read of them, in float64. Compiled once per
// instruction set.

namespace fasttriplet::cpu::FT_TIER {

// With weights w and v of the edges (h, x) and (h, y), and for cosine unit rows and distances d and e:
//
//   kind          gradient of h                                gradient of x               of y
//   differences   w (h - x) + v (h - y)                        w (x - h)                   v (y - h)
//   cosine        (w (h - x) + v (h - y) - (w d + v e) h)/|h|  (w (x - h) - w d x) / |x|   (v (y - h) - v e y) / |y|
//   product       -(w x + v y)                                 -w h                        -v h
template <typename Kind, typename T>
inline void fork_gradient(const Fork<T>& fork, int64_t d) {
  const Wide w = splat(fork.weights[0]), v = splat(fork.weights[1]);
  const Wide shrink_x = splat(fork.weights[0] * fork.distances[0]);
  const Wide shrink_y = splat(fork.weights[1] * fork.distances[1]);
  const Wide shrink_h = shrink_x + shrink_y;
  const Wide fh = splat(fork.factors[0]), fx = splat(fork.factors[1]), fy = splat(fork.factors[2]);
  const auto at = [&](int64_t k, auto&& load, auto&& store) FT_INLINE_LAMBDA {
    Wide h = load(fork.rows[0] + k), x = load(fork.rows[1] + k), y = load(fork.rows[2] + k);
    Wide of_x, of_y, of_h;
    if constexpr (Kind::kProduct) {
      of_x = -w * h;
      of_y = -v * h;
      of_h = -(w * x + v * y);
    } else {
      if constexpr (Kind::kNormalised) {
        h = h * fh;
        x = x * fx;
        y = y * fy;
      }
      const Wide to_x = w * (h - x), to_y = v * (h - y);
      of_x = -to_x;
      of_y = -to_y;
      of_h = to_x + to_y;
      if constexpr (Kind::kNormalised) {
        of_x = (of_x - shrink_x * x) * fx;
        of_y = (of_y - shrink_y * y) * fy;
        of_h = (of_h - shrink_h * h) * fh;
      }
    }
    if (fork.gradients[0] != nullptr) store(fork.gradients[0] + k, of_h);
    if (fork.gradients[1] != nullptr) store(fork.gradients[1] + k, of_x);
    if (fork.gradients[2] != nullptr) store(fork.gradients[2] + k, of_y);
  };
  int64_t k = 0;
  for (; k + kStep <= d; k += kStep)
    at(
        k, [](const T* p) FT_INLINE_LAMBDA { return load_wide(p); },
        [](T* p, Wide wide) FT_INLINE_LAMBDA { store_wide(p, wide); });
  if (k < d)
    at(
        k, [&](const T* p) FT_INLINE_LAMBDA { return load_tail(p, d - k); },
        [&](T* p, Wide wide) FT_INLINE_LAMBDA { store_tail(p, wide, d - k); });
}

}  // namespace fasttriplet::cpu::FT_TIER
