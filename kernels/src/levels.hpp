// Numbers turned into levels, and levels laid out in bytes.
#pragma once

#include "rows.hpp"

namespace {

using gnx::Narrow;

constexpr int32_t SIGNED_ZERO = 128;  // of bytes without a sign

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

// Whole numbers of fewer bits.
template <int W, class Number>
inline typename Lanes<W>::Ints widened(const Number *from) {
#if defined(__AVX512F__)
  typedef typename Lanes<W>::Ints Ints;
  if constexpr (W == 16 && sizeof(Number) == 1) return bits<Ints>(_mm512_cvtepu8_epi32(read<__m128i>(from)));
  if constexpr (W == 16 && sizeof(Number) == 2) return bits<Ints>(_mm512_cvtepu16_epi32(read<__m256i>(from)));
#endif
  typedef Number Numbers __attribute__((vector_size(W * sizeof(Number))));
  return __builtin_convertvector(read<Numbers>(from), typename Lanes<W>::Ints);
}

// As bytes, each below 256.
template <int W>
inline void store_bytes(typename Lanes<W>::Ints whole, uint8_t *to) {
#if defined(__AVX512F__)
  if constexpr (W == 16) {
    const __m128i narrow = _mm512_cvtepi32_epi8(bits<__m512i>(whole));
    std::memcpy(to, &narrow, W);
    return;
  }
#endif
  const auto narrow = __builtin_convertvector(whole, typename Lanes<W>::Levels);
  std::memcpy(to, &narrow, W);
}

// Two to a byte, each below 16.
template <int W>
inline void store_halves(typename Lanes<W>::Ints whole, uint8_t *to) {
#if defined(__AVX512F__)
  if constexpr (W == 16) {
    const __m512i pairs = bits<__m512i>(whole);
    const __m128i narrow = _mm512_cvtepi64_epi8(_mm512_or_si512(pairs, _mm512_srli_epi64(pairs, 28)));
    std::memcpy(to, &narrow, W / 2);
    return;
  }
#endif
  uint8_t bytes[W];
  store_bytes<W>(whole, bytes);
  for (int i = 0; i < W / 2; ++i) to[i] = static_cast<uint8_t>(bytes[2 * i] | bytes[2 * i + 1] << 4);
}

// Hand a vector of row `row` on, that begins at an even column.
template <int W>
inline void hand_vector(const Narrow &to, int64_t row, int64_t column, Floats<W> value) {
  uint8_t *const out = to.out + row * to.row_bytes;
  const auto whole = level<W>(value, load<W>(to.inverse + column), to.most, to.zero != 0) + to.zero;
  if (to.bits == 4)
    store_halves<W>(whole, out + column / 2);
  else
    store_bytes<W>(whole, out + column);
}

// Hand `count` columns of row `row` on that begin at an even column.
inline void hand_narrow(const Narrow &to, int64_t row, int64_t column, int64_t count, const float *values) {
  const int64_t rest = in_vectors(count, [&](auto vector, int64_t at) {
    constexpr int W = decltype(vector)::value;
    hand_vector<W>(to, row, column + at, load<W>(values + at));
  });
  if (rest == count) return;
  // What is left is less than a vector of whole bytes: those of other columns have to stay as they are.
  uint8_t bytes[LEAST] = {};
  for (int64_t i = rest; i < count; ++i) {
    const auto whole = level<1>(load<1>(values + i), load<1>(to.inverse + column + i), to.most, to.zero != 0) + to.zero;
    store_bytes<1>(whole, bytes + i - rest);
  }
  uint8_t *const out = to.out + row * to.row_bytes;
  if (to.bits == 8) {
    std::memcpy(out + column + rest, bytes, count - rest);
    return;
  }
  for (int64_t i = 0; i < count - rest; i += 2)
    out[(column + rest + i) / 2] = static_cast<uint8_t>(bytes[i] | bytes[i + 1] << 4);
}

// The step of a row, and its largest level.
struct Step {
  float step, most;
};

inline Step step_at(const gnx_quantiser &quantiser, int64_t entry) {
  const int32_t bits = quantiser.is_signed ? quantiser.bits[entry] - 1 : quantiser.bits[entry];
  return {quantiser.step[entry], static_cast<float>((1 << bits) - 1)};
}

inline Step step_of_row(const gnx_quantiser &quantiser, int64_t place) {
  return step_at(quantiser, place < quantiser.count ? place : place % quantiser.count);
}

inline int32_t zero_of(const gnx_quantiser &quantiser) { return quantiser.is_signed ? SIGNED_ZERO : 0; }

// Gives rows as levels.
struct Give {
  uint8_t *out;  // of a row; null where it is not given
  float inverse, most;
  bool is_signed;

  Give(const gnx_given *given, int64_t row, int64_t width, int64_t column) : out(nullptr) {
    if (!given) return;
    const Step step = step_of_row(given->quantiser, row);
    out = given->out + row * width + column;
    inverse = 1.0f / step.step;
    most = step.most;
    is_signed = given->quantiser.is_signed;
  }

  template <int W>
  void operator()(int64_t at, Floats<W> value) const {
    if (!out) return;
    store_bytes<W>(level<W>(value, all<W>(inverse), most, is_signed) + (is_signed ? SIGNED_ZERO : 0), out + at);
  }
};

inline void narrow_rows(const float *x, int64_t width, const Narrow &to, const gnx_given *given, int64_t first,
                        int64_t last) {
  constexpr int64_t AT_ONCE = 256;
  for (int64_t row = first; row < last; ++row) {
    const Give give(given, row, width, 0);
    for (int64_t column = 0; column < width; column += AT_ONCE) {
      const int64_t count = width - column < AT_ONCE ? width - column : AT_ONCE;
      const float *const values = x + row * width + column;
      hand_narrow(to, row, column, count, values);
      if (!given) continue;
      int64_t rest = in_vectors(count, [&](auto vector, int64_t at) {
        constexpr int W = decltype(vector)::value;
        give.operator()<W>(column + at, load<W>(values + at));
      });
      for (; rest < count; ++rest) give.operator()<1>(column + rest, load<1>(values + rest));
    }
  }
}

}  // namespace
