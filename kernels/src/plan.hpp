// How the slots of a structure are dealt out, and what the kernels of one instruction set offer.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gnnexport/kernels.h"

namespace gnx {

// Positions count rows and slots together, so that a chunk of positions is a fair share of work whatever the degrees.
// Chunks depend on the structure and on the width alone: who works on them changes no bit of the result.
constexpr int64_t CHUNK_BYTES = 1 << 20;
constexpr int64_t LEAST_CHUNK = 256;
constexpr int64_t MOST_CHUNK = 16384;

constexpr int64_t PAST_BYTES = 16 << 20;  // what is larger is not read from the caches after it was written

struct Index {
  const void *data;
  bool wide;
  int64_t operator[](int64_t at) const {
    return wide ? static_cast<const int64_t *>(data)[at] : static_cast<const int32_t *>(data)[at];
  }
};

// A part of a row with more slots than a chunk has positions: a hub, which several tasks share.
struct Segment {
  int64_t row, begin, end;
  int64_t part;  // its place among all parts
};

// Rows [first, last) without hubs, or one segment of a hub whose result goes to `part` instead.
struct Span {
  int64_t first, last;
  const Segment *segment;
};

// How a result leaves narrow.
struct Narrow {
  const float *inverse;  // [width], of the steps
  float most;            // the largest level, without zero
  int32_t bits, zero;
  uint8_t *out;
  int64_t row_bytes;
};

struct Structure {
  Index rowptr, col;  // col.data is null where slot s reads row s
  int64_t num_rows, num_slots, num_src;
  int64_t chunk;
  int64_t out_row = 0;  // the row that an output begins with
  bool past = false;    // whether the output is too large for the caches
  const Narrow *next = nullptr;
};

// A block of columns: `count` vectors of `lanes` from column `begin`, the last one ending at column `end`. Of rows of
// levels they are bytes, and a block of fewer than a vector has is a row, or its end, that is read with care.
struct Block {
  int32_t lanes, count;
  int64_t begin, end;
  int64_t head;       // of its first column
  int64_t per_head;   // vectors of one head, where a block spans several heads
};

enum class Sum { plain, weighted, by_head, max, min, prod, integers };

// The parts of a hub: of each, `width` numbers; int32 where integers are added.
struct Parts {
  void *sums;
  float *peaks, *totals;  // [parts, heads], of a softmax
};

constexpr int LAYOUTS = GNX_BLOCKS + 1;

// A matrix of weights as one instruction set reads it.
struct Packed {
  int64_t out_width, width;
  const float *values;
};

// Rows [count, packed.width] that are multiplied with it.
struct Factor {
  const float *rows;
  Packed packed;
};

// Some rows of an output: the sum of `num` products, finished. Scratch begins where a line of the cache does.
struct Tile {
  const Factor *factors;
  int num;
  int64_t first, count;  // rows of the output
  const gnx_epilogue &epilogue;
  float *out, *scratch;
  bool past;             // as of a structure
};

// Products of rows with matrices of weights. Sizes are numbers of floats.
struct Product {
  int64_t tile;  // rows that are best multiplied together
  size_t (*packed_size)(const float *values, int64_t out_width, int64_t width);
  void (*pack)(const float *values, int64_t out_width, int64_t width, float *to);  // `to` begins a line of the cache
  size_t (*scratch_size)(int64_t count, const Packed &packed);
  void (*multiply)(const Tile &tile);
};

// What reduces rows.
struct Reduce {
  void (*aggregate)(const gnx_aggregate &work, const Structure &structure, const Block &block, Sum sum,
                    const Span &span, const Parts &parts);
  void (*join)(const gnx_aggregate &work, const Structure &structure, const Segment *segments, int64_t count,
               Sum sum, const Parts &parts);
};

// A matrix of levels as one instruction set reads it.
struct PackedLevels {
  int64_t out_width, width;
  const void *values;
  const int32_t *sums;  // of each row, where a product needs them
};

// How rows turn into levels. With reaches, rising ones, each is that of a group.
struct Quantiser {
  gnx_quantiser given;
  const float *reach;
  const int64_t *group;
  int64_t num_reaches;
};

// Rows [count, packed.width] that turn into levels, or were given as such, and are multiplied with a matrix of them.
struct LevelFactor {
  const float *rows;
  const uint8_t *levels;
  const Quantiser *quantiser;
  PackedLevels packed;
  const float *step;
};

// Some rows of an output, as of a tile.
struct LevelTile {
  const LevelFactor *factors;
  int num;
  int64_t first, count;
  const gnx_epilogue &epilogue;
  float *out;  // null: the result is only given
  const Narrow *next;
  const gnx_given *given;
  void *scratch;
  bool past;
};

// Products of levels. Sizes are numbers of bytes.
struct LevelProduct {
  int64_t tile;
  size_t (*packed_size)(int64_t out_width, int64_t width);
  void (*pack)(const int8_t *values, int64_t out_width, int64_t width, void *to);
  size_t (*scratch_size)(int64_t count, int64_t width);
  void (*multiply)(const LevelTile &tile);
};

// What works on levels.
struct Levels {
  Reduce reduce;
  // Rows [first, last) of floats.
  void (*narrow)(const float *x, int64_t width, const Narrow &to, const gnx_given *given, int64_t first, int64_t last);
  LevelProduct product;
};

struct Path {
  const char *name;
  int32_t lanes, most;  // numbers in a vector, vectors in a block
  Reduce reduce;
  void (*attend)(const gnx_attention &work, const Structure &structure, const Block *blocks, int64_t num_blocks,
                 const Span &span, const Parts &parts, float *scratch);
  void (*join_attention)(const gnx_attention &work, const Structure &structure, const Segment *segments,
                         int64_t count, const Parts &parts);
  void (*soften)(const Structure &structure, const float *scores, int64_t heads, float *out, const Span &span,
                 const Parts &parts, float *scratch);
  void (*join_softmax)(const Segment *segments, int64_t count, int64_t heads, float *out, const Parts &parts);
  Product products[LAYOUTS];
  void (*round)(const float *x, int64_t count, int32_t type, uint16_t *out);
  Levels levels;
};

extern const Path PORTABLE;
extern const Levels PORTABLE_LEVELS;  // of which a path is made: dispatch.cpp puts the two together
#if defined(GNX_X86)
extern const Path AVX2;
extern const Levels AVX2_LEVELS;
extern const Path AVX512;
extern const Levels AVX512_LEVELS;
#endif
#if defined(GNX_VNNI)
extern const LevelProduct VNNI;
#endif
#if defined(GNX_AMX)
extern const Product AMX;
extern const LevelProduct AMX_LEVELS;
#endif

}  // namespace gnx
