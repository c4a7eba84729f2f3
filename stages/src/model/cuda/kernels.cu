// Fused operations of the conformer for NVIDIA GPUs, f32, tensors contiguous with the channels last.
//
// Each kernel says what it computes; the Rust side in `launch.rs` says over which grid. Reductions go through shared
// memory in a fixed order, sums over rows through partial sums of fixed pieces of rows, so that results repeat bit by bit.
// The block size is a power of two and at most 256.
//
// `host.cpp` compiles this file for the CPU, where it defines HOST and emulates a block by threads, so that tests check
// the arithmetic without a GPU.

typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef HOST
#define KERNEL extern "C" __global__ void
#define SHARED __shared__
#endif

#define MOST_THREADS 256

// ---- dropout: the hash of `Dropout::row` and `Factors::at` in pass.rs --------------------------------------------------

struct Drop {
    u64 key;
    u64 first_row;
    u32 threshold;
    float scale; // 0: no dropout
};

__device__ __forceinline__ u64 bits_at(u64 key, u64 index) {
    u64 z = key + (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

__device__ __forceinline__ float factor(Drop drop, u64 row, u32 column) {
    if (drop.scale == 0.0f) return 1.0f;
    u64 bits = bits_at(drop.key, drop.first_row + row);
    u32 x = column * 0x9e3779b9u + (u32)bits;
    x = (x ^ (x >> 16)) * 0x7feb352du ^ (u32)(bits >> 32);
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    x ^= x >> 16;
    return x >= drop.threshold ? drop.scale : 0.0f;
}

__device__ __forceinline__ Drop drop_of(u64 key, u64 first_row, u32 threshold, float scale) {
    Drop drop;
    drop.key = key;
    drop.first_row = first_row;
    drop.threshold = threshold;
    drop.scale = scale;
    return drop;
}

// ---- elements ----------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float gelu_at(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

__device__ __forceinline__ float gelu_slope(float x) {
    return 0.5f * (1.0f + erff(x * 0.70710678118654752f)) + x * 0.39894228040143268f * expf(-0.5f * x * x);
}

__device__ __forceinline__ float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }

#define EACH(i, n) for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (u64)gridDim.x * blockDim.x)

// p, m and v in one pass, as `Update::piece` in adamw.rs.
KERNEL adamw(u64 n, float *p, const float *g, float *m, float *v, float scale, float decay, float rate, float root,
             float eps, float first, float beta2, float second) {
    EACH(i, n) {
        float gradient = scale * g[i];
        float moment = m[i] + first * (gradient - m[i]);
        float square = beta2 * v[i] + second * gradient * gradient;
        m[i] = moment;
        v[i] = square;
        p[i] = decay * p[i] - rate * moment / (root * sqrtf(square) + eps);
    }
}

// y = gelu(x) dropped; slopes: dx = g gelu'(x) dropped.
KERNEL gelu_forward(u64 n, const float *x, float *y, u32 columns, u64 key, u64 first_row, u32 threshold, float keep) {
    Drop drop = drop_of(key, first_row, threshold, keep);
    EACH(i, n) y[i] = gelu_at(x[i]) * factor(drop, i / columns, (u32)(i % columns));
}

KERNEL gelu_backward(u64 n, const float *x, const float *g, float *dx, u32 columns, u64 key, u64 first_row,
                     u32 threshold, float keep) {
    Drop drop = drop_of(key, first_row, threshold, keep);
    EACH(i, n) dx[i] = g[i] * gelu_slope(x[i]) * factor(drop, i / columns, (u32)(i % columns));
}

// z = alpha x + weight dropped(y); dy = weight dropped(g). With alpha 0 and weight 1: dropout alone.
KERNEL residual_forward(u64 n, const float *x, const float *y, float *z, float alpha, float weight, u32 columns, u64 key,
                        u64 first_row, u32 threshold, float keep) {
    Drop drop = drop_of(key, first_row, threshold, keep);
    EACH(i, n) z[i] = weight * factor(drop, i / columns, (u32)(i % columns)) * y[i] + (alpha == 0.0f ? 0.0f : alpha * x[i]);
}

KERNEL residual_backward(u64 n, const float *g, float *dy, float weight, u32 columns, u64 key, u64 first_row,
                         u32 threshold, float keep) {
    Drop drop = drop_of(key, first_row, threshold, keep);
    EACH(i, n) dy[i] = weight * factor(drop, i / columns, (u32)(i % columns)) * g[i];
}

// x (rows, 2 columns) to y (rows, columns), n = rows columns.
KERNEL glu_forward(u64 n, const float *x, float *y, u32 columns) {
    EACH(i, n) {
        u64 at = i / columns * 2 * columns + i % columns;
        y[i] = x[at] * logistic(x[at + columns]);
    }
}

KERNEL glu_backward(u64 n, const float *x, const float *g, float *dx, u32 columns) {
    EACH(i, n) {
        u64 at = i / columns * 2 * columns + i % columns;
        float s = logistic(x[at + columns]);
        dx[at] = g[i] * s;
        dx[at + columns] = g[i] * x[at] * s * (1.0f - s);
    }
}

// ---- rows: one block per row -------------------------------------------------------------------------------------------

// The sum over the block, the same bits for every thread.
__device__ float block_sum(float value, float *shared) {
    shared[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    float sum = shared[0];
    __syncthreads();
    return sum;
}

__device__ float block_max(float value, float *shared) {
    shared[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] = fmaxf(shared[threadIdx.x], shared[threadIdx.x + half]);
        __syncthreads();
    }
    float top = shared[0];
    __syncthreads();
    return top;
}

// Also leaves mean and 1 / sqrt(variance + eps) of every row in moments (rows, 2).
KERNEL layer_norm_forward(const float *x, const float *weight, const float *bias, float *y, float *moments, u32 columns,
                          float eps) {
    SHARED float shared[MOST_THREADS];
    u64 row = blockIdx.x;
    x += row * columns;
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < columns; c += blockDim.x) sum += x[c];
    float mean = block_sum(sum, shared) / columns;
    float squares = 0.0f;
    for (u32 c = threadIdx.x; c < columns; c += blockDim.x) squares += (x[c] - mean) * (x[c] - mean);
    float inverse = 1.0f / sqrtf(block_sum(squares, shared) / columns + eps);
    for (u32 c = threadIdx.x; c < columns; c += blockDim.x) {
        y[row * columns + c] = (x[c] - mean) * inverse * weight[c] + bias[c];
    }
    if (threadIdx.x == 0) {
        moments[2 * row] = mean;
        moments[2 * row + 1] = inverse;
    }
}

// dx = inverse (w g - mean(w g) - normal mean(w g normal)).
KERNEL layer_norm_backward(const float *x, const float *weight, const float *moments, const float *g, float *dx,
                           u32 columns) {
    SHARED float shared[MOST_THREADS];
    u64 row = blockIdx.x;
    x += row * columns;
    g += row * columns;
    float mean = moments[2 * row], inverse = moments[2 * row + 1];
    float plain = 0.0f, against = 0.0f;
    for (u32 c = threadIdx.x; c < columns; c += blockDim.x) {
        plain += weight[c] * g[c];
        against += weight[c] * g[c] * (x[c] - mean) * inverse;
    }
    plain = block_sum(plain, shared) / columns;
    against = block_sum(against, shared) / columns;
    for (u32 c = threadIdx.x; c < columns; c += blockDim.x) {
        dx[row * columns + c] = inverse * (weight[c] * g[c] - plain - (x[c] - mean) * inverse * against);
    }
}

// Logits of a row become their gradient, scale (softmax - target); loss and whether the first largest is the target.
KERNEL cross_entropy(float *logits, const u32 *targets, float *loss, float *correct, u32 codes, float scale) {
    SHARED float shared[MOST_THREADS];
    SHARED u32 places[MOST_THREADS];
    u64 row = blockIdx.x;
    u32 target = targets[row];
    logits += row * codes;
    float top = -3.402823466e38f;
    u32 place = 0;
    for (u32 c = threadIdx.x; c < codes; c += blockDim.x) {
        if (logits[c] > top) {
            top = logits[c];
            place = c;
        }
    }
    float mine = top;
    top = block_max(top, shared);
    places[threadIdx.x] = mine == top ? place : codes;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half && places[threadIdx.x + half] < places[threadIdx.x]) {
            places[threadIdx.x] = places[threadIdx.x + half];
        }
        __syncthreads();
    }
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < codes; c += blockDim.x) sum += expf(logits[c] - top);
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) {
        loss[row] = logf(sum) - (logits[target] - top);
        correct[row] = places[0] == target ? 1.0f : 0.0f;
    }
    __syncthreads();
    float inverse = scale / sum;
    for (u32 c = threadIdx.x; c < codes; c += blockDim.x) {
        logits[c] = expf(logits[c] - top) * inverse - (c == target ? scale : 0.0f);
    }
}

// ---- columns: block (column tile, piece of rows), one thread per column; partial (pieces, sums, columns) ---------------

#define COLUMN u32 c = blockIdx.x * blockDim.x + threadIdx.x; if (c >= columns) return;
#define ROWS(r) for (u64 r = (u64)blockIdx.y * rows_per_piece; r < rows && r < (u64)(blockIdx.y + 1) * rows_per_piece; r++)

// The partial sums of all pieces, in order: n columns of sums.
KERNEL add_pieces(u64 n, const float *partial, float *sums, u32 pieces, float scale) {
    EACH(i, n) {
        float sum = 0.0f;
        for (u32 piece = 0; piece < pieces; piece++) sum += partial[piece * n + i];
        sums[i] = scale * sum;
    }
}

// Sums of x, or of (x - mean)^2 where there is a mean.
KERNEL column_sums(const float *x, const float *mean, u32 has_mean, float *partial, u64 rows, u32 columns,
                   u32 rows_per_piece) {
    COLUMN
    float sum = 0.0f, centre = has_mean ? mean[c] : 0.0f;
    ROWS(r) {
        float value = x[r * columns + c] - centre;
        sum += has_mean ? value * value : value;
    }
    partial[(u64)blockIdx.y * columns + c] = sum;
}

// Of layer norm: sums of g normal, and of g.
KERNEL layer_norm_parameters(const float *x, const float *moments, const float *g, float *partial, u64 rows, u32 columns,
                             u32 rows_per_piece) {
    COLUMN
    float weight = 0.0f, bias = 0.0f;
    ROWS(r) {
        float gradient = g[r * columns + c];
        weight += gradient * (x[r * columns + c] - moments[2 * r]) * moments[2 * r + 1];
        bias += gradient;
    }
    partial[(u64)blockIdx.y * 2 * columns + c] = weight;
    partial[((u64)blockIdx.y * 2 + 1) * columns + c] = bias;
}

// y = gelu((x - mean) / sqrt(variance + eps) weight + bias).
KERNEL batch_norm_gelu_forward(u64 n, const float *x, const float *mean, const float *variance, const float *weight,
                               const float *bias, float *y, u32 columns, float eps) {
    EACH(i, n) {
        u32 c = (u32)(i % columns);
        float normal = (x[i] - mean[c]) / sqrtf(variance[c] + eps);
        y[i] = gelu_at(normal * weight[c] + bias[c]);
    }
}

// First pass back: the gradient before GELU, with sums of it against the normalised input, and plain.
KERNEL batch_norm_gelu_sums(const float *x, const float *mean, const float *variance, const float *weight,
                            const float *bias, const float *g, float *before, float *partial, u64 rows, u32 columns,
                            u32 rows_per_piece, float eps) {
    COLUMN
    float inverse = 1.0f / sqrtf(variance[c] + eps), against = 0.0f, plain = 0.0f;
    ROWS(r) {
        u64 i = r * columns + c;
        float normal = (x[i] - mean[c]) * inverse;
        float slope = g[i] * gelu_slope(normal * weight[c] + bias[c]);
        before[i] = slope;
        against += slope * normal;
        plain += slope;
    }
    partial[(u64)blockIdx.y * 2 * columns + c] = against;
    partial[((u64)blockIdx.y * 2 + 1) * columns + c] = plain;
}

// Second pass back, in place of the first one's gradient; sums (2, columns), share 1 / rows.
KERNEL batch_norm_gelu_backward(u64 n, const float *x, const float *mean, const float *variance, const float *weight,
                                const float *sums, float *dx, u32 columns, float eps, float share) {
    EACH(i, n) {
        u32 c = (u32)(i % columns);
        float inverse = 1.0f / sqrtf(variance[c] + eps);
        float normal = (x[i] - mean[c]) * inverse;
        dx[i] = weight[c] * inverse * (dx[i] - share * (normal * sums[c] + sums[columns + c]));
    }
}

// Depthwise convolution over positions, x (batch, positions, columns), weight (columns, taps); reversed: the gradient of
// the input, from that of the output and without bias.
KERNEL depthwise_forward(u64 n, const float *x, const float *weight, const float *bias, float *y, u32 positions,
                         u32 columns, u32 taps, u32 reversed) {
    EACH(i, n) {
        u32 c = (u32)(i % columns);
        int t = (int)(i / columns % positions);
        const float *example = x + i / columns / positions * positions * columns;
        float sum = reversed ? 0.0f : bias[c];
        for (u32 k = 0; k < taps; k++) {
            int at = t + (int)k - (int)(taps / 2);
            if (at < 0 || at >= (int)positions) continue;
            sum += weight[c * taps + (reversed ? taps - 1 - k : k)] * example[(u64)at * columns + c];
        }
        y[i] = sum;
    }
}

// Sums of g x at every tap (blockIdx.z), and of g after the last: partial (pieces, taps + 1, columns).
KERNEL depthwise_parameters(const float *x, const float *g, float *partial, u64 rows, u32 positions, u32 columns,
                            u32 taps, u32 rows_per_piece) {
    COLUMN
    u32 k = blockIdx.z;
    int shift = (int)k - (int)(taps / 2);
    float sum = 0.0f;
    ROWS(r) {
        if (k == taps) {
            sum += g[r * columns + c];
            continue;
        }
        int at = (int)(r % positions) + shift;
        if (at >= 0 && at < (int)positions) sum += g[r * columns + c] * x[(u64)((long long)r + shift) * columns + c];
    }
    partial[((u64)blockIdx.y * (taps + 1) + k) * columns + c] = sum;
}
