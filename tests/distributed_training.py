"""Trains a small model in one process, on two logical devices, or in two processes.

As a program: ``distributed_training.py single|mirrored|worker layer|enabled|neither``.
Prints the losses and the calls that this process served, as JSON. A worker finds the
others in the environment variable TF_CONFIG.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

# Two logical CPUs stand for two accelerators; before anything else runs.
if sys.argv[1] == "mirrored":
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
elif sys.argv[1] == "worker":
    # The servers start before any op runs.
    STRATEGY = tf.distribute.MultiWorkerMirroredStrategy()

import tf_dwgrad
import tf_dwgrad.keras

BATCH, STEPS = 8, 5


def build(layers):
    """A model of `layers`, Keras's or this package's."""
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.layers.Input((12, 12, 3)),
            keras.layers.Conv2D(6, 3, padding="same"),
            layers.DepthwiseConv2D(3, padding="same"),
            keras.layers.Activation("relu"),
            layers.SeparableConv2D(8, 3, strides=2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )


def losses(strategy, layers):
    """The losses of a few steps of gradient descent on the same global batch."""
    with strategy.scope():
        model = build(layers)
        weights = [weight.value for weight in model.trainable_weights]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, 12, 12, 3)).astype("float32")
    y = rng.standard_normal((BATCH, 2)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).repeat(STEPS)
    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    data = strategy.experimental_distribute_dataset(data.with_options(options))

    def gradients_of_replica(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((model(x, training=True) - y) ** 2) / BATCH
        return loss, tape.gradient(loss, weights)

    @tf.function
    def step(x, y):
        loss, gradients = strategy.run(gradients_of_replica, args=(x, y))
        total = [strategy.reduce("SUM", g, axis=None) for g in gradients]
        for weight, gradient in zip(weights, total, strict=True):
            weight.assign_sub(0.05 * gradient)
        return strategy.reduce("SUM", loss, axis=None)

    return [float(step(x, y)) for x, y in data]


def main(where, what):
    strategy = {
        "single": tf.distribute.get_strategy,
        "mirrored": lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
        "worker": lambda: STRATEGY,
    }[where]()
    layers = tf_dwgrad.keras if what == "layer" else keras.layers
    if what == "enabled":
        tf_dwgrad.enable()
    result = losses(strategy, layers)
    calls = {}
    for call, n in tf_dwgrad.counters().items():
        calls.setdefault(call.route, {})[call.op] = n
    print(
        json.dumps(
            {
                "replicas": strategy.num_replicas_in_sync,
                "losses": result,
                "calls": calls,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
