/* The layers of a network on the CPU: a program of operations, replicate by replicate, forward and backward.

A map holds [images][height + 2][width + 2][lanes]: a border of zeros, so that a convolution never asks where an image
ends, and lanes for the channels, as many as fill whole vectors. Borders and the lanes beyond the channels stay zero. A
team does all layers of a replicate, so that its maps stay in the cache: one thread, or several where there are more
than replicates. Its members divide the images, and of what is summed over images, the sums: each is made in one order,
so that a replicate's numbers do not depend on how many there are, or on the threads.

The arrays come from program.py, with the structures below. */

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64 /* of a vector */
#define TILE 8   /* positions whose sums stay in registers, for two vectors of channels */
#define MANY 8   /* channels whose sums do, for three vectors of what is beside them */
#elif defined(__AVX__)
#define BYTES 32
#define TILE 6
#define MANY 4
#else
#define BYTES 16
#define TILE 6
#define MANY 4
#endif
#define MOST_LANES 1024
#define NEAR 20000 /* bytes of filters */
#define LOOKS 500  /* before a thread sleeps */
#if defined(__x86_64__) || defined(__i386__)
#define PAUSE __builtin_ia32_pause()
#else
#define PAUSE (void)0
#endif
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum kind { IMPORT, EXPORT, CONV, POINT, AVERAGE, LARGEST, MEANS, PUT };
enum norm { NONE, OWN, RUNNING }; /* of a point operation: by its own statistic, by the running one */

enum handed { COPY, ADD, CLEAR, SHARE }; /* a gradient: written, added, added to zeros, there already */
enum { INWARD, ADDED, OUTWARD };  /* between a map and a tensor */

struct map { int64_t values, gradient, channels, lanes, height, width; }; /* where in kept and in scratch it lies */

struct op {
    int64_t kind, x, y, other;          /* maps: read, written, and the shortcut, or −1 */
    int64_t needs_x, add_x, add_other;  /* whether the gradient by x is needed; how it is handed on */
    int64_t size, stride, pad;          /* of a window, or of a linear layer's result; stride of a shortcut's positions; pad: a channel too, where y begins */
    int64_t norm, span, group, relu;    /* images and channels that share a statistic */
    int64_t tensor[5];                  /* convolution: filters, bias. point: γ, β, running mean and variance, factor.
                                           average: the result, weights and bias of a linear layer of it */
    int64_t strides[4], gradient_strides[4]; /* of a tensor outside and of the gradient by it: image, channel, row, column */
    int64_t filters, transposed, filter_gradients, bias, bias_gradients, sums; /* in scratch */
    int64_t stats;                      /* in kept */
    double eps, momentum;
};

struct program {
    const struct op *ops;
    const struct map *maps;
    int64_t first, last, replicates, images, chunk, slots; /* of the operations; slots: images that the maps hold, all or a chunk */
    int64_t kept_size, scratch_size, sums, sums_size; /* kept_size: of a replicate, scratch_size: of a team; 0: it is in kept */
    int64_t partials, partials_size;                  /* in scratch; the size of one of two */
};

/* Threads that work on one replicate. */
struct team {
    int64_t members, there, round; /* there: how many have come to a meeting, round: how many meetings have been */
    pthread_mutex_t lock;
    pthread_cond_t over;
};

struct worker {
    const struct program *program;
    void *const *tensors, *const *gradients;
    void *kept, *scratch;
    int64_t backward, number, teams, member; /* number: of the team */
    struct team *team;
    void (*work)(const struct worker *);
    pthread_mutex_t *gate; /* open when all threads are there */
};

/* Nobody goes on before all members are here. They look for each other for some microseconds and then sleep: a thread that
   waits for one without a processor leaves it its own. */
static void meet(struct team *team) {
    if (team->members == 1) return;
    int64_t round = __atomic_load_n(&team->round, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&team->there, 1, __ATOMIC_ACQ_REL) == team->members) {
        team->there = 0;
        pthread_mutex_lock(&team->lock);
        __atomic_store_n(&team->round, round + 1, __ATOMIC_RELEASE);
        pthread_cond_broadcast(&team->over);
        pthread_mutex_unlock(&team->lock);
        return;
    }
    for (int look = 0; look < LOOKS; look++) {
        if (__atomic_load_n(&team->round, __ATOMIC_ACQUIRE) != round) return;
        PAUSE;
    }
    pthread_mutex_lock(&team->lock);
    while (__atomic_load_n(&team->round, __ATOMIC_ACQUIRE) == round) pthread_cond_wait(&team->over, &team->lock);
    pthread_mutex_unlock(&team->lock);
}

#define REAL float
#define WHOLE int32_t
#define NAME(name) name##_float
#include "layers.h"
#undef REAL
#undef WHOLE
#undef NAME
#define REAL double
#define WHOLE int64_t
#define NAME(name) name##_double
#include "layers.h"

enum { MOST_THREADS = 256 };

static void *begin(void *argument) {
    const struct worker *worker = argument;
    pthread_mutex_lock(worker->gate), pthread_mutex_unlock(worker->gate);
    if (worker->teams) worker->work(worker);
    return 0;
}

/* worker: of the first thread. Where the others cannot be had, it does everything: the numbers are the same. */
static void in_threads(struct worker worker, int64_t teams, int64_t members) {
    if (members > MOST_THREADS) members = MOST_THREADS;
    if (teams > MOST_THREADS / members) teams = MOST_THREADS / members;
    struct worker workers[MOST_THREADS];
    struct team of[MOST_THREADS];
    pthread_t threads[MOST_THREADS];
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    int64_t there = 1;
    for (int64_t t = 0; t < teams; t++)
        of[t] = (struct team){members, 0, 0, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};
    for (int64_t w = 0; w < teams * members; w++) {
        workers[w] = worker, workers[w].teams = teams, workers[w].gate = &gate;
        workers[w].number = w / members, workers[w].member = w % members, workers[w].team = &of[w / members];
    }
    pthread_mutex_lock(&gate);
    while (there < teams * members && !pthread_create(&threads[there], 0, begin, &workers[there])) there++;
    if (there < teams * members) {
        for (int64_t w = 1; w < there; w++) workers[w].teams = 0;
        workers[0].teams = 1, of[0].members = 1;
    }
    pthread_mutex_unlock(&gate);
    worker.work(&workers[0]);
    for (int64_t w = 1; w < there; w++) pthread_join(threads[w], 0);
}

void run_float(const struct program *program, void *const *tensors, void *const *gradients, void *kept, void *scratch,
               int64_t backward, int64_t teams, int64_t members) {
    struct worker first = {program, tensors, gradients, kept, scratch, backward, .work = work_float};
    in_threads(first, teams, members);
}

void run_double(const struct program *program, void *const *tensors, void *const *gradients, void *kept, void *scratch,
                int64_t backward, int64_t teams, int64_t members) {
    struct worker first = {program, tensors, gradients, kept, scratch, backward, .work = work_double};
    in_threads(first, teams, members);
}

int64_t vector_bytes(void) { return BYTES; }
