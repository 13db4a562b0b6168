"""Plugins in, catalogue out: every method, task, dataset and leaderboard by name, and whose it is.

Entry points of the group `medbench` are loaded one by one, built-ins among them, so that a plugin which fails
costs only itself. Nothing here imports torch; a spec's target is imported by `Catalogue.load` when it is used.
"""

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module, metadata, util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pluggy

from medbench import hookspecs
from medbench.errors import MedbenchError, PluginError, UsageError, did_you_mean
from medbench.specs import TABLE, DatasetSpec, LeaderboardSpec, MethodSpec, Spec, TaskSpec

if TYPE_CHECKING:
    from medbench.records import Record
    from medbench.released import Release
    from medbench.request import RunRequest
    from medbench.task import Task

GROUP = "medbench"
"""The entry-point group, and the name of the distribution that the built-ins come from."""

Kind = Literal["methods", "tasks", "datasets", "leaderboards"]

KINDS: Mapping[Kind, type[Spec]] = {
    "methods": MethodSpec,
    "tasks": TaskSpec,
    "datasets": DatasetSpec,
    "leaderboards": LeaderboardSpec,
}
"""What a catalogue holds. `medbench_<kind>` is the hook that is asked for it."""

_NAME = re.compile(rf"[a-z][a-z0-9_]*(@[a-z0-9_]+)?(:{TABLE})?")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

_Spec = TypeVar("_Spec", bound=Spec)

Trace = Callable[[str], None]
"""Takes a line about each hook call."""


@dataclass(frozen=True)
class Owner:
    """Who declared something: a distribution with its version, or the file or module given to `--plugin`."""

    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip()


def declared(task: str) -> str:
    """The name under which a task is declared: that of the family for one on a file, `lp:table` of `lp:table:FILE`."""
    family, colon, _ = task.partition(f":{TABLE}:")
    return f"{family}:{TABLE}" if colon else task


def _must_be_named(spec: Spec) -> bool:
    """Whether a glob does not stand for it: a file has to be said beside the name."""
    return spec.released_only if isinstance(spec, MethodSpec) else isinstance(spec, TaskSpec) and spec.family


@dataclass(frozen=True)
class Plugin:
    """A plugin that was loaded.

    Attributes:
        name: of its entry point, or what was given to `--plugin`.
        owner: who brings it.
        source: the module, or the file, that it was loaded from.
        hooks: names of the hooks it answers, sorted.
    """

    name: str
    owner: Owner
    source: str
    hooks: tuple[str, ...]


@dataclass(frozen=True)
class PluginProblem:
    """Something wrong with a plugin, which cost that plugin, or one of its hooks or names, and nothing else.

    Attributes:
        plugin: its name.
        owner: who brings it.
        what: one line.
        traceback: of the exception behind it, "" where there was none.
        asked: True if the user named this plugin (`--plugin`, MEDBENCH_PLUGINS), so that going on without it
            is not what was asked for.
    """

    plugin: str
    owner: Owner
    what: str
    traceback: str = ""
    asked: bool = False

    def __str__(self) -> str:
        return f"plugin {self.plugin} ({self.owner}): {self.what}"


@dataclass(frozen=True)
class Catalogue:
    """Everything that can be named on the command line.

    Attributes:
        methods: by name.
        tasks: by name.
        datasets: by name.
        leaderboards: by name.
        owners: who declared a name, by (kind, name).
        duplicates: names that several owners declared, with these owners; they are in none of the above.
        plugins: what was loaded, built-ins first.
        problems: what was not.
        manager: for the hooks of a run.
        trace: is told about these, too; None where nobody watches.
    """

    methods: Mapping[str, MethodSpec]
    tasks: Mapping[str, TaskSpec]
    datasets: Mapping[str, DatasetSpec]
    leaderboards: Mapping[str, LeaderboardSpec]
    owners: Mapping[tuple[Kind, str], Owner]
    duplicates: Mapping[tuple[Kind, str], tuple[Owner, ...]]
    plugins: tuple[Plugin, ...]
    problems: tuple[PluginProblem, ...]
    manager: pluggy.PluginManager = field(repr=False)
    trace: Trace | None = field(default=None, repr=False)

    def lookup_method(self, name: str) -> MethodSpec:
        """The method called `name`; errors as `lookup`."""
        return self._lookup("methods", self.methods, name)

    def lookup_task(self, name: str) -> TaskSpec:
        """The task called `name`, or that of a family on a file (`lp:table:FILE`); errors as `lookup`.

        A family's task is called by the name of the file alone, so that no folder of anyone's enters a record.
        """
        family = declared(name)
        spec = self._lookup("tasks", self.tasks, family)
        file = name[len(family) + 1 :]
        if not spec.family:
            return spec
        if not file:
            raise UsageError(f"--task {name}: which one? Give it as --task {family}:FILE.")
        return replace(spec, name=f"{family}:{Path(file).name}", dataset=f"{TABLE}:{file}")

    def make_task(self, spec: TaskSpec, recipe: str) -> "Task":
        """Import a task and make it at a recipe.

        Raises:
            PluginError: the target, or something that it imports, does not exist.
            UsageError: it has no such recipe.
        """
        task: Task = self._import("tasks", spec, spec.target, lambda: spec.make(recipe))
        return task

    def lookup_dataset(self, name: str) -> DatasetSpec:
        """The dataset called `name`; errors as `lookup`."""
        return self._lookup("datasets", self.datasets, name)

    def lookup_leaderboard(self, name: str) -> LeaderboardSpec:
        """The leaderboard called `name`; errors as `lookup`."""
        return self._lookup("leaderboards", self.leaderboards, name)

    def specs(self, kind: Kind) -> Mapping[str, Spec]:
        """All of one kind, by name."""
        held: Mapping[Kind, Mapping[str, Spec]] = {
            "methods": self.methods,
            "tasks": self.tasks,
            "datasets": self.datasets,
            "leaderboards": self.leaderboards,
        }
        return held[kind]

    def lookup(self, kind: Kind, name: str) -> Spec:
        """The spec of this kind and name.

        Raises:
            UsageError: nobody declares it; the message gives the nearest name and the list.
            PluginError: more than one owner declares it; the message names them.
        """
        return self._lookup(kind, self.specs(kind), name)

    def expand(self, kind: Kind, patterns: Sequence[str]) -> tuple[str, ...]:
        """Names for what the user typed, each once, in the order asked for.

        Args:
            kind: what the patterns name.
            patterns: names, or globs with `*`, `?` or `[]`, which stand for their matches in alphabetical
                order; a method that is nothing without a released checkpoint must be named, and so must a
                task on a file.

        Raises:
            UsageError: an unknown name, or a glob that matches nothing.
            PluginError: a name that more than one owner declares.
        """
        from fnmatch import filter as matching

        names: dict[str, None] = {}
        for pattern in patterns:
            if declared(pattern) == pattern and any(c in pattern for c in "*?["):
                specs = self.specs(kind).items()
                runnable = (n for n, s in specs if not _must_be_named(s))
                found = matching(sorted(runnable), pattern)
                if not found:
                    raise UsageError(f"No {kind} match {pattern!r}. {self._known(kind)}")
                names.update(dict.fromkeys(found))
            elif kind == "tasks":
                self.lookup_task(pattern)
                names[pattern] = None  # with the whole path of a file
            else:
                names[self.lookup(kind, pattern).name] = None
        return tuple(names)

    def owner(self, kind: Kind, name: str) -> Owner:
        """Who declared a name that is in the catalogue."""
        return self.owners[kind, declared(name)]

    def load(self, kind: Kind, name: str) -> Any:
        """Import what a spec's target names and return it.

        Raises:
            PluginError: the target, or something that it imports, does not exist.
        """
        spec = self.lookup(kind, name)
        return self._import(kind, spec, spec.target, spec.load)

    def load_released(self, name: str) -> "Release":
        """Import how released checkpoints of a method are read.

        Raises:
            UsageError: none of it are known.
            PluginError: what the spec names, or something that it imports, does not exist.
        """
        spec = self.lookup_method(name)
        if not spec.released:
            raise UsageError(f"{name} has no released checkpoints that are known here.")
        release: Release = self._import("methods", spec, spec.released, spec.load_released)
        return release

    def _import(self, kind: Kind, spec: Spec, target: str, load: Callable[[], Any]) -> Any:
        try:
            return load()
        except MedbenchError:
            raise
        except (ImportError, AttributeError) as error:
            raise PluginError(
                f"{kind[:-1]} {spec.name} of {self.owner(kind, spec.name)}: its target {target} can not be "
                f"imported ({type(error).__name__}: {error})."
            ) from error

    def find_checkpoint(self, method: str, name: str) -> Path | None:
        """Where the checkpoint called `name` of `method` is, from the first plugin that knows; else None.

        Raises:
            PluginError: a plugin failed while it was asked.
        """
        for answer in self._answers("medbench_find_checkpoint", method=method, name=name):
            if isinstance(answer, PluginProblem):
                raise PluginError(f"{answer}\n{answer.traceback}".rstrip())
            if answer is not None:
                return Path(answer)
        return None

    def run_started(self, request: "RunRequest", workdir: Path) -> tuple[PluginProblem, ...]:
        """Tell every plugin that a run starts.

        Returns:
            What went wrong in them, which must not stop the run.
        """
        return self._observe("medbench_run_started", request=request, workdir=workdir)

    def run_finished(self, record: "Record", workdir: Path) -> tuple[PluginProblem, ...]:
        """Tell every plugin that a cell is done.

        Returns:
            What went wrong in them, which must not stop the run.
        """
        return self._observe("medbench_run_finished", record=record, workdir=workdir)

    def _observe(self, hook: str, **arguments: Any) -> tuple[PluginProblem, ...]:
        return tuple(a for a in self._answers(hook, **arguments) if isinstance(a, PluginProblem))

    def _answers(self, hook: str, **arguments: Any) -> Iterable[Any]:
        owners = {plugin.name: plugin.owner for plugin in self.plugins}
        for name in _implementers(self.manager, hook):
            try:
                yield _ask(self.manager, self.trace, name, hook, **arguments)
            except Exception as error:
                yield PluginProblem(name, owners[name], f"{hook} failed ({_short(error)})", _trace(error))

    def _lookup(self, kind: Kind, held: Mapping[str, _Spec], name: str) -> _Spec:
        if name in held:
            return held[name]
        if (kind, name) in self.duplicates:
            both = " and ".join(str(owner) for owner in self.duplicates[kind, name])
            raise PluginError(
                f"{kind[:-1]} {name!r} is declared by {both}, so it is not clear which is meant. "
                "Uninstall one of them, or load the built-ins alone with --no-plugins."
            )
        raise UsageError(f"Unknown {kind[:-1]} {name!r}.{did_you_mean(name, held)} {self._known(kind)}")

    def _known(self, kind: Kind) -> str:
        return f"Known {kind}: {', '.join(sorted(self.specs(kind))) or 'none'}."


def load_catalogue(
    extra: Sequence[str] = (), *, third_party: bool = True, trace: Trace | None = None
) -> Catalogue:
    """Load all plugins and ask them what they bring.

    Args:
        extra: files (`path/to/my_method.py`) or modules to load as plugins without installing them.
        third_party: False to load nothing but the built-ins and `extra`.
        trace: is told about every hook call, now and later: who was asked, with what, and the answer.

    Returns:
        The catalogue. Plugins that failed are in its `problems`; nothing is raised for them.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    loader = _Loader(manager, trace)

    points = sorted(
        metadata.entry_points(group=GROUP), key=lambda p: (_owner(p).name != GROUP, _owner(p).name, p.name)
    )
    if not any(_owner(point).name == GROUP for point in points):
        loader.problem(
            GROUP, Owner(GROUP), "its own entry points are not installed; run `pip install -e .`", None
        )
    names = [point.name for point in points]
    for point in points:
        owner = _owner(point)
        if owner.name == GROUP or third_party:
            # Two distributions may call their entry points alike; pluggy wants each name once.
            name = point.name if names.count(point.name) == 1 else f"{owner.name}:{point.name}"
            loader.add(name, owner, point.value, point.load)
    for given in dict.fromkeys(extra):
        loader.add(given, Owner(given), given, partial(_import_extra, given), asked=True)
    return loader.catalogue()


class _Loader:
    """Collects plugins, and what is wrong with them, while the catalogue is made."""

    def __init__(self, manager: pluggy.PluginManager, trace: Trace | None) -> None:
        self.manager = manager
        self.trace = trace
        self.plugins: dict[str, Plugin] = {}
        self.problems: list[PluginProblem] = []
        self.asked: set[str] = set()

    def problem(self, name: str, owner: Owner, what: str, error: BaseException | None) -> None:
        trace = _trace(error) if error is not None else ""
        self.problems.append(PluginProblem(name, owner, what, trace, asked=name in self.asked))

    def add(self, name: str, owner: Owner, source: str, load: Callable[[], Any], asked: bool = False) -> None:
        """Import and register one plugin, or note why not."""
        if asked:
            self.asked.add(name)
        try:
            module = load()
        except (Exception, SystemExit) as error:  # a plugin that calls sys.exit must not end the program
            self.problem(name, owner, f"can not be imported ({_short(error)})", error)
            return
        if self.manager.is_registered(module):
            return  # named twice: installed, and given to --plugin as well
        try:
            self.manager.register(module, name=name)
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            self.manager.unregister(name=name)
            self.problem(name, owner, _explain(error, module), error)
            return
        hooks = tuple(sorted(caller.name for caller in self.manager.get_hookcallers(module) or ()))
        self.plugins[name] = Plugin(name, owner, source, hooks)
        if not hooks:
            self.problem(name, owner, "answers no hook; are its functions marked with @hookimpl?", None)

    def catalogue(self) -> Catalogue:
        """Ask the plugins for what they bring."""
        held: dict[Kind, dict[str, Spec]] = {kind: {} for kind in KINDS}
        owners: dict[tuple[Kind, str], Owner] = {}
        claims: dict[tuple[Kind, str], list[Owner]] = {}
        for kind in KINDS:
            for plugin in self.plugins.values():
                for spec in self._declared(plugin, kind):
                    held[kind][spec.name] = spec
                    owners[kind, spec.name] = plugin.owner
                    claims.setdefault((kind, spec.name), []).append(plugin.owner)
        duplicates = {key: tuple(claim) for key, claim in claims.items() if len(claim) > 1}
        for (kind, name), both in duplicates.items():
            del held[kind][name], owners[kind, name]
            listed = " and ".join(str(owner) for owner in both)
            self.problem(
                f"{both[-1].name}",
                both[-1],
                f"{kind[:-1]} {name!r} is declared by {listed}; nobody has it",
                None,
            )
        return Catalogue(
            methods=_typed(held["methods"], MethodSpec),
            tasks=_typed(held["tasks"], TaskSpec),
            datasets=_typed(held["datasets"], DatasetSpec),
            leaderboards=_typed(held["leaderboards"], LeaderboardSpec),
            owners=owners,
            duplicates=duplicates,
            plugins=tuple(self.plugins.values()),
            problems=tuple(self.problems),
            manager=self.manager,
            trace=self.trace,
        )

    def _declared(self, plugin: Plugin, kind: Kind) -> Iterable[Spec]:
        hook = f"medbench_{kind}"
        if hook not in plugin.hooks:
            return
        try:
            answer = _ask(self.manager, self.trace, plugin.name, hook)
            specs = list(answer if answer is not None else ())
        except (Exception, SystemExit) as error:
            self.problem(plugin.name, plugin.owner, f"{hook} failed ({_short(error)})", error)
            return
        for spec in specs:
            wrong = _wrong(spec, KINDS[kind])
            if wrong:
                self.problem(plugin.name, plugin.owner, f"{hook} gave {wrong}", None)
            else:
                yield spec


def _wrong(spec: object, kind: type[Spec]) -> str:
    """What is wrong with one thing that a catalogue hook gave, "" if nothing is."""
    if not isinstance(spec, kind):
        return f"{spec!r}, expected a {kind.__name__}"
    if not _NAME.fullmatch(spec.name):
        return (
            f"the name {spec.name!r}, expected lower case, digits and underscores, and `@` before a variant"
        )
    if isinstance(spec, TaskSpec) and spec.family != (spec.dataset == TABLE):
        return (
            f"the task {spec.name!r} on the dataset {spec.dataset!r}; a task on anyone's table has the dataset "
            f"{TABLE!r} and a name that ends in `:{TABLE}`, and no other has either"
        )
    if not isinstance(spec, TaskSpec) and spec.name.endswith(f":{TABLE}"):
        return f"the name {spec.name!r}, which only a task on anyone's table may have"
    if not _TARGET.fullmatch(spec.target):
        return f"the target {spec.target!r} for {spec.name!r}, expected 'package.module:attribute'"
    return ""


def _typed(held: Mapping[str, Spec], kind: type[_Spec]) -> dict[str, _Spec]:
    return {name: spec for name, spec in sorted(held.items()) if isinstance(spec, kind)}


def _implementers(manager: pluggy.PluginManager, hook: str) -> list[str]:
    """Plugins that answer a hook, in the order in which pluggy would call them."""
    caller: pluggy.HookCaller = getattr(manager.hook, hook)
    return list(dict.fromkeys(i.plugin_name for i in reversed(caller.get_hookimpls())))


def _ask(manager: pluggy.PluginManager, trace: Trace | None, plugin: str, hook: str, **arguments: Any) -> Any:
    """Call one hook of one plugin, so that an exception is that plugin's alone."""
    others = [other for name, other in manager.list_name_plugin() if name != plugin]
    try:
        answer = manager.subset_hook_caller(hook, others)(**arguments)
        # A `firstresult` hook gives the answer itself, every other one a list: of one answer here, or none.
        answer = (answer[0] if answer else None) if isinstance(answer, list) else answer
        if isinstance(answer, Iterator):  # a hook that yields runs here, and not where its answer is used
            answer = list(answer)
    except BaseException as error:
        if trace is not None:
            trace(f"{_call(plugin, hook, arguments)} raised {_short(error)}")
        raise
    if trace is not None:
        trace(f"{_call(plugin, hook, arguments)} -> {_shown(answer)}")
    return answer


def _call(plugin: str, hook: str, arguments: Mapping[str, Any]) -> str:
    given = ", ".join(f"{name}={_shown(value)}" for name, value in arguments.items())
    return f"{plugin}: {hook}({given})"


def _shown(value: Any) -> str:
    """An argument or an answer in a line of a trace: of specs the names, of anything else how it begins."""
    if isinstance(value, list | tuple) and value and all(isinstance(one, Spec) for one in value):
        return f"[{', '.join(one.name for one in value)}]"
    return textwrap.shorten(repr(value), 200, placeholder=" ...")


def _owner(point: metadata.EntryPoint) -> Owner:
    return Owner(point.dist.name, point.dist.version) if point.dist is not None else Owner("unknown")


def _import_extra(given: str) -> ModuleType:
    """Import what `--plugin` names: a file, or a module."""
    path = Path(given).expanduser()
    if path.suffix != ".py":
        return import_module(given)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path.absolute()}")
    # Targets of the file's own specs say "my_method:MyMethod", so it must be importable by its stem.
    name, origin = path.stem, str(path.resolve())
    taken = sys.modules.get(name)
    if taken is not None and getattr(taken, "__file__", None) == origin:
        return taken
    known = util.find_spec(name) if name.isidentifier() else None
    if known is not None and known.origin != origin:
        raise ImportError(f"the name {name} is taken by {known.origin}; rename the file")
    spec = util.spec_from_file_location(name, origin)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can not be read as a module")
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _explain(error: pluggy.PluginValidationError, module: object) -> str:
    """A plugin that pluggy refuses, in our words: the misspelt hook and the nearest right one."""
    from difflib import get_close_matches

    known = [name for name in vars(hookspecs) if name.startswith("medbench_")]
    probe = pluggy.PluginManager(GROUP)
    marked = [name for name in dir(module) if probe.parse_hookimpl_opts(module, name)]
    for name in marked:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            return f"there is no hook {name}" + (f"; did you mean {near[0]}?" if near else "")
    return " ".join(str(error).split())


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))
