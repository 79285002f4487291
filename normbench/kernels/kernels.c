/* The layers of a network on the CPU: a program of operations, replicate by replicate, forward and backward.

A map holds [images][height + 2][width + 2][lanes]: a border of zeros, so that a convolution never asks where an image
ends, and lanes for the channels, as many as fill whole vectors. Borders and the lanes beyond the channels stay zero. One
thread does all layers of a replicate, so that its maps stay in the cache, and every replicate is computed by itself in
one order: its numbers do not depend on how many there are, or on the threads.

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
    int64_t kept_size, scratch_size, sums, sums_size; /* kept_size: of a replicate, scratch_size: of a thread; 0: it is in kept */
};

struct worker {
    const struct program *program;
    void *const *tensors, *const *gradients;
    void *kept, *scratch;
    int64_t backward, number, workers;
};

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

static void in_threads(struct worker worker, void *(*work)(void *)) {
    if (worker.workers > MOST_THREADS) worker.workers = MOST_THREADS;
    struct worker workers[MOST_THREADS];
    pthread_t threads[MOST_THREADS];
    int64_t there = 1;
    for (int64_t w = 0; w < worker.workers; w++) workers[w] = worker, workers[w].number = w;
    while (there < worker.workers && !pthread_create(&threads[there], 0, work, &workers[there])) there++;
    for (int64_t w = there; w < worker.workers; w++) work(&workers[w]); /* no more threads to have */
    work(&workers[0]);
    for (int64_t w = 1; w < there; w++) pthread_join(threads[w], 0);
}

void run_float(const struct program *program, void *const *tensors, void *const *gradients, void *kept, void *scratch,
               int64_t backward, int64_t workers) {
    in_threads((struct worker){program, tensors, gradients, kept, scratch, backward, 0, workers}, work_float);
}

void run_double(const struct program *program, void *const *tensors, void *const *gradients, void *kept, void *scratch,
                int64_t backward, int64_t workers) {
    in_threads((struct worker){program, tensors, gradients, kept, scratch, backward, 0, workers}, work_double);
}

int64_t vector_bytes(void) { return BYTES; }
