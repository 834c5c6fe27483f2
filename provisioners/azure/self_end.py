"""Self-ending machines: a guest's shutdown only stops an Azure machine, which is then billed on.

With an identity, a machine can ask Azure Resource Manager for its own deletion: the instance metadata service gives it
a token and its resource id.  The command needs python3's standard library and nothing else.
"""

from __future__ import annotations

from urllib.parse import quote

from provisioners.azure import settings

#: What can be left behind if the daemon never comes back, with an identity and without one.
RESIDUE = (
    "a machine deletes itself by its identity; where that fails it is stopped and billed until the daemon or "
    '"runnerd sweep" deletes it'
)
RESIDUE_WITHOUT = (
    "a machine cannot delete itself: it is stopped at its deadline, and billed until the daemon or "
    '"runnerd sweep" deletes it'
)
#: The instance metadata service (documented, link-local).
METADATA = "http://169.254.169.254"
_TOKEN_API, _INSTANCE_API, _COMPUTE_API = "2018-02-01", "2021-02-01", "2024-07-01"

#: Run by ``python3 -c`` on the machine.  Tries for half a minute, so that it ends within the minute that an agent gives
#: it, then leaves it to the power-off: better stopped and billed in part than running.
_SCRIPT = """
import json, sys, time, urllib.request as web
meta, arm, audience, who = sys.argv[1:5]
direct = web.build_opener(web.ProxyHandler({{}}))
def ask(path):
    request = web.Request(meta + path, headers={{"Metadata": "true"}})
    return direct.open(request, timeout=5).read().decode()
end = time.monotonic() + {budget}
while True:
    try:
        vm = ask("/metadata/instance/compute/resourceId?api-version={instance}&format=text").strip()
        path = "/metadata/identity/oauth2/token?api-version={token}&resource=" + audience + "/" + who
        token = json.loads(ask(path))["access_token"]
        url = arm + vm + "?api-version={compute}&forceDeletion=true"
        request = web.Request(url, method="DELETE", headers={{"Authorization": "Bearer " + token}})
        web.urlopen(request, timeout=15)
        sys.exit(0)
    except OSError as error:
        print("runnerd: cannot delete this machine:", error, file=sys.stderr)
    except (ValueError, KeyError) as error:
        print("runnerd: no token for this machine:", error, file=sys.stderr)
    if time.monotonic() > end:
        sys.exit(1)
    time.sleep({pause})
"""


def command(
    chosen: settings.Settings,
    *,
    metadata: str = METADATA,
    budget: float = 25.0,
    pause: float = 5.0,
    off: str = "systemctl poweroff",
) -> tuple[str, ...]:
    """The command by which a machine deletes itself, and then powers off in any case."""
    script = _SCRIPT.format(
        budget=budget, pause=pause, instance=_INSTANCE_API, token=_TOKEN_API, compute=_COMPUTE_API
    ).strip()
    who = "" if chosen.identity == settings.SYSTEM else f"&msi_res_id={quote(chosen.identity, safe='')}"
    return ("sh", "-c", f'python3 -c "$0" "$@"; exec {off}', script, metadata, chosen.endpoint, chosen.audience, who)
