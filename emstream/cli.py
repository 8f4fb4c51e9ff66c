"""The verbs; no logic. Results to stdout, logs to stderr; exit 0 done, 1 failed, 2 bad usage, 130 interrupted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emstream.errors import BadSettings, EmstreamError

# Before numpy is loaded: our matrices are small, and BLAS threads that wait for each other made the aligner ten times
# slower on a busy machine. The network's threads are torch's own (compute.threads).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if TYPE_CHECKING:
    from emstream.config import Settings

app = typer.Typer(
    help="In-situ electron microscopy live: align, store, segment, measure and show frames as the camera writes them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path | None, typer.Option("-c", "--config", metavar="FILE.toml", help="Settings file.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="ROOM.KEY=VALUE", help="One setting; may be repeated.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Http = Annotated[str | None, typer.Option("--http", metavar="HOST:PORT", help="Serve the page here.")]
Model = Annotated[str | None, typer.Option("--model", help="default, classical, or the folder of a trained model.")]
Cluster = Annotated[str, typer.Option("--cluster", help="local, tcp://HOST:PORT, tls://HOST:PORT, or slurm.")]


def main() -> None:
    """Entry point: every expected error becomes a line on stderr and an exit code, never a traceback."""
    try:
        app()
    except BadSettings as err:
        for problem in err.problems:
            print(f"emstream: {problem}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    except EmstreamError as err:
        print(f"emstream: {err}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _settings(config: Path | None, sets: Sequence[str] | None, **chosen: Any) -> Settings:
    """Settings of this call; a flag such as --model is a --set with a shorter name."""
    from emstream.config import load
    from emstream.log import set_up

    flags = [f"{name.replace('__', '.')}={value}" for name, value in chosen.items() if value is not None]
    settings = load(config, sets=[*(sets or ()), *flags])
    set_up(settings.log.level, settings.log.style)
    return settings


def _print(document: Any, as_json: bool) -> None:
    """A JSON document, or a table of its rows."""
    if as_json:
        typer.echo(json.dumps(document, indent=2, default=str))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = document if isinstance(document, list) else [document]
    if not rows:
        typer.echo("nothing")
        return
    if len(rows) == 1:
        for name, value in rows[0].items():
            typer.echo(f"{name:>18}  {_plain(value)}")
        return
    table = Table(*[str(k) for k in rows[0]], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*[Text(_plain(v)) for v in row.values()])
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width
        console.width = max(console.width, 1000)
    console.print(table)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return (
            " × ".join(str(v) for v in value)
            if all(isinstance(v, int) for v in value)
            else ", ".join(map(_plain, value))
        )
    return "–" if value is None else str(value)


@app.command()
def live(
    source: Annotated[Path, typer.Argument(help="The folder that the camera writes to; nothing in it is changed.")],
    out: Annotated[Path, typer.Argument(help="Where the runs go.")],
    until_idle: Annotated[
        float | None, typer.Option(metavar="S", help="Leave when nothing new came for S seconds.")
    ] = None,
    model: Model = None,
    http: Http = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; taken from the folder or file otherwise.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Validate and open everything, print all settings, leave.")
    ] = False,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Watch SOURCE; align, store, segment and measure each frame as it comes; one run per acquisition under OUT.

    Example: emstream live /data/camera /data/runs --http 127.0.0.1:8765
    """
    from emstream import live as daemon

    settings = _settings(config, sets, segment__model=model, view__http=http)
    if check:
        _print(daemon.check(source, out, settings), as_json)
        return
    summary = daemon.run(source, out, settings, until_idle=until_idle, name=name)
    _print(summary, as_json)


@app.command()
def simulate(
    dest: Annotated[Path, typer.Argument(help="The folder to write frames into, as a camera would.")],
    frames: Annotated[int, typer.Option(help="How many frames.")] = 200,
    fps: Annotated[float, typer.Option(help="Frames a second; 0 = as fast as possible.")] = 20.0,
    size: Annotated[str, typer.Option(metavar="Y[,X]", help="Frame size in px.")] = "1024",
    dtype: Annotated[str, typer.Option(help="Integer type of the camera.")] = "uint16",
    dose: Annotated[float, typer.Option(help="Mean dose, e/px per frame.")] = 20.0,
    drift: Annotated[str, typer.Option(metavar="DY,DX", help="Mean drift, px per frame.")] = "0.3,-0.2",
    jitter: Annotated[float, typer.Option(help="Random part of the drift, px rms.")] = 0.3,
    particles: Annotated[int, typer.Option(help="How many particles.")] = 60,
    coarsen: Annotated[bool, typer.Option(help="Let the particles exchange material and merge.")] = True,
    fmt: Annotated[str, typer.Option("--format", help="tiff, tiff-stack, mrc, npy, png or dm4-tree.")] = "tiff",
    pixel_size: Annotated[float, typer.Option(help="Pixel size, nm.")] = 0.5,
    truth: Annotated[Path | None, typer.Option(help="Where the truth goes; DEST/../truth.zarr otherwise.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same movie.")] = 0,
) -> None:
    """Play a camera: write an in-situ movie with known truth as files, as slow and as partial as a real camera does.

    Example: emstream simulate /tmp/camera --frames 200 --fps 20 --size 1024
    """
    from emstream import demo

    shape = tuple(int(v) for v in size.split(","))
    asked = demo.Simulation(
        frames=frames,
        fps=fps or None,
        shape=shape if len(shape) == 2 else (shape[0], shape[0]),
        dtype=dtype,
        dose=dose,
        drift=tuple(float(v) for v in drift.split(",")),
        jitter=jitter,
        particles=particles,
        coarsen=coarsen,
        fmt=fmt,
        pixel_size_nm=pixel_size,
        seed=seed,
    )
    demo.simulate(dest, asked, truth=truth)


@app.command(name="demo")
def demo_(
    frames: Annotated[int, typer.Option(help="How many frames the simulated camera writes; 0 = until stopped.")] = 600,
    fps: Annotated[float, typer.Option(help="Frames a second.")] = 10.0,
    size: Annotated[int, typer.Option(help="Frame size in px.")] = 512,
    http: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the page is served.")] = "127.0.0.1:0",
    until_idle: Annotated[
        float | None, typer.Option(metavar="S", help="Leave when nothing new came for S seconds.")
    ] = None,
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """A simulated camera, the daemon and the page, in a temporary folder; prints the page's address.

    Example: emstream demo
    """
    from emstream import demo

    demo.run(
        _settings(config, sets, view__http=http),
        demo.Simulation(frames=frames, fps=fps, shape=(size, size), particles=40),
        until_idle=until_idle,
    )


@app.command()
def info(
    path: Annotated[str, typer.Argument(help="File, folder or run; of Zarr also a URL: s3://, https:// …")],
    select: Annotated[
        str, typer.Option(metavar="AXIS=INDEX,…", help="Of Zarr stacks: where axes beside t, y, x are held.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """What any file, folder or run is: format, frames, shape, dtype, pixel size, whether it is complete.

    Example: emstream info movie.mrc --json
    """
    from emstream.source.formats.describe import describe

    _print(describe(path, select), as_json)


@app.command()
def reprocess(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT… OUT", help="Stacks, camera files or runs, then the folder for the new runs."),
    ],
    cluster: Cluster = "local",
    model: Model = None,
    align: Annotated[str, typer.Option(help="again: estimate the drift anew; keep: use the stored shifts.")] = "again",
    workers: Annotated[int, typer.Option(help="Worker processes; 0 = as many as fit.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Frames that cannot be read become blank ones instead of an error.")
    ] = False,
    in_place: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="labels NAME",
            help="No OUT: add labels NAME, and tables/NAME, to each INPUT, which is a run; its other labels stay.",
        ),
    ] = None,
    select: Annotated[
        str | None, typer.Option(metavar="AXIS=INDEX,…", help="Of Zarr stacks: where axes beside t, y, x are held.")
    ] = None,
    pixel_size: Annotated[
        str | None, typer.Option(metavar="NM[,NM]", help="nm per px, or y,x; of archives that do not tell.")
    ] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """An archived Zarr stack (a run, any OME-Zarr, a plain Zarr array) or a camera file becomes a run, on dask.

    The same command again goes on where it was stopped; of a run that is finished it verifies every block.

    Example: emstream reprocess old/run.zarr new/ --model classical
    """
    from emstream.jobs import reprocess as job

    if in_place is not None and in_place[0] != "labels":
        raise BadSettings(f"--in-place {in_place[0]!r}", "there is --in-place labels NAME")
    if in_place is None and len(inputs) < 2:
        raise BadSettings("reprocess needs INPUT… and OUT", "emstream reprocess old.zarr new/")
    settings = _settings(config, sets, segment__model=model, source__select=select, source__pixel_size_nm=pixel_size)
    given, out = (inputs, None) if in_place is not None else (inputs[:-1], Path(inputs[-1]))
    labels = None if in_place is None else in_place[1]
    rows = job.reprocess(
        given, out, settings, cluster=cluster, align=align, workers=workers, skip_bad=skip_bad, labels=labels
    )
    _print(rows, as_json)


@app.command()
def train(
    inputs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Runs, movies, or folders of pictures.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="MODEL", help="Folder of the new model.")] = None,
    labels: Annotated[
        str,
        typer.Option(
            help="none; a folder of label pictures; a COCO file; a painted stack; the name of a run's labels."
        ),
    ] = "none",
    recipe: Annotated[
        str,
        typer.Option(
            help="student: no labels, or few; supervised: labels; autoencoder: the historical baseline. "
            "auto: student without labels, supervised with them. Two, a,b: side by side, the better one is kept."
        ),
    ] = "auto",
    suggest: Annotated[
        int | None, typer.Option(metavar="N", help="Train nothing; name the N frames most worth labelling.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="How long.")] = None,
    cluster: Cluster = "local",
    workers: Annotated[int, typer.Option(help="Worker processes; 0 = as many as fit.")] = 0,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Train a segmentation model offline, as a dask job; interrupted, the same command goes on.

    A student must beat the model that is in use before it becomes MODEL; else it lies in MODEL.refused.

    Example: emstream train runs/Au.zarr --out models/Au
    """
    from emstream.jobs import train as job

    settings = _settings(config, sets, learn__epochs=epochs)
    if suggest is not None:
        _print(job.suggest(inputs, suggest, settings, cluster=cluster, workers=workers), as_json)
        return
    if out is None:
        raise BadSettings("train needs --out MODEL, the folder of the new model", "or --suggest N")
    _print(job.train(inputs, out, settings, labels=labels, recipe=recipe, cluster=cluster, workers=workers), as_json)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="RUN")],
    second: Annotated[Path, typer.Argument(metavar="RUN")],
    labels: Annotated[
        str, typer.Option(metavar="NAME[,NAME]", help="Which labels of both, or of the one and the other.")
    ] = "particles",
    every: Annotated[int, typer.Option(help="Compare the labels of every so many frames.")] = 1,
    as_json: AsJson = False,
) -> None:
    """What changed between two results of one movie: shifts, labels, particles, tables, settings, models.

    Labels are compared where the camera saw them, whatever the runs' shifts. --json tells every frame.

    Example: emstream diff runs/Au.zarr again/Au.zarr
    """
    from emstream.jobs import diff as job
    from emstream.jobs.diff_told import rows

    document = job.diff(first, second, labels=labels.split(","), every=every)
    _print(document if as_json else rows(document), as_json)


@app.command()
def export(
    run: Path,
    out: Annotated[Path, typer.Argument(metavar="OUT.{mp4,gif,csv,parquet,md,html,tif}")],
    fps: Annotated[float | None, typer.Option(help="Frames a second of the movie.")] = None,
    canvas: Annotated[
        str | None, typer.Option(help="Of a tif: common (what every frame covers) or expand (all).")
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Of a csv or parquet: particles (default), tracks, events or kinetics.")
    ] = None,
) -> None:
    """A movie cropped to what every frame covers, tables, what their columns mean (md), or a report with plots.

    Example: emstream export runs/Au.zarr Au.mp4
    """
    from emstream.export import export as write

    options = {"fps": fps, "canvas": canvas, "table": table}
    typer.echo(str(write(run, out, **{k: v for k, v in options.items() if v is not None})))


@app.command()
def kinetics(run: Path, as_json: AsJson = False) -> None:
    """Counts, sizes and laws of a run with their uncertainty: coarsening exponent, ripening against coalescence.

    Example: emstream kinetics runs/Au.zarr --json
    """
    from emstream.export.kinetics import told

    rows = told(run)
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
    else:
        for row in rows:
            typer.echo(f"{row['quantity']:<48} {row['text']}")


@app.command()
def view(path: Path, http: Http = "127.0.0.1:8765", config: ConfigFile = None, sets: Sets = None) -> None:
    """The live page on stored runs: PATH is a run or a folder of runs.

    Example: emstream view runs/
    """
    from emstream import live as daemon

    daemon.view(path, _settings(config, sets, view__http=http))


@app.command()
def check(
    run: Path,
    repair: Annotated[
        bool, typer.Option("--repair", help="Rewrite what is damaged, from the ledger and the camera's files.")
    ] = False,
    source: Annotated[
        Path | None, typer.Option(help="With --repair: the folder that was watched, when it lies elsewhere now.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify every chunk, the ledger and the metadata of a run; list what is missing or damaged.

    Exit code 0: the run is sound, or is so after --repair; 1: something is wrong, and listed.

    Example: emstream check runs/Au.zarr --repair
    """
    if repair:
        from emstream.source.again import repair as mend

        report = mend(run, source)
    else:
        from emstream.store.check import check as verify

        report = verify(run)
    _print(report.as_dict(), as_json)
    if report.problems:
        raise typer.Exit(1)


quarantine = typer.Typer(help="Files that could not become frames.", no_args_is_help=True)
app.add_typer(quarantine, name="quarantine")


@quarantine.command(name="list")
def quarantine_list(
    out: Annotated[Path, typer.Argument(help="The folder of the runs.")], as_json: AsJson = False
) -> None:
    """What could not be read, why, when (1970 s in JSON) and how large it is; also while a daemon runs.

    Example: emstream quarantine list runs/
    """
    import time

    from emstream.store.quarantine import listed

    rows = listed(out)
    if not as_json:
        rows = [{**row, "at": time.strftime("%F %T", time.localtime(row["at"]))} for row in rows]
    _print(rows, as_json)


@quarantine.command(name="retry")
def quarantine_retry(
    out: Annotated[Path, typer.Argument(help="The folder of the runs.")],
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATH…]", help="As list shows them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have files read once more: by the daemon that runs, within seconds, or by the next one.

    Example: emstream quarantine retry runs/ --all
    """
    from emstream.store.quarantine import retry

    if bool(paths) == everything:
        raise BadSettings("quarantine retry needs the paths, or --all", "emstream quarantine list shows them")
    _print([{"path": path} for path in retry(out, None if everything else paths)], as_json)


models = typer.Typer(help="Segmentation models: which there are, how good, which one is at work.", no_args_is_help=True)
app.add_typer(models, name="models")
Runs = Annotated[Path | None, typer.Argument(metavar="[OUT]", help="The folder of the runs.")]


@models.command(name="list")
def models_list(out: Runs = None, as_json: AsJson = False) -> None:
    """The shipped models and those of an output folder; which one is wanted there, and which one the daemon uses.

    Example: emstream models list runs/
    """
    from emstream.segment import desk

    _print(desk.table(out), as_json)


@models.command(name="show")
def models_show(
    model: Annotated[str, typer.Argument(help="A name of models list, or a model folder.")],
    out: Runs = None,
    as_json: AsJson = False,
) -> None:
    """What a model is, what it was made of, how good it was on what it did not learn from.

    Example: emstream models show default
    """
    from emstream.segment import desk

    _print(desk.show(model, out), as_json)


@models.command(name="activate")
def models_activate(
    model: Annotated[str, typer.Argument(help="A name of models list, or a model folder.")],
    out: Annotated[Path, typer.Argument(help="The folder of the runs.")],
    anyway: Annotated[bool, typer.Option("--anyway", help="Also when it finds none of the golden particles.")] = False,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Have a model make the labels from now on: the daemon takes it up between two frames, or at its next start.

    It is tried first, and refused when it is damaged or finds nothing.

    Example: emstream models activate models/Au runs/
    """
    from emstream.segment import desk

    _print(desk.activate(model, out, _settings(config, sets).segment, anyway), as_json)


@models.command(name="evaluate")
def models_evaluate(
    wanted: Annotated[list[str], typer.Argument(metavar="MODEL…", help="Names of models list, or model folders.")],
    data: Annotated[
        list[Path],
        typer.Option("--data", help="Labelled pictures (images/ beside labels/), or a run; may be repeated."),
    ],
    labels: Annotated[
        str, typer.Option(help="Folder of label pictures; for a run a label image's name or a simulation's truth.zarr.")
    ] = "",
    held_out: Annotated[
        float, typer.Option(metavar="SHARE", help="Only the pictures that train keeps for validation; 0 = all.")
    ] = 0.0,
    most: Annotated[int, typer.Option(help="Most pictures or frames of each data set, evenly spread.")] = 200,
    out: Annotated[Path | None, typer.Option(help="Folder of runs whose models can be named.")] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """The honest table: IoU, Dice, AP50 = TP/(TP+FP+FN), errors of counts and diameters; several models side by side.

    Example: emstream models evaluate default classical --data emps_train/ --held-out 0.15
    """
    from emstream.learn import compare

    settings = _settings(config, sets)
    rows = compare.evaluate(
        wanted, data, settings.segment, out=out, labels=labels, held_out=held_out, most=most,
        threads=settings.compute.threads,
    )  # fmt: skip
    _print(rows, as_json)


@app.command()
def bench(
    peers: Annotated[
        bool, typer.Option("--peers", help="Add scikit-image + scipy + zarr append in the same run.")
    ] = False,
    sizes: Annotated[str, typer.Option(help="Frame sizes, px.")] = "512,1024,2048",
    frames: Annotated[int, typer.Option(help="Frames per size.")] = 40,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """The throughput table of this machine: frames/s, ms/frame, MB/s per stage and end to end.

    Example: emstream bench --peers
    """
    from emstream import bench as benchmark

    rows = benchmark.table([int(s) for s in sizes.split(",")], frames, _settings(config, sets), peers=peers)
    _print(rows, as_json)


@app.command()
def doctor(
    source: Annotated[Path | None, typer.Argument(help="The folder that will be watched.")] = None,
    out: Annotated[Path | None, typer.Argument(help="Where runs will go.")] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """File system kind, inotify limits, free space and time left, clock, GPU, ports, permissions.

    Example: emstream doctor /data/camera /data/runs
    """
    from emstream import doctor as examine

    rows = examine.examine(source, out, _settings(config, sets))
    _print(rows, as_json)
    if any(row["verdict"] == "bad" for row in rows):
        raise typer.Exit(1)
