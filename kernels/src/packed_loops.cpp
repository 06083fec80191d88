// Pack and unpack rows of numbers. Built several times, with GNX_PATH and the compiler's flags saying for which.
//
// As in vector.hpp, no inline function of the standard library is used, so that no code of one instruction set serves
// another. The loops are plain: compilers make vectors of them.
#include <cstring>

#include "packed.hpp"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "column 0 stands in the lowest bits");

namespace {

constexpr int64_t GROUP = 64;    // rows of one anchor
constexpr int64_t UNIT = 8;      // numbers that fill whole bytes, whatever their bits
constexpr int64_t PIECE = 512;   // numbers that are treated at once
constexpr int64_t AHEAD = 16;    // rows whose memory is asked for before it is needed
constexpr int64_t LINE = 64, FETCHED = 256;

struct Place {
  uint64_t offset;
  int64_t row;
  int code;
};

// A word with a 1 every so many bits.
constexpr uint64_t comb(int every) {
  uint64_t word = 0;
  for (int bit = 0; bit < 64; bit += every) word |= uint64_t{1} << bit;
  return word;
}

constexpr uint64_t ones(int count) { return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

// Eight numbers of BITS bits side by side, each into a byte of its own.
template <int BITS>
inline uint64_t spread(uint64_t unit) {
  unit = (unit | unit << (32 - 4 * BITS)) & ones(4 * BITS) * comb(32);
  unit = (unit | unit << (16 - 2 * BITS)) & ones(2 * BITS) * comb(16);
  return (unit | unit << (8 - BITS)) & ones(BITS) * comb(8);
}

template <int BITS>
inline uint64_t squeeze(uint64_t unit) {
  unit = (unit | unit >> (8 - BITS)) & ones(2 * BITS) * comb(16);
  unit = (unit | unit >> (16 - 2 * BITS)) & ones(4 * BITS) * comb(32);
  return (unit | unit >> (32 - 4 * BITS)) & ones(8 * BITS);
}

template <int BITS>
struct Unit;
template <>
struct Unit<1> {
  typedef uint8_t Type;
};
template <>
struct Unit<2> {
  typedef uint16_t Type __attribute__((aligned(1), may_alias));
};
template <>
struct Unit<4> {
  typedef uint32_t Type __attribute__((aligned(1), may_alias));
};
typedef uint64_t Bytes __attribute__((aligned(1), may_alias));

// Numbers [count] from their bytes in a row; `to` has room for whole units.
template <int BITS>
inline void take_apart(const uint8_t *from, int64_t count, uint8_t *to) {
  typedef typename Unit<BITS>::Type Type;
  const int64_t units = count / UNIT, rest = count % UNIT;
  const Type *const packed = reinterpret_cast<const Type *>(from);
  Bytes *const numbers = reinterpret_cast<Bytes *>(to);
  for (int64_t unit = 0; unit < units; ++unit) numbers[unit] = spread<BITS>(packed[unit]);
  if (rest == 0) return;
  uint64_t last = 0;
  std::memcpy(&last, from + units * BITS, static_cast<size_t>(rest * BITS + 7) / 8);
  numbers[units] = spread<BITS>(last);
}

// Numbers [count] into their bytes in a row; behind the last number come zeros.
template <int BITS>
inline void put_together(const uint8_t *from, int64_t count, uint8_t *to) {
  typedef typename Unit<BITS>::Type Type;
  const int64_t units = count / UNIT, rest = count % UNIT;
  Type *const packed = reinterpret_cast<Type *>(to);
  const Bytes *const numbers = reinterpret_cast<const Bytes *>(from);
  for (int64_t unit = 0; unit < units; ++unit) packed[unit] = static_cast<Type>(squeeze<BITS>(numbers[unit]));
  if (rest == 0) return;
  uint64_t last = 0;
  std::memcpy(&last, from + units * UNIT, static_cast<size_t>(rest));
  last = squeeze<BITS>(last);
  std::memcpy(to + units * BITS, &last, static_cast<size_t>(rest * BITS + 7) / 8);
}

// Call each(first column, count, numbers) for the numbers of a row, piece by piece.
template <int BITS, class Each>
inline void each_piece(const uint8_t *row, int64_t columns, Each each) {
  if (BITS == 8) {
    each(0, columns, row);
    return;
  }
  alignas(LINE) uint8_t numbers[PIECE];
  for (int64_t begin = 0; begin < columns; begin += PIECE) {
    const int64_t count = columns - begin < PIECE ? columns - begin : PIECE;
    take_apart<BITS == 8 ? 4 : BITS>(row + begin * BITS / 8, count, numbers);
    each(begin, count, numbers);
  }
}

template <class Each>
inline void each_piece(const uint8_t *row, int64_t columns, int code, Each each) {
  switch (code) {
    case 0: return each_piece<1>(row, columns, each);
    case 1: return each_piece<2>(row, columns, each);
    case 2: return each_piece<4>(row, columns, each);
    default: return each_piece<8>(row, columns, each);
  }
}

template <bool SIGNED>
inline void quantise(const float *x, int64_t count, float inverse, float most, int32_t zero, uint8_t *out) {
  for (int64_t at = 0; at < count; ++at) {
    const float scaled = x[at] * inverse;
    // What is no number counts as the largest of signed ones, and as 0 of the others.
    const float whole = SIGNED ? __builtin_fabsf(scaled) : scaled > 0 ? scaled : 0;
    const int32_t number = static_cast<int32_t>((whole < most ? whole : most) + 0.5f);
    out[at] = static_cast<uint8_t>(zero + (SIGNED && scaled < 0 ? -number : number));
  }
}

inline int32_t zero_of(const gnx_packed &rows, const Place &place) {
  return rows.zero ? rows.zero[place.row] : rows.is_signed ? 1 << ((1 << place.code) - 1) : 0;
}

inline void pack_row(const gnx_packed &rows, const Place &place, const float *x) {
  const int bits = 1 << place.code;
  const int32_t zero = zero_of(rows, place);
  const float inverse = 1.0f / rows.step[place.row];
  const float most = static_cast<float>(zero ? (1 << (bits - 1)) - 1 : (1 << bits) - 1);
  uint8_t *const row = rows.payload + place.offset;
  alignas(LINE) uint8_t numbers[PIECE];
  for (int64_t begin = 0; begin < rows.columns; begin += PIECE) {
    const int64_t count = rows.columns - begin < PIECE ? rows.columns - begin : PIECE;
    uint8_t *const to = row + begin * bits / 8;
    uint8_t *const whole = bits == 8 ? to : numbers;
    (zero ? quantise<true> : quantise<false>)(x + begin, count, inverse, most, zero, whole);
    if (bits == 1) put_together<1>(numbers, count, to);
    if (bits == 2) put_together<2>(numbers, count, to);
    if (bits == 4) put_together<4>(numbers, count, to);
  }
}

inline uint64_t bytes_of(const gnx_packed &rows, int code) {
  return ((static_cast<uint64_t>(rows.columns) << code) + 7) / 8;
}

// Bytes of the rows of a group before row `count` of it.
inline uint64_t bytes_before(const gnx_packed &rows, int64_t group, int64_t count) {
  const int64_t first = group * (GROUP / 4), there = (rows.num_rows + 3) / 4 - first;
  uint64_t words[2] = {0, 0};
  std::memcpy(words, rows.codes + first, static_cast<size_t>(there < GROUP / 4 ? there : GROUP / 4));
  int64_t of_code[4] = {count, 0, 0, 0};
  for (int64_t word = 0, left = count; word < 2 && left > 0; ++word, left -= 32) {
    const uint64_t kept = comb(2) & ones(left < 32 ? static_cast<int>(2 * left) : 64);
    const uint64_t low = words[word] & kept, high = words[word] >> 1 & kept;
    of_code[1] += __builtin_popcountll(low & ~high);
    of_code[2] += __builtin_popcountll(high & ~low);
    of_code[3] += __builtin_popcountll(low & high);
  }
  of_code[0] -= of_code[1] + of_code[2] + of_code[3];
  uint64_t total = 0;
  for (int code = 0; code < 4; ++code) total += static_cast<uint64_t>(of_code[code]) * bytes_of(rows, code);
  return total;
}

inline bool find(const gnx_packed &rows, int64_t row, Place &place) {
  if (row < 0 || row >= rows.num_rows) return false;
  const uint64_t size = static_cast<uint64_t>(rows.payload_bytes);
  place.row = row;
  if (!rows.codes) {
    place.code = 3;
    place.offset = static_cast<uint64_t>(row) * static_cast<uint64_t>(rows.columns);
  } else {
    place.code = rows.codes[row / 4] >> row % 4 * 2 & 3;
    const uint64_t anchor = rows.anchors[row / GROUP];
    if (anchor > size) return false;
    place.offset = anchor + bytes_before(rows, row / GROUP, row % GROUP);
  }
  const uint64_t bytes = bytes_of(rows, place.code);
  return bytes <= size && place.offset <= size - bytes;
}

inline void ask_for(const gnx_packed &rows, int64_t row) {
  if (row < 0 || row >= rows.num_rows) return;
  __builtin_prefetch(rows.step + row);
  if (rows.zero) __builtin_prefetch(rows.zero + row);
  if (!rows.codes) return;
  __builtin_prefetch(rows.codes + row / 4);
  __builtin_prefetch(rows.anchors + row / GROUP);
}

// Call each(place among the requested rows, where the row lies) for each row.
template <class Each>
inline bool each_row(const gnx_packed &rows, const int64_t *ids, int64_t begin, int64_t end, Each each) {
  Place found[AHEAD];
  for (int64_t next = begin; next < end + AHEAD; ++next) {
    Place &place = found[next % AHEAD];
    if (next - AHEAD >= begin) each(next - AHEAD, place);
    if (next + AHEAD < end) ask_for(rows, ids ? ids[next + AHEAD] : next + AHEAD);
    if (next >= end) continue;
    if (!find(rows, ids ? ids[next] : next, place)) return false;
    const uint64_t bytes = bytes_of(rows, place.code);
    for (uint64_t byte = 0; byte < bytes && byte < FETCHED; byte += LINE)
      __builtin_prefetch(rows.payload + place.offset + byte);
  }
  return true;
}

bool pack(const gnx_packed &rows, const int64_t *ids, int64_t begin, int64_t end, const float *x) {
  return each_row(rows, ids, begin, end,
                  [&](int64_t at, const Place &place) { pack_row(rows, place, x + at * rows.columns); });
}

bool unpack(const gnx_packed &rows, const int64_t *ids, int64_t begin, int64_t end, float *out) {
  return each_row(rows, ids, begin, end, [&](int64_t at, const Place &place) {
    const int32_t zero = zero_of(rows, place);
    const float step = rows.step[place.row];
    float *const row = out + at * rows.columns;
    each_piece(rows.payload + place.offset, rows.columns, place.code,
               [=](int64_t first, int64_t count, const uint8_t *numbers) {
                 for (int64_t column = 0; column < count; ++column)
                   row[first + column] = static_cast<float>(numbers[column] - zero) * step;
               });
  });
}

bool levels(const gnx_packed &rows, const int64_t *ids, int64_t begin, int64_t end, uint8_t *out) {
  return each_row(rows, ids, begin, end, [&](int64_t at, const Place &place) {
    const int32_t zero = zero_of(rows, place), shift = zero ? 128 - zero : 0;
    uint8_t *const row = out + at * rows.columns;
    each_piece(rows.payload + place.offset, rows.columns, place.code,
               [=](int64_t first, int64_t count, const uint8_t *numbers) {
                 for (int64_t column = 0; column < count; ++column)
                   row[first + column] = static_cast<uint8_t>(numbers[column] + shift);
               });
  });
}

}  // namespace

namespace gnx {
namespace packed {

extern const Loops GNX_PATH;
const Loops GNX_PATH = {pack, unpack, levels};

}  // namespace packed
}  // namespace gnx
