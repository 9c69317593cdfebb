"""Mininet, imported with care: the only door through which the testbed takes it.

Three things are in the way. Its node module imports `distutils` for the sake of Open vSwitch version numbers, which costs 0.25 s and is
gone from Python 3.12. Its init rewrites machine-wide limits and sysctls. And its `setup` asks for ifconfig, which nothing here uses.
"""

from __future__ import annotations

import sys
from types import ModuleType

STAND_INS = ("distutils", "distutils.version")


def _stand_in(name: str) -> ModuleType:
    module = ModuleType(name)
    module.StrictVersion = str  # type: ignore[attr-defined]  # a module made at run time has no declared names
    return module


_present = {name: sys.modules.get(name) for name in STAND_INS}
sys.modules.update({name: _stand_in(name) for name in STAND_INS})
try:
    from mininet import net as _net
    from mininet.link import Intf, Link
    from mininet.net import Mininet
    from mininet.node import Host, Switch
finally:
    for _name, _module in _present.items():
        if _module is None:
            del sys.modules[_name]
        else:
            sys.modules[_name] = _module

_net.fixLimits = lambda: None

__all__ = ["Host", "Intf", "Link", "Mininet", "Switch"]
