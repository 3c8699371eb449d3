"""Prints what CMake must know of this interpreter's TensorFlow, a value a line."""

import re

import tensorflow as tf

print(tf.__version__)
print(tf.sysconfig.get_include())
print(tf.sysconfig.get_lib())
compile_flags = tf.sysconfig.get_compile_flags()
# Include directories and the language standard become target properties.
print(";".join(f for f in compile_flags if not f.startswith(("-I", "--std"))))
print(next(re.sub(r"\D", "", f) for f in compile_flags if f.startswith("--std")))
print(";".join(f for f in tf.sysconfig.get_link_flags() if f.startswith("-l")))
