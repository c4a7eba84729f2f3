// Runs one kernel of kernels.cu on the CPU: a block is a handful of threads with a barrier, blocks follow each other.
//
//   host KERNEL BLOCKS_X BLOCKS_Y BLOCKS_Z THREADS FILE
//
// FILE holds the arguments in order: a tag and its value, where f and u are arrays of f32 and u32 behind their length
// (u64), and I, L and F single values of u32, u64 and f32. The float arrays are written back to it afterwards, in order.

#include <barrier>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#define HOST
#define KERNEL static void
#define SHARED static
#define __device__
#define __forceinline__ inline

struct Index { unsigned x, y, z; };
static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;
static std::barrier<> *gate;
static void __syncthreads() { gate->arrive_and_wait(); }

#include "kernels.cu"

struct Arg {
    char tag;
    std::vector<float> floats;
    std::vector<u32> words;
    u64 bits;
};

static void read(FILE *file, void *to, size_t bytes) {
    if (fread(to, 1, bytes, file) != bytes) {
        fprintf(stderr, "the arguments end early\n");
        exit(1);
    }
}

static void expect(const Arg &arg, const char *tags) {
    if (!strchr(tags, arg.tag)) {
        fprintf(stderr, "an argument of type %c where the kernel takes one of %s\n", arg.tag, tags);
        exit(1);
    }
}

template <class T> struct As;
template <> struct As<float *> { static float *of(Arg &a) { expect(a, "f"); return a.floats.data(); } };
template <> struct As<const float *> { static const float *of(Arg &a) { expect(a, "f"); return a.floats.data(); } };
template <> struct As<const u32 *> { static const u32 *of(Arg &a) { expect(a, "u"); return a.words.data(); } };
template <> struct As<u32> { static u32 of(Arg &a) { expect(a, "I"); return (u32)a.bits; } };
template <> struct As<u64> { static u64 of(Arg &a) { expect(a, "L"); return a.bits; } };
template <> struct As<float> {
    static float of(Arg &a) {
        expect(a, "F");
        u32 bits = (u32)a.bits;
        float value;
        memcpy(&value, &bits, 4);
        return value;
    }
};

template <class... P, size_t... I>
static void call(void (*kernel)(P...), std::vector<Arg> &args, std::index_sequence<I...>) {
    kernel(As<P>::of(args[I])...);
}

template <class... P> static void launch(void (*kernel)(P...), std::vector<Arg> &args) {
    if (args.size() != sizeof...(P)) {
        fprintf(stderr, "%zu arguments, the kernel takes %zu\n", args.size(), sizeof...(P));
        exit(1);
    }
    std::barrier<> barrier(blockDim.x);
    gate = &barrier;
    auto work = [&](unsigned thread) {
        threadIdx = {thread, 0, 0};
        for (unsigned z = 0; z < gridDim.z; z++)
            for (unsigned y = 0; y < gridDim.y; y++)
                for (unsigned x = 0; x < gridDim.x; x++) {
                    blockIdx = {x, y, z};
                    call(kernel, args, std::index_sequence_for<P...>{});
                    barrier.arrive_and_wait();
                }
    };
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < blockDim.x; thread++) threads.emplace_back(work, thread);
    for (auto &thread : threads) thread.join();
}

#define TRY(kernel) if (name == #kernel) { launch(kernel, args); found = true; }

int main(int count, char **given) {
    if (count != 7) return 2;
    std::string name = given[1];
    gridDim = {(unsigned)atoi(given[2]), (unsigned)atoi(given[3]), (unsigned)atoi(given[4])};
    blockDim = {(unsigned)atoi(given[5]), 1, 1};
    FILE *file = fopen(given[6], "rb");
    if (!file) return 2;
    std::vector<Arg> args;
    for (int tag; (tag = fgetc(file)) != EOF;) {
        Arg arg{(char)tag, {}, {}, 0};
        if (tag == 'f' || tag == 'u') {
            u64 length;
            read(file, &length, 8);
            if (tag == 'f') arg.floats.resize(length); else arg.words.resize(length);
            read(file, tag == 'f' ? (void *)arg.floats.data() : (void *)arg.words.data(), 4 * length);
        } else {
            read(file, &arg.bits, tag == 'L' ? 8 : 4);
        }
        args.push_back(std::move(arg));
    }
    fclose(file);
    bool found = false;
    TRY(adamw) TRY(gelu_forward) TRY(gelu_backward) TRY(residual_forward) TRY(residual_backward)
    TRY(glu_forward) TRY(glu_backward) TRY(layer_norm_forward) TRY(layer_norm_backward) TRY(layer_norm_parameters)
    TRY(cross_entropy) TRY(add_pieces) TRY(column_sums) TRY(batch_norm_gelu_forward) TRY(batch_norm_gelu_sums)
    TRY(batch_norm_gelu_backward) TRY(depthwise_forward) TRY(depthwise_parameters)
    if (!found) {
        fprintf(stderr, "there is no kernel %s\n", name.c_str());
        return 1;
    }
    file = fopen(given[6], "wb");
    if (!file) return 2;
    for (auto &arg : args) fwrite(arg.floats.data(), 4, arg.floats.size(), file);
    return fclose(file) == 0 ? 0 : 1;
}
