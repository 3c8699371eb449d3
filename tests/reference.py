"""Depthwise convolution and both gradients in float64, written from the definition.

Nothing here is shared with the kernels: forward is a gather over taps and positions,
and the gradients are its transposes, written as scatters. Tensors are NHWC. To judge
float64 results, np.longdouble can be chosen as the precision.
"""

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

# The element types of the ops.
DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}


@dataclass(frozen=True)
class Case:
    """One configuration; sizes and paddings are (height, width) or (before, after)."""

    batch: int
    size: tuple[int, int]
    channels: int
    multiplier: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    data_format: str = "NHWC"
    dtype: str = field(default="float32")

    def output_size(self, axis):
        """The size that the specification gives the output along an axis."""
        n, k = self.size[axis], self.kernel[axis]
        s, d = self.strides[axis], self.dilations[axis]
        effective = (k - 1) * d + 1
        if self.padding == "SAME":
            return -(-n // s)
        if self.padding == "VALID":
            return -(-(n - effective + 1) // s)
        return (n + sum(self.pads[axis]) - effective) // s + 1

    def pad_before(self, axis):
        """The padding before the first row or column."""
        if self.padding == "VALID":
            return 0
        if self.padding == "EXPLICIT":
            return self.pads[axis][0]
        n, k = self.size[axis], self.kernel[axis]
        s, d = self.strides[axis], self.dilations[axis]
        effective = (k - 1) * d + 1
        return max((self.output_size(axis) - 1) * s + effective - n, 0) // 2

    @property
    def input_shape(self):
        return (self.batch, *self.size, self.channels)

    @property
    def filter_shape(self):
        return (*self.kernel, self.channels, self.multiplier)

    @property
    def output_shape(self):
        out = (self.output_size(0), self.output_size(1))
        return (self.batch, *out, self.channels * self.multiplier)

    @property
    def attrs(self):
        """The keyword arguments of the package's two gradient functions."""
        nhwc = self.data_format == "NHWC"

        def in_order(batch_and_depth, height, width):
            one = batch_and_depth
            return [one, height, width, one] if nhwc else [one, one, height, width]

        padding = self.padding
        if padding == "EXPLICIT":
            padding = in_order([0, 0], list(self.pads[0]), list(self.pads[1]))
        return {
            "strides": in_order(1, *self.strides),
            "padding": padding,
            "data_format": self.data_format,
            "dilations": in_order(1, *self.dilations),
        }

    @property
    def forward_attrs(self):
        """The keyword arguments of the package's depthwise_conv2d."""
        return {**self.attrs, "dilations": list(self.dilations)}

    @property
    def raw_attrs(self):
        """The attributes of a raw op, the package's or TensorFlow's."""
        attrs = self.attrs
        explicit = []
        if self.padding == "EXPLICIT":
            explicit = [value for pair in attrs["padding"] for value in pair]
        return {**attrs, "padding": self.padding, "explicit_paddings": explicit}

    def to_layout(self, nhwc):
        """Turns an NHWC array into one in the case's data format."""
        return nhwc if self.data_format == "NHWC" else nhwc.transpose(0, 3, 1, 2)

    def from_layout(self, array):
        """The inverse of to_layout."""
        return array if self.data_format == "NHWC" else array.transpose(0, 2, 3, 1)


def _taps(case):
    """Yields (r, s, output positions, input positions) of each tap that reaches any."""
    for r in range(case.kernel[0]):
        out_rows = np.arange(case.output_size(0))
        rows = out_rows * case.strides[0] - case.pad_before(0) + r * case.dilations[0]
        keep_rows = (rows >= 0) & (rows < case.size[0])
        for s in range(case.kernel[1]):
            out_cols = np.arange(case.output_size(1))
            cols = (
                out_cols * case.strides[1] - case.pad_before(1) + s * case.dilations[1]
            )
            keep_cols = (cols >= 0) & (cols < case.size[1])
            if keep_rows.any() and keep_cols.any():
                yield (
                    r,
                    s,
                    np.ix_(out_rows[keep_rows], out_cols[keep_cols]),
                    np.ix_(rows[keep_rows], cols[keep_cols]),
                )


def forward(case, x, w, precision=np.float64):
    """The output in `precision`, NHWC."""
    y = np.zeros((*case.output_shape[:3], case.channels, case.multiplier), precision)
    x, w = x.astype(precision), w.astype(precision)
    for r, s, (oi, oj), (ii, ij) in _taps(case):
        y[:, oi, oj] += x[:, ii, ij, :, None] * w[r, s]
    return y.reshape(case.output_shape)


def input_gradient(case, w, dy, precision=np.float64):
    """The gradient with respect to the input in `precision`, NHWC."""
    dx = np.zeros(case.input_shape, precision)
    w, dy = w.astype(precision), dy.astype(precision)
    dy = dy.reshape(*case.output_shape[:3], case.channels, case.multiplier)
    for r, s, (oi, oj), (ii, ij) in _taps(case):
        # Within one tap no two outputs share an input, so += adds each of them.
        dx[:, ii, ij] += (dy[:, oi, oj] * w[r, s]).sum(axis=-1)
    return dx


def filter_gradient(case, x, dy, precision=np.float64):
    """The gradient with respect to the filter in `precision`."""
    dw = np.zeros(case.filter_shape, precision)
    x, dy = x.astype(precision), dy.astype(precision)
    dy = dy.reshape(*case.output_shape[:3], case.channels, case.multiplier)
    for r, s, (oi, oj), (ii, ij) in _taps(case):
        dw[r, s] += (x[:, ii, ij, :, None] * dy[:, oi, oj]).sum(axis=(0, 1, 2))
    return dw


def terms(case):
    """How many products each element of (output, dX, dW) sums, as arrays."""
    ones = np.ones
    return (
        forward(case, ones(case.input_shape), ones(case.filter_shape)),
        input_gradient(case, ones(case.filter_shape), ones(case.output_shape)),
        filter_gradient(case, ones(case.input_shape), ones(case.output_shape)),
    )


def random_case(rng, dtypes=tuple(DTYPES), data_formats=("NHWC", "NCHW")):
    """Draws a configuration with a non-empty output from the whole space.

    Mostly small, so that thousands run in minutes; now and then a filter of up to
    31x31, 1xN or Nx1, a filter larger than the image, or a large depth multiplier.
    """
    while True:
        kernel = tuple(int(k) for k in rng.integers(1, 8, 2))
        size = tuple(int(n) for n in rng.integers(1, 15, 2))
        channels = int(rng.choice([1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 33, 64, 70]))
        multiplier = int(rng.choice([1, 1, 1, 2, 3, 4, 8]))
        kind = rng.integers(0, 12)
        if kind == 0:
            kernel = tuple(int(k) for k in rng.integers(9, 32, 2))
            size = tuple(int(n) for n in rng.integers(3, 33, 2))
            channels = int(rng.choice([1, 3, 7, 17]))
        elif kind == 1:
            kernel = (1, int(rng.integers(1, 32)))
        elif kind == 2:
            kernel = (int(rng.integers(1, 32)), 1)
        elif kind == 3:
            kernel = tuple(int(n + rng.integers(1, 4)) for n in size)
        elif kind == 4:
            channels, multiplier = int(rng.integers(1, 4)), int(rng.integers(9, 300))
        elif kind == 5:
            # Wide enough for several tiles and strips.
            size = (int(rng.integers(1, 4)), int(rng.integers(15, 300)))
            channels = int(rng.choice([1, 3, 8]))
        elif kind == 6:
            channels = int(rng.choice([129, 256, 257, 300]))
        case = Case(
            batch=int(rng.integers(1, 4)),
            size=size,
            channels=channels,
            multiplier=multiplier,
            kernel=kernel,
            strides=tuple(int(s) for s in rng.choice([1, 1, 2, 2, 3, 4, 5], 2)),
            dilations=tuple(int(d) for d in rng.choice([1, 1, 1, 2, 3, 4, 6], 2)),
            padding=str(rng.choice(["SAME", "VALID", "EXPLICIT"])),
            pads=tuple(
                tuple(int(p) for p in pair) for pair in rng.integers(0, 6, (2, 2))
            ),
            data_format=str(rng.choice(list(data_formats))),
            dtype=str(rng.choice(list(dtypes))),
        )
        if min(case.output_shape) > 0:
            return case
