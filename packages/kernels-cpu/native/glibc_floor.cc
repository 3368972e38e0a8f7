// What keeps the addon loadable on systems as old as Node itself allows (glibc 2.28), wherever it was compiled. The linker turns each
// reference to a newer version of these symbols, also those inside the static libstdc++ and libgcc, into one to a function below
// (--wrap, in CMakeLists.txt). `node tools/build-prebuilt.mjs` measures the result.
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {

// glibc 2.34 moved threads into libc, and 2.29 took log2's error handling out of it: the first version is the same function.
#define INT_FLASH_FIRST_VERSION(name) __asm__(".symver first_" #name "," #name "@GLIBC_2.2.5")
int first_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
int first_pthread_once(pthread_once_t*, void (*)());
int first_pthread_key_create(pthread_key_t*, void (*)(void*));
int first_pthread_key_delete(pthread_key_t);
void* first_pthread_getspecific(pthread_key_t);
int first_pthread_setspecific(pthread_key_t, const void*);
int first_pthread_attr_setstacksize(pthread_attr_t*, size_t);
int first_pthread_mutex_trylock(pthread_mutex_t*);
double first_log2(double);
INT_FLASH_FIRST_VERSION(pthread_create);
INT_FLASH_FIRST_VERSION(pthread_once);
INT_FLASH_FIRST_VERSION(pthread_key_create);
INT_FLASH_FIRST_VERSION(pthread_key_delete);
INT_FLASH_FIRST_VERSION(pthread_getspecific);
INT_FLASH_FIRST_VERSION(pthread_setspecific);
INT_FLASH_FIRST_VERSION(pthread_attr_setstacksize);
INT_FLASH_FIRST_VERSION(pthread_mutex_trylock);
INT_FLASH_FIRST_VERSION(log2);

int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*), void* argument) {
  return first_pthread_create(thread, attributes, run, argument);
}
int __wrap_pthread_once(pthread_once_t* once, void (*run)()) { return first_pthread_once(once, run); }
int __wrap_pthread_key_create(pthread_key_t* key, void (*destroy)(void*)) { return first_pthread_key_create(key, destroy); }
int __wrap___pthread_key_create(pthread_key_t* key, void (*destroy)(void*)) { return first_pthread_key_create(key, destroy); }
int __wrap_pthread_key_delete(pthread_key_t key) { return first_pthread_key_delete(key); }
void* __wrap_pthread_getspecific(pthread_key_t key) { return first_pthread_getspecific(key); }
int __wrap_pthread_setspecific(pthread_key_t key, const void* value) { return first_pthread_setspecific(key, value); }
int __wrap_pthread_attr_setstacksize(pthread_attr_t* attributes, size_t size) {
  return first_pthread_attr_setstacksize(attributes, size);
}
int __wrap_pthread_mutex_trylock(pthread_mutex_t* mutex) { return first_pthread_mutex_trylock(mutex); }
double __wrap_log2(double x) { return first_log2(x); }

// Part of libstdc++'s std::random_device, which this addon does not use; failing is an answer that its callers know.
int __wrap_getentropy(void*, size_t) {
  errno = ENOSYS;
  return -1;
}
uint32_t __wrap_arc4random() { __builtin_trap(); }

// libgcc's unwinder asks it for a frame's tables. Nothing here throws or catches (-fno-exceptions): "not found" ends in terminate(), as
// an exception without a handler would.
int __wrap__dl_find_object(void*, void*) { return -1; }

// libstdc++ counts references without atomics while a process has one thread. Node never has.
char __wrap___libc_single_threaded = 0;

}  // extern "C"
