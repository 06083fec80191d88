// Several callers at once, each on the library's own threads: what they get has the bits of one caller on one thread.
#include <atomic>
#include <functional>
#include <string>
#include <thread>

#include "driver.hpp"

namespace {

constexpr int CALLERS = 4, ROUNDS = 2;
constexpr size_t LONGEST_MESSAGE = 256;  // in place of a result that there is not

using Bytes = std::vector<char>;

struct Job {
  const char *name;
  std::function<Bytes(const gnx_threads &threads)> run;
};

// Numbers whose sums depend on the order in which they are added.
std::vector<float> numbers(int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  for (float &value : out) value = static_cast<float>(next() >> 8) / (1 << 23) - 1.0f;
  return out;
}

template <class Type>
Bytes bytes_of(const std::vector<Type> &values) {
  const char *const begin = reinterpret_cast<const char *>(values.data());
  return Bytes(begin, begin + values.size() * sizeof(Type));
}

// What a call wrote, or its status where that is no success.
template <class Type>
Bytes answer(int32_t status, const std::vector<Type> &values) {
  if (status == GNX_OK) return bytes_of(values);
  const std::string message = gnx_message(status);
  return Bytes(message.begin(), message.end());
}

// Rows of a graph whose hub several tasks share.
std::vector<Job> reductions() {
  static const Graph graph = hub(4100);
  static const Indices indices(graph, 64);
  constexpr int64_t width = 256, narrow = 64, heads = 4;
  static const std::vector<float> x = numbers(graph.num_src * width), terms = numbers(graph.num_src * heads);
  static const std::vector<float> scores = numbers(graph.slots() * narrow);
  static const std::vector<char> integers = bytes(graph.num_src * width);
  static gnx_matrix *matrices[3] = {};  // by layout, as long as the program runs
  for (int32_t layout : {GNX_DENSE, GNX_SPARSE, GNX_BLOCKS})
    gnx_pack_matrix(scores.data(), narrow, width, layout, &matrices[layout]);
  const auto linear = [](int32_t layout, int32_t own_layout, const gnx_threads &threads) {
    std::vector<float> out(static_cast<size_t>(graph.rows() * narrow));
    gnx_linear work{};
    work.sum.csr = indices.csr, work.sum.x = x.data(), work.sum.width = width, work.sum.heads = 1;
    work.own = x.data(), work.matrix = matrices[layout], work.own_matrix = matrices[own_layout], work.out = out.data();
    return answer(gnx_run_linear(&work, &threads), out);
  };
  const auto sum = [](int32_t type, const void *rows, const gnx_threads &threads) {
    std::vector<float> out(static_cast<size_t>(graph.rows() * width));
    gnx_aggregate work{};
    work.csr = indices.csr, work.x = rows, work.width = width, work.type = type, work.heads = 1;
    work.out = out.data();
    return answer(gnx_run_aggregate(&work, &threads), out);
  };
  return {{"sum", [=](const gnx_threads &threads) { return sum(GNX_F32, x.data(), threads); }},
          {"sum of integers", [=](const gnx_threads &threads) { return sum(GNX_I8, integers.data(), threads); }},
          {"linear", [=](const gnx_threads &threads) { return linear(GNX_DENSE, GNX_DENSE, threads); }},
          {"sparse linear", [=](const gnx_threads &threads) { return linear(GNX_SPARSE, GNX_SPARSE, threads); }},
          {"mixed linear", [=](const gnx_threads &threads) { return linear(GNX_SPARSE, GNX_BLOCKS, threads); }},
          {"attention",
           [](const gnx_threads &threads) {
             std::vector<float> out(static_cast<size_t>(graph.rows() * width));
             gnx_attention work{};
             work.csr = indices.csr, work.x = x.data(), work.width = width, work.heads = heads, work.score = GNX_GAT;
             work.source = work.destination = terms.data(), work.slope = 0.2f, work.out = out.data();
             return answer(gnx_run_attention(&work, &threads), out);
           }},
          {"softmax",
           [](const gnx_threads &threads) {
             std::vector<float> out(scores.size());
             return answer(gnx_run_softmax(&indices.csr, scores.data(), narrow, out.data(), &threads), out);
           }},
          {"spread", [](const gnx_threads &threads) {
             std::vector<float> out(scores.size());
             return answer(gnx_run_spread(&indices.csr, x.data(), narrow, out.data(), &threads), out);
           }}};
}

// The same for rows of levels, of which tasks take more, and rows of a few bits.
std::vector<Job> levels() {
  static const Graph graph = hub(17000);
  static const Indices indices(graph, 32);
  constexpr int64_t width = 64, narrow = 24;
  static const std::vector<char> rows = bytes(graph.num_src * width / 2), weights = bytes(narrow * width);
  static const std::vector<float> own = numbers(graph.rows() * width), step(width, 0.25f);
  static const std::vector<uint8_t> bits = {2, 4, 8};
  static std::vector<uint8_t> payload(static_cast<size_t>(graph.rows() * width));
  static const std::vector<float> of_rows(static_cast<size_t>(graph.rows()), 0.01f);
  static gnx_matrix *matrix = nullptr;  // as long as the program runs
  gnx_pack_levels(reinterpret_cast<const int8_t *>(weights.data()), narrow, width, &matrix);
  static const gnx_packed packed{payload.data(), nullptr, nullptr, of_rows.data(), nullptr, graph.rows(), width,
                                 static_cast<int64_t>(payload.size()), 1};
  gnx_pack_rows(&packed, nullptr, graph.rows(), own.data(), nullptr);
  static gnx_aggregate reduced{};
  reduced.csr = indices.csr, reduced.x = rows.data(), reduced.width = width, reduced.type = GNX_U4, reduced.heads = 1;
  return {{"sum of levels",
           [](const gnx_threads &threads) {
             std::vector<float> out(static_cast<size_t>(graph.rows() * width));
             gnx_aggregate work = reduced;
             work.out = out.data();
             return answer(gnx_run_aggregate(&work, &threads), out);
           }},
          {"layer of levels",
           [](const gnx_threads &threads) {
             std::vector<uint8_t> out(static_cast<size_t>(graph.rows() * narrow));
             const gnx_quantiser nearest{step.data(), bits.data(), 3, 1, 1}, by_row{step.data(), bits.data(), 3, 1, 0};
             gnx_level_linear work{};
             work.sum = reduced;
             work.product = {nullptr, nullptr, nearest, matrix, step.data()};
             work.own = {own.data(), nullptr, by_row, matrix, step.data()};
             work.next = {step.data(), 8, 128, out.data()};
             return answer(gnx_run_level_linear(&work, &threads), out);
           }},
          {"packed rows", [](const gnx_threads &threads) {
             std::vector<float> out(own.size());
             return answer(gnx_unpack_rows(&packed, nullptr, graph.rows(), out.data(), &threads), out);
           }}};
}

// Edges of several stretches.
std::vector<Job> structures() {
  constexpr int64_t num_edges = 200000, num_nodes = 500;
  static std::vector<int64_t> src, dst;
  for (int64_t edge = 0; edge < num_edges; ++edge) src.push_back(next() % num_nodes), dst.push_back(next() % num_nodes);
  return {{"sort",
           [](const gnx_threads &threads) {
             std::vector<int64_t> made(num_nodes + 1 + num_edges);
             int64_t *const rowptr = made.data(), *const perm = rowptr + num_nodes + 1;
             return answer(gnx_build_csr(dst.data(), num_edges, num_nodes, 64, rowptr, perm, &threads), made);
           }},
          {"edges", [](const gnx_threads &threads) {
             gnx_edges edges{src.data(), dst.data(), nullptr, num_edges, num_nodes, 0, GNX_LOOPS_ONE, 1.0f, 1};
             gnx_count_slots(&edges, &edges.num_slots);
             std::vector<int64_t> rowptr(num_nodes + 1), col(static_cast<size_t>(edges.num_slots));
             std::vector<float> weight(col.size());
             const int32_t status = gnx_prepare_edges(&edges, rowptr.data(), col.data(), weight.data(), &threads);
             Bytes made = answer(status, col), rest = bytes_of(weight);
             made.insert(made.end(), rest.begin(), rest.end());
             return made;
           }}};
}

}  // namespace

void run_races() {
  std::vector<Job> jobs = reductions();
  for (Job &job : levels()) jobs.push_back(job);
  for (Job &job : structures()) jobs.push_back(job);
  std::vector<Bytes> alone;
  for (const Job &job : jobs) {
    alone.push_back(job.run({nullptr, nullptr, 1}));
    expect(alone.back().size() > LONGEST_MESSAGE, job.name, GNX_OK);
  }
  std::vector<std::atomic<int>> differ(jobs.size());
  std::vector<std::thread> callers;
  for (int caller = 0; caller < CALLERS; ++caller) {
    callers.emplace_back([&, caller] {
      for (int step = 0; step < ROUNDS * static_cast<int>(jobs.size()); ++step) {
        const size_t job = (caller + step) % jobs.size();
        for (int32_t count : {1, 2, 4}) differ[job] += jobs[job].run({nullptr, nullptr, count}) != alone[job];
      }
    });
  }
  for (std::thread &caller : callers) caller.join();
  for (size_t job = 0; job < jobs.size(); ++job) expect(differ[job] == 0, jobs[job].name, GNX_OK);
}
