"""Reading a team's files into documents: one module a format, each file in a worker that may not harm the
run.
"""

from bucle.data.parse.cache import retried
from bucle.data.parse.pool import ParseResult, QuarantinedFile, Retry, parse_all, retry_file
from bucle.data.parse.single import parse_file

__all__ = ["ParseResult", "QuarantinedFile", "Retry", "parse_all", "parse_file", "retried", "retry_file"]
