// What the parts of the driver share: graphs, numbers of any bits, threads, and the count of what went wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gnnexport/kernels.h"

struct Graph {
  const char *name;
  std::vector<int64_t> rowptr, col;
  int64_t num_src;
  bool reads_rows = false;  // `col` is null

  int64_t rows() const { return static_cast<int64_t>(rowptr.size()) - 1; }
  int64_t slots() const { return rowptr.back(); }
};

// `slots` edges into row 1 of 40, and as many elsewhere; the last rows have none.
Graph hub(int64_t slots);
std::vector<Graph> graphs();

struct Indices {
  std::vector<int32_t> narrow_rowptr, narrow_col;
  gnx_csr csr;

  Indices(const Graph &graph, int32_t bits);
};

// The pool, and threads of a host.
extern const gnx_threads THREADS[3];

uint32_t next();

// Any bits at all: no numbers, infinite and subnormal ones too.
std::vector<char> bytes(int64_t count);
std::vector<float> floats(int64_t count);

extern long calls, failures;

void expect(bool fits, const char *what, int32_t status);
void valid(const char *what, int32_t status);
void refused(const char *what, int32_t status);

void run_sort();
void run_edges();
void run_levels();
void run_linear();
void run_neighbours();
void run_packed();
void run_spread();
void run_nothing();
void run_races();
