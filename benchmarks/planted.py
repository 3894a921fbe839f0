"""What data_quality.py plants: personal data written from the official formats, and numbers that only look like them.

Written from the issuers' rules (ISO 13616 and ISO 7064 for IBAN, ISO/IEC 7812 and Luhn for cards, Real Decreto
1553/2005 for the DNI's letter, Orden INT/2058/2008 for the NIE's, Orden TAS for social security numbers, the Spanish
numbering plan for phones), not from the expressions that look for them.
"""

from __future__ import annotations

from random import Random

LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
NBSP = "\u00a0"
COUNTRIES = {  # country: the structure of its domestic number (n digits, a capital letters, c either)
    "ES": "n20",
    "GB": "a4n14",
    "DE": "n18",
    "FR": "n10c11n2",
    "PT": "n21",
    "IT": "a1n10c12",
    "NL": "a4n10",
    "IE": "a4n14",
    "BE": "n12",
    "CH": "n5c12",
    "PL": "n24",
    "AD": "n8c12",
    "LU": "n3c13",
    "SE": "n20",
    "NO": "n11",
    "AT": "n16",
    "MT": "a4n5c18",
    "BR": "n23a1c1",
    "SA": "n2c18",
    "GR": "n7c16",
}
NAMES = [
    "maria.garcia",
    "jperez",
    "o'brien",
    "luis_m",
    "ana-belen",
    "info.ventas",
    "j.smith+news",
    "iñaki",
    "x1",
    "DPO",
]
HOSTS = [
    "gmail.com",
    "mi-empresa.es",
    "correo.uned.es",
    "example.co.uk",
    "hotmail.com",
    "camión.es",
    "sub.dominio.gob.es",
    "a.info",
]


def digits(draw: Random, count: int) -> str:
    return "".join(draw.choice("0123456789") for _ in range(count))


def grouped(text: str, sizes: list[int], mark: str) -> str:
    pieces, at = [], 0
    while at < len(text):
        size = sizes[min(len(pieces), len(sizes) - 1)]
        pieces.append(text[at : at + size])
        at += size
    return mark.join(pieces)


def iban(draw: Random, *, right: bool = True) -> str:
    country = draw.choice(["ES"] * 10 + list(COUNTRIES))
    shape, body, at = COUNTRIES[country], "", 0
    while at < len(shape):
        kind, end = shape[at], at + 1
        while end < len(shape) and shape[end].isdigit():
            end += 1
        pool = {"n": "0123456789", "a": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "c": "0123456789ABCDEFGHJK"}[kind]
        body += "".join(draw.choice(pool) for _ in range(int(shape[at + 1 : end])))
        at = end
    number = "".join(str(int(one, 36)) for one in f"{body}{country}00")
    check = 98 - int(number) % 97
    if not right:
        check = (check + draw.randint(1, 90)) % 97 + 2 if check < 50 else check - draw.randint(1, 40)
    whole = f"{country}{check:02d}{body}"
    style = draw.randrange(6)
    if style == 5:
        return whole.lower()
    return grouped(whole, [4], ["", " ", " ", "-", NBSP][style]) if style else whole


def luhn_digit(number: str) -> int:
    total = 0
    for at, one in enumerate(reversed(number)):
        value = int(one) * (2 if at % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return -total % 10


def card(draw: Random, *, right: bool = True) -> str:
    start, length = draw.choice(
        [
            ("4", 16),
            ("51", 16),
            ("55", 16),
            ("2221", 16),
            ("2720", 16),
            ("34", 15),
            ("37", 15),
            ("6011", 16),
            ("36", 14),
            ("3530", 16),
            ("5018", 16),
        ]
    )
    body = start + digits(draw, length - len(start) - 1)
    last = luhn_digit(body)
    whole = body + str(last if right else (last + draw.randint(1, 9)) % 10)
    mark = draw.choice(["", " ", "-", NBSP, " "])
    return grouped(whole, [4] if length == 16 else [4, 6, 5], mark)


def control(number: int) -> str:
    return LETTERS[number % 23]


def wrong_letter(draw: Random, letter: str) -> str:
    return draw.choice([one for one in LETTERS if one != letter])


def dni(draw: Random, *, right: bool = True) -> str:
    body = digits(draw, 8)
    letter = control(int(body))
    letter = letter if right else wrong_letter(draw, letter)
    style = draw.randrange(8)
    if style == 0:
        return f"{body[:2]}.{body[2:5]}.{body[5:]}-{letter}"
    if style == 1:
        return f"{body[:2]}.{body[2:5]}.{body[5:]} {letter}"
    if style == 2:
        return f"{body}{letter.lower()}"
    if style == 3:
        return f"{body[:2]}.{body[2:5]}.{body[5:]}{letter}"
    return body + draw.choice(["", "", "-", " ", NBSP, "\u2011"]) + letter


def nie(draw: Random, *, right: bool = True) -> str:
    first, body = draw.choice("XYZ"), digits(draw, 7)
    letter = control(int(str("XYZ".index(first)) + body))
    letter = letter if right else wrong_letter(draw, letter)
    style = draw.randrange(5)
    if style == 0:
        return f"{first}-{body}-{letter}"
    if style == 1:
        return f"{first} {body} {letter}"
    if style == 2:
        return f"{first.lower()}{body}{letter.lower()}"
    if style == 3:
        return f"{first}-{body[0]}.{body[1:4]}.{body[4:]}-{letter}"
    return f"{first}{body}{letter}"


def nuss(draw: Random, *, right: bool = True) -> str:
    province = f"{draw.randint(1, 52):02d}"
    number = digits(draw, 8)
    value = int(province) * 10_000_000 + int(number) if int(number) < 10_000_000 else int(province + number)
    check = value % 97
    check = check if right else (check + draw.randint(1, 96)) % 97
    mark = draw.choice(["", "", "/", " ", "-", NBSP])
    return f"{province}{mark}{number}{mark}{check:02d}"


def phone(draw: Random) -> str:
    style = draw.randrange(12)
    number = draw.choice("67") + digits(draw, 8)
    if number[0] == "7":
        number = "7" + draw.choice("1234") + number[2:]
    if draw.random() < 0.3:
        number = draw.choice(["91", "93", "96", "95", "94"]) + draw.choice("234568") + digits(draw, 6)
    if style == 0:
        return number
    if style == 1:
        return f"{number[:3]} {number[3:6]} {number[6:]}"
    if style == 2:
        return f"{number[:3]} {number[3:5]} {number[5:7]} {number[7:]}"
    if style == 3:
        return f"{number[:3]}-{number[3:6]}-{number[6:]}"
    if style == 4:
        return f"+34 {number}"
    if style == 5:
        return f"+34{NBSP}{number[:3]}{NBSP}{number[3:6]}{NBSP}{number[6:]}"
    if style == 6:
        return f"0034{number}"
    if style == 7:
        return f"(+34) {number[:3]} {number[3:6]} {number[6:]}"
    if style == 8:
        return f"{number[:2]} {number[2:5]} {number[5:7]} {number[7:]}"
    if style == 9:
        return f"+44 {draw.choice(['7400', '7520', '7912'])} {draw.choice('123456789')}{digits(draw, 5)}"
    if style == 10:
        return f"+1 ({draw.choice(['415', '212', '305'])}) {draw.choice(['234', '367', '482'])}-{digits(draw, 4)}"
    return f"({draw.choice(['415', '212', '305'])}) {draw.choice(['234', '367', '482'])}-{digits(draw, 4)}"


def email(draw: Random) -> str:
    return f"{draw.choice(NAMES)}{draw.choice(['', digits(draw, 2)])}@{draw.choice(HOSTS)}"


def letters(
    draw: Random, count: int, pool: str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
) -> str:
    return "".join(draw.choice(pool) for _ in range(count))


def secret(draw: Random) -> tuple[str, str]:
    """A text with a secret in it, and what must be gone from it."""
    hexa = "0123456789abcdef"
    password = letters(draw, 5) + draw.choice("!#%*_") + digits(draw, 3) + "aZ"
    value, frame = draw.choice(
        [
            ("sk-proj-" + letters(draw, 48), "usa {}"),
            ("sk-ant-api03-" + letters(draw, 90) + "-AA", "key {}"),
            ("AKIA" + letters(draw, 16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"), "{} us-east-1"),
            (letters(draw, 38) + "1a", "aws_secret_access_key = {}"),
            ("ghp_" + letters(draw, 36), "git clone con {}"),
            ("github_pat_" + letters(draw, 22) + "_" + letters(draw, 59), "{}"),
            ("glpat-" + letters(draw, 20), "{}"),
            (f"xoxb-{digits(draw, 12)}-{digits(draw, 12)}-{letters(draw, 24)}", "SLACK: {}"),
            (
                f"https://hooks.slack.com/services/T{letters(draw, 8)}/B{letters(draw, 8)}/{letters(draw, 24)}",
                "webhook {}",
            ),
            ("sk_live_" + letters(draw, 24), "stripe {}"),
            ("whsec_" + letters(draw, 32), "{}"),
            ("AIza" + letters(draw, 35), "maps {}"),
            ("hf_" + letters(draw, 34), "{}"),
            ("npm_" + letters(draw, 36), "{}"),
            (f"SG.{letters(draw, 22)}.{letters(draw, 43)}", "sendgrid {}"),
            ("SK" + letters(draw, 32, hexa), "twilio {}"),
            (f"{digits(draw, 9)}:AA{letters(draw, 33)}", "bot {}"),
            ("dapi" + letters(draw, 32, hexa), "{}"),
            (f"eyJ{letters(draw, 30)}.eyJ{letters(draw, 60)}.{letters(draw, 43)}", "Authorization: Bearer {}"),
            (letters(draw, 40) + "7q", "Authorization: Bearer {}"),
            (password, "postgres://app:{}@db.interna:5432/ventas"),
            (password, "mongodb+srv://root:{}@cluster0.mongodb.net/"),
            (password, "redis://:{}@cache.local:6379/0"),
            (password, "password={}"),
            (password, "usuario ana contraseña {}"),
            (password, "| contraseña | {} |"),
            (password, "<password>{}</password>"),
            (password, "curl -u ana:{} https://api.example.com"),
            (letters(draw, 31, hexa) + "7", "AZURE_OPENAI_KEY={}"),
            (password, "DB_PASSWORD: '{}'"),
            (password, '{{"password": "{}"}}'),
            (password, "contraseña: {}"),
            (password, "La contraseña nueva es {}"),
            (password, "my password is {}"),
            (password, "la clave del wifi es {}"),
            (letters(draw, 86) + "==", "AccountName=x;AccountKey={};EndpointSuffix=y"),
            (letters(draw, 64), "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----"),
            (letters(draw, 64), "-----BEGIN OPENSSH PRIVATE KEY-----\n{}"),
            (letters(draw, 64), "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{}\n-----END PGP PRIVATE KEY BLOCK-----"),
        ]
    )
    return frame.format(value), value


MAKERS = {"iban": iban, "card": card, "dni": dni, "nie": nie, "nuss": nuss, "phone": phone, "email": email}
CHECKED = ("iban", "card", "dni", "nie", "nuss")
FRAMES = {
    "iban": [
        "Cargadlo en {} por favor",
        "IBAN: {}",
        "mi cuenta es {}, gracias",
        "Pay to {}.",
        "cuenta {}\nfin",
        "({})",
    ],
    "card": [
        "mi tarjeta {} no va",
        "Visa {}.",
        "card number {} exp 12/27",
        "pagué con {} ayer",
        "TARJETA:{}",
        "{} 123",
        "_{}_",
        "tarjeta nº{}",
        "el 12/11/2026 {}",
    ],
    "dni": [
        "Mi DNI es {}, gracias.",
        "DNI: {}",
        "con NIF {} y domicilio",
        "D.N.I. {}",
        "Titular: Ana, {}",
        "dni {}/",
        "({})",
        "_{}_",
        "DNI nº{}",
    ],
    "nie": ["NIE: {}.", "mi nie es {} y", "N.I.E. {}", "Titular {}", "({})"],
    "nuss": ["afiliado a la seguridad social con {}.", "NUSS {}", "nº afiliación: {}", "SS {} alta", "({})"],
    "phone": [
        "Llámame al {} por la tarde",
        "Tel. {}",
        "Tfno: {}",
        "mi número es {}",
        "call me on {}",
        "Móvil {}, gracias",
        "tel:{}",
        "_{}_",
    ],
    "email": ["escribid a {}, hola", "Email: {}", "<{}>", "Contact {}.", "{} es mi correo", "mailto:{}"],
}


def harmless(draw: Random) -> str:
    """A text whose number looks like somebody's data and is not."""
    n8, n9, n12, n16 = (digits(draw, count) for count in (8, 9, 12, 16))
    day, month, year = draw.randint(1, 28), draw.randint(1, 12), draw.randint(1990, 2030)
    amount = f"{draw.randint(1, 999)}.{digits(draw, 3)}.{digits(draw, 3)},{digits(draw, 2)}"
    return draw.choice(
        [
            f"Pedido {n9}",
            f"nº de pedido: {n9}",
            f"Order #{n12}",
            f"your order number is {n12}",
            f"Factura {n16} emitida",
            f"factura nº FE-{year}-{n8}",
            f"Nº de seguimiento {n16}",
            f"tracking code: {n12}",
            f"código de envío PQ4F6P{n16}",
            f"1Z{letters(draw, 16, 'ABCDEFGHJK0123456789')}",
            f"9400 1000 {n8[:4]} {n8[4:]} {n9[:4]} {n9[4:6]}",
            f"Total {amount} €",
            f"{amount} EUR",
            f"${draw.randint(1, 9)},{n8[:3]},{n9[:3]}.00",
            f"Importe: {n9[:3]} {n9[3:6]} {n9[6:]} €",
            f"el {day:02d}/{month:02d}/{year} a las 10:15",
            f"{year}-{month:02d}-{day:02d} 10:15:30",
            f"{day:02d}.{month:02d}.{year}",
            f"del {day:02d}-{month:02d}-{year} al 30-12-{year}",
            f"IMEI {digits(draw, 15)}",
            f"ISBN 978-84-{n9[:4]}-{n9[4:7]}-{n9[7]}",
            f"EAN {digits(draw, 13)}",
            f"lote {n8}{draw.choice(LETTERS)}",
            f"contador {n9}",
            f"CUPS ES{n16}{draw.choice(LETTERS)}{draw.choice(LETTERS)}0F",
            f"Ref. {n9}",
            f"expediente {year}/{n9}",
            f"IP 10.{draw.randint(0, 255)}.{draw.randint(0, 255)}.1",
            f"versión {draw.randint(1, 20)}.{n8[:2]}.{n8[2:4]}",
            f"póliza {n12}",
            f"lectura {n8[:6]} {n9[:6]}",
            f"código postal {n8[:5]}",
            f"uuid {letters(draw, 8, 'abcdef0123456789')}-4f1a-9c2e-8b7d-{letters(draw, 12, 'abcdef0123456789')}",
            f"commit {letters(draw, 40, 'abcdef0123456789')}",
            f"compré {n8} y me fui",
            f"modelo WH-{n8[:4]}-XM5",
            f"logo@{n8[0]}x.png",
            f"@ana_{n8[:3]} gracias",
            f"coordenadas 40.{n8[:6]}, -3.{n9[:6]}",
            f"consumo {n9[:3]} {n9[3:6]} kWh",
            f"claim {n12}",
            f"ticket {n9}",
            f"booking code {letters(draw, 6)}",
            f"El número de cliente {n9} tiene dos contratos",
            f"Id. usuario {n9}",
            f"Orden de trabajo {n9} cerrada",
            f"Número de orden {n16}",
            f"Códigos de producto {n9[:3]} {n9[3:6]} {n9[6:]}, 6{n8[:2]} {n8[2:5]} {n8[5:]} y 699 888 777",
            f"Ventas por mes: 612 {n9[:3]} {n9[3:6]} {n9[6:]} 690 645",
            f"{n9} Wh",
        ]
    )


NO_SECRETS = [
    "la contraseña es obligatoria",
    "password: restablecerla en la web",
    "el token de visita es gratuito",
    "clave: la atención al cliente",
    "La clave del éxito es la constancia",
    "password=os.environ['DB_PASSWORD']",
    "password=${DB_PASSWORD}",
    "api_key: <tu clave>",
    "token = get_token()",
    "postgres://localhost:5432/ventas",
    "https://example.com:8443/ruta?x=1",
    "sk-ating",
    "mailto:ana@example.com",
    "contraseña: ********",
    "https://user@host.example/a",
    "AKIA es un prefijo",
    "cambie la contraseña cada 90 días",
    "The password must have 8 characters",
    "basic subscription12",
    "bearer of bad news",
    "key: value",
    "clave de acceso: su DNI",
    "secret santa 2024",
    "password: your-password-1",
    "Token: no disponible",
    "Palabra clave: iphone15",
    "Clave catastral: 28079A01200034",
    "Clave: art.35.2.b del Estatuto",
    "La clave del éxito: constancia2",
    "cambie su password en https://intranet.empresa.es/cambio1",
    "primary_key=id_cliente_2",
    "cambiar contraseña Windows11",
]
