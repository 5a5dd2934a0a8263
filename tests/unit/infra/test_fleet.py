import asyncio
import socket

import pytest

from infra.fleet.answers import RecordedAnswers
from infra.fleet.messages import parts_of
from infra.fleet.server import Fleet, parse_faults, serve, with_upstreams
from models.data.evaluation_set import EvaluationSet
from models.errors import SettingsError


def test_faults_are_read_and_a_typo_is_named(simulated: EvaluationSet) -> None:
    faults = parse_faults(["*:500=0.1", "sim-nano:429=0.5", "sim-nano:hang=0.1", "slow=0.2"])
    assert faults == {"*": {"500": 0.1, "slow": 0.2}, "sim-nano": {"429": 0.5, "hang": 0.1}}
    fleet = Fleet(simulated.catalog, RecordedAnswers(simulated))
    fleet.set_faults(faults)
    assert fleet.machines["sim-nano"].faults == {"429": 0.5, "hang": 0.1}
    assert fleet.machines["sim-mini"].faults == {"500": 0.1, "slow": 0.2}
    for texts, told in [
        (["sim-nan:500=1"], "no LLM 'sim-nan'; did you mean 'sim-nano'"),
        (["*:5000=1"], "no fault '5000'; did you mean '500'"),
        (["*:500=2"], "not a share"),
        (["*:500=0.6", "*:slow=0.6"], "more than all requests"),
        (["*:500"], "expected LLM:KIND=SHARE"),
    ]:
        with pytest.raises(SettingsError, match=told):
            fleet.set_faults(parse_faults(texts))


def test_answers_are_the_sets(simulated: EvaluationSet) -> None:
    row = simulated.outcomes[simulated.outcomes["quality"] == 1.0].iloc[0]
    query = simulated.queries.set_index("query_id").loc[row["query_id"], "query"]
    answers = RecordedAnswers(simulated, {str(query).strip(): "forty-two"})
    found = answers.find(str(row["llm"]), f" {query}\n")
    assert found.text.startswith("forty-two")
    assert (found.quality, found.response_tokens) == (1.0, row["response_tokens"])
    assert answers.find("sim-nano", "never asked").quality is None


@pytest.mark.parametrize(("tokens", "per_token"), [(1, 0.0), (7, 0.0), (100, 0.001), (100, 1.0)])
def test_the_parts_are_the_whole(tokens: int, per_token: float) -> None:
    said = {"role": "assistant", "content": "The quick brown fox jumps over the lazy dog."}
    parts = parts_of(said, tokens, per_token)
    assert "".join(delta["content"] for delta, _ in parts) == said["content"]
    assert sum(count for _, count in parts) == tokens
    assert parts[0][0]["role"] == "assistant"


def test_every_candidate_gets_the_fleet_as_upstream(simulated: EvaluationSet) -> None:
    catalog = with_upstreams(simulated.catalog, "http://127.0.0.1:1", concurrency=3)
    assert {c.upstream.base_url for c in catalog.llms if c.upstream} == {"http://127.0.0.1:1/v1"}
    assert all(c.upstream is not None and c.upstream.concurrency == 3 for c in catalog.llms)


def test_nothing_is_announced_before_the_port_is_ours(simulated: EvaluationSet) -> None:
    announced: list[int] = []

    async def serve_on(port: int) -> None:
        fleet = Fleet(simulated.catalog, RecordedAnswers(simulated))
        stop = asyncio.Event()
        stop.set()
        await serve(fleet, "127.0.0.1", port, stop, lambda: announced.append(port))

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingsError, match="name another --port"):
            asyncio.run(serve_on(taken.getsockname()[1]))
    assert announced == []
    asyncio.run(serve_on(0))
    assert announced == [0]
