"""SARIF: the structure that code hosts want, from a real scan."""

from __future__ import annotations

import json

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


def test_nothing_found_is_a_log_without_results(tmp_path):
    (tmp_path / "good.pt").write_bytes(attacks.torch_zip(attacks.GOOD))
    assert sarif([scan(tmp_path)])["runs"][0]["results"] == []
