from typing import Any

import pytest

from models.catalog import Candidate, Catalog
from models.decision.eligibility import Need, eligible
from models.decision.wishes import Wishes
from models.errors import DecisionError, UnknownCandidate
from models.queries.conversation import read_conversation

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE = {"type": "file", "file": {"file_id": "f-1"}}


def entry(name: str, **more: Any) -> Candidate:
    prices = {"input_price": 1.0, "output_price": 10.0}
    speed = {"tokens_per_second": 50.0, "time_to_first_token": 0.5}
    return Candidate(name=name, **{**prices, **speed, **more})


CATALOG = Catalog(
    llms=(
        entry("small", context_window=1000),
        entry("eyes", input_price=5.0, output_price=50.0, abilities=("images", "tools")),
        entry("all", input_price=20.0, output_price=200.0, abilities=("images", "audio", "files")),
    ),
    default="small",
)


def need(wishes: Wishes | None = None, *abilities: str, prompt: float = 100.0, **more: Any) -> Need:
    return Need(wishes or Wishes(), abilities, prompt, more.get("most"), "no text to route by")


@pytest.mark.parametrize(
    ("asked", "shut", "names"),
    [
        (need(), (), ["small", "eyes", "all"]),
        (need(None, "images"), (), ["eyes", "all"]),
        (need(None, "images", "audio"), (), ["all"]),
        (need(None, "images"), ("eyes",), ["all"]),
        (need(Wishes(candidates=("all", "eyes"))), (), ["eyes", "all"]),
        (need(prompt=1001), (), ["eyes", "all"]),
        (need(prompt=600, most=600.0), (), ["eyes", "all"]),
        (need(prompt=0.0, most=10**6), (), ["small", "eyes", "all"]),
        (need(Wishes(max_cost=0.006)), (), ["small"]),
        (need(Wishes(max_cost=0.006), most=100.0), (), ["small", "eyes"]),
        (need(Wishes(max_cost=0.03), "images"), (), ["eyes"]),
    ],
)
def test_every_condition_holds_without_a_prediction(
    asked: Need, shut: tuple[str, ...], names: list[str]
) -> None:
    assert eligible(CATALOG, asked, frozenset(shut)) == names


@pytest.mark.parametrize(
    ("asked", "shut", "param", "words"),
    [
        (need(None, "video"), (), "abilities", "the ability 'video'"),
        (need(None, "images"), ("eyes", "all"), "abilities", "the ability 'images'"),
        (need(Wishes(candidates=("small",)), "images"), (), "abilities", "'images'"),
        (need(Wishes(max_cost=1e-9)), (), "max_cost", "the cheapest is small"),
        (need(Wishes(max_cost=0.006), "images"), (), "max_cost", "the cheapest is eyes"),
        (need(Wishes(min_quality=0.5)), (), "min_quality", "no text to route by"),
        (need(Wishes(candidates=("small",)), prompt=5000), (), "messages", "about 5000 tokens"),
        (need(), ("small", "eyes", "all"), "candidates", "no candidate is left"),
    ],
)
def test_where_nobody_is_left_the_error_names_what_was_needed(
    asked: Need, shut: tuple[str, ...], param: str, words: str
) -> None:
    with pytest.raises(DecisionError, match=words) as caught:
        eligible(CATALOG, asked, frozenset(shut))
    assert caught.value.context["param"] == param


def test_an_unknown_candidate_is_named() -> None:
    with pytest.raises(UnknownCandidate, match="did you mean 'small'"):
        eligible(CATALOG, need(Wishes(candidates=("smal",))), frozenset())


@pytest.mark.parametrize(
    ("request_", "needs"),
    [
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, {"images"}),
        ({"messages": [{"role": "user", "content": [{"type": "input_image"}]}]}, {"images"}),
        ({"messages": [{"role": "user", "content": [SOUND]}]}, {"audio"}),
        ({"messages": [{"role": "user", "content": [FILE, SOUND]}]}, {"files", "audio"}),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, {"video"}),
        ({"messages": [], "modalities": ["text", "audio"], "audio": {"voice": "a"}}, {"audio"}),
        ({"messages": [], "modalities": ["text"], "audio": None}, set()),
        ({"messages": [], "tools": [{"type": "function"}]}, {"tools"}),
        ({"messages": [], "functions": [{"name": "f"}]}, {"tools"}),
        ({"messages": [], "tools": None, "functions": []}, set()),
        ({"messages": [], "response_format": {"type": "json_schema"}}, {"json"}),
        ({"messages": [], "response_format": {"type": "text"}}, set()),
        ({"messages": [], "response_format": None}, set()),
        (
            {"messages": [{"role": "user", "content": ["odd", {"type": 4}, {"type": "text"}]}]},
            set(),
        ),
    ],
)
def test_what_a_request_holds_says_what_it_needs(request_: dict[str, Any], needs: set[str]) -> None:
    read = read_conversation(request_["messages"], request_.get("tools"), request_)
    assert set(read.abilities) == needs


def test_a_catalog_that_names_no_abilities_says_nothing_of_them() -> None:
    silent = Catalog(llms=(entry("a"), entry("b")))
    asked = ("images", "audio", "tools", "json")
    assert silent.required(asked) == ()
    assert CATALOG.required(asked) == ("images", "audio", "tools"), "who has JSON is not told"
    assert Catalog(llms=(entry("a", abilities=("json",)),)).required(asked) == (
        "images", "audio", "json",
    )  # fmt: skip
