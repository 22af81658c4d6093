"""The load generator's process: a plan in, visits out. Started by `loadtest.load`, which has no gevent in it.

python -m loadtest.generate PLAN.json VISITS.jsonl
"""

import json
import sys
from pathlib import Path
from typing import Any

from locust.util.load_locustfile import load_locustfile

from loadtest.locustfile import Asker, Workload
from loadtest.open_loop import Generator, OpenLoopUser, open_user
from loadtest.outcomes import Visit, visit_row


def main(plan_path: Path, visits_path: Path) -> None:
    """The plan says what is asked of whom, and when, or how many ask one question after the other."""
    plan: dict[str, Any] = json.loads(plan_path.read_text(encoding="utf-8"))
    Asker.workload = Workload(plan)
    user = open_user(user_class(plan["locustfile"]), plan["url"])
    with visits_path.open("w", encoding="utf-8") as file:

        def keep(visit: Visit) -> None:
            file.write(json.dumps(visit_row(visit)) + "\n")

        generator = Generator(user, plan["seed"], keep, plan["mix"])
        if plan["closed_users"]:
            generator.run_closed(plan["closed_users"], plan["seconds"])
        else:
            generator.run(plan["moments"])


def user_class(locustfile: str) -> type[OpenLoopUser]:
    """The built-in one, or the only `OpenLoopUser` of a file. Ends the process where there is no such."""
    if not locustfile:
        return Asker
    found = [kind for kind in load_locustfile(locustfile)[0].values() if issubclass(kind, OpenLoopUser)]
    if len(found) != 1:
        sys.exit(f"{locustfile} has {len(found)} subclasses of OpenLoopUser, where one is wanted")
    return found[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
