"""Templates that want the machine's time or memory are refused quickly, each with a reason."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest

from bucle.customise.prompt.sandbox import Fault, compiled, rendered, uses

LONG = "é" * 1_500_000
VALUES: dict[str, Any] = {"input": LONG, "n": 3, "xs": ("a", "b"), "nada": None,
                          "passages": ({"text": "T", "number": 1},)}
KNOWN = frozenset(VALUES)

BOMBS = {
    "power": "{{ 9 ** 9 ** 9 }}",
    "repeat": "{{ 'a' * 10 ** 9 }}",
    "repeat a list": "{{ [1] * 10 ** 9 }}",
    "format": "{{ '%1000000000s' % n }}",
    "center, folded": "{{ 'a' | center(1000000000) }}",
    "center": "{{ 'a' | center(10 ** 9) }}",
    "indent": "{{ (input | replace('é', '\\n')) | indent(1000) }}",
    "join": "{{ range(50000) | join('a' * 1000) }}",
    "replace": "{{ input | replace('', 'aaaaaaaa') }}",
    "replace method": "{{ input.replace('', 'aaaaaaaa') }}",
    "range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "loops": "{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}",
    "deep loops": "{% for a in range(99) %}" * 19 + "{% endfor %}" * 19,
    "output": "{% for i in range(1000) %}{{ input }}{% endfor %}",
    "doubling": "{% set x = 'ab' %}" + "{% set x = x ~ x %}" * 60 + "{{ x }}",
    "doubling sums": "{% set x = 'ab' %}" + "{% set x = x + x %}" * 60 + "{{ x }}",
    "lists of lists": "{% set x = [n] %}" + "{% set x = [x, x] %}" * 60 + "{{ x }}",
    "many slices": "".join(f"{{% set a{i} = input[{i}:] %}}" for i in range(1, 600)),
    "many titles": "{{ input | title | length }}" * 100,
    "digits": "{{ " + "9" * 5000 + " }}",
    "brackets": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "dots": "{{ n" + ".a" * 50_000 + " }}",
    "ifs": "{% if n %}" * 100 + "{% endif %}" * 100,
    "fors": "{% for a in xs %}" * 25 + "{% endfor %}" * 25,
    "parts": "{{ n }}" * 20_000,
    "source": "a" * 200_001,
    "recursive": "{% for x in xs recursive %}{{ loop(xs) }}{% endfor %}",
    "macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once_and_takes_no_memory(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.thread_time()
    with pytest.raises(Fault) as fault:
        rendered(compiled(BOMBS[name], KNOWN), VALUES)
    assert time.thread_time() - began < 4  # processor's seconds; the limit is 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    assert fault.value.message
    assert fault.value.hint


def test_what_takes_too_long_is_stopped_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucle.customise.prompt.sandbox_values.MAX_SECONDS", 0.1)
    source = ("{% set b = input[1:700000] ~ 'x' %}{% for i in range(100000) %}{% if b in input %}{% endif %}"
              "{% endfor %}")
    began = time.thread_time()
    with pytest.raises(Fault, match="seconds"):
        rendered(compiled(source, KNOWN), VALUES)
    assert time.thread_time() - began < 2


@pytest.mark.parametrize("source", [
    "{{ input.__class__ }}", "{{ input['__class__'] }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ xs.append(1) }}", "{{ input.encode() }}", "{{ '{0.__class__}'.format(n) }}", "{{ input.format_map(xs) }}",
    "{{ self._TemplateReference__context }}", "{{ cycler.__init__.__globals__ }}", "{{ lipsum }}", "{{ namespace() }}",
    "{{ input | attr('__class__') }}", "{{ xs | map('upper') | first }}", "{{ input.strip }}", "{{ passages }}",
    "{{ range.__self__ }}", "{{ (n).bit_length() }}", "{% import 'os' as os %}", "{% extends 'x' %}", "{{ loop }}",
    "{% for x in xs %}{{ loop._iterator }}{% endfor %}", "{% for x in xs %}{{ loop }}{% endfor %}",
    "{% for c in input %}{% endfor %}", "{{ xs }}", "{{ nada }}", "{{ xs[9] }}", "{{ n / 0 }}", "{{ n + input }}",
])
def test_nothing_is_reached_that_is_no_value(source: str) -> None:
    with pytest.raises(Fault) as fault:
        rendered(compiled(source, KNOWN), VALUES)
    assert "0x" not in fault.value.message  # no address of an object


@pytest.mark.parametrize(("source", "said"), [
    ("{{ xs | join(', ') }}", "a, b"), ("{{ xs | length }}", "2"),
    ("{% for x in xs %}{{ loop.index }}/{{ loop.length }} {{ x }}{% if not loop.last %}, {% endif %}{% endfor %}",
     "1/2 a, 2/2 b"),
    ("{{ passages | map(attribute='text') | join }}", "T"), ("{{ {'es': 'Hola'}['es'] }}", "Hola"),
    ("{{ 'a' if 'a' in xs else 'c' }}", "a"), ("{{ ' x '.strip() | upper }}", "X"), ("{{ input | length }}", "1500000"),
    ("{{ input[:2] }}", "éé"), ("{{ {'é': '<ñ>'} | tojson }}", '{"é": "<ñ>"}'), ("{{ [3, 1, 2] | sort | first }}", "1"),
    ("{% set total = n * 2 %}{{ total // 4 }} {{ 2 ** 10 }} {{ 7 % 4 }}", "1 1024 3"),
    ("{{ nada | default('-', true) }}", "-"),
    ("{% raw %}{{ x }}{% endraw %}", "{{ x }}"), ("{# nota #}x", "x"), ("{% with a = 1 %}{{ a }}{% endwith %}", "1"),
    ("{% for x in xs if x != 'a' %}{{ x }}{% else %}nada{% endfor %}", "b"), ("{{ '1.5' | float + 1 }}", "2.5"),
    ("a\n{% if n > 2 %}\nb\n{% endif %}\nc\n", "a\nb\nc"), ("{{ 'hola que tal' | truncate(7, leeway=0) }}", "hola..."),
    ("{% for x in xs %}{{ loop.cycle('1', '2') }}{% endfor %}", "12"), ("{{ 'abc' | replace('b', '-') }}", "a-c"),
])
def test_what_a_prompt_needs_can_be_written(source: str, said: str) -> None:
    assert rendered(compiled(source, KNOWN), VALUES) == said


@pytest.mark.parametrize("source", [
    "{{ n | reverse }}", "{{ n | round(2, 'x') }}", "{{ 'abc' | truncate(2.5) }}", "{{ {[]: 1} }}", "{{ none['a'] }}",
    "{{ [] | unique(3) }}", "{{ 'a'.split(1, 2, 3) }}", "{{ 'a' | nada }}", "{{ n is nada }}", "{{ [1, 'a'] | sort }}",
    "{{ 'a' in n }}", "{{ xs[[]] }}", "{{ (-8) ** 0.5 }}", "{{ 2.0 ** 5000 }}",
])
def test_whatever_goes_wrong_inside_is_a_fault_with_its_line(source: str) -> None:
    with pytest.raises(Fault) as fault:
        rendered(compiled(f"a\n{source}", KNOWN), VALUES)
    assert fault.value.line == 2
    assert fault.value.hint


def test_an_error_while_rendering_names_its_line() -> None:
    with pytest.raises(Fault) as fault:
        rendered(compiled("a\n{% for x in xs %}\n{{ x }}\n{{ n / 0 }}\n{% endfor %}", KNOWN), VALUES)
    assert fault.value.line == 4


def test_names_are_read_of_what_was_checked() -> None:
    assert uses("{% for x in xs %}{{ x ~ n }}{% endfor %}") == {"xs", "n"}
    with pytest.raises(Fault, match="no filter `upperr`") as fault:
        uses("{{ input | upperr }}")
    assert "`upper`" in fault.value.hint
