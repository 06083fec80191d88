// Numbers turned into levels, and levels laid out in bytes.
#pragma once

#include "rows.hpp"

namespace {

using gnx::Narrow;

// A level without its zero: a signed one is rounded by its size, so that it is symmetric.
template <int W>
inline typename Lanes<W>::Ints level(Floats<W> x, Floats<W> inverse, float most, bool is_signed) {
  typedef typename Lanes<W>::Ints Ints;
  const Floats<W> z = x * inverse, zero = {}, top = all<W>(most);
  Floats<W> size = is_signed ? bits<Floats<W>>(bits<Ints>(z) & 0x7fffffff) : where<W>(z > zero, z, zero);
  size = where<W>(size < top, size, top);
  const Ints whole = __builtin_convertvector(size + 0.5f, Ints);
  return is_signed ? (z < zero ? -whole : whole) : whole;
}

template <int W>
inline int64_t to_bytes(const Narrow &to, int64_t column, int64_t begin, int64_t count, const float *values,
                        uint8_t *bytes) {
  for (; begin + W <= count; begin += W) {
    const Floats<W> inverse = load<W>(to.inverse + column + begin);
    const auto whole = level<W>(load<W>(values + begin), inverse, to.most, to.zero != 0) + to.zero;
#if defined(__AVX512F__)
    if constexpr (W == 16) {
      const __m128i narrow = _mm512_cvtepi32_epi8(bits<__m512i>(whole));
      std::memcpy(bytes + begin, &narrow, W);
      continue;
    }
#endif
    const auto narrow = __builtin_convertvector(whole, typename Lanes<W>::Levels);
    std::memcpy(bytes + begin, &narrow, W);
  }
  return begin;
}

inline void pack_halves(const uint8_t *bytes, int64_t count, uint8_t *to) {
  for (int64_t i = 0; i < count / 2; ++i) to[i] = static_cast<uint8_t>(bytes[2 * i] | bytes[2 * i + 1] << 4);
  if (count % 2) to[count / 2] = bytes[count - 1];
}

// Hand `count` columns of row `row` on, `Most` at most, that begin at an even column.
template <int Most>
inline void hand_narrow(const Narrow &to, int64_t row, int64_t column, int64_t count, const float *values) {
  uint8_t *const out = to.out + row * to.row_bytes + (to.bits == 4 ? column / 2 : column);
  uint8_t halves[Most], *const bytes = to.bits == 4 ? halves : out;
  const int64_t rest = to_bytes<GNX_LANES>(to, column, 0, count, values, bytes);
  to_bytes<1>(to, column, rest, count, values, bytes);
  if (to.bits == 4) pack_halves(bytes, count, out);
}

inline void narrow_rows(const float *x, int64_t width, const Narrow &to, int64_t first, int64_t last) {
  constexpr int64_t AT_ONCE = 256;
  for (int64_t row = first; row < last; ++row) {
    for (int64_t column = 0; column < width; column += AT_ONCE) {
      const int64_t count = width - column < AT_ONCE ? width - column : AT_ONCE;
      hand_narrow<AT_ONCE>(to, row, column, count, x + row * width + column);
    }
  }
}

}  // namespace
