#include "driver.hpp"

#include <cstdio>
#include <cstring>
#include <thread>

namespace {

uint32_t state = 1;

void on_threads(void *, void (*task)(void *, size_t), size_t count, void *data) {
  std::vector<std::thread> threads;
  for (size_t index = 0; index < count; ++index) threads.emplace_back(task, data, index);
  for (std::thread &thread : threads) thread.join();
}

}  // namespace

const gnx_threads THREADS[3] = {{nullptr, nullptr, 1}, {nullptr, nullptr, 3}, {on_threads, nullptr, 2}};

long calls = 0, failures = 0;

uint32_t next() { return state = state * 1664525u + 1013904223u; }

std::vector<char> bytes(int64_t count) {
  std::vector<char> out(static_cast<size_t>(count));
  for (char &byte : out) byte = static_cast<char>(next() >> 24);
  return out;
}

std::vector<float> floats(int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  for (float &value : out) {
    const uint32_t word = next() ^ next() >> 16;
    std::memcpy(&value, &word, sizeof(value));
  }
  return out;
}

Graph hub(int64_t slots) {
  Graph graph{"hub", {0, 0}, {}, 50};
  for (int64_t row = 1; row < 40; ++row) {
    const int64_t degree = row == 1 ? slots : row < 30 ? slots / 28 : 0;
    graph.rowptr.push_back(graph.rowptr.back() + degree);
  }
  for (int64_t slot = 0; slot < graph.slots(); ++slot) graph.col.push_back(next() % 50);
  return graph;
}

std::vector<Graph> graphs() {
  return {{"nothing", {0}, {}, 0},
          {"one node", {0, 0}, {}, 1},
          {"one node, a loop twice", {0, 2}, {0, 0}, 1},
          {"isolated nodes", {0, 0, 3, 3, 3, 4, 4}, {5, 5, 0, 5}, 6},
          {"two sides", {0, 1, 4}, {8, 0, 8, 3}, 9},
          {"readout", {0, 0, 5, 6, 6}, {}, 6, true},
          hub(40)};
}

Indices::Indices(const Graph &graph, int32_t bits) {
  csr = {graph.rowptr.data(), graph.col.data(), graph.rows(), graph.slots(), graph.num_src, bits};
  if (bits == 32) {
    narrow_rowptr.assign(graph.rowptr.begin(), graph.rowptr.end());
    narrow_col.assign(graph.col.begin(), graph.col.end());
    csr.rowptr = narrow_rowptr.data();
    csr.col = narrow_col.data();
  }
  if (graph.reads_rows) csr.col = nullptr;
}

void expect(bool fits, const char *what, int32_t status) {
  ++calls;
  if (fits) return;
  ++failures;
  std::fprintf(stderr, "%s: %s\n", what, gnx_message(status));
}

void valid(const char *what, int32_t status) { expect(status == GNX_OK, what, status); }
void refused(const char *what, int32_t status) { expect(status != GNX_OK, what, status); }
