// The inner loops: rows of a matrix, gathered and reduced in registers.
#pragma once

#include "plan.hpp"
#include "vector.hpp"

namespace {

using gnx::Block;
using gnx::Index;
using gnx::Parts;
using gnx::Segment;
using gnx::Span;
using gnx::Structure;
using gnx::Sum;

constexpr int MOST_VECTORS = GNX_LANES == 16 ? 16 : 8;
constexpr int MOST_COLUMNS = MOST_VECTORS * GNX_LANES;
constexpr int AHEAD = 32;        // slots whose rows are asked for early,
constexpr int SECOND_LEVEL = 2;  // into this cache: the first is too small for so many
constexpr int LINE = 64;
constexpr int LEAST = 4;         // numbers of the least vector
constexpr int SHORT_SUMS = 255;  // of int8, before a sum of 16 bits can overflow

template <class Type>
struct Matrix {
  const Type *data;
  int64_t width;
};

// What multiplies the rows: both may be null. Slot s has its weights at `slot[(s - first) * heads]`.
struct Weights {
  const float *slot;
  int64_t heads, first;
  const float *source;
};

inline int64_t source_of(const Structure &structure, int64_t slot) {
  return structure.col.data ? structure.col[slot] : slot;
}

// Ask for `bytes` of row `row`, `offset` bytes into it. The indices of slots ahead may not be checked yet: so their
// address is no pointer, which may lead nowhere, and nothing is read.
inline void prefetch(const void *data, int64_t row, int64_t row_bytes, int64_t offset, int64_t bytes) {
  const uint64_t from = reinterpret_cast<uintptr_t>(data) + static_cast<uint64_t>(row) * row_bytes + offset;
  for (int64_t at = 0; at < bytes; at += LINE)
    __builtin_prefetch(reinterpret_cast<const void *>(from + at), 0, SECOND_LEVEL);
  // Rows that begin within a line end in one more.
  if (row_bytes % LINE != 0) __builtin_prefetch(reinterpret_cast<const void *>(from + bytes - 1), 0, SECOND_LEVEL);
}

// The same for a block of columns of a matrix.
template <class Row, int W, int NV>
inline void prefetch(const Matrix<typename Row::Type> &x, int64_t row, const Block &block) {
  constexpr int64_t bytes = sizeof(typename Row::Type);
  prefetch(x.data, row, x.width * bytes, block.begin * bytes, NV * W * bytes);
}

template <int W, Sum S>
inline Floats<W> neutral() {
  if (S == Sum::max) return all<W>(-__builtin_inff());
  if (S == Sum::min) return all<W>(__builtin_inff());
  return all<W>(S == Sum::prod ? 1.0f : 0.0f);
}

template <int W, Sum S>
inline Floats<W> combine(Floats<W> total, Floats<W> value, float weight) {
  if (S == Sum::max) return where<W>((value > total) | (value != value), value, total);
  if (S == Sum::min) return where<W>((value < total) | (value != value), value, total);
  if (S == Sum::prod) return total * value;
  if (S == Sum::plain) return total + value;
  return total + value * weight;
}

// Reduce slots [begin, end) of a block of columns into `total`.
template <class Row, int W, int NV, Sum S>
inline void gather(const Structure &structure, const Matrix<typename Row::Type> &x, const Block &block,
                   const Weights &weights, int64_t begin, int64_t end, Floats<W> *total) {
  const int64_t last = block.end - W - block.begin;
  for (int v = 0; v < NV; ++v) total[v] = neutral<W, S>();
  for (int64_t slot = begin; slot < end; ++slot) {
    if (slot + AHEAD < structure.num_slots)
      prefetch<Row, W, NV>(x, source_of(structure, slot + AHEAD), block);
    const int64_t source = source_of(structure, slot);
    const typename Row::Type *from = x.data + source * x.width + block.begin;
    const float scale = S != Sum::plain && weights.source ? weights.source[source] : 1.0f;
    const float *weight = weights.slot ? weights.slot + (slot - weights.first) * weights.heads + block.head : nullptr;
    float shared = scale;
    if (S == Sum::weighted && weight) shared *= weight[0];
    for (int v = 0; v < NV; ++v) {
      const Floats<W> value = Row::template row<W>(from + (v == NV - 1 ? last : v * W));
      if (S == Sum::by_head) shared = scale * weight[v / block.per_head];
      total[v] = combine<W, S>(total[v], value, shared);
    }
  }
}

// Write some columns of a row of the result, `Most` at most, past the caches where it is too large for them.
template <int Most>
inline void hand_over(const float *values, int64_t count, bool past, float *to) {
  if constexpr (Most >= GNX_LANES) {
    if (past && count % GNX_LANES == 0 && aligned(to)) {
      for (int64_t i = 0; i < count; i += GNX_LANES) store_past(to + i, load<GNX_LANES>(values + i));
      return;
    }
  }
  std::memcpy(to, values, count * sizeof(float));
}

template <int W>
inline void hand_over(Floats<W> value, bool past, float *to) {
  if constexpr (W == GNX_LANES) {
    if (past && aligned(to)) return store_past(to, value);
  }
  store<W>(to, value);
}

template <int W, int NV>
inline void put(const Floats<W> *total, const Block &block, float *to) {
  for (int v = 0; v < NV - 1; ++v) store<W>(to + v * W, total[v]);
  store<W>(to + (block.end - W - block.begin), total[NV - 1]);
}

template <int W>
inline Floats<W> activate(Floats<W> value, int32_t activation, float slope) {
  const Floats<W> zero = {};
  switch (activation) {
    case GNX_RELU: return where<W>(value < zero, zero, value);
    case GNX_LEAKY_RELU: return where<W>(value < zero, value * slope, value);
    case GNX_ELU: return where<W>(value < zero, exponential<W>(where<W>(value < zero, value, zero)) - 1.0f, value);
    default: return value;
  }
}

// What comes after the reduction, for some columns of a row. It is a copy, which no store can change: so all of it stays
// in registers.
struct Finish {
  const float *scale, *root, *bias;  // root and bias of the first column that is finished
  int32_t activation;
  float slope, factor;

  // For columns from `begin` on.
  Finish(const gnx_epilogue &epilogue, int64_t row, int64_t width, int64_t begin)
      : scale(epilogue.scale),
        root(epilogue.root ? epilogue.root + row * width + begin : nullptr),
        bias(epilogue.bias ? epilogue.bias + begin : nullptr),
        activation(epilogue.activation),
        slope(epilogue.slope),
        factor(epilogue.scale ? epilogue.scale[row] : 1.0f) {}

  template <int W>
  Floats<W> operator()(int64_t at, Floats<W> value) const {
    if (scale) value *= factor;
    if (root) value += load<W>(root + at);
    if (bias) value += load<W>(bias + at);
    return activate<W>(value, activation, slope);
  }
};

template <int W>
struct Width {
  static constexpr int value = W;
};

// Call each(Width, at) for columns in vectors, ever narrower ones; tell where the rest begins, fewer than LEAST.
template <class Each>
inline int64_t in_vectors(int64_t count, Each each) {
  int64_t at = 0;
  for (; at + GNX_LANES <= count; at += GNX_LANES) each(Width<GNX_LANES>{}, at);
  if constexpr (GNX_LANES > 2 * LEAST) {
    for (; at + 2 * LEAST <= count; at += 2 * LEAST) each(Width<2 * LEAST>{}, at);
  }
  if constexpr (GNX_LANES > LEAST) {
    for (; at + LEAST <= count; at += LEAST) each(Width<LEAST>{}, at);
  }
  return at;
}

// Add what comes after the reduction to `count` columns of a row that start at column `begin`.
inline void finish(const gnx_epilogue &epilogue, int64_t row, int64_t width, int64_t begin, int64_t count,
                   float *values) {
  if (!epilogue.root && !epilogue.bias && !epilogue.scale && epilogue.activation == GNX_IDENTITY) return;
  const Finish finish(epilogue, row, width, begin);
  int64_t rest = in_vectors(count, [&](auto vector, int64_t at) {
    constexpr int W = decltype(vector)::value;
    store<W>(values + at, finish.operator()<W>(at, load<W>(values + at)));
  });
  for (; rest < count; ++rest) store<1>(values + rest, finish.operator()<1>(rest, load<1>(values + rest)));
}

// The same, with what a mean, a maximum of nothing and scales of columns need before it.
inline void finish(const gnx_aggregate &work, int64_t row, int64_t slots, int64_t begin, int64_t count, float *values) {
  const bool extreme = work.reduce == GNX_MAX || work.reduce == GNX_MIN;
  if (work.reduce == GNX_MEAN && slots > 1) {
    const float divisor = static_cast<float>(slots);
    for (int64_t i = 0; i < count; ++i) values[i] /= divisor;
  } else if (extreme && slots == 0) {
    for (int64_t i = 0; i < count; ++i) values[i] = 0.0f;
  }
  if (work.column_scale) {
    for (int64_t i = 0; i < count; ++i) values[i] *= work.column_scale[begin + i];
  }
  finish(work.epilogue, row, work.width, begin, count, values);
}

inline bool is_plain(const gnx_aggregate &work) {
  const gnx_epilogue &epilogue = work.epilogue;
  return work.reduce == GNX_SUM && !work.column_scale && !epilogue.root && !epilogue.bias && !epilogue.scale &&
         epilogue.activation == GNX_IDENTITY;
}

// Call rows(row, begin, end) for each row of a span, or for the one segment; hubs are left to their segments.
template <class Each>
inline void for_rows(const Structure &structure, const Span &span, Each each) {
  if (span.segment) {
    each(span.segment->row, span.segment->begin, span.segment->end);
    return;
  }
  int64_t begin = structure.rowptr[span.first];
  for (int64_t row = span.first; row < span.last; ++row) {
    const int64_t end = structure.rowptr[row + 1];
    if (end - begin <= structure.chunk) each(row, begin, end);
    begin = end;
  }
}

// Narrow vectors serve narrow matrices only, so few of them are ever needed.
#define GNX_NARROW(W, CALL)              \
  if (block.lanes == W) {                \
    if (block.count == 1) CALL(W, 1);    \
    if (block.count == 2) CALL(W, 2);    \
    if (block.count == 3) CALL(W, 3);    \
  }

#define GNX_WIDE(W, CALL)                \
  if (block.lanes == W) {                \
    if (block.count == 1) CALL(W, 1);    \
    if (block.count == 2) CALL(W, 2);    \
    if (block.count == 3) CALL(W, 3);    \
    if (block.count == 4) CALL(W, 4);    \
    if (block.count == 5) CALL(W, 5);    \
    if (block.count == 6) CALL(W, 6);    \
    if (block.count == 8) CALL(W, 8);    \
  }

#if GNX_LANES == 16
#define GNX_NARROWER(CALL) GNX_NARROW(8, CALL) GNX_NARROW(4, CALL) GNX_NARROW(1, CALL)
#define GNX_WIDEST(CALL)                                  \
  if (block.lanes == 16) {                                \
    if (block.count == 12) CALL(16, 12);                  \
    if (block.count == 16) CALL(16, 16);                  \
  }
#elif GNX_LANES == 8
#define GNX_NARROWER(CALL) GNX_NARROW(4, CALL) GNX_NARROW(1, CALL)
#define GNX_WIDEST(CALL)
#else
#define GNX_NARROWER(CALL) GNX_NARROW(1, CALL)
#define GNX_WIDEST(CALL)
#endif

// CALL(lanes, vectors) for the block at hand, of floats or of int8 numbers that are added as integers.
#define GNX_FLOAT_BLOCKS(CALL) GNX_WIDE(GNX_LANES, CALL) GNX_WIDEST(CALL) GNX_NARROWER(CALL)
#define GNX_INTEGER_BLOCKS(CALL) GNX_WIDE(2 * GNX_LANES, CALL) GNX_NARROW(GNX_LANES, CALL) GNX_NARROWER(CALL)

}  // namespace
