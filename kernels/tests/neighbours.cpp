// Neighbours, numbers and rows: awkward structures, and every number that may be a lie.
#include <functional>

#include "driver.hpp"

namespace {

struct Rows {
  std::vector<int64_t> start, length, col;
  int64_t num_src;

  gnx_rows view() const {
    return {start.data(), length.data(), col.data(), static_cast<int64_t>(start.size()),
            static_cast<int64_t>(col.size()), num_src};
  }
};

// The rows of a graph, with two slots between each and the next that belong to none and name no source.
Rows apart(const Graph &graph) {
  Rows rows{{}, {}, {}, graph.num_src};
  for (int64_t row = 0; row < graph.rows(); ++row) {
    rows.start.push_back(static_cast<int64_t>(rows.col.size()));
    rows.length.push_back(graph.rowptr[row + 1] - graph.rowptr[row]);
    rows.col.insert(rows.col.end(), graph.col.begin() + graph.rowptr[row], graph.col.begin() + graph.rowptr[row + 1]);
    if (row + 1 < graph.rows()) rows.col.insert(rows.col.end(), {-7, INT64_MAX});
  }
  return rows;
}

using Change = std::function<void(gnx_request &)>;

// Count, then expand a request that `change` may have made a lie of in between.
int32_t expand(const Rows &rows, const std::vector<int64_t> &targets, int64_t fanout, const Change &change = nullptr) {
  gnx_request request{rows.view(), targets.data(), static_cast<int64_t>(targets.size()), fanout, next()};
  std::vector<int64_t> rowptr(targets.size() + 1);
  const int32_t status = gnx_count_neighbours(&request, rowptr.data());
  if (status != GNX_OK) return status;
  std::vector<int64_t> col(static_cast<size_t>(rowptr.back())), slots(col.size());
  if (change) change(request);
  return gnx_expand(&request, rowptr.data(), col.data(), slots.data(), &THREADS[next() >> 8 & 1]);
}

std::vector<int64_t> some_of(int64_t num_rows, int64_t count) {
  std::vector<int64_t> targets;
  for (int64_t place = 0; num_rows > 0 && place < count; ++place) targets.push_back(next() % num_rows);
  return targets;
}

void refuse_rows() {
  const Graph graph = hub(1200);
  const std::vector<int64_t> targets = some_of(graph.rows(), 200);
  for (int64_t fanout : {-1, 70}) {
    for (int64_t bad : {int64_t{-1}, graph.slots() + 90, int64_t{INT64_MAX}, int64_t{INT64_MIN}}) {
      Rows rows = apart(graph);
      rows.start[1] = bad;
      refused("start", expand(rows, {0, 1}, fanout));
      rows = apart(graph);
      rows.length[1] = bad;
      refused("length", expand(rows, {0, 1}, fanout));
      rows = apart(graph);
      for (int64_t slot = 0; slot < rows.length[1]; ++slot) rows.col[rows.start[1] + slot] = bad;
      refused("col", expand(rows, {0, 1}, fanout));
      refused("target", expand(apart(graph), {0, bad}, fanout));
    }
    const std::vector<int64_t> others = some_of(graph.rows(), 200);
    const Rows rows = apart(graph);
    refused("other targets", expand(rows, targets, fanout, [&](gnx_request &work) { work.targets = others.data(); }));
    refused("fan-out", expand(rows, {1}, fanout, [](gnx_request &work) { work.fanout = 3; }));
    refused("col", expand(rows, {1}, fanout, [](gnx_request &work) { work.rows.col = nullptr; }));
    refused("rows", expand(rows, {39}, fanout, [](gnx_request &work) { work.rows.num_rows = 39; }));
    refused("sources", expand(rows, {1}, fanout, [](gnx_request &work) { work.rows.num_src = 0; }));
  }
}

int32_t number(const std::vector<int64_t> &ids, std::vector<int32_t> marks) {
  std::vector<int64_t> unique(ids.size()), index(ids.size());
  const std::vector<int32_t> before = marks;
  const int64_t num_marks = static_cast<int64_t>(marks.size());
  int64_t count = 0;
  const int32_t status = gnx_number(ids.data(), static_cast<int64_t>(ids.size()), marks.data(), num_marks,
                                    unique.data(), index.data(), &count);
  expect(marks == before, "marks", status);
  return status;
}

int32_t gather(int64_t num_rows, int64_t width, const std::vector<int64_t> &ids) {
  const std::vector<float> table = floats(num_rows * width);
  std::vector<float> out(ids.size() * static_cast<size_t>(width));
  return gnx_gather_rows(table.data(), num_rows, width, ids.data(), static_cast<int64_t>(ids.size()), out.data(),
                         &THREADS[next() >> 8 & 1]);
}

}  // namespace

void run_neighbours() {
  for (const Graph &graph : graphs()) {
    if (graph.reads_rows) continue;
    for (int64_t fanout : {-1, 0, 1, 2, 64, 65})
      valid(graph.name, expand(apart(graph), some_of(graph.rows(), 50), fanout));
  }
  for (int64_t fanout : {-1, 10, 100, 5000}) valid("hub", expand(apart(hub(20000)), some_of(40, 300), fanout));
  refuse_rows();
  valid("numbers", number(some_of(300, 5000), std::vector<int32_t>(300, -1)));
  valid("no numbers", number({}, {}));
  for (int64_t bad : {int64_t{-1}, int64_t{300}, int64_t{INT64_MAX}, int64_t{INT64_MIN}}) {
    refused("id", number({1, 2, bad, 2}, std::vector<int32_t>(300, -1)));
    refused("row", gather(300, 3, {1, 2, bad, 2}));
  }
  for (int64_t width : {0, 1, 7, 256}) valid("rows", gather(300, width, some_of(300, 5000)));
  valid("no rows", gather(0, 3, {}));
  refused("width", gnx_gather_rows(nullptr, 1, INT64_MAX, nullptr, 1, nullptr, nullptr));
  refused("nothing", gnx_gather_rows(nullptr, 1, 1, nullptr, 1, nullptr, nullptr));
  refused("nothing", gnx_number(nullptr, 1, nullptr, 1, nullptr, nullptr, nullptr));
  refused("nothing", gnx_count_neighbours(nullptr, nullptr));
  refused("nothing", gnx_expand(nullptr, nullptr, nullptr, nullptr, nullptr));
}
