"""The files that are found and not finished: single frames in the line of their series, movies beside them."""

from __future__ import annotations

from emstream.source import SourceOptions
from emstream.source.followed import Followed
from emstream.source.formats.series import series_of
from emstream.source.line import Line


class Roster:
    """Who is followed. A file is in `files`, and either in `movies` or in its line.

    files  : all, by path
    lines  : by series
    movies : by path, in the order in which they were found
    """

    def __init__(self) -> None:
        self.files: dict[str, Followed] = {}
        self.lines: dict[str, Line] = {}
        self.movies: dict[str, Followed] = {}

    def line(self, series: str) -> Line:
        """The line of a series, perhaps a new one."""
        return self.lines.setdefault(series, Line())

    def join(self, file: Followed) -> None:
        """It was found."""
        self.files[file.path] = file
        if file.hint.role == "movie":
            self.movies[file.path] = file
        else:
            self.line(file.hint.series).join(file)

    def leave(self, file: Followed) -> None:
        """It is finished, or gone."""
        self.files.pop(file.path, None)
        self.movies.pop(file.path, None)
        if file.hint.series in self.lines:
            self.lines[file.hint.series].leave(file)

    def become_movie(self, file: Followed, options: SourceOptions) -> None:
        """It stood in a line, and holds many frames."""
        self.line(file.hint.series).leave(file)
        file.hint = series_of(file.path, many=True, group=options.group)
        file.single = False
        self.movies[file.path] = file

    def waiting(self) -> list[Followed]:
        """Those of which a frame is still to come, as far as is known."""
        return [f for f in self.files.values() if f.path not in self.movies or _unfinished(f)]

    def not_looked_at(self) -> int:
        """Files in the lines that nobody has opened yet."""
        return sum(len(line.waiting) for line in self.lines.values())


def _unfinished(movie: Followed) -> bool:
    state = movie.state
    return state is None or state.n_covered > movie.handed
