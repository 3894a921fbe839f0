"""Every API that clients may speak, as pure functions between its words and ChatAsk, ChatAnswer and Delta.

    dialect = DIALECTS[0]
    ask = dialect.parse(body, limits)                  # ApiError names the field
    dialect.whole(Head(id, created, model), ask, answer, {"trace": …})
    events = dialect.events(head, ask); events.begin() + events.delta(piece) + … + events.end(answer, extra)

The text of a reply is `answer.choices[i].text`. A task's engine puts there what its users read (`replies.content_of`:
the answer with its numbered citations), and its Prediction, whose score, abstained, chunks, citations and quotes stand
in the reply under `bucle`. Nothing is stored: what needs state is refused by name.
"""

from bucle.serve.dialects.base import Dialect, Events, Head, clean, encode, event
from bucle.serve.dialects.chat import ChatCompletions
from bucle.serve.dialects.completions import Completions
from bucle.serve.dialects.messages import Messages
from bucle.serve.dialects.others import (
    embeddings_reply,
    moderations_reply,
    parse_embeddings,
    parse_feedback,
    parse_moderations,
)
from bucle.serve.dialects.responses import Responses

__all__ = ["DIALECTS", "ChatCompletions", "Completions", "Dialect", "Events", "Head", "Messages", "Responses", "clean",
           "embeddings_reply", "encode", "event", "moderations_reply", "parse_embeddings", "parse_feedback",
           "parse_moderations"]

DIALECTS: tuple[Dialect, ...] = (ChatCompletions(), Completions(), Responses(), Messages())
