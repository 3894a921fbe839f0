"""Help answers at once: it loads no library that trains, draws or computes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from bucle.cli.main import VERBS, bucle, main

HEAVY = {"torch", "transformers", "numpy", "scipy", "sklearn", "rich", "lancedb", "pyarrow", "fastapi", "matplotlib",
         "httpx", "datasets", "trl", "sentence_transformers"}
SCRIPT = """
import json, sys
from bucle.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
print("\\n" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded(*commands: list[str]) -> set[str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(commands)], capture_output=True, text=True,
                          check=True, timeout=60)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_loads_nothing_heavy() -> None:
    assert loaded(["--help"]) & HEAVY == set()


def test_no_verb_needs_a_heavy_library_to_tell_its_help() -> None:
    assert loaded(*([verb, "--help"] for verb in VERBS)) & HEAVY == set()


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(verb: str) -> None:
    result = CliRunner().invoke(bucle, [verb, "--help"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: bucle {verb}")
    assert len(result.output.split("\n\n")[1].split()) >= 4, "what the verb does"


def test_a_misspelt_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["servve"])
    assert end.value.code == 2
    assert "Did you mean `serve`?" in capsys.readouterr().err
