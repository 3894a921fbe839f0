"""Releases: versions, cards, the alias that production follows."""

from bucle.release.card import card
from bucle.release.versions import PRODUCTION, make_release, production, releases, rollback

__all__ = ["PRODUCTION", "card", "make_release", "production", "releases", "rollback"]
