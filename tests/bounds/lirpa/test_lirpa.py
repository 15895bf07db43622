"""The compatibility layer, on whichever auto_LiRPA and torch are installed."""

import copy
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from citrus_lirpa.bounds import lirpa as ours
from citrus_lirpa.bounds.lirpa import importing, repairs
from citrus_lirpa.errors import DependencyError

ROOT = Path(__file__).resolve().parents[3]
METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized")


class Square(nn.Module):
    def forward(self, x):
        return x.relu() ** 2


def mlp():
    return nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def build(model, example, **options):
    model.eval()
    with ours.parsing():
        bounded = ours.load().BoundedModule(
            model, example[:1], bound_opts=ours.bound_options(**options)
        )
    bounded.eval()
    return bounded


def boxed(x, radius):
    lirpa = ours.load()
    return lirpa.BoundedTensor(x, lirpa.PerturbationLpNorm(x_L=x - radius, x_U=x + radius))


def sampled_range(model, x, radius, samples=500):
    noise = radius * (2 * torch.rand(samples, *x.shape) - 1)
    with torch.no_grad():
        y = model((x + noise).flatten(0, 1)).view(samples, len(x), -1)
    return y.amin(0), y.amax(0)


def python(code, *, path=(), flags=(), home=None):
    """Run ``code`` in a fresh interpreter and return the finished process."""
    inherited = os.environ.get("PYTHONPATH")
    paths = [*map(str, path), str(ROOT), *([inherited] if inherited else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if home is not None:
        environment |= {"HOME": str(home), "XDG_DATA_HOME": str(home / "share")}
    return subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ------------------------------------------------------------------------ quiet import


def test_import_and_parse_leave_the_process_as_it_was(tmp_path):
    done = python(
        """
        import logging, sys, warnings
        import torch
        import torch.onnx.symbolic_helper
        def flags():
            setters = torch._C._jit_set_profiling_executor, torch._C._jit_set_profiling_mode
            values = [setter(True) for setter in setters]
            for setter, value in zip(setters, values):
                setter(value)
            return values
        def state():
            root = logging.getLogger()
            return (list(warnings.filters), list(root.handlers), root.level, flags(),
                    "numpy.lib.arraysetops" in sys.modules and sys.modules["numpy.lib.arraysetops"],
                    hasattr(torch.onnx.symbolic_helper, "_set_opset_version"))
        before = state()
        from citrus_lirpa.bounds import lirpa as ours
        from citrus_lirpa.bounds.lirpa import importing
        lirpa = ours.load()
        after_import = state()
        onnx = importing.onnx_globals()
        globals_before = onnx.autograd_inlining, onnx.export_onnx_opset_version
        net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()).eval()
        with ours.parsing():
            lirpa.BoundedModule(net, torch.zeros(1, 2), bound_opts=ours.bound_options())
        globals_after = onnx.autograd_inlining, onnx.export_onnx_opset_version
        for old, new in ((before, after_import), (before, state()),
                         (globals_before, globals_after)):
            if old != new:
                sys.exit(f"{old} became {new}")
        """,
        flags=("-W", "error"),
        home=tmp_path,
    )
    lines = done.stderr.splitlines()
    lines = [line for line in lines if "No CUDA runtime" not in line]  # torch 2.5 prints it
    assert (done.returncode, done.stdout, lines) == (0, "", [])
    assert list(tmp_path.rglob("auto_LiRPA")) == []


def test_import_passes_on_unknown_warnings_and_drops_known_ones(tmp_path):
    package = tmp_path / "auto_LiRPA"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import warnings\nwarnings.simplefilter('once')\n"
        "warnings.warn('something new')\n"
        "warnings.warn('`torch.jit.script` is deprecated. Use others')\n"
        "__version__ = '0.9.2'\n"
    )
    done = python(
        """
        import warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from citrus_lirpa.bounds import lirpa  # loads auto_LiRPA, as far as it can be
            from citrus_lirpa.errors import DependencyError
            try:
                lirpa.load()
            except DependencyError:
                print([str(w.message) for w in caught])
        """,
        path=[tmp_path],
    )
    assert done.stdout.strip() == "['something new']", done.stderr


def test_parsing_restores_globals_when_building_fails():
    onnx = importing.onnx_globals()
    before = onnx.autograd_inlining, onnx.export_onnx_opset_version, list(warnings.filters)
    with pytest.raises(ZeroDivisionError), ours.parsing():
        assert onnx.autograd_inlining is False
        onnx.export_onnx_opset_version = 12
        raise ZeroDivisionError
    after = onnx.autograd_inlining, onnx.export_onnx_opset_version, list(warnings.filters)
    assert after == before


def test_parsing_lets_other_warnings_through():
    with pytest.warns(UserWarning, match="mine"), ours.parsing():
        warnings.warn("ONNX export mode is set to eval", stacklevel=1)
        warnings.warn("mine", stacklevel=1)


def test_optimising_prints_nothing(capsys):
    x = torch.rand(2, 4)
    bounded = build(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), x, alpha_iterations=30)
    bounded.compute_bounds(x=(boxed(x, 0.0),), method="CROWN-Optimized")
    assert capsys.readouterr().out == ""


# -------------------------------------------------------------------- missing and wrong


#: What stands in for auto_LiRPA, where it is another; modules that are missing; what is said.
UNUSABLE = {
    "missing": (None, ["auto_LiRPA"], "auto_LiRPA is not installed: "),
    "need": (None, ["appdirs"], "auto_LiRPA needs appdirs, which is missing: pip install appdirs"),
    "need of another name on PyPI": ("import yaml", ["yaml"],
                                     "auto_LiRPA needs yaml, which is missing: pip install pyyaml"),
    "old": ("__version__ = '0.5.1'", [], "auto_LiRPA 0.5.1 found, 0.3.x or 0.7.x needed: "),
    "new": ("__version__ = '1.3'", [], "auto_LiRPA 1.3 found, 0.3.x or 0.7.x needed: "),
    "broken": ("from math import tau_squared", [],
               "auto_LiRPA cannot be imported (cannot import name "),
}  # fmt: skip


@pytest.fixture(scope="module")
def refusals(tmp_path_factory) -> dict[str, str]:
    """What ``load`` says of each, in a fork of its own of a process that has imported torch."""
    folder = tmp_path_factory.mktemp("unusable")
    cases = {}
    for number, (name, (source, missing, _)) in enumerate(UNUSABLE.items()):
        package = folder / str(number) / "auto_LiRPA"
        if source:
            package.mkdir(parents=True)
            (package / "__init__.py").write_text(source)
        cases[name] = [str(package.parent), missing]
    done = python(
        f"""
        import os, sys, torch
        for name, (folder, missing) in {cases!r}.items():
            if os.fork():
                os.wait()
                continue
            sys.path.insert(0, folder)
            sys.modules.update(dict.fromkeys(missing))
            from citrus_lirpa.bounds import lirpa
            from citrus_lirpa.errors import DependencyError
            try:
                lirpa.load()
            except DependencyError as error:
                print(f"{{name}}: {{error}}", flush=True)
            os._exit(0)
        """
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_auto_lirpa_is_refused_in_one_line(refusals, name):
    assert refusals[name].startswith(UNUSABLE[name][2])
    if "need" not in name:
        assert refusals[name].endswith(ours.INSTALL_HINT)


def test_old_torch_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.4.1+cu121")
    with pytest.raises(DependencyError, match=r"torch 2\.4\.1\+cu121 found, 2\.5 or newer"):
        ours.load.__wrapped__()


# ------------------------------------------------------------------------------- names


def test_names_are_those_of_the_loaded_version():
    expected = "intermediate_layer_bounds" if ours.load().legacy else "interm_bounds"
    assert ours.bound_kwargs(interm_bounds=1, method="IBP") == {expected: 1, "method": "IBP"}


def test_translated_intermediate_bounds_are_used():
    x = torch.rand(2, 4)
    net = mlp()
    bounded = build(net, x)
    loose = bounded.compute_bounds(x=(boxed(x, 0.1),), method="CROWN", bound_upper=False)[0]
    layers = [node.inputs[0] for node in bounded.relus]
    given = {n.name: [n.lower.detach() - 1, n.upper.detach() + 1] for n in layers}
    looser = bounded.compute_bounds(
        x=(boxed(x, 0.1),), method="CROWN", bound_upper=False,
        **ours.bound_kwargs(interm_bounds=given),
    )[0]  # fmt: skip
    assert (looser < loose - 0.1).all()


# ----------------------------------------------------------------------------- repairs


def test_requires_grad_is_left_alone():
    net, x = cnn(), torch.rand(2, 1, 5, 5)
    net[0].weight.requires_grad_(False)
    expected = [p.requires_grad for p in net.parameters()]
    assert expected.count(False) == 1

    bounded = build(net, x)
    for mode in (bounded.train, bounded.eval):
        mode()
        bounded(x)
        bounded.compute_bounds(x=(boxed(x, 0.01),), method="CROWN-IBP")
        assert [p.requires_grad for p in net.parameters()] == expected
    assert len(list(bounded.named_parameters())) == len(expected)


@pytest.mark.parametrize(("make", "shape"), [(mlp, (4,)), (cnn, (1, 5, 5))])
@pytest.mark.parametrize("radius", [0.3, 3.0])
def test_alpha_crown_is_strictly_tighter_than_crown(make, shape, radius):
    """0.3 alone crashes where nearly all is unstable; torch >= 2.14 alone gives equality."""
    x = torch.rand(3, *shape)
    bounded = build(make(), x)
    crown, alpha = (
        bounded.compute_bounds(x=(boxed(x, radius),), method=method, bound_upper=False)[0]
        for method in ("CROWN", "CROWN-Optimized")
    )
    assert (alpha >= crown - 1e-5).all()
    assert (alpha - crown).mean() > 0.02 * radius


@pytest.mark.parametrize("leaky", [0.0, 0.1])
def test_alpha_gradient_is_one_on_the_closed_interval(leaky):
    lower = torch.tensor([-1.0, -1, -1, -1, -1, 1, -2])
    upper = torch.tensor([1.0, 1, 1, 1, 1, 2, -1])
    start = torch.tensor([leaky, 0.5, 1.0, leaky - 0.1, 1.5, 0.5, 0.5], requires_grad=True)
    slope, none, inactive = repairs.relu_mask_alpha(lower, upper, start, None, leaky)
    slope.sum().backward()
    assert slope.tolist() == pytest.approx([leaky, 0.5, 1, leaky, 1, 1, leaky])
    assert start.grad.tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert none is None
    assert not inactive
    assert bool(repairs.relu_mask_alpha(-upper, lower, None, None, leaky)[2]) is False
    assert bool(repairs.relu_mask_alpha(lower, -upper.abs(), None, None)[2]) is True


def test_square_is_sound_or_refused():
    """0.7 without ONNX's symbolics parses another power, and CROWN is wrong by more than 3."""
    net, x, radius = Square(), torch.rand(3, 4), 3.0
    bounded = build(net, x)
    low, high = sampled_range(net, x, radius, samples=5000)
    refused = []
    for method in METHODS:
        try:
            lower, upper = bounded.compute_bounds(x=(boxed(x, radius),), method=method)
        except (AttributeError, NotImplementedError):
            refused.append(method)
            continue
        assert (lower <= low + 1e-4).all() and (upper >= high - 1e-4).all()
    assert refused == (["CROWN", "CROWN-Optimized"] if ours.load().legacy else [])


@pytest.mark.parametrize("layer", [nn.Hardtanh(), nn.ReLU6(), nn.ZeroPad2d(1), nn.Dropout()])
def test_layers_that_need_the_symbolics_parse(layer):
    x = torch.rand(2, 1, 4, 4)
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), layer, nn.Flatten())
    bounded = build(net, x)
    low, high = sampled_range(net.eval(), x, 0.5)
    lower, upper = bounded.compute_bounds(x=(boxed(x, 0.5),), method="IBP")
    assert (lower <= low + 1e-5).all() and (upper >= high - 1e-5).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("conv_mode", ["patches", "matrix"])
def test_bounds_contain_sampled_outputs(method, conv_mode):
    net, x, radius = cnn(), torch.rand(3, 1, 5, 5), 0.2
    bounded = build(net, x, conv_mode=conv_mode)
    lower, upper = bounded.compute_bounds(x=(boxed(x, radius),), method=method)
    low, high = sampled_range(net, x, radius)
    assert (lower <= low + 1e-5).all() and (upper >= high - 1e-5).all()
    assert (upper - lower < 100 * (high - low)).all()


@pytest.mark.parametrize("method", METHODS)
def test_margins_are_asked_for_the_same_way_on_every_version(method):
    net, x = mlp(), torch.rand(3, 4)
    bounded = build(net, x)
    spec = torch.tensor([[1.0, -1, 0], [1, 0, -1]]).expand(3, 2, 3)
    lower, upper = bounded.compute_bounds(
        x=(boxed(x, 0.2),), C=spec, method=method, bound_upper=False
    )
    assert lower.shape == (3, 2)
    assert (upper is None) == (method != "IBP")


@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN"])
def test_the_linear_form_bounds_the_margins(method):
    net, x, radius = mlp(), torch.rand(3, 4), 0.2
    bounded = build(net, x)
    spec = torch.tensor([[1.0, -1, 0], [1, 0, -1]]).expand(3, 2, 3)
    out, inp = bounded.output_name[0], bounded.input_name[0]
    lower, _, forms = bounded.compute_bounds(
        x=(boxed(x, radius),), C=spec, method=method, bound_upper=False,
        return_A=True, needed_A_dict={out: [inp]},
    )  # fmt: skip
    slope, offset = forms[out][inp]["lA"], forms[out][inp]["lbias"]
    assert slope.shape == (3, 2, 4) and offset.shape == (3, 2)
    worst = torch.einsum("bsi,bi->bs", slope, x) - radius * slope.abs().sum(-1) + offset
    assert torch.allclose(worst, lower, atol=1e-5)


def test_first_call_equals_later_calls_bit_for_bit():
    """A profiling executor would compute the first call differently from the later ones."""
    done = python(
        """
        import torch
        from torch import nn
        from citrus_lirpa.bounds import lirpa as ours
        torch.set_num_threads(1)
        torch.manual_seed(0)
        lirpa = ours.load()
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(200, 20), nn.ReLU(), nn.Linear(20, 3)).eval()
        x = torch.rand(4, 1, 14, 14)
        with ours.parsing():
            bounded = lirpa.BoundedModule(net, x[:1], bound_opts=ours.bound_options())
        box = lirpa.BoundedTensor(x, lirpa.PerturbationLpNorm(x_L=x - 0.1, x_U=x + 0.1))
        gradients = []
        for _ in range(4):
            net.zero_grad(set_to_none=True)
            bounds = bounded.compute_bounds(x=(box,), method="CROWN-IBP", bound_upper=False)
            bounds[0].sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
        print([torch.equal(gradient, gradients[0]) for gradient in gradients])
        """
    )
    assert done.stdout == "[True, True, True, True]\n", done.stderr


def test_building_changes_nothing_of_the_users_module():
    net, x = cnn(), torch.rand(2, 1, 5, 5)
    before = copy.deepcopy(net.state_dict())
    build(net, x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_auto_lirpa_is_repaired_whoever_imports_it_and_only_then_is_torch_imported():
    done = python(
        """
        import sys
        import citrus_lirpa
        assert not {"torch", "numpy"} & set(sys.modules)
        import auto_LiRPA
        from auto_LiRPA import bound_general
        assert auto_LiRPA.bound_general is bound_general  # the module that was repaired
        assert auto_LiRPA.__spec__.loader is auto_LiRPA.__loader__
        import torch
        assert "__getitem__" in vars(torch._C.Node)
        from citrus_lirpa.bounds import lirpa
        assert lirpa.load().BoundedModule is auto_LiRPA.BoundedModule
        assert set(citrus_lirpa.__all__) < set(dir(citrus_lirpa))
        """,
        flags=("-W", "error"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_recursion_ends_before_the_stack_does():
    """auto_LiRPA allows a million levels; a nested file would then end the process."""
    ours.load()
    assert 1000 <= sys.getrecursionlimit() <= 10_000


class Cusp(nn.Module):
    """Overflows in float32 beyond 88."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(1, 1)
        nn.init.ones_(self.last.weight)

    def forward(self, x):
        return self.last(x.abs().exp())


@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN"])
def test_a_box_that_overflows_leaves_the_bounds_of_the_others_alone(method):
    if not ours.load().legacy:
        pytest.skip("0.7 refuses such a batch: AssertionError")
    x, radius = torch.zeros(2, 1), torch.tensor([[0.5], [100.0]])
    bounded = build(Cusp(), x)
    alone = bounded.compute_bounds(x=(boxed(x[:1], radius[:1]),), method=method)
    beside = bounded.compute_bounds(x=(boxed(x, radius),), method=method)
    for one, both in zip(alone, beside, strict=True):
        assert torch.equal(one, both[:1])
    assert beside[1][1] == torch.inf and not beside[0].isnan().any()


class Shares(nn.Module):
    """Softmax of reciprocals, whose α-CROWN has no gradient where a box has no width."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[1.0, -0.5, 0.2], [-0.3, 0.4, -1.0]]))

    def forward(self, x):
        return self.last((1 / (x.abs() + 0.5)).softmax(1))


def test_a_box_without_width_leaves_the_bounds_of_the_others_alone():
    if ours.load().legacy:
        pytest.skip("0.3 has no reciprocals that count")
    x, radius = torch.tensor([[-0.1, -0.2, 0.6], [1.0, -0.4, 2.0]]), torch.tensor([[0.8], [0.0]])
    bounded = build(Shares(), x)
    lower, upper = bounded.compute_bounds(x=(boxed(x, radius),), method="CROWN-Optimized")
    noise = radius[0] * (2 * torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) - 1)
    values = bounded(x[:1] + noise)
    assert bool((values >= lower[0] - 1e-5).all() and (values <= upper[0] + 1e-5).all())
