// Run every kernel on awkward inputs, in buffers of the exact size. Made for sanitizers, which end it at the first
// fault; without them it only sees that each call has the status it should have.
#include <cstdio>
#include <functional>

#include "driver.hpp"

namespace {

const int64_t WIDTHS[] = {1,  2,  3,  4,  5,  7,  8,  9,  12,  15,  16,  17, 24,
                          31, 33, 48, 63, 65, 96, 128, 130, 200, 255, 256, 257};
const int64_t TYPE_BYTES[] = {4, 2, 2, 1};

gnx_epilogue epilogue(const std::vector<float> &root, const std::vector<float> &bias, int64_t choice) {
  const float *const of_root = choice & 1 ? root.data() : nullptr, *const of_bias = choice & 2 ? bias.data() : nullptr;
  return {of_root, of_bias, static_cast<int32_t>(choice % 4), 0.5f, nullptr};
}

using Change = std::function<void(gnx_aggregate &)>;

int32_t aggregate(const Graph &graph, int32_t type, int32_t reduce, int64_t width, int64_t heads, int64_t choice,
                  const Change &change = nullptr) {
  const Indices indices(graph, choice & 4 ? 32 : 64);
  const std::vector<char> x = bytes(graph.num_src * width * TYPE_BYTES[type]);
  const std::vector<float> weight = floats(graph.slots() * heads), of_rows = floats(graph.num_src);
  const std::vector<float> of_columns = floats(width), root = floats(graph.rows() * width), bias = floats(width);
  std::vector<float> out(static_cast<size_t>(graph.rows() * width));
  const bool adds = reduce == GNX_SUM || reduce == GNX_MEAN;
  gnx_aggregate work{};
  work.csr = indices.csr, work.x = x.data(), work.width = width, work.type = type, work.reduce = reduce;
  work.heads = heads, work.out = out.data();
  if (heads > 1 || (adds && choice & 8)) work.weight = weight.data();
  if (adds && type == GNX_I8 && choice & 16) work.row_scale = of_rows.data();
  if (adds && type == GNX_I8 && choice & 1) work.column_scale = of_columns.data();
  work.epilogue = epilogue(root, bias, choice);
  if (change) change(work);
  return gnx_run_aggregate(&work, &THREADS[choice % 3]);
}

using ChangeAttention = std::function<void(gnx_attention &)>;

int32_t attend(const Graph &graph, int32_t score, int64_t width, int64_t heads, int64_t choice,
               const ChangeAttention &change = nullptr) {
  const Indices indices(graph, choice & 4 ? 32 : 64);
  const int64_t terms = score == GNX_GIVEN || score == GNX_GAT ? heads : width;
  const std::vector<float> x = floats(graph.num_src * width), source = floats(graph.num_src * terms);
  const std::vector<float> destination = floats(graph.rows() * terms), att = floats(width);
  const bool has_edge = score == GNX_GIVEN || choice & 8, has_value = choice & 16;
  const std::vector<float> edge = floats(has_edge ? graph.slots() * terms : 0);
  const std::vector<float> edge_value = floats(has_value ? graph.slots() * width : 0);
  const std::vector<float> root = floats(graph.rows() * width), bias = floats(width);
  std::vector<float> out(static_cast<size_t>(graph.rows() * width));
  gnx_attention work{};
  work.csr = indices.csr, work.x = x.data(), work.width = width, work.heads = heads, work.score = score;
  work.slope = 0.2f, work.scale = 1.0f, work.out = out.data();
  if (score != GNX_GIVEN) work.source = source.data(), work.destination = destination.data();
  if (has_edge) work.edge = edge.data();
  if (has_value) work.edge_value = edge_value.data();
  if (score == GNX_GATV2) work.att = att.data();
  work.epilogue = epilogue(root, bias, choice);
  if (change) change(work);
  return gnx_run_attention(&work, &THREADS[choice % 3]);
}

int32_t soften(const Graph &graph, int64_t heads, int64_t choice) {
  const Indices indices(graph, choice & 4 ? 32 : 64);
  const std::vector<float> scores = floats(graph.slots() * heads);
  std::vector<float> out(scores.size());
  return gnx_run_softmax(&indices.csr, scores.data(), heads, out.data(), &THREADS[choice % 3]);
}

void run_graph(const Graph &graph, int64_t width) {
  for (int32_t type = GNX_F32; type <= GNX_I8; ++type) {
    for (int32_t reduce = GNX_SUM; reduce <= GNX_PROD; ++reduce)
      valid(graph.name, aggregate(graph, type, reduce, width, 1, next() >> 8));
    for (int64_t heads : {2, 3}) valid(graph.name, aggregate(graph, type, GNX_SUM, width * heads, heads, next() >> 8));
  }
  for (int32_t score = GNX_GIVEN; score <= GNX_DOT; ++score) {
    for (int64_t heads : {1, 3}) valid(graph.name, attend(graph, score, width * heads, heads, next() >> 8));
  }
  valid(graph.name, soften(graph, width, next() >> 8));
}

void round_numbers() {
  for (int64_t count : {0, 1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 33, 255, 257, (1 << 18) + 7}) {
    const std::vector<float> x = floats(count);
    for (int32_t type : {GNX_BF16, GNX_F16}) {
      std::vector<uint16_t> out(static_cast<size_t>(count));
      valid("round", gnx_run_round(x.data(), count, type, out.data(), &THREADS[count % 3]));
    }
  }
  const float one = 1.0f;
  uint16_t half = 0;
  refused("round", gnx_run_round(&one, 1, GNX_F32, &half, nullptr));
  refused("round", gnx_run_round(&one, -1, GNX_BF16, &half, nullptr));
  refused("round", gnx_run_round(&one, INT64_MAX, GNX_BF16, &half, nullptr));
  refused("round", gnx_run_round(nullptr, 1, GNX_F16, &half, nullptr));
  refused("round", gnx_run_round(&one, 1, GNX_F16, nullptr, nullptr));
}

// Structures that lie about themselves, at every place where somebody could believe them.
void refuse(int64_t choice) {
  const Graph fine = hub(1200);
  const int64_t width = 257, far = choice & 4 ? INT32_MAX : INT64_MAX, last = fine.slots() - 1;
  // 1021 and 1203 lie where the part of the hub before them looks ahead.
  for (int64_t slot : {int64_t{0}, int64_t{1021}, int64_t{1199}, int64_t{1203}, last}) {
    for (int64_t bad : {int64_t{-1}, int64_t{50}, far, -far}) {
      Graph graph = fine;
      graph.col[slot] = bad;
      for (int32_t type = GNX_F32; type <= GNX_I8; ++type)
        refused("column", aggregate(graph, type, GNX_SUM, width, 1, choice));
      for (int32_t score = GNX_GIVEN; score <= GNX_DOT; ++score)
        refused("column", attend(graph, score, width, 1, choice));
    }
  }
  for (size_t row : {size_t{0}, size_t{1}, size_t{2}, size_t{20}, size_t{39}}) {
    for (int64_t bad : {int64_t{-1}, last + 2, far, -far}) {
      const auto lie = [&](gnx_csr &csr) {
        const bool narrow = csr.index_bits == 32;
        static std::vector<int32_t> of_32;
        static std::vector<int64_t> of_64;
        of_32.assign(fine.rowptr.begin(), fine.rowptr.end());
        of_64 = fine.rowptr;
        of_32[row] = static_cast<int32_t>(bad), of_64[row] = bad;
        csr.rowptr = narrow ? static_cast<const void *>(of_32.data()) : of_64.data();
      };
      const auto sum = [&](gnx_aggregate &work) { lie(work.csr); };
      refused("rowptr", aggregate(fine, GNX_I8, GNX_SUM, width, 1, choice, sum));
      const auto product = [&](gnx_attention &work) { lie(work.csr); };
      refused("rowptr", attend(fine, GNX_DOT, width, 1, choice, product));
    }
  }
}

void refuse_arguments(int64_t choice) {
  const Graph graph = graphs()[3];
  const std::vector<Change> changes = {
      [](gnx_aggregate &work) { work.x = nullptr; },
      [](gnx_aggregate &work) { work.out = nullptr; },
      [](gnx_aggregate &work) { work.csr.rowptr = nullptr; },
      [](gnx_aggregate &work) { work.csr.col = nullptr; },
      [](gnx_aggregate &work) { work.csr.num_slots += 1; },
      [](gnx_aggregate &work) { work.csr.num_rows = INT64_MAX; },
      [](gnx_aggregate &work) { work.csr.num_slots = INT64_MAX; },
      [](gnx_aggregate &work) { work.csr.num_src = -1; },
      [](gnx_aggregate &work) { work.width = INT64_MAX - 1; },
      [](gnx_aggregate &work) { work.width = -6; },
      [](gnx_aggregate &work) { work.heads = 5; },
      [](gnx_aggregate &work) { work.heads = 0; },
      [](gnx_aggregate &work) { work.type = 6; },
      [](gnx_aggregate &work) { work.reduce = GNX_MAX; },
      [](gnx_aggregate &work) { work.epilogue.activation = 9; },
  };
  for (const Change &change : changes) refused("argument", aggregate(graph, GNX_F32, GNX_SUM, 6, 2, choice, change));
  const std::vector<ChangeAttention> others = {
      [](gnx_attention &work) { work.x = nullptr; },      [](gnx_attention &work) { work.source = nullptr; },
      [](gnx_attention &work) { work.out = nullptr; },    [](gnx_attention &work) { work.destination = nullptr; },
      [](gnx_attention &work) { work.att = nullptr; },    [](gnx_attention &work) { work.score = 4; },
      [](gnx_attention &work) { work.heads = INT64_MAX; }, [](gnx_attention &work) { work.csr.num_slots -= 1; },
  };
  for (const ChangeAttention &change : others) refused("argument", attend(graph, GNX_GATV2, 6, 2, choice, change));
}

void run_path() {
  for (const Graph &graph : graphs()) {
    for (int64_t width : WIDTHS) run_graph(graph, width);
  }
  for (int64_t width : {130, 257}) run_graph(hub(4100), width);
  for (int64_t choice : {0, 1, 2, 4, 5, 6}) refuse_arguments(choice);
  for (int64_t choice : {0, 1, 4}) refuse(choice);
}

}  // namespace

int main() {
  for (const char *path : {"portable", "avx2", "avx512", "amx"}) {
    if (gnx_use_path(path) != GNX_OK) {
      std::printf("%s: this processor lacks it\n", path);
      continue;
    }
    run_path();
    round_numbers();
    run_linear();
    run_levels();
    run_packed();
    std::printf("%s: %ld calls\n", path, calls);
  }
  run_sort();
  run_edges();
  run_spread();
  run_neighbours();
  run_nothing();
  run_races();
  std::printf("%ld calls, %ld with another status than they should have\n", calls, failures);
  return failures == 0 ? 0 : 1;
}
