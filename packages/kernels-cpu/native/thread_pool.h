// Threads of our own, never libuv's four. One pool a process, shared by every backend and every JS thread; it grows to the largest
// number of threads asked for and is never torn down: its threads are detached and touch nothing with a destructor, so the process
// may exit at any moment, and the addon stays mapped (see CMakeLists.txt) when the worker that loaded it goes.
#pragma once
#include <cstddef>
#include <cstdint>

namespace int_flash {

// What the tasks of a batch read, in their order: runs of memory that threads share out as they share out the tasks. A helper with nothing to do asks for its part of
// the next batch's, the one that came next the last time, into its core's own cache. It keeps addresses and reads nothing, so memory that is gone
// meanwhile does no harm.
class Reading {
public:
    static constexpr int kRuns = 2;

    Reading();  // with thousands of others in use nothing is asked for
    ~Reading();
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;

    void set(int run, const void* from, size_t bytes) const;
    int place() const { return place_; }

private:
    int place_;
};

// Calls run(context, task) for every task in [0, tasks), on the calling thread and up to `threads - 1` others; returns when all are
// done. Each thread has a run of tasks of its own, works through it in order, and then helps the others.
void parallel_for(int threads, int64_t tasks, void (*run)(void* context, int64_t task), void* context, const Reading* reading = nullptr);

// First task of thread i of so many.
inline int64_t first_task(int64_t tasks, int threads, int i) { return tasks * i / threads; }
// Whether it is the first of some thread's, where parallel_for() has so many threads and tasks.
inline bool is_first_task(int threads, int64_t tasks, int64_t task) {
    if (threads > tasks) threads = static_cast<int>(tasks);
    return first_task(tasks, threads, static_cast<int>((task * threads + tasks - 1) / tasks)) == task;
}

// How many of `most` threads to use for work that `threads` of them are worth waking for.
inline int threads_worth(double threads, int most) { return threads < 2 ? 1 : threads < most ? static_cast<int>(threads) : most; }

// Runs start(context) on a pool thread. False when no thread could be started.
bool run_detached(int threads, void (*start)(void* context), void* context);

template <class F>
void parallel_for(int threads, int64_t tasks, F& body, const Reading* reading = nullptr) {
    parallel_for(threads, tasks, [](void* context, int64_t task) { (*static_cast<F*>(context))(task); }, &body, reading);
}

}  // namespace int_flash
