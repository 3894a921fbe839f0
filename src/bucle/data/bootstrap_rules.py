"""Questions from sentences by pattern, in Spanish and English: what `bootstrap` drafts with where there is no model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from bucle.core.records import Document
from bucle.data.bootstrap import Draft, Language
from bucle.data.sentences import sentence_spans
from bucle.data.similar import normal_form

__all__ = ["absent_questions", "sentence_drafts"]

MIN_WORDS, MAX_WORDS = 4, 45
"""Words of a sentence that a question is made of."""

# A subject stands at the start of its sentence, is short, and can be understood alone.
_ES_SUBJECT = (
    r"(?P<s>(?:(?:El|La|Los|Las)\s+[^\W\d_][^,;:()¿?«»\"|]{2,60}?|[A-ZÁÉÍÓÚÑ][\w.-]+(?:\s+(?:del?|la|los|y|"
    r"[A-ZÁÉÍÓÚÑ\d][\w.-]*)){0,5}))"
)
_EN_SUBJECT = r"(?P<s>(?:The\s+[^\W\d_][^,;:()?\"|]{2,60}?|[A-Z][\w.-]+(?:\s+(?:of|the|and|[A-Z\d][\w.'-]*)){0,5}))"
_NAME = r"[A-ZÁÉÍÓÚÑ][\w.'-]*\w(?:\s(?:de|del|la|von|van|[A-ZÁÉÍÓÚÑ][\w.'-]*\w)){0,4}"
_NUMBER_ES = r"(?:\d[\d.]*|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez|once|doce)"
_NUMBER_EN = r"(?:\d[\d,]*|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
_DO = {"has": "does", "have": "do", "had": "did"}
_PEOPLE_ES = (
    r"(?:client|titular|agent|usuari|trabajador|emplead|técnic|inquilin|propietari|abonad|alumn|paciente|empresa|"
    r"administrador|proveedor|responsable|solicitante|interesad|consumidor|persona|docente|profesor|conductor|ciudadan|"
    r"socio|médic|compañía|instalador|vecin|comprador|vendedor|arrendatari|arrendador|padre|famili|estudiante|"
    r"Parlamento)"
)
_PEOPLE_EN = (
    r"(?:customer|client|holder|agent|user|worker|employee|technician|tenant|owner|landlord|subscriber|student|patient|"
    r"company|administrator|supplier|manager|applicant|consumer|person|people|teacher|driver|citizen|member|doctor|"
    r"buyer|seller|parent|famil|caller|caretaker|installer|officer|Parliament|Commission|Council|government|board)"
)
_AMOUNT = (
    r"(?:(?:unos|unas|about|up to|hasta|entre|between|de|from)\s+)?[€$£]?\d[\d.,:]*(?:\s?(?:y|a|and|to|-|o|or)"
    r"\s?[€$£]?\d[\d.,:]*)?"
)
_UNIT_ES = (
    r"(?:\s?(?:%|€|euros?|EUR|USD|céntimos|[KMGT]B|kg|días?|horas?|minutos?|segundos?|semanas?|meses|mes|"
    r"años?|kWh?|metros|km|megas|gigas))"
)
_UNIT_EN = (
    r"(?:\s?(?:%|€|euros?|EUR|USD|GBP|cents|dollars|pounds|[KMGT]B|kg|(?:working |business )?(?:days?|hours?)|"
    r"minutes?|seconds?|weeks?|months?|years?|kWh?|metres|meters|miles))"
)
_MONEY_ES = _AMOUNT + r"\s?(?:€|euros?|céntimos|%|EUR|USD|dólares)(?:\s(?:al|por|a la)\s\w+)?"
_MONEY_EN = (
    r"(?:[€$£]\d[\d.,]*|"
    + _AMOUNT
    + r"\s?(?:€|euros?|cents|dollars|pounds|%|EUR|USD|GBP))(?:\s(?:a|per)\s\w+)?"
)
_SPAN_ES = (
    rf"(?:{_AMOUNT}|{_NUMBER_ES}|un)"
    + r"(?:\s(?:días?|horas?|minutos?|segundos?|semanas?|meses|mes|años?)(?:\s(?:hábiles|laborables|naturales))?)"
)
_SPAN_EN = (
    rf"(?:{_AMOUNT}|{_NUMBER_EN}|one|an?)"
    + r"\s(?:(?:working|business|calendar)\s)?(?:days?|hours?|minutes?|seconds?|weeks?|months?|years?)"
)
_EN_THING = r"(?P<t>[A-Z][a-z]+(?:\s[a-z]+){0,3}?)"
"""A subject without an article: `Refunds`, `Return shipping`."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NOT_A_SUBJECT = _words("""
    no si en por para con sin se su sus este esta esto estos estas ese esa eso esos esas ello ella ellas ellos
    él aquí allí ya también además pero y o hay es son como cuando donde que quien cual lo le les me te nos
    muchos muchas algunos algunas otro otra otros otras todo todos toda todas mientras aunque según desde
    hasta entre tras durante sobre después antes uno una un cada así luego entonces ambos ambas nada nadie
    algo mi tu nuestra nuestro sólo solo más menos qué cómo it this that these those they he she we you i
    there here its their his her our my your in on at by for with from to as if when while although after
    before since because however and or but so not no some many most all each both one such another other
    others north south east west what which who where why how during under over between then also only even
    today an a according despite unlike like among upon within following
""")
_DANGLING = re.compile(
    r"\b(?:est[eao]s?|es[eao]s?|aquell?[oa]s?|dich[oa]s?|ello|mism[oa]s?|otr[oa]s?|anterior(?:es)?|siguientes?|"
    r"primer[oa]?|"
    r"segund[oa]|tercer[oa]?|últim[oa]s?|cual(?:es)?|que|quien(?:es)?|cuando|donde|no|se|this|that|these|those|such|"
    r"latter|"
    r"former|it|its|they|their|his|her|he|she|which|who|whose|when|where|other|first|second|third|last|following|"
    r"previous|"
    r"also|not|only|result|reason|problem|same|both)\b",
    re.IGNORECASE,
)
_LETTERS = frozenset({"message/rfc822", "application/mbox", "text/x-whatsapp", "application/x-slack"})
_Maker = Callable[[re.Match[str]], tuple[str, str]]


def _lower(text: str) -> str:
    """A subject inside a question: its article in lower case, a name as it is."""
    return re.sub(r"^(El|La|Los|Las|The)\b", lambda m: m[0].lower(), text)


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _whole(question: str) -> _Maker:
    """A question whose answer is the whole sentence."""
    return lambda m: (question.format(**_parts(m)), m.string)


def _part(question: str) -> _Maker:
    """A question whose answer is the group `a`."""
    return lambda m: (question.format(**_parts(m)), m["a"])


def _parts(m: re.Match[str]) -> dict[str, str]:
    return {k: (_lower(v) if k == "s" else v) for k, v in m.groupdict().items() if v}


def _who(m: re.Match[str], person: str, thing: str) -> str:
    """Somebody of the past with a name of two words, or something."""
    names = m["s"].split()
    someone = m["v"] in ("was", "fue", "era") and len(names) > 1 and all(n[0].isupper() and n.isalpha() for n in names)
    return person if someone and names[0] not in ("The", "El", "La", "Los", "Las") else thing


_COPULA_ES = r"\s+(?P<v>es|son|era|eran|fue|fueron)\s+"
_COPULA_EN = r"\s+(?P<v>is|are|was|were)\s+"
_PATTERNS: dict[str, list[tuple[str, re.Pattern[str], _Maker]]] = {
    "es": [
        (kind, re.compile(pattern), make)
        for kind, pattern, make in (
            ("price", rf"^{_ES_SUBJECT}\s+(?P<v>cuestan?|valen?)\s+(?P<a>{_MONEY_ES})", _part("¿Cuánto {v} {s}?")),
            ("duration", rf"^{_ES_SUBJECT}\s+(?P<v>duran?|tardan?)\s+(?P<a>{_SPAN_ES})", _part("¿Cuánto {v} {s}?")),
            (
                "amount",
                rf"^{_ES_SUBJECT}{_COPULA_ES}(?:de\s+)?(?P<a>{_AMOUNT}{_UNIT_ES}(?:\s(?:hábiles|laborables|naturales))?)",
                _part("¿De cuánto {v} {s}?"),
            ),
            (
                "when",
                rf"^{_ES_SUBJECT}\s+(?P<v>se\s\w+[ae]n?)\s+(?P<a>(?:el día|los días|cada|antes del?|el primer|el "
                rf"último)\s[^.;,]+?)(?=\sy\s|[.;,]|$)",
                _part("¿Cuándo {v} {s}?"),
            ),
            (
                "term",
                rf"^{_ES_SUBJECT}\s+(?P<v>se\s\w+[ae]n?)\s+(?:en|dentro de|en un plazo de)\s+(?P<a>{_SPAN_ES})",
                _part("¿En cuánto tiempo {v} {s}?"),
            ),
            (
                "year",
                rf"^{_ES_SUBJECT}\s+(?P<v>fue|fueron)\s+(?P<p>\w+[aio]d[oa]s?)\s+(?:\w+\s+)"
                rf"{{0,6}}?(?P<a>en\s\d{{4}})\b",
                _part("¿Cuándo {v} {p} {s}?"),
            ),
            (
                "who",
                rf"^{_ES_SUBJECT}\s+(?P<v>fue|fueron)\s+(?P<p>\w+[aio]d[oa]s?)\s+por\s+(?P<a>{_NAME})",
                _part("¿Por quién {v} {p} {s}?"),
            ),
            (
                "where",
                rf"^{_ES_SUBJECT}\s+(?:(?P<v>está|están)\s+(?:situ|ubic)ad[oa]s?|(?P<w>se encuentran?))"
                rf"\s+(?P<a>(?:en|entre|cerca de)\s[^.;,()]{{3,60}})",
                lambda m: (f"¿Dónde {m['v'] or m['w']} {_lower(m['s'])}?", m["a"]),
            ),
            (
                "measure",
                rf"^{_ES_SUBJECT}\s+(?P<v>tiene|tienen)\s+una?\s+(?P<u>[^\W\d_][^,;:()¿?]{{2,40}}?)"
                rf"\s+de\s+(?P<a>{_AMOUNT}{_UNIT_ES})",
                lambda m: (f"¿Qué {m['u']} {m['v']} {_lower(m['s'])}?", m["a"]),
            ),
            (
                "count",
                rf"^{_ES_SUBJECT}\s+(?P<v>tiene|tienen|tenía|tenían)"
                rf"\s+(?P<a>{_NUMBER_ES}\s(?P<u>[^\W\d_]{{2,}}[oa]s))\b",
                lambda m: (f"¿Cuánt{m['u'][-2:]} {m['u']} {m['v']} {_lower(m['s'])}?", m["a"]),
            ),
            ("condition", r"^Si\s+(?P<c>[^,.;:()¿?]{8,90}),\s+(?P<a>[^?]{12,})$", _part("¿Qué ocurre si {c}?")),
            ("condition", r"^Cuando\s+(?P<c>[^,.;:()¿?]{8,90}),\s+(?P<a>[^?]{12,})$", _part("¿Qué ocurre cuando {c}?")),
            (
                "purpose",
                r"^Para\s+(?P<c>\w+[aei]r(?:se|l[oa]s?)?\s[^,.;:()¿?]{4,80}),\s+(?P<a>[^?]{10,})$",
                _part("¿Qué hay que hacer para {c}?"),
            ),
            ("number", rf"^{_ES_SUBJECT}\s+es\s+(?P<a>(?:el\s)?\+?\d[\d ]{{4,}}\d)\b", _part("¿Cuál es {s}?")),
            (
                "definition",
                rf"^{_ES_SUBJECT}\s+(?P<v>es|son|fue|era)\s+(?P<d>una?|unos|unas|el|la|los|las)\s+(?!que\b|de\b|"
                rf"del\b|más\b|mism|\d)"
                r"[^?]{10,}$",
                lambda m: (f"¿{_who(m, 'Quién', 'Qué')} {m['v']} {_lower(m['s'])}?", m.string),
            ),
            (
                "duty",
                rf"^(?=(?:El|La|Los|Las)\s{_PEOPLE_ES}){_ES_SUBJECT}\s+(?P<v>deben?|tienen? que|pueden?)\s+(?!ser\b|"
                rf"estar\b|haber\b|tener\b)\w+[aei]r\s[^?]+$",
                lambda m: (f"¿Qué {m['v']} hacer {_lower(m['s'])}?", m.string),
            ),
        )
    ],
    "en": [
        (kind, re.compile(pattern), make)
        for kind, pattern, make in (
            ("price", rf"^{_EN_SUBJECT}\s+(?:costs)\s+(?P<a>{_MONEY_EN})", _part("How much does {s} cost?")),
            ("price", rf"^{_EN_SUBJECT}\s+(?:cost)\s+(?P<a>{_MONEY_EN})", _part("How much do {s} cost?")),
            (
                "duration",
                rf"^{_EN_SUBJECT}\s+(?:(?P<v>last|take)s)\s+(?P<a>{_SPAN_EN})",
                _part("How long does {s} {v}?"),
            ),
            (
                "price",
                rf"^{_EN_THING}\s+costs\s+(?P<a>{_MONEY_EN})",
                lambda m: (f"How much does {_first_lower(m['t'])} cost?", m["a"]),
            ),
            (
                "duration",
                rf"^{_EN_THING}\s+(?P<v>last|take)\s+(?P<a>{_SPAN_EN})",
                lambda m: (f"How long do {_first_lower(m['t'])} {m['v']}?", m["a"]),
            ),
            (
                "duration",
                rf"^{_EN_THING}\s+(?P<v>last|take)s\s+(?P<a>{_SPAN_EN})",
                lambda m: (f"How long does {_first_lower(m['t'])} {m['v']}?", m["a"]),
            ),
            ("duration", rf"^{_EN_SUBJECT}\s+(?P<v>last|take)\s+(?P<a>{_SPAN_EN})", _part("How long do {s} {v}?")),
            (
                "amount",
                rf"^{_EN_SUBJECT}{_COPULA_EN}(?P<a>{_AMOUNT}{_UNIT_EN}|[€$£]\d[\d.,]*)(?=[\s.,;]|$)",
                _part("How much {v} {s}?"),
            ),
            (
                "year",
                rf"^{_EN_SUBJECT}\s+(?P<v>was|were)\s+(?P<p>\w+(?:ed|own|ilt|ade|unded|en))\s+(?:\w+\s+){{0,6}}?"
                r"(?P<a>(?:in|on)\s(?:\w+\s\d{1,2},?\s|\d{1,2}\s\w+\s|\w+\s)?\d{4})\b",
                _part("When {v} {s} {p}?"),
            ),
            (
                "who",
                rf"^{_EN_SUBJECT}\s+(?P<v>was|were)\s+(?P<p>\w+(?:ed|own|ilt|ade|unded|en))\s+by\s+(?P<a>{_NAME})",
                _part("By whom {v} {s} {p}?"),
            ),
            (
                "who",
                rf"^(?P<a>{_NAME})\s+(?P<v>founded|invented|discovered|wrote|designed|created|built)\s+(?P<x>(?:the|"
                rf"a|an)\s[^.;,()]{{6,60}})[.,;]",
                _part("Who {v} {x}?"),
            ),
            (
                "where",
                rf"^{_EN_SUBJECT}\s+(?P<v>is|are|was|were)\s+(?P<p>located|situated|based|held)\s+(?P<a>(?:in|on|at|"
                rf"near|between)\s[^.;,()]{{3,60}})",
                _part("Where {v} {s} {p}?"),
            ),
            (
                "measure",
                rf"^{_EN_SUBJECT}\s+(?P<v>has|have|had)\s+an?\s+(?P<u>[a-z][^,;:()?]{{2,40}}?)"
                rf"\s+of\s+(?P<a>{_AMOUNT}{_UNIT_EN})",
                lambda m: (f"What {m['u']} {_DO[m['v']]} {_lower(m['s'])} have?", m["a"]),
            ),
            (
                "count",
                rf"^{_EN_SUBJECT}\s+(?P<v>has|have|had)\s+(?P<a>{_NUMBER_EN}\s(?P<u>(?:[a-z]+\s)?[a-z]{{2,}}s))\b",
                lambda m: (f"How many {m['u']} {_DO[m['v']]} {_lower(m['s'])} have?", m["a"]),
            ),
            ("condition", r"^If\s+(?P<c>[^,.;:()?]{8,90}),\s+(?P<a>[^?]{12,})$", _part("What happens if {c}?")),
            (
                "condition",
                r"^When\s+(?P<c>(?:a|an|the|you|your)\s[^,.;:()?]{6,90}),\s+(?P<a>[^?]{12,})$",
                _part("What happens when {c}?"),
            ),
            (
                "purpose",
                r"^To\s+(?P<c>[a-z]+\s(?:a|an|the|your|you)\s[^,.;:()?]{3,80}),\s+(?P<a>[^?]{10,})$",
                _part("What do you have to do to {c}?"),
            ),
            (
                "definition",
                rf"^{_EN_SUBJECT}\s+(?P<v>is|are|was|were)\s+(?:an?|the)\s+(?!first\b|most\b|same\b|only\b|one\b|"
                rf"result\b)[^?]{{10,}}$",
                lambda m: (f"{_who(m, 'Who', 'What')} {m['v']} {_lower(m['s'])}?", m.string),
            ),
            (
                "duty",
                rf"^(?=The\s(?:\w+\s){{0,2}}{_PEOPLE_EN}){_EN_SUBJECT}\s+(?P<v>must|should|can|may)\s+"
                r"(?!not\b|be\b|have\b|also\b|then\b|only\b)[a-z]+\s[^?]+$",
                _whole("What {v} {s} do?"),
            ),
        )
    ],
}
_CONTINUES = re.compile(
    r"^(?:como|en|de|del|con|a|al|por|para|y|e|o|u|ni|que|quien|cual|incluso|aunque|salvo|excepto|tanto|sin|sobre|"
    r"such|like|"
    r"including|but|in|on|at|for|with|and|or|as|which|who|even|whether|especially|please)\b",
    re.IGNORECASE,
)
"""What begins so after a comma belongs to the condition still."""
_WHETHER = re.compile(r"\b(?:o no|or not)\b|\w+(?:ían|aban)\b|…|\.\.\.", re.IGNORECASE)
"""A condition that asks whether, tells of the past, or was cut: no question about what happens."""
_TRAILS = _words(
    "y e o de del nunca ahora siempre también ya aún todavía solo sólo and or of never always now also often"
)
_PERSON_ES = re.compile(
    r"\b(?:me|mi|mis|te|tu|tus|nos|nuestr[oa]s?|os|vuestr[oa]s?)\b|\b\w+(?:amos|emos|imos)\b", re.IGNORECASE
)
_PERSON_EN = re.compile(r"\b(?:I|me|my|we|our|us)\b")


def sentence_drafts(document: Document, language: str) -> Iterator[Draft]:
    """A draft of each sentence of a document that a pattern fits, in order; and of each row of its tables."""
    if document.media_type in _LETTERS or document.path.endswith((".eml", ".mbox")):
        return  # what one person wrote to another states no rule
    at = 0
    heading = ""
    for block in document.blocks:
        if block.kind == "heading":
            heading = block.text.strip()
        elif block.kind == "table":
            yield from _table(document, block.text, at, block.place, language)
        else:
            for number, (start, end) in enumerate(sentence_spans(block.text)):
                made = _question(block.text[start:end], language)
                if made is None and number == 0 and heading.endswith("?"):
                    made = (heading, block.text[start:end], "heading")
                if made:
                    question, answer, pattern = made
                    yield Draft(
                        question,
                        answer,
                        document.path,
                        block.place,
                        block.text[start:end],
                        at + start,
                        at + end,
                        language,
                        "rules",
                        pattern,
                    )
        at += len(block.text) + 2  # blocks are joined by an empty line


def _question(sentence: str, language: str) -> tuple[str, str, str] | None:
    words = sentence.split()
    if not MIN_WORDS <= len(words) <= MAX_WORDS or sentence[-1] not in ".!…" or sentence.startswith("|"):
        return None
    for kind, pattern, make in _PATTERNS[language]:
        found = pattern.search(sentence)
        if not found or not _clear(found, language):
            continue
        question, answer = make(found)
        answer = answer.strip()
        if normal_form(answer) and normal_form(answer) not in normal_form(question) and len(question) <= 160:
            return question, answer, kind
    return None


def _clear(found: re.Match[str], language: str) -> bool:
    """Whether what the question takes from the sentence can be understood without it."""
    groups = found.groupdict()
    if subject := groups.get("s"):
        first = subject.split()[0].lower()
        inner = re.sub(r"^(?:El|La|Los|Las|The)\s+", "", subject)
        if first in _NOT_A_SUBJECT or len(subject.split()) > 8 or len(inner) < 4 or _DANGLING.search(inner):
            return False
        verbs = r"\b(?:es|son|está|están|ha|han|hay|fue|was|were|is|are|has|have|had|did|can|will|would)\b"
        return not re.search(verbs, inner) and inner.split()[-1].lower() not in _TRAILS
    if thing := groups.get("t"):
        return thing.split()[0].lower() not in _NOT_A_SUBJECT and not _DANGLING.search(thing)
    condition = groups.get("c") or ""
    if _WHETHER.search(condition):
        return False
    person = _PERSON_ES if language == "es" else _PERSON_EN
    loose = re.search(
        r"\b(?:est[eao]s?|es[eao]s?|ello|así|allí|aquí|this|that|these|those|it|they|so|need|needs|necesit\w+|he|"
        r"she|him|her|do)\b",
        condition,
        re.IGNORECASE,
    )
    if condition and (
        _CONTINUES.search(found["a"]) or re.search(r",\s(?:o|u|or)\s|^[^,;.]+,\s[^,;.]+\s(?:y|and)\s", found["a"])
    ):
        return False
    return not loose and not person.search(condition) and not (condition and len(condition.split()) < 4)


def _table(document: Document, text: str, at: int, place: str, language: str) -> Iterator[Draft]:
    lines = text.split("\n")
    if len(lines) < 3 or not set(lines[1]) <= set("|-: ") or not lines[0].startswith("|"):
        return
    head = _cells(lines[0])
    offset = at + len(lines[0]) + len(lines[1]) + 2
    for line in lines[2:]:
        cells = _cells(line)
        start, offset = offset, offset + len(line) + 1
        if len(cells) != len(head) or len(head) < 2 or not re.search(r"[^\W\d_]{3}", cells[0]):
            continue
        column = next(
            (i for i in range(1, len(cells)) if re.search(r"\d", cells[i]) and re.search(r"[^\W\d_]{3}", head[i])), 0
        )
        if not column or len(cells[0]) > 60 or len(head[column]) > 50 or not _unique(lines[2:], cells[0]):
            continue
        name = head[column][:1].lower() + head[column][1:] if not head[column][:2].isupper() else head[column]
        question = (
            f"En «{cells[0]}», ¿cuál es el valor de «{name}»?"
            if language == "es"
            else f"For “{cells[0]}”, what is the “{name}”?"
        )
        yield Draft(
            question, cells[column], document.path, place, line, start, start + len(line), language, "rules", "table"
        )


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _unique(lines: Sequence[str], name: str) -> bool:
    return sum(_cells(line)[0] == name for line in lines) == 1


_THINGS = {
    "es": (
        "un seguro dental",
        "una tarjeta regalo",
        "una clase de natación",
        "una bicicleta eléctrica",
        "un visado de turista",
        "la vacuna del perro",
        "un vuelo a Tokio",
        "el carné de biblioteca",
        "una boda en la playa",
        "un curso de alemán",
        "un lavado de coche",
        "una montura graduada",
        "un asiento de avión",
        "una entrada de museo",
        "una clase de guitarra",
        "una pista de tenis",
        "un sofá a medida",
        "un bono de gimnasio",
    ),
    "en": (
        "a dental check-up",
        "a gift card",
        "a swimming lesson",
        "an electric bicycle",
        "a tourist visa",
        "a dog vaccination",
        "a flight to Tokyo",
        "a library card",
        "a beach wedding",
        "a German course",
        "a car wash",
        "a pair of glasses",
        "a train ticket",
        "a museum ticket",
        "a guitar lesson",
        "a tennis court",
        "a tailored sofa",
        "a gym membership",
    ),
}
_ASK = {
    "es": ("¿Cuánto cuesta {}?", "¿Dónde puedo reservar {}?"),
    "en": ("How much does {} cost?", "Where can I book {}?"),
}


def absent_questions(documents: Sequence[Document], n: int, language: Language) -> list[Draft]:
    """Up to `n` questions about things of which no document has a single content word: nothing here answers them."""
    if n <= 0:
        return []
    there = {word[:5] for d in documents for word in normal_form(d.text).split()}
    free = [
        thing for thing in _THINGS[language] if not {w[:5] for w in normal_form(thing).split() if len(w) > 3} & there
    ]
    made = [_ASK[language][i % 2].format(thing) for i, thing in enumerate(free)]
    return [Draft(question, None, language=language, pattern="absent") for question in made[:n]]
