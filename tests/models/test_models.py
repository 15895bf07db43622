"""models: layers, sizes and parameter counts worked out by hand; misuse."""

import pytest
import torch
from torch import nn

from citrus_lirpa.errors import ConfigError, InputError
from citrus_lirpa.models import MODELS, PLAIN, Normalise, build_model

CIFAR = {
    "shape": (3, 32, 32),
    "classes": 10,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
}
DIGITS = {"shape": (1, 8, 8), "classes": 10, "mean": (0.0,), "std": (1.0,)}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_normalise_by_hand():
    layer = Normalise(mean=(0.5, 0.25), std=(0.5, 0.125))
    x = torch.tensor([[[[1.0, 0.0]], [[0.5, 0.25]]]])
    assert layer(x).tolist() == [[[[1.0, -1.0]], [[2.0, 0.0]]]]


def test_normalise_state_is_buffers_only():
    layer = Normalise(mean=(0, 0, 0), std=(1, 1, 1))
    assert not list(layer.parameters())
    assert {key: tuple(value.shape) for key, value in layer.state_dict().items()} == {
        "mean": (3, 1, 1),
        "std": (3, 1, 1),
    }
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(layer(x), x)
    assert layer.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5,), (0.2, 0.2)), ((), ()), ((0.5,), (0.0,)), ((0.5,), (-1.0,)), ((float("nan"),), (1,))],
)
def test_normalise_refuses(mean, std):
    with pytest.raises(InputError):
        Normalise(mean, std)


@pytest.mark.parametrize("name", sorted({*MODELS}.difference(PLAIN)))
def test_every_model_is_flat_and_starts_with_normalisation(name):
    model = build_model(name, **CIFAR).eval()
    assert isinstance(model, nn.Sequential)
    assert isinstance(model[0], Normalise)
    assert not any(isinstance(layer, nn.Sequential) for layer in model)
    assert isinstance(model[-1], nn.Linear)
    with torch.no_grad():
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", sorted({*MODELS}.difference(PLAIN)))
def test_a_checkpoint_carries_the_normalisation(name):
    model = build_model(name, **CIFAR)
    other = build_model(name, **{**CIFAR, "mean": (0.0,) * 3, "std": (1.0,) * 3})
    other.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), other.eval()(x))


def test_cnn7_layers():
    model = build_model("cnn7", **CIFAR)
    block = ["Conv2d", "BatchNorm2d", "ReLU"]
    head = ["Flatten", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [type(layer).__name__ for layer in model] == ["Normalise", *block * 5, *head]
    convs = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [64, 64, 128, 128, 128]
    assert [conv.stride[0] for conv in convs] == [1, 1, 2, 1, 1]
    assert {(conv.kernel_size, conv.padding) for conv in convs} == {((3, 3), (1, 1))}


def test_cnn7_parameter_count_on_cifar():
    convs = (3 * 64 + 64 * 64 + 64 * 128 + 2 * 128 * 128) * 9 + 64 * 2 + 128 * 3
    norms = 2 * (64 * 2 + 128 * 3 + 512)
    linears = 128 * 16 * 16 * 512 + 512 + 512 * 10 + 10
    assert convs + norms + linears == 17_192_650
    assert count(build_model("cnn7", **CIFAR)) == 17_192_650


@pytest.mark.parametrize(
    ("shape", "options", "inputs"),
    [
        ((1, 28, 28), {}, 128 * 14 * 14),
        ((3, 56, 56), {}, 128 * 28 * 28),
        ((3, 64, 64), {"last_stride": 2}, 128 * 16 * 16),
        ((1, 8, 8), {"width": 4}, 8 * 4 * 4),
        ((1, 7, 9), {"width": 4, "last_stride": 2}, 8 * 2 * 3),
    ],
)
def test_cnn7_first_linear_layer(shape, options, inputs):
    with torch.device("meta"):
        model = MODELS["cnn7"](shape, 10, linear=8, **options)
        linear = [layer for layer in model if isinstance(layer, nn.Linear)]
        assert [layer.in_features for layer in linear] == [inputs, 8]
        assert model.eval()(torch.empty(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "strides", "kernels", "widths"),
    [
        ("cnn7", [1, 1, 2, 1, 1], [3, 3, 3, 3, 3], [64, 64, 128, 128, 128, 512]),
        ("cnn7-narrow", [1, 1, 2, 1, 1], [3, 3, 3, 3, 3], [32, 32, 64, 64, 64, 216]),
        ("cnn5", [1, 2, 2], [3, 4, 4], [64, 64, 128, 512]),
    ],
)
@pytest.mark.parametrize("share", [1, 0.25])
def test_widths_of_the_networks_with_batchnorm(name, strides, kernels, widths, share):
    options = {} if share == 1 else {"width": share}
    with torch.device("meta"):
        model = MODELS[name]((3, 32, 32), 10, **options)
    convs = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    linears = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert [conv.stride[0] for conv in convs] == strides
    assert [conv.kernel_size[0] for conv in convs] == kernels
    found = [conv.out_channels for conv in convs] + [linears[0].out_features]
    assert found == [share * width for width in widths]
    assert linears[0].in_features == found[-2] * (32 * 32) // (4 if "7" in name else 16)
    # each convolution and the first linear layer have BatchNorm of their width
    norms = [m.num_features for m in model if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert norms == found


def test_a_share_of_the_width_is_a_share_of_the_linear_layer_too():
    model = MODELS["cnn7"]((1, 8, 8), 10, width=0.125, linear=40)
    assert [m.out_features for m in model if isinstance(m, nn.Linear)] == [5, 10]
    tiny = MODELS["cnn5"]((1, 8, 8), 10, width=0.001)
    assert [m.out_channels for m in tiny if isinstance(m, nn.Conv2d)] == [1, 1, 2]


def test_cnn5_refuses_images_that_are_too_small():
    with pytest.raises(InputError, match="at least 4x4 pixels, not 3x8; use mlp"):
        MODELS["cnn5"]((1, 3, 8), 10)


def test_convsmall_layers_and_count():
    model = build_model("convsmall", **CIFAR)
    assert [type(layer).__name__ for layer in model] == (
        ["Normalise", "Conv2d", "ReLU", "Conv2d", "ReLU", "Flatten", "Linear", "ReLU", "Linear"]
    )
    assert [(c.kernel_size, c.stride, c.padding) for c in (model[1], model[3])] == (
        [((4, 4), (2, 2), (0, 0))] * 2
    )
    # 32 -> 15 -> 6 pixels
    expected = (3 * 16 * 16 + 16) + (16 * 32 * 16 + 32) + (32 * 36 * 100 + 100) + (100 * 10 + 10)
    assert count(model) == expected == 125_318
    wide = MODELS["convsmall"]((3, 32, 32), 10, width=28, linear=50)
    assert [tuple(parameter.shape) for parameter in wide.parameters()][::2] == (
        [(28, 3, 4, 4), (56, 28, 4, 4), (50, 56 * 36), (10, 50)]
    )
    half = MODELS["convsmall"]((3, 32, 32), 10, width=0.5)
    assert [len(parameter) for parameter in half.parameters()][::2] == [8, 16, 50, 10]
    normalised = build_model("convsmall", **CIFAR, batchnorm=True)
    kept = [layer for layer in normalised if "BatchNorm" not in type(layer).__name__]
    assert [type(layer) for layer in kept] == [type(layer) for layer in model]
    assert len(normalised) == len(kept) + 3


def test_mlp_layers_and_count():
    model = build_model("mlp", **DIGITS)
    assert [type(layer).__name__ for layer in model] == (
        ["Normalise", "Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    )
    assert count(model) == 64 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10 == 17_610
    assert count(build_model("mlp", **DIGITS, hidden=[5])) == 64 * 5 + 5 + 5 * 10 + 10
    assert count(build_model("mlp", **DIGITS, hidden=[])) == 64 * 10 + 10


def test_unknown_model_names_the_nearest_and_all():
    known = "cnn7, cnn7-narrow, cnn5, convsmall, mlp"
    with pytest.raises(ConfigError, match=f"'cnn'.*did you mean 'cnn7'.*{known}"):
        build_model("cnn", **CIFAR)
    with pytest.raises(ConfigError) as error:
        build_model("zzz", **CIFAR)
    assert "did you mean" not in str(error.value)


def test_unknown_option_names_the_nearest_and_all():
    message = "'widht'.*did you mean 'width'.*width, linear, last_stride"
    with pytest.raises(ConfigError, match=message):
        build_model("cnn7", **CIFAR, widht=32)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cnn7", {"width": 0}),
        ("cnn7", {"width": 2.5}),
        ("cnn7", {"width": -0.5}),
        ("cnn7-narrow", {"width": True}),
        ("cnn5", {"linear": 0}),
        ("convsmall", {"width": 1.5}),
        ("convsmall", {"linear": -1}),
        ("cnn7", {"linear": 1.5}),
        ("cnn7", {"last_stride": True}),
        ("mlp", {"hidden": [10, -1]}),
        ("mlp", {"hidden": 100}),
        ("mlp", {"hidden": "100"}),
    ],
)
def test_unusable_option_values(name, options):
    with pytest.raises(ConfigError, match="expected a"):
        build_model(name, **CIFAR, **options)


def test_batchnorm_is_true_or_false():
    with pytest.raises(ConfigError, match="batchnorm.* 1.*expected true or false"):
        build_model("convsmall", **CIFAR, batchnorm=1)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (3, 32)},
        {"shape": (3, 0, 32)},
        {"classes": 1},
        {"classes": "10"},
        {"mean": (0.0,), "std": (1.0,)},
    ],
)
def test_unusable_shape_or_classes(change):
    with pytest.raises(InputError) as error:
        build_model("mlp", **{**CIFAR, **change})
    assert "\n" not in str(error.value)


def test_convsmall_names_the_smallest_image():
    with pytest.raises(InputError, match="10x10.*8x8"):
        build_model("convsmall", **DIGITS)
    model = MODELS["convsmall"]((1, 10, 10), 2)
    assert model(torch.rand(1, 1, 10, 10)).shape == (1, 2)
