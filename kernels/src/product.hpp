// Products of rows with a matrix of weights, in vectors.
#pragma once

#include "rows.hpp"

namespace {

using gnx::Factor;
using gnx::Packed;
using gnx::Product;
using gnx::Tile;

constexpr int ROWS_AT_ONCE = GNX_LANES == 16 ? 12 : 6;  // with two vectors of columns each, as the registers allow
constexpr int PANEL = 2 * GNX_LANES;
constexpr int64_t ROWS_OF_TILE = 48;
constexpr int MOST_FACTORS = 2;

inline int64_t in_panels(int64_t columns) { return (columns + PANEL - 1) / PANEL * PANEL; }

size_t packed_size(const float *, int64_t out_width, int64_t width) { return in_panels(out_width) * width; }

// Panels of two vectors of columns, row by row, so that a product reads them in order; zeros fill the last.
void pack(const float *values, int64_t out_width, int64_t width, float *to) {
  for (int64_t column = 0; column < in_panels(out_width); ++column) {
    float *panel = to + column / PANEL * PANEL * width + column % PANEL;
    for (int64_t k = 0; k < width; ++k) panel[k * PANEL] = column < out_width ? values[column * width + k] : 0.0f;
  }
}

// Multiply some rows with one panel: `to` is [Rows, PANEL].
template <int Rows>
inline void multiply_panel(const Tile &tile, int64_t row, int64_t column, float *to) {
  Floats<GNX_LANES> total[Rows][2] = {};
  for (int place = 0; place < tile.num; ++place) {
    const int64_t depth = tile.factors[place].packed.width;
    const float *rows = tile.factors[place].rows + row * depth;
    const float *panel = tile.factors[place].packed.values + column * depth;
    for (int64_t k = 0; k < depth; ++k, panel += PANEL) {
      const Floats<GNX_LANES> left = load<GNX_LANES>(panel), right = load<GNX_LANES>(panel + GNX_LANES);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
        const Floats<GNX_LANES> value = all<GNX_LANES>(rows[i * depth + k]);
        total[i][0] += value * left;
        total[i][1] += value * right;
      }
    }
  }
  for (int i = 0; i < Rows; ++i) {
    store<GNX_LANES>(to + i * PANEL, total[i][0]);
    store<GNX_LANES>(to + i * PANEL + GNX_LANES, total[i][1]);
  }
}

// Finish `count` rows of a tile from row `row`, of which [count, span] holds the columns from `column` on.
inline void finish_rows(const Tile &tile, int64_t row, int64_t count, int64_t column, int64_t span, float *values) {
  const int64_t width = tile.factors[0].packed.out_width;
  const int64_t columns = width - column < span ? width - column : span;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t place = tile.first + row + i;
    finish(tile.epilogue, place, width, column, columns, values + i * span);
    hand_over<PANEL>(values + i * span, columns, tile.past, tile.out + place * width + column);
  }
}

template <int Rows>
inline void multiply_rows(const Tile &tile, int64_t row, int64_t column) {
  float values[Rows * PANEL];
  multiply_panel<Rows>(tile, row, column, values);
  finish_rows(tile, row, Rows, column, PANEL, values);
}

void multiply(const Tile &tile) {
  const int64_t width = tile.factors[0].packed.out_width;
  for (int64_t column = 0; column < width; column += PANEL) {
    int64_t row = 0;
    for (; row + ROWS_AT_ONCE <= tile.count; row += ROWS_AT_ONCE)
      multiply_rows<ROWS_AT_ONCE>(tile, row, column);
    for (; row < tile.count; ++row) multiply_rows<1>(tile, row, column);
  }
  settle();
}

}  // namespace
