"""`tocsin estimate-cost`: from what was counted to a month's bill. (What is counted: profiles/test_aws_costs.py)"""

from pathlib import Path
from typing import cast

import msgspec
import pytest

from tests.test_aws_documents import ROOT, rows
from tests.test_cli import complained, misused, said
from tocsin.cli.aws_costs import BY_RULE, COSTS, COUNTERS, PRICES, Counter, estimate, price_of, units_of

PAGE = (ROOT / "docs" / "aws-costs.md").read_text()


def usd(**counters: float) -> float:
    return sum(line.usd for line in estimate(cast(dict[Counter, float], counters)))


def test_every_counter_has_a_cost() -> None:
    assert set(COSTS) | set(BY_RULE) == set(COUNTERS)
    assert all(units_of(counter) for counter in COUNTERS)


def test_a_month_without_anybody_still_costs_something() -> None:
    assert 10 < usd() < 30


def test_what_is_counted_in_a_week_is_more_in_a_month_but_what_is_stored_is_not() -> None:
    week = {line.unit: line.amount for line in estimate({"p2p": 7, "stored_gb": 5}, days=7)}
    empty = {line.unit: line.amount for line in estimate({})}
    assert week["dynamodb writes"] - empty["dynamodb writes"] == pytest.approx(6 * 30)
    assert week["stored GB"] == 5
    assert week["alarm metrics"] == empty["alarm metrics"]


def test_cloudwatchs_own_answer_is_read_and_a_flag_counts_before_it(tmp_path: Path) -> None:
    answer = {"MetricDataResults": [{"Id": "p2p", "Label": "x", "Values": [1e6, 2e6]}, {"Id": "pages", "Values": []}]}
    path = tmp_path / "answer.json"
    path.write_bytes(msgspec.json.encode(answer))
    read = msgspec.json.decode(said("estimate-cost", path, "--json"))
    assert read["usd"] == round(usd(p2p=3e6), 2)
    assert msgspec.json.decode(said("estimate-cost", path, "--p2p", "0", "--json"))["usd"] == round(usd(), 2)


def test_what_is_no_answer_of_cloudwatchs_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    path.write_text('{"MetricDataResults": [{"Id": "visitors", "Values": []}]}')
    assert "visitors is no counter" in complained(1, "estimate-cost", path)
    path.write_text("no JSON")
    assert "no answer of get-metric-data" in complained(1, "estimate-cost", path)
    assert "--days" in misused("estimate-cost", "--days", "0")
    assert "a number from 0 to 1e+" in misused("estimate-cost", "--p2p", "-1")


def test_the_price_list_says_whose_it_is() -> None:
    whose = f"Prices of us-east-1 as AWS's pages were quoted in {PRICES.as_of}"
    assert said("estimate-cost").splitlines()[-1].startswith(whose)


def test_a_price_list_that_is_handed_in_counts_in_the_place_of_ours(tmp_path: Path) -> None:
    ours = msgspec.json.decode(said("estimate-cost", "--json"))
    path = tmp_path / "prices.json"
    dearer = {unit: 3 * usd for unit, usd in ours["prices"]["usd"].items()}
    path.write_bytes(msgspec.json.encode({"region": "eu-west-1", "asOf": "2027-01", "usd": dearer}))
    theirs = msgspec.json.decode(said("estimate-cost", "--prices", path, "--json"))
    assert theirs["usd"] == pytest.approx(3 * ours["usd"], abs=0.02)
    assert f"Prices of eu-west-1 of {path}, as of 2027-01" in said("estimate-cost", "--prices", path)
    del dearer["alarm metrics"]
    path.write_bytes(msgspec.json.encode({"region": "eu-west-1", "asOf": "2027-01", "usd": dearer}))
    assert "there is no price for alarm metrics" in complained(1, "estimate-cost", "--prices", path)


# -- the page ----------------------------------------------------------------------------------------------------------


def section(heading: str) -> list[list[str]]:
    return rows(PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0])


def test_the_page_has_the_units_and_the_price_of_each_thing() -> None:
    found = {row[0].strip("`"): row[2:] for row in section("What each thing asks of AWS")}
    assert set(found) == set(COUNTERS) - {"stored_gb"}
    for counter in COUNTERS:
        if counter != "stored_gb":
            units = units_of(counter)
            amounts = [f"{units.get(unit, 0):g}" for unit in ("dynamodb reads", "dynamodb writes")]
            assert found[counter] == [*amounts, f"{price_of(counter) * 1e6:.2f}"], counter


def test_the_page_has_the_price_list() -> None:
    listed = {row[0]: row[1] for row in section("The price list")}
    assert listed == {unit: f"{usd * (1e6 if usd < 0.001 else 1):g}" for unit, usd in PRICES.usd.items()}
    assert f"in {PRICES.region}" in PAGE
    assert f"in {PRICES.as_of}" in PAGE


def test_the_page_about_leaving_has_the_price_of_a_delivery_each_second() -> None:
    said_there = (ROOT / "docs" / "aws-when-to-leave.md").read_text()
    assert f"1 delivery/s for a month is {price_of('deliveries') * 30 * 86_400:.2f} USD" in said_there


def test_the_page_has_what_a_million_messages_cost() -> None:
    examples = {row[0]: float(row[1]) for row in section("A month")}
    assert examples == {
        "nobody comes": pytest.approx(usd(), abs=0.005),
        "1,000,000 messages, nobody listens": pytest.approx(usd(p2p=1e6), abs=0.005),
        "the same, 10 listen to each": pytest.approx(usd(p2p=1e6, deliveries=1e7), abs=0.005),
        "the same, 1,000 connections all day": pytest.approx(
            usd(p2p=1e6, deliveries=1e7, connection_hours=720_000, connects=420_000), abs=0.005
        ),
    }
