"""Training, read top to bottom: the replicates of one stack, from their seeds to their scores."""

import math
import time

import torch

from normbench.data.views import VIEWS
from normbench.measures.range_test import find_lr
from normbench.norms.batch import has_running_statistics, precise_statistics
from normbench.training.clock import Clock
from normbench.training.network import Network
from normbench.training.schedule import configured_plan
from normbench.training.steps import Step, steps


def train(config, task, session) -> tuple[list[dict], list[dict]]:
    """Train a replicate per seed of the task, side by side; returns an entry of result.json and the rows of each.

    config: resolved. session: training.session.Session: it knows where an earlier one stopped, keeps checkpoints and
    rows, shows progress, and raises Stopped to break off.
    """
    training = Training(config, task, session.saved)
    network, plan = training.network, training.plan
    images = config.batch_size * network.replicates
    session.begin(task.seeds, plan.steps, network.step, training.rows, images=images, epochs=config.epochs)
    if training.validation_is_due():  # it was broken off
        training.validate(session)
    for done in steps(network, task, plan):
        training.count(done)
        epoch = (network.step - 1) // task.steps_per_epoch
        if network.step % task.steps_per_epoch == 0:
            session.histograms(epoch, network.model, network.step)
        session.step(epoch, training.state, training.mean_loss)
        if training.validation_is_due():
            network.forget_gradients()
            training.validate(session)

    # The end: the test set is read here and nowhere else. What is kept from here on holds the running averages as
    # training left them, also while others stand in.
    final = training.state()
    final["model"] = {key: value.clone() for key, value in final["model"].items()}

    def poll():
        session.poll(lambda: final | {"seconds": training.clock.seconds()})

    training.clock.pause()
    entries = training.entries()
    right, took = plain(task, network, entries, poll, training.clock)
    session.correct(entries, right)
    if config.evaluation.train:
        on_training_images(task, network, entries, poll)
    if VIEWS[config.augment.tta] is not None:
        session.correct(entries, averaged(config, task, network, entries, poll, training.clock, right, took), "_tta")
    if config.evaluation.precise_images and has_running_statistics(network.model):
        session.correct(entries, precise(config, task, network, entries, poll, training.clock), "_precise")
    cost(config, entries, training.clock)
    if config.evaluation.suggest_lr:
        suggest_lr(config, task, entries, poll)
    return entries, training.rows


class Training:
    """A training under way: its network, and what there is to tell of it since the last validation and in all.

    rows: of metrics.csv. diverged: seed → epoch in which its loss ceased to be finite. validated: the step of the last
    validation.
    """

    def __init__(self, config, task, saved: dict | None):
        """saved: the state of an earlier session, or None."""
        self.config, self.task = config, task
        self.network, self.plan = Network(config, task, saved), configured_plan(config, task)
        self.clock = Clock(task.device)
        # Since the last validation, by replicate: sums of loss, score and gradient norm, and how many of those norms.
        self.totals = torch.zeros(4, self.network.replicates, dtype=torch.float64, device=task.device)
        self.rows, self.diverged, self.validated = [], {}, 0
        if saved is not None:
            self.clock.go_on(saved["seconds"])
            self.totals.copy_(saved["totals"])
            self.rows, self.diverged = saved["rows"], saved["diverged"]
            earlier = saved["epoch"] * task.steps_per_epoch
            self.network.step, self.validated = earlier + saved["step"], saved.get("validated", earlier)
            self._note_lost()

    def state(self) -> dict:
        """All that a later session needs. The tensors are the living ones."""
        epoch, step = divmod(self.network.step, self.task.steps_per_epoch)
        return self.network.state() | {
            "seeds": self.task.seeds,
            "epoch": epoch,
            "step": step,
            "validated": self.validated,
            "seconds": self.clock.seconds(),
            "totals": self.totals,
            "rows": self.rows,
            "diverged": self.diverged,
        }

    def count(self, done: Step) -> None:
        self.clock.step()
        self.totals[0] += done.losses
        self.totals[1] += done.scores
        if done.norms is not None:
            self.totals[2] += done.norms
            self.totals[3] += 1

    def mean_loss(self) -> float:
        """Over the steps since the last validation."""
        return (self.totals[0].mean() / (self.network.step - self.validated)).item()

    def validation_is_due(self) -> bool:
        at, every = self.network.step % self.task.steps_per_epoch, self.config.evaluation.get("every_steps")
        return self.network.step > self.validated and (at == 0 or (every is not None and at % every == 0))

    def validate(self, session) -> None:
        """Evaluate on the validation images, note what diverged, keep it all. Broken off in here, it is done anew."""
        task, step, since = self.task, self.network.step, self.network.step - self.validated
        means = task.processes.average_(self.totals.clone())
        self.clock.pause()
        scores = task.scores(self.network, "val", lambda: session.poll(self.state))
        self.clock.resume()
        rows, epoch = [], (step - 1) // task.steps_per_epoch + 1
        for r, seed in enumerate(task.seeds):
            if seed in self.diverged:
                continue
            loss = (means[0, r] / since).item()
            score = (task.score_unit * means[1, r] / since).item()
            if not (math.isfinite(loss) and math.isfinite(scores[r]["loss"])):
                self.diverged[seed] = epoch
            rows.append(
                {
                    "seed": seed,
                    "epoch": epoch,
                    "step": step,
                    "samples": step * self.config.batch_size,
                    "lr": self.plan.rate(step - 1),
                    **task.series(loss, score, self.plan.share(step - 1)),
                    **{f"val_{key}": value for key, value in scores[r].items() if key != "right"},
                    "grad_norm": (means[2, r] / means[3, r]).item(),
                    "epoch_seconds": round(self.clock.epoch_seconds, 3),
                    "seconds": round(self.clock.total(), 3),
                }
            )
        self.rows += rows
        self.clock.next_epoch()
        self.totals.zero_()
        self.validated = step
        self._note_lost()
        session.add(rows, self.rows, self.state())

    def _note_lost(self) -> None:
        self.network.lost = torch.tensor([seed in self.diverged for seed in self.task.seeds])

    def entries(self) -> list[dict]:
        """An entry of result.json a replicate, as far as training alone tells."""
        target, early, entries = self.config.evaluation.target_acc, self.config.evaluation.early_acc, []
        for seed in self.task.seeds:
            epoch = self.diverged.get(seed)
            entry = {"seed": seed, "status": "finished" if epoch is None else "diverged", "diverged_epoch": epoch}
            mine = [row for row in self.rows if row["seed"] == seed]
            if early is not None:
                # At the first validation from that share of training on; at chance where it has diverged.
                there = [row["val_acc"] for row in mine if row["step"] >= early * self.plan.steps]
                lost = epoch is not None and not there[1:]  # its last row is the one in which it was lost
                entry["val_acc_early"] = self.task.lost_scores()["acc"] if lost else there[0]
            if target is not None:
                reached = [row["step"] for row in mine if row["val_acc"] >= target]
                # Right-censored where it never was.
                entry |= {"steps_to_target": min(reached, default=self.plan.steps), "target_reached": bool(reached)}
            entries.append(entry)
        return entries


def plain(task, network, entries, poll, clock, suffix="", views=None) -> tuple[list[torch.Tensor], float]:
    """Evaluate on the validation and the test images, and write it into the entries, each score's name with a suffix.

    Returns which test images each replicate told rightly, and the seconds that the test images took.
    """
    for split in ("val", "test"):
        started = clock.now()
        scores = task.scores(network, split, poll, views)
        took = clock.now() - started
        for entry, found in zip(entries, scores, strict=True):
            told = task.lost_scores() if entry["status"] == "diverged" else found
            entry |= {f"{split}_{key}{suffix}": value for key, value in told.items() if key != "right"}
    return [found["right"] for found in scores], took


def on_training_images(task, network, entries, poll) -> None:
    """The accuracy on the training images in evaluation mode, and by how much it exceeds that on the test images."""
    for entry, found in zip(entries, task.scores(network, "train", poll), strict=True):
        told = task.lost_scores() if entry["status"] == "diverged" else found
        entry |= {"train_acc_eval": told["acc"], "gap": told["acc"] - entry["test_acc"]}


def averaged(config, task, network, entries, poll, clock, right, took) -> list[torch.Tensor]:
    """The same under test-time augmentation. right, took: of the plain evaluation."""
    other_right, tta_took = plain(task, network, entries, poll, clock, "_tta", VIEWS[config.augment.tta])
    for entry, mine, other in zip(entries, right, other_right, strict=True):
        # Test images that the average alone has right, and that it alone has wrong: what McNemar's test takes.
        counts = {"tta_gained": (other & ~mine).sum().item(), "tta_lost": (mine & ~other).sum().item()}
        entry |= dict.fromkeys(counts) if entry["status"] == "diverged" else counts
        entry["tta_cost"] = round(tta_took / took, 3)
    return other_right


def precise(config, task, network, entries, poll, clock) -> list[torch.Tensor]:
    """The same under the exact moments of the features over training images, in place of the running averages."""

    def population():
        network.model.eval()
        for x in task.population(config.evaluation.precise_images, config.evaluation.precise_augment):
            poll()
            with network.precision():
                network.model(x)

    with precise_statistics(network.model, population):
        return plain(task, network, entries, poll, clock, "_precise")[0]


def cost(config, entries, clock) -> None:
    seconds = {"seconds": round(clock.total(), 3), "train_seconds": round(clock.training, 3)}
    for entry in entries:
        entry |= seconds | clock.summary(config, len(entries))


def suggest_lr(config, task, entries, poll) -> None:
    """The rate that a range test suggests for each seed; its time counts in `seconds`."""
    started = time.perf_counter()
    suggested = find_lr(config, task.data, task.seeds, task.device, poll=poll).suggestions("steepest")
    took = time.perf_counter() - started
    for entry in entries:
        entry |= {"suggested_lr": suggested[entry["seed"]].lr, "seconds": round(entry["seconds"] + took, 3)}
