// Rows of a few bits: every width and sign, awkward numbers of columns, and layouts that lie.
#include <functional>

#include "driver.hpp"

namespace {

struct Rows {
  std::vector<uint8_t> payload, codes, zero;
  std::vector<uint64_t> anchors;
  std::vector<float> step;
  int64_t columns;
  bool is_signed;

  gnx_packed view() {
    gnx_packed rows{payload.data(), nullptr, nullptr, step.data(), nullptr, static_cast<int64_t>(step.size()),
                    columns, static_cast<int64_t>(payload.size()), is_signed};
    if (!codes.empty()) rows.codes = codes.data(), rows.anchors = anchors.data();
    if (!zero.empty()) rows.zero = zero.data();
    return rows;
  }
};

// Rows of all widths, or with `bytes` of 8 bits each, half of them with a zero.
Rows rows_of(int64_t num_rows, int64_t columns, bool is_signed, bool bytes) {
  Rows rows{{}, {}, {}, {}, floats(num_rows), columns, is_signed};
  if (!bytes) rows.codes.resize(static_cast<size_t>(num_rows + 3) / 4);
  uint64_t size = 0;
  for (int64_t row = 0; row < num_rows; ++row) {
    const int code = bytes ? 3 : static_cast<int>(next() >> 30);
    if (bytes)
      rows.zero.push_back(next() >> 31 ? 128 : 0);
    else if (row % 64 == 0)
      rows.anchors.push_back(size);
    if (!bytes) rows.codes[static_cast<size_t>(row) / 4] |= static_cast<uint8_t>(code << row % 4 * 2);
    size += ((static_cast<uint64_t>(columns) << code) + 7) / 8;
  }
  rows.payload.resize(size);
  return rows;
}

using Change = std::function<void(gnx_packed &)>;

int32_t unpack(Rows &rows, const std::vector<int64_t> &ids, const Change &change = nullptr) {
  gnx_packed work = rows.view();
  const int64_t count = static_cast<int64_t>(ids.size());
  std::vector<float> out(ids.size() * static_cast<size_t>(rows.columns));
  std::vector<uint8_t> levels(out.size());
  if (change) change(work);
  const gnx_threads *const threads = &THREADS[next() >> 8 & 1];
  const int32_t status = gnx_unpack_rows(&work, ids.data(), count, out.data(), threads);
  const int32_t other = gnx_unpack_levels(&work, ids.data(), count, levels.data(), threads);
  expect(status == other, "levels", other);
  return status;
}

int32_t pack(Rows &rows, const Change &change = nullptr) {
  gnx_packed work = rows.view();
  if (change) change(work);
  const std::vector<float> x = floats(static_cast<int64_t>(rows.step.size()) * rows.columns);
  return gnx_pack_rows(&work, nullptr, static_cast<int64_t>(rows.step.size()), x.data(), &THREADS[next() >> 8 & 1]);
}

std::vector<int64_t> some_of(int64_t num_rows, int64_t count) {
  std::vector<int64_t> ids;
  for (int64_t place = 0; num_rows > 0 && place < count; ++place) ids.push_back(next() % num_rows);
  return ids;
}

void refuse(bool bytes) {
  Rows rows = rows_of(300, 37, true, bytes);
  const std::vector<Change> changes = {
      [](gnx_packed &work) { work.payload = nullptr; },      [](gnx_packed &work) { work.step = nullptr; },
      [](gnx_packed &work) { work.num_rows = -1; },          [](gnx_packed &work) { work.columns = -1; },
      [](gnx_packed &work) { work.columns = INT64_MAX; },    [](gnx_packed &work) { work.num_rows = INT64_MAX; },
      [](gnx_packed &work) { work.payload_bytes = -1; },     [](gnx_packed &work) { work.payload_bytes = 0; },
      [](gnx_packed &work) { work.payload_bytes /= 2; },
  };
  std::vector<int64_t> all(300);
  for (int64_t row = 0; row < 300; ++row) all[static_cast<size_t>(row)] = row;
  for (const Change &change : changes) {
    refused("rows", unpack(rows, all, change));
    refused("rows", pack(rows, change));
  }
  for (int64_t bad : {int64_t{-1}, int64_t{300}, int64_t{INT64_MAX}, int64_t{INT64_MIN}})
    refused("id", unpack(rows, {1, 2, bad, 2}));
  refused("count", gnx_unpack_rows(nullptr, nullptr, 1, nullptr, nullptr));
  gnx_packed work = rows.view();
  refused("count", gnx_unpack_rows(&work, nullptr, 301, rows.step.data(), nullptr));
  refused("count", gnx_unpack_rows(&work, nullptr, -1, rows.step.data(), nullptr));
  refused("out", gnx_unpack_rows(&work, nullptr, 1, nullptr, nullptr));
  if (bytes) return;
  for (const uint64_t bad : {static_cast<uint64_t>(rows.payload.size()), UINT64_MAX, UINT64_MAX - 5}) {
    Rows lying = rows;
    lying.anchors[2] = bad;
    refused("anchor", unpack(lying, {130, 191}));
  }
  refused("anchors", unpack(rows, all, [](gnx_packed &other) { other.anchors = nullptr; }));
  refused("zero", unpack(rows, all, [](gnx_packed &other) { other.zero = other.codes; }));
}

}  // namespace

void run_packed() {
  for (const bool is_signed : {false, true}) {
    for (const bool bytes : {false, true}) {
      for (int64_t columns : {1, 3, 7, 8, 9, 16, 31, 64, 65, 511, 512, 513, 1030}) {
        for (int64_t num_rows : {1, 4, 63, 64, 65, 333}) {
          Rows rows = rows_of(num_rows, columns, is_signed, bytes);
          valid("pack", pack(rows));
          valid("unpack", unpack(rows, some_of(num_rows, 400)));
        }
      }
      Rows nothing = rows_of(0, 5, is_signed, bytes), narrow = rows_of(9, 0, is_signed, bytes);
      valid("no rows", pack(nothing));
      valid("no columns", unpack(narrow, {1, 2}));
    }
  }
  for (const bool bytes : {false, true}) refuse(bytes);
}
