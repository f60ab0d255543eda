// Reads that fail on demand. Preloaded into a test's process, it stands before pread and preadv; the functions at the
// end say which reads of which files fail, and how. Other reads go through untouched.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

// `value` is the errno of FAIL, and the most bytes that SHORTEN lets through.
enum { NOTHING, FAIL, SHORTEN, HOLD };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static char wanted[256];
static int kind = NOTHING;
static long value, first, last, seen, held;

static int is_wanted(int descriptor) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = '\0';
    return strstr(path, wanted) != NULL;
}

// Counts a read; the kind of fault it meets, with its value. A held read waits here for the next faults_set().
static int meet(int descriptor, long* number) {
    pthread_mutex_lock(&mutex);
    int met = NOTHING;
    if (wanted[0] != '\0' && is_wanted(descriptor) && ++seen >= first && seen <= last) met = kind;
    *number = value;
    if (met == HOLD) {
        ++held;
        pthread_cond_broadcast(&changed);
        while (kind == HOLD) pthread_cond_wait(&changed, &mutex);
        --held;
    }
    pthread_mutex_unlock(&mutex);
    return met;
}

static ssize_t outcome(int met, long number, ssize_t got) {
    if (met == SHORTEN && got > number) return number;
    return got;
}

// A function that stands before the one of the same name: the arguments' declaration, then the arguments.
#define STAND_BEFORE(name, declared, ...)                                    \
    ssize_t name declared {                                                  \
        long number;                                                         \
        const int met = meet(descriptor, &number);                           \
        ssize_t(*const original) declared = dlsym(RTLD_NEXT, #name);         \
        if (met != FAIL) return outcome(met, number, original(__VA_ARGS__)); \
        errno = (int)number;                                                 \
        return -1;                                                           \
    }

#define BUFFER (int descriptor, void* buffer, size_t count, off_t offset)
#define PARTS (int descriptor, const struct iovec* parts, int count, off_t offset)
#define PARTS2 (int descriptor, const struct iovec* parts, int count, off_t offset, int flags)
STAND_BEFORE(pread, BUFFER, descriptor, buffer, count, offset)
STAND_BEFORE(pread64, BUFFER, descriptor, buffer, count, offset)
STAND_BEFORE(preadv, PARTS, descriptor, parts, count, offset)
STAND_BEFORE(preadv64, PARTS, descriptor, parts, count, offset)
STAND_BEFORE(preadv2, PARTS2, descriptor, parts, count, offset, flags)
STAND_BEFORE(preadv64v2, PARTS2, descriptor, parts, count, offset, flags)

// Reads number `from` to `to`, counted from now, of files whose path holds `name` meet a fault.
void faults_set(const char* name, int new_kind, long new_value, long from, long to) {
    pthread_mutex_lock(&mutex);
    snprintf(wanted, sizeof wanted, "%s", name);
    kind = new_kind;
    value = new_value;
    first = from;
    last = to;
    seen = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

// Reads of files with the name, since faults_set().
long faults_seen(void) {
    pthread_mutex_lock(&mutex);
    const long count = seen;
    pthread_mutex_unlock(&mutex);
    return count;
}

// Waits until a read is held; returns how many are.
long faults_await_held(void) {
    pthread_mutex_lock(&mutex);
    while (held == 0) pthread_cond_wait(&changed, &mutex);
    const long count = held;
    pthread_mutex_unlock(&mutex);
    return count;
}
