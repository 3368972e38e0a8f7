#include "thread_pool.h"

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif
#include <unistd.h>

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

// The CPU that this thread runs on, -1 where nobody says.
int current_cpu() {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}

void give_way() {
#if defined(__linux__)
    sched_yield();
#endif
}

constexpr int kPlaces = 4096, kNowhere = -1;

struct Place {
    std::atomic<uintptr_t> from[Reading::kRuns];
    std::atomic<size_t> bytes[Reading::kRuns];
    std::atomic<int> next;  // the one that was read after it the last time
    std::atomic<bool> is_taken;
};
Place places[kPlaces];

// Into the core's own cache, not the fastest one. An address that is not there is no fault.
void fetch_line(uintptr_t line) {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T1);
#else
    __builtin_prefetch(reinterpret_cast<const char*>(line), 0, 2);
#endif
}

// How much a helper asks for: half of its core's own cache.
size_t ahead_bytes() {
    static const size_t bytes = [] {
        long size = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
        size = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
        return size > 0 ? static_cast<size_t>(size) / 2 : size_t{256} << 10;  // many a core has 512 KB
    }();
    return bytes;
}

// A helper's way through what it will read.
class LookAhead {
public:
    // Behind a batch that thread `thread` of `threads` had its part in.
    void begin(int place, int thread, int threads) {
        place_ = places[place].next.load(std::memory_order_relaxed);
        thread_ = static_cast<size_t>(thread), threads_ = static_cast<size_t>(threads);
        left_ = ahead_bytes();
        run_ = 0, at_ = end_ = 0;
    }

    // Asks for some lines. False when it has nothing to ask for.
    bool step() {
        if (left_ == 0 || (at_ == end_ && !find())) return false;
        for (int i = 0; i < kLines && at_ < end_; i++, at_ += kLineBytes) fetch_line(at_);
        spend(kLines * kLineBytes);
        return true;
    }

private:
    static constexpr size_t kLineBytes = 64, kLines = 8;

    // Its part of the next run of memory.
    bool find() {
        if (run_ == Reading::kRuns) {
            if (place_ != kNowhere) place_ = places[place_].next.load(std::memory_order_relaxed);
            run_ = 0;
        }
        if (place_ == kNowhere) return false;
        const Place& place = places[place_];
        const uintptr_t from = place.from[run_].load(std::memory_order_relaxed);
        const size_t lines = place.bytes[run_].load(std::memory_order_relaxed) / kLineBytes;
        at_ = from + lines * thread_ / threads_ * kLineBytes;
        end_ = from + lines * (thread_ + 1) / threads_ * kLineBytes;
        run_++;
        spend(kLineBytes);  // a circle of places without memory comes to an end, too
        return true;
    }

    void spend(size_t bytes) { left_ -= left_ < bytes ? left_ : bytes; }

    int place_ = kNowhere, run_ = 0;
    size_t thread_ = 0, threads_ = 1, left_ = 0;
    uintptr_t at_ = 0, end_ = 0;
};

// Tasks [next, end) that one thread works through, as next * 2^32 + end.
struct alignas(64) Share {
    std::atomic<uint64_t> tasks{0};

    void set(uint64_t next, uint64_t end) { tasks.store(next << 32 | end, std::memory_order_relaxed); }
    bool empty() const {
        const uint64_t now = tasks.load(std::memory_order_relaxed);
        return now >> 32 >= (now & 0xffffffffu);
    }
    // The next task, or the last one for a thread that has done its own share; -1 when there is none.
    int64_t take(bool last) {
        uint64_t now = tasks.load(std::memory_order_relaxed);
        for (;;) {
            const uint64_t next = now >> 32, end = now & 0xffffffffu;
            if (next >= end) return -1;
            const uint64_t after = last ? next << 32 | (end - 1) : (next + 1) << 32 | end;
            if (tasks.compare_exchange_weak(now, after, std::memory_order_relaxed)) return static_cast<int64_t>(last ? end - 1 : next);
        }
    }
};

constexpr int kMostShares = 32;  // with more threads, several work through one

// A run of tasks a thread, the same in every call of the same size: what a task reads stays in the cache of the core that read it in the
// call before. Who is done early takes from the others.
struct Batch {
    void (*run)(void*, int64_t);
    void* context;
    int shares;
    int place;                     // of what it reads, or kNowhere
    int helpers_wanted;            // guarded by the pool's mutex, like the next two
    int helpers_inside = 0;
    Batch* next_batch = nullptr;
    std::atomic<int> inside{0};  // mirror of helpers_inside, for spinning without the lock
    Share share[kMostShares];

    void work(int thread) {
        const int own = thread % shares;
        for (int i = 0; i < shares; i++) {
            Share& from = share[(own + i) % shares];
            for (int64_t task = from.take(i > 0); task >= 0; task = from.take(i > 0)) run(context, task);
        }
    }
    bool has_work() const {
        for (int i = 0; i < shares; i++)
            if (!share[i].empty()) return true;
        return false;
    }
};

struct Detached {
    void (*start)(void*);
    void* context;
    Detached* next;
};

// A decode step calls once a layer, every few microseconds: a thread that slept would cost more than the layer. After this long
// without work it does sleep.
constexpr auto kSpin = std::chrono::microseconds(200);

class Pool {
public:
    void parallel_for(int threads, Batch* batch) {
        {
            std::unique_lock<std::mutex> lock = lock_soon();
            caller_cpu_.store(current_cpu(), std::memory_order_relaxed);
            grow(threads - 1);
            batch->next_batch = batches_;
            batches_ = batch;
            if (batch->place != kNowhere) {
                if (last_place_ != kNowhere) places[last_place_].next.store(batch->place, std::memory_order_relaxed);
                last_place_ = batch->place;
            }
            wake(lock, batch->helpers_wanted);
        }
        batch->work(0);
        std::unique_lock<std::mutex> lock = lock_soon();
        for (Batch** link = &batches_; *link; link = &(*link)->next_batch) {
            if (*link != batch) continue;
            *link = batch->next_batch;
            break;
        }
        if (batch->helpers_inside == 0) return;
        lock.unlock();
        for (int i = 0; i < 2000; i++) {
            if (batch->inside.load(std::memory_order_acquire) == 0) return;  // the last that a helper touches of it, and none can join any more
            relax();
        }
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
    // Nobody holds the lock for long, and asking the system to wait for it takes longer than that.
    std::unique_lock<std::mutex> lock_soon() {
        std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        for (int i = 0; i < 100 && !lock.owns_lock(); i++) {
            relax();
            (void)lock.try_lock();
        }
        if (!lock.owns_lock()) lock.lock();
        return lock;
    }

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
        const int thread = ++serving_;  // 0 is whoever calls
        LookAhead ahead;
        for (;;) {
            if (Batch* batch = joinable()) {
                batch->helpers_wanted--;
                batch->helpers_inside++;
                batch->inside.fetch_add(1, std::memory_order_relaxed);
                lock.unlock();
                batch->work(thread);
                if (batch->place != kNowhere) ahead.begin(batch->place, thread % batch->shares, batch->shares);
                lock = lock_soon();
                batch->helpers_inside--;
                if (batch->helpers_inside == 0) left_.notify_all();
                batch->inside.fetch_sub(1, std::memory_order_release);  // last: the owner may free the batch now. Under the lock: one that waits sees both
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
                    if (!ahead.step()) relax();
                    fresh = epoch_.load(std::memory_order_acquire) != seen;
                }
                // Where other processes keep the other cores busy, it would wait for the very thread that it keeps from running.
                const int cpu = current_cpu();
                if (!fresh && cpu >= 0 && cpu == caller_cpu_.load(std::memory_order_relaxed)) give_way();
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
            if (batch->helpers_wanted > 0 && batch->has_work()) return batch;
        }
        return nullptr;
    }

    std::mutex mutex_;
    std::condition_variable work_, left_;
    std::atomic<uint64_t> epoch_{0};
    std::atomic<int> caller_cpu_{-1};  // of the last batch
    Batch* batches_ = nullptr;
    Detached* detached_ = nullptr;
    int last_place_ = kNowhere;  // of the last batch that had one
    int size_ = 0, serving_ = 0, sleeping_ = 0;
};

Pool& pool() {
    static Pool* const instance = new Pool;  // never deleted: its threads may outlive static destruction
    return *instance;
}

}  // namespace

Reading::Reading() : place_(kNowhere) {
    for (int i = 0; i < kPlaces && place_ == kNowhere; i++) {
        if (!places[i].is_taken.exchange(true, std::memory_order_acq_rel)) place_ = i;
    }
    if (place_ != kNowhere) places[place_].next.store(kNowhere, std::memory_order_relaxed);
}

Reading::~Reading() {
    if (place_ == kNowhere) return;
    for (int run = 0; run < kRuns; run++) set(run, nullptr, 0);
    places[place_].is_taken.store(false, std::memory_order_release);
}

void Reading::set(int run, const void* from, size_t bytes) const {
    if (place_ == kNowhere) return;
    places[place_].from[run].store(reinterpret_cast<uintptr_t>(from), std::memory_order_relaxed);
    places[place_].bytes[run].store(bytes, std::memory_order_relaxed);
}

void parallel_for(int threads, int64_t tasks, void (*run)(void*, int64_t), void* context, const Reading* reading) {
    if (threads > tasks) threads = static_cast<int>(tasks);
    constexpr int64_t kMostTasks = 0x7fffffff;  // a share's numbers have 32 bits
    if (tasks > kMostTasks) {
        struct Groups {
            void (*run)(void*, int64_t);
            void* context;
            int64_t tasks, size;
        } groups{run, context, tasks, tasks / kMostTasks + 1};
        const auto run_group = [](void* all, int64_t group) {
            const Groups& g = *static_cast<Groups*>(all);
            for (int64_t task = group * g.size; task < (group + 1) * g.size && task < g.tasks; task++) g.run(g.context, task);
        };
        return parallel_for(threads, (tasks + groups.size - 1) / groups.size, run_group, &groups);
    }
    if (threads <= 1) {
        for (int64_t task = 0; task < tasks; task++) run(context, task);
        return;
    }
    Batch batch;
    batch.run = run;
    batch.context = context;
    batch.place = reading ? reading->place() : kNowhere;
    batch.shares = threads < kMostShares ? threads : kMostShares;
    batch.helpers_wanted = threads - 1;
    for (int i = 0; i < batch.shares; i++) batch.share[i].set(static_cast<uint64_t>(first_task(tasks, batch.shares, i)), static_cast<uint64_t>(first_task(tasks, batch.shares, i + 1)));
    pool().parallel_for(threads, &batch);
}

bool run_detached(int threads, void (*start)(void*), void* context) {
    auto* job = new Detached{start, context, nullptr};
    if (pool().run_detached(threads, job)) return true;
    delete job;
    return false;
}

}  // namespace int_flash
