// Products of levels on a processor's tiles (AMX).
#include "amx_tiles.hpp"
#include "quads.hpp"

namespace {

// Multiply a pair of tiles of rows [.., depth] with a panel: `to` is [PANEL, PANEL].
inline void multiply_pair(const uint8_t *rows, const int8_t *panel, int64_t depth, int32_t *to) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < depth; k += DEPTH, panel += DEPTH / 4 * QUADS) {
    _tile_loadd(4, rows + k, depth);
    _tile_loadd(5, rows + SIDE * depth + k, depth);
    _tile_loadd(6, panel, QUADS);
    _tile_loadd(7, panel + QUADS / 2, QUADS);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  constexpr int64_t BYTES = PANEL * sizeof(int32_t);
  _tile_stored(0, to, BYTES);
  _tile_stored(1, to + SIDE, BYTES);
  _tile_stored(2, to + SIDE * PANEL, BYTES);
  _tile_stored(3, to + SIDE * PANEL + SIDE, BYTES);
}

void multiply_level_tiles(const LevelTile &tile) {
  const Quads quads(tile);
  const int64_t width = tile.factors[0].packed.out_width;
  alignas(LINE) int32_t values[MOST_FACTORS][PANEL * PANEL];
  const int32_t *const sums[MOST_FACTORS] = {values[0], values[1]};
  configure();
  for (int64_t column = 0; column < width; column += PANEL) {
    const int last = tile.num - 1;
    const PanelTerms<PANEL> terms[MOST_FACTORS] = {{tile.factors[0], column, quads.zeros[0]},
                                                   {tile.factors[last], column, quads.zeros[last]}};
    for (int64_t row = 0; row < tile.count; row += PANEL) {
      for (int place = 0; place < tile.num; ++place) {
        const int64_t depth = up_to(tile.factors[place].packed.width, DEPTH);
        const uint8_t *const rows = quads.levels[place] + row * depth;
        multiply_pair(rows, panel_of(tile.factors[place], column), depth, values[place]);
      }
      const int64_t count = tile.count - row < PANEL ? tile.count - row : PANEL;
      finish_levels<PANEL>(tile, row, count, column, sums, quads.steps, terms);
    }
  }
  _tile_release();
  settle();
}

}  // namespace

namespace gnx {

extern const LevelProduct AMX_LEVELS;
const LevelProduct AMX_LEVELS = {MOST_ROWS, quads_size, pack_quads, rows_of_quads_size, multiply_level_tiles};

}  // namespace gnx
