#include "thread_pool.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace int_flash {
namespace {

void relax() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

struct Batch {
    void (*run)(void*, int64_t);
    void* context;
    int64_t tasks;
    int helpers_wanted;            // guarded by the pool's mutex, like the next two
    int helpers_inside = 0;
    Batch* next_batch = nullptr;
    std::atomic<int64_t> next_task{0};
    std::atomic<int> inside{0};  // mirror of helpers_inside, for spinning without the lock

    void work() {
        for (;;) {
            const int64_t task = next_task.fetch_add(1, std::memory_order_relaxed);
            if (task >= tasks) return;
            run(context, task);
        }
    }
};

struct Detached {
    void (*start)(void*);
    void* context;
    Detached* next;
};

// A decode step calls once a layer, every few microseconds: a thread that slept would cost more than the layer. After this long
// without work it does sleep.
constexpr auto kSpin = std::chrono::microseconds(60);

class Pool {
public:
    void parallel_for(int threads, Batch* batch) {
        {
            std::unique_lock<std::mutex> lock(mutex_);
            grow(threads - 1);
            batch->next_batch = batches_;
            batches_ = batch;
            wake(lock, batch->helpers_wanted);
        }
        batch->work();
        std::unique_lock<std::mutex> lock(mutex_);
        for (Batch** link = &batches_; *link; link = &(*link)->next_batch) {
            if (*link != batch) continue;
            *link = batch->next_batch;
            break;
        }
        if (batch->helpers_inside == 0) return;
        lock.unlock();
        for (int i = 0; i < 2000 && batch->inside.load(std::memory_order_acquire) > 0; i++) relax();
        lock.lock();
        left_.wait(lock, [&] { return batch->helpers_inside == 0; });
    }

    bool run_detached(int threads, Detached* job) {
        std::unique_lock<std::mutex> lock(mutex_);
        grow(threads);
        if (size_ == 0) return false;
        Detached** link = &detached_;
        while (*link) link = &(*link)->next;
        *link = job;
        wake(lock, 1);
        return true;
    }

private:
    void wake(std::unique_lock<std::mutex>&, int wanted) {
        epoch_.fetch_add(1, std::memory_order_release);
        if (sleeping_ == 0) return;
        if (wanted == 1) {
            work_.notify_one();
        } else {
            work_.notify_all();
        }
    }

    void grow(int wanted) {
        while (size_ < wanted) {
            pthread_t thread;
            pthread_attr_t attributes;
            pthread_attr_init(&attributes);
            pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
            pthread_attr_setstacksize(&attributes, size_t{1} << 20);
            const int failed = pthread_create(&thread, &attributes, [](void* pool) -> void* {
                static_cast<Pool*>(pool)->serve();
                return nullptr;
            }, this);
            pthread_attr_destroy(&attributes);
            if (failed) return;  // fewer helpers: slower, never wrong
            size_++;
        }
    }

    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            if (Batch* batch = joinable()) {
                batch->helpers_wanted--;
                batch->helpers_inside++;
                batch->inside.fetch_add(1, std::memory_order_relaxed);
                lock.unlock();
                batch->work();
                lock.lock();
                batch->helpers_inside--;
                if (batch->helpers_inside == 0) left_.notify_all();
                batch->inside.fetch_sub(1, std::memory_order_release);  // under the lock: the owner frees the batch only after taking it
                continue;
            }
            if (Detached* job = detached_) {
                detached_ = job->next;
                lock.unlock();
                job->start(job->context);
                delete job;
                lock.lock();
                continue;
            }
            const uint64_t seen = epoch_.load(std::memory_order_relaxed);
            lock.unlock();
            const auto deadline = std::chrono::steady_clock::now() + kSpin;
            bool fresh = false;
            while (!fresh && std::chrono::steady_clock::now() < deadline) {
                for (int i = 0; i < 16 && !fresh; i++) {
                    relax();
                    fresh = epoch_.load(std::memory_order_acquire) != seen;
                }
            }
            lock.lock();
            if (fresh || epoch_.load(std::memory_order_relaxed) != seen) continue;
            sleeping_++;
            work_.wait(lock);
            sleeping_--;
        }
    }

    Batch* joinable() {
        for (Batch* batch = batches_; batch; batch = batch->next_batch) {
            if (batch->helpers_wanted > 0 && batch->next_task.load(std::memory_order_relaxed) < batch->tasks) return batch;
        }
        return nullptr;
    }

    std::mutex mutex_;
    std::condition_variable work_, left_;
    std::atomic<uint64_t> epoch_{0};
    Batch* batches_ = nullptr;
    Detached* detached_ = nullptr;
    int size_ = 0, sleeping_ = 0;
};

Pool& pool() {
    static Pool* const instance = new Pool;  // never deleted: its threads may outlive static destruction
    return *instance;
}

}  // namespace

void parallel_for(int threads, int64_t tasks, void (*run)(void*, int64_t), void* context) {
    if (threads > tasks) threads = static_cast<int>(tasks);
    if (threads <= 1) {
        for (int64_t task = 0; task < tasks; task++) run(context, task);
        return;
    }
    Batch batch;
    batch.run = run;
    batch.context = context;
    batch.tasks = tasks;
    batch.helpers_wanted = threads - 1;
    pool().parallel_for(threads, &batch);
}

bool run_detached(int threads, void (*start)(void*), void* context) {
    auto* job = new Detached{start, context, nullptr};
    if (pool().run_detached(threads, job)) return true;
    delete job;
    return false;
}

}  // namespace int_flash
