"""The catalog: the candidates that may be chosen, their prices, speeds and limits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import (
    AnyUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from models.errors import CatalogError, nearest
from models.files.numerals import read_number
from models.files.yaml_file import dump_yaml


def plain_number(value: Any) -> Any:
    """A number, also one in quotes; ``yes`` is not 1. Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError("is true or false, not a number")
    if isinstance(value, str):
        return read_number(value)
    return value


# No price, speed or time comes near it; what does would overflow the costs.
MOST: Final = 1e9
Number = BeforeValidator(plain_number)
Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$"
    ),
]
Amount = Annotated[float, Number, Field(ge=0, le=MOST, allow_inf_nan=False)]
Positive = Annotated[float, Number, Field(gt=0, le=MOST, allow_inf_nan=False)]
Count = Annotated[int, Number, Field(gt=0)]
OPTIONAL_PRICES: Final = (
    "cached_input_price", "cache_write_price", "audio_input_price", "image_input_price",
    "audio_output_price", "image_output_price",
)  # fmt: skip
# What a request may hold besides text.
MODALITIES: Final = ("images", "audio", "files", "video")
# Hop-by-hop and framing headers are the gateway's own.
RESERVED_HEADERS: Final = {
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "expect",
}
HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_urls: Final = TypeAdapter(AnyUrl)


class Upstream(BaseModel):
    """Where a candidate answers: any OpenAI-compatible endpoint.

    base_url: its address up to ``/chat/completions``, a query such as ``?api-version=…`` included;
    no user name or password. model: its name there, the
    candidate's own unless given. key_variable: the environment variable that holds its key, sent in
    key_header (as a bearer token in ``authorization``). headers: sent along. concurrency: requests
    it answers at once; more wait in the gateway. requests_per_minute: more go elsewhere.
    connect_timeout, first_token_timeout (also the longest pause in a stream), total_timeout:
    seconds. retries: further attempts on 429 and 5xx before another candidate is asked.
    stream_usage: whether it understands ``stream_options``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: Annotated[str, Field(max_length=2000)]
    model: Name | None = None
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    key_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = "authorization"
    headers: dict[str, str] = Field(default_factory=dict)
    concurrency: Count | None = None
    requests_per_minute: Count | None = None
    connect_timeout: Positive = 5.0
    first_token_timeout: Positive = 60.0
    total_timeout: Positive = 600.0
    retries: Annotated[int, Number, Field(ge=0, le=10)] = 1
    stream_usage: bool = True

    @field_validator("base_url")
    @classmethod
    def _base_url_is_usable(cls, value: str) -> str:
        try:
            scheme, user = urlsplit(value).scheme.lower(), urlsplit(value).username
            host = _urls.validate_python(value).host and urlsplit(value).hostname
        except ValueError as error:
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise ValueError(f"no address: {first}") from None
        if scheme not in ("http", "https"):
            raise ValueError(f"begins with {scheme}:, not with http:// or https://")
        if not host or re.search(r"[\s\\\x00-\x1f\x7f]", value):
            raise ValueError("no address: it has no host, or holds a space")
        if user is not None:
            raise ValueError(
                "holds a user name or password; put the secret into an environment variable "
                "and name that in key_variable"
            )
        if "#" in value:
            raise ValueError("holds a fragment (#…); leave it out")
        return value

    @model_validator(mode="after")
    def _headers_are_free(self) -> Upstream:
        for name, value in self.headers.items():
            sound = HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(value)
            if name.lower() in RESERVED_HEADERS or not sound:
                raise ValueError(f"header {name!r} cannot be set")
        return self


class Candidate(BaseModel):
    """One LLM that may be chosen.

    input_price, output_price: USD per million tokens.
    cached_input_price, cache_write_price: of prompt tokens read from and written to the LLM's prompt
    cache; the input price when not given.
    audio_input_price, image_input_price, audio_output_price, image_output_price: of such tokens; the
    price of text when not given.
    tokens_per_second: generated tokens per second.
    time_to_first_token: seconds.
    context_window: tokens of prompt and response together, no limit when not given.
    abilities: what a request may require ("tools", "images", ...).
    upstream: where it answers, for the gateway.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    input_price: Amount
    output_price: Amount
    cached_input_price: Amount | None = None
    cache_write_price: Amount | None = None
    audio_input_price: Amount | None = None
    image_input_price: Amount | None = None
    audio_output_price: Amount | None = None
    image_output_price: Amount | None = None
    tokens_per_second: Positive
    time_to_first_token: Amount
    context_window: Count | None = None
    abilities: tuple[Name, ...] = ()
    upstream: Upstream | None = None

    @model_serializer(mode="wrap")
    def _without_absent_prices(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A price that is not given is not written: a release's digest stays what it was."""
        written: dict[str, Any] = dump(self)
        return {k: v for k, v in written.items() if k not in OPTIONAL_PRICES or v is not None}

    def with_prices_of(self, other: Candidate | None) -> Candidate:
        """The same, with the optional prices that another entry of it gives."""
        given = {name: getattr(other, name, None) for name in OPTIONAL_PRICES}
        update = {name: price for name, price in given.items() if price is not None}
        return self.model_copy(update=update) if update else self


class Catalog(BaseModel):
    """The candidates, and the one to use when routing itself fails (the first, if not said)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    llms: Annotated[tuple[Candidate, ...], Field(min_length=1)]
    default: str | None = None

    @model_validator(mode="after")
    def _names_are_sound(self) -> Catalog:
        names = self.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"candidates listed twice: {', '.join(twice)}")
        lower = [name.lower() for name in names]
        alike = sorted(name for name in names if lower.count(name.lower()) > 1)
        if alike:
            raise ValueError(f"candidates that differ only in case: {', '.join(alike)}")
        if self.default is not None and self.default not in names:
            raise ValueError(
                f"default: no candidate {self.default!r}; {nearest(self.default, names)}"
            )
        return self

    @property
    def names(self) -> list[str]:
        return [candidate.name for candidate in self.llms]

    @property
    def default_candidate(self) -> str:
        return self.default or self.llms[0].name

    def get(self, name: str) -> Candidate:
        """The candidate of that name. Raises CatalogError."""
        for candidate in self.llms:
            if candidate.name == name:
                return candidate
        raise CatalogError(f"no candidate {name!r}; {nearest(name, self.names)}")

    def required(self, needs: Iterable[str]) -> tuple[str, ...]:
        """Of the abilities that a request's content needs, those that an LLM must name to be asked.

        Every LLM reads text. A catalog that names no abilities says nothing of them, so nothing is
        required. One that names any must name what takes images, audio, files or video; tools and
        JSON are required where some LLM names them.
        """
        offered = {ability for candidate in self.llms for ability in candidate.abilities}
        return tuple(need for need in needs if need in offered or (offered and need in MODALITIES))

    def subset(self, names: list[str]) -> Catalog:
        """The catalog with only these candidates, in this order."""
        default = self.default if self.default in names else None
        return Catalog(llms=tuple(self.get(name) for name in names), default=default)

    def dump_yaml(self) -> str:
        return dump_yaml(self.model_dump(mode="json", exclude_none=True))


def upstreams_of(catalog: Catalog, local: Catalog | None) -> dict[str, Upstream]:
    """Where a catalog's candidates answer; what the machine's own catalog says of them comes first."""
    upstreams: dict[str, Upstream] = {}
    for source in filter(None, (catalog, local)):
        upstreams |= {
            entry.name: entry.upstream
            for entry in source.llms
            if entry.upstream is not None and entry.name in catalog.names
        }
    return upstreams
