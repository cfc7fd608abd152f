"""The page as Gradio shows it: controls, what they start, and where the texts stand."""

import asyncio
import html
import json
import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any

import gradio as gr
from anyio.to_thread import run_sync as to_thread

from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.ui import Limits
from ddlm.ui.controls import FIRST, SLIDERS, Setting, settings, titled
from ddlm.ui.desk import Desk, Desks
from ddlm.ui.line import Line
from ddlm.ui.order import Order, read_order
from ddlm.ui.sheet import sheets_html
from ddlm.ui.shelf import Shelf

HEAD = """<header><p class="name">ddlm</p><h1>Written in no particular order</h1>
<p class="lead">This model need not write from left to right. It begins with blanks and fills them in, a few at a step,
in the order that you choose.</p></header>"""
GAPS = """<p>A gap is <code>___</code>, and <code>___[5]</code> is one of five tokens. Ctrl + Enter writes, Esc
stops.</p>"""
LENGTH = "Tokens to write after the beginning, exactly; the model decides when empty."
RIVAL = "A second order next to the first one, with the same seed."
SEED = (
    "The same seed and settings write the same text again, and `ddlm generate` writes it too where both compute in "
    "float32."
)
SEEDS = 1_000_000
CHOSEN = """() => [window.ddlm?.model() ?? ""]"""
WAIT_S = 0.5
SPARE = 10
"""Events besides writing that may run at once."""
FAILED = '<p class="error" role="alert">Nothing was written; try again in a moment.</p>'
STOPPED = '<p role="status">Stopped</p>'


@dataclass(frozen=True)
class Example:
    """What the controls are set to. rival: a second order."""

    title: str
    text: str
    unmasking: str = SamplingConfig().unmasking
    rival: str | None = None


EXAMPLES = (
    Example("A beginning", "Once upon a time"),
    Example("Gaps", "One day, a girl named Lily found a ___ in the garden. She was very ___."),
    Example("An end", "___[40] Then they all went home and slept."),
    Example("Two orders, one seed", "Tom had a little dog.", rival="left_to_right"),
)


class Page:
    """The controls by name, and what happens to them."""

    def __init__(self, shelf: Shelf, desks: Desks, limits: Limits) -> None:
        self.shelf, self.desks, self.limits = shelf, desks, limits
        self.settings, self.line = settings(), Line(limits)

    def build(self) -> gr.Blocks:
        with gr.Blocks(title="ddlm", analytics_enabled=False, fill_width=True) as blocks:
            gr.HTML(HEAD, elem_id="head")
            with gr.Row(elem_id="main"):
                with gr.Column(scale=3, min_width=320, elem_id="desk"):
                    self._add_editor()
                with gr.Column(scale=1, min_width=280, elem_id="settings"):
                    self._add_controls()
            self._connect(blocks)
        blocks.max_threads = self.line.most + SPARE  # Gradio runs no more events at once, those that wait included
        return blocks.queue(default_concurrency_limit=None, api_open=False)

    def _add_editor(self) -> None:
        self.text = gr.Textbox(
            label="How the story begins, or a text with gaps", lines=3, max_lines=12,
            placeholder="Once upon a time", max_length=self.limits.characters, elem_id="text", autofocus=True,
        )  # fmt: skip
        gr.HTML(GAPS, elem_id="gaps")
        with gr.Row(elem_id="examples"):
            self.examples = [gr.Button(example.title, size="sm") for example in EXAMPLES]
        with gr.Row(elem_id="actions"):
            self.write = gr.Button("Write", variant="primary", elem_id="write")
            self.stop = gr.Button("Stop", interactive=False, elem_id="stop")
            self.status = gr.HTML("", elem_id="status")
        self.sheets = gr.HTML(sheets_html(()), elem_id="sheets")
        self.moment = gr.Slider(
            0, 1, 1, step=1, label="Step by step", visible=False, elem_id="moment", buttons=[], show_label=True
        )

    def _add_controls(self) -> None:
        names = self.shelf.names()
        self.model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
        self.chosen = gr.Textbox(visible=False)
        self.facts = gr.HTML("", elem_id="facts")
        self.samples = gr.Slider(
            1, self.limits.samples, 1, step=1, label="Texts", info="This many at once, each from its own draws.",
            visible=self.limits.samples > 1, buttons=[],
        )  # fmt: skip
        self.controls = {each.name: self._control(each) for each in self.settings if each.name in FIRST}
        orders = [("none", ""), *titled(self.settings[0])]
        self.rival = gr.Dropdown(orders, value="", label="Compare with", info=RIVAL, elem_id="rival")
        self.length = number_field("Length", LENGTH, elem_id="length")
        self.seed = gr.Number(0, precision=0, minimum=0, label="Seed", info=SEED, elem_id="seed")
        self.fresh = gr.Checkbox(True, label="A new seed for each text")
        with gr.Accordion("More", open=False, elem_id="more"):
            self.controls |= {each.name: self._control(each) for each in self.settings if each.name not in FIRST}

    def _control(self, setting: Setting) -> Any:
        told = setting.help(setting.default)
        shown: dict[str, Any] = {"label": setting.label, "info": told, "elem_id": f"control-{setting.name}"}
        if setting.choices:
            return gr.Dropdown(titled(setting), value=setting.default, **shown)
        if setting.name == "num_sampling_steps":
            steps = min(setting.default, self.limits.steps)
            return gr.Slider(1, self.limits.steps, steps, step=1, buttons=[], **shown)
        if setting.name in SLIDERS:
            low, high, by = SLIDERS[setting.name]
            return gr.Slider(low, high, setting.default, step=by, buttons=[], **shown)
        is_shown = setting.suits(self.settings[0].default)
        return number_field(shown.pop("label"), shown.pop("info"), visible=is_shown, **shown)

    def _connect(self, blocks: gr.Blocks) -> None:
        at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        state = [self.sheets, self.status, self.moment, self.write, self.stop]
        kept = [self.text, self.samples, self.seed, self.length, self.rival, *self.controls.values()]
        inputs = {self.model, *kept}
        self._keep([*kept, self.fresh], blocks)
        blocks.load(self.welcome, self.chosen, [self.model, self.facts], js=CHOSEN, **at_once)
        blocks.unload(self.leave)
        begun = self.write.click(self.begin, [self.fresh, self.seed], [self.seed, *state[2:]], **at_once)
        writing = begun.then(self.make, inputs, [self.sheets, self.status], **quiet)
        writing.success(self.end, None, state[2:], **at_once)
        writing.failure(self.failed, None, state[1:], **at_once)
        self.stop.click(self.halt, None, self.stop, **at_once)
        self.moment.input(self.show, self.moment, self.sheets, trigger_mode="always_last", **at_once)
        self.model.input(self.describe, self.model, self.facts, **at_once)
        unmasking = self.controls["unmasking"]
        unmasking.change(self.suit, unmasking, list(self.controls.values()), **at_once)
        for each in self.settings:
            if each.choices:
                control = self.controls[each.name]
                control.change(lambda value, each=each: gr.update(info=each.help(value)), control, control, **at_once)
        for button, example in zip(self.examples, EXAMPLES, strict=True):
            values = [example.text, example.unmasking, example.rival or "", ""]
            filled = [self.text, unmasking, self.rival, self.length]
            button.click(None, None, filled, js=f"() => {json.dumps(values)}", **at_once)

    def _keep(self, controls: list[Any], blocks: gr.Blocks) -> None:
        """Whatever is typed and set is kept by the browser, and is there again when the page is loaded again."""
        alone: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
        restored = "(...values) => window.ddlm?.restored(values) ?? values"
        blocks.load(None, controls, controls, js=restored, **alone)
        changes = [each.change for each in controls]
        gr.on(changes, None, controls, None, js="(...values) => window.ddlm?.keep(values)", **alone)
        self.model.change(None, self.model, None, js="(name) => window.ddlm?.keepModel(name)", **alone)

    def welcome(self, chosen: str) -> tuple[Any, str]:
        """The models there are now: a page that is loaded again shows new ones, and the one that was chosen."""
        self.shelf.ask_registry()
        names = self.shelf.names()
        name = chosen if chosen in names else names[0]
        return gr.Dropdown(names, value=name), self.describe(name)

    def describe(self, name: str) -> str:
        try:
            return f"<p>{html.escape(self.shelf.open(name).facts)}</p>"
        except UserError as error:
            return told(error)

    def suit(self, unmasking: str) -> list[Any]:
        """What means nothing to the order is hidden."""
        suiting = {each.name: each.suits(unmasking) for each in self.settings}
        return [gr.update(visible=suiting[name]) for name in self.controls]

    def begin(self, fresh: bool, seed: object, request: gr.Request) -> tuple[Any, ...]:
        self.desks.of(request.session_hash).start()
        chosen = secrets.randbelow(SEEDS) if fresh else seed
        return chosen, gr.update(visible=False), gr.update(interactive=False), gr.update(interactive=True)

    async def make(self, values: dict[Any, Any], request: gr.Request) -> AsyncGenerator[tuple[Any, str]]:
        """Wait for a turn, write what is asked for, and show every step of it."""
        desk = self.desks.of(request.session_hash)
        try:
            order = read_order(self._values(values), self.limits)
            ticket = self.line.join()
        except UserError as error:
            yield gr.skip(), told(error)
            return
        try:
            while (before := self.line.before(ticket)) and not desk.is_stopped:
                yield gr.skip(), f"<p>Waiting, {before} before you</p>"
                await asyncio.sleep(WAIT_S)
            async with aclosing(self._written(desk, values[self.model], order)) as changes:
                async for shown in changes:
                    yield shown
        finally:
            self.line.leave(ticket)

    async def _written(self, desk: Desk, model: str, order: Order) -> AsyncGenerator[tuple[Any, str]]:
        """The sheets and the status, as often as they change. Steps are taken in threads."""
        if desk.is_stopped:
            yield gr.skip(), STOPPED
            return
        yield gr.skip(), "<p>Writing …</p>"
        try:
            loaded, rate = await to_thread(self.shelf.open, model), 0.0
            with closing(desk.write(loaded, order)) as rates:
                while (now := await to_thread(advanced, desk, rates)) is not None:
                    shown, rate = now
                    yield shown, f"<p>{pace(desk, rate)}</p>"
        except UserError as error:
            yield gr.skip(), told(error)
            return
        finished = f'<p role="status">{ended(desk, rate)}</p>'
        yield sheets_html(desk.sheets), STOPPED if desk.is_stopped else finished

    def _values(self, values: dict[Any, Any]) -> dict[str, Any]:
        """By name; an order that is compared with nothing has no rival."""
        given = {name: values[control] for name, control in self.controls.items()}
        own = {"text": self.text, "samples": self.samples, "seed": self.seed, "length": self.length}
        return given | {name: values[control] for name, control in own.items()} | {"rival": values[self.rival] or None}

    def end(self, request: gr.Request) -> tuple[Any, ...]:
        last = self.desks.of(request.session_hash).last
        moment = gr.update(visible=last > 0, maximum=max(last, 1), value=last)
        return moment, gr.update(interactive=True), gr.update(interactive=False)

    def failed(self, request: gr.Request) -> tuple[Any, ...]:
        """Gradio says why."""
        return FAILED, *self.end(request)

    def halt(self, request: gr.Request) -> Any:
        """What is being written ends by itself and says so."""
        self.desks.of(request.session_hash).stop()
        return gr.update(interactive=False)

    def show(self, number: float, request: gr.Request) -> Any:
        """A state of the history, unless it is gone."""
        sheets = self.desks.of(request.session_hash).sheets
        return sheets_html(sheets, int(number)) if sheets else gr.skip()

    def leave(self, request: gr.Request) -> None:
        self.desks.leave(request.session_hash)


def number_field(label: str, info: str, **more: Any) -> Any:
    """A number or nothing. Gradio's own takes nothing for 0."""
    typed = gr.InputHTMLAttributes(autocomplete="off")
    return gr.Textbox(label=label, info=info, max_lines=1, max_length=20, html_attributes=typed, **more)


def advanced(desk: Desk, rates: Iterator[float]) -> tuple[str, float] | None:
    """What to show next, with the tokens a second; None at the end."""
    rate = next(rates, None)
    return None if rate is None else (sheets_html(desk.sheets), rate)


def pace(desk: Desk, rate: float) -> str:
    """Tokens a second; where several lengths are tried, most of what is computed is not shown."""
    if desk.lengths > 1:
        return f"Trying {desk.lengths} lengths"
    return f"{rate:,.{0 if rate >= 10 else 1}f} tokens a second"


def ended(desk: Desk, rate: float) -> str:
    if desk.lengths > 1:
        return f"Finished: of {desk.lengths} lengths the likeliest"
    return f"Finished, {pace(desk, rate)}"


def told(error: UserError) -> str:
    return f'<p class="error" role="alert">{html.escape(" ".join(str(error).split()))}</p>'
