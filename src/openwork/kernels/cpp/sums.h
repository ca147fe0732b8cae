// The sums that every operator of sparse.cpp is made of.
//
// Of an output row, the sums over W places (rows of a batch, or pixels) stay in registers while each weight that is left
// is multiplied with W neighbouring inputs. Vectors are ATen's, so the source is the same for AVX2, AVX-512, NEON and
// whatever else ATen knows; what it is compiled for is in ../compiled.py.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/vec.h>

namespace {

using at::Tensor;
using Vec = at::vec::Vectorized<float>;

constexpr int64_t kWidth = 32;      // places at once: their inputs, 128 bytes a column, should stay in the nearest cache
constexpr int64_t kRows = 64;       // output rows of a task
constexpr int64_t kGrain = 1 << 17; // multiplications that are worth a thread

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// W sums: of whole vectors, or in one that is shorter than ATen's.
template <int W, bool whole = W % Vec::size() == 0>
struct Lanes {
  static constexpr int N = W / Vec::size();
  Vec part[N];

  explicit Lanes(float value = 0.f) {
    for (auto& one : part)
      one = Vec(value);
  }
  void add(float weight, const float* x) {
    const Vec factor(weight);
#pragma GCC unroll 8
    for (int n = 0; n < N; n++)
      part[n] = at::vec::fmadd(factor, Vec::loadu(x + n * Vec::size()), part[n]);
  }
  void add(const Lanes& other) {
    for (int n = 0; n < N; n++)
      part[n] = part[n] + other.part[n];
  }
  void store(float* to) const {
    for (int n = 0; n < N; n++)
      part[n].store(to + n * Vec::size());
  }
};

template <int W>
struct Floats {
  typedef float type __attribute__((vector_size(W * sizeof(float))));
};

template <>
struct Floats<1> {
  using type = float;
};

template <int W>
struct Lanes<W, false> {
  using Short = typename Floats<W>::type;
  Short part;

  explicit Lanes(float value = 0.f) : part(Short{} + value) {}
  void add(float weight, const float* x) {
    Short inputs;
    std::memcpy(&inputs, x, sizeof inputs);
    part += weight * inputs;
  }
  void add(const Lanes& other) {
    part += other.part;
  }
  void store(float* to) const {
    std::memcpy(to, &part, sizeof part);
  }
};

// Calls f with the narrowest of the widths there are that holds `places`.
template <typename F>
void with_width(int64_t places, const F& f) {
  if (places <= 1)
    f(std::integral_constant<int, 1>());
  else if (places <= 4)
    f(std::integral_constant<int, 4>());
  else if (places <= 8)
    f(std::integral_constant<int, 8>());
  else if (places <= 16)
    f(std::integral_constant<int, 16>());
  else
    f(std::integral_constant<int, kWidth>());
}

// Columns are int32, or uint16 that are called int16.
template <typename F>
void with_index(const Tensor& columns, const F& f) {
  if (columns.scalar_type() == at::kShort)
    f(reinterpret_cast<const uint16_t*>(columns.const_data_ptr<int16_t>()));
  else
    f(columns.const_data_ptr<int32_t>());
}

// Whoever converts a model to another dtype converts its packed weights, too.
inline const float* floats(const Tensor& tensor) {
  TORCH_CHECK_VALUE(
      tensor.scalar_type() == at::kFloat,
      "the packed weight is ", tensor.scalar_type(), ", and the kernel computes in float32; convert dense_copy() of what "
      "accelerate returned instead, and accelerate that");
  return tensor.const_data_ptr<float>();
}

struct Weight {
  const int64_t* starts;
  const float* values;
  const float* bias;
  int64_t rows;
  int64_t nonzeros;

  Weight(const Tensor& starts_, const Tensor& columns, const Tensor& values_, const std::optional<Tensor>& bias_)
      : starts(starts_.const_data_ptr<int64_t>()),
        values(floats(values_)),
        bias(bias_ ? floats(*bias_) : nullptr),
        rows(starts_.numel() - 1),
        nonzeros(values_.numel()) {
    TORCH_CHECK_VALUE(
        starts_.is_contiguous() && columns.is_contiguous() && values_.is_contiguous() &&
            columns.numel() == nonzeros && rows >= 0 && starts[rows] == nonzeros &&
            (!bias_ || (bias_->is_contiguous() && bias_->numel() == rows)),
        "the parts of a packed weight have other lengths than pack() gave them; pack the weight again");
  }
};

// The sums of one row: bias + sum of weight * inputs, `place(column)` being where a column's W inputs begin.
template <int W, typename Index, typename Place>
inline Lanes<W> sums(const Weight& weight, const Index* columns, int64_t row, const Place& place) {
  // A sum waits for the one before it, so a few are kept apart, as many as hide that.
  constexpr int U = W > 16 ? 2 : 4;
  Lanes<W> total(weight.bias ? weight.bias[row] : 0.f);
  int64_t at = weight.starts[row];
  const int64_t end = weight.starts[row + 1];
  if (at + U <= end) {
    Lanes<W> part[U - 1];
    for (; at + U <= end; at += U) {
      total.add(weight.values[at], place(columns[at]));
#pragma GCC unroll 4
      for (int u = 1; u < U; u++)
        part[u - 1].add(weight.values[at + u], place(columns[at + u]));
    }
#pragma GCC unroll 4
    for (int u = 1; u < U; u++)
      total.add(part[u - 1]);
  }
  for (; at < end; at++)
    total.add(weight.values[at], place(columns[at]));
  return total;
}

// Runs f(tile, first row, last row) for all tiles and blocks of rows, in parallel where that pays.
template <typename F>
void over_tiles(int64_t tiles, const Weight& weight, const F& f) {
  const int64_t blocks = ceil_div(weight.rows, kRows);
  if (tiles * blocks == 0)
    return;
  const int64_t cost = weight.nonzeros / blocks * kWidth + 1;
  at::parallel_for(0, tiles * blocks, ceil_div(kGrain, cost), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      const int64_t row = task % blocks * kRows;
      f(task / blocks, row, std::min(row + kRows, weight.rows));
    }
  });
}

} // namespace
