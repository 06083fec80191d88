// What products of unsigned bytes with signed ones share: four that follow each other are multiplied and added at once.
#pragma once

#include "level_rows.hpp"

namespace {

constexpr int PANEL = 32;
constexpr int64_t DEPTH = 64;           // bytes of a row that a tile holds
constexpr int64_t QUADS = 4 * PANEL;    // bytes of a panel for four columns of rows

size_t quads_size(int64_t out_width, int64_t width) { return up_to(out_width, PANEL) * up_to(width, DEPTH); }

// Panels of columns; four weights that follow each other in a row lie side by side.
void pack_quads(const int8_t *values, int64_t out_width, int64_t width, void *to) {
  const int64_t depth = up_to(width, DEPTH);
  int8_t *const out = static_cast<int8_t *>(to);
  std::memset(out, 0, quads_size(out_width, width));
  for (int64_t column = 0; column < out_width; ++column) {
    int8_t *const panel = out + column / PANEL * PANEL * depth + column % PANEL * 4;
    for (int64_t k = 0; k < width; ++k) panel[k / 4 * QUADS + k % 4] = values[column * width + k];
  }
}

// For a number of rows that tiles divide.
size_t rows_of_quads_size(int64_t count, int64_t width) { return up_to(count, PANEL) * up_to(width, DEPTH); }

// Rows of a tile as bytes, and what they need to be finished.
struct Quads {
  const uint8_t *levels[MOST_FACTORS];
  float steps[MOST_FACTORS][MOST_ROWS];
  int32_t zeros[MOST_FACTORS];

  explicit Quads(const LevelTile &tile) {
    uint8_t *scratch = static_cast<uint8_t *>(tile.scratch);
    for (int place = 0; place < tile.num; ++place) {
      const LevelFactor &factor = tile.factors[place];
      const int64_t depth = up_to(factor.packed.width, DEPTH);
      zeros[place] = zero_of(factor.quantiser->given);
      quantise_rows(tile, factor, zeros[place], depth, scratch, steps[place]);
      levels[place] = scratch;
      scratch += rows_of_quads_size(tile.count, factor.packed.width);
    }
  }
};

inline const int8_t *panel_of(const LevelFactor &factor, int64_t column) {
  return static_cast<const int8_t *>(factor.packed.values) + column * up_to(factor.packed.width, DEPTH);
}

}  // namespace
