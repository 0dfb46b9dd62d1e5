/* What the base's products take over from segments.c to apply adapters in the same pass. */
#pragma once
#include "vectors.h"

void lora_dots(const int64_t *plan, const int64_t *rows, int64_t layer, const float *x, int64_t x_stride,
               int64_t inputs, float *scratch, int64_t me, int64_t all);
void lora_update(const int64_t *plan, const int64_t *rows, int64_t layer, float *y, int64_t y_stride,
                 const float *scratch, int64_t me, int64_t all);
