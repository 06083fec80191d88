// Products with matrices whose weights stand in runs: sixteen outputs of one input, all of them or none.
//
// A run is a vector of outputs or a few, and multiplies some rows in registers, as a dense matrix does. Runs of zeros
// are neither stored nor multiplied.
#pragma once

#include "product.hpp"

namespace {

constexpr int64_t RUN = 16;
constexpr int RUN_VECTORS = RUN / GNX_LANES;
constexpr int ROWS_OF_RUN = GNX_LANES == 16 ? 12 : GNX_LANES == 8 ? 6 : 3;
constexpr int64_t LINE_NUMBERS = 16;

// The runs of sixteen outputs: their inputs, and their weights.
struct Runs {
  int64_t count;
  const float *inputs, *weights;
};

// What stands before the weights of `count` runs: how many there are, and their inputs.
inline int64_t head_of(int64_t count) { return (count + LINE_NUMBERS) / LINE_NUMBERS * LINE_NUMBERS; }

inline Runs runs_at(const float *from) {
  const int64_t count = read<int32_t>(from);
  return {count, from + 1, from + head_of(count)};
}

inline const float *behind(const Runs &runs) { return runs.weights + runs.count * RUN; }

inline bool has_run(const float *values, int64_t outputs, int64_t width) {
  for (int64_t i = 0; i < outputs; ++i) {
    if (values[i * width] != 0.0f) return true;
  }
  return false;
}

// Lay `outputs` outputs out, unless `to` is null; tell the size in floats.
int64_t pack_runs_of(const float *values, int64_t outputs, int64_t width, float *to) {
  int64_t count = 0;
  for (int64_t k = 0; k < width; ++k) count += has_run(values + k, outputs, width);
  if (to) {
    *to = bits<float>(static_cast<int32_t>(count));
    float *input = to + 1, *weights = to + head_of(count);
    for (int64_t k = 0; k < width; ++k) {
      if (!has_run(values + k, outputs, width)) continue;
      *input++ = bits<float>(static_cast<int32_t>(k));
      for (int64_t i = 0; i < RUN; ++i) *weights++ = i < outputs ? values[i * width + k] : 0.0f;
    }
  }
  return head_of(count) + count * RUN;
}

int64_t pack_all_runs(const float *values, int64_t out_width, int64_t width, float *to) {
  int64_t size = 0;
  for (int64_t column = 0; column < out_width; column += RUN) {
    const int64_t outputs = out_width - column < RUN ? out_width - column : RUN;
    size += pack_runs_of(values + column * width, outputs, width, to ? to + size : nullptr);
  }
  return size;
}

size_t runs_size(const float *values, int64_t out_width, int64_t width) {
  return pack_all_runs(values, out_width, width, nullptr);
}

void pack_runs(const float *values, int64_t out_width, int64_t width, float *to) {
  pack_all_runs(values, out_width, width, to);
}

// Multiply some rows with the runs of sixteen outputs, and finish them.
template <int Rows>
inline void multiply_runs(const Tile &tile, const Runs *runs, int64_t row, int64_t column) {
  Floats<GNX_LANES> total[Rows][RUN_VECTORS] = {};
  for (int place = 0; place < tile.num; ++place) {
    const int64_t depth = tile.factors[place].packed.width;
    const float *const rows = tile.factors[place].rows + row * depth, *weights = runs[place].weights;
    for (int64_t run = 0; run < runs[place].count; ++run, weights += RUN) {
      const float *const from = rows + read<int32_t>(runs[place].inputs + run);
      Floats<GNX_LANES> weight[RUN_VECTORS];
      for (int v = 0; v < RUN_VECTORS; ++v) weight[v] = load<GNX_LANES>(weights + v * GNX_LANES);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
        const Floats<GNX_LANES> value = all<GNX_LANES>(from[i * depth]);
        for (int v = 0; v < RUN_VECTORS; ++v) total[i][v] += value * weight[v];
      }
    }
  }
  alignas(64) float values[Rows * RUN];
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < RUN_VECTORS; ++v) store<GNX_LANES>(values + i * RUN + v * GNX_LANES, total[i][v]);
  }
  finish_rows(tile, row, Rows, column, RUN, values);
}

void multiply_all_runs(const Tile &tile) {
  const float *from[MOST_FACTORS] = {};
  for (int place = 0; place < tile.num; ++place) from[place] = tile.factors[place].packed.values;
  for (int64_t column = 0; column < tile.factors[0].packed.out_width; column += RUN) {
    Runs runs[MOST_FACTORS] = {};
    for (int place = 0; place < tile.num; ++place) {
      runs[place] = runs_at(from[place]);
      from[place] = behind(runs[place]);
    }
    int64_t row = 0;
    for (; row + ROWS_OF_RUN <= tile.count; row += ROWS_OF_RUN) multiply_runs<ROWS_OF_RUN>(tile, runs, row, column);
    for (; row < tile.count; ++row) multiply_runs<1>(tile, runs, row, column);
  }
  settle();
}

}  // namespace
