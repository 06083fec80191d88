// Vectors of a fixed number of floats, and how rows of each type are read into them.
//
// Included only by path.cpp, which is compiled once for each instruction set: everything lies in an anonymous namespace
// and uses no inline function of the standard library, so that no code of one instruction set serves another.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#define GNX_LANES 16
#elif defined(__AVX2__)
#define GNX_LANES 8
#else
#define GNX_LANES 4
#endif

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

template <int W>
struct Lanes {
  typedef float Floats __attribute__((vector_size(W * 4)));
  typedef int32_t Ints __attribute__((vector_size(W * 4)));
  typedef uint32_t Words __attribute__((vector_size(W * 4)));
  typedef uint16_t Halves __attribute__((vector_size(W * 2)));
  typedef int16_t Shorts __attribute__((vector_size(W * 2)));
  typedef int8_t Bytes __attribute__((vector_size(W)));
  typedef uint8_t Levels __attribute__((vector_size(W)));
};

template <int W>
using Floats = typename Lanes<W>::Floats;

template <class To, class From>
inline To bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To out;
  std::memcpy(&out, &value, sizeof(out));
  return out;
}

template <class To>
inline To read(const void *from) {
  To out;
  std::memcpy(&out, from, sizeof(out));
  return out;
}

template <int W>
inline Floats<W> load(const float *from) {
  return read<Floats<W>>(from);
}

template <int W>
inline void store(float *to, Floats<W> value) {
  std::memcpy(to, &value, sizeof(value));
}

inline bool aligned(const float *at) { return reinterpret_cast<uintptr_t>(at) % (GNX_LANES * sizeof(float)) == 0; }

// Store widest vectors, to an aligned place, past the caches: for what is not read again soon. `settle` comes after the
// last of them.
inline void store_past(float *to, Floats<GNX_LANES> value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, value);
#elif defined(__AVX2__)
  _mm256_stream_ps(to, value);
#elif defined(__SSE2__)
  _mm_stream_ps(to, value);
#else
  store<GNX_LANES>(to, value);
#endif
}

inline void settle() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <int W>
inline Floats<W> all(float value) {
  return value - Floats<W>{};
}

template <int W>
inline Floats<W> where(typename Lanes<W>::Ints mask, Floats<W> yes, Floats<W> no) {
  return mask ? yes : no;
}

struct RowF32 {
  typedef float Type;
  template <int W>
  static Floats<W> row(const float *from) {
    return load<W>(from);
  }
};

struct RowBf16 {
  typedef uint16_t Type;
  template <int W>
  static Floats<W> row(const uint16_t *from) {
    typedef typename Lanes<W>::Words Words;
    return bits<Floats<W>>(__builtin_convertvector(read<typename Lanes<W>::Halves>(from), Words) << 16);
  }
};

struct RowF16 {
  typedef uint16_t Type;

  // The exponent is moved by a product, which also puts subnormal numbers right; what was infinite or no number stays.
  template <int W>
  static Floats<W> row(const uint16_t *from) {
    typedef typename Lanes<W>::Words Words;
    const Words half = __builtin_convertvector(read<typename Lanes<W>::Halves>(from), Words);
    const Words moved = (half & 0x7fff) << 13;
    const Words finite = bits<Words>(bits<Floats<W>>(moved) * bits<float>(0x77800000u));
    const Words special = (Words)((half & 0x7c00) == 0x7c00) & 0x7f800000;
    return bits<Floats<W>>(finite | special | ((half & 0x8000) << 16));
  }
};

#if defined(__F16C__)
template <>
inline Floats<8> RowF16::row<8>(const uint16_t *from) {
  return bits<Floats<8>>(_mm256_cvtph_ps(read<__m128i>(from)));
}
#endif
#if defined(__AVX512F__)
template <>
inline Floats<16> RowF16::row<16>(const uint16_t *from) {
  return bits<Floats<16>>(_mm512_cvtph_ps(read<__m256i>(from)));
}
#endif

struct RowI8 {
  typedef int8_t Type;
  template <int W>
  static Floats<W> row(const int8_t *from) {
    typedef typename Lanes<W>::Ints Ints;
    return __builtin_convertvector(__builtin_convertvector(read<typename Lanes<W>::Bytes>(from), Ints), Floats<W>);
  }
};

#if defined(__AVX512F__)
template <>
inline Floats<16> RowI8::row<16>(const int8_t *from) {
  return bits<Floats<16>>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(read<__m128i>(from))));
}
#endif

// Levels of 8 bits, of which `Zero` stands for 0.
template <int Zero>
struct RowU8 {
  typedef uint8_t Type;
  template <int W>
  static Floats<W> row(const uint8_t *from) {
#if defined(__AVX512F__)
    if constexpr (W == 16) {
      const __m512i whole = _mm512_cvtepu8_epi32(read<__m128i>(from));
      return bits<Floats<16>>(_mm512_cvtepi32_ps(_mm512_sub_epi32(whole, _mm512_set1_epi32(Zero))));
    }
#endif
#if defined(__AVX2__)
    if constexpr (W == 8) {
      const __m256i whole = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(read<int64_t>(from)));
      return bits<Floats<8>>(_mm256_cvtepi32_ps(_mm256_sub_epi32(whole, _mm256_set1_epi32(Zero))));
    }
#endif
    typedef typename Lanes<W>::Levels Levels;
    typedef typename Lanes<W>::Ints Ints;
    return __builtin_convertvector(__builtin_convertvector(read<Levels>(from), Ints) - Zero, Floats<W>);
  }
};

// The exponential of what is not positive, to within two units in the last place; below -87.3 it is 0, and what is no
// number stays so.
template <int W>
inline Floats<W> exponential(Floats<W> x) {
  typedef typename Lanes<W>::Words Words;
  const Floats<W> inside = where<W>(x < -87.3f, all<W>(-87.3f), x);
  const Floats<W> magic = all<W>(12582912.0f);
  const Floats<W> shifted = inside * 1.44269504088896341f + magic;
  const Floats<W> whole = shifted - magic;
  const Floats<W> rest = (inside - whole * 0.693145751953125f) - whole * 1.42860682030941723212e-6f;
  Floats<W> sum = all<W>(1.0f / 5040);
  sum = sum * rest + 1.0f / 720;
  sum = sum * rest + 1.0f / 120;
  sum = sum * rest + 1.0f / 24;
  sum = sum * rest + 1.0f / 6;
  sum = sum * rest + 0.5f;
  sum = sum * rest + 1.0f;
  sum = sum * rest + 1.0f;
  const Words power = (bits<Words>(shifted) - 0x4b400000 + 127) << 23;
  const Floats<W> value = sum * bits<Floats<W>>(power);
  return where<W>(x < -87.3f, Floats<W>{}, value);
}

}  // namespace
