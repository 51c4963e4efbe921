"""PEFT's enum of methods has no room for outsiders; this adds the member FISHDIP to it."""

from __future__ import annotations

from typing import Any

from peft import PeftType

NAME = "FISHDIP"


def extended_peft_type() -> Any:
    """The member `PeftType.FISHDIP`, made on the first call.

    `type.__setattr__` is needed from Python 3.12 on, where members are found through class attributes only;
    `Enum` itself refuses to set one.
    """
    if NAME in PeftType.__members__:
        return PeftType[NAME]
    member = str.__new__(PeftType, NAME)
    member._name_ = NAME
    member._value_ = NAME
    # Enum pickles and sorts by these private fields, which only its own metaclass sets otherwise
    member.__objclass__ = PeftType  # type: ignore[attr-defined]
    member._sort_order_ = len(PeftType.__members__)  # type: ignore[attr-defined]
    PeftType._member_names_.append(NAME)
    PeftType._member_map_[NAME] = member
    PeftType._value2member_map_[NAME] = member
    type.__setattr__(PeftType, NAME, member)
    return member


PEFT_TYPE = extended_peft_type()
