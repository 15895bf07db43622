#!/usr/bin/env bash
# A journal file of Optuna whose last line is half written is lost with the next records.
#
# A worker that is killed while it writes, or a full disk, leaves half a line. Readers skip it. The next
# record is appended to it, without a line break between the two, so that this record is lost for all
# readers (its writer fails), and once another one follows nobody can load the study any more.
#
# Seen with optuna 5.0.0 on Linux x86-64, Python 3.11:
#   half a line at the end: 1 trial is loaded
#   the next worker asks: AttributeError
#   another worker asks: JSONDecodeError
#   loading the study: JSONDecodeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet optuna==5.0.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import json
import sys

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

optuna.logging.set_verbosity(optuna.logging.ERROR)


def loaded():
    storage = JournalStorage(JournalFileBackend("journal"))
    return optuna.load_study(study_name="study", storage=storage)


def tried(what, call):
    try:
        found = call()
    except Exception as error:
        found = type(error).__name__
    print(f"{what}: {found}")
    return found


storage = JournalStorage(JournalFileBackend("journal"))
optuna.create_study(study_name="study", storage=storage).ask()
workers = loaded(), loaded()
with open("journal", "ab") as file:
    file.write(b'{"op_code": 4, "worker_id"')
tried("half a line at the end", lambda: f"{len(loaded().trials)} trial is loaded")
tried("the next worker asks", lambda: workers[0].ask().number)
tried("another worker asks", lambda: workers[1].ask().number)
sys.exit(tried("loading the study", loaded) != json.JSONDecodeError.__name__)
PY
