// Floats rounded to 16 bits: to the nearest number, and of two as near to the one whose last bit is 0.
#pragma once

#include "rows.hpp"

namespace {

constexpr int32_t INFINITE = 0x7f800000;  // what is larger, but for the sign, is no number

// One of two words in each lane.
template <int W>
inline typename Lanes<W>::Words either(typename Lanes<W>::Ints mask, typename Lanes<W>::Words yes,
                                       typename Lanes<W>::Words no) {
  const auto chosen = (typename Lanes<W>::Words)mask;
  return (yes & chosen) | (no & ~chosen);
}

// Words below 2^16, in 16 bits each.
template <int W>
inline void store_words(typename Lanes<W>::Words words, uint16_t *to) {
#if defined(__AVX512F__)
  if constexpr (W == 16) {
    const __m256i narrow = _mm512_cvtepi32_epi16(bits<__m512i>(words));
    std::memcpy(to, &narrow, sizeof(narrow));
    return;
  }
#endif
#if defined(__AVX2__)
  if constexpr (W == 8) {
    const __m256i wide = bits<__m256i>(words);
    const __m256i twice = _mm256_permute4x64_epi64(_mm256_packus_epi32(wide, wide), 0x08);
    const __m128i narrow = _mm256_castsi256_si128(twice);
    std::memcpy(to, &narrow, sizeof(narrow));
    return;
  }
#endif
  const auto narrow = __builtin_convertvector(words, typename Lanes<W>::Halves);
  std::memcpy(to, &narrow, sizeof(narrow));
}

// In both types NaN keeps its sign and the bits there is room for, of which one says that it is no infinity.
struct ToBf16 {
  template <int W>
  static void put(Floats<W> value, uint16_t *to) {
    typedef typename Lanes<W>::Ints Ints;
    typedef typename Lanes<W>::Words Words;
    const Words word = bits<Words>(value);
    const Words rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    const Words none = (word >> 16) | 0x40;
    store_words<W>(either<W>((Ints)(word & 0x7fffffff) > INFINITE, none, rounded), to);
  }
};

struct ToF16 {
  template <int W>
  static void put(Floats<W> value, uint16_t *to) {
#if defined(__AVX512F__)
    if constexpr (W == 16) {
      const __m256i narrow = _mm512_cvtps_ph(bits<__m512>(value), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      std::memcpy(to, &narrow, sizeof(narrow));
      return;
    }
#endif
#if defined(__F16C__)
    if constexpr (W == 8) {
      const __m128i narrow = _mm256_cvtps_ph(bits<__m256>(value), _MM_FROUND_TO_NEAREST_INT);
      std::memcpy(to, &narrow, sizeof(narrow));
      return;
    }
#endif
    store_words<W>(words<W>(bits<typename Lanes<W>::Words>(value)), to);
  }

 private:
  template <int W>
  static typename Lanes<W>::Words words(typename Lanes<W>::Words word) {
    typedef typename Lanes<W>::Words Words;
    typedef typename Lanes<W>::Ints Ints;
    constexpr int32_t LEAST_NORMAL = 0x38800000;  // 2^-14
    constexpr int32_t TOO_LARGE = 0x477ff000;     // 65,520: as near to 65,504 as to what there is no room for
    constexpr uint32_t LOWER = 112u << 23;        // exponents are lower by so many
    constexpr uint32_t HALF = 0x3f000000;
    const Words size = word & 0x7fffffff;
    const Ints order = (Ints)size;
    const Words normal = (size + 0xfff + ((size >> 13) & 1) - LOWER) >> 13;
    // The last place is worth 2^-24, as that of a float from a half to one is: the sum is rounded to it.
    const Words small = bits<Words>(bits<Floats<W>>(size) + 0.5f) - HALF;
    const Words finite = either<W>(order < LEAST_NORMAL, small, normal);
    const Words none = ((size >> 13) & 0x3ff) | 0x200;
    const Words special = either<W>(order > INFINITE, none, Words{}) | 0x7c00;
    return either<W>(order >= TOO_LARGE, special, finite) | ((word >> 16) & 0x8000);
  }
};

template <class To>
inline void round_to(const float *x, int64_t count, uint16_t *out) {
  int64_t rest = in_vectors(count, [&](auto vector, int64_t at) {
    constexpr int W = decltype(vector)::value;
    To::template put<W>(load<W>(x + at), out + at);
  });
  for (; rest < count; ++rest) To::template put<1>(load<1>(x + rest), out + rest);
}

inline void round_numbers(const float *x, int64_t count, int32_t type, uint16_t *out) {
  if (type == GNX_BF16)
    round_to<ToBf16>(x, count, out);
  else
    round_to<ToF16>(x, count, out);
}

}  // namespace
