// Where a convolution finds its inputs.
#pragma once

#include "sums.h"

namespace {

// How an image is laid out for a convolution. Padded and, for strides, split into planes of the pixels that the same tap
// sees, each of the kernel's taps is a constant distance, and neighbouring outputs have neighbouring inputs. Rows follow
// each other without a gap, so that tiles may cross them; at stride 1 they share the padding between them.
struct Grid {
  int64_t channels, height, width; // of the input
  at::IntArrayRef kernel, stride, padding, dilation;
  int64_t rows, columns; // of the output
  int64_t pitch, plane;  // from row to row, from channel to channel
  std::vector<int64_t> phases; // those that taps see, of stride[0] * stride[1]

  Grid(
      const Tensor& x,
      at::IntArrayRef kernel_,
      at::IntArrayRef stride_,
      at::IntArrayRef padding_,
      at::IntArrayRef dilation_)
      : channels(x.size(1)),
        height(x.size(2)),
        width(x.size(3)),
        kernel(kernel_),
        stride(stride_),
        padding(padding_),
        dilation(dilation_),
        rows(outputs(height, 0)),
        columns(outputs(width, 1)) {
    TORCH_CHECK_VALUE(
        rows > 0 && columns > 0, "a kernel of ", kernel, " is larger than the padded input of ", x.sizes());
    pitch = columns + reach(1) - (stride[1] == 1 ? std::min(padding[1], reach(1)) : 0);
    plane = (rows + reach(0)) * pitch;
    for (int64_t tap = 0; tap < kernel[0] * kernel[1]; tap++)
      if (std::find(phases.begin(), phases.end(), phase(tap)) == phases.end())
        phases.push_back(phase(tap));
  }
  int64_t outputs(int64_t size, int axis) const {
    const int64_t room = size + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1;
    return room < 0 ? 0 : room / stride[axis] + 1;
  }
  int64_t reach(int axis) const {
    return (kernel[axis] - 1) * dilation[axis] / stride[axis];
  }
  int64_t phase(int64_t tap) const {
    const int64_t row = tap / kernel[1] * dilation[0], column = tap % kernel[1] * dilation[1];
    return row % stride[0] * stride[1] + column % stride[1];
  }
  int64_t size() const {
    return phases.size() * channels * plane + padding[1] + kWidth;
  }
  // Where the inputs of each (channel, tap) begin.
  std::vector<int32_t> places() const {
    std::vector<int32_t> result;
    const int64_t taps = kernel[0] * kernel[1];
    for (int64_t channel = 0; channel < channels; channel++)
      for (int64_t tap = 0; tap < taps; tap++) {
        const int64_t row = tap / kernel[1] * dilation[0] / stride[0];
        const int64_t column = tap % kernel[1] * dilation[1] / stride[1];
        const int64_t index = std::find(phases.begin(), phases.end(), phase(tap)) - phases.begin();
        result.push_back((index * channels + channel) * plane + row * pitch + column);
      }
    return result;
  }
  // Copies a channel into the planes; what is padding is not written.
  void fill(const float* image, int64_t channel, float* to) const {
    for (size_t index = 0; index < phases.size(); index++) {
      float* start = to + (index * channels + channel) * plane;
      const int64_t first_row = phases[index] / stride[1], first_column = phases[index] % stride[1];
      // The first of the plane's columns that is not padding, and how many there are.
      const int64_t skipped = std::max<int64_t>(0, ceil_div(padding[1] - first_column, stride[1]));
      const int64_t from = skipped * stride[1] + first_column - padding[1];
      const int64_t count =
          from < width ? std::min(ceil_div(width - from, stride[1]), columns + reach(1) - skipped) : 0;
      for (int64_t row = 0; row < rows + reach(0); row++) {
        const int64_t source = row * stride[0] + first_row - padding[0];
        if (source < 0 || source >= height)
          continue;
        const float* pixels = image + (channel * height + source) * width + from;
        float* out = start + row * pitch + skipped;
        if (stride[1] == 1)
          std::copy_n(pixels, count, out);
        else
          for (int64_t i = 0; i < count; i++)
            out[i] = pixels[i * stride[1]];
      }
    }
  }
};

// Runs f(first place, its output, count) for the parts of a tile that are in the output, not between its rows.
template <typename F>
void over_runs(int64_t at, int64_t places, const Grid& grid, const F& f) {
  for (int64_t row = at / grid.pitch; row * grid.pitch < at + places && row < grid.rows; row++) {
    const int64_t begin = std::max(at, row * grid.pitch);
    const int64_t end = std::min(at + places, row * grid.pitch + grid.columns);
    if (begin < end)
      f(begin - at, row * grid.columns + begin - row * grid.pitch, end - begin);
  }
}

} // namespace
