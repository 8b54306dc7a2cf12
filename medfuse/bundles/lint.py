"""Read a bundle's configuration and say what is wrong with it, without evaluating any of it.

A configuration of MONAI is a program: `$` begins an expression of Python, and `_target_` names what is called. Here
both are read as text. What they may name is listed; all else is a finding. That makes an oversight or a plain attack
visible. It is no sandbox: what passes still runs with all rights of the user, and medfuse's and MONAI's own functions
read and write files.
"""

from __future__ import annotations

import ast
import builtins
import configparser
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medfuse.bundles import CONFIG_SUFFIXES, UniqueKeyLoader, bundle_dir, share_dir
from medfuse.bundles.zoo import MAX_CONFIG, Finding, check_files, check_metadata, check_path, one_line
from medfuse.errors import BundleError
from medfuse.io.texts import read_json

ROOTS = ("medfuse", "monai", "torch", "ignite", "numpy", "math", "pathlib", "itertools", "functools")
_REFUSED_PATHS = (  # within the roots: what runs, imports, fetches or unpickles at will
    "torch.hub", "torch.package", "torch.utils.cpp_extension", "torch.utils.model_zoo", "torch.ops", "torch.classes",
    "torch.serialization", "torch.save", "torch.multiprocessing", "torch.distributed", "torch.jit", "torch.storage",
    "monai.bundle", "monai.apps", "monai.auto3dseg", "monai.fl", "monai.utils.module", "monai.utils.optional_import",
    "monai.utils.exact_version", "monai.utils.load_submodules", "monai.utils.misc", "monai.utils.run_cmd",
    "monai.utils.pickle_operations", "monai.data.load_net_with_metadata", "monai.data.torchscript_utils",
    "numpy.load", "numpy.save", "numpy.savez", "numpy.fromfile", "numpy.memmap", "numpy.ctypeslib", "numpy.f2py",
)  # fmt: skip
_REFUSED_NAMES = frozenset(
    [
        "builtins",
        "code",
        "codecs",
        "ctypes",
        "importlib",
        "inspect",
        "marshal",
        "multiprocessing",
        "os",
        "pickle",
        "posix",
        "pty",
        "runpy",
        "shutil",
        "signal",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "urllib",
        "webbrowser",
        "chmod",
        "eval",
        "exec",
        "execfile",
        "fork",
        "format",
        "format_map",
        "hardlink_to",
        "kill",
        "lchmod",
        "mkdir",
        "open",
        "popen",
        "rename",
        "replace",
        "rmdir",
        "rmtree",
        "spawn",
        "symlink_to",
        "system",
        "touch",
        "unlink",
        "write_bytes",
        "write_text",
    ]
)
_BUILTINS = frozenset(
    [
        "abs",
        "all",
        "any",
        "bool",
        "dict",
        "enumerate",
        "filter",
        "float",
        "int",
        "isinstance",
        "len",
        "list",
        "map",
        "max",
        "min",
        "range",
        "reversed",
        "round",
        "set",
        "sorted",
        "str",
        "sum",
        "tuple",
        "zip",
    ]
)
_REFERENCE = re.compile(r"@((?:(?:::|#)*\w+)(?:(?:::|#)\w+)*)")  # as in MONAI: @key::key, or @key#key


@dataclass(frozen=True)
class Report:
    """What was found, and what would be run: `code` has file, id and text of each expression and target."""

    findings: tuple[Finding, ...]
    code: tuple[tuple[str, str, str], ...]


def check_bundle(path: str | Path) -> Report:
    """Check a bundle: its files and metadata as the model zoo does, its configurations, its logging and its weights.

    A reference of one configuration may be met by another of the bundle, as one may lie over the other.

    Args:
        path: Name or folder of a bundle, or any folder that holds `configs/`.

    Raises:
        BundleError: If it is none.
    """
    root = Path(path) if (Path(path) / "configs").is_dir() else bundle_dir(str(path))
    configs = sorted(
        p for p in (root / "configs").iterdir() if p.suffix in CONFIG_SUFFIXES and p.name != "metadata.json"
    )
    report = check_configs(configs, root=root)
    findings = [*check_files(root), *report.findings, *check_metadata(root, _modules(report.code))]
    return Report((*findings, *_logging(root), *_weights(root)), report.code)


def check_configs(paths: Iterable[str | Path], *, root: Path | None = None) -> Report:
    """Check configurations that belong together: a reference may be met by any of them.

    Args:
        paths: JSON and YAML files.
        root: The bundle that they belong to.
    """
    findings: list[Finding] = []
    contents: dict[str, Mapping[str, Any]] = {}
    for path in map(Path, paths):
        name = path.relative_to(root).as_posix() if root else path.name
        try:
            contents[name] = _read(path)
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            message = f"must be a readable mapping in JSON or YAML, got {one_line(error)}"
            findings.append(Finding(name, "", message))
    ids = {"::".join(place) for content in contents.values() for place, _ in _walk(content)}
    names = {n for content in contents.values() for n in _imports(content)}
    code = []
    for name, content in contents.items():
        for place, value in _walk(content):
            where = "::".join(place)
            if place and (place[-1] == "_target_" or (isinstance(value, str) and value.startswith("$"))):
                code.append((name, where, str(value)))
            findings += [Finding(name, where, m) for m in dict.fromkeys(_problems(place, value, ids, names))]
    return Report(tuple(findings), tuple(code))


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix not in CONFIG_SUFFIXES:
        raise ValueError("another suffix")
    if path.suffix == ".json":
        content = read_json(path, max_bytes=MAX_CONFIG)
    elif path.stat().st_size > MAX_CONFIG:
        raise ValueError(f"more than {MAX_CONFIG} bytes")
    else:
        content = yaml.load(path.read_text(encoding="utf-8"), UniqueKeyLoader)
    if not isinstance(content, Mapping):
        raise ValueError(type(content).__name__)
    for _ in _walk(content):  # too deep, or one that holds itself
        pass
    return content


def _walk(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give every value with its id, parents first."""
    yield place, value
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _walk(part, (*place, *re.split("#|::", str(key))))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _walk(part, (*place, str(number)))


def _imports(content: Mapping[str, Any]) -> Iterator[str]:
    """Give the names that the imports of a configuration make known."""
    for _, value in _walk(content):
        if isinstance(value, str) and value.startswith("$") and "import" in value:
            for statement in _statements(value[1:]):
                yield from (alias.name.split(".")[0] for alias in statement.names)


def _statements(text: str) -> list[ast.Import | ast.ImportFrom]:
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]


def _modules(code: Iterable[tuple[str, str, str]]) -> set[str]:
    """Return the top-level modules that expressions and targets name; a short target is one of MONAI's classes."""
    found = set()
    for _, _, text in code:
        if not text.startswith("$"):
            found |= {text.split(".")[0]} if "." in text else {"monai"}
            continue
        for statement in _statements(text[1:]):
            module = getattr(statement, "module", None)
            found |= {module.split(".")[0]} if module else {alias.name.split(".")[0] for alias in statement.names}
        found |= {root for root in ROOTS if re.search(rf"\b{root}\.", text)}
    return found


def _problems(place: tuple[str, ...], value: Any, ids: set[str], names: set[str]) -> Iterator[str]:
    """Say what is wrong with one value."""
    key = place[-1] if place else ""
    if isinstance(value, str) and key not in ("_target_", "_desc_"):
        yield from check_path(value)
    if key == "_target_":
        yield from _target(value)
    elif key == "_mode_" and value not in ("default", "callable", "partial"):
        yield f"_mode_ must be default, callable or partial, got {value!r}"
    elif isinstance(value, Mapping):
        if value.get("_target_") == "torch.load" and value.get("weights_only") is not True:
            yield "torch.load must have weights_only true, got none: it would run what a file says"
    elif isinstance(value, str) and value.startswith("$"):
        yield from _references(place, value, ids)
        yield from _expression(value[1:], names)
    elif isinstance(value, str) and _REFERENCE.fullmatch(value):
        yield from _references(place, value, ids)
    elif isinstance(value, str) and value.startswith("%"):
        name = value[1:].replace("#", "::").lstrip(":")
        if name not in ids:
            yield f"a macro must name a key of these files, got {value!r}"


def _references(place: tuple[str, ...], text: str, ids: set[str]) -> Iterator[str]:
    for match in _REFERENCE.finditer(text):
        name = match[1].replace("#", "::")
        up = (len(name) - len(name.lstrip(":"))) // 2  # @::key is beside the value, @::::key one level up
        full = "::".join([*place[: len(place) - up], name.lstrip(":")]) if up else name
        if full not in ids and not any(i.startswith(f"{full}::") for i in ids):
            yield f"a reference must name a key, got {match[0]}"


def _target(value: Any) -> Iterator[str]:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", value):
        yield f"_target_ must be a plain dotted name, got {value!r}"
    elif "." not in value:  # MONAI looks for its own class first, then for a builtin function
        if not value[0].isupper() or hasattr(builtins, value):
            yield f"_target_ must be a class of MONAI or a dotted name, got {value}"
    else:
        yield from _path(value)


def _path(name: str) -> Iterator[str]:
    """Say what is wrong with a dotted name."""
    parts = name.split(".")
    if parts[0] not in ROOTS:
        yield f"a module must be one of {', '.join(ROOTS)}, got {parts[0]}"
    elif any(name == path or name.startswith(f"{path}.") for path in _REFUSED_PATHS):
        yield f"{name} must not be used: it runs, imports, fetches or writes what it is told"
    else:
        yield from (m for part in parts[1:] for m in _attribute(part))


def _attribute(name: str) -> Iterator[str]:
    if name in _REFUSED_NAMES or name.startswith("_"):
        yield f"{name} must not be used: it runs, imports or writes what it is told"


def _expression(text: str, names: set[str]) -> Iterator[str]:
    """Parse an expression or an import, and say what it names beyond what is listed."""
    text = _REFERENCE.sub("REFERENCE", text.strip())
    if re.match(r"(import|from)\b", text):
        statements = _statements(text)
        if not statements:
            yield "an import must be one statement of Python, got another text"
        for statement in statements:
            prefix = f"{statement.module}." if isinstance(statement, ast.ImportFrom) else ""
            if getattr(statement, "level", 0):
                yield "an import must be absolute, got a relative one"
                continue
            for alias in statement.names:
                yield from _path(prefix + alias.name)
                if alias.asname:
                    yield f"an import must keep its name, got {alias.asname}"
        return
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield f"an expression must be one of Python, got {one_line(error)}"
        return
    bound = {n.arg for n in nodes if isinstance(n, ast.arg)}
    bound |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    known = names | bound | _BUILTINS | {*ROOTS, "REFERENCE"}  # an overlay alone has the imports of what it lies over
    careful = {id(n.func) for n in nodes if isinstance(n, ast.Call) and _weights_only(n)}
    for node in nodes:
        if isinstance(node, ast.Name) and node.id not in known:
            yield f"a name must be imported, an argument or a plain builtin function, got {node.id}"
        elif isinstance(node, ast.Attribute):
            yield from _attribute(node.attr)
            name = _dotted(node)
            if name == "torch.load" and id(node) not in careful:
                yield "torch.load must have weights_only=True, got none: it would run what a file says"
            elif name.split(".")[0] in ROOTS:
                yield from _path(name)
        elif isinstance(node, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
            yield f"an expression must be a plain one, got {type(node).__name__}"


def _weights_only(call: ast.Call) -> bool:
    return any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in call.keywords)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def _logging(root: Path) -> Iterator[Finding]:
    """Check logging.conf, whose handlers Python evaluates (logging.config)."""
    path = root / "configs" / "logging.conf"
    if not path.is_file():
        return
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, configparser.Error) as error:
        yield Finding("configs/logging.conf", "", f"must be readable, got {one_line(error)}")
        return
    for section in parser.sections():
        values = dict(parser[section])
        if section.startswith("handler_") and values.get("class") not in ("StreamHandler", "NullHandler"):
            yield Finding("configs/logging.conf", section, f"class must be StreamHandler, got {values.get('class')}")
        if section.startswith("formatter_") and "class" in values:
            yield Finding("configs/logging.conf", section, "must be the plain formatter, got a class")
        for key in ("args", "kwargs"):
            if values.get(key, "()").replace(" ", "") not in ("()", "{}", "(sys.stdout,)", "(sys.stderr,)"):
                yield Finding("configs/logging.conf", section, f"{key} must be (sys.stdout,), got another expression")


def foreign_code(paths: Iterable[str | Path]) -> list[str]:
    """Return the names of configurations that would run code and are none of those that medfuse ships, checked.

    What is shipped must still pass the check; what holds no expression and no target runs nothing.

    Args:
        paths: Configurations that belong together.
    """
    files = [Path(path).resolve() for path in paths]
    shipped = [share_dir().resolve() / name for name in ("bundles", "configs")]
    own = [path for path in files if any(path.is_relative_to(folder) for folder in shipped)]
    sound = not check_configs(own).findings
    report = check_configs([path for path in files if not (sound and path in own)])
    return sorted({file for file, _, _ in report.code})


def _weights(root: Path) -> Iterator[Finding]:
    """Check that all weights are plain tensors, which take no pickled code to load."""
    import pickle

    import torch

    files = sorted(p for p in (root / "models").glob("*") if p.is_file() and not p.name.startswith("."))
    if not files:
        yield Finding("models", "", "must hold weights, got none")
    for path in files:
        name = f"models/{path.name}"
        if path.suffix not in (".pt", ".pth"):
            yield Finding(name, "", "must be weights in .pt, got another kind of file")
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError):
            yield Finding(name, "", "must load with weights_only, got a file that does not: it may hold code")
            continue
        if not (isinstance(state, Mapping) and state and all(isinstance(v, torch.Tensor) for v in state.values())):
            yield Finding(name, "", "must be a plain state dict, a tensor by each name, got another content")


def check(paths: Sequence[str | Path]) -> Report:
    """Check bundles and configurations; the configurations belong together, as those of one call of MONAI do.

    Raises:
        BundleError: If a path is neither.
    """
    files = [path for path in paths if Path(path).suffix in CONFIG_SUFFIXES]
    for path in files:
        if not Path(path).is_file():
            raise BundleError(f"A configuration must be a file, got none at {Path(path).name}; check its path.")
    reports = [check_bundle(path) for path in paths if path not in files]
    reports += [check_configs(files)] if files else []
    return Report(tuple(f for r in reports for f in r.findings), tuple(c for r in reports for c in r.code))
