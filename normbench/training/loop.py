"""Training, read top to bottom: the replicates of one stack, from their seeds to their accuracies."""

import math
import statistics
import time
from contextlib import nullcontext

import torch

from normbench.config import make_model
from normbench.data.inputs import Inputs
from normbench.norms.batch import has_running_statistics, precise_statistics
from normbench.norms.plain import Dropout
from normbench.norms.weight import data_dependent_init
from normbench.training.augment import Epoch, mean_losses, with_border
from normbench.training.evaluate import evaluate
from normbench.training.optimizer import clip_gradients, gradient_norms, lr_factor, make_optimizer, scaled_lr
from normbench.training.processes import Processes
from normbench.training.random import derive

DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
INIT_IMAGES = 512  # training images that weight normalization is initialized from
PRECISE_BATCH = 200  # images per forward pass of the precise statistics: earlier layers normalize by these
TIMED_STEPS = 20  # steps between two readings of the clock


def train(config, data, seeds, device, processes: Processes, saved, session) -> tuple[list[dict], dict]:
    """Train one replicate per seed side by side; returns an entry of result.json for each, and the final state.

    config: resolved. data: a Dataset whose tensors lie on `device`. saved: the state of an earlier session, or None.
    session: training.run.Session; it keeps checkpoints and rows, shows progress, and raises Stopped to break off.
    """
    # The network, its replicates each initialized from its own seed.
    replicates = len(seeds)
    dtype = DTYPES[config.precision]
    model = make_model(config, [derive(seed, "init") for seed in seeds]).to(device, dtype)
    inputs = Inputs(data, device, dtype)
    dropouts = [module for module in model.modules() if isinstance(module, Dropout) and module.p > 0]
    generators = [torch.Generator(device) for _ in seeds]
    for module in dropouts:
        module.generators = generators
    if saved is None:
        data_dependent_init(model, inputs.repeated(data.train_images[:INIT_IMAGES], replicates))

    # What trains it.
    parameters = list(model.parameters())
    optimizer = make_optimizer(model, config.optim)
    peak = scaled_lr(config.optim.lr, config.batch_size, config.lr_scaling)
    network = model
    if processes.count > 1:
        network = torch.nn.parallel.DistributedDataParallel(model)
    if config.precision == "bfloat16":
        half = lambda: torch.autocast(device.partition(":")[0], dtype=torch.bfloat16)  # noqa: E731
    else:
        half = nullcontext
    border = with_border(data.train_images, config.augment.crop)

    # Where it stands: the first step, or where an earlier session stopped.
    first_epoch, first_step, seconds = 0, 0, 0.0
    # Per replicate, over the epoch so far: sums of loss and of right answers, of gradient norms, and how many of those.
    totals = torch.zeros(4, replicates, dtype=torch.float64, device=device)
    rows, diverged = [], {}
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first_epoch, first_step, seconds = saved["epoch"], saved["step"], saved["seconds"]
        totals.copy_(saved["totals"])
        rows, diverged = saved["rows"], saved["diverged"]
    clock = Clock(seconds, device)
    steps = len(data.train_labels) // config.batch_size
    total_samples = config.epochs * steps * config.batch_size

    def rate(epoch, step):
        samples = (epoch * steps + step) * config.batch_size
        return peak * lr_factor(samples, config.batch_size, total_samples, config.optim)

    def state(epoch, step):
        return {
            "seeds": list(seeds),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": epoch,
            "step": step,
            "seconds": clock.total(),
            "totals": totals,
            "rows": rows,
            "diverged": diverged,
        }

    def evaluated(images, labels, watch):
        model.eval()
        with half():
            size = max(1, config.evaluation.batch_size // replicates)
            return evaluate(model, images, labels, inputs, replicates, size, watch)

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
            for group in optimizer.param_groups:
                group["lr"] = rate(epoch, step)
            for generator, seed in zip(generators if dropouts else (), seeds, strict=False):
                generator.manual_seed(derive(seed, "dropout", epoch, step, processes.rank))

            images, labels, partners = batches.batch(step)
            x = inputs(images)
            if partners is not None:
                other_images, other_labels, share = partners
                per_channel = share.to(dtype).repeat_interleave(3).view(1, -1, 1, 1)
                x = x * per_channel + inputs(other_images) * (1 - per_channel)
            with half():
                logits = network(x)
            logits = logits.to(dtype)
            losses = mean_losses(logits, labels, config.augment.label_smoothing)
            if partners is not None:
                others = mean_losses(logits, other_labels, config.augment.label_smoothing)
                losses = losses * share.to(dtype) + others * (1 - share.to(dtype))
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
            totals[1] += (logits.detach().argmax(2) == labels).double().mean(1)
            if step == steps - 1:
                session.histograms(epoch, model)
            optimizer.zero_grad()

            clock.step()
            session.step(
                epoch,
                lambda epoch=epoch, step=step: state(epoch, step + 1),
                lambda step=step: (totals[0].mean() / (step + 1)).item(),
            )

        # The epoch's end: validate, note what diverged, keep it all. Broken off in here, it repeats from the last step.
        def watch(epoch=epoch):
            session.watch(lambda: state(epoch, steps))

        means = processes.average_(totals.clone())
        clock.pause()
        val_loss, val_acc = evaluated(data.val_images, data.val_labels, watch)
        clock.resume()
        finished = []
        for r, seed in enumerate(seeds):
            if seed in diverged:
                continue
            train_loss = (means[0, r] / steps).item()
            if not (math.isfinite(train_loss) and math.isfinite(val_loss[r])):
                diverged[seed] = epoch + 1
            finished.append(
                {
                    "seed": seed,
                    "epoch": epoch + 1,
                    "step": (epoch + 1) * steps,
                    "samples": (epoch + 1) * steps * config.batch_size,
                    "lr": rate(epoch, steps - 1),
                    "train_loss": train_loss,
                    "train_acc": (100 * means[1, r] / steps).item(),
                    "val_loss": val_loss[r],
                    "val_acc": val_acc[r],
                    "grad_norm": (means[2, r] / means[3, r]).item(),
                    "seconds": round(clock.total(), 3),
                }
            )
        rows += finished
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
        session.watch(lambda: final | {"seconds": clock.total()})

    entries = [
        {"seed": seed, "status": "diverged" if seed in diverged else "finished", "diverged_epoch": diverged.get(seed)}
        for seed in seeds
    ]

    def note(suffix=""):
        for split, images, labels in (
            ("val", data.val_images, data.val_labels),
            ("test", data.test_images, data.test_labels),
        ):
            losses, accuracies = evaluated(images, labels, watch)
            for entry, loss, accuracy in zip(entries, losses, accuracies, strict=True):
                lost = entry["status"] == "diverged"
                entry[f"{split}_acc{suffix}"] = 100 / data.num_classes if lost else accuracy
                entry[f"{split}_loss{suffix}"] = None if lost else loss

    note()
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

    cost = clock.summary(config, replicates)
    return [entry | {"seconds": round(clock.total(), 3)} | cost for entry in entries], final


class Clock:
    """Training time, without evaluation; the device is waited for at each reading."""

    def __init__(self, seconds: float, device: str):
        self.before, self.cuda = seconds, device if device != "cpu" else None
        self.started, self.blocks, self.steps = time.perf_counter(), [], 0
        self.block_start = self.started

    def _now(self):
        if self.cuda:
            torch.cuda.synchronize(self.cuda)
        return time.perf_counter()

    def step(self):
        self.steps += 1
        if self.steps % TIMED_STEPS == 0:
            now = self._now()
            self.blocks.append((now - self.block_start) / TIMED_STEPS)
            self.block_start = now

    def pause(self):
        self.paused = self._now()

    def resume(self):
        """Leave the pause out of the block under way (a run's total keeps it: evaluation is part of a run)."""
        self.block_start += time.perf_counter() - self.paused

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
