// Products of levels in vectors of bytes (AVX-512 VNNI).
#include "quads.hpp"

namespace {

constexpr int ROWS_AT_ONCE = 12;
constexpr int64_t ROWS_OF_TILE = 48;

// Multiply some rows of bytes [.., depth] with one panel: `to` is [Rows, PANEL].
template <int Rows>
inline void multiply_panel(const uint8_t *rows, const int8_t *panel, int64_t depth, int32_t *to) {
  __m512i total[Rows][2];
  for (int i = 0; i < Rows; ++i) total[i][0] = total[i][1] = _mm512_setzero_si512();
  for (int64_t k = 0; k < depth; k += 4, panel += QUADS) {
    const __m512i left = _mm512_loadu_si512(panel), right = _mm512_loadu_si512(panel + QUADS / 2);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const __m512i quad = _mm512_set1_epi32(read<int32_t>(rows + i * depth + k));
      total[i][0] = _mm512_dpbusd_epi32(total[i][0], quad, left);
      total[i][1] = _mm512_dpbusd_epi32(total[i][1], quad, right);
    }
  }
  std::memcpy(to, total, sizeof(total));
}

template <int Rows>
inline void multiply_rows(const LevelTile &tile, const Quads &quads, const PanelTerms<PANEL> *terms, int64_t row,
                          int64_t column) {
  alignas(LINE) int32_t values[MOST_FACTORS][Rows * PANEL];
  const int32_t *const sums[MOST_FACTORS] = {values[0], values[1]};
  for (int place = 0; place < tile.num; ++place) {
    const int64_t depth = up_to(tile.factors[place].packed.width, DEPTH);
    const uint8_t *const rows = quads.levels[place] + row * depth;
    multiply_panel<Rows>(rows, panel_of(tile.factors[place], column), depth, values[place]);
  }
  finish_levels<PANEL>(tile, row, Rows, column, sums, quads.steps, terms);
}

void multiply_quads(const LevelTile &tile) {
  const Quads quads(tile);
  const int64_t width = tile.factors[0].packed.out_width;
  for (int64_t column = 0; column < width; column += PANEL) {
    const int last = tile.num - 1;
    const PanelTerms<PANEL> terms[MOST_FACTORS] = {{tile.factors[0], column, quads.zeros[0]},
                                                   {tile.factors[last], column, quads.zeros[last]}};
    int64_t row = 0;
    for (; row + ROWS_AT_ONCE <= tile.count; row += ROWS_AT_ONCE)
      multiply_rows<ROWS_AT_ONCE>(tile, quads, terms, row, column);
    for (; row < tile.count; ++row) multiply_rows<1>(tile, quads, terms, row, column);
  }
  settle();
}

}  // namespace

namespace gnx {

extern const LevelProduct VNNI;
const LevelProduct VNNI = {ROWS_OF_TILE, quads_size, pack_quads, rows_of_quads_size, multiply_quads};

}  // namespace gnx
