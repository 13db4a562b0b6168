"""The flags of each verb, and how what is typed is read. No value comes from the environment here.

A verb takes one of these classes; its fields become its flags.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from medbench.errors import MedbenchError, UsageError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every verb takes."""

    plugin: Annotated[
        list[str],
        typer.Option(
            "--plugin", metavar="FILE|MODULE", help="Load a plugin that is not installed. Repeatable."
        ),
    ] = field(default_factory=list)
    no_plugins: Annotated[
        bool, typer.Option("--no-plugins", help="Load no installed plugin but the built-ins.")
    ] = False
    trace_plugins: Annotated[
        bool, typer.Option("--trace-plugins", help="Print hook calls and answers to standard error.")
    ] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tracebacks of errors and broken plugins.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class JsonOptions(Options):
    """Of `plugins list` and `data list`."""

    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


@dataclass(frozen=True, kw_only=True)
class CheckOptions(JsonOptions):
    """Of `plugins check`."""

    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Method, task or dataset. Default: all that plugins add."),
    ] = None
    data: Annotated[
        list[str],
        typer.Option(
            "--data", metavar="NAME=DIR", help="Folder of one dataset, instead of its phantom. Repeatable."
        ),
    ] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Where data are."""

    data_root: Annotated[
        Path | None,
        typer.Option(
            "--data-root", metavar="DIR", help="Folder with a folder for each dataset. [MEDBENCH_DATA]"
        ),
    ] = None
    data: Annotated[
        list[str],
        typer.Option(
            "--data", metavar="NAME=DIR", help="Folder of one dataset; wins over --data-root. Repeatable."
        ),
    ] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StatusOptions(DataOptions):
    """Of `data status` and `doctor`."""

    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


@dataclass(frozen=True, kw_only=True)
class TableOptions(DataOptions):
    """Of verbs that take `table:FILE` for a dataset."""

    columns: Annotated[
        list[str],
        typer.Option("--column", metavar="KIND=NAME", help="Column of a table, as report=note. Repeatable."),
    ] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class VerifyDataOptions(TableOptions):
    """Of `data verify`."""

    name: Annotated[str, typer.Argument(metavar="NAME", help="Dataset, or table:FILE.")]
    full: Annotated[bool, typer.Option("--full", help="Decode every image.")] = False
    split: Annotated[
        str | None, typer.Option("--split", metavar="lists:DIR", help="Check these lists of ids, too.")
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(TableOptions):
    """Of `data prepare`."""

    name: Annotated[str, typer.Argument(metavar="NAME", help="Dataset, or table:FILE.")]
    size: Annotated[
        int | None,
        typer.Option(
            "--size", metavar="N", min=1, help="Side of the square, pixels. Default: what runs ask for."
        ),
    ] = None
    fit: Annotated[str, typer.Option("--fit", help="With --size: pad (with black) or stretch.")] = "pad"
    recipe: Annotated[str, typer.Option("--recipe", help="Whose sizes: tiny or paper.")] = "tiny"
    method: Annotated[
        list[str],
        typer.Option("--method", "-m", metavar="NAME", help="Whose sizes. Default: those of all methods."),
    ] = field(default_factory=lambda: ["*"])
    exclude_broken: Annotated[
        bool, typer.Option("--exclude-broken", help="Leave out samples that can not be read.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False


@dataclass(frozen=True, kw_only=True)
class GcOptions(Options):
    """Of `data gc`; `features gc` takes more."""

    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be freed, free nothing.")] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class SplitsOptions(TableOptions):
    """Of `data splits`."""

    name: Annotated[str, typer.Argument(metavar="NAME", help="Dataset, or table:FILE.")]
    split: Annotated[
        str | None, typer.Option("--split", metavar="SPLIT", help="Of this split alone; for --out.")
    ] = None
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write the lists of ids there, for --split lists:DIR."),
    ] = None
    exclude_broken: Annotated[
        bool, typer.Option("--exclude-broken", help="With --out: leave out samples that can not be read.")
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


@dataclass(frozen=True, kw_only=True)
class ShowOptions(TableOptions):
    """Of `data show`."""

    name: Annotated[str, typer.Argument(metavar="NAME", help="Dataset, or table:FILE.")]
    sample: Annotated[str, typer.Argument(metavar="SAMPLE", help="Id of a sample, or number of its row.")]
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Default: NAME-SAMPLE.png, here.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class AuditOptions(DataOptions):
    """Of `data audit`."""

    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Datasets, or table:FILE. Default: every dataset that is found."
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write every film that has a copy there: .parquet or .csv."
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False


@dataclass(frozen=True, kw_only=True)
class PhantomOptions(Options):
    """Of `data phantom`."""

    name: Annotated[str, typer.Argument(metavar="NAME", help="Dataset whose layout is written.")]
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; new or empty.")]
    patients: Annotated[
        int | None, typer.Option("--patients", min=1, help="Patients. Default: as many as a run uses.")
    ] = None
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed draws other patients.")] = 0
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False


def _read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make a TOML file the defaults of this call. Called before the other flags are looked at."""
    if path is not None:
        try:
            ctx.default_map = _config_defaults(path, ctx)
        except MedbenchError as error:
            raise typer.BadParameter(str(error)) from None
    return path


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(DataOptions):
    """Of `pretrain`."""

    method: Annotated[
        list[str],
        typer.Option("--method", "-m", metavar="NAME", help="Methods: comma-separated, repeated, or globs."),
    ] = field(default_factory=list)
    seed: Annotated[
        list[str], typer.Option("--seed", metavar="N", help="Seeds: comma-separated or repeated. Default: 0.")
    ] = field(default_factory=list)
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="tiny (small, minutes on two cores) or paper. Default: tiny."),
    ] = None
    corpus: Annotated[
        str | None,
        typer.Option(
            "--corpus", metavar="NAME|table:FILE|phantom", help="Image-report pairs to pretrain on."
        ),
    ] = None
    columns: Annotated[
        list[str],
        typer.Option(
            "--column",
            metavar="KIND=NAME",
            help="Column of a table corpus, as report=note; the others are guessed and printed. Repeatable.",
        ),
    ] = field(default_factory=list)
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A field of the recipe, as pretrain.lr=1e-4. Repeatable."
        ),
    ] = field(default_factory=list)
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto"
    precision: Annotated[str, typer.Option("--precision", help="auto, 32 or bf16.")] = "auto"
    exclude_broken: Annotated[
        bool,
        typer.Option("--exclude-broken", help="Leave out samples that can not be read, and record which."),
    ] = False
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from the checkpoints of interrupted work.")
    ] = True
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no hub for anything. [MEDBENCH_OFFLINE]")
    ] = False
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-C",
            metavar="FILE",
            help="TOML file with values for these flags; a flag given here wins.",
            is_eager=True,
            callback=_read_config,
        ),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False


@dataclass(frozen=True, kw_only=True)
class FeaturesOptions(JsonOptions):
    """Of `features ls`."""

    check: Annotated[
        bool, typer.Option("--check", help="Read all of them and compare with their checksums.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class FeaturesGcOptions(GcOptions):
    """Of `features gc`."""

    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="DAYS", min=0, help="Also those not used for so many days."),
    ] = None
    everything: Annotated[bool, typer.Option("--all", help="Every one.")] = False


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(PretrainOptions):
    """Of `features extract`."""

    name: Annotated[str, typer.Argument(metavar="NAME", help="Dataset, or table:FILE.")]
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write: FILE.parquet.")]
    split: Annotated[
        str | None,
        typer.Option(
            "--split", metavar="NAME|lists:DIR", help="Write which part of this split a film is in, too."
        ),
    ] = None
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="PATH|NAME", help="Finished weights, instead of pretraining."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PlanOptions(PretrainOptions):
    """Of `plan`."""

    task: Annotated[
        list[str],
        typer.Option("--task", "-t", metavar="NAME", help="Tasks: comma-separated, repeated, or globs."),
    ] = field(default_factory=list)
    fraction: Annotated[
        list[str],
        typer.Option("--fraction", metavar="F", help="Label fractions: 0.01, 1%, or all (of the task)."),
    ] = field(default_factory=lambda: ["all"])
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME|lists:DIR",
            help="Split of the tasks' datasets, instead of each task's own; `data splits` lists them.",
        ),
    ] = None
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="PATH|NAME", help="Finished weights, instead of pretraining."),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Results folder. Default: results. [MEDBENCH_RESULTS]"),
    ] = None
    suite: Annotated[
        Path | None,
        typer.Option(
            "--suite",
            metavar="FILE",
            help="TOML file that says which cells; --method, --task, --fraction, --seed take a part of it.",
        ),
    ] = None
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Of a suite, the I-th of N parts that share no encoder."),
    ] = None
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Run finished cells again; old records are kept.")
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


@dataclass(frozen=True, kw_only=True)
class RunOptions(PlanOptions):
    """Of `run`."""

    executor: Annotated[
        str | None,
        typer.Option("--executor", metavar="NAME", help="Run workers: local, slurm or ray. Default: none."),
    ] = None
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", metavar="N", min=1, help="Workers of the executor. Default: one a GPU, or one."
        ),
    ] = None
    slurm: Annotated[
        list[str],
        typer.Option("--slurm", metavar="KEY=VALUE", help="A flag of sbatch, as partition=gpu. Repeatable."),
    ] = field(default_factory=list)
    ray: Annotated[
        list[str],
        typer.Option(
            "--ray", metavar="KEY=VALUE", help="address, or num_cpus or num_gpus of a worker. Repeatable."
        ),
    ] = field(default_factory=list)
    cell_timeout: Annotated[
        float | None,
        typer.Option(
            "--cell-timeout", metavar="SECONDS", min=0.1, help="A cell that takes longer has failed."
        ),
    ] = None
    worker: Annotated[
        Path | None, typer.Option("--worker", metavar="LOG", help="Set by executors.", hidden=True)
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and stop, as `medbench plan`.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class ListOptions(JsonOptions):
    """Of `list`."""

    kind: Annotated[str, typer.Argument(metavar="KIND", help="methods, tasks, datasets or leaderboards.")]


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Options):
    """Of `info`."""

    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a method, task, dataset or leaderboard.")]
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Also print its fields at this recipe (imports torch).")
    ] = None


@dataclass(frozen=True, kw_only=True)
class NewPluginOptions(Options):
    """Of `plugins new`."""

    kind: Annotated[str, typer.Argument(metavar="KIND", help="method, task or dataset.")]
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called on the command line.")]
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder to write; must not be there. Default: medbench-NAME."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ResultsOptions(Options):
    """Of verbs that read a results folder."""

    results: Annotated[
        Path | None,
        typer.Option("--results", metavar="DIR", help="Results folder. Default: results. [MEDBENCH_RESULTS]"),
    ] = None


_KEY = typer.Option(
    "--key", metavar="FILE", help="Key of keyed rows. Default: drawn once, kept with the user's settings."
)


@dataclass(frozen=True, kw_only=True)
class VerifyResultsOptions(ResultsOptions, DataOptions):
    """Of `results verify`."""

    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="Results folder or submission. Default: the results folder."),
    ] = None
    key: Annotated[Path | None, _KEY] = None
    without_predictions: Annotated[
        bool,
        typer.Option(
            "--without-predictions",
            help="Accept records whose predictions are not beside them, if their draws are and agree.",
        ),
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ResultsOptions):
    """Of `results export`."""

    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; new or empty.")]
    method: Annotated[
        list[str],
        typer.Option("--method", "-m", metavar="NAME", help="Records of these methods alone; globs, too."),
    ] = field(default_factory=list)
    task: Annotated[
        list[str],
        typer.Option("--task", "-t", metavar="NAME", help="Records of these tasks alone; globs, too."),
    ] = field(default_factory=list)
    key: Annotated[Path | None, _KEY] = None
    contact: Annotated[str, typer.Option("--contact", metavar="TEXT", help="Who may be asked.")] = ""


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ResultsOptions):
    """Of `compare`."""

    a: Annotated[
        str, typer.Argument(metavar="A", help="METHOD, or DIR:METHOD for that of another results folder.")
    ]
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise; differences are B less A.")]
    task: Annotated[
        list[str],
        typer.Option("--task", "-t", metavar="NAME", help="Tasks: comma-separated, repeated, or globs."),
    ] = field(default_factory=list)
    fraction: Annotated[
        list[str], typer.Option("--fraction", metavar="F", help="Label fractions: 0.01, 1%, or all.")
    ] = field(default_factory=lambda: ["all"])
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Records of this recipe alone; they are never mixed.")
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
    fail_on_regression: Annotated[
        bool,
        typer.Option(
            "--fail-on-regression",
            help="Exit code 6 if B is worse than A beyond noise anywhere, 3 if nothing could be compared.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ListResultsOptions(ResultsOptions):
    """Of `results list`."""

    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False


@dataclass(frozen=True, kw_only=True)
class RetryOptions(ResultsOptions):
    """Of `results retry`."""

    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False


@dataclass(frozen=True, kw_only=True)
class RescoreOptions(ResultsOptions):
    """Of `results rescore`."""

    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="Records, or folders of them. Default: the results folder."),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Results folder to write the rescored records to."),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


@dataclass(frozen=True, kw_only=True)
class InspectOptions(Options):
    """Of `weights inspect`."""

    file: Annotated[Path, typer.Argument(metavar="FILE", help="Released checkpoint, or a folder of weights.")]
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="P", help="What stands before the encoder's names.")
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """Of `weights import`."""

    file: Annotated[Path, typer.Argument(metavar="FILE", help="Released checkpoint; nothing in it is run.")]
    method: Annotated[
        str, typer.Option("--method", "-m", metavar="NAME", help="Method that it is a checkpoint of.")
    ]
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder to write. Default: in the cache, by the file's hash."
        ),
    ] = None
    part: Annotated[
        str | None,
        typer.Option("--part", help="image (the encoder alone) or all. Default: all where that is possible."),
    ] = None
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="P", help="What stands before the encoder's names.")
    ] = None
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", metavar="B", help="timm's name of the encoder, where it is another one."),
    ] = None
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A field of the encoder, as method.size=512. Repeatable."
        ),
    ] = field(default_factory=list)
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no hub for anything. [MEDBENCH_OFFLINE]")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No report, only the folder.")] = False


@dataclass(frozen=True, kw_only=True)
class LeaderboardOptions(ResultsOptions):
    """Of `leaderboard`."""

    format: Annotated[str, typer.Option("--format", help="A format of `medbench list leaderboards`.")] = (
        "markdown"
    )
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare the files of a build with what the records give. Exit code 6."),
    ] = False
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="With --check: folder of the build. Default: leaderboard."),
    ] = None
    all_pictures: Annotated[
        bool,
        typer.Option(
            "--all-pictures",
            help="With --check: exit code 6 also where other versions drew pictures, which can't be drawn again.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class BuildOptions(ResultsOptions):
    """Of `leaderboard build`."""

    format: Annotated[
        list[str],
        typer.Option("--format", metavar="NAME", help="Formats: comma-separated or repeated. Default: all."),
    ] = field(default_factory=list)
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write. Default: leaderboard."),
    ] = None


def words(given: Iterable[str]) -> tuple[str, ...]:
    """Values of an option that is comma-separated, repeated, or both; each once."""
    return tuple(dict.fromkeys(word.strip() for text in given for word in text.split(",") if word.strip()))


def seeds(given: Sequence[str]) -> tuple[int, ...]:
    """Values of `--seed`.

    Raises:
        UsageError: one is no whole number from 0, or there is none.
    """
    typed = words(given)
    wrong = [text for text in typed if not text.isdecimal()]
    if wrong or not typed:
        raise UsageError(f"--seed {','.join(wrong)}: expected whole numbers from 0, as in --seed 0,1,2.")
    return tuple(dict.fromkeys(int(text) for text in typed))


def fractions(given: Sequence[str]) -> tuple[float, ...] | None:
    """Values of `--fraction`, ascending; None for all that a task has.

    Raises:
        UsageError: one is no share, or there is none.
    """
    typed = words(given)
    if typed == ("all",):
        return None
    shares = []
    for word in typed or ("",):
        try:
            fraction = float(word[:-1]) / 100 if word.endswith("%") else float(word)
        except ValueError:
            fraction = 0.0
        if not 0 < fraction <= 1:
            raise UsageError(
                f"--fraction {word}: expected a share as 0.01 or 1%, up to 100%, or the word all alone."
            )
        shares.append(fraction)
    return tuple(sorted(set(shares)))


def pairs(flag: str, given: Sequence[str]) -> dict[str, str]:
    """Values of a repeated NAME=VALUE flag; of a name that is given twice the last counts.

    Raises:
        UsageError: one has no name or no value.
    """
    found = {}
    for text in given:
        key, _, value = (part.strip() for part in text.partition("="))
        if not (key and value):
            raise UsageError(f"{flag} {text}: expected NAME=VALUE.")
        found[key] = value
    return found


def _config_defaults(path: Path, ctx: typer.Context) -> dict[str, Any]:
    """Values of a TOML file by parameter, as if they had been typed."""
    import tomllib

    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} can not be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}.") from None
    flags = {
        flag.lstrip("-"): parameter
        for parameter in ctx.command.params
        for flag in parameter.opts
        if flag.startswith("--") and flag not in ("--config", "--help")
    }
    defaults: dict[str, Any] = {}
    for key, value in content.items():
        parameter = flags.get(key.replace("_", "-"))
        if parameter is None or parameter.name is None:
            hint = did_you_mean(key, flags)
            raise UsageError(f"{path}: no flag --{key}.{hint} Flags: {', '.join(sorted(flags))}.")
        repeated = getattr(parameter, "multiple", False)
        if isinstance(value, dict | list) and not repeated:
            raise UsageError(f"{path}: --{key} takes one value, found {value!r}.")
        defaults[parameter.name] = _typed(value, repeated=repeated)
    return defaults


def _typed(value: Any, *, repeated: bool) -> Any:
    """A TOML value as the text, or texts, that a user would type; true and false stay what they are."""
    if isinstance(value, dict):
        return [f"{name}={text}" for name, text in flat(value)]
    if isinstance(value, list):
        return [str(item) for item in value]
    if isinstance(value, bool):
        return value
    return [str(value)] if repeated else str(value)


def flat(table: Mapping[str, Any], head: str = "") -> Iterable[tuple[str, str]]:
    """`[set.pretrain] lr = 1e-4` and `[set] "pretrain.lr" = 1e-4` both as `pretrain.lr`."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{head}{name}.")
        else:
            yield f"{head}{name}", str(value)
