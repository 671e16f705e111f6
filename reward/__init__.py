"""Scorers: how good is a text, or the part of it that stands so far? Scores are on 0–1; a failure is never a number."""

from lpo.reward.base import Draft, Principle, Scorer, Unscored
from lpo.reward.combine import ProductScorer, Weighted, WeightedScorer
from lpo.reward.coverage import CoverageScorer, coverage, points_of
from lpo.reward.create import create_judge, create_scorer
from lpo.reward.expected_grade import ExpectedGradeJudge
from lpo.reward.json_judge import JsonJudge
from lpo.reward.length import LengthScorer, length_score
from lpo.reward.longreward import LongReward, LongRewardScorer
from lpo.reward.released_judge import ReleasedJudge
from lpo.reward.repetition import RepetitionScorer, repeated_ngram_share
from lpo.reward.reward_model import RewardModelScorer
from lpo.reward.stability import RankStability, rank_stability

__all__ = [
    "CoverageScorer",
    "Draft",
    "ExpectedGradeJudge",
    "JsonJudge",
    "LengthScorer",
    "LongReward",
    "LongRewardScorer",
    "Principle",
    "ProductScorer",
    "RankStability",
    "ReleasedJudge",
    "RepetitionScorer",
    "RewardModelScorer",
    "Scorer",
    "Unscored",
    "Weighted",
    "WeightedScorer",
    "coverage",
    "create_judge",
    "create_scorer",
    "length_score",
    "points_of",
    "rank_stability",
    "repeated_ngram_share",
]
