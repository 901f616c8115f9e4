"""The loop that turns a recipe into a run: any device, checkpoints written aside, resumed bit for bit on a CPU."""

import json
import math
import os
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from filelock import FileLock
from safetensors.torch import save
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from mtg_lab import methods
from mtg_lab.backbones import Backbone
from mtg_lab.checkpoints import CHECKPOINT, copies, read_checkpoint, write_checkpoint
from mtg_lab.data import CropStream, cached_dataset
from mtg_lab.errors import InputError, LostProcess
from mtg_lab.files import cache_folder, make_folder, write_text, written_aside
from mtg_lab.hardware import environment, seeded, use_bf16
from mtg_lab.manifest import Manifest
from mtg_lab.missingness import availability
from mtg_lab.probe import Probe
from mtg_lab.progress import progress
from mtg_lab.recipes import Recipe, override, preset, suite
from mtg_lab.runs import Run, begun_with, boxed_run, load_run, take_weights, weights_meaning, write_description
from mtg_lab.schemas import check_same_classes

__all__ = ["Recipe", "Run", "begun_with", "load_run", "override", "preset", "suite", "train"]

_CLIP = 12.0  # gradient norm; nnU-Net's value (Isensee et al. 2021): rarely reached, stops a run-away step


def train(
    recipe: Recipe,
    folder: str | Path | None = None,
    *,
    workers: int = 0,
    checkpoint_steps: int = 100,
    accumulate: int = 1,
) -> Run:
    """The run of a recipe: loaded if it is trained already, resumed if it was interrupted, else trained.

    Trained already are the runs of the cache and those that come with the package (:func:`mtg_lab.runs.boxed_runs`).

    Started by torchrun (:func:`mtg_lab.launch.launch`), every process calls this function and takes its share of each
    batch; the first one writes. Dice over the batch, alignment by moments and the spread that distillation is measured
    in are those of all shares (:func:`mtg_lab.shares.over_processes`), so that the losses are those of one process. An
    interrupted run goes on with any number of processes and parts.

    Args:
        recipe: what to train; its teacher is trained (or loaded) first.
        folder: the run's folder; by default ``runs/<hash>`` in the cache.
        workers: processes that prepare samples; they change nothing but the speed.
        checkpoint_steps: how often a checkpoint is written.
        accumulate: parts of a share that are worked on one after another, for a GPU that cannot hold it whole; what is
            no mean over samples is taken over the same part of all processes.

    Raises:
        InputError: a batch that does not divide over processes and parts; bad manifest, options or folder; or the
            folder holds the run of another recipe.
    """
    processes = _processes()
    digest = recipe.digest()
    target = Path(folder) if folder is not None else cache_folder("runs", digest)
    _refuse_foreign(target, digest)
    if folder is None and not _is_trained(target) and (boxed := boxed_run(digest)):
        return load_run(boxed)
    if not _is_trained(target):
        _check(recipe)
        make_folder(target)
        with FileLock(target / ".lock") if processes.is_main_process else nullcontext():
            processes.wait_for_everyone()  # the lock is held now; nobody else ends this run
            if not _is_trained(target):
                alike = partial(train, workers=workers, checkpoint_steps=checkpoint_steps, accumulate=accumulate)
                teacher = alike(recipe.teacher) if recipe.teacher else None
                fresh = not (target / "recipe.json").is_file()
                try:
                    _Training(recipe, digest, target, teacher, workers, accumulate).run(checkpoint_steps)
                except InputError:
                    if fresh and processes.is_main_process and not (target / CHECKPOINT).is_file():
                        for name in ("recipe.json", "log.txt", "missing.csv", "missing.rule.json"):  # not interrupted
                            (target / name).unlink(missing_ok=True)
                    raise
            processes.wait_for_everyone()
    return load_run(target)


class _Training:
    def __init__(self, recipe: Recipe, digest: str, folder: Path, teacher: Run | None, workers: int, accumulate: int):
        self.recipe, self.folder, self.parts = recipe, folder, accumulate
        AcceleratorState._reset_state()  # else the first run of a process would fix the precision of all later ones
        self.accelerator = Accelerator(
            mixed_precision="bf16" if use_bf16(recipe.precision) else "no",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        with self.accelerator.main_process_first():
            cohort = recipe.cohort()
            training = cohort.split("train").materialise()
        self.method = build_method(recipe, training, teacher.backbone() if teacher else None)
        if self.accelerator.is_main_process:
            write_description(folder, recipe, digest, training, teacher.digest if teacher else None)
        trainable = [p for p in self.method.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.average = AveragedModel(
            self.method.backbone, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / max(1.0, recipe.averaging * recipe.steps))
        )
        self.method.to(self.accelerator.device)
        self.average.to(self.accelerator.device)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.method, self.optimizer)
        # Of 1x1x1 kernels, whose strides mean nothing; one copy of a few weights a step.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        self.data = cached_dataset(training.subjects, training.modalities, recipe.preprocessing)
        self.classes, self.meaning = training.schema.classes, weights_meaning(training.modalities, training.schema)
        self.workers, self.step, self.history = workers, 0, []  # type: ignore[var-annotated]
        self.probe: Probe | None = Probe(cohort, recipe) if self.accelerator.is_main_process else None
        self.warned = False
        self.between_steps = True  # only then do weights, optimiser, average and step count belong together

    def run(self, checkpoint_steps: int) -> None:
        recipe, started = self.recipe, time.perf_counter()
        self._resume()
        first = self.step
        self._log(f"{'resumed at step ' + str(first) if first else 'started'}, {recipe.method} on {recipe.backbone}")
        self.method.train()
        bar = progress(total=recipe.steps, desc=f"training {recipe.method}")
        bar.update(first)
        try:
            self._steps(bar, checkpoint_steps)
        except (KeyboardInterrupt, LostProcess) as end:
            if self.between_steps:
                self._save_checkpoint()
            why = ": another process is gone" if isinstance(end, LostProcess) else ""
            self._log(f"interrupted at step {self.step}{why}")
            raise
        finally:
            bar.close()
        seconds = time.perf_counter() - started
        if self.accelerator.is_main_process:
            self._finish(seconds, self.step - first)
        self.accelerator.wait_for_everyone()

    def _steps(self, bar: tqdm, checkpoint_steps: int) -> None:
        try:
            for batch in self._batches():
                self._advance(batch)
                bar.update()
                if self.step % checkpoint_steps == 0:
                    self._warn()
                    if self.step < self.recipe.steps:
                        self._save_checkpoint()
        except RuntimeError as fault:  # an interruption of all processes may come while this one's is looked at
            if _of_a_lost_process(fault) and self.accelerator.num_processes > 1:
                raise LostProcess(
                    f"training {self.folder.name}: another process is gone; the same command goes on from the last "
                    "checkpoint"
                ) from fault
            raise

    def _advance(self, batch: dict[str, Tensor]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * rate_factor(self.step, self.recipe.steps, self.recipe.warmup)
        rows, statistics = [], []
        for part, share in enumerate(self._shares(batch)):
            last = part == self.parts - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                number = self.accelerator.process_index * self.parts + part
                with seeded(self.accelerator.device, self.recipe.seed, self.step, number):  # dropout
                    losses = self.wrapped({**share, "progress": torch.tensor(self.step / self.recipe.steps)})
                rows.append({"loss": losses.total.detach(), **losses.parts})
                statistics.append(losses.statistics)
                self.accelerator.backward(losses.total / self.parts)
        row = self._over_processes(_means(rows))
        if self.step % 50 == 0 and not bool(torch.isfinite(row["loss"])):
            raise self._diverged(f"the loss is {float(row['loss'])} at step {self.step}")
        self.between_steps = False  # from here on the method's state may change
        row |= self.method.after_backward(self._over_processes(_means(statistics)), self.step, self.recipe.steps)
        self.accelerator.clip_grad_norm_(self.wrapped.parameters(), _CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.method.backbone)
        self.history.append(row | self._looked(self.step + 1))
        self.step += 1
        self.between_steps = True

    def _shares(self, batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """The parts of this process's share of a batch."""
        for part in zip(*(value.chunk(self.parts) for value in batch.values()), strict=True):
            yield dict(zip(batch, part, strict=True))

    def _warn(self) -> None:
        told = self.method.warning(self._numbers()) if self.accelerator.is_main_process and not self.warned else None
        if told:
            self.warned = True
            self._log(f"step {self.step}: {told}")
            warnings.warn(told, stacklevel=2)

    def _looked(self, step: int) -> dict[str, float]:
        if self.probe is None or not self.probe.due(step):
            return {}
        try:
            return self.probe.look(self.method.backbone)
        except InputError as fault:  # a validation subject's fault does not stop the training
            self.probe = None
            self._log(f"step {step}: nobody looks at the validation split: {fault}")
            return {}

    def _over_processes(self, row: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means over processes, each of which saw its share of the batch; tensors of any shape."""
        if self.accelerator.num_processes == 1 or not row:
            return dict(row)
        values = self.accelerator.reduce(torch.cat([v.float().flatten() for v in row.values()]), reduction="mean")
        parts = values.split([v.numel() for v in row.values()])
        return {name: part.reshape(v.shape) for (name, v), part in zip(row.items(), parts, strict=True)}

    def _diverged(self, what: str) -> InputError:
        return InputError(
            f"training {self.folder.name}: {what}; lower the learning rate (--set learning_rate=...) or use "
            "--set precision=fp32"
        )

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        """Batches from the current step on; each process takes its slice of the same global batch."""
        recipe, processes = self.recipe, self.accelerator.num_processes
        if recipe.batch % (processes * self.parts):
            parts = f", {self.parts} parts each" if self.parts > 1 else ""
            raise InputError(
                f"batch {recipe.batch} does not divide over {processes} processes{parts}; set batch to a multiple of "
                f"{processes * self.parts}"
            )
        stream = CropStream(self.data, recipe.steps * recipe.batch, recipe.sampling, recipe.seed, classes=self.classes)
        share, rank = recipe.batch // processes, self.accelerator.process_index
        numbers = [
            list(range(step * recipe.batch + rank * share, step * recipe.batch + (rank + 1) * share))
            for step in range(self.step, recipe.steps)
        ]
        loader = DataLoader(stream, batch_sampler=numbers, num_workers=self.workers)
        try:
            for batch in loader:
                yield {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}
        except InputError as fault:  # from a worker it comes wrapped in the worker's traceback, its own line last
            traceback.clear_frames(fault.__traceback__)  # they hold the workers, which would live as long as the fault
            raise InputError(str(fault).strip().splitlines()[-1].removeprefix("mtg_lab.errors.InputError: ")) from None

    def _save_checkpoint(self) -> None:
        if not self.accelerator.is_main_process:
            return
        write_checkpoint(
            self.folder / CHECKPOINT, self.method, self.average, self.optimizer, self.step, self._numbers()
        )

    def _numbers(self) -> list[dict[str, float]]:
        """The history as plain numbers; tensors are read once, not at every checkpoint anew."""
        self.history = [{k: float(v) for k, v in row.items()} for row in self.history]
        return self.history

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if path.is_file():
            with_teacher = self.recipe.teacher is not None
            self.step, self.history = read_checkpoint(path, self.method, self.average, self.optimizer, with_teacher)
            self.accelerator.wait_for_everyone()

    def _finish(self, seconds: float, steps: int) -> None:
        weights = copies(self.average.module.state_dict())
        if not all(bool(torch.isfinite(v).all()) for v in weights.values()):
            raise self._diverged("the weights are not finite at the end")
        with written_aside(self.folder / "history.csv") as aside:
            pd.DataFrame(self._numbers()).rename_axis("step").to_csv(aside)
        facts = environment(self.accelerator) | {
            "seconds": round(seconds, 1),
            "steps_timed": steps,
            "seconds_per_step": round(seconds / max(steps, 1), 4),
        }
        write_text(self.folder / "environment.json", json.dumps(facts, indent=2))
        with written_aside(self.folder / "weights.safetensors") as aside:  # last: it says that the run is whole
            aside.write_bytes(save(weights, metadata=self.meaning))
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        self._log(f"done: {self.step} steps, {seconds:.0f} s")

    def _log(self, line: str) -> None:
        if self.accelerator.is_main_process:
            with (self.folder / "log.txt").open("a") as log:
                log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")


def _of_a_lost_process(fault: RuntimeError) -> bool:
    """Whether a collective operation failed; gloo's errors have no class of their own."""
    return isinstance(fault, torch.distributed.DistError) or "gloo" in str(fault).lower()


def _means(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of each named tensor over the parts of a batch."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: torch.stack([part[name].float() for part in parts]).mean(dim=0) for name in parts[0]}


def build_method(recipe: Recipe, cohort: Manifest, teacher: Backbone | None) -> methods.Method:
    """The untrained method of a recipe; weights depend on the seed, those of the backbone on ``start`` if there is one.

    Raises:
        InputError: see :func:`mtg_lab.runs.take_weights`, and options of no use.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        backbone = recipe.build_backbone(cohort.modalities, cohort.schema)
        if recipe.start:  # before the method, which may make a second network of this one
            take_weights(backbone, recipe, cohort)
        extra = {"teacher": teacher} if teacher else {}
        regions = cohort.schema.region_classes
        method = methods.find(recipe.method)(backbone, **extra, regions=regions, **recipe.method_options)
    method.prepare(torch.tensor(availability(cohort).to_numpy(dtype=bool)))
    return method


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over the first ``warmup`` share of the steps, then half a cosine down to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _processes() -> PartialState:
    """This process among those that torchrun started, each of which calls :func:`train`.

    Accelerate must be told that they are to compute on the processor, else each would take itself for the only one.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    device = torch.accelerator.current_accelerator()
    told = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return PartialState(cpu=told or (several and (device is None or device.type == "mps")))


def leave_processes() -> None:
    """Say good-bye to the other processes, where torchrun started several; nothing can be trained in them after."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def is_trained(recipe: Recipe, cohorts: dict[str, str] | None = None) -> bool:
    """Whether :func:`train` would return the run of a recipe at once: the cache or the package holds it.

    ``cohorts`` is that of :meth:`Recipe.digest`.
    """
    digest = recipe.digest(cohorts)
    return _is_trained(cache_folder("runs", digest)) or boxed_run(digest) is not None


def _is_trained(folder: Path) -> bool:
    return (folder / "weights.safetensors").is_file()


def _check(recipe: Recipe) -> None:
    """Refuse what cannot be built before a folder is made or a teacher trained for it.

    Raises:
        InputError: a bad option of the backbone, the method or the teacher, or no training subject.
    """
    cohort = recipe.cohort().split("train")
    teacher = None
    if recipe.teacher:
        _check(recipe.teacher)
        of_teacher = recipe.teacher.cohort()
        check_same_classes(cohort.schema, of_teacher.schema, "the teacher")
        teacher = recipe.teacher.build_backbone(of_teacher.modalities, of_teacher.schema)
    build_method(recipe, cohort, teacher)


def _refuse_foreign(folder: Path, digest: str) -> None:
    description = folder / "recipe.json"
    if description.is_file():
        try:
            found = json.loads(description.read_text()).get("hash")
        except (OSError, ValueError, AttributeError):
            found = "an unreadable recipe"
        if found != digest:
            raise InputError(
                f"{folder} holds the run of another recipe ({found}, asked for {digest}); choose another --out"
            )
