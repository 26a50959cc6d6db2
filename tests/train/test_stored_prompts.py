"""What the model reads is stored when it is evaluated, and shown in the report with titles cut as it reads them."""

from __future__ import annotations

import html

from helpers.runner import succeed
from helpers.shop import make_shop

from bundlecache.bench import result_files
from bundlecache.workspace import WorkspaceFolder


def test_the_report_shows_the_prompt_with_titles_cut(tmp_path):
    root = make_shop(tmp_path)
    quick = [x for stage in ("text", "fusion") for x in ("--set", f"{stage}_stage.steps=1")]
    cut = ["--set", "prompt.max_title_tokens=1", "--set", "fusion_stage.contrastive_steps=0"]
    succeed("train", "--recipe", "demo", "--name", "mine", *quick, *cut, "--data", root)
    succeed("evaluate", "--no-baselines", "--no-ablation", "--data", root)
    run = WorkspaceFolder(root).runs / "mine"
    name = next(iter(result_files.load(run)))
    prompts = result_files.load_answers(run, name).column("prompt").to_pylist()
    assert all(text.startswith("Bundle: ") and text.endswith("\nAnswer:") for text in prompts)
    assert "⟨item⟩" in prompts[0]
    assert not any(kind in text for text in prompts for kind in ("lamp", "bell", "mug", "chime"))  # the second word
    succeed("report", "--data", root)
    shown = html.unescape((run / "report.html").read_text("utf-8"))
    parts = prompts and [text.partition("⟨")[0] for text in prompts]
    assert any(part in shown for part in parts)
    assert "⟨item⟩" not in shown
