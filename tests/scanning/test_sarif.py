"""SARIF: the structure that code hosts want, from a real scan."""

from __future__ import annotations

import json
import re

import attacks

from rekindle.scanning.sarif import sarif
from rekindle.verbs.scan import scan


def test_every_result_has_its_rule_its_file_and_its_place(tmp_path):
    (tmp_path / "a b.pkl").write_bytes(attacks.evil())
    (tmp_path / "zip.pt").write_bytes(attacks.torch_zip(attacks.evil(), ("archive/x", b"\xfe\xfe")))
    (tmp_path / "good.pt").write_bytes(attacks.torch_zip(attacks.GOOD))
    found = scan(tmp_path)
    log = json.loads(json.dumps(sarif([found])))
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert run["tool"]["driver"]["name"] == "rekindle"
    assert len({rule["id"] for rule in rules}) == len(rules)
    expected = sum(len(file.findings) for file in found.files)
    assert len(run["results"]) == expected > 2
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"error", "warning", "note"}
        assert result["message"]["text"]
        (location,) = result["locations"]
        assert " " not in location["physicalLocation"]["artifactLocation"]["uri"]
        if result["properties"]["member"] is None:
            assert location["physicalLocation"]["region"]["byteOffset"] == result["properties"]["offset"]
        else:
            assert location["logicalLocations"][0]["fullyQualifiedName"] == result["properties"]["member"]
    levels = {result["ruleId"]: result["level"] for result in run["results"]}
    assert (levels["RK-SCAN-01"], levels["RK-SCAN-15"]) == ("error", "warning")


# What the schema of SARIF 2.1.0 says of the objects that are written here: (required, allowed, types). No object may
# have a property that the schema does not name.
OBJECTS: dict[str, tuple[set[str], dict[str, object]]] = {
    "log": ({"version", "runs"}, {"$schema": "uri", "version": {"2.1.0"}, "runs": ["run"]}),
    "run": ({"tool"}, {"tool": "tool", "columnKind": {"utf16CodeUnits", "unicodeCodePoints"}, "results": ["result"]}),
    "tool": ({"driver"}, {"driver": "component"}),
    "component": ({"name"}, {"name": str, "version": str, "rules": ["rule"]}),
    "rule": ({"id"}, {"id": str, "name": str, "shortDescription": "message"}),
    "message": ({"text"}, {"text": str}),
    "result": (
        {"message"},
        {
            "ruleId": str, "ruleIndex": int, "level": {"none", "note", "warning", "error"}, "message": "message",
            "locations": ["location"], "properties": dict,
        },
    ),
    "location": (set(), {"physicalLocation": "physical", "logicalLocations": ["logical"]}),
    "physical": ({"artifactLocation"}, {"artifactLocation": "artifact", "region": "region"}),
    "artifact": (set(), {"uri": "uri"}),
    "region": (set(), {"byteOffset": int, "byteLength": int}),
    "logical": (set(), {"fullyQualifiedName": str, "kind": str}),
}  # fmt: skip
URI = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-F]{2})+")


def faults(value: object, kind: object, path: str = "log") -> list[str]:
    """Where a value is not what the schema wants, by its path."""
    if isinstance(kind, list):
        if not isinstance(value, list):
            return [f"{path}: no array"]
        return [fault for at, item in enumerate(value) for fault in faults(item, kind[0], f"{path}[{at}]")]
    if isinstance(kind, set):
        return [] if value in kind else [f"{path}: {value!r}"]
    if kind == "uri":
        return [] if isinstance(value, str) and URI.fullmatch(value) else [f"{path}: {value!r} is no URI"]
    if isinstance(kind, type):
        ok = isinstance(value, kind) and not isinstance(value, bool) and not (kind is int and value < 0)
        return [] if ok else [f"{path}: {value!r} is no {kind.__name__}"]
    required, allowed = OBJECTS[kind]
    if not isinstance(value, dict):
        return [f"{path}: no object"]
    found = [f"{path}: {name} is missing" for name in required - value.keys()]
    for name, child in value.items():
        found += faults(child, allowed[name], f"{path}.{name}") if name in allowed else [f"{path}: {name} is unknown"]
    return found


def test_the_log_of_every_attack_has_the_structure_of_the_schema(tmp_path):
    attacks.write_all(tmp_path, attacks.programs() | attacks.containers())
    (tmp_path / "\udcff #%\x1b[31m.pkl").write_bytes(attacks.evil())
    (tmp_path / "names.pkl").write_bytes(attacks.reduce_of("o\u202es", "sys\x07tem"))
    (tmp_path / "zip.pt").write_bytes(attacks.torch_zip(attacks.GOOD, ("archive/\x1b[2J", attacks.evil())))
    log = json.loads(json.dumps(sarif([scan(tmp_path), scan(tmp_path / "zip.pt")])))
    assert faults(log, "log") == []
    results = log["runs"][0]["results"]
    assert len(results) > 100
    texts = [result["message"]["text"] for result in results]
    texts += [place["logicalLocations"][0]["fullyQualifiedName"] for result in results
              for place in result["locations"] if "logicalLocations" in place]  # fmt: skip
    assert all(text.isprintable() and len(text) <= 1001 for text in texts)
    for result in results:
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].startswith("file:///")


def test_the_structure_is_really_looked_at(tmp_path):
    (tmp_path / "evil.pkl").write_bytes(attacks.evil())
    for path, name, value in (
        (("runs", 0), "tool", None), (("runs", 0, "results", 0), "level", "danger"),
        (("runs", 0, "results", 0), "severity", "x"), (("runs", 0, "results", 0, "message"), "text", 3),
        (("runs", 0, "results", 0, "locations", 0, "physicalLocation", "artifactLocation"), "uri", "a b"),
    ):  # fmt: skip
        log = json.loads(json.dumps(sarif([scan(tmp_path)])))
        target = log
        for step in path:
            target = target[step]
        target[name] = value
        assert len(faults(log, "log")) == 1, name


def test_nothing_found_is_a_log_without_results(tmp_path):
    (tmp_path / "good.pt").write_bytes(attacks.torch_zip(attacks.GOOD))
    assert sarif([scan(tmp_path)])["runs"][0]["results"] == []
