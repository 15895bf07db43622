"""benchmarks/method_time.py: the steps that it times are those of ``train``."""

from citrus_lirpa.training import setup


def test_steps_keep_freed_memory_as_train_does(script, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(setup, "keep_freed_memory", lambda: kept.append(True))
    step = script("method_time").step_of("digits", (), tmp_path, 8, "ibp")
    step()
    assert kept
