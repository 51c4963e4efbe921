"""MultiWOZ and WOZ, on small files in exactly these formats, and what a malformed file says."""

from __future__ import annotations

import zipfile

import pytest

from peft_fishdip.tasks import SlotValue, Turn, read_multiwoz, read_woz

from .files import refused


def multiwoz():
    def semi(**slots):
        return {"semi": slots, "book": {"booked": [], "day": "friday", "people": ""}}

    first = {
        "hotel": semi(pricerange="cheap", area="not mentioned", name="none"),
        "police": {"book": {"booked": []}, "semi": {"name": "x"}},
        "taxi": {"book": {"booked": []}, "semi": {"leaveAt": "", "arriveBy": "17:15"}},
    }
    texts = ["a cheap hotel", "which area ?", "no", "bye"]
    log = [{"text": text, "metadata": {}} for text in texts]
    log[1]["metadata"] = first
    log[3]["metadata"] = {}
    return {"D1": {"log": log}}


@pytest.mark.parametrize("zipped", [False, True])
def test_multiwoz(write, tmp_path, zipped):
    path = write(multiwoz())
    if zipped:
        text = path.read_text(encoding="utf-8")
        path = tmp_path / "dialogues.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("val.json", text)
    one, two = read_multiwoz(path)
    assert one.state == (
        SlotValue("hotel", "book day", "friday"),
        SlotValue("hotel", "price range", "cheap"),
        SlotValue("taxi", "arrive by", "17:15"),
    )
    assert one.turns == (Turn("user", "a cheap hotel"),)
    assert two.turns == (*one.turns, Turn("agent", "which area ?"), Turn("user", "no"))
    assert two.state == ()
    assert (one.id, two.id) == ("D1:0", "D1:1")
    (police, _) = read_multiwoz(path, domains=["police"])
    assert police.state == (SlotValue("police", "name", "x"),)


@pytest.mark.parametrize(
    ("value", "kept"),
    [(" ", None), ("Not Mentioned", None), ("None ", None), ([], None), (["", "none"], None), (["", "north"], "north")],
)
def test_absent_values(write, value, kept):
    data = multiwoz()
    data["D1"]["log"][1]["metadata"]["hotel"]["semi"] = {"area": value}
    areas = [entry.value for entry in read_multiwoz(write(data))[0].state if entry.slot == "area"]
    assert areas == [kept] * (kept is not None)
    if isinstance(value, str):
        slots = [["area", value], ["food", "thai"]]
        (food,) = read_woz(write(woz({"act": "inform", "slots": slots})))[0].state
        assert food.slot == "food"


def test_malformed_multiwoz(write, tmp_path):
    data = multiwoz()
    data["D1"]["log"].pop()
    refused(read_multiwoz, write(data), "D1", "an even number of turns", "3")
    data = multiwoz()
    del data["D1"]["log"][3]["metadata"]
    refused(read_multiwoz, write(data), "D1, turn 3", "a dict under 'metadata'")
    data = multiwoz()
    data["D1"]["log"][1]["metadata"]["taxi"]["semi"]["arriveBy"] = 17
    refused(read_multiwoz, write(data), "D1, turn 1", "a text as value of taxi arriveBy", "17")
    data["D1"]["log"][1]["metadata"]["taxi"]["semi"] = {"leaveAt": "9:00", "leave at": "9:15"}
    refused(read_multiwoz, write(data), "D1, turn 1", "one value per slot", "'9:15'")
    for domains in ("taxi", ["taksi"]):
        with pytest.raises(ValueError, match=r"domains=.*ta(x|ks)i.* has none of them, but hotel, police, taxi"):
            read_multiwoz(write(multiwoz()), domains=domains)
    refused(read_multiwoz, write("5"), "an object from dialogue id")
    path = tmp_path / "empty.zip"
    zipfile.ZipFile(path, "w").close()
    refused(read_multiwoz, path, "exactly one .json file")


def woz(*acts):
    turn = {"system_transcript": "", "transcript": "cheap food", "belief_state": list(acts)}
    again = {"system_transcript": "any area ?", "transcript": "no", "belief_state": []}
    return [{"dialogue_idx": 4, "dialogue": [turn, again]}]


def test_woz(write):
    cheap = {"act": "inform", "slots": [["price range", "cheap"]]}
    phone = {"act": "request", "slots": [["slot", "phone"]]}
    one, two = read_woz(write(woz(cheap, phone, cheap)))
    assert one.state == (SlotValue("restaurant", "price range", "cheap"),)
    assert one.turns == (Turn("user", "cheap food"),)
    assert two.turns == (Turn("user", "cheap food"), Turn("agent", "any area ?"), Turn("user", "no"))
    assert (one.id, two.id, two.state) == ("4:0", "4:1", ())
    dear = {"act": "inform", "slots": [["price range", "expensive"]]}
    refused(read_woz, write(woz(cheap, dear)), "dialogue 0, turn 0", "one value per slot", "'expensive'")
    refused(read_woz, write(woz({"act": "inform", "slots": ["x"]})), "[slot, value] under 'slots'")
    refused(read_woz, write({}), "a list of dialogues")
