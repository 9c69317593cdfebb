"""tidegate list: the scenarios of the library."""

from __future__ import annotations

from scenarios.commands.options import parser, write_json


def main(arguments: list[str]) -> int:
    options = parser("list", "Lists the scenarios of the library.", "  tidegate list\n  tidegate list -o json")
    options.add_argument("-o", "--output", choices=("table", "json"), default="table")
    chosen = options.parse_args(arguments)

    from scenarios.load import library, load_scenario

    scenarios = [load_scenario(path.stem).scenario for path in library()]
    if chosen.output == "json":
        write_json([{"name": s.name, "title": s.title, "description": s.description} for s in scenarios])
        return 0
    from scenarios.tables import print_table

    print_table(("scenario", "what it shows"), [(s.name, s.title) for s in scenarios])
    return 0
