from pathlib import Path

from transformers import TrainerControl, TrainerState, TrainingArguments

from training.curves import PICTURE, RunLog, read_log, write_log

PNG = b"\x89PNG"


def test_a_line_per_log_and_evaluation_and_a_picture(tmp_path: Path) -> None:
    arguments, control = TrainingArguments(output_dir=str(tmp_path)), TrainerControl()
    state = TrainerState(global_step=5)
    log = RunLog(tmp_path, lambda _: {"dev_mrr": 0.5})
    log.on_log(arguments, state, control, logs={"loss": 2.0})
    log.on_evaluate(arguments, state, control)
    assert read_log(tmp_path) == [{"step": 5, "loss": 2.0}, {"step": 5, "dev_mrr": 0.5}]
    assert (tmp_path / PICTURE).read_bytes().startswith(PNG)


def test_a_run_that_goes_on_forgets_the_lines_after_its_checkpoint(tmp_path: Path) -> None:
    write_log(tmp_path, [{"step": 1, "loss": 3.0}, {"step": 3, "loss": 2.0}, {"step": 4, "loss": 1.0}])
    log = RunLog(tmp_path, None)
    log.on_train_begin(TrainingArguments(output_dir=str(tmp_path)), TrainerState(global_step=3), TrainerControl())
    assert [row["step"] for row in read_log(tmp_path)] == [1, 3]
