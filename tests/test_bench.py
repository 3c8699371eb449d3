"""The benchmark: that it counts, checks, compares and reports right. No timing."""

import contextlib
import csv
import dataclasses
import importlib.util
import itertools
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_dwgrad
from isolation import TESTS, run_python
from tf_dwgrad import __main__ as command_line
from tf_dwgrad import bench, comparison
from tf_dwgrad.bench import (
    cases,
    command,
    depthwise_share,
    machine,
    operations,
    peers,
    plots,
    progress,
    report,
)
from tf_dwgrad.comparison import Times
from tf_dwgrad.layer_table import Layer, load_layers

MACHINE = machine.Machine({2**16: 8e9, 2**18: 2e9}, {4: 4e9, 8: 2e9}, "avx512")


def small_layer(**changes):
    layer = Layer("Net", "one", (9, 8), 3, 1, (3, 3), (1, 1), (1, 1), "SAME")
    return dataclasses.replace(layer, **changes)


def case_of(layer=None, dtype="float32", layout="NHWC", op="input_gradient"):
    return cases.Case(layer or small_layer(), 2, dtype, layout, op)


def result_of(case, ours=1.0, missing=None, **theirs):
    comparisons = {
        name: peers.Comparison(Times(ours, ours, ours, 9), Times(time, time, time, 9))
        for name, time in theirs.items()
    }
    times = Times(ours, ours, ours, 9)
    return report.Result(case, 0.1, times, comparisons, missing or {}, MACHINE)


class FakePeer:
    def __init__(self, name):
        self.name, self.description = name, f"the {name}"


# --- What is counted --------------------------------------------------------------


def layers_of_every_kind():
    for kernel, stride, dilation, padding in itertools.product(
        ((1, 1), (2, 3), (3, 3), (5, 1), (11, 4)), (1, 2, 3), (1, 2, 3), range(3)
    ):
        if stride > 1 and dilation > 1:
            continue
        yield small_layer(
            size=(12, 37),
            multiplier=1 + padding,
            kernel=kernel,
            strides=(stride, stride),
            dilations=(dilation, dilation),
            padding=("SAME", "VALID", "EXPLICIT")[padding],
            pads=((2, 1), (0, 3)) if padding == 2 else ((0, 0), (0, 0)),
        )


def test_flop_counts_the_taps_inside_the_image():
    """Every product has a 1 in dY and a 1 in the filter: their sum is the count."""
    checked = 0
    for layer in layers_of_every_kind():
        if min(layer.output_shape(1)) < 1:
            continue
        case = cases.Case(layer, 2, "float64", "NHWC")
        dx = tf_dwgrad.depthwise_conv2d_backprop_input(
            case.input_shape,
            tf.ones(layer.filter_shape, tf.float64),
            tf.ones(case.output_shape, tf.float64),
            **layer.attributes(),
        )
        assert case.flop == 2 * dx.numpy().sum(), layer
        checked += 1
    assert checked > 50


def test_valid_taps_by_hand():
    layer = small_layer(size=(5, 4), kernel=(3, 3), strides=(2, 1), padding="SAME")
    # Rows 0, 2, 4 with a pad of 1: 2, 3 and 2 taps. Columns 0 to 3: 2, 3, 3, 2.
    assert cases.valid_taps(layer, 0) == 7
    assert cases.valid_taps(layer, 1) == 10


def test_bytes_are_those_of_operands_and_result():
    layer = small_layer(multiplier=4, strides=(2, 2))
    elements = 2 * 9 * 8 * 3 + 2 * 5 * 4 * 12 + 3 * 3 * 3 * 4
    for dtype, size in (("half", 2), ("bfloat16", 2), ("float32", 4), ("float64", 8)):
        assert case_of(layer, dtype, "NCHW").bytes == size * elements


def test_every_layer_of_the_table_has_a_kind():
    kinds = [cases.Case(layer, 1, "half", "NHWC").kind for layer in load_layers()]
    assert set(kinds) >= set(cases.KINDS) - {"other"}
    assert set(cases.KINDS_IN_WORDS) == set(cases.KINDS)


# --- What is chosen ---------------------------------------------------------------


def test_each_shape_is_measured_once_and_counts_for_each_layer():
    choice = cases.choose()
    assert len(choice.layers) == len(load_layers()) > len(choice.cases)
    models = [model for case in choice.cases for model in choice.models_of(case)]
    assert sorted(models) == sorted(layer.model for layer in load_layers())


def test_types_and_layouts_multiply():
    choice = cases.choose(
        ["MobileNetV2"], dtypes=["half", "float64"], layouts=["NHWC", "NCHW", "NHWC"]
    )
    layers = cases.choose(["MobileNetV2"]).cases
    assert len(choice.cases) == 4 * len(layers)
    assert {(case.dtype, case.layout) for case in choice.cases} == set(
        itertools.product(["half", "float64"], ["NHWC", "NCHW"])
    )


@pytest.mark.parametrize("kind", [kind for kind in cases.KINDS if kind != "other"])
def test_kinds_can_be_chosen(kind):
    chosen = cases.choose(kinds=[kind]).cases
    assert chosen
    assert {case.kind for case in chosen} == {kind}


def test_the_batch_is_reduced_to_what_max_elements_allows():
    layer = load_layers("MobileNetV2")[1]
    pixels = np.prod(layer.input_shape(1))

    def batch(elements, dtype="float32"):
        chosen = cases.choose(
            ["MobileNetV2"], dtypes=[dtype], max_elements=elements, batch=16
        )
        return chosen.cases[1].batch

    assert batch(1e12) == 16
    assert batch(4 * pixels) == batch(4.5 * pixels) == 4
    assert batch(4 * pixels, "half") == 4
    assert batch(4 * pixels, "float64") == 2
    assert batch(1) == 1


def test_a_case_survives_the_way_to_another_process():
    for case in cases.choose(
        ["EEGNet-8,2"], dtypes=["half"], layouts=["NCHW"], op="forward"
    ).cases:
        sent = json.loads(json.dumps(case.to_json()))
        assert cases.Case.from_json(sent) == case


# --- What is checked --------------------------------------------------------------

CHECKED_LAYERS = {
    "plain": small_layer(),
    "dilated": small_layer(dilations=(2, 2)),
    "multiplier, stride": small_layer(multiplier=3, strides=(2, 2)),
    "explicit": small_layer(padding="EXPLICIT", pads=((1, 2), (0, 1))),
}


OUR_OPS = {
    "input_gradient": "depthwise_conv2d_backprop_input",
    "filter_gradient": "depthwise_conv2d_backprop_filter",
    "forward": "depthwise_conv2d",
}


@pytest.mark.parametrize("op", OUR_OPS)
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("layer", CHECKED_LAYERS.values(), ids=CHECKED_LAYERS)
def test_right_results_pass_and_wrong_ones_do_not(
    layer, dtype, layout, op, monkeypatch
):
    operation = operations.operation_of(case_of(layer, dtype, layout, op))
    assert operation.check() <= 1

    right = operation.ours()
    # Many more roundings of an element than it has terms are an error, and so is a
    # NaN.
    epsilon = np.finfo(right.dtype.as_numpy_dtype).eps if dtype != "bfloat16" else 2**-7
    element = np.unravel_index(np.argmax(np.abs(right.numpy())), right.shape)
    for factor in (1 + 20 * operation.terms * float(epsilon), np.nan):
        wrong = right.numpy().copy()
        wrong[element] = wrong[element] * factor
        monkeypatch.setattr(
            tf_dwgrad,
            OUR_OPS[op],
            lambda *_, wrong=wrong, **__: tf.constant(wrong),
        )
        with pytest.raises(operations.CheckFailed, match=r"Net one, .* rounding"):
            operation.check()


# --- Whom it is compared with -----------------------------------------------------


def test_the_builtin_is_compared():
    compared = peers.Builtin().compare(operations.operation_of(case_of()), 0.001)
    assert compared.ratio == compared.theirs.median / compared.ours.median > 0
    assert compared.note == ""
    assert peers.Comparison.from_json(compared.to_json()) == compared


def test_dilations_that_the_builtin_refuses_take_the_way_that_works():
    same, valid = (
        operations.operation_of(case_of(small_layer(dilations=(2, 2), padding=padding)))
        for padding in ("SAME", "VALID")
    )
    assert "wrong" in peers.Builtin().compare(same, 0.001).note
    assert "through" in peers.Builtin().compare(valid, 0.001).note
    assert np.allclose(valid.composite(), valid.ours(), atol=1e-5)


def test_what_the_builtin_cannot_do_is_unavailable():
    operation = operations.operation_of(case_of(dtype="float64", layout="NCHW"))
    with pytest.raises(peers.Unavailable, match=r"^Depthwise .* NHWC format$"):
        peers.Builtin().compare(operation, 0.001)


def test_xla_is_compared():
    assert peers.Xla().compare(operations.operation_of(case_of()), 0.001).ratio > 0


def test_another_process_compares_without_onednn(monkeypatch):
    monkeypatch.delenv(peers.ONEDNN, raising=False)
    native = peers.Native(threads=2)
    layer = load_layers("EEGNet-8,2")[1]
    for layout in cases.LAYOUTS:
        operation = operations.operation_of(case_of(layer, layout=layout))
        if layout == "NHWC":
            compared = native.compare(operation, 0.001, calls_per_turn=5)
            assert compared.ratio > 0
            assert compared.ours.calls % 5 == compared.theirs.calls % 5 == 0
        else:
            with pytest.raises(peers.Unavailable, match="NHWC format"):
                native.compare(operation, 0.001)
    # It is started again if it ends.
    native._process.kill()
    with pytest.raises(peers.Unavailable, match="ended with status -9"):
        native.compare(operation, 0.001)
    assert native._process is None
    native.close()


def test_without_onednn_there_is_no_other_native_kernel(monkeypatch):
    monkeypatch.setenv(peers.ONEDNN, "0")
    with pytest.raises(peers.Unavailable):
        peers.Native(threads=2)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_copy_is_what_an_op_moves(threads):
    copy = peers.Copy(threads)
    # Some 60 KB: several blocks, the last one no whole number of vectors.
    layer = small_layer(size=(31, 33), channels=15)
    operation = operations.operation_of(case_of(layer))
    want = operation.dy.numpy().tobytes()
    for call in copy.calls(operation).values():
        assert call().numpy().tobytes() == want
    compared = copy.compare(operation, 0.001)
    assert compared.ratio > 0
    assert "the caches" in compared.note


@pytest.mark.parametrize("op", OUR_OPS)
@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_a_copy_writes_all_of_every_result(dtype, op):
    layer = small_layer(size=(64, 50), strides=(2, 2), multiplier=3, channels=7)
    operation = operations.operation_of(case_of(layer, dtype, op=op))
    # No byte of the operands is 255, which fresh memory is filled with here.
    for name in ("dy", "input", "filter"):
        setattr(operation, name, tf.zeros_like(getattr(operation, name)))
    size = operation.ours().numpy().nbytes
    for call in peers.Copy(2).calls(operation).values():
        dirty = [tf.fill([size], np.uint8(255)) for _ in range(4)]
        del dirty
        assert call().numpy().tobytes() == bytes(size)


def test_without_its_library_there_is_no_copy(monkeypatch):
    monkeypatch.setattr(peers, "machine_library", lambda: None)
    with pytest.raises(peers.Unavailable, match="not there"):
        peers.Copy(1)


@pytest.mark.parametrize("op", OUR_OPS)
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("layer", CHECKED_LAYERS.values(), ids=CHECKED_LAYERS)
def test_pytorch_computes_the_same(layer, layout, op):
    pytest.importorskip("torch")
    operation = operations.operation_of(case_of(layer, layout=layout, op=op))
    torch = peers.Torch(threads=1)
    if layer.padding == "EXPLICIT":
        with pytest.raises(peers.Unavailable, match="padding"):
            torch.compare(operation, 0.001)
        return
    assert torch.compare(operation, 0.001).ratio > 0
    if layer.strides != (1, 1):
        return  # It pads otherwise.
    ours = operation.ours().numpy()
    if op == "filter_gradient":
        ours = ours.transpose(2, 3, 0, 1).reshape(-1, 1, *layer.kernel)
    elif layout == "NHWC":
        ours = ours.transpose(0, 3, 1, 2)
    for call in torch.calls(operation).values():
        assert np.allclose(call().numpy(), ours, atol=1e-5)


def test_pytorch_s_padding():
    def pad(**changes):
        return peers._symmetric_pad(case_of(small_layer(**changes)), 0)

    assert pad() == 1
    assert pad(dilations=(2, 2)) == 2
    assert pad(padding="VALID") == 0
    # TensorFlow pads 0 before and 1 after.
    assert pad(size=(8, 8), strides=(2, 2)) == 1
    with pytest.raises(peers.Unavailable):
        pad(kernel=(2, 2))


def test_functions_are_called_in_turn(monkeypatch):
    monkeypatch.setattr(comparison, "_MOST_CALLS", 20)
    order = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    times = comparison.time_in_turn(calls, 60)
    assert order == ["a", "b"] * (len(order) // 2)
    assert [record.calls for record in times] == [20, 20]
    assert all(0 <= t.lower <= t.median <= t.upper for t in times)

    order.clear()
    comparison.time_in_turn(calls, 60, calls_per_turn=2, pause=1e-6)
    assert order == ["a", "b"] * 3 + ["a", "a", "a", "b", "b", "b"] * 10


def test_slow_functions_are_called_less_often(monkeypatch):
    monkeypatch.setattr(comparison, "_MOST_SECONDS", 0)
    (times,) = comparison.time_in_turn([lambda: None], 0)
    assert times.calls == 1
    assert times.lower == times.median == times.upper


# --- What the machine can do ------------------------------------------------------


def test_the_machine_is_measured(monkeypatch):
    monkeypatch.setattr(machine, "COPY_SIZES", [2**16, 2**20])
    measured = machine.measure_machine(threads=2)
    assert list(measured.copy) == [2**16, 2**20]
    assert measured.copy[2**16] >= measured.copy[2**20] > 0
    assert measured.flop_rate("bfloat16") == measured.flop_rate("float32") > 0
    assert measured.flop_rate("float64") > 0


def test_without_its_library_the_machine_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "op_library_path", lambda: str(tmp_path / "ops.so"))
    assert machine.measure_machine(threads=1) is None
    assert "unknown" in command._limits(None)


def test_copying_is_as_fast_as_for_the_sizes_around():
    assert MACHINE.copy_bandwidth(1) == MACHINE.copy_bandwidth(2**16) == 8e9
    assert MACHINE.copy_bandwidth(2**17) == pytest.approx(4e9)
    assert MACHINE.copy_bandwidth(2**18) == MACHINE.copy_bandwidth(2**30) == 2e9


def test_the_bound_is_what_takes_longer():
    moving = case_of(small_layer(kernel=(1, 1)))
    assert MACHINE.bound(moving).by == "copy"
    assert MACHINE.bound(moving).seconds == moving.bytes / 8e9
    computing = case_of(small_layer(kernel=(9, 9)), "float64")
    assert MACHINE.bound(computing).by == "FMA"
    assert MACHINE.bound(computing).seconds == computing.flop / 2e9


# --- What is reported -------------------------------------------------------------


def test_means_are_geometric_and_count_a_shape_for_each_layer():
    shared = small_layer()
    other = small_layer(model="Net", name="two", kernel=(5, 5))
    again = small_layer(model="Other", name="three")
    results = [
        result_of(case_of(shared), builtin=2.0, missing={"torch": "no padding"}),
        result_of(case_of(other), builtin=0.5, torch=8.0),
    ]
    choice = cases.Choice([r.case for r in results], [shared, other, again])
    text = "\n".join(
        report.summary(results, choice, [FakePeer("builtin"), FakePeer("torch")])
    )
    lines = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert lines["Net"][1:4] == ["2", "1.00", "8.00"]
    assert lines["Other"][1:4] == ["1", "2.00", "n/a"]
    assert lines["all, each shape once"][4:7] == ["2", "1.00", "8.00"]
    assert lines["5x5"][1:4] == ["1", "0.50", "8.00"]
    assert "slower than it in 1 of 2" in text
    assert "n/a in 1: no padding" in text
    assert f"  0.50  {results[1].case}" in text


def test_what_an_op_at_the_bound_would_gain(tmp_path):
    """Moving takes 0.5 of our second; multiplying and adding 2 / 4e9 or all of it."""
    moving = result_of(case_of(), builtin=3.0, copy=0.5)
    assert moving.builtin_over_bound == pytest.approx(6)
    # What we do can be done.
    assert result_of(case_of(), builtin=3.0, copy=1.5).builtin_over_bound == 3
    seconds = MACHINE.flop_seconds(moving.case)
    computing = result_of(
        case_of(), ours=seconds, builtin=1.5 * seconds, copy=seconds / 2
    )
    assert computing.builtin_over_bound == pytest.approx(1.5)
    unknown = result_of(case_of(), builtin=3.0)
    assert unknown.builtin_over_bound is None

    both = [FakePeer("builtin"), FakePeer("copy")]
    choice = cases.Choice([moving.case], [small_layer()])
    lines = report.summary([moving], choice, both)
    assert "vs copy  builtin/bound" in lines[2]
    assert lines[3].split()[1:5] == ["1", "3.00", "0.50", "6.00"]
    report.write_csv(tmp_path / "figures.csv", [moving, unknown], "some machine")
    _, *rows = (tmp_path / "figures.csv").read_text().splitlines()
    assert [row["builtin_over_bound"] for row in csv.DictReader(rows)] == ["6.0", ""]


def test_unsteady_times_are_pointed_out():
    steady, shaken = Times(2.0, 1.9, 2.2, 9), Times(2.0, 1.9, 3.2, 9)
    case, choice = case_of(), cases.Choice([case_of()], [small_layer()])
    peer = FakePeer("builtin")
    for times in (steady, shaken):
        comparisons = {"builtin": peers.Comparison(steady, times)}
        result = report.Result(case, 0.1, steady, comparisons, {}, MACHINE)
        text = "\n".join(report.summary([result], choice, [peer]))
        line = report.Table([peer]).line(result)
        assert ("unsteady: 1 of 1" in text) == (times is shaken)
        assert line.endswith("unsteady") == (times is shaken)


def test_files_say_what_is_not_available(tmp_path):
    results = [
        result_of(case_of(), missing={"builtin": "no kernel"}),
        result_of(case_of(dtype="half"), builtin=2.0),
    ]
    path = tmp_path / "figures.csv"
    report.write_csv(path, results, "some machine")
    comment, *lines = path.read_text().splitlines()
    assert comment == "# some machine"
    first, second = csv.DictReader(lines)
    assert first["builtin_ratio"] == first["builtin_ms"] == ""
    assert first["builtin_note"] == "no kernel"
    assert float(second["builtin_ratio"]) == 2
    assert "n/a" in report.Table([FakePeer("builtin")]).line(results[0])
    # A plot of nothing is not made.
    assert [path.name for path in plots.save(tmp_path, results[:1], [], None, "")] == []


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_progress_prints_the_lines(with_tqdm, monkeypatch, capsys):
    if not with_tqdm:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    bar = progress.Progress(2)
    for line in ("one", "two"):
        bar.begin("a layer")
        bar.done(line)
    bar.close()
    assert capsys.readouterr() == ("one\ntwo\n", "")


# --- The command ------------------------------------------------------------------


def test_the_command(tmp_path):
    """A small model in two types: the table, the summary and every file."""
    completed = run_python(
        "-m",
        "tf_dwgrad",
        "bench",
        *("--model", "DS-CNN-KWS", "--model", "EEGNet-8,2"),
        *("--dtype", "float32", "--dtype", "float64", "--layout", "NCHW"),
        *("--batch", 2, "--threads", 2, "--seconds", 0.01),
        *("--csv", tmp_path / "new" / "figures.csv"),
        *("--json", tmp_path / "figures.json"),
        *("--plots", tmp_path / "plots"),
        cwd=TESTS,
    )
    assert "Traceback" not in completed.stderr
    output = completed.stdout
    assert "2 threads" in output
    assert "EEGNet-8,2" in output
    assert "float64 NCHW: geometric means" in output
    # TensorFlow has no such kernel.
    assert "n/a in 3: Depthwise convolution on CPU is only supported for NHWC" in output

    comment, *lines = (tmp_path / "new" / "figures.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines))
    assert comment.startswith("# ")
    assert comment[2:] in output
    assert [row["dtype"] for row in rows] == ["float32"] * 3 + ["float64"] * 3
    document = json.loads((tmp_path / "figures.json").read_text())
    assert document["machine"]["threads"] == 2
    assert document["machine"]["versions"]["tensorflow"] == tf.__version__
    assert min(document["machine"]["copied_bytes_per_s"].values()) > 0
    assert min(document["machine"]["FLOP_per_s"].values()) > 0
    assert len(document["results"]) == len(rows) == 6
    for row, result in zip(rows, document["results"], strict=True):
        assert list(row) == list(result)
        assert float(row["tf_dwgrad_ms"]) == result["tf_dwgrad_ms"] > 0
        assert result["error_over_bound"] <= 1
        assert result["bound"] in ("copy", "FMA")
        assert (result["builtin_ratio"] is None) == (result["dtype"] == "float64")
    for name in (
        "speedup_float32_nchw.png",
        "roofline_float32_nchw.png",
        "roofline_float64_nchw.png",
    ):
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("op", ["filter_gradient", "forward"])
def test_another_op_can_be_measured(op, monkeypatch, tmp_path):
    small = ("--model", "DS-CNN-KWS", "--batch", 1, "--seconds", 0.001)
    files = ("--json", tmp_path / "figures.json", "--plots", tmp_path)
    assert run_here(monkeypatch, "--op", op, *small, *files) == 0
    document = json.loads((tmp_path / "figures.json").read_text())
    assert [result["op"] for result in document["results"]] == [op]
    assert (tmp_path / f"speedup_{op}_float32_nhwc.png").exists()


def run_here(monkeypatch, *arguments):
    """Runs the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["tf_dwgrad", "bench", *map(str, arguments)])
    monkeypatch.setattr(command, "measure_machine", lambda threads: MACHINE)
    return command_line.main()


def test_a_side_can_have_several_calls_per_turn(monkeypatch, tmp_path):
    """The peer is asked for them, and whoever reads the figures is told."""
    calls = []

    class Counting(operations.InputGradient):
        def ours(self):
            calls.append("ours")
            return super().ours()

        def _builtin(self, *arguments):
            calls.append("theirs")
            return super()._builtin(*arguments)

    monkeypatch.setattr(command, "operation_of", Counting)
    file = tmp_path / "figures.csv"
    small = ("--model", "DS-CNN-KWS", "--batch", 1, "--seconds", 0.001)
    assert run_here(monkeypatch, *small, "--calls-per-turn", 4, "--csv", file) == 0
    assert calls[-8:] == ["ours"] * 4 + ["theirs"] * 4
    assert "4 calls per turn" in file.read_text().splitlines()[0]


def test_an_unknown_model_is_refused(monkeypatch, capsys):
    assert run_here(monkeypatch, "--model", "NoNet") == 1
    error = capsys.readouterr().err
    assert error.startswith("tf_dwgrad bench: no layers of model 'NoNet'")
    assert "MobileNetV2" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--threads", "0", "must be above 0"),
        ("--batch", "-1", "must be above 0"),
        ("--batch", "many", "invalid int value: 'many'"),
        ("--seconds", "nan", "must be above 0"),
        ("--calls-per-turn", "0", "must be above 0"),
        ("--dtype", "int8", "invalid choice: 'int8'"),
        ("--op", "backward", "invalid choice: 'backward'"),
        ("--peers", "caffe", "invalid choice: 'caffe'"),
    ],
)
def test_wrong_options_are_refused(option, value, message, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_here(monkeypatch, option, value)
    assert f"argument {option}: {message}" in capsys.readouterr().err


def test_peers_can_be_chosen(monkeypatch):
    monkeypatch.setenv(peers.ONEDNN, "1")
    plain = cases.choose(["DS-CNN-KWS"])
    dilated = cases.choose(["DeepLabV3+Xception65-OS8"], kinds=["dilated"])

    def chosen(choice, names):
        return [peer.name for peer in command._peers(choice, names, 1)]

    assert chosen(plain, None) == ["builtin"]
    assert chosen(plain, ["composite", "xla"]) == ["builtin", "composite", "xla"]
    everyone = {"builtin", "native", "xla", "torch", "copy"}
    everyone -= {"torch"} if importlib.util.find_spec("torch") is None else set()
    assert set(chosen(plain, [])) == everyone
    assert set(chosen(dilated, [])) == everyone | {"composite"}


def test_no_layer_at_all_is_refused(monkeypatch, capsys):
    assert run_here(monkeypatch, "--model", "DS-CNN-KWS", "--only", "dilated") == 1
    assert "no layer" in capsys.readouterr().err


def test_a_wrong_result_ends_the_benchmark(monkeypatch, capsys):
    real = tf_dwgrad.depthwise_conv2d_backprop_input
    monkeypatch.setattr(
        tf_dwgrad,
        "depthwise_conv2d_backprop_input",
        lambda *args, **kwargs: real(*args, **kwargs) * 1.001,
    )
    assert run_here(monkeypatch, "--model", "DS-CNN-KWS", "--batch", 1) == 1
    assert "DS-CNN-KWS dw, float32 NHWC 1x25x5x64: " in capsys.readouterr().err


def test_plots_without_matplotlib_say_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(plots, "available", lambda: False)
    assert run_here(monkeypatch, "--plots", tmp_path) == 1
    assert 'pip install "tf_dwgrad[bench]"' in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_found_out_first(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert run_here(monkeypatch, "--csv", tmp_path / "file" / "figures.csv") == 1
    assert "cannot make the folder" in capsys.readouterr().err


def test_the_package_offers_what_the_command_line_needs():
    assert callable(bench.add_arguments)
    assert callable(bench.run)


# --- Whole models -------------------------------------------------------------------


def test_models_are_measured(tmp_path):
    """Two small models: the table and every file."""
    completed = run_python(
        *("-m", "tf_dwgrad", "bench", "--models", "--image-size", 32, "--batch", 1),
        *("--model", "MobileNetV2", "--model", "RepLKNet block"),
        *("--mode", "function", "--mode", "jit", "--dtype", "float32"),
        *("--seconds", 0.01, "--csv", tmp_path / "m.csv"),
        *("--json", tmp_path / "m.json", "--plots", tmp_path),
        cwd=TESTS,
    )
    rows = json.loads((tmp_path / "m.json").read_text())["results"]
    assert [(row["model"], row["mode"]) for row in rows] == [
        ("MobileNetV2", "function"),
        ("MobileNetV2", "jit"),
        ("RepLKNet block", "function"),
        ("RepLKNet block", "jit"),
    ]
    for row in rows:
        assert row["calls_served"] == (51 if row["model"] == "MobileNetV2" else 3)
        assert row["ratio"] == pytest.approx(
            row["disabled_ms"] / row["enabled_ms"], rel=0.01
        )
        assert row["model"] in completed.stdout
        if row["mode"] == "jit":
            assert row["bound"] is None and row["depthwise_disabled_ms"] is None
        else:
            assert row["depthwise_enabled_ms"] > 0
            assert row["depthwise_disabled_ms"] > 0
            if row["bound"] is not None:
                rest = row["disabled_ms"] - row["depthwise_disabled_ms"]
                assert row["bound"] == pytest.approx(
                    row["disabled_ms"] / rest, rel=0.01
                )
    lines = (tmp_path / "m.csv").read_text().splitlines()
    assert len(list(csv.DictReader(lines[1:]))) == 4
    assert (tmp_path / "models.png").read_bytes().startswith(b"\x89PNG")


def test_the_depthwise_layers_of_a_model_are_found():
    inside = keras.Sequential(
        [keras.Input((10, 12, 6)), keras.layers.DepthwiseConv2D((3, 5), strides=2)]
    )
    model = keras.Sequential(
        [
            keras.Input((10, 12, 3)),
            keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
            keras.layers.SeparableConv2D(6, 3, padding="same", dilation_rate=2),
            keras.layers.SeparableConv2D(6, 3, padding="same", dilation_rate=2),
            keras.layers.Conv2D(6, 3, groups=6, padding="same"),
            inside,
        ]
    )
    found = [
        (layer.input_shape(4), layer.output_shape(4), layer.filter_shape, layer.count)
        for layer in depthwise_share.depthwise_layers(model)
    ]
    same = [4, 10, 12, 6]
    assert found == [
        ([4, 10, 12, 3], same, [3, 3, 3, 2], 1),
        (same, same, [3, 3, 6, 1], 2),
        (same, [4, 4, 4, 6], [3, 5, 6, 1], 1),
    ]
    times = depthwise_share.time_depthwise_ops(model, 2, "float32", 0.01)
    assert times.ours > 0 and times.builtin > 0


def test_models_that_there_are_not_are_refused(monkeypatch, capsys):
    assert run_here(monkeypatch, "--models", "--model", "NoNet") == 1
    assert "no model 'NoNet'; there are MobileNetV2" in capsys.readouterr().err
    assert run_here(monkeypatch, "--models", "--dtype", "half") == 1
    assert "not in half" in capsys.readouterr().err


def test_images_that_are_too_small_for_a_model_are_refused(monkeypatch, capsys):
    options = ("--models", "--model", "Xception", "--image-size", 8, "--batch", 1)
    assert run_here(monkeypatch, *options, "--mode", "eager") == 1
    assert "Xception on 8x8: " in capsys.readouterr().err


def test_a_model_that_is_not_served_ends_the_benchmark(monkeypatch, capsys):
    monkeypatch.setattr(tf_dwgrad, "enabled", contextlib.nullcontext)
    options = ("--models", "--model", "RepLKNet block", "--image-size", 16)
    assert run_here(monkeypatch, *options, "--batch", 1, "--mode", "eager") == 1
    assert "none of the calls" in capsys.readouterr().err
