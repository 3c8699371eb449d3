"""``python -m tf_dwgrad bench``: the kernels against TensorFlow's, layer by layer.

======================  ==========================================================
``command``             the options, and the order of things
``cases``               which layers, and how much work they are
``operations``          what is computed: operands, our call, TensorFlow's, the check
``peers``, ``worker``   whom it is compared with, in this process and in another
``machine``             what this machine can do at most
``report``, ``plots``   the table, the summary, the files
``models``              ``--models``: steps of whole models with and without enable()
``workloads``           those models
======================  ==========================================================
"""

from tf_dwgrad.bench.command import add_arguments, run

__all__ = ["add_arguments", "run"]
