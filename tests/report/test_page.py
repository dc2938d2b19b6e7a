"""The page of a run: its numbers, its notes, and that nothing in it comes from elsewhere."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from detframe.engine.report_run import report_run
from detframe.errors import MissingFileError
from detframe.report.page import script_json
from tests.evaluation.reference import pycocotools_stats
from tests.report.runs import BALL, BOX, FOUND, LOG, ROWS, TRUTH, make_run, train_row


class Page(HTMLParser):
    """What a page says: texts, the cells of its tables by their name, the data of its scripts, what it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tables: dict[str, list[list[str]]] = {}
        self.text, self.references, self.notes = "", [], []
        self._table, self._inside, self._note = "", [], False
        self.data = {}
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.references += [v for k, v in attributes if k in ("src", "href", "srcset", "action") and v]
        self._inside.append((tag, known.get("id")))
        if tag == "table":
            self._table = known.get("data-table", "")
            self.tables.setdefault(self._table, [])
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th") and self.tables.get(self._table):
            self.tables[self._table][-1].append("")
        elif tag == "p" and known.get("class") == "note":
            self._note = True
            self.notes.append("")

    def handle_endtag(self, tag):
        if tag == "p":
            self._note = False
        elif tag == "table":
            self._table = ""

    def handle_data(self, text):
        tag, name = self._inside[-1] if self._inside else ("", None)
        if tag == "script" and name == "data" and not self.data:
            self.data = json.loads(text)
        elif tag not in ("script", "style"):
            self.text += text
            if self._note:
                self.notes[-1] += text
            elif self.tables.get(self._table) and self.tables[self._table][-1]:
                cell = self.tables[self._table][-1][-1]
                self.tables[self._table][-1][-1] = f"{cell} {text.strip()}".strip()


def page_of(folder: Path) -> Page:
    return Page(report_run(folder))


def numbers_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_ap_on_the_page_is_that_of_pycocotools(run):
    page = page_of(run)
    dataset = json.loads((run / "data" / "toy.json").read_text())
    stats = pycocotools_stats(dataset, json.loads((run / "predictions_toy.json").read_text()))
    total = page.tables["ap"][1]
    shown = ["–" if value < 0 else f"{value:.1f}" for value in stats[:6]]
    assert total == ["all classes", "5", "5", *shown]
    assert numbers_of(run)["sets"]["toy"]["metrics"] == {"bbox/AP": 50.0}


def test_precision_and_recall_at_the_best_threshold_are_counted_by_hand(run):
    # by falling score: 0.9 right, 0.85 wrong, 0.8 right, 0.7 wrong, 0.6 wrong; 5 objects. F1: 2/6, 2/7, 4/8, 4/9, 4/10
    page = page_of(run)
    assert page.tables["thresholds"][1] == ["all classes", "0.80", "66.7%", "40.0%", "50.0%"]
    ball = page.tables["thresholds"][2]  # 0.9 right, 0.6 wrong; 2 objects
    assert ball == ["ball", "0.90", "100.0%", "50.0%", "66.7%"]


def test_errors_and_confusions_are_counted_by_hand(run):
    page = page_of(run)
    counts = {row[0]: row[1] for row in page.tables["errors"][1:]}
    assert counts == {
        "Classification": "1",
        "Localisation": "0",
        "Both": "0",
        "Duplicate": "1",
        "Background": "1",
        "Missed": "2",
    }
    # at 0.80: the ball and the box of image 1 are found, a box where nothing is; the rest is missed
    rows = [[cell.partition(" ")[0] for cell in row] for row in page.tables["confusion"]]
    assert rows == [
        ["", "ball", "box", "background"],
        ["ball", "1", "0", "1"],
        ["box", "0", "1", "2"],
        ["background", "0", "1", ""],
    ]


def test_images_by_their_errors(run):
    images = {row["image_id"]: row for row in numbers_of_page(run)}
    found = {i: (row["right"], row["wrong"], row["missed"]) for i, row in images.items()}
    assert found == {1: (2, 0, 0), 2: (0, 1, 1), 3: (0, 0, 2), 4: (0, 0, 0)}
    assert images[1]["f1"] == 1.0
    assert images[1]["file"].endswith("001.jpg")


def numbers_of_page(run):
    report_run(run)
    return numbers_of(run)["sets"]["toy"]["images"]


def test_pictures_name_files_and_annotations(run):
    crops = page_of(run).data["sets"][0]["crops"]
    missed = {tuple(c["ann_ids"]): c for c in crops if c["kind"] == "missed"}
    assert set(missed) == {(1002,), (1003,), (1004,)}
    assert missed[(1003,)]["file"].endswith("003.jpg")
    assert (missed[(1003,)]["label"], missed[(1003,)]["size"]) == ("box", "medium")
    wrong = {c["text"].split(":")[0]: c for c in crops if c["kind"] == "false positive"}
    assert set(wrong) == {"box 0.85", "box 0.70", "ball 0.60"}
    assert wrong["box 0.85"]["error"] == "nothing there"
    assert wrong["box 0.70"]["error"] == "wrong class"
    assert (wrong["ball 0.60"]["error"], wrong["ball 0.60"]["ann_ids"]) == ("duplicate", [1000])
    assert all(c["picture"] for c in crops)
    assert {c["name"] for c in crops if c["kind"] == "image"} == {"002.jpg", "003.jpg"}


def test_the_focus_is_in_its_picture_and_among_its_boxes(run):
    for crop in page_of(run).data["sets"][0]["crops"]:
        x, y, width, height = crop["frame"]
        assert 0 <= x and x + width <= 160 and 0 <= y and y + height <= 120
        if crop["focus"]:
            x1, y1, x2, y2 = crop["focus"]
            assert x <= x1 and x2 <= x + width + 0.01 and y <= y1 and y2 <= y + height + 0.01
            boxes = np.array([mark["box"] for mark in (*crop["truth"], *crop["found"])])
            assert np.abs(boxes - crop["focus"]).max(axis=1).min() < 0.1


def test_the_page_refers_to_nothing_outside(run):
    page = page_of(run)
    assert {ref for ref in page.references if not ref.startswith(("#", "data:"))} == set()
    assert "default-src 'none'" in page.source
    assert len(page.source) < 15e6


def test_the_page_and_the_json_say_the_same(run):
    page = page_of(run)
    numbers = numbers_of(run)
    best = numbers["sets"]["toy"]["analysis"]["curves"][0]["best"]
    assert f"{best['score']:.2f}" == page.tables["thresholds"][1][1]
    assert numbers["run"]["command"] == "detframe train --data x"
    assert "detframe train --data x" in page.text
    assert [c["name"] for c in page.data["curves"]["losses"]] == ["loss", "loss_cls"]
    assert page.data["curves"]["metrics"] == [{"name": "bbox/AP", "x": [20, 40], "y": [40.0, 50.0]}]
    assert {row[0] for row in page.tables["config"][1:]} == {c["key"] for c in numbers["config"]}


def test_names_from_files_are_text_and_no_code(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    run = make_run(tmp_path / "run", TRUTH, FOUND, classes=("<b>&amp;", evil))
    page = page_of(run)
    assert evil not in page.source
    assert evil in page.text
    assert page.data["sets"][0]["crops"][0]["picture"]


def test_json_in_a_script_ends_no_element():
    text = script_json({"a": "</script><!-- & \u2028"})
    assert "<" not in text and "&" not in text
    assert json.loads(text) == {"a": "</script><!-- & \u2028"}


# ---------------------------------------------------------------------------------------------- bad input
def test_no_detections_at_all(tmp_path):
    page = page_of(make_run(tmp_path / "run", TRUTH, {}))
    assert any("not one detection" in note for note in page.notes)
    assert page.tables["ap"][1][3] == "0.0"
    assert page.tables["thresholds"][1] == ["all classes", "–", "–", "0.0%", "0.0%"]


def test_no_objects_at_all(tmp_path):
    page = page_of(make_run(tmp_path / "run", {1: [], 2: []}, FOUND))
    assert any("no object in the annotations" in note for note in page.notes)
    assert page.tables["ap"][1][3] == "–"


def test_one_class(tmp_path):
    truth = {1: [(1, [10, 10, 30, 30])], 2: [(1, [50, 50, 40, 40])]}
    found = {1: [(1, [10, 10, 30, 30], 0.9)], 2: [(1, [52, 50, 40, 40], 0.8)]}
    page = page_of(make_run(tmp_path / "run", truth, found, classes=("ball",)))
    assert page.tables["thresholds"][1][1:] == ["0.80", "100.0%", "100.0%", "100.0%"]
    assert "There is no picture to show" in page.text


def test_many_objects_in_one_image(tmp_path):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 1900, (10_000, 2)).round(1).tolist()
    truth = {1: [(1, [x, y, 12, 12]) for x, y in corners]}
    found = {1: [(1, [x, y, 12, 12], 0.5) for x, y in corners[:5000]]}
    run = make_run(tmp_path / "run", truth, found, size_hw=(2000, 2000), overrides=("TEST.DETECTIONS_PER_IMG", 10_000))
    page = page_of(run)
    assert page.tables["ap"][1][1:3] == ["10,000", "5,000"]
    assert len(page.source) < 15e6
    assert all(crop["left_out"] for crop in page.data["sets"][0]["crops"] if crop["kind"] == "image")


def test_a_data_set_without_images(tmp_path):
    page = page_of(make_run(tmp_path / "run", {}, {}))
    assert any("toy could not be looked at" in note for note in map(str.lower, page.notes))
    assert "How it was trained" in page.text


def test_a_run_that_was_cut(tmp_path):
    run = make_run(tmp_path / "run", TRUTH, None, rows=[train_row(20)])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 21, "lo')
    page = page_of(run)
    assert any("Cut after iteration 20 of 40" in note for note in page.notes)
    assert any("no checkpoint" in note for note in page.notes)
    assert page.data["curves"]["losses"][0]["x"] == [20]


def test_an_image_that_is_missing_now(run):
    (run / "data" / "images" / "003.jpg").unlink()
    page = page_of(run)
    gone = [crop for crop in page.data["sets"][0]["crops"] if crop["name"] == "003.jpg"]
    assert gone and all(not crop["picture"] and "cannot be read now" in crop["problem"] for crop in gone)
    assert page.tables["ap"][1][1] == "5"  # its objects count all the same


def test_data_that_are_gone(run):
    (run / "data" / "toy.json").unlink()
    page = page_of(run)
    assert any("could not be looked at" in note and "toy.json" in note for note in page.notes)


@pytest.mark.parametrize("name", ["metrics.jsonl", "log.txt"])
def test_files_that_are_missing(run, name):
    (run / name).unlink()
    page = page_of(run)
    assert page.tables["ap"][1][1] == "5"


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("predictions_toy.json", "[{", "no JSON"),
        ("evaluation.json", "{", "left out"),
        ("evaluation.json", "[]", "left out"),
        ("metrics.jsonl", "[]\n\x00\n", "step of this run is in"),
    ],
)
def test_files_that_hold_something_else(run, name, content, word):
    (run / name).write_text(content)
    assert any(word in note for note in page_of(run).notes)


@pytest.mark.parametrize("value", ["high", [1], {}, True, 10**400], ids=lambda value: type(value).__name__)
def test_metrics_that_are_no_numbers_are_unknown(tmp_path, value):
    rows = [{"iteration": 40, "loss": value}, {"iteration": 40, "bbox/AP": value}]
    run = make_run(tmp_path / "run", TRUTH, FOUND, rows=rows)
    (run / "evaluation.json").write_text(json.dumps({"metrics": {"bbox/AP": value}, "iteration": "last"}))
    page_of(run)
    one = numbers_of(run)["sets"]["toy"]
    assert one["notes"] == [] and one["metrics"] == {"bbox/AP": None} and one["iteration"] is None
    assert one["analysis"]["ap"]["objects"]


def test_detections_of_other_weights_than_the_metrics(tmp_path):
    rows = [*ROWS[:3], {"iteration": 40, "bbox/AP": 77.0}]
    page = page_of(make_run(tmp_path / "run", TRUTH, FOUND, rows=rows))
    assert any("77.00" in note and "other weights" in note for note in page.notes)


def test_metrics_by_the_rules_of_lvis_are_not_of_other_weights(tmp_path):
    rows = [*ROWS[:3], {"iteration": 40, "bbox/AP": 77.0, "bbox/APr": 70.0}]
    notes = page_of(make_run(tmp_path / "run", TRUTH, FOUND, rows=rows)).notes
    assert any("rules of LVIS" in note for note in notes)
    assert not any("other weights" in note for note in notes)


def test_detections_of_images_that_the_data_set_does_not_have(tmp_path):
    page = page_of(
        make_run(tmp_path / "run", TRUTH, {**FOUND, 99: [(BOX, [1, 1, 9, 9], 0.9), (BALL, [1, 1, 9, 9], 0.9)]})
    )
    assert any("1 image that the data set does not have" in note for note in page.notes)


def test_a_run_without_test_data(tmp_path):
    page = page_of(make_run(tmp_path / "run", TRUTH, None, overrides=("DATASETS.TEST", ())))
    assert any("DATASETS.TEST is empty" in note for note in page.notes)


def test_an_evaluator_without_classes(tmp_path):
    page = page_of(make_run(tmp_path / "run", TRUTH, FOUND, overrides=("TEST.EVALUATOR", "proposals")))
    assert any("no analysis by class" in note for note in page.notes)


def test_a_log_in_another_encoding(tmp_path):
    run = make_run(tmp_path / "run", TRUTH, FOUND)
    (run / "log.txt").write_bytes(LOG.encode() + b"\xff\xfe caf\xe9\n")
    assert "detframe train --data x" in page_of(run).text


def test_what_is_no_run(tmp_path):
    with pytest.raises(MissingFileError, match="no folder"):
        report_run(tmp_path / "nowhere")
    make_run(tmp_path / "runs" / "one", TRUTH, FOUND)
    with pytest.raises(MissingFileError, match=r"holds no config.yaml.*runs/one"):
        report_run(tmp_path / "runs")


# ---------------------------------------------------------------------------------------------- what to try next
def advice_of(run):
    page = page_of(run)
    return [step["code"] for step in numbers_of(run)["sets"]["toy"]["advice"]], page


def test_a_validation_loss_that_rises_is_the_first_advice(tmp_path):
    losses = {10: 1.0, 20: 0.6, 30: 0.8, 40: 1.2}
    rows = [
        row for i, value in losses.items() for row in (train_row(i, 2.0 - i / 40), {"iteration": i, "val/loss": value})
    ]
    codes, page = advice_of(make_run(tmp_path / "run", TRUTH, FOUND, rows=rows))
    assert codes[0] == "stop_earlier"
    assert "lowest at iteration 20" in page.text
    assert page.data["curves"]["validation"][0]["y"] == [1.0, 0.6, 0.8, 1.2]


def test_the_validation_loss_of_the_own_data_set_counts(tmp_path):
    rows = [{"iteration": i, "toy/val/loss": v, "other/val/loss": 1.0} for i, v in ((10, 1.0), (20, 0.6), (30, 1.2))]
    assert advice_of(make_run(tmp_path / "run", TRUTH, FOUND, rows=rows))[0][0] == "stop_earlier"


def test_advice_follows_from_the_numbers_of_the_detections(run):
    codes, page = advice_of(run)
    assert codes and "stop_earlier" not in codes
    assert all(step["text"] in page.text for step in numbers_of(run)["sets"]["toy"]["advice"])


def test_tiles_and_whole_images_stand_beside_each_other(tmp_path, monkeypatch):
    """What was compared after the last evaluation is a row of its own in metrics.jsonl."""
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    newest = {**ROWS[-1], "bbox/AP50": 70.0}
    compared = {
        "tiles/pixels": 2.5e6,
        "tiles/seconds": 0.25,
        "whole/bbox/AP": 12.34,
        "whole/bbox/AP50": None,
        "whole/pixels": 1e5,
        "whole/seconds": 0.125,
    }
    rows = [*ROWS[:-1], newest, {"iteration": newest["iteration"], **compared}]
    run = make_run(tmp_path / "run", TRUTH, FOUND, rows=rows)
    page = Page(report_run(run))
    ap, ap50 = (f"{newest[f'bbox/{key}']:.1f}" for key in ("AP", "AP50"))
    assert page.tables["ways"] == [
        ["Images are looked at as", "AP", "AP50", "Megapixels", "Seconds"],
        ["Tiles", ap, ap50, "2.50", "0.250"],
        ["Whole images", "12.3", "–", "0.10", "0.125"],
    ]
    plain = Page(report_run(make_run(tmp_path / "plain", TRUTH, FOUND)))
    assert "ways" not in plain.tables
