/* Products with a base model's weights, kept in as few bits as hold them exactly: y = x Wᵀ + bias in fp32.
 *
 * Most models are published in bfloat16 or float16. Widening such a weight to fp32 loses nothing, so it is stored in
 * two bytes and widened in registers: the numbers are those of the fp32 model, at half its memory and, where memory
 * is the limit (a few rows), in half its time. A matrix that two bytes cannot hold exactly stays in four.
 *
 * Every output is one running sum over the inputs in order, whatever the number of rows: a row's product does not
 * depend on who else is in the batch, to the last bit.
 *
 * Packed form: tiles of WIDTH output columns, the last one padded with zeros; in a tile, for each input, WIDTH weights
 * in the order in which registers take them. BF16 puts two columns into one word, so that a shift and a mask widen.
 */
#include "segments.h"

enum { BF16 = 0, FP16 = 1, FP32 = 2 };

#define VECTORS 2
#define WIDTH (VECTORS * LANES)
#if LANES == 16
#define ROWS 12 /* rows in one pass over a tile: 24 sums, 2 weights and an input in 32 registers */
#else
#define ROWS 6 /* 12 sums, 2 weights and an input in 16 registers */
#endif
#define PAIRED_ROWS 3 /* up to so many rows two tiles go together, or the sums would wait for each other */
#define AHEAD 2048 /* bytes that are fetched ahead */

INLINE uint32_t bits(float value) {
    uint32_t word;
    memcpy(&word, &value, 4);
    return word;
}

INLINE int fits_half(float value) {
#ifdef __F16C__
    return bits(_cvtsh_ss(_cvtss_sh(value, 0))) == bits(value);
#else
    (void)value;
    return 0;
#endif
}

/* The narrowest format that holds all weights exactly. */
int weights_format(const float *weights, int64_t count, int threads) {
    uint32_t lost = 0, wide = 0;
    (void)threads;
#pragma omp parallel for num_threads(threads) reduction(| : lost)
    for (int64_t i = 0; i < count; i++) lost |= bits(weights[i]) & 0xffff;
    if (!lost) return BF16;
#pragma omp parallel for num_threads(threads) reduction(| : wide)
    for (int64_t block = 0; block < (count + 4095) / 4096; block++) {
        int64_t stop = (block + 1) * 4096 < count ? (block + 1) * 4096 : count;
        for (int64_t i = block * 4096; i < stop && !wide; i++) wide |= !fits_half(weights[i]);
    }
    return wide ? FP32 : FP16;
}

INLINE int64_t tile_bytes(int format, int64_t inputs) { return inputs * WIDTH * (format == FP32 ? 4 : 2); }

int64_t packed_bytes(int format, int64_t outputs, int64_t inputs) {
    return (outputs + WIDTH - 1) / WIDTH * tile_bytes(format, inputs);
}

/* weights (outputs, inputs) -> `to`, which has packed_bytes. */
void pack_weights(const float *weights, int format, int64_t outputs, int64_t inputs, char *to, int threads) {
    int64_t tiles = (outputs + WIDTH - 1) / WIDTH;
    (void)threads;
#pragma omp parallel for num_threads(threads)
    for (int64_t t = 0; t < tiles; t++) {
        char *tile = to + t * tile_bytes(format, inputs);
        for (int64_t c = 0; c < WIDTH; c++) {
            int64_t column = t * WIDTH + c, pair = c / (2 * LANES), high = c / LANES % 2, lane = c % LANES;
            const float *from = weights + column * inputs;
            for (int64_t k = 0; k < inputs; k++) {
                float value = column < outputs ? from[k] : 0.0f;
                if (format == FP32) {
                    ((float *)tile)[k * WIDTH + c] = value;
                } else if (format == BF16) {
                    ((uint16_t *)tile)[k * WIDTH + pair * 2 * LANES + 2 * lane + high] = (uint16_t)(bits(value) >> 16);
                } else {
#ifdef __F16C__
                    ((uint16_t *)tile)[k * WIDTH + c] = _cvtss_sh(value, 0);
#endif
                }
            }
        }
    }
}

/* The weights of columns 2 * LANES * pair and on, for one input. */
INLINE void widen(int format, const char *at, int pair, vec *low, vec *high) {
    if (format == FP32) {
        *low = load((const float *)at + 2 * pair * LANES);
        *high = load((const float *)at + (2 * pair + 1) * LANES);
    } else if (format == BF16) {
        words both = *(const loose_words *)((const uint32_t *)at + pair * LANES);
        *low = (vec)(both << 16);
        *high = (vec)(both & 0xffff0000u);
    } else {
#if LANES == 16
        *low = (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at + 2 * pair));
        *high = (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at + 2 * pair + 1));
#elif defined(__F16C__)
        *low = (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at + 2 * pair));
        *high = (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at + 2 * pair + 1));
#endif
    }
}

/* y (rn, 2 * WIDTH), of which tn tiles are filled; x is (inputs, rn). format, rn and tn are constants where this is
 * inlined. */
INLINE void block(int format, int rn, int tn, const char *w, int64_t inputs, const float *x, float *y) {
    vec sums[ROWS][2][VECTORS];
#pragma GCC unroll 16
    for (int r = 0; r < rn; r++)
#pragma GCC unroll 2
        for (int t = 0; t < tn; t++)
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++) sums[r][t][v] = (vec){0};
    const int64_t step = tile_bytes(format, 1), tile = tile_bytes(format, inputs);
    for (int64_t k = 0; k < inputs; k++, w += step, x += rn) {
#pragma GCC unroll 2
        for (int t = 0; t < tn; t++) {
            __builtin_prefetch(w + t * tile + AHEAD);
            if (format == FP32) __builtin_prefetch(w + t * tile + AHEAD + 64);
#pragma GCC unroll 8
            for (int p = 0; p < VECTORS / 2; p++) {
                vec low, high;
                widen(format, w + t * tile, p, &low, &high);
#pragma GCC unroll 16
                for (int r = 0; r < rn; r++) {
                    sums[r][t][2 * p] = madd(low, all_lanes(x[r]), sums[r][t][2 * p]);
                    sums[r][t][2 * p + 1] = madd(high, all_lanes(x[r]), sums[r][t][2 * p + 1]);
                }
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rn; r++)
#pragma GCC unroll 2
        for (int t = 0; t < tn; t++)
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++) store(y + (r * 2 + t) * WIDTH + v * LANES, sums[r][t][v]);
}

#define CASE(format, rn, tn) \
    case ((format) * 2 + (tn) - 1) * 16 + (rn): block(format, rn, tn, w, inputs, x, y); break;
#define UP_TO_6(format) \
    CASE(format, 1, 1) CASE(format, 2, 1) CASE(format, 3, 1) CASE(format, 4, 1) CASE(format, 5, 1) CASE(format, 6, 1) \
    CASE(format, 1, 2) CASE(format, 2, 2) CASE(format, 3, 2)
#if LANES == 16
#define CASES(format) \
    UP_TO_6(format) CASE(format, 7, 1) CASE(format, 8, 1) CASE(format, 9, 1) CASE(format, 10, 1) CASE(format, 11, 1) \
    CASE(format, 12, 1)
#else
#define CASES(format) UP_TO_6(format)
#endif

static void block_any(int format, int rn, int tn, const char *w, int64_t inputs, const float *x, float *y) {
    switch ((format * 2 + tn - 1) * 16 + rn) {
        CASES(BF16)
#ifdef __F16C__
        CASES(FP16)
#endif
        CASES(FP32)
    }
}

static void finish(const float *made, const float *bias, int64_t width, float *y) {
    if (bias)
        for (int64_t c = 0; c < width; c++) y[c] = made[c] + bias[c];
    else
        memcpy(y, made, 4 * (size_t)width);
}

/* x (rows, inputs) by x_stride -> y (rows, outputs); `scratch` holds rows * inputs; `bias` may be null. Where `plan` is
 * not null, adapters' updates are added as segments.c describes, with `hidden` as its scratch: one team of threads does
 * both, since bringing one together costs as much as a small product. */
void base_product(const char *weights, int format, int64_t outputs, int64_t inputs, const float *bias, const float *x,
                  int64_t x_stride, int64_t rows, float *y, float *scratch, const int64_t *plan,
                  const int64_t *plan_rows, int64_t layer, float *hidden, int threads) {
    const int64_t tiles = (outputs + WIDTH - 1) / WIDTH;
    const int64_t groups = (rows + ROWS - 1) / ROWS; /* of rows, of nearly equal sizes */
    (void)threads;
#pragma omp parallel num_threads(threads)
    {
        const int64_t me = this_thread(), all = all_threads();
        const float *inner = x;
        if (rows > 1) { /* a group's inputs side by side; threads share each group, since often there is only one */
            for (int64_t g = 0; g < groups; g++) {
                int64_t first = rows * g / groups, rn = rows * (g + 1) / groups - first;
                for (int64_t r = 0; r < rn; r++)
                    for (int64_t k = inputs * me / all; k < inputs * (me + 1) / all; k++)
                        scratch[first * inputs + k * rn + r] = x[(first + r) * x_stride + k];
            }
            inner = scratch;
        }
        if (plan) lora_dots(plan, plan_rows, layer, x, x_stride, inputs, hidden, me, all);
        if (rows > 1) {
#pragma omp barrier
        }
        const int paired = rows <= PAIRED_ROWS;
        const int64_t stop = tiles * (me + 1) / all;
        for (int64_t t = tiles * me / all; t < stop;) {
            int tn = paired && t + 1 < stop ? 2 : 1;
            for (int64_t g = 0; g < groups; g++) {
                int64_t first = rows * g / groups, rn = rows * (g + 1) / groups - first;
                float made[ROWS * 2 * WIDTH];
                block_any(format, (int)rn, tn, weights + t * tile_bytes(format, inputs), inputs, inner + first * inputs,
                          made);
                int64_t left = outputs - t * WIDTH, width = left < tn * WIDTH ? left : tn * WIDTH;
                for (int64_t r = 0; r < rn; r++)
                    finish(made + r * 2 * WIDTH, bias ? bias + t * WIDTH : 0, width,
                           y + (first + r) * outputs + t * WIDTH);
            }
            t += tn;
        }
        if (plan) {
#pragma omp barrier
            lora_update(plan, plan_rows, layer, y, outputs, hidden, me, all);
        }
    }
}
