"""The page as Gradio shows it: controls, what they start, and where the texts stand."""

import html
import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ddlm.config import UserError
from ddlm.diffusion.unmasking import POLICIES
from ddlm.ui import Limits
from ddlm.ui.controls import FIRST, SLIDERS, Setting, order_help, settings
from ddlm.ui.desk import Desks
from ddlm.ui.order import read_order
from ddlm.ui.sheet import sheets_html
from ddlm.ui.shelf import Shelf

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
HEAD = """<header><p class="name">ddlm</p><h1>Written in no particular order</h1>
<p class="lead">This model does not write from left to right. It begins with blanks and fills in the words that it is
surest of, wherever they stand.</p></header>"""
GAPS = """<p>A gap is <code>___</code>, and <code>___[5]</code> is one of five tokens. Ctrl + Enter writes, Esc
stops.</p>"""
LENGTH = "Tokens to write after the beginning, exactly; empty: as the model likes."
WAITING = '<p role="status">Waiting for a turn …</p>'


@dataclass(frozen=True)
class Example:
    """What the controls are set to. rival: a second order."""

    title: str
    text: str
    unmasking: str = "confidence"
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
        self.settings = settings()

    def build(self) -> gr.Blocks:
        with gr.Blocks(title="ddlm", analytics_enabled=False, fill_width=True) as blocks:
            gr.HTML(HEAD, elem_id="head")
            with gr.Row(elem_id="main"):
                with gr.Column(scale=3, min_width=320, elem_id="desk"):
                    self._add_editor()
                with gr.Column(scale=1, min_width=280, elem_id="settings"):
                    self._add_controls()
            self._connect(blocks)
        blocks.queue(max_size=self.limits.waiting, default_concurrency_limit=self.limits.at_once, api_open=False)
        return blocks

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
        self.facts = gr.HTML("", elem_id="facts")
        self.samples = gr.Slider(1, self.limits.samples, 1, step=1, label="Texts", info="So many at once.", buttons=[])
        self.controls = {each.name: self._control(each) for each in self.settings if each.name in FIRST}
        orders = [("none", ""), *((name.replace("_", " "), name) for name in POLICIES)]
        self.rival = gr.Dropdown(orders, value="", label="Compare with", info="A second order beside it, same seed.")
        self.length = number_field("Length", LENGTH, elem_id="length")
        self.seed = gr.Number(0, precision=0, label="Seed", info="The same seed and settings write the same text.")
        self.fresh = gr.Checkbox(True, label="A new seed for each text")
        with gr.Accordion("More", open=False, elem_id="more"):
            self.controls |= {each.name: self._control(each) for each in self.settings if each.name not in FIRST}

    def _control(self, setting: Setting) -> Any:
        shown: dict[str, Any] = {"label": setting.label, "info": setting.help, "elem_id": f"control-{setting.name}"}
        if setting.name == "unmasking":
            shown["info"] = order_help(setting.default)
        if setting.choices:
            choices = [(name.replace("_", " "), name) for name in setting.choices]
            return gr.Dropdown(choices, value=setting.default, **shown)
        if setting.name == "num_sampling_steps":
            return gr.Slider(1, self.limits.steps, setting.default, step=1, buttons=[], **shown)
        if setting.name in SLIDERS:
            low, high, by = SLIDERS[setting.name]
            return gr.Slider(low, high, setting.default, step=by, buttons=[], **shown)
        is_shown = setting.suits(self.settings[0].default)
        return number_field(shown.pop("label"), shown.pop("info"), visible=is_shown, **shown)

    def _connect(self, blocks: gr.Blocks) -> None:
        at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        state = [self.sheets, self.status, self.moment, self.write, self.stop]
        inputs = {self.model, self.text, self.samples, self.seed, self.length, self.rival, *self.controls.values()}
        blocks.load(self.welcome, None, [self.model, self.facts], **at_once)
        blocks.unload(self.leave)
        begun = self.write.click(self.begin, [self.fresh, self.seed], [self.seed, *state[1:]], **at_once)
        writing = begun.then(self.make, inputs, [self.sheets, self.status], **quiet)
        writing.then(self.end, None, state[2:], **at_once)
        self.stop.click(self.stopped, None, state, cancels=[writing], **at_once)
        self.moment.input(self.show, self.moment, self.sheets, trigger_mode="always_last", **at_once)
        self.model.input(self.describe, self.model, self.facts, **at_once)
        unmasking = self.controls["unmasking"]
        unmasking.change(self.suit, unmasking, list(self.controls.values()), **at_once)
        for button, example in zip(self.examples, EXAMPLES, strict=True):
            values = [example.text, example.unmasking, example.rival or "", ""]
            filled = [self.text, unmasking, self.rival, self.length]
            button.click(None, None, filled, js=f"() => {json.dumps(values)}", **at_once)

    def welcome(self) -> tuple[Any, str]:
        """The models there are now: a page that is loaded again shows new ones."""
        self.shelf.ask_registry()
        names = self.shelf.names()
        return gr.Dropdown(names, value=names[0]), self.describe(names[0])

    def describe(self, name: str) -> str:
        try:
            return f"<p>{html.escape(self.shelf.open(name).facts)}</p>"
        except UserError as error:
            return told(error)

    def suit(self, unmasking: str) -> list[Any]:
        """What means nothing to the order is hidden, and the order says what it does."""
        suiting = {each.name: each.suits(unmasking) for each in self.settings}
        changes = {name: gr.update(visible=suiting[name]) for name in self.controls}
        return list((changes | {"unmasking": gr.update(info=order_help(unmasking))}).values())

    def begin(self, fresh: bool, seed: float) -> tuple[Any, ...]:
        chosen = secrets.randbelow(1_000_000) if fresh else seed
        return chosen, WAITING, gr.update(visible=False), gr.update(interactive=False), gr.update(interactive=True)

    def make(self, values: dict[Any, Any], request: gr.Request) -> Iterator[tuple[str, str]]:
        """Write what is asked for and show every step of it."""
        desk = self.desks.of(request.session_hash)
        try:
            yield gr.skip(), '<p role="status">Writing …</p>'
            order = read_order(self._values(values), self.limits)
            rate = 0.0
            with closing(desk.write(self.shelf.open(values[self.model]), order)) as rates:
                for rate in rates:
                    yield sheets_html(desk.sheets), f"<p>{rate:,.0f} tokens a second</p>"
            yield sheets_html(desk.sheets), f'<p role="status">Finished, {rate:,.0f} tokens a second</p>'
        except UserError as error:
            yield gr.skip(), told(error)

    def _values(self, values: dict[Any, Any]) -> dict[str, Any]:
        """By name; an order that is compared with nothing has no rival."""
        given = {name: values[control] for name, control in self.controls.items()}
        own = {"text": self.text, "samples": self.samples, "seed": self.seed, "length": self.length}
        return given | {name: values[control] for name, control in own.items()} | {"rival": values[self.rival] or None}

    def end(self, request: gr.Request) -> tuple[Any, ...]:
        last = self.desks.of(request.session_hash).last
        moment = gr.update(visible=last > 0, maximum=max(last, 1), value=last)
        return moment, gr.update(interactive=True), gr.update(interactive=False)

    def stopped(self, request: gr.Request) -> tuple[Any, ...]:
        desk = self.desks.of(request.session_hash)
        desk.stop()
        return sheets_html(desk.sheets), '<p role="status">Stopped</p>', *self.end(request)

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


def told(error: UserError) -> str:
    return f'<p class="error" role="alert">{html.escape(" ".join(str(error).split()))}</p>'
