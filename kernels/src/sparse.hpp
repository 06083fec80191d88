// Products with matrices most of whose weights are zero: those are neither stored nor multiplied.
//
// Some rows are turned in the cache, so that a vector holds one column of them: then each weight multiplies a few
// vectors, wherever it stands. A matrix is a stream, read from its beginning to its end: chunk by chunk of inputs, and in
// a chunk by the number of weights that an output has, so that a loop is as long as the one before and is foreseen.
#pragma once

#include "product.hpp"

namespace {

constexpr int STRIP_VECTORS = GNX_LANES == 16 ? 4 : 8;
constexpr int64_t STRIP = STRIP_VECTORS * GNX_LANES;       // rows that are turned together
constexpr int64_t FEWEST_INPUTS = 128, MOST_INPUTS = 512;  // of a chunk: turned, the fewest fit into the first cache
constexpr int64_t ENOUGH_WEIGHTS = 24;                     // of an output in a chunk, to outweigh reading its sum

inline int64_t count_weights(const float *values, int64_t count) {
  int64_t weights = 0;
  for (int64_t k = 0; k < count; ++k) weights += values[k] != 0.0f;
  return weights;
}

// Inputs of a chunk: all chunks have about as many, and those of emptier matrices have more.
inline int64_t chunk_of(const float *values, int64_t out_width, int64_t width) {
  int64_t weights = 1;
  for (int64_t output = 0; output < out_width; ++output) weights += count_weights(values + output * width, width);
  const double wanted = static_cast<double>(ENOUGH_WEIGHTS) * width * out_width / weights;
  const int64_t most = wanted < FEWEST_INPUTS ? FEWEST_INPUTS : wanted < MOST_INPUTS ? int64_t(wanted) : MOST_INPUTS;
  const int64_t chunks = (width + most - 1) / most;
  return ((width + chunks - 1) / chunks + 3) / 4 * 4;
}

inline void put_number(float *to, int64_t value) { *to = bits<float>(static_cast<int32_t>(value)); }

// The weights of one output in a chunk: which output, and of each where its input lies in a turned strip.
inline void put_output(const float *values, int64_t count, int64_t output, float *to) {
  put_number(to++, output);
  for (int64_t k = 0; k < count; ++k) {
    if (values[k] == 0.0f) continue;
    put_number(to++, k * STRIP);
    *to++ = values[k];
  }
}

// Lay `count` inputs of all outputs out, unless `to` is null: the number of groups, and of each how many weights an
// output has, how many outputs there are, and these. Tell the size in floats.
int64_t pack_chunk(const float *values, int64_t out_width, int64_t width, int64_t count, float *to) {
  int64_t outputs[MOST_INPUTS + 1] = {}, place[MOST_INPUTS + 1] = {}, size = 1, groups = 0;
  for (int64_t output = 0; output < out_width; ++output) ++outputs[count_weights(values + output * width, count)];
  for (int64_t weights = count; weights >= 0; --weights) {
    if (outputs[weights] == 0) continue;
    if (to) {
      put_number(to + size, weights);
      put_number(to + size + 1, outputs[weights]);
    }
    place[weights] = size + 2;
    size = place[weights] + outputs[weights] * (1 + 2 * weights);
    ++groups;
  }
  if (!to) return size;
  put_number(to, groups);
  for (int64_t output = 0; output < out_width; ++output) {
    const float *const from = values + output * width;
    const int64_t weights = count_weights(from, count);
    put_output(from, count, output, to + place[weights]);
    place[weights] += 1 + 2 * weights;
  }
  return size;
}

// Lay all chunks out, behind the number of inputs that each has.
int64_t pack_chunks(const float *values, int64_t out_width, int64_t width, float *to) {
  if (out_width == 0 || width == 0) return 0;
  const int64_t chunk = chunk_of(values, out_width, width);
  if (to) put_number(to, chunk);
  int64_t size = 1;
  for (int64_t begin = 0; begin < width; begin += chunk) {
    const int64_t count = width - begin < chunk ? width - begin : chunk;
    size += pack_chunk(values + begin, out_width, width, count, to ? to + size : nullptr);
  }
  return size;
}

size_t sparse_size(const float *values, int64_t out_width, int64_t width) {
  return pack_chunks(values, out_width, width, nullptr);
}

void pack_sparse(const float *values, int64_t out_width, int64_t width, float *to) {
  pack_chunks(values, out_width, width, to);
}

// Turned inputs of a chunk, and the sums of a strip.
size_t strip_size(int64_t, const Packed &packed) { return (MOST_INPUTS + in_panels(packed.out_width)) * STRIP; }

// Turn four columns of as many rows as a vector has numbers: vector c of `to` holds from[i * stride + c].
inline void turn(const float *from, int64_t stride, float *to, int64_t to_stride) {
#if GNX_LANES == 16
  __m512 rows[4];  // of which a quarter q holds row 4 * q + i
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_castps128_ps512(_mm_loadu_ps(from + i * stride));
    rows[i] = _mm512_insertf32x4(rows[i], _mm_loadu_ps(from + (4 + i) * stride), 1);
    rows[i] = _mm512_insertf32x4(rows[i], _mm_loadu_ps(from + (8 + i) * stride), 2);
    rows[i] = _mm512_insertf32x4(rows[i], _mm_loadu_ps(from + (12 + i) * stride), 3);
  }
  const __m512 left_low = _mm512_unpacklo_ps(rows[0], rows[1]), right_low = _mm512_unpacklo_ps(rows[2], rows[3]);
  const __m512 left_high = _mm512_unpackhi_ps(rows[0], rows[1]), right_high = _mm512_unpackhi_ps(rows[2], rows[3]);
  _mm512_storeu_ps(to, _mm512_shuffle_ps(left_low, right_low, 0x44));
  _mm512_storeu_ps(to + to_stride, _mm512_shuffle_ps(left_low, right_low, 0xee));
  _mm512_storeu_ps(to + 2 * to_stride, _mm512_shuffle_ps(left_high, right_high, 0x44));
  _mm512_storeu_ps(to + 3 * to_stride, _mm512_shuffle_ps(left_high, right_high, 0xee));
#elif GNX_LANES == 8
  __m256 rows[4];
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_castps128_ps256(_mm_loadu_ps(from + i * stride));
    rows[i] = _mm256_insertf128_ps(rows[i], _mm_loadu_ps(from + (4 + i) * stride), 1);
  }
  const __m256 left_low = _mm256_unpacklo_ps(rows[0], rows[1]), right_low = _mm256_unpacklo_ps(rows[2], rows[3]);
  const __m256 left_high = _mm256_unpackhi_ps(rows[0], rows[1]), right_high = _mm256_unpackhi_ps(rows[2], rows[3]);
  _mm256_storeu_ps(to, _mm256_shuffle_ps(left_low, right_low, 0x44));
  _mm256_storeu_ps(to + to_stride, _mm256_shuffle_ps(left_low, right_low, 0xee));
  _mm256_storeu_ps(to + 2 * to_stride, _mm256_shuffle_ps(left_high, right_high, 0x44));
  _mm256_storeu_ps(to + 3 * to_stride, _mm256_shuffle_ps(left_high, right_high, 0xee));
#else
  for (int i = 0; i < GNX_LANES; ++i) {
    for (int c = 0; c < 4; ++c) to[c * to_stride + i] = from[i * stride + c];
  }
#endif
}

// Turn `inputs` columns of `count` rows: to[k * STRIP + i] = rows[i * width + k]. Rows that are not there are zero.
template <int Vectors>
inline void turn_rows(const float *rows, int64_t width, int64_t count, int64_t inputs, float *to) {
  for (int64_t first = 0; first < Vectors * GNX_LANES; first += GNX_LANES) {
    int64_t k = 0;
    if (first + GNX_LANES <= count) {
      for (; k + 4 <= inputs; k += 4) turn(rows + first * width + k, width, to + k * STRIP + first, STRIP);
    }
    for (; k < inputs; ++k) {
      for (int64_t i = first; i < first + GNX_LANES; ++i) to[k * STRIP + i] = i < count ? rows[i * width + k] : 0.0f;
    }
  }
}

inline int64_t take_number(const float *&from) { return read<int32_t>(from++); }

// Add the products of one chunk to the sums, or begin these; tell where the next chunk lies.
template <int Vectors>
inline const float *add_chunk(const float *from, const float *turned, bool begins, float *sums) {
  for (int64_t groups = take_number(from); groups > 0; --groups) {
    const int64_t weights = take_number(from), outputs = take_number(from);
    for (int64_t i = 0; i < outputs; ++i) {
      float *const sum = sums + take_number(from) * STRIP;
      Floats<GNX_LANES> total[Vectors] = {};
      if (!begins) {
        for (int v = 0; v < Vectors; ++v) total[v] = load<GNX_LANES>(sum + v * GNX_LANES);
      }
      for (const float *const end = from + 2 * weights; from < end; from += 2) {
        const float *const column = turned + read<int32_t>(from);
        const Floats<GNX_LANES> weight = all<GNX_LANES>(from[1]);
#pragma GCC unroll 16
        for (int v = 0; v < Vectors; ++v) total[v] += load<GNX_LANES>(column + v * GNX_LANES) * weight;
      }
      for (int v = 0; v < Vectors; ++v) store<GNX_LANES>(sum + v * GNX_LANES, total[v]);
    }
  }
  return from;
}

// Turn the sums back, some columns at a time, and finish them.
template <int Vectors>
inline void finish_strip(const Tile &tile, int64_t row, int64_t count, const float *sums) {
  alignas(64) float values[Vectors * GNX_LANES * PANEL];
  for (int64_t column = 0; column < tile.factors[0].packed.out_width; column += PANEL) {
    for (int64_t i = 0; i < Vectors * GNX_LANES; i += 4) {
      const float *const from = sums + column * STRIP + i;
      turn(from, STRIP, values + i * PANEL, PANEL);
      turn(from + GNX_LANES * STRIP, STRIP, values + i * PANEL + GNX_LANES, PANEL);
    }
    finish_rows(tile, row, count, column, PANEL, values);
  }
}

template <int Vectors>
inline void multiply_strip(const Tile &tile, int64_t row, int64_t count) {
  float *const turned = tile.scratch, *const sums = turned + MOST_INPUTS * STRIP;
  bool begins = true;
  for (int place = 0; place < tile.num; ++place) {
    const Packed &packed = tile.factors[place].packed;
    if (packed.width == 0) continue;
    const float *const rows = tile.factors[place].rows + row * packed.width, *from = packed.values;
    const int64_t chunk = take_number(from);
    for (int64_t begin = 0; begin < packed.width; begin += chunk) {
      const int64_t inputs = packed.width - begin < chunk ? packed.width - begin : chunk;
      turn_rows<Vectors>(rows + begin, packed.width, count, inputs, turned);
      from = add_chunk<Vectors>(from, turned, begins, sums);
      begins = false;
    }
  }
  if (begins) std::memset(sums, 0, in_panels(tile.factors[0].packed.out_width) * STRIP * sizeof(float));
  finish_strip<Vectors>(tile, row, count, sums);
}

void multiply_sparse(const Tile &tile) {
  for (int64_t row = 0; row < tile.count; row += STRIP) {
    const int64_t count = tile.count - row < STRIP ? tile.count - row : STRIP;
    if (count <= GNX_LANES) {
      multiply_strip<1>(tile, row, count);
    } else if (count <= 2 * GNX_LANES) {
      multiply_strip<2>(tile, row, count);
    } else {
      multiply_strip<STRIP_VECTORS>(tile, row, count);
    }
  }
  settle();
}

}  // namespace
