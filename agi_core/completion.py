"""A whole folder completed: of every visit what it lacks, one file each, as far as a run's models make it.

Files are called as the layout calls scans, `BraTS-GLI-00000-000-t2f.nii.gz`, in one flat folder, as BraSyn wants them;
in BIDS they are derivatives. What is there already stays as it is, so an interrupted command is simply given again:
what is said of a volume is there before the volume.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agi_core.bids import check_folder, derivative_path, describe, sidecar_path
from agi_core.data.nifti import Volume
from agi_core.data.preprocess import Prepared
from agi_core.data.scan_files import Skipped
from agi_core.data.scans import Scans, Session, discover
from agi_core.errors import DataError
from agi_core.inference import synthesize
from agi_core.layouts import LAYOUTS
from agi_core.run_models import RunModels
from agi_core.scenario import Scenario
from agi_core.synthesis import made_here
from agi_core.volume_note import check_note, spoken, write_note

COMPLETE = "nothing is missing"
THERE = "its file is there already"
NOT_OURS = "a file is there that is no synthetic volume; remove it"


@dataclass
class Completion:
    """The completion of one folder.

    Attributes:
        release: of this program, for BIDS.
        batch_size: slices that a 2-D network sees at once.
        made: volumes by cell.
        unjudged: those of `made` whose model has no known range.
        left_out: visits and volumes, each with its reason.
        doubts: what is odd about the sources.
    """

    models: RunModels
    scans: Scans
    out_dir: Path
    release: str
    batch_size: int
    made: Counter[Scenario] = field(default_factory=Counter)
    unjudged: Counter[Scenario] = field(default_factory=Counter)
    left_out: list[Skipped] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def run(self, target: str | None, *, on_visit: Callable[[int, int], None]) -> None:
        """Make what the visits lack: `target`, or every modality of the run.

        Args:
            on_visit: called with (done, total) after each visit.

        Raises:
            ConfigError: `out_dir` lies among the scans, or the run does not make the target.
            DataError: `out_dir` is another data set of BIDS, there is no scan of the run's modalities, or nothing could
                be made.
            RunError: `out_dir` cannot be written, or a model is missing or diverged.
        """
        self.scans.check_apart(self.out_dir)
        if self.scans.layout == "bids":
            check_folder(self.out_dir)
        self.models.check_target(target)
        targets = self.models.targets
        found = discover(self.scans, self.models.modalities, least=1, of_model=True)
        self.left_out += found.skipped
        unclear = {skipped.place.partition(":")[0] for skipped in found.skipped if skipped.reason.startswith("several")}
        visits = [(f"{s.id} {visit.name}".strip(), visit) for s in found.subjects for visit in s.sessions]
        visits = [(place, visit) for place, visit in visits if place not in unclear]  # who has two lacks none
        for done, (place, visit) in enumerate(visits, start=1):
            missing = [name for name in ([target] if target else targets) if name not in visit.paths]
            for name in missing:
                if reason := self._make(visit, name, place=place):
                    self.left_out.append(Skipped(f"{name} of {place}", reason))
            if not missing:
                self.left_out.append(Skipped(place, COMPLETE))
            on_visit(done, len(visits))
        if not self.made and not {COMPLETE, THERE} & {skipped.reason for skipped in self.left_out}:
            raise DataError(f"nothing could be made of {self.scans.dir}: {'; '.join(self.lines())}")

    def lines(self) -> list[str]:
        """For the terminal: volumes by cell, then what was left out, by reason with the first example."""
        lines = []
        for cell, count in self.made.items():
            note = self.models.blend_note(cell)
            lines.append(f"{count} x {cell.target} from {', '.join(cell.sources)}{note and f' (a blend: {note})'}")
            if cell in self.unjudged:
                why = spoken(None, private=self.models.task.privacy.on)
                lines += [f"{cell.target} from {', '.join(cell.sources)}: {sentence}" for sentence in why]
        counts = Counter(skipped.reason for skipped in self.left_out)
        first = {skipped.reason: skipped.place for skipped in reversed(self.left_out)}
        return lines + [f"left out {count} x: {reason}; first {first[reason]}" for reason, count in counts.items()]

    def _make(self, visit: Session, target: str, *, place: str) -> str:
        """Write one missing volume of a visit; why not, or ""."""
        cell = self.models.cell(visit.paths, target)
        if cell is None:
            return self.models.why_not(visit.paths, target)
        model, sources = self.models.model(cell), {name: visit.paths[name] for name in cell.sources}
        out_path = self._out_path(sources[model.reference], target)
        if out_path.exists():
            if not made_here(out_path):
                return NOT_OURS
            if self.scans.layout == "bids" and not sidecar_path(out_path).exists():  # as an earlier release left it
                self._describe(out_path, sources, target)
            return THERE
        verdict = self.models.verdict(cell)

        def judge(volumes: Mapping[str, Volume], prepared: Prepared) -> Iterable[str]:
            """The verdict, written down before the volume is there: a volume that is there is not made again."""
            reasons = () if verdict is None else verdict(volumes, prepared)
            if self.scans.layout == "bids":
                self._describe(out_path, sources, target)
            whose, sidecar = self.models.whose(cell), self.scans.layout == "bids"
            write_note(out_path, whose=whose, verdict=verdict, error_map=None, sidecar=sidecar)
            return reasons

        try:
            if self.scans.layout != "bids":
                check_note(out_path)
            doubts = synthesize(
                model,
                source_paths=sources,
                out_path=out_path,
                spacing_mm=self.models.task.spacing_mm,
                register=self.models.register,
                note=self.models.note(cell),
                batch_size=self.batch_size,
                judge=judge,
            )
        except DataError as error:
            return str(error)
        self.made[cell] += 1
        self.doubts += [f"{place}: {name}: {doubt}" for name, doubt in doubts]
        if verdict is None:
            self.unjudged[cell] += 1
        else:
            self.doubts += [f"{place}: {target}: {reason}" for reason in spoken(verdict)]
        return ""

    def _describe(self, out_path: Path, sources: Mapping[str, Path], target: str) -> None:
        describe(out_path, folder=self.out_dir, sources=sources, target=target, release=self.release)

    def _out_path(self, source: Path, target: str) -> Path:
        """The file of a target beside a source, by the layout's names; those of the source's years."""
        if self.scans.layout == "bids":
            return derivative_path(self.out_dir, like=source, target=target)
        layout = LAYOUTS[self.scans.layout]
        match = layout.scan.fullmatch(source.name)
        if match is None:
            raise ValueError(f"{source.name} was found as a scan")
        older = {name: old for old, name in layout.modalities.items()} if match["modality"] in layout.modalities else {}
        return self.out_dir / f"{source.name[: match.start('modality')]}{older.get(target, target)}.nii.gz"
