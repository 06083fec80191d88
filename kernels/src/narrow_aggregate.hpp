// Aggregation of rows of levels over CSR: integers are scaled once at the end, weighted rows are added as floats.
#pragma once

#include "levels.hpp"
#include "narrow_sums.hpp"

namespace {

constexpr int64_t JOINED = 64;  // columns of a hub that are put together at once

template <int Bits>
constexpr int64_t columns_in(int64_t bytes) {
  return bytes * 8 / Bits;
}

// Add what follows the reduction to some columns of a row, `Most` at most, and hand them on.
template <int Most>
inline void deliver(const gnx_aggregate &work, const Structure &structure, int64_t row, int64_t begin, int64_t count,
                    float *values) {
  finish(work.epilogue, row, work.width, begin, count, values);
  if (structure.next) return hand_narrow(*structure.next, row, begin, count, values);
  hand_over<Most>(values, count, structure.past, work.out + (row - structure.out_row) * work.width + begin);
}

inline float share_of(const gnx_aggregate &work, int64_t slots) {
  return work.reduce == GNX_MEAN && slots > 1 ? 1.0f / static_cast<float>(slots) : 1.0f;
}

// Totals without their zeros. Up to 32 bits they are exact where a float is.
template <int W, class Total>
inline Floats<W> without_zero(const Total *totals, int64_t zero) {
  if constexpr (sizeof(Total) == 8) {
    static_assert(W == 1, "only a few are as wide");
    return all<1>(static_cast<float>(*totals - zero));
  } else {
    return __builtin_convertvector(widened<W>(totals) - static_cast<int32_t>(zero), Floats<W>);
  }
}

// Scales the totals of columns.
struct Scale {
  const float *step;  // of the first column, or null
  int64_t zero;       // in each total
  float share;

  template <int W, class Total>
  Floats<W> operator()(const Total *totals, int64_t at) const {
    const Floats<W> value = without_zero<W>(totals + at, zero) * share;
    return step ? value * load<W>(step + at) : value;
  }
};

// Finish the totals of `count` columns of a row from `begin` on, and hand them on; `slots` levels are in each, of which
// each has a zero.
template <class Total>
inline void finish_totals(const gnx_aggregate &work, const Structure &structure, int64_t row, int64_t slots,
                          int64_t begin, int64_t count, const Total *totals) {
  const bool extreme = work.reduce == GNX_MAX || work.reduce == GNX_MIN;
  const Scale scale{work.column_scale ? work.column_scale + begin : nullptr,
                    work.zero * (extreme ? slots > 0 : slots), share_of(work, slots)};
  const Finish finish(work.epilogue, row, work.width, begin);
  const bool packs = structure.next, past = structure.past;
  const Narrow next = packs ? *structure.next : Narrow{};
  float *const out = packs ? nullptr : work.out + (row - structure.out_row) * work.width + begin;
  int64_t rest = 0;
  if constexpr (sizeof(Total) < 8) {
    rest = in_vectors(count, [&](auto vector, int64_t at) {
      constexpr int W = decltype(vector)::value;
      const Floats<W> value = finish.operator()<W>(at, scale.operator()<W>(totals, at));
      if (packs)
        hand_vector<W>(next, row, begin + at, value);
      else
        hand_over<W>(value, past, out + at);
    });
  }
  for (; rest < count; rest += LEAST) {
    float values[LEAST];
    const int64_t some = count - rest < LEAST ? count - rest : LEAST;
    for (int64_t i = 0; i < some; ++i) values[i] = scale.operator()<1>(totals, rest + i)[0];
    deliver<LEAST>(work, structure, row, begin + rest, some, values);
  }
}

inline void scale_sums(const gnx_aggregate &work, int64_t slots, int64_t begin, int64_t count, float *values) {
  const float share = share_of(work, slots);
  for (int64_t i = 0; i < count; ++i) values[i] *= share;
  if (!work.column_scale) return;
  for (int64_t i = 0; i < count; ++i) values[i] *= work.column_scale[begin + i];
}

// Reduces the slots of rows in one block of bytes.
template <int Bits, int W, int NV, bool Short>
class NarrowBlock {
 public:
  NarrowBlock(const gnx_aggregate &work, const Structure &structure, const Block &block, Sum sum, int64_t row_bytes)
      : work_(work),
        structure_(structure),
        bytes_{structure, static_cast<const uint8_t *>(work.x), row_bytes, block.begin, block.end - block.begin},
        sum_(sum),
        begin_(columns_in<Bits>(block.begin)) {
    const int64_t columns = columns_in<Bits>(block.end - block.begin), left = work.width - begin_;
    columns_ = columns < left ? columns : left;
  }

  void row(int64_t row, int64_t begin, int64_t end) const {
    reduce(begin, end, [&](const auto *totals) {
      finish_totals(work_, structure_, row, end - begin, begin_, columns_, totals);
    });
  }

  void segment(const Segment &segment, const Parts &parts) const {
    int32_t *const to = static_cast<int32_t *>(parts.sums) + segment.part * work_.width + begin_;
    reduce(segment.begin, segment.end, [&](const auto *totals) {
      for (int64_t i = 0; i < columns_; ++i) to[i] = totals[i];
    });
  }

 private:
  static constexpr int COLUMNS = columns_in<Bits>(NV * W);
  static constexpr int64_t MANY = Bits == 4 ? MANY_4 : MANY_8;

  template <class Use>
  void reduce(int64_t begin, int64_t end, Use use) const {
    const int64_t slots = end - begin;
    if (sum_ != Sum::integers) {
      uint8_t extremes[COLUMNS] = {};
      if (slots > 0 && sum_ == Sum::max) find_extremes<Sum::max, Bits>(bytes_, begin, end, extremes);
      if (slots > 0 && sum_ == Sum::min) find_extremes<Sum::min, Bits>(bytes_, begin, end, extremes);
      return use(extremes);
    }
    if constexpr (Bits == 4) {
      if (slots <= FEW) {
        uint8_t few[COLUMNS];
        add_few(bytes_, begin, end, few);
        return use(few);
      }
    }
    uint16_t many[COLUMNS];
    if (slots <= MANY) {
      add(begin, end, many);
      return use(many);
    }
    int32_t totals[COLUMNS] = {};
    for (int64_t slot = begin; slot < end; slot += MANY) {
      add(slot, end - slot > MANY ? slot + MANY : end, many);
      for (int64_t i = 0; i < columns_; ++i) totals[i] += many[i];
    }
    use(totals);
  }

  void add(int64_t begin, int64_t end, uint16_t *totals) const {
    if constexpr (Bits == 4)
      add_many(bytes_, begin, end, totals);
    else
      add_bytes(bytes_, begin, end, totals);
  }

  const gnx_aggregate &work_;
  const Structure &structure_;
  const Bytes<W, NV, Short> bytes_;
  const Sum sum_;
  int64_t begin_, columns_;
};

// As many levels as a vector of floats has, without their zero.
template <int Bits, int Zero>
inline Floats<GNX_LANES> decode(const uint8_t *from) {
  if constexpr (Bits == 8) {
    return RowU8<Zero>::template row<GNX_LANES>(from);
  } else {
    typedef typename Lanes<GNX_LANES / 2>::Halves Wide;
    const Wide both = __builtin_convertvector(read<typename Lanes<GNX_LANES / 2>::Levels>(from), Wide);
    const Wide apart = (both | both << 4) & 0x0f0f;
    return RowU8<Zero>::template row<GNX_LANES>(reinterpret_cast<const uint8_t *>(&apart));
  }
}

// Adds weighted rows in one block of `NV` times SHORT bytes.
template <int Bits, int Zero, int NV, bool Short>
class WeightedBlock {
 public:
  WeightedBlock(const gnx_aggregate &work, const Structure &structure, const Block &block, int64_t row_bytes)
      : work_(work),
        structure_(structure),
        bytes_{structure, static_cast<const uint8_t *>(work.x), row_bytes, block.begin, block.end - block.begin},
        begin_(columns_in<Bits>(block.begin)) {
    const int64_t columns = columns_in<Bits>(block.end - block.begin), left = work.width - begin_;
    columns_ = columns < left ? columns : left;
  }

  void row(int64_t row, int64_t begin, int64_t end) const {
    float values[COLUMNS];
    add(begin, end, values);
    scale_sums(work_, end - begin, begin_, columns_, values);
    deliver<COLUMNS>(work_, structure_, row, begin_, columns_, values);
  }

  void segment(const Segment &segment, const Parts &parts) const {
    float values[COLUMNS];
    add(segment.begin, segment.end, values);
    float *const to = static_cast<float *>(parts.sums) + segment.part * work_.width + begin_;
    std::memcpy(to, values, columns_ * sizeof(float));
  }

 private:
  static constexpr int UNIT = columns_in<Bits>(SHORT), VECTORS = UNIT / GNX_LANES, COLUMNS = NV * UNIT;

  void add(int64_t begin, int64_t end, float *values) const {
    Floats<GNX_LANES> total[NV * VECTORS] = {};
    for (int64_t slot = begin; slot < end; ++slot) {
      bytes_.prefetch_ahead(slot);
      const int64_t source = source_of(structure_, slot);
      float weight = work_.weight ? work_.weight[slot] : 1.0f;
      if (work_.row_scale) weight *= work_.row_scale[source];
      const uint8_t *row = bytes_.data + source * bytes_.row_bytes + bytes_.begin;
      for (int v = 0; v < NV; ++v) {
        const Row16 unit = Short ? read_short(row, bytes_.count) : read<Row16>(row + bytes_.at(v));
        const uint8_t *const levels = reinterpret_cast<const uint8_t *>(&unit);
        for (int part = 0; part < VECTORS; ++part)
          total[v * VECTORS + part] += decode<Bits, Zero>(levels + part * SHORT / VECTORS) * weight;
      }
    }
    for (int v = 0; v < NV; ++v) std::memcpy(values + columns_in<Bits>(bytes_.at(v)), total + v * VECTORS, UNIT * 4);
  }

  const gnx_aggregate &work_;
  const Structure &structure_;
  const Bytes<SHORT, NV, Short> bytes_;
  int64_t begin_, columns_;
};

template <class Reducer>
inline void reduce_rows(const Reducer &reducer, const Structure &structure, const Span &span, const Parts &parts) {
  if (span.segment) return reducer.segment(*span.segment, parts);
  for_rows(structure, span, [&](int64_t row, int64_t begin, int64_t end) { reducer.row(row, begin, end); });
  settle();
}

// A block of at least two vectors has the widest.
template <int Bits>
void reduce_integers(const gnx_aggregate &work, const Structure &structure, const Block &block, Sum sum,
                     const Span &span, const Parts &parts, int64_t row_bytes) {
#define GNX_CALL(W, NV)                                                                                            \
  if (block.lanes == W && block.count == NV)                                                                       \
    return reduce_rows(NarrowBlock<Bits, W, NV, false>(work, structure, block, sum, row_bytes), structure, span, parts);
  constexpr int WIDEST = 4 * GNX_LANES;
  if (block.end - block.begin < SHORT)
    return reduce_rows(NarrowBlock<Bits, SHORT, 1, true>(work, structure, block, sum, row_bytes), structure, span,
                       parts);
  GNX_CALL(WIDEST, 1) GNX_CALL(WIDEST, 2) GNX_CALL(WIDEST, 3) GNX_CALL(WIDEST, 4)
  if constexpr (Bits == 8 && WIDEST == 64) {
    GNX_CALL(WIDEST, 5) GNX_CALL(WIDEST, 6) GNX_CALL(WIDEST, 8)
  }
  if constexpr (WIDEST > 32) { GNX_CALL(32, 1) GNX_CALL(32, 2) }
  if constexpr (WIDEST > 16) { GNX_CALL(16, 1) GNX_CALL(16, 2) }
#undef GNX_CALL
}

constexpr int MOST_FLOATS = (GNX_LANES == 16 ? 16 : 8) * GNX_LANES;  // that fit the registers, as cut_levels has it

// Units of SHORT bytes that are reduced at once.
template <int Bits>
constexpr int MOST_UNITS = MOST_FLOATS > columns_in<Bits>(SHORT) ? MOST_FLOATS / columns_in<Bits>(SHORT) : 1;

template <int Bits, int Zero>
void reduce_weighted(const gnx_aggregate &work, const Structure &structure, const Block &block, const Span &span,
                     const Parts &parts, int64_t row_bytes) {
#define GNX_CALL(NV)                                                                                              \
  if constexpr (NV <= MOST_UNITS<Bits>) {                                                                            \
    if (block.count == NV)                                                                                           \
      return reduce_rows(WeightedBlock<Bits, Zero, NV, false>(work, structure, block, row_bytes), structure, span,   \
                         parts);                                                                                     \
  }
  if (block.end - block.begin < SHORT)
    return reduce_rows(WeightedBlock<Bits, Zero, 1, true>(work, structure, block, row_bytes), structure, span, parts);
  GNX_CALL(1) GNX_CALL(2) GNX_CALL(3) GNX_CALL(4) GNX_CALL(5) GNX_CALL(6) GNX_CALL(8) GNX_CALL(12) GNX_CALL(16)
#undef GNX_CALL
}

void reduce_levels(const gnx_aggregate &work, const Structure &structure, const Block &block, Sum sum,
                   const Span &span, const Parts &parts) {
  const int64_t halves = (work.width + 1) / 2;
  if (sum != Sum::weighted) {
    if (work.type == GNX_U8) return reduce_integers<8>(work, structure, block, sum, span, parts, work.width);
    return reduce_integers<4>(work, structure, block, sum, span, parts, halves);
  }
  if (work.type == GNX_U8) {
    return work.zero ? reduce_weighted<8, 128>(work, structure, block, span, parts, work.width)
                     : reduce_weighted<8, 0>(work, structure, block, span, parts, work.width);
  }
  return work.zero ? reduce_weighted<4, 8>(work, structure, block, span, parts, halves)
                   : reduce_weighted<4, 0>(work, structure, block, span, parts, halves);
}

// Put the parts of a column of a hub together, in their order.
template <class Total, class Part>
inline Total join_parts(const Part *part, int64_t count, int64_t width, Sum sum) {
  Total total = part[0];
  for (int64_t i = 1; i < count; ++i) {
    const Total value = part[i * width];
    if (sum == Sum::max)
      total = value > total ? value : total;
    else if (sum == Sum::min)
      total = value < total ? value : total;
    else
      total += value;
  }
  return total;
}

void join_levels(const gnx_aggregate &work, const Structure &structure, const Segment *segments, int64_t num_parts,
                 Sum sum, const Parts &parts) {
  const int64_t row = segments[0].row, width = work.width, slots = structure.rowptr[row + 1] - structure.rowptr[row];
  for (int64_t begin = 0; begin < width; begin += JOINED) {
    const int64_t count = width - begin < JOINED ? width - begin : JOINED, from = segments[0].part * width + begin;
    if (sum == Sum::weighted) {
      float values[JOINED];
      const float *const part = static_cast<const float *>(parts.sums) + from;
      for (int64_t i = 0; i < count; ++i) values[i] = join_parts<float>(part + i, num_parts, width, sum);
      scale_sums(work, slots, begin, count, values);
      deliver<JOINED>(work, structure, row, begin, count, values);
    } else {
      int64_t totals[JOINED];
      const int32_t *const part = static_cast<const int32_t *>(parts.sums) + from;
      for (int64_t i = 0; i < count; ++i) totals[i] = join_parts<int64_t>(part + i, num_parts, width, sum);
      finish_totals(work, structure, row, slots, begin, count, totals);
    }
  }
  settle();
}

}  // namespace
