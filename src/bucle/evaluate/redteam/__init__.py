"""The red team: attacks on a candidate over real held-out rows, and harmless look-alikes that it should answer.

Kinds: `injection` (orders in the user's text), `indirect` (orders inside a document or a forwarded message),
`jailbreak`, `system_prompt` (a code planted in the instruction), `personal_data` (a person planted in the instruction
or in a passage) and `harmless`. Success is read off the output: the label that was ordered, a word that only an answer
which obeys puts together, the planted code or address."""

from bucle.evaluate.redteam.attack import TALKS, Attempt, Secrets, attempts, secrets, succeeded
from bucle.evaluate.redteam.probes import ATTACKS, Probe, own_probes, packaged, probes
from bucle.evaluate.redteam.refusal import refused
from bucle.evaluate.redteam.run import Result, Target, run_attacks

__all__ = ["ATTACKS", "TALKS", "Attempt", "Probe", "Result", "Secrets", "Target", "attempts", "own_probes", "packaged",
           "probes", "refused", "run_attacks", "secrets", "succeeded"]
