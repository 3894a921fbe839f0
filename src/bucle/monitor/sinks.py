"""Where alerts go: a webhook and the log. Neither ever raises; each says whether it delivered."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LogSink", "WebhookSink"]


@dataclass(frozen=True)
class WebhookSink:
    """Posts the alert as JSON to `url`; delivered means a 2xx answer within `timeout_s`. Redirects are not
    followed."""

    url: str
    timeout_s: float = 5.0
    name: str = "webhook"

    def send(self, alert: Mapping[str, Any]) -> bool:
        import httpx

        try:
            body = json.dumps(dict(alert), ensure_ascii=False, default=str)
            answer = httpx.post(self.url, content=body.encode(), headers={"content-type": "application/json"},
                                timeout=self.timeout_s, follow_redirects=False)
        except Exception as error:  # a sink must not stop the watch, whatever is wrong with an address
            logging.getLogger("bucle.monitor").warning(
                "alert not delivered by %s: %s", self.name, type(error).__name__)
            return False
        return answer.is_success


@dataclass(frozen=True)
class LogSink:
    """Writes one warning a alert to the logger `bucle.monitor`."""

    name: str = "log"

    def send(self, alert: Mapping[str, Any]) -> bool:
        logging.getLogger("bucle.monitor").warning(
            "%s on %s: %s", alert.get("kind", "alert"), alert.get("route", "?"), alert.get("message", ""))
        return True
