// What makes a structure of edges, and what reads nothing of a structure but its rows.
#include <functional>

#include "driver.hpp"

namespace {

struct EdgeList {
  const char *name;
  std::vector<int64_t> src, dst;
  int64_t num_nodes;
};

// Many edges, loops and several of one node among them.
EdgeList many(int64_t num_edges, int64_t num_nodes) {
  EdgeList list{"many", {}, {}, num_nodes};
  for (int64_t edge = 0; edge < num_edges; ++edge) {
    list.src.push_back(next() % num_nodes);
    list.dst.push_back(next() % 4 ? next() % num_nodes : list.src.back());
  }
  return list;
}

std::vector<EdgeList> edge_lists() {
  return {{"nothing", {}, {}, 0},
          {"no edges", {}, {}, 3},
          {"one node, a loop twice", {0, 0}, {0, 0}, 1},
          {"isolated nodes", {5, 5, 0, 5}, {1, 1, 1, 4}, 6},
          {"only loops", {2, 0, 2}, {2, 0, 2}, 3},
          many(40, 7),
          many(200000, 500),
          many(200000, 300000)};
}

template <class Type>
int32_t build(int64_t num_edges, int64_t num_rows, int64_t bad, int64_t choice) {
  std::vector<Type> dst(static_cast<size_t>(num_edges)), perm(dst.size()), rowptr(static_cast<size_t>(num_rows) + 1);
  for (Type &row : dst) row = static_cast<Type>(next() % num_rows);
  if (bad) dst.back() = static_cast<Type>(bad);
  return gnx_build_csr(dst.data(), num_edges, num_rows, 8 * sizeof(Type), rowptr.data(), perm.data(),
                       &THREADS[choice % 3]);
}

// Where edges go, and what is said of them; each change makes a lie of one part.
struct Call {
  gnx_edges edges;
  int64_t *rowptr, *col;
  float *weight;
};

using Change = std::function<void(Call &)>;

int32_t prepare(const EdgeList &list, int64_t choice, const Change &change = nullptr) {
  const std::vector<float> given = floats(static_cast<int64_t>(list.src.size()));
  gnx_edges edges{list.src.data(), list.dst.data(), choice & 1 ? given.data() : nullptr,
                  static_cast<int64_t>(list.src.size()), list.num_nodes, 0,
                  choice & 2 ? GNX_LOOPS_ONE : GNX_LOOPS_KEPT, 2.0f, choice & 4 ? 1 : 0};
  valid(list.name, gnx_count_slots(&edges, &edges.num_slots));
  std::vector<int64_t> rowptr(static_cast<size_t>(list.num_nodes) + 1), col(static_cast<size_t>(edges.num_slots));
  std::vector<float> weight(choice & 8 ? col.size() : 0);
  Call call{edges, rowptr.data(), col.data(), choice & 8 ? weight.data() : nullptr};
  if (change) change(call);
  return gnx_prepare_edges(&call.edges, call.rowptr, call.col, call.weight, &THREADS[choice % 3]);
}

// Nodes that there are not, at either end of an edge of any stretch.
void refuse_nodes() {
  for (const EdgeList &fine : {many(40, 7), many(200000, 500)}) {
    for (size_t edge : {size_t{0}, fine.src.size() / 2, fine.src.size() - 1}) {
      for (int64_t bad : {int64_t{-1}, fine.num_nodes, int64_t{INT64_MAX}, int64_t{INT64_MIN}}) {
        EdgeList source = fine, destination = fine, loop = fine;
        source.src[edge] = destination.dst[edge] = loop.src[edge] = loop.dst[edge] = bad;
        for (const EdgeList *list : {&source, &destination, &loop}) {
          for (int64_t choice : {2, 13}) {
            const int32_t status = prepare(*list, choice);
            expect(status == GNX_INDEX, "node", status);
          }
        }
      }
    }
  }
}

void refuse_edges(const std::vector<Change> &changes, int32_t wanted) {
  const EdgeList list = edge_lists()[3];
  for (const Change &change : changes) {
    for (int64_t choice : {0, 1, 2, 15}) {
      const int32_t status = prepare(list, choice, change);
      expect(status == wanted, "argument", status);
    }
  }
}

void refuse_counts(const std::vector<Change> &changes) {
  const std::vector<int64_t> ends = {0, 1};
  for (const Change &change : changes) {
    Call call{{ends.data(), ends.data(), nullptr, 2, 2, 0, GNX_LOOPS_ONE, 1.0f, 0}, nullptr, nullptr, nullptr};
    int64_t num_slots = 0;
    change(call);
    refused("count", gnx_count_slots(&call.edges, &num_slots));
  }
}

using ChangeCsr = std::function<void(gnx_csr &)>;

int32_t repeat(const Graph &graph, int64_t width, int64_t choice, const ChangeCsr &change = nullptr) {
  Indices indices(graph, choice & 4 ? 32 : 64);
  const std::vector<float> x = floats(graph.rows() * width);
  std::vector<float> out(static_cast<size_t>(graph.slots() * width));
  if (change) change(indices.csr);
  return gnx_run_spread(&indices.csr, x.data(), width, out.data(), &THREADS[choice % 3]);
}

void refuse_spread() {
  const Graph graph = graphs()[3];
  const std::vector<ChangeCsr> changes = {
      [](gnx_csr &csr) { csr.rowptr = nullptr; },     [](gnx_csr &csr) { csr.num_slots += 1; },
      [](gnx_csr &csr) { csr.num_slots -= 1; },       [](gnx_csr &csr) { csr.num_slots = -1; },
      [](gnx_csr &csr) { csr.num_slots = INT64_MAX; }, [](gnx_csr &csr) { csr.num_rows -= 2; },
      [](gnx_csr &csr) { csr.num_rows = -1; },        [](gnx_csr &csr) { csr.num_rows = INT64_MAX; },
      [](gnx_csr &csr) { csr.index_bits = 16; },
  };
  for (const ChangeCsr &change : changes) {
    for (int64_t choice : {0, 1, 5}) refused("spread", repeat(graph, 3, choice, change));
  }
  const Indices indices(graph, 64);
  std::vector<float> x(18), out(12);
  const gnx_threads *const threads = &THREADS[0];
  refused("spread", gnx_run_spread(&indices.csr, nullptr, 3, out.data(), threads));
  refused("spread", gnx_run_spread(&indices.csr, x.data(), 3, nullptr, threads));
  for (int64_t width : {int64_t{-1}, int64_t{INT64_MIN}, int64_t{INT64_MAX}, int64_t{INT64_MAX / 16}})
    refused("spread", gnx_run_spread(&indices.csr, x.data(), width, out.data(), threads));
  for (int64_t row = 0; row <= graph.rows(); ++row) {
    for (int64_t bad : {int64_t{-1}, graph.slots() + 1, int64_t{INT64_MAX}, int64_t{INT64_MIN}}) {
      Graph lie = graph;
      lie.rowptr[row] = bad;
      refused("spread", repeat(graph, 3, 0, [&](gnx_csr &csr) { csr.rowptr = lie.rowptr.data(); }));
    }
  }
}

}  // namespace

void run_sort() {
  for (int64_t choice = 0; choice < 3; ++choice) {
    for (int64_t num_edges : {0, 1, 50, 200000}) {
      for (int64_t num_rows : {1, 7, 300000}) {
        valid("sort", build<int32_t>(num_edges, num_rows, 0, choice));
        valid("sort", build<int64_t>(num_edges, num_rows, 0, choice));
        if (num_edges == 0) continue;
        for (int64_t bad : {int64_t{-1}, num_rows, int64_t{INT32_MAX}, int64_t{INT32_MIN}}) {
          refused("sort", build<int32_t>(num_edges, num_rows, bad, choice));
          refused("sort", build<int64_t>(num_edges, num_rows, bad, choice));
        }
        for (int64_t bad : {INT64_MAX, INT64_MIN}) refused("sort", build<int64_t>(num_edges, num_rows, bad, choice));
      }
    }
  }
}

void run_edges() {
  for (const EdgeList &list : edge_lists()) {
    const int64_t step = list.src.size() > 1000 ? 5 : 1;
    for (int64_t choice = 0; choice < 48; choice += step) valid(list.name, prepare(list, choice));
  }
  refuse_nodes();
  refuse_edges({[](Call &call) { call.edges.src = nullptr; }, [](Call &call) { call.edges.dst = nullptr; },
                [](Call &call) { call.rowptr = nullptr; }, [](Call &call) { call.col = nullptr; }},
               GNX_NULL);
  refuse_edges({[](Call &call) { call.edges.num_slots += 1; }, [](Call &call) { call.edges.num_slots -= 1; },
                [](Call &call) { call.edges.num_slots = 0; }, [](Call &call) { call.edges.num_slots = -1; },
                [](Call &call) { call.edges.num_slots = INT64_MAX; }, [](Call &call) { call.edges.num_edges = -1; },
                [](Call &call) { call.edges.num_edges = INT64_MAX; }, [](Call &call) { call.edges.num_nodes = -1; },
                [](Call &call) { call.edges.num_nodes = INT64_MAX; }},
               GNX_SHAPE);
  refuse_edges({[](Call &call) { call.edges.loops = -1; }, [](Call &call) { call.edges.loops = 2; }}, GNX_OPTION);
  refuse_counts({[](Call &call) { call.edges.src = nullptr; }, [](Call &call) { call.edges.dst = nullptr; },
                 [](Call &call) { call.edges.num_edges = -1; }, [](Call &call) { call.edges.num_edges = INT64_MAX; },
                 [](Call &call) { call.edges.num_nodes = -1; }, [](Call &call) { call.edges.num_nodes = INT64_MAX; },
                 [](Call &call) { call.edges.loops = 2; }});
}

void run_spread() {
  for (const Graph &graph : graphs()) {
    for (int64_t width : {0, 1, 3, 64}) {
      for (int64_t choice = 0; choice < 6; ++choice) valid(graph.name, repeat(graph, width, choice));
    }
  }
  const Graph large = hub(4100);  // its hub is cut
  for (int64_t choice = 0; choice < 6; ++choice) valid(large.name, repeat(large, 257, choice));
  refuse_spread();
}

// Arguments that are not there at all.
void run_nothing() {
  const gnx_edges edges{};
  int64_t slots = 0, rowptr = 0;
  const int32_t statuses[] = {gnx_run_aggregate(nullptr, nullptr),
                              gnx_run_attention(nullptr, nullptr),
                              gnx_run_softmax(nullptr, nullptr, 1, nullptr, nullptr),
                              gnx_run_spread(nullptr, nullptr, 1, nullptr, nullptr),
                              gnx_build_csr(nullptr, 1, 1, 64, &rowptr, &slots, nullptr),
                              gnx_build_csr(nullptr, 0, 0, 64, nullptr, nullptr, nullptr),
                              gnx_count_slots(nullptr, &slots),
                              gnx_count_slots(&edges, nullptr),
                              gnx_prepare_edges(nullptr, &rowptr, &slots, nullptr, nullptr),
                              gnx_prepare_edges(&edges, nullptr, &slots, nullptr, nullptr)};
  for (int32_t status : statuses) expect(status == GNX_NULL, "nothing", status);
  valid("nothing", gnx_count_slots(&edges, &slots));
  valid("nothing", gnx_prepare_edges(&edges, &rowptr, nullptr, nullptr, nullptr));
}
