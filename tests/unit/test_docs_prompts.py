"""docs/prompts.md cannot drift: its files are loaded, its keys are all there are, and so its filters and limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from bucle.cli.prompt import VERBS
from bucle.core.config import Project
from bucle.core.prompting import DROPPED, PromptInput, PromptSpec, Shots, Tone, Voice
from bucle.customise.prompt import sandbox_values
from bucle.customise.prompt.sandbox import compiled, rendered
from bucle.customise.prompt.sandbox_filters import FILTERS_HERE
from bucle.customise.prompt.template import load_prompt_file, render

TEXT = (Path(__file__).parents[2] / "docs" / "prompts.md").read_text("utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
PROSE = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)


def test_the_example_is_a_prompt_that_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "atencion.yaml"
    path.write_text(EXAMPLES[0], "utf-8")
    spec = load_prompt_file(path)
    system, user = render(spec, {"input": "¿Cuándo vence?", "tono": "cercano"})
    assert "Tutea al cliente." in system["content"]
    assert "¡Recibido!" in system["content"]
    assert user["content"] == "¿Cuándo vence?"


def test_the_task_is_one_of_bucle_yaml() -> None:
    project = Project.model_validate({"project": "p", **yaml.safe_load(EXAMPLES[1])})
    assert project.tasks["intenciones"].prompt == "atencion@production"


@pytest.mark.parametrize("model", [PromptSpec, PromptInput, Voice, Tone, Shots])
def test_every_key_is_explained(model: type[PromptSpec]) -> None:
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", PROSE))))
    assert set(model.model_fields) - told == set()


def test_the_table_names_the_keys_in_their_order() -> None:
    first = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert first == [*(k for k in PromptSpec.model_fields), *PromptInput.model_fields]
    assert f"`[{', '.join(DROPPED)}]`" in TEXT


def test_the_filters_are_those_that_there_are() -> None:
    listed = re.search(r"the filters `([^`]+)`", TEXT)
    assert listed is not None
    assert set(listed[1].split()) == set(FILTERS_HERE)


def test_the_limits_are_those_that_hold() -> None:
    assert f"{sandbox_values.MAX_TEXT:,} characters" in TEXT
    assert f"{sandbox_values.MAX_LOOPS:,} turns" in TEXT
    assert sandbox_values.MAX_SECONDS == 3
    assert "three seconds" in TEXT
    assert rendered(compiled('{% raw %}{"a": 1}{% endraw %}', frozenset()), {}) == '{"a": 1}'


def test_the_commands_are_verbs_that_there_are() -> None:
    used = set(re.findall(r"bucle prompt (\w+)", TEXT))
    assert used <= set(VERBS)
    assert set(VERBS) - used <= {"list", "improve"}
