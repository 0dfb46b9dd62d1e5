/* RMSNorm (Zhang and Sennrich 2019): y = x / sqrt(mean(x²) + eps) * weight, row by row, in one call of its own where a
 * model takes six operations. A row does not depend on the others, to the last bit. */
#include "vectors.h"
#include <math.h>

#define SUMS 4 /* independent sums, so that one addition need not wait for the one before */
#define SMALL 65536 /* numbers below which threads cost more than they bring */

INLINE void row_norm(const float *x, const float *weight, int64_t size, float eps, float *y) {
    vec acc[SUMS] = {0};
    int64_t i = 0;
    for (; i + SUMS * LANES <= size; i += SUMS * LANES)
        for (int s = 0; s < SUMS; s++) {
            vec v = load(x + i + s * LANES);
            acc[s] = madd(v, v, acc[s]);
        }
    for (; i + LANES <= size; i += LANES) {
        vec v = load(x + i);
        acc[0] = madd(v, v, acc[0]);
    }
    float squares = sum(acc[0] + acc[1] + acc[2] + acc[3]);
    for (; i < size; i++) squares += x[i] * x[i];
    float scale = 1.0f / sqrtf(squares / (float)size + eps);
    for (i = 0; i + LANES <= size; i += LANES) store(y + i, load(x + i) * scale * load(weight + i));
    for (; i < size; i++) y[i] = x[i] * scale * weight[i];
}

/* x (rows, size) by x_stride -> y (rows, size), dense. */
void rms_norm(const float *x, int64_t x_stride, int64_t rows, int64_t size, const float *weight, float eps, float *y,
              int threads) {
    (void)threads;
#pragma omp parallel for num_threads(threads) if (rows * size > SMALL)
    for (int64_t r = 0; r < rows; r++) row_norm(x + r * x_stride, weight, size, eps, y + r * size);
}
