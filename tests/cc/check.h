// CHECK for tests that need nothing but a compiler: it counts failures and the
// test's main returns them.

#ifndef TF_DWGRAD_TESTS_CC_CHECK_H_
#define TF_DWGRAD_TESTS_CC_CHECK_H_

#include <iostream>

namespace tf_dwgrad {

inline int& Failures() {
  static int failures = 0;
  return failures;
}

inline int Finish() {
  if (Failures() == 0) std::cout << "all checks passed\n";
  return Failures() == 0 ? 0 : 1;
}

}  // namespace tf_dwgrad

#define CHECK_THAT(condition, explanation)                             \
  do {                                                                 \
    if (!(condition)) {                                                \
      ++::tf_dwgrad::Failures();                                       \
      std::cerr << __FILE__ << ":" << __LINE__ << ": " #condition ": " \
                << explanation << "\n";                                \
    }                                                                  \
  } while (false)

#endif  // TF_DWGRAD_TESTS_CC_CHECK_H_
