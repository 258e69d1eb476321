"""Settings and limits of one instance: what every part of the program may know of the configuration.

A core imports this package and nothing below it. What reads a file or a person's words stands in the modules:

    settings    Settings, Limits and their enums     quorum_formula  "N / 2 + 1"
    file        YAML -> Settings of one instance     schema, rules   which keys there are, what must agree
    located     values with their file and line      address         host:port of a listener or a peer
    template    the file that `synchro init` writes
"""

from __future__ import annotations

from synchro.config.quorum_formula import QuorumFormula
from synchro.config.settings import (
    FIRST_REQUEST_S,
    KIB,
    LOG_WAITING_BYTES_MAX,
    MIB,
    RESERVED_DESCRIPTORS,
    BootstrapStrategy,
    ElectionMode,
    FencingMode,
    Limits,
    PeerAddress,
    Settings,
    WalMode,
    doubtful,
)

__all__ = [
    "FIRST_REQUEST_S",
    "KIB",
    "LOG_WAITING_BYTES_MAX",
    "MIB",
    "RESERVED_DESCRIPTORS",
    "BootstrapStrategy",
    "ElectionMode",
    "FencingMode",
    "Limits",
    "PeerAddress",
    "QuorumFormula",
    "Settings",
    "WalMode",
    "doubtful",
]
