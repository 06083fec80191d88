// Neighbours of some rows, the numbers of their sources, and the rows of a table that these name.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "checks.hpp"
#include "threads.hpp"

namespace gnx {
namespace {

constexpr int64_t TASK_POSITIONS = 8192;   // rows and slots of one task of an expansion
constexpr int64_t TASK_BYTES = 256 << 10;  // of one task of a gather
constexpr int64_t AHEAD = 16;              // ids whose memory is asked for before it is needed
constexpr int64_t FEW = 64;                // draws that a list in order finds as fast as a table

// splitmix64 (Steele, Lea and Flood, OOPSLA 2014): the number of a counter, with no state between draws.
constexpr uint64_t STEP = 0x9E3779B97F4A7C15u;

uint64_t mixed(uint64_t value) {
  value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9u;
  value = (value ^ value >> 27) * 0x94D049BB133111EBu;
  return value ^ value >> 31;
}

class Draws {
 public:
  Draws(uint64_t seed, int64_t row) : state_(mixed(mixed(seed + STEP) + (static_cast<uint64_t>(row) + 1) * STEP)) {}

  // Uniform below `count`; the product rounds to less than `count`.
  int64_t below(int64_t count) {
    state_ += STEP;
    return static_cast<int64_t>(static_cast<double>(mixed(state_) >> 11) * 0x1p-53 * static_cast<double>(count));
  }

 private:
  uint64_t state_;
};

// Numbers below 2^62 that were taken; memory is kept from one row to the next.
class Taken {
 public:
  void clear(int64_t room) {
    size_t size = 256;
    while (size < static_cast<size_t>(room) * 2) size *= 2;
    table_.assign(size, -1);
  }

  bool take(int64_t number) {
    const size_t mask = table_.size() - 1;
    for (size_t at = mixed(static_cast<uint64_t>(number)) & mask;; at = (at + 1) & mask) {
      if (table_[at] == number) return false;
      if (table_[at] >= 0) continue;
      table_[at] = number;
      return true;
    }
  }

 private:
  std::vector<int64_t> table_;
};

// Draw `fanout` of `length` without replacement (Floyd: Bentley, CACM 30(9), 1987), in order.
void draw(Draws draws, int64_t length, int64_t fanout, int64_t *out) {
  if (fanout <= FEW) {
    for (int64_t count = 0; count < fanout; ++count) {
      const int64_t last = length - fanout + count, drawn = draws.below(last + 1);
      int64_t *const place = std::lower_bound(out, out + count, drawn);
      // `last` is above all drawn before.
      if (place < out + count && *place == drawn) {
        out[count] = last;
      } else {
        std::copy_backward(place, out + count, out + count + 1);
        *place = drawn;
      }
    }
    return;
  }
  thread_local Taken taken;
  taken.clear(fanout);
  for (int64_t count = 0; count < fanout; ++count) {
    const int64_t last = length - fanout + count, drawn = draws.below(last + 1);
    if (!taken.take(out[count] = drawn)) taken.take(out[count] = last);
  }
  std::sort(out, out + fanout);
}

int32_t check(const gnx_request &request) {
  const gnx_rows &rows = request.rows;
  constexpr int64_t most = INT64_MAX / 64;
  for (const int64_t size : {rows.num_rows, rows.num_slots, rows.num_src, request.num_targets})
    if (size < 0 || size > most) return GNX_SHAPE;
  if (request.num_targets == 0) return GNX_OK;
  if (!request.targets || (rows.num_rows > 0 && (!rows.start || !rows.length))) return GNX_NULL;
  return rows.num_slots > 0 && !rows.col ? GNX_NULL : GNX_OK;
}

int64_t drawn_of(const gnx_request &request, int64_t length) {
  return request.fanout < 0 ? length : std::min(length, request.fanout);
}

int32_t count_neighbours(const gnx_request &request, int64_t *rowptr) {
  const int32_t status = check(request);
  if (status != GNX_OK) return status;
  if (!rowptr) return GNX_NULL;
  const gnx_rows &rows = request.rows;
  int64_t total = 0;
  for (int64_t place = 0; place < request.num_targets; ++place) {
    const int64_t row = request.targets[place];
    rowptr[place] = total;
    if (row < 0 || row >= rows.num_rows) return GNX_INDEX;
    const int64_t start = rows.start[row], length = rows.length[row];
    if (start < 0 || length < 0 || start > rows.num_slots || length > rows.num_slots - start) return GNX_INDEX;
    total += drawn_of(request, length);
    if (total > INT64_MAX / 64) return GNX_SHAPE;
  }
  rowptr[request.num_targets] = total;
  return GNX_OK;
}

// The first target whose place among targets and slots is not before `position`.
int64_t target_at(const int64_t *rowptr, int64_t num_targets, int64_t position) {
  int64_t low = 0, high = num_targets;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (rowptr[middle] + middle < position)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Write the neighbours of one target; false where a number of it is out of range.
bool expand_one(const gnx_request &request, int64_t place, const int64_t *rowptr, int64_t *col, int64_t *slots) {
  const gnx_rows &rows = request.rows;
  const int64_t row = request.targets[place], first = rowptr[place], count = rowptr[place + 1] - first;
  if (row < 0 || row >= rows.num_rows) return false;
  const int64_t start = rows.start[row], length = rows.length[row];
  if (start < 0 || length < 0 || start > rows.num_slots || length > rows.num_slots - start) return false;
  if (count != drawn_of(request, length)) return false;
  bool fits = true;
  if (!slots) {
    for (int64_t slot = 0; slot < count; ++slot) {
      const int64_t source = rows.col[start + slot];
      fits &= source >= 0 && source < rows.num_src;
      col[first + slot] = source;
    }
    return fits;
  }
  if (count < length)
    draw({request.seed, row}, length, count, slots + first);
  else
    for (int64_t slot = 0; slot < length; ++slot) slots[first + slot] = slot;
  for (int64_t slot = first; slot < first + count; ++slot) {
    slots[slot] += start;
    const int64_t source = rows.col[slots[slot]];
    fits &= source >= 0 && source < rows.num_src;
    col[slot] = source;
  }
  return fits;
}

int32_t expand(const gnx_request &request, const int64_t *rowptr, int64_t *col, int64_t *slots,
               const gnx_threads *threads) {
  const int32_t status = check(request);
  if (status != GNX_OK) return status;
  if (!rowptr) return GNX_NULL;
  const int64_t num_targets = request.num_targets, total = rowptr[num_targets];
  if (rowptr[0] != 0 || total < 0 || total > INT64_MAX / 64) return GNX_INDEX;
  for (int64_t place = 0; place < num_targets; ++place)
    if (rowptr[place] > rowptr[place + 1]) return GNX_INDEX;
  if (total > 0 && (!col || (!slots && request.fanout >= 0))) return GNX_NULL;
  std::atomic<bool> fits{true}, in_memory{true};
  const size_t tasks = static_cast<size_t>((num_targets + total) / TASK_POSITIONS + 1);
  for_each(threads, tasks, [&](size_t task) {
    const int64_t begin = target_at(rowptr, num_targets, static_cast<int64_t>(task) * TASK_POSITIONS);
    const int64_t end = target_at(rowptr, num_targets, static_cast<int64_t>(task + 1) * TASK_POSITIONS);
    try {
      for (int64_t place = begin; place < end && fits; ++place)
        if (!expand_one(request, place, rowptr, col, slots)) fits = false;
    } catch (const std::exception &) {
      in_memory = false;
    }
  });
  return !fits ? GNX_INDEX : in_memory ? GNX_OK : GNX_MEMORY;
}

bool number_each(const int64_t *ids, int64_t count, int32_t *marks, int64_t num_marks, int64_t *unique, int64_t *index,
                 int64_t *num_unique) {
  for (int64_t place = 0; place < count; ++place) {
    if (place + AHEAD < count) {
      const uint64_t ahead = static_cast<uint64_t>(ids[place + AHEAD]);
      if (ahead < static_cast<uint64_t>(num_marks)) __builtin_prefetch(marks + ahead, 1);
    }
    const int64_t id = ids[place];
    if (id < 0 || id >= num_marks) return false;
    if (marks[id] < 0) {
      marks[id] = static_cast<int32_t>(*num_unique);
      unique[(*num_unique)++] = id;
    }
    index[place] = marks[id];
    // A mark that was not -1 before must not be told as a number.
    if (index[place] >= *num_unique || unique[index[place]] != id) return false;
  }
  return true;
}

int32_t gather(const float *table, int64_t num_rows, int64_t width, const int64_t *ids, int64_t count, float *out,
               const gnx_threads *threads) {
  const size_t row_bytes = static_cast<size_t>(width) * sizeof(float);
  const int64_t rows = std::max<int64_t>(TASK_BYTES / static_cast<int64_t>(row_bytes), 1);
  std::atomic<bool> fits{true};
  for_each(threads, static_cast<size_t>((count + rows - 1) / rows), [&](size_t task) {
    const int64_t begin = static_cast<int64_t>(task) * rows, end = std::min(begin + rows, count);
    for (int64_t place = begin; place < end; ++place) {
      if (place + AHEAD < end) {
        const uint64_t ahead = static_cast<uint64_t>(ids[place + AHEAD]);
        if (ahead < static_cast<uint64_t>(num_rows)) __builtin_prefetch(table + ahead * width);
      }
      const int64_t id = ids[place];
      if (id < 0 || id >= num_rows) {
        fits = false;
        return;
      }
      std::memcpy(out + place * width, table + id * width, row_bytes);
    }
  });
  return fits ? GNX_OK : GNX_INDEX;
}

}  // namespace
}  // namespace gnx

extern "C" {

int32_t gnx_count_neighbours(const gnx_request *request, int64_t *rowptr) {
  return request ? gnx::guarded([=] { return gnx::count_neighbours(*request, rowptr); }) : GNX_NULL;
}

int32_t gnx_expand(const gnx_request *request, const int64_t *rowptr, int64_t *col, int64_t *slots,
                   const gnx_threads *threads) {
  return request ? gnx::guarded([=] { return gnx::expand(*request, rowptr, col, slots, threads); }) : GNX_NULL;
}

int32_t gnx_number(const int64_t *ids, int64_t count, int32_t *marks, int64_t num_marks, int64_t *unique,
                   int64_t *index, int64_t *num_unique) {
  // Fewer ids than a mark can count are distinct.
  if (count < 0 || num_marks < 0 || num_marks > INT32_MAX) return GNX_SHAPE;
  if (!num_unique || (count > 0 && (!ids || !unique || !index || (num_marks > 0 && !marks)))) return GNX_NULL;
  *num_unique = 0;
  const bool fits = gnx::number_each(ids, count, marks, num_marks, unique, index, num_unique);
  for (int64_t place = 0; place < *num_unique; ++place) marks[unique[place]] = -1;
  return fits ? GNX_OK : GNX_INDEX;
}

int32_t gnx_gather_rows(const float *table, int64_t num_rows, int64_t width, const int64_t *ids, int64_t count,
                        float *out, const gnx_threads *threads) {
  const int64_t most = INT64_MAX / 64 / std::max<int64_t>(width, 1);
  if (num_rows < 0 || width < 0 || count < 0 || num_rows > most || count > most) return GNX_SHAPE;
  if (count == 0 || width == 0) return GNX_OK;
  if (!ids || !out || (num_rows > 0 && !table)) return GNX_NULL;
  return gnx::guarded([=] { return gnx::gather(table, num_rows, width, ids, count, out, threads); });
}
}
