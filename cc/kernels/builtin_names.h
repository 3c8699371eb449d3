// The switch between our kernels behind built-in names and the kernels that
// they stand in front of, for all libraries of this package.

#ifndef TF_DWGRAD_CC_KERNELS_BUILTIN_NAMES_H_
#define TF_DWGRAD_CC_KERNELS_BUILTIN_NAMES_H_

#define TF_DWGRAD_EXPORT extern "C" __attribute__((visibility("default")))

// Puts our kernels in front of the built-in ones, on the first call, for good.
// They hand every call on until tf_dwgrad_serve_builtin_names(1). Returns what
// went wrong, or an empty string.
TF_DWGRAD_EXPORT const char* tf_dwgrad_register_builtin_names();

TF_DWGRAD_EXPORT void tf_dwgrad_serve_builtin_names(int serve);
TF_DWGRAD_EXPORT int tf_dwgrad_serves_builtin_names();

#endif  // TF_DWGRAD_CC_KERNELS_BUILTIN_NAMES_H_
