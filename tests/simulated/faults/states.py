"""The interesting states: a campaign counts how often it reached each, and must reach all."""

from __future__ import annotations

STATES = (
    "a process stopped",
    "a loop was blocked",
    "stopped between claim and POST, past the lease",
    "the claim of a live owner lapsed",
    "a person settled a job while processes ran",
    "creates were held",
    "a create in doubt while all creates fail",
    "a create was taken after its sender had given up",
    "a create was answered with another task's id",
    "a create was answered by an unlisted 4xx",
    "another spender bought",
    "a doubt in a ledger in memory",
    "equal requests were bought",
    "a request with an image was bought",
    "a request of unknown price was bought",
    "a request of unknown price met a ceiling",
    "a request that was said to be unsent is wanted again",
    "a job was asked for again",
    "on_update raised",
    "on_job raised",
    "the manifest was edited",
    "the manifest was edited while processes ran",
    "a manifest was refused",
    "a key was used for another request meanwhile",
    "an audit concluded: none charged",
    "an audit concluded: all charged",
    "an audit concluded: clean",
)
