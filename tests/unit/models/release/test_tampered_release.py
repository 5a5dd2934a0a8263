"""A release from a registry that others can write to: its digests are right, its content is not."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

from models.encoder.onnx_graph import check_graph
from models.errors import MixLLMError, ReleaseError
from models.release.manifest import read_manifest
from models.release.release import Release
from tampering import change_json, repin

PREDICTOR = "predictors/sim-mini/predictor.json"
ARRAYS = "predictors/sim-mini/predictor.safetensors"


@pytest.fixture
def copy(release_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release_folder, tmp_path / "release"))


def refused(folder: Path) -> str:
    """Why a release does not load; digests are made to match."""
    repin(folder)
    with pytest.raises(MixLLMError) as caught:
        Release.load(folder).check_probes(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["encoder"].update(folder="../../etc"),
        lambda m: m["encoder"].update(folder="/etc"),
        lambda m: m["domains"].update(folder="encoder"),
        lambda m: m["probes"].update(name="mixllm-encoder"),
        lambda m: m["encoder"].update(name="another-model"),
        lambda m: m["encoder"].update(version="1/../../7"),
        lambda m: m["encoder"]["files"].update({"../../passwd": "0" * 64}),
        lambda m: m["encoder"]["files"].update({"/etc/passwd": "0" * 64}),
        lambda m: m["encoder"]["files"].update({"weights.bin": "0" * 64}),
        lambda m: m["encoder"]["files"].pop("encoder.onnx"),
        lambda m: m["encoder"]["files"].update({"encoder.onnx": "none"}),
        lambda m: m["predictors"]["sim-mini"].update(folder="predictors/sim-nano"),
        lambda m: m["predictors"].update({"../x": m["predictors"].pop("sim-mini")}),
        lambda m: m["defaults"].update(willingness_to_pay=0),
        lambda m: m["defaults"].update(beta="NaN"),
        lambda m: m["defaults"].update(alpha=float("inf")),
        lambda m: m["catalog"]["llms"][0].update(input_price=-1),
        lambda m: m["catalog"]["llms"][0].update(input_price=float("nan")),
        lambda m: m["data"].update(queries="many"),
        lambda m: m["data"].update(queries=1.5),
        lambda m: m.pop("shrinkage"),
        lambda m: m.update(predictors=[]),
        lambda m: m.update(notes=[[[[]]]]),
        lambda m: m.update(format_version=10**400),
    ],
)
def test_a_manifest_that_names_what_it_should_not_is_refused(
    change: Callable[[dict[str, Any]], object], copy: Path
) -> None:
    change_json(copy / "manifest.json", change)
    with pytest.raises(ReleaseError):
        read_manifest(copy)


@pytest.mark.parametrize(
    "text", [b"", b"null", b"[]", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 200_000, b"{}"]
)
def test_a_manifest_that_is_no_manifest_is_refused(text: bytes, copy: Path) -> None:
    (copy / "manifest.json").write_bytes(text)
    with pytest.raises(ReleaseError, match=r"manifest\.json"):
        read_manifest(copy)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(copy: Path) -> None:
    with (copy / "encoder" / "tokenizer.json").open("r+b") as handle:
        handle.truncate(65 * 2**20)  # sparse: takes no disk
    with pytest.raises(ReleaseError, match=r"tokenizer\.json: 68157440 bytes, a release has"):
        Release.load(copy)
    with (copy / "manifest.json").open("r+b") as handle:
        handle.truncate(2**40)
    with pytest.raises(ReleaseError, match=r"manifest\.json: 1099511627776 bytes"):
        read_manifest(copy)


@pytest.mark.parametrize("name", ["encoder/encoder.onnx", "manifest.json", ARRAYS])
def test_a_link_or_a_pipe_is_refused(name: str, copy: Path, tmp_path: Path) -> None:
    os.replace(copy / name, tmp_path / "elsewhere")
    (copy / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReleaseError, match="not a plain file"):
        Release.load(copy)
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(ReleaseError, match="not a plain file"):
        Release.load(copy)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (PREDICTOR, b"{"),
        (PREDICTOR, b"[]"),
        (PREDICTOR, b"[" * 300_000),
        (PREDICTOR, b'{"a":' * 300_000),
        (PREDICTOR, b'{"format_version": NaN}'),
        (PREDICTOR, b'{"format_version": 2, "families": [[1]]}'),
        (PREDICTOR, b'{"format_version": 1e999}'),
        (PREDICTOR, b'{"format_version": ' + b"9" * 5000 + b"}"),
        ("domains/domains.json", b'{"format_version": 2}'),
        ("shrinkage/shrinkage.json", b'{"format_version": 1, "candidates": 7}'),
        ("probes/probes.json", b'{"queries": [], "llms": []}'),
        ("probes/probes.json", b'{"queries": "abc", "llms": "abc"}'),
        ("probes/probes.json", b'{"queries": [1], "llms": [null]}'),
        ("encoder/encoder.json", b"{}"),
        ("encoder/encoder.json", b'{"format_version": 1, "dimension": -1}'),
        ("encoder/tokenizer.json", b"{}"),
        ("encoder/tokenizer.json", b"[" * 1_000_000),
        ("encoder/encoder.onnx", b""),
        ("encoder/encoder.onnx", b"\xff" * 100),
        (ARRAYS, b""),
        (ARRAYS, struct.pack("<Q", 2**62) + b"{}"),
        (ARRAYS, struct.pack("<Q", 2) + b"{}"),
        (ARRAYS, struct.pack("<Q", 300_000) + b"[" * 300_000),
    ],
)
def test_content_that_cannot_be_read_is_refused(file: str, text: bytes, copy: Path) -> None:
    (copy / file).write_bytes(text)
    assert refused(copy)


def header(tensors: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
         "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}},
        {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 24]}},
        {"a": {"dtype": "F32", "shape": [-6], "data_offsets": [0, 24]}},
        {"a": {"dtype": "O", "shape": [6], "data_offsets": [0, 24]}},
        {"a": {"dtype": "F32", "shape": [6], "data_offsets": [24, 0]}},
    ],
)  # fmt: skip
def test_a_forged_array_header_is_refused(tensors: dict[str, Any], copy: Path) -> None:
    (copy / ARRAYS).write_bytes(header(tensors, bytes(24)))
    assert "predictor.safetensors" in refused(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(llm="sim-nano"),
        lambda c: c.update(smearing="much"),
        lambda c: c.update(intercepts=[1.0]),
        lambda c: c.update(prompt=None),
        lambda c: c.update(surprise=1),
        lambda c: c.pop("metrics"),
        lambda c: c.update(families=["no such family"]),
    ],
)
def test_a_predictor_of_wrong_values_is_refused(
    change: Callable[[dict[str, Any]], object], copy: Path
) -> None:
    change_json(copy / PREDICTOR, change)
    assert refused(copy)


def test_numbers_that_are_not_finite_and_arrays_that_do_not_fit_are_refused(copy: Path) -> None:
    path = copy / "domains" / "domains.safetensors"
    arrays = load_file(path)
    save_file({**arrays, "centroids": np.full_like(arrays["centroids"], np.nan)}, path)
    assert "centroids not finite" in refused(copy)
    save_file({**arrays, "centroids": arrays["centroids"][:, :7].copy()}, path)
    assert "do not match" in refused(copy)
    save_file({**arrays, "centroids": arrays["centroids"][:1].copy()}, path)
    assert "do not match" in refused(copy)


def test_a_tree_that_never_ends_is_refused(copy: Path) -> None:
    for path in copy.glob("predictors/*/predictor.safetensors"):
        arrays = load_file(path)
        for name in arrays:
            if name.endswith(".children"):
                children = arrays[name].copy()
                children[:, 0] = 1
                children[:, 1] = 0
                save_file({**arrays, name: children}, path)
                assert "a tree reaches a node more than once" in refused(copy)
                children[:, 0] = 65535
                save_file({**arrays, name: children}, path)
                assert "children that are not its nodes" in refused(copy)
                return
    pytest.skip("no predictor of the simulated set grows trees")


def test_a_tokenizer_with_a_regular_expression_of_its_own_is_refused(copy: Path) -> None:
    split = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Removed",
        "invert": False,
    }
    change_json(copy / "encoder" / "tokenizer.json", lambda t: t.update(pre_tokenizer=split))
    assert "regular expression '(a+)+$'" in refused(copy)


# --- the graph -----------------------------------------------------------------------------------


def model(*nodes: Any, initializers: Any = (), domains: Any = (), functions: Any = ()) -> Any:
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"])
        for name in ("input_ids", "attention_mask")
    ]
    out = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["n", 384])
    graph = helper.make_graph(list(nodes), "encoder", ids, [out], list(initializers))
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


def external(location: str) -> Any:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def loop() -> Any:
    body = helper.make_graph([], "body", [], [])
    return helper.make_node("Loop", ["m", "c"], ["y"], body=body)


def constant_of_another_file() -> Any:
    return helper.make_node("Constant", [], ["y"], value=external("tokenizer.json"))


def function() -> Any:
    node = helper.make_node("Identity", ["x"], ["y"])
    return helper.make_function("ai.onnx", "F", ["x"], ["y"], [node], [helper.make_opsetid("", 20)])


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (model(initializers=[external("/etc/passwd")]), "tensors in other files"),
        (model(initializers=[external("../../secret")]), "tensors in other files"),
        (model(constant_of_another_file()), "tensors in other files"),
        (model(loop()), "control flow"),
        (model(functions=[function()]), "functions"),
        (model(helper.make_node("Evil", ["x"], ["y"], domain="evil")), "the domain 'evil'"),
        (model(domains=["evil"]), "the domain 'evil'"),
    ],
)
def test_a_graph_that_reaches_beyond_itself_is_refused(
    graph: Any, message: str, copy: Path
) -> None:
    (copy / "encoder" / "encoder.onnx").write_bytes(graph.SerializeToString())
    assert message in refused(copy)


def test_the_encoder_s_own_graph_is_well(release_folder: Path) -> None:
    data = (release_folder / "encoder" / "encoder.onnx").read_bytes()
    check_graph(data)
    with pytest.raises(ReleaseError):
        check_graph(data[: len(data) // 2])


def test_an_encoder_of_another_form_is_refused(copy: Path) -> None:
    node = helper.make_node("Cast", ["input_ids"], ["sentence_embedding"], to=TensorProto.FLOAT)
    graph = model(node)
    onnx.save(graph, copy / "encoder" / "encoder.onnx")
    assert refused(copy)
