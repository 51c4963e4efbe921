"""Members for PEFT's enum of methods, which has no room for outsiders."""

from __future__ import annotations

from typing import Any

from peft import PeftType


def peft_type(name: str) -> Any:
    """The member `PeftType[name]`, made on the first call; see `peft_fishdip/_register.py`."""
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = PeftType  # type: ignore[attr-defined]
    member._sort_order_ = len(PeftType.__members__)  # type: ignore[attr-defined]
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
    return member
