"""How base and trained model do on prompts and pairs that were held out, with intervals."""

from lpo.evaluation.answers import (
    Answer,
    AnswerScores,
    ModelName,
    decoding,
    generate_answers,
    judge_answers,
    score_text,
    select_prompts,
)
from lpo.evaluation.buckets import BUCKETS, bucket
from lpo.evaluation.metrics import Metric
from lpo.evaluation.preferences import (
    PreferenceRow,
    SideLogprobs,
    preference_accuracy,
    preference_logprobs,
    preference_rows,
)
from lpo.evaluation.scores import JudgeNote, OverlapNote, Scores, summarise
from lpo.intervals import Interval, bootstrap_mean, paired_difference

__all__ = [
    "BUCKETS",
    "Answer",
    "AnswerScores",
    "Interval",
    "JudgeNote",
    "Metric",
    "ModelName",
    "OverlapNote",
    "PreferenceRow",
    "Scores",
    "SideLogprobs",
    "bootstrap_mean",
    "bucket",
    "decoding",
    "generate_answers",
    "judge_answers",
    "paired_difference",
    "preference_accuracy",
    "preference_logprobs",
    "preference_rows",
    "score_text",
    "select_prompts",
    "summarise",
]
