"""Training, read top to bottom: the replicates of one stack, from their seeds to their accuracies."""

import math
import statistics
import time
from contextlib import nullcontext

import torch

from normbench.data.epoch import Epoch, image_size, mean_losses, right_answers, with_border
from normbench.data.inputs import Inputs, resized
from normbench.data.views import VIEWS
from normbench.norms.batch import has_running_statistics, precise_statistics
from normbench.norms.plain import Dropout
from normbench.norms.weight import data_dependent_init
from normbench.processes import Processes
from normbench.random import derive
from normbench.tasks.build import make_model
from normbench.tasks.scores import evaluate
from normbench.training.optimizer import clip_gradients, gradient_norms, lr_factor, make_optimizer, scaled_lr

DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
INIT_IMAGES = 512  # training images that weight normalization is initialized from
PRECISE_BATCH = 200  # images per forward pass of the precise statistics: earlier layers normalize by these
TIMED_STEPS = 20  # steps between two readings of the clock


def train(config, data, seeds, device, processes: Processes, saved, session, rate=None) -> tuple[list[dict], dict]:
    """Train one replicate per seed side by side; returns an entry of result.json for each, and the final state.

    config: resolved. data: a Dataset whose tensors lie on `device`. saved: the state of an earlier session, or None.
    session: training.run.Session; it keeps checkpoints and rows, shows progress, and raises Stopped to break off.
    rate: from the number of a step, counted from 0, to the optimizer's rate, in place of the configured schedule.
    """
    # The network, its replicates each initialized from its own seed.
    replicates = len(seeds)
    dtype = DTYPES[config.precision]
    inputs, test_inputs = (
        Inputs(config.data.input, data.mean, data.std, device, dtype, scale)
        for scale in (data.channel_scale, data.test_channel_scale)
    )
    seen = inputs.repeated(data.train_images[:INIT_IMAGES], replicates) if saved is None else None
    model, generators = starting_network(config, seeds, device, seen)

    # What trains it.
    parameters = list(model.parameters())
    optimizer = make_optimizer(model, config.optim)
    network = model
    if processes.count > 1:
        network = torch.nn.parallel.DistributedDataParallel(model)
    if config.precision == "bfloat16":
        half = lambda: torch.autocast(device.partition(":")[0], dtype=torch.bfloat16)  # noqa: E731
    else:
        half = nullcontext
    border = with_border(data.train_images, config.augment.crop)

    # Where it stands: the first step, or where an earlier session stopped.
    first_epoch, first_step = 0, 0
    # Per replicate, over the epoch so far: sums of loss and of right answers, of gradient norms, and how many of those.
    totals = torch.zeros(4, replicates, dtype=torch.float64, device=device)
    rows, diverged = [], {}
    clock = Clock(device)
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first_epoch, first_step = saved["epoch"], saved["step"]
        clock.go_on(saved["seconds"])
        totals.copy_(saved["totals"])
        rows, diverged = saved["rows"], saved["diverged"]
    steps = len(data.train_labels) // config.batch_size
    total_samples = config.epochs * steps * config.batch_size

    peak = scaled_lr(config.optim.lr, config.batch_size, config.lr_scaling)

    def scheduled(number):
        return peak * lr_factor(number * config.batch_size, config.batch_size, total_samples, config.optim)

    rate = rate or scheduled

    def size_at(number):
        return image_size(config.augment.resize, number * config.batch_size, total_samples)

    def state(epoch, step):
        return {
            "seeds": list(seeds),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": epoch,
            "step": step,
            "seconds": clock.seconds(),
            "totals": totals,
            "rows": rows,
            "diverged": diverged,
        }

    def evaluated(images, labels, watch, **averaged):
        model.eval()
        with half():
            size = max(1, config.evaluation.batch_size // replicates)
            return evaluate(model, images, labels, test_inputs, replicates, size, watch, **averaged)

    session.begin(seeds, rows, first_epoch * steps + first_step)
    for epoch in range(first_epoch, config.epochs):
        batches = Epoch(
            border,
            data.train_labels,
            seeds,
            epoch,
            config.augment,
            config.batch_size,
            (processes.rank, processes.count),
        )
        model.train()
        for step in range(first_step, steps):
            number = epoch * steps + step
            for group in optimizer.param_groups:
                group["lr"] = rate(number)
            for generator, seed in zip(generators, seeds, strict=False):
                generator.manual_seed(derive(seed, "dropout", epoch, step, processes.rank))

            images, labels, mix = batches.batch(step)
            x = inputs(images)
            if mix is not None:
                x = mix.inputs(x, inputs(mix.images))
            with half():
                logits = network(resized(x, size_at(number)))
            logits = logits.to(dtype)
            losses = mean_losses(logits, labels, config.augment.label_smoothing)
            right = right_answers(logits.detach(), labels)
            if mix is not None:
                losses = mix.weighted(losses, mean_losses(logits, mix.labels, config.augment.label_smoothing))
                right = mix.weighted(right, right_answers(logits.detach(), mix.labels))
            losses.sum().backward()  # a sum: no replicate's gradient depends on another, whatever becomes of it

            measured = step % config.logging.grad_norm_steps == 0
            if measured or config.optim.clip_norm is not None:
                norms = gradient_norms(parameters, replicates)
                if measured:
                    totals[2] += norms
                    totals[3] += 1
                if config.optim.clip_norm is not None:
                    clip_gradients(parameters, norms, config.optim.clip_norm)
            optimizer.step()
            totals[0] += losses.detach()
            totals[1] += right
            if step == steps - 1:
                session.histograms(epoch, model)
            optimizer.zero_grad()

            clock.step()
            session.step(
                epoch,
                losses.detach(),
                lambda epoch=epoch, step=step: state(epoch, step + 1),
                lambda step=step: (totals[0].mean() / (step + 1)).item(),
            )

        # The epoch's end: validate, note what diverged, keep it all. Broken off in here, it repeats from the last step.
        def watch(epoch=epoch):
            session.watch(lambda: state(epoch, steps))

        means = processes.average_(totals.clone())
        clock.pause()
        val = evaluated(data.val_images, data.val_labels, watch)
        clock.resume()
        finished = []
        for r, seed in enumerate(seeds):
            if seed in diverged:
                continue
            train_loss = (means[0, r] / steps).item()
            if not (math.isfinite(train_loss) and math.isfinite(val.loss[r])):
                diverged[seed] = epoch + 1
            finished.append(
                {
                    "seed": seed,
                    "epoch": epoch + 1,
                    "step": (epoch + 1) * steps,
                    "samples": (epoch + 1) * steps * config.batch_size,
                    "image_size": size_at((epoch + 1) * steps - 1),
                    "lr": rate((epoch + 1) * steps - 1),
                    "train_loss": train_loss,
                    "train_acc": (100 * means[1, r] / steps).item(),
                    "val_loss": val.loss[r],
                    "val_acc": val.acc[r],
                    "val_ece": val.ece[r],
                    "grad_norm": (means[2, r] / means[3, r]).item(),
                    "epoch_seconds": round(clock.epoch_seconds, 3),
                    "seconds": round(clock.total(), 3),
                }
            )
        rows += finished
        clock.next_epoch()
        totals.zero_()
        first_step = 0
        over = len(diverged) == replicates
        session.epoch(finished, state(config.epochs if over else epoch + 1, 0))
        if over:
            break

    # The end: the test set is read here and nowhere else.
    # What is kept from here on holds the running averages as training left them, also while others stand in.
    final = state(config.epochs, 0)
    final["model"] = {key: value.clone() for key, value in final["model"].items()}

    def watch():
        session.watch(lambda: final | {"seconds": clock.seconds()})

    entries = [
        {"seed": seed, "status": "diverged" if seed in diverged else "finished", "diverged_epoch": diverged.get(seed)}
        for seed in seeds
    ]
    clock.pause()
    if config.evaluation.target_acc is not None:
        for entry in entries:
            mine = [row for row in rows if row["seed"] == entry["seed"]]
            reached = [row["step"] for row in mine if row["val_acc"] >= config.evaluation.target_acc]
            # Right-censored where it never was.
            entry |= {"steps_to_target": min(reached, default=config.epochs * steps), "target_reached": bool(reached)}

    def note(suffix="", **averaged):
        for split, images, labels in (
            ("val", data.val_images, data.val_labels),
            ("test", data.test_images, data.test_labels),
        ):
            started = clock.now()
            scores = evaluated(images, labels, watch, **averaged)
            took = clock.now() - started
            for r, entry in enumerate(entries):
                lost = entry["status"] == "diverged"
                entry[f"{split}_acc{suffix}"] = 100 / data.num_classes if lost else scores.acc[r]
                entry[f"{split}_loss{suffix}"] = None if lost else scores.loss[r]
                entry[f"{split}_ece{suffix}"] = None if lost else scores.ece[r]
        return scores.right, took

    right, took = note()
    if VIEWS[config.augment.tta] is not None:
        averaged, tta_took = note("_tta", views=VIEWS[config.augment.tta], average=config.augment.tta_average)
        for entry, plain, other in zip(entries, right, averaged, strict=True):
            # Test images that the average alone has right, and that it alone has wrong: what McNemar's test takes.
            counts = {"tta_gained": (other & ~plain).sum().item(), "tta_lost": (plain & ~other).sum().item()}
            entry |= dict.fromkeys(counts) if entry["status"] == "diverged" else counts
            entry["tta_cost"] = round(tta_took / took, 3)
    precise = data.train_images[: config.evaluation.precise_images]
    if len(precise) and has_running_statistics(model):

        def population():
            model.eval()
            for x in precise_inputs():
                watch()
                with half():
                    model(x)

        def precise_inputs():
            size = min(PRECISE_BATCH, len(precise))
            if not config.evaluation.precise_augment:
                return (inputs.repeated(part, replicates) for part in precise.split(size))
            # One more epoch's draws: images in another order, cropped and flipped anew.
            batches = Epoch(border, data.train_labels, seeds, config.epochs, config.augment, size)
            return (inputs(batches.batch(step)[0]) for step in range(len(precise) // size))

        with precise_statistics(model, population):
            note("_precise")

    cost = {"seconds": round(clock.total(), 3), "train_seconds": round(clock.training, 3)}
    cost |= clock.summary(config, replicates)
    return [entry | cost for entry in entries], final


def starting_network(config, seeds, device: str, images: torch.Tensor | None):
    """The network that a run of a resolved configuration starts from, a replicate a seed, in training mode.

    images: inputs N×(R·3)×H×W that weight normalization is initialized from; None where weights are to be loaded.
    Returns it with the generators of its dropout masks: one a replicate, none where it drops nothing.
    """
    model = make_model(config, [derive(seed, "init") for seed in seeds]).to(device, DTYPES[config.precision])
    dropouts = [module for module in model.modules() if isinstance(module, Dropout) and module.p > 0]
    generators = [torch.Generator(device) for _ in seeds] if dropouts else []
    for module in dropouts:
        module.generators = generators
    if images is not None:
        data_dependent_init(model, images)
    return model, generators


class Unwatched:
    """A session that keeps and shows nothing."""

    def __getattr__(self, name):
        return lambda *_: None


class Clock:
    """Training time, without evaluation, and the time in all; the device is waited for at each reading."""

    def __init__(self, device: str):
        self.cuda = device if device != "cpu" else None
        self.started, self.blocks, self.steps = time.perf_counter(), [], 0
        # Seconds of earlier sessions; those in training, of all epochs and of the one under way, until `mark`.
        self.before, self.training, self.epoch_seconds, self.mark = 0.0, 0.0, 0.0, self.started
        self.block_start = self.started

    def go_on(self, saved: dict) -> None:
        """After earlier sessions. saved: as `seconds` gave it."""
        self.before, self.training, self.epoch_seconds = saved["total"], saved["training"], saved["epoch"]

    def seconds(self) -> dict:
        """What a later session needs."""
        self._count()
        return {"total": self.total(), "training": self.training, "epoch": self.epoch_seconds}

    def now(self):
        if self.cuda:
            torch.cuda.synchronize(self.cuda)
        return time.perf_counter()

    def _count(self):
        """Add what has passed since the last mark, unless that was in a pause."""
        if self.mark is not None:
            now = time.perf_counter()
            self.training, self.epoch_seconds = self.training + now - self.mark, self.epoch_seconds + now - self.mark
            self.mark = now

    def step(self):
        self.steps += 1
        if self.steps % TIMED_STEPS == 0:
            now = self.now()
            self.blocks.append((now - self.block_start) / TIMED_STEPS)
            self.block_start = now

    def pause(self):
        """An evaluation begins."""
        self.paused = self.now()
        self._count()
        self.mark = None

    def resume(self):
        """It is over: left out of training time and of the block of steps under way, though not of the total."""
        self.mark = time.perf_counter()
        self.block_start += self.mark - self.paused

    def next_epoch(self):
        self._count()
        self.epoch_seconds = 0.0

    def total(self) -> float:
        """Seconds since the run began, earlier sessions included."""
        return self.before + time.perf_counter() - self.started

    def ms_per_step(self) -> float | None:
        """The median over blocks of steps, the first left out as warm-up; None in a session too short for one."""
        blocks = self.blocks[1:] or self.blocks
        return 1000 * statistics.median(blocks) if blocks else None

    def images_per_second(self, config, replicates) -> float | None:
        ms = self.ms_per_step()
        return None if ms is None else 1000 * config.batch_size * replicates / ms

    def summary(self, config, replicates) -> dict:
        ms, images = self.ms_per_step(), self.images_per_second(config, replicates)
        return {
            "stack": replicates,
            "ms_per_step": None if ms is None else round(ms, 4),
            "images_per_second": None if images is None else round(images, 1),
        }
