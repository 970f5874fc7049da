from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.yaml_files import InvalidFileError, load_yaml, parse_yaml


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    size: int
    names: list[str] = []


class File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    title: str
    entries: dict[str, Entry] = {}


GOOD = "title: x\nentries:\n  a:\n    size: 1\n    names: [b, c]\n"


def refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        parse_yaml(text, into=File, name="f.yaml")
    return raised.value.message


def test_file_is_read_into_the_model(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(GOOD)
    assert load_yaml(path, into=File) == File(title="x", entries={"a": Entry(size=1, names=["b", "c"])})


def test_wrong_type_is_refused_with_its_line_and_field() -> None:
    assert refusal(GOOD.replace("size: 1", "size: big")).startswith("f.yaml:4: entries.a.size: input should be a valid")


def test_wrong_element_of_a_list_is_refused_with_its_line() -> None:
    text = "title: x\nentries:\n  a:\n    size: 1\n    names:\n      - b\n      - 7\n"
    assert refusal(text).startswith("f.yaml:7: entries.a.names.1: ")


def test_unknown_field_is_refused_with_its_line() -> None:
    assert refusal(GOOD + "tittle: y\n").startswith("f.yaml:6: tittle: extra inputs are not permitted")


class Choice(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    either: Entry | File
    maybe: Entry | None = None
    all: list[Entry] = []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "either: {size: 1}\nmaybe: {size: 1, nams: []}\n",
            "maybe.nams: extra inputs are not permitted; did you mean names?",
        ),
        ("either: {size: 1}\nall:\n  - {siz: 1}\n", "all.0.siz: extra inputs are not permitted; did you mean size?"),
        ("either: {siz: 1}\n", "siz: extra inputs are not permitted"),
        ("either: {size: 1}\n7: x\n", "f.yaml:2: 7"),
    ],
)
def test_what_an_unknown_field_may_have_meant_is_said_where_that_is_known(text: str, said: str) -> None:
    with pytest.raises(InvalidFileError) as caught:
        parse_yaml(text, into=Choice, name="f.yaml")
    assert said in caught.value.message


def test_missing_field_is_refused_with_the_line_of_what_lacks_it() -> None:
    assert refusal("title: x\nentries:\n  a:\n    names: []\n") == "f.yaml:3: entries.a.size: field required"


def test_every_problem_is_told_at_once() -> None:
    message = refusal("titel: x\nentries:\n  a: {size: z}\n")
    assert "titel" in message
    assert "title: field required" in message
    assert "entries.a.size" in message


def test_field_written_twice_is_refused() -> None:
    assert refusal("title: x\ntitle: y\n") == "f.yaml:2: title: written twice"


def test_nested_field_written_twice_is_refused() -> None:
    assert refusal("title: x\nentries:\n  a: {size: 1}\n  a: {size: 2}\n") == "f.yaml:4: a: written twice"


def test_file_that_is_not_yaml_is_refused_with_its_line() -> None:
    assert refusal("title: x\nentries: [a\n").startswith("f.yaml:3: not YAML: ")


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n", "title: \x07\n", "!!python/object:os.system {}\n"])
def test_file_of_another_shape_is_refused(text: str) -> None:
    assert "f.yaml" in refusal(text)


def test_file_that_contains_itself_is_refused() -> None:
    assert "f.yaml" in refusal("title: x\nentries: &a\n  b: *a\n")


def test_huge_file_is_refused() -> None:
    assert "at most" in refusal("title: x\n" + "#" * (1 << 20))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_yaml(tmp_path / "none.yaml", into=File)


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"title: \xff\n")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_yaml(path, into=File)
