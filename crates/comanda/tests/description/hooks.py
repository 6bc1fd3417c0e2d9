"""Turns what schemathesis makes up into requests that reach something.

Ids made up at random name nothing, and every answer would be 404. Three of four are replaced by ids that are there
(KNOWN_IDS names a JSON file: kind of thing -> ids). Long waits that the API would honour are cut to a second. The choice
follows from the made-up value, so that a run repeats.
"""

import json
import os
import zlib

import schemathesis

with open(os.environ["KNOWN_IDS"], encoding="utf-8") as file:
    KNOWN = json.load(file)

# Numbers beyond are refused.
LONGEST_WAIT_SECONDS = 2**64 - 1


def chosen(kind, made_up):
    """A known id of this kind, or the value that was made up."""
    number = zlib.crc32(repr(made_up).encode())
    known = KNOWN.get(kind)
    return known[number // 4 % len(known)] if known and number % 4 else made_up


def short(seconds):
    """The wait, or one second for what the API would wait; what it must refuse stays."""
    try:
        waits = not isinstance(seconds, bool) and 1 < int(seconds) <= LONGEST_WAIT_SECONDS
    except (TypeError, ValueError):
        return seconds
    return type(seconds)(1) if waits else seconds


@schemathesis.hook
def before_call(context, case, kwargs):
    """Called with each request before it is sent."""
    # `/v1/queues/{name}/claims` is about queues, `/sale/{id}` about sales.
    kind = case.path.removeprefix("/v1").split("/")[1]
    for name, made_up in (case.path_parameters or {}).items():
        case.path_parameters[name] = chosen(kind, made_up)
    for name in ("wait", "waitSeconds"):
        for place in (case.query, case.body):
            if isinstance(place, dict) and name in place:
                place[name] = short(place[name])
    if kind == "claims" and isinstance(case.body, dict):
        items = case.body.get("items")
        for item in items if isinstance(items, list) else []:
            if isinstance(item, dict) and "token" in item:
                item["token"] = chosen("claims", item["token"])
