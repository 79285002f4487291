/* The layers in one type of numbers, REAL; kernels.c includes this once for each. */

typedef REAL NAME(vec) __attribute__((vector_size(BYTES)));
typedef REAL NAME(loose) __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef WHOLE NAME(bits) __attribute__((vector_size(BYTES)));
#define vec NAME(vec)
#define V ((int64_t)(BYTES / sizeof(REAL)))

INLINE vec NAME(load)(const REAL *p) { return *(const NAME(loose) *)p; }
INLINE void NAME(store)(REAL *p, vec v) { *(NAME(loose) *)p = v; }
INLINE vec NAME(unless)(NAME(bits) condition, vec v) { return (vec)((NAME(bits))v & ~condition); } /* 0 where it holds */
#define load NAME(load)
#define store NAME(store)

/* What a team works on: count images, counted from `first`, of one replicate; and what of it is this member's. */
struct NAME(place) {
    const struct program *program;
    void *const *tensors, *const *gradients;
    REAL *kept;    /* of the replicate */
    REAL *scratch; /* of the team */
    int64_t replicate, first, count;
    struct team *team;
    int64_t member, from, to; /* its images, counted from the first of the team's */
};
#define place NAME(place)

INLINE int64_t NAME(pixels)(const struct map *m) { return (m->height + 2) * (m->width + 2); }
/* Where image n has the first lane of row h, column p. */
INLINE int64_t NAME(pixel)(const struct map *m, int64_t n, int64_t h, int64_t p) {
    return (n * NAME(pixels)(m) + (h + 1) * (m->width + 2) + p + 1) * m->lanes;
}

/* Where a map has its first image of the chunk: its values, and the gradient of the loss by them. */
INLINE REAL *NAME(values)(const struct place *at, int64_t map) {
    const struct map *m = &at->program->maps[map];
    return at->kept + m->values + at->first % at->program->slots * NAME(pixels)(m) * m->lanes;
}
INLINE REAL *NAME(gradient)(const struct place *at, int64_t map) {
    return at->scratch + at->program->maps[map].gradient;
}
/* The numbers of this replicate in a parameter of `each` a replicate; NULL where there is none. */
INLINE REAL *NAME(own)(void *const *list, int64_t which, int64_t each, const struct place *at) {
    return which < 0 || !list[which] ? 0 : (REAL *)list[which] + at->replicate * each;
}
/* Two lists of sums of each image of the chunk, a number a lane, in double precision. While some still read the one, others
   may write the other already. */
INLINE double *NAME(partial)(const struct place *at, int64_t which) {
    return (double *)(at->scratch + at->program->partials + which * at->program->partials_size);
}
/* Of tasks done in turns by the members: whether the next is this one's. turn: 0 before the first. */
INLINE int NAME(mine)(const struct place *at, int64_t *turn) {
    int64_t now = *turn;
    *turn = now + 1 == at->team->members ? 0 : now + 1;
    return now == at->member;
}
/* The next chunk of images: how many there are; 0 after the last. None is begun before the last one is done by all. */
INLINE int64_t NAME(chunk)(struct place *at, int64_t first) {
    int64_t left = at->program->images - first, members = at->team->members;
    at->first = first, at->count = left < at->program->chunk ? left : at->program->chunk;
    at->from = at->count * at->member / members, at->to = at->count * (at->member + 1) / members;
    meet(at->team);
    return left > 0;
}
#define values NAME(values)
#define gradient NAME(gradient)
#define own NAME(own)

/* --- Products. --- */

struct NAME(run) { int64_t x, w, count; }; /* Σ over count: x[x + k] · row w + k of the filters */
#define run NAME(run)

/* y[i·to + v] = start + Σ of the runs, for M positions i and N vectors of channels. w: rows of N vectors. */
INLINE void NAME(tile)(const int M, const int N, const struct run *runs, int64_t count, const REAL *x, int64_t from,
                       const REAL *w, const REAL *start, REAL *y, int64_t to, int add) {
    vec sum[TILE][2];
    UNROLL for (int i = 0; i < M; i++)
        UNROLL for (int v = 0; v < N; v++)
            sum[i][v] = add ? load(y + i * to + v * V) : start ? load(start + v * V) : (vec){0};
    for (int64_t r = 0; r < count; r++) {
        const REAL *a = x + runs[r].x, *b = w + runs[r].w * N * V;
        for (int64_t k = 0; k < runs[r].count; k++, b += N * V) {
            vec of[2];
            UNROLL for (int v = 0; v < N; v++) of[v] = load(b + v * V);
            UNROLL for (int i = 0; i < M; i++)
                UNROLL for (int v = 0; v < N; v++) sum[i][v] += of[v] * a[i * from + k];
        }
    }
    UNROLL for (int i = 0; i < M; i++)
        UNROLL for (int v = 0; v < N; v++) store(y + i * to + v * V, sum[i][v]);
}

/* The same for any number of positions; vectors: 1 or 2. */
INLINE void NAME(line)(int64_t positions, const int N, const struct run *runs, int64_t count, const REAL *x, int64_t from,
                       const REAL *w, const REAL *start, REAL *y, int64_t to, int add) {
    int64_t i = 0;
#define TILES(M)                                                                                                               \
    NAME(tile)(M, N, runs, count, x + i * from, from, w, start, y + i * to, to, add), i += M
    while (positions - i >= TILE && (TILE % 4 == 0 || positions - i != 8)) TILES(TILE); /* 4 + 4 rather than 6 + 2 */
    while (positions - i >= 4) TILES(4);
    while (positions - i >= 2) TILES(2);
    if (i < positions) TILES(1);
#undef TILES
}
static void NAME(lines)(int64_t positions, int64_t vectors, const struct run *runs, int64_t count, const REAL *x,
                        int64_t from, const REAL *w, const REAL *start, REAL *y, int64_t to, int add) {
    if (vectors == 2) NAME(line)(positions, 2, runs, count, x, from, w, start, y, to, add);
    else NAME(line)(positions, 1, runs, count, x, from, w, start, y, to, add);
}

/* dw[i·apart + v] += Σ over positions g[p·to + i]·x[p·from + v], for M channels i and N vectors of what is beside x. */
INLINE void NAME(outer)(const int M, const int N, const REAL *x, int64_t from, int64_t row_from, const REAL *g, int64_t to,
                        int64_t row_to, int64_t rows, int64_t positions, REAL *dw, int64_t apart) {
    vec sum[MANY][3];
    UNROLL for (int i = 0; i < M; i++)
        UNROLL for (int v = 0; v < N; v++) sum[i][v] = load(dw + i * apart + v * V);
    for (int64_t h = 0; h < rows; h++) {
        const REAL *a = x + h * row_from, *b = g + h * row_to;
        for (int64_t p = 0; p < positions; p++, a += from, b += to) {
            vec of[3];
            UNROLL for (int v = 0; v < N; v++) of[v] = load(a + v * V);
            UNROLL for (int i = 0; i < M; i++)
                UNROLL for (int v = 0; v < N; v++) sum[i][v] += of[v] * b[i];
        }
    }
    UNROLL for (int i = 0; i < M; i++)
        UNROLL for (int v = 0; v < N; v++) store(dw + i * apart + v * V, sum[i][v]);
}

INLINE int64_t NAME(vectors)(int64_t lanes, int64_t from) { return lanes - from >= 2 * V ? 2 : 1; }

/* --- Convolutions with the same padding: size 3 or 1, stride 1 or 2. Filters are packed: see below. --- */

/* y = bias + the convolution of x by w, of `images` images; add: to what is in y, without bias. */
static void NAME(convolve)(const struct map *in, const REAL *x, const REAL *w, const REAL *bias, int64_t size, int64_t stride,
                           const struct map *out, REAL *y, int64_t images, int add) {
    int64_t row = (in->width + 2) * in->lanes, to = (out->width + 2) * out->lanes, before = 1 - size / 2;
    int64_t depth = size * size * in->lanes;
    struct run runs[3];
    for (int64_t kh = 0; kh < size; kh++)
        runs[kh] = (struct run){(kh + before) * row + before * in->lanes, kh * size * in->lanes, size * in->lanes};
    for (int64_t n = 0; n < images; n++)
        for (int64_t c = 0, many; c < out->lanes; c += many * V) {
            many = NAME(vectors)(out->lanes, c);
            const REAL *from = x + n * NAME(pixels)(in) * in->lanes;
            REAL *first = y + n * NAME(pixels)(out) * out->lanes + to + out->lanes + c;
            /* As many rows of filters at a time as stay in the nearest cache beside the maps. */
            int64_t step = depth * many * V * (int64_t)sizeof(REAL) > NEAR ? 1 : size;
            for (int64_t kh = 0; kh < size; kh += step)
                for (int64_t h = 0; h < out->height; h++)
                    NAME(lines)(out->width, many, runs + kh, step, from + h * stride * row, stride * in->lanes, w + c * depth,
                                bias ? bias + c : 0, first + h * to, out->lanes, add || kh);
        }
}

static void NAME(conv)(const struct place *at, const struct op *op) {
    const struct map *in = &at->program->maps[op->x], *out = &at->program->maps[op->y];
    NAME(convolve)(in, values(at, op->x) + at->from * NAME(pixels)(in) * in->lanes, at->scratch + op->filters,
                   op->tensor[1] < 0 ? 0 : at->scratch + op->bias, op->size, op->stride, out,
                   values(at, op->y) + at->from * NAME(pixels)(out) * out->lanes, at->to - at->from, 0);
}

/* The gradient by the input: of stride 1 a convolution, of stride 2 one for the even and the odd rows and columns each. */
static void NAME(conv_input)(const struct place *at, const struct op *op) {
    const struct map *in = &at->program->maps[op->x], *out = &at->program->maps[op->y];
    const REAL *g = gradient(at, op->y), *w = at->scratch + op->transposed;
    REAL *dx = gradient(at, op->x);
    if (op->stride == 1) {
        NAME(convolve)(out, g + at->from * NAME(pixels)(out) * out->lanes, w, 0, op->size, 1, in,
                       dx + at->from * NAME(pixels)(in) * in->lanes, at->to - at->from, (int)op->add_x);
        return;
    }
    int64_t row = (out->width + 2) * out->lanes, to = (in->width + 2) * in->lanes, pad = op->size / 2;
    for (int64_t h = 0; h < in->height; h++)
        for (int64_t phase = 0; phase < 2 && phase < in->width; phase++) {
            struct run runs[4];
            int64_t count = 0;
            for (int64_t kh = (h + pad) % 2; kh < op->size; kh += 2)
                for (int64_t kw = (phase + pad) % 2; kw < op->size; kw += 2)
                    runs[count++] = (struct run){((h + pad - kh) / 2 + 1) * row + ((phase + pad - kw) / 2 + 1) * out->lanes,
                                                 ((op->size - 1 - kh) * op->size + op->size - 1 - kw) * out->lanes, out->lanes};
            for (int64_t n = at->from; n < at->to; n++)
                for (int64_t c = 0, many; c < in->lanes; c += many * V) {
                    many = NAME(vectors)(in->lanes, c);
                    NAME(lines)((in->width - phase + 1) / 2, many, runs, count, g + n * NAME(pixels)(out) * out->lanes, out->lanes,
                                w + c * op->size * op->size * out->lanes, 0,
                                dx + n * NAME(pixels)(in) * in->lanes + (h + 1) * to + (phase + 1) * in->lanes + c,
                                2 * in->lanes, (int)op->add_x);
                }
        }
}

INLINE int64_t NAME(whole)(int64_t count) { return (count + V - 1) / V * V; }

/* The gradient by the filters, [to][size][size·from, filled up to whole vectors], added to what the images before had: of
   all images, for some of the filters a member, so that no number depends on how many members there are. */
static void NAME(conv_filters)(const struct place *at, const struct op *op) {
    const struct map *in = &at->program->maps[op->x], *out = &at->program->maps[op->y];
    int64_t row = (in->width + 2) * in->lanes, to = (out->width + 2) * out->lanes, before = 1 - op->size / 2;
    int64_t from = op->stride * in->lanes, down = op->stride * row, depth = NAME(whole)(op->size * in->lanes);
    int64_t apart = op->size * depth;
    meet(at->team);
    for (int64_t n = 0, turn = 0; n < at->count; n++, turn = 0) {
        const REAL *x = values(at, op->x) + n * NAME(pixels)(in) * in->lanes + before * in->lanes;
        const REAL *g = gradient(at, op->y) + n * NAME(pixels)(out) * out->lanes + to + out->lanes;
        for (int64_t kh = 0; kh < op->size; kh++)
            for (int64_t k = 0, many; k < depth; k += many * V) {
                many = depth - k >= 3 * V ? 3 : depth - k >= 2 * V ? 2 : 1;
                const REAL *a = x + (kh + before) * row + k;
                REAL *dw = at->scratch + op->filter_gradients + kh * depth + k;
                int64_t o = 0;
#define OUTER(M, N)                                                                                                            \
    for (; o + M <= out->channels; o += M)                                                                                     \
    if (NAME(mine)(at, &turn))                                                                                                 \
        NAME(outer)(M, N, a, from, down, g + o, out->lanes, to, out->height, out->width, dw + o * apart, apart)
                if (many == 3) { OUTER(MANY, 3); OUTER(1, 3); }
                if (many == 2) { OUTER(MANY, 2); OUTER(1, 2); }
                if (many == 1) { OUTER(MANY, 1); OUTER(1, 1); }
#undef OUTER
            }
        for (int64_t h = 0; op->tensor[1] >= 0 && at->member == 0 && h < out->height; h++)
            for (int64_t c = 0; c < out->lanes; c += V) {
                vec sum = {0};
                for (int64_t p = 0; p < out->width; p++) sum += load(g + h * to + p * out->lanes + c);
                REAL *db = at->scratch + op->bias_gradients + c;
                store(db, load(db) + sum);
            }
    }
    meet(at->team);
}

/* Where packed filters have the number of channel c in row k: blocks of two vectors of channels, or of the last one. */
INLINE int64_t NAME(packed)(int64_t k, int64_t c, int64_t rows, int64_t lanes) {
    int64_t block = c / (2 * V) * 2 * V, many = NAME(vectors)(lanes, block);
    return block * rows + k * many * V + c - block;
}

/* Before the first image: filters as the products want them. A parameter is [to][size][size][from]. */
static void NAME(pack)(const struct place *at, const struct op *op) {
    const struct map *in = &at->program->maps[op->x], *out = &at->program->maps[op->y];
    int64_t ci = in->channels, co = out->channels, area = op->size * op->size;
    const REAL *w = own(at->tensors, op->tensor[0], co * area * ci, at), *bias = own(at->tensors, op->tensor[1], co, at);
    for (int64_t block = 0, many, turn = 0; block < co; block += many) {
        many = NAME(vectors)(out->lanes, block) * V;
        int64_t there = co - block < many ? co - block : many;
        for (int64_t k = 0; k < area; k++)
            for (int64_t some = NAME(mine)(at, &turn) ? 0 : ci; some < ci; some += V) /* so many stay in the nearest cache */
                for (int64_t i = some; i < some + V && i < ci; i++) {
                    REAL *to = at->scratch + op->filters + NAME(packed)(k * in->lanes + i, block, area * in->lanes, out->lanes);
                    const REAL *from = w + (block * area + k) * ci + i;
                    for (int64_t o = 0; o < there; o++) to[o] = from[o * area * ci];
                }
    }
    for (int64_t o = 0; bias && at->member == 0 && o < co; o++) at->scratch[op->bias + o] = bias[o];
}

/* The same for the gradient by the input: from every channel out to those in, the places from the last to the first. */
static void NAME(pack_transposed)(const struct place *at, const struct op *op) {
    const struct map *in = &at->program->maps[op->x], *out = &at->program->maps[op->y];
    int64_t ci = in->channels, co = out->channels, area = op->size * op->size;
    const REAL *w = own(at->tensors, op->tensor[0], co * area * ci, at);
    for (int64_t o = 0, turn = 0; op->needs_x && o < co; o++, w += area * ci)
        for (int64_t k = NAME(mine)(at, &turn) ? 0 : area; k < area; k++)
            for (int64_t i = 0, many; i < ci; i += many) {
                many = ci - i < 2 * V ? ci - i : 2 * V;
                int64_t row = (area - 1 - k) * out->lanes + o;
                memcpy(at->scratch + op->transposed + NAME(packed)(row, i, area * out->lanes, in->lanes),
                       w + k * ci + i, many * sizeof(REAL));
            }
}

/* After the last image: the gradients by filters and bias, as the parameters are laid out. */
static void NAME(unpack)(const struct place *at, const struct op *op) {
    const struct map *in = &at->program->maps[op->x], *out = &at->program->maps[op->y];
    int64_t ci = in->channels, co = out->channels, area = op->size * op->size, depth = NAME(whole)(op->size * in->lanes);
    const REAL *rows = at->scratch + op->filter_gradients;
    REAL *dw = own(at->gradients, op->tensor[0], co * area * ci, at), *db = own(at->gradients, op->tensor[1], co, at);
    for (int64_t row = 0, turn = 0; dw && row < co * op->size; row++)
        for (int64_t kw = NAME(mine)(at, &turn) ? 0 : op->size; kw < op->size; kw++)
            memcpy(dw + (row * op->size + kw) * ci, rows + row * depth + kw * in->lanes, ci * sizeof(REAL));
    for (int64_t o = 0; db && at->member == 0 && o < co; o++) db[o] = at->scratch[op->bias_gradients + o];
}

/* --- Normalization, shortcut and activation: y = act(factor·(scale·x + shift) + shortcut). --- */

/* Sums a channel over an image: of x − centre, or of its square; of double precision between rows. */
static void NAME(moment)(const REAL *x, const struct map *m, const REAL *centre, int square, double *sums) {
    for (int64_t c = 0; c < m->lanes; c++) sums[c] = 0;
    for (int64_t h = 0; h < m->height; h++) {
        const REAL *row = x + NAME(pixel)(m, 0, h, 0);
        for (int64_t c = 0; c < m->lanes; c += V) {
            vec middle = load(centre + c), sum[4] = {{0}};
            int64_t p = 0;
            for (; p + 4 <= m->width; p += 4)
                UNROLL for (int i = 0; i < 4; i++) {
                    vec d = load(row + (p + i) * m->lanes + c) - middle;
                    sum[i] += square ? d * d : d;
                }
            for (; p < m->width; p++) {
                vec d = load(row + p * m->lanes + c) - middle;
                sum[0] += square ? d * d : d;
            }
            sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
            for (int64_t i = 0; i < V; i++) sums[c + i] += sum[0][i];
        }
    }
}

/* The sums of images, added in their order. */
static void NAME(added)(const double *of_images, int64_t lanes, int64_t start, int64_t images, double *sums) {
    for (int64_t c = 0; c < lanes; c++) sums[c] = 0;
    for (int64_t n = start; n < start + images; n++)
        for (int64_t c = 0; c < lanes; c++) sums[c] += of_images[n * lanes + c];
}

/* The same over several images from `start` on, each by the member whose it is; of one alone by that member. x: of image 0. */
static void NAME(moments)(const struct place *at, const struct map *m, const REAL *x, int64_t start, int64_t images,
                          const REAL *centre, int square, double *sums) {
    double *of_images = NAME(partial)(at, square);
    if (images == 1) {
        NAME(moment)(x + start * NAME(pixels)(m) * m->lanes, m, centre, square, sums);
        return;
    }
    for (int64_t n = start; n < start + images; n++)
        if (n >= at->from && n < at->to)
            NAME(moment)(x + n * NAME(pixels)(m) * m->lanes, m, centre, square, of_images + n * m->lanes);
    meet(at->team);
    NAME(added)(of_images, m->lanes, start, images, sums);
}

/* Every channel's sum becomes that of its group. */
static void NAME(of_groups)(double *sums, int64_t channels, int64_t group) {
    for (int64_t c = 0; c < channels; c += group) {
        double sum = 0;
        for (int64_t i = 0; i < group; i++) sum += sums[c + i];
        for (int64_t i = 0; i < group; i++) sums[c + i] = sum;
    }
}

/* Where the mean and then 1/√(variance + ε), a number a lane, of the images from `start` on are kept. */
INLINE REAL *NAME(stats)(const struct place *at, const struct op *op, int64_t start) {
    int64_t which = (at->first % at->program->slots + start) / op->span;
    return at->kept + op->stats + which * 2 * at->program->maps[op->x].lanes;
}

/* Mean and 1/√(variance + ε) a channel of `images` images from `start` on, into `mean` and `inverse`. x: of image 0. */
static void NAME(statistic)(const struct place *at, const struct op *op, const REAL *x, int64_t start, int64_t images,
                            REAL *mean, REAL *inverse) {
    const struct map *m = &at->program->maps[op->x];
    double sums[MOST_LANES], count = (double)images * m->height * m->width * op->group;
    REAL *running_mean = own(at->tensors, op->tensor[2], m->channels, at);
    REAL *running_var = own(at->tensors, op->tensor[3], m->channels, at), *stats = NAME(stats)(at, op, start);
    int keeps = start >= at->from && start < at->to;
    for (int64_t c = 0; c < m->lanes; c++) mean[c] = 0, inverse[c] = 0;
    NAME(moments)(at, m, x, start, images, mean, 0, sums);
    NAME(of_groups)(sums, m->channels, op->group);
    for (int64_t c = 0; c < m->channels; c++) mean[c] = (REAL)(sums[c] / count);
    NAME(moments)(at, m, x, start, images, mean, 1, sums);
    NAME(of_groups)(sums, m->channels, op->group);
    for (int64_t c = 0; c < m->channels; c++) {
        double var = sums[c] / count;
        inverse[c] = (REAL)(1 / sqrt(var + op->eps));
        if (running_mean && keeps) {
            running_mean[c] = (REAL)((1 - op->momentum) * running_mean[c] + op->momentum * mean[c]);
            running_var[c] = (REAL)((1 - op->momentum) * running_var[c] + op->momentum * (var * count / (count - 1)));
        }
    }
    for (int64_t c = 0; keeps && c < m->lanes; c++) stats[c] = mean[c], stats[m->lanes + c] = inverse[c];
}

/* scale and shift of the images that share a statistic. mean, inverse: of it. */
static void NAME(scales)(const struct place *at, const struct op *op, const REAL *mean, const REAL *inverse, REAL *scale,
                         REAL *shift) {
    const struct map *m = &at->program->maps[op->x];
    const REAL *gamma = own(at->tensors, op->tensor[0], m->channels, at), *beta = own(at->tensors, op->tensor[1], m->channels, at);
    for (int64_t c = 0; c < m->lanes; c++) {
        int real = c < m->channels;
        scale[c] = !real ? 0 : op->norm == NONE ? 1 : gamma ? gamma[c] * inverse[c] : inverse[c];
        shift[c] = !real || op->norm == NONE ? 0 : (beta ? beta[c] : 0) - mean[c] * scale[c];
    }
}

INLINE const REAL *NAME(shortcut)(const REAL *other, const struct map *from, const struct op *op, int64_t n, int64_t h) {
    return other + NAME(pixel)(from, n, h * op->stride, 0);
}

static void NAME(point)(const struct place *at, const struct op *op) {
    const struct map *m = &at->program->maps[op->x], *from = op->other < 0 ? 0 : &at->program->maps[op->other];
    const REAL *x = values(at, op->x), *other = from ? values(at, op->other) : 0;
    const REAL *factor = own(at->tensors, op->tensor[4], 1, at);
    REAL *y = values(at, op->y), scale[MOST_LANES], shift[MOST_LANES];
    int64_t span = op->norm == OWN ? op->span : at->count;
    for (int64_t start = 0; start < at->count; start += span) {
        int64_t images = at->count - start < span ? at->count - start : span;
        int64_t begin = start > at->from ? start : at->from, end = start + images < at->to ? start + images : at->to;
        REAL mean[MOST_LANES], inverse[MOST_LANES];
        if (begin >= end && (op->norm != OWN || images == 1)) continue; /* nothing of it is this member's */
        if (op->norm == OWN) {
            NAME(statistic)(at, op, x, start, images, mean, inverse);
            NAME(scales)(at, op, mean, inverse, scale, shift);
        } else {
            const REAL *running_mean = own(at->tensors, op->tensor[2], m->channels, at);
            const REAL *running_var = own(at->tensors, op->tensor[3], m->channels, at);
            for (int64_t c = 0; op->norm == RUNNING && c < m->channels; c++)
                mean[c] = running_mean[c], inverse[c] = (REAL)(1 / sqrt(running_var[c] + op->eps));
            NAME(scales)(at, op, mean, inverse, scale, shift);
        }
        for (int64_t c = 0; factor && c < m->lanes; c++) scale[c] *= *factor, shift[c] *= *factor;
        for (int64_t n = begin; n < end; n++)
            for (int64_t h = 0; h < m->height; h++) {
                int64_t row = NAME(pixel)(m, n, h, 0);
                for (int64_t c = 0; c < m->lanes; c += V) {
                    vec a = load(scale + c), b = load(shift + c);
                    const REAL *there = from && c < from->lanes ? NAME(shortcut)(other, from, op, n, h) + c : 0;
                    for (int64_t p = 0; p < m->width; p++) {
                        vec t = load(x + row + p * m->lanes + c) * a + b;
                        if (there) t += load(there + p * op->stride * from->lanes);
                        if (op->relu) t = NAME(unless)(t < 0, t); /* what is no number stays none */
                        store(y + row + p * m->lanes + c, t);
                    }
                }
            }
    }
}

/* The gradient by y of image n is masked where it lies and handed to the shortcut; its sums a channel, and those of its
   products with x − mean. */
static void NAME(masked)(const struct place *at, const struct op *op, int64_t n, const REAL *mean, double *sums,
                         double *products) {
    const struct map *m = &at->program->maps[op->x], *from = op->other < 0 ? 0 : &at->program->maps[op->other];
    const REAL *x = values(at, op->x), *y = values(at, op->y);
    REAL *g = gradient(at, op->y), *dother = from ? gradient(at, op->other) : 0;
    if (from && op->add_other == CLEAR) {
        int64_t each = NAME(pixels)(from) * from->lanes;
        memset(dother + n * each, 0, each * sizeof(REAL));
    }
    for (int64_t c = 0; c < m->lanes; c++) sums[c] = 0, products[c] = 0;
    for (int64_t h = 0; h < m->height; h++) {
        int64_t row = NAME(pixel)(m, n, h, 0);
        for (int64_t c = 0; c < m->lanes; c += V) {
            vec sum = {0}, product = {0}, middle = load(mean + c);
            int handed = from && op->add_other != SHARE && c < from->lanes;
            REAL *there = handed ? (REAL *)NAME(shortcut)(dother, from, op, n, h) + c : 0;
            for (int64_t p = 0; p < m->width; p++) {
                int64_t here = row + p * m->lanes + c;
                vec t = load(g + here);
                if (op->relu) {
                    t = NAME(unless)(load(y + here) <= 0, t);
                    store(g + here, t);
                }
                if (there) {
                    REAL *to = there + p * op->stride * from->lanes;
                    store(to, op->add_other == COPY ? t : load(to) + t);
                }
                sum += t;
                product += t * (load(x + here) - middle);
            }
            for (int64_t i = 0; i < V; i++) sums[c + i] += sum[i], products[c + i] += product[i];
        }
    }
}

/* What γ, β and the factor get of images that share a statistic. inverse: 1/√(variance + ε), NULL without a norm. sums,
   products: of `masked`. */
static void NAME(totals)(const struct place *at, const struct op *op, const REAL *inverse, const double *sums,
                         const double *products) {
    const struct map *m = &at->program->maps[op->x];
    const REAL *gamma = own(at->tensors, op->tensor[0], m->channels, at), *beta = own(at->tensors, op->tensor[1], m->channels, at);
    const REAL *factor = own(at->tensors, op->tensor[4], 1, at);
    double *totals = (double *)(at->scratch + op->sums), by = factor ? *factor : 1; /* of γ, of β, of the factor */
    for (int64_t c = 0; c < m->channels && !inverse && factor; c++) totals[2 * m->lanes] += products[c];
    for (int64_t c = 0; c < m->channels && inverse; c++) {
        double scale = gamma ? gamma[c] : 1, xhat = products[c] * inverse[c]; /* Σ g·x̂ */
        if (factor) totals[2 * m->lanes] += scale * xhat + (beta ? sums[c] * beta[c] : 0);
        totals[c] += by * xhat, totals[m->lanes + c] += by * sums[c];
    }
}

/* How the gradient by x follows: k0·g + k1·(x − mean) + k2. count: values of a statistic. The sums and products become
   others. */
static void NAME(slopes)(const struct place *at, const struct op *op, const REAL *inverse, double count, double *sums,
                         double *products, REAL *k0, REAL *k1, REAL *k2) {
    const struct map *m = &at->program->maps[op->x];
    const REAL *gamma = own(at->tensors, op->tensor[0], m->channels, at), *factor = own(at->tensors, op->tensor[4], 1, at);
    double by = factor ? *factor : 1;
    for (int64_t c = 0; c < m->lanes; c++) k0[c] = c < m->channels ? (REAL)by : 0, k1[c] = 0, k2[c] = 0;
    if (!inverse) return;
    for (int64_t c = 0; c < m->channels; c++) {
        double scale = by * (gamma ? gamma[c] : 1);
        sums[c] *= scale, products[c] *= scale * inverse[c];
    }
    NAME(of_groups)(sums, m->channels, op->group), NAME(of_groups)(products, m->channels, op->group);
    for (int64_t c = 0; c < m->channels; c++) {
        double inv = inverse[c];
        k0[c] = (REAL)(by * inv * (gamma ? gamma[c] : 1));
        k1[c] = (REAL)(-inv * inv * products[c] / count), k2[c] = (REAL)(-inv * sums[c] / count);
    }
}

/* The gradient by y of images begin … end becomes that by x. */
static void NAME(followed)(const struct place *at, const struct op *op, int64_t begin, int64_t end, const REAL *mean,
                           const REAL *k0, const REAL *k1, const REAL *k2) {
    const struct map *m = &at->program->maps[op->x];
    const REAL *x = values(at, op->x), *g = gradient(at, op->y);
    REAL *dx = gradient(at, op->x);
    for (int64_t n = begin; n < end; n++)
        for (int64_t h = 0; h < m->height; h++) {
            int64_t row = NAME(pixel)(m, n, h, 0);
            for (int64_t c = 0; c < m->lanes; c += V) {
                vec a0 = load(k0 + c), a1 = load(k1 + c), a2 = load(k2 + c), middle = load(mean + c);
                for (int64_t p = 0; p < m->width; p++) {
                    int64_t here = row + p * m->lanes + c;
                    vec t = a0 * load(g + here) + (a1 * (load(x + here) - middle) + a2);
                    store(dx + here, op->add_x ? load(dx + here) + t : t);
                }
            }
        }
}

/* Backwards: the gradient by y, masked, becomes that by x. */
static void NAME(point_back)(const struct place *at, const struct op *op) {
    const struct map *m = &at->program->maps[op->x];
    const REAL none[MOST_LANES] = {0};
    REAL k0[MOST_LANES], k1[MOST_LANES], k2[MOST_LANES];
    double *of_images = NAME(partial)(at, 0), *products_of = NAME(partial)(at, 1);
    int64_t span = op->norm == OWN ? op->span : at->count;
    int summed = op->norm == OWN || op->tensor[4] >= 0;
    for (int64_t n = at->from; n < at->to; n++)
        NAME(masked)(at, op, n, op->norm == OWN ? NAME(stats)(at, op, n / span * span) : none, of_images + n * m->lanes,
                     products_of + n * m->lanes);
    if (op->x == op->y) return; /* without norm and factor that is all */
    if (summed) meet(at->team);
    for (int64_t start = 0; start < at->count; start += span) {
        int64_t images = at->count - start < span ? at->count - start : span;
        int64_t begin = start > at->from ? start : at->from, end = start + images < at->to ? start + images : at->to;
        const REAL *mean = op->norm == OWN ? NAME(stats)(at, op, start) : none, *inverse = op->norm == OWN ? mean + m->lanes : 0;
        double sums[MOST_LANES], products[MOST_LANES];
        if (begin >= end && at->member) continue;
        if (summed) NAME(added)(of_images, m->lanes, start, images, sums), NAME(added)(products_of, m->lanes, start, images, products);
        if (summed && !at->member) NAME(totals)(at, op, inverse, sums, products);
        NAME(slopes)(at, op, inverse, (double)images * m->height * m->width * op->group, sums, products, k0, k1, k2);
        NAME(followed)(at, op, begin, end, mean, k0, k1, k2);
    }
    if (summed) meet(at->team); /* before the next one's sums */
}

/* After the last image: the gradients by γ, β and the factor. */
static void NAME(point_end)(const struct place *at, const struct op *op) {
    const struct map *m = &at->program->maps[op->x];
    const double *totals = (const double *)(at->scratch + op->sums);
    REAL *dgamma = own(at->gradients, op->tensor[0], m->channels, at), *dbeta = own(at->gradients, op->tensor[1], m->channels, at);
    REAL *dfactor = own(at->gradients, op->tensor[4], 1, at);
    for (int64_t c = 0; dgamma && c < m->channels; c++) dgamma[c] = (REAL)totals[c];
    for (int64_t c = 0; dbeta && c < m->channels; c++) dbeta[c] = (REAL)totals[m->lanes + c];
    if (dfactor) *dfactor = (REAL)totals[2 * m->lanes];
}

/* --- Pooling and concatenation. --- */

/* The rows or columns first … last of a map that a window has from position p of the result. */
INLINE int64_t NAME(first)(int64_t p, const struct op *op) { return p * op->stride - op->pad > 0 ? p * op->stride - op->pad : 0; }
INLINE int64_t NAME(last)(int64_t p, const struct op *op, int64_t end) {
    return p * op->stride - op->pad + op->size < end ? p * op->stride - op->pad + op->size - 1 : end - 1;
}

/* The largest of each window, as torch has it: what is no number wins. */
static void NAME(largest)(const struct place *at, const struct op *op) {
    const struct map *in = &at->program->maps[op->x], *out = &at->program->maps[op->y];
    const REAL *x = values(at, op->x);
    REAL *y = values(at, op->y);
    for (int64_t n = at->from; n < at->to; n++)
        for (int64_t h = 0; h < out->height; h++)
            for (int64_t p = 0; p < out->width; p++)
                for (int64_t c = 0; c < out->lanes; c += V) {
                    int64_t top = NAME(first)(h, op), left = NAME(first)(p, op);
                    vec most = load(x + NAME(pixel)(in, n, top, left) + c);
                    for (int64_t i = top; i <= NAME(last)(h, op, in->height); i++)
                        for (int64_t j = left; j <= NAME(last)(p, op, in->width); j++) {
                            vec t = load(x + NAME(pixel)(in, n, i, j) + c);
                            NAME(bits) more = (t > most) | (t != t);
                            most = NAME(unless)(more, most) + NAME(unless)(~more, t);
                        }
                    store(y + NAME(pixel)(out, n, h, p) + c, most);
                }
}

/* Its gradient goes to the first of the largest. */
static void NAME(largest_back)(const struct place *at, const struct op *op) {
    const struct map *in = &at->program->maps[op->x], *out = &at->program->maps[op->y];
    const REAL *x = values(at, op->x), *y = values(at, op->y), *g = gradient(at, op->y);
    REAL *dx = gradient(at, op->x);
    int64_t each = NAME(pixels)(in) * in->lanes;
    if (op->add_x == CLEAR) memset(dx + at->from * each, 0, (at->to - at->from) * each * sizeof(REAL));
    for (int64_t n = at->from; n < at->to; n++)
        for (int64_t h = 0; h < out->height; h++)
            for (int64_t p = 0; p < out->width; p++)
                for (int64_t c = 0; c < out->lanes; c += V) {
                    vec most = load(y + NAME(pixel)(out, n, h, p) + c), by = load(g + NAME(pixel)(out, n, h, p) + c);
                    NAME(bits) gone = {0};
                    for (int64_t i = NAME(first)(h, op); i <= NAME(last)(h, op, in->height); i++)
                        for (int64_t j = NAME(first)(p, op); j <= NAME(last)(p, op, in->width); j++) {
                            int64_t here = NAME(pixel)(in, n, i, j) + c;
                            NAME(bits) mine = (load(x + here) == most) & ~gone;
                            gone |= mine;
                            store(dx + here, load(dx + here) + NAME(unless)(~mine, by));
                        }
                }
}

/* Means over the 3×3 positions about each, those of the border counted: by itself the transposed too. */
static void NAME(means)(const struct place *at, const struct map *m, const REAL *x, REAL *y, int add) {
    for (int64_t n = at->from; n < at->to; n++)
        for (int64_t h = 0; h < m->height; h++)
            for (int64_t p = 0; p < m->width; p++)
                for (int64_t c = 0; c < m->lanes; c += V) {
                    vec sum = {0};
                    for (int64_t i = h - 1; i <= h + 1; i++)
                        for (int64_t j = p - 1; j <= p + 1; j++) sum += load(x + NAME(pixel)(m, n, i, j) + c);
                    REAL *to = y + NAME(pixel)(m, n, h, p) + c;
                    store(to, add ? load(to) + sum / (REAL)9 : sum / (REAL)9);
                }
}

/* The channels of x become those of y from `pad` on; backwards the gradient by them. */
static void NAME(put)(const struct place *at, const struct op *op, int backward) {
    const struct map *in = &at->program->maps[op->x], *out = &at->program->maps[op->y];
    REAL *x = backward ? gradient(at, op->x) : values(at, op->x), *y = backward ? gradient(at, op->y) : values(at, op->y);
    for (int64_t n = at->from; n < at->to; n++)
        for (int64_t h = 0; h < in->height; h++)
            for (int64_t p = 0; p < in->width; p++) {
                REAL *a = x + NAME(pixel)(in, n, h, p), *b = y + NAME(pixel)(out, n, h, p) + op->pad;
                for (int64_t c = in->channels; backward && op->add_x == COPY && c < in->lanes; c++) a[c] = 0;
                for (int64_t c = 0; c < in->channels; c++)
                    if (!backward) b[c] = a[c];
                    else a[c] = op->add_x == COPY ? b[c] : a[c] + b[c];
            }
}

/* --- The borders: tensors N×(R·C)×H×W of the world outside, and averages N×(R·C) over their positions. --- */

/* The channels of a position. apart: how far the tensor has them from each other. */
INLINE void NAME(copy_channels)(const struct map *m, REAL *here, REAL *there, int64_t apart, int how) {
    for (int64_t c = m->channels; how == INWARD && c < m->lanes; c++) here[c] = 0;
    for (int64_t c = 0; c < m->channels; c++)
        if (how == INWARD) here[c] = there[c * apart];
        else if (how == ADDED) here[c] += there[c * apart];
        else there[c * apart] = here[c];
}

static void NAME(copy)(const struct place *at, const struct map *m, REAL *map, REAL *tensor, const int64_t *strides, int how) {
    if (!tensor) return;
    for (int64_t n = at->from; n < at->to; n++)
        for (int64_t h = 0; h < m->height; h++)
            for (int64_t p = 0; p < m->width; p++) {
                REAL *here = map + NAME(pixel)(m, n, h, p);
                REAL *there = tensor + (at->first + n) * strides[0] + at->replicate * m->channels * strides[1] +
                              h * strides[2] + p * strides[3];
                if (strides[1] == 1) NAME(copy_channels)(m, here, there, 1, how);
                else NAME(copy_channels)(m, here, there, strides[1], how);
            }
}

/* Where the averages of an image are kept for the layer that reads them. */
INLINE REAL *NAME(averages)(const struct place *at, const struct op *op, int64_t n) {
    return at->kept + op->stats + (at->first + n) % at->program->slots * at->program->maps[op->x].lanes;
}

/* Averages over the positions; or what a linear layer of them gives, R×N×size. */
static void NAME(average)(const struct place *at, const struct op *op) {
    const struct map *m = &at->program->maps[op->x];
    const REAL *w = own(at->tensors, op->tensor[1], op->size * m->channels, at), *bias = own(at->tensors, op->tensor[2], op->size, at);
    REAL *to = at->tensors[op->tensor[0]], none[MOST_LANES] = {0};
    double sums[MOST_LANES];
    for (int64_t n = at->from; n < at->to; n++) {
        NAME(moment)(values(at, op->x) + n * NAME(pixels)(m) * m->lanes, m, none, 0, sums);
        REAL *a = w ? NAME(averages)(at, op, n)
                    : to + ((at->first + n) * at->program->replicates + at->replicate) * m->channels;
        for (int64_t c = 0; c < m->channels; c++) a[c] = (REAL)(sums[c] / (double)(m->height * m->width));
        REAL *y = to + (at->replicate * at->program->images + at->first + n) * op->size;
        for (int64_t k = 0; w && k < op->size; k++) {
            double sum = bias[k];
            for (int64_t c = 0; c < m->channels; c++) sum += (double)a[c] * w[k * m->channels + c];
            y[k] = (REAL)sum;
        }
    }
}

/* The linear layer's gradients, added to what the images before gave: of all images, for some of its results a member. */
static void NAME(linear_weights)(const struct place *at, const struct op *op) {
    const struct map *m = &at->program->maps[op->x];
    REAL *dw = own(at->gradients, op->tensor[1], op->size * m->channels, at), *db = own(at->gradients, op->tensor[2], op->size, at);
    const REAL *to = (const REAL *)at->gradients[op->tensor[0]] + at->replicate * at->program->images * op->size;
    for (int64_t n = 0, turn = 0; n < at->count; n++, turn = 0) {
        const REAL *a = NAME(averages)(at, op, n), *g = to + (at->first + n) * op->size;
        int begins = at->first + n == 0;
        for (int64_t k = 0; k < op->size; k++) {
            if (!NAME(mine)(at, &turn)) continue;
            for (int64_t c = 0; dw && c < m->channels; c++)
                dw[k * m->channels + c] = (begins ? 0 : dw[k * m->channels + c]) + g[k] * a[c];
            if (db) db[k] = (begins ? 0 : db[k]) + g[k];
        }
    }
}

/* Its gradients by the averages of image n, in `by`. */
static const REAL *NAME(linear_back)(const struct place *at, const struct op *op, int64_t n, REAL *by) {
    const struct map *m = &at->program->maps[op->x];
    const REAL *w = own(at->tensors, op->tensor[1], op->size * m->channels, at);
    const REAL *g = (const REAL *)at->gradients[op->tensor[0]] + (at->replicate * at->program->images + at->first + n) * op->size;
    for (int64_t c = 0; c < m->channels; c++) by[c] = 0;
    for (int64_t k = 0; k < op->size; k++)
        for (int64_t c = 0; c < m->channels; c++) by[c] += g[k] * w[k * m->channels + c];
    return by;
}

static void NAME(average_back)(const struct place *at, const struct op *op) {
    const struct map *m = &at->program->maps[op->x];
    REAL *dx = gradient(at, op->x), each = (REAL)1 / (REAL)(m->height * m->width), by[MOST_LANES];
    if (op->tensor[1] >= 0) NAME(linear_weights)(at, op);
    for (int64_t n = at->from; n < at->to; n++) {
        const REAL *from = op->tensor[1] >= 0 ? NAME(linear_back)(at, op, n, by)
                                              : (const REAL *)at->gradients[op->tensor[0]] +
                                                    ((at->first + n) * at->program->replicates + at->replicate) * m->channels;
        for (int64_t h = 0; h < m->height; h++)
            for (int64_t p = 0; p < m->width; p++)
                for (int64_t c = 0; c < m->lanes; c++) {
                    REAL *to = dx + NAME(pixel)(m, n, h, p) + c;
                    REAL t = c < m->channels ? each * from[c] : 0;
                    *to = op->add_x ? *to + t : t;
                }
    }
}

/* --- The program. --- */

static void NAME(forward)(struct place *at) {
    const struct program *program = at->program;
    for (int64_t i = program->first; i < program->last; i++)
        if (program->ops[i].kind == CONV) NAME(pack)(at, &program->ops[i]);
    for (int64_t first = 0; NAME(chunk)(at, first); first += program->chunk)
        for (int64_t i = program->first; i < program->last; i++) {
            const struct op *op = &program->ops[i];
            const struct map *m = &program->maps[op->x];
            switch (op->kind) {
            case IMPORT: NAME(copy)(at, m, values(at, op->x), at->tensors[op->tensor[0]], op->strides, INWARD); break;
            case EXPORT: NAME(copy)(at, m, values(at, op->x), at->tensors[op->tensor[0]], op->strides, OUTWARD); break;
            case CONV: NAME(conv)(at, op); break;
            case POINT: NAME(point)(at, op); break;
            case AVERAGE: NAME(average)(at, op); break;
            case LARGEST: NAME(largest)(at, op); break;
            case MEANS: NAME(means)(at, m, values(at, op->x), values(at, op->y), 0); break;
            case PUT: NAME(put)(at, op, 0); break;
            }
        }
}

static void NAME(backward)(struct place *at) {
    const struct program *program = at->program;
    if (at->member == 0) memset(at->scratch + program->sums, 0, program->sums_size * sizeof(REAL));
    for (int64_t i = program->first; i < program->last; i++)
        if (program->ops[i].kind == CONV) NAME(pack_transposed)(at, &program->ops[i]);
    for (int64_t first = 0; NAME(chunk)(at, first); first += program->chunk)
        for (int64_t i = program->last - 1; i >= program->first; i--) {
            const struct op *op = &program->ops[i];
            const struct map *m = &program->maps[op->x];
            switch (op->kind) {
            case IMPORT:
                if (op->needs_x) NAME(copy)(at, m, gradient(at, op->x), at->gradients[op->tensor[0]], op->gradient_strides, OUTWARD);
                break;
            case EXPORT:
                NAME(copy)(at, m, gradient(at, op->x), at->gradients[op->tensor[0]], op->gradient_strides,
                           op->add_x ? ADDED : INWARD);
                break;
            case CONV:
                NAME(conv_filters)(at, op);
                if (op->needs_x) NAME(conv_input)(at, op);
                break;
            case POINT: NAME(point_back)(at, op); break;
            case AVERAGE: NAME(average_back)(at, op); break;
            case LARGEST: NAME(largest_back)(at, op); break;
            case MEANS: NAME(means)(at, m, gradient(at, op->y), gradient(at, op->x), op->add_x != COPY); break;
            case PUT: NAME(put)(at, op, 1); break;
            }
        }
    for (int64_t i = program->first; i < program->last; i++)
        if (program->ops[i].kind == CONV) NAME(unpack)(at, &program->ops[i]);
        else if (program->ops[i].kind == POINT && at->member == 0) NAME(point_end)(at, &program->ops[i]);
}

static void NAME(work)(const struct worker *worker) {
    const struct program *program = worker->program;
    for (int64_t r = worker->number; r < program->replicates; r += worker->teams) {
        REAL *kept = (REAL *)worker->kept + r * program->kept_size;
        REAL *scratch = program->scratch_size ? (REAL *)worker->scratch + worker->number * program->scratch_size : kept;
        struct place at = {program, worker->tensors, worker->gradients, kept, scratch, r, 0, 0,
                           worker->team, worker->member, 0, 0};
        if (worker->backward) NAME(backward)(&at);
        else NAME(forward)(&at);
        meet(worker->team); /* before the team goes on to another replicate */
    }
}

#undef vec
#undef V
#undef load
#undef store
#undef place
#undef values
#undef gradient
#undef own
#undef run
