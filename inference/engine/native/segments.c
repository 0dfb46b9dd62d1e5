/* LoRA updates of a whole step in one call: y[row] += (x[row] A') B with each row's own adapter (Hu et al. 2021, eq. 3).
 *
 * Rows of one adapter form a segment (Punica's SGMV, Chen et al. 2023). Only a segment's own matrices are read and
 * multiplied, so the cost is that of reading the adapters in use once, whatever the mix; rows without an adapter are
 * not touched at all. Plain fp32; sums run in another order than a BLAS would take.
 *
 * `plan` describes a kind of layer for one step, in 64-bit words:
 *   segments, members, outputs of each member...
 *   then for each segment: A, floats of A a layer, B, floats of B a layer, first entry in `rows`, entries,
 *   rank in each member...
 * A is (layers, sum of ranks, inputs). B of one layer is, member after member, tiles of TILE output columns,
 * (ceil(outputs / TILE), rank, TILE), zero beyond the last column. Pointers are addresses of floats.
 */
#include "segments.h"

#define TILE 64
#define VECTORS (TILE / LANES)
#define A_ROWS 4 /* rows of A in one block */

/* hidden[n][r] = x[n] . a[r] for `an` rows of A and `xn` rows of x; both are constants where this is inlined. */
INLINE void dots(int an, int xn, const float *a, int64_t inputs, const float *const *x, float *const *hidden) {
    vec acc[A_ROWS][4] = {0};
    int64_t i = 0;
    for (; i + LANES <= inputs; i += LANES)
        for (int r = 0; r < an; r++) {
            vec w = load(a + r * inputs + i);
            for (int n = 0; n < xn; n++) acc[r][n] = madd(w, load(x[n] + i), acc[r][n]);
        }
    for (int r = 0; r < an; r++)
        for (int n = 0; n < xn; n++) {
            float total = sum(acc[r][n]);
            for (int64_t j = i; j < inputs; j++) total += a[r * inputs + j] * x[n][j];
            hidden[n][r] = total;
        }
}

#define DOTS(an, xn) \
    case (an) * 8 + (xn): dots(an, xn, a, inputs, x, hidden); break;

static void dots_any(int an, int xn, const float *a, int64_t inputs, const float *const *x, float *const *hidden) {
    switch (an * 8 + xn) {
        DOTS(1, 1) DOTS(1, 2) DOTS(1, 3) DOTS(1, 4) DOTS(2, 1) DOTS(2, 2) DOTS(2, 3) DOTS(2, 4)
        DOTS(3, 1) DOTS(3, 2) DOTS(3, 3) DOTS(3, 4) DOTS(4, 1) DOTS(4, 2) DOTS(4, 3) DOTS(4, 4)
    }
}

/* y[n] += hidden[n] b for one tile of columns; `yn` rows, a constant where this is inlined. */
INLINE void update(int yn, const float *b, int64_t rank, int64_t width, const float *const *hidden, float *const *y) {
    vec acc[4][VECTORS];
    float edge[4][TILE];
    float *out[4];
    for (int n = 0; n < yn; n++) {
        out[n] = y[n];
        if (width < TILE) { /* the last columns of a member: work on a copy */
            memset(edge[n], 0, sizeof edge[n]);
            memcpy(edge[n], y[n], 4 * (size_t)width);
            out[n] = edge[n];
        }
        for (int v = 0; v < VECTORS; v++) acc[n][v] = load(out[n] + v * LANES);
    }
    for (int64_t r = 0; r < rank; r++, b += TILE)
        for (int v = 0; v < VECTORS; v++) {
            vec w = load(b + v * LANES);
            for (int n = 0; n < yn; n++) acc[n][v] = madd(w, all_lanes(hidden[n][r]), acc[n][v]);
        }
    for (int n = 0; n < yn; n++) {
        for (int v = 0; v < VECTORS; v++) store(out[n] + v * LANES, acc[n][v]);
        if (width < TILE) memcpy(y[n], edge[n], 4 * (size_t)width);
    }
}

static void update_any(int yn, const float *b, int64_t rank, int64_t width, const float *const *hidden, float *const *y) {
    switch (yn) {
        case 1: update(1, b, rank, width, hidden, y); break;
        case 2: update(2, b, rank, width, hidden, y); break;
        case 3: update(3, b, rank, width, hidden, y); break;
        case 4: update(4, b, rank, width, hidden, y); break;
    }
}

/* A thread's share of the hidden values x A', into `scratch`: sum over segments of entries times total rank. */
void lora_dots(const int64_t *plan, const int64_t *rows, int64_t layer, const float *x, int64_t x_stride,
               int64_t inputs, float *scratch, int64_t me, int64_t all) {
    const int64_t segments = plan[0], members = plan[1];
    const int64_t *first = plan + 2 + members;
    const int64_t words = 6 + members;
    int64_t unit = 0;
    float *hidden = scratch;
    for (int64_t s = 0; s < segments; s++) {
        const int64_t *seg = first + s * words;
        int64_t count = seg[5], total = 0;
        const int64_t *mine = rows + seg[4];
        for (int64_t m = 0; m < members; m++) total += seg[6 + m];
        const float *a = (const float *)(intptr_t)seg[0] + layer * seg[1];
        for (int64_t r = 0; r < total; r += A_ROWS) {
            if (unit++ % all != me) continue;
            int an = total - r < A_ROWS ? (int)(total - r) : A_ROWS;
            for (int64_t n = 0; n < count; n += 4) {
                int xn = count - n < 4 ? (int)(count - n) : 4;
                const float *xs[4];
                float *hs[4];
                for (int i = 0; i < xn; i++) {
                    xs[i] = x + mine[n + i] * x_stride;
                    hs[i] = hidden + (n + i) * total + r;
                }
                dots_any(an, xn, a + r * inputs, inputs, xs, hs);
            }
        }
        hidden += count * total;
    }
}

/* A thread's share of y += hidden B; every thread's lora_dots must be done. */
void lora_update(const int64_t *plan, const int64_t *rows, int64_t layer, float *y, int64_t y_stride,
                 const float *scratch, int64_t me, int64_t all) {
    const int64_t segments = plan[0], members = plan[1];
    const int64_t *outputs = plan + 2, *first = outputs + members;
    const int64_t words = 6 + members;
    const float *hidden = scratch;
    int64_t unit = 0;
    for (int64_t s = 0; s < segments; s++) {
        const int64_t *seg = first + s * words;
        int64_t count = seg[5], total = 0, column = 0, done = 0;
        const int64_t *mine = rows + seg[4];
        for (int64_t m = 0; m < members; m++) total += seg[6 + m];
        const float *b = (const float *)(intptr_t)seg[2] + layer * seg[3];
        for (int64_t m = 0; m < members; m++) {
            int64_t rank = seg[6 + m];
            for (int64_t c = 0; c < outputs[m]; c += TILE, b += rank * TILE) {
                if (rank == 0 || unit++ % all != me) continue;
                int64_t width = outputs[m] - c < TILE ? outputs[m] - c : TILE;
                for (int64_t n = 0; n < count; n += 4) {
                    int yn = count - n < 4 ? (int)(count - n) : 4;
                    const float *hs[4];
                    float *ys[4];
                    for (int i = 0; i < yn; i++) {
                        hs[i] = hidden + (n + i) * total + done;
                        ys[i] = y + mine[n + i] * y_stride + column + c;
                    }
                    update_any(yn, b, rank, width, hs, ys);
                }
            }
            column += outputs[m];
            done += rank;
        }
        hidden += count * total;
    }
}

/* Both, for a product that is not ours; x (.., x_stride) and y (.., y_stride) by row. */
void lora_apply(const int64_t *plan, const int64_t *rows, int64_t layer, const float *x, int64_t x_stride,
                int64_t inputs, float *y, int64_t y_stride, float *scratch, int threads) {
    (void)threads;
#pragma omp parallel num_threads(threads)
    {
        lora_dots(plan, rows, layer, x, x_stride, inputs, scratch, this_thread(), all_threads());
#pragma omp barrier
        lora_update(plan, rows, layer, y, y_stride, scratch, this_thread(), all_threads());
    }
}
