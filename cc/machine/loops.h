// What is timed, for one kind of vector: machine_bounds.cc includes this once
// for each, in a namespace of its own, with
//
//   VECTOR_BYTES   the vector's size
//   TARGET         the attribute that lets the compiler use such vectors
//   STREAM(to, v)  the store of a Floats past the caches

typedef float Floats __attribute__((vector_size(VECTOR_BYTES), __may_alias__));

template <typename T>
TARGET double MultiplyAdd(int64_t rounds) {
  typedef T Vector __attribute__((vector_size(VECTOR_BYTES)));
  const Vector factor = Vector{} + static_cast<T>(unknown_half);
  const Vector summand = Vector{} + static_cast<T>(2 * unknown_half);
  // Sums that start alike would become one.
  Vector sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = summand * static_cast<T>(i);
  for (int64_t round = 0; round < rounds; ++round) {
    // Left in a loop, the sums would live in memory.
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sums[i] = sums[i] * factor + summand;
  }
  Vector total = {};
  for (int i = 0; i < kSums; ++i) total += sums[i];
  result = total[0];
  return 2.0 * rounds * kSums * (VECTOR_BYTES / sizeof(T));
}

// Four vectors at a time: the compiler makes one at a time a call of memcpy.
TARGET void CopyThroughCaches(char* to, const char* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 4 * VECTOR_BYTES) {
    const Floats* source = reinterpret_cast<const Floats*>(from + at);
    Floats* target = reinterpret_cast<Floats*>(to + at);
    const Floats a = source[0], b = source[1], c = source[2], d = source[3];
    target[0] = a, target[1] = b, target[2] = c, target[3] = d;
  }
}

TARGET void CopyPastCaches(char* to, const char* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 4 * VECTOR_BYTES) {
    const Floats* source = reinterpret_cast<const Floats*>(from + at);
    float* target = reinterpret_cast<float*>(to + at);
    constexpr int kStep = VECTOR_BYTES / sizeof(float);
    const Floats a = source[0], b = source[1], c = source[2], d = source[3];
    STREAM(target, a);
    STREAM(target + kStep, b);
    STREAM(target + 2 * kStep, c);
    STREAM(target + 3 * kStep, d);
  }
}

const Loops kLoops = {MultiplyAdd<float>, MultiplyAdd<double>,
                      CopyThroughCaches, CopyPastCaches};

#undef VECTOR_BYTES
#undef TARGET
#undef STREAM
