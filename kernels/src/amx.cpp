// Products of float32 on a processor's tiles (AMX), which multiply bfloat16 and add in float32.
//
// A float32 is the sum of three bfloat16 numbers: its 24 bits are three times 8. Of the nine products of two such sums
// the three smallest are below what float32 tells apart; the other six are added, the small ones first (Henry, Tang and
// Heinecke, ARITH 2019). Parts of a product may overflow where it does not, or both ways where it does: so rows among
// which are numbers so large that a sum could come near the largest, infinite ones or none are multiplied in vectors.
// Tiles take what is below 2^-126 for zero, numbers, parts and sums alike.
#include "amx_tiles.hpp"
#include "product.hpp"

namespace {

typedef uint16_t Part;

constexpr int64_t DEPTH = 32;           // bfloat16 numbers in a row of a tile
constexpr int64_t SIZE = SIDE * DEPTH;  // bfloat16 numbers in a tile
constexpr int64_t PAIR = 2 * SIDE;      // rows, and columns, of four tiles of results
constexpr int64_t PARTS = 3;
constexpr int64_t STEP = 2 * PARTS * SIZE;  // what is stored of a pair of tiles
constexpr int64_t HEAD = 16;                // floats before the tiles of a matrix: the first is its largest number
constexpr float LIMIT = 0x1p127f;           // of numbers, and of the sums of what their sizes multiply to

inline int64_t up_to(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
inline int64_t steps_of(int64_t width) { return up_to(width, DEPTH) / DEPTH; }

int64_t floats_in_tiles(int64_t count, int64_t width) { return up_to(count, PAIR) / PAIR * steps_of(width) * STEP / 2; }

// Where part 0 of row `row` begins at step `step`; part p follows p * 2 * SIZE numbers later.
inline int64_t tile_of(int64_t row, int64_t step, int64_t width) {
  return (row / PAIR * steps_of(width) + step) * STEP + row / SIDE % 2 * SIZE;
}

// The larger of two sizes, which are floats without their sign. As integers, what is no number is the largest.
inline __m512i larger(__m512i size, __m512 value) {
  return _mm512_max_epi32(size, _mm512_and_si512(_mm512_castps_si512(value), _mm512_set1_epi32(0x7fffffff)));
}

inline float largest(__m512i size) {
  int32_t sizes[SIDE], most = 0;
  _mm512_storeu_si512(sizes, size);
  for (const int32_t each : sizes) most = each > most ? each : most;
  return bits<float>(most);
}

inline void split(__m512 value, Part *to) {
  for (int64_t part = 0; part < PARTS; ++part) {
    const __m512i raised = _mm512_add_epi32(_mm512_castps_si512(value), _mm512_set1_epi32(0x8000));
    const __m512i word = _mm512_and_si512(raised, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
    const __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(word, 16));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + part * 2 * SIZE), halves);
    value = _mm512_sub_ps(value, _mm512_castsi512_ps(word));
  }
}

// Lay rows out as tiles; tell the size of the largest number.
float split_rows(const float *rows, int64_t count, int64_t width, Part *to) {
  __m512i size = _mm512_setzero_si512();
  for (int64_t row = 0; row < up_to(count, PAIR); ++row) {
    for (int64_t k = 0; k < up_to(width, DEPTH); k += SIDE) {
      const int64_t left = row < count ? width - k : 0;
      const __mmask16 there = static_cast<__mmask16>(left >= SIDE ? 0xffff : left > 0 ? (1 << left) - 1 : 0);
      const __m512 value = _mm512_maskz_loadu_ps(there, there ? rows + row * width + k : rows);
      size = larger(size, value);
      split(value, to + tile_of(row, k / DEPTH, width) + row % SIDE * DEPTH + k % DEPTH);
    }
  }
  return largest(size);
}

int64_t floats_in_matrix(int64_t out_width, int64_t width) { return HEAD + floats_in_tiles(out_width, width); }

size_t tiled_size(const float *values, int64_t out_width, int64_t width) {
  return floats_in_matrix(out_width, width) + packed_size(values, out_width, width);
}

// Pairs of weights that follow each other in a row lie side by side, and a row of a tile holds one pair of each column.
// Behind the tiles are the same weights for vectors.
void pack_tiles(const float *values, int64_t out_width, int64_t width, float *to) {
  std::memset(to, 0, floats_in_matrix(out_width, width) * sizeof(float));
  Part *tiles = reinterpret_cast<Part *>(to + HEAD);
  __m512i size = _mm512_setzero_si512();
  for (int64_t column = 0; column < out_width; ++column) {
    for (int64_t k = 0; k < width; ++k) {
      float value = values[column * width + k];
      size = larger(size, _mm512_set1_ps(value));
      Part *at = tiles + tile_of(column, k / DEPTH, width) + k % DEPTH / 2 * DEPTH + column % SIDE * 2 + k % 2;
      for (int64_t part = 0; part < PARTS; ++part) {
        const uint32_t word = (bits<uint32_t>(value) + 0x8000) & 0xffff0000;
        at[part * 2 * SIZE] = static_cast<Part>(word >> 16);
        value -= bits<float>(word);
      }
    }
  }
  to[0] = largest(size);
  pack(values, out_width, width, to + floats_in_matrix(out_width, width));
}

size_t tiles_size(int64_t count, const Packed &packed) { return floats_in_tiles(count, packed.width); }

inline void load_rows(const Part *from) {
  _tile_loadd(4, from, LINE);
  _tile_loadd(5, from + SIZE, LINE);
}

inline void load_weights(const Part *from) {
  _tile_loadd(6, from, LINE);
  _tile_loadd(7, from + SIZE, LINE);
}

inline void add_products() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// Part p of one side meets those parts of the other that matter, in an order in which one side stays loaded.
inline void add_small(const Part *rows, const Part *weights) {
  constexpr int64_t PART = 2 * SIZE;
  load_rows(rows);
  load_weights(weights + 2 * PART);
  add_products();
  load_weights(weights + PART);
  add_products();
  load_rows(rows + PART);
  add_products();
  load_weights(weights);
  add_products();
  load_rows(rows + 2 * PART);
  add_products();
}

// Multiply a pair of tiles of rows with a pair of tiles of weights: `to` is [PAIR, PAIR].
inline void multiply_pair(const Tile &tile, const Part *const *rows, int64_t row, int64_t column, float *to) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const Part *left[MOST_FACTORS], *right[MOST_FACTORS];
  for (int place = 0; place < tile.num; ++place) {
    const Packed &packed = tile.factors[place].packed;
    left[place] = rows[place] + tile_of(row, 0, packed.width);
    right[place] = reinterpret_cast<const Part *>(packed.values + HEAD) + tile_of(column, 0, packed.width);
    for (int64_t step = 0; step < steps_of(packed.width); ++step)
      add_small(left[place] + step * STEP, right[place] + step * STEP);
  }
  for (int place = 0; place < tile.num; ++place) {
    for (int64_t step = 0; step < steps_of(tile.factors[place].packed.width); ++step) {
      load_rows(left[place] + step * STEP);
      load_weights(right[place] + step * STEP);
      add_products();
    }
  }
  constexpr int64_t BYTES = PAIR * sizeof(float);
  _tile_stored(0, to, BYTES);
  _tile_stored(1, to + SIDE, BYTES);
  _tile_stored(2, to + SIDE * PAIR, BYTES);
  _tile_stored(3, to + SIDE * PAIR + SIDE, BYTES);
}

void multiply_in_vectors(const Tile &tile) {
  Factor factors[MOST_FACTORS];
  for (int place = 0; place < tile.num; ++place) {
    factors[place] = tile.factors[place];
    Packed &packed = factors[place].packed;
    packed.values += floats_in_matrix(packed.out_width, packed.width);
  }
  Tile other = tile;
  other.factors = factors;
  multiply(other);
}

void multiply_tiles(const Tile &tile) {
  const Part *rows[MOST_FACTORS];
  float *scratch = tile.scratch, most = 0.0f;
  for (int place = 0; place < tile.num; ++place) {
    const Packed &packed = tile.factors[place].packed;
    Part *const to = reinterpret_cast<Part *>(scratch);
    const float of_rows = split_rows(tile.factors[place].rows, tile.count, packed.width, to);
    most += of_rows * packed.values[0] * static_cast<float>(packed.width);
    if (!(of_rows < LIMIT && packed.values[0] < LIMIT && most < LIMIT)) return multiply_in_vectors(tile);
    rows[place] = to;
    scratch += tiles_size(tile.count, packed);
  }
  const int64_t width = tile.factors[0].packed.out_width;
  alignas(LINE) float values[PAIR * PAIR];
  configure();
  for (int64_t column = 0; column < width; column += PAIR) {
    for (int64_t row = 0; row < tile.count; row += PAIR) {
      multiply_pair(tile, rows, row, column, values);
      finish_rows(tile, row, tile.count - row < PAIR ? tile.count - row : PAIR, column, PAIR, values);
    }
  }
  _tile_release();
  settle();
}

}  // namespace

namespace gnx {

extern const Product AMX;
const Product AMX = {2 * PAIR, tiled_size, pack_tiles, tiles_size, multiply_tiles};

}  // namespace gnx
