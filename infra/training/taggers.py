"""Which tagger the settings ask for."""

from __future__ import annotations

from collections.abc import Sequence

from infra.settings import Settings
from infra.training.llm_tagger import ChatModel, LLMTagger, TokenPrices
from models.domains.instagger import DEFAULT_MODEL, InsTagger
from models.domains.taggers import KeyphraseTagger, Tagger
from models.errors import SettingsError
from models.training_options import TaggerKind


def make_tagger(kind: TaggerKind, settings: Settings, queries: Sequence[str]) -> Tagger:
    """queries: what will be tagged; the keyphrase tagger learns from them which phrases tell.

    Raises SettingsError as ``check_tagger`` does.
    """
    check_tagger(kind, settings)
    if kind == "keyphrase":
        return KeyphraseTagger().fit(queries)
    if kind == "instag":
        return InsTagger(settings.tagger_model or DEFAULT_MODEL)
    chat = ChatModel(
        str(settings.tagger_url),
        str(settings.tagger_model),
        settings.tagger_key.get_secret_value() if settings.tagger_key else "none",
        settings.tagger_concurrency,
    )
    prices = settings.tagger_input_price, settings.tagger_output_price
    if prices[0] is None or prices[1] is None:
        return LLMTagger(chat)
    return LLMTagger(chat, TokenPrices(prices[0], prices[1]))


def check_tagger(kind: TaggerKind, settings: Settings) -> None:
    """Raises SettingsError where the settings lack what the tagger needs."""
    if kind == "llm" and (settings.tagger_url is None or settings.tagger_model is None):
        raise SettingsError(
            "the llm tagger needs MIXLLM_TAGGER_URL (an OpenAI-compatible endpoint, /v1 included) "
            "and MIXLLM_TAGGER_MODEL"
        )
