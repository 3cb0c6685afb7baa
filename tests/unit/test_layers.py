"""Import arrows point one way: what a reader has understood never changes further down."""

import ast
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from worker.bootstrap import ROOT

# A file imports from layers above its own line, or from its own layer where no circle arises.
# A new file is added here, at the highest line that works.
_LAYERS = tuple(
    line.split()
    for line in """
        errors clock masking refusals plain_text telemetry lifeline bootstrap receiver_kit
        models seen route_facts views settings
        states retry ack guard breaker counting routes evidence payload fields money field_* \
            berths shape \
            sealing signers.* columns tables* database schema statements ordering* store_rows \
            endpoint_rows unheard heads migrations.* freeze_rules csv_text
        store* holds freeze_* freezes endpoint* profile* transport connections wire identity \
            bells mailbox doorbell after_commit embedded lookup lanes drafts intake* \
            missed_cursor missed route_rows route_board
        client inbox deliver going_on judging settler rollup incidents tick timeline as_sent \
            quarantine deadletters alert* audit broker ping witness freezer resealing \
            missed_proof missed_file
        runtime selfcheck
        app
        tasks
        console.*
        crew
        alone
        station supervisor demo* cli* __main__
    """.strip().splitlines()
)
# Rules and facts: the same answer for the same arguments, so they may touch nothing outside.
_PURE = (
    "models seen states retry ack guard breaker counting routes route_facts freeze_rules payload "
    "fields money field_* shape heads endpoint_routes store_rows signers.* masking refusals"
)
_OUTSIDE = {
    *("sqlalchemy", "psycopg", "sqlite3", "redis", "celery", "kombu", "pycurl", "requests"),
    *("socket", "subprocess", "threading", "time", "random"),
}


@cache
def _imports() -> dict[str, frozenset[str]]:
    """Every module of ours with what it imports, ours in full, others by their first name."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for folder in ("worker", "schedules")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "versions" not in path.parts
    }
    return {name: frozenset(_read(path, files)) for name, path in files.items()}


def _read(path: Path, ours: dict[str, Path]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in ours else node.module)
    return {name if name in ours else name.partition(".")[0] for name in found}


def _layer(name: str) -> int | None:
    for number, patterns in enumerate(_LAYERS):
        if any(fnmatch(name, f"worker.{pattern}") for pattern in patterns):
            return number
    return None


def _files(package: str) -> list[str]:
    return [name for name in _imports() if name.startswith(f"{package}.")]


@pytest.mark.parametrize("name", _files("worker"))
def test_a_file_imports_only_from_layers_it_stands_on(name: str) -> None:
    if name in ("worker.signers", "worker.migrations", "worker.console"):  # docstring packages
        assert not _imports()[name]
        return
    own = _layer(name)
    assert own is not None, f"{name} stands in no layer; add it to this test"
    for imported in _imports()[name]:
        assert not imported.startswith(("schedules", "tests", "config"))
        if imported.startswith("worker."):
            below = _layer(imported)
            assert below is not None
            assert below <= own, f"{name} (layer {own}) imports {imported} (layer {below})"


def test_no_import_goes_in_a_circle() -> None:
    graph = {name: {i for i in found if i in _imports()} for name, found in _imports().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports go in a circle: {' -> '.join(error.args[1])}")


def test_schedules_import_the_engine_and_nothing_of_the_tests() -> None:
    for name in _files("schedules"):
        assert not any(i.startswith(("tests", "config")) for i in _imports()[name])


@pytest.mark.parametrize(
    "name",
    [n for n in _files("worker") if any(fnmatch(n, f"worker.{p}") for p in _PURE.split())],
)
def test_a_rule_touches_nothing_outside(name: str) -> None:
    assert not _imports()[name] & _OUTSIDE


def test_every_layer_has_its_files() -> None:
    found = {_layer(name) for name in _files("worker")}
    assert found >= {0, 1, 2, 3, 4, 5, 6, 7, len(_LAYERS) - 1}


def test_a_host_that_enqueues_loads_nothing_of_the_worker_side() -> None:
    code = (
        "import sys, worker.client\n"
        "print(*sorted({'celery', 'kombu', 'pycurl', 'flower', 'alembic', 'typer', 'rich',"
        " 'worker.deliver', 'worker.transport', 'worker.runtime'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_init_files_hold_a_docstring_and_nothing_else() -> None:
    for path in [*(ROOT / "worker").rglob("__init__.py"), ROOT / "schedules" / "__init__.py"]:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) <= 1, f"{path} holds more than its docstring"
        assert all(isinstance(node, ast.Expr) for node in body)
