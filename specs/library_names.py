"""Names of losses and metrics that libraries have, so that a misspelt one is told before torch is imported.

Of torch.nn.functional and torchmetrics as they are pinned, those with dependencies of their own too; a test compares.
What another version has besides is looked up in the text of what is installed.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["LOSSES", "METRICS", "unknown_loss", "unknown_metric"]

# fmt: off
LOSSES: tuple[str, ...] = (
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_embedding_loss", "cross_entropy",
    "ctc_loss", "gaussian_nll_loss", "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss",
    "linear_cross_entropy", "margin_ranking_loss", "mse_loss", "multi_margin_loss", "multilabel_margin_loss",
    "multilabel_soft_margin_loss", "nll_loss", "poisson_nll_loss", "smooth_l1_loss", "soft_margin_loss",
    "triplet_margin_loss", "triplet_margin_with_distance_loss",
)
METRICS: tuple[str, ...] = (
    "AUROC", "Accuracy", "AdjustedMutualInfoScore", "AdjustedRandScore", "AveragePrecision", "BERTScore",
    "BLEUScore", "BinaryAUROC", "BinaryAccuracy", "BinaryAveragePrecision", "BinaryCalibrationError",
    "BinaryCohenKappa", "BinaryConfusionMatrix", "BinaryEER", "BinaryF1Score", "BinaryFBetaScore", "BinaryFairness",
    "BinaryGroupStatRates", "BinaryHammingDistance", "BinaryHingeLoss", "BinaryJaccardIndex", "BinaryLogAUC",
    "BinaryMatthewsCorrCoef", "BinaryNegativePredictiveValue", "BinaryPrecision", "BinaryPrecisionAtFixedRecall",
    "BinaryPrecisionRecallCurve", "BinaryROC", "BinaryRecall", "BinaryRecallAtFixedPrecision",
    "BinarySensitivityAtSpecificity", "BinarySpecificity", "BinarySpecificityAtSensitivity", "BinaryStatScores",
    "BootStrapper", "CHRFScore", "CalibrationError", "CalinskiHarabaszScore", "CatMetric", "CharErrorRate",
    "ClasswiseWrapper", "ClusterAccuracy", "CohenKappa", "CompleteIntersectionOverUnion", "CompletenessScore",
    "ComplexScaleInvariantSignalNoiseRatio", "ConcordanceCorrCoef", "ConfusionMatrix",
    "ContinuousRankedProbabilityScore", "CosineSimilarity", "CramersV", "CriticalSuccessIndex",
    "DaviesBouldinScore", "DeepImageStructureAndTextureSimilarity", "DeepNoiseSuppressionMeanOpinionScore",
    "DiceScore", "DistanceIntersectionOverUnion", "DunnIndex", "EER", "EditDistance",
    "ErrorRelativeGlobalDimensionlessSynthesis", "ExactMatch", "ExplainedVariance", "ExtendedEditDistance",
    "F1Score", "FBetaScore", "FleissKappa", "FowlkesMallowsIndex", "FrechetInceptionDistance",
    "GeneralizedDiceScore", "GeneralizedIntersectionOverUnion", "HammingDistance", "HausdorffDistance", "HingeLoss",
    "HomogeneityScore", "InceptionScore", "InfoLM", "IntersectionOverUnion", "JaccardIndex",
    "JensenShannonDivergence", "KLDivergence", "KendallRankCorrCoef", "KernelInceptionDistance",
    "LearnedPerceptualImagePatchSimilarity", "LogAUC", "LogCoshError", "MatchErrorRate", "MatthewsCorrCoef",
    "MaxMetric", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanAveragePrecision", "MeanIoU",
    "MeanMetric", "MeanSquaredError", "MeanSquaredLogError", "MemorizationInformedFrechetInceptionDistance",
    "MinMaxMetric", "MinMetric", "MinkowskiDistance", "ModifiedPanopticQuality",
    "MultiScaleStructuralSimilarityIndexMeasure", "MulticlassAUROC", "MulticlassAccuracy",
    "MulticlassAveragePrecision", "MulticlassCalibrationError", "MulticlassCohenKappa", "MulticlassConfusionMatrix",
    "MulticlassEER", "MulticlassExactMatch", "MulticlassF1Score", "MulticlassFBetaScore",
    "MulticlassHammingDistance", "MulticlassHingeLoss", "MulticlassJaccardIndex", "MulticlassLogAUC",
    "MulticlassMatthewsCorrCoef", "MulticlassNegativePredictiveValue", "MulticlassPrecision",
    "MulticlassPrecisionAtFixedRecall", "MulticlassPrecisionRecallCurve", "MulticlassROC", "MulticlassRecall",
    "MulticlassRecallAtFixedPrecision", "MulticlassSensitivityAtSpecificity", "MulticlassSpecificity",
    "MulticlassSpecificityAtSensitivity", "MulticlassStatScores", "MultilabelAUROC", "MultilabelAccuracy",
    "MultilabelAveragePrecision", "MultilabelConfusionMatrix", "MultilabelCoverageError", "MultilabelEER",
    "MultilabelExactMatch", "MultilabelF1Score", "MultilabelFBetaScore", "MultilabelHammingDistance",
    "MultilabelJaccardIndex", "MultilabelLogAUC", "MultilabelMatthewsCorrCoef", "MultilabelNegativePredictiveValue",
    "MultilabelPrecision", "MultilabelPrecisionAtFixedRecall", "MultilabelPrecisionRecallCurve", "MultilabelROC",
    "MultilabelRankingAveragePrecision", "MultilabelRankingLoss", "MultilabelRecall",
    "MultilabelRecallAtFixedPrecision", "MultilabelSensitivityAtSpecificity", "MultilabelSpecificity",
    "MultilabelSpecificityAtSensitivity", "MultilabelStatScores", "MultioutputWrapper", "MultitaskWrapper",
    "MutualInfoScore", "NegativePredictiveValue", "NonIntrusiveSpeechQualityAssessment",
    "NormalizedMutualInfoScore", "NormalizedRootMeanSquaredError", "PanopticQuality", "PeakSignalNoiseRatio",
    "PeakSignalNoiseRatioWithBlockedEffect", "PearsonCorrCoef", "PearsonsContingencyCoefficient",
    "PerceptualEvaluationSpeechQuality", "PerceptualPathLength", "PermutationInvariantTraining", "Perplexity",
    "Precision", "PrecisionAtFixedRecall", "PrecisionRecallCurve", "QualityWithNoReference", "R2Score", "ROC",
    "ROUGEScore", "RandScore", "Recall", "RecallAtFixedPrecision", "RelativeAverageSpectralError",
    "RelativeSquaredError", "RetrievalAUROC", "RetrievalFallOut", "RetrievalHitRate", "RetrievalMAP",
    "RetrievalMRR", "RetrievalNormalizedDCG", "RetrievalPrecision", "RetrievalPrecisionRecallCurve",
    "RetrievalRPrecision", "RetrievalRecall", "RetrievalRecallAtFixedPrecision",
    "RootMeanSquaredErrorUsingSlidingWindow", "RunningMean", "RunningSum", "SQuAD", "SacreBLEUScore",
    "ScaleInvariantSignalDistortionRatio", "ScaleInvariantSignalNoiseRatio", "SensitivityAtSpecificity",
    "ShortTimeObjectiveIntelligibility", "SignalDistortionRatio", "SignalNoiseRatio",
    "SourceAggregatedSignalDistortionRatio", "SpatialCorrelationCoefficient", "SpatialDistortionIndex",
    "SpearmanCorrCoef", "Specificity", "SpecificityAtSensitivity", "SpectralAngleMapper", "SpectralDistortionIndex",
    "SpeechReverberationModulationEnergyRatio", "StatScores", "StructuralSimilarityIndexMeasure", "SumMetric",
    "SymmetricMeanAbsolutePercentageError", "TheilsU", "TotalVariation", "TranslationEditRate", "TschuprowsT",
    "TweedieDevianceScore", "UniversalImageQualityIndex", "VMeasureScore", "VisualInformationFidelity",
    "WeightedMeanAbsolutePercentageError", "WordErrorRate", "WordInfoLost", "WordInfoPreserved",
)
# fmt: on


def unknown_loss(name: str) -> tuple[str, str] | None:
    """What is wrong with the name of a loss, and a hint; None where torch has it."""
    if name in LOSSES or re.search(rf"(?m)^(def )?{re.escape(name)}( =|\(|:)", _text("torch", "nn/functional.py")):
        return None
    return f"names no loss of torch.nn.functional: {name}", _hint(name, LOSSES, "loss")


def unknown_metric(name: str) -> tuple[str, str] | None:
    """What is wrong with the name of a metric, and a hint; None where torchmetrics has it."""
    if name in METRICS or (name[0].isupper() and f'"{name}"' in _text("torchmetrics", "**/__init__.py")):
        return None
    return f"names no metric of torchmetrics: {name}", _hint(name, METRICS, "metric")


def _hint(name: str, known: tuple[str, ...], what: str) -> str:
    """The nearest names, however they are spelt: mse_loss for MSELoss."""
    plain = {each.lower().replace("_", ""): each for each in known}
    near = get_close_matches(name.lower().replace("_", ""), plain, n=2, cutoff=0.6)
    if not near:
        return f"write module:callable for a {what} of your own"
    return "did you mean " + " or ".join(plain[each] for each in near) + "?"


@cache
def _text(package: str, files: str) -> str:
    """The text of an installed package's files, without importing it."""
    found = find_spec(package)
    if found is None or found.origin is None:
        return ""
    paths = sorted(Path(found.origin).parent.glob(files))
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
