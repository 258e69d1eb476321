"""All words of a scenario."""

from __future__ import annotations

from tests.scenarios.vocabulary import WORDS
from tests.scenarios.words_of_calls import CallWords
from tests.scenarios.words_of_set import SetWords
from tests.scenarios.words_of_sight import SightWords


class Words(SetWords, CallWords, SightWords):
    """One run of a scenario."""


__all__ = ["WORDS", "Words"]
