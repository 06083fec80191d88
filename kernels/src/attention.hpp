// Attention over the slots of each row: scores, their softmax, and the weighted sum, without anything per edge and
// channel in memory.
#pragma once

#include "rows.hpp"

namespace {

inline float leaky(float value, float slope) { return value < 0.0f ? value * slope : value; }

template <int W>
inline float total_of(Floats<W> value) {
  float total = 0.0f;
  for (int i = 0; i < W; ++i) total += value[i];
  return total;
}

// The score of one head from `channels` numbers of each side; `edge` may be null.
struct Dot {
  const float *source, *destination, *edge;
  template <int W>
  Floats<W> at(int64_t i, const gnx_attention &) const {
    const Floats<W> value = load<W>(source + i);
    return (edge ? value + load<W>(edge + i) : value) * load<W>(destination + i);
  }
};

struct Gatv2 {
  const float *source, *destination, *edge, *att;
  template <int W>
  Floats<W> at(int64_t i, const gnx_attention &work) const {
    Floats<W> value = load<W>(source + i) + load<W>(destination + i);
    if (edge) value += load<W>(edge + i);
    return where<W>(value < 0.0f, value * work.slope, value) * load<W>(att + i);
  }
};

template <class Score>
inline float score_of(const gnx_attention &work, const Score &score, int64_t channels) {
  Floats<GNX_LANES> wide{};
  int64_t i = 0;
  for (; i + GNX_LANES <= channels; i += GNX_LANES) wide += score.template at<GNX_LANES>(i, work);
  float total = total_of<GNX_LANES>(wide);
  for (; i < channels; ++i) total += score.template at<1>(i, work)[0];
  return total;
}

inline void gat_scores(const gnx_attention &work, const Structure &structure, int64_t row, int64_t begin, int64_t end,
                       float *scores) {
  const int64_t heads = work.heads;
  const float *destination = work.destination + row * heads;
  for (int64_t slot = begin; slot < end; ++slot) {
    if (slot + AHEAD < structure.num_slots)
      prefetch(work.source, source_of(structure, slot + AHEAD), heads * 4, 0, LINE);
    const float *source = work.source + source_of(structure, slot) * heads;
    float *to = scores + (slot - begin) * heads;
    for (int64_t head = 0; head < heads; ++head) to[head] = source[head] + destination[head];
    if (work.edge) {
      for (int64_t head = 0; head < heads; ++head) to[head] += work.edge[slot * heads + head];
    }
    for (int64_t head = 0; head < heads; ++head) to[head] = leaky(to[head], work.slope);
  }
}

inline void product_scores(const gnx_attention &work, const Structure &structure, int64_t row, int64_t begin,
                           int64_t end, float *scores) {
  const int64_t heads = work.heads, width = work.width, channels = width / heads;
  for (int64_t slot = begin; slot < end; ++slot) {
    if (slot + AHEAD < structure.num_slots)
      prefetch(work.source, source_of(structure, slot + AHEAD), width * 4, 0, width * 4);
    const float *source = work.source + source_of(structure, slot) * width;
    const float *destination = work.destination + row * width;
    const float *edge = work.edge ? work.edge + slot * width : nullptr;
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t at = head * channels;
      const float *of_edge = edge ? edge + at : nullptr;
      float *to = scores + (slot - begin) * heads + head;
      if (work.score == GNX_GATV2)
        *to = score_of(work, Gatv2{source + at, destination + at, of_edge, work.att + at}, channels);
      else
        *to = work.scale * score_of(work, Dot{source + at, destination + at, of_edge}, channels);
    }
  }
}

inline void take_scores(const gnx_attention &work, const Structure &structure, int64_t row, int64_t begin, int64_t end,
                        float *scores) {
  if (begin == end) return;  // where no row has slots, pointers may be null
  if (work.score == GNX_GIVEN)
    std::memcpy(scores, work.edge + begin * work.heads, (end - begin) * work.heads * sizeof(float));
  else if (work.score == GNX_GAT)
    gat_scores(work, structure, row, begin, end, scores);
  else
    product_scores(work, structure, row, begin, end, scores);
}

inline void exponentials(float *values, int64_t count) {
  int64_t i = 0;
  for (; i + GNX_LANES <= count; i += GNX_LANES)
    store<GNX_LANES>(values + i, exponential<GNX_LANES>(load<GNX_LANES>(values + i)));
  for (; i < count; ++i) values[i] = exponential<1>(load<1>(values + i))[0];
}

// Turn scores [count, heads] into exp(score - peak) in place; give each head's peak and total. Scores of which all are
// minus infinity turn into 0, for they may be only a part of a hub; of a whole row, 0 / 0 makes them NaN.
inline void raise(float *scores, int64_t count, int64_t heads, float *peaks, float *totals) {
  for (int64_t head = 0; head < heads; ++head) peaks[head] = -__builtin_inff();
  for (int64_t slot = 0; slot < count; ++slot) {
    const float *from = scores + slot * heads;
    for (int64_t head = 0; head < heads; ++head)
      peaks[head] = from[head] > peaks[head] || from[head] != from[head] ? from[head] : peaks[head];
  }
  for (int64_t slot = 0; slot < count; ++slot) {
    float *from = scores + slot * heads;
    for (int64_t head = 0; head < heads; ++head) from[head] -= peaks[head] == -__builtin_inff() ? 0.0f : peaks[head];
  }
  exponentials(scores, count * heads);
  for (int64_t head = 0; head < heads; ++head) totals[head] = 0.0f;
  for (int64_t slot = 0; slot < count; ++slot) {
    const float *from = scores + slot * heads;
    for (int64_t head = 0; head < heads; ++head) totals[head] += from[head];
  }
}

template <class Row, int W, int NV, Sum S>
void weigh_block(const Structure &structure, const Matrix<typename Row::Type> &x, const Block &block,
                 const Weights &weights, int64_t begin, int64_t end, float *out) {
  Floats<W> total[NV];
  gather<Row, W, NV, S>(structure, x, block, weights, begin, end, total);
  put<W, NV>(total, block, out + block.begin);
}

template <class Row>
void weigh(const Structure &structure, const void *rows, int64_t width, const Block &block, const Weights &weights,
           int64_t begin, int64_t end, float *out) {
  const Matrix<typename Row::Type> x{static_cast<const typename Row::Type *>(rows), width};
#define GNX_CALL(W, NV)                                                                                       \
  return block.per_head ? weigh_block<Row, W, NV, Sum::by_head>(structure, x, block, weights, begin, end, out) \
                        : weigh_block<Row, W, NV, Sum::weighted>(structure, x, block, weights, begin, end, out)
  GNX_FLOAT_BLOCKS(GNX_CALL)
#undef GNX_CALL
}

// Weigh the rows that slots name, whatever they are stored as.
inline void weigh_rows(const gnx_attention &work, const Structure &structure, const Block *blocks, int64_t num_blocks,
                       const Weights &weights, int64_t begin, int64_t end, float *out) {
  const auto weigh_as = work.type == GNX_F32 ? weigh<RowF32> : work.zero ? weigh<RowU8<128>> : weigh<RowU8<0>>;
  for (int64_t i = 0; i < num_blocks; ++i)
    weigh_as(structure, work.x, work.width, blocks[i], weights, begin, end, out);
  if (!work.column_scale) return;
  for (int64_t i = 0; i < work.width; ++i) out[i] *= work.column_scale[i];
}

inline void divide(float *values, const float *totals, int64_t width, int64_t heads) {
  const int64_t channels = width / heads;
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t i = 0; i < channels; ++i) values[head * channels + i] /= totals[head];
  }
}

// `scratch` holds [chunk + 2, heads] scores, peaks and totals, then [width] for what the edges add.
void attend(const gnx_attention &work, const Structure &structure, const Block *blocks, int64_t num_blocks,
            const Span &span, const Parts &parts, float *scratch) {
  const int64_t heads = work.heads, width = work.width;
  Structure by_slot = structure;
  by_slot.col.data = nullptr;
  float *const of_edges = scratch + (structure.chunk + 2) * heads;
  for_rows(structure, span, [&](int64_t row, int64_t begin, int64_t end) {
    float *peaks = scratch, *totals = scratch + heads, *scores = scratch + 2 * heads;
    float *out = work.out + row * width;
    if (span.segment) {
      peaks = parts.peaks + span.segment->part * heads;
      totals = parts.totals + span.segment->part * heads;
      out = static_cast<float *>(parts.sums) + span.segment->part * width;
    }
    take_scores(work, structure, row, begin, end, scores);
    raise(scores, end - begin, heads, peaks, totals);
    const Weights weights{scores, heads, begin, nullptr};
    weigh_rows(work, structure, blocks, num_blocks, weights, begin, end, out);
    if (work.edge_value) {
      for (int64_t i = 0; i < num_blocks; ++i)
        weigh<RowF32>(by_slot, work.edge_value, width, blocks[i], weights, begin, end, of_edges);
      for (int64_t i = 0; i < width; ++i) out[i] += of_edges[i];
    }
    if (span.segment) return;
    if (end > begin) divide(out, totals, width, heads);
    finish(work.epilogue, row, width, 0, width, out);
  });
}

// Put the softmax of a hub's parts together: by how much each part's exponentials count, and their total.
inline float join_peaks(const Parts &parts, const Segment *segments, int64_t count, int64_t heads, int64_t head,
                        float *total) {
  const float *peaks = parts.peaks + segments[0].part * heads + head;
  const float *totals = parts.totals + segments[0].part * heads + head;
  float peak = peaks[0];
  for (int64_t i = 1; i < count; ++i)
    peak = peaks[i * heads] > peak || peaks[i * heads] != peaks[i * heads] ? peaks[i * heads] : peak;
  *total = 0.0f;
  for (int64_t i = 0; i < count; ++i)
    *total += totals[i * heads] * exponential<1>(Floats<1>{peaks[i * heads] - peak})[0];
  return peak;
}

void join_attention(const gnx_attention &work, const Structure &, const Segment *segments, int64_t count,
                    const Parts &parts) {
  const int64_t row = segments[0].row, width = work.width, heads = work.heads, channels = width / heads;
  const float *sums = static_cast<const float *>(parts.sums) + segments[0].part * width;
  float *out = work.out + row * width;
  for (int64_t head = 0; head < heads; ++head) {
    float total;
    const float peak = join_peaks(parts, segments, count, heads, head, &total);
    float *to = out + head * channels;
    for (int64_t i = 0; i < channels; ++i) to[i] = 0.0f;
    for (int64_t part = 0; part < count; ++part) {
      const float of_part = parts.peaks[(segments[0].part + part) * heads + head];
      const float share = exponential<1>(Floats<1>{of_part - peak})[0] / total;
      const float *from = sums + part * width + head * channels;
      for (int64_t i = 0; i < channels; ++i) to[i] += from[i] * share;
    }
  }
  finish(work.epilogue, row, width, 0, width, out);
}

inline void normalise(float *values, int64_t count, int64_t heads, const float *totals) {
  for (int64_t slot = 0; slot < count; ++slot) {
    for (int64_t head = 0; head < heads; ++head) values[slot * heads + head] /= totals[head];
  }
}

// Softmax of whole rows; of a segment only its exponentials, and peak and total for join_softmax.
void soften(const Structure &structure, const float *scores, int64_t heads, float *out, const Span &span,
            const Parts &parts, float *scratch) {
  for_rows(structure, span, [&](int64_t, int64_t begin, int64_t end) {
    float *peaks = scratch, *totals = scratch + heads;
    if (span.segment) {
      peaks = parts.peaks + span.segment->part * heads;
      totals = parts.totals + span.segment->part * heads;
    }
    std::memcpy(out + begin * heads, scores + begin * heads, (end - begin) * heads * sizeof(float));
    raise(out + begin * heads, end - begin, heads, peaks, totals);
    if (!span.segment) normalise(out + begin * heads, end - begin, heads, totals);
  });
}

void join_softmax(const Segment *segments, int64_t count, int64_t heads, float *out, const Parts &parts) {
  for (int64_t head = 0; head < heads; ++head) {
    float total;
    const float peak = join_peaks(parts, segments, count, heads, head, &total);
    for (int64_t i = 0; i < count; ++i) {
      const float of_part = parts.peaks[segments[i].part * heads + head];
      const float share = exponential<1>(Floats<1>{of_part - peak})[0] / total;
      for (int64_t slot = segments[i].begin; slot < segments[i].end; ++slot) out[slot * heads + head] *= share;
    }
  }
}

}  // namespace
