/* An adapter's matrices from its file's form into a bank's, all in one call: widened to fp32, B scaled and transposed
 * into tiles, and looked at for values that are not finite. It runs beside the engine's steps, on one thread and
 * without the interpreter's lock; hundreds of small tensor operations would take turns with the steps for it. */
#include "vectors.h"

enum { FP32 = 0, FP16 = 1, BF16 = 2 };

#define TILE 64 /* as in segments.c */

INLINE float from_word(uint32_t word) {
    float value;
    memcpy(&value, &word, 4);
    return value;
}

INLINE float from_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00) return from_word(sign | 0x7f800000u | (rest << 13)); /* infinity, NaN */
    return from_word(sign | 0x3f800000u) * (from_word(rest << 13) * 0x1p112f); /* exact, subnormal numbers too */
}

/* A file may put a tensor at any byte. */
INLINE float at(int format, const char *from, int64_t i) {
    float value;
    uint16_t half;
    if (format == FP32) {
        memcpy(&value, from + 4 * i, 4);
        return value;
    }
    memcpy(&half, from + 2 * i, 2);
    return format == BF16 ? from_word((uint32_t)half << 16) : from_half(half);
}

INLINE uint32_t infinite(float value) {
    uint32_t word;
    memcpy(&word, &value, 4);
    return (word & 0x7f800000u) == 0x7f800000u;
}

INLINE uint32_t copy(int format, const char *from, int64_t count, float *to) {
    uint32_t bad = 0;
    for (int64_t i = 0; i < count; i++) {
        float value = at(format, from, i);
        to[i] = value;
        bad |= infinite(value);
    }
    return bad;
}

/* from (outputs, rank) -> tiles (ceil(outputs / TILE), room, TILE), whose rows from `rank` on stay as they are. */
INLINE uint32_t tile(int format, const char *from, int64_t outputs, int64_t rank, int64_t room, float scale, float *to) {
    uint32_t bad = 0;
    for (int64_t c = 0; c < outputs; c += TILE, to += room * TILE) {
        int64_t width = outputs - c < TILE ? outputs - c : TILE;
        for (int64_t r = 0; r < rank; r++)
            for (int64_t i = 0; i < width; i++) {
                float value = at(format, from, (c + i) * rank + r) * scale;
                to[r * TILE + i] = value;
                bad |= infinite(value);
            }
    }
    return bad;
}

#define ITEM(format) \
    case format: \
        bad |= copy(format, a, item[3] * item[4], to_a); \
        bad |= tile(format, b, item[5], item[3], item[8], scales[n], to_b); \
        break;

/* Each item, in 64-bit words: A (rank, inputs), B (outputs, rank), their format, rank, inputs, outputs, where A goes,
 * where B's tiles go, the rows of a tile. Memory that is not written must be zero. Returns whether all are finite. */
int load_matrices(const int64_t *items, const float *scales, int64_t count) {
    uint32_t bad = 0;
    for (int64_t n = 0; n < count; n++) {
        const int64_t *item = items + 9 * n;
        const char *a = (const char *)(intptr_t)item[0], *b = (const char *)(intptr_t)item[1];
        float *to_a = (float *)(intptr_t)item[6], *to_b = (float *)(intptr_t)item[7];
        switch (item[2]) { ITEM(FP32) ITEM(FP16) ITEM(BF16) }
    }
    return !bad;
}
