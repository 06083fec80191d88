// Products of levels in vectors of 16 bits: pairs of them are multiplied and added to 32 bits, which is exact. Products
// of bytes would not be: AVX2 adds two of them to 16 bits, which may not hold their sum.
#pragma once

#include "level_rows.hpp"

namespace {

constexpr int ROWS_AT_ONCE = 6;  // with two vectors of columns each, as the registers allow
constexpr int PANEL = 2 * GNX_LANES;
constexpr int64_t ROWS_OF_TILE = 48;

typedef Lanes<GNX_LANES>::Ints Ints;

inline Ints add_pairs(Ints total, Ints rows, Ints weights) {
#if GNX_LANES == 8 && defined(__AVX2__)
  return total + bits<Ints>(_mm256_madd_epi16(bits<__m256i>(rows), bits<__m256i>(weights)));
#elif GNX_LANES == 4 && defined(__SSE2__)
  return total + bits<Ints>(_mm_madd_epi16(bits<__m128i>(rows), bits<__m128i>(weights)));
#else
  return total + ((rows << 16) >> 16) * ((weights << 16) >> 16) + (rows >> 16) * (weights >> 16);
#endif
}

size_t pairs_size(int64_t out_width, int64_t width) {
  return up_to(out_width, PANEL) * up_to(width, 2) * sizeof(int16_t);
}

// Panels of columns; pairs that follow each other in a row of weights lie side by side.
void pack_pairs(const int8_t *values, int64_t out_width, int64_t width, void *to) {
  const int64_t depth = up_to(width, 2);
  int16_t *const out = static_cast<int16_t *>(to);
  for (int64_t column = 0; column < up_to(out_width, PANEL); ++column) {
    int16_t *const panel = out + column / PANEL * PANEL * depth + column % PANEL * 2;
    for (int64_t k = 0; k < depth; ++k) {
      const bool there = column < out_width && k < width;
      panel[k / 2 * 2 * PANEL + k % 2] = there ? values[column * width + k] : 0;
    }
  }
}

size_t rows_of_pairs_size(int64_t count, int64_t width) { return count * up_to(width, 2) * sizeof(int16_t); }

// Multiply some rows of pairs [.., depth] with one panel: `to` is [Rows, PANEL].
template <int Rows>
inline void multiply_pairs(const int16_t *rows, const int16_t *panel, int64_t depth, int32_t *to) {
  Ints total[Rows][2] = {};
  for (int64_t k = 0; k < depth; k += 2, panel += 2 * PANEL) {
    const Ints left = read<Ints>(panel), right = read<Ints>(panel + PANEL);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const Ints pair = Ints{} + read<int32_t>(rows + i * depth + k);
      total[i][0] = add_pairs(total[i][0], pair, left);
      total[i][1] = add_pairs(total[i][1], pair, right);
    }
  }
  std::memcpy(to, total, sizeof(total));
}

template <int Rows>
inline void multiply_rows(const LevelTile &tile, const int16_t *const *levels, const float (*steps)[MOST_ROWS],
                          const PanelTerms<PANEL> *terms, int64_t row, int64_t column) {
  int32_t values[MOST_FACTORS][Rows * PANEL];
  const int32_t *const sums[MOST_FACTORS] = {values[0], values[1]};
  for (int place = 0; place < tile.num; ++place) {
    const PackedLevels &packed = tile.factors[place].packed;
    const int64_t depth = up_to(packed.width, 2);
    const int16_t *const panel = static_cast<const int16_t *>(packed.values) + column * depth;
    multiply_pairs<Rows>(levels[place] + row * depth, panel, depth, values[place]);
  }
  finish_levels<PANEL>(tile, row, Rows, column, sums, steps, terms);
}

void multiply_pairs_of(const LevelTile &tile) {
  const int16_t *levels[MOST_FACTORS];
  float steps[MOST_FACTORS][MOST_ROWS];
  int16_t *scratch = static_cast<int16_t *>(tile.scratch);
  for (int place = 0; place < tile.num; ++place) {
    const int64_t depth = up_to(tile.factors[place].packed.width, 2);
    quantise_rows(tile, tile.factors[place], 0, depth, scratch, steps[place]);
    levels[place] = scratch;
    scratch += tile.count * depth;
  }
  const int64_t width = tile.factors[0].packed.out_width;
  for (int64_t column = 0; column < width; column += PANEL) {
    const PanelTerms<PANEL> terms[MOST_FACTORS] = {{tile.factors[0], column, 0},
                                                   {tile.factors[tile.num - 1], column, 0}};
    int64_t row = 0;
    for (; row + ROWS_AT_ONCE <= tile.count; row += ROWS_AT_ONCE)
      multiply_rows<ROWS_AT_ONCE>(tile, levels, steps, terms, row, column);
    for (; row < tile.count; ++row) multiply_rows<1>(tile, levels, steps, terms, row, column);
  }
  settle();
}

}  // namespace
