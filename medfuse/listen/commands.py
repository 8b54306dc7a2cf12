"""The command `listen`."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import signal
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.about import NOTICE
from medfuse.arguments import integer, positive
from medfuse.bundles import case_keys
from medfuse.errors import MedfuseError
from medfuse.fusing import add_fusing, fusing
from medfuse.listen.peers import Peer, Tls, ae_title, peer
from medfuse.listen.queue import Queue
from medfuse.progress import LINES

if TYPE_CHECKING:
    from medfuse.listen.service import Service
_PORT, _COUNT, _SECONDS = integer(0, 65535), integer(1, 1000), positive(86400, "seconds")
_MB, _GB = positive(1e6, "MB"), positive(1e6, "GB")


def add_listen(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command, and return its parser."""
    listen = commands.add_parser(
        "listen",
        help="receive studies from a PACS, fuse each, and send the results back (needs medfuse[pacs])",
        description=f"What became of the studies says: medfuse status QUEUE. {NOTICE}",
    )
    listen.add_argument("queue", type=Path, help="folder for studies and results; a service may be started anew on it")
    come = listen.add_argument_group("what comes in")
    come.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    come.add_argument("--port", type=_PORT, default=11112, help="port (default: 11112; 0: one that is free)")
    come.add_argument("--aet", type=_aet, default="MEDFUSE", help="AE title, which callers must name")
    come.add_argument("--allow", nargs="+", type=_aet, default=[], metavar="AE", help="AE titles that may call (all)")
    come.add_argument("--associations", type=_COUNT, default=10, metavar="N", help="most at a time (default: 10)")
    come.add_argument("--timeout", type=_SECONDS, default=60.0, metavar="S", help="wait for a message (default: 60)")
    come.add_argument(
        "--stable", type=_SECONDS, default=60.0, metavar="S",
        help="a study is whole when nothing of it has come for so long (default: 60)",
    )  # fmt: skip
    come.add_argument(
        "--largest", type=_MB, default=2048.0, metavar="MB", help="an object may have so many MB (default: 2048)"
    )
    come.add_argument(
        "--room", type=_GB, metavar="GB",
        help="all objects that are kept may have so many GB (default: what the disk has)",
    )  # fmt: skip
    come.add_argument(
        "--keep-free", type=_GB, default=1.0, metavar="GB", help="leave so many GB of the disk free (default: 1)"
    )
    come.add_argument(
        "--time-limit", type=_SECONDS, default=3600.0, metavar="S",
        help="a study that is not fused within so long fails (default: 3600)",
    )  # fmt: skip
    out = listen.add_argument_group("what goes out")
    out.add_argument(
        "--send", action="append", type=_peer, default=[], metavar="PEER",
        help="who gets the results: AE@HOST:PORT, tls:AE@HOST:PORT, or the URL of a DICOMweb service; may be repeated",
    )  # fmt: skip
    out.add_argument("--series", nargs="+", default=[], metavar="NAME", help="send these alone, such as fused_rgb")
    out.add_argument(
        "--retry",
        type=_SECONDS,
        default=5.0,
        metavar="S",
        help="first pause; it doubles (default: 5)",
    )
    out.add_argument("--stow-header", type=Path, metavar="FILE", help="file with the Authorization header for a URL")
    out.add_argument("--again", action="store_true", help="try once more what failed, or was refused")
    tls = listen.add_argument_group("TLS")
    tls.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate, PEM; callers must then speak TLS")
    tls.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, PEM (default: in the same file)")
    tls.add_argument("--tls-ca", type=Path, metavar="FILE", help="who vouches for callers and peers, PEM")
    add_fusing(listen)
    listen.set_defaults(run=_listen, says_lines=True)
    return listen


def series_names(bundle: str) -> tuple[str, ...]:
    """Return the names of the series that a bundle writes: those of `medfuse.pipeline.outputs.dicom`, slow to load."""
    uptake = case_keys(bundle)[1]
    of_regions = ("regions", "measurements")
    return (f"{uptake}_restored", f"{uptake}_std", "fused", "fused_rgb", "fused_rgb_multiframe", *of_regions)


def _listen(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("pynetdicom") is None:
        raise MedfuseError("`medfuse listen` must have pynetdicom, got none; install medfuse[pacs].")
    tls = Tls(options.tls_cert, options.tls_key, options.tls_ca)
    _check(options, tls)
    from medfuse.listen.intake import Limits
    from medfuse.listen.receive import Entrance
    from medfuse.listen.service import Dispatch, Service
    from medfuse.listen.work import How

    room = {} if options.room is None else {"all": round(options.room * 1e9)}
    limits = Limits(one=round(options.largest * 1e6), free=round(options.keep_free * 1e9), **room)
    callers = tuple(options.allow)
    entrance = Entrance(
        options.host, options.port, options.aet, callers, options.associations, options.timeout, tls, limits
    )
    dispatch = Dispatch(tuple(dict.fromkeys(options.send)), tuple(options.series), options.stow_header, options.retry)
    how = How(fusing(options) | {"device": options.device}, options.frames, limit=options.time_limit)
    queue = Queue(options.queue)
    held = queue.open()
    _warn_of_others(queue.folder)
    try:
        service = Service(queue, entrance, dispatch, stable=options.stable, how=how)

        def stop(*_: object) -> None:
            service.stop.set()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pydicom and pynetdicom: they repeat values of headers
                _serve(service, options)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    finally:
        held.release()
    logging.getLogger(LINES).info("stopped")
    return 0


def _serve(service: Service, options: argparse.Namespace) -> None:
    try:
        host, port = service.start(again=options.again)
    except BaseException:
        service.end()
        raise
    print(f"{options.aet} listens at {host}:{port}", flush=True)
    print(NOTICE, flush=True)
    service.run()


def _check(options: argparse.Namespace, tls: Tls) -> None:
    """Raise where options do not go together, or a file cannot be used."""
    if tls.certificate is None and tls.key is not None:
        raise MedfuseError("--tls-key must come with --tls-cert, got it alone; give both.")
    if tls.certificate is None and tls.authority is not None and not any(p.tls or p.url for p in options.send):
        raise MedfuseError("--tls-ca must come with --tls-cert, or a peer that speaks TLS, got neither; give one.")
    tls.server()
    tls.client()
    known = series_names(options.bundle)
    if unknown := [name for name in options.series if name not in known]:
        raise MedfuseError(f"--series must be of {', '.join(known)}, got {unknown[0]!r}; change it.")
    header = options.stow_header
    if header is not None and not header.is_file():
        raise MedfuseError("--stow-header must be a file, got none there; check the path.")
    if header is not None:
        for plain in (p.text for p in options.send if p.url.startswith("http:")):
            logging.getLogger("medfuse").warning(
                "--stow-header should go over https, got %s: whoever is in between can read it; use https", plain
            )
    if options.host not in ("127.0.0.1", "::1", "localhost") and not options.allow and tls.authority is None:
        logging.getLogger("medfuse").warning(
            "everybody who reaches %s may send studies; name callers with --allow, or ask for certificates with "
            "--tls-ca",
            options.host,
        )


def _warn_of_others(folder: Path) -> None:
    if folder.stat().st_mode & 0o007:
        logging.getLogger("medfuse").warning(
            "QUEUE must be for the service alone, as its objects name patients, got one that every user may enter; run "
            "chmod o= on it"
        )


def _peer(text: str) -> Peer:
    try:
        return peer(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, got {text!r}") from None


def _aet(text: str) -> str:
    try:
        return ae_title(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, got {text!r}") from None
