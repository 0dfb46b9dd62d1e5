/* Attention of decoding rows over their slots, keys and values read where they lie: no copy, no mask, no buckets.
 *
 * keys (slots, length, kv heads, key size) and values (slots, length, kv heads, value size) are dense. A row attends
 * to the positions from max(0, lengths[row] - window) up to lengths[row] of its own slot: out = softmax(q kᵀ scale) v.
 * Each head of each row is computed alone and in the order of positions, so a row does not depend on the batch, to the
 * last bit. What is not a number stays so and reaches no other row.
 */
#include "vectors.h"
#include <math.h>

#define HEADS 4 /* query heads that share a pass over their keys */
#define BLOCK 4 /* vectors of a value in one pass: HEADS * BLOCK sums */
#define SMALL 32768 /* multiplications below which threads cost more than they bring */

/* Keys and values (kv heads, rows, size), by strides, to the positions `index` (slot * length + position). */
void keep_rows(const float *key, int64_t key_head, int64_t key_row, const float *value, int64_t value_head,
               int64_t value_row, const int64_t *index, int64_t rows, int64_t kv_heads, int64_t key_size,
               int64_t value_size, float *keys, float *values) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < kv_heads; h++) {
            memcpy(keys + (index[r] * kv_heads + h) * key_size, key + h * key_head + r * key_row, 4 * (size_t)key_size);
            memcpy(values + (index[r] * kv_heads + h) * value_size, value + h * value_head + r * value_row,
                   4 * (size_t)value_size);
        }
}

INLINE vec choose(words mask, vec yes, vec no) { return (vec)((mask & (words)yes) | (~mask & (words)no)); }

/* e^x of each lane for x <= 0 to about 1 ulp, never below e^-87: Cephes' expf (Moshier) with 2^n built from bits. */
INLINE vec exponential(vec x) {
    x = choose((words)(x < -87.0f), all_lanes(-87.0f), x); /* this way round a NaN stays */
    /* n + 1.5 * 2^23: its low bits are the integer n */
    vec shifted = madd(x, all_lanes(1.44269504f), all_lanes(12582912.0f));
    vec n = shifted - 12582912.0f;
    vec r = madd(n, all_lanes(2.12194440e-4f), madd(n, all_lanes(-0.693359375f), x));
    vec p = madd(r, all_lanes(1.9875691500e-4f), all_lanes(1.3981999507e-3f));
    p = madd(p, r, all_lanes(8.3334519073e-3f));
    p = madd(p, r, all_lanes(4.1665795894e-2f));
    p = madd(p, r, all_lanes(1.6666665459e-1f));
    p = madd(p, r, all_lanes(5.0000001201e-1f));
    p = madd(p * r, r, r) + 1.0f;
    return p * (vec)(((words)shifted << 23) + 0x3f800000u);
}

/* Scores in place to weights that sum to one; `scores` has room up to a multiple of LANES. */
static void softmax(float *scores, int64_t count) {
    int64_t padded = (count + LANES - 1) / LANES * LANES;
    for (int64_t j = count; j < padded; j++) scores[j] = -INFINITY;
    vec most = load(scores);
    for (int64_t j = LANES; j < padded; j += LANES) {
        vec s = load(scores + j);
        most = choose((words)(s > most), s, most);
    }
    float top = -INFINITY;
    for (int i = 0; i < LANES; i++) top = most[i] > top ? most[i] : top;
    for (int64_t j = 0; j < padded; j += LANES) store(scores + j, exponential(load(scores + j) - top));
    for (int64_t j = count; j < padded; j++) scores[j] = 0.0f;
    vec total = {0};
    for (int64_t j = 0; j < padded; j += LANES) total += load(scores + j);
    float share = 1.0f / sum(total);
    for (int64_t j = 0; j < padded; j += LANES) store(scores + j, load(scores + j) * share);
}

/* scores[n * room + j] = scale * q[n] . k[j] for `hn` heads, a constant where this is inlined. */
INLINE void score(int hn, const float *const *q, const float *k, int64_t k_step, int64_t count, int64_t size,
                  float scale, float *scores, int64_t room) {
    for (int64_t j = 0; j < count; j++, k += k_step) {
        vec acc[HEADS] = {0};
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES) {
            vec w = load(k + i);
            for (int n = 0; n < hn; n++) acc[n] = madd(w, load(q[n] + i), acc[n]);
        }
        for (int n = 0; n < hn; n++) {
            float total = sum(acc[n]);
            for (int64_t t = i; t < size; t++) total += k[t] * q[n][t];
            scores[n * room + j] = total * scale;
        }
    }
}

/* out[n] = sum over j of scores[n][j] v[j]. */
INLINE void blend(int hn, const float *v, int64_t v_step, int64_t count, int64_t size, const float *scores,
                  int64_t room, float *const *out) {
    int64_t i = 0;
    for (; i + BLOCK * LANES <= size; i += BLOCK * LANES) {
        vec acc[HEADS][BLOCK] = {0};
        const float *at = v + i;
        for (int64_t j = 0; j < count; j++, at += v_step)
            for (int b = 0; b < BLOCK; b++) {
                vec w = load(at + b * LANES);
                for (int n = 0; n < hn; n++) acc[n][b] = madd(w, all_lanes(scores[n * room + j]), acc[n][b]);
            }
        for (int n = 0; n < hn; n++)
            for (int b = 0; b < BLOCK; b++) store(out[n] + i + b * LANES, acc[n][b]);
    }
    for (; i + LANES <= size; i += LANES) {
        vec acc[HEADS] = {0};
        const float *at = v + i;
        for (int64_t j = 0; j < count; j++, at += v_step) {
            vec w = load(at);
            for (int n = 0; n < hn; n++) acc[n] = madd(w, all_lanes(scores[n * room + j]), acc[n]);
        }
        for (int n = 0; n < hn; n++) store(out[n] + i, acc[n]);
    }
    for (; i < size; i++)
        for (int n = 0; n < hn; n++) {
            float total = 0;
            for (int64_t j = 0; j < count; j++) total += scores[n * room + j] * v[j * v_step + i];
            out[n][i] = total;
        }
}

#define CASE(hn) \
    case hn: \
        score(hn, q, k, k_step, count, key_size, scale, scores, room); \
        for (int n = 0; n < hn; n++) softmax(scores + n * room, count); \
        blend(hn, v, v_step, count, value_size, scores, room, out); \
        break;

static void attend(int64_t hn, const float *const *q, const float *k, int64_t k_step, const float *v, int64_t v_step,
                   int64_t count, int64_t key_size, int64_t value_size, float scale, float *scores, int64_t room,
                   float *const *out) {
    switch (hn) { CASE(1) CASE(2) CASE(3) CASE(4) }
}

/* query by strides -> out (rows, heads, value size), dense. `window` 0: none. `scratch`: threads * HEADS * room floats,
 * where room is the longest length rounded up to 16. */
void decode_attention(const float *query, int64_t query_head, int64_t query_row, const float *keys, const float *values,
                      const int64_t *slots, const int64_t *lengths, int64_t rows, int64_t heads, int64_t kv_heads,
                      int64_t key_size, int64_t value_size, int64_t slot_length, int64_t window, float scale,
                      float *out, float *scratch, int64_t room, int threads) {
    const int64_t group = heads / kv_heads;
    int64_t piece = group < HEADS ? group : HEADS, work = 0;
    if (rows * kv_heads < 2 * threads) piece = (group + 1) / 2 < piece ? (group + 1) / 2 : piece;
    const int64_t pieces = (group + piece - 1) / piece, units = rows * kv_heads * pieces;
    for (int64_t r = 0; r < rows; r++) work += lengths[r] * heads * key_size;
#pragma omp parallel num_threads(threads) if (work > SMALL)
    {
        float *scores = scratch + this_thread() * HEADS * room;
#pragma omp for schedule(dynamic, 1)
        for (int64_t unit = 0; unit < units; unit++) {
            const int64_t row = unit / (kv_heads * pieces), kv = unit / pieces % kv_heads, part = unit % pieces;
            const int64_t stop = lengths[row], start = window && stop > window ? stop - window : 0;
            const int64_t first = part * piece, hn = group - first < piece ? group - first : piece;
            const float *q[HEADS];
            float *to[HEADS];
            for (int64_t n = 0; n < hn; n++) {
                const int64_t head = kv * group + first + n;
                q[n] = query + head * query_head + row * query_row;
                to[n] = out + (row * heads + head) * value_size;
            }
            const int64_t at = (slots[row] * slot_length + start) * kv_heads + kv;
            attend(hn, q, keys + at * key_size, kv_heads * key_size, values + at * value_size, kv_heads * value_size,
                   stop - start, key_size, value_size, scale, scores, room, to);
        }
    }
}
