"""Adds a member to the enum of PEFT methods, which has no public way to register one from another package."""

from __future__ import annotations

from typing import Any

from peft import PeftType


def extended_peft_type(name: str) -> Any:
    """The member `PeftType[name]`, made on the first call.

    `type.__setattr__` is needed from Python 3.12 on, where members are found through class attributes only;
    `Enum` itself refuses to set one.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    # Enum pickles and sorts by these private fields, which only its own metaclass sets otherwise
    member.__objclass__ = PeftType  # type: ignore[attr-defined]
    member._sort_order_ = len(PeftType.__members__)  # type: ignore[attr-defined]
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
    return member


PEFT_TYPE = extended_peft_type("FISHDIP")
