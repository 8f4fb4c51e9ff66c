"""The live page and its server: shows the newest result, never changes anything."""

from __future__ import annotations

from dataclasses import dataclass

from emstream.errors import BadRule, BadSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """Where the page is, and who may see it."""

    http: str | None = None  # HOST:PORT; port 0 = any free one; None = no page
    token: str = ""  # empty = a new random one of 192 bits at each start
    hosts: str = ""  # further names, comma separated, by which a browser may reach the page (behind a proxy)
    max_clients: int = 8  # pages open at once
    preview_px: int = 512  # longer side of the picture that is sent
    history: int = 4096  # points kept of each curve; longer runs are thinned evenly
    alarms: tuple[str, ...] = ()  # one rule each: "count fell 30 % in 5 s", "drift > 2 nm/s", "no frame for 3 periods"
    webhook: str = ""  # http(s) address that gets a POST of JSON when an alarm begins or ends

    def __post_init__(self) -> None:
        from emstream.view.rules import parse
        from emstream.view.webhook import Webhook

        wrong = []
        for line in self.alarms:
            try:
                parse(line)
            except BadRule as err:
                wrong.append(f"view.alarms: {err}")
        if self.webhook:
            Webhook.check(self.webhook)
        if wrong:
            raise BadSettings("; ".join(wrong), problems=tuple(wrong))
