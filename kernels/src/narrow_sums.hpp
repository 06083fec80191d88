// The inner loops over rows of levels: added as integers, as many at once as a short sum has room for.
//
// Two short numbers lie side by side in a lane of twice their size. Adding whole lanes, and their upper halves apart,
// takes less than taking both apart: the sum of the lower ones is that of the whole ones, modulo the lane, without the
// upper ones.
#pragma once

#include "rows.hpp"

namespace {

constexpr int64_t FEW = 17;         // levels of 4 bits, before a sum of 8 bits can overflow
constexpr int64_t MANY_4 = 4352;    // of 4 bits, before one of 16 bits can: a multiple of FEW
constexpr int64_t MANY_8 = 257;     // of 8 bits
constexpr int SHORT = 16;           // bytes of the least vector

typedef Lanes<SHORT>::Levels Row16;

// Read fewer bytes than a vector has, and nothing behind them.
inline Row16 read_short(const uint8_t *from, int64_t count) {
  typedef uint64_t Words __attribute__((vector_size(SHORT)));
  Words words = {};
  if (count >= 8) {
    words[0] = read<uint64_t>(from);
    words[1] = count == 8 ? 0 : read<uint64_t>(from + count - 8) >> 8 * (16 - count);
  } else if (count >= 4) {
    words[0] = read<uint32_t>(from) | static_cast<uint64_t>(read<uint32_t>(from + count - 4)) << 8 * (count - 4);
  } else {
    for (int64_t i = 0; i < count; ++i) words[0] |= static_cast<uint64_t>(from[i]) << 8 * i;
  }
  return bits<Row16>(words);
}

// Rows of levels, of which a block of bytes is read: `NV` vectors of `W`, or a short one.
template <int W, int NV, bool Short>
struct Bytes {
  typedef typename Lanes<W>::Levels Vector;
  typedef typename Lanes<W / 2>::Halves Wide;

  const Structure &structure;
  const uint8_t *data;
  int64_t row_bytes, begin, count;

  // The last vector overlaps the one before it. What is made of them is therefore stored from the last one on: then each
  // part that is read next lies in one store as a whole, which a processor hands on without waiting.
  int64_t at(int v) const { return v == NV - 1 && !Short ? count - W : v * W; }

  void prefetch_ahead(int64_t slot) const {
    if (slot + AHEAD < structure.num_slots)
      prefetch(data, source_of(structure, slot + AHEAD), row_bytes, begin, count);
  }

  template <class Each>
  void each(int64_t from, int64_t to, Each use) const {
    for (int64_t slot = from; slot < to; ++slot) {
      prefetch_ahead(slot);
      const uint8_t *row = data + source_of(structure, slot) * row_bytes + begin;
      for (int v = 0; v < NV; ++v) {
        if constexpr (Short)
          use(v, read_short(row, count));
        else
          use(v, read<Vector>(row + at(v)));
      }
    }
  }
};

// Lay the lanes of two vectors out in turn.
template <class Wide, class Vector, class Number>
inline void interleave(Vector even, Vector odd, Number *to) {
  constexpr int HALF = sizeof(Vector) / sizeof(Number) / 2;
  typedef Number Part __attribute__((vector_size(HALF * sizeof(Number))));
  typedef Wide Whole __attribute__((vector_size(HALF * sizeof(Wide))));
  for (int half = 0; half < 2; ++half) {
    const Part left = read<Part>(reinterpret_cast<const Number *>(&even) + half * HALF);
    const Part right = read<Part>(reinterpret_cast<const Number *>(&odd) + half * HALF);
    const Whole upper = __builtin_convertvector(right, Whole) << 8 * sizeof(Number);
    const Whole both = __builtin_convertvector(left, Whole) | upper;
    std::memcpy(to + half * 2 * HALF, &both, sizeof(both));
  }
}

// Sums of at most MANY_8 levels of 8 bits.
template <int W, int NV, bool Short>
inline void add_bytes(const Bytes<W, NV, Short> &rows, int64_t from, int64_t to, uint16_t *totals) {
  typedef typename Bytes<W, NV, Short>::Wide Wide;
  Wide whole[NV] = {}, upper[NV] = {};
  rows.each(from, to, [&](int v, typename Lanes<W>::Levels value) {
    const Wide both = bits<Wide>(value);
    whole[v] += both;
    upper[v] += both >> 8;
  });
  for (int v = NV - 1; v >= 0; --v) interleave<uint32_t>(whole[v] - (upper[v] << 8), upper[v], totals + rows.at(v));
}

// Sums of at most FEW levels of 4 bits: of the lower halves of the bytes, and of the upper ones.
template <int W, int NV, bool Short>
inline void add_halves(const Bytes<W, NV, Short> &rows, int64_t from, int64_t to, typename Lanes<W>::Levels *lower,
                       typename Lanes<W>::Levels *upper) {
  typedef typename Lanes<W>::Levels Vector;
  typedef typename Bytes<W, NV, Short>::Wide Wide;
  Vector whole[NV] = {}, high[NV] = {};
  rows.each(from, to, [&](int v, Vector value) {
    whole[v] += value;
    high[v] += bits<Vector>(bits<Wide>(value) >> 4 & 0x0f0f);
  });
  for (int v = 0; v < NV; ++v) {
    lower[v] = whole[v] - bits<Vector>((bits<Wide>(high[v]) & 0x0f0f) << 4);
    upper[v] = high[v];
  }
}

template <int W, int NV, bool Short>
inline void add_few(const Bytes<W, NV, Short> &rows, int64_t from, int64_t to, uint8_t *totals) {
  typename Lanes<W>::Levels lower[NV], upper[NV];
  add_halves(rows, from, to, lower, upper);
  for (int v = NV - 1; v >= 0; --v) interleave<uint16_t>(lower[v], upper[v], totals + 2 * rows.at(v));
}

// Sums of at most MANY_4 levels of 4 bits.
template <int W, int NV, bool Short>
inline void add_many(const Bytes<W, NV, Short> &rows, int64_t from, int64_t to, uint16_t *totals) {
  typedef typename Bytes<W, NV, Short>::Wide Wide;
  Wide whole[2][NV] = {}, odd[2][NV] = {};
  for (int64_t slot = from; slot < to; slot += FEW) {
    typename Lanes<W>::Levels sums[2][NV];
    add_halves(rows, slot, to - slot > FEW ? slot + FEW : to, sums[0], sums[1]);
    for (int half = 0; half < 2; ++half) {
      for (int v = 0; v < NV; ++v) {
        const Wide both = bits<Wide>(sums[half][v]);
        whole[half][v] += both;
        odd[half][v] += both >> 8;
      }
    }
  }
  for (int v = NV - 1; v >= 0; --v) {
    uint16_t even_bytes[W], odd_bytes[W];
    interleave<uint32_t>(whole[0][v] - (odd[0][v] << 8), whole[1][v] - (odd[1][v] << 8), even_bytes);
    interleave<uint32_t>(odd[0][v], odd[1][v], odd_bytes);
    // Two columns of an even byte, then two of an odd one.
    typedef typename Lanes<W / 4>::Words Words;
    for (int half = 0; half < 2; ++half)
      interleave<uint64_t>(read<Words>(even_bytes + half * W / 2), read<Words>(odd_bytes + half * W / 2),
                           reinterpret_cast<uint32_t *>(totals + 2 * rows.at(v) + half * W));
  }
}

template <Sum S, class Vector>
inline Vector further(Vector one, Vector other) {
  if (S == Sum::max) return one > other ? one : other;
  return one < other ? one : other;
}

// Largest or smallest levels. A byte is as large as its upper half, and then as its lower one.
template <Sum S, int Bits, int W, int NV, bool Short>
inline void find_extremes(const Bytes<W, NV, Short> &rows, int64_t from, int64_t to, uint8_t *totals) {
  typedef typename Lanes<W>::Levels Vector;
  typedef typename Bytes<W, NV, Short>::Wide Wide;
  Vector whole[NV], lower[NV];
  for (int v = 0; v < NV; ++v) whole[v] = lower[v] = Vector{} + static_cast<uint8_t>(S == Sum::max ? 0 : 0xff);
  rows.each(from, to, [&](int v, Vector value) {
    whole[v] = further<S>(whole[v], value);
    if (Bits == 4) lower[v] = further<S>(lower[v], value & 0x0f);
  });
  for (int v = NV - 1; v >= 0; --v) {
    if (Bits == 4)
      interleave<uint16_t>(lower[v], bits<Vector>(bits<Wide>(whole[v]) >> 4 & 0x0f0f), totals + 2 * rows.at(v));
    else
      std::memcpy(totals + rows.at(v), &whole[v], W);
  }
}

}  // namespace
