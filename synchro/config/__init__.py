"""Settings and limits of one instance: what every part of the program may know of the configuration.

A core imports this package and nothing below it. What reads a file or a person's words stands in the modules:

    settings    Settings, Limits, their enums: each option is declared at its field (ADR 27)
    option      what one option is                   options         the table of all
    file        YAML -> Settings of one instance     values          what a person wrote -> a value
    schema      which keys may stand where           rules           what several of them must agree on
    json_schema the schema for editors               quorum_formula  "N / 2 + 1"
    credentials users and roles that it names        quorum_rules    what quorums give up, or may not be
    located     values with their file and line      address         host:port of a listener or a peer
    template    the file that `synchro init` writes
    changes     what two files differ in, and what of it a running instance takes over
"""

from __future__ import annotations

from synchro.config.credentials import ConfiguredGrant, ConfiguredUser, Credentials
from synchro.config.logins import NO_LOGIN, PeerLogin, PeerLogins
from synchro.config.option import KIB, MIB, Change, told_value
from synchro.config.quorum_formula import QuorumFormula
from synchro.config.settings import (
    DURATION_S_MAX,
    FIRST_REQUEST_S,
    LOG_WAITING_BYTES_MAX,
    RESERVED_DESCRIPTORS,
    BootstrapStrategy,
    ClientAuth,
    ElectionMode,
    FencingMode,
    Limits,
    PeerAddress,
    Settings,
    WalMode,
    doubtful,
)

__all__ = [
    "DURATION_S_MAX",
    "FIRST_REQUEST_S",
    "KIB",
    "LOG_WAITING_BYTES_MAX",
    "MIB",
    "NO_LOGIN",
    "RESERVED_DESCRIPTORS",
    "BootstrapStrategy",
    "Change",
    "ClientAuth",
    "ConfiguredGrant",
    "ConfiguredUser",
    "Credentials",
    "ElectionMode",
    "FencingMode",
    "Limits",
    "PeerAddress",
    "PeerLogin",
    "PeerLogins",
    "QuorumFormula",
    "Settings",
    "WalMode",
    "doubtful",
    "told_value",
]
