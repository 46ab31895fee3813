"""Keys carry the name of a wrapper (`module.`, `_orig_mod.`).

DataParallel, DistributedDataParallel, `torch.compile`, FSDP and activation checkpointing put the model inside another
module, whose name becomes a part of every key, in front or anywhere inside, and one wrapper inside another.
"""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case, counted, listed
from rekindle.finding import Finding, Severity, Where
from rekindle.keys import plain_keys

CODE, NAME, SINCE = "RK-FILE-65", "wrapper-prefix", "0.1"
WHY = (
    "the state dict was taken from {wrapper}, not from the model inside it; load_state_dict of the plain model then "
    "calls every key missing and every other one unexpected"
)
DO = "{fix}"

_WRAPPERS = {
    "module": "DataParallel or DistributedDataParallel",
    "_orig_mod": "the module that torch.compile returns",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "a module under activation checkpointing",
    "_dmp_wrapped_module": "DistributedModelParallel",
    "_forward_module": "a strategy of Lightning",
}


def check(case: Case) -> Iterator[Finding]:
    """Report the wrappers that the keys of the weights name, once for all keys."""
    plain = plain_keys(case.keys)
    changed = [key for key, name in plain.items() if key != name]
    if not changed:
        return
    parts = [part for part in _WRAPPERS if any(part in key.split(".") and part not in plain[key] for key in changed)]
    count = "all" if len(changed) == len(plain) else f"{len(changed):,} of"
    unique = len(set(plain.values())) == len(plain)
    yield Finding(
        CODE,
        NAME,
        Severity.WARNING,
        f"{count} {counted(len(plain), 'key')} carry the name of a wrapper: {changed[0]}"
        + ("" if unique else "; without it some would have the same name"),
        why=WHY.format(wrapper=listed([_WRAPPERS[part] for part in parts])),
        do=DO.format(fix=case.fix) if unique else "",
        where=Where(key=changed[0]),
    )
