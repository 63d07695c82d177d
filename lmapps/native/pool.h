// Threads that wait for one piece of work at a time, and a barrier between its stages.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lmapps {

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `done()`; after a while it lets others run, in case a core has two of our threads.
template <class Done> inline void spin(Done done) {
  for (int tries = 0; !done(); tries++)
    if (tries < 4000) pause();
    else std::this_thread::yield();
}

class Pool {
 public:
  explicit Pool(int threads) : count(threads) {
    try {
      for (int i = 1; i < count; i++) workers.emplace_back([this, i] { serve(i); });
    } catch (...) {   // the system has no thread more: those that began would end the process
      end();
      throw;
    }
  }

  ~Pool() { end(); }

  // Runs work(0) here and work(1) .. work(count - 1) in the others; returns when all are done.
  void run(const std::function<void(int)> &piece) {
    work = &piece;
    announce();
    piece(0);
    barrier();
  }

  // Nobody goes on before everybody is here. A stage lasts some microseconds: sleeping and being
  // woken would take longer than the work.
  void barrier() {
    if (count == 1) return;
    unsigned now = phase.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) == count - 1) {
      arrived.store(0, std::memory_order_relaxed);
      phase.store(now + 1, std::memory_order_release);
    } else {
      spin([&] { return phase.load(std::memory_order_acquire) != now; });
    }
  }

  const int count;

 private:
  void end() {
    work = nullptr;
    announce();
    for (std::thread &worker : workers) worker.join();
  }

  void announce() {
    if (count == 1) return;
    {
      std::lock_guard<std::mutex> lock(mutex);
      jobs.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
  }

  void serve(int number) {
    for (unsigned seen = 0;; seen++) {
      // The next token is usually asked for within the time that sampling takes: look out for it
      // for 0.3 ms, then sleep.
      auto called = [&] { return jobs.load(std::memory_order_acquire) != seen; };
      const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(300);
      while (!called() && std::chrono::steady_clock::now() < end)
        for (int i = 0; i < 16 && !called(); i++) pause();
      if (!called()) {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, called);
      }
      if (!work) return;
      (*work)(number);
      barrier();
    }
  }

  const std::function<void(int)> *work = nullptr;
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<unsigned> phase{0};
  alignas(64) std::atomic<unsigned> jobs{0};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;
};

}  // namespace lmapps
