"""What explains a failure: rules on the simulator's state, and classifiers on features that learn from them."""

from failwise.diagnose.course import Course, replay
from failwise.diagnose.learned import Classifier, confusion, load_classifier
from failwise.diagnose.rules import MODES, Finding, diagnose

__all__ = ["MODES", "Classifier", "Course", "Finding", "confusion", "diagnose", "load_classifier", "replay"]
