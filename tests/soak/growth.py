"""Memory and open files of long-lived processes over time: a straight line through the second half tells whether they grow."""

import time
from dataclasses import dataclass, field
from statistics import fmean

import psutil

MIN_JUDGED_SECONDS = 150.0  # a shorter second half is all warming up
MAX_GROWTH_BYTES = 8 * 2**20
MAX_GROWTH_SHARE = 0.06
MAX_GROWTH_FILES = 8


@dataclass
class Series:
    """One process: seconds since the start of the watch, resident bytes, open files, threads."""

    name: str
    pid: int
    rows: list[tuple[float, int, int, int]] = field(default_factory=list)

    @property
    def second_half(self) -> list[tuple[float, int, int, int]]:
        middle = (self.rows[0][0] + self.rows[-1][0]) / 2
        return [row for row in self.rows if row[0] >= middle]

    def rise(self, column: int) -> float:
        """How much the fitted line rises over the second half (1: bytes, 2: files, 3: threads)."""
        half = self.second_half
        return slope([row[0] for row in half], [float(row[column]) for row in half]) * (half[-1][0] - half[0][0])

    def faults(self) -> list[str]:
        """Why this process grows without bound, if it does."""
        half = self.second_half
        if half[-1][0] - half[0][0] < MIN_JUDGED_SECONDS:
            return []
        allowed = max(MAX_GROWTH_BYTES, MAX_GROWTH_SHARE * half[0][1])
        found = []
        if self.rise(1) > allowed:
            found.append(f"{self.name}: {self.rise(1) / 2**20:.1f} MiB more in {half[-1][0] - half[0][0]:.0f} s")
        if self.rise(2) > MAX_GROWTH_FILES:
            found.append(f"{self.name}: {self.rise(2):.0f} more open files in {half[-1][0] - half[0][0]:.0f} s")
        return found

    def describe(self) -> str:
        first, last = self.rows[0], self.rows[-1]
        memory = f"memory {first[1] / 2**20:6.1f} → {last[1] / 2**20:6.1f} MiB"
        return (
            f"{self.name:<10} {last[0] - first[0]:6.0f} s  {memory} "
            f"(second half {self.rise(1) / 2**20:+.1f})  files {first[2]} → {last[2]} ({self.rise(2):+.1f})  "
            f"threads {first[3]} → {last[3]}"
        )


class Growth:
    """Samples the processes that are named to it; one that was started again is another series."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.series: dict[tuple[str, int], Series] = {}

    def sample(self, pids: dict[str, int]) -> None:
        for name, pid in pids.items():
            try:
                process = psutil.Process(pid)
                row = (time.monotonic() - self.began, process.memory_info().rss, process.num_fds(), process.num_threads())
            except psutil.NoSuchProcess:
                continue
            self.series.setdefault((name, pid), Series(name, pid)).rows.append(row)

    def longest(self) -> list[Series]:
        """The longest series of each name."""
        names = sorted({name for name, _ in self.series})
        mine = [[series for series in self.series.values() if series.name == name] for name in names]
        return [max(found, key=lambda series: series.rows[-1][0] - series.rows[0][0]) for found in mine]


def slope(xs: list[float], ys: list[float]) -> float:
    """Of the least-squares line; 0 for fewer than two points."""
    x, y = fmean(xs), fmean(ys)
    spread = sum((one - x) ** 2 for one in xs)
    return sum((one - x) * (other - y) for one, other in zip(xs, ys, strict=True)) / spread if spread else 0.0
