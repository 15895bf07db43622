"""ONNX files that are not read: each is refused in one line that names why."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from onnx_graphs import CONV, NODE, conv, graph, refused, weights, with_head
from torch import nn

from citrus_lirpa.errors import DependencyError, InputError
from citrus_lirpa.formats.onnx import load_onnx
from citrus_lirpa.formats.onnx.checks import why_off
from citrus_lirpa.formats.onnx.operators import LAYERS

RELU = [NODE("Relu", ["x"], ["r"])]
UNSUPPORTED = {
    "Sin is not supported": with_head([NODE("Sin", ["x"], ["e"])], {}, 128),
    "an exponent that is not one number": with_head(
        [NODE("Pow", ["x", "s"], ["p"])], {"s": weights(2, 8, 8)}, 128),
    "has dilations": with_head(
        [NODE("AveragePool", ["x"], ["p"], kernel_shape=[2, 2], dilations=[2, 2])], {}, 72,
        opset=19),
    "uneven pads and ceil_mode": with_head(
        [NODE("AveragePool", ["x"], ["p"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1,
              pads=[0, 0, 1, 1], count_include_pad=1)], {}, 32),
    "slopes of shape": with_head([NODE("PRelu", ["x", "s"], ["r"])], {"s": weights(8)}, 128),
    "has the step -1": with_head(
        [NODE("Slice", ["x", "s", "e", "a", "s"], ["r"])],
        {"s": np.array([-1]), "e": np.array([-9]), "a": np.array([3])}, 128),
    "another axis than": with_head(
        [NODE("Gather", ["x", "i"], ["r"], axis=0)], {"i": np.array([0])}, 128),
    "computed values of this shape": with_head(
        [NODE("Max", ["x", "big"], ["r"])], {"big": weights(2, 2, 8, 8)}, 128),
    "returns indices": with_head(
        [NODE("MaxPool", ["x"], ["p", "places"], kernel_shape=[2, 2])], {}, 98),
    "it does not count": with_head(
        [NODE("AveragePool", ["x"], ["p"], kernel_shape=[2, 2], pads=[1, 0, 0, 0])], {}, 112),
    "a constant around the height": with_head(
        [NODE("Pad", ["x", "p"], ["z"])], {"p": np.array([0, 1, 0, 0, 0, 0, 0, 0])}, 192),
    "moves the batch": with_head([NODE("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3])], {}, 64),
    "joins batches": with_head([NODE("Concat", ["x", "x"], ["c"], axis=0)], {}, 128),
    "and not the batch": with_head([NODE("ReduceMean", ["x"], ["m"], axes=[0, 2])], {}, 16),
    "Mul 'm' of two computed": with_head(
        [NODE("ReduceMean", ["x"], ["g"], axes=[1, 2, 3], keepdims=0),
         NODE("Mul", ["x", "g"], ["m"])], {}, 128),
    "Split 's' cuts the batch": with_head([NODE("Split", ["x"], ["s"], axis=0)], {}, 128),
    "expected the batch to stay first": graph(
        [NODE("Reshape", ["x", "s"], ["a"]), NODE("Gemm", ["a", "w", "b"], ["y"])],
        {"s": np.array([2, 64]), "w": weights(64, 4), "b": weights(4)}),
    "must be a constant": with_head(
        [NODE("Relu", ["x"], ["q"]), NODE("Conv", ["x", "q"], ["c"])], {}, 1),
    "input is (1, '?', 8, 8)": with_head(RELU, {}, 128, shape=(1, None, 8, 8)),
    "input is (1, 'C', 8, 8)": with_head(RELU, {}, 128, shape=(1, "C", 8, 8)),
    "input is (3, 2, 8, 8)": with_head(RELU, {}, 128, shape=(3, 2, 8, 8)),
    "1 inputs and 2 outputs": with_head(RELU, {}, 128, outputs=("y", "r")),
    "opset is 6": with_head(RELU, {}, 128, opset=6),
    "expected logits": graph([NODE("Relu", ["x"], ["y"])], {}, out=(1, 2, 8, 8)),
    "input is (1, 2, 1048576, 1048576)": with_head(
        [NODE("GlobalAveragePool", ["x"], ["g"])], {}, 2, shape=(1, 2, 2**20, 2**20)),
}  # fmt: skip


@pytest.mark.parametrize("words", UNSUPPORTED)
def test_what_is_not_supported_is_named(words, tmp_path):
    message = refused(UNSUPPORTED[words], tmp_path)
    assert words in message


def test_large_layers_are_refused_before_they_are_made(tmp_path):
    nodes = [conv(pads=[2**14] * 4), NODE("GlobalAveragePool", ["c"], ["g"])]
    huge = with_head(nodes, CONV, 3)
    assert "values; expected at most" in refused(huge, tmp_path)


def test_a_foreign_operator_is_named(tmp_path):
    model = with_head([NODE("Relu", ["x"], ["r"], domain="com.example")], {}, 128)
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    assert "com.example.Relu" in refused(model, tmp_path)


def test_what_is_no_onnx_file(tmp_path):
    for content in (b"", b"hello, this is no network", b"\x00" * 99):
        assert "not an ONNX file" in refused(content, tmp_path, InputError)
    whole = with_head(RELU, {}, 128).SerializeToString()
    assert "not an ONNX file" in refused(whole[: len(whole) // 2], tmp_path, InputError)
    for path in (tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(InputError, match="is not a file"):
            load_onnx(path)


def test_a_large_file_is_not_read(tmp_path):
    with open(tmp_path / "large.onnx", "wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(InputError, match="1073741825 bytes; expected at most 1073741824"):
        load_onnx(tmp_path / "large.onnx")


def test_weights_that_lie_about_their_size(tmp_path):
    model = with_head(RELU, {}, 128)
    model.graph.initializer[0].dims[0] = 2**40
    assert "cannot be used" in refused(model, tmp_path)


def test_what_pytorch_would_compute_differently_is_refused(tmp_path, monkeypatch):
    def skip(reader, node, options) -> None:
        reader.skip(node, node.input[0])

    model = with_head(RELU, {}, 128)
    monkeypatch.setitem(LAYERS, "Relu", skip)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights(128, 4) - 1, "w"))
    model.graph.node.insert(0, NODE("Sub", ["x", "half"], ["h"]))
    model.graph.node[1].input[0] = "h"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
    assert "off by" in refused(model, tmp_path)


def test_a_divisor_near_zero_is_the_reason_why_results_are_off():
    class Inverse(nn.Module):
        def forward(self, x):
            return 1 / (x - 0.3)

    near, far = torch.tensor([[0.3 + 1e-6]]), torch.tensor([[0.9]])
    assert "keep them away from 0" in why_off(Inverse(), near)
    assert why_off(Inverse(), far) == "a layer is not understood"


def test_not_a_number_is_refused(tmp_path):
    model = with_head(RELU, {}, 128)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.float32([np.nan] * 4), "b"))
    assert "off by nan" in refused(model, tmp_path)


def test_without_the_onnx_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DependencyError, match=r"onnx cannot .*pip install 'citrus-lirpa\[onnx\]'"):
        load_onnx(Path("net.onnx"))
