"""Loss curves of whole models with and without the package."""

import numpy as np
import pytest
import tf_dwgrad
from tf_dwgrad.bench.workloads import MODELS, Training

STEPS = 20
UNIT_ROUNDOFF = 2.0**-53


# With random weights and two images training is chaotic: at a learning rate of 1e-3 the
# last bit of a float64 grows to the third digit within 20 steps of MobileNetV2. At this
# one it does not grow, and what differs are the roundings of our kernels.
LEARNING_RATE = 1e-5


def curve(training):
    return [training.step() for _ in range(STEPS)]


@pytest.mark.parametrize("model", MODELS)
def test_loss_curves_agree_to_rounding(model):
    # ConvNeXt's grouped convolutions are slow in float64 without the package.
    size = 32 if model == "ConvNeXtTiny" else 80
    arguments = (model, "float64", "function", 2, size, LEARNING_RATE)
    training = Training(*arguments)
    expected = curve(training)
    with tf_dwgrad.enabled():
        tf_dwgrad.reset_counters()
        ours = curve(Training(*arguments))
        calls = tf_dwgrad.counters()
    assert sum(calls.values()) >= 3 * STEPS
    assert {call.route for call in calls} == {"built-in name"}
    # Each layer rounds forward, and for the gradients of its input and its weights.
    roundings = STEPS * 3 * len(training.model.layers)
    np.testing.assert_allclose(ours, expected, rtol=roundings * UNIT_ROUNDOFF)
    assert expected[0] != expected[-1]
    # Float64 all through: losses in float32 would hide most differences.
    assert float(np.float32(expected[-1])) != expected[-1]
