"""python_param.param_str: the YAML that it holds, against PyYAML, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from converter.read.param_str import parse_param_str

TEXTS = [
    "'feat_stride': 16",
    "{'feat_stride': 16, 'scales': [2, 4, 8]}",
    "'feat_stride': 8 \n'scales': [1, 2.5, 0.333]",
    "feat_stride: 16\nscales: [8, 16,\n  32]\n\n",
    '{"phase": "TEST", "p": 0.1}',
    "{phase: TRAIN, p: .5, use: false, none: null, empty: '', it: 'isn''t'}",
    "{'a': {'b': [[1, 2], []]}, }",
    "{a: -3, b: +4, c: -0.25, d: 1.5e-3, e: 1e-3, f: 1.0, g: 0, h: 5.}",
    "{}",
    "phase: TEST",
    "{'ratios': [0.5, 1, 2,], 'base_size': 16}",
    "path: data/x.txt",
    "{x: a-b, y: v1.0, z: 1_a}",
]


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(held) for key, held in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


@pytest.mark.parametrize("text", TEXTS)
def test_a_param_str_reads_as_pyyaml_reads_it(text: str) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with accelerate")
    got, want = parse_param_str(text), _with_tuples(yaml.safe_load(text))
    assert got == want
    assert [type(value) for value in got.values()] == [type(value) for value in want.values()]


def test_a_python_tuple_is_a_list() -> None:
    assert parse_param_str("'feat_stride': 8 \n'scales': !!python/tuple [1,2.5]") == {"feat_stride": 8, "scales": (1, 2.5)}


@pytest.mark.parametrize(
    "text",
    [
        "16",
        "[1, 2]",
        "'a': 1 'b': 2",
        "{'a': 1",
        "{'a': 1}}",
        "{'a': 1 'b': 2}",
        "{'a': 1, 'a': 2}",
        "{'a': !!python/object/apply:os.system ['true']}",
        "{'a': !!python/tuple 3}",
        "{'a': &x 1, 'b': *x}",
        "{'a': 010}",
        "{'a': " + "[" * 99 + "]" * 99 + "}",
        "a:\n  b: 1",
        "a:\n- 1",
        "'a': 1 # b",
        "dict(a=1)",
        "'a':",
        "'a",
    ],
)
def test_what_is_no_such_mapping_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"param_str|leading 0"):
        parse_param_str(text)
