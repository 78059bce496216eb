"""Wrong commands, files, folders and calls, and what their messages must say.

In words, `%X=1` is --gin.X=1, and `+models/x` is --gin_file=gin/models/x.gin.
They follow those of a right command, unless they start with `!`. The messages
are regular expressions of the mistake, its place and the remedy.
"""

from collections.abc import Mapping
import pathlib
from typing import NamedTuple

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]

_MODEL = "+models/ladder_xs"
_TRAIN = f"{_MODEL} +recipes/prompt_tuning %MODEL_DIR='run' %EVAL_PERIOD=4"
_STEPS = "%TRAIN_STEPS_RELATIVE=4"
_DATA = f"{_TRAIN} {_STEPS} +tasks/files %TRAIN_FILE='x.csv'"
_INFER = f"{_MODEL} +methods/prompt_tuning +prompts/from_file +runs/infer"
RIGHT = {
  "train": f"{_TRAIN} {_STEPS} %TASK='ladder_cb'",
  "eval": (
    f"{_MODEL} +recipes/evaluate_prompt %TASK='ladder_cb' "
    "%PROMPT_FILE='p.npy' %EVAL_OUTPUT_DIR='run'"
  ),
  "infer": (
    f"{_INFER} %TASK='ladder_cb' %PROMPT_FILE='p.npy' %INFER_OUTPUT_DIR='run'"
  ),
}


class Mistake(NamedTuple):
  """A mistake.

  Attributes:
    program: "train", "eval" or "infer" of t5x; "console", the project's command
      line; or "python".
    words: The command's; for Python, code that uses `pt` or `model`.
    says: Regular expression of the message.
    files: Name -> content, in the working directory.
  """

  program: str
  words: str
  says: str
  files: Mapping[str, str] = {}


_SENTENCES = "text,label\n" + "the dog runs,yes\n" * 4 + "a cat sits,no\n" * 4
_CSV = {"x.csv": _SENTENCES}
TRAIN = (
  # Syntax.
  (
    "%LEARNING_RATE=0,3",
    r"RATE = 0,3 is not valid.*--gin.LEARNING_RATE=0\.3\.",
  ),
  ("%TASK=ladder_cb", "TASK = ladder_cb .*quoted: --gin.TASK=\"'ladder_cb'\""),
  ("%MODEL_DIR=runs/x", "runs/x is not valid.*--gin.MODEL_DIR=\"'runs/x'\""),
  ("%USE_CACHED_TASKS=true", "= true .*capital: --gin.USE_CACHED_TASKS=True"),
  ("%PROMPT_LENGTH=", "PROMPT_LENGTH = is not valid"),
  ("%CLASS_LABELS=['a','b'", r"\['a','b' is not .* pairs: --gin.CLASS_LABELS="),
  ("%TASK_FEATURE_LENGTHS={'inputs':12", "'inputs':12 is not .* in pairs"),
  ("%BATCH_SIZE", "Expected --gin.NAME=VALUE, got --gin.BATCH_SIZE"),
  ("%BATCH_SIZE=8.", "expected int above 0"),
  # Names.
  ("%PROMT_LENGTH=20", "defines PROMT_LENGTH.*Did you mean PROMPT_LENGTH"),
  ("%batch_size=20", r"defines batch_size.*Did you mean BATCH_SIZE"),
  ("%TRAIN_FILE='x.csv'", "defines TRAIN_FILE.*--gin_file=gin/tasks/files.gin"),
  ("%PROMPT_FILE='x.npy'", "defines PROMPT_FILE.*gin/prompts/from_file.gin"),
  ("%LORA_RANK=4", "defines LORA_RANK.*--gin_file=gin/methods/lora.gin"),
  ("%NUM_LENGTHS=4", "defines NUM_LENGTHS.*--gin_file=gin/runs/by_length.gin"),
  ("%EVAL_OUTPUT_DIR='x'", "EVAL_OUTPUT_DIR.*gin/runs/eval.gin.*leave"),
  ("%BEAM_SIZE=2", "BEAM_SIZE.*--gin_file=gin/decoding/beam.gin"),
  ("--model_dir=x", "no flag --model_dir.*--gin.MODEL_DIR=\"'x'\""),
  ("--MODEL_DIR='x'", "no flag --MODEL_DIR.*--gin.MODEL_DIR='x'"),
  ("--task=ladder_cb", "no flag --task.*--gin.TASK=\"'ladder_cb'\""),
  ("--learning_rate=0.1", "no flag --learning_rate.*--gin.LEARNING_RATE=0.1"),
  ("--gin_files=x", r"no flag --gin_files. Did you mean --gin_file\?"),
  ("--dryrun", r"no flag --dryrun. Did you mean --dry_run\?"),
  ("--process_count=two", "process_count.*two"),
  ("ladder_cb", "Unexpected argument ladder_cb: give flags"),
  ("%network.T5Config.width=3", "T5Config has no parameter 'width'"),
  ("%train/utils.DatasetConfig.sed=3", r"'sed'. Did you mean seed\?"),
  ("%trian/utils.DatasetConfig.seed=3", r"scope 'trian'.*Did you mean train"),
  ("%netwerk.T5Config.emb_dim=3", "netwerk"),
  ("%MODEL=@models.EncoderDecodrModel()", "EncoderDecodrModel"),
  # Values.
  ("%BATCH_SIZE='16'", r"BATCH_SIZE='16' .*: expected int.* take no quotes"),
  ("%BATCH_SIZE=0", "BATCH_SIZE=0 .*expected int above 0"),
  ("%BATCH_SIZE=True", "BATCH_SIZE=True .*expected int above 0"),
  ("%PROMPT_LENGTH=0", "PROMPT_LENGTH=0 .*expected int above 0"),
  ("%PROMPT_LENGTH=-1", "PROMPT_LENGTH=-1 .*expected int above 0"),
  ("%PROMPT_LENGTH=2.5", "PROMPT_LENGTH=2.5 .*expected int above 0"),
  ("%LEARNING_RATE=-0.3", "LEARNING_RATE=-0.3 .*float of at least 0"),
  ("%LEARNING_RATE='0.3'", "LEARNING_RATE='0.3' .*take no quotes"),
  ("%DROPOUT_RATE=1.0", "DROPOUT_RATE=1.0 .*at least 0 and below 1"),
  ("%LABEL_SMOOTHING=2", "LABEL_SMOOTHING=2 .*at least 0 and below 1"),
  ("%Z_LOSS=-1.0", "Z_LOSS=-1.0 .*float of at least 0"),
  ("%EVAL_PERIOD=0", "EVAL_PERIOD=0 .*expected int above 0"),
  ("%TRAIN_STEPS_RELATIVE=-1", "RELATIVE=-1 .*expected int of at least 0"),
  ("%TRAIN_STEPS_RELATIVE=1e3", "RELATIVE=1000.0 .*expected int"),
  ("%EVAL_STEPS=0", "EVAL_STEPS=0 .*expected int above 0"),
  ("%NUM_MICROBATCHES=0", "NUM_MICROBATCHES=0 .*expected int above 0"),
  ("%NUM_PARTITIONS=0", "NUM_PARTITIONS=0 .*expected int above 0"),
  ("%RANDOM_SEED='a'", r"RANDOM_SEED='a' .*expected int \| None"),
  ("%SHUFFLE_SEED=0.5", r"SHUFFLE_SEED=0.5 .*expected int \| None"),
  ("%BEST_METRIC=3", "BEST_METRIC=3 .*expected str"),
  ("%USE_CACHED_TASKS=1", "USE_CACHED_TASKS=1 .*expected bool"),
  ("%CLASS_LABELS='yes'", r"CLASS_LABELS='yes' .*expected Sequence\[str\]"),
  ("%TASK_FEATURE_LENGTHS=64", r"expected Mapping\[str, int above 0\]"),
  ("%TASK_FEATURE_LENGTHS={'inputs':0,'targets':4}", "expected Mapping"),
  ("%TASK_FEATURE_LENGTHS={'inputs':'8','targets':4}", "expected Mapping"),
  ("%MODEL='t5_small'", "MODEL='t5_small' .*EncoderDecoderModel"),
  ("%network.T5Config.emb_dim='64'", "emb_dim='64': expected int"),
  ("%STATS_PERIOD=3", r"EVAL_PERIOD\).*3 between losses \(STATS_PERIOD\)"),
  ("%TRAIN_STEPS=10", r"Give one of TRAIN_STEPS.*\(10, 4\)"),
  ("%LEARNING_RATE='a' %BATCH_SIZE=0 foo", r"3 problems\.\n\* .*\n\* .*\n\* "),
  # Files, and their order.
  ("!%TASK='x'", "None of the gin files configures a run. Name a recipe"),
  (f"!{_MODEL} %MODEL_DIR='run' %TASK='x'", "gin/recipes/NAME.gin"),
  (f"!+recipes/lora {_MODEL} {_STEPS}", "OPTIMIZER. Name files in the order"),
  (f"!+recipes/lora {_STEPS} %TASK='ladder_cb'", "gin/models gives .*MODEL"),
  (f"!{_TRAIN} %TASK='ladder_cb'", "Give one of TRAIN_STEPS"),
  (f"!{_TRAIN} {_STEPS}", "Expected a seqio task or mixture, got none.*TASK="),
  (f"!{_MODEL} +recipes/lora {_STEPS}", "require MODEL_DIR.*--gin.MODEL_DIR="),
  (f"!{RIGHT['eval']}", "configure a run of t5x.eval: .*python -m t5x.eval"),
  ("!+models/lader_xs", r"lader_xs.gin in .*Did you mean gin/models/ladder_xs"),
  ("!+recipes/promt_tuning", "Did you mean gin/recipes/prompt_tuning.gin"),
  ("--gin_file=mine.gin", r"No gin file mine.gin in .*--gin_search_paths"),
  (
    "--gin_file=a.gin",
    "a.gin is not valid .*line 2, X = fine. Str",
    {"a.gin": "\nX = fine\n"},
  ),
  ("--gin_file=a.gin", "No gin file b.gin", {"a.gin": "include 'b.gin'"}),
  # Tasks.
  ("%TASK='ladder_bc'", r"called 'ladder_bc'. Did you mean ladder_cb"),
  ("%MIXTURE_OR_TASK_NAME='mini_rtee'", "mini_rtee.*Did you mean mini_rte"),
  ("%TASK='x.csv'", "'x.csv'. For a file: --gin_file=gin/tasks/files.gin"),
  ("%MIXTURE_OR_TASK_MODULE='mine.no'", "TASK_MODULE='mine.no' cannot be"),
  ("%TASK='super_glue_axb'", r"super_glue_axb has no split 'train'.*'test'"),
  # Folders.
  (
    "%INITIAL_CHECKPOINT_PATH='no'",
    "No checkpoint at no:.*working directory is",
  ),
  (
    "%INITIAL_CHECKPOINT_PATH='a/b'",
    "no a/b in .*be fetched from the hub",
  ),
  ("%INITIAL_CHECKPOINT_PATH='x.csv'", "No checkpoint at x.csv", _CSV),
  (
    "%INITIAL_CHECKPOINT_PATH='hf'",
    "hf/config.json is not a model configuration",
    {"hf/config.json": "{}"},
  ),
  (
    "%INITIAL_CHECKPOINT_PATH='a'",
    "No checkpoint_<step> in a; folders there: b",
    {"a/b/c": ""},
  ),
  ("%MODEL_DIR='x.csv'", "MODEL_DIR='x.csv' .*it is a file. Choose", _CSV),
  ("%MODEL_DIR='x.csv/run'", "MODEL_DIR='x.csv/run' .*it is a file", _CSV),
  (
    "%MODEL_DIR='old'",
    "MODEL_DIR='old' has the record of a run of t5x.eval. Choose another",
    {"old/record.json": '{"kind": "eval"}'},
  ),
  (
    "+models/t5_1_1_small %VOCABULARY_FILE='no.model'",
    "VOCABULARY_FILE='no.model': expected a SentencePiece model, got nothing",
  ),
)
_LABEL = ("yes", "no")
DATA = (
  ("%HELD_OUT=10", "HELD_OUT=10 .*float above 0 and below 1", _CSV),
  ("%HELD_OUT='0.1'", "HELD_OUT='0.1' .*take no quotes", _CSV),
  ("%LABELS='yes'", r"LABELS='yes' .*expected Sequence\[str\] \| None", _CSV),
  ("%INPUT_COLUMNS='text'", r"INPUT_COLUMNS='text' .*Sequence\[str\]", _CSV),
  ("%TRAIN_FILE='no.csv'", "no.csv cannot be read: No such file.*directory is"),
  ("%TRAIN_FILE='.'", r"a file that ends in .csv, .*, got \."),
  (
    "%TRAIN_FILE='x.txt'",
    "file that ends in .csv, .*, got x.txt",
  ),
  ("%TRAIN_FILE='d.csv'", "d.csv cannot be read: Is a dir", {"d.csv/a": ""}),
  ("%VALIDATION_FILE='no.csv'", "no.csv cannot be read: No such file", _CSV),
  ("%TARGET_COLUMN='lable'", "x.csv, line 1: expected the column lable", _CSV),
  ("%INPUT_COLUMNS=['txt']", "x.csv, line 1: expected the column txt", _CSV),
  ("%INPUT_COLUMNS=['label']", "columns of inputs beside label", _CSV),
  (
    "%VALIDATION_FILE='y.csv'",
    "y.csv, line 1: expected the column label, got text, class",
    {**_CSV, "y.csv": "text,class\na,b\n"},
  ),
  ("", "x.csv: expected rows of examples, got none", {"x.csv": "text,label\n"}),
  ("", "x.csv: expected rows of examples, got none", {"x.csv": ""}),
  ("", "one column called target, .*TARGET_COLUMN", {"x.csv": "a,b\n1,2\n"}),
  ("", "line 2: expected 2 cells.*got 3", {"x.csv": "text,label\na,b,c\n"}),
  ("", "two columns are called a", {"x.csv": "a,a\n1,2\n"}),
  ("", "none for column 2", {"x.csv": "a,,label\n1,2,3\n"}),
  ("", "line 2: .*quote in a quoted cell", {"x.csv": 'a,label\n"b"c,1\n'}),
  ("", "line 2, column label: expected a cell", {"x.csv": 'a,label\nb, "c"\n'}),
  ("", "line 2: expected text in text", {"x.csv": "text,label\n,yes\n"}),
  ("", "line 2, column label: expected a tar", {"x.csv": "text,label\na,\n"}),
  (
    "%LABELS=['yes']",
    r"x.csv, line 6, column label: expected one of the labels yes, got 'no'",
    {"x.csv": _SENTENCES},
  ),
  (
    "",
    "labels that the vocabulary knows, got '好'.*Rename the label",
    {"x.csv": _SENTENCES.replace("yes", "好")},
  ),
  (
    "",
    "does not know .*% of the pieces of the inputs.*max_unknown",
    {
      "x.csv": "text,label\n"
      + "".join(f"好 {i},{_LABEL[i % 2]}\n" for i in range(9))
    },
  ),
  (
    "%TRAIN_FILE='x.jsonl'",
    "x.jsonl, line 2 is not a JSON object: .*Mend that line",
    {"x.jsonl": '{"text": "a", "label": "b"}\n{"text": '},
  ),
  (
    "%TRAIN_FILE='x.jsonl'",
    "x.jsonl, line 2: expected the columns of the first row, .* label is miss",
    {"x.jsonl": '{"text": "a", "label": "b"}\n{"text": "a"}'},
  ),
  (
    "%TRAIN_FILE='x.jsonl'",
    "line 1, column label: expected text, a number, or true or false, got null",
    {"x.jsonl": '{"text": "a", "label": null}'},
  ),
  (
    "%TRAIN_FILE='x.tsv'",
    "x.tsv, line 2, column text: a cell that starts with a quote",
    {"x.tsv": 'text\tlabel\n"a\tb"\tc\n'},
  ),
)
EVAL = (
  ("%TRAIN_STEPS_RELATIVE=4", "gin/runs/train.gin would: .*or leave TRAIN_STE"),
  ("%MODEL_DIR='x'", "defines MODEL_DIR.*gin/runs/train.gin"),
  ("%SPLIT=validation", "SPLIT = validation is not .*SPLIT=\"'validation'\""),
  ("%SPLIT='tset'", r"ladder_cb has no split 'tset'; it has \['test', 'train'"),
  ("%PROMPT_FILE='no.npy'", "no.npy is not a file. Prompt files in .*: p.npy"),
  ("%PROMPT_FILE='x.csv'", "x.csv: expected a prompt file that ends", _CSV),
  (
    "%PROMPT_FILE='a.npy'",
    "a.npy: expected a prompt file|a.npy is not a Num",
    {"a.npy": "a"},
  ),
  ("%PROMPT_FILE='a.safetensors'", "not a safetensors", {"a.safetensors": ""}),
  ("+models/ladder_s +recipes/evaluate_prompt", "prompt of width 128.*got 64"),
  ("%CHECKPOINT_PATH='no'", "No checkpoint at no: expected a folder"),
  ("%EVAL_OUTPUT_DIR='p.npy'", "EVAL_OUTPUT_DIR='p.npy' .*it is a file"),
  (f"!{_MODEL} +recipes/evaluate_prompt", "EVAL_OUTPUT_DIR, PROMPT_FILE. Give"),
  (f"!{RIGHT['train']}", "configure a run of t5x.train: .*python -m t5x.train"),
)
INFER = (
  ("%MODE='predcit'", r"MODE='predcit' .*expected Literal\['predict', "),
  ("%SPLIT='tset'", "no split 'tset'"),
  (f"!{_MODEL} +runs/infer %TASK='x'", "gin/methods gives OPTIMIZER"),
  ("%infer_script.infer.num_shards=0", "num_shards=0: expected int above 0"),
  ("%infer_script.infer.shard_id=-1", "shard_id=-1: expected int of at least"),
  ("%infer_script.infer.checkpoint_period=0", "period=0: expected int above 0"),
)
LADDER = "checkpoints/ladder_xs/lm_100"
_CONVERT = f"convert checkpoint --from t5x {LADDER} --to"
CONSOLE = (
  ("tabulat", r"no command 'tabulat'; did you mean tabulate\?"),
  ("xyz", "no command 'xyz'; see --help"),
  ("convert", "did you mean convert checkpoint or convert prompt"),
  ("train", "no command 'train'; it is python -m t5x.train"),
  ("tabulate --chek", "unknown arguments: --chek"),
  ("tabulate nosuch", "no sheet nosuch"),
  ("convert checkpoint", "required: --from, --to"),
  (
    "convert checkpoint --from hf google/flan-t5-base --to t5x out",
    "no google/flan-t5-base in .*cannot be fetched from the hub",
  ),
  (
    "convert checkpoint --from t5x hf --to t5x out",
    "config.json is not a model configuration",
    {"hf/config.json": "{}"},
  ),
  (
    "convert checkpoint --from hf hf --to t5x out",
    "hf/config.json is not a model configuration: model_type: Field",
    {"hf/config.json": "{}"},
  ),
  ("convert checkpoint --from pt a --to t5x b", "hf or t5x, got pt"),
  ("convert checkpoint --from t5x no --to t5x b", "No checkpoint at no"),
  (f"{_CONVERT} pt b", "t5x or int8, got pt"),
  (f"{_CONVERT} hf b --step=3", "no step, which hf does not keep, got 3"),
  (f"{_CONVERT} t5x b --step=-1", "--step: expected 0 or more, got '-1'"),
  (f"{_CONVERT} t5x b --prompt=no.npy", "no.npy is not a file"),
  ("convert prompt no.npy a.safetensors", "no.npy is not a file"),
  ("convert prompt p.npy a.txt", "a.txt"),
  ("convert prompt", "required: IN, OUT"),
  ("inspect no", "No checkpoint at no: .*working directory"),
  ("inspect p.npy", "p.npy is a prompt: give the base model, --checkpoint"),
  ("inspect p.npy --checkpoint=no", "No checkpoint at no"),
  (f"inspect p.npy --checkpoint={LADDER} --plot=x.bmp", "--plot: .*got x.bmp"),
  ("serve", "Name a prompt, or give --checkpoint, or --demo"),
  ("serve --checkpoint=no", "No checkpoint at no"),
  ("serve --demo --prompts=p.npy", "--prompts: p.npy is a file: name a folder"),
  ("serve --demo --jobs=p.npy", "--jobs: p.npy is a file: name a folder"),
  ("serve --demo --port=abc", "--port: .*'abc'"),
  ("serve --demo --rows=0", "--rows: expected 1 or more, got '0'"),
  ("serve --demo --patience=-1", "--patience: expected 0 or more, got '-1'"),
  ("serve --demo --option=x", "--option is for --submit"),
  ("serve --demo --submit=foo", "--submit to be one of .*slurm, got 'foo'"),
  ("launch", "required: SHEET"),
  ("launch nosuch", "no sheet nosuch in .*There is"),
  ("launch scal --dry_run", r"no sheet scal in .*Did you mean .*scale"),
  ("launch claims", "claims has no runs: prompt-tuning tabulate"),
  ("launch scale --jobs=0", "--jobs: expected 1 or more, got '0'"),
  ("launch scale --submit=foo", "--submit to be one of .*got 'foo'"),
  ("launch scale --option=a=b", "--option is for --submit"),
  ("launch scale --submit=local --jobs=2", "--jobs is for this machine"),
  ("launch scale --cell=nosuch", "No cell is called nosuch; there is"),
  ("launch scale --submit=local --option=a", "--option NAME=VALUE, got a"),
  ("plan", "a topology such as v3:4x4, .*Known are"),
  ("plan --topology=v9:2x2", "got 'v9:2x2'. Known are"),
  ("plan --topology=cpux1", "the --gin_file flags of a command, got none"),
  (f"plan --topology=cpux1 {_MODEL}", "gin files configures a run: give the"),
  ("show ladder_bc", "'ladder_bc'. Did you mean ladder_cb"),
  ("show ladder_cb --split=tset", r"no split 'tset'; it has \['test'"),
  ("show ladder_cb -n=-1", "expected 0 or more, got '-1'"),
  ("cache --tasks=ladder_cb", "required: --output_cache_dir"),
  ("cache --tasks=ladder_bc --output_cache_dir=c", "'ladder_bc'. Did you mean"),
  ("submission", "Give --predictions and --output, or --check"),
  ("submission --check=no.zip", "no.zip"),
  ("submission --predictions=no --output=b.zip", "no"),
  ("pretrain ladder_q", r"No size \['ladder_q'\]; there is ladder_xxs"),
  ("quickstart --model=big", "--model: invalid choice: 'big'"),
  ("quickstart --steps=0", "--steps: expected 1 or more, got '0'"),
  ("prepare superglue", "required: --tfds_data_dir"),
  ("plan-table --compile=foo", "--compile: invalid choice: 'foo'"),
)
_SHEET = """
title = "T"
about = "A"
budget = "B"
[programs.train]
module = "t5x.train"
folder = "MODEL_DIR"
gin_files = []
bindings = {SEED = "$seed"}
[[grids]]
seed = [0, 1]
[layout]
rows = ["seed"]
columns = "seed"
"""
SHEETS = (
  ("title = ", "titel = ", "configs/x.toml is not a sheet: .*title"),
  ('budget = "B"', "", "configs/x.toml is not a sheet: budget: Field required"),
  ('about = "A"', "about = A", "configs/x.toml is not TOML: .*line 3"),
  ("[0, 1]", '"a"', "configs/x.toml is not a sheet: grids"),
  ('title = "T"', 'extends = "x.toml"', "x.toml extends itself"),
  (
    'title = "T"',
    'extends = "no.toml"\ntitle = "T"',
    "expected extends to name a file, .*no.toml",
  ),
  ('rows = ["seed"]', 'rows = ["size"]', "is not a sheet: .*no axis size"),
  ('"$seed"', '"$size"', "'size' is asked for, but the cell has no such axis"),
  (
    "gin_files = []",
    'gin_files = ["no.gin"]',
    "cannot find the gin file no.gin",
  ),
  ('columns = "seed"', 'columns = "size"', "is not a sheet: .*no axis size"),
)
_TWO = '[("the dog runs", "yes"), ("a cat sits", "no")] * 8'
_TUNE = f"model.tune({_TWO}, length=2, steps=1, "
PYTHON = (
  ("pt.load('no')", "No checkpoint at no: .*working directory"),
  ("pt.load('google/flan-t5-base')", "cannot be fetched from the hub"),
  ("pt.load(3)", r"Expected checkpoint to be str \| PathLike\[str\], got 3"),
  (
    f"pt.load('{LADDER}', 'no.model')",
    "SentencePiece model at no.model, got noth",
  ),
  (f"pt.load('{LADDER}', 3)", "Expected vocabulary to be .*, got 3"),
  (f"pt.load('{LADDER}', dtype='float31')", "a dtype such as .*got 'float31'"),
  ("model.tune('x.csv')", "x.csv cannot be read: No such file"),
  ("model.tune('ladder_cp')", "called 'ladder_cp'. Did you mean ladder_copa"),
  ("model.tune([])", "Expected pairs of train, got none"),
  ("model.tune(5)", "Expected train to be .*got 5"),
  ("model.tune(['ab'])", r"train\[0\] to be a pair \(input, target\).*'ab'"),
  ("model.tune([('a',)])", r"train\[0\] to be a pair.*\('a',\)"),
  ("model.tune([('', 'b')])", r"Expected an input in train\[0\], got no text"),
  ("model.tune([('a', ' ')])", r"Expected a target in train\[0\]"),
  ("model.tune([(1, 2)])", r"train\[0\] to be a pair .* of texts"),
  ("model.tune({'a': 'b'})", "got a mapping. Give list"),
  ("model.tune([('好 好', 'yes'), ('好', 'no')] * 8)", "max_unknown=1"),
  (f"model.tune({_TWO}, steps=1.5)", "steps to be int .*got 1.5"),
  (f"model.tune({_TWO}, steps='3')", "steps to be int .*got '3'"),
  (f"model.tune({_TWO}, steps=0)", "steps to be int above 0, got"),
  (f"{_TUNE} stepz=3)", "There is no setting stepz; there are length, init"),
  (f"model.tune({_TWO}, length='20')", "length to be .*'20'"),
  (f"model.tune({_TWO}, length=0)", "length to be int above 0"),
  (f"model.tune({_TWO}, length=1)", "at least length=2.*init="),
  (
    f"{_TUNE} labels='yes')",
    r"labels to be Sequence\[str\] \| None, got 'yes'",
  ),
  (f"{_TUNE} labels=[1])", r"labels\[0\] to be str, got 1"),
  (f"{_TUNE} labels=['yes'])", r"train\[1\]: expected one of the labels yes"),
  (f"{_TUNE} labels=['yes', 'no', '好'])", "got '好'.*Rename the label"),
  (f"{_TUNE} learning_rate=-1.0)", "learning_rate to be float of at least 0"),
  (f"{_TUNE} learning_rate='a')", "learning_rate to be float .*got 'a'"),
  (f"{_TUNE} batch_size=0)", "batch_size to be int above 0, got 0"),
  (f"{_TUNE} seed=-1)", "seed to be int of at least 0, got -1"),
  (f"{_TUNE} init='best')", "init to be one of class_labels, .*got 'best'"),
  (f"{_TUNE} rank='yes')", "rank to be bool, got 'yes'"),
  (f"{_TUNE} validation='x')", "validation to be .*got 'x'"),
  (
    f"{_TUNE} validation=[('a', 'b')])",
    r"validation\[0\]: expected one of the",
  ),
  (f"{_TUNE} folder='p.npy')", "p.npy"),
  (f"{_TUNE} folder=3)", "folder to be str .*got 3"),
  (f"{_TUNE} on_event=3)", "on_event to be Callable.*got 3"),
  (f"{_TUNE} max_unknown=2)", "max_unknown to be float .* at most 1, got 2"),
  ("model.tune('ladder_cb', labels=['a'])", "brings its own validation split"),
  ("model.generate('a text')", r"inputs to be Sequence\[str\], got 'a text'"),
  ("model.generate([1])", r"inputs\[0\] to be str, got 1"),
  ("model.generate(3)", r"inputs to be Sequence\[str\], got 3"),
  ("model.generate(['a'], max_length=0)", "max_length to be int above 0"),
  ("model.generate(['a'], 'no.npy')", "no.npy is not a file. Prompt files in"),
  (
    "model.generate(['a'], 3)",
    r"a prompt of shape \[length, width\], got \[\]",
  ),
  ("model.generate(['a'], np.ones((2, 3)))", "a prompt of width 64, got"),
  ("model.generate(['a'], np.ones(3))", r"shape \[length, width\], got \[3\]"),
  ("model.rank(['a'], 'yes')", r"labels to be Sequence\[str\], got 'yes'"),
  ("model.rank(['a'], [])", "Ranking needs labels, got none"),
  ("model.rank([1], ['yes'])", r"inputs\[0\] to be str, got 1"),
  ("model.rank(['a'], [1])", r"labels\[0\] to be str, got 1"),
  ("model.rank(['a'], ['yes', ' yes'])", "labels that differ in their tokens"),
  ("model.evaluate('no')", "No seqio task or mixture is called 'no'"),
  (f"model.evaluate({_TWO}, batch_size=0)", "batch_size to be int above 0"),
  (f"model.evaluate({_TWO}, labels=(), rank=True)", "Ranking needs labels"),
)
MISTAKES = [
  *(Mistake("train", f"{RIGHT['train']} {x[0]}", *x[1:]) for x in TRAIN),
  *(Mistake("train", f"{_DATA} {x[0]}", *x[1:]) for x in DATA),
  *(Mistake("eval", f"{RIGHT['eval']} {x[0]}", *x[1:]) for x in EVAL),
  *(Mistake("infer", f"{RIGHT['infer']} {x[0]}", *x[1:]) for x in INFER),
  *(Mistake("console", *x) for x in CONSOLE),
  *(
    Mistake(
      "console",
      "launch x --root=.",
      says,
      {"configs/x.toml": _SHEET.replace(old, new)},
    )
    for old, new, says in SHEETS
  ),
  *(Mistake("python", *x) for x in PYTHON),
]


def words(mistake: Mistake) -> list[str]:
  """Returns the words of a command after its program."""
  _, alone, whole = mistake.words.rpartition("!")
  found = []
  for word in (whole if alone else mistake.words).split():
    kind, rest = word[0], word[1:]
    full = {"%": f"--gin.{rest}", "+": f"--gin_file=gin/{rest}.gin"}
    found.append(full.get(kind, word))
  return found


def prepare(folder: pathlib.Path, mistake: Mistake) -> None:
  """Writes a mistake's files, a prompt and a link to the checkpoints."""
  (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
  np.save(folder / "p.npy", np.zeros((2, 64), np.float32))
  for name, content in mistake.files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def command(mistake: Mistake) -> list[str]:
  """Returns the arguments of a process that makes a mistake."""
  if mistake.program == "python":
    code = f"model = pt.load({LADDER!r})\n{mistake.words}"
    program = (
      "import sys, numpy as np, prompt_tuning as pt\n"
      f"try: exec({code!r})\n"
      "except ValueError as e: sys.exit(f'Error: {e}')\n"
    )
    return ["-c", program]
  module = f"t5x.{mistake.program}"
  if mistake.program == "console":
    module = "prompt_tuning"
  return ["-m", module, *words(mistake)]
