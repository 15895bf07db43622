"""The form that products take: full precision and TF32, by both names that torch has for them."""

import contextlib

import pytest
import torch

from citrus_lirpa.bounds.precision import float32_products

CUDA, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn


def state() -> list:
    """Every setting of TF32, by old and new names; what torch refuses to say is None."""
    readers = [torch.get_float32_matmul_precision, lambda: CUDA.allow_tf32]
    readers.append(lambda: CUDNN.allow_tf32)
    if hasattr(CUDA, "fp32_precision"):  # torch >= 2.9
        parts = CUDA, CUDNN.conv, CUDNN.rnn, torch.backends.mkldnn.matmul
        readers += [lambda part=part: part.fp32_precision for part in parts]
    found = []
    for read in readers:
        found.append(None)
        with contextlib.suppress(RuntimeError):  # the names disagree
            found[-1] = read()
    return found


@pytest.fixture(params=["as torch begins", "allowed", "medium", "by the new name alone"])
def before(request):
    """Settings that a user may have made."""
    newer = hasattr(CUDA, "fp32_precision")
    begin = torch.get_float32_matmul_precision(), CUDNN.allow_tf32
    matmul = CUDA.fp32_precision if newer else None
    if request.param == "allowed":
        CUDA.allow_tf32 = True
    elif request.param == "medium":
        torch.set_float32_matmul_precision("medium")
    elif request.param == "by the new name alone":
        if not newer:
            pytest.skip("torch < 2.9 has it not")
        CUDA.fp32_precision = "tf32"
    yield state()
    torch.set_float32_matmul_precision(begin[0])
    CUDNN.allow_tf32 = begin[1]
    if newer:
        CUDA.fp32_precision = matmul


@pytest.mark.parametrize("tf32", [False, True])
def test_both_names_agree_inside_and_all_is_as_before_after(before, tf32):
    with contextlib.suppress(ZeroDivisionError), float32_products(tf32=tf32):
        if None not in before:  # else they disagreed before, which is the user's
            assert CUDA.allow_tf32 is tf32 and CUDNN.allow_tf32 is tf32
            assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
        with CUDNN.flags(allow_tf32=tf32):  # it reads what it is to restore
            pass
        raise ZeroDivisionError
    assert state() == before
