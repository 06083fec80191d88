// How tiles are laid out by both kinds of products on them.
#pragma once

#include "vector.hpp"

namespace {

constexpr int64_t SIDE = 16;  // rows of a tile, and columns of four bytes

// Tiles 0 to 3 are results, 4 and 5 rows, 6 and 7 weights: what products name by number.
inline void configure() {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } tiles;
  for (int tile = 0; tile < 8; ++tile) {
    tiles.bytes[tile] = 4 * SIDE;
    tiles.rows[tile] = SIDE;
  }
  // GCC's intrinsics do not say that they read memory: what was stored for them has to be there.
  __asm__ volatile("" : : "r"(&tiles) : "memory");
  _tile_loadconfig(&tiles);
}

}  // namespace
