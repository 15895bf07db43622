"""Convolutions and pools of ONNX files with every kind of padding: as onnxruntime computes them."""

import onnxruntime
import pytest
import torch
from onnx_graphs import CONV, NODE, conv, read, refused, with_head


def pool(operator, size, *kernel_shape, **options):
    return [NODE(operator, ["x"], ["p"], kernel_shape=kernel_shape, **options)], {}, size


#: Nodes of images (2, 8, 8), constants, and how many numbers come out.
READ = {
    "max, rows": pool("MaxPool", 2 * 9 * 7, 2, 2, pads=[1, 0, 1, 0]),
    "max, columns": pool("MaxPool", 2 * 7 * 9, 2, 2, pads=[0, 1, 0, 1]),
    "max, far ends": pool("MaxPool", 2 * 4 * 4, 3, 3, strides=[2, 2], pads=[0, 0, 1, 1]),
    "max, more at the far ends": pool(
        "MaxPool", 2 * 5 * 5, 3, 3, strides=[2, 2], pads=[1, 1, 2, 2]),
    "max, pads that no window reaches": pool(
        "MaxPool", 2 * 4 * 4, 2, 2, strides=[2, 2], pads=[0, 0, 1, 1]),
    "max, upper": pool("MaxPool", 2 * 3 * 4, 3, 2, strides=[3, 2], auto_pad="SAME_UPPER"),
    "max, lower": pool("MaxPool", 2 * 3 * 2, 2, 4, strides=[3, 4], auto_pad="SAME_LOWER"),
    "max, valid": pool("MaxPool", 2 * 3 * 3, 3, 3, strides=[2, 2], auto_pad="VALID"),
    "max, ceil": pool("MaxPool", 2 * 4 * 3, 3, 2, strides=[2, 3], ceil_mode=1),
    "mean, upper": pool("AveragePool", 2 * 4 * 4, 2, 2, strides=[2, 2], auto_pad="SAME_UPPER"),
    "mean, counted": pool("AveragePool", 2 * 4 * 4, 3, 3, strides=[2, 2], auto_pad="SAME_LOWER",
                          count_include_pad=1),
    "mean, ceil": pool("AveragePool", 2 * 4 * 4, 3, 3, strides=[2, 2], ceil_mode=1),
    "mean, ceil without two numbers": pool(
        "AveragePool", 2 * 2 * 3, 5, 4, strides=[5, 3], ceil_mode=1),
    "mean, ceil without two numbers, counted": pool(
        "AveragePool", 2 * 2 * 2, 6, 6, strides=[6, 6], pads=[1, 1, 1, 1], ceil_mode=1,
        count_include_pad=1),
    "mean, padded, ceil without two numbers": pool(
        "AveragePool", 2 * 2 * 2, 6, 6, strides=[6, 6], pads=[1, 1, 1, 1], ceil_mode=1),
    "mean, padded and ceil": pool("AveragePool", 2 * 5 * 5, 3, 3, strides=[2, 2], ceil_mode=1,
                                  pads=[1, 1, 1, 1], count_include_pad=1),
    "convolution, upper": ([conv(strides=[2, 2], auto_pad="SAME_UPPER")], CONV, 3 * 4 * 4),
    "convolution, lower": ([conv(strides=[2, 3], auto_pad="SAME_LOWER")], CONV, 3 * 4 * 3),
}  # fmt: skip
REFUSED = {
    "uneven pads (1, 0), (0, 0)": pool("MaxPool", 2 * 8 * 7, 2, 2, pads=[1, 0, 0, 0]),
    "uneven pads (1, 1), (0, 2)": pool(
        "MaxPool", 2 * 4 * 5, 3, 3, strides=[2, 2], pads=[1, 1, 1, 2]),
    "otherwise than ONNX says": pool(
        "MaxPool", 2 * 8 * 8, 2, 2, dilations=[2, 2], auto_pad="SAME_UPPER"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_is_read_computes_what_onnxruntime_does(tmp_path, name):
    module = read(with_head(*READ[name]), tmp_path)
    x = torch.randn(1, 2, 8, 8)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    (wanted,) = session.run(None, {"x": x.numpy()})
    assert torch.allclose(module(x), torch.from_numpy(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("message", REFUSED)
def test_pads_that_pytorch_has_not_are_refused(tmp_path, message):
    assert message in refused(with_head(*REFUSED[message]), tmp_path)
