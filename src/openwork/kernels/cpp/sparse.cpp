// Products and convolutions with sparse weights, in float32 on a CPU. ../sparse.py declares the operators and has their
// plain twins.

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "grid.h"
#include "sums.h"

namespace {

// to[j * to_stride + i] = from[i * stride + j] for as many i and j as a vector has numbers. Flattened, as the compiler
// otherwise leaves ATen's blocks of registers in memory.
__attribute__((flatten, noinline)) void transpose_square(
    const float* from,
    int64_t stride,
    float* to,
    int64_t to_stride) {
  at::vec::transpose_mxn<float, Vec::size(), Vec::size()>(from, stride, to, to_stride);
}

// to[c * W + n] = from[n * stride + c], zero from n = places on
template <int W>
void transpose_in(const float* from, int64_t stride, int64_t places, int64_t columns, float* to) {
  constexpr int64_t L = Vec::size();
  for (int64_t n = 0; n < W; n += L) {
    int64_t c = 0;
    if constexpr (W % L == 0)
      if (n + L <= places)
        for (; c + L <= columns; c += L)
          transpose_square(from + n * stride + c, stride, to + c * W + n, W);
    for (; c < columns; c++)
      for (int64_t i = n; i < std::min<int64_t>(n + L, W); i++)
        to[c * W + i] = i < places ? from[i * stride + c] : 0.f;
  }
}

// to[n * stride + r] = from[r * W + n] for n < places
template <int W>
void transpose_out(const float* from, int64_t rows, int64_t places, float* to, int64_t stride) {
  constexpr int64_t L = Vec::size();
  for (int64_t n = 0; n < places; n += L) {
    if constexpr (W % L == 0)
      if (n + L <= places && rows == L) {
        transpose_square(from + n, W, to + n * stride, stride);
        continue;
      }
    for (int64_t i = n; i < std::min(n + L, places); i++)
      for (int64_t r = 0; r < rows; r++)
        to[i * stride + r] = from[r * W + i];
  }
}

Tensor linear(
    const Tensor& x_,
    const Tensor& starts,
    const Tensor& columns,
    const Tensor& values,
    const std::optional<Tensor>& bias,
    int64_t inputs) {
  const Weight weight(starts, columns, values, bias);
  TORCH_CHECK_VALUE(
      x_.dim() > 0 && x_.size(-1) == inputs && x_.scalar_type() == at::kFloat,
      "the input must be float32 of shape (..., ", inputs, "), got ", x_.scalar_type(), " ", x_.sizes());
  const auto x = x_.contiguous();
  auto sizes = x.sizes().vec();
  sizes.back() = weight.rows;
  auto y = at::empty(sizes, x.options());
  const int64_t batch = inputs ? x.numel() / inputs : c10::multiply_integers(sizes.begin(), sizes.end() - 1);
  const int64_t tiles = ceil_div(batch, kWidth);
  const auto panels = at::empty({tiles * kWidth * inputs}, x.options());
  const float* from = x.const_data_ptr<float>();
  float* panel = panels.mutable_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();

  at::parallel_for(0, tiles, ceil_div(kGrain, inputs * kWidth + 1), [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * kWidth; at < std::min(end * kWidth, batch); at += kWidth) {
      const int64_t places = std::min(kWidth, batch - at);
      with_width(places, [&](auto width) {
        transpose_in<width()>(from + at * inputs, inputs, places, inputs, panel + at * inputs);
      });
    }
  });
  with_index(columns, [&](auto* index) {
    over_tiles(tiles, weight, [&](int64_t tile, int64_t first, int64_t last) {
      const int64_t at = tile * kWidth;
      const int64_t places = std::min(kWidth, batch - at);
      const float* inputs_here = panel + at * inputs;
      with_width(places, [&](auto width) {
        constexpr int W = width();
        constexpr int64_t L = Vec::size();
        alignas(64) float sum[L * W];
        for (int64_t row = first; row < last; row += L) {
          const int64_t rows = std::min(L, last - row);
          for (int64_t r = 0; r < rows; r++)
            sums<W>(weight, index, row + r, [&](auto column) { return inputs_here + int64_t(column) * W; })
                .store(sum + r * W);
          transpose_out<W>(sum, rows, places, to + at * weight.rows + row, weight.rows);
        }
      });
    });
  });
  return y;
}

Tensor convolution(
    const Tensor& x_,
    const Tensor& starts,
    const Tensor& columns,
    const Tensor& values,
    const std::optional<Tensor>& bias,
    int64_t channels,
    at::IntArrayRef kernel,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation) {
  const Weight weight(starts, columns, values, bias);
  TORCH_CHECK_VALUE(
      x_.dim() == 4 && x_.size(1) == channels && x_.scalar_type() == at::kFloat,
      "the input must be float32 of shape (N, ", channels, ", H, W), got ", x_.scalar_type(), " ", x_.sizes());
  const auto x = x_.contiguous();
  const Grid grid(x, kernel, stride, padding, dilation);
  TORCH_CHECK_VALUE(grid.size() < std::numeric_limits<int32_t>::max(), "an image of ", x.sizes(), " is too large");
  auto y = at::empty({x.size(0), weight.rows, grid.rows, grid.columns}, x.options());
  const auto planes = at::zeros({grid.size()}, x.options());
  const auto places = grid.places();
  const int64_t last = (grid.rows - 1) * grid.pitch + grid.columns; // the places, those between rows included
  float* image = planes.mutable_data_ptr<float>();

  for (int64_t n = 0; n < x.size(0); n++) {
    const float* from = x.const_data_ptr<float>() + n * channels * grid.height * grid.width;
    float* to = y.mutable_data_ptr<float>() + n * weight.rows * grid.rows * grid.columns;
    at::parallel_for(0, channels, ceil_div(kGrain, grid.plane), [&](int64_t begin, int64_t end) {
      for (int64_t channel = begin; channel < end; channel++)
        grid.fill(from, channel, image);
    });
    with_index(columns, [&](auto* index) {
      over_tiles(ceil_div(last, kWidth), weight, [&](int64_t tile, int64_t first_row, int64_t end_row) {
        const int64_t at = tile * kWidth;
        with_width(last - at, [&](auto width) {
          constexpr int W = width();
          alignas(64) float sum[W];
          const int64_t count = std::min<int64_t>(W, last - at);
          for (int64_t row = first_row; row < end_row; row++) {
            sums<W>(weight, index, row, [&](auto column) { return image + at + places[column]; }).store(sum);
            float* out = to + row * grid.rows * grid.columns;
            over_runs(at, count, grid, [&](int64_t place, int64_t output, int64_t length) {
              std::copy_n(sum + place, length, out + output);
            });
          }
        });
      });
    });
  }
  return y;
}

} // namespace

TORCH_LIBRARY_IMPL(openwork, CPU, m) {
  m.impl("sparse_linear", linear);
  m.impl("sparse_convolution", convolution);
}
