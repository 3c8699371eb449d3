// What this machine can do at most: how fast its threads copy memory, and how
// fast they multiply and add. Kernels are judged by these two. A plain C
// interface, which `python -m tf_dwgrad bench` opens at run time and the
// kernels' own benchmark links; free of TensorFlow and of the kernels.

#ifndef TF_DWGRAD_CC_MACHINE_MACHINE_BOUNDS_H_
#define TF_DWGRAD_CC_MACHINE_MACHINE_BOUNDS_H_

#include <stdint.h>

extern "C" {

// Bytes per second, read and written ones both counted, at which `threads`
// threads copy, each its share of `bytes` of source and destination together,
// again and again: what fits into a cache stays there. The best of several ways
// to copy, each tried for `seconds`. 0 if the memory cannot be had.
double tf_dwgrad_copy_bandwidth(int64_t bytes, int threads, double seconds);

// Moves what an op moves at least: reads all of `from` and writes all of `to`,
// each once, in the order of memory, on `threads` threads. Two ways to write:
// past the caches or not. What `to` holds then is of no use.
void tf_dwgrad_move(const void* from, int64_t from_bytes, void* to,
                    int64_t to_bytes, int threads, int past_caches);

// Floating-point operations per second, two for a multiplication with an
// addition, of `threads` threads on registers alone, in the widest vectors of
// this CPU, for `seconds`. In float, or in double for an element_size of 8.
double tf_dwgrad_multiply_add_peak(int element_size, int threads,
                                   double seconds);

// Those vectors: "avx512", "avx2" or "128 bits".
const char* tf_dwgrad_widest_vectors();
}

#endif  // TF_DWGRAD_CC_MACHINE_MACHINE_BOUNDS_H_
