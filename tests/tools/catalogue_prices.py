"""Puts new prices into the catalogue that ships with runnerd; the facts of the machines stay as they are.

    python tests/tools/catalogue_prices.py aws   quotes.json [more.json ...]
    python tests/tools/catalogue_prices.py gcp   quotes.json
    python tests/tools/catalogue_prices.py azure quotes.json

A quotes file is what ``runnerd prices refresh`` leaves in a provider's directory (``prices.json``), or another list
brought into that form: ``{"regions": {REGION: {"as_of": DAY, "source": WORDS, "prices": {TYPE: [ON-DEMAND, SPOT]}}}}``
with null for a price that is not known; two nulls say that the type is sold there.  A later file wins.  A type that is
sold with an accelerator is composed when the file has prices for both under their own names (``n1-standard-8`` and
``nvidia-tesla-t4``).

Regions without a quote keep the prices that they have.  Look at the difference before committing it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from provisioners.catalogue import shipped

FOLDER = Path(shipped.__file__).parent
FACTS = ("name", "gpu", "gpus", "gpu_gib", "cpus", "gib", "arch", "family", "scratch_gb", "accelerator")


def cell(pair: shipped.Pair) -> str:
    """A price cell of the table: ``0.526``, ``0.526/0.21``, ``/0.21`` or ``?``."""
    if not any(pair):
        return "?"
    on_demand, spot = (f"{dollars:.4f}".rstrip("0").rstrip(".") if dollars else "" for dollars in pair)
    return f"{on_demand}/{spot}" if spot else on_demand


def composed(name: str, quotes: dict[str, list[float | None]]) -> shipped.Pair | None:
    """The quoted pair of that machine, of its parts where it is made of two."""
    if name in quotes or "+" not in name:
        pair = quotes.get(name)
        return (pair[0], pair[1]) if pair else None
    general, _, attached = name.partition("+")
    accelerator, _, count = attached.rpartition("x")
    if general not in quotes or accelerator not in quotes:
        return None
    on_demand, spot = (
        None if machine is None or attachment is None else machine + int(count) * attachment
        for machine, attachment in zip(quotes[general], quotes[accelerator], strict=True)
    )
    return on_demand, spot


def main(cloud: str, *files: str) -> None:
    """Rewrite the cloud's table with the quotes of those files."""
    path = FOLDER / f"{cloud}.csv"
    text = path.read_text(encoding="utf-8")
    old = shipped.parse(text)
    rows = [line for line in text.splitlines() if not line.startswith("#")]
    facts = [line.split(",", len(FACTS))[: len(FACTS)] for line in rows[1:]]
    remarks = [
        line for line in text.splitlines() if line.startswith("#") and not line.startswith(("#prices", "#regions"))
    ]
    table = {name: dict(old.prices(name)) for name in old.machines}
    dated = {
        region: line
        for line in text.splitlines()
        if line.startswith("#prices")
        for region in line.split()[1].split(",")
    }
    for file in files:
        for region, entry in json.loads(Path(file).read_text(encoding="utf-8"))["regions"].items():
            for name, pairs in table.items():
                pair = composed(name, entry["prices"])
                if pair is not None and (any(pair) or region not in pairs):
                    pairs[region] = pair
            dated[region] = f"#prices {region} {entry['as_of']} {entry['source']}"
    columns = sorted({region for pairs in table.values() for region in pairs})
    by_words: dict[str, list[str]] = {}
    for region in columns:
        by_words.setdefault(dated[region].split(" ", 2)[2], []).append(region)
    lines = remarks + [f"#prices {','.join(regions)} {words}" for words, regions in sorted(by_words.items())]
    if rest := sorted(old.regions - set(columns)):
        lines.append(f"#regions {' '.join(rest)}")
    lines.append(",".join((*FACTS, *columns)))
    for fact in facts:
        pairs = table[fact[0]]
        lines.append(",".join((*fact, *(cell(pairs[region]) if region in pairs else "" for region in columns))))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
