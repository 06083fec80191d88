#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace gnx {
namespace {

constexpr size_t MOST_THREADS = 256;

struct Queue {
  Task task;
  void *data;
  size_t count;
  std::atomic<size_t> next{0};

  void work() {
    for (size_t index = next++; index < count; index = next++) task(data, index);
  }
};

size_t usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

// Threads that sleep between calls. One call at a time has them; another that comes meanwhile works alone.
class Pool {
 public:
  bool run(Queue &queue, size_t helpers) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) return false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (started_ < helpers && start()) {
      }
      queue_ = &queue;
      wanted_ = std::min(helpers, started_);
    }
    wake_.notify_all();
    queue.work();
    std::unique_lock<std::mutex> lock(mutex_);
    wanted_ = 0;
    done_.wait(lock, [this] { return busy_ == 0; });
    queue_ = nullptr;
    return true;
  }

 private:
  bool start() {
    try {
      std::thread([this] { serve(); }).detach();
    } catch (...) {
      return false;
    }
    ++started_;
    return true;
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return wanted_ > 0; });
      --wanted_;
      ++busy_;
      Queue *queue = queue_;
      lock.unlock();
      queue->work();
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable wake_, done_;
  Queue *queue_ = nullptr;
  size_t started_ = 0, wanted_ = 0, busy_ = 0;
};

// Never destroyed: its threads may outlive main. Made without a lock, which a fork might leave held in the child.
std::atomic<Pool *> shared{nullptr};

Pool &pool() {
  Pool *found = shared.load();
  if (found) return *found;
  auto made = std::make_unique<Pool>();
  return shared.compare_exchange_strong(found, made.get()) ? *made.release() : *found;
}

#if !defined(_WIN32)
// A forked child has none of the threads, and makes a pool of its own.
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { shared.store(nullptr); });
#endif

}  // namespace

void run_tasks(const gnx_threads *threads, size_t count, Task task, void *data) {
  Queue queue{task, data, count};
  const bool hosted = threads && threads->run;
  size_t workers = threads && threads->count > 0 ? static_cast<size_t>(threads->count) : usable_cores();
  workers = std::min({workers, count, MOST_THREADS});
  if (workers > 1 && hosted) {
    threads->run(threads->host, [](void *shared, size_t) { static_cast<Queue *>(shared)->work(); }, workers, &queue);
  } else if (workers <= 1 || !pool().run(queue, workers - 1)) {
    queue.work();
  }
}

}  // namespace gnx
