"""The scripts in benchmarks/gpu, as far as they do without a GPU.

The kernels they run here are the GPU's own source, compiled for the CPU.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from isolation import TESTS
from tf_dwgrad.bench import cases
from tf_dwgrad.layer_table import load_layers

try:
    import torch
except ImportError:
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")

ROOT = TESTS.parent
FOLDER = ROOT / "benchmarks" / "gpu"
sys.path.insert(0, str(FOLDER))

import against_tensorflow  # noqa: E402
import figures  # noqa: E402
import launchers  # noqa: E402
import problems  # noqa: E402

if torch:
    import check
    import expected
    import timing

sys.path.remove(str(FOLDER))


def shape_of(case):
    """What a case of the tests' reference is to the scripts."""
    pads = []
    for axis in (0, 1):
        before = case.pad_before(axis)
        total = (case.output_size(axis) - 1) * case.strides[axis]
        total += (case.kernel[axis] - 1) * case.dilations[axis] + 1
        after = max(0, total - case.size[axis] - before)
        pads.append((before, after))
    return problems.Shape(
        case.batch,
        case.size,
        case.channels,
        case.multiplier,
        case.kernel,
        case.strides,
        case.dilations,
        tuple(pads),
        case.data_format,
    )


# --- What is computed -------------------------------------------------------------


def test_the_layers_keep_their_shapes():
    for layout in ("NHWC", "NCHW"):
        for case in cases.choose(layouts=[layout]).cases:
            shape = problems.shape_of(case)
            assert shape.input_shape == case.input_shape
            assert shape.output_shape == case.output_shape
            problem = shape.problem()
            assert problem.channels_last == (layout == "NHWC")
            assert (problem.rows.in_, problem.cols.in_) == case.layer.size
    same = problems.shape_of(cases.Case(load_layers("MobileNetV1")[1], 1, "", "NHWC"))
    # TensorFlow pads an even image 0 before and 1 after.
    assert same.pads == ((0, 1), (0, 1))


@needs_torch
def test_the_reference_agrees_with_that_of_the_tests():
    rng = np.random.default_rng(0)
    for _ in range(60):
        case = reference.random_case(rng, dtypes=["float64"])
        shape = shape_of(case)
        assert shape.output_size == (case.output_size(0), case.output_size(1))
        x, w, dy = (
            rng.integers(-9, 10, size).astype(np.float64)
            for size in (case.input_shape, case.filter_shape, case.output_shape)
        )
        tx, tdy = (torch.tensor(case.to_layout(array).copy()) for array in (x, dy))
        tw = torch.tensor(w)
        for op, operands, want in (
            ("forward", (tx, tw), case.to_layout(reference.forward(case, x, w))),
            (
                "input_gradient",
                (tw, tdy),
                case.to_layout(reference.input_gradient(case, w, dy)),
            ),
            ("filter_gradient", (tx, tdy), reference.filter_gradient(case, x, dy)),
        ):
            got = expected.expected(op, shape, *operands).numpy()
            assert np.array_equal(got, want), (op, case)


def test_random_shapes_come_from_the_whole_space():
    shapes = list(problems.random_shapes(400, 0))
    assert len(shapes) == 400
    assert shapes == list(problems.random_shapes(400, 0))
    assert {shape.layout for shape in shapes} == {"NHWC", "NCHW"}
    assert {(1, 1), (2, 2)} < {shape.strides for shape in shapes}
    assert any(max(shape.kernel) >= 31 for shape in shapes)
    assert any(shape.multiplier > 1 for shape in shapes)
    assert any(max(shape.dilations) > 1 for shape in shapes)


# --- The launchers ----------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The launchers' source, compiled for the CPU."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("launchers")
    on_host = TESTS / "cc" / "gpu_on_host"
    sources = [*(ROOT / "cc" / "kernels" / "gpu").glob("*.cu"), *on_host.glob("*.cc")]

    def compile_one(source):
        target = folder / f"{source.name}.o"
        flags = ["-std=c++17", "-O1", "-fPIC", "-w", f"-I{on_host}", f"-I{ROOT}"]
        subprocess.run(
            [compiler, *flags, "-x", "c++", "-c", source, "-o", target], check=True
        )
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    path = folder / "launchers.so"
    subprocess.run([compiler, "-shared", *objects, "-o", path], check=True)
    return path


def test_the_launchers_tell_their_variants(library):
    found = launchers.Launchers(library)
    layer = cases.Case(load_layers("MobileNetV1")[0], 1, "float32", "NHWC")
    problem = problems.shape_of(layer).problem()
    for op in launchers.OPS:
        names = found.variants(op)
        assert len(set(names)) == len(names)
        assert found.chosen(op, problem, "float32") in names
        assert found.applies(op, problem, "float32", names.index("general"))
        assert not found.applies(op, problem, "float32", len(names))
    assert found.workspace_bytes("forward", problem, "half", -1) == 0
    assert found.workspace_bytes("filter_gradient", problem, "half", -1) > 0
    with pytest.raises(launchers.LaunchFailed, match=r"^forward: .*\(\d+\)$"):
        found.launch("forward", problem, "half", len(names) + 9, (0, 0, 0))


@needs_torch
def test_right_results_pass(library):
    found = launchers.Launchers(library)
    shapes = [
        shape
        for shape in problems.random_shapes(100, 3)
        if math.prod(shape.output_shape) * math.prod(shape.kernel) < 2e4
    ][:5]
    for kernel, strides, channels in (((3, 3), (1, 1), 8), ((3, 3), (2, 2), 3)):
        around = ((1, 1), (1, 1))
        shapes.append(
            problems.Shape(2, (6, 7), channels, 1, kernel, strides, (1, 1), around)
        )
    checked = check.check_all(found, shapes, "cpu")
    assert len(shapes) == 7
    assert {op for op, _, _ in checked} == set(launchers.OPS)
    assert {dtype for _, _, dtype in checked} == set(launchers.DTYPES)
    assert checked["forward", "best", "half"] == len(shapes)


def wrong_element(result, start, end):
    result[(start + end) // 2] += 2


def unwritten_element(result, start, end):
    result[end - 1] = torch.nan


def write_beyond(result, start, end):
    result[end] = 1


def write_before(result, start, end):
    result[start - 1] = 1


@needs_torch
@pytest.mark.parametrize("op", launchers.OPS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wrong_element, "not exact"),
        (unwritten_element, "not exact"),
        (write_beyond, "beyond"),
        (write_before, "beyond"),
    ],
)
def test_wrong_results_do_not_pass(library, op, spoil, message, monkeypatch):
    shape = problems.Shape(
        1, (5, 6), 4, 1, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), "NHWC"
    )
    found = launchers.Launchers(library)
    real = found.launch
    made = []
    real_full = torch.full
    monkeypatch.setattr(
        torch, "full", lambda *a, **k: made.append(real_full(*a, **k)) or made[-1]
    )

    def launch(op, problem, dtype, variant, operands, *rest):
        real(op, problem, dtype, variant, operands, *rest)
        space = next(tensor for tensor in made if tensor.dtype == torch.float32)
        start = (operands[-1] - space.data_ptr()) // 4
        spoil(space, start, start + int(np.prod(shape.operand_shapes(op)[2])))
        made.clear()

    monkeypatch.setattr(found, "launch", launch)
    with pytest.raises(check.CheckFailed, match=message):
        check.check_one(found, op, shape, "float32", launchers.BEST, "cpu")


def test_the_library_is_built_by_nvcc(tmp_path, monkeypatch):
    """An nvcc that only notes what it is to do."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDACXX", str(nvcc))
    path = launchers.build(tmp_path / "build", "sm_90")
    *compiled, linked = (tmp_path / "calls").read_text().splitlines()
    sources = {call.split()[call.split().index("-c") + 1] for call in compiled}
    assert sources >= {str(s) for s in (ROOT / "cc" / "kernels" / "gpu").glob("*.cu")}
    assert all("-arch=sm_90" in call for call in compiled)
    assert "-shared" in linked
    assert linked.endswith(str(path))

    nvcc.write_text("#!/bin/sh\necho no such architecture\nexit 1\n")
    with pytest.raises(launchers.BuildFailed, match="no such architecture"):
        launchers.build(tmp_path / "build", "sm_1")
    monkeypatch.delenv("CUDACXX")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(launchers.BuildFailed, match="there is no nvcc"):
        launchers.build(tmp_path / "build")


@pytest.mark.sweep
def test_nvcc_builds_the_library(tmp_path):
    """Minutes of compiling."""
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc")
    found = launchers.Launchers(launchers.build(tmp_path, "sm_90"))
    assert "general" in found.variants("forward")


# --- The other side ---------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_pytorch_computes_the_same(layout, strides):
    shape = problems.Shape(
        2, (9, 7), 3, 2, (3, 5), strides, (1, 2), ((1, 1), (4, 4)), layout
    )
    assert timing.symmetric_pads(shape) == [1, 4]
    tensors = {
        "input": torch.randn(shape.input_shape),
        "filter": torch.randn(shape.filter_shape),
        "out_backprop": torch.randn(shape.output_shape),
    }
    for op, first, second, at in (
        ("forward", "input", "filter", None),
        ("input_gradient", "filter", "out_backprop", 0),
        ("filter_gradient", "input", "out_backprop", 1),
    ):
        want = expected.expected(op, shape, tensors[first], tensors[second])
        calls = dict(timing.torch_calls(op, shape, tensors))
        assert set(calls) == set(figures.PEERS)
        for call in calls.values():
            got = call() if at is None else call()[at]
            if op == "filter_gradient":
                got = got.unflatten(0, (3, 2)).squeeze(2).permute(2, 3, 0, 1)
            elif layout == "NHWC":
                got = got.permute(0, 2, 3, 1)
            assert torch.allclose(got.double(), want, atol=1e-4)


@needs_torch
def test_padding_that_pytorch_does_not_have():
    shape = problems.Shape(1, (4, 4), 1, 1, (2, 2), (1, 1), (1, 1), ((0, 1), (0, 1)))
    assert timing.symmetric_pads(shape) is None
    assert dict(timing.torch_calls("forward", shape, {})) == {}


@needs_torch
@pytest.mark.parametrize("op", launchers.OPS)
def test_a_layer_is_timed_with_every_peer(library, op, monkeypatch):
    """All but the clock, which is the GPU's."""

    def time_in_turn(calls, repeats):
        for call in calls.values():
            call()
        return {name: float(i) for i, name in enumerate(calls, 1)}

    monkeypatch.setattr(timing, "time_in_turn", time_in_turn)
    found = launchers.Launchers(library)
    case = cases.Case(load_layers("DS-CNN-KWS")[0], 1, "float32", "NHWC")
    row = timing.measure(found, op, case, 3, variants=True, device="cpu")
    assert row["chosen"] in found.variants(op)
    applying = {
        f"variant {name}"
        for number, name in enumerate(found.variants(op))
        if found.applies(op, problems.shape_of(case).problem(), "float32", number)
    }
    assert set(row["seconds"]) == {"ours", "copy", *figures.PEERS} | applying
    assert row["unavailable"] == {}
    assert figures.ratio(row, figures.BEST_PEER) == 3
    assert json.loads(json.dumps(row)) == row


# --- What is reported -------------------------------------------------------------


def row(seconds, **changes):
    return {
        "model": "Net",
        "layer": "one",
        "kind": "3x3-s1",
        "op": "input_gradient",
        "dtype": "float32",
        "layout": "NHWC",
        "flop": 8e9,
        "seconds": seconds,
        **changes,
    }


ROWS = [
    row({"ours": 1.0, "copy": 0.5, "cudnn_nhwc": 4.0, "native_nchw": 8.0}),
    row({"ours": 2.0, "copy": 2.0, "cudnn_nhwc": 2.0}, layer="two"),
    row({"ours": 1.0, "copy": 1.0}, dtype="float64"),
]
RATES = {"float32": 16e9, "float64": 8e9}


def test_ratios_are_of_the_best_of_the_others():
    assert figures.ratio(ROWS[0], figures.BEST_PEER) == 4
    assert figures.ratio(ROWS[0], "native_nchw") == 8
    assert figures.ratio(ROWS[1], "native_nchw") is None
    assert figures.ratio(ROWS[2], figures.BEST_PEER) is None
    assert figures.share_of_copy(ROWS[0]) == 0.5
    assert figures.share_of_multiply_adds(ROWS[0], RATES) == 0.5
    assert figures.share_of_multiply_adds(ROWS[2], RATES) == 1
    text = "\n".join(figures.summary(ROWS, RATES))
    assert "input_gradient float32 NHWC: 2 layers" in text
    assert "best of PyTorch: geometric mean 2.00x, lowest 1.00x (Net two)" in text
    assert "slower in 0 of 2" in text
    assert "cuDNN, contiguous: n/a" in text
    assert "3x3-s1: 2 layers, 71% of the copy, 35% of the multiply-adds" in text


def test_the_files(tmp_path):
    figures.write_json(tmp_path / "timings.json", ROWS, {"device": "none"})
    document = json.loads((tmp_path / "timings.json").read_text())
    assert document["machine"] == {"device": "none"}
    assert document["results"] == ROWS
    pytest.importorskip("matplotlib")
    written = figures.save_plots(tmp_path, ROWS, "no device")
    assert [path.name for path in written] == [
        "input_gradient_float32_nhwc.png",
        "input_gradient_float64_nhwc.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


# --- The command ------------------------------------------------------------------


def run(*arguments):
    """Runs the command where TensorFlow and this package cannot be imported."""
    hide = (
        "import runpy, sys; sys.modules['tensorflow'] = None; "
        "sys.argv[0] = sys.argv[1]; del sys.argv[1]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", hide, FOLDER, *map(str, arguments)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_torch
def test_the_command_checks(library):
    completed = run(
        "check", "--device", "cpu", "--library", library, "--cases", 0, "--layers", 1
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "input_gradient   best" in completed.stdout


@needs_torch
@pytest.mark.parametrize("command", ["check", "sanitize", "time"])
def test_without_a_gpu_the_command_says_so(command):
    completed = run(command)
    assert completed.returncode == 1
    assert completed.stdout == "PyTorch sees no GPU\n"


def test_wrong_options_are_refused():
    completed = run("time", "--dtype", "int8")
    assert completed.returncode == 2
    assert "invalid choice: 'int8'" in completed.stderr


# --- Against TensorFlow -----------------------------------------------------------


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_both_sides_are_measured_where_tensorflow_is(layout):
    """On the CPU here, where TensorFlow's op knows no NCHW in float64."""
    layer = load_layers("DS-CNN-KWS")[0]
    case = cases.Case(layer, 1, "float64", layout)
    result = against_tensorflow.measure(case, 0.001, calls=2)
    assert result.error <= 1
    assert result.ours.median > 0
    if layout == "NHWC":
        comparison = result.comparisons["builtin"]
        assert comparison.ratio > 0
        assert comparison.ours == result.ours
    else:
        assert "NHWC" in result.missing["builtin"]


def test_without_a_gpu_the_comparison_says_so(monkeypatch, capsys):
    devices = against_tensorflow.tf.config
    monkeypatch.setattr(devices, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(against_tensorflow, "cuda_version", lambda: "13.0")
    assert against_tensorflow.main([]) == 1
    assert capsys.readouterr().out == "TensorFlow sees no GPU\n"
    monkeypatch.setattr(against_tensorflow, "cuda_version", lambda: "")
    assert against_tensorflow.main([]) == 1
    assert "built without CUDA" in capsys.readouterr().out
