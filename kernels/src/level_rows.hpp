// What products of levels share: rows that turn into levels, and what becomes of sums of their products.
#pragma once

#include "levels.hpp"

namespace {

using gnx::LevelFactor;
using gnx::LevelProduct;
using gnx::LevelTile;
using gnx::PackedLevels;
using gnx::Quantiser;

constexpr int64_t MOST_ROWS = 64;  // of a tile
constexpr int MOST_FACTORS = 2;

inline float size_of(float value) { return value < 0.0f ? -value : value; }

inline float largest_size(const float *row, int64_t width) {
  typedef Lanes<GNX_LANES>::Ints Ints;
  Floats<GNX_LANES> most{};
  int64_t i = 0;
  for (; i + GNX_LANES <= width; i += GNX_LANES) {
    const Floats<GNX_LANES> size = bits<Floats<GNX_LANES>>(read<Ints>(row + i) & 0x7fffffff);
    most = where<GNX_LANES>(size > most, size, most);
  }
  float found = 0.0f;
  for (int lane = 0; lane < GNX_LANES; ++lane) found = most[lane] > found ? most[lane] : found;
  for (; i < width; ++i) {
    const float size = size_of(row[i]);
    found = size > found ? size : found;
  }
  return found;
}

// The entry whose reach is nearest: of the two around the size the lower one where both are as near.
inline int64_t nearest(const Quantiser &quantiser, float size) {
  int64_t low = 0, high = quantiser.num_reaches - 1;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (quantiser.reach[middle] < size)
      low = middle + 1;
    else
      high = middle;
  }
  const int64_t below = low > 0 ? low - 1 : 0;
  const bool lower = size_of(size - quantiser.reach[below]) <= size_of(size - quantiser.reach[low]);
  return quantiser.group[lower ? below : low];
}

inline Step step_of(const Quantiser &quantiser, const float *row, int64_t place, int64_t width) {
  if (!quantiser.num_reaches) return step_of_row(quantiser.given, place);
  return step_at(quantiser.given, nearest(quantiser, largest_size(row, width)));
}

// Rows that are levels already, with another zero.
template <class Number>
inline void copy_rows(const LevelTile &tile, const LevelFactor &factor, int32_t zero, int64_t stride, Number *to,
                      float *steps) {
  const int64_t width = factor.packed.width;
  const gnx_quantiser &quantiser = factor.quantiser->given;
  const int32_t less = zero_of(quantiser) - zero;
  for (int64_t i = 0; i < tile.count; ++i) {
    const uint8_t *const row = factor.levels + i * width;
    Number *const out = to + i * stride;
    if (sizeof(Number) == 1)
      std::memcpy(out, row, width);
    else
      for (int64_t k = 0; k < width; ++k) out[k] = static_cast<Number>(row[k] - less);
    std::memset(out + width, 0, (stride - width) * sizeof(Number));
    steps[i] = step_of_row(quantiser, tile.first + i).step;
  }
}

// Levels [count, stride] of rows, each with its step; `Number` is what they are stored as, `zero` what stands for 0.
template <class Number>
inline void quantise_rows(const LevelTile &tile, const LevelFactor &factor, int32_t zero, int64_t stride, Number *to,
                          float *steps) {
  typedef Number Numbers __attribute__((vector_size(GNX_LANES * sizeof(Number))));
  if (factor.levels) return copy_rows(tile, factor, zero, stride, to, steps);
  const int64_t width = factor.packed.width;
  const bool is_signed = factor.quantiser->given.is_signed;
  for (int64_t i = 0; i < tile.count; ++i) {
    const float *const row = factor.rows + i * width;
    Number *const out = to + i * stride;
    const Step of = step_of(*factor.quantiser, row, tile.first + i, width);
    const float inverse = 1.0f / of.step;
    int64_t k = 0;
    for (; k + GNX_LANES <= width; k += GNX_LANES) {
      const auto whole = level<GNX_LANES>(load<GNX_LANES>(row + k), all<GNX_LANES>(inverse), of.most, is_signed) + zero;
      if constexpr (sizeof(Number) == 1) {
        store_bytes<GNX_LANES>(whole, out + k);
        continue;
      }
      const Numbers narrow = __builtin_convertvector(whole, Numbers);
      std::memcpy(out + k, &narrow, sizeof(narrow));
    }
    for (; k < width; ++k)
      out[k] = static_cast<Number>(level<1>(load<1>(row + k), Floats<1>{inverse}, of.most, is_signed)[0] + zero);
    for (; k < stride; ++k) out[k] = 0;
    steps[i] = of.step;
  }
}

// What the columns of one panel need, zeros filling it.
template <int Panel>
struct PanelTerms {
  float step[Panel];
  int32_t zero[Panel];  // what the zeros of the rows add to each sum

  PanelTerms(const LevelFactor &factor, int64_t column, int32_t zero_of_rows) {
    const PackedLevels &packed = factor.packed;
    for (int i = 0; i < Panel; ++i) {
      const bool there = column + i < packed.out_width;
      step[i] = there ? factor.step[column + i] : 0.0f;
      zero[i] = there ? zero_of_rows * packed.sums[column + i] : 0;
    }
  }
};

// What the products of one row with one panel add up to.
template <int Panel>
struct PanelOfRow {
  const int32_t *sums[MOST_FACTORS];
  const PanelTerms<Panel> *terms;
  float steps[MOST_FACTORS];
  bool two;

  template <int W>
  Floats<W> part(int place, int64_t at) const {
    typedef typename Lanes<W>::Ints Ints;
    const Ints whole = read<Ints>(sums[place] + at) - read<Ints>(terms[place].zero + at);
    return (load<W>(terms[place].step + at) * steps[place]) * __builtin_convertvector(whole, Floats<W>);
  }

  template <int W>
  Floats<W> value(int64_t at) const {
    const Floats<W> first = part<W>(0, at);
    return two ? first + part<W>(1, at) : first;
  }
};

// Finish `columns` of a row from `column` on, and hand them on.
template <int Panel>
inline void finish_row(const LevelTile &tile, const PanelOfRow<Panel> &panel, int64_t row, int64_t column,
                       int64_t columns) {
  const int64_t width = tile.factors[0].packed.out_width;
  const Finish finish(tile.epilogue, row, width, column);
  const Give give(tile.given, row, width, column);
  const bool packs = tile.next, past = tile.past;
  const Narrow next = packs ? *tile.next : Narrow{};
  float *const out = packs || !tile.out ? nullptr : tile.out + row * width + column;
  const int64_t rest = in_vectors(columns, [&](auto vector, int64_t at) {
    constexpr int W = decltype(vector)::value;
    const Floats<W> value = finish.operator()<W>(at, panel.template value<W>(at));
    give.operator()<W>(at, value);
    if (packs) return hand_vector<W>(next, row, column + at, value);
    if (out) hand_over<W>(value, past, out + at);
  });
  if (rest == columns) return;
  float values[LEAST];
  const int64_t count = columns - rest;
  for (int64_t i = 0; i < count; ++i) {
    const Floats<1> value = finish.operator()<1>(rest + i, panel.template value<1>(rest + i));
    give.operator()<1>(rest + i, value);
    values[i] = value[0];
  }
  if (packs) return hand_narrow(next, row, column + rest, count, values);
  if (out) std::memcpy(out + rest, values, count * sizeof(float));
}

// Finish `count` rows of a tile from row `row`: `sums` are [count, Panel] for each factor, in columns from `column` on.
template <int Panel>
inline void finish_levels(const LevelTile &tile, int64_t row, int64_t count, int64_t column,
                          const int32_t *const *sums, const float (*steps)[MOST_ROWS], const PanelTerms<Panel> *terms) {
  const int64_t left = tile.factors[0].packed.out_width - column, columns = left < Panel ? left : Panel;
  const int last = tile.num - 1;
  for (int64_t i = 0; i < count; ++i) {
    const PanelOfRow<Panel> panel{{sums[0] + i * Panel, sums[last] + i * Panel},
                                  terms,
                                  {steps[0][row + i], steps[last][row + i]},
                                  tile.num > 1};
    finish_row<Panel>(tile, panel, tile.first + row + i, column, columns);
  }
}

inline int64_t up_to(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace
