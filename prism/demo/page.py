"""The demo's page in Gradio: what is on it, what each control does, and what the browser may load."""

from __future__ import annotations

import html
import os
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from prism.demo.stage import CHARACTERS, UPLOAD_MIB, Stage
from prism.errors import PrismError
from prism.untrusted import visible

WAITING = 64  # questions in the queue; more are refused
SHOWN = 8  # examples of the evaluation set
CUT = 110  # characters of an example in the list
KEPT = 600  # seconds that Gradio keeps an upload, which the page shows
# Fonts of the system: a theme's own would be fetched from elsewhere.
FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif"]
MONO = ["ui-monospace", "Menlo", "Consolas", "Liberation Mono", "monospace"]
# Gradio's page has scripts of its own in it, and gr.HTML makes functions of templates.
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; base-uri 'self'"
NO_REPORT = "<p class='none'>No run in reports/ has measured this spec yet: <code>pytest benchmarks</code></p>"
CSS = """
.gradio-container { width: 100% !important; max-width: 96rem !important; margin: 0 auto !important; }
.choice input { text-overflow: ellipsis; padding-right: 2.2rem !important; }
.head p { color: var(--body-text-color-subdued); margin: 0; }
.spent { min-height: 1.6em; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.tuned textarea { border-left: 3px solid var(--color-accent) !important; }
#examples :is(td, th) { text-align: left; }
.report iframe { width: 100%; height: min(72rem, 88vh); border: 1px solid var(--border-color-primary); border-radius: 8px; background: #fff; }
.report .none { color: var(--body-text-color-subdued); }
@media (max-width: 40rem) { .gradio-container { padding: .5rem !important; } .report iframe { height: 70vh; } }
"""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Policy:
    """Tells the browser, with every answer, to load nothing from elsewhere and to send nothing there."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async def stamped(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                told = [(b"content-security-policy", POLICY), (b"referrer-policy", b"no-referrer")]
                message["headers"] = [*message.get("headers", ()), *told]
            await send(message)

        await self.app(scope, receive, stamped)


def blocks(stage: Stage) -> Any:
    """The page, before it is served."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at each start, besides the argument
    import gradio as gr

    names = [(f"{name} · {offer.spec.title.partition(':')[0]}", name) for name, offer in stage.offers.items()]
    first, at_first = next(iter(stage.offers.items()))

    def listed(name: str) -> list[list[str]]:
        offer = stage.offers[name]
        return [
            [visible(offer.typed(example), CUT), visible(example.reference, CUT)] for example in offer.held_out[:SHOWN]
        ]

    def looked_at(name: str, place: int) -> dict[str, Any]:
        """The picture of an example, for phases that have pictures."""
        offer = stage.offers[name]
        images = offer.held_out[place].images
        return {"value": str(images[0]) if images else None, "visible": bool(offer.spec.image)}

    def shown(name: str, place: int) -> list[Any]:
        """The question, picture and reference of an example, and its place. Only for events: it makes a component."""
        offer = stage.offers[name]
        example = offer.held_out[place]
        return [offer.typed(example), gr.Image(**looked_at(name, place)), example.reference, place]

    def framed(name: str) -> str:
        report = stage.report(name)
        return (
            f'<iframe sandbox title="report of {name}" srcdoc="{html.escape(report)}"></iframe>'
            if report
            else NO_REPORT
        )

    def switched(name: str) -> list[Any]:
        known = list(stage.offers[name].adapters)
        return [
            gr.Dropdown(choices=known, value=known[0]),
            gr.Dataset(samples=listed(name)),
            *shown(name, 0),
            *[""] * 5,
        ]

    def answers(name: str, adapter: str, question: str, upload: str | None, place: int) -> Iterator[list[Any]]:
        try:
            if name not in stage.offers or adapter not in stage.offers[name].adapters:  # a page of an earlier server
                raise PrismError(f"{name}, {adapter}: is not offered here; reload the page")
            yield from stage.answers(name, adapter, question, upload, place)
        except PrismError as error:
            raise gr.Error(html.escape(str(error)), duration=None, print_exception=False) from None

    with gr.Blocks(title="PRISM demo", analytics_enabled=False, delete_cache=(KEPT, KEPT), fill_width=True) as found:
        gr.Markdown(
            "# PRISM demo\nOne question, two answers: the base model's, and the same model's with its adapter.",
            elem_classes="head",
        )
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                with gr.Row():
                    phase = gr.Dropdown(
                        names,
                        value=first,
                        label="Phase",
                        scale=3,
                        min_width=220,
                        filterable=False,
                        elem_classes="choice",
                    )
                    known = list(at_first.adapters)
                    adapter = gr.Dropdown(
                        known,
                        value=known[0],
                        label="Adapter",
                        scale=2,
                        min_width=180,
                        filterable=False,
                        elem_classes="choice",
                    )
                asked = gr.Textbox(
                    at_first.typed(at_first.held_out[0]),
                    label="Question",
                    lines=3,
                    max_lines=10,
                    max_length=CHARACTERS,
                    elem_id="question",
                )
                image = gr.Image(
                    **looked_at(first, 0),
                    label="Picture",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=260,
                    buttons=[],
                    elem_id="picture",
                )
                with gr.Row():
                    ask = gr.Button("Ask both", variant="primary", elem_id="ask", scale=3)
                    stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
                gold = gr.Textbox(
                    at_first.held_out[0].reference,
                    label="Reference of the example",
                    interactive=False,
                    lines=1,
                    max_lines=6,
                    elem_id="reference",
                )
                with gr.Row():
                    with gr.Column(min_width=220):
                        base = gr.Textbox(label="Base model", interactive=False, lines=4, max_lines=14, elem_id="base")
                        base_spent = gr.Markdown(elem_classes="spent", elem_id="base-spent")
                    with gr.Column(min_width=220):
                        tuned = gr.Textbox(
                            label="With the adapter",
                            interactive=False,
                            lines=4,
                            max_lines=14,
                            elem_id="tuned",
                            elem_classes="tuned",
                        )
                        tuned_spent = gr.Markdown(elem_classes="spent", elem_id="tuned-spent")
                kept = gr.State(0)
                examples = gr.Dataset(
                    components=[gr.Textbox(visible=False), gr.Textbox(visible=False)],
                    headers=["question", "reference"],
                    samples=listed(first),
                    type="index",
                    label="From the evaluation set",
                    elem_id="examples",
                )
                with gr.Accordion("What both were asked, word for word", open=False):
                    prompt = gr.Textbox(show_label=False, interactive=False, lines=4, max_lines=24, elem_id="prompt")
            with gr.Column(scale=2, min_width=320):
                gr.Markdown("### Report of this phase")
                report = gr.HTML(framed(first), elem_classes="report", elem_id="report")

        said = [base, base_spent, tuned, tuned_spent, prompt]
        example = [asked, image, gold, kept]
        running = gr.on(
            [ask.click, asked.submit],
            answers,
            [phase, adapter, asked, image, kept],
            [*said, gold],
            api_name="ask",
            concurrency_id="model",
            concurrency_limit=1,
            show_progress="minimal",
            show_progress_on=tuned_spent,
            trigger_mode="once",
        )
        stop.click(None, cancels=[running])
        phase.change(switched, phase, [adapter, examples, *example, *said], api_name="switch", show_progress="hidden")
        phase.change(framed, phase, report, api_name=False, show_progress="minimal")
        examples.click(shown, [phase, examples], example, api_name=False, show_progress="hidden")
    found.queue(max_size=WAITING, default_concurrency_limit=8)
    return found


def launch(stage: Stage, host: str, port: int, block: bool = True) -> Any:
    """Serve the page; until it is interrupted if `block`. Returns Gradio's Blocks."""
    import gradio as gr
    from starlette.middleware import Middleware

    found = blocks(stage)
    pictures = [str(stage.setting.store.home / "images")]
    found.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        show_error=False,
        max_file_size=UPLOAD_MIB * 2**20,
        allowed_paths=pictures,
        app_kwargs={"middleware": [Middleware(Policy)], "docs_url": None, "redoc_url": None},
        theme=gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=MONO),
        css=CSS,
        prevent_thread_lock=True,
    )
    stage.setting.screen.say(f"the demo is at http://{host}:{port}; Ctrl-C ends it")
    if block:
        found.block_thread()
    return found
